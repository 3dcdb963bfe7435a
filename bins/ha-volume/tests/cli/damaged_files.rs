//! `ls`, `cat`, `extract` and `compare` on file systems of which a part is damaged, and what `extract` carries over.

use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use ha_testkit::loopmount::{Mounted, Skipped, mount_file, need_tool, tmpfs};
use ha_testkit::need;
use serde_json::Value;

use crate::Place;

/// Makes an image and mounts it, to be filled.
fn image(place: &Place, options: &[&str], size: &str) -> Result<Mounted, Skipped> {
    need_tool("mke2fs")?;
    place.tool("truncate", &["-s", size, "x.img"]);
    place.tool("mke2fs", &[&["-q", "-F", "-t", "ext4", "-b", "1024"][..], options, &["x.img"]].concat());
    std::fs::create_dir(place.path("mnt")).unwrap();
    mount_file(&place.path("x.img"), &place.path("mnt"), "rw,noatime")
}

fn poke(place: &Place, offset: u64, bytes: &[u8]) {
    let image = std::fs::File::options().write(true).open(place.path("x.img")).unwrap();
    image.write_all_at(bytes, offset).unwrap();
}

/// Returns the first byte of the image at which this text stands.
fn find(place: &Place, text: &[u8]) -> u64 {
    let image = std::fs::read(place.path("x.img")).unwrap();
    image.windows(text.len()).position(|bytes| bytes == text).unwrap() as u64
}

fn debugfs(place: &Place, command: &str) {
    place.tool("debugfs", &["-w", "-R", command, "x.img"]);
}

#[test]
fn one_bad_inode_does_not_take_its_directory_with_it() {
    let place = Place::empty();
    need!(need_tool("debugfs"));
    let mounted = need!(image(&place, &["-O", "^metadata_csum"], "16M"));
    for name in ["a", "b", "c"] {
        std::fs::write(place.path("mnt").join(name), name).unwrap();
    }
    std::fs::create_dir(place.path("mnt/directory")).unwrap();
    drop(mounted);
    debugfs(&place, "clri /b");
    // A directory that is in itself.
    debugfs(&place, "link /directory /directory/again");
    for words in [&["ls", "x.img"][..], &["ls", "-R", "x.img"]] {
        let outcome = place.run(words);
        outcome.assert_code(3);
        for name in ["/a", "/c", "/directory"] {
            assert!(outcome.stdout.lines().any(|line| line.ends_with(name)), "{name}: {}", outcome.stdout);
        }
        assert!(!outcome.stdout.contains("/b"), "{}", outcome.stdout);
        assert!(outcome.stderr.contains("/b: inode"), "{}", outcome.stderr);
    }
    let entries = place.json(&["ls", "x.img"], 3);
    let entries = entries.as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["inode"].is_u64() && entry["links"].is_u64()), "{entries:?}");
    let outcome = place.run(&["ls", "-R", "x.img"]);
    assert!(outcome.stderr.contains("listed under another name already: /directory/again"), "{}", outcome.stderr);
    let answer = place.json(&["extract", "x.img", "/", "out"], 3);
    let failed: Vec<&str> = answer["failed"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(failed.iter().any(|line| line.contains("/b: inode")), "{failed:?}");
    assert_eq!(std::fs::read(place.path("out/a")).unwrap(), b"a");
    assert!(place.path("out/directory").is_dir() && !place.path("out/b").exists());
    let outcome = place.run(&["cat", "x.img", "/b"]);
    outcome.assert_code(1);
    assert!(outcome.stdout.is_empty() && outcome.stderr.contains("not in use"), "{}", outcome.stderr);
}

