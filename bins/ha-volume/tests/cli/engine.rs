//! Random programs on the real engine: what we read of a replica is what the engine serves of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ha_testkit::loopmount::{FileSystem, Mounted, Skipped, loop_mount, need_tool, tmpfs};
use ha_testkit::need;
use serde_json::{Value, json};

use crate::peer::Peer;
use crate::{Place, codes};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
const WHOLE: &str = "the whole volume:";

/// SplitMix64: the same programs on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % below
    }

    fn pick<'a>(&mut self, from: &'a [String]) -> Option<&'a String> {
        from.get(self.roll(from.len().max(1) as u64) as usize)
    }
}

/// How often something happened over all programs: none of it may be left out by the dice.
type Counts = BTreeMap<&'static str, u32>;

struct Program<'a> {
    place: &'a Place,
    dice: Dice,
    counts: &'a mut Counts,
    directory: PathBuf,
    backing: Option<PathBuf>,
    counter: bool,
    peer: Peer,
    size: u64,
    next: u64,
    /// What was done, to be printed when something differs.
    log: String,
}

impl Program<'_> {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn tell(&mut self, request: Value) -> Value {
        writeln!(self.log, "{request}").unwrap();
        self.peer.ask(&request).unwrap_or_else(|error| panic!("{error}\n{}", self.log))
    }

    /// Returns the names of the snapshots: of all, or of those that no user has removed.
    fn snapshots(&mut self, removed_too: bool) -> Vec<String> {
        let disks = self.peer.tell(json!({"do": "disks"}));
        let disks = disks.as_object().unwrap().iter();
        let kept = disks.filter(|(_, disk)| removed_too || disk["removed"] == false).map(|(file, _)| file);
        kept.filter_map(|file| Some(file.strip_prefix("volume-snap-")?.strip_suffix(".img")?.to_owned())).collect()
    }

    fn write(&mut self, offset: u64, length: u64, kind: &'static str) {
        let length = length.min(self.size - offset);
        self.next += 1;
        let seed = if kind == "zeros" { 0 } else { self.next };
        self.tell(json!({"do": "write", "offset": offset, "length": length, "seed": seed}));
        self.count(kind);
    }

    fn step(&mut self) {
        let block = self.dice.roll(self.size / BLOCK) * BLOCK;
        let run = (1 + self.dice.roll(48)) * BLOCK;
        match self.dice.roll(100) {
            0..26 => self.write(block, run, "write"),
            26..40 => self.write(block, run, "zeros"),
            40..54 => {
                let (offset, length) = (self.dice.roll(self.size), 1 + self.dice.roll(5 * BLOCK));
                self.write(offset, length, "unaligned");
            }
            54..70 => {
                // Also across what is written, and with ends inside of blocks.
                let unaligned = self.dice.roll(3) == 0;
                let offset = if unaligned { self.dice.roll(self.size) } else { block };
                let length = (4 * run + if unaligned { 777 } else { 0 }).min(self.size - offset);
                self.tell(json!({"do": "discard", "offset": offset, "length": length}));
                self.count("discard");
            }
            70..81 => {
                self.next += 1;
                // What Longhorn calls them: of a user, of a recurring job.
                let name = match self.dice.roll(2) {
                    0 => format!("snap-{}", self.next),
                    _ => format!("nightly-c-1dd1fa1c-8b33-4c5e.{}_a", self.next),
                };
                self.tell(json!({"do": "snapshot", "name": name, "labels": {"RecurringJob": "ni\"ghtly, ä"}}));
                self.count("snapshot");
            }
            81..85 => {
                let snapshots = self.snapshots(false);
                let Some(name) = self.dice.pick(&snapshots) else { return };
                self.tell(json!({"do": "revert", "name": name}));
                self.count("revert");
            }
            85..89 => {
                let snapshots = self.snapshots(true);
                let Some(name) = self.dice.pick(&snapshots) else { return };
                self.tell(json!({"do": "remove", "name": name}));
                self.count("remove");
            }
            89..94 => {
                for action in self.tell(json!({"do": "purge"})).as_array().unwrap() {
                    self.count(match action.as_str().unwrap() {
                        "coalesce" => "coalesce",
                        "prune" => "prune",
                        "remove" => "remove a leaf",
                        _ => "replace",
                    });
                }
            }
            94..96 => {
                self.size += (1 + self.dice.roll(3)) * MIB;
                self.tell(json!({"do": "expand", "size": self.size}));
                self.count("expand");
            }
            96..99 => {
                self.tell(json!({"do": "close"}));
                let (directory, backing) = (self.directory.clone(), self.backing.clone());
                self.peer.open(&directory, self.size, backing.as_deref(), self.counter);
                self.count("reopen");
            }
            _ => {
                writeln!(self.log, "{WHOLE}").unwrap();
                self.write(0, self.size, "all of it");
            }
        }
    }

    /// Returns what we make of the live state or a snapshot.
    fn ours(&self, snapshot: Option<&str>, extra: &[&str]) -> String {
        let directory = self.directory.to_str().unwrap();
        let mut words = vec!["merge", directory, "-o", "x.img", "--sha256", "--force", "--fsync", "off"];
        words.extend(self.backing.iter().flat_map(|backing| ["--backing", backing.to_str().unwrap()]));
        words.extend(snapshot.iter().flat_map(|name| ["--snapshot", *name]));
        words.extend(extra);
        let outcome = self.place.command(&words).args(["-o", "json"]).run();
        let code = if extra.is_empty() { 0 } else { 3 };
        assert_eq!(outcome.code(), Some(code), "{words:?}: {}{}\n{}", outcome.stdout, outcome.stderr, self.log);
        let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
        answer["sha256"].as_str().unwrap().to_owned()
    }

    /// Checks that nothing is called odd but what is true. Returns whether it is taken for a copy that lost its holes,
    /// which cannot be told from a volume that was written whole.
    fn check_words(&mut self, killed: bool) -> bool {
        let directory = self.directory.to_str().unwrap();
        let outcome = self.place.command(&["inspect", directory, "-o", "json"]).run();
        let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let codes = codes(&answer);
        let written_whole = self.log.contains(WHOLE);
        for code in &codes {
            let true_here = match code.as_str() {
                "dirty" => killed,
                "off-chain" => self.log.contains("\"revert\""),
                "backing-needed" => self.backing.is_some(),
                "densified" | "hides-all" => written_whole,
                _ => false,
            };
            assert!(true_here, "{code}: {answer}\n{}", self.log);
        }
        let copied = codes.contains(&"densified".to_owned());
        assert_eq!(outcome.code(), Some(if copied { 3 } else { 0 }), "{answer}\n{}", self.log);
        if copied {
            *self.counts.entry("like a copy").or_default() += 1;
        }
        let replicas = self.directory.parent().unwrap().to_str().unwrap();
        let outcome = self.place.command(&["scan", replicas, "-o", "json"]).run();
        let scanned: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(scanned["replicas"][0]["size"].as_u64(), Some(self.size), "{scanned}");
        let standing = if copied { "salvage" } else { "candidate" };
        assert_eq!(scanned["replicas"][0]["place"]["standing"], standing, "{scanned}");
        copied
    }

    fn check(mut self) {
        let killed = self.dice.roll(2) == 0;
        let every = self.snapshots(true);
        if killed {
            self.peer = Peer::start().unwrap();
        } else {
            self.peer.close();
        }
        let extra: &[&str] = if self.check_words(killed) { &["--despite-damage"] } else { &[] };
        // At most so many states of one program, so that the time is bounded.
        let snapshots: Vec<String> = (0..3).filter_map(|_| self.dice.pick(&every).cloned()).collect();
        let found = self.ours(None, extra);
        let states: Vec<_> = snapshots.iter().map(|name| (name, self.ours(Some(name), extra))).collect();
        let wrong = self.ours(None, &["--zeros-are-holes", "--despite-damage"]);
        let copy = self.directory.with_file_name("copied-87654321");
        let words = ["copy", self.directory.to_str().unwrap(), copy.to_str().unwrap()];
        self.place.run(&words).assert_success();
        let backing = self.backing.clone();
        for directory in [self.directory.clone(), copy] {
            // Not changed by us, and not by a copy of ours.
            for (name, found) in &states {
                let expected = self.peer.hash_of(&directory, name, backing.as_deref());
                assert!(*found == expected, "{name} in {}:\n{}", directory.display(), self.log);
            }
            self.peer.open(&directory, self.size, backing.as_deref(), self.counter);
            assert!(found == self.peer.hash(), "{}:\n{}", directory.display(), self.log);
            self.peer.close();
        }
        self.count(if killed { "killed" } else { "closed" });
        if wrong != found {
            self.count("zeros hide something");
        }
    }
}

