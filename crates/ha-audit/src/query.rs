//! What the dashboard reads: a few connections that can only read, and its questions.
//!
//! Nothing here blocks, and every question has a bound: on rows it returns, and on rows it looks at.

mod statement;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ha_sync_core::record::{OperationKind, OperationStatus, Status, Way};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::database::{self, Access, Database, Dialect, Fault, Row};
use crate::dsn::Dsn;
use crate::files;
use crate::store::{IterationRow, StoreError};
use crate::time;
use statement::{ITERATION, OPERATION, Statement, after_prefix, anywhere, by_path, indexed, like};

/// Connections at once: bounds the memory, and what a crowd of readers takes from the runs.
const CONNECTIONS: usize = 6;
/// For how long a connection is kept: another file may have taken the name of a SQLite database.
const LIFETIME: Duration = Duration::from_secs(60);

/// Says why the store could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A question was not answered in time.
    #[error("failed to {step} in the audit database: {database}: no answer within {} s", patience.as_secs_f32())]
    Slow {
        /// What was asked.
        step: &'static str,
        /// The DSN without its password.
        database: String,
        /// How long was waited.
        patience: Duration,
    },
    /// There is no database, or nothing of this program in it: nothing has run yet.
    #[error("the audit database has no records yet: {database}")]
    Empty {
        /// The DSN without its password.
        database: String,
    },
}

/// Opens sessions on an audit store. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dsn: Dsn,
    name: String,
    patience: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<(Database, Instant)>>,
}

impl Reader {
    /// Makes a reader; the first session connects. `patience` bounds each connecting and each question.
    pub fn new(dsn: &Dsn, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            dsn: dsn.clone(),
            name: dsn.to_string(),
            patience,
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Mutex::default(),
        }))
    }

    /// Takes a connection, whose database has the tables of this program.
    pub async fn session(&self) -> Result<Session, ReadError> {
        let shared = &self.0;
        let slow = |step| ReadError::Slow { step, database: shared.name.clone(), patience: shared.patience };
        let waited = timeout(shared.patience, Arc::clone(&shared.permits).acquire_owned()).await;
        // nobody closes the semaphore
        let Ok(Ok(mut permit)) = waited else { return Err(slow("get a connection")) };
        if let Dsn::Sqlite(path) = &shared.dsn {
            let path = path.clone();
            // In a thread of its own, which keeps the permit: a directory that hangs must not stop everything else.
            let look = tokio::task::spawn_blocking(move || (files::exists(&path), permit));
            match timeout(shared.patience, look).await {
                Ok(Ok((true, back))) => permit = back,
                Ok(Ok((false, _))) => return Err(ReadError::Empty { database: shared.name.clone() }),
                Ok(Err(_)) | Err(_) => return Err(slow("find the file")),
            }
        }
        let kept = shared.idle().pop();
        let (database, since) = match kept.filter(|(_, since)| since.elapsed() < LIFETIME) {
            Some(kept) => kept,
            None => {
                let open = boxed(Database::open(&shared.dsn, shared.patience, Access::Read));
                match timeout(shared.patience, open).await {
                    Ok(Ok(database)) => (database, Instant::now()),
                    Ok(Err(StoreError::Schema { database, found: 0, .. })) => {
                        return Err(ReadError::Empty { database });
                    }
                    Ok(Err(error)) => return Err(error.into()),
                    Err(_) => return Err(slow("connect")),
                }
            }
        };
        Ok(Session { database: Some(database), since, shared: Arc::clone(shared), _permit: permit })
    }

    /// Closes the connections that nobody uses.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.0.idle());
        for (database, _) in idle {
            // it was only read from
            let _ = database.close().await;
        }
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Database, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hides what a future is made of: the compiler can tell of this one that it is `Send`, but not of those that hold it.
fn boxed<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}

/// Is a connection for the questions of one request.
#[derive(Debug)]
pub struct Session {
    /// Absent after a question that was not answered, or not to its end.
    database: Option<Database>,
    since: Instant,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(database) = self.database.take().filter(Database::lasts) {
            self.shared.idle().push((database, self.since));
        }
    }
}

