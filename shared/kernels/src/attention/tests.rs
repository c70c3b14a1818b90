//! Attention against f64, and the same bits for every way to the same query.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "made-up numbers")]

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::cpu::Cpu;
use crate::noise::{Noise, same_bits};

/// A sequence of `tokens` tokens with made-up queries, keys and values for each.
struct Sequence<E> {
    shape: AttentionShape,
    queries: Vec<f32>,
    keys: Vec<Vec<E>>,
    values: Vec<Vec<E>>,
}

/// Now and then 0, subnormal as a half or as a float, or as large as halves are.
fn extreme(noise: &mut Noise) -> f32 {
    match noise.bits() % 256 {
        0 => 65_504.0,
        1 => -65_504.0,
        2 => noise.value() * 1e-6,
        _ => noise.value().clamp(-65_504.0, 65_504.0),
    }
}

fn extremes(len: usize, noise: &mut Noise) -> Vec<f32> {
    (0..len).map(|_| extreme(noise)).collect()
}

impl<E: KvElement> Sequence<E> {
    fn new(shape: AttentionShape, tokens: usize, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let page = PAGE_TOKENS * shape.kv_width();
        let narrow = |page: &[f32]| {
            let mut out = vec![E::default(); page.len()];
            E::narrow(page, &mut out);
            out
        };
        let mut pages = || -> Vec<Vec<E>> {
            let all = extremes(tokens.div_ceil(PAGE_TOKENS) * page, &mut noise);
            all.chunks(page).map(narrow).collect()
        };
        let (keys, values) = (pages(), pages());
        let queries = extremes(tokens * shape.heads * shape.head_width, &mut noise);
        Self { shape, queries, keys, values }
    }

    fn pages(&self) -> Vec<KvPage<'_, E>> {
        let pages = self.keys.iter().zip(&self.values);
        pages.map(|(keys, values)| KvPage { keys, values }).collect()
    }

    fn query(&self, token: usize) -> &[f32] {
        let width = self.shape.heads * self.shape.head_width;
        &self.queries[token * width..(token + 1) * width]
    }

    /// The attention in f64, the size of its terms, and how far off its scores may be.
    fn exact(&self, token: usize, head: usize, at: usize) -> (f64, f64) {
        let width = self.shape.head_width;
        let first = head / self.shape.group() * width;
        let query = &self.query(token)[head * width..(head + 1) * width];
        let wide = |number: E| f64::from(number.widen());
        let key = |t: usize, i: usize| {
            wide(self.keys[t / PAGE_TOKENS][(first + i) * PAGE_TOKENS + t % PAGE_TOKENS])
        };
        let value = |t: usize| {
            wide(self.values[t / PAGE_TOKENS][t % PAGE_TOKENS * self.shape.kv_width() + first + at])
        };
        let terms = |t: usize| (0..width).map(move |i| f64::from(query[i]) * key(t, i));
        let root = (width as f64).sqrt();
        let scores: Vec<f64> = (0..=token).map(|t| terms(t).sum::<f64>() / root).collect();
        let sizes = (0..=token).map(|t| terms(t).map(f64::abs).sum::<f64>() / root);
        // Sums of so many terms, each rounded to 24 bits.
        let score_error = sizes.fold(0.0, f64::max) * width as f64 * 2_f64.powi(-24);
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
        let total: f64 = powers.iter().sum();
        let weighted = |of: &dyn Fn(f64) -> f64| -> f64 {
            powers.iter().enumerate().map(|(t, power)| power * of(value(t))).sum::<f64>() / total
        };
        let largest = (0..=token).map(|t| value(t).abs()).fold(0.0, f64::max);
        // Powers that are off by a factor of e^±error move the mean by no more than this.
        let most = largest * (2.0 * score_error).exp_m1().min(2.0) + weighted(&f64::abs) * 2e-5;
        (weighted(&|value| value), most + 1e-35 + largest * 1e-30)
    }
}

/// The attention of some stretches of sequences.
fn run<E: KvElement>(cpu: Cpu, threads: usize, parts: &[(&Sequence<E>, Range<usize>)]) -> Vec<f32> {
    let pages: Vec<Vec<KvPage<'_, E>>> =
        parts.iter().map(|(sequence, _)| sequence.pages()).collect();
    let stretches: Vec<QueryStretch<'_, E>> = parts
        .iter()
        .zip(&pages)
        .map(|((_, tokens), pages)| QueryStretch {
            pages,
            first_visible: tokens.start + 1,
            tokens: tokens.len(),
        })
        .collect();
    let queries: Vec<f32> = parts
        .iter()
        .flat_map(|(sequence, tokens)| tokens.clone().flat_map(|token| sequence.query(token)))
        .copied()
        .collect();
    let mut out = vec![f32::NAN; queries.len()];
    paged_attention(&Pool::new(cpu, threads), parts[0].0.shape, &queries, &stretches, &mut out);
    out
}

