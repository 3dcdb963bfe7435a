//! The dashboard: pages, JSON API and metrics over the audit store. It only reads.
//!
//! A request goes through [`server`]'s headers, login and time limit to a handler. Handlers take what they show from
//! [`board`], which asks the store at most once a second for the state of all pairs, or from a session of
//! [`ha_audit::query`]. Decisions about that (rhythm, overdue, severity) are pure, in [`rhythm`] and [`status`].

mod api;
mod assets;
mod auth;
mod board;
mod chart;
mod download;
mod format;
pub mod lock;
mod metrics;
mod pages;
mod parameters;
mod places;
mod refusal;
mod restore;
pub mod rhythm;
pub mod server;
pub mod status;

pub use auth::{Credentials, CredentialsError};
pub use places::Place;
pub use server::{Event, ServeError, Settings, serve};
