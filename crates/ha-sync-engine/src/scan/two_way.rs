//! The comparison of a two-way job: A, B, and what they last agreed on.

use std::sync::atomic::Ordering;

use ha_sync_core::baseline::{Agreed, Side};
use ha_sync_core::conflict::copy_name;
use ha_sync_core::decide::{Content, Unfinished};
use ha_sync_core::entry::{Entry, Kind};
use ha_sync_core::plan::{Action, Route};
use ha_sync_core::reason::Reason;
use ha_sync_core::reconcile::{ConflictPolicy, Merge, Rules, Verdict, reconcile};
use ha_sync_fs::{Dir, FsError};
use jiff::Timestamp;
use rustix::io::Errno;

use super::gone::Deleted;
use super::look::Closer;
use super::{Building, Found, Opened, Scan, Task};
use crate::conflicts::{Conflict, Version};
use crate::tally::lock;

/// As many open conflicts are told one by one.
const MOST_CONFLICTS: usize = 100_000;

/// So many conflict copies of one name with the loser's mtime are told apart by a number.
const MOST_COPIES: u32 = 999;

/// Is what both sides have at a name.
type Entries = [Option<Entry>; 2];

/// Is what a closer look found: the contents, hashes of the attributes, and of what is below a directory.
type Seen = (Option<Content>, [Option<u64>; 2], Option<u64>);

