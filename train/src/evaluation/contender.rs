//! What is compared: ways to make an answer, by the names that flags and files have for them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use relay::policy::Policy;

use crate::rollout::RolloutSettings;

/// One way to make an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contender {
    /// The small model before it learned to call, commands masked.
    SlmAlone,
    /// The large model writes everything.
    LlmAlone,
    /// Learned commands: the method itself.
    Relay,
    /// The trained small model, commands masked.
    TeacherFree,
    /// By entropy, at the threshold and with the coin that bring relay's call ratio on the level.
    EntropyMatched,
    /// By entropy, at this threshold in nats.
    Entropy(f32),
    /// By chance at each token, as often as brings relay's call ratio on the level.
    RandomMatched,
    /// By chance at each token, so likely.
    Random(f64),
    /// Learned commands, each for so many tokens whatever it says.
    Fixed(u32),
    /// After each so many tokens.
    Every(u32),
}

/// What the matched ones are set to, once relay's own figures are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Matching {
    /// Tokens that a call of the untrained policies asks for.
    pub call_tokens: u32,
    /// Relay's call ratio on the problems that are judged: what is to be reached.
    pub call_ratio: f64,
    /// In nats.
    pub entropy_threshold: f32,
    /// How many of the calls from that threshold on are made.
    pub entropy_probability: f64,
    /// The call ratio that these two bring on validation problems; null where nothing was tried.
    pub entropy_call_ratio: Option<f64>,
    /// Chance of a call at each token.
    pub random_probability: f64,
}

impl Contender {
    /// Those that are compared unless others are named.
    pub const DEFAULT: &'static str = "slm_alone,llm_alone,relay,teacher_free,entropy,random";

    /// Whether its settings follow from relay's figures: those that are matched to them, and those
    /// that take the number of tokens from relay's calls.
    pub fn follows_relay(self, has_call_tokens: bool) -> bool {
        match self {
            Self::EntropyMatched | Self::RandomMatched => true,
            Self::Entropy(_) | Self::Random(_) | Self::Every(_) => !has_call_tokens,
            Self::SlmAlone | Self::LlmAlone | Self::Relay | Self::TeacherFree | Self::Fixed(_) => {
                false
            }
        }
    }

    /// Whether the small model is the one before training, where there is one: for all that a user
    /// without a learned policy could do, so that no rival carries training's traces.
    pub fn is_of_base(self) -> bool {
        match self {
            Self::SlmAlone
            | Self::EntropyMatched
            | Self::Entropy(_)
            | Self::RandomMatched
            | Self::Random(_)
            | Self::Every(_) => true,
            Self::LlmAlone | Self::Relay | Self::TeacherFree | Self::Fixed(_) => false,
        }
    }

    /// The rollout's settings for it, out of those of relay.
    pub fn settings(self, base: &RolloutSettings, matching: Matching) -> RolloutSettings {
        let mut settings = base.clone();
        let call_tokens = matching.call_tokens.max(1);
        let entropy = |threshold_nats, probability| Policy::Entropy {
            threshold_nats,
            probability,
            call_tokens,
        };
        let random = |probability| Policy::Random { probability, call_tokens };
        settings.policy = match self {
            Self::SlmAlone | Self::TeacherFree => Policy::Never,
            Self::LlmAlone => Policy::Always,
            Self::Relay => settings.policy,
            Self::EntropyMatched => {
                entropy(matching.entropy_threshold, matching.entropy_probability)
            }
            Self::Entropy(threshold) => entropy(threshold, 1.0),
            Self::RandomMatched => random(matching.random_probability),
            Self::Random(probability) => random(probability),
            Self::Every(period_tokens) => Policy::Every { period_tokens, call_tokens },
            Self::Fixed(call_tokens) => Policy::Fixed { call_tokens },
        };
        settings
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlmAlone => write!(formatter, "slm_alone"),
            Self::LlmAlone => write!(formatter, "llm_alone"),
            Self::Relay => write!(formatter, "relay"),
            Self::TeacherFree => write!(formatter, "teacher_free"),
            Self::EntropyMatched => write!(formatter, "entropy"),
            Self::Entropy(threshold) => write!(formatter, "entropy:{threshold}"),
            Self::RandomMatched => write!(formatter, "random"),
            Self::Random(probability) => write!(formatter, "random:{probability}"),
            Self::Fixed(tokens) => write!(formatter, "fixed:{tokens}"),
            Self::Every(tokens) => write!(formatter, "every:{tokens}"),
        }
    }
}

