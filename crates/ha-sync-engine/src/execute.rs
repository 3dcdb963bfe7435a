//! Executes batches of a plan: checks what the plan saw, stages, commits, records. It decides nothing.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::event::Event;
use ha_sync_core::filter;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned};
use ha_sync_core::reason::Reason;
use ha_sync_core::record::{Identity, Intent, Operation, OperationLog, OperationStatus};
use ha_sync_fs::attributes::{self, Attributes};
use ha_sync_fs::commit::{self, CommitError, Ways};
use ha_sync_fs::content::{self, Abilities, Copied, Copier, CopyError};
use ha_sync_fs::{Dir, FsError, Root, trash};
use jiff::Timestamp;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use crate::job::{Fsync, Job};
use crate::sink::{Sink, hex, record};
use crate::stop::{Stop, StopReason};
use crate::tally::{Tally, lock};

/// Waits before an operation is tried again after a transient error.
pub(crate) const BACKOFF: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(150)];

pub(crate) struct Executor<'a> {
    pub(crate) job: &'a Job,
    pub(crate) run: &'a RunId,
    pub(crate) source: &'a Root,
    pub(crate) destination: &'a Root,
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
    pub(crate) ways: Ways,
    pub(crate) abilities: Abilities,
    /// Directories that get their final mode when everything in them is done: they are closed to their owner.
    pub(crate) closed: Mutex<Vec<(RelPath, u32, Option<Time>)>>,
    pub(crate) removed: Mutex<Option<OwnedFd>>,
    /// Bytes that copies under way may still write.
    pub(crate) promised: Mutex<u64>,
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

/// Is what an operation did.
#[derive(Default)]
struct Done {
    size_after: Option<u64>,
    md5_after: Option<[u8; 16]>,
    bytes: u64,
}

/// Is the open directories of a batch.
struct Place<'b> {
    batch: &'b Batch,
    source: Option<Dir>,
    destination: Dir,
    trash: Option<Dir>,
    /// New entries inherit an ACL here.
    inherits: bool,
    /// An operation is tried again after a transient error: it may have changed what it works on.
    again: bool,
    /// Bytes that small files may still take before the file system is asked again.
    allowance: u64,
}

/// Sends batches to workers; directories are made at once, because what is below them comes next.
pub(crate) struct Streaming<'e, 'a> {
    executor: &'e Executor<'a>,
    sender: Sender<Batch>,
}

impl Sink for Streaming<'_, '_> {
    fn take(&self, mut batch: Batch) -> Vec<u64> {
        let (makers, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut batch.operations).into_iter().partition(Planned::makes_directory);
        let mut failed = Vec::new();
        if !makers.is_empty() {
            let makers = Batch { directory: batch.directory.clone(), mtime: batch.mtime, operations: makers };
            failed = self.executor.batch(&makers);
        }
        if !others.is_empty() {
            batch.operations = others;
            // The receivers live as long as this sender.
            let _ = self.sender.send(batch);
        }
        failed
    }

    fn take_deletes(&self, batch: Batch) {
        let _ = self.sender.send(batch);
    }

    fn take_removal(&self, batch: Batch) {
        self.executor.batch(&batch);
    }
}

/// Tells the observer of a plan that is executed as it is made.
pub(crate) struct Announced<'e, 'a> {
    pub(crate) inner: &'e Streaming<'e, 'a>,
}

impl Sink for Announced<'_, '_> {
    fn take(&self, batch: Batch) -> Vec<u64> {
        let operations = batch.operations.len() as u64;
        let bytes = batch.operations.iter().map(Planned::bytes).sum();
        self.inner.executor.tally.observer().event(Event::Planned { operations, bytes });
        self.inner.take(batch)
    }

    fn take_deletes(&self, batch: Batch) {
        self.inner.take_deletes(batch);
    }

    fn take_removal(&self, batch: Batch) {
        self.inner.take_removal(batch);
    }
}

