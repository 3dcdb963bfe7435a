//! Bringing every log of a directory into the store, and what is kept on disk for how long.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::files::{self, FileError};
use crate::reader::{self, LogError, LogFile};
use crate::recovery;
use crate::store::{Flushed, Store, StoreError};

/// Is what happened to one log.
#[derive(Debug)]
pub enum FlushEvent<'a> {
    /// It is in the store and gone from the directory.
    Flushed {
        /// Where it was.
        path: &'a Path,
        /// What was stored.
        flushed: &'a Flushed,
    },
    /// It is in the store as an interrupted run, and was moved to where the next run of its pair finds it.
    SetAside {
        /// Where it was.
        path: &'a Path,
        /// Where it is.
        moved_to: &'a Path,
        /// What was stored.
        flushed: &'a Flushed,
    },
    /// Its run is alive; it was left alone.
    Live {
        /// The log.
        path: &'a Path,
    },
    /// It had no whole header line, so no run did anything; it was removed.
    Removed {
        /// Where it was.
        path: &'a Path,
    },
    /// It cannot be understood or stored; it was renamed, and stays until [`retain`] removes it.
    Broken {
        /// Where it was.
        path: &'a Path,
        /// Where it is.
        moved_to: &'a Path,
        /// What is wrong with it.
        error: &'a StoreError,
    },
    /// It cannot be read, moved or removed; it was left where it is.
    Failed {
        /// The log.
        path: &'a Path,
        /// Why.
        error: &'a StoreError,
    },
}

/// Counts what [`flush_all`] did.
#[derive(Debug, Default)]
pub struct FlushSummary {
    /// Logs that are in the store now.
    pub flushed: u64,
    /// Operations in them.
    pub operations: u64,
    /// Of the flushed: logs of dead runs that wait for the next run of their pair.
    pub set_aside: u64,
    /// Logs of live runs.
    pub live: u64,
    /// Logs without a header that were removed.
    pub removed: u64,
    /// Logs that were renamed because they are broken.
    pub broken: u64,
    /// Logs that were left because they could not be handled, or because the store failed before them.
    pub left: u64,
    /// What stopped it.
    pub error: Option<StoreError>,
}

