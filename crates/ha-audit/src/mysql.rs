//! The store on a MySQL or MariaDB server.
//!
//! Every change is one statement that may be repeated, in a transaction of its own. So a statement whose answer was lost
//! is simply sent again, to the same server or to the next node of a cluster.

mod connect;
mod migrate;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlDatabaseError, MySqlRow};
use sqlx::{Arguments as _, AssertSqlSafe, Connection, Row as _, SqlSafeStr};

use crate::batch::{self, Arguments, Batch, Batches, Limits};
use crate::database::{Access, Done, Fault, FaultKind, Row, Value};
use crate::dsn::MysqlDsn;
use crate::store::{Cause, StoreError};
use connect::ConnectError;
pub use connect::Trouble;

/// Rows of one INSERT, which is one transaction. The server takes 65,535 values at most, which are 4,681 rows.
const ROWS: usize = 1000;
const TEXT_BYTES: usize = 1024 * 1024;
/// The share of a packet that a batch fills before its last row: what one row may need is not known before it is read.
const PACKET_SHARE: usize = 8;
/// Changes nothing of a row that is there. (IGNORE would also hide texts that do not fit.)
const INSERT_END: &str = " ON DUPLICATE KEY UPDATE seq = seq";
/// A server that says nothing for so long in the midst of a statement is given up, unless the DSN says otherwise.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a statement is sent again that lost against another transaction.
const RETRIES: u32 = 8;
/// A server that was found down is not waited for again so soon: a run asks at several places, and one wait is enough.
const DOWN_FOR: Duration = Duration::from_secs(30);
/// What a server may do at most while it is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Mysql {
    dsn: MysqlDsn,
    access: Access,
    connect_timeout: Duration,
    statement_timeout: Duration,
    /// None after it was lost; the next statement connects again.
    connection: Option<MySqlConnection>,
    /// When and how it was found down last.
    down: Option<(Instant, String)>,
    limits: Limits,
    max_allowed_packet: usize,
    /// The INSERT statement of a full batch; it stays prepared.
    insert_full: Arc<str>,
}

/// Is a piece of work under way. It is boxed, and not that of an async closure: of such the compiler cannot tell that
/// they are `Send`, which the readers of a server must be.
type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'a>>;

/// Says that a server stopped in the midst of a statement.
#[derive(Debug, thiserror::Error)]
#[error("the server does not answer within {}", connect::seconds(*.0))]
struct Silent(Duration);

impl Mysql {
    pub(crate) async fn open(dsn: &MysqlDsn, timeout: Duration, access: Access) -> Result<Self, StoreError> {
        let connect_timeout = dsn.connect_timeout.unwrap_or(timeout);
        let statement_timeout = dsn.statement_timeout.unwrap_or(STATEMENT_TIMEOUT);
        let session = connect::connect(dsn, connect_timeout, access).await.map_err(|error| {
            let retryable = error.is_retryable();
            StoreError::Unreachable { database: dsn.to_string(), retryable, source: error.into() }
        })?;
        let mut mysql = Self {
            dsn: dsn.clone(),
            access,
            connect_timeout,
            statement_timeout,
            connection: Some(session.connection),
            down: None,
            limits: limits(session.max_allowed_packet),
            max_allowed_packet: session.max_allowed_packet,
            insert_full: batch::insert_statement(ROWS, INSERT_END),
        };
        let mut found = session.schema_version;
        if access == Access::Write && found < migrate::newest() {
            let migrated = mysql.migrate(found, session.collation).await;
            found = migrated.map_err(|Fault { kind, cause }| StoreError::Migrate {
                database: dsn.to_string(),
                retryable: kind == FaultKind::Passing,
                source: cause,
            })?;
        }
        if found != migrate::newest() {
            return Err(StoreError::Schema { database: dsn.to_string(), found, needed: migrate::newest() });
        }
        Ok(mysql)
    }

    pub(crate) async fn close(self) -> Result<(), Fault> {
        // nothing waits in it: each statement was answered
        if let Some(connection) = self.connection {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
        }
        Ok(())
    }

