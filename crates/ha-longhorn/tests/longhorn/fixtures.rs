//! Every replica that the real engine made: files as packed, chain, merge.

use std::ffi::OsStr;

use ha_longhorn::extent::{self, Method};
use ha_longhorn::finding::Severity;
use ha_longhorn::layered::{Image as _, Reading};
use ha_longhorn::merge::{self, Format, Order, Source};
use ha_longhorn::replica::Replica;
use ha_longhorn::source::SourceFile;
use ha_longhorn::watch::Unwatched;
use ha_testkit::longhorn::{REPLICAS, extract};
use ha_testkit::need;
use sha2::{Digest as _, Sha256};

use crate::manifest::manifest;
use crate::{layered, sha256, sha256_of};

fn text_sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn archives_bring_the_extents_back() {
    let manifest = manifest();
    for (archive, inside, name) in REPLICAS {
        let directory = tempfile::tempdir().unwrap();
        need!(extract(archive, directory.path()));
        for (file, expected) in &manifest.replicas[*name].files {
            let source = SourceFile::open(&directory.path().join(inside).join(file)).unwrap();
            assert_eq!(source.size(), expected.size, "{name}/{file}");
            assert_eq!(sha256_of(source.path()), expected.sha256, "{name}/{file}");
            let Some(extents) = expected.data_extents else { continue };
            let totals = extent::totals(&source).unwrap();
            assert_eq!((totals.extents, totals.bytes), (extents, expected.data_bytes.unwrap()), "{name}/{file}");
            let mut list = Vec::new();
            extent::for_each(&source, totals.method, |extent| {
                list.push(format!("[{}, {}]", extent.start, extent.end));
                Ok::<_, ha_sync_fs::FsError>(())
            })
            .unwrap();
            let list = format!("[{}]", list.join(", "));
            assert_eq!(text_sha256(&list), *expected.extents_sha256.as_ref().unwrap(), "{name}/{file}");
            assert!(matches!(totals.method, Method::Fiemap | Method::SeekData));
        }
    }
}

#[test]
fn every_replica_merges_to_the_sum_of_the_manifest() {
    let manifest = manifest();
    for (archive, inside, name) in REPLICAS {
        let directory = tempfile::tempdir().unwrap();
        need!(extract(archive, directory.path()));
        let expected = &manifest.replicas[*name];
        let replica = Replica::open(&directory.path().join(inside), None).unwrap();
        assert_eq!(replica.chain.as_ref().unwrap(), &expected.chain_head_first, "{name}");
        let below = match *name {
            "pvc-e5raw-r1" => Some(directory.path().join("back/base.raw")),
            "pvc-e5qcow2-r1" => Some(directory.path().join("back/base.qcow2")),
            _ => None,
        };
        assert_eq!(replica.backing_path().is_some(), below.is_some(), "{name}");
        let mut image = layered(&replica, None, below.as_deref(), Reading::Exact);
        assert_eq!(sha256(&mut image), expected.merged_sha256, "{name}");
        for format in [Format::Raw, Format::Qcow2] {
            let path = directory.path().join(format!("{format:?}.image"));
            let source = Source {
                directory: (*name).to_owned(),
                chain: Vec::new(),
                backing: None,
                best_effort: false,
                despite_damage: false,
                fingerprint: merge::fingerprint(&image, "exact"),
            };
            let order = Order { format, whole_hash: true, replace: false, checkpoint: 1 << 30, durable: false, source };
            let done = merge::to_file(&mut image, &path, &order, &Unwatched, &|_| None).unwrap();
            assert_eq!(done.marker.sha256.as_deref(), Some(expected.merged_sha256.as_str()), "{name} {format:?}");
            assert_eq!(sha256_of(&path), expected.merged_sha256, "{name} {format:?}");
            let mut again = ha_longhorn::backing::open(&path).unwrap();
            assert_eq!(again.size(), replica.size);
            let hashes = merge::hash(&mut *again, false, &Unwatched).unwrap();
            assert_eq!(hashes.blocks_blake3, done.marker.blocks_blake3, "{name} {format:?}");
        }
        // The other reading gives what the wrong script gives, where there is no backing image; it is never the default.
        let mut wrong = layered(&replica, None, below.as_deref(), Reading::ZerosAreHoles);
        let sum = sha256(&mut wrong);
        assert_eq!(sum, expected.wrong_sha256, "{name}");
        assert_eq!(wrong.ambiguous(), expected.wrong_blocks, "{name}");
    }
}

#[test]
fn what_is_odd_is_found() {
    for (archive, inside, name) in REPLICAS {
        let directory = tempfile::tempdir().unwrap();
        need!(extract(archive, directory.path()));
        let replica = Replica::open(&directory.path().join(inside), None).unwrap();
        let odd: Vec<String> = replica
            .findings
            .iter()
            .filter(|finding| finding.severity() > Severity::Note)
            .map(|finding| finding.to_string())
            .collect();
        let expected: &[&str] = match *name {
            "pvc-c3-r2" => &[
                "not part of the live chain: volume-snap-s2.img; layer without its image: volume-snap-s1.img",
                "snapshots beside the chain, as a rebuild that was cut off leaves them: volume-snap-s2.img",
                "it was being rebuilt from another replica",
            ],
            _ => &[],
        };
        assert_eq!(odd, expected, "{name}");
    }
}

#[test]
fn reads_anywhere_give_what_a_whole_read_gives() {
    let directory = tempfile::tempdir().unwrap();
    need!(extract("a1-chain.tar.zst", directory.path()));
    let replica = Replica::open(&directory.path().join("pvc-a1-r1"), None).unwrap();
    for reading in [Reading::Exact, Reading::ZerosAreHoles] {
        let mut image = layered(&replica, None, None, reading);
        let mut whole = vec![0; usize::try_from(image.size()).unwrap()];
        image.read_at(0, &mut whole).unwrap();
        let mut state = 1_u64;
        for _ in 0..3000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let position = (state >> 20) as usize % whole.len();
            let length = ((state >> 10) as usize % 20_000).min(whole.len() - position);
            let mut part = vec![1; length];
            image.read_at(position as u64, &mut part).unwrap();
            assert!(part == whole[position..position + length], "{position} {length}");
        }
    }
    assert!(SourceFile::open_in(replica.directory(), OsStr::new("nothing")).is_err());
}
