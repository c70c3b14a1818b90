//! The command line of training and evaluation. Parses flags and calls the library; decides
//! nothing.

use std::io::{BufWriter, ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use relay_train::data_command::{self, DataCommand};
use relay_train::eval_command::{self, Eval, Report};
use relay_train::filter_command::{self, Filter};
use relay_train::grading::grade_lines;
use relay_train::grpo::{self, Grpo};
use relay_train::pretrain::{self, Pretrain};
use relay_train::warmup::{self, Warmup};

/// Teach a small model when to call a large one, and judge how well it does.
#[derive(Parser)]
#[command(name = "relay-train", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Problems: draw those of the small world, show them, check sets of others.
    #[command(subcommand)]
    Data(DataCommand),
    /// Train one of the tiny pair's models from nothing.
    ///
    /// Draws problems with the model's own numbers, takes the settings' steps and then says how
    /// often it is right. Writes model/ (as Hugging Face has it), log.jsonl, curve.svg, check.json
    /// and a checkpoint. Ctrl-C stops after the step in hand; the same command goes on.
    Pretrain(Pretrain),
    /// Teach a pretrained model what a command looks like: the first stage.
    ///
    /// Answers that the model sampled itself get commands at random places; it learns them, once
    /// each. Says in the end how many commands its samples hold, how many are well-formed, and how
    /// often it is still right. Ctrl-C stops after the step in hand; the same command goes on.
    Warmup(Warmup),
    /// Teach a warmed-up model when to call: the second stage.
    ///
    /// It answers each problem several times, with the large model at hand; answers that earned more
    /// than others to the same problem become likelier (GRPO). Tokens of the large model are attended
    /// to and not learned. Writes model/, log.jsonl, curves and a checkpoint, and says in the end
    /// where the time went. Ctrl-C stops after the step in hand; the same command goes on.
    #[command(after_help = "Example:\n  relay-train grpo --config train/runs/grpo.toml --from \
                            warm/model --llm llm/model --problems kept.jsonl --out grpo")]
    Grpo(Grpo),
    /// Grade answers: JSONL {gold, response} in, JSONL {correct, extracted} out.
    ///
    /// Reads one JSON object a line from standard input. `gold` is the right answer, in LaTeX or
    /// plain text; `response` is what a model wrote. Other fields are passed over. Writes one
    /// object a line, in the same order: `extracted` is the answer found in the response, or null,
    /// and `correct` says whether it means the same as `gold`.
    ///
    /// The answer is what the last complete \boxed{} holds; without any box, what stands behind
    /// the last "####", "answer is" or "answer:". Numbers are compared exactly, whether written as
    /// decimals, fractions, mixed numbers, percentages or with thousands separators; closed
    /// expressions by value; expressions with variables by their values at six points; sets and
    /// lists in any order; tuples, intervals and matrices element by element; choices by letter.
    /// Units are set aside, unless both sides name known ones that differ.
    ///
    /// A line that is no such object stops the run with its number; what was graded before it is
    /// written.
    #[command(after_help = "Example:\n  echo '{\"gold\":\"\\\\frac{1}{2}\",\"response\":\"so \
                            \\\\boxed{0.5}\"}' | relay-train grade")]
    Grade,
    /// How good a pair of models is with a policy, beside its baselines.
    ///
    /// Greedy answers to problems of the small world's test split, graded; accuracy with bootstrap
    /// intervals of 95 %, call ratio (delivered and requested), tokens by author, and who wrote the
    /// numbers of which kind of fact. The query-level random router is computed from the two models
    /// alone. What is judged is kept at once: a run that was stopped goes on where it was.
    #[command(after_help = "Example:\n  relay-train eval --slm slm/ --llm llm/ --level long \
                            --problems 2000 --seed 1 --json")]
    Eval(Box<Eval>),
    /// Render what an evaluation found, as Markdown, JSON and a plot.
    Report(Report),
    /// Keep the problems that the large model solves often enough.
    #[command(after_help = "Example:\n  relay-train filter --llm llm/ --in problems.jsonl --out \
                            kept.jsonl")]
    Filter(Filter),
}

fn main() -> ExitCode {
    let run = match Arguments::parse().command {
        Command::Data(command) => data_command::run(&command, &mut anstream::stdout().lock()),
        Command::Pretrain(flags) => pretrain::run(&flags, &mut anstream::stdout().lock()),
        Command::Warmup(flags) => warmup::run(&flags, &mut anstream::stdout().lock()),
        Command::Grpo(flags) => grpo::run(&flags, &mut anstream::stdout().lock()),
        Command::Grade => grade(),
        Command::Eval(flags) => eval_command::evaluate(&flags, &mut anstream::stdout().lock()),
        Command::Report(flags) => eval_command::report(&flags, &mut anstream::stdout().lock()),
        Command::Filter(flags) => filter_command::run(&flags, &mut anstream::stdout().lock()),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("relay-train: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn grade() -> anyhow::Result<()> {
    let mut output = BufWriter::new(std::io::stdout().lock());
    let graded = grade_lines(std::io::stdin().lock(), "standard input", &mut output);
    output.flush()?;
    graded
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == ErrorKind::BrokenPipe)
}
