//! Whoever answers calls: a model in this process, a token of every row a step, or a cloud, the whole
//! of every call. Knows what a row holds of either, not what the answers are for.

use relay_edge::uplink::Line;
use relay_model::{Sampling, Tokenizer};

use super::RolloutError;
use super::cloud::Cloud;
use super::row::Row;
use super::speaker::{Speaker, View};

/// The large model.
pub(super) enum Teacher {
    /// In this process.
    Here(Speaker),
    /// At the other end of the product's own protocol.
    Cloud(Cloud),
}

/// What a row holds of its teacher.
#[derive(Debug)]
pub(super) enum Link {
    /// There is no teacher.
    Nobody,
    /// The cloud view of a model in this process.
    View(View),
    /// A session of a cloud.
    Session(Line),
}

impl Teacher {
    /// What a new row holds of it.
    pub(super) fn link(&self) -> Result<Link, RolloutError> {
        match self {
            Self::Here(speaker) => Ok(Link::View(speaker.new_view())),
            Self::Cloud(cloud) => cloud.open().map(Link::Session),
        }
    }

    /// Attempts after a cut stream, per call; a model in this process cuts none.
    pub(super) fn retries_max(&self) -> u32 {
        match self {
            Self::Here(_) => 0,
            Self::Cloud(cloud) => cloud.retries_max(),
        }
    }

    /// Goes on with the calls of these rows.
    pub(super) fn answer(
        &mut self,
        calling: Vec<&mut Row>,
        sampling: &Sampling,
        tokenizer: &Tokenizer,
    ) -> Result<(), RolloutError> {
        match self {
            Self::Here(speaker) => step(speaker, calling, sampling, tokenizer),
            Self::Cloud(cloud) => cloud.answer(calling, sampling, tokenizer),
        }
    }

    /// Lets go of what it holds of these rows.
    pub(super) fn part(&self, rows: &mut [Row]) {
        if let Self::Cloud(cloud) = self {
            cloud.forget(rows.iter_mut().filter_map(|row| match &mut row.link {
                Link::Session(line) => Some(line),
                Link::Nobody | Link::View(_) => None,
            }));
        }
    }
}

/// One forward over all rows.
fn step(
    speaker: &mut Speaker,
    mut calling: Vec<&mut Row>,
    sampling: &Sampling,
    tokenizer: &Tokenizer,
) -> Result<(), RolloutError> {
    let gone = |error: relay_model::ModelError| RolloutError::TeacherGone(error.to_string());
    let context_tokens = speaker.context_tokens();
    calling.retain_mut(|row| row.admit(context_tokens, tokenizer));
    let views = calling.iter_mut().filter_map(|row| row.view());
    let logits = speaker.forward(views).map_err(gone)?;
    for (row, logits) in calling.into_iter().zip(logits) {
        let Some(logits) = logits else { continue };
        let mask = speaker.never_said();
        row.hear(&logits, sampling, mask, context_tokens, tokenizer).map_err(gone)?;
    }
    Ok(())
}
