//! How long work is followed, and stopped.

/// Follows work on bytes. Called from several threads.
pub trait Watch: Sync {
    /// Tells that so many bytes of work lie ahead.
    fn expect(&self, bytes: u64);
    /// Tells that so many more are done.
    fn advance(&self, bytes: u64);
    /// Tells whether to stop at the next safe place.
    fn stopped(&self) -> bool;
}

/// Follows nothing and never stops.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn expect(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn stopped(&self) -> bool {
        false
    }
}
