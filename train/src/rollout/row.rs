//! One answer under way: a relay machine, what both models see of it, and what it waits for. Turns
//! the machine's effects into work for the models and what they say into its events; decides
//! nothing of the protocol.

use std::collections::VecDeque;

use relay::call::{Accepted, CloudToken, FinishReason};
use relay::effect::{Author, Ban, CallOrder, Effect, Ending};
use relay::event::{Drafted, Event, Start};
use relay::ids::Attempt;
use relay::machine::{Machine, MachineSettings};
use relay::refusal::Refusal;
use relay_edge::vocabulary::token_text;
use relay_model::{
    Logits, ModelError, NoiseKey, Role, Sampled, Sampling, TokenMask, Tokenizer, entropy_nats,
    sample,
};

use super::teacher::Link;
use super::{Answer, Ask, Token, View};

/// What a row waits for.
#[derive(Debug)]
pub(super) enum Want {
    /// The student's next token.
    Draft(Option<Ban>),
    /// What the teacher says.
    Call(OpenCall),
    /// Nothing: it is over.
    Nothing(Ending),
}

/// A call that the teacher works on.
#[derive(Debug)]
pub(super) struct OpenCall {
    attempt: Attempt,
    tokens_left: u32,
    /// The order, until the teacher took it.
    order: Option<CallOrder>,
}

/// One machine and its views.
#[derive(Debug)]
pub(super) struct Row {
    index: usize,
    pub(super) seed: u64,
    pub(super) machine: Machine,
    pub(super) want: Want,
    /// The edge view, with a drafted id that is not decided yet at its end.
    pub(super) student: View,
    /// What it holds of the teacher.
    pub(super) link: Link,
    prompt: Vec<u32>,
    /// The log's ids after the prompt, with their authors.
    written: Vec<Token>,
    /// What the teacher said in the open call.
    heard: VecDeque<Token>,
}

impl Row {
    pub(super) fn begin(
        index: usize,
        ask: &Ask,
        settings: MachineSettings,
        (student, link): (View, Link),
        tokenizer: &Tokenizer,
    ) -> Self {
        let prompt = ask.prompt.clone();
        let start =
            Start { edge_prompt: prompt.clone(), cloud_prompt: prompt.clone(), ..Start::default() };
        let mut row = Self {
            index,
            seed: ask.seed,
            machine: Machine::new(settings),
            want: Want::Draft(None),
            student,
            link,
            written: Vec::new(),
            heard: VecDeque::new(),
            prompt,
        };
        row.student.log.extend(&row.prompt);
        row.feed(Event::Started(start), tokenizer);
        row
    }

    /// The student's next token out of these logits.
    pub(super) fn draft(
        &mut self,
        logits: &Logits,
        sampling: &Sampling,
        mask: &TokenMask,
        tokenizer: &Tokenizer,
    ) -> Result<(), ModelError> {
        let logits = logits.last().unwrap_or_default();
        let position = self.student.position();
        let key = NoiseKey::new(self.seed, Role::Slm, position);
        let Sampled { id, logprob } = sample(logits, sampling, key, mask).ok_or_else(no_number)?;
        self.student.log.push(id);
        self.written.push(Token { id, author: Author::Slm, log_probability: logprob });
        let drafted = Drafted {
            id,
            bytes: token_text(tokenizer, id).to_vec(),
            ends_text: tokenizer.ends_text(id),
            entropy_nats: narrow(entropy_nats(logits)),
            draw: NoiseKey::new(self.seed, Role::Policy, position).uniform(0),
        };
        self.feed(Event::Drafted(drafted), tokenizer);
        Ok(())
    }

    /// Lets the teacher take a new call. False if it cannot, and the student goes on alone.
    pub(super) fn admit(&mut self, context_tokens: usize, tokenizer: &Tokenizer) -> bool {
        let (Want::Call(call), Link::View(view)) = (&mut self.want, &mut self.link) else {
            return false;
        };
        let Some(order) = call.order.take() else {
            return true;
        };
        let attempt = call.attempt;
        let length = order.base_tokens as usize + order.delta.len();
        if length >= context_tokens {
            let context_tokens = u32::try_from(context_tokens).unwrap_or(u32::MAX);
            let refusal = Refusal::ContextFull { context_tokens };
            self.feed(Event::Refused { attempt, refusal }, tokenizer);
            return false;
        }
        view.truncate(order.base_tokens as usize);
        let cached_tokens = view.position();
        view.log.extend(&order.delta);
        let accepted = Accepted {
            length_tokens: view.position(),
            cached_tokens,
            prefilled_tokens: view.position() - cached_tokens,
        };
        self.feed(Event::Accepted { attempt, accepted }, tokenizer);
        true
    }

