//! A plan on disk: batches as JSON lines in an unnamed file beside the log, so that a plan of any size waits for the
//! limits in bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;

use ha_sync_core::plan::Batch;
use ha_sync_fs::FsError;

use crate::tally::lock;

pub(crate) struct Spool {
    writer: Mutex<BufWriter<File>>,
}

/// Says that the plan could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("failed to spool the plan beside the log")]
pub struct SpoolError(#[from] io::Error);

impl Spool {
    pub(crate) fn new(directory: &Path) -> Result<Self, FsError> {
        let file = ha_sync_fs::local::unnamed_file(directory)?;
        Ok(Self { writer: Mutex::new(BufWriter::with_capacity(128 * 1024, file)) })
    }

    pub(crate) fn push(&self, batch: &Batch) -> Result<(), SpoolError> {
        let mut line = serde_json::to_vec(batch).map_err(io::Error::from)?;
        line.push(b'\n');
        Ok(lock(&self.writer).write_all(&line)?)
    }

    /// Reads the batches back in the order in which they were pushed.
    pub(crate) fn replay(&self, mut take: impl FnMut(Batch) -> bool) -> Result<(), SpoolError> {
        let mut writer = lock(&self.writer);
        writer.flush()?;
        let mut file = writer.get_ref().try_clone()?;
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
