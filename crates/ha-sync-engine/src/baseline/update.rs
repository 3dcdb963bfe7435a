//! Collects what a run changes in the baseline, and writes the next one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ha_sync_core::baseline::Agreed;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, local};
use jiff::Timestamp;

use super::finish::{Finish, Writer};
use super::format::{self, Place, hash};
use super::{BUFFER, Baseline, BaselineError, Ends};
use crate::tally::lock;

/// Is what changes in a baseline during a run. Called from many threads; what is told lies in an unnamed file, and in
/// memory only a few bytes per directory.
pub struct Update {
    ends: Ends,
    directory: PathBuf,
    told: Mutex<Told>,
}

/// Each record of the spool is the place of the one before it that amends the same directory (0 for none), and a block.
struct Told {
    spool: BufWriter<File>,
    /// Where the next record goes.
    position: u64,
    touched: HashMap<u128, Touched>,
    /// Directories that went, with all that is below: what was told before that position counts no more.
    removed: HashMap<u128, u64>,
}

/// Is the places of records in the spool.
#[derive(Clone, Copy, Default)]
pub(super) struct Touched {
    /// The record that replaces the directory's block; 0 for none.
    pub(super) put: u64,
    /// The last record that amends it; 0 for none.
    pub(super) amended: u64,
}

impl Update {
    /// Begins an update that spools in a directory, which must be there.
    pub fn new(directory: &Path, ends: &Ends) -> Result<Self, BaselineError> {
        let spool = BufWriter::with_capacity(BUFFER, local::unnamed_file(directory)?);
        let told = Told { spool, position: 0, touched: HashMap::new(), removed: HashMap::new() };
        Ok(Self { ends: ends.clone(), directory: directory.to_owned(), told: Mutex::new(told) })
    }

    /// Says all that is agreed in a directory, in place of what was said of it before but for what was amended.
    pub fn put(&self, directory: &RelPath, entries: &[(Vec<u8>, Agreed)]) -> Result<(), BaselineError> {
        let mut named: Vec<_> = entries.iter().map(|(name, agreed)| (&name[..], Some(agreed))).collect();
        named.sort_by_key(|(name, _)| *name);
        self.tell(directory, named, |touched, place| touched.put = place)
    }

    /// Says what is agreed of one name, or that nothing is. It counts whatever [`Update::put`] says, also later.
    pub fn amend(&self, directory: &RelPath, name: &[u8], agreed: Option<&Agreed>) -> Result<(), BaselineError> {
        self.tell(directory, vec![(name, agreed)], |touched, place| touched.amended = place)
    }

    /// Says what is agreed of some names of a directory, which is cheaper than one by one.
    pub fn amend_all(&self, directory: &RelPath, entries: &[(Vec<u8>, Option<Agreed>)]) -> Result<(), BaselineError> {
        let mut named: Vec<_> = entries.iter().map(|(name, agreed)| (&name[..], agreed.as_ref())).collect();
        // Of a name that comes twice the later one counts.
        named.reverse();
        named.sort_by_key(|(name, _)| *name);
        named.dedup_by_key(|(name, _)| *name);
        if named.is_empty() {
            return Ok(());
        }
        self.tell(directory, named, |touched, place| touched.amended = place)
    }

    /// Says that nothing is agreed below a directory any more; its entry in its parent is amended apart. What is told
    /// later counts. (A directory whose entry goes, or becomes another type's, loses what is below it in any case.)
    pub fn remove_directory(&self, directory: &RelPath) {
        let mut told = lock(&self.told);
        let position = told.position;
        told.removed.insert(hash(directory.as_bytes()), position);
    }

    fn tell(
        &self,
        directory: &RelPath,
        entries: Vec<(&[u8], Option<&Agreed>)>,
        note: impl FnOnce(&mut Touched, u64),
    ) -> Result<(), BaselineError> {
        let block = format::write_block(directory.as_bytes(), entries.into_iter(), self.ends.swapped());
        let mut told = lock(&self.told);
        let Told { spool, position, touched, .. } = &mut *told;
        let touched = touched.entry(hash(directory.as_bytes())).or_default();
        let place = Place::new(*position, block.len() + 8);
        let place = place.ok_or_else(|| BaselineError::TooLarge { path: printable_path(&self.directory) })?;
        let written = spool.write_all(&touched.amended.to_le_bytes()).and_then(|()| spool.write_all(&block));
        written.map_err(|error| spooling(&self.directory, error))?;
        *position += block.len() as u64 + 8;
        note(touched, place.0);
        Ok(())
    }

    /// Writes the next baseline at `path` from the old one and what was told, whole or not at all; returns whether
    /// there was anything to write. The directory of `path` must be there.
    pub fn finish(
        self,
        path: &Path,
        old: Option<&Baseline>,
        run: &RunId,
        now: Timestamp,
    ) -> Result<bool, BaselineError> {
        let Self { ends, directory, told } = self;
        let Told { spool, touched, removed, .. } = told.into_inner().unwrap_or_else(PoisonError::into_inner);
        let spool = spool.into_inner().map_err(|error| spooling(&directory, error.into_error()))?;
        let mut finish = Finish { spool, directory: &directory, old, touched, removed };
        finish.settle()?;
        if finish.touched.is_empty() && finish.removed.is_empty() {
            return Ok(false);
        }
        let mut writer = Writer::begin(path, run)?;
        writer.append(&super::header(&ends, run, now))?;
        finish.write(&mut writer)?;
        writer.commit()?;
        Ok(true)
    }
}

pub(super) fn spooling(directory: &Path, error: std::io::Error) -> BaselineError {
    FsError::local("spool the baseline in", directory, error).into()
}
