//! `ha-sync restore` and `ha-sync prune`.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::path::Path;

use ha_testkit::command::{Environment, Inject};
use ha_testkit::loopmount::{self, Mounted};
use ha_testkit::tree::{Compare, Snapshot, dir, file, link, make};
use serde_json::Value;

use crate::place::{Place, assert_says, files_below, trash_runs};

const NEWER: i64 = 1_750_000_000;

/// A run that deleted and replaced things; returns its id and what was there before.
fn mixed() -> (Place, String, Snapshot) {
    let place = Place::new(
        &[file("kept", ""), file("replaced", "new").mtime(NEWER)],
        &[
            file("kept", ""),
            file("replaced", "old"),
            file("gone", "goes").mode(0o600).xattr("user.x", "y"),
            link("link", "target"),
            file("dir/sub/file", "deep"),
            dir("dir/empty").mode(0o711),
            dir("dir/sub").mode(0o750).mtime(1_500_000_000),
            dir("dir").mode(0o770).mtime(1_600_000_000),
        ],
    );
    let before = Snapshot::with(&place.destination, &Compare::sides());
    place.mirror(&["--delete-missing", "--max-delete", "100%"]);
    let run = place.last().text("run_id").to_owned();
    (place, run, before)
}

#[test]
fn the_trash_is_listed() {
    let (place, run, _) = mixed();
    let before = Snapshot::of(&place.destination);
    for words in [&[][..], &["--list"], &["--run", &run, "--list"]] {
        let outcome = place.restore(words);
        outcome.assert_success();
        for name in ["replaced", "gone", "link", "dir/sub/file", "dir/empty", &run] {
            assert!(outcome.stdout.contains(name), "{name}\n{}", outcome.stdout);
        }
    }
    let outcome = place.restore(&["-o", "json"]);
    let rows: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 7);
    let outcome = place.restore(&["--list", "dir/sub"]);
    assert!(outcome.stdout.contains("dir/sub/file") && !outcome.stdout.contains("gone"), "{}", outcome.stdout);
    before.assert_same(&Snapshot::of(&place.destination));
}

#[test]
fn an_empty_trash_is_said() {
    let place = Place::new(&[file("a", "")], &[]);
    place.mirror(&[]);
    let outcome = place.restore(&[]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("the trash is empty"));
}

