//! The blocks of the file system, as they are with the journal laid over them. A bounded number of blocks of metadata
//! is kept.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::Source;
use crate::error::{Error, Place};

/// How many bytes of metadata each of the two generations of the cache holds.
const GENERATION: usize = 4 << 20;
/// How a block of the journal's own begins; a block of data that begins so is escaped.
pub(crate) const JOURNAL_MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

/// Is where the newest content of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Journaled {
    /// The block of the journal, as one of the file system.
    pub(crate) block: u64,
    /// Whether its first four bytes are those of the journal's own blocks.
    pub(crate) escaped: bool,
}

/// Is the image as blocks.
pub(crate) struct Device {
    source: Box<dyn Source>,
    block_size: u32,
    journaled: BTreeMap<u64, Journaled>,
    young: HashMap<u64, Rc<[u8]>>,
    old: HashMap<u64, Rc<[u8]>>,
}

impl Device {
    pub(crate) fn new(source: Box<dyn Source>, block_size: u32) -> Self {
        Self { source, block_size, journaled: BTreeMap::new(), young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn block_size(&self) -> u64 {
        self.block_size.into()
    }

    /// Returns how many whole blocks the image really has, whatever its superblock says.
    pub(crate) fn blocks(&self) -> u64 {
        self.source.size() / self.block_size()
    }

    /// Tells whether a block can be looked for, in the image or in the journal, and for how many from it on the same
    /// holds, at most `count`.
    pub(crate) fn has(&self, first: u64, count: u64) -> (bool, u64) {
        let there = self.blocks().saturating_sub(first);
        if there > 0 {
            return (true, count.min(there));
        }
        match self.journaled.range(first..first.saturating_add(count)).next() {
            Some((block, _)) if *block == first => (true, 1),
            Some((block, _)) => (false, block - first),
            None => (false, count),
        }
    }

    /// Lays the journal over the blocks.
    pub(crate) fn lay_over(&mut self, journaled: BTreeMap<u64, Journaled>) {
        self.journaled = journaled;
        self.young.clear();
        self.old.clear();
    }

    /// Reads a block of metadata.
    pub(crate) fn block(&mut self, block: u64, place: Place) -> Result<Rc<[u8]>, Error> {
        if let Some(bytes) = self.young.get(&block) {
            return Ok(Rc::clone(bytes));
        }
        let bytes = match self.old.remove(&block) {
            Some(bytes) => bytes,
            None => {
                let mut bytes = vec![0; self.block_size as usize];
                let offset = block.saturating_mul(self.block_size());
                self.read(offset, &mut bytes, place)?;
                bytes.into()
            }
        };
        // Twice as many as these are kept: what was not asked for since the last change of generations goes.
        if self.young.len() >= GENERATION / self.block_size as usize {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(block, Rc::clone(&bytes));
        Ok(bytes)
    }

    /// Fills the buffer from a byte of the file system on.
    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8], place: Place) -> Result<(), Error> {
        let size = self.block_size();
        let end = offset.saturating_add(buffer.len() as u64);
        let mut position = offset;
        while position < end {
            let next = self.journaled.range(position / size..end.div_ceil(size)).next().map(|(at, what)| (*at, *what));
            let start = next.map_or(end, |(block, _)| block.saturating_mul(size)).clamp(position, end);
            let filled = |position: u64| usize::try_from(position - offset).unwrap_or(buffer.len()).min(buffer.len());
            let (from, to) = (filled(position), filled(start));
            self.read_source(position, &mut buffer[from..to], place)?;
            position = start;
            if let Some((block, journaled)) = next
                && position < end
            {
                let stop = (block + 1).saturating_mul(size).min(end);
                let skip = position - block * size;
                let filled = |position: u64| usize::try_from(position - offset).unwrap_or(0);
                let (from, to) = (filled(position), filled(stop).min(buffer.len()));
                let part = &mut buffer[from..to];
                self.read_source(journaled.block.saturating_mul(size).saturating_add(skip), part, place)?;
                if journaled.escaped {
                    let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                    JOURNAL_MAGIC.iter().skip(skip).zip(part).for_each(|(magic, byte)| *byte = *magic);
                }
                position = stop;
            }
        }
        Ok(())
    }

    fn read_source(&mut self, offset: u64, buffer: &mut [u8], place: Place) -> Result<(), Error> {
        if buffer.is_empty() {
            return Ok(());
        }
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.source.size()) {
            return Err(Error::damaged(place, "it lies beyond the end of the image"));
        }
        self.source.read_exact_at(offset, buffer).map_err(|cause| Error::Unreadable { place, offset, cause })
    }
}
