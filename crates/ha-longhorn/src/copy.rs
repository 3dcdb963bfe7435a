//! An extent-exact copy of a replica directory (volumes.md §3): a stream of files with their extents, which a sender
//! writes and a receiver makes files of. Sender and receiver may be on two machines.
//!
//! The stream is a line of JSON (`{"ha-volume-copy":1,…}`), then for each file a line with name, length, mode and
//! times, then its extents: 17 bytes (kind, start and end as little-endian u64) and, for written ones, their bytes;
//! kind 0 ends the file and is followed by the SHA-256 over kinds, starts, ends and bytes. A line `{}` ends it all.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ha_sync_fs::error::printable_path;
use ha_sync_fs::local::Replacement;
use ha_sync_fs::{FsError, local};
use rustix::fs::{Access, FallocateFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::extent::{self, Extent, Extents, Method};
use crate::merge::hex;
use crate::source::{SourceDirectory, SourceFile};
use crate::watch::Watch;

const VERSION: u32 = 1;
const BUFFER: usize = 1 << 20;
const END: u8 = 0;
const WRITTEN: u8 = 1;
const UNWRITTEN: u8 = 2;

/// Is why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A step on a file failed.
    #[error(transparent)]
    Step(#[from] FsError),
    /// The stream broke off.
    #[error("failed to pass the copy on")]
    Stream(#[source] io::Error),
    /// The stream is not what a sender writes.
    #[error("the stream of the copy cannot be understood: {0}")]
    Format(&'static str),
    /// There is something at the destination.
    #[error("there is something already: {0}")]
    Exists(String),
    /// Another process makes this copy.
    #[error("another process is making this copy: {0}")]
    Busy(String),
    /// There is not enough room at the destination.
    #[error("not enough space at {path}: {needed} bytes needed, {free} free")]
    NoSpace {
        /// The destination.
        path: String,
        /// What the source has.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// The source was changed meanwhile.
    #[error("changed while it was copied: {0}")]
    Changed(String),
    /// What was written is not what was sent.
    #[error("the copy of {name} differs from what was sent: {what}")]
    Differs {
        /// The file.
        name: String,
        /// In what.
        what: &'static str,
    },
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}

#[derive(Debug, Serialize, Deserialize)]
struct Begin {
    #[serde(rename = "ha-volume-copy")]
    version: u32,
    directory: String,
    /// When the directory was modified last, ns since 1970.
    modified: i128,
    /// Allocated bytes of all files.
    bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct FileHeader {
    /// The name, as bytes: it may be no text.
    name: Vec<u8>,
    length: u64,
    mode: u32,
    /// ns since 1970.
    modified: i128,
    method: String,
}

/// Is what a copy consists of. The map beside it has the extents: there may be millions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Where it was copied from, printable.
    pub source: String,
    /// Files.
    pub files: u64,
    /// Extents of all of them.
    pub extents: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Is what must be found again of a file that was received.
struct Received {
    /// Printable.
    name: String,
    length: u64,
    modified: i128,
    sums: (blake3::Hash, blake3::Hash),
}

/// Sums of the ranges of a file and of their bytes. Ranges that touch count as one: where a file system begins a new
/// extent is its own affair.
#[derive(Default)]
struct Sums {
    ranges: blake3::Hasher,
    bytes: blake3::Hasher,
    last: Option<(u64, u64)>,
}

impl Sums {
    fn range(&mut self, start: u64, end: u64) {
        match &mut self.last {
            Some(last) if last.1 == start => last.1 = end,
            last => {
                if let Some((start, end)) = last.replace((start, end)) {
                    self.ranges.update(&start.to_le_bytes()).update(&end.to_le_bytes());
                }
            }
        }
    }

    fn finish(mut self) -> (blake3::Hash, blake3::Hash) {
        // No range begins there, so the last one is not joined.
        self.range(u64::MAX, u64::MAX);
        (self.ranges.finalize(), self.bytes.finalize())
    }
}

/// Is what a copy would consist of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Files.
    pub files: u64,
    /// Extents of all of them.
    pub extents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries that are no regular files, which would be left out.
    pub skipped: Vec<String>,
}

/// Finds out what a copy within this machine would consist of and at what it would halt, and makes nothing.
pub fn check(directory: &Path, destination: &Path) -> Result<Planned, CopyError> {
    vacant(destination)?;
    let source = SourceDirectory::open(directory)?;
    let names = source.names()?;
    let Contents { files, skipped, extents, bytes } = contents(&source, &names)?;
    let part = part_path(destination);
    let map = map_path(destination);
    let left = local::exists(&part);
    if local::exists(&map) && !left {
        return Err(CopyError::Exists(printable_path(&map)));
    }
    let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |step, errno| FsError::new(step, printable_path(parent), errno);
    rustix::fs::access(parent, Access::WRITE_OK).map_err(|errno| failed("write into", errno))?;
    let statistics = rustix::fs::statvfs(parent).map_err(|errno| failed("ask the free space of", errno))?;
    let mut free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
    if left {
        let _lock = lock_part(&part, destination)?;
        // It would be emptied first.
        for file in local::list(&part)? {
            let held = rustix::fs::lstat(&file).map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
            free = free.saturating_add(held);
        }
    }
    match bytes > free {
        true => Err(CopyError::NoSpace { path: printable_path(&part), needed: bytes, free }),
        false => Ok(Planned { files: files.len() as u64, extents, bytes, skipped }),
    }
}

/// Is what there is to copy of a directory.
struct Contents<'a> {
    files: Vec<(SourceFile, &'a OsString)>,
    /// Printable names of what is no regular file.
    skipped: Vec<String>,
    extents: u64,
    /// Allocated.
    bytes: u64,
}

fn contents<'a>(source: &SourceDirectory, names: &'a [OsString]) -> Result<Contents<'a>, CopyError> {
    let mut contents = Contents { files: Vec::new(), skipped: Vec::new(), extents: 0, bytes: 0 };
    for name in names {
        let regular = source
            .stamp(name)?
            .is_some_and(|stamp| rustix::fs::FileType::from_raw_mode(stamp.mode) == rustix::fs::FileType::RegularFile);
        match regular {
            true => contents.files.push((SourceFile::open_in(source, name)?, name)),
            false => contents.skipped.push(printable_path(Path::new(name))),
        }
    }
    for (file, _) in &contents.files {
        let totals = extent::totals(file)?;
        (contents.extents, contents.bytes) = (contents.extents + totals.extents, contents.bytes + totals.bytes);
    }
    Ok(contents)
}

/// Writes a replica directory as a stream. Returns the entries that are no regular files, which are left out.
pub fn send(directory: &Path, out: &mut dyn Write, watch: &dyn Watch) -> Result<Vec<String>, CopyError> {
    let source = SourceDirectory::open(directory)?;
    let names = source.names()?;
    let Contents { files, skipped, bytes, .. } = contents(&source, &names)?;
    watch.expect(bytes);
    let line = |out: &mut dyn Write, text: Result<String, serde_json::Error>| {
        let text = text.map_err(|error| CopyError::Stream(io::Error::other(error)))?;
        writeln!(out, "{text}").map_err(CopyError::Stream)
    };
    let begin = Begin { version: VERSION, directory: printable_path(directory), modified: source.modified()?, bytes };
    line(out, serde_json::to_string(&begin))?;
    for (file, name) in &files {
        let method = Extents::of(file)?.method();
        let header = FileHeader {
            name: name.as_encoded_bytes().to_vec(),
            length: file.size(),
            mode: file.stamp().mode & 0o7777,
            modified: file.stamp().modified,
            method: format!("{method:?}"),
        };
        line(out, serde_json::to_string(&header))?;
        send_file(file, method, out, watch)?;
        let (before, now) = (file.stamp(), file.stamp_now()?);
        // The time of modification can be set back, that of the inode cannot.
        if (before.length, before.modified, before.changed) != (now.length, now.modified, now.changed) {
            return Err(CopyError::Changed(printable_path(file.path())));
        }
    }
    // A snapshot gives the head another name, and makes a new one.
    if source.names()? != names {
        return Err(CopyError::Changed(printable_path(directory)));
    }
    writeln!(out, "{{}}").and_then(|()| out.flush()).map_err(CopyError::Stream)?;
    Ok(skipped)
}

fn send_file(file: &SourceFile, method: Method, out: &mut dyn Write, watch: &dyn Watch) -> Result<(), CopyError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    extent::for_each(file, method, |extent| {
        let frame = frame(extent);
        hash.update(frame);
        out.write_all(&frame).map_err(CopyError::Stream)?;
        let mut position = extent.start;
        while !extent.unwritten && position < extent.end {
            if watch.stopped() {
                return Err(CopyError::Stopped);
            }
            let length = usize::try_from(extent.end - position).unwrap_or(usize::MAX).min(BUFFER);
            file.read_at(position, &mut buffer[..length])?;
            hash.update(&buffer[..length]);
            out.write_all(&buffer[..length]).map_err(CopyError::Stream)?;
            position += length as u64;
            watch.advance(length as u64);
        }
        Ok::<_, CopyError>(())
    })?;
    out.write_all(&[END]).map_err(CopyError::Stream)?;
    out.write_all(&hash.finalize()).map_err(CopyError::Stream)
}

fn frame(extent: Extent) -> [u8; 17] {
    let mut frame = [0; 17];
    frame[0] = if extent.unwritten { UNWRITTEN } else { WRITTEN };
    frame[1..9].copy_from_slice(&extent.start.to_le_bytes());
    frame[9..17].copy_from_slice(&extent.end.to_le_bytes());
    frame
}

fn part_path(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".ha-volume.part");
    destination.with_file_name(name)
}

