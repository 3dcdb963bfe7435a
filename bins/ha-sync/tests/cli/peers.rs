//! What other tools were seen to get wrong.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ha_testkit::command::Inject;
use ha_testkit::loopmount::need_tool;
use ha_testkit::need;
use ha_testkit::tree::{Compare, Snapshot, device, dir, fifo, file, link, make, socket};
use rustix::fs::{CWD, RenameFlags};

use crate::place::{Place, assert_says, trash_runs};

const NEWER: i64 = 1_750_000_000;

fn outside(place: &Place) -> std::path::PathBuf {
    let outside = place.path("outside");
    make(&outside, &[file("a", "not yours"), file("b/c", "not yours either"), dir("b/empty")]);
    outside
}

#[test]
fn a_planted_link_in_place_of_a_destination_directory_leads_nowhere() {
    let place = Place::new(&[file("photos/a", "mine").mtime(NEWER), file("photos/b/c", "mine").mtime(NEWER)], &[]);
    let outside = outside(&place);
    make(&place.destination, &[link("photos", outside.to_str().unwrap())]);
    let before = Snapshot::of(&outside);
    let outcome = place.run(&[]);
    outcome.assert_code(3);
    assert_says(&outcome, "type conflict");
    before.assert_same(&Snapshot::of(&outside));
    assert!(place.destination.join("photos").is_symlink());

    place.mirror(&["--delete-missing"]);
    before.assert_same(&Snapshot::of(&outside));
    let kept = std::fs::read_link(place.trash().join("photos")).unwrap();
    assert_eq!(kept, outside, "the link is in the trash");
}

#[test]
fn a_planted_link_below_a_deleted_directory_is_not_followed() {
    let place = Place::new(&[file("kept", "")], &[file("gone/file", "")]);
    let outside = outside(&place);
    make(&place.destination, &[link("gone/link", outside.to_str().unwrap())]);
    let before = Snapshot::of(&outside);
    place.mirror(&["--delete-missing"]);
    before.assert_same(&Snapshot::of(&outside));
}

#[test]
fn a_planted_link_in_place_of_a_destination_file_is_never_written_through() {
    let place = Place::new(&[file("a", "mine").mtime(NEWER), file("b", "older").mtime(1_600_000_000)], &[]);
    let outside = outside(&place);
    let target = outside.join("a");
    let planted = [link("a", target.to_str().unwrap()), link("b", target.to_str().unwrap())];
    make(&place.destination, &planted);
    let before = Snapshot::of(&outside);
    place.sync(&[]);
    before.assert_same(&Snapshot::of(&outside));
    assert_eq!(std::fs::read(place.destination.join("a")).unwrap(), b"mine");
    assert!(!place.destination.join("a").is_symlink());
    assert!(place.destination.join("b").is_symlink(), "the link is newer");
    assert_eq!(std::fs::read_link(place.trash().join("a")).unwrap(), target);
}

#[test]
fn planted_links_in_place_of_the_tools_own_directories_lead_nowhere() {
    for name in [".ha-sync", ".ha-sync/trash"] {
        let place = Place::new(&[file("a", "new").mtime(NEWER)], &[file("a", "old")]);
        let outside = outside(&place);
        make(&place.destination, &[link(name, outside.to_str().unwrap())]);
        let before = Snapshot::of(&outside);
        place.run(&["--delete-missing"]).assert_code(3);
        before.assert_same(&Snapshot::of(&outside));
        assert_eq!(std::fs::read(place.destination.join("a")).unwrap(), b"old", "{name}");
    }
}

/// Exchanges two names without pause, until told to stop; leaves them as they were.
fn flip(one: &Path, other: &Path, stop: &AtomicBool) -> u64 {
    let mut flips = 0;
    while !stop.load(Ordering::SeqCst) || flips % 2 == 1 {
        rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
        flips += 1;
    }
    flips
}

