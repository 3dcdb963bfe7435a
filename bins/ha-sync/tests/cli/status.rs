//! `ha-sync status` and `ha-sync conflicts`.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use ha_sync_core::entry::{Kind, Time};
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_engine::conflicts::{self, Conflict, Version};
use ha_testkit::command::Outcome;
use ha_testkit::tree::file;
use jiff::Timestamp;
use serde_json::Value;

use crate::baseline::write_baseline;
use crate::place::{Place, assert_says};

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
