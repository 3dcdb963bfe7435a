//! Single cases, each with its own name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ha_sync_core::baseline::Side::{A, B};
use ha_sync_core::decide::DeleteMissing;
use ha_sync_core::limits::MaxDelete;
use ha_sync_core::reconcile::ConflictPolicy;
use ha_sync_core::record::Status;
use ha_sync_engine::{Job, Mode, RunError};

use crate::edits::set_time;
use crate::world::{Ran, START, Tree, Trouble, World};

const SECOND: i128 = 1_000_000_000;

impl World {
    /// Writes a file, making the directories above it, so many seconds before the first run.
    pub(crate) fn write(&self, side: ha_sync_core::baseline::Side, path: &str, content: &str, before: i64) {
        let full = self.path(side, path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, content).unwrap();
        set_time(&full, i128::from(START - before) * SECOND);
    }

    pub(crate) fn agree(&mut self) {
        assert_eq!(self.run().result.unwrap().status, Status::Success);
        assert_eq!(names(&self.tree(A)), names(&self.tree(B)));
        self.clock += 100;
    }

    pub(crate) fn text(&self, side: ha_sync_core::baseline::Side, path: &str) -> Option<String> {
        fs::read_to_string(self.path(side, path)).ok()
    }
}

pub(crate) fn names(tree: &Tree) -> Vec<&str> {
    tree.keys().map(String::as_str).collect()
}

fn bytes(ran: &Ran) -> u64 {
    ran.operations.iter().map(|operation| operation.bytes).sum()
}

pub(crate) fn with(files: &[&str]) -> World {
    let mut world = World::new(ConflictPolicy::Newest);
    for path in files {
        world.write(A, path, &format!("content of {path}"), 1000);
    }
    world.agree();
    world
}

#[test]
fn a_first_run_over_two_different_trees_deletes_nothing() {
    for policy in [ConflictPolicy::Newest, ConflictPolicy::PreferA, ConflictPolicy::PreferB] {
        let mut world = World::new(policy);
        for (side, paths) in [(A, ["only-a", "d/a", "same"]), (B, ["only-b", "d/b", "same"])] {
            for path in paths {
                world.write(side, path, &format!("{path} of {}", side.as_str()), 1000);
            }
        }
        let ran = world.run();
        assert!(ran.told().iter().all(|line| !line.contains("delete")), "{:?}", ran.told());
        let all = ["d", "d/a", "d/b", "only-a", "only-b", "same"];
        assert_eq!(names(&world.tree(A)), all);
        assert_eq!(names(&world.tree(B)), all);
    }
}

#[test]
fn a_lost_baseline_makes_a_union() {
    let mut world = with(&["x", "y"]);
    fs::remove_file(world.path(A, "x")).unwrap();
    fs::remove_file(world.baseline()).unwrap();
    let ran = world.run();
    assert_eq!(ran.told(), ["b-to-a create x"]);
}

#[test]
fn a_damaged_baseline_makes_a_union() {
    for damage in [0_usize, 20, 60] {
        let mut world = with(&["x", "y"]);
        fs::remove_file(world.path(A, "x")).unwrap();
        let mut content = fs::read(world.baseline()).unwrap();
        content[damage] ^= 0x55;
        fs::write(world.baseline(), content).unwrap();
        assert_eq!(world.run().told(), ["b-to-a create x"]);
        // It is whole again.
        fs::remove_file(world.path(B, "x")).unwrap();
        assert_eq!(world.run().told(), ["b-to-a delete x"]);
    }
}

#[test]
fn deletions_and_changes_go_both_ways() {
    let mut world = with(&["x", "y", "d/x", "d/y", "d/e/x"]);
    fs::remove_file(world.path(A, "x")).unwrap();
    fs::remove_dir_all(world.path(B, "d/e")).unwrap();
    world.write(B, "y", "newer", 500);
    world.write(A, "d/x", "older time, and the only change", 5000);
    let mut told = world.run().told();
    told.sort();
    assert_eq!(
        told,
        ["a-to-b delete x", "a-to-b update d/x", "b-to-a delete d/e", "b-to-a delete d/e/x", "b-to-a update y"]
    );
    assert!(world.run().told().is_empty());
    assert_eq!(names(&world.tree(A)), ["d", "d/x", "d/y", "y"]);
    assert_eq!(names(&world.tree(B)), ["d", "d/x", "d/y", "y"]);
}