/// Returns where the map of a copy is.
pub fn map_path(destination: &Path) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".extents.json");
    destination.with_file_name(name)
}

/// Halts where something is at the place of a copy.
pub fn vacant(destination: &Path) -> Result<(), CopyError> {
    match local::exists(destination) {
        true => Err(CopyError::Exists(printable_path(destination))),
        false => Ok(()),
    }
}

/// Makes a directory of a stream, at a path at which nothing is. It is made under another name, checked by reading it
/// again, and renamed; the map comes before the renaming, so that a copy always has one.
pub fn receive(input: &mut dyn BufRead, destination: &Path, watch: &dyn Watch) -> Result<Copied, CopyError> {
    vacant(destination)?;
    let begin: Begin = header(input)?.ok_or(CopyError::Format("it is empty"))?;
    if begin.version != VERSION {
        return Err(CopyError::Format("it is of another version"));
    }
    let part = part_path(destination);
    // A map beside a part is that of a copy that was ended before it got its name.
    let map = map_path(destination);
    if local::exists(&map) && !local::exists(&part) {
        return Err(CopyError::Exists(printable_path(&map)));
    }
    let _lock = begin_part(&part, destination)?;
    let made = fill(input, &part, &map, &begin, watch).and_then(|(written, files, copied)| {
        verify(&part, &files, watch)?;
        let times = times(begin.modified);
        rustix::fs::utimensat(rustix::fs::CWD, &part, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| FsError::new("set the time of", printable_path(&part), errno))?;
        written.commit()?;
        local::rename_new(&part, destination)?;
        Ok(copied)
    });
    if made.is_err() {
        // Without its copy the map would be in the way of the next one. Why it failed is what counts.
        let _ = local::remove(&map).and_then(|()| discard(&part));
    }
    made
}

