//! Where the audit store is: `--db-dsn`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

mod mysql;

pub use mysql::MysqlDsn;
pub(crate) use mysql::{Address, Tls};

/// Says where an audit store is. Neither form of printing it shows a password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dsn {
    /// A SQLite database file.
    Sqlite(PathBuf),
    /// A database of a MySQL or MariaDB server.
    Mysql(Box<MysqlDsn>),
}

/// Says why a DSN was refused. Repeats no more of it than the name of a parameter: the rest may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    /// Nothing is known to begin like it.
    #[error(
        "the database DSN has no form that is known: expected sqlite:PATH, mysql://USER:PASSWORD@HOST:PORT/DATABASE \
         or USER:PASSWORD@tcp(HOST:PORT)/DATABASE"
    )]
    Form,
    /// A SQLite DSN is malformed.
    #[error("the SQLite DSN is malformed: {0}: expected sqlite:PATH")]
    Sqlite(&'static str),
    /// A MySQL DSN is malformed.
    #[error(
        "the MySQL DSN is malformed: {0}: expected mysql://USER:PASSWORD@HOST:PORT/DATABASE \
         or USER:PASSWORD@tcp(HOST:PORT)/DATABASE"
    )]
    Mysql(&'static str),
    /// A parameter of a MySQL DSN is unknown, or its value cannot be understood.
    #[error("the parameter {name} of the MySQL DSN is refused: {problem}")]
    Parameter {
        /// Its name, when that is certainly one.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl FromStr for Dsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<Self, DsnError> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            return sqlite(path.strip_prefix("//").unwrap_or(path));
        }
        if let Some(rest) = text.strip_prefix("mysql://").or_else(|| text.strip_prefix("mariadb://")) {
            return mysql::url(rest).map(|dsn| Self::Mysql(dsn.into()));
        }
        if text.contains("://") && !text.contains('(') {
            return Err(DsnError::Form);
        }
        // the Go form, told by its last '@' or its address in parentheses
        if text.contains('@') || (text.contains('(') && text.contains('/')) {
            return mysql::go(text).map(|dsn| Self::Mysql(dsn.into()));
        }
        Err(DsnError::Form)
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(formatter, "sqlite:{}", path.display()),
            Self::Mysql(dsn) => write!(formatter, "{dsn}"),
        }
    }
}

fn sqlite(path: &str) -> Result<Dsn, DsnError> {
    let problem = match path {
        "" => "the path is empty",
        ":memory:" => "a database in memory keeps no records",
        _ if path.contains('\0') => "the path has a zero byte",
        _ if path.contains('?') => "parameters are not known",
        _ if path.ends_with('/') => "the path is a directory",
        _ => return Ok(Dsn::Sqlite(Path::new(path).to_owned())),
    };
    Err(DsnError::Sqlite(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_paths() {
        for (text, path) in [
            ("sqlite:audit.db", "audit.db"),
            ("sqlite:/var/log/a.db", "/var/log/a.db"),
            ("sqlite://rel/a.db", "rel/a.db"),
            ("sqlite:///var/a b.db", "/var/a b.db"),
        ] {
            assert_eq!(text.parse(), Ok(Dsn::Sqlite(path.into())), "{text}");
        }
        for text in ["sqlite:", "sqlite://", "sqlite::memory:", "sqlite:a.db?mode=ro", "sqlite:/var/"] {
            assert!(matches!(text.parse::<Dsn>(), Err(DsnError::Sqlite(_))), "{text}");
        }
        assert_eq!("sqlite:///a.db".parse::<Dsn>().unwrap().to_string(), "sqlite:/a.db");
    }

    #[test]
    fn mysql_is_recognised() {
        for text in [
            "mysql://user:hunter2@db/general_db",
            "mysql://user:hunter2@db:3306/general_db?ssl-mode=REQUIRED",
            "mariadb://db/general_db",
            "mysql://user@[::1]:3306/general_db",
            "user:hunter2@tcp(db:3306)/general_db",
            "user:hun@ter/2@tcp(db.infrastructure.svc.cluster.local:3306)/general_db?parseTime=true&loc=a/b",
            "user:hunter2@tcp(a:3306,b:3306)/general_db",
            "tcp(db:3306)/general_db",
            "user:hunter2@unix(/run/mysqld.sock)/general_db",
            "user:://hunter2@tcp(db)/general_db",
        ] {
            let dsn = text.parse::<Dsn>();
            assert!(matches!(dsn, Ok(Dsn::Mysql(_))), "{text}: {dsn:?}");
        }
    }

    #[test]
    fn no_error_shows_a_password() {
        for text in [
            "",
            "hunter2",
            "postgres://user:hunter2@db/x",
            "hunter2://user@db/x",
            "mysql://user:hunter2@db",
            "mysql://user:hunter2@db:port/x",
            "mysql://user:hunter2@/x",
            "mysql://user:hunter2@db:hunter2/hunter2/",
            "user:hunter2@tcp(db:3306)",
            "user:hunter2@tcp(db:3306/general_db",
            "user:hunter2@db:3306/general_db",
            "user:hunter2@udp(hunter2)/general_db",
            "user:hunter2@tcp(db:hunter2)/x",
            "user:hunter2@tcp(:3306)/x",
            "sqlite:?hunter2",
            "user:hunter2@",
        ] {
            let error = text.parse::<Dsn>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
        }
    }
}
