//! Finds out, once per run and root, what a file system can do and what its clock says.

use std::os::fd::OwnedFd;
use std::time::Instant;

use ha_sync_core::entry::Time;
use ha_sync_core::filter::OWN_DIRECTORY;
use ha_sync_core::path::RelPath;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::attributes;
use crate::dir::{owner, stat_at, times};
use crate::error::FsError;
use crate::root::Root;

/// Is what is known of a root's file system.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Whether requests go over a network or to another process: NFS, CIFS, FUSE, 9P, Ceph.
    pub remote: bool,
    /// Whether extended attributes and ACLs are kept.
    pub attributes: bool,
    /// The smallest step of an mtime, nanoseconds.
    pub granularity: i128,
    /// Whether any owner and group may be set.
    pub owners: bool,
    /// Whether permission bits are kept.
    pub modes: bool,
    /// What the file system set as the mtime of a new file, and when that was; absent where nothing can be written.
    pub clock: Option<(Time, Instant)>,
}

const NFS: u64 = 0x6969;
const SMB: u64 = 0x517b;
const CIFS: u64 = 0xff53_4d42;
const SMB2: u64 = 0xfe53_4d42;
const FUSE: u64 = 0x6573_5546;
const CEPH: u64 = 0x00c3_6400;
const NINE_P: u64 = 0x0102_1997;
const FAT: u64 = 0x4d44;
const EXFAT: u64 = 0x2011_bab0;

/// Looks at a root. What can only be found out by writing is found out with an unnamed file, which leaves no trace;
/// where there are none and `may_write`, with a file in the tool's own directory.
pub fn probe(root: &Root, may_write: bool) -> Result<Probe, FsError> {
    let statfs = rustix::fs::fstatfs(root).map_err(|errno| FsError::local("look at", root.path(), errno.into()))?;
    let magic = statfs.f_type as u64 & 0xffff_ffff;
    let fat = magic == FAT;
    let mut probe = Probe {
        remote: [NFS, SMB, CIFS, SMB2, FUSE, CEPH, NINE_P].contains(&magic),
        attributes: attributes::supported(root),
        granularity: if fat { 2 * Time::SECOND } else { 1 },
        owners: rustix::process::geteuid().is_root() && !fat && magic != EXFAT,
        modes: !fat && magic != EXFAT,
        clock: None,
    };
    let unnamed = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(root, c".", unnamed, Mode::from_raw_mode(0o600)) {
        Ok(file) => test(&mut probe, root, &file)?,
        Err(Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::NOSPC | Errno::DQUOT) => {}
        Err(_) if may_write => with_named_file(root, |file| test(&mut probe, root, file))?,
        Err(_) => {}
    }
    Ok(probe)
}

/// Tells whether a trial worked; an error that says nothing about what the file system can do is one.
fn worked(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Tries things out on an empty file of ours.
fn test(probe: &mut Probe, root: &Root, file: &OwnedFd) -> Result<(), FsError> {
    let fail = |errno: Errno| FsError::local("probe a new file in", root.path(), errno.into());
    let stat = |file: &OwnedFd| stat_at(file, b"", AtFlags::EMPTY_PATH).map_err(fail);
    let made = stat(file)?;
    probe.clock = Some((made.mtime, Instant::now()));
    let fine = Time::new(1_000_000_001, 123_456_789);
    if worked(rustix::fs::futimens(file, &times(fine))).map_err(fail)? {
        let kept = stat(file)?.mtime;
        probe.granularity = [1, 100, 1_000, 1_000_000, 10_000_000, Time::SECOND]
            .into_iter()
            .find(|tick| fine.floor(*tick) == kept)
            .unwrap_or(2 * Time::SECOND);
    }
    let other = |id: u32| if id == 1 { 2 } else { 1 };
    let (uid, gid) = owner(other(made.uid), other(made.gid));
    match worked(rustix::fs::fchown(file, uid, gid)) {
        // The other's quota is used up.
        Err(Errno::DQUOT | Errno::NOSPC) => {}
        owned => {
            probe.owners = owned.map_err(fail)? && {
                let now = stat(file)?;
                (now.uid, now.gid) == (other(made.uid), other(made.gid))
            }
        }
    }
    probe.modes =
        worked(rustix::fs::fchmod(file, Mode::from_raw_mode(0o640))).map_err(fail)? && stat(file)?.mode == 0o640;
    Ok(())
}

/// Runs a test on a file in the tool's own directory; leaves that directory only when it was there.
fn with_named_file(root: &Root, test: impl FnOnce(&OwnedFd) -> Result<(), FsError>) -> Result<(), FsError> {
    let top = root.open_dir(&RelPath::root())?;
    let before = top.entry()?.mtime;
    let made = match top.make_directory(OWN_DIRECTORY) {
        Ok(()) => true,
        Err(error) if error.errno() == Some(Errno::EXIST) => false,
        Err(error)
            if matches!(error.errno(), Some(Errno::ROFS | Errno::ACCESS | Errno::PERM)) || error.is_out_of_space() =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let own = top.open_child(OWN_DIRECTORY)?;
    let name = format!("probe-{}", std::process::id()).into_bytes();
    let result = own.create_file(&name).and_then(|file| {
        let result = test(&file);
        own.remove_file(&name)?;
        result
    });
    // Full, it could not be tried out: what may be assumed is assumed.
    let result = match result {
        Err(error) if error.is_out_of_space() => Ok(()),
        other => other,
    };
    if made {
        top.remove_directory(OWN_DIRECTORY)?;
        let _ = top.set_mtime(before);
    }
    result
}
