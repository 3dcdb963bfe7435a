//! Random runs that die at random places, against a model: every whole operation line is in the database once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ha_audit::oplog::OpLog;
use ha_audit::recovery;
use ha_audit::store::Store;
use proptest::prelude::*;

use crate::ground::{Ground, on_both};
use crate::{finished_log, flush, intent, interrupted, iteration, operation, success};

#[derive(Debug, Clone)]
enum Step {
    /// A run writes so many operations, each after its intent, and ends.
    Run(u64),
    /// A run writes so many operations and dies; its log is cut at this share of its length.
    Crash(u64, f64),
    /// All logs are flushed.
    Flush,
    /// The last log is there again after its flush, as if its removal had been lost.
    Return,
    /// The next run of the pair concludes what the dead ones left.
    Conclude,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..300_u64).prop_map(Step::Run),
        (0..300_u64, 0.0..=1.0).prop_map(|(count, share)| Step::Crash(count, share)),
        Just(Step::Flush),
        Just(Step::Return),
        Just(Step::Conclude),
    ];
    proptest::collection::vec(step, 1..12)
}

on_both! { whole_lines_are_stored_exactly_once, a_flush_that_is_killed_anywhere_stores_all_once }

fn whole_lines_are_stored_exactly_once(place: &Ground) {
    let cases = if place.is_sqlite() { 48 } else { 12 };
    proptest!(ProptestConfig { cases, ..ProptestConfig::default() }, |(steps in steps())| {
        let dir = place.another();
        let store = dir.open();
        let mut expected = BTreeSet::new();
        let mut last: Option<(PathBuf, Vec<u8>)> = None;
        for (number, step) in (0..).zip(steps.into_iter().chain([Step::Flush])) {
            let run = iteration("media", number);
            match step {
                Step::Run(count) | Step::Crash(count, _) => {
                    let log = OpLog::create(dir.path(), &run).unwrap();
                    for seq in 1..=count {
                        log.intend(&[intent(seq)]).unwrap();
                        log.append(&[operation(seq)]).unwrap();
                    }
                    let path = if let Step::Crash(_, share) = step {
                        let path = log.path().to_owned();
                        drop(log);
                        let whole = fs::read(&path).unwrap();
                        fs::write(&path, &whole[..(whole.len() as f64 * share) as usize]).unwrap();
                        path
                    } else {
                        log.finish(&success(count)).unwrap()
                    };
                    let written = fs::read(&path).unwrap();
                    expected.extend(
                        written
                            .split(|byte| *byte == b'\n')
                            .filter(|line| line.starts_with(b"{\"type\":\"operation\"") && line.ends_with(b"}"))
                            .enumerate()
                            .map(|(index, _)| (run.run_id.to_string(), index as i64 + 1)),
                    );
                    last = Some((path, written));
                }
                Step::Flush => {
                    let (summary, _) = flush(dir.path(), &store);
                    prop_assert!(summary.error.is_none() && summary.left == 0 && summary.broken == 0);
                }
                Step::Return => {
                    if let Some((path, written)) = last.take() && !path.exists() {
                        fs::write(path, written).unwrap();
                    }
                }
                Step::Conclude => {
                    for log in recovery::interrupted(dir.path(), &run.sync_pair).unwrap() {
                        let header = log.unresolved().header.run_id.to_string();
                        let resolved: Vec<_> =
                            log.unresolved().intents.iter().map(|intent| operation(intent.seq)).collect();
                        expected.extend(resolved.iter().map(|operation| (header.clone(), operation.seq as i64)));
                        log.conclude(&resolved, &interrupted()).unwrap();
                    }
                }
            }
        }
        let stored = dir.rows(
            "SELECT run_id, seq FROM sync_operations JOIN sync_iterations \
             ON sync_iterations.id = iteration_id ORDER BY run_id, seq",
        );
        let expected: Vec<_> = expected.into_iter().map(|(run, seq)| vec![Some(run), Some(seq.to_string())]).collect();
        prop_assert_eq!(stored, expected);
    });
}

fn a_flush_that_is_killed_anywhere_stores_all_once(place: &Ground) {
    for run in 0..3 {
        finished_log(place.path(), &iteration("media", run), 20_000);
    }
    for delay in [5, 20, 40, 80, 120, 160] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::flushes_until_it_is_killed", "--ignored"])
            .env("HA_AUDIT_TEST_DIR", place.path())
            .env("HA_AUDIT_TEST_DSN", place.dsn_text())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let store = place.open();
    let (summary, _) = flush(place.path(), &store);
    assert!(summary.error.is_none() && summary.left == 0 && summary.broken == 0, "{summary:?}");
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 60_000);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_iterations WHERE status = 'success'"), 3);
    store.close().unwrap();
    if place.is_sqlite() {
        assert_eq!(place.rows("PRAGMA integrity_check"), [[Some("ok".to_owned())]]);
    }
}

#[test]
#[ignore = "is the child of a_flush_that_is_killed_anywhere_stores_all_once"]
fn flushes_until_it_is_killed() {
    let (Ok(dir), Ok(dsn)) = (std::env::var("HA_AUDIT_TEST_DIR"), std::env::var("HA_AUDIT_TEST_DSN")) else { return };
    let store = Store::open(&dsn.parse().unwrap(), Duration::from_secs(5)).unwrap();
    flush(Path::new(&dir), &store);
}
