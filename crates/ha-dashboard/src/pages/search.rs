//! `/search`: where is my file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use ha_audit::query::{OperationRow, Session};
use ha_audit::store::IterationRow;
use ha_sync_core::record::{OperationKind, OperationStatus};
use jiff::Timestamp;

use super::run::OperationView;
use super::{Frame, Moment, RunView, page};
use crate::board::Board;
use crate::format;
use crate::parameters::Parameters;
use crate::refusal::Refusal;
use crate::status::Overview;

const ROWS: u32 = 50;

#[derive(Template)]
#[template(path = "search.html")]
struct SearchPage {
    frame: Frame,
    query: String,
    /// The path whose history is shown.
    path: Option<String>,
    places: Vec<Place>,
    history: Vec<Entry>,
    history_next: Option<String>,
    /// Paths that begin with what is looked for.
    below: Vec<Found>,
    below_next: Option<String>,
    /// Paths that have it somewhere.
    within: Vec<Found>,
    within_next: Option<String>,
    looked: bool,
}

/// Says where a path stands in a pair and direction.
struct Place {
    pair: String,
    direction: String,
    there: bool,
    full: String,
    size: String,
    since: Moment,
    command: Option<String>,
    entry: Option<String>,
}

struct Entry {
    run: Option<RunView>,
    operation: OperationView,
}

struct Found {
    path: String,
    href: String,
}

impl Found {
    fn new(path: &str) -> Self {
        Self { path: format::shown(path), href: format!("/search?q={}", format::query(path)) }
    }
}

/// Turns what was typed into a path of the records: relative, or below a root of a pair.
fn relative(typed: &str, overview: Option<&Overview>) -> String {
    let typed = typed.trim();
    let roots = overview.iter().flat_map(|overview| &overview.pairs).flat_map(|pair| &pair.directions);
    let runs = roots.filter_map(|direction| direction.last());
    let mut best: Option<&str> = None;
    for root in runs.flat_map(|run| [&run.src, &run.dest]) {
        let below = typed.strip_prefix(root.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/'));
        // the innermost root
        if let Some(below) = below
            && best.is_none_or(|best| below.len() < best.len())
        {
            best = Some(below);
        }
    }
    let path = best.unwrap_or(typed);
    let path = path.strip_prefix("./").unwrap_or(path);
    path.trim_matches('/').to_owned()
}

async fn runs_of(session: &mut Session, rows: &[OperationRow]) -> Result<BTreeMap<i64, IterationRow>, Refusal> {
    let ids: BTreeSet<i64> = rows.iter().map(|row| row.iteration_id).collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    Ok(session.iterations_by_id(&ids).await?.into_iter().map(|run| (run.id, run)).collect())
}

/// Says for each pair and direction what the newest operation that was done has left.
fn places(rows: &[OperationRow], runs: &BTreeMap<i64, IterationRow>, now: Timestamp) -> Vec<Place> {
    let mut places: BTreeMap<(&str, &str), Place> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.status == OperationStatus::Success) {
        let Some(run) = runs.get(&row.iteration_id).filter(|run| !run.dry_run) else { continue };
        let there = row.operation != OperationKind::Delete;
        let root = crate::restore::changed_root(row, run);
        let key = (run.sync_pair.as_str(), root);
        // the version before it, or the last one
        let trash = crate::restore::trash(row, run);
        let place = places.entry(key).or_insert_with(|| Place {
            pair: format::shown(&run.sync_pair),
            direction: format::shown(&run.direction),
            there,
            full: format::shown(&format!("{}/{}", root.trim_end_matches('/'), row.filepath)),
            size: row.size_after.map_or_else(String::new, |size| format::bytes(u64::try_from(size).unwrap_or(0))),
            since: Moment::new(row.ended_at.unwrap_or(row.started_at), now),
            command: None,
            entry: None,
        });
        if place.command.is_none()
            && let Some(trash) = trash
        {
            place.command = Some(trash.command);
            place.entry = Some(format::shown(&trash.entry));
        }
    }
    places.into_values().collect()
}

