//! Rollouts over scripted models, against accounts of what they must be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use relay::effect::{Author, Ending};
use relay::policy::Policy;
use relay_model::scripted::{ScriptedModel, byte_tokenizer, hash_rule};
use relay_model::{
    LanguageModel, LoadedModel, Logits, LogitsWanted, ModelIdentity, NoiseKey, Role, Sampling,
    TokenMask, sample,
};
use relay_train::rollout::{Ask, Rollout, RolloutError, RolloutSettings};

const END: u32 = 256;
const VOCABULARY: usize = 257;
const LETTERS: std::ops::Range<u32> = b'a' as u32..b'z' as u32 + 1;

fn loaded(model: impl LanguageModel + 'static) -> LoadedModel {
    LoadedModel {
        model: Box::new(model),
        tokenizer: Arc::new(byte_tokenizer(&[])),
        chat_template: None,
        identity: ModelIdentity { name: "scripted".to_owned(), hash: [1; 8] },
    }
}

/// Letters; after each twelve ids a command for five tokens; the end after `total` ids.
fn student(total: usize) -> ScriptedModel {
    let letters = hash_rule(7, LETTERS);
    let command = relay::command::write_command(5).into_bytes();
    ScriptedModel::new(VOCABULARY, 512, move |ids| {
        let text: Vec<u8> = ids.iter().map(|id| u8::try_from(*id).unwrap_or(b'?')).collect();
        let written = (1..command.len()).rev().find(|len| text.ends_with(&command[..*len]));
        let since = text.windows(command.len()).rev().position(|end| end == command);
        match written {
            Some(written) => u32::from(command[written]),
            None if ids.len() >= total => END,
            None if since.unwrap_or(text.len()) >= 12 => u32::from(command[0]),
            None => letters(ids),
        }
    })
}

fn teacher(context_tokens: usize) -> ScriptedModel {
    ScriptedModel::new(VOCABULARY, context_tokens, hash_rule(3, LETTERS))
}

fn pair() -> Rollout {
    Rollout::new(loaded(student(120)), Some(loaded(teacher(512)))).unwrap()
}

fn asks(count: u64) -> Vec<Ask> {
    let prompt = |seed| format!("question {seed}").bytes().map(u32::from).collect();
    (0..count).map(|seed| Ask { prompt: prompt(seed), seed }).collect()
}

fn sampled(policy: Policy) -> RolloutSettings {
    RolloutSettings {
        policy,
        student: Sampling::at_temperature(0.7),
        teacher: Sampling::at_temperature(0.7),
        ..RolloutSettings::default()
    }
}

/// The answer by two rules and two lists, without machine or batch.
fn by_hand(prompt: &[u32]) -> (Vec<(u32, Author)>, String) {
    let (mut student, mut teacher) = (student(120), teacher(512));
    let command: Vec<u32> = relay::command::write_command(5).bytes().map(u32::from).collect();
    let (mut edge, mut cloud) = (prompt.to_vec(), prompt.to_vec());
    let mut tokens = Vec::new();
    loop {
        let id = greedy(&mut student, &edge);
        if id == END {
            let text = cloud[prompt.len()..].iter().map(|id| u8::try_from(*id).unwrap()).collect();
            return (tokens, String::from_utf8(text).unwrap());
        }
        edge.push(id);
        cloud.push(id);
        tokens.push((id, Author::Slm));
        if cloud.ends_with(&command) {
            cloud.truncate(cloud.len() - command.len());
            for _ in 0..5 {
                let id = greedy(&mut teacher, &cloud);
                edge.push(id);
                cloud.push(id);
                tokens.push((id, Author::Llm));
            }
        }
    }
}

fn logits_after(model: &mut dyn LanguageModel, ids: &[u32]) -> Logits {
    let mut cache = model.new_cache();
    let row = relay_model::Row { tokens: ids, cache: &mut cache, logits: LogitsWanted::All };
    model.forward(&mut [row]).unwrap().remove(0)
}

