//! Models that follow a rule instead of weights: for tests only.
//!
//! The next token is a function of every id before it, and those are read back out of the KV
//! cache, so that a wrong cache gives wrong tokens. Keys hold the id, values its position.

use std::ops::Range;
use std::time::Duration;

use crate::error::ModelError;
use crate::kv_cache::{KvCache, KvPrecision, KvShape};
use crate::language_model::{LanguageModel, Logits, ModelShape, Row, check_rows};
use crate::tokenizer::{
    PreTokenizer, Roles, TokenKind, Tokenizer, TokenizerParts, byte_token_text,
};

/// Four exact numbers a token: an id's bytes.
const SHAPE: KvShape = KvShape { layers: 1, width: 4 };

/// All ids so far to the next one.
type Rule = dyn Fn(&[u32]) -> u32 + Send;

/// A model whose next token is a rule over all ids before it.
pub struct ScriptedModel {
    shape: ModelShape,
    rule: Box<Rule>,
    step_delay: Duration,
    fault_at_forward: Option<u64>,
    forwards: u64,
}

impl std::fmt::Debug for ScriptedModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("ScriptedModel");
        debug.field("shape", &self.shape).field("forwards", &self.forwards).finish_non_exhaustive()
    }
}

impl ScriptedModel {
    /// A model of this size that follows `rule`. What the rule says is taken modulo the
    /// vocabulary.
    pub fn new(
        vocabulary_tokens: usize,
        context_tokens: usize,
        rule: impl Fn(&[u32]) -> u32 + Send + 'static,
    ) -> Self {
        let shape = ModelShape {
            vocabulary_tokens: vocabulary_tokens.max(1),
            context_tokens,
            kv_bytes_per_token: SHAPE.bytes_per_token(KvPrecision::F16),
            weight_bytes: 0,
        };
        let rule = Box::new(rule);
        let step_delay = Duration::ZERO;
        Self { shape, rule, step_delay, fault_at_forward: None, forwards: 0 }
    }

    /// Every forward takes at least this long, however many rows it has.
    #[must_use]
    pub fn with_step_delay(mut self, delay: Duration) -> Self {
        self.step_delay = delay;
        self
    }

    /// The `at_forward`-th forward (0-based) fails, half-way through; later ones work again.
    #[must_use]
    pub fn with_fault(mut self, at_forward: u64) -> Self {
        self.fault_at_forward = Some(at_forward);
        self
    }

    fn logits_of(&self, row: &Row<'_>) -> Logits {
        let ids = read_ids(row.cache);
        let vocabulary_tokens = self.shape.vocabulary_tokens;
        let positions = row.logits.positions(row.tokens.len());
        let mut values = Vec::with_capacity(positions * vocabulary_tokens);
        for len in ids.len() - positions + 1..=ids.len() {
            push_logits(&ids[..len], (self.rule)(&ids[..len]), vocabulary_tokens, &mut values);
        }
        Logits::new(values, vocabulary_tokens)
    }
}

impl LanguageModel for ScriptedModel {
    fn shape(&self) -> ModelShape {
        self.shape
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(SHAPE, KvPrecision::F16)
    }

    fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError> {
        let forward = self.forwards;
        self.forwards += 1;
        check_rows(rows, self.shape, |cache| cache.shape() == SHAPE)?;
        std::thread::sleep(self.step_delay);
        rows.iter_mut().for_each(append_ids);
        if self.fault_at_forward == Some(forward) {
            rows.iter_mut().for_each(take_back);
            return Err(ModelError::Fault { what: format!("scripted fault at forward {forward}") });
        }
        Ok(rows.iter().map(|row| self.logits_of(row)).collect())
    }
}

fn append_ids(row: &mut Row<'_>) {
    let first = row.cache.len_tokens();
    row.cache.append(row.tokens.len());
    for (position, &id) in (first..).zip(row.tokens) {
        row.cache.write(0, position, &bytes(id), &bytes(wrap(position)));
    }
}

