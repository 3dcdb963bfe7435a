//! Which transactions are whole, and which blocks they leave behind.

use std::collections::BTreeMap;

use super::{
    COMPAT_CHECKSUM, Head, INCOMPAT_64BIT, INCOMPAT_ASYNC_COMMIT, INCOMPAT_CSUM_2, INCOMPAT_CSUM_3, Log, with_cause,
};
use crate::bytes::{be16, be32, be64, part};
use crate::checksum::{crc32, crc32c};
use crate::device::{JOURNAL_MAGIC, Journaled};

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
/// Magic, type and sequence number, with which every block of the journal's own begins.
const HEADER: usize = 12;
/// The identity of a journal, behind the tags that say so.
const UUID: usize = 16;

/// The block began like a block of the journal, and was changed.
const TAG_ESCAPED: u32 = 1;
/// No identity follows.
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// Is how far the journal can be laid over.
pub(super) struct Scanned {
    /// The transaction behind the last whole one.
    pub(super) end: u32,
    /// Why it ends before its time.
    pub(super) damage: Option<String>,
}

/// Is a block that a descriptor speaks of.
struct Tag {
    block: u64,
    escaped: bool,
    checksum: u32,
}

/// Is what the journal leaves behind for a block, and in which transaction.
type Collected = BTreeMap<u64, (Journaled, u32)>;

/// Goes through the journal once for each question.
struct Walk {
    at: u32,
    sequence: u32,
    /// Blocks that are left before the beginning is reached again.
    left: u32,
}

impl Walk {
    fn new(head: &Head) -> Self {
        Self { at: head.start, sequence: head.sequence, left: head.last - head.first }
    }

    /// Reads the next block of the journal's own; nothing behind the last one.
    fn next(&mut self, log: &mut Log<'_>) -> Result<Option<(u32, Vec<u8>)>, String> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        let bytes = log.read(self.at).map_err(|error| with_cause(&error))?;
        if !bytes.starts_with(&JOURNAL_MAGIC) || be32(&bytes, 8) != self.sequence {
            return Ok(None);
        }
        (self.left, self.at) = (left, log.head.forward(self.at, 1));
        Ok(Some((be32(&bytes, 4), bytes)))
    }

    /// Passes a block of data; nothing when the journal has no more.
    fn data(&mut self, head: &Head) -> Option<u32> {
        let at = self.at;
        (self.left, self.at) = (self.left.checked_sub(1)?, head.forward(at, 1));
        Some(at)
    }
}

/// Finds the last transaction that is whole. Kernel and e2fsck stop at the same places; where they would give up
/// altogether, what precedes is taken.
pub(super) fn scan(log: &mut Log<'_>) -> Scanned {
    let head = log.head;
    let mut walk = Walk::new(&head);
    let mut damage = None;
    let (mut last_time, mut stale) = (0, false);
    let first_sums = head.compat & COMPAT_CHECKSUM != 0;
    let mut sum = !0;
    loop {
        let (kind, bytes) = match walk.next(log) {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(error) => {
                damage = Some(error);
                break;
            }
        };
        match kind {
            DESCRIPTOR => {
                stale |= head.has_checksums() && !tail_is_right(&head, &bytes);
                if first_sums {
                    sum = crc32(sum, &bytes);
                }
                for _ in tags(&head, &bytes) {
                    let data = walk.data(&head);
                    if let Some(at) = data.filter(|_| first_sums) {
                        // A block that cannot be read gives another sum.
                        sum = log.read(at).map_or(0, |bytes| crc32(sum, &bytes));
                    }
                }
            }
            REVOKE => stale |= head.has_checksums() && !tail_is_right(&head, &bytes),
            COMMIT => {
                let time = be64(&bytes, 0x30);
                let right = if first_sums { first_sum_is_right(&bytes, sum) } else { commit_is_right(&head, &bytes) };
                if stale || !right {
                    // Blocks of an earlier life of the journal may have the right number; their time tells them.
                    let half_written = !stale && head.incompat & INCOMPAT_ASYNC_COMMIT != 0;
                    if time >= last_time && !half_written {
                        damage = Some(format!("transaction {} has a wrong checksum", walk.sequence));
                    }
                    break;
                }
                (last_time, sum) = (time, !0);
                walk.sequence = walk.sequence.wrapping_add(1);
            }
            _ => break,
        }
    }
    Scanned { end: walk.sequence, damage }
}

/// Collects the blocks of all transactions before `end`, and what of them is lost.
pub(super) fn collect(log: &mut Log<'_>, end: u32) -> (BTreeMap<u64, Journaled>, Vec<String>) {
    let mut blocks = Collected::new();
    let mut lost = Lost::default();
    each(log, end, &mut |log, walk, kind, bytes| {
        let head = log.head;
        for tag in tags(&head, bytes).into_iter().filter(|_| kind == DESCRIPTOR) {
            let Some(at) = walk.data(&head) else { break };
            if let Err(why) = take(log, &mut blocks, &tag, at, walk.sequence) {
                lost.add(tag.block, why);
            }
        }
    });
    // A block that was given up is not written back, whatever earlier transactions have for it.
    each(log, end, &mut |log, walk, kind, bytes| {
        if kind == DESCRIPTOR {
            for _ in tags(&log.head, bytes) {
                let _ = walk.data(&log.head);
            }
        } else if kind == REVOKE {
            for block in revoked(&log.head, bytes) {
                if blocks.get(&block).is_some_and(|(_, written)| !is_after(*written, walk.sequence)) {
                    blocks.remove(&block);
                }
            }
        }
    });
    (blocks.into_iter().map(|(block, (journaled, _))| (block, journaled)).collect(), lost.told())
}

