//! Files that are damaged, foreign or not supported: an error that names the file, what is wrong
//! and what to do. Never a panic, never an allocation the file does not warrant.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use proptest::prelude::*;
use relay_model::{ChatOptions, LoadOptions, Message, ModelError, inspect, load};

use crate::allocations;
use crate::raw_gguf::{RawFile, list_bytes, text_bytes};
use crate::tiny_file::{Metadata, Tensors, TinyFile, file_bytes, metadata, tensors};

/// About where the tiny file's header ends.
const HEADER_BYTES: usize = 12_000;
/// What loading any damaged tiny file may take at once: a few times the file itself.
pub(crate) const PEAK_BYTES_MAX: usize = 4 << 20;

thread_local! {
    static TINY: Vec<u8> = changed(|_, _| {});
}

pub(crate) fn refusal(bytes: &[u8]) -> String {
    let file = TinyFile::with_bytes(bytes);
    let error = load(&file.path, &LoadOptions::default()).unwrap_err();
    error.to_string()
}

pub(crate) fn changed(change: impl Fn(&mut Metadata, &mut Tensors)) -> Vec<u8> {
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
    assert!(error.to_string().contains("no config.json"), "{error}");
}

#[test]
fn an_instruction_set_that_is_not_is_refused() {
    if std::env::var_os("RELAY_CPU").is_some_and(|name| name == "nonsense") {
        let file = TinyFile::with_bytes(&changed(|_, _| {}));
        let error = load(&file.path, &LoadOptions::default()).unwrap_err();
        assert!(matches!(error, ModelError::Cpu(_)), "{error}");
        return;
    }
    // The environment is a process's own.
    let own = std::env::current_exe().unwrap();
    let mut forced = std::process::Command::new(own);
    forced.args(["--exact", "bad_files::an_instruction_set_that_is_not_is_refused"]);
    let output = forced.env("RELAY_CPU", "nonsense").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn foreign_content_is_refused() {
    let good = changed(|_, _| {});
    let mut version = good.clone();
    version[4] = 9;
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let table: [(&[u8], &str); 6] = [
        (pointer, "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"),
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
    let header = HEADER_BYTES;
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
        ("llama.block_count", None, "llama.block_count is missing"),
        ("llama.block_count", Some(number(0)), "llama.block_count"),
        ("llama.block_count", Some(number(4)), "blk.3.attn_norm.weight is missing"),
        ("llama.block_count", Some(number(2)), "but key block_count counts 2 layers only; conf"),
        ("llama.block_count", Some(number(u32::MAX)), "llama.block_count"),
        ("llama.embedding_length", Some(number(128)), "16 rotary dimensions in heads of 32"),
        ("llama.attention.head_count", Some(number(0)), "llama.attention.head_count"),
        ("llama.attention.head_count", Some(number(1000)), "llama.attention"),
        ("llama.attention.head_count_kv", Some(number(3)), "3 KV heads"),
        ("llama.context_length", Some(text("long")), "llama.context_length"),
        ("llama.rope.dimension_count", Some(number(17)), "llama.rope.dimension_count"),
        ("llama.rope.dimension_count", Some(number(15)), "15 rotary dimensions"),
        ("llama.rope.dimension_count", Some(number(8)), "8 rotary dimensions in heads of 16"),
        ("llama.rope.freq_base", Some(Value::F32(f32::NAN)), "llama.rope.freq_base"),
        ("llama.rope.scaling.type", Some(text("yarn")), "(yarn), which"),
        ("llama.rope.scaling.type", Some(number(1)), "rope.scaling.type scales"),
        ("llama.rope.scaling.factor", Some(Value::F32(4.0)), "rope.scaling.factor scales"),
        ("llama.rope.scaling.attn_factor", Some(Value::F32(0.7)), "rope.scaling.attn_factor"),
        ("llama.rope.scale_linear", Some(Value::F32(4.0)), "rope.scale_linear scales"),
        ("llama.expert_count", Some(number(8)), "experts"),
        ("llama.attention.causal", Some(Value::Bool(false)), "looks ahead"),
        ("llama.attention.sliding_window", Some(number(299)), "sliding-window"),
        ("llama.attention.value_length", Some(number(8)), "keys are 16 wide, but values 8"),
        ("llama.logit_scale", Some(Value::F32(2.0)), "key llama.logit_scale is not known here"),
        ("tokenizer.ggml.model", Some(text("llama")), "SentencePiece"),
        ("tokenizer.ggml.model", None, "tokenizer.ggml.model"),
        ("tokenizer.ggml.pre", Some(text("tekken")), "pre-tokenizer tekken"),
        ("tokenizer.ggml.pre", None, "tokenizer.ggml.pre"),
        ("tokenizer.ggml.tokens", None, "tokenizer.ggml.tokens"),
        ("tokenizer.ggml.merges", None, "tokenizer.ggml.merges"),
        ("tokenizer.ggml.token_type", None, "tokenizer.ggml.token_type"),
        ("tokenizer.ggml.eos_token_id", Some(number(9999)), "tokenizer.ggml.eos_token_id"),
    ];
    for (key, value, expected) in table {
        let message = refusal(&with_key(key, value.as_ref()));
        assert!(message.contains(expected), "{key}: {message}");
    }
    let merges = Value::Array(vec![Value::String("no such".to_owned())]);
    assert!(refusal(&with_key("tokenizer.ggml.merges", Some(&merges))).contains("merge 0"));
}

/// Whoever gives raw prompts needs none.
#[test]
fn a_chat_template_that_is_none_fails_with_the_first_chat() {
    let file = TinyFile::with_bytes(&with_key("tokenizer.chat_template", Some(&text("{% if %}"))));
    let loaded = load(&file.path, &LoadOptions::default()).unwrap();
    let template = loaded.chat_template.unwrap();
    let told = [Message::new("user", "hi")];
    let error = template.encode_chat(&loaded.tokenizer, &told, &ChatOptions::default());
    let error = error.unwrap_err().to_string();
    let card = inspect(&file.path, &LoadOptions::default()).unwrap();
    let fault = card.chat_template.unwrap().fault.unwrap();
    assert!(fault.contains("unexpected end of block (in chat:1)"), "{fault}");
    for expected in ["tiny.gguf: its chat template: ", &fault, "; give raw prompts"] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_chat_template_that_refuses_a_conversation_is_named_by_its_file() {
    let refuses = text("{{ raise_exception('roles must alternate') }}");
    let file = TinyFile::with_bytes(&with_key("tokenizer.chat_template", Some(&refuses)));
    let loaded = load(&file.path, &LoadOptions::default()).unwrap();
    let template = loaded.chat_template.unwrap();
    let told = [Message::new("user", "hi")];
    let error = template.render(&told, &ChatOptions::default(), true).unwrap_err().to_string();
    let path = file.path.display().to_string();
    for expected in [&path, ": chat template: ", "roles must alternate", "; use a raw prompt"] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_embedding_may_have_more_rows_than_there_are_tokens() {
    let without_last = |metadata: &mut Metadata, key: &str, second_last: Value| {
        let entry = metadata.iter_mut().find(|entry| entry.0 == key);
        if let Some((_, Value::Array(list))) = entry {
            list.truncate(257);
            list.push(second_last);
        }
    };
    let file = TinyFile::with_bytes(&changed(|metadata, _| {
        without_last(metadata, "tokenizer.ggml.tokens", text("he"));
        without_last(metadata, "tokenizer.ggml.token_type", Value::I32(1));
    }));
    let loaded = load(&file.path, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.tokenizer.vocabulary_tokens(), 258);
    assert_eq!(loaded.model.shape().vocabulary_tokens, 259);
    assert_eq!(loaded.tokenizer.placeholder_ids(259).collect::<Vec<_>>(), [258]);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    type Change = fn(&mut Metadata, &mut Tensors);
    let table: [(&str, Change); 12] = [
        ("tensor output_norm.weight holds nothing but zero bytes", |_, tensors| {
            tensors[1].2.fill(0.0);
        }),
        ("tensor blk.1.attn_k.weight holds nothing but zero bytes", |_, tensors| {
            let name = "blk.1.attn_k.weight";
            tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap().2.fill(0.0);
        }),
        ("tensor token_embd.weight holds 65904 zero bytes side by side", |_, tensors| {
            tensors[0].2[100..].fill(0.0);
        }),
        ("tensor output_norm.weight is missing; the model is incomplete", |_, tensors| {
            tensors.remove(1);
        }),
        ("tensor token_embd.weight is missing; the model is incomplete", |_, tensors| {
            tensors.remove(0);
        }),
        ("259 tokens, but tensor token_embd.weight 64 rows", |_, tensors| tensors[0].1.reverse()),
        ("tensor output_norm.weight holds values that are not numbers", |_, tensors| {
            tensors[1].2[5] = f32::INFINITY;
        }),
        ("tensor blk.0.attn_q.bias is not known", |_, tensors| {
            tensors.push(("blk.0.attn_q.bias".to_owned(), vec![64], vec![0.0; 64]));
        }),
        ("blk.3.ffn_up.weight is there, but key block_count counts 3 layers", |_, tensors| {
            tensors.push(("blk.3.ffn_up.weight".to_owned(), vec![96, 64], vec![0.0; 96 * 64]));
        }),
        ("tensor rope_freqs.weight is [7], but should be [8]", |_, tensors| {
            tensors.push(("rope_freqs.weight".to_owned(), vec![7], vec![1.0; 7]));
        }),
        ("rotary frequencies are divided by what is no positive number", |_, tensors| {
            tensors.push(("rope_freqs.weight".to_owned(), vec![8], vec![0.0; 8]));
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
fn embeddings_of_tokens_that_nobody_trained_may_be_zero() {
    let file = TinyFile::with_bytes(&changed(|_, tensors| tensors[0].2[64..].fill(0.0)));
    load(&file.path, &LoadOptions::default()).unwrap();
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
}

#[test]
fn what_a_header_may_not_say_is_refused() {
    let number = 4_u32.to_le_bytes().to_vec();
    let table: [(&str, u32, Vec<u8>, &str); 10] = [
        ("split.count", 2, vec![3, 0], "one of 3 files"),
        ("split.count", 8, text_bytes(b"three"), "split.count is not a number"),
        ("general.alignment", 8, text_bytes(b"32"), "general.alignment is not a number"),
        ("x", 13, number.clone(), "key x has the unknown type 13"),
        ("x", 9, list_bytes(9, 1, &list_bytes(4, 1, &number)), "list of lists"),
        ("x", 9, list_bytes(13, 1, &number), "list of type 13"),
        ("x", 9, list_bytes(4, 1 << 40, &number), "is the most"),
        ("x", 9, list_bytes(8, 1 << 22, &number), "ends inside of x"),
        ("x", 8, text_bytes(b"\xFF\xFE"), "is not UTF-8"),
        ("x", 8, (1_u64 << 60).to_le_bytes().to_vec(), "a text of 1152921504606846976 bytes"),
    ];
    for (key, kind, value, expected) in table {
        let mut file = RawFile::tiny(&metadata(), &tensors(), 32);
        file.keys.push((key.as_bytes().to_vec(), kind, value));
        let message = refusal(&file.bytes());
        assert!(message.contains(expected) && message.contains("tiny.gguf"), "{message}");
    }
    let mut twice = RawFile::tiny(&metadata(), &tensors(), 32);
    twice.keys.push((b"general.name".to_vec(), 4, number));
    assert!(refusal(&twice.bytes()).contains("key general.name occurs twice"));
    let mut odd_key = RawFile::tiny(&metadata(), &tensors(), 32);
    odd_key.keys[0].0 = b"\xC3".to_vec();
    assert!(refusal(&odd_key.bytes()).contains("is not UTF-8"));
}

#[test]
fn files_of_other_machines_and_times_are_named() {
    for (version, expected) in
        [(3_u32.swap_bytes(), "big-endian"), (1, "version 1"), (0, "version 0")]
    {
        let mut file = RawFile::tiny(&metadata(), &tensors(), 32);
        file.version = version;
        let message = refusal(&file.bytes());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn every_quantisation_we_lack_is_named_with_advice() {
    let table = [
        (10, "Q2_K"),
        (11, "Q3_K"),
        (16, "IQ2_XXS"),
        (20, "IQ4_NL"),
        (39, "MXFP4"),
        (31, "Q4_0_4_4"),
        (40, "NVFP4"),
    ];
    for (code, expected) in table {
        let mut file = RawFile::tiny(&metadata(), &tensors(), 32);
        file.tensor_mut("blk.1.ffn_up.weight").type_code = code;
        let message = refusal(&file.bytes());
        assert!(message.contains(expected) && message.contains("Q4_K_M"), "{message}");
        assert!(message.contains("blk.1.ffn_up.weight"), "{message}");
    }
}

/// In each format that fits rows this short, the scale of the file's last block: not a number, and infinite.
#[test]
fn scales_that_are_not_numbers_are_named() {
    let blocks = [
        (GgmlDType::F32, 4, 2),
        (GgmlDType::F16, 2, 0),
        (GgmlDType::BF16, 2, 0),
        (GgmlDType::Q4_0, 18, 0),
        (GgmlDType::Q4_1, 20, 2),
        (GgmlDType::Q5_0, 22, 0),
        (GgmlDType::Q5_1, 24, 0),
        (GgmlDType::Q8_0, 34, 0),
    ];
    for (dtype, block_bytes, scale_at) in blocks {
        let good = file_bytes(&metadata(), &tensors(), dtype);
        for infinity in [0x7F80_u16, 0xFF80, 0x7FC1] {
            let mut bytes = good.clone();
            let at = bytes.len() - block_bytes + scale_at;
            bytes[at..at + 2].copy_from_slice(&infinity.to_le_bytes());
            let message = refusal(&bytes);
            let expected = "tensor blk.2.ffn_down.weight holds values that are not numbers";
            assert!(message.contains(expected), "{dtype:?}: {message}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Bits flipped at random, most of them in the header, and a random tail cut off.
    #[test]
    fn random_damage_is_a_verdict_in_bounded_memory(
        flips in prop::collection::vec((0_usize..1 << 20, 0_u8..8), 0..12),
        in_header in any::<bool>(),
        kept in prop_oneof![Just(1.0), 0.0..1.0],
    ) {
        let mut bytes = TINY.with(Clone::clone);
        let reach = if in_header { HEADER_BYTES.min(bytes.len()) } else { bytes.len() };
        for (at, bit) in flips {
            bytes[at % reach] ^= 1 << bit;
        }
        #[expect(
            clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
            reason = "a share of a small length"
        )]
        bytes.truncate((bytes.len() as f64 * kept) as usize);
        let file = TinyFile::with_bytes(&bytes);
        let before = allocations::start();
        let verdict = load(&file.path, &LoadOptions::default());
        let peak = allocations::peak_since(before);
        prop_assert!(peak < PEAK_BYTES_MAX, "{peak} bytes at once");
        if let Err(error) = verdict {
            prop_assert!(error.to_string().len() < 2000, "a page of an error: {error}");
        }
    }
}
