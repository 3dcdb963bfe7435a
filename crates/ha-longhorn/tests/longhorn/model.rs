//! Random operations of the engine's model on every file system: a merge shows what the model shows.

use std::path::Path;

use ha_longhorn::layered::{Image as _, Reading};
use ha_longhorn::merge::{self, Format, Order, Source};
use ha_longhorn::replica::Replica;
use ha_longhorn::watch::Unwatched;
use ha_testkit::loopmount::{FileSystem, Mounted, Skipped, loop_mount, tmpfs};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::engine::{BLOCK, Engine};
use crate::layered;

#[derive(Debug, Clone)]
enum Operation {
    Write { block: u64, blocks: u64, value: u8 },
    Unaligned { offset: u64, length: u64, value: u8 },
    Preallocate { block: u64, blocks: u64 },
    Discard { block: u64, blocks: u64 },
    Snapshot(u8),
    Revert(usize),
    Remove(usize),
    Purge(usize),
    Expand(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let value = prop_oneof![2 => Just(0), 3 => 1..=255_u8];
    prop_oneof![
        6 => (0..64_u64, 1..12_u64, value.clone())
            .prop_map(|(block, blocks, value)| Operation::Write { block, blocks, value }),
        3 => (0..64 * BLOCK, 1..3 * BLOCK, value)
            .prop_map(|(offset, length, value)| Operation::Unaligned { offset, length, value }),
        1 => (0..64_u64, 1..6_u64).prop_map(|(block, blocks)| Operation::Preallocate { block, blocks }),
        3 => (0..64_u64, 1..12_u64).prop_map(|(block, blocks)| Operation::Discard { block, blocks }),
        3 => any::<u8>().prop_map(Operation::Snapshot),
        1 => any::<usize>().prop_map(Operation::Revert),
        1 => any::<usize>().prop_map(Operation::Remove),
        1 => any::<usize>().prop_map(Operation::Purge),
        1 => (1..8_u64).prop_map(Operation::Expand),
    ]
}

fn apply(engine: &mut Engine, operation: &Operation, preallocates: bool) {
    match *operation {
        Operation::Write { block, blocks, value } => engine.write(block * BLOCK, blocks * BLOCK, value),
        Operation::Unaligned { offset, length, value } => engine.write(offset, length, value),
        Operation::Preallocate { block, blocks } if preallocates => {
            assert!(engine.preallocate(block, blocks), "the file system preallocates");
        }
        Operation::Preallocate { .. } => {}
        Operation::Discard { block, blocks } => engine.discard(block, blocks),
        Operation::Snapshot(number) => engine.snapshot(&format!("s{number}")),
        Operation::Revert(choice) => engine.revert(choice),
        Operation::Remove(choice) => engine.mark_removed(choice),
        Operation::Purge(choice) => engine.purge(choice),
        Operation::Expand(more) => engine.expand(more),
    }
}

fn check(directory: &Path, engine: &Engine, below: Option<&Path>) {
    let replica = Replica::open(directory, None).unwrap();
    let expected = engine.live();
    let mut image = layered(&replica, None, below, Reading::Exact);
    let mut found = vec![1; expected.len()];
    image.read_at(0, &mut found).unwrap();
    assert!(found == expected, "the live state differs: {}", first_difference(&found, &expected));
    // The same through the pipeline, into a file.
    let path = directory.with_extension("img");
    let source = Source {
        directory: String::new(),
        chain: Vec::new(),
        backing: None,
        best_effort: false,
        despite_damage: false,
        fingerprint: merge::fingerprint(&image, "test"),
    };
    for format in [Format::Raw, Format::Qcow2] {
        let order = Order {
            format,
            whole_hash: false,
            replace: true,
            checkpoint: 1 << 30,
            durable: false,
            source: source.clone(),
        };
        merge::to_file(&mut image, &path, &order, &Unwatched, &|_| None).unwrap();
        let mut made = ha_longhorn::backing::open(&path).unwrap();
        let mut found = vec![1; expected.len()];
        made.read_at(0, &mut found).unwrap();
        assert!(found == expected, "{format:?} differs: {}", first_difference(&found, &expected));
    }
    for snapshot in engine.snapshots() {
        let mut expected = engine.view(&snapshot);
        expected.resize(usize::try_from(replica.size).unwrap(), 0);
        let mut image = layered(&replica, Some(&snapshot), below, Reading::Exact);
        let mut found = vec![1; expected.len()];
        image.read_at(0, &mut found).unwrap();
        assert!(found == expected, "{snapshot} differs: {}", first_difference(&found, &expected));
    }
}

fn first_difference(found: &[u8], expected: &[u8]) -> String {
    let place = found.iter().zip(expected).position(|(a, b)| a != b);
    let (found, expected) = (place.and_then(|at| found.get(at)), place.and_then(|at| expected.get(at)));
    format!("at {place:?}: {found:?} instead of {expected:?}")
}

fn on(name: &str, mounted: Result<Mounted, Skipped>, preallocates: bool) {
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(skipped) => return skipped.report(),
    };
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let operations = proptest::collection::vec(operation(), 1..40);
    let backing = proptest::option::of((1..80_usize, any::<u8>()));
    let ran = runner.run(&(operations, backing), |(operations, backing)| {
        let place = tempfile::tempdir_in(mounted.path()).unwrap();
        let directory = place.path().join("pvc-model-00000001");
        let base = place.path().join("base.raw");
        let backing = backing.map(|(pages, value)| {
            // Shorter and longer than the volume, its end anywhere in a block.
            let content: Vec<u8> = (0..pages * 3000).map(|at| value ^ (at / 1000) as u8).collect();
            std::fs::write(&base, &content).unwrap();
            content
        });
        let below = backing.is_some().then_some(base.as_path());
        let mut engine = Engine::new(&directory, 64, backing);
        for operation in &operations {
            apply(&mut engine, operation, preallocates);
        }
        check(&directory, &engine, below);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{name}: {error}");
    }
}

#[test]
fn ext4() {
    on("ext4", loop_mount(FileSystem::Ext4, 128 << 20), true);
}

#[test]
fn xfs() {
    on("xfs", loop_mount(FileSystem::Xfs, 320 << 20), true);
}

#[test]
fn btrfs() {
    on("btrfs", loop_mount(FileSystem::Btrfs, 256 << 20), true);
}

// A tmpfs takes preallocated space for a hole, and the engine itself could not tell either.
#[test]
fn tmpfs_without_fiemap() {
    on("tmpfs", tmpfs(128 << 20), false);
}
