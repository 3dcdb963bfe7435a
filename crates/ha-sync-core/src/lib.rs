//! The pure core of ha-sync: what is compared, what is decided and why, and what is written down about it.
//!
//! Nothing in this crate does I/O, reads a clock, the environment or a terminal, and nothing is `async`.

pub mod baseline;
pub mod conflict;
pub mod decide;
pub mod diff;
pub mod entry;
pub mod event;
pub mod filter;
pub mod limits;
pub mod name;
pub mod path;
pub mod plan;
pub mod reason;
pub mod reconcile;
pub mod record;
pub mod shard;

mod newest;
