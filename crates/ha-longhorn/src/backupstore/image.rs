//! A backup as an image: what is read is unpacked and checked against its name.

use super::{BackupConfig, BackupError, BlockMapping, Store};
use crate::layered::{Content, Image, ImageError, Piece};
use crate::source::SourceFile;

/// Is a backup that can be read anywhere. One block is in memory.
pub struct BackupImage<S: Store + Send> {
    store: S,
    volume: String,
    config: BackupConfig,
    size: u64,
    held: Option<(usize, Vec<u8>)>,
}

/// Fails where a backup makes no sense for a volume of this size.
pub(super) fn fits(config: &BackupConfig, size: u64) -> Result<(), BackupError> {
    let misfit = |why: String| Err(BackupError::Misfit { name: config.name.clone(), why });
    if size == 0 || i64::try_from(size).is_err() {
        return misfit(format!("volume.cfg says {size} bytes"));
    }
    // Cut off without a word it would be another volume. The last block may reach over the end.
    let outside = |block: &&BlockMapping| block.offset >= size || block.offset.checked_add(config.block_size).is_none();
    match config.blocks.iter().find(outside) {
        Some(block) => misfit(format!("a block at {} of {size} bytes", block.offset)),
        None => Ok(()),
    }
}

impl<S: Store + Send> BackupImage<S> {
    /// Takes a finished backup of a volume of this size.
    pub fn new(store: S, volume: &str, config: BackupConfig, size: u64) -> Result<Self, BackupError> {
        if config.created.is_empty() {
            return Err(BackupError::Unfinished { name: config.name });
        }
        fits(&config, size)?;
        Ok(Self { store, volume: volume.to_owned(), config, size, held: None })
    }

    /// Finds the block at a position, or the one after it.
    fn index(&self, position: u64) -> usize {
        self.config.blocks.partition_point(|block| block.offset + self.config.block_size <= position)
    }

    fn load(&mut self, index: usize) -> Result<&[u8], BackupError> {
        if self.held.as_ref().is_none_or(|(held, _)| *held != index) {
            let checksum = &self.config.blocks[index].checksum;
            let plain =
                super::block(&self.store, &self.volume, checksum, self.config.compression, self.config.block_size)?;
            self.held = Some((index, plain));
        }
        Ok(self.held.as_ref().map_or(&[], |(_, plain)| plain.as_slice()))
    }
}

impl<S: Store + Send> Image for BackupImage<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn piece_at(&mut self, position: u64) -> Result<Piece, ImageError> {
        Ok(match self.config.blocks.get(self.index(position)) {
            Some(block) if block.offset <= position => {
                Piece { end: (block.offset + self.config.block_size).min(self.size), content: Content::Data }
            }
            Some(block) => Piece { end: block.offset.min(self.size), content: Content::Hole },
            None => Piece { end: self.size, content: Content::Hole },
        })
    }

    fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let (mut position, mut buffer) = (position, buffer);
        while !buffer.is_empty() {
            if position >= self.size {
                buffer.fill(0);
                break;
            }
            let piece = self.piece_at(position)?;
            let length = usize::try_from(piece.end - position).unwrap_or(usize::MAX).min(buffer.len());
            let (now, rest) = buffer.split_at_mut(length);
            match piece.content {
                Content::Data => {
                    let index = self.index(position);
                    let within = usize::try_from(position - self.config.blocks[index].offset).unwrap_or(0);
                    now.copy_from_slice(&self.load(index)?[within..within + length]);
                }
                _ => now.fill(0),
            }
            (position, buffer) = (position + length as u64, rest);
        }
        Ok(())
    }

    fn files(&self) -> Vec<&SourceFile> {
        Vec::new()
    }
}
