//! `ha-sync two-way`: what it prints, what it records, how it exits, and how a run is undone.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::fs;
use std::path::Path;

use ha_testkit::command::{Outcome, Run};
use ha_testkit::loopmount::{FileSystem, loop_mount};
use ha_testkit::need;
use ha_testkit::tree::{Compare, Snapshot, file};

use crate::place::{Place, assert_says, sh};

pub(crate) const OLD: i64 = 1_700_000_000;
pub(crate) const NEW: i64 = 1_750_000_000;

impl Place {
    /// A two-way run, the source as A.
    pub(crate) fn two_way(&self, words: &[&str]) -> Run {
        self.binary()
            .args(["two-way", "--a"])
            .arg(&self.source)
            .arg("--b")
            .arg(&self.destination)
            .args(["--pair", &self.environment.pair(), "--log-dir"])
            .arg(self.environment.log_dir())
            .args(words)
    }
}

pub(crate) fn agreed() -> Place {
    let place = Place::new(
        &[file("a/one", "one").mtime(OLD), file("a/two", "two").mtime(OLD), file("same", "same").mtime(OLD)],
        &[file("b/three", "three").mtime(OLD), file("same", "same").mtime(OLD)],
    );
    place.two_way(&[]).run().assert_success();
    place
}

fn plan(outcome: &Outcome) -> Vec<&str> {
    let mut lines: Vec<&str> = outcome.stdout.lines().filter(|line| line.contains("-to-")).collect();
    lines.sort_unstable();
    lines
}

/// Times of directories that differ by less than the threshold do not differ.
#[track_caller]
pub(crate) fn assert_same_files(place: &Place) {
    let of = |root: &Path| Snapshot::with(root, &Compare::contents());
    of(&place.source).assert_same(&of(&place.destination));
}

pub(crate) fn content(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

#[test]
fn the_plan_says_which_way_each_operation_goes_and_a_dry_run_changes_nothing() {
    let place = agreed();
    let (a, b) = (&place.source, &place.destination);
    fs::write(b.join("a/one"), "changed on b").unwrap();
    fs::remove_file(a.join("b/three")).unwrap();
    fs::rename(a.join("a/two"), a.join("moved")).unwrap();
    let before = place.both();
    let outcome = place.two_way(&["--dry-run"]).run();
    outcome.assert_success();
    insta::assert_snapshot!(plan(&outcome).join("\n"), @r"
    a-to-b  create  moved  (renamed from a/two)
    a-to-b  delete  a/two  (renamed to moved)
    a-to-b  delete  b/three
    a-to-b  update  a
    a-to-b  update  b
    b-to-a  update  a/one
    ");
    place.assert_untouched(&before);
    let again = place.two_way(&["--dry-run"]).run();
    again.assert_success();
    assert!(again.stdout.contains("Dry-run already current as of "), "{}", again.stdout);
    let json = place.two_way(&["--dry-run", "-o", "json"]).run();
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["iteration"]["direction"], "two-way");
    let directions: Vec<_> = json["plan"].as_array().unwrap().iter().map(|operation| &operation["direction"]).collect();
    assert_eq!(directions.iter().filter(|direction| **direction == "b-to-a").count(), 1);
    place.two_way(&[]).run().assert_success();
    assert_same_files(&place);
    assert_eq!(place.last().text("direction"), "two-way");
    assert_eq!(place.operation("a/one").text("direction"), "b-to-a");
    let renamed = place.operation("moved");
    assert_eq!((renamed.text("direction"), renamed.text("reason")), ("a-to-b", "renamed from a/two"));
    assert_eq!(place.last().number("total_bytes_transferred"), 12, "a rename copies nothing");
}

#[test]
fn a_first_run_deletes_nothing_whatever_the_flags() {
    for words in [&["--max-delete", "100%"][..], &["--conflict", "prefer-a", "--allow-empty-root"], &["--checksum"]] {
        let place = Place::new(&[file("only a", "a"), file("both", "a")], &[file("only b", "b"), file("d/both", "b")]);
        place.two_way(words).run().assert_success();
        assert_eq!(place.last().number("files_deleted"), 0);
        assert_same_files(&place);
        assert!(place.source.join("only b").exists() && place.destination.join("only a").exists());
    }
}

#[test]
fn a_run_is_undone_at_both_roots() {
    let place = agreed();
    let (a, b) = (place.source.clone(), place.destination.clone());
    fs::write(a.join("same"), "changed on a").unwrap();
    fs::remove_dir_all(a.join("b")).unwrap();
    fs::write(b.join("a/one"), "changed on b").unwrap();
    fs::remove_file(b.join("a/two")).unwrap();
    place.two_way(&["--max-delete", "100%"]).run().assert_success();
    let run = place.last().text("run_id").to_owned();
    assert_eq!(content(&b, "same").as_deref(), Some("changed on a"));
    for root in [&a, &b] {
        let restore = place.binary().args(["restore", "--root"]).arg(root).args(["--run", &run, "--force"]);
        restore.run().assert_success();
    }
    // What the run replaced and deleted is back where it was: at each root what the other one had changed.
    assert_eq!((content(&a, "a/one").as_deref(), content(&a, "a/two").as_deref()), (Some("one"), Some("two")));
    assert_eq!((content(&b, "same").as_deref(), content(&b, "b/three").as_deref()), (Some("same"), Some("three")));
    // The next run brings it over: both are as they were.
    place.two_way(&["--conflict", "keep-both"]).run().assert_success();
    assert_same_files(&place);
    for path in ["a/two", "b/three"] {
        assert_eq!(content(&a, path), content(&b, path));
        assert!(content(&a, path).is_some());
    }
}

#[test]
fn an_open_conflict_exits_with_3_until_it_is_decided() {
    let place = agreed();
    fs::write(place.source.join("same"), "from a").unwrap();
    fs::write(place.destination.join("same"), "from b, longer").unwrap();
    let outcome = place.two_way(&["--conflict", "skip"]).run();
    outcome.assert_code(3);
    assert!(outcome.stdout.contains("1 changed on both sides and left as they are, first: same"), "{}", outcome.stdout);
    let pair = place.environment.pair();
    let log_directory = place.environment.log_dir();
    let conflicts = |words: &[&str]| {
        let run = place.binary().arg("conflicts").args(words).args(["--pair", &pair, "--log-dir"]);
        run.arg(&log_directory).run()
    };
    let listed = conflicts(&[]);
    assert!(listed.stdout.contains("same"), "{}", listed.stdout);
    place.two_way(&["--conflict", "skip"]).run().assert_code(3);
    place.two_way(&["--conflict", "prefer-a"]).run().assert_success();
    assert_eq!(content(&place.destination, "same").as_deref(), Some("from a"));
    assert!(!conflicts(&[]).stdout.contains("same"));
}

#[test]
fn a_baseline_of_other_roots_or_damaged_is_told_and_deletes_nothing() {
    let place = agreed();
    let state = place.environment.log_dir().join("state").join(place.environment.pair());
    fs::remove_file(place.source.join("a/one")).unwrap();
    let baseline = state.join("baseline");
    let mut bytes = fs::read(&baseline).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&baseline, bytes).unwrap();
    let outcome = place.two_way(&[]).run();
    outcome.assert_success();
    assert_says(&outcome, "it counts as absent, nothing is deleted");
    assert_eq!(content(&place.source, "a/one").as_deref(), Some("one"), "it comes back");
    // Moved elsewhere, the roots are others.
    let moved = place.path("moved");
    fs::rename(&place.source, &moved).unwrap();
    fs::remove_file(moved.join("a/one")).unwrap();
    let place = Place { source: moved, ..place };
    let outcome = place.two_way(&[]).run();
    outcome.assert_success();
    assert_says(&outcome, "the baseline belongs to other roots");
    assert_same_files(&place);
    assert!(place.source.join("a/one").exists());
}

