//! What a command line asks for, checked and complete, without a trace of how it was parsed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ha_cli::report::LogFormat;
use ha_cli::summary::OutputFormat;
use ha_cli::value::Amount;
use ha_sync_core::name::{Direction, PairName, RunId};
use ha_sync_core::path::RelPath;
use ha_sync_core::reconcile::ConflictPolicy;
use ha_sync_core::shard::Shard;
use ha_sync_engine::Mode;

/// Is everything that a run needs to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Which sides are changed.
    pub(crate) mode: Mode,
    /// The one path that is meant; absent: all of them.
    pub(crate) only: Option<RelPath>,
    /// Absolute, exists perhaps.
    pub(crate) src: PathBuf,
    /// Absolute, exists perhaps.
    pub(crate) dest: PathBuf,
    /// The pair, which names the lock, the records and the memory; a shard is a pair of its own, `<pair>-<number>`.
    pub(crate) pair: PairName,
    /// The pair that was named.
    pub(crate) whole: PairName,
    /// The part of the tree that the run works on.
    pub(crate) shard: Option<Shard>,
    /// The label of the direction.
    pub(crate) direction: Direction,
    /// Where logs go and what the database is.
    pub(crate) records: Records,
    /// Days for which set-aside logs are kept.
    pub(crate) log_retain_days: u32,
    /// How files are compared.
    pub(crate) compare: Compare,
    /// In the order of the command line: the first rule that matches wins.
    pub(crate) filters: Vec<FilterRule>,
    /// What is deleted.
    pub(crate) delete: Delete,
    /// Whether excluded entries are deleted too.
    pub(crate) delete_excluded: bool,
    /// What halts the run.
    pub(crate) safety: Safety,
    /// Days for which replaced and deleted files stay in the trash; 0 keeps none.
    pub(crate) keep_replaced_days: u32,
    /// When written data is made durable.
    pub(crate) fsync: Fsync,
    /// When MD5 sums are recorded.
    pub audit_md5: AuditMd5,
    /// How the pair is locked.
    pub(crate) lock: Lock,
    /// Threads that list directories; absent: by the kind of the file systems.
    pub(crate) walkers: Option<usize>,
    /// Threads that copy.
    pub(crate) workers: usize,
    /// Whether nothing is changed.
    pub(crate) dry_run: bool,
    /// How the run is told.
    pub(crate) output: Output,
}

/// Says what becomes of a path that both sides changed differently (`--conflict`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Conflict {
    /// The newer version wins, the other goes to the trash.
    Newest,
    /// The newer version wins, the other is kept beside it under another name, on both sides.
    KeepBoth,
    /// A's version wins.
    PreferA,
    /// B's version wins.
    PreferB,
    /// Both stay as they are, and the run exits with 3.
    Skip,
}

impl From<Conflict> for ConflictPolicy {
    fn from(conflict: Conflict) -> Self {
        match conflict {
            Conflict::Newest => Self::Newest,
            Conflict::KeepBoth => Self::KeepBoth,
            Conflict::PreferA => Self::PreferA,
            Conflict::PreferB => Self::PreferB,
            Conflict::Skip => Self::Skip,
        }
    }
}

/// Says where a run's records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Records {
    /// Absolute.
    pub(crate) log_dir: PathBuf,
    /// Whether `--log-dir` was given; only the default gives way to the state directory when it cannot be written.
    pub(crate) log_dir_given: bool,
    /// The database; absent: SQLite in the log directory.
    pub(crate) db_dsn: Option<Secret>,
}

/// Says how files are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compare {
    /// Times that differ by no more count as close.
    pub(crate) mtime_threshold: Duration,
    /// Whether files with equal size and time are compared by content.
    pub(crate) checksum: bool,
    /// Whether hard links are kept.
    pub(crate) hard_links: bool,
    /// Whether other file systems below the roots are entered.
    pub(crate) cross_mounts: bool,
}

/// Is a rule of `--exclude` or `--include`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilterRule {
    /// Whether what matches is left out.
    pub(crate) exclude: bool,
    /// A valid glob; a leading slash anchors it, a trailing one means directories.
    pub(crate) glob: String,
}

/// Says what is deleted at the destination (`--delete-missing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delete {
    /// Nothing.
    Off,
    /// What the source does not have, except what is new at a destination that is also a source.
    On,
    /// What the source does not have.
    Strict,
}

/// Says what halts a run (sync.md §4) and what was allowed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Safety {
    /// The most deletions; absent: 25 % once more than 20.
    pub(crate) max_delete: Option<Amount>,
    /// The id of a set of operations that a person looked at.
    pub(crate) approve: Option<String>,
    /// Whether a root may have become empty.
    pub(crate) allow_empty_root: bool,
    /// Whether what was a mount point may be none.
    pub(crate) allow_missing_mounts: bool,
    /// Whether clocks may disagree.
    pub(crate) allow_clock_skew: bool,
    /// Whether roots must be mount points.
    pub(crate) require_mount: bool,
    /// A file that must be on both sides, relative to the roots.
    pub(crate) check_access: Option<PathBuf>,
    /// The space that a copy must leave; absent: 1 GiB or 1 %, the smaller.
    pub(crate) min_free: Option<Amount>,
}

/// Says when written data is made durable (`--fsync`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fsync {
    /// Once per side, before the run is called successful.
    Batch,
    /// Every file before it takes its name.
    File,
    /// Never.
    Off,
}

