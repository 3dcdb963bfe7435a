//! What both sides agree on of metadata: a change on one side is brought over, whatever else changed on the other.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use ha_testkit::need;
use ha_testkit::tree::{file, make};
use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::metadata::{as_user, give_away, root};
use crate::place::{Place, trash_runs};
use crate::two_way::{OLD, assert_same_files, content};

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

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Both sides have a directory that is closed to its owner, and belong to a user without privileges.
fn with_closed_directory() -> Place {
    let place = Place::new(&[file("d/f", "1").mtime(OLD), file("d/g", "2").mtime(OLD)], &[]);
    chmod(&place.source.join("d"), 0o500);
    give_away(&place);
    as_user(place.two_way(&[])).assert_success();
    assert_eq!(mode(&place.destination.join("d")), 0o500);
    place
}

#[test]
fn a_directory_closed_to_its_owner_is_replaced_and_put_back() {
    need!(root());
    let place = with_closed_directory();
    let b = &place.destination;
    fs::remove_dir_all(place.source.join("d")).unwrap();
    make(&place.source, &[file("d", "a file").mtime(OLD).owner(12345, 12345)]);
    as_user(place.two_way(&[])).assert_success();
    assert_eq!(content(b, "d").as_deref(), Some("a file"));
    let [run] = &trash_runs(b)[..] else { panic!("one run has something in the trash") };
    assert_eq!((mode(&run.join("d")), content(run, "d/f").as_deref()), (0o500, Some("1")));
    let id = run.file_name().unwrap().to_str().unwrap();
    let restore = place.binary().args(["restore", "--run", id, "--force", "--root"]).arg(b);
    as_user(restore).assert_success();
    assert_eq!((mode(&b.join("d")), content(b, "d/f").as_deref()), (0o500, Some("1")));
    // B's directory is a change now; A's file goes, and what is in the trash goes in the end.
    as_user(place.two_way(&[])).assert_success();
    assert_same_files(&place);
    assert_eq!(mode(&place.source.join("d")), 0o500);
    fs::remove_dir_all(place.source.join("d")).unwrap();
    make(&place.source, &[file("d", "a file").mtime(OLD).owner(12345, 12345)]);
    as_user(place.two_way(&[])).assert_success();
    let prune = place.binary().args(["prune", "--trash-older-than", "0s", "--trash"]).arg(b);
    as_user(prune).assert_success();
    assert!(trash_runs(b).is_empty());
}

#[test]
fn what_is_in_a_directory_closed_to_its_owner_is_renamed() {
    need!(root());
    let place = with_closed_directory();
    let (a, b) = (&place.source, &place.destination);
    fs::rename(b.join("d"), b.join("renamed")).unwrap();
    let outcome = as_user(place.two_way(&[]));
    outcome.assert_success();
    assert!(outcome.stdout.contains("bytes     0 B"), "nothing is copied: {}", outcome.stdout);
    assert!(!a.join("d").exists());
    assert_eq!((mode(&a.join("renamed")), content(a, "renamed/f").as_deref()), (0o500, Some("1")));
    fs::rename(a.join("renamed/f"), a.join("moved")).unwrap();
    as_user(place.two_way(&[])).assert_success();
    assert_same_files(&place);
    assert_eq!([a, b].map(|root| mode(&root.join("renamed"))), [0o500; 2]);
    as_user(place.two_way(&[])).assert_success();
    // The mode that it has is the one that is agreed on.
    chmod(&a.join("renamed"), 0o700);
    as_user(place.two_way(&[])).assert_success();
    assert_eq!(mode(&b.join("renamed")), 0o700);
}

/// The mode that a run leaves is agreed on, not that of the time of the work.
#[test]
fn a_directory_that_was_made_closed_is_opened_on_the_other_side_when_it_is_here() {
    need!(root());
    let place = with_closed_directory();
    chmod(&place.destination.join("d"), 0o700);
    as_user(place.two_way(&[])).assert_success();
    assert_eq!(mode(&place.source.join("d")), 0o700);
}

/// A one-way run leaves what is newer at its destination, and does not take it for agreed on.
#[test]
fn metadata_changed_at_b_are_brought_over_after_a_one_way_run() {
    let place = Place::new(&[file("f", "1").mtime(OLD), file("d/f", "2").mtime(OLD)], &[]);
    place.two_way(&[]).run().assert_success();
    let (a, b) = (&place.source, &place.destination);
    for (path, bits) in [("f", 0o600), ("d", 0o700)] {
        let now = fs::File::open(b.join(path)).unwrap();
        now.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(60)).unwrap();
        chmod(&b.join(path), bits);
        set(b, path, "from b");
    }
    place.sync(&[]);
    place.sync(&[]);
    assert_eq!((mode(&b.join("f")), mode(&b.join("d"))), (0o600, 0o700), "it is newer");
    place.two_way(&[]).run().assert_success();
    for path in ["f", "d"] {
        let now = |root: &Path| (mode(&root.join(path)), fs::metadata(root.join(path)).unwrap().modified().unwrap());
        assert_eq!(now(a), now(b));
        assert_eq!([a, b].map(|root| get(root, path)), [Some("from b".to_owned()), Some("from b".to_owned())]);
    }
    assert_eq!((mode(&a.join("f")), mode(&a.join("d"))), (0o600, 0o700));
    // What is deleted then stays deleted.
    fs::File::open(b.join("f")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    place.sync(&[]);
    fs::remove_file(a.join("f")).unwrap();
    place.two_way(&[]).run().assert_success();
    assert!(!b.join("f").exists());
}

/// Where one side's metadata could not be set, an edit brings its content, and does not open what is private.
#[test]
fn an_edit_of_what_is_not_ours_does_not_make_a_private_file_readable() {
    need!(root());
    let place = Place::new(&[file("f", "1").mtime(OLD), file("own", "1").mtime(OLD)], &[]);
    give_away(&place);
    as_user(place.two_way(&[])).assert_success();
    let (a, b) = (&place.source, &place.destination);
    for name in ["f", "own"] {
        std::os::unix::fs::chown(b.join(name), Some(0), Some(0)).unwrap();
        chmod(&a.join(name), 0o600);
    }
    set(a, "f", "of a");
    as_user(place.two_way(&[])).assert_code(3);
    as_user(place.two_way(&[])).assert_success();
    assert_eq!((mode(&a.join("f")), mode(&b.join("f"))), (0o600, 0o644), "each side keeps its own");
    fs::write(b.join("f"), "edited by root").unwrap();
    fs::write(a.join("own"), "edited by its owner").unwrap();
    as_user(place.two_way(&[])).assert_success();
    assert_same_files(&place);
    assert_eq!(content(a, "f").as_deref(), Some("edited by root"));
    assert_eq!((mode(&a.join("f")), mode(&b.join("f"))), (0o600, 0o644));
    assert_eq!([a, b].map(|root| get(root, "f")), [Some("of a".to_owned()), None]);
    // What is private stays so where it comes to.
    assert_eq!((mode(&a.join("own")), mode(&b.join("own"))), (0o600, 0o600));
    as_user(place.two_way(&[])).assert_success();
    assert_eq!(place.last().number("files_updated"), 0);
}
