//! `ha-sync status`: how a pair stands.

use std::path::PathBuf;

use ha_audit::reader;
use ha_audit::store::{IterationRow, Store};
use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, json_line, print};
use ha_cli::table::{Align, Table};
use ha_sync_core::path::{printable, unescape};
use ha_sync_core::record::Status;
use ha_sync_engine::baseline::Baseline;
use ha_sync_engine::{conflicts, restore};
use ha_sync_fs::local;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::conflicts::RESOLVE;
use crate::records;
use crate::settings::{PairSettings, StatusSettings};

/// Is the label of two-way runs in the records.
const TWO_WAY: &str = "two-way";

/// Says what is known of the two sides without a look at the files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sides {
    /// They were equal when this run had ended; what was changed since is not known.
    Equal(Timestamp),
    /// They were not, for this reason.
    Different(String),
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// Is everything that is told.
struct Standing {
    sides: Sides,
    /// The roots of the last run, or of the baseline, as paths.
    roots: Vec<PathBuf>,
    runs: Vec<IterationRow>,
    /// Why there are no runs, when the records could not be read.
    unread: Option<String>,
    conflicts: Result<usize, String>,
    baseline: Result<Option<Baseline>, String>,
    waiting: usize,
}

/// Tells how the pair stands.
pub(crate) fn serve(settings: &StatusSettings) -> Result<ExitCode, Failure> {
    let StatusSettings { pair: PairSettings { pair, records, output }, runs } = settings;
    let (log_directory, _) = records::log_directory(records)?;
    let line = |error: &(dyn std::error::Error + 'static)| Failure::from_error(FailureKind::Failed, error).one_line();
    let waiting = reader::list(&log_directory).or_failure(FailureKind::Failed)?.len();
    let baseline = Baseline::open_of(&Baseline::file(&log_directory, pair), pair).map_err(|error| line(&error));
    let conflicts = conflicts::load(&log_directory, pair).map(|open| open.len()).map_err(|error| line(&error));
    let dsn = records::dsn(records, &log_directory)?;
    // One more than is told, and never none: the last real run tells of the sides.
    let found = Store::open_read_only(&dsn, records::CONNECT_TIMEOUT)
        .and_then(|store| store.iterations(Some(pair), (*runs).max(100)));
    let (found, unread) = match found {
        Ok(found) => (found, None),
        Err(error) => (Vec::new(), Some(line(&error))),
    };
    if found.is_empty() && matches!(baseline, Ok(None)) && conflicts == Ok(0) {
        let failure = Failure::new(FailureKind::Failed, format!("nothing is known of pair {pair}"));
        let failure = unread.into_iter().fold(failure, |failure, why| failure.hint(why));
        return Err(failure.hint("are its records elsewhere? --log-dir DIR, --db-dsn DSN"));
    }
    let sides = sides(&found, conflicts.as_ref().copied().unwrap_or(0));
    let roots = roots(&found, baseline.as_ref().ok().and_then(Option::as_ref));
    let runs = found.into_iter().take(*runs as usize).collect();
    let standing = Standing { sides, roots, runs, unread, conflicts, baseline, waiting };
    let text = match output.format {
        OutputFormat::Json => json_line(&standing.document(pair.as_str())),
        OutputFormat::Text => standing.text(pair.as_str())?,
    };
    print(&text).or_failure(FailureKind::Failed)?;
    Ok(ExitCode::Success)
}

/// Says what the last real run tells of the two sides; runs come newest first.
fn sides(runs: &[IterationRow], conflicts: usize) -> Sides {
    let Some(last) = runs.iter().find(|run| !run.dry_run && run.direction != RESOLVE) else {
        return Sides::Unknown("no run is recorded".to_owned());
    };
    match last.status {
        Status::Running => Sides::Unknown("the last run goes on, or was interrupted".to_owned()),
        Status::Failed => {
            let why = last.error_message.as_deref().unwrap_or("no cause is recorded");
            Sides::Unknown(format!("the last run failed: {why}"))
        }
        // What a one-way job leaves at its destination, it does not tell.
        _ if last.direction != TWO_WAY => Sides::Unknown("a one-way run does not tell".to_owned()),
        _ if conflicts > 0 => Sides::Different(format!("{} conflicts are open", grouped(conflicts as u64))),
        Status::PartialFailure => {
            let why = last.error_message.as_deref().unwrap_or("no cause is recorded");
            Sides::Different(format!("the last run did not do all: {why}"))
        }
        Status::Success => Sides::Equal(last.ended_at.unwrap_or(last.started_at)),
    }
}

fn roots(runs: &[IterationRow], baseline: Option<&Baseline>) -> Vec<PathBuf> {
    let path = |bytes: Vec<u8>| PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes));
    match (runs.first(), baseline) {
        (Some(run), _) => [&run.src, &run.dest].into_iter().filter_map(|root| unescape(root)).map(path).collect(),
        (None, Some(baseline)) => {
            let (one, other) = baseline.header().roots.clone();
            vec![path(one), path(other)]
        }
        (None, None) => Vec::new(),
    }
}

