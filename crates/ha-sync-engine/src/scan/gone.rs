//! What was deleted on one side: plans that it goes on the other, too, and that what was changed below it comes back.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use ha_sync_core::baseline::{Agreed, Side};
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::filter;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned, Route, Vanished};
use ha_sync_core::reason::Reason;
use ha_sync_core::reconcile::Verdict;
use ha_sync_fs::{Dir, FsError, Listing};

use super::{Deciding, Found, Opened, Scan, Task};
use crate::agree::Known;
use crate::tally::lock;

/// Deletions of files are handed on in batches of so many.
const DELETES: usize = 512;

/// Is an entry that is still on one side, as it was agreed.
pub(crate) struct Deleted {
    /// Where it still is.
    pub(super) side: Side,
    pub(super) name: Vec<u8>,
    pub(super) entry: Entry,
    pub(super) agreed: Agreed,
}

/// Is a directory that is still on one side.
pub(crate) struct Gone {
    /// The directory above it, which both sides have.
    parent: RelPath,
    /// The times that the one above ends with.
    mtimes: [Option<Time>; 2],
    deleted: Deleted,
}

/// Is a directory on the way down.
struct Level {
    path: RelPath,
    name: Vec<u8>,
    entry: Entry,
    agreed: Agreed,
    /// Directories in it, to be looked into.
    directories: Vec<Deleted>,
    /// Something in it stays.
    kept: bool,
    /// It is made again on the side that deleted it, because of something in it that changed.
    restored: bool,
}

/// Is what the names of a directory came to.
#[derive(Default)]
struct Names {
    deletes: Vec<Planned>,
    directories: Vec<Deleted>,
    failures: Vec<Planned>,
    /// What changed, and comes back.
    restores: Vec<(Vec<u8>, Entry, Option<Reason>)>,
    agreed: Vec<(Vec<u8>, Option<Agreed>)>,
    kept: bool,
}

