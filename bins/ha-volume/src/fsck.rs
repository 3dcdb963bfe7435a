//! `ha-volume fsck --replay`: the journal is replayed on a copy, by e2fsck.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, json_line};
use ha_longhorn::checksum::Verify;
use ha_longhorn::files::{Files, Note};
use ha_longhorn::inside::{self, Inside};
use ha_longhorn::layered::Image;
use ha_longhorn::source::SourceDirectory;
use ha_longhorn::{backing, merge as merging};
use ha_sync_fs::error::printable_path;
use ha_sync_fs::local;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::json;

use crate::arguments::FsckArguments;
use crate::merge::{self, Making, Outputs};
use crate::source::{self, Opened, word};
use crate::work::{self, Work};

fn is_file_or_absent(path: &Path) -> bool {
    rustix::fs::stat(path)
        .map_or(true, |stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile)
}

pub(crate) fn serve(arguments: &FsckArguments) -> Result<ExitCode, Failure> {
    let FsckArguments { path, replay: _, output, dry_run, source } = arguments;
    let outputs = Outputs::of(output)?;
    let mut opened = source::open(path, source, Verify::Fresh)?;
    source::need_ext4(path, &opened)?;
    let needed = matches!(opened.inside, Inside::Ext4 { needs_recovery: true, .. });
    if outputs.is_stdout() || !is_file_or_absent(&outputs.image) {
        return Err(Failure::new(FailureKind::Usage, "the journal is replayed in a file, and in nothing else")
            .hint("-o IMAGE, a file that is not there yet"));
    }
    if local::exists(&outputs.image) {
        let message = format!("there is something already: {}", printable_path(&outputs.image));
        return Err(Failure::new(FailureKind::Halted, message).hint("another name: -o IMAGE"));
    }
    source::outside_replicas(&outputs.image)?;
    if needed && inside::journal_is_elsewhere(&mut *opened.image).or_failure(FailureKind::Failed)? {
        let message = format!("the journal is on another device, which e2fsck would change: {}", printable_path(path));
        return Err(Failure::new(FailureKind::Halted, message)
            .hint("on copies of both: merge this one, copy that device, then e2fsck -E journal_only -j COPY IMAGE"));
    }
    // It has its name only when the journal is replayed. What a killed replay left is no image of anything.
    let part = merging::beside(&outputs.image, ".ha-volume.replay");
    // e2fsck takes what follows a question mark for options.
    if part.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'?')) {
        return Err(Failure::new(FailureKind::Usage, "e2fsck takes no name with a question mark").hint("-o IMAGE"));
    }
    let _alone = alone(&part)?;
    if *dry_run {
        return dry(opened, &outputs, part, needed);
    }
    for left in [&part, &merging::marker_path(&part)] {
        local::remove(left).or_failure(FailureKind::Failed)?;
    }
    let work = Work::begin("merging", outputs.format == OutputFormat::Json)?;
    let making = making(&opened);
    merge::make(&mut *opened.image, &Outputs { image: part.clone(), format: outputs.format }, &making, &work)?;
    work.end();
    // What is replayed is not what the marker says any more.
    local::remove(&merging::marker_path(&part)).or_failure(FailureKind::Failed)?;
    // e2fsck clears the mark also when it had to leave out a part of the journal, and does not say so.
    let losses = if needed { losses(&part)? } else { Vec::new() };
    let mut name = OsString::from("./");
    name.push(part.file_name().unwrap_or_default());
    let status = Command::new("e2fsck")
        .args(["-E", "journal_only", "-p"])
        .arg(name)
        .current_dir(parent(&part))
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .or_failure(FailureKind::Failed)
        .map_err(|failure| {
            failure
                .context(format!("failed to start e2fsck for {}", printable_path(&part)))
                .hint("apt-get install e2fsprogs")
        })?;
    let mut image = backing::open(&part).or_failure(FailureKind::Failed)?;
    let after = inside::of_image(&mut *image).or_failure(FailureKind::Failed)?;
    let replayed = matches!(after, Inside::Ext4 { needs_recovery: false, .. });
    if !replayed {
        let message = format!("e2fsck did not replay the journal ({status}): {}", printable_path(&part));
        return Err(Failure::new(FailureKind::Failed, message).hint(format!("e2fsck -f {}", word(&part))));
    }
    merging::rename(&part, &outputs.image, false).or_failure(FailureKind::Failed)?;
    let shown = printable_path(&outputs.image);
    outputs.print(&match outputs.format {
        OutputFormat::Json => json_line(&json!({
            "image": shown, "needed_recovery": needed, "replayed": true, "inside": after,
            "despite_damage": opened.damaged, "best_effort": opened.source.best_effort, "losses": losses,
        })),
        OutputFormat::Text => {
            let what = match (needed, losses.is_empty()) {
                (false, _) => "the journal held nothing",
                (true, true) => "the journal is replayed",
                (true, false) => "the journal is replayed as far as it can be read",
            };
            format!("{shown}: {what}\nnext, as root: mount -o loop,ro {} /mnt\n", word(&outputs.image))
        }
    })?;
    for loss in &losses {
        work::note("warning", loss);
    }
    let partial = opened.damaged || opened.source.best_effort || !losses.is_empty();
    Ok(if partial { ExitCode::Partial } else { ExitCode::Success })
}

