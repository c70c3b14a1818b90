//! One answer under way: a relay machine, what both models see of it, and what it waits for. Turns
//! the machine's effects into work for the models and what they say into its events; decides
//! nothing of the protocol.

use std::collections::VecDeque;

use relay::call::{Accepted, CloudToken, FinishReason};
use relay::command::TAGS;
use relay::effect::{Author, Ban, CallOrder, Effect, Ending};
use relay::event::{Drafted, Event, Start};
use relay::ids::Attempt;
use relay::machine::{Machine, MachineSettings};
use relay::refusal::Refusal;
use relay_model::{
    Logits, ModelError, NoiseKey, Role, Sampled, Sampling, TokenMask, Tokenizer, entropy_nats,
    sample,
};

use super::{Answer, Ask, Token, View};

/// What a row waits for.
#[derive(Debug)]
pub(super) enum Want {
    /// The student's next token.
    Draft(Option<Ban>),
    /// The teacher's next token.
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
    seed: u64,
    pub(super) machine: Machine,
    pub(super) want: Want,
    /// The edge view, with a drafted id that is not decided yet at its end.
    pub(super) student: View,
    /// The cloud view; None without a teacher.
    pub(super) teacher: Option<View>,
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
        (student, teacher): (View, Option<View>),
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
            teacher,
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
        let (Want::Call(call), Some(view)) = (&mut self.want, &mut self.teacher) else {
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
        let (Want::Call(call), Some(view)) = (&mut self.want, &mut self.teacher) else {
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
        self.heard.push_back(Token { id, author: Author::Llm, log_probability: logprob });
        let token = CloudToken { id, log_probability: logprob, position };
        let bytes = token_text(tokenizer, id).to_vec();
        self.feed(Event::CloudToken { attempt, token, bytes }, tokenizer);
        if let Some(reason) = stop {
            self.feed(Event::CloudStopped { attempt, reason }, tokenizer);
        }
        Ok(())
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
            // Nobody reads along, no stream is open, and nothing is shipped ahead.
            Effect::Emit { .. } | Effect::HangUp { .. } | Effect::WarmSync(_) => {}
        }
        None
    }
}

/// What an id adds to the text: nothing for a control token, except that the command's tags are
/// text wherever they come from.
fn token_text(tokenizer: &Tokenizer, id: u32) -> &[u8] {
    let bytes = tokenizer.token_bytes(id);
    let is_tag = TAGS.iter().any(|tag| tag.as_bytes() == bytes);
    if tokenizer.is_control(id) && !is_tag { &[] } else { bytes }
}

fn no_number() -> ModelError {
    ModelError::Fault { what: "no logit is a number; is the model file whole?".to_owned() }
}

#[expect(clippy::cast_possible_truncation, reason = "a few nats lose nothing that matters")]
fn narrow(nats: f64) -> f32 {
    nats as f32
}
