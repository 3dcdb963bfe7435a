//! What the store does, in the SQL that every database understands. What differs between them is in [`crate::sqlite`]
//! and [`crate::mysql`]: how to open and migrate, how rows are inserted, and what their errors mean.

use std::time::Duration;

use ha_sync_core::name::{Direction, PairName};
use ha_sync_core::record::{Counts, Fingerprint, Iteration, OperationKind, Outcome, Status, Way};
use jiff::Timestamp;
use sqlx::SqlSafeStr;

use crate::batch::{self, Batches, Tally};
use crate::dsn::Dsn;
use crate::mysql::Mysql;
use crate::reader::{LogError, LogReader};
use crate::sqlite::Sqlite;
use crate::store::{Cause, Flushed, IterationRow, Pruned, StoreError};
use crate::time;

/// Rows of one transaction when old ones are removed: others get their turn after each.
const PRUNED_AT_ONCE: i64 = 5000;
/// How often a statement is tried again when another program was quicker.
const RACES: usize = 5;

/// Is what a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Is a value of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Number(i64),
    Text(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(batch::column(number))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Text(time::sql_text(time))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, T::into)
    }
}

/// Is a row of an answer, read from its first column on.
pub(crate) type Row = std::vec::IntoIter<Value>;

/// Is what a statement did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) rows: u64,
    pub(crate) inserted_id: i64,
}

/// Is why a statement failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The same may succeed later.
    Passing,
    /// A row with the same key is there.
    Duplicate,
    /// The database is well but does not take such a row.
    Refused,
    Lasting,
}

impl Fault {
    /// A value in the database is not one of ours.
    pub(crate) fn undecodable(column: &str, text: &dyn std::fmt::Debug) -> Self {
        Self { kind: FaultKind::Lasting, cause: format!("column {column}: {text:?} is no value of it").into() }
    }

    fn of(self, step: &'static str, database: &str) -> StoreError {
        let (database, source) = (database.to_owned(), self.cause);
        match self.kind {
            FaultKind::Refused => StoreError::Refused { step, database, source },
            kind => StoreError::Query { step, database, retryable: kind == FaultKind::Passing, source },
        }
    }
}

/// Is an open database.
#[derive(Debug)]
pub(crate) struct Database {
    backend: Backend,
    /// How messages name it.
    name: String,
}

/// Is the SQL that a database understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Mysql,
}

#[derive(Debug)]
enum Backend {
    Sqlite(Sqlite),
    Mysql(Box<Mysql>),
}

impl Database {
    pub(crate) async fn open(dsn: &Dsn, timeout: Duration, access: Access) -> Result<Self, StoreError> {
        Ok(match dsn {
            Dsn::Sqlite(path) => Self {
                backend: Backend::Sqlite(Sqlite::open(path, timeout, access).await?),
                name: path.display().to_string(),
            },
            Dsn::Mysql(dsn) => {
                Self { backend: Backend::Mysql(Mysql::open(dsn, timeout, access).await?.into()), name: dsn.to_string() }
            }
        })
    }

    pub(crate) async fn close(self) -> Result<(), StoreError> {
        let Self { backend, name } = self;
        let closed = match backend {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Mysql(mysql) => mysql.close().await,
        };
        closed.map_err(|fault| fault.of("finish what was begun", &name))
    }

    pub(crate) fn quickly_flushed(&self) -> u64 {
        match &self.backend {
            Backend::Sqlite(_) => 1_000_000,
            // with 50 ms for a commit
            Backend::Mysql(_) => 150_000,
        }
    }

    async fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<Done, Fault> {
        match &mut self.backend {
            Backend::Sqlite(sqlite) => sqlite.execute(sql, values).await,
            Backend::Mysql(mysql) => mysql.execute(sql, values).await,
        }
    }

    pub(crate) async fn fetch(&mut self, sql: impl SqlSafeStr, values: &[Value]) -> Result<Vec<Row>, Fault> {
        match &mut self.backend {
            Backend::Sqlite(sqlite) => sqlite.fetch(sql, values).await,
            Backend::Mysql(mysql) => mysql.fetch(sql, values).await,
        }
    }

