//! Descriptors of block groups: where the inodes are.

use crate::bytes::{le16, le32, part};
use crate::checksum::{crc16, crc32c};
use crate::device::Device;
use crate::error::{Error, Place};
use crate::feature::{INCOMPAT_64BIT, INCOMPAT_META_BG, RO_GDT_CSUM};
use crate::superblock::Superblock;

/// Where the checksum is.
const CHECKSUM: usize = 0x1e;

/// Returns the first block of the inodes of a group. Of a damaged descriptor a copy is read: where the inodes are never
/// changes.
pub(crate) fn inode_table(device: &mut Device, superblock: &Superblock, group: u32) -> Result<u64, Error> {
    let first = read(device, superblock, group, superblock.group);
    if first.is_ok() {
        return first;
    }
    // Group 1 has a copy in nearly every file system.
    let others = std::iter::once(0)
        .chain(superblock.backup_groups)
        .chain([1, 3, 5, 7, 9, 25, 27, 49])
        .filter(|copy| *copy < superblock.groups && *copy != superblock.group && superblock.has_copy(*copy));
    for copy in others {
        if let Ok(found) = read(device, superblock, group, copy) {
            return Ok(found);
        }
    }
    first
}

/// Reads a descriptor from the table that belongs to the superblock in a group.
fn read(device: &mut Device, superblock: &Superblock, group: u32, copy: u32) -> Result<u64, Error> {
    let place = Place::Group(group);
    let size = u32::from(superblock.descriptor_size);
    let per_block = superblock.block_size / size;
    let index = group / per_block;
    let block = match superblock.features.incompat(INCOMPAT_META_BG) && index >= superblock.first_meta_group {
        // The groups of a descriptor block have it in their first, their second and their last one.
        true => {
            let first = index.saturating_mul(per_block);
            let holder = if copy == 0 { first } else { first.saturating_add(1) };
            if holder >= superblock.groups {
                return Err(Error::damaged(place, "it lies beyond the file system"));
            }
            superblock.group_start(holder) + u64::from(superblock.has_copy(holder)) + special(superblock, holder)
        }
        false => superblock.group_start(copy) + 1 + u64::from(index) + special(superblock, copy),
    };
    let bytes = device.block(block, place)?;
    let at = (group % per_block) as usize * size as usize;
    let bytes = part(&bytes, at, size as usize).ok_or_else(|| Error::damaged(place, "it is cut off"))?;
    verify(superblock, group, bytes)?;
    let high = if superblock.features.incompat(INCOMPAT_64BIT) { u64::from(le32(bytes, 0x28)) << 32 } else { 0 };
    let table = high | u64::from(le32(bytes, 0x8));
    let inodes = u64::from(superblock.inodes_per_group) * u64::from(superblock.inode_size);
    if !superblock.has_blocks(table, inodes.div_ceil(superblock.block_size.into())) {
        return Err(Error::damaged(place, "its inodes lie beyond the file system"));
    }
    Ok(table)
}

/// With clusters and blocks of 1 KiB the first group begins at block 0, and its superblock lies in block 1.
fn special(superblock: &Superblock, group: u32) -> u64 {
    u64::from(group == 0 && superblock.block_size == 1024 && superblock.first_data_block == 0)
}

fn verify(superblock: &Superblock, group: u32, bytes: &[u8]) -> Result<(), Error> {
    let stored = le16(bytes, CHECKSUM);
    let (before, after) = (&bytes[..CHECKSUM], &bytes[CHECKSUM + 2..]);
    let number = group.to_le_bytes();
    let right = if superblock.has_checksums() {
        let seed = crc32c(superblock.checksum_seed, &number);
        let sum = crc32c(crc32c(crc32c(seed, before), &[0; 2]), after);
        sum as u16 == stored
    } else if superblock.features.ro_compat(RO_GDT_CSUM) {
        let seed = crc16(crc16(!0, &superblock.uuid), &number);
        crc16(crc16(seed, before), after) == stored
    } else {
        true
    };
    if right { Ok(()) } else { Err(Error::checksum(Place::Group(group))) }
}
