//! The way to a server: each address in turn, and what is wrong when none can be used.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlSslMode};
use sqlx::{ConnectOptions, Row as _};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{cause, error_number};
use crate::database::Access;
use crate::dsn::{Address, MysqlDsn, Tls};
use crate::files::{self, FileError};
use crate::store::Cause;

/// The share of the time that is kept to find out what it is that does not answer as MySQL does.
const LOOK: u32 = 10;

/// Is a connection that is ready, and what was found with it.
pub(super) struct Session {
    pub(super) connection: MySqlConnection,
    pub(super) schema_version: i64,
    pub(super) collation: &'static str,
    pub(super) max_allowed_packet: usize,
}

/// Says what is wrong with a server or the way to it, so that a program can say what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trouble {
    /// Its name is not known.
    Name,
    /// Nothing takes the connection.
    Refused,
    /// No answer comes.
    Silent,
    /// What answers is no MySQL.
    NotMysql,
    /// It cannot encrypt, or its certificate is not trusted.
    Tls,
    /// User or password are wrong.
    Login,
    /// There is no such database.
    NoDatabase,
    /// The user lacks a right.
    Rights,
    /// It is a version that this program does not know.
    TooOld,
}

impl Trouble {
    /// Looks for it in an error and its causes.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(ConnectError(failures)) = error.downcast_ref() {
            return failures.iter().find_map(|failure| failure.trouble());
        }
        let server = error.downcast_ref::<MySqlDatabaseError>()?;
        match server.number() {
            1045 | 1130 | 1698 | 1251 | 2061 => Some(Self::Login),
            3159 => Some(Self::Tls),
            1049 => Some(Self::NoDatabase),
            1044 | 1142 | 1143 | 1227 | 1370 => Some(Self::Rights),
            _ => None,
        }
    }
}

/// Says why no address could be used: one failure for each.
#[derive(Debug)]
pub(super) struct ConnectError(Vec<Failure>);

impl ConnectError {
    /// Returns the failures with their causes.
    pub(super) fn one_line(&self) -> String {
        let mut text = String::new();
        for (index, failure) in self.0.iter().enumerate() {
            text.push_str(if index == 0 { "" } else { "; " });
            text.push_str(&failure.to_string());
            let mut next = failure.source();
            while let Some(source) = next {
                text.push_str(&format!(": {source}"));
                next = source.source();
            }
        }
        text
    }

    pub(super) fn is_retryable(&self) -> bool {
        self.0.iter().any(Failure::is_retryable)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [failure] => write!(formatter, "{failure}"),
            _ => formatter.write_str(&self.one_line()),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if let [failure] = &self.0[..] { failure.source() } else { None }
    }
}

/// Says why one address could not be used.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("failed to resolve host name: {host}")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("failed to connect to database server: {address}")]
    Connect {
        address: Address,
        #[source]
        source: io::Error,
    },
    #[error("failed to connect to database server: {address}: no answer within {}", seconds(*.waited))]
    Unanswered { address: Address, waited: Duration },
    #[error("failed to read the greeting of database server: {address}: it says nothing within {}", seconds(*.waited))]
    NoGreeting { address: Address, waited: Duration },
    #[error("failed to read the greeting of database server: {address}: this is not MySQL, it says {greeting:?}")]
    NotMysql { address: Address, greeting: String },
    #[error("failed to log in to database server: {address}: no answer within {}", seconds(*.waited))]
    NoLogin { address: Address, waited: Duration },
    #[error("failed to encrypt the connection to database server: {address}")]
    Tls {
        address: Address,
        #[source]
        source: Cause,
    },
    #[error("failed to log in to database server: {address}")]
    LogIn {
        address: Address,
        #[source]
        source: Cause,
    },
    #[error("failed to log in to database server: {address}: it takes this user's password only over TLS")]
    NeedsTls { address: Address },
    #[error("failed to prepare the session with database server: {address}")]
    Session {
        address: Address,
        #[source]
        source: Cause,
    },
    #[error("database server is too old: {address}: {version}: it takes MySQL 8.0.17 or MariaDB 10.6")]
    TooOld { address: Address, version: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("failed to read certificates: {}: it has none in PEM form", .0.display())]
    NoCertificate(PathBuf),
}

impl Failure {
    fn is_retryable(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Unanswered { .. } | Self::NoGreeting { .. } => true,
            Self::NoLogin { .. } => true,
            Self::LogIn { source, .. } | Self::Session { source, .. } => Trouble::of(&**source).is_none(),
            Self::NotMysql { .. } | Self::Tls { .. } | Self::NeedsTls { .. } | Self::TooOld { .. } => false,
            Self::File(_) | Self::NoCertificate(_) => false,
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Resolve { .. } => Some(Trouble::Name),
            Self::Connect { .. } => Some(Trouble::Refused),
            Self::Unanswered { .. } | Self::NoGreeting { .. } | Self::NoLogin { .. } => Some(Trouble::Silent),
            Self::NotMysql { .. } => Some(Trouble::NotMysql),
            Self::Tls { .. } | Self::NeedsTls { .. } => Some(Trouble::Tls),
            Self::LogIn { source, .. } | Self::Session { source, .. } => Trouble::of(&**source),
            Self::TooOld { .. } => Some(Trouble::TooOld),
            Self::File(_) | Self::NoCertificate(_) => Some(Trouble::Tls),
        }
    }
}

