//! An extent-exact copy of a replica directory (volumes.md §3): a stream of files with their extents, which a sender
//! writes and a receiver makes files of. Sender and receiver may be on two machines.
//!
//! The stream is a line of JSON (`{"ha-volume-copy":1,…}`), then for each file a line with name, length, mode and
//! times, then its extents: 17 bytes (kind, start and end as little-endian u64) and, for written ones, their bytes;
//! kind 0 ends the file and is followed by the SHA-256 over kinds, starts, ends and bytes. A line `{}` ends it all.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, local};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
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

/// Is a file of a copy, as the map beside it lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedFile {
    /// The name, printable.
    pub name: String,
    /// The length in bytes.
    pub length: u64,
    /// When it was modified last, ns since 1970.
    pub modified: i128,
    /// Start, end, and whether the extent is unwritten.
    pub extents: Vec<(u64, u64, bool)>,
    /// SHA-256 over the extents and their bytes, as the stream has it.
    pub sha256: String,
}

/// Is what `DEST.extents.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Where it was copied from, printable.
    pub source: String,
    /// The files.
    pub files: Vec<CopiedFile>,
    /// Entries that were left out, being no regular files.
    #[serde(default)]
    pub skipped: Vec<String>,
}

/// Writes a replica directory as a stream. Returns the entries that are no regular files, which are left out.
pub fn send(directory: &Path, out: &mut dyn Write, watch: &dyn Watch) -> Result<Vec<String>, CopyError> {
    let source = SourceDirectory::open(directory)?;
    let mut skipped = Vec::new();
    let mut files = Vec::new();
    for name in source.names()? {
        let regular = source
            .stamp(&name)?
            .is_some_and(|stamp| rustix::fs::FileType::from_raw_mode(stamp.mode) == rustix::fs::FileType::RegularFile);
        match regular {
            true => files.push((SourceFile::open_in(&source, &name)?, name)),
            false => skipped.push(printable_path(Path::new(&name))),
        }
    }
    let mut bytes = 0;
    for (file, _) in &files {
        bytes += extent::totals(file)?.bytes;
    }
    watch.expect(bytes);
    let line = |out: &mut dyn Write, text: Result<String, serde_json::Error>| {
        let text = text.map_err(|error| CopyError::Stream(io::Error::other(error)))?;
        writeln!(out, "{text}").map_err(CopyError::Stream)
    };
    let begin = Begin { version: VERSION, directory: printable_path(directory), bytes };
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
        if (before.length, before.modified) != (now.length, now.modified) {
            return Err(CopyError::Changed(printable_path(file.path())));
        }
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
pub fn receive(input: &mut dyn BufRead, destination: &Path, watch: &dyn Watch) -> Result<Map, CopyError> {
    vacant(destination)?;
    let begin: Begin = header(input)?.ok_or(CopyError::Format("it is empty"))?;
    if begin.version != VERSION {
        return Err(CopyError::Format("it is of another version"));
    }
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(".ha-volume.part");
    let part = destination.with_file_name(name);
    // A map beside a part is that of a copy that was ended before it got its name.
    let map = map_path(destination);
    if local::exists(&map) && !local::exists(&part) {
        return Err(CopyError::Exists(printable_path(&map)));
    }
    let _lock = begin_part(&part, destination)?;
    let made = fill(input, &part, &begin, watch).and_then(|files| {
        let map = Map { source: begin.directory.clone(), files, skipped: Vec::new() };
        verify(&part, &map, watch)?;
        let content = serde_json::to_vec(&map).map_err(|error| CopyError::Stream(io::Error::other(error)))?;
        local::replace(&map_path(destination), &content)?;
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &part,
            rustix::fs::CWD,
            destination,
            rustix::fs::RenameFlags::NOREPLACE,
        )
        .map_err(|errno| {
            // Without its copy the map would be in the way of the next.
            let _ = local::remove(&map_path(destination));
            FsError::new("rename to", printable_path(destination), errno)
        })?;
        Ok(map)
    });
    if made.is_err() {
        discard(&part)?;
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
    for file in local::list(part)? {
        local::remove(&file)?;
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

fn fill(input: &mut dyn BufRead, part: &Path, begin: &Begin, watch: &dyn Watch) -> Result<Vec<CopiedFile>, CopyError> {
    let failed = |step, errno: Errno| FsError::new(step, printable_path(part), errno);
    let statistics = rustix::fs::statvfs(part).map_err(|errno| failed("ask the free space of", errno))?;
    let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
    if begin.bytes > free {
        return Err(CopyError::NoSpace { path: printable_path(part), needed: begin.bytes, free });
    }
    watch.expect(begin.bytes);
    let directory = rustix::fs::open(part, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open directory", errno))?;
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
        let (extents, sha256) = receive_file(input, &file, &path, header.length, watch)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(header.mode & 0o7777))
            .map_err(|errno| failed("set the mode of", errno))?;
        let time = Timespec {
            tv_sec: i64::try_from(header.modified.div_euclid(1_000_000_000)).unwrap_or(0),
            tv_nsec: i64::try_from(header.modified.rem_euclid(1_000_000_000)).unwrap_or(0),
        };
        file.sync_all().map_err(|cause| FsError::local("sync", &path, cause))?;
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })
            .map_err(|errno| failed("set the time of", errno))?;
        let name = printable_path(Path::new(name));
        files.push(CopiedFile { name, length: header.length, modified: header.modified, extents, sha256 });
    }
    rustix::fs::fsync(&directory).map_err(|errno| failed("sync", errno))?;
    Ok(files)
}

