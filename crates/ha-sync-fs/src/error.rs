//! The error of this crate.

use std::path::PathBuf;

use rustix::io::Errno;

/// Says which step failed, on which path, and why.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step}: {path}")]
pub struct FsError {
    /// What was tried: `open directory`, `rename`, …
    pub step: &'static str,
    /// The path, printable.
    pub path: String,
    /// What the kernel said.
    #[source]
    pub cause: std::io::Error,
}

impl FsError {
    /// Makes an error of a kernel's answer.
    pub fn new(step: &'static str, path: impl Into<String>, errno: Errno) -> Self {
        Self { step, path: path.into(), cause: errno.into() }
    }

    /// Makes the error of a step that was not taken: the lock may be another's by now.
    pub fn fenced(step: &'static str, path: impl Into<String>) -> Self {
        Self { step, path: path.into(), cause: std::io::Error::other("not done: the lock is lost") }
    }

    /// Makes an error about a path of this machine outside the synchronised trees.
    pub fn local(step: &'static str, path: impl Into<PathBuf>, cause: std::io::Error) -> Self {
        Self { step, path: printable_path(&path.into()), cause }
    }

    /// Returns the kernel's answer, when there is one.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.cause)
    }

    /// Tells whether trying again may help: EIO, ESTALE, ETIMEDOUT, EINTR, EBUSY (sync.md §5).
    pub fn is_transient(&self) -> bool {
        matches!(self.errno(), Some(Errno::IO | Errno::STALE | Errno::TIMEDOUT | Errno::INTR | Errno::BUSY))
    }

    /// Tells whether the file system has no room, or the owner's quota none.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOSPC | Errno::DQUOT))
    }

    /// Returns the message with its cause on one line, as records keep it.
    pub fn to_line(&self) -> String {
        format!("{self}: {}", self.cause)
    }
}

/// Writes a path for people, with every byte that is no printable text escaped.
pub fn printable_path(path: &std::path::Path) -> String {
    ha_sync_core::path::printable(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}
