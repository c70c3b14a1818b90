//! The trainable model: log-probabilities of a sequence's tokens, and the slopes of any function of
//! them, by a backward pass written out by hand. One sequence at a time, no padding: what one
//! needs stays in cache, and buffers are used again. Knows no batch, no optimiser and no file.
//!
//! The same forward pass as in Touvron et al., 2023 (arXiv 2302.13971), with grouped queries.

mod architecture;
mod attention;
mod matrix;
mod pointwise;
mod weights;

pub use architecture::{Architecture, TensorPlace};
pub use weights::Weights;

use architecture::LayerPlaces;
use matrix::{project, project_back};
use pointwise::{angles, gate, gate_back, norm, norm_back, rotate, softmax};

/// Ids, of which those from `scored_from` on are predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// All of them.
    pub ids: Vec<u32>,
    /// The first id whose log-probability is wanted; at least 1.
    pub scored_from: usize,
}

impl Sequence {
    /// The ids that are predicted.
    pub fn scored(&self) -> &[u32] {
        self.ids.get(self.scored_from..).unwrap_or_default()
    }

    /// Whether there is something to predict, and something to predict it from.
    pub fn is_sound(&self, architecture: &Architecture) -> bool {
        let Architecture { vocabulary_tokens, context_tokens, .. } = *architecture;
        (1..self.ids.len()).contains(&self.scored_from)
            && self.ids.len() <= context_tokens
            && self.ids.iter().all(|&id| (id as usize) < vocabulary_tokens)
    }
}

/// What one layer's way back needs.
#[derive(Debug, Default)]
struct LayerTape {
    input: Vec<f32>,
    attention_scales: Vec<f32>,
    attention_normed: Vec<f32>,
    /// Queries and keys turned.
    projections: Vec<f32>,
    squares: Vec<f32>,
    attended: Vec<f32>,
    middle: Vec<f32>,
    feed_forward_scales: Vec<f32>,
    feed_forward_normed: Vec<f32>,
    gate_and_up: Vec<f32>,
    gated: Vec<f32>,
}

/// Buffers of the way back, the same for all layers.
#[derive(Debug, Default)]
struct Scratch {
    hidden: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
    attended: Vec<f32>,
    block: Vec<f32>,
}

/// Buffers of one thread: a forward pass fills them, a backward pass uses them.
#[derive(Debug)]
pub struct Pass {
    architecture: Architecture,
    places: Vec<LayerPlaces>,
    /// Of each position; as many as the longest sequence so far.
    angles: Vec<(f32, f32)>,
    layers: Vec<LayerTape>,
    hidden: Vec<f32>,
    /// Hidden states whose next token is scored.
    states: Vec<f32>,
    state_scales: Vec<f32>,
    states_normed: Vec<f32>,
    probabilities: Vec<f32>,
    scratch: Scratch,
}

