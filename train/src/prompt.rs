//! From a question to the ids both models begin with, as the edge makes them.

use anyhow::Context;
use relay_model::{AddedTokens, ChatOptions, ChatTemplate, Message, Tokenizer};

/// One user's turn in the chat template, thinking off; without a template the question alone.
pub fn prompt_ids(
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    question: &str,
) -> anyhow::Result<Vec<u32>> {
    let Some(template) = template else {
        let text = format!("{question}\n");
        return Ok(tokenizer.encode(&tokenizer.with_bos(&text), AddedTokens::Parse));
    };
    let options = ChatOptions { thinking: Some(false), ..ChatOptions::default() };
    template
        .encode_chat(tokenizer, &[Message::new("user", question)], &options)
        .context("the small model's chat template refuses the question")
}
