//! What the layers of a volume show together (volumes.md §2): the youngest layer that has an allocated extent at a
//! place wins, whatever its bytes; where none has, the backing image shows, and below it zeros.

use std::path::PathBuf;

use ha_sync_fs::FsError;
use serde::Serialize;

use crate::backupstore::BackupError;
use crate::extent::{Extents, Method};
use crate::qcow2::Qcow2Error;
use crate::source::{SourceFile, Stamp};

/// Is the size of a block in bytes.
pub const BLOCK: u64 = 4096;

/// Is why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FsError),
    /// A qcow2 image cannot be understood.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// A block of a backup cannot be read.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// Is what a piece of an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing; reads as zeros.
    Hole,
    /// Zeros by the word of a map; need not be read.
    Zeros,
    /// Bytes, which may be zeros.
    Data,
}

/// Is a piece of an image, from where it was asked for to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The byte behind the last one.
    pub end: u64,
    /// What it holds.
    pub content: Content,
}

/// Is an image of fixed size that can be read anywhere: layers, a plain file, a qcow2 file.
pub trait Image: Send {
    /// Returns the size in bytes.
    fn size(&self) -> u64;
    /// Returns the piece that begins at `position`, which is below the size.
    fn piece_at(&mut self, position: u64) -> Result<Piece, ImageError>;
    /// Fills the buffer from `position` on; beyond the end are zeros.
    fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<(), ImageError>;
    /// Returns the files that it reads.
    fn files(&self) -> Vec<&SourceFile>;
}

/// Is a file or a block device whose bytes are the image.
#[derive(Debug)]
pub struct PlainImage {
    file: SourceFile,
    extents: Extents,
}

impl PlainImage {
    /// Takes an open file.
    pub fn new(file: SourceFile) -> Result<Self, ImageError> {
        Ok(Self { extents: Extents::of(&file)?, file })
    }
}

impl Image for PlainImage {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn piece_at(&mut self, position: u64) -> Result<Piece, ImageError> {
        Ok(match self.extents.at(&self.file, position)? {
            Some(extent) if extent.start > position => Piece { end: extent.start, content: Content::Hole },
            Some(extent) if extent.unwritten => Piece { end: extent.end, content: Content::Zeros },
            Some(extent) => Piece { end: extent.end, content: Content::Data },
            // Also behind the end a piece ends behind its beginning.
            None => Piece { end: self.file.size().max(position.saturating_add(1)), content: Content::Hole },
        })
    }

    fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        Ok(self.file.read_at(position, buffer)?)
    }

    fn files(&self) -> Vec<&SourceFile> {
        vec![&self.file]
    }
}

/// Is how a block of zeros in a layer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// As the engine reads it: it hides what is below.
    Exact,
    /// As a hole, the best effort for a replica whose extents were lost by copying it (volumes.md §3).
    ZerosAreHoles,
}

#[derive(Debug)]
struct Layer {
    file: SourceFile,
    extents: Extents,
}

/// Is a volume as its layers show it.
pub struct Layered {
    size: u64,
    /// The youngest first.
    layers: Vec<Layer>,
    backing: Option<Box<dyn Image>>,
    reading: Reading,
    ambiguous: u64,
    scratch: Vec<u8>,
}

/// Is where a piece comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Layer(usize),
    Unwritten(usize),
    Backing(Content),
    Nothing,
}

impl Layered {
    /// Puts layers, the youngest first, over a backing image.
    pub fn new(
        size: u64,
        layers: Vec<SourceFile>,
        backing: Option<Box<dyn Image>>,
        reading: Reading,
    ) -> Result<Self, ImageError> {
        let layer = |file: SourceFile| Ok(Layer { extents: Extents::of(&file)?, file });
        let layers = layers.into_iter().map(layer).collect::<Result<_, FsError>>()?;
        Ok(Self { size, layers, backing, reading, ambiguous: 0, scratch: vec![0; BLOCK as usize] })
    }

    /// Returns how many blocks were read on which the two readings differ; counted with `ZerosAreHoles` only, and
    /// each time that a block is read.
    pub fn ambiguous(&self) -> u64 {
        self.ambiguous
    }

    /// Returns how the extents of each layer were found.
    pub fn methods(&self) -> Vec<Method> {
        self.layers.iter().map(|layer| layer.extents.method()).collect()
    }

    /// Finds the piece at `position` as the layers from `top` on show it.
    fn origin(&mut self, top: usize, position: u64) -> Result<(u64, Origin), ImageError> {
        let mut end = self.size;
        for (index, layer) in self.layers.iter_mut().enumerate().skip(top) {
            let Some(extent) = layer.extents.at(&layer.file, position)? else { continue };
            if extent.start <= position {
                let origin = if extent.unwritten { Origin::Unwritten(index) } else { Origin::Layer(index) };
                return Ok((end.min(extent.end), origin));
            }
            end = end.min(extent.start);
        }
        match &mut self.backing {
            Some(backing) if position < backing.size() => {
                let piece = backing.piece_at(position)?;
                Ok((end.min(piece.end), Origin::Backing(piece.content)))
            }
            _ => Ok((end, Origin::Nothing)),
        }
    }

