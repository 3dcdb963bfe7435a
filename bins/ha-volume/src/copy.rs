//! `ha-volume copy`, and `send`, which it runs on another host.

use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, json_line};
use ha_longhorn::copy::{self, CopyError, Map};
use ha_longhorn::watch::{Unwatched, Watch as _};
use ha_sync_fs::error::printable_path;
use serde_json::json;

use crate::arguments::CopyArguments;
use crate::ssh::{self, Remote};
use crate::work::Work;
use crate::{print, scan, source};

pub(crate) fn serve(arguments: &CopyArguments) -> Result<ExitCode, Failure> {
    let CopyArguments { directory, destination, remote_binary, quiet, output } = arguments;
    source::outside_replicas(destination)?;
    let work = Work::begin("copying", *quiet || output.output == OutputFormat::Json)?;
    let map = match Remote::parse(directory)? {
        Some(remote) => {
            let words = ["send".to_owned(), "--".to_owned(), remote.path.clone()];
            let (running, stdout) = ssh::start(&remote, remote_binary.as_deref(), &words)?;
            let received = copy::receive(&mut BufReader::with_capacity(1 << 20, stdout), destination, &work);
            match (received, running.wait()) {
                (Ok(map), Ok(())) => map,
                // What was said there is the cause of a stream that breaks off.
                (Err(CopyError::Stream(_)), Err(failure)) => return Err(failure),
                (Err(error), _) => return Err(failed(error, &work)),
                (Ok(_), Err(failure)) => return Err(failure),
            }
        }
        None => local(Path::new(directory), destination, &work)?,
    };
    work.end();
    let extents: usize = map.files.iter().map(|file| file.extents.len()).sum();
    let bytes: u64 = map.files.iter().flat_map(|file| &file.extents).map(|(start, end, _)| end - start).sum();
    let beside = printable_path(&copy::map_path(destination));
    match output.output {
        OutputFormat::Json => print(&json_line(&json!({
            "source": map.source, "destination": printable_path(destination), "map": beside,
            "files": map.files.len(), "extents": extents, "bytes": bytes, "verified": true,
        })))?,
        OutputFormat::Text if *quiet => {}
        OutputFormat::Text => print(&format!(
            "{}: {} files, {} in {} extents, verified\nmap {beside}\n",
            printable_path(destination),
            map.files.len(),
            human_bytes(bytes),
            grouped(extents as u64),
        ))?,
    }
    Ok(ExitCode::Success)
}

fn local(directory: &Path, destination: &Path, work: &Work) -> Result<Map, Failure> {
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
        (Ok(skipped), Ok(map)) => {
            scan::left_out(&skipped);
            Ok(map)
        }
        // Of two ends of a broken pipe the one that broke it tells the cause.
        (Err(CopyError::Stream(_)), Err(error)) | (Ok(_), Err(error)) => Err(failed(error, work)),
        (Err(error), _) => Err(failed(error, work)),
    }
}

fn failed(error: CopyError, work: &Work) -> Failure {
    if work.stopped() {
        return work.stopped_by().hint("the same command begins anew");
    }
    work.end();
    match &error {
        CopyError::Busy(_) => Failure::from_error(FailureKind::LockHeld, &error),
        CopyError::Exists(_) | CopyError::NoSpace { .. } | CopyError::Changed(_) => {
            Failure::from_error(FailureKind::Halted, &error)
        }
        _ => Failure::from_error(FailureKind::Failed, &error),
    }
}

/// Writes a replica directory to stdout.
pub(crate) fn send(directory: &Path) -> Result<ExitCode, Failure> {
    source::replica(directory, None)?;
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout());
    let skipped = copy::send(directory, &mut out, &Unwatched).or_failure(FailureKind::Failed)?;
    out.flush().or_failure(FailureKind::Failed)?;
    scan::left_out(&skipped);
    Ok(ExitCode::Success)
}
