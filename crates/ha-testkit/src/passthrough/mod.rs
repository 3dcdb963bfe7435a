//! A FUSE file system that passes every request on to a backing directory, and misbehaves on request.
//!
//! It stands for a network file system in tests and benches. It is mounted by this process (root is needed, libfuse is
//! not), served by threads of this process, and unmounted on drop; the program under test is another process.
//!
//! **Caching.** Entries and attributes are valid for 0 s by default ([`Options::cached_for`]), as on NFS with
//! `lookupcache=none,noac`: no request hides in the kernel's cache. A `stat` of a name is then two requests (LOOKUP for
//! the name, GETATTR for the attributes, each with the delay), and so is every directory on its path that is named
//! again; a tool that works relative to directory handles saves those. READDIRPLUS is not offered, since its attributes
//! would be stale at once. File data is cached until the file is opened again, as on NFS.
//!
//! **Delay.** [`Control::set_delay`] is slept once for every metadata request: everything but READ, WRITE, FLUSH,
//! FSYNC, LSEEK, FALLOCATE, COPY_FILE_RANGE, RELEASE, RELEASEDIR and FORGET. [`Options::threads`] requests are served
//! at once.
//!
//! **Inodes** are `O_PATH` handles of the backing files, so renames of directories, hard links and unlinked files that
//! are still open behave as on the backing file system; inode numbers are the backing ones. When there are more than
//! [`Options::handles`], the oldest ones that are not in use are closed, and opened again
//! by the name under which they were last seen; what another client has moved meanwhile is ESTALE then, as on NFS. The
//! backing directory must lie on one file system.
//!
//! **Not kept**: `O_TMPFILE`, `FICLONE`, locks between hosts; `syncfs` reaches the kernel only.
//!
//! ```ignore
//! let mount = Passthrough::mount(backing.path(), &Options::default()).unwrap();
//! let fault = mount.inject(Rule::on(Operation::Readdir).path_ends_with("a/b").error(Errno::STALE));
//! // … run the real binary on mount.path() …
//! assert!(fault.fired() > 0);
//! ```

mod control;
mod convert;
mod nodes;
mod requests;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::mount::{UnmountFlags, unmount};

pub use control::{Action, Control, Fault, Hook, Operation, Rule, Switches};
pub use rustix::io::Errno;

use crate::loopmount::Skipped;

type Answer<T> = Result<T, Errno>;

/// How a passthrough is mounted.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many requests are served at once.
    pub threads: usize,
    /// How long the kernel may use an entry or an attribute without asking again.
    pub cached_for: Duration,
    /// The same for directories, as NFS has `acdirmin` for them; used when it is longer.
    pub directories_cached_for: Duration,
    /// The first delay of each metadata request; [`Control::set_delay`] changes it.
    pub delay: Duration,
    /// How many handles of backing files are kept open; else an eighth of what this process may have open.
    pub handles: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 40,
            cached_for: Duration::ZERO,
            directories_cached_for: Duration::ZERO,
            delay: Duration::ZERO,
            handles: None,
        }
    }
}

/// A mounted passthrough; it is unmounted on drop. Rules, switches, delay and clock are those of [`Control`].
#[derive(Debug)]
pub struct Passthrough {
    control: Arc<Control>,
    session: Option<BackgroundSession>,
    backing: PathBuf,
    mount_point: PathBuf,
    _holder: tempfile::TempDir,
}

impl Passthrough {
    /// Mounts a passthrough of `backing` in a directory of its own, or says why this machine cannot.
    ///
    /// # Panics
    /// When the mount fails although this process is root and has `/dev/fuse`.
    pub fn mount(backing: &Path, options: &Options) -> Result<Self, Skipped> {
        if !rustix::process::geteuid().is_root() {
            return Err(Skipped::because("a FUSE mount needs root"));
        }
        if !Path::new("/dev/fuse").exists() {
            return Err(Skipped::of_this_kernel("there is no /dev/fuse"));
        }
        crate::limits::raise_open_files();
        crate::limits::keep_big_buffers_lazy();
        let holder = tempfile::Builder::new().prefix("ha-passthrough-").tempdir().expect("a directory to mount on");
        // A private directory above the mount point would keep other users out of tests that change the user.
        let mount_point = holder.path().join("mnt");
        std::fs::create_dir(&mount_point).expect("a mount point");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(holder.path(), open).expect("an open directory");

        let control = Arc::new(Control::new(options.delay));
        let server = server::Server::new(backing, Arc::clone(&control), options).expect("a backing directory");
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("ha-passthrough".to_owned()),
            MountOption::Subtype("ha-passthrough".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::Suid,
            MountOption::Dev,
        ];
        config.acl = SessionACL::All;
        config.n_threads = Some(options.threads);
        let session = fuser::spawn_mount(server, &mount_point, &config).expect("a FUSE mount");
        Ok(Self { control, session: Some(session), backing: backing.to_owned(), mount_point, _holder: holder })
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Returns the backing directory: what is done there is another client's work, seen at once.
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// Returns the controls, for another thread.
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }
}

impl std::ops::Deref for Passthrough {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        // A rule that blocks or fails everything must not keep the mount from going.
        self.control.clear();
        self.control.set_delay(Duration::ZERO);
        let Some(session) = self.session.take() else { return };
        let started = Instant::now();
        loop {
            match unmount(&self.mount_point, UnmountFlags::empty()) {
                Err(Errno::BUSY) if started.elapsed() < Duration::from_secs(3) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(Errno::BUSY) => {
                    // Somebody still has a file open: the mount leaves the tree now and ends when that file is closed,
                    // so the threads cannot be waited for.
                    let _ = unmount(&self.mount_point, UnmountFlags::DETACH);
                    return;
                }
                _ => break,
            }
        }
        let _ = session.umount_and_join();
    }
}
