//! The call command, `<call>n</call>`: its grammar, scanner and writer. Its only definition.
//!
//! Grammar (PROTOCOL.md): `<call>` ws* DIGITS ws* `</call>` with 1 to 5 ASCII digits and at most 8
//! of space, tab or newline on each side. A command takes the spaces and tabs right before it
//! along, at most 64 bytes of them. The scanner must not know what a token or a view is: it reads
//! bytes and says how many of them are settled, that is, can no longer belong to a command.

/// How a command opens.
pub const OPEN: &str = "<call>";
/// How it closes.
pub const CLOSE: &str = "</call>";
/// Both tags: texts that a vocabulary may hold as added tokens, which then mean nothing else.
pub const TAGS: [&str; 2] = [OPEN, CLOSE];

/// Most digits of n.
pub const DIGITS_MAX: usize = 5;
/// Most white space between a tag and the digits, in bytes.
pub const INNER_BLANKS_MAX: usize = 8;
/// Most blanks before a command that it takes along, in bytes; older ones settle.
pub const BLANKS_BEFORE_MAX: usize = 64;
/// Most bytes the scanner ever holds: the longest command that still lacks its last byte.
pub const HELD_BYTES_MAX: usize =
    BLANKS_BEFORE_MAX + OPEN.len() + 2 * INNER_BLANKS_MAX + DIGITS_MAX + CLOSE.len() - 1;

/// Writes the command that asks for `tokens`. Data for training is made with it.
pub fn write_command(tokens: u32) -> String {
    format!("{OPEN}{tokens}{CLOSE}")
}

/// A complete command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// How many tokens it asks for.
    pub tokens: u32,
    /// Its own length in bytes, from `<` to `>`.
    pub length_bytes: usize,
    /// The spaces and tabs before it that it takes along, in bytes.
    pub blanks_bytes: usize,
}

/// What one push found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// How many more bytes, counted from the oldest held one, are ordinary text for good.
    pub settled_bytes: usize,
    /// The command that ends with the byte pushed; it and its blanks are no longer held.
    pub command: Option<Command>,
    /// Texts among the settled bytes that opened a command and broke the grammar.
    pub malformed: u32,
}

/// Reads the SLM's own output byte by byte.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    held: Vec<u8>,
}

/// How far the held bytes are a command.
enum Match {
    /// More bytes may make it one.
    Partial,
    /// They are one.
    Whole(Command),
    /// Their first byte is ordinary text.
    Never,
}

impl Scanner {
    /// Reads one byte. After a command the scanner is empty: what the SLM's last token holds
    /// behind the command is not scanned.
    pub fn push(&mut self, byte: u8) -> Scan {
        self.held.push(byte);
        let mut scan = Scan::default();
        loop {
            match match_command(&self.held) {
                Match::Partial => break,
                Match::Whole(command) => {
                    self.held.clear();
                    scan.command = Some(command);
                    break;
                }
                Match::Never => self.settle_first(&mut scan),
            }
        }
        debug_assert!(self.held.len() <= HELD_BYTES_MAX);
        scan
    }

    /// Ends the text: a control token, an LLM leg or the answer's end stands here. Everything held
    /// settles; in the result `malformed` counts what was left unclosed.
    pub fn end(&mut self) -> Scan {
        let mut scan = Scan::default();
        while !self.held.is_empty() {
            self.settle_first(&mut scan);
        }
        scan
    }

    /// Bytes that may still belong to a command or to the blanks before one.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    fn settle_first(&mut self, scan: &mut Scan) {
        if self.held.starts_with(OPEN.as_bytes()) {
            scan.malformed += 1;
        }
        self.held.remove(0);
        scan.settled_bytes += 1;
    }
}

/// Matches blanks and a command at the start of `held`.
fn match_command(held: &[u8]) -> Match {
    let blanks = count_while(held, usize::MAX, |byte| matches!(byte, b' ' | b'\t'));
    if blanks > BLANKS_BEFORE_MAX {
        return Match::Never;
    }
    let command = &held[blanks..];
    let mut reader = Reader { rest: command };
    match reader.read() {
        None => Match::Never,
        Some(Progress::Short) => Match::Partial,
        Some(Progress::Done(tokens)) => Match::Whole(Command {
            tokens,
            length_bytes: command.len() - reader.rest.len(),
            blanks_bytes: blanks,
        }),
    }
}

/// Reads the grammar's parts in order. `None` is a byte that fits nowhere.
struct Reader<'a> {
    rest: &'a [u8],
}

enum Progress<T> {
    Short,
    Done(T),
}

impl Reader<'_> {
    fn read(&mut self) -> Option<Progress<u32>> {
        if let Progress::Short = self.literal(OPEN)? {
            return Some(Progress::Short);
        }
        self.inner_blanks();
        let Progress::Done(tokens) = self.number()? else {
            return Some(Progress::Short);
        };
        self.inner_blanks();
        Some(match self.literal(CLOSE)? {
            Progress::Short => Progress::Short,
            Progress::Done(()) => Progress::Done(tokens),
        })
    }

    fn literal(&mut self, text: &str) -> Option<Progress<()>> {
        let text = text.as_bytes();
        let length = text.len().min(self.rest.len());
        if self.rest[..length] != text[..length] {
            return None;
        }
        self.rest = &self.rest[length..];
        Some(if length == text.len() { Progress::Done(()) } else { Progress::Short })
    }

    /// Takes up to [`INNER_BLANKS_MAX`]: one more is left and fits nowhere.
    fn inner_blanks(&mut self) {
        let blank = |byte| matches!(byte, b' ' | b'\t' | b'\n');
        self.rest = &self.rest[count_while(self.rest, INNER_BLANKS_MAX, blank)..];
    }

    /// At least one digit; complete only once something else follows.
    fn number(&mut self) -> Option<Progress<u32>> {
        let digits = count_while(self.rest, DIGITS_MAX, |byte| byte.is_ascii_digit());
        if digits == 0 {
            return if self.rest.is_empty() { Some(Progress::Short) } else { None };
        }
        let value = self.rest[..digits]
            .iter()
            .fold(0, |value: u32, digit| value * 10 + u32::from(digit - b'0'));
        self.rest = &self.rest[digits..];
        Some(Progress::Done(value))
    }
}

fn count_while(bytes: &[u8], most: usize, wanted: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take(most).take_while(|byte| wanted(**byte)).count()
}

/// How much of the end of `text` is a beginning of [`OPEN`]: what a sampler that bans the command
/// must know is already there.
pub fn open_overlap(text: &[u8]) -> usize {
    let open = OPEN.as_bytes();
    (0..open.len().min(text.len() + 1))
        .rev()
        .find(|length| text.ends_with(&open[..*length]))
        .unwrap_or(0)
}