#[test]
fn no_part_of_a_file_is_left_under_its_name() {
    let place = Place::empty();
    need!(need_tool("debugfs"));
    let mounted = need!(image(&place, &["-O", "^extent,^64bit,^metadata_csum"], "32M"));
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).take(6_000_000).collect();
    std::fs::create_dir(place.path("mnt/d")).unwrap();
    std::fs::write(place.path("mnt/d/damaged"), &content).unwrap();
    std::fs::write(place.path("mnt/d/whole"), &content).unwrap();
    drop(mounted);
    // The third block of numbers of its map points beyond the file system.
    let shown = std::process::Command::new("debugfs")
        .args(["-R", "stat /d/damaged", "x.img"])
        .current_dir(place.path("."))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let double = shown.split("(DIND):").nth(1).unwrap().split([',', '\n']).next().unwrap().trim().to_owned();
    poke(&place, double.parse::<u64>().unwrap() * 1024 + 40, &[0xff; 4]);
    let answer = place.json(&["extract", "x.img", "/d", "out"], 3);
    let failed = answer["failed"].as_array().unwrap();
    assert!(failed.len() == 1 && failed[0].as_str().unwrap().contains("/d/damaged"), "{failed:?}");
    assert!(failed[0].as_str().unwrap().contains("points beyond the file system"), "{failed:?}");
    assert!(!place.path("out/damaged").exists());
    assert_eq!(std::fs::read(place.path("out/whole")).unwrap(), content);
    // By itself: nothing is made.
    let outcome = place.run(&["extract", "x.img", "/d/damaged", "alone"]);
    outcome.assert_code(1);
    assert!(!place.path("alone").exists() && !place.path("alone.ha-volume.part").exists());
    // What precedes the damage can be had.
    let outcome = place.run(&["cat", "x.img", "/d/damaged"]);
    outcome.assert_code(1);
    assert!(!outcome.stdout_bytes.is_empty() && content.starts_with(&outcome.stdout_bytes));
}

