//! `ha-sync diff`.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

use ha_testkit::command::Outcome;
use ha_testkit::tree::{Item, dir, file, link, make};
use serde_json::Value;

use crate::place::{Place, assert_says, sh};

const NEWER: i64 = 1_750_000_000;

fn diff(place: &Place, words: &[&str]) -> Outcome {
    place.binary().arg("diff").arg(&place.source).arg(&place.destination).args(words).run()
}

/// The findings by path: in what, or the error.
fn found(place: &Place, words: &[&str]) -> (Value, BTreeMap<String, String>) {
    let outcome = diff(place, &[words, &["-o", "json"]].concat());
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{}", outcome.stdout));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = document["findings"].as_array().unwrap().iter().map(|finding| {
        let what = finding["what"].as_array().map(|what| what.iter().map(text).collect::<Vec<_>>().join(", "));
        (text(&finding["path"]), what.unwrap_or_else(|| format!("error: {}", text(&finding["error"]))))
    });
    let findings = findings.collect();
    outcome.assert_code(if document["different"].as_u64() > Some(0) { 1 } else { 0 });
    (document, findings)
}

fn tree() -> Vec<Item> {
    vec![
        file("same", "content"),
        file("d/below", "x").mode(0o600),
        link("link", "target"),
        dir("empty"),
        dir("d").mode(0o750),
    ]
}

#[test]
fn equal_roots_are_told_with_0() {
    let place = Place::new(&tree(), &tree());
    let outcome = diff(&place, &[]);
    outcome.assert_success();
    assert_eq!(outcome.stdout, "0 differ, 5 are the same\n");
    let (document, findings) = found(&place, &[]);
    assert!(findings.is_empty());
    assert_eq!((&document["same"], &document["equal"]), (&true.into(), &5.into()));
    assert_eq!(document["a"], place.source.to_str().unwrap());
    let nothing = Place::new(&[], &[]);
    assert_eq!(diff(&nothing, &[]).stdout, "0 differ, 0 are the same\n");
}

