//! Real file systems for tests: on a loop device with an image of a given size, in memory, bound, read-only.
//!
//! ```ignore
//! let disk = need!(loop_mount(FileSystem::Ext4, 64 << 20)); // prints `skipped: …` and returns where that cannot be
//! std::fs::write(disk.path().join("file"), "text").unwrap();
//! disk.set_read_only(true);
//! ```

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// Why a test could not do its work on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    why: String,
    /// The kernel lacks it, so no package can bring it, and CI has to live with it too.
    by_kernel: bool,
}

impl Skipped {
    /// Makes a reason that can be mended: another user, a package.
    pub fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), by_kernel: false }
    }

    /// Makes a reason that cannot be mended on this machine.
    pub fn of_this_kernel(why: impl Into<String>) -> Self {
        Self { why: why.into(), by_kernel: true }
    }

    /// Prints `skipped: <why>`, past the test runner's capture.
    ///
    /// # Panics
    /// Where nothing may be skipped (`CI=true` or `HA_SYNC_TEST_NO_SKIP` is set), unless the kernel is the reason.
    #[track_caller]
    pub fn report(&self) {
        let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        let strict = ci || std::env::var_os("HA_SYNC_TEST_NO_SKIP").is_some();
        assert!(!strict || self.by_kernel, "a test may not be skipped here: {}", self.why);
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        let _ = writeln!(std::io::stderr(), "skipped: {} ({test})", self.why);
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "skipped: {}", self.why)
    }
}

/// Unwraps what a test needs, or reports why it is skipped and returns from the test.
#[macro_export]
macro_rules! need {
    ($what:expr) => {
        match $what {
            Ok(value) => value,
            Err(skipped) => {
                let skipped: $crate::loopmount::Skipped = skipped;
                skipped.report();
                return;
            }
        }
    };
}

/// The file systems that can be made on a loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// From 2 MiB on. No reserved blocks; one inode for each 4 KiB, so that bytes run out first with files above that.
    Ext4,
    /// mkfs.xfs takes nothing below 300 MiB.
    Xfs,
    /// From 128 MiB on.
    Btrfs,
    /// Many server kernels have no driver for it.
    Vfat,
}

impl FileSystem {
    /// Returns the name that `mount -t` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
        }
    }

    /// Returns the options for its `mkfs` that [`loop_mount`] gives.
    pub fn mkfs_options(self) -> &'static [&'static str] {
        match self {
            // The image is new and empty: nothing needs zeroing, now or by the kernel's lazy thread while something is
            // measured.
            Self::Ext4 => {
                &["-q", "-F", "-m", "0", "-i", "4096", "-E", "assume_storage_prezeroed=1,lazy_itable_init=0,nodiscard"]
            }
            Self::Xfs | Self::Btrfs => &["-q", "-f"],
            Self::Vfat => &[],
        }
    }
}

/// A mounted file system; it is unmounted on drop, and its image goes.
#[derive(Debug)]
pub struct Mounted {
    mount_point: PathBuf,
    description: String,
    _holder: Option<tempfile::TempDir>,
}

/// Makes a file system of `size` bytes in an image in the directory for temporary files, and mounts it.
pub fn loop_mount(kind: FileSystem, size: u64) -> Result<Mounted, Skipped> {
    loop_mount_in(&std::env::temp_dir(), kind, size)
}

/// Makes a file system of `size` bytes in an image in `directory`, and mounts it.
///
/// # Panics
/// When `mkfs` or `mount` fails for another reason than the ones that skip.
pub fn loop_mount_in(directory: &Path, kind: FileSystem, size: u64) -> Result<Mounted, Skipped> {
    let mkfs = format!("mkfs.{}", kind.name());
    can_mount(&mkfs)?;
    let holder = holder(directory);
    let image = holder.path().join("image");
    std::fs::File::create(&image).expect("an image").set_len(size).expect("the size of an image");
    run(Command::new(tool(&mkfs).expect("found above")).args(kind.mkfs_options()).arg(&image));
    mount_image(kind, &image, holder)
}

/// Mounts a copy of an image, which goes with the mount; the image itself stays as it is.
pub fn loop_mount_copy(directory: &Path, kind: FileSystem, image: &Path) -> Result<Mounted, Skipped> {
    can_mount("cp")?;
    let holder = holder(directory);
    let copy = holder.path().join("image");
    run(Command::new("cp").args(["--sparse=always", "--reflink=auto", "--"]).arg(image).arg(&copy));
    mount_image(kind, &copy, holder)
}

