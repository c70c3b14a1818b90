//! The byte-level alphabet: the printable character by which a vocabulary writes each byte.
//!
//! Source: GPT-2's `bytes_to_unicode` (Radford et al., 2019).

/// Code points at and above this one stand for no byte.
const POINTS: usize = 512;

/// Both directions of the alphabet.
#[derive(Debug, Clone)]
pub(super) struct Alphabet {
    /// Byte of each character, by code point.
    bytes: Vec<Option<u8>>,
    /// Character of each byte.
    chars: Vec<char>,
}

impl Alphabet {
    pub(super) fn new() -> Self {
        let mut bytes = vec![None; POINTS];
        let mut chars = Vec::with_capacity(256);
        let mut next_stand_in = '\u{100}'..;
        for byte in 0..=255_u8 {
            let is_itself = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            let stand_in = if is_itself { None } else { next_stand_in.next() };
            let char = stand_in.unwrap_or(char::from(byte));
            bytes[char as usize] = Some(byte);
            chars.push(char);
        }
        Self { bytes, chars }
    }

    /// Appends the bytes that a text of the vocabulary stands for. One with a character outside of
    /// the alphabet stands for itself, as in the `tokenizers` crate.
    pub(super) fn push_bytes(&self, text: &str, out: &mut Vec<u8>) {
        let byte = |char| self.bytes.get(char as usize).copied().flatten();
        let start = out.len();
        for char in text.chars() {
            let Some(byte) = byte(char) else {
                out.truncate(start);
                out.extend_from_slice(text.as_bytes());
                return;
            };
            out.push(byte);
        }
    }

    /// Writes bytes as a vocabulary does, in place of what `out` held.
    pub(super) fn spell(&self, bytes: &[u8], out: &mut String) {
        out.clear();
        out.extend(bytes.iter().map(|&byte| self.chars[usize::from(byte)]));
    }
}

/// The text by which a vocabulary lists the token of one byte.
pub(crate) fn byte_token_text(byte: u8) -> String {
    Alphabet::new().chars[usize::from(byte)].to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::Decoder;
    use tokenizers::decoders::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn every_byte_has_one_printable_character() {
        let alphabet = Alphabet::new();
        let all: Vec<u8> = (0..=255).collect();
        let mut spelt = "before".to_owned();
        alphabet.spell(&all, &mut spelt);
        assert_eq!(spelt.chars().count(), 256);
        assert!(spelt.chars().all(|char| !char.is_whitespace() && !char.is_control()));
        let mut back = Vec::new();
        alphabet.push_bytes(&spelt, &mut back);
        assert_eq!(back, all);
        assert_eq!(byte_token_text(b' '), "\u{120}");
        assert_eq!(byte_token_text(b'\n'), "\u{10A}");
        assert_eq!(byte_token_text(b'a'), "a");
        assert_eq!(byte_token_text(0xAD), "\u{143}");
    }

    #[test]
    fn a_text_with_a_character_outside_of_it_is_itself() {
        let mut bytes = b"before".to_vec();
        Alphabet::new().push_bytes("\u{120}\u{E9}日", &mut bytes);
        assert_eq!(bytes, "before\u{120}\u{E9}日".as_bytes());
    }

    proptest! {
        #[test]
        fn texts_are_decoded_as_by_the_reference(
            text in "[a-c\u{A0}-\u{180}]{0,4}|[\u{100}-\u{143}]{1,4}[\u{144}日 ]?|\\PC{0,4}",
        ) {
            let reference = ByteLevel::default().decode_chain(vec![text.clone()]).unwrap();
            let mut bytes = Vec::new();
            Alphabet::new().push_bytes(&text, &mut bytes);
            prop_assert_eq!(String::from_utf8_lossy(&bytes), reference.concat());
        }
    }
}
