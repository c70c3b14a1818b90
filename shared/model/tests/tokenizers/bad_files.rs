//! Tokenizers that are damaged, foreign or ask for what is not supported: each refusal names the
//! file, the key and what to do.

use std::sync::LazyLock;

use candle_core::quantized::gguf_file::Value as Entry;
use relay_model::{AddedTokens, Tokenizer};
use serde_json::{Value, json};

use crate::allocations;
use crate::family::{Family, Files};

static FILES: LazyLock<Files> = LazyLock::new(|| Files::new(Family::Qwen2));

type Entries = Vec<(String, Entry)>;

fn set(entries: &mut Entries, key: &str, value: Entry) {
    entries.retain(|(name, _)| name != key);
    entries.push((key.to_owned(), value));
}

fn text(value: &str) -> Entry {
    Entry::String(value.to_owned())
}

fn list<'a>(entries: &'a mut Entries, key: &str) -> &'a mut Vec<Entry> {
    match entries.iter_mut().find(|(name, _)| name == key) {
        Some((_, Entry::Array(list))) => list,
        _ => panic!("{key} is a list"),
    }
}

fn check_gguf(change: impl FnOnce(&mut Entries), expected: &[&str]) {
    let files = Files::new(Family::Qwen2);
    let mut entries = FILES.entries();
    change(&mut entries);
    files.write_gguf(&entries);
    let message = Tokenizer::read(&files.gguf()).unwrap_err().to_string();
    let path = files.gguf().display().to_string();
    for part in [path.as_str(), "; "].iter().chain(expected) {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

#[test]
fn missing_keys_are_named() {
    for key in [
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
    ] {
        check_gguf(|entries| entries.retain(|(name, _)| name != key), &[key, "missing"]);
        check_gguf(|entries| set(entries, key, Entry::F32(1.0)), &[key, "missing"]);
    }
}

#[test]
fn unknown_kinds_are_refused_by_name() {
    let model =
        |name| move |entries: &mut Entries| set(entries, "tokenizer.ggml.model", text(name));
    check_gguf(model("llama"), &["SentencePiece", "use a model with"]);
    check_gguf(model("bert"), &["bert", "use a model with"]);
    for name in ["default", "qwen35", "tekken", "jina-v2-code", "Qwen2", ""] {
        let change = |entries: &mut Entries| set(entries, "tokenizer.ggml.pre", text(name));
        check_gguf(change, &[&format!("pre-tokenizer {name} "), "tokenizer.ggml.pre", "llama-bpe"]);
    }
    let key = "tokenizer.ggml.normalizer.lowercase";
    check_gguf(|entries| set(entries, key, Entry::Bool(true)), &[key]);
}

#[test]
fn lists_that_do_not_fit_are_refused() {
    check_gguf(|entries| drop(list(entries, TYPES).pop()), &["700 tokens", "699 types", TYPES]);
    check_gguf(|entries| list(entries, TYPES)[3] = Entry::I32(9), &["token 3", "type 9"]);
    check_gguf(|entries| list(entries, TYPES)[3] = Entry::I32(-1), &["token 3", "type -1"]);
    check_gguf(|entries| list(entries, TYPES)[3] = Entry::I32(6), &["token 3", "type byte"]);
    check_gguf(|entries| list(entries, TOKENS)[3] = text("!"), &["tokens 0 and 3 are both \"!\""]);
    check_gguf(|entries| list(entries, MERGES)[2] = text("ab"), &["merge 2", MERGES]);
    check_gguf(|entries| list(entries, MERGES)[2] = text("qq zz"), &["merge 2", "\"qq\"", "lacks"]);
    check_gguf(|entries| list(entries, MERGES)[2] = text("! \u{120}"), &["merge 2", "lacks"]);
}

#[test]
fn ids_out_of_range_are_refused() {
    for key in ["bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id"] {
        let key = format!("tokenizer.ggml.{key}");
        for value in [Entry::U32(700), Entry::U32(u32::MAX), Entry::I32(-1), Entry::U64(u64::MAX)] {
            check_gguf(|entries| set(entries, &key, value), &[&key, "700 tokens"]);
        }
        check_gguf(|entries| set(entries, &key, text("x")), &[&key, "whole number"]);
    }
    let key = "tokenizer.ggml.add_bos_token";
    check_gguf(|entries| set(entries, key, Entry::U32(2)), &[key, "truth value"]);
    let bos = "tokenizer.ggml.bos_token_id";
    let without = |entries: &mut Entries| {
        set(entries, key, Entry::Bool(true));
        entries.retain(|(name, _)| name != bos);
    };
    check_gguf(without, &["begin token is asked for"]);
}

#[test]
fn what_converters_of_old_wrote_is_read() {
    let files = Files::new(Family::Llama3);
    let mut entries = files.entries();
    // Padding of the vocabulary was once marked as text, and bytes have a type of their own.
    for kind in list(&mut entries, TYPES) {
        if matches!(kind, Entry::I32(5)) {
            *kind = Entry::I32(4);
        }
    }
    let is_newline = |entry: &Entry| matches!(entry, Entry::String(text) if text == "\u{10A}");
    let newline = list(&mut entries, TOKENS).iter().position(is_newline).unwrap();
    list(&mut entries, TOKENS)[newline] = text("<0x0A>");
    list(&mut entries, TYPES)[newline] = Entry::I32(6);
    for (flag, expected) in [(false, None), (true, Some("<|begin_of_text|>"))] {
        set(&mut entries, "tokenizer.ggml.add_bos_token", Entry::Bool(flag));
        files.write_gguf(&entries);
        let [folder, gguf] = files.ours();
        assert_eq!(folder.fingerprint(&[]), gguf.fingerprint(&[]));
        let bos = gguf.bos_to_prepend().map(|id| gguf.token_bytes(id));
        assert_eq!(bos, expected.map(str::as_bytes));
    }
}

fn check_folder(change: impl FnOnce(&mut Files), expected: &[&str]) {
    let mut files = Files::new(Family::Qwen2);
    change(&mut files);
    files.write_folder();
    let message = Tokenizer::read(files.folder()).unwrap_err().to_string();
    let folder = files.folder().display().to_string();
    for part in [folder.as_str(), ".json: ", "; "].iter().chain(expected) {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn a_folder_without_its_file_is_refused() {
    let files = Files::new(Family::Gpt2);
    std::fs::remove_file(files.folder().join("tokenizer.json")).unwrap();
    let message = Tokenizer::read(files.folder()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: the file is missing; give"), "{message}");
}

#[test]
fn files_that_are_no_json_are_refused() {
    let files = Files::new(Family::Gpt2);
    for name in ["generation_config.json", "tokenizer_config.json", "tokenizer.json"] {
        for (bytes, expected) in [
            (&b"{\"eos_token_id\": "[..], "cannot be understood"),
            (b"", "cannot be understood"),
            (b"[]", "cannot be understood"),
            (&[b'['; 4096], "cannot be understood"),
            (br#"{"eos_token": "\ud800", "eos_token_id": "\udc00"}"#, "cannot be understood"),
            (b"\xFF", "not UTF-8"),
        ] {
            std::fs::write(files.folder().join(name), bytes).unwrap();
            let message = Tokenizer::read(files.folder()).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(expected), "{message}");
        }
    }
}

#[test]
fn keys_of_another_kind_are_named() {
    for (name, content, expected) in [
        ("tokenizer_config.json", r#"{"eos_token": 7}"#, "eos_token must be texts, or objects"),
        ("tokenizer_config.json", r#"{"bos_token": {"text": "x"}}"#, "bos_token and eos_token"),
        ("generation_config.json", r#"{"eos_token_id": "2"}"#, "eos_token_id must be a number"),
        ("config.json", r#"{"eos_token_id": [[2]]}"#, "eos_token_id must be a number"),
        ("config.json", r#"{"eos_token_id": [2, null]}"#, "eos_token_id must be a number"),
    ] {
        let files = Files::new(Family::Gpt2);
        std::fs::write(files.folder().join(name), content).unwrap();
        let message = Tokenizer::read(files.folder()).unwrap_err().to_string();
        let says_all = [name, expected, "; bring the whole folder"];
        assert!(says_all.iter().all(|part| message.contains(part)), "{message}");
    }
    let merges = [json!(7), json!(["a"]), json!(["a", "b", "c"]), json!({"a": "b"}), json!([1, 2])];
    for merge in merges {
        let change = |files: &mut Files| files.json["model"]["merges"][0] = merge;
        check_folder(change, &["each merge (model.merges) must be one text or two texts"]);
    }
}

#[test]
fn steps_that_are_not_done_here_are_refused_by_name() {
    let change = |pointer: &'static str, value: Value| {
        move |files: &mut Files| *files.json.pointer_mut(pointer).unwrap() = value
    };
    let steps = "/pre_tokenizer/pretokenizers";
    let table = [
        ("/model/type", json!("Unigram"), "the model Unigram"),
        ("/model/byte_fallback", json!(true), "model.byte_fallback"),
        ("/model/dropout", json!(0.1), "model.dropout"),
        ("/model/end_of_word_suffix", json!("</w>"), "model.end_of_word_suffix"),
        ("/model/continuing_subword_prefix", json!("##"), "model.continuing_subword_prefix"),
        ("/normalizer", json!({"type": "Lowercase"}), "the normalizer Lowercase"),
        (
            "/normalizer",
            json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}),
            "the normalizer NFKC",
        ),
        ("/decoder", json!({"type": "Metaspace"}), "the decoder Metaspace"),
        ("/post_processor", json!({"type": "BertProcessing"}), "the post-processor BertProcessing"),
        ("/pre_tokenizer", Value::Null, "no pre-tokenizer"),
        ("/pre_tokenizer", json!({"type": "Metaspace"}), "Metaspace"),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("\\w+"), "\\w+"),
        ("/pre_tokenizer/pretokenizers/0/behavior", json!("Removed"), "Removed"),
        ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "add_prefix_space"),
        ("/pre_tokenizer/pretokenizers/1/use_regex", json!(true), "Split"),
        (
            steps,
            json!([{"type": "ByteLevel", "add_prefix_space": false}, {"type": "Digits"}]),
            "Digits",
        ),
        (
            steps,
            json!([{"type": "Digits", "individual_digits": false},
                   {"type": "ByteLevel", "add_prefix_space": false}]),
            "individual_digits",
        ),
        ("/added_tokens/0/lstrip", json!(true), "lstrip of the added token"),
        ("/added_tokens/0/rstrip", json!(true), "rstrip of the added token"),
        ("/added_tokens/0/single_word", json!(true), "single_word of the added token"),
        ("/added_tokens/3/content", json!("<call;>"), "normalized of the added token"),
    ];
    for (pointer, value, expected) in table {
        check_folder(change(pointer, value), &[expected, "is not supported; use a model with"]);
    }
    let unknown = |files: &mut Files| {
        files.json["model"]["unk_token"] = json!("<|endoftext|>");
        files.json["model"]["vocab"].as_object_mut().unwrap().remove("!");
    };
    check_folder(unknown, &["model.unk_token"]);
}

#[test]
fn templates_that_put_more_than_one_token_first_are_refused() {
    let token = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let ids = json!({"<|im_end|>": {"id": "<|im_end|>", "ids": [605], "tokens": ["<|im_end|>"]}});
    for (single, expected) in [
        (json!([text, token("<|im_end|>")]), "the template"),
        (json!([token("<|im_end|>"), text, token("<|im_end|>")]), "the template"),
        (json!([token("nowhere"), text]), "which has no id"),
        (json!([token("<|im_end|>"), text]), "another token than bos_token"),
    ] {
        let change = |files: &mut Files| {
            let step =
                json!({"type": "TemplateProcessing", "single": single, "special_tokens": ids});
            files.json["post_processor"] = step;
        };
        check_folder(change, &[expected]);
    }
}

#[test]
fn vocabularies_that_do_not_fit_are_refused() {
    let vocabulary = |text: &'static str, id: u64| {
        move |files: &mut Files| files.json["model"]["vocab"][text] = json!(id)
    };
    check_folder(vocabulary("twice", 5), &["tokenizer.json", "token 5 is both"]);
    check_folder(vocabulary("far", 4_000_000_000), &["highest id is 4000000000"]);
    check_folder(vocabulary("far", 66_500), &["highest id is 66500, where 66146 is the most"]);
    check_folder(vocabulary("far", 5_000_000_000), &["cannot be understood"]);
    check_folder(vocabulary("<|im_end|>", 650), &["are both \"<|im_end|>\""]);
    check_folder(
        |files| files.json["model"]["merges"][0] = json!("ab"),
        &["merge 0", "model.merges"],
    );
    check_folder(
        |files| files.json["model"]["merges"][0] = json!(["q\u{120}", "z"]),
        &["merge 0", "lacks"],
    );
    check_folder(
        |files| files.config["eos_token"] = json!("<|nowhere|>"),
        &["tokenizer_config.json", "eos_token", "<|nowhere|>"],
    );
}

/// They never come; transformers passes over them too.
#[test]
fn end_tokens_that_are_no_tokens_end_nothing() {
    let mut files = Files::new(Family::Qwen2);
    let ends = |tokenizer: &Tokenizer| -> Vec<u32> {
        (0..700).filter(|id| tokenizer.ends_text(*id)).collect()
    };
    files.generation["eos_token_id"] = json!([1]);
    files.write_folder();
    let expected = ends(&Tokenizer::read(files.folder()).unwrap());
    assert!(expected.contains(&1));
    for stale in [json!([1, 100_000]), json!([-1, 1]), json!([1, 5_000_000_000_i64])] {
        files.generation["eos_token_id"] = stale;
        files.write_folder();
        assert_eq!(ends(&Tokenizer::read(files.folder()).unwrap()), expected);
    }
    files.generation["eos_token_id"] = json!(-1);
    files.write_folder();
    assert!(!Tokenizer::read(files.folder()).unwrap().ends_text(1));
}

#[test]
fn memory_follows_from_what_is_in_a_vocabulary() {
    let files = Files::new(Family::Qwen2);
    let mut sparse = files.json.clone();
    sparse["model"]["vocab"] = json!({"a": 2_097_151});
    sparse["model"]["merges"] = json!([]);
    sparse["added_tokens"] = json!([]);
    std::fs::write(files.folder().join("tokenizer.json"), sparse.to_string()).unwrap();
    let start = allocations::start();
    let refused = Tokenizer::read(files.folder()).unwrap_err();
    let peak_bytes = allocations::peak_since(start);
    assert!(refused.to_string().contains("highest id is 2097151"), "{refused}");
    assert!(peak_bytes < 1 << 20, "{peak_bytes}");
}

#[test]
fn a_search_for_tokens_inside_of_one_another_holds_little() {
    let mut files = Files::new(Family::Qwen2);
    let blanks = |count: usize| " ".repeat(count);
    let first = 700;
    let added = (2..=65).map(|count| json!({"id": first + count, "content": blanks(count)}));
    files.json["added_tokens"] = added.collect();
    files.config = json!({});
    files.generation = json!({});
    files.write_folder();
    let tokenizer = Tokenizer::read(files.folder()).unwrap();
    let text = blanks(1_000_000);
    let start = allocations::start();
    let ids = tokenizer.encode(&text, AddedTokens::Parse);
    let peak_bytes = allocations::peak_since(start);
    // 15,384 runs of 65 and one of 40.
    assert_eq!((ids.len(), ids[0], ids[15_384]), (15_385, 765, 740));
    assert!(peak_bytes < 2_000_000, "{peak_bytes}");
}
