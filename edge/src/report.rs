//! What an answer was and cost: the object that `--json` prints. Counts nothing itself; the figures
//! are the machine's, the uplink's and the session's.

use std::collections::BTreeMap;

use relay::account::Account;
use relay::effect::Ending;
use relay::transcript::Leg;
use serde::Serialize;

use crate::metrics::author_name;

/// One answer, its authors and its cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The reader view: what was shown.
    pub answer: String,
    /// Who wrote what, in order.
    pub legs: Vec<ReportLeg>,
    /// Why the answer ended: `end_of_text`, `cloud_end_of_text`, `length` or `cancelled`.
    pub ending: &'static str,
    /// Calls made.
    pub calls: u32,
    /// Tokens asked for by commands or by the policy.
    pub requested_tokens: u64,
    /// Tokens granted by budget and limits.
    pub granted_tokens: u64,
    /// LLM tokens delivered.
    pub llm_tokens: u32,
    /// All response ids, command tokens included.
    pub total_tokens: u32,
    /// `llm_tokens` over `total_tokens`.
    pub call_ratio: f64,
    /// Bytes of the encoded gRPC messages sent, each with its five-byte frame: calls, warm syncs,
    /// and the Describe of a connection that was opened for this answer. Forget, which leaves when
    /// the conversation ends, comes after the report and is not in it.
    pub bytes_up: u64,
    /// Bytes of the messages received, counted alike.
    pub bytes_down: u64,
    /// Call RPCs that left the device: first attempts, retries, resyncs and warm syncs.
    pub round_trips: u32,
    /// Describe RPCs that left the device.
    pub describes: u32,
    /// Attempts made because the cloud's copy of the prefix was missing or different.
    pub resyncs: u32,
    /// Attempts made after a cut, a drain or a refusal.
    pub retries: u32,
    /// From the question to the end of the answer.
    pub wall_ms: u64,
    /// While the cloud held the baton.
    pub cloud_ms: u64,
    /// Refusals by name.
    pub refusals: BTreeMap<&'static str, u32>,
    /// A call failed and the SLM went on alone.
    pub degraded: bool,
    /// Another model than at first went on with the answer.
    pub model_changed: bool,
    /// Commands with n = 0.
    pub zero_commands: u32,
    /// Commands that break the grammar.
    pub malformed_commands: u32,
    /// Commands that the answer's end cut short.
    pub unclosed_commands: u32,
    /// Commands for which nothing was left.
    pub ungranted_commands: u32,
    /// Gives the same answer again, with the same models and settings.
    pub seed: u64,
}

/// A run of tokens by one author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportLeg {
    /// `slm` or `llm`.
    pub author: &'static str,
    /// Its ids, commands included.
    pub tokens: u32,
    /// What the reader saw of it.
    pub text: String,
}

/// What the network side adds to the machine's account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Message bytes sent.
    pub bytes_up: u64,
    /// Message bytes received.
    pub bytes_down: u64,
    /// Call RPCs that left.
    pub round_trips: u32,
    /// Describe RPCs that left.
    pub describes: u32,
    /// The whole answer.
    pub wall_ms: u64,
    /// While the cloud held the baton.
    pub cloud_ms: u64,
    /// Two attempts of the answer reached different models.
    pub model_changed: bool,
}

