//! Scripted models for tests: rules that depend on every id before, so that a wrong prefix, a
//! stale cache or a lost token shows in everything that follows.

use relay_model::Tokenizer;
use relay_model::scripted::{byte_tokenizer, hash_rule};

/// The end of text of [`byte_tokenizer`]'s vocabulary.
pub const END_OF_TEXT: u32 = 256;
/// Ids of the vocabulary both sides share.
pub const VOCABULARY_TOKENS: usize = 257;
/// What the scripted models attend to at most.
pub const CONTEXT_TOKENS: usize = 4096;

const LETTERS: std::ops::Range<u32> = b'a' as u32..b'z' as u32 + 1;

/// The vocabulary both sides share: the 256 bytes and an end of text.
pub fn tokenizer() -> Tokenizer {
    byte_tokenizer(&[])
}

/// The LLM's rule: letters.
pub fn llm_rule(seed: u64) -> impl Fn(&[u32]) -> u32 + Send + 'static {
    hash_rule(seed, LETTERS)
}

/// The LLM's rule, with an end of text after about `period` tokens, depending on all before.
pub fn ending_llm_rule(seed: u64, period: u32) -> impl Fn(&[u32]) -> u32 + Send + 'static {
    let letters = hash_rule(seed, LETTERS);
    let ends = hash_rule(seed ^ 1, 0..period);
    move |ids| if ends(ids) == 0 { END_OF_TEXT } else { letters(ids) }
}

/// The SLM's rule: letters, and after each `every` of its own and the LLM's tokens the command
/// that asks for `call_tokens`; after `total` ids it ends the text. It reads its place from the
/// ids alone.
pub fn slm_rule(
    every: usize,
    call_tokens: u32,
    total: usize,
) -> impl Fn(&[u32]) -> u32 + Send + 'static {
    let letters = hash_rule(7, LETTERS);
    let command = relay::command::write_command(call_tokens).into_bytes();
    move |ids| {
        let text: Vec<u8> = ids.iter().map(|id| u8::try_from(*id).unwrap_or(b'?')).collect();
        let written = (1..command.len()).rev().find(|written| text.ends_with(&command[..*written]));
        let since = text.windows(command.len()).rev().position(|end| end == command);
        match written {
            Some(written) => u32::from(command[written]),
            None if ids.len() >= total => END_OF_TEXT,
            None if since.unwrap_or(text.len()) >= every => u32::from(command[0]),
            None => letters(ids),
        }
    }
}
