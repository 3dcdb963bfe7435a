//! Links, times, modes, owners and attributes.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use ha_testkit::command::{Outcome, Run};
use ha_testkit::loopmount::{Skipped, need_tool};
use ha_testkit::need;
use ha_testkit::tree::{Compare, Snapshot, dir, file, hard_link, link, make};

use crate::place::{Place, assert_says, sh, trash_runs};

const NEWER: i64 = 1_750_000_000;

pub(crate) fn root() -> Result<(), Skipped> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Skipped::because("owners are set by root")) }
}

#[track_caller]
fn assert_sides_linked(place: &Place) {
    let linked = Compare { link_counts: true, ..Compare::sides() };
    Snapshot::with(&place.source, &linked).assert_same(&Snapshot::with(&place.destination, &linked));
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

#[track_caller]
fn assert_nothing_to_do(place: &Place, words: &[&str]) {
    let before = place.both();
    place.sync(words);
    let rows = place.operations();
    assert!(rows.is_empty(), "{} rows, first on {}", rows.len(), rows[0].text("filepath"));
    place.assert_untouched(&before);
}

#[test]
fn hard_links_are_kept() {
    let place = Place::new(
        &[
            file("a", "content"),
            hard_link("b/also a", "a"),
            hard_link("z/also a", "a"),
            file("big", vec![1; 300_000]),
            hard_link("big too", "big"),
            file("alone", ""),
        ],
        &[],
    );
    place.sync(&["--hard-links"]);
    assert_sides_linked(&place);
    assert_eq!(inode(&place.destination.join("a")), inode(&place.destination.join("z/also a")));
    assert_eq!(place.last().number("total_bytes_transferred"), 300_007, "one copy, then links");
    assert_nothing_to_do(&place, &["--hard-links"]);
    assert_nothing_to_do(&place, &["--hard-links", "--delete-missing"]);
}

#[test]
fn hard_links_are_kept_when_the_file_is_updated() {
    let place = Place::new(&[file("a", "one"), hard_link("b", "a"), hard_link("d/c", "a")], &[]);
    place.sync(&["--hard-links"]);
    make(&place.source, &[file("a", "another").mtime(NEWER)]);
    place.sync(&["--hard-links"]);
    assert_sides_linked(&place);
    assert_eq!(std::fs::read(place.destination.join("d/c")).unwrap(), b"another");
    assert_nothing_to_do(&place, &["--hard-links"]);
    // One name more, one less.
    make(&place.source, &[hard_link("e", "a")]);
    std::fs::remove_file(place.source.join("b")).unwrap();
    // The trash would hold one more name.
    place.sync(&["--hard-links", "--delete-missing", "--keep-replaced", "0"]);
    assert_sides_linked(&place);
    assert_nothing_to_do(&place, &["--hard-links", "--delete-missing"]);
}

#[test]
fn separate_equal_names_are_linked() {
    let place = Place::new(&[file("a", "content"), hard_link("b", "a")], &[]);
    place.mirror(&[]);
    assert_ne!(inode(&place.destination.join("a")), inode(&place.destination.join("b")));
    assert_nothing_to_do(&place, &[]);
    place.sync(&["--hard-links"]);
    assert_sides_linked(&place);
    assert_nothing_to_do(&place, &["--hard-links"]);
}

#[test]
fn links_that_came_apart_at_the_source_come_apart() {
    let place = Place::new(&[file("a", "content"), hard_link("b", "a")], &[]);
    place.sync(&["--hard-links"]);
    std::fs::remove_file(place.source.join("b")).unwrap();
    make(&place.source, &[file("b", "its own").mtime(NEWER)]);
    place.sync(&["--hard-links", "--keep-replaced", "0"]);
    assert_sides_linked(&place);
    assert_nothing_to_do(&place, &["--hard-links"]);
}

#[test]
fn an_update_of_a_file_with_links_at_the_destination_keeps_the_others_as_they_are() {
    let place = Place::new(&[file("a", "new").mtime(NEWER)], &[file("a", "old"), hard_link("b", "a")]);
    place.sync(&[]);
    assert_eq!(std::fs::read(place.destination.join("a")).unwrap(), b"new");
    assert_eq!(std::fs::read(place.destination.join("b")).unwrap(), b"old", "never written in place");
}

#[test]
fn a_change_of_the_mode_alone_comes_without_bytes() {
    let place = Place::new(&[file("a", "x"), dir("d"), file("s", "x").mode(0o4711)], &[]);
    place.mirror(&[]);
    let before = inode(&place.destination.join("a"));
    for (name, mode) in [("a", 0o600), ("d", 0o1770), ("s", 0o2755)] {
        std::fs::set_permissions(place.source.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    place.mirror(&[]);
    assert_eq!(inode(&place.destination.join("a")), before);
    let row = place.last();
    assert_eq!((row.number("files_updated"), row.number("total_bytes_transferred")), (3, 0));
    assert_eq!(place.operation("a").number("size_before"), 1);
    assert_nothing_to_do(&place, &[]);
    assert!(trash_runs(&place.destination).is_empty());
}

#[test]
fn set_id_and_sticky_bits_are_kept_with_their_owner() {
    need!(root());
    let place = Place::new(
        &[
            file("setuid", "x").mode(0o4755).owner(1234, 2345),
            file("setgid", "x").mode(0o2755).owner(1234, 2345),
            dir("sticky").mode(0o1777),
            dir("setgid dir").mode(0o2775).owner(1, 2345),
            file("setgid dir/file", "x").owner(7, 8),
            dir("setgid dir/sub").mode(0o755),
        ],
        &[],
    );
    place.mirror(&[]);
    assert_nothing_to_do(&place, &[]);
}

#[test]
fn a_change_of_the_owner_alone_comes_without_bytes() {
    need!(root());
    let place = Place::new(&[file("a", "x").mode(0o6755), dir("d"), link("l", "x")], &[]);
    place.mirror(&[]);
    for name in ["a", "d"] {
        chown(place.source.join(name), Some(1000), Some(2000)).unwrap();
    }
    std::os::unix::fs::lchown(place.source.join("l"), Some(3000), None).unwrap();
    std::fs::set_permissions(place.source.join("a"), PermissionsExt::from_mode(0o6755)).unwrap();
    place.mirror(&[]);
    let row = place.last();
    assert_eq!((row.number("files_updated"), row.number("total_bytes_transferred")), (3, 0));
    assert_nothing_to_do(&place, &[]);
}

#[test]
fn attributes_and_acls_are_kept_and_their_change_alone_comes() {
    need!(need_tool("setfacl"));
    let place = Place::new(&[file("a", "x").xattr("user.note", "one"), dir("d").xattr("user.d", "x")], &[]);
    sh("setfacl -m u:1234:r a; setfacl -d -m g:99:rwx d; setfacl -m u:5:x d; echo y > d/inherits", &place.source);
    place.mirror(&[]);
    assert_nothing_to_do(&place, &[]);
    sh("setfattr -n user.note -v two a; setfattr -n user.more -v '' a; setfattr -x user.d d", &place.source);
    sh("setfacl -x u:1234 a; setfacl -k d; setfacl -b d/inherits", &place.source);
    place.mirror(&[]);
    let row = place.last();
    assert_eq!((row.number("files_updated"), row.number("total_bytes_transferred")), (3, 0));
    assert_nothing_to_do(&place, &[]);
}

#[test]
fn a_default_acl_of_the_destination_does_not_leak_into_new_entries() {
    need!(need_tool("setfacl"));
    let place = Place::new(&[file("f", "x").mode(0o640), file("d/g", "x")], &[]);
    sh("setfacl -d -m u:1234:rwx .", &place.destination);
    place.mirror(&[]);
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let odd = 1_600_000_000_123_456_789;
    let place = Place::new(
        &[
            file("d/e/f", "x").mtime_ns(odd),
            link("d/l", "target").mtime_ns(odd + 1),
            file("old", "").mtime_ns(-1_500_000_001),
            dir("d/e").mtime_ns(odd + 2),
            dir("d").mtime_ns(odd + 3),
            dir("empty").mtime_ns(odd + 4),
        ],
        &[],
    );
    place.mirror(&[]);
    assert_nothing_to_do(&place, &[]);
}

#[test]
fn directory_times_are_kept_where_entries_came_and_went() {
    let tree = [
        file("created/old", ""),
        file("updated/file", "one"),
        file("deleted/file", ""),
        file("deleted/stays", ""),
        file("removed/dir/file", ""),
        file("removed/stays", ""),
        file("renamed/a", "x"),
    ];
    let place = Place::new(&tree, &[]);
    place.mirror(&[]);
    make(&place.source, &[file("created/new", ""), file("updated/file", "another").mtime(NEWER)]);
    sh("rm deleted/file; rm -r removed/dir; mv renamed/a renamed/b", &place.source);
    // The directories are as old as before: only what is in them changed.
    for name in ["created", "updated", "deleted", "removed", "renamed"] {
        make(&place.source, &[dir(name)]);
    }
    place.mirror(&["--delete-missing"]);
    assert_nothing_to_do(&place, &["--delete-missing"]);
}

#[test]
fn directory_times_of_the_source_come_with_its_changes() {
    let place = Place::new(&[file("d/e/a", "x"), file("d/e/b", "x")], &[]);
    place.mirror(&[]);
    sh("rm d/e/a; touch d/e/c d/f", &place.source);
    place.mirror(&["--delete-missing"]);
    assert_nothing_to_do(&place, &["--delete-missing"]);
}

#[test]
fn the_roots_keep_their_own_metadata() {
    let place = Place::new(&[file("a", "x"), file("b", "x").mtime(NEWER)], &[file("b", "old"), file("c", "")]);
    std::fs::set_permissions(&place.destination, PermissionsExt::from_mode(0o711)).unwrap();
    let times = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.mtime(), metadata.mtime_nsec(), metadata.mode(), metadata.uid())
    };
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1_234_567_890_123_456_789);
    for root in [&place.source, &place.destination] {
        std::fs::File::open(root).unwrap().set_modified(old).unwrap();
    }
    let before = (times(&place.source), times(&place.destination));
    place.sync(&["--delete-missing", "--max-delete", "100%"]);
    assert_eq!(place.last().number("files_deleted"), 1);
    assert_eq!((times(&place.source), times(&place.destination)), before);
    place.sync(&[]);
    assert_eq!((times(&place.source), times(&place.destination)), before);
    assert!(!place.source.join(".ha-sync").exists(), "the source is left as it is");
}

