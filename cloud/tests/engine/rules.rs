//! Rules 1 to 6 and 8 of a call, and the tenant's wall.

use relay::call::{CallRequest, FinishReason, Sampling};
use relay::ids::{Attempt, Fingerprint, ModelId, PrefixHash, SessionId};
use relay::prefix::prefix_hash;
use relay::refusal::{LimitField, Refusal};

use crate::bench::{Bench, small, text, undisturbed};

/// The log after a first call: text of 20, then 4 tokens.
fn with_log(bench: &mut Bench) -> Vec<u32> {
    let mut log = text(20);
    let first = bench.request(1, 0, &log, 4);
    log.extend(bench.run(first).ids());
    bench.rows();
    log
}

#[test]
fn rule_1_a_refusal_changes_neither_log_nor_kv() {
    let mut bench = Bench::new();
    let log = with_log(&mut bench);
    let unknown =
        CallRequest { base_hash: PrefixHash::new([0; 16]), ..bench.request(2, 5, &log, 4) };
    let full = bench.request(3, 10, &[&log[..10], &text(86)[..]].concat(), 1);
    assert!(matches!(bench.run(unknown).refused, Some(Refusal::PrefixUnknown { .. })));
    assert!(matches!(bench.run(full).refused, Some(Refusal::ContextFull { context_tokens: 96 })));
    let next = bench.request(4, 24, &log, 0);
    assert_eq!(bench.run(next).admitted(), (24, 23, 1), "all but the last id has KV");
}

#[test]
fn rule_1_a_cancelled_prefill_keeps_what_it_computed() {
    let mut bench = Bench::new();
    let prompt = text(40);
    let mut events = bench.open("a", bench.request(1, 0, &prompt, 4));
    bench.turn(&mut events);
    bench.turn(&mut events);
    drop(events);
    bench.engine.turn();
    assert_eq!(bench.rows(), [[9], [9]]);
    let again = bench.request(2, 0, &prompt, 4);
    let told = bench.run(again);
    assert_eq!(told.admitted(), (40, 18, 22));
    assert_eq!(told.ids(), undisturbed(&prompt, 4));
}

#[test]
fn rule_2_the_delta_is_compared_with_the_log() {
    type Change = fn(&[u32]) -> (usize, Vec<u32>);
    let other = |log: &[u32], at: usize| {
        let mut other = log.to_vec();
        other[at] = (other[at] + 1) % 256;
        other
    };
    // What the edge sends after a log of 24, the last id without KV; the cached part of it.
    let cases: [(&str, Change, u32); 7] = [
        ("nothing new", |log| (24, log.to_vec()), 23),
        ("ahead", |log| (24, [log, &[3, 4]].concat()), 23),
        ("duplicated", |log| (20, log.to_vec()), 23),
        ("overlapping", |log| (20, [log, &[3, 4]].concat()), 23),
        ("shorter", |log| (20, log[..22].to_vec()), 22),
        ("all again", |log| (0, log.to_vec()), 23),
        ("all again and longer", |log| (0, [log, &[5]].concat()), 23),
    ];
    for (name, change, cached) in cases {
        let mut bench = Bench::new();
        let log = with_log(&mut bench);
        let (base, sent) = change(&log);
        let request = bench.request(2, base, &sent, 5);
        let told = bench.run(request);
        let length = u32::try_from(sent.len()).unwrap();
        assert_eq!(told.admitted(), (length, cached, length - cached), "{name}");
        assert_eq!(told.ids(), undisturbed(&sent, 5), "{name}");
    }
    for at in [0, 8, 20, 23] {
        let mut bench = Bench::new();
        let log = with_log(&mut bench);
        let sent = other(&log, at);
        let request = bench.request(2, 0, &sent, 5);
        let told = bench.run(request);
        let cached = u32::try_from(at).unwrap();
        assert_eq!(told.admitted(), (24, cached, 24 - cached), "parts at {at}");
        assert_eq!(told.ids(), undisturbed(&sent, 5), "parts at {at}");
    }
}

