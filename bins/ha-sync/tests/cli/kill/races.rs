//! What others see and do while a run is at work.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_testkit::command::{Inject, Running};

use super::world::*;

/// Ends the other thread of a test, when this one panics too.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until a run has a temporary entry in a directory; returns its path.
fn await_temporary(directory: &Path, running: &mut Running) -> PathBuf {
    loop {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if is_temporary(&entry.file_name().to_string_lossy()) {
                return entry.path();
            }
        }
        assert!(!running.ended_within(Duration::from_millis(1)), "it ended without a temporary entry");
    }
}

/// A world with one large and few small files, for races that are staged.
fn quiet(seed: u64, delete: bool) -> World {
    World::new(seed, delete, 1, 4)
}

/// Gives a file of the source a new version, with a newer time.
fn rewrite(world: &mut World, path: &str, size: usize) -> Arc<Vec<u8>> {
    world.clock += 10;
    let mut tree = world.source.clone();
    let node = world.file(path, size);
    let What::File(content) = node.what.clone() else { panic!("a file") };
    tree.insert(path.to_owned(), node);
    materialize(&world.place.join("source"), &world.source, &tree);
    world.source = tree;
    content
}

const PATIENCE: Duration = Duration::from_millis(500);

fn no_temporary(world: &World) {
    assert_eq!(leftovers(&world.place.join("destination")), Vec::<PathBuf>::new());
}

#[test]
fn a_reader_sees_whole_old_or_new_content_and_never_nothing() {
    let mut world = quiet(10, false);
    let path = world.place.join("destination/large/0");
    let versions = Mutex::new(vec![fs::read(&path).unwrap()]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u32;
            let mut changes = 0_u32;
            let mut last = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let seen = fs::read(&path).expect("the file is there at every moment");
                if seen != last {
                    let known = versions.lock().unwrap().contains(&seen);
                    assert!(known, "a mixture: {} bytes", seen.len());
                    changes += 1;
                    last = seen;
                }
                reads += 1;
            }
            (reads, changes)
        });
        let stop = Stopper(&done);
        for round in 0..20 {
            let content = rewrite(&mut world, "large/0", LARGE - round * 1000);
            versions.lock().unwrap().push(content.to_vec());
            // The reader may still have read the one before.
            world.command().run().assert_success();
            let mut held = versions.lock().unwrap();
            let surplus = held.len().saturating_sub(3);
            held.drain(..surplus);
        }
        drop(stop);
        let (reads, changes) = reader.join().unwrap();
        assert!(changes > 10, "{reads} reads, {changes} versions seen");
    });
}

#[test]
fn a_file_rewritten_once_while_it_is_copied_arrives_whole() {
    let mut world = quiet(11, false);
    rewrite(&mut world, "large/0", LARGE);
    let inject = Inject::on("copy_file_range").delay(PATIENCE).when("1");
    let mut running = world.command().strace(inject).start();
    await_temporary(&world.place.join("destination/large"), &mut running);
    let last = rewrite(&mut world, "large/0", LARGE);
    running.wait().assert_success();
    assert!(fs::read(world.place.join("destination/large/0")).unwrap() == *last);
    no_temporary(&world);
}

#[test]
fn a_file_rewritten_all_the_time_is_never_published_torn() {
    let mut world = quiet(12, false);
    let old = fs::read(world.place.join("destination/large/0")).unwrap();
    rewrite(&mut world, "large/0", LARGE);
    let inject = Inject::on("copy_file_range").delay(PATIENCE).when("1+");
    let mut running = world.command().strace(inject).start();
    await_temporary(&world.place.join("destination/large"), &mut running);
    while !running.ended_within(Duration::from_millis(20)) {
        rewrite(&mut world, "large/0", LARGE);
    }
    let outcome = running.wait();
    outcome.assert_code(3);
    assert!(
        outcome.stderr.contains("large/0") && outcome.stderr.contains("changed while copying"),
        "{}",
        outcome.stderr
    );
    assert!(fs::read(world.place.join("destination/large/0")).unwrap() == old, "the old version stays");
    no_temporary(&world);
    world.command().run().assert_success();
    assert!(read(&world.place.join("destination")).0 == world.source);
}

#[test]
fn a_busy_writer_who_truncates_never_tears_a_file() {
    busy(13, true);
}

#[test]
fn a_busy_writer_in_place_never_tears_a_file() {
    busy(19, false);
}