    /// Tells whether it may be asked again later, in another request.
    pub(crate) fn lasts(&self) -> bool {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.lasts(),
            Backend::Mysql(_) => true,
        }
    }

    /// Returns what differs in questions.
    pub(crate) fn dialect(&self) -> Dialect {
        match &self.backend {
            Backend::Sqlite(_) => Dialect::Sqlite,
            Backend::Mysql(_) => Dialect::Mysql,
        }
    }

    /// Names what was tried when it fails.
    pub(crate) fn named<T>(&self, step: &'static str, result: Result<T, Fault>) -> Result<T, StoreError> {
        result.map_err(|fault| fault.of(step, &self.name))
    }

    pub(crate) async fn begin(&mut self, iteration: &Iteration) -> Result<(), StoreError> {
        let begun = self.iteration_id(iteration).await;
        self.named("record the run", begun).map(|_| ())
    }

    /// Stores what the log has so far; [`Self::flush`] goes on with what this returns.
    pub(crate) async fn begin_flush(&mut self, mut reader: LogReader) -> Result<(LogReader, Tally), StoreError> {
        let iteration = reader.header().clone();
        let mut tally = Tally::default();
        self.store_operations(&iteration, &mut reader, &mut tally, &|| false).await?;
        reader.resume();
        Ok((reader, tally))
    }

    pub(crate) async fn flush(
        &mut self,
        mut reader: LogReader,
        mut tally: Tally,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Flushed, StoreError> {
        let iteration = reader.header().clone();
        let stored = self.store_operations(&iteration, &mut reader, &mut tally, stopped).await;
        let broken = match stored {
            Ok(()) => None,
            Err(StoreError::Log(error @ LogError::Broken { .. })) => Some(error),
            Err(error @ StoreError::Refused { .. }) => return Err(self.end_refused(&iteration, tally, error).await),
            Err(error) => return Err(error),
        };
        let operations = tally.operations();
        let finished = self.finish(&iteration, tally.end(&iteration, broken.as_ref())).await;
        let status = self.named("record the end of the run", finished)?;
        match broken {
            Some(error) => Err(error.into()),
            None => Ok(Flushed {
                run_id: iteration.run_id,
                sync_pair: iteration.sync_pair,
                operations,
                status,
                interrupted: !reader.ended(),
            }),
        }
    }

    /// Ends the run of a log that will not be tried again: else its row would be `running` for ever. Returns why that
    /// log is refused, or why it has to be tried again after all.
    async fn end_refused(&mut self, iteration: &Iteration, tally: Tally, refused: StoreError) -> StoreError {
        let why = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
        let ended = match self.stored(iteration).await {
            Ok(stored) => self.finish(iteration, tally.refused(iteration, stored, &why)).await.map(drop),
            Err(fault) => Err(fault),
        };
        match ended {
            Err(fault) if fault.kind == FaultKind::Passing => fault.of("record the end of the run", &self.name),
            // Where not even that is taken, there is nothing more to be done here.
            Ok(()) | Err(_) => refused,
        }
    }

    /// Counts the operations of a run that are rows.
    async fn stored(&mut self, iteration: &Iteration) -> Result<Counts, Fault> {
        let count = "SELECT operation, status, COUNT(*) FROM sync_operations WHERE iteration_id = ? \
                     GROUP BY operation, status";
        let id = self.iteration_id(iteration).await?;
        let mut counts = Counts::default();
        for mut row in self.fetch(count, &[id.into()]).await? {
            let operation = operation_kind(&text("operation", &mut row)?)?;
            let failed = text("status", &mut row)? == "fail";
            let rows = number("COUNT(*)", &mut row)?.unsigned_abs();
            match operation {
                _ if failed => counts.files_failed += rows,
                OperationKind::Create => counts.files_created += rows,
                OperationKind::Update => counts.files_updated += rows,
                OperationKind::Delete => counts.files_deleted += rows,
            }
        }
        Ok(counts)
    }

    /// Stores the operations, in transactions of bounded size.
    async fn store_operations(
        &mut self,
        iteration: &Iteration,
        reader: &mut LogReader,
        tally: &mut Tally,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), StoreError> {
        let id = self.iteration_id(iteration).await;
        let mut batches = Batches::new(reader, tally, self.named("store operations", id)?, stopped);
        let stored = match &mut self.backend {
            Backend::Sqlite(sqlite) => sqlite.insert(&mut batches).await,
            Backend::Mysql(mysql) => mysql.insert(&mut batches).await,
        };
        self.named("store operations", stored)?;
        Ok(batches.end()?)
    }

    /// Returns the row of a run, made when it is not there. An INSERT that does nothing when it is there would use up an
    /// id each time.
    async fn iteration_id(&mut self, iteration: &Iteration) -> Result<i64, Fault> {
        let Iteration { run_id, sync_pair, direction, src, dest, started_at, dry_run, lease_transitions } = iteration;
        for race in 1.. {
            let found =
                self.fetch("SELECT id FROM sync_iterations WHERE run_id = ?", &[run_id.as_str().into()]).await?;
            if let Some(mut row) = found.into_iter().next() {
                return number("id", &mut row);
            }
            let inserted = self
                .execute(
                    "INSERT INTO sync_iterations (run_id, sync_pair, direction, src, dest, started_at, dry_run, \
                     lease_transitions, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'running')",
                    &[
                        run_id.as_str().into(),
                        sync_pair.as_str().into(),
                        direction.as_str().into(),
                        src.as_str().into(),
                        dest.as_str().into(),
                        (*started_at).into(),
                        i64::from(*dry_run).into(),
                        (*lease_transitions).into(),
                    ],
                )
                .await;
            match inserted {
                Ok(done) => return Ok(done.inserted_id),
                // another program flushes this very log
                Err(fault) if fault.kind == FaultKind::Duplicate && race < RACES => {}
                Err(fault) => return Err(fault),
            }
        }
        unreachable!("the loop ends by a return")
    }

    /// Gives the run's row its end and makes this and all before it durable: the log may go then.
    async fn finish(&mut self, iteration: &Iteration, outcome: Outcome) -> Result<Status, Fault> {
        let Outcome { ended_at, status, counts, error_message } = outcome;
        let skip_reasons = (!counts.skip_reasons.is_empty())
            .then(|| serde_json::to_string(&counts.skip_reasons))
            .transpose()
            .map_err(|error| Fault { kind: FaultKind::Lasting, cause: error.into() })?;
        let mut values = [
            ended_at.into(),
            status.as_str().into(),
            counts.files_created.into(),
            counts.files_updated.into(),
            counts.files_deleted.into(),
            counts.files_skipped.into(),
            counts.files_failed.into(),
            counts.total_bytes_transferred.into(),
            error_message.as_deref().into(),
            skip_reasons.as_deref().into(),
            Value::Null,
        ];
        if let Backend::Sqlite(sqlite) = &mut self.backend {
            sqlite.set_durable(true).await?;
        }
        for _ in 0..RACES {
            // other programs may prune the row at any time
            values[10] = self.iteration_id(iteration).await?.into();
            let done = self
                .execute(
                    "UPDATE sync_iterations SET ended_at = ?, status = ?, files_created = ?, files_updated = ?, \
                     files_deleted = ?, files_skipped = ?, files_failed = ?, total_bytes_transferred = ?, \
                     error_message = ?, skip_reasons = ? WHERE id = ?",
                    &values,
                )
                .await?;
            if done.rows > 0 {
                break;
            }
        }
        if let Backend::Sqlite(sqlite) = &mut self.backend {
            sqlite.set_durable(false).await?;
        }
        Ok(status)
    }

    pub(crate) async fn last_dry_run(
        &mut self,
        pair: &PairName,
        direction: &Direction,
    ) -> Result<Option<(Timestamp, Fingerprint)>, StoreError> {
        let last = self.read_last_dry_run(pair, direction).await;
        self.named("read the last dry run", last)
    }

    async fn read_last_dry_run(
        &mut self,
        pair: &PairName,
        direction: &Direction,
    ) -> Result<Option<(Timestamp, Fingerprint)>, Fault> {
        let last = self
            .fetch(
                "SELECT id, CAST(started_at AS CHAR) FROM sync_iterations WHERE sync_pair = ? AND direction = ? \
                 AND dry_run = 1 AND status = 'success' ORDER BY sync_iterations.started_at DESC, id DESC LIMIT 1",
                &[pair.as_str().into(), direction.as_str().into()],
            )
            .await?;
        let Some(mut row) = last.into_iter().next() else {
            return Ok(None);
        };
        let (id, started_at) = (number("id", &mut row)?, timestamp("started_at", &mut row)?);
        let mut fingerprint = Fingerprint::default();
        let mut after = i64::MIN;
        loop {
            let rows = self
                .fetch(
                    "SELECT seq, filepath, operation, size_before, direction FROM sync_operations \
                     WHERE iteration_id = ? AND seq > ? ORDER BY seq LIMIT 1000",
                    &[id.into(), after.into()],
                )
                .await?;
            if rows.is_empty() {
                return Ok(Some((started_at, fingerprint)));
            }
            for mut row in rows {
                after = number("seq", &mut row)?;
                let filepath = text("filepath", &mut row)?;
                let operation = operation_kind(&text("operation", &mut row)?)?;
                let size_before = number_if_any("size_before", &mut row)?;
                let direction = text_if_any("direction", &mut row)?.map(|text| way(&text)).transpose()?;
                fingerprint.add(direction, &filepath, operation, size_before.map(i64::cast_unsigned));
            }
        }
    }

    pub(crate) async fn iterations(
        &mut self,
        pair: Option<&PairName>,
        limit: u32,
    ) -> Result<Vec<IterationRow>, StoreError> {
        let pair: Value = pair.map(PairName::as_str).into();
        let rows = self
            .fetch(
                "SELECT id, run_id, sync_pair, direction, src, dest, CAST(started_at AS CHAR), \
                 CAST(ended_at AS CHAR), status, dry_run, files_created, files_updated, files_deleted, files_skipped, \
                 files_failed, total_bytes_transferred, skip_reasons, error_message, lease_transitions \
                 FROM sync_iterations WHERE (? IS NULL OR sync_pair = ?) \
                 ORDER BY sync_iterations.started_at DESC, id DESC LIMIT ?",
                &[pair.clone(), pair, i64::from(limit).into()],
            )
            .await;
        let rows = rows.and_then(|rows| rows.into_iter().map(iteration_row).collect());
        self.named("read runs", rows)
    }

    /// Finds the runs that began before, without the last successful one of each pair, direction and kind.
    async fn old_runs(&mut self, older_than: Timestamp) -> Result<Vec<i64>, Fault> {
        let rows = self
            .fetch(
                "SELECT id FROM (SELECT id, started_at, status, ROW_NUMBER() OVER (\
                 PARTITION BY sync_pair, direction, dry_run, status ORDER BY started_at DESC, id DESC) AS place \
                 FROM sync_iterations) AS runs \
                 WHERE started_at < ? AND NOT (status = 'success' AND place = 1) ORDER BY started_at, id",
                &[older_than.into()],
            )
            .await?;
        rows.into_iter().map(|mut row| number("id", &mut row)).collect()
    }

    pub(crate) async fn prunable(&mut self, older_than: Timestamp) -> Result<Pruned, StoreError> {
        let counted = self.count_old(older_than).await;
        self.named("count old runs", counted)
    }

    async fn count_old(&mut self, older_than: Timestamp) -> Result<Pruned, Fault> {
        let mut pruned = Pruned::default();
        for run in self.old_runs(older_than).await? {
            let count = "SELECT COUNT(*) FROM sync_operations WHERE iteration_id = ?";
            for mut row in self.fetch(count, &[run.into()]).await? {
                pruned.operations += number("COUNT(*)", &mut row)?.unsigned_abs();
            }
            pruned.iterations += 1;
        }
        Ok(pruned)
    }

    pub(crate) async fn prune(
        &mut self,
        older_than: Timestamp,
        progress: &mut dyn FnMut(Pruned),
    ) -> Result<Pruned, StoreError> {
        let pruned = self.remove_old(older_than, progress).await;
        self.named("remove old runs", pruned)
    }

    async fn remove_old(&mut self, older_than: Timestamp, progress: &mut dyn FnMut(Pruned)) -> Result<Pruned, Fault> {
        let delete = match &self.backend {
            Backend::Sqlite(_) => {
                "DELETE FROM sync_operations WHERE id IN \
                 (SELECT id FROM sync_operations WHERE iteration_id = ? ORDER BY seq LIMIT ?)"
            }
            Backend::Mysql(_) => "DELETE FROM sync_operations WHERE iteration_id = ? ORDER BY seq LIMIT ?",
        };
        let mut pruned = Pruned::default();
        for run in self.old_runs(older_than).await? {
            loop {
                let operations = self.execute(delete, &[run.into(), PRUNED_AT_ONCE.into()]).await?.rows;
                if operations == 0 {
                    break;
                }
                pruned.operations += operations;
                progress(pruned);
            }
            // a flush of this very run may have added operations meanwhile
            let done = self
                .execute(
                    "DELETE FROM sync_iterations WHERE id = ? \
                     AND NOT EXISTS (SELECT 1 FROM sync_operations WHERE iteration_id = ?)",
                    &[run.into(), run.into()],
                )
                .await?;
            pruned.iterations += done.rows;
            progress(pruned);
        }
        Ok(pruned)
    }
}

