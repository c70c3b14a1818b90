//! The thread that owns the small model, its cache and its sampler. It knows ids and the edge view;
//! not what a call is, nor that there is a cloud.
//!
//! The log is the edge view's ids. The KV cache may lag behind it: the last drafted id is fed with
//! the next draft, and so are the LLM's.

use std::sync::Arc;
use std::thread;

use relay::effect::Ban;
use relay::event::Drafted;
use relay_model::{
    BannedText, KvCache, LanguageModel, Logits, LogitsWanted, ModelError, ModelShape, NoiseKey,
    Role, Row, Sampling, TokenMask, Tokenizer, entropy_nats, sample,
};
use tokio::sync::{mpsc, oneshot};

use crate::error::EdgeError;
use crate::vocabulary::{command_tokens, token_text};

mod limits {
    /// Commands that may wait for the thread; the session sends at most three in a row.
    pub(super) const COMMANDS: usize = 8;
    /// Ids of one prefill step: between two steps an answer that nobody wants ends.
    pub(super) const PREFILL_TOKENS: usize = 64;
}

/// The handle on the thread. Dropping it ends the thread after the step under way.
#[derive(Debug)]
pub struct Decoder {
    commands: mpsc::Sender<Command>,
    shape: ModelShape,
}

/// What one answer needs to be decoded.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The edge view so far, prompt included.
    pub edge_ids: Vec<u32>,
    /// The answer's seed.
    pub seed: u64,
}

/// A guess of what the LLM will say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    /// Position in the cloud view of the first guessed id: what its noise depends on.
    pub cloud_position: u32,
    /// Most ids.
    pub tokens_max: u32,
    /// The id drafted last was set aside: guess from before it.
    pub without_last: bool,
}

type Reply<T> = oneshot::Sender<Result<T, ModelError>>;

#[derive(Debug)]
enum Command {
    Begin(Prompt),
    Draft(Option<Ban>, Reply<Drafted>),
    CatchUp(Vec<u32>),
    DropLast,
    Guess(Guess, Reply<Vec<u32>>),
}

/// A draft under way.
pub type PendingDraft = oneshot::Receiver<Result<Drafted, ModelError>>;

impl Decoder {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`EdgeError::DecoderGone`] if the system gives no thread.
    pub fn spawn(
        model: Box<dyn LanguageModel>,
        tokenizer: Arc<Tokenizer>,
        sampling: Sampling,
    ) -> Result<Self, EdgeError> {
        let shape = model.shape();
        let (commands, inbox) = mpsc::channel(limits::COMMANDS);
        let state = DecoderThread::new(model, tokenizer, sampling);
        thread::Builder::new()
            .name("decoder".to_owned())
            .spawn(move || state.run(inbox))
            .map_err(|_| EdgeError::DecoderGone)?;
        Ok(Self { commands, shape })
    }

    /// The model's figures.
    pub fn shape(&self) -> ModelShape {
        self.shape
    }

    /// Sets the log to the prompt. What the cache has in common with it stays computed.
    pub async fn begin(&self, prompt: Prompt) -> Result<(), EdgeError> {
        self.send(Command::Begin(prompt)).await
    }

    /// Asks for the next token. Dropping what comes back gives the draft up.
    pub async fn draft(&self, ban: Option<Ban>) -> Result<PendingDraft, EdgeError> {
        let (reply, drafted) = oneshot::channel();
        self.send(Command::Draft(ban, reply)).await?;
        Ok(drafted)
    }

    /// Appends the LLM's ids to the log.
    pub async fn catch_up(&self, ids: Vec<u32>) -> Result<(), EdgeError> {
        self.send(Command::CatchUp(ids)).await
    }

    /// Takes the id drafted last out of the log.
    pub async fn drop_last(&self) -> Result<(), EdgeError> {
        self.send(Command::DropLast).await
    }

    /// Guesses on a copy of the cache; the log stays as it is.
    pub async fn guess(&self, guess: Guess) -> Result<Vec<u32>, EdgeError> {
        let (reply, ids) = oneshot::channel();
        self.send(Command::Guess(guess, reply)).await?;
        let ids = ids.await.map_err(|_| EdgeError::DecoderGone)?;
        Ok(ids?)
    }

    async fn send(&self, command: Command) -> Result<(), EdgeError> {
        self.commands.send(command).await.map_err(|_| EdgeError::DecoderGone)
    }
}

