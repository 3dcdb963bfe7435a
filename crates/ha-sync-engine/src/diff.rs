//! Compares two roots without a change to either, and gives every difference as it is found.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ha_sync_core::diff::{Question, Rules, What, compare};
use ha_sync_core::entry::{Entry, Kind};
use ha_sync_core::filter::{self, Filter, FilterError, Rule};
use ha_sync_core::path::RelPath;
use ha_sync_fs::content::CopyError;
use ha_sync_fs::{Dir, FsError, Listing, Root, attributes, content, probe};
use rustix::io::Errno;

use crate::queue::Queue;
use crate::scan;
use crate::stop::Stop;

/// How many names one walker compares at once: enough to amortise, or few where every look is slow.
const CHUNK_LOCAL: usize = 1024;
const CHUNK_REMOTE: usize = 16;

/// Says what is compared, and how.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// One root.
    pub a: PathBuf,
    /// The other.
    pub b: PathBuf,
    /// `--exclude` and `--include` in order; the ignore files of both roots come after them.
    pub rules: Vec<Rule>,
    /// `--mtime-threshold`, nanoseconds.
    pub threshold: i128,
    /// `--checksum`.
    pub checksum: bool,
    /// `--content-only`.
    pub content_only: bool,
    /// `--cross-mounts`.
    pub cross_mounts: bool,
    /// Threads; by the kind of file system when absent.
    pub walkers: Option<usize>,
}

/// Is something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The sides differ. Of a directory that only one side has, what is below it is not told.
    Different {
        /// Where.
        path: RelPath,
        /// In what; never nothing.
        what: Vec<What>,
        /// What A has.
        a: Option<Box<Entry>>,
        /// What B has.
        b: Option<Box<Entry>>,
    },
    /// A path could not be compared, nor what is below it.
    Unreadable {
        /// Where.
        path: RelPath,
        /// Why, in one line.
        message: String,
    },
}

/// Counts what was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Paths on which both sides are the same.
    pub equal: u64,
    /// Paths on which they differ.
    pub different: u64,
    /// Paths that could not be compared.
    pub unreadable: u64,
    /// Special files and mount points that are not entered, which no job touches.
    pub left_out: u64,
}

/// Says why two roots cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A root cannot be read.
    #[error("failed to compare the roots")]
    Root(#[from] FsError),
    /// A line of an ignore file, or a glob.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// Compares the roots. `take` is given what was found from many threads, in any order, a few findings at a time, the
/// names of a directory in order; it ends the comparison by returning false.
pub fn diff(
    comparison: &Comparison,
    stop: &Stop,
    take: &(dyn Fn(Vec<Finding>) -> bool + Sync),
) -> Result<Compared, DiffError> {
    let open = |path| Root::open(path, comparison.cross_mounts);
    let roots = [open(&comparison.a)?, open(&comparison.b)?];
    let probes = [probe::probe(&roots[0], false)?, probe::probe(&roots[1], false)?];
    let [one, other] = &probes;
    let mut filters = Vec::new();
    for root in &roots {
        filters.push(Filter::new(&comparison.rules, scan::read_ignore_file(root)??.as_deref())?);
    }
    let remote = one.remote || other.remote;
    let walk = Walk {
        comparison,
        rules: Rules {
            threshold: comparison.threshold,
            granularity: one.granularity.max(other.granularity),
            checksum: comparison.checksum,
            content_only: comparison.content_only,
            owners: one.owners && other.owners,
            modes: one.modes && other.modes,
        },
        roots: &roots,
        filters,
        attributes: one.attributes && other.attributes,
        privileged: rustix::process::geteuid().is_root(),
        chunk: if remote { CHUNK_REMOTE } else { CHUNK_LOCAL },
        stop,
        take,
        queue: Queue::new(Task::Directory(RelPath::root())),
        equal: AtomicU64::new(0),
        different: AtomicU64::new(0),
        unreadable: AtomicU64::new(0),
        left_out: AtomicU64::new(0),
    };
    // What is wrong with a root is no finding.
    for root in &roots {
        root.open_dir(&RelPath::root()).and_then(|top| top.list())?;
    }
    walk.walk(comparison.walkers.unwrap_or_else(|| scan::default_walkers(remote)));
    Ok(Compared {
        equal: walk.equal.into_inner(),
        different: walk.different.into_inner(),
        unreadable: walk.unreadable.into_inner(),
        left_out: walk.left_out.into_inner(),
    })
}

enum Task {
    /// A directory that both sides have.
    Directory(RelPath),
    /// Some names of one that is open.
    Names(Arc<Opened>, std::ops::Range<usize>),
}

/// Is a directory of both sides while its names are compared.
struct Opened {
    path: RelPath,
    dirs: [Dir; 2],
    listings: [Listing; 2],
    /// Where each name is in the two listings.
    names: Vec<[Option<u32>; 2]>,
}

struct Walk<'a> {
    comparison: &'a Comparison,
    rules: Rules,
    roots: &'a [Root; 2],
    filters: Vec<Filter>,
    attributes: bool,
    privileged: bool,
    chunk: usize,
    stop: &'a Stop,
    take: &'a (dyn Fn(Vec<Finding>) -> bool + Sync),
    queue: Queue<Task>,
    equal: AtomicU64,
    different: AtomicU64,
    unreadable: AtomicU64,
    left_out: AtomicU64,
}