fn making(opened: &Opened) -> Making {
    Making {
        format: merging::Format::Raw,
        sha256: false,
        force: false,
        checkpoint: merge::CHECKPOINT,
        durable: true,
        source: opened.source.clone(),
        ambiguous: None,
    }
}

/// Says what would be made. `part` is what the image would be merged into; what an earlier replay left there would be
/// replaced.
fn dry(mut opened: Opened, outputs: &Outputs, part: PathBuf, needed: bool) -> Result<ExitCode, Failure> {
    let work = Work::begin("looking", outputs.format == OutputFormat::Json)?;
    let making = Making { force: true, ..making(&opened) };
    merge::check(&mut *opened.image, &Outputs { image: part, format: outputs.format }, &making, &work)?;
    work.end();
    let size = opened.image.size();
    let data = merging::extent(&mut *opened.image).or_failure(FailureKind::Failed)?.data;
    let losses = if needed { losses_of(opened.image) } else { Vec::new() };
    let shown = printable_path(&outputs.image);
    outputs.print(&match outputs.format {
        OutputFormat::Json => json_line(&json!({
            "dry_run": true, "image": shown, "size": size, "data_bytes_at_most": data, "needs_recovery": needed,
            "inside": opened.inside, "despite_damage": opened.damaged, "best_effort": opened.source.best_effort,
            "losses": losses,
        })),
        OutputFormat::Text => {
            let what = match needed {
                true => "its journal would be replayed",
                false => "the journal holds nothing",
            };
            let (size, exact, data) = (human_bytes(size), grouped(size), human_bytes(data));
            format!("{shown} would be made: {size} ({exact} bytes), {data} of data at most; {what}\n")
        }
    })?;
    for loss in &losses {
        work::note("warning", loss);
    }
    let partial = opened.damaged || opened.source.best_effort || !losses.is_empty();
    Ok(if partial { ExitCode::Partial } else { ExitCode::Success })
}

/// Returns what of the journal cannot be read. Of fast commits e2fsck takes in what there is.
fn losses(image: &Path) -> Result<Vec<String>, Failure> {
    Ok(losses_of(backing::open(image).or_failure(FailureKind::Failed)?))
}

fn losses_of(image: Box<dyn Image>) -> Vec<String> {
    // What is not read here may be read by e2fsck all the same.
    let Ok(files) = Files::open(image) else { return Vec::new() };
    let losses = files.notes().iter().filter(|note| note.is_loss() && !matches!(note, Note::FastCommit { .. }));
    losses.map(ToString::to_string).collect()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Locks the directory of an image: two replays to one name would work on each other's.
fn alone(part: &Path) -> Result<SourceDirectory, Failure> {
    let directory = SourceDirectory::open(parent(part)).or_failure(FailureKind::Failed)?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            let message = format!("another process replays a journal in {}", printable_path(parent(part)));
            Err(Failure::new(FailureKind::LockHeld, message).hint("try again when it has ended"))
        }
        // Not every file system has locks on directories.
        _ => Ok(directory),
    }
}