/// Is a pair and direction, in real or dry runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// The pair.
    pub sync_pair: String,
    /// The label of the direction.
    pub direction: String,
    /// Whether its runs change nothing.
    pub dry_run: bool,
}

/// Says which runs are wanted; newest come first.
#[derive(Debug, Clone, Default)]
pub struct IterationFilter {
    /// Of this pair.
    pub pair: Option<String>,
    /// Of this direction.
    pub direction: Option<String>,
    /// Only dry runs, or only others.
    pub dry_run: Option<bool>,
    /// That stand so.
    pub status: Option<Status>,
    /// Older than this one, by start and id.
    pub before: Option<(Timestamp, i64)>,
    /// At most so many.
    pub limit: u32,
}

/// Names a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IterationKey {
    /// By its row.
    Id(i64),
    /// By its run id.
    Run(String),
}

/// Is a row of `sync_operations`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRow {
    /// The row's key.
    pub id: i64,
    /// The run's row.
    pub iteration_id: i64,
    /// The number in its run; absent in rows that a program of before has added.
    pub seq: Option<i64>,
    /// What it does.
    pub operation: OperationKind,
    /// The path, written as [`ha_sync_core::path::escape`] does.
    pub filepath: String,
    /// Bytes before.
    pub size_before: Option<i64>,
    /// Bytes after.
    pub size_after: Option<i64>,
    /// 32 hex digits.
    pub md5_before: Option<String>,
    /// 32 hex digits.
    pub md5_after: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub status: OperationStatus,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Why it was decided.
    pub reason: Option<String>,
    /// Which way it went, in a two-way run.
    pub way: Option<Way>,
}

/// Says which operations of a run are wanted, in the order of `seq`.
#[derive(Debug, Clone, Default)]
pub struct OperationFilter {
    /// The run's row.
    pub iteration_id: i64,
    /// That ended so.
    pub status: Option<OperationStatus>,
    /// That do this.
    pub operation: Option<OperationKind>,
    /// That have this anywhere in the path; ASCII letters match either case.
    pub path: Option<String>,
    /// After this `seq`.
    pub after: i64,
    /// At most so many.
    pub limit: u32,
}

/// Is a part of a longer answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, C> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next part begins; absent at the end. There may be one although this part has no rows: what was
    /// looked at had none.
    pub next: Option<C>,
}

/// Questions that a list of paths takes at most.
const MOST_LOOKS: usize = 4;
/// Operations that one question with a path looks at: an index cannot help there.
const LOOKED_AT: u32 = 5_000;
/// The same in one run: they are found by an index first, which costs more for each.
const LOOKED_AT_IN_RUN: u32 = 2_000;

impl Session {
    /// Asks, and makes values of the rows.
    async fn ask<T>(
        &mut self,
        step: &'static str,
        statement: Statement,
        read: impl Fn(Row) -> Result<T, Fault>,
    ) -> Result<Vec<T>, ReadError> {
        let Shared { name, patience, .. } = &*self.shared;
        let slow = || ReadError::Slow { step, database: name.clone(), patience: *patience };
        // Taken out: a connection that is given up in the middle of an answer is of no use any more.
        let Some(mut database) = self.database.take() else { return Err(slow()) };
        let (sql, values) = statement.into_parts();
        let fetched = timeout(*patience, boxed(database.fetch(sql, &values))).await.map_err(|_| slow())?;
        let rows = fetched.and_then(|rows| rows.into_iter().map(read).collect());
        // One that has failed is not kept either: it remembers for a while that its server was away, which spares a run
        // many waits, but would hide from a page that the server is back.
        let rows = database.named(step, rows)?;
        self.database = Some(database);
        Ok(rows)
    }

    fn dialect(&self) -> Dialect {
        self.database.as_ref().map_or(Dialect::Sqlite, Database::dialect)
    }

    /// Lists every pair and direction that has ever run.
    pub async fn series(&mut self) -> Result<Vec<Series>, ReadError> {
        let step = "list pairs";
        let sql = "SELECT sync_pair, direction, dry_run FROM sync_iterations GROUP BY sync_pair, direction, dry_run";
        let series = |mut row: Row| {
            Ok(Series {
                sync_pair: database::text("sync_pair", &mut row)?,
                direction: database::text("direction", &mut row)?,
                dry_run: database::number("dry_run", &mut row)? != 0,
            })
        };
        let mut all = self.ask(step, Statement::new(sql), series).await?;
        all.sort();
        Ok(all)
    }

