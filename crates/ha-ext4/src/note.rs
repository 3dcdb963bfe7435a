//! What a person should know about a file system that could be opened.

use std::fmt;

/// Is something about the whole file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The superblock is a copy, since the first is damaged.
    BackupSuperblock {
        /// The group in which it lies.
        group: u32,
    },
    /// The superblock has a wrong checksum, and no copy is better.
    SuperblockChecksum,
    /// The image ends before the file system does.
    Short {
        /// Bytes of the image.
        size: u64,
        /// Bytes of the file system.
        needed: u64,
    },
    /// The journal was laid over the blocks.
    Replayed {
        /// How many transactions.
        transactions: u32,
        /// How many blocks.
        blocks: u64,
    },
    /// The journal cannot be read, or not to its end.
    JournalDamaged {
        /// What is wrong.
        what: String,
    },
    /// The journal was laid over, but for the superblock in it: that of before is used.
    JournaledSuperblock {
        /// What is wrong with it.
        what: String,
    },
    /// The journal holds something that a clean file system should not have; it was not laid over.
    JournalIgnored,
    /// Behind the last transaction a fast commit follows, which is not laid over.
    FastCommit {
        /// The transaction that it belongs to.
        transaction: u32,
    },
}

impl Note {
    /// Tells whether something may be missing or old because of it.
    pub fn is_loss(&self) -> bool {
        !matches!(self, Self::Replayed { .. })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BackupSuperblock { group } => {
                write!(formatter, "the superblock is damaged; its copy in group {group} is read instead")
            }
            Self::SuperblockChecksum => {
                formatter.write_str("the checksum of the superblock is wrong, and no copy of it was found")
            }
            Self::Short { size, needed } => {
                write!(formatter, "the image ends before the file system: {size} of {needed} bytes")
            }
            Self::Replayed { transactions, blocks } => write!(
                formatter,
                "the journal is laid over in memory: {blocks} blocks of {transactions} transactions"
            ),
            Self::JournalDamaged { what } => {
                write!(formatter, "the journal is not laid over to its end, so the last changes may be missing: {what}")
            }
            Self::JournaledSuperblock { what } => {
                write!(formatter, "the superblock in the journal is damaged, so the one before it is used: {what}")
            }
            Self::JournalIgnored => formatter.write_str(
                "the journal holds transactions although the file system says that none are needed; they are not laid over",
            ),
            Self::FastCommit { transaction } => write!(
                formatter,
                "the journal holds a fast commit of transaction {transaction}, which is not laid over: the last changes are missing"
            ),
        }
    }
}
