//! The halts: what stops a run before it changes anything (sync.md §4).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ha_sync_core::decide::DeleteMissing;
use ha_sync_core::entry::{Entry, Kind};
use ha_sync_core::filter::{self, Filter};
use ha_sync_core::path::RelPath;
use ha_sync_fs::error::printable_path;
use ha_sync_fs::probe::Probe;
use ha_sync_fs::{FsError, Root, mounts};
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::job::Job;
use crate::state::PairState;

/// Says what was seen and what overrides it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{seen}")]
pub struct Halt {
    /// One sentence.
    pub seen: String,
    /// What to type, or to look at.
    pub hints: Vec<String>,
}

impl Halt {
    fn new(seen: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { seen: seen.into(), hints: vec![hint.into()] }
    }
}

/// Opens a root, or says why it is none.
pub(crate) fn open_root(side: &str, path: &Path, cross_mounts: bool) -> Result<Root, Halt> {
    Root::open(path, cross_mounts).map_err(|error| {
        let shown = printable_path(path);
        match error.errno() {
            Some(Errno::NOENT) => Halt::new(
                format!("{side} root is missing: {shown}"),
                format!("is it mounted? see: findmnt {shown}; else make it: mkdir -p {shown}"),
            ),
            Some(Errno::NOTDIR) => {
                Halt::new(format!("{side} root is not a directory: {shown}"), "name the directory that holds the files")
            }
            _ => Halt::new(
                format!("{side} root cannot be opened: {shown}: {}", error.cause),
                format!("see: ls -ld {shown}; findmnt -T {shown}"),
            ),
        }
    })
}

/// Halts when both roots are the same directory or one lies inside the other, by device and inode.
pub(crate) fn check_apart(job: &Job, source: &Root, destination: &Root) -> Result<(), Halt> {
    let [one_side, other_side] = job.sides();
    let article = if job.is_two_way() { "" } else { "the " };
    let identity = |entry: &Entry| (entry.device, entry.inode);
    let shown = || (printable_path(source.path()), printable_path(destination.path()));
    if identity(source.entry()) == identity(destination.entry()) {
        let (one, other) = shown();
        return Err(Halt::new(
            format!("{one_side} and {other_side} are the same directory: {one} and {other}"),
            "name two different directories",
        ));
    }
    for (inner, outer, words) in [
        (source, destination, format!("{one_side} lies inside {article}{other_side}")),
        (destination, source, format!("{other_side} lies inside {article}{one_side}")),
    ] {
        if is_inside(inner, identity(outer.entry())).unwrap_or(false) || mounts::is_inside(inner, outer) {
            let (one, other) = shown();
            return Err(Halt::new(
                format!("{words}: {one_side} {one}, {other_side} {other}"),
                "name two directories of which none holds the other",
            ));
        }
    }
    Ok(())
}

fn is_inside(root: &Root, outer: (u64, u64)) -> Result<bool, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let identity = |handle: &std::os::fd::OwnedFd| {
        let stat = rustix::fs::statx(handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok((u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor), stat.stx_ino))
    };
    let mut current = rustix::fs::openat(root, c".", flags, Mode::empty())?;
    let mut held = identity(&current)?;
    loop {
        current = rustix::fs::openat(&current, c"..", flags, Mode::empty())?;
        let above = identity(&current)?;
        if above == held {
            return Ok(false);
        }
        if above == outer {
            return Ok(true);
        }
        held = above;
    }
}

/// Halts on `--require-mount` when a root is no mount point.
pub(crate) fn check_mounted(side: &str, root: &Root) -> Result<(), Halt> {
    let stat = rustix::fs::statx(root, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    if stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
        return Ok(());
    }
    let shown = printable_path(root.path());
    Err(Halt {
        seen: format!("{side} root is not a mount point: {shown}"),
        hints: vec![format!("mount it, see: findmnt {shown}"), "or run without --require-mount".to_owned()],
    })
}

/// Halts on `--check-access` when the named file is not on both sides.
pub(crate) fn check_access(side: &str, root: &Root, file: &Path) -> Result<(), Halt> {
    let shown = printable_path(&root.path().join(file));
    let halt = |why: String| {
        Halt::new(
            format!("check file is not on the {side} side: {shown}{why}"),
            format!("is the right file system mounted there? if so: touch {shown}"),
        )
    };
    let path = RelPath::from_bytes(file.as_os_str().as_bytes().to_vec());
    let Some((directory, name)) = path.as_ref().and_then(|path| path.split()) else {
        return Err(halt(": not a relative path".to_owned()));
    };
    let found = root.open_dir(&directory).and_then(|directory| directory.find(name));
    match found {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(halt(String::new())),
        Err(error) => Err(halt(format!(": {}", error.cause))),
    }
}

