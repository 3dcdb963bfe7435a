//! Puts a finished temporary entry in place, and takes entries away: each by one rename, after a look at what is
//! there (sync.md §5).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use ha_sync_core::entry::{Entry, Kind};
use rustix::io::Errno;

use crate::attributes;
use crate::content::{Abilities, Copier, Hashing};
use crate::dir::{Dir, owner, times};
use crate::error::FsError;

/// Is what the destination's file system can do, as far as it was tried.
#[derive(Debug)]
pub struct Ways {
    exchange: AtomicBool,
    noreplace: AtomicBool,
    unnamed: AtomicBool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { exchange: AtomicBool::new(true), noreplace: AtomicBool::new(true), unnamed: AtomicBool::new(true) }
    }
}

/// Makes a file without a name, which leaves no trace when the run dies; nothing where there are none.
pub fn stage_unnamed(directory: &Dir, ways: &Ways) -> Result<Option<OwnedFd>, FsError> {
    if !ways.unnamed.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let file = directory.create_unnamed_file()?;
    if file.is_none() {
        ways.unnamed.store(false, Ordering::Relaxed);
    }
    Ok(file)
}

/// Gives the finished file without a name its name, where nothing was.
pub fn create_from_unnamed(directory: &Dir, file: &OwnedFd, name: &[u8]) -> Result<(), CommitError> {
    match directory.name_file(file, name) {
        Err(error) if error.errno() == Some(Errno::EXIST) => Err(occupied(directory, name)),
        other => Ok(other?),
    }
}

/// Says why an entry was not put in place or taken away; the destination is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// What is there is not what the plan saw.
    #[error("changed since scan")]
    Changed,
    /// The file system folds names, and another one is in the way.
    #[error("name collides on destination")]
    Collides,
    /// A directory with entries is in the way and there is no trash to keep it in.
    #[error("a directory that is not empty is replaced only when replaced entries are kept (--keep-replaced)")]
    NoTrash,
    /// The file system refused.
    #[error(transparent)]
    Fs(#[from] FsError),
}

