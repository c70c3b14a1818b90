//! One session: a token log and the KV cache that follows it. Owns the rule that the cache never
//! runs ahead of the log, and the comparison of a delta with what the log holds. It must not know
//! of tenants, of time or of how tokens are made.

use std::ops::Range;

use relay::ids::{Attempt, PrefixHash};
use relay::prefix::prefix_hash;
use relay_model::KvCache;

/// What the cloud keeps of one conversation.
#[derive(Debug)]
pub struct Session {
    log: Vec<u32>,
    cache: KvCache,
    highest: Attempt,
}

/// An attempt that fits the log, found without changing anything: [`Session::admit`] takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Base plus delta, in tokens.
    pub length_tokens: usize,
    /// How many of them the log holds already, base included.
    pub equal_tokens: usize,
    /// How many of those have KV.
    pub cached_tokens: usize,
}

/// The base is not one of this log's prefixes; what the log holds instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseUnknown {
    /// Length of the log.
    pub have_tokens: usize,
    /// Hash of the whole log.
    pub have_hash: PrefixHash,
}

impl Session {
    /// An empty session with a cache of the model's shape.
    pub const fn new(cache: KvCache) -> Self {
        Self { log: Vec::new(), cache, highest: Attempt::new(0) }
    }

    /// The ids of the cloud view.
    pub fn log(&self) -> &[u32] {
        &self.log
    }

    /// Length of the cloud view.
    pub const fn log_tokens(&self) -> usize {
        self.log.len()
    }

    /// How much of the log has KV.
    pub fn kv_tokens(&self) -> usize {
        self.cache.len_tokens()
    }

    /// Bytes the cache holds.
    pub fn kv_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// The highest attempt number seen.
    pub const fn highest(&self) -> Attempt {
        self.highest
    }

    /// Counts an attempt from its number on, whatever becomes of it. False if it is stale.
    pub fn take_number(&mut self, attempt: Attempt) -> bool {
        let fresh = attempt > self.highest;
        self.highest = self.highest.max(attempt);
        fresh
    }

    /// Whether base and hash name a prefix of this log, and how much of the delta it holds.
    pub fn fit(&self, base: usize, hash: PrefixHash, delta: &[u32]) -> Result<Fit, BaseUnknown> {
        let Some(prefix) = self.log.get(..base).filter(|prefix| prefix_hash(prefix) == hash) else {
            return Err(self.unknown());
        };
        let kept = self.log.iter().skip(base);
        let equal_tokens = prefix.len() + kept.zip(delta).take_while(|(a, b)| a == b).count();
        Ok(Fit {
            length_tokens: base + delta.len(),
            equal_tokens,
            cached_tokens: self.kv_tokens().min(equal_tokens),
        })
    }

    fn unknown(&self) -> BaseUnknown {
        BaseUnknown { have_tokens: self.log.len(), have_hash: prefix_hash(&self.log) }
    }

    /// Makes the log base plus delta, in one step: the equal run stays, log and KV are cut where
    /// they part, the rest is appended. `delta` is the one the fit was made with.
    pub fn admit(&mut self, fit: Fit, delta: &[u32]) {
        debug_assert!(fit.equal_tokens <= fit.length_tokens && delta.len() <= fit.length_tokens);
        let base = fit.length_tokens - delta.len();
        self.log.truncate(fit.equal_tokens);
        self.cache.truncate(fit.equal_tokens);
        self.log.extend(delta.iter().skip(fit.equal_tokens - base));
        debug_assert_eq!(self.log.len(), fit.length_tokens);
        debug_assert_eq!(self.cache.len_tokens(), fit.cached_tokens);
    }

    /// One produced id joins the log.
    pub fn push(&mut self, id: u32) {
        self.log.push(id);
    }

    /// Cuts the cache, so that it never runs ahead of the log or keeps a rejected id.
    pub fn keep_kv(&mut self, tokens: usize) {
        self.cache.truncate(tokens.min(self.log.len()));
    }

