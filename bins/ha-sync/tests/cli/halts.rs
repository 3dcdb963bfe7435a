//! Every halt of sync.md §4: nothing is changed, the override is named, and works.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::path::Path;

use ha_testkit::command::Outcome;
use ha_testkit::loopmount::{bind, tmpfs};
use ha_testkit::need;
use ha_testkit::passthrough::{Errno, Operation, Options, Passthrough, Rule};
use ha_testkit::tree::{Item, Snapshot, dir, file, make};

use crate::place::{Place, assert_says, query};

/// Checks that a run halted: exit code, both roots as before, the store's row, what is said.
#[track_caller]
fn assert_halted(place: &Place, before: &(Snapshot, Snapshot), outcome: &Outcome, seen: &str, hint: &str) {
    outcome.assert_code(5);
    place.assert_untouched(before);
    assert_recorded(place, outcome, seen, hint);
}

#[track_caller]
fn assert_recorded(place: &Place, outcome: &Outcome, seen: &str, hint: &str) {
    let row = place.last();
    assert_eq!(row.text("status"), "failed");
    let message = row.text("error_message");
    assert!(message.contains(seen), "{message}");
    assert_says(outcome, message);
    assert_says(outcome, hint);
    for count in ["files_created", "files_updated", "files_deleted", "files_failed"] {
        assert_eq!(row.number(count), 0, "{count}");
    }
    assert!(place.operations().is_empty());
}

fn files(directory: &str, count: usize) -> Vec<Item> {
    (0..count).map(|number| file(format!("{directory}/{number}"), number.to_string())).collect()
}

#[test]
fn a_missing_source_root() {
    let place = Place::new(&[], &[file("kept", "")]);
    std::fs::remove_dir(&place.source).unwrap();
    let before = Snapshot::of(&place.destination);
    let outcome = place.run(&["--delete-missing"]);
    outcome.assert_code(5);
    before.assert_same(&Snapshot::of(&place.destination));
    assert!(!place.source.exists());
    assert_recorded(&place, &outcome, "source root is missing", "mkdir -p");
    std::fs::create_dir(&place.source).unwrap();
    place.sync(&[]);
}

#[test]
fn a_missing_destination_root() {
    let place = Place::new(&[file("kept", "")], &[]);
    std::fs::remove_dir(&place.destination).unwrap();
    let before = Snapshot::of(&place.source);
    let outcome = place.run(&[]);
    outcome.assert_code(5);
    before.assert_same(&Snapshot::of(&place.source));
    assert!(!place.destination.exists(), "it is not made");
    assert_recorded(&place, &outcome, "destination root is missing", "mkdir -p");
}

#[test]
fn a_root_that_is_a_file() {
    let place = Place::new(&[file("kept", "")], &[]);
    let root = place.path("file");
    std::fs::write(&root, "content").unwrap();
    for (source, destination, side) in
        [(&place.source, &root, "destination root is not"), (&root, &place.destination, "source root is not")]
    {
        let before = place.both();
        let outcome = place.between(source, destination, &[]).run();
        assert_halted(&place, &before, &outcome, side, "name the directory");
        assert_eq!(std::fs::read(&root).unwrap(), b"content");
    }
}

#[test]
fn a_root_may_be_a_link_to_a_directory() {
    let place = Place::new(&[file("a", "")], &[]);
    let (one, other) = (place.path("one"), place.path("other"));
    std::os::unix::fs::symlink(&place.source, &one).unwrap();
    std::os::unix::fs::symlink(&place.destination, &other).unwrap();
    place.between(&one, &other, &[]).run().assert_success();
    place.assert_sides_equal();
}

#[track_caller]
fn not_apart(place: &Place, source: &Path, destination: &Path, seen: &str) {
    let before = place.both();
    let outcome = place.between(source, destination, &["--delete-missing"]).run();
    assert_halted(place, &before, &outcome, seen, "name two d");
}

