//! What is left when a run ends at any moment, and what others see meanwhile: every file whole, every completed
//! operation recorded exactly once.
#![allow(clippy::disallowed_methods, reason = "a test that fails shows its path anyway")]
#![allow(clippy::print_stdout, reason = "a test says how much it saw")]

mod baseline;
mod races;
mod sweeps;
mod two_way;
mod world;
