//! `ha-sync prune`: removes what is kept for a time only, by age.

use std::time::Duration;

use ha_audit::flush;
use ha_audit::store::Store;
use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, json_line, print};
use ha_sync_engine::restore;
use ha_sync_fs::error::printable_path;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::settings::PruneSettings;
use crate::{records, run};

/// Prunes what the settings name.
pub(crate) fn serve(settings: &PruneSettings) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    let mut answer = serde_json::Map::new();
    let would = if settings.dry_run { "would be removed" } else { "removed" };
    if let Some(age) = settings.db_older_than {
        let (log_directory, _) = records::log_directory(&settings.records)?;
        let dsn = records::dsn(&settings.records, &log_directory)?;
        let store = Store::open(&dsn, records::CONNECT_TIMEOUT).map_err(|error| {
            let hint = records::hint(&error, &dsn);
            let hint = hint.unwrap_or_else(|| "is it the database that the runs use? --db-dsn DSN".to_owned());
            Failure::from_error(FailureKind::Failed, &error).hint(hint)
        })?;
        let before = before(age)?;
        let pruned = if settings.dry_run {
            store.prunable(before).or_failure(FailureKind::Failed)?
        } else {
            store.prune(before, &mut |_| {}).or_failure(FailureKind::Failed)?
        };
        store.close().or_failure(FailureKind::Failed)?;
        text.push_str(&format!(
            "database: {} runs with {} operations {would}\n",
            grouped(pruned.iterations),
            grouped(pruned.operations)
        ));
        answer.insert("database".to_owned(), json!({"iterations": pruned.iterations, "operations": pruned.operations}));
    }
    if let Some(age) = settings.logs_older_than {
        let (log_directory, _) = records::log_directory(&settings.records)?;
        let before = before(age)?;
        let kept = flush::retain(&log_directory, before, settings.dry_run).or_failure(FailureKind::Failed)?;
        text.push_str(&format!("logs: {} set-aside logs {would}\n", grouped(kept.removed)));
        if !kept.unflushed.is_empty() {
            text.push_str(&format!("logs: {} are not in the database yet and stay\n", kept.unflushed.len()));
        }
        if !kept.waiting.is_empty() {
            text.push_str(&format!("logs: {} wait for the next run of their pair and stay\n", kept.waiting.len()));
        }
        answer.insert(
            "logs".to_owned(),
            json!({
                "removed": kept.removed, "unflushed": kept.unflushed.len(), "waiting": kept.waiting.len(),
            }),
        );
    }
    let mut trashes = Vec::new();
    for root in &settings.trash {
        let pruned = restore::prune(root, before(settings.trash_older_than)?, settings.dry_run, None)
            .or_failure(FailureKind::Failed)?;
        text.push_str(&format!(
            "trash of {}: {} runs {would}, {} entries, {}\n",
            printable_path(root),
            pruned.runs,
            grouped(pruned.entries),
            human_bytes(pruned.bytes)
        ));
        trashes.push(json!({
            "root": printable_path(root), "runs": pruned.runs, "entries": pruned.entries, "bytes": pruned.bytes,
        }));
    }
    answer.insert("trash".to_owned(), Value::Array(trashes));
    answer.insert("dry_run".to_owned(), settings.dry_run.into());
    match settings.output.format {
        OutputFormat::Json => print(&json_line(&answer)),
        OutputFormat::Text => print(&text),
    }
    .or_failure(FailureKind::Failed)?;
    Ok(ExitCode::Success)
}

fn before(age: Duration) -> Result<Timestamp, Failure> {
    let age = SignedDuration::try_from(age).or_failure(FailureKind::Usage)?;
    run::now().checked_sub(age).or_failure(FailureKind::Usage)
}