/// Without delays: whatever arrives is one of the versions.
fn busy(seed: u64, truncate: bool) {
    let mut world = quiet(seed, false);
    rewrite(&mut world, "large/0", BUSY);
    world.command().run().assert_success();
    let (source, destination) = (world.place.join("source/large/0"), world.place.join("destination/large/0"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut version = 1_000;
            while !done.load(Ordering::Relaxed) {
                version += 1;
                let content = content("large/0", version, BUSY);
                let mut options = fs::OpenOptions::new();
                let mut file = options.write(true).truncate(truncate).open(&source).unwrap();
                std::io::Write::write_all(&mut file, &content).unwrap();
                drop(file);
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        let _stop = Stopper(&done);
        for _ in 0..12 {
            let outcome = world.command().run();
            assert!([Some(0), Some(3)].contains(&outcome.code()), "{outcome:?}");
            let seen = fs::read(&destination).unwrap();
            // Caught between the writer's truncation and its first byte.
            if truncate && seen.is_empty() {
                continue;
            }
            assert!(truncate || seen.len() == BUSY);
            let line = seen.split(|byte| *byte == b'\n').next().unwrap();
            let version = String::from_utf8_lossy(line).rsplit(' ').next().unwrap().parse().unwrap();
            let whole = content("large/0", version, BUSY);
            // What the writer had written by then is a version too, when it stayed so during the copy.
            let same = seen.iter().zip(whole.iter()).take_while(|(one, other)| one == other).count();
            assert!(same == seen.len(), "version {version} up to {same} of {} bytes, then another", seen.len());
        }
    });
    no_temporary(&world);
}

/// Runs with a delay at a call, edits the destination while it waits there, and checks that the edit stays.
fn edited(world: &World, path: &str, watched: &str, inject: Inject) {
    let edit = b"edited at the destination";
    let full = world.place.join("destination").join(path);
    let run = world.command().args(["--workers", "1", "--walkers", "1"]).strace(inject);
    let mut running = run.start();
    await_temporary(&world.place.join("destination").join(watched), &mut running);
    std::thread::sleep(PATIENCE / 5);
    fs::write(&full, edit).unwrap();
    let outcome = running.wait();
    outcome.assert_code(3);
    assert_eq!(fs::read(&full).unwrap(), edit, "the edit is in place");
    assert!(outcome.stderr.contains(path) && outcome.stderr.contains("changed since scan"), "{}", outcome.stderr);
    no_temporary(world);
}

#[test]
fn an_edit_while_the_new_version_is_copied_stays() {
    let mut world = quiet(14, false);
    rewrite(&mut world, "large/0", LARGE);
    edited(&world, "large/0", "large", Inject::on("copy_file_range").delay(PATIENCE).when("1"));
}

#[test]
fn an_edit_in_the_moment_of_the_exchange_stays() {
    let mut world = quiet(15, false);
    rewrite(&mut world, "small-0", 700);
    edited(&world, "small-0", "", Inject::on("renameat2").delay(PATIENCE).when("1"));
}

#[test]
fn a_file_that_appears_in_the_moment_of_its_creation_stays() {
    let mut world = quiet(16, false);
    // Large enough to be staged under a temporary name.
    rewrite(&mut world, "appears", 200_000);
    edited(&world, "appears", "", Inject::on("renameat2").delay(PATIENCE).when("1"));
}

#[test]
fn an_edit_of_a_file_that_is_to_be_deleted_stays() {
    let mut world = quiet(17, true);
    rewrite(&mut world, "large/0", LARGE);
    fs::remove_file(world.place.join("source/small-0")).unwrap();
    world.source.remove("small-0");
    // The large file is copied before anything is deleted.
    edited(&world, "small-0", "large", Inject::on("copy_file_range").delay(PATIENCE).when("1"));
}

#[test]
fn a_file_replaced_in_the_moment_of_its_deletion_stays() {
    let world = quiet(18, true);
    fs::remove_file(world.place.join("source/small-0")).unwrap();
    let full = world.place.join("destination/small-0");
    let run = world.command().args(["--workers", "1", "--walkers", "1"]);
    let mut running = run.strace(Inject::on("renameat").delay(PATIENCE).when("1")).start();
    // Its place in the trash is made just before.
    let trash = world.place.join("destination/.ha-sync/trash");
    while !trash.exists() {
        assert!(!running.ended_within(Duration::from_millis(1)), "it ended without trash");
    }
    std::thread::sleep(PATIENCE / 5);
    fs::write(full.with_file_name("other"), "another file").unwrap();
    fs::rename(full.with_file_name("other"), &full).unwrap();
    let outcome = running.wait();
    outcome.assert_code(3);
    assert_eq!(fs::read(&full).unwrap(), b"another file");
    assert!(outcome.stderr.contains("changed since scan"), "{}", outcome.stderr);
}