#[test]
fn a_side_that_is_read_only_stops_the_run_and_is_not_taken_for_unchanged() {
    let disk = need!(loop_mount(FileSystem::Ext4, 16 << 20));
    let place = Place::new(&[file("x", "x").mtime(OLD), file("y", "y").mtime(OLD)], &[]);
    let root = disk.path().join("root");
    fs::create_dir(&root).unwrap();
    let place = Place { destination: root.clone(), ..place };
    place.two_way(&[]).run().assert_success();
    fs::remove_file(place.source.join("x")).unwrap();
    fs::write(place.source.join("new"), "new").unwrap();
    fs::write(root.join("y"), "changed on b").unwrap();
    disk.set_read_only(true);
    place.two_way(&[]).run().assert_code(1);
    disk.set_read_only(false);
    place.two_way(&[]).run().assert_success();
    assert_same_files(&place);
    assert_eq!(content(&place.source, "y").as_deref(), Some("changed on b"));
    assert!(!root.join("x").exists() && root.join("new").exists());
}

#[test]
fn a_large_baseline_is_small_and_a_run_without_changes_leaves_it_alone() {
    let place = Place::new(&[], &[]);
    sh(
        "for d in $(seq 20); do mkdir d$d; for f in $(seq 100); do echo $f > d$d/a-file-with-a-name-$f; done; done",
        &place.source,
    );
    place.two_way(&[]).run().assert_success();
    let baseline = place.environment.log_dir().join("state").join(place.environment.pair()).join("baseline");
    let size = fs::metadata(&baseline).unwrap().len();
    assert!(size < 100 * 2020, "{size} bytes for 2,020 entries");
    place.two_way(&[]).run().assert_success();
    let before = fs::read(&baseline).unwrap();
    place.two_way(&[]).run().assert_success();
    assert_eq!(place.last().number("files_skipped"), 2000);
    assert!(before == fs::read(&baseline).unwrap());
}

