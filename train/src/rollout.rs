//! Many answers at once: relay machines driven in lock-step over a student and a teacher.
//!
//! The second driver of `relay::machine`. It performs the machine's effects as the edge does, with
//! the same noise keys, masks and views, so that an answer here is the answer there; only that all
//! rows wait for each other: a step is one ragged forward of the student over every row that wants
//! a token, and one turn of the teacher with every row on a call. A teacher in this process makes a
//! forward over them, a cloud answers their calls at once. Must not know what an answer is worth.
//!
//! | File | Holds |
//! |---|---|
//! | `rollout/speaker.rs` | a model, what it never says, and its forward over many views |
//! | `rollout/row.rs` | one machine with its two views |
//! | `rollout/teacher.rs` | who answers calls: a model in this process, or a cloud |
//! | `rollout/cloud.rs` | calls over the product's protocol, through the edge's uplink |

mod cloud;
mod row;
mod speaker;
mod teacher;

use std::sync::Arc;
use std::time::{Duration, Instant};

use relay::account::Account;
use relay::budget::Budget;
use relay::call::SamplingError;
use relay::command::OPEN;
use relay::effect::{Author, Ban, Ending};
use relay::machine::{MachineSettings, OnCloudEnd};
use relay::policy::Policy;
use relay::transcript::Leg;
use relay_edge::vocabulary::{command_tokens, fingerprint};
use relay_edge::{EdgeError, EdgeSettings};
use relay_model::{
    BannedText, LanguageModel, LoadedModel, ModelError, ModelIdentity, Sampling, TokenMask,
    Tokenizer,
};

use cloud::Cloud;
use row::{Row, Want};
use speaker::{Speaker, View};
use teacher::{Link, Teacher};

mod limits {
    /// Rows that are under way together, however many are asked for.
    pub(super) const ROWS_MAX: usize = 4096;
    /// Ids of one row that a forward takes; what is longer takes several.
    pub(super) const STEP_TOKENS_PER_ROW: usize = 256;
}

/// How answers are made.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutSettings {
    /// When to call.
    pub policy: Policy,
    /// How much one answer may cost; the student's context bounds it, too.
    pub budget: Budget,
    /// What the teacher's end of text means.
    pub on_cloud_end: OnCloudEnd,
    /// For how many student tokens no call is made after the teacher's context was full.
    pub cool_down_tokens: u32,
    /// How the student draws.
    pub student: Sampling,
    /// How the teacher draws.
    pub teacher: Sampling,
    /// Rows under way together: bounds the memory that KV caches take.
    pub rows_max: usize,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            policy: Policy::Learned,
            budget: Budget {
                calls_max: 64,
                cloud_tokens_max: 4096,
                response_tokens_max: 1024,
                call_tokens_max: 1024,
            },
            on_cloud_end: OnCloudEnd::Finish,
            cool_down_tokens: 32,
            student: Sampling::GREEDY,
            teacher: Sampling::GREEDY,
            rows_max: 64,
        }
    }
}

/// One answer to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Ids of the prompt, the same for both models.
    pub prompt: Vec<u32>,
    /// What the noise of both models depends on.
    pub seed: u64,
}

/// One id of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    /// The id.
    pub id: u32,
    /// Who wrote it.
    pub author: Author,
    /// Its log-probability in the writer's own softmax at temperature 1, before any mask, in nats.
    pub log_probability: f32,
}

/// One answer made.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The prompt it answers.
    pub prompt: Vec<u32>,
    /// The edge view after the prompt, commands included.
    pub tokens: Vec<Token>,
    /// The student's end of text: a choice of its own that is in no view. None if the answer ended
    /// otherwise.
    pub end: Option<Token>,
    /// What the reader gets: no commands.
    pub text: String,
    /// The same by author.
    pub legs: Vec<Leg>,
    /// Calls, tokens requested and delivered, and what became of commands.
    pub account: Account,
    /// Why it is over.
    pub ending: Ending,
}

