//! The forward pass against a plain one, on the file's own blocks, and what it refuses.

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

/// The same for every family, with rows among others, cuts and forks: `tests/families/chunks.rs`.
#[test]
fn cached_and_chunked_blocks_give_the_bits_of_one_prefill() {
    let mut model = load_tiny(GgmlDType::Q4_1).model;
    let tokens = ids(200);
    let whole = all_at_once(&mut *model, &tokens);
    for chunk in [1, 2, 7, 31, 32, 33] {
        let mut cache = model.new_cache();
        let mut position = 0;
        for tokens in tokens.chunks(chunk) {
            let logits = run(&mut *model, &mut cache, tokens, LogitsWanted::All);
            for row in 0..logits.rows() {
                assert_eq!(logits.row(row), whole.row(position), "{chunk}, {position}");
                position += 1;
            }
        }
        assert_eq!((position, cache.len_tokens()), (tokens.len(), tokens.len()));
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
