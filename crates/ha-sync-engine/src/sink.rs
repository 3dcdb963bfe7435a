//! Where the scan's batches go.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ha_sync_core::event::Event;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned};
use ha_sync_core::record::{Fingerprint, Operation, OperationLog, OperationStatus};
use jiff::Timestamp;

use crate::spool::Spool;
use crate::stop::{Stop, StopReason};
use crate::tally::{Tally, lock};

/// Takes batches from many walkers.
pub(crate) trait Sink: Sync {
    /// Takes a batch; returns the numbers of the operations that should have made a directory and did not.
    fn take(&self, batch: Batch) -> Vec<u64>;
    /// Takes deletions of files and links.
    fn take_deletes(&self, batch: Batch);
    /// Takes the removal of a directory, after everything below it.
    fn take_removal(&self, batch: Batch);
}

/// Makes the record of an operation that did not begin.
pub(crate) fn record(directory: &RelPath, planned: &Planned, now: Timestamp) -> Operation {
    Operation {
        seq: planned.seq,
        operation: planned.kind(),
        direction: None,
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
        reason: planned.reason.map(|reason| reason.to_string()),
    }
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
    pub(crate) plan: Spool,
    pub(crate) deletes: Spool,
    pub(crate) removals: Spool,
    pub(crate) deletions: Deletions,
    pub(crate) tally: &'a Tally<'a>,
    pub(crate) stop: &'a Stop,
}

/// Counts and names the set of deletions.
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
            if let Some(seen) = &planned.destination {
                let path = batch.directory.join(&planned.name).escaped();
                // A directory's time changes with what is deleted in it, by us or before us.
                let time = if seen.is_directory() { 0 } else { seen.mtime.0 };
                set.add(None, &format!("{path}\0{:?}\0{time}", seen.kind), planned.kind(), planned.size_before());
            }
        }
        lock(&self.set).merge(set);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Names the exact set, for `--approve`.
    pub(crate) fn id(&self) -> String {
        lock(&self.set).id()[..16].to_owned()
    }
}

impl Spooled<'_> {
    fn push(&self, spool: &Spool, batch: &Batch) {
        let operations = batch.operations.len() as u64;
        let bytes = batch.operations.iter().map(Planned::bytes).sum();
        self.tally.observer().event(Event::Planned { operations, bytes });
        if let Err(error) = spool.push(batch) {
            self.stop.stop(StopReason::Log(error.to_string()));
        }
    }
}

impl Sink for Spooled<'_> {
    fn take(&self, batch: Batch) -> Vec<u64> {
        self.push(&self.plan, &batch);
        Vec::new()
    }

    fn take_deletes(&self, batch: Batch) {
        self.deletions.add(&batch);
        self.push(&self.deletes, &batch);
    }

    fn take_removal(&self, batch: Batch) {
        self.deletions.add(&batch);
        self.push(&self.removals, &batch);
    }
}

/// Records what would be done.
pub(crate) struct DryRun<'a> {
    pub(crate) log: &'a dyn OperationLog,
    pub(crate) tally: &'a Tally<'a>,
    pub(crate) stop: &'a Stop,
    pub(crate) now: fn() -> Timestamp,
    pub(crate) plan: Mutex<Fingerprint>,
    pub(crate) deletions: Deletions,
}

impl DryRun<'_> {
    fn note(&self, batch: &Batch) {
        let now = (self.now)();
        let mut set = Fingerprint::default();
        let mut operations = Vec::with_capacity(batch.operations.len());
        for planned in &batch.operations {
            let mut operation = record(&batch.directory, planned, now);
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

    fn take_deletes(&self, batch: Batch) {
        self.deletions.add(&batch);
        self.note(&batch);
    }

    fn take_removal(&self, batch: Batch) {
        self.deletions.add(&batch);
        self.note(&batch);
    }
}
