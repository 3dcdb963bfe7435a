//! The files of an ext4 file system inside an image, read without root and without a mount. What its journal holds is
//! laid over the blocks in memory, so nothing that was synced is skipped (volumes.md §5).

use std::io::{self, Write};
use std::path::PathBuf;

use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Metadata};
pub use ha_sync_core::path::printable;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::layered::{Image, ImageError};
use crate::merge::hex;

/// Is why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The file system cannot be opened.
    #[error("failed to open the ext4 file system")]
    Open(#[source] Ext4Error),
    /// A path cannot be read.
    #[error("failed to read inside the volume: {path}")]
    Read {
        /// The path inside the volume, printable.
        path: String,
        /// Why.
        #[source]
        cause: Ext4Error,
    },
    /// The content cannot be passed on.
    #[error("failed to write what was read: {path}")]
    Write {
        /// The path inside the volume, printable.
        path: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// What was found at a path is not what was asked for.
    #[error("not a {wanted}: {path}")]
    Kind {
        /// The path inside the volume, printable.
        path: String,
        /// What was asked for.
        wanted: &'static str,
    },
}

impl FilesError {
    /// Tells whether the path is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { cause: Ext4Error::NotFound, .. })
    }
}

/// Is what an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A socket, FIFO or device.
    Special,
}

/// Is an entry of a directory inside the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path from the root of the volume, beginning with `/`, as bytes.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The length in bytes.
    pub length: u64,
    /// Permissions.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was modified last: seconds since 1970 and ns.
    pub modified: (i64, u32),
    /// Where a link points to.
    pub target: Option<Vec<u8>>,
}

impl Entry {
    /// Returns the last name.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// Is an open file system.
pub struct Files {
    ext4: Ext4,
}

struct Reader(Box<dyn Image>);

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let end = start.checked_add(buffer.len() as u64).filter(|end| *end <= self.0.size());
        if end.is_none() {
            return Err("the file system is longer than the volume".into());
        }
        self.0.read_at(start, buffer).map_err(|error: ImageError| error.into())
    }
}

impl Files {
    /// Opens the file system of an image.
    pub fn open(image: Box<dyn Image>) -> Result<Self, FilesError> {
        Ok(Self { ext4: Ext4::load(Box::new(Reader(image))).map_err(FilesError::Open)? })
    }

    /// Looks at a path; a link at its end is not followed.
    pub fn entry(&self, path: &[u8]) -> Result<Entry, FilesError> {
        let path = absolute(path);
        let metadata = self.ext4.symlink_metadata(inner(&path)?).map_err(read(&path))?;
        self.describe(path, &metadata)
    }

