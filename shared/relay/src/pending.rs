//! The SLM's newest tokens, as long as some of their bytes may still belong to a command or to the
//! blanks before one. Decides what of them enters the cloud and reader views, and when.

use std::collections::VecDeque;

use crate::command::{Scan, Scanner};

/// One step of the cloud view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// An id as it was sampled.
    Id(u32),
    /// Text whose token is no part of the cloud view: it is to be tokenised on its own.
    Text(Vec<u8>),
}

/// A complete command as it was cut out of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How many tokens it asks for.
    pub(crate) tokens: u32,
    /// The blanks before it and what its last token held behind it: text again, if no cloud
    /// token comes.
    pub(crate) surroundings: Vec<u8>,
}

/// What is settled now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// For the cloud view, in order.
    pub(crate) pieces: Vec<Piece>,
    /// For the reader.
    pub(crate) text: Vec<u8>,
    /// Texts that opened a command and broke its grammar.
    pub(crate) malformed: u32,
    /// The command that the last token completed.
    pub(crate) command: Option<Taken>,
}

#[derive(Clone, Debug)]
struct Token {
    id: u32,
    bytes: Vec<u8>,
}

/// Tokens that are drafted and not yet settled. Bounded, as the scanner's held bytes are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    scanner: Scanner,
    tokens: VecDeque<Token>,
    /// How many of the oldest token's bytes are settled.
    settled_bytes: usize,
    /// Added tokens whose text is part of a command: their ids never enter the cloud view.
    command_tokens: Vec<u32>,
}

impl Pending {
    pub(crate) fn new(command_tokens: Vec<u32>) -> Self {
        Self { command_tokens, ..Self::default() }
    }

    /// Reads one token. A control token (no bytes) breaks the text before it.
    pub(crate) fn push(&mut self, id: u32, bytes: &[u8]) -> Settled {
        if bytes.is_empty() {
            let mut settled = self.end();
            settled.pieces.push(Piece::Id(id));
            return settled;
        }
        let mut settled = Settled::default();
        self.tokens.push_back(Token { id, bytes: bytes.to_vec() });
        for (index, byte) in bytes.iter().enumerate() {
            let scan = self.scanner.push(*byte);
            self.settle(&scan, &mut settled);
            if let Some(command) = scan.command {
                let tail_bytes = bytes.len() - index - 1;
                let surroundings = self.cut(command.blanks_bytes, tail_bytes, &mut settled);
                settled.command = Some(Taken { tokens: command.tokens, surroundings });
                break;
            }
        }
        settled
    }

    /// Settles everything: no command can follow from what is held. `malformed` counts an opened
    /// command that is left unclosed.
    pub(crate) fn end(&mut self) -> Settled {
        let mut settled = Settled::default();
        let scan = self.scanner.end();
        self.settle(&scan, &mut settled);
        debug_assert!(self.tokens.is_empty() && self.settled_bytes == 0);
        settled
    }

    fn settle(&mut self, scan: &Scan, settled: &mut Settled) {
        settled.malformed += scan.malformed;
        let shown = self.tokens.iter().flat_map(|token| &token.bytes).skip(self.settled_bytes);
        settled.text.extend(shown.take(scan.settled_bytes));
        self.settled_bytes += scan.settled_bytes;
        while let Some(token) = self.tokens.front()
            && token.bytes.len() <= self.settled_bytes
        {
            self.settled_bytes -= token.bytes.len();
            let Some(Token { id, bytes }) = self.tokens.pop_front() else {
                break;
            };
            settled.pieces.push(if self.command_tokens.contains(&id) {
                Piece::Text(bytes)
            } else {
                Piece::Id(id)
            });
        }
    }

    /// Takes the command and all its tokens out; returns blanks and tail. What the oldest token
    /// held before the blanks is text of its own, since its id is lost with the command.
    fn cut(&mut self, blanks_bytes: usize, tail_bytes: usize, settled: &mut Settled) -> Vec<u8> {
        let bytes: Vec<u8> = self.tokens.drain(..).flat_map(|token| token.bytes).collect();
        let (head, rest) = bytes.split_at(self.settled_bytes);
        if !head.is_empty() {
            settled.pieces.push(Piece::Text(head.to_vec()));
        }
        self.settled_bytes = 0;
        let mut surroundings = rest[..blanks_bytes].to_vec();
        surroundings.extend_from_slice(&rest[rest.len() - tail_bytes..]);
        surroundings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(tokens: &[(u32, &str)]) -> (Vec<Piece>, String, Option<Taken>) {
        let mut pending = Pending::new(vec![90, 91]);
        let (mut pieces, mut text, mut command) = (Vec::new(), Vec::new(), None);
        for (id, bytes) in tokens {
            let settled = pending.push(*id, bytes.as_bytes());
            pieces.extend(settled.pieces);
            text.extend(settled.text);
            command = settled.command.or(command);
        }
        let end = pending.end();
        pieces.extend(end.pieces);
        text.extend(end.text);
        (pieces, String::from_utf8(text).unwrap(), command)
    }

    fn taken(tokens: u32, surroundings: &str) -> Taken {
        Taken { tokens, surroundings: surroundings.as_bytes().to_vec() }
    }

    #[test]
    fn straddling_tokens_and_blanks() {
        use Piece::{Id, Text};
        let text = |text: &str| Text(text.as_bytes().to_vec());
        for (tokens, pieces, shown, command) in [
            (&[(1, "a"), (2, "b")][..], vec![Id(1), Id(2)], "ab", None),
            (&[(1, "a "), (2, "<call>5</call>")], vec![text("a")], "a", Some(taken(5, " "))),
            (&[(1, "a"), (2, " <"), (3, "call>5</call>")], vec![Id(1)], "a", Some(taken(5, " "))),
            (&[(1, "a <call>"), (2, "5</call>!\n")], vec![text("a")], "a", Some(taken(5, " !\n"))),
            (&[(1, "a <"), (2, "b")], vec![Id(1), Id(2)], "a <b", None),
            (
                &[(1, "x"), (90, "<call>"), (2, "y")],
                vec![Id(1), text("<call>"), Id(2)],
                "x<call>y",
                None,
            ),
            (&[(90, "<call>"), (2, "7"), (91, "</call>")], vec![], "", Some(taken(7, ""))),
            (
                &[(1, "<ca"), (2, ""), (3, "ll>5</call>")],
                vec![Id(1), Id(2), Id(3)],
                "<call>5</call>",
                None,
            ),
            (&[(1, " "), (2, " "), (3, "x")], vec![Id(1), Id(2), Id(3)], "  x", None),
        ] {
            assert_eq!(push(tokens), (pieces, shown.to_owned(), command), "{tokens:?}");
        }
    }
}
