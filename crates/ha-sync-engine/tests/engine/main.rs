//! The engine through its library, on real trees.
#![allow(clippy::disallowed_methods, reason = "a test that fails shows its path anyway")]

mod fence;
mod model;
mod pairs;
mod recover;
mod shards;
