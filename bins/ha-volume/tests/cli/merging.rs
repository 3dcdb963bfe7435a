//! `merge`: every replica, every kind of output, and what halts.

use std::process::Stdio;

use ha_testkit::longhorn::REPLICAS;
use ha_testkit::need;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{BINARY, Place, manifest, sha256};

fn expected(name: &str) -> String {
    manifest()["replicas"][name]["merged_sha256"].as_str().unwrap().to_owned()
}

fn backing(name: &str) -> Vec<&'static str> {
    match name {
        "pvc-e5raw-r1" => vec!["--backing", "back/base.raw"],
        "pvc-e5qcow2-r1" => vec!["--backing", "back/base.qcow2"],
        _ => Vec::new(),
    }
}

#[test]
fn every_replica_has_the_sum_of_the_manifest() {
    for (archive, inside, name) in REPLICAS {
        let place = need!(Place::of(archive));
        let salvage = *name == "pvc-c3-r2";
        if salvage {
            let outcome = place.run(&["merge", inside, "-o", "x.img"]);
            outcome.assert_code(5);
            assert!(!place.path("x.img").exists() && !place.path("x.img.ha-volume.part").exists());
        }
        let mut words = vec!["merge", inside, "-o", "x.img", "--sha256"];
        words.extend(backing(name));
        if salvage {
            words.push("--despite-damage");
        }
        let answer = place.json(&words, if salvage { 3 } else { 0 });
        assert_eq!(answer["sha256"], expected(name), "{name}");
        assert_eq!(sha256(&place.path("x.img")), expected(name), "{name}");
        let marker: Value =
            serde_json::from_slice(&std::fs::read(place.path("x.img.ha-volume.json")).unwrap()).unwrap();
        assert_eq!(marker["sha256"], expected(name));
        assert_eq!(marker["size"], answer["size"]);
        assert!(!place.path("x.img.ha-volume.part").exists() && !place.path("x.img.ha-volume.state").exists());
        // Once more: it is there.
        assert_eq!(place.json(&words, if salvage { 3 } else { 0 })["was_there"], true);
        // A stream has every zero.
        words[3] = "-";
        let child = std::process::Command::new(BINARY)
            .args(&words)
            .current_dir(place.path("."))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(place.path("stream")).unwrap())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(child.code(), Some(if salvage { 3 } else { 0 }));
        assert_eq!(sha256(&place.path("stream")), expected(name), "{name}");
    }
}

/// Merges as §2 of the rules says, without the code under test.
fn plain_merge(layers: &[std::path::PathBuf], size: u64, below: Option<Vec<u8>>) -> Vec<u8> {
    use rustix::fs::SeekFrom;
    let mut image = below.unwrap_or_default();
    image.resize(usize::try_from(size).unwrap(), 0);
    for layer in layers {
        let file = std::fs::File::open(layer).unwrap();
        let end = file.metadata().unwrap().len().min(size);
        let mut position = 0;
        while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(position)) {
            position = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
            let range = usize::try_from(start.min(end)).unwrap()..usize::try_from(position.min(end)).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut image[range], start).unwrap();
        }
    }
    image
}

