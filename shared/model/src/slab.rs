//! A ragged batch cut into slabs: what goes through the layers together, and whose it is.
//!
//! Knows positions and rows, no numbers of a model; every forward pass cuts with these rules.

use std::ops::Range;

use crate::language_model::Row;

/// A stretch of one row's tokens inside a slab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Index of the row in the call.
    pub(crate) row: usize,
    /// Which of the row's new tokens.
    pub(crate) tokens: Range<usize>,
    /// Position of the first of them in its cache.
    pub(crate) first_position: usize,
}

impl Stretch {
    /// Positions of its tokens in their cache.
    pub(crate) fn positions(&self) -> Range<usize> {
        self.first_position..self.first_position + self.tokens.len()
    }
}

/// Cuts the rows' tokens, in order, into slabs. A row's later tokens come in later slabs, so its
/// earlier keys are always there first. The caches do not hold the tokens yet.
pub(crate) fn cut_into_slabs(rows: &[Row<'_>], slab_tokens: usize) -> Vec<Vec<Stretch>> {
    let mut slabs = Vec::new();
    let mut slab = Vec::new();
    let mut room = slab_tokens;
    for (index, row) in rows.iter().enumerate() {
        let mut from = 0;
        while from < row.tokens.len() {
            let to = row.tokens.len().min(from + room);
            let first_position = row.cache.len_tokens() + from;
            slab.push(Stretch { row: index, tokens: from..to, first_position });
            room -= to - from;
            from = to;
            if room == 0 {
                slabs.push(std::mem::take(&mut slab));
                room = slab_tokens;
            }
        }
    }
    slabs.push(slab);
    slabs.retain(|slab| !slab.is_empty());
    slabs
}

/// The ids of a slab's tokens.
pub(crate) fn ids<'a>(
    slab: &'a [Stretch],
    rows: &'a [Row<'_>],
) -> impl Iterator<Item = u32> + use<'a> {
    let of_stretch = |stretch: &'a Stretch| &rows[stretch.row].tokens[stretch.tokens.clone()];
    slab.iter().flat_map(of_stretch).copied()
}

/// A token of a slab whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The row that wants them.
    pub(crate) row: usize,
    /// Index of the token in the slab.
    pub(crate) token: usize,
}

/// The tokens of a slab whose logits are wanted, in order.
pub(crate) fn wanted(slab: &[Stretch], rows: &[Row<'_>]) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut token = 0;
    for stretch in slab {
        let row = &rows[stretch.row];
        let first = row.tokens.len() - row.logits.positions(row.tokens.len());
        for of_row in stretch.tokens.clone() {
            if of_row >= first {
                wanted.push(Wanted { row: stretch.row, token });
            }
            token += 1;
        }
    }
    wanted
}

/// Positions of all tokens of a slab, in order.
pub(crate) fn positions(slab: &[Stretch]) -> impl Iterator<Item = usize> {
    slab.iter().flat_map(Stretch::positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_cache::{KvCache, KvPrecision, KvShape};
    use crate::language_model::LogitsWanted;

    #[test]
    fn slabs_are_full_and_keep_the_order_of_rows() {
        let mut caches = [3, 0, 40].map(|held| {
            let mut cache = KvCache::new(KvShape { layers: 1, width: 1 }, KvPrecision::F16);
            cache.append(held);
            cache
        });
        let tokens = [vec![7; 5], vec![8; 1], vec![9; 6]];
        let logits = [LogitsWanted::Last, LogitsWanted::None, LogitsWanted::All];
        let rows: Vec<Row<'_>> = (caches.iter_mut().zip(&tokens).zip(logits))
            .map(|((cache, tokens), logits)| Row { tokens, cache, logits })
            .collect();
        let slabs = cut_into_slabs(&rows, 4);
        let stretch = |row, tokens, first_position| Stretch { row, tokens, first_position };
        let expected = [
            vec![stretch(0, 0..4, 3)],
            vec![stretch(0, 4..5, 7), stretch(1, 0..1, 0), stretch(2, 0..2, 40)],
            vec![stretch(2, 2..6, 42)],
        ];
        assert_eq!(slabs, expected);
        assert_eq!(ids(&slabs[1], &rows).collect::<Vec<_>>(), [7, 8, 9, 9]);
        let of_slab = |slab: usize| -> Vec<(usize, usize)> {
            wanted(&slabs[slab], &rows).iter().map(|wanted| (wanted.row, wanted.token)).collect()
        };
        assert_eq!(of_slab(0), []);
        assert_eq!(of_slab(1), [(0, 0), (2, 2), (2, 3)]);
        assert_eq!(of_slab(2), [(2, 0), (2, 1), (2, 2), (2, 3)]);
        assert_eq!(cut_into_slabs(&[], 4), Vec::<Vec<Stretch>>::new());
    }
}
