//! Places, queue, shares, bytes, context and time: every bound, and how a call meets it.

use std::time::Duration;

use relay::call::{CallRequest, FinishReason};
use relay::ids::SessionId;
use relay::prefix::prefix_hash;
use relay::refusal::Refusal;
use relay_cloud::CloudSettings;
use relay_cloud::call::CallEvents;
use relay_cloud::error::CallError;

use crate::bench::{Bench, Told, rule, small, text, undisturbed};

fn of_session(id: u8, request: CallRequest) -> CallRequest {
    CallRequest { session: SessionId::new([id; 16]), ..request }
}

fn open_many(bench: &Bench, tenant: &str, ids: std::ops::Range<u8>, n: u32) -> Vec<CallEvents> {
    ids.map(|id| bench.open(tenant, of_session(id, bench.request(1, 0, &text(3), n)))).collect()
}

fn read(events: &mut CallEvents) -> Told {
    let mut told = Told::default();
    told.read(events);
    told
}

#[test]
fn promise_5_bounded_beyond_places_and_queue_is_refused_at_once() {
    let mut bench = Bench::new();
    let mut streams = open_many(&bench, "a", 0..5, 16);
    streams.extend(open_many(&bench, "b", 0..4, 16));
    streams.extend(open_many(&bench, "c", 0..2, 16));
    bench.engine.turn();
    let told: Vec<Told> = streams.iter_mut().map(read).collect();
    let refused: Vec<bool> = told.iter().map(|told| told.refused.is_some()).collect();
    let tenant_share = [false, false, false, false, true];
    assert_eq!(refused[..5], tenant_share, "half of eight places is a's");
    assert_eq!(refused[5..], [false, false, false, false, true, true], "and b's the rest");
    let Some(Refusal::Overloaded { retry_after_ms, advised_tokens }) = told[10].refused else {
        panic!("overloaded: {:?}", told[10]);
    };
    assert!(retry_after_ms > 0 && advised_tokens > 0);
    let served = told.iter().filter(|told| told.tokens.len() == 1).count();
    assert_eq!(served, 4, "four places");
}

#[test]
fn a_tenant_has_its_share_of_places_while_another_waits() {
    let mut bench = Bench::new();
    let mut of_a = open_many(&bench, "a", 0..4, 16);
    let mut of_b = open_many(&bench, "b", 0..2, 16);
    bench.engine.turn();
    let served = |streams: &mut [CallEvents]| -> usize {
        streams.iter_mut().map(|events| read(events).tokens.len()).sum()
    };
    assert_eq!((served(&mut of_a), served(&mut of_b)), (2, 2));
}

/// Pages of KV: 32 tokens of 16 bytes each.
fn of_pages(pages: u64) -> CloudSettings {
    CloudSettings { kv_bytes_max: pages * 32 * 16, ..small() }
}

#[test]
fn promise_4_isolation_running_calls_keep_to_their_tenants_share_of_kv() {
    // Four pages, two of them a's share; each call of a takes two.
    let mut bench = Bench::with(&of_pages(4), rule());
    let long = |id| of_session(id, bench.request(1, 0, &text(40), 8));
    let mut of_a: Vec<_> = [1, 2].map(|id| bench.open("a", long(id))).into();
    let mut of_b = bench.open("b", of_session(1, bench.request(1, 0, &text(3), 8)));
    let told = bench.finish(&mut of_b);
    assert_eq!(told.finished, Some(FinishReason::Length));
    assert_eq!(read(&mut of_a[1]).tokens.len(), 0, "b waited: only one call of a ran beside it");
    assert_eq!(bench.finish(&mut of_a[0]).finished, Some(FinishReason::Length));
    assert_eq!(bench.finish(&mut of_a[1]).finished, Some(FinishReason::Length));
}

#[test]
fn a_tenant_that_waits_alone_may_run_over_its_share_of_kv() {
    let mut bench = Bench::with(&of_pages(4), rule());
    let mut first = bench.open("a", of_session(1, bench.request(1, 0, &text(40), 8)));
    let mut second = bench.open("a", of_session(2, bench.request(1, 0, &text(3), 8)));
    bench.engine.turn();
    bench.engine.turn();
    bench.engine.turn();
    assert_eq!((read(&mut first).finished, read(&mut second).tokens.is_empty()), (None, false));
}