#[test]
fn every_snapshot_has_its_sum() {
    for (archive, inside, name) in REPLICAS.iter().filter(|(_, _, name)| *name != "pvc-a1-r2") {
        let place = need!(Place::of(archive));
        let replica = &manifest()["replicas"][name];
        let size = replica["volume_meta"]["Size"].as_u64().unwrap();
        let chain: Vec<&str> =
            replica["chain_head_first"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let below = match *name {
            "pvc-e5raw-r1" => Some(std::fs::read(place.path("back/base.raw")).unwrap()),
            "pvc-e5qcow2-r1" => {
                place.run(&["merge", "back/base.qcow2", "-o", "base.img"]).assert_success();
                Some(std::fs::read(place.path("base.img")).unwrap())
            }
            _ => None,
        };
        for index in 0..chain.len() {
            let layers: Vec<_> = chain[index..].iter().rev().map(|layer| place.path(inside).join(layer)).collect();
            let image = plain_merge(&layers, size, below.clone());
            let sum: String = Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
            // The sums that the manifest has: of the live state, and of a lowest layer with nothing below it.
            let lowest = &replica["files"][chain[index]];
            if index == 0 {
                assert_eq!(sum, expected(name), "{name}");
            } else if index + 1 == chain.len() && below.is_none() && lowest["size"] == size {
                assert_eq!(sum, lowest["sha256"], "{name}");
            }
            let Some(snapshot) = chain[index].strip_prefix("volume-snap-").and_then(|name| name.strip_suffix(".img"))
            else {
                continue;
            };
            let mut words = vec!["merge", inside, "-o", "x.img", "--force", "--snapshot", snapshot];
            words.extend(backing(name));
            let salvage = *name == "pvc-c3-r2";
            if salvage {
                words.push("--despite-damage");
            }
            place.run(&words).assert_code(if salvage { 3 } else { 0 });
            assert_eq!(sha256(&place.path("x.img")), sum, "{name} {snapshot}");
        }
    }
}

#[test]
fn qemu_reads_the_qcow2_that_is_made() {
    let place = need!(Place::of("d4-expanded.tar.zst"));
    need!(ha_testkit::loopmount::need_tool("qemu-img"));
    place.run(&["merge", "pvc-d4-r1", "-o", "x.qcow2", "--output-format", "qcow2"]).assert_success();
    place.tool("qemu-img", &["check", "-q", "x.qcow2"]);
    place.tool("qemu-img", &["convert", "-O", "raw", "x.qcow2", "x.raw"]);
    assert_eq!(sha256(&place.path("x.raw")), expected("pvc-d4-r1"));
}

#[test]
fn qcow2_of_every_kind_is_read_as_qemu_reads_it() {
    let place = need!(Place::of("d4-expanded.tar.zst"));
    need!(ha_testkit::loopmount::need_tool("qemu-img"));
    place.run(&["merge", "pvc-d4-r1", "-o", "x.raw"]).assert_success();
    let sum = expected("pvc-d4-r1");
    for (name, options) in [
        ("v2", &["-o", "compat=0.10"][..]),
        ("small", &["-o", "cluster_size=512"]),
        ("large", &["-o", "cluster_size=2M"]),
        ("packed", &["-c"]),
        ("packed-small", &["-c", "-o", "cluster_size=4k"]),
        ("prealloc", &["-o", "preallocation=metadata"]),
        ("lazy", &["-o", "lazy_refcounts=on"]),
    ] {
        let words = [&["convert", "-O", "qcow2"], options, &["x.raw", name]].concat();
        place.tool("qemu-img", &words);
        let answer = place.json(&["merge", name, "-o", &format!("{name}.img"), "--sha256"], 0);
        assert_eq!(answer["sha256"], sum, "{name}");
    }
    // An overlay over a packed image over nothing, with zeros that hide what is below.
    place.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "packed", "-F", "qcow2", "over"]);
    if ha_testkit::loopmount::tool("qemu-io").is_some() {
        place.tool("qemu-io", &["-c", "write -z 1M 3M", "-c", "write -P 7 9000k 100k", "over"]);
    }
    place.tool("qemu-img", &["convert", "-O", "raw", "over", "over.raw"]);
    let answer = place.json(&["merge", "over", "-o", "over.img", "--sha256"], 0);
    assert_eq!(answer["sha256"], sha256(&place.path("over.raw")));
    // What this reader does not have is named.
    for (name, options, word) in [
        ("zstd", &["-c", "-o", "compression_type=zstd"][..], "zstd compression"),
        ("extended", &["-o", "extended_l2=on"], "extended tables"),
    ] {
        place.tool("qemu-img", &[&["convert", "-O", "qcow2"], options, &["x.raw", name]].concat());
        let outcome = place.run(&["merge", name, "-o", "no.img"]);
        outcome.assert_code(1);
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    // A truncated one too.
    let whole = std::fs::metadata(place.path("v2")).unwrap().len();
    std::fs::File::options().write(true).open(place.path("v2")).unwrap().set_len(whole / 2).unwrap();
    let outcome = place.run(&["merge", "v2", "-o", "no.img"]);
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("truncated qcow2 image"), "{}", outcome.stderr);
    assert!(!place.path("no.img").exists());
}

