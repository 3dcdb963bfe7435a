//! Where the audit store is: `--db-dsn`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Says where an audit store is. Neither form of printing it shows a password.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dsn {
    /// A SQLite database file.
    Sqlite(PathBuf),
}

/// Says why a DSN was refused. Never repeats any of it: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
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
    /// It is a proper MySQL DSN.
    #[error("a MySQL DSN is not supported in this build: use sqlite:PATH")]
    MysqlNotSupported,
}

impl FromStr for Dsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<Self, DsnError> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            return sqlite(path.strip_prefix("//").unwrap_or(path));
        }
        if let Some(rest) = text.strip_prefix("mysql://").or_else(|| text.strip_prefix("mariadb://")) {
            mysql_url(rest)?;
            return Err(DsnError::MysqlNotSupported);
        }
        if text.contains("://") && !text.contains('(') {
            return Err(DsnError::Form);
        }
        // the Go form, told by its last '@' or its address in parentheses
        if text.contains('@') || (text.contains('(') && text.contains('/')) {
            mysql_go(text)?;
            return Err(DsnError::MysqlNotSupported);
        }
        Err(DsnError::Form)
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(formatter, "sqlite:{}", path.display()),
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

/// Checks `[user[:password]@]host[:port][,host[:port]…]/database[?parameters]`.
fn mysql_url(rest: &str) -> Result<(), DsnError> {
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    let (authority, database) = rest.rsplit_once('/').ok_or(DsnError::Mysql("the database is missing"))?;
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    mysql_target(hosts, database)
}

/// Checks `[user[:password]@][protocol[(address)]]/database[?parameters]`; the last '/' counts, then the last '@'
/// (<https://github.com/go-sql-driver/mysql#dsn-data-source-name>).
fn mysql_go(text: &str) -> Result<(), DsnError> {
    let slash = text.rfind(")/").map(|at| at + 1).or_else(|| text.rfind('/'));
    let (left, right) = text.split_at(slash.ok_or(DsnError::Mysql("the database is missing"))?);
    let database = right[1..].split('?').next().unwrap_or_default();
    let address = left.rsplit_once('@').map_or(left, |(_, address)| address);
    let Some((protocol, address)) = address.split_once('(') else {
        return Err(DsnError::Mysql("the address is not in parentheses"));
    };
    let address = address.strip_suffix(')').ok_or(DsnError::Mysql("the address has no closing parenthesis"))?;
    match protocol {
        "tcp" => mysql_target(address, database),
        "unix" if address.starts_with('/') && !database.is_empty() => Ok(()),
        _ => Err(DsnError::Mysql("the protocol is not tcp")),
    }
}

fn mysql_target(hosts: &str, database: &str) -> Result<(), DsnError> {
    if database.is_empty() {
        return Err(DsnError::Mysql("the database is missing"));
    }
    for host in hosts.split(',') {
        // a port follows the last colon outside an IPv6 address in brackets
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        if name.is_empty() {
            return Err(DsnError::Mysql("the host is missing"));
        }
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(DsnError::Mysql("the port is no number from 0 to 65535"));
        }
    }
    Ok(())
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
            assert_eq!(text.parse::<Dsn>(), Err(DsnError::MysqlNotSupported), "{text}");
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
            assert_ne!(error, DsnError::MysqlNotSupported, "{text}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
        }
    }
}
