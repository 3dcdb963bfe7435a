//! `/`: a card per pair, and what happened last.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use ha_sync_core::record::Status;
use jiff::Timestamp;

use super::{Badge, Frame, Moment, RunView, answer, page};
use crate::board::Board;
use crate::lock::LockState;
use crate::parameters::Parameters;
use crate::refusal::Refusal;
use crate::status::{DirectionStatus, Health, PairStatus};
use crate::{chart, format};

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    frame: Frame,
    headline: String,
    headline_class: &'static str,
    /// What needs a look, worst first.
    looks: Vec<Look>,
    pairs: Vec<Card>,
    recent: Vec<RunView>,
    /// Whether nothing is known at all.
    blind: bool,
}

struct Look {
    href: String,
    badge: Badge,
    name: String,
    words: String,
}

/// Is a pair on a page.
pub(crate) struct Card {
    pub(crate) href: String,
    pub(crate) name: String,
    pub(crate) badge: Badge,
    pub(crate) directions: Vec<DirectionCard>,
    pub(crate) lock: Option<LockView>,
}

pub(crate) struct LockView {
    pub(crate) held: bool,
    pub(crate) words: String,
}

/// Is a direction on a page.
pub(crate) struct DirectionCard {
    pub(crate) label: String,
    pub(crate) badge: Badge,
    pub(crate) src: String,
    pub(crate) dest: String,
    pub(crate) last: Option<RunView>,
    /// The one before a run under way.
    pub(crate) finished: Option<RunView>,
    pub(crate) last_dry_run: Option<RunView>,
    pub(crate) last_success: Option<Moment>,
    pub(crate) next: Option<Next>,
    pub(crate) strip: String,
    pub(crate) conflicts: String,
    pub(crate) has_conflicts: bool,
}

pub(crate) struct Next {
    pub(crate) overdue: bool,
    pub(crate) words: String,
    pub(crate) when: Moment,
}

impl Card {
    pub(crate) fn new(pair: &PairStatus, now: Timestamp) -> Self {
        Self {
            href: format!("/pairs/{}", path_segment(&pair.name)),
            name: format::shown(&pair.name),
            badge: pair.health().into(),
            directions: pair.directions.iter().map(|direction| DirectionCard::new(direction, now)).collect(),
            lock: match &pair.lock {
                LockState::Unknown => None,
                LockState::Unanswered { why } => {
                    let words = format!("who holds the lock is unknown: {}", format::shown(why));
                    Some(LockView { held: false, words })
                }
                LockState::Free => Some(LockView { held: false, words: "lock free".to_owned() }),
                LockState::Held { holder, since } => {
                    let since = since.map_or_else(String::new, |since| format!(", {}", format::ago(since, now)));
                    Some(LockView { held: true, words: format!("locked by {}{since}", format::shown(holder)) })
                }
            },
        }
    }
}

impl DirectionCard {
    fn new(direction: &DirectionStatus, now: Timestamp) -> Self {
        let last = direction.last();
        let newest = last.or(direction.last_dry_run.as_ref());
        let running = last.is_some_and(|run| run.status == Status::Running);
        Self {
            label: format::shown(&direction.direction),
            badge: direction.health().into(),
            src: newest.map_or_else(String::new, |run| format::shown(&run.src)),
            dest: newest.map_or_else(String::new, |run| format::shown(&run.dest)),
            last: last.map(|run| RunView::new(run, now)),
            finished: direction.last_finished().filter(|_| running).map(|run| RunView::new(run, now)),
            last_dry_run: direction.last_dry_run.as_ref().map(|run| RunView::new(run, now)),
            last_success: direction.last_success.map(|time| Moment::new(time, now)),
            next: next(direction, now),
            strip: chart::strip(&direction.history),
            conflicts: match direction.conflicts {
                1 => "1 open conflict".to_owned(),
                conflicts => format!("{} open conflicts", format::grouped(conflicts)),
            },
            has_conflicts: direction.conflicts > 0,
        }
    }
}

