//! Copies and compares the content of files.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use ha_sync_core::decide::Content;
use ha_sync_core::entry::Entry;
use md5::{Digest, Md5};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::raw;

/// Up to this size a file is copied by one read and one write.
pub const SMALL: u64 = 128 * 1024;

const BUFFER: usize = 1024 * 1024;

/// A kernel copy is asked for in pieces of this size, so that a stop is noticed and progress is told.
const PIECE: u64 = 16 * 1024 * 1024;

/// Says when MD5 sums are computed while copying (`--audit-md5`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hashing {
    /// When the bytes pass through the processor anyway.
    #[default]
    Auto,
    /// Always: the kernel's own copy is not used.
    Always,
    /// Never.
    Never,
}

/// Says why a copy was not finished.
#[derive(Debug)]
pub enum CopyError {
    /// Reading the source failed.
    Read(Errno),
    /// Writing the destination failed.
    Write(Errno),
    /// The source has not the size it had.
    Changed,
    /// The run is being stopped.
    Stopped,
}

/// Is what a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Data bytes written; holes are none.
    pub bytes: u64,
    /// MD5 of the whole content, when the bytes were seen.
    pub md5: Option<[u8; 16]>,
}

/// Copies files, one after another, with one buffer. What a pair of file systems cannot do is tried once.
pub struct Copier<'a> {
    buffer: Vec<u8>,
    hashing: Hashing,
    abilities: &'a Abilities,
    stopped: &'a dyn Fn() -> bool,
    progress: &'a dyn Fn(u64),
}

/// Is what the kernel can copy by itself between the two file systems, as far as it was tried.
#[derive(Debug)]
pub struct Abilities {
    reflink: AtomicBool,
    copy_range: AtomicBool,
    send: AtomicBool,
}

impl Abilities {
    /// Begins with everything untried; `remote` tells that requests go over a network or to another process.
    pub fn new(remote: bool) -> Self {
        let untried = || AtomicBool::new(true);
        Self { reflink: untried(), copy_range: untried(), send: AtomicBool::new(!remote) }
    }
}

impl<'a> Copier<'a> {
    /// Makes a copier; `stopped` and `progress` are asked and told at every piece.
    pub fn new(
        hashing: Hashing,
        abilities: &'a Abilities,
        stopped: &'a dyn Fn() -> bool,
        progress: &'a dyn Fn(u64),
    ) -> Self {
        Self { buffer: vec![0; SMALL as usize + 1], hashing, abilities, stopped, progress }
    }

    /// Copies the content of `source`, which `entry` describes, into the empty file `destination`.
    pub fn copy(&mut self, source: impl AsFd, entry: &Entry, destination: impl AsFd) -> Result<Copied, CopyError> {
        let (source, destination) = (source.as_fd(), destination.as_fd());
        let sparse = entry.allocated + 4096 <= entry.size;
        if entry.size <= SMALL && !sparse {
            return self.copy_small(source, entry.size, destination);
        }
        if self.hashing != Hashing::Always && self.abilities.reflink.load(Ordering::Relaxed) && entry.size > 0 {
            match rustix::fs::ioctl_ficlone(destination, source) {
                Ok(()) => {
                    (self.progress)(entry.allocated.min(entry.size));
                    return Ok(Copied { bytes: entry.allocated.min(entry.size), md5: None });
                }
                Err(Errno::NOSPC | Errno::DQUOT) => return Err(CopyError::Write(Errno::NOSPC)),
                Err(_) => self.abilities.reflink.store(false, Ordering::Relaxed),
            }
        }
        if sparse {
            rustix::fs::ftruncate(destination, entry.size).map_err(CopyError::Write)?;
        }
        let mut total = Copied { bytes: 0, md5: None };
        let mut hash = match self.hashing {
            Hashing::Always => Some(Md5::new()),
            // Hashing holes would read what is not there.
            Hashing::Auto if !sparse => Some(Md5::new()),
            Hashing::Auto | Hashing::Never => None,
        };
        let mut position = 0;
        while position < entry.size {
            let (start, end) = if sparse { data_range(source, position, entry.size)? } else { (0, entry.size) };
            if let (Some(hash), Hashing::Always) = (&mut hash, self.hashing) {
                hash_zeros(hash, start - position);
            }
            let mut reached = start;
            if self.hashing != Hashing::Always {
                reached = self.copy_range(source, destination, reached, end, &mut total.bytes)?;
                reached = self.send_range(source, destination, reached, end, &mut total.bytes)?;
            }
            if reached > start {
                hash = None;
            }
            if reached < end {
                self.copy_through(source, destination, reached, end, &mut total.bytes, &mut hash)?;
            }
            position = end;
        }
        if rustix::fs::fstat(destination).map_err(CopyError::Write)?.st_size as u64 != entry.size {
            return Err(CopyError::Changed);
        }
        total.md5 = hash.map(|hash| hash.finalize().into());
        Ok(total)
    }