fn greedy(model: &mut dyn LanguageModel, ids: &[u32]) -> u32 {
    let logits = logits_after(model, ids);
    let key = NoiseKey::new(0, Role::Slm, 0);
    sample(logits.last().unwrap(), &Sampling::GREEDY, key, &TokenMask::none()).unwrap().id
}

#[test]
fn an_answer_is_what_both_rules_say() {
    let asks = asks(3);
    let answers = pair().answers(&asks, &RolloutSettings::default()).unwrap();
    for (ask, answer) in asks.iter().zip(answers) {
        let (tokens, text) = by_hand(&ask.prompt);
        let found: Vec<_> = answer.tokens.iter().map(|token| (token.id, token.author)).collect();
        assert_eq!(found, tokens);
        assert_eq!(answer.text, text);
        assert_eq!(answer.end.map(|token| token.id), Some(END));
        assert_eq!(answer.ending, Ending::EndOfText);
        assert!(answer.account.calls >= 3, "{:?}", answer.account);
        assert_eq!(answer.account.llm_tokens, 5 * answer.account.calls);
    }
}

#[test]
fn batching_changes_nothing_under_any_policy() {
    let asks = asks(12);
    for policy in [
        Policy::Learned,
        Policy::Fixed { call_tokens: 2 },
        Policy::Entropy { threshold_nats: 0.8, probability: 1.0, call_tokens: 3 },
        Policy::Random { probability: 0.1, call_tokens: 4 },
        Policy::Every { period_tokens: 9, call_tokens: 2 },
        Policy::Never,
        Policy::Always,
    ] {
        let mut settings = RolloutSettings { rows_max: 1, ..sampled(policy) };
        settings.budget.response_tokens_max = 90;
        let alone = pair().answers(&asks, &settings).unwrap();
        let calls: u32 = alone.iter().map(|answer| answer.account.calls).sum();
        assert_eq!(calls == 0, policy == Policy::Never, "{policy:?}: {calls}");
        for rows_max in [5, 64] {
            let together = pair().answers(&asks, &RolloutSettings { rows_max, ..settings.clone() });
            assert_eq!(together.unwrap(), alone, "{policy:?} {rows_max}");
        }
    }
}

#[test]
fn a_step_is_one_forward_over_all_rows() {
    let asks = asks(8);
    let steps = |rows_max| {
        let mut pair = pair();
        pair.answers(&asks, &RolloutSettings { rows_max, ..RolloutSettings::default() }).unwrap();
        pair.cost()
    };
    let (alone, together) = (steps(1), steps(8));
    assert_eq!(alone.tokens, together.tokens);
    // Rows drift apart by their calls, so that a few more steps are needed than the longest row's.
    assert!(together.student_steps * 5 < alone.student_steps, "{alone:?} {together:?}");
    assert!(together.teacher_steps * 2 < alone.teacher_steps, "{alone:?} {together:?}");
}

#[test]
fn log_probabilities_are_those_of_the_writer_at_temperature_one() {
    let asks = asks(2);
    for answer in pair().answers(&asks, &sampled(Policy::Learned)).unwrap() {
        let mut ids = answer.prompt.clone();
        ids.extend(answer.tokens.iter().map(|token| token.id));
        let logits = logits_after(&mut student(120), &ids);
        let own = answer.tokens.iter().chain(&answer.end).enumerate();
        for (index, token) in own.filter(|(_, token)| token.author == Author::Slm) {
            let row = logits.row(answer.prompt.len() + index - 1);
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            let expected = f64::from(row[token.id as usize]) - sum.ln();
            assert!((f64::from(token.log_probability) - expected).abs() < 1e-4, "{index}");
        }
        assert!(answer.tokens.iter().any(|token| token.author == Author::Llm));
    }
}

