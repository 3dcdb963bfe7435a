//! Lists and compares both sides, directory by directory, and plans what it finds.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_sync_core::decide::{Content, Decision, DeleteMissing, Evidence, Policy, Unfinished, decide, is_future};
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::filter::{self, Filter, FilterError};
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned};
use ha_sync_core::reason::Reason;
use ha_sync_fs::content::CopyError;
use ha_sync_fs::{Dir, FsError, Listing, Root, attributes, content};
use rustix::io::Errno;

use crate::job::Job;
use crate::queue::Queue;
use crate::sink::Sink;
use crate::stop::Stop;
use crate::tally::{Tally, lock};

/// A batch is handed on when it has this many operations or this much data: one worker handles it.
const BATCH_OPERATIONS: usize = 256;
const BATCH_BYTES: u64 = 4 << 20;

/// How many names of a directory one walker compares: enough to amortise, or few where every look is slow.
const CHUNK_LOCAL: usize = 2048;
const CHUNK_REMOTE: usize = 16;

/// Waits before a transient error is tried again.
const BACKOFF: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(150)];

/// How long a temporary entry of a run of which nothing is known is left alone, nanoseconds.
const UNKNOWN_KEPT: i128 = 24 * 3600 * Time::SECOND;

pub(crate) enum Task {
    /// A directory that the source has.
    Directory { path: RelPath, destination: bool, mtime: Option<Time> },
    /// Some names of an opened directory.
    Chunk { opened: Arc<Opened>, source: (usize, usize), destination: (usize, usize) },
    /// A directory that only the destination has, to be deleted.
    Missing { directory: RelPath, mtime: Option<Time>, name: Vec<u8>, entry: Box<Entry> },
}

/// Is a directory while its names are compared.
pub(crate) struct Opened {
    path: RelPath,
    mtime: Option<Time>,
    source: Dir,
    destination: Option<Dir>,
    source_names: Listing,
    destination_names: Listing,
    /// Chunks not yet compared.
    chunks: AtomicUsize,
    /// Something in it could not be read: nothing in it is deleted.
    unread: AtomicBool,
    /// Destination names that the source has not.
    missing: Mutex<Vec<u32>>,
}

/// Is the first seen name of a file with several.
struct Leader {
    path: RelPath,
    /// Its inode at the destination, when both sides agree on it.
    agreed: Option<u64>,
}

/// Is another name of a file, to be linked when the first one is in place.
struct Follower {
    directory: RelPath,
    mtime: Option<Time>,
    planned: Planned,
}

/// Is what earlier runs left to know.
#[derive(Default)]
pub(crate) struct Remembered {
    /// Escaped paths of mount points at the source and at the destination.
    pub(crate) source_mounts: HashSet<String>,
    pub(crate) destination_mounts: HashSet<String>,
    /// Escaped paths of directories in which an interrupted run worked: in this direction, in the other.
    pub(crate) unfinished: HashSet<String>,
    pub(crate) unfinished_backwards: HashSet<String>,
    /// Runs that are going on, of other pairs in overlapping trees.
    pub(crate) live: HashSet<RunId>,
    /// Dead runs whose logs were gone through: what is left of them is worth nothing.
    pub(crate) resolved: HashSet<RunId>,
    /// Dead runs whose logs wait, for a run of their pair or for the store.
    pub(crate) dead: HashSet<RunId>,
    /// Devices and inodes of what the run itself writes: the log directory, the database.
    pub(crate) own: Vec<(u64, u64)>,
}

pub(crate) struct Scan<'a> {
    pub(crate) job: &'a Job,
    pub(crate) run: &'a RunId,
    pub(crate) source: &'a Root,
    pub(crate) destination: &'a Root,
    pub(crate) policy: &'a Policy,
    pub(crate) filter: &'a Filter,
    pub(crate) remembered: &'a Remembered,
    pub(crate) attributes: bool,
    pub(crate) privileged: bool,
    pub(crate) remote: bool,
    pub(crate) sink: &'a dyn Sink,
    pub(crate) tally: &'a Tally<'a>,
    pub(crate) stop: &'a Stop,
    sequence: AtomicU64,
    queue: Queue<Task>,
    mounts: Mutex<Vec<(bool, RelPath)>>,
    leaders: Mutex<HashMap<(u64, u64), Leader>>,
    followers: Mutex<Vec<Follower>>,
    root_error: Mutex<Option<FsError>>,
}

