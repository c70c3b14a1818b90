//! What the vocabulary means to the edge: which ids are the command's tags, what text an id is, and
//! what a cloud must have in common. Knows ids and bytes only.

use relay::command::TAGS;
use relay::ids::Fingerprint;
use relay_model::Tokenizer;

/// The fingerprint both sides compare. Tokens of the command stay out: an SLM may have been given
/// them after the LLM was made.
pub fn fingerprint(tokenizer: &Tokenizer) -> Fingerprint {
    Fingerprint::new(tokenizer.fingerprint(&TAGS))
}

/// Ids of the added tokens that spell the command's tags, if there are any.
pub fn command_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
    TAGS.iter().filter_map(|text| tokenizer.added_token_id(text)).collect()
}

/// What an id adds to the text: nothing for a control token, except that the command's tags are
/// text wherever they come from.
pub fn token_text(tokenizer: &Tokenizer, id: u32) -> &[u8] {
    let bytes = tokenizer.token_bytes(id);
    let is_tag = TAGS.iter().any(|tag| tag.as_bytes() == bytes);
    if tokenizer.is_control(id) && !is_tag { &[] } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay::command::{CLOSE, OPEN};
    use relay_model::TokenKind;
    use relay_model::scripted::byte_tokenizer;

    #[test]
    fn tags_are_text_and_other_control_tokens_are_not() {
        let tokenizer = byte_tokenizer(&[
            (OPEN, TokenKind::Control),
            (CLOSE, TokenKind::UserDefined),
            ("<|im_start|>", TokenKind::Control),
        ]);
        assert_eq!(command_tokens(&tokenizer), [257, 258]);
        assert_eq!(token_text(&tokenizer, 257), OPEN.as_bytes());
        assert_eq!(token_text(&tokenizer, 258), CLOSE.as_bytes());
        assert_eq!(token_text(&tokenizer, 259), b"");
        assert_eq!(token_text(&tokenizer, 97), b"a");
    }

    #[test]
    fn tags_do_not_change_the_fingerprint() {
        let with = byte_tokenizer(&[(OPEN, TokenKind::Control), (CLOSE, TokenKind::Control)]);
        assert_eq!(fingerprint(&with), fingerprint(&byte_tokenizer(&[])));
    }
}