#[test]
fn paths_are_put_back() {
    let (place, _, before) = mixed();
    place.restore(&["gone", "link"]).assert_success();
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in ["gone", "link"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
    assert!(after.get("dir").is_none());
    assert!(!place.trash().join("gone").exists(), "it left the trash");
    let outcome = place.restore(&["gone"]);
    outcome.assert_code(1);
    assert_says(&outcome, "the trash has no such path");
}

#[test]
fn removed_directories_come_back_as_they_were() {
    let (place, _, before) = mixed();
    place.restore(&["dir"]).assert_success();
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in ["dir", "dir/sub", "dir/sub/file", "dir/empty"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
}

#[test]
fn one_file_comes_back_with_the_directories_above_it() {
    let (place, _, before) = mixed();
    place.restore(&["dir/sub/file"]).assert_success();
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in ["dir", "dir/sub", "dir/sub/file"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
    assert!(after.get("dir/empty").is_none());
}

#[test]
fn a_whole_run_is_undone() {
    let (place, run, before) = mixed();
    place.restore(&["--run", &run, "--force"]).assert_success();
    before.assert_same(&Snapshot::with(&place.destination, &Compare::sides()));
    // What was in the way is in the trash of the restore.
    let runs = trash_runs(&place.destination);
    let kept = runs.iter().filter_map(|run| std::fs::read(run.join("replaced")).ok()).next();
    assert_eq!(kept.unwrap(), b"new");
}

#[test]
fn what_is_in_the_way_is_not_replaced_without_force() {
    let (place, run, _) = mixed();
    let outcome = place.restore(&["replaced"]);
    outcome.assert_code(3);
    assert_says(&outcome, "--force");
    assert!(outcome.stdout.contains("occupied  replaced"), "{}", outcome.stdout);
    assert_eq!(std::fs::read(place.destination.join("replaced")).unwrap(), b"new");
    assert_eq!(std::fs::read(place.trash().join("replaced")).unwrap(), b"old", "it stays in the trash");
    place.restore(&["--run", &run]).assert_code(3);
    assert!(place.destination.join("dir/sub/file").exists(), "the rest is put back");
}

#[test]
fn a_directory_in_the_way_is_never_replaced() {
    let (place, _, _) = mixed();
    make(&place.destination, &[file("gone/something", "")]);
    place.restore(&["gone", "--force"]).assert_code(3);
    assert!(place.destination.join("gone/something").exists());
}

#[test]
fn a_link_in_the_way_of_a_directory_is_not_followed() {
    let (place, _, _) = mixed();
    let outside = place.path("outside");
    make(&outside, &[dir("sub"), file("file", "not yours")]);
    make(&place.destination, &[link("dir", outside.to_str().unwrap())]);
    let before = Snapshot::of(&outside);
    for words in [&["dir"][..], &["dir", "--force"], &["dir/sub/file", "--force"]] {
        assert_ne!(place.restore(words).code(), Some(0), "{words:?}");
        before.assert_same(&Snapshot::of(&outside));
    }
}

#[test]
fn a_dry_restore_changes_nothing() {
    let (place, run, _) = mixed();
    let before = Snapshot::of(&place.destination);
    let outcome = place.restore(&["--run", &run, "--force", "--dry-run"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("would be put back"), "{}", outcome.stdout);
    before.assert_same(&Snapshot::of(&place.destination));
}

#[test]
fn a_run_that_is_not_there_is_told() {
    let (place, _, _) = mixed();
    place.restore(&["--run", "20260413T152357Z-0123abcd"]).assert_code(1);
}

#[test]
fn the_trash_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let (place, _, _) = mixed();
    for name in [".ha-sync", ".ha-sync/trash"] {
        let mode = std::fs::metadata(place.destination.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{name}");
    }
    let sub = place.trash().join("dir/sub");
    assert_eq!(std::fs::metadata(sub).unwrap().permissions().mode() & 0o7777, 0o700);
    let gone = std::fs::metadata(place.trash().join("gone")).unwrap();
    assert_eq!(gone.permissions().mode() & 0o7777, 0o600, "files keep theirs");
}

#[test]
fn prune_removes_by_age_what_is_named() {
    let (place, run, _) = mixed();
    let root = place.destination.to_str().unwrap();
    let logs = place.environment.log_dir();
    let logs = logs.to_str().unwrap();
    place.sub(&["prune", "--trash", root]).assert_success();
    assert_eq!(trash_runs(&place.destination).len(), 1, "it is not a week old");
    let outcome = place.sub(&["prune", "--trash", root, "--trash-older-than", "0s", "--dry-run"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("1 runs would be removed, 4 entries"), "{}", outcome.stdout);
    assert_eq!(trash_runs(&place.destination).len(), 1);
    let outcome = place.sub(&["prune", "--trash", root, "--trash-older-than", "0s", "-o", "json"]);
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(answer["trash"][0]["entries"], 4);
    assert!(trash_runs(&place.destination).is_empty());
    assert!(!place.destination.join(format!(".ha-sync/trash/{run}.directories.jsonl")).exists());

    // The last successful run of the pair stays in the database.
    place.sync(&[]);
    place.sub(&["prune", "--log-dir", logs, "--db-older-than", "30d"]).assert_success();
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 2);
    place.sub(&["prune", "--log-dir", logs, "--db-older-than", "0s", "--dry-run"]).assert_success();
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 2);
    place.sub(&["prune", "--log-dir", logs, "--db-older-than", "0s"]).assert_success();
    assert_eq!(place.query("SELECT * FROM sync_iterations").len(), 1);
    assert!(place.query("SELECT * FROM sync_operations").is_empty());
}

/// System calls, by number, that some file systems and kernels refuse.
#[cfg(target_arch = "x86_64")]
const RENAMEAT2: u32 = 316;
#[cfg(target_arch = "aarch64")]
const RENAMEAT2: u32 = 276;
#[cfg(target_arch = "x86_64")]
const LINKAT: u32 = 265;
#[cfg(target_arch = "aarch64")]
const LINKAT: u32 = 37;

/// Returns where files are that have this content: below the root, without temporary names.
fn places_of(root: &Path, content: &str) -> Vec<String> {
    let files = files_below(root).into_iter().filter(|path| !path.to_string_lossy().contains(".tmp"));
    let held = files.filter(|path| std::fs::read(path).is_ok_and(|held| held == content.as_bytes()));
    held.map(|path| path.strip_prefix(root).unwrap().to_string_lossy().into_owned()).collect()
}

/// Every version is in the trash under its own path, or at its place.
#[track_caller]
fn assert_kept(root: &Path, versions: &[(&str, &str)], what: &str) {
    for (path, content) in versions {
        let found = places_of(root, content);
        let proper = |held: &String| {
            held == path
                || held
                    .strip_prefix(".ha-sync/trash/")
                    .and_then(|rest| rest.split_once('/'))
                    .is_some_and(|(_, rest)| rest == *path)
        };
        assert!(found.iter().any(proper), "{what}: {path} {content:?} is at {found:?}");
    }
}

const VERSIONS: [(&str, &str); 6] =
    [("a", "a old"), ("a", "a new!"), ("d/b", "b old"), ("d/b", "b new!"), ("gone", "gone"), ("sub/gone", "sub gone")];

/// Two replaced and two deleted files, whose destination may be elsewhere.
fn replaced(destination: Option<&Path>) -> Place {
    let source = [file("a", "a new!").mtime(NEWER), file("d/b", "b new!").mtime(NEWER)];
    let old = [file("a", "a old"), file("d/b", "b old"), file("gone", "gone"), file("sub/gone", "sub gone")];
    let place = Place::new(&source, &[]);
    let destination = destination.map_or_else(|| place.destination.clone(), Path::to_owned);
    make(&destination, &old);
    let place = Place { destination, ..place };
    place.sync(&["--delete-missing", "--max-delete", "100%", "--cross-mounts"]);
    place
}

/// Kills a restore at every call that changes names.
fn killed_anywhere(refused: &[u32], make: &dyn Fn() -> (Place, Vec<Mounted>, Option<Environment>)) {
    for call in ["renameat2", "renameat", "linkat", "unlinkat", "mkdirat", "fchmod"] {
        for number in 1..30 {
            let (place, mounts, root) = make();
            let what = format!("{call} {number}, refused {refused:?}");
            let run = place.binary().args(["restore", "--force", "--root"]).arg(&place.destination);
            let run = run.args(["a", "d", "gone", "sub"]);
            let run = refused.iter().fold(run, |run, call| run.refuse(*call, rustix::io::Errno::INVAL));
            let outcome = run.strace(Inject::on(call).signal("KILL").when(&number.to_string())).run();
            assert_kept(&place.destination, &VERSIONS, &what);
            let ended = outcome.code().is_some();
            // Whatever was left can be finished.
            if !ended {
                let again = place.restore(&["a", "d", "gone", "sub", "--force"]);
                assert_kept(&place.destination, &VERSIONS, &format!("{what}, again\n{}", again.stdout));
            } else {
                outcome.assert_success();
                for path in ["a", "d/b"] {
                    assert!(std::fs::read(place.destination.join(path)).unwrap().ends_with(b"old"), "{what}");
                }
            }
            drop((mounts, root));
            if ended {
                break;
            }
            assert!(number < 29, "it never ends: {what}");
        }
    }
}

#[test]
fn a_kill_at_any_moment_loses_no_version() {
    killed_anywhere(&[], &|| (replaced(None), Vec::new(), None));
}

#[test]
fn a_kill_loses_no_version_where_names_cannot_be_exchanged() {
    killed_anywhere(&[RENAMEAT2], &|| (replaced(None), Vec::new(), None));
    killed_anywhere(&[RENAMEAT2, LINKAT], &|| (replaced(None), Vec::new(), None));
}

#[test]
fn a_kill_loses_no_version_on_another_file_system() {
    if let Err(skipped) = loopmount::tmpfs(1 << 20) {
        return skipped.report();
    }
    killed_anywhere(&[], &|| {
        let root = Environment::new();
        let inner = loopmount::tmpfs(1 << 20).unwrap();
        let destination = root.join("destination");
        make(&destination, &[dir("d")]);
        let bound = loopmount::bind(inner.path(), &destination.join("d")).unwrap();
        (replaced(Some(&destination)), vec![bound, inner], Some(root))
    });
}

#[test]
fn a_kill_leaves_a_replaced_directory_whole() {
    for refused in [&[][..], &[RENAMEAT2], &[RENAMEAT2, LINKAT]] {
        for call in ["renameat2", "renameat", "linkat", "unlinkat", "mkdirat"] {
            for number in 1..20 {
                let (place, before) = directory_replaced();
                let run = place.binary().args(["restore", "d", "--force", "--root"]).arg(&place.destination);
                let run = refused.iter().fold(run, |run, call| run.refuse(*call, rustix::io::Errno::INVAL));
                let outcome = run.strace(Inject::on(call).signal("KILL").when(&number.to_string())).run();
                let versions = [("d", "a file now"), ("d/one", "1"), ("d/sub/two", "2")];
                assert_kept(&place.destination, &versions, &format!("{call} {number}, refused {refused:?}"));
                if outcome.code().is_some() {
                    outcome.assert_success();
                    assert_whole(&place, &before);
                    break;
                }
                if place.destination.join("d").is_file() {
                    place.restore(&["d", "--force"]);
                    assert_kept(&place.destination, &versions, &format!("{call} {number}, again"));
                }
                assert!(number < 19, "it never ends");
            }
        }
    }
}

#[test]
fn a_failed_step_leaves_every_version() {
    for call in ["renameat2", "renameat", "linkat", "unlinkat"] {
        for number in 1..6 {
            for refused in [&[][..], &[RENAMEAT2]] {
                let place = replaced(None);
                let run = place.binary().args(["restore", "--force", "--root"]).arg(&place.destination);
                let run = run.args(["a", "d", "gone", "sub"]);
                let run = refused.iter().fold(run, |run, call| run.refuse(*call, rustix::io::Errno::INVAL));
                let outcome = run.strace(Inject::on(call).error("EIO").when(&number.to_string())).run();
                assert_kept(&place.destination, &VERSIONS, &format!("{call} {number}\n{}", outcome.stdout));
                assert!(Snapshot::of(&place.destination).temporary_files().is_empty());
                if outcome.code() == Some(3) {
                    assert!(
                        outcome.stdout.contains("failed to") && outcome.stdout.contains("os error 5"),
                        "{}",
                        outcome.stdout
                    );
                    place.restore(&["a", "d", "gone", "sub", "--force"]);
                    assert_kept(&place.destination, &VERSIONS, &format!("{call} {number}, again"));
                }
            }
        }
    }
}

#[test]
fn a_root_in_use_is_left_alone() {
    let (place, _, _) = mixed();
    let held = std::fs::File::open(&place.destination).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockShared).unwrap();
    let before = Snapshot::of(&place.destination);
    let outcome = place.restore(&["gone"]);
    outcome.assert_code(4);
    assert_says(&outcome, place.destination.to_str().unwrap());
    before.assert_same(&Snapshot::of(&place.destination));
    place.restore(&[]).assert_success();
    place.restore(&["gone", "--dry-run"]).assert_success();
    drop(held);
    place.restore(&["gone"]).assert_success();
}

/// A run that put a file in the place of a directory.
fn directory_replaced() -> (Place, Snapshot) {
    let place = Place::new(
        &[file("d", "a file now").mtime(NEWER)],
        &[
            file("d/one", "1").mode(0o640),
            file("d/sub/two", "2"),
            dir("d/empty").mode(0o711).mtime(1_500_000_001),
            dir("d/sub").mode(0o700).mtime(1_500_000_002),
            dir("d").mode(0o751).owner(1234, 1235).mtime(1_500_000_003).xattr("user.x", "y"),
        ],
    );
    let before = Snapshot::with(&place.destination, &Compare::sides());
    place.mirror(&["--delete-missing", "--max-delete", "100%"]);
    (place, before)
}

const WHOLE: [&str; 5] = ["d", "d/one", "d/sub", "d/sub/two", "d/empty"];

#[track_caller]
fn assert_whole(place: &Place, before: &Snapshot) {
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in WHOLE {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
}

#[test]
fn a_replaced_directory_comes_back_whole() {
    let (place, before) = directory_replaced();
    let outcome = place.restore(&["d"]);
    outcome.assert_code(3);
    assert_says(&outcome, "--force");
    let outcome = place.restore(&["d", "--force"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("replace   d\n"), "{}", outcome.stdout);
    assert_whole(&place, &before);
    let kept = trash_runs(&place.destination).iter().filter_map(|run| std::fs::read(run.join("d")).ok()).next();
    assert_eq!(kept.unwrap(), b"a file now");
}

#[test]
fn a_replaced_directory_comes_back_where_nothing_is() {
    for words in [&["d"][..], &["--run", "RUN"], &["d", "d/one"]] {
        let (place, before) = directory_replaced();
        std::fs::remove_file(place.destination.join("d")).unwrap();
        let run = place.last().text("run_id").to_owned();
        let words: Vec<&str> = words.iter().map(|word| if *word == "RUN" { &run } else { *word }).collect();
        place.restore(&[&words[..], &["--dry-run"]].concat()).assert_success();
        assert!(!place.destination.join("d").exists());
        place.restore(&words).assert_success();
        assert_whole(&place, &before);
    }
}

#[test]
fn a_part_of_a_replaced_directory_comes_back() {
    let (place, before) = directory_replaced();
    place.restore(&["d/sub", "--force"]).assert_code(3);
    std::fs::remove_file(place.destination.join("d")).unwrap();
    place.restore(&["d/sub"]).assert_success();
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in ["d", "d/sub", "d/sub/two"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
    // The rest goes into what is there.
    place.restore(&["d/one"]).assert_success();
    place.restore(&["d"]).assert_success();
    let after = Snapshot::with(&place.destination, &Compare::sides());
    for name in WHOLE.into_iter().filter(|name| *name != "d") {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
}

#[test]
fn a_directory_that_only_holds_what_was_deleted_is_no_replaced_one() {
    let place = Place::new(&[file("d/kept", "")], &[file("d/kept", ""), file("d/gone", "gone"), dir("d").mode(0o755)]);
    place.sync(&["--delete-missing", "--max-delete", "100%"]);
    let outcome = place.restore(&["--list"]);
    assert!(outcome.stdout.contains("d/gone") && !outcome.stdout.contains("directory"), "{}", outcome.stdout);
    place.restore(&["d"]).assert_success();
    assert!(place.destination.join("d/gone").exists() && place.destination.join("d/kept").exists());
}

#[test]
fn of_runs_of_one_second_the_later_one_wins() {
    for (first, second) in [("0000000a", "0000000b"), ("0000000b", "0000000a")] {
        let place = Place::new(&[], &[]);
        let trash = place.destination.join(".ha-sync/trash");
        for (name, content) in [(first, "older"), (second, "newer")] {
            let folder = trash.join(format!("20260413T152357Z-{name}"));
            std::fs::create_dir_all(&folder).unwrap();
            for path in ["f", "g"] {
                std::fs::write(folder.join(path), content).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for path in ["f", "g"] {
            place.restore(&[path]).assert_success();
            assert_eq!(std::fs::read_to_string(place.destination.join(path)).unwrap(), "newer", "{path}");
        }
        place.restore(&["f", "--force"]).assert_success();
        assert_eq!(std::fs::read_to_string(place.destination.join("f")).unwrap(), "older");
    }
}

#[test]
fn a_record_says_which_directories_are_whole() {
    use std::os::unix::fs::PermissionsExt as _;
    for whole in [true, false] {
        let place = Place::new(&[], &[]);
        let run = "20260413T152357Z-00000007";
        // It looks like a folder that was made to hold things: private, and no older than the run.
        let trash = place.destination.join(".ha-sync/trash");
        let directory = trash.join(run).join("d");
        std::fs::create_dir_all(directory.join("empty")).unwrap();
        for path in [place.destination.join(".ha-sync"), trash.clone(), trash.join(run), directory.clone()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        std::fs::set_permissions(directory.join("empty"), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(directory.join("file"), "kept").unwrap();
        let line = r#"{"path":"d","mode":448,"uid":0,"gid":0,"mtime":1500000000000000000,"whole":true}"#;
        if whole {
            std::fs::write(trash.join(format!("{run}.directories.jsonl")), format!("{line}\n{{\"path\":\"to")).unwrap();
        }
        place.restore(&["d"]).assert_success();
        assert_eq!(std::fs::read(place.destination.join("d/file")).unwrap(), b"kept");
        assert_eq!(place.destination.join("d/empty").exists(), whole);
    }
}
