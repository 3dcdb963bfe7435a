//! Logs and rows.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ha_testkit::command::{Inject, Outcome, unique_pair};
use ha_testkit::loopmount::{need_tool, tmpfs};
use ha_testkit::need;
use ha_testkit::tree::{dir, fifo, file, link, make};

use crate::place::{Place, assert_says, files_below, query, sh, trash_runs};

const NEWER: i64 = 1_750_000_000;
const MD5_OF_HELLO: &str = "5d41402abc4b2a76b9719d911017c592";

/// Runs another pair with the same log directory.
fn another_pair(place: &Place) -> Outcome {
    let (one, other) = (place.path("another/source"), place.path("another/destination"));
    make(&one, &[]);
    make(&other, &[]);
    let outcome = place.binary().arg("--src").arg(&one).arg("--dest").arg(&other).arg("--log-dir");
    let outcome = outcome.arg(place.environment.log_dir()).args(["--pair", &unique_pair()]).run();
    outcome.assert_success();
    outcome
}

fn age(path: &Path, days: u64) {
    let time = SystemTime::now() - Duration::from_secs(days * 86_400);
    std::fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn rows_equal_the_counts() {
    let place = Place::new(
        &[
            file("new", "hello"),
            file("dir/sub/new", ""),
            file("updated", "longer").mtime(NEWER),
            file("equal", "="),
            file("older", "source").mtime(1_600_000_000),
            link("link", "target"),
            fifo("pipe"),
            dir("only"),
        ],
        &[
            file("updated", "short"),
            file("equal", "="),
            file("older", "destination"),
            file("gone", "goes"),
            link("old link", "12345"),
            file("gone dir/x", "y"),
        ],
    );
    place.sync(&["--delete-missing"]);
    let row = place.last();
    assert_eq!(row.text("status"), "success");
    assert!(row.is_null("error_message"));
    let count = |operation: &str| {
        let rows = place.operations();
        rows.iter().filter(|row| row.text("operation") == operation && row.text("status") == "success").count() as i64
    };
    assert_eq!(row.number("files_created"), 6, "new, dir, dir/sub, dir/sub/new, link, only");
    assert_eq!(row.number("files_created"), count("create"));
    assert_eq!((row.number("files_updated"), count("update")), (1, 1));
    assert_eq!((row.number("files_deleted"), count("delete")), (4, 4));
    assert_eq!(row.number("files_failed"), 0);
    assert_eq!(row.number("files_skipped"), 3, "equal, older, pipe");
    assert_eq!(row.number("total_bytes_transferred"), 11);
    assert_eq!((place.skipped("destination newer"), place.skipped("special file")), (1, 1));
    assert!(place.logs().is_empty(), "no log is left");

    let sizes = |path: &str| {
        let row = place.operation(path);
        let size = |column: &str| (!row.is_null(column)).then(|| row.number(column));
        (row.text("operation").to_owned(), size("size_before"), size("size_after"))
    };
    assert_eq!(sizes("new"), ("create".to_owned(), None, Some(5)));
    assert_eq!(sizes("dir/sub"), ("create".to_owned(), None, None));
    assert_eq!(sizes("link"), ("create".to_owned(), None, Some(6)));
    assert_eq!(sizes("updated"), ("update".to_owned(), Some(5), Some(6)));
    assert_eq!(sizes("gone"), ("delete".to_owned(), Some(4), None));
    assert_eq!(sizes("old link"), ("delete".to_owned(), Some(5), None));
    assert_eq!(sizes("gone dir"), ("delete".to_owned(), None, None));
    let seqs = place.query("SELECT count(DISTINCT seq) AS n, count(*) AS all_rows FROM sync_operations").remove(0);
    assert_eq!(seqs.number("n"), seqs.number("all_rows"));
    for row in place.operations() {
        let (start, end) = (row.text("started_at").to_owned(), row.text("ended_at").to_owned());
        assert!(start.len() == 23 && start.as_bytes()[10] == b' ' && start <= end, "{start} {end}");
    }
}

#[test]
fn a_run_with_nothing_to_do_has_an_iteration_and_no_rows() {
    let place = Place::new(&[file("a", ""), file("b/c", "")], &[]);
    place.mirror(&[]);
    place.mirror(&[]);
    let row = place.last();
    assert_eq!((row.text("status"), row.number("files_skipped")), ("success", 2));
    assert!(place.operations().is_empty());
    assert!(trash_runs(&place.destination).is_empty());
}

#[test]
fn md5_sums_are_recorded_of_what_was_read() {
    let place = Place::new(&[file("created", "hello"), file("a", "hello").mtime(NEWER)], &[file("a", "olleh")]);
    place.sync(&[]);
    assert_eq!(place.operation("created").text("md5_after"), MD5_OF_HELLO);
    assert!(place.operation("created").is_null("md5_before"));
    assert_eq!(place.operation("a").text("md5_after"), MD5_OF_HELLO);
    assert_eq!(place.operation("a").text("md5_before").len(), 32);
    let place = Place::new(&[file("a", "hello")], &[]);
    place.sync(&["--audit-md5", "never"]);
    assert!(place.operation("a").is_null("md5_after"));
    let place = Place::new(&[file("a", vec![b'x'; 300_000])], &[]);
    place.sync(&["--audit-md5", "always"]);
    assert_eq!(place.operation("a").text("md5_after").len(), 32);
}

#[test]
fn equal_content_with_a_newer_time_is_an_update_without_bytes() {
    let place = Place::new(&[file("a", "hello").mtime(NEWER)], &[file("a", "hello")]);
    place.mirror(&[]);
    let row = place.operation("a");
    assert_eq!((row.text("operation"), row.text("reason")), ("update", "same content"));
    assert_eq!((row.text("md5_before"), row.text("md5_after")), (MD5_OF_HELLO, MD5_OF_HELLO));
    assert_eq!(place.last().number("total_bytes_transferred"), 0);
    assert!(trash_runs(&place.destination).is_empty());
}

#[test]
fn reasons_are_in_their_column() {
    let future = 4_000_000_000;
    let place = Place::new(
        &[file("tie", "longer"), file("future", "new").mtime(future), file("plain", "new!").mtime(NEWER)],
        &[file("tie", "short"), file("future", "older"), file("plain", "old")],
    );
    let outcome = place.sync(&[]);
    assert_eq!(place.operation("tie").text("reason"), "tie");
    assert_eq!(place.operation("future").text("reason"), "future time");
    assert!(place.operation("plain").is_null("reason"));
    assert_says(&outcome, "modified in the future");
}

#[test]
fn names_are_written_reversibly() {
    let place = Place::new(&[file(b"caf\xe9 \\ \n", "")], &[]);
    place.mirror(&[]);
    assert_eq!(place.operations()[0].text("filepath"), "caf\\xe9 \\\\ \n");
}

#[test]
fn some_failures_make_a_partial_run() {
    let place = Place::new(&[file("a/b", ""), file("c", "")], &[file("a", "")]);
    place.run(&[]).assert_code(3);
    let row = place.last();
    assert_eq!(row.text("status"), "partial_failure");
    assert_eq!((row.number("files_failed"), row.number("files_created")), (1, 1));
    assert!(row.text("error_message").contains("a: type conflict"), "{}", row.text("error_message"));
    assert_eq!(place.operation("a").text("error_message"), "type conflict");
}

#[test]
fn without_a_database_the_run_works_and_another_pair_flushes_its_log() {
    let unreachable = Place::new(&[], &[]);
    std::fs::write(unreachable.path("no database"), vec![7; 5000]).unwrap();
    std::fs::create_dir(unreachable.path("directory.db")).unwrap();
    for path in ["missing/directory/audit.db", "no database", "directory.db", "no database/audit.db"] {
        let place = Place::new(&[file("a", "hello"), file("b/c", "")], &[]);
        let dsn = format!("sqlite:{}", unreachable.path(path).display());
        let outcome = place.run(&["--db-dsn", &dsn]);
        outcome.assert_success();
        place.assert_sides_equal();
        assert_says(&outcome, "the audit store is not reachable");
        let logs = place.logs();
        assert_eq!(logs.len(), 1, "{logs:?}");
        let name = logs[0].file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("opslog-{}-fwd-20", place.environment.pair())), "{name}");
        assert!(outcome.stdout.contains(name), "the summary says where the log is");

        another_pair(&place);
        assert!(place.logs().is_empty());
        let rows = place.query(&format!(
            "SELECT i.status, o.filepath FROM sync_iterations i JOIN sync_operations o ON o.iteration_id = i.id \
             WHERE i.sync_pair = '{}' ORDER BY o.filepath",
            place.environment.pair()
        ));
        let found: Vec<_> = rows.iter().map(|row| (row.text("status"), row.text("filepath"))).collect();
        assert_eq!(found, [("success", "a"), ("success", "b"), ("success", "b/c")]);
    }
}

