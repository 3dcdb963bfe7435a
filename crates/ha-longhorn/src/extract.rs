//! Copies files out of a volume into a new directory. Nothing that is there is replaced, no link is followed.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ha_ext4::Attributes;
use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, local};
use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::files::{BUFFER, Entry, Files, FilesError, Kind, printable, read};
use crate::layered;
use crate::source::Stamp;
use crate::watch::Watch;

/// Is why nothing was extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The path inside the volume cannot be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The destination cannot be made.
    #[error(transparent)]
    Step(#[from] FsError),
    /// There is something at the destination, or what an interrupted extraction left beside it.
    #[error("there is something already: {0}")]
    Exists(String),
    /// What is to be extracted is longer than the free space.
    #[error("not enough space for {path}: {needed} bytes needed, {free} free")]
    NoSpace {
        /// The destination, printable.
        path: String,
        /// Bytes of data of all files.
        needed: u64,
        /// Bytes that are free there.
        free: u64,
    },
    /// The destination is full; what was made so far, under another name, is a part.
    #[error("the destination is full, what is there so far is a part: {part}")]
    Full {
        /// Where it is, printable.
        part: String,
        /// What could not be made.
        #[source]
        cause: FsError,
    },
    /// A file of the source was changed meanwhile: what was made, under another name, may be of two states.
    #[error("changed while it was read: {0}")]
    Changed(String),
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Is what was made, with what could not be carried over.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Extracted {
    /// Files, directories and links that were made.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Names of files that have several, beside the first of each.
    pub hard_links: u64,
    /// Special files, which are not made.
    pub skipped: Vec<String>,
    /// Extended attributes and ACLs that the destination does not take, each with its path and cause.
    pub attributes_left_out: Vec<String>,
    /// What could not be read or made, each with its cause.
    pub failed: Vec<String>,
}

/// Is what would be made.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of data of all files, each file once.
    pub bytes: u64,
    /// Special files, which would not be made.
    pub skipped: Vec<String>,
    /// What cannot be read, each with its cause. Content is not read, so there may be more.
    pub failed: Vec<String>,
}

/// Returns where a tree is made before it gets its name.
pub fn part_path(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".ha-volume.part");
    destination.with_file_name(name)
}

/// Extracts a file or a tree to a path at which nothing is; it is made under another name first. Holes, hard links, times,
/// modes, extended attributes and ACLs are kept, owners as root only. A file that cannot be read to its end is not left
/// there in part. `stamps` are what the files of the source were like when they were opened.
pub fn extract(
    files: &Files,
    stamps: &[(PathBuf, Stamp)],
    path: &[u8],
    destination: &Path,
    owners: bool,
    watch: &dyn Watch,
) -> Result<Extracted, ExtractError> {
    let (top, _) = check(files, path, destination, watch)?;
    let part = part_path(destination);
    let mut extraction =
        Extraction { files, owners, first_names: HashMap::new(), done: Extracted::default(), buffer: vec![0; BUFFER] };
    let mut unread = Vec::new();
    let mut directories = Vec::new();
    files.walk(
        &top,
        &mut |entry: &Entry| {
            if watch.stopped() {
                return Err(ExtractError::Stopped);
            }
            let to = below(&part, &top.path, &entry.path);
            match extraction.make(entry, &to) {
                Ok(Some(bytes)) => {
                    extraction.done.entries += 1;
                    extraction.done.bytes += bytes;
                    watch.advance(bytes);
                    if entry.kind == Kind::Directory {
                        directories.push((to, entry.clone()));
                    }
                }
                Ok(None) => extraction.done.skipped.push(printable(&entry.path)),
                // Without its top nothing can be made.
                Err(error) if entry.path == top.path => return Err(error),
                // Of the rest nothing would fit either.
                Err(ExtractError::Step(cause)) if matches!(cause.errno(), Some(Errno::NOSPC | Errno::DQUOT)) => {
                    return Err(ExtractError::Full { part: printable_path(&part), cause });
                }
                // Below a directory that was not made nothing is: in its place a damaged file system may have a link that
                // leads elsewhere.
                Err(error) => {
                    extraction.done.failed.push(line(&error));
                    return Ok(false);
                }
            }
            Ok(true)
        },
        &mut |error| unread.push(error.to_line()),
    )?;
    extraction.done.failed.extend(unread);
    // What is made in a directory changes its time, and a closed one takes nothing.
    for (to, entry) in directories.iter().rev() {
        if let Err(error) = extraction.finish(to, entry) {
            extraction.done.failed.push(error.to_line());
        }
    }
    if let Some(file) = layered::changed_since(stamps)? {
        return Err(ExtractError::Changed(file));
    }
    if local::exists(&part) {
        local::rename_new(&part, destination).map_err(|error| match error.errno() {
            Some(Errno::EXIST) => ExtractError::Exists(printable_path(destination)),
            _ => error.into(),
        })?;
    }
    Ok(extraction.done)
}

