//! One row, one result: however tokens come and whatever comes with them, the bits are the same.

use candle_core::quantized::GgmlDType;
use relay_model::{
    KvCache, KvPrecision, KvShape, LanguageModel, Logits, LogitsWanted, ModelError, Row,
};

use crate::reference;
use crate::tiny_file::{CONTEXT, VOCABULARY, load_exact, load_tiny, tensors};

fn tiny() -> Box<dyn LanguageModel> {
    load_tiny(GgmlDType::F32).model
}

fn ids(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 7919 + i * i * 31) % 259).collect()
}

fn run(
    model: &mut dyn LanguageModel,
    cache: &mut KvCache,
    tokens: &[u32],
    logits: LogitsWanted,
) -> Logits {
    model.forward(&mut [Row { tokens, cache, logits }]).unwrap().remove(0)
}

fn all_at_once(model: &mut dyn LanguageModel, tokens: &[u32]) -> Logits {
    let mut cache = model.new_cache();
    run(model, &mut cache, tokens, LogitsWanted::All)
}

fn assert_same_bits(left: &[f32], right: &[f32]) {
    assert_eq!(left.len(), right.len());
    assert!(left.iter().zip(right).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn agrees_with_a_plain_implementation() {
    let tokens = ids(70);
    let ours = all_at_once(&mut *load_exact(GgmlDType::F32).model, &tokens);
    let exact = reference::logits(&tensors(), &tokens);
    for (position, exact) in exact.iter().enumerate() {
        let largest = exact.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        for (ours, exact) in ours.row(position).iter().zip(exact) {
            let apart = (f64::from(*ours) - exact).abs();
            assert!(apart < 1e-4 * largest, "{position}: {ours} not {exact}");
        }
    }
}

#[test]
fn blocks_of_codes_run_as_the_values_they_stand_for() {
    let mut model = load_tiny(GgmlDType::Q8_0).model;
    let logits = all_at_once(&mut *model, &ids(40));
    let exact = reference::logits(&tensors(), &ids(40));
    let far = |position: usize| {
        let pairs = logits.row(position).iter().zip(&exact[position]);
        pairs
            .map(|(ours, exact)| {
                assert!(ours.is_finite(), "position {position}: {ours}");
                (f64::from(*ours) - exact).abs()
            })
            .fold(0.0, f64::max)
    };
    assert!((0..40).map(far).fold(0.0, f64::max) < 1.5, "8-bit weights are nearly the weights");
    assert!(model.shape().weight_bytes < tiny().shape().weight_bytes / 2);
}

#[test]
fn cached_and_chunked_give_the_bits_of_one_prefill() {
    for dtype in [GgmlDType::F32, GgmlDType::Q4_1] {
        let mut model = load_tiny(dtype).model;
        let tokens = ids(200);
        let whole = all_at_once(&mut *model, &tokens);
        for chunk in [1, 2, 7, 31, 32, 33] {
            let mut cache = model.new_cache();
            let mut position = 0;
            for tokens in tokens.chunks(chunk) {
                let logits = run(&mut *model, &mut cache, tokens, LogitsWanted::All);
                for row in 0..logits.rows() {
                    assert_same_bits(logits.row(row), whole.row(position));
                    position += 1;
                }
            }
            assert_eq!(position, tokens.len());
            assert_eq!(cache.len_tokens(), tokens.len());
        }
    }
}

#[test]
fn a_row_among_others_is_the_row_alone() {
    let mut model = tiny();
    let prompts: Vec<Vec<u32>> = [1, 40, 150, 3, 33, 64].map(ids).into();
    let wanted = [LogitsWanted::Last, LogitsWanted::All, LogitsWanted::None];
    let mut caches: Vec<KvCache> = prompts.iter().map(|_| model.new_cache()).collect();
    for (index, cache) in caches.iter_mut().enumerate() {
        run(
            &mut *model,
            cache,
            &ids(5 + 40 * u32::try_from(index % 3).unwrap()),
            LogitsWanted::None,
        );
    }
    let mut alone_caches: Vec<KvCache> = caches.iter().map(KvCache::fork).collect();
    let mut rows: Vec<Row<'_>> = (prompts.iter().zip(&mut caches).enumerate())
        .map(|(i, (tokens, cache))| Row { tokens, cache, logits: wanted[i % 3] })
        .collect();
    let together = model.forward(&mut rows).unwrap();
    for (index, (tokens, cache)) in prompts.iter().zip(&mut alone_caches).enumerate() {
        let alone = run(&mut *model, cache, tokens, wanted[index % 3]);
        assert_eq!(together[index], alone);
        assert_eq!(alone.rows(), wanted[index % 3].positions(tokens.len()));
        let next = run(&mut *model, cache, &[9], LogitsWanted::Last);
        assert_eq!(run(&mut *model, &mut caches[index], &[9], LogitsWanted::Last), next);
    }
}

#[test]
fn cut_and_append_is_a_fresh_prefix() {
    let mut model = tiny();
    let tokens = ids(100);
    for cut in [0, 1, 31, 32, 33, 64, 99] {
        let mut cache = model.new_cache();
        run(&mut *model, &mut cache, &tokens, LogitsWanted::None);
        cache.truncate(cut);
        let other: Vec<u32> = tokens.iter().rev().copied().take(40).collect();
        let continued = run(&mut *model, &mut cache, &other, LogitsWanted::Last);
        let fresh_tokens = [&tokens[..cut], &other].concat();
        let fresh = all_at_once(&mut *model, &fresh_tokens);
        assert_same_bits(continued.last().unwrap(), fresh.last().unwrap());
    }
}

#[test]
fn forks_go_their_own_ways() {
    let mut model = tiny();
    let mut origin = model.new_cache();
    run(&mut *model, &mut origin, &ids(45), LogitsWanted::None);
    let mut fork = origin.fork();
    let (left, right) = (ids(20), vec![3; 20]);
    let (left_row, right_row) = (
        Row { tokens: &left, cache: &mut origin, logits: LogitsWanted::Last },
        Row { tokens: &right, cache: &mut fork, logits: LogitsWanted::Last },
    );
    let both = model.forward(&mut [left_row, right_row]).unwrap();
    for (tokens, logits) in [(left, &both[0]), (right, &both[1])] {
        let fresh = all_at_once(&mut *model, &[ids(45), tokens].concat());
        assert_same_bits(logits.last().unwrap(), fresh.last().unwrap());
    }
}

#[test]
fn what_cannot_be_run_is_refused_and_changes_nothing() {
    let mut model = tiny();
    let (mut good, mut bad) = (model.new_cache(), model.new_cache());
    run(&mut *model, &mut good, &ids(10), LogitsWanted::None);
    run(&mut *model, &mut bad, &ids(10), LogitsWanted::None);
    let too_long = ids(u32::try_from(CONTEXT).unwrap() - 9);
    let out_of_range = [1, u32::try_from(VOCABULARY).unwrap()];
    for tokens in [&[][..], &out_of_range, &[u32::MAX], &too_long] {
        let rows = &mut [
            Row { tokens: &[1, 2], cache: &mut good, logits: LogitsWanted::Last },
            Row { tokens, cache: &mut bad, logits: LogitsWanted::Last },
        ];
        let message = model.forward(rows).unwrap_err().to_string();
        assert!(message.contains("row 1"), "{message}");
        assert_eq!((good.len_tokens(), bad.len_tokens()), (10, 10));
    }
    let mut foreign = KvCache::new(KvShape { layers: 1, width: 2 }, KvPrecision::F16);
    let row = Row { tokens: &[1], cache: &mut foreign, logits: LogitsWanted::Last };
    assert!(matches!(model.forward(&mut [row]), Err(ModelError::ForeignCache { row: 0 })));
    assert!(model.forward(&mut []).unwrap().is_empty());
}

#[test]
fn the_whole_context_can_be_used() {
    let mut model = tiny();
    let tokens = ids(u32::try_from(CONTEXT).unwrap());
    let mut cache = model.new_cache();
    run(&mut *model, &mut cache, &tokens, LogitsWanted::Last);
    let per_token = model.shape().kv_bytes_per_token;
    assert_eq!(cache.bytes(), CONTEXT.next_multiple_of(relay_model::PAGE_TOKENS) * per_token);
}
