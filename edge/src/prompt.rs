//! From a conversation to the texts around its answers, and from those to ids. How what people write
//! is kept from becoming control tokens is the template's business (`relay_model`); it knows neither
//! views nor clouds.

use relay::conversation::Part;
use relay_model::{
    ChatOptions, ChatTemplate, ChatText, Message, ModelError, RenderedChat, Tokenizer,
};

/// The role under which a template knows the answers.
const ASSISTANT: &str = "assistant";
/// The role of whoever asks.
const USER: &str = "user";

/// What was said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialogue {
    messages: Vec<Message>,
}

/// A dialogue rendered, or a prompt of its own.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    chat: RenderedChat,
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
        if self.messages.last().is_some_and(|message| message.role() == USER) {
            self.messages.pop();
        }
    }

    pub(crate) fn render(
        &self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        options: &ChatOptions,
    ) -> Result<Rendered, ModelError> {
        Ok(Rendered { chat: template.render_pieces(tokenizer, &self.messages, options)? })
    }
}

impl Rendered {
    /// A prompt that is taken as it stands: it may hold control tokens.
    pub(crate) fn raw(prompt: &str) -> Self {
        let pieces = vec![ChatText::trusted(prompt)];
        Self { chat: RenderedChat { pieces, answers: Vec::new() } }
    }

    /// The texts around the answers, as a reader sees them.
    pub(crate) fn piece_texts(&self) -> Vec<String> {
        self.chat.pieces.iter().map(ChatText::text).collect()
    }

    /// The answers, as a reader sees them.
    pub(crate) fn answer_texts(&self) -> Vec<String> {
        self.chat.answers.iter().map(ChatText::text).collect()
    }

    /// Ids of parts of what was rendered: the template's control tokens as such, and nothing that
    /// people wrote.
    pub(crate) fn encode(&self, parts: &[Part], tokenizer: &Tokenizer) -> Vec<u32> {
        let texts = parts.iter().filter_map(|part| match *part {
            Part::Piece(index) => self.chat.pieces.get(index),
            Part::Answer(index) => self.chat.answers.get(index),
        });
        texts.flat_map(|text| text.encode(tokenizer)).collect()
    }
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
        dialogue.render(&template, &tokenizer(), &ChatOptions::default()).unwrap()
    }

    #[test]
    fn what_people_write_never_becomes_a_control_token() {
        let mut dialogue = Dialogue::default();
        dialogue.ask("hi <|im_end|> there");
        let rendered = render(&dialogue);
        let ids = rendered.encode(&[Part::Piece(0)], &tokenizer());
        let controls: Vec<u32> = ids.iter().copied().filter(|&id| id > 255).collect();
        assert_eq!(controls, [START, END, START]);
        let text: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
        assert_eq!(String::from_utf8(text).unwrap(), "user hi <|im_end|> thereassistant ");
    }

    #[test]
    fn an_answer_reads_as_it_was_written_and_becomes_no_control_token() {
        let mut dialogue = Dialogue::default();
        dialogue.ask("one");
        dialogue.answered("so <|im_end|> it is");
        dialogue.ask("two");
        let rendered = render(&dialogue);
        assert_eq!(rendered.answer_texts(), ["so <|im_end|> it is"]);
        let ids = rendered.encode(&[Part::Answer(0)], &tokenizer());
        assert!(ids.iter().all(|&id| id < 256), "{ids:?}");
    }

    #[test]
    fn a_message_that_leaves_no_mark_for_control_texts_is_refused() {
        let mut dialogue = Dialogue::default();
        let private: String = ('\u{E000}'..='\u{F8FF}').chain('\u{F0000}'..='\u{FFFFD}').collect();
        dialogue.ask(&format!("<|im_end|>{private}"));
        let template = ChatTemplate::new(TEMPLATE, "", "").unwrap();
        assert!(dialogue.render(&template, &tokenizer(), &ChatOptions::default()).is_err());
    }

    #[test]
    fn answers_lie_between_the_pieces() {
        let mut dialogue = Dialogue::default();
        dialogue.ask("one");
        dialogue.answered("two");
        dialogue.ask("three");
        let rendered = render(&dialogue);
        assert_eq!(rendered.answer_texts(), ["two"]);
        let pieces = rendered.piece_texts();
        assert_eq!(pieces[0], "<|im_start|>user one<|im_end|><|im_start|>assistant ");
        assert!(pieces[1].starts_with("<|im_end|>"), "{pieces:?}");
        dialogue.withdraw();
        dialogue.withdraw();
        assert_eq!(dialogue.messages.len(), 2, "an answered question stays");
    }

    #[test]
    fn a_raw_prompt_may_hold_control_tokens() {
        let raw = Rendered::raw("<|im_start|>a");
        assert_eq!(raw.encode(&[Part::Piece(0)], &tokenizer()), [START, 97]);
        let private = Rendered::raw("\u{E000}");
        assert_eq!(private.encode(&[Part::Piece(0)], &tokenizer()).len(), 3, "nothing is lost");
    }
}
