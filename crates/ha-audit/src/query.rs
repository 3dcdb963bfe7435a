//! What the dashboard reads: a pool of connections that can only read, and its questions.
//!
//! Nothing here blocks, and every question has a bound: on rows it returns, and on rows it looks at.

mod connection;
mod statement;

use std::time::Duration;

use ha_sync_core::record::{Counts, OperationKind, OperationStatus, Status};
use jiff::Timestamp;

use crate::dsn::Dsn;
use crate::store::IterationRow;
use crate::time;
use connection::{Connection, Pool, Row};
use statement::{ITERATION, OPERATION, Statement, after_prefix, anywhere};

/// Says why the store could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No connection was got.
    #[error("failed to connect to the audit database: {database}")]
    Unreachable {
        /// The DSN without its password.
        database: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A question was not answered in time.
    #[error("the audit database does not answer: {database}: waited {} s to {step}", patience.as_secs_f32())]
    Slow {
        /// What was asked.
        step: &'static str,
        /// The DSN without its password.
        database: String,
        /// How long was waited.
        patience: Duration,
    },
    /// A question was refused, or its answer not understood.
    #[error("failed to {step} in the audit database: {database}")]
    Query {
        /// What was asked.
        step: &'static str,
        /// The DSN without its password.
        database: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tables are there but older than what is asked for.
    #[error("the schema of the audit database is too old: {database}: version {found}, needed {needed}")]
    Schema {
        /// The DSN without its password.
        database: String,
        /// Its version.
        found: i64,
        /// The first version that has what is asked for.
        needed: i64,
    },
    /// There is no database or no table yet: nothing has run.
    #[error("the audit database has no records yet: {database}")]
    Empty {
        /// The DSN without its password.
        database: String,
    },
}

/// The first version of the schema with the columns that are read. Indices of later ones only make it fast.
const NEEDED: i64 = 2;

/// Opens sessions on an audit store. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: Pool,
    database: String,
    patience: Duration,
}

impl Reader {
    /// Makes a reader; the first session connects. `patience` bounds each connecting and each question.
    pub fn new(dsn: &Dsn, patience: Duration) -> Self {
        Self { pool: Pool::new(dsn, patience), database: dsn.to_string(), patience }
    }

