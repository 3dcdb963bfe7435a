//! Where a root lies in its file system, whichever mount it was reached by: `..` of a bind mount leads away from it.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::local;
use crate::root::Root;

/// Tells whether `inner` lies below `outer` in one file system. Without `/proc` that is not known, and false.
pub fn is_inside(inner: &Root, outer: &Root) -> bool {
    match (place(inner), place(outer)) {
        (Some(inner), Some(outer)) => inner.0 == outer.0 && inner.1.starts_with(&outer.1),
        _ => false,
    }
}

/// Returns the device and the path in its file system.
fn place(root: &Root) -> Option<(Vec<u8>, PathBuf)> {
    let number = root.as_fd().as_raw_fd();
    let text = |path: &str| local::read_if_present(Path::new(path)).ok().flatten();
    let info = text(&format!("/proc/self/fdinfo/{number}"))?;
    let id = info.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"mnt_id:"))?.trim_ascii();
    let path = rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new()).ok()?;
    let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
    let mounts = text("/proc/self/mountinfo")?;
    // id, parent's id, device, what is mounted, where
    let mut lines = mounts.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b' '));
    let mut fields = lines.find_map(|mut fields| (fields.next() == Some(id)).then_some(fields))?;
    let (device, top, point) = (fields.nth(1)?, fields.next()?, fields.next()?);
    let below = path.strip_prefix(unescaped(point)).ok()?.to_owned();
    Some((device.to_owned(), unescaped(top).join(below)))
}

/// Reads `\040` and the like.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let octal = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}
