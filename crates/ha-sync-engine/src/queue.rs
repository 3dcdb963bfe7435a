//! The walkers' stack of work: last in, first out, so that a deep tree is finished before a wide one is unfolded and
//! memory follows the directories in flight.

use std::sync::{Condvar, Mutex};

use crate::tally::lock;

pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
}

struct Inner<T> {
    stack: Vec<T>,
    /// Tasks taken and not yet done; each may push more.
    active: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(first: T) -> Self {
        let inner = Inner { stack: vec![first], active: 0, closed: false };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// Adds tasks; the first of them is taken first.
    pub(crate) fn push_all(&self, tasks: impl DoubleEndedIterator<Item = T>) {
        let mut inner = lock(&self.inner);
        inner.stack.extend(tasks.rev());
        drop(inner);
        self.changed.notify_all();
    }

    /// Takes a task, waiting for one; nothing when all are done.
    pub(crate) fn take(&self) -> Option<T> {
        let mut inner = lock(&self.inner);
        loop {
            if inner.closed {
                return None;
            }
            if let Some(task) = inner.stack.pop() {
                inner.active += 1;
                return Some(task);
            }
            if inner.active == 0 {
                inner.closed = true;
                self.changed.notify_all();
                return None;
            }
            inner = self.changed.wait(inner).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Says that a taken task is done.
    pub(crate) fn done(&self) {
        let mut inner = lock(&self.inner);
        inner.active -= 1;
        if inner.active == 0 && inner.stack.is_empty() {
            drop(inner);
            self.changed.notify_all();
        }
    }

    /// Ends the walk early.
    pub(crate) fn close(&self) {
        lock(&self.inner).closed = true;
        self.changed.notify_all();
    }
}