/// Returns `5 s` or `0.5 s`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", (duration.as_secs_f64() * 10.0).round() / 10.0)
}

/// Tries the addresses in order until one is ready. Each gets its share of the time, so that one that does not answer
/// leaves some to the others; together they take no longer than `limit`.
pub(super) async fn connect(dsn: &MysqlDsn, limit: Duration, access: Access) -> Result<Session, ConnectError> {
    let deadline = Instant::now() + limit;
    let mut failures = Vec::new();
    for (index, address) in dsn.addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(dsn.addresses.len() - index).unwrap_or(u32::MAX);
        match try_address(dsn, address, share, access).await {
            Ok(session) => return Ok(session),
            Err(failure) => failures.push(failure),
        }
    }
    Err(ConnectError(failures))
}

async fn try_address(dsn: &MysqlDsn, address: &Address, limit: Duration, access: Access) -> Result<Session, Failure> {
    let deadline = Instant::now() + limit;
    let for_login = limit - limit / LOOK;
    let options = options(dsn, address)?;
    if let Address::Tcp { host, port } = address {
        let resolved = match timeout(for_login, tokio::net::lookup_host((&**host, *port))).await {
            Ok(resolved) => resolved.map(drop),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        resolved.map_err(|source| Failure::Resolve { host: host.clone(), source: plain(source) })?;
    }
    let left = (deadline - limit / LOOK).saturating_duration_since(Instant::now());
    let mut login = timeout(left, options.connect()).await;
    // As other clients do: encrypted if that can be, else not.
    if let (Tls::Preferred, Ok(Err(error))) = (dsn.tls, &login)
        && is_of_tls(error)
    {
        let left = (deadline - limit / LOOK).saturating_duration_since(Instant::now());
        login = timeout(left, options.ssl_mode(MySqlSslMode::Disabled).connect()).await;
    }
    let address = address.clone();
    let mut connection = match login {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) if is_of_tls(&error) => return Err(Failure::Tls { address, source: cause(error) }),
        Ok(Err(error @ sqlx::Error::Database(_))) => return Err(Failure::LogIn { address, source: cause(error) }),
        Ok(Err(error)) => return Err(look(address, limit, Some(error)).await),
        Err(_) => return Err(look(address, limit, None).await),
    };
    let left = deadline.saturating_duration_since(Instant::now());
    match timeout(left, prepare(&mut connection, access)).await {
        Ok(Ok(Prepared { schema_version, collation: Some(collation), max_allowed_packet, .. })) => {
            Ok(Session { connection, schema_version, collation, max_allowed_packet })
        }
        Ok(Ok(Prepared { version, .. })) => Err(Failure::TooOld { address, version }),
        Ok(Err(error)) => Err(Failure::Session { address, source: cause(error) }),
        Err(_) => Err(Failure::NoLogin { address, waited: limit }),
    }
}

fn options(dsn: &MysqlDsn, address: &Address) -> Result<MySqlConnectOptions, Failure> {
    let mut options = MySqlConnectOptions::new()
        .username(&dsn.user)
        .database(&dsn.database)
        .ssl_mode(match dsn.tls {
            Tls::Disabled => MySqlSslMode::Disabled,
            Tls::Preferred => MySqlSslMode::Preferred,
            Tls::Required => MySqlSslMode::Required,
            Tls::VerifyCa => MySqlSslMode::VerifyCa,
            Tls::VerifyIdentity => MySqlSslMode::VerifyIdentity,
        })
        .charset("utf8mb4")
        .enable_cleartext_plugin(dsn.cleartext_password)
        // the session is set up by `prepare`
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .statement_cache_capacity(32)
        .disable_statement_logging();
    // an empty one is none: the driver would scramble it
    if let Some(password) = dsn.password.as_deref().filter(|password| !password.is_empty()) {
        options = options.password(password);
    }
    options = match address {
        Address::Tcp { host, port } => options.host(host).port(*port),
        Address::Unix(path) => options.socket(path),
    };
    if let Some(ca) = &dsn.ca {
        options = options.ssl_ca_from_pem(pem(ca)?);
    }
    if let (Some(certificate), Some(key)) = (&dsn.certificate, &dsn.key) {
        options = options.ssl_client_cert_from_pem(pem(certificate)?).ssl_client_key_from_pem(pem(key)?);
    }
    Ok(options)
}

fn pem(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let bytes = files::read(path, "read certificates")?;
    if bytes.windows(11).any(|bytes| bytes == b"-----BEGIN ") {
        Ok(bytes)
    } else {
        Err(Failure::NoCertificate(path.to_owned()))
    }
}

