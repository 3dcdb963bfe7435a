//! The pages. Each module makes a template's values from rows; the templates only place them.

pub(crate) mod overview;
pub(crate) mod pair;
pub(crate) mod run;
pub(crate) mod search;

use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use ha_audit::query::IterationKey;
use ha_audit::store::IterationRow;
use ha_sync_core::record::Status;
use jiff::Timestamp;

use crate::assets::{Asset, ICON, SCRIPT, STYLE};
use crate::board::{Away, Board};
use crate::format;
use crate::refusal::Refusal;
use crate::status::{self, Health};

/// Is what every page has around its content.
pub(crate) struct Frame {
    title: String,
    /// The entry of the navigation that is this page.
    section: &'static str,
    /// Whether the page keeps itself fresh.
    live: bool,
    /// When it was made.
    at: Moment,
    away: Option<AwayNotice>,
    style: &'static Asset,
    script: &'static Asset,
    icon: &'static Asset,
    version: &'static str,
}

struct AwayNotice {
    since: Moment,
    why: String,
    /// When the state that is shown was read.
    state_of: Option<Moment>,
}

impl Frame {
    fn new(title: impl Into<String>, section: &'static str, live: bool) -> Self {
        Self {
            title: title.into(),
            section,
            live,
            at: Moment::new(Timestamp::now(), Timestamp::now()),
            away: None,
            style: &STYLE,
            script: &SCRIPT,
            icon: &ICON,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    fn away(mut self, away: Option<&Away>, state_of: Option<Timestamp>) -> Self {
        let now = Timestamp::now();
        self.away = away.map(|away| AwayNotice {
            since: Moment::new(away.since, now),
            why: away.why.clone(),
            state_of: state_of.map(|time| Moment::new(time, now)),
        });
        self
    }
}

/// Is a time: for a machine, exactly, and as one speaks of it.
pub(crate) struct Moment {
    machine: String,
    exact: String,
    clock: String,
    spoken: String,
}

impl Moment {
    fn new(time: Timestamp, now: Timestamp) -> Self {
        let spoken = if time > now {
            format!("in {}", format::roughly(time.duration_since(now)))
        } else {
            format::ago(time, now)
        };
        Self {
            machine: format::rfc3339(time),
            exact: format!("{} UTC", format::second(time)),
            clock: time.strftime("%H:%M:%S").to_string(),
            spoken,
        }
    }
}

/// Is a word with its colour and sign.
pub(crate) struct Badge {
    /// The class of the style sheet.
    class: &'static str,
    word: &'static str,
}

impl From<Health> for Badge {
    fn from(health: Health) -> Self {
        let (class, word) = match health {
            Health::Idle => ("idle", "never ran"),
            Health::Good => ("good", "in order"),
            Health::Running => ("run", "running"),
            Health::Partial => ("warn", "partial"),
            Health::Overdue => ("warn", "overdue"),
            Health::Failed => ("bad", "failed"),
        };
        Self { class, word }
    }
}

impl From<Status> for Badge {
    fn from(status: Status) -> Self {
        let (class, word) = match status {
            Status::Running => ("run", "running"),
            Status::Success => ("good", "success"),
            Status::PartialFailure => ("warn", "partial"),
            Status::Failed => ("bad", "failed"),
        };
        Self { class, word }
    }
}

/// Is a count with a name.
pub(crate) struct Count {
    word: &'static str,
    number: String,
    /// Of the style sheet: what it does, or `zero`.
    class: &'static str,
}

fn counts(run: &IterationRow) -> Vec<Count> {
    let counts = &run.counts;
    [
        ("created", counts.files_created, "created"),
        ("updated", counts.files_updated, "updated"),
        ("deleted", counts.files_deleted, "deleted"),
        ("skipped", counts.files_skipped, "skipped"),
        ("failed", counts.files_failed, "failed"),
    ]
    .into_iter()
    .map(|(word, number, class)| Count {
        word,
        number: format::grouped(number),
        class: if number == 0 { "zero" } else { class },
    })
    .collect()
}

/// Is a run as a row of a table or a part of a card.
pub(crate) struct RunView {
    href: String,
    id: String,
    pair: String,
    direction: String,
    badge: Badge,
    dry_run: bool,
    started: Moment,
    took: String,
    counts: Vec<Count>,
    bytes: String,
    error: Option<String>,
}

impl RunView {
    fn new(run: &IterationRow, now: Timestamp) -> Self {
        Self {
            href: href(run),
            id: run_name(run),
            pair: format::shown(&run.sync_pair),
            direction: format::shown(&run.direction),
            badge: run.status.into(),
            dry_run: run.dry_run,
            started: Moment::new(run.started_at, now),
            took: status::duration(run).map_or_else(|| "–".to_owned(), format::duration),
            counts: counts(run),
            bytes: format::bytes(run.counts.total_bytes_transferred),
            error: run.error_message.as_deref().map(format::shown_lines),
        }
    }
}

/// Returns the name of a run: its id, or that of its row where it has none.
fn run_name(run: &IterationRow) -> String {
    run.run_id.as_deref().map_or_else(|| run.id.to_string(), format::shown)
}

/// Returns the address of a run's page. What is no id of ours goes by its row.
fn href(run: &IterationRow) -> String {
    match run.run_id.as_deref().filter(|id| is_run_id(id)) {
        Some(id) => format!("/runs/{id}"),
        None => format!("/runs/{}", run.id),
    }
}

fn is_run_id(text: &str) -> bool {
    text.parse::<ha_sync_core::name::RunId>().is_ok()
}

/// Reads the part of an address that names a run.
pub(crate) fn run_key(text: &str) -> Result<IterationKey, Refusal> {
    if is_run_id(text) {
        return Ok(IterationKey::Run(text.to_owned()));
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(IterationKey::Id).map_err(|_| no_run(text));
    }
    Err(no_run(text))
}

/// Says that there is no such run.
pub(crate) fn no_run(text: &str) -> Refusal {
    let text: String = text.chars().take(80).collect();
    Refusal::NotFound(format!("there is no run {}; it may have been pruned", format::shown(&text)))
}

/// Renders a page.
fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        // a template fails only where formatting into memory does
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn answer(away: bool) -> StatusCode {
    if away { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

#[derive(Template)]
#[template(path = "refusal.html")]
struct RefusalPage {
    frame: Frame,
    code: u16,
    words: &'static str,
    reason: String,
}

/// Renders a refusal as a page.
pub(crate) async fn refusal(board: &Board, refusal: &Refusal) -> Response {
    let status = refusal.status();
    let words = match refusal {
        Refusal::BadRequest(_) => "This was not understood",
        Refusal::Unauthorized => "Please log in",
        Refusal::NotFound(_) => "Nothing here",
        Refusal::MethodNotAllowed => "This dashboard only reads",
        Refusal::Unavailable(_) => "The database is away",
        Refusal::Internal(_) => "Something went wrong here",
    };
    let mut frame = Frame::new(words, "", matches!(refusal, Refusal::Unavailable(_)));
    if matches!(refusal, Refusal::Unavailable(_)) {
        let view = board.view().await;
        frame = frame.away(view.away.as_ref(), None);
    }
    page(status, &RefusalPage { frame, code: status.as_u16(), words, reason: refusal.reason().to_owned() })
}
