//! Lists both sides, directory by directory, merges their sorted names with what was agreed, and has each name compared.

mod gone;
mod look;
mod missing;
mod one_way;
mod two_way;

use std::cmp::Ordering as Order;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_sync_core::baseline::{Agreed, Side};
use ha_sync_core::decide::Policy;
use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::filter::{self, Filter, FilterError};
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::{Action, Batch, Planned, Route};
use ha_sync_core::reason::Reason;
use ha_sync_core::reconcile::Rules;
use ha_sync_fs::{Dir, FsError, Listing, Root};
use rustix::io::Errno;

use crate::agree::{Agreements, Known};
use crate::conflicts::Conflict;
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
    /// A directory that is on the sides that say so; the source of a one-way job always has it.
    Directory(Found),
    /// Some names of an opened directory.
    Chunk { opened: Arc<Opened>, from: Cut, to: Cut },
    /// A directory that only the destination of a one-way job has, to be deleted.
    Missing { directory: RelPath, mtime: Option<Time>, name: Vec<u8>, entry: Box<Entry>, known: bool },
    /// A directory that was deleted on one side.
    Gone(Box<gone::Gone>),
}

/// Is a directory to be opened.
pub(crate) struct Found {
    path: RelPath,
    /// Whether A has it, whether B has it.
    present: [bool; 2],
    /// Whether both sides once agreed that it is a directory.
    known: bool,
    /// The mtimes that it ends with at A and at B; what is made in it does not change them.
    mtimes: [Option<Time>; 2],
}

/// Is a place in a directory's three sorted lists: A's names, B's names, those that were agreed on.
type Cut = [usize; 3];

/// Is a directory while its names are compared.
pub(crate) struct Opened {
    path: RelPath,
    /// Whether its entries are this shard's. Of another's, the directories are looked at, for what is below them.
    owned: bool,
    mtimes: [Option<Time>; 2],
    dirs: [Option<Dir>; 2],
    names: [Listing; 2],
    known: Known,
    /// Chunks not yet compared.
    chunks: AtomicUsize,
    /// Something in it could not be read: nothing in it is deleted.
    unread: AtomicBool,
    /// Names that only the destination of a one-way job has.
    missing: Mutex<Vec<u32>>,
    /// What was deleted on one side, when both sides are kept in step.
    gone: Mutex<Vec<gone::Deleted>>,
    /// Directories that get the other side's spelling of their names, and so are not gone.
    respelled: Mutex<Vec<(Side, Vec<u8>)>>,
}

impl Opened {
    fn agreed(&self, name: &[u8]) -> Option<&Agreed> {
        let place = self.known.binary_search_by(|(held, _)| held.as_slice().cmp(name));
        place.ok().map(|place| &self.known[place].1)
    }
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
    /// Escaped paths of mount points at A and at B.
    pub(crate) mounts: [HashSet<String>; 2],
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

/// Is what a job decides by.
pub(crate) enum Deciding {
    /// One side is the source.
    OneWay(Policy),
    /// Both sides are kept in step.
    TwoWay(Rules),
}

impl Deciding {
    /// Returns when the run began.
    pub(crate) fn start(&self) -> Time {
        match self {
            Self::OneWay(policy) => policy.start,
            Self::TwoWay(rules) => rules.start,
        }
    }
}

/// Is what a scan needs to know, the same for all walkers.
pub(crate) struct Setting<'a> {
    pub(crate) job: &'a Job,
    pub(crate) run: &'a RunId,
    /// A and B; the source and the destination of a one-way job.
    pub(crate) roots: [&'a Root; 2],
    pub(crate) deciding: &'a Deciding,
    /// What one of them excludes takes no part.
    pub(crate) filters: &'a [Filter],
    pub(crate) remembered: &'a Remembered,
    pub(crate) agreements: Option<&'a Agreements<'a>>,
    pub(crate) attributes: bool,
    pub(crate) privileged: bool,
    pub(crate) remote: bool,
    pub(crate) tally: &'a Tally<'a>,
    pub(crate) stop: &'a Stop,
}

pub(crate) struct Scan<'a> {
    setting: Setting<'a>,
    sink: &'a dyn Sink,
    sequence: AtomicU64,
    queue: Queue<Task>,
    mounts: Mutex<Vec<(bool, RelPath)>>,
    leaders: Mutex<HashMap<(u64, u64), Leader>>,
    followers: Mutex<Vec<Follower>>,
    conflicts: Mutex<Vec<Conflict>>,
    root_error: Mutex<Option<FsError>>,
}

