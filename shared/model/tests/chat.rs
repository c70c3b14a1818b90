//! Chat templates against transformers: what its engine makes of conversations, word for word.
//!
//! `chat/make_vectors.py` made the reference. Templates of models may not be kept here; with
//! `RELAY_CHAT_TEMPLATES` naming a folder, each folder in it that holds a model's
//! `tokenizer_config.json` and the `vectors.json` that the script made of it is checked too.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![allow(clippy::print_stdout, reason = "what was skipped or refused is said")]

use std::collections::HashMap;
use std::path::Path;

use relay_model::{ChatOptions, ChatTemplate, Json, Message};
use serde::Deserialize;
use serde_json::{Map, Value};
use time::macros::datetime;

/// Names the folder with models' templates.
const TEMPLATES_VARIABLE: &str = "RELAY_CHAT_TEMPLATES";

#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Vec<Message>,
    #[serde(default)]
    tools: Vec<Json>,
    #[serde(default)]
    documents: Vec<Json>,
    thinking: Option<bool>,
    #[serde(default)]
    variables: HashMap<String, Json>,
    add_generation_prompt: Option<bool>,
}

/// Expressions and what becomes of them; of a refusal, null.
#[derive(Deserialize)]
struct Expressions {
    variables: HashMap<String, Json>,
    expressions: HashMap<String, Option<String>>,
}

fn conversations() -> Vec<Conversation> {
    serde_json::from_str(include_str!("chat/conversations.json")).unwrap()
}

fn render(template: &ChatTemplate, conversation: &Conversation) -> Option<String> {
    let variables = conversation.variables.iter();
    let options = ChatOptions {
        tools: conversation.tools.clone(),
        documents: conversation.documents.clone(),
        thinking: conversation.thinking,
        now: Some(datetime!(2024-07-06 08:09:05)),
        variables: variables.map(|(name, value)| (name.clone(), value.clone())).collect(),
    };
    let prompt = conversation.add_generation_prompt.unwrap_or(true);
    let rendered = template.render(&conversation.messages, &options, prompt);
    rendered.inspect_err(|error| println!("{}: {error}", conversation.name)).ok()
}

/// How many renderings were compared.
fn check(name: &str, template: &ChatTemplate, expected: &Map<String, Value>) -> usize {
    let mut differing = Vec::new();
    for conversation in &conversations() {
        let expected = expected[&conversation.name].as_str();
        let rendered = render(template, conversation);
        if rendered.as_deref() != expected {
            differing.push(format!("{}\n{expected:?}\n{rendered:?}", conversation.name));
        }
    }
    assert!(differing.is_empty(), "{name}:\n{}", differing.join("\n"));
    expected.len()
}

/// Our own templates, and what transformers makes of the conversations with each.
fn own_templates() -> Vec<(String, ChatTemplate, Map<String, Value>)> {
    let templates: Map<String, Value> =
        serde_json::from_str(include_str!("chat/templates.json")).unwrap();
    let mut vectors: Map<String, Value> =
        serde_json::from_str(include_str!("chat/vectors.json")).unwrap();
    assert_eq!(templates.len(), vectors.len());
    let of_name = |(name, lines): (String, Value)| {
        let lines: Vec<&str> = lines.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let template = ChatTemplate::new(&lines.join("\n"), "<s>", "<|im_end|>").unwrap();
        let Some(Value::Object(expected)) = vectors.remove(&name) else { unreachable!() };
        (name, template, expected)
    };
    templates.into_iter().map(of_name).collect()
}

#[test]
fn own_templates_are_rendered_as_by_transformers() {
    for (name, template, expected) in own_templates() {
        check(&name, &template, &expected);
    }
}

/// `chat/make_expressions.py` made the reference.
#[test]
fn expressions_are_rendered_as_by_jinja2() {
    let Expressions { variables, expressions } =
        serde_json::from_str(include_str!("chat/expressions.json")).unwrap();
    let variables = variables.into_iter().collect();
    let options = ChatOptions { variables, ..ChatOptions::default() };
    let mut differing = Vec::new();
    for (source, expected) in &expressions {
        let template = ChatTemplate::new(source, "", "");
        let rendered = template.and_then(|template| template.render(&[], &options, true));
        if rendered.as_deref().ok() != expected.as_deref() {
            differing.push(format!("{source}\n  {expected:?}\n  {rendered:?}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// Turns of the long conversation, as `make_vectors.py` has them too.
const TURNS: usize = 400;
const WORDS: [&str; 13] = [
    "relay", "the", "answer", "<", "é", "1 < 2", "\n", "  ", "日本", "👍🏽", "{{ x }}", "ends",
    "</think>",
];

fn words(index: usize) -> String {
    let chosen = (0..60).map(|at| WORDS[(index * 31 + at * at * 7 + at) % WORDS.len()]);
    format!("{index}: {}", chosen.collect::<Vec<_>>().join(" "))
}

fn long_conversation(turns: usize) -> Vec<Message> {
    let turn = |turn| {
        [Message::new("user", words(2 * turn)), Message::new("assistant", words(2 * turn + 1))]
    };
    let mut messages = vec![Message::new("system", "Be brief.")];
    messages.extend((0..turns).flat_map(turn));
    messages.pop();
    messages
}

/// FNV-1a of 64 bits.
fn checksum(text: &str) -> String {
    let step = |digest: u64, byte: u8| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", text.bytes().fold(0xCBF2_9CE4_8422_2325, step))
}

#[test]
fn a_long_conversation_is_rendered_as_by_transformers() {
    let options =
        ChatOptions { now: Some(datetime!(2024-07-06 08:09:05)), ..ChatOptions::default() };
    for (name, template, expected) in own_templates() {
        let rendered = template.render(&long_conversation(TURNS), &options, true).unwrap();
        assert_eq!(rendered.len() as u64, expected["long"]["bytes"], "{name}");
        assert_eq!(checksum(&rendered), expected["long"]["checksum"], "{name}");
        // Ten times as long, far beyond what a model attends to, is no reason to refuse it either.
        template.render(&long_conversation(10 * TURNS), &options, true).unwrap();
    }
}

#[test]
fn templates_of_models_are_rendered_as_by_transformers() {
    let Some(folder) = std::env::var_os(TEMPLATES_VARIABLE) else {
        println!("skipped: {TEMPLATES_VARIABLE} names no folder with models' templates");
        return;
    };
    let mut models = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let (config, vectors) = (folder.join("tokenizer_config.json"), folder.join("vectors.json"));
        if config.is_file() && vectors.is_file() {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let compared = check(&name, &template_of(&read(&config)), &read(&vectors));
            println!("{name}: {compared} conversations alike");
            models += 1;
        }
    }
    assert!(models > 0, "{TEMPLATES_VARIABLE} names a folder without models' templates");
}

fn read(path: &Path) -> Map<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn template_of(config: &Map<String, Value>) -> ChatTemplate {
    let special = |name: &str| match config.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(token)) => token["content"].as_str().unwrap().to_owned(),
        _ => String::new(),
    };
    let source = config["chat_template"].as_str().unwrap();
    ChatTemplate::new(source, &special("bos_token"), &special("eos_token")).unwrap()
}
