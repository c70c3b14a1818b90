//! What the reader sees on a terminal: the text as it comes, the LLM's in colour. It strips colour
//! where there is no terminal or `NO_COLOR` is set. Knows no session.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use relay::effect::Author;

/// How the LLM's text looks.
const LLM_STYLE: Style = AnsiColor::Cyan.on_default().bold();
/// How the line of accounting looks.
const SUMMARY_STYLE: Style = Style::new().dimmed();

/// Writes an answer while it comes.
pub(crate) struct Printer<W> {
    out: W,
}

impl Printer<anstream::AutoStream<io::Stdout>> {
    pub(crate) fn on_stdout() -> Self {
        Self { out: anstream::stdout() }
    }
}

impl<W: Write> Printer<W> {
    /// Shows text of one author at once.
    pub(crate) fn show(&mut self, author: Author, text: &str) -> io::Result<()> {
        match author {
            Author::Slm => write!(self.out, "{text}")?,
            Author::Llm => write!(self.out, "{LLM_STYLE}{text}{LLM_STYLE:#}")?,
        }
        self.out.flush()
    }

    /// Ends the answer's last line.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        writeln!(self.out)?;
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
        let mut printer = Printer { out: anstream::AutoStream::new(&mut bytes, choice) };
        printer.show(Author::Slm, "a ").unwrap();
        printer.show(Author::Llm, "b").unwrap();
        printer.end().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn only_the_llm_is_coloured_and_a_pipe_gets_plain_text() {
        assert_eq!(printed(true), "a b\n");
        let coloured = printed(false);
        assert!(coloured.starts_with("a \u{1b}["), "{coloured:?}");
        assert!(coloured.contains('b') && coloured.ends_with("\u{1b}[0m\n"), "{coloured:?}");
    }
}
