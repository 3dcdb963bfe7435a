//! `ha-sync restore`: what is in the trash of a root, and putting it back.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, ignore_closed, json_line, print};
use ha_cli::table::{Align, Table};
use ha_sync_core::entry::{Kind, Time};
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_engine::restore::{self, Restore, Restored, Trashed};
use ha_sync_fs::Root;
use ha_sync_fs::lock::{LockError, RootLock, Sharing, lock_root};
use serde::Serialize;

use crate::run;
use crate::settings::RestoreSettings;

/// Is an entry of the trash as `-o json` prints it.
#[derive(Serialize)]
struct Row {
    run: RunId,
    path: String,
    kind: &'static str,
    size: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Lists or puts back.
pub(crate) fn serve(settings: &RestoreSettings) -> Result<ExitCode, Failure> {
    // A run that crossed mounts has put their old versions into the same trash.
    let root = Root::open(&settings.root, true)
        .or_failure(FailureKind::Failed)
        .map_err(|failure| failure.hint("name the root whose files were replaced or deleted: --root DIR"))?;
    let wanted = wanted(settings)?;
    let runs = restore::runs(&root).or_failure(FailureKind::Failed)?;
    if let Some(run) = settings.run.as_ref().filter(|run| !runs.contains(run)) {
        return Err(Failure::new(FailureKind::Failed, format!("the trash has nothing of run {run}"))
            .hint(format!("see what it has: ha-sync restore --root {}", settings.root.display())));
    }
    let listing = settings.list || (settings.run.is_none() && wanted.is_empty());
    // Whoever only looks disturbs nobody. Without a trash there is nothing to lock.
    let _lock = if listing || settings.dry_run || runs.is_empty() { None } else { Some(lock(&root)?) };
    let runs: Vec<RunId> = runs.into_iter().filter(|run| settings.run.as_ref().is_none_or(|one| one == run)).collect();
    let mut found = Vec::new();
    for run in &runs {
        let mut take = |entry: &Trashed| found.push(entry.clone());
        if wanted.is_empty() {
            restore::list(&root, run, None, &mut take).or_failure(FailureKind::Failed)?;
        }
        for path in &wanted {
            restore::list(&root, run, Some(path), &mut take).or_failure(FailureKind::Failed)?;
        }
    }
    if listing {
        return list(settings, &found);
    }
    // Of each path the newest version; runs come oldest first. Directories come before what was in them.
    let newest: BTreeMap<RelPath, Trashed> = found.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
    let found: Vec<Trashed> = newest.into_values().collect();
    if found.is_empty() {
        return Err(Failure::new(FailureKind::Failed, "the trash has no such path")
            .hint(format!("see what it has: ha-sync restore --root {}", settings.root.display())));
    }
    put_back(settings, &root, &runs, &found)
}

fn lock(root: &Root) -> Result<RootLock, Failure> {
    lock_root(root, Sharing::Alone).map_err(|error| match error {
        LockError::RootInUse { .. } => Failure::from_error(FailureKind::LockHeld, &error)
            .hint("try again when it has ended; to look meanwhile: --list or --dry-run"),
        error => Failure::from_error(FailureKind::Failed, &error),
    })
}

fn wanted(settings: &RestoreSettings) -> Result<Vec<RelPath>, Failure> {
    settings
        .paths
        .iter()
        .map(|path| {
            relative(path).map_err(|failure| failure.hint("name it as the trash lists it, relative to the root"))
        })
        .collect()
}

/// Takes a path below a root as it may be typed: with a slash at its end, or `./` before it.
pub(crate) fn relative(path: &Path) -> Result<RelPath, Failure> {
    let mut bytes = path.as_os_str().as_bytes();
    bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
    RelPath::from_bytes(bytes.strip_prefix(b"./").unwrap_or(bytes).to_vec())
        .ok_or_else(|| Failure::new(FailureKind::Usage, format!("not a path below the root: {}", path.display())))
}

fn list(settings: &RestoreSettings, found: &[Trashed]) -> Result<ExitCode, Failure> {
    if settings.output.format == OutputFormat::Json {
        let rows: Vec<Row> = found.iter().map(|entry| row(entry, None)).collect();
        print(&json_line(&rows)).or_failure(FailureKind::Failed)?;
        return Ok(ExitCode::Success);
    }
    if found.is_empty() {
        print("the trash is empty\n").or_failure(FailureKind::Failed)?;
        return Ok(ExitCode::Success);
    }
    let mut table = Table::new([Align::Left, Align::Left, Align::Right, Align::Left]);
    table.row(["run", "modified", "size", "path"]);
    for entry in found {
        let size = if entry.kind == Kind::Directory { "directory".to_owned() } else { human_bytes(entry.size) };
        table.row([entry.run.as_str(), &shown(entry.mtime), &size, &entry.path.to_string()]);
    }
    ignore_closed(table.write(&mut std::io::stdout().lock())).or_failure(FailureKind::Failed)?;
    Ok(ExitCode::Success)
}

/// Returns the word for what an entry is.
pub(crate) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Link => "link",
        Kind::Directory => "directory",
        Kind::Special => "special",
    }
}

