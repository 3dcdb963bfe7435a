//! What is left out.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use ha_testkit::tree::{Compare, Snapshot, dir, fifo, file, link, make};

use crate::place::{Place, assert_says};

const NEWER: i64 = 1_750_000_000;

fn names(root: &std::path::Path) -> Vec<String> {
    let snapshot = Snapshot::with(root, &Compare::contents());
    snapshot.entries.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn the_first_matching_rule_wins() {
    let place = Place::new(&[file("a.tmp", ""), file("keep.tmp", ""), file("d/b.tmp", ""), file("d/c", "")], &[]);
    place.sync(&["--include", "keep.tmp", "--exclude", "*.tmp"]);
    assert_eq!(names(&place.destination), ["d", "d/c", "keep.tmp"]);
    place.sync(&["--exclude", "*.tmp", "--include", "a.tmp"]);
    assert_eq!(names(&place.destination), ["d", "d/c", "keep.tmp"], "the later rule changes nothing");
}

#[test]
fn globs_are_unanchored_unless_they_begin_with_a_slash() {
    let items = [file("x/a", ""), file("y/x/a", ""), file("y/a", ""), file("a", "")];
    let place = Place::new(&items, &[]);
    place.sync(&["--exclude", "/x"]);
    assert_eq!(names(&place.destination), ["a", "y", "y/a", "y/x", "y/x/a"]);
    let place = Place::new(&items, &[]);
    place.sync(&["--exclude", "x/"]);
    assert_eq!(names(&place.destination), ["a", "y", "y/a"]);
    let place = Place::new(&items, &[]);
    place.sync(&["--exclude", "/y/a"]);
    assert_eq!(names(&place.destination), ["a", "x", "x/a", "y", "y/x", "y/x/a"]);
    let place = Place::new(&items, &[]);
    place.sync(&["--exclude", "y/a"]);
    assert_eq!(names(&place.destination), ["a", "x", "x/a", "y", "y/x", "y/x/a"]);
}

#[test]
fn a_directory_mark_matches_directories_only() {
    let place = Place::new(&[file("cache/a", ""), file("d/cache", "a file")], &[]);
    place.sync(&["--exclude", "cache/"]);
    assert_eq!(names(&place.destination), ["d", "d/cache"]);
}

#[test]
fn excluded_entries_are_never_copied_updated_or_deleted() {
    let place = Place::new(
        &[file("new.tmp", ""), file("both.tmp", "source").mtime(NEWER), file("d/kept", "")],
        &[file("both.tmp", "destination"), file("only.tmp", ""), file("gone/x.tmp", ""), file("gone/y", "")],
    );
    make(&place.destination, &[file("skipped/z", "")]);
    let before = Snapshot::of(&place.destination);
    place.sync(&["--delete-missing", "--max-delete", "100%", "--exclude", "*.tmp", "--exclude", "/skipped/"]);
    let after = Snapshot::of(&place.destination);
    for name in ["both.tmp", "only.tmp", "gone/x.tmp", "skipped", "skipped/z"] {
        assert_eq!(before.get(name), after.get(name), "{name}");
    }
    assert!(after.get("new.tmp").is_none());
    assert!(after.get("gone/y").is_none());
    assert!(after.get("gone").is_some(), "it holds what is excluded");
    place.sync(&["--delete-missing", "--max-delete", "100%", "--exclude", "*.tmp", "--exclude", "/skipped/"]);
    assert!(place.operations().is_empty());
}

#[test]
fn excluded_entries_are_deleted_when_that_is_asked_for() {
    let place = Place::new(
        &[file("both.tmp", "source"), file("kept", "")],
        &[file("both.tmp", "x"), file("only.tmp", ""), file("d/x.tmp", ""), file("kept", "")],
    );
    let words = ["--delete-missing", "--delete-excluded", "--max-delete", "100%", "--exclude", "*.tmp"];
    place.sync(&words);
    assert_eq!(names(&place.destination), ["kept"]);
    place.sync(&words);
    assert!(place.operations().is_empty());
}

#[test]
fn the_ignore_file_of_the_source_counts_and_is_synchronised_itself() {
    let place = Place::new(
        &[
            file(".ha-syncignore", "# a comment\n*.log\n!keep.log\n/build/\ndoc/*.txt\n\\#literal\n"),
            file("a.log", ""),
            file("keep.log", ""),
            file("build/x", ""),
            file("sub/build/x", ""),
            file("doc/a.txt", ""),
            file("sub/doc/a.txt", ""),
            file("#literal", ""),
        ],
        &[],
    );
    // The destination's own is only a file.
    make(&place.destination, &[file(".ha-syncignore", "*\n").mtime(1)]);
    place.sync(&[]);
    let wanted = [".ha-syncignore", "doc", "keep.log", "sub", "sub/build", "sub/build/x", "sub/doc", "sub/doc/a.txt"];
    assert_eq!(names(&place.destination), wanted);
    // The command line comes first.
    place.sync(&["--include", "a.log", "--exclude", "sub/"]);
    assert!(place.destination.join("a.log").exists());
}

#[test]
fn the_last_matching_line_of_the_ignore_file_wins() {
    let place = Place::new(&[file(".ha-syncignore", "!a\na\n*.x\n!b.x\n"), file("a", ""), file("b.x", "")], &[]);
    place.sync(&[]);
    assert_eq!(names(&place.destination), [".ha-syncignore", "b.x"]);
}

#[test]
fn a_bad_line_of_the_ignore_file_is_bad_usage_and_changes_nothing() {
    let place = Place::new(&[file(".ha-syncignore", "*.tmp\n[a\n"), file("a", "")], &[]);
    let before = place.both();
    let outcome = place.run(&[]);
    outcome.assert_code(2);
    assert_says(&outcome, "line 2 of .ha-syncignore: invalid pattern: [a: unclosed character class");
    place.assert_untouched(&before);
}

#[test]
fn braces_in_the_ignore_file_are_ordinary_letters() {
    let items = [file("{a,b}", ""), file("a", ""), file("b", ""), file("c{", ""), file("c", "")];
    let place = Place::new(&items, &[]);
    make(&place.source, &[file(".ha-syncignore", "{a,b}\nc{\n")]);
    place.sync(&[]);
    assert_eq!(names(&place.destination), [".ha-syncignore", "a", "b", "c"]);
}

#[test]
fn an_ignore_file_that_is_no_file_is_bad_usage_and_changes_nothing() {
    let target = [file("rules", "secret\n"), link(".ha-syncignore", "rules")];
    let dangling = [link(".ha-syncignore", "nowhere")];
    for items in [&target[..], &dangling, &[dir(".ha-syncignore")], &[fifo(".ha-syncignore")]] {
        let place = Place::new(items, &[]);
        make(&place.source, &[file("secret", "")]);
        let before = place.both();
        let outcome = place.run(&[]);
        outcome.assert_code(2);
        assert_says(&outcome, ".ha-syncignore at the source root is not a regular file");
        place.assert_untouched(&before);
    }
    // The destination's is only an entry.
    let place = Place::new(&[file("a", "")], &[dir(".ha-syncignore")]);
    place.sync(&[]);
}

#[test]
fn names_that_are_not_text_are_filtered_too() {
    let place = Place::new(&[file(b"\xff\xfe.tmp", ""), file(b"\xff\xfe", ""), file("new\nline.tmp", "")], &[]);
    place.sync(&["--exclude", "*.tmp"]);
    assert_eq!(Snapshot::with(&place.destination, &Compare::contents()).entries.len(), 1);
}

#[test]
fn an_excluded_directory_is_not_even_read() {
    let place = Place::new(&[dir("closed").mode(0), file("a", "")], &[]);
    place.sync(&["--exclude", "closed"]);
    assert_eq!(names(&place.destination), ["a"]);
}

#[test]
fn an_excluded_directory_is_not_replaced_by_a_file_of_its_name() {
    let place = Place::new(
        &[file("build", "a file").mtime(NEWER), file("sub/build", "a file").mtime(NEWER), file("a", "")],
        &[file("build/precious", "only copy"), file("sub/build/precious", "only copy")],
    );
    let before = Snapshot::of(&place.destination);
    let words = ["--delete-missing", "--max-delete", "100%", "--exclude", "build/"];
    for words in [&words[..], &words[3..], &["--dry-run", "--exclude", "build/"]] {
        place.sync(words);
        let after = Snapshot::of(&place.destination);
        for name in ["build", "build/precious", "sub/build", "sub/build/precious"] {
            assert_eq!(before.get(name), after.get(name), "{name}");
        }
    }
    assert!(place.operations().iter().all(|row| !row.text("filepath").ends_with("build")), "it is no operation");
    assert!(place.destination.join("a").exists());
    // Only when that is asked for.
    place.sync(&["--delete-missing", "--delete-excluded", "--max-delete", "100%", "--exclude", "build/"]);
    assert_eq!(std::fs::read(place.destination.join("build")).unwrap(), b"a file");
    assert_eq!(std::fs::read(place.trash().join("build/precious")).unwrap(), b"only copy");
}

#[test]
fn a_file_is_not_touched_for_an_excluded_directory_of_its_name() {
    let items = [file("build/made", ""), file("kept", "")];
    let place = Place::new(&items, &[file("build", "a file"), file("kept", "")]);
    let before = Snapshot::of(&place.destination);
    place.sync(&["--delete-missing", "--max-delete", "100%", "--exclude", "build/"]);
    assert_eq!(before.get("build"), Snapshot::of(&place.destination).get("build"));
    assert!(place.operations().is_empty());
    // And where the file is what is excluded.
    let place = Place::new(&items, &[file("build", "a file"), file("kept", "")]);
    let before = Snapshot::of(&place.destination);
    place.sync(&["--delete-missing", "--max-delete", "100%", "--include", "build/", "--exclude", "build"]);
    assert_eq!(before.get("build"), Snapshot::of(&place.destination).get("build"));
    assert!(place.operations().is_empty());
}