/// Makes an image of these many bytes that lies under a volume; it has data and zeros and no end of a block.
fn backing_image(place: &Place, to: &Path, size: u64, qcow2: bool) {
    let mut content = vec![0_u8; usize::try_from(size).unwrap()];
    for (number, block) in content.chunks_mut(3000).enumerate().filter(|(number, _)| number % 3 != 0) {
        block.fill(number as u8);
    }
    std::fs::write(to, content).unwrap();
    if qcow2 {
        let raw = to.with_extension("raw");
        std::fs::rename(to, &raw).unwrap();
        let words = ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), to.to_str().unwrap()];
        place.tool("qemu-img", &words);
        std::fs::remove_file(raw).unwrap();
    }
}

fn on(kind: FileSystem, mounted: Result<Mounted, Skipped>, programs: u64, seconds: u64) {
    let mounted = need!(mounted);
    need!(need_tool("qemu-img"));
    let started = Instant::now();
    let mut counts = Counts::new();
    let mut ran = 0;
    while ran < programs && started.elapsed() < Duration::from_secs(seconds) {
        let place = Place::in_directory(mounted.path());
        let mut dice = Dice(ran * 1000 + kind as u64);
        let directory = place.path("disk/replicas/pvc-random-12345678");
        std::fs::create_dir_all(directory.parent().unwrap()).unwrap();
        let size = [16, 16, 20, 48][dice.roll(4) as usize] * MIB;
        let backing = match dice.roll(3) {
            0 => {
                let (path, qcow2) = (place.path("base.img"), dice.roll(2) == 0);
                // Shorter, longer, and no multiple of a block.
                backing_image(&place, &path, [size / 2 + 512, size + MIB, 3 * MIB][dice.roll(3) as usize], qcow2);
                *counts.entry(if qcow2 { "qcow2 below" } else { "raw below" }).or_default() += 1;
                Some(path)
            }
            _ => None,
        };
        let mut peer = need!(Peer::start());
        let counter = dice.roll(2) == 0;
        peer.open(&directory, size, backing.as_deref(), counter);
        let log = format!("{kind:?}, program {ran}, {size} bytes, {backing:?}\n");
        let (place, counts) = (&place, &mut counts);
        let mut program = Program { place, dice, counts, directory, backing, counter, peer, size, next: 0, log };
        for _ in 0..60 {
            program.step();
        }
        program.check();
        ran += 1;
    }
    // Past the capture of the test runner, as every measure.
    let took = started.elapsed();
    let _ = writeln!(std::io::stderr(), "measured: {kind:?}: {ran} programs in {took:?}: {counts:?}");
    assert!(ran >= programs / 4, "only {ran} programs in {seconds} s");
    if ran < programs {
        return;
    }
    let each = [
        "write",
        "zeros",
        "unaligned",
        "discard",
        "snapshot",
        "revert",
        "remove",
        "coalesce",
        "prune",
        "expand",
        "reopen",
        "killed",
        "closed",
        "zeros hide something",
    ];
    for what in each {
        assert!(counts.contains_key(what), "nothing of {what} in {counts:?}");
    }
}

#[test]
fn random_programs_of_the_engine_on_ext4() {
    on(FileSystem::Ext4, loop_mount(FileSystem::Ext4, 512 * MIB), 40, 100);
}

// The engine asks FIEMAP before anything else, so a replica on such a file system is always a copy.
#[test]
fn the_engine_refuses_a_file_system_without_fiemap() {
    let mounted = need!(tmpfs(64 * MIB));
    let mut peer = need!(Peer::start());
    let directory = mounted.path().join("pvc-tmpfs-12345678");
    let refused = peer.ask(&json!({"do": "open", "directory": directory, "size": 16 * MIB})).unwrap_err();
    assert!(refused.contains("file extent is unsupported"), "{refused}");
}

#[test]
fn random_programs_of_the_engine_on_xfs() {
    on(FileSystem::Xfs, loop_mount(FileSystem::Xfs, 512 * MIB), 20, 60);
}

#[test]
fn random_programs_of_the_engine_on_btrfs() {
    on(FileSystem::Btrfs, loop_mount(FileSystem::Btrfs, 512 * MIB), 12, 60);
}
