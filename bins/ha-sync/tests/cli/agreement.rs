//! What both sides agree on after two-way runs that go wrong: nothing that is put back is taken for deleted.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ha_testkit::command::Inject;
use ha_testkit::loopmount::{FileSystem, bind, loop_mount, need_tool, tmpfs};
use ha_testkit::need;
use ha_testkit::passthrough::{Operation, Options, Passthrough, Rule};
use ha_testkit::tree::{dir, file, make};

use crate::metadata::{as_user, give_away, root};
use crate::place::{Place, assert_says};
use crate::two_way::{NEW, OLD, agreed, assert_same_files, content};

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

/// An edit that keeps the size, between the look at a file and the setting of its time, must keep its own time.
#[test]
fn an_edit_while_metadata_are_set_is_seen() {
    need!(need_tool("strace").map(drop));
    need!(root());
    for moved in [false, true] {
        let place = agreed();
        let (a, b) = (place.source.clone(), place.destination.clone());
        let name = if moved { "a/moved" } else { "a/two" };
        fs::rename(a.join("a/two"), a.join(name)).unwrap();
        fs::set_permissions(a.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        if !moved {
            fs::File::open(a.join(name)).unwrap().set_modified(SystemTime::now()).unwrap();
        }
        std::os::unix::fs::chown(a.join(name), Some(12345), None).unwrap();
        let run = place.two_way(&["--workers", "1", "--walkers", "1"]);
        let slow = Inject::on("fchmod").delay(Duration::from_millis(700)).when("1");
        let mut running = run.strace(slow).start();
        // The owner is set before the mode, and the time after it.
        let owner = || fs::metadata(b.join(name)).map(|meta| meta.uid());
        while owner().unwrap_or(0) != 12345 {
            assert!(!running.ended_within(Duration::from_millis(1)), "it ended without setting the owner");
        }
        fs::write(b.join(name), "TWO").unwrap();
        let outcome = running.wait();
        outcome.assert_code(3);
        assert_says(&outcome, "changed since scan");
        place.two_way(&[]).run().assert_success();
        assert_eq!((content(&a, name).as_deref(), content(&b, name).as_deref()), (Some("TWO"), Some("TWO")));
        assert_same_files(&place);
    }
}

/// Where the user may not set the times of a file, its content is agreed on all the same.
#[test]
fn what_is_deleted_later_where_metadata_may_not_be_set_stays_deleted() {
    need!(root());
    let both = |time| [file("d/x", "the same").mtime(time), file("d/y", "the same").mtime(time)];
    let place = Place::new(&both(NEW), &both(OLD));
    give_away(&place);
    for path in ["d/x", "d/y"] {
        std::os::unix::fs::chown(place.destination.join(path), Some(0), None).unwrap();
        fs::set_permissions(place.destination.join(path), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let run = || as_user(place.two_way(&[]));
    let outcome = run();
    outcome.assert_code(3);
    assert_says(&outcome, "Operation not permitted");
    run().assert_success();
    fs::remove_file(place.source.join("d/x")).unwrap();
    fs::write(place.source.join("d/y"), "changed on a").unwrap();
    run().assert_success();
    assert!(!place.source.join("d/x").exists() && !place.destination.join("d/x").exists(), "it stays deleted");
    assert_eq!(content(&place.destination, "d/y").as_deref(), Some("changed on a"));
    run().assert_success();
    assert_same_files(&place);
}

/// What the baseline speaks of must be durable on every file system that the run wrote on.
#[test]
fn file_systems_below_a_root_are_synced_before_the_baseline_is_written() {
    need!(need_tool("strace").map(drop));
    let place = agreed();
    let inner = place.destination.join("mounted");
    make(&place.source, &[file("mounted/new", "new")]);
    fs::create_dir(&inner).unwrap();
    let elsewhere = need!(tmpfs(1 << 20));
    let _mounted = need!(bind(elsewhere.path(), &inner));
    let before = fs::read(state(&place).join("baseline")).unwrap();
    // Those of the two roots are synced, the third one fails.
    let outcome = place.two_way(&["--cross-mounts"]).strace(Inject::on("syncfs").error("EIO").when("3")).run();
    outcome.assert_code(1);
    assert_says(&outcome, "mounted");
    assert_says(&outcome, "durable");
    assert!(inner.join("new").exists());
    assert!(before == fs::read(state(&place).join("baseline")).unwrap(), "nothing is agreed on");
    place.two_way(&["--cross-mounts"]).run().assert_success();
    assert!(before != fs::read(state(&place).join("baseline")).unwrap());
}

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".ha-sync").collect();
    names.sort();
    names
}

#[test]
fn a_name_spelled_otherwise_is_so_on_a_side_that_folds_names() {
    let made = Place::new(&[file("photo.jpg", "a photo").mtime(OLD), file("d/other", "other").mtime(OLD)], &[]);
    let mount = need!(Passthrough::mount(&made.destination, &Options::default()));
    mount.switch(|switches| switches.fold_case = true);
    let place = Place { destination: mount.path().to_owned(), ..made };
    place.two_way(&[]).run().assert_success();
    fs::rename(place.source.join("photo.jpg"), place.source.join("Photo.JPG")).unwrap();
    place.two_way(&["--max-delete", "0"]).run().assert_success();
    assert_eq!(names(&place.destination), ["Photo.JPG", "d"]);
    assert_eq!(content(&place.destination, "Photo.JPG").as_deref(), Some("a photo"));
    // And the other way.
    fs::rename(place.destination.join("d/other"), place.destination.join("d/between")).unwrap();
    fs::rename(place.destination.join("d/between"), place.destination.join("d/Other")).unwrap();
    place.two_way(&[]).run().assert_success();
    assert_eq!(
        (names(&place.source.join("d")), names(&place.destination.join("d"))),
        (vec!["Other".into()], vec!["Other".into()])
    );
    place.two_way(&[]).run().assert_success();
    assert_eq!(place.last().number("files_created") + place.last().number("files_deleted"), 0);
}

#[test]
fn a_new_directory_that_got_the_number_of_a_deleted_one_does_not_hide_the_deletion() {
    let disk = need!(loop_mount(FileSystem::Ext4, 16 << 20));
    let made = Place::new(&[], &[]);
    let place = Place { source: disk.path().join("root"), ..made };
    make(&place.source, &[file("x", "x").mtime(OLD), dir("gone")]);
    place.two_way(&[]).run().assert_success();
    let inode = |name: &str| fs::metadata(place.source.join(name)).unwrap().ino();
    let was = inode("gone");
    fs::remove_dir(place.source.join("gone")).unwrap();
    fs::create_dir(place.source.join("new")).unwrap();
    assert_eq!(inode("new"), was, "ext4 gives the number away again");
    let outcome = place.two_way(&["--max-delete", "0"]).run();
    outcome.assert_code(5);
    assert_says(&outcome, "1 of ");
    place.two_way(&[]).run().assert_success();
    assert_same_files(&place);
}

#[test]
fn a_directory_spelled_otherwise_is_so_on_a_side_that_folds_names() {
    let made =
        Place::new(&[file("Photos/one", "one").mtime(OLD), file("Photos/d/two", "two").mtime(OLD), dir("Empty")], &[]);
    let mount = need!(Passthrough::mount(&made.destination, &Options::default()));
    mount.switch(|switches| switches.fold_case = true);
    let place = Place { destination: mount.path().to_owned(), ..made };
    place.two_way(&[]).run().assert_success();
    fs::rename(place.source.join("Photos"), place.source.join("photos")).unwrap();
    fs::rename(place.source.join("Empty"), place.source.join("empty")).unwrap();
    fs::write(place.source.join("photos/new"), "new").unwrap();
    fs::write(place.destination.join("Photos/d/two"), "changed on b").unwrap();
    // The name in the first run, and all that is below it in the next one.
    place.two_way(&["--max-delete", "0"]).run().assert_success();
    assert_eq!(names(&place.destination), ["empty", "photos"]);
    place.two_way(&["--max-delete", "0"]).run().assert_success();
    assert_same_files(&place);
    for root in [&place.source, &place.destination] {
        assert_eq!(
            (names(root), names(&root.join("photos"))),
            (vec!["empty".into(), "photos".into()], vec!["d".into(), "new".into(), "one".into()])
        );
        assert_eq!(content(root, "photos/d/two").as_deref(), Some("changed on b"));
    }
    assert!(!place.destination.join(".ha-sync/trash").join(place.last().text("run_id")).join("photos/one").exists());
    // On the side that folds names, and with a change in it.
    fs::rename(place.destination.join("photos"), place.destination.join("between")).unwrap();
    fs::rename(place.destination.join("between"), place.destination.join("PHOTOS")).unwrap();
    fs::write(place.destination.join("PHOTOS/one"), "one, changed").unwrap();
    place.two_way(&[]).run().assert_success();
    assert_same_files(&place);
    assert_eq!(names(&place.source), ["PHOTOS", "empty"]);
    assert_eq!(content(&place.source, "PHOTOS/one").as_deref(), Some("one, changed"));
    place.two_way(&[]).run().assert_success();
    assert_eq!(place.last().number("files_created") + place.last().number("files_deleted"), 0);
}

/// The last look at a directory that is replaced whole is at what came out.
#[test]
fn what_comes_into_a_directory_in_the_moment_of_its_replacement_stays() {
    for exchanges in [true, false] {
        let made = Place::new(&[file("d/x", "x").mtime(OLD)], &[]);
        let mount = need!(Passthrough::mount(&made.destination, &Options::default()));
        mount.switch(|switches| switches.no_exchange = !exchanges);
        let backing = made.destination.clone();
        let place = Place { destination: mount.path().to_owned(), ..made };
        place.two_way(&[]).run().assert_success();
        fs::remove_dir_all(place.source.join("d")).unwrap();
        fs::write(place.source.join("d"), "a file").unwrap();
        let inside = backing.join("d/new");
        let edit = move |_: &[u8]| fs::write(&inside, "new").unwrap();
        let fault = mount.inject(Rule::on(Operation::Rename).path_is("d").once().run(edit));
        let outcome = place.two_way(&[]).run();
        assert_eq!(fault.fired(), 1);
        outcome.assert_code(3);
        assert_says(&outcome, "changed since scan");
        assert_eq!(names(&place.destination.join("d")), ["new", "x"]);
        place.two_way(&[]).run().assert_success();
        assert_same_files(&place);
        assert_eq!(names(&place.source.join("d")), ["new", "x"]);
    }
}
