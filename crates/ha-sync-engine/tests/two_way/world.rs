//! A pair of folders, the runs that keep them in step, and what is left behind.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ha_sync_core::baseline::Side;
use ha_sync_core::decide::DeleteMissing;
use ha_sync_core::entry::Time;
use ha_sync_core::event::Silent;
use ha_sync_core::limits::{MaxDelete, MinFree};
use ha_sync_core::name::RunId;
use ha_sync_core::reconcile::ConflictPolicy;
use ha_sync_core::record::{Intent, LogError, Operation, OperationKind, OperationLog, OperationStatus, Way};
use ha_sync_engine::baseline::Ends;
use ha_sync_engine::state::PairState;
use ha_sync_engine::{Environment, Finished, Fsync, Job, Mode, RunError, Stop, recover};
use ha_sync_fs::content::Hashing;
use jiff::Timestamp;
use tempfile::TempDir;

/// When the first run begins; edits are before it, one second apart.
pub(crate) const START: i64 = 1_750_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File(Vec<u8>),
    Link(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) what: What,
    /// Links have none.
    pub(crate) mode: u32,
    /// Nanoseconds since 1970.
    pub(crate) mtime: i128,
}

pub(crate) type Tree = BTreeMap<String, Node>;

/// What may happen to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Trouble {
    /// The log takes no more after so many calls, as if the process had been killed there.
    pub(crate) killed_after: Option<u32>,
    /// No copy fits.
    pub(crate) full: bool,
}

/// What a run did.
pub(crate) struct Ran {
    pub(crate) result: Result<Finished, RunError>,
    pub(crate) operations: Vec<Operation>,
}

impl Ran {
    pub(crate) fn told(&self) -> Vec<String> {
        self.operations
            .iter()
            .map(|done| {
                let way = done.direction.map_or("-", Way::as_str);
                let failed = done.error_message.as_deref().map(|why| format!(" FAILED {why}")).unwrap_or_default();
                let reason = done.reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
                format!("{way} {} {}{reason}{failed}", done.operation.as_str(), done.filepath)
            })
            .collect()
    }
}

type Hook<'h> = dyn FnMut(u32) + Send + 'h;

struct Recorder<'h> {
    state: Mutex<Recorded>,
    hook: Mutex<Option<Box<Hook<'h>>>>,
    killed_after: Option<u32>,
}

#[derive(Default)]
struct Recorded {
    calls: u32,
    intents: Vec<Intent>,
    operations: Vec<Operation>,
}

impl Recorder<'_> {
    fn call(&self) -> Result<u32, LogError> {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        let killed = self.killed_after.is_some_and(|limit| state.calls > limit);
        if killed { Err(LogError("the process was killed".into())) } else { Ok(state.calls) }
    }
}

impl OperationLog for Recorder<'_> {
    fn intend(&self, intents: &[Intent]) -> Result<(), LogError> {
        // What was to be announced is: the kill comes after the line and before the work, or in the middle of it.
        self.state.lock().unwrap().intents.extend_from_slice(intents);
        let calls = self.call()?;
        if let Some(hook) = &mut *self.hook.lock().unwrap() {
            hook(calls);
        }
        Ok(())
    }

    fn append(&self, operations: &[Operation]) -> Result<(), LogError> {
        self.call()?;
        self.state.lock().unwrap().operations.extend_from_slice(operations);
        Ok(())
    }
}

pub(crate) struct World {
    place: TempDir,
    pub(crate) job: Job,
    state: PairState,
    runs: u32,
    /// Seconds that have gone by.
    pub(crate) clock: i64,
}

impl World {
    pub(crate) fn new(conflict: ConflictPolicy) -> Self {
        let memory = Path::new("/dev/shm");
        let place = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let place = place.unwrap();
        for name in ["a", "b", "log"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let job = Job {
            pair: "model".parse().unwrap(),
            mode: Mode::TwoWay(conflict),
            source: place.path().join("a"),
            destination: place.path().join("b"),
            dry_run: false,
            threshold: 2 * Time::SECOND,
            checksum: false,
            shard: None,
            hard_links: false,
            cross_mounts: false,
            rules: Vec::new(),
            only: None,
            delete: DeleteMissing::Off,
            delete_excluded: false,
            max_delete: MaxDelete::Percent(100.0),
            approve: None,
            allow_empty_root: true,
            allow_missing_mounts: false,
            allow_clock_skew: true,
            require_mount: false,
            check_access: None,
            min_free: MinFree::Bytes(0),
            keep_replaced: true,
            fsync: Fsync::Off,
            hashing: Hashing::Auto,
            workers: 1,
            walkers: Some(1),
        };
        Self { place, job, state: PairState::default(), runs: 0, clock: 0 }
    }

    pub(crate) fn root(&self, side: Side) -> PathBuf {
        self.place.path().join(side.as_str())
    }

    pub(crate) fn path(&self, side: Side, path: &str) -> PathBuf {
        self.root(side).join(path)
    }

    pub(crate) fn baseline(&self) -> PathBuf {
        self.place.path().join("log/baseline")
    }

    /// When the next run begins.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_second(START + self.clock).unwrap()
    }

    pub(crate) fn run(&mut self) -> Ran {
        self.run_with(Trouble::default(), None)
    }

