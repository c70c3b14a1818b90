//! The same model as plainly as it can be written: f64, one sequence, no cache, no kernels.

use crate::tiny_file::{
    EPSILON, FEED_FORWARD, HEAD_WIDTH, HEADS, KV_HEADS, LAYERS, ROTARY_BASE, Tensors, VOCABULARY,
    WIDTH,
};

/// Logits of every position, `[tokens, VOCABULARY]`.
pub(crate) fn logits(tensors: &Tensors, tokens: &[u32]) -> Vec<Vec<f64>> {
    let weights = |name: &str| -> Vec<f64> {
        let found = tensors.iter().find(|tensor| tensor.0 == name).unwrap();
        found.2.iter().map(|value| f64::from(*value)).collect()
    };
    let embedding = weights("token_embd.weight");
    let mut states: Vec<Vec<f64>> =
        tokens.iter().map(|&id| embedding[id as usize * WIDTH..][..WIDTH].to_vec()).collect();
    for layer in 0..LAYERS {
        let part = |name: &str| weights(&format!("blk.{layer}.{name}.weight"));
        attend(&mut states, &part);
        for state in &mut states {
            let normed = norm(state, &part("ffn_norm"));
            let gate = times(&part("ffn_gate"), &normed);
            let up = times(&part("ffn_up"), &normed);
            let silu = gate.iter().map(|x| x / (1.0 + (-x).exp()));
            let inner: Vec<f64> = silu.zip(up).map(|(gate, up)| gate * up).collect();
            assert_eq!(inner.len(), FEED_FORWARD);
            add(state, &times(&part("ffn_down"), &inner));
        }
    }
    let norms = weights("output_norm.weight");
    let logits = |state: &Vec<f64>| times(&embedding, &norm(state, &norms));
    let logits: Vec<Vec<f64>> = states.iter().map(logits).collect();
    assert!(logits.iter().all(|row| row.len() == VOCABULARY));
    logits
}

fn attend(states: &mut [Vec<f64>], part: &dyn Fn(&str) -> Vec<f64>) {
    let normed: Vec<Vec<f64>> =
        states.iter().map(|state| norm(state, &part("attn_norm"))).collect();
    let project = |name: &str| -> Vec<Vec<f64>> {
        let matrix = part(name);
        normed.iter().map(|state| times(&matrix, state)).collect()
    };
    let (mut queries, mut keys) = (project("attn_q"), project("attn_k"));
    let values = project("attn_v");
    for (position, (query, key)) in queries.iter_mut().zip(&mut keys).enumerate() {
        turn(query, position);
        turn(key, position);
    }
    let output = part("attn_output");
    for (at, state) in states.iter_mut().enumerate() {
        let mut mixed = Vec::new();
        for head in 0..HEADS {
            let first = head / (HEADS / KV_HEADS) * HEAD_WIDTH;
            let query = &queries[at][head * HEAD_WIDTH..(head + 1) * HEAD_WIDTH];
            let score = |key: &Vec<f64>| {
                let key = &key[first..first + HEAD_WIDTH];
                query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / 16_f64.sqrt()
            };
            let weights: Vec<f64> = keys[..=at].iter().map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for i in first..first + HEAD_WIDTH {
                let sum: f64 = weights.iter().zip(&values).map(|(w, value)| w * value[i]).sum();
                mixed.push(sum / total);
            }
        }
        add(state, &times(&output, &mixed));
    }
}

fn turn(heads: &mut [f64], position: usize) {
    for head in heads.chunks_mut(HEAD_WIDTH) {
        for (pair, values) in head.chunks_mut(2).enumerate() {
            let exponent = f64::from(u32::try_from(2 * pair).unwrap()) / 16.0;
            let angle =
                f64::from(u32::try_from(position).unwrap()) / f64::from(ROTARY_BASE).powf(exponent);
            let (x, y) = (values[0], values[1]);
            values[0] = x * angle.cos() - y * angle.sin();
            values[1] = x * angle.sin() + y * angle.cos();
        }
    }
}

fn norm(state: &[f64], weights: &[f64]) -> Vec<f64> {
    let squares: f64 = state.iter().map(|x| x * x).sum();
    let rms = (squares / 64.0 + f64::from(EPSILON)).sqrt();
    state.iter().zip(weights).map(|(x, weight)| x / rms * weight).collect()
}

fn times(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    let row = |row: &[f64]| row.iter().zip(vector).map(|(w, x)| w * x).sum();
    matrix.chunks(vector.len()).map(row).collect()
}

fn add(state: &mut [f64], update: &[f64]) {
    for (x, update) in state.iter_mut().zip(update) {
        *x += update;
    }
}
