//! Extended attributes: behind the fields of an inode, in a block of their own, and large ones in inodes of their own.

use crate::bytes::{le16, le32, part};
use crate::checksum::crc32c;
use crate::content::Map;
use crate::device::Device;
use crate::error::{Error, Place};
use crate::feature::INCOMPAT_EA_INODE;
use crate::inode::{self, Inode};
use crate::superblock::Superblock;

const MAGIC: u32 = 0xea02_0000;
/// What precedes the entries of a block.
const BLOCK_HEADER: usize = 32;
const BLOCK_CHECKSUM: usize = 16;
const ENTRY: usize = 16;
/// `setxattr` takes no longer values.
const LONGEST_VALUE: usize = 1 << 16;
/// How much of the attributes of one inode is read. Attributes with equal values share an inode, so a block of names
/// may stand for far more than the image holds.
const MOST_BYTES: usize = 1 << 20;
/// The first letters of a name are stored as a number.
const INDEX_DATA: u8 = 7;
const INDEX_ENCRYPTION: u8 = 9;
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;

/// Is an extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// The whole name, with its namespace: `user.comment`.
    pub name: Vec<u8>,
    /// The value as `setxattr` takes it, ACLs too.
    pub value: Vec<u8>,
}

/// Is what an inode has of them.
#[derive(Debug, Default)]
pub struct Attributes {
    /// Those that can be read.
    pub found: Vec<Attribute>,
    /// Why others cannot be.
    pub failed: Vec<Error>,
}

/// Is an attribute as it is stored.
struct Stored {
    index: u8,
    name: Vec<u8>,
    value: Value,
}

enum Value {
    Here(Vec<u8>),
    InInode { inode: u32, size: u32 },
}

/// Reads all attributes of an inode, but those that the file system keeps for itself: the content of a small file, and
/// how content is encrypted.
pub(crate) fn read(device: &mut Device, superblock: &Superblock, inode: &Inode) -> Attributes {
    let mut attributes = Attributes::default();
    let mut stored = of_inode(inode, &mut attributes.failed);
    if let Err(error) = of_block(device, superblock, inode, &mut stored) {
        attributes.failed.push(error);
    }
    let mut left = MOST_BYTES;
    for Stored { index, name, value } in stored {
        if (index == INDEX_DATA && name == b"data") || index == INDEX_ENCRYPTION {
            continue;
        }
        let shown = || full(index, &name).escape_ascii().to_string();
        let length = match &value {
            Value::Here(value) => value.len(),
            Value::InInode { size, .. } => *size as usize,
        };
        let refused = |why: String| Err(Error::damaged(inode.place(), format!("the attribute {} {why}", shown())));
        let value = if length > LONGEST_VALUE {
            refused(format!("has {length} bytes; no more than {LONGEST_VALUE} are read"))
        } else if length > left {
            refused(format!("is not read: together they have more than {MOST_BYTES} bytes"))
        } else {
            left -= length;
            match value {
                Value::Here(value) => Ok(value),
                Value::InInode { inode: holder, size } => of_holder(device, superblock, inode, holder, size),
            }
        };
        let named = || Error::damaged(inode.place(), format!("the attribute {} is damaged", shown()));
        match (value, prefix(index)) {
            (Ok(value), Some("system.posix_acl_access" | "system.posix_acl_default")) => match acl(&value) {
                Some(value) => attributes.found.push(Attribute { name: full(index, &name), value }),
                None => attributes.failed.push(Error::damaged(inode.place(), "its ACL is damaged")),
            },
            (Ok(value), Some(_)) => attributes.found.push(Attribute { name: full(index, &name), value }),
            (Ok(_), None) => attributes.failed.push(named()),
            (Err(error), _) => attributes.failed.push(error),
        }
    }
    attributes
}

/// Returns what of the content of a small file does not fit into the 60 bytes of the inode.
pub(crate) fn inline_rest(inode: &Inode) -> Result<Vec<u8>, Error> {
    let mut failed = Vec::new();
    for Stored { index, name, value } in of_inode(inode, &mut failed) {
        if let (INDEX_DATA, b"data", Value::Here(value)) = (index, &name[..], value) {
            return Ok(value);
        }
    }
    // There is always one, if only an empty one.
    Err(failed.pop().unwrap_or_else(|| Error::damaged(inode.place(), "the content that it should hold is not there")))
}

fn of_inode(inode: &Inode, failed: &mut Vec<Error>) -> Vec<Stored> {
    let mut stored = Vec::new();
    if le32(&inode.tail, 0) == MAGIC {
        let bytes = inode.tail.get(4..).unwrap_or_default();
        if let Err(error) = list(bytes, 0, inode.place(), &mut stored) {
            failed.push(error);
        }
    }
    stored
}

fn of_block(
    device: &mut Device,
    superblock: &Superblock,
    inode: &Inode,
    stored: &mut Vec<Stored>,
) -> Result<(), Error> {
    let block = inode.attribute_block;
    if block == 0 {
        return Ok(());
    }
    let place = Place::Attributes { inode: inode.number, block };
    if !superblock.has_blocks(block, 1) {
        return Err(Error::damaged(place, "it lies beyond the file system"));
    }
    let bytes = device.block(block, place)?;
    if le32(&bytes, 0) != MAGIC {
        return Err(Error::damaged(place, "no attributes where they should be"));
    }
    if superblock.has_checksums() {
        let seed = crc32c(superblock.checksum_seed, &block.to_le_bytes());
        let sum = crc32c(crc32c(seed, &bytes[..BLOCK_CHECKSUM]), &[0; 4]);
        if crc32c(sum, &bytes[BLOCK_CHECKSUM + 4..]) != le32(&bytes, BLOCK_CHECKSUM) {
            return Err(Error::checksum(place));
        }
    }
    list(&bytes, BLOCK_HEADER, place, stored)
}