#[test]
fn links_are_copied_as_links() {
    let place = Place::new(
        &[
            link("dangling", "/nowhere/at all"),
            link("to dir", "d"),
            link("up", "../../../etc/passwd"),
            link("self", "self"),
            link("bytes", b"\xff\n"),
            link("long", "x".repeat(4000).as_str()),
            dir("d"),
        ],
        &[],
    );
    place.mirror(&[]);
    assert_nothing_to_do(&place, &[]);
    sh("rm dangling 'to dir'", &place.source);
    make(&place.source, &[link("dangling", "elsewhere").mtime(NEWER), link("to dir", "d").mtime(NEWER)]);
    place.mirror(&[]);
    assert_eq!(place.operation("dangling").number("size_before"), 15);
    assert_eq!(place.operation("dangling").number("size_after"), 9);
    let kept = std::fs::read_link(place.trash().join("dangling")).unwrap();
    assert_eq!(kept, Path::new("/nowhere/at all"));
    // An older link of the source does not win.
    std::fs::remove_file(place.source.join("dangling")).unwrap();
    make(&place.source, &[link("dangling", "older").mtime(1)]);
    place.sync(&[]);
    assert_eq!(place.skipped("destination newer"), 1);
}

#[test]
fn a_file_and_a_link_replace_each_other_by_age() {
    let place = Place::new(
        &[file("a", "file").mtime(NEWER), link("b", "target").mtime(NEWER), file("c", "older").mtime(1)],
        &[link("a", "old"), file("b", "old"), link("c", "newer")],
    );
    place.sync(&[]);
    assert_eq!(std::fs::read(place.destination.join("a")).unwrap(), b"file");
    assert!(place.destination.join("b").is_symlink());
    assert!(place.destination.join("c").is_symlink());
    assert_eq!(std::fs::read_link(place.trash().join("a")).unwrap(), Path::new("old"));
    assert_eq!(std::fs::read(place.trash().join("b")).unwrap(), b"old");
}

