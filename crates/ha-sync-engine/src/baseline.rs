//! The baseline of a pair on disk: what both sides last agreed on, directory by directory (docs/baseline.md).
//!
//! A file is written once and never changed. Reading holds one directory's block and an index of 24 bytes per
//! directory; an update collects what changed and writes the next file beside the old one.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ha_sync_core::baseline::Agreed;
use ha_sync_core::entry::Kind;
use ha_sync_core::name::{PairName, RunId};
use ha_sync_core::path::{RelPath, printable};
use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, local};
use jiff::Timestamp;
use xxhash_rust::xxh3::Xxh3;

use crate::state::PairState;

mod finish;
mod format;
mod update;

pub use update::Update;

use format::{Block, END, MAGIC, Malformed, Place, Reader, SLOT, TRAILER, VERSION, hash};

/// The header has two paths and two names; PATH_MAX is 4096.
const LONGEST_HEADER: usize = 16 * 1024;
const BUFFER: usize = 256 * 1024;

/// Says why a baseline cannot be used. To the run that is as if there were none, with a warning.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FsError),
    /// It ends too early.
    #[error("the baseline is cut off: {path}")]
    Truncated {
        /// The file.
        path: String,
    },
    /// Its bytes are not those that were written.
    #[error("the baseline is damaged: {path}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What shows it.
        what: &'static str,
    },
    /// Another release wrote it.
    #[error("the baseline has a format that this release does not know: {path}: {found}")]
    Version {
        /// The file.
        path: String,
        /// The version of its format.
        found: u32,
    },
    /// It belongs to another pair.
    #[error("the baseline belongs to pair {found}: {path}")]
    OtherPair {
        /// The file.
        path: String,
        /// The pair that it names.
        found: String,
    },
    /// It belongs to other roots.
    #[error("the baseline belongs to other roots: {path}: {one} and {other}")]
    OtherRoots {
        /// The file.
        path: String,
        /// One of the roots that it names.
        one: String,
        /// The other.
        other: String,
    },
    /// It would be larger than the format can say: a file of 1 TiB, or a directory's block of 4 GiB.
    #[error("the baseline grows too large: {path}")]
    TooLarge {
        /// The file.
        path: String,
    },
}

/// Is what a baseline belongs to: a pair and its two roots. A job from B to A names the same roots the other way
/// round, and is given the same baseline with the sides exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    pair: PairName,
    a: Vec<u8>,
    b: Vec<u8>,
}

impl Ends {
    /// Names the roots by their one path, however they are spelled. Of a one-way job A is the source.
    pub fn new(pair: &PairName, a: &Path, b: &Path) -> Self {
        let bytes = |path| local::canonical(path).as_os_str().as_bytes().to_vec();
        Self { pair: pair.clone(), a: bytes(a), b: bytes(b) }
    }

    /// Tells whether the file has the sides exchanged: in it they are in the order of their paths.
    fn swapped(&self) -> bool {
        self.a > self.b
    }

    fn ordered(&self) -> (&[u8], &[u8]) {
        if self.swapped() { (&self.b, &self.a) } else { (&self.a, &self.b) }
    }
}

/// Is what was agreed in a directory, by name.
pub type Entries = Vec<(Vec<u8>, Agreed)>;

/// Is a baseline that was found whole. May be asked by many threads.
#[derive(Debug)]
pub struct Baseline {
    file: File,
    path: PathBuf,
    header: Header,
    swapped: bool,
    /// By the hash of the path.
    index: Vec<(u128, Place)>,
    /// Where the blocks end.
    end: u64,
    entries: u64,
}

/// Is what a baseline says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The pair.
    pub pair: String,
    /// The two roots, in the order of their paths.
    pub roots: (Vec<u8>, Vec<u8>),
    /// The run that wrote it.
    pub run_id: String,
    /// When.
    pub written: Timestamp,
}

impl Baseline {
    /// Returns where the baseline of a pair is.
    pub fn file(log_directory: &Path, pair: &PairName) -> PathBuf {
        PairState::directory(log_directory, pair).join("baseline")
    }

    /// Opens and checks a baseline; nothing when there is none.
    pub fn open(path: &Path, ends: &Ends) -> Result<Option<Self>, BaselineError> {
        let Some(mut baseline) = Self::open_of(path, &ends.pair)? else { return Ok(None) };
        let roots = &baseline.header.roots;
        if (&roots.0[..], &roots.1[..]) != ends.ordered() {
            let (one, other) = (printable(&roots.0), printable(&roots.1));
            return Err(BaselineError::OtherRoots { path: printable_path(path), one, other });
        }
        baseline.swapped = ends.swapped();
        Ok(Some(baseline))
    }