    /// Lists a directory by name, without `.` and `..`.
    pub fn list(&self, path: &[u8]) -> Result<Vec<Entry>, FilesError> {
        let path = absolute(path);
        let mut entries = Vec::new();
        for entry in self.ext4.read_dir(inner(&path)?).map_err(read(&path))? {
            let entry = entry.map_err(read(&path))?;
            let name = entry.file_name();
            let name: &[u8] = name.as_ref();
            if name == b"." || name == b".." {
                continue;
            }
            let mut below = path.clone();
            if below.last() != Some(&b'/') {
                below.push(b'/');
            }
            below.extend_from_slice(name);
            // Of a directory entry this would follow a link.
            let metadata = self.ext4.symlink_metadata(inner(&below)?).map_err(read(&below))?;
            entries.push(self.describe(below, &metadata)?);
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Calls `each` for an entry and all below it, a directory before what it holds. What cannot be read is handed to
    /// `failed`, and left out.
    pub fn walk<E>(
        &self,
        path: &[u8],
        each: &mut dyn FnMut(&Entry) -> Result<(), E>,
        failed: &mut dyn FnMut(FilesError),
    ) -> Result<(), E> {
        let mut waiting = match self.entry(path) {
            Ok(entry) => vec![entry],
            Err(error) => {
                failed(error);
                Vec::new()
            }
        };
        while let Some(entry) = waiting.pop() {
            each(&entry)?;
            if entry.kind == Kind::Directory {
                match self.list(&entry.path) {
                    Ok(below) => waiting.extend(below.into_iter().rev()),
                    Err(error) => failed(error),
                }
            }
        }
        Ok(())
    }

    /// Copies the content of a regular file to `out`. Returns the number of bytes.
    pub fn copy(&self, path: &[u8], out: &mut dyn Write) -> Result<u64, FilesError> {
        let path = absolute(path);
        let mut file = self.ext4.open(inner(&path)?).map_err(read(&path))?;
        let mut buffer = vec![0; 256 << 10];
        let mut copied = 0;
        loop {
            let length = file.read_bytes(&mut buffer).map_err(read(&path))?;
            if length == 0 {
                return Ok(copied);
            }
            out.write_all(&buffer[..length]).map_err(|cause| FilesError::Write { path: printable(&path), cause })?;
            copied += length as u64;
        }
    }

    /// Returns the SHA-256 of a regular file.
    pub fn sha256(&self, path: &[u8]) -> Result<String, FilesError> {
        let mut hash = Hashing(Sha256::new());
        self.copy(path, &mut hash)?;
        Ok(hex(&hash.0.finalize()))
    }

    fn describe(&self, path: Vec<u8>, metadata: &Metadata) -> Result<Entry, FilesError> {
        let kind = match metadata.file_type() {
            FileType::Regular => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        let target = match kind {
            Kind::Link => {
                let target = self.ext4.read_link(inner(&path)?).map_err(read(&path))?;
                Some(AsRef::<[u8]>::as_ref(&target).to_vec())
            }
            _ => None,
        };
        let modified = metadata.modified();
        Ok(Entry {
            kind,
            length: metadata.len(),
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            modified: (modified.seconds(), modified.nanoseconds()),
            target,
            path,
        })
    }
}

struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn absolute(path: &[u8]) -> Vec<u8> {
    if path.first() == Some(&b'/') { path.to_vec() } else { [b"/", path].concat() }
}

fn inner(path: &[u8]) -> Result<ext4_view::Path<'_>, FilesError> {
    ext4_view::Path::try_from(path)
        .map_err(|_| FilesError::Kind { path: printable(path), wanted: "path of a file system" })
}

fn read(path: &[u8]) -> impl FnOnce(Ext4Error) -> FilesError {
    let path = printable(path);
    move |cause| FilesError::Read { path, cause }
}

/// Is one file that differs between two file systems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// The path inside the volume, printable.
    pub path: String,
    /// `only-left`, `only-right`, `kind`, `content`, `target` or `metadata`.
    pub what: &'static str,
    /// Lengths in bytes.
    pub lengths: [Option<u64>; 2],
    /// Times of modification, seconds since 1970.
    pub modified: [Option<i64>; 2],
}

/// Tells which files of two file systems differ; every file that both have with one length is read. Paths that
/// cannot be read are handed to `failed` with the index of their side.
pub fn compare(
    sides: [&Files; 2],
    stopped: &dyn Fn() -> bool,
    failed: &mut dyn FnMut(usize, FilesError),
) -> Vec<FileDifference> {
    let mut differences = Vec::new();
    let mut waiting = vec![b"/".to_vec()];
    while let Some(directory) = waiting.pop() {
        if stopped() {
            break;
        }
        let mut lists = sides.iter().enumerate().map(|(side, files)| {
            files.list(&directory).unwrap_or_else(|error| {
                failed(side, error);
                Vec::new()
            })
        });
        let (left, right) = (lists.next().unwrap_or_default(), lists.next().unwrap_or_default());
        drop(lists);
        let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.path.cmp(&b.path),
            };
            let a = if order.is_le() { left.next() } else { None };
            let b = if order.is_ge() { right.next() } else { None };
            if let (Some(a), Some(b)) = (&a, &b)
                && a.kind == Kind::Directory
                && b.kind == Kind::Directory
            {
                waiting.push(a.path.clone());
            }
            if let Some(what) = differs(sides, a.as_ref(), b.as_ref(), failed)
                && let Some(either) = a.as_ref().or(b.as_ref())
            {
                let of = |entry: &Option<Entry>| entry.as_ref().map(|entry| (entry.length, entry.modified.0));
                differences.push(FileDifference {
                    path: printable(&either.path),
                    what,
                    lengths: [of(&a).map(|a| a.0), of(&b).map(|b| b.0)],
                    modified: [of(&a).map(|a| a.1), of(&b).map(|b| b.1)],
                });
            }
        }
    }
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    differences
}

fn differs(
    sides: [&Files; 2],
    a: Option<&Entry>,
    b: Option<&Entry>,
    failed: &mut dyn FnMut(usize, FilesError),
) -> Option<&'static str> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(_), None) => return Some("only-left"),
        (None, Some(_)) => return Some("only-right"),
        (None, None) => return None,
    };
    if a.kind != b.kind {
        return Some("kind");
    }
    if a.target != b.target {
        return Some("target");
    }
    if a.kind == Kind::File {
        if a.length != b.length {
            return Some("content");
        }
        let mut sums = [None, None];
        for (side, sum) in sums.iter_mut().enumerate() {
            match sides[side].sha256(&a.path) {
                Ok(found) => *sum = Some(found),
                Err(error) => failed(side, error),
            }
        }
        if sums[0] != sums[1] {
            return Some("content");
        }
    }
    let metadata = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.modified);
    (metadata(a) != metadata(b)).then_some("metadata")
}

/// Is where files are extracted to, with what cannot be carried over.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Extracted {
    /// Files, directories and links that were made.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Special files, which are not made.
    pub skipped: Vec<String>,
    /// What could not be read or made, each with its cause.
    pub failed: Vec<String>,
}

/// Returns the path of an entry below a destination.
pub fn below(destination: &std::path::Path, base: &[u8], path: &[u8]) -> PathBuf {
    let rest = path.strip_prefix(base).unwrap_or(path);
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    let rest: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(rest);
    if rest.is_empty() { destination.to_owned() } else { destination.join(rest) }
}
