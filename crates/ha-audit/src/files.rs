//! The few file system calls of this crate, with errors that name the step and the path.
#![expect(clippy::disallowed_methods, reason = "these are the wrappers whose errors carry the path")]

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation};

/// Is a file system call that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step}: {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { step, path: path.to_owned(), source: source.into() }
    }

    /// Tells whether the path does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Opens a new file for appending; fails when the path exists. Names of files are private: not for everyone to read.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o640).open(path)
}

pub(crate) fn open_read(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(|source| FileError::new("open operation log", path, source))
}

/// Opens for reading and appending: an exclusive lock on NFS needs a writable file.
pub(crate) fn open_append(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .open(path)
        .map_err(|source| FileError::new("open operation log", path, source))
}

pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    std::fs::remove_file(path).map_err(|source| FileError::new("remove operation log", path, source))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(|source| FileError::new("set aside operation log", from, source))
}

pub(crate) fn create_directories(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|source| FileError::new("create directory", path, source))
}

/// Makes names that were added to or removed from a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| FileError::new("sync directory", path, source))
}

/// Is what a directory says about one of its entries.
pub(crate) struct Entry {
    pub(crate) name: OsString,
    pub(crate) kind: std::fs::FileType,
}

/// Lists a directory; an entry that goes away meanwhile is left out.
pub(crate) fn list(path: &Path) -> Result<Vec<Entry>, FileError> {
    let failed = |source| FileError::new("read log directory", path, source);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(kind) = entry.file_type() {
            entries.push(Entry { name: entry.file_name(), kind });
        }
    }
    Ok(entries)
}

/// Lists a directory; one that does not exist is empty.
pub(crate) fn list_if_any(path: &Path) -> Result<Vec<Entry>, FileError> {
    match list(path) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        listed => listed,
    }
}

/// Sets the modification time to now.
pub(crate) fn touch(path: &Path) -> Result<(), FileError> {
    let file = std::fs::File::options().append(true).open(path);
    let touched = file.and_then(|file| file.set_modified(std::time::SystemTime::now()));
    touched.map_err(|source| FileError::new("set time of", path, source))
}

/// Returns the modification time, not following a link.
pub(crate) fn modified(path: &Path) -> Result<jiff::Timestamp, FileError> {
    let failed = |source| FileError::new("read metadata", path, source);
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    Ok(jiff::Timestamp::from_second(metadata.mtime()).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// Takes the exclusive lock; false when it is held through another open file.
pub(crate) fn try_lock(file: &File, path: &Path) -> Result<bool, FileError> {
    flock(file, path, FlockOperation::NonBlockingLockExclusive)
}

/// Takes the shared lock, which a file open for reading may on NFS too; false when the exclusive one is held.
pub(crate) fn try_lock_shared(file: &File, path: &Path) -> Result<bool, FileError> {
    flock(file, path, FlockOperation::NonBlockingLockShared)
}

fn flock(file: &File, path: &Path, operation: FlockOperation) -> Result<bool, FileError> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(FileError::new("lock operation log", path, errno)),
    }
}

/// Tells whether the open file has no name any more.
pub(crate) fn is_removed(file: &File, path: &Path) -> Result<bool, FileError> {
    let metadata = file.metadata().map_err(|source| FileError::new("read metadata", path, source))?;
    Ok(metadata.nlink() == 0)
}

/// Tells whether something is there, following links.
pub(crate) fn exists(path: &Path) -> bool {
    rustix::fs::access(path, Access::EXISTS).is_ok()
}

/// Tells whether this process may write to it.
pub(crate) fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK).is_ok()
}

/// Tells whether a file system may be shared between hosts, or has no coherent shared memory: SQLite's WAL cannot
/// live there (<https://www.sqlite.org/wal.html>).
pub(crate) fn is_remote(directory: &Path) -> bool {
    // statfs(2): NFS, SMB, CIFS, SMB2, 9P, FUSE, Ceph
    const REMOTE: [u32; 7] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x6573_5546, 0x00c3_6400];
    rustix::fs::statfs(directory).is_ok_and(|status| REMOTE.contains(&(status.f_type as u32)))
}

/// Reads a small file.
pub(crate) fn read(path: &Path, step: &'static str) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::new(step, path, source))
}
