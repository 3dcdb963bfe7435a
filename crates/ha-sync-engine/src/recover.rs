//! Finds out what a run that was interrupted had done of what it was about to do, and tidies up after it.

use std::path::Path;
use std::sync::Arc;

use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::filter;
use ha_sync_core::name::RunId;
use ha_sync_core::path::{RelPath, unescape};
use ha_sync_core::record::{Identity, Intent, Operation, OperationStatus};
use ha_sync_fs::{Dir, Fence, FsError, Root, commit, trash};
use jiff::Timestamp;
use rustix::io::Errno;

use crate::baseline::{Baseline, BaselineError, Ends, Update};

/// A file system keeps a time at least this exactly.
const COARSEST: i128 = 2 * Time::SECOND;

/// Resolves the open intents of a dead run at the root that they change: returns the operations that were completed. Old versions that had just
/// been exchanged out go to the trash, other temporary entries away.
///
/// The pair's lock must be held; `fence` is that lock's, when it must be renewed.
pub fn resolve(
    destination: &Path,
    run: &RunId,
    intents: &[&Intent],
    keep_replaced: bool,
    now: Timestamp,
    fence: Option<Arc<Fence>>,
) -> Result<Vec<Operation>, FsError> {
    // Mounts may have been crossed; what the intents name is checked entry by entry.
    let root = Root::open(destination, true)?.fenced(fence);
    if !intents.is_empty() && root.open_dir(&RelPath::root())?.list()?.is_empty() {
        // Most likely it is not mounted: nothing can be told of what was done.
        let path = ha_sync_fs::error::printable_path(destination);
        return Err(FsError::new("find what an interrupted run did: nothing is in", path, Errno::NOENT));
    }
    let mut done = Vec::new();
    for intent in intents {
        let Some(path) = unescape(&intent.filepath).and_then(RelPath::from_bytes) else { continue };
        let Some((directory, name)) = path.split() else { continue };
        let opened = match root.open_dir(&directory) {
            Ok(opened) => opened,
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => continue,
            Err(error) => return Err(error),
        };
        tidy(&root, &opened, run, intent, name, keep_replaced)?;
        if is_done(&opened, intent, name)? {
            done.push(Operation {
                seq: intent.seq,
                operation: intent.operation,
                direction: intent.direction,
                filepath: intent.filepath.clone(),
                size_before: size(intent.before.as_ref()),
                size_after: size(intent.after.as_ref()),
                md5_before: None,
                md5_after: None,
                bytes: 0,
                started_at: now,
                ended_at: Some(now),
                status: OperationStatus::Success,
                error_message: None,
                reason: Some("found done after an interruption".to_owned()),
            });
        }
    }
    Ok(done)
}

/// Takes out of a baseline what a dead run had deleted, and what is below directories that it made: its own next one
/// was never written. Else a path that is made anew with the old content would count as unchanged on one side and
/// deleted on the other, and so would what was not yet copied into a directory that had been away. Whatever else it did
/// is found to be the same on both sides.
///
/// `forgotten` are escaped paths, `spool` a directory for what waits meanwhile. A baseline that cannot be used is left to
/// the run, which says so.
pub fn forget(
    baseline: &Path,
    ends: &Ends,
    forgotten: &[String],
    spool: &Path,
    run: &RunId,
    now: Timestamp,
) -> Result<(), BaselineError> {
    let Ok(Some(old)) = Baseline::open(baseline, ends) else { return Ok(()) };
    let update = Update::new(spool, ends)?;
    for path in forgotten.iter().filter_map(|path| unescape(path).and_then(RelPath::from_bytes)) {
        if let Some((directory, name)) = path.split() {
            update.amend(&directory, name, None)?;
        }
    }
    update.finish(baseline, Some(&old), run, now).map(drop)
}

fn size(identity: Option<&Identity>) -> Option<u64> {
    identity.filter(|identity| identity.kind != 'd').map(|identity| identity.size)
}

/// Removes the temporary entry of an intent when it certainly is what the run staged, or the old version of a run that
/// was to keep none; everything else goes to the trash: the version that was replaced, or one that somebody put in its
/// place in the last moment.
fn tidy(
    root: &Root,
    directory: &Dir,
    run: &RunId,
    intent: &Intent,
    name: &[u8],
    keep_replaced: bool,
) -> Result<(), FsError> {
    let temporary = filter::temporary_name(run, intent.seq);
    let Some(entry) = directory.find(&temporary)? else { return Ok(()) };
    let is_before = |before: &Identity, entry: &Entry| before.inode == entry.inode && matches(before, entry);
    let worthless = match &intent.before {
        // Nothing was replaced: it never was anything but ours.
        None => true,
        Some(before) => {
            (!keep_replaced && is_before(before, &entry))
                || directory.find(name)?.is_some_and(|now| is_before(before, &now))
        }
    };
    if worthless && !entry.is_directory() {
        return directory.remove_file(&temporary);
    }
    if worthless {
        match directory.remove_directory(&temporary) {
            Err(error) if matches!(error.errno(), Some(Errno::NOTEMPTY | Errno::EXIST)) => {}
            other => return other,
        }
    }
    let trash = trash::open(root, run, directory.path())?;
    commit::carry(directory, &temporary, &entry, &trash, name)
}

fn matches(identity: &Identity, entry: &Entry) -> bool {
    let kind = match entry.kind {
        Kind::File => 'f',
        Kind::Directory => 'd',
        Kind::Link => 'l',
        Kind::Special => 's',
    };
    identity.kind == kind && (kind == 'd' || (identity.size == entry.size && same_time(identity, entry)))
}

fn same_time(identity: &Identity, entry: &Entry) -> bool {
    identity.mtime == entry.mtime.0
        || Time(identity.mtime).floor(COARSEST) == entry.mtime
        || Time(identity.mtime).floor(Time::SECOND) == entry.mtime
}

/// Tells whether metadata were set on an inode that was to stay. What was set by half, or changed again by work in
/// a directory, was not: the next run does it, and records it.
fn metadata_is_set(before: &Identity, after: &Identity, entry: &Entry) -> bool {
    let (Some(had), Some(wanted)) = (&before.metadata, &after.metadata) else { return false };
    let owner = (entry.uid, entry.gid);
    let owned = owner == (wanted.uid, wanted.gid);
    // Where owners may not be set, they stay, and set-id bits go.
    let kept = owner == (had.uid, had.gid) && entry.mode == wanted.mode & 0o1777;
    entry.inode == before.inode
        && matches(after, entry)
        && same_time(after, entry)
        && entry.ctime.0 != had.ctime
        && ((owned && entry.mode == wanted.mode) || kept)
}

/// Tells whether the destination is what the operation was to make of it.
fn is_done(directory: &Dir, intent: &Intent, name: &[u8]) -> Result<bool, FsError> {
    let entry = directory.find(name)?;
    Ok(match (&intent.before, &intent.after, entry) {
        (_, None, None) => true,
        (None, Some(after), Some(entry)) => matches(after, &entry),
        (Some(before), Some(after), Some(entry)) if after.inode == before.inode => {
            metadata_is_set(before, after, &entry)
        }
        (Some(before), Some(after), Some(entry)) => entry.inode != before.inode && matches(after, &entry),
        _ => false,
    })
}
