//! The `chunkfs` command: a thin user of the chunkfs crates.
#![forbid(unsafe_code)]

mod arguments;
mod cache_arguments;
mod commands;
mod context;
mod listing;
mod output;
mod progress;
mod registry_arguments;
mod tar;

use std::io::Write as _;
use std::process::ExitCode;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what failed, then its causes. Nobody may be left to read it.
            let _ = writeln!(std::io::stderr(), "chunkfs: {}", context::one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Convert(arguments) => commands::convert::run(&arguments),
        Command::Mount(arguments) => commands::mount::run(&arguments),
        Command::Unmount(arguments) => commands::unmount::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
        Command::Ls(arguments) => commands::ls::run(&arguments),
        Command::Cat(arguments) => commands::cat::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
        Command::Verify(arguments) => commands::verify::run(&arguments),
        Command::Pull(arguments) => commands::pull::run(&arguments),
        Command::Cache(command) => commands::cache::run(&command),
    }
}
