//! Inodes: what an entry is, whose, how long, and when.

use crate::bytes::{le16, le32, part};
use crate::checksum::crc32c;
use crate::device::Device;
use crate::error::{Error, Place};
use crate::feature::{INCOMPAT_64BIT, INCOMPAT_EA_INODE, INCOMPAT_LARGE_DIR, RO_HUGE_FILE};
use crate::group;
use crate::superblock::Superblock;

/// The inode of the top directory.
pub(crate) const ROOT: u32 = 2;
const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_INDEX: u32 = 0x1000;
const FLAG_HUGE_FILE: u32 = 0x4_0000;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_VERITY: u32 = 0x10_0000;
const FLAG_EA_INODE: u32 = 0x20_0000;
const FLAG_INLINE_DATA: u32 = 0x1000_0000;
const FLAG_CASEFOLD: u32 = 0x4000_0000;
/// Of every inode; what follows is there when inodes are longer.
const SHORT: usize = 128;

/// Is what an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

/// Is a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Since 1970; below zero before.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// Is an inode, by itself without a name.
#[derive(Debug, Clone)]
pub struct Inode {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) flags: u32,
    pub(crate) attribute_block: u64,
    /// Units of 512 bytes that it occupies.
    pub(crate) sectors: u64,
    /// The 60 bytes with the block map, the head of the extents, the target of a link, or content.
    pub(crate) body: [u8; 60],
    /// What follows the fields: extended attributes.
    pub(crate) tail: Vec<u8>,
    /// Where checksums of what belongs to it begin.
    pub(crate) seed: u32,
    kind: Kind,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    links: u16,
    modified: Time,
    accessed: Time,
    changed: Time,
    created: Option<Time>,
}

impl Inode {
    /// Returns its number.
    pub fn number(&self) -> u32 {
        self.number
    }
    /// Returns what it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
    /// Returns permissions with set-user-id, set-group-id and sticky: 12 bits.
    pub fn mode(&self) -> u16 {
        self.mode
    }
    /// Returns the owner.
    pub fn uid(&self) -> u32 {
        self.uid
    }
    /// Returns the group.
    pub fn gid(&self) -> u32 {
        self.gid
    }
    /// Returns the length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// Returns how many names it has. A directory with more than 65,000 entries that are directories has 1.
    pub fn links(&self) -> u16 {
        self.links
    }
    /// Returns when the content was changed last.
    pub fn modified(&self) -> Time {
        self.modified
    }
    /// Returns when it was read last.
    pub fn accessed(&self) -> Time {
        self.accessed
    }
    /// Returns when the inode was changed last.
    pub fn changed(&self) -> Time {
        self.changed
    }
    /// Returns when it was made, where inodes are long enough to tell.
    pub fn created(&self) -> Option<Time> {
        self.created
    }
    /// Tells whether content or names are encrypted (fscrypt).
    pub fn is_encrypted(&self) -> bool {
        self.flags & FLAG_ENCRYPTED != 0
    }
    /// Tells whether the content is under fs-verity; it reads like any other.
    pub fn is_verity(&self) -> bool {
        self.flags & FLAG_VERITY != 0
    }
    /// Tells whether the names of the directory are looked up without regard to case.
    pub fn is_casefolded(&self) -> bool {
        self.flags & FLAG_CASEFOLD != 0
    }
    /// Returns major and minor number of a device.
    pub fn device(&self) -> Option<(u32, u32)> {
        if !matches!(self.kind, Kind::CharacterDevice | Kind::BlockDevice) {
            return None;
        }
        // The first number has 8 bits for each, the second 12 and 20.
        Some(match (le32(&self.body, 0), le32(&self.body, 4)) {
            (0, wide) => (wide >> 8 & 0xfff, wide & 0xff | wide >> 12 & 0xf_ff00),
            (narrow, _) => (narrow >> 8 & 0xff, narrow & 0xff),
        })
    }
    pub(crate) fn has_extents(&self) -> bool {
        self.flags & FLAG_EXTENTS != 0
    }
    pub(crate) fn is_inline(&self) -> bool {
        self.flags & FLAG_INLINE_DATA != 0
    }
    pub(crate) fn is_indexed(&self) -> bool {
        self.flags & FLAG_INDEX != 0
    }
    pub(crate) fn holds_attribute(&self) -> bool {
        self.flags & FLAG_EA_INODE != 0
    }
    /// Tells whether the target of a link lies in the inode itself.
    pub(crate) fn is_fast_link(&self, superblock: &Superblock) -> bool {
        if superblock.features.incompat(INCOMPAT_EA_INODE) {
            return self.size < self.body.len() as u64;
        }
        // Old kernels wrote short targets into blocks too; what decides is whether there is one beside the attributes.
        let sectors = u64::from(superblock.block_size / 512) * u64::from(superblock.cluster_blocks);
        self.sectors == if self.attribute_block == 0 { 0 } else { sectors }
    }
    pub(crate) fn place(&self) -> Place {
        Place::Inode(self.number)
    }
    /// Makes the inode of the journal out of its copy in the superblock.
    pub(crate) fn of_journal_backup(superblock: &Superblock, backup: &[u8; 68]) -> Self {
        let mut body = [0; 60];
        body.copy_from_slice(&backup[..60]);
        let extents = le16(&body, 0) == crate::extent::MAGIC;
        let zero = Time { seconds: 0, nanoseconds: 0 };
        Self {
            number: superblock.journal_inode,
            generation: 0,
            flags: if extents { FLAG_EXTENTS } else { 0 },
            attribute_block: 0,
            sectors: 0,
            body,
            tail: Vec::new(),
            seed: crc32c(crc32c(superblock.checksum_seed, &superblock.journal_inode.to_le_bytes()), &[0; 4]),
            kind: Kind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            size: u64::from(le32(backup, 60)) << 32 | u64::from(le32(backup, 64)),
            links: 1,
            modified: zero,
            accessed: zero,
            changed: zero,
            created: None,
        }
    }
}

