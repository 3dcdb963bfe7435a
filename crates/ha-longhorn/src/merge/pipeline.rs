//! Moves the data of an image into a sink: one thread reads, finds zeros and writes, another hashes. Buffers go round,
//! so that memory does not follow the size of the image.

use std::io;

use blake3::Hasher as Blake3;
use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::sink::Sink;
use crate::layered::{BLOCK, Content, Image, ImageError, is_zero};
use crate::watch::Watch;

/// Is the room of one buffer: what is read is still in the processor's cache when it is written and hashed.
const BUFFER: usize = 512 << 10;
/// How many go round.
const BUFFERS: usize = 8;

/// Is a stretch of an image inside a buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) position: u64,
    /// Where its bytes begin in the buffer.
    pub(super) offset: usize,
    pub(super) length: usize,
}

/// Is a buffer with some runs, ascending. A run begins at a multiple of [`BLOCK`]; only that at the image's end may
/// be of another length.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) runs: Vec<Run>,
    /// The room; not cleared between two uses, which would cost as much as to write them once more.
    bytes: Vec<u8>,
    /// How much of it is in use.
    used: usize,
    /// For each block in use, whether it is zero.
    pub(super) zero: Vec<bool>,
}

impl Batch {
    /// Calls `each` for the longest stretches without a block of zeros.
    pub(super) fn stretches<E>(&self, mut each: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        const STEP: usize = BLOCK as usize;
        for run in &self.runs {
            let mut at = 0;
            while at < run.length {
                let zero = |at: usize| self.zero[(run.offset + at) / STEP];
                let from = at;
                let kind = zero(at);
                while at < run.length && zero(at) == kind {
                    at += STEP;
                }
                let to = at.min(run.length);
                if !kind {
                    each(run.position + from as u64, &self.bytes[run.offset + from..run.offset + to])?;
                }
            }
        }
        Ok(())
    }

    fn end(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.position + run.length as u64)
    }
}

/// Are the hashes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashes {
    /// A hash over the blocks of 4096 bytes that are not all zeros, in ascending order. BLAKE3 over: the BLAKE3 of their
    /// bytes, the BLAKE3 of their offsets as little-endian u64, the size of the image as a little-endian u64.
    pub blocks_blake3: String,
    /// SHA-256 of the whole image, when asked for: time follows the size then, not the data.
    pub sha256: Option<String>,
    /// Bytes in blocks that are not all zeros.
    pub data_bytes: u64,
}

/// Hashes an image as its data come by.
pub(super) struct Hasher {
    /// Apart from the offsets, so that it is fed in long pieces, of which it hashes many parts at once.
    bytes: Blake3,
    offsets: Blake3,
    whole: Option<Sha256>,
    position: u64,
    data_bytes: u64,
}

impl Hasher {
    pub(super) fn new(whole: bool) -> Self {
        let whole = whole.then(Sha256::new);
        Self { bytes: Blake3::new(), offsets: Blake3::new(), whole, position: 0, data_bytes: 0 }
    }

    fn batch(&mut self, batch: &Batch) {
        let done: Result<(), std::convert::Infallible> = batch.stretches(|position, bytes| {
            for index in 0..bytes.len().div_ceil(BLOCK as usize) as u64 {
                self.offsets.update(&(position + index * BLOCK).to_le_bytes());
            }
            self.bytes.update(bytes);
            self.zeros(position);
            if let Some(whole) = &mut self.whole {
                whole.update(bytes);
            }
            self.position = position + bytes.len() as u64;
            self.data_bytes += bytes.len() as u64;
            Ok(())
        });
        match done {
            Ok(()) => {}
        }
    }

    fn zeros(&mut self, to: u64) {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let Some(whole) = &mut self.whole else { return };
        let mut left = to - self.position;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            whole.update(&ZEROS[..usize::try_from(now).unwrap_or(0)]);
            left -= now;
        }
    }

    pub(super) fn finish(mut self, size: u64) -> Hashes {
        self.zeros(size);
        let mut blocks = Blake3::new();
        blocks.update(self.bytes.finalize().as_bytes());
        blocks.update(self.offsets.finalize().as_bytes());
        blocks.update(&size.to_le_bytes());
        Hashes {
            blocks_blake3: blocks.finalize().to_string(),
            sha256: self.whole.map(|whole| hex(&whole.finalize())),
            data_bytes: self.data_bytes,
        }
    }
}

