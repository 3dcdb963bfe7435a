//! Why something was done, or not.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Is a reason of `spec`: part of a plan, a record or a skip. Its words are a contract with the audit store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The times differ, the content does not.
    SameContent,
    /// The destination's version is newer.
    DestinationNewer,
    /// Too close in time: the greater of (mtime, size, MD5) won.
    Tie,
    /// One side has a directory where the other has none.
    TypeConflict,
    /// A time lies ahead of the clock.
    FutureTime,
    /// It may be new at the destination: it belongs to the other direction.
    NewAtDestination,
    /// A socket, FIFO or device.
    Special,
    /// Another file system is mounted there.
    MountPoint,
    /// It was a mount point when the pair last agreed and is none now.
    MissingMount,
    /// It went away between listing and looking.
    Vanished,
    /// The directory holds something that stays: special, excluded, on another file system or unreadable.
    HoldsKept,
    /// The directory holds something that other shards have to delete first.
    OtherShard,
    /// Something in the directory could not be read, so nothing in it is deleted.
    DeletesWithheld,
    /// An NFS client keeps it while it is open.
    NfsPlaceholder,
    /// A temporary entry of a run that is or may be going on, or one that could not be removed.
    Temporary,
    /// Changed on one side and deleted on the other: it is restored there.
    KeptChanged,
    /// Changed differently on both sides.
    Conflict,
    /// The content is not what was agreed, and neither the times nor the inode say that anybody wrote it.
    SilentChange,
}

impl Reason {
    /// Returns the words of the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameContent => "same content",
            Self::DestinationNewer => "destination newer",
            Self::Tie => "tie",
            Self::TypeConflict => "type conflict",
            Self::FutureTime => "future time",
            Self::NewAtDestination => "new at destination",
            Self::Special => "special file",
            Self::MountPoint => "other file system",
            Self::MissingMount => "mount missing",
            Self::Vanished => "vanished during the scan",
            Self::HoldsKept => "holds entries that stay",
            Self::OtherShard => "holds entries of other shards",
            Self::DeletesWithheld => "delete withheld: directory not fully read",
            Self::NfsPlaceholder => "nfs placeholder",
            Self::Temporary => "temporary entry of another run",
            Self::KeptChanged => "kept: changed on one side, deleted on the other",
            Self::Conflict => "changed on both sides",
            Self::SilentChange => "content changed without a trace",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
