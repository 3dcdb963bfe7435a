//! Random pairs of trees: a run does what the model says, a second one nothing, and both directions converge.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ha_sync_core::decide::DeleteMissing;
use ha_sync_core::event::Silent;
use ha_sync_core::limits::{MaxDelete, MinFree};
use ha_sync_core::name::RunId;
use ha_sync_core::path::unescape;
use ha_sync_core::record::{self, Intent, LogError, OperationLog, OperationStatus, Status};
use ha_sync_engine::state::PairState;
use ha_sync_engine::{Environment, Finished, Fsync, Job, Mode, Stop};
use ha_sync_fs::content::Hashing;
use ha_testkit::tree::{self, Compare, Item, Snapshot};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use crate::model::{self, Node, Operation, SECOND, START, THRESHOLD, Tree, What};

#[derive(Default)]
struct Recorder {
    operations: Mutex<Vec<record::Operation>>,
    intended: Mutex<HashSet<u64>>,
}

impl OperationLog for Recorder {
    fn intend(&self, intents: &[Intent]) -> Result<(), LogError> {
        self.intended.lock().unwrap().extend(intents.iter().map(|intent| intent.seq));
        Ok(())
    }

    fn append(&self, operations: &[record::Operation]) -> Result<(), LogError> {
        self.operations.lock().unwrap().extend_from_slice(operations);
        Ok(())
    }
}

pub(crate) fn job(source: &Path, destination: &Path, delete: bool) -> Job {
    Job {
        pair: "model".parse().unwrap(),
        mode: Mode::OneWay,
        source: source.to_owned(),
        destination: destination.to_owned(),
        dry_run: false,
        threshold: THRESHOLD,
        checksum: false,
        shard: None,
        hard_links: false,
        cross_mounts: false,
        rules: Vec::new(),
        only: None,
        delete: if delete { DeleteMissing::On } else { DeleteMissing::Off },
        delete_excluded: false,
        max_delete: MaxDelete::Percent(100.0),
        approve: None,
        allow_empty_root: true,
        allow_missing_mounts: false,
        allow_clock_skew: false,
        require_mount: false,
        check_access: None,
        min_free: MinFree::Bytes(0),
        keep_replaced: true,
        fsync: Fsync::Off,
        hashing: Hashing::Auto,
        workers: 2,
        walkers: Some(2),
    }
}

pub(crate) struct Ran {
    pub(crate) finished: Finished,
    pub(crate) operations: Vec<record::Operation>,
    run: RunId,
}

impl Ran {
    pub(crate) fn set(&self) -> BTreeSet<Operation> {
        let all = self.operations.iter().map(|operation| Operation {
            path: unescape(&operation.filepath).unwrap(),
            kind: operation.operation.as_str(),
            failed: operation.status == OperationStatus::Fail,
            reason: operation.reason.as_deref().map(|reason| {
                ["tie", "same content", "future time", "type conflict"]
                    .into_iter()
                    .find(|known| *known == reason)
                    .unwrap_or("unknown")
            }),
        });
        all.collect()
    }
}

pub(crate) fn run(job: &Job, number: u32, spool: &Path) -> Ran {
    let log = Recorder::default();
    let start = Timestamp::from_nanosecond(START).unwrap();
    let run = RunId::new(start, number);
    let state = PairState::default();
    let stop = Stop::default();
    let environment = Environment {
        run: &run,
        start,
        now: Timestamp::now,
        log: &log,
        observer: &Silent,
        stop: &stop,
        state: &state,
        spool,
        baseline: None,
        began: &|| Ok(()),
        while_syncing: &|| {},
        live: HashSet::new(),
        resolved: HashSet::new(),
        dead: HashSet::new(),
        own: Vec::new(),
    };
    let finished = ha_sync_engine::run(job, &environment).unwrap();
    let operations = log.operations.into_inner().unwrap();
    let intended = log.intended.into_inner().unwrap();
    for operation in operations.iter().filter(|operation| operation.status == OperationStatus::Success) {
        assert!(intended.contains(&operation.seq), "announced before it was done: {operation:?}");
    }
    let numbers: HashSet<u64> = operations.iter().map(|operation| operation.seq).collect();
    assert_eq!(numbers.len(), operations.len(), "each operation has its own number");
    Ran { finished, operations, run }
}

fn items(tree: &Tree) -> Vec<Item> {
    let item = |(path, node): (&Vec<u8>, &Node)| {
        let item = match &node.what {
            What::Directory => tree::dir(path),
            What::File(content) => tree::file(path, content),
            What::Link(target) => tree::link(path, target),
            What::Fifo => tree::fifo(path),
        };
        item.mode(node.mode).mtime_ns(node.mtime)
    };
    tree.iter().map(item).collect()
}

pub(crate) fn snapshot(root: &Path) -> Snapshot {
    Snapshot::with(root, &Compare { special: true, ..Compare::sides() })
}

