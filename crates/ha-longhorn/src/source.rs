//! The one door to files of a replica: it opens read-only, follows no link at the last step, and leaves the access
//! time alone where it may.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ha_sync_fs::FsError;
use ha_sync_fs::error::printable_path;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::raw;

/// Is an open file that is only read. What it is, is told by its own handle, not by its name.
#[derive(Debug)]
pub struct SourceFile {
    handle: OwnedFd,
    path: PathBuf,
    /// Of a regular file its length, of a block device its size.
    size: u64,
    stamp: Stamp,
}

/// Is what tells that a file was changed while it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Device and inode.
    pub identity: (u64, u64),
    /// Length in bytes.
    pub length: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// Last change of the content, ns since 1970.
    pub modified: i128,
    /// Last change of the inode, ns since 1970.
    pub changed: i128,
    /// Type and permissions.
    pub mode: u32,
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        let time = |seconds: i64, nanoseconds: i128| i128::from(seconds) * 1_000_000_000 + nanoseconds;
        Self {
            identity: (stat.st_dev, stat.st_ino),
            length: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            modified: time(stat.st_mtime, i128::from(stat.st_mtime_nsec)),
            changed: time(stat.st_ctime, i128::from(stat.st_ctime_nsec)),
            mode: stat.st_mode,
        }
    }
}

impl SourceFile {
    /// Opens a regular file or a block device; a link is followed, since a person may have named it.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let handle = open(rustix::fs::CWD, path.as_os_str(), OFlags::empty())
            .map_err(|errno| FsError::new("open", printable_path(path), errno))?;
        Self::of(handle, path.to_owned())
    }

    /// Opens a regular file of a directory; a link is refused.
    pub fn open_in(directory: &SourceDirectory, name: &OsStr) -> Result<Self, FsError> {
        let path = directory.path.join(name);
        let handle = open(directory.handle.as_fd(), name, OFlags::NOFOLLOW)
            .map_err(|errno| FsError::new("open", printable_path(&path), errno))?;
        Self::of(handle, path)
    }

    fn of(handle: OwnedFd, path: PathBuf) -> Result<Self, FsError> {
        let failed = |step, errno| FsError::new(step, printable_path(&path), errno);
        let stat = rustix::fs::fstat(&handle).map_err(|errno| failed("look at", errno))?;
        let size = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::BlockDevice => raw::device_size(&handle).map_err(|errno| failed("ask the size of", errno))?,
            FileType::Directory => return Err(failed("read as a file", Errno::ISDIR)),
            _ => return Err(failed("read as a file", Errno::INVAL)),
        };
        Ok(Self { handle, stamp: Stamp::of(&stat), path, size })
    }

    /// Returns where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its length, or the size of the device.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns what it was like when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Tells whether it is a block device.
    pub fn is_device(&self) -> bool {
        FileType::from_raw_mode(self.stamp.mode) == FileType::BlockDevice
    }

    /// Looks at it again.
    pub fn stamp_now(&self) -> Result<Stamp, FsError> {
        rustix::fs::fstat(&self.handle).map(|stat| Stamp::of(&stat)).map_err(|errno| self.failed("look at", errno))
    }

    /// Fills `buffer` from `offset` on; what lies beyond the end reads as zeros.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FsError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::pread(&self.handle, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => {
                    buffer[filled..].fill(0);
                    break;
                }
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("read", errno)),
            }
        }
        Ok(())
    }

    /// Reads all of a small file; at most `most` bytes.
    pub fn read_all(&self, most: usize) -> Result<Vec<u8>, FsError> {
        let length = usize::try_from(self.size).unwrap_or(usize::MAX).min(most);
        let mut content = vec![0; length];
        self.read_at(0, &mut content)?;
        Ok(content)
    }

    pub(crate) fn failed(&self, step: &'static str, errno: Errno) -> FsError {
        FsError::new(step, printable_path(&self.path), errno)
    }

    /// Returns where data or a hole begins, at `offset` or after it; nothing when there is none.
    pub(crate) fn seek(&self, target: SeekFrom) -> Result<Option<u64>, Errno> {
        match rustix::fs::seek(&self.handle, target) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for SourceFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Is an open directory that is only read.
#[derive(Debug)]
pub struct SourceDirectory {
    handle: OwnedFd,
    path: PathBuf,
}

impl SourceDirectory {
    /// Opens a directory; a link to one is followed.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        let handle = open(rustix::fs::CWD, path.as_os_str(), OFlags::DIRECTORY)
            .map_err(|errno| FsError::new("open directory", printable_path(path), errno))?;
        Ok(Self { handle, path: path.to_owned() })
    }

    /// Returns where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns when it was modified last, ns since 1970.
    pub fn modified(&self) -> Result<i128, FsError> {
        let stat = rustix::fs::fstat(&self.handle);
        stat.map(|stat| Stamp::of(&stat).modified)
            .map_err(|errno| FsError::new("look at", printable_path(&self.path), errno))
    }

    /// Lists its names, sorted.
    pub fn names(&self) -> Result<Vec<std::ffi::OsString>, FsError> {
        let failed = |errno| FsError::new("list directory", printable_path(&self.path), errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.handle).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Looks at an entry, not through a link; nothing when it is absent.
    pub fn stamp(&self, name: &OsStr) -> Result<Option<Stamp>, FsError> {
        match rustix::fs::statat(&self.handle, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stamp::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FsError::new("look at", printable_path(&self.path.join(name)), errno)),
        }
    }
}

impl AsFd for SourceDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Opens read-only. `O_NOATIME` is for owners and root; others read as everybody does.
fn open(directory: impl AsFd, name: &OsStr, more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
    match rustix::fs::openat(&directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(&directory, name, flags, Mode::empty()),
        other => other,
    }
}
