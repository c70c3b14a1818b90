//! Evaluation and filter over scripted models that know what they should: what comes out is known.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use relay_model::scripted::{ScriptedModel, byte_tokenizer};
use relay_model::{LoadedModel, ModelIdentity, TokenKind};
use relay_train::dataset::INSTRUCTION;
use relay_train::evaluation::contender::{Contender, random_probability};
use relay_train::evaluation::figures::figures;
use relay_train::evaluation::finished::Finished;
use relay_train::evaluation::harness::{Harness, Models, Run};
use relay_train::evaluation::item::{Items, records};
use relay_train::filter_command::{Filter, filter};
use relay_train::problem::{Group, Level};
use relay_train::split::{Record, Split};

const END: u32 = 256;

fn run() -> Run {
    Run {
        slm: "slm".to_owned(),
        base: None,
        llm: "llm".to_owned(),
        set: None,
        levels: vec![Level::Short, Level::Middle],
        problems: 24,
        seed: 5,
        policies: contenders().iter().map(Contender::to_string).collect(),
        students: BTreeMap::new(),
        fixed: None,
        call_tokens: 0,
        max_tokens: 1500,
    }
}

fn contenders() -> Vec<Contender> {
    let names = Contender::DEFAULT.split(',').chain(["entropy:0.5", "fixed:1", "every:40"]);
    names.map(|name| name.parse().unwrap()).collect()
}

/// A model that writes these answers to these questions, and nothing else.
fn writer(answers: HashMap<String, String>, fault_at: Option<u64>) -> LoadedModel {
    let model = ScriptedModel::new(257, 4096, move |ids| {
        let text: Vec<u8> = ids.iter().map(|id| u8::try_from(*id).unwrap_or(b'?')).collect();
        let text = String::from_utf8_lossy(&text).into_owned();
        let (question, written) = text.split_once('\n').unwrap_or((&text, ""));
        let rest = answers.get(question).and_then(|answer| answer.strip_prefix(written));
        rest.and_then(|rest| rest.bytes().next()).map_or(END, u32::from)
    });
    let model = match fault_at {
        Some(forward) => model.with_fault(forward),
        None => model,
    };
    LoadedModel {
        model: Box::new(model),
        tokenizer: Arc::new(byte_tokenizer(&[])),
        chat_template: None,
        identity: ModelIdentity { name: "scripted".to_owned(), hash: [1; 8] },
    }
}

/// The small model: right, but for a command where a number is beyond it.
fn calling(record: &Record) -> String {
    let mut text = String::new();
    let mut at = 0;
    for span in record.facts.iter().filter(|span| span.is_critical()) {
        text.push_str(&record.solution[at..span.start]);
        let digits = u32::try_from(span.end - span.start).unwrap();
        text.push_str(&relay::command::write_command(digits));
        at = span.start;
    }
    text + &record.solution[at..]
}

/// Models that know all problems: those of the run, and those that a threshold is matched on.
fn models(fault_at: Option<u64>) -> Models {
    models_with(fault_at, None)
}

fn models_with(fault_at: Option<u64>, base: Option<LoadedModel>) -> Models {
    let validation = Run { problems: 192, ..run() };
    let mut known = records(&run(), Split::Test).unwrap();
    known.extend(records(&validation, Split::Validation).unwrap());
    let by = |answer: fn(&Record) -> String| {
        known.iter().map(|record| (record.question.clone(), answer(record))).collect()
    };
    let llm = writer(by(|record| record.solution.clone()), None);
    Models::new(writer(by(calling), fault_at), llm, base).unwrap()
}

fn world() -> Items {
    Items::of_world(&run()).unwrap()
}

fn finish(
    folder: &Path,
    contenders: &[Contender],
    fault_at: Option<u64>,
) -> anyhow::Result<Vec<Finished>> {
    let mut harness = Harness::open(run(), world(), models(fault_at), 16, folder)?;
    harness.complete(contenders)?;
    let mut rows = harness.rows().to_vec();
    rows.sort_by_key(|row| (row.policy.clone(), row.problem.clone()));
    Ok(rows)
}