fn flipped(at_source: bool) {
    let place = Place::new(&[file("photos/a", "mine"), file("photos/sub/b", "mine")], &[]);
    place.mirror(&[]);
    let outside = place.path("outside");
    make(&outside, &[file("a", "SECRET"), file("sub/b", "SECRET"), file("only outside", "SECRET"), dir("sub/x")]);
    let root = if at_source { &place.source } else { &place.destination };
    let (flipping, staged) = (root.join("photos"), place.path("staged"));
    std::os::unix::fs::symlink(&outside, &staged).unwrap();
    let before = Snapshot::of(&outside);
    let stop = AtomicBool::new(false);
    let ended = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        let flips = scope.spawn(|| flip(&flipping, &staged, &stop));
        let result = std::panic::catch_unwind(|| {
            let mut number = 0;
            while Instant::now() < ended {
                number += 1;
                // Wherever the directory is now, there is something to do in it.
                for directory in [&place.source.join("photos"), &place.path("staged")] {
                    if directory.is_symlink() || (!at_source && directory.ends_with("staged")) {
                        continue;
                    }
                    let content = format!("mine, {number} times");
                    let handle = rustix::fs::open(
                        directory,
                        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW,
                        rustix::fs::Mode::empty(),
                    );
                    let Ok(handle) = handle else { continue };
                    let write = |name: &str| {
                        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
                        let file = rustix::fs::openat(&handle, name, flags, rustix::fs::Mode::from_raw_mode(0o644));
                        rustix::io::write(file.unwrap(), content.as_bytes()).unwrap();
                    };
                    write("a");
                    write(&format!("new {number}"));
                }
                let outcome = place.command(&[]).timeout(Duration::from_secs(20)).run();
                assert!(matches!(outcome.code(), Some(0 | 3)), "{:?}\n{}", outcome.status, outcome.stderr);
            }
            number
        });
        stop.store(true, Ordering::SeqCst);
        assert!(flips.join().unwrap() > 10);
        assert!(result.unwrap() > 1);
    });
    before.assert_same(&Snapshot::of(&outside));
    for (path, entry) in Snapshot::of(&place.destination).entries {
        assert_ne!(entry.begin, b"SECRET", "{}", String::from_utf8_lossy(&path));
        assert!(!path.ends_with(b"only outside"), "{}", String::from_utf8_lossy(&path));
    }
    // Times can be what a writer in the same second left: only what was seen to be newer is compared.
    place.sync(&["--checksum"]);
    Snapshot::with(&place.source, &Compare::contents())
        .assert_same(&Snapshot::with(&place.destination, &Compare::contents()));
    place.assert_no_temporary_files();
}

#[test]
fn a_destination_directory_that_flips_to_a_link_during_runs_leads_nowhere() {
    flipped(false);
}

#[test]
fn a_source_directory_that_flips_to_a_link_during_runs_brings_nothing_from_outside() {
    flipped(true);
}

#[test]
fn a_destination_directory_that_flips_to_a_link_during_deletions_leads_nowhere() {
    let place = Place::new(&[file("kept", "")], &[]);
    let outside = outside(&place);
    let many: Vec<_> = (0..40).map(|number| file(format!("photos/{number}/b/c"), "goes")).collect();
    let before = Snapshot::of(&outside);
    let (flipping, staged) = (place.destination.join("photos"), place.path("staged"));
    std::os::unix::fs::symlink(&outside, &staged).unwrap();
    let ended = Instant::now() + Duration::from_secs(2);
    let mut runs = 0;
    while Instant::now() < ended {
        runs += 1;
        for path in [&flipping, &staged] {
            // Whatever the last run has left of the two.
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_dir_all(path);
        }
        make(&place.destination, &many);
        std::os::unix::fs::symlink(&outside, &staged).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flips = scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // The run may have taken either away.
                    let _ = rustix::fs::renameat_with(CWD, &flipping, CWD, &staged, RenameFlags::EXCHANGE);
                }
            });
            let words = ["--delete-missing", "--max-delete", "100%"];
            let outcome = place.command(&words).timeout(Duration::from_secs(20)).run();
            stop.store(true, Ordering::SeqCst);
            flips.join().unwrap();
            assert!(matches!(outcome.code(), Some(0 | 3)), "{:?}\n{}", outcome.status, outcome.stderr);
        });
        before.assert_same(&Snapshot::of(&outside));
    }
    assert!(runs > 3);
}

