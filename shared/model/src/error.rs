//! Everything that can go wrong with a model, worded for the person who has to put it right.

use std::path::{Path, PathBuf};

use crate::device::DeviceFault;

mod limits {
    /// Characters of what an error says about a file.
    pub(super) const WORDS_CHARACTERS_MAX: usize = 400;
}

/// What to do about faults that many readers find.
pub(crate) mod advice {
    /// Of one file.
    pub(crate) const DAMAGED: &str = "the file is damaged or incomplete, bring it again";
    /// Of a folder whose files do not belong together.
    pub(crate) const INCOMPLETE: &str = "bring the whole folder again";
    /// Of a model that lacks a part, in whichever form.
    pub(crate) const LACKING: &str = "the model is incomplete, bring all of it again";
}

/// A fault of a model, its file or the use made of it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system would not give us the file.
    #[error("{}: cannot {action}: {source}; check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: "open", "read", "map".
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {what}; {advice}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, tensor or key named.
        what: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// A row without tokens.
    #[error("row {row} holds no tokens; give every row at least one")]
    EmptyRow {
        /// Index of the row in the call.
        row: usize,
    },
    /// An id the model has no embedding for.
    #[error(
        "row {row} holds token {id}, but the model has {vocabulary_tokens} tokens; \
         encode with this model's own tokenizer"
    )]
    TokenOutOfRange {
        /// Index of the row in the call.
        row: usize,
        /// The id.
        id: u32,
        /// One more than the highest id.
        vocabulary_tokens: usize,
    },
    /// More tokens than the context holds.
    #[error(
        "row {row} would hold {wanted_tokens} tokens, but the context is {context_tokens}; \
         shorten the prefix"
    )]
    ContextFull {
        /// Index of the row in the call.
        row: usize,
        /// Tokens in the cache and in the row together.
        wanted_tokens: usize,
        /// What the model can attend to.
        context_tokens: usize,
    },
    /// A cache that another model made.
    #[error("row {row} brings a cache of another model; make it with this model's new_cache")]
    ForeignCache {
        /// Index of the row in the call.
        row: usize,
    },
    /// The device asked for cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceFault),
    /// A chat template that cannot be used, or not for this conversation.
    #[error("{}chat template: {what}; use a raw prompt or another model file", prefix_of(path.as_deref()))]
    Template {
        /// The model's file or folder, where the template comes from one.
        path: Option<PathBuf>,
        /// What the template engine or our check said.
        what: String,
    },
    /// A tokenizer that cannot be built.
    #[error("tokenizer: {what}; use a model file whose tokenizer is complete")]
    Tokenizer {
        /// What is wrong with it.
        what: String,
    },
    /// An instruction set was forced that cannot be had.
    #[error(transparent)]
    Cpu(relay_kernels::CpuError),
    /// The computation itself failed; the caches are as they were before the call.
    #[error("the model failed: {what}; the caches are unchanged, try again or reload the model")]
    Fault {
        /// What failed.
        what: String,
    },
}

fn prefix_of(path: Option<&Path>) -> String {
    path.map(|path| format!("{}: ", path.display())).unwrap_or_default()
}

impl ModelError {
    /// Of a template, wherever it comes from.
    pub(crate) fn template(what: impl Into<String>) -> Self {
        Self::Template { path: None, what: what.into() }
    }

    pub(crate) fn bad_file(path: &Path, what: impl Into<String>, advice: &'static str) -> Self {
        Self::BadFile { path: path.to_owned(), what: printable(&what.into()), advice }
    }
}

/// Characters that make what follows them be shown in another order.
const REORDERING: [char; 9] = [
    '\u{202A}', '\u{202B}', '\u{202C}', '\u{202D}', '\u{202E}', '\u{2066}', '\u{2067}', '\u{2068}',
    '\u{2069}',
];

/// A file's words may be anything: what would steer a terminal is spelled out, and a long text is
/// cut.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == limits::WORDS_CHARACTERS_MAX {
            printable.push('…');
            break;
        }
        if character.is_control() || REORDERING.contains(&character) {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_file_cannot_move_the_cursor_or_fill_the_screen() {
        assert_eq!(
            printable("tensor \u{1b}[2Jé\n\u{202E} is"),
            "tensor \\u{1b}[2Jé\\n\\u{202e} is"
        );
        let long = printable(&"ä".repeat(100_000));
        assert_eq!(long.chars().count(), limits::WORDS_CHARACTERS_MAX + 1);
    }
}
