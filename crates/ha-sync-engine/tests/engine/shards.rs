//! Runs that share a tree: together they do what one run does, and no path is done by two.

use std::collections::BTreeMap;

use ha_sync_core::shard::Shard;
use ha_testkit::tree::{self, Snapshot};
use proptest::prelude::*;

use crate::model::{Operation, Tree, What};
use crate::pairs::{self, Place, Ran, config, job, snapshot};

/// Runs every shard once: one after the other, or all at once.
fn round(place: &Place, count: u32, delete: bool, at_once: bool, number: u32) -> Vec<Ran> {
    let shard = |index: u32| {
        let mut job = job(&place.join("a"), &place.join("b"), delete);
        job.shard = Some(Shard::new(index, count).unwrap());
        pairs::run(&job, number * 100 + index, place.directory.path())
    };
    if !at_once {
        return (0..count).map(shard).collect();
    }
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..count).map(|index| scope.spawn(move || shard(index))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

/// Returns what one run alone makes of the same trees, when it is repeated until it does nothing more.
fn alone(source: &Tree, destination: &Tree, delete: bool) -> (Snapshot, Vec<Operation>) {
    let place = Place::new(source, destination);
    let ran = place.run("a", "b", delete, 1);
    place.run("a", "b", delete, 2);
    (without_trash(&place), ran.set().into_iter().collect())
}

fn without_trash(place: &Place) -> Snapshot {
    snapshot(&place.join("b"))
}

fn is_directory(tree: &Tree, path: &[u8]) -> bool {
    tree.get(path).is_some_and(|node| node.what == What::Directory)
}

/// Returns how often each path was done, failures left out.
fn done(runs: &[Ran]) -> BTreeMap<Vec<u8>, usize> {
    let mut done = BTreeMap::new();
    for operation in runs.iter().flat_map(Ran::set).filter(|operation| !operation.failed) {
        *done.entry(operation.path).or_default() += 1;
    }
    done
}

proptest! {
    #![proptest_config(config(250))]

    #[test]
    fn without_deletions_one_round_is_one_run((source, destination) in pairs::pairs(), count in 1..6_u32) {
        let (expected, operations) = alone(&source, &destination, false);
        let place = Place::new(&source, &destination);
        let before = Snapshot::of(&place.join("a"));
        let runs = round(&place, count, false, false, 1);
        let mut together: Vec<Operation> = runs.iter().flat_map(Ran::set).collect();
        together.sort();
        // A directory in which another shard worked first has its time already: then there is no update of it.
        let is_told = |held: &Operation| held.kind != "update" || !is_directory(&source, &held.path);
        together.retain(is_told);
        prop_assert_eq!(together, operations.into_iter().filter(is_told).collect::<Vec<_>>());
        let diff = expected.diff(&without_trash(&place));
        prop_assert!(diff.is_empty(), "- one run's, + the shards':\n{}", diff);
        prop_assert!(before.diff(&Snapshot::of(&place.join("a"))).is_empty(), "the source was touched");
        let again = round(&place, count, false, false, 2);
        prop_assert!(done(&again).is_empty(), "{:?}", done(&again));
    }

    #[test]
    fn at_once_they_do_not_get_in_each_others_way((source, mut destination) in pairs::pairs(), count in 2..6_u32) {
        // Where several work at one moment, a directory that was newer at the destination may end with either time.
        for (path, node) in &mut destination {
            let same = source.get(path).filter(|other| other.what == What::Directory && node.what == What::Directory);
            node.mtime = same.map_or(node.mtime, |source| node.mtime.min(source.mtime));
        }
        let (expected, operations) = alone(&source, &destination, false);
        let place = Place::new(&source, &destination);
        let runs = round(&place, count, false, true, 1);
        for (path, times) in done(&runs) {
            prop_assert_eq!(times, 1, "{}", path.escape_ascii().to_string());
        }
        let failed = |set: &[Operation]| set.iter().filter(|operation| operation.failed).count();
        let together: Vec<Operation> = runs.iter().flat_map(Ran::set).collect();
        prop_assert_eq!(failed(&together), failed(&operations), "{:?}", together);
        // A directory that one has made and not yet dressed may have been passed by for this time.
        round(&place, count, false, true, 2);
        let diff = expected.diff(&without_trash(&place));
        prop_assert!(diff.is_empty(), "- one run's, + the shards':\n{}", diff);
    }

    /// A directory goes when the others have emptied it, and a new tree in place of a file is filled when it is there:
    /// that takes a round for each level.
    #[test]
    fn with_deletions_some_rounds_are_one_run((source, destination) in pairs::pairs(), count in 1..6_u32, at_once: bool) {
        let (expected, operations) = alone(&source, &destination, true);
        let place = Place::new(&source, &destination);
        let mut all = Vec::new();
        for number in 1..=5 {
            all.extend(round(&place, count, true, at_once, number));
        }
        let diff = expected.diff(&without_trash(&place));
        prop_assert!(diff.is_empty(), "- one run's, + the shards':\n{}", diff);
        let deleted: Vec<_> = operations.iter().filter(|held| held.kind == "delete" && !held.failed).collect();
        let done = done(&all);
        for held in deleted {
            prop_assert_eq!(done.get(&held.path), Some(&1), "{}", held.path.escape_ascii().to_string());
        }
        let last = round(&place, count, true, false, 6);
        prop_assert!(crate::shards::done(&last).is_empty(), "{:?}", crate::shards::done(&last));
    }
}

/// Each path below is one shard's, and that shard alone is told to do it; the others change nothing.
#[test]
fn a_shard_alone_does_its_own_part_only() {
    let (mut source, count) = (Tree::new(), 4);
    for folder in 0..20 {
        let node = |what| crate::model::Node { what, mode: 0o755, mtime: crate::model::START - 1_000_000_000_000_000 };
        source.insert(format!("folder-{folder}").into_bytes(), node(What::Directory));
        source.insert(format!("folder-{folder}/file").into_bytes(), node(What::File(b"content".to_vec())));
    }
    for index in 0..count {
        let place = Place::new(&source, &Tree::new());
        let shard = Shard::new(index, count).unwrap();
        let mut job = job(&place.join("a"), &place.join("b"), false);
        job.shard = Some(shard);
        pairs::run(&job, 1, place.directory.path());
        for folder in 0..20 {
            let directory = ha_sync_core::path::RelPath::root().join(format!("folder-{folder}").as_bytes());
            let there = place.join(&format!("b/folder-{folder}/file")).exists();
            assert_eq!(there, shard.owns(&directory), "{directory}");
        }
    }
}

#[test]
fn a_file_is_deleted_by_its_own_shard_only() {
    let place = Place::new(&Tree::new(), &Tree::new());
    tree::make(&place.join("a"), &[tree::file("kept", "")]);
    tree::make(&place.join("b"), &[tree::file("kept", ""), tree::file("gone/x/y/file", "")]);
    let owner = |path: &str| {
        let path = ha_sync_core::path::RelPath::from_bytes(path.as_bytes().to_vec()).unwrap();
        (0..3).find(|index| Shard::new(*index, 3).unwrap().owns(&path)).unwrap()
    };
    let mut job = job(&place.join("a"), &place.join("b"), true);
    job.shard = Some(Shard::new((owner("gone/x/y") + 1) % 3, 3).unwrap());
    pairs::run(&job, 1, place.directory.path());
    assert!(place.join("b/gone/x/y/file").exists(), "another shard's file stays");
    job.shard = Some(Shard::new(owner("gone/x/y"), 3).unwrap());
    let ran = pairs::run(&job, 2, place.directory.path());
    assert!(!place.join("b/gone/x/y/file").exists());
    assert!(ran.operations.iter().any(|operation| operation.filepath == "gone/x/y/file"));
}
