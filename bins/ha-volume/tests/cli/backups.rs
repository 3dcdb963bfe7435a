//! `backupstore`: what Longhorn wrote is listed, verified and restored; what we write has its format.

use ha_testkit::need;
use serde_json::Value;

use crate::{Place, manifest, sha256};

const VOLUME: &str = "pvc-f6";
const FOLDER: &str = "backupstore/volumes/70/9a/pvc-f6";

fn stores() -> Vec<(&'static str, &'static str, &'static str)> {
    vec![
        ("backupstore-lz4", "backup-full", "lz4/backup-full"),
        ("backupstore-lz4", "backup-incr", "lz4/backup-incr"),
        ("backupstore-gzip", "b-gzip", "gzip/b-gzip"),
        ("backupstore-none16", "b-none16", "none16/b-none16"),
    ]
}

fn restored(name: &str) -> Value {
    manifest()["backups"][name]["restored_sha256"].clone()
}

#[test]
fn what_longhorn_wrote_is_read() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    for (store, backup, name) in stores() {
        let image = format!("{backup}.img");
        let words = ["backupstore", "restore", VOLUME, backup, "--target", store, "-o", &image, "--sha256"];
        assert_eq!(place.json(&words, 0)["sha256"], restored(name), "{name}");
        assert_eq!(Value::from(sha256(&place.path(&image))), restored(name), "{name}");
        let answer = place.json(&["backupstore", "verify", VOLUME, backup, "--target", store], 0);
        assert_eq!(answer["sound"], true, "{name}");
    }
    let answer = place.json(&["backupstore", "ls", "--target", "backupstore-lz4"], 0);
    let volume = &answer["volumes"][0];
    assert_eq!((&volume["name"], &volume["size"]), (&VOLUME.into(), &(64 << 20).into()));
    assert_eq!((&volume["last_backup"], &volume["block_count"]), (&"backup-incr".into(), &9.into()));
    assert_eq!(volume["backups"][1]["labels"]["recurring"], Value::Null);
    assert_eq!(volume["backups"][0]["labels"]["recurring"], "daily");
    assert_eq!(volume["backups"][1]["incremental"], true);
    // The last backup is meant when none is named.
    let words = ["backupstore", "restore", VOLUME, "--target", "backupstore-lz4", "-o", "last.img", "--sha256"];
    assert_eq!(place.json(&words, 0)["sha256"], restored("lz4/backup-incr"));
}