impl<'a> Executor<'a> {
    /// Runs `body` with a sink that executes on `--workers` threads; returns when all is done.
    pub(crate) fn with_workers<R>(&self, body: impl FnOnce(&Streaming<'_, 'a>) -> R) -> R {
        let (sender, receiver) = crossbeam_channel::bounded::<Batch>(self.job.workers * 4);
        std::thread::scope(|scope| {
            for index in 0..self.job.workers.max(1) {
                let receiver = receiver.clone();
                let work = move || {
                    for batch in receiver {
                        self.batch(&batch);
                    }
                };
                let spawned = std::thread::Builder::new()
                    .name(format!("worker-{index}"))
                    .stack_size(512 * 1024)
                    .spawn_scoped(scope, work);
                if let Err(error) = spawned {
                    self.stop.stop(StopReason::Log(format!("no thread for a worker: {error}")));
                }
            }
            drop(receiver);
            let streaming = Streaming { executor: self, sender };
            body(&streaming)
        })
    }

    /// Executes a batch; returns the numbers of the operations that failed.
    fn batch(&self, batch: &Batch) -> Vec<u64> {
        if self.stop.is_stopped() {
            return batch.operations.iter().map(|planned| planned.seq).collect();
        }
        let mut failed = Vec::new();
        let mut records = Vec::with_capacity(batch.operations.len());
        match self.retry(|| self.open(batch)) {
            Ok(mut place) => {
                if let Err(error) = self.log.intend(&intents(batch)) {
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
                    let result = self.attempt(&mut place, planned, &mut copier, &mut records);
                    if !result {
                        failed.push(planned.seq);
                    }
                }
                self.release(place.allowance);
                if !matches!(self.is_in_place(&place), Ok(true)) {
                    for operation in records.iter_mut().filter(|done| done.status == OperationStatus::Success) {
                        let now = operation.ended_at.unwrap_or(operation.started_at);
                        failed.push(operation.seq);
                        fail(operation, now, OperationError::Moved.to_string());
                    }
                }
                if let Some(mtime) = batch.mtime {
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
                    let mut operation = record(&batch.directory, planned, now);
                    fail(&mut operation, now, error.to_line());
                    records.push(operation);
                    failed.push(planned.seq);
                }
            }
        }
        if let Err(error) = self.log.append(&records) {
            self.stop.stop(StopReason::Log(error_line(&error)));
        }
        for operation in &records {
            self.tally.finished(operation);
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
            matches!(planned.action, Action::Create | Action::Replace | Action::Metadata) && planned.source.is_some()
        };
        let source = batch.operations.iter().any(reads).then(|| self.source.open_dir(&batch.directory)).transpose()?;
        if !self.privileged {
            self.make_accessible(&destination, batch)?;
        }
        let creates = batch.operations.iter().any(|planned| planned.action == Action::Create);
        let inherits = creates
            && self.attributes
            && attributes::read(&destination, false)
                .is_ok_and(|held| held.iter().any(|(name, _)| name == b"system.posix_acl_default"));
        Ok(Place { batch, source, destination, trash: None, inherits, again: false, allowance: 0 })
    }

    /// Without privileges, a directory that is closed to its owner is opened for the time of the work.
    fn make_accessible(&self, directory: &Dir, batch: &Batch) -> Result<(), FsError> {
        let entry = directory.entry()?;
        let open = entry.mode | 0o700;
        if entry.mode == open || entry.uid != rustix::process::geteuid().as_raw() || batch.directory.is_root() {
            return Ok(());
        }
        directory.check_fence("set mode of", b"")?;
        rustix::fs::fchmod(directory, Mode::from_raw_mode(open))
            .map_err(|errno| directory.error("set mode of", b"", errno))?;
        lock(&self.closed).push((batch.directory.clone(), entry.mode, batch.mtime));
        Ok(())
    }

