//! Numbers and companions for whoever trains a model: the same from both file forms.

use candle_core::quantized::GgmlDType;
use relay_model::{
    AddedTokens, Family, LoadOptions, ModelForm, ModelNumbers, OpenedModel, RotaryScaling,
    Tokenizer,
};

use crate::case::{Case, TOKENS, case, vectors};
use crate::folder::Folder;
use crate::gguf::GgufFile;

const TEXTS: [&str; 4] =
    ["he said: 1234 + 5 = 1239", "  I'VE\r\n\n  tabs\t\tand <call>12</call>", "é\u{301} 日本", ""];

fn assert_tensors(model: &ModelNumbers, case: &Case) {
    for (name, shape, values) in case.tensors() {
        assert_eq!(model.tensor(&name, &shape).unwrap(), values, "{} {name}", case.name);
    }
    let missing = model.tensor("model.layers.0.mlp.up_proj.bias", &[3]).unwrap_err().to_string();
    assert!(missing.contains("there is no tensor"), "{missing}");
}

#[test]
fn both_file_forms_give_the_same_numbers() {
    for case in vectors().cases {
        let folder = Folder::of(&case, "F32");
        let of_folder = ModelNumbers::open(&folder.path).unwrap();
        assert_tensors(&of_folder, &case);
        let sizes = of_folder.sizes();
        assert_eq!(sizes.family.name(), case.family());
        assert_eq!(sizes.head_width, case.head_width());
        assert_eq!(sizes.is_tied, case.is_tied());
        let scaled = case.config["rope_parameters"]["rope_type"] == "llama3";
        assert_eq!(sizes.rotary_scaling.is_some(), scaled);
        let gguf = GgufFile::of(&case, GgmlDType::F32);
        if scaled {
            // What no published model has, a GGUF file does not tell.
            let refusal = ModelNumbers::open(&gguf.path).unwrap_err().to_string();
            assert!(refusal.contains("rotary scaling is none that is published"), "{refusal}");
            continue;
        }
        let of_gguf = ModelNumbers::open(&gguf.path).unwrap();
        assert_eq!(of_gguf.sizes(), sizes);
        assert_tensors(&of_gguf, &case);
    }
}

#[test]
fn a_published_scaling_is_known_from_a_gguf_file() {
    let mut case = case("llama3-scaled");
    case.config["rope_parameters"]["original_max_position_embeddings"] = 8192.into();
    let gguf = GgufFile::of(&case, GgmlDType::F32);
    let sizes = ModelNumbers::open(&gguf.path).unwrap().sizes().clone();
    let scaling =
        RotaryScaling { factor: 8.0, low_turns: 1.0, high_turns: 4.0, trained_tokens: 8192 };
    assert_eq!((sizes.family, sizes.rotary_scaling), (Family::Llama, Some(scaling)));
}

/// What was read once is not read again, whatever becomes of the file.
#[test]
fn an_opened_file_is_not_opened_again() {
    let gguf = GgufFile::of(&case("llama-tied"), GgmlDType::F32);
    let numbers = ModelNumbers::open(&gguf.path).unwrap();
    let opened = OpenedModel::open(&gguf.path).unwrap();
    std::fs::remove_file(&gguf.path).unwrap();
    assert_eq!(numbers.companions().unwrap().len(), 3);
    let options = LoadOptions::default();
    assert_eq!(opened.card(&options).unwrap().form, ModelForm::Gguf);
    opened.load(&options).unwrap();
}

/// What is written reads as what it was written from.
fn assert_same_tokenizer(path: &std::path::Path, case: &Case) {
    let companions = ModelNumbers::open(path).unwrap().companions().unwrap();
    let written = Folder::without_weights(&case.config);
    for (name, text) in &companions {
        written.write(name, text.as_bytes());
    }
    let [ours, before] = [&written.path, path].map(|path| Tokenizer::read(path).unwrap());
    assert_eq!(ours.fingerprint(&[]), before.fingerprint(&[]));
    assert_eq!(ours.pre_tokenizer(), before.pre_tokenizer());
    assert_eq!(ours.bos_to_prepend(), before.bos_to_prepend());
    assert_eq!(ours.eos_text(), before.eos_text());
    for text in TEXTS {
        for added in [AddedTokens::Parse, AddedTokens::Plain] {
            assert_eq!(ours.encode(text, added), before.encode(text, added), "{text:?}");
        }
    }
    for id in 0..u32::try_from(TOKENS).unwrap() {
        assert_eq!(ours.kind(id), before.kind(id));
        assert_eq!(ours.ends_text(id), before.ends_text(id));
    }
}

#[test]
fn a_gguf_files_tokenizer_is_the_same_as_files_of_a_folder() {
    let case = case("llama-tied");
    for pre in ["gpt-2", "smollm", "qwen2", "llama-bpe"] {
        assert_same_tokenizer(&GgufFile::cutting(&case, pre).path, &case);
    }
    assert_same_tokenizer(&Folder::of(&case, "F32").path, &case);
    let gguf = GgufFile::of(&case, GgmlDType::F32);
    let companions = ModelNumbers::open(&gguf.path).unwrap().companions().unwrap();
    let config = companions.iter().find(|(name, _)| *name == "tokenizer_config.json").unwrap();
    assert!(config.1.contains("{{ messages[0].content }}"), "{}", config.1);
}