impl Standing {
    fn text(&self, pair: &str) -> Result<String, Failure> {
        let mut lines = vec![("pair", pair.to_owned())];
        let sides = match &self.sides {
            Sides::Equal(time) => format!("equal when the last run ended, {time:.0}"),
            Sides::Different(why) => format!("not equal: {why}"),
            Sides::Unknown(why) => format!("not known to be equal: {why}"),
        };
        lines.push(("sides", sides));
        lines.push((
            "conflicts",
            match &self.conflicts {
                Ok(0) => "none open".to_owned(),
                Ok(count) => format!("{} open, see: ha-sync conflicts --pair {pair}", grouped(*count as u64)),
                Err(error) => error.clone(),
            },
        ));
        lines.push((
            "baseline",
            match &self.baseline {
                Ok(None) => "none".to_owned(),
                Ok(Some(baseline)) => {
                    let written = baseline.header().written;
                    format!("{} entries, written {written:.0}", grouped(baseline.entries()))
                }
                Err(error) => format!("counts as none: {error}"),
            },
        ));
        for (index, root) in self.roots.iter().enumerate() {
            let root_shown = ha_sync_fs::error::printable_path(root);
            let trash = match trash(root) {
                Ok(trash) if trash.entries == 0 => "empty".to_owned(),
                Ok(trash) => format!(
                    "{} entries of {} runs, {}",
                    grouped(trash.entries),
                    grouped(trash.runs),
                    human_bytes(trash.bytes)
                ),
                Err(why) => why,
            };
            lines.push((if index == 0 { "trash" } else { "" }, format!("{root_shown}: {trash}")));
        }
        if self.waiting > 0 {
            lines.push(("logs", format!("{} in the log directory are not in the database", self.waiting)));
        }
        if let Some(why) = &self.unread {
            lines.push(("records", why.clone()));
        }
        let mut text: String =
            lines.iter().map(|(name, value)| format!("{name:9}  {}\n", printable(value.as_bytes()))).collect();
        if !self.runs.is_empty() {
            text.push('\n');
            let mut table = Vec::new();
            self.table().write(&mut table).or_failure(FailureKind::Failed)?;
            text.push_str(&String::from_utf8_lossy(&table));
        }
        Ok(text)
    }

    fn table(&self) -> Table<8> {
        let (left, right) = (Align::Left, Align::Right);
        let mut table = Table::new([left, left, left, right, right, right, right, right]);
        table.row(["started", "direction", "status", "created", "updated", "deleted", "skipped", "failed"]);
        for run in &self.runs {
            let counts = &run.counts;
            let dry = if run.dry_run { " (dry run)" } else { "" };
            table.row([
                format!("{:.0}", run.started_at),
                run.direction.clone(),
                format!("{}{dry}", run.status.as_str()),
                grouped(counts.files_created),
                grouped(counts.files_updated),
                grouped(counts.files_deleted),
                grouped(counts.files_skipped),
                grouped(counts.files_failed),
            ]);
        }
        table
    }