/// Is what cannot be laid over; the first is named, the others counted.
#[derive(Default)]
struct Lost {
    first: Option<String>,
    count: u64,
}

impl Lost {
    fn add(&mut self, block: u64, why: String) {
        self.count += 1;
        self.first.get_or_insert_with(|| format!("block {block}: {why}"));
    }

    fn told(self) -> Vec<String> {
        let more = self.count.saturating_sub(1);
        let with_more = |first| if more > 0 { format!("{first}, and {more} more blocks") } else { first };
        self.first.map(with_more).into_iter().collect()
    }
}

type Visit<'a> = &'a mut dyn FnMut(&mut Log<'_>, &mut Walk, u32, &[u8]);

fn each(log: &mut Log<'_>, end: u32, visit: Visit<'_>) {
    let mut walk = Walk::new(&log.head);
    while walk.sequence != end {
        // What cannot be read now was not readable before: the scan ended there.
        let Ok(Some((kind, bytes))) = walk.next(log) else { break };
        match kind {
            COMMIT => walk.sequence = walk.sequence.wrapping_add(1),
            _ => visit(log, &mut walk, kind, &bytes),
        }
    }
}

fn take(log: &mut Log<'_>, blocks: &mut Collected, tag: &Tag, at: u32, sequence: u32) -> Result<(), String> {
    if tag.block >= log.superblock.blocks {
        return Err("it lies beyond the file system".to_owned());
    }
    if log.head.has_checksums() {
        let bytes = log.read(at).map_err(|error| with_cause(&error))?;
        let sum = crc32c(crc32c(log.head.seed, &sequence.to_be_bytes()), &bytes);
        // The second version keeps only the lower half.
        let kept = if log.head.incompat & INCOMPAT_CSUM_3 != 0 { u32::MAX } else { 0xffff };
        if sum & kept != tag.checksum {
            return Err(format!("its checksum in block {at} of the journal is wrong"));
        }
    }
    let block = log.place_of(at).map_err(|error| with_cause(&error))?;
    blocks.insert(tag.block, (Journaled { block, escaped: tag.escaped }, sequence));
    Ok(())
}

/// Tells whether a transaction comes after another; the numbers go round.
fn is_after(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() > 0
}

/// Returns what a descriptor speaks of, in the order of the blocks that follow it.
fn tags(head: &Head, bytes: &[u8]) -> Vec<Tag> {
    let third = head.incompat & INCOMPAT_CSUM_3 != 0;
    let wide = head.incompat & INCOMPAT_64BIT != 0;
    let length = match (third, wide) {
        (true, _) => 16,
        (false, wide) => 8 + if wide { 4 } else { 0 } + if head.incompat & INCOMPAT_CSUM_2 != 0 { 2 } else { 0 },
    };
    let end = bytes.len() - if head.has_checksums() { 4 } else { 0 };
    let mut tags = Vec::new();
    let mut at = HEADER;
    while let Some(tag) = part(&bytes[..end], at, length) {
        let (flags, high, checksum) = match third {
            true => (be32(tag, 4), be32(tag, 8), be32(tag, 12)),
            false => (be16(tag, 6).into(), be32(tag, 8), be16(tag, 4).into()),
        };
        let high = if wide { u64::from(high) << 32 } else { 0 };
        tags.push(Tag { block: high | u64::from(be32(tag, 0)), escaped: flags & TAG_ESCAPED != 0, checksum });
        at += length + if flags & TAG_SAME_UUID == 0 { UUID } else { 0 };
        if flags & TAG_LAST != 0 {
            break;
        }
    }
    tags
}

/// Returns the blocks that a block of revocations names.
fn revoked(head: &Head, bytes: &[u8]) -> impl Iterator<Item = u64> {
    let wide = head.incompat & INCOMPAT_64BIT != 0;
    let used = usize::try_from(be32(bytes, HEADER)).unwrap_or(usize::MAX).min(bytes.len());
    let records = bytes.get(HEADER + 4..used).unwrap_or_default();
    let each = if wide { 8 } else { 4 };
    records.chunks_exact(each).map(move |record| if wide { be64(record, 0) } else { be32(record, 0).into() })
}

/// Descriptors and revocations end with a checksum.
fn tail_is_right(head: &Head, bytes: &[u8]) -> bool {
    let (summed, tail) = bytes.split_at(bytes.len() - 4);
    crc32c(crc32c(head.seed, summed), &[0; 4]) == be32(tail, 0)
}

fn commit_is_right(head: &Head, bytes: &[u8]) -> bool {
    const SUM: usize = 0x10;
    let sum = |bytes: &[u8]| crc32c(crc32c(crc32c(head.seed, &bytes[..SUM]), &[0; 4]), &bytes[SUM + 4..]);
    !head.has_checksums() || sum(bytes) == be32(bytes, SUM)
}

/// Of the first version a commit block has the sum of descriptors and data, or none.
fn first_sum_is_right(bytes: &[u8], sum: u32) -> bool {
    let (kind, size, stored) = (bytes[0xc], bytes[0xd], be32(bytes, 0x10));
    (kind != 0 && size != 0 && stored == sum) || (kind, size, stored) == (0, 0, 0)
}
