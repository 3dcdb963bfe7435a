//! Executes batches of a plan: checks what the plan saw, stages, commits, records. It decides nothing.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_sync_core::baseline::{Agreed, Side};
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::event::Event;
use ha_sync_core::filter;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned};
use ha_sync_core::reason::Reason;
use ha_sync_core::record::{Identity, Intent, Operation, OperationKind, OperationLog, OperationStatus, Way};
use ha_sync_fs::attributes;
use ha_sync_fs::commit::{self, CommitError, Ways};
use ha_sync_fs::content::{self, Abilities, Copier};
use ha_sync_fs::{Dir, FsError, Root, trash};
use jiff::Timestamp;
use rustix::io::Errno;

use crate::agree::Agreements;
use crate::closed::is_open_to_owner;
use crate::job::{Fsync, Job};
use crate::sink::{hex, record, renamed};
use crate::stop::{Stop, StopReason};
use crate::tally::{Tally, lock};

mod crew;
mod metadata;
mod put;
mod rename;

pub(crate) use crew::{Announced, Crew};

/// Waits before an operation is tried again after a transient error.
pub(crate) const BACKOFF: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(150)];

/// Is how long a shard may leave a directory with the time of its own work, in nanoseconds.
const LONGEST_WORK: i128 = 3_600_000_000_000;

pub(crate) struct Executor<'a> {
    pub(crate) job: &'a Job,
    pub(crate) run: &'a RunId,
    /// A's and B's root.
    pub(crate) roots: [&'a Root; 2],
    /// The root of the side that it changes.
    pub(crate) destination: &'a Root,
    /// Which way its operations go, in a two-way run.
    pub(crate) direction: Option<Way>,
    /// Where it says what both sides agree on then.
    pub(crate) agreements: Option<&'a Agreements<'a>>,
    pub(crate) log: &'a dyn OperationLog,
    pub(crate) tally: &'a Tally<'a>,
    pub(crate) stop: &'a Stop,
    pub(crate) now: fn() -> Timestamp,
    /// Whether attributes are kept by both sides.
    pub(crate) attributes: bool,
    /// Whether we are root.
    pub(crate) privileged: bool,
    /// Whether owners can be set, as far as was tried.
    pub(crate) owners: AtomicBool,
    pub(crate) modes: bool,
    /// The coarser side's smallest step of an mtime, nanoseconds.
    pub(crate) granularity: i128,
    /// Bytes that a copy must leave free.
    pub(crate) min_free: u64,
    /// A copy would have taken what must be left free: there are no more.
    pub(crate) full: AtomicBool,
    pub(crate) ways: Ways,
    pub(crate) abilities: Abilities,
    /// Directories that get their final mode when everything in them is done: they are closed to their owner.
    pub(crate) closed: Mutex<Vec<(RelPath, u32, Option<Time>)>>,
    pub(crate) removed: Mutex<Option<OwnedFd>>,
    /// Bytes that copies under way may still write.
    pub(crate) promised: Mutex<u64>,
    /// Losers of conflicts of which no copy could be made: they are not replaced.
    pub(crate) unkept: Arc<Mutex<HashSet<RelPath>>>,
    /// Conflict copies that one side has already; the other's executor agrees on them.
    pub(crate) kept: Arc<Mutex<HashMap<RelPath, Entry>>>,
    /// Directories whose time could not be set back after work in them.
    pub(crate) unsettled: Mutex<Vec<RelPath>>,
}

/// Says why an operation failed.
#[derive(Debug, thiserror::Error)]
enum OperationError {
    #[error("changed since scan")]
    Changed,
    #[error("changed while copying")]
    ChangedWhileCopying,
    #[error("changed since scan: its directory was moved away while it was worked in")]
    Moved,
    #[error("not linked: the first of its names is not the source's version: {0}")]
    NoLeader(RelPath),
    #[error("the run is being stopped")]
    Stopped,
    #[error("not copied: {free} bytes are free, {wanted} more are needed to leave --min-free")]
    MinFree { free: u64, wanted: u64 },
    #[error("not copied: a copy before would have left less free than --min-free, and no more are made")]
    NoMoreCopies,
    #[error("not replaced: no copy of the loser could be made beside it")]
    NotKept,
    #[error("the directory is not empty any more")]
    NotEmpty,
    #[error("{0}")]
    Planned(String),
    #[error("skipped: {0}")]
    Skipped(Reason),
    #[error(transparent)]
    Commit(CommitError),
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl From<CommitError> for OperationError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Changed => Self::Changed,
            CommitError::Fs(error) => Self::Fs(error),
            other => Self::Commit(other),
        }
    }
}

