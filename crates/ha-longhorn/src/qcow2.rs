//! Reads qcow2 images, versions 2 and 3: compressed clusters (zlib) and backing files, no encryption. The format is
//! that of `docs/interop/qcow2.rst` in QEMU.

mod write;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;
use ha_sync_fs::error::printable_path;

use crate::backing;
use crate::layered::{Content, Image, ImageError, Piece};
use crate::source::SourceFile;

pub use write::{Qcow2Writer, Target};

/// Is what the file begins with.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// How many files may stand on one another.
const MOST_FILES: usize = 32;
/// Tables that are kept; each is one cluster, at most 2 MiB.
const TABLES: usize = 4;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// Is why a qcow2 image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// The header is no qcow2 header, or says what cannot be.
    #[error("not a usable qcow2 image: {path}: {why}")]
    Header {
        /// The file.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The image needs what this reader does not have.
    #[error("qcow2 image with {what}, which is not supported: {path}")]
    Unsupported {
        /// The file.
        path: String,
        /// What it needs.
        what: &'static str,
    },
    /// A table or a cluster lies beyond the end of the file.
    #[error("truncated qcow2 image: {path}: {what} at {offset} ends beyond the file's {length} bytes")]
    Truncated {
        /// The file.
        path: String,
        /// What lies there.
        what: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// The length of the file.
        length: u64,
    },
    /// A compressed cluster cannot be unpacked.
    #[error("damaged qcow2 image: {path}: the compressed cluster at {offset} cannot be unpacked")]
    Compressed {
        /// The file.
        path: String,
        /// Where, in bytes.
        offset: u64,
    },
    /// The backing files form a loop, or there are too many of them.
    #[error("more than {MOST_FILES} backing files under a qcow2 image: {path}")]
    TooDeep {
        /// The file.
        path: String,
    },
}

/// Is the part of the header that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The size of a cluster, as a power of two.
    pub cluster_bits: u32,
    /// The virtual size in bytes.
    pub size: u64,
    /// Entries of the first table.
    pub l1_entries: u64,
    /// Where the first table lies.
    pub l1_offset: u64,
    /// Where the name of the backing file lies; zero for none.
    pub backing_offset: u64,
    /// The length of that name.
    pub backing_length: usize,
}

/// Parses the first bytes of a file; the error is what is wrong or not supported.
pub fn header(bytes: &[u8]) -> Result<Header, HeaderError> {
    use HeaderError::{Invalid, Unsupported};
    let u32_at =
        |offset: usize| bytes.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let u64_at =
        |offset: usize| bytes.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    let short = Invalid("the header is cut off");
    if !bytes.starts_with(&MAGIC) {
        return Err(Invalid("it does not begin as one"));
    }
    let version = u32_at(4).ok_or(short)?;
    let header = Header {
        backing_offset: u64_at(8).ok_or(short)?,
        backing_length: u32_at(16).ok_or(short)? as usize,
        cluster_bits: u32_at(20).ok_or(short)?,
        size: u64_at(24).ok_or(short)?,
        l1_entries: u64::from(u32_at(36).ok_or(short)?),
        l1_offset: u64_at(40).ok_or(short)?,
    };
    if u32_at(32).ok_or(short)? != 0 {
        return Err(Unsupported("encryption"));
    }
    match version {
        2 => {}
        3 => {
            let features = u64_at(72).ok_or(short)?;
            let header_length = u32_at(100).ok_or(short)?;
            if features & 2 != 0 {
                return Err(Invalid("it is marked as corrupt"));
            }
            if features & 4 != 0 {
                return Err(Unsupported("an external data file"));
            }
            if features & 8 != 0 && header_length > 104 && bytes.get(104).is_none_or(|kind| *kind != 0) {
                return Err(Unsupported("zstd compression"));
            }
            if features & 16 != 0 {
                return Err(Unsupported("extended tables"));
            }
            if features & !31 != 0 {
                return Err(Unsupported("an unknown feature"));
            }
        }
        _ => return Err(Unsupported("another version than 2 and 3")),
    }
    if !(9..=21).contains(&header.cluster_bits) {
        return Err(Invalid("the size of a cluster is out of range"));
    }
    if header.backing_length > 1023 {
        return Err(Invalid("the name of the backing file is too long"));
    }
    let covered = header.l1_entries.checked_shl(2 * header.cluster_bits - 3);
    if header.l1_entries > (32 << 20) / 8 || covered.is_none_or(|covered| covered < header.size) {
        return Err(Invalid("the first table does not fit the size"));
    }
    Ok(header)
}

