//! `ha-sync restore` and `ha-sync prune`.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use ha_testkit::tree::{Compare, Snapshot, dir, file, link, make};
use serde_json::Value;

use crate::place::{Place, assert_says, trash_runs};

const NEWER: i64 = 1_750_000_000;

/// A run that deleted and replaced things; returns its id and what was there before.
fn mixed() -> (Place, String, Snapshot) {
    let place = Place::new(
        &[file("kept", ""), file("replaced", "new").mtime(NEWER)],
        &[
            file("kept", ""),
            file("replaced", "old"),
            file("gone", "goes").mode(0o600).xattr("user.x", "y"),
            link("link", "target"),
            file("dir/sub/file", "deep"),
            dir("dir/empty").mode(0o711),
            dir("dir/sub").mode(0o750).mtime(1_500_000_000),
            dir("dir").mode(0o770).mtime(1_600_000_000),
        ],
    );
    let before = Snapshot::with(&place.destination, &Compare::sides());
    place.mirror(&["--delete-missing", "--max-delete", "100%"]);
    let run = place.last().text("run_id").to_owned();
    (place, run, before)
}

#[test]
fn the_trash_is_listed() {
    let (place, run, _) = mixed();
    let before = Snapshot::of(&place.destination);
    for words in [&[][..], &["--list"], &["--run", &run, "--list"]] {
        let outcome = place.restore(words);
        outcome.assert_success();
        for name in ["replaced", "gone", "link", "dir/sub/file", "dir/empty", &run] {
            assert!(outcome.stdout.contains(name), "{name}\n{}", outcome.stdout);
        }
    }
    let outcome = place.restore(&["-o", "json"]);
    let rows: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 7);
    let outcome = place.restore(&["--list", "dir/sub"]);
    assert!(outcome.stdout.contains("dir/sub/file") && !outcome.stdout.contains("gone"), "{}", outcome.stdout);
    before.assert_same(&Snapshot::of(&place.destination));
}

#[test]
fn an_empty_trash_is_said() {
    let place = Place::new(&[file("a", "")], &[]);
    place.mirror(&[]);
    let outcome = place.restore(&[]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("the trash is empty"));
}

