//! The two forms of a MySQL DSN: `mysql://…`, and the one of Go's driver
//! (<https://github.com/go-sql-driver/mysql#dsn-data-source-name>).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::DsnError;

const PORT: u16 = 3306;

/// Parameters of Go's driver that change nothing here: names always travel as utf8mb4 and times as UTC, values are
/// always bound, and a server's own limits are asked for.
const WITHOUT_EFFECT: [&str; 19] = [
    "allowAllFiles",
    "allowFallbackToPlaintext",
    "allowNativePasswords",
    "allowOldPasswords",
    "charset",
    "checkConnLiveness",
    "clientFoundRows",
    "collation",
    "columnsWithAlias",
    "compress",
    "connectionAttributes",
    "interpolateParams",
    "loc",
    "maxAllowedPacket",
    "multiStatements",
    "parseTime",
    "rejectReadOnly",
    "serverPubKey",
    "timeTruncate",
];

/// Says where a MySQL or MariaDB database is and how to reach it. Neither form of printing it shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlDsn {
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    /// At least one; they are tried in order.
    pub(crate) addresses: Vec<Address>,
    pub(crate) database: String,
    pub(crate) tls: Tls,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) cleartext_password: bool,
    /// `timeout`.
    pub(crate) connect_timeout: Option<Duration>,
    /// `readTimeout` or `writeTimeout`, the longer.
    pub(crate) statement_timeout: Option<Duration>,
}

/// Is where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp {
        /// A name, or an IP address without brackets.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// Says whether the connection is encrypted and what of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    Disabled,
    /// Encrypted when the server can.
    Preferred,
    Required,
    VerifyCa,
    VerifyIdentity,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

impl fmt::Display for MysqlDsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, addresses, database, .. } = self;
        write!(formatter, "mysql://{user}{}", if user.is_empty() { "" } else { "@" })?;
        if let [Address::Unix(path)] = &addresses[..] {
            return write!(formatter, "localhost/{database}?socket={}", path.display());
        }
        for (index, address) in addresses.iter().enumerate() {
            write!(formatter, "{}{address}", if index == 0 { "" } else { "," })?;
        }
        write!(formatter, "/{database}")
    }
}

impl fmt::Debug for MysqlDsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// Reads `[user[:password]@]host[:port][,host[:port]…]/database[?parameters]`, in which all but the hosts may have
/// percent escapes.
pub(super) fn url(rest: &str) -> Result<MysqlDsn, DsnError> {
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.rsplit_once('/').ok_or(DsnError::Mysql("the database is missing"))?;
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = split_login(login);
    let password = password.map(unescaped).transpose()?;
    let mut dsn = MysqlDsn::new(unescaped(user)?, password, tcp_addresses(hosts)?, unescaped(database)?)?;
    dsn.take_parameters(parameters)?;
    Ok(dsn)
}

/// Reads `[user[:password]@][protocol[(address)]]/database[?parameters]`; the last '/' counts, then the last '@'.
/// Nothing before the database is an escape. After an address in parentheses parameters may hold a '/' too.
pub(super) fn go(text: &str) -> Result<MysqlDsn, DsnError> {
    let slash = text.rfind(")/").map(|at| at + 1).or_else(|| text.rfind('/'));
    let (left, right) = text.split_at(slash.ok_or(DsnError::Mysql("the database is missing"))?);
    let (database, parameters) = right[1..].split_once('?').unwrap_or((&right[1..], ""));
    let (login, target) = left.rsplit_once('@').unwrap_or(("", left));
    let (user, password) = split_login(login);
    let (protocol, address) = match target.split_once('(') {
        Some((protocol, address)) => {
            let closed = address.strip_suffix(')');
            (protocol, Some(closed.ok_or(DsnError::Mysql("the address has no closing parenthesis"))?))
        }
        None => (target, None),
    };
    let addresses = match (protocol, address) {
        ("tcp" | "", None) => vec![Address::Tcp { host: "127.0.0.1".to_owned(), port: PORT }],
        ("tcp", Some(hosts)) => tcp_addresses(hosts)?,
        ("unix", Some(path)) if path.starts_with('/') => vec![Address::Unix(path.into())],
        ("unix", _) => return Err(DsnError::Mysql("the path of the socket is not absolute")),
        (_, None) => return Err(DsnError::Mysql("the address is not in parentheses")),
        (_, Some(_)) => return Err(DsnError::Mysql("the protocol is not tcp or unix")),
    };
    let mut dsn = MysqlDsn::new(user.to_owned(), password.map(str::to_owned), addresses, unescaped(database)?)?;
    dsn.take_parameters(parameters)?;
    Ok(dsn)
}

