//! `--dry-run`: what it says is what the real run does then, it halts where that one would, and it makes nothing.

use ha_testkit::need;
use ha_testkit::tree::Snapshot;
use serde_json::Value;

use crate::Place;

const VOLUME: &str = "pvc-f6";

/// Runs with `--dry-run`, as text and as JSON, which must change nothing, and returns the answer.
fn dry(place: &Place, words: &[&str], code: i32) -> Value {
    let before = Snapshot::of(&place.path("."));
    let outcome = place.command(words).arg("--dry-run").run();
    outcome.assert_code(code);
    let said = outcome.stdout.lines().filter(|line| line.contains(" would be made: ")).count();
    assert_eq!((said, outcome.stdout.lines().count()), if [0, 3].contains(&code) { (1, 1) } else { (0, 0) });
    let answer = place.json(&[words, &["--dry-run"]].concat(), code);
    if [0, 3].contains(&code) {
        assert_eq!(answer["dry_run"], true, "{answer}");
    }
    before.assert_same(&Snapshot::of(&place.path(".")));
    answer
}

#[test]
fn a_dry_restore_makes_nothing() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    std::fs::write(place.path("there"), "precious").unwrap();
    // What an interrupted restore has left stays as well.
    std::fs::write(place.path("there.ha-volume.part"), "").unwrap();
    place.settle("there*");
    let target = ["backupstore", "restore", VOLUME, "backup-full", "--target", "backupstore-lz4", "-o"];
    let words = [&target[..], &["x.img"]].concat();
    let answer = dry(&place, &words, 0);
    assert_eq!((&answer["size"], &answer["backup"]), (&(64 << 20).into(), &"backup-full".into()));
    dry(&place, &[&target[..], &["there"]].concat(), 5);
    dry(&place, &[&target[..], &["there", "--force"]].concat(), 0);
    dry(&place, &["backupstore", "restore", VOLUME, "none", "--target", "backupstore-lz4", "-o", "x.img"], 1);
    // An image on stdout is not made either.
    let outcome = place.command(&target).args(["-", "--dry-run"]).run();
    outcome.assert_success();
    assert!(outcome.stdout_bytes.is_empty() && outcome.stderr.contains("would be made"), "{}", outcome.stderr);
    place.run(&words).assert_success();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(place.path("x.img")).unwrap());
    let most = answer["data_bytes_at_most"].as_u64().unwrap();
    assert!(most > 0 && most <= 64 << 20 && blocks * 512 <= most, "{most}: {blocks}");
}

#[test]
fn a_dry_backup_makes_nothing() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let store = "backupstore-lz4";
    place.run(&["backupstore", "restore", VOLUME, "--target", store, "-o", "x.img"]).assert_success();
    std::fs::create_dir(place.path("empty")).unwrap();
    let write = ["backupstore", "write", "x.img", "--target"];
    let new = [&write[..], &["empty", "--volume", "another", "--name", "first"]].concat();
    place.settle("x.img*");
    let answer = dry(&place, &new, 0);
    assert_eq!((&answer["new_volume"], &answer["compression"]), (&true.into(), &"lz4".into()));
    assert_eq!((&answer["backup"], &answer["size"]), (&"first".into(), &(64 << 20).into()));
    let written = place.json(&new, 0);
    assert_eq!(answer["path"], written["written"]["path"]);
    let [most, blocks] =
        [&answer["blocks_at_most"], &written["written"]["blocks"]].map(|count| count.as_u64().unwrap());
    assert!(blocks > 0 && (blocks..=32).contains(&most), "{most}: {blocks}");
    assert!(answer["data_bytes_at_most"].as_u64().unwrap() <= most * (2 << 20));
    // One of this name is there, and the volume is packed otherwise.
    dry(&place, &[&write[..], &[store, "--volume", VOLUME, "--name", "backup-full"]].concat(), 5);
    let known = [&write[..], &[store, "--volume", VOLUME]].concat();
    dry(&place, &[&known[..], &["--compression", "gzip"]].concat(), 2);
    let answer = dry(&place, &known, 0);
    assert_eq!((&answer["new_volume"], &answer["backup"]), (&false.into(), &Value::Null));
    let locks = place.path(store).join("backupstore/volumes/70/9a/pvc-f6/locks");
    std::fs::create_dir_all(&locks).unwrap();
    std::fs::write(locks.join("lock-1.lck"), "{}").unwrap();
    place.settle(&format!("{store}/backupstore/volumes/70/9a/pvc-f6/locks/*"));
    dry(&place, &known, 4);
    dry(&place, &[&known[..], &["--ignore-locks"]].concat(), 0);
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    std::fs::File::options().write(true).open(locks.join("lock-1.lck")).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(dry(&place, &known, 0)["expired_locks"].as_array().unwrap().len(), 1);
}