#[test]
fn paths_are_put_back() {
    let (place, _, before) = mixed();
    place.restore(&["gone", "link"]).assert_success();
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in ["gone", "link"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
    assert!(after.get("dir").is_none());
    assert!(!place.trash().join("gone").exists(), "it left the trash");
    let outcome = place.restore(&["gone"]);
    outcome.assert_code(1);
    assert_says(&outcome, "the trash has no such path");
}

#[test]
fn removed_directories_come_back_as_they_were() {
    let (place, _, before) = mixed();
    place.restore(&["dir"]).assert_success();
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in ["dir", "dir/sub", "dir/sub/file", "dir/empty"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
}

#[test]
fn one_file_comes_back_with_the_directories_above_it() {
    let (place, _, before) = mixed();
    place.restore(&["dir/sub/file"]).assert_success();
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in ["dir", "dir/sub", "dir/sub/file"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
    assert!(after.get("dir/empty").is_none());
}

#[test]
fn a_whole_run_is_undone() {
    let (place, run, before) = mixed();
    place.restore(&["--run", &run, "--force"]).assert_success();
    before.assert_same(&Snapshot::with(&place.destination, &Compare::sides()));
    // What was in the way is in the trash of the restore.
    let runs = trash_runs(&place.destination);
    let kept = runs.iter().filter_map(|run| std::fs::read(run.join("replaced")).ok()).next();
    assert_eq!(kept.unwrap(), b"new");
}

#[test]
fn what_is_in_the_way_is_not_replaced_without_force() {
    let (place, run, _) = mixed();
    let outcome = place.restore(&["replaced"]);
    outcome.assert_code(3);
    assert_says(&outcome, "--force");
    assert!(outcome.stdout.contains("occupied  replaced"), "{}", outcome.stdout);
    assert_eq!(std::fs::read(place.destination.join("replaced")).unwrap(), b"new");
    assert_eq!(std::fs::read(place.trash().join("replaced")).unwrap(), b"old", "it stays in the trash");
    place.restore(&["--run", &run]).assert_code(3);
    assert!(place.destination.join("dir/sub/file").exists(), "the rest is put back");
}

#[test]
fn a_directory_in_the_way_is_never_replaced() {
    let (place, _, _) = mixed();
    make(&place.destination, &[file("gone/something", "")]);
    place.restore(&["gone", "--force"]).assert_code(3);
    assert!(place.destination.join("gone/something").exists());
}

#[test]
fn a_link_in_the_way_of_a_directory_is_not_followed() {
    let (place, _, _) = mixed();
    let outside = place.path("outside");
    make(&outside, &[dir("sub"), file("file", "not yours")]);
    make(&place.destination, &[link("dir", outside.to_str().unwrap())]);
    let before = Snapshot::of(&outside);
    for words in [&["dir"][..], &["dir", "--force"], &["dir/sub/file", "--force"]] {
        assert_ne!(place.restore(words).code(), Some(0), "{words:?}");
        before.assert_same(&Snapshot::of(&outside));
    }
}

#[test]
fn a_dry_restore_changes_nothing() {
    let (place, run, _) = mixed();
    let before = Snapshot::of(&place.destination);
    let outcome = place.restore(&["--run", &run, "--force", "--dry-run"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("would be put back"), "{}", outcome.stdout);
    before.assert_same(&Snapshot::of(&place.destination));
}

#[test]
fn a_run_that_is_not_there_is_told() {
    let (place, _, _) = mixed();
    place.restore(&["--run", "20260413T152357Z-0123abcd"]).assert_code(1);
}

#[test]
fn the_trash_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let (place, _, _) = mixed();
    for name in [".ha-sync", ".ha-sync/trash"] {
        let mode = std::fs::metadata(place.destination.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{name}");
    }
    let sub = place.trash().join("dir/sub");
    assert_eq!(std::fs::metadata(sub).unwrap().permissions().mode() & 0o7777, 0o700);
    let gone = std::fs::metadata(place.trash().join("gone")).unwrap();
    assert_eq!(gone.permissions().mode() & 0o7777, 0o600, "files keep theirs");
}

#[test]
fn prune_removes_by_age_what_is_named() {
    let (place, run, _) = mixed();
    let root = place.destination.to_str().unwrap();
    let logs = place.environment.log_dir();
    let logs = logs.to_str().unwrap();
    place.sub(&["prune", "--trash", root]).assert_success();
    assert_eq!(trash_runs(&place.destination).len(), 1, "it is not a week old");
    let outcome = place.sub(&["prune", "--trash", root, "--trash-older-than", "0s", "--dry-run"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("1 runs would be removed, 4 entries"), "{}", outcome.stdout);
    assert_eq!(trash_runs(&place.destination).len(), 1);
    let outcome = place.sub(&["prune", "--trash", root, "--trash-older-than", "0s", "-o", "json"]);
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(answer["trash"][0]["entries"], 4);
    assert!(trash_runs(&place.destination).is_empty());
    assert!(!place.destination.join(format!(".ha-sync/trash/{run}.directories.jsonl")).exists());

    // The last successful run of the pair stays in the database.
    place.sync(&[]);
    place.sub(&["prune", "--log-dir", logs, "--db-older-than", "30d"]).assert_success();
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 2);
    place.sub(&["prune", "--log-dir", logs, "--db-older-than", "0s", "--dry-run"]).assert_success();
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 2);
    place.sub(&["prune", "--log-dir", logs, "--db-older-than", "0s"]).assert_success();
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 1);
    assert!(place.query("SELECT * FROM sync_operations").is_empty());
}
