//! Moves what is at the destination under its old name, where the source moved it.

use ha_sync_core::entry::{Entry, Kind};
use ha_sync_core::filter;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Planned};
use ha_sync_fs::commit;
use ha_sync_fs::content::Copier;
use ha_sync_fs::{Dir, attributes, trash};
use rustix::io::Errno;

use super::metadata::Wanted;
use super::{Done, Executor, OperationError, Place, entry_of, occupied};

impl Executor<'_> {
    /// Renames between two directories of the destination, after a look at both ends; onto another file system by a
    /// copy and a delete.
    pub(super) fn rename(
        &self,
        place: &mut Place<'_>,
        planned: &Planned,
        (old, seen): (&RelPath, &Entry),
        source: &Entry,
        copier: &mut Copier<'_>,
    ) -> Result<Done, OperationError> {
        let name = &planned.name[..];
        let (directory, old_name) = old.split().ok_or(OperationError::Changed)?;
        let holder = self.destination.open_dir(&directory)?;
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        if !from.find(name)?.is_some_and(|now| source.same_version(&now)) {
            return Err(OperationError::Changed);
        }
        let before = holder.entry()?.mtime;
        if !self.privileged {
            self.make_accessible(&holder, &directory, None)?;
        }
        match holder.find(old_name)? {
            Some(now) if seen.same_version(&now) => {}
            // Done by the attempt before.
            None if place.again => {}
            _ => return Err(OperationError::Changed),
        }
        match rename_new(&holder, old_name, &place.destination, name) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::XDEV) => {
                let copy = Planned { action: Action::Create, destination: None, ..planned.clone() };
                let done = match source.kind {
                    Kind::Link => self.put_link(place, &copy, source)?,
                    _ => self.put_file(place, &copy, source, copier)?,
                };
                let kept = match self.job.keep_replaced {
                    true => Some(trash::open(self.destination, self.run, &directory)?),
                    false => None,
                };
                commit::delete(&holder, old_name, seen, kept.as_ref(), &self.temporary(planned))?;
                holder.set_mtime(before)?;
                self.forget(&directory, old_name);
                return Ok(done);
            }
            // A server may have done it and its answer be lost.
            Err(error) => match place.destination.find(name)? {
                Some(now) if now.inode == seen.inode && holder.find(old_name)?.is_none() => {}
                Some(now) if now.inode == seen.inode && directory == place.batch.directory => {
                    self.respell(place, planned, old_name)?;
                }
                Some(_) => return Err(occupied(&place.destination, name).into()),
                None => return Err(error.into()),
            },
        }
        match place.destination.find(name)? {
            Some(now) if seen.same_content_version(&now) => {}
            _ => {
                // Somebody put another one there in the last moment: back to its place.
                rename_new(&place.destination, name, &holder, old_name)?;
                return Err(OperationError::Changed);
            }
        }
        // The directory's own batch may have settled its time already.
        if directory != place.batch.directory {
            holder.set_mtime(before)?;
        }
        self.forget(&directory, old_name);
        let attributes = self.dress(place, planned, source, seen)?;
        let made = place.destination.find(name)?.ok_or(OperationError::Changed)?;
        // An edit of the last moment is not what was agreed.
        if !self.is_version(&made, seen, source.mtime) {
            return Err(OperationError::Changed);
        }
        let agreed = self.agree(place, planned, source, &made, planned.source_md5);
        let agreed = agreed.map(|agreed| agreed.with_attributes(attributes));
        Ok(Done { size_after: source.recorded_size(), agreed, ..Done::default() })
    }

    /// Gives an entry a name that its file system takes for the one that it has: by way of another one.
    fn respell(&self, place: &Place<'_>, planned: &Planned, old_name: &[u8]) -> Result<(), OperationError> {
        let (directory, name) = (&place.destination, &planned.name[..]);
        let Action::Rename { seq, .. } = planned.action else { return Err(OperationError::Changed) };
        let names = self.destination.open_dir(&place.batch.directory)?.list()?;
        if names.position(name).is_some() || names.position(old_name).is_none() {
            return Err(OperationError::Changed);
        }
        // The number of the delete: what a killed run leaves under this name goes to the trash, not away.
        let between = filter::temporary_name(self.run, seq);
        rename_new(directory, old_name, directory, &between)?;
        if let Err(error) = rename_new(directory, &between, directory, name) {
            rename_new(directory, &between, directory, old_name)?;
            return Err(error.into());
        }
        Ok(())
    }

    fn forget(&self, directory: &RelPath, name: &[u8]) {
        if let Some(agreements) = self.agreements {
            agreements.tell(directory, &[(name.to_vec(), None)]);
        }
    }

    fn dress(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        source: &Entry,
        seen: &Entry,
    ) -> Result<Option<u64>, OperationError> {
        let (from, to) = (place.source.as_ref().ok_or(OperationError::Changed)?, &place.destination);
        let name = &planned.name[..];
        if source.kind == Kind::Link {
            self.dress_link(to, name, source)?;
            return Ok(None);
        }
        let handle = to.open_file(name)?;
        let now = entry_of(&handle, to, name)?;
        if !seen.same_content_version(&now) {
            return Err(OperationError::Changed);
        }
        let attributes = match self.attributes {
            true => Some(attributes::read_at(from, name, self.privileged)?),
            false => None,
        };
        self.apply_in_place(&handle, to, name, &Wanted { entry: source.clone(), attributes }, &now)
    }
}

fn rename_new(from: &Dir, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<(), ha_sync_fs::FsError> {
    match from.rename_new(name, to, to_name) {
        Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => {
            match to.find(to_name)? {
                None => from.rename_over(name, to, to_name),
                Some(_) => Err(to.error("rename", to_name, Errno::EXIST)),
            }
        }
        other => other,
    }
}