impl MysqlDsn {
    /// Returns the user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Returns the first host; none of a socket.
    pub fn host(&self) -> Option<&str> {
        self.addresses.iter().find_map(|address| match address {
            Address::Tcp { host, .. } => Some(&**host),
            Address::Unix(_) => None,
        })
    }

    /// Returns the port of the first host; none of a socket.
    pub fn port(&self) -> Option<u16> {
        self.addresses.iter().find_map(|address| match address {
            Address::Tcp { port, .. } => Some(*port),
            Address::Unix(_) => None,
        })
    }

    fn new(
        user: String,
        password: Option<String>,
        addresses: Vec<Address>,
        database: String,
    ) -> Result<Self, DsnError> {
        if database.is_empty() {
            return Err(DsnError::Mysql("the database is missing"));
        }
        Ok(Self {
            user,
            password,
            addresses,
            database,
            tls: Tls::Preferred,
            ca: None,
            certificate: None,
            key: None,
            cleartext_password: false,
            connect_timeout: None,
            statement_timeout: None,
        })
    }

    fn take_parameters(&mut self, parameters: &str) -> Result<(), DsnError> {
        let mut tls = None;
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = unescaped(value)?;
            // an '@' tells that the '?' before was one of a password
            let shown = !parameters.contains('@')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            let refused = |problem| DsnError::Parameter {
                name: if shown && parameter.contains('=') { name.to_owned() } else { "(not shown)".to_owned() },
                problem,
            };
            match name {
                "timeout" => self.connect_timeout = duration(&value).map_err(refused)?,
                "readTimeout" | "writeTimeout" => {
                    self.statement_timeout = self.statement_timeout.max(duration(&value).map_err(refused)?);
                }
                "tls" => {
                    tls = Some(match &*value {
                        "true" | "TRUE" | "True" | "1" => Tls::VerifyIdentity,
                        "skip-verify" => Tls::Required,
                        "preferred" => Tls::Preferred,
                        "false" | "FALSE" | "False" | "0" => Tls::Disabled,
                        _ => {
                            return Err(refused(
                                "expected true, skip-verify, preferred or false; a CA of your own: tls-ca=FILE",
                            ));
                        }
                    });
                }
                "ssl-mode" | "sslmode" | "sslMode" => {
                    tls = Some(match &*value.to_ascii_uppercase().replace('-', "_") {
                        "DISABLED" => Tls::Disabled,
                        "PREFERRED" => Tls::Preferred,
                        "REQUIRED" => Tls::Required,
                        "VERIFY_CA" => Tls::VerifyCa,
                        "VERIFY_IDENTITY" => Tls::VerifyIdentity,
                        _ => {
                            return Err(refused(
                                "expected DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY",
                            ));
                        }
                    });
                }
                "tls-ca" | "ssl-ca" => self.ca = Some(file(value).map_err(refused)?),
                "tls-cert" | "ssl-cert" => self.certificate = Some(file(value).map_err(refused)?),
                "tls-key" | "ssl-key" => self.key = Some(file(value).map_err(refused)?),
                "socket" => self.addresses = vec![Address::Unix(file(value).map_err(refused)?)],
                "allowCleartextPasswords" => self.cleartext_password = matches!(&*value, "true" | "1"),
                _ if WITHOUT_EFFECT.contains(&name) => {}
                _ => return Err(refused("it is not known")),
            }
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(DsnError::Mysql("tls-cert and tls-key go together"));
        }
        // who names a CA wants it checked
        self.tls = tls.unwrap_or(if self.ca.is_some() { Tls::VerifyIdentity } else { self.tls });
        if self.ca.is_some() && !matches!(self.tls, Tls::VerifyCa | Tls::VerifyIdentity) {
            return Err(DsnError::Mysql("with tls-ca the certificate is checked: leave the other TLS parameter out"));
        }
        if self.cleartext_password && matches!(self.tls, Tls::Disabled | Tls::Preferred) {
            return Err(DsnError::Mysql("allowCleartextPasswords needs TLS: add tls=true or tls=skip-verify"));
        }
        Ok(())
    }
}

