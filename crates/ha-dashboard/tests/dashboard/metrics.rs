//! `/metrics`, and the alerts that are made from it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ha_audit::oplog::OpLog;
use ha_dashboard::lock::{Immediate, LockState};
use ha_sync_core::name::RunId;
use ha_sync_core::record::{Iteration, OperationKind, Status};
use ha_testkit::loopmount::need_tool;
use ha_testkit::need;
use jiff::{SignedDuration, Timestamp};

use crate::ground::{Dashboard, Ground, Run, on_both};

on_both! { metrics_say_what_the_records_say, a_run_under_way_does_not_hide_how_the_one_before_it_ended }

fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

fn metrics_say_what_the_records_say(place: &Ground) {
    for ago in [66, 51, 36, 21] {
        place.record(&Run::new("media", ago));
    }
    place.record(
        &Run { skips: &[("changed on both sides", 2), ("tie", 5)], ..Run::new("media", 6) }
            .with(OperationKind::Create, "a")
            .failing(OperationKind::Update, "b", "denied", Some("type conflict")),
    );
    place.record(&Run { dry_run: true, ..Run::new("media", 3) });
    for ago in [300, 285, 270, 255] {
        place.record(&Run { direction: "b-to-a", ..Run::new("photos", ago) });
    }
    let started_at = Timestamp::now();
    let waiting = Iteration {
        run_id: RunId::new(started_at, 99),
        sync_pair: "photos".parse().unwrap(),
        direction: "b-to-a".parse().unwrap(),
        src: "/a".to_owned(),
        dest: "/b".to_owned(),
        started_at,
        dry_run: false,
        lease_transitions: None,
    };
    let _log = OpLog::create(place.path(), &waiting).unwrap();
    let locks = Immediate(|pair: &str| match pair {
        "media" => {
            LockState::Held { holder: "node".to_owned(), since: Some(Timestamp::now() - SignedDuration::from_secs(42)) }
        }
        _ => LockState::Free,
    });
    let dashboard = Dashboard::start(place.dsn(), Box::new(locks), Some(place.path()), None);
    let answer = dashboard.get("/metrics");
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let all = samples(&answer.body);
    let value = |name: &str| *all.get(name).unwrap_or_else(|| panic!("{name} is not in {}", answer.body));
    let media = |name: &str| value(&format!("ha_sync_{name}{{pair=\"media\",direction=\"a-to-b\"}}"));
    let now = Timestamp::now().as_second() as f64;
    assert_eq!(value("ha_sync_database_up"), 1.0);
    assert!((now - media("last_run_timestamp_seconds") - 360.0).abs() < 60.0);
    assert!((now - media("last_success_timestamp_seconds") - 21.0 * 60.0).abs() < 60.0);
    assert!((now - media("last_dry_run_timestamp_seconds") - 180.0).abs() < 60.0);
    assert_eq!(media("last_run_duration_seconds"), 1.5);
    assert_eq!(media("last_run_transferred_bytes"), 2048.0);
    assert_eq!(media("last_run_failures"), 1.0);
    assert!((media("run_interval_seconds") - 900.0).abs() < 5.0);
    assert_eq!(media("overdue"), 0.0);
    assert_eq!(media("conflicts_open"), 3.0);
    let labelled =
        |name: &str, label: &str| value(&format!("ha_sync_{name}{{pair=\"media\",direction=\"a-to-b\",{label}}}"));
    assert_eq!(labelled("last_run_status", "status=\"partial_failure\""), 1.0);
    assert_eq!(labelled("last_run_status", "status=\"success\""), 0.0);
    assert_eq!(labelled("last_run_files", "result=\"created\""), 1.0);
    assert_eq!(labelled("last_run_files", "result=\"skipped\""), 7.0);
    assert_eq!(value("ha_sync_overdue{pair=\"photos\",direction=\"b-to-a\"}"), 1.0);
    assert_eq!(value("ha_sync_lock_held{pair=\"media\"}"), 1.0);
    assert_eq!(value("ha_sync_lock_held{pair=\"photos\"}"), 0.0);
    assert!((value("ha_sync_lock_age_seconds{pair=\"media\"}") - 42.0).abs() < 20.0);
    assert_eq!(value("ha_sync_pending_opslogs{pair=\"photos\"}"), 1.0);
    assert_eq!(value("ha_sync_pending_opslogs{pair=\"media\"}"), 0.0);
}

