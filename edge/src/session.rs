//! One conversation on the device: a machine an answer, and the only loop of the edge. It performs
//! the machine's effects in order and turns the world into its events; it makes no decision of the
//! protocol itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use relay::call::Sampling;
use relay::conversation::Conversation;
use relay::effect::{Author, CallOrder, Effect, Ending};
use relay::event::{Event, Start};
use relay::machine::{Machine, MachineSettings};
use relay_chassis::shutdown::Shutdown;
use relay_model::{ChatOptions, ChatTemplate, LoadedModel, Tokenizer};
use time::PrimitiveDateTime;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::EdgeSettings;
use crate::decoder::{Decoder, Guess, PendingDraft, Prompt};
use crate::error::EdgeError;
use crate::metrics::Metrics;
use crate::prompt::{Dialogue, Rendered};
use crate::report::{Costs, Report};
use crate::uplink::{Ask, Line, ModelTrail, OpenAttempt, Signal, Uplink, Vocabulary};
use crate::vocabulary::{command_tokens, fingerprint};

mod limits {
    /// The part of a call's budget that the SLM's guess may take: a fourth. A guess that is not
    /// ready by then is dropped, since what it saves is less than what it costs.
    pub(super) const GUESS_PART_OF_BUDGET: u32 = 4;
}