#[test]
fn a_change_wins_over_a_deletion_however_deep() {
    let mut world = with(&["d/e/f/x", "d/e/f/y", "d/z"]);
    fs::remove_dir_all(world.path(A, "d")).unwrap();
    world.write(B, "d/e/f/x", "changed", 10);
    let mut told = world.run().told();
    told.sort();
    let kept = "(kept: changed on one side, deleted on the other)";
    assert_eq!(
        told,
        [
            "a-to-b delete d/e/f/y".to_owned(),
            "a-to-b delete d/z".to_owned(),
            format!("b-to-a create d {kept}"),
            format!("b-to-a create d/e {kept}"),
            format!("b-to-a create d/e/f {kept}"),
            format!("b-to-a create d/e/f/x {kept}"),
        ]
    );
    assert_eq!(names(&world.tree(A)), ["d", "d/e", "d/e/f", "d/e/f/x"]);
    assert_eq!(names(&world.tree(B)), names(&world.tree(A)));
    assert!(world.run().told().is_empty());
}

#[test]
fn a_moved_file_is_renamed_on_the_other_side() {
    let mut world = with(&["x", "d/y"]);
    let inode = world.inodes(B)["d/y"];
    fs::create_dir(world.path(A, "new")).unwrap();
    fs::rename(world.path(A, "d/y"), world.path(A, "new/name")).unwrap();
    let ran = world.run();
    let told = ran.told();
    assert!(told.contains(&"a-to-b create new/name (renamed from d/y)".to_owned()), "{told:?}");
    assert!(told.contains(&"a-to-b delete d/y (renamed to new/name)".to_owned()), "{told:?}");
    assert_eq!((bytes(&ran), world.inodes(B)["new/name"]), (0, inode));
    assert!(world.run().told().is_empty());
    // A rename counts for what follows: it is deleted under its new name.
    fs::remove_file(world.path(B, "new/name")).unwrap();
    assert_eq!(world.run().told(), ["b-to-a delete new/name"]);
}

#[test]
fn a_moved_directory_copies_nothing() {
    let mut world = with(&["d/x", "d/y", "d/e/x", "d/e/f/x", "z"]);
    let before = world.inodes(B);
    fs::create_dir(world.path(A, "other")).unwrap();
    fs::rename(world.path(A, "d"), world.path(A, "other/moved")).unwrap();
    // No limit is touched: nothing is deleted.
    world.job.max_delete = MaxDelete::Count(0);
    let ran = world.run();
    assert_eq!(ran.result.as_ref().unwrap().status, Status::Success);
    assert_eq!(bytes(&ran), 0, "{:?}", ran.told());
    let after = world.inodes(B);
    for path in ["x", "y", "e/x", "e/f/x"] {
        assert_eq!(after[&format!("other/moved/{path}")], before[&format!("d/{path}")]);
    }
    assert_eq!(names(&world.tree(A)), names(&world.tree(B)));
    assert!(world.run().told().is_empty());
}

#[test]
fn a_directory_moved_into_its_own_former_sibling() {
    let mut world = with(&["d/x", "f/y"]);
    fs::rename(world.path(B, "d"), world.path(B, "f/d")).unwrap();
    let ran = world.run();
    assert_eq!((bytes(&ran), names(&world.tree(A))), (0, vec!["f", "f/d", "f/d/x", "f/y"]));
    assert!(world.run().told().is_empty());
}

#[test]
fn a_moved_and_edited_file_is_copied_and_deleted() {
    let mut world = with(&["x"]);
    fs::rename(world.path(A, "x"), world.path(A, "y")).unwrap();
    world.write(A, "y", "edited, too", 10);
    let mut told = world.run().told();
    told.sort();
    assert_eq!(told, ["a-to-b create y", "a-to-b delete x"]);
    assert_eq!(world.text(B, "y").as_deref(), Some("edited, too"));
}

/// By an edit that keeps the size and sets the time back, as programs for tags do.
#[test]
fn a_file_that_was_moved_and_edited_without_a_trace_is_copied() {
    let mut world = with(&["x", "large"]);
    world.write(A, "large", &"a".repeat(300_000), 900);
    world.run();
    for (from, to, text) in [("x", "y", "CONTENT of x".to_owned()), ("large", "small", "b".repeat(300_000))] {
        let time = world.tree(A)[from].mtime;
        assert_eq!(fs::metadata(world.path(A, from)).unwrap().len(), text.len() as u64);
        fs::write(world.path(A, from), &text).unwrap();
        set_time(&world.path(A, from), time);
        fs::rename(world.path(A, from), world.path(A, to)).unwrap();
    }
    world.run();
    for path in ["y", "small"] {
        assert_eq!(world.text(B, path), world.text(A, path), "{path}");
    }
    assert!(world.run().told().is_empty());
}