/// Why answers could not be made. What was given out before stands.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The student's forward failed.
    #[error("the small model failed: {0}")]
    Student(ModelError),
    /// The teacher's forward failed, or its cloud did, tries again included. Going on alone would
    /// teach the student that calling is of no use.
    #[error("the large model is gone: {0}; run the stage again, it goes on where it stopped")]
    TeacherGone(String),
    /// Another model answers at the cloud's address.
    #[error(
        "the cloud serves {now}, but the run began with {before}: serve that one again, then run \
         the stage again"
    )]
    TeacherChanged {
        /// Name of the model that was there first.
        before: String,
        /// Name of the one that is there now; the same if only weights or numbers differ.
        now: String,
    },
    /// The cloud cannot be asked with these settings.
    #[error(transparent)]
    Cloud(#[from] EdgeError),
    /// The teacher's sampling is none that the protocol knows.
    #[error("the large model cannot draw so: {0}")]
    Sampling(#[from] SamplingError),
    /// There is no thread for the connection to the cloud.
    #[error("no thread for the connection to the cloud ({0}): close other programs")]
    NoThread(std::io::Error),
    /// A call was made, but there is no teacher.
    #[error("a call was made without a large model: give one, or choose a policy that never calls")]
    NoTeacher,
    /// Ids of one are not ids of the other.
    #[error("the two models have different vocabularies: bring a pair of one family")]
    VocabularyMismatch,
    /// There is nothing to continue.
    #[error("prompt {index} is empty: give it at least one token")]
    EmptyPrompt {
        /// Its place among the asks.
        index: usize,
    },
    /// No room for an answer.
    #[error("prompt {index} has {prompt_tokens} tokens, the context {context_tokens}: shorten it")]
    PromptTooLong {
        /// Its place among the asks.
        index: usize,
        /// Its length.
        prompt_tokens: usize,
        /// What the student can attend to.
        context_tokens: usize,
    },
}

/// Where the time of a rollout went, and what it brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloutCost {
    /// In the student's forwards.
    pub student: Duration,
    /// In the teacher's turns.
    pub teacher: Duration,
    /// Forwards of the student.
    pub student_steps: u64,
    /// Turns of the teacher: forwards, or waits for a cloud.
    pub teacher_steps: u64,
    /// Tokens of answers, by either author.
    pub tokens: u64,
}

/// A student, perhaps a teacher, and the vocabulary they share.
pub struct Rollout {
    student: Speaker,
    teacher: Option<Teacher>,
    tokenizer: Arc<Tokenizer>,
    command_tokens: Vec<u32>,
    banned: BannedText,
    cost: RolloutCost,
}

impl std::fmt::Debug for Rollout {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rollout").field("cost", &self.cost).finish_non_exhaustive()
    }
}

impl Rollout {
    /// Two models side by side; without a teacher no policy may call.
    ///
    /// # Errors
    /// [`RolloutError::VocabularyMismatch`] if the ids of one mean other text to the other.
    pub fn new(student: LoadedModel, teacher: Option<LoadedModel>) -> Result<Self, RolloutError> {
        let differs =
            |other: &LoadedModel| fingerprint(&other.tokenizer) != fingerprint(&student.tokenizer);
        if teacher.as_ref().is_some_and(differs) {
            return Err(RolloutError::VocabularyMismatch);
        }
        let teacher = teacher.map(|LoadedModel { model, tokenizer, .. }| {
            let tags = command_tokens(&tokenizer);
            Teacher::Here(Speaker::new(model, &tokenizer, tags))
        });
        Ok(Self::of(student, teacher))
    }

    /// A model here, and a teacher that a running cloud serves: the first of the edge's settings,
    /// of which all that concerns clouds is used. With it, which model that is.
    ///
    /// # Errors
    /// If the settings cannot be used, the cloud cannot be reached, or its vocabulary differs.
    pub fn with_cloud(
        student: LoadedModel,
        cloud: &EdgeSettings,
    ) -> Result<(Self, ModelIdentity), RolloutError> {
        let vocabulary_tokens = student.model.shape().vocabulary_tokens;
        let cloud = Cloud::connect(cloud, &student.tokenizer, vocabulary_tokens)?;
        let identity = cloud.identity();
        Ok((Self::of(student, Some(Teacher::Cloud(cloud))), identity))
    }

    fn of(student: LoadedModel, teacher: Option<Teacher>) -> Self {
        let tokenizer = student.tokenizer;
        Self {
            command_tokens: command_tokens(&tokenizer),
            banned: BannedText::new(&tokenizer, OPEN),
            student: Speaker::new(student.model, &tokenizer, Vec::new()),
            teacher,
            tokenizer,
            cost: RolloutCost::default(),
        }
    }

    /// Puts other weights in the student's place, as training changes them, and gives back those
    /// that were there. The vocabulary stays.
    pub fn replace_student(&mut self, model: Box<dyn LanguageModel>) -> Box<dyn LanguageModel> {
        let student = Speaker::new(model, &self.tokenizer, Vec::new());
        std::mem::replace(&mut self.student, student).into_model()
    }

    /// The vocabulary of both.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What all answers so far cost.
    pub fn cost(&self) -> RolloutCost {
        self.cost
    }

