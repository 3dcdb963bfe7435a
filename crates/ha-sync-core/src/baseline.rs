//! What both sides of a pair last agreed on, path by path (sync.md §3).

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Kind, Time};

/// Is one of the two roots of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// `--a`; the source of a one-way job.
    A,
    /// `--b`; the destination of a one-way job.
    B,
}

impl Side {
    /// Is both sides in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// Returns the opposite side.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Returns `a` or `b`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// Is what one side's entry looked like when both sides agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When the content had changed.
    pub mtime: Time,
    /// When the inode had changed.
    pub ctime: Time,
    /// Inode number.
    pub inode: u64,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// XXH3 of the synchronised attributes, when they were read.
    pub attributes: Option<u64>,
}

impl Facts {
    /// Takes the facts of an entry.
    pub fn of(entry: &Entry, attributes: Option<u64>) -> Self {
        Self {
            mtime: entry.mtime,
            ctime: entry.ctime,
            inode: entry.inode,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            attributes,
        }
    }

    /// Tells whether nothing says that the entry's content was touched since: mtime, inode and ctime. Types and sizes
    /// are not compared. (A link made beside it changes the ctime, too: then the content is read, nothing worse.)
    pub fn untouched(&self, now: &Entry) -> bool {
        self.mtime == now.mtime && self.inode == now.inode && self.ctime == now.ctime
    }

    /// Tells whether taking the facts of `now` again would change nothing; its attributes change with its ctime.
    pub fn current(&self, now: &Entry) -> bool {
        *self == Self::of(now, self.attributes)
    }
}

/// Is one path on which both sides agreed: the type, the size and the content are the same on both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// What it was; never special.
    pub kind: Kind,
    /// Bytes of a file; of a link the length of its target; of a directory 0.
    pub size: u64,
    /// MD5 of a file, when it was computed; of a link's target, always.
    pub content: Option<[u8; 16]>,
    /// How it was at A.
    pub a: Facts,
    /// How it was at B.
    pub b: Facts,
}

impl Agreed {
    /// Agrees on two entries of the same type, size and content.
    pub fn new(a: &Entry, b: &Entry, content: Option<[u8; 16]>) -> Self {
        let size = if a.kind == Kind::Directory { 0 } else { a.size };
        Self { kind: a.kind, size, content, a: Facts::of(a, None), b: Facts::of(b, None) }
    }

    /// Says which attributes both sides had, as [`fingerprint`] names them; nothing when they were not read.
    #[must_use]
    pub fn with_attributes(mut self, attributes: Option<u64>) -> Self {
        (self.a.attributes, self.b.attributes) = (attributes, attributes);
        self
    }

    /// Returns the facts of a side.
    pub fn facts(&self, side: Side) -> &Facts {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Returns the same with the sides exchanged.
    pub fn swapped(self) -> Self {
        Self { a: self.b, b: self.a, ..self }
    }

    /// Tells whether nothing says that a side's entry is another one than was agreed: type, size, and
    /// [`Facts::untouched`]. What is below a directory is not meant.
    pub fn untouched(&self, side: Side, now: &Entry) -> bool {
        self.kind == now.kind
            && (self.kind == Kind::Directory || (self.size == now.size && self.facts(side).untouched(now)))
    }
}

/// Returns what [`Facts::attributes`] keeps of attributes sorted by name: never the same for attributes that differ,
/// but for chance.
pub fn fingerprint(attributes: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for (name, value) in attributes {
        for part in [name, value] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.digest()
}