pub(crate) fn iteration_row(mut row: Row) -> Result<IterationRow, Fault> {
    let row = &mut row;
    let count = |column, row: &mut Row| Ok::<_, Fault>(number_if_any(column, row)?.unwrap_or_default().cast_unsigned());
    // in the order of the columns
    Ok(IterationRow {
        id: number("id", row)?,
        run_id: text_if_any("run_id", row)?,
        sync_pair: text("sync_pair", row)?,
        direction: text("direction", row)?,
        src: text("src", row)?,
        dest: text("dest", row)?,
        started_at: timestamp("started_at", row)?,
        ended_at: timestamp_if_any("ended_at", row)?,
        status: status(&text("status", row)?)?,
        dry_run: count("dry_run", row)? != 0,
        counts: Counts {
            files_created: count("files_created", row)?,
            files_updated: count("files_updated", row)?,
            files_deleted: count("files_deleted", row)?,
            files_skipped: count("files_skipped", row)?,
            files_failed: count("files_failed", row)?,
            total_bytes_transferred: count("total_bytes_transferred", row)?,
            skip_reasons: match text_if_any("skip_reasons", row)? {
                Some(reasons) => {
                    serde_json::from_str(&reasons).map_err(|_| Fault::undecodable("skip_reasons", &reasons))?
                }
                None => Default::default(),
            },
        },
        error_message: text_if_any("error_message", row)?,
        lease_transitions: number_if_any("lease_transitions", row)?,
    })
}

