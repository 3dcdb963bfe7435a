//! Writes the next baseline from the old one and the spool of an update. Sides are in the order of the file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ha_sync_core::entry::Kind;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_fs::FsError;
use ha_sync_fs::error::printable_path;
use ha_sync_fs::local::Replacement;
use xxhash_rust::xxh3::Xxh3;

use super::format::{self, Block, END, Malformed, Named, Place, hash};
use super::update::{Touched, spooling};
use super::{BUFFER, Baseline, BaselineError};

pub(super) struct Finish<'a> {
    pub(super) spool: File,
    /// Where the spool is, for errors.
    pub(super) directory: &'a Path,
    pub(super) old: Option<&'a Baseline>,
    pub(super) touched: HashMap<u128, Touched>,
    /// Directories that went: what was told of them before that position of the spool counts no more.
    pub(super) removed: HashMap<u128, u64>,
}

/// Is a directory as it will be: its path, and its entries, all of them agreed.
type Final = (Vec<u8>, Vec<Named>);

impl Finish<'_> {
    /// Finds directories that were touched and yet are as they were, and those that go because their entries do.
    pub(super) fn settle(&mut self) -> Result<(), BaselineError> {
        let Some(old) = self.old else { return Ok(()) };
        let mut unchanged = Vec::new();
        let mut gone = Vec::new();
        for (&hash_of_path, &touched) in &self.touched {
            let Some((path, now)) = self.final_block(hash_of_path, touched)? else {
                unchanged.push(hash_of_path);
                continue;
            };
            let before = self.old_entries(old, &path)?;
            if before == now {
                unchanged.push(hash_of_path);
            }
            let directories = |entries: Vec<Named>| {
                entries
                    .into_iter()
                    .filter(|(_, agreed)| agreed.as_ref().is_some_and(|agreed| agreed.kind == Kind::Directory))
                    .map(|(name, _)| name)
            };
            let mut now = directories(now).peekable();
            for name in directories(before) {
                while now.next_if(|held| *held < name).is_some() {}
                if now.peek() != Some(&name) {
                    let directory = RelPath::from_bytes(path.clone()).unwrap_or_default();
                    gone.push(hash(directory.join(&name).as_bytes()));
                }
            }
        }
        for hash_of_path in unchanged {
            self.touched.remove(&hash_of_path);
        }
        self.removed.extend(gone.into_iter().map(|hash_of_path| (hash_of_path, u64::MAX)));
        Ok(())
    }

    /// Writes the blocks that changed, then those of the old file that did not.
    pub(super) fn write(&self, writer: &mut Writer) -> Result<(), BaselineError> {
        for (&hash_of_path, &touched) in &self.touched {
            let Some((path, entries)) = self.final_block(hash_of_path, touched)? else { continue };
            if !entries.is_empty() {
                let named = entries.iter().map(|(name, agreed)| (&name[..], agreed.as_ref()));
                writer.block(hash_of_path, &format::write_block(&path, named, false), entries.len())?;
            }
        }
        let Some(old) = self.old else { return Ok(()) };
        let mut places = old.index.clone();
        places.sort_unstable_by_key(|(_, place)| *place);
        for (hash_of_path, place) in places {
            if self.touched.contains_key(&hash_of_path) {
                continue;
            }
            let bytes = old.read_place(place)?;
            let block = old.understood(Block::open(&bytes))?;
            if self.removed.is_empty() || self.removed_at(block.path).is_none() {
                writer.block(hash_of_path, &bytes[..block.length], block.count())?;
            }
        }
        Ok(())
    }

    /// Returns when a directory or one above it went, if one did.
    fn removed_at(&self, path: &[u8]) -> Option<u64> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        let ends = std::iter::once(0).chain(ends).chain(std::iter::once(path.len()));
        ends.filter_map(|end| self.removed.get(&hash(&path[..end]))).max().copied()
    }

    fn old_entries(&self, old: &Baseline, path: &[u8]) -> Result<Vec<Named>, BaselineError> {
        if self.removed_at(path).is_some() {
            return Ok(Vec::new());
        }
        let Some(bytes) = old.read_block(hash(path))? else { return Ok(Vec::new()) };
        let block = old.understood(Block::open(&bytes))?;
        if block.path == path { old.understood(block.entries(false)) } else { Ok(Vec::new()) }
    }

    /// Returns a directory as it will be; nothing when all that was told of it counts no more.
    fn final_block(&self, hash_of_path: u128, touched: Touched) -> Result<Option<Final>, BaselineError> {
        let mut path: Option<Vec<u8>> = None;
        let mut floor = 0;
        let mut base = None;
        let mut amended = BTreeMap::new();
        for (first, is_put) in [(touched.put, true), (touched.amended, false)] {
            let mut next = first;
            while next != 0 {
                let place = Place(next);
                let bytes = self.read_record(place)?;
                let Some((before, block)) = bytes.split_first_chunk() else { return Err(self.malformed()) };
                let block = Block::open(block).map_err(|Malformed| self.malformed())?;
                if path.is_none() {
                    if hash(block.path) != hash_of_path {
                        return Err(self.malformed());
                    }
                    floor = self.removed_at(block.path).unwrap_or(0);
                    path = Some(block.path.to_vec());
                }
                if place.offset() < floor {
                    break;
                }
                let entries = block.entries(false).map_err(|Malformed| self.malformed())?;
                if is_put {
                    base = Some(entries);
                    break;
                }
                for (name, agreed) in entries {
                    amended.entry(name).or_insert(agreed);
                }
                next = u64::from_le_bytes(*before);
            }
        }
        let Some(path) = path else { return Ok(None) };
        let base = match (base, self.old) {
            (Some(entries), _) => entries,
            (None, _) if amended.is_empty() => return Ok(None),
            (None, Some(old)) => self.old_entries(old, &path)?,
            (None, None) => Vec::new(),
        };
        let kept = base.into_iter().filter(|(name, _)| !amended.contains_key(name)).collect::<Vec<_>>();
        let mut entries = kept;
        entries.extend(amended.into_iter().filter(|(_, agreed)| agreed.is_some()));
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Some((path, entries)))
    }

    fn read_record(&self, place: Place) -> Result<Vec<u8>, BaselineError> {
        let mut bytes = vec![0; place.length()];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.spool.read_at(&mut bytes[filled..], place.offset() + filled as u64) {
                // The length is rounded up, and the last record ends the spool.
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(spooling(self.directory, error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn malformed(&self) -> BaselineError {
        let what = "its spool cannot be read back";
        BaselineError::Damaged { path: printable_path(self.directory), what }
    }
}

/// Is the next file while it is written.
pub(super) struct Writer {
    file: BufWriter<Replacement>,
    path: PathBuf,
    position: u64,
    hash: Xxh3,
    index: Vec<(u128, Place)>,
    entries: u64,
}

impl Writer {
    pub(super) fn begin(path: &Path, run: &RunId) -> Result<Self, BaselineError> {
        let file = BufWriter::with_capacity(BUFFER, Replacement::begin(path, run.as_str())?);
        Ok(Self { file, path: path.to_owned(), position: 0, hash: Xxh3::new(), index: Vec::new(), entries: 0 })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), BaselineError> {
        self.hash.update(bytes);
        self.position += bytes.len() as u64;
        let written = self.file.write_all(bytes);
        written.map_err(|error| FsError::local("write", &self.path, error).into())
    }

    fn block(&mut self, hash: u128, block: &[u8], entries: usize) -> Result<(), BaselineError> {
        let place = Place::new(self.position, block.len());
        let place = place.ok_or_else(|| BaselineError::TooLarge { path: printable_path(&self.path) })?;
        self.index.push((hash, place));
        self.entries += entries as u64;
        self.append(block)
    }

    /// Writes the index and the trailer, and puts the file in its place.
    pub(super) fn commit(mut self) -> Result<(), BaselineError> {
        let end = self.position;
        let mut index = std::mem::take(&mut self.index);
        index.sort_unstable();
        for (hash, place) in &index {
            self.append(&hash.to_le_bytes())?;
            self.append(&place.0.to_le_bytes())?;
        }
        for number in [end, index.len() as u64, self.entries] {
            self.append(&number.to_le_bytes())?;
        }
        let sum = self.hash.digest128();
        let trailer = [&sum.to_le_bytes()[..], END].concat();
        self.file.write_all(&trailer).map_err(|error| FsError::local("write", &self.path, error))?;
        let file = self.file.into_inner().map_err(|error| FsError::local("write", &self.path, error.into_error()))?;
        Ok(file.commit()?)
    }
}
