//! `ha-sync baseline`.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::path::PathBuf;

use ha_sync_core::baseline::{Agreed, Facts};
use ha_sync_core::entry::{Kind, Time};
use ha_sync_core::name::{PairName, RunId};
use ha_sync_core::path::RelPath;
use ha_sync_engine::baseline::{Baseline, Ends, Update};
use ha_sync_fs::lock::FileLock;
use ha_testkit::command::{Outcome, Run};
use jiff::Timestamp;
use serde_json::Value;

use crate::place::{Place, assert_says};

const TIME: i64 = 1_750_000_000;

fn agreed(kind: Kind, size: u64, apart: i64) -> Agreed {
    let facts = |seconds, inode| Facts {
        mtime: Time::new(seconds, 0),
        ctime: Time::new(TIME + 60, 500_000_000),
        inode,
        mode: 0o640,
        uid: 7,
        gid: 8,
        attributes: None,
    };
    let content = (kind == Kind::File).then_some([0xab; 16]);
    Agreed { kind, size, content, a: facts(TIME, 11), b: facts(TIME + apart, 12) }
}

/// A pair with a baseline, made as a run makes it.
fn place() -> Place {
    let place = Place::new(&[], &[]);
    write_baseline(&place);
    place
}

fn pair(place: &Place) -> PairName {
    place.environment.pair().parse().unwrap()
}

fn file(place: &Place) -> PathBuf {
    Baseline::file(&place.environment.log_dir(), &pair(place))
}

/// Writes the baseline of a pair, as a run does.
pub(crate) fn write_baseline(place: &Place) {
    let path = file(place);
    let folder = path.parent().unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let ends = Ends::new(&pair(place), &place.source, &place.destination);
    let update = Update::new(folder, &ends).unwrap();
    let entry = |name: &[u8], kind, size, apart| (name.to_vec(), agreed(kind, size, apart));
    let root = [entry(b"cat.jpg", Kind::File, 12_345, 0), entry(b"photos", Kind::Directory, 0, 0)];
    update.put(&RelPath::root(), &root).unwrap();
    let photos = [entry(b"a\xff\n", Kind::File, 5, 60), entry(b"now", Kind::Link, 3, 0)];
    update.put(&RelPath::from_bytes(b"photos".to_vec()).unwrap(), &photos).unwrap();
    let start: Timestamp = "2026-04-13T15:23:57Z".parse().unwrap();
    assert!(update.finish(&path, None, &RunId::new(start, 7), start).unwrap());
}

fn command(place: &Place, words: &[&str]) -> Run {
    let run = place.binary().arg("baseline").args(words).args(["--pair", &place.environment.pair(), "--log-dir"]);
    run.arg(place.environment.log_dir())
}

fn baseline(place: &Place, words: &[&str]) -> Outcome {
    command(place, words).run()
}

