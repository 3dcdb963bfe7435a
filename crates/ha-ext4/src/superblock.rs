//! The superblock: how large everything is, and where. When the first one is damaged a copy is looked for.

use crate::Source;
use crate::bytes::{le16, le32};
use crate::checksum::crc32c;
use crate::error::{Error, Place};
use crate::feature::{
    COMPAT_JOURNAL, COMPAT_SPARSE_SUPER2, Features, INCOMPAT_64BIT, INCOMPAT_CSUM_SEED, INCOMPAT_RECOVER,
    RO_METADATA_CSUM, RO_SPARSE_SUPER,
};
use crate::note::Note;

/// How long it is, and where the first one begins.
pub(crate) const LENGTH: usize = 1024;
const MAGIC: u16 = 0xef53;
const STATE_ERRORS: u16 = 2;
/// The groups in which copies are looked for.
const BACKUP_GROUPS: [u64; 9] = [1, 3, 5, 7, 9, 25, 27, 49, 81];

/// Is a superblock that makes sense.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) features: Features,
    /// Bytes of a block, 1024 to 65,536.
    pub(crate) block_size: u32,
    /// Blocks that are given out together.
    pub(crate) cluster_blocks: u32,
    pub(crate) blocks: u64,
    pub(crate) first_data_block: u32,
    pub(crate) blocks_per_group: u32,
    pub(crate) groups: u32,
    pub(crate) inodes: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) first_inode: u32,
    pub(crate) inode_size: u16,
    pub(crate) descriptor_size: u16,
    pub(crate) first_meta_group: u32,
    pub(crate) backup_groups: [u32; 2],
    /// The group in which it says that it lies.
    pub(crate) group: u32,
    pub(crate) uuid: [u8; 16],
    /// Where checksums of metadata begin.
    pub(crate) checksum_seed: u32,
    /// 0 for none, and for one on another device.
    pub(crate) journal_inode: u32,
    pub(crate) journal_is_elsewhere: bool,
    /// The block map, or extents, and the size of the journal's inode, in case that this is damaged.
    pub(crate) journal_backup: Option<[u8; 68]>,
}

/// Is what a superblock, or a copy of it, says of a file system; nothing of it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The identity of the file system.
    pub uuid: [u8; 16],
    /// The label, filled up with zeros.
    pub label: [u8; 16],
    /// Bytes of the file system.
    pub bytes: u64,
    /// The group in which it lies: 0 for the first superblock.
    pub group: u32,
    /// When the file system was written last, in seconds since 1970; 0 for never. Copies are not kept up to date.
    pub written: i64,
    /// Whether the journal holds what is not in its place yet.
    pub needs_recovery: bool,
    /// Whether the journal is on another device.
    pub journal_is_elsewhere: bool,
    /// Whether the kernel found errors in the file system.
    pub has_errors: bool,
}

impl Summary {
    /// Takes it from the 1024 bytes of a superblock; nothing when they are none.
    pub fn of_superblock(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < LENGTH || le16(bytes, 0x38) != MAGIC {
            return None;
        }
        let features = features(bytes);
        let block_size = 1024_u64.checked_shl(le32(bytes, 0x18)).unwrap_or(0);
        Some(Self {
            uuid: array(bytes, 0x68),
            label: array(bytes, 0x78),
            bytes: blocks(bytes, &features).saturating_mul(block_size),
            group: le16(bytes, 0x5a).into(),
            written: i64::from(le32(bytes, 0x30)) | i64::from(bytes[0x274]) << 32,
            needs_recovery: features.incompat(INCOMPAT_RECOVER),
            journal_is_elsewhere: journal_is_elsewhere(bytes, &features),
            has_errors: le16(bytes, 0x3a) & STATE_ERRORS != 0,
        })
    }
}

/// Is what is wrong with a superblock.
enum Wrong {
    Absent,
    Field(&'static str),
    Checksum(Box<Superblock>),
    /// It is right, and names what is not read here.
    Declined(String),
}

/// Reads the superblock, or a copy of it.
pub(crate) fn read(source: &mut dyn Source, notes: &mut Vec<Note>) -> Result<Superblock, Error> {
    let mut bytes = vec![0; LENGTH];
    let first = match read_at(source, LENGTH as u64, &mut bytes) {
        Ok(()) => parse(&bytes),
        Err(Error::Unreadable { .. }) => Err(Wrong::Field("it cannot be read")),
        Err(_) => Err(Wrong::Absent),
    };
    let wrong = match first {
        Ok(superblock) => return Ok(superblock),
        Err(Wrong::Declined(names)) => return Err(Error::Declined(names)),
        Err(wrong) => wrong,
    };
    if let Some((superblock, _)) = backup(source) {
        notes.push(Note::BackupSuperblock { group: superblock.group });
        return Ok(superblock);
    }
    match wrong {
        Wrong::Checksum(superblock) if superblock.features.declined().is_none() => {
            notes.push(Note::SuperblockChecksum);
            Ok(*superblock)
        }
        wrong => Err(wrong.into()),
    }
}

impl From<Wrong> for Error {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Absent => Self::NoSuperblock,
            Wrong::Field(what) => Self::damaged(Place::Superblock, what),
            Wrong::Checksum(_) => Self::checksum(Place::Superblock),
            Wrong::Declined(names) => Self::Declined(names),
        }
    }
}