pub(crate) fn number_if_any(column: &str, row: &mut Row) -> Result<Option<i64>, Fault> {
    match row.next() {
        Some(Value::Number(number)) => Ok(Some(number)),
        Some(Value::Null) => Ok(None),
        other => Err(Fault::undecodable(column, &other)),
    }
}

pub(crate) fn number(column: &str, row: &mut Row) -> Result<i64, Fault> {
    number_if_any(column, row)?.ok_or_else(|| Fault::undecodable(column, &Value::Null))
}

pub(crate) fn text_if_any(column: &str, row: &mut Row) -> Result<Option<String>, Fault> {
    match row.next() {
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(Value::Null) => Ok(None),
        other => Err(Fault::undecodable(column, &other)),
    }
}

pub(crate) fn text(column: &str, row: &mut Row) -> Result<String, Fault> {
    text_if_any(column, row)?.ok_or_else(|| Fault::undecodable(column, &Value::Null))
}

pub(crate) fn timestamp_if_any(column: &str, row: &mut Row) -> Result<Option<Timestamp>, Fault> {
    let read = |text: String| time::from_sql(&text).ok_or_else(|| Fault::undecodable(column, &text));
    text_if_any(column, row)?.map(read).transpose()
}

pub(crate) fn timestamp(column: &str, row: &mut Row) -> Result<Timestamp, Fault> {
    timestamp_if_any(column, row)?.ok_or_else(|| Fault::undecodable(column, &Value::Null))
}

fn status(text: &str) -> Result<Status, Fault> {
    [Status::Running, Status::Success, Status::PartialFailure, Status::Failed]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| Fault::undecodable("status", &text))
}

fn way(text: &str) -> Result<Way, Fault> {
    [Way::AToB, Way::BToA]
        .into_iter()
        .find(|way| way.as_str() == text)
        .ok_or_else(|| Fault::undecodable("direction", &text))
}

pub(crate) fn operation_kind(text: &str) -> Result<OperationKind, Fault> {
    [OperationKind::Create, OperationKind::Update, OperationKind::Delete]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| Fault::undecodable("operation", &text))
}
