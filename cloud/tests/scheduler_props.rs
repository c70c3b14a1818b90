//! Properties of every plan: never over the step, nothing that was not asked for, the same work
//! gives the same plan, tenants get equal parts, nobody starves.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use relay_cloud::scheduler::{Need, Places, StepLimits, Turns, Waiting, Work, next_to_run, plan};

const TENANTS: [&str; 4] = ["a", "b", "c", "d"];
const CALLS_MAX: usize = 12;
const LIMITS: StepLimits = StepLimits { step_tokens_max: 44, prefill_chunk_tokens: 32 };
/// The largest check that fits beside one token of every call.
const CHECK_MAX: usize = LIMITS.step_tokens_max - CALLS_MAX;

fn need() -> impl Strategy<Value = Need> {
    prop_oneof![
        Just(Need::Decode),
        (1..200_usize).prop_map(|tokens| Need::Prefill { tokens }),
        (2..=CHECK_MAX).prop_map(|tokens| Need::Check { tokens }),
    ]
}

type Raw = (usize, Need, u64, u64);

fn raw_work() -> impl Strategy<Value = Vec<Raw>> {
    prop::collection::vec((0..TENANTS.len(), need(), 0..50_u64, 0..50_u64), 0..=CALLS_MAX)
}

fn work_of(raw: &[Raw]) -> Vec<Work<'static>> {
    (0_u64..)
        .zip(raw)
        .map(|(call, (tenant, need, served_step, tenant_tokens))| Work {
            call,
            tenant: TENANTS[*tenant],
            need: *need,
            served_step: *served_step,
            tenant_tokens: *tenant_tokens,
        })
        .collect()
}

/// A call of the starvation test: what it still needs, and its bookkeeping as the engine keeps it.
#[derive(Clone, Copy, Debug)]
struct Live {
    call: u64,
    tenant: &'static str,
    need: Need,
    served_step: u64,
    unserved_steps: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_keeps_its_bounds(raw in raw_work()) {
        let work = work_of(&raw);
        let shares = plan(&work, LIMITS);
        let total: usize = shares.iter().map(|share| share.tokens).sum();
        prop_assert!(total <= LIMITS.step_tokens_max);
        prop_assert_eq!(&shares, &plan(&work, LIMITS), "same input, same plan");
        let mut seen = HashSet::new();
        for share in &shares {
            prop_assert!(seen.insert(share.call), "a call has one share");
            let asked = work[usize::try_from(share.call).unwrap()];
            match asked.need {
                Need::Decode => prop_assert_eq!(share.tokens, 1),
                Need::Check { tokens } => prop_assert_eq!(share.tokens, tokens),
                Need::Prefill { tokens } => {
                    prop_assert!(share.tokens >= 1 && share.tokens <= tokens);
                    prop_assert!(share.tokens <= LIMITS.prefill_chunk_tokens);
                }
            }
        }
        for decoding in work.iter().filter(|work| work.need == Need::Decode) {
            prop_assert!(seen.contains(&decoding.call), "whoever decodes is never left out");
        }
    }

    #[test]
    fn a_step_is_not_left_empty_while_prefill_waits(raw in raw_work()) {
        let work = work_of(&raw);
        let shares = plan(&work, LIMITS);
        let total: usize = shares.iter().map(|share| share.tokens).sum();
        let cut = work.iter().any(|work| {
            let got = shares.iter().find(|share| share.call == work.call);
            let got = got.map_or(0, |share| share.tokens);
            let most = |tokens: usize| tokens.min(LIMITS.prefill_chunk_tokens);
            matches!(work.need, Need::Prefill { tokens } if got < most(tokens))
        });
        prop_assert!(!cut || total == LIMITS.step_tokens_max);
    }

    #[test]
    fn tenants_that_prefill_take_turns(counts in prop::collection::vec(1..4_usize, 2..=4)) {
        let raw: Vec<Raw> = counts
            .iter()
            .enumerate()
            .flat_map(|(tenant, count)| (0..*count).map(move |_| tenant))
            .map(|tenant| (tenant, Need::Prefill { tokens: usize::MAX / 64 }, 0, 0))
            .collect();
        let mut work = work_of(&raw);
        let mut turns = Turns::default();
        let mut given: HashMap<&str, usize> = HashMap::new();
        for work in &work {
            turns.come(work.tenant);
        }
        let steps = 120;
        for step in 1..=steps {
            for share in plan(&work, LIMITS) {
                let served = &mut work[usize::try_from(share.call).unwrap()];
                served.served_step = step;
                turns.give(&served.tenant, share.tokens);
                *given.entry(served.tenant).or_default() += share.tokens;
            }
            for work in &mut work {
                work.tenant_tokens = turns.given(&work.tenant);
            }
        }
        let fair = usize::try_from(steps).unwrap() * LIMITS.step_tokens_max / counts.len();
        for (tenant, tokens) in given {
            prop_assert!(tokens * 10 >= fair * 9, "{} got {} of {}", tenant, tokens, fair);
        }
    }