#[test]
fn snapshots_and_sizes() {
    let place = need!(Place::of("d4-expanded.tar.zst"));
    let outcome = place.run(&["merge", "pvc-d4-r1", "-o", "x.img", "--snapshot", "nothing"]);
    outcome.assert_code(2);
    assert!(outcome.stderr.contains("before-expand"), "{}", outcome.stderr);
    let answer = place.json(&["merge", "pvc-d4-r1", "-o", "x.img", "--snapshot", "before-expand"], 0);
    assert_eq!(answer["source"]["chain"].as_array().unwrap().len(), 1);
    assert_eq!(answer["size"], 100_663_296);
    // One layer without a hole above it is itself, longer.
    let layer = std::fs::read(place.path("pvc-d4-r1/volume-snap-before-expand.img")).unwrap();
    let image = std::fs::read(place.path("x.img")).unwrap();
    assert!(image[..layer.len()] == layer[..] && image[layer.len()..].iter().all(|byte| *byte == 0));
    place.run(&["merge", "pvc-d4-r1", "-o", "y.img", "--expect-size", "64MiB"]).assert_code(5);
    place.run(&["merge", "pvc-d4-r1", "-o", "y.img", "--expect-size", "96MiB"]).assert_success();
}

#[test]
fn what_halts_leaves_nothing() {
    let place = need!(Place::of("e5-backing.tar.zst"));
    let replica = "rep/pvc-e5raw-r1";
    let outcome = place.run(&["merge", replica, "-o", "x.img"]);
    outcome.assert_code(5);
    assert!(outcome.stderr.contains("--backing FILE"), "{}", outcome.stderr);
    let good = &["merge", replica, "--backing", "back/base.raw", "-o"];
    std::fs::write(place.path("there"), "precious").unwrap();
    place.command(good).arg("there").run().assert_code(5);
    // A dry run halts where the real one would.
    for more in [&["there", "--dry-run"][..], &["rep/pvc-e5raw-r1/x.img", "--dry-run"]] {
        place.command(good).args(more).run().assert_code(5);
    }
    place.command(good).args([".", "--dry-run"]).run().assert_code(2);
    place.command(good).args(["there", "--force", "--dry-run"]).run().assert_success();
    assert_eq!(std::fs::read(place.path("there")).unwrap(), b"precious");
    assert!(!place.path("there.ha-volume.part").exists());
    place.command(good).args(["there", "--force"]).run().assert_success();
    assert_eq!(sha256(&place.path("there")), expected("pvc-e5raw-r1"));
    place.command(&good[..4]).run().assert_code(2);
    place.command(good).args(["a", "-o", "b"]).run().assert_code(2);
    place.command(good).arg("json").run().assert_code(2);
    let outcome = place.command(good).args(["dry", "--dry-run"]).run();
    outcome.assert_success();
    assert!(outcome.stdout.contains("would be made") && !place.path("dry").exists());
}

#[test]
fn into_a_replica_nothing_is_written_however_it_is_spelled() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    std::fs::create_dir(place.path("pvc-a1-r1/sub")).unwrap();
    std::os::unix::fs::symlink("pvc-a1-r1/sub", place.path("link")).unwrap();
    place.settle("pvc-a1-r1/*");
    let before = ha_testkit::tree::Snapshot::of(&place.path("pvc-a1-r1"));
    for inside in ["pvc-a1-r1/x", "pvc-a1-r1/sub/x", "link/x", "link/absent/x", "pvc-a1-r1/sub/../x"] {
        for words in [
            &["merge", "pvc-a1-r2", "-o", inside][..],
            &["merge", "pvc-a1-r2", "--dry-run", "-o", inside],
            &["fsck", "--replay", "pvc-a1-r2", "-o", inside],
            &["copy", "pvc-a1-r2", inside],
            &["extract", "pvc-a1-r2", "/", inside],
        ] {
            let outcome = place.run(words);
            outcome.assert_code(5);
            assert!(outcome.stderr.contains("in a replica directory"), "{}", outcome.stderr);
        }
    }
    place.run(&["backupstore", "write", "pvc-a1-r2", "--target", "link", "--volume", "vol"]).assert_code(5);
    before.assert_same(&ha_testkit::tree::Snapshot::of(&place.path("pvc-a1-r1")));
}

