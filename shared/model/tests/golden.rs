//! A real model against another implementation's recorded output. Needs the model file: its path
//! comes from the environment variable `RELAY_TEST_MODEL`; without it these tests say so and pass.
//!
//! The recording quantises activations, we do not, so log-probabilities agree to about 0.15 near
//! the top, and a greedy path may part where two candidates are all but equally likely.

use std::path::PathBuf;

use relay_model::{
    AddedTokens, KvCache, LanguageModel, LoadOptions, LoadedModel, Logits, LogitsWanted, Message,
    NoiseKey, Role, Row, Sampling, TokenMask, load, sample, top_log_probabilities,
};
use serde::Deserialize;

/// How far the most likely token's log-probability may be from the recorded one.
const TOP_TOLERANCE: f32 = 0.15;
/// Two candidates nearer than this may swap.
const PARTING_NATS: f32 = 0.1;

#[derive(Deserialize)]
struct Recording {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    top5_logprobs: Option<Vec<Vec<(u32, f32)>>>,
}

fn load_real_model() -> Option<LoadedModel> {
    let Some(path) = std::env::var_os("RELAY_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: set RELAY_TEST_MODEL to the path of SmolLM2-135M-Instruct.Q4_1.gguf");
        return None;
    };
    Some(load(&path, &LoadOptions::default()).unwrap())
}

fn recording() -> Recording {
    serde_json::from_str(include_str!("golden/smollm2-135m-q4_1.json")).unwrap()
}

fn run(
    model: &mut dyn LanguageModel,
    cache: &mut KvCache,
    tokens: &[u32],
    logits: LogitsWanted,
) -> Logits {
    model.forward(&mut [Row { tokens, cache, logits }]).unwrap().remove(0)
}

fn greedy(logits: &[f32]) -> u32 {
    let key = NoiseKey::new(0, Role::Slm, 0);
    sample(logits, &Sampling::GREEDY, key, &TokenMask::none()).id
}

#[test]
fn prompts_have_the_recorded_ids() {
    let Some(loaded) = load_real_model() else { return };
    for case in recording().cases {
        let ids = loaded.tokenizer.encode(&case.prompt, AddedTokens::Parse);
        assert_eq!(ids, case.prompt_ids, "{:?}", case.prompt);
        let bytes: Vec<u8> =
            ids.iter().flat_map(|id| loaded.tokenizer.token_bytes(*id)).copied().collect();
        assert_eq!(bytes, case.prompt.as_bytes());
    }
}

#[test]
fn the_chat_template_gives_the_recorded_prompt() {
    let Some(loaded) = load_real_model() else { return };
    let template = loaded.chat_template.unwrap();
    let question = "What is 12 times 7? Think step by step.";
    let ids = template.encode_chat(&loaded.tokenizer, &[Message::new("user", question)]).unwrap();
    assert_eq!(ids, recording().cases[0].prompt_ids);
}

#[test]
fn fed_the_recorded_ids_the_top_log_probability_agrees() {
    let Some(mut loaded) = load_real_model() else { return };
    let mut worst = 0.0_f32;
    for case in recording().cases {
        let Some(recorded) = &case.top5_logprobs else { continue };
        let mut cache = loaded.model.new_cache();
        let mut tokens = case.prompt_ids.clone();
        tokens.extend(&case.greedy_ids);
        let logits = run(&mut *loaded.model, &mut cache, &tokens, LogitsWanted::All);
        for (step, recorded) in recorded.iter().enumerate() {
            let (id, expected) = recorded[0];
            let ours = top_log_probabilities(logits.row(case.prompt_ids.len() - 1 + step), 50);
            let ours = ours.iter().find(|top| top.0 == id).unwrap().1;
            worst = worst.max((ours - expected).abs());
            assert!(
                (ours - expected).abs() <= TOP_TOLERANCE,
                "{:?}, step {step}: {ours} for token {id}, recorded {expected}",
                case.prompt
            );
        }
    }
    println!("the top log-probability is at most {worst:.3} away");
}

#[test]
fn greedy_ids_are_the_recorded_ones_but_for_near_ties() {
    let Some(mut loaded) = load_real_model() else { return };
    for case in recording().cases {
        let mut cache = loaded.model.new_cache();
        let mut tokens = case.prompt_ids.clone();
        for (step, &recorded) in case.greedy_ids.iter().enumerate() {
            let logits = run(&mut *loaded.model, &mut cache, &tokens, LogitsWanted::Last);
            let logits = logits.last().unwrap();
            let ours = greedy(logits);
            if ours != recorded {
                let top = top_log_probabilities(logits, 2);
                let gap = top[0].1 - top[1].1;
                println!("{:?} parts at step {step}: {ours} or {recorded}, {top:?}", case.prompt);
                assert_eq!(top[1].0, recorded, "the recorded token is not even second");
                assert!(gap <= PARTING_NATS, "parts although {gap} nats lie between the two");
                break;
            }
            tokens = vec![recorded];
        }
    }
}
