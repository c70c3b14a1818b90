//! Where added tokens stand in a text: literally, longest first, in one pass over the text.

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::limits;
use crate::error::ModelError;

/// An added token to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken<'a> {
    pub(super) id: u32,
    pub(super) text: &'a [u8],
    /// Looked for only between the others, as `tokenizer.json` files say by `normalized`.
    pub(super) is_late: bool,
}

/// Finds added tokens.
#[derive(Debug)]
pub(super) struct Finder {
    early: Patterns,
    late: Patterns,
}

impl Finder {
    /// # Errors
    /// [`ModelError::Tokenizer`] if the tokens are longer than a search should look ahead, or too
    /// many for it.
    pub(super) fn new(tokens: &[AddedToken<'_>]) -> Result<Self, ModelError> {
        let is_long = |token: &&AddedToken<'_>| token.text.len() > limits::ADDED_TOKEN_BYTES_MAX;
        if let Some(long) = tokens.iter().find(is_long) {
            let most = limits::ADDED_TOKEN_BYTES_MAX;
            return fault(format!("its added token {} is longer than {most} bytes", long.id));
        }
        let bytes: usize = tokens.iter().map(|token| token.text.len()).sum();
        if bytes > limits::ADDED_BYTES_MAX {
            let most = limits::ADDED_BYTES_MAX;
            return fault(format!("its added tokens have {bytes} bytes, where {most} is the most"));
        }
        Ok(Self { early: Patterns::new(tokens, false)?, late: Patterns::new(tokens, true)? })
    }

    /// Where added tokens start, left to right, and their ids.
    pub(super) fn find(&self, text: &str) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        let mut free_from = 0;
        for (start, end, id) in self.early.find(text, 0, text.len()) {
            self.find_late(text, free_from, start, &mut found);
            found.push((start, id));
            free_from = end;
        }
        self.find_late(text, free_from, text.len(), &mut found);
        found
    }

    fn find_late(&self, text: &str, from: usize, to: usize, found: &mut Vec<(usize, u32)>) {
        let late = self.late.find(text, from, to);
        found.extend(late.map(|(start, _, id)| (start, id)));
    }
}

/// Tokens that are looked for together.
#[derive(Debug)]
struct Patterns {
    automaton: AhoCorasick,
    /// Id of each pattern.
    ids: Vec<u32>,
}

impl Patterns {
    fn new(tokens: &[AddedToken<'_>], late: bool) -> Result<Self, ModelError> {
        let chosen = tokens.iter().filter(|token| token.is_late == late);
        let mut builder = AhoCorasick::builder();
        let automaton = builder
            .match_kind(MatchKind::LeftmostLongest)
            .build(chosen.clone().map(|token| token.text));
        match automaton {
            Ok(automaton) => Ok(Self { automaton, ids: chosen.map(|token| token.id).collect() }),
            Err(error) => fault(format!("its added tokens are too many to look for: {error}")),
        }
    }

    /// Start, end and id of each that stands in this part of the text: the leftmost first, the
    /// longest of those, none over another.
    fn find<'a>(
        &'a self,
        text: &'a str,
        from: usize,
        to: usize,
    ) -> impl Iterator<Item = (usize, usize, u32)> + 'a {
        let found = self.automaton.find_iter(Input::new(text).range(from..to));
        found.map(|found| (found.start(), found.end(), self.ids[found.pattern().as_usize()]))
    }
}

fn fault<T>(what: String) -> Result<T, ModelError> {
    Err(ModelError::Tokenizer { what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXTS: [(&str, bool); 7] = [
        ("<a>", false),
        ("<a>b", false),
        ("a>", false),
        ("<<", true),
        ("b<", true),
        ("é", false),
        (">b<", true),
    ];

    fn tokens() -> Vec<AddedToken<'static>> {
        let token = |(id, (text, is_late)): (u32, &(&'static str, bool))| AddedToken {
            id,
            text: text.as_bytes(),
            is_late: *is_late,
        };
        (0..).zip(&TEXTS).map(token).collect()
    }

    /// Tries every token at every place, early ones first.
    fn by_force(text: &str) -> Vec<(usize, u32)> {
        let scan = |from: usize, to: usize, late: bool| {
            let mut found = Vec::new();
            let mut at = from;
            while at < to {
                let here = |(_, (token, is_late)): &(usize, &(&str, bool))| {
                    *is_late == late && text.as_bytes()[at..to].starts_with(token.as_bytes())
                };
                let longest = TEXTS.iter().enumerate().filter(here).max_by_key(|t| t.1.0.len());
                match longest {
                    Some((id, (token, _))) => {
                        found.push((at, u32::try_from(id).unwrap()));
                        at += token.len();
                    }
                    None => at += 1,
                }
            }
            found
        };
        let early = scan(0, text.len(), false);
        let mut all = early.clone();
        let mut from = 0;
        for (start, id) in early {
            all.extend(scan(from, start, true));
            from = start + TEXTS[id as usize].0.len();
        }
        all.extend(scan(from, text.len(), true));
        all.sort_unstable();
        all
    }

    #[test]
    fn the_leftmost_then_the_longest_wins() {
        let finder = Finder::new(&tokens()).unwrap();
        assert_eq!(finder.find("x<a>bé"), [(1, 1), (5, 5)]);
        assert_eq!(finder.find("<<a>b"), [(1, 1)], "early ones are found first");
        assert_eq!(finder.find(""), []);
        assert_eq!(Finder::new(&[]).unwrap().find("<a>"), []);
    }

    #[test]
    fn tokens_too_long_or_too_many_to_look_for_are_refused() {
        let long = "a".repeat(limits::ADDED_TOKEN_BYTES_MAX);
        let token = |text| AddedToken { id: 7, text, is_late: false };
        assert!(Finder::new(&[token(long.as_bytes())]).is_ok());
        let too_long = long.clone() + "a";
        let longer = Finder::new(&[token(too_long.as_bytes())]).unwrap_err();
        assert!(longer.to_string().contains("added token 7 is longer than 256"), "{longer}");
        let count = limits::ADDED_BYTES_MAX / long.len() + 1;
        let many = Finder::new(&vec![token(long.as_bytes()); count]).unwrap_err();
        assert!(many.to_string().contains("where 2097152 is the most"), "{many}");
    }

    proptest! {
        #[test]
        fn is_what_trying_every_token_says(text in "[<>abé]{0,24}") {
            prop_assert_eq!(Finder::new(&tokens()).unwrap().find(&text), by_force(&text));
        }
    }
}