#[test]
fn the_same_root_twice() {
    let place = Place::new(&[file("a", "")], &[]);
    not_apart(&place, &place.source, &place.source, "the same directory");
    let link = place.path("link");
    std::os::unix::fs::symlink(&place.source, &link).unwrap();
    not_apart(&place, &place.source, &link, "the same directory");
    not_apart(&place, &link, &place.source, "the same directory");
}

#[test]
fn the_same_root_twice_through_a_bind_mount() {
    let place = Place::new(&[file("a", "")], &[]);
    let _mount = need!(bind(&place.source, &place.destination));
    not_apart(&place, &place.source, &place.destination, "the same directory");
}

#[test]
fn a_root_inside_the_other() {
    let place = Place::new(&[file("sub/deeper/a", ""), file("b", "")], &[]);
    let inner = place.source.join("sub/deeper");
    not_apart(&place, &place.source, &inner, "destination lies inside the source");
    not_apart(&place, &inner, &place.source, "source lies inside the destination");
    let link = place.path("link");
    std::os::unix::fs::symlink(&inner, &link).unwrap();
    not_apart(&place, &place.source, &link, "destination lies inside the source");
    not_apart(&place, &link, &place.source, "source lies inside the destination");
}

#[test]
fn a_root_inside_the_other_through_a_bind_mount() {
    let place = Place::new(&[file("sub/deeper/a", ""), file("b", "")], &[]);
    let inner = place.source.join("sub");
    let _mount = need!(bind(&inner, &place.destination));
    not_apart(&place, &place.source, &place.destination, "destination lies inside the source");
    not_apart(&place, &place.destination, &place.source, "source lies inside the destination");
    not_apart(&place, &place.source, &place.destination.join("deeper"), "destination lies inside the source");
}

#[test]
fn a_root_inside_the_other_where_the_outer_one_is_bound() {
    let place = Place::new(&[file("sub/deeper/a", ""), file("b", "")], &[]);
    let _mount = need!(bind(&place.source, &place.destination));
    not_apart(&place, &place.source.join("sub"), &place.destination, "source lies inside the destination");
    not_apart(&place, &place.destination, &place.source.join("sub"), "destination lies inside the source");
}

#[test]
fn siblings_with_a_common_prefix_are_apart() {
    let place = Place::new(&[file("a", "")], &[]);
    let longer = place.path("source-copy");
    std::fs::create_dir(&longer).unwrap();
    place.between(&place.source, &longer, &[]).run().assert_success();
}

#[test]
fn require_mount() {
    let place = Place::new(&[file("a", "")], &[]);
    let before = place.both();
    let outcome = place.run(&["--require-mount"]);
    assert_halted(&place, &before, &outcome, "source root is not a mount point", "without --require-mount");
    let source = need!(tmpfs(1 << 20));
    make(source.path(), &[file("a", "")]);
    let half = Place::at(source.path(), &place.destination);
    let before = half.both();
    let outcome = half.run(&["--require-mount"]);
    assert_halted(&half, &before, &outcome, "destination root is not a mount point", "without --require-mount");
    let destination = need!(bind(&place.destination, &place.destination));
    let whole = Place::at(source.path(), destination.path());
    whole.sync(&["--require-mount"]);
    assert!(destination.path().join("a").exists(), "a bind mount counts");
}

#[test]
fn check_access() {
    let place = Place::new(&[file("a", ""), file("check/here", "")], &[]);
    let before = place.both();
    let outcome = place.run(&["--check-access", "check/here"]);
    assert_halted(&place, &before, &outcome, "check file is not on the destination side", "touch ");
    let outcome = place.run(&["--check-access", "nowhere"]);
    assert_halted(&place, &before, &outcome, "check file is not on the source side", "touch ");
    make(&place.destination, &[file("check/here", "")]);
    place.mirror(&["--check-access", "check/here"]);
}

