//! Which of two times is newer (sync.md §2, §11), for one-way and two-way jobs alike.

use std::cmp::Ordering;

use crate::entry::Time;
use crate::reason::Reason;

/// Is what times are compared by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// When the run began.
    pub(crate) start: Time,
    /// `--mtime-threshold`, nanoseconds.
    pub(crate) threshold: i128,
    /// The coarser of the two sides' time granularities, nanoseconds; at least 1.
    pub(crate) granularity: i128,
}

impl Clock {
    pub(crate) fn floor(&self, time: Time) -> Time {
        time.floor(self.granularity)
    }

    /// The distance of two times, 0 when a tick of the coarser side hides it.
    pub(crate) fn delta(&self, one: Time, other: Time) -> i128 {
        (self.floor(one).0 - self.floor(other).0).abs()
    }

    pub(crate) fn close(&self, one: Time, other: Time) -> bool {
        self.delta(one, other) <= self.threshold
    }

    /// Tells whether a time lies ahead of the run's start by more than the threshold.
    pub(crate) fn is_future(&self, time: Time) -> bool {
        time.0 > self.start.0 + self.threshold
    }

    /// Who is newer. One time ahead of the clock counts as the run's start, and is the newer of two at that moment;
    /// two are compared as they are.
    pub(crate) fn newer(&self, one: Time, other: Time) -> (Ordering, Option<Reason>) {
        let (one, other) = (self.floor(one), self.floor(other));
        match (self.is_future(one), self.is_future(other)) {
            (true, false) => (self.start.cmp(&other).then(Ordering::Greater), Some(Reason::FutureTime)),
            (false, true) => (one.cmp(&self.start).then(Ordering::Less), Some(Reason::FutureTime)),
            (true, true) => (one.cmp(&other), Some(Reason::FutureTime)),
            (false, false) => (one.cmp(&other), None),
        }
    }
}
