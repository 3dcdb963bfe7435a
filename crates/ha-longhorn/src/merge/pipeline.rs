//! Moves the data of an image into a sink: one thread reads and finds zeros, one writes, one hashes. Buffers go
//! round, so that memory does not follow the size of the image.

use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::sink::Sink;
use crate::layered::{BLOCK, Content, Image, ImageError, is_zero};
use crate::watch::Watch;

/// Is the room of one buffer.
const BUFFER: usize = 1 << 20;
/// How many go round.
const BUFFERS: usize = 12;

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
    pub(super) bytes: Vec<u8>,
    /// For each block in `bytes`, whether it is zero.
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
    /// SHA-256 over each block of 4096 bytes that is not all zeros, in ascending order: its offset as a little-endian
    /// u64, then its bytes; at the end the size as a little-endian u64.
    pub blocks_sha256: String,
    /// SHA-256 of the whole image, when asked for: time follows the size then, not the data.
    pub sha256: Option<String>,
    /// Bytes in blocks that are not all zeros.
    pub data_bytes: u64,
}

/// Hashes an image as its data come by.
pub(super) struct Hasher {
    blocks: Sha256,
    whole: Option<Sha256>,
    position: u64,
    data_bytes: u64,
}

impl Hasher {
    pub(super) fn new(whole: bool) -> Self {
        Self { blocks: Sha256::new(), whole: whole.then(Sha256::new), position: 0, data_bytes: 0 }
    }

    fn batch(&mut self, batch: &Batch) {
        let done: Result<(), std::convert::Infallible> = batch.stretches(|position, bytes| {
            for (index, block) in bytes.chunks(BLOCK as usize).enumerate() {
                self.blocks.update((position + index as u64 * BLOCK).to_le_bytes());
                self.blocks.update(block);
            }
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
        self.blocks.update(size.to_le_bytes());
        Hashes {
            blocks_sha256: hex(&self.blocks.finalize()),
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
    let done = part.as_ref().map_or(0, |(_, done)| *done);
    let (to_writer, from_reader) = bounded::<Batch>(BUFFERS);
    let (to_hasher, from_writer) = bounded::<Batch>(BUFFERS);
    let (to_reader, recycled) = bounded::<Batch>(BUFFERS);
    for _ in 0..BUFFERS {
        let _ = to_reader.send(Batch::default());
    }
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || {
            let mut hasher = Hasher::new(whole_hash);
            for batch in from_writer {
                hasher.batch(&batch);
                let _ = to_reader.send(batch);
            }
            hasher
        });
        let writer = scope.spawn(move || write(&from_reader, to_hasher, sink, done, size, watch));
        let mut read = Ok(());
        if let Some((part, done)) = part {
            read = feed(part, 0, done.min(size), &recycled, &to_writer, watch);
        }
        read = read.and_then(|()| feed(image, done, size, &recycled, &to_writer, watch));
        drop(to_writer);
        let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
        drop(recycled);
        let hasher = hasher.join();
        // A sink that fails ends the reader too; its error is the cause.
        written.map_err(Broken::Write)?;
        match read {
            Ok(()) => {}
            Err(Some(error)) => return Err(Broken::Read(error)),
            Err(None) => return Err(Broken::Stopped),
        }
        let hasher = hasher.map_err(|_| Broken::Write(io::Error::other("the hasher panicked")))?;
        Ok(hasher.finish(size))
    })
}

fn write(
    batches: &Receiver<Batch>,
    onwards: Sender<Batch>,
    sink: &mut dyn Sink,
    done: u64,
    size: u64,
    watch: &dyn Watch,
) -> io::Result<()> {
    let mut end = 0;
    for batch in batches {
        end = batch.end();
        // A batch lies on one side of the seam.
        if end > done {
            batch.stretches(|position, bytes| sink.data(position, bytes))?;
            sink.reached(end)?;
        }
        watch.advance(batch.bytes.len() as u64);
        if onwards.send(batch).is_err() {
            return Err(io::Error::other("the hasher ended early"));
        }
    }
    let _ = (end, size);
    Ok(())
}

/// Sends the data of `[from, to)`, whole blocks of it. The error is nothing when it was stopped.
fn feed(
    image: &mut dyn Image,
    from: u64,
    to: u64,
    recycled: &Receiver<Batch>,
    onwards: &Sender<Batch>,
    watch: &dyn Watch,
) -> Result<(), Option<ImageError>> {
    let mut position = from;
    let mut batch: Option<Batch> = None;
    while position < to {
        if watch.stopped() {
            return Err(None);
        }
        let piece = image.piece_at(position).map_err(Some)?;
        if piece.content != Content::Data {
            // A block that is a hole only in its first part is read with what follows it.
            position = if piece.end >= to { to } else { (piece.end - piece.end % BLOCK).max(position) };
            if piece.end % BLOCK == 0 || piece.end >= to {
                continue;
            }
        }
        let end = piece.end.max(position + 1).next_multiple_of(BLOCK).min(to);
        while position < end {
            let current = match &mut batch {
                Some(batch) => batch,
                none => {
                    let mut empty = recycled.recv().map_err(|_| None)?;
                    empty.runs.clear();
                    empty.bytes.clear();
                    empty.zero.clear();
                    none.insert(empty)
                }
            };
            let room = BUFFER - current.bytes.len();
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(room);
            let offset = current.bytes.len();
            current.bytes.resize(offset + length, 0);
            image.read_at(position, &mut current.bytes[offset..]).map_err(Some)?;
            current.zero.extend(current.bytes[offset..].chunks(BLOCK as usize).map(is_zero));
            current.runs.push(Run { position, offset, length });
            position += length as u64;
            if current.bytes.len() >= BUFFER
                && let Some(full) = batch.take()
                && onwards.send(full).is_err()
            {
                return Ok(());
            }
        }
    }
    if let Some(last) = batch {
        let _ = onwards.send(last);
    }
    Ok(())
}
