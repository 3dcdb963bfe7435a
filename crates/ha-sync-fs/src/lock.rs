//! The file lock of a pair: one per pair and host, whatever the log directory (sync.md §7, §11).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ha_sync_core::entry::Time;
use ha_sync_core::name::PairName;
use ha_sync_core::path::RelPath;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{FsError, printable_path};
use crate::root::Root;

/// Directories for locks that every user of a host can write to, best first.
const PLACES: [&str; 3] = ["/run/lock", "/var/lock", "/tmp"];

/// Says why a lock was not got.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("the lock of pair {pair} is held by {holder}")]
    Held {
        /// The pair.
        pair: PairName,
        /// What the holder wrote of itself.
        holder: String,
        /// The lock file.
        path: PathBuf,
    },
    /// A run or a restore works on the root.
    #[error("the root is in use by another run or restore: {root}")]
    RootInUse {
        /// The root, printable.
        root: String,
    },
    /// The lock file cannot be used.
    #[error("failed to take the lock")]
    File(#[from] FsError),
}

/// Is a held lock. The kernel releases it with the process, however that ends.
#[derive(Debug)]
pub struct FileLock {
    handle: OwnedFd,
    path: PathBuf,
}

impl FileLock {
    /// Takes the lock of a pair, trying again for up to `wait`, or until `stopped`.
    ///
    /// `holder` is what others are told: `<host> pid <pid> run <run id>`.
    pub fn acquire(
        pair: &PairName,
        holder: &str,
        wait: Duration,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Self, LockError> {
        let path = place().join(format!("ha-sync-{pair}.lock"));
        let deadline = Instant::now() + wait;
        loop {
            let handle = open(&path)?;
            match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
                // Its last holder removed it between our two calls.
                Ok(()) if !is_at(&handle, &path) => {}
                Ok(()) => {
                    let written = rustix::fs::ftruncate(&handle, 0)
                        .and_then(|()| rustix::io::pwrite(&handle, holder.as_bytes(), 0));
                    written.map_err(|errno| FsError::local("write", &path, errno.into()))?;
                    return Ok(Self { handle, path });
                }
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline && !stopped() => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(Errno::WOULDBLOCK) => {
                    let mut text = [0; 512];
                    let length = rustix::io::pread(&handle, &mut text, 0).unwrap_or(0);
                    let holder = String::from_utf8_lossy(&text[..length]).trim().to_owned();
                    let holder = if holder.is_empty() { "another process".to_owned() } else { holder };
                    return Err(LockError::Held { pair: pair.clone(), holder, path });
                }
                Err(errno) => return Err(FsError::local("lock", &path, errno.into()).into()),
            }
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Removed while it is still locked: who waits for it finds out that it is gone, and makes a new one.
        // Somebody else's file cannot be removed; an empty one tells nothing of a holder.
        let _ = rustix::fs::ftruncate(&self.handle, 0);
        let _ = rustix::fs::unlink(&self.path);
    }
}

/// Chooses the first directory that every user can write to, so that all users of a host choose the same; a host
/// without one has its own first writable place.
fn place() -> &'static Path {
    let shared = |place: &&&str| {
        let mode = rustix::fs::stat(**place).map_or(0, |stat| stat.st_mode);
        mode & 0o1002 == 0o1002
    };
    let writable = |place: &&&str| rustix::fs::access(**place, rustix::fs::Access::WRITE_OK).is_ok();
    Path::new(PLACES.iter().find(shared).or_else(|| PLACES.iter().find(writable)).unwrap_or(&"/tmp"))
}

/// Tells whether the path still leads to the file that was locked.
fn is_at(handle: &OwnedFd, path: &Path) -> bool {
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    rustix::fs::fstat(handle).map(identity).ok() == rustix::fs::lstat(path).map(identity).ok()
}

/// Opens the lock file. Another user may have made it: creating and opening are two calls, because a kernel with
/// `fs.protected_regular` refuses O_CREAT on somebody else's file in a sticky directory.
fn open(path: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..10 {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|errno| FsError::local("open lock file", path, errno.into())),
        }
        match rustix::fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o666)) {
            Ok(handle) => {
                // Others must be able to lock it too, whatever our umask.
                let _ = rustix::fs::fchmod(&handle, Mode::from_raw_mode(0o666));
                return Ok(handle);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(FsError::local("make lock file", path, errno.into())),
        }
    }
    Err(FsError::local("open lock file", path, Errno::AGAIN.into()))
}

/// Says who else may use a root meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody.
    Alone,
    /// Others that share it too.
    Shared,
}

/// Is a held lock on a root. The kernel releases it with the process, however that ends.
#[derive(Debug)]
pub struct RootLock {
    #[expect(dead_code, reason = "held until it is dropped")]
    handle: OwnedFd,
}

/// Takes the lock on a root, on a handle of its directory, which leaves no trace; never waits.
///
/// It keeps a restore and runs of whatever pairs apart on one host. Do not take it twice in one process: that is
/// refused like another's.
pub fn lock_root(root: &Root, sharing: Sharing) -> Result<RootLock, LockError> {
    let handle = root.open_dir(&RelPath::root())?.into_handle();
    let operation = match sharing {
        Sharing::Alone => FlockOperation::NonBlockingLockExclusive,
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
    };
    match rustix::fs::flock(&handle, operation) {
        Ok(()) => Ok(RootLock { handle }),
        Err(Errno::WOULDBLOCK) => Err(LockError::RootInUse { root: printable_path(root.path()) }),
        Err(errno) => Err(FsError::local("lock root", root.path(), errno.into()).into()),
    }
}

/// Says who holds the lock of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What the holder wrote of itself.
    pub name: String,
    /// When it wrote that.
    pub since: Time,
}

/// Tells who of this host holds the lock of a pair, without touching it: a lock taken to find out would make a run
/// fail that begins at that moment. The kernel's table of locks tells whether the text in the file still holds
/// (proc(5)).
pub fn holder(pair: &PairName) -> Result<Option<Holder>, FsError> {
    let path = place().join(format!("ha-sync-{pair}.lock"));
    let handle = match rustix::fs::open(&path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(FsError::local("open lock file", &path, errno.into())),
    };
    let failed = |errno: Errno| FsError::local("read lock file", &path, errno.into());
    let stat = rustix::fs::fstat(&handle).map_err(failed)?;
    let table = crate::local::read(Path::new("/proc/locks"))?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let file = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    let held = String::from_utf8_lossy(&table).lines().any(|line| {
        // a line with "->" is one who waits
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str())
    });
    if !held {
        return Ok(None);
    }
    let mut text = [0; 512];
    let length = rustix::io::pread(&handle, &mut text, 0).map_err(failed)?;
    let name = String::from_utf8_lossy(&text[..length]).trim().to_owned();
    let name = if name.is_empty() { "another process".to_owned() } else { name };
    Ok(Some(Holder { name, since: Time(i128::from(stat.st_mtime) * 1_000_000_000) }))
}
