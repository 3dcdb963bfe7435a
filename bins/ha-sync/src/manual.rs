//! What is generated from the definition of the flags: completions, manual pages, the reference in `docs/cli`.

use std::io;
use std::path::Path;

use clap_complete::Shell;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::{environment, reference, summary};

use crate::arguments::{self, Man};

/// Prints the completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut arguments::command(), "ha-sync", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints or writes a part of the manual.
pub(crate) fn serve(man: Man) -> Result<(), Failure> {
    match man {
        Man::Page => {
            let mut text = Vec::new();
            let page = clap_mangen::Man::new(arguments::command());
            page.render(&mut text).or_failure(FailureKind::Failed)?;
            print(&String::from_utf8_lossy(&text))
        }
        Man::Pages(directory) => pages(&directory),
        Man::Markdown => print(&reference()),
    }
}

fn pages(directory: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let failure = Failure::from_error(FailureKind::Failed, &error);
        let directory = directory.display();
        failure.context(format!("failed to write manual pages: {directory}")).hint(format!("mkdir -p '{directory}'"))
    };
    clap_mangen::generate_to(arguments::command(), directory).map_err(failed)
}

fn print(text: &str) -> Result<(), Failure> {
    summary::print(text).or_failure(FailureKind::Failed).map_err(|failure| failure.context("failed to write to stdout"))
}

/// Returns the reference page.
fn reference() -> String {
    let usage = "ha-sync --src <DIR> --dest <DIR> --pair <NAME> [OPTIONS]\nha-sync <COMMAND>";
    let codes = [
        (ha_cli::exit::ExitCode::Failed, "of `diff`: the sides differ"),
        (ha_cli::exit::ExitCode::LockHeld, "0 with `--skip-if-locked`"),
    ];
    reference::page(&mut arguments::command(), usage, environment::ALL, &codes)
}