impl Report {
    /// Puts the account, the legs and the costs together.
    pub fn new(legs: &[Leg], account: &Account, costs: Costs, ending: Ending, seed: u64) -> Self {
        Self {
            answer: legs.iter().map(|leg| leg.text.as_str()).collect(),
            legs: legs.iter().map(ReportLeg::from).collect(),
            ending: ending_name(ending),
            calls: account.calls,
            requested_tokens: account.requested_tokens,
            granted_tokens: account.granted_tokens,
            llm_tokens: account.llm_tokens,
            total_tokens: account.total_tokens,
            call_ratio: account.call_ratio(),
            bytes_up: costs.bytes_up,
            bytes_down: costs.bytes_down,
            round_trips: costs.round_trips,
            describes: costs.describes,
            resyncs: account.resyncs,
            retries: account.retries,
            wall_ms: costs.wall_ms,
            cloud_ms: costs.cloud_ms,
            refusals: account.refusals.clone(),
            degraded: account.degraded,
            model_changed: account.model_changed || costs.model_changed,
            zero_commands: account.zero_commands,
            malformed_commands: account.malformed_commands,
            unclosed_commands: account.unclosed_commands,
            ungranted_commands: account.ungranted_commands,
            seed,
        }
    }

    /// Whether the reader stopped the answer.
    pub fn is_cancelled(&self) -> bool {
        self.ending == ending_name(Ending::Cancelled)
    }

    /// Whether a reader sees nothing of it.
    pub fn is_empty(&self) -> bool {
        self.answer.is_empty()
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let mut line = format!(
            "call ratio {:.1} % ({} of {} by the LLM) · {}, {} asked · \
             {} B up, {} B down, {} · {} ms, {} ms of it in the cloud",
            self.call_ratio * 100.0,
            self.llm_tokens,
            counted(self.total_tokens, "token"),
            counted(self.calls, "call"),
            self.requested_tokens,
            self.bytes_up,
            self.bytes_down,
            counted(self.round_trips, "round trip"),
            self.wall_ms,
            self.cloud_ms,
        );
        let notes = [
            (self.degraded, " · degraded: a call failed and the SLM went on alone"),
            (self.model_changed, " · another model took over"),
            (self.is_cancelled(), " · cancelled"),
            (self.ending == ending_name(Ending::Length), " · ended at the limit of tokens"),
        ];
        for (holds, note) in notes {
            line.push_str(if holds { note } else { "" });
        }
        line
    }
}

/// So many of something, in words that agree.
fn counted(count: u32, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

impl From<&Leg> for ReportLeg {
    fn from(leg: &Leg) -> Self {
        Self { author: author_name(leg.author), tokens: leg.tokens, text: leg.text.clone() }
    }
}

const fn ending_name(ending: Ending) -> &'static str {
    match ending {
        Ending::EndOfText => "end_of_text",
        Ending::CloudEndOfText => "cloud_end_of_text",
        Ending::Length => "length",
        Ending::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay::effect::Author;

    fn sample() -> Report {
        let legs = [
            Leg { author: Author::Slm, tokens: 6, text: "The answer is".into() },
            Leg { author: Author::Llm, tokens: 2, text: " 42".into() },
        ];
        let account = Account {
            calls: 1,
            requested_tokens: 4,
            granted_tokens: 2,
            llm_tokens: 2,
            total_tokens: 8,
            attempts: 2,
            resyncs: 1,
            refusals: [("prefix_unknown", 1)].into(),
            ..Account::default()
        };
        let costs = Costs {
            bytes_up: 120,
            bytes_down: 80,
            round_trips: 2,
            describes: 1,
            wall_ms: 900,
            cloud_ms: 300,
            model_changed: false,
        };
        Report::new(&legs, &account, costs, Ending::Length, 7)
    }

    #[test]
    fn report_is_one_stable_object() {
        insta::assert_json_snapshot!(sample());
    }

    #[test]
    fn summary_names_the_call_ratio_and_what_went_wrong() {
        let mut report = sample();
        assert!(report.summary().contains("call ratio 25.0 %"), "{}", report.summary());
        assert!(report.summary().contains(" · 1 call, 4 asked"), "{}", report.summary());
        assert!(report.summary().contains("(2 of 8 tokens by"), "{}", report.summary());
        assert!(report.summary().contains(", 2 round trips"), "{}", report.summary());
        assert!(!report.summary().contains("degraded"));
        report.degraded = true;
        assert!(report.summary().contains("degraded"));
    }
}
