//! A plan on disk: batches as JSON lines in an unnamed file beside the log, so that a plan of any size waits for the
//! limits in bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use ha_sync_core::plan::Batch;
use ha_sync_fs::FsError;

use crate::tally::lock;

pub(crate) struct Spool {
    writer: Mutex<(BufWriter<File>, u64)>,
}

/// Says that the plan could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("failed to spool the plan beside the log")]
pub struct SpoolError(#[from] io::Error);

impl Spool {
    pub(crate) fn new(directory: &Path) -> Result<Self, FsError> {
        let file = ha_sync_fs::local::unnamed_file(directory)?;
        Ok(Self { writer: Mutex::new((BufWriter::with_capacity(128 * 1024, file), 0)) })
    }

    /// Keeps a batch, and says where.
    pub(crate) fn push(&self, batch: &Batch) -> Result<u64, SpoolError> {
        let mut line = serde_json::to_vec(batch).map_err(io::Error::from)?;
        line.push(b'\n');
        let mut writer = lock(&self.writer);
        let place = writer.1;
        writer.0.write_all(&line)?;
        writer.1 += line.len() as u64;
        Ok(place)
    }

    /// Reads the batch that was kept at a place.
    pub(crate) fn read(&self, place: u64) -> Result<Batch, SpoolError> {
        let mut writer = lock(&self.writer);
        writer.0.flush()?;
        let (mut line, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = writer.0.get_ref().read_at(&mut buffer, place + line.len() as u64)?;
            let end = buffer[..count].iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&buffer[..end.unwrap_or(count)]);
            if end.is_some() || count == 0 {
                return Ok(serde_json::from_slice(&line).map_err(io::Error::from)?);
            }
        }
    }

    /// Tells whether nothing was kept.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.writer).1 == 0
    }

    /// Reads the batches back in the order in which they were pushed.
    pub(crate) fn replay(&self, mut take: impl FnMut(Batch) -> bool) -> Result<(), SpoolError> {
        let mut writer = lock(&self.writer);
        writer.0.flush()?;
        let mut file = writer.0.get_ref().try_clone()?;
        drop(writer);
        file.seek(SeekFrom::Start(0))?;
        for line in BufReader::with_capacity(128 * 1024, file).split(b'\n') {
            let batch = serde_json::from_slice(&line?).map_err(io::Error::from)?;
            if !take(batch) {
                break;
            }
        }
        Ok(())
    }
}