#[test]
fn an_image_that_was_changed_is_not_taken_for_what_its_marker_says() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    for format in ["raw", "qcow2"] {
        let words = ["merge", "pvc-a1-r1", "-o", format, "--output-format", format];
        place.run(&words).assert_success();
        // Another spelling of the source is the same source.
        let other = ["merge", "./pvc-a1-r2/../pvc-a1-r1/", "-o", format, "--output-format", format];
        assert_eq!(place.json(&other, 0)["was_there"], true);
        let image = std::fs::File::options().write(true).open(place.path(format)).unwrap();
        let length = image.metadata().unwrap().len();
        std::os::unix::fs::FileExt::write_all_at(&image, b"changed", length / 2).unwrap();
        for more in [&[][..], &["--dry-run"]] {
            let outcome = place.command(&words).args(more).run();
            outcome.assert_code(5);
            assert!(outcome.stderr.contains("not what its marker says"), "{}", outcome.stderr);
        }
        assert!(!place.path(&format!("{format}.ha-volume.part")).exists());
        place.command(&words).arg("--force").run().assert_success();
        assert_eq!(place.json(&words, 0)["was_there"], true);
    }
}

#[test]
fn what_is_left_of_another_merge_is_not_taken_up() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    place.run(&["merge", "pvc-a1-r1", "-o", "y", "--output-format", "qcow2"]).assert_success();
    let marker: Value = serde_json::from_slice(&std::fs::read(place.path("y.ha-volume.json")).unwrap()).unwrap();
    for (format, marker) in [("qcow2", marker.clone()), ("raw", Value::Null), ("raw", marker.clone())] {
        std::fs::copy(place.path("y"), place.path("x.img.ha-volume.part")).unwrap();
        let state = serde_json::json!({
            "format": format, "fingerprint": marker_fingerprint(&place), "done": 128 << 20, "marker": marker,
        });
        std::fs::write(place.path("x.img.ha-volume.state"), state.to_string()).unwrap();
        // A temporary file of a process that was killed goes as well.
        std::fs::write(place.path("x.img.ha-volume.state.4711.new"), "{").unwrap();
        let run = place.command(&["merge", "pvc-a1-r1", "-o", "x.img"]).timeout(std::time::Duration::from_secs(60));
        run.run().assert_success();
        assert_eq!(sha256(&place.path("x.img")), expected("pvc-a1-r1"));
        assert!(!place.path("x.img.ha-volume.state.4711.new").exists());
        for end in ["", ".ha-volume.json"] {
            std::fs::remove_file(place.path(&format!("x.img{end}"))).unwrap();
        }
    }
}

fn marker_fingerprint(place: &Place) -> Value {
    let marker: Value = serde_json::from_slice(&std::fs::read(place.path("y.ha-volume.json")).unwrap()).unwrap();
    marker["source"]["fingerprint"].clone()
}

#[test]
fn what_is_no_place_for_an_image_is_refused_and_left_alone() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    std::fs::create_dir(place.path("directory")).unwrap();
    place.run(&["merge", "pvc-a1-r1", "-o", "x.img"]).assert_success();
    std::os::unix::fs::symlink("x.img", place.path("link.img")).unwrap();
    let sum = expected("pvc-a1-r1");
    let before = ha_testkit::tree::Snapshot::of(&place.path("."));
    for words in [
        &["merge", "pvc-a1-r1", "-o", "directory"][..],
        &["merge", "pvc-a1-r1", "-o", "/dev/null"],
        &["merge", "pvc-a1-r1", "-o", "-", "--output-format", "qcow2"],
        &["merge", "x.img", "-o", "x.img", "--force"],
        &["merge", "x.img", "-o", "x.img", "--force", "--dry-run"],
        &["merge", "x.img", "-o", "link.img", "--force"],
        &["fsck", "--replay", "pvc-a1-r1", "-o", "-"],
        &["fsck", "--replay", "pvc-a1-r1", "-o", "/dev/null"],
    ] {
        let outcome = place.run(words);
        outcome.assert_code(2);
        assert!(outcome.stdout.is_empty(), "{words:?}");
    }
    // What a merge has made is not replayed into.
    place.run(&["fsck", "--replay", "pvc-a1-r1", "-o", "x.img"]).assert_code(5);
    before.assert_same(&ha_testkit::tree::Snapshot::of(&place.path(".")));
    assert_eq!(sha256(&place.path("x.img")), sum);
    assert!(!std::path::Path::new("/dev/null.ha-volume.part").exists());
}

