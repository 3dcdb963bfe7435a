//! The flags of the commands that look at a pair.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueHint};
use ha_cli::value::{self, ValueError};
use ha_sync_core::name::PairName;

use super::definition::{LogArguments, OutputArguments};

/// Which pair, and where its state is.
#[derive(Debug, Args)]
pub(crate) struct PairArguments {
    /// Name of the folder pair
    #[arg(long, value_name = "NAME", value_parser = value::parsed::<PairName>)]
    pub(crate) pair: PairName,
    #[command(flatten)]
    pub(crate) log: LogArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Show, check or forget what both sides of a pair last agreed on
///
/// The baseline of a pair is what tells a file that was deleted here from one that is new there. Runs keep it; none
/// of these commands is needed for that.
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true, subcommand_help_heading = "Commands")]
pub(crate) struct BaselineArguments {
    #[command(subcommand)]
    pub(crate) command: BaselineCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BaselineCommand {
    Show(ShowArguments),
    Verify(VerifyArguments),
    Forget(ForgetArguments),
}

/// Tell which run wrote the baseline, and list what it has at a path
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  Which run wrote it, for which roots, and how much is in it:
    ha-sync baseline show --pair media
  Everything below a folder, and everything:
    ha-sync baseline show --pair media photos/2026
    ha-sync baseline show --pair media .")]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    pub(crate) pair: PairArguments,
    /// List what is agreed at and below this path, relative to the roots; '.' lists everything
    #[arg(value_name = "PATH", value_hint = ValueHint::Other,
        value_parser = OsStringValueParser::new().try_map(|text| path_or_root(&text)))]
    pub(crate) path: Option<PathBuf>,
}

fn path_or_root(text: &OsStr) -> Result<PathBuf, ValueError> {
    if text == "." { Ok(PathBuf::from(text)) } else { value::path_below(text) }
}

/// Read the whole baseline and check it; exit with 1 when it is damaged
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    pub(crate) pair: PairArguments,
}

/// Remove the baseline, as if the pair had never run
///
/// The next run then is a union: nothing is deleted, files that differ are decided like conflicts, and what was
/// deleted on one side since the last run comes back from the other.
#[derive(Debug, Args)]
pub(crate) struct ForgetArguments {
    #[command(flatten)]
    pub(crate) pair: PairArguments,
}
