use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use ha_audit::flush::retain;
use ha_audit::oplog::OpLog;
use ha_audit::reader;
use ha_audit::recovery;
use ha_sync_core::record::{Operation, OperationKind, OperationStatus, Status};
use jiff::Timestamp;

use crate::ground::{Ground, on_both};
use crate::{dead_log, finished_log, flush, intent, interrupted, iteration, logs, operation, operations};

on_both! {
    finished_logs_are_flushed_oldest_first_and_removed,
    a_log_of_a_live_run_is_left_alone,
    broken_and_headerless_logs_do_not_block_the_others,
    a_dead_run_waits_for_the_next_run_of_its_pair,
    an_interrupted_run_counts_the_data_bytes_that_it_wrote,
    a_dead_dry_run_leaves_nothing_to_wait_for,
    a_crash_between_commit_and_removal_duplicates_nothing,
    a_store_that_fails_leaves_the_logs,
    a_flush_that_is_told_to_stop_leaves_the_rest_to_the_next,
    a_log_that_may_not_be_opened_does_not_block_the_others,
    a_log_whose_rows_are_refused_does_not_block_the_others,
}

fn finished_logs_are_flushed_oldest_first_and_removed(place: &Ground) {
    let store = place.open();
    finished_log(place.path(), &iteration("media", 2), 5);
    finished_log(place.path(), &iteration("photos", 1), 7);
    let (summary, events) = flush(place.path(), &store);
    assert_eq!((summary.flushed, summary.operations, summary.left), (2, 12, 0));
    assert!(summary.error.is_none());
    assert_eq!(
        events,
        [
            "flushed opslog-photos-dell-to-hp-2026-04-13T15:24:57.123Z.jsonl",
            "flushed opslog-media-dell-to-hp-2026-04-13T15:25:57.123Z.jsonl",
        ]
    );
    assert!(logs(place.path()).is_empty());
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 12);
}

fn a_log_of_a_live_run_is_left_alone(place: &Ground) {
    let store = place.open();
    let live = OpLog::create(place.path(), &iteration("media", 0)).unwrap();
    live.append(&operations(1..=3)).unwrap();
    let (summary, _) = flush(place.path(), &store);
    assert_eq!((summary.live, summary.flushed), (1, 0));
    assert!(live.path().exists());
    live.finish(&crate::success(3)).unwrap();
    assert_eq!(flush(place.path(), &store).0.flushed, 1);
}

fn broken_and_headerless_logs_do_not_block_the_others(place: &Ground) {
    let store = place.open();
    let broken = dead_log(place.path(), &iteration("media", 0), 200);
    let text = fs::read_to_string(&broken).unwrap().replacen("\"seq\":151,", "\"seq\":,", 1);
    fs::write(&broken, text).unwrap();
    fs::write(place.path().join("opslog-media-fwd-2026-04-13T15:24:00Z.jsonl"), "{\"type\":\"iter").unwrap();
    finished_log(place.path(), &iteration("media", 3), 4);
    let (summary, events) = flush(place.path(), &store);
    assert_eq!((summary.broken, summary.removed, summary.flushed, summary.left), (1, 1, 1, 0));
    assert_eq!(events.len(), 3);
    assert_eq!(logs(place.path()), ["opslog-media-dell-to-hp-2026-04-13T15:23:57.123Z.jsonl.broken"]);
    // what was before the broken line is kept
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 154);
    let rows = store.iterations(None, 10).unwrap();
    let message = "interrupted: operation log is broken at line 152";
    assert_eq!((rows[1].status, rows[1].error_message.as_deref()), (Status::Failed, Some(message)));
    assert_eq!(rows[1].counts.files_created, 150);
}