/// Compares trees as the two sides of a converged pair: what the rules let differ is left out.
fn contents(root: &Path) -> Snapshot {
    Snapshot::with(root, &Compare::contents())
}

pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new(source: &Tree, destination: &Tree) -> Self {
        let memory = Path::new("/dev/shm");
        let directory = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
        tree::make(&directory.path().join("a"), &items(source));
        tree::make(&directory.path().join("b"), &items(destination));
        Self { directory }
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn run(&self, from: &str, to: &str, delete: bool, number: u32) -> Ran {
        run(&job(&self.join(from), &self.join(to), delete), number, self.directory.path())
    }

    fn expected(&self, name: &str, tree: &Tree) -> Snapshot {
        tree::make(&self.join(name), &items(tree));
        snapshot(&self.join(name))
    }
}

/// Names of different kinds, few enough that both sides share them: a line break, a leading dash, bytes that are no
/// UTF-8, two forms of one letter.
const NAMES: [&[u8]; 8] = [b"a", b"b", b"-r", b"new\nline", b"\xff\xfe", b"e\xcc\x81", b"\xc3\xa9", b".hidden \\x41"];

fn mtimes() -> impl Strategy<Value = i128> {
    let base = START - 1_000_000 * SECOND;
    let offset = prop_oneof![
        4 => Just(0),
        1 => Just(1),
        1 => Just(SECOND),
        1 => Just(THRESHOLD),
        1 => Just(THRESHOLD + 1),
        3 => Just(10 * SECOND),
        2 => Just(-10 * SECOND + 1),
    ];
    // Now and then a time in the future, and before 1970.
    let base = prop_oneof![20 => Just(base), 1 => Just(START + 3600 * SECOND), 1 => Just(-5 * SECOND)];
    (base, offset).prop_map(|(base, offset)| base + offset)
}

fn nodes() -> impl Strategy<Value = Node> {
    // Sizes of files and of links' targets are apart: a tie between the two has no third key in the rules.
    let files = prop_oneof![Just(""), Just("one"), Just("two"), Just("twelve bytes"), Just("other twelve")];
    let what = prop_oneof![
        10 => files.prop_map(|content| What::File(content.as_bytes().to_vec())),
        1 => (0..3_u8).prop_map(|fill| What::File(vec![b'a' + fill; 200_000])),
        4 => prop_oneof![Just("t"), Just("u"), Just("vv"), Just("missing")].prop_map(|target| What::Link(target.as_bytes().to_vec())),
        6 => Just(What::Directory),
        1 => Just(What::Fifo),
    ];
    let modes = prop_oneof![5 => Just(0), 1 => Just(1), 1 => Just(2)];
    (what, modes, mtimes()).prop_map(|(what, mode, mtime)| {
        let mode = match what {
            What::Directory => [0o755, 0o700, 0o1777][mode],
            What::Link(_) => 0o777,
            What::File(_) | What::Fifo => [0o644, 0o600, 0o4755][mode],
        };
        Node { what, mode, mtime }
    })
}

/// Paths that are chosen by numbers, so that trees shrink well; what has no directory above it gets one.
fn trees() -> impl Strategy<Value = Tree> {
    let entry = (proptest::collection::vec(0..NAMES.len(), 1..4), nodes());
    proptest::collection::vec(entry, 0..14).prop_map(|entries| {
        let mut tree = Tree::new();
        for (names, node) in entries {
            let mut path: Vec<u8> = Vec::new();
            let mut blocked = false;
            for (level, name) in names.iter().enumerate() {
                if level > 0 {
                    path.push(b'/');
                }
                path.extend_from_slice(NAMES[*name]);
                if level + 1 < names.len() {
                    let mtime = START - 1_000_000 * SECOND;
                    let above = tree.entry(path.clone()).or_insert(Node { what: What::Directory, mode: 0o755, mtime });
                    blocked = above.what != What::Directory;
                    if blocked {
                        break;
                    }
                }
            }
            if !blocked {
                tree.entry(path).or_insert(node);
            }
        }
        tree
    })
}

/// Both sides, mostly of the same names: the second is a changed copy of the first.
pub(crate) fn pairs() -> impl Strategy<Value = (Tree, Tree)> {
    let change = (any::<prop::sample::Index>(), nodes());
    (trees(), trees(), proptest::collection::vec(change, 0..8)).prop_map(|(source, mut destination, changes)| {
        for (path, node) in &source {
            let parent = path.iter().rposition(|byte| *byte == b'/').map(|slash| &path[..slash]);
            let fits =
                parent.is_none_or(|parent| destination.get(parent).is_some_and(|node| node.what == What::Directory));
            if fits {
                destination.entry(path.clone()).or_insert_with(|| node.clone());
            }
        }
        for (index, node) in changes {
            if destination.is_empty() {
                break;
            }
            let path = index.get(&destination.keys().cloned().collect::<Vec<_>>()).clone();
            if node.what != What::Directory {
                let mut below = path.clone();
                below.push(b'/');
                destination.retain(|other, _| !other.starts_with(&below));
            }
            destination.insert(path, node);
        }
        (source, destination)
    })
}