#[test]
fn a_conflict_copy_that_is_deleted_stays_deleted() {
    let mut world = with(&["x", "y"]);
    world.job.mode = Mode::TwoWay(ConflictPolicy::KeepBoth);
    for (side, name) in [(A, "x"), (B, "y")] {
        world.write(side.other(), name, "newer", 400);
        world.write(side, name, "loser", 500);
    }
    std::os::unix::fs::symlink("loser", world.path(A, "l")).unwrap();
    std::os::unix::fs::symlink("winner", world.path(B, "l")).unwrap();
    world.run();
    let copies: Vec<String> = world.tree(A).into_keys().filter(|path| path.contains("(conflict")).collect();
    assert_eq!(copies.len(), 3);
    for (copy, side) in copies.iter().zip([A, B, A]) {
        fs::remove_file(world.path(side, copy)).unwrap();
    }
    let told = world.run().told();
    assert!(told.len() == 3 && told.iter().all(|told| told.contains("delete")), "{told:?}");
    assert_eq!(names(&world.tree(A)), ["l", "x", "y"]);
    assert_eq!(names(&world.tree(B)), ["l", "x", "y"]);
}

#[test]
fn a_moved_file_that_was_edited_on_the_other_side_is_kept_there() {
    let mut world = with(&["x"]);
    fs::rename(world.path(A, "x"), world.path(A, "y")).unwrap();
    world.write(B, "x", "edited", 10);
    world.run();
    assert_eq!(names(&world.tree(A)), ["x", "y"]);
    assert_eq!((world.text(A, "x").as_deref(), world.text(B, "y").as_deref()), (Some("edited"), Some("content of x")));
    assert!(world.run().told().is_empty());
}

#[test]
fn renames_onto_what_is_there_swaps_and_chains_end_right() {
    let mut world = with(&["a", "b", "c", "d", "e", "f"]);
    let at = |name: &str| world.path(A, name);
    // Onto another one.
    fs::rename(at("a"), at("b")).unwrap();
    // Two change places.
    for (from, to) in [("c", "t"), ("d", "c"), ("t", "d")] {
        fs::rename(at(from), at(to)).unwrap();
    }
    // A chain.
    for (from, to) in [("f", "g"), ("e", "f")] {
        fs::rename(at(from), at(to)).unwrap();
    }
    world.run();
    assert_eq!(names(&world.tree(B)), ["b", "c", "d", "f", "g"]);
    for (path, was) in [("b", "a"), ("c", "d"), ("d", "c"), ("f", "e"), ("g", "f")] {
        assert_eq!(world.text(B, path), Some(format!("content of {was}")), "{path}");
    }
    assert!(world.run().told().is_empty());
}

#[test]
fn another_name_of_a_file_is_no_rename() {
    let mut world = with(&["x", "y"]);
    fs::hard_link(world.path(A, "x"), world.path(A, "z")).unwrap();
    fs::hard_link(world.path(A, "x"), world.path(A, "w")).unwrap();
    fs::remove_file(world.path(A, "x")).unwrap();
    world.run();
    assert_eq!(names(&world.tree(B)), ["w", "y", "z"]);
    for path in ["w", "z"] {
        assert_eq!(world.text(B, path).as_deref(), Some("content of x"));
    }
    assert!(world.run().told().is_empty());
}

#[test]
fn a_new_file_that_got_the_number_of_a_deleted_one_is_no_rename() {
    let mut world = with(&["x"]);
    let (path, new) = (world.path(A, "x"), world.path(A, "new"));
    let (inode, size) = (world.inodes(A)["x"], fs::metadata(&path).unwrap().len());
    fs::remove_file(&path).unwrap();
    // Until the file system gives the number away again, with the size and the time of the old one.
    for attempt in 0..2000 {
        fs::write(&new, "another text"[..].bytes().cycle().take(size as usize).collect::<Vec<_>>()).unwrap();
        set_time(&new, i128::from(START - 1000) * SECOND);
        if world.inodes(A)["new"] == inode {
            break;
        }
        fs::remove_file(&new).unwrap();
        if attempt == 1999 {
            println!("skipped: this file system gave no inode number away again");
            return;
        }
    }
    world.run();
    assert_eq!(world.text(B, "new"), world.text(A, "new"));
    assert!(world.run().told().is_empty());
}

