//! What the handlers share: the reader, and the state of all pairs, read at most once a second for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ha_audit::files::FileError;
use ha_audit::query::{IterationFilter, OperationFilter, ReadError, Series, Session};
use ha_audit::reader::{self, LogError, LogReader};
use ha_audit::store::IterationRow;
use ha_sync_core::record::{OperationStatus, Status};
use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore};

use crate::lock::LockStatus;
use crate::places::Places;
use crate::server::Event;
use crate::status::{self, DirectionStatus, Overview, PairStatus};

/// How old the state may be that a page shows.
const FRESH: Duration = Duration::from_secs(1);
/// Runs of a direction that rhythm and charts are made from.
pub(crate) const HISTORY: u32 = 60;
/// Runs of all pairs on the first page.
const RECENT: u32 = 20;
/// Failed operations of a run that are looked through for conflicts.
const MOST_CONFLICTS: u32 = 500;
/// How long the count of waiting logs may take.
const COUNTING: Duration = Duration::from_secs(2);

/// Says since when the database is away, and why.
#[derive(Debug, Clone)]
pub(crate) struct Away {
    pub(crate) since: Timestamp,
    pub(crate) why: String,
}

/// Is the last state that could be read, and whether it is the present one.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Absent when none could be read since the start.
    pub(crate) overview: Option<Arc<Overview>>,
    /// Present when it is not the present state.
    pub(crate) away: Option<Away>,
}

#[derive(Debug)]
struct Cached {
    view: View,
    read_at: Option<Instant>,
}

/// Is the logs that wait for the database, by pair.
pub(crate) type PendingLogs = BTreeMap<String, u64>;

