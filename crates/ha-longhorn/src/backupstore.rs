//! Longhorn's backup store (volumes.md §7): volumes, backups, and blocks that are named by their content.

mod codec;
mod config;
mod image;
mod lock;
mod s3;
mod store;
mod write;

use std::collections::BTreeMap;

use ha_sync_fs::FsError;
use serde::Serialize;

use crate::watch::Watch;

pub use codec::{Compression, block_name};
pub use config::{BackupConfig, BlockMapping, ConfigError, VolumeConfig};
pub use image::BackupImage;
pub use lock::{LOCK_EXPIRY, LOCK_RENEWAL};
pub use s3::{S3Settings, S3Store};
pub use store::{DirectoryStore, Store, StoreError};
pub use write::{Planned, WriteError, WriteOrder, Written, check, write};

/// Is the block size that Longhorn takes when nothing else is asked for.
pub const BLOCK_SIZE: u64 = 2 << 20;
/// Is the other block size that Longhorn knows.
pub const LARGE_BLOCK_SIZE: u64 = 16 << 20;

/// Is why a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A configuration cannot be understood.
    #[error("not a usable configuration: {path}")]
    Config {
        /// Where in the store.
        path: String,
        /// Why.
        #[source]
        cause: ConfigError,
    },
    /// There is no such volume or backup.
    #[error("not in the backup store: {path}")]
    Missing {
        /// Where in the store.
        path: String,
    },
    /// A block is not there.
    #[error("a block is missing: {path}")]
    BlockMissing {
        /// Where in the store.
        path: String,
    },
    /// A block cannot be unpacked, or is not what its name says.
    #[error("a block is damaged: {path}: {why}")]
    BlockDamaged {
        /// Where in the store.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The backup was never finished.
    #[error("the backup was never finished: {name}")]
    Unfinished {
        /// Its name.
        name: String,
    },
    /// Where a block of a backup lies, or how large the volume is, makes no sense.
    #[error("the backup does not fit the size of the volume: {name}: {why}")]
    Misfit {
        /// The name of the backup.
        name: String,
        /// In what.
        why: String,
    },
    /// A backup of this name is there already.
    #[error("there is a backup of this name already: {path}")]
    Exists {
        /// Where in the store.
        path: String,
    },
    /// Another process has a lock on the volume.
    #[error("the volume is locked in the backup store: {path}, written {age} s ago")]
    Locked {
        /// The lock.
        path: String,
        /// How long ago it was written, in s by the store's clock.
        age: i64,
    },
    /// Our own lock was not written anew in time.
    #[error("the lock in the backup store has expired: {path}")]
    LockLost {
        /// The lock.
        path: String,
        /// Why it could not be written, when that is known.
        #[source]
        cause: Option<StoreError>,
    },
    /// The size does not go with the block size.
    #[error("the size of the volume is no multiple of the block size: {size} and {block_size}")]
    Size {
        /// The size of the volume in bytes.
        size: u64,
        /// That of a block.
        block_size: u64,
    },
    /// The volume's blocks are packed otherwise.
    #[error("the blocks of this volume are packed with {has:?}, not with {wanted}")]
    Compression {
        /// How they are.
        has: String,
        /// How they were to be.
        wanted: &'static str,
    },
    /// The name cannot be part of a path.
    #[error("not a usable name: {0:?}")]
    Name(String),
    /// Longhorn would refuse the name.
    #[error("Longhorn takes no name but of two characters or more, the first a letter or digit: {0:?}")]
    NotRestorable(String),
    /// A local file cannot be read.
    #[error(transparent)]
    File(#[from] FsError),
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Is the folder of all volumes below a backup target.
const ROOT: &str = "backupstore/volumes";

/// Returns the folder of a volume, from the top of the backup target.
pub fn volume_path(volume: &str) -> String {
    let hash = codec::sha512(volume.as_bytes());
    format!("{ROOT}/{}/{}/{volume}", &hash[0..2], &hash[2..4])
}

fn backup_path(volume: &str, name: &str) -> String {
    format!("{}/backups/backup_{name}.cfg", volume_path(volume))
}

fn volume_config_path(volume: &str) -> String {
    format!("{}/volume.cfg", volume_path(volume))
}

fn block_path(volume: &str, checksum: &str) -> String {
    format!("{}/blocks/{}/{}/{checksum}.blk", volume_path(volume), &checksum[0..2], &checksum[2..4])
}

fn usable(name: &str) -> Result<(), BackupError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match !name.is_empty() && name.len() < 200 && name.bytes().all(plain) && !name.starts_with('.') {
        true => Ok(()),
        false => Err(BackupError::Name(name.to_owned())),
    }
}

/// Checks a name that is to be written: Longhorn restores no other.
fn restorable(name: &str) -> Result<(), BackupError> {
    usable(name)?;
    match name.len() > 1 && name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        true => Ok(()),
        false => Err(BackupError::NotRestorable(name.to_owned())),
    }
}

