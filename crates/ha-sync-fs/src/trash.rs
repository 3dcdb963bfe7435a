//! Where replaced and deleted entries are kept: `<root>/.ha-sync/trash/<run>/<relative path>` (sync.md §5).

use ha_sync_core::entry::{Entry, Kind};
use ha_sync_core::filter::OWN_DIRECTORY;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::commit::{self, CommitError, Ways};
use crate::dir::Dir;
use crate::error::FsError;
use crate::root::Root;

/// Is the name of the folder of all runs' trash in the tool's own directory.
pub const TRASH: &[u8] = b"trash";

/// Opens the tool's own directory of a root, making it (mode 0700) when it is absent.
pub fn open_own_directory(root: &Root) -> Result<Dir, FsError> {
    private(root.open_dir(&RelPath::root())?.open_or_make_child(OWN_DIRECTORY)?)
}

/// Closes a directory that somebody else may have made, or opened, to everybody but its owner (sync.md §11).
fn private(directory: Dir) -> Result<Dir, FsError> {
    let mode = directory.entry()?.mode;
    if mode & 0o777 != 0o700 {
        directory.check_fence("set mode of", b"")?;
        match rustix::fs::fchmod(&directory, rustix::fs::Mode::from_raw_mode(0o700)) {
            // A file system without modes, or one that maps its users.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(directory.error("set mode of", b"", errno)),
        }
    }
    Ok(directory)
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
    let mut current = private(open_own_directory(root)?.open_or_make_child(TRASH)?)?;
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
    trash.check_fence("open", &name)?;
    rustix::fs::openat(&trash, &name[..], flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| trash.error("open", &name, errno))
}

/// Is an entry of the trash and the place that it came from. What is in the trash stays there until it is in place:
/// at no moment the only copy of a version has another name than its own.
#[derive(Debug)]
pub struct PutBack<'a> {
    /// The folder of the trash that holds it.
    pub trash: &'a Dir,
    /// The directory that it came from.
    pub directory: &'a Dir,
    /// Its name in both.
    pub name: &'a [u8],
    /// What is in the trash.
    pub kept: &'a Entry,
    /// The name that a copy has until it is complete, where a copy is needed.
    pub temporary: &'a [u8],
}