    /// Runs once, and goes through what it left when it was killed, as the program does.
    pub(crate) fn run_with(&mut self, trouble: Trouble, hook: Option<Box<Hook<'_>>>) -> Ran {
        let mut job = self.job.clone();
        if trouble.full {
            job.min_free = MinFree::Bytes(u64::MAX / 2);
        }
        self.runs += 1;
        let start = self.now();
        let run = RunId::new(start, self.runs);
        let log = Recorder { state: Mutex::default(), hook: Mutex::new(hook), killed_after: trouble.killed_after };
        let stop = Stop::default();
        let spool = self.place.path().join("log");
        let baseline = self.baseline();
        let environment = Environment {
            run: &run,
            start,
            now: Timestamp::now,
            log: &log,
            observer: &Silent,
            stop: &stop,
            state: &self.state,
            spool: &spool,
            baseline: Some(&baseline),
            began: &|| Ok(()),
            while_syncing: &|| {},
            live: HashSet::new(),
            resolved: HashSet::new(),
            dead: HashSet::new(),
            own: Vec::new(),
        };
        let result = ha_sync_engine::run(&job, &environment);
        let Recorded { intents, operations, .. } = log.state.into_inner().unwrap();
        if stop.is_stopped() {
            self.recover(&run, &intents, &operations);
        } else if let Ok(finished) = &result {
            self.state.finished(
                Time(start.as_nanosecond()),
                (&job.source, finished.has_entries.0),
                (&job.destination, finished.has_entries.1),
                &finished.mounts,
                false,
            );
        }
        Ran { result, operations }
    }

    /// Says that a run was interrupted which worked in these directories.
    pub(crate) fn interrupted(&mut self, directories: &[&str]) {
        let directories = directories.iter().map(|path| (*path).to_owned());
        self.state.interrupted(&self.job.source, &self.job.destination, directories);
    }

    fn recover(&mut self, run: &RunId, intents: &[Intent], operations: &[Operation]) {
        let ended: HashSet<u64> = operations.iter().map(|operation| operation.seq).collect();
        let open: Vec<&Intent> = intents.iter().filter(|intent| !ended.contains(&intent.seq)).collect();
        let (backward, forward): (Vec<&Intent>, Vec<&Intent>) =
            open.into_iter().partition(|intent| intent.direction == Some(Way::BToA));
        let mut done = Vec::new();
        for (side, intents) in [(Side::A, backward), (Side::B, forward)] {
            // An empty root says nothing; the program waits then.
            if let Ok(found) = recover::resolve(&self.root(side), run, &intents, true, self.now(), None) {
                done.extend(found);
            }
        }
        let deleted: Vec<String> = operations
            .iter()
            .chain(&done)
            .filter(|done| (done.operation, done.status) == (OperationKind::Delete, OperationStatus::Success))
            .map(|done| done.filepath.clone())
            .collect();
        let ends = Ends::new(&self.job.pair, &self.job.source, &self.job.destination);
        recover::forget(&self.baseline(), &ends, &deleted, &self.place.path().join("log"), run, self.now()).unwrap();
    }

    pub(crate) fn tree(&self, side: Side) -> Tree {
        read(&self.root(side), "", &|name| name == ".ha-sync")
    }

    /// Returns the contents of every file and link that is anywhere, the trash included.
    pub(crate) fn contents(&self) -> BTreeSet<Vec<u8>> {
        let mut all = BTreeSet::new();
        for side in Side::BOTH {
            for (_, node) in read(&self.root(side), "", &|_| false) {
                match node.what {
                    What::File(content) => drop(all.insert(content)),
                    What::Link(target) => drop(all.insert(target.into_bytes())),
                    What::Directory => {}
                }
            }
        }
        all
    }

    /// Tells whether a file has several names.
    pub(crate) fn has_links(&self) -> bool {
        let linked = |side: Side, path: &String| {
            fs::symlink_metadata(self.path(side, path)).is_ok_and(|meta| meta.is_file() && meta.nlink() > 1)
        };
        Side::BOTH.into_iter().any(|side| self.tree(side).keys().any(|path| linked(side, path)))
    }

    /// Returns the paths of temporary entries, of which none may be left.
    pub(crate) fn temporary(&self) -> Vec<String> {
        let all = Side::BOTH.map(|side| self.tree(side).into_keys());
        all.into_iter().flatten().filter(|path| path.contains(".ha-sync.")).collect()
    }

    pub(crate) fn inodes(&self, side: Side) -> HashMap<String, u64> {
        let inode = |path: &String| fs::symlink_metadata(self.path(side, path)).unwrap().ino();
        self.tree(side).into_keys().map(|path| (path.clone(), inode(&path))).collect()
    }
}

fn read(root: &Path, below: &str, skip: &dyn Fn(&str) -> bool) -> Tree {
    let mut tree = Tree::new();
    let mut waiting = vec![below.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if directory.is_empty() && skip(&name) {
                continue;
            }
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            let what = if meta.is_dir() {
                waiting.push(path.clone());
                What::Directory
            } else if meta.is_symlink() {
                What::Link(fs::read_link(&full).unwrap().into_os_string().into_string().unwrap())
            } else {
                What::File(fs::read(&full).unwrap())
            };
            let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
            let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
            tree.insert(path, Node { what, mode, mtime });
        }
    }
    tree
}
