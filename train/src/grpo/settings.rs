//! Every figure of the stage. What a TOML leaves out is as in the paper and its authors' code
//! (arXiv 2601.05167; table 7, and the defaults of the trainer they used).

use std::num::NonZeroU32;

use anyhow::ensure;
use relay::policy::Policy;
use relay_model::Sampling;
use serde::{Deserialize, Serialize};

use crate::objective::ObjectiveSettings;
use crate::optimiser::{OptimiserSettings, Schedule};
use crate::reward::{Difficulty, Reward};
use crate::rollout::RolloutSettings;
use crate::run_folder::StageSettings;

mod limits {
    /// Answers of one step.
    pub(super) const STEP_ANSWERS_MAX: usize = 4096;
}

/// Everything that decides what comes out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoSettings {
    /// Of the problems' order and of the samples.
    pub seed: u64,
    /// Batches of answers in all. The optimiser's schedule and the log's `step` count its own steps,
    /// `updates` to a batch.
    pub steps: u64,
    /// Batches of answers from one checkpoint to the next.
    pub checkpoint_steps: u64,
    /// What is said after each question of a real set: to reason, and to put the answer into a box,
    /// unless given. Problems of the small world are asked bare.
    pub instruction: Option<String>,
    /// Problems of a batch.
    #[serde(default = "paper::groups")]
    pub groups: usize,
    /// Answers to each of them.
    #[serde(default = "paper::group_size")]
    pub group_size: usize,
    /// Steps of the optimiser with each batch, each on its share of the groups.
    #[serde(default = "paper::updates")]
    pub updates: u64,
    /// At which the small model answers.
    #[serde(default = "paper::temperature")]
    pub temperature: f32,
    /// At which the large one does; 0 is greedy.
    #[serde(default)]
    pub teacher_temperature: f32,
    /// Most tokens of an answer.
    #[serde(default = "paper::response_tokens_max")]
    pub response_tokens_max: u32,
    /// What becomes of the small model's commands: `"learned"`, as they say; `"never"`, they are
    /// banned, for the small model trained without calls; `{ fixed = N }`, each asks for N tokens
    /// whatever it says, so that only places are learned. `call_tokens_max` binds every one.
    #[serde(default)]
    pub policy: CallPolicy,
    /// Most tokens that one call brings.
    #[serde(default = "paper::response_tokens_max")]
    pub call_tokens_max: u32,
    /// What answers earn.
    #[serde(default)]
    pub reward: RewardSettings,
    /// Clips and the pull to the reference.
    #[serde(default)]
    pub objective: ObjectiveSettings,
    /// The optimiser's figures.
    #[serde(default = "paper::optimiser")]
    pub optimiser: OptimiserSettings,
}

/// What becomes of commands while a policy is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "policy must be \"learned\", \"never\", or { fixed = N } with N above 0"
)]
pub enum CallPolicy {
    /// One without a number.
    Named(NamedPolicy),
    /// Each command asks for as many tokens.
    Fixed {
        /// n.
        fixed: NonZeroU32,
    },
}

/// Those without a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedPolicy {
    /// Commands are obeyed: the method itself.
    Learned,
    /// Commands are banned.
    Never,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self::Named(NamedPolicy::Learned)
    }
}

impl CallPolicy {
    /// As the relay machine takes it.
    pub fn policy(self) -> Policy {
        match self {
            Self::Named(NamedPolicy::Learned) => Policy::Learned,
            Self::Named(NamedPolicy::Never) => Policy::Never,
            Self::Fixed { fixed } => Policy::Fixed { call_tokens: fixed.get() },
        }
    }
}

/// Which of the two rewards, by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RewardKind {
    /// Right or not, less the call ratio.
    Simple,
    /// By scenario of the group.
    #[default]
    Difficulty,
}

/// What answers earn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardSettings {
    /// Which one.
    #[serde(default)]
    pub kind: RewardKind,
    /// The cells of `difficulty`.
    #[serde(default)]
    pub difficulty: Difficulty,
}

impl RewardSettings {
    /// As the reward's arithmetic takes it.
    pub fn reward(self) -> Reward {
        match self.kind {
            RewardKind::Simple => Reward::Simple,
            RewardKind::Difficulty => Reward::Difficulty(self.difficulty),
        }
    }
}

impl StageSettings for GrpoSettings {
    const FILE: &'static str = "grpo.toml";

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.steps > 0 && self.checkpoint_steps > 0, "steps must be above 0");
        ensure!(self.groups > 0, "groups must be above 0");
        ensure!(
            self.group_size > 1,
            "group_size: one answer has no better and no worse; 8 is usual"
        );
        let answers_max = limits::STEP_ANSWERS_MAX;
        ensure!(
            self.groups.saturating_mul(self.group_size) <= answers_max,
            "groups times group_size must be at most {answers_max}"
        );
        let updates = usize::try_from(self.updates).unwrap_or(usize::MAX);
        ensure!(
            updates > 0 && self.groups.is_multiple_of(updates),
            "updates must divide groups: {} groups, {updates} updates",
            self.groups
        );
        let is_temperature = |value: f32| value.is_finite() && value >= 0.0;
        ensure!(
            is_temperature(self.temperature) && self.temperature > 0.0,
            "temperature must be above 0: equal answers teach nothing"
        );
        ensure!(is_temperature(self.teacher_temperature), "teacher_temperature must be 0 or more");
        ensure!(
            self.response_tokens_max > 0 && self.call_tokens_max > 0,
            "response_tokens_max and call_tokens_max must be above 0"
        );
        self.objective.check()?;
        self.optimiser.check()
    }
}

