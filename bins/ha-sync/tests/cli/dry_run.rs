//! Dry runs: they change nothing, and know when nothing has changed.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use ha_testkit::loopmount::tmpfs;
use ha_testkit::need;
use ha_testkit::tree::{dir, fifo, file, link, make};
use serde_json::Value;

use crate::place::{Place, assert_says};

const NEWER: i64 = 1_750_000_000;

/// One create, one update, one delete, one directory, one skip.
fn mixed() -> Place {
    Place::new(
        &[file("new", "12345"), file("dir/update", "newer").mtime(NEWER), link("link", "target"), fifo("pipe")],
        &[file("dir/update", "old"), file("gone", "goes"), dir("dir")],
    )
}

#[test]
fn a_dry_run_changes_nothing() {
    let place = mixed();
    let before = place.both();
    let outcome = place.sync(&["--dry-run", "--delete-missing"]);
    place.assert_untouched(&before);
    for line in ["create  new\n", "update  dir/update\n", "delete  gone\n", "create  link\n"] {
        assert!(outcome.stdout.contains(line), "{line:?} is not in\n{}", outcome.stdout);
    }
    let row = place.last();
    assert_eq!((row.number("dry_run"), row.text("status")), (1, "success"));
    assert_eq!(row.number("files_created"), 2);
    assert_eq!((row.number("files_updated"), row.number("files_deleted")), (1, 1));
    assert!(place.operations().iter().all(|row| row.number("dry_run") == 1));
    assert_eq!(place.operation("gone").number("size_before"), 4);
    assert!(place.logs().is_empty());
}

#[test]
fn a_dry_run_works_on_read_only_mounts() {
    let (source, destination) = (need!(tmpfs(1 << 20)), need!(tmpfs(1 << 20)));
    make(source.path(), &[file("new", "12345"), file("both", "newer").mtime(NEWER)]);
    make(destination.path(), &[file("both", "old"), file("gone", "goes")]);
    source.set_read_only(true);
    destination.set_read_only(true);
    let place = Place::at(source.path(), destination.path());
    let before = place.both();
    let outcome = place.sync(&["--dry-run", "--delete-missing"]);
    assert_says(&outcome, "clock skew is not checked");
    place.assert_untouched(&before);
    assert_eq!(place.operations().len(), 3);
}

#[test]
fn an_unchanged_plan_is_said_and_writes_no_rows() {
    let place = mixed();
    let first = place.sync(&["--dry-run", "--delete-missing", "-o", "json"]);
    let first: Value = serde_json::from_str(&first.stdout).unwrap();
    let started_at = first["iteration"]["started_at"].as_str().unwrap();
    let second = place.sync(&["--dry-run", "--delete-missing"]);
    let line = format!("Dry-run already current as of {started_at}. Nothing has changed.");
    assert!(second.stdout.lines().any(|found| found == line), "{line}\n{}", second.stdout);
    let third = place.sync(&["--dry-run", "--delete-missing", "-o", "json"]);
    let third: Value = serde_json::from_str(&third.stdout).unwrap();
    assert_eq!(third["already_current_as_of"].as_str().unwrap(), started_at);
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 1);
    assert_eq!(place.query("SELECT * FROM sync_operations").len(), 4);
    assert!(place.logs().is_empty());
}

#[test]
fn a_changed_plan_writes_rows() {
    let place = mixed();
    let words = ["--dry-run", "--delete-missing"];
    place.sync(&words);
    let current = |changed: &dyn Fn()| {
        changed();
        let outcome = place.sync(&words);
        let again = place.sync(&words);
        assert!(again.stdout.contains("already current"), "{}", again.stdout);
        outcome.stdout.contains("already current")
    };
    assert!(!current(&|| make(&place.source, &[file("more", "")])), "another path");
    assert!(!current(&|| make(&place.destination, &[file("gone", "longer")])), "another size before");
    assert!(!current(&|| std::fs::remove_file(place.source.join("new")).unwrap()), "one less");
    assert!(!current(&|| make(&place.destination, &[file("more", "older").mtime(1)])), "another operation");
    assert!(current(&|| make(&place.source, &[file("dir/update", "another").mtime(NEWER)])), "only the size after");
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 5);
}

#[test]
fn a_plan_of_nothing_is_current_too() {
    let place = Place::new(&[file("a", "")], &[file("a", "")]);
    place.sync(&["--dry-run"]);
    assert!(place.sync(&["--dry-run"]).stdout.contains("already current"));
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 1);
}