impl Scan<'_> {
    /// Looks at one name and plans what follows; deletions wait until all names of the directory were looked at.
    pub(super) fn two_way(
        &self,
        opened: &Opened,
        name: &[u8],
        present: [bool; 2],
        (rules, agreed): (&Rules, Option<&Agreed>),
        building: &mut Building,
    ) {
        let mut entries: Entries = [None, None];
        for side in Side::BOTH {
            let Some(dir) = opened.dirs[side as usize].as_ref().filter(|_| present[side as usize]) else { continue };
            match self.look_at(dir, side, name) {
                Ok(Some(entry)) if self.is_own(dir, name, &entry) => return,
                Ok(Some(entry)) => entries[side as usize] = Some(entry),
                Ok(None) => {
                    // Whoever is at work there is not done yet.
                    opened.unread.store(true, Ordering::Relaxed);
                    return self.tally.skip(&opened.path, name, false, Reason::Vanished);
                }
                Err(error) => {
                    opened.unread.store(true, Ordering::Relaxed);
                    return self.fail(&opened.path, name, present[1], error.to_line());
                }
            }
        }
        let is_directory = |entry: &Entry| entry.is_directory();
        let excluded = |entry: &Entry| self.excludes(|| opened.path.join(name), entry.is_directory());
        let [a, b] = [entries[0].as_ref(), entries[1].as_ref()];
        let absent = a.is_none() && b.is_none();
        let was_excluded =
            || agreed.is_some_and(|agreed| self.excludes(|| opened.path.join(name), agreed.kind == Kind::Directory));
        if a.is_some_and(excluded) || b.is_some_and(excluded) || (absent && was_excluded()) {
            return;
        }
        if self.is_kept_by_mount(opened, name, [a, b]) {
            return;
        }
        let mut closer = self.closer(opened, name, [a, b]);
        let mut verdict = match reconcile(a, b, agreed, rules, &mut closer) {
            Ok(verdict) => verdict,
            Err(None) => return,
            Err(Some(error)) => {
                opened.unread.store(true, Ordering::Relaxed);
                return self.fail(&opened.path, name, b.is_some(), error.to_line());
            }
        };
        if let (Verdict::Settle { merge, .. }, Some(a), Some(b)) = (&mut verdict, a, b)
            && a.is_directory()
            && self.unfinished(&opened.path, name) == Unfinished::SameDirection
        {
            without_our_work(merge, (a, b), agreed);
        }
        if verdict == Verdict::Nothing && !a.is_some_and(is_directory) {
            building.equal += u64::from(!absent);
            return;
        }
        let found = (closer.content.take(), closer.attributes, closer.below);
        self.follow(opened, name, (&entries, agreed), (verdict, found), building);
    }

    fn look_at(&self, dir: &Dir, side: Side, name: &[u8]) -> Result<Option<Entry>, FsError> {
        match self.retry(|| dir.find(name))? {
            None if self.still_listed(self.roots[side as usize], dir.path(), name) => {
                Err(dir.error("look at", name, Errno::NOENT))
            }
            found => Ok(found),
        }
    }

    /// Turns a verdict into operations, agreements and further work.
    fn follow(
        &self,
        opened: &Opened,
        name: &[u8],
        (entries, agreed): (&Entries, Option<&Agreed>),
        (verdict, (content, attributes, below)): (Verdict, Seen),
        building: &mut Building,
    ) {
        let [a, b] = [entries[0].as_ref(), entries[1].as_ref()];
        let was_directory = agreed.is_some_and(|agreed| agreed.kind == Kind::Directory);
        let mut sums = content.map(|content| [content.source, content.destination]);
        match verdict {
            Verdict::Nothing => {
                if let (Some(a), Some(b)) = (a, b) {
                    let found = self.below_both(opened, name, (a, b), Merge::default(), was_directory);
                    building.children.push((None, found));
                }
            }
            Verdict::Settle { merge, content, reason } => {
                let (Some(a), Some(b)) = (a, b) else { return };
                if a.is_directory() {
                    building.children.push((None, self.below_both(opened, name, (a, b), merge, was_directory)));
                }
                if merge.is_empty() {
                    building.equal += u64::from(!a.is_directory());
                    let agreed = settled((a, b), agreed, content, attributes);
                    return building.agreed.push((name.to_vec(), Some(agreed)));
                }
                let to = if merge.sets(Side::B) { Side::B } else { Side::A };
                let route = Route::to(to);
                let of = |side: Side| entries[side as usize].as_ref();
                let mut planned = self.planned(name, Action::Metadata, of(route.from), of(to));
                planned.merge = Some(merge);
                planned.reason = reason;
                planned.source_md5 = content;
                planned.destination_md5 = content;
                building.push(to, planned);
            }
            Verdict::Forget => building.agreed.push((name.to_vec(), None)),
            Verdict::Propagate { from, merge, reason } => {
                let route = Route { from, to: from.other() };
                let sums = sums.take().map(|sums| if from == Side::A { sums } else { [sums[1], sums[0]] });
                let merge = Some(merge).filter(|merge| *merge != Merge::all(from));
                self.put(opened, name, route, (entries, sums, below), (merge, reason), building);
            }
            Verdict::Delete { side } => {
                if let (Some(entry), Some(agreed)) = (entries[side as usize].clone(), agreed.cloned()) {
                    lock(&opened.gone).push(Deleted { side, name: name.to_vec(), entry, agreed });
                }
            }
            Verdict::Conflict { how: ConflictPolicy::Skip, .. } => {
                let (Some(a), Some(b)) = (a, b) else { return };
                self.tally.skip(&opened.path, name, false, Reason::Conflict);
                let [one, other] = sums.map_or([None; 2], |sums| sums.map(Some));
                let versions = (Version::of(a, one), Version::of(b, other));
                let since = Timestamp::from_nanosecond(self.deciding.start().0).unwrap_or_default();
                let path = opened.path.join(name);
                let mut open = lock(&self.conflicts);
                if open.len() < MOST_CONFLICTS {
                    open.push(Conflict::new(&path, versions.0, versions.1, since, self.run.clone()));
                }
            }
            Verdict::Conflict { winner, how, reason } => {
                let route = Route { from: winner, to: winner.other() };
                if how == ConflictPolicy::KeepBoth
                    && let Some(loser) = &entries[route.to as usize]
                {
                    let message = match self.keep(opened, name, route, loser, building) {
                        Ok(true) => None,
                        Ok(false) => Some("not replaced: every name for a copy of the loser is taken".to_owned()),
                        Err(None) => return,
                        Err(Some(error)) => Some(error.to_line()),
                    };
                    if let Some(message) = message {
                        let mut planned = self.planned(name, Action::Fail(message), a, b);
                        planned.reason = Some(reason);
                        return building.push(Side::B, planned);
                    }
                }
                let sums = sums.take().map(|sums| if winner == Side::A { sums } else { [sums[1], sums[0]] });
                self.put(opened, name, route, (entries, sums, below), (None, Some(reason)), building);
            }
            Verdict::Skip(reason) => {
                let directory = entries.iter().flatten().all(Entry::is_directory);
                self.tally.skip(&opened.path, name, directory, reason);
            }
            Verdict::Fail(reason) => {
                let mut planned = self.planned(name, Action::Fail(reason.to_string()), a, b);
                planned.reason = Some(reason);
                building.push(Side::B, planned);
            }
        }
    }

    /// Plans that one side's entry is made on the other, or replaces what is there.
    fn put(
        &self,
        opened: &Opened,
        name: &[u8],
        route: Route,
        (entries, sums, below): (&Entries, Option<[[u8; 16]; 2]>, Option<u64>),
        (merge, reason): (Option<Merge>, Option<Reason>),
        building: &mut Building,
    ) {
        let (source, destination) = (&entries[route.from as usize], &entries[route.to as usize]);
        let Some(source) = source else { return };
        if source.is_directory() && destination.is_none() && self.respell(opened, name, route, source, building) {
            return;
        }
        let action = if destination.is_some() { Action::Replace } else { Action::Create };
        let mut planned = self.planned(name, action, Some(source), destination.as_ref());
        planned.merge = merge.filter(|_| destination.is_some());
        planned.below = below.filter(|_| destination.as_ref().is_some_and(Entry::is_directory));
        planned.reason = reason;
        planned.source_md5 = sums.map(|sums| sums[0]);
        planned.destination_md5 = sums.map(|sums| sums[1]);
        if source.is_directory() {
            let mut present = [false; 2];
            present[route.from as usize] = true;
            // Nothing below it was agreed: all of it is new on the other side.
            let mtimes = [Some(source.mtime); 2];
            let path = opened.path.join(name);
            if let Some(agreements) = self.agreements {
                agreements.begin_directory(&path);
            }
            let found = Found { path, present, known: false, mtimes };
            building.children.push((Some(planned.seq), Task::Directory(found)));
        }
        building.push(route.to, planned);
    }

    /// Plans that a directory gets the name that it has on the other side, where one that differs only for people has it:
    /// this side folds names. What is below it is looked at by the next run, under one name.
    fn respell(&self, opened: &Opened, name: &[u8], route: Route, source: &Entry, building: &mut Building) -> bool {
        let Some(dir) = &opened.dirs[route.to as usize] else { return false };
        let Ok(Some(there)) = dir.find(name) else { return false };
        let names = &opened.names[route.to as usize];
        let is_it = |held: &[u8]| {
            let may_be = held.len() == name.len() || !(held.is_ascii() && name.is_ascii());
            let same = |entry: Entry| (entry.device, entry.inode) == (there.device, there.inode);
            may_be && dir.find(held).ok().flatten().is_some_and(same)
        };
        let Some(old) = (0..names.len()).map(|index| names.name(index)).find(|held| is_it(held)) else { return false };
        // It would go, as it was agreed on and the other side has none by that name; else the two collide.
        let goes = opened.names[route.from as usize].position(old).is_none()
            && opened.agreed(old).is_some_and(|agreed| agreed.kind == Kind::Directory);
        if !there.is_directory() || there.mount_point || old == name || !goes {
            return false;
        }
        let seq = self.planned(old, Action::RemoveDirectory, None, None).seq;
        let from = opened.path.join(old);
        lock(&opened.respelled).push((route.to, old.to_vec()));
        building.push(route.to, self.planned(name, Action::Rename { from, seq }, Some(source), Some(&there)));
        true
    }

    /// Returns the work below a directory of both sides. What is done in it does not change the times that it has, or
    /// gets.
    fn below_both(&self, opened: &Opened, name: &[u8], (a, b): (&Entry, &Entry), merge: Merge, known: bool) -> Task {
        let mtimes = match merge.times {
            Some(Side::A) => [Some(a.mtime); 2],
            Some(Side::B) => [Some(b.mtime); 2],
            None => [Some(a.mtime), Some(b.mtime)],
        };
        Task::Directory(Found { path: opened.path.join(name), present: [true; 2], known, mtimes })
    }

    /// Plans copies of the loser of a conflict under a name of its own, on both sides, before it is replaced; false when
    /// every such name is taken.
    fn keep(
        &self,
        opened: &Opened,
        name: &[u8],
        route: Route,
        loser: &Entry,
        building: &mut Building,
    ) -> Result<bool, Option<FsError>> {
        for number in 1..=MOST_COPIES {
            let copy = copy_name(name, route.to, loser.mtime, number);
            let mut found = [None, None];
            for side in Side::BOTH {
                if let Some(dir) = &opened.dirs[side as usize] {
                    found[side as usize] = self.retry(|| dir.find(&copy)).map_err(Some)?;
                }
            }
            if found.iter().all(Option::is_none) {
                for side in Side::BOTH {
                    // Its ctime does not count: it may be linked and replaced meanwhile.
                    let source = Entry { links: 2, ..loser.clone() };
                    let mut planned = self.planned(&copy, Action::Keep(name.to_vec()), Some(&source), None);
                    planned.reason = Some(Reason::Conflict);
                    building.kept.push((Route { from: route.to, to: side }, planned));
                }
                return Ok(true);
            }
            // A run made it that then could not replace the loser; where it lacks it is new.
            if self.is_copy(opened, (name, route.to, loser), &copy, &found)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells whether what is at the name of a conflict copy is one of this loser, and stays.
    fn is_copy(
        &self,
        opened: &Opened,
        (name, side, loser): (&[u8], Side, &Entry),
        copy: &[u8],
        found: &Entries,
    ) -> Result<bool, Option<FsError>> {
        let facts = |entry: &Entry| (entry.kind, entry.size, entry.mtime);
        // What was agreed on and is gone on one side is about to go on the other, too.
        let goes = found.contains(&None) && opened.agreed(copy).is_some();
        if goes || found.iter().flatten().any(|entry| facts(entry) != facts(loser)) {
            return Ok(false);
        }
        let content = |side: Side, name: &[u8]| {
            let dir = opened.dirs[side as usize].as_ref().ok_or(None)?;
            self.digest(dir, name, loser.kind)
        };
        let kept = content(side, name)?;
        for held in Side::BOTH.into_iter().filter(|held| found[*held as usize].is_some()) {
            if content(held, copy)? != kept {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Takes what a directory has from the side that an interrupted run did not work on: its time is the earlier one. What
/// both sides did not agree on before may have been made by that run, and not dressed.
fn without_our_work(merge: &mut Merge, (a, b): (&Entry, &Entry), agreed: Option<&Agreed>) {
    let theirs = if a.mtime <= b.mtime { Side::A } else { Side::B };
    let take = |side: &mut Option<Side>| *side = side.map(|_| theirs);
    take(&mut merge.times);
    if agreed.is_none() {
        take(&mut merge.mode);
        take(&mut merge.owner);
        take(&mut merge.attributes);
    }
}

/// Agrees on two entries of the same content, with what else is known of them.
pub(super) fn settled(
    (a, b): (&Entry, &Entry),
    before: Option<&Agreed>,
    content: Option<[u8; 16]>,
    attributes: [Option<u64>; 2],
) -> Agreed {
    let mut now = Agreed::new(a, b, content);
    let before = before.filter(|before| before.kind == a.kind);
    let carried = |side: Side, entry: &Entry| {
        let facts = before.map(|before| before.facts(side))?;
        facts.attributes.filter(|_| facts.ctime == entry.ctime && facts.inode == entry.inode)
    };
    now.a.attributes = attributes[0].or_else(|| carried(Side::A, a));
    now.b.attributes = attributes[1].or_else(|| carried(Side::B, b));
    now
}

impl Closer<'_, '_> {
    /// Returns the verdict's view of a name that one side has lost with its directory.
    pub(super) fn one_sided(
        &mut self,
        entries: [Option<&Entry>; 2],
        agreed: Option<&Agreed>,
        rules: &Rules,
    ) -> Result<Verdict, Option<FsError>> {
        reconcile(entries[0], entries[1], agreed, rules, self)
    }
}