/// Is the numbers and names of operations, and what is agreed on each from now on; 0 where that holds though it failed.
type NewAgreements = Vec<(u64, Vec<u8>, Option<Agreed>)>;

/// Is what an operation did.
#[derive(Default)]
struct Done {
    size_after: Option<u64>,
    md5_after: Option<[u8; 16]>,
    bytes: u64,
    /// What both sides agree on at its path now.
    agreed: Option<Agreed>,
    /// Nothing is there any more on either side.
    gone: bool,
    /// Another shard has done it, and has the record.
    by_another: bool,
}

/// Is the open directories of a batch.
struct Place<'b> {
    batch: &'b Batch,
    source: Option<Dir>,
    destination: Dir,
    /// The time that the destination's directory ends with.
    mtime: Option<Time>,
    trash: Option<Dir>,
    /// New entries inherit an ACL here.
    inherits: bool,
    /// An operation is tried again after a transient error: it may have changed what it works on.
    again: bool,
    /// Bytes that small files may still take before the file system is asked again.
    allowance: u64,
}
impl<'a> Executor<'a> {
    /// Executes a batch; returns the numbers of the operations that failed.
    fn batch(&self, batch: &Batch) -> Vec<u64> {
        if self.stop.is_stopped() {
            return batch.operations.iter().map(|planned| planned.seq).collect();
        }
        let mut failed = Vec::new();
        let mut records = Vec::with_capacity(batch.operations.len());
        let mut agreed = NewAgreements::new();
        match self.retry(|| self.open(batch)) {
            Ok(mut place) => {
                if let Err(error) = self.log.intend(&self.intents(batch)) {
                    self.stop.stop(StopReason::Log(error_line(&error)));
                    return batch.operations.iter().map(|planned| planned.seq).collect();
                }
                let no_progress = |_| {};
                let observer = self.tally.observer();
                let progress = |bytes| observer.event(Event::Copied { bytes });
                let stopped = || self.stop.is_stopped();
                let copies = batch.operations.iter().any(|planned| planned.bytes() > 0);
                let progress: &dyn Fn(u64) = if copies { &progress } else { &no_progress };
                let mut copier = Copier::new(self.job.hashing, &self.abilities, &stopped, progress);
                for planned in &batch.operations {
                    if self.stop.is_stopped() {
                        failed.push(planned.seq);
                        break;
                    }
                    let result = self.attempt(&mut place, planned, &mut copier, (&mut records, &mut agreed));
                    if !result {
                        failed.push(planned.seq);
                    }
                }
                self.release(place.allowance);
                // Where that cannot be told, what was done counts as done.
                let in_place = self.retry(|| self.is_in_place(&place)).unwrap_or_else(|error| {
                    self.tally.warn_once("place", &error.to_line());
                    true
                });
                if !in_place {
                    for operation in records.iter_mut().filter(|done| done.status == OperationStatus::Success) {
                        let now = operation.ended_at.unwrap_or(operation.started_at);
                        failed.push(operation.seq);
                        fail(operation, now, OperationError::Moved.to_string());
                    }
                }
                if let Some(mtime) = place.mtime {
                    // Failing here, the directory's time is wrong until the next run; its entries are right.
                    if let Err(error) = self.retry(|| place.destination.set_mtime(mtime)) {
                        if error.errno() == Some(Errno::ROFS) {
                            let root = ha_sync_fs::error::printable_path(self.destination.path());
                            self.stop.stop(StopReason::ReadOnly(root));
                        } else {
                            self.tally.warn_once("directory times", &error.to_line());
                        }
                        // Where it is somebody else's directory, the next run may not either.
                        if !matches!(error.errno(), Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)) {
                            lock(&self.unsettled).push(batch.directory.clone());
                        }
                    }
                }
                if self.job.fsync == Fsync::File
                    && let Err(error) = place.destination.sync()
                {
                    self.tally.warn_once("sync", &error.to_line());
                }
            }
            Err(error) => {
                let now = (self.now)();
                for planned in &batch.operations {
                    let mut operation = record(self.direction, &batch.directory, planned, now);
                    fail(&mut operation, now, error.to_line());
                    records.push(operation);
                    failed.push(planned.seq);
                    if let Action::Keep(loser) = &planned.action {
                        lock(&self.unkept).insert(batch.directory.join(loser));
                    }
                }
            }
        }
        if let Err(error) = self.log.append(&records) {
            self.stop.stop(StopReason::Log(error_line(&error)));
        }
        for operation in &records {
            self.tally.finished(operation);
        }
        if let Some(agreements) = self.agreements.filter(|_| !agreed.is_empty()) {
            let changes: Vec<_> = agreed
                .into_iter()
                .filter(|(seq, ..)| !failed.contains(seq))
                .map(|(_, name, agreed)| (name, agreed))
                .collect();
            agreements.tell(&batch.directory, &changes);
        }
        failed
    }

    /// Tries again after a transient error.
    fn retry<T>(&self, mut step: impl FnMut() -> Result<T, FsError>) -> Result<T, FsError> {
        for pause in BACKOFF {
            match step() {
                Err(error) if error.is_transient() && !self.stop.is_stopped() => std::thread::sleep(pause),
                other => return other,
            }
        }
        step()
    }

    fn open<'b>(&self, batch: &'b Batch) -> Result<Place<'b>, FsError> {
        let destination = self.destination.open_dir(&batch.directory)?;
        let reads = |planned: &Planned| {
            let action = &planned.action;
            planned.source.is_some()
                && !matches!(action, Action::Link(_) | Action::Delete | Action::RemoveDirectory | Action::Fail(_))
        };
        let source = self.roots[batch.route.from as usize];
        let source = batch.operations.iter().any(reads).then(|| source.open_dir(&batch.directory)).transpose()?;
        let mtime = match (batch.mtime, self.job.shard) {
            (Some(planned), Some(_)) => Some(self.settled_time(&destination, batch, planned)?),
            (planned, _) => planned,
        };
        if !self.privileged {
            self.make_accessible(&destination, &batch.directory, mtime)?;
        }
        let creates = batch.operations.iter().any(|planned| matches!(planned.action, Action::Create | Action::Keep(_)));
        let inherits = creates
            && self.attributes
            && attributes::read(&destination, false)
                .is_ok_and(|held| held.iter().any(|(name, _)| name == b"system.posix_acl_default"));
        Ok(Place { batch, source, destination, mtime, trash: None, inherits, again: false, allowance: 0 })
    }

    /// Returns the time that a directory ends with in which other shards may work, too: what one makes there shows as a
    /// time of just now until it is set back, and who planned by that would put it back for good.
    fn settled_time(&self, destination: &Dir, batch: &Batch, planned: Time) -> Result<Time, FsError> {
        let recent = (self.now)().as_nanosecond() - LONGEST_WORK;
        if planned.0 < recent || batch.directory.is_root() {
            return Ok(planned);
        }
        let settled = destination.entry()?.mtime;
        if settled.0 < recent {
            return Ok(settled);
        }
        // Without one there, it is emptied to be removed.
        let source = self.roots[batch.route.from as usize].open_dir(&batch.directory).and_then(|source| source.entry());
        Ok(source.map_or(planned, |source| source.mtime))
    }

    /// Without privileges, a directory that is closed to its owner is opened for the time of the work.
    fn make_accessible(&self, directory: &Dir, path: &RelPath, mtime: Option<Time>) -> Result<(), FsError> {
        let entry = directory.entry()?;
        if is_open_to_owner(&entry) || path.is_root() {
            return Ok(());
        }
        directory.set_mode(entry.mode | 0o700)?;
        lock(&self.closed).push((path.clone(), entry.mode, mtime));
        Ok(())
    }

    /// Gives directories that are closed to their owner their final mode.
    pub(crate) fn close_directories(&self) {
        for (path, mode, mtime) in lock(&self.closed).drain(..).rev() {
            let closed = self.destination.open_dir(&path).and_then(|directory| {
                directory.set_mode(mode)?;
                mtime.map_or(Ok(()), |mtime| directory.set_mtime(mtime))
            });
            if let Err(error) = closed
                && error.errno() != Some(Errno::NOENT)
            {
                self.tally.warn_once("closing", &error.to_line());
            }
        }
    }

    /// Tries one operation, again after transient errors, and records it; false when it failed.
    fn attempt(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        copier: &mut Copier<'_>,
        (records, agreed): (&mut Vec<Operation>, &mut NewAgreements),
    ) -> bool {
        let mut operation = record(self.direction, &place.batch.directory, planned, (self.now)());
        if planned.bytes() > content::SMALL {
            self.tally.observer().event(Event::Started { filepath: &operation.filepath });
        }
        let mut pauses = BACKOFF.iter();
        place.again = false;
        let path = |name: &[u8]| place.batch.directory.join(name);
        let kept = planned.action != Action::Replace || !lock(&self.unkept).contains(&path(&planned.name));
        let unkept = match &planned.action {
            Action::Keep(loser) => Some(path(loser)),
            _ => None,
        };
        let result = loop {
            if !kept {
                break Err(OperationError::NotKept);
            }
            match self.operate(place, planned, copier) {
                Err(OperationError::Fs(error)) if error.is_transient() && !self.stop.is_stopped() => {
                    match pauses.next() {
                        Some(pause) => {
                            std::thread::sleep(*pause);
                            place.again = true;
                            // What this attempt staged, if its removal failed too.
                            self.discard_staged(place, planned);
                        }
                        None => break Err(OperationError::Fs(error)),
                    }
                }
                other => break other,
            }
        };
        let now = (self.now)();
        let succeeded = result.is_ok();
        if let Some(loser) = unkept.filter(|_| !succeeded) {
            lock(&self.unkept).insert(loser);
        }
        match result {
            Ok(done) => {
                operation.ended_at = Some(now);
                operation.size_after = done.size_after;
                operation.bytes = done.bytes;
                operation.md5_after = done.md5_after.or(planned.source_md5).as_ref().map(hex);
                if self.agreements.is_some() && (done.gone || done.agreed.is_some()) {
                    agreed.push((planned.seq, planned.name.clone(), done.agreed));
                }
                if done.by_another {
                    return true;
                }
                if let Action::Rename { from, seq } = &planned.action {
                    records.push(renamed(&operation, from, *seq, planned));
                }
            }
            Err(OperationError::Stopped) => return false,
            Err(OperationError::Skipped(reason)) => {
                self.tally.skip(&place.batch.directory, &planned.name, true, reason);
                return false;
            }
            Err(OperationError::Fs(mut error)) => {
                if let Some(known) = self.agree_as_it_is(place, planned, &error) {
                    // No operation's: it holds though this one failed.
                    agreed.push((0, planned.name.clone(), Some(known)));
                }
                // People know the name, not the temporary one.
                let temporary = String::from_utf8_lossy(&self.temporary(planned)).into_owned();
                error.path = error.path.replace(&temporary, &ha_sync_core::path::printable(&planned.name));
                if error.errno() == Some(Errno::ROFS) {
                    let root = ha_sync_fs::error::printable_path(self.destination.path());
                    self.stop.stop(StopReason::ReadOnly(root));
                }
                fail(&mut operation, now, error.to_line());
            }
            Err(error) => fail(&mut operation, now, error.to_string()),
        }
        records.push(operation);
        succeeded
    }

    fn operate(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        copier: &mut Copier<'_>,
    ) -> Result<Done, OperationError> {
        let name = &planned.name[..];
        match (&planned.action, &planned.source, &planned.destination) {
            (Action::Create | Action::Replace | Action::Keep(_), Some(source), _) => match source.kind {
                Kind::File => self.put_file(place, planned, source, copier),
                Kind::Link => self.put_link(place, planned, source),
                Kind::Directory => self.put_directory(place, planned, source),
                Kind::Special => Err(OperationError::Skipped(Reason::Special)),
            },
            (Action::Metadata, Some(source), Some(seen)) => self.set_metadata(place, planned, source, seen),
            (Action::Rename { from, .. }, Some(source), Some(seen)) => {
                self.rename(place, planned, (from, seen), source, copier)
            }
            (Action::Link(leader), Some(source), _) => {
                let path = leader;
                let (directory, leader) = leader.split().ok_or(OperationError::Changed)?;
                let directory = self.destination.open_dir(&directory)?;
                // Its copy may have failed: then it still has its old content.
                let is_copied = |now: &Entry| {
                    let same_time = (now.mtime.0 - source.mtime.0).abs() < self.granularity.max(1);
                    now.kind == Kind::File && now.size == source.size && same_time
                };
                if !directory.find(leader)?.as_ref().is_some_and(is_copied) {
                    return Err(OperationError::NoLeader(path.clone()));
                }
                let temporary = self.temporary(planned);
                directory.hard_link(leader, &place.destination, &temporary)?;
                let made = self.commit(place, planned, &temporary)?;
                let agreed = self.agree(place, planned, source, &made, planned.source_md5);
                Ok(Done { size_after: source.recorded_size(), agreed, ..Done::default() })
            }
            (Action::Delete, _, Some(seen)) => {
                self.check_absent(place, planned)?;
                self.open_trash(place)?;
                commit::delete(&place.destination, name, seen, place.trash.as_ref(), &self.temporary(planned))?;
                Ok(Done { gone: true, ..Done::default() })
            }
            (Action::RemoveDirectory, _, Some(seen)) => {
                self.check_absent(place, planned)?;
                self.remove_directory(place, name, seen)
            }
            (Action::Fail(message), ..) => Err(OperationError::Planned(message.clone())),
            _ => Err(OperationError::Changed),
        }
    }

    /// Checks that the source still lacks what is about to go at the destination.
    fn check_absent(&self, place: &mut Place<'_>, planned: &Planned) -> Result<(), OperationError> {
        if planned.vanished.is_none() && self.job.delete_excluded {
            // The source may have it, and not take part with it.
            return Ok(());
        }
        let root = self.roots[place.batch.route.from as usize];
        if place.source.is_none() {
            place.source = match root.open_dir(&place.batch.directory) {
                Ok(directory) => Some(directory),
                Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
        }
        let source = place.source.as_ref().ok_or(OperationError::Changed)?;
        if source.find(&planned.name)?.is_none() {
            return Ok(());
        }
        // Where names are folded, it, or a directory above it, may be another one that only looks the same.
        let mut above = RelPath::root();
        for part in place.batch.directory.join(&planned.name).components() {
            if root.open_dir(&above)?.list()?.position(part).is_none() {
                return Ok(());
            }
            above = above.join(part);
        }
        Err(OperationError::Changed)
    }

    fn open_trash(&self, place: &mut Place<'_>) -> Result<(), FsError> {
        if self.job.keep_replaced && place.trash.is_none() {
            place.trash = Some(trash::open(self.destination, self.run, &place.batch.directory)?);
        }
        Ok(())
    }

    /// Returns the temporary name of an operation.
    fn temporary(&self, planned: &Planned) -> Vec<u8> {
        filter::temporary_name(self.run, planned.seq)
    }

    /// Removes what an attempt staged and could not remove: certainly ours as long as the old version is in place.
    fn discard_staged(&self, place: &Place<'_>, planned: &Planned) {
        let in_place = |old: &Entry| matches!(place.destination.find(&planned.name), Ok(Some(now)) if old.same_content_version(&now));
        if planned.destination.as_ref().is_none_or(in_place) {
            let _ = place.destination.remove_file(&self.temporary(planned));
        }
    }

    /// Tells whether the directory of a batch is still where the plan found it: handles follow a directory that
    /// somebody moves, even out of the root.
    fn is_in_place(&self, place: &Place<'_>) -> Result<bool, FsError> {
        let held = place.destination.entry()?;
        match self.destination.open_dir(&place.batch.directory) {
            Ok(now) => now.entry().map(|now| (now.device, now.inode) == (held.device, held.inode)),
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(false),
        }
    }

    fn remove_directory(&self, place: &Place<'_>, name: &[u8], seen: &Entry) -> Result<Done, OperationError> {
        match place.destination.find(name)? {
            Some(now) if now.is_directory() && now.inode == seen.inode => {}
            _ => return Err(OperationError::Changed),
        }
        if self.job.keep_replaced {
            place.destination.check_fence("record a removed directory", name)?;
            self.record_gone(&place.batch.directory.join(name), seen, false)?;
        }
        match place.destination.remove_directory(name) {
            Ok(()) => Ok(Done { gone: true, ..Done::default() }),
            Err(error) if matches!(error.errno(), Some(Errno::NOTEMPTY | Errno::EXIST)) => {
                let left = place.destination.open_child(name)?.list()?;
                let placeholders = (0..left.len()).all(|index| filter::is_nfs_placeholder(left.name(index)));
                Err(if placeholders {
                    OperationError::Skipped(Reason::NfsPlaceholder)
                } else {
                    OperationError::NotEmpty
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Notes a directory that goes in the trash, so that a restore can bring it back with its mode, owner and time:
    /// one that is removed empty, or one that is replaced and kept whole.
    fn record_gone(&self, path: &RelPath, entry: &Entry, whole: bool) -> Result<(), FsError> {
        let mut held = lock(&self.removed);
        if held.is_none() {
            *held = Some(trash::open_directory_record(self.destination, self.run)?);
        }
        let line = serde_json::json!({
            "path": path.escaped(), "mode": entry.mode, "uid": entry.uid, "gid": entry.gid,
            "mtime": entry.mtime.0 as i64, "whole": whole,
        });
        let line = format!("{line}\n");
        match held.as_ref().map(|file| rustix::io::write(file, line.as_bytes())) {
            Some(Err(errno)) => Err(FsError::new("record a removed directory", path.to_string(), errno)),
            _ => Ok(()),
        }
    }

    /// Checks that a copy leaves `--min-free`, and promises it the bytes that are returned. Asking costs as much as a
    /// small write: what was found free lasts for some small files.
    fn check_space(&self, place: &mut Place<'_>, wanted: u64) -> Result<u64, OperationError> {
        if self.min_free == 0 || wanted == 0 {
            return Ok(0);
        }
        if self.full.load(Ordering::Relaxed) {
            return Err(OperationError::NoMoreCopies);
        }
        if wanted <= place.allowance {
            place.allowance -= wanted;
            return Ok(wanted);
        }
        self.release(std::mem::take(&mut place.allowance));
        let needed = wanted.saturating_add(self.min_free);
        loop {
            let mut promised = lock(&self.promised);
            let (free, _) = self.destination.space()?;
            let left = free.saturating_sub(*promised);
            if left >= needed {
                place.allowance = ((left - needed) / 16).min(8 << 20);
                *promised += wanted + place.allowance;
                return Ok(wanted);
            }
            if free < needed {
                // What has no room at all fails for itself; what would take the reserve ends all copying.
                self.full.fetch_or(wanted <= free, Ordering::Relaxed);
                return Err(OperationError::MinFree { free, wanted: needed - free });
            }
            drop(promised);
            // What others have written of their promise is counted twice: when they are done it is known.
            if self.stop.is_stopped() {
                return Err(OperationError::Stopped);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn release(&self, bytes: u64) {
        if bytes > 0 {
            *lock(&self.promised) -= bytes;
        }
    }
}

fn directory_times(handle: &OwnedFd, directory: &Dir, name: &[u8], mtime: Time) -> Result<(), FsError> {
    directory.check_fence("set times of", name)?;
    ha_sync_fs::dir::set_mtime(handle, mtime).map_err(|errno| directory.error("set times of", name, errno))
}

fn occupied(directory: &Dir, name: &[u8]) -> CommitError {
    commit::occupied(directory, name)
}

fn entry_of(handle: &OwnedFd, directory: &Dir, name: &[u8]) -> Result<Entry, FsError> {
    ha_sync_fs::dir::entry_of(handle).map_err(|errno| directory.error("look at", name, errno))
}

/// Removes the temporary entry that was staged as `inode`; when that fails too, the next run does it. After an
/// exchange that could not be undone another one may stand there, the only copy of a version: that stays, and the
/// next run moves it to the trash.
fn discard(directory: &Dir, temporary: &[u8], inode: u64) {
    match directory.find(temporary) {
        Ok(Some(entry)) if entry.inode != inode => {}
        Ok(Some(entry)) if entry.is_directory() => drop(directory.remove_directory(temporary)),
        Ok(Some(_)) => drop(directory.remove_file(temporary)),
        Ok(None) | Err(_) => {}
    }
}

/// Removes what was staged and not put in place.
fn unstage(directory: &Dir, temporary: &[u8]) {
    if directory.remove_file(temporary).is_err() {
        let _ = directory.remove_directory(temporary);
    }
}

fn fail(operation: &mut Operation, now: Timestamp, message: String) {
    operation.ended_at = Some(now);
    operation.status = OperationStatus::Fail;
    operation.size_after = operation.size_before;
    operation.error_message = Some(message);
}

/// Joins an error and its causes on one line.
pub(crate) fn error_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

impl Executor<'_> {
    /// Says what both sides agree on when an operation put `made` in place, which came from `source`.
    fn agree(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        source: &Entry,
        made: &Entry,
        content: Option<[u8; 16]>,
    ) -> Option<Agreed> {
        self.agreements?;
        // When somebody has changed it already, what was made is what was agreed: theirs counts as a change.
        let now = match place.destination.find(&planned.name) {
            Ok(Some(now)) if made.same_content_version(&now) => now,
            _ => made.clone(),
        };
        let now = match self.final_mode(place, planned, &now) {
            Some(mode) => Entry { mode, ..now },
            None => now,
        };
        Some(match place.batch.route.to {
            Side::B => Agreed::new(source, &now, content),
            Side::A => Agreed::new(&now, source, content),
        })
    }

    /// Says that both sides agree on a conflict copy, when this one is the second. Known to one side only, it would come
    /// back when somebody deletes it on the other.
    fn agree_on_copy(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        made: &Entry,
        content: Option<[u8; 16]>,
    ) -> Option<Agreed> {
        self.agreements?;
        let now = |directory: &Dir, made: &Entry| {
            directory.find(&planned.name).ok().flatten().filter(|now| made.same_content_version(now))
        };
        let here = now(&place.destination, made)?;
        let first = {
            let mut kept = lock(&self.kept);
            let path = place.batch.directory.join(&planned.name);
            let Some(first) = kept.remove(&path) else {
                kept.insert(path, here);
                return None;
            };
            first
        };
        let to = place.batch.route.to;
        let there = now(&self.roots[to.other() as usize].open_dir(&place.batch.directory).ok()?, &first)?;
        Some(match to {
            Side::A => Agreed::new(&here, &there, content),
            Side::B => Agreed::new(&there, &here, content),
        })
    }

    /// Returns the mode that a directory gets at the end of the run, where it is open for the time of the work.
    fn final_mode(&self, place: &Place<'_>, planned: &Planned, now: &Entry) -> Option<u32> {
        if self.privileged || !now.is_directory() {
            return None;
        }
        let path = place.batch.directory.join(&planned.name);
        lock(&self.closed).iter().find(|(closed, ..)| *closed == path).map(|(_, mode, _)| *mode)
    }

    fn intents(&self, batch: &Batch) -> Vec<Intent> {
        let mut intents = Vec::with_capacity(batch.operations.len());
        for planned in batch.operations.iter().filter(|planned| !matches!(planned.action, Action::Fail(_))) {
            let (source, seen) = (planned.source.as_ref(), planned.destination.as_ref());
            let made = || source.map(|source| Identity { inode: 0, ..source.identity() });
            let (before, after) = match &planned.action {
                Action::Delete | Action::RemoveDirectory => (seen.map(Entry::identity), None),
                // Metadata changes keep the inode; so recovery can tell them from replacements.
                Action::Metadata => {
                    let after = source
                        .zip(seen)
                        .map(|(source, seen)| Identity { inode: seen.inode, ..source.identity_with_metadata() });
                    (seen.map(Entry::identity_with_metadata), after)
                }
                Action::Rename { from, seq } => {
                    intents.push(Intent {
                        seq: *seq,
                        operation: OperationKind::Delete,
                        direction: self.direction,
                        filepath: from.escaped(),
                        before: seen.map(Entry::identity),
                        after: None,
                    });
                    (None, made())
                }
                _ => (seen.map(Entry::identity), made()),
            };
            intents.push(Intent {
                seq: planned.seq,
                operation: planned.kind(),
                direction: self.direction,
                filepath: batch.directory.join(&planned.name).escaped(),
                before,
                after,
            });
        }
        intents
    }
}