    /// Returns runs, newest first.
    pub async fn iterations(&mut self, filter: &IterationFilter) -> Result<Vec<IterationRow>, ReadError> {
        let IterationFilter { pair, direction, dry_run, status, before, limit } = filter;
        let mut statement = Statement::new(ITERATION)
            .push("WHERE 1 = 1")
            .push_if("AND sync_pair = ?", pair.as_deref())
            .push_if("AND direction = ?", direction.as_deref())
            .push_if("AND dry_run = ?", dry_run.map(i64::from))
            .push_if("AND status = ?", status.map(Status::as_str));
        if let Some((started_at, id)) = before {
            let started_at = time::sql_text(*started_at);
            statement = statement
                .push("AND started_at <= ? AND (started_at < ? OR id < ?)")
                .bind(started_at.clone())
                .bind(started_at)
                .bind(*id);
        }
        let statement = statement.push("ORDER BY started_at DESC, id DESC LIMIT ?").bind(i64::from(*limit));
        self.ask("read runs", statement, database::iteration_row).await
    }

    /// Returns one run.
    pub async fn iteration(&mut self, key: &IterationKey) -> Result<Option<IterationRow>, ReadError> {
        let statement = match key {
            IterationKey::Id(id) => Statement::new(ITERATION).push("WHERE id = ?").bind(*id),
            IterationKey::Run(run) => Statement::new(ITERATION).push("WHERE run_id = ?").bind(run.as_str()),
        };
        Ok(self.ask("read a run", statement, database::iteration_row).await?.pop())
    }

