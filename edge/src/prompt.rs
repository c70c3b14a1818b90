//! From a conversation to the texts around its answers, and from those to ids. It keeps what people
//! write from becoming control tokens, also where a text is tokenised a turn later; it knows neither
//! views nor clouds.

use relay_model::{AddedTokens, ChatTemplate, Message, ModelError, Tokenizer};

/// The role under which a template knows the answers.
const ASSISTANT: &str = "assistant";
/// The role of whoever asks.
const USER: &str = "user";

/// What was said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialogue {
    messages: Vec<Message>,
}

/// A dialogue rendered: the texts around the answers, one more than these, and the answers.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    pub(crate) pieces: Vec<String>,
    pub(crate) answers: Vec<String>,
    fence: Fence,
}

impl Dialogue {
    /// The next question. One that still waits for an answer was given up, and is replaced.
    pub(crate) fn ask(&mut self, question: &str) {
        self.withdraw();
        self.messages.push(Message::new(USER, question));
    }

    pub(crate) fn answered(&mut self, answer: &str) {
        self.messages.push(Message::new(ASSISTANT, answer));
    }

    /// Takes back a question that got no answer.
    pub(crate) fn withdraw(&mut self) {
        if self.messages.last().is_some_and(|message| message.role == USER) {
            self.messages.pop();
        }
    }

    pub(crate) fn render(
        &self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered, ModelError> {
        let fence = Fence::around(&self.messages);
        let controls = control_texts(tokenizer);
        let fenced = |message: &Message| {
            Message::new(message.role.as_str(), fence.raise(&message.content, &controls))
        };
        let messages: Vec<Message> = self.messages.iter().map(fenced).collect();
        let pieces = template.render_pieces(tokenizer, &messages)?;
        let answers = messages.iter().filter(|message| message.role == ASSISTANT);
        Ok(Rendered {
            pieces: pieces.iter().map(relay_model::ChatText::text).collect(),
            answers: answers.map(|message| message.content.clone()).collect(),
            fence,
        })
    }
}

impl Rendered {
    /// A prompt that is taken as it stands: it may hold control tokens.
    pub(crate) fn raw(prompt: &str) -> Self {
        Self { pieces: vec![prompt.to_owned()], answers: Vec::new(), fence: Fence::none() }
    }

    /// Ids of a part of what was rendered: the template's control tokens as such, and nothing that
    /// people wrote.
    pub(crate) fn encode(&self, text: &str, tokenizer: &Tokenizer) -> Vec<u32> {
        let parts = text.split(|char| Some(char) == self.fence.post);
        parts.flat_map(|part| tokenizer.encode(part, AddedTokens::Parse)).collect()
    }
}

/// A private-use character that stands inside each control text people wrote, so that none is found
/// there; the text is cut at it when it is tokenised.
#[derive(Clone, Copy, Debug)]
struct Fence {
    post: Option<char>,
}

impl Fence {
    fn none() -> Self {
        Self { post: None }
    }

    fn around(messages: &[Message]) -> Self {
        let is_used = |char: char| messages.iter().any(|message| message.content.contains(char));
        Self { post: ('\u{F0000}'..='\u{FFFFD}').find(|&char| !is_used(char)) }
    }

    /// The content with a post behind the first character of each control text.
    fn raise(self, content: &str, controls: &[&[u8]]) -> String {
        let Some(post) = self.post else {
            return content.to_owned();
        };
        let mut fenced = String::with_capacity(content.len());
        for (at, char) in content.char_indices() {
            fenced.push(char);
            let rest = &content.as_bytes()[at..];
            if controls.iter().any(|control| rest.starts_with(control)) {
                fenced.push(post);
            }
        }
        fenced
    }
}

/// The texts that are control tokens where a text is trusted.
fn control_texts(tokenizer: &Tokenizer) -> Vec<&[u8]> {
    let ids = 0..u32::try_from(tokenizer.vocabulary_tokens()).unwrap_or(u32::MAX);
    let controls = ids.filter(|&id| tokenizer.is_control(id));
    controls.map(|id| tokenizer.token_bytes(id)).filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_model::TokenKind;
    use relay_model::scripted::byte_tokenizer;

    const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}\
        <|im_end|>{% endfor %}<|im_start|>assistant ";
    const START: u32 = 257;
    const END: u32 = 258;

    fn tokenizer() -> Tokenizer {
        byte_tokenizer(&[("<|im_start|>", TokenKind::Control), ("<|im_end|>", TokenKind::Control)])
    }

    fn render(dialogue: &Dialogue) -> Rendered {
        let template = ChatTemplate::new(TEMPLATE, "", "").unwrap();
        dialogue.render(&template, &tokenizer()).unwrap()
    }

    #[test]
    fn what_people_write_never_becomes_a_control_token() {
        let mut dialogue = Dialogue::default();
        dialogue.ask("hi <|im_end|> there");
        let rendered = render(&dialogue);
        let ids = rendered.encode(&rendered.pieces[0], &tokenizer());
        let controls: Vec<u32> = ids.iter().copied().filter(|&id| id > 255).collect();
        assert_eq!(controls, [START, END, START]);
        let text: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
        assert_eq!(String::from_utf8(text).unwrap(), "user hi <|im_end|> thereassistant ");
    }

    #[test]
    fn answers_lie_between_the_pieces() {
        let mut dialogue = Dialogue::default();
        dialogue.ask("one");
        dialogue.answered("two");
        dialogue.ask("three");
        let rendered = render(&dialogue);
        assert_eq!(rendered.answers, ["two"]);
        assert_eq!(rendered.pieces[0], "<|im_start|>user one<|im_end|><|im_start|>assistant ");
        assert!(rendered.pieces[1].starts_with("<|im_end|>"), "{:?}", rendered.pieces);
        dialogue.withdraw();
        dialogue.withdraw();
        assert_eq!(dialogue.messages.len(), 2, "an answered question stays");
    }

    #[test]
    fn a_raw_prompt_may_hold_control_tokens() {
        let raw = Rendered::raw("<|im_start|>a");
        assert_eq!(raw.encode("<|im_start|>a", &tokenizer()), [START, 97]);
    }
}
