//! The content of files, range by range.

use crate::block_map;
use crate::device::Device;
use crate::error::{Error, Place};
use crate::extent::{self, Backing, Leaf, Span};
use crate::filesystem::FileSystem;
use crate::inode::Inode;
use crate::superblock::Superblock;

/// Is a run of bytes of a file that are all data, or all not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub start: u64,
    /// The byte behind the last one.
    pub end: u64,
    /// Whether there are bytes. If not they read as zeros: a hole, or space that was never written.
    pub data: bool,
}

/// Finds the runs of blocks of one file; of extents it keeps the leaf that it used last.
#[derive(Debug, Default)]
pub(crate) struct Map {
    leaf: Option<Leaf>,
}

impl Map {
    /// Returns a run of blocks that has this block in it.
    pub(crate) fn span(
        &mut self,
        device: &mut Device,
        superblock: &Superblock,
        inode: &Inode,
        block: u64,
    ) -> Result<Span, Error> {
        if !inode.has_extents() {
            return block_map::span(device, superblock, inode, block);
        }
        if let Some(span) = self.leaf.as_ref().and_then(|leaf| leaf.span(block)) {
            return Ok(span);
        }
        let leaf = self.leaf.insert(extent::leaf(device, superblock, inode, block)?);
        // Extents number blocks with 32 bits.
        Ok(leaf.span(block).unwrap_or(Span { start: block, end: u64::MAX, backing: Backing::Hole }))
    }

    /// Fills the buffer from a byte of the file on; what is not there reads as zeros.
    pub(crate) fn read(
        &mut self,
        device: &mut Device,
        superblock: &Superblock,
        inode: &Inode,
        mut position: u64,
        mut buffer: &mut [u8],
    ) -> Result<(), Error> {
        let size = device.block_size();
        while !buffer.is_empty() {
            let span = self.span(device, superblock, inode, position / size)?;
            let end = span.end.saturating_mul(size);
            let length = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX).min(buffer.len());
            let (now, rest) = buffer.split_at_mut(length);
            match span.backing {
                Backing::Blocks(first) => {
                    let offset = first.saturating_sub(span.start).saturating_mul(size);
                    let place = Place::Content { inode: inode.number, position };
                    // A file may begin with a block whose number is above that of the device.
                    let at = match first >= span.start {
                        true => offset.saturating_add(position),
                        false => position.saturating_sub((span.start - first).saturating_mul(size)),
                    };
                    device.read(at, now, place)?;
                }
                Backing::Hole | Backing::Unwritten => now.fill(0),
            }
            if length == 0 {
                return Err(Error::damaged(inode.place(), "its length is impossible"));
            }
            (position, buffer) = (position.saturating_add(length as u64), rest);
        }
        Ok(())
    }
}

/// Is the content of a regular file.
pub struct Content<'a> {
    pub(crate) files: &'a FileSystem,
    pub(crate) inode: &'a Inode,
    pub(crate) map: Map,
    /// Content that lies in the inode.
    pub(crate) inline: Option<Vec<u8>>,
}

impl Content<'_> {
    /// Returns the length in bytes.
    pub fn size(&self) -> u64 {
        self.inode.size()
    }

    /// Returns the longest known range from `position` on, which ends at the end of the file; nothing from there on.
    pub fn range_at(&mut self, position: u64) -> Result<Option<Range>, Error> {
        let size = self.size();
        if position >= size {
            return Ok(None);
        }
        if let Some(inline) = &self.inline {
            let written = inline.len() as u64;
            let data = position < written;
            return Ok(Some(Range { start: position, end: if data { written.min(size) } else { size }, data }));
        }
        let mut range = Range { start: position, end: position, data: false };
        // Neighbours of one kind are one range. A thousand are looked at, since there may be any number.
        for step in 0..1000 {
            let span = self.files.span(&mut self.map, self.inode, range.end)?;
            let data = matches!(span.backing, Backing::Blocks(_));
            if step > 0 && data != range.data {
                break;
            }
            let end = span.end.saturating_mul(self.files.block_size()).min(size);
            if end <= range.end {
                return Err(Error::damaged(self.inode.place(), "its length is impossible"));
            }
            (range.end, range.data) = (end, data);
            if end == size {
                break;
            }
        }
        Ok(Some(range))
    }

    /// Fills the buffer from `position` on; returns how many bytes the file has there, at most as many.
    pub fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let left = usize::try_from(self.size().saturating_sub(position)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let buffer = &mut buffer[..length];
        match &self.inline {
            Some(inline) => {
                // Behind what is written there are zeros, as behind the end of a page.
                buffer.fill(0);
                let from = usize::try_from(position).unwrap_or(usize::MAX).min(inline.len());
                buffer.iter_mut().zip(&inline[from..]).for_each(|(to, byte)| *to = *byte);
            }
            None => self.files.read_content(&mut self.map, self.inode, position, buffer)?,
        }
        Ok(length)
    }
}
