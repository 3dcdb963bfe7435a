//! Two sides kept in step, through the library, on real trees.
#![allow(clippy::disallowed_methods, reason = "a test that fails shows its path anyway")]
#![allow(clippy::print_stdout, reason = "a test says how much it saw, and with which seeds")]

mod cases;
mod edits;
mod moments;
mod oracle;
mod sequences;
mod world;