#[test]
fn fifos_sockets_and_devices_are_skipped_and_never_touched() {
    let special = |letter: &str| {
        [fifo(format!("{letter}/pipe")), socket(format!("{letter}/socket")), device(format!("{letter}/device"))]
    };
    let place = Place::new(&special("source"), &special("destination"));
    make(&place.source, &[file("file", "comes"), fifo("both"), file("pipe", "a file here").mtime(NEWER)]);
    make(&place.destination, &[file("both", "a file there"), fifo("pipe"), file("destination/file", "goes")]);
    let before = place.both();
    let outcome = place.command(&["--delete-missing", "--verbose"]).timeout(Duration::from_secs(10)).run();
    outcome.assert_success();
    for name in ["source/pipe", "source/socket", "source/device", "destination/pipe", "both", "pipe"] {
        assert_says(&outcome, name);
    }
    assert_says(&outcome, "special file");
    let after = place.both();
    before.0.assert_same(&after.0);
    for name in ["destination/pipe", "destination/socket", "destination/device", "both", "pipe"] {
        assert_eq!(before.1.get(name), after.1.get(name), "{name}");
    }
    assert!(after.1.get("source/pipe").is_none());
    assert!(after.1.get("destination/file").is_none());
    assert_eq!(std::fs::read(place.destination.join("file")).unwrap(), b"comes");
    assert_eq!(place.skipped("special file"), 8);
    assert_eq!(place.last().text("status"), "success");
}

#[test]
fn a_file_that_became_a_directory_is_a_conflict() {
    let place = Place::new(&[file("a/inside", "new"), file("z", "")], &[file("a", "old")]);
    let before = Snapshot::of(&place.destination);
    let outcome = place.run(&[]);
    outcome.assert_code(3);
    assert_says(&outcome, "type conflict");
    assert_eq!(before.get("a"), Snapshot::of(&place.destination).get("a"));
    assert!(place.destination.join("z").exists(), "the rest was done");
    assert_eq!(place.operation("a").text("reason"), "type conflict");
    assert_eq!(place.operation("a").text("status"), "fail");
    assert_eq!(place.last().text("status"), "partial_failure");
}

#[test]
fn a_directory_that_became_a_file_is_a_conflict() {
    let place = Place::new(&[file("a", "new").mtime(NEWER)], &[file("a/inside", "old"), dir("a/empty")]);
    let before = Snapshot::with(&place.destination, &Compare { without_own: true, ..Compare::untouched() });
    let outcome = place.run(&[]);
    outcome.assert_code(3);
    assert_says(&outcome, "type conflict");
    before.assert_same(&Snapshot::with(&place.destination, &Compare { without_own: true, ..Compare::untouched() }));
}

#[test]
fn a_file_that_became_a_directory_is_replaced_when_deletes_are_on() {
    let place = Place::new(&[file("a/inside", "new")], &[file("a", "old").mtime(NEWER)]);
    place.mirror(&["--delete-missing"]);
    assert_eq!(std::fs::read(place.trash().join("a")).unwrap(), b"old");
    place.restore(&["a", "--force"]).assert_code(3);
    place.sync(&["--delete-missing"]);
}

#[test]
fn a_directory_that_became_a_file_is_in_the_trash_whole_when_deletes_are_on() {
    let old = [file("a/inside", "old"), dir("a/empty"), link("a/b/link", "x"), file("a/b/deep", "er")];
    let place = Place::new(&[file("a", "new")], &old);
    let before = Snapshot::with(&place.destination.join("a"), &Compare::sides());
    place.mirror(&["--delete-missing"]);
    before.assert_same(&Snapshot::with(&place.trash().join("a"), &Compare::sides()));
    place.sync(&["--delete-missing"]);
    assert_eq!(place.last().number("files_skipped"), 1);
}

#[test]
fn a_directory_that_became_a_file_stays_when_something_in_it_may_not_move() {
    let place = Place::new(&[file("a", "new")], &[file("a/inside", "old"), fifo("a/b/pipe")]);
    let before = place.both();
    place.run(&["--delete-missing"]).assert_code(3);
    place.assert_untouched(&before);
    assert_eq!(place.operation("a").text("reason"), "type conflict");
}

#[test]
fn an_edit_of_the_same_size_half_a_second_later_comes() {
    let time = 1_700_000_000_000_000_000;
    let place = Place::new(&[file("a", "one").mtime_ns(time)], &[]);
    place.mirror(&[]);
    make(&place.source, &[file("a", "two").mtime_ns(time + 500_000_000)]);
    place.mirror(&[]);
    let row = place.operation("a");
    assert_eq!(row.text("reason"), "tie");
    assert_ne!(row.text("md5_before"), row.text("md5_after"));
    assert_eq!(std::fs::read(place.trash().join("a")).unwrap(), b"one");
}

