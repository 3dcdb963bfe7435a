//! Extents: a tree of at most five levels below the inode, whose leaves say where runs of blocks lie.

use std::rc::Rc;

use crate::bytes::{le16, le32};
use crate::checksum::crc32c;
use crate::device::Device;
use crate::error::{Error, Place};
use crate::inode::Inode;
use crate::superblock::Superblock;

/// How a node begins.
pub(crate) const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
const ENTRY: usize = 12;
const DEEPEST: u16 = 5;
/// Of this length an extent is the longest written one; longer ones are unwritten, and this much shorter.
const LONGEST: u16 = 32_768;

/// Is where the bytes of a run of blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Nowhere; they read as zeros.
    Hole,
    /// Space is given out, and not written: they read as zeros, whatever lies there.
    Unwritten,
    /// From this block of the file system on.
    Blocks(u64),
}

/// Is a run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first block of the file.
    pub(crate) start: u64,
    /// The one behind the last.
    pub(crate) end: u64,
    pub(crate) backing: Backing,
}

/// Is a leaf of the tree, with the blocks of the file that it answers for.
#[derive(Debug)]
pub(crate) struct Leaf {
    start: u64,
    end: u64,
    /// In ascending order, none beyond the bounds.
    spans: Vec<Span>,
}

impl Leaf {
    /// Finds the run with a block; nothing when the leaf does not answer for it.
    pub(crate) fn span(&self, block: u64) -> Option<Span> {
        if block < self.start || block >= self.end {
            return None;
        }
        let after = self.spans.partition_point(|span| span.start <= block);
        let before = after.checked_sub(1).and_then(|index| self.spans.get(index));
        if let Some(span) = before.filter(|span| block < span.end) {
            return Some(*span);
        }
        let start = before.map_or(self.start, |span| span.end);
        let end = self.spans.get(after).map_or(self.end, |span| span.start);
        Some(Span { start, end, backing: Backing::Hole })
    }
}

/// Finds the leaf that answers for a block.
pub(crate) fn leaf(device: &mut Device, superblock: &Superblock, inode: &Inode, block: u64) -> Result<Leaf, Error> {
    let mut node: Rc<[u8]> = Rc::from(&inode.body[..]);
    let mut place = inode.place();
    let mut depth = None;
    let (mut start, mut end) = (0, 1 << 32);
    loop {
        let header = header(&node, place, depth)?;
        let entries = || (0..header.entries).map(|index| HEADER + usize::from(index) * ENTRY);
        if header.depth == 0 {
            let spans = entries().map(|at| written(superblock, &node, at, place));
            let spans = spans.collect::<Result<Vec<_>, _>>()?;
            let ordered = spans.windows(2).all(|pair| pair[0].end <= pair[1].start);
            let inside = spans.first().is_none_or(|first| first.start >= start);
            if !ordered || !inside || spans.last().is_some_and(|last| last.end > end) {
                return Err(Error::damaged(place, "its extents are out of order"));
            }
            return Ok(Leaf { start, end, spans });
        }
        let keys: Vec<u64> = entries().map(|at| le32(&node, at).into()).collect();
        if !keys.windows(2).all(|pair| pair[0] < pair[1]) || keys.is_empty() {
            return Err(Error::damaged(place, "its extents are out of order"));
        }
        let after = keys.partition_point(|key| *key <= block);
        let next = keys.get(after).map_or(end, |key| end.min(*key));
        let Some(index) = after.checked_sub(1) else {
            return Ok(Leaf { start, end: next, spans: Vec::new() });
        };
        let at = HEADER + index * ENTRY;
        let child = u64::from(le16(&node, at + 8)) << 32 | u64::from(le32(&node, at + 4));
        (start, end) = (start.max(keys[index]), next);
        depth = Some(header.depth - 1);
        if !superblock.has_blocks(child, 1) {
            return Err(Error::damaged(place, "its extents lie beyond the file system"));
        }
        place = Place::Extents { inode: inode.number, block: child };
        node = device.block(child, place)?;
        verify(superblock, inode, &node, place)?;
    }
}

struct Header {
    entries: u16,
    depth: u16,
}

fn header(node: &[u8], place: Place, depth: Option<u16>) -> Result<Header, Error> {
    let damaged = |what: &str| Err(Error::damaged(place, what));
    let (entries, most, found) = (le16(node, 2), le16(node, 4), le16(node, 6));
    if le16(node, 0) != MAGIC {
        return damaged("no extents where they should be");
    }
    if entries > most || HEADER + usize::from(most) * ENTRY > node.len() {
        return damaged("the number of its extents is impossible");
    }
    // Each level is one less deep than the one above, so there is no way round in circles.
    if found > DEEPEST || depth.is_some_and(|depth| depth != found) {
        return damaged("the depth of its extents is impossible");
    }
    Ok(Header { entries, depth: found })
}

fn written(superblock: &Superblock, node: &[u8], at: usize, place: Place) -> Result<Span, Error> {
    let start = u64::from(le32(node, at));
    let length = le16(node, at + 4);
    let (count, unwritten) = if length > LONGEST { (length - LONGEST, true) } else { (length, false) };
    let first = u64::from(le16(node, at + 6)) << 32 | u64::from(le32(node, at + 8));
    if count == 0 || !superblock.has_blocks(first, count.into()) {
        return Err(Error::damaged(place, format!("the extent at block {start} lies beyond the file system")));
    }
    let backing = if unwritten { Backing::Unwritten } else { Backing::Blocks(first) };
    Ok(Span { start, end: start + u64::from(count), backing })
}

/// A block of extents ends with a checksum, behind as many entries as it has room for.
fn verify(superblock: &Superblock, inode: &Inode, node: &[u8], place: Place) -> Result<(), Error> {
    if !superblock.has_checksums() {
        return Ok(());
    }
    let tail = HEADER + usize::from(le16(node, 4)) * ENTRY;
    let summed = node.get(..tail).filter(|_| tail + 4 <= node.len());
    match summed.is_some_and(|summed| crc32c(inode.seed, summed) == le32(node, tail)) {
        true => Ok(()),
        false => Err(Error::checksum(place)),
    }
}
