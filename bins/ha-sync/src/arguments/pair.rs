//! The flags of the commands that look at a pair, or at two roots.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueHint};
use ha_cli::value::{self, ValueError};
use ha_sync_core::name::PairName;

use super::definition::{
    COMPARE, LogArguments, OutputArguments, RecordsArguments, SPEED, WhichLockArguments, absolute_path,
};
use crate::settings::Keep;

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

/// Tell how a pair stands: last runs, open conflicts, trash, and whether its sides are known to be equal
///
/// Looks into the records and the state of the pair, not at the files: to compare those there is 'ha-sync diff'.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Name of the folder pair
    #[arg(long, value_name = "NAME", value_parser = value::parsed::<PairName>)]
    pub(crate) pair: PairName,
    /// How many runs are told, the last ones first
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub(crate) runs: u32,
    #[command(flatten)]
    pub(crate) records: RecordsArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// List the conflicts of a pair that nobody has decided, or decide one
///
/// A two-way run with '--conflict skip' leaves what both sides changed as it is, and notes it here with both versions'
/// facts. It is noted no more when a run finds it decided.
#[derive(Debug, Args)]
#[command(
    disable_help_subcommand = true,
    subcommand_help_heading = "Commands",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_long_help = "\
Examples:
  What is open:
    ha-sync conflicts --pair media
  Take the version of the first root, and keep both:
    ha-sync conflicts resolve --pair media photos/cat.jpg --keep a
    ha-sync conflicts resolve --pair media photos/dog.jpg --keep both"
)]
pub(crate) struct ConflictsArguments {
    #[command(subcommand)]
    pub(crate) command: Option<ConflictsCommand>,
    /// Name of the folder pair
    #[arg(long, value_name = "NAME", required = true, value_parser = value::parsed::<PairName>)]
    pub(crate) pair: Option<PairName>,
    #[command(flatten)]
    pub(crate) log: LogArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConflictsCommand {
    Resolve(ResolveArguments),
}

/// Decide a conflict: bring the version that is meant to the other side
///
/// A run of the pair that means this path alone, with everything that belongs to a run: lock, halts, log, records. The
/// version that loses goes to the trash, or with 'both' stays beside the other as a conflict copy on both sides.
/// Refused when either version is no longer the one that is listed.
#[derive(Debug, Args)]
pub(crate) struct ResolveArguments {
    /// The path, as it is listed
    #[arg(value_name = "PATH", value_hint = ValueHint::Other,
        value_parser = OsStringValueParser::new().try_map(|text| value::path_below(&text)))]
    pub(crate) path: PathBuf,
    /// Which version is kept
    #[arg(long, value_name = "WHICH")]
    pub(crate) keep: Keep,
    /// Name of the folder pair
    #[arg(long, value_name = "NAME", value_parser = value::parsed::<PairName>)]
    pub(crate) pair: PairName,
    /// Root A, an absolute path [default: as in the records of the run that found the conflict]
    #[arg(long, value_name = "DIR", requires = "b", value_hint = ValueHint::DirPath, value_parser = absolute_path())]
    pub(crate) a: Option<PathBuf>,
    /// Root B, an absolute path
    #[arg(long, value_name = "DIR", requires = "a", value_hint = ValueHint::DirPath, value_parser = absolute_path())]
    pub(crate) b: Option<PathBuf>,
    /// Print what would be done, change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) lock: WhichLockArguments,
    #[command(flatten)]
    pub(crate) records: RecordsArguments,
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
    #[command(flatten)]
    pub(crate) lock: WhichLockArguments,
}

/// Tell in what two directories differ, and change nothing
///
/// Compares type, size, content, target, time, mode, owner and attributes, as a run does: files whose size and time are
/// equal are not read without --checksum, and times within --mtime-threshold are equal. Exits with 0 when both sides
/// are the same, with 1 when they differ, with 3 when some of it could not be read and the rest is the same.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  Did everything arrive?
    ha-sync diff /mnt/dell/media /mnt/hp/media
  Is every byte the same, whatever the times and owners are?
    ha-sync diff /mnt/dell/media /mnt/hp/media --content-only")]
pub(crate) struct DiffArguments {
    /// One directory, an absolute path
    #[arg(value_name = "A", value_hint = ValueHint::DirPath, value_parser = absolute_path())]
    pub(crate) a: PathBuf,
    /// The other directory, an absolute path
    #[arg(value_name = "B", value_hint = ValueHint::DirPath, value_parser = absolute_path())]
    pub(crate) b: PathBuf,
    /// Enter other file systems mounted below the roots
    #[arg(long)]
    pub(crate) cross_mounts: bool,

    /// Time difference up to which two entries count as equally old
    #[arg(long, value_name = "SECONDS", default_value = "2", help_heading = COMPARE, value_parser = value::seconds)]
    pub(crate) mtime_threshold: Duration,
    /// Read every file, also where size and time are equal
    #[arg(long, help_heading = COMPARE)]
    pub(crate) checksum: bool,
    /// Read every file, and leave out time, mode, owner and attributes
    #[arg(long, help_heading = COMPARE)]
    pub(crate) content_only: bool,
    /// Leave out what matches; repeatable, the first rule that matches wins
    #[arg(long, value_name = "GLOB", help_heading = COMPARE, value_parser = value::glob, allow_hyphen_values = true)]
    pub(crate) exclude: Vec<String>,
    /// Keep what matches although a later rule leaves it out; repeatable
    #[arg(long, value_name = "GLOB", help_heading = COMPARE, value_parser = value::glob, allow_hyphen_values = true)]
    pub(crate) include: Vec<String>,

    /// Threads that list and compare [default: the cores; 32 on NFS, CIFS and FUSE]
    #[arg(long, value_name = "N", help_heading = SPEED, value_parser = value::threads)]
    pub(crate) walkers: Option<usize>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
