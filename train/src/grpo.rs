//! `relay-train grpo`: the second stage. The small model answers each problem several times, calling
//! as it likes; answers that earned more than their group become likelier. Owns the stage's settings
//! and the order of a step: draw, answer, pay, learn.
//!
//! | File | Holds |
//! |---|---|
//! | `grpo/settings.rs` | every figure of the stage, with the paper's as defaults |
//! | `grpo/questions.rs` | problems in an order that any step can be found in again |
//! | `grpo/batch.rs` | from answers to what is learned: grades, rewards, advantages, masks |
//! | `grpo/update.rs` | from a batch to steps of the learner |
//! | `grpo/line.rs` | what is logged of a step, and what the run says in the end |

mod batch;
mod line;
mod questions;
mod settings;
mod update;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use relay::command::TAGS;
use relay_model::TINY_SLM;

use crate::checkpoint::write_aside;
use crate::dataset::{self, Set};
use crate::evaluation::harness::load_model;
use crate::learner::{Learner, default_threads};
use crate::model_folder;
use crate::model_writer::ModelWriter;
use crate::optimiser::AdamW;
use crate::rollout::{Answer, Ask, Rollout, RolloutSettings};
use crate::run_folder::{Input, check_inputs, open_settings};
use crate::teacher_flags::TeacherFlags;
use crate::trainable::Weights;
use crate::training_run::{Ending, TrainingRun, read_log, stop_on_signals, threads_help};

use batch::Batch;
use line::{Check, GrpoLine, Times};
use questions::{Drawn, Questions};
pub use settings::GrpoSettings;
use update::{Reference, update};

/// Flags of `grpo`.
#[derive(Args)]
pub struct Grpo {
    /// The settings: see train/runs/grpo-place.toml. `steps` and `checkpoint_steps` are batches of
    /// answers; `warm_up_steps` and the log's `step` count the optimiser's, `updates` to a batch.
    #[arg(long)]
    config: PathBuf,
    /// The warmed-up small model's folder: `model/` of its run.
    #[arg(long)]
    from: PathBuf,
    #[command(flatten)]
    teacher: TeacherFlags,
    /// Problems, one JSON object a line: what `filter` kept.
    #[arg(long)]
    problems: PathBuf,
    /// What form they have.
    #[arg(long, value_enum, default_value = "generated")]
    set: Set,
    /// The folder to write into; a run that is there is gone on with.
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = default_threads(), hide_default_value = true)]
    #[arg(help = threads_help())]
    threads: usize,
}

/// Trains a policy, or goes on; then says how the run went.
pub fn run(flags: &Grpo, output: &mut impl Write) -> anyhow::Result<()> {
    let settings: GrpoSettings = open_settings(&flags.config, &flags.out, output)?;
    let (weights, tokenizer) = model_folder::import(&flags.from)?;
    let run = TrainingRun {
        name: "GRPO".to_owned(),
        out: flags.out.clone(),
        steps: settings.steps * settings.updates,
        checkpoint_steps: settings.checkpoint_steps * settings.updates,
        threads: flags.threads,
        optimiser: settings.optimiser.clone(),
        writer: ModelWriter::Whole(tokenizer),
        stop: stop_on_signals()?,
    };
    let mut stage = Stage::open(flags, settings, &weights, &run)?;
    let ending =
        run.run(weights, Drawn::default(), &mut |learner, drawn| stage.step(learner, drawn, &run))?;
    if ending == Ending::Stopped {
        writeln!(output, "stopped; the same command goes on")?;
        return Ok(());
    }
    let lines: Vec<GrpoLine> = read_log(&run.log())?;
    let check = Check::of(&lines);
    let text = serde_json::to_string_pretty(&check).context("the check is no JSON")? + "\n";
    write_aside(&run.out.join("check.json"), text.as_bytes())?;
    write!(output, "{check}")?;
    Ok(())
}

/// Everything a step needs beside the learner.
struct Stage {
    settings: GrpoSettings,
    questions: Questions,
    pair: Rollout,
    rollout: RolloutSettings,
    reference: Reference,
    /// What opens and closes a command, where these are tokens of their own.
    tags: [Option<u32>; 2],
}