    /// Returns the runs with these row ids, in no order.
    pub async fn iterations_by_id(&mut self, ids: &[i64]) -> Result<Vec<IterationRow>, ReadError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let marks = vec!["?"; ids.len()].join(", ");
        let statement = Statement::new(ITERATION).push(&format!("WHERE id IN ({marks})"));
        let statement = ids.iter().fold(statement, |statement, id| statement.bind(*id));
        self.ask("read runs", statement, database::iteration_row).await
    }

    /// Returns operations of a run in the order of `seq`.
    ///
    /// Each combination of status and operation is a range of one index, which is in the order of `seq`; so a few
    /// failures among a million operations are found at once. A path is looked for in a bounded number of rows.
    pub async fn operations(&mut self, filter: &OperationFilter) -> Result<Page<OperationRow, i64>, ReadError> {
        let OperationFilter { iteration_id, status, operation, path, after, limit } = filter;
        let step = "read operations";
        if let Some(path) = path {
            return self.operations_with(filter, path).await;
        }
        let statement = if status.is_none() && operation.is_none() {
            Statement::new("SELECT")
                .push(OPERATION)
                .push("FROM sync_operations WHERE iteration_id = ? AND seq > ? ORDER BY seq LIMIT ?")
                .bind(*iteration_id)
                .bind(*after)
                .bind(i64::from(*limit) + 1)
        } else {
            let mut union = Statement::new("SELECT * FROM (");
            let mut between = "";
            for status in statuses(*status) {
                for operation in operations(*operation) {
                    let part = Statement::new(between)
                        .push("SELECT * FROM (SELECT")
                        .push(OPERATION)
                        .push("FROM sync_operations WHERE iteration_id = ? AND status = ? AND operation = ?")
                        .bind(*iteration_id)
                        .bind(*status)
                        .bind(*operation)
                        .push("AND seq > ? ORDER BY seq LIMIT ?) AS part")
                        .bind(*after)
                        .bind(i64::from(*limit) + 1);
                    union = union.append(part);
                    between = " UNION ALL";
                }
            }
            union.push(") AS parts ORDER BY seq LIMIT ?").bind(i64::from(*limit) + 1)
        };
        let mut rows = self.ask(step, statement, operation_row).await?;
        let more = rows.len() > *limit as usize;
        rows.truncate(*limit as usize);
        let next = if more { rows.last().and_then(|row| row.seq) } else { None };
        Ok(Page { rows, next })
    }

    /// The same with a text in the path, in a bounded number of the run's operations.
    async fn operations_with(
        &mut self,
        filter: &OperationFilter,
        path: &str,
    ) -> Result<Page<OperationRow, i64>, ReadError> {
        let OperationFilter { iteration_id, status, operation, path: _, after, limit } = filter;
        let step = "look for paths of a run";
        let end = Statement::new("SELECT seq FROM sync_operations WHERE iteration_id = ? AND seq > ?")
            .bind(*iteration_id)
            .bind(*after)
            .push("ORDER BY seq LIMIT 1 OFFSET ?")
            .bind(i64::from(LOOKED_AT_IN_RUN));
        let end = self.ask(step, end, |mut row| database::number("seq", &mut row)).await?.pop();
        let statement = Statement::new("SELECT")
            .push(OPERATION)
            .push("FROM sync_operations WHERE iteration_id = ? AND seq > ?")
            .bind(*iteration_id)
            .bind(*after)
            .push_if("AND seq <= ?", end)
            .push_if("AND status = ?", status.map(|status| statuses(Some(status))[0]))
            .push_if("AND operation = ?", operation.map(OperationKind::as_str))
            .push("AND")
            .push(like(self.dialect()))
            .bind(anywhere(path))
            .push("ORDER BY seq LIMIT ?")
            .bind(i64::from(*limit) + 1);
        let mut rows = self.ask(step, statement, operation_row).await?;
        if rows.len() > *limit as usize {
            rows.truncate(*limit as usize);
            let next = rows.last().and_then(|row| row.seq);
            return Ok(Page { rows, next });
        }
        Ok(Page { rows, next: end })
    }

    /// Returns what was done to a path, newest first; `before` is the row id where the last part ended.
    pub async fn history(
        &mut self,
        path: &str,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<OperationRow, i64>, ReadError> {
        let statement = Statement::new("SELECT ")
            .append(Statement::new(OPERATION))
            .push("FROM sync_operations WHERE filepath = ?")
            .bind(path)
            .push_if("AND id < ?", before)
            .push("ORDER BY id DESC LIMIT ?")
            .bind(i64::from(limit) + 1);
        let rows = self.ask("read the history of a path", statement, operation_row).await?;
        Ok(page(rows, limit, |row| row.id))
    }

    /// Returns the paths that begin with `prefix`, in their order, each once; `after` is where the last part ended.
    pub async fn paths(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<String, String>, ReadError> {
        let step = "look for paths";
        let mut found: BTreeSet<String> = BTreeSet::new();
        let mut reached = after.map(str::to_owned);
        let (table, order) = by_path(self.dialect());
        // A path may have many operations: the next look begins behind the last path of the one before.
        for _ in 0..MOST_LOOKS {
            let statement = Statement::new("SELECT filepath FROM")
                .push(table)
                .push("WHERE filepath >= ?")
                .bind(prefix)
                .push_if("AND filepath > ?", reached.as_deref())
                .push_if("AND filepath < ?", after_prefix(prefix).as_deref())
                .push(order)
                .push("LIMIT ?")
                .bind(i64::from(limit) * 2);
            let rows = self.ask(step, statement, |mut row| database::text("filepath", &mut row)).await?;
            let all = (rows.len() as u64) < u64::from(limit) * 2;
            if all {
                found.extend(rows);
                reached = None;
                break;
            }
            let Some(last) = rows.last() else { break };
            match indexed(self.dialect(), last).map(str::to_owned) {
                None => {
                    reached = Some(last.clone());
                    found.extend(rows);
                }
                // Those whose indexed part is the same come in no order, and may not all be here.
                Some(part) => {
                    found.extend(rows.into_iter().filter(|path| !path.starts_with(&part)));
                    let group = self.paths_of_part(&part, reached.as_deref(), prefix, limit).await?;
                    reached = group.last().cloned().or(reached);
                    found.extend(group);
                }
            }
            if found.len() > limit as usize {
                break;
            }
        }
        let more = found.len() > limit as usize;
        let rows: Vec<String> = found.into_iter().take(limit as usize).collect();
        let next = if more { rows.last().cloned() } else { reached };
        Ok(Page { rows, next })
    }

    /// Returns the first paths of those with the same indexed part, in their order: one more than `limit` at most.
    async fn paths_of_part(
        &mut self,
        part: &str,
        after: Option<&str>,
        prefix: &str,
        limit: u32,
    ) -> Result<Vec<String>, ReadError> {
        // the prefix may be longer than what the index has
        let least = part.max(prefix);
        let end = after_prefix(part).into_iter().chain(after_prefix(prefix)).min();
        let (table, _) = by_path(self.dialect());
        let statement = Statement::new("SELECT DISTINCT filepath FROM")
            .push(table)
            .push("WHERE filepath >= ?")
            .bind(least)
            .push_if("AND filepath > ?", after)
            .push_if("AND filepath < ?", end.as_deref())
            .push("ORDER BY filepath LIMIT ?")
            .bind(i64::from(limit) + 1);
        self.ask("look for paths", statement, |mut row| database::text("filepath", &mut row)).await
    }

    /// Looks for a text anywhere in the paths of a bounded number of operations, newest first; `before` is the row id
    /// where the last part ended.
    pub async fn anywhere(
        &mut self,
        text: &str,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<OperationRow, i64>, ReadError> {
        let step = "look for paths";
        let end = Statement::new("SELECT id FROM sync_operations WHERE 1 = 1")
            .push_if("AND id < ?", before)
            .push("ORDER BY id DESC LIMIT 1 OFFSET ?")
            .bind(i64::from(LOOKED_AT));
        let end = self.ask(step, end, |mut row| database::number("id", &mut row)).await?.pop();
        let statement = Statement::new("SELECT")
            .push(OPERATION)
            .push("FROM sync_operations WHERE")
            .push(like(self.dialect()))
            .bind(anywhere(text))
            .push_if("AND id < ?", before)
            .push_if("AND id >= ?", end)
            .push("ORDER BY id DESC LIMIT ?")
            .bind(i64::from(limit) + 1);
        let mut rows = self.ask(step, statement, operation_row).await?;
        if rows.len() > limit as usize {
            rows.truncate(limit as usize);
            let next = rows.last().map(|row| row.id);
            return Ok(Page { rows, next });
        }
        Ok(Page { rows, next: end })
    }
}

fn statuses(status: Option<OperationStatus>) -> &'static [&'static str] {
    match status {
        None => &["success", "fail"],
        Some(OperationStatus::Success) => &["success"],
        Some(OperationStatus::Fail) => &["fail"],
    }
}

fn operations(operation: Option<OperationKind>) -> &'static [&'static str] {
    match operation {
        None => &["create", "update", "delete"],
        Some(OperationKind::Create) => &["create"],
        Some(OperationKind::Update) => &["update"],
        Some(OperationKind::Delete) => &["delete"],
    }
}