/// Makes the directory of the part, locks it, and empties it of what an earlier copy left.
fn begin_part(part: &Path, destination: &Path) -> Result<OwnedFd, CopyError> {
    let failed = |step, errno| FsError::new(step, printable_path(part), errno);
    match rustix::fs::mkdir(part, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make directory", errno).into()),
    }
    let handle = lock_part(part, destination)?;
    for file in local::list(part)? {
        local::remove(&file)?;
    }
    Ok(handle)
}

/// Locks the directory of the part.
fn lock_part(part: &Path, destination: &Path) -> Result<OwnedFd, CopyError> {
    let failed = |step, errno| FsError::new(step, printable_path(part), errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(part, flags, Mode::empty()).map_err(|errno| failed("open directory", errno))?;
    let busy = || CopyError::Busy(printable_path(destination));
    match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(busy()),
        Err(errno) => return Err(failed("lock", errno).into()),
    }
    // Another process may have renamed it between the two calls; then the lock is on its copy.
    let ours = rustix::fs::fstat(&handle).map_err(|errno| failed("look at", errno))?;
    match rustix::fs::lstat(part) {
        Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => {}
        _ => return Err(busy()),
    }
    Ok(handle)
}

/// Removes a part that an earlier copy left: regular files by name, then the directory.
fn discard(part: &Path) -> Result<(), FsError> {
    if !local::is_directory(part) {
        return Ok(());
    }
    for file in local::list(part)? {
        local::remove(&file)?;
    }
    rustix::fs::rmdir(part).map_err(|errno| FsError::new("remove directory", printable_path(part), errno))
}