#[test]
fn a_killed_runs_log_is_flushed_as_interrupted_and_each_operation_is_there_once() {
    need!(need_tool("strace"));
    let items: Vec<_> = (0..6).map(|number| file(format!("{number}/file"), number.to_string())).collect();
    let place = Place::new(&items, &[]);
    let killed =
        place.command(&["--workers", "1"]).strace(Inject::on("linkat,renameat2").signal("KILL").when("3")).run();
    assert_ne!(killed.code(), Some(0));
    assert_eq!(place.logs().len(), 1);

    another_pair(&place);
    let rows = place.query("SELECT * FROM sync_iterations WHERE status = 'failed'");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].text("error_message"), "interrupted");
    place.mirror(&[]);
    place.assert_no_temporary_files();
    assert!(place.logs().is_empty(), "{:?}", place.logs());
    let rows = place.query(
        "SELECT filepath, count(*) AS n FROM sync_operations WHERE status = 'success' AND operation = 'create' \
         GROUP BY filepath",
    );
    assert_eq!(rows.len(), 12);
    assert!(rows.iter().all(|row| row.number("n") == 1));
    let rows = place.query(
        "SELECT i.files_created + i.files_updated + i.files_deleted + i.files_failed - (SELECT count(*) FROM sync_operations o WHERE o.iteration_id = i.id) AS difference \
         FROM sync_iterations i",
    );
    assert!(rows.iter().all(|row| row.number("difference") == 0), "counts equal rows");
}

