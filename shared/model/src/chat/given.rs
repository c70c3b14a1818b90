//! What one rendering is given: a conversation and its options as variables of the template,
//! marked where they are to be tokenised. Knows neither files nor ids.

use std::collections::BTreeMap;

use minijinja::Value;

use super::engine::{self, MARKER};
use super::escape::Escaper;
use super::json::Json;
use super::message::{ChatOptions, Fields, Message, set};
use super::pieces::sentinel;

/// The variable that switches thinking.
pub(super) const THINKING: &str = "enable_thinking";

/// What a template is rendered with.
pub(super) struct Given {
    messages: Vec<Fields>,
    options: ChatOptions,
    marker: Option<char>,
}

impl Given {
    /// Everything as it is.
    pub(super) fn new(messages: &[Message], options: &ChatOptions) -> Self {
        let messages = messages.iter().map(Message::for_template).collect();
        Self { messages, options: options.clone(), marker: None }
    }

    /// The same with all texts in it marked.
    pub(super) fn escaped(&self, escaper: &Escaper<'_>) -> Self {
        let marked = self.map_texts(&mut |text| escaper.escape_text(text));
        Self { marker: Some(escaper.marker()), ..marked }
    }

    /// The same with each text in it changed, names among them.
    pub(super) fn map_texts(&self, change: &mut impl FnMut(&str) -> String) -> Self {
        let options = &self.options;
        Self {
            messages: self.messages.iter().map(|fields| map_fields(fields, change)).collect(),
            options: ChatOptions {
                tools: map_values(&options.tools, change),
                documents: map_values(&options.documents, change),
                variables: map_fields(&options.variables, change),
                thinking: options.thinking,
                now: options.now,
            },
            marker: self.marker,
        }
    }

    /// Puts a sentinel in place of each answer, and gives the answers.
    pub(super) fn replace_answers(&mut self, is_answer: &[bool], marker: char) -> Vec<String> {
        let mut answers = Vec::new();
        for (message, _) in self.messages.iter_mut().zip(is_answer).filter(|(_, is)| **is) {
            let content = message.iter().find(|(name, _)| name == "content");
            let answer = content.and_then(|(_, content)| content.as_text()).unwrap_or_default();
            answers.push(answer.to_owned());
            let stand_in = sentinel(answers.len() - 1, marker);
            set(message, "content", Json::from(stand_in));
        }
        answers
    }

    pub(super) fn has_tools(&self) -> bool {
        !self.options.tools.is_empty()
    }

    /// The variables of the template.
    pub(super) fn variables(&self, add_generation_prompt: bool) -> BTreeMap<&str, Value> {
        let messages = self.messages.iter().map(|fields| {
            let pairs = fields.iter().map(|(name, value)| (name.as_str(), value.0.clone()));
            Value::from_pairs(pairs)
        });
        let mut variables = BTreeMap::from([
            ("messages", messages.collect()),
            ("tools", list_or_none(&self.options.tools)),
            ("documents", list_or_none(&self.options.documents)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ]);
        if let Some(thinking) = self.options.thinking {
            variables.insert(THINKING, Value::from(thinking));
        }
        if let Some(now) = self.options.now {
            variables.insert("strftime_now", engine::clock(now));
        }
        for (name, value) in &self.options.variables {
            variables.insert(name, value.0.clone());
        }
        if let Some(marker) = self.marker {
            variables.insert(MARKER, Value::from(marker.to_string()));
        }
        variables
    }
}

fn map_values(values: &[Json], change: &mut impl FnMut(&str) -> String) -> Vec<Json> {
    values.iter().map(|value| value.map_texts(change)).collect()
}

fn map_fields(fields: &Fields, change: &mut impl FnMut(&str) -> String) -> Fields {
    fields.iter().map(|(name, value)| (change(name), value.map_texts(change))).collect()
}

fn list_or_none(values: &[Json]) -> Value {
    if values.is_empty() {
        return Value::from(());
    }
    values.iter().map(|value| value.0.clone()).collect()
}
