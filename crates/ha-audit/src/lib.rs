//! The records of ha-sync (sync.md §6): an operation log that survives a crash, and the SQL store that it is flushed
//! to.
//!
//! A run writes its log through [`oplog::OpLog`]; [`flush::flush_all`] brings every log of a directory into the
//! [`store::Store`] and removes it; [`recovery`] tells the next run of a pair what a dead run left undone. [`query`] is
//! what the dashboard reads of it.

mod batch;
mod database;
pub mod dsn;
pub mod files;
pub mod flush;
mod line;
mod mysql;
pub mod oplog;
pub mod query;
pub mod reader;
pub mod recovery;
mod sqlite;
pub mod store;
mod time;
