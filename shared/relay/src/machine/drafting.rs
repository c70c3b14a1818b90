//! The edge holds the baton: drafted tokens, commands and policies.

use super::{Machine, Next, OpenCall, State};
use crate::effect::{Author, Effect, Ending};
use crate::event::Drafted;
use crate::pending::{Piece, Taken};
use crate::policy::Policy;

impl Machine {
    pub(super) fn drafted(&mut self, drafted: &Drafted, effects: &mut Vec<Effect>) {
        if !matches!(self.state, State::Drafting) {
            return;
        }
        if self.settings.policy.reads_commands() {
            return self.read(drafted, effects);
        }
        let wanted = self.settings.policy.decide(drafted, self.leg_tokens);
        match wanted {
            Some(wanted) if self.may_call() => {
                if !self.call_by_policy(wanted, Some(drafted.clone()), effects) {
                    self.take(drafted, effects);
                }
            }
            _ => self.take(drafted, effects),
        }
    }

    /// The policies that read commands: the token may be part of one.
    fn read(&mut self, drafted: &Drafted, effects: &mut Vec<Effect>) {
        if drafted.ends_text {
            return self.release_and_finish(Ending::EndOfText, effects);
        }
        self.enter_edge_view(drafted);
        let settled = self.pending.push(drafted.id, &drafted.bytes);
        self.account.malformed_commands += settled.malformed;
        self.emit(Author::Slm, &settled.text, effects);
        let mut pieces = settled.pieces;
        let next = match settled.command {
            None => Next::Draft,
            Some(taken) => self.obey(taken, &mut pieces, effects),
        };
        self.settle(pieces, next, effects);
    }

    /// A complete command: a call, or text again where it asks for nothing or gets nothing.
    fn obey(&mut self, taken: Taken, pieces: &mut Vec<Piece>, effects: &mut Vec<Effect>) -> Next {
        self.open_overlap.clear();
        let wanted = self.settings.policy.asked_by_command(taken.tokens);
        let granted = if self.may_call() { self.grant(wanted) } else { 0 };
        self.account.requested_tokens += u64::from(wanted);
        if granted > 0 {
            return Next::Call(OpenCall {
                tokens_left: granted,
                surroundings: taken.surroundings,
                ..OpenCall::default()
            });
        }
        if wanted == 0 {
            self.account.zero_commands += 1;
        } else {
            self.account.ungranted_commands += 1;
        }
        self.emit(Author::Slm, &taken.surroundings, effects);
        if !taken.surroundings.is_empty() {
            pieces.push(Piece::Text(taken.surroundings));
        }
        Next::Draft
    }

    /// The other policies: the token enters all views at once.
    pub(super) fn take(&mut self, drafted: &Drafted, effects: &mut Vec<Effect>) {
        if drafted.ends_text {
            return self.finish(Ending::EndOfText, effects);
        }
        self.enter_edge_view(drafted);
        self.emit(Author::Slm, &drafted.bytes, effects);
        let piece = if self.settings.command_tokens.contains(&drafted.id) {
            Piece::Text(drafted.bytes.clone())
        } else {
            Piece::Id(drafted.id)
        };
        self.settle(vec![piece], Next::Draft, effects);
    }

    /// Calls for a policy that wants `wanted` tokens, the drafted token set aside. False, and
    /// nothing done, if nothing can be granted.
    pub(super) fn call_by_policy(
        &mut self,
        wanted: u32,
        set_aside: Option<Drafted>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let granted = self.grant(wanted);
        if granted == 0 {
            return false;
        }
        // `always` names no number of its own: it wants what it gets.
        let unbounded = self.settings.policy == Policy::Always;
        let requested = if unbounded { granted } else { wanted };
        self.account.requested_tokens += u64::from(requested);
        self.leg_tokens = 0;
        self.open_call(
            OpenCall { tokens_left: granted, set_aside, ..OpenCall::default() },
            effects,
        );
        true
    }

    pub(super) fn grant(&self, wanted: u32) -> u32 {
        let granted = self.settings.budget.grant(&self.spent(), wanted);
        granted.min(self.call_tokens_max.unwrap_or(u32::MAX))
    }

    fn enter_edge_view(&mut self, drafted: &Drafted) {
        self.transcript.push_edge(Author::Slm, drafted.id);
        self.account.total_tokens += 1;
        self.leg_tokens = self.leg_tokens.saturating_add(1);
        self.cool_down_tokens_left = self.cool_down_tokens_left.saturating_sub(1);
        self.note_slm_bytes(&drafted.bytes);
    }
}
