//! `/runs/{id}`: one run and its operations.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use ha_audit::query::{OperationFilter, OperationRow};
use ha_audit::store::IterationRow;
use ha_sync_core::record::{OperationKind, OperationStatus, Status, Way};
use jiff::Timestamp;

use super::{Badge, Frame, Moment, RunView, no_run, page, run_key};
use crate::board::Board;
use crate::format;
use crate::parameters::{Parameters, Segment};
use crate::refusal::Refusal;
use crate::restore::{Trash, trash};

const OPERATIONS: u32 = 50;

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    frame: Frame,
    run: RunView,
    src: String,
    dest: String,
    pair_href: String,
    ended: Option<Moment>,
    lease_transitions: Option<String>,
    skip_reasons: Vec<(String, String)>,
    filter: FilterView,
    operations: Vec<OperationView>,
    /// The query of the next part.
    next: Option<String>,
    /// Whether this is not the first part.
    paged: bool,
    /// The queries of downloads.
    download: String,
}

/// Is the form of the filter with what was chosen.
struct FilterView {
    status: Vec<Choice>,
    operation: Vec<Choice>,
    path: String,
    active: bool,
}

struct Choice {
    value: &'static str,
    word: &'static str,
    chosen: bool,
}

/// Is an operation as a row.
pub(crate) struct OperationView {
    pub(crate) seq: String,
    pub(crate) sign: &'static str,
    pub(crate) word: &'static str,
    pub(crate) class: &'static str,
    pub(crate) path: String,
    pub(crate) href: String,
    pub(crate) size: String,
    pub(crate) badge: Badge,
    pub(crate) failed: bool,
    pub(crate) message: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) way: Option<&'static str>,
    pub(crate) started: Moment,
    pub(crate) trash: Option<Trash>,
}

impl OperationView {
    pub(crate) fn new(operation: &OperationRow, run: Option<&IterationRow>, now: Timestamp) -> Self {
        let (sign, word, class) = match operation.operation {
            OperationKind::Create => ("+", "create", "created"),
            OperationKind::Update => ("~", "update", "updated"),
            OperationKind::Delete => ("−", "delete", "deleted"),
        };
        let failed = operation.status == OperationStatus::Fail;
        let size = |size: Option<i64>| size.map(|size| format::bytes(u64::try_from(size).unwrap_or(0)));
        let size = match (size(operation.size_before), size(operation.size_after)) {
            (Some(before), Some(after)) if before == after => after,
            (Some(before), Some(after)) => format!("{before} → {after}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => String::new(),
        };
        let mut trash = run.and_then(|run| trash(operation, run));
        if let Some(trash) = &mut trash {
            trash.entry = format::shown(&trash.entry);
        }
        Self {
            seq: operation.seq.map(|seq| seq.to_string()).unwrap_or_default(),
            sign,
            word,
            class,
            path: format::shown(&operation.filepath),
            href: format!("/search?q={}", format::query(&operation.filepath)),
            size,
            badge: if failed { Badge { class: "bad", word: "failed" } } else { Badge { class: "good", word: "done" } },
            failed,
            message: operation.error_message.as_deref().map(format::shown_lines),
            reason: operation.reason.as_deref().map(format::shown),
            way: operation.way.map(Way::as_str),
            started: Moment::new(operation.started_at, now),
            trash,
        }
    }
}

/// Takes the filter of operations from a query.
pub(crate) fn filter(parameters: &mut Parameters) -> Result<OperationFilter, Refusal> {
    Ok(OperationFilter {
        iteration_id: 0,
        status: parameters.operation_status()?,
        operation: parameters.operation()?,
        path: parameters.text("path"),
        after: parameters.number("cursor")?.unwrap_or(i64::MIN),
        limit: 0,
    })
}

/// Writes a filter as a query, without where it begins.
fn filter_query(filter: &OperationFilter) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(status) = filter.status {
        query.append_pair("status", if status == OperationStatus::Fail { "fail" } else { "success" });
    }
    if let Some(operation) = filter.operation {
        query.append_pair("operation", operation.as_str());
    }
    if let Some(path) = &filter.path {
        query.append_pair("path", path);
    }
    query.finish()
}

fn filter_view(filter: &OperationFilter) -> FilterView {
    let status = [
        ("", "any status", None),
        ("success", "done", Some(OperationStatus::Success)),
        ("fail", "failed", Some(OperationStatus::Fail)),
    ];
    let operation = [
        ("", "any operation", None),
        ("create", "create", Some(OperationKind::Create)),
        ("update", "update", Some(OperationKind::Update)),
        ("delete", "delete", Some(OperationKind::Delete)),
    ];
    FilterView {
        status: status
            .into_iter()
            .map(|(value, word, one)| Choice { value, word, chosen: one == filter.status })
            .collect(),
        operation: operation
            .into_iter()
            .map(|(value, word, one)| Choice { value, word, chosen: one == filter.operation })
            .collect(),
        path: filter.path.clone().unwrap_or_default(),
        active: filter.status.is_some() || filter.operation.is_some() || filter.path.is_some(),
    }
}

/// Answers `/runs/{id}`.
pub(crate) async fn show(
    State(board): State<Arc<Board>>,
    Segment(name): Segment,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let key = run_key(&name)?;
    let mut parameters = Parameters::parse(query.as_deref())?;
    let mut filter = filter(&mut parameters)?;
    parameters.finish()?;
    filter.limit = OPERATIONS;
    let mut session = board.places.session().await?;
    let run = session.iteration(&key).await?.ok_or_else(|| no_run(&name))?;
    filter.iteration_id = run.id;
    let operations = session.operations(&filter).await?;
    drop(session);
    let now = Timestamp::now();
    let download = filter_query(&filter);
    let next = operations.next.map(|next| {
        let between = if download.is_empty() { "" } else { "&" };
        format!("?{download}{between}cursor={next}")
    });
    let mut skip_reasons: Vec<_> = run.counts.skip_reasons.iter().collect();
    skip_reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), (*reason).clone()));
    let template = RunPage {
        frame: Frame::new(format!("Run {}", super::run_name(&run)), "", run.status == Status::Running),
        src: format::shown(&run.src),
        dest: format::shown(&run.dest),
        pair_href: format!("/pairs/{}", super::overview::path_segment(&run.sync_pair)),
        ended: run.ended_at.map(|time| Moment::new(time, now)),
        lease_transitions: run.lease_transitions.map(|number| number.to_string()),
        skip_reasons: skip_reasons
            .into_iter()
            .map(|(reason, count)| (format::shown(reason), format::grouped(*count)))
            .collect(),
        filter: filter_view(&filter),
        operations: operations.rows.iter().map(|row| OperationView::new(row, Some(&run), now)).collect(),
        next,
        paged: filter.after != i64::MIN,
        download: if download.is_empty() { download } else { format!("?{download}") },
        run: RunView::new(&run, now),
    };
    Ok(page(StatusCode::OK, &template))
}