fn split_login(login: &str) -> (&str, Option<&str>) {
    login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)))
}

fn tcp_addresses(hosts: &str) -> Result<Vec<Address>, DsnError> {
    hosts.split(',').map(|host| tcp_address(host.trim())).collect()
}

fn tcp_address(host: &str) -> Result<Address, DsnError> {
    // a port follows the last colon outside an IPv6 address in brackets
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if name.is_empty() {
        return Err(DsnError::Mysql("the host is missing"));
    }
    let port = match port.map(str::parse) {
        None => PORT,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return Err(DsnError::Mysql("the port is no number from 1 to 65535")),
    };
    Ok(Address::Tcp { host: name.to_owned(), port })
}

/// Decodes percent escapes; a '%' that begins none stands for itself.
fn unescaped(text: &str) -> Result<String, DsnError> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        let byte =
            escape.filter(|digits| !digits.starts_with('+')).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).map_err(|_| DsnError::Mysql("a percent escape is not UTF-8"))
}

fn file(path: String) -> Result<PathBuf, &'static str> {
    if path.starts_with('/') { Ok(path.into()) } else { Err("expected an absolute path") }
}

/// Reads a duration as Go writes it: `30s`, `1m30s`, `500ms`; nothing of `0`.
fn duration(text: &str) -> Result<Option<Duration>, &'static str> {
    const PROBLEM: &str = "expected a time like 5s, 500ms or 1m30s";
    if text == "0" {
        return Ok(None);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or(PROBLEM)?;
        let number: f64 = rest[..digits].parse().map_err(|_| PROBLEM)?;
        rest = &rest[digits..];
        let unit = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(PROBLEM),
            };
        rest = &rest[unit..];
    }
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| PROBLEM)?;
    // a deadline must be a time that exists
    if text.is_empty() || duration > Duration::from_secs(24 * 3600) {
        return Err(PROBLEM);
    }
    Ok(Some(duration).filter(|duration| !duration.is_zero()))
}

#[cfg(test)]
mod tests {
    use super::super::Dsn;
    use super::*;

