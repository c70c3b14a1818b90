//! All sessions, by tenant and id. Owns how many there are, how many bytes their caches take, how
//! long they live and which goes first. It must not know what a session holds or how it is used.
//!
//! Nothing is counted twice: bytes are summed over the sessions when they are asked for, so no
//! account can drift from what is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::ids::SessionId;
use relay_model::KvCache;

use crate::session::Session;

/// Who a session belongs to: the name in the peer's certificate.
pub type Tenant = Arc<str>;

/// Where a session is found: nobody can name another tenant's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Its owner.
    pub tenant: Tenant,
    /// Its name, unique to the owner only.
    pub id: SessionId,
}

/// The bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Most sessions.
    pub sessions_max: usize,
    /// Most sessions of one tenant.
    pub tenant_sessions_max: usize,
    /// Most bytes of KV, reservations of running calls included.
    pub kv_bytes_max: usize,
    /// Above this many bytes a tenant's sessions are the first to go.
    pub tenant_kv_bytes: usize,
    /// How long an unused session stays.
    pub ttl: Duration,
}

/// What a session is doing; only an idle one is ever evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Idle,
    Waiting,
    Running { reserved_bytes: usize },
}

#[derive(Debug)]
struct Entry {
    session: Session,
    doing: Use,
    last_used: Instant,
}

/// The sessions of all tenants.
#[derive(Debug)]
pub struct SessionStore {
    entries: HashMap<SessionKey, Entry>,
    limits: StoreLimits,
    evicted: u64,
}

/// A tenant has as many sessions as it may have, each with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionsFull;

impl Entry {
    fn held_bytes(&self) -> usize {
        match self.doing {
            Use::Running { reserved_bytes } => reserved_bytes.max(self.session.kv_bytes()),
            Use::Idle | Use::Waiting => self.session.kv_bytes(),
        }
    }
}

impl SessionStore {
    /// An empty store.
    pub fn new(limits: StoreLimits) -> Self {
        Self { entries: HashMap::new(), limits, evicted: 0 }
    }

    /// The session, if it is here.
    pub fn get(&self, key: &SessionKey) -> Option<&Session> {
        self.entries.get(key).map(|entry| &entry.session)
    }

    /// The session, if it is here.
    pub fn get_mut(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.entries.get_mut(key).map(|entry| &mut entry.session)
    }

