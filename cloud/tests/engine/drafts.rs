//! Rule 7: a draft changes how many steps a call takes and nothing else.

use relay::call::{CallRequest, FinishReason, Sampling};

use crate::bench::{Bench, END, small, text, undisturbed};

fn drafted(bench: &mut Bench, prompt: &[u32], n: u32, draft: &[u32]) -> crate::bench::Told {
    let request = bench.request(1, 0, prompt, n);
    bench.run(CallRequest { draft: draft.to_vec(), ..request })
}

#[test]
fn rule_7_a_draft_and_none_yield_equal_tokens_log_and_kv() {
    let prompt = text(12);
    let whole = undisturbed(&prompt, 8);
    // Right ids, then wrong ones; steps in all. Two are prefill, and without a draft the second
    // of them gives a token.
    let cases = [(0, 0, 9), (0, 1, 10), (0, 5, 10), (1, 0, 9), (1, 3, 9), (3, 2, 7), (6, 0, 4)];
    for (right, wrong, steps) in cases.into_iter().chain([(7, 0, 3), (8, 0, 3), (7, 1, 3)]) {
        let mut draft = whole[..right].to_vec();
        draft.extend(whole[right..].iter().take(wrong).map(|id| (id + 1) % 256));
        let mut bench = Bench::new();
        let told = drafted(&mut bench, &prompt, 8, &draft);
        assert_eq!(told.ids(), whole, "{right} right, {wrong} wrong");
        assert_eq!(told.finished, Some(FinishReason::Length));
        let rows = bench.rows();
        assert_eq!(rows.len(), steps, "{right} right, {wrong} wrong: {rows:?}");
        let log = [&prompt[..], &whole].concat();
        let after = bench.request(2, 20, &log, 0);
        assert_eq!(bench.run(after).admitted(), (20, 19, 1), "{right} right, {wrong} wrong");
    }
}

#[test]
fn rule_7_a_draft_is_checked_against_the_draw_not_the_likeliest() {
    let prompt = text(12);
    let warm = Sampling::new(2.0, 0, 1.0, 0.0).unwrap();
    let run = |draft: Vec<u32>| {
        let mut bench = Bench::new();
        let request = bench.request(1, 0, &prompt, 8);
        let told = bench.run(CallRequest { draft, sampling: warm, ..request });
        (told.tokens, bench.rows().len())
    };
    let (whole, _) = run(Vec::new());
    let ids: Vec<u32> = whole.iter().map(|token| token.id).collect();
    assert_ne!(ids, undisturbed(&prompt, 8), "the noise does something");
    let (tokens, steps) = run(ids);
    assert_eq!(tokens, whole);
    assert_eq!(steps, 3, "two of prefill, one of checking");
}

#[test]
fn rule_7_the_end_of_text_ends_a_draft() {
    let ends_at_16 = |ids: &[u32]| if ids.len() >= 16 { END } else { 5 };
    let prompt = text(12);
    for draft in [vec![], vec![5, 5, 5, 5], vec![5, 5, 5, 5, 5, 5], vec![5, 5, 5, 5, END, 7]] {
        let mut bench = Bench::with(&small(), ends_at_16);
        let told = drafted(&mut bench, &prompt, 8, &draft);
        assert_eq!((told.ids(), told.finished), (vec![5; 4], Some(FinishReason::EndOfText)));
        let log = [&prompt[..], &[5; 4]].concat();
        let after = bench.request(2, 16, &log, 0);
        assert_eq!(bench.run(after).admitted(), (16, 16, 0), "{draft:?}: no trace of the rest");
    }
}

#[test]
fn rule_7_a_draft_stops_at_the_context() {
    let prompt = text(92);
    let mut bench = Bench::new();
    let request = bench.request(1, 0, &prompt, 8);
    let plain = bench.run(request);
    assert_eq!((plain.tokens.len(), plain.finished), (4, Some(FinishReason::ContextFull)));
    let mut draft = plain.ids();
    draft.extend([1, 2, 3]);
    let mut bench = Bench::new();
    assert_eq!(drafted(&mut bench, &prompt, 8, &draft).tokens, plain.tokens);
}
