//! The JSON API. Field names are stable and those of the tables; times are RFC 3339 in UTC; lists are cut, and
//! `next_cursor` tells where they go on. `openapi.json` describes it; a test holds the two against each other.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use ha_audit::query::{IterationFilter, OperationRow, ReadError};
use ha_audit::store::IterationRow;
use ha_sync_core::record::{OperationStatus, Way};
use serde_json::{Value, json};

use crate::board::Board;
use crate::format::rfc3339;
use crate::lock::LockState;
use crate::pages::{no_run, run, run_key};
use crate::parameters::{self, Parameters, Segment};
use crate::refusal::Refusal;
use crate::restore;
use crate::status::{self, DirectionStatus, Overview, PairStatus};

const ITERATIONS: u32 = 20;
const OPERATIONS: u32 = 100;

fn answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], value.to_string()).into_response()
}

/// Writes a run.
pub(crate) fn iteration_json(run: &IterationRow) -> Value {
    json!({
        "id": run.id,
        "run_id": run.run_id,
        "sync_pair": run.sync_pair,
        "direction": run.direction,
        "src": run.src,
        "dest": run.dest,
        "started_at": rfc3339(run.started_at),
        "ended_at": run.ended_at.map(rfc3339),
        "duration_seconds": status::duration(run).map(|took| took.as_secs_f64()),
        "status": run.status.as_str(),
        "dry_run": run.dry_run,
        "files_created": run.counts.files_created,
        "files_updated": run.counts.files_updated,
        "files_deleted": run.counts.files_deleted,
        "files_skipped": run.counts.files_skipped,
        "files_failed": run.counts.files_failed,
        "total_bytes_transferred": run.counts.total_bytes_transferred,
        "error_message": run.error_message,
        "skip_reasons": run.counts.skip_reasons,
        "lease_transitions": run.lease_transitions,
    })
}

/// Writes an operation.
pub(crate) fn operation_json(operation: &OperationRow) -> Value {
    json!({
        "id": operation.id,
        "iteration_id": operation.iteration_id,
        "seq": operation.seq,
        "operation": operation.operation.as_str(),
        "filepath": operation.filepath,
        "size_before": operation.size_before,
        "size_after": operation.size_after,
        "md5_before": operation.md5_before,
        "md5_after": operation.md5_after,
        "started_at": rfc3339(operation.started_at),
        "ended_at": operation.ended_at.map(rfc3339),
        "status": status_word(operation.status),
        "error_message": operation.error_message,
        "reason": operation.reason,
        "direction": operation.way.map(Way::as_str),
    })
}

/// Returns the word of the schema.
pub(crate) fn status_word(status: OperationStatus) -> &'static str {
    match status {
        OperationStatus::Success => "success",
        OperationStatus::Fail => "fail",
    }
}

fn direction_json(direction: &DirectionStatus) -> Value {
    json!({
        "direction": direction.direction,
        "health": direction.health().as_str(),
        "overdue": direction.overdue,
        "last_run": direction.last().map(iteration_json),
        "last_dry_run": direction.last_dry_run.as_ref().map(iteration_json),
        "last_success_at": direction.last_success.map(rfc3339),
        "interval_seconds": direction.rhythm.map(|rhythm| rhythm.interval.as_secs()),
        "next_expected_at": direction.next_expected().map(rfc3339),
        "conflicts_open": direction.conflicts,
    })
}

fn pair_json(pair: &PairStatus) -> Value {
    let lock = match &pair.lock {
        LockState::Unknown | LockState::Unanswered { .. } => json!({"state": "unknown", "holder": null, "since": null}),
        LockState::Free => json!({"state": "free", "holder": null, "since": null}),
        LockState::Held { holder, since } => {
            json!({"state": "held", "holder": holder, "since": since.map(rfc3339)})
        }
    };
    json!({
        "sync_pair": pair.name,
        "health": pair.health().as_str(),
        "lock": lock,
        "directions": pair.directions.iter().map(direction_json).collect::<Vec<_>>(),
    })
}

/// Returns the present state: an API says nothing rather than something old.
async fn present(board: &Board) -> Result<Arc<Overview>, Refusal> {
    let view = board.view().await;
    match (view.overview, view.away) {
        (Some(overview), None) => Ok(overview),
        (_, away) => Err(Refusal::Unavailable(away.map_or_else(String::new, |away| away.why))),
    }
}

/// Answers `/api/pairs`.
pub(crate) async fn pairs(State(board): State<Arc<Board>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    Parameters::parse(query.as_deref())?.finish()?;
    let overview = present(&board).await?;
    let pairs: Vec<Value> = overview.pairs.iter().map(pair_json).collect();
    Ok(answer(&json!({"at": rfc3339(overview.at), "pairs": pairs})))
}

