//! `ha-volume ls`, `cat` and `extract`.

use std::io::{self, BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::LogFormat;
use ha_cli::summary::{OutputFormat, grouped, human_bytes, ignore_closed, json_line};
use ha_cli::table::{Align, Table};
use ha_longhorn::checksum::Verify;
use ha_longhorn::extract::{self, ExtractError, Planned};
use ha_longhorn::files::{Entry, Files, FilesError, Kind};
use ha_longhorn::inside::Inside;
use ha_longhorn::layered;
use ha_longhorn::source::Stamp;
use ha_sync_fs::error::printable_path;
use serde_json::{Value, json};

use crate::arguments::{CatArguments, ExtractArguments, ListArguments, SourceArguments};
use crate::source::{self, word};
use crate::work::{self, Work};
use crate::{merge, print};

type Stamps = Vec<(PathBuf, Stamp)>;

/// How many lines of one kind the text lists.
const MOST_LINES: usize = 20;

/// Is an open file system with what was found on the way.
struct Open {
    files: Files,
    /// Whether the source or the file system is damaged.
    damaged: bool,
    stamps: Stamps,
}

/// Opens the file system of a source.
fn open(path: &Path, arguments: &SourceArguments, verify: Verify) -> Result<Open, Failure> {
    let opened = source::open(path, arguments, verify)?;
    source::need_ext4(path, &opened)?;
    merge::warn_of_journal(&opened);
    let damaged = opened.damaged || opened.source.best_effort;
    let stamps = layered::stamps(&*opened.image);
    let dirty = matches!(opened.inside, Inside::Ext4 { needs_recovery: true, .. });
    let files = Files::open(opened.image).map_err(|error| not_opened(&error, path, dirty))?;
    let lossy = warn_of_losses(&files);
    Ok(Open { files, damaged: damaged || lossy, stamps })
}

/// Tells what may be missing, and whether anything may be.
fn warn_of_losses(files: &Files) -> bool {
    let losses = files.notes().iter().filter(|note| note.is_loss());
    losses.map(|note| work::note("warning", &note.to_string())).count() > 0
}

/// Says what else reads a file system that is not read here.
pub(crate) fn not_opened(error: &FilesError, path: &Path, dirty: bool) -> Failure {
    let failure = Failure::from_error(FailureKind::Failed, error);
    let image = "volume.img";
    let merged = failure.hint(format!("ha-volume merge {} -o {image}", word(path)));
    match error.is_declined() {
        true => merged
            .hint(format!("as root, where the kernel knows it: mount -o loop,ro {image} /mnt"))
            .hint(format!("without a mount: debugfs {image}")),
        false if dirty => merged.hint(format!("on the copy, which it changes: e2fsck -f {image}")),
        false => merged.hint(format!("what is damaged: e2fsck -f -n {image}")),
    }
}

fn failed(error: &FilesError, path: &Path) -> Failure {
    let failure = Failure::from_error(FailureKind::Failed, error);
    if error.is_not_found() {
        failure.hint(format!("ha-volume ls -R {}", word(path)))
    } else if error.is_encrypted() {
        failure
            .hint(format!("ha-volume merge {} -o volume.img", word(path)))
            .hint("as root: mount -o loop,ro volume.img /mnt && fscrypt unlock /mnt/DIRECTORY")
    } else {
        failure
    }
}

fn code(damaged: bool) -> ExitCode {
    if damaged { ExitCode::Partial } else { ExitCode::Success }
}

pub(crate) fn list(arguments: &ListArguments) -> Result<ExitCode, Failure> {
    let ListArguments { path, inside, recursive, source: how, output } = arguments;
    let Open { files, damaged, stamps } = open(path, how, Verify::Nothing)?;
    let top = files.entry(inside.as_os_str().as_bytes()).map_err(|error| failed(&error, path))?;
    let mut unread = Vec::new();
    if *recursive && top.kind == Kind::Directory {
        let written = tree(&files, &top, output.output, &mut unread);
        ignore_closed(written).or_failure(FailureKind::Failed)?;
        if let Err(failure) = source::unchanged(&stamps) {
            // It was answered; a second object would follow.
            failure.print(LogFormat::Text);
            return Ok(ExitCode::Failed);
        }
        return Ok(told(damaged, &unread));
    }
    let entries = if top.kind == Kind::Directory {
        let listing = files.list(&top).map_err(|error| failed(&error, path))?;
        unread = listing.failed;
        listing.entries
    } else {
        vec![top]
    };
    source::unchanged(&stamps)?;
    match output.output {
        OutputFormat::Json => print(&json_line(&entries.iter().map(object).collect::<Vec<_>>()))?,
        OutputFormat::Text => {
            let mut table = Table::new([Align::Left, Align::Right, Align::Right, Align::Left, Align::Left]);
            for entry in &entries {
                table.row(row(entry));
            }
            let mut text = Vec::new();
            table.write(&mut text).or_failure(FailureKind::Failed)?;
            print(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(told(damaged, &unread))
}

/// Names what could not be read, and returns the exit code.
fn told(damaged: bool, unread: &[FilesError]) -> ExitCode {
    for error in unread {
        work::note("warning", &Failure::from_error(FailureKind::Failed, error).one_line());
    }
    code(damaged || !unread.is_empty())
}

/// Writes all below a directory as it is found: there may be millions of entries.
fn tree(files: &Files, top: &Entry, format: OutputFormat, unread: &mut Vec<FilesError>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let json = format == OutputFormat::Json;
    let mut between = "[";
    let each = &mut |entry: &Entry| {
        if entry.path == top.path {
            return Ok(true);
        }
        if json {
            write!(out, "{}{}", std::mem::replace(&mut between, ","), object(entry))?;
        } else {
            let [rights, owner, size, time, path] = row(entry);
            writeln!(out, "{rights}  {owner:>11}  {size:>13}  {time:<20}  {path}")?;
        }
        Ok::<_, io::Error>(true)
    };
    files.walk(top, each, &mut |error| unread.push(error))?;
    if json {
        out.write_all(if between == "[" { b"[]\n" } else { b"]\n" })?;
    }
    out.flush()
}

fn object(entry: &Entry) -> Value {
    let inode = &entry.inode;
    let modified = inode.modified();
    json!({
        "path": ha_longhorn::files::printable(&entry.path),
        "kind": entry.kind,
        "inode": inode.number(),
        "links": inode.links(),
        "bytes": inode.size(),
        "mode": format!("{:04o}", inode.mode()),
        "uid": inode.uid(),
        "gid": inode.gid(),
        "modified": jiff::Timestamp::new(modified.seconds, i32::try_from(modified.nanoseconds).unwrap_or(0)).ok(),
        "target": entry.target.as_deref().map(ha_longhorn::files::printable),
    })
}

fn row(entry: &Entry) -> [String; 5] {
    let inode = &entry.inode;
    let kind = match entry.kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Link => 'l',
        Kind::Special => 's',
    };
    let mut rights = String::from(kind);
    for shift in [6, 3, 0] {
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            rights.push(if inode.mode() >> shift & bit != 0 { letter } else { '-' });
        }
    }
    let mut path = ha_longhorn::files::printable(&entry.path);
    if let Some(target) = &entry.target {
        path = format!("{path} -> {}", ha_longhorn::files::printable(target));
    }
    let time = jiff::Timestamp::from_second(inode.modified().seconds).ok();
    [rights, format!("{}:{}", inode.uid(), inode.gid()), inode.size().to_string(), crate::render::time(time), path]
}

pub(crate) fn cat(arguments: &CatArguments) -> Result<ExitCode, Failure> {
    let CatArguments { path, inside, source: how } = arguments;
    let Open { files, damaged, stamps } = open(path, how, Verify::Nothing)?;
    let mut out = std::io::stdout();
    let entry = files.entry_behind(inside.as_os_str().as_bytes()).map_err(|error| failed(&error, path))?;
    match files.copy(&entry, &mut out) {
        Ok(_) => {}
        Err(FilesError::Write { cause, .. }) => ignore_closed(Err(cause)).or_failure(FailureKind::Failed)?,
        Err(error) => return Err(failed(&error, path)),
    }
    ignore_closed(std::io::Write::flush(&mut out)).or_failure(FailureKind::Failed)?;
    source::unchanged(&stamps)?;
    Ok(code(damaged))
}

pub(crate) fn extract(arguments: &ExtractArguments) -> Result<ExitCode, Failure> {
    let ExtractArguments { path, inside, destination, dry_run, source: how, output } = arguments;
    source::outside_replicas(destination)?;
    if ha_sync_fs::local::exists(destination) {
        let message = format!("there is something already: {}", printable_path(destination));
        return Err(Failure::new(FailureKind::Halted, message).hint("name a path at which nothing is"));
    }
    let Open { files, damaged, stamps } = open(path, how, Verify::Fresh)?;
    let work = Work::begin("extracting", output.output == OutputFormat::Json)?;
    let inside = inside.as_os_str().as_bytes();
    if *dry_run {
        let checked = extract::check(&files, inside, destination, &work);
        work.end();
        let (_, planned) = match checked {
            Err(ExtractError::Stopped) => return Err(work.stopped_by()),
            other => other.map_err(|error| not_extracted(error, path, destination))?,
        };
        source::unchanged(&stamps)?;
        return planned_extraction(&planned, destination, output.output, damaged);
    }
    let owners = rustix::process::geteuid().is_root();
    let done = extract::extract(&files, &stamps, inside, destination, owners, &work);
    work.end();
    let done = match done {
        Ok(done) => done,
        Err(ExtractError::Stopped) => {
            let part = printable_path(&extract::part_path(destination));
            return Err(work.stopped_by().hint(format!("what is there so far: {part}")));
        }
        Err(error) => return Err(not_extracted(error, path, destination)),
    };
    match output.output {
        OutputFormat::Json => print(&json_line(&done))?,
        OutputFormat::Text => {
            print(&format!(
                "{}: {} entries, {}\n",
                printable_path(destination),
                grouped(done.entries),
                human_bytes(done.bytes)
            ))?;
            list_lines("warning", "left out, being a special file: ", &done.skipped);
            list_lines("note", "the destination does not take it: ", &done.attributes_left_out);
            list_lines("warning", "", &done.failed);
        }
    }
    Ok(code(damaged || !done.failed.is_empty()))
}

/// Says why nothing was extracted, or not all.
fn not_extracted(error: ExtractError, path: &Path, destination: &Path) -> Failure {
    match error {
        error @ ExtractError::Changed(_) => {
            let part = printable_path(&extract::part_path(destination));
            Failure::from_error(FailureKind::Failed, &error)
                .hint("something writes to the replica: stop the volume or k3s on this node, then try again")
                .hint(format!("what is there so far may be of two states: {part}"))
        }
        error @ ExtractError::Exists(_) => Failure::from_error(FailureKind::Halted, &error)
            .hint("name a path at which nothing is; what ends in .ha-volume.part an interrupted extraction has left"),
        error @ (ExtractError::NoSpace { .. } | ExtractError::Full { .. }) => {
            let kind =
                if matches!(error, ExtractError::Full { .. }) { FailureKind::Failed } else { FailureKind::Halted };
            let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Failure::from_error(kind, &error).hint(format!("df -h {}", word(parent)))
        }
        ExtractError::Files(error) => failed(&error, path),
        error => Failure::from_error(FailureKind::Failed, &error),
    }
}

/// Says what would be extracted.
fn planned_extraction(
    planned: &Planned,
    destination: &Path,
    format: OutputFormat,
    damaged: bool,
) -> Result<ExitCode, Failure> {
    let shown = printable_path(destination);
    let Planned { entries, bytes, skipped, failed } = planned;
    match format {
        OutputFormat::Json => print(&json_line(&json!({
            "dry_run": true, "destination": shown, "entries": entries, "bytes": bytes, "skipped": skipped,
            "failed": failed,
        })))?,
        OutputFormat::Text => {
            print(&format!("{shown} would be made: {} entries, {}\n", grouped(*entries), human_bytes(*bytes)))?;
            list_lines("warning", "would be left out, being a special file: ", skipped);
            list_lines("warning", "", failed);
        }
    }
    Ok(code(damaged || !failed.is_empty()))
}

/// Tells a number of lines of one kind.
fn list_lines(label: &str, what: &str, lines: &[String]) {
    for line in lines.iter().take(MOST_LINES) {
        work::note(label, &format!("{what}{line}"));
    }
    if let Some(more) = lines.len().checked_sub(MOST_LINES).filter(|more| *more > 0) {
        work::note(label, &format!("{what}{more} more (-o json lists them)"));
    }
}
