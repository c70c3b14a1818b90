//! What is done number by number or row by row, forth and back: norms, the gate, rotary positions,
//! the softmax. Loops are written for eight lanes side by side, so that the compiler can use them;
//! the order of every sum is fixed. Knows no model.

const LANES: usize = 8;

/// eˣ with a relative error below 1e-6, without a branch: a power of two and a polynomial. Below
/// −87 it is next to 0, above 88 it stays at e⁸⁸.
fn exponential(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Added and taken away again, it rounds to whole numbers.
    const ROUNDING: f32 = 12_582_912.0;
    const TAYLOR: [f32; 7] =
        [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUNDING;
    let power = shifted - ROUNDING;
    let rest = (x - power * LN_2_HIGH) - power * LN_2_LOW;
    let polynomial = TAYLOR.iter().fold(0.0, |sum, factor| sum * rest + factor);
    let mantissa = polynomial * rest + 1.0;
    f32::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Σ aᵢ·bᵢ.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

fn highest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Turns scores into probabilities; gives the logarithm of what they were divided by.
pub(super) fn softmax(scores: &mut [f32]) -> f32 {
    let highest = highest(scores);
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            chunk[lane] = exponential(chunk[lane] - highest);
            lanes[lane] += chunk[lane];
        }
    }
    let mut total: f32 = lanes.iter().sum();
    for score in rest {
        *score = exponential(*score - highest);
        total += *score;
    }
    let share = 1.0 / total;
    for score in scores {
        *score *= share;
    }
    highest + total.ln()
}

/// RMS norm of rows as wide as `weights`; `scales` gets what each row was multiplied by.
pub(super) fn norm(
    inputs: &[f32],
    weights: &[f32],
    epsilon: f32,
    scales: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    let width = weights.len();
    out.resize(inputs.len(), 0.0);
    scales.clear();
    for (inputs, out) in inputs.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = 1.0 / (dot(inputs, inputs) / count(width) + epsilon).sqrt();
        scales.push(scale);
        for ((out, input), weight) in out.iter_mut().zip(inputs).zip(weights) {
            *out = input * scale * weight;
        }
    }
}

/// The way back of [`norm`]; slopes of the inputs are added to what `input_slopes` holds, and so are
/// those of the weights, unless these are frozen.
pub(super) fn norm_back(
    (inputs, weights, scales): (&[f32], &[f32], &[f32]),
    slopes: &[f32],
    input_slopes: &mut [f32],
    mut weight_slopes: Option<&mut [f32]>,
) {
    let width = weights.len();
    let rows = inputs.chunks_exact(width).zip(slopes.chunks_exact(width)).zip(scales);
    let mut weighted = vec![0.0; width];
    for (((inputs, slopes), &scale), input_slopes) in rows.zip(input_slopes.chunks_exact_mut(width))
    {
        for index in 0..width {
            weighted[index] = slopes[index] * weights[index];
        }
        if let Some(weight_slopes) = weight_slopes.as_deref_mut() {
            for index in 0..width {
                weight_slopes[index] += slopes[index] * inputs[index] * scale;
            }
        }
        let pull = dot(&weighted, inputs) * scale * scale / count(width);
        for index in 0..width {
            input_slopes[index] += scale * (weighted[index] - pull * inputs[index]);
        }
    }
}

/// `silu(gate) · up`, where rows hold the gate's numbers and then the others.
pub(super) fn gate(rows: &[f32], width: usize, out: &mut Vec<f32>) {
    out.resize(rows.len() / 2, 0.0);
    for (row, out) in rows.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gates, ups) = row.split_at(width);
        for ((out, gate), up) in out.iter_mut().zip(gates).zip(ups) {
            *out = gate / (1.0 + exponential(-gate)) * up;
        }
    }
}

/// The way back of [`gate`]: `rows` is replaced by its own slopes.
pub(super) fn gate_back(rows: &mut [f32], width: usize, slopes: &[f32]) {
    for (row, slopes) in rows.chunks_exact_mut(2 * width).zip(slopes.chunks_exact(width)) {
        let (gates, ups) = row.split_at_mut(width);
        for ((gate, up), slope) in gates.iter_mut().zip(ups).zip(slopes) {
            let share = 1.0 / (1.0 + exponential(-*gate));
            let silu = *gate * share;
            let steepness = share * (1.0 + *gate * (1.0 - share));
            *gate = slope * *up * steepness;
            *up = slope * silu;
        }
    }
}

/// Cosine and sine of each position's pairs: `[positions, frequencies]`.
#[expect(clippy::cast_possible_truncation, reason = "angles are computed wide, used narrow")]
#[expect(clippy::cast_precision_loss, reason = "positions are far below 2^52")]
pub(super) fn angles(positions: usize, frequencies: &[f64]) -> Vec<(f32, f32)> {
    let of = |position: usize| frequencies.iter().map(move |frequency| position as f64 * frequency);
    (0..positions).flat_map(of).map(|angle| (angle.cos() as f32, angle.sin() as f32)).collect()
}

/// Turns the heads at the start of a row to its position: number i with i + half of the head.
/// A `direction` of −1 turns back.
pub(super) fn rotate(heads: &mut [f32], angles: &[(f32, f32)], direction: f32) {
    for head in heads.chunks_exact_mut(2 * angles.len()) {
        let (first, second) = head.split_at_mut(angles.len());
        for ((first, second), (cosine, sine)) in first.iter_mut().zip(second).zip(angles) {
            let sine = sine * direction;
            let turned = *first * cosine - *second * sine;
            *second = *second * cosine + *first * sine;
            *first = turned;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
fn count(width: usize) -> f32 {
    width as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_one() {
        for step in -8700..8800_i16 {
            let x = f32::from(step) / 100.0;
            let (own, exact) = (f64::from(exponential(x)), f64::from(x).exp());
            assert!((own / exact - 1.0).abs() < 1e-6, "{x}: {own} {exact}");
        }
        assert!(exponential(-1e30) < 1e-37 && exponential(1e30).is_finite());
    }

    #[test]
    fn a_softmax_sums_to_one_and_gives_its_divisor() {
        let mut scores: Vec<f32> = (0..21_u8).map(|index| f32::from(index % 7) - 3.0).collect();
        let plain: f32 = scores.iter().map(|score| score.exp()).sum();
        let divisor = softmax(&mut scores);
        assert!((divisor - plain.ln()).abs() < 1e-5, "{divisor}");
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!((scores[0] - (-3.0 - divisor).exp()).abs() < 1e-6);
    }
}
