//! What a projection adds to its outputs.

use crate::dispatch::for_each_instruction_set;

for_each_instruction_set! {
    /// `rows[row, i] += bias[i]`; `rows` is `[rows, bias.len()]`.
    ///
    /// # Panics
    /// If there is no bias, or the rows have another width.
    pub fn add_bias(rows: &mut [f32], bias: &[f32]) = add_to_rows
}

#[inline(always)]
fn add_to_rows(rows: &mut [f32], bias: &[f32]) {
    assert!(rows.len().is_multiple_of(bias.len()), "rows have another width than the bias");
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_gets_the_bias() {
        let mut rows = vec![1.0, 2.0, 3.0, 4.0];
        add_bias(&mut rows, &[10.0, -1.0]);
        assert_eq!(rows, vec![11.0, 1.0, 13.0, 3.0]);
    }

    #[test]
    #[should_panic(expected = "another width")]
    fn rows_of_another_width_are_refused() {
        add_bias(&mut [1.0; 3], &[1.0; 2]);
    }
}