struct Prepared {
    schema_version: i64,
    /// Compares texts byte by byte, trailing spaces too; absent where the server knows none.
    collation: Option<&'static str>,
    max_allowed_packet: usize,
    version: String,
}

/// Makes a session alike on all servers, and asks for what depends on them. Reads a table, which a node of a cluster
/// that is up but not part of it refuses.
async fn prepare(connection: &mut MySqlConnection, access: Access) -> Result<Prepared, sqlx::Error> {
    // strict: a text that does not fit is an error, and not cut
    let session = "SET autocommit = 1, time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'";
    sqlx::raw_sql(session).execute(&mut *connection).await?;
    if access == Access::Read {
        sqlx::raw_sql("SET SESSION TRANSACTION READ ONLY").execute(&mut *connection).await?;
        // rows come in the order of the index that is read, which `query::Session::paths` goes by
        sqlx::raw_sql("SET SESSION optimizer_switch = 'mrr=off'").execute(&mut *connection).await?;
    }
    let facts = "SELECT CAST(VERSION() AS CHAR), CAST(@@max_allowed_packet AS SIGNED), \
                 (SELECT CAST(MAX(COLLATION_NAME) AS CHAR) FROM information_schema.COLLATIONS \
                 WHERE COLLATION_NAME IN ('utf8mb4_nopad_bin', 'utf8mb4_0900_bin'))";
    let row = sqlx::query(facts).fetch_one(&mut *connection).await?;
    let max_allowed_packet: i64 = row.try_get(1)?;
    let collation: Option<String> = row.try_get(2)?;
    let schema = "SELECT COALESCE(MAX(version), 0) FROM ha_sync_schema";
    // not prepared: that would find no table before the node says that it is not ready
    let schema_version = match sqlx::raw_sql(schema).fetch_one(&mut *connection).await {
        // no such table: the database is new, or was made from the plan
        Err(error) if error_number(&error) == Some(1146) => 0,
        row => row?.try_get(0)?,
    };
    Ok(Prepared {
        schema_version,
        collation: match collation.as_deref() {
            Some("utf8mb4_nopad_bin") => Some("utf8mb4_nopad_bin"),
            Some("utf8mb4_0900_bin") => Some("utf8mb4_0900_bin"),
            _ => None,
        },
        max_allowed_packet: usize::try_from(max_allowed_packet).unwrap_or_default(),
        version: row.try_get(0)?,
    })
}

fn is_of_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // what rustls says comes as an I/O error
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData && error.get_ref().is_some(),
        _ => false,
    }
}

/// Finds out what it is that does not answer as a MySQL server does.
async fn look(address: Address, limit: Duration, error: Option<sqlx::Error>) -> Failure {
    match error {
        Some(sqlx::Error::Io(source)) if is_of_the_way(&source) => {
            return Failure::Connect { address, source: plain(source) };
        }
        // the driver was asked for RSA
        Some(sqlx::Error::Configuration(_)) => return Failure::NeedsTls { address },
        _ => {}
    }
    let waited = limit;
    let mut greeting = [0; 64];
    let read = async {
        match &address {
            Address::Tcp { host, port } => {
                TcpStream::connect((&**host, *port)).await.map_err(|_| ())?.read(&mut greeting).await
            }
            Address::Unix(path) => UnixStream::connect(path).await.map_err(|_| ())?.read(&mut greeting).await,
        }
        .map_err(|_| ())
    };
    match timeout(limit / LOOK, read).await {
        Ok(Ok(length)) if length > 0 => {
            let greeting = &greeting[..length];
            // length, sequence 0, then protocol version 10 or an error
            let mysql = greeting.len() > 4 && greeting[3] == 0 && matches!(greeting[4], 10 | 0xff);
            match error {
                _ if !mysql => {
                    let text = String::from_utf8_lossy(greeting);
                    let line = text.lines().next().unwrap_or_default();
                    Failure::NotMysql { address, greeting: line.to_owned() }
                }
                Some(error) => Failure::LogIn { address, source: cause(error) },
                None => Failure::NoLogin { address, waited },
            }
        }
        Ok(Err(())) => Failure::Unanswered { address, waited },
        Ok(Ok(_)) | Err(_) => match error {
            Some(error) => Failure::LogIn { address, source: cause(error) },
            None => Failure::NoGreeting { address, waited },
        },
    }
}

/// Tells whether the connection itself failed, and not what was said over it.
fn is_of_the_way(error: &io::Error) -> bool {
    error.raw_os_error().is_some() && error.kind() != io::ErrorKind::ConnectionReset
}

/// Takes the words of the standard library's resolver for what they say.
fn plain(error: io::Error) -> io::Error {
    match error.to_string().strip_prefix("failed to lookup address information: ") {
        Some(words) => io::Error::other(words.to_owned()),
        None => error,
    }
}
