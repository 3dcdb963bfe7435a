//! Two-way runs that are killed at any moment: whatever was changed on either side before and after, the next run ends
//! with equal trees, the one after it does nothing, and every version is somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ha_testkit::command::{Environment, Outcome, Run};
use rustix::process::Signal;

use super::sweeps::signalled;
use super::world::*;

const SIDES: [&str; 2] = ["a", "b"];

/// Is two folders that are kept in step, and a person at each.
struct Sides {
    place: Environment,
    random: Random,
    counter: u64,
    clock: i64,
}

impl Sides {
    fn new(seed: u64) -> Self {
        let place = fast_place();
        for side in SIDES {
            fs::create_dir(place.join(side)).unwrap();
        }
        let mut sides = Self { place, random: Random(seed), counter: 0, clock: 0 };
        for index in 0..70 {
            let side = SIDES[index % 2];
            let path = format!("d{}/e{}/{side}-{index}", index % 5, index % 3);
            let size = if index % 20 == 0 { 300_000 } else { 100 + 50 * index };
            sides.write(side, &path, size);
        }
        sides.command().run().assert_success();
        sides
    }

    fn command(&self) -> Run {
        self.place
            .command(env!("CARGO_BIN_EXE_ha-sync"))
            .arg("two-way")
            .arg("--a")
            .arg(self.place.join("a"))
            .arg("--b")
            .arg(self.place.join("b"))
            .args(["--pair", &self.place.pair(), "--max-delete", "100%", "--log-dir"])
            .arg(self.place.log_dir())
    }

    fn write(&mut self, side: &str, path: &str, size: usize) {
        self.counter += 1;
        self.clock += 10;
        let full = self.place.join(side).join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, &content(path, self.counter, size)[..]).unwrap();
        let time = i128::from(BASE + self.clock) * 1_000_000_000;
        rustix::fs::utimensat(rustix::fs::CWD, &full, &times(time), rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    /// Changes, deletes, moves and makes on both sides; returns the contents that were destroyed by it.
    fn change(&mut self) -> BTreeSet<Vec<u8>> {
        let mut destroyed = BTreeSet::new();
        for side in SIDES {
            let root = self.place.join(side);
            let (tree, _) = read(&root);
            let many = tree.len() > 120;
            for (path, node) in &tree {
                let What::File(held) = &node.what else { continue };
                match self.random.below(12) {
                    4 if many => {
                        destroyed.insert(held.to_vec());
                        fs::remove_file(root.join(path)).unwrap();
                    }
                    0 | 1 => {
                        destroyed.insert(held.to_vec());
                        let size = if self.random.percent(4) { 300_000 } else { 1 + self.random.below(5000) };
                        self.write(side, path, size);
                    }
                    2 => {
                        destroyed.insert(held.to_vec());
                        fs::remove_file(root.join(path)).unwrap();
                    }
                    3 => {
                        self.counter += 1;
                        let to = root.join(format!("moved{}/{}", self.counter % 4, self.counter));
                        fs::create_dir_all(to.parent().unwrap()).unwrap();
                        fs::rename(root.join(path), to).unwrap();
                    }
                    4 => {
                        self.counter += 1;
                        let path = format!("d{}/new-{}", self.random.below(5), self.counter);
                        let size = 1 + self.random.below(3000);
                        self.write(side, &path, size);
                    }
                    _ => {}
                }
            }
            if self.random.percent(20) {
                let name = format!("d{}", self.random.below(5));
                if root.join(&name).is_dir() {
                    // Temporary files too: the old version of a file lies in one until it is in the trash.
                    destroyed.extend(files(&root.join(&name)));
                    fs::remove_dir_all(root.join(&name)).unwrap();
                }
            }
        }
        destroyed
    }

    /// Returns the contents of all files, those in the trash included.
    fn contents(&self) -> BTreeSet<Vec<u8>> {
        SIDES.into_iter().flat_map(|side| files(&self.place.join(side))).collect()
    }

    fn trees(&self) -> [Tree; 2] {
        SIDES.map(|side| read(&self.place.join(side)).0)
    }

    /// Changes, runs, ends the run; often changes more; then runs to the end and looks.
    fn round(&mut self, what: &str, end: impl FnOnce(&Self) -> Outcome) -> (Outcome, bool) {
        self.change();
        let (held, before) = (self.contents(), self.trees());
        let outcome = end(self);
        let middle = self.trees();
        let in_the_middle = middle != before && middle[0] != middle[1];
        let lost: Vec<_> = held.difference(&self.contents()).map(Vec::len).collect();
        // A staged copy may be cut off; what was there is whole.
        assert!(lost.is_empty(), "{what}: lost after the end of the run: files of {lost:?} bytes\n{}", outcome.stderr);
        let mut held = held;
        if self.random.percent(50) {
            let destroyed = self.change();
            held = held.difference(&destroyed).cloned().collect();
        }
        let second = self.command().run();
        second.assert_success();
        let [a, b] = self.trees();
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&a), names(&b), "{what}: {}\n{}", outcome.stderr, second.stderr);
        for (path, node) in &a {
            let same = node.what == b[path].what && (node.is_directory() || *node == b[path]);
            assert!(same, "{what}: {path}: {} and {}", node.describe(), b[path].describe());
        }
        let lost: Vec<_> = held.difference(&self.contents()).map(Vec::len).collect();
        assert!(lost.is_empty(), "{what}: lost after the next run: files of {lost:?} bytes\n{}", second.stderr);
        for side in SIDES {
            let left = leftovers(&self.place.join(side));
            assert!(left.is_empty(), "{what}: temporary entries are left: {left:?}");
        }
        let third = self.command().run();
        third.assert_success();
        assert!(!third.stderr.contains("-to-"), "{what}: nothing is left to do:\n{}", third.stderr);
        for side in SIDES {
            let _ = fs::remove_dir_all(self.place.join(side).join(".ha-sync/trash"));
        }
        (outcome, in_the_middle)
    }
}