/// Makes the files, and the map of them: `{"source":…,"files":[{"name":…,"length":…,"modified":…,
/// "extents":[[start,end,unwritten],…],"extents_sha256":…},…]}`, written as they come.
fn fill(
    input: &mut dyn BufRead,
    part: &Path,
    map: &Path,
    begin: &Begin,
    watch: &dyn Watch,
) -> Result<(Replacement, Vec<Received>, Copied), CopyError> {
    let failed = |step, errno: Errno| FsError::new(step, printable_path(part), errno);
    let statistics = rustix::fs::statvfs(part).map_err(|errno| failed("ask the free space of", errno))?;
    let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
    if begin.bytes > free {
        return Err(CopyError::NoSpace { path: printable_path(part), needed: begin.bytes, free });
    }
    watch.expect(begin.bytes);
    let directory = rustix::fs::open(part, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open directory", errno))?;
    let unwritten = |cause| FsError::local("write", map, cause);
    let mut list = BufWriter::new(Replacement::begin(map, &std::process::id().to_string())?);
    write!(list, r#"{{"source":{},"files":["#, json!(begin.directory)).map_err(unwritten)?;
    let mut copied = Copied { source: begin.directory.clone(), files: 0, extents: 0, bytes: 0 };
    let mut files = Vec::new();
    while let Some(header) = header::<FileHeader>(input)? {
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&header.name);
        if header.name.is_empty() || header.name.contains(&b'/') || name == "." || name == ".." {
            return Err(CopyError::Format("a name is no file name"));
        }
        let path = part.join(name);
        let failed = |step, errno: Errno| FsError::new(step, printable_path(&path), errno);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| failed("make", errno))?
            .into();
        file.set_len(header.length).map_err(|cause| FsError::local("set the length of", &path, cause))?;
        let (name, length, modified) = (printable_path(Path::new(name)), header.length, header.modified);
        let between = if files.is_empty() { "" } else { "," };
        let start = format!(r#"{between}{{"name":{},"length":{length},"modified":{modified},"extents":["#, json!(name));
        list.write_all(start.as_bytes()).map_err(unwritten)?;
        let mut first = true;
        let mut note = |start: u64, end: u64, unwritten: bool| {
            let between = if std::mem::take(&mut first) { "" } else { "," };
            (copied.extents, copied.bytes) = (copied.extents + 1, copied.bytes + (end - start));
            write!(list, "{between}[{start},{end},{unwritten}]").map_err(|cause| FsError::local("write", map, cause))
        };
        let (sums, sha256) = receive_file(input, &Target { file: &file, path: &path, length }, &mut note, watch)?;
        write!(list, r#"],"extents_sha256":"{sha256}"}}"#).map_err(unwritten)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(header.mode & 0o7777))
            .map_err(|errno| failed("set the mode of", errno))?;
        file.sync_all().map_err(|cause| FsError::local("sync", &path, cause))?;
        rustix::fs::futimens(&file, &times(modified)).map_err(|errno| failed("set the time of", errno))?;
        files.push(Received { name, length, modified, sums });
        copied.files += 1;
    }
    rustix::fs::fsync(&directory).map_err(|errno| failed("sync", errno))?;
    list.write_all(b"]}").map_err(unwritten)?;
    let list = list.into_inner().map_err(|error| FsError::local("write", map, error.into_error()))?;
    Ok((list, files, copied))
}

/// Returns a time in ns since 1970 as both times of an inode.
fn times(nanoseconds: i128) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap_or(0),
        tv_nsec: i64::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0),
    };
    Timestamps { last_access: time, last_modification: time }
}

/// Is a file that is being made.
struct Target<'a> {
    file: &'a File,
    path: &'a Path,
    length: u64,
}

impl Target<'_> {
    fn write(&self, bytes: &[u8], position: u64) -> Result<(), FsError> {
        self.file.write_all_at(bytes, position).map_err(|cause| FsError::local("write", self.path, cause))
    }
}

