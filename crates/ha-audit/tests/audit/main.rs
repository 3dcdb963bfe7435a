//! Logs and stores on a real file system and a real SQLite, as the engine uses them.
#![expect(clippy::disallowed_methods, reason = "a test that fails shows its path anyway")]
#![expect(clippy::print_stdout, reason = "a test says what it skipped or measured")]

mod crash;
mod directory;
mod ground;
mod log;
mod schema;
mod server;
mod store;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_audit::flush::{FlushEvent, FlushSummary, flush_all};
use ha_audit::oplog::OpLog;
use ha_audit::store::Store;
use ha_sync_core::name::RunId;
use ha_sync_core::record::{
    Counts, Identity, Intent, Iteration, Operation, OperationKind, OperationStatus, Outcome, Status,
};
use jiff::Timestamp;

const START: &str = "2026-04-13T15:23:57.123Z";

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The `number`-th run of a pair, a minute after the one before.
fn iteration(pair: &str, number: u32) -> Iteration {
    let started_at = time(START) + Duration::from_secs(60 * u64::from(number));
    Iteration {
        run_id: RunId::new(started_at, number),
        sync_pair: pair.parse().unwrap(),
        direction: "dell-to-hp".parse().unwrap(),
        src: "/mnt/a".to_owned(),
        dest: "/mnt/b".to_owned(),
        started_at,
        dry_run: false,
        lease_transitions: Some(7),
    }
}

fn operation(seq: u64) -> Operation {
    Operation {
        seq,
        operation: OperationKind::Create,
        direction: None,
        filepath: format!("dir-{}/file \"{seq}\"\n", seq % 7),
        size_before: None,
        size_after: Some(10),
        bytes: 9,
        md5_before: None,
        md5_after: Some("0123456789abcdef0123456789abcdef".to_owned()),
        started_at: time(START),
        ended_at: Some(time(START) + Duration::from_millis(seq)),
        status: OperationStatus::Success,
        error_message: None,
        reason: None,
    }
}

fn operations(range: std::ops::RangeInclusive<u64>) -> Vec<Operation> {
    range.map(operation).collect()
}

fn intent(seq: u64) -> Intent {
    let after = Identity { kind: 'f', size: 10, mtime: 1_776_093_837_123_456_789, inode: 0, metadata: None };
    let filepath = operation(seq).filepath;
    Intent { seq, operation: OperationKind::Create, direction: None, filepath, before: None, after: Some(after) }
}

fn success(created: u64) -> Outcome {
    Outcome {
        ended_at: time("2026-04-13T15:30:00Z"),
        status: Status::Success,
        counts: Counts {
            files_created: created,
            files_skipped: 3,
            total_bytes_transferred: 10 * created,
            skip_reasons: [("destination newer".to_owned(), 3)].into(),
            ..Counts::default()
        },
        error_message: None,
    }
}

fn interrupted() -> Outcome {
    let error_message = Some("interrupted".to_owned());
    Outcome { status: Status::Failed, counts: Counts::default(), error_message, ended_at: time(START) }
}

/// Writes a whole log with operations 1 to `count`.
fn finished_log(dir: &Path, iteration: &Iteration, count: u64) -> PathBuf {
    let log = OpLog::create(dir, iteration).unwrap();
    log.append(&operations(1..=count)).unwrap();
    log.finish(&success(count)).unwrap()
}

/// Writes a log whose run died after operations 1 to `count`.
fn dead_log(dir: &Path, iteration: &Iteration, count: u64) -> PathBuf {
    let log = OpLog::create(dir, iteration).unwrap();
    log.append(&operations(1..=count)).unwrap();
    log.path().to_owned()
}

fn flush(dir: &Path, store: &Store) -> (FlushSummary, Vec<String>) {
    let mut events = Vec::new();
    let summary = flush_all(dir, store, &|| false, &mut |event| {
        let (word, path) = match event {
            FlushEvent::Flushed { path, .. } => ("flushed", path),
            FlushEvent::SetAside { path, .. } => ("set aside", path),
            FlushEvent::Live { path } => ("live", path),
            FlushEvent::Removed { path } => ("removed", path),
            FlushEvent::Broken { path, .. } => ("broken", path),
            FlushEvent::Failed { path, .. } => ("failed", path),
        };
        events.push(format!("{word} {}", path.file_name().unwrap().display()));
    });
    (summary, events)
}

fn logs(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("jsonl"))
        .collect();
    names.sort();
    names
}
