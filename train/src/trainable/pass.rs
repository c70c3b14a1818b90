//! Forward and backward of one sequence, layer by layer. Knows no batch and no objective.

use relay_model::rotary_frequencies;

use super::architecture::Architecture;
use super::attention;
use super::head_norm::{HeadColumns, HeadTape};
use super::linear::LinearTape;
use super::matrix::{project, project_back};
use super::places::Places;
use super::pointwise::{angles, gate, gate_back, norm, norm_back, rotate, softmax};
use super::sequence::Sequence;
use super::weights::Weights;

/// What one layer's way back needs.
#[derive(Debug, Default)]
struct LayerTape {
    input: Vec<f32>,
    attention_scales: Vec<f32>,
    attention_normed: Vec<f32>,
    projected: LinearTape,
    queries: HeadTape,
    keys: HeadTape,
    /// Queries and keys normed, where the family does so, and turned.
    projections: Vec<f32>,
    squares: Vec<f32>,
    attended: Vec<f32>,
    attention_output: LinearTape,
    middle: Vec<f32>,
    feed_forward_scales: Vec<f32>,
    feed_forward_normed: Vec<f32>,
    gate_and_up_linear: LinearTape,
    gate_and_up: Vec<f32>,
    gated: Vec<f32>,
    down: LinearTape,
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
    places: Places,
    frequencies: Vec<f64>,
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
    /// Empty buffers for weights like these.
    pub fn new(weights: &Weights) -> Self {
        let architecture = weights.architecture().clone();
        let Architecture { rotary_base, head_width, layers, .. } = architecture;
        let scaling = architecture.rotary_scaling.as_ref();
        Self {
            places: Places::new(&architecture, weights.lora()),
            frequencies: rotary_frequencies(rotary_base, head_width, scaling),
            angles: Vec::new(),
            layers: (0..layers).map(|_| LayerTape::default()).collect(),
            hidden: Vec::new(),
            states: Vec::new(),
            state_scales: Vec::new(),
            states_normed: Vec::new(),
            probabilities: Vec::new(),
            scratch: Scratch::default(),
            architecture,
        }
    }

    /// Log-probability of each scored id, in nats. The sequence must be sound.
    pub fn forward(&mut self, weights: &Weights, sequence: &Sequence) -> Vec<f32> {
        let Architecture { width, norm_epsilon, vocabulary_tokens, .. } = self.architecture;
        let inputs = &sequence.ids[..sequence.ids.len() - 1];
        if self.angles.len() < inputs.len() * self.frequencies.len() {
            self.angles = angles(inputs.len().next_power_of_two(), &self.frequencies);
        }
        let embedding = &weights.base()[self.places.embedding.clone()];
        self.hidden.clear();
        for &id in inputs {
            self.hidden.extend_from_slice(&embedding[id as usize * width..][..width]);
        }
        for index in 0..self.layers.len() {
            self.attention_forward(index, weights);
            self.feed_forward_forward(index, weights);
        }
        self.states.clear();
        self.states.extend_from_slice(&self.hidden[(sequence.scored_from - 1) * width..]);
        let output_norm = &weights.base()[self.places.output_norm.clone()];
        let (scales, normed) = (&mut self.state_scales, &mut self.states_normed);
        norm(&self.states, output_norm, norm_epsilon, scales, normed);
        let scored = sequence.scored();
        let output = &weights.base()[self.places.output.clone()];
        project(&self.states_normed, output, scored.len(), 0.0, &mut self.probabilities);
        let rows = self.probabilities.chunks_exact_mut(vocabulary_tokens);
        rows.zip(scored)
            .map(|(row, &id)| {
                let logit = row[id as usize];
                logit - softmax(row)
            })
            .collect()
    }

    fn attention_forward(&mut self, index: usize, weights: &Weights) {
        let (places, tape) = (&self.places.layers[index], &mut self.layers[index]);
        let (hidden, epsilon) = (&mut self.hidden, self.architecture.norm_epsilon);
        let base = weights.base();
        let tokens = hidden.len() / self.architecture.width;
        tape.input.clone_from(hidden);
        let norm_weights = &base[places.attention_norm.clone()];
        let (scales, normed) = (&mut tape.attention_scales, &mut tape.attention_normed);
        norm(hidden, norm_weights, epsilon, scales, normed);
        let out = (tokens, &mut tape.projections);
        places.projections.forward(weights, normed, 0.0, &mut tape.projected, out);
        if !places.query_norm.is_empty() {
            let [queries, keys] = heads(&self.architecture);
            let rows = &mut tape.projections;
            queries.norm(&base[places.query_norm.clone()], epsilon, &mut tape.queries, rows);
            keys.norm(&base[places.key_norm.clone()], epsilon, &mut tape.keys, rows);
        }
        turn(&self.architecture, &self.angles, 1.0, &mut tape.projections);
        let (squares, attended) = (&mut tape.squares, &mut tape.attended);
        attention::attend(&self.architecture, &tape.projections, squares, attended);
        let linear = &mut tape.attention_output;
        places.attention_output.forward(weights, attended, 1.0, linear, (tokens, hidden));
    }

