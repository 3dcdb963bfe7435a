//! Looks closer at the entries of one path: content, targets, attributes, what is below.

use ha_sync_core::baseline::{Side, fingerprint};
use ha_sync_core::decide::Content;
use ha_sync_core::entry::{Entry, Kind};
use ha_sync_core::filter;
use ha_sync_core::path::RelPath;
use ha_sync_core::reconcile::{self, Below};
use ha_sync_fs::content::{self, CopyError};
use ha_sync_fs::{Dir, FsError, attributes};

use super::{Deciding, Opened, Scan};
use crate::below;

/// Looks closer at one name. An error is absent when the run is being stopped.
pub(crate) struct Closer<'s, 'a> {
    scan: &'s Scan<'a>,
    dirs: [Option<&'s Dir>; 2],
    pub(super) name: &'s [u8],
    entries: [Option<&'s Entry>; 2],
    /// What the comparison found, when one was made.
    pub(super) content: Option<Content>,
    /// Fingerprints of the attributes that were read.
    pub(super) attributes: [Option<u64>; 2],
    /// Hash of what is below the directory that was looked through.
    pub(super) below: Option<u64>,
}

impl<'a> Scan<'a> {
    pub(super) fn closer<'s>(
        &'s self,
        opened: &'s Opened,
        name: &'s [u8],
        entries: [Option<&'s Entry>; 2],
    ) -> Closer<'s, 'a> {
        let dirs = [opened.dirs[0].as_ref(), opened.dirs[1].as_ref()];
        self.closer_at(dirs, name, entries)
    }

    pub(super) fn closer_at<'s>(
        &'s self,
        dirs: [Option<&'s Dir>; 2],
        name: &'s [u8],
        entries: [Option<&'s Entry>; 2],
    ) -> Closer<'s, 'a> {
        Closer { scan: self, dirs, name, entries, content: None, attributes: [None; 2], below: None }
    }

    /// Returns the MD5 of a file or of a link's target; the error is absent when the run is being stopped.
    pub(crate) fn digest(&self, directory: &Dir, name: &[u8], kind: Kind) -> Result<[u8; 16], Option<FsError>> {
        if kind == Kind::Link {
            return Ok(content::digest_of(&self.retry(|| directory.read_link(name)).map_err(Some)?));
        }
        let file = self.retry(|| directory.open_file(name)).map_err(Some)?;
        content::digest(&file, &|| self.stop.is_stopped()).map_err(|error| match error {
            CopyError::Read(errno) | CopyError::Write(errno) => Some(directory.error("read", name, errno)),
            CopyError::Changed | CopyError::Stopped => None,
        })
    }

    /// Tells whether everything below a side's directory is as it was agreed and may go.
    fn below(&self, side: Side, path: RelPath) -> Result<Below, Option<FsError>> {
        let mut stack = vec![path];
        while let Some(path) = stack.pop() {
            if self.stop.is_stopped() {
                return Err(None);
            }
            let Ok((directory, listing)) = self.open_and_list(self.roots[side as usize], &path) else {
                return Ok(Below::Held);
            };
            let known = self.known(&path, true);
            for index in 0..listing.len() {
                let name = listing.name(index);
                let Ok(Some(entry)) = directory.find(name) else { return Ok(Below::Held) };
                if self.holds(side, &directory, name, &entry) {
                    return Ok(Below::Held);
                }
                if filter::parse_temporary(name).is_some() {
                    continue;
                }
                let place = known.binary_search_by(|(held, _)| held.as_slice().cmp(name));
                let agreed = place.ok().map(|place| &known[place].1).filter(|agreed| agreed.kind == entry.kind);
                match agreed {
                    None => return Ok(Below::Changed),
                    Some(_) if entry.is_directory() => stack.push(path.join(name)),
                    Some(agreed) if agreed.size != entry.size => return Ok(Below::Changed),
                    Some(agreed) if agreed.untouched(side, &entry) && !self.must_read(&entry) => {}
                    Some(agreed) => match agreed.content {
                        Some(known) if self.digest(&directory, name, entry.kind)? == known => {}
                        _ => return Ok(Below::Changed),
                    },
                }
            }
        }
        Ok(Below::Agreed)
    }

    /// Where times are coarse, an edit in the tick of the last run's start leaves size and mtime as they were.
    fn must_read(&self, entry: &Entry) -> bool {
        let (last_start, granularity) = match self.deciding {
            Deciding::OneWay(policy) => (policy.last_start, policy.granularity),
            Deciding::TwoWay(rules) => (rules.last_start, rules.granularity),
        };
        self.job.checksum || last_start.is_some_and(|start| (entry.mtime.0 - start.0).abs() <= granularity)
    }

    /// Tells whether an entry in a directory that is to be replaced may not move: it is special, excluded, mounted, in
    /// use or the run's own.
    pub(super) fn holds(&self, side: Side, directory: &Dir, name: &[u8], entry: &Entry) -> bool {
        entry.kind == Kind::Special
            || entry.mount_point
            || self.was_mounted(side.other(), directory.path(), name)
            || filter::is_nfs_placeholder(name)
            || filter::parse_temporary(name).is_some_and(|(run, _)| self.is_in_use(&run, entry))
            || self.is_own(directory, name, entry)
            || (!self.job.delete_excluded && self.excludes(|| directory.path().join(name), entry.is_directory()))
    }
}

impl Closer<'_, '_> {
    fn dir(&self, side: Side) -> Result<&Dir, Option<FsError>> {
        self.dirs[side as usize].ok_or(None)
    }

    pub(super) fn compare(&mut self) -> Result<Content, Option<FsError>> {
        let (a, b) = (self.dir(Side::A)?, self.dir(Side::B)?);
        let stop = self.scan.stop;
        let found = self.scan.retry(|| {
            let (one, other) = (a.open_file(self.name)?, b.open_file(self.name)?);
            match content::compare(&one, &other, &|| stop.is_stopped()) {
                Ok(content) => Ok(Some(content)),
                Err(CopyError::Read(errno)) => Err(a.error("read", self.name, errno)),
                Err(CopyError::Write(errno)) => Err(b.error("read", self.name, errno)),
                Err(CopyError::Changed | CopyError::Stopped) => Ok(None),
            }
        });
        let content = found.map_err(Some)?.ok_or(None)?;
        self.content = Some(content.clone());
        Ok(content)
    }

    pub(super) fn target(&mut self, side: Side) -> Result<Vec<u8>, Option<FsError>> {
        let dir = self.dir(side)?;
        self.scan.retry(|| dir.read_link(self.name)).map_err(Some)
    }

    /// Returns the fingerprint of a side's attributes; one and the same where they are not synchronised.
    pub(super) fn attributes(&mut self, side: Side) -> Result<u64, Option<FsError>> {
        let comparable = self.entries.iter().flatten().all(|entry| entry.kind != Kind::Link);
        if !self.scan.attributes || !comparable || self.entries.contains(&None) {
            return Ok(0);
        }
        if let Some(known) = self.attributes[side as usize] {
            return Ok(known);
        }
        let (dir, privileged) = (self.dir(side)?, self.scan.privileged);
        let read = self.scan.retry(|| attributes::read_at(dir, self.name, privileged)).map_err(Some)?;
        let found = fingerprint(&read);
        self.attributes[side as usize] = Some(found);
        Ok(found)
    }

    pub(super) fn below(&mut self, side: Side) -> Result<Below, Option<FsError>> {
        let path = self.dir(side)?.path().join(self.name);
        // Before the look: what comes between the two is missing in the hash, and found at the execution.
        let Ok(hash) = below::fingerprint(self.scan.roots[side as usize], &path) else { return Ok(Below::Held) };
        self.below = Some(hash);
        self.scan.below(side, path)
    }
}

impl reconcile::Look for Closer<'_, '_> {
    type Error = Option<FsError>;

    fn compare(&mut self) -> Result<Content, Self::Error> {
        Closer::compare(self)
    }

    fn content(&mut self, side: Side) -> Result<[u8; 16], Self::Error> {
        let kind = self.entries[side as usize].map_or(Kind::File, |entry| entry.kind);
        self.scan.digest(self.dir(side)?, self.name, kind)
    }

    fn target(&mut self, side: Side) -> Result<Vec<u8>, Self::Error> {
        Closer::target(self, side)
    }

    fn attributes(&mut self, side: Side) -> Result<u64, Self::Error> {
        Closer::attributes(self, side)
    }

    fn below(&mut self, side: Side) -> Result<Below, Self::Error> {
        Closer::below(self, side)
    }
}