/// Reads an inode.
pub(crate) fn read(device: &mut Device, superblock: &Superblock, number: u32) -> Result<Inode, Error> {
    let place = Place::Inode(number);
    let index = number.checked_sub(1).filter(|_| number <= superblock.inodes);
    let index = index.ok_or_else(|| Error::damaged(place, "the file system has no inode of this number"))?;
    let table = group::inode_table(device, superblock, index / superblock.inodes_per_group)?;
    let size = usize::from(superblock.inode_size);
    let offset = u64::from(index % superblock.inodes_per_group) * size as u64;
    let block = device.block(table + offset / device.block_size(), place)?;
    let at = usize::try_from(offset % device.block_size()).unwrap_or(usize::MAX);
    let bytes = part(&block, at, size).ok_or_else(|| Error::damaged(place, "it is cut off"))?;
    parse(superblock, number, bytes)
}

fn parse(superblock: &Superblock, number: u32, bytes: &[u8]) -> Result<Inode, Error> {
    let place = Place::Inode(number);
    let mode = le16(bytes, 0x0);
    let links = le16(bytes, 0x1a);
    if crate::bytes::part(bytes, 0, SHORT).is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0)) {
        return Err(Error::damaged(place, "it is not in use"));
    }
    let long = bytes.len() > SHORT;
    let extra = if long { usize::from(le16(bytes, 0x80)) } else { 0 };
    let seed = crc32c(superblock.checksum_seed, &number.to_le_bytes());
    let seed = crc32c(seed, &bytes[0x64..0x68]);
    if superblock.has_checksums() {
        verify(bytes, seed, extra).map_err(|()| Error::checksum(place))?;
    }
    if extra > bytes.len() - SHORT || !extra.is_multiple_of(4) {
        return Err(Error::damaged(place, "the length of its fields is impossible"));
    }
    let kind = match mode >> 12 {
        0x1 => Kind::Fifo,
        0x2 => Kind::CharacterDevice,
        0x4 => Kind::Directory,
        0x6 => Kind::BlockDevice,
        0x8 => Kind::File,
        0xa => Kind::Link,
        0xc => Kind::Socket,
        _ => return Err(Error::damaged(place, format!("its mode is impossible: {mode:o}"))),
    };
    if links == 0 {
        return Err(Error::damaged(place, "it is deleted"));
    }
    let flags = le32(bytes, 0x20);
    let wide_size = kind == Kind::File || superblock.features.incompat(INCOMPAT_LARGE_DIR);
    let size_high = if wide_size { u64::from(le32(bytes, 0x6c)) << 32 } else { 0 };
    let size = size_high | u64::from(le32(bytes, 0x4));
    // Blocks are numbered with 32 bits.
    if size > u64::from(superblock.block_size) << 32 {
        return Err(Error::damaged(place, format!("its length is impossible: {size} bytes")));
    }
    // A field is there when the inode says that its fields reach that far.
    let field = |at: usize| if long && at + 4 <= SHORT + extra { Some(le32(bytes, at)) } else { None };
    let time = |at: usize, more: usize| time(le32(bytes, at), field(more).unwrap_or(0));
    let mut sectors = u64::from(le32(bytes, 0x1c));
    if superblock.features.ro_compat(RO_HUGE_FILE) {
        sectors |= u64::from(le16(bytes, 0x74)) << 32;
        if flags & FLAG_HUGE_FILE != 0 {
            sectors = sectors.saturating_mul(u64::from(superblock.block_size / 512));
        }
    }
    let wide = superblock.features.incompat(INCOMPAT_64BIT);
    let attribute_high = if wide { u64::from(le16(bytes, 0x76)) } else { 0 };
    let mut body = [0; 60];
    body.copy_from_slice(&bytes[0x28..0x64]);
    Ok(Inode {
        number,
        generation: le32(bytes, 0x64),
        flags,
        attribute_block: attribute_high << 32 | u64::from(le32(bytes, 0x68)),
        sectors,
        body,
        // Where no field follows, nothing else does.
        tail: bytes.get(SHORT + extra..).filter(|_| extra > 0).unwrap_or_default().to_vec(),
        seed,
        kind,
        mode: mode & 0o7777,
        uid: u32::from(le16(bytes, 0x78)) << 16 | u32::from(le16(bytes, 0x2)),
        gid: u32::from(le16(bytes, 0x7a)) << 16 | u32::from(le16(bytes, 0x18)),
        size,
        links,
        modified: time(0x10, 0x88),
        accessed: time(0x8, 0x8c),
        changed: time(0xc, 0x84),
        created: field(0x90).map(|seconds| self::time(seconds, field(0x94).unwrap_or(0))),
    })
}

