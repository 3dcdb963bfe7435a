//! `merge`: every replica, every kind of output, and what halts.

use std::process::Stdio;

use ha_testkit::longhorn::REPLICAS;
use ha_testkit::need;
use serde_json::Value;

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
    // Into a replica nothing is written.
    place.command(good).arg("rep/pvc-e5raw-r1/x.img").run().assert_code(5);
    std::fs::write(place.path("there"), "precious").unwrap();
    place.command(good).arg("there").run().assert_code(5);
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
fn free_space_is_checked_on_the_file_system_of_the_image() {
    let place = need!(Place::of("c3-rebuilding.tar.zst"));
    let small = need!(ha_testkit::loopmount::tmpfs(8 << 20));
    let image = small.path().join("x.img");
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