fn everywhere() -> impl Iterator<Item = Cpu> {
    Cpu::others().into_iter().chain([Cpu::PORTABLE])
}

fn shape() -> impl Strategy<Value = AttentionShape> {
    (1_usize..4, 1_usize..4, prop::sample::select(vec![3, 8, 20, 32, 44, 64])).prop_map(
        |(group, kv_heads, head_width)| AttentionShape {
            heads: group * kv_heads,
            kv_heads,
            head_width,
        },
    )
}

fn check_softmax_attention<E: KvElement>(shape: AttentionShape, tokens: usize, seed: u64) {
    let sequence = Sequence::<E>::new(shape, tokens, seed);
    let (token, width) = (tokens - 1, shape.head_width);
    let out = run(Cpu::PORTABLE, 1, &[(&sequence, token..tokens)]);
    for head in 0..shape.heads {
        for at in 0..width {
            let ours = f64::from(out[head * width + at]);
            let (exact, most) = sequence.exact(token, head, at);
            assert!((ours - exact).abs() <= most, "token {token}: {ours}, not {exact} ± {most}");
        }
    }
}

/// Neither the cut of a prefix, nor other rows, nor threads or instruction sets change a bit.
fn check_cut<E: KvElement>(shape: AttentionShape, tokens: usize, cut: usize, threads: usize) {
    let first = Sequence::<E>::new(shape, tokens, 1);
    let second = Sequence::<E>::new(shape, 150, 2);
    let whole = run(Cpu::best(), 1, &[(&first, 0..tokens)]);
    let parts = [(&second, 149..150), (&first, cut..tokens), (&second, 3..9)];
    let mixed = run(Cpu::best(), threads, &parts);
    let width = shape.heads * shape.head_width;
    assert!(same_bits(&mixed[width..][..(tokens - cut) * width], &whole[cut * width..]));
    let last = &whole[(tokens - 1) * width..];
    for cpu in everywhere() {
        let parts = [(&second, 2..3), (&first, tokens - 1..tokens), (&second, 9..10)];
        let decoded = run(cpu, threads, &parts);
        assert!(same_bits(&decoded[width..2 * width], last));
    }
}

fn check_instruction_sets<E: KvElement>(shape: AttentionShape, tokens: usize) {
    let sequence = Sequence::<E>::new(shape, tokens, 3);
    let portable = run(Cpu::PORTABLE, 1, &[(&sequence, 0..tokens)]);
    for cpu in Cpu::others() {
        assert!(same_bits(&portable, &run(cpu, 1, &[(&sequence, 0..tokens)])));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_query_has_the_bits_it_has_alone(
        shape in shape(), tokens in 1_usize..280, cut in 0_usize..280, threads in 1_usize..4,
    ) {
        check_cut::<u16>(shape, tokens, cut % tokens, threads);
        check_cut::<f32>(shape, tokens, cut % tokens, threads);
    }

    #[test]
    fn instruction_sets_give_the_same_bits(shape in shape(), tokens in 1_usize..200) {
        check_instruction_sets::<u16>(shape, tokens);
        check_instruction_sets::<f32>(shape, tokens);
    }

    #[test]
    fn is_softmax_attention(shape in shape(), tokens in 1_usize..300, seed: u64) {
        check_softmax_attention::<u16>(shape, tokens, seed);
        check_softmax_attention::<f32>(shape, tokens, seed);
    }
}

#[test]
fn what_lies_behind_the_last_token_is_never_used() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_width: 36 };
    let mut sequence = Sequence::<u16>::new(shape, 70, 4);
    let before = run(Cpu::best(), 1, &[(&sequence, 60..70)]);
    for token in 70..96 {
        for at in 0..36 {
            sequence.keys[2][at * PAGE_TOKENS + token - 64] = 0x7E00;
            sequence.values[2][(token - 64) * 36 + at] = 0x7E00;
        }
    }
    assert!(same_bits(&before, &run(Cpu::best(), 1, &[(&sequence, 60..70)])));
}

#[test]
#[should_panic(expected = "keys that are not")]
fn refuses_keys_that_are_not() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_width: 8 };
    let sequence = Sequence::<u16>::new(shape, 32, 0);
    let pages = sequence.pages();
    let stretch = QueryStretch { pages: &pages, first_visible: 33, tokens: 1 };
    let pool = Pool::new(Cpu::best(), 1);
    paged_attention(&pool, shape, &[0.0; 8], &[stretch], &mut [0.0; 8]);
}