#[test]
fn an_edit_during_the_run_stays() {
    use ha_testkit::command::Inject;
    let place = agreed();
    let (a, b) = (place.source.clone(), place.destination.clone());
    fs::write(a.join("same"), "x".repeat(300_000)).unwrap();
    let run = place.two_way(&["--workers", "1", "--walkers", "1"]);
    let slow = Inject::on("copy_file_range").delay(std::time::Duration::from_millis(500)).when("1");
    let mut running = run.strace(slow).start();
    let staged =
        || fs::read_dir(&b).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    while !staged() {
        assert!(!running.ended_within(std::time::Duration::from_millis(1)), "it ended without staging");
    }
    fs::write(b.join("same"), "edited on b meanwhile").unwrap();
    let outcome = running.wait();
    outcome.assert_code(3);
    assert_says(&outcome, "changed since scan");
    assert_eq!(content(&b, "same").as_deref(), Some("edited on b meanwhile"));
    // Both changed now, and both versions are kept.
    place.two_way(&["--conflict", "keep-both"]).run().assert_success();
    assert_same_files(&place);
    let versions = fs::read_dir(&a)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("same"));
    assert_eq!(versions.count(), 2);
}

#[test]
fn wrong_use_is_refused() {
    let place = Place::new(&[file("x", "x").mtime(NEW)], &[]);
    let same = place.binary().args(["two-way", "--a"]).arg(&place.source).arg("--b").arg(&place.source);
    let outcome = same.args(["--pair", &place.environment.pair(), "--log-dir"]).arg(place.environment.log_dir()).run();
    outcome.assert_code(5);
    assert_says(&outcome, "A and B are the same directory");
    place.two_way(&["--delete-missing"]).run().assert_code(2);
    place.two_way(&["--conflict", "oldest"]).run().assert_code(2);
    place.two_way(&["--hard-links"]).run().assert_code(2);
}

/// What a run did not get done below a directory that it put back is not taken for deleted by the next one.
#[test]
fn a_directory_put_back_by_half_loses_nothing() {
    let a = need!(ha_testkit::loopmount::tmpfs(4 << 20));
    let other = Place::new(&[], &[]);
    let place = Place::at(a.path(), &other.destination);
    ha_testkit::tree::make(&place.destination, &[file("d/x", "x").mtime(OLD), file("d/y", "y").mtime(OLD)]);
    fs::write(place.destination.join("d/z"), vec![7; 2 << 20]).unwrap();
    let words = ["--min-free", "0", "--exclude", "/filler"];
    place.two_way(&words).run().assert_success();
    let (a, b) = (&place.source, &place.destination);
    fs::remove_dir_all(a.join("d")).unwrap();
    fs::write(a.join("d"), "a file now").unwrap();
    fs::write(a.join("filler"), vec![1; 3 << 20]).unwrap();
    fs::write(b.join("d/y"), "edited").unwrap();
    fs::remove_file(b.join("d/x")).unwrap();
    place.two_way(&words).run().assert_code(3);
    assert!(a.join("d/y").exists() && !a.join("d/z").exists());
    fs::remove_file(a.join("filler")).unwrap();
    // Somebody puts back what had been deleted, exactly as it was.
    ha_testkit::tree::make(a, &[file("d/x", "x").mtime(OLD)]);
    place.two_way(&words).run().assert_success();
    assert_eq!(content(a, "d/y").as_deref(), Some("edited"));
    assert_eq!(fs::metadata(a.join("d/z")).unwrap().len(), 2 << 20);
    assert_eq!(fs::metadata(b.join("d/z")).unwrap().len(), 2 << 20);
    assert_eq!((content(a, "d/x"), content(b, "d/x")), (Some("x".to_owned()), Some("x".to_owned())));
}

#[test]
fn a_baseline_is_history_enough_for_an_emptied_root_to_halt() {
    let place = agreed();
    let state = place.environment.log_dir().join("state").join(place.environment.pair()).join("state.json");
    fs::remove_file(state).unwrap();
    for entry in fs::read_dir(&place.source).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != ".ha-sync" {
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
        }
    }
    let before = place.both();
    let outcome = place.two_way(&[]).run();
    outcome.assert_code(5);
    assert_says(&outcome, "root is empty and had entries at the last run");
    place.assert_untouched(&before);
}

#[test]
fn a_pair_with_a_baseline_is_no_mirror_though_its_memory_is_lost() {
    let place = Place::new(&[file("a", "a").mtime(OLD)], &[]);
    place.sync(&[]);
    place.back(&[]).assert_success();
    place.sync(&[]);
    let state = place.environment.log_dir().join("state").join(place.environment.pair()).join("state.json");
    fs::remove_file(state).unwrap();
    fs::write(place.destination.join("made-on-b"), "only copy").unwrap();
    place.sync(&["--delete-missing"]);
    assert_eq!(content(&place.destination, "made-on-b").as_deref(), Some("only copy"));
}
