//! The trainable forward of every family against the logits that transformers gives, and what it
//! writes read again by the engine: on the tiny models of `relay-model`'s own tests.

#![allow(clippy::unwrap_used, dead_code, missing_docs)]

#[path = "../../../shared/model/tests/families/case.rs"]
mod case;
#[path = "../../../shared/model/tests/families/folder.rs"]
mod folder;
#[path = "../../../shared/model/tests/families/rule.rs"]
mod rule;

use relay_model::{KvPrecision, LoadOptions, ModelNumbers, load};
use relay_train::model_folder::read_weights;
use relay_train::model_writer::Base;
use relay_train::trainable::{Pass, Sequence};

use case::{VOCABULARY, all_at_once, vectors};
use folder::Folder;

/// How far a log-probability may be off: only the order of sums differs.
const TOLERANCE: f32 = 1e-3;
/// Ids from one that is looked at to the next.
const STRIDE: usize = 24;

fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    logits.iter().map(|logit| logit - highest - total.ln()).collect()
}

#[test]
fn every_family_has_the_log_probabilities_of_transformers() {
    let vectors = vectors();
    for case in &vectors.cases {
        let folder = Folder::of(case, "F32");
        let weights = read_weights(&ModelNumbers::open(&folder.path).unwrap()).unwrap();
        let mut pass = Pass::new(&weights);
        for (&position, logits) in vectors.positions.iter().zip(&case.logits) {
            let expected = log_probabilities(logits);
            for id in (0..VOCABULARY).step_by(STRIDE) {
                let mut ids = vectors.ids[..=position].to_vec();
                ids.push(u32::try_from(id).unwrap());
                let scored_from = position + 1;
                let ours = pass.forward(&weights, &Sequence { ids, scored_from })[0];
                let apart = (ours - expected[id]).abs();
                assert!(
                    apart < TOLERANCE,
                    "{} {position} {id}: {ours} {}",
                    case.name,
                    expected[id]
                );
            }
        }
    }
}

#[test]
fn the_engine_reads_every_family_as_it_was_written() {
    let vectors = vectors();
    for case in &vectors.cases {
        let folder = Folder::of(case, "F32");
        let model = ModelNumbers::open(&folder.path).unwrap();
        let weights = read_weights(&model).unwrap();
        let out = tempfile::tempdir().unwrap();
        let base = Base::of(&model, &folder.path).unwrap();
        base.write_merged(&weights, out.path()).unwrap();
        let options = LoadOptions { kv_precision: KvPrecision::F32, ..LoadOptions::default() };
        let mut engine = load(out.path(), &options).unwrap();
        assert!(engine.chat_template.is_some());
        let logits = all_at_once(&mut *engine.model, &vectors.ids);
        for (&position, expected) in vectors.positions.iter().zip(&case.logits) {
            for (ours, expected) in logits.row(position).iter().zip(expected) {
                assert!((ours - expected).abs() < TOLERANCE, "{}: {ours} {expected}", case.name);
            }
        }
    }
}
