//! Conversations to prompts, by the template a model was trained with.
//!
//! What people write is never tokenised into control tokens, and this is the only place that sees to
//! it. Texts that hold such a text, or could become one, are marked on the way through the template
//! (`escape`): real control tokens are recognised in the rendered result, and the marks are taken
//! out again before what lies between them is tokenised as plain text. That holds for all that is
//! given to a template: messages with all their fields, tools, documents and variables. Texts
//! without such a text therefore give exactly the ids of the published template.

mod engine;
mod escape;
mod given;
mod json;
mod markup;
mod message;
mod origin;
mod pieces;
mod python_json;
mod python_kinds;
mod python_numbers;
mod python_text;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use minijinja::{Environment, Value};

pub use self::json::Json;
pub use self::message::{ChatOptions, Message};
pub use self::text::ChatText;

use self::escape::Escaper;
use self::given::{Given, THINKING};
use self::pieces::{find_answers, split_at_sentinels};
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

const TEMPLATE: &str = "chat";
/// The variant for conversations with tools.
const TOOL_TEMPLATE: &str = "tool_use";
const BROKEN: &str = "give raw prompts, or bring another model";
/// The role of the answers.
const ASSISTANT: &str = "assistant";

/// A conversation rendered: the texts around its answers, and the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedChat {
    /// One more than answers, with the next answer to come at the end of the last.
    pub pieces: Vec<ChatText>,
    /// As they were written, or as the template has them where it changes earlier answers: nothing
    /// in them is a control token that they did not bring.
    pub answers: Vec<ChatText>,
}

/// A chat template: Jinja, as model files carry it.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    /// The model's file or folder, where it comes from one.
    path: Option<PathBuf>,
    /// Of a template that a model brings and that is none: what is wrong with it.
    fault: Option<String>,
    environment: Environment<'static>,
    source: String,
    tool_source: Option<String>,
    bos_text: String,
    eos_text: String,
}

impl ChatTemplate {
    /// Compiles a template. `bos_text` and `eos_text` are what it may refer to as `bos_token` and
    /// `eos_token`; an empty one is not defined.
    ///
    /// # Errors
    /// [`ModelError::Template`] if it is not one.
    pub fn new(source: &str, bos_text: &str, eos_text: &str) -> Result<Self, ModelError> {
        let mut environment = engine::new_environment()?;
        engine::add_template(&mut environment, TEMPLATE, source)?;
        Ok(Self {
            path: None,
            fault: None,
            environment,
            source: source.to_owned(),
            tool_source: None,
            bos_text: bos_text.to_owned(),
            eos_text: eos_text.to_owned(),
        })
    }

    /// In the place of one that cannot be compiled: the model that brings it works without chats, and
    /// the first chat is told why it cannot be.
    fn broken(path: &Path, what: String) -> Self {
        Self {
            path: Some(path.to_owned()),
            fault: Some(what),
            environment: Environment::empty(),
            source: String::new(),
            tool_source: None,
            bos_text: String::new(),
            eos_text: String::new(),
        }
    }

    /// The same as that of a model, whose file or folder errors are to name.
    fn of_file(self, path: &Path) -> Self {
        Self { path: Some(path.to_owned()), ..self }
    }

    /// What is wrong with it, if it cannot be compiled.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// The same with a variant that is used where tools are given.
    ///
    /// # Errors
    /// [`ModelError::Template`] if the variant is no template.
    pub fn with_tool_use(mut self, source: &str) -> Result<Self, ModelError> {
        engine::add_template(&mut self.environment, TOOL_TEMPLATE, source)?;
        self.tool_source = Some(source.to_owned());
        Ok(self)
    }

    /// The template itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it reads the switch of [`ChatOptions::thinking`].
    pub fn reads_thinking(&self) -> bool {
        self.sources().any(|source| source.contains(THINKING))
    }

    /// Whether it describes tools to the model.
    pub fn reads_tools(&self) -> bool {
        self.tool_source.is_some() || self.source.contains("tools")
    }

