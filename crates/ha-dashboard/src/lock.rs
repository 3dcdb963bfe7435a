//! Who holds the lock of a pair now: the port to whatever locks, a file of this host or a Lease.

use std::future::Future;
use std::pin::Pin;

use jiff::Timestamp;

/// Is what is known of the lock of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockState {
    /// Nothing here can tell.
    Unknown,
    /// Nobody holds it.
    Free,
    /// Somebody does.
    Held {
        /// What the holder says of itself.
        holder: String,
        /// Since when, where that is known.
        since: Option<Timestamp>,
    },
}

/// Is an answer that may take a while.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Vec<LockState>> + Send + 'a>>;

/// Tells who holds locks, without touching them. It answers in bounded time, [`LockState::Unknown`] where it cannot.
pub trait LockStatus: Send + Sync {
    /// Returns the state of the lock of each pair, in the order of `pairs`.
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a>;
}

/// Knows of no lock.
#[derive(Debug, Clone, Copy)]
pub struct NoLocks;

impl LockStatus for NoLocks {
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a> {
        Box::pin(std::future::ready(vec![LockState::Unknown; pairs.len()]))
    }
}

/// Asks a function that does not wait for long, as one that reads a file of this host.
pub struct Immediate<F>(pub F);

impl<F: Fn(&str) -> LockState + Send + Sync> LockStatus for Immediate<F> {
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a> {
        Box::pin(std::future::ready(pairs.iter().map(|pair| (self.0)(pair)).collect()))
    }
}
