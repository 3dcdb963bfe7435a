//! Where the scan's batches go.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ha_sync_core::baseline::Side;
use ha_sync_core::entry::Entry;
use ha_sync_core::event::Event;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned};
use ha_sync_core::record::{Fingerprint, Operation, OperationKind, OperationLog, OperationStatus, Way};
use jiff::Timestamp;

use crate::execute::error_line;
use crate::job::{Job, Mode};
use crate::renames::VanishedSet;
use crate::spool::Spool;
use crate::stop::{Stop, StopReason};
use crate::tally::{Tally, lock};

/// Takes batches from many walkers.
pub(crate) trait Sink: Sync {
    /// Takes a batch; returns the numbers of the operations that should have made a directory and did not.
    fn take(&self, batch: Batch) -> Vec<u64>;
    /// Takes copies of losers of conflicts, to be made before anything else.
    fn take_kept(&self, batch: Batch);
    /// Takes deletions of files and links.
    fn take_deletes(&self, batch: Batch);
    /// Takes the removal of a directory, after everything below it.
    fn take_removal(&self, batch: Batch);
}

/// Makes the record of an operation that did not begin.
pub(crate) fn record(direction: Option<Way>, directory: &RelPath, planned: &Planned, now: Timestamp) -> Operation {
    Operation {
        seq: planned.seq,
        operation: planned.kind(),
        direction,
        filepath: directory.join(&planned.name).escaped(),
        size_before: planned.size_before(),
        size_after: None,
        md5_before: planned.destination_md5.as_ref().map(hex),
        md5_after: None,
        bytes: 0,
        started_at: now,
        ended_at: None,
        status: OperationStatus::Success,
        error_message: None,
        reason: match &planned.action {
            Action::Rename { from, .. } => Some(format!("renamed from {}", from.escaped())),
            _ => planned.reason.map(|reason| reason.to_string()),
        },
    }
}

/// Makes the record of the delete that a rename is at its old path.
pub(crate) fn renamed(created: &Operation, from: &RelPath, seq: u64, planned: &Planned) -> Operation {
    Operation {
        seq,
        operation: OperationKind::Delete,
        filepath: from.escaped(),
        size_before: planned.destination.as_ref().and_then(Entry::recorded_size),
        size_after: None,
        md5_before: None,
        md5_after: None,
        bytes: 0,
        reason: Some(format!("renamed to {}", created.filepath)),
        ..created.clone()
    }
}

/// Says which way an operation goes, in a two-way run.
pub(crate) fn way(job: &Job, to: Side) -> Option<Way> {
    matches!(job.mode, Mode::TwoWay(_)).then_some(match to {
        Side::A => Way::BToA,
        Side::B => Way::AToB,
    })
}

pub(crate) fn hex(md5: &[u8; 16]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(32);
    for byte in md5 {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Keeps the plan until the limits are checked.
pub(crate) struct Spooled<'a> {
    pub(crate) kept: Spool,
    pub(crate) plan: Spool,
    pub(crate) deletes: Spool,
    pub(crate) removals: Spool,
    pub(crate) deletions: [Deletions; 2],
    /// What was deleted on one side and may have been moved there.
    pub(crate) vanished: VanishedSet,
    pub(crate) tally: &'a Tally<'a>,
    pub(crate) stop: &'a Stop,
}

/// Counts and names the set of deletions of a side.
#[derive(Default)]
pub(crate) struct Deletions {
    count: AtomicU64,
    set: Mutex<Fingerprint>,
}

impl Deletions {
    pub(crate) fn add(&self, batch: &Batch) {
        self.count.fetch_add(batch.operations.len() as u64, Ordering::Relaxed);
        let mut set = Fingerprint::default();
        for planned in &batch.operations {
            note(planned, &batch.directory, |path, planned| set.add(None, path, planned.kind(), planned.size_before()));
        }
        lock(&self.set).merge(set);
    }

    /// Takes out what turned out to be a rename.
    pub(crate) fn remove(&self, directory: &RelPath, planned: &Planned) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        let mut set = lock(&self.set);
        note(planned, directory, |path, planned| set.remove(None, path, planned.kind(), planned.size_before()));
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Names the exact set, for `--approve`; of both sides in a two-way run.
    pub(crate) fn id(both: &[Self; 2]) -> String {
        let (a, b) = (*lock(&both[0].set), *lock(&both[1].set));
        if a == Fingerprint::default() {
            return b.id()[..16].to_owned();
        }
        let mut set = Fingerprint::default();
        set.add(Some(Way::BToA), &a.id(), OperationKind::Delete, None);
        set.add(Some(Way::AToB), &b.id(), OperationKind::Delete, None);
        set.id()[..16].to_owned()
    }
}

fn note(planned: &Planned, directory: &RelPath, take: impl FnOnce(&str, &Planned)) {
    if let Some(seen) = &planned.destination {
        let path = directory.join(&planned.name).escaped();
        // A directory's time changes with what is deleted in it, by us or before us.
        let time = if seen.is_directory() { 0 } else { seen.mtime.0 };
        take(&format!("{path}\0{:?}\0{time}", seen.kind), planned);
    }
}

impl Spooled<'_> {
    fn push(&self, spool: &Spool, batch: &Batch) -> u64 {
        let operations = batch.operations.len() as u64;
        let bytes = batch.operations.iter().map(Planned::bytes).sum();
        self.tally.observer().event(Event::Planned { operations, bytes });
        spool.push(batch).unwrap_or_else(|error| {
            self.stop.stop(StopReason::Log(error_line(&error)));
            0
        })
    }

    fn push_deletes(&self, spool: &Spool, batch: &Batch) {
        self.deletions[batch.route.to as usize].add(batch);
        let place = self.push(spool, batch);
        self.vanished.add(batch, place);
    }
}