/// Is what handlers share.
pub(crate) struct Board {
    pub(crate) places: Places,
    locks: Box<dyn LockStatus>,
    cached: Mutex<Cached>,
    /// Who counts logs.
    counting: Arc<Semaphore>,
    /// Whether it was said that they cannot be counted.
    uncounted: AtomicBool,
    say: Box<dyn Fn(Event<'_>) + Send + Sync>,
}

impl Board {
    pub(crate) fn new(places: Places, locks: Box<dyn LockStatus>, say: Box<dyn Fn(Event<'_>) + Send + Sync>) -> Self {
        let cached = Mutex::new(Cached { view: View { overview: None, away: None }, read_at: None });
        let counting = Arc::new(Semaphore::new(4));
        Self { places, locks, cached, counting, uncounted: AtomicBool::new(false), say }
    }

    /// Returns the state of all pairs, not older than a second; while it is read, others wait for the same answer.
    pub(crate) async fn view(&self) -> View {
        let mut cached = self.cached.lock().await;
        if cached.read_at.is_some_and(|read_at| read_at.elapsed() < FRESH) {
            return cached.view.clone();
        }
        match self.read().await {
            Ok(overview) => {
                if cached.view.away.take().is_some() {
                    (self.say)(Event::DatabaseBack);
                }
                cached.view.overview = Some(Arc::new(overview));
            }
            Err(error) => {
                let why = chain(&error);
                if cached.view.away.is_none() {
                    (self.say)(Event::DatabaseAway { why: &why });
                }
                let since = cached.view.away.as_ref().map_or_else(Timestamp::now, |away| away.since);
                cached.view.away = Some(Away { since, why });
            }
        }
        cached.read_at = Some(Instant::now());
        cached.view.clone()
    }

    async fn read(&self) -> Result<Overview, ReadError> {
        let at = Timestamp::now();
        let mut session = match self.places.session().await {
            Ok(session) => session,
            Err(ReadError::Empty { .. }) => return Ok(Overview { at, pairs: Vec::new(), recent: Vec::new() }),
            Err(error) => return Err(error),
        };
        let mut pairs: Vec<PairStatus> = Vec::new();
        let series = session.series().await?;
        let directions: BTreeSet<_> =
            series.into_iter().map(|Series { sync_pair, direction, .. }| (sync_pair, direction)).collect();
        for (name, label) in directions {
            let direction = direction(&mut session, &name, label, at).await?;
            match pairs.last_mut().filter(|pair| pair.name == name) {
                Some(pair) => pair.directions.push(direction),
                None => {
                    let lock = crate::lock::LockState::Unknown;
                    pairs.push(PairStatus { name, directions: vec![direction], lock });
                }
            }
        }
        let recent = session.iterations(&IterationFilter { limit: RECENT, ..IterationFilter::default() }).await?;
        drop(session);
        let names: Vec<String> = pairs.iter().map(|pair| pair.name.clone()).collect();
        for (pair, lock) in pairs.iter_mut().zip(self.locks.states(&names).await) {
            pair.lock = lock;
        }
        Ok(Overview { at, pairs, recent })
    }

    /// Counts the logs in the log directory that the database does not have yet, those of live runs too; nothing when
    /// no directory was named, there is none, or not all of it can be read: none would look like all being well.
    pub(crate) async fn pending_logs(&self) -> Option<PendingLogs> {
        let directory = self.places.log_directory()?.to_owned();
        let counted = self.count_logs(directory).await;
        let why = counted.as_ref().err();
        match (why, self.uncounted.swap(why.is_some(), Ordering::Relaxed)) {
            (Some(why), false) => (self.say)(Event::LogsUnknown { why }),
            (None, true) => (self.say)(Event::LogsKnown),
            _ => {}
        }
        counted.ok().flatten()
    }

    async fn count_logs(&self, directory: PathBuf) -> Result<Option<PendingLogs>, String> {
        let slow = || format!("the log directory does not answer: {}", directory.display());
        // In a thread of its own: a file server that is away must not stop everything else. What hangs there
        // keeps its turn, so that not more and more threads hang.
        let turn = Arc::clone(&self.counting).try_acquire_owned().map_err(|_| slow())?;
        let count = tokio::task::spawn_blocking({
            let directory = directory.clone();
            move || {
                let _turn = turn;
                pending_logs(&directory)
            }
        });
        match tokio::time::timeout(COUNTING, count).await {
            Ok(Ok(counted)) => counted.map_err(|error| chain(&error)),
            Ok(Err(_)) | Err(_) => Err(slow()),
        }
    }
}

/// Counts logs; nothing where there is no directory. A log without a header, or with a broken one, says of no pair that
/// it is that pair's.
fn pending_logs(directory: &Path) -> Result<Option<PendingLogs>, FileError> {
    let waiting = match reader::list(directory) {
        Err(error) if error.is_not_found() => return Ok(None),
        listed => listed?,
    };
    let mut pending = PendingLogs::new();
    for log in waiting.iter().chain(&reader::list_all_set_aside(directory)?) {
        match LogReader::open(&log.path) {
            Ok(log) => *pending.entry(log.header().sync_pair.as_str().to_owned()).or_default() += 1,
            // the database has it by now
            Err(LogError::File(error)) if error.is_not_found() => {}
            Err(LogError::File(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(Some(pending))
}

async fn direction(
    session: &mut Session,
    pair: &str,
    label: String,
    now: Timestamp,
) -> Result<DirectionStatus, ReadError> {
    let of = |dry_run: bool, limit: u32| IterationFilter {
        pair: Some(pair.to_owned()),
        direction: Some(label.clone()),
        dry_run: Some(dry_run),
        limit,
        ..IterationFilter::default()
    };
    let history = session.iterations(&of(false, HISTORY)).await?;
    let last_dry_run = session.iterations(&of(true, 1)).await?.pop();
    let success = |run: &&IterationRow| run.status == Status::Success;
    let mut last_success = history.iter().find(success).map(|run| run.started_at);
    if last_success.is_none() && history.len() == HISTORY as usize {
        let filter = IterationFilter { status: Some(Status::Success), ..of(false, 1) };
        last_success = session.iterations(&filter).await?.pop().map(|run| run.started_at);
    }
    let conflicts = match status::last_finished(&history) {
        Some(run) => status::skipped_conflicts(run) + conflicts(session, run).await?.len() as u64,
        None => 0,
    };
    Ok(DirectionStatus::new(label, history, last_dry_run, last_success, conflicts, now))
}

/// Returns the failed operations of a run whose reason is a conflict.
pub(crate) async fn conflicts(
    session: &mut Session,
    run: &IterationRow,
) -> Result<Vec<ha_audit::query::OperationRow>, ReadError> {
    if run.counts.files_failed == 0 {
        return Ok(Vec::new());
    }
    let filter = OperationFilter {
        iteration_id: run.id,
        status: Some(OperationStatus::Fail),
        limit: MOST_CONFLICTS,
        after: i64::MIN,
        ..OperationFilter::default()
    };
    let mut failed = session.operations(&filter).await?.rows;
    failed.retain(|operation| operation.reason.as_deref().is_some_and(status::is_conflict));
    Ok(failed)
}

/// Writes an error and its causes in one line; a cause whose text ends the text before it is said once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    crate::format::shown(&text)
}