    /// The conversation as one text, nothing escaped: for reading. To tokenise, use
    /// [`ChatTemplate::encode_chat`] or [`ChatTemplate::render_pieces`].
    ///
    /// # Errors
    /// [`ModelError::Template`] if the template refuses the conversation, [`ModelError::BadFile`] if
    /// it has a [`ChatTemplate::fault`].
    pub fn render(
        &self,
        messages: &[Message],
        options: &ChatOptions,
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        self.render_given(&Given::new(messages, options), add_generation_prompt)
    }

    /// Ids of the conversation with the next answer to come.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn encode_chat(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<u32>, ModelError> {
        let given = Given::new(messages, options);
        let escaper = self.escaper(tokenizer, &given)?;
        let marked = self.render_given(&given.escaped(&escaper), true)?;
        Ok(ChatText { marked, marker: Some(escaper.marker()) }.encode(tokenizer))
    }

    /// The answers so far and the texts around them: one piece before each answer and one after
    /// the last, with the next answer to come at its end. An answer is an assistant's message that
    /// is a text and nothing more.
    ///
    /// Space that a template would take from the ends of an answer stays, so that the answer keeps
    /// its ids. An answer that the template changes otherwise (one of which it leaves out the
    /// thinking, say) comes as the template has it. Where that cannot be told apart, all is one
    /// piece without answers.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_pieces(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<RenderedChat, ModelError> {
        let is_answer: Vec<bool> = messages.iter().map(Message::is_plain_answer).collect();
        let given = Given::new(messages, options);
        let escaper = self.escaper(tokenizer, &given)?;
        let mut given = given.escaped(&escaper);
        let rendered = self.render_given(&given, true)?;
        let answers = given.replace_answers(&is_answer, escaper.marker());
        let pieces = self
            .render_given(&given, true)
            .ok()
            .and_then(|text| split_at_sentinels(&text, answers.len(), escaper.marker()));
        let parts = pieces.and_then(|pieces| {
            let answers = find_answers(&rendered, &pieces, &answers)?;
            Some((pieces, answers))
        });
        let (pieces, answers) = parts.unwrap_or_else(|| (vec![rendered], Vec::new()));
        let as_text = |marked| ChatText { marked, marker: Some(escaper.marker()) };
        Ok(RenderedChat {
            pieces: pieces.into_iter().map(as_text).collect(),
            answers: answers.into_iter().map(as_text).collect(),
        })
    }

    fn sources(&self) -> impl Iterator<Item = &str> {
        [Some(&self.source), self.tool_source.as_ref()].into_iter().flatten().map(String::as_str)
    }

    fn escaper<'a>(
        &'a self,
        tokenizer: &'a Tokenizer,
        given: &Given,
    ) -> Result<Escaper<'a>, ModelError> {
        let own = [&self.bos_text, &self.eos_text].map(String::as_str);
        Escaper::new(tokenizer, self.sources().collect(), &own, given)
    }

    fn render_given(
        &self,
        given: &Given,
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        if let (Some(what), Some(path)) = (&self.fault, &self.path) {
            let what = format!("its chat template: {what}");
            return Err(ModelError::bad_file(path, what, BROKEN));
        }
        let has_own = given.has_tools() && self.tool_source.is_some();
        let name = if has_own { TOOL_TEMPLATE } else { TEMPLATE };
        let mut variables = given.variables(add_generation_prompt);
        for (name, text) in [("bos_token", &self.bos_text), ("eos_token", &self.eos_text)] {
            if !text.is_empty() {
                variables.entry(name).or_insert_with(|| Value::from(text.as_str()));
            }
        }
        let template = self.environment.get_template(name);
        let rendered = template.and_then(|template| template.render(variables));
        let refused = |error| ModelError::Template {
            path: self.path.clone(),
            what: engine::fault_text(&error),
        };
        rendered.map_err(refused)
    }
}