#[test]
fn a_call_that_does_not_fit_lets_others_pass_but_not_for_ever() {
    // Three pages. The first call holds one of them for 16 steps; the big one wants all three; the
    // small ones take one each, come without end, and with `tenants` are of those served first.
    for tenants in [["a", "a"], ["b", "c"]] {
        let settings = CloudSettings { tenant_share_percent: 100, ..of_pages(3) };
        let mut bench = Bench::with(&settings, rule());
        let prompt = text(3);
        let mut first = bench.open("a", of_session(1, bench.request(1, 0, &prompt, 16)));
        let mut big = bench.open("a", of_session(2, bench.request(1, 0, &text(90), 4)));
        let (mut passed, mut told) = (0, Told::default());
        let mut small = Vec::new();
        for number in 0..200_u8 {
            let tenant = tenants[usize::from(number % 2)];
            let request = bench.request(u64::from(number) + 1, 0, &prompt, 2);
            small.push(bench.open(tenant, of_session(3 + number % 4, request)));
            bench.engine.turn();
            told.read(&mut big);
            if !told.tokens.is_empty() {
                break;
            }
            small.retain_mut(|events| {
                let ended = read(events).finished == Some(FinishReason::Length);
                passed += u32::from(ended);
                !ended
            });
        }
        assert!(passed >= 3, "{tenants:?}: others ran meanwhile: {passed}");
        assert!(passed <= 24, "{tenants:?}: the big call was passed {passed} times");
        assert!(!told.tokens.is_empty(), "{tenants:?}: the big call ran");
        assert_eq!(read(&mut first).finished, Some(FinishReason::Length));
    }
}

#[test]
fn an_attempt_that_supersedes_takes_the_place_of_the_old_one() {
    let mut bench = Bench::new();
    let mut streams = open_many(&bench, "a", 0..4, 16);
    streams.extend(open_many(&bench, "b", 0..4, 16));
    bench.engine.turn();
    let again = of_session(0, bench.request(2, 0, &text(5), 3));
    let mut again = bench.open("a", again);
    bench.engine.turn();
    assert!(read(&mut again).accepted.is_some());
    assert_eq!(read(&mut streams[0]).finished, Some(FinishReason::Superseded));
}

#[test]
fn a_dropped_stream_frees_its_place_within_one_step() {
    let mut bench = Bench::with(&CloudSettings { calls_max: 1, insecure: true, ..small() }, rule());
    let mut streams = open_many(&bench, "a", 0..2, 16);
    bench.engine.turn();
    let mut waiting = streams.pop().unwrap();
    assert_eq!(read(&mut waiting).tokens.len(), 0);
    drop(streams);
    bench.engine.turn();
    assert_eq!(read(&mut waiting).tokens.len(), 1);
}

#[test]
fn a_call_waits_until_bytes_are_free() {
    // Two calls of 20 tokens take a page of 32 each; three pages hold one context of 96.
    let settings = CloudSettings { kv_bytes_max: 3 * 32 * 16, insecure: true, ..small() };
    let mut bench = Bench::with(&settings, rule());
    let mut streams = open_many(&bench, "a", 0..4, 2);
    bench.engine.turn();
    let told: Vec<usize> = streams.iter_mut().map(|events| read(events).tokens.len()).collect();
    assert_eq!(told, [1, 1, 1, 0], "the fourth has a place and no bytes");
    bench.engine.turn();
    bench.engine.turn();
    assert_eq!(read(&mut streams[3]).tokens.len(), 1, "an idle session has made room");
    let lost = of_session(0, bench.request(2, 3, &text(4), 1));
    let none = Refusal::PrefixUnknown { have_tokens: 0, have_hash: prefix_hash(&[]) };
    assert_eq!(bench.run(lost).refused, Some(none));
}

#[test]
fn an_evicted_session_is_rebuilt_and_says_the_same() {
    let prompt = text(20);
    let whole = undisturbed(&prompt, 8);
    let settings = CloudSettings { session_ttl_s: 10, ..small() };
    let mut bench = Bench::with(&settings, rule());
    let first = bench.request(1, 0, &prompt, 3);
    assert_eq!(bench.run(first).ids(), whole[..3]);
    bench.pass_ms(11_000);
    let log = [&prompt[..], &whole[..3]].concat();
    let next = bench.request(2, 23, &log, 5);
    let none = Refusal::PrefixUnknown { have_tokens: 0, have_hash: prefix_hash(&[]) };
    assert_eq!(bench.run(next).refused, Some(none));
    let rebuilt = bench.request(3, 0, &log, 5);
    let told = bench.run(rebuilt);
    assert_eq!((told.admitted(), told.ids()), ((23, 0, 23), whole[3..].to_vec()));
}

#[test]
fn promise_7_n_means_n_and_fewer_only_with_a_reason() {
    for (length, n, produced, reason) in [
        (90, 1, 1, FinishReason::Length),
        (90, 6, 6, FinishReason::Length),
        (90, 7, 6, FinishReason::ContextFull),
        (95, 1, 1, FinishReason::Length),
        (95, 16, 1, FinishReason::ContextFull),
    ] {
        let mut bench = Bench::new();
        let request = bench.request(1, 0, &text(length), n);
        let told = bench.run(request);
        assert_eq!((told.tokens.len(), told.finished), (produced, Some(reason)), "{length} {n}");
    }
    let mut bench = Bench::new();
    let full = bench.request(1, 0, &text(96), 1);
    assert_eq!(bench.run(full).refused, Some(Refusal::ContextFull { context_tokens: 96 }));
}

