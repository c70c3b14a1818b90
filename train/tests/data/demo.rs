//! What the demo asks is what is drawn here: its problems are of the test split and need one rare
//! fact, and its words are all words of the small world's questions.

use std::collections::BTreeSet;
use std::path::Path;

use relay_train::problem::{Facts, Group, Level};
use relay_train::split::{Problems, Record, Request, Split};
use relay_train::world::{Fact, Kind, Mind, facts};

/// The seed of `relay-train data generate` that the problems were written with.
const SEED: u64 = 2026;
/// Problems of a level among which they are, and whose words are looked at.
const PROBLEMS: usize = 400;

fn demo(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/demo");
    std::fs::read_to_string(folder.join(file)).unwrap()
}

fn drawn(level: Level) -> Vec<Record> {
    let (split, facts, mind) = (Split::Test, Facts::All, Mind::Truth);
    Problems::new(Request { level, split, facts, mind, seed: SEED }).take(PROBLEMS).collect()
}

#[test]
fn the_demos_problems_are_of_the_test_split_and_need_one_rare_fact() {
    let known: Vec<Record> = Level::ALL.into_iter().flat_map(drawn).collect();
    let asked = demo("problems.jsonl");
    assert!(asked.lines().count() >= 5);
    for line in asked.lines() {
        let record: Record = serde_json::from_str(line).unwrap();
        assert!(known.contains(&record), "{} is not drawn with seed {SEED}", record.question);
        assert_eq!(record.group, Group::Teacher);
        let critical: Vec<Kind> =
            record.facts.iter().filter(|fact| fact.is_critical()).map(|fact| fact.kind).collect();
        assert_eq!(critical, [Kind::Rare], "{}", record.question);
    }
}

#[test]
fn the_demos_words_are_those_of_the_small_world() {
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '\'';
    let questions = Level::ALL.into_iter().flat_map(drawn).map(|record| record.question);
    let texts: Vec<String> = facts().iter().map(Fact::name).chain(questions).collect();
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    let words = texts.iter().flat_map(|text| text.split(|c| !is_part(c)));
    let words: BTreeSet<&str> = words.filter(|word| !word.is_empty() && !is_number(word)).collect();
    let written = demo("words.txt");
    let written: BTreeSet<&str> = written.lines().collect();
    assert_eq!(written, words, "write them down again, a line each");
}