fn a_run_under_way_does_not_hide_how_the_one_before_it_ended(place: &Ground) {
    let dashboard = place.dashboard();
    // older than a second, so that the next question is asked of the database
    let seen = || {
        std::thread::sleep(Duration::from_millis(1100));
        let answer = dashboard.get("/metrics");
        let all = samples(&answer.body);
        let value = |name: &str, more: &str| {
            all.get(&format!("ha_sync_{name}{{pair=\"media\",direction=\"a-to-b\"{more}}}")).copied()
        };
        let status = |status: &str| value("last_run_status", &format!(",status=\"{status}\""));
        (value("running", ""), status("partial_failure"), status("failed"), status("success"), status("running"))
    };
    place.begin(&Run::new("media", 50));
    assert_eq!(seen(), (Some(1.0), None, None, None, None), "of a first run nothing is known until it ends");
    let run = Run { error: Some("1 operation failed"), ..Run::new("media", 20) };
    place.record(&run.failing(OperationKind::Update, "b", "denied", None));
    let ended = (Some(0.0), Some(1.0), Some(0.0), Some(0.0), None);
    assert_eq!(seen(), ended);
    place.begin(&Run::new("media", 5));
    assert_eq!(seen(), (Some(1.0), ended.1, ended.2, ended.3, None), "while the next one runs");
    place.record(&Run { status: Status::Failed, error: Some("halted"), ..Run::new("media", 3) });
    place.begin(&Run::new("media", 1));
    assert_eq!(seen(), (Some(1.0), Some(0.0), Some(1.0), Some(0.0), None), "while the one after it runs");
}

fn promtool(arguments: &[&str], input: &str) {
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/monitoring");
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(monitoring);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}\n{input}", String::from_utf8_lossy(&said));
}

#[test]
fn prometheus_takes_the_metrics() {
    need!(need_tool("promtool"));
    let place = Ground::sqlite();
    for ago in [60, 45, 30, 15] {
        place.record(&Run::new("media", ago));
    }
    place.record(&Run { status: Status::Failed, error: Some("halted"), ..Run::new("media", 1) });
    let locks =
        Immediate(|_: &str| LockState::Held { holder: "n\"\\\n".to_owned(), since: Some(Timestamp::UNIX_EPOCH) });
    let dashboard = Dashboard::start(place.dsn(), Box::new(locks), Some(place.path()), None);
    promtool(&["check", "metrics"], &dashboard.get("/metrics").body);
}

#[test]
fn alerts_come_when_they_should_and_only_then() {
    need!(need_tool("promtool"));
    promtool(&["check", "rules", "alerts.yaml"], "");
    promtool(&["test", "rules", "alerts_test.yaml"], "");
}

/// What rules and the board ask for is what `/metrics` has.
#[test]
fn rules_and_board_ask_for_metrics_that_exist() {
    let place = Ground::sqlite();
    for ago in [60, 45, 30, 15] {
        place.record(&Run::new("media", ago));
    }
    place.record(&Run { dry_run: true, ..Run::new("media", 1) });
    let locks = Immediate(|_: &str| LockState::Held { holder: "n".to_owned(), since: Some(Timestamp::UNIX_EPOCH) });
    let dashboard = Dashboard::start(place.dsn(), Box::new(locks), Some(place.path()), None);
    let metrics = dashboard.get("/metrics").body;
    let there: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/monitoring");
    let documented = std::fs::read_to_string(monitoring.join("../../docs/dashboard.md")).unwrap();
    for name in &there {
        assert!(documented.contains(&format!("`{name}`")), "docs/dashboard.md says nothing of {name}");
    }
    for file in ["alerts.yaml", "grafana.json"] {
        let text = std::fs::read_to_string(monitoring.join(file)).unwrap();
        let word = |character: char| !(character.is_ascii_alphanumeric() || character == '_');
        let mut asked = 0;
        for name in text.split(word).filter(|name| name.starts_with("ha_sync_")) {
            assert!(there.contains(&name), "{file} asks for {name}");
            asked += 1;
        }
        assert!(asked > 4, "{file}");
        if file.ends_with(".json") {
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }
}
