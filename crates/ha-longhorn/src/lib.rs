//! Longhorn volumes of the v1 engine: replica directories and backups are read, judged and merged exactly, and never
//! written to. The rules are those of volumes.md.

mod raw;

pub mod backing;
pub mod backupstore;
pub mod chain;
pub mod checksum;
pub mod compare;
pub mod copy;
pub mod doctor;
pub mod extent;
pub mod extract;
pub mod file_difference;
pub mod files;
pub mod finding;
pub mod inside;
pub mod inspect;
pub mod layered;
pub mod merge;
pub mod meta;
pub mod qcow2;
pub mod rank;
pub mod replica;
pub mod scan;
pub mod source;
pub mod watch;
