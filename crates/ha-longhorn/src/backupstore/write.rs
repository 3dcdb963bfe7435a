//! Writes an image as a backup that Longhorn can restore (volumes.md §6, §7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use super::codec::{self, Compression, block_name};
use super::config::{BackupConfig, BlockMapping, VolumeConfig};
use super::lock::{self, Lock};
use super::{BLOCK_SIZE, BackupError, Store, StoreError, backup_path, block_path, restorable, usable};
use crate::layered::{self, Content, Image, ImageError, is_zero};
use crate::watch::Watch;

/// Says what backup is to be made.
#[derive(Debug, Clone)]
pub struct WriteOrder {
    /// The volume.
    pub volume: String,
    /// The name of the backup.
    pub name: String,
    /// The snapshot that it counts as made of.
    pub snapshot: String,
    /// The time, RFC 3339 in UTC with whole seconds.
    pub now: String,
    /// When the snapshot was made, in the same form.
    pub snapshot_created: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How blocks are packed.
    pub compression: Compression,
    /// The size of a block in bytes.
    pub block_size: u64,
    /// The name of the lock that is held meanwhile: `lock-` and 16 hexadecimal digits.
    pub lock: String,
    /// Whether locks of others are looked past.
    pub ignore_locks: bool,
    /// After so long the lock is written anew: [`super::LOCK_RENEWAL`]. It is lost after two and a half times that.
    pub lock_renewal: Duration,
}

/// Is what a backup that was written consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Where its configuration is, from the top of the backup target.
    pub path: String,
    /// The size of the volume in bytes, rounded up to whole blocks of 2 MiB.
    pub size: u64,
    /// Blocks of the backup.
    pub blocks: u64,
    /// Blocks that the store did not have.
    pub new_blocks: u64,
    /// Their bytes, packed.
    pub uploaded: u64,
    /// Locks of others that nobody had written anew for [`super::LOCK_EXPIRY`], and that were looked past.
    pub expired_locks: Vec<String>,
}

/// Is why no backup was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The source cannot be read.
    #[error("failed to read the source")]
    Read(#[from] ImageError),
    /// The store refuses.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A file of the source was changed meanwhile.
    #[error("changed while it was read: {0}")]
    Changed(String),
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Backup(error.into())
    }
}

/// Writes a backup: the volume first when it is new, then the blocks, then the backup, then the volume's last backup.
/// A block that is there is read, and written again when it is damaged.
pub fn write(
    store: &dyn Store,
    image: &mut dyn Image,
    order: &WriteOrder,
    watch: &dyn Watch,
) -> Result<Written, WriteError> {
    possible(image, order)?;
    usable(&order.lock)?;
    let lock = Lock::take(store, &order.volume, &order.lock, order.ignore_locks)?;
    std::thread::scope(|scope| {
        let (_until, end) = mpsc::channel();
        let lock = &lock;
        scope.spawn(move || lock.keep(order.lock_renewal, &end));
        write_locked(store, image, order, lock, watch)
    })
}

/// Is what a backup would consist of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Where its configuration would be, from the top of the backup target.
    pub path: String,
    /// The size of the volume in bytes, rounded up to whole blocks of 2 MiB.
    pub size: u64,
    /// Blocks of the backup. Those that turn out to be zeros are left out.
    pub blocks_at_most: u64,
    /// Whether the store does not have the volume yet.
    pub new_volume: bool,
    /// Locks of others that have expired, and that would be looked past.
    pub expired_locks: Vec<String>,
}