#[test]
fn every_difference_is_told_with_its_reason_and_1() {
    let place = Place::new(
        &[
            file("a only", "").mode(0o600),
            file("content", "one").mtime(NEWER),
            file("d/mode", "x").mode(0o600),
            file("mtime", "x").mtime(NEWER),
            file("size", "one"),
            dir("type"),
            link("target", "here"),
            file("xattr", "").xattr("user.k", "1"),
            file("d/whole/below", ""),
        ],
        &[
            file("b only", ""),
            file("content", "two"),
            file("d/mode", "x").mode(0o644),
            file("mtime", "x"),
            file("size", "three"),
            file("type", ""),
            link("target", "there"),
            file("xattr", "").xattr("user.k", "2"),
            dir("d"),
        ],
    );
    let before = place.both();
    let (document, findings) = found(&place, &[]);
    let expected = [
        ("a only", "only in a"),
        ("b only", "only in b"),
        ("content", "content, mtime"),
        ("d/mode", "mode"),
        ("d/whole", "only in a"),
        ("mtime", "mtime"),
        ("size", "size"),
        ("target", "target"),
        ("type", "type"),
        ("xattr", "attributes"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(path, what)| (path.to_owned(), what.to_owned())).into();
    assert_eq!(findings, expected);
    assert_eq!((&document["same"], &document["different"], &document["equal"]), (&false.into(), &10.into(), &1.into()));
    let only = document["findings"].as_array().unwrap().iter().find(|finding| finding["path"] == "a only").unwrap();
    assert_eq!((&only["a"]["mode"], &only["a"]["kind"], &only["b"]), (&"0600".into(), &"file".into(), &Value::Null));
    let outcome = diff(&place, &["--walkers", "1"]);
    outcome.assert_code(1);
    assert!(outcome.stderr.is_empty(), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("\nsize          size  (3 B / 5 B)\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("\ntype          type  (directory / file)\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("mode          d/mode  (0600 / 0644)\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("10 differ, 1 are the same\n"), "{}", outcome.stdout);
    place.assert_untouched(&before);
}

#[test]
fn what_is_read_is_what_is_asked_for() {
    let place = Place::new(
        &[file("alike", "one"), file("times", "x").mtime(NEWER), file("mode", "x").mode(0o600)],
        &[file("alike", "two"), file("times", "x"), file("mode", "x")],
    );
    let paths = |words: &[&str]| found(&place, words).1.into_keys().collect::<Vec<_>>();
    assert_eq!(paths(&[]), ["mode", "times"]);
    assert_eq!(paths(&["--checksum"]), ["alike", "mode", "times"]);
    assert_eq!(paths(&["--content-only"]), ["alike"]);
    assert_eq!(paths(&["--mtime-threshold", "1000000000"]), ["mode"]);
    assert_eq!(paths(&["--exclude", "mode"]), ["times"]);
    assert_eq!(paths(&["--include", "/mode", "--exclude", "*"]), ["mode"]);
    std::fs::write(place.source.join(".ha-syncignore"), "times\n").unwrap();
    std::fs::write(place.destination.join(".ha-syncignore"), "mode\n").unwrap();
    assert_eq!(paths(&[]), [".ha-syncignore"], "both sides' rules count");
}

#[test]
fn the_own_folder_special_files_and_leftovers_take_no_part() {
    let place = Place::new(&[file("a", "")], &[file("a", "")]);
    make(&place.source, &[file(".ha-sync/trash/x", ""), file("lost+found/x", "")]);
    make(&place.destination, &[file(".ha-sync.20260413T152357Z-0123abcd.1.tmp", ""), file(".nfs0001", "")]);
    let _socket = UnixListener::bind(place.source.join("socket")).unwrap();
    let outcome = diff(&place, &[]);
    outcome.assert_success();
    assert_eq!(outcome.stdout, "0 differ, 1 are the same, 1 are left out\n");
}

#[test]
fn what_cannot_be_read_is_not_called_the_same() {
    let tree = [file("closed/x", ""), file("a", ""), dir("closed").mode(0o000)];
    let place = Place::new(&tree, &tree);
    let diff = || {
        let run = place.binary().arg("diff").arg(&place.source).arg(&place.destination);
        // Root reads everything.
        if rustix::process::geteuid().is_root() { run.user(12345, 12345).run() } else { run.run() }
    };
    sh("chmod 755 . && chown -R 12345:12345 source destination 2>/dev/null || true", place.environment.path());
    let (same, other) = (diff(), {
        std::fs::write(place.source.join("a"), "other").unwrap();
        diff()
    });
    sh("chmod 755 source/closed destination/closed", place.environment.path());
    same.assert_code(3);
    assert!(same.stdout.contains("unreadable    closed  (failed to open directory"), "{}", same.stdout);
    assert!(same.stdout.ends_with("0 differ, 2 are the same, 1 could not be read\n"), "{}", same.stdout);
    assert_says(&same, "1 paths could not be compared");
    other.assert_code(1);
}

#[test]
fn roots_that_are_not_there_are_refused() {
    let place = Place::new(&[], &[]);
    for words in [&["diff"][..], &["diff", "/a"], &["diff", "a", "b"], &["diff", "/a", "/b", "/c"]] {
        place.sub(words).assert_code(2);
    }
    let outcome = place.sub(&["diff", place.source.to_str().unwrap(), "/nonexistent"]);
    outcome.assert_code(5);
    assert_says(&outcome, "failed to open root: /nonexistent");
    let own = place.sub(&["diff", place.source.to_str().unwrap(), place.source.to_str().unwrap()]);
    own.assert_success();
}

#[test]
fn many_names_and_many_walkers_find_the_same() {
    let place = Place::new(&[], &[]);
    for number in 0..3_000 {
        let name = format!("{number:04}");
        let content = if number % 100 == 0 { "differs" } else { "x" };
        std::fs::write(place.source.join(&name), "x").unwrap();
        std::fs::write(place.destination.join(&name), content).unwrap();
    }
    for walkers in ["1", "8"] {
        let (document, findings) = found(&place, &["--walkers", walkers]);
        let expected: Vec<String> = (0..30).map(|number| format!("{:04}", number * 100)).collect();
        assert_eq!(findings.into_keys().collect::<Vec<_>>(), expected);
        assert_eq!(document["equal"], 2_970);
    }
}