/// Finds out what [`extract`] would make and at what it would halt, and makes nothing.
pub fn check(
    files: &Files,
    path: &[u8],
    destination: &Path,
    watch: &dyn Watch,
) -> Result<(Entry, Planned), ExtractError> {
    let top = files.entry(path)?;
    for path in [destination, &part_path(destination)] {
        if local::exists(path) {
            return Err(ExtractError::Exists(printable_path(path)));
        }
    }
    let planned = check_space(files, &top, destination, watch)?;
    Ok((top, planned))
}

fn line(error: &ExtractError) -> String {
    match error {
        ExtractError::Files(error) => error.to_line(),
        ExtractError::Step(error) => error.to_line(),
        error => error.to_string(),
    }
}

/// Returns the path of an entry below a destination.
fn below(destination: &Path, base: &[u8], path: &[u8]) -> PathBuf {
    let rest = path.strip_prefix(base).unwrap_or(path);
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    let rest: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(rest);
    if rest.is_empty() { destination.to_owned() } else { destination.join(rest) }
}

/// Counts the data of all files, each once, and asks whether there is room for it.
fn check_space(files: &Files, top: &Entry, destination: &Path, watch: &dyn Watch) -> Result<Planned, ExtractError> {
    let directory = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |step, errno| FsError::new(step, printable_path(directory), errno);
    rustix::fs::access(directory, Access::WRITE_OK).map_err(|errno| failed("write into", errno))?;
    let statistics = rustix::fs::statvfs(directory).map_err(|errno| failed("ask the free space of", errno))?;
    let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
    let (mut planned, mut unread) = (Planned::default(), Vec::new());
    let mut counted = std::collections::HashSet::new();
    files.walk(
        top,
        &mut |entry| {
            let once = entry.inode.links() < 2 || counted.insert(entry.inode.number());
            if watch.stopped() {
                return Err(ExtractError::Stopped);
            }
            if entry.kind == Kind::Special {
                planned.skipped.push(printable(&entry.path));
                return Ok(true);
            }
            if entry.kind == Kind::File && once {
                match data(files, entry) {
                    Ok(bytes) => planned.bytes = planned.bytes.saturating_add(bytes),
                    // Without its top nothing can be made.
                    Err(error) if entry.path == top.path => return Err(error.into()),
                    // Told, and not made, when it is extracted.
                    Err(error) => {
                        planned.failed.push(error.to_line());
                        return Ok(true);
                    }
                }
            }
            planned.entries += 1;
            Ok(true)
        },
        &mut |error| unread.push(error.to_line()),
    )?;
    planned.failed.extend(unread);
    let needed = planned.bytes;
    watch.expect(needed);
    match needed > free {
        true => Err(ExtractError::NoSpace { path: printable_path(destination), needed, free }),
        false => Ok(planned),
    }
}

fn data(files: &Files, entry: &Entry) -> Result<u64, FilesError> {
    let mut content = files.content(entry)?;
    let (mut position, mut bytes) = (0, 0);
    while let Some(range) = content.range_at(position).map_err(read(&entry.path))? {
        bytes += if range.data { range.end - range.start } else { 0 };
        position = range.end;
    }
    Ok(bytes)
}

