//! What a run tells on stderr and prints on stdout.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_cli::report::{Both, Mode, Options, Reporter};
use ha_cli::summary::{OutputFormat, Places, PlanPrinter, SummaryOptions, grouped, human_bytes, human_duration};
use ha_sync_core::event::{Event, Observer, Phase};
use ha_sync_core::record::{Counts, Iteration, Operation, OperationKind, OperationStatus, Outcome, Status};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Returns the text with every present time replaced.
    fn timeless(&self) -> String {
        let text = self.text();
        let lines = text.lines().map(|line| match line.strip_prefix("{\"time\":\"") {
            Some(rest) => format!("{{\"time\":\"TIME{}\n", &rest[24..]),
            None => format!("TIME{}\n", &line[24..]),
        });
        lines.collect()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails every write, and counts them.
struct Broken(io::ErrorKind, Arc<Mutex<u32>>);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        *self.1.lock().unwrap() += 1;
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn iteration(dry_run: bool) -> Iteration {
    Iteration {
        run_id: "20260413T152357Z-0000abcd".parse().unwrap(),
        sync_pair: "media".parse().unwrap(),
        direction: "dell-to-hp".parse().unwrap(),
        src: "/mnt/dell/media".to_owned(),
        dest: "/mnt/hp/media".to_owned(),
        started_at: "2026-04-13T15:23:57.250Z".parse().unwrap(),
        dry_run,
        lease_transitions: None,
    }
}

fn outcome() -> Outcome {
    Outcome {
        ended_at: "2026-04-13T15:26:01.250Z".parse().unwrap(),
        status: Status::PartialFailure,
        counts: Counts {
            files_created: 1234,
            files_updated: 7,
            files_deleted: 0,
            files_skipped: 200_000,
            files_failed: 1,
            total_bytes_transferred: 1_288_490_188,
            skip_reasons: [("destination newer".to_owned(), 3)].into(),
        },
        error_message: Some("a\nb: no space left on device".to_owned()),
    }
}

fn operation(kind: OperationKind, path: &str) -> Operation {
    Operation {
        seq: 1,
        operation: kind,
        direction: None,
        filepath: path.to_owned(),
        size_before: (kind != OperationKind::Create).then_some(12),
        size_after: (kind != OperationKind::Delete).then_some(34),
        bytes: 0,
        md5_before: None,
        md5_after: None,
        started_at: "2026-04-13T15:23:58Z".parse().unwrap(),
        ended_at: None,
        status: OperationStatus::Success,
        error_message: None,
        reason: None,
    }
}

fn failed() -> Operation {
    Operation {
        status: OperationStatus::Fail,
        error_message: Some("changed since scan".to_owned()),
        ..operation(OperationKind::Update, "b\nc")
    }
}

fn tell(mode: Mode, verbose: bool, quiet: bool) -> Shared {
    let shared = Shared::default();
    let options = Options { mode, verbose, quiet, dry_run: false };
    let reporter = Reporter::with_writer(options, Box::new(shared.clone()));
    let why = |reason: &str, operation| Operation { reason: Some(reason.to_owned()), ..operation };
    reporter.event(Event::Phase(Phase::Scanning));
    reporter.event(Event::Scanned { entries: 5 });
    reporter.event(Event::Started { filepath: "a" });
    reporter.event(Event::Finished(&operation(OperationKind::Create, "a")));
    reporter.event(Event::Finished(&why("tie", operation(OperationKind::Update, "ä\\xff"))));
    reporter.event(Event::Finished(&operation(OperationKind::Delete, "old\x1b[2J")));
    reporter.event(Event::Finished(&failed()));
    reporter.event(Event::Skipped { filepath: "fifo", reason: "special file" });
    reporter.event(Event::Warning { message: "owner cannot be set: /mnt/hp" });
    reporter.finish(&iteration(false), &outcome());
    shared
}

#[test]
fn text_lines() {
    insta::assert_snapshot!(tell(Mode::Text, true, false).timeless(), @r"
    TIME info scanning
    TIME info create a (34 bytes)
    TIME info update ä\xff (34 bytes, tie)
    TIME info delete old\x1b[2J (12 bytes)
    TIME error failed to update: b\x0ac: changed since scan
    TIME debug skip fifo (special file)
    TIME warning owner cannot be set: /mnt/hp
    ");
    insta::assert_snapshot!(tell(Mode::Text, false, true).timeless(), @r"
    TIME error failed to update: b\x0ac: changed since scan
    TIME warning owner cannot be set: /mnt/hp
    ");
    insta::assert_snapshot!(tell(Mode::Plain, false, false).text(), @r"
    error: failed to update: b\x0ac: changed since scan
    warning: owner cannot be set: /mnt/hp
    ");
}

#[test]
fn json_lines() {
    let text = tell(Mode::Json, true, false).timeless();
    insta::assert_snapshot!(text, @r#"
    {"time":"TIME","level":"info","event":"phase","phase":"scanning"}
    {"time":"TIME","level":"info","event":"operation","operation":"create","path":"a","seq":1,"size_after":34,"status":"success","dry_run":false}
    {"time":"TIME","level":"info","event":"operation","operation":"update","path":"ä\\xff","seq":1,"size_before":12,"size_after":34,"reason":"tie","status":"success","dry_run":false}
    {"time":"TIME","level":"info","event":"operation","operation":"delete","path":"old\u001b[2J","seq":1,"size_before":12,"status":"success","dry_run":false}
    {"time":"TIME","level":"error","event":"operation","operation":"update","path":"b\nc","seq":1,"size_before":12,"size_after":34,"status":"fail","error_message":"changed since scan","dry_run":false}
    {"time":"TIME","level":"debug","event":"skip","path":"fifo","reason":"special file"}
    {"time":"TIME","level":"warning","event":"warning","message":"owner cannot be set: /mnt/hp"}
    {"time":"TIME","level":"info","event":"finished","run_id":"20260413T152357Z-0000abcd","sync_pair":"media","direction":"dell-to-hp","src":"/mnt/dell/media","dest":"/mnt/hp/media","started_at":"2026-04-13T15:23:57.25Z","dry_run":false,"ended_at":"2026-04-13T15:26:01.25Z","status":"partial_failure","files_created":1234,"files_updated":7,"files_deleted":0,"files_skipped":200000,"files_failed":1,"total_bytes_transferred":1288490188,"skip_reasons":{"destination newer":3},"error_message":"a\nb: no space left on device"}
    "#);
}

fn print(format: OutputFormat, dry_run: bool, verbose: bool, current: Option<&str>) -> String {
    let shared = Shared::default();
    let iteration = iteration(dry_run);
    let options = SummaryOptions { format, verbose, quiet: false };
    let printer = PlanPrinter::new(shared.clone(), options, &iteration);
    let silent = ha_sync_core::event::Silent;
    let both = Both(&printer, &silent);
    both.event(Event::Finished(&operation(OperationKind::Create, "a\nb")));
    both.event(Event::Finished(&failed()));
    let places = Places { database: Some("sqlite:/var/log/ha-sync/audit.db".to_owned()), ..Places::default() };
    printer.finish(&iteration, &outcome(), &places, current.map(|time| time.parse().unwrap())).unwrap();
    shared.text()
}

#[test]
fn summary_tables() {
    insta::assert_snapshot!(print(OutputFormat::Text, false, true, None), @r"
    pair                 media (dell-to-hp)
    run                  20260413T152357Z-0000abcd
    status               partial_failure
    created                1,234
    updated                    7
    deleted                    0
    skipped              200,000
      destination newer        3
    failed                     1
    bytes                1.2 GiB (1,288,490,188)
    duration             2m 04s
    rate                 9.9 MiB/s
    database             sqlite:/var/log/ha-sync/audit.db
    error                a\x0ab: no space left on device
    ");
    insta::assert_snapshot!(print(OutputFormat::Text, true, false, Some("2026-04-12T01:02:03Z")), @r"
    create  a\x0ab
    update  b\x0ac  (would fail: changed since scan)
    Dry-run already current as of 2026-04-12T01:02:03Z. Nothing has changed.
    pair       media (dell-to-hp)
    run        20260413T152357Z-0000abcd
    status     partial_failure (dry run, nothing was changed)
    to create    1,234
    to update        7
    to delete        0
    skipped    200,000
    failed           1
    duration   2m 04s
    rate       9.9 MiB/s
    database   sqlite:/var/log/ha-sync/audit.db
    error      a\x0ab: no space left on device
    ");
}

#[test]
fn summary_documents() {
    insta::assert_snapshot!(print(OutputFormat::Json, false, false, None), @r#"
    {"iteration":{"run_id":"20260413T152357Z-0000abcd","sync_pair":"media","direction":"dell-to-hp","src":"/mnt/dell/media","dest":"/mnt/hp/media","started_at":"2026-04-13T15:23:57.25Z","dry_run":false},"plan":[
    {"seq":1,"operation":"create","filepath":"a\nb","size_after":34,"started_at":"2026-04-13T15:23:58Z","status":"success"},
    {"seq":1,"operation":"update","filepath":"b\nc","size_before":12,"size_after":34,"started_at":"2026-04-13T15:23:58Z","status":"fail","error_message":"changed since scan"}],"summary":{"ended_at":"2026-04-13T15:26:01.25Z","status":"partial_failure","files_created":1234,"files_updated":7,"files_deleted":0,"files_skipped":200000,"files_failed":1,"total_bytes_transferred":1288490188,"skip_reasons":{"destination newer":3},"error_message":"a\nb: no space left on device","duration_seconds":124.0,"bytes_per_second":10391049,"places":{"log":null,"database":"sqlite:/var/log/ha-sync/audit.db","trash":null}}}
    "#);
    let text = print(OutputFormat::Json, true, false, Some("2026-04-12T01:02:03Z"));
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["plan"].as_array().unwrap().len(), 2);
    assert_eq!(document["plan"][0]["filepath"], "a\nb");
    assert_eq!(document["already_current_as_of"], "2026-04-12T01:02:03Z");
    assert_eq!(document["summary"]["status"], "partial_failure");
}

#[test]
fn an_empty_plan_is_still_a_document() {
    let shared = Shared::default();
    let options = SummaryOptions { format: OutputFormat::Json, verbose: false, quiet: false };
    let printer = PlanPrinter::new(shared.clone(), options, &iteration(true));
    printer.finish(&iteration(true), &outcome(), &Places::default(), None).unwrap();
    let document: serde_json::Value = serde_json::from_str(&shared.text()).unwrap();
    assert_eq!(document["plan"], serde_json::json!([]));
}

#[test]
fn a_closed_stdout_ends_the_printing_only() {
    for (kind, fine) in [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::StorageFull, false)] {
        let writes = Arc::new(Mutex::new(0));
        let options = SummaryOptions { format: OutputFormat::Text, verbose: false, quiet: false };
        let printer = PlanPrinter::new(Broken(kind, Arc::clone(&writes)), options, &iteration(true));
        for _ in 0..10_000 {
            printer.operation(&operation(OperationKind::Create, "some/long/path"));
        }
        let result = printer.finish(&iteration(true), &outcome(), &Places::default(), None);
        assert_eq!(result.is_ok(), fine);
        assert_eq!(*writes.lock().unwrap(), 1);
    }
}

#[test]
fn numbers_for_people() {
    assert_eq!([grouped(0), grouped(999), grouped(1000), grouped(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
    let sizes = [0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 30, u64::MAX].map(human_bytes);
    assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 GiB", "16.0 EiB"]);
    let times = [0, 250, 9_300, 21_000, 123_000, 3_720_000, 273_600_000];
    let times = times.map(|milliseconds| human_duration(Duration::from_millis(milliseconds)));
    assert_eq!(times, ["0s", "0.25s", "9.3s", "21s", "2m 03s", "1h 02m", "3d 04h"]);
}
