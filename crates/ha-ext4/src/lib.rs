//! ext2, ext3 and ext4, read without a mount, without root and without writing a byte. What the journal holds is laid
//! over the blocks in memory. The layout is that of the kernel's documentation (filesystems/ext4).
//!
//! Whatever bytes an image has, there is an answer: no panic, no endless loop, no memory that grows with the file
//! system. What cannot be read is an error of that one object, which it names; the rest is given.

mod attribute;
mod block_map;
mod bytes;
mod checksum;
mod content;
mod device;
mod directory;
mod error;
mod extent;
mod feature;
mod filesystem;
mod group;
mod inode;
mod journal;
mod note;
mod runs;
mod superblock;

pub use attribute::{Attribute, Attributes};
pub use content::{Content, Range};
pub use directory::DirectoryEntry;
pub use error::{Error, Place};
pub use filesystem::FileSystem;
pub use inode::{Inode, Kind, Time};
pub use note::Note;
pub use superblock::{Summary, find_backup};

/// Is what a file system is read from.
pub trait Source {
    /// Returns the size in bytes.
    fn size(&self) -> u64;
    /// Fills the buffer from `offset` on, all of which lies below the size.
    fn read_exact_at(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>>;
}
