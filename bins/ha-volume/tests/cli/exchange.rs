//! Backups that we write and Longhorn's own library restores, and the other way round; checksums of the engine.

use std::path::{Path, PathBuf};

use ha_testkit::loopmount::{FileSystem, Mounted, Skipped, loop_mount};
use ha_testkit::{need, s3};
use serde_json::{Value, json};

use crate::peer::Peer;
use crate::{Place, codes, sha256};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 48 * MIB;
const VOLUME: &str = "pvc-2f0c.exchange_1";
const PACKINGS: &[(&str, u64)] = &[
    ("lz4", 2 * MIB),
    ("gzip", 2 * MIB),
    ("none", 2 * MIB),
    ("lz4", 16 * MIB),
    ("gzip", 16 * MIB),
    ("none", 16 * MIB),
];

/// A store, and a replica on ext4 that the engine has open: one snapshot, and some data above it.
struct Scene {
    peer: Peer,
    place: Place,
    _mounted: Mounted,
    replica: PathBuf,
    /// As both sides call the store.
    target: String,
    url: String,
    environment: Vec<(&'static str, String)>,
}

impl Scene {
    /// Makes it for a directory tree.
    fn new() -> Result<Self, Skipped> {
        let mounted = loop_mount(FileSystem::Ext4, 1024 * MIB)?;
        let place = Place::in_directory(mounted.path());
        let store = place.path("store");
        std::fs::create_dir(&store).unwrap();
        let (target, url) = (store.to_str().unwrap().to_owned(), format!("vfs://{}", store.display()));
        Self::with(mounted, place, target, url, Vec::new())
    }