impl Walk<'_> {
    fn walk(&self, walkers: usize) {
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
    }

    fn work(&self) {
        while let Some((task, _taken)) = self.queue.take() {
            if self.stop.is_stopped() {
                self.queue.close();
                continue;
            }
            match task {
                Task::Directory(path) => self.directory(path),
                Task::Names(opened, range) => self.names(&opened, range),
            }
        }
    }

    /// Tries again after a transient error.
    fn retry<T>(&self, mut step: impl FnMut() -> Result<T, FsError>) -> Result<T, FsError> {
        for pause in crate::execute::BACKOFF {
            match step() {
                Err(error) if error.is_transient() && !self.stop.is_stopped() => std::thread::sleep(pause),
                other => return other,
            }
        }
        step()
    }

    fn directory(&self, path: RelPath) {
        let open = |root: &Root| {
            self.retry(|| {
                let dir = root.open_dir(&path)?;
                let listing = dir.list()?;
                Ok((dir, listing))
            })
        };
        let (one, other) = match (open(&self.roots[0]), open(&self.roots[1])) {
            (Ok(one), Ok(other)) => (one, other),
            (Err(error), _) | (_, Err(error)) => return self.unreadable(path, &error),
        };
        let (dirs, listings) = ([one.0, other.0], [one.1, other.1]);
        let names = merged(&listings);
        let opened = Arc::new(Opened { path, dirs, listings, names });
        let count = opened.names.len();
        if count <= self.chunk {
            return self.names(&opened, 0..count);
        }
        let starts: Vec<usize> = (0..count).step_by(self.chunk).collect();
        let task = |start: usize| Task::Names(Arc::clone(&opened), start..(start + self.chunk).min(count));
        self.queue.push_all(starts.into_iter().map(task));
    }

    fn unreadable(&self, path: RelPath, error: &FsError) {
        self.give(vec![Finding::Unreadable { path, message: error.to_line() }]);
    }

    fn give(&self, findings: Vec<Finding>) {
        if findings.is_empty() {
            return;
        }
        let different = findings.iter().filter(|finding| matches!(finding, Finding::Different { .. })).count() as u64;
        self.different.fetch_add(different, Ordering::Relaxed);
        self.unreadable.fetch_add(findings.len() as u64 - different, Ordering::Relaxed);
        if !(self.take)(findings) {
            self.queue.close();
        }
    }

    fn names(&self, opened: &Opened, range: std::ops::Range<usize>) {
        let mut findings = Vec::new();
        let mut below = Vec::new();
        let mut equal = 0;
        for places in &opened.names[range] {
            if self.stop.is_stopped() {
                break;
            }
            let name = match places {
                [Some(place), _] => opened.listings[0].name(*place as usize),
                [None, Some(place)] => opened.listings[1].name(*place as usize),
                [None, None] => continue,
            };
            if is_ours(&opened.path, name) {
                continue;
            }
            match self.name(opened, name, [places[0].is_some(), places[1].is_some()]) {
                Ok(Some((what, [a, b]))) => {
                    let directory = |entry: &Option<Entry>| entry.as_ref().is_some_and(Entry::is_directory);
                    below.extend((directory(&a) && directory(&b)).then(|| Task::Directory(opened.path.join(name))));
                    if what.is_empty() {
                        equal += 1;
                    } else {
                        let (a, b) = (a.map(Box::new), b.map(Box::new));
                        findings.push(Finding::Different { path: opened.path.join(name), what, a, b });
                    }
                }
                Ok(None) => {}
                Err(None) => break,
                Err(Some(error)) => {
                    findings.push(Finding::Unreadable { path: opened.path.join(name), message: error.to_line() });
                }
            }
        }
        self.equal.fetch_add(equal, Ordering::Relaxed);
        self.give(findings);
        self.queue.push_all(below.into_iter());
    }

    /// Compares one name; nothing when it takes no part. The error is absent when the comparison is being stopped.
    fn name(&self, opened: &Opened, name: &[u8], present: [bool; 2]) -> Result<Option<Found>, Option<FsError>> {
        let find = |side: usize| {
            let look = || self.retry(|| opened.dirs[side].find(name));
            if present[side] { look().map_err(Some) } else { Ok(None) }
        };
        let (a, b) = (find(0)?, find(1)?);
        let entries = || [&a, &b].into_iter().flatten();
        let path = || opened.path.join(name);
        if entries().any(|entry| self.filters.iter().any(|filter| filter.excludes(&path(), entry.is_directory()))) {
            return Ok(None);
        }
        let mounted = |entry: &Entry| entry.is_directory() && entry.mount_point && !self.comparison.cross_mounts;
        if entries().any(|entry| entry.kind == Kind::Special || mounted(entry)) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let (one, other) = match (&a, &b) {
            (Some(one), Some(other)) => (one, other),
            (Some(_), None) => return Ok(Some((vec![What::OnlyA], [a, b]))),
            (None, Some(_)) => return Ok(Some((vec![What::OnlyB], [a, b]))),
            // Gone since it was listed.
            (None, None) => return Ok(None),
        };
        let what = compare(one, other, &self.rules, |question| match question {
            Question::Content => self.same_content(opened, name),
            Question::Target => {
                let target = |side: usize| self.retry(|| opened.dirs[side].read_link(name)).map_err(Some);
                Ok(target(0)? == target(1)?)
            }
            Question::Attributes => {
                let read = |side: usize| attributes::read_at(&opened.dirs[side], name, self.privileged);
                let read = |side| self.retry(|| read(side)).map_err(Some);
                Ok(!self.attributes || read(0)? == read(1)?)
            }
        })?;
        Ok(Some((what, [a, b])))
    }

    fn same_content(&self, opened: &Opened, name: &[u8]) -> Result<bool, Option<FsError>> {
        let [one, other] = &opened.dirs;
        let found = self.retry(|| {
            let files = (one.open_file(name)?, other.open_file(name)?);
            match content::compare(&files.0, &files.1, &|| self.stop.is_stopped()) {
                Ok(content) => Ok(Some(content.equal)),
                Err(CopyError::Read(errno)) => Err(one.error("read", name, errno)),
                Err(CopyError::Write(errno)) => Err(other.error("read", name, errno)),
                Err(CopyError::Changed) => Err(one.error("read", name, Errno::AGAIN)),
                Err(CopyError::Stopped) => Ok(None),
            }
        });
        found.map_err(Some)?.ok_or(None)
    }
}

/// Is a name's entries at A and B, and in what they differ.
type Found = (Vec<What>, [Option<Entry>; 2]);

/// Merges two sorted listings.
fn merged(listings: &[Listing; 2]) -> Vec<[Option<u32>; 2]> {
    let [one, other] = listings;
    let (mut left, mut right) = (0, 0);
    let mut names = Vec::with_capacity(one.len().max(other.len()));
    while left < one.len() || right < other.len() {
        let order = if left == one.len() {
            std::cmp::Ordering::Greater
        } else if right == other.len() {
            std::cmp::Ordering::Less
        } else {
            one.name(left).cmp(other.name(right))
        };
        names.push([order.is_le().then_some(left as u32), order.is_ge().then_some(right as u32)]);
        left += usize::from(order.is_le());
        right += usize::from(order.is_ge());
    }
    names
}

/// Tells whether a name is the tool's own or the file system's.
fn is_ours(directory: &RelPath, name: &[u8]) -> bool {
    (directory.is_root() && filter::is_reserved_at_root(name))
        || filter::is_nfs_placeholder(name)
        || filter::parse_temporary(name).is_some()
}