/// Finds out what [`write`] would make and at what it would halt, without reading the data, and writes nothing. `now`,
/// in s since 1970, is held against the locks of others.
pub fn check(store: &dyn Store, image: &mut dyn Image, order: &WriteOrder, now: i64) -> Result<Planned, WriteError> {
    let size = possible(image, order)?;
    let expired_locks = if order.ignore_locks { Vec::new() } else { lock::look(store, &order.volume, now)? };
    let path = backup_path(&order.volume, &order.name);
    if store.get(&path)?.is_some() {
        return Err(BackupError::Exists { path }.into());
    }
    let volume = super::volume(store, &order.volume)?;
    let new_volume = volume.is_none();
    if let Some(volume) = volume.filter(|volume| !volume.is_packed_with(order.compression)) {
        return Err(BackupError::Compression { has: volume.compression, wanted: order.compression.name() }.into());
    }
    let (mut blocks_at_most, mut position) = (0, 0);
    loop {
        position = empty_until(image, position)?;
        if position >= image.size() {
            return Ok(Planned { path, size, blocks_at_most, new_volume, expired_locks });
        }
        blocks_at_most += 1;
        position = position - position % order.block_size + order.block_size;
    }
}

/// Halts where no such backup can be. Returns the size that the volume would have.
fn possible(image: &dyn Image, order: &WriteOrder) -> Result<u64, BackupError> {
    restorable(&order.volume)?;
    restorable(&order.name)?;
    let size = image.size().next_multiple_of(BLOCK_SIZE);
    match size.is_multiple_of(order.block_size) {
        true => Ok(size),
        false => Err(BackupError::Size { size, block_size: order.block_size }),
    }
}

fn write_locked(
    store: &dyn Store,
    image: &mut dyn Image,
    order: &WriteOrder,
    lock: &Lock,
    watch: &dyn Watch,
) -> Result<Written, WriteError> {
    let size = image.size().next_multiple_of(BLOCK_SIZE);
    let path = backup_path(&order.volume, &order.name);
    // One of which the volume does not know may be what a write that was killed has left.
    let there = match super::backup(store, &order.volume, &order.name) {
        Ok(there) => Some(there),
        Err(BackupError::Missing { .. }) => None,
        Err(_) => return Err(BackupError::Exists { path }.into()),
    };
    let mut volume = match super::volume(store, &order.volume)? {
        // Blocks of all backups lie under the same names, whatever they are packed with.
        Some(volume) if !volume.is_packed_with(order.compression) => {
            return Err(BackupError::Compression { has: volume.compression, wanted: order.compression.name() }.into());
        }
        Some(volume) => volume,
        None => {
            let volume = VolumeConfig::new(&order.volume, size, &order.now, order.compression);
            store.put(&super::volume_config_path(&order.volume), &volume.to_bytes())?;
            volume
        }
    };
    if there.as_ref().is_some_and(|there| !volume.last_backup.is_empty() && volume.last_backup_at >= there.created) {
        return Err(BackupError::Exists { path }.into());
    }
    let mut blocks = Vec::new();
    let mut known = BTreeSet::new();
    let (mut new_blocks, mut uploaded) = (0, 0);
    let mut plain = vec![0; usize::try_from(order.block_size).unwrap_or(0)];
    watch.expect(image.size());
    let mut position = 0;
    while position < image.size() {
        if watch.stopped() {
            return Err(BackupError::Stopped.into());
        }
        lock.held(order.lock_renewal)?;
        let end = (position + order.block_size).min(image.size());
        let empty = empty_until(image, position)?;
        if empty < end {
            image.read_at(position, &mut plain)?;
            if !is_zero(&plain) {
                let checksum = block_name(&plain);
                if known.insert(checksum.clone())
                    && there.is_none()
                    && let Some(packed) = upload(store, order, &checksum, &plain)?
                {
                    (new_blocks, uploaded) = (new_blocks + 1, uploaded + packed);
                }
                blocks.push(BlockMapping { offset: position, checksum });
            }
        }
        // To the block in which data may be.
        let next = if empty < end { end } else { (empty - empty % order.block_size).max(end) };
        watch.advance(next.min(image.size()) - position);
        position = next;
    }
    if let Some(file) = layered::changed(image).map_err(BackupError::from)? {
        return Err(WriteError::Changed(file));
    }
    let count = blocks.len() as u64;
    if let Some(there) = there {
        let same = there.blocks == blocks && there.block_size == order.block_size && !there.created.is_empty();
        if !same || there.compression != order.compression {
            return Err(BackupError::Exists { path }.into());
        }
        volume.block_count = blocks_in_use(store, &order.volume, known)?;
        volume.size = volume.size.max(size);
        (volume.last_backup, volume.last_backup_at) = (there.name, there.created);
        lock.held(order.lock_renewal)?;
        store.put(&super::volume_config_path(&order.volume), &volume.to_bytes())?;
        let expired_locks = lock.expired.clone();
        return Ok(Written { path, size, blocks: count, new_blocks: 0, uploaded: 0, expired_locks });
    }
    let backup = BackupConfig {
        name: order.name.clone(),
        volume: order.volume.clone(),
        snapshot: order.snapshot.clone(),
        snapshot_created: order.snapshot_created.clone(),
        created: order.now.clone(),
        size: count * order.block_size,
        labels: order.labels.clone(),
        incremental: false,
        compression: order.compression,
        block_size: order.block_size,
        blocks,
        uploaded,
    };
    // Counted, not added up: blocks of a backup that was never finished are there already and were not counted.
    volume.block_count = blocks_in_use(store, &order.volume, known)?;
    lock.held(order.lock_renewal)?;
    store.put(&path, &backup.to_bytes())?;
    volume.size = volume.size.max(size);
    volume.last_backup.clone_from(&order.name);
    volume.last_backup_at.clone_from(&order.now);
    store.put(&super::volume_config_path(&order.volume), &volume.to_bytes())?;
    let expired_locks = lock.expired.clone();
    Ok(Written { path, size, blocks: count, new_blocks, uploaded, expired_locks })
}

