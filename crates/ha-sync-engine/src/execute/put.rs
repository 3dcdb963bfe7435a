//! Makes and replaces files, links and directories.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use ha_sync_core::entry::Entry;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Planned};
use ha_sync_fs::commit::{self, CommitError};
use ha_sync_fs::content::{self, Copied, Copier, CopyError};
use ha_sync_fs::{Dir, FsError};
use rustix::io::Errno;

use super::metadata::Wanted;
use super::{Done, Executor, OperationError, Place, discard, entry_of, occupied, unstage};
use crate::below;
use crate::closed::is_open_to_owner;
use crate::job::Fsync;
use crate::tally::lock;

impl Executor<'_> {
    /// Gives a finished temporary entry its name, and returns what it is; removes it when that fails.
    pub(super) fn commit(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        temporary: &[u8],
    ) -> Result<Entry, OperationError> {
        let checked = self.retry(|| {
            let staged = place.destination.find(temporary)?;
            let is_long = staged.as_ref().is_some_and(|staged| staged.size > content::SMALL);
            let in_place = !is_long || self.is_in_place(place)?;
            Ok((staged, in_place))
        });
        let staged = match checked {
            Ok((Some(staged), true)) => staged,
            Ok((None, _)) => return Err(OperationError::Changed),
            other => {
                // Ours: nothing was exchanged yet.
                unstage(&place.destination, temporary);
                return Err(other.map_or_else(OperationError::from, |_| OperationError::Moved));
            }
        };
        let opened = match &planned.destination {
            Some(seen) if seen.is_directory() => self.open_to_move(place, planned, seen),
            _ => Ok(None),
        };
        let opened = opened.inspect_err(|_| discard(&place.destination, temporary, staged.inode))?;
        let result = match &planned.destination {
            None => commit::create(&place.destination, temporary, &planned.name, &self.ways),
            Some(seen) => self.open_trash(place).map_err(CommitError::from).and_then(|()| {
                if seen.is_directory() && self.job.keep_replaced {
                    place.destination.check_fence("record a removed directory", &planned.name)?;
                    self.record_gone(&place.batch.directory.join(&planned.name), seen, true)?;
                }
                let trash = place.trash.as_ref();
                let is_whole = |holder: &Dir, name: &[u8]| self.is_whole(planned, holder, name);
                // Opening it changed its ctime; that it was the same before was looked at then.
                let seen = if opened.is_some() { &Entry { links: 2, ..seen.clone() } } else { seen };
                let old = (&planned.name[..], seen);
                commit::replace(&place.destination, temporary, old, &is_whole, trash, &self.ways)
            }),
        };
        if let Some((opened, mode)) = opened
            && let Err(error) = opened.set_mode(mode)
        {
            self.tally.warn_once("closing", &error.to_line());
        }
        if result.is_err() {
            discard(&place.destination, temporary, staged.inode);
        }
        result?;
        Ok(staged)
    }

    /// Opens a directory that is closed to its owner, since to move it changes what it holds: its `..`. Returns it and
    /// the mode that it is to have again, wherever it is then.
    fn open_to_move(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        seen: &Entry,
    ) -> Result<Option<(Dir, u32)>, OperationError> {
        if self.privileged || is_open_to_owner(seen) {
            return Ok(None);
        }
        let directory = place.destination.open_child(&planned.name)?;
        let now = directory.entry()?;
        if !seen.same_version(&now) {
            return Err(OperationError::Changed);
        }
        directory.set_mode(now.mode | 0o700)?;
        Ok(Some((directory, now.mode)))
    }

    /// Tells whether a directory that is replaced whole holds what the plan saw in it.
    fn is_whole(&self, planned: &Planned, holder: &Dir, name: &[u8]) -> Result<bool, FsError> {
        match planned.below {
            Some(below) => below::fingerprint(self.destination, &holder.path().join(name)).map(|now| now == below),
            None => Ok(true),
        }
    }

    pub(super) fn put_file(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        seen: &Entry,
        copier: &mut Copier<'_>,
    ) -> Result<Done, OperationError> {
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let source = from.open_file(planned.source_name())?;
        let mut now = entry_of(&source, from, planned.source_name())?;
        if !seen.same_version(&now) {
            return Err(OperationError::Changed);
        }
        if let Some(old) = planned.destination.as_ref().filter(|_| seen.size > content::SMALL) {
            // A long copy for nothing is spared; the commit looks again.
            match place.destination.find(&planned.name)? {
                Some(found) if old.same_version(&found) => {}
                _ => return Err(OperationError::Changed),
            }
        }
        let promised = self.check_space(place, now.allocated.min(now.size))?;
        let done = self.put_copy(place, planned, &source, &mut now, copier);
        self.release(promised);
        done
    }

    fn put_copy(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        source: &OwnedFd,
        now: &mut Entry,
        copier: &mut Copier<'_>,
    ) -> Result<Done, OperationError> {
        // Small new files are most of a first copy; without a name they cost one directory change instead of two.
        if planned.destination.is_none()
            && now.size <= content::SMALL
            && let Some(destination) = commit::stage_unnamed(&place.destination, &self.ways)?
        {
            let (copied, attributes) = self.stage(place, planned, source, now, &destination, copier)?;
            let made = match self.agreements {
                Some(_) => Some(entry_of(&destination, &place.destination, &planned.name)?),
                None => None,
            };
            commit::create_from_unnamed(&place.destination, &destination, &planned.name)?;
            self.tally.wrote(copied.bytes);
            return self.copied(place, planned, now, copied, attributes, made.as_ref());
        }
        let temporary = self.temporary(planned);
        let destination = place.destination.create_file(&temporary)?;
        let staged = self.stage(place, planned, source, now, &destination, copier);
        let (copied, attributes) = match staged {
            Ok(copied) => copied,
            Err(error) => {
                // Ours: nothing was exchanged yet.
                let _ = place.destination.remove_file(&temporary);
                return Err(error);
            }
        };
        drop(destination);
        let made = self.commit(place, planned, &temporary)?;
        self.tally.wrote(copied.bytes);
        self.copied(place, planned, now, copied, attributes, Some(&made))
    }

    /// Concludes the copy of a file: what of its metadata the other side had holds there, too.
    fn copied(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        source: &mut Entry,
        copied: Copied,
        attributes: Option<u64>,
        made: Option<&Entry>,
    ) -> Result<Done, OperationError> {
        self.take_back(place, planned, source)?;
        let agreed = made.and_then(|made| match planned.action {
            Action::Keep(_) => self.agree_on_copy(place, planned, made, copied.md5),
            _ => self.agree(place, planned, source, made, copied.md5),
        });
        let agreed = agreed.map(|agreed| agreed.with_attributes(attributes));
        Ok(Done {
            size_after: Some(source.size),
            md5_after: copied.md5,
            bytes: copied.bytes,
            agreed,
            ..Done::default()
        })
    }

    /// Copies content and metadata into the temporary file, and names the attributes that both have then. A source
    /// that changes meanwhile is copied once more.
    fn stage(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        source: &OwnedFd,
        entry: &mut Entry,
        destination: &OwnedFd,
        copier: &mut Copier<'_>,
    ) -> Result<(Copied, Option<u64>), OperationError> {
        let name = planned.source_name();
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let to = &place.destination;
        let mut again = true;
        let copied = loop {
            to.check_fence("write", name)?;
            let copied = match copier.copy(source, entry, destination) {
                Ok(copied) => Some(copied),
                Err(CopyError::Changed) => None,
                Err(CopyError::Stopped) => return Err(OperationError::Stopped),
                Err(CopyError::Read(errno)) => return Err(from.error("read", name, errno).into()),
                Err(CopyError::Write(errno)) => return Err(to.error("write", name, errno).into()),
            };
            let now = entry_of(source, from, name)?;
            if let Some(copied) = copied.filter(|_| entry.same_version(&now)) {
                break copied;
            }
            if !again {
                return Err(OperationError::ChangedWhileCopying);
            }
            again = false;
            *entry = now;
            to.check_fence("truncate", name)?;
            rustix::fs::ftruncate(destination, 0).map_err(|errno| to.error("truncate", name, errno))?;
            rustix::fs::seek(source, rustix::fs::SeekFrom::Start(0))
                .map_err(|errno| from.error("read", name, errno))?;
        };
        let theirs = self.wanted_attributes(source, from, name)?;
        let wanted = self.merged(place, planned, entry, theirs)?;
        let made = entry_of(destination, to, name)?;
        let attributes = self.apply(destination, to, name, &wanted, &made, place.inherits)?;
        if self.job.fsync == Fsync::File {
            rustix::fs::fsync(destination).map_err(|errno| to.error("sync", name, errno))?;
        }
        Ok((copied, attributes))
    }

    pub(super) fn put_link(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        seen: &Entry,
    ) -> Result<Done, OperationError> {
        let name = planned.source_name();
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let now = match from.find(name)? {
            Some(now) if seen.same_version(&now) => now,
            _ => return Err(OperationError::Changed),
        };
        let target = from.read_link(name)?;
        let temporary = self.temporary(planned);
        place.destination.make_link(&target, &temporary)?;
        let wanted = self.merged(place, planned, seen, None)?;
        let dressed = self.dress_link(&place.destination, &temporary, &wanted.entry);
        if let Err(error) = dressed {
            let _ = place.destination.remove_file(&temporary);
            return Err(error.into());
        }
        let made = self.commit(place, planned, &temporary)?;
        let content = Some(content::digest_of(&target));
        let agreed = match planned.action {
            Action::Keep(_) => self.agree_on_copy(place, planned, &made, content),
            _ => self.agree(place, planned, &now, &made, content),
        };
        Ok(Done { size_after: Some(target.len() as u64), agreed, ..Done::default() })
    }

    pub(super) fn dress_link(&self, directory: &Dir, name: &[u8], wanted: &Entry) -> Result<(), FsError> {
        if self.owners.load(Ordering::Relaxed) {
            match directory.set_owner_of(name, wanted.uid, wanted.gid) {
                Err(error) if matches!(error.errno(), Some(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP)) => {}
                other => other?,
            }
        }
        match directory.set_mtime_of(name, wanted.mtime) {
            // Some file systems keep no times of links.
            Err(error) if matches!(error.errno(), Some(Errno::NOSYS | Errno::OPNOTSUPP)) => Ok(()),
            other => other,
        }
    }

    pub(super) fn put_directory(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        seen: &Entry,
    ) -> Result<Done, OperationError> {
        let name = &planned.name[..];
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let source = from.open_child(name)?;
        let path = place.batch.directory.join(name);
        if planned.destination.is_none() {
            match place.destination.make_directory(name) {
                Ok(()) => {}
                Err(error) if error.errno() == Some(Errno::EXIST) => {
                    let there = place.destination.find(name)?.filter(Entry::is_directory);
                    let Some(there) = there.filter(|_| self.job.shard.is_some()) else {
                        return Err(occupied(&place.destination, name).into());
                    };
                    let agreed = self.agree(place, planned, seen, &there, None);
                    return Ok(Done { agreed, by_another: true, ..Done::default() });
                }
                Err(error) => return Err(error.into()),
            }
            let dressed = self.dress_directory(&place.destination, name, &source, seen, &path, place.inherits);
            let attributes = dressed.inspect_err(|_| {
                // Half-made and new, it would count as newer than the source's for ever.
                if place.destination.remove_directory(name).is_err() {
                    lock(&self.unsettled).push(path);
                }
            })?;
            let made = place.destination.find(name)?;
            let agreed = made.and_then(|made| self.agree(place, planned, seen, &made, None));
            return Ok(Done { agreed: agreed.map(|agreed| agreed.with_attributes(attributes)), ..Done::default() });
        }
        let temporary = self.temporary(planned);
        place.destination.make_directory(&temporary)?;
        let dressed = self.dress_directory(&place.destination, &temporary, &source, seen, &path, place.inherits);
        let attributes = dressed.inspect_err(|_| {
            let _ = place.destination.remove_directory(&temporary);
        })?;
        drop(source);
        let made = self.commit(place, planned, &temporary)?;
        let agreed = self.agree(place, planned, seen, &made, None);
        Ok(Done { agreed: agreed.map(|agreed| agreed.with_attributes(attributes)), ..Done::default() })
    }

    /// Gives a new directory its metadata, and names the attributes that both have then.
    fn dress_directory(
        &self,
        parent: &Dir,
        name: &[u8],
        source: &Dir,
        seen: &Entry,
        path: &RelPath,
        inherits: bool,
    ) -> Result<Option<u64>, OperationError> {
        let made = parent.open_child(name)?;
        let handle = made.into_handle();
        let source_handle = source.try_clone()?;
        let attributes = self.wanted_attributes(&source_handle, source, b"")?;
        let now = entry_of(&handle, parent, name)?;
        let mut entry = seen.clone();
        if !self.privileged && entry.mode & 0o700 != 0o700 {
            // What is to come into it needs its owner's rights first.
            lock(&self.closed).push((path.clone(), entry.mode, Some(entry.mtime)));
            entry.mode |= 0o700;
        }
        let wanted = Wanted { entry, attributes };
        self.apply(&handle, parent, name, &wanted, &now, inherits)
    }
}
