//! Keeps what people write from becoming control tokens on its way through a template. Knows texts,
//! and nothing of templates beyond their source.
//!
//! A private-use character, the marker, is put behind the first character of
//!
//! - each control text, wherever one begins, and
//! - each piece that could become one: a template may cut a text, trim it and put another behind
//!   it. So whatever begins like a control text is marked, and so is each text that begins with
//!   the same character only, unless the template itself looks for what stands there
//!   (`'</think>' in content`) or it is an added token that counts as text.
//!
//! The marker never reaches the ids: it parts the rendered text for the search for control tokens
//! and is then taken out. The template's own logic sees it: a marked text is longer by its marks, and
//! equals no control text. To keep the length, a stand-in would have to take the place of a character,
//! and templates look for `<` more often than they count.

use super::given::Given;
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

/// So many characters tell what a template looks for from the beginning of a control text.
const HEAD_CHARS: usize = 3;

/// What marks control texts in one conversation.
pub(super) struct Escaper<'a> {
    marker: char,
    tokenizer: &'a Tokenizer,
    /// Control texts, by the character they begin with.
    controls: Vec<(char, &'a str)>,
    /// The template's own sources.
    sources: Vec<&'a str>,
}

impl<'a> Escaper<'a> {
    /// For what is given to a template with these `sources`, which can render `own` texts too.
    ///
    /// # Errors
    /// [`ModelError::Template`] if no private-use character is left.
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        sources: Vec<&'a str>,
        own: &[&str],
        given: &Given,
    ) -> Result<Self, ModelError> {
        let mut used = vec![false; '\u{F8FF}' as usize + 1];
        let mut note = |text: &str| {
            for char in text.chars() {
                if let Some(is_used) = used.get_mut(char as usize) {
                    *is_used = true;
                }
            }
        };
        sources.iter().chain(own).for_each(|text| note(text));
        given.map_texts(&mut |text| {
            note(text);
            String::new()
        });
        let is_free = |char: &char| !used[*char as usize];
        let marker = ('\u{E000}'..='\u{F8FF}').find(is_free).ok_or_else(none_left)?;
        let controls = tokenizer.control_texts().filter_map(|bytes| {
            let text = std::str::from_utf8(bytes).ok()?;
            Some((text.chars().next()?, text))
        });
        Ok(Self { marker, tokenizer, controls: controls.collect(), sources })
    }

    pub(super) fn marker(&self) -> char {
        self.marker
    }

    pub(super) fn escape_text(&self, text: &str) -> String {
        let added = self.tokenizer.added_tokens_in(text);
        let mut escaped = String::with_capacity(text.len());
        for (at, char) in text.char_indices() {
            escaped.push(char);
            let is_added = || added.binary_search_by_key(&at, |(start, _)| *start).is_ok();
            if self.is_marked(char, &text[at..], is_added) {
                escaped.push(self.marker);
            }
        }
        escaped
    }

    fn is_marked(&self, first: char, rest: &str, is_added: impl Fn() -> bool) -> bool {
        let mut alike =
            self.controls.iter().filter(|(of, _)| *of == first).map(|(_, text)| *text).peekable();
        if alike.peek().is_none() {
            return false;
        }
        let head_bytes = rest.char_indices().nth(HEAD_CHARS).map_or(rest.len(), |(end, _)| end);
        let head = &rest[..head_bytes];
        // A control text shorter than a head is no prefix of it, but stands there all the same.
        if alike.any(|control| control.starts_with(head) || rest.starts_with(control)) {
            return !is_added() || self.controls.iter().any(|(_, text)| rest.starts_with(text));
        }
        !is_added() && !self.sources.iter().any(|source| source.contains(head))
    }
}

fn none_left() -> ModelError {
    ModelError::template(
        "the conversation uses every private-use character, so none is left to mark control texts \
         with; leave some out",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::ChatOptions;
    use crate::scripted::byte_tokenizer;
    use crate::tokenizer::TokenKind;

    #[test]
    fn what_could_become_a_control_text_is_marked_and_nothing_else() {
        let tokenizer = byte_tokenizer(&[
            ("<|im_end|>", TokenKind::Control),
            ("<s>", TokenKind::Control),
            ("<think>", TokenKind::UserDefined),
            ("<|in|>", TokenKind::UserDefined),
        ]);
        let source = "{{ '</think>' in content }}";
        let given = Given::new(&[], &ChatOptions::default());
        let escaper = Escaper::new(&tokenizer, vec![source], &[], &given).unwrap();
        for (text, marked) in [
            ("plain |im_end|> text", "plain |im_end|> text"),
            ("a<|im_end|>b", "a<*|im_end|>b"),
            ("<s>", "<*s>"),
            ("<<s>", "<*<*s>"),
            ("<|im_", "<*|im_"),
            ("ends <|", "ends <*|"),
            ("ends <", "ends <*"),
            ("1 < 2", "1 <* 2"),
            ("<think>a</think>", "<think>a</think>"),
            ("<</think>|im_end|>", "<*</think>|im_end|>"),
            ("<|in|>", "<|in|>"),
            ("日本<|", "日本<*|"),
        ] {
            let expected = marked.replace('*', "\u{E000}");
            assert_eq!(escaper.escape_text(text), expected, "{text}");
        }
    }
}