/// Returns the contents of all files below a directory.
fn files(top: &Path) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                waiting.push(path);
            } else if meta.is_file() {
                all.insert(fs::read(path).unwrap());
            }
        }
    }
    all
}

fn trash(sides: &Sides) -> [std::path::PathBuf; 2] {
    SIDES.map(|side| sides.place.join(side).join(".ha-sync/trash"))
}

fn many(seed: u64, rounds: u32, signal: Signal) {
    let mut sides = Sides::new(seed);
    let whole = |sides: &Sides| {
        let outcome = sides.command().run();
        outcome.assert_success();
        outcome
    };
    let mut walls: Vec<Duration> =
        (0..3).map(|_| sides.round(&format!("seed {seed}, whole run"), whole).0.wall).collect();
    walls.sort();
    let (mut ended, mut in_the_middle) = (0, 0);
    for round in 0..rounds {
        let delay = walls[1].mul_f64(sides.random.below(1100) as f64 / 1000.0);
        // Half of them as soon as the first old version is in the trash of B: there is most to see.
        let after = (round % 2 == 1).then(|| trash(&sides)[1].clone());
        let what = format!("seed {seed}, round {round}, after {delay:?}");
        let end = |sides: &Sides| {
            let delay = if after.is_some() { delay / 8 } else { delay };
            signalled(sides.command().start(), after.as_deref().map(Path::new), delay, signal)
        };
        let (outcome, middle) = sides.round(&what, end);
        ended += u32::from(outcome.code() != Some(0));
        in_the_middle += u32::from(middle);
    }
    println!("seed {seed}: {ended} of {rounds} runs were ended by the signal, {in_the_middle} of them in the middle");
    assert!(ended * 4 >= rounds, "the signals came too late: {ended} of {rounds}");
}

#[test]
fn two_way_killed_at_any_moment() {
    many(404, 125, Signal::KILL);
}

#[test]
fn two_way_killed_at_any_moment_again() {
    many(405, 125, Signal::KILL);
}

#[test]
fn two_way_terminated_at_any_moment() {
    many(406, 25, Signal::TERM);
}
