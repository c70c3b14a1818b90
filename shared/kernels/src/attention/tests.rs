//! Attention against f64, and the same bits for every way to the same query.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "made-up numbers")]

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::cpu::Cpu;

/// A sequence of `tokens` tokens with made-up queries, keys and values for each.
struct Sequence<E> {
    shape: AttentionShape,
    queries: Vec<f32>,
    keys: Vec<Vec<E>>,
    values: Vec<Vec<E>>,
}

fn wave(len: usize, step: f64) -> Vec<f32> {
    (0..len).map(|index| (index as f64 * step).sin() as f32).collect()
}

impl<E: KvElement> Sequence<E> {
    fn new(shape: AttentionShape, tokens: usize, seed: usize) -> Self {
        let seed = seed as f64;
        let page = PAGE_TOKENS * shape.kv_width();
        let narrow = |page: &[f32]| {
            let mut out = vec![E::default(); page.len()];
            E::narrow(&page.iter().map(|x| x * 3.0).collect::<Vec<_>>(), &mut out);
            out
        };
        let pages = |step: f64| -> Vec<Vec<E>> {
            let all = wave(tokens.div_ceil(PAGE_TOKENS) * page, step + seed);
            all.chunks(page).map(narrow).collect()
        };
        let queries = wave(tokens * shape.heads * shape.head_width, 0.05 + seed);
        Self { shape, queries, keys: pages(0.37), values: pages(0.11) }
    }

    fn pages(&self) -> Vec<KvPage<'_, E>> {
        let pages = self.keys.iter().zip(&self.values);
        pages.map(|(keys, values)| KvPage { keys, values }).collect()
    }

    fn query(&self, token: usize) -> &[f32] {
        let width = self.shape.heads * self.shape.head_width;
        &self.queries[token * width..(token + 1) * width]
    }

    fn exact(&self, token: usize, head: usize, at: usize) -> f64 {
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
        let score = |t: usize| -> f64 {
            let dot: f64 = (0..width).map(|i| f64::from(query[i]) * key(t, i)).sum();
            (dot / (width as f64).sqrt()).exp()
        };
        let total: f64 = (0..=token).map(score).sum();
        (0..=token).map(|t| score(t) * value(t)).sum::<f64>() / total
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

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
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

#[test]
fn is_softmax_attention() {
    check_softmax_attention::<u16>();
    check_softmax_attention::<f32>();
}

fn check_softmax_attention<E: KvElement>() {
    let shape = AttentionShape { heads: 6, kv_heads: 2, head_width: 20 };
    let sequence = Sequence::<E>::new(shape, 300, 1);
    for cpu in everywhere() {
        for token in [0, 1, 6, 31, 32, 127, 128, 299] {
            let out = run(cpu, 1, &[(&sequence, token..token + 1)]);
            for head in 0..6 {
                for at in 0..20 {
                    let (ours, exact) = (out[head * 20 + at], sequence.exact(token, head, at));
                    assert!(
                        (f64::from(ours) - exact).abs() < 1e-5,
                        "token {token}: {ours}, {exact}"
                    );
                }
            }
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