#[test]
fn names_are_bytes() {
    let names: Vec<Vec<u8>> = vec![
        b"new\nline".to_vec(),
        b"-rf".to_vec(),
        b"--delete".to_vec(),
        b"x".repeat(255),
        b"not utf-8 \xff\xfe".to_vec(),
        b"back\\slash".to_vec(),
        b"\\x41".to_vec(),
        b" space at both ends ".to_vec(),
        b"tab\t and bell \x07 and escape \x1b[31m".to_vec(),
        b"quote \" ' ` $(x)".to_vec(),
        b"*?[a-z]{x,y}".to_vec(),
        "nfc \u{e9}".as_bytes().to_vec(),
        "nfd e\u{301}".as_bytes().to_vec(),
        b"...".to_vec(),
        b"~".to_vec(),
        b"con".to_vec(),
    ];
    let mut items = Vec::new();
    for name in &names {
        items.push(file(name, [b"file ".to_vec(), name.clone()].concat()));
        items.push(dir([b"dir/".to_vec(), name.clone()].concat()));
        items.push(file([b"in/".to_vec(), name.clone(), b"/".to_vec(), name.clone()].concat(), "deeper"));
        items.push(link([b"link/".to_vec(), name.clone()].concat(), name));
    }
    let place = Place::new(&items, &[]);
    place.mirror(&[]);
    let rows = place.query("SELECT DISTINCT filepath FROM sync_operations");
    let paths: Vec<_> = rows.iter().map(|row| row.text("filepath")).collect();
    for path in ["not utf-8 \\xff\\xfe", "back\\\\slash", "\\\\x41", "new\nline", "-rf"] {
        assert!(paths.contains(&path), "{path:?} is not in {paths:?}");
    }
    assert_eq!(rows.len(), names.len() * 5 + 3);
    // Each of them is updated, then deleted, then comes back.
    for name in &names {
        make(&place.source, &[file(name, "changed").mtime(NEWER)]);
    }
    place.mirror(&[]);
    assert_eq!(place.last().number("files_updated"), names.len() as i64);
    for name in ["in", "link", "dir"] {
        std::fs::remove_dir_all(place.source.join(name)).unwrap();
    }
    place.mirror(&["--delete-missing", "--max-delete", "100%"]);
    place.restore(&["in", "link", "dir"]).assert_success();
    let restored = Snapshot::with(&place.destination, &Compare::sides());
    assert_eq!(restored.entries.len(), names.len() * 5 + 3);
}

#[test]
fn unicode_twins_are_two_files() {
    let items = [file("caf\u{e9}", "composed"), file("cafe\u{301}", "decomposed")];
    let place = Place::new(&items, &[]);
    place.mirror(&[]);
    let count = std::fs::read_dir(&place.destination).unwrap().count();
    assert_eq!(count, 2);
    std::fs::remove_file(place.source.join("caf\u{e9}")).unwrap();
    place.mirror(&["--delete-missing"]);
    assert_eq!(std::fs::read(place.destination.join("cafe\u{301}")).unwrap(), b"decomposed");
}

#[test]
fn the_temporary_file_of_a_killed_run_is_not_spread_by_the_opposite_job() {
    need!(need_tool("strace"));
    let place = Place::new(&[file("dir/file", "new").mtime(NEWER), file("dir/other", "new").mtime(NEWER)], &[]);
    make(&place.destination, &[file("dir/file", "old"), file("dir/other", "old")]);
    let killed = place.command(&["--workers", "1"]).strace(Inject::on("renameat2").signal("KILL").when("1")).run();
    assert!(killed.code() != Some(0));
    let left = Snapshot::of(&place.destination).temporary_files();
    assert!(!left.is_empty(), "killed before the rename");

    place.back(&[]).assert_success();
    place.assert_no_temporary_files();
    let names: Vec<_> = Snapshot::with(&place.source, &Compare::sides()).entries.into_keys().collect();
    assert_eq!(names, [&b"dir"[..], b"dir/file", b"dir/other"]);
    place.mirror(&[]);
    let rows = place.query("SELECT * FROM sync_iterations WHERE status = 'failed'");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].text("error_message"), "interrupted");
}

