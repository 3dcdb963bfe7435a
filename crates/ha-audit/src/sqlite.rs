//! The store in a SQLite file.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::error::BoxDynError;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{
    Arguments as _, AssertSqlSafe, ConnectOptions, Connection, Decode, Row as _, SqlSafeStr, Sqlite as Driver,
    TypeInfo, ValueRef,
};

use crate::batch::{self, Arguments, Batch, Batches, Limits};
use crate::database::{Access, Done, Fault, FaultKind, Row, Value};
use crate::files;
use crate::store::{Cause, StoreError};

/// What one INSERT takes.
const LIMITS: Limits = Limits { rows: 128, text_bytes: 1024 * 1024 };
const INSERT_END: &str = " ON CONFLICT (iteration_id, seq) DO NOTHING";
/// Rows of one transaction: others get their turn after each.
const TRANSACTION_ROWS: usize = 5000;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A checkpoint makes the database durable and is most of the cost of a long flush: one in 40 MiB, not in 4.
const CHECKPOINT_PAGES: &str = "10000";
/// What of the WAL stays on disk when nothing is in it.
const WAL_KEPT_BYTES: &str = "4194304";
/// What brings the schema from one version to the next.
const MIGRATIONS: [&str; 5] = [
    include_str!("../migrations/sqlite/0001_plan.sql"),
    include_str!("../migrations/sqlite/0002_runs.sql"),
    include_str!("../migrations/sqlite/0003_direction.sql"),
    include_str!("../migrations/sqlite/0004_dashboard.sql"),
    include_str!("../migrations/sqlite/0005_status.sql"),
];
const NEWEST: i64 = MIGRATIONS.len() as i64;

#[derive(Debug)]
pub(crate) struct Sqlite {
    connection: SqliteConnection,
    /// Whether the file is read as one that does not change.
    immutable: bool,
    /// The INSERT statement of a full batch; it stays prepared.
    insert_full: Arc<str>,
}

impl Sqlite {
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
            StoreError::Unreachable { database: path.display().to_string(), retryable, source: cause(error) }
        };
        let immutable = access == Access::Read && needs_no_lock(path);
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(true)
            .busy_timeout(busy_timeout)
            .read_only(access == Access::Read)
            .immutable(immutable)
            .create_if_missing(access == Access::Write)
            .statement_cache_capacity(32)
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
        let insert_full = batch::insert_statement(LIMITS.rows, INSERT_END);
        let mut database = Self { connection, immutable, insert_full };
        let mut found = schema_version(&mut database.connection).await.map_err(unreachable)?;
        if access == Access::Write && found < NEWEST {
            found = database.migrate().await.map_err(|error| StoreError::Migrate {
                database: path.display().to_string(),
                retryable: is_retryable(&error),
                source: cause(error),
            })?;
        }
        if found != NEWEST {
            return Err(StoreError::Schema { database: path.display().to_string(), found, needed: NEWEST });
        }
        Ok(database)
    }

    /// Tells whether it can be asked again later: not when it is read as a file that does not change.
    pub(crate) fn lasts(&self) -> bool {
        !self.immutable
    }

    /// Closes the file and waits until that is done.
    pub(crate) async fn close(self) -> Result<(), Fault> {
        self.connection.close().await.map_err(fault)
    }

    /// Migrates in one transaction that keeps others out from its start: of two programs that find an old schema, the
    /// second waits and then finds nothing to do. Returns the version that the schema has then.
    async fn migrate(&mut self) -> Result<i64, sqlx::Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let table = "CREATE TABLE IF NOT EXISTS ha_sync_schema (version BIGINT NOT NULL PRIMARY KEY)";
        sqlx::raw_sql(table).execute(&mut *transaction).await?;
        let mut version = schema_version(&mut transaction).await?;
        let known = usize::try_from(version).unwrap_or_default().min(MIGRATIONS.len());
        for statements in &MIGRATIONS[known..] {
            version += 1;
            sqlx::raw_sql(*statements).execute(&mut *transaction).await?;
            let row = sqlx::query("INSERT INTO ha_sync_schema (version) VALUES (?)").bind(version);
            row.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(version)
    }

    /// Makes the transactions from here on durable when they return, or no more than ordered.
    pub(crate) async fn set_durable(&mut self, durable: bool) -> Result<(), Fault> {
        let pragma = if durable { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
        sqlx::raw_sql(pragma).execute(&mut self.connection).await.map_err(fault).map(|_| ())
    }

    pub(crate) async fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<Done, Fault> {
        let arguments = arguments(values).map_err(fault)?;
        let done = sqlx::query_with(sql, arguments).execute(&mut self.connection).await.map_err(fault)?;
        Ok(Done { rows: done.rows_affected(), inserted_id: done.last_insert_rowid() })
    }

    pub(crate) async fn fetch(&mut self, sql: impl SqlSafeStr, values: &[Value]) -> Result<Vec<Row>, Fault> {
        let arguments = arguments(values).map_err(fault)?;
        let rows = sqlx::query_with(sql, arguments).fetch_all(&mut self.connection).await.map_err(fault)?;
        rows.iter().map(row_values).collect::<Result<_, _>>().map_err(fault)
    }

    pub(crate) async fn insert(&mut self, batches: &mut Batches<'_>) -> Result<(), Fault> {
        self.insert_all(batches).await.map_err(fault)
    }

    async fn insert_all(&mut self, batches: &mut Batches<'_>) -> Result<(), sqlx::Error> {
        let mut next = batches.next(LIMITS);
        while next.is_some() {
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            let mut rows = 0;
            while rows < TRANSACTION_ROWS
                && let Some(batch) = next.take()
            {
                rows += batch.rows;
                let insertion = insert(&mut transaction, batch, &self.insert_full);
                let (inserted, following) = batch::overlap(insertion, || batches.next(LIMITS)).await;
                inserted?;
                next = following;
            }
            transaction.commit().await?;
        }
        Ok(())
    }
}