#[test]
fn a_source_that_was_emptied() {
    let place = Place::new(&[file("a", ""), file("b/c", "")], &[]);
    place.mirror(&[]);
    std::fs::remove_dir_all(place.source.join("b")).unwrap();
    std::fs::remove_file(place.source.join("a")).unwrap();
    let before = place.both();
    for words in [&[][..], &["--delete-missing"], &["--delete-missing", "--max-delete", "100%"]] {
        let outcome = place.run(words);
        assert_halted(&place, &before, &outcome, "source root is empty and had entries", "--allow-empty-root");
    }
    place.mirror(&["--delete-missing", "--allow-empty-root"]);
    assert_eq!(place.last().number("files_deleted"), 3);
}

#[test]
fn a_destination_that_was_emptied() {
    let place = Place::new(&[file("a", "")], &[]);
    place.mirror(&[]);
    std::fs::remove_file(place.destination.join("a")).unwrap();
    let before = place.both();
    let outcome = place.run(&[]);
    assert_halted(&place, &before, &outcome, "destination root is empty and had entries", "--allow-empty-root");
    place.mirror(&["--allow-empty-root"]);
}

#[test]
fn a_root_with_only_excluded_and_own_entries_is_empty() {
    let place = Place::new(&[file("a", ""), file("excluded.tmp", "")], &[]);
    place.sync(&["--exclude", "*.tmp"]);
    std::fs::remove_file(place.source.join("a")).unwrap();
    make(&place.source, &[file(".ha-sync/x", ""), dir("lost+found")]);
    let before = place.both();
    let outcome = place.run(&["--exclude", "*.tmp"]);
    assert_halted(&place, &before, &outcome, "source root is empty", "--allow-empty-root");
}

#[test]
fn an_empty_source_that_was_never_synchronised() {
    let place = Place::new(&[], &[file("a", ""), file("b/c", "")]);
    let before = place.both();
    for words in [&["--delete-missing"][..], &["--delete-missing=strict"], &["--delete-missing", "--max-delete", "9"]] {
        let outcome = place.run(words);
        assert_halted(&place, &before, &outcome, "source root is empty, the destination is not", "--allow-empty-root");
    }
    place.sync(&[]);
    place.mirror(&["--delete-missing", "--allow-empty-root"]);
}

#[test]
fn more_deletions_than_the_default_allows() {
    let place = Place::new(&files("kept", 60), &files("kept", 60));
    make(&place.destination, &files("gone", 21));
    // 21 files and their directory of 83: more than a quarter.
    let before = place.both();
    let outcome = place.run(&["--delete-missing"]);
    assert_halted(&place, &before, &outcome, "22 of 83 entries", "--max-delete 100%");
    place.mirror(&["--delete-missing", "--max-delete", "100%"]);
}

#[test]
fn twenty_deletions_or_a_quarter_are_within_the_default() {
    let place = Place::new(&files("kept", 1), &files("kept", 1));
    make(&place.destination, &files("gone", 19));
    place.mirror(&["--delete-missing"]);
    let place = Place::new(&files("kept", 90), &files("kept", 90));
    make(&place.destination, &files("gone", 29));
    place.mirror(&["--delete-missing"]);
}

#[test]
fn more_deletions_than_a_count_allows() {
    let place = Place::new(&files("kept", 60), &files("kept", 60));
    make(&place.destination, &[file("kept/x", ""), file("kept/y", ""), file("kept/z", "")]);
    let before = place.both();
    let outcome = place.run(&["--delete-missing", "--max-delete", "2"]);
    assert_halted(&place, &before, &outcome, "3 of 64 entries", "--max-delete 100%");
    let outcome = place.run(&["--delete-missing", "--max-delete", "0"]);
    assert_halted(&place, &before, &outcome, "the limit is 0", "--approve ");
    place.mirror(&["--delete-missing", "--max-delete", "3"]);
}

#[test]
fn more_deletions_than_a_percentage_allows() {
    let place = Place::new(&files("kept", 8), &files("kept", 8));
    make(&place.destination, &[file("x", "")]);
    let before = place.both();
    let outcome = place.run(&["--delete-missing", "--max-delete", "9%"]);
    assert_halted(&place, &before, &outcome, "1 of 10 entries", "--max-delete 100%");
    place.mirror(&["--delete-missing", "--max-delete", "10%"]);
}