/// Reads a list of entries, whose values lie at offsets from the beginning of the bytes.
fn list(bytes: &[u8], mut at: usize, place: Place, stored: &mut Vec<Stored>) -> Result<(), Error> {
    let damaged = || Error::damaged(place, "its list of attributes is damaged");
    let mut left = bytes.len();
    loop {
        // Four bytes of zeros end it; so does the end of the space.
        if part(bytes, at, 4).is_none_or(|end| end == [0; 4]) {
            return Ok(());
        }
        let entry = part(bytes, at, ENTRY).ok_or_else(damaged)?;
        let name_length = usize::from(entry[0]);
        let name = part(bytes, at + ENTRY, name_length).ok_or_else(damaged)?.to_vec();
        let (inode, size) = (le32(entry, 4), le32(entry, 8));
        let value = match inode {
            0 => {
                let length = usize::try_from(size).map_err(|_| damaged())?;
                let offset = usize::from(le16(entry, 2));
                // An empty value may lie anywhere.
                let value = if length == 0 { Some(&[][..]) } else { part(bytes, offset, length) };
                let value = value.ok_or_else(damaged)?;
                // No two share a byte.
                left = left.checked_sub(length).ok_or_else(|| {
                    Error::damaged(place, "its attributes overlap; those behind the first ones are lost")
                })?;
                Value::Here(value.to_vec())
            }
            inode => Value::InInode { inode, size },
        };
        stored.push(Stored { index: entry[1], name, value });
        at += ENTRY + name_length.next_multiple_of(4);
    }
}

/// Reads a value that is the content of another inode.
fn of_holder(
    device: &mut Device,
    superblock: &Superblock,
    owner: &Inode,
    number: u32,
    size: u32,
) -> Result<Vec<u8>, Error> {
    let holder = inode::read(device, superblock, number)?;
    let damaged = |what: &str| Error::damaged(holder.place(), what);
    if !superblock.features.incompat(INCOMPAT_EA_INODE) || !holder.holds_attribute() {
        return Err(damaged("it does not hold an extended attribute"));
    }
    if holder.size() != u64::from(size) {
        return Err(damaged("the length of the attribute in it is impossible"));
    }
    let mut value = vec![0; size as usize];
    Map::default().read(device, superblock, &holder, 0, &mut value)?;
    // The checksum of the value is where other inodes have the time of access. Lustre had the owner there instead.
    let sum = crc32c(superblock.checksum_seed, &value);
    let [accessed, modified] = [holder.accessed(), holder.modified()].map(|time| time.seconds as u32);
    if accessed != sum && !(modified == owner.number && holder.generation == owner.generation) {
        return Err(Error::checksum(holder.place()));
    }
    Ok(value)
}

fn prefix(index: u8) -> Option<&'static str> {
    Some(match index {
        1 => "user.",
        ACL_ACCESS => "system.posix_acl_access",
        ACL_DEFAULT => "system.posix_acl_default",
        4 => "trusted.",
        5 => "lustre.",
        6 => "security.",
        INDEX_DATA => "system.",
        8 => "system.richacl",
        10 => "gnu.",
        _ => return None,
    })
}

fn full(index: u8, name: &[u8]) -> Vec<u8> {
    let mut full = prefix(index).unwrap_or_default().as_bytes().to_vec();
    full.extend_from_slice(name);
    full
}

/// Turns an ACL into the form of `setxattr`: on the disk only named users and groups have an id.
fn acl(stored: &[u8]) -> Option<Vec<u8>> {
    const DISK_VERSION: u32 = 1;
    const VERSION: u32 = 2;
    let mut entries = stored.strip_prefix(&DISK_VERSION.to_le_bytes())?;
    let mut acl = VERSION.to_le_bytes().to_vec();
    while !entries.is_empty() {
        let (head, rest) = entries.split_at_checked(4)?;
        acl.extend_from_slice(head);
        entries = rest;
        match le16(head, 0) {
            0x02 | 0x08 => {
                let (id, rest) = entries.split_at_checked(4)?;
                acl.extend_from_slice(id);
                entries = rest;
            }
            0x01 | 0x04 | 0x10 | 0x20 => acl.extend_from_slice(&u32::MAX.to_le_bytes()),
            _ => return None,
        }
    }
    Some(acl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_gets_the_form_of_setxattr() {
        let disk = [1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 5, 0, 0xe8, 3, 0, 0, 4, 0, 5, 0, 0x10, 0, 5, 0, 0x20, 0, 0, 0];
        let none = [0xff; 4];
        let mut expected = vec![2, 0, 0, 0, 1, 0, 7, 0];
        expected.extend(none);
        expected.extend([2, 0, 5, 0, 0xe8, 3, 0, 0, 4, 0, 5, 0]);
        expected.extend(none);
        expected.extend([0x10, 0, 5, 0]);
        expected.extend(none);
        expected.extend([0x20, 0, 0, 0]);
        expected.extend(none);
        assert_eq!(acl(&disk), Some(expected));
        assert_eq!(acl(&disk[..disk.len() - 2]), None);
        assert_eq!(acl(&[2, 0, 0, 0]), None);
    }
}
