//! The command `ha-volume`.

mod arguments;
mod backups;
mod close;
mod compare;
mod copy;
mod doctor;
mod files;
mod fsck;
mod inspect;
mod manual;
mod merge;
mod render;
mod scan;
mod source;
mod ssh;
mod work;

use std::ffi::OsString;
use std::process::ExitCode;

use arguments::{BackupCommand, Command, Definition};
use clap::{CommandFactory as _, Parser as _};
use ha_cli::exit;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::LogFormat;
use ha_cli::summary;
use ha_cli::usage;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let result = match Definition::try_parse_from(&words) {
        Ok(definition) => {
            let json = definition.command.answers_json();
            serve(definition.command).inspect_err(|failure| {
                if json {
                    answer(failure);
                }
            })
        }
        Err(error) if error.use_stderr() => {
            let failure = usage::refusal(&error, &program(&words));
            let asked = words.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json");
            if asked || words.iter().any(|word| word == "--output=json" || word == "-ojson") {
                answer(&failure);
            }
            Err(failure)
        }
        Err(help) => usage::show(&help).or_failure(FailureKind::Failed).map(|()| exit::ExitCode::Success),
    };
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            failure.print(LogFormat::Text);
            failure.exit_code().into()
        }
    }
}

/// Prints a failure as data; the same is said on stderr.
fn answer(failure: &Failure) {
    let mut object = failure.to_json();
    object.entry("findings").or_insert_with(|| serde_json::json!([]));
    let _ = summary::print(&summary::json_line(&object));
}

fn serve(command: Command) -> Result<exit::ExitCode, Failure> {
    match command {
        Command::Scan(arguments) => scan::serve(&arguments),
        Command::Inspect(arguments) => inspect::serve(&arguments),
        Command::Compare(arguments) => compare::serve(&arguments),
        Command::Merge(arguments) => merge::serve(&arguments),
        Command::Copy(arguments) => copy::serve(&arguments),
        Command::Send(arguments) => copy::send(&arguments.directory),
        Command::Doctor(arguments) => doctor::serve(&arguments),
        Command::Ls(arguments) => files::list(&arguments),
        Command::Cat(arguments) => files::cat(&arguments),
        Command::Extract(arguments) => files::extract(&arguments),
        Command::Fsck(arguments) => fsck::serve(&arguments),
        Command::Backupstore(arguments) => match arguments.command {
            BackupCommand::Ls(arguments) => backups::list(&arguments),
            BackupCommand::Verify(arguments) => backups::verify(&arguments),
            BackupCommand::Restore(arguments) => backups::restore(&arguments),
            BackupCommand::Write(arguments) => backups::write(&arguments),
        },
        Command::Completions(arguments) => manual::completions(arguments.shell).map(|()| exit::ExitCode::Success),
        Command::Man(arguments) => manual::serve(&arguments).map(|()| exit::ExitCode::Success),
    }
}

/// Returns what to ask for help: the program with the subcommands that were named.
fn program(words: &[OsString]) -> String {
    let mut program = "ha-volume".to_owned();
    let mut command = Definition::command();
    for word in words.iter().skip(1) {
        let Some(next) = command.find_subcommand(word).cloned() else { break };
        program = format!("{program} {}", next.get_name());
        command = next;
    }
    program
}

/// Prints an answer on stdout.
fn print(text: &str) -> Result<(), Failure> {
    summary::print(text).or_failure(FailureKind::Failed).map_err(|failure| failure.context("failed to write to stdout"))
}