fn take_back(row: &mut Row<'_>) {
    let before = row.cache.len_tokens() - row.tokens.len();
    row.cache.truncate(before);
}

/// The ids a cache holds, checked to lie where they were written.
///
/// # Panics
/// If a value does not hold its own position: the cache has mixed its pages up.
pub fn read_ids(cache: &KvCache) -> Vec<u32> {
    let id_at = |position| {
        let (keys, values) = cache.read(0, position);
        assert_eq!(whole(&values), wrap(position), "the cache mixed its positions up");
        whole(&keys)
    };
    (0..cache.len_tokens()).map(id_at).collect()
}

/// A rule: a hash of all ids, spread evenly over `range`.
pub fn hash_rule(seed: u64, range: Range<u32>) -> impl Fn(&[u32]) -> u32 + Send + 'static {
    let width = u64::from(range.end.saturating_sub(range.start)).max(1);
    move |ids| range.start + low_half(hash_ids(seed, ids) % width)
}

/// A tokenizer whose ids are obvious: 0 to 255 are the bytes, 256 is the end of text
/// (`<|endoftext|>`), and the added tokens follow in the order given.
///
/// # Panics
/// Never: this vocabulary is always complete.
#[expect(clippy::expect_used, reason = "a vocabulary of all bytes has nothing that can be missing")]
pub fn byte_tokenizer(extra_added: &[(&str, TokenKind)]) -> Tokenizer {
    let bytes = (0..=255).map(|byte| (byte_token_text(byte), TokenKind::Normal));
    let end = ("<|endoftext|>".to_owned(), TokenKind::Control);
    let extra = extra_added.iter().map(|(text, kind)| ((*text).to_owned(), *kind));
    let tokens = bytes.chain([end]).chain(extra).collect();
    let roles = Roles { eos_id: Some(256), ..Roles::default() };
    let parts = TokenizerParts::new(tokens, Vec::new(), PreTokenizer::Gpt2);
    Tokenizer::build(TokenizerParts { roles, ..parts })
        .expect("256 bytes, an end token and added tokens are a vocabulary")
}

/// A spread over the whole vocabulary between 0 and 2, and the rule's id 6 to 10 above it: the
/// greedy token is the rule's, draws at temperature 1 now and then differ, and entropy varies.
fn push_logits(ids: &[u32], rule_says: u32, vocabulary_tokens: usize, out: &mut Vec<f32>) {
    let seed = hash_ids(0x5EED, ids);
    let first = out.len();
    out.extend((0..vocabulary_tokens as u64).map(|id| 2.0 * unit(mix(seed ^ mix(id)))));
    out[first + rule_says as usize % vocabulary_tokens] = 8.0 + 4.0 * unit(mix(seed));
}

fn hash_ids(seed: u64, ids: &[u32]) -> u64 {
    ids.iter().fold(mix(seed), |hash, &id| mix(hash ^ u64::from(id).wrapping_add(1)))
}

/// A number that looks unrelated to `x` (`SplitMix64`).
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// 16 bits as a float in [0, 1).
pub fn unit(bits: u64) -> f32 {
    f32::from((bits >> 48) as u16) / 65_536.0
}

fn bytes(id: u32) -> [f32; 4] {
    id.to_le_bytes().map(f32::from)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "8-bit whole numbers")]
fn whole(bytes: &[f32]) -> u32 {
    bytes.iter().rev().fold(0, |id, byte| id << 8 | u32::from(*byte as u8))
}

