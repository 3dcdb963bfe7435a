//! Runs that are killed at each step of writing down what both sides agree on: the old baseline is there or the new one,
//! whole, and the next run neither loses nor brings back anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use ha_testkit::command::{Environment, Run};
use ha_testkit::need;
use ha_testkit::passthrough::{Operation, Options, Passthrough, Rule};
use rustix::process::{Pid, Signal, kill_process};

use super::world::*;

/// So many files that the baseline is written in several pieces.
const FILES: usize = 12_000;

struct Sides {
    place: Environment,
    logs: PathBuf,
}

impl Sides {
    fn command(&self, words: &[&str]) -> Run {
        let run = self.place.command(env!("CARGO_BIN_EXE_ha-sync"));
        run.args(words).args(["--pair", &self.place.pair(), "--log-dir"]).arg(&self.logs)
    }

    fn two_way(&self) -> Run {
        let database = format!("sqlite:{}", self.place.join("ha-sync.db").display());
        let run = self.command(&["two-way", "--max-delete", "100%", "--db-dsn", &database]);
        run.arg("--a").arg(self.place.join("a")).arg("--b").arg(self.place.join("b"))
    }

    fn write(&self, side: &str, path: &str, content: &str, round: i64) {
        let full = self.place.join(side).join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, content).unwrap();
        let time = times(i128::from(BASE + 10 * round) * 1_000_000_000);
        rustix::fs::utimensat(rustix::fs::CWD, &full, &time, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn contents(&self, path: &str) -> [Option<String>; 2] {
        ["a", "b"].map(|side| fs::read_to_string(self.place.join(side).join(path)).ok())
    }
}

/// Kills a run at the n-th change below the folder of the pair's state; false when it ended before.
fn killed_at(mount: &Passthrough, sides: &Sides, number: u64) -> bool {
    use Operation::{Create, Fsync, Fsyncdir, Rename, Unlink, Write};
    let pid = Arc::new(AtomicI32::new(0));
    let client = Arc::clone(&pid);
    let kill = move |_: &[u8]| {
        while client.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = kill_process(Pid::from_raw(client.load(Ordering::SeqCst)).unwrap(), Signal::KILL);
    };
    let changes = [Create, Write, Fsync, Fsyncdir, Rename, Unlink];
    let rule = Rule::on_any(&changes).path_contains("logs/state/").skip(number).once().run(kill);
    let fault = mount.inject(rule);
    let running = sides.two_way().start();
    pid.store(running.pid(), Ordering::SeqCst);
    let outcome = running.wait();
    let fired = fault.fired() > 0;
    fault.end();
    assert_eq!(outcome.signal(), fired.then_some(9), "at {number}: {}", outcome.stderr);
    fired
}

#[test]
fn killed_at_each_step_of_writing_the_baseline() {
    let backing = tempfile::tempdir().unwrap();
    let mount = need!(Passthrough::mount(backing.path(), &Options::default()));
    let logs = mount.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let sides = Sides { place: fast_place(), logs };
    for index in 0..FILES {
        sides.write("a", &format!("d{}/{index}", index % 40), &format!("file {index}"), 0);
    }
    fs::create_dir(sides.place.join("b")).unwrap();
    sides.two_way().run().assert_success();
    let state = sides.logs.join("state").join(sides.place.pair());
    let half_written = |name: &Path| name.to_string_lossy().contains("/baseline.");
    let (mut old, mut new, mut halves) = (0, 0, 0);
    for number in 0.. {
        let round = number as i64 + 1;
        let path = |index: usize| format!("d{}/{index}", index % 40);
        let [gone, back, one, other] = [0, 1, 2, 3].map(|index| path(number as usize * 4 + index));
        let before = fs::read(state.join("baseline")).unwrap();
        let was = sides.contents(&back)[0].clone().unwrap();
        for path in [&gone, &back] {
            fs::remove_file(sides.place.join("a").join(path)).unwrap();
        }
        sides.write("a", &one, "changed on a", round);
        sides.write("b", &other, "changed on b", round);
        sides.write("b", &format!("new/{number}"), "new", round);
        let killed = killed_at(&mount, &sides, number);
        let after = fs::read(state.join("baseline")).unwrap();
        if killed {
            old += u32::from(before == after);
            new += u32::from(before != after);
            halves += u32::from(fs::read_dir(&state).unwrap().any(|entry| half_written(&entry.unwrap().path())));
        }
        let what = format!("killed at {number}: {killed}");
        let verified = sides.command(&["baseline", "verify"]).run();
        assert_eq!(verified.code(), Some(0), "{what}: {}{}", verified.stdout, verified.stderr);
        // Somebody puts one of the deleted files back, exactly as it was.
        let put_back = sides.contents(&back) == [None, None];
        if put_back {
            sides.write("a", &back, &was, 0);
        }
        let next = sides.two_way().run();
        next.assert_success();
        assert_eq!(sides.contents(&gone), [None, None], "{what}: it came back\n{}", next.stderr);
        let expected = put_back.then_some(was);
        assert_eq!(sides.contents(&back), [expected.clone(), expected], "{what}: {}", next.stderr);
        for (path, content) in [(&one, "changed on a"), (&other, "changed on b"), (&format!("new/{number}"), "new")] {
            assert_eq!(sides.contents(path), [Some(content.to_owned()), Some(content.to_owned())], "{what}: {path}");
        }
        let idle = sides.two_way().run();
        idle.assert_success();
        assert!(!idle.stderr.contains("-to-"), "{what}: nothing is left to do:\n{}", idle.stderr);
        let [a, b] = ["a", "b"].map(|side| read(&sides.place.join(side)).0);
        assert!(a.keys().eq(b.keys()) && a.iter().all(|(path, node)| node.what == b[path].what), "{what}");
        let left = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).find(|path| half_written(path));
        assert_eq!(left, None, "{what}: half a baseline is left");
        if !killed {
            println!("{number} kills: {old} left the old baseline, {new} the new one, {halves} half of one beside it");
            break;
        }
    }
    assert!(old > 0 && new > 0 && halves > 4, "{old}, {new}, {halves}");
}
