//! Which tokens begin and end texts, by what `tokenizer_config.json`, `generation_config.json`,
//! `config.json` and the post-processor of `tokenizer.json` say.

use std::collections::HashSet;

use serde_json::Value;

use super::files::{EndTokens, OneOrMany, TokenName, TokenizerConfig};
use super::{Folder, kind_of, steps_of};
use crate::error::ModelError;
use crate::error::advice::INCOMPLETE;
use crate::tokenizer::TokenKind;
use crate::tokenizer::parts::Roles;

impl Folder<'_> {
    pub(super) fn read_roles(
        &self,
        tokens: &[(String, TokenKind)],
        config: &TokenizerConfig,
        post_processor: Option<&Value>,
    ) -> Result<Roles, ModelError> {
        let named = |name: &Option<TokenName>, key| match name {
            None => Ok(None),
            Some(TokenName::Text(text) | TokenName::Token { content: text }) => {
                self.id_of(tokens, text, key).map(Some)
            }
        };
        let prepended = self.read_prepended(post_processor, tokens.len())?;
        let bos_id = named(&config.bos_token, "bos_token")?.or(prepended);
        let eos_id = named(&config.eos_token, "eos_token")?;
        let prepends_bos = config.add_bos_token.unwrap_or(prepended.is_some());
        if prepends_bos && prepended.is_some_and(|id| Some(id) != bos_id) {
            let what = "a post-processor that begins texts with another token than bos_token";
            return Err(self.unsupported(what));
        }
        let mut end_ids = HashSet::new();
        for name in ["generation_config.json", "config.json"] {
            end_ids.extend(self.read_end_ids(name, tokens)?);
        }
        Ok(Roles { bos_id, prepends_bos, eos_id, end_ids })
    }

    fn id_of(
        &self,
        tokens: &[(String, TokenKind)],
        text: &str,
        key: &str,
    ) -> Result<u32, ModelError> {
        let mut ids = (0..).zip(tokens);
        let found = ids.find(|(_, token)| token.0 == text && token.1 != TokenKind::Placeholder);
        found.map(|(id, _)| id).ok_or_else(|| {
            let what = format!("{key} is {text:?}, which tokenizer.json does not have");
            self.bad("tokenizer_config.json", what, INCOMPLETE)
        })
    }

    /// Ids that are no token's never come, so they end nothing: stale ones and -1, which stands for
    /// none, are taken as transformers takes them.
    fn read_end_ids(
        &self,
        name: &'static str,
        tokens: &[(String, TokenKind)],
    ) -> Result<Vec<u32>, ModelError> {
        let config: EndTokens = self.read_config(name)?;
        let ids = match config.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
        };
        let is_token = |id: &u32| (*id as usize) < tokens.len();
        Ok(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).filter(is_token).collect())
    }

    /// The token that a post-processor puts in front of texts.
    fn read_prepended(
        &self,
        post_processor: Option<&Value>,
        tokens: usize,
    ) -> Result<Option<u32>, ModelError> {
        let mut prepended = None;
        for step in steps_of(post_processor, "processors") {
            match kind_of(step) {
                "ByteLevel" => {}
                "TemplateProcessing" if prepended.is_none() => {
                    prepended = self.read_template(step, tokens)?;
                }
                kind => return Err(self.unsupported(&format!("the post-processor {kind}"))),
            }
        }
        Ok(prepended)
    }

    fn read_template(&self, step: &Value, tokens: usize) -> Result<Option<u32>, ModelError> {
        let single: &[Value] = step["single"].as_array().map_or(&[], Vec::as_slice);
        let begins = match single {
            [text] if text.get("Sequence").is_some() => return Ok(None),
            [begin, text] if text.get("Sequence").is_some() => &begin["SpecialToken"]["id"],
            _ => return Err(self.unsupported(&format!("the template {}", step["single"]))),
        };
        let ids = begins.as_str().map(|begin| &step["special_tokens"][begin]["ids"]);
        let ids = ids.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let id = match ids {
            [id] => id.as_u64().and_then(|id| u32::try_from(id).ok()),
            _ => None,
        };
        let id = id.filter(|id| (*id as usize) < tokens);
        id.map(Some).ok_or_else(|| {
            let what = format!("its post-processor begins texts with {begins}, which has no id");
            self.bad("tokenizer.json", what, INCOMPLETE)
        })
    }
}
