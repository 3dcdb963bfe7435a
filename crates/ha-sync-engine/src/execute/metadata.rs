//! Times, modes, owners and attributes.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use ha_sync_core::baseline::{Agreed, Side, fingerprint};
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::plan::{Action, Planned};
use ha_sync_core::reconcile::Merge;
use ha_sync_fs::attributes::{self, Attributes};
use ha_sync_fs::{Dir, FsError};
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use super::{Done, Executor, OperationError, Place, directory_times, entry_of};
use crate::tally::lock;

/// Is the metadata that an entry is to have.
pub(super) struct Wanted {
    pub(super) entry: Entry,
    /// Absent where they stay as they are.
    pub(super) attributes: Option<Attributes>,
}

/// Returns `base` with what a merge takes from a side's entry.
fn taken(base: &Entry, from: &Entry, merge: Merge, side: Side) -> Entry {
    let mut entry = base.clone();
    let takes = |held: Option<Side>| held == Some(side);
    if takes(merge.times) {
        entry.mtime = from.mtime;
    }
    if takes(merge.mode) {
        entry.mode = from.mode;
    }
    if takes(merge.owner) {
        (entry.uid, entry.gid) = (from.uid, from.gid);
    }
    entry
}

impl Executor<'_> {
    /// Returns the metadata of a new version: the source's, or what the two sides' come to.
    pub(super) fn merged(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        source: &Entry,
        theirs: Option<Attributes>,
    ) -> Result<Wanted, OperationError> {
        let from = place.batch.route.from;
        let (Some(merge), Some(seen)) = (planned.merge, &planned.destination) else {
            return Ok(Wanted { entry: source.clone(), attributes: theirs });
        };
        let entry =
            taken(&Entry { mode: seen.mode, uid: seen.uid, gid: seen.gid, ..source.clone() }, source, merge, from);
        let attributes = match theirs {
            Some(_) if merge.attributes != Some(from) => {
                Some(attributes::read_at(&place.destination, &planned.name, self.privileged)?)
            }
            theirs => theirs,
        };
        Ok(Wanted { entry, attributes })
    }

    /// Tells whether an entry still has the content that `was` had, with the time that it was given since.
    pub(super) fn is_version(&self, now: &Entry, was: &Entry, mtime: Time) -> bool {
        let same_time = (now.mtime.0 - mtime.0).abs() < self.granularity.max(1);
        (now.kind, now.inode) == (was.kind, was.inode) && (now.is_directory() || (now.size == was.size && same_time))
    }

    /// Gives the source what a merge takes from the destination, and says what the source is then. Names the attributes
    /// that both have then, where they were taken.
    pub(super) fn take_back(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        source: &mut Entry,
    ) -> Result<Option<u64>, OperationError> {
        let to = place.batch.route.to;
        let (Some(merge), Some(seen)) = (planned.merge.filter(|merge| merge.sets(to.other())), &planned.destination)
        else {
            return Ok(None);
        };
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let entry = taken(source, seen, merge, to);
        let mtime = entry.mtime;
        let name = &planned.name[..];
        let attributes = if source.kind == Kind::Link {
            self.dress_link(from, name, &entry)?;
            None
        } else {
            let handle = from.open_file(name)?;
            let now = entry_of(&handle, from, name)?;
            if !source.same_content_version(&now) {
                return Err(OperationError::Changed);
            }
            let attributes = match merge.attributes == Some(to) && self.attributes {
                true => Some(attributes::read_at(&place.destination, name, self.privileged)?),
                false => None,
            };
            self.apply_in_place(&handle, from, name, &Wanted { entry, attributes }, &now)?
        };
        let now = from.find(name)?.ok_or(OperationError::Changed)?;
        // An edit of the last moment is not what was agreed.
        if !self.is_version(&now, source, mtime) {
            return Err(OperationError::Changed);
        }
        *source = now;
        Ok(attributes)
    }

    /// Returns the fingerprint of an entry's attributes, when they are still those that the plan saw.
    fn attributes_as_seen(&self, dir: &Dir, name: &[u8], seen: &Entry) -> Option<u64> {
        if !self.attributes || self.agreements.is_none() || seen.kind == Kind::Link {
            return None;
        }
        let found = attributes::read_at(dir, name, self.privileged).ok()?;
        // Looked at after they were read: whoever sets them changes the ctime.
        let now = dir.find(name).ok()??;
        ((now.inode, now.ctime) == (seen.inode, seen.ctime)).then(|| fingerprint(&found))
    }

    pub(super) fn wanted_attributes(
        &self,
        source: &OwnedFd,
        from: &Dir,
        name: &[u8],
    ) -> Result<Option<Attributes>, FsError> {
        if !self.attributes {
            return Ok(None);
        }
        attributes::read(source, self.privileged)
            .map(Some)
            .map_err(|errno| from.error("read attributes of", name, errno))
    }

    /// Sets owner, attributes, mode and times of an open file or directory, in the order that keeps set-id bits and
    /// capabilities. `now` is what it has; `inherits` says that it may have attributes already.
    /// Returns the fingerprint of the attributes, when they are as wanted now.
    pub(super) fn apply(
        &self,
        handle: &OwnedFd,
        directory: &Dir,
        name: &[u8],
        wanted: &Wanted,
        now: &Entry,
        inherits: bool,
    ) -> Result<Option<u64>, OperationError> {
        let known = self.apply_rights(handle, directory, name, wanted, now, inherits)?;
        directory_times(handle, directory, name, wanted.entry.mtime)?;
        Ok(known)
    }

    /// Does the same to what is in place and may be edited meanwhile: an edit must keep its own time, or nobody would see
    /// it any more. Between the look and the setting of the time there is a moment left, in which only an edit of the
    /// size shows.
    pub(super) fn apply_in_place(
        &self,
        handle: &OwnedFd,
        directory: &Dir,
        name: &[u8],
        wanted: &Wanted,
        now: &Entry,
    ) -> Result<Option<u64>, OperationError> {
        let known = self.apply_rights(handle, directory, name, wanted, now, true)?;
        if now.mtime != wanted.entry.mtime || now.is_directory() {
            if !now.same_content_version(&entry_of(handle, directory, name)?) {
                return Err(OperationError::Changed);
            }
            directory_times(handle, directory, name, wanted.entry.mtime)?;
        }
        Ok(known)
    }

    fn apply_rights(
        &self,
        handle: &OwnedFd,
        directory: &Dir,
        name: &[u8],
        wanted: &Wanted,
        now: &Entry,
        inherits: bool,
    ) -> Result<Option<u64>, OperationError> {
        let Wanted { entry: wanted, attributes } = wanted;
        let mut known = attributes.as_ref().map(|attributes| fingerprint(attributes));
        let owned = self.set_owner(handle, directory, name, wanted, now)?;
        let mut mode_now = Some(now.mode);
        if let Some(wanted) = attributes
            && (inherits || !wanted.is_empty())
        {
            // An ACL is a part of the mode.
            mode_now = None;
            let present = attributes::read(handle, self.privileged)
                .map_err(|errno| directory.error("read attributes of", name, errno))?;
            directory.check_fence("set attributes of", name)?;
            let refused = attributes::write(handle, wanted, &present)
                .map_err(|errno| directory.error("set attributes of", name, errno))?;
            if let Some(refused) = refused {
                known = None;
                let refused = ha_sync_core::path::printable(&refused);
                let message = format!("the destination does not keep the attribute {refused}");
                self.tally.warn_once("attributes", &message);
            }
        }
        if self.modes {
            // Set-id bits belong to the owner: without him they would give rights to somebody else.
            let mode = if owned { wanted.mode } else { wanted.mode & 0o1777 };
            if !owned || mode_now != Some(mode) || now.mode & 0o6000 != 0 {
                directory.check_fence("set mode of", name)?;
                rustix::fs::fchmod(handle, Mode::from_raw_mode(mode))
                    .map_err(|errno| directory.error("set mode of", name, errno))?;
            }
        }
        Ok(known)
    }

    /// Sets the owner where that is permitted; false when the entry belongs to somebody else than it should.
    fn set_owner(
        &self,
        handle: &OwnedFd,
        directory: &Dir,
        name: &[u8],
        wanted: &Entry,
        now: &Entry,
    ) -> Result<bool, FsError> {
        if (wanted.uid, wanted.gid) == (now.uid, now.gid) {
            return Ok(true);
        }
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        directory.check_fence("set owner of", name)?;
        if self.owners.load(Ordering::Relaxed) {
            match rustix::fs::fchown(handle, Some(uid), Some(gid)) {
                Ok(()) => return Ok(true),
                Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => self.owners.store(false, Ordering::Relaxed),
                Err(errno) => return Err(directory.error("set owner of", name, errno)),
            }
        }
        self.tally.warn_once(
            "owners",
            "owners cannot be set here and are left as they are (not root, or the file system refuses)",
        );
        // A group that we are a member of can be given all the same.
        let _ = rustix::fs::fchown(handle, None, Some(gid));
        Ok(wanted.uid == now.uid && wanted.gid == now.gid)
    }

    /// Says what is agreed where metadata may not be set: the content is the same, and each side keeps what it has of the
    /// rest until somebody changes it again. Without that, what is deleted or changed later would count as new.
    pub(super) fn agree_as_it_is(&self, place: &Place<'_>, planned: &Planned, error: &FsError) -> Option<Agreed> {
        let denied = matches!(error.errno(), Some(Errno::PERM | Errno::ACCESS));
        if !denied || planned.action != Action::Metadata || self.agreements.is_none() {
            return None;
        }
        let unchanged = |dir: &Dir, seen: &Option<Entry>| {
            let seen = seen.as_ref()?;
            let now = dir.find(&planned.name).ok()?.filter(|now| seen.same_content_version(now))?;
            Some((now, self.attributes_as_seen(dir, &planned.name, seen)))
        };
        let (source, at_source) = unchanged(place.source.as_ref()?, &planned.source)?;
        let (destination, at_destination) = unchanged(&place.destination, &planned.destination)?;
        let mut agreed = self.agree(place, planned, &source, &destination, planned.source_md5)?;
        (agreed.a.attributes, agreed.b.attributes) = match place.batch.route.to {
            Side::B => (at_source, at_destination),
            Side::A => (at_destination, at_source),
        };
        Some(agreed)
    }

    /// Sets metadata where the content is the same: the source's, or what the two sides' come to.
    pub(super) fn set_metadata(
        &self,
        place: &Place<'_>,
        planned: &Planned,
        source: &Entry,
        seen: &Entry,
    ) -> Result<Done, OperationError> {
        let name = &planned.name[..];
        let from = place.source.as_ref().ok_or(OperationError::Changed)?;
        let to = &place.destination;
        let unchanged = |now: Option<Entry>, was: &Entry| {
            now.is_some_and(|now| was.same_version(&now) || (was.is_directory() && now.inode == was.inode))
        };
        // Our first attempt may have changed the ctime; the mtime is set last.
        let ours = |now: &Option<Entry>, was: &Entry| {
            place.again && now.as_ref().is_some_and(|now| was.same_content_version(now))
        };
        let found = (from.find(name)?, to.find(name)?);
        if !(ours(&found.0, source) || unchanged(found.0, source))
            || !(ours(&found.1, seen) || unchanged(found.1, seen))
        {
            return Err(OperationError::Changed);
        }
        let route = place.batch.route;
        // Where neither side's are set, both keep what they have, and that is what is agreed.
        let kept = match planned.merge {
            Some(merge) if merge.attributes.is_none() => {
                (self.attributes_as_seen(from, name, source), self.attributes_as_seen(to, name, seen))
            }
            _ => (None, None),
        };
        let mut entry = match planned.merge {
            Some(merge) => taken(seen, source, merge, route.from),
            None => source.clone(),
        };
        let mtime = entry.mtime;
        let attributes = if source.kind == Kind::Link {
            self.dress_link(to, name, &entry)?;
            None
        } else {
            let handle = to.open_file(name)?;
            let now = entry_of(&handle, to, name)?;
            if !seen.same_content_version(&now) {
                return Err(OperationError::Changed);
            }
            let takes = planned.merge.is_none_or(|merge| merge.attributes == Some(route.from));
            let attributes = match takes && self.attributes {
                true => Some(attributes::read_at(from, name, self.privileged)?),
                false => None,
            };
            if entry.is_directory() && !self.privileged && entry.mode & 0o700 != 0o700 {
                lock(&self.closed).push((place.batch.directory.join(name), entry.mode, Some(entry.mtime)));
                entry.mode |= 0o700;
            }
            self.apply_in_place(&handle, to, name, &Wanted { entry, attributes }, &now)?
        };
        let mut now = source.clone();
        let set = attributes.or(self.take_back(place, planned, &mut now)?);
        let agreed = match self.agreements.is_some().then(|| to.find(name)).transpose()?.flatten() {
            // With other times it is somebody else's, and not yet agreed on.
            Some(made) if self.is_version(&made, seen, mtime) => {
                self.agree(place, planned, &now, &made, planned.source_md5).map(|mut agreed| {
                    let (source, destination) = (set.or(kept.0), set.or(kept.1));
                    (agreed.a.attributes, agreed.b.attributes) = match route.to {
                        Side::B => (source, destination),
                        Side::A => (destination, source),
                    };
                    agreed
                })
            }
            _ => None,
        };
        Ok(Done { size_after: source.recorded_size(), agreed, ..Done::default() })
    }
}
