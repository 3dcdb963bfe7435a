//! The flags, as clap sees them, and what they say.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, ValueHint};
use ha_cli::environment;
use ha_cli::failure::Failure;
use ha_cli::report::LogFormat;
use ha_cli::{usage, value};

/// Says by what pairs are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LockKind {
    /// `lease` in a cluster or with a kubeconfig, else `file`
    Auto,
    /// The Leases of a namespace
    Lease,
    /// The lock files of this host
    File,
    /// Locks are not shown
    None,
}

/// Shows what ha-sync did: pages, a JSON API and metrics over its database. It only reads.
#[derive(Debug, Parser)]
#[command(name = "ha-sync-ui", version, max_term_width = 100, args_override_self = true)]
struct Definition {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8080", env = environment::UI_LISTEN.name)]
    listen: SocketAddr,
    /// Database of the records, as for ha-sync [default: SQLite in the log directory]
    ///
    /// sqlite:PATH, mysql://USER:PASSWORD@HOST/DATABASE or USER:PASSWORD@tcp(HOST:3306)/DATABASE. A user who may only
    /// SELECT is enough. Better in the environment, where the password is not seen in the process list.
    #[arg(long, value_name = "DSN", env = environment::DB_DSN.name, hide_env_values = true)]
    db_dsn: Option<String>,
    /// Directory for logs, as for ha-sync; logs that wait there for the database are counted
    #[arg(long, value_name = "DIR", default_value = "/var/log/ha-sync", value_hint = ValueHint::DirPath,
        value_parser = OsStringValueParser::new().try_map(|text| value::absolute_path(&text)))]
    log_dir: PathBuf,
    /// Whose locks are shown
    #[arg(long, value_name = "KIND", value_enum, default_value_t = LockKind::Auto)]
    lock: LockKind,
    /// How to reach the cluster of the Leases
    ///
    /// Without it: the service account of the pod, else KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    kube_context: Option<String>,
    /// Namespace of the Leases [default: the pod's, or the context's]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// File of logins: lines `basic USER:PASSWORD` or `bearer TOKEN`; without one everybody may look
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    auth_file: Option<PathBuf>,
    /// Form of the lines on stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Is what the command line says.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) listen: SocketAddr,
    pub(crate) db_dsn: Option<String>,
    pub(crate) log_dir: PathBuf,
    /// Only the default gives way.
    pub(crate) log_dir_given: bool,
    pub(crate) lock: LockKind,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) kube_context: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) auth_file: Option<PathBuf>,
    pub(crate) log_format: LogFormat,
}

/// Is why there are none.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Help or the version is asked for.
    Shown(clap::Error),
    /// The command line is wrong.
    Failure(Failure),
}

/// Parses a command line, its first word the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, Refusal> {
    let refuse = |error: clap::Error| match error.use_stderr() {
        false => Refusal::Shown(error),
        true => Refusal::Failure(usage::refusal(&error, "ha-sync-ui")),
    };
    let matches = Definition::command().try_get_matches_from(words).map_err(refuse)?;
    let Definition { listen, db_dsn, log_dir, lock, kubeconfig, kube_context, namespace, auth_file, log_format } =
        Definition::from_arg_matches(&matches).map_err(refuse)?;
    let log_dir_given = matches.value_source("log_dir") == Some(ValueSource::CommandLine);
    Ok(Arguments {
        listen,
        db_dsn,
        log_dir,
        log_dir_given,
        lock,
        kubeconfig,
        kube_context,
        namespace,
        auth_file,
        log_format,
    })
}
