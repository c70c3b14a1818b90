//! What comes out: transformers' logits, from whatever form the weights are in.

use candle_core::quantized::GgmlDType;
use relay_model::{AddedTokens, ChatOptions, LanguageModel, LoadOptions, Message, inspect, load};
use serde_json::{Value, json};

use crate::case::{Case, all_at_once, case, vectors};
use crate::folder::Folder;
use crate::gguf::GgufFile;

/// How far a logit may be off, as a share of the row's largest.
const TOLERANCE: f32 = 1e-4;
/// The same between our own runs, where only the order of sums differs.
const OWN_TOLERANCE: f32 = 1e-5;
/// The same between a cache of halves, whose numbers have 11 bits, and one that rounds nothing.
const HALVES_TOLERANCE: f32 = 2e-3;

pub(crate) fn distance(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert!(ours.iter().all(|value| value.is_finite()));
    let apart = |(ours, theirs): (&f32, &f32)| (ours - theirs).abs() / largest;
    ours.iter().zip(theirs).map(apart).fold(0.0, f32::max)
}

fn assert_all_near(model: &mut dyn LanguageModel, case: &Case, form: &str) {
    let vectors = vectors();
    let logits = all_at_once(model, &vectors.ids);
    assert_eq!(vectors.positions.len(), case.logits.len());
    for (&position, expected) in vectors.positions.iter().zip(&case.logits) {
        let apart = distance(logits.row(position), expected);
        assert!(apart < TOLERANCE, "{} {form}, position {position}: {apart}", case.name);
    }
}

#[test]
fn both_file_forms_give_the_logits_of_transformers() {
    for case in vectors().cases {
        assert_all_near(&mut *Folder::of(&case, "F32").load_exact().model, &case, "folder");
        assert_all_near(
            &mut *GgufFile::of(&case, GgmlDType::F32).load_exact().model,
            &case,
            "GGUF",
        );
    }
}

/// The order of a head's numbers differs in Llama's two forms, and nothing else anywhere.
#[test]
fn both_file_forms_give_the_same_logits() {
    let ids = vectors().ids;
    for case in vectors().cases {
        let folder = all_at_once(&mut *Folder::of(&case, "F32").load_exact().model, &ids);
        let gguf = all_at_once(&mut *GgufFile::of(&case, GgmlDType::F32).load_exact().model, &ids);
        if case.family() != "llama" {
            assert_eq!(folder, gguf, "{}", case.name);
        }
        for row in 0..folder.rows() {
            assert!(distance(folder.row(row), gguf.row(row)) < OWN_TOLERANCE, "{}", case.name);
        }
    }
}

/// Half the memory costs little, and it is what is had without asking.
#[test]
fn a_cache_of_halves_is_near_an_exact_one_and_half_as_large() {
    let ids = vectors().ids;
    for case in vectors().cases {
        let folder = Folder::of(&case, "F32");
        let (mut halves, mut exact) = (folder.load().model, folder.load_exact().model);
        let bytes = |model: &dyn LanguageModel| model.shape().kv_bytes_per_token;
        assert_eq!(2 * bytes(&*halves), bytes(&*exact));
        let (halves, exact) = (all_at_once(&mut *halves, &ids), all_at_once(&mut *exact, &ids));
        assert_ne!(halves, exact, "{}", case.name);
        for row in 0..exact.rows() {
            let apart = distance(halves.row(row), exact.row(row));
            assert!(apart < HALVES_TOLERANCE, "{}, position {row}: {apart}", case.name);
        }
    }
}

/// The weights are exact in all three types, so the logits are too.
#[test]
fn types_and_shards_change_no_bit() {
    let ids = vectors().ids;
    for name in ["llama-untied", "qwen2-tied", "qwen3-tied"] {
        let case = case(name);
        let expected = all_at_once(&mut *Folder::of(&case, "F32").load_exact().model, &ids);
        for dtype in ["F16", "BF16"] {
            let whole = all_at_once(&mut *Folder::of(&case, dtype).load_exact().model, &ids);
            let shards =
                all_at_once(&mut *Folder::in_shards(&case, dtype).load_exact().model, &ids);
            assert!(whole == expected && shards == expected, "{name} {dtype}");
        }
    }
}

#[test]
fn weights_stay_in_the_type_they_are_stored_in() {
    let bytes = |dtype| Folder::of(&case("qwen3-tied"), dtype).load().model.shape().weight_bytes;
    let (full, half) = (bytes("F32"), bytes("BF16"));
    assert!(half < full * 11 / 20, "{half} of {full} bytes");
}

