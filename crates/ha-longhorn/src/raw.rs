//! The ioctls that no safe wrapper offers.
#![allow(unsafe_code, reason = "FIEMAP and BLKGETSIZE64 have no safe wrapper")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// How many extents one call asks for: 28 KiB per layer, whatever the size of the volume.
pub(crate) const BATCH: usize = 512;

/// `_IOWR('f', 11, struct fiemap)` of linux/fs.h.
const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
/// `_IOR(0x12, 114, size_t)` of linux/fs.h.
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

const FIEMAP_FLAG_SYNC: u32 = 1;
/// The last extent of the file.
pub(crate) const FIEMAP_EXTENT_LAST: u32 = 0x1;
/// Space that is allocated and reads as zeros.
pub(crate) const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;

/// Is `struct fiemap_extent` of linux/fiemap.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct RawExtent {
    pub(crate) logical: u64,
    pub(crate) physical: u64,
    pub(crate) length: u64,
    reserved64: [u64; 2],
    pub(crate) flags: u32,
    reserved: [u32; 3],
}

/// Is `struct fiemap` of linux/fiemap.h, with room for a batch.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// Asks for the extents from `start` on, what is not on the disk yet written out first; at most [`BATCH`] of them.
pub(crate) fn fiemap(file: impl AsFd, start: u64) -> Result<Vec<RawExtent>, Errno> {
    let mut request = Box::new(Request {
        start,
        length: u64::MAX - start,
        flags: FIEMAP_FLAG_SYNC,
        mapped: 0,
        count: BATCH as u32,
        reserved: 0,
        extents: [RawExtent::default(); BATCH],
    });
    // SAFETY: the request has the layout of the kernel's structure, and room for as many extents as it asks for.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut *request) };
    if result < 0 {
        return Err(last_errno());
    }
    let mapped = (request.mapped as usize).min(BATCH);
    Ok(request.extents[..mapped].to_vec())
}

/// Returns the size of a block device in bytes.
pub(crate) fn device_size(file: impl AsFd) -> Result<u64, Errno> {
    let mut size = 0_u64;
    // SAFETY: the call writes one 64-bit number to a live local.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), BLKGETSIZE64 as _, &raw mut size) };
    if result < 0 { Err(last_errno()) } else { Ok(size) }
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
