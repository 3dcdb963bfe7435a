//! What is generated from the definition of the flags: completions, manual pages, the reference in `docs/cli`.

use clap::CommandFactory as _;
use clap_complete::Shell;
use ha_cli::environment;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::reference;

use crate::arguments::{Definition, ManArguments};
use crate::print;

/// Prints the completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Definition::command(), "ha-volume", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints or writes a part of the manual.
pub(crate) fn serve(arguments: &ManArguments) -> Result<(), Failure> {
    if let Some(directory) = &arguments.out {
        return clap_mangen::generate_to(Definition::command(), directory).map_err(|error| {
            let directory = directory.display();
            let failure = Failure::from_error(FailureKind::Failed, &error);
            failure
                .context(format!("failed to write manual pages: {directory}"))
                .hint(format!("mkdir -p '{directory}'"))
        });
    }
    if arguments.markdown {
        let common = [environment::NO_COLOR, environment::CLICOLOR_FORCE, environment::TERM, environment::COLUMNS];
        let environment = [environment::BACKUP_STORES, &common].concat();
        return print(&reference::page(&mut Definition::command(), "ha-volume <COMMAND>", &environment, &[]));
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Definition::command()).render(&mut text).or_failure(FailureKind::Failed)?;
    print(&String::from_utf8_lossy(&text))
}
