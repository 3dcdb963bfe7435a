//! What the tests and benches of the workspace share; no product code depends on it.
//!
//! - [`passthrough`]: a FUSE file system over a directory, with a delay for each metadata request, injected faults,
//!   missing features and a clock of its own.
//! - [`loopmount`]: real file systems of a given size, read-only remounts, bind mounts; gone on drop.
//! - [`tree`]: makes trees, and compares whole trees.
//! - [`mariadb`]: a real MariaDB server of the test's own; [`wire`]: what else may be at the end of a connection.
//! - [`sshd`]: a real ssh server with mounts of its own; [`gate`]: a way to a server that breaks.
//! - [`kube`]: a Kubernetes API server with etcd, and accounts with few rights.
//! - [`peers`]: the programs of others that `cargo xtask peers` builds; [`s3`]: one of them, an S3 server.
//! - [`command`]: runs the real binary in a hermetic environment, also under fault injection.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

pub mod command;
pub mod daemon;
pub mod gate;
pub mod kube;
pub mod limits;
pub mod longhorn;
pub mod loopmount;
pub mod mariadb;
pub mod passthrough;
pub mod peers;
pub mod s3;
pub mod sshd;
pub mod tree;
pub mod wire;
