//! Where a test stands: a log directory, and a database of its own of one kind or the other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ha_audit::dsn::Dsn;
use ha_audit::store::{Store, StoreError};
use ha_testkit::loopmount::Skipped;
use ha_testkit::mariadb::{self, Server};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

/// Makes of functions of a `&Ground` a test on each database.
macro_rules! on_both {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(&$crate::ground::Ground::sqlite()); })*
        }
        mod mariadb {
            $(#[test] $(#[$attribute])* fn $name() {
                super::$name(&ha_testkit::need!($crate::ground::Ground::mariadb()));
            })*
        }
    };
}
pub(crate) use on_both;

pub(crate) struct Ground {
    directory: tempfile::TempDir,
    server: Option<(Arc<Server>, String)>,
}

impl Ground {
    pub(crate) fn sqlite() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), server: None }
    }

    pub(crate) fn mariadb() -> Result<Self, Skipped> {
        Ok(Self::of(mariadb::shared()?))
    }

    /// Stands on a server of the test's own.
    pub(crate) fn of(server: Arc<Server>) -> Self {
        let database = server.create_database();
        Self { directory: tempfile::tempdir().unwrap(), server: Some((server, database)) }
    }

    /// The same with a database and logs of its own.
    pub(crate) fn another(&self) -> Self {
        match &self.server {
            None => Self::sqlite(),
            Some((server, _)) => Self::of(Arc::clone(server)),
        }
    }

    /// Returns the log directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.server.is_none()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server.as_ref().expect("a server").0
    }

    pub(crate) fn database(&self) -> &str {
        &self.server.as_ref().expect("a server").1
    }

    pub(crate) fn dsn_text(&self) -> String {
        match &self.server {
            None => format!("sqlite:{}", self.path().join("audit.db").display()),
            Some((server, database)) => server.dsn(database),
        }
    }

    pub(crate) fn dsn(&self) -> Dsn {
        self.dsn_text().parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn open(&self) -> Store {
        self.try_open(Duration::from_secs(5)).unwrap()
    }

    pub(crate) fn try_open(&self, timeout: Duration) -> Result<Store, StoreError> {
        Store::open(&self.dsn(), timeout)
    }

    pub(crate) fn open_read_only(&self) -> Result<Store, StoreError> {
        Store::open_read_only(&self.dsn(), Duration::from_secs(5))
    }

    /// Runs statements beside the store.
    #[track_caller]
    pub(crate) fn run(&self, sql: &str) {
        block_on(async {
            match &self.server {
                None => sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.sqlite_connection().await).await.map(drop),
                Some(_) => {
                    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.mysql_connection().await).await.map(drop)
                }
            }
        })
        .unwrap();
    }

    /// Reads rows beside the store, each value as the text that a person would see.
    #[track_caller]
    pub(crate) fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        block_on(async {
            match &self.server {
                None => {
                    let query = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.sqlite_connection().await).await;
                    query.unwrap().iter().map(sqlite_texts).collect()
                }
                Some(_) => {
                    let query = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.mysql_connection().await).await;
                    query.unwrap().iter().map(mysql_texts).collect()
                }
            }
        })
    }

    /// Reads a number beside the store.
    #[track_caller]
    pub(crate) fn number(&self, sql: &str) -> i64 {
        let value = self.rows(sql).remove(0).remove(0);
        value.unwrap_or_else(|| panic!("no value: {sql}")).parse().unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) async fn sqlite_connection(&self) -> SqliteConnection {
        let url = format!("sqlite://{}?mode=rwc", self.path().join("audit.db").display());
        SqliteConnection::connect(&url).await.unwrap()
    }

    pub(crate) async fn mysql_connection(&self) -> MySqlConnection {
        let (server, database) = self.server.as_ref().unwrap();
        let options = MySqlConnectOptions::new().socket(server.socket()).database(database);
        options.username("root").password(mariadb::PASSWORD).connect().await.unwrap()
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn sqlite_texts(row: &SqliteRow) -> Vec<Option<String>> {
    let number = |index| row.try_get_unchecked::<Option<i64>, _>(index).map(|number| number.map(|n| n.to_string()));
    (0..row.len()).map(|index| row.try_get::<Option<String>, _>(index).or_else(|_| number(index)).unwrap()).collect()
}

/// Takes the text protocol at its word: every value is a text in it.
fn mysql_texts(row: &MySqlRow) -> Vec<Option<String>> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (0..row.len()).map(|index| row.try_get_unchecked::<Option<Vec<u8>>, _>(index).unwrap().map(text)).collect()
}