impl Pass {
    /// Empty buffers for models of these sizes.
    pub fn new(architecture: &Architecture) -> Self {
        Self {
            architecture: architecture.clone(),
            places: architecture.layer_places(),
            angles: Vec::new(),
            layers: (0..architecture.layers).map(|_| LayerTape::default()).collect(),
            hidden: Vec::new(),
            states: Vec::new(),
            state_scales: Vec::new(),
            states_normed: Vec::new(),
            probabilities: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Log-probability of each scored id, in nats. The sequence must be sound.
    pub fn forward(&mut self, weights: &Weights, sequence: &Sequence) -> Vec<f32> {
        let Architecture {
            width, head_width, rotary_base, norm_epsilon, vocabulary_tokens, ..
        } = self.architecture;
        let inputs = &sequence.ids[..sequence.ids.len() - 1];
        if self.angles.len() < inputs.len() * head_width / 2 {
            self.angles = angles(inputs.len().next_power_of_two(), head_width, rotary_base);
        }
        let embedding = &weights.values[self.architecture.embedding()];
        self.hidden.clear();
        for &id in inputs {
            self.hidden.extend_from_slice(&embedding[id as usize * width..][..width]);
        }
        for index in 0..self.layers.len() {
            self.layer_forward(index, weights);
        }
        self.states.clear();
        self.states.extend_from_slice(&self.hidden[(sequence.scored_from - 1) * width..]);
        let output_norm = &weights.values[self.architecture.output_norm()];
        let (scales, normed) = (&mut self.state_scales, &mut self.states_normed);
        norm(&self.states, output_norm, norm_epsilon, scales, normed);
        let scored = sequence.scored();
        project(&self.states_normed, embedding, scored.len(), 0.0, &mut self.probabilities);
        let rows = self.probabilities.chunks_exact_mut(vocabulary_tokens);
        rows.zip(scored)
            .map(|(row, &id)| {
                let logit = row[id as usize];
                logit - softmax(row)
            })
            .collect()
    }

    fn layer_forward(&mut self, index: usize, weights: &Weights) {
        let (places, tape) = (&self.places[index], &mut self.layers[index]);
        let (hidden, epsilon) = (&mut self.hidden, self.architecture.norm_epsilon);
        let values = &weights.values;
        let tokens = hidden.len() / self.architecture.width;
        tape.input.clone_from(hidden);
        let norm_weights = &values[places.attention_norm.clone()];
        let (scales, normed) = (&mut tape.attention_scales, &mut tape.attention_normed);
        norm(hidden, norm_weights, epsilon, scales, normed);
        let matrix = &values[places.projections.clone()];
        project(normed, matrix, tokens, 0.0, &mut tape.projections);
        turn(&self.architecture, &self.angles, 1.0, &mut tape.projections);
        let (squares, attended) = (&mut tape.squares, &mut tape.attended);
        attention::attend(&self.architecture, &tape.projections, squares, attended);
        project(attended, &values[places.attention_output.clone()], tokens, 1.0, hidden);

        tape.middle.clone_from(hidden);
        let norm_weights = &values[places.feed_forward_norm.clone()];
        let (scales, normed) = (&mut tape.feed_forward_scales, &mut tape.feed_forward_normed);
        norm(hidden, norm_weights, epsilon, scales, normed);
        let matrix = &values[places.gate_and_up.clone()];
        project(normed, matrix, tokens, 0.0, &mut tape.gate_and_up);
        gate(&tape.gate_and_up, self.architecture.feed_forward_width, &mut tape.gated);
        project(&tape.gated, &values[places.down.clone()], tokens, 1.0, hidden);
    }

    /// Adds the slope of each weight to `gradient`, given the slope of the loss along each scored
    /// id's log-probability. `weights` and `sequence` are those of the last forward pass, whose
    /// buffers this uses up.
    pub fn backward(
        &mut self,
        weights: &Weights,
        sequence: &Sequence,
        slopes: &[f32],
        gradient: &mut [f32],
    ) {
        let Architecture { width, vocabulary_tokens, .. } = self.architecture;
        let scored = sequence.scored();
        let rows = self.probabilities.chunks_exact_mut(vocabulary_tokens);
        for ((row, &id), slope) in rows.zip(scored).zip(slopes) {
            for probability in row.iter_mut() {
                *probability *= -slope;
            }
            row[id as usize] += slope;
        }
        let (embedding, output_norm) =
            (self.architecture.embedding(), self.architecture.output_norm());
        let scratch = &mut self.scratch;
        project_back(
            (&self.states_normed, &weights.values[embedding.clone()]),
            &self.probabilities,
            scored.len(),
            &mut scratch.normed,
            &mut gradient[embedding.clone()],
        );
        scratch.hidden.clear();
        scratch.hidden.resize(self.hidden.len(), 0.0);
        norm_back(
            (&self.states, &weights.values[output_norm.clone()], &self.state_scales),
            &scratch.normed,
            &mut scratch.hidden[(sequence.scored_from - 1) * width..],
            &mut gradient[output_norm],
        );
        for index in (0..self.layers.len()).rev() {
            self.feed_forward_back(index, weights, gradient);
            self.attention_back(index, weights, gradient);
        }
        let hidden = self.scratch.hidden.chunks_exact(width);
        let embedding = &mut gradient[embedding];
        for (&id, slopes) in sequence.ids.iter().zip(hidden) {
            let row = &mut embedding[id as usize * width..][..width];
            for (row, slope) in row.iter_mut().zip(slopes) {
                *row += slope;
            }
        }
    }

    fn feed_forward_back(&mut self, index: usize, weights: &Weights, gradient: &mut [f32]) {
        let (places, tape, scratch) =
            (&self.places[index], &mut self.layers[index], &mut self.scratch);
        let values = &weights.values;
        let tokens = tape.feed_forward_scales.len();
        project_back(
            (&tape.gated, &values[places.down.clone()]),
            &scratch.hidden,
            tokens,
            &mut scratch.wide,
            &mut gradient[places.down.clone()],
        );
        gate_back(&mut tape.gate_and_up, self.architecture.feed_forward_width, &scratch.wide);
        project_back(
            (&tape.feed_forward_normed, &values[places.gate_and_up.clone()]),
            &tape.gate_and_up,
            tokens,
            &mut scratch.normed,
            &mut gradient[places.gate_and_up.clone()],
        );
        let norm_weights = &values[places.feed_forward_norm.clone()];
        norm_back(
            (&tape.middle, norm_weights, &tape.feed_forward_scales),
            &scratch.normed,
            &mut scratch.hidden,
            &mut gradient[places.feed_forward_norm.clone()],
        );
    }

    fn attention_back(&mut self, index: usize, weights: &Weights, gradient: &mut [f32]) {
        let (places, tape, scratch) =
            (&self.places[index], &mut self.layers[index], &mut self.scratch);
        let values = &weights.values;
        let tokens = tape.attention_scales.len();
        project_back(
            (&tape.attended, &values[places.attention_output.clone()]),
            &scratch.hidden,
            tokens,
            &mut scratch.attended,
            &mut gradient[places.attention_output.clone()],
        );
        attention::attend_back(
            &self.architecture,
            (&tape.projections, &tape.squares),
            &scratch.attended,
            &mut scratch.block,
            &mut scratch.wide,
        );
        turn(&self.architecture, &self.angles, -1.0, &mut scratch.wide);
        project_back(
            (&tape.attention_normed, &values[places.projections.clone()]),
            &scratch.wide,
            tokens,
            &mut scratch.normed,
            &mut gradient[places.projections.clone()],
        );
        let norm_weights = &values[places.attention_norm.clone()];
        norm_back(
            (&tape.input, norm_weights, &tape.attention_scales),
            &scratch.normed,
            &mut scratch.hidden,
            &mut gradient[places.attention_norm.clone()],
        );
    }
}

/// Turns each token's queries and keys to its position, or back.
fn turn(
    architecture: &Architecture,
    angles: &[(f32, f32)],
    direction: f32,
    projections: &mut [f32],
) {
    let turned = architecture.query_width() + architecture.kv_width();
    let tokens = projections.chunks_exact_mut(architecture.projections_width());
    for (token, angles) in tokens.zip(angles.chunks_exact(architecture.head_width / 2)) {
        rotate(&mut token[..turned], angles, direction);
    }
}

/// Small enough for finite differences.
#[cfg(test)]
pub(crate) fn test_architecture() -> Architecture {
    Architecture {
        vocabulary_tokens: 11,
        context_tokens: 64,
        layers: 2,
        width: 8,
        heads: 4,
        kv_heads: 2,
        head_width: 4,
        feed_forward_width: 12,
        rotary_base: 100.0,
        norm_epsilon: 1e-5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let logs = Pass::new(weights.architecture()).forward(weights, &sequence);
        logs.iter().zip(slopes(logs.len())).map(|(log, slope)| f64::from(log * slope)).sum()
    }

    #[test]
    fn every_slope_is_that_of_finite_differences() {
        let mut weights = Weights::draw(&test_architecture(), 7).unwrap();
        let sequence = sequence();
        let mut pass = Pass::new(&test_architecture());
        let mut gradient = vec![0.0; weights.values.len()];
        // Twice, so that what the first leaves in the buffers would show.
        for _ in 0..2 {
            gradient.fill(0.0);
            let logs = pass.forward(&weights, &sequence);
            pass.backward(&weights, &sequence, &slopes(logs.len()), &mut gradient);
        }
        for tensor in test_architecture().tensors() {
            let largest = gradient[tensor.range.clone()].iter().copied().fold(0.0, f32::max);
            assert!(largest > 1e-3, "{} has no slopes", tensor.name);
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
    fn probabilities_of_all_ids_sum_to_one() {
        let weights = Weights::draw(&test_architecture(), 3).unwrap();
        let mut pass = Pass::new(&test_architecture());
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
}
