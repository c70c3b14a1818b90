//! Who runs in the next step, and who gets the next free place. Pure: counts in, a plan out; no
//! tensors, no clock, no state. The engine acts on it.
//!
//! Every decoding call gets a token each step. What is left of the step goes to prefill and to
//! draft checks: to the tenant that was given the fewest tokens, within it to the call that waited
//! longest, the older first. The first of that order always fits, and newcomers start level with
//! whoever was served last, so they pass nobody by: no call starves.

use std::collections::HashMap;
use std::hash::Hash;

/// The bounds of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Most tokens in one forward pass.
    pub step_tokens_max: usize,
    /// Most prefill tokens of one call in one forward pass.
    pub prefill_chunk_tokens: usize,
}

/// What a running call needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// KV of this many ids, in as many pieces as is convenient.
    Prefill {
        /// At least 1.
        tokens: usize,
    },
    /// One token.
    Decode,
    /// The check of a draft: this many ids at once.
    Check {
        /// At most the step less one token for each other call.
        tokens: usize,
    },
}

/// One running call, as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work<'a> {
    /// The call's number; older calls have lower ones.
    pub call: u64,
    /// Whose it is.
    pub tenant: &'a str,
    /// What it needs.
    pub need: Need,
    /// The step that served it last, or in which it got its place.
    pub served_step: u64,
    /// Tokens of prefill and checks that its tenant was given, counted from the mark at which it
    /// came: see [`Turns`].
    pub tenant_tokens: u64,
}

/// A call's share of the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The call's number.
    pub call: u64,
    /// How many of the ids it needs are forwarded.
    pub tokens: usize,
}

/// The shares of the next step; the same work gives the same plan.
pub fn plan(work: &[Work<'_>], limits: StepLimits) -> Vec<Share> {
    let mut left = limits.step_tokens_max;
    let mut shares = decode_shares(work, &mut left);
    let mut rest: Vec<&Work<'_>> = work.iter().filter(|work| work.need != Need::Decode).collect();
    let mut given: HashMap<&str, u64> = HashMap::new();
    while let Some(index) = next_in_line(&rest, &given) {
        let work = rest.swap_remove(index);
        let tokens = fitting(work.need, left, limits);
        if tokens > 0 {
            left -= tokens;
            *given.entry(work.tenant).or_default() += tokens as u64;
            shares.push(Share { call: work.call, tokens });
        }
    }
    debug_assert!(shares.iter().map(|share| share.tokens).sum::<usize>() <= limits.step_tokens_max);
    shares
}

/// A token for everyone who decodes; if ever there were more of them than the step holds, those
/// served longest ago come first.
fn decode_shares(work: &[Work<'_>], left: &mut usize) -> Vec<Share> {
    let mut decoding: Vec<_> = work.iter().filter(|work| work.need == Need::Decode).collect();
    decoding.sort_by_key(|work| (work.served_step, work.call));
    decoding.truncate(*left);
    *left -= decoding.len();
    decoding.iter().map(|work| Share { call: work.call, tokens: 1 }).collect()
}

fn next_in_line(rest: &[&Work<'_>], given: &HashMap<&str, u64>) -> Option<usize> {
    let rank = |work: &Work<'_>| {
        let now = given.get(work.tenant).copied().unwrap_or_default();
        (work.tenant_tokens.saturating_add(now), work.served_step, work.call)
    };
    let ranked = rest.iter().enumerate().min_by_key(|(_, work)| rank(work));
    ranked.map(|(index, _)| index)
}

fn fitting(need: Need, left: usize, limits: StepLimits) -> usize {
    match need {
        Need::Prefill { tokens } => tokens.min(limits.prefill_chunk_tokens).min(left),
        Need::Check { tokens } if tokens > left => 0,
        Need::Check { tokens } => tokens,
        Need::Decode => 0,
    }
}

/// How many tokens of prefill and checks each tenant with calls was given. A tenant that comes is
/// put level with the one served last: neither ahead of those who wait, nor in debt.
#[derive(Clone, Debug, Default)]
pub struct Turns<T> {
    given: HashMap<T, u64>,
    mark: u64,
}

impl<T: Eq + Hash> Turns<T> {
    /// A tenant has a call; if it had none, it starts at the mark.
    pub fn come(&mut self, tenant: T) {
        self.given.entry(tenant).or_insert(self.mark);
    }

    /// A tenant has no call any more.
    pub fn leave(&mut self, tenant: &T) {
        self.given.remove(tenant);
    }

    /// A tenant was given tokens.
    pub fn give(&mut self, tenant: &T, tokens: usize) {
        if let Some(given) = self.given.get_mut(tenant) {
            *given = given.saturating_add(tokens as u64);
            self.mark = self.mark.max(*given);
        }
    }

    /// What [`Work::tenant_tokens`] is.
    pub fn given(&self, tenant: &T) -> u64 {
        self.given.get(tenant).copied().unwrap_or(self.mark)
    }
}

/// A call that waits for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting<'a> {
    /// The call's number.
    pub call: u64,
    /// Whose it is.
    pub tenant: &'a str,
}

/// How many calls may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// In all.
    pub calls_max: usize,
    /// Of one tenant.
    pub tenant_calls_max: usize,
}