fn a_dead_run_waits_for_the_next_run_of_its_pair(place: &Ground) {
    let store = place.open();
    let log = OpLog::create(place.path(), &iteration("photos", 0)).unwrap();
    log.intend(&[intent(1), intent(2)]).unwrap();
    log.append(&[operation(1)]).unwrap();
    drop(log);
    // nothing was begun: nothing to wait for
    dead_log(place.path(), &iteration("photos", 1), 0);
    let (summary, events) = flush(place.path(), &store);
    assert_eq!((summary.flushed, summary.set_aside), (2, 1));
    assert!(events[0].starts_with("set aside ") && events[1].starts_with("flushed "), "{events:?}");
    assert!(logs(place.path()).is_empty());
    let aside = place.path().join("state/photos").join(format!("interrupted-{}.jsonl", iteration("photos", 0).run_id));
    assert!(aside.exists());
    let row = &store.iterations(None, 10).unwrap()[1];
    assert_eq!((row.status, row.error_message.as_deref()), (Status::Failed, Some("interrupted")));
    assert_eq!((row.counts.files_created, row.counts.total_bytes_transferred), (1, 9));
    assert_eq!(row.ended_at, operation(1).ended_at);

    // it is not flushed again and again, and claimed by its own pair
    assert_eq!(flush(place.path(), &store).0.flushed, 0);
    let mut claimed = recovery::interrupted(place.path(), &"photos".parse().unwrap()).unwrap();
    let claimed = claimed.pop().unwrap();
    assert_eq!(claimed.unresolved().intents, [intent(2)]);
    claimed.conclude(&operations(2..=2), &interrupted()).unwrap();
    assert_eq!(flush(place.path(), &store).0.flushed, 1);
    assert!(!aside.exists());
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 2);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_iterations"), 2);
}

fn an_interrupted_run_counts_the_data_bytes_that_it_wrote(place: &Ground) {
    let store = place.open();
    let log = OpLog::create(place.path(), &iteration("photos", 0)).unwrap();
    // a link or metadata: a size, but no data
    let metadata = Operation { operation: OperationKind::Update, bytes: 0, md5_after: None, ..operation(2) };
    let failed = Operation { status: OperationStatus::Fail, ..operation(3) };
    log.intend(&[intent(4)]).unwrap();
    log.append(&[operation(1), metadata, failed]).unwrap();
    drop(log);
    let counts = |store: &ha_audit::store::Store| {
        let counts = store.iterations(None, 1).unwrap().remove(0).counts;
        (counts.files_created, counts.files_updated, counts.files_failed, counts.total_bytes_transferred)
    };
    flush(place.path(), &store);
    assert_eq!(counts(&store), (1, 1, 1, 9));
    let log = recovery::interrupted(place.path(), &"photos".parse().unwrap()).unwrap().remove(0);
    let outcome = log.outcome(&operations(4..=4)).unwrap();
    log.conclude(&operations(4..=4), &outcome).unwrap();
    flush(place.path(), &store);
    assert_eq!(counts(&store), (2, 1, 1, 9));
}

fn a_dead_dry_run_leaves_nothing_to_wait_for(place: &Ground) {
    let store = place.open();
    let mut dry = iteration("photos", 0);
    dry.dry_run = true;
    let log = OpLog::create(place.path(), &dry).unwrap();
    let planned = operations(1..=4).into_iter().map(|operation| Operation { bytes: 0, ..operation });
    log.append(&planned.collect::<Vec<_>>()).unwrap();
    drop(log);
    let (summary, _) = flush(place.path(), &store);
    assert_eq!((summary.flushed, summary.set_aside), (1, 0));
    assert!(logs(place.path()).is_empty());
    let row = &store.iterations(None, 1).unwrap()[0];
    assert_eq!((row.counts.files_created, row.counts.total_bytes_transferred), (4, 0));
}

fn a_crash_between_commit_and_removal_duplicates_nothing(place: &Ground) {
    let store = place.open();
    let log = finished_log(place.path(), &iteration("media", 0), 300);
    let whole = fs::read(&log).unwrap();
    for _ in 0..3 {
        assert_eq!(flush(place.path(), &store).0.flushed, 1);
        assert!(!log.exists());
        // as if the removal never reached the disk
        fs::write(&log, &whole).unwrap();
    }
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 300);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_iterations"), 1);
}

fn a_store_that_fails_leaves_the_logs(place: &Ground) {
    let store = place.open();
    finished_log(place.path(), &iteration("media", 0), 10);
    finished_log(place.path(), &iteration("media", 1), 10);
    place.run("ALTER TABLE sync_operations RENAME TO elsewhere");
    let (summary, _) = flush(place.path(), &store);
    assert_eq!((summary.left, summary.flushed, logs(place.path()).len()), (2, 0, 2));
    let error = summary.error.unwrap();
    assert!(error.to_string().starts_with("failed to store operations in the audit database: "), "{error}");
    place.run("ALTER TABLE elsewhere RENAME TO sync_operations");
    assert_eq!(flush(place.path(), &store).0.flushed, 2);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 20);
}

