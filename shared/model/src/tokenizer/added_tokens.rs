//! Where added tokens stand in a text: literally, longest first, in one pass over the text.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::error::ModelError;

/// An added token to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken<'a> {
    pub(super) id: u32,
    pub(super) text: &'a [u8],
    /// Looked for only between the others, as `tokenizer.json` files say by `normalized`.
    pub(super) is_late: bool,
}

/// An occurrence of an added token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    start: usize,
    end: usize,
    /// Index of the token.
    token: usize,
}

/// Finds added tokens.
#[derive(Debug)]
pub(super) struct Finder {
    automaton: AhoCorasick,
    /// Id of each pattern, and whether it is late.
    tokens: Vec<(u32, bool)>,
}

impl Finder {
    pub(super) fn new(tokens: &[AddedToken<'_>]) -> Result<Self, ModelError> {
        let automaton = AhoCorasick::new(tokens.iter().map(|token| token.text));
        let automaton = automaton.map_err(|error| ModelError::Tokenizer {
            what: format!("its added tokens are too many to look for: {error}"),
        })?;
        let tokens = tokens.iter().map(|token| (token.id, token.is_late)).collect();
        Ok(Self { automaton, tokens })
    }

    /// Where added tokens start, left to right, and their ids. Those in `plain` are no tokens.
    pub(super) fn find(&self, text: &str, plain: &HashSet<u32>) -> Vec<(usize, u32)> {
        let occurrences = self.automaton.find_overlapping_iter(text);
        let mut all: Vec<Found> = occurrences
            .map(|found| Found {
                start: found.start(),
                end: found.end(),
                token: found.pattern().as_usize(),
            })
            .filter(|found| !plain.contains(&self.tokens[found.token].0))
            .collect();
        all.sort_unstable_by_key(|found| (found.start, Reverse(found.end)));
        let early = self.without_overlaps(&all, false, &[]);
        let mut chosen = self.without_overlaps(&all, true, &early);
        chosen.extend(early);
        chosen.sort_unstable_by_key(|found| found.start);
        chosen.iter().map(|found| (found.start, self.tokens[found.token].0)).collect()
    }

    /// The leftmost at each place, the longest of those, that touch none of `taken`.
    fn without_overlaps(&self, all: &[Found], late: bool, taken: &[Found]) -> Vec<Found> {
        let mut taken = taken.iter().map(|found| found.start..found.end).peekable();
        let mut free_from = 0;
        let mut chosen = Vec::new();
        for found in all.iter().filter(|found| self.tokens[found.token].1 == late) {
            while taken.next_if(|range: &Range<usize>| range.end <= found.start).is_some() {}
            let is_taken = taken.peek().is_some_and(|range| range.start < found.end);
            if found.start >= free_from && !is_taken {
                chosen.push(*found);
                free_from = found.end;
            }
        }
        chosen
    }
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
    fn by_force(text: &str, plain: &HashSet<u32>) -> Vec<(usize, u32)> {
        let scan = |from: usize, to: usize, late: bool| {
            let mut found = Vec::new();
            let mut at = from;
            while at < to {
                let here = |(id, (token, is_late)): &(usize, &(&str, bool))| {
                    *is_late == late
                        && !plain.contains(&u32::try_from(*id).unwrap())
                        && text.as_bytes()[at..to].starts_with(token.as_bytes())
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
        let none = HashSet::new();
        assert_eq!(finder.find("x<a>bé", &none), [(1, 1), (5, 5)]);
        assert_eq!(finder.find("<a>b", &HashSet::from([1])), [(0, 0)]);
        assert_eq!(finder.find("<<a>b", &none), [(1, 1)], "early ones are found first");
        assert_eq!(finder.find("", &none), []);
        assert_eq!(Finder::new(&[]).unwrap().find("<a>", &none), []);
    }

    proptest! {
        #[test]
        fn is_what_trying_every_token_says(
            text in "[<>abé]{0,24}",
            plain in prop::collection::hash_set(0_u32..7, 0..3),
        ) {
            let finder = Finder::new(&tokens()).unwrap();
            prop_assert_eq!(finder.find(&text, &plain), by_force(&text, &plain));
        }
    }
}