    fn read_from(&mut self, top: usize, mut position: u64, mut buffer: &mut [u8]) -> Result<(), ImageError> {
        while !buffer.is_empty() {
            if position >= self.size {
                buffer.fill(0);
                return Ok(());
            }
            let (end, origin) = self.origin(top, position)?;
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            let (now, rest) = buffer.split_at_mut(length);
            match origin {
                Origin::Layer(index) => self.layers[index].file.read_at(position, now)?,
                Origin::Backing(Content::Data) => {
                    if let Some(backing) = &mut self.backing {
                        backing.read_at(position, now)?;
                    }
                }
                Origin::Unwritten(_) | Origin::Backing(_) | Origin::Nothing => now.fill(0),
            }
            if self.reading == Reading::ZerosAreHoles
                && let Origin::Layer(index) | Origin::Unwritten(index) = origin
            {
                self.see_through(index, position, now)?;
            }
            (position, buffer) = (position + length as u64, rest);
        }
        Ok(())
    }

    /// Replaces the blocks of zeros of a layer by what the layers below it show.
    fn see_through(&mut self, index: usize, mut position: u64, mut buffer: &mut [u8]) -> Result<(), ImageError> {
        while !buffer.is_empty() {
            let length = usize::try_from(BLOCK - position % BLOCK).unwrap_or(0).min(buffer.len());
            let (now, rest) = buffer.split_at_mut(length);
            if is_zero(now) {
                self.read_from(index + 1, position, now)?;
                // A block that shows through two layers of zeros is one block.
                self.ambiguous += u64::from(index == self.first_zero(position)? && !is_zero(now));
            }
            (position, buffer) = (position + length as u64, rest);
        }
        Ok(())
    }

    fn first_zero(&mut self, position: u64) -> Result<usize, ImageError> {
        Ok(match self.origin(0, position)?.1 {
            Origin::Layer(index) | Origin::Unwritten(index) => index,
            Origin::Backing(_) | Origin::Nothing => usize::MAX,
        })
    }
}

impl Image for Layered {
    fn size(&self) -> u64 {
        self.size
    }

    fn piece_at(&mut self, position: u64) -> Result<Piece, ImageError> {
        let (end, origin) = self.origin(0, position)?;
        let end = end.max(position.saturating_add(1));
        let content = match origin {
            Origin::Layer(_) => Content::Data,
            Origin::Unwritten(_) if self.reading == Reading::ZerosAreHoles => Content::Data,
            Origin::Unwritten(_) => Content::Zeros,
            Origin::Backing(content) => content,
            Origin::Nothing => Content::Hole,
        };
        Ok(Piece { end, content })
    }

    fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let (head, tail) = (position % BLOCK, (position + buffer.len() as u64) % BLOCK);
        if self.reading == Reading::Exact || (head == 0 && tail == 0) {
            return self.read_from(0, position, buffer);
        }
        // Whether a block is zero can be said of whole blocks only.
        let mut block = std::mem::take(&mut self.scratch);
        let (mut at, mut done) = (position - head, 0);
        let mut skip = usize::try_from(head).unwrap_or(0);
        while done < buffer.len() {
            self.read_from(0, at, &mut block)?;
            let length = (block.len() - skip).min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&block[skip..skip + length]);
            (at, done, skip) = (at + BLOCK, done + length, 0);
        }
        self.scratch = block;
        Ok(())
    }

    fn files(&self) -> Vec<&SourceFile> {
        let backing = self.backing.iter().flat_map(|backing| backing.files());
        self.layers.iter().map(|layer| &layer.file).chain(backing).collect()
    }
}

/// Tells whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // A fixed width lets the compiler use the widest registers.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Returns the files of an image with what they were like, for [`changed_since`] when the image is given away.
pub fn stamps(image: &dyn Image) -> Vec<(PathBuf, Stamp)> {
    let files = image.files();
    files.iter().filter(|file| !file.is_device()).map(|file| (file.path().to_owned(), file.stamp())).collect()
}

/// Returns the first of some files that is not what it was.
pub fn changed_since(stamps: &[(PathBuf, Stamp)]) -> Result<Option<String>, FsError> {
    for (path, before) in stamps {
        let now = SourceFile::open(path)?.stamp();
        if (before.identity, before.length, before.modified) != (now.identity, now.length, now.modified) {
            return Ok(Some(ha_sync_fs::error::printable_path(path)));
        }
    }
    Ok(None)
}

/// Returns the first file of an image that is not what it was when it was opened.
pub fn changed(image: &dyn Image) -> Result<Option<String>, FsError> {
    for file in image.files() {
        let (before, now) = (file.stamp(), file.stamp_now()?);
        // The ctime also changes with the number of links and with the owner, which is no matter.
        if !file.is_device() && (before.length, before.modified) != (now.length, now.modified) {
            return Ok(Some(ha_sync_fs::error::printable_path(file.path())));
        }
    }
    Ok(None)
}
