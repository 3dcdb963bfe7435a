//! Two candidates that only times or evidence set apart, side by side: what of them differs (volumes.md §4).

use ha_longhorn::compare::{self, Difference};
use ha_longhorn::file_difference::{self, FileDifference};
use ha_longhorn::files::Files;
use ha_longhorn::inside::Inside;
use ha_longhorn::inspect;
use ha_longhorn::layered::{Layered, Reading};
use ha_longhorn::rank::Place;
use ha_longhorn::replica::Replica;
use ha_longhorn::scan::Row;
use ha_longhorn::watch::Unwatched;
use serde::Serialize;

/// With more data than that a scan would take long; the command is named instead.
const MOST_BYTES: u64 = 2 << 30;

/// Is how the first two of a volume differ.
#[derive(Serialize)]
pub(crate) struct Close {
    pub(crate) volume: String,
    left: String,
    right: String,
    blocks: Difference,
    /// Of ext4.
    files: Option<Vec<FileDifference>>,
}

impl Close {
    /// Writes it as `compare` does.
    pub(crate) fn write(&self, text: &mut String) {
        let mut lines = String::new();
        crate::compare::lines(&mut lines, &self.blocks, self.files.as_deref());
        lines.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
}

/// Compares the first two of each volume that are close, here, and not too large.
pub(crate) fn of_each_volume(ranked: &[(Row, Place)]) -> Vec<Close> {
    let of_one_volume = |pair: &&[(Row, Place)]| pair[0].0.volume == pair[1].0.volume && pair[0].1.rank == 1;
    ranked.windows(2).filter(of_one_volume).filter_map(|pair| of_two(&pair[0], &pair[1])).collect()
}

fn of_two((first, one): &(Row, Place), (second, other): &(Row, Place)) -> Option<Close> {
    let here = first.host.is_none() && second.host.is_none();
    let bytes = first.candidate.allocated.saturating_add(second.candidate.allocated);
    if !one.close || !other.close || !here || bytes > MOST_BYTES {
        return None;
    }
    let (mut left, mut right) = (open(first)?, open(second)?);
    let blocks = compare::compare(&mut left, &mut right, &Unwatched).ok()??;
    let ext4 = [first, second].iter().all(|row| matches!(row.inside, Some(Inside::Ext4 { .. })));
    let files = match ext4 && !blocks.is_none() {
        true => compare_files(left, right),
        false => None,
    };
    let (left, right) = (first.path.clone(), second.path.clone());
    Some(Close { volume: first.volume.clone(), left, right, blocks, files })
}

/// Opens a replica that needs nothing else; of others `compare` says what it wants.
fn open(row: &Row) -> Option<Layered> {
    let replica = Replica::open(&row.place(), None).ok().filter(|replica| replica.backing_path().is_none())?;
    let chain = replica.chain.as_ref().ok()?;
    inspect::open(&replica, chain, None, Reading::Exact).ok()
}

fn compare_files(left: Layered, right: Layered) -> Option<Vec<FileDifference>> {
    let (left, right) = (Files::open(Box::new(left)).ok()?, Files::open(Box::new(right)).ok()?);
    let mut unread = [&left, &right].iter().any(|files| files.notes().iter().any(|note| note.is_loss()));
    let found = file_difference::compare([&left, &right], &|| false, &mut |_, _| unread = true);
    // What cannot be read is told by the command.
    (!unread).then_some(found)
}
