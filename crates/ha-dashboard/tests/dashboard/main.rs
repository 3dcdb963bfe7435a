//! The dashboard over real stores, asked through a real socket.
#![expect(clippy::disallowed_methods, reason = "a test that fails shows its path anyway")]

mod answers;
mod api;
mod away;
mod ground;
mod metrics;
mod pages;
mod places;
mod safety;
mod server;