/// Looks for a copy of a superblock, of a file system whose first one is gone.
pub fn find_backup(source: &mut dyn Source) -> Option<Summary> {
    backup(source).and_then(|(_, bytes)| Summary::of_superblock(&bytes))
}

fn read_at(source: &mut dyn Source, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
    if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > source.size()) {
        return Err(Error::NoSuperblock);
    }
    source.read_exact_at(offset, bytes).map_err(|cause| Error::Unreadable { place: Place::Superblock, offset, cause })
}

/// Finds a copy that makes sense, with its bytes.
fn backup(source: &mut dyn Source) -> Option<(Superblock, Vec<u8>)> {
    let mut bytes = vec![0; LENGTH];
    for cluster_blocks in [1, 16] {
        for log in [2, 0, 1, 3, 4, 5, 6] {
            let block_size = 1024_u64 << log;
            let first = u64::from(log == 0 && cluster_blocks == 1);
            for group in BACKUP_GROUPS {
                let offset = (group * 8 * block_size * cluster_blocks + first) * block_size;
                if read_at(source, offset, &mut bytes).is_ok()
                    && let Ok(superblock) = parse(&bytes)
                    && u64::from(superblock.group) == group
                    && u64::from(superblock.block_size) == block_size
                    && superblock.group_start(superblock.group).checked_mul(block_size) == Some(offset)
                {
                    return Some((superblock, bytes));
                }
            }
        }
    }
    None
}

/// Tells whether there is a journal, and no inode that holds it.
fn journal_is_elsewhere(bytes: &[u8], features: &Features) -> bool {
    features.compat(COMPAT_JOURNAL) && le32(bytes, 0xe0) == 0
}

/// Reads a superblock out of its bytes; used again when the journal holds a newer one.
pub(crate) fn reread(bytes: &[u8]) -> Result<Superblock, Error> {
    Ok(parse(bytes)?)
}

fn parse(bytes: &[u8]) -> Result<Superblock, Wrong> {
    if bytes.len() < LENGTH || le16(bytes, 0x38) != MAGIC {
        return Err(Wrong::Absent);
    }
    let features = features(bytes);
    let is_right = !features.ro_compat(RO_METADATA_CSUM) || crc32c(!0, &bytes[..0x3fc]) == le32(bytes, 0x3fc);
    if let Some(names) = features.declined().filter(|_| is_right) {
        return Err(Wrong::Declined(names));
    }
    let wide = features.incompat(INCOMPAT_64BIT);
    let dynamic = le32(bytes, 0x4c) > 0;
    let log = le32(bytes, 0x18);
    let log_cluster = if features.ro_compat(crate::feature::RO_BIGALLOC) { le32(bytes, 0x1c) } else { log };
    if log > 6 {
        return Err(Wrong::Field("the size of a block is impossible"));
    }
    let ratio = log_cluster.checked_sub(log).filter(|ratio| *ratio < 20);
    let cluster_blocks = 1_u32 << ratio.ok_or(Wrong::Field("the size of a cluster is impossible"))?;
    let block_size = 1024_u32 << log;
    let uuid: [u8; 16] = array(bytes, 0x68);
    let checksum_seed = if features.incompat(INCOMPAT_CSUM_SEED) { le32(bytes, 0x270) } else { crc32c(!0, &uuid) };
    let superblock = Superblock {
        features,
        block_size,
        cluster_blocks,
        blocks: blocks(bytes, &features),
        first_data_block: le32(bytes, 0x14),
        blocks_per_group: le32(bytes, 0x20),
        groups: 0,
        inodes: le32(bytes, 0x0),
        inodes_per_group: le32(bytes, 0x28),
        first_inode: if dynamic { le32(bytes, 0x54) } else { 11 },
        inode_size: if dynamic { le16(bytes, 0x58) } else { 128 },
        descriptor_size: if wide { le16(bytes, 0xfe) } else { 32 },
        first_meta_group: le32(bytes, 0x104),
        backup_groups: [le32(bytes, 0x24c), le32(bytes, 0x250)],
        group: le16(bytes, 0x5a).into(),
        uuid,
        checksum_seed,
        journal_inode: if features.compat(COMPAT_JOURNAL) { le32(bytes, 0xe0) } else { 0 },
        journal_is_elsewhere: journal_is_elsewhere(bytes, &features),
        journal_backup: (bytes[0xfd] == 1).then(|| array(bytes, 0x10c)),
    };
    let superblock = superblock.checked()?;
    if is_right { Ok(superblock) } else { Err(Wrong::Checksum(Box::new(superblock))) }
}