    fn document(&self, pair: &str) -> Value {
        let (equal, as_of, why) = match &self.sides {
            Sides::Equal(time) => (Some(true), Some(time.to_string()), None),
            Sides::Different(why) => (Some(false), None, Some(why)),
            Sides::Unknown(why) => (None, None, Some(why)),
        };
        let roots: Vec<Value> = self
            .roots
            .iter()
            .map(|root| {
                let path = ha_sync_core::path::escape(root.as_os_str().as_encoded_bytes());
                match trash(root) {
                    Ok(trash) => json!({ "path": path, "trash": {
                        "runs": trash.runs, "entries": trash.entries, "bytes": trash.bytes,
                    }}),
                    Err(error) => json!({ "path": path, "error": error }),
                }
            })
            .collect();
        let baseline = match &self.baseline {
            Ok(None) => Value::Null,
            Ok(Some(baseline)) => json!({
                "entries": baseline.entries(), "directories": baseline.directories(),
                "run_id": baseline.header().run_id, "written": baseline.header().written.to_string(),
            }),
            Err(error) => json!({ "error": error }),
        };
        let runs: Vec<Value> = self.runs.iter().map(row).collect();
        json!({
            "pair": pair, "sides_equal": equal, "sides_equal_as_of": as_of, "why_not": why, "roots": roots,
            "open_conflicts": self.conflicts.as_ref().ok(), "baseline": baseline, "waiting_logs": self.waiting,
            "records_error": self.unread, "runs": runs,
        })
    }
}

fn row(run: &IterationRow) -> Value {
    json!({
        "run_id": run.run_id, "direction": run.direction, "src": run.src, "dest": run.dest,
        "started_at": run.started_at.to_string(), "ended_at": run.ended_at.map(|time| time.to_string()),
        "status": run.status, "dry_run": run.dry_run, "counts": run.counts, "error_message": run.error_message,
    })
}

/// Adds up everything in the trash of a root.
fn trash(root: &std::path::Path) -> Result<restore::Pruned, String> {
    if !local::is_directory(&local::canonical(root)) {
        return Err("the root is not there".to_owned());
    }
    restore::prune(root, Timestamp::MAX, true, None)
        .map_err(|error| Failure::from_error(FailureKind::Failed, &error).one_line())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_sync_core::record::Counts;

    fn run(direction: &str, status: Status, dry_run: bool) -> IterationRow {
        let start: Timestamp = "2026-04-13T15:23:57Z".parse().unwrap();
        IterationRow {
            id: 1,
            run_id: None,
            sync_pair: "p".to_owned(),
            direction: direction.to_owned(),
            src: "/a".to_owned(),
            dest: "/b".to_owned(),
            started_at: start,
            ended_at: Some(Timestamp::from_second(start.as_second() + 5).unwrap()),
            status,
            dry_run,
            counts: Counts { files_failed: 3, ..Counts::default() },
            error_message: Some("why".to_owned()),
            lease_transitions: None,
        }
    }

    #[test]
    fn only_a_whole_two_way_run_says_that_the_sides_are_equal() {
        let equal = Sides::Equal("2026-04-13T15:24:02Z".parse().unwrap());
        let unknown = |why: &str| Sides::Unknown(why.to_owned());
        let different = |why: &str| Sides::Different(why.to_owned());
        let two_way = |status| run(TWO_WAY, status, false);
        let rows = [
            (vec![], 0, unknown("no run is recorded")),
            (vec![two_way(Status::Success)], 0, equal.clone()),
            (vec![run(TWO_WAY, Status::Failed, true), two_way(Status::Success)], 0, equal),
            (
                vec![run(RESOLVE, Status::Success, false), two_way(Status::PartialFailure)],
                0,
                different("the last run did not do all: why"),
            ),
            (vec![run(TWO_WAY, Status::Success, true)], 0, unknown("no run is recorded")),
            (vec![two_way(Status::Success)], 2, different("2 conflicts are open")),
            (vec![two_way(Status::PartialFailure)], 2, different("2 conflicts are open")),
            (vec![two_way(Status::PartialFailure)], 0, different("the last run did not do all: why")),
            (vec![two_way(Status::Failed)], 0, unknown("the last run failed: why")),
            (vec![two_way(Status::Running)], 0, unknown("the last run goes on, or was interrupted")),
            (vec![run("fwd", Status::Success, false)], 0, unknown("a one-way run does not tell")),
        ];
        for (runs, conflicts, expected) in rows {
            assert_eq!(sides(&runs, conflicts), expected);
        }
    }
}
