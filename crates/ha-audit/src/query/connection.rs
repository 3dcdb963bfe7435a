//! One connection of whatever database it is, and its rows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::error::DatabaseError as _;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteError, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, Sqlite};

use super::statement::{Statement, Value};
use crate::dsn::Dsn;
use crate::time;

/// Bounds the memory and what a crowd of readers takes from the runs.
const CONNECTIONS: u32 = 6;

/// Is where connections come from.
#[derive(Debug, Clone)]
pub(super) enum Pool {
    Sqlite { path: PathBuf, pool: SqlitePool },
}

impl Pool {
    /// Makes a pool; nothing is opened yet.
    pub(super) fn new(dsn: &Dsn, patience: Duration) -> Self {
        match dsn {
            Dsn::Sqlite(path) => {
                let pool = SqlitePoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .acquire_timeout(patience)
                    // another file may take its name
                    .max_lifetime(Duration::from_secs(60))
                    .connect_lazy_with(sqlite(path, patience));
                Self::Sqlite { path: path.clone(), pool }
            }
        }
    }

    pub(super) async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        match self {
            Self::Sqlite { path, .. } if needs_no_lock(path) => {
                let options = sqlite(path, Duration::ZERO).immutable(true);
                Ok(Connection::SqliteOnce(Box::new(options.connect().await?)))
            }
            Self::Sqlite { pool, .. } => Ok(Connection::Sqlite(pool.acquire().await?)),
        }
    }

    /// Tells whether there is no database yet, which is no failure before the first run.
    pub(super) fn is_absent(&self) -> bool {
        match self {
            Self::Sqlite { path, .. } => !exists(path),
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { pool, .. } => pool.close().await,
        }
    }
}

fn sqlite(path: &Path, busy_timeout: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(busy_timeout)
        .statement_cache_capacity(64)
        .disable_statement_logging()
}

/// Tells whether a database in WAL mode lies where its reader may not make the files that it would share with a
/// writer, and no writer has made them: it is read as a file that does not change, for one request each
/// (<https://www.sqlite.org/wal.html#read_only_databases>).
fn needs_no_lock(path: &Path) -> bool {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        exists(Path::new(&name))
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writable = rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok();
    !writable && exists(path) && !beside("-wal") && !beside("-shm") && !beside("-journal")
}

fn exists(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok()
}

/// Is a connection in use by one request.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    SqliteOnce(Box<SqliteConnection>),
}

impl Connection {
    pub(super) async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let (sql, values) = statement.into_parts();
        match self {
            Self::Sqlite(connection) => sqlite_rows(connection, sql, values).await,
            Self::SqliteOnce(connection) => sqlite_rows(connection, sql, values).await,
        }
    }

    /// Lets go of a connection in the middle of an answer, so that nobody else gets the rest of it.
    pub(super) fn discard(self) {
        match self {
            Self::Sqlite(connection) => drop(connection.detach()),
            Self::SqliteOnce(connection) => drop(connection),
        }
    }
}

async fn sqlite_rows(
    connection: &mut SqliteConnection,
    sql: String,
    values: Vec<Value>,
) -> Result<Vec<Row>, sqlx::Error> {
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in values {
        query = match value {
            Value::Integer(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
        };
    }
    Ok(query.fetch_all(connection).await?.into_iter().map(Row::Sqlite).collect())
}

/// Is a row; columns are taken by their place.
#[derive(Debug)]
pub(super) enum Row {
    Sqlite(SqliteRow),
}

impl Row {
    pub(super) fn integer(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
        }
    }

    pub(super) fn text(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
        }
    }

    /// Takes a column that has a value in every row.
    pub(super) fn some<T>(&self, column: usize, value: Option<T>) -> Result<T, sqlx::Error> {
        value.ok_or_else(|| undecodable(column, "it is NULL".to_owned()))
    }

    /// Takes a column that has one of a few words.
    pub(super) fn word<T: Copy>(
        &self,
        column: usize,
        all: &[T],
        written: impl Fn(T) -> &'static str,
    ) -> Result<T, sqlx::Error> {
        let text = self.some(column, self.text(column)?)?;
        let found = all.iter().find(|one| written(**one) == text);
        found.copied().ok_or_else(|| undecodable(column, format!("{text:?} is not known")))
    }

    /// Reads a time that the statement has turned into text.
    pub(super) fn time(&self, column: usize) -> Result<Option<jiff::Timestamp>, sqlx::Error> {
        let Some(text) = self.text(column)? else { return Ok(None) };
        time::from_sql(&text).map(Some).ok_or_else(|| undecodable(column, format!("{text:?} is no time")))
    }
}

/// Compares the path with a bound pattern.
pub(super) const LIKE: &str = "filepath LIKE ? ESCAPE '|'";

/// Tells whether a statement failed because there is no such table.
pub(super) fn lacks_table(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<SqliteError>().is_some_and(|error| error.message().starts_with("no such table"))
}

fn undecodable(column: usize, problem: String) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_string(), source: problem.into() }
}
