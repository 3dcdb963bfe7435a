//! Counts what a run does, from many threads.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ha_sync_core::baseline::Side;
use ha_sync_core::event::{Event, Observer};
use ha_sync_core::path::{RelPath, escape};
use ha_sync_core::reason::Reason;
use ha_sync_core::record::{Counts, Operation, OperationKind, OperationStatus};

/// Is the running counts of a run, and tells the observer what happens.
pub(crate) struct Tally<'a> {
    observer: &'a dyn Observer,
    created: AtomicU64,
    updated: AtomicU64,
    deleted: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    entries: [AtomicU64; 2],
    reasons: Mutex<BTreeMap<Reason, u64>>,
    first_failure: Mutex<Option<String>>,
    warned: Mutex<Vec<&'static str>>,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(observer: &'a dyn Observer) -> Self {
        Self {
            observer,
            created: AtomicU64::new(0),
            updated: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            entries: Default::default(),
            reasons: Mutex::default(),
            first_failure: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    pub(crate) fn observer(&self) -> &'a dyn Observer {
        self.observer
    }

    /// Counts non-directories that are equal.
    pub(crate) fn equal(&self, count: u64) {
        self.skipped.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts the entries of A and of B, for the limits.
    pub(crate) fn seen(&self, entries: [u64; 2]) {
        for (counter, entries) in self.entries.iter().zip(entries) {
            counter.fetch_add(entries, Ordering::Relaxed);
        }
        self.observer.event(Event::Scanned { entries: entries[0].max(entries[1]) });
    }

    pub(crate) fn entries(&self, side: Side) -> u64 {
        self.entries[side as usize].load(Ordering::Relaxed)
    }

    /// Counts an entry that is left as it is, and says why.
    pub(crate) fn skip(&self, directory: &RelPath, name: &[u8], is_directory: bool, reason: Reason) {
        if !is_directory {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        *lock(&self.reasons).entry(reason).or_default() += 1;
        let filepath = escape(directory.join(name).as_bytes());
        self.observer.event(Event::Skipped { filepath: &filepath, reason: reason.as_str() });
    }

    /// Says something once per run.
    pub(crate) fn warn_once(&self, kind: &'static str, message: &str) {
        let mut warned = lock(&self.warned);
        if !warned.contains(&kind) {
            warned.push(kind);
            drop(warned);
            self.observer.event(Event::Warning { message });
        }
    }

    /// Counts a finished operation.
    pub(crate) fn finished(&self, operation: &Operation) {
        match (operation.status, operation.operation) {
            (OperationStatus::Fail, _) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let message = operation.error_message.as_deref().unwrap_or_default();
                lock(&self.first_failure).get_or_insert_with(|| format!("{}: {message}", operation.filepath));
            }
            (OperationStatus::Success, OperationKind::Create) => {
                self.created.fetch_add(1, Ordering::Relaxed);
            }
            (OperationStatus::Success, OperationKind::Update) => {
                self.updated.fetch_add(1, Ordering::Relaxed);
            }
            (OperationStatus::Success, OperationKind::Delete) => {
                self.deleted.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.observer.event(Event::Finished(operation));
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the counts and the first failure.
    pub(crate) fn counts(&self) -> (Counts, Option<String>) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = Counts {
            files_created: load(&self.created),
            files_updated: load(&self.updated),
            files_deleted: load(&self.deleted),
            files_skipped: load(&self.skipped),
            files_failed: load(&self.failed),
            total_bytes_transferred: load(&self.bytes),
            skip_reasons: lock(&self.reasons).iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
        };
        (counts, lock(&self.first_failure).clone())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A thread that panicked is joined and its panic goes on; what it counted is still right.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
