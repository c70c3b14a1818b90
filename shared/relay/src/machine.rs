//! Who holds the baton: the whole protocol of the edge as one pure state machine.
//!
//! No I/O, no clock, no model: a driver feeds [`Event`]s and performs the [`Effect`]s that come
//! back, in their order. Endpoints, connections, clocks, back-off and breakers are the driver's.

mod calling;
mod drafting;

use std::collections::VecDeque;

use crate::account::Account;
use crate::budget::{Budget, Spent};
use crate::command::{OPEN, open_overlap};
use crate::effect::{Author, Ban, CallOrder, Effect, Ending, Route};
use crate::event::{Drafted, Event, Start};
use crate::ids::Attempt;
use crate::pending::{Pending, Piece};
use crate::policy::Policy;
use crate::transcript::Transcript;

/// Attempts one call may make whatever the reasons; beyond, the SLM goes on alone.
pub const ATTEMPTS_PER_CALL_MAX: u32 = 16;
/// Resyncs one call may make; the second goes back to base 0.
pub const RESYNCS_PER_CALL_MAX: u32 = 2;
/// Times that warm syncs may find the prefix unknown before they stop for this answer.
pub const WARM_RESYNCS_MAX: u32 = 2;

/// What happens when the LLM ends the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCloudEnd {
    /// The answer ends.
    #[default]
    Finish,
    /// The SLM goes on.
    Resume,
}

/// How one answer is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineSettings {
    /// When to call.
    pub policy: Policy,
    /// How much it may cost.
    pub budget: Budget,
    /// What the LLM's end of text means.
    pub on_cloud_end: OnCloudEnd,
    /// For how many SLM tokens no call is made after a failed one.
    pub cool_down_tokens: u32,
    /// Attempts after a cut stream, per call.
    pub retries_max: u32,
    /// Ship settled ids ahead of a call once so many are not acknowledged; `None` never.
    pub warm_sync_tokens: Option<u32>,
    /// Draft ids a call may carry; 0 is none.
    pub draft_tokens_max: u32,
    /// Ids of the added tokens whose texts are the command's tags, if the tokenizer has them.
    pub command_tokens: Vec<u32>,
}

/// The machine of one answer.
#[derive(Clone, Debug)]
pub struct Machine {
    settings: MachineSettings,
    state: State,
    transcript: Transcript,
    pending: Pending,
    account: Account,
    /// Pieces of the cloud view that wait for a `Tokenised`, in order.
    settling: VecDeque<Piece>,
    /// The newest attempt: events of any other are dropped.
    newest_attempt: Attempt,
    acknowledged_tokens: u32,
    /// The cloud's own limit of n, once it is known.
    call_tokens_max: Option<u32>,
    warm_sync: WarmSync,
    /// SLM tokens for which no call is made.
    cool_down_tokens_left: u32,
    /// No call is made any more, in this answer and in later ones of the session.
    calls_over: bool,
    /// SLM ids since the last leg, or the last call, began.
    leg_tokens: u32,
    /// The end of the SLM's own output that is a beginning of the command.
    open_overlap: Vec<u8>,
    cancelled: bool,
}

/// Who holds the baton.
#[derive(Clone, Debug)]
enum State {
    /// Nobody yet.
    Waiting,
    /// The edge: a draft is asked for.
    Drafting,
    /// The edge: bytes are being tokenised, then this follows.
    Settling(Next),
    /// The cloud.
    Calling(OpenCall),
    /// Nobody any more.
    Finished,
}

/// What follows once everything before it is settled.
#[derive(Clone, Debug)]
enum Next {
    Draft,
    Call(OpenCall),
    Finish(Ending),
}

/// A call under way.
#[derive(Clone, Debug, Default)]
struct OpenCall {
    /// n less what arrived.
    tokens_left: u32,
    /// What arrived, in order.
    received: Vec<u32>,
    /// The newest attempt was admitted.
    is_accepted: bool,
    /// Text again if no cloud token comes.
    surroundings: Vec<u8>,
    /// Taken if no cloud token comes.
    set_aside: Option<Drafted>,
    attempts: u32,
    resyncs: u32,
    retries: u32,
    renumbered: bool,
    described_again: bool,
}

#[derive(Clone, Debug, Default)]
struct WarmSync {
    /// The attempt in flight and the length it ships.
    in_flight: Option<(Attempt, u32)>,
    resyncs: u32,
    off: bool,
}

