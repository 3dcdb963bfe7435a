//! Plans what becomes of entries that only the destination has.

use ha_sync_core::baseline::Side;
use ha_sync_core::decide::{Decision, decide_missing};
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::filter;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned, Route};
use ha_sync_core::reason::Reason;
use ha_sync_fs::Dir;

use super::{Deciding, Scan};
use crate::agree::Known;

/// Is what a directory's names came to.
#[derive(Default)]
pub(crate) struct Names {
    /// Directories to go, to be looked into, and whether both sides once agreed on them.
    pub(crate) directories: Vec<(Vec<u8>, Entry, bool)>,
    /// Whether something in the directory stays.
    pub(crate) kept: bool,
    /// Whether something in it is another shard's to delete.
    pub(crate) others: bool,
}

/// Is a directory on the way down.
struct Level {
    path: RelPath,
    name: Vec<u8>,
    entry: Entry,
    names: Names,
}

impl Scan<'_> {
    /// Plans the deletion of names in a directory of the destination; directories among them are returned.
    pub(crate) fn delete_names<'n>(
        &self,
        directory: &Dir,
        names: impl Iterator<Item = &'n [u8]>,
        known: &Known,
        withheld: bool,
        mtime: Option<Time>,
    ) -> Names {
        let mut found = Names::default();
        let mut files: Vec<Planned> = Vec::new();
        let path = directory.path();
        let owned = self.job.owns(path);
        let mut unread = withheld;
        for name in names {
            if self.stop.is_stopped() {
                found.kept = true;
                return found;
            }
            if !owned {
                found.others = true;
                if filter::parse_temporary(name).is_some() || filter::is_nfs_placeholder(name) {
                    continue;
                }
            }
            if let Some((run, _)) = filter::parse_temporary(name) {
                if !self.clear_away(self.roots[1], directory, name, &run, mtime) {
                    self.tally.skip(path, name, false, Reason::Temporary);
                    found.kept = true;
                }
                continue;
            }
            if filter::is_nfs_placeholder(name) {
                self.tally.skip(path, name, false, Reason::NfsPlaceholder);
                found.kept = true;
                continue;
            }
            let entry = match directory.find(name) {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                Err(error) => {
                    unread = true;
                    found.kept = true;
                    self.tally.warn_once("unread", &error.to_line());
                    files.push(self.planned(name, Action::Fail(error.to_line()), None, None));
                    continue;
                }
            };
            if self.is_own(directory, name, &entry) {
                found.kept = true;
                continue;
            }
            if !owned && !entry.is_directory() {
                continue;
            }
            if !self.job.delete_excluded && self.excludes(|| path.join(name), entry.is_directory()) {
                found.kept = true;
                continue;
            }
            if self.was_mounted(Side::A, path, name) {
                self.tally.skip(path, name, entry.is_directory(), Reason::MissingMount);
                let message = "its directory at the source was a mount point at the last run and is gone now; if it is \
                               gone for good: --allow-missing-mounts";
                files.push(self.planned(name, Action::Fail(message.to_owned()), None, Some(&entry)));
                found.kept = true;
                continue;
            }
            let Deciding::OneWay(policy) = self.deciding else { return found };
            let place = known.binary_search_by(|(held, _)| held.as_slice().cmp(name));
            let agreed = place.ok().map(|place| &known[place].1);
            let decided = decide_missing(&entry, agreed, policy, || self.digest(directory, name, entry.kind));
            let decision = match decided {
                Ok(decision) => decision,
                Err(None) => {
                    found.kept = true;
                    break;
                }
                Err(Some(error)) => {
                    unread = true;
                    found.kept = true;
                    files.push(self.planned(name, Action::Fail(error.to_line()), None, Some(&entry)));
                    continue;
                }
            };
            match decision {
                Decision::Delete if entry.is_directory() => {
                    let known = agreed.is_some_and(|agreed| agreed.kind == Kind::Directory);
                    found.directories.push((name.to_vec(), entry, known));
                }
                Decision::Delete => files.push(self.planned(name, Action::Delete, None, Some(&entry))),
                Decision::Skip(reason) => {
                    self.tally.skip(path, name, entry.is_directory(), reason);
                    found.kept = true;
                }
                _ => found.kept = true,
            }
        }
        if unread {
            found.kept = true;
            for (name, ..) in found.directories.drain(..) {
                self.tally.skip(path, &name, true, Reason::DeletesWithheld);
            }
            files.retain(|planned| {
                if planned.action == Action::Delete {
                    self.tally.skip(path, &planned.name, false, Reason::DeletesWithheld);
                }
                planned.action != Action::Delete
            });
        }
        let (failures, deletes): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|planned| matches!(planned.action, Action::Fail(_)));
        if !failures.is_empty() {
            self.sink.take(batch(path.clone(), None, failures));
        }
        let mut deletes = deletes.into_iter().peekable();
        while deletes.peek().is_some() {
            let operations = deletes.by_ref().take(512).collect();
            self.sink.take_deletes(batch(path.clone(), mtime, operations));
        }
        found
    }

    /// Plans the deletion of a directory and what is below it, children first.
    pub(crate) fn delete_directory(
        &self,
        parent: &RelPath,
        mtime: Option<Time>,
        name: &[u8],
        entry: &Entry,
        known: bool,
    ) {
        let mut levels: Vec<Level> = Vec::new();
        let mut next = Some((parent.join(name), name.to_vec(), entry.clone(), known));
        loop {
            if let Some((path, name, entry, known)) = next.take() {
                let names = self.look_into(&path, &entry, known);
                levels.push(Level { path, name, entry, names });
            }
            let Some(level) = levels.last_mut() else { return };
            if let Some((name, entry, known)) = level.names.directories.pop() {
                next = Some((level.path.join(&name), name, entry, known));
                continue;
            }
            let Some(done) = levels.pop() else { return };
            if self.stop.is_stopped() {
                return;
            }
            let (directory, mtime) =
                levels.last().map_or((parent.clone(), mtime), |above| (above.path.clone(), Some(above.entry.mtime)));
            // What other shards have to delete first goes in a later run, and so does a directory that is theirs.
            let kept = done.names.kept;
            let others = done.names.others || !self.job.owns(&directory);
            if let Some(above) = levels.last_mut() {
                above.names.kept |= kept;
                above.names.others |= others;
            }
            if kept || others {
                let reason = if kept { Reason::HoldsKept } else { Reason::OtherShard };
                self.tally.skip(&directory, &done.name, true, reason);
            } else {
                let planned = self.planned(&done.name, Action::RemoveDirectory, None, Some(&done.entry));
                self.sink.take_removal(batch(directory, mtime, vec![planned]));
            }
        }
    }

    fn look_into(&self, path: &RelPath, entry: &Entry, known: bool) -> Names {
        let listed = self.roots[1].open_dir(path).and_then(|directory| {
            let listing = directory.list()?;
            Ok((directory, listing))
        });
        match listed {
            Ok((directory, listing)) => {
                if self.job.owns(path) {
                    self.tally.seen([0, listing.len() as u64]);
                }
                let names = (0..listing.len()).map(|index| listing.name(index));
                self.delete_names(&directory, names, &self.known(path, known), false, Some(entry.mtime))
            }
            Err(error) => {
                if let Some((parent, name)) = path.split() {
                    let planned = self.planned(name, Action::Fail(error.to_line()), None, Some(entry));
                    self.sink.take(batch(parent, None, vec![planned]));
                }
                Names { kept: true, ..Names::default() }
            }
        }
    }

    /// Tells whether a destination directory that is to be replaced holds something that may not move.
    pub(crate) fn holds_kept(&self, path: &RelPath) -> bool {
        let mut stack = vec![path.clone()];
        while let Some(path) = stack.pop() {
            let Ok(directory) = self.roots[1].open_dir(&path) else { return true };
            let Ok(listing) = directory.list() else { return true };
            for index in 0..listing.len() {
                let name = listing.name(index);
                let Ok(Some(entry)) = directory.find(name) else { return true };
                if self.holds(Side::B, &directory, name, &entry) {
                    return true;
                }
                if entry.is_directory() {
                    stack.push(path.join(name));
                }
            }
        }
        false
    }
}

fn batch(directory: RelPath, mtime: Option<Time>, operations: Vec<Planned>) -> Batch {
    Batch { route: Route::FORWARD, directory, mtime, operations }
}
