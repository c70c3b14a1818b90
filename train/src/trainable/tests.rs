//! Slopes held against finite differences: every number of every family, and adapters.

use std::sync::Arc;

use relay_model::{Family, RotaryScaling};

use super::*;

/// Small enough for finite differences.
pub(crate) fn test_architecture() -> Architecture {
    Architecture {
        family: Family::Llama,
        vocabulary_tokens: 11,
        context_tokens: 64,
        layers: 2,
        width: 8,
        heads: 4,
        kv_heads: 2,
        head_width: 4,
        feed_forward_width: 12,
        rotary_base: 100.0,
        rotary_scaling: None,
        norm_epsilon: 1e-5,
        is_tied: true,
    }
}

/// One of each kind: tied and untied, scaled positions, biases, head norms, heads that are not a
/// share of the width.
pub(crate) fn test_architectures() -> [Architecture; 4] {
    let llama = test_architecture();
    let scaling =
        RotaryScaling { factor: 4.0, low_turns: 1.0, high_turns: 4.0, trained_tokens: 16 };
    let scaled = Architecture { rotary_scaling: Some(scaling), is_tied: false, ..llama.clone() };
    let qwen2 = Architecture { family: Family::Qwen2, ..llama.clone() };
    let qwen3 =
        Architecture { family: Family::Qwen3, head_width: 6, is_tied: false, ..llama.clone() };
    [llama, scaled, qwen2, qwen3]
}

/// Every number differs from what it is drawn as, biases and norms too.
pub(crate) fn test_weights(architecture: &Architecture, seed: u64) -> Weights {
    let mut weights = Weights::draw(architecture, seed).unwrap();
    for (index, value) in (0..7_u8).cycle().zip(&mut weights.values) {
        *value += 0.04 * (f32::from(index) - 3.0);
    }
    weights
}

/// What a rank must be for A and B to be square where all widths are the same.
const SQUARE: usize = 8;

fn adapted(architecture: &Architecture, targets: &[Target]) -> Weights {
    adapted_by(3, architecture, targets)
}

fn adapted_by(rank: usize, architecture: &Architecture, targets: &[Target]) -> Weights {
    let lora = LoraSettings { rank, alpha: 6.0, targets: targets.to_vec() };
    let base = Arc::new(test_weights(architecture, 7));
    let mut weights = Weights::adapt(&base, lora, 3).unwrap();
    for (index, value) in (0..11_u8).cycle().zip(&mut weights.values) {
        *value += 0.05 * (f32::from(index) - 5.0);
    }
    weights
}

/// Longer than a block of attention.
fn sequence() -> Sequence {
    Sequence { ids: (0..40).map(|index| (index * index + 3) % 11).collect(), scored_from: 5 }
}

/// Some log-probabilities count more than others, some nothing, some against the rest.
fn slopes(count: usize) -> Vec<f32> {
    [-1.0, 0.5, 0.0, 2.0].into_iter().cycle().take(count).collect()
}

fn loss(weights: &Weights) -> f64 {
    let sequence = sequence();
    let logs = Pass::new(weights).forward(weights, &sequence);
    logs.iter().zip(slopes(logs.len())).map(|(log, slope)| f64::from(log * slope)).sum()
}

fn gradient(weights: &Weights) -> Vec<f32> {
    let sequence = sequence();
    let mut pass = Pass::new(weights);
    let mut gradient = vec![0.0; weights.values.len()];
    // Twice, so that what the first leaves in the buffers would show.
    for _ in 0..2 {
        gradient.fill(0.0);
        let logs = pass.forward(weights, &sequence);
        pass.backward(weights, &sequence, &slopes(logs.len()), &mut gradient);
    }
    gradient
}

fn assert_slopes(mut weights: Weights) {
    let gradient = gradient(&weights);
    for tensor in weights.tensors() {
        let largest = gradient[tensor.range.clone()].iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        assert!(largest > 1e-3, "{} has no slopes: {largest}", tensor.name);
        for at in tensor.range.clone() {
            let step = 4e-3;
            let kept = weights.values[at];
            weights.values[at] = kept + step;
            let above = loss(&weights);
            weights.values[at] = kept - step;
            let below = loss(&weights);
            weights.values[at] = kept;
            let expected = (above - below) / f64::from(2.0 * step);
            let slope = f64::from(gradient[at]);
            let allowed = 0.01 + 0.02 * expected.abs();
            assert!((slope - expected).abs() < allowed, "{}: {slope} {expected}", tensor.name);
        }
    }
}

#[test]
fn every_slope_is_that_of_finite_differences() {
    for architecture in test_architectures() {
        assert_slopes(test_weights(&architecture, 7));
    }
}

#[test]
fn every_slope_of_an_adapter_is_that_of_finite_differences() {
    for architecture in test_architectures() {
        assert_slopes(adapted(&architecture, &Target::ALL));
    }
    let some = [Target::Key, Target::Up, Target::Output];
    assert_slopes(adapted_by(SQUARE, &test_architecture(), &some));
}