    /// The teacher's next token out of these logits.
    pub(super) fn hear(
        &mut self,
        logits: &Logits,
        sampling: &Sampling,
        mask: &TokenMask,
        context_tokens: usize,
        tokenizer: &Tokenizer,
    ) -> Result<(), ModelError> {
        let (Want::Call(call), Link::View(view)) = (&mut self.want, &mut self.link) else {
            return Ok(());
        };
        let attempt = call.attempt;
        let position = view.position();
        let key = NoiseKey::new(self.seed, Role::Llm, position);
        let logits = logits.last().unwrap_or_default();
        let Sampled { id, logprob } = sample(logits, sampling, key, mask).ok_or_else(no_number)?;
        if tokenizer.ends_text(id) {
            let reason = FinishReason::EndOfText;
            self.feed(Event::CloudStopped { attempt, reason }, tokenizer);
            return Ok(());
        }
        view.log.push(id);
        call.tokens_left = call.tokens_left.saturating_sub(1);
        let stop = match call.tokens_left {
            0 => Some(FinishReason::Length),
            _ if view.log.len() >= context_tokens => Some(FinishReason::ContextFull),
            _ => None,
        };
        let token = CloudToken { id, log_probability: logprob, position };
        let bytes = token_text(tokenizer, id).to_vec();
        self.on_cloud(Event::CloudToken { attempt, token, bytes }, tokenizer);
        if let Some(reason) = stop {
            self.feed(Event::CloudStopped { attempt, reason }, tokenizer);
        }
        Ok(())
    }

    /// The teacher's view, if it is in this process.
    pub(super) fn view(&mut self) -> Option<&mut View> {
        match &mut self.link {
            Link::View(view) => Some(view),
            Link::Nobody | Link::Session(_) => None,
        }
    }

    /// The order that nobody took yet.
    pub(super) fn take_order(&mut self) -> Option<CallOrder> {
        match &mut self.want {
            Want::Call(call) => call.order.take(),
            Want::Draft(_) | Want::Nothing(_) => None,
        }
    }

    /// Whether this attempt is the one under way.
    pub(super) fn is_calling(&self, attempt: Attempt) -> bool {
        matches!(&self.want, Want::Call(call) if call.attempt == attempt)
    }

    /// Whether a call failed otherwise than by a full context, so that the machine goes on alone.
    pub(super) fn is_left_alone(&self) -> bool {
        self.machine.account().degraded && !self.machine.calls_over()
    }

    /// Something the teacher says in the open call.
    pub(super) fn on_cloud(&mut self, event: Event, tokenizer: &Tokenizer) {
        let llm_tokens = self.machine.account().llm_tokens;
        let is_token = if let Event::CloudToken { token, .. } = &event {
            let CloudToken { id, log_probability, .. } = *token;
            self.heard.push_back(Token { id, author: Author::Llm, log_probability });
            true
        } else {
            false
        };
        self.feed(event, tokenizer);
        if is_token && self.machine.account().llm_tokens == llm_tokens {
            // The machine did not take it.
            self.heard.pop_back();
        }
    }

    /// What was made, once it is over.
    pub(super) fn into_answer(mut self) -> Option<(usize, Answer)> {
        let Want::Nothing(ending) = self.want else {
            return None;
        };
        let transcript = self.machine.transcript();
        // An end of text was drawn and is in no view.
        let view_tokens = transcript.edge_answer_ids().len();
        let end = if self.written.len() > view_tokens { self.written.pop() } else { None };
        debug_assert!(
            self.written.iter().map(|token| token.id).eq(transcript.edge_answer_ids().to_vec()),
            "what was logged is the edge view"
        );
        let answer = Answer {
            prompt: self.prompt,
            tokens: self.written,
            end,
            text: transcript.reader_text(),
            legs: transcript.legs().to_vec(),
            account: self.machine.account().clone(),
            ending,
        };
        Some((self.index, answer))
    }

    fn feed(&mut self, event: Event, tokenizer: &Tokenizer) {
        let mut inbox = VecDeque::from([event]);
        while let Some(event) = inbox.pop_front() {
            for effect in self.machine.on(event) {
                inbox.extend(self.perform(effect, tokenizer));
            }
        }
    }