    /// Opens and checks the baseline of a pair with whatever roots; its sides are in the order of their paths.
    pub fn open_of(path: &Path, pair: &PairName) -> Result<Option<Self>, BaselineError> {
        let Some(file) = local::open_if_present(path)? else { return Ok(None) };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BaselineError::Truncated { path: printable_path(path) },
            _ => FsError::local("read", path, error).into(),
        };
        let damaged = |what| BaselineError::Damaged { path: printable_path(path), what };
        let length = file.metadata().map_err(failed)?.len();
        let mut start = vec![0; length.min(LONGEST_HEADER as u64) as usize];
        file.read_exact_at(&mut start, 0).map_err(failed)?;
        let Some((magic, rest)) = start.split_at_checked(MAGIC.len()) else {
            return Err(BaselineError::Truncated { path: printable_path(path) });
        };
        if magic != MAGIC {
            return Err(damaged("it does not begin like one"));
        }
        let Some((version, rest)) = rest.split_first_chunk() else {
            return Err(BaselineError::Truncated { path: printable_path(path) });
        };
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(BaselineError::Version { path: printable_path(path), found: version });
        }
        let end = length.checked_sub(TRAILER).ok_or_else(|| BaselineError::Truncated { path: printable_path(path) })?;
        let mut trailer = [0; TRAILER as usize];
        file.read_exact_at(&mut trailer, end).map_err(failed)?;
        if trailer[TRAILER as usize - END.len()..] != *END {
            return Err(BaselineError::Truncated { path: printable_path(path) });
        }
        let checked = length - 16 - END.len() as u64;
        let sum = checksum(&file, checked).map_err(failed)?;
        if sum.to_le_bytes() != trailer[24..40] {
            return Err(damaged("its checksum differs"));
        }
        let header = read_header(rest).map_err(|Malformed| damaged("its header cannot be read"))?;
        if header.pair != pair.as_str() {
            return Err(BaselineError::OtherPair { path: printable_path(path), found: header.pair });
        }
        let number =
            |place: usize| trailer[place..].first_chunk().map_or(0, |bytes: &[u8; 8]| u64::from_le_bytes(*bytes));
        let (blocks_end, directories, entries) = (number(0), number(8), number(16));
        let index_length = directories.checked_mul(SLOT as u64);
        if index_length.and_then(|index| index.checked_add(blocks_end)) != Some(end) {
            return Err(damaged("its index has another size"));
        }
        let index = read_index(&file, blocks_end, directories as usize).map_err(failed)?;
        if !index.is_sorted_by(|(one, _), (other, _)| one < other) {
            return Err(damaged("its index is not in order"));
        }
        Ok(Some(Self { file, path: path.to_owned(), header, swapped: false, index, end: blocks_end, entries }))
    }

    /// Returns what it says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns how many directories have entries in it.
    pub fn directories(&self) -> u64 {
        self.index.len() as u64
    }

    /// Returns how many entries it has.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Returns what was agreed in a directory; nothing when nothing was. Ask only for the root, or for what its
    /// parent has as a directory.
    pub fn directory(&self, path: &RelPath) -> Result<Option<Entries>, BaselineError> {
        let Some(bytes) = self.read_block(hash(path.as_bytes()))? else { return Ok(None) };
        let block = self.understood(Block::open(&bytes))?;
        if block.path != path.as_bytes() {
            return Ok(None);
        }
        self.entries_of(block).map(Some)
    }

    /// Returns what was agreed of one path; the root has no entry.
    pub fn entry(&self, path: &RelPath) -> Result<Option<Agreed>, BaselineError> {
        let Some((directory, name)) = path.split() else { return Ok(None) };
        let Some(mut entries) = self.directory(&directory)? else { return Ok(None) };
        let found = entries.binary_search_by(|(held, _)| held.as_slice().cmp(name));
        Ok(found.ok().map(|place| entries.swap_remove(place).1))
    }

    /// Gives everything at and below a path, parents before children and by name, until it is told to stop.
    pub fn walk(&self, path: &RelPath, take: &mut dyn FnMut(&RelPath, &Agreed) -> bool) -> Result<(), BaselineError> {
        if let Some(agreed) = self.entry(path)?
            && (!take(path, &agreed) || agreed.kind != Kind::Directory)
        {
            return Ok(());
        }
        let mut levels = vec![(path.clone(), self.directory(path)?.unwrap_or_default().into_iter())];
        while let Some((directory, entries)) = levels.last_mut() {
            let Some((name, agreed)) = entries.next() else {
                levels.pop();
                continue;
            };
            let path = directory.join(&name);
            if !take(&path, &agreed) {
                return Ok(());
            }
            if agreed.kind == Kind::Directory {
                let below = self.directory(&path)?.unwrap_or_default();
                levels.push((path, below.into_iter()));
            }
        }
        Ok(())
    }

    /// Reads every block: that each is at its place in the index, and that together they have the entries counted.
    pub fn verify(&self) -> Result<(), BaselineError> {
        let mut entries = 0;
        for (hash_of_path, _) in &self.index {
            let bytes = self.read_block(*hash_of_path)?.unwrap_or_default();
            let block = self.understood(Block::open(&bytes))?;
            if hash(block.path) != *hash_of_path {
                return Err(self.damaged("a block is not where the index says"));
            }
            if RelPath::from_bytes(block.path.to_vec()).is_none() {
                return Err(self.damaged("a block has no path"));
            }
            entries += self.entries_of(block)?.len() as u64;
        }
        if entries == self.entries { Ok(()) } else { Err(self.damaged("it has another number of entries")) }
    }

    fn damaged(&self, what: &'static str) -> BaselineError {
        BaselineError::Damaged { path: printable_path(&self.path), what }
    }

    fn understood<T>(&self, read: Result<T, Malformed>) -> Result<T, BaselineError> {
        read.map_err(|Malformed| self.damaged("a block cannot be read"))
    }

    fn entries_of(&self, block: Block<'_>) -> Result<Entries, BaselineError> {
        let entries = self.understood(block.entries(self.swapped))?;
        self.understood(entries.into_iter().map(|(name, agreed)| Ok((name, agreed.ok_or(Malformed)?))).collect())
    }

    fn read_block(&self, hash: u128) -> Result<Option<Vec<u8>>, BaselineError> {
        let Ok(place) = self.index.binary_search_by_key(&hash, |(hash, _)| *hash) else { return Ok(None) };
        self.read_place(self.index[place].1).map(Some)
    }

    /// Reads a block and perhaps some bytes behind it.
    fn read_place(&self, place: Place) -> Result<Vec<u8>, BaselineError> {
        let room = self.end.saturating_sub(place.offset());
        let mut bytes = vec![0; (place.length() as u64).min(room) as usize];
        let read = self.file.read_exact_at(&mut bytes, place.offset());
        read.map_err(|error| FsError::local("read", &self.path, error))?;
        Ok(bytes)
    }
}