/// Leaves a log with rows, because there was no database.
fn waiting_log(place: &Place) -> std::path::PathBuf {
    place.sync(&["--db-dsn", "sqlite:/nowhere/at/all.db"]);
    place.logs().remove(0)
}

#[test]
fn a_torn_last_line_is_an_interrupted_run() {
    let place = Place::new(&[file("a", ""), file("b", "")], &[]);
    let log = waiting_log(&place);
    let mut lines: Vec<_> = std::fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
    lines.pop();
    let last = lines.pop().unwrap();
    std::fs::write(&log, format!("{}\n{}", lines.join("\n"), &last[..last.len() / 2])).unwrap();
    place.mirror(&[]);
    let row = place.query("SELECT * FROM sync_iterations ORDER BY id LIMIT 1").remove(0);
    assert_eq!((row.text("status"), row.text("error_message")), ("failed", "interrupted"));
    assert!(place.logs().is_empty());
}

#[test]
fn a_broken_log_is_set_aside_and_the_run_goes_on() {
    let place = Place::new(&[file("a", ""), file("b", "")], &[]);
    let log = waiting_log(&place);
    let text = std::fs::read_to_string(&log).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.insert(1, "{ this is no operation");
    std::fs::write(&log, lines.join("\n") + "\n").unwrap();
    let outcome = another_pair(&place);
    assert_says(&outcome, "a broken log was set aside");
    assert!(place.logs().is_empty());
    let broken = files_below(&place.environment.log_dir())
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(".jsonl.broken"))
        .unwrap();
    another_pair(&place);
    assert!(broken.exists(), "it is kept for --log-retain-days");
    age(&broken, 9);
    another_pair(&place);
    assert!(broken.exists());
    age(&broken, 11);
    another_pair(&place);
    assert!(!broken.exists());
}

