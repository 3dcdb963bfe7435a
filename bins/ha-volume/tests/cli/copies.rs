//! `copy` and `doctor`: what copying does to a replica, by the very commands.

use ha_testkit::need;
use serde_json::Value;

use crate::{Place, codes, manifest, sha256};

fn sums() -> (Value, Value, u64) {
    let replica = &manifest()["replicas"]["pvc-a1-r1"];
    (
        replica["merged_sha256"].clone(),
        replica["nonzero_fallthrough_sha256_WRONG"].clone(),
        replica["blocks4k_that_the_wrong_merge_changes"].as_u64().unwrap(),
    )
}

fn file_systems() -> Vec<(&'static str, Result<ha_testkit::loopmount::Mounted, ha_testkit::loopmount::Skipped>)> {
    use ha_testkit::loopmount::{FileSystem, loop_mount, tmpfs};
    vec![
        ("ext4", loop_mount(FileSystem::Ext4, 400 << 20)),
        ("xfs", loop_mount(FileSystem::Xfs, 400 << 20)),
        ("btrfs", loop_mount(FileSystem::Btrfs, 400 << 20)),
        ("tmpfs", tmpfs(400 << 20)),
    ]
}

#[test]
fn our_copy_keeps_every_extent_on_every_file_system() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let (sum, _, _) = sums();
    for (name, mounted) in file_systems() {
        let mounted = match mounted {
            Ok(mounted) => mounted,
            Err(skipped) => {
                skipped.report();
                continue;
            }
        };
        let copy = mounted.path().join("copied");
        let answer = place.json(&["copy", "pvc-a1-r1", copy.to_str().unwrap()], 0);
        assert_eq!(answer["verified"], true);
        assert!(mounted.path().join("copied.extents.json").is_file());
        let image = place.path(&format!("{name}.img"));
        let words = ["merge", copy.to_str().unwrap(), "-o", image.to_str().unwrap(), "--sha256"];
        assert_eq!(place.json(&words, 0)["sha256"], sum, "{name}");
        let modified = |path: &std::path::Path| std::fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(modified(&copy), modified(&place.path("pvc-a1-r1")), "{name}");
        for file in std::fs::read_dir(place.path("pvc-a1-r1")).unwrap() {
            let file = file.unwrap();
            let (from, to) = (file.metadata().unwrap(), std::fs::metadata(copy.join(file.file_name())).unwrap());
            assert_eq!((from.len(), from.modified().unwrap()), (to.len(), to.modified().unwrap()), "{name}");
        }
        place.run(&["copy", "pvc-a1-r1", copy.to_str().unwrap()]).assert_code(5);
    }
}

/// xfs leaves unwritten space behind what was written, which is no block of zeros.
#[test]
fn copies_onto_xfs_are_recognised() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let mounted = need!(ha_testkit::loopmount::loop_mount(ha_testkit::loopmount::FileSystem::Xfs, 400 << 20));
    for (name, command) in [
        ("rsync", "rsync -aS pvc-a1-r1/ NAME/"),
        ("cp", "cp -a --sparse=always pvc-a1-r1 NAME"),
        (
            "dd",
            "mkdir NAME && for f in pvc-a1-r1/*; do dd if=$f of=NAME/${f##*/} conv=sparse bs=4096 status=none; done",
        ),
    ] {
        let copy = mounted.path().join(name);
        let copy = copy.to_str().unwrap();
        place.tool("sh", &["-ec", &command.replace("NAME", copy)]);
        for words in [&["doctor", copy][..], &["inspect", copy]] {
            assert!(codes(&place.json(words, 3)).contains(&"sparsified".to_owned()), "{words:?}");
        }
        place.run(&["merge", copy, "-o", "x.img"]).assert_code(5);
    }
}

#[test]
fn zeros_are_taken_for_holes_only_where_a_layer_hides_all_below() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let failure = place.json(&["merge", "pvc-a1-r1", "-o", "x.img", "--zeros-are-holes"], 5);
    assert!(failure["hints"].to_string().contains("ha-volume doctor pvc-a1-r1"), "{failure}");
    assert!(!place.path("x.img").exists());
}

