use std::fs;
use std::time::{Duration, Instant};

use ha_audit::dsn::Dsn;
use ha_audit::oplog::OpLog;
use ha_audit::store::{Store, StoreError};
use ha_sync_core::record::{Fingerprint, Operation, OperationKind, OperationStatus, Status, Way};

use crate::ground::{Ground, block_on, on_both};
use crate::{finished_log, iteration, operation, operations, success, time};

on_both! {
    every_field_of_an_operation_is_stored,
    the_ids_of_runs_have_no_gaps,
    a_hundred_thousand_operations_are_flushed_once,
    a_dry_run_is_compared_by_its_set_of_operations,
    pruning_keeps_the_last_successful_runs,
    a_new_database_may_be_opened_by_many_at_once,
    a_newer_schema_is_refused,
}

const PLAN: &str = "
CREATE TABLE sync_iterations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sync_pair VARCHAR(255) NOT NULL, direction VARCHAR(64) NOT NULL,
    src VARCHAR(512) NOT NULL, dest VARCHAR(512) NOT NULL, started_at DATETIME NOT NULL, ended_at DATETIME,
    status TEXT NOT NULL DEFAULT 'running', dry_run TINYINT(1) NOT NULL DEFAULT 0, files_created INT DEFAULT 0,
    files_updated INT DEFAULT 0, files_deleted INT DEFAULT 0, files_skipped INT DEFAULT 0,
    files_failed INT DEFAULT 0, total_bytes_transferred BIGINT DEFAULT 0, error_message TEXT);
CREATE INDEX idx_pair ON sync_iterations (sync_pair);
CREATE TABLE sync_operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, iteration_id BIGINT NOT NULL, dry_run TINYINT(1) NOT NULL DEFAULT 0,
    operation TEXT NOT NULL, filepath VARCHAR(4096) NOT NULL, size_before BIGINT, size_after BIGINT,
    md5_before VARCHAR(32), md5_after VARCHAR(32), started_at DATETIME NOT NULL, ended_at DATETIME,
    status TEXT NOT NULL, error_message VARCHAR(4096),
    CONSTRAINT fk_iteration FOREIGN KEY (iteration_id) REFERENCES sync_iterations(id));
INSERT INTO sync_iterations (sync_pair, direction, src, dest, started_at, status, dry_run, files_created)
    VALUES ('Old Pair', 'fwd', '/a', '/b', '2026-04-01T10:00:00.5Z', 'success', 1, NULL);
INSERT INTO sync_iterations (sync_pair, direction, src, dest, started_at, status)
    VALUES ('media', 'fwd', '/a', '/b', '2026-04-02 10:00:00', 'partial_failure');
INSERT INTO sync_operations (iteration_id, operation, filepath, started_at, status)
    VALUES (2, 'create', 'x', '2026-04-02 10:00:00', 'success'), (1, 'create', 'y', '2026-04-02 10:00:00', 'success'),
           (2, 'delete', 'x', '2026-04-02 10:00:00', 'fail');
";