fn features(bytes: &[u8]) -> Features {
    Features { compat: le32(bytes, 0x5c), incompat: le32(bytes, 0x60), ro_compat: le32(bytes, 0x64) }
}

fn blocks(bytes: &[u8], features: &Features) -> u64 {
    let high = if features.incompat(INCOMPAT_64BIT) { u64::from(le32(bytes, 0x150)) << 32 } else { 0 };
    high | u64::from(le32(bytes, 0x4))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    if let Some(part) = crate::bytes::part(bytes, at, N) {
        array.copy_from_slice(part);
    }
    array
}

impl Superblock {
    /// Checks what the rest relies on.
    fn checked(mut self) -> Result<Self, Wrong> {
        let wrong = |bad: bool, what: &'static str| if bad { Err(Wrong::Field(what)) } else { Ok(()) };
        let bits = 8 * u64::from(self.block_size);
        let size = u32::from(self.inode_size);
        wrong(size < 128 || size > self.block_size || !size.is_power_of_two(), "the size of an inode is impossible")?;
        let descriptor = u32::from(self.descriptor_size);
        let least = if self.features.incompat(INCOMPAT_64BIT) { 64 } else { 32 };
        wrong(
            descriptor < least || descriptor > 1024 || !descriptor.is_power_of_two(),
            "the size of a group descriptor is impossible",
        )?;
        let most_blocks = bits.saturating_mul(self.cluster_blocks.into());
        wrong(
            self.blocks_per_group == 0 || u64::from(self.blocks_per_group) > most_blocks,
            "the number of blocks of a group is impossible",
        )?;
        wrong(
            self.inodes_per_group == 0 || u64::from(self.inodes_per_group) > bits,
            "the number of inodes of a group is impossible",
        )?;
        wrong(
            u64::from(self.first_data_block) >= self.blocks || self.first_data_block > 1,
            "the number of blocks is impossible",
        )?;
        let groups = (self.blocks - u64::from(self.first_data_block)).div_ceil(self.blocks_per_group.into());
        self.groups = u32::try_from(groups).map_err(|_| Wrong::Field("the number of groups is impossible"))?;
        wrong(
            u64::from(self.inodes) > groups.saturating_mul(self.inodes_per_group.into()) || self.inodes < 2,
            "the number of inodes is impossible",
        )?;
        wrong(self.blocks.checked_mul(self.block_size.into()).is_none(), "the number of blocks is impossible")?;
        Ok(self)
    }

    /// Returns the first block of a group.
    pub(crate) fn group_start(&self, group: u32) -> u64 {
        u64::from(group) * u64::from(self.blocks_per_group) + u64::from(self.first_data_block)
    }

    /// Tells whether a group has a copy of the superblock.
    pub(crate) fn has_copy(&self, group: u32) -> bool {
        let is_power = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        if group == 0 {
            true
        } else if self.features.compat(COMPAT_SPARSE_SUPER2) {
            self.backup_groups.contains(&group)
        } else {
            group == 1 || !self.features.ro_compat(RO_SPARSE_SUPER) || [3, 5, 7].into_iter().any(is_power)
        }
    }

    /// Tells whether metadata have checksums.
    pub(crate) fn has_checksums(&self) -> bool {
        self.features.ro_compat(RO_METADATA_CSUM)
    }

    /// Tells whether the journal holds what is not in its place.
    pub(crate) fn needs_recovery(&self) -> bool {
        self.features.incompat(INCOMPAT_RECOVER)
    }

    /// Tells whether a run of blocks lies in the file system.
    pub(crate) fn has_blocks(&self, start: u64, count: u64) -> bool {
        start >= u64::from(self.first_data_block).max(1)
            && start.checked_add(count).is_some_and(|end| end <= self.blocks)
    }
}