struct Extraction<'a> {
    files: &'a Files,
    owners: bool,
    /// Of each file with several names where it was made.
    first_names: HashMap<u32, PathBuf>,
    done: Extracted,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    /// Makes one entry; nothing for a special file. Returns the bytes of its data.
    fn make(&mut self, entry: &Entry, to: &Path) -> Result<Option<u64>, ExtractError> {
        let failed = |step, errno: Errno| FsError::new(step, printable_path(to), errno);
        let has_names = entry.kind != Kind::Directory && entry.inode.links() > 1;
        if let Some(first) = self.first_names.get(&entry.inode.number()).filter(|_| has_names) {
            match rustix::fs::linkat(CWD, first, CWD, to, AtFlags::empty()) {
                Ok(()) => {
                    self.done.hard_links += 1;
                    return Ok(Some(0));
                }
                // The destination has no hard links, or not as many: it becomes a file of its own.
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::MLINK) => {}
                Err(errno) => return Err(failed("make hard link", errno).into()),
            }
        }
        let bytes = match entry.kind {
            Kind::Special => return Ok(None),
            Kind::Directory => {
                rustix::fs::mkdir(to, Mode::from_raw_mode(0o700)).map_err(|errno| failed("make directory", errno))?;
                return Ok(Some(0));
            }
            Kind::Link => {
                let Some(target) = &entry.target else {
                    return Err(read(&entry.path)(ha_ext4::Error::Encrypted(entry.inode.number())).into());
                };
                rustix::fs::symlink(&target[..], to).map_err(|errno| failed("make link", errno))?;
                0
            }
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let handle =
                    rustix::fs::open(to, flags, Mode::from_raw_mode(0o600)).map_err(|errno| failed("make", errno))?;
                match self.fill(entry, &File::from(handle), to) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        // A part of a file would be taken for the whole.
                        local::remove(to)?;
                        return Err(error);
                    }
                }
            }
        };
        self.finish(to, entry)?;
        if has_names {
            self.first_names.insert(entry.inode.number(), to.to_owned());
        }
        Ok(Some(bytes))
    }

    /// Writes what a file has, and leaves out what it has not.
    fn fill(&mut self, entry: &Entry, file: &File, to: &Path) -> Result<u64, ExtractError> {
        let mut content = self.files.content(entry)?;
        file.set_len(content.size()).map_err(|cause| FsError::local("set the length of", to, cause))?;
        let (mut position, mut bytes) = (0, 0);
        while let Some(range) = content.range_at(position).map_err(read(&entry.path))? {
            while range.data && position < range.end {
                let length = usize::try_from(range.end - position).unwrap_or(usize::MAX).min(self.buffer.len());
                let buffer = &mut self.buffer[..length];
                content.read_at(position, buffer).map_err(read(&entry.path))?;
                file.write_all_at(buffer, position).map_err(|cause| FsError::local("write", to, cause))?;
                position += length as u64;
                bytes += length as u64;
            }
            position = range.end;
        }
        Ok(bytes)
    }

    /// Gives an entry all but its content.
    fn finish(&mut self, to: &Path, entry: &Entry) -> Result<(), FsError> {
        let failed = |step, errno: Errno| FsError::new(step, printable_path(to), errno);
        let inode = &entry.inode;
        if self.owners {
            let (uid, gid) = (Uid::from_raw(inode.uid()), Gid::from_raw(inode.gid()));
            rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| failed("set the owner of", errno))?;
        }
        // After the owner, whose change takes some away; before the mode, which may forbid it.
        self.set_attributes(to, entry);
        if entry.kind != Kind::Link {
            // Rights of an owner who is not set are not given to another.
            let bits = if self.owners { inode.mode() } else { inode.mode() & 0o1777 };
            rustix::fs::chmod(to, Mode::from_raw_mode(bits.into()))
                .map_err(|errno| failed("set the mode of", errno))?;
        }
        let time = Timespec { tv_sec: inode.modified().seconds, tv_nsec: inode.modified().nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("set the time of", errno))
    }

    fn set_attributes(&mut self, to: &Path, entry: &Entry) {
        let Attributes { found, failed } = self.files.attributes(entry);
        self.done.failed.extend(failed.into_iter().map(|cause| read(&entry.path)(cause).to_line()));
        for attribute in found {
            let set = rustix::fs::lsetxattr(to, &attribute.name[..], &attribute.value, XattrFlags::empty());
            if let Err(errno) = set {
                let (path, name) = (printable(&entry.path), printable(&attribute.name));
                self.done.attributes_left_out.push(format!("{path}: {name}: {}", std::io::Error::from(errno)));
            }
        }
    }
}
