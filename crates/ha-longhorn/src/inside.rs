//! What lies inside a volume, by its superblock (volumes.md §4, §5).

use ha_ext4::Summary;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::Borrowed;
use crate::layered::{Image, ImageError};

/// Is what a volume holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Inside {
    /// ext2, ext3 or ext4.
    Ext4 {
        /// In the usual form.
        uuid: String,
        /// The label; empty for none.
        label: String,
        /// Bytes that the file system says it has.
        bytes: u64,
        /// When it was written last.
        written: Option<Timestamp>,
        /// Whether the journal holds what is not in its place yet.
        needs_recovery: bool,
        /// Whether the file system found errors in itself, or is known by a copy of its superblock only.
        has_errors: bool,
    },
    /// XFS.
    Xfs {
        /// In the usual form.
        uuid: String,
        /// The label.
        label: String,
    },
    /// btrfs.
    Btrfs {
        /// In the usual form.
        uuid: String,
        /// The label.
        label: String,
    },
    /// An encrypted container.
    Luks {
        /// 1 or 2.
        version: u16,
    },
    /// A disk of the v2 engine.
    Spdk,
    /// A partition table.
    Partitions,
    /// Zeros where superblocks would be.
    Empty,
    /// Something else.
    Unknown,
}

impl Inside {
    /// Returns its short name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ext4 { .. } => "ext4",
            Self::Xfs { .. } => "xfs",
            Self::Btrfs { .. } => "btrfs",
            Self::Luks { version: 1 } => "LUKS1",
            Self::Luks { .. } => "LUKS2",
            Self::Spdk => "v2 engine disk",
            Self::Partitions => "partition table",
            Self::Empty => "empty",
            Self::Unknown => "unknown",
        }
    }

    /// Returns when the file system was written last, as far as it tells.
    pub fn written(&self) -> Option<Timestamp> {
        match self {
            Self::Ext4 { written, .. } => *written,
            _ => None,
        }
    }
}

/// How much of an image [`of_bytes`] looks at.
pub const LOOK: usize = 68 << 10;

/// Looks at an image. Where nothing is recognised at its beginning, a copy of a superblock of ext4 is looked for.
pub fn of_image(image: &mut dyn Image) -> Result<Inside, ImageError> {
    let mut bytes = vec![0; LOOK];
    image.read_at(0, &mut bytes)?;
    let inside = of_bytes(&bytes);
    if !matches!(inside, Inside::Empty | Inside::Unknown) {
        return Ok(inside);
    }
    Ok(match ha_ext4::find_backup(&mut Borrowed(image)) {
        // Of when it was written, and in which state it is, a copy knows nothing.
        Some(found) => ext4(&Summary { written: 0, needs_recovery: false, has_errors: true, ..found }),
        None => inside,
    })
}

/// Tells whether the ext4 of an image has its journal on another device.
pub fn journal_is_elsewhere(image: &mut dyn Image) -> Result<bool, ImageError> {
    let mut bytes = vec![0; 1024];
    image.read_at(1024, &mut bytes)?;
    Ok(Summary::of_superblock(&bytes).is_some_and(|found| found.journal_is_elsewhere))
}

/// Looks at the first bytes of an image.
pub fn of_bytes(bytes: &[u8]) -> Inside {
    let at = |offset: usize, length: usize| bytes.get(offset..offset + length).unwrap_or_default();
    if at(0, 6) == b"LUKS\xba\xbe" {
        return Inside::Luks { version: u16::from_be_bytes([bytes[6], bytes[7]]) };
    }
    if at(0, 8) == b"SPDKBLOB" {
        return Inside::Spdk;
    }
    if at(0, 4) == b"XFSB" {
        return Inside::Xfs { uuid: uuid(at(32, 16)), label: label(at(108, 12)) };
    }
    if let Some(found) = Summary::of_superblock(at(1024, 1024)) {
        return ext4(&found);
    }
    if at(65_536 + 64, 8) == b"_BHRfS_M" {
        return Inside::Btrfs { uuid: uuid(at(65_536 + 32, 16)), label: label(at(65_536 + 299, 256)) };
    }
    if at(510, 2) == [0x55, 0xaa] {
        return Inside::Partitions;
    }
    if crate::layered::is_zero(bytes) { Inside::Empty } else { Inside::Unknown }
}

fn ext4(found: &Summary) -> Inside {
    Inside::Ext4 {
        uuid: uuid(&found.uuid),
        label: label(&found.label),
        bytes: found.bytes,
        written: Timestamp::from_second(found.written).ok().filter(|_| found.written > 0),
        needs_recovery: found.needs_recovery,
        has_errors: found.has_errors,
    }
}

fn label(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn uuid(bytes: &[u8]) -> String {
    let hex = |range: std::ops::Range<usize>| -> String {
        bytes.get(range).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)].join("-")
}