#[test]
fn copies_by_other_tools_are_recognised() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    for tool in ["rsync", "cp", "dd", "tar"] {
        need!(ha_testkit::loopmount::need_tool(tool));
    }
    let (right, wrong, ambiguous) = sums();
    let each = |command: &str| {
        format!("mkdir NAME && for f in pvc-a1-r1/*; do {command}; done").replace("TO", "NAME/${f##*/}")
    };
    for (name, command, expected) in [
        ("tar-S", "mkdir NAME && tar -C pvc-a1-r1 -S -cf - . | tar -C NAME -xf -".to_owned(), ""),
        ("cp-a", "cp -a pvc-a1-r1 NAME".to_owned(), "sparsified"),
        ("cp-always", "cp -a --sparse=always pvc-a1-r1 NAME".to_owned(), "sparsified"),
        ("rsync-S", "rsync -aS pvc-a1-r1/ NAME/".to_owned(), "sparsified"),
        ("dd", each("dd if=$f of=TO conv=sparse bs=4096 status=none"), "sparsified"),
        ("rsync", "rsync -a pvc-a1-r1/ NAME/".to_owned(), "densified"),
        ("cp-never", "cp -a --sparse=never pvc-a1-r1 NAME".to_owned(), "densified"),
        ("tar", "mkdir NAME && tar -C pvc-a1-r1 -cf - . | tar -C NAME -xf -".to_owned(), "densified"),
        ("cat", each("cat $f > TO"), "densified"),
    ] {
        place.tool("sh", &["-ec", &command.replace("NAME", name)]);
        let answer = place.json(&["doctor", "--best-effort", name], if expected.is_empty() { 0 } else { 3 });
        let of_copying = |answer: &Value| -> Vec<String> {
            codes(answer).into_iter().filter(|code| code == "densified" || code == "sparsified").collect()
        };
        let found = of_copying(&answer);
        // The commands that are typed first see it, too.
        let scanned = place.json(&["scan", name], 0)["replicas"][0].take();
        assert_eq!(of_copying(&scanned), found, "{name}");
        assert_eq!(scanned["place"]["standing"], if expected.is_empty() { "candidate" } else { "salvage" }, "{name}");
        let inspected = place.json(&["inspect", name], if expected.is_empty() { 0 } else { 3 });
        assert_eq!(of_copying(&inspected), found, "{name}");
        let image = format!("{name}.img");
        match expected {
            "" => {
                assert_eq!(found, Vec::<String>::new(), "{name}");
                assert_eq!(answer["diagnosis"]["ambiguous_blocks"], ambiguous, "{name}");
                assert_eq!(place.json(&["merge", name, "-o", &image, "--sha256"], 0)["sha256"], right, "{name}");
            }
            "densified" => {
                assert!(!found.is_empty() && found.iter().all(|code| code == "densified"), "{name}: {found:?}");
                assert_eq!(answer["diagnosis"]["inside"]["kind"], "ext4", "{name}");
                // The exact reading of it would be wrong, so it halts.
                place.run(&["merge", name, "-o", &image]).assert_code(5);
                assert!(!place.path(&image).exists());
                let best = place.json(&["merge", name, "-o", &image, "--sha256", "--zeros-are-holes"], 3);
                assert_eq!((&best["best_effort"], &best["sha256"]), (&Value::Bool(true), &wrong), "{name}");
                assert!(best["ambiguous_blocks"].as_u64().unwrap() >= ambiguous, "{name}");
                let marker: Value =
                    serde_json::from_slice(&std::fs::read(place.path(&format!("{image}.ha-volume.json"))).unwrap())
                        .unwrap();
                assert_eq!(marker["source"]["best_effort"], true);
                assert_eq!(marker["ambiguous_blocks"], best["ambiguous_blocks"]);
            }
            _ => {
                assert_eq!(found, ["sparsified"], "{name}");
                assert_eq!(answer["diagnosis"]["zero_blocks"], 0, "{name}");
                // What it holds now is what the wrong script gives; nothing in the copy tells where.
                let other = format!("{name}-backups");
                std::fs::create_dir(place.path(&other)).unwrap();
                for words in [
                    &["merge", name, "-o", &image][..],
                    &["merge", name, "-o", &image, "--zeros-are-holes"],
                    &["ls", name],
                    &["cat", name, "/note.txt"],
                    &["extract", name, "/", "out"],
                    &["compare", name, "pvc-a1-r1"],
                    &["fsck", "--replay", name, "-o", &image],
                    &["backupstore", "write", name, "--target", &other, "--volume", "vol"],
                ] {
                    let outcome = place.run(words);
                    outcome.assert_code(5);
                    assert!(outcome.stderr.contains("--despite-damage"), "{}", outcome.stderr);
                }
                assert!(!place.path(&image).exists() && !place.path("out").exists());
                assert!(std::fs::read_dir(place.path(&other)).unwrap().next().is_none());
                let answer = place.json(&["merge", name, "-o", &image, "--despite-damage"], 3);
                assert_eq!(answer["despite_damage"], true);
                assert_eq!(Value::from(sha256(&place.path(&image))), wrong, "{name}");
            }
        }
        std::fs::remove_dir_all(place.path(name)).unwrap();
    }
}

