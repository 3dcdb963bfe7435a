//! `ls`, `cat`, `extract`, `compare` and `fsck` on the files inside.

use ha_testkit::need;
use serde_json::Value;

use crate::{Place, manifest, sha256};

/// Returns path and SHA-256 of each file of a list of the manifest.
fn listed(list: &str) -> Vec<(String, String)> {
    let lines = manifest()["files_sha256"][list].clone();
    let line = |line: &Value| {
        let (sum, path) = line.as_str().unwrap().split_once("  ./").unwrap();
        (path.to_owned(), sum.to_owned())
    };
    lines.as_array().unwrap().iter().map(line).collect()
}

#[test]
fn the_files_inside_are_right_without_merging() {
    for (archive, inside, list, more) in [
        ("a1-chain.tar.zst", "pvc-a1-r1", "pvc-a1.files.sha256", &[][..]),
        ("b2-powercut.tar.zst", "pvc-b2-r1", "pvc-b2.synced.sha256", &[]),
        ("b2-powercut.tar.zst", "pvc-b2-r2", "pvc-b2.synced.sha256", &[]),
        ("c3-rebuilding.tar.zst", "pvc-c3-r1", "pvc-c3.files.sha256", &[]),
        ("d4-expanded.tar.zst", "pvc-d4-r1", "pvc-d4.files.sha256", &[]),
        ("e5-backing.tar.zst", "rep/pvc-e5raw-r1", "pvc-e5raw.files.sha256", &["--backing", "back/base.raw"]),
        ("e5-backing.tar.zst", "rep/pvc-e5qcow2-r1", "pvc-e5qcow2.files.sha256", &["--backing", "back/base.qcow2"]),
    ] {
        let place = need!(Place::of(archive));
        place.command(&["extract", inside, "/", "out"]).args(more).run().assert_success();
        let expected = listed(list);
        assert!(!expected.is_empty());
        for (path, sum) in &expected {
            assert_eq!(sha256(&place.path("out").join(path)), *sum, "{inside}/{path}");
        }
        let (path, sum) = &expected[0];
        let outcome = place.command(&["cat", inside, path]).args(more).run();
        outcome.assert_success();
        std::fs::write(place.path("cat"), &outcome.stdout_bytes).unwrap();
        assert_eq!(sha256(&place.path("cat")), *sum);
        let names = place.json(&[&["ls", "-R", inside], more].concat(), 0);
        let names: Vec<&str> = names.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
        for (path, _) in &expected {
            assert!(names.contains(&format!("/{path}").as_str()), "{names:?}");
        }
    }
}

#[test]
fn the_journal_is_replayed_on_a_copy_and_never_skipped() {
    let place = need!(Place::of("b2-powercut.tar.zst"));
    need!(ha_testkit::loopmount::need_tool("e2fsck"));
    place.settle("pvc-b2-r1/*");
    let before = ha_testkit::tree::Snapshot::of(&place.path("pvc-b2-r1"));
    let listing = place.run(&["ls", "-R", "pvc-b2-r1"]);
    listing.assert_success();
    assert!(listing.stderr.contains("the journal is not in its place yet"), "{}", listing.stderr);
    let answer = place.json(&["fsck", "--replay", "pvc-b2-r1", "-o", "copy.img"], 0);
    assert_eq!((&answer["needed_recovery"], &answer["replayed"]), (&Value::Bool(true), &Value::Bool(true)));
    // No marker stands beside an image that was changed after it.
    assert!(!place.path("copy.img.ha-volume.json").exists());
    place.tool("e2fsck", &["-f", "-n", "copy.img"]);
    // What e2fsck replayed is what was laid over the blocks in memory.
    let replayed = place.run(&["ls", "-R", "copy.img"]);
    replayed.assert_success();
    assert_eq!(listing.stdout, replayed.stdout);
    assert!(replayed.stderr.is_empty(), "{}", replayed.stderr);
    for source in ["pvc-b2-r1", "copy.img"] {
        place.run(&["extract", source, "/app", &format!("{source}.out")]).assert_success();
    }
    place.tool("diff", &["-r", "pvc-b2-r1.out", "copy.img.out"]);
    before.assert_same(&ha_testkit::tree::Snapshot::of(&place.path("pvc-b2-r1")));
    place.run(&["fsck", "pvc-b2-r1", "-o", "x.img"]).assert_code(2);
}

