//! Files that are damaged, foreign or not supported: an error that names the file, what is wrong
//! and what to do. Never a panic, never an allocation the file does not warrant.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use relay_model::{LoadOptions, ModelError, load};

use crate::tiny_file::{Metadata, Tensors, TinyFile, file_bytes, metadata, tensors};

fn refusal(bytes: &[u8]) -> String {
    let file = TinyFile::with_bytes(bytes);
    let error = load(&file.path, &LoadOptions::default()).unwrap_err();
    error.to_string()
}

fn changed(change: impl Fn(&mut Metadata, &mut Tensors)) -> Vec<u8> {
    let (mut metadata, mut tensors) = (metadata(), tensors());
    change(&mut metadata, &mut tensors);
    file_bytes(&metadata, &tensors, GgmlDType::F32)
}

fn with_key(key: &str, value: Option<&Value>) -> Vec<u8> {
    changed(|metadata, _| {
        metadata.retain(|entry| entry.0 != key);
        metadata.extend(value.map(|value| (key.to_owned(), value.clone())));
    })
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

#[test]
fn a_missing_file_and_a_folder_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.gguf");
    let error = load(&missing, &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, ModelError::Io { .. }));
    assert!(error.to_string().contains("missing.gguf"), "{error}");
    let error = load(folder.path(), &LoadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
}

#[test]
fn foreign_content_is_refused() {
    let good = changed(|_, _| {});
    let mut version = good.clone();
    version[4] = 9;
    let table: [(&[u8], &str); 5] = [
        (b"", "empty"),
        (b"GG", "not a GGUF file"),
        (b"{\"model\": 1}, and more of the kind", "not a GGUF file"),
        (b"GGUF", "ends inside"),
        (&version, "version 9"),
    ];
    for (bytes, expected) in table {
        let message = refusal(bytes);
        assert!(message.contains(expected) && message.contains("tiny.gguf"), "{message}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let good = changed(|_, _| {});
    let header = 12_000;
    let near = (0..header.min(good.len())).step_by(97);
    let far = (header..good.len() - 1).step_by(good.len() / 50);
    for len in near.chain(far).chain([good.len() - 65]) {
        let message = refusal(&good[..len]);
        assert!(message.contains("tiny.gguf"), "cut at {len}: {message}");
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let good = changed(|_, _| {});
    for at in (0..9000.min(good.len())).step_by(13) {
        for value in [0, 0x7F, 0xFF] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let file = TinyFile::with_bytes(&bytes);
            // Some flips only change a name or a weight; what matters is that we come back.
            drop(load(&file.path, &LoadOptions::default()));
        }
    }
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for at in [8, 16] {
        let mut bytes = changed(|_, _| {});
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(refusal(&bytes).contains("is the most"));
    }
    let mut bytes = changed(|_, _| {});
    bytes[24..32].copy_from_slice(&(1_u64 << 23).to_le_bytes());
    assert!(refusal(&bytes).contains("ends inside"));
}

#[test]
fn unsupported_and_impossible_settings_are_named() {
    let number = Value::U32;
    let table = [
        ("general.architecture", Some(text("mamba")), "architecture mamba"),
        ("general.architecture", None, "architecture (none)"),
        ("general.alignment", Some(number(0)), "alignment 0"),
        ("general.alignment", Some(number(48)), "alignment 48"),
        ("llama.block_count", None, "llama.block_count"),
        ("llama.block_count", Some(number(0)), "llama.block_count"),
        ("llama.block_count", Some(number(4)), "blk.3.attn_norm.weight is missing"),
        ("llama.block_count", Some(number(2)), "blk.2."),
        ("llama.block_count", Some(number(u32::MAX)), "llama.block_count"),
        ("llama.embedding_length", Some(number(128)), "should be [259, 128]"),
        ("llama.attention.head_count", Some(number(0)), "llama.attention.head_count"),
        ("llama.attention.head_count", Some(number(1000)), "llama.attention"),
        ("llama.attention.head_count_kv", Some(number(3)), "3 KV heads"),
        ("llama.context_length", Some(text("long")), "llama.context_length"),
        ("llama.rope.dimension_count", Some(number(17)), "llama.rope.dimension_count"),
        ("llama.rope.dimension_count", Some(number(15)), "15 rotary dimensions"),
        ("llama.rope.freq_base", Some(Value::F32(f32::NAN)), "llama.rope.freq_base"),
        ("llama.rope.scaling.type", Some(text("yarn")), "scaling yarn"),
        ("llama.expert_count", Some(number(8)), "experts"),
        ("llama.vocab_size", Some(number(300)), "vocabulary of 300"),
        ("tokenizer.ggml.model", Some(text("llama")), "tokenizer llama"),
        ("tokenizer.ggml.model", None, "tokenizer.ggml.model"),
        ("tokenizer.ggml.pre", Some(text("qwen2")), "pre-tokenizer qwen2"),
        ("tokenizer.ggml.pre", None, "pre-tokenizer (none)"),
        ("tokenizer.ggml.tokens", None, "tokenizer.ggml.tokens"),
        ("tokenizer.ggml.merges", None, "tokenizer.ggml.merges"),
        ("tokenizer.ggml.token_type", None, "tokenizer.ggml.token_type"),
        ("tokenizer.ggml.eos_token_id", Some(number(9999)), "end token 9999"),
        ("tokenizer.chat_template", Some(text("{% if %}")), "chat template"),
    ];
    for (key, value, expected) in table {
        let message = refusal(&with_key(key, value.as_ref()));
        assert!(message.contains(expected), "{key}: {message}");
    }
    let merges = Value::Array(vec![Value::String("no such".to_owned())]);
    assert!(refusal(&with_key("tokenizer.ggml.merges", Some(&merges))).contains("merges"));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    type Change = fn(&mut Metadata, &mut Tensors);
    let table: [(&str, Change); 5] = [
        ("tensor output_norm.weight is missing", |_, tensors| drop(tensors.remove(1))),
        ("tensor token_embd.weight is [64, 259]", |_, tensors| tensors[0].1.reverse()),
        ("tensor output_norm.weight holds values that are not numbers", |_, tensors| {
            tensors[1].2[5] = f32::INFINITY;
        }),
        ("tensor blk.0.attn_q.bias is not known", |_, tensors| {
            tensors.push(("blk.0.attn_q.bias".to_owned(), vec![64], vec![0.0; 64]));
        }),
        ("tensor output_norm.weight occurs twice", |_, tensors| {
            let again = tensors[1].clone();
            tensors.push(again);
        }),
    ];
    for (expected, change) in table {
        let message = refusal(&changed(change));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_unsupported_quantisation_is_named() {
    let mut bytes = changed(|_, _| {});
    let name = b"output_norm.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    // After the name: dimensions (u32), one length (u64), the type (u32), the offset (u64).
    let type_at = at + name.len() + 4 + 8;
    for (code, expected) in [(20_u32, "IQ4_NL"), (999, "number 999")] {
        bytes[type_at..type_at + 4].copy_from_slice(&code.to_le_bytes());
        let message = refusal(&bytes);
        assert!(message.contains("output_norm.weight") && message.contains(expected), "{message}");
    }
    bytes[type_at..type_at + 4].copy_from_slice(&0_u32.to_le_bytes());
    for (offset, expected) in [(u64::MAX, "does not lie inside"), (7, "does not lie inside")] {
        bytes[type_at + 4..type_at + 12].copy_from_slice(&offset.to_le_bytes());
        assert!(refusal(&bytes).contains(expected));
    }
}
