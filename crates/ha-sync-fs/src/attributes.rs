//! Extended attributes and POSIX ACLs (which are the attributes `system.posix_acl_*`).

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::FsError;
use crate::raw;

/// Is the synchronised attributes of an entry, sorted by name.
pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// A kernel keeps at most this much of names, and of one value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LARGEST: usize = 64 * 1024;

/// Tells whether an attribute is synchronised: `user.*` and ACLs; as root also `trusted.*` and file capabilities.
/// Labels of the host (`security.selinux`, `security.ima`, …) belong to it and are left alone; so does what overlayfs
/// and XFS keep of their own under `trusted.*` (XFS shows its ACLs a second time as `trusted.SGI_ACL_*`).
fn synchronised(name: &[u8], privileged: bool) -> bool {
    name.starts_with(b"user.")
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || (privileged
            && ((name.starts_with(b"trusted.")
                && !name.starts_with(b"trusted.overlay.")
                && !name.starts_with(b"trusted.SGI_"))
                || name == b"security.capability"))
}

fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS)
}

/// Tells whether a handle's file system has extended attributes at all.
pub fn supported(handle: impl AsFd) -> bool {
    let mut nothing: [u8; 0] = [];
    !matches!(rustix::fs::flistxattr(handle, &mut nothing[..]), Err(errno) if is_unsupported(errno))
}

fn names(list: &[u8], privileged: bool) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> =
        list.split(|byte| *byte == 0).filter(|name| !name.is_empty() && synchronised(name, privileged)).collect();
    names.sort_unstable();
    names
}

/// Reads attributes through two calls that fill a buffer; first with a small one, which is nearly always enough.
fn read_all(
    privileged: bool,
    mut list: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
    mut get: impl FnMut(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Attributes, Errno> {
    let mut small = [0; 512];
    let mut large = Vec::new();
    let length = match list(&mut small) {
        Ok(0) => return Ok(Attributes::new()),
        Err(errno) if is_unsupported(errno) => return Ok(Attributes::new()),
        Err(Errno::RANGE) => {
            large.resize(LARGEST, 0);
            list(&mut large)?
        }
        other => other?,
    };
    let list: &[u8] = if large.is_empty() { &small[..length] } else { &large[..length] };
    let mut attributes = Attributes::new();
    let mut value = vec![0; 1024];
    for name in names(list, privileged) {
        let length = match get(name, &mut value) {
            Err(Errno::RANGE) => {
                value.resize(LARGEST, 0);
                get(name, &mut value)
            }
            other => other,
        };
        match length {
            Ok(length) => attributes.push((name.to_vec(), value[..length].to_vec())),
            // It went away between the two calls, or the file system lists what it does not give.
            Err(Errno::NODATA) => {}
            Err(errno) if is_unsupported(errno) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(attributes)
}

/// Reads the attributes of a name; a link has none that are synchronised.
pub fn read_at(directory: &Dir, name: &[u8], privileged: bool) -> Result<Attributes, FsError> {
    read_all(
        privileged,
        |buffer| raw::list_attributes(directory, name, buffer),
        |attribute, buffer| raw::get_attribute(directory, name, attribute, buffer),
    )
    .map_err(|errno| directory.error("read attributes of", name, errno))
}

/// Reads the attributes of an open file or directory.
pub fn read(handle: impl AsFd, privileged: bool) -> Result<Attributes, Errno> {
    let handle = handle.as_fd();
    read_all(
        privileged,
        |buffer| rustix::fs::flistxattr(handle, buffer),
        |attribute, buffer| rustix::fs::fgetxattr(handle, attribute, buffer),
    )
}

/// Gives an open file or directory exactly the attributes `wanted`; returns the name of one that the file system
/// refused as unsupported, if any.
pub fn write(handle: impl AsFd, wanted: &Attributes, present: &Attributes) -> Result<Option<Vec<u8>>, Errno> {
    let handle = handle.as_fd();
    let mut refused = None;
    for (name, value) in wanted {
        if present.iter().any(|held| held.0 == *name && held.1 == *value) {
            continue;
        }
        match rustix::fs::fsetxattr(handle, &name[..], value, XattrFlags::empty()) {
            Err(errno) if is_unsupported(errno) || errno == Errno::PERM => refused = Some(name.clone()),
            other => other?,
        }
    }
    for (name, _) in present.iter().filter(|held| !wanted.iter().any(|(name, _)| *name == held.0)) {
        match rustix::fs::fremovexattr(handle, &name[..]) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) if is_unsupported(errno) || errno == Errno::PERM => refused = Some(name.clone()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(refused)
}
