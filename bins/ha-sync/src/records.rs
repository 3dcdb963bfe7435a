//! Where a run's records go: the log directory, and the audit store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_audit::dsn::Dsn;
use ha_audit::flush::{self, FlushEvent};
use ha_audit::store::{Store, StoreError, Trouble};
use ha_cli::environment;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::Reporter;
use ha_sync_core::event::{Event, Observer as _};
use ha_sync_core::path::RelPath;
use ha_sync_engine::Stop;
use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, Root, local};

use crate::settings::Records;

/// An unreachable database delays a run by no more.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a flush goes on after a signal. The Lease is given back after it, and the cluster kills a pod 30 s after the
/// signal, by default.
const AFTER_A_SIGNAL: Duration = Duration::from_secs(5);

/// Is the name of the embedded database in the log directory.
const DATABASE: &str = "ha-sync.db";

/// Returns the log directory, made when it was absent, and what to say when it is not the one that was meant.
///
/// Only the default gives way, to the user's state directory.
pub(crate) fn log_directory(records: &Records) -> Result<(PathBuf, Option<String>), Failure> {
    let error = match usable(&records.log_dir) {
        Ok(()) => return Ok((records.log_dir.clone(), None)),
        Err(error) => error,
    };
    let hint = "name a directory that can be written: --log-dir DIR";
    let refused = |error: &FsError| {
        Failure::from_error(FailureKind::Usage, error).context("the log directory cannot be used").hint(hint)
    };
    if records.log_dir_given {
        return Err(refused(&error));
    }
    let Some(state) = environment::state_directory() else { return Err(refused(&error)) };
    let fallback = state.join("ha-sync");
    usable(&fallback).map_err(|error| refused(&error))?;
    let note = format!(
        "{} cannot be written, logs and state go to {}",
        printable_path(&records.log_dir),
        printable_path(&fallback)
    );
    Ok((fallback, Some(note)))
}

fn usable(directory: &Path) -> Result<(), FsError> {
    local::create_directories(directory)?;
    local::list(directory)?;
    local::unnamed_file(directory).map(drop)
}

/// Reads the DSN; without one it is SQLite in the log directory.
pub(crate) fn dsn(records: &Records, log_directory: &Path) -> Result<Dsn, Failure> {
    match &records.db_dsn {
        None => Ok(Dsn::Sqlite(log_directory.join(DATABASE))),
        Some(text) => text.reveal().parse::<Dsn>().or_failure(FailureKind::Usage).map_err(|failure| {
            failure
                .context("the value of --db-dsn or HA_SYNC_DB_DSN is refused")
                .hint("for a file: --db-dsn sqlite:/var/lib/ha-sync/audit.db")
                .hint("for a server: --db-dsn 'USER:PASSWORD@tcp(HOST:3306)/DATABASE?tls=preferred'")
        }),
    }
}

/// Returns the devices and inodes of what a run writes beside the synchronised files: the log directory, and the
/// database where that is a file. They may lie inside a root.
pub(crate) fn own_entries(log_directory: &Path, dsn: &Dsn) -> Vec<(u64, u64)> {
    let mut own = Vec::new();
    if let Ok(root) = Root::open(log_directory, true) {
        own.push((root.entry().device, root.entry().inode));
    }
    // A link is followed as the database follows it. The file is not opened: to close it would drop SQLite's locks.
    if let Dsn::Sqlite(path) = dsn
        && let Ok(path) = path.canonicalize()
        && let (Some(directory), Some(name)) = (path.parent(), path.file_name())
        && let Ok(root) = Root::open(directory, true)
        && let Ok(Some(entry)) = root.open_dir(&RelPath::root()).and_then(|top| top.find(name.as_encoded_bytes()))
    {
        own.push((entry.device, entry.inode));
    }
    own
}

/// Opens the store, or says why its rows must wait and what to do about it.
pub(crate) fn open(dsn: &Dsn, reporter: &Reporter) -> Option<Store> {
    match Store::open(dsn, CONNECT_TIMEOUT) {
        Ok(store) => Some(store),
        Err(error) => {
            let why = Failure::from_error(FailureKind::Failed, &error).one_line();
            let message = format!("the audit store is not reachable, its rows wait in the log: {why}");
            reporter.event(Event::Warning { message: &message });
            if let Some(hint) = hint(&error, dsn) {
                reporter.note(&format!("hint: {hint}"));
            }
            None
        }
    }
}

/// Returns what to type when a server cannot be used.
pub(crate) fn hint(error: &StoreError, dsn: &Dsn) -> Option<String> {
    let Dsn::Mysql(mysql) = dsn else { return None };
    let (user, database) = (mysql.user(), mysql.database());
    Some(match error.trouble()? {
        Trouble::Name => format!("does this host know the name? getent hosts {}", mysql.host()?),
        Trouble::Refused | Trouble::Silent => match mysql.host() {
            Some(host) => format!("does the server listen there? nc -vz {host} {}", mysql.port()?),
            None => "is the server running? systemctl status mariadb".to_owned(),
        },
        Trouble::NotMysql => "is it the port of the database? MySQL's is 3306".to_owned(),
        Trouble::Tls => {
            "what the DSN says of TLS: tls=skip-verify encrypts and checks nothing, tls-ca=FILE names your \
                         authority, tls=false does without"
                .to_owned()
        }
        Trouble::Login => match mysql.host() {
            Some(host) => format!("try it by hand: mariadb -h {host} -P {} -u {user} -p {database}", mysql.port()?),
            None => format!("try it by hand: mariadb -u {user} -p {database}"),
        },
        Trouble::NoDatabase => format!("make it: CREATE DATABASE {database} CHARACTER SET utf8mb4"),
        Trouble::Rights => {
            format!("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, REFERENCES ON {database}.* TO '{user}'@'%'")
        }
        _ => return None,
    })
}

/// Brings every log of the directory into the store and deletes it; says what else happened. A signal leaves it
/// [`AFTER_A_SIGNAL`] more, and what is not stored by then to the next run.
pub(crate) fn flush(log_directory: &Path, store: &Store, stop: &Stop, say: &dyn Fn(&str)) {
    let shown = printable_path;
    let stopped = || stop.signalled_for().is_some_and(|time| time >= AFTER_A_SIGNAL);
    let summary = flush::flush_all(log_directory, store, &stopped, &mut |event| match event {
        FlushEvent::Broken { path, moved_to, error } => {
            let error = Failure::from_error(FailureKind::Failed, error).one_line();
            say(&format!("a broken log was set aside: {} is now {}: {error}", shown(path), shown(moved_to)));
        }
        FlushEvent::Failed { path, error } => {
            let error = Failure::from_error(FailureKind::Failed, error).one_line();
            say(&format!("a log could not be flushed and stays: {}: {error}", shown(path)));
        }
        FlushEvent::Removed { path } => say(&format!("a log without a whole header was removed: {}", shown(path))),
        FlushEvent::Flushed { .. } | FlushEvent::SetAside { .. } | FlushEvent::Live { .. } => {}
    });
    if let Some(error) = &summary.error {
        let error = Failure::from_error(FailureKind::Failed, error).one_line();
        say(&format!("{} logs wait for the next run: {error}", summary.left));
    }
}