/// What lives on the thread.
struct DecoderThread {
    model: Box<dyn LanguageModel>,
    tokenizer: Arc<Tokenizer>,
    sampling: Sampling,
    seed: u64,
    /// The edge view.
    log: Vec<u32>,
    /// Keys and values of the log's first ids.
    cache: KvCache,
    banned: Option<(&'static str, BannedText)>,
    /// Ids of the command's tags: never part of a guess.
    command_tokens: Vec<u32>,
    /// Ids that stand for nothing: never drawn.
    placeholders: TokenMask,
}

/// Whoever asked has gone away.
struct GivenUp;

enum StepError {
    GivenUp,
    Model(ModelError),
}

impl From<ModelError> for StepError {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl From<GivenUp> for StepError {
    fn from(_: GivenUp) -> Self {
        Self::GivenUp
    }
}

impl DecoderThread {
    fn new(model: Box<dyn LanguageModel>, tokenizer: Arc<Tokenizer>, sampling: Sampling) -> Self {
        let cache = model.new_cache();
        let command_tokens = command_tokens(&tokenizer);
        let placeholders = tokenizer.placeholder_ids(model.shape().vocabulary_tokens);
        let placeholders = TokenMask::from_ids(placeholders.collect());
        Self {
            model,
            tokenizer,
            sampling,
            seed: 0,
            log: Vec::new(),
            cache,
            banned: None,
            command_tokens,
            placeholders,
        }
    }

    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.blocking_recv() {
            match command {
                Command::Begin(prompt) => self.begin(prompt),
                Command::CatchUp(ids) => self.log.extend(ids),
                Command::DropLast => drop(self.log.pop()),
                Command::Draft(ban, reply) => {
                    let drafted = self.draft(ban.as_ref(), &reply);
                    answer(reply, drafted);
                }
                Command::Guess(guess, reply) => {
                    let ids = self.guess(guess, &reply);
                    answer(reply, ids);
                }
            }
        }
    }

    fn begin(&mut self, prompt: Prompt) {
        let alike = self.log.iter().zip(&prompt.edge_ids).take_while(|(a, b)| a == b).count();
        self.cache.truncate(alike);
        self.log = prompt.edge_ids;
        self.seed = prompt.seed;
    }

    fn draft(&mut self, ban: Option<&Ban>, reply: &Reply<Drafted>) -> Result<Drafted, StepError> {
        let position = position(self.log.len());
        let mask = match ban {
            Some(ban) => self.mask(ban),
            None => self.placeholders.clone(),
        };
        let logits = self.logits_after_log(reply)?;
        let row = logits.last().unwrap_or_default();
        let key = NoiseKey::new(self.seed, Role::Slm, position);
        let id = sample(row, &self.sampling, key, &mask).ok_or_else(no_number)?.id;
        self.log.push(id);
        Ok(Drafted {
            id,
            bytes: token_text(&self.tokenizer, id).to_vec(),
            ends_text: self.tokenizer.ends_text(id),
            entropy_nats: narrow(entropy_nats(row)),
            draw: NoiseKey::new(self.seed, Role::Policy, position).uniform(0),
        })
    }

    /// Makes up all KV the log lacks and gives the logits of what follows it.
    fn logits_after_log<T>(&mut self, reply: &Reply<T>) -> Result<Logits, StepError> {
        self.fill(self.log.len().saturating_sub(1), reply)?;
        let last = &self.log[self.cache.len_tokens()..];
        Ok(step(&mut *self.model, &mut self.cache, last)?)
    }

    /// Brings the cache to exactly the log's first `len_tokens` ids.
    fn fill<T>(&mut self, len_tokens: usize, reply: &Reply<T>) -> Result<(), StepError> {
        self.cache.truncate(len_tokens);
        while self.cache.len_tokens() < len_tokens {
            if reply.is_closed() {
                return Err(GivenUp.into());
            }
            let from = self.cache.len_tokens();
            let to = len_tokens.min(from + limits::PREFILL_TOKENS);
            let row = Row {
                tokens: &self.log[from..to],
                cache: &mut self.cache,
                logits: LogitsWanted::None,
            };
            self.model.forward(&mut [row])?;
        }
        Ok(())
    }

    fn guess(&mut self, guess: Guess, reply: &Reply<Vec<u32>>) -> Result<Vec<u32>, StepError> {
        let known = self.log.len() - usize::from(guess.without_last && !self.log.is_empty());
        let Some(before_last) = known.checked_sub(1) else {
            return Ok(Vec::new());
        };
        self.fill(before_last, reply)?;
        let mut fork = self.cache.fork();
        let mut next = self.log[before_last];
        let mut guessed = Vec::new();
        let room = self.model.shape().context_tokens.saturating_sub(known);
        for offset in (0..guess.tokens_max).take(room) {
            if reply.is_closed() {
                return Err(GivenUp.into());
            }
            let logits = step(&mut *self.model, &mut fork, &[next])?;
            let key = NoiseKey::new(self.seed, Role::Llm, guess.cloud_position + offset);
            let row = logits.last().unwrap_or_default();
            next = sample(row, &self.sampling, key, &self.placeholders).ok_or_else(no_number)?.id;
            // The LLM's end of text comes with its last word, not as an accepted draft, and the
            // command's tags never enter the cloud view.
            if self.tokenizer.ends_text(next) || self.command_tokens.contains(&next) {
                break;
            }
            guessed.push(next);
        }
        Ok(guessed)
    }