#[test]
fn figures_are_what_the_models_know() {
    let folder = tempfile::tempdir().unwrap();
    let rows = finish(folder.path(), &contenders(), None).unwrap();
    let found = figures(&rows, 1);
    let of = |name: &str| &found.policies[name];
    let records = records(&run(), Split::Test).unwrap();
    let easy = records
        .iter()
        .filter(|record| !record.facts.iter().any(relay_train::wording::FactSpan::is_critical));
    let easy_share = f64::from(u32::try_from(easy.count()).unwrap()) / 24.0;
    assert!(easy_share > 0.1 && easy_share < 0.9, "{easy_share}");
    for (name, accuracy) in [
        ("slm_alone", easy_share),
        ("teacher_free", easy_share),
        ("llm_alone", 1.0),
        ("relay", 1.0),
    ] {
        assert!((of(name).accuracy - accuracy).abs() < 1e-12, "{name}: {:?}", of(name));
        assert_eq!(of(name).answers, 24, "{name}");
    }
    assert!((found.gap_recovered.unwrap() - 1.0).abs() < 1e-12);
    assert!(found.router_reduction.unwrap() > 0.9, "{found:?}");
    let relay = of("relay");
    for (kind, by_llm) in [("common", 0.0), ("rare", 1.0), ("myth", 1.0)] {
        let fact = relay.facts[kind];
        assert!((fact.by_llm - by_llm).abs() < 1e-12 && fact.numbers > 0, "{kind}: {fact:?}");
        assert!((fact.is_true - 1.0).abs() < 1e-12, "{kind}: {fact:?}");
    }
    assert!((of("llm_alone").call_ratio - 1.0).abs() < 1e-12 && of("slm_alone").llm_tokens == 0);
    let relayed = relay.call_ratio;
    let entropy = of("entropy").call_ratio;
    assert!(entropy > 0.5 * relayed && entropy < 2.0 * relayed, "{entropy} {relayed}");
    let random = of("random").call_ratio;
    assert!(random > 0.0 && random < 4.0 * relay.call_ratio, "{random} {}", relay.call_ratio);
    assert!(of("every:40").calls_per_answer > 0.0 && of("fixed:1").calls_per_answer > 0.0);
    let hard = |row: &&Finished| row.group == Some(Group::Teacher) && row.policy == "relay";
    assert!(rows.iter().filter(hard).all(|row| row.calls > 0 && row.llm_tokens > 0));
}

#[test]
fn a_policy_of_fixed_calls_is_judged_with_them() {
    let calls = |fixed: Option<u32>, contender: Contender| {
        let folder = tempfile::tempdir().unwrap();
        let run = Run { fixed: fixed.and_then(NonZeroU32::new), ..run() };
        let mut harness = Harness::open(run, world(), models(None), 16, folder.path()).unwrap();
        harness.complete(&[contender]).unwrap();
        let mut rows = harness.rows().to_vec();
        rows.sort_by_key(|row| row.problem.clone());
        rows.iter().map(|row| (row.calls, row.requested_tokens)).collect::<Vec<_>>()
    };
    let fixed = calls(Some(1), Contender::Relay);
    assert_eq!(fixed, calls(None, Contender::Fixed(1)));
    assert_ne!(fixed, calls(None, Contender::Relay));
}

#[test]
fn rivals_are_matched_to_relay_on_each_level() {
    let folder = tempfile::tempdir().unwrap();
    let compared = [Contender::Relay, Contender::RandomMatched, Contender::EntropyMatched];
    let rows = finish(folder.path(), &compared, None).unwrap();
    let text = std::fs::read_to_string(folder.path().join("matching.json")).unwrap();
    let matchings: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let of_level = |level: Level| {
        let found = figures(rows.iter().filter(|row| row.level == Some(level)), 1);
        let relay = &found.policies["relay"];
        let named = serde_json::to_value(level).unwrap();
        let matching = matchings.iter().find(|matching| matching["level"] == named).unwrap();
        assert_eq!(matching["call_tokens"], relay.tokens_per_call());
        let expected = random_probability(relay.call_ratio, relay.tokens_per_call());
        assert!((matching["random_probability"].as_f64().unwrap() - expected).abs() < 1e-12);
        assert_eq!(found.policies["random"].answers, 12);
        let (wanted, reached) = (&matching["call_ratio"], &matching["entropy_call_ratio"]);
        let excess = reached.as_f64().unwrap() / wanted.as_f64().unwrap();
        assert!((1.0..1.06).contains(&excess), "{matching}");
        expected
    };
    let [short, middle] = [Level::Short, Level::Middle].map(of_level);
    assert!((short - middle).abs() > 1e-4, "{short} {middle}: levels do not differ");
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_rows() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let few = [Contender::SlmAlone, Contender::Relay, Contender::RandomMatched];
    let expected = finish(whole.path(), &few, None).unwrap();
    let mut stops = 0;
    let found = loop {
        match finish(broken.path(), &few, (stops < 3).then_some(500 + 100 * stops)) {
            Ok(rows) => break rows,
            Err(error) => {
                let text = format!("{error:#}");
                assert!(text.contains("the small model failed: "), "{text}");
                stops += 1;
            }
        }
    };
    assert!(stops > 0);
    assert_eq!(found, expected);
    let other = Run { seed: 6, ..run() };
    let error =
        Harness::open(other, world(), models(None), 16, broken.path()).unwrap_err().to_string();
    assert!(error.contains("holds another evaluation: choose another --out"), "{error}");
}