/// Returns lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Is why the data did not get through.
#[derive(Debug)]
pub(super) enum Broken {
    Read(ImageError),
    Write(io::Error),
    Stopped,
}

/// Reads what `part` holds below `done`, and `image` from there on; writes the latter and hashes both.
pub(super) fn run(
    image: &mut dyn Image,
    part: Option<(&mut dyn Image, u64)>,
    sink: &mut dyn Sink,
    whole_hash: bool,
    watch: &dyn Watch,
) -> Result<Hashes, Broken> {
    let size = image.size();
    let (to_hasher, from_reader) = bounded::<Batch>(BUFFERS);
    let (to_reader, recycled) = bounded::<Batch>(BUFFERS);
    for _ in 0..BUFFERS {
        let _ = to_reader.send(Batch::default());
    }
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || {
            let mut hasher = Hasher::new(whole_hash);
            for batch in from_reader {
                hasher.batch(&batch);
                let _ = to_reader.send(batch);
            }
            hasher
        });
        let feed = Feed { recycled: &recycled, onwards: &to_hasher, watch };
        let mut done = 0;
        let mut moved = Ok(());
        if let Some((part, until)) = part {
            done = until.min(size);
            moved = feed.move_data(part, 0, done, None);
        }
        let moved = moved.and_then(|()| feed.move_data(image, done, size, Some(sink)));
        drop(to_hasher);
        let hasher = hasher.join().map_err(|_| Broken::Write(io::Error::other("the hasher panicked")));
        moved?;
        Ok(hasher?.finish(size))
    })
}

/// Is what moves data from an image to a sink and to the hasher.
struct Feed<'a> {
    recycled: &'a Receiver<Batch>,
    onwards: &'a Sender<Batch>,
    watch: &'a dyn Watch,
}

impl Feed<'_> {
    /// Moves the data of `[from, to)`, whole blocks of it. Without a sink they are hashed only.
    fn move_data(
        &self,
        image: &mut dyn Image,
        from: u64,
        to: u64,
        mut sink: Option<&mut dyn Sink>,
    ) -> Result<(), Broken> {
        let mut position = from;
        let mut batch: Option<Batch> = None;
        while position < to {
            if self.watch.stopped() {
                return Err(Broken::Stopped);
            }
            let piece = image.piece_at(position).map_err(Broken::Read)?;
            if piece.content != Content::Data {
                // A block that is a hole only in its first part is read with what follows it.
                position = if piece.end >= to { to } else { (piece.end - piece.end % BLOCK).max(position) };
                if piece.end % BLOCK == 0 || piece.end >= to {
                    continue;
                }
            }
            let end = piece.end.max(position + 1).next_multiple_of(BLOCK).min(to);
            while position < end {
                let mut current = match batch.take() {
                    Some(batch) => batch,
                    None => self.empty()?,
                };
                let offset = current.used;
                let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(BUFFER - offset);
                current.used = offset + length;
                let room = &mut current.bytes[offset..offset + length];
                image.read_at(position, room).map_err(Broken::Read)?;
                current.zero.extend(room.chunks(BLOCK as usize).map(is_zero));
                current.runs.push(Run { position, offset, length });
                position += length as u64;
                if current.used >= BUFFER {
                    self.pass(current, &mut sink)?;
                } else {
                    batch = Some(current);
                }
            }
        }
        batch.map_or(Ok(()), |last| self.pass(last, &mut sink))
    }

    fn empty(&self) -> Result<Batch, Broken> {
        let gone = |_| Broken::Write(io::Error::other("the hasher ended early"));
        let mut batch = self.recycled.recv().map_err(gone)?;
        batch.runs.clear();
        batch.bytes.resize(BUFFER, 0);
        batch.used = 0;
        batch.zero.clear();
        Ok(batch)
    }

    /// Writes a batch and hands it to the hasher.
    fn pass(&self, batch: Batch, sink: &mut Option<&mut dyn Sink>) -> Result<(), Broken> {
        if let Some(sink) = sink {
            batch.stretches(|position, bytes| sink.data(position, bytes)).map_err(Broken::Write)?;
            sink.reached(batch.end()).map_err(Broken::Write)?;
        }
        self.watch.advance(batch.used as u64);
        let gone = |_| Broken::Write(io::Error::other("the hasher ended early"));
        self.onwards.send(batch).map_err(gone)
    }
}