    /// Returns where the store is, without a password.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Takes a connection and makes sure that it has the tables.
    pub async fn session(&self) -> Result<Session, ReadError> {
        if self.pool.is_absent() {
            return Err(ReadError::Empty { database: self.database.clone() });
        }
        let acquired = tokio::time::timeout(self.patience * 2, self.pool.acquire()).await;
        let connection = match acquired {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                return Err(ReadError::Unreachable { database: self.database.clone(), source: Box::new(error) });
            }
            Err(_) => {
                let (database, patience) = (self.database.clone(), self.patience * 2);
                return Err(ReadError::Slow { step: "connect", database, patience });
            }
        };
        let mut session =
            Session { connection: Some(connection), database: self.database.clone(), patience: self.patience };
        session.check_schema().await?;
        Ok(session)
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Is a connection for the questions of one request.
#[derive(Debug)]
pub struct Session {
    /// Absent after a question that was not answered in time.
    connection: Option<Connection>,
    database: String,
    patience: Duration,
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

/// Operations that one question with a path looks at: an index cannot help there.
const LOOKED_AT: u32 = 20_000;

impl Session {
    async fn check_schema(&mut self) -> Result<(), ReadError> {
        let sql = "SELECT COALESCE(MAX(version), 0) FROM ha_sync_schema";
        match self.fetch("read the schema's version", Statement::new(sql)).await {
            Ok(rows) => {
                let found = rows.first().map_or(Ok(None), |row| row.integer(0));
                let found = found.map_err(|error| self.misread("read the schema's version", error))?.unwrap_or(0);
                if found < NEEDED {
                    return Err(ReadError::Schema { database: self.database.clone(), found, needed: NEEDED });
                }
                Ok(())
            }
            Err(ReadError::Query { source, database, .. }) if connection::lacks_table(&*source) => {
                let made_from_plan =
                    self.fetch("look for tables", Statement::new("SELECT id FROM sync_iterations LIMIT 1"));
                match made_from_plan.await {
                    Ok(_) => Err(ReadError::Schema { database, found: 0, needed: NEEDED }),
                    Err(_) => Err(ReadError::Empty { database }),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch(&mut self, step: &'static str, statement: Statement) -> Result<Vec<Row>, ReadError> {
        let slow = || ReadError::Slow { step, database: self.database.clone(), patience: self.patience };
        // Taken out, so that a question that is dropped in the middle takes its connection with it.
        let Some(connection) = self.connection.take() else { return Err(slow()) };
        let mut connection = Guard(Some(connection));
        let Some(inner) = connection.0.as_mut() else { return Err(slow()) };
        let Ok(fetched) = tokio::time::timeout(self.patience, inner.fetch(statement)).await else {
            return Err(slow());
        };
        self.connection = connection.0.take();
        fetched.map_err(|error| self.misread(step, error))
    }

    fn misread(&self, step: &'static str, error: sqlx::Error) -> ReadError {
        let database = self.database.clone();
        let source: Box<dyn std::error::Error + Send + Sync> = match error {
            sqlx::Error::Database(error) => error.into_error(),
            sqlx::Error::Io(error) => return ReadError::Unreachable { database, source: Box::new(error) },
            other => Box::new(other),
        };
        ReadError::Query { step, database, source }
    }

    async fn iteration_rows(
        &mut self,
        step: &'static str,
        statement: Statement,
    ) -> Result<Vec<IterationRow>, ReadError> {
        let rows = self.fetch(step, statement).await?;
        rows.iter().map(|row| iteration_row(row).map_err(|error| self.misread(step, error))).collect()
    }

    async fn operation_rows(
        &mut self,
        step: &'static str,
        statement: Statement,
    ) -> Result<Vec<OperationRow>, ReadError> {
        let rows = self.fetch(step, statement).await?;
        rows.iter().map(|row| operation_row(row).map_err(|error| self.misread(step, error))).collect()
    }

    /// Lists every pair and direction that has ever run.
    pub async fn series(&mut self) -> Result<Vec<Series>, ReadError> {
        let step = "list pairs";
        let sql = "SELECT sync_pair, direction, dry_run FROM sync_iterations GROUP BY sync_pair, direction, dry_run";
        let rows = self.fetch(step, Statement::new(sql)).await?;
        let series = |row: &Row| {
            Ok(Series {
                sync_pair: row.some(0, row.text(0)?)?,
                direction: row.some(1, row.text(1)?)?,
                dry_run: row.integer(2)?.unwrap_or(0) != 0,
            })
        };
        let mut all: Vec<Series> =
            rows.iter().map(series).collect::<Result<_, _>>().map_err(|error| self.misread(step, error))?;
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
        self.iteration_rows("read runs", statement).await
    }

    /// Returns one run.
    pub async fn iteration(&mut self, key: &IterationKey) -> Result<Option<IterationRow>, ReadError> {
        let statement = match key {
            IterationKey::Id(id) => Statement::new(ITERATION).push("WHERE id = ?").bind(*id),
            IterationKey::Run(run) => Statement::new(ITERATION).push("WHERE run_id = ?").bind(run.as_str()),
        };
        Ok(self.iteration_rows("read a run", statement).await?.pop())
    }

    /// Returns the runs with these row ids, in no order.
    pub async fn iterations_by_id(&mut self, ids: &[i64]) -> Result<Vec<IterationRow>, ReadError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let marks = vec!["?"; ids.len()].join(", ");
        let statement = Statement::new(ITERATION).push(&format!("WHERE id IN ({marks})"));
        let statement = ids.iter().fold(statement, |statement, id| statement.bind(*id));
        self.iteration_rows("read runs", statement).await
    }

    /// Returns operations of a run in the order of `seq`.
    ///
    /// Each combination of status and operation is a range of one index, which is in the order of `seq`; so a few
    /// failures among a million operations are found at once. A path is looked for in a bounded number of rows.
    pub async fn operations(&mut self, filter: &OperationFilter) -> Result<Page<OperationRow, i64>, ReadError> {
        let OperationFilter { iteration_id, status, operation, path, after, limit } = filter;
        let looked_at = if path.is_some() { LOOKED_AT.max(*limit) } else { *limit };
        let inner = if status.is_none() && operation.is_none() {
            Statement::new("SELECT ")
                .append(Statement::new(OPERATION))
                .push("FROM sync_operations WHERE iteration_id = ?")
                .bind(*iteration_id)
                .push("AND seq > ? ORDER BY seq LIMIT ?")
                .bind(*after)
                .bind(i64::from(looked_at) + 1)
        } else {
            let statuses = status.map_or(&["success", "fail"][..], |status| match status {
                OperationStatus::Success => &["success"],
                OperationStatus::Fail => &["fail"],
            });
            let operations = operation.map_or(&["create", "update", "delete"][..], |operation| match operation {
                OperationKind::Create => &["create"],
                OperationKind::Update => &["update"],
                OperationKind::Delete => &["delete"],
            });
            let mut union = Statement::new("SELECT * FROM (");
            let mut between = "";
            for status in statuses {
                for operation in operations {
                    union = union.append(
                        Statement::new(between)
                            .push("SELECT * FROM (SELECT")
                            .push(OPERATION)
                            .push("FROM sync_operations WHERE iteration_id = ? AND status = ? AND operation = ?")
                            .bind(*iteration_id)
                            .bind(*status)
                            .bind(*operation)
                            .push("AND seq > ? ORDER BY seq LIMIT ?) AS part")
                            .bind(*after)
                            .bind(i64::from(looked_at) + 1),
                    );
                    between = " UNION ALL";
                }
            }
            union.push(") AS parts ORDER BY seq LIMIT ?").bind(i64::from(looked_at) + 1)
        };
        let step = "read operations";
        let Some(path) = path else {
            let mut rows = self.operation_rows(step, inner).await?;
            let more = rows.len() > *limit as usize;
            rows.truncate(*limit as usize);
            let next = if more { rows.last().and_then(|row| row.seq) } else { None };
            return Ok(Page { rows, next });
        };
        // The rows that match, and how far was looked: the last row tells, whether it matches or not.
        let pattern = anywhere(path);
        let found = Statement::new("SELECT * FROM (")
            .append(inner.clone())
            .push(") AS looked WHERE")
            .push(connection::LIKE)
            .bind(pattern)
            .push("ORDER BY seq LIMIT ?")
            .bind(i64::from(*limit) + 1);
        let mut rows = self.operation_rows(step, found).await?;
        if rows.len() > *limit as usize {
            rows.truncate(*limit as usize);
            let next = rows.last().and_then(|row| row.seq);
            return Ok(Page { rows, next });
        }
        let extent = Statement::new("SELECT COUNT(*), MAX(seq) FROM (").append(inner).push(") AS looked");
        let extent = self.fetch(step, extent).await?;
        let misread = |error| self.misread(step, error);
        let (count, last) = match extent.first() {
            Some(row) => (row.integer(0).map_err(misread)?, row.integer(1).map_err(misread)?),
            None => (None, None),
        };
        let more = count.unwrap_or(0) > i64::from(looked_at);
        Ok(Page { rows, next: if more { last } else { None } })
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
        let rows = self.operation_rows("read the history of a path", statement).await?;
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
        let statement = Statement::new("SELECT DISTINCT filepath FROM sync_operations WHERE filepath >= ?")
            .bind(prefix)
            .push_if("AND filepath > ?", after)
            .push_if("AND filepath < ?", after_prefix(prefix))
            .push("ORDER BY filepath LIMIT ?")
            .bind(i64::from(limit) + 1);
        let rows = self.fetch(step, statement).await?;
        let rows: Result<Vec<String>, _> = rows.iter().map(|row| row.some(0, row.text(0)?)).collect();
        let rows = rows.map_err(|error| self.misread(step, error))?;
        Ok(page(rows, limit, Clone::clone))
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
        let looked = Statement::new("SELECT ")
            .append(Statement::new(OPERATION))
            .push("FROM sync_operations WHERE 1 = 1")
            .push_if("AND id < ?", before)
            .push("ORDER BY id DESC LIMIT ?")
            .bind(i64::from(LOOKED_AT));
        let found = Statement::new("SELECT * FROM (")
            .append(looked)
            .push(") AS looked WHERE")
            .push(connection::LIKE)
            .bind(anywhere(text))
            .push("ORDER BY id DESC LIMIT ?")
            .bind(i64::from(limit) + 1);
        let mut rows = self.operation_rows(step, found).await?;
        if rows.len() > limit as usize {
            rows.truncate(limit as usize);
            let next = rows.last().map(|row| row.id);
            return Ok(Page { rows, next });
        }
        let extent = Statement::new("SELECT COUNT(*), MIN(id) FROM (SELECT id FROM sync_operations WHERE 1 = 1")
            .push_if("AND id < ?", before)
            .push("ORDER BY id DESC LIMIT ?) AS looked")
            .bind(i64::from(LOOKED_AT));
        let extent = self.fetch(step, extent).await?;
        let misread = |error| self.misread(step, error);
        let (count, last) = match extent.first() {
            Some(row) => (row.integer(0).map_err(misread)?, row.integer(1).map_err(misread)?),
            None => (None, None),
        };
        Ok(Page { rows, next: if count == Some(i64::from(LOOKED_AT)) { last } else { None } })
    }
}

/// Holds a connection while it is asked; dropped before the answer is whole, it lets go of it.
struct Guard(Option<Connection>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.discard();
        }
    }
}

/// Cuts the one row too many that tells whether there are more.
fn page<T, C>(mut rows: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Page<T, C> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = if more { rows.last().map(cursor) } else { None };
    Page { rows, next }
}

fn iteration_row(row: &Row) -> Result<IterationRow, sqlx::Error> {
    let count = |column| row.integer(column).map(|count| u64::try_from(count.unwrap_or(0)).unwrap_or(0));
    let skip_reasons = row.text(18)?;
    Ok(IterationRow {
        id: row.some(0, row.integer(0)?)?,
        run_id: row.text(1)?,
        sync_pair: row.some(2, row.text(2)?)?,
        direction: row.some(3, row.text(3)?)?,
        src: row.some(4, row.text(4)?)?,
        dest: row.some(5, row.text(5)?)?,
        started_at: row.some(6, row.time(6)?)?,
        ended_at: row.time(7)?,
        status: row.word(8, &[Status::Running, Status::Success, Status::PartialFailure, Status::Failed], |status| {
            status.as_str()
        })?,
        dry_run: count(9)? != 0,
        counts: Counts {
            files_created: count(10)?,
            files_updated: count(11)?,
            files_deleted: count(12)?,
            files_skipped: count(13)?,
            files_failed: count(14)?,
            total_bytes_transferred: count(15)?,
            // what a person has put there is no reason to show nothing
            skip_reasons: skip_reasons.and_then(|reasons| serde_json::from_str(&reasons).ok()).unwrap_or_default(),
        },
        error_message: row.text(16)?,
        lease_transitions: row.integer(17)?,
    })
}

fn operation_row(row: &Row) -> Result<OperationRow, sqlx::Error> {
    let kinds = [OperationKind::Create, OperationKind::Update, OperationKind::Delete];
    Ok(OperationRow {
        id: row.some(0, row.integer(0)?)?,
        iteration_id: row.some(1, row.integer(1)?)?,
        seq: row.integer(2)?,
        operation: row.word(3, &kinds, |kind| kind.as_str())?,
        filepath: row.some(4, row.text(4)?)?,
        size_before: row.integer(5)?,
        size_after: row.integer(6)?,
        md5_before: row.text(7)?,
        md5_after: row.text(8)?,
        started_at: row.some(9, row.time(9)?)?,
        ended_at: row.time(10)?,
        status: row.word(11, &[OperationStatus::Success, OperationStatus::Fail], |status| match status {
            OperationStatus::Success => "success",
            OperationStatus::Fail => "fail",
        })?,
        error_message: row.text(12)?,
        reason: row.text(13)?,
    })
}
