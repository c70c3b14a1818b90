//! The reader's text: bytes of tokens in, whole characters out. Tokens split characters, and a
//! character may begin in one author's leg and end in the other's.

/// Holds back the beginning of a character until its end arrives: three bytes at most.
#[derive(Clone, Debug, Default)]
pub struct CharacterAssembler {
    partial: Vec<u8>,
}

impl CharacterAssembler {
    /// Whole characters that `bytes` complete. Bytes that can be no part of a character become
    /// U+FFFD, one for each maximal invalid sequence, as the standard library does it.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.partial.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.partial) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.partial.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.partial[..valid]));
                    let Some(invalid) = error.error_len() else {
                        self.partial.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.partial.drain(..valid + invalid);
                }
            }
        }
    }

    /// Ends the text: a character that never got its end becomes one U+FFFD.
    pub fn end(&mut self) -> String {
        if self.partial.is_empty() {
            return String::new();
        }
        self.partial.clear();
        char::REPLACEMENT_CHARACTER.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_text() {
        for text in ["añ€😀z", "\u{fffd}", "👩‍👩‍👧"] {
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let bytes = text.as_bytes();
                    let mut assembler = CharacterAssembler::default();
                    let mut seen = assembler.push(&bytes[..first]);
                    seen += &assembler.push(&bytes[first..second]);
                    seen += &assembler.push(&bytes[second..]);
                    seen += &assembler.end();
                    assert_eq!(seen, text);
                }
            }
        }
    }

    #[test]
    fn invalid_bytes_are_replaced_at_once_and_an_unfinished_character_at_the_end() {
        let mut assembler = CharacterAssembler::default();
        assert_eq!(assembler.push(b"\xffa\xe2\x82"), "\u{fffd}a");
        assert_eq!(assembler.push(b"b\xf0\x9f"), "\u{fffd}b");
        assert_eq!(assembler.end(), "\u{fffd}");
        assert_eq!(assembler.end(), "");
    }
}
