//! What goes into a template: messages, and what else a conversation is rendered with. Values only;
//! what becomes of them is the template's business.

use serde::{Deserialize, Deserializer, de};
use time::PrimitiveDateTime;

use super::json::Json;
use crate::error::ModelError;

/// Names under which models give their reasoning; templates read the first.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Fields in the order in which they were given.
pub(super) type Fields = Vec<(String, Json)>;

/// One message of a conversation: a role, and whatever fields its template reads. It can be
/// deserialised from the object that applications send.
///
/// Templates read `content` (a text, or a list of parts), and many read `tool_calls`,
/// `tool_call_id`, `name` and `reasoning_content` too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    fields: Fields,
}

impl Message {
    /// A message of this role ("system", "user", "assistant", "tool", or what else the template
    /// knows), with a text as it was written.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let field = |name: &str, text: String| (name.to_owned(), Json::from(text));
        Self { fields: vec![field("role", role.into()), field("content", content.into())] }
    }

    /// A message as applications send it: an object with a `role`. Fields that are null count as
    /// left out.
    ///
    /// # Errors
    /// [`ModelError::Template`] if it is no object or has no role.
    pub fn from_json(sent: Json) -> Result<Self, ModelError> {
        let mut fields = sent.into_fields().unwrap_or_default();
        fields.retain(|(_, value)| !value.is_null());
        let message = Self { fields };
        if message.field("role").and_then(Json::as_text).is_none() {
            let what = "a message has no role; give each one a text `role`";
            return Err(ModelError::template(what));
        }
        Ok(message)
    }

    /// The same message with one more field, or another value of it.
    #[must_use]
    pub fn with(mut self, name: &str, value: Json) -> Self {
        set(&mut self.fields, name, value);
        self
    }

    /// What a field holds.
    pub fn field(&self, name: &str) -> Option<&Json> {
        self.fields.iter().find(|(of, _)| of == name).map(|(_, value)| value)
    }

    /// Its role.
    pub fn role(&self) -> &str {
        self.field("role").and_then(Json::as_text).unwrap_or_default()
    }

    /// Its content, where that is one text.
    pub fn text(&self) -> Option<&str> {
        self.field("content").and_then(Json::as_text)
    }

    /// Whether it is nothing but an answer's text, so that the text can stand on its own.
    pub(super) fn is_plain_answer(&self) -> bool {
        self.role() == super::ASSISTANT
            && self.text().is_some()
            && self.fields.iter().all(|(name, _)| matches!(name.as_str(), "role" | "content"))
    }

    /// The fields as a template sees them: reasoning under the name it reads, whatever it was
    /// called (as transformers does).
    pub(super) fn for_template(&self) -> Fields {
        let mut fields = self.fields.clone();
        let given = REASONING_FIELDS.iter().find_map(|name| self.field(name));
        if let Some(reasoning) = given {
            set(&mut fields, REASONING_FIELDS[0], reasoning.clone());
            if self.field("thinking").is_none() {
                set(&mut fields, "thinking", reasoning.clone());
            }
        }
        fields
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Json::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Sets a field in its place, or as the last one.
pub(super) fn set(fields: &mut Fields, name: &str, value: Json) {
    match fields.iter_mut().find(|(of, _)| of == name) {
        Some((_, old)) => *old = value,
        None => fields.push((name.to_owned(), value)),
    }
}

/// What else a conversation is rendered with. The default is a plain conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatOptions {
    /// Tools the model may call, each as a JSON schema of a function.
    pub tools: Vec<Json>,
    /// Documents to answer from, for templates that know them.
    pub documents: Vec<Json>,
    /// Whether a model that can think first shall (`enable_thinking`); unset leaves it to the
    /// template.
    pub thinking: Option<bool>,
    /// The local date and time a template may name; without it a template that asks for the date
    /// takes its own fixed one, or says what it lacks.
    pub now: Option<PrimitiveDateTime>,
    /// Further variables of the template, by name. They win over those above.
    pub variables: Vec<(String, Json)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sent: &str) -> Result<Message, serde_json::Error> {
        serde_json::from_str(sent)
    }

    #[test]
    fn a_message_needs_a_role_and_loses_its_nulls() {
        for wrong in ["{}", r#"{"role": 1}"#, r#"{"content": "x"}"#, "[]"] {
            assert!(message(wrong).is_err(), "{wrong}");
        }
        let sent = r#"{"role": "assistant", "content": null, "tool_calls": []}"#;
        let message = message(sent).unwrap();
        assert_eq!(message.text(), None);
        assert_eq!(message.fields.len(), 2);
    }

    #[test]
    fn reasoning_is_found_under_each_of_its_names() {
        for (sent, seen) in [
            (r#"{"role": "a", "reasoning": "r"}"#, ["r", "r"]),
            (r#"{"role": "a", "thinking": "t", "reasoning": "r"}"#, ["t", "t"]),
            (r#"{"role": "a", "thinking": "t", "reasoning_content": "c"}"#, ["c", "t"]),
        ] {
            let fields = message(sent).unwrap().for_template();
            let message = Message { fields };
            let of = |name| message.field(name).and_then(Json::as_text).unwrap();
            assert_eq!([of("reasoning_content"), of("thinking")], seen, "{sent}");
        }
        assert_eq!(Message::new("a", "b").for_template(), Message::new("a", "b").fields);
    }

    #[test]
    fn an_answer_with_more_than_a_text_is_no_plain_answer() {
        let answer = Message::new("assistant", "x");
        assert!(answer.is_plain_answer());
        for other in [
            answer.clone().with("tool_calls", Json::of(&["x"])),
            answer.clone().with("content", Json::of(&["x"])),
            Message::new("user", "x"),
        ] {
            assert!(!other.is_plain_answer(), "{other:?}");
        }
    }
}
