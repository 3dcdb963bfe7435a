//! `ha-volume ls`, `cat` and `extract`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::printable;
use ha_cli::summary::{OutputFormat, grouped, human_bytes, ignore_closed, json_line};
use ha_cli::table::{Align, Table};
use ha_longhorn::checksum::Verify;
use ha_longhorn::extract::{self, ExtractError};
use ha_longhorn::files::{Entry, Files, FilesError, Kind};
use ha_longhorn::layered;
use ha_longhorn::source::Stamp;
use ha_sync_fs::error::printable_path;
use serde_json::{Value, json};

use crate::arguments::{CatArguments, ExtractArguments, ListArguments, SourceArguments};
use crate::source::{self, word};
use crate::work::{self, Work};
use crate::{merge, print};

type Stamps = Vec<(PathBuf, Stamp)>;

/// Opens the file system of a source, and tells whether the source is damaged, and what its files were like.
fn open(path: &Path, arguments: &SourceArguments, verify: Verify) -> Result<(Files, bool, Stamps), Failure> {
    let opened = source::open(path, arguments, verify)?;
    source::need_ext4(path, &opened)?;
    merge::warn_of_journal(&opened);
    let damaged = opened.damaged || opened.source.best_effort;
    let stamps = layered::stamps(&*opened.image);
    let files = Files::open(opened.image).or_failure(FailureKind::Failed).map_err(|failure| {
        failure.hint(format!("let e2fsck look at a copy: ha-volume fsck --replay {} -o COPY", word(path)))
    })?;
    Ok((files, damaged, stamps))
}

fn failed(error: &FilesError, path: &Path) -> Failure {
    let failure = Failure::from_error(FailureKind::Failed, error);
    if error.is_not_found() { failure.hint(format!("ha-volume ls -R {}", word(path))) } else { failure }
}

fn code(damaged: bool) -> ExitCode {
    if damaged { ExitCode::Partial } else { ExitCode::Success }
}

pub(crate) fn list(arguments: &ListArguments) -> Result<ExitCode, Failure> {
    let ListArguments { path, inside, recursive, source: how, output } = arguments;
    let (files, mut damaged, stamps) = open(path, how, Verify::Nothing)?;
    let inside = inside.as_os_str().as_bytes();
    let top = files.entry(inside).map_err(|error| failed(&error, path))?;
    let mut entries = Vec::new();
    if top.kind != Kind::Directory {
        entries.push(top);
    } else if *recursive {
        let mut unread = Vec::new();
        let walked: Result<(), std::convert::Infallible> = files.walk(
            inside,
            &mut |entry| {
                if entry.path != top.path {
                    entries.push(entry.clone());
                }
                Ok(())
            },
            &mut |error| unread.push(error),
        );
        match walked {
            Ok(()) => {}
        }
        for error in &unread {
            work::note("warning", &Failure::from_error(FailureKind::Failed, error).one_line());
        }
        damaged |= !unread.is_empty();
    } else {
        entries = files.list(inside).map_err(|error| failed(&error, path))?;
    }
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
    Ok(code(damaged))
}

fn object(entry: &Entry) -> Value {
    json!({
        "path": ha_longhorn::files::printable(&entry.path),
        "kind": entry.kind,
        "bytes": entry.length,
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "modified": jiff::Timestamp::new(entry.modified.0, i32::try_from(entry.modified.1).unwrap_or(0)).ok(),
        "target": entry.target.as_deref().map(ha_longhorn::files::printable),
    })
}

fn row(entry: &Entry) -> [String; 5] {
    let kind = match entry.kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Link => 'l',
        Kind::Special => 's',
    };
    let mut rights = String::from(kind);
    for shift in [6, 3, 0] {
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            rights.push(if entry.mode >> shift & bit != 0 { letter } else { '-' });
        }
    }
    let mut path = ha_longhorn::files::printable(&entry.path);
    if let Some(target) = &entry.target {
        path = format!("{path} -> {}", ha_longhorn::files::printable(target));
    }
    let time = jiff::Timestamp::from_second(entry.modified.0).ok();
    [rights, format!("{}:{}", entry.uid, entry.gid), entry.length.to_string(), crate::render::time(time), path]
}

pub(crate) fn cat(arguments: &CatArguments) -> Result<ExitCode, Failure> {
    let CatArguments { path, inside, source: how } = arguments;
    let (files, damaged, stamps) = open(path, how, Verify::Nothing)?;
    let mut out = std::io::stdout();
    match files.copy(inside.as_os_str().as_bytes(), &mut out) {
        Ok(_) => {}
        Err(FilesError::Write { cause, .. }) => ignore_closed(Err(cause)).or_failure(FailureKind::Failed)?,
        Err(error) => return Err(failed(&error, path)),
    }
    ignore_closed(std::io::Write::flush(&mut out)).or_failure(FailureKind::Failed)?;
    source::unchanged(&stamps)?;
    Ok(code(damaged))
}

pub(crate) fn extract(arguments: &ExtractArguments) -> Result<ExitCode, Failure> {
    let ExtractArguments { path, inside, destination, source: how, output } = arguments;
    source::outside_replicas(destination)?;
    if ha_sync_fs::local::exists(destination) {
        let message = format!("there is something already: {}", printable_path(destination));
        return Err(Failure::new(FailureKind::Halted, message).hint("name a path at which nothing is"));
    }
    let (files, damaged, stamps) = open(path, how, Verify::Fresh)?;
    let work = Work::begin("extracting", output.output == OutputFormat::Json)?;
    let owners = rustix::process::geteuid().is_root();
    let done = extract::extract(&files, inside.as_os_str().as_bytes(), destination, owners, &work);
    let done = match done {
        Ok(done) => done,
        Err(ExtractError::Stopped) => {
            let part = printable_path(&extract::part_path(destination));
            return Err(work.stopped_by().hint(format!("what is there so far: {part}")));
        }
        Err(error @ ExtractError::Exists(_)) => {
            work.end();
            return Err(Failure::from_error(FailureKind::Halted, &error).hint(
                "name a path at which nothing is; what ends in .ha-volume.part an interrupted extraction has left",
            ));
        }
        Err(ExtractError::Files(error)) => return Err(failed(&error, path)),
        Err(error) => return Err(Failure::from_error(FailureKind::Failed, &error)),
    };
    work.end();
    source::unchanged(&stamps)?;
    match output.output {
        OutputFormat::Json => print(&json_line(&done))?,
        OutputFormat::Text => {
            print(&format!(
                "{}: {} entries, {}\n",
                printable_path(destination),
                grouped(done.entries),
                human_bytes(done.bytes)
            ))?;
            work.note("extended attributes, ACLs and hard links are not carried over; mount the merged image for them");
            for name in &done.skipped {
                work::note("warning", &format!("left out, being a special file: {}", printable(name)));
            }
            for line in &done.failed {
                work::note("warning", line);
            }
        }
    }
    Ok(code(damaged || !done.failed.is_empty()))
}
