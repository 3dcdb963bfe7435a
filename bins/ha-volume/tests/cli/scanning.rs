//! `scan`: disks, ranks and reasons.

use std::os::unix::fs::PermissionsExt as _;

use ha_testkit::need;
use serde_json::Value;

use crate::Place;

/// Makes two disks with the replicas of b2 and c3, named as Longhorn names them.
pub(crate) fn disks() -> Result<Place, ha_testkit::loopmount::Skipped> {
    let place = Place::of("b2-powercut.tar.zst")?;
    ha_testkit::longhorn::extract("c3-rebuilding.tar.zst", &place.path("."))?;
    for (from, to) in [
        ("pvc-b2-r1", "one/replicas/pvc-b2-0000000a"),
        ("pvc-c3-r2", "one/replicas/pvc-c3-0000000a"),
        ("pvc-b2-r2", "two/replicas/pvc-b2-0000000b"),
        ("pvc-c3-r1", "two/replicas/pvc-c3-0000000b"),
    ] {
        place.rename(from, to);
    }
    for (disk, uuid) in [("one", "1111"), ("two", "2222")] {
        std::fs::write(place.path(disk).join("longhorn-disk.cfg"), format!("{{\"diskUUID\":\"{uuid}\"}}")).unwrap();
    }
    // A replica that was never written to.
    let fresh = place.path("one/replicas/pvc-b2-0000000c");
    std::fs::create_dir(&fresh).unwrap();
    std::fs::File::create(fresh.join("volume-head-000.img")).unwrap().set_len(128 << 20).unwrap();
    std::fs::write(fresh.join("volume-head-000.img.meta"), r#"{"Name":"volume-head-000.img","Parent":""}"#).unwrap();
    std::fs::write(fresh.join("volume.meta"), r#"{"Size":134217728,"Head":"volume-head-000.img","Dirty":false}"#)
        .unwrap();
    Ok(place)
}

/// Returns volume, rank, standing and the end of the path of each replica.
pub(crate) fn ranks(answer: &Value) -> Vec<String> {
    let replicas = answer["replicas"].as_array().unwrap();
    let text = |row: &Value| {
        let path = row["path"].as_str().unwrap();
        let host = row["host"].as_str().map(|host| format!("{host}:")).unwrap_or_default();
        format!(
            "{} {} {}{}",
            row["place"]["rank"],
            row["place"]["standing"].as_str().unwrap(),
            host,
            path.rsplit('/').next().unwrap()
        )
    };
    replicas.iter().map(text).collect()
}

const RANKED: [&str; 5] = [
    "1 candidate pvc-b2-0000000a",
    "2 candidate pvc-b2-0000000b",
    "3 empty pvc-b2-0000000c",
    "1 candidate pvc-c3-0000000b",
    "2 salvage pvc-c3-0000000a",
];

#[test]
fn replicas_are_ranked_over_all_disks() {
    let place = need!(disks());
    let answer = place.json(&["scan", "one", "two"], 0);
    assert_eq!(ranks(&answer), RANKED);
    assert_eq!(answer["disks"][0]["uuid"], "1111");
    assert_eq!(answer["disks"][1]["replicas"], 2);
    // The revision set the first two apart, so they are not close.
    let first = &answer["replicas"][0]["place"];
    assert_eq!(first["close"], false);
    let codes: Vec<&str> =
        first["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["chain-complete", "not-rebuilding", "revision", "written", "file-system-written", "journal"]);
    // A folder of replica directories, and a replica directory, are places too.
    assert_eq!(ranks(&place.json(&["scan", "two/replicas"], 0)).len(), 2);
    assert_eq!(ranks(&place.json(&["scan", "two/replicas/pvc-c3-0000000b"], 0)), ["1 candidate pvc-c3-0000000b"]);
}

#[test]
fn a_rebuild_that_was_cut_off_is_no_candidate_without_volume_meta_either() {
    let place = need!(disks());
    let cut_off = "one/replicas/pvc-c3-0000000a";
    let meta = place.path(cut_off).join("volume.meta");
    for damage in
        [|path: &std::path::Path| std::fs::write(path, ""), |path: &std::path::Path| std::fs::remove_file(path)]
    {
        damage(&meta).unwrap();
        let answer = place.json(&["scan", "one", "two"], 0);
        assert_eq!(ranks(&answer), RANKED);
        let reasons = answer["replicas"][4]["place"]["reasons"].as_array().unwrap();
        assert!(reasons.iter().any(|reason| reason["code"] == "rebuilding-unknown"), "{reasons:?}");
        let failure = place.json(&["merge", cut_off, "-o", "x.img"], 5);
        assert!(failure["hints"].to_string().contains("--despite-damage"), "{failure}");
        assert!(!place.path("x.img").exists());
    }
}

#[test]
fn of_a_broken_chain_head_and_revision_are_told_all_the_same() {
    let place = need!(disks());
    let replica = "one/replicas/pvc-b2-0000000a";
    std::fs::remove_file(place.path(replica).join("volume-snap-nightly-c-20260412.img.meta")).unwrap();
    let answer = place.json(&["scan", replica], 0);
    let reasons = answer["replicas"][0]["place"]["reasons"].as_array().unwrap();
    let codes: Vec<&str> = reasons.iter().map(|reason| reason["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["chain-incomplete", "not-rebuilding", "revision", "written"]);
}

#[test]
fn without_a_revision_close_candidates_are_shown_side_by_side() {
    let place = need!(disks());
    for replica in ["one/replicas/pvc-b2-0000000a", "two/replicas/pvc-b2-0000000b"] {
        std::fs::remove_file(place.path(replica).join("revision.counter")).unwrap();
    }
    let touch = |path: &str, time: &str| place.tool("touch", &["-d", time, path]);
    for (replica, time) in [("one/replicas/pvc-b2-0000000a", "09:00"), ("two/replicas/pvc-b2-0000000b", "10:00")] {
        for file in ["volume-head-001.img", "volume.meta"] {
            touch(&format!("{replica}/{file}"), &format!("2026-04-12T{time}:00Z"));
        }
    }
    let outcome = place.run(&["scan", "one", "two"]);
    outcome.assert_success();
    assert!(
        outcome.stdout.contains("the first two are close, look at how they differ:\n    ha-volume compare two/"),
        "{}",
        outcome.stdout
    );
    // With what differs, in both forms.
    assert!(
        outcome.stdout.contains("    584 blocks of 4 KiB differ") && outcome.stdout.contains("only-right  /app/late91"),
        "{}",
        outcome.stdout
    );
    let answer = place.json(&["scan", "one", "two"], 0);
    let close = &answer["close"][0];
    assert_eq!((&close["volume"], &close["blocks"]["blocks"]), (&"pvc-b2".into(), &584.into()));
    assert_eq!(close["files"].as_array().unwrap().len(), 7);
    assert_eq!(place.json(&["scan", "one", "two", "--no-compare"], 0)["close"], serde_json::json!([]));
    let before = place.json(&["scan", "one", "two", "--before", "2026-04-12T09:30:00Z"], 0);
    assert_eq!(ranks(&before)[0], "1 candidate pvc-b2-0000000a");
    let after = place.json(&["scan", "one", "two", "--before", "2026-04-12T11:00:00Z"], 0);
    assert_eq!(ranks(&after)[0], "1 candidate pvc-b2-0000000b");
    place.run(&["scan", "one", "--before", "yesterday"]).assert_code(2);
}

#[test]
fn a_replica_directory_with_nothing_in_it_has_a_row() {
    let place = need!(disks());
    std::fs::create_dir(place.path("one/replicas/pvc-b2-0000000d")).unwrap();
    std::fs::create_dir(place.path("one/replicas/other")).unwrap();
    std::fs::create_dir(place.path("one/pvc-b2-0000000e")).unwrap();
    let answer = place.json(&["scan", "one", "two"], 0);
    assert_eq!(ranks(&answer).len(), 6);
    let row = answer["replicas"].as_array().unwrap().iter().find(|row| row["path"].as_str().unwrap().ends_with("0d"));
    let place_of = &row.unwrap()["place"];
    assert_eq!(place_of["standing"], "salvage");
    assert_eq!(place_of["reasons"][0]["text"], "nothing in it");
    let text = place.run(&["scan", "one", "two"]).stdout;
    assert!(
        text.contains("nothing in it") && text.contains("  dirty  ") && text.contains("dirty,rebuilding"),
        "{text}"
    );
    assert!(text.contains("     chain: volume-head-001.img < volume-snap-nightly-c-20260412.img\n"), "{text}");
}

#[test]
fn a_v2_disk_is_declined_and_nothing_is_nothing() {
    let place = Place::empty();
    let mut disk = vec![0; 1 << 20];
    disk[..8].copy_from_slice(b"SPDKBLOB");
    std::fs::write(place.path("nvme"), disk).unwrap();
    for words in [&["scan", "nvme"][..], &["merge", "nvme", "-o", "x.img"], &["ls", "nvme"]] {
        let outcome = place.run(words);
        outcome.assert_code(5);
        assert!(outcome.stderr.contains("v2 engine") && outcome.stderr.contains("hint:"), "{}", outcome.stderr);
    }
    std::fs::create_dir(place.path("nothing")).unwrap();
    let outcome = place.run(&["scan", "nothing"]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("nothing of Longhorn"), "{}", outcome.stdout);
    place.run(&["scan", "absent"]).assert_code(1);
}

#[test]
fn a_replica_is_listed_once_and_what_cannot_be_read_is_said() {
    let place = need!(disks());
    assert_eq!(ranks(&place.json(&["scan", "one", "one/replicas", "two", "./one"], 0)), RANKED);
    // A file of a replica in the wrong place hides nothing.
    std::fs::write(place.path("one/volume.meta"), "{}").unwrap();
    std::fs::write(place.path("two/replicas/volume.meta"), "{}").unwrap();
    assert_eq!(ranks(&place.json(&["scan", "one", "two/replicas"], 0)), RANKED);
    // Of one that only root may read nothing is claimed.
    let lost = place.path("two/replicas/pvc-b2-0000000b");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&place.path("."), 0o755);
    mode(&lost, 0o700);
    let setpriv = need!(ha_testkit::loopmount::need_tool("setpriv"));
    let binary = place.path("binary");
    std::fs::copy(crate::BINARY, &binary).unwrap();
    let output = std::process::Command::new(setpriv)
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary)
        .args(["scan", "two", "-o", "json"])
        .current_dir(place.path("."))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = answer["replicas"].as_array().unwrap().iter().find(|row| row["volume"] == "pvc-b2").unwrap();
    let reasons = row["place"]["reasons"].as_array().unwrap();
    assert!(reasons.len() == 1 && reasons[0]["text"].to_string().contains("Permission denied"), "{row}");
}

#[test]
fn names_with_odd_bytes_are_commands_to_type() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = need!(Place::of("a1-chain.tar.zst"));
    let odd = place.path(".").join(std::ffi::OsStr::from_bytes(b"it's\xff-0000000a"));
    std::fs::rename(place.path("pvc-a1-r1"), &odd).unwrap();
    std::fs::remove_file(odd.join("volume-head-003.img")).unwrap();
    let failure = place.run(&["scan", "."]);
    let shown = failure.stdout.lines().find(|line| line.contains("$'")).unwrap();
    let word = &shown[shown.find("$'").unwrap()..];
    place.tool("bash", &["-ec", &format!("test -d {word}")]);
}
