//! The store in a SQLite file.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ha_sync_core::name::{Direction, PairName};
use ha_sync_core::record::{Counts, Fingerprint, Iteration, OperationKind, Outcome, Status, Way};
use jiff::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteQueryResult, SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};

use crate::batch::{self, Batch, Tally, Words};
use crate::reader::{LogError, LogReader};
use crate::store::{Cause, Flushed, IterationRow, Pruned, StoreError};
use crate::{files, time};

/// Rows of one transaction: others get their turn after each.
const TRANSACTION_ROWS: usize = 5000;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A checkpoint makes the database durable and is most of the cost of a long flush: one in 40 MiB, not in 4.
const CHECKPOINT_PAGES: &str = "10000";
/// What of the WAL stays on disk when nothing is in it.
const WAL_KEPT_BYTES: &str = "4194304";
/// What brings the schema from one version to the next.
const MIGRATIONS: [&str; 3] = [
    include_str!("../migrations/sqlite/0001_plan.sql"),
    include_str!("../migrations/sqlite/0002_runs.sql"),
    include_str!("../migrations/sqlite/0003_direction.sql"),
];
const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Is what a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

#[derive(Debug)]
pub(crate) struct Database {
    connection: SqliteConnection,
    path: PathBuf,
    /// The INSERT statement of a full batch; it stays prepared.
    insert_full: Arc<str>,
}

impl Database {
    /// Opens the file; tries again as long as others are in the way, up to `timeout`.
    pub(crate) async fn open(path: &Path, timeout: Duration, access: Access) -> Result<Self, StoreError> {
        let deadline = Instant::now() + timeout;
        loop {
            match Self::try_open(path, timeout.min(BUSY_TIMEOUT), access).await {
                // a change to WAL is not waited for by SQLite's busy handler
                Err(error) if error.is_retryable() && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => return opened,
            }
        }
    }