    /// Gives the cache up for an empty one; the log stays, and the next step makes the KV up.
    pub fn replace_cache(&mut self, cache: KvCache) {
        debug_assert!(cache.is_empty());
        self.cache = cache;
    }

    /// The next `tokens` ids without KV, followed by `guess`: what one forward pass appends.
    pub fn pending(&self, tokens: usize, guess: &[u32]) -> Vec<u32> {
        let start = self.kv_tokens();
        let range: Range<usize> = start..(start + tokens).min(self.log.len());
        let mut ids = self.log.get(range).unwrap_or_default().to_vec();
        ids.extend_from_slice(guess);
        ids
    }

    /// The cache, for a forward pass.
    pub const fn cache_mut(&mut self) -> &mut KvCache {
        &mut self.cache
    }
}

#[cfg(test)]
mod tests {
    use relay_model::{KvPrecision, KvShape};

    use super::*;

    fn session(log: &[u32], kv_tokens: usize) -> Session {
        let mut session =
            Session::new(KvCache::new(KvShape { layers: 1, width: 1 }, KvPrecision::F16));
        let fit = session.fit(0, prefix_hash(&[]), log).unwrap();
        session.admit(fit, log);
        session.cache_mut().append(kv_tokens);
        session
    }

    #[test]
    fn a_delta_is_compared_with_the_log() {
        // Base, delta, KV before; log after, cached.
        type Case<'a> = (usize, &'a [u32], usize, &'a [u32], usize);
        let cases: [Case<'_>; 9] = [
            (0, &[], 3, &[], 0),
            (4, &[], 3, &[1, 2, 3, 4], 3),
            (4, &[5, 6], 4, &[1, 2, 3, 4, 5, 6], 4),
            (2, &[3, 4], 4, &[1, 2, 3, 4], 4),
            (2, &[3, 4, 5], 4, &[1, 2, 3, 4, 5], 4),
            (2, &[3, 9, 5], 4, &[1, 2, 3, 9, 5], 3),
            (1, &[9], 4, &[1, 9], 1),
            (0, &[1, 2], 4, &[1, 2], 2),
            (3, &[7], 1, &[1, 2, 3, 7], 1),
        ];
        for (base, delta, kv, log, cached) in cases {
            let mut session = session(&[1, 2, 3, 4], kv);
            let fit = session.fit(base, prefix_hash(&session.log()[..base]), delta).unwrap();
            session.admit(fit, delta);
            assert_eq!(session.log(), log, "base {base} delta {delta:?}");
            assert_eq!(fit.cached_tokens, cached, "base {base} delta {delta:?}");
            assert_eq!(session.kv_tokens(), cached);
        }
    }

    #[test]
    fn an_unknown_base_changes_nothing_and_says_what_is_here() {
        let session = session(&[1, 2, 3], 2);
        let have = BaseUnknown { have_tokens: 3, have_hash: prefix_hash(&[1, 2, 3]) };
        assert_eq!(session.fit(4, prefix_hash(&[1, 2, 3, 4]), &[]), Err(have));
        assert_eq!(session.fit(2, prefix_hash(&[1, 9]), &[3]), Err(have));
        assert_eq!((session.log(), session.kv_tokens()), (&[1, 2, 3][..], 2));
    }

    #[test]
    fn numbers_rise_strictly() {
        let mut session = session(&[1], 0);
        let fresh = [2, 2, 1, 3].map(|number| session.take_number(Attempt::new(number)));
        assert_eq!(fresh, [true, false, false, true]);
        assert_eq!(session.highest(), Attempt::new(3));
        assert!(!session.take_number(Attempt::new(0)), "zero means none yet");
    }

    #[test]
    fn pending_ids_follow_the_kv() {
        let session = session(&[1, 2, 3, 4], 1);
        assert_eq!(session.pending(2, &[]), [2, 3]);
        assert_eq!(session.pending(9, &[8]), [2, 3, 4, 8]);
    }
}