/// Gives everything of a place to another user.
pub(crate) fn give_away(place: &Place) {
    let path = place.environment.path();
    sh("chown -R 12345:12345 . && chmod 755 .", path);
}

pub(crate) fn as_user(run: Run) -> Outcome {
    run.user(12345, 12345).run()
}

#[test]
fn a_run_without_privileges_works_in_read_only_directories() {
    need!(root());
    let place = Place::new(
        &[
            file("closed/deeper/file", "x"),
            file("closed/file", "x").mode(0o444),
            dir("closed/empty").mode(0o555),
            dir("closed/deeper").mode(0o555),
            dir("closed").mode(0o555),
        ],
        &[],
    );
    give_away(&place);
    as_user(place.command(&[])).assert_success();
    place.assert_sides_equal();
    as_user(place.command(&[])).assert_success();
    assert!(place.operations().is_empty());

    make(&place.source, &[file("closed/file", "another").mode(0o444).mtime(NEWER), file("closed/deeper/new", "x")]);
    std::fs::remove_dir(place.source.join("closed/empty")).unwrap();
    make(&place.source, &[dir("closed/deeper").mode(0o555), dir("closed").mode(0o555)]);
    give_away(&place);
    let before = Snapshot::of(&place.source);
    as_user(place.command(&["--delete-missing"])).assert_success();
    place.assert_sides_equal();
    before.assert_same(&Snapshot::of(&place.source));
    as_user(place.command(&["--delete-missing"])).assert_success();
    assert!(place.operations().is_empty());
}

