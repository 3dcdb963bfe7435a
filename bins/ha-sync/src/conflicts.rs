//! `ha-sync conflicts`: what both sides changed and nobody has decided, and its decision.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_audit::store::Store;
use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, human_bytes, ignore_closed, json_line, print};
use ha_cli::table::{Align, Table};
use ha_sync_core::entry::Kind;
use ha_sync_core::path::{RelPath, unescape};
use ha_sync_core::reconcile::ConflictPolicy;
use ha_sync_engine::Mode;
use ha_sync_engine::conflicts::{self, Conflict, Version};
use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, Root};
use serde_json::{Value, json};

use crate::restore::{kind, relative, shown};
use crate::settings::{AuditMd5, Compare, ConflictsSettings, Delete, Fsync, Keep, PairSettings};
use crate::settings::{Resolution, Safety, Settings};
use crate::{records, run};

/// Is the label, in the records, of a run that decides one conflict.
pub(crate) const RESOLVE: &str = "resolve";

/// Lists the open conflicts, or decides one.
pub(crate) fn serve(settings: &ConflictsSettings) -> Result<ExitCode, Failure> {
    let open = load(&settings.pair)?;
    match &settings.resolve {
        None => list(&settings.pair, &open),
        Some(resolution) => resolve(&settings.pair, resolution, &open),
    }
}

fn list(settings: &PairSettings, open: &[Conflict]) -> Result<ExitCode, Failure> {
    if settings.output.format == OutputFormat::Json {
        let rows: Vec<Value> = open.iter().map(document).collect();
        print(&json_line(&rows)).or_failure(FailureKind::Failed)?;
    } else if open.is_empty() {
        print("no conflict is open\n").or_failure(FailureKind::Failed)?;
    } else {
        let mut table = Table::new([Align::Left; 4]);
        table.row(["a", "b", "since", "path"]);
        for conflict in open {
            let since = format!("{:.0}", conflict.since);
            table.row([version(&conflict.a), version(&conflict.b), since, conflict.path().to_string()]);
        }
        ignore_closed(table.write(&mut std::io::stdout().lock())).or_failure(FailureKind::Failed)?;
    }
    Ok(ExitCode::Success)
}

fn resolve(settings: &PairSettings, resolution: &Resolution, open: &[Conflict]) -> Result<ExitCode, Failure> {
    let pair = &settings.pair;
    let see = format!("see what is open: ha-sync conflicts --pair {pair}");
    let path = relative(&resolution.path).map_err(|failure| failure.hint(&see))?;
    let Some(conflict) = open.iter().find(|conflict| conflict.path() == path) else {
        return Err(Failure::new(FailureKind::Failed, format!("no conflict is open at this path: {path}")).hint(see));
    };
    let directory = |version: &Version| version.kind == Kind::Directory;
    let policy = match resolution.keep {
        Keep::A => ConflictPolicy::PreferA,
        Keep::B => ConflictPolicy::PreferB,
        Keep::Both => ConflictPolicy::KeepBoth,
    };
    let loses = match resolution.keep {
        Keep::A => directory(&conflict.b) && !directory(&conflict.a),
        Keep::B => directory(&conflict.a) && !directory(&conflict.b),
        Keep::Both => false,
    };
    if loses {
        return Err(Failure::new(FailureKind::Usage, format!("a directory gives way to nothing else: {path}"))
            .hint("keep both, and the other one stays beside it: --keep both"));
    }
    let (a, b) = match &resolution.roots {
        Some((a, b)) => (a.clone(), b.clone()),
        None => roots(settings, conflict)?,
    };
    for (root, seen) in [(&a, &conflict.a), (&b, &conflict.b)] {
        if !still(root, &path, seen).or_failure(FailureKind::Failed)? {
            let shown = printable_path(root);
            return Err(Failure::new(FailureKind::Failed, format!("changed since it was listed: {path} in {shown}"))
                .hint("the next two-way run of the pair looks at it anew"));
        }
    }
    let direction = RESOLVE.parse().or_failure(FailureKind::Failed)?;
    run::run(&Settings {
        mode: Mode::TwoWay(policy),
        only: Some(path),
        src: a,
        dest: b,
        pair: pair.clone(),
        whole: pair.clone(),
        shard: None,
        direction,
        records: settings.records.clone(),
        log_retain_days: 10,
        compare: Compare {
            mtime_threshold: Duration::from_secs(2),
            checksum: false,
            hard_links: false,
            // Wherever the conflict was found.
            cross_mounts: true,
        },
        filters: Vec::new(),
        delete: Delete::Off,
        delete_excluded: false,
        safety: Safety {
            max_delete: None,
            approve: None,
            allow_empty_root: false,
            allow_missing_mounts: false,
            // A person has decided, not a clock.
            allow_clock_skew: true,
            require_mount: false,
            check_access: None,
            min_free: None,
        },
        // Nothing is pruned by this run; how long its trash stays, the next one of the pair says.
        keep_replaced_days: 7,
        fsync: Fsync::Batch,
        audit_md5: AuditMd5::Auto,
        lock: resolution.lock.clone(),
        walkers: Some(1),
        workers: 1,
        dry_run: resolution.dry_run,
        output: settings.output,
    })
}

