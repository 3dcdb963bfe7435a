//! The files of an ext2, ext3 or ext4 file system inside an image, read without root and without a mount. What its
//! journal holds is laid over the blocks in memory, so nothing that was synced is skipped (volumes.md §5).

use std::collections::HashSet;
use std::io::{self, Write};
use std::ops::ControlFlow;

pub use ha_ext4::Note;
use ha_ext4::{Attributes, Content, FileSystem, Inode, Source};
pub use ha_sync_core::path::printable;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::layered::Image;
use crate::merge::hex;

/// Is why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The file system cannot be opened.
    #[error("failed to open the ext4 file system")]
    Open(#[source] ha_ext4::Error),
    /// A path cannot be read.
    #[error("failed to read inside the volume: {path}")]
    Read {
        /// The path inside the volume, printable.
        path: String,
        /// Why.
        #[source]
        cause: ha_ext4::Error,
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
    /// More of a directory cannot be read than is told one by one.
    #[error("and {count} more failures in the directory: {path}")]
    More {
        /// The path inside the volume, printable.
        path: String,
        /// How many were not told.
        count: u64,
    },
    /// A directory is in itself, or in two others; it is read once.
    #[error("the directory was listed under another name already: {path}")]
    Again {
        /// The path inside the volume, printable.
        path: String,
    },
}

impl FilesError {
    /// Tells whether the path is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { cause: ha_ext4::Error::NotFound, .. })
    }

    /// Tells whether the content is encrypted by the file system itself.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Read { cause: ha_ext4::Error::Encrypted(_), .. })
    }

    /// Tells whether the file system has something that is not read here, and that the kernel may read.
    pub fn is_declined(&self) -> bool {
        matches!(self, Self::Open(ha_ext4::Error::Declined(_)))
    }

    /// Returns the error with its causes on one line.
    pub fn to_line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(&format!(": {error}"));
            cause = error.source();
        }
        line
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
#[derive(Debug, Clone)]
pub struct Entry {
    /// The path from the root of the volume, beginning with `/`, as bytes.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Where a link points to; nothing also when that is encrypted.
    pub target: Option<Vec<u8>>,
    /// All else.
    pub inode: Inode,
}

impl Entry {
    /// Returns the last name.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// Is what a directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// What can be read, by name.
    pub entries: Vec<Entry>,
    /// Why others cannot be: of a thousand each by itself, then how many more.
    pub failed: Vec<FilesError>,
}

/// How many failures of one directory are told.
const MOST_FAILURES: usize = 1000;

/// Is an open file system.
pub struct Files {
    ext4: FileSystem,
}

/// Is an image as the reader of ext4 takes it.
struct Owned(Box<dyn Image>);

/// Is the same of an image that is only looked at.
pub(crate) struct Borrowed<'a>(pub(crate) &'a mut dyn Image);

type ReadResult = Result<(), Box<dyn std::error::Error + Send + Sync + 'static>>;

impl Source for Owned {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> ReadResult {
        Borrowed(&mut *self.0).read_exact_at(offset, buffer)
    }
}

impl Source for Borrowed<'_> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> ReadResult {
        self.0.read_at(offset, buffer).map_err(Into::into)
    }
}

impl Files {
    /// Opens the file system of an image.
    pub fn open(image: Box<dyn Image>) -> Result<Self, FilesError> {
        Ok(Self { ext4: FileSystem::open(Box::new(Owned(image))).map_err(FilesError::Open)? })
    }

    /// Returns what is odd about the file system, and what was done to read it.
    pub fn notes(&self) -> &[Note] {
        self.ext4.notes()
    }

    /// Looks at a path; a link at its end is not followed.
    pub fn entry(&self, path: &[u8]) -> Result<Entry, FilesError> {
        self.at(path, false)
    }

    /// Looks at a path; a link at its end is followed. The entry keeps the path that was asked for.
    pub fn entry_behind(&self, path: &[u8]) -> Result<Entry, FilesError> {
        self.at(path, true)
    }

    fn at(&self, path: &[u8], follow: bool) -> Result<Entry, FilesError> {
        let path = absolute(path);
        let inode = self.ext4.find(&path, follow).map_err(read(&path))?;
        self.describe(path, inode)
    }

    /// Lists a directory by name, without `.` and `..`.
    pub fn list(&self, directory: &Entry) -> Result<Listing, FilesError> {
        let mut listing = Listing::default();
        let mut more = 0;
        let listed = self.ext4.entries(&directory.inode, &mut |found| {
            let entry = match found {
                Ok(found) => {
                    let mut path = directory.path.clone();
                    if path.last() != Some(&b'/') {
                        path.push(b'/');
                    }
                    path.extend_from_slice(&found.name);
                    let inode = self.ext4.inode(found.inode).and_then(|inode| found.check(&inode).map(|()| inode));
                    let inode = inode.map_err(read(&path));
                    inode.and_then(|inode| self.describe(path, inode))
                }
                Err(cause) => Err(read(&directory.path)(cause)),
            };
            match entry {
                Ok(entry) => listing.entries.push(entry),
                Err(error) if listing.failed.len() < MOST_FAILURES => listing.failed.push(error),
                Err(_) => more += 1,
            }
            ControlFlow::Continue(())
        });
        listed.map_err(read(&directory.path))?;
        if more > 0 {
            listing.failed.push(FilesError::More { path: printable(&directory.path), count: more });
        }
        listing.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }

