//! One tokenizer in two file forms: the same ids as the reference, the same fingerprint, the same
//! roles.

use std::sync::LazyLock;

use candle_core::quantized::gguf_file::Value as Entry;
use proptest::prelude::*;
use relay_model::{AddedTokens, Detokenizer, TokenKind, Tokenizer};

use crate::allocations;
use crate::family::{FAMILIES, Family, Files, ROWS};
use crate::texts;

/// Bytes that a byte of a text may take while it is tokenised, all of it one word.
const PEAK_PER_BYTE: usize = 200;

/// Ours in both forms, and the reference with added tokens and without.
struct Judged {
    family: Family,
    ours: [Tokenizer; 2],
    reference: tokenizers::Tokenizer,
    plain_reference: tokenizers::Tokenizer,
}

static JUDGED: LazyLock<Vec<Judged>> = LazyLock::new(|| {
    let judged = |family| {
        let files = Files::new(family);
        Judged {
            family,
            ours: files.ours(),
            reference: files.reference(),
            plain_reference: files.plain_reference(),
        }
    };
    FAMILIES.map(judged).into()
});

fn ids_of(reference: &tokenizers::Tokenizer, text: &str, with_bos: bool) -> Vec<u32> {
    reference.encode_fast(text, with_bos).unwrap().get_ids().to_vec()
}

fn check(text: &str) -> Result<(), TestCaseError> {
    for judged in &*JUDGED {
        let parsed = ids_of(&judged.reference, text, false);
        let plain = ids_of(&judged.plain_reference, text, false);
        let raw = ids_of(&judged.reference, text, true);
        for (ours, form) in judged.ours.iter().zip(["folder", "GGUF"]) {
            let about = format!("{:?} from {form}", judged.family);
            prop_assert_eq!(&ours.encode(text, AddedTokens::Parse), &parsed, "{}", about);
            prop_assert_eq!(&ours.encode(text, AddedTokens::Plain), &plain, "{}", about);
            let prompt = ours.with_bos(text);
            prop_assert_eq!(&ours.encode(&prompt, AddedTokens::Parse), &raw, "{}", about);
        }
    }
    Ok(())
}

/// `tokenizer_config.json` lists the added tokens again, and some folders list more there.
#[test]
fn added_tokens_that_only_the_configuration_names_are_added_tokens() {
    for family in FAMILIES {
        let mut files = Files::new(family);
        let [whole, _] = files.ours();
        let added = files.json["added_tokens"].as_array_mut().unwrap();
        let moved: Vec<serde_json::Value> = added.drain(1..).collect();
        let entries = moved.iter().map(|token| (token["id"].to_string(), token.clone()));
        files.config["added_tokens_decoder"] = serde_json::Value::Object(entries.collect());
        files.write_folder();
        let split = Tokenizer::read(files.folder()).unwrap();
        assert_eq!(split.fingerprint(&[]), whole.fingerprint(&[]), "{family:?}");
        for token in &moved {
            let (text, id) = (token["content"].as_str().unwrap(), token["id"].as_u64());
            assert_eq!(split.added_token_id(text).map(u64::from), id, "{family:?} {text}");
            let text = format!("a {text}b");
            let [ours, theirs] =
                [&split, &whole].map(|tokenizer| tokenizer.encode(&text, AddedTokens::Parse));
            assert_eq!(ours, theirs, "{family:?} {text}");
        }
        // What both name is what tokenizer.json says.
        let first = files.json["added_tokens"][0].clone();
        let mut other = first.clone();
        other["content"] = "other".into();
        files.config["added_tokens_decoder"][first["id"].to_string()] = other;
        files.write_folder();
        let again = Tokenizer::read(files.folder()).unwrap();
        assert_eq!(again.fingerprint(&[]), whole.fingerprint(&[]), "{family:?}");
    }
}