impl Scan<'_> {
    /// Plans the deletions of a directory of which all names were looked at.
    pub(super) fn gone_names(&self, opened: &Opened) {
        let mut gone = std::mem::take(&mut *lock(&opened.gone));
        let respelled = std::mem::take(&mut *lock(&opened.respelled));
        gone.retain(|deleted| !respelled.iter().any(|(side, name)| (*side, name) == (deleted.side, &deleted.name)));
        let withheld = opened.unread.load(Ordering::Relaxed);
        let mut files: HashMap<Side, Vec<Planned>> = HashMap::new();
        let mut tasks = Vec::new();
        for deleted in gone {
            let directory = deleted.entry.is_directory();
            if withheld {
                self.tally.skip(&opened.path, &deleted.name, directory, Reason::DeletesWithheld);
            } else if directory {
                let (parent, mtimes) = (opened.path.clone(), opened.mtimes);
                tasks.push(Task::Gone(Box::new(Gone { parent, mtimes, deleted })));
            } else {
                files.entry(deleted.side).or_default().push(self.deletion(&deleted, Action::Delete));
            }
        }
        for (side, deletes) in files {
            self.hand_on_deletes(side, &opened.path, opened.mtimes[side as usize], deletes);
        }
        self.queue.push_all(tasks.into_iter());
    }

    fn deletion(&self, deleted: &Deleted, action: Action) -> Planned {
        let Deleted { side, name, entry, agreed } = deleted;
        let facts = agreed.facts(side.other());
        let mut planned = self.planned(name, action, None, Some(entry));
        planned.vanished =
            Some(Vanished { inode: facts.inode, mtime: facts.mtime, ctime: facts.ctime, content: agreed.content });
        planned
    }

    fn hand_on_deletes(&self, side: Side, directory: &RelPath, mtime: Option<Time>, deletes: Vec<Planned>) {
        let mut deletes = deletes.into_iter().peekable();
        while deletes.peek().is_some() {
            let operations = deletes.by_ref().take(DELETES).collect();
            self.sink.take_deletes(Batch { route: Route::to(side), directory: directory.clone(), mtime, operations });
        }
    }

    /// Plans what becomes of a directory that one side deleted and of all below it, children first.
    pub(super) fn gone(&self, gone: Gone) {
        let Gone { parent, mtimes, deleted } = gone;
        let side = deleted.side;
        let mut levels: Vec<Level> = Vec::new();
        let mut next = Some((parent.clone(), deleted));
        loop {
            if let Some((above, deleted)) = next.take() {
                let Deleted { name, entry, agreed, .. } = deleted;
                let path = above.join(&name);
                let (directories, kept, restored) = (Vec::new(), false, false);
                levels.push(Level { path, name, entry, agreed, directories, kept, restored });
                self.look_through(side, &mut levels, (&parent, mtimes));
            }
            let Some(level) = levels.last_mut() else { return };
            if let Some(deleted) = level.directories.pop() {
                next = Some((level.path.clone(), deleted));
                continue;
            }
            let Some(done) = levels.pop() else { return };
            if self.stop.is_stopped() {
                return;
            }
            let (directory, mtime) = match levels.last_mut() {
                Some(above) => {
                    above.kept |= done.kept || done.restored;
                    (above.path.clone(), Some(above.entry.mtime))
                }
                None => (parent.clone(), mtimes[side as usize]),
            };
            if done.restored {
                continue;
            }
            if done.kept {
                self.tally.skip(&directory, &done.name, true, Reason::HoldsKept);
                continue;
            }
            let deleted = Deleted { side, name: done.name, entry: done.entry, agreed: done.agreed };
            let planned = self.deletion(&deleted, Action::RemoveDirectory);
            let route = Route::to(side);
            self.sink.take_removal(Batch { route, directory, mtime, operations: vec![planned] });
        }
    }

    /// Looks at everything in the last of some directories.
    fn look_through(&self, side: Side, levels: &mut [Level], top: (&RelPath, [Option<Time>; 2])) {
        let Some(level) = levels.last_mut() else { return };
        let (path, mtime) = (level.path.clone(), level.entry.mtime);
        let names = match self.open_and_list(self.roots[side as usize], &path) {
            Ok((directory, listing)) => {
                let mut entries = [0; 2];
                entries[side as usize] = listing.len() as u64;
                self.tally.seen(entries);
                self.judge(side, &directory, &listing, (&self.known(&path, true), mtime))
            }
            Err(error) => {
                let planned = self.planned(&level.name, Action::Fail(error.to_line()), None, Some(&level.entry));
                level.kept = true;
                let directory = path.split().map(|(parent, _)| parent).unwrap_or_default();
                let (route, mtime) = (Route::to(side), None);
                self.sink.take(Batch { route, directory, mtime, operations: vec![planned] });
                return;
            }
        };
        level.kept |= names.kept;
        level.directories = names.directories;
        let route = Route::to(side);
        if !names.failures.is_empty() {
            let (directory, operations) = (path.clone(), names.failures);
            self.sink.take(Batch { route, directory, mtime: None, operations });
        }
        if let (Some(agreements), false) = (self.agreements, names.agreed.is_empty()) {
            agreements.tell(&path, &names.agreed);
        }
        self.hand_on_deletes(side, &path, Some(mtime), names.deletes);
        if !names.restores.is_empty() {
            self.restore(side, levels, top, names.restores);
        }
    }

    /// Plans that changed entries of the last of some directories come back on the side that deleted it, after the
    /// directories above them.
    fn restore(
        &self,
        side: Side,
        levels: &mut [Level],
        (parent, mtimes): (&RelPath, [Option<Time>; 2]),
        restores: Vec<(Vec<u8>, Entry, Option<Reason>)>,
    ) {
        let route = Route::to(side.other());
        let mut above = (parent.clone(), mtimes[route.to as usize]);
        for level in levels {
            if !level.restored {
                level.restored = true;
                let mut planned = self.planned(&level.name, Action::Create, Some(&level.entry), None);
                planned.reason = Some(Reason::KeptChanged);
                let (directory, mtime) = above;
                self.sink.take(Batch { route, directory, mtime, operations: vec![planned] });
            }
            above = (level.path.clone(), Some(level.entry.mtime));
        }
        let (directory, mtime) = above;
        let mut tasks = Vec::new();
        let mut operations = Vec::new();
        for (name, entry, reason) in restores {
            let mut planned = self.planned(&name, Action::Create, Some(&entry), None);
            planned.reason = reason;
            operations.push(planned);
            if entry.is_directory() {
                let mut present = [false; 2];
                present[side as usize] = true;
                let mtimes = [Some(entry.mtime); 2];
                let found = Found { path: directory.join(&name), present, known: false, mtimes };
                tasks.push(Task::Directory(found));
            }
        }
        self.sink.take(Batch { route, directory, mtime, operations });
        self.queue.push_all(tasks.into_iter());
    }

    /// Decides what becomes of each name of a directory that only one side has.
    fn judge(&self, side: Side, directory: &Dir, listing: &Listing, (known, mtime): (&Known, Time)) -> Names {
        let mut found = Names::default();
        let Deciding::TwoWay(rules) = self.deciding else { return found };
        let path = directory.path();
        let mut unread = false;
        for (name, agreed) in known {
            let excluded = || self.excludes(|| path.join(name), agreed.kind == Kind::Directory);
            if listing.position(name).is_none() && !excluded() {
                found.agreed.push((name.clone(), None));
            }
        }
        for index in 0..listing.len() {
            let name = listing.name(index);
            if self.stop.is_stopped() {
                found.kept = true;
                break;
            }
            if let Some((run, _)) = filter::parse_temporary(name) {
                if !self.clear_away(self.roots[side as usize], directory, name, &run, Some(mtime)) {
                    self.tally.skip(path, name, false, Reason::Temporary);
                    found.kept = true;
                }
                continue;
            }
            let entry = match self.retry(|| directory.find(name)) {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                Err(error) => {
                    self.unread(&mut found, &mut unread, name, None, &error);
                    continue;
                }
            };
            if self.is_held(side, directory, name, &entry, &mut found) {
                found.kept = true;
                continue;
            }
            let place = known.binary_search_by(|(held, _)| held.as_slice().cmp(name));
            let agreed = place.ok().map(|place| &known[place].1);
            let (mut entries, mut dirs) = ([None, None], [None, None]);
            entries[side as usize] = Some(&entry);
            dirs[side as usize] = Some(directory);
            let verdict = match self.closer_at(dirs, name, entries).one_sided(entries, agreed, rules) {
                Ok(verdict) => verdict,
                Err(None) => {
                    found.kept = true;
                    break;
                }
                Err(Some(error)) => {
                    self.unread(&mut found, &mut unread, name, Some(&entry), &error);
                    continue;
                }
            };
            match (verdict, agreed) {
                (Verdict::Delete { .. }, Some(agreed)) => {
                    let deleted = Deleted { side, name: name.to_vec(), entry, agreed: agreed.clone() };
                    if deleted.entry.is_directory() {
                        found.directories.push(deleted);
                    } else {
                        found.deletes.push(self.deletion(&deleted, Action::Delete));
                    }
                }
                (Verdict::Propagate { reason, .. }, _) => {
                    found.restores.push((name.to_vec(), entry, reason.or(Some(Reason::KeptChanged))));
                }
                (Verdict::Skip(reason), _) => {
                    self.tally.skip(path, name, entry.is_directory(), reason);
                    found.kept = true;
                }
                _ => found.kept = true,
            }
        }
        if unread {
            found.kept = true;
            for planned in found.deletes.drain(..) {
                self.tally.skip(path, &planned.name, false, Reason::DeletesWithheld);
            }
            for deleted in found.directories.drain(..) {
                self.tally.skip(path, &deleted.name, true, Reason::DeletesWithheld);
            }
        }
        found
    }

    /// Nothing in a directory goes of which something could not be read.
    fn unread(&self, found: &mut Names, unread: &mut bool, name: &[u8], entry: Option<&Entry>, error: &FsError) {
        *unread = true;
        self.tally.warn_once("unread", &error.to_line());
        found.failures.push(self.planned(name, Action::Fail(error.to_line()), None, entry));
    }

    /// Tells whether an entry takes no part, and so keeps its directory.
    fn is_held(&self, side: Side, directory: &Dir, name: &[u8], entry: &Entry, found: &mut Names) -> bool {
        let path = directory.path();
        if filter::is_nfs_placeholder(name) {
            self.tally.skip(path, name, false, Reason::NfsPlaceholder);
            return true;
        }
        if self.is_own(directory, name, entry) || self.excludes(|| path.join(name), entry.is_directory()) {
            return true;
        }
        if entry.is_directory() && entry.mount_point {
            lock(&self.mounts).push((side == Side::A, path.join(name)));
            if !self.job.cross_mounts {
                self.tally.skip(path, name, true, Reason::MountPoint);
                return true;
            }
        }
        if self.was_mounted(side.other(), path, name) || (!entry.mount_point && self.was_mounted(side, path, name)) {
            self.tally.skip(path, name, entry.is_directory(), Reason::MissingMount);
            let message = "was a mount point at the last run and is none now; if it is gone for good: \
                           --allow-missing-mounts";
            found.failures.push(self.planned(name, Action::Fail(message.to_owned()), None, Some(entry)));
            return true;
        }
        false
    }
}
