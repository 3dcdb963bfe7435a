//! The system calls that no safe wrapper offers yet.
#![allow(unsafe_code, reason = "listxattrat, getxattrat and sync_file_range have no safe wrapper")]

use std::ffi::{CString, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

/// Linux 6.13; the numbers are the same on every architecture.
const GETXATTRAT: libc::c_long = 464;
const LISTXATTRAT: libc::c_long = 465;

static HAS_XATTRAT: AtomicBool = AtomicBool::new(true);

fn answer(result: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(result)
        .map_err(|_| Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
}

/// Runs a call that takes a null-terminated name; a short one needs no allocation.
fn with_name<T>(name: &[u8], call: impl FnOnce(*const libc::c_char) -> T) -> Result<T, Errno> {
    let mut short = [0_u8; 256];
    if name.contains(&0) {
        return Err(Errno::INVAL);
    }
    if name.len() < short.len() {
        short[..name.len()].copy_from_slice(name);
        return Ok(call(short.as_ptr().cast()));
    }
    let long = CString::new(name).map_err(|_| Errno::INVAL)?;
    Ok(call(long.as_ptr()))
}

/// Is `struct xattr_args` of linux/xattr.h.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

fn through_proc(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Lists the attribute names of an entry into `buffer`; a link is not followed.
pub(crate) fn list_attributes(directory: impl AsFd, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
    let directory = directory.as_fd();
    if HAS_XATTRAT.load(Ordering::Relaxed) {
        let result = with_name(name, |name| {
            // SAFETY: the name is null-terminated, the buffer is valid for its length, the handle is open.
            answer(unsafe {
                libc::syscall(
                    LISTXATTRAT,
                    directory.as_raw_fd(),
                    name,
                    libc::AT_SYMLINK_NOFOLLOW,
                    buffer.as_mut_ptr(),
                    buffer.len(),
                )
            })
        })?;
        match result {
            // A seccomp filter that does not know the call answers EPERM.
            Err(Errno::NOSYS | Errno::PERM) => HAS_XATTRAT.store(false, Ordering::Relaxed),
            other => return other,
        }
    }
    rustix::fs::llistxattr(&through_proc(directory, name)[..], buffer)
}

/// Reads one attribute of an entry into `buffer`; a link is not followed.
pub(crate) fn get_attribute(
    directory: impl AsFd,
    name: &[u8],
    attribute: &[u8],
    buffer: &mut [u8],
) -> Result<usize, Errno> {
    let directory = directory.as_fd();
    if HAS_XATTRAT.load(Ordering::Relaxed) {
        let attribute = CString::new(attribute).map_err(|_| Errno::INVAL)?;
        let result = with_name(name, |name| {
            let mut arguments = XattrArgs { value: buffer.as_mut_ptr() as u64, size: buffer.len() as u32, flags: 0 };
            // SAFETY: both names are null-terminated, the arguments point to a buffer of their size.
            answer(unsafe {
                libc::syscall(
                    GETXATTRAT,
                    directory.as_raw_fd(),
                    name,
                    libc::AT_SYMLINK_NOFOLLOW,
                    attribute.as_ptr(),
                    (&raw mut arguments).cast::<c_void>(),
                    size_of::<XattrArgs>(),
                )
            })
        })?;
        match result {
            Err(Errno::NOSYS | Errno::PERM) => HAS_XATTRAT.store(false, Ordering::Relaxed),
            other => return other,
        }
    }
    rustix::fs::lgetxattr(&through_proc(directory, name)[..], attribute, buffer)
}

/// Asks the kernel to begin writing a range back, without waiting for it.
pub(crate) fn start_writeback(file: impl AsFd, offset: u64, length: u64) {
    // SAFETY: plain integers and an open handle; the answer does not matter, it is a hint.
    unsafe {
        libc::sync_file_range(
            file.as_fd().as_raw_fd(),
            offset as libc::off64_t,
            length as libc::off64_t,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}