/// A tied embedding that is stored twice is the embedding all the same.
#[test]
fn what_repeats_the_configuration_is_no_fault() {
    let case = case("llama-tied");
    let mut tensors = case.tensors();
    let mut again = tensors[0].clone();
    again.0 = "lm_head.weight".to_owned();
    tensors.push(again);
    let name = "model.layers.1.self_attn.rotary_emb.inv_freq";
    tensors.push((name.to_owned(), vec![8], vec![0.5; 8]));
    let folder = Folder::without_weights(&case.config);
    folder.write("model.safetensors", &crate::folder::safetensors(&tensors, "F32"));
    assert_all_near(&mut *folder.load_exact().model, &case, "folder");
}

/// A folder that says it is tied and has an output layer of its own is untied, to transformers too.
#[test]
fn an_output_that_is_not_the_embedding_again_counts() {
    let untied = case("llama-untied");
    let mut config = untied.config.clone();
    config["tie_word_embeddings"] = json!(true);
    let folder = Folder::without_weights(&config);
    folder.write("model.safetensors", &crate::folder::safetensors(&untied.tensors(), "F32"));
    assert_all_near(&mut *folder.load_exact().model, &untied, "folder");
    let untied = Folder::of(&untied, "F32");
    let card = |folder: &Folder| inspect(&folder.path, &LoadOptions::default()).unwrap();
    assert_eq!(card(&folder).parameters, card(&untied).parameters);
    assert_eq!(folder.load().identity.hash, untied.load().identity.hash);
}

/// Version 4 of transformers wrote rotary positions under other keys, and left sizes out that
/// follow from others.
#[test]
fn older_configurations_mean_the_same() {
    for mut case in vectors().cases {
        let config = case.config.as_object_mut().unwrap();
        let mut rotary = config.remove("rope_parameters").unwrap();
        let base = rotary.as_object_mut().unwrap().remove("rope_theta").unwrap();
        config.insert("rope_theta".to_owned(), base);
        let is_plain = rotary["rope_type"] == "default";
        config.insert("rope_scaling".to_owned(), if is_plain { Value::Null } else { rotary });
        config.remove("layer_types");
        config.insert("sliding_window".to_owned(), json!(32));
        let heads = config["num_attention_heads"].as_u64().unwrap();
        if config["model_type"] == "llama" && config["num_key_value_heads"] == json!(heads) {
            config.remove("num_key_value_heads");
        }
        let follows = |width: u64| width * heads == config["hidden_size"].as_u64().unwrap();
        let head_width = config.get("head_dim").and_then(Value::as_u64);
        if head_width.is_some_and(follows) && config["model_type"] != "qwen3" {
            config.remove("head_dim");
        }
        assert_all_near(&mut *Folder::of(&case, "F32").load_exact().model, &case, "version 4");
    }
}

#[test]
fn both_file_forms_bring_one_vocabulary_and_template() {
    let case = case("qwen2-untied");
    let (folder, gguf) = (Folder::of(&case, "F32"), GgufFile::of(&case, GgmlDType::F32));
    let (folder, gguf) = (folder.load(), gguf.load());
    let text = "hello <call> there<|endoftext|>";
    for added in [AddedTokens::Parse, AddedTokens::Plain] {
        let ids = folder.tokenizer.encode(text, added);
        assert_eq!(ids, gguf.tokenizer.encode(text, added));
    }
    assert_eq!(folder.tokenizer.fingerprint(&[]), gguf.tokenizer.fingerprint(&[]));
    assert!([&folder, &gguf].iter().all(|model| model.tokenizer.ends_text(256)));
    let said = [Message::new("user", "hi")];
    let templates = [&folder, &gguf].map(|model| {
        let template = model.chat_template.as_ref().unwrap();
        template.encode_chat(&model.tokenizer, &said, &ChatOptions::default()).unwrap()
    });
    assert_eq!(templates[0], templates[1]);
    assert_eq!(folder.model.shape().vocabulary_tokens, gguf.model.shape().vocabulary_tokens);
    assert_eq!(folder.model.shape().context_tokens, 256);
}

#[test]
fn a_folder_is_named_after_itself_and_told_apart_by_its_weights() {
    let case = case("qwen3-untied");
    let identity = |folder: &Folder| folder.load().identity;
    let folder = Folder::of(&case, "F32");
    assert_eq!(identity(&folder).name, "tiny-model");
    std::fs::create_dir(folder.path.join("inner")).unwrap();
    let from_inside = load(&folder.path.join("inner/.."), &LoadOptions::default()).unwrap();
    assert_eq!(from_inside.identity, identity(&folder));
    let shards = Folder::in_shards(&case, "F32");
    assert_eq!(identity(&folder), identity(&shards));
    assert_ne!(identity(&folder).hash, identity(&Folder::of(&case, "F16")).hash);
    let mut tensors = case.tensors();
    *tensors[0].2.last_mut().unwrap() += 1.0;
    let changed = Folder::without_weights(&case.config);
    changed.write("model.safetensors", &crate::folder::safetensors(&tensors, "F32"));
    assert_ne!(identity(&folder).hash, identity(&changed).hash);
}