fn every_field_of_an_operation_is_stored(place: &Ground) {
    let store = place.open();
    let run = iteration("media", 0);
    store.begin(&run).unwrap();
    assert_eq!(store.iterations(None, 1).unwrap()[0].status, Status::Running);
    let log = OpLog::create(place.path(), &run).unwrap();
    let failed = Operation {
        seq: 2,
        operation: OperationKind::Update,
        direction: Some(Way::BToA),
        filepath: "a\\\\b\\xff ü\n".to_owned(),
        size_before: Some(7),
        size_after: Some(u64::MAX),
        bytes: u64::MAX,
        md5_before: Some("b".repeat(32)),
        md5_after: None,
        started_at: time("2026-04-13T15:23:58Z"),
        ended_at: None,
        status: OperationStatus::Fail,
        error_message: Some("no".to_owned()),
        reason: Some("tie".to_owned()),
    };
    log.append(&[operation(1), failed]).unwrap();
    let path = log.finish(&success(1)).unwrap();
    let flushed = store.flush(&path).unwrap();
    assert_eq!((flushed.operations, flushed.status, flushed.interrupted), (2, Status::Success, false));
    let rows = place.rows(
        "SELECT seq, dry_run, operation, filepath, size_before, size_after, md5_before, md5_after, started_at, \
         ended_at, status, error_message, reason, direction FROM sync_operations ORDER BY seq",
    );
    let [path, md5] = [operation(1).filepath, operation(1).md5_after.unwrap()];
    let start = "2026-04-13 15:23:57.123";
    let first =
        ["1", "0", "create", &path, "", "10", "", &md5, start, "2026-04-13 15:23:57.124", "success", "", "", ""];
    let (path, md5, most) = ("a\\\\b\\xff ü\n", "b".repeat(32), i64::MAX.to_string());
    let start = "2026-04-13 15:23:58.000";
    let second = ["2", "0", "update", path, "7", &most, &md5, "", start, "", "fail", "no", "tie", "b-to-a"];
    for (row, expected) in rows.iter().zip([first, second]) {
        let row: Vec<_> = row.iter().map(|value| value.as_deref().unwrap_or_default()).collect();
        assert_eq!(row, expected);
    }
    assert_eq!(rows.len(), 2);
    let row = &store.iterations(Some(&run.sync_pair), 5).unwrap()[0];
    assert_eq!(row.run_id.as_deref(), Some(run.run_id.as_str()));
    assert_eq!((row.started_at, row.ended_at), (run.started_at, Some(success(1).ended_at)));
    assert_eq!((&row.counts, row.status, row.lease_transitions), (&success(1).counts, Status::Success, Some(7)));
}

fn the_ids_of_runs_have_no_gaps(place: &Ground) {
    let store = place.open();
    for run in 0..3 {
        let iteration = iteration("media", run);
        store.begin(&iteration).unwrap();
        store.begin(&iteration).unwrap();
        let log = finished_log(place.path(), &iteration, 3);
        store.begin_flush(&log).unwrap();
        store.flush(&log).unwrap();
        store.flush(&log).unwrap();
    }
    let ids: Vec<_> = store.iterations(None, 10).unwrap().iter().map(|row| row.id).collect();
    assert_eq!(ids, [3, 2, 1]);
}

fn a_hundred_thousand_operations_are_flushed_once(place: &Ground) {
    let store = place.open();
    let log = OpLog::create(place.path(), &iteration("media", 0)).unwrap();
    for from in (0..100_000).step_by(1000) {
        log.append(&operations(from + 1..=from + 1000)).unwrap();
    }
    let path = log.finish(&success(100_000)).unwrap();
    for _ in 0..2 {
        let begun = Instant::now();
        assert_eq!(store.flush(&path).unwrap().operations, 100_000);
        println!("{:.0} operations a second", 100_000.0 / begun.elapsed().as_secs_f64());
    }
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 100_000);
    assert_eq!(place.number("SELECT SUM(seq) FROM sync_operations"), 5_000_050_000);
}

fn a_dry_run_is_compared_by_its_set_of_operations(place: &Ground) {
    let store = place.open();
    let mut dry = iteration("media", 5);
    dry.dry_run = true;
    finished_dry(place.path(), &store, &dry, 1500);
    // none of these count: a real run, a failed dry run, an older one, another direction
    store.flush(&finished_log(place.path(), &iteration("media", 9), 2)).unwrap();
    let mut failed = iteration("media", 8);
    failed.dry_run = true;
    store.flush(&crate::dead_log(place.path(), &failed, 2)).unwrap();
    let mut older = iteration("media", 1);
    older.dry_run = true;
    finished_dry(place.path(), &store, &older, 3);
    let mut expected = Fingerprint::default();
    for operation in operations(1..=1500).iter().rev() {
        expected.add(operation.direction, &operation.filepath, operation.operation, operation.size_before);
    }
    let (pair, direction) = (&dry.sync_pair, &dry.direction);
    assert_eq!(store.last_dry_run(pair, direction).unwrap(), Some((dry.started_at, expected)));
    assert_eq!(store.last_dry_run(pair, &"other".parse().unwrap()).unwrap(), None);
    let read_only = place.open_read_only().unwrap();
    assert_eq!(read_only.last_dry_run(pair, direction).unwrap().unwrap().1, expected);
    assert!(read_only.begin(&iteration("media", 20)).is_err());
}

fn finished_dry(dir: &std::path::Path, store: &Store, run: &ha_sync_core::record::Iteration, count: u64) {
    store.flush(&finished_log(dir, run, count)).unwrap();
}

