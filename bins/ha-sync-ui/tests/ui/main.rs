//! The program as it is started: its command line, and its pages in a real browser.
#![expect(clippy::disallowed_methods, reason = "a test that fails shows its path anyway")]

mod browser;
mod command;
mod lease;