/// Halts when a root is the log directory itself: what the run writes there cannot be told from the files.
pub(crate) fn check_log_directory(side: &str, root: &Root, own: &[(u64, u64)]) -> Result<(), Halt> {
    let entry = root.entry();
    if !own.contains(&(entry.device, entry.inode)) {
        return Ok(());
    }
    let shown = printable_path(root.path());
    Err(Halt::new(format!("{side} root is the log directory: {shown}"), "name another one: --log-dir DIR"))
}

/// Tells whether a root holds nothing to synchronise; `own` is what the run itself writes.
pub(crate) fn is_empty(root: &Root, filters: &[Filter], own: &[(u64, u64)]) -> Result<bool, FsError> {
    let top = root.open_dir(&RelPath::root())?;
    let listing = top.list()?;
    for index in 0..listing.len() {
        let name = listing.name(index);
        if filter::is_reserved_at_root(name)
            || filter::parse_temporary(name).is_some()
            || filter::is_nfs_placeholder(name)
        {
            continue;
        }
        let Some(entry) = top.find(name)? else { continue };
        let path = RelPath::root().join(name);
        let excluded = filters.iter().any(|filter| filter.excludes(&path, entry.kind == Kind::Directory));
        let own = own.contains(&(entry.device, entry.inode));
        if entry.kind != Kind::Special && !excluded && !own {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Halts when a root that had entries is empty, or, without history, when deletions would empty the destination.
pub(crate) fn check_emptied(
    job: &Job,
    state: &PairState,
    source: (&Root, bool),
    destination: (&Root, bool),
) -> Result<(), Halt> {
    if job.allow_empty_root {
        return Ok(());
    }
    let hint = "if it is meant to be empty: --allow-empty-root; else see whether it is mounted: findmnt -T ";
    for (side, (root, empty)) in job.sides().into_iter().zip([source, destination]) {
        if empty && state.had_entries(root.path()) {
            let shown = printable_path(root.path());
            return Err(Halt::new(
                format!("{side} root is empty and had entries at the last run: {shown}"),
                format!("{hint}{shown}"),
            ));
        }
    }
    // A two-way run without a baseline deletes nothing, and with one a root had entries.
    let deletes = job.delete != DeleteMissing::Off && !job.is_two_way();
    if deletes && source.1 && !destination.1 && !state.knows(source.0.path()) {
        let shown = printable_path(source.0.path());
        return Err(Halt::new(
            format!("source root is empty, the destination is not, and --delete-missing is on: {shown}"),
            format!("{hint}{shown}"),
        ));
    }
    Ok(())
}

/// Halts when the clocks that set the two sides' times are too far apart.
pub(crate) fn check_clocks(job: &Job, source: &Probe, destination: &Probe) -> Result<(), Halt> {
    let (Some((source_time, source_at)), Some((destination_time, destination_at))) = (source.clock, destination.clock)
    else {
        return Ok(());
    };
    // The two were asked one after the other: what passed in between is no skew.
    let between = destination_at.saturating_duration_since(source_at).as_nanos() as i128
        - source_at.saturating_duration_since(destination_at).as_nanos() as i128;
    let skew = destination_time.0 - source_time.0 - between;
    // Kernels stamp files with a clock that ticks every few milliseconds.
    let tolerance = job.threshold.max(50_000_000) + source.granularity.max(destination.granularity);
    if job.allow_clock_skew || skew.abs() <= tolerance {
        return Ok(());
    }
    let seconds = skew as f64 / 1e9;
    let [subtrahend, minuend] = job.sides();
    Err(Halt {
        seen: format!("the clocks of the two sides are {seconds:.1} s apart ({minuend} minus {subtrahend})"),
        hints: vec![
            "set the clocks of the servers, see: timedatectl".to_owned(),
            "or accept it, newest wins by wrong clocks then: --allow-clock-skew".to_owned(),
        ],
    })
}

/// Halts when more would be deleted on a side than `--max-delete` allows and the set was not approved; tells whether the
/// approval was needed.
pub(crate) fn check_deletes(job: &Job, deletes: [u64; 2], entries: [u64; 2], id: &str) -> Result<bool, Halt> {
    let mut seen = Vec::new();
    for ((side, deletes), entries) in job.sides().into_iter().zip(deletes).zip(entries) {
        if job.max_delete.exceeded(deletes, entries) {
            let share = if entries == 0 { 0.0 } else { deletes as f64 * 100.0 / entries as f64 };
            let article = if job.is_two_way() { "" } else { "the " };
            seen.push(format!(
                "{deletes} of {entries} entries of {article}{side} would be deleted ({share:.1} %), the limit is {}",
                job.max_delete
            ));
        }
    }
    if seen.is_empty() {
        return Ok(false);
    }
    if job.approve.as_deref() == Some(id) {
        return Ok(true);
    }
    Err(Halt {
        seen: format!("{}; id {id}", seen.join(", and ")),
        hints: vec![
            "see what it is: --dry-run".to_owned(),
            format!("let exactly this set through once: --approve {id}"),
            "or raise the limit: --max-delete 100%".to_owned(),
        ],
    })
}
