//! All sessions, by tenant and id. Owns how many there are, how many bytes their caches take, how
//! long they live and which goes first. It must not know what a session holds or how it is used.
//!
//! Bytes and sessions are kept as running sums, by tenant and in all, so that a turn costs the same
//! however many sessions there are. Whatever changes a session goes through a guard that books the
//! change; in debug builds the sums are held against a recount each turn. Only an eviction looks at
//! every session, which is what bounds `sessions_max`.

use std::collections::HashMap;
use std::ops::{AddAssign, Deref, DerefMut, SubAssign};
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
    /// Above this many bytes a tenant's sessions are the first to go, and while another tenant
    /// waits no call of it starts beside one that runs.
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

/// What sessions take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    sessions: usize,
    /// Bytes of KV that exist.
    kv_bytes: usize,
    /// These, or what a running call reserved if that is more.
    held_bytes: usize,
    /// The held bytes of sessions whose call runs.
    running_bytes: usize,
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.kv_bytes += other.kv_bytes;
        self.held_bytes += other.held_bytes;
        self.running_bytes += other.running_bytes;
    }
}

impl SubAssign for Sum {
    fn sub_assign(&mut self, other: Self) {
        self.sessions -= other.sessions;
        self.kv_bytes -= other.kv_bytes;
        self.held_bytes -= other.held_bytes;
        self.running_bytes -= other.running_bytes;
    }
}

#[derive(Debug)]
struct Entry {
    session: Session,
    doing: Use,
    last_used: Instant,
    /// What the sums hold of it.
    booked: Sum,
}

/// The sums of all sessions. A tenant without a session has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Books {
    tenants: HashMap<Tenant, Sum>,
    all: Sum,
}

/// The sessions of all tenants.
#[derive(Debug)]
pub struct SessionStore {
    entries: HashMap<SessionKey, Entry>,
    books: Books,
    limits: StoreLimits,
    /// No idle session was used before this.
    oldest_use: Option<Instant>,
    evicted: u64,
}

/// A tenant has as many sessions as it may have, each with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionsFull;

/// A session that may be changed; when it is let go, the sums follow.
#[derive(Debug)]
pub struct SessionGuard<'a> {
    entry: &'a mut Entry,
    tenant: &'a Tenant,
    books: &'a mut Books,
}

impl Entry {
    const fn new(session: Session, now: Instant) -> Self {
        let booked = Sum { sessions: 0, kv_bytes: 0, held_bytes: 0, running_bytes: 0 };
        Self { session, doing: Use::Idle, last_used: now, booked }
    }

    fn sum(&self) -> Sum {
        let kv_bytes = self.session.kv_bytes();
        let (held_bytes, running_bytes) = match self.doing {
            Use::Running { reserved_bytes } => {
                (reserved_bytes.max(kv_bytes), reserved_bytes.max(kv_bytes))
            }
            Use::Idle | Use::Waiting => (kv_bytes, 0),
        };
        Sum { sessions: 1, kv_bytes, held_bytes, running_bytes }
    }
}

impl Books {
    /// Puts what an entry takes now in the place of what was booked of it.
    fn book(&mut self, tenant: &Tenant, entry: &mut Entry) {
        let sum = entry.sum();
        if sum != entry.booked {
            let of_tenant = self.tenants.entry(Arc::clone(tenant)).or_default();
            for total in [of_tenant, &mut self.all] {
                *total += sum;
                *total -= entry.booked;
            }
            entry.booked = sum;
        }
    }

    /// An entry is gone.
    fn strike(&mut self, tenant: &Tenant, entry: &Entry) {
        self.all -= entry.booked;
        if let Some(of_tenant) = self.tenants.get_mut(tenant) {
            *of_tenant -= entry.booked;
            if of_tenant.sessions == 0 {
                self.tenants.remove(tenant);
            }
        }
    }

    fn of(&self, tenant: &Tenant) -> Sum {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    fn most(&self, what: impl Fn(&Sum) -> usize) -> usize {
        self.tenants.values().map(what).max().unwrap_or_default()
    }
}

impl Deref for SessionGuard<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.entry.session
    }
}

impl DerefMut for SessionGuard<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.entry.session
    }
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        self.books.book(self.tenant, self.entry);
    }
}

impl SessionStore {
    /// An empty store.
    pub fn new(limits: StoreLimits) -> Self {
        let (entries, books) = (HashMap::new(), Books::default());
        Self { entries, books, limits, oldest_use: None, evicted: 0 }
    }

