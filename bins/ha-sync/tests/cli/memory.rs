//! What is remembered between runs, and what is checked once more before it is acted on.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use ha_testkit::command::Inject;
use ha_testkit::tree::{file, hard_link};

use crate::place::Place;

const NEWER: i64 = 1_750_000_000;

fn read(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_root_is_one_root_however_it_is_spelled() {
    let place = Place::new(&[file("common", "x")], &[file("common", "x"), file("new here", "y")]);
    let (a, b) = (place.source.clone(), place.destination.clone());
    let spelled = place.path("another name");
    std::os::unix::fs::symlink(&b, &spelled).unwrap();
    // The other direction has run, under another spelling, and did not bring this file over.
    place.between(&spelled, &a, &["--exclude", "new here"]).run().assert_success();
    place.between(&a, &b, &["--delete-missing"]).run().assert_success();
    assert_eq!(read(&b.join("new here")), b"y");
    assert_eq!(place.skipped("new at destination"), 1);
}

#[test]
fn a_second_name_is_not_linked_to_a_first_one_that_was_not_copied() {
    let place = Place::new(
        &[file("a", "the new content").mtime(NEWER), hard_link("b", "a")],
        &[file("a", "old a"), file("b", "the old b")],
    );
    place.run(&["--hard-links", "--min-free", "100%"]).assert_code(3);
    assert_eq!(read(&place.destination.join("a")), b"old a");
    assert_eq!(read(&place.destination.join("b")), b"the old b");
}

#[test]
fn a_kernel_copy_that_ends_early_goes_on_by_reading() {
    let content: Vec<u8> = (0..40_000_000_u32).map(|number| (number / 7) as u8).collect();
    let place = Place::new(&[file("large", &content)], &[]);
    let early = Inject::on("copy_file_range").returns(0).when("2+");
    place.command(&["--workers", "1"]).strace(early).run().assert_success();
    assert!(read(&place.destination.join("large")) == content, "the copy differs");
}