impl<'a> std::ops::Deref for Scan<'a> {
    type Target = Setting<'a>;

    fn deref(&self) -> &Setting<'a> {
        &self.setting
    }
}

/// Is what a walk found besides its batches.
pub(crate) struct Walked {
    /// Mount points: at A (true) or B, and where.
    pub(crate) mounts: Vec<(bool, RelPath)>,
    /// Batches of hard links, for when everything else is in place.
    pub(crate) links: Vec<Batch>,
    /// Conflicts that stay open.
    pub(crate) conflicts: Vec<Conflict>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(setting: Setting<'a>, sink: &'a dyn Sink) -> Self {
        let mtimes = setting.roots.map(|root| Some(root.entry().mtime));
        let top = Found { path: RelPath::root(), present: [true; 2], known: true, mtimes };
        Self {
            setting,
            sink,
            sequence: AtomicU64::new(0),
            queue: Queue::new(Task::Directory(top)),
            mounts: Mutex::default(),
            leaders: Mutex::default(),
            followers: Mutex::default(),
            conflicts: Mutex::default(),
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
        Ok(Walked {
            mounts: std::mem::take(&mut *lock(&self.mounts)),
            links: self.link_batches(),
            conflicts: std::mem::take(&mut *lock(&self.conflicts)),
        })
    }

    fn work(&self) {
        while let Some((task, _taken)) = self.queue.take() {
            if self.stop.is_stopped() {
                self.queue.close();
            } else {
                match task {
                    Task::Directory(found) => self.directory(found),
                    Task::Chunk { opened, from, to } => self.chunk(&opened, from, to),
                    Task::Missing { directory, mtime, name, entry, known } => {
                        self.delete_directory(&directory, mtime, &name, &entry, known);
                    }
                    Task::Gone(gone) => self.gone(*gone),
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
            merge: None,
            below: None,
            vanished: None,
            reason: None,
            source_md5: None,
            destination_md5: None,
        }
    }

    /// Returns what was agreed in a directory; `known` says that it was agreed to be one.
    pub(crate) fn known(&self, path: &RelPath, known: bool) -> Known {
        self.agreements.filter(|_| known).map(|agreements| agreements.directory(path)).unwrap_or_default()
    }

    /// Tells whether an entry takes no part.
    pub(crate) fn excludes(&self, path: impl FnOnce() -> RelPath, directory: bool) -> bool {
        if self.filters.iter().all(Filter::is_empty) {
            return false;
        }
        let path = path();
        self.filters.iter().any(|filter| filter.excludes(&path, directory))
    }

    /// Opens and lists a directory of both sides and plans its comparison.
    fn directory(&self, found: Found) {
        let Found { path, present, known, mtimes } = found;
        let (mut dirs, mut names) = ([None, None], [Listing::default(), Listing::default()]);
        for side in Side::BOTH {
            if present[side as usize] {
                match self.open_and_list(self.roots[side as usize], &path) {
                    Ok((dir, listing)) => {
                        dirs[side as usize] = Some(dir);
                        names[side as usize] = listing;
                    }
                    Err(error) => return self.unreadable(self.roots[side as usize], &path, present[1], error),
                }
            }
        }
        let known = self.known(&path, known);
        let size = if self.remote { CHUNK_REMOTE } else { CHUNK_LOCAL };
        let ends = [names[0].len(), names[1].len(), known.len()];
        let largest = (0..3).max_by_key(|list| ends[*list]).unwrap_or(0);
        let count = ends[largest].div_ceil(size).max(1);
        let opened = Arc::new(Opened {
            owned: self.job.owns(&path),
            path,
            mtimes,
            dirs,
            names,
            known,
            chunks: AtomicUsize::new(count),
            unread: AtomicBool::new(false),
            missing: Mutex::default(),
            gone: Mutex::default(),
            respelled: Mutex::default(),
        });
        if count == 1 {
            return self.chunk(&opened, [0; 3], ends);
        }
        // Chunks of whichever list is the longest, cut at the same name in all.
        let cut = |index: usize| -> Cut {
            if index == 0 {
                return [0; 3];
            }
            if index == count {
                return ends;
            }
            let name = match largest {
                2 => &opened.known[index * size].0[..],
                side => opened.names[side].name(index * size),
            };
            let known = opened.known.partition_point(|(held, _)| &held[..] < name);
            [opened.names[0].lower_bound(name), opened.names[1].lower_bound(name), known]
        };
        let tasks: Vec<Task> = (0..count)
            .map(|index| Task::Chunk { opened: Arc::clone(&opened), from: cut(index), to: cut(index + 1) })
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
        let seen = destination.then(|| self.roots[1].entry().clone());
        let mut planned = self.planned(name, Action::Fail(message), None, None);
        planned.destination = seen.map(|entry| Entry { kind: Kind::Directory, size: 0, ..entry });
        self.sink.take(Batch {
            route: Route::FORWARD,
            directory: directory.clone(),
            mtime: None,
            operations: vec![planned],
        });
    }

    fn still_listed(&self, root: &Root, parent: &RelPath, name: &[u8]) -> bool {
        self.open_and_list(root, parent).map_or(true, |(_, listing)| listing.position(name).is_some())
    }

    /// Compares some names of a directory.
    fn chunk(&self, opened: &Arc<Opened>, from: Cut, to: Cut) {
        let mut building = Building::default();
        let mut at = from;
        let (mut compared, mut entries) = (0_u64, [0_u64; 2]);
        loop {
            if compared % 64 == 0 && self.stop.is_stopped() {
                break;
            }
            let listed = |side: usize| (at[side] < to[side]).then(|| opened.names[side].name(at[side]));
            let known = opened.known.get(at[2]).filter(|_| at[2] < to[2]).map(|(name, _)| &name[..]);
            let lists = [listed(0), listed(1), known];
            let Some(name) = lists.into_iter().flatten().min() else { break };
            let has = lists.map(|first| first.is_some_and(|first| first.cmp(name) == Order::Equal));
            let present = [has[0], has[1]];
            let may_be_directory = |side: usize| has[side] && opened.names[side].may_be_directory(at[side]);
            let passed_by = !opened.owned && !has[2] && !may_be_directory(0) && !may_be_directory(1);
            if !passed_by && !self.is_ours(opened, name, present) {
                for side in Side::BOTH {
                    entries[side as usize] += u64::from(present[side as usize] && opened.owned);
                }
                let agreed = if has[2] { Some(&opened.known[at[2]].1) } else { None };
                match self.deciding {
                    Deciding::OneWay(policy) => {
                        self.one_way(opened, name, (present, at[1]), (policy, agreed), &mut building)
                    }
                    Deciding::TwoWay(rules) => self.two_way(opened, name, present, (rules, agreed), &mut building),
                }
            }
            compared += 1;
            for list in 0..3 {
                at[list] += usize::from(has[list]);
            }
            if building.is_large() {
                self.hand_on(opened, &mut building);
            }
        }
        self.hand_on(opened, &mut building);
        self.tally.equal(building.equal);
        self.tally.seen(entries);
        if opened.chunks.fetch_sub(1, Ordering::AcqRel) == 1 && !self.stop.is_stopped() {
            self.missing_names(opened);
            self.gone_names(opened);
        }
    }

    /// Tells whether a name is the tool's own or the file system's, and clears away what dead runs left.
    fn is_ours(&self, opened: &Opened, name: &[u8], present: [bool; 2]) -> bool {
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
        if !opened.owned {
            return true;
        }
        for side in Side::BOTH {
            let Some(dir) = opened.dirs[side as usize].as_ref().filter(|_| present[side as usize]) else { continue };
            let mtime = match (side, self.deciding) {
                // No work in it is to be undone.
                (Side::A, Deciding::OneWay(_)) => dir.entry().map(|entry| entry.mtime).ok(),
                _ => opened.mtimes[side as usize],
            };
            self.clear_away(self.roots[side as usize], dir, name, &run, mtime);
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
        !held.resolved.contains(run) && !held.dead.contains(run) && !is_abandoned(entry.ctime, self.deciding.start())
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

    /// Tells whether a path is among a side's remembered mount points, and that still counts.
    pub(crate) fn was_mounted(&self, side: Side, directory: &RelPath, name: &[u8]) -> bool {
        let remembered = &self.remembered.mounts[side as usize];
        !remembered.is_empty() && !self.job.allow_missing_mounts && remembered.contains(&directory.join(name).escaped())
    }

    fn missing_mount(&self, directory: &RelPath, name: &[u8], destination: bool) {
        let message =
            "was a mount point at the last run and is none now; if it is gone for good: --allow-missing-mounts";
        self.tally.skip(directory, name, true, Reason::MissingMount);
        self.fail(directory, name, destination, message.to_owned());
    }

    /// Leaves out mount points, and paths that were mount points and are none now, whether the directory is still
    /// there or not.
    fn is_kept_by_mount(&self, opened: &Opened, name: &[u8], entries: [Option<&Entry>; 2]) -> bool {
        let mut kept = false;
        for side in Side::BOTH {
            if entries[side as usize].is_some_and(|entry| entry.is_directory() && entry.mount_point) {
                lock(&self.mounts).push((side == Side::A, opened.path.join(name)));
                if !self.job.cross_mounts && !kept {
                    self.tally.skip(&opened.path, name, true, Reason::MountPoint);
                    kept = true;
                }
            } else if self.was_mounted(side, &opened.path, name) {
                if !kept {
                    self.missing_mount(&opened.path, name, entries[1].is_some());
                }
                kept = true;
            }
        }
        kept
    }

    /// Hands what is planned to the sink and the directories below to the queue.
    fn hand_on(&self, opened: &Opened, building: &mut Building) {
        let mut failed = Vec::new();
        for to in Side::BOTH {
            let operations = std::mem::take(&mut building.operations[to as usize]);
            if !operations.is_empty() {
                let (directory, mtime) = (opened.path.clone(), opened.mtimes[to as usize]);
                failed.extend(self.sink.take(Batch { route: Route::to(to), directory, mtime, operations }));
            }
        }
        for (route, planned) in building.kept.drain(..) {
            let (directory, mtime) = (opened.path.clone(), opened.mtimes[route.to as usize]);
            self.sink.take_kept(Batch { route, directory, mtime, operations: vec![planned] });
        }
        if let (Some(agreements), false) = (self.agreements, building.agreed.is_empty()) {
            agreements.tell(&opened.path, &building.agreed);
            building.agreed.clear();
        }
        building.bytes = 0;
        if !building.children.is_empty() {
            let children = std::mem::take(&mut building.children);
            let made = |made_by: &Option<u64>| made_by.is_none_or(|seq| !failed.contains(&seq));
            self.queue.push_all(children.into_iter().filter(|(seq, _)| made(seq)).map(|(_, task)| task));
        }
    }
}

/// Is what one walker has planned of a directory and not yet handed on.
#[derive(Default)]
struct Building {
    /// Of A and of B.
    operations: [Vec<Planned>; 2],
    /// Conflict copies.
    kept: Vec<(Route, Planned)>,
    bytes: u64,
    /// Work below, and the operation that makes its directory.
    children: Vec<(Option<u64>, Task)>,
    equal: u64,
    /// What is agreed on without an operation.
    agreed: Vec<(Vec<u8>, Option<Agreed>)>,
}

impl Building {
    fn is_large(&self) -> bool {
        let operations = self.operations[0].len() + self.operations[1].len();
        operations >= BATCH_OPERATIONS || self.bytes >= BATCH_BYTES || self.agreed.len() >= CHUNK_LOCAL
    }

    fn push(&mut self, to: Side, planned: Planned) {
        self.bytes += planned.bytes();
        self.operations[to as usize].push(planned);
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