    /// The session, if it is here.
    pub fn get(&self, key: &SessionKey) -> Option<&Session> {
        self.entries.get(key).map(|entry| &entry.session)
    }

    /// The session, if it is here.
    pub fn get_mut<'a>(&'a mut self, key: &'a SessionKey) -> Option<SessionGuard<'a>> {
        let entry = self.entries.get_mut(key)?;
        Some(SessionGuard { entry, tenant: &key.tenant, books: &mut self.books })
    }

    /// Lets `work` use the caches of several sessions at once, in the order of the keys; of a key
    /// without a session there is none. `work` must not panic.
    pub fn with_caches<T>(
        &mut self,
        keys: &[&SessionKey],
        work: impl FnOnce(&mut [&mut KvCache]) -> T,
    ) -> T {
        let mut taken: Vec<(SessionKey, Entry)> =
            keys.iter().filter_map(|key| self.entries.remove_entry(key)).collect();
        let mut caches: Vec<&mut KvCache> =
            taken.iter_mut().map(|(_, entry)| entry.session.cache_mut()).collect();
        let outcome = work(&mut caches);
        for (key, mut entry) in taken {
            self.books.book(&key.tenant, &mut entry);
            self.entries.insert(key, entry);
        }
        outcome
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of KV that exist now.
    pub const fn kv_bytes(&self) -> usize {
        self.books.all.kv_bytes
    }

    /// Bytes that this tenant's running calls hold or have reserved.
    pub fn running_bytes(&self, tenant: &Tenant) -> usize {
        self.books.of(tenant).running_bytes
    }

    /// Most sessions and most running bytes that one tenant has.
    pub fn most_of_a_tenant(&self) -> (usize, usize) {
        (self.books.most(|sum| sum.sessions), self.books.most(|sum| sum.running_bytes))
    }

    /// Whether the sums are what a recount gives: a check for debug builds.
    pub fn adds_up(&self) -> bool {
        let mut recount = Books::default();
        for (key, entry) in &self.entries {
            *recount.tenants.entry(Arc::clone(&key.tenant)).or_default() += entry.sum();
            recount.all += entry.sum();
        }
        recount == self.books
    }

    /// How many sessions were evicted or expired since the store was made.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Opens a session that is not here, in the place of the longest unused one if need be.
    pub fn open<'a>(
        &'a mut self,
        key: &'a SessionKey,
        cache: KvCache,
        now: Instant,
    ) -> Result<SessionGuard<'a>, SessionsFull> {
        debug_assert!(!self.entries.contains_key(key));
        self.make_place(&key.tenant)?;
        let entry = self.entries.entry(key.clone()).or_insert(Entry::new(Session::new(cache), now));
        self.books.book(&key.tenant, entry);
        Ok(SessionGuard { entry, tenant: &key.tenant, books: &mut self.books })
    }

    fn make_place(&mut self, tenant: &Tenant) -> Result<(), SessionsFull> {
        if self.books.of(tenant).sessions >= self.limits.tenant_sessions_max {
            return self.evict(|key, _| key.tenant == *tenant).ok_or(SessionsFull);
        }
        if self.entries.len() >= self.limits.sessions_max {
            return self.evict(|_, _| true).ok_or(SessionsFull);
        }
        Ok(())
    }

    /// Drops a session, whatever it is doing.
    pub fn remove(&mut self, key: &SessionKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.books.strike(&key.tenant, &entry);
        }
    }

    /// Drops what nobody used for longer than the time to live. Looks at the sessions only when
    /// the longest unused one may be among them.
    pub fn expire(&mut self, now: Instant) {
        let ttl = self.limits.ttl;
        let is_old = |used: Instant| now.saturating_duration_since(used) > ttl;
        if self.oldest_use.is_some_and(|used| !is_old(used)) {
            return;
        }
        let idle = |entry: &Entry| entry.doing == Use::Idle;
        let (books, before) = (&mut self.books, self.entries.len());
        self.entries.retain(|key, entry| {
            let stays = !idle(entry) || !is_old(entry.last_used);
            if !stays {
                books.strike(&key.tenant, entry);
            }
            stays
        });
        self.evicted += (before - self.entries.len()) as u64;
        // Whatever becomes idle later was used later than now.
        let used = self.entries.values().filter(|entry| idle(entry)).map(|entry| entry.last_used);
        self.oldest_use = Some(used.min().map_or(now, |used| used.min(now)));
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
            self.books.book(&key.tenant, entry);
        }
    }

    /// Reserves the bytes that a call will have taken by its end and lets it run. Idle sessions
    /// make room, then the caches of waiting ones. False, and nothing changed, if what runs holds
    /// too much; it will end.
    pub fn reserve(&mut self, key: &SessionKey, bytes: usize) -> bool {
        let max = self.limits.kv_bytes_max;
        let own = self.entries.get(key).map_or_else(Sum::default, |entry| entry.booked);
        let others_run = self.books.all.running_bytes - own.running_bytes;
        if others_run.saturating_add(bytes) > max {
            return false;
        }
        while (self.books.all.held_bytes - own.held_bytes).saturating_add(bytes) > max {
            let evicted = self.evict(|other, entry| other != key && entry.booked.held_bytes > 0);
            if evicted.is_none() && !self.shed_waiting(key) {
                return false;
            }
        }
        self.set_use(key, Use::Running { reserved_bytes: bytes });
        true
    }

    /// Evicts one idle session: of tenants over their share first, then the longest unused.
    fn evict(&mut self, may: impl Fn(&SessionKey, &Entry) -> bool) -> Option<()> {
        let over = |tenant: &Tenant| self.books.of(tenant).held_bytes > self.limits.tenant_kv_bytes;
        let idle = self.entries.iter().filter(|(_, entry)| entry.doing == Use::Idle);
        let (key, _) = idle
            .filter(|(key, entry)| may(key, entry))
            .min_by_key(|(key, entry)| (!over(&key.tenant), entry.last_used, key.id))?;
        let key = key.clone();
        self.remove(&key);
        self.evicted += 1;
        Some(())
    }

    /// Takes the KV, not the log, of the waiting session used last. False if none holds any.
    fn shed_waiting(&mut self, but: &SessionKey) -> bool {
        let waiting = self.entries.iter_mut().filter(|(key, entry)| {
            *key != but && entry.doing == Use::Waiting && entry.session.kv_bytes() > 0
        });
        let Some((key, entry)) = waiting.max_by_key(|(_, entry)| entry.last_used) else {
            return false;
        };
        entry.session.keep_kv(0);
        self.books.book(&key.tenant, entry);
        true
    }
}