    fn feed_forward_forward(&mut self, index: usize, weights: &Weights) {
        let (places, tape) = (&self.places.layers[index], &mut self.layers[index]);
        let (hidden, epsilon) = (&mut self.hidden, self.architecture.norm_epsilon);
        let tokens = hidden.len() / self.architecture.width;
        tape.middle.clone_from(hidden);
        let norm_weights = &weights.base()[places.feed_forward_norm.clone()];
        let (scales, normed) = (&mut tape.feed_forward_scales, &mut tape.feed_forward_normed);
        norm(hidden, norm_weights, epsilon, scales, normed);
        let out = (tokens, &mut tape.gate_and_up);
        places.gate_and_up.forward(weights, normed, 0.0, &mut tape.gate_and_up_linear, out);
        gate(&tape.gate_and_up, self.architecture.feed_forward_width, &mut tape.gated);
        places.down.forward(weights, &tape.gated, 1.0, &mut tape.down, (tokens, hidden));
    }

    /// Adds the slope of each number that learns to `gradient`, given the slope of the loss along
    /// each scored id's log-probability. `weights` and `sequence` are those of the last forward
    /// pass, whose buffers this uses up.
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
        let (output, output_norm) = (&self.places.output, &self.places.output_norm);
        let scratch = &mut self.scratch;
        project_back(
            (&self.states_normed, &weights.base()[output.clone()]),
            &self.probabilities,
            scored.len(),
            &mut scratch.normed,
            weights.slopes_of(output, gradient),
        );
        scratch.hidden.clear();
        scratch.hidden.resize(self.hidden.len(), 0.0);
        norm_back(
            (&self.states, &weights.base()[output_norm.clone()], &self.state_scales),
            &scratch.normed,
            &mut scratch.hidden[(sequence.scored_from - 1) * width..],
            weights.slopes_of(output_norm, gradient),
        );
        for index in (0..self.layers.len()).rev() {
            self.feed_forward_back(index, weights, gradient);
            self.attention_back(index, weights, gradient);
        }
        let Some(embedding) = weights.slopes_of(&self.places.embedding, gradient) else { return };
        let hidden = self.scratch.hidden.chunks_exact(width);
        for (&id, slopes) in sequence.ids.iter().zip(hidden) {
            let row = &mut embedding[id as usize * width..][..width];
            for (row, slope) in row.iter_mut().zip(slopes) {
                *row += slope;
            }
        }
    }

    fn feed_forward_back(&mut self, index: usize, weights: &Weights, gradient: &mut [f32]) {
        let (places, tape, scratch) =
            (&self.places.layers[index], &mut self.layers[index], &mut self.scratch);
        let tokens = tape.feed_forward_scales.len();
        let slopes = (tokens, &scratch.hidden[..]);
        let wide = &mut scratch.wide;
        places.down.backward(weights, &tape.gated, &mut tape.down, slopes, wide, gradient);
        gate_back(&mut tape.gate_and_up, self.architecture.feed_forward_width, wide);
        places.gate_and_up.backward(
            weights,
            &tape.feed_forward_normed,
            &mut tape.gate_and_up_linear,
            (tokens, &tape.gate_and_up),
            &mut scratch.normed,
            gradient,
        );
        let norm_weights = &weights.base()[places.feed_forward_norm.clone()];
        norm_back(
            (&tape.middle, norm_weights, &tape.feed_forward_scales),
            &scratch.normed,
            &mut scratch.hidden,
            weights.slopes_of(&places.feed_forward_norm, gradient),
        );
    }

    fn attention_back(&mut self, index: usize, weights: &Weights, gradient: &mut [f32]) {
        let (places, tape, scratch) =
            (&self.places.layers[index], &mut self.layers[index], &mut self.scratch);
        let base = weights.base();
        let tokens = tape.attention_scales.len();
        places.attention_output.backward(
            weights,
            &tape.attended,
            &mut tape.attention_output,
            (tokens, &scratch.hidden),
            &mut scratch.attended,
            gradient,
        );
        attention::attend_back(
            &self.architecture,
            (&tape.projections, &tape.squares),
            &scratch.attended,
            &mut scratch.block,
            &mut scratch.wide,
        );
        turn(&self.architecture, &self.angles, -1.0, &mut scratch.wide);
        if !places.query_norm.is_empty() {
            let [queries, keys] = heads(&self.architecture);
            for (columns, range, tape) in [
                (queries, &places.query_norm, &mut tape.queries),
                (keys, &places.key_norm, &mut tape.keys),
            ] {
                let slopes = weights.slopes_of(range, gradient);
                columns.norm_back(&base[range.clone()], tape, &mut scratch.wide, slopes);
            }
        }
        places.projections.backward(
            weights,
            &tape.attention_normed,
            &mut tape.projected,
            (tokens, &scratch.wide),
            &mut scratch.normed,
            gradient,
        );
        norm_back(
            (&tape.input, &base[places.attention_norm.clone()], &tape.attention_scales),
            &scratch.normed,
            &mut scratch.hidden,
            weights.slopes_of(&places.attention_norm, gradient),
        );
    }
}

/// Where queries and keys lie in a token's projections.
fn heads(architecture: &Architecture) -> [HeadColumns; 2] {
    let (query, kv) = (architecture.query_width(), architecture.kv_width());
    let row_width = architecture.projections_width();
    [0..query, query..query + kv].map(|columns| HeadColumns { columns, row_width })
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