/// Is what a walk found besides its batches.
pub(crate) struct Walked {
    /// Mount points: at the source (true) or the destination, and where.
    pub(crate) mounts: Vec<(bool, RelPath)>,
    /// Batches of hard links, for when everything else is in place.
    pub(crate) links: Vec<Batch>,
}

impl<'a> Scan<'a> {
    #[expect(clippy::too_many_arguments, reason = "each is one independent fact about the run")]
    pub(crate) fn new(
        job: &'a Job,
        run: &'a RunId,
        (source, destination): (&'a Root, &'a Root),
        policy: &'a Policy,
        filter: &'a Filter,
        remembered: &'a Remembered,
        (attributes, privileged, remote): (bool, bool, bool),
        sink: &'a dyn Sink,
        tally: &'a Tally<'a>,
        stop: &'a Stop,
    ) -> Self {
        let mtime = Some(destination.entry().mtime);
        Self {
            job,
            run,
            source,
            destination,
            policy,
            filter,
            remembered,
            attributes,
            privileged,
            remote,
            sink,
            tally,
            stop,
            sequence: AtomicU64::new(0),
            queue: Queue::new(Task::Directory { path: RelPath::root(), destination: true, mtime }),
            mounts: Mutex::default(),
            leaders: Mutex::default(),
            followers: Mutex::default(),
            root_error: Mutex::default(),
        }
    }

    /// Walks both trees with `walkers` threads.
    pub(crate) fn walk(&self, walkers: usize) -> Result<Walked, FsError> {
        std::thread::scope(|scope| {
            for index in 1..walkers.max(1) {
                let spawned = std::thread::Builder::new()
                    .name(format!("walker-{index}"))
                    .stack_size(512 * 1024)
                    .spawn_scoped(scope, || self.work());
                // Fewer walkers are slower, nothing else.
                if spawned.is_err() {
                    break;
                }
            }
            self.work();
        });
        if let Some(error) = lock(&self.root_error).take() {
            return Err(error);
        }
        Ok(Walked { mounts: std::mem::take(&mut *lock(&self.mounts)), links: self.link_batches() })
    }

    fn work(&self) {
        while let Some((task, _taken)) = self.queue.take() {
            if self.stop.is_stopped() {
                self.queue.close();
            } else {
                match task {
                    Task::Directory { path, destination, mtime } => self.directory(path, destination, mtime),
                    Task::Chunk { opened, source, destination } => self.chunk(&opened, source, destination),
                    Task::Missing { directory, mtime, name, entry } => {
                        self.delete_directory(&directory, mtime, &name, &entry);
                    }
                }
            }
        }
    }

    /// Gives the next operation number.
    pub(crate) fn planned(
        &self,
        name: &[u8],
        action: Action,
        source: Option<&Entry>,
        destination: Option<&Entry>,
    ) -> Planned {
        Planned {
            seq: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            name: name.to_vec(),
            action,
            source: source.cloned(),
            destination: destination.cloned(),
            reason: None,
            source_md5: None,
            destination_md5: None,
        }
    }

    /// Opens and lists a directory of both sides and plans its comparison.
    fn directory(&self, path: RelPath, destination: bool, mtime: Option<Time>) {
        let source = self.open_and_list(self.source, &path);
        let (source, source_names) = match source {
            Ok(opened) => opened,
            Err(error) => return self.unreadable(self.source, &path, destination, error),
        };
        let (destination, destination_names) = if destination {
            match self.open_and_list(self.destination, &path) {
                Ok((directory, names)) => (Some(directory), names),
                Err(error) => return self.unreadable(self.destination, &path, true, error),
            }
        } else {
            (None, Listing::default())
        };
        let size = if self.remote { CHUNK_REMOTE } else { CHUNK_LOCAL };
        let (sources, destinations) = (source_names.len(), destination_names.len());
        // Chunks of whichever side has more names, cut at the same name on both.
        let by_source = sources >= destinations;
        let count = sources.max(destinations).div_ceil(size).max(1);
        let opened = Arc::new(Opened {
            path,
            mtime,
            source,
            destination,
            source_names,
            destination_names,
            chunks: AtomicUsize::new(count),
            unread: AtomicBool::new(false),
            missing: Mutex::default(),
        });
        if count == 1 {
            return self.chunk(&opened, (0, sources), (0, destinations));
        }
        let cut = |index: usize| {
            let place = index * size;
            if index == 0 {
                (0, 0)
            } else if index == count {
                (sources, destinations)
            } else if by_source {
                let name = opened.source_names.name(place);
                (place, opened.destination_names.lower_bound(name))
            } else {
                let name = opened.destination_names.name(place);
                (opened.source_names.lower_bound(name), place)
            }
        };
        let tasks: Vec<Task> = (0..count)
            .map(|index| {
                let (from, to) = (cut(index), cut(index + 1));
                Task::Chunk { opened: Arc::clone(&opened), source: (from.0, to.0), destination: (from.1, to.1) }
            })
            .collect();
        self.queue.push_all(tasks.into_iter());
    }