    #[test]
    fn nobody_starves_however_many_newcomers_there_are(
        first in prop::collection::vec((0..TENANTS.len(), need()), CALLS_MAX),
        newcomers in prop::collection::vec((0..TENANTS.len(), need()), 400),
    ) {
        let live = |call, (tenant, need): (usize, Need), step| Live {
            call,
            tenant: TENANTS[tenant],
            need,
            served_step: step,
            unserved_steps: 0,
        };
        let mut newcomers = newcomers.into_iter();
        let mut made = CALLS_MAX as u64;
        let mut calls: Vec<Live> =
            (0..).zip(first).map(|(call, kind)| live(call, kind, 0)).collect();
        let mut turns = Turns::default();
        for step in 1..=200 {
            for tenant in TENANTS {
                if calls.iter().any(|call| call.tenant == tenant) {
                    turns.come(tenant);
                } else {
                    turns.leave(&tenant);
                }
            }
            let work: Vec<Work<'_>> = calls
                .iter()
                .map(|call| Work {
                    call: call.call,
                    tenant: call.tenant,
                    need: call.need,
                    served_step: call.served_step,
                    tenant_tokens: turns.given(&call.tenant),
                })
                .collect();
            let shares = plan(&work, LIMITS);
            for call in &mut calls {
                let share = shares.iter().find(|share| share.call == call.call);
                call.unserved_steps = if share.is_some() { 0 } else { call.unserved_steps + 1 };
                let Some(share) = share else { continue };
                call.served_step = step;
                if call.need != Need::Decode {
                    turns.give(&call.tenant, share.tokens);
                }
                call.need = match call.need {
                    Need::Prefill { tokens } => Need::Prefill { tokens: tokens - share.tokens },
                    Need::Check { .. } | Need::Decode => Need::Prefill { tokens: 0 },
                };
            }
            let most = calls.iter().map(|call| call.unserved_steps).max();
            let bound = (TENANTS.len() * CALLS_MAX) as u64;
            prop_assert!(most <= Some(bound), "unserved for {:?} steps", most);
            for call in &mut calls {
                if call.need == (Need::Prefill { tokens: 0 }) {
                    let Some(kind) = newcomers.next() else { continue };
                    *call = live(made, kind, step);
                    made += 1;
                }
            }
            calls.retain(|call| call.need != Need::Prefill { tokens: 0 });
        }
    }

    #[test]
    fn a_place_is_never_given_beyond_its_bounds(
        waiting in prop::collection::vec(0..TENANTS.len(), 0..10),
        running in prop::collection::vec(0..TENANTS.len(), 0..10),
        calls_max in 1..8_usize,
        tenant_calls_max in 1..5_usize,
    ) {
        let waiting: Vec<Waiting<'_>> = (0..)
            .zip(&waiting)
            .map(|(call, tenant)| Waiting { call, tenant: TENANTS[*tenant] })
            .collect();
        let running: Vec<&str> = running.iter().map(|tenant| TENANTS[*tenant]).collect();
        let has = |tenant: &str| running.iter().filter(|other| **other == tenant).count();
        let places = Places { calls_max, tenant_calls_max };
        let may = |waiting: &Waiting<'_>| {
            running.len() < calls_max && has(waiting.tenant) < tenant_calls_max
        };
        match next_to_run(&waiting, &running, places) {
            None => prop_assert!(!waiting.iter().any(may), "a place stays empty"),
            Some(call) => {
                let chosen = waiting.iter().find(|waiting| waiting.call == call).unwrap();
                prop_assert!(may(chosen));
                let older = waiting.iter().filter(|other| other.call < call && may(other));
                for older in older {
                    prop_assert!(has(older.tenant) > has(chosen.tenant), "the older waits");
                }
            }
        }
    }
}