impl FromStr for Contender {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, number) = match text.split_once(':') {
            None => (text, None),
            Some((name, number)) => (name, Some(number)),
        };
        let wrong = || format!("policy {text}: `{}` is no such number", number.unwrap_or_default());
        let policy = match (name, number) {
            ("slm_alone", None) => Self::SlmAlone,
            ("llm_alone", None) => Self::LlmAlone,
            ("relay", None) => Self::Relay,
            ("teacher_free", None) => Self::TeacherFree,
            ("entropy", None) => Self::EntropyMatched,
            ("random", None) => Self::RandomMatched,
            ("entropy", Some(number)) => Self::Entropy(number.parse().with_context(wrong)?),
            ("random", Some(number)) => Self::Random(number.parse().with_context(wrong)?),
            ("fixed", Some(number)) => Self::Fixed(number.parse().with_context(wrong)?),
            ("every", Some(number)) => Self::Every(number.parse().with_context(wrong)?),
            _ => bail!(
                "policy {text} is unknown: choose of slm_alone, llm_alone, relay, teacher_free, \
                 entropy, entropy:NATS, random, random:P, fixed:N and every:K"
            ),
        };
        let is_possible = match policy {
            Self::Entropy(nats) => nats.is_finite() && nats >= 0.0,
            Self::Random(probability) => (0.0..=1.0).contains(&probability),
            Self::Fixed(tokens) | Self::Every(tokens) => tokens > 0,
            _ => true,
        };
        ensure!(
            is_possible,
            "policy {text}: NATS is 0 or more, P is from 0 to 1, N and K are 1 or more"
        );
        Ok(policy)
    }
}

/// The chance at each token that brings a call ratio with calls of n tokens: of what one decision
/// brings on average, n·p tokens are the large model's and 1 − p the small one's.
pub fn random_probability(call_ratio: f64, call_tokens: u32) -> f64 {
    let n = f64::from(call_tokens.max(1));
    let ratio = call_ratio.clamp(0.0, 1.0);
    (ratio / (n * (1.0 - ratio) + ratio)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in Contender::DEFAULT.split(',').chain([
            "entropy:0.8",
            "random:0.05",
            "fixed:20",
            "every:32",
        ]) {
            assert_eq!(name.parse::<Contender>().unwrap().to_string(), name);
        }
        for (name, expected) in [
            ("oracle", "policy oracle is unknown"),
            ("fixed", "policy fixed is unknown"),
            ("fixed:x", "policy fixed:x: `x` is no such number"),
            ("relay:2", "policy relay:2 is unknown"),
            ("entropy:-1", "policy entropy:-1: NATS is 0 or more"),
            ("entropy:nan", "policy entropy:nan: NATS is 0 or more"),
            ("random:5", "policy random:5: NATS is 0 or more, P is from 0 to 1"),
            ("fixed:0", "policy fixed:0: NATS"),
            ("every:0", "policy every:0: NATS"),
        ] {
            let error = name.parse::<Contender>().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_fixed_number_is_a_policy_and_no_budget() {
        let base = RolloutSettings::default();
        let fixed = Contender::Fixed(20).settings(&base, Matching::default());
        assert_eq!(fixed.policy, Policy::Fixed { call_tokens: 20 });
        assert_eq!(fixed.budget, base.budget);
    }

    #[test]
    fn a_chance_brings_its_ratio() {
        for (ratio, n) in [(0.01, 2), (0.1, 1), (0.5, 20), (0.0, 5), (1.0, 3)] {
            let p = random_probability(ratio, n);
            let brought = f64::from(n) * p;
            assert!((brought / (brought + 1.0 - p) - ratio).abs() < 1e-12, "{ratio} {n}");
        }
    }
}