#[test]
fn promise_1_prefix_agreement_a_prefix_other_than_the_edges_is_never_continued() {
    type Change = fn(&mut CallRequest, &[u32]);
    let other = |log: &[u32], at: usize| {
        let mut other = log.to_vec();
        other[at] = (other[at] + 1) % 256;
        prefix_hash(&other)
    };
    let changes: [(&str, Change); 3] = [
        ("a wrong hash", |request, _| request.base_hash = PrefixHash::new([7; 16])),
        ("the hash of a shorter prefix", |request, log| request.base_hash = prefix_hash(&log[..8])),
        ("base and hash of no log", |request, _| {
            request.base_tokens = 25;
            request.base_hash = prefix_hash(&[1; 25]);
        }),
    ];
    for n in [0, 4] {
        let mut bench = Bench::new();
        let log = with_log(&mut bench);
        let longer = [&log[..], &[3, 4]].concat();
        let have = Refusal::PrefixUnknown { have_tokens: 24, have_hash: prefix_hash(&log) };
        let mut wrong: Vec<(String, CallRequest)> = Vec::new();
        for (name, change) in changes {
            let mut request = bench.request(1, 20, &longer, n);
            change(&mut request, &log);
            wrong.push((name.to_owned(), request));
        }
        // Prefixes of the right length that part from the log at the first, a middle, the last id.
        for at in [0, 11, 19] {
            let base_hash = other(&log[..20], at);
            let request = CallRequest { base_hash, ..bench.request(1, 20, &longer, n) };
            wrong.push((format!("another prefix of this length, at {at}"), request));
        }
        let attempts = 2..;
        for (number, (name, request)) in attempts.zip(wrong) {
            let told = bench.run(CallRequest { attempt: Attempt::new(number), ..request });
            assert_eq!((told.refused, told.tokens.len()), (Some(have.clone()), 0), "{name}");
            assert!(bench.rows().is_empty(), "{name}: nothing was computed");
        }
        let right = bench.request(20, 24, &longer, 4);
        let told = bench.run(right);
        assert_eq!(told.admitted(), (26, 23, 3), "log and KV are as they were");
        assert_eq!(told.ids(), undisturbed(&longer, 4));
    }
}

#[test]
fn promise_2_at_most_once_a_repeated_attempt_returns_the_same_and_prefills_nothing_twice() {
    let sampling = Sampling::new(1.0, 0, 1.0, 0.0).unwrap();
    let prompt = text(20);
    let drawn =
        |bench: &Bench, number| CallRequest { sampling, ..bench.request(number, 0, &prompt, 6) };
    let mut bench = Bench::new();
    let first = drawn(&bench, 1);
    let first = bench.run(first);
    assert_eq!(first.tokens.len(), 6);
    assert_ne!(first.ids(), undisturbed(&prompt, 6), "the noise does something");
    bench.rows();
    // Repeated after its end, and after it was cut once and twice.
    let again = drawn(&bench, 2);
    let again = bench.run(again);
    assert_eq!((again.admitted(), &again.tokens), ((20, 20, 0), &first.tokens));
    assert_eq!(bench.rows(), [[1]; 6], "six tokens, six steps of one");
    let log = [&prompt[..], &first.ids()].concat();
    let after = bench.request(3, 0, &log, 0);
    assert_eq!(bench.run(after).admitted(), (26, 25, 1), "no token stands twice");
    for cut_after in 1..9 {
        let mut bench = Bench::new();
        let mut lost = bench.open("a", drawn(&bench, 1));
        for _ in 0..cut_after {
            bench.engine.turn();
        }
        let mut told = crate::bench::Told::default();
        told.read(&mut lost);
        drop(lost);
        let again = drawn(&bench, 2);
        let again = bench.run(again);
        assert_eq!(again.tokens, first.tokens, "cut after {cut_after} steps");
        let decoded = told.tokens.len().saturating_sub(1) + again.tokens.len();
        let forwarded: usize = bench.rows().iter().flatten().sum();
        // Each id of the prompt once, each token once for each time that it was decoded; the last
        // id of the prompt is forwarded anew if its logits were used before.
        let bound = 20 + decoded;
        assert!(forwarded <= bound, "cut after {cut_after}: {forwarded} of {bound}");
    }
}

