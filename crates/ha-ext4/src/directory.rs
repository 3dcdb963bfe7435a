//! Directories. All blocks are read one after the other; the blocks of a hashed index look like empty ones.

use std::ops::ControlFlow;

use crate::bytes::{le16, le32, part};
use crate::checksum::crc32c;
use crate::error::{Error, Place};
use crate::feature::INCOMPAT_FILETYPE;
use crate::inode::{Inode, Kind, ROOT};
use crate::superblock::Superblock;

/// Is what is handed each entry, and each part that cannot be read.
pub(crate) type Each<'a> = &'a mut dyn FnMut(Result<DirectoryEntry, Error>) -> ControlFlow<()>;

/// Number, length, length of the name and kind of an entry.
const HEAD: usize = 8;
/// An entry at the end of a block that holds its checksum.
const TAIL: usize = 12;
const TAIL_KIND: u8 = 0xde;

/// Is a name with the number of its inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The number of the inode.
    pub inode: u32,
    /// 1 to 255 bytes without `/` and zero; never `.` or `..`.
    pub name: Vec<u8>,
    /// What the inode is by the directory, where the file system keeps that.
    pub kind: Option<Kind>,
}

impl DirectoryEntry {
    /// Fails where the inode is something else than the directory says: one of them is damaged. A directory that is taken
    /// for a FIFO would be lost without a word.
    pub fn check(&self, inode: &Inode) -> Result<(), Error> {
        match self.kind {
            Some(kind) if kind != inode.kind() => {
                let what = format!("it is a {:?}, and a {kind:?} by its directory", inode.kind());
                Err(Error::damaged(inode.place(), what))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the kind that a byte of an entry stands for.
fn kind_of(byte: u8) -> Option<Kind> {
    Some(match byte {
        1 => Kind::File,
        2 => Kind::Directory,
        3 => Kind::CharacterDevice,
        4 => Kind::BlockDevice,
        5 => Kind::Fifo,
        6 => Kind::Socket,
        7 => Kind::Link,
        _ => return None,
    })
}

/// Hands out the entries of a block, `block` being counted in the directory.
pub(crate) fn of_block(
    superblock: &Superblock,
    directory: &Inode,
    block: u64,
    bytes: &[u8],
    each: Each<'_>,
) -> ControlFlow<()> {
    let place = Place::Directory { inode: directory.number, block };
    let mut entries = bytes;
    if superblock.has_checksums() {
        match limits_at(directory, block, bytes) {
            Some(limits) => {
                return match index_is_right(directory, bytes, limits) {
                    // A node of the index has no names but those of the directory itself and the one above.
                    true => ControlFlow::Continue(()),
                    false => each(Err(Error::checksum(place))),
                };
            }
            None => match leaf_is_right(directory, bytes) {
                true => entries = &bytes[..bytes.len() - TAIL],
                false => return each(Err(Error::checksum(place))),
            },
        }
    }
    of_list(superblock, place, entries, bytes.len(), each)
}

/// Hands out the entries of a list that fills the bytes.
pub(crate) fn of_list(
    superblock: &Superblock,
    place: Place,
    bytes: &[u8],
    block_size: usize,
    each: Each<'_>,
) -> ControlFlow<()> {
    let mut at = 0;
    while at < bytes.len() {
        let Some(head) = part(bytes, at, HEAD) else {
            return each(Err(Error::damaged(place, format!("an entry at byte {at} is cut off"))));
        };
        let length = record_length(le16(head, 4), block_size);
        let (name_length, kind) = match superblock.features.incompat(INCOMPAT_FILETYPE) {
            true => (usize::from(head[6]), kind_of(head[7])),
            false => (usize::from(le16(head, 6)), None),
        };
        let inode = le32(head, 0);
        let name = part(bytes, at + HEAD, name_length);
        let fits = at.checked_add(length).is_some_and(|end| end <= bytes.len()) && length >= HEAD + name_length;
        let Some(name) = name.filter(|_| fits && length >= TAIL && length.is_multiple_of(4)) else {
            let what = format!("the entry at byte {at} is damaged; those behind it are lost");
            return each(Err(Error::damaged(place, what)));
        };
        if inode != 0 && name != b"." && name != b".." {
            each(checked(superblock, place, inode, name, kind))?;
        }
        at += length;
    }
    ControlFlow::Continue(())
}

fn checked(
    superblock: &Superblock,
    place: Place,
    inode: u32,
    name: &[u8],
    kind: Option<Kind>,
) -> Result<DirectoryEntry, Error> {
    let shown = || name.escape_ascii();
    if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Error::damaged(place, format!("a name is impossible: {}", shown())));
    }
    if inode > superblock.inodes || (inode < superblock.first_inode && inode != ROOT) {
        return Err(Error::damaged(place, format!("no file can have inode {inode}: {}", shown())));
    }
    Ok(DirectoryEntry { inode, name: name.to_vec(), kind })
}

/// In blocks of 64 KiB a length that does not fit into 16 bits is written with the low bits, which are always zero.
fn record_length(stored: u16, block_size: usize) -> usize {
    match (stored, block_size >= 0x1_0000) {
        (0 | u16::MAX, true) => block_size,
        (stored, true) => usize::from(stored & !3) | usize::from(stored & 3) << 16,
        (stored, false) => stored.into(),
    }
}

/// Finds where a block of the index has the number of its entries; nothing for other blocks.
fn limits_at(directory: &Inode, block: u64, bytes: &[u8]) -> Option<usize> {
    if !directory.is_indexed() {
        return None;
    }
    let length = |at: usize| record_length(le16(bytes, at), bytes.len());
    if block == 0 {
        // `.` and `..`, whose record hides the root of the index; its head is eight bytes long.
        let is_root =
            length(4) == 12 && length(16) == bytes.len() - 12 && le32(bytes, 24) == 0 && bytes.get(29) == Some(&8);
        return is_root.then_some(32);
    }
    (le32(bytes, 0) == 0 && length(4) == bytes.len()).then_some(8)
}

fn index_is_right(directory: &Inode, bytes: &[u8], at: usize) -> bool {
    let (limit, count) = (usize::from(le16(bytes, at)), usize::from(le16(bytes, at + 2)));
    let (tail, summed) = (at + limit * 8, at + count * 8);
    match (bytes.get(..summed), part(bytes, tail, 8)) {
        (Some(summed), Some(tail)) if count <= limit => {
            crc32c(crc32c(crc32c(directory.seed, summed), &tail[..4]), &[0; 4]) == le32(tail, 4)
        }
        _ => false,
    }
}

fn leaf_is_right(directory: &Inode, bytes: &[u8]) -> bool {
    let Some((summed, tail)) = bytes.split_at_checked(bytes.len().saturating_sub(TAIL)) else { return false };
    let is_tail = le32(tail, 0) == 0 && le16(tail, 4) == TAIL as u16 && tail.get(6) == Some(&0);
    is_tail && tail.get(7) == Some(&TAIL_KIND) && crc32c(directory.seed, summed) == le32(tail, 8)
}
