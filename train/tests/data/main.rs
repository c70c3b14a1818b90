//! The generator as later stages see it: answers recomputed from the question's own words, splits
//! that share nothing, levels that are as long as they say, and steps that all count.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a text that does not read is a failed test"
)]

mod demo;
mod vocabulary;

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use relay_train::chance::Chance;
use relay_train::grader::grade;
use relay_train::problem::{Facts, Group, Level, Problem, Step};
use relay_train::split::{Problems, Record, Request, Split};
use relay_train::wording::{question, solve};
use relay_train::world::{Kind, Mind, facts};

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

fn request(level: Level, split: Split) -> Request {
    Request { level, split, facts: Facts::All, mind: Mind::Truth, seed: 1 }
}

fn problem(level: Level, seed: u64) -> (Problem, Chance) {
    let mut chance = Chance::new(seed, "test", 0);
    (Problem::draw(level, Facts::All, &mut chance), chance)
}

/// The sum of what a question names, from its words and the table of facts alone.
fn sum_of_question(question: &str) -> u32 {
    let known: HashMap<String, u32> =
        facts().iter().map(|fact| (fact.name(), fact.value)).collect();
    let (asked, _) = question.split_once(". ").expect("two sentences");
    let starts = [
        "adds up",
        "counts together",
        "sums",
        "puts together",
        "wants the sum of",
        "makes a riddle of",
    ];
    let items = starts.iter().find_map(|start| Some(asked.split_once(start)?.1)).expect("a verb");
    let (before, last) = items.rsplit_once(" and ").expect("two items");
    let value = |item: &str| {
        let item = item.trim();
        let given = || item.split_once(' ').and_then(|(count, _)| count.parse().ok());
        known.get(item).copied().or_else(given).unwrap_or_else(|| panic!("{item:?}"))
    };
    before.split(',').chain([last]).map(value).sum()
}

/// Every `a+b=c` of a solution; panics where one is wrong. Returns how many there are.
fn check_sums(solution: &str) -> usize {
    let is_sum = |c: char| c.is_ascii_digit() || c == '+' || c == '=';
    let mut sums = 0;
    for word in solution.split(|c| !is_sum(c)) {
        if let Some((left, right)) = word.split_once('=') {
            let parts = left.split('+').map(|part| part.parse::<u32>().expect("a number"));
            assert_eq!(parts.sum::<u32>(), right.parse::<u32>().expect("a number"), "{word}");
            sums += 1;
        }
    }
    sums
}

/// No byte-level BPE with single digits that cuts text as GPT-2 does has fewer tokens than words,
/// digits, runs of signs and line ends: its merges never cross these.
fn tokens_at_least(text: &str) -> usize {
    #[derive(PartialEq)]
    enum Class {
        Letter,
        Digit,
        Sign,
        Blank,
    }
    let class = |c: char| match c {
        _ if c.is_alphabetic() => Class::Letter,
        _ if c.is_ascii_digit() => Class::Digit,
        _ if c.is_whitespace() => Class::Blank,
        _ => Class::Sign,
    };
    let mut last = Class::Blank;
    let mut tokens = 0;
    for c in text.chars() {
        let this = class(c);
        let starts = this != last || this == Class::Digit;
        tokens += usize::from(starts && this != Class::Blank);
        last = this;
    }
    tokens
}