#[test]
fn compare_names_blocks_and_files() {
    let place = need!(Place::of("b2-powercut.tar.zst"));
    let answer = place.json(&["compare", "pvc-b2-r1", "pvc-b2-r2"], 0);
    assert_eq!(answer["same"], false);
    let files = answer["files"].as_array().unwrap();
    let only_left: Vec<&str> =
        files.iter().filter(|file| file["what"] == "only-left").map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(only_left, ["/app/late91", "/app/late92", "/app/late93"]);
    // cmp counts the same blocks.
    for (replica, image) in [("pvc-b2-r1", "1.img"), ("pvc-b2-r2", "2.img")] {
        place.run(&["merge", replica, "-o", image]).assert_success();
    }
    let (one, two) = (std::fs::read(place.path("1.img")).unwrap(), std::fs::read(place.path("2.img")).unwrap());
    let blocks = one.chunks(4096).zip(two.chunks(4096)).filter(|(a, b)| a != b).count();
    assert_eq!(answer["blocks"]["blocks"], blocks);
    assert_eq!(place.json(&["compare", "1.img", "pvc-b2-r1"], 0)["same"], true);
    place.run(&["merge", "pvc-b2-r1", "-o", "1.qcow2", "--output-format", "qcow2"]).assert_success();
    assert_eq!(place.json(&["compare", "1.qcow2", "pvc-b2-r1"], 0)["same"], true);
    // What is for replica directories is for that side; each side has its own too.
    let snapshot = "nightly-c-20260412";
    let old = place.json(&["compare", "1.img", "pvc-b2-r1", "--snapshot", snapshot], 0);
    assert_eq!(old["same"], false);
    let of_right = place.json(&["compare", "pvc-b2-r1", "pvc-b2-r1", "--right-snapshot", snapshot], 0);
    assert_eq!(of_right["blocks"], old["blocks"]);
    let both = place.json(&["compare", "pvc-b2-r1", "pvc-b2-r1", "--snapshot", snapshot], 0);
    assert_eq!(both["same"], true);
    place.run(&["compare", "1.img", "2.img", "--snapshot", snapshot]).assert_code(2);
    let outcome = place.run(&["compare", "1.img", "2.img", "--blocks-only"]);
    outcome.assert_success();
    assert!(!outcome.stdout.contains("entries differ"), "{}", outcome.stdout);
}

