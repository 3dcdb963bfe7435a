//! What is known of one entry of a tree without reading its content.

use serde::{Deserialize, Serialize};

use crate::record::{Identity, Metadata};

/// Is a point in time: nanoseconds since 1970, of whatever sign a file system can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(pub i128);

impl Time {
    /// Is one second.
    pub const SECOND: i128 = 1_000_000_000;

    /// Joins whole seconds and nanoseconds, as `statx` gives them.
    pub fn new(seconds: i64, nanoseconds: u32) -> Self {
        Self(i128::from(seconds) * Self::SECOND + i128::from(nanoseconds))
    }

    /// Returns whole seconds (rounded down) and the nanoseconds above them.
    pub fn parts(self) -> (i64, u32) {
        let seconds = self.0.div_euclid(Self::SECOND);
        (seconds as i64, self.0.rem_euclid(Self::SECOND) as u32)
    }

    /// Rounds down to a multiple of `tick` nanoseconds.
    pub fn floor(self, tick: i128) -> Self {
        if tick <= 1 { self } else { Self(self.0.div_euclid(tick) * tick) }
    }
}

/// Is what an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A symbolic link; never followed.
    Link,
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A socket, FIFO or device: reported, never touched.
    Special,
}

/// Is what `statx` says of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file; of a link the length of its target; of a directory 0.
    pub size: u64,
    /// When the content changed.
    pub mtime: Time,
    /// When the inode changed.
    pub ctime: Time,
    /// Inode number.
    pub inode: u64,
    /// Device number, major in the upper half.
    pub device: u64,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub links: u32,
    /// Allocated bytes; fewer than `size` in a sparse file.
    pub allocated: u64,
    /// Whether another file system is mounted here.
    pub mount_point: bool,
    /// When the inode was made, where the file system says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Time>,
}

impl Entry {
    /// Tells whether `now` is still the version that this one was: type, size, mtime, inode, and ctime where the
    /// link count is 1 (links made beside it change the ctime of the others).
    pub fn same_version(&self, now: &Entry) -> bool {
        self.same_content_version(now) && (self.links != 1 || now.links != 1 || self.ctime == now.ctime)
    }

    /// Tells the same without the ctime, which a rename changes.
    pub fn same_content_version(&self, now: &Entry) -> bool {
        self.kind == now.kind
            && self.inode == now.inode
            && (self.kind == Kind::Directory || (self.size == now.size && self.mtime == now.mtime))
    }

    /// Tells whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Returns what the log keeps to tell this version from another.
    pub fn identity(&self) -> Identity {
        let kind = match self.kind {
            Kind::File => 'f',
            Kind::Directory => 'd',
            Kind::Link => 'l',
            Kind::Special => 's',
        };
        Identity { kind, size: self.size, mtime: self.mtime.0, inode: self.inode, metadata: None }
    }

    /// Returns the same with what setting metadata changes.
    pub fn identity_with_metadata(&self) -> Identity {
        let metadata = Metadata { mode: self.mode, uid: self.uid, gid: self.gid, ctime: self.ctime.0 };
        Identity { metadata: Some(metadata), ..self.identity() }
    }

    /// Returns the size that a record has: absent for directories.
    pub fn recorded_size(&self) -> Option<u64> {
        (self.kind != Kind::Directory).then_some(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_split_and_join() {
        for nanoseconds in [-1, -1_000_000_000, -1_500_000_000, 0, 1, 1_999_999_999] {
            let (seconds, rest) = Time(nanoseconds).parts();
            assert_eq!(Time::new(seconds, rest), Time(nanoseconds));
        }
        assert_eq!(Time(-1).floor(Time::SECOND), Time(-Time::SECOND));
    }
}
