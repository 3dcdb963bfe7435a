//! What one side calls what the other knows: errors, times, kinds.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::FileType;
use rustix::fs::{Timespec, UTIME_OMIT};
use rustix::io::Errno;

pub(super) fn proc_path(handle: impl AsFd) -> String {
    format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd())
}

pub(super) fn fuse(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

pub(super) fn system_time(seconds: i64, nanoseconds: i64) -> SystemTime {
    if seconds >= 0 {
        UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), u32::try_from(nanoseconds).unwrap_or(0))
    } else {
        UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs())
            + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
    }
}

/// Undoes what `fuser` made of a timespec. Before 1970 it takes the nanoseconds off instead of adding them, so the
/// distance from the epoch holds the two fields as they were sent.
pub(super) fn timespec(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        },
        Err(before) => Timespec {
            tv_sec: -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(before.duration().subsec_nanos()),
        },
    }
}

pub(super) fn kind_of(mode: u32) -> FileType {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

pub(super) fn omit() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }
}