/// Sorts the fields of every object, and leaves out what is of the moment.
fn shape(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    // The order of the fields is in the text.
    let mut names: Vec<(usize, &String)> =
        value.as_object().unwrap().keys().map(|name| (text.find(&format!("\"{name}\":")).unwrap(), name)).collect();
    names.sort();
    let kind = |value: &Value| match value {
        Value::String(text) if text.starts_with('"') => "quoted twice",
        Value::String(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => "digits",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
        Value::Bool(_) => "bool",
        Value::Null => "null",
        Value::Number(_) => "number",
    };
    names.iter().map(|(_, name)| format!("{name}: {}", kind(&value[name.as_str()]))).collect()
}

#[test]
fn what_is_written_has_longhorns_format_and_comes_back() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    for (store, backup, name) in stores().into_iter().filter(|(_, backup, _)| *backup != "backup-full") {
        let image = format!("{backup}.img");
        place.run(&["backupstore", "restore", VOLUME, backup, "--target", store, "-o", &image]).assert_success();
        let own = format!("own-{backup}");
        std::fs::create_dir(place.path(&own)).unwrap();
        let (method, size) = match store {
            "backupstore-gzip" => ("gzip", "2MiB"),
            "backupstore-none16" => ("none", "16MiB"),
            _ => ("lz4", "2MiB"),
        };
        let words = [
            "backupstore",
            "write",
            &image,
            "--target",
            &own,
            "--volume",
            VOLUME,
            "--name",
            backup,
            "--compression",
            method,
            "--block-size",
            size,
        ];
        let answer = place.json(&words, 0);
        // The very blocks, under the very names; Longhorn also keeps blocks of zeros.
        let theirs: Value = serde_json::from_slice(
            &std::fs::read(place.path(store).join(FOLDER).join(format!("backups/backup_{backup}.cfg"))).unwrap(),
        )
        .unwrap();
        let ours: Value = serde_json::from_slice(
            &std::fs::read(place.path(&own).join(FOLDER).join(format!("backups/backup_{backup}.cfg"))).unwrap(),
        )
        .unwrap();
        let ours_blocks = ours["Blocks"].as_array().unwrap();
        assert!(!ours_blocks.is_empty());
        for block in ours_blocks {
            assert!(theirs["Blocks"].as_array().unwrap().contains(block), "{name}: {block}");
        }
        assert_eq!(answer["written"]["blocks"], ours_blocks.len());
        assert_eq!(ours["Size"], (ours_blocks.len() as u64 * ours_block_size(&ours)).to_string());
        for file in ["volume.cfg".to_owned(), format!("backups/backup_{backup}.cfg")] {
            let (own, their) = (place.path(&own).join(FOLDER).join(&file), place.path(store).join(FOLDER).join(&file));
            let (mut own, mut their) = (shape(&own), shape(&their));
            // Labels and running blocks may be null or an object.
            for list in [&mut own, &mut their] {
                list.iter_mut().for_each(|field| {
                    if field.starts_with("Labels") || field.starts_with("ProcessingBlocks") {
                        field.truncate(6);
                    }
                });
            }
            assert_eq!(own, their, "{name} {file}");
        }
        let again = format!("again-{image}");
        let words = ["backupstore", "restore", VOLUME, backup, "--target", &own, "-o", &again, "--sha256"];
        assert_eq!(place.json(&words, 0)["sha256"], restored(name), "{name}");
        place.run(&["backupstore", "verify", VOLUME, "--target", &own]).assert_success();
        // The same name is not written twice.
        let words = ["backupstore", "write", &image, "--target", &own, "--volume", VOLUME, "--name", backup];
        place.run(&words).assert_code(5);
    }
}

fn ours_block_size(config: &Value) -> u64 {
    config["Parameters"]["backup-block-size"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_backup_into_a_store_of_longhorn_shares_its_blocks() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let store = "backupstore-lz4";
    let count = |place: &Place| {
        let output = std::process::Command::new("find")
            .args([store, "-name", "*.blk"])
            .current_dir(place.path("."))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    place.run(&["backupstore", "restore", VOLUME, "backup-full", "--target", store, "-o", "x.img"]).assert_success();
    let image = std::fs::File::options().write(true).open(place.path("x.img")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, b"changed", 20 << 20).unwrap();
    let before = count(&place);
    let words = ["backupstore", "write", "x.img", "--target", store, "--volume", VOLUME];
    let answer = place.json(&words, 0);
    assert_eq!(answer["written"]["new_blocks"], 1);
    assert_eq!(count(&place), before + 1);
    let listed = place.json(&["backupstore", "ls", VOLUME, "--target", store], 0);
    assert_eq!(listed["volumes"][0]["block_count"], 10);
    assert_eq!(listed["volumes"][0]["last_backup"], answer["backup"]);
    // Longhorn's own backups are as they were.
    place.run(&["backupstore", "verify", VOLUME, "--target", store]).assert_success();
    // Packed otherwise the blocks of the others would be lost.
    place.command(&words).args(["--compression", "gzip"]).run().assert_code(2);
    // A lock of another is waited for by a person.
    std::fs::create_dir_all(place.path(store).join(FOLDER).join("locks")).unwrap();
    std::fs::write(place.path(store).join(FOLDER).join("locks/lock-1.lck"), "{}").unwrap();
    place.run(&words).assert_code(4);
    place.command(&words).arg("--ignore-locks").run().assert_success();
}

#[test]
fn damage_is_named_and_never_restored() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let blocks = [
        ("backupstore-lz4", "backup-full", "4e/b9/4eb981dfbbfb54c91be5e146e201d49b2016d8affebe56c91369f483ead08666"),
        ("backupstore-gzip", "b-gzip", "85/40/85402ec2763255b24343dee31f7d1dbf8cf034aadce7869344b1d850756f19f4"),
        ("backupstore-none16", "b-none16", "f0/41/f041b62ea5d0477dedca383fa99c7d751c9a68c83f78febb0e6562b23e447117"),
    ];
    for (store, backup, block) in blocks {
        let path = place.path(store).join(FOLDER).join(format!("blocks/{block}.blk"));
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        for (what, content) in [
            ("missing", None),
            ("damaged", Some(flipped)),
            ("damaged", Some(good[..good.len() / 3].to_vec())),
            ("damaged", Some(Vec::new())),
        ] {
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let answer = place.json(&["backupstore", "verify", VOLUME, backup, "--target", store], 3);
            assert_eq!(answer["sound"], false);
            assert!(answer["backups"][0]["faults"][0].as_str().unwrap().contains(what), "{answer}");
            let words = ["backupstore", "restore", VOLUME, backup, "--target", store, "-o", "x.img"];
            let outcome = place.run(&words);
            outcome.assert_code(1);
            assert!(outcome.stderr.contains(what), "{}", outcome.stderr);
            assert!(!place.path("x.img").exists());
        }
        std::fs::write(&path, good).unwrap();
    }
    // One that was never finished.
    let config = place.path("backupstore-lz4").join(FOLDER).join("backups/backup_backup-full.cfg");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"CreatedTime\":\"2026-11-20T23:06:33Z\"", "\"CreatedTime\":\"\"")).unwrap();
    let words = ["backupstore", "restore", VOLUME, "backup-full", "--target", "backupstore-lz4", "-o", "x.img"];
    place.run(&words).assert_code(5);
    place.run(&["backupstore", "verify", VOLUME, "--target", "backupstore-lz4"]).assert_code(3);
    std::fs::write(&config, "{").unwrap();
    place.run(&words).assert_code(1);
    place.run(&["backupstore", "ls", "--target", "backupstore-lz4"]).assert_code(3);
    place.run(&["backupstore", "ls", "../x", "--target", "backupstore-lz4"]).assert_code(2);
    place.run(&["backupstore", "ls", "--target", "nowhere"]).assert_code(1);
}

