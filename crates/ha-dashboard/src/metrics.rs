//! `/metrics`: the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).
//!
//! When the database is away, what it would tell is left out rather than repeated: `ha_sync_database_up` says why.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use ha_audit::store::IterationRow;
use ha_sync_core::record::Status;
use jiff::Timestamp;

use crate::board::{Board, PendingLogs};
use crate::lock::LockState;
use crate::status::{self, DirectionStatus, Overview, PairStatus};

/// Answers `/metrics`.
pub(crate) async fn show(State(board): State<Arc<Board>>) -> Response {
    let view = board.view().await;
    let overview = view.overview.as_deref().filter(|_| view.away.is_none());
    let text = write(overview, board.pending_logs().await.as_ref(), Timestamp::now());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Is a metric in the making; without a sample it is not written.
struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    help: &'static str,
    begun: bool,
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        if !self.begun {
            let _ = writeln!(self.text, "# HELP {0} {1}\n# TYPE {0} gauge", self.name, self.help);
            self.begun = true;
        }
        self.text.push_str(self.name);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{name}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn family<'a>(text: &'a mut String, name: &'static str, help: &'static str) -> Family<'a> {
    Family { text, name, help, begun: false }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

fn write(overview: Option<&Overview>, pending: Option<&PendingLogs>, now: Timestamp) -> String {
    let mut text = String::new();
    let version = env!("CARGO_PKG_VERSION");
    family(&mut text, "ha_sync_ui_build_info", "Version of the dashboard.").sample(&[("version", version)], 1.0);
    let up = f64::from(u8::from(overview.is_some()));
    family(&mut text, "ha_sync_database_up", "Whether the audit database could be read.").sample(&[], up);
    let pairs = overview.map(|overview| overview.pairs.as_slice()).unwrap_or_default();
    directions(&mut text, pairs);
    locks(&mut text, pairs, now);
    let help = "Operation logs in the log directory that the database does not have yet, the running ones too.";
    let mut family = family(&mut text, "ha_sync_pending_opslogs", help);
    if let Some(pending) = pending {
        for pair in pairs.iter().filter(|pair| !pending.contains_key(&pair.name)) {
            family.sample(&[("pair", &pair.name)], 0.0);
        }
        for (pair, count) in pending {
            family.sample(&[("pair", pair)], *count as f64);
        }
    }
    text
}

type Value = fn(&DirectionStatus) -> Option<f64>;

/// Takes a value of the last real run that has ended.
macro_rules! of_last {
    ($value:expr) => {
        |direction| direction.last_finished().map($value)
    };
}

/// The metrics with one sample per pair and direction.
const DIRECTIONS: [(&str, &str, Value); 11] = [
    ("ha_sync_last_run_timestamp_seconds", "When the last real run began.", |direction| {
        direction.last().map(|run| seconds(run.started_at))
    }),
    ("ha_sync_running", "Whether the last real run has not ended.", |direction| {
        Some(f64::from(u8::from(direction.last().is_some_and(|run| run.status == Status::Running))))
    }),
    ("ha_sync_last_success_timestamp_seconds", "When the last successful real run began.", |direction| {
        direction.last_success.map(seconds)
    }),
    ("ha_sync_last_dry_run_timestamp_seconds", "When the last dry run began.", |direction| {
        direction.last_dry_run.as_ref().map(|run| seconds(run.started_at))
    }),
    ("ha_sync_last_run_duration_seconds", "How long the last finished run took.", |direction| {
        Some(status::duration(direction.last_finished()?)?.as_secs_f64())
    }),
    (
        "ha_sync_last_run_transferred_bytes",
        "Bytes that the last finished run wrote.",
        of_last!(|run| run.counts.total_bytes_transferred as f64),
    ),
    (
        "ha_sync_last_run_failures",
        "Operations that failed in the last finished run.",
        of_last!(|run| run.counts.files_failed as f64),
    ),
    ("ha_sync_run_interval_seconds", "Observed time between starts of runs.", |direction| {
        direction.rhythm.map(|rhythm| rhythm.interval.as_secs_f64())
    }),
    ("ha_sync_next_run_expected_timestamp_seconds", "When the next run is expected.", |direction| {
        direction.next_expected().map(seconds)
    }),
    ("ha_sync_overdue", "Whether a run should have begun and has not, or does not end.", |direction| {
        Some(f64::from(u8::from(direction.overdue)))
    }),
    ("ha_sync_conflicts_open", "Conflicts that the last finished run left open.", |direction| {
        Some(direction.conflicts as f64)
    }),
];

fn each(pairs: &[PairStatus]) -> impl Iterator<Item = (&str, &DirectionStatus)> {
    pairs.iter().flat_map(|pair| pair.directions.iter().map(|direction| (pair.name.as_str(), direction)))
}

fn directions(text: &mut String, pairs: &[PairStatus]) {
    for (name, help, value) in DIRECTIONS {
        let mut family = family(text, name, help);
        for (pair, direction) in each(pairs) {
            if let Some(value) = value(direction) {
                family.sample(&[("pair", pair), ("direction", &direction.direction)], value);
            }
        }
    }
    // Not of a run under way: between two runs that fail, an alert would end and its patience begin anew.
    let help = "1 for the status of the last finished run, 0 for the others.";
    let mut statuses = family(text, "ha_sync_last_run_status", help);
    for (pair, direction) in each(pairs) {
        let Some(run) = direction.last_finished() else { continue };
        for status in [Status::Success, Status::PartialFailure, Status::Failed] {
            let labels = [("pair", pair), ("direction", &direction.direction), ("status", status.as_str())];
            statuses.sample(&labels, f64::from(u8::from(run.status == status)));
        }
    }
    let help = "Files of the last finished run, by what was done to them.";
    let mut files = family(text, "ha_sync_last_run_files", help);
    for (pair, direction) in each(pairs) {
        let Some(IterationRow { counts, .. }) = direction.last_finished() else { continue };
        for (result, count) in [
            ("created", counts.files_created),
            ("updated", counts.files_updated),
            ("deleted", counts.files_deleted),
            ("skipped", counts.files_skipped),
            ("failed", counts.files_failed),
        ] {
            files.sample(&[("pair", pair), ("direction", &direction.direction), ("result", result)], count as f64);
        }
    }
}

fn locks(text: &mut String, pairs: &[PairStatus], now: Timestamp) {
    let mut held = family(text, "ha_sync_lock_held", "Whether the pair's lock is held.");
    for pair in pairs {
        let is_held = match pair.lock {
            LockState::Unknown | LockState::Unanswered { .. } => continue,
            LockState::Free => false,
            LockState::Held { .. } => true,
        };
        held.sample(&[("pair", &pair.name)], f64::from(u8::from(is_held)));
    }
    let mut age = family(text, "ha_sync_lock_age_seconds", "For how long the pair's lock has been held.");
    for pair in pairs {
        if let LockState::Held { since: Some(since), .. } = &pair.lock {
            age.sample(&[("pair", &pair.name)], now.duration_since(*since).as_secs_f64().max(0.0));
        }
    }
}