fn checksum(file: &File, length: u64) -> io::Result<u128> {
    let mut buffer = vec![0; BUFFER];
    let mut hash = Xxh3::new();
    let mut position = 0;
    while position < length {
        let part = (length - position).min(BUFFER as u64) as usize;
        file.read_exact_at(&mut buffer[..part], position)?;
        hash.update(&buffer[..part]);
        position += part as u64;
    }
    Ok(hash.digest128())
}

fn read_header(bytes: &[u8]) -> Result<Header, Malformed> {
    let mut reader = Reader(Reader(bytes).bytes()?);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Malformed);
    let pair = text(reader.bytes()?)?;
    let roots = (reader.bytes()?.to_vec(), reader.bytes()?.to_vec());
    let run_id = text(reader.bytes()?)?;
    let written = Timestamp::from_nanosecond(reader.signed()?).map_err(|_| Malformed)?;
    Ok(Header { pair, roots, run_id, written })
}

fn header(ends: &Ends, run: &RunId, now: Timestamp) -> Vec<u8> {
    let mut body = Vec::new();
    let (one, other) = ends.ordered();
    for part in [ends.pair.as_str().as_bytes(), one, other, run.as_str().as_bytes()] {
        format::put_bytes(&mut body, part);
    }
    format::put_signed(&mut body, now.as_nanosecond());
    let mut header = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
    format::put_bytes(&mut header, &body);
    header
}

/// `count` is a part of the file's size, which was checked.
fn read_index(file: &File, offset: u64, count: usize) -> io::Result<Vec<(u128, Place)>> {
    let mut index = Vec::with_capacity(count);
    let mut buffer = vec![0; SLOT * 4096];
    while index.len() < count {
        let part = SLOT * (count - index.len()).min(4096);
        file.read_exact_at(&mut buffer[..part], offset + (index.len() * SLOT) as u64)?;
        for slot in buffer[..part].chunks_exact(SLOT) {
            let (hash, place) = slot.split_at(16);
            let hash = hash.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes));
            let place = place.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            index.push((hash, Place(place)));
        }
    }
    Ok(index)
}

#[cfg(test)]
mod tests;