    /// Calls `each` for an entry and all below it, a directory before what it holds, unless `each` says that nothing below
    /// it is wanted. What cannot be read is handed to `failed`, and left out.
    pub fn walk<E>(
        &self,
        top: &Entry,
        each: &mut dyn FnMut(&Entry) -> Result<bool, E>,
        failed: &mut dyn FnMut(FilesError),
    ) -> Result<(), E> {
        let mut waiting = vec![top.clone()];
        let mut seen = Seen::default();
        while let Some(entry) = waiting.pop() {
            let wanted = each(&entry)?;
            if !wanted || entry.kind != Kind::Directory {
                continue;
            }
            match seen.first(&entry).and_then(|()| self.list(&entry)) {
                Ok(below) => {
                    below.failed.into_iter().for_each(&mut *failed);
                    waiting.extend(below.entries.into_iter().rev());
                }
                Err(error) => failed(error),
            }
        }
        Ok(())
    }

    /// Opens the content of a regular file.
    pub fn content<'a>(&'a self, entry: &'a Entry) -> Result<Content<'a>, FilesError> {
        self.ext4.content(&entry.inode).map_err(read(&entry.path))
    }

    /// Reads extended attributes and ACLs.
    pub fn attributes(&self, entry: &Entry) -> Attributes {
        self.ext4.attributes(&entry.inode)
    }

    /// Copies the content of a regular file to `out`, with zeros where it has holes. Returns the number of bytes.
    pub fn copy(&self, entry: &Entry, out: &mut dyn Write) -> Result<u64, FilesError> {
        let mut content = self.content(entry)?;
        let mut buffer = vec![0; BUFFER];
        let mut copied = 0;
        loop {
            let length = content.read_at(copied, &mut buffer).map_err(read(&entry.path))?;
            if length == 0 {
                return Ok(copied);
            }
            let written = out.write_all(&buffer[..length]);
            written.map_err(|cause| FilesError::Write { path: printable(&entry.path), cause })?;
            copied += length as u64;
        }
    }

    /// Returns the SHA-256 of a regular file.
    pub fn sha256(&self, entry: &Entry) -> Result<String, FilesError> {
        let mut hash = Hashing(Sha256::new());
        self.copy(entry, &mut hash)?;
        Ok(hex(&hash.0.finalize()))
    }

    fn describe(&self, path: Vec<u8>, inode: Inode) -> Result<Entry, FilesError> {
        let kind = match inode.kind() {
            ha_ext4::Kind::File => Kind::File,
            ha_ext4::Kind::Directory => Kind::Directory,
            ha_ext4::Kind::Link => Kind::Link,
            _ => Kind::Special,
        };
        let target = match kind {
            Kind::Link if !inode.is_encrypted() => Some(self.ext4.link_target(&inode).map_err(read(&path))?),
            _ => None,
        };
        Ok(Entry { path, kind, target, inode })
    }
}

/// How much of a file is read at once.
pub(crate) const BUFFER: usize = 1 << 20;

/// Is which directories were listed. In a damaged file system one may be in itself, and the way down has no end.
#[derive(Default)]
pub(crate) struct Seen(HashSet<u32>);

impl Seen {
    /// Fails for a directory that was there before.
    pub(crate) fn first(&mut self, directory: &Entry) -> Result<(), FilesError> {
        match self.0.insert(directory.inode.number()) {
            true => Ok(()),
            false => Err(FilesError::Again { path: printable(&directory.path) }),
        }
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

pub(crate) fn read(path: &[u8]) -> impl FnOnce(ha_ext4::Error) -> FilesError {
    let path = printable(path);
    move |cause| FilesError::Read { path, cause }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use ha_testkit::loopmount::need_tool;
    use ha_testkit::need;

    use super::*;

    fn run(command: &str, arguments: &[&str], last: &Path) {
        let output = Command::new(command).args(arguments).arg(last).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn of_a_damaged_directory_a_thousand_failures_are_told() {
        need!(need_tool("mke2fs"));
        need!(need_tool("debugfs"));
        let directory = tempfile::tempdir().unwrap();
        let (tree, image) = (directory.path().join("tree"), directory.path().join("image"));
        std::fs::create_dir_all(tree.join("many")).unwrap();
        std::fs::write(tree.join("many/first"), "x").unwrap();
        for index in 1..1234 {
            std::fs::hard_link(tree.join("many/first"), tree.join(format!("many/{index}"))).unwrap();
        }
        std::fs::write(tree.join("many/whole"), "y").unwrap();
        std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", tree.to_str().unwrap()], &image);
        run("debugfs", &["-w", "-R", "clri many/first"], &image);
        let files = Files::open(crate::backing::open(&image).unwrap()).unwrap();
        let listing = files.list(&files.entry(b"/many").unwrap()).unwrap();
        assert_eq!(listing.entries.len(), 1);
        assert_eq!(listing.entries[0].path, b"/many/whole");
        assert_eq!(listing.failed.len(), 1001);
        assert_eq!(listing.failed[1000].to_line(), "and 234 more failures in the directory: /many");
    }
}
