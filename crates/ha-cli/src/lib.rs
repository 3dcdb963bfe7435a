//! What the binaries share at their edge: the environment, exit codes, failures and hints, progress, summaries and
//! the values of flags. stdout is data, stderr is for people.

pub mod environment;
pub mod exit;
pub mod failure;
pub mod meter;
pub mod reference;
pub mod report;
pub mod summary;
pub mod table;
pub mod usage;
pub mod value;
