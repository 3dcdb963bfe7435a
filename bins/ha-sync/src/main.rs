//! The command `ha-sync`.

mod arguments;
mod manual;
mod settings;

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
            let shown = arguments::show(&text).or_failure(FailureKind::Failed);
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
    let not_wired = |what: &str| Failure::new(FailureKind::Failed, format!("not wired: {what}"));
    match request {
        Request::Run(settings) => Err(not_wired(&format!("a run of the pair {}", settings.pair))),
        Request::Restore(settings) => Err(not_wired(&format!("restore of {}", settings.root.display()))),
        Request::Prune(settings) => Err(not_wired(&format!("prune of {}", settings.records.log_dir.display()))),
        Request::Completions(shell) => manual::completions(shell).map(|()| exit::ExitCode::Success),
        Request::Man(man) => manual::serve(man).map(|()| exit::ExitCode::Success),
    }
}
