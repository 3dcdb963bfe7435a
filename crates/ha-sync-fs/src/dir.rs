//! An open directory, its listing, and what can be done to one of its names.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::path::RelPath;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, StatxAttributes, StatxFlags, Timespec, Timestamps,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use crate::error::FsError;
use crate::root::{DIRECTORY, Tree, printable_below};

/// Is an open directory of a tree.
#[derive(Debug)]
pub struct Dir {
    pub(crate) handle: OwnedFd,
    pub(crate) root: Arc<Tree>,
    pub(crate) path: RelPath,
}

/// Is the sorted names of a directory, in one piece of memory.
#[derive(Debug, Default)]
pub struct Listing {
    names: Vec<u8>,
    places: Vec<Place>,
}

/// Is where a name begins, its length, and whether it may be a directory's.
type Place = (u32, u16, bool);

impl Listing {
    /// Returns how many names there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns the name at a place of the order.
    pub fn name(&self, index: usize) -> &[u8] {
        let (offset, length, _) = self.places[index];
        &self.names[offset as usize..offset as usize + length as usize]
    }

    /// Returns the place of the first name that is not less.
    pub fn lower_bound(&self, name: &[u8]) -> usize {
        self.places.partition_point(|(offset, length, _)| {
            &self.names[*offset as usize..*offset as usize + *length as usize] < name
        })
    }

    /// Tells whether a name may be a directory's: the listing itself says of most that they are none.
    pub fn may_be_directory(&self, index: usize) -> bool {
        self.places[index].2
    }

    /// Finds a name.
    pub fn position(&self, name: &[u8]) -> Option<usize> {
        self.places
            .binary_search_by(|(offset, length, _)| {
                self.names[*offset as usize..*offset as usize + *length as usize].cmp(name)
            })
            .ok()
    }
}