#[test]
fn rivals_without_a_learned_policy_have_the_untouched_small_model() {
    // The untouched one knows nothing, and says so in 24 tokens.
    let known = records(&run(), Split::Test).unwrap();
    let guess = "The answer is \\boxed{0}.";
    let guesses = known.iter().map(|record| (record.question.clone(), guess.to_owned()));
    let base = writer(guesses.collect(), None);
    // None of these ever calls, so that each is its small model alone.
    let names = ["slm_alone", "random:0", "entropy:9", "every:5000", "teacher_free"];
    let run = Run {
        base: Some("base".to_owned()),
        policies: names.map(str::to_owned).to_vec(),
        call_tokens: 2,
        ..run()
    };
    let run = run.with_students().unwrap();
    let contenders = run.contenders().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut harness =
        Harness::open(run.clone(), world(), models_with(None, Some(base)), 16, folder.path())
            .unwrap();
    harness.complete(&contenders).unwrap();
    for row in harness.rows() {
        let is_untouched = row.policy != "teacher_free";
        assert_eq!(row.response_tokens == 24, is_untouched, "{row:?}");
        assert_eq!(run.students[&row.policy], if is_untouched { "base" } else { "slm" });
    }
    assert_eq!(harness.rows().len(), 24 * names.len());
}

#[test]
fn a_base_of_another_vocabulary_is_refused() {
    let mut base = writer(HashMap::new(), None);
    base.tokenizer = Arc::new(byte_tokenizer(&[("<x>", TokenKind::Control)]));
    let [slm, llm] = [(); 2].map(|()| writer(HashMap::new(), None));
    let error = Models::new(slm, llm, Some(base)).unwrap_err().to_string();
    assert!(error.starts_with("--base scripted has another vocabulary than --slm"), "{error}");
    assert!(error.contains("give the checkpoint that --slm was trained from"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_run_is_of_is_there_as_a_whole_or_not_at_all() {
    // /dev/full refuses every byte; the file aside is a link to it.
    for name in ["run.json", "matching.json"] {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join(format!("{name}.partial"));
        std::os::unix::fs::symlink("/dev/full", partial).unwrap();
        let error = finish(folder.path(), &[Contender::RandomMatched], None).unwrap_err();
        assert!(format!("{error:#}").contains("is the disk full"), "{error:#}");
        assert!(!folder.path().join(name).exists(), "{name}");
    }
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    filter: Filter,
}

#[test]
fn the_filter_asks_a_real_set_as_evaluation_does() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    std::fs::write(&input, "{\"question\": \"What is 1 + 1?\", \"answer\": \"#### 2\"}").unwrap();
    let (input, out) = (input.to_str().unwrap(), out.to_str().unwrap());
    let words = ["filter", "--llm", "unused", "--in", input, "--out", out, "--set", "gsm8k"];
    let flags = Flags::try_parse_from(words).unwrap().filter;
    let asked = format!("What is 1 + 1?\n{INSTRUCTION}\n");
    let model = ScriptedModel::new(257, 4096, move |ids| {
        let text: Vec<u8> = ids.iter().map(|id| u8::try_from(*id).unwrap_or(b'?')).collect();
        let written = text.strip_prefix(asked.as_bytes());
        let rest = written.and_then(|written| b"\\boxed{2}".strip_prefix(written));
        rest.and_then(|rest| rest.first()).map_or(END, |byte| u32::from(*byte))
    });
    let llm = LoadedModel { model: Box::new(model), ..writer(HashMap::new(), None) };
    let mut said = Vec::new();
    filter(&flags, llm, &mut said).unwrap();
    assert!(String::from_utf8(said).unwrap().starts_with("kept 1 of 1 problems in "));
}

#[test]
fn the_filter_keeps_what_is_solved_often_enough_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let records = records(&run(), Split::Test).unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let lines: Vec<String> =
        records.iter().take(6).map(|record| serde_json::to_string(record).unwrap()).collect();
    std::fs::write(&input, lines.join("\n")).unwrap();
    // Every second problem is beyond this model.
    let answer = |(at, record): (usize, &Record)| {
        let known = record.solution.clone();
        let text = if at % 2 == 0 { known } else { "The answer is \\boxed{0}.".to_owned() };
        (record.question.clone(), text)
    };
    let answers: HashMap<String, String> = records.iter().enumerate().map(answer).collect();
    let flags = |share: &str| {
        let (input, out) = (input.to_str().unwrap(), out.to_str().unwrap());
        let mut words = vec!["filter", "--llm", "unused", "--in", input, "--out", out];
        words.extend(["--share", share, "--temperature", "0.1", "--samples", "4", "--rows", "5"]);
        Flags::try_parse_from(words).unwrap().filter
    };
    let stopped =
        filter(&flags("0.5"), writer(answers.clone(), Some(400)), &mut Vec::new()).unwrap_err();
    assert!(format!("{stopped:#}").contains("run again to go on"), "{stopped:#}");
    let mut said = Vec::new();
    filter(&flags("0.5"), writer(answers.clone(), None), &mut said).unwrap();
    assert!(String::from_utf8(said).unwrap().starts_with("kept 3 of 6 problems in "));
    let kept = std::fs::read_to_string(&out).unwrap();
    for (line, at) in kept.lines().zip([0, 2, 4]) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["id"], records[at].id.as_str());
        assert_eq!(line["llm_pass_rate"], 1.0);
    }
    // All is sampled by now: another share asks no model.
    filter(&flags("0"), writer(HashMap::new(), Some(0)), &mut Vec::new()).unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), 6);
    let error = filter(&flags("1.5"), writer(HashMap::new(), None), &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "--share 1.5: give a share from 0 to 1");
}