    async fn try_open(path: &Path, busy_timeout: Duration, access: Access) -> Result<Self, StoreError> {
        let unreachable = |error: sqlx::Error| {
            let retryable = is_retryable(&error);
            StoreError::Unreachable { path: path.to_owned(), retryable, source: cause(error) }
        };
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(true)
            .busy_timeout(busy_timeout)
            .read_only(access == Access::Read)
            .create_if_missing(access == Access::Write)
            .statement_cache_capacity(16)
            .disable_statement_logging();
        if access == Access::Write {
            let directory = match path.parent() {
                Some(directory) if !directory.as_os_str().is_empty() => directory,
                _ => Path::new("."),
            };
            options = if files::is_remote(directory) {
                options.journal_mode(SqliteJournalMode::Delete).synchronous(SqliteSynchronous::Full)
            } else {
                options
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Normal)
                    .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
                    .pragma("journal_size_limit", WAL_KEPT_BYTES)
            };
        }
        let connection = options.connect().await.map_err(unreachable)?;
        let mut database =
            Self { connection, path: path.to_owned(), insert_full: batch::insert_statement(batch::ROWS).into() };
        let mut found = schema_version(&mut database.connection).await.map_err(unreachable)?;
        if access == Access::Write && found < NEWEST {
            found = database.migrate().await?;
        }
        if found != NEWEST {
            return Err(StoreError::Schema { path: path.to_owned(), found, needed: NEWEST });
        }
        Ok(database)
    }

    /// Closes the file and waits until that is done.
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        let failed = failure("finish what was begun", &self.path);
        self.connection.close().await.map_err(failed)
    }

    /// Migrates in one transaction that keeps others out from its start: of two programs that find an old schema, the
    /// second waits and then finds nothing to do. Returns the version that the schema has then.
    ///
    /// The table has a row for each version, written after its statements: so it also tells how far a database came
    /// that commits after each statement of a schema (MySQL).
    async fn migrate(&mut self) -> Result<i64, StoreError> {
        let path = self.path.clone();
        let failed = |error: sqlx::Error| {
            let retryable = is_retryable(&error);
            StoreError::Migrate { path: path.clone(), retryable, source: cause(error) }
        };
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let table = "CREATE TABLE IF NOT EXISTS ha_sync_schema (version BIGINT NOT NULL PRIMARY KEY)";
        sqlx::raw_sql(table).execute(&mut *transaction).await.map_err(failed)?;
        let mut version = schema_version(&mut transaction).await.map_err(failed)?;
        let known = usize::try_from(version).unwrap_or_default().min(MIGRATIONS.len());
        for statements in &MIGRATIONS[known..] {
            version += 1;
            sqlx::raw_sql(*statements).execute(&mut *transaction).await.map_err(failed)?;
            let row = sqlx::query("INSERT INTO ha_sync_schema (version) VALUES (?)").bind(version);
            row.execute(&mut *transaction).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(version)
    }

    pub(crate) async fn begin(&mut self, iteration: &Iteration) -> Result<(), StoreError> {
        let failed = failure("record the run", &self.path);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        iteration_id(&mut transaction, iteration).await.map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// Stores what the log has so far; [`Self::flush`] goes on with what this returns.
    pub(crate) async fn begin_flush(&mut self, mut reader: LogReader) -> Result<(LogReader, Tally), StoreError> {
        let iteration = reader.header().clone();
        let mut tally = Tally::default();
        self.store_operations(&iteration, &mut reader, &mut tally).await?;
        reader.resume();
        Ok((reader, tally))
    }

    pub(crate) async fn flush(&mut self, mut reader: LogReader, mut tally: Tally) -> Result<Flushed, StoreError> {
        let iteration = reader.header().clone();
        let stored = self.store_operations(&iteration, &mut reader, &mut tally).await;
        let broken = match stored {
            Ok(()) => None,
            Err(StoreError::Log(error @ LogError::Broken { .. })) => Some(error),
            Err(error) => return Err(error),
        };
        let operations = tally.operations();
        let status = self.finish(&iteration, tally.end(&iteration, broken.as_ref())).await?;
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

    /// Stores the operations, in transactions of bounded size. The next batch is read while SQLite takes one.
    async fn store_operations(
        &mut self,
        iteration: &Iteration,
        reader: &mut LogReader,
        tally: &mut Tally,
    ) -> Result<(), StoreError> {
        let failed = failure("store operations", &self.path);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let id = iteration_id(&mut transaction, iteration).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        let mut words = Words::new();
        let mut read = || Batch::read(reader, &mut words, tally, id);
        let (mut batch, mut more) = read();
        while batch.rows() > 0 {
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
            let mut rows = 0;
            while batch.rows() > 0 && rows < TRANSACTION_ROWS {
                rows += batch.rows();
                let insertion = insert(&mut transaction, std::mem::take(&mut batch), &self.insert_full);
                let (inserted, ()) = overlap(insertion, || {
                    if matches!(more, Ok(true)) {
                        (batch, more) = read();
                    }
                })
                .await;
                inserted.map_err(&failed)?;
            }
            transaction.commit().await.map_err(&failed)?;
        }
        Ok(more.map(|_| ())?)
    }

    /// Gives the run's row its end and makes this and all before it durable: the log may go then.
    async fn finish(&mut self, iteration: &Iteration, outcome: Outcome) -> Result<Status, StoreError> {
        let failed = failure("record the end of the run", &self.path);
        pragma(&mut self.connection, "PRAGMA synchronous = FULL").await.map_err(&failed)?;
        let Outcome { ended_at, status, counts, error_message } = outcome;
        let skip_reasons = (!counts.skip_reasons.is_empty())
            .then(|| serde_json::to_string(&counts.skip_reasons))
            .transpose()
            .map_err(|error| failed(sqlx::Error::Encode(error.into())))?;
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        // other programs may have pruned the row since
        let id = iteration_id(&mut transaction, iteration).await.map_err(&failed)?;
        sqlx::query(
            "UPDATE sync_iterations SET ended_at = ?, status = ?, files_created = ?, files_updated = ?, \
             files_deleted = ?, files_skipped = ?, files_failed = ?, total_bytes_transferred = ?, error_message = ?, \
             skip_reasons = ? WHERE id = ?",
        )
        .bind(time::sql_text(ended_at))
        .bind(status.as_str())
        .bind(batch::column(counts.files_created))
        .bind(batch::column(counts.files_updated))
        .bind(batch::column(counts.files_deleted))
        .bind(batch::column(counts.files_skipped))
        .bind(batch::column(counts.files_failed))
        .bind(batch::column(counts.total_bytes_transferred))
        .bind(error_message)
        .bind(skip_reasons)
        .bind(id)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        pragma(&mut self.connection, "PRAGMA synchronous = NORMAL").await.map_err(&failed)?;
        Ok(status)
    }

    pub(crate) async fn last_dry_run(
        &mut self,
        pair: &PairName,
        direction: &Direction,
    ) -> Result<Option<(Timestamp, Fingerprint)>, StoreError> {
        let failed = failure("read the last dry run", &self.path);
        let last: Option<(i64, String)> = sqlx::query_as(
            "SELECT id, started_at FROM sync_iterations WHERE sync_pair = ? AND direction = ? AND dry_run = 1 \
             AND status = 'success' ORDER BY started_at DESC, id DESC LIMIT 1",
        )
        .bind(pair.as_str())
        .bind(direction.as_str())
        .fetch_optional(&mut self.connection)
        .await
        .map_err(&failed)?;
        let Some((id, started_at)) = last else {
            return Ok(None);
        };
        let started_at = timestamp("started_at", &started_at).map_err(&failed)?;
        let mut fingerprint = Fingerprint::default();
        let mut after = i64::MIN;
        loop {
            let rows = sqlx::query(
                "SELECT seq, filepath, operation, size_before, direction FROM sync_operations WHERE iteration_id = ? \
                 AND seq > ? ORDER BY seq LIMIT 1000",
            )
            .bind(id)
            .bind(after)
            .fetch_all(&mut self.connection)
            .await
            .map_err(&failed)?;
            if rows.is_empty() {
                return Ok(Some((started_at, fingerprint)));
            }
            for row in rows {
                after = row.try_get(0).map_err(&failed)?;
                let operation = operation_kind(row.try_get(2).map_err(&failed)?).map_err(&failed)?;
                let size_before: Option<i64> = row.try_get(3).map_err(&failed)?;
                let direction = row.try_get(4).and_then(way).map_err(&failed)?;
                let filepath = row.try_get(1).map_err(&failed)?;
                fingerprint.add(direction, filepath, operation, size_before.map(i64::cast_unsigned));
            }
        }
    }

    pub(crate) async fn iterations(
        &mut self,
        pair: Option<&PairName>,
        limit: u32,
    ) -> Result<Vec<IterationRow>, StoreError> {
        let failed = failure("read runs", &self.path);
        let rows = sqlx::query(
            "SELECT * FROM sync_iterations WHERE (?1 IS NULL OR sync_pair = ?1) \
             ORDER BY started_at DESC, id DESC LIMIT ?2",
        )
        .bind(pair.map(PairName::as_str))
        .bind(i64::from(limit))
        .fetch_all(&mut self.connection)
        .await
        .map_err(&failed)?;
        rows.iter().map(|row| iteration_row(row).map_err(&failed)).collect()
    }

    async fn old_runs(&mut self, older_than: Timestamp) -> Result<Vec<i64>, StoreError> {
        // SQLite takes a bare column of an aggregate from the row that has the maximum
        sqlx::query_scalar(
            "SELECT id FROM sync_iterations WHERE started_at < ? AND id NOT IN (SELECT id FROM (\
             SELECT id, MAX(started_at) FROM sync_iterations WHERE status = 'success' \
             GROUP BY sync_pair, direction, dry_run)) ORDER BY started_at, id",
        )
        .bind(time::sql_text(older_than))
        .fetch_all(&mut self.connection)
        .await
        .map_err(failure("find old runs", &self.path))
    }

    pub(crate) async fn prunable(&mut self, older_than: Timestamp) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        for run in self.old_runs(older_than).await? {
            let operations: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sync_operations WHERE iteration_id = ?")
                .bind(run)
                .fetch_one(&mut self.connection)
                .await
                .map_err(failure("count old operations", &self.path))?;
            pruned.iterations += 1;
            pruned.operations += operations.unsigned_abs();
        }
        Ok(pruned)
    }

    pub(crate) async fn prune(
        &mut self,
        older_than: Timestamp,
        progress: &mut dyn FnMut(Pruned),
    ) -> Result<Pruned, StoreError> {
        let failed = failure("remove old runs", &self.path);
        let runs = self.old_runs(older_than).await?;
        let mut pruned = Pruned::default();
        for run in runs {
            loop {
                let operations = sqlx::query(
                    "DELETE FROM sync_operations WHERE id IN \
                     (SELECT id FROM sync_operations WHERE iteration_id = ? ORDER BY seq LIMIT 5000)",
                )
                .bind(run)
                .execute(&mut self.connection)
                .await
                .map_err(&failed)?
                .rows_affected();
                if operations == 0 {
                    break;
                }
                pruned.operations += operations;
                progress(pruned);
            }
            // a flush of this very run may have added operations meanwhile
            pruned.iterations += sqlx::query(
                "DELETE FROM sync_iterations WHERE id = ?1 \
                 AND NOT EXISTS (SELECT 1 FROM sync_operations WHERE iteration_id = ?1)",
            )
            .bind(run)
            .execute(&mut self.connection)
            .await
            .map_err(&failed)?
            .rows_affected();
            progress(pruned);
        }
        Ok(pruned)
    }
}

/// Drives `future` to its first wait, does `work`, then awaits the rest.
async fn overlap<F: Future, T>(future: F, work: impl FnOnce() -> T) -> (F::Output, T) {
    let mut future = pin!(future);
    let first = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    let worked = work();
    match first {
        Poll::Ready(output) => (output, worked),
        Poll::Pending => (future.await, worked),
    }
}

/// Returns the version of the schema; 0 of a database that is new, or was made from the plan.
async fn schema_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let table = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'ha_sync_schema'";
    let tables: i64 = sqlx::query_scalar(table).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM ha_sync_schema").fetch_one(connection).await
}