/// Lists the names of the volumes.
pub fn volumes(store: &dyn Store) -> Result<Vec<String>, BackupError> {
    let mut volumes = Vec::new();
    for first in store.list(ROOT)? {
        for second in store.list(&format!("{ROOT}/{first}"))? {
            for volume in store.list(&format!("{ROOT}/{first}/{second}"))? {
                if usable(&volume).is_ok() && volume_path(&volume) == format!("{ROOT}/{first}/{second}/{volume}") {
                    volumes.push(volume);
                }
            }
        }
    }
    volumes.sort();
    Ok(volumes)
}

/// Lists the names of the backups of a volume.
pub fn backups(store: &dyn Store, volume: &str) -> Result<Vec<String>, BackupError> {
    usable(volume)?;
    let names = store.list(&format!("{}/backups", volume_path(volume)))?;
    let mut names: Vec<String> = names
        .iter()
        .filter_map(|name| name.strip_prefix("backup_")?.strip_suffix(".cfg"))
        .filter(|name| usable(name).is_ok())
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}

/// Reads what the store says of a volume.
pub fn volume(store: &dyn Store, name: &str) -> Result<Option<VolumeConfig>, BackupError> {
    usable(name)?;
    let path = volume_config_path(name);
    let Some(content) = store.get(&path)? else { return Ok(None) };
    VolumeConfig::parse(&content).map(Some).map_err(|cause| BackupError::Config { path, cause })
}

/// Reads what the store says of a backup.
pub fn backup(store: &dyn Store, volume: &str, name: &str) -> Result<BackupConfig, BackupError> {
    usable(volume)?;
    usable(name)?;
    let path = backup_path(volume, name);
    let content = store.get(&path)?.ok_or_else(|| BackupError::Missing { path: path.clone() })?;
    let config = BackupConfig::parse(&content).map_err(|cause| BackupError::Config { path, cause })?;
    // The name under which it is found is the one that finds it again.
    Ok(BackupConfig { name: name.to_owned(), ..config })
}

/// Reads a block and checks it against its name.
fn block(
    store: &dyn Store,
    volume: &str,
    checksum: &str,
    compression: Compression,
    size: u64,
) -> Result<Vec<u8>, BackupError> {
    let path = block_path(volume, checksum);
    let packed = store.get(&path)?.ok_or_else(|| BackupError::BlockMissing { path: path.clone() })?;
    let damaged = |why: String| BackupError::BlockDamaged { path: path.clone(), why };
    let plain = codec::unpack(&packed, compression, size).map_err(|error| damaged(error.to_string()))?;
    if plain.len() as u64 != size {
        return Err(damaged(format!("it has {} bytes instead of {size}", plain.len())));
    }
    match block_name(&plain) {
        name if name == checksum => Ok(plain),
        name => Err(damaged(format!("its content has the sum {name}"))),
    }
}

fn with_cause(error: &BackupError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Is what a check of a backup has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Different blocks that were read.
    pub blocks: u64,
    /// Their bytes, unpacked.
    pub bytes: u64,
    /// What is wrong, a sentence for each block, and one for the volume.
    pub faults: Vec<String>,
}

/// Reads every block of a backup once: it exists, unpacks, matches its name, and lies in the volume. Without a usable
/// `volume.cfg` nobody restores it.
pub fn verify(
    store: &dyn Store,
    volume: &str,
    config: &BackupConfig,
    watch: &dyn Watch,
) -> Result<Verified, BackupError> {
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for mapping in &config.blocks {
        wanted.entry(&mapping.checksum).or_insert(mapping.offset);
    }
    let size = config.block_size;
    watch.expect(wanted.len() as u64 * size);
    let mut verified = Verified::default();
    let known = match self::volume(store, volume) {
        Ok(Some(known)) => image::fits(config, known.size),
        Ok(None) => Err(BackupError::Missing { path: volume_config_path(volume) }),
        Err(error) => Err(error),
    };
    match known {
        Err(BackupError::Store(error)) => return Err(error.into()),
        Err(error) => verified.faults.push(with_cause(&error)),
        Ok(()) => {}
    }
    for (checksum, offset) in wanted {
        if watch.stopped() {
            return Err(BackupError::Stopped);
        }
        match block(store, volume, checksum, config.compression, size) {
            Ok(_) => (verified.blocks, verified.bytes) = (verified.blocks + 1, verified.bytes + size),
            Err(error @ (BackupError::BlockMissing { .. } | BackupError::BlockDamaged { .. })) => {
                verified.faults.push(format!("{error}, at offset {offset}"));
            }
            Err(error) => return Err(error),
        }
        watch.advance(size);
    }
    Ok(verified)
}
