//! Was this directory damaged by the way it was copied (volumes.md §3)?

use ha_sync_fs::FsError;
use serde::Serialize;

use crate::extent::{self, Extents};
use crate::finding::Finding;
use crate::inside::{self, Inside};
use crate::inspect::{self, LayerReport, Report};
use crate::layered::{BLOCK, Content, Image, ImageError, Layered, Reading, is_zero};
use crate::replica::Replica;
use crate::watch::Watch;

/// Is how much is read in search of zeros where nothing else needs the data.
pub const LOOK: u64 = 2 << 30;

/// Returns what is to be said where copying may have made holes of zeros, which shows older data. Nothing is said where
/// one allocated block of zeros is there, where nothing lies below, or where what lies inside need not have any. Reads up
/// to the first one, the oldest layer first, where the file system was made; `most` bytes.
pub fn sparsified(
    replica: &Replica,
    chain: &[String],
    backed: bool,
    inside: Option<&Inside>,
    most: u64,
    watch: &dyn Watch,
) -> Result<Option<Finding>, FsError> {
    if !is_known(inside) || (chain.len() < 2 && !backed) {
        return Ok(None);
    }
    let others = replica.layers.keys().filter(|name| !chain.contains(name));
    Ok(match look(replica, chain.iter().rev().chain(others), most, watch)? {
        Looked::Zeros | Looked::Nothing => None,
        Looked::NoZeros => Some(Finding::Sparsified),
        Looked::Enough => Some(Finding::ZerosNotSeen { bytes: most }),
    })
}

/// Returns what is to be said of layers that are allocated from end to end and hide what older ones have, or a backing
/// image. A tool that fills holes with zeros fills those of every file. The engine leaves one such layer when the whole
/// volume is written; then the others have holes, or it has no blocks of zeros to hide anything with.
pub fn densified(
    replica: &Replica,
    layers: &[LayerReport],
    backed: bool,
    watch: &dyn Watch,
) -> Result<Vec<Finding>, FsError> {
    let dense = |layer: &LayerReport| layer.extents.extents == 1 && layer.extents.bytes == layer.length;
    let mut chain: Vec<&LayerReport> = layers.iter().filter(|layer| layer.place.is_some()).collect();
    chain.sort_by_key(|layer| layer.place);
    let hides = |index: usize| backed || chain[index + 1..].iter().any(|older| older.extents.bytes > 0);
    let hiding = chain.iter().enumerate().filter(|(index, layer)| layer.length > 0 && dense(layer) && hides(*index));
    let hiding: Vec<String> = hiding.map(|(_, layer)| layer.name.clone()).collect();
    let all = layers.iter().all(|layer| layer.length == 0 || dense(layer));
    let copied = all && !hiding.is_empty() && look(replica, hiding.iter(), LOOK, watch)? == Looked::Zeros;
    let finding = |layer| if copied { Finding::Densified { layer } } else { Finding::HidesAll { layer } };
    Ok(hiding.into_iter().map(finding).collect())
}

/// Is what was seen of blocks of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// One was written.
    Zeros,
    /// There are data, and none.
    NoZeros,
    /// Nothing was ever written, or the search was stopped.
    Nothing,
    /// There are more data than were to be read, and none so far.
    Enough,
}

/// Reads layers up to the first block of zeros that was written, `most` bytes at most.
fn look<'a>(
    replica: &Replica,
    layers: impl Iterator<Item = &'a String>,
    most: u64,
    watch: &dyn Watch,
) -> Result<Looked, FsError> {
    let mut buffer = vec![0; 1 << 20];
    let mut left = most;
    for name in layers {
        let file = replica.open_layer(name)?;
        let method = Extents::of(&file)?.method();
        let looked = extent::for_each(&file, method, |extent| {
            // Unwritten space says nothing: xfs leaves it behind what a copy has written.
            let mut position = if extent.unwritten { extent.end } else { extent.start };
            while position < extent.end && !watch.stopped() {
                if left == 0 {
                    return Err(Ended::With(Looked::Enough));
                }
                let length = usize::try_from(left.min(extent.end - position)).unwrap_or(usize::MAX).min(buffer.len());
                file.read_at(position, &mut buffer[..length])?;
                if buffer[..length].chunks(BLOCK as usize).any(is_zero) {
                    return Err(Ended::With(Looked::Zeros));
                }
                (position, left) = (position + length as u64, left - length as u64);
            }
            Ok(())
        });
        match looked {
            Ok(()) => {}
            Err(Ended::With(looked)) => return Ok(looked),
            Err(Ended::Failed(error)) => return Err(error),
        }
    }
    // Of what was not read to its end nobody can tell.
    Ok(if left < most && !watch.stopped() { Looked::NoZeros } else { Looked::Nothing })
}