    pub(crate) async fn execute(&mut self, sql: &'static str, values: &[Value]) -> Result<Done, Fault> {
        let arguments = arguments(values).map_err(fault)?;
        let done = self
            .run(|connection| {
                let arguments = arguments.clone();
                Box::pin(async move { sqlx::query_with(sql, arguments).execute(connection).await })
            })
            .await?;
        Ok(Done { rows: done.rows_affected(), inserted_id: done.last_insert_id().cast_signed() })
    }

    pub(crate) async fn fetch(&mut self, sql: impl SqlSafeStr, values: &[Value]) -> Result<Vec<Row>, Fault> {
        let arguments = arguments(values).map_err(fault)?;
        let sql = sql.into_sql_str();
        let rows = self
            .run(|connection| {
                let (sql, arguments) = (sql.clone(), arguments.clone());
                Box::pin(async move { sqlx::query_with(sql, arguments).fetch_all(connection).await })
            })
            .await?;
        rows.iter().map(row_values).collect::<Result<_, _>>().map_err(fault)
    }

    pub(crate) async fn insert(&mut self, batches: &mut Batches<'_>) -> Result<(), Fault> {
        let mut next = batches.next(self.limits);
        while let Some(batch) = next.take() {
            let limits = self.limits;
            let (inserted, following) = batch::overlap(self.insert_batch(batch), || batches.next(limits)).await;
            inserted?;
            next = following;
        }
        Ok(())
    }

    async fn insert_batch(&mut self, batch: Batch<Counted>) -> Result<(), Fault> {
        let Batch { arguments: Counted { arguments, bytes }, rows } = batch;
        // The server would close the connection while it is still written to, which looks like a server that went away.
        if bytes > self.max_allowed_packet {
            let limit = self.max_allowed_packet;
            let cause = format!("a statement of {bytes} bytes is larger than the server's max_allowed_packet, {limit}");
            return Err(Fault { kind: FaultKind::Refused, cause: cause.into() });
        }
        let full = rows == ROWS;
        let statement = if full { Arc::clone(&self.insert_full) } else { batch::insert_statement(rows, INSERT_END) };
        self.run(|connection| {
            let (statement, arguments) = (AssertSqlSafe(Arc::clone(&statement)), arguments.clone());
            Box::pin(async move { sqlx::query_with(statement, arguments).persistent(full).execute(connection).await })
        })
        .await
        .map(|_| ())
    }

    async fn reconnect(&mut self) -> Result<MySqlConnection, Fault> {
        if let Some((since, how)) = self.down.take_if(|(since, _)| since.elapsed() < DOWN_FOR) {
            let cause = format!("{how}, a moment ago").into();
            self.down = Some((since, how));
            return Err(Fault { kind: FaultKind::Passing, cause });
        }
        match connect::connect(&self.dsn, self.connect_timeout, self.access).await {
            Ok(session) => {
                // The next node of a cluster may take less than the one before.
                self.limits = limits(session.max_allowed_packet);
                self.max_allowed_packet = session.max_allowed_packet;
                Ok(session.connection)
            }
            Err(error) => {
                self.down = Some((Instant::now(), error.one_line()));
                Err(error.into())
            }
        }
    }

    /// Does a piece of work that may be repeated: again on a new connection when the old one is found lost, and after a
    /// pause when another transaction was in the way.
    async fn run<T>(
        &mut self,
        mut work: impl for<'a> FnMut(&'a mut MySqlConnection) -> Work<'a, T>,
    ) -> Result<T, Fault> {
        let mut lost = false;
        let mut retries = 0;
        loop {
            // taken out: a connection that is given up in the midst of an answer is of no use any more
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.reconnect().await?,
            };
            let error = match tokio::time::timeout(self.statement_timeout, work(&mut connection)).await {
                Err(_) => {
                    let silent = Silent(self.statement_timeout);
                    self.down = Some((Instant::now(), silent.to_string()));
                    return Err(Fault { kind: FaultKind::Passing, cause: silent.into() });
                }
                Ok(Ok(done)) => {
                    self.connection = Some(connection);
                    return Ok(done);
                }
                Ok(Err(error)) => error,
            };
            if is_lost(&error) {
                if lost {
                    return Err(fault(error));
                }
                lost = true;
                continue;
            }
            self.connection = Some(connection);
            if !is_conflict(&error) || retries == RETRIES {
                return Err(fault(error));
            }
            retries += 1;
            tokio::time::sleep(Duration::from_millis(10 << retries)).await;
        }
    }
}

