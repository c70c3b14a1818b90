//! Causal attention over paged keys and values, for ragged rows.

use rayon::prelude::*;

use crate::activation::exponentiate;
use crate::dispatch::for_each_instruction_set;
use crate::lanes::dot;

mod limits {
    /// Below this many products a second thread costs more than it saves.
    pub(super) const PRODUCTS_IN_PARALLEL_MIN: usize = 1 << 17;
}

/// Sizes of one attention layer. `kv_heads` divides `heads`: consecutive query heads share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Floats in a head.
    pub head_width: usize,
}

/// Keys and values of a page of tokens, each `[tokens, kv_heads · head_width]`. All pages of a
/// row hold the same number of tokens.
#[derive(Debug, Clone, Copy)]
pub struct KvPage<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// What one query attends to: the first `visible_tokens` tokens of its row's pages.
#[derive(Debug, Clone, Copy)]
pub struct QueryRow<'a> {
    /// The row's pages, in order.
    pub pages: &'a [KvPage<'a>],
    /// Tokens it may see, itself included.
    pub visible_tokens: usize,
}

/// Attention of each query over its row: `queries` and `out` are `[rows.len(), heads ·
/// head_width]`. Scores are scaled by 1/√`head_width`; keys are summed in their order.
///
/// # Panics
/// If the lengths do not fit each other, or a row has fewer keys than it may see.
pub fn paged_attention(
    shape: AttentionShape,
    queries: &[f32],
    rows: &[QueryRow<'_>],
    out: &mut [f32],
) {
    let width = shape.head_width;
    assert_eq!(queries.len(), rows.len() * shape.heads * width, "queries do not fit the rows");
    assert_eq!(queries.len(), out.len(), "the output has another shape");
    let visible: usize = rows.iter().map(|row| row.visible_tokens).sum();
    let one_head = |scores: &mut Vec<f32>, index: usize, out: &mut [f32]| {
        let (row, head) = (&rows[index / shape.heads], index % shape.heads);
        attend(shape, head, &queries[index * width..(index + 1) * width], row, scores, out);
    };
    if visible * shape.heads * width < limits::PRODUCTS_IN_PARALLEL_MIN {
        let mut scores = Vec::new();
        let heads = out.chunks_exact_mut(width).enumerate();
        heads.for_each(|(index, out)| one_head(&mut scores, index, out));
    } else {
        let heads = out.par_chunks_exact_mut(width).enumerate();
        heads.for_each_init(Vec::new, |scores, (index, out)| {
            one_head(scores, index, out);
        });
    }
}

for_each_instruction_set! {
    fn attend(
        shape: AttentionShape,
        head: usize,
        query: &[f32],
        row: &QueryRow<'_>,
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) = attend_one_head
}

#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
fn attend_one_head(
    shape: AttentionShape,
    head: usize,
    query: &[f32],
    row: &QueryRow<'_>,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let width = shape.head_width;
    let token_width = shape.kv_heads * width;
    let first = head * shape.kv_heads / shape.heads * width;
    let of_head = first..first + width;
    let scale = 1.0 / (width as f32).sqrt();
    scores.clear();
    let keys = row.pages.iter().flat_map(|page| page.keys.chunks_exact(token_width));
    for key in keys.take(row.visible_tokens) {
        scores.push(dot(query, &key[of_head.clone()]) * scale);
    }
    assert_eq!(scores.len(), row.visible_tokens, "a row has fewer keys than it may see");
    let total = exponentiate(scores);
    out.fill(0.0);
    let values = row.pages.iter().flat_map(|page| page.values.chunks_exact(token_width));
    for (weight, value) in scores.iter().zip(values) {
        for (out, value) in out.iter_mut().zip(&value[of_head.clone()]) {
            *out += weight * value;
        }
    }
    for out in out {
        *out /= total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: AttentionShape = AttentionShape { heads: 4, kv_heads: 2, head_width: 20 };
    const TOKEN: usize = 40;

    fn wave(len: usize, step: f64) -> Vec<f32> {
        let value = |index: usize| (f64::from(u32::try_from(index).unwrap_or(0)) * step).sin();
        #[expect(clippy::cast_possible_truncation, reason = "test data")]
        (0..len).map(|index| value(index) as f32).collect()
    }

    fn naive(query: &[f32], head: usize, keys: &[f32], values: &[f32], tokens: usize) -> Vec<f64> {
        let first = head / 2 * 20;
        let of = |data: &[f32], token: usize, i: usize| f64::from(data[token * TOKEN + first + i]);
        let score = |token: usize| -> f64 {
            (0..20).map(|i| f64::from(query[i]) * of(keys, token, i)).sum::<f64>() / 20_f64.sqrt()
        };
        let weights: Vec<f64> = (0..tokens).map(|token| score(token).exp()).collect();
        let total: f64 = weights.iter().sum();
        let sum = |i: usize| weights.iter().enumerate().map(move |(t, w)| (t, w, i));
        (0..20).map(|i| sum(i).map(|(t, w, i)| w * of(values, t, i)).sum::<f64>() / total).collect()
    }

    fn run(rows: &[(usize, usize)], page_tokens: usize) -> Vec<f32> {
        let longest = rows.iter().map(|row| row.1).max().unwrap_or(0);
        let padded = longest.next_multiple_of(page_tokens) * TOKEN;
        let (keys, values) = (wave(padded, 0.37), wave(padded, 0.11));
        let chunks = keys.chunks(page_tokens * TOKEN).zip(values.chunks(page_tokens * TOKEN));
        let pages: Vec<KvPage<'_>> = chunks.map(|(keys, values)| KvPage { keys, values }).collect();
        let queries: Vec<f32> = rows
            .iter()
            .flat_map(|row| wave(80, 0.05 + f64::from(u32::try_from(row.0).unwrap_or(0))))
            .collect();
        let rows: Vec<QueryRow<'_>> =
            rows.iter().map(|row| QueryRow { pages: &pages, visible_tokens: row.1 }).collect();
        let mut out = vec![f32::NAN; queries.len()];
        paged_attention(SHAPE, &queries, &rows, &mut out);
        out
    }

    #[test]
    fn is_softmax_attention() {
        for tokens in [1, 7, 8, 9, 33] {
            let out = run(&[(3, tokens)], 8);
            let padded = tokens.next_multiple_of(8) * TOKEN;
            let (keys, values) = (wave(padded, 0.37), wave(padded, 0.11));
            for head in 0..4 {
                let query = &wave(80, 3.05)[head * 20..(head + 1) * 20];
                let exact = naive(query, head, &keys, &values, tokens);
                for (ours, exact) in out[head * 20..(head + 1) * 20].iter().zip(exact) {
                    assert!(
                        (f64::from(*ours) - exact).abs() < 1e-5,
                        "{tokens} tokens, head {head}"
                    );
                }
            }
        }
    }

    proptest! {
        /// Neither the rows of a batch nor the size of pages nor threads change a bit.
        #[test]
        fn a_row_has_the_bits_it_has_alone(
            rows in prop::collection::vec((0_usize..9, 1_usize..90), 1..40), page in 1_usize..40,
        ) {
            let together = run(&rows, page);
            for (row, out) in rows.iter().zip(together.chunks(80)) {
                let alone = run(&[*row], 32);
                prop_assert!(out.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}