fn next(direction: &DirectionStatus, now: Timestamp) -> Option<Next> {
    let last = direction.last()?;
    if last.status == Status::Running {
        return direction.overdue.then(|| Next {
            overdue: true,
            words: format!(
                "running for {}, far longer than usual",
                format::roughly(now.duration_since(last.started_at))
            ),
            when: Moment::new(last.started_at, now),
        });
    }
    let expected = direction.next_expected()?;
    let every = direction.rhythm.map_or_else(String::new, |rhythm| format::roughly(rhythm.interval));
    let words = match (direction.overdue, expected > now) {
        (true, _) => format!("overdue: expected {}, runs every {every}", format::ago(expected, now)),
        (false, true) => format!("next in {}", format::roughly(expected.duration_since(now))),
        (false, false) => "next is due now".to_owned(),
    };
    Some(Next { overdue: direction.overdue, words, when: Moment::new(expected, now) })
}

/// Writes a name as one segment of a path.
pub(crate) fn path_segment(name: &str) -> String {
    // a plus sign is a plus sign in a path
    format::query(name).replace('+', "%20")
}

fn look(pair: &PairStatus, now: Timestamp) -> Option<(Health, Look)> {
    let worst = pair.directions.iter().max_by_key(|direction| direction.health())?;
    let health = worst.health();
    if !health.needs_a_look() {
        return None;
    }
    let words = match health {
        Health::Overdue => {
            let words = next(worst, now).map_or_else(String::new, |next| next.words);
            words.strip_prefix("overdue: ").map(str::to_owned).unwrap_or(words)
        }
        _ => {
            let run = worst.last_finished()?;
            let message = run.error_message.as_deref().and_then(|message| message.lines().next());
            let message = message.map(format::shown).unwrap_or_default();
            match message.is_empty() {
                true => format::ago(run.started_at, now),
                false => format!("{}: {message}", format::ago(run.started_at, now)),
            }
        }
    };
    let name = format!("{} {}", format::shown(&pair.name), format::shown(&worst.direction));
    Some((health, Look { href: format!("/pairs/{}", path_segment(&pair.name)), badge: health.into(), name, words }))
}

/// Answers `/`.
pub(crate) async fn show(State(board): State<Arc<Board>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    Parameters::parse(query.as_deref())?.finish()?;
    let view = board.view().await;
    let now = Timestamp::now();
    let overview = view.overview.as_deref();
    let pairs = overview.map(|overview| overview.pairs.as_slice()).unwrap_or_default();
    let mut looks: Vec<(Health, Look)> = pairs.iter().filter_map(|pair| look(pair, now)).collect();
    looks.sort_by_key(|(health, _)| std::cmp::Reverse(*health));
    let worst = looks.first().map(|(health, _)| *health);
    let (headline, headline_class) = match (pairs.len(), looks.len()) {
        (0, _) if view.away.is_some() => ("Nothing is known yet".to_owned(), "idle"),
        (0, _) => ("Nothing has run yet".to_owned(), "idle"),
        (1, 0) => ("The pair is in order".to_owned(), "good"),
        (all, 0) => (format!("All {all} pairs are in order"), "good"),
        (1, _) => ("The pair needs a look".to_owned(), if worst == Some(Health::Failed) { "bad" } else { "warn" }),
        (all, 1) => {
            (format!("1 of {all} pairs needs a look"), if worst == Some(Health::Failed) { "bad" } else { "warn" })
        }
        (all, some) => {
            (format!("{some} of {all} pairs need a look"), if worst == Some(Health::Failed) { "bad" } else { "warn" })
        }
    };
    // When the state is old, nothing is called in order.
    let (headline, headline_class) = match (&view.away, headline_class) {
        (Some(_), "good") => (format!("{headline}, as far as is known"), "idle"),
        _ => (headline, headline_class),
    };
    let template = OverviewPage {
        frame: Frame::new("Overview", "overview", true).away(view.away.as_ref(), overview.map(|overview| overview.at)),
        headline,
        headline_class,
        looks: looks.into_iter().map(|(_, look)| look).collect(),
        pairs: pairs.iter().map(|pair| Card::new(pair, now)).collect(),
        recent: overview
            .map_or_else(Vec::new, |overview| overview.recent.iter().map(|run| RunView::new(run, now)).collect()),
        blind: overview.is_none(),
    };
    Ok(page(answer(view.away.is_some()), &template))
}
