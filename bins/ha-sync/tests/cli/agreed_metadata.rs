//! What both sides agree on of metadata: a change on one side is brought over, whatever else changed on the other.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::fs;
use std::path::Path;

use ha_testkit::tree::{file, make};
use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::place::Place;
use crate::two_way::{OLD, assert_same_files};

fn set(root: &Path, path: &str, value: &str) {
    setxattr(root.join(path), "user.k", value.as_bytes(), XattrFlags::empty()).unwrap();
}

fn get(root: &Path, path: &str) -> Option<String> {
    let mut value = [0; 16];
    let length = getxattr(root.join(path), "user.k", &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).into_owned())
}

/// Changes attributes of a directory on one side and an entry in it on the other, right after `place`'s last run.
#[track_caller]
fn change_both_sides_of_a_directory(place: &Place, value: &str) {
    let (a, b) = (&place.source, &place.destination);
    for (attributes, entries) in [(b, a), (a, b)] {
        let value = format!("{value} of {}", attributes.file_name().unwrap().display());
        set(attributes, "d", &value);
        fs::write(entries.join("d").join(&value), "new").unwrap();
        place.two_way(&[]).run().assert_success();
        let found = [a, b].map(|root| get(root, "d"));
        assert_eq!(found, [Some(value.clone()), Some(value)]);
    }
    assert_same_files(place);
}

#[test]
fn attributes_of_a_directory_are_known_from_the_run_that_made_it() {
    let place = Place::new(&[file("d/f", "1").mtime(OLD)], &[]);
    place.two_way(&[]).run().assert_success();
    change_both_sides_of_a_directory(&place, "1");
    change_both_sides_of_a_directory(&place, "2");
    // And from one that made it in the place of a file.
    fs::remove_dir_all(place.source.join("d")).unwrap();
    make(&place.source, &[file("d", "a file").mtime(OLD)]);
    place.two_way(&[]).run().assert_success();
    fs::remove_file(place.source.join("d")).unwrap();
    make(&place.source, &[file("d/f", "1").mtime(OLD)]);
    place.two_way(&[]).run().assert_success();
    change_both_sides_of_a_directory(&place, "3");
}
