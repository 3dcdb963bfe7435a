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

    /// Takes a task, waiting for one; nothing when all are done. The task is done when the guard is dropped.
    pub(crate) fn take(&self) -> Option<(T, Taken<'_, T>)> {
        let mut inner = lock(&self.inner);
        loop {
            if inner.closed {
                return None;
            }
            if let Some(task) = inner.stack.pop() {
                inner.active += 1;
                return Some((task, Taken(self)));
            }
            if inner.active == 0 {
                inner.closed = true;
                self.changed.notify_all();
                return None;
            }
            inner = self.changed.wait(inner).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn done(&self) {
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

/// Says, when it is dropped, that a taken task is done. A panic ends the walk: what the task was to find is not known,
/// and the other walkers would wait for it.
pub(crate) struct Taken<'a, T>(&'a Queue<T>);

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
        self.0.done();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_panic_of_one_walker_ends_the_others() {
        let (sender, ended) = mpsc::channel();
        // Not scoped: a walker that hangs must not hang the test.
        std::thread::spawn(move || {
            let queue = Queue::new(0);
            std::thread::scope(|scope| {
                let walkers: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            while let Some((task, _taken)) = queue.take() {
                                queue.push_all((task + 1..task + 3).filter(|task| *task < 8));
                                assert!(task != 5, "a walker's panic");
                            }
                        })
                    })
                    .collect();
                let panicked = walkers.into_iter().map(|walker| walker.join().is_err()).filter(|it| *it).count();
                sender.send(panicked).unwrap();
            });
        });
        assert!(ended.recv_timeout(Duration::from_secs(20)).unwrap() >= 1);
    }

    #[test]
    fn all_tasks_are_done_then_nothing_is_left() {
        let queue = Queue::new(0);
        let mut seen = Vec::new();
        while let Some((task, _taken)) = queue.take() {
            seen.push(task);
            if task == 0 {
                queue.push_all([1, 2, 3].into_iter());
            }
        }
        assert_eq!(seen, [0, 1, 2, 3]);
        assert!(queue.take().is_none());
    }
}