#[expect(clippy::cast_possible_truncation, reason = "positions are far below 2^32")]
fn wrap(position: usize) -> u32 {
    position as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the value is below a 32-bit width")]
fn low_half(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::banned_text::TokenMask;
    use crate::language_model::LogitsWanted;
    use crate::noise::{NoiseKey, Role};
    use crate::sampler::{Sampling, entropy_nats, sample};

    fn model() -> ScriptedModel {
        ScriptedModel::new(260, 500, hash_rule(7, 0..256))
    }

    fn run(
        model: &mut ScriptedModel,
        cache: &mut KvCache,
        tokens: &[u32],
    ) -> Result<Logits, ModelError> {
        let row = Row { tokens, cache, logits: LogitsWanted::All };
        Ok(model.forward(&mut [row])?.remove(0))
    }

    fn greedy(logits: &[f32]) -> u32 {
        let key = NoiseKey::new(0, Role::Llm, 0);
        sample(logits, &Sampling::GREEDY, key, &TokenMask::none()).unwrap().id
    }

    #[test]
    fn follows_its_rule_however_the_ids_came() {
        let ids: Vec<u32> = (0..100).map(|i| i * 7 % 260).collect();
        let rule = hash_rule(7, 0..256);
        for chunk in [1, 31, 32, 33, 100] {
            let mut model = model();
            let mut cache = model.new_cache();
            let mut said = Vec::new();
            for tokens in ids.chunks(chunk) {
                let logits = run(&mut model, &mut cache, tokens).unwrap();
                said.extend((0..logits.rows()).map(|row| greedy(logits.row(row))));
            }
            let expected: Vec<u32> = (1..=ids.len()).map(|len| rule(&ids[..len])).collect();
            assert_eq!(said, expected);
            assert_eq!(read_ids(&cache), ids);
        }
    }

    #[test]
    fn large_ids_survive_the_cache() {
        let mut model = ScriptedModel::new(u32::MAX as usize, 10, |ids| ids[0]);
        let mut cache = model.new_cache();
        let tokens = [0, 65_535, 65_536, 16_777_217, u32::MAX - 1];
        let row = Row { tokens: &tokens, cache: &mut cache, logits: LogitsWanted::None };
        model.forward(&mut [row]).unwrap();
        assert_eq!(read_ids(&cache), tokens);
    }

    #[test]
    fn a_fault_leaves_the_caches_as_they_were() {
        let mut model = model().with_fault(1);
        let mut cache = model.new_cache();
        run(&mut model, &mut cache, &[1, 2, 3]).unwrap();
        let error = run(&mut model, &mut cache, &[4; 40]).unwrap_err();
        assert!(matches!(error, ModelError::Fault { .. }), "{error}");
        assert_eq!(read_ids(&cache), [1, 2, 3]);
        assert_eq!(run(&mut model, &mut cache, &[4]).unwrap().rows(), 1);
    }

    #[test]
    fn every_id_before_matters_and_distributions_vary() {
        let rule = hash_rule(1, 10..20);
        assert!((0..50).all(|id| (10..20).contains(&rule(&[id]))));
        let differ = (0..50)
            .filter(|&id| hash_rule(1, 0..256)(&[id, 5]) != hash_rule(1, 0..256)(&[id + 1, 5]));
        assert!(differ.count() > 45);
        let mut model = model();
        let mut cache = model.new_cache();
        let logits = run(&mut model, &mut cache, &[9; 200]).unwrap();
        let entropies: Vec<f64> = (0..200).map(|row| entropy_nats(logits.row(row))).collect();
        assert!(
            entropies.iter().any(|nats| *nats > 1.4) && entropies.iter().any(|nats| *nats < 0.4)
        );
        let drawn = (0..200).filter(|row| {
            let key = NoiseKey::new(3, Role::Llm, *row);
            let row = logits.row(*row as usize);
            let drawn = sample(row, &Sampling::at_temperature(1.0), key, &TokenMask::none());
            drawn.unwrap().id == greedy(row)
        });
        assert!((80..199).contains(&drawn.count()));
    }

    #[test]
    fn the_byte_tokenizer_is_obvious() {
        let tokenizer = byte_tokenizer(&[("<call>", TokenKind::UserDefined)]);
        assert_eq!(tokenizer.encode_bytes(b"\x00a\xFF"), [0, 97, 255]);
        assert!(tokenizer.ends_text(256) && !tokenizer.ends_text(257));
    }
}
