//! File systems that lack something, are full, or are several.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::time::Duration;

use ha_testkit::loopmount::{bind, tmpfs};
use ha_testkit::need;
use ha_testkit::passthrough::{Operation, Options, Passthrough, Rule, Switches};
use ha_testkit::tree::{Compare, Snapshot, dir, fifo, file, hard_link, link, make};

use crate::place::{Place, assert_says, sh, trash_runs};

const NEWER: i64 = 1_750_000_000;

/// Creates, updates, replaces, deletes and restores on a destination that lacks something.
fn works_without(change: impl Fn(&mut Switches), compare: &Compare) {
    let place = Place::new(
        &[
            file("new", "x"),
            file("updated", "new").mtime(NEWER).xattr("user.x", "y"),
            link("link", "new").mtime(NEWER),
            file("file now", "x").mtime(NEWER),
            link("link now", "x").mtime(NEWER),
            file("was a directory", "x"),
            file("was a file/inside", "x"),
            file("linked", "x"),
            hard_link("linked too", "linked"),
            file("big", vec![5; 200_000]).mtime(NEWER),
        ],
        &[
            file("updated", "old"),
            link("link", "old"),
            link("file now", "old"),
            file("link now", "old"),
            file("was a directory/inside", "old"),
            file("was a file", "old"),
            file("gone/file", "old"),
            link("gone/link", "old"),
            file("big", vec![4; 200_000]),
        ],
    );
    let before = Snapshot::with(&place.destination, &Compare::contents());
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    mount.switch(change);
    let there = Place::at(&place.source, mount.path());
    let words = ["--delete-missing", "--max-delete", "100%", "--hard-links"];
    there.sync(&words);
    let sides = |root| Snapshot::with(root, compare);
    sides(&place.source).assert_same(&sides(mount.path()));
    there.sync(&words);
    let rows = there.operations();
    assert!(rows.is_empty(), "{} rows, first on {}", rows.len(), rows[0].text("filepath"));
    let kept = Snapshot::with(&there.trash(), &Compare::contents());
    for name in ["updated", "link", "file now", "link now", "was a directory/inside", "was a file", "gone/file", "big"]
    {
        assert_eq!(kept.get(name), before.get(name), "{name} is in the trash");
    }
    there.restore(&["gone", "updated", "--force"]).assert_success();
    assert_eq!(std::fs::read(mount.path().join("gone/file")).unwrap(), b"old");
    assert_eq!(std::fs::read(mount.path().join("updated")).unwrap(), b"old");
    assert!(Snapshot::of(&place.destination).temporary_files().is_empty());
}

#[test]
fn without_exchange() {
    works_without(|switches| switches.no_exchange = true, &Compare::sides());
}

#[test]
fn without_exchange_and_attributes() {
    let change = |switches: &mut Switches| (switches.no_exchange, switches.no_xattr) = (true, true);
    works_without(change, &Compare { xattrs: false, ..Compare::sides() });
}

#[test]
fn without_owners() {
    works_without(|switches| switches.no_chown = true, &Compare::sides());
}

#[test]
fn with_times_of_two_seconds() {
    let coarse = |switches: &mut Switches| switches.time_granularity = 2_000_000_000;
    works_without(coarse, &Compare { times: 2_000_000_000, ..Compare::sides() });
}

#[test]
fn without_hard_links_and_exchange() {
    let place = Place::new(
        &[file("new", "x"), file("updated", "new").mtime(NEWER), link("link", "new").mtime(NEWER)],
        &[file("updated", "old"), link("link", "old"), file("gone", "old")],
    );
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    mount.switch(|switches| (switches.no_link, switches.no_exchange) = (true, true));
    let there = Place::at(&place.source, mount.path());
    there.mirror(&["--delete-missing"]);
    for name in ["updated", "gone"] {
        assert_eq!(std::fs::read(there.trash().join(name)).unwrap(), b"old", "{name}");
    }
    assert_eq!(std::fs::read_link(there.trash().join("link")).unwrap(), std::path::Path::new("old"));
}

