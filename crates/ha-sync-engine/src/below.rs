//! What is below a directory that goes as a whole: told apart from what is there later.

use ha_sync_core::filter;
use ha_sync_core::path::RelPath;
use ha_sync_fs::{FsError, Root};
use xxhash_rust::xxh3::Xxh3;

/// Returns a hash of everything below a directory: names, types, inodes, sizes and mtimes, wherever the directory itself
/// is moved. Temporary entries do not count, nor do ctimes, which our own work on another name of a file changes.
pub(crate) fn fingerprint(root: &Root, top: &RelPath) -> Result<u64, FsError> {
    let mut hash = Xxh3::new();
    let mut waiting = vec![top.clone()];
    while let Some(path) = waiting.pop() {
        let directory = root.open_dir(&path)?;
        let listing = directory.list()?;
        for index in 0..listing.len() {
            let name = listing.name(index);
            // What goes while we look is not there.
            let Some(entry) = directory.find(name)?.filter(|_| filter::parse_temporary(name).is_none()) else {
                continue;
            };
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update(&[entry.kind as u8]);
            hash.update(&entry.inode.to_le_bytes());
            if entry.is_directory() {
                waiting.push(path.join(name));
            } else {
                hash.update(&entry.size.to_le_bytes());
                hash.update(&entry.mtime.0.to_le_bytes());
            }
        }
        hash.update(&u64::MAX.to_le_bytes());
    }
    Ok(hash.digest())
}