#[test]
fn owners_that_cannot_be_set_are_said_once_and_are_no_difference() {
    need!(root());
    let place = Place::new(&[file("a", "x"), file("b", "x").mode(0o4755), file("d/c", "x"), link("l", "x")], &[]);
    sh(
        "chown -R 12345:12345 . && chmod 755 .; chown -R -h root:root source; chmod 4755 source/b",
        place.environment.path(),
    );
    let outcome = as_user(place.command(&[]));
    outcome.assert_success();
    assert_eq!(outcome.stderr.matches("owners cannot be set").count(), 1, "{}", outcome.stderr);
    let made = std::fs::metadata(place.destination.join("b")).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o7777), (12345, 0o755), "no set-id bit for another owner");
    let outcome = as_user(place.command(&[]));
    outcome.assert_success();
    assert!(place.operations().is_empty());
    let contents = Compare::contents();
    Snapshot::with(&place.source, &contents).assert_same(&Snapshot::with(&place.destination, &contents));
}

#[test]
fn a_source_directory_that_the_user_may_not_read_keeps_its_copy() {
    need!(root());
    let place = Place::new(&[file("closed/a", "x"), file("open/b", "x")], &[]);
    place.mirror(&[]);
    give_away(&place);
    chown(place.source.join("closed"), Some(0), Some(0)).unwrap();
    std::fs::set_permissions(place.source.join("closed"), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::remove_file(place.source.join("open/b")).unwrap();
    let outcome = as_user(place.command(&["--delete-missing", "--max-delete", "100%"]));
    outcome.assert_code(3);
    assert_says(&outcome, "closed");
    assert!(place.destination.join("closed/a").exists());
    assert!(!place.destination.join("open/b").exists());
}

#[test]
fn a_source_file_that_the_user_may_not_read_keeps_its_copy() {
    need!(root());
    let place = Place::new(&[file("closed", "new").mtime(NEWER), file("open", "x")], &[file("closed", "old")]);
    give_away(&place);
    chown(place.source.join("closed"), Some(0), Some(0)).unwrap();
    std::fs::set_permissions(place.source.join("closed"), PermissionsExt::from_mode(0o600)).unwrap();
    let outcome = as_user(place.command(&["--delete-missing"]));
    outcome.assert_code(3);
    assert_says(&outcome, "closed");
    assert_eq!(std::fs::read(place.destination.join("closed")).unwrap(), b"old");
    assert_eq!(std::fs::read(place.destination.join("open")).unwrap(), b"x");
    place.assert_no_temporary_files();
}