impl PutBack<'_> {
    /// Moves it to its place, where nothing is.
    pub fn create(&self) -> Result<(), CommitError> {
        match self.trash.rename_new(self.name, self.directory, self.name) {
            Ok(()) => return Ok(()),
            Err(error) if error.errno() == Some(Errno::EXIST) => return Err(self.occupied()),
            Err(error) if error.errno() == Some(Errno::XDEV) => return self.create_copy(),
            Err(error) if commit::is_unsupported(&error) => {}
            Err(error) => return self.done_all_the_same(error),
        }
        match self.trash.hard_link(self.name, self.directory, self.name) {
            Ok(()) => return Ok(self.trash.remove_file(self.name)?),
            Err(error) if error.errno() == Some(Errno::EXIST) => return Err(self.occupied()),
            Err(error) if error.errno() == Some(Errno::XDEV) => return self.create_copy(),
            // A directory, or a file system without hard links: look, then rename.
            Err(_) => {}
        }
        if self.directory.find(self.name)?.is_some() {
            return Err(self.occupied());
        }
        match self.trash.rename_over(self.name, self.directory, self.name) {
            Err(error) if error.errno() == Some(Errno::XDEV) => self.create_copy(),
            Err(error) => self.done_all_the_same(error),
            Ok(()) => Ok(()),
        }
    }

    /// Moves it to its place, where `present` is: that goes to `own`, the folder of this restore's trash.
    pub fn replace(&self, present: &Entry, own: &Dir) -> Result<(), CommitError> {
        match self.directory.find(self.name)? {
            Some(now) if present.same_version(&now) => {}
            _ => return Err(CommitError::Changed),
        }
        // In the trash of this restore before all else: that of the other run may soon be too old to be kept.
        let linked = !present.is_directory() && self.directory.hard_link(self.name, own, self.name).is_ok();
        let replaced = match self.exchange() {
            Ok(()) => self.finish_exchange(present, own, linked),
            Err(error) if error.errno() == Some(Errno::XDEV) => return self.replace_copy(present, own),
            Err(error) if commit::is_unsupported(&error) => self.replace_stepwise(present, own, linked),
            // A server may have done it and its answer be lost.
            Err(error) => match self.trash.find(self.name) {
                Ok(Some(out)) if out.inode == present.inode => self.finish_exchange(present, own, linked),
                _ => Err(error.into()),
            },
        };
        let stays = || matches!(self.directory.find(self.name), Ok(Some(now)) if now.inode == present.inode);
        if replaced.is_err() && linked && stays() {
            let _ = own.remove_file(self.name);
        }
        replaced
    }

    fn occupied(&self) -> CommitError {
        commit::occupied(self.directory, self.name)
    }

    /// A server may have done it and its answer be lost.
    fn done_all_the_same(&self, error: FsError) -> Result<(), CommitError> {
        let gone = matches!(self.trash.find(self.name), Ok(None));
        match self.directory.find(self.name) {
            Ok(Some(now)) if gone && now.inode == self.kept.inode => Ok(()),
            _ => Err(error.into()),
        }
    }

    fn exchange(&self) -> Result<(), FsError> {
        self.directory.check_fence("exchange", self.name)?;
        let result = rustix::fs::renameat_with(self.trash, self.name, self.directory, self.name, RenameFlags::EXCHANGE);
        result.map_err(|errno| self.directory.error("exchange", self.name, errno))
    }

    /// Checks that what came out is what was seen, and moves it on; else exchanges back.
    fn finish_exchange(&self, present: &Entry, own: &Dir, linked: bool) -> Result<(), CommitError> {
        let is_linked = || matches!(own.find(self.name), Ok(Some(link)) if link.inode == present.inode);
        let moved = match self.trash.find(self.name) {
            Ok(Some(out)) if present.same_content_version(&out) => match linked && is_linked() {
                true => self.trash.remove_file(self.name).map_err(CommitError::from),
                false => move_new(self.trash, self.name, own, self.name).map_err(CommitError::from),
            },
            Ok(_) => Err(CommitError::Changed),
            Err(error) => Err(error.into()),
        };
        match moved {
            // Done, and the answer was lost.
            Err(CommitError::Fs(_)) if matches!(self.trash.find(self.name), Ok(None)) => Ok(()),
            Err(error) => Err(match self.exchange() {
                Ok(()) => error,
                // Both versions have their own name, in each other's place.
                Err(failed) => failed.into(),
            }),
            Ok(()) => Ok(()),
        }
    }

    /// Does it in two steps, where names cannot be exchanged.
    fn replace_stepwise(&self, present: &Entry, own: &Dir, linked: bool) -> Result<(), CommitError> {
        if linked && !self.kept.is_directory() {
            return match (own.find(self.name)?, self.directory.find(self.name)?) {
                (Some(link), Some(now)) if present.same_content_version(&link) && now.inode == link.inode => self
                    .trash
                    .rename_over(self.name, self.directory, self.name)
                    .or_else(|error| self.done_all_the_same(error)),
                _ => Err(CommitError::Changed),
            };
        }
        if linked {
            own.remove_file(self.name)?;
        }
        // Between a directory and something else there is no replacing rename: the name is absent for a moment.
        move_new(self.directory, self.name, own, self.name)?;
        let created = match own.find(self.name) {
            Ok(Some(out)) if present.same_content_version(&out) => self.create(),
            Ok(_) => Err(CommitError::Changed),
            Err(error) => Err(error.into()),
        };
        if created.is_err() {
            // It stays in the trash when something else came meanwhile.
            let _ = move_new(own, self.name, self.directory, self.name);
        }
        created
    }

    /// Copies it to its place on another file system, where nothing is.
    fn create_copy(&self) -> Result<(), CommitError> {
        self.copy_out()?;
        if let Err(error) = commit::create(self.directory, self.temporary, self.name, &Ways::default()) {
            let _ = self.directory.remove_file(self.temporary);
            return Err(error);
        }
        self.directory.sync()?;
        Ok(self.trash.remove_file(self.name)?)
    }

    /// Copies both ways between file systems: first what is there into the trash, then the other over it.
    fn replace_copy(&self, present: &Entry, own: &Dir) -> Result<(), CommitError> {
        if present.is_directory() || present.kind == Kind::Special {
            return Err(self.directory.error("keep a copy of", self.name, Errno::XDEV).into());
        }
        copy(self.directory, self.name, present, own, self.temporary)?;
        if let Err(error) = move_new(own, self.temporary, own, self.name) {
            let _ = own.remove_file(self.temporary);
            return Err(error.into());
        }
        let forget = |error| {
            let _ = own.remove_file(self.name);
            error
        };
        own.sync().map_err(CommitError::from).and_then(|()| self.copy_out()).map_err(forget)?;
        let replaced = match self.directory.find(self.name) {
            Ok(Some(now)) if present.same_content_version(&now) => {
                self.directory.rename_over(self.temporary, self.directory, self.name).map_err(CommitError::from)
            }
            Ok(_) => Err(CommitError::Changed),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = replaced {
            let _ = self.directory.remove_file(self.temporary);
            // Where the answer was lost, the copy in the trash is the only one of what was there.
            return Err(match self.directory.find(self.name) {
                Ok(Some(now)) if now.inode == present.inode => forget(error),
                _ => error,
            });
        }
        self.directory.sync()?;
        Ok(self.trash.remove_file(self.name)?)
    }

    fn copy_out(&self) -> Result<(), CommitError> {
        if self.kept.is_directory() || self.kept.kind == Kind::Special {
            return Err(self.directory.error("rename", self.name, Errno::XDEV).into());
        }
        Ok(copy(self.trash, self.name, self.kept, self.directory, self.temporary)?)
    }
}

/// Makes a complete copy that outlives a power cut; on failure there is none.
fn copy(from: &Dir, name: &[u8], seen: &Entry, to: &Dir, to_name: &[u8]) -> Result<(), FsError> {
    let copied = commit::keep_copy(from, name, seen, to, to_name).and_then(|()| match seen.kind {
        Kind::File => rustix::fs::fsync(to.open_file(to_name)?).map_err(|errno| to.error("write", to_name, errno)),
        _ => Ok(()),
    });
    if copied.is_err() {
        let _ = to.remove_file(to_name);
    }
    copied
}

/// Renames to where nothing may be, also on file systems that cannot tell.
fn move_new(from: &Dir, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<(), FsError> {
    match from.rename_new(name, to, to_name) {
        Err(error) if commit::is_unsupported(&error) => match to.find(to_name)? {
            None => from.rename_over(name, to, to_name),
            Some(_) => Err(to.error("rename", to_name, Errno::EXIST)),
        },
        other => other,
    }
}