/// Puts a time together: 32 bits with a sign, two more bits above them, and ns: 1901 to 2446.
fn time(seconds: u32, extra: u32) -> Time {
    let nanoseconds = extra >> 2;
    Time {
        seconds: i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32),
        nanoseconds: if nanoseconds < 1_000_000_000 { nanoseconds } else { 0 },
    }
}

fn verify(bytes: &[u8], seed: u32, extra: usize) -> Result<(), ()> {
    const LOW: usize = 0x7c;
    const HIGH: usize = 0x82;
    let sum = crc32c(crc32c(crc32c(seed, &bytes[..LOW]), &[0; 2]), &bytes[LOW + 2..SHORT]);
    let low = u32::from(le16(bytes, LOW));
    let (sum, stored) = match bytes.get(SHORT..) {
        None | Some([]) => (sum & 0xffff, low),
        Some(rest) if extra >= HIGH + 2 - SHORT => {
            let sum = crc32c(crc32c(sum, &bytes[SHORT..HIGH]), &[0; 2]);
            (crc32c(sum, rest.get(HIGH + 2 - SHORT..).unwrap_or_default()), u32::from(le16(bytes, HIGH)) << 16 | low)
        }
        Some(rest) => (crc32c(sum, rest) & 0xffff, low),
    };
    if sum == stored { Ok(()) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_from_1901_to_2446() {
        let seconds = |low: u32, extra: u32| time(low, extra).seconds;
        assert_eq!(seconds(0x8000_0000, 0), -(1 << 31));
        assert_eq!(seconds(0x7fff_ffff, 0), (1 << 31) - 1);
        assert_eq!(seconds(0x8000_0000, 1), 1 << 31);
        assert_eq!(seconds(0x7fff_ffff, 3), (3 << 32) + (1 << 31) - 1);
        assert_eq!(time(0, 999_999_999 << 2).nanoseconds, 999_999_999);
        assert_eq!(time(5, 0xffff_fffc), Time { seconds: 5, nanoseconds: 0 });
    }
}