#[test]
fn one_volume_that_cannot_be_read_does_not_hide_the_others() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let store = "backupstore-lz4";
    std::fs::write(place.path(store).join("backupstore/volumes/stray"), "").unwrap();
    std::fs::write(place.path(store).join("backupstore/volumes/70/stray"), "").unwrap();
    let answer = place.json(&["backupstore", "ls", "--target", store], 0);
    assert_eq!(answer["volumes"].as_array().unwrap().len(), 1);
    place.run(&["backupstore", "restore", VOLUME, "--target", store, "-o", "x.img"]).assert_success();
    place.run(&["backupstore", "write", "x.img", "--target", store, "--volume", "another"]).assert_success();
    std::fs::write(place.path(store).join(FOLDER).join("volume.cfg"), "{").unwrap();
    let answer = place.json(&["backupstore", "ls", "--target", store], 3);
    assert_eq!(answer["volumes"].as_array().unwrap().len(), 2);
    let broken = answer["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == VOLUME).unwrap();
    assert_eq!((&broken["size"], broken["backups"].as_array().unwrap().len()), (&Value::Null, 2));
}

#[test]
fn a_backup_that_does_not_fit_its_volume_is_not_cut_off() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let config = place.path("backupstore-lz4").join(FOLDER).join("volume.cfg");
    let good = std::fs::read_to_string(&config).unwrap();
    let words = ["backupstore", "restore", VOLUME, "backup-full", "--target", "backupstore-lz4", "-o", "x.img"];
    for size in ["\"Other\":\"1\"", "\"Size\":\"0\"", "\"Size\":\"2097152\"", "\"Size\":\"18446744073709551615\""] {
        std::fs::write(&config, good.replace("\"Size\":\"67108864\"", size)).unwrap();
        let outcome = place.run(&words);
        outcome.assert_code(5);
        assert!(outcome.stderr.contains("does not fit the size"), "{size}: {}", outcome.stderr);
        assert!(!place.path("x.img").exists() && !place.path("x.img.ha-volume.part").exists());
    }
    std::fs::write(&config, &good).unwrap();
    let backup = place.path("backupstore-lz4").join(FOLDER).join("backups/backup_backup-full.cfg");
    let text = std::fs::read_to_string(&backup).unwrap();
    for offset in ["67108864", "18446744073707454464"] {
        std::fs::write(&backup, text.replacen("{\"Offset\":0,", &format!("{{\"Offset\":{offset},"), 1)).unwrap();
        place.run(&words).assert_code(5);
    }
    std::fs::write(&backup, text).unwrap();
    place.run(&words).assert_success();
    place
        .run(&["backupstore", "restore", VOLUME, "--target", "backupstore-lz4", "-o", "-", "--output-format", "qcow2"])
        .assert_code(2);
}

