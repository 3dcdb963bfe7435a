//! The lock of a pair in a cluster: a Kubernetes Lease (sync.md §7). The only crate that speaks to an API server.
//!
//! - [`lease`]: what to do about a Lease, decided from what was seen of it. Pure.
//! - [`access`]: which API server, as whom, in which namespace.
//! - [`look`]: who holds a Lease, for those who only look.
//! - [`lock`]: the loop around it: takes the Lease, renews it on a thread of its own, gives it back.

pub mod access;
mod api;
pub mod lease;
pub mod lock;
pub mod look;

pub use api::ApiError;