/// Tells whether a database in WAL mode lies where its reader may not make the files that readers share with writers,
/// and no writer has made them: then nobody writes, and it is read as a file that does not change
/// (<https://www.sqlite.org/wal.html#read_only_databases>). Should a writer come meanwhile, an answer may be wrong or
/// an error; who asks in this way does not keep the connection.
fn needs_no_lock(path: &Path) -> bool {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        files::exists(Path::new(&name))
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    !files::is_writable(directory) && !beside("-wal") && !beside("-shm") && !beside("-journal")
}

impl Arguments for SqliteArguments {
    fn number(&mut self, number: Option<i64>) -> Result<(), BoxDynError> {
        self.add(number)
    }

    fn text(&mut self, text: Option<&str>) -> Result<(), BoxDynError> {
        self.add(text.map(Arc::<str>::from))
    }

    fn word(&mut self, word: &Arc<str>) -> Result<(), BoxDynError> {
        self.add(Arc::clone(word))
    }
}

async fn insert(
    connection: &mut SqliteConnection,
    batch: Batch<SqliteArguments>,
    full: &Arc<str>,
) -> Result<(), sqlx::Error> {
    let Batch { arguments, rows } = batch;
    if rows == LIMITS.rows {
        sqlx::query_with(AssertSqlSafe(Arc::clone(full)), arguments).execute(connection).await?;
    } else {
        let statement = AssertSqlSafe(batch::insert_statement(rows, INSERT_END));
        sqlx::query_with(statement, arguments).persistent(false).execute(connection).await?;
    }
    Ok(())
}

fn arguments(values: &[Value]) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        match value {
            Value::Null => arguments.number(None),
            Value::Number(number) => arguments.number(Some(*number)),
            Value::Text(text) => arguments.text(Some(text)),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// Takes each value for what it is, whatever its column was declared as.
fn row_values(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let values: Result<Vec<_>, sqlx::Error> = (0..row.len())
        .map(|index| {
            let value = row.try_get_raw(index)?;
            if value.is_null() {
                return Ok(Value::Null);
            }
            let is_text = value.type_info().name() == "TEXT";
            let decoded = if is_text {
                <String as Decode<Driver>>::decode(value).map(Value::Text)
            } else {
                <i64 as Decode<Driver>>::decode(value).map(Value::Number)
            };
            decoded.map_err(|source| sqlx::Error::ColumnDecode { index: index.to_string(), source })
        })
        .collect();
    values.map(Vec::into_iter)
}

fn fault(error: sqlx::Error) -> Fault {
    let duplicate = error.as_database_error().is_some_and(|error| error.is_unique_violation());
    let kind = if duplicate {
        FaultKind::Duplicate
    } else if is_refusal(&error) {
        FaultKind::Refused
    } else if is_retryable(&error) {
        FaultKind::Passing
    } else {
        FaultKind::Lasting
    };
    Fault { kind, cause: cause(error) }
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