#[test]
fn every_kind_of_text_has_the_ids_of_the_reference() {
    for (name, text) in texts::NAMED {
        check(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn one_model_has_one_fingerprint_and_one_set_of_roles() {
    for Judged { family, ours: [folder, gguf], .. } in &*JUDGED {
        let commands = ["<call>", "</call>"];
        assert_eq!(folder.fingerprint(&commands), gguf.fingerprint(&commands), "{family:?}");
        assert_eq!(gguf.vocabulary_tokens(), ROWS);
        assert!(folder.vocabulary_tokens() < ROWS);
        assert_eq!(folder.bos_text(), gguf.bos_text());
        assert_eq!(folder.eos_text(), gguf.eos_text());
        assert_eq!(folder.bos_to_prepend(), gguf.bos_to_prepend());
        assert_eq!(folder.bos_to_prepend().is_some(), *family == Family::Llama3);
        let placeholders =
            |tokenizer: &Tokenizer| tokenizer.placeholder_ids(ROWS).collect::<Vec<_>>();
        assert_eq!(placeholders(folder), placeholders(gguf));
        for id in 0..u32::try_from(ROWS).unwrap() + 2 {
            assert_eq!(folder.token_bytes(id), gguf.token_bytes(id), "{family:?} {id}");
            assert_eq!(folder.kind(id), gguf.kind(id), "{family:?} {id}");
            assert_eq!(folder.ends_text(id), gguf.ends_text(id), "{family:?} {id}");
        }
    }
}

#[test]
fn roles_are_those_of_the_family() {
    for (index, ends, eos, controls) in [
        (0, vec!["<|endoftext|>"], "<|endoftext|>", 1),
        (1, vec!["<|endoftext|>", "<|im_end|>"], "<|im_end|>", 3),
        (2, vec!["<|endoftext|>", "<|im_end|>"], "<|im_end|>", 4),
        (3, vec!["<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", 5),
    ] {
        let tokenizer = &JUDGED[index].ours[0];
        let ids = 0..u32::try_from(tokenizer.vocabulary_tokens()).unwrap();
        let text = |id| String::from_utf8(tokenizer.token_bytes(id).to_vec()).unwrap();
        let found: Vec<_> = ids.clone().filter(|&id| tokenizer.ends_text(id)).map(text).collect();
        assert_eq!(
            (found, tokenizer.eos_text().as_str()),
            (ends.iter().map(ToString::to_string).collect(), eos)
        );
        let is_control = |id: &u32| tokenizer.kind(*id) == TokenKind::Control;
        assert_eq!(ids.filter(is_control).count(), controls);
    }
}

/// Ollama's converter counts its padding from 0 and writes it as text.
#[test]
fn padding_is_no_token_however_it_is_counted() {
    for Judged { family, ours: [folder, _], .. } in &*JUDGED {
        let files = Files::new(*family);
        let first = folder.vocabulary_tokens();
        let with_padding = |last: &str| {
            let mut entries = files.entries();
            for (key, value) in &mut entries {
                let Entry::Array(values) = value else { continue };
                for (index, value) in values.iter_mut().skip(first).enumerate() {
                    match key.as_str() {
                        "tokenizer.ggml.tokens" if first + index + 1 == ROWS => {
                            *value = Entry::String(last.to_owned());
                        }
                        "tokenizer.ggml.tokens" => *value = Entry::String(format!("[PAD{index}]")),
                        "tokenizer.ggml.token_type" => *value = Entry::I32(4),
                        _ => {}
                    }
                }
            }
            files.write_gguf(&entries);
            Tokenizer::read(&files.gguf()).unwrap()
        };
        let whole = with_padding(&format!("[PAD{}]", ROWS - first - 1));
        assert_eq!(whole.fingerprint(&[]), folder.fingerprint(&[]), "{family:?}");
        assert_eq!(whole.placeholder_ids(ROWS).count(), ROWS - first, "{family:?}");
        // A run that does not go on to the last id is text like any other.
        for last in ["[PAD]", "[PAD00]", "[PAD9999]", "[x]"] {
            let placeholders = with_padding(last).placeholder_ids(ROWS).count();
            assert_eq!(placeholders, usize::from(last == "[PAD9999]"), "{family:?} {last}");
        }
    }
}

/// In memory that grows with the text and no faster; a search that went back and forth would not
/// come to an end.
#[test]
fn long_runs_of_anything_are_tokenised_whole() {
    const PIECES: [&str; 18] = [
        "a",
        " ",
        "\n",
        "\t ",
        "7",
        "é",
        "!",
        "<",
        "<|im_",
        "<|im_end|>",
        "\u{301}",
        "日",
        "relay ",
        "👩\u{200D}",
        "👍🏽",
        "\u{323}\u{307}",
        "\u{FFFD}\0",
        "'S",
    ];
    for piece in PIECES {
        let text = piece.repeat(300_000 / piece.len());
        for judged in &*JUDGED {
            let about = format!("{:?} {piece:?}", judged.family);
            let start = allocations::start();
            let ids = judged.ours[0].encode(&text, AddedTokens::Parse);
            let peak_bytes = allocations::peak_since(start);
            assert!(peak_bytes < PEAK_PER_BYTE * text.len(), "{about}: {peak_bytes}");
            let bytes: usize = ids.iter().map(|&id| judged.ours[0].token_bytes(id).len()).sum();
            assert_eq!(bytes, text.len(), "{about}");
        }
    }
}

proptest! {
    #[test]
    fn random_text_has_the_ids_of_the_reference(text in texts::random()) {
        check(&text)?;
    }

    #[test]
    fn any_ids_decode_without_loss(
        ids in prop::collection::vec(prop_oneof![0_u32..710, any::<u32>()], 0..60),
    ) {
        for judged in &*JUDGED {
            let tokenizer = &judged.ours[1];
            let mut stream = Detokenizer::new();
            let mut text = String::new();
            for &id in &ids {
                text.push_str(&stream.push(tokenizer.token_bytes(id)));
                prop_assert!(stream.waiting().len() <= 3);
            }
            text.push_str(&stream.finish());
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