    /// Gives directories that are closed to their owner their final mode.
    pub(crate) fn close_directories(&self) {
        for (path, mode, mtime) in lock(&self.closed).drain(..).rev() {
            let closed = self.destination.open_dir(&path).and_then(|directory| {
                directory.check_fence("set mode of", b"")?;
                rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))
                    .map_err(|errno| directory.error("set mode of", b"", errno))?;
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
        records: &mut Vec<Operation>,
    ) -> bool {
        let mut operation = record(&place.batch.directory, planned, (self.now)());
        if planned.bytes() > content::SMALL {
            self.tally.observer().event(Event::Started { filepath: &operation.filepath });
        }
        let mut pauses = BACKOFF.iter();
        place.again = false;
        let result = loop {
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
        match result {
            Ok(done) => {
                operation.ended_at = Some(now);
                operation.size_after = done.size_after;
                operation.bytes = done.bytes;
                operation.md5_after = done.md5_after.or(planned.source_md5).as_ref().map(hex);
            }
            Err(OperationError::Stopped) => return false,
            Err(OperationError::Skipped(reason)) => {
                self.tally.skip(&place.batch.directory, &planned.name, true, reason);
                return false;
            }
            Err(OperationError::Fs(mut error)) => {
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
            (Action::Create | Action::Replace, Some(source), _) => match source.kind {
                Kind::File => self.put_file(place, planned, source, copier),
                Kind::Link => self.put_link(place, planned, source),
                Kind::Directory => self.put_directory(place, planned, source),
                Kind::Special => Err(OperationError::Skipped(Reason::Special)),
            },
            (Action::Metadata, Some(source), Some(seen)) => self.set_metadata(place, name, source, seen),
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
                self.commit(place, planned, &temporary)?;
                Ok(Done { size_after: source.recorded_size(), ..Done::default() })
            }
            (Action::Delete, _, Some(seen)) => {
                self.open_trash(place)?;
                commit::delete(&place.destination, name, seen, place.trash.as_ref(), &self.temporary(planned))?;
                Ok(Done::default())
            }
            (Action::RemoveDirectory, _, Some(seen)) => self.remove_directory(place, name, seen),
            (Action::Fail(message), ..) => Err(OperationError::Planned(message.clone())),
            _ => Err(OperationError::Changed),
        }
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

    /// Gives a finished temporary entry its name; removes it when that fails.
    fn commit(&self, place: &mut Place<'_>, planned: &Planned, temporary: &[u8]) -> Result<(), OperationError> {
        let staged = place.destination.find(temporary)?.ok_or(OperationError::Changed)?;
        if staged.size > content::SMALL && !self.is_in_place(place)? {
            discard(&place.destination, temporary, staged.inode);
            return Err(OperationError::Moved);
        }
        let result = match &planned.destination {
            None => commit::create(&place.destination, temporary, &planned.name, &self.ways),
            Some(seen) => self.open_trash(place).map_err(CommitError::from).and_then(|()| {
                if seen.is_directory() && self.job.keep_replaced {
                    place.destination.check_fence("record a removed directory", &planned.name)?;
                    self.record_gone(&place.batch.directory.join(&planned.name), seen, true)?;
                }
                let trash = place.trash.as_ref();
                commit::replace(&place.destination, temporary, &planned.name, seen, trash, &self.ways)
            }),
        };
        if result.is_err() {
            discard(&place.destination, temporary, staged.inode);
        }
        Ok(result?)
    }

    fn put_file(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        seen: &Entry,
        copier: &mut Copier<'_>,
    ) -> Result<Done, OperationError> {
        let name = &planned.name[..];
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let source = from.open_file(name)?;
        let mut now = entry_of(&source, from, name)?;
        if !seen.same_version(&now) {
            return Err(OperationError::Changed);
        }
        if let Some(old) = planned.destination.as_ref().filter(|_| seen.size > content::SMALL) {
            // A long copy for nothing is spared; the commit looks again.
            match place.destination.find(name)? {
                Some(found) if old.same_version(&found) => {}
                _ => return Err(OperationError::Changed),
            }
        }
        let promised = self.check_space(place, now.allocated.min(now.size))?;
        let done = self.put_copy(place, planned, &source, &mut now, copier);
        self.release(promised);
        done
    }

    fn put_copy(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        source: &OwnedFd,
        now: &mut Entry,
        copier: &mut Copier<'_>,
    ) -> Result<Done, OperationError> {
        // Small new files are most of a first copy; without a name they cost one directory change instead of two.
        if planned.destination.is_none()
            && now.size <= content::SMALL
            && let Some(destination) = commit::stage_unnamed(&place.destination, &self.ways)?
        {
            let copied = self.stage(place, &planned.name, source, now, &destination, copier)?;
            commit::create_from_unnamed(&place.destination, &destination, &planned.name)?;
            self.tally.wrote(copied.bytes);
            return Ok(Done { size_after: Some(now.size), md5_after: copied.md5, bytes: copied.bytes });
        }
        let temporary = self.temporary(planned);
        let destination = place.destination.create_file(&temporary)?;
        let staged = self.stage(place, &planned.name, source, now, &destination, copier);
        let copied = match staged {
            Ok(copied) => copied,
            Err(error) => {
                // Ours: nothing was exchanged yet.
                let _ = place.destination.remove_file(&temporary);
                return Err(error);
            }
        };
        drop(destination);
        self.commit(place, planned, &temporary)?;
        self.tally.wrote(copied.bytes);
        Ok(Done { size_after: Some(now.size), md5_after: copied.md5, bytes: copied.bytes })
    }

    /// Copies content and metadata into the temporary file. A source that changes meanwhile is copied once more.
    fn stage(
        &self,
        place: &Place<'_>,
        name: &[u8],
        source: &OwnedFd,
        entry: &mut Entry,
        destination: &OwnedFd,
        copier: &mut Copier<'_>,
    ) -> Result<Copied, OperationError> {
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let to = &place.destination;
        let mut again = true;
        let copied = loop {
            to.check_fence("write", name)?;
            let copied = match copier.copy(source, entry, destination) {
                Ok(copied) => Some(copied),
                Err(CopyError::Changed) => None,
                Err(CopyError::Stopped) => return Err(OperationError::Stopped),
                Err(CopyError::Read(errno)) => return Err(from.error("read", name, errno).into()),
                Err(CopyError::Write(errno)) => return Err(to.error("write", name, errno).into()),
            };
            let now = entry_of(source, from, name)?;
            if let Some(copied) = copied.filter(|_| entry.same_version(&now)) {
                break copied;
            }
            if !again {
                return Err(OperationError::ChangedWhileCopying);
            }
            again = false;
            *entry = now;
            to.check_fence("truncate", name)?;
            rustix::fs::ftruncate(destination, 0).map_err(|errno| to.error("truncate", name, errno))?;
            rustix::fs::seek(source, rustix::fs::SeekFrom::Start(0))
                .map_err(|errno| from.error("read", name, errno))?;
        };
        let wanted = self.wanted_attributes(source, from, name)?;
        let made = entry_of(destination, to, name)?;
        self.apply(destination, to, name, entry, &made, wanted.as_ref(), place.inherits)?;
        if self.job.fsync == Fsync::File {
            rustix::fs::fsync(destination).map_err(|errno| to.error("sync", name, errno))?;
        }
        Ok(copied)
    }

    fn wanted_attributes(&self, source: &OwnedFd, from: &Dir, name: &[u8]) -> Result<Option<Attributes>, FsError> {
        if !self.attributes {
            return Ok(None);
        }
        attributes::read(source, self.privileged)
            .map(Some)
            .map_err(|errno| from.error("read attributes of", name, errno))
    }

    /// Sets owner, attributes, mode and times of an open file or directory, in the order that keeps set-id bits and
    /// capabilities. `now` is what it has; `inherits` says that it may have attributes already.
    #[expect(clippy::too_many_arguments, reason = "two entries, a handle, and how the handle is named in errors")]
    fn apply(
        &self,
        handle: &OwnedFd,
        directory: &Dir,
        name: &[u8],
        wanted: &Entry,
        now: &Entry,
        attributes: Option<&Attributes>,
        inherits: bool,
    ) -> Result<(), OperationError> {
        let owned = self.set_owner(handle, directory, name, wanted, now)?;
        let mut mode_now = Some(now.mode);
        if let Some(wanted) = attributes
            && (inherits || !wanted.is_empty())
        {
            // An ACL is a part of the mode.
            mode_now = None;
            let present = attributes::read(handle, self.privileged)
                .map_err(|errno| directory.error("read attributes of", name, errno))?;
            directory.check_fence("set attributes of", name)?;
            let refused = attributes::write(handle, wanted, &present)
                .map_err(|errno| directory.error("set attributes of", name, errno))?;
            if let Some(refused) = refused {
                let refused = ha_sync_core::path::printable(&refused);
                let message = format!("the destination does not keep the attribute {refused}");
                self.tally.warn_once("attributes", &message);
            }
        }
        if self.modes {
            // Set-id bits belong to the owner: without him they would give rights to somebody else.
            let mode = if owned { wanted.mode } else { wanted.mode & 0o1777 };
            if !owned || mode_now != Some(mode) || now.mode & 0o6000 != 0 {
                directory.check_fence("set mode of", name)?;
                rustix::fs::fchmod(handle, Mode::from_raw_mode(mode))
                    .map_err(|errno| directory.error("set mode of", name, errno))?;
            }
        }
        directory_times(handle, directory, name, wanted.mtime)?;
        Ok(())
    }

    /// Sets the owner where that is permitted; false when the entry belongs to somebody else than it should.
    fn set_owner(
        &self,
        handle: &OwnedFd,
        directory: &Dir,
        name: &[u8],
        wanted: &Entry,
        now: &Entry,
    ) -> Result<bool, FsError> {
        if (wanted.uid, wanted.gid) == (now.uid, now.gid) {
            return Ok(true);
        }
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        directory.check_fence("set owner of", name)?;
        if self.owners.load(Ordering::Relaxed) {
            match rustix::fs::fchown(handle, Some(uid), Some(gid)) {
                Ok(()) => return Ok(true),
                Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => self.owners.store(false, Ordering::Relaxed),
                Err(errno) => return Err(directory.error("set owner of", name, errno)),
            }
        }
        self.tally.warn_once(
            "owners",
            "owners cannot be set here and are left as they are (not root, or the file system refuses)",
        );
        // A group that we are a member of can be given all the same.
        let _ = rustix::fs::fchown(handle, None, Some(gid));
        Ok(wanted.uid == now.uid && wanted.gid == now.gid)
    }

    fn put_link(&self, place: &mut Place<'_>, planned: &Planned, seen: &Entry) -> Result<Done, OperationError> {
        let name = &planned.name[..];
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        match from.find(name)? {
            Some(now) if seen.same_version(&now) => {}
            _ => return Err(OperationError::Changed),
        }
        let target = from.read_link(name)?;
        let temporary = self.temporary(planned);
        place.destination.make_link(&target, &temporary)?;
        let dressed = self.dress_link(&place.destination, &temporary, seen);
        if let Err(error) = dressed {
            let _ = place.destination.remove_file(&temporary);
            return Err(error.into());
        }
        self.commit(place, planned, &temporary)?;
        Ok(Done { size_after: Some(target.len() as u64), ..Done::default() })
    }

    fn dress_link(&self, directory: &Dir, name: &[u8], wanted: &Entry) -> Result<(), FsError> {
        if self.owners.load(Ordering::Relaxed) {
            match directory.set_owner_of(name, wanted.uid, wanted.gid) {
                Err(error) if matches!(error.errno(), Some(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP)) => {}
                other => other?,
            }
        }
        match directory.set_mtime_of(name, wanted.mtime) {
            // Some file systems keep no times of links.
            Err(error) if matches!(error.errno(), Some(Errno::NOSYS | Errno::OPNOTSUPP)) => Ok(()),
            other => other,
        }
    }

    fn put_directory(&self, place: &mut Place<'_>, planned: &Planned, seen: &Entry) -> Result<Done, OperationError> {
        let name = &planned.name[..];
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let source = from.open_child(name)?;
        let path = place.batch.directory.join(name);
        if planned.destination.is_none() {
            place.destination.make_directory(name).map_err(|error| match error.errno() {
                Some(Errno::EXIST) => OperationError::from(occupied(&place.destination, name)),
                _ => error.into(),
            })?;
            if let Err(error) = self.dress_directory(&place.destination, name, &source, seen, &path, place.inherits) {
                // Half-made and new, it would count as newer than the source's for ever.
                if place.destination.remove_directory(name).is_err() {
                    lock(&self.unsettled).push(path);
                }
                return Err(error);
            }
            return Ok(Done::default());
        }
        let temporary = self.temporary(planned);
        place.destination.make_directory(&temporary)?;
        if let Err(error) = self.dress_directory(&place.destination, &temporary, &source, seen, &path, place.inherits) {
            let _ = place.destination.remove_directory(&temporary);
            return Err(error);
        }
        drop(source);
        self.commit(place, planned, &temporary)?;
        Ok(Done::default())
    }

    fn dress_directory(
        &self,
        parent: &Dir,
        name: &[u8],
        source: &Dir,
        seen: &Entry,
        path: &RelPath,
        inherits: bool,
    ) -> Result<(), OperationError> {
        let made = parent.open_child(name)?;
        let handle = made.into_handle();
        let source_handle = source.try_clone()?;
        let wanted = self.wanted_attributes(&source_handle, source, b"")?;
        let now = entry_of(&handle, parent, name)?;
        let mut entry = seen.clone();
        if !self.privileged && entry.mode & 0o700 != 0o700 {
            // What is to come into it needs its owner's rights first.
            lock(&self.closed).push((path.clone(), entry.mode, Some(entry.mtime)));
            entry.mode |= 0o700;
        }
        self.apply(&handle, parent, name, &entry, &now, wanted.as_ref(), inherits)
    }

    fn set_metadata(
        &self,
        place: &Place<'_>,
        name: &[u8],
        source: &Entry,
        seen: &Entry,
    ) -> Result<Done, OperationError> {
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let to = &place.destination;
        let unchanged = |now: Option<Entry>, was: &Entry| {
            now.is_some_and(|now| was.same_version(&now) || (was.is_directory() && now.inode == was.inode))
        };
        // Our first attempt may have changed the ctime; the mtime is set last.
        let ours = |now: &Option<Entry>| place.again && now.as_ref().is_some_and(|now| seen.same_content_version(now));
        let found = to.find(name)?;
        if !unchanged(from.find(name)?, source) || !(ours(&found) || unchanged(found, seen)) {
            return Err(OperationError::Changed);
        }
        let done = Done { size_after: source.recorded_size(), ..Done::default() };
        if source.kind == Kind::Link {
            self.dress_link(to, name, source)?;
            return Ok(done);
        }
        let handle = to.open_file(name)?;
        let now = entry_of(&handle, to, name)?;
        if now.inode != seen.inode || now.kind != seen.kind {
            return Err(OperationError::Changed);
        }
        let wanted = if self.attributes { Some(attributes::read_at(from, name, self.privileged)?) } else { None };
        let mut entry = source.clone();
        if entry.is_directory() && !self.privileged && entry.mode & 0o700 != 0o700 {
            lock(&self.closed).push((place.batch.directory.join(name), entry.mode, Some(entry.mtime)));
            entry.mode |= 0o700;
        }
        self.apply(&handle, to, name, &entry, &now, wanted.as_ref(), true)?;
        Ok(done)
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
            Ok(()) => Ok(Done::default()),
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

fn intents(batch: &Batch) -> Vec<Intent> {
    batch
        .operations
        .iter()
        .filter(|planned| !matches!(planned.action, Action::Fail(_)))
        .map(|planned| Intent {
            seq: planned.seq,
            operation: planned.kind(),
            filepath: batch.directory.join(&planned.name).escaped(),
            before: planned.destination.as_ref().map(match planned.action {
                Action::Metadata => Entry::identity_with_metadata,
                _ => Entry::identity,
            }),
            after: match planned.action {
                Action::Delete | Action::RemoveDirectory => None,
                // Metadata changes keep the inode; so recovery can tell them from replacements.
                Action::Metadata => {
                    planned.source.as_ref().zip(planned.destination.as_ref()).map(|(source, destination)| Identity {
                        inode: destination.inode,
                        ..source.identity_with_metadata()
                    })
                }
                _ => planned.source.as_ref().map(|source| Identity { inode: 0, ..source.identity() }),
            },
        })
        .collect()
}