    /// All sessions with their keys, in no order: for building a batch of several.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&SessionKey, &mut Session)> {
        self.entries.iter_mut().map(|(key, entry)| (key, &mut entry.session))
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of KV that exist now.
    pub fn kv_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.session.kv_bytes()).sum()
    }

    /// How many sessions were evicted or expired since the store was made.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Opens a session that is not here, in the place of the longest unused one if need be.
    pub fn open(
        &mut self,
        key: &SessionKey,
        cache: KvCache,
        now: Instant,
    ) -> Result<&mut Session, SessionsFull> {
        debug_assert!(!self.entries.contains_key(key));
        self.make_place(&key.tenant)?;
        let entry = Entry { session: Session::new(cache), doing: Use::Idle, last_used: now };
        Ok(&mut self.entries.entry(key.clone()).or_insert(entry).session)
    }

    fn make_place(&mut self, tenant: &Tenant) -> Result<(), SessionsFull> {
        let own = self.entries.keys().filter(|key| key.tenant == *tenant).count();
        if own >= self.limits.tenant_sessions_max {
            return self.evict(|key, _| key.tenant == *tenant).ok_or(SessionsFull);
        }
        if self.entries.len() >= self.limits.sessions_max {
            return self.evict(|_, _| true).ok_or(SessionsFull);
        }
        Ok(())
    }

    /// Drops a session, whatever it is doing.
    pub fn remove(&mut self, key: &SessionKey) {
        self.entries.remove(key);
    }

    /// Drops what nobody used for longer than the time to live.
    pub fn expire(&mut self, now: Instant) {
        let (before, ttl) = (self.entries.len(), self.limits.ttl);
        self.entries.retain(|_, entry| {
            entry.doing != Use::Idle || now.saturating_duration_since(entry.last_used) <= ttl
        });
        self.evicted += (before - self.entries.len()) as u64;
    }

    /// A call of this session waits for a place.
    pub fn set_waiting(&mut self, key: &SessionKey) {
        self.set_use(key, Use::Waiting);
    }

    /// The session's call is over; it counts as used now.
    pub fn set_idle(&mut self, key: &SessionKey, now: Instant) {
        self.set_use(key, Use::Idle);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.last_used = now;
        }
    }

    fn set_use(&mut self, key: &SessionKey, doing: Use) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.doing = doing;
        }
    }

    /// Reserves the bytes that a call will have taken by its end and lets it run. Idle sessions
    /// make room, then the caches of waiting ones. False, and nothing changed, if what runs holds
    /// too much; it will end.
    pub fn reserve(&mut self, key: &SessionKey, bytes: usize) -> bool {
        let max = self.limits.kv_bytes_max;
        let runs = |entry: &Entry| matches!(entry.doing, Use::Running { .. });
        if self.held_by_others(key, runs).saturating_add(bytes) > max {
            return false;
        }
        while self.held_by_others(key, |_| true).saturating_add(bytes) > max {
            if self.evict(|_, entry| entry.held_bytes() > 0).is_none() && !self.shed_waiting(key) {
                return false;
            }
        }
        self.set_use(key, Use::Running { reserved_bytes: bytes });
        true
    }

    fn held_by_others(&self, key: &SessionKey, which: impl Fn(&Entry) -> bool) -> usize {
        let others = self.entries.iter().filter(|(other, entry)| *other != key && which(entry));
        others.map(|(_, entry)| entry.held_bytes()).sum()
    }

    /// Evicts one idle session: of tenants over their share first, then the longest unused.
    fn evict(&mut self, may: impl Fn(&SessionKey, &Entry) -> bool) -> Option<()> {
        let over = self.tenants_over_share();
        let idle = self.entries.iter().filter(|(_, entry)| entry.doing == Use::Idle);
        let (key, _) = idle
            .filter(|(key, entry)| may(key, entry))
            .min_by_key(|(key, entry)| (!over.contains(&key.tenant), entry.last_used, key.id))?;
        let key = key.clone();
        self.entries.remove(&key);
        self.evicted += 1;
        Some(())
    }

    fn tenants_over_share(&self) -> Vec<Tenant> {
        let mut bytes: HashMap<&Tenant, usize> = HashMap::new();
        for (key, entry) in &self.entries {
            *bytes.entry(&key.tenant).or_default() += entry.held_bytes();
        }
        bytes.retain(|_, held| *held > self.limits.tenant_kv_bytes);
        bytes.into_keys().cloned().collect()
    }

    /// Takes the KV, not the log, of the waiting session used last. False if none holds any.
    fn shed_waiting(&mut self, but: &SessionKey) -> bool {
        let waiting = self.entries.iter_mut().filter(|(key, entry)| {
            *key != but && entry.doing == Use::Waiting && entry.session.kv_bytes() > 0
        });
        let Some((_, entry)) = waiting.max_by_key(|(_, entry)| entry.last_used) else {
            return false;
        };
        entry.session.keep_kv(0);
        true
    }
}

#[cfg(test)]
mod tests {
    use relay::prefix::prefix_hash;
    use relay_model::{KvShape, PAGE_TOKENS};

    use super::*;

    const SHAPE: KvShape = KvShape { layers: 1, width: 1 };
    const PAGE_BYTES: usize = PAGE_TOKENS * 8;

    struct Bench {
        store: SessionStore,
        start: Instant,
    }

    fn key(tenant: &str, id: u8) -> SessionKey {
        SessionKey { tenant: tenant.into(), id: SessionId::new([id; 16]) }
    }

    impl Bench {
        fn new(sessions_max: usize, pages_max: usize) -> Self {
            let limits = StoreLimits {
                sessions_max,
                tenant_sessions_max: sessions_max.saturating_sub(1),
                kv_bytes_max: pages_max * PAGE_BYTES,
                tenant_kv_bytes: pages_max * PAGE_BYTES / 2,
                ttl: Duration::from_mins(1),
            };
            Self { store: SessionStore::new(limits), start: Instant::now() }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// Opens a session at a time, with a log and KV of so many pages.
        fn open(&mut self, key: &SessionKey, seconds: u64, pages: usize) {
            let now = self.at(seconds);
            let session = self.store.open(key, KvCache::new(SHAPE), now).unwrap();
            let delta = vec![7; pages * PAGE_TOKENS];
            let fit = session.fit(0, prefix_hash(&[]), &delta).unwrap();
            session.admit(fit, &delta);
            session.cache_mut().append(delta.len());
        }

        fn here(&self, keys: &[&SessionKey]) -> Vec<bool> {
            keys.iter().map(|key| self.store.get(key).is_some()).collect()
        }
    }

