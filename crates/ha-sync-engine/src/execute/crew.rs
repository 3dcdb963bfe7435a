//! Workers: batches of a plan go to the executor of the side that they change.

use crossbeam_channel::Sender;
use ha_sync_core::baseline::Side;
use ha_sync_core::event::{Event, Observer};
use ha_sync_core::plan::{Batch, Planned};

use super::Executor;
use crate::sink::Sink;
use crate::stop::StopReason;

/// Is an executor for each side that a run changes.
pub(crate) struct Crew<'a> {
    /// Changes B, the destination of a one-way job.
    pub(crate) forward: Executor<'a>,
    /// Changes A.
    pub(crate) backward: Option<Executor<'a>>,
}

impl<'a> Crew<'a> {
    /// Runs `body` with a sink that executes on `--workers` threads; returns when all is done.
    pub(crate) fn with_workers<R>(&self, body: impl FnOnce(&Streaming<'_, 'a>) -> R) -> R {
        let workers = self.forward.job.workers.max(1);
        let (sender, receiver) = crossbeam_channel::bounded::<Batch>(workers * 4);
        std::thread::scope(|scope| {
            for index in 0..workers {
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
                    self.forward.stop.stop(StopReason::Log(format!("no thread for a worker: {error}")));
                }
            }
            drop(receiver);
            let streaming = Streaming { crew: self, sender };
            body(&streaming)
        })
    }

    /// Executes a batch; returns the numbers of the operations that failed.
    fn batch(&self, batch: &Batch) -> Vec<u64> {
        match (batch.route.to, &self.backward) {
            (Side::B, _) => self.forward.batch(batch),
            (Side::A, Some(backward)) => backward.batch(batch),
            // No plan of a one-way job changes its source.
            (Side::A, None) => batch.operations.iter().map(|planned| planned.seq).collect(),
        }
    }

    /// Returns the executors.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Executor<'a>> {
        std::iter::once(&self.forward).chain(&self.backward)
    }
}

/// Sends batches to workers; directories are made at once, because what is below them comes next.
pub(crate) struct Streaming<'e, 'a> {
    crew: &'e Crew<'a>,
    sender: Sender<Batch>,
}

impl Sink for Streaming<'_, '_> {
    fn take(&self, mut batch: Batch) -> Vec<u64> {
        let (makers, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut batch.operations).into_iter().partition(Planned::makes_directory);
        let mut failed = Vec::new();
        if !makers.is_empty() {
            let makers = Batch { directory: batch.directory.clone(), operations: makers, ..batch };
            failed = self.crew.batch(&makers);
        }
        if !others.is_empty() {
            batch.operations = others;
            // The receivers live as long as this sender.
            let _ = self.sender.send(batch);
        }
        failed
    }

    fn take_kept(&self, batch: Batch) {
        let _ = self.sender.send(batch);
    }

    fn take_deletes(&self, batch: Batch) {
        let _ = self.sender.send(batch);
    }

    fn take_removal(&self, batch: Batch) {
        self.crew.batch(&batch);
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
        self.inner.observer().event(Event::Planned { operations, bytes });
        self.inner.take(batch)
    }

    fn take_kept(&self, batch: Batch) {
        self.inner.take_kept(batch);
    }

    fn take_deletes(&self, batch: Batch) {
        self.inner.take_deletes(batch);
    }

    fn take_removal(&self, batch: Batch) {
        self.inner.take_removal(batch);
    }
}

impl<'a> Streaming<'_, 'a> {
    fn observer(&self) -> &'a dyn Observer {
        self.crew.forward.tally.observer()
    }
}
