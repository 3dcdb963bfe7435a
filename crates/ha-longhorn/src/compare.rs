//! Which blocks of two images differ.

use serde::Serialize;

use crate::layered::{BLOCK, Content, Image, ImageError, Piece};
use crate::watch::Watch;

/// How many ranges are listed; all are counted.
pub const MOST_RANGES: usize = 10_000;

/// Is a range in which every block differs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first byte.
    pub start: u64,
    /// The byte behind the last one.
    pub end: u64,
}

/// Is how two images differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Both sizes in bytes.
    pub sizes: [u64; 2],
    /// Blocks of 4096 bytes that differ; one image's blocks beyond the other's end are compared with zeros.
    pub blocks: u64,
    /// How many ranges they form.
    pub range_count: u64,
    /// The first of them.
    pub ranges: Vec<Range>,
}

impl Difference {
    /// Tells whether the images are the same.
    pub fn is_none(&self) -> bool {
        self.blocks == 0 && self.sizes[0] == self.sizes[1]
    }

    fn add(&mut self, start: u64, end: u64, last_end: &mut u64) {
        self.blocks += 1;
        if *last_end == start && self.range_count > 0 {
            if self.range_count as usize <= MOST_RANGES
                && let Some(last) = self.ranges.last_mut()
            {
                last.end = end;
            }
        } else {
            self.range_count += 1;
            if self.ranges.len() < MOST_RANGES {
                self.ranges.push(Range { start, end });
            }
        }
        *last_end = end;
    }
}

/// Compares two images; where neither has data nothing is read. Nothing when it was stopped.
pub fn compare(
    left: &mut dyn Image,
    right: &mut dyn Image,
    watch: &dyn Watch,
) -> Result<Option<Difference>, ImageError> {
    let sizes = [left.size(), right.size()];
    let size = sizes[0].max(sizes[1]);
    watch.expect(size);
    let mut difference = Difference { sizes, ..Difference::default() };
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let (mut position, mut last_end) = (0, u64::MAX);
    while position < size {
        if watch.stopped() {
            return Ok(None);
        }
        let mut end = size;
        let mut data = false;
        for piece in [piece(left, position)?, piece(right, position)?].into_iter().flatten() {
            end = end.min(piece.end);
            data |= piece.content == Content::Data;
        }
        // Whole blocks: where the two pieces end inside one, it is read.
        let whole = if data { end.next_multiple_of(BLOCK) } else { end - end % BLOCK };
        let (end, data) = if whole > position { (whole.min(size), data) } else { ((position + BLOCK).min(size), true) };
        let from = position;
        while data && position < end {
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffers[0].len());
            let [a, b] = &mut buffers;
            read(left, position, &mut a[..length])?;
            read(right, position, &mut b[..length])?;
            if a[..length] != b[..length] {
                let blocks = a[..length].chunks(BLOCK as usize).zip(b[..length].chunks(BLOCK as usize));
                for (index, (a, b)) in blocks.enumerate() {
                    if a != b {
                        let start = position + index as u64 * BLOCK;
                        difference.add(start, start + a.len() as u64, &mut last_end);
                    }
                }
            }
            position += length as u64;
        }
        position = end;
        watch.advance(position - from);
    }
    Ok(Some(difference))
}

fn piece(image: &mut dyn Image, position: u64) -> Result<Option<Piece>, ImageError> {
    if position < image.size() { image.piece_at(position).map(Some) } else { Ok(None) }
}

fn read(image: &mut dyn Image, position: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
    if position >= image.size() {
        buffer.fill(0);
        return Ok(());
    }
    image.read_at(position, buffer)
}