/// Answers `/search`.
pub(crate) async fn show(State(board): State<Arc<Board>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let mut parameters = Parameters::parse(query.as_deref())?;
    let typed = parameters.text("q").unwrap_or_default();
    let before = parameters.number("before")?;
    let after = parameters.text("after");
    let within_before = parameters.number("within")?;
    parameters.finish()?;
    let view = board.view().await;
    let now = Timestamp::now();
    let wanted = relative(&typed, view.overview.as_deref());
    let mut template = SearchPage {
        frame: Frame::new("Find a file", "search", false),
        query: format::shown(&typed),
        path: None,
        places: Vec::new(),
        history: Vec::new(),
        history_next: None,
        below: Vec::new(),
        below_next: None,
        within: Vec::new(),
        within_next: None,
        looked: !wanted.is_empty(),
    };
    if wanted.is_empty() {
        return Ok(page(StatusCode::OK, &template));
    }
    let more = |name: &str, value: &str| format!("?q={}&{name}={}", format::query(&typed), format::query(value));
    let mut session = board.places.session().await?;
    let history = session.history(&wanted, before, ROWS).await?;
    if !history.rows.is_empty() {
        let runs = runs_of(&mut session, &history.rows).await?;
        template.path = Some(format::shown(&wanted));
        if before.is_none() {
            template.places = places(&history.rows, &runs, now);
        }
        template.history = history
            .rows
            .iter()
            .map(|row| {
                let run = runs.get(&row.iteration_id);
                Entry { run: run.map(|run| RunView::new(run, now)), operation: OperationView::new(row, run, now) }
            })
            .collect();
        template.history_next = history.next.map(|next| more("before", &next.to_string()));
    }
    let folder = format!("{wanted}/");
    let prefix = if template.path.is_some() { &folder } else { &wanted };
    if within_before.is_none() && before.is_none() {
        let below = session.paths(prefix, after.as_deref(), ROWS).await?;
        template.below = below.rows.iter().map(|path| Found::new(path)).collect();
        template.below_next = below.next.map(|next| more("after", &next));
    }
    if template.path.is_none() && after.is_none() {
        let within = session.anywhere(&wanted, within_before, ROWS).await?;
        let mut seen = BTreeSet::new();
        let fresh = |row: &&OperationRow| !row.filepath.starts_with(&wanted) && seen.insert(row.filepath.clone());
        template.within = within.rows.iter().filter(fresh).map(|row| Found::new(&row.filepath)).collect();
        template.within_next = within.next.map(|next| more("within", &next.to_string()));
    }
    Ok(page(StatusCode::OK, &template))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::LockState;
    use crate::status::{DirectionStatus, PairStatus};
    use ha_sync_core::record::{Counts, Status};

    fn overview(roots: &[(&str, &str)]) -> Overview {
        let at = Timestamp::UNIX_EPOCH;
        let run = |(src, dest): &(&str, &str)| IterationRow {
            id: 1,
            run_id: None,
            sync_pair: "media".into(),
            direction: "a".into(),
            src: (*src).into(),
            dest: (*dest).into(),
            started_at: at,
            ended_at: None,
            status: Status::Success,
            dry_run: false,
            counts: Counts::default(),
            error_message: None,
            lease_transitions: None,
        };
        let directions =
            roots.iter().map(|root| DirectionStatus::new("a".into(), vec![run(root)], None, None, 0, at)).collect();
        let pair = PairStatus { name: "media".into(), directions, lock: LockState::Unknown };
        Overview { at, pairs: vec![pair], recent: Vec::new() }
    }

    #[test]
    fn what_is_typed_becomes_a_path_of_the_records() {
        let overview = overview(&[("/mnt/a/media", "/mnt/b/media/"), ("/mnt", "/srv")]);
        for (typed, path) in [
            ("cat.jpg", "cat.jpg"),
            (" photos/cat.jpg ", "photos/cat.jpg"),
            ("./photos/cat.jpg", "photos/cat.jpg"),
            ("/photos/", "photos"),
            ("/mnt/a/media/photos/cat.jpg", "photos/cat.jpg"),
            ("/mnt/b/media/x", "x"),
            ("/mnt/c/x", "c/x"),
            ("/mnt/a/media2/x", "a/media2/x"),
            ("/", ""),
        ] {
            assert_eq!(relative(typed, Some(&overview)), path, "{typed}");
        }
    }
}