#[test]
fn a_backup_that_is_made_holds_a_lock() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    need!(ha_testkit::loopmount::need_tool("strace"));
    let store = "backupstore-lz4";
    place.run(&["backupstore", "restore", VOLUME, "--target", store, "-o", "x.img"]).assert_success();
    let locks = place.path(store).join(FOLDER).join("locks");
    let left = || std::fs::read_dir(&locks).map_or(0, Iterator::count);
    let config = place.path(store).join(FOLDER).join("volume.cfg");
    let v2 = std::fs::read_to_string(&config).unwrap().replace("\\\"v1\\\"", "\\\"v2\\\"");
    assert!(v2.contains("v2"), "{v2}");
    std::fs::write(&config, &v2).unwrap();
    let words = ["backupstore", "write", "x.img", "--target", store, "--volume", VOLUME, "--name", "one"];
    place.run(&words).assert_success();
    assert_eq!(left(), 0);
    // What Longhorn says of the engine stays.
    let now: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    assert_eq!(now["DataEngine"], "\"v2\"");
    // One that refuses gives it back too.
    place.run(&words).assert_code(5);
    assert_eq!(left(), 0);
    // Killed as it puts the backup there, the first name after that of the lock.
    let words = ["backupstore", "write", "x.img", "--target", store, "--volume", VOLUME, "--name", "two"];
    place.command(&words).strace(ha_testkit::command::Inject::on("rename").signal("KILL").when("2")).run();
    assert_eq!(left(), 1);
    let lock = std::fs::read_dir(&locks).unwrap().next().unwrap().unwrap();
    let name = lock.file_name().into_string().unwrap();
    let content: Value = serde_json::from_slice(&std::fs::read(lock.path()).unwrap()).unwrap();
    assert_eq!(content["Name"], *name.strip_suffix(".lck").unwrap());
    assert_eq!((&content["Type"], &content["Acquired"]), (&1.into(), &true.into()));
    place.run(&words).assert_code(4);
}

#[test]
fn a_write_that_is_killed_is_ended_by_the_next() {
    let place = need!(Place::of("b2-powercut.tar.zst"));
    need!(ha_testkit::loopmount::need_tool("strace"));
    for round in 1..40 {
        let store = format!("store-{round}");
        std::fs::create_dir(place.path(&store)).unwrap();
        let words = ["backupstore", "write", "pvc-b2-r1", "--target", &store, "--volume", "vol", "--name", "nightly"];
        let kill = ha_testkit::command::Inject::on("rename").signal("KILL").when(&round.to_string());
        let ended = place.command(&words).strace(kill).run().code() == Some(0);
        // The lock of a dead process expires.
        place.tool("find", &[&store, "-name", "*.lck", "-exec", "touch", "-d", "-200 seconds", "{}", "+"]);
        // Of one that was killed behind its last step nothing is left to do.
        let again = place.run(&words);
        assert!(matches!(again.code(), Some(0 | 5)), "killed at {round}: {}", again.stderr);
        let listed = place.json(&["backupstore", "ls", "--target", &store], 0)["volumes"][0].take();
        assert_eq!(listed["last_backup"], "nightly", "killed at {round}: {listed}");
        assert_eq!(listed["block_count"], 8, "killed at {round}: {listed}");
        if ended {
            assert!(round > 8, "one for each block at least");
            // Of another content the name is taken.
            let other =
                ["backupstore", "write", "pvc-b2-r2", "--target", &store, "--volume", "vol", "--name", "nightly"];
            place.json(&other, 5);
            place.run(&["backupstore", "restore", "vol", "--target", &store, "-o", "x.img"]).assert_success();
            return;
        }
    }
    panic!("it was never ended");
}
