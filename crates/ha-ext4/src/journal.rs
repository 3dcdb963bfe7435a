//! The journal (jbd2): what is committed there and not in its place yet is laid over the blocks, as the kernel would
//! write it when it mounts.

mod fast_commit;
mod replay;

use crate::bytes::be32;
use crate::checksum::crc32c;
use crate::content::Map;
use crate::device::{Device, JOURNAL_MAGIC};
use crate::error::{Error, Place};
use crate::extent::{Backing, Span};
use crate::inode::{self, Inode};
use crate::note::Note;
use crate::runs::{self, Runs};
use crate::superblock::{self, Superblock};

const SUPERBLOCK_1: u32 = 3;
const SUPERBLOCK_2: u32 = 4;

/// Of the first version of checksums: the commit block has a sum of all blocks of the transaction.
const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
/// A commit block may be written before what it commits.
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_2: u32 = 0x8;
const INCOMPAT_CSUM_3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// These and revocations.
const INCOMPAT_READ: u32 = 0x3f;

/// How many blocks at the end are kept for fast commits where the superblock does not say, and how many must be left.
const FAST_COMMIT_BLOCKS: u32 = 256;
const LEAST_BLOCKS: u32 = 1024;

/// Is the journal, with what its superblock says.
struct Log<'a> {
    device: &'a mut Device,
    superblock: &'a Superblock,
    inode: Inode,
    pieces: Vec<Span>,
    head: Head,
}

/// Is what the superblock of a journal says.
#[derive(Debug, Clone, Copy)]
struct Head {
    /// The first block that transactions may use, and the one behind the last.
    first: u32,
    last: u32,
    /// All blocks, with those of fast commits.
    length: u32,
    /// The oldest transaction, and where it begins; 0 for nowhere.
    sequence: u32,
    start: u32,
    compat: u32,
    incompat: u32,
    /// Where checksums begin.
    seed: u32,
}