/// Mounts an image that stays where it is, with options of `mount`, on a directory that is there.
///
/// # Panics
/// When `mount` fails for another reason than that there is no loop device, or no driver for the file system.
pub fn mount_file(image: &Path, mount_point: &Path, options: &str) -> Result<Mounted, Skipped> {
    can_mount("mount")?;
    let options = format!("loop,{options}");
    let output = Command::new("mount").args(["-o", &options]).args([image, mount_point]).output().expect("mount runs");
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if words.contains("unknown filesystem type") || words.contains("failed to setup loop device") {
            return Err(Skipped::of_this_kernel(format!("no such mount: {words}")));
        }
        panic!("failed to mount {} with {options}: {words}", image.display());
    }
    Ok(Mounted { mount_point: mount_point.to_owned(), description: format!("-o {options}"), _holder: None })
}

/// Mounts a file system in memory of `size` bytes.
pub fn tmpfs(size: u64) -> Result<Mounted, Skipped> {
    can_mount("mount")?;
    let holder = holder(&std::env::temp_dir());
    let mount_point = mount_point_in(&holder);
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "ha-test"])
        .arg(&mount_point));
    Ok(Mounted { mount_point, description: format!("tmpfs, {} MiB", size >> 20), _holder: Some(holder) })
}

/// Mounts the directory `source` on the directory `target` as well.
pub fn bind(source: &Path, target: &Path) -> Result<Mounted, Skipped> {
    can_mount("mount")?;
    run(Command::new("mount").arg("--bind").arg(source).arg(target));
    Ok(Mounted { mount_point: target.to_owned(), description: "bind mount".to_owned(), _holder: None })
}

impl Mounted {
    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Returns kind, size and options, for a report.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Returns the image below the mount, if there is one; it may be copied when nothing is mounted from it any more.
    pub fn into_image(mut self) -> Option<(PathBuf, tempfile::TempDir)> {
        let holder = self._holder.take()?;
        leave(&self.mount_point);
        Some((holder.path().join("image"), holder))
    }

    /// Remounts read-only, or writable again.
    ///
    /// # Panics
    /// When the kernel refuses, which it does while a file is open for writing.
    pub fn set_read_only(&self, read_only: bool) {
        let how = if read_only { "remount,bind,ro" } else { "remount,bind,rw" };
        run(Command::new("mount").args(["-o", how]).arg(&self.mount_point));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        leave(&self.mount_point);
    }
}

fn leave(mount_point: &Path) {
    let started = Instant::now();
    while let Err(Errno::BUSY) = unmount(mount_point, UnmountFlags::empty()) {
        if started.elapsed() > Duration::from_secs(3) {
            // Out of the tree now, gone when the last file in it is closed.
            let _ = unmount(mount_point, UnmountFlags::DETACH);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn holder(directory: &Path) -> tempfile::TempDir {
    let holder = tempfile::Builder::new().prefix("ha-mount-").tempdir_in(directory).expect("a directory to mount in");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(holder.path(), open).expect("an open directory");
    holder
}

fn mount_point_in(holder: &tempfile::TempDir) -> PathBuf {
    let mount_point = holder.path().join("mnt");
    std::fs::create_dir(&mount_point).expect("a mount point");
    mount_point
}

fn mount_image(kind: FileSystem, image: &Path, holder: tempfile::TempDir) -> Result<Mounted, Skipped> {
    let mount_point = mount_point_in(&holder);
    let output = Command::new("mount")
        .args(["-t", kind.name(), "-o", "loop"])
        .args([image, &mount_point])
        .output()
        .expect("mount runs");
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if words.contains("unknown filesystem type") {
            return Err(Skipped::of_this_kernel(format!("the kernel has no driver for {}", kind.name())));
        }
        if words.contains("failed to setup loop device") {
            return Err(Skipped::of_this_kernel(format!("no loop device: {words}")));
        }
        panic!("failed to mount a {} image: {words}", kind.name());
    }
    let size = std::fs::metadata(image).map(|image| image.len()).unwrap_or(0);
    let description = format!("{}, {} MiB, mkfs options `{}`", kind.name(), size >> 20, kind.mkfs_options().join(" "));
    Ok(Mounted { mount_point, description, _holder: Some(holder) })
}

/// Finds a tool, also where a normal user's PATH does not look.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Says why a test that needs this tool is skipped.
pub fn need_tool(name: &str) -> Result<PathBuf, Skipped> {
    tool(name).ok_or_else(|| Skipped::because(format!("{name} is not installed")))
}

fn can_mount(name: &str) -> Result<(), Skipped> {
    if !rustix::process::geteuid().is_root() {
        return Err(Skipped::because("mounting needs root"));
    }
    need_tool(name).map(drop)
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {}", words.trim());
}
