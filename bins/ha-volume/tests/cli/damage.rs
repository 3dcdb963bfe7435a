//! Every kind of damage is recognised and named.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use ha_longhorn::checksum::{self, Crc64};
use ha_longhorn::source::SourceFile;
use ha_longhorn::watch::Unwatched;
use ha_testkit::need;

use crate::{Place, codes};

const REPLICA: &str = "pvc-a1-r1";

type Damage = (&'static str, fn(&Path), i32, &'static [&'static str], i32);

fn write(path: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(path.join(name), content).unwrap();
}

fn checksum_of(path: &Path, name: &str, sum: Option<&str>) {
    use std::os::unix::fs::MetadataExt as _;
    let image = SourceFile::open(&path.join(name)).unwrap();
    let found = checksum::crc64(&image, &Unwatched).unwrap().unwrap();
    let entry = std::fs::metadata(path.join(name)).unwrap();
    let time = as_go_writes(entry.ctime(), entry.ctime_nsec());
    let sum = sum.unwrap_or(&found);
    write(
        path,
        &format!("{name}.checksum"),
        format!(r#"{{"method":"crc64","checksum":"{sum}","change_time":"{time}"}}"#),
    );
}

fn as_go_writes(seconds: i64, nanoseconds: i64) -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d %H:%M:%S"])
        .output()
        .unwrap();
    format!("{}.{nanoseconds:09} +0000 UTC", String::from_utf8(output.stdout).unwrap().trim())
}

/// What is done to the replica; exit code of `inspect`; findings; exit code of `merge`.
const TABLE: &[Damage] = &[
    ("untouched", |_| {}, 0, &[], 0),
    (
        "a loop",
        |path| write(path, "volume-snap-snap-one.img.meta", r#"{"Parent":"volume-snap-snap-three.img"}"#),
        3,
        &["chain-broken"],
        1,
    ),
    (
        "a loop of one",
        |path| write(path, "volume-head-003.img.meta", r#"{"Parent":"volume-head-003.img"}"#),
        3,
        &["chain-broken"],
        1,
    ),
    (
        "a parent elsewhere",
        |path| write(path, "volume-snap-snap-one.img.meta", r#"{"Parent":"../../etc/passwd"}"#),
        3,
        &["chain-broken"],
        1,
    ),
    (
        "a missing meta",
        |path| std::fs::remove_file(path.join("volume-snap-snap-two.img.meta")).unwrap(),
        3,
        &["chain-broken"],
        1,
    ),
    (
        "an empty meta",
        |path| write(path, "volume-snap-snap-two.img.meta", ""),
        3,
        &["chain-broken", "layer-meta-unusable"],
        1,
    ),
    (
        "a missing image",
        |path| std::fs::remove_file(path.join("volume-snap-snap-one.img")).unwrap(),
        3,
        &["chain-broken"],
        1,
    ),
    ("an empty volume.meta", |path| write(path, "volume.meta", ""), 0, &["backing-unknown", "volume-meta-unusable"], 0),
    (
        "a volume.meta of NUL",
        |path| write(path, "volume.meta", [0; 186]),
        0,
        &["backing-unknown", "volume-meta-unusable"],
        0,
    ),
    (
        "no volume.meta",
        |path| std::fs::remove_file(path.join("volume.meta")).unwrap(),
        0,
        &["backing-unknown", "volume-meta-unusable"],
        0,
    ),
    (
        "a volume.meta of nothing",
        |path| write(path, "volume.meta", "{}"),
        0,
        &["backing-unknown", "volume-meta-unusable"],
        0,
    ),
    (
        "a volume.meta without a size",
        |path| write(path, "volume.meta", r#"{"Size":0,"Head":"volume-head-003.img"}"#),
        0,
        &["parent-cache-stale", "volume-meta-unusable"],
        0,
    ),
    (
        "a size that no volume can have",
        |path| write(path, "volume.meta", r#"{"Size":18446744073709551615,"Head":"volume-head-003.img"}"#),
        0,
        &["parent-cache-stale", "volume-meta-unusable"],
        0,
    ),
    (
        "a head that is too short",
        |path| {
            let file = std::fs::File::options().write(true).open(path.join("volume-head-003.img")).unwrap();
            file.set_len(100 << 20).unwrap();
        },
        0,
        &["head-short"],
        0,
    ),
    (
        "a meta without a parent",
        |path| write(path, "volume-snap-snap-two.img.meta", "{}"),
        3,
        &["chain-broken", "layer-meta-unusable"],
        1,
    ),
    (
        "two names for the backing image, both empty",
        |path| {
            let meta = std::fs::read_to_string(path.join("volume.meta")).unwrap();
            write(path, "volume.meta", meta.replace("\"Error\"", "\"BackingFileName\":\"\",\"Error\""));
        },
        0,
        &[],
        0,
    ),
    (
        "two heads, and volume.meta tells",
        |path| {
            write(path, "volume-head-004.img", "");
            write(path, "volume-head-004.img.meta", r#"{"Parent":"volume-snap-snap-three.img"}"#);
        },
        0,
        &["many-heads", "off-chain"],
        0,
    ),
    (
        "two heads, and nothing tells",
        |path| {
            write(path, "volume-head-004.img", "");
            write(path, "volume.meta", "");
        },
        3,
        &["backing-unknown", "chain-broken", "many-heads", "volume-meta-unusable"],
        1,
    ),
    (
        "leftovers",
        |path| {
            write(path, "volume.meta.tmp", "{");
            write(path, "volume-snap-x.img.snap_tmp", "");
        },
        0,
        &["leftover", "leftover"],
        0,
    ),
    (
        "a layer that is too long",
        |path| {
            let file = std::fs::File::options().write(true).open(path.join("volume-snap-snap-two.img")).unwrap();
            file.set_len(200 << 20).unwrap();
        },
        3,
        &["layer-too-long"],
        5,
    ),
    (
        "names with odd bytes",
        |path| {
            std::fs::write(path.join(std::ffi::OsStr::from_bytes(b"volume-snap-\xff\x1b[2J.img")), "").unwrap();
            write(path, "volume-snap-a\nb.img.meta", r#"{"Parent":""}"#);
        },
        0,
        &["foreign", "foreign"],
        0,
    ),
    (
        "a link for a layer",
        |path| {
            std::fs::rename(path.join("volume-snap-snap-one.img"), path.join("../elsewhere.img")).unwrap();
            std::os::unix::fs::symlink("../elsewhere.img", path.join("volume-snap-snap-one.img")).unwrap();
        },
        3,
        &["chain-broken", "foreign"],
        1,
    ),
    (
        "an old parent in volume.meta",
        |path| {
            let meta = std::fs::read_to_string(path.join("volume.meta")).unwrap();
            write(path, "volume.meta", meta.replace("snap-three", "snap-two"));
        },
        0,
        &["parent-cache-stale"],
        0,
    ),
    (
        "given up by the engine",
        |path| {
            let meta = std::fs::read_to_string(path.join("volume.meta")).unwrap();
            write(path, "volume.meta", meta.replace("\"Error\":\"\"", "\"Error\":\"disk full\""));
        },
        3,
        &["engine-error"],
        5,
    ),
    ("a counter of nothing", |path| write(path, "revision.counter", [0; 4096]), 0, &["revision-unusable"], 0),
    ("a right checksum", |path| checksum_of(path, "volume-snap-snap-two.img", None), 0, &[], 0),
    (
        "a wrong checksum",
        |path| checksum_of(path, "volume-snap-snap-two.img", Some("0123456789abcdef")),
        3,
        &["checksum-wrong"],
        5,
    ),
    (
        "a stale checksum",
        |path| {
            let stale = r#"{"method":"crc64","checksum":"0123456789abcdef","change_time":"2026-01-01T00:00:00Z"}"#;
            write(path, "volume-snap-snap-two.img.checksum", stale);
        },
        0,
        &["checksum-stale"],
        0,
    ),
    ("a torn checksum", |path| write(path, "volume-snap-snap-two.img.checksum", "{\"me"), 0, &["checksum-unusable"], 0),
];

#[test]
fn each_is_named() {
    let original = need!(Place::of("a1-chain.tar.zst"));
    let mut wrong = Vec::new();
    for (name, damage, inspect, expected, merge) in TABLE {
        let place = Place::empty();
        let copy = place.path(REPLICA);
        original.run(&["copy", REPLICA, copy.to_str().unwrap()]).assert_success();
        damage(&copy);
        let answer = place.json(&["inspect", REPLICA], *inspect);
        let mut found = codes(&answer);
        found.sort();
        found.retain(|code| code != "extents-by-seek");
        if found != *expected {
            wrong.push(format!("{name}: {found:?} instead of {expected:?}"));
        }
        let outcome = place.run(&["merge", REPLICA, "-o", "x.img"]);
        outcome.assert_code(*merge);
        assert_eq!(place.path("x.img").exists(), *merge == 0, "{name}");
        assert!(!outcome.stderr.contains('\u{1b}'), "{name}");
        // The text names it as well, and moves no cursor.
        let text = place.run(&["inspect", REPLICA]).stdout;
        assert!(!text.contains('\u{1b}') && text.contains("volume-head-003.img"), "{name}: {text}");
        place.run(&["scan", "."]).assert_success();
        place.run(&["doctor", REPLICA]).assert_code(if *name == "a wrong checksum" { 0 } else { *inspect });
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_head_may_be_named_where_nothing_tells_and_damage_may_be_looked_past() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let replica = place.path(REPLICA);
    write(&replica, "volume-head-004.img", "");
    write(&replica, "volume-head-004.img.meta", r#"{"Parent":"volume-snap-snap-three.img"}"#);
    write(&replica, "volume.meta", "");
    let outcome = place.run(&["merge", REPLICA, "-o", "x.img"]);
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("--head volume-head-003.img"), "{}", outcome.stderr);
    let sum = crate::manifest()["replicas"][REPLICA]["merged_sha256"].clone();
    let words = ["merge", REPLICA, "-o", "x.img", "--sha256", "--head", "volume-head-003.img"];
    assert_eq!(place.json(&words, 0)["sha256"], sum);
    // A layer that is too long is clipped, when told to go on.
    let layer = std::fs::File::options().write(true).open(replica.join("volume-snap-snap-two.img")).unwrap();
    layer.set_len(200 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&layer, &[9; 4096], 150 << 20).unwrap();
    let words = ["merge", REPLICA, "-o", "y.img", "--sha256", "--head", "volume-head-003.img", "--despite-damage"];
    assert_eq!(place.json(&words, 3)["sha256"], sum);
    // A snapshot below a broken head is whole.
    std::fs::remove_file(replica.join("volume-head-003.img.meta")).unwrap();
    place.run(&["merge", REPLICA, "-o", "z.img", "--snapshot", "snap-one"]).assert_success();
}

#[test]
fn what_reads_files_says_which_checksums_it_did_not_verify() {
    let original = need!(Place::of("a1-chain.tar.zst"));
    let layer = "volume-snap-snap-two.img";
    for (sum, extract) in [(None, 0), (Some("0123456789abcdef"), 5)] {
        let place = Place::empty();
        let copy = place.path(REPLICA);
        original.run(&["copy", REPLICA, copy.to_str().unwrap()]).assert_success();
        let unverified = "warning: checksums were not verified";
        let ls = place.run(&["ls", REPLICA]);
        ls.assert_success();
        assert!(!ls.stderr.contains(unverified), "{}", ls.stderr);
        checksum_of(&copy, layer, sum);
        for words in [&["ls", REPLICA][..], &["cat", REPLICA, "/note.txt"]] {
            let outcome = place.run(words);
            outcome.assert_success();
            let expected = format!("{unverified}, which inspect does: {layer}\n");
            assert!(outcome.stderr.contains(&expected), "{}", outcome.stderr);
            // Not of the layers beside it.
            let before = place.run(&[words, &["--snapshot", "snap-one"]].concat());
            assert!(!before.stderr.contains(unverified), "{}", before.stderr);
        }
        // What is kept is verified.
        let outcome = place.run(&["extract", REPLICA, "/", "out"]);
        outcome.assert_code(extract);
        assert!(!outcome.stderr.contains(unverified), "{}", outcome.stderr);
        assert_eq!(place.path("out").exists(), extract == 0);
        if extract != 0 {
            assert!(outcome.stderr.contains("--despite-damage"), "{}", outcome.stderr);
            place.run(&["extract", REPLICA, "/", "out", "--despite-damage"]).assert_code(3);
        }
    }
}

#[test]
fn the_sum_of_holes_is_that_of_zeros() {
    let place = Place::empty();
    let path = place.path("file");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[5; 10_000], 4 << 20).unwrap();
    let mut crc = Crc64::default();
    crc.update(&std::fs::read(&path).unwrap());
    let image = SourceFile::open(&path).unwrap();
    assert_eq!(checksum::crc64(&image, &Unwatched).unwrap(), Some(crc.finish()));
}

#[test]
fn a_halt_is_an_answer_for_programs_too() {
    let place = need!(Place::of("c3-rebuilding.tar.zst"));
    let answer = place.json(&["merge", "pvc-c3-r2", "-o", "x.img"], 5);
    assert_eq!(answer["error"], "the replica is damaged: pvc-c3-r2");
    assert_eq!(answer["exit_code"], 5);
    assert!(answer["causes"][0].as_str().unwrap().contains("volume-snap-s2.img"));
    assert!(!answer["hints"].as_array().unwrap().is_empty());
    assert!(codes(&answer).contains(&"rebuilding".to_owned()));
    let answer = place.json(&["ls", "nothing"], 1);
    assert!(!answer["error"].as_str().unwrap().is_empty() && codes(&answer).is_empty());
    // With the image on stdout nothing else is there.
    let outcome = place.run(&["merge", "pvc-c3-r2", "-o", "-", "-o", "json"]);
    outcome.assert_code(5);
    assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
}

#[test]
fn branches_are_shown_where_they_leave_and_extents_on_request() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let replica = place.path(REPLICA);
    for (name, parent) in [("b1", "snap-one"), ("b2", "b1")] {
        write(&replica, &format!("volume-snap-{name}.img"), "");
        write(&replica, &format!("volume-snap-{name}.img.meta"), format!(r#"{{"Parent":"volume-snap-{parent}.img"}}"#));
    }
    let text = place.run(&["inspect", REPLICA]).stdout;
    let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(line("(volume-snap-b2.img)").ends_with("on volume-snap-b1.img"), "{text}");
    assert!(line("  (volume-snap-b1.img)").ends_with("on volume-snap-snap-one.img"), "{text}");
    let answer = place.json(&["inspect", REPLICA, "--extents"], 0);
    assert_eq!(answer["extents"]["volume-snap-snap-two.img"].as_array().unwrap().len(), 4);
    let text = place.run(&["inspect", REPLICA, "--extents"]).stdout;
    let extent = &answer["extents"]["volume-snap-snap-two.img"][1];
    let length = extent["end"].as_u64().unwrap() - extent["start"].as_u64().unwrap();
    assert!(text.contains(&format!("  {} + {length}\n", extent["start"])), "{text}");
}

#[test]
fn a_rebuild_that_was_cut_off_halts() {
    let place = need!(Place::of("c3-rebuilding.tar.zst"));
    // The lowest layer has come over whole, and nothing is joined to it yet: every chain resolves.
    for file in ["volume-snap-s1.img", "volume-snap-s1.img.meta"] {
        std::fs::copy(place.path("pvc-c3-r1").join(file), place.path("pvc-c3-r2").join(file)).unwrap();
    }
    for file in ["volume-snap-s2.img", "volume-snap-s2.img.meta"] {
        std::fs::remove_file(place.path("pvc-c3-r2").join(file)).unwrap();
    }
    place.run(&["merge", "pvc-c3-r2", "-o", "x.img"]).assert_code(5);
    assert!(!place.path("x.img").exists());
    let answer = place.json(&["scan", "pvc-c3-r2"], 0);
    assert_eq!(answer["replicas"][0]["place"]["standing"], "salvage");
}

#[test]
fn a_backing_image_can_be_given_where_volume_meta_is_lost() {
    let place = need!(Place::of("e5-backing.tar.zst"));
    let sum = crate::manifest()["replicas"]["pvc-e5raw-r1"]["merged_sha256"].clone();
    let replica = "rep/pvc-e5raw-r1";
    for lost in [false, true] {
        match lost {
            false => write(&place.path(replica), "volume.meta", ""),
            true => std::fs::remove_file(place.path(replica).join("volume.meta")).unwrap(),
        }
        let image = format!("{lost}.img");
        let words = ["merge", replica, "-o", &image, "--sha256", "--backing", "back/base.raw"];
        let answer = place.json(&words, 0);
        assert_eq!(answer["sha256"], sum);
        assert!(!codes(&answer).contains(&"backing-unknown".to_owned()));
        let without = place.run(&["merge", replica, "-o", &format!("without-{lost}.img")]);
        assert!(
            without.stderr.contains("warning: without volume.meta a backing image cannot be ruled out"),
            "{}",
            without.stderr
        );
    }
}

#[test]
fn a_densified_layer_over_a_backing_image_is_recognised() {
    let place = need!(Place::of("e5-backing.tar.zst"));
    let replica = place.path("rep/pvc-e5raw-r1");
    let head = std::fs::read(replica.join("volume-snap-e1.img")).unwrap();
    for name in ["volume-snap-e1.img", "volume-snap-e1.img.meta"] {
        std::fs::remove_file(replica.join(name)).unwrap();
    }
    write(&replica, "volume-head-001.img", head);
    write(&replica, "volume-head-001.img.meta", r#"{"Parent":""}"#);
    let words = ["merge", "rep/pvc-e5raw-r1", "-o", "x.img", "--backing", "back/base.raw"];
    for lost in [false, true] {
        if lost {
            write(&replica, "volume.meta", "");
        }
        let outcome = place.run(&words);
        outcome.assert_code(5);
        assert!(outcome.stderr.contains("allocated from end to end"), "{}", outcome.stderr);
    }
}

#[test]
fn a_head_that_is_gone_while_another_is_there_can_be_named() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let replica = place.path(REPLICA);
    for end in ["", ".meta"] {
        let [from, to] = ["003", "004"].map(|number| replica.join(format!("volume-head-{number}.img{end}")));
        std::fs::rename(from, to).unwrap();
    }
    let outcome = place.run(&["merge", REPLICA, "-o", "x.img"]);
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("--head volume-head-004.img"), "{}", outcome.stderr);
    place.run(&["merge", REPLICA, "-o", "x.img", "--head", "volume-head-004.img"]).assert_success();
}

#[test]
fn doctor_does_not_say_no_sign_where_it_cannot_tell() {
    let place = need!(Place::of("e5-backing.tar.zst"));
    place.tool("cp", &["-a", "--sparse=always", "rep/pvc-e5raw-r1", "copied"]);
    let answer = place.json(&["doctor", "copied"], 0);
    assert_eq!(answer["diagnosis"]["conclusive"], false);
    let outcome = place.run(&["doctor", "copied"]);
    assert!(!outcome.stdout.contains("no sign") && outcome.stdout.contains("--backing FILE"), "{}", outcome.stdout);
    place.run(&["doctor", "copied", "--backing", "back/base.raw"]).assert_code(3);
    place.run(&["merge", "copied", "--backing", "back/base.raw", "-o", "x.img"]).assert_code(5);
}

#[test]
fn a_volume_that_was_written_whole_is_no_copy() {
    let place = Place::empty();
    let replica = place.path("pvc-whole-00000001");
    std::fs::create_dir(&replica).unwrap();
    let size = 4_u64 << 20;
    let below = std::fs::File::create(replica.join("volume-snap-a.img")).unwrap();
    below.set_len(size).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&below, &[1; 8192], 1 << 20).unwrap();
    write(&replica, "volume-snap-a.img.meta", r#"{"Parent":""}"#);
    write(&replica, "volume-head-001.img.meta", r#"{"Parent":"volume-snap-a.img"}"#);
    let meta = format!(r#"{{"Size":{size},"Head":"volume-head-001.img","Parent":"volume-snap-a.img"}}"#);
    write(&replica, "volume.meta", meta);
    // With zeros over a layer that has holes; without zeros, over one that has none either.
    let mut content = vec![7; size as usize];
    content[1 << 20..2 << 20].fill(0);
    for whole in [false, true] {
        if whole {
            write(&replica, "volume-snap-a.img", vec![1; size as usize]);
            content.fill(7);
        }
        write(&replica, "volume-head-001.img", &content);
        let answer = place.json(&["merge", "pvc-whole-00000001", "-o", "x.img", "--force"], 0);
        assert_eq!(codes(&answer), ["hides-all"], "{answer}");
        assert!(std::fs::read(place.path("x.img")).unwrap() == content);
        assert_eq!(place.json(&["scan", "."], 0)["replicas"][0]["place"]["standing"], "candidate");
    }
    // Both filled, with zeros among the data: what a copy leaves.
    content[1 << 20..2 << 20].fill(0);
    write(&replica, "volume-head-001.img", &content);
    place.run(&["merge", "pvc-whole-00000001", "-o", "x.img", "--force"]).assert_code(5);
}