impl Stage {
    fn open(
        flags: &Grpo,
        settings: GrpoSettings,
        weights: &Weights,
        run: &TrainingRun,
    ) -> anyhow::Result<Self> {
        let slm = load_model(&flags.from, &TINY_SLM, Some(run.threads))?;
        let mut questions = dataset::load(flags.set, &flags.problems)?;
        let instruction = flags.set.instruction(settings.instruction.as_deref());
        for question in &mut questions {
            question.text = question.asked(instruction);
        }
        let student = Input::of_model(&slm.identity);
        let problems = Input::of_problems(&flags.problems, &questions);
        let questions = Questions::new(questions, slm.chat_template.clone(), settings.seed);
        ensure!(
            questions.len() >= settings.groups,
            "{}: {} problems are fewer than the {} of a step: bring more, or lower `groups`",
            flags.problems.display(),
            questions.len(),
            settings.groups
        );
        let (pair, teacher) = flags.teacher.pair(slm, run.threads)?;
        let reference = if settings.objective.kl_weight > 0.0 {
            let (weights, adam) = (weights.clone(), AdamW::new(0));
            let learner = Learner::new(weights, adam, settings.optimiser.clone(), run.threads)?;
            Reference::Before(Box::new(learner))
        } else {
            Reference::Unused
        };
        let tags = TAGS.map(|tag| pair.tokenizer().added_token_id(tag));
        ensure!(
            settings.objective.length_kl_weight.is_none() || tags.iter().all(Option::is_some),
            "length_kl_weight: this vocabulary has no tokens of their own for {} and {}, so that \
             lengths are not found: leave it out",
            TAGS[0],
            TAGS[1]
        );
        let rollout = settings.rollout();
        let teacher = Input::of_model(&teacher);
        let inputs = vec![("--from", student), ("--llm", teacher), ("--problems", problems)];
        check_inputs(&flags.out, inputs)?;
        Ok(Self { settings, questions, pair, rollout, reference, tags })
    }

    fn step(
        &mut self,
        learner: &mut Learner,
        drawn: &mut Drawn,
        run: &TrainingRun,
    ) -> anyhow::Result<GrpoLine> {
        let began = Instant::now();
        self.take_student(&learner.weights, run)?;
        let (asks, golds) = self.draw(drawn)?;
        let before = self.pair.cost();
        let answers: Vec<Answer> = self.pair.answers(&asks, &self.rollout)?;
        let after = self.pair.cost();
        let answered = began.elapsed();
        let batch = Batch::new(&answers, &golds, self.tags, &self.settings)?;
        let paid = began.elapsed();
        let update = update(learner, &mut self.reference, &batch, &self.settings, run.steps)?;
        let times = Times {
            step_s: began.elapsed().as_secs_f64(),
            rollout_s: answered.as_secs_f64(),
            student_s: after.student.saturating_sub(before.student).as_secs_f64(),
            teacher_s: after.teacher.saturating_sub(before.teacher).as_secs_f64(),
            reward_s: paid.saturating_sub(answered).as_secs_f64(),
            reference_s: update.reference.as_secs_f64(),
        };
        Ok(GrpoLine::of(learner.optimiser.steps, &batch, &update, times))
    }

    /// The weights as they are now write the next answers. They pass through a folder, so that what
    /// answers is what ships.
    fn take_student(&mut self, weights: &Weights, run: &TrainingRun) -> anyhow::Result<()> {
        let folder = run.out.join("student");
        run.writer.write_whole(weights, &folder)?;
        self.pair.replace_student(load_model(&folder, &TINY_SLM, Some(run.threads))?.model);
        Ok(())
    }

    /// The next groups: an ask for each of their answers, a right answer for each group.
    fn draw(&self, drawn: &mut Drawn) -> anyhow::Result<(Vec<Ask>, Vec<String>)> {
        let (mut asks, mut golds) = (Vec::new(), Vec::new());
        for _ in 0..self.settings.groups {
            let group = self.questions.group(*drawn, self.pair.tokenizer())?;
            let seeds = (0..self.settings.group_size).map(|sample| group.seed(sample));
            asks.extend(seeds.map(|seed| Ask { prompt: group.prompt.clone(), seed }));
            golds.push(group.gold);
            drawn.problems += 1;
        }
        Ok((asks, golds))
    }
}
