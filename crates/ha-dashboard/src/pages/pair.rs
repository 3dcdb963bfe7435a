//! `/pairs/{name}`: history, charts, conflicts, and the list of runs.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use ha_audit::query::IterationFilter;
use ha_audit::store::IterationRow;
use jiff::Timestamp;

use super::overview::Card;
use super::{Frame, Moment, RunView, answer, page};
use crate::board::{self, Board};
use crate::chart::{self, Chart};
use crate::format;
use crate::parameters::{self, Parameters, Segment};
use crate::refusal::Refusal;
use crate::status::{self, PairStatus};

const RUNS: u32 = 25;

#[derive(Template)]
#[template(path = "pair.html")]
struct PairPage {
    frame: Frame,
    card: Card,
    histories: Vec<History>,
    conflicts: Vec<Conflict>,
    runs: Vec<RunView>,
    /// `false`, `true` or `any`.
    dry_run: &'static str,
    older: Option<String>,
    paged: bool,
}

struct History {
    label: String,
    charts: Vec<Chart>,
    runs: usize,
    oldest: Moment,
    newest: Moment,
}

struct Conflict {
    direction: String,
    path: String,
    href: String,
    reason: String,
    run_href: String,
    run: String,
}

fn history(label: &str, runs: &[IterationRow], now: Timestamp) -> Option<History> {
    let (newest, oldest) = (runs.first()?, runs.last()?);
    let milliseconds =
        |run: &IterationRow| status::duration(run).map(|took| u64::try_from(took.as_millis()).unwrap_or(0));
    let took =
        |number: u64| format::duration(jiff::SignedDuration::from_millis(i64::try_from(number).unwrap_or(i64::MAX)));
    let ended = |value: fn(&IterationRow) -> u64| move |run: &IterationRow| run.ended_at.map(|_| value(run));
    let charts = vec![
        chart::bars("Duration", runs, milliseconds, took, false),
        chart::bars("Bytes", runs, ended(|run| run.counts.total_bytes_transferred), format::bytes, false),
        chart::bars("Files changed", runs, ended(status::changed), format::grouped, false),
        chart::bars("Failures", runs, ended(|run| run.counts.files_failed), format::grouped, true),
    ];
    Some(History {
        label: format::shown(label),
        charts,
        runs: runs.len(),
        oldest: Moment::new(oldest.started_at, now),
        newest: Moment::new(newest.started_at, now),
    })
}

async fn conflicts(board: &Board, pair: &PairStatus) -> Vec<Conflict> {
    let mut found = Vec::new();
    if pair.directions.iter().all(|direction| direction.conflicts == 0) {
        return found;
    }
    // Without an answer the numbers stand alone.
    let Ok(mut session) = board.places.session().await else { return found };
    for direction in &pair.directions {
        let Some(run) = direction.last_finished() else { continue };
        for operation in board::conflicts(&mut session, run).await.unwrap_or_default() {
            found.push(Conflict {
                direction: format::shown(&direction.direction),
                path: format::shown(&operation.filepath),
                href: format!("/search?q={}", format::query(&operation.filepath)),
                reason: operation.reason.as_deref().map(format::shown).unwrap_or_default(),
                run_href: super::href(run),
                run: super::run_name(run),
            });
        }
    }
    found.truncate(50);
    found
}

/// Answers `/pairs/{name}`.
pub(crate) async fn show(
    State(board): State<Arc<Board>>,
    Segment(name): Segment,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let mut parameters = Parameters::parse(query.as_deref())?;
    let before = parameters.run_cursor()?;
    let dry_run = parameters.dry_run()?;
    parameters.finish()?;
    let view = board.view().await;
    let Some(overview) = view.overview.as_deref() else {
        return Err(Refusal::Unavailable(view.away.map_or_else(String::new, |away| away.why)));
    };
    let pair = overview.pair(&name).ok_or_else(|| {
        let name: String = name.chars().take(80).collect();
        Refusal::NotFound(format!("there is no pair {}", format::shown(&name)))
    })?;
    let now = Timestamp::now();
    let mut away = view.away.clone();
    let filter =
        IterationFilter { pair: Some(name.clone()), dry_run, before, limit: RUNS + 1, ..IterationFilter::default() };
    let mut runs = Vec::new();
    if away.is_none() {
        match async { board.places.session().await?.iterations(&filter).await }.await {
            Ok(rows) => runs = rows,
            Err(error) => away = Some(board::Away { since: now, why: board::chain(&error) }),
        }
    }
    let more = runs.len() > RUNS as usize;
    runs.truncate(RUNS as usize);
    let word = match dry_run {
        Some(false) => "false",
        Some(true) => "true",
        None => "any",
    };
    let older = runs.last().filter(|_| more).map(|run| format!("?dry_run={word}&cursor={}", parameters::cursor(run)));
    let template = PairPage {
        frame: Frame::new(format::shown(&name), "overview", before.is_none()).away(away.as_ref(), Some(overview.at)),
        card: Card::new(pair, now),
        histories: pair
            .directions
            .iter()
            .filter_map(|direction| history(&direction.direction, &direction.history, now))
            .collect(),
        conflicts: if away.is_none() { conflicts(&board, pair).await } else { Vec::new() },
        runs: runs.iter().map(|run| RunView::new(run, now)).collect(),
        dry_run: word,
        older,
        paged: before.is_some(),
    };
    Ok(page(answer(away.is_some()), &template))
}
