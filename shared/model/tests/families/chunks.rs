//! One row, one result, for every family and both file forms: however tokens come and whatever
//! comes with them, the bits are the same.

use candle_core::quantized::GgmlDType;
use relay_model::{KvCache, LanguageModel, LogitsWanted, Row};

use crate::case::{VOCABULARY, all_at_once, run, vectors};
use crate::folder::Folder;
use crate::gguf::GgufFile;

fn ids(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 7919 + i * i * 31) % u32::try_from(VOCABULARY).unwrap()).collect()
}

/// Runs `check` with every case in both forms and with both kinds of cache, and what to call it.
fn with_every_model(check: impl Fn(&mut dyn LanguageModel, &str)) {
    for case in vectors().cases {
        check(&mut *Folder::of(&case, "BF16").load().model, &format!("{} as folder", case.name));
        check(&mut *GgufFile::of(&case, GgmlDType::F32).load_exact().model, &case.name);
    }
}

#[test]
fn cached_and_chunked_give_the_bits_of_one_prefill() {
    let tokens = ids(140);
    with_every_model(|model, name| {
        let whole = all_at_once(model, &tokens);
        for chunk in [1, 2, 7, 31, 32, 33] {
            let mut cache = model.new_cache();
            let mut position = 0;
            for tokens in tokens.chunks(chunk) {
                let logits = run(model, &mut cache, tokens, LogitsWanted::All);
                for row in 0..logits.rows() {
                    assert_eq!(logits.row(row), whole.row(position), "{name}: {chunk}, {position}");
                    position += 1;
                }
            }
            assert_eq!((position, cache.len_tokens()), (tokens.len(), tokens.len()));
        }
    });
}

#[test]
fn a_row_among_others_is_the_row_alone() {
    let prompts: Vec<Vec<u32>> = [1, 40, 100, 3, 33].map(ids).into();
    let wanted = [LogitsWanted::Last, LogitsWanted::All, LogitsWanted::None];
    with_every_model(|model, name| {
        let mut caches: Vec<KvCache> = Vec::new();
        for index in 0..5 {
            let mut cache = model.new_cache();
            run(model, &mut cache, &ids(5 + 40 * (index % 3)), LogitsWanted::None);
            caches.push(cache);
        }
        let mut alone: Vec<KvCache> = caches.iter().map(KvCache::fork).collect();
        let rows = prompts.iter().zip(&mut caches).zip(wanted.iter().cycle());
        let mut rows: Vec<Row<'_>> =
            rows.map(|((tokens, cache), logits)| Row { tokens, cache, logits: *logits }).collect();
        let together = model.forward(&mut rows).unwrap();
        for (index, (tokens, cache)) in prompts.iter().zip(&mut alone).enumerate() {
            let logits = run(model, cache, tokens, wanted[index % 3]);
            assert_eq!(together[index], logits, "{name}: row {index}");
            assert_eq!(logits.rows(), wanted[index % 3].positions(tokens.len()));
            let next = run(model, cache, &[9], LogitsWanted::Last);
            let next_together = run(model, &mut caches[index], &[9], LogitsWanted::Last);
            assert_eq!(next_together, next, "{name}: after row {index}");
        }
    });
}

#[test]
fn cut_and_append_is_a_fresh_prefix() {
    let tokens = ids(100);
    let other: Vec<u32> = tokens.iter().rev().copied().take(40).collect();
    with_every_model(|model, name| {
        for cut in [0, 1, 31, 32, 33, 99] {
            let mut cache = model.new_cache();
            run(model, &mut cache, &tokens, LogitsWanted::None);
            cache.truncate(cut);
            let continued = run(model, &mut cache, &other, LogitsWanted::Last);
            let fresh = all_at_once(model, &[&tokens[..cut], &other].concat());
            assert_eq!(continued.last(), fresh.last(), "{name}: cut at {cut}");
        }
    });
}

#[test]
fn forks_go_their_own_ways() {
    let (left, right) = (ids(20), vec![3; 20]);
    with_every_model(|model, name| {
        let mut origin = model.new_cache();
        run(model, &mut origin, &ids(45), LogitsWanted::None);
        let mut fork = origin.fork();
        let rows = &mut [
            Row { tokens: &left, cache: &mut origin, logits: LogitsWanted::Last },
            Row { tokens: &right, cache: &mut fork, logits: LogitsWanted::Last },
        ];
        let both = model.forward(rows).unwrap();
        for (tokens, logits) in [&left, &right].into_iter().zip(&both) {
            let fresh = all_at_once(model, &[&ids(45), tokens.as_slice()].concat());
            assert_eq!(logits.last(), fresh.last(), "{name}");
        }
    });
}