/// Cuts the one row too many that tells whether there are more.
fn page<T, C>(mut rows: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Page<T, C> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = if more { rows.last().map(cursor) } else { None };
    Page { rows, next }
}

fn operation_row(mut row: Row) -> Result<OperationRow, Fault> {
    let row = &mut row;
    // in the order of the columns
    Ok(OperationRow {
        id: database::number("id", row)?,
        iteration_id: database::number("iteration_id", row)?,
        seq: database::number_if_any("seq", row)?,
        operation: database::operation_kind(&database::text("operation", row)?)?,
        filepath: database::text("filepath", row)?,
        size_before: database::number_if_any("size_before", row)?,
        size_after: database::number_if_any("size_after", row)?,
        md5_before: database::text_if_any("md5_before", row)?,
        md5_after: database::text_if_any("md5_after", row)?,
        started_at: database::timestamp("started_at", row)?,
        ended_at: database::timestamp_if_any("ended_at", row)?,
        status: match database::text("status", row)?.as_str() {
            "success" => OperationStatus::Success,
            "fail" => OperationStatus::Fail,
            other => return Err(Fault::undecodable("status", &other)),
        },
        error_message: database::text_if_any("error_message", row)?,
        reason: database::text_if_any("reason", row)?,
        way: match database::text_if_any("direction", row)?.as_deref() {
            None => None,
            Some("a-to-b") => Some(Way::AToB),
            Some("b-to-a") => Some(Way::BToA),
            Some(other) => return Err(Fault::undecodable("direction", &other)),
        },
    })
}
