//! `merge` is killed at any moment: it goes on or starts over, and nothing half-made has the image's name.

use std::path::Path;
use std::time::Duration;

use ha_testkit::command::Inject;
use ha_testkit::need;

use crate::{Place, sha256};

/// Makes a replica with more data than two checkpoints.
fn large(place: &Place) -> String {
    let replica = place.path("pvc-large-00000001");
    std::fs::create_dir(&replica).unwrap();
    let size = 1_u64 << 30;
    let write = |name: &str, parent: &str, from: u64, blocks: u64| {
        let file = std::fs::File::create(replica.join(name)).unwrap();
        file.set_len(size).unwrap();
        let mut block = vec![0x55; 1 << 20];
        for number in 0..blocks {
            block[..8].copy_from_slice(&(from + number + 1).to_le_bytes());
            block[500_000] = number as u8;
            std::os::unix::fs::FileExt::write_all_at(&file, &block, from + number * (2 << 20)).unwrap();
        }
        std::fs::write(replica.join(format!("{name}.meta")), format!(r#"{{"Parent":"{parent}"}}"#)).unwrap();
    };
    write("volume-snap-a.img", "", 0, 230);
    write("volume-head-001.img", "volume-snap-a.img", 3 << 20, 60);
    let meta = format!(r#"{{"Size":{size},"Head":"volume-head-001.img","Parent":"volume-snap-a.img"}}"#);
    std::fs::write(replica.join("volume.meta"), meta).unwrap();
    "pvc-large-00000001".to_owned()
}

fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |entry| std::os::unix::fs::MetadataExt::blocks(&entry) * 512)
}

#[test]
fn an_interrupted_merge_goes_on_where_it_was() {
    need!(ha_testkit::loopmount::need_tool("strace"));
    let place = Place::empty();
    let replica = large(&place);
    place.run(&["merge", &replica, "-o", "whole.img"]).assert_success();
    let sum = sha256(&place.path("whole.img"));
    let words = ["merge", replica.as_str(), "-o", "x.img", "--checkpoint", "64MiB"];
    // Killed as it notes what is durable for the second time.
    let kill = || Inject::on("rename").signal("KILL").when("2");
    place.command(&words).strace(kill()).run();
    assert!(!place.path("x.img").exists(), "it ended before it could be killed");
    assert!(allocated(&place.path("x.img.ha-volume.part")) > 0);
    let answer = place.json(&words, 0);
    assert!(answer["resumed_at"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(sha256(&place.path("x.img")), sum);
    // Of a source that has changed nothing is taken over.
    place.command(&["merge", replica.as_str(), "-o", "y.img", "--checkpoint", "64MiB"]).strace(kill()).run();
    assert!(place.path("y.img.ha-volume.state").exists());
    let head = std::fs::File::options().write(true).open(place.path(&replica).join("volume-head-001.img")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&head, &[1; 4096], 0).unwrap();
    let answer = place.json(&["merge", replica.as_str(), "-o", "y.img"], 0);
    assert_eq!(answer["resumed_at"], 0);
    assert_ne!(sha256(&place.path("y.img")), sum);
}

#[test]
fn killed_at_any_moment() {
    let place = Place::empty();
    let replica = large(&place);
    place.run(&["merge", &replica, "-o", "whole.img"]).assert_success();
    let sum = sha256(&place.path("whole.img"));
    let (image, marker) = (place.path("x.img"), place.path("x.img.ha-volume.json"));
    for format in ["raw", "qcow2"] {
        for round in 0..9_u64 {
            let words = ["merge", replica.as_str(), "-o", "x.img", "--output-format", format, "--checkpoint", "64MiB"];
            let running = place.command(&words).start();
            std::thread::sleep(Duration::from_millis(round * round * 6));
            running.kill();
            drop(running);
            if image.exists() {
                if format == "raw" {
                    assert_eq!(sha256(&image), sum, "half-made after {round}");
                }
                place.command(&words).run().assert_success();
                assert!(marker.exists());
            }
            if round % 3 == 2 {
                place.command(&words).run().assert_success();
                assert_eq!(place.json(&["compare", "x.img", "whole.img"], 0)["same"], true, "{format}");
                assert!(marker.exists() && !place.path("x.img.ha-volume.part").exists());
                std::fs::remove_file(&image).unwrap();
                std::fs::remove_file(&marker).unwrap();
            }
        }
    }
}

#[test]
fn killed_between_the_name_and_the_marker() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    need!(ha_testkit::loopmount::need_tool("strace"));
    let words = ["merge", "pvc-a1-r1", "-o", "x.img"];
    // The first rename is that of the state, the second that of the marker; the image has a call of its own.
    let outcome = place.command(&words).strace(Inject::on("rename").signal("KILL").when("2")).run();
    assert_ne!(outcome.code(), Some(0));
    assert!(place.path("x.img").exists() && !place.path("x.img.ha-volume.json").exists());
    let answer = place.json(&words, 0);
    assert_eq!(answer["was_there"], true);
    assert!(place.path("x.img.ha-volume.json").exists() && !place.path("x.img.ha-volume.state").exists());
    let sum = crate::manifest()["replicas"]["pvc-a1-r1"]["merged_sha256"].clone();
    assert_eq!(serde_json::Value::from(sha256(&place.path("x.img"))), sum);
}

#[test]
fn a_signal_stops_it_in_order() {
    let place = Place::empty();
    let replica = large(&place);
    let words = ["merge", replica.as_str(), "-o", "x.img"];
    let mut running = place.command(&words).start();
    while !running.ended_within(Duration::from_millis(1)) && !place.path("x.img.ha-volume.part").exists() {}
    running.signal(rustix::process::Signal::TERM);
    let outcome = running.wait();
    assert!(matches!(outcome.code(), Some(143 | 0)), "{:?}", outcome.status);
    place.command(&words).run().assert_success();
}

#[test]
fn two_merges_to_one_image_do_not_mix() {
    let place = Place::empty();
    let replica = large(&place);
    let words = ["merge", replica.as_str(), "-o", "x.img"];
    let mut first = place.command(&words).start();
    while !first.ended_within(Duration::from_millis(1)) && allocated(&place.path("x.img.ha-volume.part")) == 0 {}
    let second = place.command(&words).run();
    assert!(matches!(second.code(), Some(4 | 0)), "{}", second.stderr);
    first.wait().assert_success();
    let answer = place.json(&words, 0);
    assert_eq!(answer["was_there"], true);
}

#[test]
fn an_image_is_on_the_disk_before_it_has_its_name() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let strace = need!(ha_testkit::loopmount::need_tool("strace"));
    let (marker, log) = (place.path("x.img.ha-volume.json"), place.path("strace.log"));
    let calls = |words: &[&str]| {
        let trace = "trace=fsync,fdatasync,renameat2";
        let traced = ["-f", "-qq", "-y", "-e", trace, "-e", "signal=none", "-o", log.to_str().unwrap(), crate::BINARY];
        place.tool(strace.to_str().unwrap(), &[&traced, words].concat());
        let log = std::fs::read_to_string(&log).unwrap();
        let named = log.find("renameat2");
        (log.find("img.ha-volume.part>"), log.find("/x.img>"), named)
    };
    let durable = || {
        let marker: serde_json::Value = serde_json::from_slice(&std::fs::read(&marker).unwrap()).unwrap();
        marker["durable"].as_bool().unwrap()
    };
    for format in ["raw", "qcow2"] {
        let words = ["merge", "-q", "pvc-a1-r1", "-o", "x.img", "--output-format", format];
        let (synced, _, named) = calls(&words);
        assert!(synced.is_some() && synced < named, "{format}: {synced:?} {named:?}");
        assert!(durable());
        std::fs::remove_file(place.path("x.img")).unwrap();
        let (synced, _, named) = calls(&[&words[..], &["--fsync", "off"]].concat());
        assert!(synced.is_none() && named.is_some(), "{format}: {synced:?} {named:?}");
        assert!(!durable());
        // What is there is made durable when that is asked for.
        let (_, synced, named) = calls(&words);
        assert!(synced.is_some() && named.is_none(), "{format}: {synced:?} {named:?}");
        assert!(durable());
        std::fs::remove_file(place.path("x.img")).unwrap();
    }
}