/// Answers `/api/pairs/{name}`.
pub(crate) async fn pair(
    State(board): State<Arc<Board>>,
    Segment(name): Segment,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    Parameters::parse(query.as_deref())?.finish()?;
    let overview = present(&board).await?;
    let pair = overview.pair(&name).ok_or_else(|| Refusal::NotFound("there is no such pair".to_owned()))?;
    Ok(answer(&pair_json(pair)))
}

/// Answers `/api/iterations`.
pub(crate) async fn iterations(
    State(board): State<Arc<Board>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let mut parameters = Parameters::parse(query.as_deref())?;
    let limit = parameters.limit(ITERATIONS)?;
    let filter = IterationFilter {
        pair: parameters.text("pair"),
        direction: parameters.text("direction"),
        dry_run: parameters.dry_run()?,
        status: parameters.status()?,
        before: parameters.run_cursor()?,
        limit: limit + 1,
    };
    parameters.finish()?;
    let mut runs = match board.places.session().await {
        Ok(mut session) => session.iterations(&filter).await?,
        Err(ReadError::Empty { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let more = runs.len() > limit as usize;
    runs.truncate(limit as usize);
    let next = runs.last().filter(|_| more).map(parameters::cursor);
    let runs: Vec<Value> = runs.iter().map(iteration_json).collect();
    Ok(answer(&json!({"iterations": runs, "next_cursor": next})))
}

/// Answers `/api/iterations/{run}`, by id or run id.
pub(crate) async fn iteration(
    State(board): State<Arc<Board>>,
    Segment(name): Segment,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let key = run_key(&name)?;
    Parameters::parse(query.as_deref())?.finish()?;
    let run = board.places.session().await?.iteration(&key).await?.ok_or_else(|| no_run(&name))?;
    Ok(answer(&iteration_json(&run)))
}

/// Answers `/api/operations`.
pub(crate) async fn operations(
    State(board): State<Arc<Board>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let mut parameters = Parameters::parse(query.as_deref())?;
    let limit = parameters.limit(OPERATIONS)?;
    let name = parameters.text("iteration_id");
    let mut filter = run::filter(&mut parameters)?;
    parameters.finish()?;
    let Some(name) = name else { return Err(Refusal::bad("parameter \"iteration_id\" is missing")) };
    let key = run_key(&name).map_err(|_| {
        Refusal::bad("parameter \"iteration_id\" is not understood: expected an id or a run id".to_owned())
    })?;
    let mut session = board.places.session().await?;
    let run = session.iteration(&key).await?.ok_or_else(|| no_run(&name))?;
    filter.iteration_id = run.id;
    filter.limit = limit;
    let page = session.operations(&filter).await?;
    let rows: Vec<Value> = page.rows.iter().map(operation_json).collect();
    Ok(answer(&json!({"operations": rows, "next_cursor": page.next.map(|next| next.to_string())})))
}

/// Answers `/api/history`: what was done to a path, newest first.
pub(crate) async fn history(State(board): State<Arc<Board>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let mut parameters = Parameters::parse(query.as_deref())?;
    let limit = parameters.limit(OPERATIONS)?;
    let path = parameters.text("path");
    let before = parameters.number("cursor")?;
    parameters.finish()?;
    let Some(path) = path else { return Err(Refusal::bad("parameter \"path\" is missing")) };
    let mut session = match board.places.session().await {
        Err(ReadError::Empty { .. }) => return Ok(answer(&json!({"history": [], "next_cursor": null}))),
        session => session?,
    };
    let page = session.history(&path, before, limit).await?;
    let mut ids: Vec<i64> = page.rows.iter().map(|row| row.iteration_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let runs = session.iterations_by_id(&ids).await?;
    let entry = |row: &OperationRow| {
        let run = runs.iter().find(|run| run.id == row.iteration_id);
        let trash = run.and_then(|run| restore::trash(row, run));
        json!({
            "operation": operation_json(row),
            "iteration": run.map(iteration_json),
            "trash_entry": trash.as_ref().map(|trash| &trash.entry),
            "restore_command": trash.as_ref().map(|trash| &trash.command),
        })
    };
    let rows: Vec<Value> = page.rows.iter().map(entry).collect();
    Ok(answer(&json!({"history": rows, "next_cursor": page.next.map(|next| next.to_string())})))
}

/// Answers `/api/paths`: paths that begin with a text.
pub(crate) async fn paths(State(board): State<Arc<Board>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let mut parameters = Parameters::parse(query.as_deref())?;
    let limit = parameters.limit(OPERATIONS)?;
    let prefix = parameters.text("prefix").unwrap_or_default();
    let after = parameters.text("cursor");
    parameters.finish()?;
    let page = match board.places.session().await {
        Err(ReadError::Empty { .. }) => return Ok(answer(&json!({"paths": [], "next_cursor": null}))),
        session => session?.paths(&prefix, after.as_deref(), limit).await?,
    };
    Ok(answer(&json!({"paths": page.rows, "next_cursor": page.next})))
}

/// Answers `/api/openapi.json`.
pub(crate) async fn openapi() -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], include_str!("openapi.json")).into_response()
}