#[cfg(test)]
mod tests {
    use relay::prefix::prefix_hash;
    use relay_model::{KvPrecision, KvShape, PAGE_TOKENS};

    use super::*;

    const SHAPE: KvShape = KvShape { layers: 1, width: 2 };
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
            let mut session =
                self.store.open(key, KvCache::new(SHAPE, KvPrecision::F16), now).unwrap();
            let delta = vec![7; pages * PAGE_TOKENS];
            let fit = session.fit(0, prefix_hash(&[]), &delta).unwrap();
            session.admit(fit, &delta);
            session.cache_mut().append(delta.len());
        }

        fn here(&self, keys: &[&SessionKey]) -> Vec<bool> {
            assert!(self.store.adds_up(), "{:?}", self.store.books);
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
        assert!(bench.store.open(&b1, KvCache::new(SHAPE, KvPrecision::F16), now).is_err());
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

    #[test]
    fn sums_follow_every_change() {
        let mut bench = Bench::new(9, 8);
        let [a, b] = [key("a", 1), key("b", 1)];
        bench.open(&a, 0, 2);
        bench.open(&b, 0, 1);
        assert_eq!(bench.store.kv_bytes(), 3 * PAGE_BYTES);
        bench.store.with_caches(&[&b, &a], |caches| caches[0].append(PAGE_TOKENS));
        assert_eq!(bench.store.kv_bytes(), 4 * PAGE_BYTES);
        assert!(bench.store.reserve(&a, 5 * PAGE_BYTES));
        assert_eq!(bench.store.running_bytes(&a.tenant), 5 * PAGE_BYTES);
        assert_eq!(bench.store.most_of_a_tenant(), (1, 5 * PAGE_BYTES));
        bench.store.get_mut(&a).unwrap().keep_kv(0);
        assert!(bench.store.kv_bytes() < 4 * PAGE_BYTES && bench.store.adds_up());
        bench.store.set_idle(&a, bench.at(1));
        assert_eq!(bench.store.running_bytes(&a.tenant), 0);
        bench.store.remove(&a);
        bench.store.expire(bench.at(100));
        assert_eq!((bench.store.kv_bytes(), bench.store.sessions()), (0, 0));
        assert!(bench.store.adds_up() && bench.store.books.tenants.is_empty());
    }
}