/// Which waiting call runs next: of the tenants below their share the one with the fewest running
/// calls, of its calls the oldest. None while there is no place.
pub fn next_to_run(waiting: &[Waiting<'_>], running: &[&str], places: Places) -> Option<u64> {
    if running.len() >= places.calls_max {
        return None;
    }
    let has = |tenant: &str| running.iter().filter(|other| **other == tenant).count();
    let ranked = waiting.iter().map(|waiting| (has(waiting.tenant), waiting.call));
    let (_, call) = ranked.filter(|(running, _)| *running < places.tenant_calls_max).min()?;
    Some(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StepLimits = StepLimits { step_tokens_max: 16, prefill_chunk_tokens: 8 };

    fn work(call: u64, tenant: &str, need: Need, served_step: u64) -> Work<'_> {
        let tenant_tokens = if tenant == "a" { 5 } else { 0 };
        Work { call, tenant, need, served_step, tenant_tokens }
    }

    fn planned(work: &[Work<'_>]) -> Vec<(u64, usize)> {
        plan(work, LIMITS).into_iter().map(|share| (share.call, share.tokens)).collect()
    }

    #[test]
    fn decoding_calls_come_first_and_prefill_fills_the_rest_in_chunks() {
        type Case<'a> = (&'a [Work<'a>], &'a [(u64, usize)]);
        let prefill = |tokens| Need::Prefill { tokens };
        let cases: [Case<'_>; 6] = [
            (&[], &[]),
            (&[work(1, "a", Need::Decode, 0)], &[(1, 1)]),
            (&[work(1, "a", prefill(100), 0)], &[(1, 8)]),
            (&[work(1, "a", prefill(3), 0), work(2, "a", Need::Decode, 9)], &[(2, 1), (1, 3)]),
            (
                &[
                    work(1, "a", prefill(9), 5),
                    work(2, "a", prefill(9), 4),
                    work(3, "b", prefill(9), 0),
                ],
                &[(3, 8), (2, 8)],
            ),
            (
                &[
                    work(1, "a", Need::Check { tokens: 7 }, 1),
                    work(2, "a", Need::Check { tokens: 9 }, 0),
                    work(3, "a", Need::Check { tokens: 1 }, 2),
                ],
                &[(2, 9), (1, 7)],
            ),
        ];
        for (work, shares) in cases {
            assert_eq!(planned(work), shares, "{work:?}");
        }
    }

    #[test]
    fn a_place_goes_to_the_tenant_with_the_fewest_calls() {
        let places = Places { calls_max: 4, tenant_calls_max: 2 };
        let waiting = [(1, "a"), (2, "b"), (3, "c")].map(|(call, tenant)| Waiting { call, tenant });
        for (running, next) in [
            (&[][..], Some(1)),
            (&["a"], Some(2)),
            (&["a", "b"], Some(3)),
            (&["a", "b", "c"], Some(1)),
            (&["b", "b", "c"], Some(1)),
            (&["a", "a", "c"], Some(2)),
            (&["a", "a", "b", "c"], None),
        ] {
            assert_eq!(next_to_run(&waiting, running, places), next, "{running:?}");
        }
        let own = [Waiting { call: 1, tenant: "a" }];
        assert_eq!(next_to_run(&own, &["a", "a"], places), None, "a share is a share");
    }
}
