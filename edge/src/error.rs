//! What can go wrong at the edge so that there is no answer. A cloud that fails is not among it:
//! then the SLM goes on alone.

use std::path::PathBuf;

use relay_model::ModelError;

use crate::config::ConfigError;

/// Why there is no answer, or no edge to ask.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] relay_chassis::tls::TlsError),
    /// The small model failed.
    #[error("the small model: {0}")]
    Model(#[from] ModelError),
    /// The thread of the small model is gone.
    #[error("the small model's thread ended unexpectedly; start the program again")]
    DecoderGone,
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt_tokens} tokens, but the model attends to {context_tokens}: \
         shorten it, or start a new conversation"
    )]
    PromptTooLong {
        /// Ids of the prompt.
        prompt_tokens: usize,
        /// What the small model attends to.
        context_tokens: usize,
    },
    /// Nothing was asked.
    #[error("the prompt is empty: ask something")]
    EmptyPrompt,
    /// A chat needs a template.
    #[error(
        "{}: the model has no chat template: use a chat model, or --raw-prompt to give the prompt \
         itself",
        model.display()
    )]
    NoTemplate {
        /// The small model's file or folder.
        model: PathBuf,
    },
    /// The answer has nowhere to go.
    #[error(
        "the answer cannot be written to standard output ({0}): free the disk, or keep open what \
         reads it"
    )]
    Output(std::io::Error),
    /// The system gave no random bytes.
    #[error("no random bytes from the system ({0}): give a seed and try again")]
    Randomness(getrandom::Error),
}