#[test]
fn a_call_stops_when_less_than_one_measured_step_is_left() {
    let mut bench = Bench::new();
    bench.step_takes_ms(10);
    let request = bench.request(1, 0, &text(5), 16);
    let told = bench.run(CallRequest { budget_ms: 45, ..request });
    assert_eq!(told.finished, Some(FinishReason::Deadline));
    assert_eq!(told.tokens.len(), 4, "four steps of 10 ms; a fifth would end at 50");
    assert_eq!(told.ids(), undisturbed(&text(5), 4));
}

#[test]
fn a_budget_over_the_limit_is_cut_to_it() {
    let mut bench = Bench::with(&CloudSettings { budget_ms_max: 35, ..small() }, rule());
    bench.step_takes_ms(10);
    let request = bench.request(1, 0, &text(5), 16);
    let told = bench.run(CallRequest { budget_ms: u32::MAX, ..request });
    assert_eq!((told.tokens.len(), told.finished), (3, Some(FinishReason::Deadline)));
}

#[test]
fn too_late_is_said_by_measured_rates_and_never_to_a_warm_sync() {
    let mut bench = Bench::new();
    let tight = |request| CallRequest { budget_ms: 50, ..request };
    bench.step_takes_ms(9);
    // Unmeasured, nothing is too late: it is tried, and ends at its deadline.
    let first = tight(bench.request(1, 0, &text(90), 4));
    assert_eq!(bench.run(first).finished, Some(FinishReason::Deadline));
    let pieces = bench.watch.forwards.lock().unwrap().len();
    assert_eq!(pieces, 5, "five pieces of 9 ms; a sixth would end at 54");
    // Now a token of prefill is known to take a millisecond, and 45 are cached.
    let second = tight(of_session(2, bench.request(1, 0, &text(90), 4)));
    assert_eq!(bench.run(second).refused, Some(Refusal::TooLate));
    let sync = tight(of_session(3, bench.request(1, 0, &text(90), 0)));
    let told = bench.run(sync);
    assert_eq!(told.finished, Some(FinishReason::Deadline), "it stops");
    let kept = of_session(3, bench.request(2, 0, &text(90), 1));
    let (_, cached, _) = bench.run(kept).admitted();
    assert!(cached >= 45, "and keeps its KV: {cached}");
    bench.pass_ms(11_000);
    let old_news = tight(of_session(4, bench.request(1, 0, &text(90), 4)));
    assert!(bench.run(old_news).accepted.is_some(), "what was measured long ago says nothing");
}

#[test]
fn short_prefills_do_not_make_a_long_one_too_late() {
    let mut bench = Bench::new();
    bench.step_takes_ms(9);
    let short = bench.request(1, 0, &text(2), 1);
    bench.run(short);
    // By that step's 4.5 ms a token this would take 400 ms; it takes ten steps of 9 ms.
    let long = of_session(2, bench.request(1, 0, &text(90), 1));
    let told = bench.run(CallRequest { budget_ms: 100, ..long });
    assert_eq!(told.finished, Some(FinishReason::Length));
}

#[test]
fn promise_6_drain_ends_what_runs_with_its_own_words() {
    let mut bench = Bench::new();
    bench.step_takes_ms(10);
    let mut short = bench.open("a", of_session(1, bench.request(1, 0, &text(5), 3)));
    let mut long = bench.open("a", of_session(2, bench.request(1, 0, &text(5), 16)));
    bench.engine.turn();
    bench.handle.drain(bench.start + Duration::from_millis(80));
    let new = of_session(3, bench.request(1, 0, &text(5), 1));
    assert_eq!(bench.run(new).refused, Some(Refusal::Draining));
    let told = bench.finish(&mut short);
    assert_eq!(told.finished, Some(FinishReason::Length), "there was time for it");
    let told = bench.finish(&mut long);
    assert_eq!(told.finished, Some(FinishReason::Draining));
    assert!(told.tokens.len() > 3 && told.ids() == undisturbed(&text(5), 16)[..told.tokens.len()]);
}

#[test]
fn promise_6_drain_and_stop_are_heard_with_a_full_channel() {
    let mut bench = Bench::new();
    let mut running = bench.open("a", of_session(1, bench.request(1, 0, &text(5), 16)));
    bench.engine.turn();
    let mut waiting = Vec::new();
    let busy = loop {
        let mut events = bench.open("b", of_session(2, bench.request(1, 0, &text(5), 1)));
        if let Some(refusal) = read(&mut events).refused {
            break refusal;
        }
        waiting.push(events);
    };
    assert!(matches!(busy, Refusal::Overloaded { .. }), "the channel is full: {busy:?}");
    let forgotten = bench.handle.forget("b".into(), SessionId::new([2; 16]));
    let mut forgotten = Box::pin(forgotten);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let answer = forgotten.as_mut().poll(&mut context);
    assert_eq!(answer, std::task::Poll::Ready(Err(CallError::EngineBusy)));
    bench.handle.drain(bench.start);
    bench.handle.stop();
    bench.engine.turn();
    assert_eq!(read(&mut running).finished, Some(FinishReason::Draining));
    assert!(waiting.iter_mut().all(|events| read(events).refused == Some(Refusal::Draining)));
    // Told to stop, it returns although the handle is still here.
    bench.engine.run();
}
