//! A step that fails ends the calls of its batch and nothing else.

use std::sync::atomic::Ordering;

use relay::call::FinishReason;
use relay::ids::SessionId;
use relay_chassis::health::HealthState;
use relay_cloud::error::CallError;
use relay_model::scripted::ScriptedModel;

use crate::bench::{Bench, VOCABULARY_TOKENS, rule, small, text, undisturbed};

fn failing(at_forward: u64) -> Bench {
    let model = ScriptedModel::new(VOCABULARY_TOKENS, 4096, rule()).with_fault(at_forward);
    Bench::of(&small(), model)
}

fn panicking(at_forward: u64) -> Bench {
    let bench = Bench::new();
    bench.watch.panics_at.store(at_forward + 1, Ordering::SeqCst);
    bench
}

#[test]
fn a_failed_step_ends_its_call_and_a_new_attempt_says_the_same() {
    let prompt = text(20);
    let whole = undisturbed(&prompt, 6);
    // What is cached when the third prefill step or the second decode step fails.
    for (at, panics, produced, cached) in
        [(2, false, 0, 18), (2, true, 0, 0), (4, false, 2, 21), (4, true, 2, 0)]
    {
        let mut bench = if panics { panicking(at) } else { failing(at) };
        let request = bench.request(1, 0, &prompt, 6);
        let told = bench.run(request);
        assert_eq!(told.fault, Some(CallError::ModelFault));
        assert_eq!(told.ids(), whole[..produced], "what was produced holds");
        let log = [&prompt[..], &whole[..produced]].concat();
        let n = u32::try_from(6 - produced).unwrap();
        let again = bench.request(2, log.len(), &log, n);
        let told = bench.run(again);
        assert_eq!(told.admitted().1, cached, "at {at}, panics {panics}");
        assert_eq!(told.ids(), whole[produced..]);
        assert_eq!(bench.health.state(), HealthState::Ready);
    }
}

#[test]
fn a_waiting_call_and_an_idle_session_do_not_notice() {
    let mut bench = panicking(9);
    let prompt = text(5);
    let idle = bench.request(1, 0, &prompt, 8);
    bench.run(idle);
    let mut streams: Vec<_> = (2..8)
        .map(|id| {
            let mut request = bench.request(1, 0, &prompt, 4);
            request.session = SessionId::new([id; 16]);
            bench.open(if id < 5 { "a" } else { "b" }, request)
        })
        .collect();
    let told: Vec<_> = streams.iter_mut().map(|events| bench.finish(events)).collect();
    let faults = told.iter().filter(|told| told.fault.is_some()).count();
    let whole = told.iter().filter(|told| told.finished == Some(FinishReason::Length)).count();
    assert_eq!((faults, whole), (4, 2), "four were in the batch, two waited");
    let log = [&prompt[..], &undisturbed(&prompt, 8)].concat();
    let idle = bench.request(2, 13, &log, 1);
    assert_eq!(bench.run(idle).admitted(), (13, 12, 1));
}

#[test]
fn failures_in_a_row_ask_for_a_restart_and_the_engine_goes_on() {
    let mut bench = Bench::new();
    for (number, state) in
        [(1, HealthState::Ready), (2, HealthState::Ready), (3, HealthState::Failed)]
    {
        bench.watch.panics_at.store(number, Ordering::SeqCst);
        let request = bench.request(number, 0, &text(5), 1);
        assert_eq!(bench.run(request).fault, Some(CallError::ModelFault));
        assert_eq!(bench.health.state(), state);
    }
    let request = bench.request(9, 0, &text(5), 1);
    assert_eq!(bench.run(request).ids(), undisturbed(&text(5), 1));
}

#[test]
fn logits_that_are_not_numbers_end_the_call_and_leave_the_log() {
    let prompt = text(20);
    let whole = undisturbed(&prompt, 6);
    // The third step gives the first token, the fifth the third.
    for (at, produced) in [(3, 0), (5, 2)] {
        let mut bench = Bench::new();
        bench.watch.no_numbers_at.store(at, Ordering::SeqCst);
        let request = bench.request(1, 0, &prompt, 6);
        let told = bench.run(request);
        assert_eq!(told.fault, Some(CallError::ModelFault));
        assert_eq!(told.ids(), whole[..produced]);
        let log = [&prompt[..], &whole[..produced]].concat();
        let again = bench.request(2, log.len(), &log, u32::try_from(6 - produced).unwrap());
        let told = bench.run(again);
        assert_eq!(told.admitted().1, 0, "the KV that gave no number is not used again");
        assert_eq!(told.ids(), whole[produced..]);
    }
}