#[test]
fn conflicts_by_every_policy() {
    for (policy, expected, copies, status) in [
        (ConflictPolicy::Newest, Some("from b, newer"), 0, Status::Success),
        (ConflictPolicy::PreferA, Some("from a"), 0, Status::Success),
        (ConflictPolicy::PreferB, Some("from b, newer"), 0, Status::Success),
        (ConflictPolicy::KeepBoth, Some("from b, newer"), 1, Status::Success),
        (ConflictPolicy::Skip, None, 0, Status::PartialFailure),
    ] {
        let mut world = with(&["d/x.txt"]);
        world.job.mode = Mode::TwoWay(policy);
        world.write(A, "d/x.txt", "from a", 500);
        world.write(B, "d/x.txt", "from b, newer", 400);
        let finished = world.run().result.unwrap();
        assert_eq!(finished.status, status, "{policy:?}");
        match expected {
            Some(expected) => {
                for side in [A, B] {
                    assert_eq!(world.text(side, "d/x.txt").as_deref(), Some(expected), "{policy:?}");
                }
                assert!(finished.conflicts.is_empty());
            }
            None => {
                assert_eq!(world.text(A, "d/x.txt").as_deref(), Some("from a"));
                assert_eq!(finished.conflicts[0].path().as_bytes(), b"d/x.txt");
            }
        }
        let kept: Vec<String> = world.tree(A).into_keys().filter(|path| path.contains("(conflict")).collect();
        assert_eq!(kept.len(), copies);
        for path in kept {
            assert!(path.starts_with("d/x (conflict ") && path.ends_with(" from a).txt"), "{path}");
            assert_eq!((world.text(A, &path).as_deref(), world.text(B, &path)), (Some("from a"), world.text(A, &path)));
        }
        // Whatever the policy: both versions are somewhere.
        let contents = world.contents();
        for version in ["from a", "from b, newer"] {
            assert!(contents.contains(version.as_bytes()), "{policy:?}: {version}");
        }
        assert!(world.run().told().is_empty(), "{policy:?}");
    }
}

#[test]
fn a_file_in_the_place_of_a_directory() {
    // Nothing changed in the directory: the file is the change.
    let mut world = with(&["d/x", "d/e/y"]);
    fs::remove_dir_all(world.path(A, "d")).unwrap();
    world.write(A, "d", "a file", 10);
    assert_eq!(world.run().told(), ["a-to-b update d"]);
    assert!(world.run().told().is_empty());
    // Something did: the directory stays, with all that is in it, and the file is in the trash.
    let mut world = with(&["d/x", "d/e/y"]);
    fs::remove_dir_all(world.path(A, "d")).unwrap();
    world.write(A, "d", "a file", 10);
    world.write(B, "d/new", "new", 10);
    world.run();
    assert_eq!(names(&world.tree(A)), ["d", "d/e", "d/e/y", "d/new", "d/x"]);
    assert!(world.contents().contains(&b"a file"[..]));
    assert!(world.run().told().is_empty());
}

#[test]
fn metadata_of_both_sides_meet() {
    let mut world = with(&["x", "d/y"]);
    fs::set_permissions(world.path(A, "x"), fs::Permissions::from_mode(0o600)).unwrap();
    world.write(B, "x", "new content", 10);
    let told = world.run().told();
    assert_eq!(told, ["b-to-a update x"]);
    for side in [A, B] {
        let node = &world.tree(side)["x"];
        assert_eq!((node.mode, node.mtime), (0o600, i128::from(START - 10) * SECOND));
    }
    assert!(world.run().told().is_empty());
    // Of both sides something other, without content.
    fs::set_permissions(world.path(B, "x"), fs::Permissions::from_mode(0o640)).unwrap();
    set_time(&world.path(A, "x"), i128::from(START - 5) * SECOND);
    world.run();
    for side in [A, B] {
        let node = &world.tree(side)["x"];
        assert_eq!((node.mode, node.mtime), (0o640, i128::from(START - 5) * SECOND));
    }
    assert!(world.run().told().is_empty());
}

