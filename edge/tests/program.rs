//! The program as people run it, on a tiny model's folder that is made here: what it prints where,
//! and how it exits.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value, json};

const WIDTH: usize = 32;
const VOCABULARY_TOKENS: usize = 257;

/// A folder with a model all of whose weights are 0, so that it always says the first token.
fn model_folder(first_token: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": WIDTH,
        "vocab_size": VOCABULARY_TOKENS, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "attention_bias": false,
        "mlp_bias": false, "torch_dtype": "float32",
    });
    write("config.json", config.to_string().as_bytes());
    write("tokenizer.json", tokenizer(first_token).to_string().as_bytes());
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}\
        {% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}";
    let config = json!({ "eos_token": "<|endoftext|>", "chat_template": template });
    write("tokenizer_config.json", config.to_string().as_bytes());
    write("model.safetensors", &equal_weights());
    folder
}

/// Bytes as tokens, and an end of text; `first` has id 0.
fn tokenizer(first: &str) -> Value {
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..256).filter(printable).chain((256..).take(68));
    let texts = own.filter_map(char::from_u32).map(String::from);
    let end = std::iter::once("<|endoftext|>".to_owned());
    let mut texts: Vec<String> = texts.chain(end).collect();
    let place = texts.iter().position(|text| text == first).unwrap();
    texts.swap(0, place);
    let end_id = texts.iter().position(|text| text == "<|endoftext|>").unwrap();
    let plain = texts.iter().enumerate().filter(|(id, _)| *id != end_id);
    let vocabulary: Map<String, Value> =
        plain.map(|(id, text)| (text.clone(), json!(id))).collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{
            "id": end_id, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    })
}

fn equal_weights() -> Vec<u8> {
    let square = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
    let inner = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];
    let norms = ["input_layernorm", "post_attention_layernorm"];
    let of_layer = |part: &&str| format!("model.layers.0.{part}.weight");
    let matrices = square.iter().chain(&inner).map(of_layer).map(|name| (name, vec![WIDTH; 2]));
    let vectors = norms.iter().map(of_layer).map(|name| (name, vec![WIDTH]));
    let of_model = [
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY_TOKENS, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
    ];
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in matrices.chain(vectors).chain(of_model) {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let length = u64::try_from(header.len()).unwrap().to_le_bytes();
    [&length, header.as_bytes(), &0.5_f32.to_le_bytes().repeat(end / 4)].concat()
}

fn program(arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_relay-edge"));
    program.args(arguments).stdin(Stdio::null()).env("NO_COLOR", "1");
    program
}

fn ask(folder: &Path, more: &[&str]) -> Output {
    let model = folder.to_str().unwrap();
    let fixed = ["ask", "hi", "--model", model, "--policy", "never", "--max-tokens", "4"];
    program(&[&fixed, more].concat()).output().unwrap()
}

/// What was printed, on standard output and on standard error, and the exit code.
fn told(output: &Output) -> (String, String, i32) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code().unwrap())
}

#[test]
fn a_folder_answers() {
    let folder = model_folder("a");
    let (answer, account, code) = told(&ask(folder.path(), &["--thinking", "true"]));
    assert_eq!((answer.as_str(), code), ("aaaa\n", 0), "{account}");
    assert!(account.contains("0 calls"), "{account}");
}

