//! When to call. `Learned` and `Fixed` read commands; the others decide at each drafted token.

use crate::event::Drafted;

/// When the edge asks the cloud, and for how many tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// The SLM writes a command: the method itself.
    Learned,
    /// The SLM writes a command, and gets the same number of tokens whatever it asked for: it
    /// learns where to call and not for how long. A command for 0 is no call here either.
    Fixed {
        /// n.
        call_tokens: u32,
    },
    /// The SLM is unsure: the entropy of its next token reaches a threshold, and a coin says yes.
    Entropy {
        /// In nats.
        threshold_nats: f32,
        /// How often the coin says yes; 1 is always.
        probability: f64,
        /// n.
        call_tokens: u32,
    },
    /// By chance, at each token.
    Random {
        /// p.
        probability: f64,
        /// n.
        call_tokens: u32,
    },
    /// After so many SLM tokens since the last leg began.
    Every {
        /// k.
        period_tokens: u32,
        /// n.
        call_tokens: u32,
    },
    /// The SLM alone.
    Never,
    /// The LLM alone, as long as it answers.
    Always,
}

impl Policy {
    /// Whether commands in the SLM's text are read. Where not, the command is masked for the
    /// whole answer, so nothing is held back.
    pub const fn reads_commands(&self) -> bool {
        matches!(self, Self::Learned | Self::Fixed { .. })
    }

    /// How many tokens a well-formed command asks for that names so many.
    pub const fn asked_by_command(&self, written_tokens: u32) -> u32 {
        match *self {
            Self::Fixed { call_tokens } if written_tokens > 0 => call_tokens,
            _ => written_tokens,
        }
    }

    /// How many tokens to ask for before `drafted` enters a view; `None` is no call.
    /// `leg_tokens` counts the SLM's ids since the last leg began, `drafted` not included.
    pub fn decide(&self, drafted: &Drafted, leg_tokens: u32) -> Option<u32> {
        match *self {
            Self::Learned | Self::Fixed { .. } | Self::Never => None,
            Self::Entropy { threshold_nats, probability, call_tokens } => {
                let is_unsure = drafted.entropy_nats >= threshold_nats;
                (is_unsure && drafted.draw < probability).then_some(call_tokens)
            }
            Self::Random { probability, call_tokens } => {
                (drafted.draw < probability).then_some(call_tokens)
            }
            Self::Every { period_tokens, call_tokens } => {
                (leg_tokens >= period_tokens).then_some(call_tokens)
            }
            Self::Always => Some(u32::MAX),
        }
    }
}