/// Is why the extents of a file are not gone through to the end.
enum Ended {
    With(Looked),
    Failed(FsError),
}

impl From<FsError> for Ended {
    fn from(error: FsError) -> Self {
        Self::Failed(error)
    }
}

/// Tells whether what lies inside always has blocks of zeros.
fn is_known(inside: Option<&Inside>) -> bool {
    matches!(inside, Some(Inside::Ext4 { .. } | Inside::Xfs { .. }))
}

/// Is what reading every layer has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Allocated blocks of 4096 bytes, over all layers of the chain.
    pub blocks: u64,
    /// Of them, those of zeros that were written.
    pub zero_blocks: u64,
    /// What lies inside, where blocks of zeros are taken for holes: a densified head shows only itself otherwise.
    pub inside: Option<Inside>,
    /// Whether it can be told that no zeros were lost: some are there, or what lies inside must have some.
    pub conclusive: bool,
    /// Blocks on which the two readings differ; counted on request.
    pub ambiguous_blocks: Option<u64>,
}

/// Reads the layers of the chain. `below` opens the backing image; `count` asks for the ambiguous blocks, which
/// takes another reading. Findings are added to the report's.
pub fn examine(
    replica: &Replica,
    report: &mut Report,
    below: &dyn Fn() -> Result<Option<Box<dyn Image>>, ImageError>,
    count: bool,
    watch: &dyn Watch,
) -> Result<Option<Diagnosis>, ImageError> {
    let Ok(chain) = &replica.chain else { return Ok(None) };
    watch.expect(allocated(&report.layers) * if count { 2 } else { 1 });
    let (mut blocks, mut zero_blocks) = (0, 0);
    for name in chain {
        let (all, zero) = zeros(replica, name, watch)?;
        (blocks, zero_blocks) = (blocks + all, zero_blocks + zero);
    }
    let backing = below()?;
    let mut inside = None;
    let mut ambiguous_blocks = None;
    if replica.backing_path().is_none() || backing.is_some() {
        let mut image = inspect::open(replica, chain, backing, Reading::ZerosAreHoles)?;
        inside = Some(inside::of_image(&mut image)?);
        if count {
            ambiguous_blocks =
                Some(ambiguous(inspect::open(replica, chain, below()?, Reading::ZerosAreHoles)?, watch)?);
        }
    }
    let known = is_known(inside.as_ref());
    if known && blocks > 0 && zero_blocks == 0 {
        report.add(Some(Finding::Sparsified));
    }
    let conclusive = known || zero_blocks > 0 || blocks == 0;
    Ok(Some(Diagnosis { blocks, zero_blocks, inside, conclusive, ambiguous_blocks }))
}

fn allocated(layers: &[LayerReport]) -> u64 {
    layers.iter().filter(|layer| layer.place.is_some()).map(|layer| layer.extents.bytes).sum()
}

/// Counts the allocated blocks of a layer, and those of zeros.
fn zeros(replica: &Replica, name: &str, watch: &dyn Watch) -> Result<(u64, u64), FsError> {
    let file = replica.open_layer(name)?;
    let method = Extents::of(&file)?.method();
    let (mut blocks, mut zero) = (0, 0);
    let mut buffer = vec![0; 1 << 20];
    extent::for_each(&file, method, |extent| {
        blocks += extent.length().div_ceil(BLOCK);
        // Unwritten space says nothing: xfs leaves it behind what a copy has written.
        let mut position = if extent.unwritten { extent.end } else { extent.start };
        while position < extent.end && !watch.stopped() {
            let length = usize::try_from(extent.end - position).unwrap_or(usize::MAX).min(buffer.len());
            file.read_at(position, &mut buffer[..length])?;
            zero += buffer[..length].chunks(BLOCK as usize).filter(|block| is_zero(block)).count() as u64;
            position += length as u64;
            watch.advance(length as u64);
        }
        Ok::<_, FsError>(())
    })?;
    Ok((blocks, zero))
}

/// Counts the blocks on which the two readings of an image differ.
pub fn ambiguous(mut image: Layered, watch: &dyn Watch) -> Result<u64, ImageError> {
    let mut buffer = vec![0; 1 << 20];
    let mut position = 0;
    while position < image.size() && !watch.stopped() {
        let piece = image.piece_at(position)?;
        if piece.content == Content::Data {
            while position < piece.end {
                let length = usize::try_from(piece.end - position).unwrap_or(usize::MAX).min(buffer.len());
                image.read_at(position, &mut buffer[..length])?;
                position += length as u64;
                watch.advance(length as u64);
            }
        }
        position = piece.end;
    }
    Ok(image.ambiguous())
}