/// Counts the different blocks of all backups of a volume, beside those that are known.
fn blocks_in_use(store: &dyn Store, volume: &str, mut known: BTreeSet<String>) -> Result<u64, BackupError> {
    for name in super::backups(store, volume)? {
        match super::backup(store, volume, &name) {
            Ok(backup) => known.extend(backup.blocks.into_iter().map(|block| block.checksum)),
            // One that nobody can read uses none.
            Err(BackupError::Config { .. } | BackupError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(known.len() as u64)
}

/// Returns where the first data at or behind a position may begin; the image's end where there are none.
fn empty_until(image: &mut dyn Image, mut position: u64) -> Result<u64, ImageError> {
    while position < image.size() {
        let piece = image.piece_at(position)?;
        if piece.content == Content::Data {
            break;
        }
        position = piece.end;
    }
    Ok(position.min(image.size()))
}

/// Writes a block unless a good one is there. Returns the packed bytes of a block that was not there.
fn upload(store: &dyn Store, order: &WriteOrder, checksum: &str, plain: &[u8]) -> Result<Option<u64>, WriteError> {
    let damaged = match super::block(store, &order.volume, checksum, order.compression, order.block_size) {
        Ok(_) => return Ok(None),
        Err(BackupError::BlockMissing { .. }) => false,
        Err(error @ BackupError::BlockDamaged { .. }) => {
            // Not damaged after all when another backup has it packed otherwise: then it must stay.
            let others = [Compression::Lz4, Compression::Gzip, Compression::None];
            let reads = |other| super::block(store, &order.volume, checksum, other, order.block_size).is_ok();
            if others.into_iter().any(reads) {
                return Err(error.into());
            }
            true
        }
        Err(error) => return Err(error.into()),
    };
    let path = block_path(&order.volume, checksum);
    let packed = codec::pack(plain, order.compression)
        .map_err(|error| BackupError::BlockDamaged { path: path.clone(), why: error.to_string() })?;
    store.put(&path, &packed)?;
    Ok((!damaged).then_some(packed.len() as u64))
}
