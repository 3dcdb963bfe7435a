//! What is written down about a run: the iteration, its operations, its outcome. These are the lines of an opslog
//! and the rows of the audit store (sync.md §6; the columns of the plan's schema).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{Direction, PairName, RunId};

/// Is how a run stands or ended (column `sync_iterations.status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It has begun and not ended.
    Running,
    /// Every operation was done, or there was nothing to do.
    Success,
    /// Some operation failed, the rest was done.
    PartialFailure,
    /// Halted, interrupted, stopped, or the roots could not be scanned.
    Failed,
}

impl Status {
    /// Returns the word of the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::PartialFailure => "partial_failure",
            Self::Failed => "failed",
        }
    }
}

/// Is what an operation does at the destination (column `sync_operations.operation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// The path was absent.
    Create,
    /// The path was there and gets other content, another target or other metadata.
    Update,
    /// The path goes.
    Delete,
}

impl OperationKind {
    /// Returns the word of the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Is which way an operation of a two-way run goes (column `sync_operations.direction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Way {
    /// It changes B.
    #[serde(rename = "a-to-b")]
    AToB,
    /// It changes A.
    #[serde(rename = "b-to-a")]
    BToA,
}

impl Way {
    /// Returns the word of the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AToB => "a-to-b",
            Self::BToA => "b-to-a",
        }
    }
}

/// Is how an operation ended (column `sync_operations.status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationStatus {
    /// It was done (in a dry run: it would be).
    Success,
    /// It was not done; nothing at its path was changed.
    Fail,
}

/// Is the beginning of a run: the header line of an opslog, the first columns of `sync_iterations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iteration {
    /// Identifies the run.
    pub run_id: RunId,
    /// The pair.
    pub sync_pair: PairName,
    /// The label of the direction.
    pub direction: Direction,
    /// The source root, written as [`crate::path::escape`] does.
    pub src: String,
    /// The destination root, likewise.
    pub dest: String,
    /// UTC, milliseconds.
    pub started_at: Timestamp,
    /// Whether nothing is copied or deleted.
    pub dry_run: bool,
    /// The fencing value of the Lease that the run holds: how often the Lease changed hands (`leaseTransitions`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_transitions: Option<i64>,
}

/// Is one operation: a line of an opslog, a row of `sync_operations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Counts the operations of a run from 1; unique in it.
    pub seq: u64,
    /// What it does.
    pub operation: OperationKind,
    /// Which way it goes, in a two-way run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Way>,
    /// Relative path without a trailing slash, written as [`crate::path::escape`] does.
    pub filepath: String,
    /// Bytes at the destination before; absent for creates and directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// Bytes at the destination after; absent for deletes and directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_after: Option<u64>,
    /// Data bytes that it wrote: none for a link, another name of a file, or metadata. No column of the database; an
    /// interrupted run's bytes are added up from these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// 32 hex digits, when it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5_before: Option<String>,
    /// 32 hex digits, when it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5_after: Option<String>,
    /// UTC, milliseconds.
    pub started_at: Timestamp,
    /// UTC, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub status: OperationStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Why it was decided, when that is not plain from the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Counts the operations and skips of a run. `files_*` equal the rows of the run by operation and status;
/// directories are operations too (sync.md §11).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Creates that succeeded.
    pub files_created: u64,
    /// Updates that succeeded.
    pub files_updated: u64,
    /// Deletes that succeeded.
    pub files_deleted: u64,
    /// Non-directories that were equal or skipped for a reason.
    pub files_skipped: u64,
    /// Operations that failed.
    pub files_failed: u64,
    /// Data bytes written.
    pub total_bytes_transferred: u64,
    /// Skips per reason; equal files are in none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skip_reasons: BTreeMap<String, u64>,
}

/// Is the end of a run: the trailer line of an opslog, the last columns of `sync_iterations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// UTC, milliseconds.
    pub ended_at: Timestamp,
    /// How the run ended; never `Running`.
    pub status: Status,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// What stopped the run, or the first failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

/// Says what an operation is about to do, written before it commits, so that the run after a crash can tell whether
/// it did: the destination then is what `after` says, or still what `before` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The operation's number; its temporary file is `.ha-sync.<run id>.<seq>.tmp` in the same directory.
    pub seq: u64,
    /// What it does.
    pub operation: OperationKind,
    /// As in [`Operation`]: at which root it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Way>,
    /// As in [`Operation`].
    pub filepath: String,
    /// What is at the destination now; absent for a create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Identity>,
    /// What will be there (its inode is not known yet and 0); absent for a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Identity>,
}

/// Is what tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `f`ile, `d`irectory or `l`ink.
    pub kind: char,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime: i128,
    /// Inode number; 0 when not known.
    pub inode: u64,
    /// What else tells before from after, where only metadata are set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

/// Is what setting metadata changes while the inode stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the inode changed, nanoseconds since 1970.
    pub ctime: i128,
}

/// Adds up the set of operations of a dry run without keeping it: equal sets of (path, operation, size_before) have
/// equal fingerprints, whatever their order (sync.md §8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fingerprint {
    sum: u128,
    count: u64,
}

impl Fingerprint {
    /// Adds one operation; in a two-way run the way it goes is a part of it.
    pub fn add(&mut self, direction: Option<Way>, filepath: &str, operation: OperationKind, size_before: Option<u64>) {
        self.sum = self.sum.wrapping_add(Self::hash(direction, filepath, operation, size_before));
        self.count += 1;
    }

    /// Takes out one that was added.
    pub fn remove(
        &mut self,
        direction: Option<Way>,
        filepath: &str,
        operation: OperationKind,
        size_before: Option<u64>,
    ) {
        self.sum = self.sum.wrapping_sub(Self::hash(direction, filepath, operation, size_before));
        self.count -= 1;
    }

    fn hash(direction: Option<Way>, filepath: &str, operation: OperationKind, size_before: Option<u64>) -> u128 {
        let mut bytes = Vec::with_capacity(filepath.len() + 40);
        bytes.extend_from_slice(direction.map_or("", Way::as_str).as_bytes());
        bytes.extend_from_slice(operation.as_str().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&size_before.map_or(u64::MAX, |size| size).to_le_bytes());
        bytes.extend_from_slice(filepath.as_bytes());
        xxhash_rust::xxh3::xxh3_128(&bytes)
    }

    /// Adds what another fingerprint holds.
    pub fn merge(&mut self, other: Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.count += other.count;
    }

    /// Returns 32 hex digits that name the set.
    pub fn id(&self) -> String {
        format!("{:032x}", self.sum ^ (u128::from(self.count) << 64))
    }
}

/// Keeps what a run does, ahead of its acknowledgement (sync.md §6). Called from many threads.
pub trait OperationLog: Sync {
    /// Writes what is about to be done.
    fn intend(&self, intents: &[Intent]) -> Result<(), LogError>;
    /// Writes what was done, or failed.
    fn append(&self, operations: &[Operation]) -> Result<(), LogError>;
}

/// Says that the log could not be written; the run must stop then.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the operation log")]
pub struct LogError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