    fn copy_small(
        &mut self,
        source: BorrowedFd<'_>,
        size: u64,
        destination: BorrowedFd<'_>,
    ) -> Result<Copied, CopyError> {
        let size = size as usize;
        let mut filled = 0;
        // One byte more than expected tells a file that grew. A short read ends at the end of the file.
        loop {
            match rustix::io::read(source, &mut self.buffer[filled..=size]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(CopyError::Read(errno)),
            }
            if filled >= size {
                break;
            }
        }
        if filled != size {
            return Err(CopyError::Changed);
        }
        // Reading may have taken long.
        if (self.stopped)() {
            return Err(CopyError::Stopped);
        }
        write_all(destination, &self.buffer[..size], 0)?;
        (self.progress)(size as u64);
        let md5 = (self.hashing != Hashing::Never).then(|| Md5::digest(&self.buffer[..size]).into());
        Ok(Copied { bytes: size as u64, md5 })
    }

    /// Lets the kernel copy a range, and tells how far it came: it may not be able to between these files, and NFS may
    /// say that it is at the end before it is.
    fn copy_range(
        &self,
        source: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
        start: u64,
        end: u64,
        bytes: &mut u64,
    ) -> Result<u64, CopyError> {
        if !self.abilities.copy_range.load(Ordering::Relaxed) {
            return Ok(start);
        }
        let mut to = start;
        self.in_kernel(&self.abilities.copy_range, destination, (start, end), bytes, |from, length| {
            rustix::fs::copy_file_range(source, Some(from), destination, Some(&mut to), length)
        })
    }

    /// Lets the kernel move a range from one local file system to another, which `copy_file_range` refuses, and tells
    /// how far it came. Over a network the plain way is better: there reading and writing overlap.
    fn send_range(
        &self,
        source: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
        start: u64,
        end: u64,
        bytes: &mut u64,
    ) -> Result<u64, CopyError> {
        if start >= end || !self.abilities.send.load(Ordering::Relaxed) {
            return Ok(start);
        }
        rustix::fs::seek(destination, SeekFrom::Start(start)).map_err(CopyError::Write)?;
        self.in_kernel(&self.abilities.send, destination, (start, end), bytes, |from, length| {
            rustix::fs::sendfile(destination, source, Some(from), length)
        })
    }

    /// Lets the kernel copy a range piece by piece, and tells how far it came. An ability that turns out to be absent
    /// is not tried again.
    fn in_kernel(
        &self,
        ability: &AtomicBool,
        destination: BorrowedFd<'_>,
        (start, end): (u64, u64),
        bytes: &mut u64,
        mut copy: impl FnMut(&mut u64, usize) -> Result<usize, Errno>,
    ) -> Result<u64, CopyError> {
        let mut from = start;
        while from < end {
            if (self.stopped)() {
                return Err(CopyError::Stopped);
            }
            let before = from;
            match copy(&mut from, (end - before).min(PIECE) as usize) {
                Ok(0) => return Ok(before),
                Ok(_) => {
                    raw::start_writeback(destination, before, from - before);
                    *bytes += from - before;
                    (self.progress)(from - before);
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::PERM | Errno::OPNOTSUPP | Errno::BADF)
                    if before == start =>
                {
                    ability.store(false, Ordering::Relaxed);
                    return Ok(start);
                }
                // The call does not tell which side failed; a write is what fails for lack of room.
                Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::ROFS)) => {
                    return Err(CopyError::Write(errno));
                }
                Err(errno) => return Err(CopyError::Read(errno)),
            }
        }
        Ok(end)
    }

    /// Copies a range through memory. Reading, hashing and writing overlap: the hash has a thread of its own.
    fn copy_through(
        &mut self,
        source: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
        start: u64,
        end: u64,
        bytes: &mut u64,
        hash: &mut Option<Md5>,
    ) -> Result<(), CopyError> {
        let (full_sender, full_receiver) = crossbeam_channel::bounded::<(Vec<u8>, usize, u64)>(2);
        let (empty_sender, empty_receiver) = crossbeam_channel::bounded::<Vec<u8>>(4);
        for _ in 0..3 {
            let _ = empty_sender.send(vec![0; BUFFER]);
        }
        let taken = hash.take();
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || -> (Option<Md5>, Result<(), CopyError>) {
                let mut hash = taken;
                let mut position = start;
                while position < end {
                    let Ok(mut buffer) = empty_receiver.recv() else { break };
                    let wanted = (end - position).min(BUFFER as u64) as usize;
                    let count = match rustix::io::pread(source, &mut buffer[..wanted], position) {
                        Ok(0) => return (hash, Err(CopyError::Changed)),
                        Ok(count) => count,
                        Err(Errno::INTR) => 0,
                        Err(errno) => return (hash, Err(CopyError::Read(errno))),
                    };
                    if let Some(hash) = &mut hash {
                        hash.update(&buffer[..count]);
                    }
                    if full_sender.send((buffer, count, position)).is_err() {
                        break;
                    }
                    position += count as u64;
                }
                (hash, Ok(()))
            });
            let mut outcome = Ok(());
            for (buffer, count, position) in full_receiver {
                if (self.stopped)() {
                    outcome = Err(CopyError::Stopped);
                    break;
                }
                if let Err(error) = write_all(destination, &buffer[..count], position) {
                    outcome = Err(error);
                    break;
                }
                raw::start_writeback(destination, position, count as u64);
                *bytes += count as u64;
                (self.progress)(count as u64);
                let _ = empty_sender.send(buffer);
            }
            drop(empty_sender);
            let (returned, read) = reader.join().unwrap_or((None, Err(CopyError::Read(Errno::IO))));
            *hash = returned;
            outcome.and(read)
        })
    }
}