/// Unwritten extents, so that no disk is needed for the 4 GB.
#[test]
fn a_million_extents_are_copied_in_little_memory() {
    use ha_testkit::loopmount::{FileSystem, loop_mount};
    use rustix::fs::{FallocateFlags, fallocate};
    const EXTENTS: u64 = 1_000_000;
    let mounted = need!(loop_mount(FileSystem::Ext4, 14 << 30));
    let place = Place::empty();
    let replica = mounted.path().join("pvc-many-00000001");
    std::fs::create_dir(&replica).unwrap();
    let head = std::fs::File::create(replica.join("volume-head-000.img")).unwrap();
    head.set_len(EXTENTS * 8192).unwrap();
    for extent in 0..EXTENTS {
        fallocate(&head, FallocateFlags::empty(), extent * 8192, 4096).unwrap();
    }
    std::fs::write(replica.join("volume-head-000.img.meta"), r#"{"Name":"volume-head-000.img","Parent":""}"#).unwrap();
    let copied = mounted.path().join("copied");
    let words = ["copy", replica.to_str().unwrap(), copied.to_str().unwrap(), "-o", "json"];
    let outcome = place.command(&words).timeout(std::time::Duration::from_secs(180)).run();
    outcome.assert_success();
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&answer["extents"], &answer["bytes"]), (&(EXTENTS + 1).into(), &(EXTENTS * 4096 + 42).into()));
    assert!(outcome.peak_kib < 64 << 10, "{} KiB", outcome.peak_kib);
    let map: Value =
        serde_json::from_slice(&std::fs::read(mounted.path().join("copied.extents.json")).unwrap()).unwrap();
    let extents = map["files"][0]["extents"].as_array().unwrap();
    assert_eq!(extents.len() as u64, EXTENTS);
    assert_eq!(extents[999_999], serde_json::json!([999_999 * 8192_u64, 999_999 * 8192_u64 + 4096, true]));
}

#[test]
fn a_copy_leaves_what_is_there_alone() {
    let place = need!(Place::of("c3-rebuilding.tar.zst"));
    std::fs::write(place.path("copied.extents.json"), "precious").unwrap();
    place.run(&["copy", "pvc-c3-r1", "copied"]).assert_code(5);
    assert_eq!(std::fs::read(place.path("copied.extents.json")).unwrap(), b"precious");
    assert!(!place.path("copied").exists() && !place.path("copied.ha-volume.part").exists());
    // Two copies to one place do not mix.
    let part = place.path("other.ha-volume.part");
    std::fs::create_dir(&part).unwrap();
    std::fs::write(part.join("file"), "").unwrap();
    let lock = std::fs::File::open(&part).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    place.run(&["copy", "pvc-c3-r1", "other"]).assert_code(4);
    assert!(part.join("file").exists());
    drop(lock);
    place.run(&["copy", "pvc-c3-r1", "other"]).assert_success();
    assert!(!part.exists());
}

#[test]
fn a_copy_that_is_killed_is_not_taken_for_one() {
    let place = need!(Place::of("c3-rebuilding.tar.zst"));
    for delay in [5, 20, 60, 120] {
        let running = place.command(&["copy", "pvc-c3-r1", "copied"]).start();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        running.kill();
        drop(running);
        if place.path("copied").exists() {
            break;
        }
    }
    if !place.path("copied").exists() {
        place.run(&["copy", "pvc-c3-r1", "copied"]).assert_success();
    }
    assert!(!place.path("copied.ha-volume.part").exists());
    let sum = manifest()["replicas"]["pvc-c3-r1"]["merged_sha256"].clone();
    assert_eq!(place.json(&["merge", "copied", "-o", "x.img", "--sha256"], 0)["sha256"], sum);
}

#[test]
fn a_copy_that_failed_is_not_in_the_way_of_the_next() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    need!(ha_testkit::loopmount::need_tool("strace"));
    let words = ["copy", "pvc-a1-r1", "copied"];
    // Killed between the map and the name, and then out of space.
    place.command(&words).strace(ha_testkit::command::Inject::on("renameat2").signal("KILL").when("1")).run();
    assert!(place.path("copied.extents.json").exists() && !place.path("copied").exists());
    let full = ha_testkit::command::Inject::on("pwrite64").error("ENOSPC").when("1");
    let outcome = place.command(&words).strace(full).run();
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("no space left"), "{}", outcome.stderr);
    place.run(&words).assert_success();
}
