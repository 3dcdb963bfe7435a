//! `ha-volume compare`.

use std::path::Path;

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::printable;
use ha_cli::summary::{OutputFormat, grouped, human_bytes, json_line};
use ha_longhorn::checksum::Verify;
use ha_longhorn::compare::{self, Difference};
use ha_longhorn::file_difference::{self, FileDifference};
use ha_longhorn::files::Files;
use ha_longhorn::inside::Inside;
use ha_longhorn::layered;
use ha_longhorn::watch::Watch as _;
use ha_sync_fs::error::printable_path;
use serde_json::json;

use crate::arguments::{CompareArguments, SourceArguments};
use crate::files::not_opened;
use crate::work::{self, Work};
use crate::{merge, print, source};

/// How many ranges the text lists.
const MOST_LINES: usize = 20;

pub(crate) fn serve(arguments: &CompareArguments) -> Result<ExitCode, Failure> {
    let mut left = source::open(&arguments.left, &side(arguments, 0), Verify::Fresh)?;
    let mut right = source::open(&arguments.right, &side(arguments, 1), Verify::Fresh)?;
    let json = arguments.output.output == OutputFormat::Json;
    let work = Work::begin("comparing", json)?;
    let difference = compare::compare(&mut *left.image, &mut *right.image, &work).or_failure(FailureKind::Failed)?;
    let Some(difference) = difference else { return Err(work.stopped_by()) };
    work.end();
    let stamps: Vec<_> = [&left, &right].iter().flat_map(|side| layered::stamps(&*side.image)).collect();
    let ext4 = [&left.inside, &right.inside].iter().all(|inside| matches!(inside, Inside::Ext4 { .. }));
    let mut unread = Vec::new();
    let files = if ext4 && !arguments.blocks_only && !difference.is_none() {
        for side in [&left, &right] {
            merge::warn_of_journal(side);
        }
        let open = |side: source::Opened, path: &Path| {
            let dirty = matches!(side.inside, Inside::Ext4 { needs_recovery: true, .. });
            Files::open(side.image).map_err(|error| not_opened(&error, path, dirty))
        };
        let (left, right) = (open(left, &arguments.left)?, open(right, &arguments.right)?);
        for (side, files) in [("left", &left), ("right", &right)] {
            unread.extend(files.notes().iter().filter(|note| note.is_loss()).map(|note| format!("{side}: {note}")));
        }
        let found = file_difference::compare([&left, &right], &|| work.stopped(), &mut |side, error| {
            let side = if side == 0 { "left" } else { "right" };
            unread.push(format!("{side}: {}", Failure::from_error(FailureKind::Failed, &error).one_line()));
        });
        if work.stopped() {
            return Err(work.stopped_by());
        }
        Some(found)
    } else {
        None
    };
    source::unchanged(&stamps)?;
    if json {
        print(&json_line(&json!({
            "left": printable_path(&arguments.left),
            "right": printable_path(&arguments.right),
            "same": difference.is_none(),
            "blocks": difference,
            "files": files,
            "unread": unread,
        })))?;
    } else {
        print(&text(arguments, &difference, files.as_deref()))?;
        for line in &unread {
            work::note("warning", line);
        }
    }
    Ok(if unread.is_empty() { ExitCode::Success } else { ExitCode::Partial })
}

/// Returns how a side is read: by its own flags, else by those of both.
fn side(arguments: &CompareArguments, side: usize) -> SourceArguments {
    let CompareArguments { left, right, source, .. } = arguments;
    let paths = [left, right];
    // What is for replica directories is not for an image on the other side.
    let shared = source::is_directory(paths[side]) || !source::is_directory(paths[1 - side]);
    let snapshot = [&arguments.left_snapshot, &arguments.right_snapshot][side];
    let backing = [&arguments.left_backing, &arguments.right_backing][side];
    let head = [&arguments.left_head, &arguments.right_head][side];
    SourceArguments {
        snapshot: snapshot.clone().or_else(|| source.snapshot.clone().filter(|_| shared)),
        backing: backing.clone().or_else(|| source.backing.clone().filter(|_| shared)),
        head: head.clone().or_else(|| source.head.clone().filter(|_| shared)),
        zeros_are_holes: source.zeros_are_holes && shared,
        despite_damage: source.despite_damage,
    }
}

fn text(arguments: &CompareArguments, difference: &Difference, files: Option<&[FileDifference]>) -> String {
    let (left, right) = (printable_path(&arguments.left), printable_path(&arguments.right));
    if difference.is_none() {
        return format!("no difference: {left} and {right}\n");
    }
    let mut text = format!("left   {left}\nright  {right}\n");
    if difference.sizes[0] != difference.sizes[1] {
        text.push_str(&format!("sizes: {} and {} bytes\n", grouped(difference.sizes[0]), grouped(difference.sizes[1])));
    }
    lines(&mut text, difference, files);
    text
}

/// Writes what differs.
pub(crate) fn lines(text: &mut String, difference: &Difference, files: Option<&[FileDifference]>) {
    text.push_str(&format!(
        "{} blocks of 4 KiB differ, in {} ranges\n",
        grouped(difference.blocks),
        grouped(difference.range_count)
    ));
    for range in difference.ranges.iter().take(MOST_LINES) {
        text.push_str(&format!("  {} + {}\n", range.start, human_bytes(range.end - range.start)));
    }
    if difference.range_count > MOST_LINES as u64 {
        text.push_str("  … (-o json lists them)\n");
    }
    match files {
        Some([]) => text.push_str("no file differs: the blocks are free space, or the file system's own\n"),
        Some(files) => {
            text.push_str(&format!("{} entries differ\n", grouped(files.len() as u64)));
            for file in files {
                text.push_str(&format!("  {:<10}  {}\n", file.what, printable(&file.path)));
            }
        }
        None => {}
    }
}
