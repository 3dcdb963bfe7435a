//! The comparison of a one-way job: source against destination.

use std::sync::atomic::Ordering;

use ha_sync_core::baseline::{Agreed, Side};
use ha_sync_core::decide::{Content, Decision, DeleteMissing, Evidence, Policy, Unfinished, decide, is_future};
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Route};
use ha_sync_core::reason::Reason;
use ha_sync_core::reconcile::Below;
use ha_sync_fs::FsError;
use rustix::io::Errno;

use super::look::Closer;
use super::{Building, Follower, Found, Leader, Opened, Scan, Task};
use crate::below;
use crate::tally::lock;

impl Scan<'_> {
    /// Looks at one name and plans what follows; what only the destination has waits until all names were looked at.
    pub(super) fn one_way(
        &self,
        opened: &Opened,
        name: &[u8],
        (present, place): ([bool; 2], usize),
        (policy, agreed): (&Policy, Option<&Agreed>),
        building: &mut Building,
    ) {
        let [in_source, in_destination] = present;
        if !in_source {
            if in_destination && self.job.delete != DeleteMissing::Off {
                lock(&opened.missing).push(place as u32);
            } else if !in_destination {
                building.agreed.push((name.to_vec(), None));
            }
            return;
        }
        let Some(from) = &opened.dirs[0] else { return };
        let source = match self.retry(|| from.find(name)) {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                opened.unread.store(true, Ordering::Relaxed);
                if self.still_listed(self.roots[0], &opened.path, name) {
                    let error = from.error("look at", name, Errno::NOENT);
                    return self.fail(&opened.path, name, in_destination, error.to_line());
                }
                return self.tally.skip(&opened.path, name, false, Reason::Vanished);
            }
            Err(error) => {
                opened.unread.store(true, Ordering::Relaxed);
                return self.fail(&opened.path, name, in_destination, error.to_line());
            }
        };
        if self.is_own(from, name, &source) || !(opened.owned || source.is_directory()) {
            return;
        }
        if self.excludes(|| opened.path.join(name), source.is_directory()) {
            if in_destination && self.job.delete_excluded && self.job.delete != DeleteMissing::Off {
                lock(&opened.missing).push(place as u32);
            }
            return;
        }
        let destination = match (&opened.dirs[1], in_destination) {
            (Some(directory), true) => match self.retry(|| directory.find(name)) {
                Ok(entry) => entry,
                Err(error) => {
                    opened.unread.store(true, Ordering::Relaxed);
                    return self.fail(&opened.path, name, true, error.to_line());
                }
            },
            _ => None,
        };
        if let (Some(directory), Some(entry)) = (&opened.dirs[1], &destination)
            && self.is_own(directory, name, entry)
        {
            return;
        }
        if let Some(destination) = &destination
            && source.is_directory() != destination.is_directory()
            && !(self.job.delete_excluded && self.job.delete != DeleteMissing::Off)
            && self.excludes(|| opened.path.join(name), destination.is_directory())
        {
            // What is excluded there is invisible, also where the source has something else by that name.
            return;
        }
        if self.is_kept_by_mount(opened, name, [Some(&source), destination.as_ref()]) {
            return;
        }
        if is_future(source.mtime, policy) {
            let path = opened.path.join(name);
            self.tally.warn_once("future", &format!("modified in the future, counts as now: {path} (and maybe more)"));
        }
        let mut look = Look { opened, closer: self.closer(opened, name, [Some(&source), destination.as_ref()]) };
        let unfinished = if source.is_directory() { self.unfinished(&opened.path, name) } else { Unfinished::No };
        let decision = match decide(&source, destination.as_ref(), agreed, policy, unfinished, &mut look) {
            Ok(decision) => decision,
            Err(None) => return,
            Err(Some(error)) => {
                opened.unread.store(true, Ordering::Relaxed);
                return self.fail(&opened.path, name, in_destination, error.to_line());
            }
        };
        let content = look.closer.content.take();
        let below = look.closer.below;
        if self.agreements.is_some()
            && let Some(destination) = &destination
        {
            let found = (decision, content.as_ref());
            self.note_agreement(name, (&source, destination), found, (policy, agreed), building);
        }
        self.plan(opened, name, (source, destination), (decision, policy, agreed), (content, below), building);
    }

    /// Notes that both sides are the same without an operation. Where only the content is, and something was agreed
    /// before, that stays of the rest: a later two-way run must still see whose metadata were changed since.
    fn note_agreement(
        &self,
        name: &[u8],
        (source, destination): (&Entry, &Entry),
        (decision, content): (Decision, Option<&Content>),
        (policy, agreed): (&Policy, Option<&Agreed>),
        building: &mut Building,
    ) {
        let same = match decision {
            Decision::Equal => true,
            Decision::Skip(Reason::SameContent) => true,
            Decision::Skip(_) => content.is_some_and(|content| content.equal),
            _ => false,
        };
        let untouched = agreed.filter(|agreed| {
            agreed.kind == source.kind && agreed.untouched(Side::A, source) && agreed.untouched(Side::B, destination)
        });
        let current = |agreed: &&Agreed| agreed.a.current(source) && agreed.b.current(destination);
        if !same || untouched.filter(current).is_some() {
            return;
        }
        let sum = content.map(|content| content.source).or(untouched.and_then(|agreed| agreed.content));
        let mut now = Agreed::new(source, destination, sum);
        let apart = (source.mtime.0 - destination.mtime.0).abs();
        let settled = decision == Decision::Equal && (!source.is_directory() || apart <= policy.threshold);
        if let Some(agreed) = agreed.filter(|agreed| !settled && agreed.kind == source.kind) {
            (now.a, now.b) = (agreed.a.clone(), agreed.b.clone());
            if now == *agreed {
                return;
            }
        }
        building.agreed.push((name.to_vec(), Some(now)));
    }

    pub(super) fn unfinished(&self, directory: &RelPath, name: &[u8]) -> Unfinished {
        let held = self.remembered;
        if held.unfinished.is_empty() && held.unfinished_backwards.is_empty() {
            return Unfinished::No;
        }
        let path = directory.join(name).escaped();
        if held.unfinished.contains(&path) {
            Unfinished::SameDirection
        } else if held.unfinished_backwards.contains(&path) {
            Unfinished::OtherDirection
        } else {
            Unfinished::No
        }
    }

    /// Turns a decision into an operation, and directories into further work.
    fn plan(
        &self,
        opened: &Opened,
        name: &[u8],
        (source, destination): (Entry, Option<Entry>),
        (decision, policy, agreed): (Decision, &Policy, Option<&Agreed>),
        (content, below): (Option<Content>, Option<u64>),
        building: &mut Building,
    ) {
        let known = agreed.is_some_and(|agreed| agreed.kind == Kind::Directory);
        if !opened.owned {
            return self.pass_on(opened, name, (source, destination), (decision, policy, known), building);
        }
        if self.job.hard_links && source.kind == Kind::File && source.links > 1 {
            let entries = (&source, destination.as_ref());
            if self.follows(opened, name, entries, decision, building) {
                return;
            }
        }
        let (action, reason) = match decision {
            Decision::Equal if source.is_directory() => {
                let mtime = destination.as_ref().map(|entry| entry.mtime);
                return building.children.push((None, self.child(opened, name, (true, known), mtime)));
            }
            Decision::Equal => {
                building.equal += 1;
                return;
            }
            Decision::Skip(reason) => return self.tally.skip(&opened.path, name, source.is_directory(), reason),
            Decision::Create => (Action::Create, is_future(source.mtime, policy).then_some(Reason::FutureTime)),
            Decision::Update(reason) | Decision::Replace(reason) => (Action::Replace, reason),
            Decision::Metadata(reason) => (Action::Metadata, reason),
            Decision::Fail(reason) => (Action::Fail(reason.to_string()), Some(reason)),
            // Not a decision for what the source has.
            Decision::Delete => return,
        };
        let mut planned = self.planned(name, action, Some(&source), destination.as_ref());
        planned.reason = reason;
        if let Some(content) = content {
            planned.source_md5 = Some(content.source);
            planned.destination_md5 = Some(content.destination);
        }
        let replaces_directory =
            planned.action == Action::Replace && destination.as_ref().is_some_and(Entry::is_directory);
        if replaces_directory {
            let path = opened.path.join(name);
            planned.below = below.or_else(|| below::fingerprint(self.roots[1], &path).ok());
        }
        if replaces_directory && (planned.below.is_none() || self.holds_kept(&opened.path.join(name))) {
            planned.action = Action::Fail(format!("{}: it {}", Reason::TypeConflict, Reason::HoldsKept));
            planned.reason = Some(Reason::TypeConflict);
        }
        if source.is_directory() {
            if planned.makes_directory() {
                if let Some(agreements) = self.agreements {
                    agreements.begin_directory(&opened.path.join(name));
                }
                let child = self.child(opened, name, (false, false), Some(source.mtime));
                building.children.push((Some(planned.seq), child));
            } else if planned.action == Action::Metadata {
                building.children.push((None, self.child(opened, name, (true, known), Some(source.mtime))));
            }
        }
        building.push(Side::B, planned);
    }

    /// Goes on below a directory whose entry another shard works on, and makes it when it is not there yet: who comes
    /// first does. All else about it is the other's.
    fn pass_on(
        &self,
        opened: &Opened,
        name: &[u8],
        (source, destination): (Entry, Option<Entry>),
        (decision, policy, known): (Decision, &Policy, bool),
        building: &mut Building,
    ) {
        let mtime = match (decision, &destination) {
            (Decision::Equal, Some(destination)) => destination.mtime,
            (Decision::Metadata(_) | Decision::Create, _) => source.mtime,
            _ => return,
        };
        let mut maker = None;
        if decision == Decision::Create {
            let mut planned = self.planned(name, Action::Create, Some(&source), None);
            planned.reason = is_future(source.mtime, policy).then_some(Reason::FutureTime);
            maker = Some(planned.seq);
            building.push(Side::B, planned);
        }
        let child = self.child(opened, name, (maker.is_none(), known), Some(mtime));
        building.children.push((maker, child));
    }

    fn child(&self, opened: &Opened, name: &[u8], (destination, known): (bool, bool), mtime: Option<Time>) -> Task {
        let path = opened.path.join(name);
        Task::Directory(Found { path, present: [true, destination], known, mtimes: [None, mtime] })
    }

    /// Handles a name of a file with several names; false when it is the first one.
    fn follows(
        &self,
        opened: &Opened,
        name: &[u8],
        (source, destination): (&Entry, Option<&Entry>),
        decision: Decision,
        building: &mut Building,
    ) -> bool {
        if matches!(decision, Decision::Skip(_) | Decision::Fail(_)) {
            return false;
        }
        let mut leaders = lock(&self.leaders);
        let held = match leaders.entry((source.device, source.inode)) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let agreed = destination.filter(|_| decision == Decision::Equal).map(|entry| entry.inode);
                vacant.insert(Leader { path: opened.path.join(name), agreed });
                return false;
            }
            std::collections::hash_map::Entry::Occupied(occupied) => occupied,
        };
        let leader = held.get();
        let linked = leader.agreed.is_some() && leader.agreed == destination.map(|entry| entry.inode);
        if linked && decision == Decision::Equal {
            building.equal += 1;
            return true;
        }
        let action = Action::Link(leader.path.clone());
        drop(leaders);
        let planned = self.planned(name, action, Some(source), destination);
        let follower = Follower { directory: opened.path.clone(), mtime: opened.mtimes[1], planned };
        lock(&self.followers).push(follower);
        true
    }

    pub(super) fn link_batches(&self) -> Vec<Batch> {
        let followers = std::mem::take(&mut *lock(&self.followers));
        followers
            .into_iter()
            .map(|follower| Batch {
                route: Route::FORWARD,
                directory: follower.directory,
                mtime: follower.mtime,
                operations: vec![follower.planned],
            })
            .collect()
    }

    /// Tells whether something in another shard's directory cannot be read: only the directories in it were looked at.
    fn hides_unread(&self, opened: &Opened) -> bool {
        let Some(source) = opened.dirs[0].as_ref().filter(|_| !opened.owned) else { return false };
        let names = &opened.names[0];
        (0..names.len()).any(|index| self.retry(|| source.find(names.name(index))).is_err())
    }

    /// Plans what becomes of the names that only the destination has, when all names of a directory were compared.
    pub(super) fn missing_names(&self, opened: &Opened) {
        let mut missing = std::mem::take(&mut *lock(&opened.missing));
        let Some(destination) = opened.dirs[1].as_ref().filter(|_| !missing.is_empty()) else { return };
        missing.sort_unstable();
        let names = missing.iter().map(|index| opened.names[1].name(*index as usize));
        let withheld = opened.unread.load(Ordering::Relaxed) || self.hides_unread(opened);
        let directories = self.delete_names(destination, names, &opened.known, withheld, opened.mtimes[1]).directories;
        let tasks = directories.into_iter().map(|(name, entry, known)| Task::Missing {
            directory: opened.path.clone(),
            mtime: opened.mtimes[1],
            name,
            entry: Box::new(entry),
            known,
        });
        self.queue.push_all(tasks);
    }
}

/// Looks closer at one name.
struct Look<'s, 'a> {
    opened: &'s Opened,
    closer: Closer<'s, 'a>,
}

/// The error is absent when the run is being stopped.
impl Evidence for Look<'_, '_> {
    type Error = Option<FsError>;

    fn content(&mut self) -> Result<Content, Self::Error> {
        self.closer.compare()
    }

    fn targets(&mut self) -> Result<(Vec<u8>, Vec<u8>), Self::Error> {
        Ok((self.closer.target(Side::A)?, self.closer.target(Side::B)?))
    }

    fn same_attributes(&mut self) -> Result<bool, Self::Error> {
        Ok(self.closer.attributes(Side::A)? == self.closer.attributes(Side::B)?)
    }

    fn below_as_agreed(&mut self) -> Result<bool, Self::Error> {
        let agreed = self.opened.agreed(self.closer.name).is_some_and(|agreed| agreed.kind == Kind::Directory);
        Ok(agreed && self.closer.below(Side::B)? == Below::Agreed)
    }
}