fn a_flush_that_is_told_to_stop_leaves_the_rest_to_the_next(place: &Ground) {
    let store = place.open();
    finished_log(place.path(), &iteration("media", 0), 3000);
    finished_log(place.path(), &iteration("media", 1), 10);
    let asked = std::cell::Cell::new(0);
    let stopped = || asked.replace(asked.get() + 1) >= 2;
    let summary = ha_audit::flush::flush_all(place.path(), &store, &stopped, &mut |_| {});
    assert_eq!((summary.left, summary.flushed, summary.broken), (2, 0, 0), "{:?}", summary.error);
    assert!(summary.error.unwrap().to_string().starts_with("interrupted in operation log: "));
    assert_eq!(logs(place.path()).len(), 2);
    let stored = place.number("SELECT COUNT(*) FROM sync_operations");
    assert!((1..3000).contains(&stored), "{stored} rows");
    assert_eq!(flush(place.path(), &store).0.flushed, 2);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 3010);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_iterations WHERE status = 'success'"), 2);
}

#[test]
fn retention_removes_broken_logs_and_names_those_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    let log = finished_log(dir.path(), &iteration("media", 0), 1);
    let broken = dir.path().join("opslog-media-x.jsonl.broken");
    let recent = dir.path().join("opslog-media-y.jsonl.broken");
    fs::write(&broken, "").unwrap();
    fs::write(&recent, "").unwrap();
    let aside = dir.path().join("state/photos/interrupted-x.jsonl");
    fs::create_dir_all(aside.parent().unwrap()).unwrap();
    fs::write(&aside, "").unwrap();
    fs::write(aside.with_file_name("interrupted-y.jsonl"), "").unwrap();
    for old in [&log, &broken, &aside] {
        File::options()
            .write(true)
            .open(old)
            .unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(11 * 86_400))
            .unwrap();
    }
    let retained = retain(dir.path(), Timestamp::now() - Duration::from_secs(10 * 86_400), false).unwrap();
    assert_eq!((retained.removed, retained.unflushed), (1, vec![log.clone()]));
    assert_eq!(retained.waiting, std::slice::from_ref(&aside));
    assert!(log.exists() && aside.exists() && recent.exists() && !broken.exists());
}

fn a_log_that_may_not_be_opened_does_not_block_the_others(place: &Ground) {
    let store = place.open();
    let log = finished_log(place.path(), &iteration("media", 0), 1);
    finished_log(place.path(), &iteration("media", 1), 1);
    fs::set_permissions(&log, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&log).is_ok() {
        println!("skipped: root may open every file");
        return;
    }
    let (summary, events) = flush(place.path(), &store);
    assert_eq!((summary.left, summary.flushed), (1, 1), "{events:?}");
    assert_eq!(reader::list(place.path()).unwrap().len(), 1);
}

/// Lets the database refuse the operation of this number.
fn refuse(place: &Ground, seq: u64) {
    place.run(&if place.is_sqlite() {
        format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON sync_operations WHEN NEW.seq = {seq} \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    } else {
        format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON sync_operations FOR EACH ROW \
             IF NEW.seq = {seq} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF"
        )
    });
}

fn a_log_whose_rows_are_refused_does_not_block_the_others(place: &Ground) {
    let store = place.open();
    // As a run does: it is `running` before its log is flushed.
    store.begin(&iteration("media", 0)).unwrap();
    finished_log(place.path(), &iteration("media", 0), 9000);
    finished_log(place.path(), &iteration("media", 1), 5);
    refuse(place, 8500);
    let (summary, events) = flush(place.path(), &store);
    assert_eq!((summary.broken, summary.flushed, summary.left), (1, 1, 0), "{events:?}");
    let rows = store.iterations(None, 10).unwrap();
    assert_eq!((rows[0].status, rows[0].counts.files_created), (Status::Success, 5));
    // It has ended, says why, and counts the rows that are there.
    let (refused, stored) = (&rows[1], place.number("SELECT COUNT(*) FROM sync_operations WHERE iteration_id = 1"));
    assert_eq!(refused.status, Status::Failed);
    let message = refused.error_message.as_deref().unwrap_or_default();
    assert!(message.starts_with("the database refuses its operation log: "), "{message}");
    assert!(message.ends_with("refused"), "{message}");
    assert!(refused.ended_at.is_some());
    assert!((1..8500).contains(&stored), "{stored} rows");
    assert_eq!(refused.counts.files_created, stored.unsigned_abs());
    assert!(flush(place.path(), &store).1.is_empty());
}
