//! What the untouched model is asked: problems of the small world, or a set's questions in a drawn
//! order, the last of which are kept for the check.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use relay_model::LoadedModel;
use serde::{Deserialize, Serialize};

use super::WarmupSettings;
use crate::answers::{WORLD_ANSWER_TOKENS, held_out};
use crate::chance::Chance;
use crate::corpus::{Corpus, Encoder, Position, Shares};
use crate::dataset::{self, Set};
use crate::problem::{Facts, Level};
use crate::prompt::prompt_ids;
use crate::run_folder::Input;
use crate::world::Mind;

/// How a set's questions are asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionSettings {
    /// What follows each question on a line of its own: to reason, and to put the answer into a
    /// box, unless given; may be empty.
    pub instruction: Option<String>,
    /// The longest answer; a longer one is cut.
    pub answer_tokens: usize,
}

impl QuestionSettings {
    /// Refuses answers without tokens.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.answer_tokens > 0, "answer_tokens must be above 0");
        Ok(())
    }
}

/// Where prompts come from.
pub(super) enum Source {
    /// The small world.
    World { seed: u64, shares: Shares },
    /// Questions in the order in which they are asked, and of them those for the check.
    Set { asked: Vec<String>, checked: Vec<String>, answer_tokens: usize, problems: Input },
}

impl Source {
    pub(super) fn open(
        settings: &WarmupSettings,
        problems: Option<&Path>,
        set: Set,
    ) -> anyhow::Result<Self> {
        let seed = settings.seed;
        match (&settings.questions, settings.shares, problems) {
            (None, Some(shares), None) => Ok(Self::World { seed, shares }),
            (Some(questions), None, Some(path)) => Self::of_set(settings, questions, path, set),
            (None, ..) => bail!("--problems: the settings have no [questions]"),
            (Some(_), ..) => bail!("[questions]: give the set's file with --problems"),
        }
    }

    fn of_set(
        settings: &WarmupSettings,
        questions: &QuestionSettings,
        path: &Path,
        set: Set,
    ) -> anyhow::Result<Self> {
        let mut asking = dataset::load(set, path)?;
        let instruction = set.instruction(questions.instruction.as_deref());
        for question in &mut asking {
            question.text = question.asked(instruction);
        }
        let problems = Input::of_problems(path, &asking);
        let mut asked: Vec<String> = asking.into_iter().map(|question| question.text).collect();
        Chance::new(settings.seed, "order", 0).shuffle(&mut asked);
        let kept = asked.len().checked_sub(settings.check_problems).filter(|kept| *kept > 0);
        let kept = kept.with_context(|| {
            format!("{}: no question is left beside those of the check", path.display())
        })?;
        let checked = asked.split_off(kept);
        Ok(Self::Set { asked, checked, answer_tokens: questions.answer_tokens, problems })
    }

    /// What it was read from, if from anywhere.
    pub(super) fn input(&self) -> Option<Input> {
        match self {
            Self::World { .. } => None,
            Self::Set { problems, .. } => Some(problems.clone()),
        }
    }

    /// The longest answer.
    pub(super) fn answer_tokens(&self) -> usize {
        match self {
            Self::World { .. } => WORLD_ANSWER_TOKENS,
            Self::Set { answer_tokens, .. } => *answer_tokens,
        }
    }

    /// Prompts for training.
    pub(super) fn prompts(&self) -> Prompts<'_> {
        match self {
            Self::World { seed, shares } => {
                Prompts::World { seed: *seed, shares: *shares, corpus: None }
            }
            Self::Set { asked, .. } => Prompts::Set { asked },
        }
    }

    /// So many prompts for the check, none of which training asks: as many of each level, or the
    /// set's questions that were kept.
    pub(super) fn check_prompts(
        &self,
        count: usize,
        model: &LoadedModel,
    ) -> anyhow::Result<Vec<Vec<u32>>> {
        match self {
            Self::World { seed, .. } => {
                let encoder = Encoder::new(model)?;
                let of_level = |(index, level)| {
                    held_out(level, *seed).take((count + index) / Level::ALL.len())
                };
                let records = Level::ALL.into_iter().enumerate().flat_map(of_level);
                records.map(|record| encoder.prompt(&record.question)).collect()
            }
            Self::Set { checked, .. } => {
                Prompts::Set { asked: checked }.next(count, model, &mut Position::default())
            }
        }
    }
}

/// Prompts one after the other, without end.
pub(super) enum Prompts<'a> {
    /// Problems of the small world that a policy may learn from.
    World { seed: u64, shares: Shares, corpus: Option<Box<Corpus>> },
    /// Questions, again from the first after the last.
    Set { asked: &'a [String] },
}

impl Prompts<'_> {
    /// The next ones; moves the position behind them.
    pub(super) fn next(
        &mut self,
        count: usize,
        model: &LoadedModel,
        position: &mut Position,
    ) -> anyhow::Result<Vec<Vec<u32>>> {
        match self {
            Self::World { seed, shares, corpus } => {
                let (facts, mind) = (Facts::Policy, Mind::Truth);
                let new = || Box::new(Corpus::new(*seed, *shares, facts, mind, *position));
                let corpus = corpus.get_or_insert_with(new);
                let prompts = corpus.prompts(count, &Encoder::new(model)?)?;
                *position = corpus.position();
                Ok(prompts)
            }
            Self::Set { asked } => {
                let drawn = usize::try_from(position.total).context("too many questions")?;
                let next = asked.iter().cycle().skip(drawn % asked.len()).take(count);
                let template = model.chat_template.as_ref();
                let prompts = next.map(|text| prompt_ids(&model.tokenizer, template, text));
                let prompts = prompts.collect::<anyhow::Result<_>>()?;
                position.total += count as u64;
                Ok(prompts)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_model::{LoadOptions, load};

    use super::*;

    #[test]
    fn the_check_asks_what_training_does_not() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs/pretrained/slm");
        let model = load(&folder, &LoadOptions::default()).unwrap();
        let source = Source::World { seed: 1, shares: Shares { short: 1, middle: 1, long: 1 } };
        let asked = source.prompts().next(40, &model, &mut Position::default()).unwrap();
        let checked = source.check_prompts(40, &model).unwrap();
        assert_eq!(checked.len(), 40);
        assert!(checked.iter().all(|prompt| !asked.contains(prompt)));
        let encoder = Encoder::new(&model).unwrap();
        let record = held_out(Level::Short, 1).next().unwrap();
        assert_eq!(checked[0], encoder.prompt(&record.question).unwrap());
    }
}
