//! A root of a synchronised tree: the only door to what is below it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ha_sync_core::entry::Entry;
use ha_sync_core::path::{RelPath, printable};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::dir::{Dir, stat_at};
use crate::error::FsError;
use crate::fence::Fence;

/// A path longer than this is opened in pieces: PATH_MAX counts the final zero, and leaves room.
const LONGEST_PIECE: usize = 4000;

pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Is what all handles below a root share.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) path: PathBuf,
    pub(crate) fence: Option<Arc<Fence>>,
}

/// Is an open root directory.
#[derive(Debug)]
pub struct Root {
    handle: OwnedFd,
    tree: Arc<Tree>,
    entry: Entry,
    cross_mounts: bool,
    openat2: AtomicBool,
}

impl Root {
    /// Opens a root. It may be a link to a directory, which is resolved now and never again.
    pub fn open(path: &Path, cross_mounts: bool) -> Result<Self, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fail = |errno| FsError::local("open root", path, std::io::Error::from(errno));
        let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
        let entry = stat_at(&handle, b"", AtFlags::EMPTY_PATH).map_err(fail)?;
        let tree = Arc::new(Tree { path: path.to_owned(), fence: None });
        Ok(Self { handle, tree, entry, cross_mounts, openat2: AtomicBool::new(true) })
    }

    /// Puts a fence around what is below: nothing is changed any more once it is closed.
    pub fn fenced(self, fence: Option<Arc<Fence>>) -> Self {
        let tree = Arc::new(Tree { path: self.tree.path.clone(), fence });
        Self { tree, ..self }
    }

    /// Returns the path it was opened by.
    pub fn path(&self) -> &Path {
        &self.tree.path
    }

    /// Returns what the root was when it was opened.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Opens a directory below the root. No component may be a link; none may be a mount point unless mounts are
    /// crossed.
    pub fn open_dir(&self, path: &RelPath) -> Result<Dir, FsError> {
        let handle = self
            .resolve(path)
            .map_err(|errno| FsError::new("open directory", printable_below(&self.tree.path, path, b""), errno))?;
        Ok(Dir { handle, root: Arc::clone(&self.tree), path: path.clone() })
    }

    fn resolve(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        if path.is_root() {
            return self.open_one(self.handle.as_fd(), b".");
        }
        let mut rest = path.as_bytes();
        let mut holder: Option<OwnedFd> = None;
        while rest.len() > LONGEST_PIECE {
            let cut = rest[..LONGEST_PIECE].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
            let from = holder.as_ref().map_or(self.handle.as_fd(), |handle| handle.as_fd());
            let next = self.open_one(from, &rest[..cut])?;
            holder = Some(next);
            rest = &rest[cut + 1..];
        }
        let from = holder.as_ref().map_or(self.handle.as_fd(), |handle| handle.as_fd());
        self.open_one(from, rest)
    }

    fn open_one(&self, from: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        if self.openat2.load(Ordering::Relaxed) {
            let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            if !self.cross_mounts {
                resolve |= ResolveFlags::NO_XDEV;
            }
            match rustix::fs::openat2(from, path, DIRECTORY, Mode::empty(), resolve) {
                // Before Linux 5.6, or behind a seccomp filter that does not know the call.
                Err(Errno::NOSYS | Errno::PERM) => self.openat2.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        let mut holder: Option<OwnedFd> = None;
        for part in path.split(|byte| *byte == b'/') {
            let from = holder.as_ref().map_or(from, |handle| handle.as_fd());
            let next = rustix::fs::openat(from, part, DIRECTORY, Mode::empty())?;
            if !self.cross_mounts && part != b"." {
                let entry = stat_at(&next, b"", AtFlags::EMPTY_PATH)?;
                if entry.mount_point {
                    return Err(Errno::XDEV);
                }
            }
            holder = Some(next);
        }
        holder.ok_or(Errno::INVAL)
    }

    /// Makes everything written below the root durable (`syncfs`).
    pub fn sync(&self) -> Result<(), FsError> {
        rustix::fs::syncfs(&self.handle).map_err(|errno| {
            FsError::new("sync file system", printable_below(&self.tree.path, &RelPath::root(), b""), errno)
        })
    }

    /// Returns the free and total bytes of its file system.
    pub fn space(&self) -> Result<(u64, u64), FsError> {
        let space = rustix::fs::fstatvfs(&self.handle).map_err(|errno| {
            FsError::new("ask for free space", printable_below(&self.tree.path, &RelPath::root(), b""), errno)
        })?;
        Ok((space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Writes the full path of a name below a root for people.
pub(crate) fn printable_below(root: &Path, directory: &RelPath, name: &[u8]) -> String {
    let mut bytes = root.as_os_str().as_bytes().to_vec();
    for part in [directory.as_bytes(), name] {
        if !part.is_empty() {
            if bytes.last() != Some(&b'/') {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(part);
        }
    }
    printable(&bytes)
}