/// Finds the next data at or after a position; the range is empty at the end when only a hole follows.
fn data_range(source: BorrowedFd<'_>, position: u64, size: u64) -> Result<(u64, u64), CopyError> {
    let start = match rustix::fs::seek(source, SeekFrom::Data(position)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((position, size)),
        Err(errno) => return Err(CopyError::Read(errno)),
    };
    let end = rustix::fs::seek(source, SeekFrom::Hole(start)).map_err(CopyError::Read)?.min(size);
    // A file that shrinks under the call could stand still otherwise.
    Ok((start, end.max(start + u64::from(start < size))))
}

fn hash_zeros(hash: &mut Md5, mut count: u64) {
    let zeros = [0; 8192];
    while count > 0 {
        let piece = count.min(zeros.len() as u64);
        hash.update(&zeros[..piece as usize]);
        count -= piece;
    }
}

fn write_all(destination: BorrowedFd<'_>, mut data: &[u8], mut position: u64) -> Result<(), CopyError> {
    while !data.is_empty() {
        match rustix::io::pwrite(destination, data, position) {
            Ok(0) => return Err(CopyError::Write(Errno::IO)),
            Ok(count) => {
                data = &data[count..];
                position += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(CopyError::Write(errno)),
        }
    }
    Ok(())
}

/// Returns the MD5 of a file.
pub fn digest(file: impl AsFd, stopped: &dyn Fn() -> bool) -> Result<[u8; 16], CopyError> {
    let file = file.as_fd();
    let mut buffer = vec![0; BUFFER / 4];
    let mut hash = Md5::new();
    let mut position = 0;
    loop {
        if stopped() {
            return Err(CopyError::Stopped);
        }
        let length = read_full(file, &mut buffer, position).map_err(CopyError::Read)?;
        if length == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(&buffer[..length]);
        position += length as u64;
    }
}

/// Returns the MD5 of some bytes, as a link's target.
pub fn digest_of(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// Compares two open files byte by byte, and computes the MD5 of both: one computation as long as they are equal.
pub fn compare(source: impl AsFd, destination: impl AsFd, stopped: &dyn Fn() -> bool) -> Result<Content, CopyError> {
    let (source, destination) = (source.as_fd(), destination.as_fd());
    let mut left = vec![0; BUFFER / 4];
    let mut right = vec![0; BUFFER / 4];
    let mut common = Md5::new();
    let mut apart: Option<Md5> = None;
    let mut position = 0;
    loop {
        if stopped() {
            return Err(CopyError::Stopped);
        }
        let one = read_full(source, &mut left, position).map_err(CopyError::Read)?;
        let other = read_full(destination, &mut right, position).map_err(CopyError::Write)?;
        if one == 0 && other == 0 {
            break;
        }
        if apart.is_none() && left[..one] != right[..other] {
            apart = Some(common.clone());
        }
        common.update(&left[..one]);
        if let Some(apart) = &mut apart {
            apart.update(&right[..other]);
        }
        position += one.max(other) as u64;
    }
    let equal = apart.is_none();
    let source: [u8; 16] = common.finalize().into();
    let destination = apart.map_or(source, |apart| apart.finalize().into());
    Ok(Content { source, destination, equal })
}

fn read_full(file: BorrowedFd<'_>, buffer: &mut [u8], position: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}