impl GrpoSettings {
    /// How answers are made.
    pub fn rollout(&self) -> RolloutSettings {
        let mut rollout = RolloutSettings {
            policy: self.policy.policy(),
            student: Sampling::at_temperature(self.temperature),
            teacher: if self.teacher_temperature > 0.0 {
                Sampling::at_temperature(self.teacher_temperature)
            } else {
                Sampling::GREEDY
            },
            rows_max: self.groups * self.group_size,
            ..RolloutSettings::default()
        };
        rollout.budget.response_tokens_max = self.response_tokens_max;
        rollout.budget.cloud_tokens_max = self.response_tokens_max;
        rollout.budget.call_tokens_max = self.call_tokens_max;
        rollout
    }
}

/// The paper's figures.
mod paper {
    use super::{OptimiserSettings, Schedule};

    pub(super) fn groups() -> usize {
        128
    }

    pub(super) fn group_size() -> usize {
        8
    }

    pub(super) fn updates() -> u64 {
        4
    }

    pub(super) fn temperature() -> f32 {
        1.0
    }

    pub(super) fn response_tokens_max() -> u32 {
        8192
    }

    pub(super) fn optimiser() -> OptimiserSettings {
        OptimiserSettings {
            learning_rate: 1e-6,
            final_share: 1.0,
            warm_up_steps: 0,
            schedule: Schedule::Constant,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            gradient_norm_max: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "seed = 1\nsteps = 2\ncheckpoint_steps = 1\n";

    #[test]
    fn what_is_left_out_is_the_papers() {
        let settings: GrpoSettings = toml::from_str(LEAST).unwrap();
        settings.check().unwrap();
        assert_eq!((settings.groups, settings.group_size, settings.updates), (128, 8, 4));
        assert_eq!(settings.objective, ObjectiveSettings::default());
        assert_eq!(settings.reward.reward(), Reward::Difficulty(Difficulty::default()));
        assert!((settings.optimiser.learning_rate - 1e-6).abs() < 1e-12);
        assert_eq!(settings.rollout().budget.response_tokens_max, 8192);
    }

    #[test]
    fn the_policy_has_three_forms() {
        let settings = |line: &str| toml::from_str::<GrpoSettings>(&format!("{LEAST}{line}"));
        for (line, expected) in [
            ("", Policy::Learned),
            ("policy = \"learned\"", Policy::Learned),
            ("policy = \"never\"", Policy::Never),
            ("policy = { fixed = 20 }", Policy::Fixed { call_tokens: 20 }),
        ] {
            assert_eq!(settings(line).unwrap().rollout().policy, expected, "{line}");
        }
        for line in [
            "policy = \"fixed\"",
            "policy = \"sometimes\"",
            "policy = { fixed = 0 }",
            "policy = { fixed = 2, never = true }",
        ] {
            let error = settings(line).unwrap_err().to_string();
            assert!(error.contains("policy must be \"learned\", \"never\", or"), "{error}");
        }
    }

    #[test]
    fn parts_of_the_reward_can_be_changed_alone() {
        let text = format!("{LEAST}[reward.difficulty]\nindependent = 1.0\n");
        let settings: GrpoSettings = toml::from_str(&text).unwrap();
        let expected = Difficulty { independent: 1.0, ..Difficulty::default() };
        assert_eq!(settings.reward.reward(), Reward::Difficulty(expected));
        let text = format!("{LEAST}[reward]\nkind = \"simple\"\n");
        let settings: GrpoSettings = toml::from_str(&text).unwrap();
        assert_eq!(settings.reward.reward(), Reward::Simple);
    }

    #[test]
    fn impossible_figures_are_named() {
        for (line, named) in [
            ("groups = 0", "groups must be above 0"),
            ("group_size = 1", "no better and no worse"),
            ("groups = 1024", "at most 4096"),
            ("groups = 10", "updates must divide groups"),
            ("temperature = 0.0", "equal answers teach nothing"),
            ("teacher_temperature = -1.0", "teacher_temperature"),
            ("response_tokens_max = 0", "response_tokens_max"),
            ("[objective]\nclip_low = 1.5", "clip_low"),
        ] {
            let settings: GrpoSettings = toml::from_str(&format!("{LEAST}{line}")).unwrap();
            let message = settings.check().unwrap_err().to_string();
            assert!(message.contains(named), "{line}: {message}");
        }
        assert!(toml::from_str::<GrpoSettings>(&format!("{LEAST}colour = 1")).is_err());
    }
}