impl Sink for Spooled<'_> {
    fn take(&self, batch: Batch) -> Vec<u64> {
        self.push(&self.plan, &batch);
        Vec::new()
    }

    fn take_kept(&self, batch: Batch) {
        self.push(&self.kept, &batch);
    }

    fn take_deletes(&self, batch: Batch) {
        self.push_deletes(&self.deletes, &batch);
    }

    fn take_removal(&self, batch: Batch) {
        self.push_deletes(&self.removals, &batch);
    }
}

/// Records what would be done.
pub(crate) struct DryRun<'a> {
    pub(crate) job: &'a Job,
    pub(crate) log: &'a dyn OperationLog,
    pub(crate) tally: &'a Tally<'a>,
    pub(crate) stop: &'a Stop,
    pub(crate) now: fn() -> Timestamp,
    pub(crate) plan: Mutex<Fingerprint>,
    pub(crate) deletions: [Deletions; 2],
}

impl DryRun<'_> {
    pub(crate) fn note(&self, batch: &Batch) {
        let now = (self.now)();
        let mut set = Fingerprint::default();
        let mut operations = Vec::with_capacity(batch.operations.len());
        for planned in &batch.operations {
            let mut operation = record(way(self.job, batch.route.to), &batch.directory, planned, now);
            operation.ended_at = Some(now);
            operation.size_after = match &planned.action {
                Action::Fail(message) => {
                    operation.status = OperationStatus::Fail;
                    operation.error_message = Some(message.clone());
                    operation.size_before
                }
                Action::Delete | Action::RemoveDirectory => None,
                _ => planned.source.as_ref().and_then(|source| source.recorded_size()),
            };
            operation.md5_after = planned.source_md5.as_ref().map(hex);
            set.add(operation.direction, &operation.filepath, operation.operation, operation.size_before);
            if let Action::Rename { from, seq } = &planned.action {
                let old = renamed(&operation, from, *seq, planned);
                set.add(old.direction, &old.filepath, old.operation, old.size_before);
                operations.push(old);
            }
            operations.push(operation);
        }
        lock(&self.plan).merge(set);
        if let Err(error) = self.log.append(&operations) {
            self.stop.stop(StopReason::Log(error.to_string()));
        }
        for operation in &operations {
            self.tally.finished(operation);
        }
    }
}

impl Sink for DryRun<'_> {
    fn take(&self, batch: Batch) -> Vec<u64> {
        self.note(&batch);
        Vec::new()
    }

    fn take_kept(&self, batch: Batch) {
        self.note(&batch);
    }

    fn take_deletes(&self, batch: Batch) {
        self.deletions[batch.route.to as usize].add(&batch);
        self.note(&batch);
    }

    fn take_removal(&self, batch: Batch) {
        self.deletions[batch.route.to as usize].add(&batch);
        self.note(&batch);
    }
}