#[test]
fn a_dry_copy_makes_nothing() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    place.settle("pvc-a1-r1/*");
    let words = ["copy", "pvc-a1-r1", "out"];
    let answer = dry(&place, &words, 0);
    dry(&place, &["copy", "pvc-a1-r1", "pvc-a1-r2"], 5);
    dry(&place, &["copy", "pvc-a1-r1", "pvc-a1-r2/x"], 5);
    dry(&place, &["copy", "ssh://127.0.0.1/x", "out"], 2);
    let copied = place.json(&words, 0);
    for figure in ["files", "bytes", "map", "destination"] {
        assert_eq!(answer[figure], copied[figure], "{figure}");
    }
    assert!(answer["files"].as_u64().unwrap() > 0 && answer["bytes"].as_u64().unwrap() > 0, "{answer}");
    // Its map alone is in the way as well.
    place.rename("out", "elsewhere");
    dry(&place, &words, 5);
    let small = need!(ha_testkit::loopmount::tmpfs(1 << 20));
    let destination = small.path().join("out");
    for more in [&[][..], &["--dry-run"]] {
        place.command(&["copy", "pvc-a1-r1", destination.to_str().unwrap()]).args(more).run().assert_code(5);
    }
    assert_eq!(Snapshot::of(small.path()).entries.len(), 0);
}

#[test]
fn a_dry_extraction_makes_nothing() {
    let place = need!(Place::of("b2-powercut.tar.zst"));
    std::fs::create_dir(place.path("there")).unwrap();
    place.settle("pvc-b2-r1/*");
    let words = ["extract", "pvc-b2-r1", "/", "out"];
    let answer = dry(&place, &words, 0);
    dry(&place, &["extract", "pvc-b2-r1", "/", "there"], 5);
    dry(&place, &["extract", "pvc-b2-r1", "/", "pvc-b2-r2/x"], 5);
    dry(&place, &["extract", "pvc-b2-r1", "/absent", "out"], 1);
    dry(&place, &["extract", "pvc-b2-r1", "/", "absent/out"], 1);
    let done = place.json(&words, 0);
    assert_eq!((&answer["entries"], &answer["bytes"]), (&done["entries"], &done["bytes"]));
    assert!(answer["entries"].as_u64().unwrap() > 1 && answer["bytes"].as_u64().unwrap() > 0, "{answer}");
    let small = need!(ha_testkit::loopmount::tmpfs(64 << 10));
    let destination = small.path().join("out");
    for more in [&[][..], &["--dry-run"]] {
        let words = ["extract", "pvc-b2-r1", "/", destination.to_str().unwrap()];
        place.command(&words).args(more).run().assert_code(5);
    }
    assert_eq!(Snapshot::of(small.path()).entries.len(), 0);
}

#[test]
fn a_dry_replay_makes_nothing() {
    let place = need!(Place::of("b2-powercut.tar.zst"));
    std::fs::write(place.path("there"), "precious").unwrap();
    // What a killed replay has left would be replaced, and stays.
    std::fs::write(place.path("x.img.ha-volume.replay"), "left").unwrap();
    place.settle("pvc-b2-r1/* there x.img*");
    let words = ["fsck", "--replay", "pvc-b2-r1", "-o", "x.img"];
    let answer = dry(&place, &words, 0);
    assert_eq!(answer["needs_recovery"], true);
    assert_eq!(answer["losses"], Value::Array(Vec::new()));
    for (image, code) in [("there", 5), ("pvc-b2-r2/x", 5), ("/dev/null", 2), ("x?y", 2), ("absent/x", 1)] {
        dry(&place, &["fsck", "--replay", "pvc-b2-r1", "-o", image], code);
    }
    let small = need!(ha_testkit::loopmount::tmpfs(64 << 10));
    dry(&place, &["fsck", "--replay", "pvc-b2-r1", "-o", small.path().join("x").to_str().unwrap()], 5);
    need!(ha_testkit::loopmount::need_tool("e2fsck"));
    place.run(&words).assert_success();
    let image = std::fs::metadata(place.path("x.img")).unwrap();
    assert_eq!(answer["size"], image.len());
    assert!((1..=image.len()).contains(&answer["data_bytes_at_most"].as_u64().unwrap()), "{answer}");
    let again = dry(&place, &["fsck", "--replay", "x.img", "-o", "y.img"], 0);
    assert_eq!(again["needs_recovery"], false);
}