#[test]
fn what_extract_carries_over() {
    let place = Place::empty();
    let mounted = need!(image(&place, &["-O", "ea_inode"], "32M"));
    let top = place.path("mnt/top");
    std::fs::create_dir_all(top.join("below")).unwrap();
    std::fs::write(top.join("first"), "two names").unwrap();
    std::fs::hard_link(top.join("first"), top.join("below/second")).unwrap();
    std::os::unix::fs::symlink("first", top.join("link")).unwrap();
    place.tool("mkfifo", &["mnt/top/fifo"]);
    let sparse = std::fs::File::create(top.join("sparse")).unwrap();
    for at in [0, 10 << 20] {
        sparse.write_all_at(&[7; 10_000], at).unwrap();
    }
    drop(sparse);
    place.tool("setfattr", &["-n", "user.comment", "-v", "kept", "mnt/top/first"]);
    place.tool("setfattr", &["-n", "user.large", "-v", &"l".repeat(3000), "mnt/top/first"]);
    place.tool("setfacl", &["-m", "u:1234:r", "mnt/top/first"]);
    place.tool("setfacl", &["-d", "-m", "g:77:rx", "mnt/top/below"]);
    place.tool("setfattr", &["-h", "-n", "trusted.t", "-v", "of a link", "mnt/top/link"]);
    place.tool("chown", &["4711:815", "mnt/top/sparse"]);
    // A new owner takes the set-user-id bit away.
    std::fs::set_permissions(top.join("sparse"), std::fs::Permissions::from_mode(0o4440)).unwrap();
    place.tool("touch", &["-d", "1905-05-05 05:05:05.5 UTC", "mnt/top/first"]);
    place.tool("touch", &["-d", "2200-02-02 02:02:02.25 UTC", "mnt/top/below"]);
    drop(mounted);
    let answer = place.json(&["extract", "x.img", "/top", "out"], 0);
    assert_eq!(answer["skipped"], serde_json::json!(["/top/fifo"]));
    assert_eq!((&answer["hard_links"], &answer["failed"]), (&1.into(), &Value::Array(Vec::new())));
    assert_eq!(answer["attributes_left_out"], Value::Array(Vec::new()));
    let mounted = need!(mount_file(&place.path("x.img"), &place.path("mnt"), "ro"));
    let all = ha_testkit::tree::Compare { link_counts: true, ..ha_testkit::tree::Compare::sides() };
    let [inside, outside] = ["mnt/top", "out"].map(|path| ha_testkit::tree::Snapshot::with(&place.path(path), &all));
    inside.assert_same(&outside);
    drop(mounted);
    let [first, second] = ["out/first", "out/below/second"].map(|path| std::fs::metadata(place.path(path)).unwrap());
    assert_eq!((first.ino(), first.nlink(), first.mtime()), (second.ino(), 2, -2_040_490_495));
    let sparse = std::fs::metadata(place.path("out/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 200_000, "{}", sparse.blocks());
    assert_eq!((sparse.mode() & 0o7777, sparse.uid(), sparse.gid()), (0o4440, 4711, 815));
    // Where attributes are not taken, they are named, and that is all.
    let other = need!(tmpfs(64 << 20));
    let destination = other.path().join("out");
    let answer = place.json(&["extract", "x.img", "/top", destination.to_str().unwrap()], 0);
    let left_out = answer["attributes_left_out"].as_array().unwrap();
    let large = "/top/first: user.large";
    assert!(left_out.iter().all(|line| line.as_str().unwrap().starts_with("/top/")), "{left_out:?}");
    let taken =
        std::process::Command::new("getfattr").args(["-n", "user.large"]).arg(destination.join("first")).output();
    let taken = taken.unwrap().status.success();
    assert_eq!(left_out.iter().any(|line| line.as_str().unwrap().starts_with(large)), !taken, "{left_out:?}");
    let outcome = place.run(&["ls", "x.img", "/top"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("1905-05-05") && outcome.stdout.contains("2200-02-02"), "{}", outcome.stdout);
}

#[test]
fn free_space_is_asked_for_before_anything_is_made() {
    let place = Place::empty();
    let mounted = need!(image(&place, &[], "32M"));
    std::fs::write(place.path("mnt/large"), vec![1; 8 << 20]).unwrap();
    std::fs::File::create(place.path("mnt/hole")).unwrap().set_len(1 << 40).unwrap();
    drop(mounted);
    let small = need!(tmpfs(4 << 20));
    let destination = small.path().join("out");
    let outcome = place.run(&["extract", "x.img", "/", destination.to_str().unwrap()]);
    outcome.assert_code(5);
    assert!(outcome.stderr.contains("not enough space") && outcome.stderr.contains("df -h"), "{}", outcome.stderr);
    assert_eq!(std::fs::read_dir(small.path()).unwrap().count(), 0);
    // What is not there needs no space.
    place.run(&["extract", "x.img", "/hole", small.path().join("hole").to_str().unwrap()]).assert_success();
}

#[test]
fn a_lost_superblock_and_foreign_features_have_a_next_step() {
    let place = Place::empty();
    let mounted = need!(image(&place, &["-O", "^metadata_csum"], "32M"));
    std::fs::write(place.path("mnt/there"), "still there").unwrap();
    drop(mounted);
    let features = {
        let image = std::fs::read(place.path("x.img")).unwrap();
        u32::from_le_bytes(image[1024 + 0x60..][..4].try_into().unwrap())
    };
    poke(&place, 1024 + 0x60, &(features | 1).to_le_bytes());
    for words in [&["ls", "x.img"][..], &["cat", "x.img", "/there"], &["extract", "x.img", "/", "out"]] {
        let outcome = place.run(words);
        outcome.assert_code(1);
        for word in ["what is not read here: compression", "merge x.img", "mount -o loop,ro", "debugfs"] {
            assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
        }
        assert!(!outcome.stderr.contains("fsck --replay"), "{}", outcome.stderr);
    }
    // All that stands at the beginning is gone.
    poke(&place, 0, &vec![0; 4096]);
    let outcome = place.run(&["cat", "x.img", "/there"]);
    outcome.assert_code(3);
    assert_eq!(outcome.stdout, "still there");
    assert!(outcome.stderr.contains("its copy in group 1 is read instead"), "{}", outcome.stderr);
    place.run(&["compare", "x.img", "x.img"]).assert_success();
    assert!(!place.path("out").exists());
}

#[test]
fn names_that_lead_elsewhere_are_not_followed() {
    let place = Place::empty();
    let mounted = need!(image(&place, &["-O", "^metadata_csum"], "16M"));
    std::fs::write(place.path("mnt/..a..a..a..escaped"), "out of it").unwrap();
    std::fs::write(place.path("mnt/good"), "good").unwrap();
    drop(mounted);
    let at = find(&place, b"..a..a..a..escaped");
    for index in 0..3 {
        poke(&place, at + index * 3 + 2, b"/");
    }
    place.json(&["extract", "x.img", "/", "a"], 3);
    assert!(place.path("a/good").exists() && !place.path("escaped").exists());
    let outcome = place.run(&["ls", "x.img"]);
    outcome.assert_code(3);
    assert!(outcome.stderr.contains("a name is impossible"), "{}", outcome.stderr);
}

#[test]
fn a_directory_that_cannot_be_made_leads_nowhere() {
    let place = Place::empty();
    need!(need_tool("debugfs"));
    let mounted = need!(image(&place, &["-O", "^metadata_csum"], "16M"));
    std::fs::create_dir(place.path("outside")).unwrap();
    std::fs::create_dir(place.path("mnt/real")).unwrap();
    std::fs::write(place.path("mnt/real/evil"), "evil").unwrap();
    std::os::unix::fs::symlink(place.path("outside"), place.path("mnt/twice")).unwrap();
    drop(mounted);
    // A second entry of the same name, which only a damaged or a forged directory has.
    debugfs(&place, "link /real /twicf");
    poke(&place, find(&place, b"twicf"), b"twice");
    let answer = place.json(&["extract", "x.img", "/", "out"], 3);
    assert!(answer["failed"].to_string().contains("/twice"), "{answer}");
    assert_eq!(std::fs::read_dir(place.path("outside")).unwrap().count(), 0);
    assert_eq!(std::fs::read(place.path("out/real/evil")).unwrap(), b"evil");
}

#[test]
fn a_damaged_journal_is_not_called_replayed() {
    let place = Place::empty();
    need!(need_tool("e2fsck"));
    let mounted = need!(image(&place, &["-b", "4096"], "64M"));
    for round in 0..6 {
        let file = std::fs::File::create(place.path("mnt").join(format!("file-{round}"))).unwrap();
        file.write_all_at(&[b'a' + round; 5000], 0).unwrap();
        file.sync_all().unwrap();
    }
    place.tool("cp", &["--sparse=always", "x.img", "dirty.img"]);
    drop(mounted);
    std::fs::rename(place.path("dirty.img"), place.path("x.img")).unwrap();
    let whole = place.json(&["fsck", "--replay", "x.img", "-o", "whole.img"], 0);
    assert_eq!((&whole["replayed"], &whole["losses"]), (&Value::Bool(true), &serde_json::json!([])));
    // The first block that the last transaction with a list of blocks holds.
    let image = std::fs::File::open(place.path("x.img")).unwrap();
    let number = |at: u64| {
        let mut bytes = [0; 4];
        image.read_exact_at(&mut bytes, at).unwrap();
        u32::from_be_bytes(bytes)
    };
    let blocks = (0..64_u64 << 20).step_by(4096).filter(|at| number(*at) == 0xc03b_3998 && number(*at + 4) == 1);
    let last = blocks.max_by_key(|at| number(*at + 8)).unwrap();
    poke(&place, last + 4096 + 8, &[0x5a; 16]);
    let answer = place.json(&["fsck", "--replay", "x.img", "-o", "partly.img"], 3);
    assert!(answer["losses"][0].as_str().unwrap().contains("checksum"), "{answer}");
    let outcome = place.run(&["fsck", "--replay", "x.img", "-o", "text.img"]);
    outcome.assert_code(3);
    assert!(outcome.stdout.contains("as far as it can be read"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("checksum"), "{}", outcome.stderr);
}

#[test]
fn a_replay_that_is_killed_leaves_no_image() {
    let place = need!(Place::of("b2-powercut.tar.zst"));
    need!(need_tool("strace"));
    let words = ["fsck", "--replay", "pvc-b2-r1", "-o", "x.img"];
    let mut left = 0;
    for round in 1..40 {
        // It removes what is left at the start, and the marker before e2fsck is started.
        let kill = ha_testkit::command::Inject::on("unlink").signal("KILL").when(&round.to_string());
        if place.command(&words).strace(kill).run().code() == Some(0) {
            break;
        }
        assert!(!place.path("x.img").exists(), "killed at {round}");
        left += u32::from(place.path("x.img.ha-volume.replay").exists());
    }
    assert!(left > 0 && place.path("x.img").exists());
    std::fs::remove_file(place.path("x.img")).unwrap();
    assert_eq!(place.json(&words, 0)["replayed"], true);
    assert!(!place.path("x.img.ha-volume.replay").exists());
    let again = place.json(&words, 5);
    assert!(!again["hints"].to_string().contains("--force"), "{again}");
    place.json(&["fsck", "--replay", "pvc-b2-r1", "-o", "x?y.img"], 2);
}

#[test]
fn a_full_destination_ends_it_under_its_other_name() {
    let place = Place::empty();
    let mounted = need!(image(&place, &[], "32M"));
    for index in 0..1500 {
        std::fs::write(place.path("mnt").join(format!("file-{index}")), "ab").unwrap();
    }
    drop(mounted);
    let small = need!(tmpfs(4 << 20));
    let out = small.path().join("out");
    let outcome = place.run(&["extract", "x.img", "/", out.to_str().unwrap()]);
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("the destination is full"), "{}", outcome.stderr);
    assert!(!out.exists() && small.path().join("out.ha-volume.part").exists());
}

#[test]
fn a_journal_on_another_device_is_left_alone() {
    let place = Place::empty();
    need!(need_tool("mke2fs"));
    place.tool("truncate", &["-s", "8M", "x.img"]);
    place.tool("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^metadata_csum", "x.img"]);
    // It has a journal, in no inode, and needs it.
    poke(&place, 1024 + 0xe0, &[0; 4]);
    poke(&place, 1024 + 0x60, &[0xc6, 0x02, 0, 0]);
    let outcome = place.run(&["fsck", "--replay", "x.img", "-o", "out.img"]);
    outcome.assert_code(5);
    assert!(outcome.stderr.contains("the journal is on another device"), "{}", outcome.stderr);
    assert!(!place.path("out.img.ha-volume.replay").exists());
}

#[test]
fn a_directory_whose_inode_says_something_else_is_not_passed_over() {
    let place = Place::empty();
    need!(need_tool("debugfs"));
    let mounted = need!(image(&place, &["-O", "^metadata_csum"], "16M"));
    std::fs::create_dir(place.path("mnt/d")).unwrap();
    std::fs::write(place.path("mnt/d/below"), "below").unwrap();
    drop(mounted);
    // A FIFO, by its inode.
    debugfs(&place, "set_inode_field /d mode 0010755");
    let answer = place.json(&["extract", "x.img", "/", "out"], 3);
    assert!(answer["failed"][0].as_str().unwrap().contains("/d: "), "{answer}");
    place.json(&["ls", "x.img"], 3);
    debugfs(&place, "set_inode_field <2> mode 0100755");
    for words in [&["ls", "x.img"][..], &["extract", "x.img", "/", "top"]] {
        let outcome = place.run(words);
        outcome.assert_code(1);
        assert!(outcome.stderr.contains("the top directory is none"), "{}", outcome.stderr);
    }
    assert!(!place.path("top").exists());
}