impl Machine {
    /// A machine that waits for `Started`.
    pub fn new(settings: MachineSettings) -> Self {
        let command_tokens = settings.command_tokens.clone();
        Self {
            settings,
            state: State::Waiting,
            transcript: Transcript::default(),
            pending: Pending::new(command_tokens),
            account: Account::default(),
            settling: VecDeque::new(),
            newest_attempt: Attempt::default(),
            acknowledged_tokens: 0,
            call_tokens_max: None,
            warm_sync: WarmSync::default(),
            cool_down_tokens_left: 0,
            calls_over: false,
            leg_tokens: 0,
            open_overlap: Vec::new(),
            cancelled: false,
        }
    }

    /// Takes one event and says what to do about it, in order. An event that does not fit the
    /// state (a late one, say) changes nothing and asks for nothing.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Started(start) => self.start(start, &mut effects),
            Event::Drafted(drafted) => self.drafted(&drafted, &mut effects),
            Event::Tokenised { ids } => self.tokenised(&ids, &mut effects),
            Event::Cancelled => self.cancel(&mut effects),
            Event::Accepted { attempt, accepted } => {
                self.accepted(attempt, accepted, &mut effects);
            }
            Event::CloudToken { attempt, token, bytes } => {
                self.cloud_token(attempt, token, &bytes, &mut effects);
            }
            Event::CloudStopped { attempt, reason } => {
                self.cloud_stopped(attempt, reason, &mut effects);
            }
            Event::Refused { attempt, refusal } => self.refused(attempt, &refusal, &mut effects),
            Event::Cut { attempt } => self.cut(attempt, &mut effects),
            Event::LinkDown { attempt } => self.link_down(attempt, &mut effects),
            Event::TimeUp { attempt } => self.time_up(attempt, &mut effects),
        }
        debug_assert_eq!(crate::invariants::broken(self), None);
        effects
    }

    /// Tells the cloud's own limit of n, once Describe named it. It binds the open call, whose
    /// attempt has not left yet, and all later grants.
    pub fn limit_call_tokens(&mut self, tokens_max: u32) {
        self.call_tokens_max = Some(tokens_max);
        if let State::Calling(call) = &mut self.state {
            let cut_tokens = call.tokens_left.saturating_sub(tokens_max);
            call.tokens_left -= cut_tokens;
            self.account.granted_tokens -= u64::from(cut_tokens);
        }
    }

    /// The counters.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Prompt, legs and views.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &MachineSettings {
        &self.settings
    }

    /// The highest attempt number used.
    pub fn last_attempt(&self) -> Attempt {
        self.newest_attempt
    }

    /// Ids of the cloud view that the cloud is known to hold.
    pub fn acknowledged_tokens(&self) -> u32 {
        self.acknowledged_tokens
    }

    /// Whether the cloud's context was full, so that the session makes no more calls.
    pub fn calls_over(&self) -> bool {
        self.calls_over
    }

    /// Whether the answer is over.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    fn start(&mut self, start: Start, effects: &mut Vec<Effect>) {
        if !matches!(self.state, State::Waiting) {
            return;
        }
        self.acknowledged_tokens = start.acknowledged_tokens.min(count(start.cloud_prompt.len()));
        self.newest_attempt = start.last_attempt;
        self.calls_over = start.calls_over;
        self.transcript = Transcript::new(start.edge_prompt, start.cloud_prompt);
        if self.settings.policy == Policy::Always && self.call_by_policy(u32::MAX, None, effects) {
            return;
        }
        self.draft(effects);
    }

    fn cancel(&mut self, effects: &mut Vec<Effect>) {
        self.cancelled = true;
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Waiting => effects.push(Effect::Finish(Ending::Cancelled)),
            State::Drafting => self.release_and_finish(Ending::Cancelled, effects),
            State::Calling(call) => {
                effects.push(Effect::HangUp { attempt: self.newest_attempt });
                self.close_call(call, Next::Finish(Ending::Cancelled), effects);
            }
            // What follows is replaced once the bytes under way are tokenised.
            settling @ State::Settling(_) => self.state = settling,
            State::Finished => {}
        }
    }

    // Settling: pieces enter the cloud view in order, some of them by way of the tokenizer.

    fn settle(&mut self, pieces: Vec<Piece>, next: Next, effects: &mut Vec<Effect>) {
        self.settling.extend(pieces);
        self.proceed(next, effects);
    }

    fn proceed(&mut self, next: Next, effects: &mut Vec<Effect>) {
        while let Some(piece) = self.settling.pop_front() {
            match piece {
                Piece::Id(id) => self.transcript.push_cloud(id),
                Piece::Text(bytes) => {
                    effects.push(Effect::Tokenise { bytes });
                    self.state = State::Settling(next);
                    return;
                }
            }
        }
        match next {
            Next::Call(call) if self.cancelled => {
                self.close_call(call, Next::Finish(Ending::Cancelled), effects);
            }
            Next::Call(call) => self.open_call(call, effects),
            Next::Draft if self.cancelled => self.release_and_finish(Ending::Cancelled, effects),
            Next::Draft => self.draft(effects),
            Next::Finish(ending) => self.finish(ending, effects),
        }
    }

    fn tokenised(&mut self, ids: &[u32], effects: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Settling(next) => {
                for id in ids {
                    self.transcript.push_cloud(*id);
                }
                self.proceed(next, effects);
            }
            other => self.state = other,
        }
    }

    /// Asks for the next draft, unless the response budget is spent.
    fn draft(&mut self, effects: &mut Vec<Effect>) {
        if self.settings.budget.response_tokens_left(&self.spent()) == 0 {
            return self.release_and_finish(Ending::Length, effects);
        }
        self.sync_ahead(effects);
        effects.push(Effect::Draft { ban: self.ban() });
        self.state = State::Drafting;
    }

    fn ban(&self) -> Option<Ban> {
        let banned = !self.settings.policy.reads_commands() || !self.may_call();
        banned.then(|| Ban { text: OPEN, held: self.open_overlap.clone() })
    }

    /// Whether neither a cool-down nor a full context forbids calls.
    fn may_call(&self) -> bool {
        self.cool_down_tokens_left == 0 && !self.calls_over
    }

    fn spent(&self) -> Spent {
        Spent {
            calls: self.account.calls,
            cloud_tokens: self.account.llm_tokens,
            response_tokens: self.account.total_tokens,
        }
    }

    /// Nothing more can complete a command: what was held back is ordinary text.
    fn release_and_finish(&mut self, ending: Ending, effects: &mut Vec<Effect>) {
        let settled = self.pending.end();
        self.account.unclosed_commands += settled.malformed;
        self.emit(Author::Slm, &settled.text, effects);
        self.settle(settled.pieces, Next::Finish(ending), effects);
    }

    fn finish(&mut self, ending: Ending, effects: &mut Vec<Effect>) {
        if let Some((attempt, _)) = self.warm_sync.in_flight.take() {
            effects.push(Effect::HangUp { attempt });
        }
        if let Some((author, text)) = self.transcript.end_text() {
            effects.push(Effect::Emit { author, text });
        }
        effects.push(Effect::Finish(ending));
        self.state = State::Finished;
    }

    fn emit(&mut self, author: Author, bytes: &[u8], effects: &mut Vec<Effect>) {
        if bytes.is_empty() {
            return;
        }
        let text = self.transcript.show(author, bytes);
        if !text.is_empty() {
            effects.push(Effect::Emit { author, text });
        }
    }

    fn note_slm_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.open_overlap.clear();
        }
        self.open_overlap.extend_from_slice(bytes);
        let keep = open_overlap(&self.open_overlap);
        self.open_overlap.drain(..self.open_overlap.len() - keep);
    }

    fn order(&mut self, max_tokens: u32, opens_call: bool, route: Route) -> CallOrder {
        self.newest_attempt = self.newest_attempt.next();
        self.account.attempts += 1;
        let base = self.acknowledged_tokens as usize;
        CallOrder {
            attempt: self.newest_attempt,
            base_tokens: self.acknowledged_tokens,
            base_hash: self.transcript.cloud_hash(base),
            delta: self.transcript.cloud_ids()[base..].to_vec(),
            max_tokens,
            draft_tokens_max: self.settings.draft_tokens_max.min(max_tokens),
            opens_call,
            route,
        }
    }
}

/// A count of tokens as the wire has it. Views are bounded by a context of `u32` tokens.
fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