#[test]
fn of_a_fresh_adapter_a_is_drawn_and_b_is_nothing() {
    let base = Arc::new(Weights::draw(&test_architecture(), 1).unwrap());
    let lora = LoraSettings { rank: 4, alpha: 1.0, targets: vec![Target::Down] };
    let fresh = Weights::adapt(&base, lora, 2).unwrap();
    for tensor in fresh.tensors() {
        let is_a = tensor.name.ends_with("lora_A.weight");
        let bound = if is_a { 1.0 / 12.0_f32.sqrt() } else { 0.0 };
        let values = &fresh.values[tensor.range.clone()];
        let largest = values.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        assert!(largest <= bound && largest >= 0.8 * bound, "{}: {largest}", tensor.name);
    }
}

/// By the tensors' names, element after element.
fn merged_by_hand(base: &Weights, adapters: &Weights) -> Vec<f32> {
    let LoraSettings { rank, alpha, .. } = adapters.lora().unwrap().clone();
    let mut values = base.values.clone();
    let places = adapters.tensors();
    for matrix in base.tensors() {
        let of = |side: &str| {
            let name = matrix.name.replace("weight", &format!("lora_{side}.weight"));
            places.iter().find(|place| place.name == format!("base_model.model.{name}"))
        };
        let (Some(a), Some(b)) = (of("A"), of("B")) else { continue };
        let [a, b] = [a, b].map(|place| &adapters.values[place.range.clone()]);
        let inputs = matrix.shape[1];
        for (at, value) in values[matrix.range.clone()].iter_mut().enumerate() {
            let (row, column) = (at / inputs, at % inputs);
            let product = |index: usize| b[row * rank + index] * a[index * inputs + column];
            *value += alpha / f32::from(u8::try_from(rank).unwrap())
                * (0..rank).map(product).sum::<f32>();
        }
    }
    values
}

#[test]
fn adapters_add_alpha_over_rank_times_b_times_a() {
    for rank in [3, SQUARE] {
        let base = test_weights(&test_architecture(), 7);
        let weights = adapted_by(rank, &test_architecture(), &Target::ALL);
        let by_hand = base.with_values(merged_by_hand(&base, &weights)).unwrap();
        for (ours, by_hand) in weights.merged().values.iter().zip(&by_hand.values) {
            assert!((ours - by_hand).abs() < 1e-5, "{ours} {by_hand}");
        }
        let logs = |weights: &Weights| Pass::new(weights).forward(weights, &sequence());
        for (ours, by_hand) in logs(&weights).into_iter().zip(logs(&by_hand)) {
            assert!((ours - by_hand).abs() < 1e-4, "{ours} {by_hand}");
        }
    }
}

#[test]
fn adapters_are_at_first_nothing_and_merged_the_same() {
    for architecture in test_architectures() {
        let base = Arc::new(test_weights(&architecture, 7));
        let logs = |weights: &Weights| Pass::new(weights).forward(weights, &sequence());
        let settings = adapted(&architecture, &Target::ALL).lora().unwrap().clone();
        let fresh = Weights::adapt(&base, settings, 3).unwrap();
        assert_eq!(logs(&fresh), logs(&base));
        let weights = adapted(&architecture, &Target::ALL);
        let merged = weights.merged();
        assert!(merged.lora().is_none());
        assert_ne!(logs(&merged), logs(&base));
        for (ours, merged) in logs(&weights).into_iter().zip(logs(&merged)) {
            assert!((ours - merged).abs() < 1e-4, "{ours} {merged}");
        }
    }
}

#[test]
fn impossible_adapters_are_refused() {
    let base = Arc::new(Weights::draw(&test_architecture(), 1).unwrap());
    let good = LoraSettings { rank: 2, alpha: 4.0, targets: vec![Target::Gate] };
    let adapt = |lora: LoraSettings| Weights::adapt(&base, lora, 1);
    for (bad, named) in [
        (LoraSettings { rank: 0, ..good.clone() }, "rank 0"),
        (LoraSettings { alpha: 0.0, ..good.clone() }, "alpha"),
        (LoraSettings { targets: vec![], ..good.clone() }, "targets"),
        (LoraSettings { targets: vec![Target::Up, Target::Up], ..good.clone() }, "twice"),
    ] {
        let error = adapt(bad).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let once = Arc::new(adapt(good.clone()).unwrap());
    assert!(Weights::adapt(&once, good, 1).is_err());
}

#[test]
fn probabilities_of_all_ids_sum_to_one() {
    let weights = Weights::draw(&test_architecture(), 3).unwrap();
    let mut pass = Pass::new(&weights);
    let total: f32 = (0..11)
        .map(|id| {
            let sequence = Sequence { ids: vec![1, 2, 3, id], scored_from: 3 };
            pass.forward(&weights, &sequence)[0].exp()
        })
        .sum();
    assert!((total - 1.0).abs() < 1e-5, "{total}");
}

#[test]
fn unsound_sequences_are_told() {
    let sound = |ids: &[u32], scored_from| {
        Sequence { ids: ids.to_vec(), scored_from }.is_sound(&test_architecture())
    };
    assert!(sound(&[1, 2], 1));
    assert!(!sound(&[1, 2], 0) && !sound(&[1, 2], 2) && !sound(&[], 0) && !sound(&[1, 11], 1));
    assert!(!sound(&[1; 65], 1));
}
