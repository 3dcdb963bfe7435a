//! The features that a superblock names, and which of them this reader declines.

/// A journal is there.
pub(crate) const COMPAT_JOURNAL: u32 = 0x4;
/// Copies of the superblock are in two groups only, which it names.
pub(crate) const COMPAT_SPARSE_SUPER2: u32 = 0x200;

/// Directory entries tell the kind of the file.
pub(crate) const INCOMPAT_FILETYPE: u32 = 0x2;
/// The journal holds what is not in its place yet.
pub(crate) const INCOMPAT_RECOVER: u32 = 0x4;
/// Group descriptors lie in their groups.
pub(crate) const INCOMPAT_META_BG: u32 = 0x10;
/// Block numbers have 64 bits.
pub(crate) const INCOMPAT_64BIT: u32 = 0x80;
/// Large extended attributes lie in inodes of their own.
pub(crate) const INCOMPAT_EA_INODE: u32 = 0x400;
/// The seed of checksums is in the superblock.
pub(crate) const INCOMPAT_CSUM_SEED: u32 = 0x2000;
/// Directories are longer than 2 GiB.
pub(crate) const INCOMPAT_LARGE_DIR: u32 = 0x4000;

/// Copies of the superblock are in few groups.
pub(crate) const RO_SPARSE_SUPER: u32 = 0x1;
/// Files are counted in blocks of the file system instead of 512 bytes.
pub(crate) const RO_HUGE_FILE: u32 = 0x8;
/// Group descriptors have a CRC-16.
pub(crate) const RO_GDT_CSUM: u32 = 0x10;
/// Space is given out in clusters.
pub(crate) const RO_BIGALLOC: u32 = 0x200;
/// Metadata have a CRC-32C.
pub(crate) const RO_METADATA_CSUM: u32 = 0x400;

/// filetype, recover, meta_bg, extent, 64bit, mmp, flex_bg, ea_inode, csum_seed, large_dir, inline_data, encrypt,
/// casefold. What else is incompatible would be read wrongly.
const INCOMPAT_READ: u32 = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x3_0000;

/// Is what a superblock names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) compat: u32,
    pub(crate) incompat: u32,
    pub(crate) ro_compat: u32,
}

impl Features {
    pub(crate) fn compat(&self, feature: u32) -> bool {
        self.compat & feature != 0
    }

    pub(crate) fn incompat(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    pub(crate) fn ro_compat(&self, feature: u32) -> bool {
        self.ro_compat & feature != 0
    }

    /// Returns the names of what is not read; nothing when all is.
    pub(crate) fn declined(&self) -> Option<String> {
        let mut left = self.incompat & !INCOMPAT_READ;
        let mut names = Vec::new();
        for (bit, name) in
            [(0x1, "compression"), (0x8, "journal_dev (a journal without its files)"), (0x1000, "dirdata")]
        {
            if left & bit != 0 {
                names.push(name.to_owned());
                left &= !bit;
            }
        }
        if left != 0 {
            names.push(format!("unknown incompatible features {left:#x}"));
        }
        (!names.is_empty()).then(|| names.join(", "))
    }
}