/// Returns the sums of what was written, and the SHA-256 of the stream.
fn receive_file(
    input: &mut dyn BufRead,
    target: &Target,
    note: &mut dyn FnMut(u64, u64, bool) -> Result<(), FsError>,
    watch: &dyn Watch,
) -> Result<((blake3::Hash, blake3::Hash), String), CopyError> {
    let mut hash = Sha256::new();
    let mut sums = Sums::default();
    let mut buffer = vec![0; BUFFER];
    let zeros = vec![0; BUFFER];
    // Where unwritten space is not told from a hole, zeros are written.
    let told = crate::raw::fiemap(target.file, 0).is_ok();
    let mut before = 0;
    loop {
        let mut kind = [0];
        input.read_exact(&mut kind).map_err(CopyError::Stream)?;
        if kind[0] == END {
            break;
        }
        let mut numbers = [0; 16];
        input.read_exact(&mut numbers).map_err(CopyError::Stream)?;
        hash.update(kind);
        hash.update(numbers);
        let number = |from: usize| numbers[from..from + 8].try_into().map(u64::from_le_bytes).unwrap_or(0);
        let (start, end) = (number(0), number(8));
        if start < before || end <= start || end > target.length || !matches!(kind[0], WRITTEN | UNWRITTEN) {
            return Err(CopyError::Format("an extent is out of place"));
        }
        before = end;
        let unwritten = kind[0] == UNWRITTEN;
        note(start, end, unwritten)?;
        sums.range(start, end);
        // Allocated space that was never written reads as zeros, and so do zeros where that cannot be had.
        let allocated = unwritten
            && told
            && rustix::fs::fallocate(target.file, FallocateFlags::KEEP_SIZE, start, end - start).is_ok();
        let mut position = start;
        while position < end {
            if watch.stopped() {
                return Err(CopyError::Stopped);
            }
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(BUFFER);
            if unwritten {
                sums.bytes.update(&zeros[..length]);
                if !allocated {
                    target.write(&zeros[..length], position)?;
                }
            } else {
                input.read_exact(&mut buffer[..length]).map_err(CopyError::Stream)?;
                hash.update(&buffer[..length]);
                sums.bytes.update(&buffer[..length]);
                // Zeros too: a block that is not written would be a hole.
                target.write(&buffer[..length], position)?;
                watch.advance(length as u64);
            }
            position += length as u64;
        }
    }
    let mut sent = [0; 32];
    input.read_exact(&mut sent).map_err(CopyError::Stream)?;
    if hash.finalize()[..] != sent[..] {
        return Err(CopyError::Format("the bytes of a file do not have their hash"));
    }
    Ok((sums.finish(), hex(&sent)))
}

/// Reads a line of JSON; nothing for `{}`.
fn header<T: for<'a> Deserialize<'a>>(input: &mut dyn BufRead) -> Result<Option<T>, CopyError> {
    let mut line = Vec::new();
    input.take(1 << 20).read_until(b'\n', &mut line).map_err(CopyError::Stream)?;
    match line.trim_ascii() {
        b"{}" => Ok(None),
        [] => Err(CopyError::Stream(io::ErrorKind::UnexpectedEof.into())),
        text => serde_json::from_slice(text).map(Some).map_err(|_| CopyError::Format("a line is no header")),
    }
}

/// Reads a copy again and compares extents and bytes with what was received. Whether an extent is written or not may
/// differ; where it begins and ends may not.
fn verify(directory: &Path, files: &[Received], watch: &dyn Watch) -> Result<(), CopyError> {
    let source = SourceDirectory::open(directory)?;
    let names = source.names()?;
    if names.len() != files.len() {
        return Err(CopyError::Differs { name: printable_path(directory), what: "the number of files" });
    }
    let mut buffer = vec![0; BUFFER];
    for (name, received) in names.iter().zip(files) {
        let differs = |what| CopyError::Differs { name: received.name.clone(), what };
        let file = SourceFile::open_in(&source, name)?;
        if file.size() != received.length {
            return Err(differs("the length"));
        }
        if file.stamp().modified != received.modified {
            return Err(differs("the time"));
        }
        let mut sums = Sums::default();
        extent::for_each(&file, Extents::of(&file)?.method(), |extent| {
            sums.range(extent.start, extent.end);
            let mut position = extent.start;
            while position < extent.end {
                if watch.stopped() {
                    return Err(CopyError::Stopped);
                }
                let length = usize::try_from(extent.end - position).unwrap_or(usize::MAX).min(BUFFER);
                file.read_at(position, &mut buffer[..length])?;
                sums.bytes.update(&buffer[..length]);
                position += length as u64;
            }
            Ok::<_, CopyError>(())
        })?;
        let (ranges, bytes) = sums.finish();
        if ranges != received.sums.0 {
            return Err(differs("the extents, as where the file system has larger blocks"));
        }
        if bytes != received.sums.1 {
            return Err(differs("the bytes"));
        }
    }
    Ok(())
}
