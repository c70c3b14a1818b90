//! How many of something each tenant has at once, and that it is at most its share. It must not
//! know what the places are for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::Tenant;

/// Places of all tenants; clones share them.
#[derive(Clone, Debug)]
pub struct TenantPlaces {
    max: usize,
    taken: Arc<Mutex<HashMap<Tenant, usize>>>,
}

/// One place; free when it is dropped.
#[derive(Debug)]
pub struct TenantPlace {
    tenant: Tenant,
    places: TenantPlaces,
}

impl TenantPlaces {
    /// At most so many places for each tenant.
    pub fn new(max: usize) -> Self {
        Self { max, taken: Arc::default() }
    }

    /// A place, if the tenant has fewer than it may have.
    pub fn take(&self, tenant: &Tenant) -> Option<TenantPlace> {
        let mut all = self.lock();
        let taken = all.entry(Arc::clone(tenant)).or_default();
        // Whoever has none is entered only to take one: a share is at least 1.
        if *taken >= self.max {
            return None;
        }
        *taken += 1;
        Some(TenantPlace { tenant: Arc::clone(tenant), places: self.clone() })
    }

    /// Most places that one tenant has.
    pub fn most(&self) -> usize {
        self.lock().values().copied().max().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, usize>> {
        // Counts are whole at any moment: a panic elsewhere does not make them wrong.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TenantPlace {
    fn drop(&mut self) {
        let mut all = self.places.lock();
        if let Some(taken) = all.get_mut(&self.tenant) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_places_and_no_more() {
        let places = TenantPlaces::new(2);
        let (a, b): (Tenant, Tenant) = ("a".into(), "b".into());
        let held = [places.take(&a), places.take(&a)];
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(&a).is_none() && places.take(&b).is_some());
        assert_eq!(places.most(), 2);
        drop(held);
        assert!(places.take(&a).is_some());
        assert!(places.lock().is_empty(), "a tenant that is gone leaves nothing");
    }
}
