//! What the reader sees on a terminal: the text as it comes, the LLM's in colour. It strips colour
//! where there is no terminal or `NO_COLOR` is set. Knows no session.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use relay::effect::Author;
use relay_chassis::telemetry::{HeldLines, LogLines};

/// How the LLM's text looks.
const LLM_STYLE: Style = AnsiColor::Cyan.on_default().bold();
/// How the line of accounting looks.
const SUMMARY_STYLE: Style = Style::new().dimmed();

/// Writes an answer while it comes.
pub(crate) struct Printer<W> {
    out: W,
    /// Why nothing is written any more.
    failure: Option<io::Error>,
    /// Where answer and log share a terminal, no log line lands inside of an answer's line.
    _log: Option<HeldLines>,
}

impl Printer<anstream::AutoStream<io::Stdout>> {
    pub(crate) fn on_stdout(log: &LogLines) -> Self {
        let shares_terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        Self { out: anstream::stdout(), failure: None, _log: shares_terminal.then(|| log.hold()) }
    }
}

impl<W: Write> Printer<W> {
    /// Shows text of one author at once. False if it cannot be shown, nor what follows.
    pub(crate) fn show(&mut self, author: Author, text: &str) -> bool {
        if self.failure.is_none() {
            self.failure = self.write(author, text).err();
        }
        self.failure.is_none()
    }

    /// Ends the answer's last line.
    ///
    /// # Errors
    /// If not all of the answer could be written.
    pub(crate) fn end(mut self) -> io::Result<()> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => writeln!(self.out).and_then(|()| self.out.flush()),
        }
    }

    fn write(&mut self, author: Author, text: &str) -> io::Result<()> {
        match author {
            Author::Slm => write!(self.out, "{text}")?,
            Author::Llm => write!(self.out, "{LLM_STYLE}{text}{LLM_STYLE:#}")?,
        }
        self.out.flush()
    }
}

/// The line of accounting, on standard error, so that a pipe holds the answer alone.
pub(crate) fn show_summary(summary: &str) {
    // Nobody is left to tell that standard error is closed.
    let _ = writeln!(anstream::stderr(), "{SUMMARY_STYLE}{summary}{SUMMARY_STYLE:#}");
}

/// A prompt or an error, on standard error.
pub(crate) fn show_note(note: &str) {
    let mut out = anstream::stderr();
    let _ = write!(out, "{note}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(strip: bool) -> String {
        let mut bytes = Vec::new();
        let choice =
            if strip { anstream::ColorChoice::Never } else { anstream::ColorChoice::Always };
        let out = anstream::AutoStream::new(&mut bytes, choice);
        let mut printer = Printer { out, failure: None, _log: None };
        assert!(printer.show(Author::Slm, "a "));
        assert!(printer.show(Author::Llm, "b"));
        printer.end().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// A disk without room.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_told_with_its_cause() {
        let mut printer = Printer { out: Full, failure: None, _log: None };
        assert!(!printer.show(Author::Slm, "a"));
        assert!(!printer.show(Author::Slm, "b"));
        assert_eq!(printer.end().unwrap_err().kind(), io::ErrorKind::StorageFull);
        let silent = Printer { out: Full, failure: None, _log: None };
        assert!(silent.end().is_err());
    }

    #[test]
    fn only_the_llm_is_coloured_and_a_pipe_gets_plain_text() {
        assert_eq!(printed(true), "a b\n");
        let coloured = printed(false);
        assert!(coloured.starts_with("a \u{1b}["), "{coloured:?}");
        assert!(coloured.contains('b') && coloured.ends_with("\u{1b}[0m\n"), "{coloured:?}");
    }
}
