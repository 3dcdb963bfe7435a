//! `ha-volume fsck --replay`: the journal is replayed on a copy, by e2fsck.

use std::path::Path;
use std::process::{Command, Stdio};

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, json_line};
use ha_longhorn::checksum::Verify;
use ha_longhorn::inside::{self, Inside};
use ha_longhorn::{backing, merge as merging};
use ha_sync_fs::error::printable_path;
use ha_sync_fs::local;
use serde_json::json;

use crate::arguments::FsckArguments;
use crate::merge::{self, Making, Outputs};
use crate::source::{self, word};
use crate::work::Work;

fn is_file_or_absent(path: &Path) -> bool {
    rustix::fs::stat(path)
        .map_or(true, |stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile)
}

pub(crate) fn serve(arguments: &FsckArguments) -> Result<ExitCode, Failure> {
    let FsckArguments { path, replay: _, output, source } = arguments;
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
    // It has its name only when the journal is replayed. What a killed replay left is no image of anything.
    let part = merging::beside(&outputs.image, ".ha-volume.replay");
    for left in [&part, &merging::marker_path(&part)] {
        local::remove(left).or_failure(FailureKind::Failed)?;
    }
    let work = Work::begin("merging", outputs.format == OutputFormat::Json)?;
    let making = Making {
        format: merging::Format::Raw,
        sha256: false,
        force: false,
        checkpoint: merge::CHECKPOINT,
        durable: true,
        source: opened.source.clone(),
        ambiguous: None,
    };
    merge::make(&mut *opened.image, &Outputs { image: part.clone(), format: outputs.format }, &making, &work)?;
    work.end();
    // What is replayed is not what the marker says any more.
    local::remove(&merging::marker_path(&part)).or_failure(FailureKind::Failed)?;
    let status = Command::new("e2fsck")
        .args(["-E", "journal_only", "-p"])
        .arg(&part)
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
            "despite_damage": opened.damaged, "best_effort": opened.source.best_effort,
        })),
        OutputFormat::Text => {
            let what = if needed { "the journal is replayed" } else { "the journal held nothing" };
            format!("{shown}: {what}\nnext, as root: mount -o loop,ro {} /mnt\n", word(&outputs.image))
        }
    })?;
    Ok(if opened.damaged || opened.source.best_effort { ExitCode::Partial } else { ExitCode::Success })
}
