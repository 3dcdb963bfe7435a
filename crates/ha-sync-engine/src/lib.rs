//! Runs a one-way or two-way job: scans both sides, plans, checks the limits, executes.
//!
//! The scan compares directory by directory and gives batches of a plan to a sink: the executor, a spool that waits
//! for the limits, or the record of a dry run.

pub mod baseline;
pub mod conflicts;
pub mod diff;
pub mod halt;
pub mod job;
pub mod recover;
pub mod restore;
pub mod run;
pub mod state;
pub mod stop;

mod agree;
mod below;
mod closed;
mod execute;
mod queue;
mod renames;
mod scan;
mod sink;
mod spool;
mod tally;

pub use job::{Fsync, Job, Mode};
pub use run::{Environment, Finished, RunError, run};
pub use stop::{Stop, StopReason};