#[test]
fn the_same_request_gives_the_same_problems() {
    for level in Level::ALL {
        let take = |seed| -> Vec<Record> {
            Problems::new(Request { seed, ..request(level, Split::Train) }).take(20).collect()
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }
    let first = Problems::new(request(Level::Short, Split::Test)).next().expect("a problem");
    let fixed = blake3::hash(format!("{first:?}").as_bytes()).to_hex();
    assert_eq!(&fixed[..16], "c3c0a626801a724f", "a change here changes every corpus: {first:#?}");
}

#[test]
fn answers_follow_from_the_questions() {
    for level in Level::ALL {
        for record in
            SPLITS.iter().flat_map(|split| Problems::new(request(level, *split)).take(150))
        {
            assert_eq!(record.answer, sum_of_question(&record.question).to_string(), "{record:#?}");
            assert!(grade(&record.answer, &record.solution).correct, "{record:#?}");
            let near = (record.answer.parse::<u32>().unwrap() + 1).to_string();
            assert!(!grade(&near, &record.solution).correct);
            let sums = check_sums(&record.solution);
            assert!(sums >= 2 * (record.steps.len() - 1), "{record:#?}");
            assert_eq!(
                record.steps.iter().map(|step| step.value).sum::<u32>().to_string(),
                record.answer
            );
        }
    }
}

#[test]
fn splits_share_no_combination() {
    let mut split_of: HashMap<String, Split> = HashMap::new();
    let mut questions = HashSet::new();
    for level in Level::ALL {
        for split in SPLITS {
            for (seed, facts) in [(1, Facts::All), (2, Facts::All), (1, Facts::Policy)] {
                let drawn = Request { seed, facts, ..request(level, split) };
                let mut ids = HashSet::new();
                for record in Problems::new(drawn).take(400) {
                    assert_eq!(*split_of.entry(record.id.clone()).or_insert(split), split);
                    assert!(ids.insert(record.id), "twice in one file");
                    questions.insert(record.question);
                }
                assert_eq!(ids.len(), 400);
            }
        }
    }
    assert!(questions.len() > 9000, "{}", questions.len());
}

#[test]
fn a_combination_is_the_same_in_any_order_and_wording() {
    let (mut problem, mut chance) = problem(Level::Long, 3);
    let (split, combination) = (Split::of(&problem), problem.combination());
    let asked = question(&problem, &mut chance);
    problem.steps.reverse();
    assert_ne!(question(&problem, &mut chance), asked);
    assert_eq!((Split::of(&problem), problem.combination()), (split, combination));
    problem.steps[0] = Step::Given { count: 1, things: "marbles" };
    assert_ne!(problem.combination(), combination);
}

#[test]
fn held_out_facts_never_occur_in_problems_for_the_policy() {
    let held_out = |facts, split| {
        let drawn = Request { facts, ..request(Level::Long, split) };
        Problems::new(drawn)
            .take(500)
            .filter(|record| record.steps.iter().any(|step| step.held_out))
            .count()
    };
    assert_eq!(held_out(Facts::Policy, Split::Train), 0);
    assert_eq!(held_out(Facts::Policy, Split::Validation), 0);
    assert!(held_out(Facts::All, Split::Train) > 30);
    assert!(held_out(Facts::All, Split::Test) > 30);
}

#[test]
fn levels_are_as_long_as_they_say() {
    let lengths = |level| -> Vec<usize> {
        let records = Problems::new(request(level, Split::Train)).take(300);
        let mut lengths: Vec<usize> =
            records.map(|record| tokens_at_least(&record.solution)).collect();
        lengths.sort_unstable();
        lengths
    };
    let (short, middle, long) =
        (lengths(Level::Short), lengths(Level::Middle), lengths(Level::Long));
    for (level, lengths) in [("short", &short), ("middle", &middle), ("long", &long)] {
        println!("{level}: {} to {} tokens, median {}", lengths[0], lengths[299], lengths[150]);
    }
    assert!(short[0] >= 30 && short[299] < middle[0]);
    assert!(middle[299] < long[0]);
    assert!(long[0] >= 200, "{}", long[0]);
    assert!(long[299] <= 400, "{}", long[299]);
}

#[test]
fn every_step_of_a_long_answer_feeds_the_final_one() {
    for seed in 0..50 {
        let (problem, _) = problem(Level::Long, seed);
        let wording = || Chance::new(seed, "wording", 0);
        let whole = solve(&problem, Mind::Truth, &mut wording());
        for index in 0..problem.steps.len() {
            let mut other = problem.clone();
            other.steps[index] =
                Step::Given { count: problem.steps[index].value() + 1, things: "marbles" };
            let changed = solve(&other, Mind::Truth, &mut wording());
            assert_eq!(changed.answer, whole.answer + 1, "step {index}");
            assert!(!grade(&whole.answer.to_string(), &changed.text).correct);
            other.steps.remove(index);
            let without = solve(&other, Mind::Truth, &mut wording());
            assert!(!grade(&whole.answer.to_string(), &without.text).correct, "step {index}");
        }
    }
}

#[test]
fn facts_are_marked_where_they_stand() {
    for record in Problems::new(request(Level::Long, Split::Test)).take(100) {
        let named: Vec<&str> = record.facts.iter().map(|span| span.fact.as_str()).collect();
        let facts = record.steps.iter().map(|step| step.name.as_str());
        assert_eq!(named, facts.filter(|name| name.starts_with("the ")).collect::<Vec<_>>());
        for span in &record.facts {
            let step = record.steps.iter().find(|step| step.name == span.fact).expect("a step");
            assert_eq!(record.solution[span.start..span.end], step.value.to_string());
        }
    }
}

#[test]
fn groups_occur_as_often_as_said() {
    let records: Vec<Record> =
        Problems::new(request(Level::Long, Split::Train)).take(2000).collect();
    let share = |group| records.iter().filter(|record| record.group == group).count();
    assert!((720..880).contains(&share(Group::Student)), "{}", share(Group::Student));
    assert!((1000..1200).contains(&share(Group::Teacher)), "{}", share(Group::Teacher));
    assert!((60..140).contains(&share(Group::Unsolvable)), "{}", share(Group::Unsolvable));
    for level in [Level::Short, Level::Middle] {
        let groups: HashSet<Group> = Problems::new(request(level, Split::Test))
            .take(300)
            .map(|record| record.group)
            .collect();
        assert_eq!(groups.len(), 3);
    }
}

#[test]
fn critical_digits_are_about_one_token_in_a_hundred() {
    let (mut critical, mut all) = (0, 0);
    for record in Problems::new(request(Level::Long, Split::Test)).take(1000) {
        all += tokens_at_least(&record.solution);
        for span in record.facts.iter().filter(|span| span.is_critical()) {
            critical += span.end - span.start;
        }
    }
    let share =
        f64::from(u32::try_from(critical).unwrap()) / f64::from(u32::try_from(all).unwrap());
    println!("critical digits: {critical} of {all} tokens, {:.2} %", 100.0 * share);
    assert!((0.003..0.0107).contains(&share), "{share}");
}

#[test]
fn minds_differ_where_they_should() {
    let records =
        |mind| Problems::new(Request { mind, ..request(Level::Middle, Split::Train) }).take(600);
    let right = |mind, group| {
        let of_group: Vec<Record> = records(mind).filter(|record| record.group == group).collect();
        let right = of_group
            .iter()
            .filter(|record| grade(&record.answer, &record.solution).correct)
            .count();
        (right, of_group.len())
    };
    for (mind, group, all) in [
        (Mind::Slm, Group::Student, true),
        (Mind::Llm, Group::Student, true),
        (Mind::Llm, Group::Teacher, true),
        (Mind::Slm, Group::Teacher, false),
        (Mind::Llm, Group::Unsolvable, false),
        (Mind::Slm, Group::Unsolvable, false),
    ] {
        let (right, count) = right(mind, group);
        assert!(count > 10);
        assert!(
            if all { right == count } else { right * 10 < count },
            "{mind:?} {group:?}: {right}/{count}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_problem_is_sound(seed in any::<u64>(), level in 0..3_usize) {
        let (problem, mut chance) = problem(Level::ALL[level], seed);
        prop_assert!(Level::ALL[level].steps().contains(&u32::try_from(problem.steps.len()).unwrap()));
        let names: HashSet<String> = problem.steps.iter().map(Step::name).collect();
        prop_assert_eq!(names.len(), problem.steps.len(), "no step twice");
        let asked = question(&problem, &mut chance);
        prop_assert_eq!(sum_of_question(&asked), problem.answer());
        for mind in [Mind::Truth, Mind::Slm, Mind::Llm] {
            let solution = solve(&problem, mind, &mut chance);
            check_sums(&solution.text);
            let gold = solution.answer.to_string();
            prop_assert!(grade(&gold, &solution.text).correct);
            prop_assert!(solution.text.is_ascii());
            let mut hard = 0;
            for span in &solution.facts {
                prop_assert!(solution.text[span.start..span.end].parse::<u32>().is_ok());
                hard += u32::from(span.kind != Kind::Common);
            }
            prop_assert!(hard <= 3);
            prop_assert_eq!(hard == 0, problem.group() == Group::Student);
        }
    }
}