#[test]
fn missing_attributes_are_said_once() {
    let place = Place::new(&[file("a", "x").xattr("user.x", "y"), file("b", "x").xattr("user.x", "y")], &[]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    mount.switch(|switches| switches.no_xattr = true);
    let there = Place::at(&place.source, mount.path());
    let outcome = there.sync(&[]);
    assert_eq!(outcome.stderr.matches("attributes").count(), 1, "{}", outcome.stderr);
    there.sync(&[]);
    assert!(there.operations().is_empty());
}

#[test]
fn names_that_the_destination_folds_collide() {
    let place = Place::new(&[file("Photo", "one"), file("photo", "two"), file("other", "x")], &[]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    mount.switch(|switches| switches.fold_case = true);
    let there = Place::at(&place.source, mount.path());
    let outcome = there.run(&[]);
    outcome.assert_code(3);
    assert_says(&outcome, "name collides on destination");
    assert_eq!(there.last().number("files_failed"), 1);
    assert_eq!(there.last().number("files_created"), 2);
    let first = Snapshot::with(&place.destination, &Compare::contents());
    assert_eq!(first.entries.len(), 2);
    // Nothing ping-pongs.
    there.run(&["--delete-missing"]).assert_code(3);
    first.assert_same(&Snapshot::with(&place.destination, &Compare::contents()));
}

#[test]
fn what_is_replaced_on_another_file_system_below_the_root_is_kept_too() {
    let tree =
        [file("disk/updated", "old"), file("disk/gone", "old"), link("disk/link", "old"), file("disk/d/e", "old")];
    let place = Place::new(&tree, &[dir("disk")]);
    let mount = need!(tmpfs(4 << 20));
    let _bound = need!(bind(mount.path(), &place.destination.join("disk")));
    // A newer directory would keep its time.
    make(&place.destination, &[dir("disk")]);
    place.mirror(&["--cross-mounts"]);
    sh("rm disk/gone disk/link; rm -r disk/d", &place.source);
    make(&place.source, &[file("disk/updated", "new").mtime(NEWER)]);
    place.mirror(&["--cross-mounts", "--delete-missing", "--max-delete", "100%"]);
    for name in ["disk/updated", "disk/gone", "disk/d/e"] {
        assert_eq!(std::fs::read(place.trash().join(name)).unwrap(), b"old", "{name}");
    }
    assert!(place.trash().join("disk/link").is_symlink());
    place.restore(&["disk/gone", "disk/d"]).assert_success();
    assert_eq!(std::fs::read(place.destination.join("disk/gone")).unwrap(), b"old");
    assert_eq!(std::fs::read(place.destination.join("disk/d/e")).unwrap(), b"old");
}

#[test]
fn a_directory_on_another_file_system_is_never_lost_when_a_file_takes_its_place() {
    let place = Place::new(&[file("disk/a/inside", "old")], &[dir("disk")]);
    let mount = need!(tmpfs(4 << 20));
    let _bound = need!(bind(mount.path(), &place.destination.join("disk")));
    // A newer directory would keep its time.
    make(&place.destination, &[dir("disk")]);
    place.mirror(&["--cross-mounts"]);
    sh("rm -r disk/a; echo new > disk/a", &place.source);
    let outcome = place.run(&["--cross-mounts", "--delete-missing"]);
    let kept = std::iter::once(place.destination.join("disk/a/inside"))
        .chain(trash_runs(&place.destination).into_iter().map(|run| run.join("disk/a/inside")))
        .any(|path| std::fs::read(path).is_ok_and(|content| content == b"old"));
    assert!(kept, "{}", outcome.stderr);
    assert!(matches!(outcome.code(), Some(0 | 3)));
    place.assert_no_temporary_files();
}

#[test]
fn a_copy_that_would_leave_too_little_free_is_not_made() {
    let mount = need!(tmpfs(4 << 20));
    let place = Place::new(&[file("big", vec![1; 3 << 20]), file("small", "x"), dir("d")], &[]);
    make(mount.path(), &[file("gone", "x")]);
    let there = Place::at(&place.source, mount.path());
    let outcome = there.run(&["--min-free", "2M", "--delete-missing"]);
    outcome.assert_code(3);
    assert_says(&outcome, "--min-free");
    assert_says(&outcome, "big");
    assert!(!mount.path().join("big").exists());
    assert!(!mount.path().join("gone").exists(), "the rest goes on");
    assert_eq!(there.last().text("status"), "partial_failure");
    there.mirror(&["--min-free", "0"]);
}

#[test]
fn the_newest_version_of_a_path_is_restored() {
    let place = Place::new(&[], &[]);
    for (number, content) in ["one", "two", "three"].iter().enumerate() {
        make(&place.source, &[file("a", content.repeat(number + 1)).mtime(NEWER + 10 * number as i64)]);
        place.sync(&[]);
    }
    let mut runs = trash_runs(&place.destination);
    assert_eq!(runs.len(), 2);
    // Runs of one second are told apart by their content here, so the names are set.
    runs.sort_by_key(|run| std::fs::read(run.join("a")).unwrap().len());
    let trash = place.destination.join(".ha-sync/trash");
    std::fs::rename(&runs[0], trash.join("20260413T152357Z-ffffffff")).unwrap();
    std::fs::rename(&runs[1], trash.join("20260413T152358Z-00000000")).unwrap();
    place.restore(&["a", "--force"]).assert_success();
    assert_eq!(std::fs::read(place.destination.join("a")).unwrap(), b"twotwo");
    place.restore(&["a", "--run", "20260413T152357Z-ffffffff", "--force"]).assert_success();
    assert_eq!(std::fs::read(place.destination.join("a")).unwrap(), b"one");
}

#[test]
fn the_temporary_file_of_another_pairs_live_run_is_left_alone() {
    temporary_file_of_live_run(true);
}

#[test]
fn the_temporary_file_of_another_pairs_live_run_with_another_log_directory_is_left_alone() {
    temporary_file_of_live_run(false);
}

fn temporary_file_of_live_run(same_log_directory: bool) {
    let place = Place::new(&[file("a", "content")], &[]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let fault = mount.inject(Rule::on(Operation::Rename).path_contains(".ha-sync.").delay(Duration::from_secs(1)));
    let running = place.between(&place.source, mount.path(), &[]).start();
    while fault.fired() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let other = place.path("other");
    make(&other, &[file("b", "")]);
    let pair = ha_testkit::command::unique_pair();
    let outcome = place.binary().arg("--src").arg(&other).arg("--dest").arg(&place.destination);
    let logs = if same_log_directory { place.environment.log_dir() } else { place.path("other logs") };
    let outcome = outcome.args(["--pair", &pair, "--delete-missing", "--log-dir"]).arg(logs).run();
    outcome.assert_success();
    running.wait().assert_success();
    assert_eq!(std::fs::read(place.destination.join("a")).unwrap(), b"content");
}

#[test]
fn a_pair_that_runs_both_ways_keeps_what_is_new_at_the_destination() {
    let place = Place::new(&[file("a", "x")], &[file("b", "x")]);
    place.sync(&[]);
    place.back(&[]).assert_success();
    place.assert_sides_equal();
    make(&place.destination, &[file("new there", "x"), fifo("pipe")]);
    place.sync(&["--delete-missing"]);
    assert!(place.destination.join("new there").exists());
    assert_eq!(place.skipped("new at destination"), 1);
    place.sync(&["--delete-missing=strict"]);
    assert!(!place.destination.join("new there").exists());
    place.assert_sides_equal();
}
