//! A run ends at any moment: by a signal at a random one, or at the n-th system call of a kind.

use std::path::Path;
use std::time::Duration;

use ha_testkit::command::{Inject, Outcome, Running};
use rustix::process::Signal;

use super::world::*;

/// Ends a run so long after its start, or after it first replaced or deleted something.
pub(super) fn signalled(mut running: Running, after: Option<&Path>, delay: Duration, signal: Signal) -> Outcome {
    while after.is_some_and(|path| !path.exists()) {
        if running.ended_within(Duration::from_micros(200)) {
            return running.wait();
        }
    }
    if running.ended_within(delay) {
        return running.wait();
    }
    if signal == Signal::KILL {
        running.kill();
    } else {
        running.signal(signal);
    }
    running.wait()
}

/// Ends so many runs at moments that are spread over the duration of one.
fn many(seed: u64, rounds: u32, delete: bool, signal: Signal) {
    let world = World::new(seed, delete, 3, 60);
    many_in(world, seed, rounds, signal);
}

fn many_in(mut world: World, seed: u64, rounds: u32, signal: Signal) {
    let delete = world.delete;
    let mut walls: Vec<Duration> = (0..5)
        .map(|_| {
            let ended = world.round(&format!("seed {seed}, whole run"), |world| world.command().run());
            ended.outcome.assert_success();
            ended.outcome.wall
        })
        .collect();
    walls.sort();
    let mut full = walls[2];
    let (mut ended_by_signal, mut in_the_middle) = (0, 0);
    for round in 0..rounds {
        let place = f64::from(round) + (world.random.below(1000) as f64 / 1000.0);
        let delay = full.mul_f64(place / f64::from(rounds));
        // Every second one while it works: that is a small part of a run that plans first.
        let working = round % 2 == 1 && world.keep;
        let trash = working.then(|| world.place.join("destination/.ha-sync/trash"));
        let delay = if working {
            Duration::from_micros(world.random.next() % if delete { 5_000 } else { 30_000 })
        } else {
            delay
        };
        let what = format!("seed {seed}, round {round}, {signal:?} after {delay:?} of {full:?}, working: {working}");
        let ended = world.round(&what, |world| signalled(world.command().start(), trash.as_deref(), delay, signal));
        let outcome = ended.outcome;
        if signal == Signal::KILL {
            ended_by_signal += u32::from(outcome.signal() == Some(9));
        } else {
            // Before it listens, the signal ends it as any program.
            let early = outcome.signal() == Some(15);
            assert!(early || [Some(0), Some(143)].contains(&outcome.code()), "{what}: {outcome:?}");
            assert!(ended.temporary.is_empty(), "{what}: it tidies up: {:?}", ended.temporary);
            ended_by_signal += u32::from(outcome.code() != Some(0));
        }
        if outcome.code() == Some(0) && !working {
            full = (full + outcome.wall) / 2;
        }
        in_the_middle += u32::from(ended.in_the_middle);
        if round % 10 == 9 {
            world.is_idle();
        }
    }
    assert!(ended_by_signal * 2 >= rounds, "only {ended_by_signal} of {rounds} runs were interrupted");
    assert!(in_the_middle * 5 >= rounds, "only {in_the_middle} of {rounds} runs ended with a part of their work done");
    println!("{rounds} runs, {ended_by_signal} interrupted, {in_the_middle} with a part of their work done");
}

#[test]
fn killed_at_any_moment_with_deletions() {
    many(1, 110, true, Signal::KILL);
}

#[test]
fn killed_at_any_moment_without_deletions() {
    many(2, 100, false, Signal::KILL);
}

#[test]
fn terminated_at_any_moment() {
    many(3, 30, true, Signal::TERM);
}

#[test]
fn killed_without_a_trash() {
    let mut world = World::new(8, false, 3, 60);
    world.keep = false;
    many_in(world, 8, 12, Signal::KILL);
}

/// Kills a run at the n-th call of each kind that changes or looks at something.
fn sweep(seed: u64, calls: &[(&str, u32, u32)]) {
    let mut world = World::new(seed, true, 1, 16);
    for (call, last, stride) in calls {
        let mut killed = 0;
        let (mut number, mut missed) = (1, 0);
        // Not every round has something of every kind to do.
        while number <= *last && missed < 4 {
            let what = format!("seed {seed}, killed at {call} {number}");
            let ended = world.round(&what, |world| {
                let inject = Inject::on(call).signal("KILL").when(&number.to_string());
                world.command().args(["--workers", "1", "--walkers", "1"]).strace(inject).run()
            });
            if ended.outcome.code() == Some(0) {
                missed += 1;
                continue;
            }
            assert_eq!(ended.outcome.signal(), Some(9), "{what}: {:?}", ended.outcome);
            killed += 1;
            number += stride;
        }
        assert!(killed > 0, "{call} is never called");
    }
    world.is_idle();
}

#[test]
fn killed_at_each_rename() {
    sweep(4, &[("renameat2", 16, 1), ("renameat", 14, 1)]);
}

#[test]
fn killed_at_each_step_of_staging() {
    sweep(
        5,
        &[("mkdirat", 5, 1), ("utimensat", 18, 1), ("fchmod", 6, 1), ("symlinkat", 2, 1), ("copy_file_range", 1, 1)],
    );
}

#[test]
fn killed_at_looks_and_removals() {
    sweep(6, &[("unlinkat", 4, 1), ("statx", 400, 17), ("newfstatat", 80, 11), ("openat", 200, 13)]);
}

#[test]
fn killed_at_each_record() {
    sweep(7, &[("write", 40, 2), ("fsync", 6, 1), ("pwrite64", 30, 4)]);
}
