//! What both sides agree on after two-way runs that go wrong: nothing that is put back is taken for deleted.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::fs;
use std::path::{Path, PathBuf};

use ha_testkit::command::Inject;
use ha_testkit::loopmount::need_tool;
use ha_testkit::need;
use ha_testkit::tree::{file, make};

use crate::place::{Place, assert_says};
use crate::two_way::{OLD, agreed, assert_same_files, content};

fn state(place: &Place) -> PathBuf {
    place.environment.log_dir().join("state").join(place.environment.pair())
}

/// Puts a file back as it was, runs, and checks that it is on both sides.
fn put_back(place: &Place, root: &Path) {
    make(root, &[file("a/two", "two").mtime(OLD)]);
    place.two_way(&[]).run().assert_success();
    for root in [&place.source, &place.destination] {
        assert_eq!(content(root, "a/two").as_deref(), Some("two"), "it was put back, not deleted");
    }
    assert_same_files(place);
}

#[test]
fn what_a_run_deleted_that_could_not_sync_is_forgotten() {
    need!(need_tool("strace").map(drop));
    let place = agreed();
    fs::remove_file(place.source.join("a/two")).unwrap();
    let outcome = place.two_way(&[]).strace(Inject::on("syncfs").error("EIO")).run();
    outcome.assert_code(1);
    assert!(!place.destination.join("a/two").exists(), "the deletion was carried out");
    assert!(place.last().text("error_message").contains("durable"));
    put_back(&place, &place.source);
}

#[test]
fn what_a_run_deleted_that_could_not_write_its_baseline_is_forgotten_by_the_next_one() {
    let place = agreed();
    fs::remove_file(place.source.join("a/two")).unwrap();
    // Beside the baseline nothing can be written: what looks like a leftover of it cannot be removed.
    let in_the_way = state(&place).join("baseline.other.new");
    fs::create_dir(&in_the_way).unwrap();
    let outcome = place.two_way(&[]).run();
    outcome.assert_code(3);
    assert_says(&outcome, "what the run deleted is forgotten by the next one");
    assert!(!place.destination.join("a/two").exists(), "the deletion was carried out");
    fs::remove_dir(&in_the_way).unwrap();
    put_back(&place, &place.source);
}