/// Flushes every log of the log directory, oldest first; what was set aside and concluded since too. A log goes only
/// when all of it is durable in the store. A broken log never keeps the others from being flushed; a store that fails
/// does, and so does `stopped`, which is asked before each batch; then all that is left stays for the next time.
pub fn flush_all(
    dir: &Path,
    store: &Store,
    stopped: &dyn Fn() -> bool,
    on: &mut dyn FnMut(FlushEvent<'_>),
) -> FlushSummary {
    let mut summary = FlushSummary::default();
    let logs = reader::list(dir).and_then(|logs| Ok((logs, reader::list_all_set_aside(dir)?)));
    let (logs, set_aside) = match logs {
        Ok(listed) => listed,
        Err(error) => return FlushSummary { error: Some(LogError::File(error).into()), ..summary },
    };
    let waiting = |log: &LogFile| recovery::scan(&log.path).is_ok_and(|scan| !scan.ended);
    let concluded = set_aside.into_iter().filter(|log| !waiting(log));
    let logs = reader::sorted(logs.into_iter().chain(concluded));
    let count = logs.len() as u64;
    for (index, log) in logs.iter().enumerate() {
        if let Err(error) = flush_one(dir, &log.path, (store, stopped), &mut summary, on) {
            summary.left += count - index as u64;
            summary.error = Some(error);
            break;
        }
    }
    if let (Err(error), None) = (files::sync_directory(dir), &summary.error) {
        summary.error = Some(LogError::File(error).into());
    }
    summary
}

/// Handles one log; an error is one of the store, and stops all.
fn flush_one(
    dir: &Path,
    path: &Path,
    store: (&Store, &dyn Fn() -> bool),
    summary: &mut FlushSummary,
    on: &mut dyn FnMut(FlushEvent<'_>),
) -> Result<(), StoreError> {
    let handled = handle(dir, path, store, summary, on);
    match handled {
        // another program flushed it meanwhile
        Err(StoreError::Log(LogError::File(error))) if error.is_not_found() && error.path == path => Ok(()),
        Err(error @ StoreError::Log(LogError::Stopped { .. })) => Err(error),
        Err(error @ StoreError::Log(_)) => {
            summary.left += 1;
            on(FlushEvent::Failed { path, error: &error });
            Ok(())
        }
        handled => handled,
    }
}

fn handle(
    dir: &Path,
    path: &Path,
    store: (&Store, &dyn Fn() -> bool),
    summary: &mut FlushSummary,
    on: &mut dyn FnMut(FlushEvent<'_>),
) -> Result<(), StoreError> {
    let (store, stopped) = store;
    // held to the end: whoever holds it may remove or move the log
    let lock = files::open_append(path).map_err(LogError::File)?;
    if !files::try_lock(&lock, path).map_err(LogError::File)? {
        summary.live += 1;
        on(FlushEvent::Live { path });
        return Ok(());
    }
    if files::is_removed(&lock, path).map_err(LogError::File)? {
        return Ok(());
    }
    let flushed = match store.flush_unless(path, stopped) {
        Ok(flushed) => flushed,
        Err(StoreError::Log(LogError::NoHeader { .. })) => {
            files::remove(path).map_err(LogError::File)?;
            summary.removed += 1;
            on(FlushEvent::Removed { path });
            return Ok(());
        }
        Err(error @ (StoreError::Log(LogError::Broken { .. }) | StoreError::Refused { .. })) => {
            return set_broken_aside(path, &error, summary, on);
        }
        Err(error) => return Err(error),
    };
    let wanted = match flushed.interrupted.then(|| recovery::scan(path)).transpose() {
        Ok(scan) => scan.is_some_and(|scan| !scan.unresolved.is_empty()),
        Err(error @ LogError::Broken { .. }) => return set_broken_aside(path, &error.into(), summary, on),
        Err(error) => return Err(error.into()),
    };
    if wanted {
        let moved_to = set_aside(dir, path, &flushed).map_err(LogError::File)?;
        summary.set_aside += 1;
        on(FlushEvent::SetAside { path, moved_to: &moved_to, flushed: &flushed });
    } else {
        files::remove(path).map_err(LogError::File)?;
        on(FlushEvent::Flushed { path, flushed: &flushed });
    }
    summary.flushed += 1;
    summary.operations += flushed.operations;
    Ok(())
}

fn set_aside(dir: &Path, path: &Path, flushed: &Flushed) -> Result<PathBuf, FileError> {
    let Flushed { run_id, sync_pair, .. } = flushed;
    let aside = dir.join("state").join(sync_pair.as_str());
    files::create_directories(&aside)?;
    let moved_to = aside.join(format!("interrupted-{run_id}.jsonl"));
    // a log that was concluded there since holds all of this one and more, and may not be in the store yet
    if recovery::scan(&moved_to).is_ok_and(|scan| scan.ended) {
        files::remove(path)?;
        return Ok(moved_to);
    }
    files::rename(path, &moved_to)?;
    files::sync_directory(&aside)?;
    Ok(moved_to)
}

fn set_broken_aside(
    path: &Path,
    error: &StoreError,
    summary: &mut FlushSummary,
    on: &mut dyn FnMut(FlushEvent<'_>),
) -> Result<(), StoreError> {
    let mut moved_to = path.as_os_str().to_owned();
    moved_to.push(".broken");
    let moved_to = PathBuf::from(moved_to);
    // Its age counts from now: nobody has seen it yet.
    files::touch(path).and_then(|()| files::rename(path, &moved_to)).map_err(LogError::File)?;
    summary.broken += 1;
    on(FlushEvent::Broken { path, moved_to: &moved_to, error });
    Ok(())
}

/// Is what [`retain`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retained {
    /// Broken logs that were removed.
    pub removed: u64,
    /// Logs that are older and still not in the store; they are never removed by age.
    pub unflushed: Vec<PathBuf>,
    /// Logs of dead runs that are older, are in the store, and still wait for a run of their pair: only that can find
    /// out how their last operations ended. They are never removed by age.
    pub waiting: Vec<PathBuf>,
}

/// Removes the broken logs that were last written before `older_than`, and names the unflushed ones and those that wait
/// for their pair that were.
pub fn retain(dir: &Path, older_than: Timestamp, dry_run: bool) -> Result<Retained, FileError> {
    let mut retained = Retained::default();
    let mut dirs = vec![dir.to_owned()];
    for entry in files::list_if_any(&dir.join("state"))? {
        if entry.kind.is_dir() {
            dirs.push(dir.join("state").join(entry.name));
        }
    }
    for dir in dirs {
        for entry in files::list(&dir)? {
            let Some(name) = entry.name.to_str().filter(|_| entry.kind.is_file()) else { continue };
            let path = dir.join(name);
            let (unflushed, waiting) = (name.starts_with("opslog-"), name.starts_with("interrupted-"));
            let broken = name.ends_with(".jsonl.broken");
            let ours = (unflushed || waiting) && (broken || name.ends_with(".jsonl"));
            if !ours || files::modified(&path)? >= older_than {
                continue;
            }
            if broken {
                if !dry_run {
                    files::remove(&path)?;
                }
                retained.removed += 1;
            } else if waiting {
                retained.waiting.push(path);
            } else {
                retained.unflushed.push(path);
            }
        }
    }
    retained.unflushed.sort();
    retained.waiting.sort();
    Ok(retained)
}