    #[test]
    fn one_id_of_two_tenants_is_two_sessions() {
        let mut bench = Bench::new(4, 8);
        let (a, b) = (key("a", 1), key("b", 1));
        bench.open(&a, 0, 1);
        assert_eq!(bench.here(&[&a, &b]), [true, false]);
        bench.open(&b, 0, 2);
        bench.store.remove(&b);
        assert_eq!(bench.here(&[&a, &b]), [true, false]);
    }

    #[test]
    fn the_longest_unused_session_goes_first_and_a_used_one_never() {
        let mut bench = Bench::new(3, 100);
        let [a1, b1, b2, c1] = [key("a", 1), key("b", 1), key("b", 2), key("c", 1)];
        bench.open(&a1, 0, 1);
        bench.open(&b1, 1, 1);
        bench.open(&b2, 2, 1);
        bench.store.set_waiting(&a1);
        bench.open(&c1, 3, 1);
        assert_eq!(bench.here(&[&a1, &b1, &b2, &c1]), [true, false, true, true]);
        assert_eq!(bench.store.evicted(), 1);
    }

    #[test]
    fn a_tenant_at_its_share_loses_its_own_sessions_only() {
        let mut bench = Bench::new(3, 100);
        let [a, b1, b2, b3] = [key("a", 1), key("b", 1), key("b", 2), key("b", 3)];
        bench.open(&a, 0, 1);
        bench.open(&b1, 1, 1);
        bench.open(&b2, 2, 1);
        bench.open(&b3, 3, 1);
        assert_eq!(bench.here(&[&a, &b1, &b2, &b3]), [true, false, true, true]);
        bench.store.set_waiting(&b2);
        bench.store.set_waiting(&b3);
        let now = bench.at(4);
        assert!(bench.store.open(&b1, KvCache::new(SHAPE), now).is_err());
    }

    #[test]
    fn unused_sessions_expire_and_waiting_ones_do_not() {
        let mut bench = Bench::new(4, 100);
        let [a, b, c] = [key("a", 1), key("b", 1), key("c", 1)];
        bench.open(&a, 0, 1);
        bench.open(&b, 0, 1);
        bench.open(&c, 30, 1);
        bench.store.set_waiting(&b);
        let now = bench.at(61);
        bench.store.expire(now);
        assert_eq!(bench.here(&[&a, &b, &c]), [false, true, true]);
        bench.store.set_idle(&b, now);
        bench.store.expire(bench.at(121));
        assert_eq!(bench.here(&[&b]), [true]);
        bench.store.expire(bench.at(122));
        assert_eq!(bench.here(&[&b]), [false]);
    }

    #[test]
    fn a_reservation_evicts_a_tenant_over_its_share_before_an_older_session() {
        let mut bench = Bench::new(9, 8);
        let [a, b1, b2, c] = [key("a", 1), key("b", 1), key("b", 2), key("c", 1)];
        bench.open(&a, 0, 1);
        bench.open(&b1, 1, 2);
        bench.open(&b2, 2, 3);
        bench.open(&c, 3, 0);
        assert!(bench.store.reserve(&c, 3 * PAGE_BYTES));
        assert_eq!(bench.here(&[&a, &b1, &b2]), [true, false, true]);
        assert!(bench.store.reserve(&c, 5 * PAGE_BYTES), "a reservation may be renewed");
        assert_eq!(bench.here(&[&a, &b2]), [false, true]);
    }

    #[test]
    fn a_reservation_waits_for_what_runs_and_sheds_what_waits() {
        let mut bench = Bench::new(9, 8);
        let [a, b, c, d] = [key("a", 1), key("b", 1), key("c", 1), key("d", 1)];
        bench.open(&a, 0, 1);
        bench.open(&b, 1, 2);
        bench.open(&c, 2, 1);
        bench.open(&d, 3, 1);
        assert!(bench.store.reserve(&a, 4 * PAGE_BYTES));
        bench.store.set_waiting(&b);
        bench.store.set_waiting(&c);
        assert!(!bench.store.reserve(&b, 5 * PAGE_BYTES));
        assert_eq!(bench.here(&[&a, &b, &c, &d]), [true; 4], "a no changes nothing");
        assert!(bench.store.reserve(&b, 4 * PAGE_BYTES));
        assert_eq!(bench.here(&[&a, &b, &c, &d]), [true, true, true, false]);
        let kv = |key| bench.store.get(key).unwrap().kv_tokens() / PAGE_TOKENS;
        assert_eq!([kv(&a), kv(&b), kv(&c)], [1, 2, 0], "the log stays");
        assert_eq!(bench.store.get(&c).unwrap().log_tokens(), PAGE_TOKENS);
    }
}
