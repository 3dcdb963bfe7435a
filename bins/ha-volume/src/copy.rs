//! `ha-volume copy`, and `send`, which it runs on another host.

use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, json_line};
use ha_longhorn::copy::{self, Copied, CopyError, Planned};
use ha_longhorn::watch::{Unwatched, Watch as _};
use ha_sync_fs::error::printable_path;
use serde_json::json;

use crate::arguments::CopyArguments;
use crate::source::word;
use crate::ssh::{self, Remote};
use crate::work::Work;
use crate::{print, scan, source, work};

pub(crate) fn serve(arguments: &CopyArguments) -> Result<ExitCode, Failure> {
    let CopyArguments { directory, destination, remote_binary, dry_run, quiet, output } = arguments;
    source::outside_replicas(destination)?;
    let remote = Remote::parse(directory)?;
    if *dry_run {
        return match remote {
            Some(_) => Err(Failure::new(FailureKind::Usage, "--dry-run does not look at a replica on another host")
                .hint(format!("ha-volume scan {}", word(Path::new(directory))))),
            None => dry(Path::new(directory), destination, output.output),
        };
    }
    let work = Work::begin("copying", *quiet || output.output == OutputFormat::Json)?;
    let copied = match &remote {
        Some(remote) => fetched(remote, remote_binary.as_deref(), destination, &work)?,
        None => local(Path::new(directory), destination, &work)?,
    };
    work.end();
    let Copied { source, files, extents, bytes } = copied;
    let beside = printable_path(&copy::map_path(destination));
    match output.output {
        OutputFormat::Json => print(&json_line(&json!({
            "source": source, "destination": printable_path(destination), "map": beside,
            "files": files, "extents": extents, "bytes": bytes, "verified": true,
        })))?,
        OutputFormat::Text if *quiet => {}
        OutputFormat::Text => print(&format!(
            "{}: {} files, {} in {} extents, verified\nmap {beside}\n",
            printable_path(destination),
            grouped(files),
            human_bytes(bytes),
            grouped(extents),
        ))?,
    }
    Ok(ExitCode::Success)
}

/// Says what would be copied.
fn dry(directory: &Path, destination: &Path, format: OutputFormat) -> Result<ExitCode, Failure> {
    source::replica(directory, None)?;
    let planned = copy::check(directory, destination).map_err(|error| failure(&error))?;
    let (shown, beside) = (printable_path(destination), printable_path(&copy::map_path(destination)));
    let Planned { files, extents, bytes, skipped } = planned;
    scan::left_out(&skipped);
    print(&match format {
        OutputFormat::Json => json_line(&json!({
            "dry_run": true, "source": printable_path(directory), "destination": shown, "map": beside,
            "files": files, "extents": extents, "bytes": bytes,
        })),
        OutputFormat::Text => format!(
            "{shown} would be made: {} files, {} in {} extents, and their map {beside}\n",
            grouped(files),
            human_bytes(bytes),
            grouped(extents),
        ),
    })?;
    Ok(ExitCode::Success)
}

/// Copies a replica directory of another host.
fn fetched(remote: &Remote, binary: Option<&Path>, destination: &Path, work: &Work) -> Result<Copied, Failure> {
    copy::vacant(destination).map_err(|error| failed(&error, work))?;
    let words = ["send".into(), "--".into(), remote.path.clone()];
    let (running, printed) = ssh::start(remote, binary, &words, work)?;
    let received = copy::receive(&mut BufReader::with_capacity(1 << 20, printed), destination, work);
    match received {
        Ok(copied) => {
            // The copy is whole and verified, however it ended there.
            if let Err(failure) = running.wait(&[0]) {
                work::note("warning", &failure.one_line());
            }
            Ok(Copied { source: format!("ssh://{}{}", remote.authority, copied.source), ..copied })
        }
        // What was said there is the cause of a stream that breaks off.
        Err(CopyError::Stream(_)) if !work.stopped() => {
            let failure = running.wait(&[]).err();
            work.end();
            Err(failure.unwrap_or_else(|| Failure::new(FailureKind::Failed, "the copy broke off")))
        }
        Err(error) => Err(failed(&error, work)),
    }
}

fn local(directory: &Path, destination: &Path, work: &Work) -> Result<Copied, Failure> {
    source::replica(directory, None)?;
    let (reader, writer) = std::io::pipe().or_failure(FailureKind::Failed)?;
    let (sent, received) = std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            // The receiver follows the work; it would count twice.
            let mut out = BufWriter::with_capacity(1 << 20, writer);
            copy::send(directory, &mut out, &Unwatched)
        });
        let received = copy::receive(&mut BufReader::with_capacity(1 << 20, reader), destination, work);
        (sender.join(), received)
    });
    let sent = sent.unwrap_or(Err(CopyError::Format("the sender panicked")));
    match (sent, received) {
        (Ok(skipped), Ok(copied)) => {
            scan::left_out(&skipped);
            Ok(copied)
        }
        // Of two ends of a broken pipe the one that broke it tells the cause.
        (Err(CopyError::Stream(_)), Err(error)) | (Ok(_), Err(error)) => Err(failed(&error, work)),
        (Err(error), _) => Err(failed(&error, work)),
    }
}

fn failed(error: &CopyError, work: &Work) -> Failure {
    if work.stopped() {
        return work.stopped_by().hint("the same command begins anew");
    }
    work.end();
    failure(error)
}

fn failure(error: &CopyError) -> Failure {
    let kind = match error {
        CopyError::Busy(_) => FailureKind::LockHeld,
        CopyError::Exists(_) | CopyError::NoSpace { .. } | CopyError::Changed(_) => FailureKind::Halted,
        _ => FailureKind::Failed,
    };
    Failure::from_error(kind, error)
}

/// Writes a replica directory to stdout.
pub(crate) fn send(directory: &Path) -> Result<ExitCode, Failure> {
    source::replica(directory, None)?;
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout());
    let skipped = copy::send(directory, &mut out, &Unwatched).map_err(|error| failure(&error))?;
    out.flush().or_failure(FailureKind::Failed)?;
    scan::left_out(&skipped);
    Ok(ExitCode::Success)
}