#[test]
fn a_size_that_the_file_system_does_not_take_fails_at_once() {
    let place = Place::empty();
    let replica = place.path("pvc-x-00000001");
    std::fs::create_dir(&replica).unwrap();
    std::fs::write(replica.join("volume-head-000.img"), [7; 4096]).unwrap();
    std::fs::write(replica.join("volume-head-000.img.meta"), r#"{"Parent":""}"#).unwrap();
    for size in [(1_u64 << 63) - 1, (1 << 63) - 4096] {
        let meta = format!(r#"{{"Size":{size},"Head":"volume-head-000.img","Parent":""}}"#);
        std::fs::write(replica.join("volume.meta"), meta).unwrap();
        std::fs::write(place.path("image"), [7; 4096]).unwrap();
        let run = |words: &[&str]| place.command(words).timeout(std::time::Duration::from_secs(20)).run();
        run(&["compare", "pvc-x-00000001", "image"]).assert_success();
        let outcome = run(&["backupstore", "write", "pvc-x-00000001", "--target", ".", "--volume", "vol"]);
        assert!(matches!(outcome.code(), Some(0 | 2)), "{}", outcome.stderr);
        std::fs::remove_dir_all(place.path("backupstore")).ok();
        // On most file systems no file can have it; where one can, it is sparse.
        let outcome = run(&["merge", "pvc-x-00000001", "-o", "x.img"]);
        assert!(matches!(outcome.code(), Some(0 | 1)), "{}", outcome.stderr);
        for end in ["", ".ha-volume.json"] {
            std::fs::remove_file(place.path(&format!("x.img{end}"))).ok();
        }
        assert!(!place.path("x.img.ha-volume.part").exists());
    }
}

#[test]
fn free_space_is_checked_on_the_file_system_of_the_image() {
    let place = need!(Place::of("c3-rebuilding.tar.zst"));
    let small = need!(ha_testkit::loopmount::tmpfs(8 << 20));
    let image = small.path().join("x.img");
    place.command(&["merge", "pvc-c3-r1", "--dry-run", "-o"]).arg(&image).run().assert_code(5);
    let outcome = place.command(&["merge", "pvc-c3-r1", "-o"]).arg(&image).run();
    outcome.assert_code(5);
    assert!(outcome.stderr.contains("not enough space"), "{}", outcome.stderr);
    assert_eq!(std::fs::read_dir(small.path()).unwrap().count(), 0);
}

#[test]
fn a_block_device_gets_every_zero_too() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    need!(ha_testkit::loopmount::need_tool("losetup"));
    let disk = place.path("disk");
    // Old content where the image has holes.
    std::fs::write(&disk, vec![0xaa; 130 << 20]).unwrap();
    let losetup = std::process::Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
    if !losetup.status.success() {
        ha_testkit::loopmount::Skipped::because("no loop device to be had").report();
        return;
    }
    let device = String::from_utf8(losetup.stdout).unwrap().trim().to_owned();
    let outcome = place.run(&["merge", "pvc-a1-r1", "-o", &device]);
    let small = place.run(&["merge", "pvc-a1-r1", "-o", &device, "--output-format", "qcow2"]);
    place.tool("losetup", &["--detach", &device]);
    outcome.assert_success();
    small.assert_code(2);
    let written = std::fs::read(&disk).unwrap();
    std::fs::write(place.path("image"), &written[..128 << 20]).unwrap();
    assert_eq!(sha256(&place.path("image")), expected("pvc-a1-r1"));
    assert!(written[128 << 20..].iter().all(|byte| *byte == 0xaa));
}

#[test]
fn memory_does_not_follow_the_size() {
    need!(ha_testkit::loopmount::need_tool("prlimit"));
    let place = Place::empty();
    let replica = place.path("pvc-x-00000001");
    std::fs::create_dir(&replica).unwrap();
    let size = 1_u64 << 40;
    let head = std::fs::File::create(replica.join("volume-head-000.img")).unwrap();
    head.set_len(size).unwrap();
    let block = vec![7; 64 << 10];
    for number in 0..3000_u64 {
        let at = number * (size / 3000) / 4096 * 4096;
        std::os::unix::fs::FileExt::write_all_at(&head, &block, at).unwrap();
    }
    std::fs::write(replica.join("volume-head-000.img.meta"), r#"{"Parent":""}"#).unwrap();
    let meta = format!(r#"{{"Size":{size},"Head":"volume-head-000.img","Parent":""}}"#);
    std::fs::write(replica.join("volume.meta"), meta).unwrap();
    for format in ["raw", "qcow2"] {
        // More memory than that the kernel does not give; what is only reserved does not count.
        let words = ["--data=67108864", BINARY, "merge", "pvc-x-00000001", "-o"];
        let run = place.environment.command("prlimit").args(words).current_dir(&place.path("."));
        run.args([&format!("{format}.img"), "--output-format", format]).run().assert_success();
    }
    place.run(&["compare", "raw.img", "qcow2.img", "-o", "json"]).assert_success();
}

#[test]
fn a_marker_that_somebody_wrote_into_is_not_believed() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let words = ["merge", "pvc-a1-r1", "-o", "x.img", "--sha256"];
    place.run(&words).assert_success();
    let path = place.path("x.img.ha-volume.json");
    let marker: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value) in [("data_bytes", Value::from(1)), ("sha256", Value::from("00"))] {
        let mut changed = marker.clone();
        changed[field] = value;
        std::fs::write(&path, changed.to_string()).unwrap();
        place.run(&words).assert_code(5);
    }
    std::fs::write(&path, marker.to_string()).unwrap();
    assert_eq!(place.json(&words, 0)["was_there"], true);
}

#[test]
fn room_is_asked_for_data_and_not_for_zeros() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let data = place.json(&["merge", "pvc-a1-r1", "-o", "x.img"], 0)["data_bytes"].as_u64().unwrap();
    let most = place.json(&["merge", "pvc-a1-r1", "-o", "y.img", "--dry-run"], 0);
    assert!(most["data_bytes_at_most"].as_u64().unwrap() > data + (6 << 20), "{most}");
    let small = need!(ha_testkit::loopmount::tmpfs(data + (5 << 20)));
    let image = small.path().join("x.img");
    place.run(&["merge", "pvc-a1-r1", "-o", image.to_str().unwrap()]).assert_success();
    let smaller = need!(ha_testkit::loopmount::tmpfs(data));
    let image = smaller.path().join("x.img");
    let outcome = place.run(&["merge", "pvc-a1-r1", "-o", image.to_str().unwrap()]);
    outcome.assert_code(5);
    assert!(outcome.stderr.contains("not enough space"), "{}", outcome.stderr);
    assert_eq!(std::fs::read_dir(smaller.path()).unwrap().count(), 0);
}

#[test]
fn what_no_image_can_be_is_refused_at_once() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let outcome = place.run(&["merge", "pvc-a1-r1", "-o", "below/"]);
    outcome.assert_code(2);
    assert!(outcome.stderr.contains("names a directory"), "{}", outcome.stderr);
    let meta = place.path("pvc-a1-r1/volume.meta");
    let text = std::fs::read_to_string(&meta).unwrap();
    let (before, after) = (text.find("\"Size\":").unwrap() + 7, text.find(',').unwrap());
    std::fs::write(&meta, format!("{}9000000000000000000{}", &text[..before], &text[after..])).unwrap();
    let outcome = place.run(&["merge", "pvc-a1-r1", "-o", "x.img", "--output-format", "qcow2"]);
    outcome.assert_code(2);
    assert!(outcome.stderr.contains("too large for a qcow2 image"), "{}", outcome.stderr);
}

#[test]
fn an_empty_backing_image_is_none() {
    let place = need!(Place::of("e5-backing.tar.zst"));
    std::fs::write(place.path("empty"), "").unwrap();
    let outcome = place.run(&["merge", "rep/pvc-e5raw-r1", "-o", "x.img", "--backing", "empty"]);
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("the backing image is empty"), "{}", outcome.stderr);
}