    fn open_and_list(&self, root: &Root, path: &RelPath) -> Result<(Dir, Listing), FsError> {
        self.retry(|| {
            let directory = root.open_dir(path)?;
            let listing = directory.list()?;
            Ok((directory, listing))
        })
    }

    /// Tries again after a transient error, and once more after ENOENT for what was just listed.
    fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T, FsError>) -> Result<T, FsError> {
        for pause in BACKOFF {
            match attempt() {
                Err(error) if error.is_transient() && !self.stop.is_stopped() => std::thread::sleep(pause),
                other => return other,
            }
        }
        attempt()
    }

    /// Leaves out the subtree of a directory that could not be opened or listed, on both sides (sync.md §4).
    fn unreadable(&self, root: &Root, path: &RelPath, destination: bool, error: FsError) {
        let Some((parent, name)) = path.split() else {
            lock(&self.root_error).get_or_insert(error);
            return self.queue.close();
        };
        let message = match error.errno() {
            Some(Errno::NOENT) if !self.still_listed(root, &parent, name) => {
                return self.tally.skip(&parent, name, true, Reason::Vanished);
            }
            Some(Errno::XDEV) => return self.tally.skip(&parent, name, true, Reason::MountPoint),
            Some(Errno::LOOP | Errno::NOTDIR) => format!("changed since scan: {}", error.to_line()),
            _ => error.to_line(),
        };
        self.fail(&parent, name, destination, message);
    }

    /// Records that an entry could not be handled.
    fn fail(&self, directory: &RelPath, name: &[u8], destination: bool, message: String) {
        // Only its presence is recorded: as an update, else a create.
        let seen = destination.then(|| self.destination.entry().clone());
        let mut planned = self.planned(name, Action::Fail(message), None, None);
        planned.destination = seen.map(|entry| Entry { kind: Kind::Directory, size: 0, ..entry });
        self.sink.take(Batch { directory: directory.clone(), mtime: None, operations: vec![planned] });
    }

    fn still_listed(&self, root: &Root, parent: &RelPath, name: &[u8]) -> bool {
        self.open_and_list(root, parent).map_or(true, |(_, listing)| listing.position(name).is_some())
    }

    /// Compares some names of a directory.
    fn chunk(&self, opened: &Arc<Opened>, source: (usize, usize), destination: (usize, usize)) {
        let mut building = Building::default();
        let (mut left, mut right) = (source.0, destination.0);
        let mut seen = 0_u64;
        while left < source.1 || right < destination.1 {
            if (left + right) % 64 == 0 && self.stop.is_stopped() {
                break;
            }
            let source_name = (left < source.1).then(|| opened.source_names.name(left));
            let destination_name = (right < destination.1).then(|| opened.destination_names.name(right));
            let (name, in_source, in_destination) = match (source_name, destination_name) {
                (Some(one), Some(other)) => match one.cmp(other) {
                    std::cmp::Ordering::Less => (one, true, false),
                    std::cmp::Ordering::Greater => (other, false, true),
                    std::cmp::Ordering::Equal => (one, true, true),
                },
                (Some(one), None) => (one, true, false),
                (None, Some(other)) => (other, false, true),
                (None, None) => break,
            };
            if !self.is_ours(opened, name, in_source, in_destination) {
                seen += u64::from(in_destination);
                if in_source {
                    self.compare(opened, name, in_destination, &mut building);
                } else if self.job.delete != DeleteMissing::Off {
                    lock(&opened.missing).push(right as u32);
                }
            }
            left += usize::from(in_source);
            right += usize::from(in_destination);
            if building.operations.len() >= BATCH_OPERATIONS || building.bytes >= BATCH_BYTES {
                self.hand_on(opened, &mut building);
            }
        }
        self.hand_on(opened, &mut building);
        self.tally.equal(building.equal);
        self.tally.seen(seen);
        if opened.chunks.fetch_sub(1, Ordering::AcqRel) == 1 && !self.stop.is_stopped() {
            self.missing_names(opened);
        }
    }

    /// Tells whether a name is the tool's own or the file system's, and clears away what dead runs left.
    fn is_ours(&self, opened: &Opened, name: &[u8], in_source: bool, in_destination: bool) -> bool {
        if opened.path.is_root() && filter::is_reserved_at_root(name) {
            return true;
        }
        if !name.starts_with(b".") {
            return false;
        }
        if filter::is_nfs_placeholder(name) {
            return true;
        }
        let Some((run, _)) = filter::parse_temporary(name) else { return false };
        if in_source {
            let mtime = opened.source.entry().map(|entry| entry.mtime).ok();
            self.clear_away(self.source, &opened.source, name, &run, mtime);
        }
        if let (true, Some(destination)) = (in_destination, &opened.destination) {
            self.clear_away(self.destination, destination, name, &run, opened.mtime);
        }
        true
    }

    /// Tells whether an entry is what the run itself writes: the log directory, the database or a file beside it.
    pub(crate) fn is_own(&self, directory: &Dir, name: &[u8], entry: &Entry) -> bool {
        let own = |entry: &Entry| self.remembered.own.contains(&(entry.device, entry.inode));
        if own(entry) {
            return true;
        }
        // SQLite's; they come and go.
        let beside = [&b"-wal"[..], b"-shm", b"-journal"];
        let database = beside.iter().find_map(|suffix| name.strip_suffix(*suffix));
        database.is_some_and(|name| directory.find(name).is_ok_and(|found| found.as_ref().is_some_and(own)))
    }

    /// Tells whether a temporary entry may be in use. Of a run whose log is not in this log directory nothing is
    /// known: while its entry is young, the run may be going on.
    pub(crate) fn is_in_use(&self, run: &RunId, entry: &Entry) -> bool {
        let held = self.remembered;
        if *run == *self.run || held.live.contains(run) {
            return true;
        }
        !held.resolved.contains(run) && !held.dead.contains(run) && !is_abandoned(entry.ctime, self.policy.start)
    }

    /// Removes a temporary entry of a dead run, and tells whether it is gone, or would be but for a dry run. When that
    /// run's log was not gone through, the entry could be an old version that had just been exchanged out: it goes to
    /// the trash. The directory ends with the time `mtime`.
    pub(crate) fn clear_away(
        &self,
        root: &Root,
        directory: &Dir,
        name: &[u8],
        run: &RunId,
        mtime: Option<Time>,
    ) -> bool {
        let known = self.remembered.resolved.contains(run);
        let result = match directory.find(name) {
            Ok(Some(entry)) if self.is_in_use(run, &entry) => {
                if *run != *self.run && !self.remembered.live.contains(run) {
                    let path = directory.path().join(name);
                    let message = format!("a temporary entry of a run that may be going on stays for a day: {path}");
                    self.tally.warn_once("young leftover", &message);
                }
                return false;
            }
            Ok(Some(_)) if self.job.dry_run => return true,
            Ok(Some(entry)) if entry.is_directory() && known => directory.remove_directory(name),
            Ok(Some(_)) if known || !self.job.keep_replaced => directory.remove_file(name),
            Ok(Some(entry)) => ha_sync_fs::trash::open(root, run, directory.path())
                .and_then(|trash| ha_sync_fs::commit::carry(directory, name, &entry, &trash, name)),
            Ok(None) => return true,
            Err(error) => Err(error),
        };
        let result = result.and_then(|()| mtime.map_or(Ok(()), |mtime| directory.set_mtime(mtime)));
        let Err(error) = result else { return true };
        self.tally.warn_once("leftover", &format!("a dead run's temporary entry stays: {}", error.to_line()));
        false
    }

    /// Looks at one name that the source has and plans what follows.
    fn compare(&self, opened: &Opened, name: &[u8], in_destination: bool, building: &mut Building) {
        let source = match self.retry(|| opened.source.find(name)) {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                opened.unread.store(true, Ordering::Relaxed);
                if self.still_listed(self.source, &opened.path, name) {
                    let error = opened.source.error("look at", name, Errno::NOENT);
                    return self.fail(&opened.path, name, in_destination, error.to_line());
                }
                return self.tally.skip(&opened.path, name, false, Reason::Vanished);
            }
            Err(error) => {
                opened.unread.store(true, Ordering::Relaxed);
                return self.fail(&opened.path, name, in_destination, error.to_line());
            }
        };
        if self.is_own(&opened.source, name, &source) {
            return;
        }
        if !self.filter.is_empty() && self.filter.excludes(&opened.path.join(name), source.is_directory()) {
            let deletable = in_destination && self.job.delete_excluded && self.job.delete != DeleteMissing::Off;
            if deletable && let Some(index) = opened.destination_names.position(name) {
                lock(&opened.missing).push(index as u32);
            }
            return;
        }
        let destination = match (&opened.destination, in_destination) {
            (Some(directory), true) => match self.retry(|| directory.find(name)) {
                Ok(entry) => entry,
                Err(error) => {
                    opened.unread.store(true, Ordering::Relaxed);
                    return self.fail(&opened.path, name, true, error.to_line());
                }
            },
            _ => None,
        };
        if let (Some(directory), Some(entry)) = (&opened.destination, &destination)
            && self.is_own(directory, name, entry)
        {
            return;
        }
        if let Some(destination) = &destination
            && source.is_directory() != destination.is_directory()
            && !(self.job.delete_excluded && self.job.delete != DeleteMissing::Off)
            && self.filter.excludes(&opened.path.join(name), destination.is_directory())
        {
            // What is excluded there is invisible, also where the source has something else by that name.
            return;
        }
        if self.is_kept_by_mount(opened, name, &source, destination.as_ref()) {
            return;
        }
        if is_future(source.mtime, self.policy) {
            let path = opened.path.join(name);
            self.tally.warn_once("future", &format!("modified in the future, counts as now: {path} (and maybe more)"));
        }
        let mut look =
            Look { scan: self, opened, name, source: &source, destination: destination.as_ref(), content: None };
        let unfinished = if source.is_directory() { self.unfinished(&opened.path, name) } else { Unfinished::No };
        let decision = match decide(&source, destination.as_ref(), None, self.policy, unfinished, &mut look) {
            Ok(decision) => decision,
            Err(None) => return,
            Err(Some(error)) => {
                opened.unread.store(true, Ordering::Relaxed);
                return self.fail(&opened.path, name, in_destination, error.to_line());
            }
        };
        let content = look.content.take();
        self.plan(opened, name, (source, destination), decision, content, building);
    }

    fn unfinished(&self, directory: &RelPath, name: &[u8]) -> Unfinished {
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

    /// Leaves out mount points, and paths that were mount points and are none now, whether the directory is still
    /// there or not.
    fn is_kept_by_mount(&self, opened: &Opened, name: &[u8], source: &Entry, destination: Option<&Entry>) -> bool {
        let mut kept = false;
        let sides = [
            (true, Some(source), &self.remembered.source_mounts),
            (false, destination, &self.remembered.destination_mounts),
        ];
        for (at_source, entry, remembered) in sides {
            if entry.is_some_and(|entry| entry.is_directory() && entry.mount_point) {
                lock(&self.mounts).push((at_source, opened.path.join(name)));
                if !self.job.cross_mounts && !kept {
                    self.tally.skip(&opened.path, name, true, Reason::MountPoint);
                    kept = true;
                }
            } else if self.was_mounted(remembered, &opened.path, name) {
                if !kept {
                    self.missing_mount(&opened.path, name, destination.is_some());
                }
                kept = true;
            }
        }
        kept
    }

    /// Tells whether a path is among the remembered mount points, and that still counts.
    pub(crate) fn was_mounted(&self, remembered: &HashSet<String>, directory: &RelPath, name: &[u8]) -> bool {
        !remembered.is_empty() && !self.job.allow_missing_mounts && remembered.contains(&directory.join(name).escaped())
    }

    fn missing_mount(&self, directory: &RelPath, name: &[u8], destination: bool) {
        let message =
            "was a mount point at the last run and is none now; if it is gone for good: --allow-missing-mounts";
        self.tally.skip(directory, name, true, Reason::MissingMount);
        self.fail(directory, name, destination, message.to_owned());
    }

    /// Turns a decision into an operation, and directories into further work.
    fn plan(
        &self,
        opened: &Opened,
        name: &[u8],
        (source, destination): (Entry, Option<Entry>),
        decision: Decision,
        content: Option<Content>,
        building: &mut Building,
    ) {
        if self.job.hard_links && source.kind == Kind::File && source.links > 1 {
            let entries = (&source, destination.as_ref());
            if self.follows(opened, name, entries, decision, building) {
                return;
            }
        }
        let (action, reason) = match decision {
            Decision::Equal if source.is_directory() => {
                let mtime = destination.as_ref().map(|entry| entry.mtime);
                return building.children.push((None, self.child(opened, name, true, mtime)));
            }
            Decision::Equal => {
                building.equal += 1;
                return;
            }
            Decision::Skip(reason) => return self.tally.skip(&opened.path, name, source.is_directory(), reason),
            Decision::Create => (Action::Create, is_future(source.mtime, self.policy).then_some(Reason::FutureTime)),
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
        if replaces_directory && self.holds_kept(&opened.path.join(name)) {
            planned.action = Action::Fail(format!("{}: it {}", Reason::TypeConflict, Reason::HoldsKept));
            planned.reason = Some(Reason::TypeConflict);
        }
        if source.is_directory() {
            if planned.makes_directory() {
                let child = self.child(opened, name, false, Some(source.mtime));
                building.children.push((Some(planned.seq), child));
            } else if planned.action == Action::Metadata {
                building.children.push((None, self.child(opened, name, true, Some(source.mtime))));
            }
        }
        building.bytes += planned.bytes();
        building.operations.push(planned);
    }

    fn child(&self, opened: &Opened, name: &[u8], destination: bool, mtime: Option<Time>) -> Task {
        Task::Directory { path: opened.path.join(name), destination, mtime }
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
        let follower = Follower { directory: opened.path.clone(), mtime: opened.mtime, planned };
        lock(&self.followers).push(follower);
        true
    }

    fn link_batches(&self) -> Vec<Batch> {
        let followers = std::mem::take(&mut *lock(&self.followers));
        followers
            .into_iter()
            .map(|follower| Batch {
                directory: follower.directory,
                mtime: follower.mtime,
                operations: vec![follower.planned],
            })
            .collect()
    }

    /// Hands a batch to the sink and the directories below to the queue.
    fn hand_on(&self, opened: &Opened, building: &mut Building) {
        let mut failed = Vec::new();
        if !building.operations.is_empty() {
            let operations = std::mem::take(&mut building.operations);
            failed = self.sink.take(Batch { directory: opened.path.clone(), mtime: opened.mtime, operations });
        }
        building.bytes = 0;
        if !building.children.is_empty() {
            let children = std::mem::take(&mut building.children);
            let made = |made_by: &Option<u64>| made_by.is_none_or(|seq| !failed.contains(&seq));
            self.queue.push_all(children.into_iter().filter(|(seq, _)| made(seq)).map(|(_, task)| task));
        }
    }

    /// Plans what becomes of the names that only the destination has, when all names of a directory were compared.
    fn missing_names(&self, opened: &Opened) {
        let mut missing = std::mem::take(&mut *lock(&opened.missing));
        let Some(destination) = opened.destination.as_ref().filter(|_| !missing.is_empty()) else { return };
        missing.sort_unstable();
        let names = missing.iter().map(|index| opened.destination_names.name(*index as usize));
        let withheld = opened.unread.load(Ordering::Relaxed);
        let directories = self.delete_names(destination, names, withheld, opened.mtime).directories;
        let tasks = directories.into_iter().map(|(name, entry)| Task::Missing {
            directory: opened.path.clone(),
            mtime: opened.mtime,
            name,
            entry: Box::new(entry),
        });
        self.queue.push_all(tasks);
    }
}

/// Is what one walker has planned of a directory and not yet handed on.
#[derive(Default)]
struct Building {
    operations: Vec<Planned>,
    bytes: u64,
    /// Work below, and the operation that makes its directory.
    children: Vec<(Option<u64>, Task)>,
    equal: u64,
}

/// Looks closer at one name.
struct Look<'s, 'a> {
    scan: &'s Scan<'a>,
    opened: &'s Opened,
    name: &'s [u8],
    source: &'s Entry,
    destination: Option<&'s Entry>,
    content: Option<Content>,
}

impl Look<'_, '_> {
    fn destination_directory(&self) -> Result<&Dir, Option<FsError>> {
        self.opened.destination.as_ref().ok_or(None)
    }
}

/// The error is absent when the run is being stopped.
impl Evidence for Look<'_, '_> {
    type Error = Option<FsError>;

    fn content(&mut self) -> Result<Content, Self::Error> {
        let directory = self.destination_directory()?;
        let stop = self.scan.stop;
        let found = self.scan.retry(|| {
            let source = self.opened.source.open_file(self.name)?;
            let destination = directory.open_file(self.name)?;
            match content::compare(&source, &destination, &|| stop.is_stopped()) {
                Ok(content) => Ok(Some(content)),
                Err(CopyError::Read(errno)) => Err(self.opened.source.error("read", self.name, errno)),
                Err(CopyError::Write(errno)) => Err(directory.error("read", self.name, errno)),
                Err(CopyError::Changed | CopyError::Stopped) => Ok(None),
            }
        });
        let content = found.map_err(Some)?.ok_or(None)?;
        self.content = Some(content.clone());
        Ok(content)
    }

    fn targets(&mut self) -> Result<(Vec<u8>, Vec<u8>), Self::Error> {
        let directory = self.destination_directory()?;
        let source = self.scan.retry(|| self.opened.source.read_link(self.name)).map_err(Some)?;
        let destination = self.scan.retry(|| directory.read_link(self.name)).map_err(Some)?;
        Ok((source, destination))
    }

    fn same_attributes(&mut self) -> Result<bool, Self::Error> {
        if !self.scan.attributes || self.source.kind == Kind::Link || self.destination.is_none() {
            return Ok(true);
        }
        let directory = self.destination_directory()?;
        let privileged = self.scan.privileged;
        let read = |directory| self.scan.retry(|| attributes::read_at(directory, self.name, privileged)).map_err(Some);
        let source = read(&self.opened.source)?;
        let destination = read(directory)?;
        Ok(source == destination)
    }

    fn below_as_agreed(&mut self) -> Result<bool, Self::Error> {
        // Without a baseline nothing was agreed.
        Ok(false)
    }
}

/// Tells whether a temporary entry of an unknown run is too old for the run to be going on. While it copies, the
/// ctime moves on.
fn is_abandoned(ctime: Time, now: Time) -> bool {
    now.0 - ctime.0 > UNKNOWN_KEPT
}

/// Returns how many walkers fit: the cores on a local file system, 32 where every request waits.
pub(crate) fn default_walkers(remote: bool) -> usize {
    if remote { 32 } else { std::thread::available_parallelism().map_or(2, usize::from) }
}

/// Reads the ignore file at a root; absent when there is none. What is there and cannot be read is refused: without
/// its rules more would be copied than is meant.
pub(crate) fn read_ignore_file(root: &Root) -> Result<Result<Option<Vec<u8>>, FilterError>, FsError> {
    let top = root.open_dir(&RelPath::root())?;
    match top.find(filter::IGNORE_FILE)? {
        None => return Ok(Ok(None)),
        Some(entry) if entry.kind != Kind::File => return Ok(Err(FilterError::NotAFile)),
        Some(_) => {}
    }
    let file = std::fs::File::from(top.open_file(filter::IGNORE_FILE)?);
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut { file }, &mut content)
        .map_err(|error| FsError::local("read", PathBuf::from(root.path()).join(".ha-syncignore"), error))?;
    Ok(Ok(Some(content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_entry_is_abandoned_after_a_day() {
        let now = Time::new(1_750_000_000, 0);
        let before = |seconds: i64| Time::new(1_750_000_000 - seconds, 0);
        for (ctime, abandoned) in [
            (before(0), false),
            (before(86_400), false),
            (before(86_401), true),
            (before(1_000_000_000), true),
            // A clock that is ahead.
            (before(-86_401), false),
        ] {
            assert_eq!(is_abandoned(ctime, now), abandoned, "{ctime:?}");
        }
    }
}
