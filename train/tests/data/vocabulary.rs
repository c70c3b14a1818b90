//! The tokenizer that is learned from the small world: digits alone, tags added, the same for the
//! same seed, and answers as long in its tokens as their level says.

use std::str::FromStr;
use std::sync::LazyLock;

use relay::command::{CLOSE, OPEN};
use relay_train::problem::Level;
use relay_train::split::{Problems, Split};
use relay_train::vocabulary::{learn, write_folder};
use tokenizers::Tokenizer;

use crate::request;

/// The default one, learned once.
fn tokenizer() -> &'static Tokenizer {
    static LEARNED: LazyLock<Tokenizer> = LazyLock::new(|| {
        let learned = learn(1024, 1).expect("a tokenizer").to_string();
        Tokenizer::from_str(&learned).expect("its own JSON")
    });
    &LEARNED
}

fn count(tokenizer: &Tokenizer, text: &str) -> usize {
    tokenizer.encode_fast(text, false).expect("any text").get_ids().len()
}

#[test]
fn the_same_seed_learns_the_same_tokenizer() {
    assert_eq!(learn(400, 1).unwrap(), learn(400, 1).unwrap());
    for tokens in [0, 100, 1 << 20] {
        assert!(learn(tokens, 1).unwrap_err().to_string().contains("choose 261 to 32768"));
    }
}

#[test]
fn digits_and_tags_are_tokens_of_their_own() {
    let tokenizer = tokenizer();
    for (text, expected) in [
        ("35+18: 5+8=13", &["3", "5", "+", "1", "8", ":", "Ġ", "5", "+", "8", "=", "1", "3"][..]),
        ("(47)", &["(", "4", "7", ")"]),
    ] {
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(encoding.get_tokens(), expected);
    }
    let command = tokenizer.encode(format!("{OPEN}2{CLOSE}"), false).unwrap();
    assert_eq!(command.get_tokens(), [OPEN, "2", CLOSE]);
    assert_eq!(command.get_ids()[..1], [3]);
    for id in 0..u32::try_from(tokenizer.get_vocab_size(true)).unwrap() {
        let token = tokenizer.id_to_token(id).unwrap();
        assert!(
            token.chars().count() == 1 || !token.contains(|c: char| c.is_ascii_digit()),
            "{token}"
        );
    }
    let text = "Ünïcode → 12 \u{1F600}\n";
    let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
}

#[test]
fn levels_are_as_long_in_its_tokens() {
    let tokenizer = tokenizer();
    println!("vocabulary: {}", tokenizer.get_vocab_size(true));
    for (level, fewest, most) in
        [(Level::Short, 40, 90), (Level::Middle, 100, 180), (Level::Long, 200, 420)]
    {
        let records: Vec<_> = Problems::new(request(level, Split::Test)).take(300).collect();
        let mut lengths: Vec<usize> =
            records.iter().map(|record| count(tokenizer, &record.solution)).collect();
        let asked = records.iter().map(|record| count(tokenizer, &record.question)).max().unwrap();
        let critical: usize = records
            .iter()
            .flat_map(|record| &record.facts)
            .filter(|span| span.is_critical())
            .map(|span| span.end - span.start)
            .sum();
        let share = 100 * 100 * critical / lengths.iter().sum::<usize>();
        lengths.sort_unstable();
        println!(
            "{level:?}: {} to {} tokens, median {}, questions up to {asked}; critical {}.{:02} %",
            lengths[0],
            lengths[299],
            lengths[150],
            share / 100,
            share % 100
        );
        assert!(lengths[0] >= fewest && lengths[299] <= most, "{lengths:?}");
    }
}

#[test]
fn a_folder_holds_what_a_model_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pair");
    write_folder(&learn(400, 1).unwrap(), &path).unwrap();
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(path.join(name)).unwrap()).unwrap()
    };
    let (tokenizer, config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    assert_eq!(tokenizer["pre_tokenizer"]["type"], "ByteLevel");
    assert!(tokenizer["model"]["merges"][0].is_string());
    let special: Vec<(&str, bool)> = tokenizer["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|added| (added["content"].as_str().unwrap(), added["special"].as_bool().unwrap()))
        .collect();
    let control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(|text| (text, true));
    assert_eq!(special, [&control[..], &[(OPEN, false), (CLOSE, false)]].concat());
    assert_eq!(config["eos_token"], "<|im_end|>");
    assert!(config["chat_template"].as_str().unwrap().contains("add_generation_prompt"));
}