pub(crate) fn config(cases: u32) -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine/pairs.proptest-regressions");
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 4000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(700))]

    #[test]
    fn a_run_does_what_the_model_says((source, destination) in pairs(), delete in any::<bool>()) {
        let place = Place::new(&source, &destination);
        let before = Snapshot::of(&place.join("a"));
        let expected = model::expect(&source, &destination, delete);
        let ran = place.run("a", "b", delete, 1);
        prop_assert_eq!(ran.set(), expected.operations.clone());
        prop_assert_eq!(ran.operations.len(), expected.operations.len());
        let failed = expected.operations.iter().any(|operation| operation.failed);
        let status = if failed { Status::PartialFailure } else { Status::Success };
        prop_assert_eq!(ran.finished.status, status);
        let now = snapshot(&place.join("b"));
        let diff = place.expected("expected", &expected.tree).diff(&now);
        prop_assert!(diff.is_empty(), "- the model's, + the run's:\n{}", diff);
        let touched = before.diff(&Snapshot::of(&place.join("a")));
        prop_assert!(touched.is_empty(), "the source was touched:\n{}", touched);
        // What was replaced or deleted is in the trash as it was.
        let trash = place.join("b/.ha-sync/trash").join(ran.run.as_str());
        let kept = if trash.exists() { snapshot(&trash) } else { Snapshot::default() };
        let lost = place.expected("lost", &expected.trash);
        for (path, node) in &expected.trash {
            prop_assert_eq!(kept.get(path), lost.get(path), "{:?} ({:?}) is lost", path.escape_ascii().to_string(), node);
        }
        // Counts equal the rows.
        let counts = &ran.finished.counts;
        let count = |kind: &str| ran.set().iter().filter(|held| held.kind == kind && !held.failed).count() as u64;
        let counted = (counts.files_created, counts.files_updated, counts.files_deleted);
        prop_assert_eq!(counted, (count("create"), count("update"), count("delete")));
        // The second run does nothing, except to fail again.
        let again = place.run("a", "b", delete, 2);
        prop_assert!(again.set().iter().all(|operation| operation.failed), "{:?}", again.set());
        let diff = now.diff(&snapshot(&place.join("b")));
        prop_assert!(diff.is_empty(), "the second run changed:\n{}", diff);
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn both_directions_converge((left, right) in pairs()) {
        // Conflicts of types stay as they are, and special files hide what the other side has.
        let conflicts = |tree: &Tree, other: &Tree| {
            tree.iter().any(|(path, node)| {
                let is_directory = |node: &Node| node.what == What::Directory;
                node.what == What::Fifo || other.get(path).is_some_and(|there| is_directory(node) != is_directory(there))
            })
        };
        if conflicts(&left, &right) || conflicts(&right, &left) {
            return Ok(());
        }
        let place = Place::new(&left, &right);
        place.run("a", "b", false, 1);
        place.run("b", "a", false, 2);
        place.run("a", "b", false, 3);
        let diff = contents(&place.join("a")).diff(&contents(&place.join("b")));
        // Files of equal size and time are taken for equal: they alone may differ.
        let hidden = left.iter().any(|(path, node)| {
            right.get(path).is_some_and(|there| match (&node.what, &there.what) {
                (What::File(one), What::File(other)) => one.len() == other.len() && node.mtime == there.mtime && one != other,
                _ => false,
            })
        });
        prop_assert!(diff.is_empty() || hidden, "{}", diff);
        for (from, to, number) in [("b", "a", 4), ("a", "b", 5)] {
            let ran = place.run(from, to, false, number);
            prop_assert!(ran.operations.is_empty(), "{} to {}: {:?}", from, to, ran.set());
        }
    }

    /// With deletions the destination becomes the source, but for what is newer there, and special files.
    #[test]
    fn deletions_make_a_mirror((source, destination) in pairs()) {
        let place = Place::new(&source, &destination);
        place.run("a", "b", true, 1);
        let (a, b) = (contents(&place.join("a")), contents(&place.join("b")));
        let special = |tree: &Tree| tree.values().any(|node| node.what == What::Fifo);
        if special(&source) || special(&destination) {
            return Ok(());
        }
        let names = |snapshot: &Snapshot| snapshot.entries.keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(names(&a), names(&b));
        for (path, entry) in &b.entries {
            let newer = |there: &Node| there.mtime >= source[path].mtime || there.mtime > START;
            prop_assert!(
                a.get(path) == Some(entry) || destination.get(path).is_some_and(newer) || source[path].mtime > START,
                "{}", path.escape_ascii()
            );
        }
    }
}