pub(crate) fn is_unsupported(error: &FsError) -> bool {
    matches!(error.errno(), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// Gives the finished entry `temporary` its name, where nothing was.
pub fn create(directory: &Dir, temporary: &[u8], name: &[u8], ways: &Ways) -> Result<(), CommitError> {
    if ways.noreplace.load(Ordering::Relaxed) {
        match directory.rename_new(temporary, directory, name) {
            Ok(()) => return Ok(()),
            Err(error) if error.errno() == Some(Errno::EXIST) => return Err(occupied(directory, name)),
            Err(error) if is_unsupported(&error) => ways.noreplace.store(false, Ordering::Relaxed),
            Err(error) => return Err(error.into()),
        }
    }
    match directory.hard_link(temporary, directory, name) {
        Ok(()) => return Ok(directory.remove_file(temporary)?),
        Err(error) if error.errno() == Some(Errno::EXIST) => return Err(occupied(directory, name)),
        // A directory, or a file system without hard links: look, then rename.
        Err(_) => {}
    }
    if directory.find(name)?.is_some() {
        return Err(occupied(directory, name));
    }
    Ok(directory.rename_over(temporary, directory, name)?)
}

/// Tells a name that appeared meanwhile from one that only looks the same to the file system.
pub fn occupied(directory: &Dir, name: &[u8]) -> CommitError {
    let listed = rustix::fs::openat(directory, c".", crate::root::DIRECTORY, rustix::fs::Mode::empty())
        .map(|handle| Dir { handle, root: directory.root.clone(), path: directory.path.clone() })
        .ok()
        .and_then(|fresh| fresh.list().ok());
    match listed {
        Some(listing) if listing.position(name).is_none() => CommitError::Collides,
        _ => CommitError::Changed,
    }
}

/// Tells whether a directory that goes as a whole, at a name of another one, still holds what it did.
pub type IsWhole<'a> = dyn Fn(&Dir, &[u8]) -> Result<bool, FsError> + 'a;

/// Puts the finished entry `temporary` in the place of the name that `seen` describes; that goes to `trash`, or away.
pub fn replace(
    directory: &Dir,
    temporary: &[u8],
    (name, seen): (&[u8], &Entry),
    is_whole: &IsWhole<'_>,
    trash: Option<&Dir>,
    ways: &Ways,
) -> Result<(), CommitError> {
    match directory.find(name)? {
        Some(now) if seen.same_version(&now) => {}
        _ => return Err(CommitError::Changed),
    }
    if seen.is_directory() && !is_whole(directory, name)? {
        return Err(CommitError::Changed);
    }
    if ways.exchange.load(Ordering::Relaxed) {
        match directory.exchange(temporary, name) {
            Ok(()) => return finish_exchange(directory, temporary, (name, seen), is_whole, trash),
            Err(error) if error.errno() == Some(Errno::NOENT) => return Err(CommitError::Changed),
            Err(error) if is_unsupported(&error) => ways.exchange.store(false, Ordering::Relaxed),
            // A server may have done it and its answer be lost.
            Err(error) => match directory.find(temporary) {
                Ok(Some(out)) if out.inode == seen.inode => {
                    return finish_exchange(directory, temporary, (name, seen), is_whole, trash);
                }
                _ => return Err(error.into()),
            },
        }
    }
    let directories = seen.is_directory() || directory.find(temporary)?.is_some_and(|entry| entry.is_directory());
    match trash {
        // Between a directory and something else there is no replacing rename: the name is absent for a moment.
        Some(trash) if directories => {
            directory.rename_over(name, trash, name)?;
            match trash.find(name).and_then(|out| is_out(seen, out, || is_whole(trash, name))) {
                Ok(true) => {}
                other => {
                    trash.rename_over(name, directory, name)?;
                    return Err(other.err().map_or(CommitError::Changed, CommitError::from));
                }
            }
            if let Err(error) = create(directory, temporary, name, ways) {
                trash.rename_over(name, directory, name)?;
                return Err(error);
            }
            return Ok(());
        }
        None if directories => return Err(CommitError::NoTrash),
        Some(trash) => {
            if directory.hard_link(name, trash, name).is_err() && !is_there(trash, name, seen) {
                keep_copy(directory, name, seen, trash, name)?;
            }
            match directory.find(name)? {
                Some(now) if seen.same_content_version(&now) => {}
                _ => {
                    trash.remove_file(name)?;
                    return Err(CommitError::Changed);
                }
            }
        }
        None => {}
    }
    if let Err(error) = directory.rename_over(temporary, directory, name) {
        // It may have been done and the answer be lost: then the trash holds the only old version.
        if is_there(directory, name, seen) {
            if let Some(trash) = trash {
                let _ = trash.remove_file(name);
            }
        } else if matches!(directory.find(temporary), Ok(None)) {
            return Ok(());
        }
        return Err(error.into());
    }
    Ok(())
}

/// Looks again after an error that may pass: what was just moved would not be found by doing it all again.
fn look_again<T>(mut look: impl FnMut() -> Result<T, FsError>) -> Result<T, FsError> {
    for pause in [20, 150] {
        match look() {
            Err(error) if error.is_transient() => std::thread::sleep(std::time::Duration::from_millis(pause)),
            other => return other,
        }
    }
    look()
}

/// Tells whether a name is certainly the very entry that the plan saw.
fn is_there(directory: &Dir, name: &[u8], seen: &Entry) -> bool {
    matches!(directory.find(name), Ok(Some(now)) if now.inode == seen.inode)
}

/// Tells whether what came out is what the plan saw: nobody can have put anything into a directory by its old path since.
fn is_out(seen: &Entry, out: Option<Entry>, is_whole: impl FnOnce() -> Result<bool, FsError>) -> Result<bool, FsError> {
    match out {
        Some(out) if seen.same_content_version(&out) => Ok(!seen.is_directory() || is_whole()?),
        _ => Ok(false),
    }
}

/// Checks that what came out of the exchange is what the plan saw, and moves it to the trash; else exchanges back.
fn finish_exchange(
    directory: &Dir,
    temporary: &[u8],
    (name, seen): (&[u8], &Entry),
    is_whole: &IsWhole<'_>,
    trash: Option<&Dir>,
) -> Result<(), CommitError> {
    let put_back = |error: CommitError| match directory.exchange(temporary, name) {
        Ok(()) => error,
        Err(failed) => failed.into(),
    };
    match directory.find(temporary).and_then(|out| is_out(seen, out, || is_whole(directory, temporary))) {
        Ok(true) => {}
        Ok(false) => return Err(put_back(CommitError::Changed)),
        Err(error) => return Err(put_back(error.into())),
    }
    let gone = match trash {
        Some(trash) => carry(directory, temporary, seen, trash, name),
        None if seen.is_directory() => match directory.remove_directory(temporary) {
            Err(error) if matches!(error.errno(), Some(Errno::NOTEMPTY | Errno::EXIST)) => {
                return Err(put_back(CommitError::NoTrash));
            }
            other => other,
        },
        None => directory.remove_file(temporary),
    };
    match gone {
        // Done, and the answer was lost.
        Err(_) if matches!(directory.find(temporary), Ok(None)) => Ok(()),
        other => other.map_err(|error| put_back(error.into())),
    }
}

/// Takes away the file or link that `seen` describes; it goes to `trash`, or for good: then by way of `temporary`, so
/// that what goes is what was looked at.
pub fn delete(
    directory: &Dir,
    name: &[u8],
    seen: &Entry,
    trash: Option<&Dir>,
    temporary: &[u8],
) -> Result<(), CommitError> {
    match directory.find(name)? {
        Some(now) if seen.same_version(&now) => {}
        _ => return Err(CommitError::Changed),
    }
    let Some(trash) = trash else {
        return delete_for_good(directory, name, seen, temporary);
    };
    match directory.rename_over(name, trash, name) {
        Ok(()) => {}
        Err(error) if error.errno() == Some(Errno::XDEV) => {
            keep_copy(directory, name, seen, trash, name)?;
            return Ok(directory.remove_file(name)?);
        }
        // Done, and the answer was lost.
        Err(_) if is_there(trash, name, seen) => {}
        Err(error) => return Err(error.into()),
    }
    match look_again(|| trash.find(name))? {
        Some(out) if seen.same_content_version(&out) => Ok(()),
        _ => {
            // Somebody replaced it between the look and the rename: theirs goes back, unless a newer one is there.
            match trash.rename_new(name, directory, name) {
                Err(error) if is_unsupported(&error) => directory_back(directory, trash, name)?,
                other => other?,
            }
            Err(CommitError::Changed)
        }
    }
}

fn delete_for_good(directory: &Dir, name: &[u8], seen: &Entry, temporary: &[u8]) -> Result<(), CommitError> {
    match directory.rename_over(name, directory, temporary) {
        // Done, and the answer was lost.
        Err(_) if is_there(directory, temporary, seen) => {}
        other => other?,
    }
    match look_again(|| directory.find(temporary))? {
        Some(out) if seen.same_content_version(&out) => {
            match directory.remove_file(temporary) {
                Err(error) if !matches!(directory.find(temporary), Ok(None)) => {
                    // It could not go: back to its place.
                    let _ = directory.rename_new(temporary, directory, name);
                    Err(error.into())
                }
                _ => Ok(()),
            }
        }
        _ => {
            match directory.rename_new(temporary, directory, name) {
                Err(error) if is_unsupported(&error) => {
                    if directory.find(name)?.is_none() {
                        directory.rename_over(temporary, directory, name)?;
                    }
                }
                other => other?,
            }
            Err(CommitError::Changed)
        }
    }
}

fn directory_back(directory: &Dir, trash: &Dir, name: &[u8]) -> Result<(), FsError> {
    match directory.find(name)? {
        None => trash.rename_over(name, directory, name),
        Some(_) => Ok(()),
    }
}

/// Moves the file or link that `seen` describes to another name, onto another file system by a copy.
pub fn carry(directory: &Dir, name: &[u8], seen: &Entry, to: &Dir, to_name: &[u8]) -> Result<(), FsError> {
    match directory.rename_over(name, to, to_name) {
        Err(error) if error.errno() == Some(Errno::XDEV) && !seen.is_directory() => {
            keep_copy(directory, name, seen, to, to_name)?;
            directory.remove_file(name)
        }
        other => other,
    }
}

/// Keeps a copy where neither a link nor a rename can: other file systems below the root, and those without links.
pub(crate) fn keep_copy(directory: &Dir, name: &[u8], seen: &Entry, trash: &Dir, kept: &[u8]) -> Result<(), FsError> {
    if seen.kind == Kind::Link {
        trash.make_link(&directory.read_link(name)?, kept)?;
        let _ = trash.set_owner_of(kept, seen.uid, seen.gid);
        return trash.set_mtime_of(kept, seen.mtime);
    }
    let source = directory.open_file(name)?;
    let copy = trash.create_file(kept)?;
    let abilities = Abilities::new(false);
    let result = Copier::new(Hashing::Never, &abilities, &|| trash.check_fence("write", kept).is_err(), &|_| {})
        .copy(&source, seen, &copy);
    if let Err(error) = result {
        trash.remove_file(kept)?;
        use crate::content::CopyError;
        return Err(match error {
            CopyError::Read(errno) => directory.error("read", name, errno),
            CopyError::Write(errno) => trash.error("write", kept, errno),
            CopyError::Changed | CopyError::Stopped => directory.error("keep a copy of", name, Errno::AGAIN),
        });
    }
    trash.check_fence("set times of", kept)?;
    let (uid, gid) = owner(seen.uid, seen.gid);
    let _ = rustix::fs::fchown(&copy, uid, gid);
    if let Ok(held) = attributes::read(&source, true) {
        let _ = attributes::write(&copy, &held, &Vec::new());
    }
    let _ = rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode(seen.mode));
    rustix::fs::futimens(&copy, &times(seen.mtime)).map_err(|errno| trash.error("set times of", kept, errno))
}
