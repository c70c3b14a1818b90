//! A scripted driver: an SLM that writes given tokens, a cloud that follows a script, and a
//! vocabulary in which an id is looked up by its text. Single bytes are their own ids.

use std::collections::VecDeque;

use relay::budget::Budget;
use relay::call::{Accepted, CloudToken, FinishReason};
use relay::effect::{Author, CallOrder, Effect, Ending};
use relay::event::{Drafted, Event, Start};
use relay::ids::Attempt;
use relay::machine::{Machine, MachineSettings, OnCloudEnd};
use relay::policy::Policy;

pub(crate) const PROMPT: &[u32] = &[500, 501];
pub(crate) const END: u32 = 600;
pub(crate) const CONTROL: u32 = 601;

pub(crate) fn settings(policy: Policy) -> MachineSettings {
    MachineSettings {
        policy,
        budget: Budget {
            calls_max: 8,
            cloud_tokens_max: 64,
            response_tokens_max: 256,
            call_tokens_max: 32,
        },
        on_cloud_end: OnCloudEnd::Finish,
        cool_down_tokens: 0,
        retries_max: 2,
        warm_sync_tokens: None,
        draft_tokens_max: 0,
        command_tokens: Vec::new(),
    }
}

/// What the scripted cloud does with one attempt.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Admits it, writes these tokens and stops.
    Write(&'static [&'static str], FinishReason),
    /// Sends this event, made for the attempt.
    Event(fn(Attempt) -> Event),
}

/// Texts of tokens: a token longer than a byte gets the next id from 1000 on.
#[derive(Default)]
pub(crate) struct Vocabulary {
    texts: Vec<Vec<u8>>,
}

impl Vocabulary {
    pub(crate) fn id(&mut self, text: &[u8]) -> u32 {
        if let [byte] = text {
            return u32::from(*byte);
        }
        let known = self.texts.iter().position(|known| known == text);
        let index = known.unwrap_or_else(|| {
            self.texts.push(text.to_vec());
            self.texts.len() - 1
        });
        1000 + u32::try_from(index).unwrap()
    }

    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        let bytes = ids.iter().flat_map(|id| match *id {
            byte @ 0..256 => vec![u8::try_from(byte).unwrap()],
            text @ 1000.. => self.texts[text as usize - 1000].clone(),
            _ => Vec::new(),
        });
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    }
}

pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) orders: Vec<CallOrder>,
    pub(crate) bans: Vec<Option<Vec<u8>>>,
    pub(crate) caught_up: Vec<u32>,
    pub(crate) emitted: Vec<(Author, String)>,
    pub(crate) dropped_drafts: usize,
    pub(crate) ending: Option<Ending>,
    slm: VecDeque<Drafted>,
    replies: VecDeque<Reply>,
}

impl World {
    pub(crate) fn new(settings: MachineSettings, slm: &[&str], replies: &[Reply]) -> Self {
        let mut vocabulary = Vocabulary::default();
        let slm = slm.iter().map(|text| draft(&mut vocabulary, text.as_bytes())).collect();
        Self {
            machine: Machine::new(settings),
            vocabulary,
            orders: Vec::new(),
            bans: Vec::new(),
            caught_up: Vec::new(),
            emitted: Vec::new(),
            dropped_drafts: 0,
            ending: None,
            slm,
            replies: replies.iter().cloned().collect(),
        }
    }

    /// Edits the SLM's tokens before the run.
    pub(crate) fn with_drafts(mut self, edit: impl Fn(usize, &mut Drafted)) -> Self {
        self.slm.iter_mut().enumerate().for_each(|(index, drafted)| edit(index, drafted));
        self
    }

    /// Runs the answer to its end.
    pub(crate) fn run(mut self) -> Self {
        let prompt = PROMPT.to_vec();
        let start = Start { edge_prompt: prompt.clone(), cloud_prompt: prompt, ..Start::default() };
        self.feed(Event::Started(start));
        self
    }

    pub(crate) fn reader(&self) -> String {
        self.machine.transcript().reader_text()
    }

    /// The cloud view after the prompt, as text.
    pub(crate) fn cloud(&self) -> String {
        self.vocabulary.decode(self.machine.transcript().cloud_answer_ids())
    }

    pub(crate) fn edge(&self) -> String {
        self.vocabulary.decode(self.machine.transcript().edge_answer_ids())
    }

    fn feed(&mut self, first: Event) {
        let mut events = VecDeque::from([first]);
        while let Some(event) = events.pop_front() {
            let mut answers: Vec<Event> = Vec::new();
            for effect in self.machine.on(event) {
                answers.extend(self.perform(effect));
            }
            events.extend(answers);
        }
    }

    fn perform(&mut self, effect: Effect) -> Vec<Event> {
        match effect {
            Effect::Draft { ban } => {
                self.bans.push(ban.map(|ban| ban.held));
                let end = Drafted { id: END, ends_text: true, draw: 1.0, ..Drafted::default() };
                vec![Event::Drafted(self.slm.pop_front().unwrap_or(end))]
            }
            Effect::Tokenise { bytes } => {
                vec![Event::Tokenised { ids: bytes.into_iter().map(u32::from).collect() }]
            }
            Effect::Call(order) | Effect::WarmSync(order) => {
                let events = self.reply(&order);
                self.orders.push(order);
                events
            }
            Effect::Emit { author, text } => {
                self.emitted.push((author, text));
                Vec::new()
            }
            Effect::CatchUp { ids } => {
                self.caught_up.extend(ids);
                Vec::new()
            }
            Effect::DropLastDraft => {
                self.dropped_drafts += 1;
                Vec::new()
            }
            Effect::Finish(ending) => {
                assert_eq!(self.ending.replace(ending), None);
                Vec::new()
            }
            Effect::HangUp { .. } => Vec::new(),
        }
    }

    fn reply(&mut self, order: &CallOrder) -> Vec<Event> {
        let attempt = order.attempt;
        let reply = self.replies.pop_front().expect("the script has a reply for each attempt");
        let (texts, last) = match reply {
            Reply::Event(make) => return vec![make(attempt)],
            Reply::Write(texts, reason) => (texts, Event::CloudStopped { attempt, reason }),
        };
        let length = order.base_tokens + u32::try_from(order.delta.len()).unwrap();
        let accepted =
            Accepted { length_tokens: length, cached_tokens: 0, prefilled_tokens: length };
        let mut events = vec![Event::Accepted { attempt, accepted }];
        for (position, text) in (length..).zip(texts) {
            let id = self.vocabulary.id(text.as_bytes());
            let token = CloudToken { id, log_probability: 0.0, position };
            events.push(Event::CloudToken { attempt, token, bytes: text.as_bytes().to_vec() });
        }
        events.push(last);
        events
    }
}

fn draft(vocabulary: &mut Vocabulary, text: &[u8]) -> Drafted {
    let id = if text.is_empty() { CONTROL } else { vocabulary.id(text) };
    Drafted { id, bytes: text.to_vec(), ..Drafted::default() }
}