    /// Answers everything, in the order of the asks.
    ///
    /// # Errors
    /// [`RolloutError`] at the first ask that cannot be answered.
    pub fn answers(
        &mut self,
        asks: &[Ask],
        settings: &RolloutSettings,
    ) -> Result<Vec<Answer>, RolloutError> {
        let mut answers: Vec<Option<Answer>> = asks.iter().map(|_| None).collect();
        self.run(asks, settings, |index, answer| {
            answers[index] = Some(answer);
            Ok::<(), RolloutError>(())
        })?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Answers everything and gives out each answer, with the index of its ask, as it is done.
    ///
    /// # Errors
    /// As [`Rollout::answers`], and at once where `done` fails.
    pub fn run<Fault: From<RolloutError>>(
        &mut self,
        asks: &[Ask],
        settings: &RolloutSettings,
        mut done: impl FnMut(usize, Answer) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut rows = Vec::new();
        let ran = self.run_rows(asks, settings, &mut rows, &mut done);
        // Those that a fault left without an answer.
        self.part(&mut rows);
        ran
    }

    fn run_rows<Fault: From<RolloutError>>(
        &mut self,
        asks: &[Ask],
        settings: &RolloutSettings,
        rows: &mut Vec<Row>,
        done: &mut impl FnMut(usize, Answer) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let rows_max = settings.rows_max.clamp(1, limits::ROWS_MAX);
        let mut waiting = asks.iter().enumerate();
        loop {
            for (index, ask) in waiting.by_ref().take(rows_max - rows.len()) {
                rows.push(self.begin(index, ask, settings)?);
            }
            if rows.is_empty() {
                return Ok(());
            }
            self.student_step(rows, settings)?;
            self.teacher_step(rows, settings)?;
            let is_over = |row: &mut Row| matches!(row.want, Want::Nothing(_));
            let mut over: Vec<Row> = rows.extract_if(.., is_over).collect();
            self.part(&mut over);
            for row in over {
                self.cost.tokens += row.machine.transcript().edge_answer_ids().len() as u64;
                if let Some((index, answer)) = row.into_answer() {
                    done(index, answer)?;
                }
            }
        }
    }

    fn part(&self, rows: &mut [Row]) {
        if let Some(teacher) = &self.teacher {
            teacher.part(rows);
        }
    }

    fn begin(
        &self,
        index: usize,
        ask: &Ask,
        settings: &RolloutSettings,
    ) -> Result<Row, RolloutError> {
        let context_tokens = self.student.context_tokens();
        let prompt_tokens = ask.prompt.len();
        if prompt_tokens == 0 {
            return Err(RolloutError::EmptyPrompt { index });
        }
        let room = context_tokens.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(RolloutError::PromptTooLong { index, prompt_tokens, context_tokens });
        }
        let mut budget = settings.budget;
        budget.response_tokens_max =
            budget.response_tokens_max.min(u32::try_from(room).unwrap_or(u32::MAX));
        let machine = MachineSettings {
            policy: settings.policy,
            budget,
            on_cloud_end: settings.on_cloud_end,
            cool_down_tokens: settings.cool_down_tokens,
            retries_max: self.teacher.as_ref().map_or(0, Teacher::retries_max),
            warm_sync_tokens: None,
            draft_tokens_max: 0,
            command_tokens: self.command_tokens.clone(),
        };
        let link = self.teacher.as_ref().map_or(Ok(Link::Nobody), Teacher::link)?;
        let views = (self.student.new_view(), link);
        Ok(Row::begin(index, ask, machine, views, &self.tokenizer))
    }

    /// One forward of the student over all rows that want a token.
    fn student_step(
        &mut self,
        rows: &mut [Row],
        settings: &RolloutSettings,
    ) -> Result<(), RolloutError> {
        let mut drafting: Vec<&mut Row> =
            rows.iter_mut().filter(|row| matches!(row.want, Want::Draft(_))).collect();
        if drafting.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let views = drafting.iter_mut().map(|row| &mut row.student);
        let logits = self.student.forward(views).map_err(RolloutError::Student)?;
        self.cost.student += began.elapsed();
        self.cost.student_steps += 1;
        for (row, logits) in drafting.into_iter().zip(logits) {
            let (Some(logits), Want::Draft(ban)) = (logits, &row.want) else { continue };
            let mask = self.mask(ban.as_ref());
            row.draft(&logits, &settings.student, &mask, &self.tokenizer)
                .map_err(RolloutError::Student)?;
        }
        Ok(())
    }

    /// One turn of the teacher with all rows on a call.
    fn teacher_step(
        &mut self,
        rows: &mut [Row],
        settings: &RolloutSettings,
    ) -> Result<(), RolloutError> {
        let calling: Vec<&mut Row> =
            rows.iter_mut().filter(|row| matches!(row.want, Want::Call(_))).collect();
        if calling.is_empty() {
            return Ok(());
        }
        let teacher = self.teacher.as_mut().ok_or(RolloutError::NoTeacher)?;
        let began = Instant::now();
        teacher.answer(calling, &settings.teacher, &self.tokenizer)?;
        self.cost.teacher += began.elapsed();
        self.cost.teacher_steps += 1;
        Ok(())
    }

    fn mask(&self, ban: Option<&Ban>) -> TokenMask {
        let never = self.student.never_said();
        ban.map_or_else(|| never.clone(), |ban| self.banned.mask(&ban.held).union(never))
    }
}
