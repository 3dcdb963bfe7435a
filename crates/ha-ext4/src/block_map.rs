//! Block maps, as ext2 and ext3 have them: twelve numbers in the inode, then blocks of numbers, up to three deep.

use crate::bytes::le32;
use crate::device::Device;
use crate::error::{Error, Place};
use crate::extent::{Backing, Span};
use crate::inode::Inode;
use crate::superblock::Superblock;

/// How many blocks the inode itself points to.
const DIRECT: u64 = 12;

/// Finds a run of blocks with a block of a file, not always the longest one.
pub(crate) fn span(device: &mut Device, superblock: &Superblock, inode: &Inode, block: u64) -> Result<Span, Error> {
    if block < DIRECT {
        return run(superblock, &inode.body[..48], 0, block, inode.place());
    }
    let per_block = u64::from(superblock.block_size / 4);
    let mut start = DIRECT;
    for level in 1..=3_u32 {
        let covered = per_block.pow(level);
        if block - start < covered {
            let root = le32(&inode.body, 44 + 4 * level as usize);
            return below(device, superblock, inode, (level, root), start, block);
        }
        start += covered;
    }
    // No map reaches that far; a file that is longer has nothing there.
    Ok(Span { start, end: u64::MAX, backing: Backing::Hole })
}

/// Goes down from a pointer that answers for the blocks from `start` on.
fn below(
    device: &mut Device,
    superblock: &Superblock,
    inode: &Inode,
    (mut level, mut pointer): (u32, u32),
    mut start: u64,
    block: u64,
) -> Result<Span, Error> {
    let per_block = u64::from(superblock.block_size / 4);
    let mut above = inode.place();
    loop {
        if pointer == 0 {
            return Ok(Span { start, end: start + per_block.pow(level), backing: Backing::Hole });
        }
        let pointed = u64::from(pointer);
        if !superblock.has_blocks(pointed, 1) {
            return Err(Error::damaged(above, format!("its block map points beyond the file system: {pointed}")));
        }
        above = Place::BlockMap { inode: inode.number, block: pointed };
        let numbers = device.block(pointed, above)?;
        level -= 1;
        if level == 0 {
            return run(superblock, &numbers, start, block, above);
        }
        let each = per_block.pow(level);
        let index = (block - start) / each;
        start += index * each;
        pointer = le32(&numbers, usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(4));
    }
}

/// Finds how far a list of numbers goes on in one piece.
fn run(superblock: &Superblock, numbers: &[u8], start: u64, block: u64, place: Place) -> Result<Span, Error> {
    let at = usize::try_from(block - start).unwrap_or(usize::MAX);
    let mut numbers = numbers.as_chunks::<4>().0.iter().skip(at).map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
    let first = numbers.next().unwrap_or(0);
    let step = u64::from(first != 0);
    let more = numbers.zip(1_u64..).take_while(|(number, index)| *number == first + index * step).count() as u64;
    let backing = if first == 0 { Backing::Hole } else { Backing::Blocks(first) };
    if first != 0 && !superblock.has_blocks(first, more + 1) {
        return Err(Error::damaged(place, format!("its block map points beyond the file system: {first}")));
    }
    Ok(Span { start: block, end: block + more + 1, backing })
}