type Received = (Vec<(u64, u64, bool)>, String);

fn receive_file(
    input: &mut dyn BufRead,
    file: &File,
    path: &Path,
    length: u64,
    watch: &dyn Watch,
) -> Result<Received, CopyError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut extents = Vec::new();
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
        if start < before || end <= start || end > length || !matches!(kind[0], WRITTEN | UNWRITTEN) {
            return Err(CopyError::Format("an extent is out of place"));
        }
        before = end;
        extents.push((start, end, kind[0] == UNWRITTEN));
        if kind[0] == UNWRITTEN {
            preallocate(file, path, start, end)?;
            continue;
        }
        let mut position = start;
        while position < end {
            if watch.stopped() {
                return Err(CopyError::Stopped);
            }
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(BUFFER);
            input.read_exact(&mut buffer[..length]).map_err(CopyError::Stream)?;
            hash.update(&buffer[..length]);
            // Zeros too: a block that is not written would be a hole.
            file.write_all_at(&buffer[..length], position).map_err(|cause| FsError::local("write", path, cause))?;
            position += length as u64;
            watch.advance(length as u64);
        }
    }
    let mut sent = [0; 32];
    input.read_exact(&mut sent).map_err(CopyError::Stream)?;
    let found = hash.finalize();
    if found[..] != sent[..] {
        return Err(CopyError::Format("the bytes of a file do not have their hash"));
    }
    Ok((extents, hex(&sent)))
}

/// Allocates space that reads as zeros; where the file system cannot, or does not tell it from a hole, zeros are
/// written. Both read the same.
fn preallocate(file: &File, path: &Path, start: u64, end: u64) -> Result<(), CopyError> {
    let told = crate::raw::fiemap(file, 0).is_ok();
    let done = told && rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, start, end - start).is_ok();
    let zeros = vec![0; BUFFER];
    let mut position = if done { end } else { start };
    while position < end {
        let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(BUFFER);
        file.write_all_at(&zeros[..length], position).map_err(|cause| FsError::local("write", path, cause))?;
        position += length as u64;
    }
    Ok(())
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

/// Reads a copy again and compares extents and bytes with its map. Whether an extent is written or not may differ;
/// where it begins and ends may not.
pub fn verify(directory: &Path, map: &Map, watch: &dyn Watch) -> Result<(), CopyError> {
    let source = SourceDirectory::open(directory)?;
    let names = source.names()?;
    if names.len() != map.files.len() {
        return Err(CopyError::Differs { name: printable_path(directory), what: "the number of files" });
    }
    for (name, copied) in names.iter().zip(&map.files) {
        let differs = |what| CopyError::Differs { name: copied.name.clone(), what };
        let file = SourceFile::open_in(&source, name)?;
        if file.size() != copied.length {
            return Err(differs("the length"));
        }
        if file.stamp().modified != copied.modified {
            return Err(differs("the time"));
        }
        let mut found: Vec<(u64, u64)> = Vec::new();
        extent::for_each(&file, Extents::of(&file)?.method(), |extent| {
            join(&mut found, extent.start, extent.end);
            Ok::<_, FsError>(())
        })?;
        let mut expected: Vec<(u64, u64)> = Vec::new();
        for (start, end, _) in &copied.extents {
            join(&mut expected, *start, *end);
        }
        if found != expected {
            return Err(differs("the extents, as where the file system has larger blocks"));
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        for (start, end, unwritten) in &copied.extents {
            hash.update(frame(Extent { start: *start, end: *end, unwritten: *unwritten }));
            let mut position = *start;
            while position < *end {
                if watch.stopped() {
                    return Err(CopyError::Stopped);
                }
                let length = usize::try_from(*end - position).unwrap_or(usize::MAX).min(BUFFER);
                file.read_at(position, &mut buffer[..length])?;
                if *unwritten && !crate::layered::is_zero(&buffer[..length]) {
                    return Err(differs("the bytes"));
                }
                if !*unwritten {
                    hash.update(&buffer[..length]);
                }
                position += length as u64;
            }
        }
        if hex(&hash.finalize()) != copied.sha256 {
            return Err(differs("the bytes"));
        }
    }
    Ok(())
}

/// Adds a range; one that touches the last becomes one with it.
fn join(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    match ranges.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => ranges.push((start, end)),
    }
}