async fn insert(connection: &mut SqliteConnection, batch: Batch, full: &Arc<str>) -> Result<(), sqlx::Error> {
    let rows = batch.rows();
    let arguments = batch.into_arguments();
    if rows == batch::ROWS {
        sqlx::query_with(AssertSqlSafe(Arc::clone(full)), arguments).execute(connection).await?;
    } else {
        let statement = batch::insert_statement(rows);
        sqlx::query_with(AssertSqlSafe(statement), arguments).persistent(false).execute(connection).await?;
    }
    Ok(())
}

/// Returns the row of a run, made when it is not there. To be called in a transaction that keeps other writers out. An
/// INSERT that does nothing on a conflict would use up an id each time.
async fn iteration_id(connection: &mut SqliteConnection, iteration: &Iteration) -> Result<i64, sqlx::Error> {
    let Iteration { run_id, sync_pair, direction, src, dest, started_at, dry_run, lease_transitions } = iteration;
    let found = sqlx::query_scalar("SELECT id FROM sync_iterations WHERE run_id = ?")
        .bind(run_id.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(id) = found {
        return Ok(id);
    }
    sqlx::query_scalar(
        "INSERT INTO sync_iterations (run_id, sync_pair, direction, src, dest, started_at, dry_run, \
         lease_transitions, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'running') RETURNING id",
    )
    .bind(run_id.as_str())
    .bind(sync_pair.as_str())
    .bind(direction.as_str())
    .bind(src)
    .bind(dest)
    .bind(time::sql_text(*started_at))
    .bind(*dry_run)
    .bind(*lease_transitions)
    .fetch_one(connection)
    .await
}

async fn pragma(connection: &mut SqliteConnection, pragma: &'static str) -> Result<SqliteQueryResult, sqlx::Error> {
    sqlx::raw_sql(pragma).execute(connection).await
}

fn iteration_row(row: &SqliteRow) -> Result<IterationRow, sqlx::Error> {
    let count = |column| row.try_get::<Option<i64>, _>(column).map(|count| count.unwrap_or_default().cast_unsigned());
    let started_at: String = row.try_get("started_at")?;
    let ended_at: Option<String> = row.try_get("ended_at")?;
    let skip_reasons: Option<String> = row.try_get("skip_reasons")?;
    Ok(IterationRow {
        id: row.try_get("id")?,
        run_id: row.try_get("run_id")?,
        sync_pair: row.try_get("sync_pair")?,
        direction: row.try_get("direction")?,
        src: row.try_get("src")?,
        dest: row.try_get("dest")?,
        started_at: timestamp("started_at", &started_at)?,
        ended_at: ended_at.map(|ended_at| timestamp("ended_at", &ended_at)).transpose()?,
        status: status(row.try_get("status")?)?,
        dry_run: count("dry_run")? != 0,
        counts: Counts {
            files_created: count("files_created")?,
            files_updated: count("files_updated")?,
            files_deleted: count("files_deleted")?,
            files_skipped: count("files_skipped")?,
            files_failed: count("files_failed")?,
            total_bytes_transferred: count("total_bytes_transferred")?,
            skip_reasons: skip_reasons
                .map(|reasons| serde_json::from_str(&reasons).map_err(|error| undecodable("skip_reasons", error)))
                .transpose()?
                .unwrap_or_default(),
        },
        error_message: row.try_get("error_message")?,
        lease_transitions: row.try_get("lease_transitions")?,
    })
}

fn undecodable(column: &str, source: impl Into<Cause>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: source.into() }
}

