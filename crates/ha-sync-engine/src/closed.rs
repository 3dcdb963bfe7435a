//! Directories that are closed to their owner: who is not root opens them for the time of the work.

use ha_sync_core::entry::Entry;

/// Tells whether a directory need not be opened by this user, or may not be, as somebody else's.
pub(crate) fn is_open_to_owner(directory: &Entry) -> bool {
    let user = rustix::process::geteuid();
    directory.mode & 0o700 == 0o700 || user.is_root() || directory.uid != user.as_raw()
}