/// Says what an entry is; `flags` may be `EMPTY_PATH` with an empty name.
pub(crate) fn stat_at(directory: impl AsFd, name: &[u8], flags: AtFlags) -> Result<Entry, Errno> {
    let flags = flags | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        _ => Kind::Special,
    };
    Ok(Entry {
        kind,
        size: if kind == Kind::Directory { 0 } else { stat.stx_size },
        mtime: Time::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: Time::new(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        inode: stat.stx_ino,
        device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        links: stat.stx_nlink,
        allocated: stat.stx_blocks * 512,
        mount_point: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        created: StatxFlags::from_bits_retain(stat.stx_mask)
            .contains(StatxFlags::BTIME)
            .then(|| Time::new(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
    })
}

impl Dir {
    /// Makes the error of a step on a name of this directory.
    pub fn error(&self, step: &'static str, name: &[u8], errno: Errno) -> FsError {
        FsError::new(step, printable_below(&self.root.path, &self.path, name), errno)
    }

    fn explain<T>(&self, step: &'static str, name: &[u8], result: Result<T, Errno>) -> Result<T, FsError> {
        result.map_err(|errno| self.error(step, name, errno))
    }

    /// Checks that the tree may still be changed; called right before every system call that changes it. Between this
    /// and the call the process can still be frozen: that gap is as small as it can be made on this side.
    pub fn check_fence(&self, step: &'static str, name: &[u8]) -> Result<(), FsError> {
        match &self.root.fence {
            Some(fence) if !fence.may_change() => {
                Err(FsError::fenced(step, printable_below(&self.root.path, &self.path, name)))
            }
            _ => Ok(()),
        }
    }

    /// Makes a call that changes the tree, behind the fence.
    fn change<T>(
        &self,
        step: &'static str,
        name: &[u8],
        call: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, FsError> {
        self.check_fence(step, name)?;
        self.explain(step, name, call())
    }

    /// Returns its path below the root.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Lists its names in byte order, without `.` and `..`. Reads from where the handle stands: use a fresh one.
    pub fn list(&self) -> Result<Listing, FsError> {
        let mut listing = Listing::default();
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(&self.handle, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = self.explain("list directory", b"", entry)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let offset =
                self.explain("list directory", b"", u32::try_from(listing.names.len()).or(Err(Errno::FBIG)))?;
            listing.names.extend_from_slice(name);
            let directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            listing.places.push((offset, name.len() as u16, directory));
        }
        let names = &listing.names;
        let name = |place: &Place| &names[place.0 as usize..place.0 as usize + place.1 as usize];
        listing.places.sort_unstable_by(|left, right| name(left).cmp(name(right)));
        // Some network file systems repeat a name when the directory changes during the listing.
        listing.places.dedup_by(|right, left| name(left) == name(right));
        Ok(listing)
    }

    /// Says what a name is; nothing when it is absent. Follows no link.
    pub fn find(&self, name: &[u8]) -> Result<Option<Entry>, FsError> {
        match stat_at(&self.handle, name, AtFlags::empty()) {
            Ok(entry) => Ok(Some(entry)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("look at", name, errno)),
        }
    }

    /// Says what the directory itself is.
    pub fn entry(&self) -> Result<Entry, FsError> {
        self.explain("look at", b"", stat_at(&self.handle, b"", AtFlags::EMPTY_PATH))
    }

    /// Opens a file for reading. Never waits for a FIFO's writer, never follows a link.
    pub fn open_file(&self, name: &[u8]) -> Result<OwnedFd, FsError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        self.explain("open", name, rustix::fs::openat(&self.handle, name, flags, Mode::empty()))
    }

    /// Makes a new file, mode 0600, for writing and reading.
    pub fn create_file(&self, name: &[u8]) -> Result<OwnedFd, FsError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.change("create", name, || rustix::fs::openat(&self.handle, name, flags, Mode::from_raw_mode(0o600)))
    }

    /// Makes a new file without a name, mode 0600; nothing where the file system has none.
    pub fn create_unnamed_file(&self) -> Result<Option<OwnedFd>, FsError> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        self.check_fence("create a file in", b"")?;
        match rustix::fs::openat(&self.handle, c".", flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => Ok(None),
            Err(errno) => Err(self.error("create a file in", b"", errno)),
        }
    }

    /// Gives a file without a name its name; fails with EEXIST when that is taken.
    pub fn name_file(&self, file: impl AsFd, name: &[u8]) -> Result<(), FsError> {
        let file = file.as_fd();
        self.check_fence("link", name)?;
        let by_handle = rustix::fs::linkat(file, c"", &self.handle, name, AtFlags::EMPTY_PATH);
        let result = match by_handle {
            // Without CAP_DAC_READ_SEARCH kernels before 6.10 want it by its path in /proc.
            Err(Errno::NOENT | Errno::PERM) => {
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
                rustix::fs::linkat(rustix::fs::CWD, path, &self.handle, name, AtFlags::SYMLINK_FOLLOW)
            }
            other => other,
        };
        self.explain("link", name, result)
    }

    /// Makes a directory, mode 0700.
    pub fn make_directory(&self, name: &[u8]) -> Result<(), FsError> {
        self.change("make directory", name, || rustix::fs::mkdirat(&self.handle, name, Mode::from_raw_mode(0o700)))
    }

    /// Opens a directory in this one.
    pub fn open_child(&self, name: &[u8]) -> Result<Dir, FsError> {
        let handle =
            self.explain("open directory", name, rustix::fs::openat(&self.handle, name, DIRECTORY, Mode::empty()))?;
        Ok(Dir { handle, root: Arc::clone(&self.root), path: self.path.join(name) })
    }

    /// Opens a directory in this one, making it (mode 0700) when it is absent.
    pub fn open_or_make_child(&self, name: &[u8]) -> Result<Dir, FsError> {
        match self.open_child(name) {
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            other => return other,
        }
        match self.make_directory(name) {
            Err(error) if error.errno() != Some(Errno::EXIST) => return Err(error),
            _ => {}
        }
        self.open_child(name)
    }

    /// Makes a symbolic link.
    pub fn make_link(&self, target: &[u8], name: &[u8]) -> Result<(), FsError> {
        self.change("make link", name, || rustix::fs::symlinkat(target, &self.handle, name))
    }

    /// Reads the target of a symbolic link.
    pub fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let target = self.explain("read link", name, rustix::fs::readlinkat(&self.handle, name, Vec::new()))?;
        Ok(target.into_bytes())
    }

    /// Gives a file another name (`link`).
    pub fn hard_link(&self, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<(), FsError> {
        to.change("link", to_name, || rustix::fs::linkat(&self.handle, name, &to.handle, to_name, AtFlags::empty()))
    }

    /// Renames; fails with EEXIST when the new name is taken (where the file system can tell).
    pub fn rename_new(&self, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<(), FsError> {
        to.change("rename", to_name, || {
            rustix::fs::renameat_with(&self.handle, name, &to.handle, to_name, RenameFlags::NOREPLACE)
        })
    }

    /// Renames over what is there.
    pub fn rename_over(&self, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<(), FsError> {
        to.change("rename", to_name, || rustix::fs::renameat(&self.handle, name, &to.handle, to_name))
    }

    /// Exchanges two names of this directory.
    pub fn exchange(&self, one: &[u8], other: &[u8]) -> Result<(), FsError> {
        self.change("exchange", other, || {
            rustix::fs::renameat_with(&self.handle, one, &self.handle, other, RenameFlags::EXCHANGE)
        })
    }

    /// Removes a file or link.
    pub fn remove_file(&self, name: &[u8]) -> Result<(), FsError> {
        self.change("remove", name, || rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()))
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, name: &[u8]) -> Result<(), FsError> {
        self.change("remove directory", name, || rustix::fs::unlinkat(&self.handle, name, AtFlags::REMOVEDIR))
    }

    /// Sets the permission, set-id and sticky bits of the directory itself.
    pub fn set_mode(&self, mode: u32) -> Result<(), FsError> {
        self.change("set mode of", b"", || rustix::fs::fchmod(&self.handle, Mode::from_raw_mode(mode)))
    }

    /// Sets the mtime of the directory itself.
    pub fn set_mtime(&self, mtime: Time) -> Result<(), FsError> {
        self.change("set times of", b"", || rustix::fs::futimens(&self.handle, &times(mtime)))
    }

    /// Sets the mtime of a name without following it.
    pub fn set_mtime_of(&self, name: &[u8], mtime: Time) -> Result<(), FsError> {
        self.change("set times of", name, || {
            rustix::fs::utimensat(&self.handle, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Sets owner and group of a name without following it.
    pub fn set_owner_of(&self, name: &[u8], uid: u32, gid: u32) -> Result<(), FsError> {
        let (uid, gid) = owner(uid, gid);
        self.change("set owner of", name, || {
            rustix::fs::chownat(&self.handle, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Makes everything written on its file system durable (`syncfs`).
    pub fn sync_file_system(&self) -> Result<(), FsError> {
        self.explain("sync file system", b"", rustix::fs::syncfs(&self.handle))
    }

    /// Makes the directory's own entries durable.
    pub fn sync(&self) -> Result<(), FsError> {
        self.explain("sync directory", b"", rustix::fs::fsync(&self.handle))
    }
}

impl Dir {
    /// Gives the handle away.
    pub fn into_handle(self) -> OwnedFd {
        self.handle
    }

    /// Makes a second handle of the same directory.
    pub fn try_clone(&self) -> Result<OwnedFd, FsError> {
        self.handle.try_clone().map_err(|error| FsError {
            step: "open directory",
            path: printable_below(&self.root.path, &self.path, b""),
            cause: error,
        })
    }
}

/// Says what an open file or directory is.
pub fn entry_of(handle: impl AsFd) -> Result<Entry, Errno> {
    stat_at(handle, b"", AtFlags::EMPTY_PATH)
}

/// Sets the mtime of an open file or directory; its atime stays.
pub fn set_mtime(handle: impl AsFd, mtime: Time) -> Result<(), Errno> {
    rustix::fs::futimens(handle, &times(mtime))
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Leaves the atime as it is.
pub(crate) fn times(mtime: Time) -> Timestamps {
    let (seconds, nanoseconds) = mtime.parts();
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

pub(crate) fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}
