//! `ha-sync status` and `ha-sync conflicts`.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::path::Path;

use ha_sync_core::entry::{Kind, Time};
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_engine::conflicts::{self, Conflict, Version};
use ha_sync_fs::Root;
use ha_testkit::command::Outcome;
use ha_testkit::tree::{dir, file};
use jiff::Timestamp;
use serde_json::Value;

use crate::baseline::write_baseline;
use crate::place::{Place, assert_says, trash_runs};

fn command(place: &Place, words: &[&str]) -> Outcome {
    let run = place.binary().args(words).args(["--pair", &place.environment.pair(), "--log-dir"]);
    run.arg(place.environment.log_dir()).run()
}

fn json(place: &Place, words: &[&str]) -> Value {
    let outcome = command(place, &[words, &["-o", "json"]].concat());
    outcome.assert_success();
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn conflict(path: &[u8]) -> Conflict {
    let version = |kind, size, mtime| Version {
        kind,
        size,
        mtime: Time::new(mtime, 500_000_000),
        ctime: Time::new(mtime, 0),
        inode: 7,
        mode: 0o644,
        uid: 1,
        gid: 2,
        md5: (kind == Kind::File).then(|| "0f".repeat(16)),
    };
    let start: Timestamp = "2026-04-13T15:23:57Z".parse().unwrap();
    let path = RelPath::from_bytes(path.to_vec()).unwrap();
    let (a, b) = (version(Kind::File, 2048, 1_750_000_000), version(Kind::Link, 3, 1_750_000_060));
    Conflict::new(&path, a, b, start, RunId::new(start, 7))
}

fn open(place: &Place, open: Vec<Conflict>) {
    let pair = place.environment.pair().parse().unwrap();
    conflicts::save(&place.environment.log_dir(), &pair, open).unwrap();
}

#[test]
fn a_pair_of_which_nothing_is_known_is_told_with_1() {
    let place = Place::new(&[], &[]);
    let outcome = command(&place, &["status"]);
    outcome.assert_code(1);
    assert_says(&outcome, &format!("nothing is known of pair {}", place.environment.pair()));
    assert_says(&outcome, "--log-dir DIR");
    command(&place, &["status", "--runs", "x"]).assert_code(2);
}

#[test]
fn runs_and_trash_are_told() {
    let place = Place::new(&[file("a", "new").mtime(1_750_000_000)], &[file("a", "old"), file("b", "")]);
    place.sync(&["--delete-missing", "--max-delete", "100%"]);
    place.sync(&["--dry-run"]);
    let outcome = command(&place, &["status"]);
    outcome.assert_success();
    let trash = format!("           {}: 2 entries of 1 runs, 3 B\n", place.destination.display());
    for line in [
        "sides      not known to be equal: a one-way run does not tell\n",
        "conflicts  none open\n",
        "baseline   none\n",
        &format!("trash      {}: empty\n", place.source.display()),
        &trash,
    ] {
        assert!(outcome.stdout.contains(line), "{line}\n{}", outcome.stdout);
    }
    let table: Vec<Vec<&str>> =
        outcome.stdout.lines().rev().take(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(table[0][1..], ["fwd", "success", "0", "1", "1", "0", "0"]);
    assert_eq!(table[1][1..5], ["fwd", "success", "(dry", "run)"]);
    let document = json(&place, &["status", "--runs", "1"]);
    assert_eq!(document["runs"].as_array().unwrap().len(), 1);
    assert_eq!(document["runs"][0]["dry_run"], true);
    assert_eq!((&document["sides_equal"], &document["open_conflicts"]), (&Value::Null, &0.into()));
    assert_eq!(document["roots"][1]["trash"]["entries"], 2);
    std::fs::rename(&place.source, place.path("elsewhere")).unwrap();
    let outcome = command(&place, &["status"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("source: the root is not there\n"), "{}", outcome.stdout);
}

#[test]
fn a_pair_without_records_is_known_by_its_state() {
    let place = Place::new(&[], &[]);
    write_baseline(&place);
    open(&place, vec![conflict(b"x"), conflict(b"y")]);
    let outcome = command(&place, &["status"]);
    outcome.assert_success();
    for words in [
        "sides      not known to be equal: no run is recorded\n",
        &format!("conflicts  2 open, see: ha-sync conflicts --pair {}\n", place.environment.pair()),
        "baseline   4 entries, written 2026-04-13T15:23:57Z\n",
        "destination: empty\n",
        "records    failed to open audit database",
    ] {
        assert!(outcome.stdout.contains(words), "{words}\n{}", outcome.stdout);
    }
    let document = json(&place, &["status"]);
    assert_eq!((&document["open_conflicts"], &document["baseline"]["entries"]), (&2.into(), &4.into()));
    let state = place.environment.log_dir().join("state").join(place.environment.pair());
    std::fs::write(state.join("baseline"), "damaged").unwrap();
    std::fs::write(state.join("conflicts.jsonl"), "damaged\n").unwrap();
    let outcome = command(&place, &["status"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("baseline   counts as none: the baseline is"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("the list of open conflicts is damaged"), "{}", outcome.stdout);
    let outcome = command(&place, &["conflicts"]);
    outcome.assert_code(1);
    assert_says(&outcome, "line 1");
}

/// What a root has at a path.
fn version(root: &Path, path: &str) -> Version {
    let path = RelPath::from_bytes(path.as_bytes().to_vec()).unwrap();
    let (directory, name) = path.split().unwrap();
    let root = Root::open(root, false).unwrap();
    Version::of(&root.open_dir(&directory).unwrap().find(name).unwrap().unwrap(), None)
}

/// A pair with open conflicts, as a run finds them.
fn in_conflict(paths: &[&str]) -> Place {
    let place = Place::new(
        &[file("d/f", "of a").mtime(1_750_000_000), file("other", "of a"), dir("type")],
        &[file("d/f", "of b"), file("other", "of b").mtime(1_750_000_000), file("type", "of b"), file("new", "")],
    );
    place.run(&["--dry-run"]).assert_code(3);
    let run = place.last().text("run_id").parse::<RunId>().unwrap();
    let found = paths.iter().map(|path| {
        let (a, b) = (version(&place.source, path), version(&place.destination, path));
        Conflict::new(&RelPath::from_bytes(path.as_bytes().to_vec()).unwrap(), a, b, run.started(), run.clone())
    });
    open(&place, found.collect());
    place
}

fn resolve(place: &Place, words: &[&str]) -> Outcome {
    command(place, &[&["conflicts", "resolve"], words].concat())
}

fn still_open(place: &Place) -> Vec<String> {
    let found = json(place, &["conflicts"]);
    found.as_array().unwrap().iter().map(|found| found["path"].as_str().unwrap().to_owned()).collect()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_conflict_is_decided_for_either_side() {
    for (keep, content, loser) in [("a", "of a", "destination"), ("b", "of b", "source")] {
        let place = in_conflict(&["d/f", "other"]);
        resolve(&place, &["d/f", "--keep", keep]).assert_success();
        for root in [&place.source, &place.destination] {
            assert_eq!(text(&root.join("d/f")), content);
        }
        // Nothing else was meant.
        assert_eq!(text(&place.source.join("other")), "of a");
        assert_eq!(text(&place.destination.join("other")), "of b");
        assert!(!place.source.join("new").exists() && place.source.join("type").is_dir());
        assert_eq!(still_open(&place), ["other"]);
        let runs = trash_runs(&place.path(loser));
        assert_eq!(runs.len(), 1);
        assert_eq!(text(&runs[0].join("d/f")), if keep == "a" { "of b" } else { "of a" });
        let row = place.last();
        assert_eq!((row.text("direction"), row.text("status"), row.number("files_updated")), ("resolve", "success", 1));
        let outcome = resolve(&place, &["d/f", "--keep", keep]);
        outcome.assert_code(1);
        assert_says(&outcome, "no conflict is open at this path: d/f");
    }
}

#[test]
fn a_conflict_that_a_run_left_open_is_decided_and_then_the_sides_are_equal() {
    let place =
        Place::new(&[file("f", "of a").mtime(1_750_000_000), file("a", "")], &[file("f", "of b"), file("b", "")]);
    let two_way = |words: &[&str]| {
        let roots = [place.source.to_str().unwrap(), place.destination.to_str().unwrap()];
        command(&place, &[&["two-way", "--a", roots[0], "--b", roots[1]], words].concat())
    };
    two_way(&["--conflict", "skip"]).assert_code(3);
    assert_eq!(still_open(&place), ["f"]);
    let since = json(&place, &["conflicts"])[0]["since"].clone();
    two_way(&["--conflict", "skip"]).assert_code(3);
    assert_eq!(json(&place, &["conflicts"])[0]["since"], since, "it is the same one");
    let status = json(&place, &["status"]);
    assert_eq!((&status["sides_equal"], &status["why_not"]), (&false.into(), &"1 conflicts are open".into()));
    resolve(&place, &["f", "--keep", "b"]).assert_success();
    assert!(still_open(&place).is_empty());
    // The runs say nothing of the rest since then.
    assert_eq!(json(&place, &["status"])["sides_equal"], false);
    two_way(&[]).assert_success();
    place.assert_sides_equal();
    assert_eq!(text(&place.source.join("f")), "of b");
    let status = json(&place, &["status"]);
    assert_eq!((&status["sides_equal"], &status["why_not"]), (&true.into(), &Value::Null));
    assert_eq!(status["sides_equal_as_of"], status["runs"][0]["ended_at"]);
    let roots = [&place.source, &place.destination].map(|root| root.to_str().unwrap());
    place.sub(&["diff", roots[0], roots[1]]).assert_success();
    command(&place, &["baseline", "verify"]).assert_success();
}

#[test]
fn both_versions_can_be_kept() {
    let place = in_conflict(&["d/f"]);
    resolve(&place, &["d/f", "--keep", "both"]).assert_success();
    for root in [&place.source, &place.destination] {
        assert_eq!(text(&root.join("d/f")), "of a", "the newer one");
        let mut found: Vec<_> = std::fs::read_dir(root.join("d")).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[1].to_string_lossy().contains("f (conflict ") && found[1].to_string_lossy().ends_with(" from b)")
        );
        assert_eq!(text(&found[1]), "of b");
    }
    assert!(still_open(&place).is_empty());
}

#[test]
fn a_decision_that_does_not_fit_changes_nothing() {
    let place = in_conflict(&["d/f", "type", "other"]);
    let before = place.both();
    let refused = |words: &[&str], code: i32, says: &str| {
        let outcome = resolve(&place, words);
        outcome.assert_code(code);
        assert_says(&outcome, says);
    };
    refused(&["new", "--keep", "a"], 1, "no conflict is open at this path: new");
    refused(&["type", "--keep", "b"], 2, "a directory gives way to nothing else: type");
    refused(&["d/f"], 2, "--keep");
    refused(&["d/f", "--keep", "c"], 2, "--keep");
    refused(&["d/f", "--keep", "a", "--a", "/x"], 2, "--b");
    resolve(&place, &["d/f", "--keep", "a", "--dry-run"]).assert_success();
    place.assert_untouched(&before);
    assert_eq!(still_open(&place).len(), 3);
    std::fs::write(place.destination.join("other"), "newer than the list").unwrap();
    refused(&["other", "--keep", "a"], 1, "changed since it was listed: other in");
    assert_eq!(text(&place.destination.join("other")), "newer than the list");
    // A directory stays; keeping both keeps the file beside it.
    resolve(&place, &["type", "--keep", "a"]).assert_success();
    assert!(place.destination.join("type").is_dir());
    assert_eq!(still_open(&place), ["d/f", "other"]);
}

#[test]
fn roots_that_are_not_in_the_records_are_named() {
    let place = in_conflict(&["d/f"]);
    std::fs::remove_file(place.environment.log_dir().join("ha-sync.db")).unwrap();
    let outcome = resolve(&place, &["d/f", "--keep", "a"]);
    outcome.assert_code(1);
    assert_says(&outcome, "name them: --a DIR --b DIR");
    let (a, b) = (place.source.to_str().unwrap(), place.destination.to_str().unwrap());
    resolve(&place, &["d/f", "--keep", "a", "--a", a, "--b", b]).assert_success();
    assert_eq!(text(&place.destination.join("d/f")), "of a");
    assert!(still_open(&place).is_empty());
}

#[test]
fn open_conflicts_are_listed_with_both_versions() {
    let place = Place::new(&[], &[]);
    let outcome = command(&place, &["conflicts"]);
    outcome.assert_success();
    assert_eq!(outcome.stdout, "no conflict is open\n");
    assert_eq!(json(&place, &["conflicts"]), Value::Array(vec![]));
    open(&place, vec![conflict(b"photos/a\xff\n")]);
    let outcome = command(&place, &["conflicts"]);
    outcome.assert_success();
    assert_eq!(
        outcome.stdout,
        "a                             b                          since                 path\n\
         2.0 KiB 2025-06-15T15:06:40Z  link 2025-06-15T15:07:40Z  2026-04-13T15:23:57Z  photos/a\\xff\\x0a\n"
    );
    let document = json(&place, &["conflicts"]);
    let found = &document[0];
    assert_eq!((&found["path"], &found["since"]), (&"photos/a\\xff\n".into(), &"2026-04-13T15:23:57Z".into()));
    assert_eq!((&found["a"]["size"], &found["a"]["mtime"]), (&2048.into(), &"2025-06-15T15:06:40.5Z".into()));
    assert_eq!((&found["a"]["md5"], &found["b"]["kind"]), (&"0f".repeat(16).into(), &"link".into()));
}
