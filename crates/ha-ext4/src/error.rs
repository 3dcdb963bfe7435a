//! Why something cannot be read, and what of the file system it is.

use std::fmt;

/// Is a part of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The superblock.
    Superblock,
    /// The descriptor of a block group.
    Group(u32),
    /// An inode.
    Inode(u32),
    /// A block with extents.
    Extents {
        /// The inode whose they are.
        inode: u32,
        /// The block of the file system.
        block: u64,
    },
    /// A block with block numbers.
    BlockMap {
        /// The inode whose they are.
        inode: u32,
        /// The block of the file system.
        block: u64,
    },
    /// A block of a directory.
    Directory {
        /// The inode of the directory.
        inode: u32,
        /// The block, counted from the beginning of the directory.
        block: u64,
    },
    /// A block with extended attributes.
    Attributes {
        /// The inode whose they are.
        inode: u32,
        /// The block of the file system.
        block: u64,
    },
    /// The content of a file.
    Content {
        /// The inode of the file.
        inode: u32,
        /// Bytes from the beginning of the file.
        position: u64,
    },
    /// A block of the journal, counted from its beginning.
    Journal(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => formatter.write_str("superblock"),
            Self::Group(group) => write!(formatter, "descriptor of group {group}"),
            Self::Inode(inode) => write!(formatter, "inode {inode}"),
            Self::Extents { inode, block } => write!(formatter, "extents of inode {inode} in block {block}"),
            Self::BlockMap { inode, block } => write!(formatter, "block map of inode {inode} in block {block}"),
            Self::Directory { inode, block } => write!(formatter, "block {block} of the directory with inode {inode}"),
            Self::Attributes { inode, block } => {
                write!(formatter, "extended attributes of inode {inode} in block {block}")
            }
            Self::Content { inode, position } => write!(formatter, "content of inode {inode} at {position}"),
            Self::Journal(block) => write!(formatter, "block {block} of the journal"),
        }
    }
}

/// Is why something cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no superblock, nor a copy of it.
    #[error("no superblock of ext2, ext3 or ext4")]
    NoSuperblock,
    /// The file system has something that this reader does not know.
    #[error("the file system uses what is not read here: {0}")]
    Declined(String),
    /// A part is not as it must be.
    #[error("{place}: {what}")]
    Damaged {
        /// What it is.
        place: Place,
        /// What is wrong with it.
        what: String,
    },
    /// The image cannot be read.
    #[error("{place}: failed to read the image at byte {offset}")]
    Unreadable {
        /// What was to be read.
        place: Place,
        /// Where in the image.
        offset: u64,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync + 'static>,
    },
    /// The content, or the names of a directory, are encrypted by the file system itself (fscrypt).
    #[error("inode {0} is encrypted by the file system, and the key is not in the image")]
    Encrypted(u32),
    /// Nothing is at the path.
    #[error("file not found")]
    NotFound,
    /// A directory of the path is not one.
    #[error("not a directory: inode {0}")]
    NotDirectory(u32),
    /// The path leads through links without end.
    #[error("too many symbolic links")]
    TooManyLinks,
    /// Only regular files have content.
    #[error("not a regular file: inode {0}")]
    NotFile(u32),
}

impl Error {
    pub(crate) fn damaged(place: Place, what: impl Into<String>) -> Self {
        Self::Damaged { place, what: what.into() }
    }

    pub(crate) fn checksum(place: Place) -> Self {
        Self::damaged(place, "the checksum is wrong")
    }
}