    fn mask(&mut self, ban: &Ban) -> TokenMask {
        let is_known = self.banned.as_ref().is_some_and(|(text, _)| *text == ban.text);
        if !is_known {
            self.banned = Some((ban.text, BannedText::new(&self.tokenizer, ban.text)));
        }
        let banned = self.banned.as_ref();
        let banned = banned.map_or_else(TokenMask::none, |(_, banned)| banned.mask(&ban.held));
        banned.union(&self.placeholders)
    }
}

fn step(
    model: &mut dyn LanguageModel,
    cache: &mut KvCache,
    tokens: &[u32],
) -> Result<Logits, ModelError> {
    let row = Row { tokens, cache, logits: LogitsWanted::Last };
    let logits = model.forward(&mut [row])?;
    let missing = || ModelError::Fault { what: "no logits came back".to_owned() };
    logits.into_iter().next().ok_or_else(missing)
}

fn no_number() -> ModelError {
    ModelError::Fault { what: "no logit is a number; is the model file whole?".to_owned() }
}

/// An asker that has gone away is no error: the answer was cancelled.
fn answer<T>(reply: Reply<T>, result: Result<T, StepError>) {
    let result = match result {
        Ok(value) => Ok(value),
        Err(StepError::Model(error)) => Err(error),
        Err(StepError::GivenUp) => return,
    };
    drop(reply.send(result));
}

/// Views are bounded by a context of `u32` tokens.
fn position(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "a few nats lose nothing that matters")]
fn narrow(nats: f64) -> f32 {
    nats as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay::command::{CLOSE, OPEN};
    use relay_model::TokenKind;
    use relay_model::scripted::{ScriptedModel, byte_tokenizer, hash_rule};

    const SEED: u64 = 11;

    fn decoder() -> Decoder {
        let model = ScriptedModel::new(257, 256, hash_rule(3, 97..123));
        let tokenizer = Arc::new(byte_tokenizer(&[]));
        Decoder::spawn(Box::new(model), tokenizer, Sampling::GREEDY).unwrap()
    }

    async fn begin(decoder: &Decoder, ids: &[u32]) {
        let prompt = Prompt { edge_ids: ids.to_vec(), seed: SEED };
        decoder.begin(prompt).await.unwrap();
    }

    async fn draft(decoder: &Decoder) -> Drafted {
        decoder.draft(None).await.unwrap().await.unwrap().unwrap()
    }

    /// What the model says after exactly these ids, from a fresh start.
    async fn expected(ids: &[u32]) -> u32 {
        let fresh = decoder();
        begin(&fresh, ids).await;
        draft(&fresh).await.id
    }

    #[tokio::test]
    async fn drafts_follow_the_edge_view_through_catch_up_and_set_aside() {
        let decoder = decoder();
        let mut view: Vec<u32> = (0..70).collect();
        begin(&decoder, &view).await;
        for turn in 0..4 {
            let drafted = draft(&decoder).await;
            assert_eq!(drafted.id, expected(&view).await, "turn {turn}");
            view.push(drafted.id);
        }
        decoder.drop_last().await.unwrap();
        view.pop();
        decoder.catch_up(vec![1, 2, 3]).await.unwrap();
        view.extend([1, 2, 3]);
        assert_eq!(draft(&decoder).await.id, expected(&view).await, "after the LLM");
        decoder.drop_last().await.unwrap();
        assert_eq!(draft(&decoder).await.id, expected(&view).await, "dropped and nothing came");
    }

    #[tokio::test]
    async fn a_new_turn_keeps_what_is_alike_and_forgets_the_rest() {
        let decoder = decoder();
        begin(&decoder, &[5; 40]).await;
        draft(&decoder).await;
        for view in [vec![5; 41], vec![5; 10], [vec![5; 20], vec![6; 30]].concat(), vec![9]] {
            begin(&decoder, &view).await;
            assert_eq!(draft(&decoder).await.id, expected(&view).await, "{view:?}");
        }
    }

    #[tokio::test]
    async fn a_guess_leaves_no_trace_and_is_what_plain_decoding_gives() {
        let decoder = decoder();
        begin(&decoder, &[5; 40]).await;
        let first = draft(&decoder).await.id;
        let guess = Guess { cloud_position: 41, tokens_max: 3, without_last: false };
        let guessed = decoder.guess(guess).await.unwrap();
        assert_eq!(guessed.len(), 3);
        let set_aside = Guess { cloud_position: 40, without_last: true, ..guess };
        assert_eq!(decoder.guess(set_aside).await.unwrap()[0], first);
        for expected in guessed {
            assert_eq!(draft(&decoder).await.id, expected);
        }
    }

    #[tokio::test]
    async fn a_guess_stops_before_a_tag_and_before_the_end_of_text() {
        for stop in [256, 257, 258] {
            let tags = [(OPEN, TokenKind::UserDefined), (CLOSE, TokenKind::UserDefined)];
            let tokenizer = Arc::new(byte_tokenizer(&tags));
            let rule = move |ids: &[u32]| if ids.len() < 4 { 97 } else { stop };
            let model = Box::new(ScriptedModel::new(259, 64, rule));
            let decoder = Decoder::spawn(model, tokenizer, Sampling::GREEDY).unwrap();
            begin(&decoder, &[5; 2]).await;
            let guess = Guess { cloud_position: 2, tokens_max: 8, without_last: false };
            assert_eq!(decoder.guess(guess).await.unwrap(), [97, 97], "{stop}");
        }
    }

    #[tokio::test]
    async fn a_banned_text_never_comes_into_being() {
        // A model that wants to write the command, byte after byte.
        let wanted: Vec<u32> = OPEN.bytes().map(u32::from).collect();
        let last = *wanted.last().unwrap();
        let model = ScriptedModel::new(257, 64, move |ids| wanted[(ids.len() - 1) % wanted.len()]);
        let tokenizer = Arc::new(byte_tokenizer(&[]));
        let decoder = Decoder::spawn(Box::new(model), tokenizer, Sampling::GREEDY).unwrap();
        begin(&decoder, &[0]).await;
        let mut written = Vec::new();
        for _ in 0..OPEN.len() {
            let ban = Ban { text: OPEN, held: written.clone() };
            let pending = decoder.draft(Some(ban)).await.unwrap();
            written.extend(pending.await.unwrap().unwrap().bytes);
        }
        assert_eq!(written[..OPEN.len() - 1], OPEN.as_bytes()[..OPEN.len() - 1]);
        assert_ne!(u32::from(written[OPEN.len() - 1]), last);
    }

    #[tokio::test]
    async fn a_fault_is_told_and_the_next_draft_works() {
        let model = ScriptedModel::new(257, 64, hash_rule(3, 97..123)).with_fault(0);
        let tokenizer = Arc::new(byte_tokenizer(&[]));
        let decoder = Decoder::spawn(Box::new(model), tokenizer, Sampling::GREEDY).unwrap();
        begin(&decoder, &[7]).await;
        let failed = decoder.draft(None).await.unwrap().await.unwrap();
        assert!(matches!(failed, Err(ModelError::Fault { .. })), "{failed:?}");
        assert_eq!(draft(&decoder).await.id, expected(&[7]).await);
    }

    /// A model file that holds no numbers.
    struct Broken(ScriptedModel);

    impl LanguageModel for Broken {
        fn shape(&self) -> ModelShape {
            self.0.shape()
        }

        fn new_cache(&self) -> KvCache {
            self.0.new_cache()
        }

        fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError> {
            let sound = self.0.forward(rows)?;
            Ok(sound.iter().map(|of| Logits::new(vec![f32::NAN; of.rows() * 257], 257)).collect())
        }
    }

    #[tokio::test]
    async fn a_model_without_numbers_is_a_fault_and_no_text() {
        let model = Broken(ScriptedModel::new(257, 64, hash_rule(3, 97..123)));
        let tokenizer = Arc::new(byte_tokenizer(&[]));
        let decoder = Decoder::spawn(Box::new(model), tokenizer, Sampling::GREEDY).unwrap();
        begin(&decoder, &[7]).await;
        let drafted = decoder.draft(None).await.unwrap().await.unwrap();
        assert!(matches!(drafted, Err(ModelError::Fault { .. })), "{drafted:?}");
    }

    #[tokio::test]
    async fn draws_depend_on_the_position_in_the_edge_view() {
        let decoder = decoder();
        begin(&decoder, &[5; 3]).await;
        let drafted = draft(&decoder).await;
        let draw = NoiseKey::new(SEED, Role::Policy, 3).uniform(0);
        assert!((drafted.draw - draw).abs() < 1e-12);
        assert!(drafted.entropy_nats > 0.0);
    }
}