fn json(outcome: &Outcome) -> Value {
    outcome.assert_success();
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn show_tells_what_it_belongs_to() {
    let place = place();
    let outcome = baseline(&place, &["show"]);
    outcome.assert_success();
    let expected = format!(
        "pair     {}\nroots    {} and {}\nwritten  2026-04-13T15:23:57Z by run 20260413T152357Z-00000007\n\
         entries  4 in 2 directories\n",
        place.environment.pair(),
        place.destination.display(),
        place.source.display(),
    );
    assert_eq!(outcome.stdout, expected);
    let document = json(&baseline(&place, &["show", "-o", "json"]));
    assert_eq!((&document["entries"], &document["run_id"]), (&4.into(), &"20260413T152357Z-00000007".into()));
    assert!(document.get("agreed").is_none());
}

#[test]
fn show_lists_what_is_at_and_below_a_path() {
    let place = place();
    let lines = |path: &str| {
        let outcome = baseline(&place, &["show", path]);
        outcome.assert_success();
        outcome.stdout.lines().skip(4).map(str::to_owned).collect::<Vec<_>>()
    };
    let all = [
        "file         12.1 KiB  2025-06-15T15:06:40Z  cat.jpg",
        "directory              2025-06-15T15:06:40Z  photos",
        "file              5 B  2025-06-15T15:07:40Z  photos/a\\xff\\x0a  (the other side: 2025-06-15T15:06:40Z)",
        "link              3 B  2025-06-15T15:06:40Z  photos/now",
    ];
    assert_eq!(lines("."), all);
    for path in ["photos", "photos/", "./photos"] {
        assert_eq!(lines(path), all[1..], "{path}");
    }
    assert_eq!(lines("cat.jpg"), all[..1]);
    let document = json(&baseline(&place, &["show", "cat.jpg", "-o", "json"]));
    let found = &document["agreed"][0];
    assert_eq!(document["agreed"].as_array().unwrap().len(), 1);
    assert_eq!((&found["path"], &found["kind"], &found["size"]), (&"cat.jpg".into(), &"file".into(), &12_345.into()));
    assert_eq!(found["md5"], "ab".repeat(16));
    // The destination's path comes first, so its facts do too.
    let (one, other) = (&found["at"][0], &found["at"][1]);
    assert_eq!((&one["inode"], &other["inode"], &one["mode"]), (&12.into(), &11.into(), &"0640".into()));
    assert_eq!(one["ctime"], "2025-06-15T15:07:40.5Z");
    assert_eq!(json(&baseline(&place, &["show", ".", "-o", "json"]))["agreed"][2]["path"], "photos/a\\xff\n");
}

#[test]
fn show_says_what_is_not_there() {
    let place = place();
    let outcome = baseline(&place, &["show", "photos/dog.jpg"]);
    outcome.assert_code(1);
    assert_says(&outcome, "nothing is agreed at this path: photos/dog.jpg");
    let outcome = baseline(&place, &["show", "../x"]);
    outcome.assert_code(2);
    std::fs::remove_file(file(&place)).unwrap();
    for words in ["show", "verify"] {
        let outcome = baseline(&place, &[words]);
        outcome.assert_code(1);
        assert_says(&outcome, "has no baseline in");
    }
}

#[test]
fn verify_tells_a_whole_baseline_from_a_damaged_one() {
    let place = place();
    let outcome = baseline(&place, &["verify"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("is whole: 4 entries in 2 directories"), "{}", outcome.stdout);
    assert_eq!(json(&baseline(&place, &["verify", "-o", "json"]))["entries"], 4);
    let whole = std::fs::read(file(&place)).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 4;
    for (bytes, says) in [
        (damaged, "the baseline is damaged"),
        (whole[..whole.len() - 9].to_vec(), "the baseline is cut off"),
        (b"hasyncbl\x09\0\0\0".to_vec(), "a format that this release does not know"),
        (b"something else".to_vec(), "it does not begin like one"),
        (Vec::new(), "the baseline is cut off"),
    ] {
        std::fs::write(file(&place), bytes).unwrap();
        for words in ["verify", "show"] {
            let outcome = baseline(&place, &[words]);
            outcome.assert_code(1);
            assert_says(&outcome, says);
            assert_says(&outcome, "baseline forget --pair");
        }
    }
    let foreign = place.environment.log_dir().join("state/other");
    std::fs::create_dir_all(&foreign).unwrap();
    std::fs::write(foreign.join("baseline"), whole).unwrap();
    let outcome = place.binary().args(["baseline", "verify", "--pair", "other", "--log-dir"]);
    let outcome = outcome.arg(place.environment.log_dir()).run();
    outcome.assert_code(1);
    assert_says(&outcome, &format!("the baseline belongs to pair {}", place.environment.pair()));
}

#[test]
fn forget_removes_it_and_says_what_follows() {
    let place = place();
    let outcome = baseline(&place, &["forget"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("is forgotten\nthe next run is a union: nothing is deleted"), "{}", outcome.stdout);
    assert!(!file(&place).exists());
    let outcome = baseline(&place, &["forget"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("had no baseline"), "{}", outcome.stdout);
    write_baseline(&place);
    assert_eq!(json(&baseline(&place, &["forget", "-o", "json"]))["forgotten"], true);
    // A damaged one goes like any other.
    std::fs::write(file(&place), "damaged").unwrap();
    baseline(&place, &["forget"]).assert_success();
    assert!(!file(&place).exists());
}

#[test]
fn forget_waits_for_no_run() {
    let place = place();
    let lock = FileLock::acquire(&pair(&place), "a run", std::time::Duration::ZERO, &|| false).unwrap();
    let outcome = baseline(&place, &["forget"]);
    outcome.assert_code(4);
    assert_says(&outcome, "is held by a run");
    assert!(file(&place).exists());
    baseline(&place, &["show"]).assert_success();
    drop(lock);
    baseline(&place, &["forget"]).assert_success();
}

#[test]
fn its_commands_are_refused_without_a_pair() {
    let place = place();
    for words in [&["baseline"][..], &["baseline", "show"], &["baseline", "forget", "--pair", "A"], &["baseline", "x"]]
    {
        let outcome = place.sub(words);
        outcome.assert_code(2);
        assert!(outcome.stdout.is_empty(), "{words:?}: {}", outcome.stdout);
    }
    assert!(file(&place).exists());
}