/// Where the text goes as it comes: author and whole characters.
pub type Emit<'a> = &'a mut (dyn FnMut(Author, &str) + Send);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// The next turn of the conversation, put into the model's chat template.
    Chat(&'a str),
    /// The prompt itself, no template; it may hold control tokens. It is a conversation of one turn.
    Raw(&'a str),
}

/// One conversation with its model, its views and its line to the cloud.
#[derive(Debug)]
pub struct Session {
    settings: EdgeSettings,
    sampling: Sampling,
    decoder: Decoder,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    dialogue: Dialogue,
    chat_options: ChatOptions,
    conversation: Conversation,
    line: Line,
    metrics: Metrics,
}

impl Session {
    /// A conversation in which nothing was said. Starts the model's thread and makes the uplink;
    /// connects to nobody yet.
    ///
    /// # Errors
    /// On settings or certificates that cannot be used.
    pub fn new(
        settings: EdgeSettings,
        model: LoadedModel,
        metrics: Metrics,
    ) -> Result<Self, EdgeError> {
        let tokenizer = model.tokenizer;
        let vocabulary = Vocabulary {
            fingerprint: fingerprint(&tokenizer),
            tokens: model.model.shape().vocabulary_tokens,
        };
        let sampling = settings.sampling()?;
        let uplink = Arc::new(Uplink::new(&settings, vocabulary, &metrics)?);
        let decoder = Decoder::spawn(model.model, Arc::clone(&tokenizer), slm_sampling(&sampling))?;
        let thinking = settings.prompt.thinking;
        Ok(Self {
            settings,
            sampling,
            decoder,
            tokenizer,
            template: model.chat_template,
            dialogue: Dialogue::default(),
            chat_options: ChatOptions { thinking, ..ChatOptions::default() },
            conversation: Conversation::new(),
            line: Line::new(uplink)?,
            metrics,
        })
    }

    /// The same at this moment, for templates that tell the date. It stays the same to the end of
    /// the conversation: another date would change the prompt of all that was said.
    #[must_use]
    pub fn begun_at(mut self, now: PrimitiveDateTime) -> Self {
        self.chat_options.now = Some(now);
        self
    }

    /// Answers, and shows the text as it comes. A cloud that fails costs time, never the answer;
    /// `cancel` ends it early with what there is.
    ///
    /// # Errors
    /// On an empty or too long prompt, and if the small model fails.
    pub async fn answer(
        &mut self,
        question: Question<'_>,
        emit: Emit<'_>,
        cancel: &Shutdown,
    ) -> Result<Report, EdgeError> {
        let rendered = self.render(question)?;
        let answered = self.answer_rendered(&rendered, emit, cancel).await;
        match (&answered, question) {
            (Ok(report), Question::Chat(_)) => self.dialogue.answered(&report.answer),
            (Err(_), Question::Chat(_)) => self.dialogue.withdraw(),
            (_, Question::Raw(_)) => {}
        }
        answered
    }

    /// Ends the conversation and tells the clouds that held it, if they can be reached.
    pub async fn close(mut self) {
        self.line.forget().await;
    }

    fn render(&mut self, question: Question<'_>) -> Result<Rendered, EdgeError> {
        let text = match question {
            Question::Raw(text) | Question::Chat(text) => text,
        };
        if text.trim().is_empty() {
            return Err(EdgeError::EmptyPrompt);
        }
        match question {
            Question::Raw(prompt) => Ok(Rendered::raw(&self.tokenizer.with_bos(prompt))),
            Question::Chat(text) => {
                let lacking = || EdgeError::NoTemplate { model: self.settings.model.clone() };
                let template = self.template.as_ref().ok_or_else(lacking)?;
                self.dialogue.ask(text);
                let rendered = self.dialogue.render(template, &self.tokenizer, &self.chat_options);
                if rendered.is_err() {
                    self.dialogue.withdraw();
                }
                Ok(rendered?)
            }
        }
    }

    async fn answer_rendered(
        &mut self,
        rendered: &Rendered,
        emit: Emit<'_>,
        cancel: &Shutdown,
    ) -> Result<Report, EdgeError> {
        let started_at = Instant::now();
        let seed = match self.settings.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(EdgeError::Randomness)?,
        };
        let mut conversation = self.conversation.clone();
        let plan = conversation.follow(&rendered.piece_texts(), &rendered.answer_texts());
        let ids = rendered.encode(&plan.parts, &self.tokenizer);
        let start = conversation.begin(plan, ids);
        let machine = Machine::new(self.machine_settings(&start)?);
        let prompt = Prompt { edge_ids: start.edge_prompt.clone(), seed };
        self.decoder.begin(prompt).await?;
        self.line.begin_answer();
        let drive = Drive {
            session: self,
            machine,
            seed,
            draft: None,
            attempt: None,
            call: CallClock::default(),
            guess: None,
            models: ModelTrail::default(),
            inbox: VecDeque::from([Event::Started(start)]),
            just_drafted: false,
        };
        let (machine, ending, mut costs) = drive.run(emit, cancel).await?;
        costs.wall_ms = as_ms(started_at.elapsed());
        conversation.finish(&machine);
        self.conversation = conversation;
        let account = machine.account();
        self.metrics.count_answer(account, costs.bytes_up, costs.bytes_down);
        Ok(Report::new(machine.transcript().legs(), account, costs, ending, seed))
    }

    /// The settings of one answer: the SLM's context bounds it, so that no step can overflow it.
    fn machine_settings(&self, start: &Start) -> Result<MachineSettings, EdgeError> {
        let context_tokens = self.decoder.shape().context_tokens;
        let prompt_tokens = start.edge_prompt.len();
        if prompt_tokens == 0 {
            return Err(EdgeError::EmptyPrompt);
        }
        let room = context_tokens.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(EdgeError::PromptTooLong { prompt_tokens, context_tokens });
        }
        Ok(MachineSettings {
            policy: self.settings.policy(),
            budget: self.settings.budget(u32::try_from(room).unwrap_or(u32::MAX)),
            on_cloud_end: self.settings.on_cloud_end(),
            cool_down_tokens: self.settings.cool_down_tokens,
            retries_max: self.settings.uplink.retries_max,
            warm_sync_tokens: self.settings.warm_sync_tokens,
            draft_tokens_max: self.settings.draft_tokens_max,
            command_tokens: command_tokens(&self.tokenizer),
        })
    }
}

/// One answer under way.
struct Drive<'a> {
    session: &'a mut Session,
    machine: Machine,
    seed: u64,
    /// The SLM's step under way.
    draft: Option<PendingDraft>,
    /// The attempt whose stream is open: a call's or a warm sync's.
    attempt: Option<OpenAttempt>,
    call: CallClock,
    guess: Option<DraftIds>,
    models: ModelTrail,
    /// Events that wait until the effects before them are performed.
    inbox: VecDeque<Event>,
    /// The event being handled is a draft: what a policy sets aside is the log's last id.
    just_drafted: bool,
}

/// When the open call began, when its budget ends, and how long calls took so far.
#[derive(Debug, Default)]
struct CallClock {
    open: Option<(Instant, Instant)>,
    spent: Duration,
}