fn pruning_keeps_the_last_successful_runs(place: &Ground) {
    let store = place.open();
    let mut kept = Vec::new();
    for (pair, number, dry, count) in
        [("media", 0, true, 3), ("media", 1, false, 6000), ("media", 2, false, 4), ("photos", 3, false, 2)]
    {
        let mut run = iteration(pair, number);
        run.dry_run = dry;
        store.flush(&finished_log(place.path(), &run, count)).unwrap();
        if number != 1 {
            kept.push(run.run_id.to_string());
        }
    }
    store.flush(&crate::dead_log(place.path(), &iteration("media", 4), 5)).unwrap();
    store.begin(&iteration("media", 5)).unwrap();
    store.begin(&iteration("media", 50)).unwrap();
    kept.push(iteration("media", 50).run_id.to_string());
    let mut steps = 0;
    let pruned = store.prune(iteration("media", 40).started_at, &mut |_| steps += 1).unwrap();
    assert_eq!((pruned.iterations, pruned.operations), (3, 6005));
    assert!(steps >= 5, "{steps}");
    let mut left: Vec<_> = store.iterations(None, 10).unwrap().into_iter().filter_map(|row| row.run_id).collect();
    left.sort();
    assert_eq!(left, kept);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 9);
}

#[test]
fn a_database_made_from_the_plan_is_adopted() {
    let place = Ground::sqlite();
    place.run(PLAN);
    let refused = place.open_read_only().unwrap_err();
    assert!(matches!(refused, StoreError::Schema { found: 0, .. }), "{refused}");
    let store = place.open();
    let rows = store.iterations(None, 10).unwrap();
    assert_eq!((rows[0].sync_pair.as_str(), rows[0].status), ("media", Status::PartialFailure));
    assert_eq!((rows[1].sync_pair.as_str(), &rows[1].run_id, rows[1].dry_run), ("Old Pair", &None, true));
    assert_eq!(rows[1].started_at, time("2026-04-01T10:00:00.5Z"));
    let numbers = place.rows("SELECT iteration_id, seq, started_at FROM sync_operations ORDER BY id");
    let numbers: Vec<_> = numbers.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>()).collect();
    let at = "2026-04-02 10:00:00.000";
    assert_eq!(numbers, [["2", "1", at], ["1", "1", at], ["2", "2", at]]);
    store.flush(&finished_log(place.path(), &iteration("media", 0), 3)).unwrap();
    drop(store);
    assert_eq!(place.open().iterations(None, 10).unwrap().len(), 3);
}

fn a_new_database_may_be_opened_by_many_at_once(place: &Ground) {
    for _ in 0..10 {
        let place = place.another();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let place = &place;
                scope.spawn(move || {
                    let store = place.open();
                    store.flush(&finished_log(place.path(), &iteration("media", number), 200)).unwrap();
                });
            }
        });
        assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 800);
    }
}

#[test]
fn a_database_that_cannot_be_opened_is_named() {
    let place = Ground::sqlite();
    let no_database = place.path().join("text.db");
    fs::write(&no_database, "not a database, but long enough to be looked at ".repeat(100)).unwrap();
    for path in [place.path().join("missing/audit.db"), no_database, place.path().to_owned()] {
        let error = Store::open(&Dsn::Sqlite(path.clone()), Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { retryable: false, .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("failed to open audit database: {}", path.display()));
        assert!(std::error::Error::source(&error).is_some());
    }
}

fn a_newer_schema_is_refused(place: &Ground) {
    drop(place.open());
    place.run("INSERT INTO ha_sync_schema (version) VALUES (99)");
    let error = place.try_open(Duration::from_secs(5)).unwrap_err();
    assert!(matches!(error, StoreError::Schema { found: 99, .. }) && !error.is_retryable());
}

#[test]
fn a_locked_database_is_retryable() {
    let place = Ground::sqlite();
    drop(place.open());
    let store = place.try_open(Duration::from_millis(50)).unwrap();
    let run = iteration("media", 0);
    let error = block_on(async {
        let mut connection = place.sqlite_connection().await;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
        std::thread::scope(|scope| scope.spawn(|| store.begin(&run).unwrap_err()).join().unwrap())
    });
    assert!(error.is_retryable(), "{error:?}");
    store.begin(&run).unwrap();
}