    /// Does one thing; what it leads to at once comes back as an event.
    fn perform(&mut self, effect: Effect, tokenizer: &Tokenizer) -> Option<Event> {
        match effect {
            Effect::Draft { ban } => self.want = Want::Draft(ban),
            Effect::Tokenise { bytes } => {
                return Some(Event::Tokenised { ids: tokenizer.encode_bytes(&bytes) });
            }
            Effect::Call(order) => {
                let CallOrder { attempt, max_tokens, .. } = order;
                self.want =
                    Want::Call(OpenCall { attempt, tokens_left: max_tokens, order: Some(order) });
            }
            Effect::CatchUp { ids } => {
                let heard = self.heard.drain(..).take(ids.len());
                self.written.extend(heard);
                self.student.log.extend(ids);
            }
            Effect::DropLastDraft => {
                self.student.pop();
                self.written.pop();
            }
            Effect::Finish(ending) => self.want = Want::Nothing(ending),
            // Nobody reads along, a stream is closed with its attempt, and nothing is shipped ahead.
            Effect::Emit { .. } | Effect::HangUp { .. } | Effect::WarmSync(_) => {}
        }
        None
    }
}

fn no_number() -> ModelError {
    ModelError::Fault { what: "no logit is a number; is the model file whole?".to_owned() }
}

#[expect(clippy::cast_possible_truncation, reason = "a few nats lose nothing that matters")]
fn narrow(nats: f64) -> f32 {
    nats as f32
}

#[cfg(test)]
mod tests {
    use relay::budget::Budget;
    use relay::machine::OnCloudEnd;
    use relay::policy::Policy;
    use relay_model::scripted::{ScriptedModel, byte_tokenizer};

    use super::*;
    use crate::rollout::speaker::Speaker;

    /// A row that asks its teacher for all of its two tokens.
    fn calling(tokenizer: &Tokenizer) -> Row {
        let student = ScriptedModel::new(257, 64, |_| 97);
        let student = Speaker::new(Box::new(student), tokenizer, Vec::new());
        let settings = MachineSettings {
            policy: Policy::Always,
            budget: Budget {
                calls_max: 9,
                cloud_tokens_max: 9,
                response_tokens_max: 2,
                call_tokens_max: 2,
            },
            on_cloud_end: OnCloudEnd::Finish,
            cool_down_tokens: 0,
            retries_max: 1,
            warm_sync_tokens: None,
            draft_tokens_max: 0,
            command_tokens: Vec::new(),
        };
        let ask = Ask { prompt: vec![98; 3], seed: 1 };
        Row::begin(0, &ask, settings, (student.new_view(), Link::Nobody), tokenizer)
    }

    fn say(row: &mut Row, id: u32, position: u32, tokenizer: &Tokenizer) {
        let attempt = row.machine.last_attempt();
        if row.take_order().is_some() {
            let accepted =
                Accepted { length_tokens: position, cached_tokens: 0, prefilled_tokens: position };
            row.on_cloud(Event::Accepted { attempt, accepted }, tokenizer);
        }
        let token = CloudToken { id, log_probability: narrow(-f64::from(id)), position };
        row.on_cloud(Event::CloudToken { attempt, token, bytes: vec![b'x'] }, tokenizer);
    }

    #[test]
    fn a_token_that_the_machine_does_not_take_is_not_written() {
        let tokenizer = byte_tokenizer(&[]);
        let mut row = calling(&tokenizer);
        say(&mut row, 100, 3, &tokenizer);
        // Not the next position: the call is made again for what is left.
        say(&mut row, 101, 9, &tokenizer);
        say(&mut row, 102, 4, &tokenizer);
        assert!(!row.is_left_alone());
        let attempt = row.machine.last_attempt();
        row.on_cloud(Event::CloudStopped { attempt, reason: FinishReason::Length }, &tokenizer);
        let (_, answer) = row.into_answer().unwrap();
        let said: Vec<_> =
            answer.tokens.iter().map(|token| (token.id, token.log_probability)).collect();
        assert_eq!(said, [(100, -100.0), (102, -102.0)]);
        assert_eq!((answer.account.retries, answer.account.degraded), (1, false));
    }

    #[test]
    fn only_a_full_context_leaves_a_row_alone() {
        let tokenizer = byte_tokenizer(&[]);
        for (refusal, expected) in
            [(Refusal::ContextFull { context_tokens: 3 }, false), (Refusal::TooLate, true)]
        {
            let mut row = calling(&tokenizer);
            let attempt = row.machine.last_attempt();
            row.on_cloud(Event::Refused { attempt, refusal }, &tokenizer);
            assert!(row.machine.account().degraded);
            assert_eq!(row.is_left_alone(), expected);
        }
    }
}