#[test]
fn rule_3_an_unknown_base_is_answered_with_what_is_here_and_a_resync_from_there_works() {
    let mut bench = Bench::new();
    let none = Refusal::PrefixUnknown { have_tokens: 0, have_hash: prefix_hash(&[]) };
    let lost = bench.request(1, 10, &text(20), 4);
    assert_eq!(bench.run(lost).refused, Some(none));
    let log = with_log(&mut bench);
    let have = Refusal::PrefixUnknown { have_tokens: 24, have_hash: prefix_hash(&log) };
    let longer = [&log[..], &text(10)].concat();
    let ahead = bench.request(2, 30, &longer, 4);
    assert_eq!(bench.run(ahead).refused, Some(have.clone()), "a base ahead of the log");
    let wrong = CallRequest { base_hash: prefix_hash(&[1]), ..bench.request(3, 20, &longer, 4) };
    assert_eq!(bench.run(wrong).refused, Some(have), "another hash at a known length");
    let resync = bench.request(4, 24, &longer, 4);
    let told = bench.run(resync);
    assert_eq!(told.admitted(), (34, 23, 11));
    assert_eq!(told.ids(), undisturbed(&longer, 4));
}

#[test]
fn rule_4_an_equal_or_lower_attempt_is_stale_and_changes_nothing() {
    let mut bench = Bench::new();
    let prompt = text(5);
    let mut running = bench.open("a", bench.request(7, 0, &prompt, 4));
    bench.turn(&mut running);
    for number in [7, 6, 1] {
        let stale = bench.request(number, 0, &text(9), 2);
        let mut stale = bench.open("a", stale);
        let told = bench.turn(&mut stale);
        assert_eq!(told.refused, Some(Refusal::StaleAttempt { highest: 7 }));
    }
    let told = bench.finish(&mut running);
    assert_eq!(told.finished, Some(FinishReason::Length), "the running call went on");
}

#[test]
fn rule_4_a_higher_attempt_supersedes_within_one_step() {
    let mut bench = Bench::new();
    let prompt = text(5);
    let mut old = bench.open("a", bench.request(1, 0, &prompt, 16));
    assert_eq!(bench.turn(&mut old).tokens.len(), 1);
    let mut new = bench.open("a", bench.request(2, 0, &prompt, 4));
    let told = bench.turn(&mut old);
    assert_eq!(told.finished, Some(FinishReason::Superseded));
    assert_eq!(told.tokens, [], "not one token more");
    let told = bench.finish(&mut new);
    assert_eq!(told.admitted(), (5, 5, 0));
    assert_eq!(told.ids(), undisturbed(&prompt, 4));
}

#[test]
fn rule_4_from_its_number_on_a_refused_attempt_counts_and_ends_the_older_one() {
    let mut bench = Bench::new();
    let prompt = text(5);
    let mut old = bench.open("a", bench.request(1, 0, &prompt, 16));
    bench.turn(&mut old);
    let lost = bench.request(2, 30, &text(40), 4);
    let mut lost = bench.open("a", lost);
    assert_eq!(bench.turn(&mut old).finished, Some(FinishReason::Superseded));
    assert!(matches!(bench.turn(&mut lost).refused, Some(Refusal::PrefixUnknown { .. })));
    let stale = bench.request(2, 0, &prompt, 1);
    assert_eq!(bench.run(stale).refused, Some(Refusal::StaleAttempt { highest: 2 }));
}