#[test]
fn replaced_types_do_not_count_as_deletions() {
    let place = Place::new(&[file("a", "file"), file("b", "")], &[file("a/x", ""), file("a/y", ""), file("b", "")]);
    place.mirror(&["--delete-missing", "--max-delete", "0"]);
}

#[test]
fn nothing_else_is_done_when_deletions_halt() {
    let place = Place::new(&[file("kept/new", "")], &files("gone", 30));
    let before = place.both();
    let outcome = place.run(&["--delete-missing"]);
    assert_halted(&place, &before, &outcome, "31 of 31 entries", "--approve ");
}

fn approval(outcome: &Outcome) -> String {
    let (_, rest) = outcome.stderr.split_once("--approve ").unwrap();
    rest.split(|letter: char| letter != '-' && !letter.is_ascii_alphanumeric()).next().unwrap().to_owned()
}

#[test]
fn an_approval_lets_exactly_its_set_through() {
    let place = Place::new(&files("kept", 3), &files("kept", 3));
    make(&place.destination, &files("gone", 30));
    let before = place.both();
    let halted = place.run(&["--delete-missing"]);
    halted.assert_code(5);
    let id = approval(&halted);
    place.assert_untouched(&before);
    assert_eq!(approval(&place.run(&["--delete-missing"])), id, "the same set has the same id");

    // One more, one less, another size, another time, another type: not that set.
    let changes: [(&str, &dyn Fn()); 4] = [
        ("one more", &|| make(&place.destination, &[file("gone/more", "")])),
        ("one less", &|| {
            std::fs::remove_file(place.destination.join("gone/more")).unwrap();
            std::fs::remove_file(place.destination.join("gone/7")).unwrap();
        }),
        ("another size", &|| make(&place.destination, &[file("gone/7", "longer than it was")])),
        ("another time", &|| make(&place.destination, &[file("gone/7", "7").mtime(1_700_000_001)])),
    ];
    for (what, change) in changes {
        change();
        let before = place.both();
        let outcome = place.run(&["--delete-missing", "--approve", &id]);
        assert_eq!(outcome.code(), Some(5), "{what}: {}", outcome.stderr);
        place.assert_untouched(&before);
        assert_ne!(approval(&outcome), id, "{what}");
    }
    make(&place.destination, &[file("gone/7", "7")]);
    place.mirror(&["--delete-missing", "--approve", &id]);
    assert_eq!(place.last().number("files_deleted"), 31);
}

#[test]
fn an_approval_is_good_for_one_run() {
    let place = Place::new(&files("kept", 3), &files("kept", 3));
    make(&place.destination, &files("gone", 30));
    let id = approval(&place.run(&["--delete-missing"]));
    place.mirror(&["--delete-missing", "--approve", &id]);
    // The very same entries are there again.
    make(&place.destination, &files("gone", 30));
    let before = place.both();
    let outcome = place.run(&["--delete-missing", "--approve", &id]);
    outcome.assert_code(5);
    place.assert_untouched(&before);
    let next = approval(&outcome);
    assert_ne!(next, id);
    place.mirror(&["--delete-missing", "--approve", &next]);
}

