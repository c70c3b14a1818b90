//! Keys as converters write them: those that change nothing are no reason to refuse a model, and
//! those that may change it are.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use relay_model::{LoadOptions, load};

use crate::case::{Case, case};
use crate::folder::refusal;
use crate::gguf::GgufFile;

const CASES: [&str; 4] = ["llama3-scaled", "llama-tied", "qwen2-untied", "qwen3-tied"];

fn number(value: usize) -> Value {
    Value::U32(u32::try_from(value).unwrap())
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// llama.cpp: `TextModel.set_gguf_parameters` in `conversion/base.py`, and `LlamaModel`'s own.
fn of_llama_cpp(case: &Case) -> Vec<(&'static str, Value)> {
    let mut keys = vec![
        ("attention.layer_norm_epsilon", Value::F32(1e-5)),
        ("pooling_type", number(3)),
        ("attention.causal", Value::Bool(true)),
    ];
    if case.family() == "llama" {
        keys.push(("vocab_size", number(264)));
        keys.push(("rope.dimension_count", number(case.head_width())));
    }
    keys
}

/// Files of its first year say what later ones leave out.
fn of_old_llama_cpp(case: &Case) -> Vec<(&'static str, Value)> {
    vec![
        ("tensor_data_layout", text("Meta AI original pth")),
        ("rope.dimension_count", number(case.head_width())),
        ("rope.scale_linear", Value::F32(1.0)),
        ("rope.scaling.type", text("none")),
        ("rope.scaling.original_context_length", number(128)),
        ("rope.scaling.finetuned", Value::Bool(false)),
        ("expert_count", number(0)),
        ("expert_used_count", number(0)),
        ("attention.sliding_window", number(case.size("max_position_embeddings"))),
    ]
}

/// Ollama: `llamaModel.KV` in `convert/convert_llama.go`.
fn of_ollama(case: &Case) -> Vec<(&'static str, Value)> {
    vec![
        ("vocab_size", number(264)),
        ("rope.dimension_count", number(case.head_width())),
        ("rope.scaling.type", text("linear")),
        ("rope.scaling.factor", Value::F32(1.0)),
        ("attention.head_dim", number(case.head_width())),
        ("attention.layer_norm_epsilon", Value::F32(1e-6)),
    ]
}

#[test]
fn keys_as_converters_write_them_change_nothing() {
    type Keys = fn(&Case) -> Vec<(&'static str, Value)>;
    let converters: [(&str, Keys); 4] = [
        ("llama.cpp", of_llama_cpp),
        ("old llama.cpp", of_old_llama_cpp),
        ("Ollama", of_ollama),
        ("linear without a factor", |_| vec![("rope.scaling.type", text("linear"))]),
    ];
    for case in CASES.map(case) {
        let expected = GgufFile::of(&case, GgmlDType::F32).load().identity;
        for (converter, keys) in converters {
            let file = GgufFile::with_keys(&case, &keys(&case));
            let found = load(&file.path, &LoadOptions::default());
            let found = found.map(|loaded| loaded.identity).map_err(|error| error.to_string());
            assert_eq!(found.as_ref(), Ok(&expected), "{} by {converter}", case.name);
        }
    }
}

/// Whatever else a converter tells is its own affair, unless it is named after what is computed.
#[test]
fn keys_that_are_not_known_are_refused_by_what_they_are_named_after() {
    let case = case("llama-tied");
    let file = GgufFile::with_keys(&case, &[("made_by", text("somebody"))]);
    load(&file.path, &LoadOptions::default()).unwrap();
    for key in [
        "attention.scale",
        "attn_logit_softcapping",
        "rope.scaling.yarn_beta_fast",
        "expert_gating_func",
        "logit_scale",
        "final_logit_softcapping",
        "swin_norm",
        "use_parallel_residual",
        "interleave_moe_layer_step",
        "swiglu_clamp_exp",
    ] {
        let message = refusal(&GgufFile::with_keys(&case, &[(key, Value::F32(0.5))]).path);
        assert!(message.contains(&format!("key llama.{key} is not known here")), "{message}");
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let case = case("qwen3-tied");
    let width = case.head_width();
    for (key, value, expected) in [
        ("attention.head_dim", width / 2, "qwen3.attention.head_dim says otherwise"),
        ("rope.dimension_count", width / 2, "rotary dimensions in heads of"),
        ("rope.dimension_count", width - 1, "rotary dimensions in heads of"),
    ] {
        let message = refusal(&GgufFile::with_keys(&case, &[(key, number(value))]).path);
        assert!(message.contains(expected), "{message}");
    }
}
