//! The command `ha-sync`.

mod arguments;
mod baseline;
mod conflicts;
mod diff;
mod lock;
mod manifests;
mod manual;
mod prune;
mod records;
mod restore;
mod run;
mod settings;
mod signals;
mod status;

use std::process::ExitCode;

use arguments::{Refusal, Request};
use ha_cli::exit;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::LogFormat;

fn main() -> ExitCode {
    let (result, format) = match arguments::parse(std::env::args_os()) {
        Ok(request) => {
            let format = log_format(&request);
            (serve(request), format)
        }
        Err(Refusal::Shown(text)) => {
            let shown = ha_cli::usage::show(&text).or_failure(FailureKind::Failed);
            (shown.map(|()| exit::ExitCode::Success), LogFormat::Text)
        }
        Err(Refusal::Failure(failure)) => (Err(failure), LogFormat::Text),
    };
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            failure.print(format);
            failure.exit_code().into()
        }
    }
}

fn log_format(request: &Request) -> LogFormat {
    match request {
        Request::Run(settings) => settings.output.log_format.unwrap_or(LogFormat::Text),
        _ => LogFormat::Text,
    }
}

fn serve(request: Request) -> Result<exit::ExitCode, Failure> {
    match request {
        Request::Run(settings) => run::run(&settings),
        Request::Restore(settings) => restore::serve(&settings),
        Request::Prune(settings) => prune::serve(&settings),
        Request::Status(settings) => status::serve(&settings),
        Request::Conflicts(settings) => conflicts::serve(&settings),
        Request::Diff(settings) => diff::serve(&settings),
        Request::Baseline(settings) => baseline::serve(&settings),
        Request::Manifests(settings) => manifests::serve(&settings),
        Request::Completions(shell) => manual::completions(shell).map(|()| exit::ExitCode::Success),
        Request::Man(man) => manual::serve(man).map(|()| exit::ExitCode::Success),
    }
}