/// Writes a time in whole seconds, UTC.
pub(crate) fn shown(time: Time) -> String {
    jiff::Timestamp::from_nanosecond(time.0).map_or_else(|_| "?".to_owned(), |time| format!("{time:.0}"))
}

fn row(entry: &Trashed, result: Option<&Restored>) -> Row {
    let (word, error) = match result {
        None => (None, None),
        Some(Restored::Done) => (Some("restored"), None),
        Some(Restored::Replaced) => (Some("replaced"), None),
        Some(Restored::Merged) => (Some("merged"), None),
        Some(Restored::Occupied) => (Some("occupied"), None),
        Some(Restored::Failed(error)) => (Some("failed"), Some(error.clone())),
    };
    Row {
        run: entry.run.clone(),
        path: entry.path.escaped(),
        kind: kind(entry.kind),
        size: entry.size,
        mtime: shown(entry.mtime),
        result: word,
        error,
    }
}

fn put_back(settings: &RestoreSettings, root: &Root, runs: &[RunId], found: &[Trashed]) -> Result<ExitCode, Failure> {
    let id = run::new_run_id(run::now());
    let restore = Restore::new(root, &id, settings.force, settings.dry_run);
    let age = |entry: &Trashed| runs.iter().position(|run| *run == entry.run);
    let mut rows = Vec::new();
    let (mut done, mut occupied, mut failed) = (0_u64, 0_u64, 0_u64);
    let mut text = String::new();
    // Directories that came back whole, or did not.
    let mut wholes: Vec<(&Trashed, bool)> = Vec::new();
    for entry in found {
        let above: Vec<_> = wholes.iter().filter(|(whole, _)| entry.path.is_at_or_below(&whole.path)).collect();
        if above.iter().any(|(whole, _)| whole.run == entry.run) {
            continue;
        }
        // A version that is newer than the directory around it goes over the one that came with that.
        let over = above.iter().any(|(whole, came)| *came && age(whole) < age(entry));
        let result = restore.put_back(entry, over);
        if entry.whole && result != Restored::Merged {
            wholes.push((entry, matches!(result, Restored::Done | Restored::Replaced)));
        }
        let line = match &result {
            Restored::Done => "restore ",
            Restored::Replaced => "replace ",
            Restored::Merged => continue,
            Restored::Occupied => "occupied",
            Restored::Failed(_) => "failed  ",
        };
        match &result {
            Restored::Done | Restored::Replaced => done += 1,
            Restored::Merged => {}
            Restored::Occupied => occupied += 1,
            Restored::Failed(_) => failed += 1,
        }
        let cause = if let Restored::Failed(error) = &result { format!("  ({error})") } else { String::new() };
        text.push_str(&format!("{line}  {}{cause}\n", entry.path));
        if settings.output.format == OutputFormat::Json {
            rows.push(row(entry, Some(&result)));
        }
    }
    restore.settle().or_failure(FailureKind::Failed)?;
    if settings.output.format == OutputFormat::Json {
        print(&json_line(&rows)).or_failure(FailureKind::Failed)?;
    } else {
        let words = if settings.dry_run { "would be put back" } else { "put back" };
        text.push_str(&format!(
            "{} {words}, {} occupied, {} failed\n",
            grouped(done),
            grouped(occupied),
            grouped(failed)
        ));
        print(&text).or_failure(FailureKind::Failed)?;
    }
    if occupied + failed == 0 {
        return Ok(ExitCode::Success);
    }
    let failure = Failure::new(
        FailureKind::Partial,
        format!("{} of {} were not put back", occupied + failed, done + occupied + failed),
    );
    Err(match occupied {
        0 => failure,
        _ if settings.force => failure
            .hint("what a directory is in the way of, or what would have to be one, is never replaced: move it away"),
        _ => failure.hint("something is at their place; to replace it (it goes to the trash): --force"),
    })
}
