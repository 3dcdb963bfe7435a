//! What people do between the scan and the moment at which a plan is carried out.

use std::fs;

use ha_sync_core::baseline::Side::{A, B};
use ha_sync_core::conflict::copy_name;
use ha_sync_core::entry::Time;
use ha_sync_core::reconcile::ConflictPolicy;
use ha_sync_core::record::Status;
use ha_sync_engine::Mode;

use crate::cases::{names, with};
use crate::world::{Ran, START, Trouble, World};

impl World {
    /// Runs once, and does something when the first operations are announced: the scan is done, and nothing else yet.
    fn run_while(&mut self, edit: impl FnOnce() + Send) -> Ran {
        let mut edit = Some(edit);
        let hook = move |_| {
            if let Some(edit) = edit.take() {
                edit();
            }
        };
        self.run_with(Trouble::default(), Some(Box::new(hook)))
    }
}

#[test]
fn what_comes_into_a_directory_that_is_about_to_be_replaced_stays() {
    for (path, content) in [("d/new", "new"), ("d/e/new", "new"), ("d/e/y", "edited, and longer")] {
        let mut world = with(&["d/x", "d/e/y"]);
        fs::remove_dir_all(world.path(A, "d")).unwrap();
        world.write(A, "d", "a file", 10);
        let full = world.path(B, path);
        let ran = world.run_while(move || fs::write(full, content).unwrap());
        assert_eq!(ran.told(), ["a-to-b update d FAILED changed since scan"], "{path}");
        assert_eq!(world.text(B, path).as_deref(), Some(content), "it is where it was put");
        assert_eq!(world.temporary(), Vec::<String>::new());
        // Now it is seen: a change in the directory wins over the file.
        assert_eq!(world.run().result.unwrap().status, Status::Success);
        for side in [A, B] {
            assert_eq!(world.text(side, path).as_deref(), Some(content));
        }
        assert_eq!(names(&world.tree(A)), names(&world.tree(B)));
        assert!(world.run().told().is_empty());
    }
}

/// A file that both sides change, with the copy of the loser kept beside it; A's loses.
fn conflicting() -> World {
    let mut world = with(&["x.txt"]);
    world.job.mode = Mode::TwoWay(ConflictPolicy::KeepBoth);
    world.write(A, "x.txt", "the loser", 500);
    world.write(B, "x.txt", "the winner", 400);
    world
}

fn copy(number: u32) -> String {
    let name = copy_name(b"x.txt", A, Time(i128::from(START - 500) * Time::SECOND), number);
    String::from_utf8(name).unwrap()
}

#[test]
fn a_name_of_a_conflict_copy_that_is_taken_since_the_scan_keeps_the_loser_in_place() {
    for side in [A, B] {
        let mut world = conflicting();
        let taken = world.path(side, &copy(1));
        let ran = world.run_while(move || fs::write(taken, "somebody's").unwrap());
        let failed = format!("create {} (changed on both sides) FAILED changed since scan", copy(1));
        assert!(ran.told().iter().any(|line| line.contains(&failed)), "{:?}", ran.told());
        assert_eq!(world.text(side, &copy(1)).as_deref(), Some("somebody's"));
        assert_eq!(world.text(A, "x.txt").as_deref(), Some("the loser"), "no copy, so it stays");
        // The next run takes another name.
        assert_eq!(world.run().result.unwrap().status, Status::Success);
        world.run();
        assert_eq!(names(&world.tree(A)), names(&world.tree(B)));
        for side in [A, B] {
            let all: Vec<_> = world.tree(side).keys().map(|path| world.text(side, path).unwrap()).collect();
            for content in ["the winner", "the loser", "somebody's"] {
                assert!(all.iter().any(|held| held == content), "{content}: {all:?}");
            }
        }
        assert!(world.run().told().is_empty());
    }
}

#[test]
fn an_older_copy_of_the_same_size_and_time_is_no_copy_of_the_loser() {
    for sides in [&[A, B][..], &[A], &[B]] {
        let mut world = conflicting();
        for side in sides {
            world.write(*side, &copy(1), "the l0ser", 500);
        }
        assert_eq!(world.run().result.unwrap().status, Status::Success);
        for side in [A, B] {
            assert_eq!(world.text(side, &copy(1)).as_deref(), Some("the l0ser"));
            assert_eq!(world.text(side, &copy(2)).as_deref(), Some("the loser"));
        }
        assert!(world.run().told().is_empty());
    }
}

#[test]
fn a_copy_that_is_about_to_be_deleted_is_no_copy_of_the_loser() {
    let mut world = with(&["x.txt"]);
    world.job.mode = Mode::TwoWay(ConflictPolicy::KeepBoth);
    world.write(A, &copy(1), "the loser", 500);
    world.agree();
    fs::remove_file(world.path(B, &copy(1))).unwrap();
    world.write(A, "x.txt", "the loser", 500);
    world.write(B, "x.txt", "the winner", 400);
    assert_eq!(world.run().result.unwrap().status, Status::Success);
    for side in [A, B] {
        assert_eq!(world.text(side, &copy(1)), None);
        assert_eq!(world.text(side, &copy(2)).as_deref(), Some("the loser"));
    }
}

#[test]
fn a_loser_stays_when_every_name_of_a_copy_is_taken() {
    let mut world = conflicting();
    for number in 1..=999 {
        fs::write(world.path(B, &copy(number)), "taken").unwrap();
    }
    let ran = world.run();
    let failed: Vec<_> = ran.told().into_iter().filter(|line| line.contains("FAILED")).collect();
    assert_eq!(
        failed,
        [
            "a-to-b update x.txt (changed on both sides) FAILED not replaced: every name for a copy of the loser is taken"
        ]
    );
    assert_eq!(world.text(A, "x.txt").as_deref(), Some("the loser"));
    assert_eq!(world.text(B, "x.txt").as_deref(), Some("the winner"));
}

#[test]
fn what_is_made_again_since_the_scan_is_not_deleted_on_the_other_side() {
    let mut world = with(&["x", "d/y"]);
    fs::remove_file(world.path(A, "x")).unwrap();
    fs::remove_dir_all(world.path(A, "d")).unwrap();
    let (file, directory) = (world.path(A, "x"), world.path(A, "d"));
    let ran = world.run_while(move || {
        fs::write(file, "made again").unwrap();
        fs::create_dir(directory).unwrap();
    });
    let mut told = ran.told();
    told.sort();
    let failed = "FAILED changed since scan";
    assert_eq!(
        told,
        [format!("a-to-b delete d {failed}"), "a-to-b delete d/y".to_owned(), format!("a-to-b delete x {failed}")]
    );
    assert_eq!(world.text(B, "x").as_deref(), Some("content of x"));
    world.run();
    assert_eq!((names(&world.tree(A)), names(&world.tree(B))), (vec!["d", "x"], vec!["d", "x"]));
    assert_eq!(world.text(B, "x").as_deref(), Some("made again"));
    assert!(world.run().told().is_empty());
}