#[test]
fn too_many_deletions_halt_and_the_id_lets_exactly_them_through() {
    let paths: Vec<String> = (0..40).map(|number| format!("d{}/{number}", number % 4)).collect();
    let mut world = with(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    world.job.max_delete = MaxDelete::Default;
    for path in &paths[..30] {
        fs::remove_file(world.path(B, path)).unwrap();
    }
    let Err(RunError::Halt(halt)) = world.run().result else { panic!("it must halt") };
    assert!(halt.seen.starts_with("30 of 44 entries of A would be deleted"), "{}", halt.seen);
    assert_eq!(world.tree(A).len(), 44, "nothing is done");
    let id = halt.seen.rsplit(' ').next().unwrap().to_owned();
    fs::remove_file(world.path(B, &paths[30])).unwrap();
    world.job.approve = Some(id.clone());
    assert!(matches!(world.run().result, Err(RunError::Halt(_))), "another set");
    world.write(B, &paths[30], &format!("content of {}", paths[30]), 1000);
    assert_eq!(world.run().result.unwrap().approved, Some(id));
    assert_eq!(world.tree(A).len(), 14);
}

#[test]
fn an_emptied_side_halts() {
    let mut world = with(&["x", "y"]);
    world.job.allow_empty_root = false;
    for path in ["x", "y"] {
        fs::remove_file(world.path(B, path)).unwrap();
    }
    let Err(RunError::Halt(halt)) = world.run().result else { panic!("it must halt") };
    assert!(halt.seen.starts_with("B root is empty and had entries at the last run"), "{}", halt.seen);
    assert_eq!(world.tree(A).len(), 2);
}

#[test]
fn what_either_side_ignores_takes_no_part() {
    let mut world = with(&["x", "keep"]);
    world.write(B, ".ha-syncignore", "*.tmp\n", 900);
    world.write(A, "x.tmp", "a's", 10);
    world.write(B, "y.tmp", "b's", 10);
    world.run();
    assert_eq!(names(&world.tree(A)), [".ha-syncignore", "keep", "x", "x.tmp"]);
    assert_eq!(names(&world.tree(B)), [".ha-syncignore", "keep", "x", "y.tmp"]);
    assert!(world.run().told().is_empty());
}

#[test]
fn what_could_not_be_copied_keeps_its_agreement() {
    let mut world = with(&["x", "y"]);
    world.write(A, "x", "changed", 10);
    fs::remove_file(world.path(A, "y")).unwrap();
    let ran = world.run_with(Trouble { full: true, killed_after: None }, None);
    assert_eq!(ran.result.unwrap().status, Status::PartialFailure);
    // It is still known as changed here, so the old version there is no conflict and no change.
    assert_eq!(world.run().told(), ["a-to-b update x"]);
    assert_eq!(names(&world.tree(B)), ["x"]);
}

#[test]
fn a_file_made_anew_after_a_killed_run_had_deleted_it_stays() {
    let mut world = with(&["x", "y"]);
    fs::remove_file(world.path(A, "x")).unwrap();
    // The announcement and the record of the deletion are written, the baseline is not.
    world.write(A, "z", "new", 10);
    let ran = world.run_with(Trouble { killed_after: Some(4), full: false }, None);
    assert_eq!(ran.told(), ["a-to-b create z", "a-to-b delete x"]);
    world.write(A, "x", "content of x", 1000);
    let told = world.run().told();
    assert_eq!(told, ["a-to-b create x"], "it is new, though nothing tells it from the old one");
}

#[test]
fn a_dry_run_changes_nothing_and_says_the_same_twice() {
    let mut world = with(&["x", "d/y", "z"]);
    fs::rename(world.path(A, "x"), world.path(A, "moved")).unwrap();
    fs::remove_dir_all(world.path(B, "d")).unwrap();
    world.write(B, "z", "changed", 10);
    let (before, baseline) = ([world.tree(A), world.tree(B)], fs::read(world.baseline()).unwrap());
    world.job.dry_run = true;
    let (first, second) = (world.run(), world.run());
    let mut told = first.told();
    told.sort();
    assert_eq!(
        told,
        [
            "a-to-b create moved (renamed from x)",
            "a-to-b delete x (renamed to moved)",
            "b-to-a delete d",
            "b-to-a delete d/y",
            "b-to-a update z"
        ]
    );
    assert_eq!(first.result.unwrap().plan, second.result.unwrap().plan);
    assert!(before == [world.tree(A), world.tree(B)] && baseline == fs::read(world.baseline()).unwrap());
    world.job.dry_run = false;
    let mut done = world.run().told();
    done.sort();
    assert_eq!(done, told);
}

/// The plan's warning: with two one-way jobs and --delete-missing, what is new on the secondary was deleted before the
/// other job could copy it. Whichever runs first, it is not any more.
#[test]
fn two_one_way_jobs_delete_what_is_deleted_and_keep_what_is_new() {
    for secondary_first in [false, true] {
        let mut world = World::new(ConflictPolicy::Newest);
        for path in ["x", "y", "d/z", "d/w"] {
            world.write(A, path, &format!("content of {path}"), 1000);
        }
        let two_way = world.job.clone();
        let primary = Job { mode: Mode::OneWay, delete: DeleteMissing::On, ..two_way.clone() };
        let (source, destination) = (primary.destination.clone(), primary.source.clone());
        let secondary = Job { source, destination, delete: DeleteMissing::Off, ..primary.clone() };
        let run = |world: &mut World, job: &Job| {
            world.job = job.clone();
            let ran = world.run();
            assert_eq!(ran.result.as_ref().unwrap().status, Status::Success, "{:?}", ran.told());
            world.clock += 100;
            ran.told()
        };
        for job in [&primary, &secondary, &primary, &secondary] {
            run(&mut world, job);
        }
        // Made on the secondary, deleted and changed on the primary.
        world.write(B, "made/on/b", "new", 10);
        world.write(B, "y", "changed on b", 10);
        fs::remove_file(world.path(A, "x")).unwrap();
        fs::remove_file(world.path(A, "d/z")).unwrap();
        let jobs = if secondary_first { [&secondary, &primary] } else { [&primary, &secondary] };
        for job in jobs.into_iter().chain(jobs) {
            run(&mut world, job);
        }
        for side in [A, B] {
            assert_eq!(world.text(side, "made/on/b").as_deref(), Some("new"), "secondary first: {secondary_first}");
            assert_eq!(world.text(side, "y").as_deref(), Some("changed on b"));
        }
        if !secondary_first {
            // The job that brings things back ran last, so the deletions of the primary were carried out before.
            assert_eq!(names(&world.tree(B)), ["d", "d/w", "made", "made/on", "made/on/b", "y"]);
        }
        assert_eq!(names(&world.tree(A)), names(&world.tree(B)));
        for job in jobs {
            assert!(run(&mut world, job).is_empty());
        }
    }
}

#[test]
fn one_way_jobs_of_one_direction_keep_no_baseline() {
    let mut world = World::new(ConflictPolicy::Newest);
    world.write(A, "x", "x", 1000);
    world.write(B, "y", "y", 1000);
    world.job = Job { mode: Mode::OneWay, delete: DeleteMissing::On, ..world.job.clone() };
    world.run();
    world.run();
    assert!(!world.baseline().exists());
    assert_eq!(names(&world.tree(B)), ["x"], "a strict mirror, as ever");
}

#[test]
fn a_run_in_two_directions_after_one_knows_what_was_equal() {
    let mut world = World::new(ConflictPolicy::Newest);
    for path in ["x", "y"] {
        world.write(A, path, "same", 1000);
        world.write(B, path, "same", 800);
    }
    world.agree();
    let read = |path: &Path| fs::metadata(path).unwrap();
    assert_eq!(read(&world.path(A, "x")).modified().unwrap(), read(&world.path(B, "x")).modified().unwrap());
    fs::remove_file(world.path(A, "x")).unwrap();
    assert_eq!(world.run().told(), ["a-to-b delete x"]);
}

#[test]
fn directories_that_an_interrupted_run_worked_in_keep_what_people_gave_them() {
    for (people, run) in [(A, B), (B, A)] {
        let mut world = with(&["d/x"]);
        let time = |before: i64| i128::from(START - before) * SECOND;
        // In the one somebody made a file, the other one has got it from the run; so has it a new directory.
        for (side, before, mode) in [(people, 500, 0o750), (run, 20, 0o700)] {
            world.write(side, "d/new", "new", 600);
            fs::create_dir(world.path(side, "made")).unwrap();
            fs::set_permissions(world.path(side, "made"), fs::Permissions::from_mode(mode)).unwrap();
            for path in ["d", "made"] {
                set_time(&world.path(side, path), time(before));
            }
        }
        world.interrupted(&["d", "made"]);
        assert_eq!(world.run().result.unwrap().status, Status::Success);
        for side in [A, B] {
            let tree = world.tree(side);
            assert_eq!((tree["d"].mtime, tree["made"].mtime, tree["made"].mode), (time(500), time(500), 0o750));
        }
        assert!(world.run().told().is_empty());
    }
}
