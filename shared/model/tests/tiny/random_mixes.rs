//! One row, one result, over random histories: sequences grow by chunks and single tokens beside
//! each other, are cut, forked and evicted, and still hold the keys, values and logits that each of
//! them would have alone, token for token on one thread.

use candle_core::quantized::GgmlDType;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use relay_model::{KvCache, LanguageModel, LoadOptions, LogitsWanted, Row, load};

use crate::tiny_file::{
    CONTEXT, LAYERS, TinyFile, VOCABULARY, WIDE, file_bytes, metadata, metadata_of, tensors,
    tensors_of,
};

/// Sequences that are alive at once.
const SEQUENCES: usize = 4;

/// What happens to one sequence before a step, and what it brings to the step.
#[derive(Debug, Clone)]
enum Turn {
    /// It waits.
    Rest,
    /// New tokens: one to decode, several to prefill or to check a draft.
    Grow { tokens: Vec<u32>, wants_all: bool },
    /// It forgets its end, then grows.
    CutAndGrow { cut: Index, tokens: Vec<u32> },
    /// It becomes a fork of another sequence.
    Fork { of: Index },
    /// It loses its keys and values, and is prefilled again.
    Evict,
}

fn tokens() -> impl Strategy<Value = Vec<u32>> {
    let id = 0..u32::try_from(VOCABULARY).unwrap();
    prop_oneof![
        prop::collection::vec(id.clone(), 1..2),
        prop::collection::vec(id.clone(), 2..9),
        prop::collection::vec(id, 9..70),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        1 => Just(Turn::Rest),
        6 => (tokens(), any::<bool>())
            .prop_map(|(tokens, wants_all)| Turn::Grow { tokens, wants_all }),
        2 => (any::<Index>(), tokens()).prop_map(|(cut, tokens)| Turn::CutAndGrow { cut, tokens }),
        1 => any::<Index>().prop_map(|of| Turn::Fork { of }),
        1 => Just(Turn::Evict),
    ]
}

fn model(dtype: GgmlDType, threads: usize) -> Box<dyn LanguageModel> {
    let (metadata, tensors) = match dtype.block_size() {
        256 => (metadata_of(WIDE), tensors_of(WIDE)),
        _ => (metadata(), tensors()),
    };
    let file = TinyFile::with_bytes(&file_bytes(&metadata, &tensors, dtype));
    let options = LoadOptions { threads: Some(threads), ..LoadOptions::default() };
    load(&file.path, &options).unwrap().model
}

/// A sequence as it should be, and its cache as the mix of steps left it.
struct Sequence {
    tokens: Vec<u32>,
    cache: KvCache,
}

/// What a sequence brings to a step.
struct Chunk {
    tokens: Vec<u32>,
    wanted: LogitsWanted,
}

/// Lets the turn happen; gives what the sequence brings to the step, if it fits the context.
fn prepare(
    mixed: &dyn LanguageModel,
    sequences: &mut [Sequence],
    index: usize,
    turn: &Turn,
) -> Option<Chunk> {
    let fresh = mixed.new_cache();
    let mut chunk = None;
    match turn {
        Turn::Rest => {}
        Turn::Grow { tokens, wants_all } => {
            let wanted = if *wants_all { LogitsWanted::All } else { LogitsWanted::Last };
            chunk = Some(Chunk { tokens: tokens.clone(), wanted });
        }
        Turn::CutAndGrow { cut, tokens } => {
            let sequence = &mut sequences[index];
            let len = cut.index(sequence.tokens.len() + 1);
            sequence.tokens.truncate(len);
            sequence.cache.truncate(len);
            chunk = Some(Chunk { tokens: tokens.clone(), wanted: LogitsWanted::Last });
        }
        Turn::Fork { of } => {
            let of = &sequences[of.index(sequences.len())];
            sequences[index] = Sequence { tokens: of.tokens.clone(), cache: of.cache.fork() };
        }
        Turn::Evict => {
            let sequence = &mut sequences[index];
            sequence.cache = fresh;
            let tokens = std::mem::take(&mut sequence.tokens);
            chunk = Some(Chunk { tokens, wanted: LogitsWanted::None });
        }
    }
    let held = sequences[index].tokens.len();
    chunk.filter(|chunk| !chunk.tokens.is_empty() && held + chunk.tokens.len() <= CONTEXT)
}

/// All sequences take their turns, and what they bring goes through the model as one batch.
fn step(
    mixed: &mut dyn LanguageModel,
    alone: &mut dyn LanguageModel,
    sequences: &mut [Sequence],
    turns: &[Turn],
) {
    let mut chunks = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        chunks.push(prepare(mixed, sequences, index, turn));
    }
    let pairs = sequences.iter_mut().zip(&chunks);
    let mut rows: Vec<Row<'_>> = pairs
        .filter_map(|(sequence, chunk)| {
            let Chunk { tokens, wanted } = chunk.as_ref()?;
            Some(Row { tokens, cache: &mut sequence.cache, logits: *wanted })
        })
        .collect();
    let mut together = mixed.forward(&mut rows).unwrap().into_iter();
    for (sequence, chunk) in sequences.iter_mut().zip(&chunks) {
        let Some(Chunk { tokens, wanted }) = chunk else { continue };
        sequence.tokens.extend(tokens);
        let (cache, logits) = one_by_one(alone, &sequence.tokens);
        let ours = together.next().unwrap();
        let first = logits.len() - wanted.positions(tokens.len());
        assert_eq!(ours.rows(), logits.len() - first);
        for (row, expected) in logits[first..].iter().enumerate() {
            assert_same_bits(ours.row(row), expected);
        }
        assert_same_caches(&sequence.cache, &cache);
    }
}

/// The cache and all logits of a sequence that was alone from its beginning.
fn one_by_one(model: &mut dyn LanguageModel, tokens: &[u32]) -> (KvCache, Vec<Vec<f32>>) {
    let mut cache = model.new_cache();
    let mut logits = Vec::new();
    for token in tokens.chunks(1) {
        let row = Row { tokens: token, cache: &mut cache, logits: LogitsWanted::All };
        logits.push(model.forward(&mut [row]).unwrap()[0].row(0).to_vec());
    }
    (cache, logits)
}

fn assert_same_bits(left: &[f32], right: &[f32]) {
    assert_eq!(left.len(), right.len());
    assert!(left.iter().zip(right).all(|(a, b)| a.to_bits() == b.to_bits()));
}

fn assert_same_caches(left: &KvCache, right: &KvCache) {
    assert_eq!(left.len_tokens(), right.len_tokens());
    for position in 0..left.len_tokens() {
        for layer in 0..LAYERS {
            let (left, right) = (left.read(layer, position), right.read(layer, position));
            assert_same_bits(&left.0, &right.0);
            assert_same_bits(&left.1, &right.1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_sequence_in_any_mix_is_the_sequence_alone(
        dtype in select(vec![
            GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q4_0, GgmlDType::Q4_1,
            GgmlDType::Q5_0, GgmlDType::Q5_1, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q5K,
            GgmlDType::Q6K,
        ]),
        threads in 1_usize..4,
        steps in prop::collection::vec(prop::collection::vec(turn(), SEQUENCES), 1..8),
    ) {
        let (mut mixed, mut alone) = (model(dtype, threads), model(dtype, 1));
        let new = |_| Sequence { tokens: Vec::new(), cache: mixed.new_cache() };
        let mut sequences: Vec<Sequence> = (0..SEQUENCES).map(new).collect();
        for turns in &steps {
            step(&mut *mixed, &mut *alone, &mut sequences, turns);
        }
    }
}