#[test]
fn a_teacher_that_fails_stops_the_run_and_says_so() {
    let failing = teacher(512).with_fault(3);
    let mut rollout = Rollout::new(loaded(student(120)), Some(loaded(failing))).unwrap();
    let mut done = 0;
    let keep = |_, _| {
        done += 1;
        Ok::<(), RolloutError>(())
    };
    let error = rollout.run(&asks(4), &RolloutSettings::default(), keep).unwrap_err();
    assert!(matches!(error, RolloutError::TeacherGone(_)), "{error}");
    assert!(error.to_string().starts_with("the large model is gone"), "{error}");
    assert_eq!(done, 0);
    let mut alone = Rollout::new(loaded(student(120)), None).unwrap();
    let error = alone.answers(&asks(1), &RolloutSettings::default()).unwrap_err();
    assert!(matches!(error, RolloutError::NoTeacher), "{error}");
    let never = sampled(Policy::Never);
    assert_eq!(alone.answers(&asks(1), &never).unwrap()[0].account.calls, 0);
}

#[test]
fn a_run_whose_answers_cannot_be_kept_stops_at_once() {
    let mut kept = 0;
    let keep = |_, _| {
        kept += 1;
        if kept == 2 { Err(RolloutError::NoTeacher) } else { Ok(()) }
    };
    let settings = RolloutSettings { rows_max: 1, ..RolloutSettings::default() };
    let mut rollout = pair();
    let error = rollout.run(&asks(9), &settings, keep).unwrap_err();
    assert!(matches!(error, RolloutError::NoTeacher), "{error}");
    let steps = rollout.cost().student_steps;
    assert_eq!(kept, 2);
    let mut whole = pair();
    whole.answers(&asks(2), &settings).unwrap();
    assert_eq!(steps, whole.cost().student_steps, "nothing was drafted for the other seven");
}

#[test]
fn a_full_teacher_leaves_the_student_alone() {
    // Room for the prompt and two legs, for a part of a leg, and not even for the prompt.
    for (context_tokens, calls) in [(32, 3), (26, 2), (5, 1)] {
        let small = teacher(context_tokens);
        let mut rollout = Rollout::new(loaded(student(120)), Some(loaded(small))).unwrap();
        let answer = rollout.answers(&asks(1), &RolloutSettings::default()).unwrap().remove(0);
        assert!(answer.account.degraded, "{context_tokens}: {:?}", answer.account);
        assert!(answer.account.calls <= calls, "{context_tokens}: {:?}", answer.account);
        assert!(answer.tokens.len() > 60, "{context_tokens}");
    }
}

#[test]
fn the_student_s_context_bounds_the_answer() {
    let endless = ScriptedModel::new(VOCABULARY, 40, hash_rule(1, LETTERS));
    let mut rollout = Rollout::new(loaded(endless), None).unwrap();
    let answer = rollout.answers(&asks(1), &sampled(Policy::Never)).unwrap().remove(0);
    assert_eq!(answer.prompt.len() + answer.tokens.len(), 40);
    assert_eq!((answer.ending, answer.end), (Ending::Length, None));
}

#[test]
fn long_prompts_take_several_forwards_and_the_same_tokens() {
    let long: Vec<u32> = (0..400).map(|i| 97 + i % 26).collect();
    let ask = Ask { prompt: long.clone(), seed: 1 };
    let mut rollout = pair();
    let settings = RolloutSettings { policy: Policy::Never, ..RolloutSettings::default() };
    let answer = rollout.answers(&[ask], &settings).unwrap().remove(0);
    assert_eq!(answer.end.unwrap().id, greedy(&mut student(120), &long));
    assert_eq!(rollout.cost().student_steps, 2);
}

#[test]
fn asks_and_pairs_that_cannot_be_are_faults() {
    let ask = |tokens: usize| vec![Ask { prompt: vec![97; tokens], seed: 0 }];
    for (asks, expected) in [
        (ask(0), "prompt 0 is empty: give it at least one token"),
        (ask(512), "prompt 0 has 512 tokens, the context 512: shorten it"),
    ] {
        let error = pair().answers(&asks, &RolloutSettings::default()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let mut other = loaded(teacher(512));
    let more = [("<|other|>", relay_model::TokenKind::Control)];
    other.tokenizer = Arc::new(byte_tokenizer(&more));
    let error = Rollout::new(loaded(student(120)), Some(other)).unwrap_err();
    assert!(matches!(error, RolloutError::VocabularyMismatch), "{error}");
}