    fn with(
        mounted: Mounted,
        place: Place,
        target: String,
        url: String,
        environment: Vec<(&'static str, String)>,
    ) -> Result<Self, Skipped> {
        let replica = place.path("pvc-exchange-12345678");
        let borrowed: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut peer = Peer::start_with(&borrowed)?;
        peer.open(&replica, SIZE, None, false);
        peer.write(0, 3 * MIB, 1);
        peer.write(20 * MIB + 512, 100_000, 2);
        peer.write(40 * MIB, MIB, 3);
        peer.snapshot("first");
        peer.write(MIB, 8192, 0);
        peer.write(30 * MIB, 4 * MIB + 77, 4);
        Ok(Self { _mounted: mounted, place, peer, replica, target, url, environment })
    }

    fn ours(&self, words: &[&str]) -> Value {
        let mut command =
            self.place.command(&["backupstore"]).args(words).args(["--target", &self.target, "-o", "json"]);
        for (name, value) in &self.environment {
            command = command.env(name, value);
        }
        let outcome = command.run();
        outcome.assert_success();
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    /// Writes a state of the replica as a backup of ours.
    fn write(&self, name: &str, snapshot: Option<&str>, extra: &[&str]) {
        let mut words = vec!["write", self.replica.to_str().unwrap(), "--volume", VOLUME, "--name", name];
        words.extend(snapshot.iter().flat_map(|snapshot| ["--snapshot", *snapshot]));
        words.extend(extra);
        self.ours(&words);
    }

    fn url_of(&self, name: &str) -> String {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{separator}backup={name}&volume={VOLUME}", self.url)
    }

    /// Lets the library write a snapshot. Returns whether it is on top of another.
    fn their_backup(&mut self, name: &str, snapshot: &str, compression: &str, block_size: &str) -> bool {
        let answer = self.peer.tell(json!({
            "do": "backup", "target": self.url, "volume": VOLUME, "name": name, "snapshot": snapshot,
            "compression": compression, "blockSize": block_size,
            "labels": {"by": "the library", "{\"odd\"}": "ä \"=\\ \n"},
        }));
        answer["incremental"] == true
    }

    /// Lets the library restore a backup, into a file that has the one named last. Returns the sum.
    fn theirs(&mut self, name: &str, file: &Path, last: Option<&str>) -> String {
        let request =
            json!({"do": "restore", "url": self.url_of(name), "file": file, "last": last.unwrap_or_default()});
        self.peer.tell(request);
        sha256(file)
    }

    /// Checks that both sides restore a backup to this sum, and call it sound.
    fn check(&mut self, name: &str, expected: &str) {
        let file = self.place.path(&format!("theirs-{name}.img"));
        assert_eq!(self.theirs(name, &file, None), expected, "{name}, restored by the library");
        let image = format!("ours-{name}.img");
        let words = ["restore", VOLUME, name, "-o", &image, "--sha256", "--force"];
        assert_eq!(self.ours(&words)["sha256"], expected, "{name}, restored by us");
        assert_eq!(self.ours(&["verify", VOLUME, name])["sound"], true, "{name}");
    }

    /// Returns the sums of snapshots as the engine reads them; the replica is open again afterwards.
    fn sums<const N: usize>(&mut self, names: [&str; N]) -> [String; N] {
        self.peer.close();
        let sums = names.map(|name| self.peer.hash_of(&self.replica, name, None));
        self.peer.open(&self.replica, SIZE, None, false);
        sums
    }
}

/// Does something for every packing at once: the library waits two seconds before each thing it does.
fn for_each_packing(act: impl Fn(Scene, &str, u64) + Sync) {
    need!(Peer::start());
    std::thread::scope(|scope| {
        for (compression, block_size) in PACKINGS {
            scope.spawn(|| act(Scene::new().unwrap(), compression, *block_size));
        }
    });
}

#[test]
fn what_we_write_longhorn_restores() {
    for_each_packing(|mut scene, compression, block_size| {
        let [first] = scene.sums(["first"]);
        let live = scene.peer.hash();
        assert_ne!(first, live);
        let size = format!("{}MiB", block_size / MIB);
        let packing = ["--compression", compression, "--block-size", &size];
        let odd = r#"KubernetesStatus={"pvName":"a\"b","ä":"\\ = "}"#;
        scene.write("of-a.Snapshot_1", Some("first"), &[&packing[..], &["--label", odd, "--label", "empty="]].concat());
        scene.write("0live", None, &packing);
        scene.check("of-a.Snapshot_1", &first);
        scene.check("0live", &live);
        let url = scene.url_of("of-a.Snapshot_1");
        let seen = scene.peer.tell(json!({"do": "inspect", "url": url}));
        let backup = &seen["backup"];
        assert_eq!(backup["Labels"]["KubernetesStatus"], r#"{"pvName":"a\"b","ä":"\\ = "}"#, "{seen}");
        assert_eq!(backup["Labels"]["empty"], "", "{seen}");
        assert_eq!(backup["CompressionMethod"], compression, "{seen}");
        assert_eq!(backup["Parameters"]["backup-block-size"], block_size.to_string(), "{seen}");
        assert_eq!((&backup["SnapshotName"], &backup["IsIncremental"]), (&json!("first"), &json!(false)), "{seen}");
        assert_eq!(backup["VolumeSize"], SIZE.to_string(), "{seen}");
        let volume = &seen["volume"];
        assert_eq!((&volume["LastBackupName"], &volume["DataEngine"]), (&json!("0live"), &json!("v1")), "{seen}");
        let listed = scene.peer.tell(json!({"do": "list", "target": scene.url}));
        let names: Vec<&String> = listed[VOLUME]["Backups"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["0live", "of-a.Snapshot_1"], "{listed}");
    });
}

#[test]
fn what_longhorn_writes_we_restore() {
    for_each_packing(|mut scene, compression, block_size| {
        let size = block_size.to_string();
        // As a quantity of Kubernetes it is the same.
        let form = if block_size == 16 * MIB { "16Mi" } else { &size };
        scene.peer.snapshot("second");
        let sums = scene.sums(["first", "second"]);
        assert!(!scene.their_backup("backup-1", "first", compression, &size));
        assert!(scene.their_backup("backup-2", "second", compression, form));
        scene.check("backup-1", &sums[0]);
        scene.check("backup-2", &sums[1]);
        let listed = scene.ours(&["ls", VOLUME]);
        let backups = &listed["volumes"][0]["backups"];
        assert_eq!(backups[1]["labels"]["{\"odd\"}"], "ä \"=\\ \n", "{listed}");
        assert_eq!((&backups[0]["incremental"], &backups[1]["incremental"]), (&json!(false), &json!(true)));
        damage(&scene);
    });
}

/// Damages every block in turn: it is named, and nothing is restored.
fn damage(scene: &Scene) {
    let output = std::process::Command::new("find").arg(&scene.target).args(["-name", "*.blk"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().count() > 2, "{text}");
    let words = ["backupstore", "verify", VOLUME, "backup-2", "--target", &scene.target];
    let mut named = 0;
    for block in text.lines() {
        let good = std::fs::read(block).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 4;
        std::fs::write(block, flipped).unwrap();
        let outcome = scene.place.command(&words).args(["-o", "json"]).run();
        let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
        // A block of the first backup alone is none of the second.
        let faults = answer["backups"][0]["faults"].as_array().unwrap();
        if let Some(fault) = faults.first() {
            let name = Path::new(block).file_name().unwrap().to_str().unwrap();
            assert!(faults.len() == 1 && fault.as_str().unwrap().contains(name), "{answer}");
            outcome.assert_code(3);
            named += 1;
        }
        std::fs::write(block, good).unwrap();
    }
    assert!(named > 1, "{named} blocks were named");
}

#[test]
fn backups_of_both_lie_on_top_of_each_other() {
    let mut scene = need!(Scene::new());
    scene.write("ours-1", Some("first"), &["--compression", "gzip"]);
    // The engine has the snapshot of our backup, so its own holds what was changed since.
    scene.peer.write(40 * MIB, 4096, 9);
    scene.peer.snapshot("second");
    assert!(scene.their_backup("theirs-2", "second", "lz4", ""));
    scene.peer.write(0, 2 * MIB, 0);
    scene.peer.tell(json!({"do": "discard", "offset": 30 * MIB, "length": 2 * MIB}));
    scene.peer.snapshot("third");
    let [first, second, third] = scene.sums(["first", "second", "third"]);
    scene.write("ours-3", Some("third"), &[]);
    scene.peer.write(7 * MIB, 5 * MIB, 11);
    scene.peer.snapshot("fourth");
    assert!(scene.their_backup("theirs-4", "fourth", "lz4", ""));
    let [fourth] = scene.sums(["fourth"]);
    let all = [("ours-1", first), ("theirs-2", second), ("ours-3", third), ("theirs-4", fourth)];
    for (name, sum) in &all {
        scene.check(name, sum);
    }
    // A standby volume takes only what differs.
    let file = scene.place.path("standby.img");
    let mut last = None;
    for (name, sum) in &all {
        assert_eq!(scene.theirs(name, &file, last), *sum, "{name} on top of {last:?}");
        last = Some(name);
    }
    // The library removes blocks that nobody has any more, and keeps ours.
    scene.peer.tell(json!({"do": "delete-backup", "url": scene.url_of("theirs-2")}));
    scene.peer.tell(json!({"do": "delete-backup", "url": scene.url_of("ours-1")}));
    for (name, sum) in &all[2..] {
        scene.check(name, sum);
    }
    let listed = scene.ours(&["ls", VOLUME]);
    assert_eq!(listed["volumes"][0]["backups"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(listed["volumes"][0]["last_backup"], "theirs-4", "{listed}");
}

#[test]
fn longhorn_builds_on_no_backup_that_is_a_best_effort() {
    let mut scene = need!(Scene::new());
    // Zeros that hide what was written before.
    scene.peer.snapshot("zeroed");
    let [zeroed] = scene.sums(["zeroed"]);
    let replica = scene.replica.to_str().unwrap();
    let words = ["backupstore", "write", replica, "--snapshot", "zeroed", "--zeros-are-holes", "--volume", VOLUME];
    let more = ["--despite-damage", "--name", "effort", "--target", &scene.target];
    let outcome = scene.place.command(&words).args(more).run();
    outcome.assert_code(3);
    let file = scene.place.path("effort.img");
    assert_ne!(scene.theirs("effort", &file, None), zeroed);
    scene.peer.write(10 * MIB, 4096, 20);
    scene.peer.snapshot("later");
    let [later] = scene.sums(["later"]);
    assert!(!scene.their_backup("theirs", "later", "lz4", ""));
    scene.check("theirs", &later);
}

#[test]
fn an_image_of_any_size_is_restored_by_longhorn() {
    let mut scene = need!(Scene::new());
    let mut content: Vec<u8> = (0..5 * MIB + 4096 + 512).map(|at| (at / 700) as u8).collect();
    std::fs::write(scene.place.path("odd.img"), &content).unwrap();
    scene.ours(&["write", "odd.img", "--volume", VOLUME, "--name", "odd"]);
    let file = scene.place.path("restored.img");
    scene.theirs("odd", &file, None);
    content.resize(6 << 20, 0);
    assert!(std::fs::read(&file).unwrap() == content, "filled up with zeros to whole blocks");
    // Longhorn could not restore these.
    let image = scene.place.path("odd.img");
    for words in [["--block-size", "16MiB", "--name", "b1"], ["--block-size", "2MiB", "--name", "b"]] {
        let outcome = scene
            .place
            .command(&["backupstore", "write", image.to_str().unwrap(), "--volume", "pvc-other"])
            .args(words)
            .args(["--target", &scene.target])
            .run();
        assert_eq!(outcome.code(), Some(2), "{words:?}: {}", outcome.stderr);
    }
    let listed = scene.peer.tell(json!({"do": "list", "target": scene.url}));
    assert_eq!(listed.as_object().unwrap().len(), 1, "{listed}");
}

#[test]
fn both_use_one_object_store() {
    let region = "eu-test-1";
    let server = need!(s3::Server::start(region));
    let bucket = server.bucket("backups");
    let target = format!("s3://backups@{region}/home/lab/");
    let environment = vec![
        ("AWS_ENDPOINTS", server.endpoint()),
        ("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", s3::SECRET_KEY.to_owned()),
    ];
    let mounted = need!(loop_mount(FileSystem::Ext4, 1024 * MIB));
    let place = Place::in_directory(mounted.path());
    let mut scene = need!(Scene::with(mounted, place, target.clone(), target, environment));
    scene.write("ours-1", Some("first"), &[]);
    scene.peer.snapshot("second");
    assert!(scene.their_backup("theirs-2", "second", "lz4", ""));
    let [first, second] = scene.sums(["first", "second"]);
    scene.check("ours-1", &first);
    scene.check("theirs-2", &second);
    let listed = scene.ours(&["ls"]);
    assert_eq!(listed["volumes"][0]["backups"].as_array().unwrap().len(), 2, "{listed}");
    assert!(bucket.join("home/lab/backupstore/volumes").is_dir());
}

/// Lets the engine compute the checksum of a snapshot, in a process that sees nothing but the place.
fn checksum(scene: &Scene, name: &str) -> String {
    let mut peer = Peer::start().unwrap();
    let root = scene.place.path("");
    let sum = peer.tell(json!({"do": "checksum", "root": root, "directory": scene.replica, "name": name}));
    sum.as_str().unwrap().to_owned()
}

#[test]
fn checksums_of_the_engine_are_verified_and_stale_after_a_purge() {
    let mut scene = need!(Scene::new());
    scene.peer.snapshot("second");
    scene.peer.write(0, 4096, 12);
    scene.peer.snapshot("third");
    let state = |scene: &Scene, layer: &str| {
        let answer = scene.place.json(&["inspect", scene.replica.to_str().unwrap()], 0);
        let layers = answer["layers"].as_array().unwrap();
        let found = layers.iter().find(|other| other["name"] == format!("volume-snap-{layer}.img")).unwrap();
        (found["checksum"]["state"].as_str().unwrap().to_owned(), codes(&answer))
    };
    for layer in ["first", "second", "third"] {
        assert_eq!(checksum(&scene, layer).len(), 16);
        assert_eq!(state(&scene, layer), ("verified".to_owned(), vec!["dirty".to_owned()]), "{layer}");
    }
    let before = checksum(&scene, "second");
    // The second takes in what the first had.
    assert_eq!(scene.peer.purge("first"), json!(["coalesce", "replace"]));
    assert_eq!(state(&scene, "second").0, "stale");
    assert!(state(&scene, "second").1.contains(&"checksum-stale".to_owned()));
    assert_eq!(state(&scene, "third").0, "verified");
    let [second] = scene.sums(["second"]);
    let words = ["merge", scene.replica.to_str().unwrap(), "--snapshot", "second", "-o", "x.img", "--sha256"];
    assert_eq!(scene.place.json(&words, 0)["sha256"], second);
    assert_ne!(checksum(&scene, "second"), before);
    assert_eq!(state(&scene, "second").0, "verified");
}