    fn parsed(text: &str) -> MysqlDsn {
        match text.parse::<Dsn>() {
            Ok(Dsn::Mysql(dsn)) => *dsn,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn both_forms_say_the_same() {
        for text in ["mysql://sync:hunter2@db:3307/general_db", "sync:hunter2@tcp(db:3307)/general_db"] {
            let dsn = parsed(text);
            assert_eq!((&*dsn.user, dsn.password.as_deref(), &*dsn.database), ("sync", Some("hunter2"), "general_db"));
            assert_eq!(dsn.addresses, [tcp("db", 3307)]);
            assert_eq!((dsn.tls, dsn.connect_timeout), (Tls::Preferred, None));
            assert_eq!(dsn.to_string(), "mysql://sync@db:3307/general_db");
            assert!(!format!("{dsn:?} {:?}", Dsn::Mysql(dsn.clone().into())).contains("hunter2"));
        }
    }

    #[test]
    fn a_password_may_hold_anything() {
        let secret = "a@b:c/d?e(f)/g%41&h=#";
        assert_eq!(parsed(&format!("u:{secret}@tcp(db)/x")).password.as_deref(), Some(secret));
        assert_eq!(parsed("u:p@tcp(x)/y@tcp(db)/x").password.as_deref(), Some("p@tcp(x)/y"));
        let escaped = "mysql://u:a%40b%3Ac%2Fd%3Fe%25@db/x";
        assert_eq!(parsed(escaped).password.as_deref(), Some("a@b:c/d?e%"));
        assert_eq!(parsed("mysql://u:a@b:c/d%@db/x").password.as_deref(), Some("a@b:c/d%"));
        assert_eq!(parsed("mysql://%C3%BC@db/x").user, "ü");
        assert_eq!(parsed("mysql://u:@db/x").password.as_deref(), Some(""));
        assert_eq!("mysql://u:%FF@db/x".parse::<Dsn>(), Err(DsnError::Mysql("a percent escape is not UTF-8")));
    }

    #[test]
    fn addresses() {
        assert_eq!(
            parsed("u@tcp(a,b:3307,[::1]:3308)/x").addresses,
            [tcp("a", 3306), tcp("b", 3307), tcp("::1", 3308)]
        );
        assert_eq!(parsed("mysql://a:1,b:2/x").addresses, [tcp("a", 1), tcp("b", 2)]);
        assert_eq!(parsed("u:p@/x").addresses, [tcp("127.0.0.1", 3306)]);
        assert_eq!(parsed("u:p@tcp/x").addresses, [tcp("127.0.0.1", 3306)]);
        let socket = Address::Unix("/run/my sql.sock".into());
        assert_eq!(parsed("u@unix(/run/my sql.sock)/x").addresses, std::slice::from_ref(&socket));
        let dsn = parsed("mysql://u@localhost/x?socket=/run/my%20sql.sock");
        assert_eq!(dsn.addresses, [socket]);
        assert_eq!(dsn.to_string(), "mysql://u@localhost/x?socket=/run/my sql.sock");
        assert_eq!(parsed("u@tcp([::1]:3308,b)/x").to_string(), "mysql://u@[::1]:3308,b:3306/x");
    }

    #[test]
    fn parameters_of_the_go_driver() {
        let dsn = parsed(
            "u:p@tcp(db)/x?charset=utf8mb4,utf8&collation=utf8mb4_bin&parseTime=true&loc=Europe%2FBerlin\
             &multiStatements=true&interpolateParams=true&allowNativePasswords=true&maxAllowedPacket=0\
             &timeout=3s&readTimeout=1m30s&writeTimeout=500ms",
        );
        assert_eq!(dsn.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(dsn.statement_timeout, Some(Duration::from_secs(90)));
        assert_eq!(parsed("u@tcp(db)/x?timeout=0").connect_timeout, None);
        for (parameters, tls) in [
            ("tls=true", Tls::VerifyIdentity),
            ("tls=skip-verify", Tls::Required),
            ("tls=preferred", Tls::Preferred),
            ("tls=false", Tls::Disabled),
            ("ssl-mode=VERIFY_CA", Tls::VerifyCa),
            ("sslmode=required", Tls::Required),
            ("ssl-mode=verify-ca&ssl-ca=/etc/ca.pem", Tls::VerifyCa),
            ("tls-ca=/etc/ca.pem", Tls::VerifyIdentity),
        ] {
            assert_eq!(parsed(&format!("u@tcp(db)/x?{parameters}")).tls, tls, "{parameters}");
            assert_eq!(parsed(&format!("mysql://u@db/x?{parameters}")).tls, tls, "{parameters}");
        }
        assert_eq!(parsed("mysql://db/x?tls-ca=/etc/ca.pem").ca.as_deref(), Some("/etc/ca.pem".as_ref()));
        assert!(parsed("u@tcp(db)/x?tls=true&allowCleartextPasswords=true").cleartext_password);
    }

    #[test]
    fn a_bad_parameter_is_named() {
        for (parameters, message) in [
            ("timeuot=5s", "the parameter timeuot of the MySQL DSN is refused: it is not known"),
            ("timeout=5", "the parameter timeout of the MySQL DSN is refused: expected a time like 5s, 500ms or 1m30s"),
            ("timeout=", "the parameter timeout of the MySQL DSN is refused: expected a time like 5s, 500ms or 1m30s"),
            (
                "timeout=9999h",
                "the parameter timeout of the MySQL DSN is refused: expected a time like 5s, 500ms or 1m30s",
            ),
            (
                "tls=custom",
                "the parameter tls of the MySQL DSN is refused: expected true, skip-verify, preferred or false; \
                 a CA of your own: tls-ca=FILE",
            ),
            ("tls-ca=ca.pem", "the parameter tls-ca of the MySQL DSN is refused: expected an absolute path"),
            ("hunter2", "the parameter (not shown) of the MySQL DSN is refused: it is not known"),
        ] {
            for text in [format!("u:p@tcp(db)/x?{parameters}"), format!("mysql://u:p@db/x?{parameters}")] {
                assert_eq!(text.parse::<Dsn>().unwrap_err().to_string(), message);
            }
        }
        for parameters in ["tls=false&tls-ca=/ca.pem", "tls-cert=/a.pem", "allowCleartextPasswords=true"] {
            assert!(format!("u:p@tcp(db)/x?{parameters}").parse::<Dsn>().is_err(), "{parameters}");
        }
    }
}