/// Says when MD5 sums are recorded (`--audit-md5`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AuditMd5 {
    /// For files that are read anyway.
    Auto,
    /// For every file that is copied.
    Always,
    /// Only where they decide.
    Never,
}

/// Says how the pair is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    /// By what.
    pub(crate) kind: LockKind,
    /// How long a lock of another is waited for; zero: not at all.
    pub(crate) wait: Duration,
    /// After how long without renewal a Lease is stale; at least a second.
    pub(crate) ttl: Duration,
    /// Whether a lock of another is a success (exit code 0).
    pub(crate) skip_if_locked: bool,
    /// The kubeconfig; absent: the pod's service account, `KUBECONFIG` or that of the home directory.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it; absent: the current one.
    pub(crate) kube_context: Option<String>,
    /// The namespace of the Lease; absent: the pod's or the context's.
    pub(crate) namespace: Option<String>,
}

/// Says by what a pair is locked (`--lock`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LockKind {
    /// A Lease in a cluster, else a file.
    Auto,
    /// A Kubernetes Lease, good among all nodes.
    Lease,
    /// A file, good among the processes of this host.
    File,
    /// Nothing.
    None,
}

/// Says how a command answers and tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    /// The form of stdout.
    pub(crate) format: OutputFormat,
    /// The form of the lines on stderr; absent: a bar on a terminal, else text.
    pub(crate) log_format: Option<LogFormat>,
    /// Whether skips and their reasons are told.
    pub(crate) verbose: bool,
    /// Whether only warnings and failures are told.
    pub(crate) quiet: bool,
}

/// Is what `ha-sync restore` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestoreSettings {
    /// Absolute; the folder with the trash.
    pub(crate) root: PathBuf,
    /// Paths relative to the root; none: all.
    pub(crate) paths: Vec<PathBuf>,
    /// The run in whose trash they are; absent: for each path the newest run that has it.
    pub(crate) run: Option<RunId>,
    /// Whether the trash is only listed.
    pub(crate) list: bool,
    /// Whether what is there now may be replaced (it goes to the trash).
    pub(crate) force: bool,
    /// Whether nothing is changed.
    pub(crate) dry_run: bool,
    /// How it answers.
    pub(crate) output: Output,
}

/// Is what `ha-sync prune` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PruneSettings {
    /// Where logs and database are.
    pub(crate) records: Records,
    /// Rows of older runs go; absent: none.
    pub(crate) db_older_than: Option<Duration>,
    /// Older set-aside logs go; absent: none.
    pub(crate) logs_older_than: Option<Duration>,
    /// Absolute; the roots whose trash is pruned.
    pub(crate) trash: Vec<PathBuf>,
    /// Older runs go from the trash.
    pub(crate) trash_older_than: Duration,
    /// Whether nothing is changed.
    pub(crate) dry_run: bool,
    /// How it answers.
    pub(crate) output: Output,
}

/// Says which pair a command looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PairSettings {
    /// The pair.
    pub(crate) pair: PairName,
    /// Where its state is.
    pub(crate) records: Records,
    /// How it answers.
    pub(crate) output: Output,
}

/// Is what `ha-sync conflicts` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConflictsSettings {
    /// The pair.
    pub(crate) pair: PairSettings,
    /// The decision of one; absent: all are listed.
    pub(crate) resolve: Option<Resolution>,
}

/// Is the decision of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// Relative to the roots.
    pub(crate) path: PathBuf,
    /// Which version is kept.
    pub(crate) keep: Keep,
    /// Absolute: A, B; absent: those of the run that found it.
    pub(crate) roots: Option<(PathBuf, PathBuf)>,
    /// Whether nothing is changed.
    pub(crate) dry_run: bool,
    /// How the pair is locked.
    pub(crate) lock: Lock,
}

/// Says which version of a conflict is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Keep {
    /// A's.
    A,
    /// B's.
    B,
    /// Both; the newer one under the name.
    Both,
}

/// Is what `ha-sync status` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusSettings {
    /// The pair.
    pub(crate) pair: PairSettings,
    /// How many runs are told.
    pub(crate) runs: u32,
}

/// Is what `ha-sync diff` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DiffSettings {
    /// Absolute; one root.
    pub(crate) a: PathBuf,
    /// Absolute; the other.
    pub(crate) b: PathBuf,
    /// How files are compared; hard links are not.
    pub(crate) compare: Compare,
    /// Whether times and metadata are left out.
    pub(crate) content_only: bool,
    /// In the order of the command line: the first rule that matches wins.
    pub(crate) filters: Vec<FilterRule>,
    /// Threads; absent: by the kind of the file systems.
    pub(crate) walkers: Option<usize>,
    /// How it answers.
    pub(crate) output: Output,
}

/// Is what `ha-sync baseline` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaselineSettings {
    /// The pair.
    pub(crate) pair: PairSettings,
    /// What is to be done.
    pub(crate) work: BaselineWork,
}

/// Says what is to be done with a baseline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BaselineWork {
    /// Shown; what is at a path relative to the roots is listed.
    Show(Option<PathBuf>),
    /// Checked.
    Verify,
    /// Removed, under the pair's lock.
    Forget(Lock),
}

/// Is what `ha-sync manifests` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestsSettings {
    /// The inventory.
    pub(crate) inventory: PathBuf,
    /// The folder of the deployment.
    pub(crate) out: PathBuf,
    /// Whether it is only looked at.
    pub(crate) check: bool,
}

/// Is a text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Takes the text.
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text, for the one who needs it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}