impl CallClock {
    fn begin(&mut self, budget: Duration) -> Instant {
        self.end();
        let now = Instant::now();
        self.open = Some((now, now + budget));
        now + budget
    }

    fn deadline(&self) -> Option<Instant> {
        self.open.map(|(_, deadline)| deadline)
    }

    fn end(&mut self) {
        if let Some((began_at, _)) = self.open.take() {
            self.spent += began_at.elapsed();
        }
    }
}

/// The SLM's guess for the open call, and where in the cloud view it begins.
#[derive(Clone, Debug)]
struct DraftIds {
    position: usize,
    ids: Vec<u32>,
}

impl Drive<'_> {
    async fn run(
        mut self,
        emit: Emit<'_>,
        cancel: &Shutdown,
    ) -> Result<(Machine, Ending, Costs), EdgeError> {
        let mut is_cancelled = false;
        loop {
            while let Some(event) = self.inbox.pop_front() {
                self.just_drafted = matches!(event, Event::Drafted(_));
                for effect in self.machine.on(event) {
                    if let Some(ending) = self.perform(effect, emit).await? {
                        let costs = self.costs();
                        return Ok((self.machine, ending, costs));
                    }
                }
            }
            let event = tokio::select! {
                biased;
                () = cancel.begun(), if !is_cancelled => {
                    is_cancelled = true;
                    Some(Event::Cancelled)
                }
                event = self.happening() => event?,
            };
            self.inbox.extend(event);
        }
    }

    /// The next thing that happens: a draft is ready, the cloud says something, or time is up.
    async fn happening(&mut self) -> Result<Option<Event>, EdgeError> {
        let time_up = self.time_up_at();
        // The timer comes first: a cloud that talks without end must not keep it from ringing.
        tokio::select! {
            biased;
            () = until(time_up) => Ok(Some(self.time_up())),
            signal = next_signal(&mut self.attempt) => Ok(self.heard(signal)),
            drafted = next_draft(&mut self.draft) => {
                self.draft = None;
                let drafted = drafted.ok_or(EdgeError::DecoderGone)??;
                Ok(Some(Event::Drafted(drafted)))
            }
        }
    }

    /// When the open call, or else the warm sync under way, is given up.
    fn time_up_at(&self) -> Option<Instant> {
        let of_attempt = || self.attempt.as_ref().map(OpenAttempt::deadline);
        let deadline = self.call.deadline().or_else(of_attempt)?;
        Some(deadline + self.session.settings.uplink.budget_grace())
    }

    fn time_up(&mut self) -> Event {
        let is_call = self.call.deadline().is_some();
        self.call.end();
        if let Some(attempt) = self.attempt.take() {
            attempt.time_up();
        }
        let attempt = self.machine.last_attempt();
        // No call waits for a warm sync: to the machine it broke.
        if is_call { Event::TimeUp { attempt } } else { Event::Cut { attempt } }
    }

    /// A signal as the machine's event; none where it only concerns the driver.
    fn heard(&mut self, signal: Option<Signal>) -> Option<Event> {
        let attempt = self.attempt.as_ref()?.attempt();
        let Some(signal) = signal else {
            self.attempt = None;
            return None;
        };
        if let Signal::Described(description) = signal {
            self.machine.limit_call_tokens(description.limits.call_tokens_max);
            self.models.described(description.model);
            return None;
        }
        let event = signal.event(attempt, &self.session.tokenizer);
        match event {
            Some(Event::CloudToken { .. }) => self.models.wrote(),
            // Whatever else its stream may say is of no interest.
            Some(Event::CloudStopped { .. }) => self.attempt = None,
            _ => {}
        }
        event
    }

    async fn perform(
        &mut self,
        effect: Effect,
        emit: &mut (dyn FnMut(Author, &str) + Send),
    ) -> Result<Option<Ending>, EdgeError> {
        match effect {
            Effect::Draft { ban } => {
                self.call.end();
                self.draft = Some(self.session.decoder.draft(ban).await?);
            }
            Effect::Tokenise { bytes } => {
                let ids = self.session.tokenizer.encode_bytes(&bytes);
                self.inbox.push_back(Event::Tokenised { ids });
            }
            Effect::Call(order) => self.call(order).await?,
            Effect::WarmSync(order) => {
                let deadline = Instant::now() + self.session.settings.uplink.call_budget();
                self.send(order, Vec::new(), deadline);
            }
            Effect::HangUp { attempt } => self.hang_up(attempt),
            Effect::Emit { author, text } => emit(author, &text),
            Effect::CatchUp { ids } => self.session.decoder.catch_up(ids).await?,
            Effect::DropLastDraft => self.session.decoder.drop_last().await?,
            Effect::Finish(ending) => {
                self.call.end();
                self.attempt = None;
                return Ok(Some(ending));
            }
        }
        Ok(None)
    }

    async fn call(&mut self, order: CallOrder) -> Result<(), EdgeError> {
        self.attempt = None;
        if order.opens_call {
            self.call.begin(self.session.settings.uplink.call_budget());
            self.guess = None;
        }
        let deadline = self.call.deadline().unwrap_or_else(Instant::now);
        if order.opens_call && order.draft_tokens_max > 0 {
            self.guess = Some(self.guess(&order).await?);
        }
        let draft = self.draft_ids(&order);
        self.send(order, draft, deadline);
        Ok(())
    }

    fn send(&mut self, order: CallOrder, draft: Vec<u32>, deadline: Instant) {
        // An older stream is abandoned: one attempt a session.
        self.attempt = None;
        let Session { sampling, line, .. } = &mut *self.session;
        let ask = Ask { sampling: *sampling, seed: self.seed, draft, deadline };
        self.attempt = Some(line.send(order, ask));
    }

    /// Lets the SLM guess what the LLM will say, for a part of the call's budget.
    async fn guess(&mut self, order: &CallOrder) -> Result<DraftIds, EdgeError> {
        let position = cloud_tokens(order);
        let guess = Guess {
            cloud_position: u32::try_from(position).unwrap_or(u32::MAX),
            tokens_max: order.draft_tokens_max,
            without_last: self.just_drafted && !self.machine.settings().policy.reads_commands(),
        };
        let longest = self.session.settings.uplink.call_budget() / limits::GUESS_PART_OF_BUDGET;
        let ids = match timeout(longest, self.session.decoder.guess(guess)).await {
            Ok(ids) => ids?,
            Err(_) => Vec::new(),
        };
        Ok(DraftIds { position, ids })
    }

    /// The part of the guess that is still ahead of the attempt.
    fn draft_ids(&self, order: &CallOrder) -> Vec<u32> {
        let Some(guess) = &self.guess else {
            return Vec::new();
        };
        let passed = cloud_tokens(order).saturating_sub(guess.position);
        let ahead = guess.ids.iter().skip(passed);
        ahead.take(order.draft_tokens_max as usize).copied().collect()
    }

    fn hang_up(&mut self, attempt: relay::ids::Attempt) {
        if self.attempt.as_ref().is_some_and(|open| open.attempt() == attempt) {
            self.attempt = None;
        }
    }

    fn costs(&self) -> Costs {
        let traffic = self.session.line.traffic();
        Costs {
            bytes_up: traffic.bytes_up.load(Ordering::Relaxed),
            bytes_down: traffic.bytes_down.load(Ordering::Relaxed),
            round_trips: traffic.calls.load(Ordering::Relaxed),
            describes: traffic.describes.load(Ordering::Relaxed),
            wall_ms: 0,
            cloud_ms: as_ms(self.call.spent),
            model_changed: self.models.has_changed(),
        }
    }
}

/// Length of the cloud view that an attempt covers.
fn cloud_tokens(order: &CallOrder) -> usize {
    order.base_tokens as usize + order.delta.len()
}

/// Waits for ever where no attempt is open.
async fn next_signal(attempt: &mut Option<OpenAttempt>) -> Option<Signal> {
    match attempt {
        Some(attempt) => attempt.signal().await,
        None => std::future::pending().await,
    }
}

/// Waits for ever where no draft is under way. `None`: the thread is gone.
async fn next_draft(
    draft: &mut Option<PendingDraft>,
) -> Option<Result<relay::event::Drafted, relay_model::ModelError>> {
    match draft {
        Some(draft) => draft.await.ok(),
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn slm_sampling(sampling: &Sampling) -> relay_model::Sampling {
    relay_model::Sampling {
        temperature: sampling.temperature(),
        top_k: sampling.top_k(),
        top_p: sampling.top_p(),
        min_p: sampling.min_p(),
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
