//! Copies files out of a volume into a new directory. Nothing that is there is replaced, no link is followed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, local};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::files::{Entry, Extracted, Files, FilesError, Kind, below};
use crate::layered::{BLOCK, is_zero};
use crate::watch::Watch;

/// Is why nothing was extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The path inside the volume cannot be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The destination cannot be made.
    #[error(transparent)]
    Step(#[from] FsError),
    /// There is something at the destination, or what an interrupted extraction left beside it.
    #[error("there is something already: {0}")]
    Exists(String),
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Returns where a tree is made before it gets its name.
pub fn part_path(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".ha-volume.part");
    destination.with_file_name(name)
}

/// Extracts a file or a tree to a path at which nothing is; it is made under another name first. Times and modes are kept, owners as root only. Extended
/// attributes, ACLs and hard links are not carried over: the reader does not tell them.
pub fn extract(
    files: &Files,
    path: &[u8],
    destination: &Path,
    owners: bool,
    watch: &dyn Watch,
) -> Result<Extracted, ExtractError> {
    let top = files.entry(path)?;
    let part = part_path(destination);
    for path in [destination, &part] {
        if local::exists(path) {
            return Err(ExtractError::Exists(printable_path(path)));
        }
    }
    let mut done = Extracted::default();
    let mut unread = Vec::new();
    let mut directories = Vec::new();
    files.walk(
        &top.path,
        &mut |entry: &Entry| {
            if watch.stopped() {
                return Err(ExtractError::Stopped);
            }
            let to = below(&part, &top.path, &entry.path);
            match make(files, entry, &to, owners) {
                Ok(Some(bytes)) => {
                    done.entries += 1;
                    done.bytes += bytes;
                    watch.advance(bytes);
                    if entry.kind == Kind::Directory {
                        directories.push((to, entry.clone()));
                    }
                }
                Ok(None) => done.skipped.push(ha_sync_core::path::printable(&entry.path)),
                // Without its top nothing can be made.
                Err(error) if entry.path == top.path => {
                    if entry.kind == Kind::File {
                        local::remove(&part)?;
                    }
                    return Err(error);
                }
                Err(error) => done.failed.push(line(&error)),
            }
            Ok(())
        },
        &mut |error| unread.push(error.to_string()),
    )?;
    done.failed.extend(unread);
    // What is made in a directory changes its time, and a closed one takes nothing.
    for (to, entry) in directories.iter().rev() {
        if let Err(error) = finish(to, entry, owners) {
            done.failed.push(error.to_line());
        }
    }
    if local::exists(&part) {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, &part, CWD, destination, flags) {
            Ok(()) => {}
            // Some file systems know no flags; that nothing is there was checked at the start.
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(CWD, &part, CWD, destination)
                .map_err(|errno| FsError::new("rename to", printable_path(destination), errno))?,
            Err(Errno::EXIST) => return Err(ExtractError::Exists(printable_path(destination))),
            Err(errno) => return Err(FsError::new("rename to", printable_path(destination), errno).into()),
        }
    }
    Ok(done)
}

fn line(error: &ExtractError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Makes one entry; nothing for a special file. Returns the bytes of its content.
fn make(files: &Files, entry: &Entry, to: &Path, owners: bool) -> Result<Option<u64>, ExtractError> {
    let failed = |step, errno: Errno| FsError::new(step, printable_path(to), errno);
    match entry.kind {
        Kind::Special => Ok(None),
        Kind::Directory => {
            rustix::fs::mkdir(to, Mode::from_raw_mode(0o700)).map_err(|errno| failed("make directory", errno))?;
            Ok(Some(0))
        }
        Kind::Link => {
            let target = entry.target.as_deref().unwrap_or_default();
            rustix::fs::symlink(target, to).map_err(|errno| failed("make link", errno))?;
            set(to, entry, owners, false)?;
            Ok(Some(0))
        }
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let handle =
                rustix::fs::open(to, flags, Mode::from_raw_mode(0o600)).map_err(|errno| failed("make", errno))?;
            let file = File::from(handle);
            let length =
                |length: u64| file.set_len(length).map_err(|cause| FsError::local("set the length of", to, cause));
            length(entry.length)?;
            let mut out = io::BufWriter::with_capacity(1 << 20, Sparse { file: &file, position: 0 });
            let bytes = files.copy(&entry.path, &mut out)?;
            io::Write::flush(&mut out).map_err(|cause| FsError::local("write", to, cause))?;
            drop(out);
            length(bytes)?;
            finish(to, entry, owners)?;
            Ok(Some(bytes))
        }
    }
}

/// Writes a new file of full length and leaves blocks of zeros out: a sparse file stays one.
struct Sparse<'a> {
    file: &'a File,
    position: u64,
}

impl io::Write for Sparse<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let to_boundary = usize::try_from(BLOCK - self.position % BLOCK).unwrap_or(1);
        let zero = |bytes: &[u8]| is_zero(&bytes[..bytes.len().min(BLOCK as usize)]);
        let mut length = to_boundary.min(bytes.len());
        let skip = is_zero(&bytes[..length]);
        // As far as all blocks are of one kind.
        while length < bytes.len() && zero(&bytes[length..]) == skip {
            length = (length + BLOCK as usize).min(bytes.len());
        }
        if !skip {
            self.file.write_all_at(&bytes[..length], self.position)?;
        }
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn finish(to: &Path, entry: &Entry, owners: bool) -> Result<(), FsError> {
    set(to, entry, owners, true)
}

fn set(to: &Path, entry: &Entry, owners: bool, mode: bool) -> Result<(), FsError> {
    let failed = |step, errno: Errno| FsError::new(step, printable_path(to), errno);
    if owners {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("set the owner of", errno))?;
    }
    if mode {
        // Rights of an owner who is not set are not given to another.
        let bits = if owners { entry.mode } else { entry.mode & 0o1777 };
        rustix::fs::chmod(to, Mode::from_raw_mode(bits.into())).map_err(|errno| failed("set the mode of", errno))?;
    }
    let time = Timespec { tv_sec: entry.modified.0, tv_nsec: i64::from(entry.modified.1) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| failed("set the time of", errno))
}
