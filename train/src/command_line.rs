//! What may be said on the command line of `relay-train`, and which stage it calls. Computes
//! nothing.

use std::ffi::OsString;
use std::io::{BufWriter, Write};

use clap::{Parser, Subcommand};

use crate::data_command::{self, DataCommand};
use crate::eval_command::{self, Eval, Report};
use crate::filter_command::{self, Filter};
use crate::grading::grade_lines;
use crate::grpo::{self, Grpo};
use crate::merge_command::{self, Merge};
use crate::pretrain::{self, Pretrain};
use crate::reproduce::{self, Reproduce};
use crate::warmup::{self, Warmup};

/// Teach a small model when to call a large one, and judge how well it does.
#[derive(Parser)]
#[command(name = "relay-train", version)]
pub struct CommandLine {
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
    ///
    /// With [lora] in the settings, adapters learn on a frozen model: any Hugging Face folder or GGUF
    /// file. Then adapter/ is kept at every checkpoint, and model/ is the two merged, in the end.
    #[command(
        after_help = "Examples:\n  relay-train warmup --config train/runs/warmup.toml --from \
                            slm/model --out warm\n  relay-train warmup --config \
                            train/runs/warmup-smollm2.toml --from SmolLM2-135M-Instruct.Q8_0.gguf \
                            --problems gsm8k-train.jsonl --out smollm2"
    )]
    Warmup(Warmup),
    /// Merge adapters into the model that they adapt.
    ///
    /// Writes a Hugging Face folder in f32, with the model's own tokenizer and chat template.
    #[command(after_help = "Example:\n  relay-train merge --from SmolLM2-135M-Instruct.Q8_0.gguf \
                            --adapter smollm2/adapter --out merged")]
    Merge(Merge),
    /// Teach a warmed-up model when to call: the second stage.
    ///
    /// It answers each problem several times, with the large model at hand; answers that earned more
    /// than others to the same problem become likelier (GRPO). Tokens of the large model are attended
    /// to and not learned. Writes model/, log.jsonl, curves and a checkpoint, and says in the end
    /// where the time went. Ctrl-C stops after the step in hand; the same command goes on.
    ///
    /// With --cloud the large model is what a running relay-cloud serves. If it cannot be reached any
    /// more the run stops, and the same command goes on.
    #[command(
        after_help = "Examples:\n  relay-train grpo --config train/runs/grpo-place.toml --from \
                            warm/model --llm llm/model --problems kept.jsonl --out grpo\n  \
                            relay-train grpo --config train/runs/grpo-place.toml --from \
                            warm/model --cloud http://127.0.0.1:7433 --insecure --problems \
                            kept.jsonl --out grpo"
    )]
    Grpo(Box<Grpo>),
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
    /// Make the tiny pair and its results from nothing, cell by cell.
    ///
    /// A matrix of training and evaluation (`train/runs/cells.toml`). A cell that was stopped goes
    /// on from its last checkpoint; one whose result is kept in `train/runs/results` is not run
    /// again. Writes the table of all results in the end.
    #[command(after_help = "Examples:\n  relay-train reproduce --list\n  relay-train reproduce \
                            --cell eval-difficulty-1")]
    Reproduce(Reproduce),
}

impl CommandLine {
    /// Runs the command; what it says goes to `output`.
    pub fn run(self, mut output: &mut dyn Write) -> anyhow::Result<()> {
        let output = &mut output;
        match self.command {
            Command::Data(command) => data_command::run(&command, output),
            Command::Pretrain(flags) => pretrain::run(&flags, output),
            Command::Warmup(flags) => warmup::run(&flags, output),
            Command::Merge(flags) => merge_command::run(&flags, output),
            Command::Grpo(flags) => grpo::run(&flags, output),
            Command::Grade => {
                let mut output = BufWriter::new(output);
                let graded = grade_lines(std::io::stdin().lock(), "standard input", &mut output);
                output.flush()?;
                graded
            }
            Command::Eval(flags) => eval_command::evaluate(&flags, output),
            Command::Report(flags) => eval_command::report(&flags, output),
            Command::Filter(flags) => filter_command::run(&flags, output),
            Command::Reproduce(flags) => reproduce::run(&flags, &mut run_words, output),
        }
    }
}

/// Runs one command given as words, as a cell of the matrix has it.
fn run_words(words: &[String], output: &mut dyn Write) -> anyhow::Result<()> {
    let program = OsString::from("relay-train");
    let words = std::iter::once(program).chain(words.iter().map(OsString::from));
    CommandLine::try_parse_from(words)?.run(output)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn where_threads_are_chosen_the_variable_is_told() {
        for name in ["pretrain", "warmup", "grpo"] {
            let mut command = CommandLine::command();
            let help = command.find_subcommand_mut(name).unwrap().render_help().to_string();
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains(relay_model::CPU_HELP), "{help}");
        }
    }
}
