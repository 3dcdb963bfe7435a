//! A plan as a value: what will be done, to what, and what was seen when it was decided. Execution checks what was
//! seen and decides nothing.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::baseline::Side;
use crate::entry::{Entry, Kind, Time};
use crate::path::{RelPath, escape, unescape};
use crate::reason::Reason;
use crate::reconcile::Merge;
use crate::record::OperationKind;

/// Is from which side to which an operation goes. Within one side only conflict copies are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it reads.
    pub from: Side,
    /// What it changes.
    pub to: Side,
}

impl Route {
    /// Is the way of a one-way job: A is its source.
    pub const FORWARD: Self = Self { from: Side::A, to: Side::B };

    /// Goes to a side from the other.
    pub fn to(side: Side) -> Self {
        Self { from: side.other(), to: side }
    }
}

/// Is what is done to one name of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Makes what the source has where nothing is.
    Create,
    /// Puts what the source has in place of the destination's; the loser goes to the trash.
    Replace,
    /// Sets times, mode, owner and attributes.
    Metadata,
    /// Makes the name a hard link to another path of the destination.
    Link(#[serde(with = "path_text")] RelPath),
    /// Makes what the source has under this other name.
    Keep(#[serde(with = "name_text")] Vec<u8>),
    /// Moves what is at another path of the destination here, instead of a create and a delete.
    Rename {
        /// Where it is.
        #[serde(with = "path_text")]
        from: RelPath,
        /// The number of the operation that would have deleted it there.
        seq: u64,
    },
    /// Moves a file or link to the trash.
    Delete,
    /// Removes an empty directory.
    RemoveDirectory,
    /// Does nothing: the entry could not be handled, and the run says so.
    Fail(String),
}

/// Is what a side had at a path when both sides agreed, and has there no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vanished {
    /// Inode number.
    pub inode: u64,
    /// When the content had changed.
    pub mtime: Time,
    /// When the inode had changed.
    pub ctime: Time,
    /// MD5 of the content or target, when it is known.
    pub content: Option<[u8; 16]>,
}

/// Is one planned operation on a name of its batch's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Its number in the run, from 1.
    pub seq: u64,
    /// The name.
    #[serde(with = "name_text")]
    pub name: Vec<u8>,
    /// What is done.
    pub action: Action,
    /// What the scan saw at the source.
    pub source: Option<Entry>,
    /// What the scan saw at the destination; of a rename, at the path that it comes from.
    pub destination: Option<Entry>,
    /// What the side that deleted it last had, of a deletion in a two-way run: it may have been moved there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vanished: Option<Vanished>,
    /// Hash of what the scan saw below the destination's directory, of one that is replaced whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<u64>,
    /// Whose metadata hold on both sides, where they are not all the source's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<Merge>,
    /// Why, when it is not plain.
    pub reason: Option<Reason>,
    /// MD5 of the source, when it was computed to decide.
    pub source_md5: Option<[u8; 16]>,
    /// MD5 of the destination, likewise.
    pub destination_md5: Option<[u8; 16]>,
}

impl Planned {
    /// Returns the word of the schema.
    pub fn kind(&self) -> OperationKind {
        match self.action {
            Action::Create | Action::Keep(_) | Action::Rename { .. } => OperationKind::Create,
            Action::Delete | Action::RemoveDirectory => OperationKind::Delete,
            Action::Link(_) | Action::Fail(_) if self.destination.is_none() => OperationKind::Create,
            Action::Replace | Action::Metadata | Action::Link(_) | Action::Fail(_) => OperationKind::Update,
        }
    }

    /// Returns the data bytes that it copies.
    pub fn bytes(&self) -> u64 {
        match (&self.action, &self.source) {
            (Action::Create | Action::Replace | Action::Keep(_), Some(source)) if source.kind == Kind::File => {
                source.size
            }
            _ => 0,
        }
    }

    /// Tells whether it makes a directory, which must be there before anything below it is handled.
    pub fn makes_directory(&self) -> bool {
        matches!(self.action, Action::Create | Action::Replace) && self.source.as_ref().is_some_and(Entry::is_directory)
    }

    /// Returns its name at the source.
    pub fn source_name(&self) -> &[u8] {
        match &self.action {
            Action::Keep(name) => name,
            _ => &self.name,
        }
    }

    /// Returns the size that a record gives as the one before.
    pub fn size_before(&self) -> Option<u64> {
        let seen = self.destination.as_ref().filter(|_| self.kind() != OperationKind::Create);
        seen.and_then(Entry::recorded_size)
    }
}

/// Is some operations in one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// From where to where.
    pub route: Route,
    /// The directory.
    #[serde(with = "path_text")]
    pub directory: RelPath,
    /// The mtime that the destination's directory has when all is done.
    pub mtime: Option<Time>,
    /// What is done in it.
    pub operations: Vec<Planned>,
}

mod path_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(path: &RelPath, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&path.escaped())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RelPath, D::Error> {
        let text = String::deserialize(deserializer)?;
        unescape(&text)
            .and_then(RelPath::from_bytes)
            .ok_or_else(|| serde::de::Error::custom("not an escaped relative path"))
    }
}

mod name_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(name: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(name))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        unescape(&text).ok_or_else(|| serde::de::Error::custom("not an escaped name"))
    }
}