/// Tells what is missing or stored twice: each file has one row of success, whichever run it was that copied it.
#[track_caller]
fn assert_one_row_each(database: &Path, files: &[PathBuf]) {
    let rows = query(database, "SELECT filepath FROM sync_operations WHERE status = 'success' ORDER BY filepath");
    let rows: Vec<_> = rows.iter().map(|row| PathBuf::from(row.text("filepath"))).collect();
    let wrong: Vec<_> = files
        .iter()
        .map(|file| (file, rows.iter().filter(|row| *row == file).count()))
        .filter(|(_, count)| *count != 1)
        .collect();
    assert!(wrong.is_empty(), "{} of {} files have not one row: {:?}", wrong.len(), files.len(), wrong.first());
}

#[test]
fn a_log_that_runs_full_loses_no_row() {
    let items: Vec<_> = (0..3000).map(|number| file(format!("dir-{}/file-{number}", number % 40), "x")).collect();
    let place = Place::new(&items, &[]);
    let small = need!(tmpfs(300 << 10));
    let database = place.path("audit.db");
    let dsn = format!("sqlite:{}", database.display());
    let run = |logs: &Path| {
        let run = place.binary().arg("--src").arg(&place.source).arg("--dest").arg(&place.destination);
        run.args(["--pair", &place.environment.pair(), "--db-dsn", &dsn, "--log-dir"]).arg(logs).run()
    };
    let outcome = run(small.path());
    outcome.assert_code(1);
    assert_says(&outcome, "the next run of the pair completes it");
    assert_says(&outcome, "no space left on device");
    let copied = files_below(&place.destination);
    assert!(copied.len() > 100 && copied.len() < 3000, "{} files were copied", copied.len());

    // the log stays full: no run does anything that it could not record
    run(small.path()).assert_code(1);
    let larger = place.path("larger");
    sh(&format!("cp -a {} {}", small.path().display(), larger.display()), &place.source);
    run(&larger).assert_success();
    place.assert_sides_equal();
    let mut files = files_below(&place.source);
    files.iter_mut().for_each(|path| *path = path.strip_prefix(&place.source).unwrap().to_owned());
    assert_one_row_each(&database, &files);
    let interrupted = query(&database, "SELECT * FROM sync_iterations WHERE status = 'failed'");
    assert!(interrupted.iter().all(|row| row.text("error_message") == "interrupted"));
    assert!(files_below(&larger).iter().all(|path| !path.to_string_lossy().ends_with(".jsonl")), "no log is left");
}

#[test]
fn a_log_that_waits_is_never_removed_by_age() {
    let place = Place::new(&[file("a", "")], &[]);
    let log = waiting_log(&place);
    age(&log, 400);
    let outcome = place.sync(&["--db-dsn", "sqlite:/nowhere/at/all.db", "--log-retain-days", "1"]);
    assert!(log.exists());
    assert_says(&outcome, "are not in the database yet and stay");
    place.sync(&[]);
    assert!(!log.exists());
}

#[test]
fn a_log_without_a_whole_header_is_removed() {
    let place = Place::new(&[file("a", "")], &[]);
    let log = place.environment.log_dir().join("opslog-x-fwd-2026-04-13T15:23:57.000Z.jsonl");
    std::fs::write(&log, "{\"run_id\":\"2026").unwrap();
    place.mirror(&[]);
    assert!(!log.exists());
}

