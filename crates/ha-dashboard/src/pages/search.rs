//! `/search`: where is my file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use ha_audit::query::{OperationRow, ReadError, Session};
use ha_audit::store::IterationRow;
use ha_sync_core::record::{OperationKind, OperationStatus};
use jiff::Timestamp;

use super::run::OperationView;
use super::{Frame, Moment, RunView, answer, page};
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
    // where nothing has run for real, a dry run says which roots there are
    let runs = roots.filter_map(|direction| direction.last().or(direction.last_dry_run.as_ref()));
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

/// Is what is looked for, and where in the answer.
struct Wanted {
    typed: String,
    before: Option<i64>,
    after: Option<String>,
    within: Option<i64>,
}

impl Wanted {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut parameters = Parameters::parse(query)?;
        let wanted = Self {
            typed: parameters.text("q").unwrap_or_default(),
            before: parameters.number("before")?,
            after: parameters.text("after"),
            within: parameters.number("within")?,
        };
        parameters.finish()?;
        Ok(wanted)
    }

    /// Writes the address of another part of the answer.
    fn more(&self, name: &str, value: &str) -> String {
        format!("?q={}&{name}={}", format::query(&self.typed), format::query(value))
    }
}

/// Answers `/search`.
pub(crate) async fn show(State(board): State<Arc<Board>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let wanted = Wanted::parse(query.as_deref())?;
    let view = board.view().await;
    let path = relative(&wanted.typed, view.overview.as_deref());
    let mut template = SearchPage {
        frame: Frame::new("Find a file", "search", false),
        query: wanted.typed.clone(),
        path: None,
        places: Vec::new(),
        history: Vec::new(),
        history_next: None,
        below: Vec::new(),
        below_next: None,
        within: Vec::new(),
        within_next: None,
        looked: !wanted.typed.is_empty(),
    };
    if wanted.typed.is_empty() {
        template.frame = template.frame.away(view.away.as_ref(), None);
        return Ok(page(answer(view.away.is_some()), &template));
    }
    match board.places.session().await {
        Ok(mut session) => look(&mut session, &wanted, &path, &mut template).await?,
        // nothing has run yet, so nothing is on record
        Err(ReadError::Empty { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(page(StatusCode::OK, &template))
}

async fn look(session: &mut Session, wanted: &Wanted, path: &str, template: &mut SearchPage) -> Result<(), Refusal> {
    let now = Timestamp::now();
    // A name may begin and end with blanks, or be `.`: what is there as it is typed goes before what may be meant.
    let typed = wanted.typed.as_str();
    let texts = [typed, path];
    let texts = if path.is_empty() || path == typed { &texts[..1] } else { &texts[..] };
    for text in texts {
        let history = session.history(text, wanted.before, ROWS).await?;
        if history.rows.is_empty() {
            continue;
        }
        let runs = runs_of(session, &history.rows).await?;
        template.path = Some(format::shown(text));
        if wanted.before.is_none() {
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
        template.history_next = history.next.map(|next| wanted.more("before", &next.to_string()));
        if wanted.before.is_none() && wanted.within.is_none() {
            below(session, wanted, &format!("{text}/"), template).await?;
        }
        return Ok(());
    }
    if wanted.within.is_none() && wanted.before.is_none() {
        for text in texts {
            below(session, wanted, text, template).await?;
            if !template.below.is_empty() {
                break;
            }
        }
    }
    if wanted.after.is_none() && !path.is_empty() {
        let within = session.anywhere(path, wanted.within, ROWS).await?;
        let mut seen = BTreeSet::new();
        let fresh = |row: &&OperationRow| !row.filepath.starts_with(path) && seen.insert(row.filepath.clone());
        template.within = within.rows.iter().filter(fresh).map(|row| Found::new(&row.filepath)).collect();
        template.within_next = within.next.map(|next| wanted.more("within", &next.to_string()));
    }
    Ok(())
}

async fn below(session: &mut Session, wanted: &Wanted, prefix: &str, template: &mut SearchPage) -> Result<(), Refusal> {
    let below = session.paths(prefix, wanted.after.as_deref(), ROWS).await?;
    template.below = below.rows.iter().map(|path| Found::new(path)).collect();
    template.below_next = below.next.map(|next| wanted.more("after", &next));
    Ok(())
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
    fn a_dry_run_tells_roots_where_no_run_was_real() {
        let mut overview = overview(&[("/mnt/a/media", "/mnt/b/media")]);
        let direction = &mut overview.pairs[0].directions[0];
        direction.last_dry_run = direction.history.pop();
        assert_eq!(relative("/mnt/b/media/photos/cat.jpg", Some(&overview)), "photos/cat.jpg");
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
