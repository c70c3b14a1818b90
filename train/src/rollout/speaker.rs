//! A model with what it never says, and its forward over many views at once. Knows ids and caches,
//! not who asks or why.

use relay_model::{
    KvCache, LanguageModel, Logits, LogitsWanted, ModelError, Row, TokenMask, Tokenizer,
};

use super::limits;

/// A model and its constant mask.
pub(super) struct Speaker {
    model: Box<dyn LanguageModel>,
    never_said: TokenMask,
}

/// What a model sees of one answer: ids, and keys and values of the first of them.
#[derive(Debug)]
pub(super) struct View {
    pub(super) log: Vec<u32>,
    cache: KvCache,
}

impl View {
    /// Ids that the model has not seen yet are appended with the next forward.
    pub(super) fn truncate(&mut self, tokens: usize) {
        self.log.truncate(tokens);
        if self.cache.len_tokens() > tokens {
            self.cache.truncate(tokens);
        }
    }

    /// The position of the next id.
    pub(super) fn position(&self) -> u32 {
        u32::try_from(self.log.len()).unwrap_or(u32::MAX)
    }

    /// Takes the id drafted last away again.
    pub(super) fn pop(&mut self) {
        self.truncate(self.log.len().saturating_sub(1));
    }
}

impl Speaker {
    /// A model that never says ids that stand for nothing, nor these.
    pub(super) fn new(
        model: Box<dyn LanguageModel>,
        tokenizer: &Tokenizer,
        mut never: Vec<u32>,
    ) -> Self {
        never.extend(tokenizer.placeholder_ids(model.shape().vocabulary_tokens));
        Self { model, never_said: TokenMask::from_ids(never) }
    }

    pub(super) fn into_model(self) -> Box<dyn LanguageModel> {
        self.model
    }

    pub(super) fn never_said(&self) -> &TokenMask {
        &self.never_said
    }

    pub(super) fn context_tokens(&self) -> usize {
        self.model.shape().context_tokens
    }

    pub(super) fn new_view(&self) -> View {
        View { log: Vec::new(), cache: self.model.new_cache() }
    }

    /// One forward: each view's unseen ids, and the logits of what follows its last one. A view
    /// with more unseen ids than a step takes gives none yet.
    pub(super) fn forward<'a>(
        &mut self,
        views: impl Iterator<Item = &'a mut View>,
    ) -> Result<Vec<Option<Logits>>, ModelError> {
        let mut rows: Vec<Row<'_>> = views.map(next_row).collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<bool> = rows.iter().map(|row| row.logits == LogitsWanted::Last).collect();
        let logits = self.model.forward(&mut rows)?;
        if logits.len() != wanted.len() {
            return Err(ModelError::Fault { what: "not a row of logits for each row".to_owned() });
        }
        Ok(logits
            .into_iter()
            .zip(wanted)
            .map(|(logits, wanted)| wanted.then_some(logits))
            .collect())
    }
}

fn next_row(view: &mut View) -> Row<'_> {
    let View { log, cache } = view;
    let from = cache.len_tokens();
    let to = log.len().min(from + limits::STEP_TOKENS_PER_ROW);
    let logits = if to == log.len() { LogitsWanted::Last } else { LogitsWanted::None };
    Row { tokens: &log[from..to], cache, logits }
}