#[test]
fn clocks_that_disagree() {
    let place = Place::new(&[file("a", "")], &[file("backing/.keep", "")]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let place = Place { destination: mount.path().join("backing"), ..place };
    for offset in [-10_000_000_000, 10_000_000_000] {
        mount.set_clock_offset(offset);
        let before = place.both();
        let outcome = place.run(&[]);
        assert_halted(&place, &before, &outcome, "the clocks of the two sides are", "--allow-clock-skew");
    }
    mount.set_clock_offset(1_000_000_000);
    place.sync(&[]);
    mount.set_clock_offset(10_000_000_000);
    place.sync(&["--allow-clock-skew"]);
    place.sync(&["--mtime-threshold", "11"]);
}

/// Mounts below the source, copies it, takes the mount away.
#[test]
fn a_mount_below_the_source_that_is_gone_keeps_what_it_brought() {
    let place = Place::new(&[dir("disk"), file("a", ""), file("other/b", "")], &[]);
    let mount = need!(tmpfs(1 << 20));
    make(mount.path(), &[file("photo", "only copy"), file("album/photo", "only copy")]);
    let bound = need!(bind(mount.path(), &place.source.join("disk")));
    place.mirror(&["--cross-mounts"]);
    drop(bound);
    assert!(std::fs::read_dir(place.source.join("disk")).unwrap().next().is_none());
    std::fs::remove_file(place.source.join("other/b")).unwrap();
    let outcome = place.run(&["--cross-mounts", "--delete-missing", "--max-delete", "100%"]);
    outcome.assert_code(3);
    assert_says(&outcome, "disk");
    assert_says(&outcome, "--allow-missing-mounts");
    assert_eq!(std::fs::read(place.destination.join("disk/photo")).unwrap(), b"only copy");
    assert!(place.destination.join("disk/album/photo").exists());
    assert!(!place.destination.join("other/b").exists(), "other directories go on");
    assert_eq!(place.last().text("status"), "partial_failure");
    // It stays remembered until somebody says so.
    place.run(&["--delete-missing"]).assert_code(3);
    std::fs::remove_dir(place.source.join("disk")).unwrap();
    place.run(&["--delete-missing", "--max-delete", "100%"]).assert_code(3);
    assert!(place.destination.join("disk/album/photo").exists());
    std::fs::create_dir(place.source.join("disk")).unwrap();
    place.sync(&["--delete-missing", "--max-delete", "100%", "--allow-missing-mounts"]);
    assert!(!place.destination.join("disk/photo").exists());
    place.sync(&["--delete-missing"]);
}

#[test]
fn another_file_system_below_a_root_is_not_entered() {
    let place = Place::new(&[dir("disk"), file("a", "")], &[file("disk/kept", ""), file("a", "")]);
    let mount = need!(tmpfs(1 << 20));
    make(mount.path(), &[file("inside", "")]);
    let _bound = need!(bind(mount.path(), &place.source.join("disk")));
    place.sync(&["--delete-missing", "--max-delete", "100%"]);
    assert!(place.destination.join("disk/kept").exists());
    assert!(!place.destination.join("disk/inside").exists());
    assert_eq!(place.skipped("other file system"), 1);
}

#[test]
fn a_mount_below_the_destination_that_is_gone_is_not_filled() {
    let place = Place::new(&[file("disk/a", ""), file("b", "")], &[dir("disk")]);
    let mount = need!(tmpfs(1 << 20));
    let bound = need!(bind(mount.path(), &place.destination.join("disk")));
    place.sync(&["--cross-mounts"]);
    assert!(mount.path().join("a").exists());
    drop(bound);
    place.run(&["--cross-mounts"]).assert_code(3);
    assert!(!place.destination.join("disk/a").exists());
    place.mirror(&["--cross-mounts", "--allow-missing-mounts"]);
}

#[test]
fn a_mount_below_the_destination_whose_directory_is_gone_is_not_filled() {
    let place = Place::new(&[file("a/disk/photo", "x"), file("b", "")], &[dir("a/disk")]);
    let mount = need!(tmpfs(1 << 20));
    let bound = need!(bind(mount.path(), &place.destination.join("a/disk")));
    place.sync(&["--cross-mounts"]);
    assert!(mount.path().join("photo").exists());
    drop(bound);
    std::fs::remove_dir(place.destination.join("a/disk")).unwrap();
    make(&place.source, &[file("c", "")]);
    let deletes = ["--cross-mounts", "--delete-missing", "--max-delete", "100%"];
    for words in [&deletes[..1], &deletes, &[]] {
        let outcome = place.run(words);
        outcome.assert_code(3);
        assert_says(&outcome, "a/disk");
        assert_says(&outcome, "--allow-missing-mounts");
        assert!(!place.destination.join("a/disk").exists());
        assert_eq!(place.last().text("status"), "partial_failure");
        assert_eq!(place.skipped("mount missing"), 1);
    }
    assert!(place.destination.join("c").exists(), "the rest goes on");
    // Nor when what held it is gone too.
    std::fs::remove_dir(place.destination.join("a")).unwrap();
    place.run(&["--cross-mounts"]).assert_code(3);
    assert!(!place.destination.join("a/disk").exists());
    place.mirror(&["--cross-mounts", "--allow-missing-mounts"]);
    place.mirror(&["--cross-mounts"]);
}

#[test]
fn a_mount_below_the_source_that_is_gone_with_its_directory_keeps_what_it_brought() {
    let place = Place::new(&[dir("a/disk"), file("b", "")], &[]);
    let mount = need!(tmpfs(1 << 20));
    make(mount.path(), &[file("photo", "only copy")]);
    let bound = need!(bind(mount.path(), &place.source.join("a/disk")));
    place.mirror(&["--cross-mounts"]);
    drop(bound);
    let words = ["--cross-mounts", "--delete-missing", "--max-delete", "100%"];
    let kept = || assert_eq!(std::fs::read(place.destination.join("a/disk/photo")).unwrap(), b"only copy");
    std::fs::remove_dir(place.source.join("a/disk")).unwrap();
    place.run(&words).assert_code(3);
    kept();
    std::fs::remove_dir(place.source.join("a")).unwrap();
    place.run(&words).assert_code(3);
    kept();
    // A file in place of what held it.
    make(&place.source, &[file("a", "a file")]);
    place.run(&words).assert_code(3);
    kept();
    place.mirror(&[&words[..], &["--allow-missing-mounts"]].concat());
}

/// Runs with these log directory and database, twice, with and without deletions.
#[track_caller]
fn with_records(place: &Place, log_directory: &Path, database: Option<&Path>) {
    let pair = place.environment.pair();
    for words in [&[][..], &["--delete-missing", "--max-delete", "100%"], &["--delete-missing=strict"]] {
        let run = place.binary().arg("--src").arg(&place.source).arg("--dest").arg(&place.destination);
        let mut run = run.args(["--pair", &pair]).arg("--log-dir").arg(log_directory).args(words);
        if let Some(database) = database {
            run = run.arg("--db-dsn").arg(format!("sqlite:{}", database.display()));
        }
        run.run().assert_success();
        let database = database.map_or_else(|| log_directory.join("ha-sync.db"), Path::to_owned);
        let rows = query(&database, "SELECT * FROM sync_iterations ORDER BY id DESC LIMIT 1");
        assert_eq!(rows[0].text("status"), "success");
        assert!(log_directory.join("state").join(&pair).join("state.json").exists());
    }
}

#[test]
fn the_log_directory_in_the_source_is_left_out() {
    let place = Place::new(&[file("a", ""), file("var/b", "")], &[file("gone", "")]);
    with_records(&place, &place.source.join("var/log"), None);
    assert!(place.destination.join("var/b").exists());
    assert!(!place.destination.join("var/log").exists());
    assert!(!place.destination.join("gone").exists());
    // What is there by that name is not touched.
    make(&place.destination, &[file("var/log/old", "kept")]);
    with_records(&place, &place.source.join("var/log"), None);
    assert_eq!(std::fs::read(place.destination.join("var/log/old")).unwrap(), b"kept");
}

#[test]
fn the_log_directory_in_the_destination_is_left_out() {
    let place = Place::new(&[file("a", "")], &[file("gone/b", ""), dir("gone/log")]);
    // By another path too.
    let link = place.path("link");
    std::os::unix::fs::symlink(place.destination.join("gone/log"), &link).unwrap();
    with_records(&place, &link, None);
    assert!(place.destination.join("gone/log/ha-sync.db").exists());
    assert!(!place.destination.join("gone/b").exists());
    // Nor does a file take the place of a directory that holds it, or of it.
    make(&place.source, &[file("gone", "a file")]);
    let run = place.binary().arg("--src").arg(&place.source).arg("--dest").arg(&place.destination);
    let run = run.args(["--pair", &place.environment.pair(), "--delete-missing", "--log-dir"]).arg(&link);
    run.run().assert_code(3);
    assert!(place.destination.join("gone/log/ha-sync.db").exists());
}

#[test]
fn the_database_in_a_root_is_left_out_and_its_folder_is_not() {
    for at_source in [true, false] {
        let place = Place::new(&[file("album/photo", "x"), file("album/x-wal", "a photo")], &[dir("album")]);
        let root = if at_source { &place.source } else { &place.destination };
        let database = root.join("album/audit.db");
        with_records(&place, &place.path("logs"), Some(&database));
        assert!(database.exists());
        for name in ["album/photo", "album/x-wal"] {
            assert!(place.destination.join(name).exists(), "{name}");
        }
        assert_eq!(place.destination.join("album/audit.db").exists(), !at_source);
    }
}

#[test]
fn a_source_with_only_the_log_directory_is_empty() {
    let place = Place::new(&[dir("log")], &[file("a", "")]);
    let run = place.binary().arg("--src").arg(&place.source).arg("--dest").arg(&place.destination);
    let run = run.args(["--pair", &place.environment.pair(), "--delete-missing", "--log-dir"]);
    let outcome = run.arg(place.source.join("log")).run();
    outcome.assert_code(5);
    assert_says(&outcome, "source root is empty, the destination is not");
    assert!(place.destination.join("a").exists());
}

#[test]
fn a_root_that_is_the_log_directory() {
    let place = Place::new(&[file("a", "")], &[file("b", "")]);
    for (root, side) in [(&place.source, "source"), (&place.destination, "destination")] {
        let run = place.binary().arg("--src").arg(&place.source).arg("--dest").arg(&place.destination);
        let run = run.args(["--pair", &place.environment.pair(), "--delete-missing", "--log-dir"]);
        let outcome = run.arg(root).run();
        outcome.assert_code(5);
        assert_says(&outcome, &format!("{side} root is the log directory"));
        assert_says(&outcome, "--log-dir");
    }
    assert!(!place.destination.join("a").exists());
}

/// A directory of one side cannot be listed: nothing below it is deleted, the others go on.
fn unlisted(at_source: bool, operation: Operation, errno: Errno) {
    let common = [file("top/bad/a", ""), file("top/bad/sub/b", ""), file("good/c", ""), file("good/sub/d", "")];
    let place = Place::new(&common, &common);
    make(
        &place.destination,
        &[file("top/bad/only", ""), file("top/bad/sub/only", ""), file("top/bad/dir/only", ""), file("good/only", "")],
    );
    make(&place.destination, &[file("good/dir/only", ""), file("good/sub/only", "")]);
    make(&place.source, &[file("good/new", "")]);
    let before = Snapshot::of(&place.destination.join("top/bad"));
    let backing = if at_source { place.source.clone() } else { place.destination.clone() };
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    let fault = mount.inject(Rule::on(operation).path_is("top/bad").error(errno));
    let (source, destination) =
        if at_source { (mount.path(), &*place.destination) } else { (&*place.source, mount.path()) };
    let outcome = place.between(source, destination, &["--delete-missing", "--max-delete", "100%"]).run();
    assert!(fault.fired() > 0);
    outcome.assert_code(3);
    assert_says(&outcome, "top/bad");
    before.assert_same(&Snapshot::of(&place.destination.join("top/bad")));
    for gone in ["good/only", "good/dir", "good/sub/only"] {
        assert!(!place.destination.join(gone).exists(), "{gone}");
    }
    assert!(place.destination.join("good/new").exists());
    assert_eq!(place.last().text("status"), "partial_failure");
    assert_eq!(place.operation("top/bad").text("status"), "fail");
    // It goes on when the directory is back.
    mount.clear();
    let outcome = place.between(source, destination, &["--delete-missing", "--max-delete", "100%"]).run();
    outcome.assert_success();
    drop(mount);
    place.assert_sides_equal();
}

macro_rules! unlisted {
    ($($name:ident: $at_source:expr, $operation:ident, $errno:ident;)*) => {$(
        #[test]
        fn $name() {
            unlisted($at_source, Operation::$operation, Errno::$errno);
        }
    )*};
}

unlisted! {
    a_source_directory_whose_listing_fails_with_eio: true, Readdir, IO;
    a_source_directory_whose_listing_fails_with_estale: true, Readdir, STALE;
    a_source_directory_whose_listing_fails_with_eacces: true, Readdir, ACCESS;
    a_source_directory_whose_listing_fails_with_enoent: true, Readdir, NOENT;
    a_source_directory_that_cannot_be_opened_with_eio: true, Opendir, IO;
    a_source_directory_that_cannot_be_opened_with_estale: true, Opendir, STALE;
    a_source_directory_that_cannot_be_opened_with_eacces: true, Opendir, ACCESS;
    a_source_directory_that_cannot_be_opened_with_enoent: true, Opendir, NOENT;
    a_source_directory_that_is_listed_and_not_found: true, Lookup, NOENT;
    a_source_directory_that_cannot_be_looked_up: true, Lookup, IO;
    a_destination_directory_whose_listing_fails_with_eio: false, Readdir, IO;
    a_destination_directory_whose_listing_fails_with_estale: false, Readdir, STALE;
    a_destination_directory_whose_listing_fails_with_eacces: false, Readdir, ACCESS;
    a_destination_directory_whose_listing_fails_with_enoent: false, Readdir, NOENT;
    a_destination_directory_that_cannot_be_opened_with_eio: false, Opendir, IO;
    a_destination_directory_that_cannot_be_opened_with_enoent: false, Opendir, NOENT;
    a_destination_directory_that_is_listed_and_not_found: false, Lookup, NOENT;
    a_destination_directory_that_cannot_be_looked_up: false, Lookup, ACCESS;
}

#[test]
fn a_transient_listing_error_is_retried() {
    let place = Place::new(&[file("dir/a", "")], &[file("dir/b", "")]);
    let mount = need!(Passthrough::mount(&place.source, &Options::default()));
    let fault = mount.inject(Rule::on(Operation::Readdir).path_is("dir").error(Errno::STALE).once());
    place.between(mount.path(), &place.destination, &["--delete-missing"]).run().assert_success();
    assert_eq!(fault.fired(), 1);
    drop(mount);
    place.assert_sides_equal();
}

#[test]
fn a_root_that_cannot_be_listed_ends_the_run() {
    let place = Place::new(&[file("dir/a", "")], &[file("dir/b", "")]);
    let mount = need!(Passthrough::mount(&place.source, &Options::default()));
    let before = place.both();
    mount.inject(Rule::on(Operation::Readdir).path_is("").error(Errno::IO));
    let outcome = place.between(mount.path(), &place.destination, &["--delete-missing"]).run();
    outcome.assert_code(1);
    place.assert_untouched(&before);
    assert_eq!(place.last().text("status"), "failed");
}

#[test]
fn a_damaged_memory_of_the_pair_halts() {
    let place = Place::new(&[file("a", "")], &[]);
    place.mirror(&[]);
    let state = place.environment.log_dir().join("state").join(place.environment.pair()).join("state.json");
    std::fs::write(&state, "{ not json").unwrap();
    make(&place.source, &[file("b", "")]);
    let before = place.both();
    let outcome = place.run(&["--delete-missing"]);
    outcome.assert_code(5);
    place.assert_untouched(&before);
    assert_says(&outcome, "state.json");
    assert_says(&outcome, "hint: ");
    std::fs::remove_file(&state).unwrap();
    place.mirror(&[]);
}

#[test]
fn an_emptied_source_halts_a_dry_run_too() {
    let place = Place::new(&[file("a", "")], &[]);
    place.mirror(&[]);
    std::fs::remove_file(place.source.join("a")).unwrap();
    let before = place.both();
    let outcome = place.run(&["--dry-run", "--delete-missing"]);
    assert_halted(&place, &before, &outcome, "source root is empty and had entries", "--allow-empty-root");
    assert_eq!(place.last().number("dry_run"), 1);
}