#[test]
fn a_dry_run_is_compared_within_its_pair_and_direction() {
    let place = mixed();
    place.sync(&["--dry-run"]);
    let other = place.sync(&["--dry-run", "--direction", "other"]);
    assert!(!other.stdout.contains("already current"));
    let (source, destination) = (place.source.to_str().unwrap(), place.destination.to_str().unwrap());
    let logs = place.environment.log_dir();
    let pair = format!("{}-other", place.environment.pair());
    let words = ["--src", source, "--dest", destination, "--pair", &pair, "--dry-run", "--log-dir"];
    let outcome = place.binary().args(words).arg(logs).run();
    outcome.assert_success();
    assert!(!outcome.stdout.contains("already current"));
}

#[test]
fn a_production_run_never_looks_at_dry_rows() {
    let place = mixed();
    let words = ["--delete-missing", "--dry-run"];
    place.sync(&words);
    place.sync(&["--delete-missing"]);
    let row = place.last();
    assert_eq!(row.number("dry_run"), 0);
    assert_eq!(row.number("files_created") + row.number("files_updated") + row.number("files_deleted"), 4);
    place.sync(&["--delete-missing"]);
    assert_eq!(place.query("SELECT * FROM sync_iterations WHERE dry_run = 0").len(), 2);
    // And a dry run is not the history of a pair: what it saw was never agreed on.
    let place = Place::new(&[file("a", "")], &[]);
    place.sync(&["--dry-run"]);
    std::fs::remove_file(place.source.join("a")).unwrap();
    place.sync(&[]);
}

#[test]
fn a_dry_run_takes_no_temporary_file_away_and_tells_of_a_halt() {
    let items: Vec<_> = (0..30).map(|number| file(number.to_string(), "")).collect();
    let place = Place::new(&[file("a", "")], &items);
    let before = place.both();
    let outcome = place.sync(&["--dry-run", "--delete-missing"]);
    assert_says(&outcome, "a real run would halt");
    assert_says(&outcome, "30 of 30");
    place.assert_untouched(&before);
}

#[test]
fn a_planned_failure_is_told() {
    let place = Place::new(&[file("a/b", "")], &[file("a", "")]);
    let outcome = place.run(&["--dry-run"]);
    outcome.assert_code(3);
    assert!(outcome.stdout.contains("would fail: type conflict"), "{}", outcome.stdout);
}

#[test]
fn json_of_a_plan_and_a_summary() {
    let place = mixed();
    let outcome = place.sync(&["--dry-run", "--delete-missing", "-o", "json"]);
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let plan = document["plan"].as_array().unwrap();
    let mut operations: Vec<_> = plan
        .iter()
        .map(|row| (row["operation"].as_str().unwrap(), row["filepath"].as_str().unwrap(), row["size_after"].as_u64()))
        .collect();
    operations.sort_unstable();
    let wanted = [
        ("create", "link", Some(6)),
        ("create", "new", Some(5)),
        ("delete", "gone", None),
        ("update", "dir/update", Some(5)),
    ];
    assert_eq!(operations, wanted);
    assert_eq!(document["iteration"]["dry_run"], true);
    assert!(document["already_current_as_of"].is_null());
    let summary = &document["summary"];
    assert_eq!((summary["status"].as_str(), summary["files_created"].as_u64()), (Some("success"), Some(2)));
    assert_eq!(summary["skip_reasons"]["special file"], 1);

    let outcome = place.sync(&["--delete-missing", "-o", "json"]);
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(document["plan"].as_array().unwrap().len(), 4, "as it was carried out");
    assert!(document.get("already_current_as_of").is_none());
    assert_eq!(document["summary"]["total_bytes_transferred"], 10);
    assert!(document["summary"]["places"]["trash"].as_str().unwrap().contains("/.ha-sync/trash/"));
    assert!(document["summary"]["places"]["log"].is_null());
}

#[test]
fn json_of_a_halt_parses_too() {
    let place = Place::new(&[], &[file("a", "")]);
    let outcome = place.run(&["--delete-missing", "-o", "json"]);
    outcome.assert_code(5);
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(document["summary"]["status"], "failed");
    assert!(document["summary"]["error_message"].as_str().unwrap().contains("source root is empty"));
}