/// Returns the roots of the run that found a conflict: A, B.
fn roots(settings: &PairSettings, conflict: &Conflict) -> Result<(PathBuf, PathBuf), Failure> {
    let (log_directory, _) = records::log_directory(&settings.records)?;
    let dsn = records::dsn(&settings.records, &log_directory)?;
    let name_them = "name them: --a DIR --b DIR";
    let rows = Store::open_read_only(&dsn, records::CONNECT_TIMEOUT)
        .and_then(|store| store.iterations(Some(&settings.pair), u32::MAX))
        .or_failure(FailureKind::Failed)
        .map_err(|failure| failure.context("the roots of the pair are not known").hint(name_them))?;
    let found = rows.iter().find(|row| row.run_id.as_deref() == Some(conflict.run_id.as_str()));
    let root = |text: &str| {
        let bytes = unescape(text).unwrap_or_default();
        PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
    };
    found.map(|row| (root(&row.src), root(&row.dest))).ok_or_else(|| {
        let run = &conflict.run_id;
        Failure::new(FailureKind::Failed, format!("the records do not have the run that found the conflict: {run}"))
            .hint(name_them)
    })
}

/// Tells whether a version still is what a root has at a path.
fn still(root: &Path, path: &RelPath, seen: &Version) -> Result<bool, FsError> {
    let root = Root::open(root, true)?;
    let Some((directory, name)) = path.split() else { return Ok(false) };
    Ok(root.open_dir(&directory)?.find(name)?.is_some_and(|now| seen.is(&now)))
}

/// Reads the open conflicts of a pair.
pub(crate) fn load(settings: &PairSettings) -> Result<Vec<Conflict>, Failure> {
    let (log_directory, _) = records::log_directory(&settings.records)?;
    conflicts::load(&log_directory, &settings.pair)
        .or_failure(FailureKind::Failed)
        .map_err(|failure| failure.hint("the next two-way run of the pair writes the list anew"))
}

fn version(version: &Version) -> String {
    match version.kind {
        Kind::File => format!("{} {}", human_bytes(version.size), shown(version.mtime)),
        other => format!("{} {}", kind(other), shown(version.mtime)),
    }
}

fn document(conflict: &Conflict) -> Value {
    json!({
        "path": conflict.path().escaped(), "a": side(&conflict.a), "b": side(&conflict.b),
        "since": conflict.since.to_string(), "run_id": conflict.run_id,
    })
}

fn side(version: &Version) -> Value {
    let mtime = jiff::Timestamp::from_nanosecond(version.mtime.0);
    json!({
        "kind": kind(version.kind), "size": version.size, "mtime": mtime.ok().map(|time| time.to_string()),
        "mode": format!("{:04o}", version.mode), "uid": version.uid, "gid": version.gid, "md5": version.md5,
    })
}