/// Returns what a statement takes at most on a server with such packets.
fn limits(max_allowed_packet: usize) -> Limits {
    Limits { rows: ROWS, text_bytes: TEXT_BYTES.min(max_allowed_packet / PACKET_SHARE) }
}

/// Is the arguments of a statement, and what its packet has at most.
#[derive(Debug, Default)]
struct Counted {
    arguments: MySqlArguments,
    bytes: usize,
}

impl Counted {
    /// Counts a value of so many bytes: with its length, its type and its bit in the map of those that are NULL.
    fn count(&mut self, value: usize) {
        const OVERHEAD: usize = 9 + 2 + 1;
        self.bytes += value + OVERHEAD;
    }
}

impl Arguments for Counted {
    fn number(&mut self, number: Option<i64>) -> Result<(), BoxDynError> {
        self.count(size_of::<i64>());
        self.arguments.add(number)
    }

    fn text(&mut self, text: Option<&str>) -> Result<(), BoxDynError> {
        self.count(text.map_or(0, str::len));
        self.arguments.add(text)
    }

    fn word(&mut self, word: &Arc<str>) -> Result<(), BoxDynError> {
        self.text(Some(word))
    }
}

fn arguments(values: &[Value]) -> Result<MySqlArguments, sqlx::Error> {
    let mut arguments = MySqlArguments::default();
    for value in values {
        match value {
            Value::Null => arguments.add(None::<&str>),
            Value::Number(number) => arguments.add(*number),
            Value::Text(text) => arguments.add(&**text),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn row_values(row: &MySqlRow) -> Result<Row, sqlx::Error> {
    let values: Result<Vec<_>, sqlx::Error> = (0..row.len())
        .map(|index| {
            if let Ok(number) = row.try_get::<Option<i64>, _>(index) {
                return Ok(number.into());
            }
            Ok(row.try_get::<Option<&str>, _>(index)?.into())
        })
        .collect();
    values.map(Vec::into_iter)
}

/// Returns the server's error number
/// (<https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html>).
fn error_number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

/// Tells whether the connection is of no use any more, and another one may be.
fn is_lost(error: &sqlx::Error) -> bool {
    match error_number(error) {
        // shutdown, killed, inactive for too long, node not ready
        Some(number) => matches!(number, 1047 | 1053 | 1079 | 1927 | 4031),
        None => matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_)),
    }
}

/// Tells whether another transaction was in the way: a wait for a lock that was too long, a deadlock, and in a Galera
/// cluster a write on another node, which may only be found when the transaction ends. Or, where two programs migrate at
/// once, that a table cannot take its place while another rebuilds the one that its foreign key leads to.
fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(error_number(error), Some(1025 | 1180 | 1205 | 1213))
}

fn fault(error: sqlx::Error) -> Fault {
    let kind = match error_number(&error) {
        Some(1022 | 1062) => FaultKind::Duplicate,
        // the row of the run was pruned meanwhile
        Some(1451 | 1452) => FaultKind::Passing,
        // too many connections, disk full, read-only for now, table changed; a packet that was cut for another server
        Some(1021 | 1040 | 1114 | 1153 | 1203 | 1226 | 1290 | 1317 | 1412 | 1836 | 1969 | 3024) => FaultKind::Passing,
        Some(_) if is_lost(&error) || is_conflict(&error) => FaultKind::Passing,
        // not such a text
        Some(1366) => FaultKind::Refused,
        // data exception, constraint, a trigger's own
        Some(_) if sql_state(&error).is_some_and(|state| ["22", "23", "45"].contains(&&state[..2])) => {
            FaultKind::Refused
        }
        None if matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) => FaultKind::Passing,
        _ => FaultKind::Lasting,
    };
    Fault { kind, cause: cause(error) }
}

fn sql_state(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned()).filter(|code| code.len() == 5)
}

/// Returns what the server or the network said, without the driver's words around it.
fn cause(error: sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Database(error) => error.into_error(),
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the server closed the connection".into()
        }
        sqlx::Error::Io(error) => Box::new(error),
        sqlx::Error::Tls(error) => error,
        other => Box::new(other),
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        let kind = if error.is_retryable() { FaultKind::Passing } else { FaultKind::Lasting };
        Self { kind, cause: error.into() }
    }
}