#[test]
fn rule_4_what_fails_before_the_number_leaves_no_trace() {
    type Change = fn(&mut CallRequest);
    let cases: [(Change, Refusal); 3] = [
        (
            |request| {
                request.fingerprint = Fingerprint::new([9; 16]);
                request.delta.push(90_000);
            },
            Refusal::VocabularyMismatch,
        ),
        (|request| request.model = ModelId::new("scripted", [9; 8]), Refusal::ModelMismatch),
        (
            |request| request.max_tokens = 17,
            Refusal::LimitExceeded { field: LimitField::CallTokens, limit: 16 },
        ),
    ];
    let mut bench = Bench::new();
    let prompt = text(5);
    let mut running = bench.open("a", bench.request(1, 0, &prompt, 16));
    bench.turn(&mut running);
    for (change, refusal) in cases {
        let mut request = bench.request(9, 0, &prompt, 4);
        change(&mut request);
        let mut events = bench.open("a", request);
        assert_eq!(bench.turn(&mut events).refused, Some(refusal));
    }
    for (change, part) in [
        ((|request| request.delta.push(257)) as Change, "token id 257"),
        (|request| request.delta.clear(), "base and delta are empty"),
        (|request| request.base_hash = PrefixHash::new([0; 16]), "base 0"),
    ] {
        let mut request = bench.request(9, 0, &prompt, 4);
        change(&mut request);
        let error = bench.handle.call("a".into(), request).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let told = bench.finish(&mut running);
    assert_eq!(told.finished, Some(FinishReason::Length), "the running call went on");
    let next = bench.request(2, 0, &prompt, 1);
    assert!(bench.run(next).accepted.is_some(), "number 9 was never seen");
}

#[test]
fn rule_4_draining_and_load_come_before_the_number_and_base_before_context() {
    let mut bench = Bench::new();
    let log = with_log(&mut bench);
    let beyond = [&log[..], &text(80)].concat();
    let both =
        CallRequest { base_hash: PrefixHash::new([0; 16]), ..bench.request(2, 24, &beyond, 4) };
    assert!(matches!(bench.run(both).refused, Some(Refusal::PrefixUnknown { .. })));
    bench.handle.drain(bench.start + std::time::Duration::from_mins(1));
    let stale = bench.request(1, 0, &log, 4);
    assert_eq!(bench.run(stale).refused, Some(Refusal::Draining));
}

#[test]
fn rule_5_a_warm_sync_prefills_and_the_call_after_it_only_decodes() {
    let mut bench = Bench::new();
    let prompt = text(30);
    let sync = bench.request(1, 0, &prompt, 0);
    let told = bench.run(sync);
    assert_eq!((told.finished, told.ids()), (Some(FinishReason::Length), vec![]));
    assert_eq!(bench.rows(), [[9], [9], [9], [3]]);
    let nothing_new = bench.request(2, 30, &prompt, 0);
    let told = bench.run(nothing_new);
    assert_eq!((told.admitted(), told.finished), ((30, 30, 0), Some(FinishReason::Length)));
    assert!(bench.rows().is_empty());
    let call = bench.request(3, 30, &prompt, 3);
    assert_eq!(bench.run(call).ids(), undisturbed(&prompt, 3));
    assert_eq!(bench.rows(), [[1]; 3]);
}

#[test]
fn rule_6_seed_and_position_alone_decide_what_is_drawn() {
    let warm = Sampling::new(1.5, 0, 0.95, 0.01).unwrap();
    let prompt = text(12);
    let drawn = |seed| {
        let mut bench = Bench::new();
        let request = bench.request(1, 0, &prompt, 16);
        bench.run(CallRequest { sampling: warm, seed, ..request }).tokens
    };
    let tokens = drawn(11);
    assert_eq!(tokens, drawn(11));
    assert_ne!(tokens, drawn(12), "another seed, another text");
    // The second half, asked for by a new session on another cloud, is the same.
    let mut bench = Bench::new();
    let half =
        [&prompt[..], &tokens[..8].iter().map(|token| token.id).collect::<Vec<_>>()].concat();
    let request = bench.request(1, 0, &half, 8);
    let told = bench.run(CallRequest { sampling: warm, ..request });
    assert_eq!(told.tokens, tokens[8..]);
}

#[test]
fn rule_8_after_k_tokens_a_new_attempt_takes_the_rest() {
    let prompt = text(12);
    let whole = undisturbed(&prompt, 10);
    for k in 0..10 {
        let mut bench = Bench::new();
        let mut events = bench.open("a", bench.request(1, 0, &prompt, 10));
        let mut tokens = Vec::new();
        while tokens.len() < k {
            tokens.extend(bench.turn(&mut events).tokens);
        }
        drop(events);
        let covered = [&prompt[..], &whole[..k]].concat();
        let rest = bench.request(2, 12, &covered, u32::try_from(10 - k).unwrap());
        let told = bench.run(rest);
        tokens.extend(told.tokens);
        let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        let positions: Vec<u32> = tokens.iter().map(|token| token.position).collect();
        assert_eq!((ids, positions), (whole.clone(), (12..22).collect()), "cut after {k}");
    }
}

#[test]
fn promise_4_isolation_no_tenant_reaches_another_ones_session() {
    let mut bench = Bench::new();
    let log = with_log(&mut bench);
    let same_id = bench.request(2, 24, &log, 2);
    let none = Refusal::PrefixUnknown { have_tokens: 0, have_hash: prefix_hash(&[]) };
    assert_eq!(bench.run_as("b", same_id.clone()).refused, Some(none));
    let own = bench.request(1, 0, &log, 2);
    assert_eq!(bench.run_as("b", own).admitted(), (24, 0, 24), "nothing cached by another's text");
    bench.forget("b");
    bench.forget("b");
    bench.forget("c");
    assert_eq!(bench.run(same_id).admitted(), (24, 23, 1), "a's session is as it was");
}

#[test]
fn forget_ends_the_call_and_drops_the_session() {
    let mut bench = Bench::new();
    let prompt = text(5);
    let mut events = bench.open("a", bench.request(5, 0, &prompt, 16));
    bench.turn(&mut events);
    bench.forget("a");
    assert_eq!(bench.turn(&mut events).finished, Some(FinishReason::Cancelled));
    let anew = bench.request(1, 0, &prompt, 1);
    assert_eq!(bench.run(anew).admitted(), (5, 0, 5), "the number is forgotten too");
}

#[test]
fn promise_8_batching_changes_nothing() {
    let prompts: Vec<Vec<u32>> = (0..8).map(|index| text(3 + index * 5)).collect();
    let alone: Vec<Vec<u32>> = prompts.iter().map(|prompt| undisturbed(prompt, 8)).collect();
    let mut bench = Bench::new();
    let mut streams: Vec<_> = prompts
        .iter()
        .zip(&alone)
        .enumerate()
        .map(|(index, (prompt, alone))| {
            let mut request = bench.request(1, 0, prompt, 8);
            request.session = SessionId::new([u8::try_from(index).unwrap(); 16]);
            // Beside calls without a draft stand those whose draft is right for 0, 1, 2 ids.
            if index % 2 == 0 {
                request.draft =
                    [&alone[..index / 2 % 3], &[(alone[index / 2 % 3] + 1) % 256; 3]].concat();
            }
            bench.open(if index % 4 < 2 { "a" } else { "b" }, request)
        })
        .collect();
    let told: Vec<_> = streams.iter_mut().map(|events| bench.finish(events)).collect();
    let most = bench.rows().iter().map(Vec::len).max();
    assert_eq!(most, Some(small().calls_max as usize), "they did share steps");
    for (alone, told) in alone.iter().zip(told) {
        assert_eq!(&told.ids(), alone);
    }
}