/// Lays the journal over the blocks. Returns the superblock as it is then, if anything was done.
pub(crate) fn lay_over(
    device: &mut Device,
    superblock: &Superblock,
    notes: &mut Vec<Note>,
) -> Result<Option<Superblock>, Error> {
    let needed = superblock.needs_recovery();
    // Copies of the superblock do not tell whether the journal is needed.
    let unsure = superblock.group != 0;
    if superblock.journal_is_elsewhere && needed {
        return Err(Error::Declined("a journal on another device, which must be replayed".to_owned()));
    }
    if superblock.journal_inode == 0 {
        if needed {
            notes.push(Note::JournalDamaged { what: "there is no journal".to_owned() });
        }
        return Ok(None);
    }
    let mut log = match Log::open(device, superblock) {
        Ok(log) => log,
        Err(error) => {
            if needed || unsure {
                notes.push(Note::JournalDamaged { what: with_cause(&error) });
            }
            return Ok(None);
        }
    };
    if log.head.start == 0 {
        return Ok(None);
    }
    if !needed && !unsure {
        notes.push(Note::JournalIgnored);
        return Ok(None);
    }
    let scanned = replay::scan(&mut log);
    let (blocks, lost) = replay::collect(&mut log, scanned.end);
    notes.extend(scanned.damage.into_iter().chain(lost).map(|what| Note::JournalDamaged { what }));
    if fast_commit::waits(&mut log, scanned.end) {
        notes.push(Note::FastCommit { transaction: scanned.end });
    }
    let transactions = scanned.end.wrapping_sub(log.head.sequence);
    notes.push(Note::Replayed { transactions, blocks: blocks.len() as u64 });
    device.lay_over(blocks);
    let mut bytes = vec![0; superblock::LENGTH];
    let newer = device
        .read(superblock::LENGTH as u64, &mut bytes, Place::Superblock)
        .and_then(|()| superblock::reread(&bytes))
        .and_then(|newer| match newer.block_size == superblock.block_size {
            true => Ok(newer),
            false => Err(Error::damaged(Place::Superblock, "the journal gives it another size of blocks")),
        });
    match newer {
        Ok(newer) => Ok(Some(newer)),
        // That it is damaged was said before.
        Err(_) if unsure || notes.contains(&Note::SuperblockChecksum) => Ok(None),
        Err(error) => {
            notes.push(Note::JournaledSuperblock { what: with_cause(&error) });
            Ok(None)
        }
    }
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl<'a> Log<'a> {
    fn open(device: &'a mut Device, superblock: &'a Superblock) -> Result<Self, Error> {
        let read = inode::read(device, superblock, superblock.journal_inode);
        let mut of = |inode: Inode| {
            let head = Head::read(device, superblock, &inode)?;
            Ok((head, pieces(device, superblock, &inode, head.length.into())?, inode))
        };
        let read = read.and_then(&mut of);
        let (head, pieces, inode) = match (read, superblock.journal_backup.as_ref()) {
            (Err(error), Some(backup)) => of(Inode::of_journal_backup(superblock, backup)).map_err(|_| error)?,
            (read, _) => read?,
        };
        Ok(Self { device, superblock, inode, pieces, head })
    }

    /// Finds the block of the file system that holds a block of the journal.
    fn place_of(&mut self, block: u32) -> Result<u64, Error> {
        let block = u64::from(block);
        let after = self.pieces.partition_point(|piece| piece.start <= block);
        let piece = after.checked_sub(1).map(|index| self.pieces[index]).filter(|piece| block < piece.end);
        if let Some(Span { start, backing: Backing::Blocks(first), .. }) = piece {
            return Ok(first + (block - start));
        }
        // The map says why.
        Map::default().span(self.device, self.superblock, &self.inode, block)?;
        Err(Error::damaged(Place::Journal(block), "the journal has a hole"))
    }

    /// Reads a block of the journal.
    fn read(&mut self, block: u32) -> Result<Vec<u8>, Error> {
        let offset = self.place_of(block)?.saturating_mul(self.device.block_size());
        let mut bytes = vec![0; self.superblock.block_size as usize];
        self.device.read(offset, &mut bytes, Place::Journal(block.into()))?;
        Ok(bytes)
    }
}

/// Finds where a journal of `length` blocks lies, up to where its map is damaged.
///
/// # Errors
/// When a block is in it twice: then a few blocks could be read as a journal without end.
fn pieces(device: &mut Device, superblock: &Superblock, inode: &Inode, length: u64) -> Result<Vec<Span>, Error> {
    let (mut map, mut met, mut pieces) = (Map::default(), Runs::default(), Vec::new());
    let mut block = 0;
    while block < length && pieces.len() < runs::MOST {
        let Ok(span) = map.span(device, superblock, inode, block) else { break };
        let end = span.end.min(length).max(block + 1);
        if let Backing::Blocks(first) = span.backing {
            let first = first + (block - span.start);
            if met.add(first, end - block) != (true, end - block) {
                return Err(Error::damaged(Place::Journal(block), "its blocks overlap"));
            }
            pieces.push(Span { start: block, end, backing: Backing::Blocks(first) });
        }
        block = end;
    }
    Ok(pieces)
}

impl Head {
    fn read(device: &mut Device, superblock: &Superblock, inode: &Inode) -> Result<Self, Error> {
        let damaged = |what: &str| Err(Error::damaged(Place::Journal(0), what));
        let mut bytes = vec![0; 1024];
        Map::default().read(device, superblock, inode, 0, &mut bytes)?;
        let kind = be32(&bytes, 4);
        if !bytes.starts_with(&JOURNAL_MAGIC) || !matches!(kind, SUPERBLOCK_1 | SUPERBLOCK_2) {
            return damaged("no superblock of a journal");
        }
        let feature = |at: usize| if kind == SUPERBLOCK_2 { be32(&bytes, at) } else { 0 };
        let (compat, incompat) = (feature(0x24), feature(0x28));
        if incompat & !INCOMPAT_READ != 0 {
            return damaged(&format!("it has unknown features: {incompat:#x}"));
        }
        if incompat & (INCOMPAT_CSUM_2 | INCOMPAT_CSUM_3) != 0 {
            let sum = crc32c(crc32c(crc32c(!0, &bytes[..0xfc]), &[0; 4]), &bytes[0x100..]);
            if sum != be32(&bytes, 0xfc) {
                return Err(Error::checksum(Place::Journal(0)));
            }
        }
        if be32(&bytes, 0xc) != superblock.block_size {
            return damaged("its blocks have another size than those of the file system");
        }
        let (length, first, start) = (be32(&bytes, 0x10), be32(&bytes, 0x14), be32(&bytes, 0x1c));
        let mut last = length;
        if incompat & INCOMPAT_FAST_COMMIT != 0 {
            let kept = match be32(&bytes, 0x54) {
                0 => FAST_COMMIT_BLOCKS,
                kept => kept,
            };
            if let Some(shorter) = length.checked_sub(kept).filter(|shorter| *shorter >= LEAST_BLOCKS) {
                last = shorter;
            }
        }
        // What the image really has counts, not what it says.
        let most = device.blocks().min(inode.size() / u64::from(superblock.block_size));
        let has_room = u64::from(length) <= most;
        if first == 0 || first >= last || !has_room || (start != 0 && !(first..last).contains(&start)) {
            return damaged("its length is impossible");
        }
        let seed = crc32c(!0, &bytes[0x30..0x40]);
        Ok(Self { first, last, length, sequence: be32(&bytes, 0x18), start, compat, incompat, seed })
    }

    fn has_checksums(&self) -> bool {
        self.incompat & (INCOMPAT_CSUM_2 | INCOMPAT_CSUM_3) != 0
    }

    /// Goes on by some blocks, round to the first one at the end.
    fn forward(&self, block: u32, count: u32) -> u32 {
        let ring = u64::from(self.last - self.first);
        let offset = (u64::from(block.saturating_sub(self.first)) + u64::from(count)) % ring;
        self.first + u32::try_from(offset).unwrap_or(0)
    }
}
