//! Where replaced and deleted entries are kept: `<root>/.ha-sync/trash/<run>/<relative path>` (sync.md §5).

use ha_sync_core::filter::OWN_DIRECTORY;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::FsError;
use crate::root::Root;

/// Is the name of the folder of all runs' trash in the tool's own directory.
pub const TRASH: &[u8] = b"trash";

/// Opens the tool's own directory of a root, making it (mode 0700) when it is absent.
pub fn open_own_directory(root: &Root) -> Result<Dir, FsError> {
    root.open_dir(&RelPath::root())?.open_or_make_child(OWN_DIRECTORY)
}

/// Opens the folder in which a run keeps what was in `directory`, making it and those above it.
pub fn open(root: &Root, run: &RunId, directory: &RelPath) -> Result<Dir, FsError> {
    // Most often it is there already, from the entry before.
    let mut path = RelPath::root().join(OWN_DIRECTORY).join(TRASH).join(run.as_str().as_bytes());
    if !directory.is_root() {
        path = path.join(directory.as_bytes());
    }
    match root.open_dir(&path) {
        Err(error) if error.errno() == Some(Errno::NOENT) => {}
        other => return other,
    }
    let mut current = open_own_directory(root)?.open_or_make_child(TRASH)?;
    current = current.open_or_make_child(run.as_str().as_bytes())?;
    for part in directory.components() {
        current = current.open_or_make_child(part)?;
    }
    Ok(current)
}

/// Returns the name, in the trash, of the record of directories that a run removed.
pub fn directory_record(run: &RunId) -> Vec<u8> {
    format!("{run}.directories.jsonl").into_bytes()
}

/// Opens the record of the directories that a run removed, for appending.
pub fn open_directory_record(root: &Root, run: &RunId) -> Result<std::os::fd::OwnedFd, FsError> {
    use rustix::fs::{Mode, OFlags};
    let trash = open_own_directory(root)?.open_or_make_child(TRASH)?;
    let name = directory_record(run);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&trash, &name[..], flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| trash.error("open", &name, errno))
}