#[test]
fn young_temporary_files_of_unknown_runs_are_left_alone_and_not_synchronised() {
    let name = ".ha-sync.20260413T152357Z-0123abcd.1.tmp";
    let at_source = [file(name, "half"), file(format!("dir/{name}"), "half"), file("dir/file", "")];
    let at_destination = [file("other.tmp", ""), file(format!("dir/only/{name}"), "half")];
    let place = Place::new(&at_source, &at_destination);
    make(&place.source, &[file("other.tmp", ""), dir("dir/only")]);
    for words in [&["--dry-run"][..], &[], &["--delete-missing"]] {
        let outcome = place.sync(words);
        assert_eq!(outcome.stderr.matches("may be going on").count(), 1, "said once: {}", outcome.stderr);
        assert_eq!(Snapshot::of(&place.source).temporary_files().len(), 2);
        assert_eq!(Snapshot::of(&place.destination).temporary_files().len(), 1);
    }
    assert!(!place.destination.join(".ha-sync").join("trash").exists());
    let rows = place.query("SELECT * FROM sync_operations WHERE filepath LIKE '%0123abcd%'");
    assert!(rows.is_empty(), "they are no operations");
}

#[test]
fn temporary_files_of_a_dead_run_do_not_keep_a_directory_that_goes() {
    need!(need_tool("strace"));
    let place = Place::new(&[file("dir/sub/file", "new").mtime(NEWER), file("kept", "")], &[]);
    make(&place.destination, &[file("dir/sub/file", "old"), file("kept", "")]);
    let killed = place.command(&["--workers", "1"]).strace(Inject::on("renameat2").signal("KILL").when("1")).run();
    assert!(killed.code() != Some(0));
    let left = Snapshot::of(&place.destination).temporary_files();
    assert_eq!(left.len(), 1, "{left:?}");
    // A run of another pair does not go through that log, and has only the directory above.
    let other = place.path("other");
    make(&other, &[file("kept", "")]);
    let pair = ha_testkit::command::unique_pair();
    let run = |words: &[&str]| {
        let run = place.binary().arg("--src").arg(&other).arg("--dest").arg(&place.destination);
        let run = run.args(["--pair", &pair, "--delete-missing", "--max-delete", "100%", "--log-dir"]);
        run.arg(place.environment.log_dir()).args(words).run().assert_success();
    };
    run(&["--dry-run"]);
    assert_eq!(place.last().number("files_deleted"), 3);
    run(&[]);
    assert_eq!(place.last().number("files_deleted"), 3);
    assert!(!place.destination.join("dir").exists());
}

#[test]
fn a_temporary_file_that_stays_has_its_own_reason_and_keeps_its_directory() {
    let name = ".ha-sync.20260413T152357Z-0123abcd.1.tmp";
    let items = [file(format!("gone/{name}"), "half"), file("gone/file", ""), file(format!("a/{name}"), "half")];
    let place = Place::new(&[file("kept", ""), file("a", "a file")], &items);
    place.run(&["--delete-missing", "--max-delete", "100%"]).assert_code(3);
    assert!(place.destination.join("gone").join(name).exists());
    assert!(!place.destination.join("gone/file").exists());
    assert_eq!(place.skipped("temporary entry of another run"), 1);
    assert_eq!(place.skipped("nfs placeholder"), 0);
    // Nor is the directory replaced in which that run may be at work.
    assert!(place.destination.join("a").join(name).exists());
    assert_eq!(place.operation("a").text("reason"), "type conflict");
}

#[test]
fn temporary_files_of_another_pairs_dead_run_are_cleared_away_at_once() {
    need!(need_tool("strace"));
    let place = Place::new(&[file("dir/file", "new").mtime(NEWER)], &[file("dir/file", "old")]);
    let killed = place.command(&["--workers", "1"]).strace(Inject::on("renameat2").signal("KILL").when("1")).run();
    assert!(killed.code() != Some(0));
    assert!(!Snapshot::of(&place.destination).temporary_files().is_empty(), "killed before the rename");
    // Its log, which is in this log directory, says that it is dead.
    let other = place.path("other");
    make(&other, &[file("b", ""), dir("dir")]);
    let pair = ha_testkit::command::unique_pair();
    let run = |words: &[&str]| {
        let run = place.binary().arg("--src").arg(&other).arg("--dest").arg(&place.destination);
        run.args(["--pair", &pair, "--log-dir"]).arg(place.environment.log_dir()).args(words).run().assert_success();
    };
    run(&["--dry-run"]);
    assert!(!Snapshot::of(&place.destination).temporary_files().is_empty(), "not by a dry run");
    run(&[]);
    // It could be the only old version, so it is kept.
    let left = Snapshot::of(&place.destination).temporary_files();
    assert!(left.iter().all(|path| path.starts_with(".ha-sync/trash/")), "{left:?}");
    assert_eq!(std::fs::read_dir(place.destination.join("dir")).unwrap().count(), 1);
    place.sync(&[]);
}

