//! One run of a pair at a time, and runs that are told to end.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::time::{Duration, Instant};

use ha_testkit::command::Running;
use ha_testkit::need;
use ha_testkit::passthrough::{Fault, Operation, Options, Passthrough, Rule};
use ha_testkit::tree::{Compare, Snapshot, file};
use rustix::process::Signal;

use crate::place::{Place, assert_says};

/// Waits until a rule has acted so often.
fn wait_for(fault: &Fault, times: u64) {
    let started = Instant::now();
    while fault.fired() < times {
        assert!(started.elapsed() < Duration::from_secs(20), "the run did not come so far");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a run that stays in its first copy for this long.
fn busy(place: &Place, mount: &Passthrough, time: Duration) -> Running {
    let fault = mount.inject(Rule::on(Operation::Create).path_contains(".ha-sync.").delay(time).once());
    let running = place.between(&place.source, mount.path(), &[]).start();
    wait_for(&fault, 1);
    running
}

#[test]
fn a_second_run_of_the_pair_names_the_holder() {
    let place = Place::new(&[file("a", "content")], &[]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let running = busy(&place, &mount, Duration::from_millis(1500));
    let before = Snapshot::of(&place.source);
    let started = Instant::now();
    let outcome = place.run(&[]);
    outcome.assert_code(4);
    assert!(started.elapsed() < Duration::from_secs(1), "at once");
    let logs = place.logs();
    let header = std::fs::read_to_string(&logs[0]).unwrap();
    let (_, rest) = header.split_once("\"run_id\":\"").unwrap();
    let run = &rest[..rest.find('"').unwrap()];
    assert_says(&outcome, &format!("pid {} run {run}", running.pid()));
    assert_says(&outcome, "--lock-wait");
    before.assert_same(&Snapshot::of(&place.source));
    place.sync(&["--skip-if-locked"]);
    // The other direction, and another log directory, share the lock.
    place.back(&[]).assert_code(4);
    let elsewhere = place.path("other logs");
    std::fs::create_dir(&elsewhere).unwrap();
    place.command(&["--log-dir"]).arg(&elsewhere).run().assert_code(4);
    place.run(&["--dry-run"]).assert_code(4);
    // Another pair does not, and no lock asks for none.
    running.wait().assert_success();
    place.mirror(&[]);
}

#[test]
fn a_run_waits_for_the_lock() {
    let place = Place::new(&[file("a", "content")], &[]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let running = busy(&place, &mount, Duration::from_millis(900));
    let started = Instant::now();
    place.run(&["--lock-wait", "0.2"]).assert_code(4);
    assert!(started.elapsed() > Duration::from_millis(200));
    place.between(&place.source, mount.path(), &["--lock-wait", "30"]).run().assert_success();
    running.wait().assert_success();
    assert_eq!(place.query("SELECT * FROM sync_iterations WHERE status = 'success'").len(), 2);
}

#[test]
fn a_killed_run_leaves_no_lock() {
    let place = Place::new(&[file("a", "content")], &[]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let running = busy(&place, &mount, Duration::from_millis(300));
    running.kill();
    running.wait();
    place.mirror(&[]);
    place.assert_no_temporary_files();
}

#[test]
fn without_a_lock_runs_go_side_by_side() {
    let place = Place::new(&[file("a", "content")], &[]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let running = busy(&place, &mount, Duration::from_millis(700));
    place.run(&["--lock", "none", "--dry-run"]).assert_success();
    running.wait().assert_success();
}

fn interrupted(signal: Signal, code: i32) {
    let place = Place::new(&[file("big", vec![1; 64 << 20]), file("small", "content")], &[file("big", "old").mtime(1)]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let slow = mount.inject(Rule::on(Operation::Write).path_contains(".ha-sync.").delay(Duration::from_millis(20)));
    let running = place.between(&place.source, mount.path(), &[]).start();
    wait_for(&slow, 5);
    running.signal(signal);
    let outcome = running.wait();
    outcome.assert_code(code);
    assert!(outcome.wall < Duration::from_secs(10));
    mount.clear();
    place.assert_no_temporary_files();
    assert_eq!(std::fs::read(place.destination.join("big")).unwrap(), b"old");
    let row = place.last();
    assert_eq!(row.text("status"), "failed");
    assert!(row.text("error_message").starts_with("interrupted by signal"), "{}", row.text("error_message"));
    assert!(place.logs().is_empty());
    place.between(&place.source, mount.path(), &[]).run().assert_success();
    drop(mount);
    let contents = Compare::contents();
    Snapshot::with(&place.source, &contents).assert_same(&Snapshot::with(&place.destination, &contents));
}

#[test]
fn sigterm_ends_a_run_in_order() {
    interrupted(Signal::TERM, 143);
}

#[test]
fn sigint_ends_a_run_in_order() {
    interrupted(Signal::INT, 130);
}

#[test]
fn a_run_that_waits_for_the_lock_can_be_interrupted() {
    let place = Place::new(&[file("a", "content")], &[]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let running = busy(&place, &mount, Duration::from_millis(1500));
    let mut waiting = place.command(&["--lock-wait", "60"]).start();
    assert!(!waiting.ended_within(Duration::from_millis(300)));
    waiting.signal(Signal::TERM);
    waiting.wait().assert_code(143);
    running.wait().assert_success();
}

#[test]
fn a_second_signal_ends_the_run_at_once_and_nothing_is_half_written() {
    let place = Place::new(&[file("a", vec![1; 300_000])], &[file("a", "old").mtime(1)]);
    let mount = need!(Passthrough::mount(&place.destination, &Options::default()));
    let mut running = busy(&place, &mount, Duration::from_millis(1500));
    running.signal(Signal::TERM);
    assert!(!running.ended_within(Duration::from_millis(200)), "it is in a call of the file system");
    running.signal(Signal::TERM);
    running.wait().assert_code(143);
    assert_eq!(std::fs::read(place.destination.join("a")).unwrap(), b"old");
    place.between(&place.source, mount.path(), &[]).run().assert_success();
    drop(mount);
    place.assert_sides_equal();
    place.assert_no_temporary_files();
}