#[test]
fn what_is_extracted_keeps_its_holes_and_gets_its_name_last() {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::empty();
    need!(ha_testkit::loopmount::need_tool("mke2fs"));
    std::fs::create_dir(place.path("tree")).unwrap();
    let file = std::fs::File::create(place.path("tree/sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    for (at, bytes) in [(5_000_u64, &b"one"[..]), (40 << 20, b"two"), ((50 << 20) - 1, b"three")] {
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
    }
    place.tool("mke2fs", &["-q", "-t", "ext4", "-d", "tree", "x.img", "96M"]);
    place.run(&["extract", "x.img", "/", "out"]).assert_success();
    assert_eq!(sha256(&place.path("out/sparse")), sha256(&place.path("tree/sparse")));
    let entry = std::fs::metadata(place.path("out/sparse")).unwrap();
    assert!(entry.blocks() * 512 < 1 << 20, "{} blocks", entry.blocks());
    assert!(!place.path("out.ha-volume.part").exists());
    // What an interrupted one has left is not taken for it.
    std::fs::create_dir(place.path("again.ha-volume.part")).unwrap();
    let outcome = place.run(&["extract", "x.img", "/", "again"]);
    outcome.assert_code(5);
    assert!(!place.path("again").exists() && outcome.stderr.contains("again.ha-volume.part"), "{}", outcome.stderr);
}

#[test]
fn space_that_was_never_written_reads_as_zeros() {
    use std::os::unix::fs::FileExt as _;
    let place = Place::empty();
    place.tool("truncate", &["-s", "16M", "x.img"]);
    place.tool("mke2fs", &["-q", "-t", "ext4", "x.img"]);
    std::fs::create_dir(place.path("mnt")).unwrap();
    let mounted = need!(ha_testkit::loopmount::mount_file(&place.path("x.img"), &place.path("mnt"), "rw"));
    // What lies in the space: the text of a file that is deleted.
    let text = b"somebody's secret ".repeat(600_000);
    std::fs::write(place.path("mnt/secret"), &text).unwrap();
    place.tool("sync", &["-f", "mnt"]);
    std::fs::remove_file(place.path("mnt/secret")).unwrap();
    place.tool("sync", &["-f", "mnt"]);
    place.tool("fallocate", &["-l", "8M", "mnt/preallocated"]);
    place.tool("fallocate", &["-l", "100K", "mnt/partly"]);
    let partly = std::fs::File::options().write(true).open(place.path("mnt/partly")).unwrap();
    partly.write_all_at(b"in the middle", 50_000).unwrap();
    partly.write_all_at(b"behind", 150_000).unwrap();
    drop(partly);
    place.tool("sync", &["-f", "mnt"]);
    let names = ["preallocated", "partly"];
    let expected = names.map(|name| sha256(&place.path("mnt").join(name)));
    drop(mounted);
    for (name, expected) in names.iter().zip(expected) {
        let outcome = place.run(&["cat", "x.img", name]);
        outcome.assert_success();
        std::fs::write(place.path("cat"), &outcome.stdout_bytes).unwrap();
        assert_eq!(sha256(&place.path("cat")), expected, "{name}");
    }
    place.run(&["extract", "x.img", "/partly", "out"]).assert_success();
    assert_eq!(std::fs::read(place.path("out")).unwrap(), std::fs::read(place.path("cat")).unwrap());
}

#[test]
fn what_changes_while_it_is_read_is_not_trusted() {
    use std::os::unix::fs::FileExt as _;
    let place = need!(Place::of("a1-chain.tar.zst"));
    // The pipe holds less than the file: it waits in the middle.
    let fifo = std::process::Command::new(crate::BINARY)
        .args(["cat", "pvc-a1-r1", "/rand.bin"])
        .current_dir(place.path("."))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let head = place.path("pvc-a1-r1/volume-head-003.img");
    std::fs::File::options().write(true).open(head).unwrap().write_all_at(&[1; 4096], 100 << 20).unwrap();
    let output = fifo.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{errors}");
    assert!(errors.contains("changed while it was read"), "{errors}");
}

#[test]
fn what_is_not_ext4_halts_with_the_next_step() {
    let place = Place::empty();
    let write = |name: &str, at: usize, magic: &[u8]| {
        let mut image = vec![0; 1 << 20];
        image[at..at + magic.len()].copy_from_slice(magic);
        std::fs::write(place.path(name), image).unwrap();
    };
    write("luks", 0, b"LUKS\xba\xbe\x00\x02");
    write("xfs", 0, b"XFSB");
    write("btrfs", 65_600, b"_BHRfS_M");
    write("table", 510, &[0x55, 0xaa]);
    write("zeros", 0, &[]);
    write("noise", 0, b"noise");
    for (name, word) in [
        ("luks", "cryptsetup open"),
        ("xfs", "mount -o loop,nouuid"),
        ("btrfs", "mount -o loop"),
        ("table", "losetup"),
        ("zeros", "only zeros"),
        ("noise", "no known file system"),
    ] {
        for words in [&["ls", name][..], &["cat", name, "/x"], &["extract", name, "/", "out"]] {
            let outcome = place.run(words);
            outcome.assert_code(5);
            assert!(outcome.stderr.contains(word), "{name}: {}", outcome.stderr);
        }
        place.run(&["fsck", "--replay", name, "-o", "out.img"]).assert_code(5);
    }
    assert!(!place.path("out").exists() && !place.path("out.img").exists());
}

#[test]
fn what_is_there_is_not_replaced_and_what_is_absent_is_said() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    std::fs::create_dir(place.path("there")).unwrap();
    place.run(&["extract", "pvc-a1-r1", "/", "there"]).assert_code(5);
    let outcome = place.run(&["cat", "pvc-a1-r1", "/nothing"]);
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("file not found") && outcome.stderr.contains("ls -R"), "{}", outcome.stderr);
    place.run(&["ls", "pvc-a1-r1", "/db/seg2/x"]).assert_code(1);
    // An older state has other files.
    let now = place.run(&["ls", "-R", "pvc-a1-r1"]).stdout;
    let then = place.run(&["ls", "-R", "pvc-a1-r1", "--snapshot", "snap-one"]);
    then.assert_success();
    assert!(now.contains("head.txt") && !then.stdout.contains("head.txt"), "{}", then.stdout);
}
