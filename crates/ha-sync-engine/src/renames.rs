//! Finds out which of the files that one side lacks and which of those that are new there are the same ones under
//! another name: then the other side renames instead of copying.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use ha_sync_core::baseline::Side;
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned, Vanished};
use ha_sync_fs::content::{self, CopyError};
use ha_sync_fs::{FsError, Root};
use xxhash_rust::xxh3::xxh3_128;

use crate::sink::Spooled;
use crate::spool::{Spool, SpoolError};
use crate::stop::Stop;
use crate::tally::lock;

/// So many deletions are looked at, in about 40 bytes each. Beyond that a moved file is copied and deleted.
const MOST: usize = 500_000;

/// Names a file by what moving it leaves as it is.
type Key = u128;

fn key(side: Side, kind: Kind, size: u64, inode: u64, mtime: Time) -> Key {
    let mut bytes = [0; 40];
    bytes[0] = side as u8;
    bytes[1] = match kind {
        Kind::Link => 0,
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::Special => 3,
    };
    bytes[8..16].copy_from_slice(&inode.to_le_bytes());
    // A directory's time and size change with what is in it.
    if kind != Kind::Directory {
        bytes[16..24].copy_from_slice(&size.to_le_bytes());
        bytes[24..40].copy_from_slice(&mtime.0.to_le_bytes());
    }
    xxh3_128(&bytes)
}

/// Is deletions by what was deleted: where they are spooled, and their numbers.
#[derive(Default)]
pub(crate) struct VanishedSet(Mutex<HashMap<Key, (u64, u64)>>);

impl VanishedSet {
    /// Takes a batch of deletions that was spooled at a place.
    pub(crate) fn add(&self, batch: &Batch, place: u64) {
        let mut held = lock(&self.0);
        for planned in &batch.operations {
            let (Some(vanished), Some(entry)) = (&planned.vanished, &planned.destination) else { continue };
            // One of several names of a file: the others still have it.
            if held.len() < MOST && (entry.links == 1 || entry.is_directory()) {
                let key = key(batch.route.from, entry.kind, entry.size, vanished.inode, vanished.mtime);
                held.insert(key, (place, planned.seq));
            }
        }
    }
}

/// Is the operations that renames take the place of, by number.
#[derive(Default)]
pub(crate) struct Renames {
    claimed: HashSet<u64>,
}

impl Renames {
    /// Joins what vanished with what appeared: batches of renames go to `renames`, and the deletions that they take the
    /// place of do not count any more.
    pub(crate) fn find(
        spooled: &Spooled<'_>,
        renames: &Spool,
        roots: [&Root; 2],
        stop: &Stop,
    ) -> Result<Self, SpoolError> {
        let mut found = Self::default();
        let mut vanished = std::mem::take(&mut *lock(&spooled.vanished.0));
        if vanished.is_empty() {
            return Ok(found);
        }
        let mut failed = None;
        spooled.plan.replay(|mut batch| {
            let operations = std::mem::take(&mut batch.operations);
            for planned in operations {
                match found.join(spooled, &mut vanished, roots, (&batch, planned), stop) {
                    Ok(Some(renamed)) => batch.operations.push(renamed),
                    Ok(None) => {}
                    Err(error) => failed = Some(error),
                }
            }
            if !batch.operations.is_empty()
                && let Err(error) = renames.push(&batch)
            {
                failed = Some(error);
            }
            failed.is_none() && !vanished.is_empty() && !stop.is_stopped()
        })?;
        failed.map_or(Ok(found), Err)
    }

    fn join(
        &mut self,
        spooled: &Spooled<'_>,
        vanished: &mut HashMap<Key, (u64, u64)>,
        roots: [&Root; 2],
        (batch, planned): (&Batch, Planned),
        stop: &Stop,
    ) -> Result<Option<Planned>, SpoolError> {
        let Some(source) = planned.source.as_ref().filter(|_| planned.action == Action::Create) else {
            return Ok(None);
        };
        let from = batch.route.from;
        let key = key(from, source.kind, source.size, source.inode, source.mtime);
        let directory = source.is_directory();
        if source.links != 1 && !directory {
            return Ok(None);
        }
        let Some((place, seq)) = vanished.get(&key).copied() else { return Ok(None) };
        let spool = if directory { &spooled.removals } else { &spooled.deletes };
        let old = spool.read(place)?;
        let Some(delete) = old.operations.iter().find(|planned| planned.seq == seq) else { return Ok(None) };
        let (Some(was), Some(seen)) = (&delete.vanished, &delete.destination) else { return Ok(None) };
        let path = batch.directory.join(&planned.name);
        let old_path = old.directory.join(&delete.name);
        let same = match directory {
            // Where a file system does not say when a directory was made, its number is all there is.
            true => source.created.is_none() || is_same_inode(source, was),
            // A rename sets the ctime, which so cannot tell an edit that kept size and mtime (sync.md §11).
            false => has_same_content(roots, from, (&path, source), (&old_path, was), stop).unwrap_or(false),
        };
        if !same {
            return Ok(None);
        }
        vanished.remove(&key);
        spooled.deletions[batch.route.to as usize].remove(&old.directory, delete);
        // A directory is made anew and the old one removed: what is in it decides for itself.
        if directory {
            return Ok(None);
        }
        self.claimed.extend([planned.seq, seq]);
        let destination = Some(seen.clone());
        let action = Action::Rename { from: old_path, seq };
        Ok(Some(Planned { action, destination, source_md5: was.content, ..planned }))
    }

    /// Takes out of a batch what renames take the place of; nothing when nothing is left.
    pub(crate) fn without(&self, mut batch: Batch) -> Option<Batch> {
        if !self.claimed.is_empty() {
            batch.operations.retain(|planned| !self.claimed.contains(&planned.seq));
        }
        (!batch.operations.is_empty()).then_some(batch)
    }
}

/// Tells whether the file was there already when both sides agreed. A number may be given to a new file when the old
/// one is gone; that one is younger than the agreement.
fn is_same_inode(now: &Entry, was: &Vanished) -> bool {
    now.created.is_some_and(|created| created <= was.ctime)
}

/// Tells whether a file has the content of the one that vanished.
fn has_same_content(
    roots: [&Root; 2],
    from: Side,
    (path, source): (&RelPath, &Entry),
    (old_path, was): (&RelPath, &Vanished),
    stop: &Stop,
) -> Result<bool, FsError> {
    let open = |side: Side, path: &RelPath| {
        let (directory, name) = path.split().unwrap_or_default();
        Ok((roots[side as usize].open_dir(&directory)?, name.to_vec()))
    };
    let (directory, name) = open(from, path)?;
    let (other, old_name) = open(from.other(), old_path)?;
    if source.kind == Kind::Link {
        return Ok(directory.read_link(&name)? == other.read_link(&old_name)?);
    }
    if source.created.is_some() && !is_same_inode(source, was) && was.content.is_none() {
        // It is younger, and what the old one held is not known.
        return Ok(false);
    }
    let file = directory.open_file(&name)?;
    let stopped = || stop.is_stopped();
    let read = match was.content {
        Some(known) => content::digest(&file, &stopped).map(|found| found == known),
        None => content::compare(&file, other.open_file(&old_name)?, &stopped).map(|content| content.equal),
    };
    read.or_else(|error| match error {
        CopyError::Read(errno) | CopyError::Write(errno) => Err(directory.error("read", &name, errno)),
        CopyError::Changed | CopyError::Stopped => Ok(false),
    })
}
