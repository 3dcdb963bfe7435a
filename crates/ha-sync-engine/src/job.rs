//! What a run is asked to do.

use std::path::PathBuf;

use ha_sync_core::decide::DeleteMissing;
use ha_sync_core::filter::Rule;
use ha_sync_core::limits::{MaxDelete, MinFree};
use ha_sync_core::name::PairName;
use ha_sync_core::path::RelPath;
use ha_sync_core::reconcile::ConflictPolicy;
use ha_sync_core::shard::Shard;
use ha_sync_fs::content::Hashing;

/// Says when written data is made durable (`--fsync`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// One `syncfs` before a run is called successful.
    #[default]
    Batch,
    /// Each file before it gets its name.
    File,
    /// When the kernel sees fit.
    Off,
}

/// Says which sides a job changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The destination.
    OneWay,
    /// Both; what becomes of a path that both sides changed.
    TwoWay(ConflictPolicy),
}

/// Is a job: the flags of the command line, checked.
#[derive(Debug, Clone)]
pub struct Job {
    /// The pair.
    pub pair: PairName,
    /// Which sides it changes.
    pub mode: Mode,
    /// Source root; A's of a two-way job.
    pub source: PathBuf,
    /// Destination root; B's of a two-way job.
    pub destination: PathBuf,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--mtime-threshold`, nanoseconds.
    pub threshold: i128,
    /// `--checksum`.
    pub checksum: bool,
    /// `--shard`: the part of the tree that this run works on; of a one-way job without `--hard-links`.
    pub shard: Option<Shard>,
    /// `--hard-links`.
    pub hard_links: bool,
    /// `--cross-mounts`.
    pub cross_mounts: bool,
    /// `--exclude` and `--include` in order.
    pub rules: Vec<Rule>,
    /// The one path that is meant, with what is below it; all of them when absent.
    pub only: Option<RelPath>,
    /// `--delete-missing`.
    pub delete: DeleteMissing,
    /// `--delete-excluded`.
    pub delete_excluded: bool,
    /// `--max-delete`.
    pub max_delete: MaxDelete,
    /// `--approve`.
    pub approve: Option<String>,
    /// `--allow-empty-root`.
    pub allow_empty_root: bool,
    /// `--allow-missing-mounts`.
    pub allow_missing_mounts: bool,
    /// `--allow-clock-skew`.
    pub allow_clock_skew: bool,
    /// `--require-mount`.
    pub require_mount: bool,
    /// `--check-access`.
    pub check_access: Option<PathBuf>,
    /// `--min-free`.
    pub min_free: MinFree,
    /// Whether replaced and deleted entries are kept (`--keep-replaced` above 0).
    pub keep_replaced: bool,
    /// `--fsync`.
    pub fsync: Fsync,
    /// `--audit-md5`.
    pub hashing: Hashing,
    /// `--workers`.
    pub workers: usize,
    /// `--walkers`; by the kind of file system when absent.
    pub walkers: Option<usize>,
}

impl Job {
    /// Tells whether both sides are kept in step.
    pub fn is_two_way(&self) -> bool {
        matches!(self.mode, Mode::TwoWay(_))
    }

    /// Tells whether the entries of a directory are this run's to work on.
    pub(crate) fn owns(&self, directory: &RelPath) -> bool {
        self.shard.is_none_or(|shard| shard.owns(directory))
    }

    /// Returns what the roots are called: A, B.
    pub(crate) fn sides(&self) -> [&'static str; 2] {
        match self.mode {
            Mode::OneWay => ["source", "destination"],
            Mode::TwoWay(_) => ["A", "B"],
        }
    }
}