#[test]
fn what_merely_resembles_a_temporary_or_own_name_is_an_ordinary_file() {
    let place = Place::new(
        &[
            file(".ha-sync.tmp", ""),
            file(".ha-sync.1.tmp", ""),
            file(".ha-sync.20260413T152357Z-0123abcd.x.tmp", ""),
            file(".ha-sync.20260413T152357Z-0123abcd.tmp", ""),
            file(".ha-sync.20260413T152357Z-0123abcd.1.tmp~", ""),
            file("x.ha-sync.20260413T152357Z-0123abcd.1.tmp", ""),
            file(".ha-sync.20260413T152357Z-0123abcg.1.tmp", ""),
            file(".nfsfile", ""),
            file(".nfs", ""),
            file("sub/.ha-sync/trash/file", ""),
            file("sub/lost+found/file", ""),
        ],
        &[],
    );
    place.mirror(&[]);
    let names = Snapshot::with(&place.destination, &Compare::sides()).entries.len();
    assert_eq!(names, 15);
    place.back(&[]).assert_success();
    place.mirror(&["--delete-missing"]);
}

#[test]
fn placeholders_of_nfs_and_lost_found_at_a_root_stay_where_they_are() {
    let own = [file(".nfs00000000000a0b0c", "open"), dir("lost+found"), file("lost+found/#12", "")];
    let place = Place::new(&own, &[]);
    make(&place.destination, &[file("gone/.nfs0123", "open"), file("gone/file", ""), file("lost+found/#99", "")]);
    make(&place.source, &[file("file", "")]);
    place.sync(&["--delete-missing"]);
    let after = Snapshot::with(&place.destination, &Compare::contents());
    let names: Vec<_> = after.entries.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(names, ["file", "gone", "gone/.nfs0123", "lost+found", "lost+found/#99"]);
    assert!(place.skipped("nfs placeholder") >= 1);
}

/// Creates, updates, deletes, restores and prunes at the end of a path of directories of this name.
fn deep(name: &str, depth: usize) {
    let path = vec![name; depth].join("/");
    let at = |end: &str| format!("{path}/{end}");
    let place = Place::new(&[file(at("file"), "one"), file(at("gone"), "goes"), file("top", "")], &[]);
    place.mirror(&[]);
    assert_eq!(place.last().number("files_created"), depth as i64 + 3);
    make(&place.source, &[file(at("file"), "another").mtime(NEWER)]);
    place.mirror(&[]);
    assert_eq!(place.last().number("files_updated"), 1);
    // All of it goes, children first.
    std::fs::remove_dir_all(place.source.join(name)).unwrap();
    place.mirror(&["--delete-missing", "--max-delete", "100%"]);
    assert_eq!(place.last().number("files_deleted"), depth as i64 + 2);
    let run = place.last().text("run_id").to_owned();
    let kept = Snapshot::with(&place.destination.join(".ha-sync/trash").join(&run), &Compare::contents());
    assert_eq!(kept.get(at("gone")).unwrap().begin, b"goes");
    place.restore(&["--run", &run]).assert_success();
    let restored = Snapshot::with(&place.destination, &Compare::contents());
    assert_eq!(restored.get(at("file")).unwrap().begin, b"another");
    let root = place.destination.to_str().unwrap();
    place.sub(&["prune", "--trash", root, "--trash-older-than", "0s"]).assert_success();
    assert!(trash_runs(&place.destination).is_empty());
}

#[test]
fn paths_longer_than_path_max() {
    deep(&"long".repeat(60), 30);
}

#[test]
fn a_tree_1000_deep() {
    deep("d", 1000);
}
