//! Bytes that come token by token, given out as text that never splits or loses a character.

/// Turns the bytes of a stream of tokens into text as early as UTF-8 allows.
///
/// A character may be split over any token borders; what is incomplete waits. Bytes that can never
/// become a character are shown as U+FFFD, one for each maximal ill-formed stretch, as
/// [`String::from_utf8_lossy`] does for the whole stream. Each byte is looked at a constant number
/// of times, and at most three wait.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    /// The beginning of a character, at most three bytes.
    waiting: Vec<u8>,
}

impl Detokenizer {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next token's bytes and gives the text that is now certain.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.waiting.extend_from_slice(bytes);
        let keep = incomplete_tail(&self.waiting);
        let certain = self.waiting.len() - keep;
        let text = String::from_utf8_lossy(&self.waiting[..certain]).into_owned();
        self.waiting.drain(..certain);
        text
    }

    /// Bytes that wait for the rest of their character.
    pub fn waiting(&self) -> &[u8] {
        &self.waiting
    }

    /// Ends the stream: what still waits can no longer become a character.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.waiting);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// How many bytes at the end are the beginning of a character that is not complete yet.
fn incomplete_tail(bytes: &[u8]) -> usize {
    let longest = bytes.len().min(3);
    (1..=longest)
        .find(|&len| {
            let tail = &bytes[bytes.len() - len..];
            std::str::from_utf8(tail)
                .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_for_a_character_and_no_longer() {
        let mut stream = Detokenizer::new();
        assert_eq!(stream.push(&[0xF0, 0x9F]), "");
        assert_eq!(stream.waiting(), [0xF0, 0x9F]);
        assert_eq!(stream.push(&[0x98]), "");
        assert_eq!(stream.push(&[0x80, b'!']), "😀!");
        assert_eq!(stream.push(&[0xE2, b'x']), "\u{FFFD}x");
        assert_eq!(stream.push(&[0xC3]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..6),
            prop::collection::vec(prop::sample::select(vec![0xF0, 0x9F, 0x98, 0x80, 0xE2]), 0..4),
            ".{0,3}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(piece, 0..20)
    }

    proptest! {
        #[test]
        fn any_split_gives_what_the_whole_gives(pieces in pieces()) {
            let mut stream = Detokenizer::new();
            let mut text: String = pieces.iter().map(|piece| stream.push(piece)).collect();
            prop_assert!(stream.waiting().len() <= 3);
            text.push_str(&stream.finish());
            let whole = pieces.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }

        #[test]
        fn valid_text_is_never_held_at_its_end(text in ".{0,20}") {
            let mut stream = Detokenizer::new();
            let shown: String = text.bytes().map(|byte| stream.push(&[byte])).collect();
            prop_assert_eq!(shown, text);
            prop_assert!(stream.waiting().is_empty());
        }
    }
}
