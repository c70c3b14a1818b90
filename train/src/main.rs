//! The program: runs what the command line says, and tells what went wrong. Decides nothing.

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;
use relay_train::command_line::CommandLine;
use relay_train::training_run::{STOPPED_STATUS, was_stopped};

fn main() -> ExitCode {
    match CommandLine::parse().run(&mut anstream::stdout().lock()) {
        // What was stopped is not done: `pretrain && warmup` is not to go on with half a model.
        Ok(()) if was_stopped() => ExitCode::from(STOPPED_STATUS),
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("relay-train: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == ErrorKind::BrokenPipe)
}