fn timestamp(column: &str, text: &str) -> Result<Timestamp, sqlx::Error> {
    time::from_sql(text).ok_or_else(|| undecodable(column, format!("{text:?} is no time")))
}

fn status(text: &str) -> Result<Status, sqlx::Error> {
    [Status::Running, Status::Success, Status::PartialFailure, Status::Failed]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| undecodable("status", format!("{text:?} is no status")))
}

fn way(text: Option<&str>) -> Result<Option<Way>, sqlx::Error> {
    let Some(text) = text else { return Ok(None) };
    let known = [Way::AToB, Way::BToA].into_iter().find(|way| way.as_str() == text);
    known.map(Some).ok_or_else(|| undecodable("direction", format!("{text:?} is no direction of an operation")))
}

fn operation_kind(text: &str) -> Result<OperationKind, sqlx::Error> {
    [OperationKind::Create, OperationKind::Update, OperationKind::Delete]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| undecodable("operation", format!("{text:?} is no operation")))
}

fn failure(step: &'static str, path: &Path) -> impl Fn(sqlx::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |error| {
        let path = path.clone();
        if is_refusal(&error) {
            return StoreError::Refused { step, path, source: cause(error) };
        }
        StoreError::Query { step, path, retryable: is_retryable(&error), source: cause(error) }
    }
}

/// Returns what the database said, without the driver's words around it.
fn cause(error: sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Database(error) => error.into_error(),
        sqlx::Error::Io(error) => Box::new(error),
        other => Box::new(other),
    }
}

/// Returns SQLite's extended result code (<https://www.sqlite.org/rescode.html>).
fn result_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

fn is_retryable(error: &sqlx::Error) -> bool {
    const CONSTRAINT_FOREIGNKEY: i32 = 787; // another program pruned the run meanwhile
    match result_code(error) {
        // BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, FULL, PROTOCOL
        Some(code) => code == CONSTRAINT_FOREIGNKEY || matches!(code & 0xff, 5 | 6 | 7 | 9 | 10 | 13 | 15),
        None => matches!(error, sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed),
    }
}

fn is_refusal(error: &sqlx::Error) -> bool {
    // TOOBIG, CONSTRAINT, MISMATCH
    !is_retryable(error) && result_code(error).is_some_and(|code| matches!(code & 0xff, 18..=20))
}
