//! Stops a run before its end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use ha_sync_fs::Fence;

/// Says why a run is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// A signal: its number.
    Signal(i32),
    /// The lock is no longer certain to be ours.
    LockLost(String),
    /// The destination became read-only.
    ReadOnly(String),
    /// The operation log cannot be written.
    Log(String),
    /// What was written may not be durable.
    Sync(String),
}

impl fmt::Display for StopReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(number) => write!(formatter, "interrupted by signal {number}"),
            Self::LockLost(why) => write!(formatter, "lock lost: {why}"),
            Self::ReadOnly(path) => write!(formatter, "destination is read-only: {path}"),
            Self::Sync(why) => write!(formatter, "what was written may not be durable: {why}"),
            Self::Log(why) => write!(formatter, "operation log cannot be written: {why}"),
        }
    }
}

/// Is asked by every thread between its steps.
#[derive(Debug, Default)]
pub struct Stop {
    stopped: AtomicBool,
    reason: Mutex<Option<StopReason>>,
    /// When a signal came.
    signalled: OnceLock<Instant>,
    fence: OnceLock<Arc<Fence>>,
}

impl Stop {
    /// Stops the run; the first reason stays.
    pub fn stop(&self, reason: StopReason) {
        if let StopReason::Signal(_) = reason {
            self.signalled.get_or_init(Instant::now);
        }
        let mut held = self.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.get_or_insert(reason);
        self.stopped.store(true, Ordering::Release);
    }

    /// Stops the run for a reason that counts more than an earlier one.
    pub(crate) fn stop_over(&self, reason: StopReason) {
        *self.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(reason);
        self.stopped.store(true, Ordering::Release);
    }

    /// Binds the run to a lock that must be renewed: it stops by the clock when that is not done. The first one stays.
    pub fn bind(&self, fence: Arc<Fence>) {
        let _ = self.fence.set(fence);
    }

    /// Returns the fence that the trees of the run are behind.
    pub fn fence(&self) -> Option<Arc<Fence>> {
        self.fence.get().cloned()
    }

    /// Returns how long ago a signal came.
    pub fn signalled_for(&self) -> Option<Duration> {
        self.signalled.get().map(Instant::elapsed)
    }

    /// Tells whether the run is to stop.
    pub fn is_stopped(&self) -> bool {
        if self.stopped.load(Ordering::Acquire) {
            return true;
        }
        match self.fence.get() {
            // Asked of the clock itself: after a freeze no other thread may have noticed yet.
            Some(fence) if !fence.may_begin() => {
                self.stop(StopReason::LockLost(fence.why()));
                true
            }
            _ => false,
        }
    }

    /// Returns why.
    pub fn reason(&self) -> Option<StopReason> {
        self.is_stopped();
        self.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