#[test]
fn old_trash_goes_and_young_trash_stays() {
    let place = Place::new(&[file("a", "new").mtime(NEWER), file("b", "")], &[file("a", "old")]);
    place.mirror(&[]);
    let young = place.trash();
    let old = young.with_file_name("20200101T000000Z-0123abcd");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("x"), "old").unwrap();
    std::fs::write(old.with_file_name("20200101T000000Z-0123abcd.directories.jsonl"), "").unwrap();
    let foreign = young.with_file_name("not a run");
    std::fs::create_dir(&foreign).unwrap();
    place.sync(&["--keep-replaced", "10000"]);
    assert!(old.exists());
    place.sync(&["--dry-run"]);
    assert!(old.exists());
    place.sync(&[]);
    assert!(!old.exists());
    assert!(!old.with_file_name("20200101T000000Z-0123abcd.directories.jsonl").exists());
    assert_eq!(std::fs::read(young.join("a")).unwrap(), b"old");
    assert!(foreign.exists(), "what is no run's is left alone");
}

#[test]
fn without_trash_nothing_is_kept() {
    let place = Place::new(&[file("a", "new").mtime(NEWER)], &[file("a", "old"), file("gone", ""), file("d/e", "")]);
    place.mirror(&["--keep-replaced", "0", "--delete-missing"]);
    assert!(trash_runs(&place.destination).is_empty());
}

#[test]
fn the_database_may_be_elsewhere_and_come_from_the_environment() {
    let place = Place::new(&[file("a", "")], &[]);
    let database = place.path("audit.db");
    let dsn = format!("sqlite:{}", database.display());
    place.command(&[]).env("HA_SYNC_DB_DSN", &dsn).run().assert_success();
    assert_eq!(query(&database, "SELECT * FROM sync_operations").len(), 1);
    assert!(!place.environment.log_dir().join("ha-sync.db").exists());
    let elsewhere = place.path("flag.db");
    let flag = format!("sqlite:{}", elsewhere.display());
    place.command(&["--db-dsn", &flag]).env("HA_SYNC_DB_DSN", &dsn).run().assert_success();
    assert_eq!(query(&elsewhere, "SELECT * FROM sync_iterations").len(), 1, "the flag wins");
}

#[test]
fn a_malformed_dsn_is_bad_usage_and_changes_nothing() {
    let place = Place::new(&[file("a", "")], &[]);
    let before = place.both();
    let outcome = place.run(&["--db-dsn", "user:hunter2@tcp(host:port/db"]);
    outcome.assert_code(2);
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    place.assert_untouched(&before);
}

#[test]
fn a_log_directory_that_cannot_be_used_is_bad_usage_and_changes_nothing() {
    let place = Place::new(&[file("a", "")], &[]);
    let before = place.both();
    let occupied = place.path("a file");
    std::fs::write(&occupied, "").unwrap();
    let outcome = place.command(&["--log-dir"]).arg(&occupied).run();
    outcome.assert_code(2);
    assert_says(&outcome, "hint: ");
    place.assert_untouched(&before);
}

#[test]
fn prune_tells_the_logs_that_stay() {
    let place = Place::new(&[file("a", "1")], &[]);
    place.sync(&[]);
    let log_dir = place.environment.log_dir();
    let state = log_dir.join("state").join(place.environment.pair());
    let broken = log_dir.join("opslog-x-fwd-2020-01-01T00:00:00Z.jsonl.broken");
    for path in [
        &broken,
        &log_dir.join("opslog-y-fwd-2020-01-01T00:00:00Z.jsonl"),
        &state.join("interrupted-20200101T000000Z-0123abcd.jsonl"),
    ] {
        std::fs::write(path, "{}\n").unwrap();
        age(path, 400);
    }
    let log_dir = log_dir.to_str().unwrap().to_owned();
    let outcome = place.sub(&["prune", "--log-dir", &log_dir, "--logs-older-than", "10d"]);
    outcome.assert_success();
    assert_eq!(
        outcome.stdout,
        "logs: 1 set-aside logs removed\n\
         logs: 1 are not in the database yet and stay\n\
         logs: 1 wait for the next run of their pair and stay\n"
    );
    assert!(!broken.exists());
}