#[test]
fn a_folder_is_shown() {
    let folder = model_folder("a");
    let model = folder.path().to_str().unwrap();
    let (table, errors, code) = told(&program(&["model", "show", model]).output().unwrap());
    assert_eq!(code, 0, "{errors}");
    for part in [
        "llama: layers 1, width 32, heads 1 of 32",
        "257 tokens",
        "thinking can be switched",
        "fits with 512",
    ] {
        assert!(table.contains(part), "no {part:?} in:\n{table}");
    }
    let arguments = ["model", "show", model, "--json", "--context", "100"];
    let (object, errors, code) = told(&program(&arguments).output().unwrap());
    assert_eq!(code, 0, "{errors}");
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object["tensors"], json!([{ "format": "F32", "tensors": 11, "bytes": 61_952 }]));
    // A key and a value of 32 halves in the one layer.
    assert_eq!(object["kv_bytes_per_token"], 2 * 2 * 32);
    assert_eq!(object["fit"]["kv_bytes"], 100 * 2 * 2 * 32);
    assert_eq!(object["form"], "folder");
    let exact = ["model", "show", model, "--kv-precision", "f32"];
    let (table, errors, code) = told(&program(&exact).output().unwrap());
    assert_eq!(code, 0, "{errors}");
    assert!(table.contains("256 B a token as f32"), "{table}");
}

/// The hour that a template is told in a place that is so many hours ahead of UTC.
fn hour_told(folder: &Path, zone: &str) -> i64 {
    let arguments = ["ask", "hi", "--model", folder.to_str().unwrap(), "--policy", "never"];
    let (_, errors, code) = told(&program(&arguments).env("TZ", zone).output().unwrap());
    assert_eq!(code, 1, "{errors}");
    errors.split("hour ").nth(1).unwrap()[..2].parse().unwrap()
}

#[test]
fn a_template_is_told_the_time_of_the_place() {
    let folder = model_folder("a");
    let template = "{{ raise_exception('hour ' ~ strftime_now('%H')) }}";
    let config = json!({ "eos_token": "<|endoftext|>", "chat_template": template });
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let ahead = hour_told(folder.path(), "AHEAD-9") - hour_told(folder.path(), "UTC0");
    // The hour may strike between the two.
    assert!(matches!(ahead.rem_euclid(24), 8 | 9), "{ahead}");
}

#[test]
fn a_broken_model_is_shown_as_such() {
    let folder = model_folder("a");
    std::fs::write(folder.path().join("model.safetensors"), b"{}").unwrap();
    for arguments in [&["model", "show"][..], &["ask", "hi", "--model"]] {
        let model = folder.path().to_str().unwrap();
        let output = program(&[arguments, &[model]].concat()).output().unwrap();
        let (shown, errors, code) = told(&output);
        assert_eq!((shown.as_str(), code), ("", 1), "{arguments:?}");
        assert!(errors.contains("model.safetensors"), "{errors}");
    }
    let folder = model_folder("a");
    let model = folder.path().to_str().unwrap();
    let output = program(&["model", "show", model, "--context", "513"]).output().unwrap();
    assert!(told(&output).1.contains("at most 512 tokens"), "{:?}", told(&output));
}

#[test]
fn an_answer_without_a_word_is_a_failure() {
    let folder = model_folder("<|endoftext|>");
    for more in [&[][..], &["--json"]] {
        let (_, errors, code) = told(&ask(folder.path(), more));
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains("before the first word"), "{errors}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_found_before_the_model_is_loaded() {
    let (_, errors, code) = told(&ask(Path::new("no-model"), &["--report", "no-folder/r.json"]));
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("no-folder/r.json") && !errors.contains("no-model"), "{errors}");
}

#[test]
fn a_report_replaces_the_one_before() {
    let folder = model_folder("a");
    let report = folder.path().join("report.json");
    std::fs::write(&report, "x".repeat(10_000)).unwrap();
    let (_, errors, code) = told(&ask(folder.path(), &["--report", report.to_str().unwrap()]));
    assert_eq!(code, 0, "{errors}");
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["answer"], "aaaa");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_is_no_cancelling() {
    let folder = model_folder("a");
    let model = folder.path().to_str().unwrap();
    for more in [&[][..], &["--json"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut program = program(&[&["ask", "hi", "--model", model][..], more].concat());
        let output = program.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let (_, errors, code) = told(&output);
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains("standard output") && !errors.contains("cancelled"), "{errors}");
    }
}
