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
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use arguments::{BackupCommand, Command, Definition};
use clap::{CommandFactory as _, Parser as _};
use ha_cli::environment;
use ha_cli::exit;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::LogFormat;
use ha_cli::summary::{self, ignore_closed};
use ha_cli::usage;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let result = match Definition::try_parse_from(&words) {
        Ok(definition) => {
            let json = definition.command.answers_json();
            serve(definition.command).inspect_err(|failure| {
                if json {
                    let mut object = failure.to_json();
                    object.entry("findings").or_insert_with(|| serde_json::json!([]));
                    // The same is said on stderr.
                    let _ = summary::print(&summary::json_line(&object));
                }
            })
        }
        Err(error) if error.use_stderr() => Err(usage::refusal(&error, &program(&words))),
        Err(help) => show(&help).or_failure(FailureKind::Failed).map(|()| exit::ExitCode::Success),
    };
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            failure.print(LogFormat::Text);
            failure.exit_code().into()
        }
    }
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

/// Prints help or the version on stdout; a closed stdout is no error.
fn show(text: &clap::Error) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let styled = text.render();
    let colour = environment::colour(stdout.is_terminal());
    let text = if colour { styled.ansi().to_string() } else { styled.to_string() };
    ignore_closed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Prints an answer on stdout.
fn print(text: &str) -> Result<(), Failure> {
    summary::print(text).or_failure(FailureKind::Failed).map_err(|failure| failure.context("failed to write to stdout"))
}
