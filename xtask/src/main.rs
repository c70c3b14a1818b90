//! One door for chores: `cargo xtask demo`, `ci`, `check`, `model`.
//! Depends on no crate of ours: it builds and starts the programs as a user would.
//!
//! | File | Holds |
//! |---|---|
//! | `models.rs` | which model the tests run on, and how the demo asks: the one place to change it |
//! | `question.rs` | what the demo asks, and whether the tiny pair can know anything of a question |
//! | `bring.rs` | how a model file gets here: download, check, put in place |
//! | `demo.rs` | cloud and edge as two processes, one answer, one table |
//! | `account.rs` | the table of one answer |
//! | `process.rs` | a child process that is always stopped; Ctrl-C |
//! | `ci.rs` | the steps of a full check, timed, with the tests' own words last |
//! | `folders.rs`, `cargo.rs` | where things are kept; how cargo is called |

mod account;
mod bring;
mod cargo;
mod ci;
mod demo;
mod folders;
mod models;
mod process;
mod question;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::process::Interrupt;

/// Chores of the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run one relayed answer: a cloud and an edge process on loopback, with mutual TLS.
    ///
    /// Builds both programs, makes development certificates, asks the tiny pair that the programs
    /// carry, prints the answer with the cloud's tokens in colour, and a table of what it took.
    Demo {
        /// What to ask. Without it a problem is picked that needs a fact which only the large
        /// model knows, and at least one token of the answer has to come from the cloud.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        question: Option<String>,
        /// A GGUF file or a model's folder to run on both sides instead of the tiny pair.
        #[arg(long, value_name = "PATH")]
        model: Option<PathBuf>,
    },
    /// Check everything: format, lints, build, documentation, licences, tests.
    Ci,
    /// Check the fast half: format, lints, house rules, unit tests.
    Check,
    /// Bring the model that the tests use, if it is not there, and print its path.
    Model,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.chore) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            anstream::eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does the chore; false says that it was carried out and found something wrong.
fn run(chore: &Chore) -> anyhow::Result<bool> {
    let interrupt = Interrupt::listen()?;
    match chore {
        Chore::Demo { question, model } => {
            demo::run(question.as_deref(), model.as_deref(), &interrupt)?;
            Ok(true)
        }
        Chore::Ci => ci::full(&interrupt),
        Chore::Check => ci::fast(&interrupt),
        Chore::Model => {
            anstream::println!("{}", bring::model(models::TEST, &interrupt)?.display());
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let empty = Arguments::command().try_get_matches_from(["xtask", "demo", ""]);
        assert!(empty.is_err(), "an empty question is refused before anything is built");
    }
}