/// Is what is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// It is damaged.
    Invalid(&'static str),
    /// It needs what is not there.
    Unsupported(&'static str),
}

/// Is an open qcow2 image with its backing files.
pub struct Qcow2Image {
    file: SourceFile,
    header: Header,
    backing: Option<Box<dyn Image>>,
    /// Second tables by their number, the one used last at the end.
    tables: Vec<(u64, Vec<u8>)>,
    /// The compressed cluster that was unpacked last.
    unpacked: Option<(u64, Vec<u8>)>,
}

enum Cluster {
    Unallocated,
    Zeros,
    At(u64),
    Compressed { offset: u64, length: usize },
}

impl Qcow2Image {
    /// Takes an open file and opens its backing files. `depth` counts the files above it.
    pub fn new(file: SourceFile, depth: usize) -> Result<Self, ImageError> {
        let path = printable_path(file.path());
        if depth >= MOST_FILES {
            return Err(Qcow2Error::TooDeep { path }.into());
        }
        let mut bytes = vec![0; usize::try_from(file.size().min(512)).unwrap_or(0)];
        file.read_at(0, &mut bytes)?;
        let header = header(&bytes).map_err(|error| match error {
            HeaderError::Invalid(why) => Qcow2Error::Header { path: path.clone(), why },
            HeaderError::Unsupported(what) => Qcow2Error::Unsupported { path: path.clone(), what },
        })?;
        let mut image = Self { file, header, backing: None, tables: Vec::new(), unpacked: None };
        image.inside("the first table", header.l1_offset, header.l1_entries * 8)?;
        if header.backing_offset != 0 && header.backing_length != 0 {
            image.inside("the name of the backing file", header.backing_offset, header.backing_length as u64)?;
            let mut name = vec![0; header.backing_length];
            image.file.read_at(header.backing_offset, &mut name)?;
            let below = backing_path(image.file.path(), &name);
            image.backing = Some(backing::open_at(&below, depth + 1)?);
        }
        Ok(image)
    }

    fn inside(&self, what: &'static str, offset: u64, length: u64) -> Result<(), Qcow2Error> {
        match offset.checked_add(length) {
            Some(end) if end <= self.file.size() => Ok(()),
            _ => {
                let path = printable_path(self.file.path());
                Err(Qcow2Error::Truncated { path, what, offset, length: self.file.size() })
            }
        }
    }

    fn cluster_size(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    fn table(&mut self, number: u64) -> Result<Option<&[u8]>, ImageError> {
        if let Some(index) = self.tables.iter().position(|(kept, _)| *kept == number) {
            let table = self.tables.remove(index);
            self.tables.push(table);
        } else {
            let mut entry = [0; 8];
            self.file.read_at(self.header.l1_offset + number * 8, &mut entry)?;
            let offset = u64::from_be_bytes(entry) & OFFSET;
            if offset == 0 {
                return Ok(None);
            }
            self.inside("a second table", offset, self.cluster_size())?;
            let mut table = vec![0; usize::try_from(self.cluster_size()).unwrap_or(0)];
            self.file.read_at(offset, &mut table)?;
            if self.tables.len() == TABLES {
                self.tables.remove(0);
            }
            self.tables.push((number, table));
        }
        Ok(self.tables.last().map(|(_, table)| table.as_slice()))
    }

    fn cluster(&mut self, number: u64) -> Result<Cluster, ImageError> {
        let bits = self.header.cluster_bits;
        let entries = 1_u64 << (bits - 3);
        let Some(table) = self.table(number / entries)? else { return Ok(Cluster::Unallocated) };
        let place = usize::try_from(number % entries).unwrap_or(0) * 8;
        let entry = table[place..place + 8].try_into().map(u64::from_be_bytes).unwrap_or(0);
        if entry & COMPRESSED != 0 {
            let shift = 62 - (bits - 8);
            let offset = entry & ((1 << shift) - 1);
            let sectors = (entry & !(3 << 62)) >> shift;
            let end = (offset & !511) + (sectors + 1) * 512;
            // The last sector may be cut off at the end of the file.
            let length = end.min(self.file.size()).saturating_sub(offset);
            self.inside("a compressed cluster", offset, length.max(1))?;
            return Ok(Cluster::Compressed { offset, length: usize::try_from(length).unwrap_or(0) });
        }
        if entry & ZERO != 0 {
            return Ok(Cluster::Zeros);
        }
        match entry & OFFSET {
            0 => Ok(Cluster::Unallocated),
            offset => {
                let needed = self.cluster_size().min(self.header.size - (number << bits));
                self.inside("a cluster", offset, needed)?;
                Ok(Cluster::At(offset))
            }
        }
    }

    fn unpack(&mut self, offset: u64, length: usize) -> Result<&[u8], ImageError> {
        if self.unpacked.as_ref().is_none_or(|(kept, _)| *kept != offset) {
            let mut packed = vec![0; length];
            self.file.read_at(offset, &mut packed)?;
            let mut cluster = vec![0; usize::try_from(self.cluster_size()).unwrap_or(0)];
            DeflateDecoder::new(&packed[..])
                .read_exact(&mut cluster)
                .map_err(|_| Qcow2Error::Compressed { path: printable_path(self.file.path()), offset })?;
            self.unpacked = Some((offset, cluster));
        }
        Ok(self.unpacked.as_ref().map_or(&[], |(_, cluster)| cluster.as_slice()))
    }
}

impl Image for Qcow2Image {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn piece_at(&mut self, position: u64) -> Result<Piece, ImageError> {
        let bits = self.header.cluster_bits;
        let end = ((position >> bits) + 1) << bits;
        let end = end.min(self.header.size);
        Ok(match self.cluster(position >> bits)? {
            Cluster::Unallocated => match &mut self.backing {
                Some(backing) if position < backing.size() => {
                    let piece = backing.piece_at(position)?;
                    Piece { end: piece.end.min(end), ..piece }
                }
                _ => Piece { end, content: Content::Hole },
            },
            Cluster::Zeros => Piece { end, content: Content::Zeros },
            Cluster::At(_) | Cluster::Compressed { .. } => Piece { end, content: Content::Data },
        })
    }

    fn read_at(&mut self, position: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let (mut position, mut buffer) = (position, buffer);
        while !buffer.is_empty() {
            if position >= self.header.size {
                buffer.fill(0);
                break;
            }
            let within = position & (self.cluster_size() - 1);
            let left = (self.cluster_size() - within).min(self.header.size - position);
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let (now, rest) = buffer.split_at_mut(length);
            match self.cluster(position >> self.header.cluster_bits)? {
                Cluster::Unallocated => match &mut self.backing {
                    Some(backing) => backing.read_at(position, now)?,
                    None => now.fill(0),
                },
                Cluster::Zeros => now.fill(0),
                Cluster::At(offset) => self.file.read_at(offset + within, now)?,
                Cluster::Compressed { offset, length: packed } => {
                    let within = usize::try_from(within).unwrap_or(0);
                    now.copy_from_slice(&self.unpack(offset, packed)?[within..within + length]);
                }
            }
            (position, buffer) = (position + length as u64, rest);
        }
        Ok(())
    }

    fn files(&self) -> Vec<&SourceFile> {
        let backing = self.backing.iter().flat_map(|backing| backing.files());
        std::iter::once(&self.file).chain(backing).collect()
    }
}

/// Returns the path of a backing file, relative to the image that names it.
fn backing_path(image: &Path, name: &[u8]) -> PathBuf {
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
    image.parent().unwrap_or(Path::new("")).join(name)
}
