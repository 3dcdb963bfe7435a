//! Which parts of a file are allocated (volumes.md §2): FIEMAP with SYNC where the file system offers it, else
//! `SEEK_DATA`.

use ha_sync_fs::FsError;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::Serialize;

use crate::raw;
use crate::source::SourceFile;

/// Is an allocated range `[start, end)` of a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// The first byte.
    pub start: u64,
    /// The byte behind the last one.
    pub end: u64,
    /// Whether the space is allocated and was never written: it counts as data, and reads as zeros.
    pub unwritten: bool,
}

impl Extent {
    /// Returns the number of bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }
}

/// Is how extents were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The file system's own map.
    Fiemap,
    /// `SEEK_DATA` and `SEEK_HOLE`, which take unwritten space for a hole.
    SeekData,
    /// Neither is offered: everything counts as data.
    Whole,
}

/// Finds the extents of a file by position. Holds a batch of them, whatever the size of the file.
#[derive(Debug)]
pub struct Extents {
    method: Method,
    /// The batch: extents of `[from, to)`, ascending, clipped to the file's length.
    batch: Vec<Extent>,
    from: u64,
    to: u64,
}

impl Extents {
    /// Starts with the best method that the file system offers.
    pub fn of(file: &SourceFile) -> Result<Self, FsError> {
        let method = if file.is_device() {
            Method::Whole
        } else {
            match raw::fiemap(file, 0) {
                Ok(_) => Method::Fiemap,
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL) => seek_method(file),
                Err(errno) => return Err(file.failed("map the extents of", errno)),
            }
        };
        Ok(Self::with(method))
    }

    /// Starts with a given method.
    pub fn with(method: Method) -> Self {
        Self { method, batch: Vec::new(), from: 0, to: 0 }
    }

    /// Returns the method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Returns the first extent that ends behind `position`; nothing when only a hole follows.
    pub fn at(&mut self, file: &SourceFile, position: u64) -> Result<Option<Extent>, FsError> {
        let mut position = position;
        loop {
            if position >= file.size() {
                return Ok(None);
            }
            if position < self.from || position >= self.to {
                self.fetch(file, position)?;
            }
            let index = self.batch.partition_point(|extent| extent.end <= position);
            match self.batch.get(index) {
                Some(extent) => return Ok(Some(*extent)),
                None => position = self.to,
            }
        }
    }

    fn fetch(&mut self, file: &SourceFile, position: u64) -> Result<(), FsError> {
        self.batch.clear();
        self.from = position;
        self.to = file.size();
        match self.method {
            Method::Whole => self.push(file, 0, file.size(), false),
            Method::Fiemap => {
                let mapped = raw::fiemap(file, position).map_err(|errno| file.failed("map the extents of", errno))?;
                // A short answer is the last one, also where a file system forgets to say so.
                let more = mapped.len() == raw::BATCH
                    && mapped.last().is_some_and(|last| last.flags & raw::FIEMAP_EXTENT_LAST == 0);
                for extent in &mapped {
                    let end = extent.logical.saturating_add(extent.length);
                    self.push(file, extent.logical, end, extent.flags & raw::FIEMAP_EXTENT_UNWRITTEN != 0);
                }
                if more && let Some(last) = self.batch.last() {
                    self.to = last.end;
                }
            }
            Method::SeekData => {
                let failed = |errno| file.failed("seek data in", errno);
                let mut from = position;
                while self.batch.len() < raw::BATCH {
                    let Some(start) = file.seek(SeekFrom::Data(from)).map_err(failed)? else { return Ok(()) };
                    let end = file.seek(SeekFrom::Hole(start)).map_err(failed)?.unwrap_or(file.size());
                    if end <= start {
                        return Ok(());
                    }
                    self.push(file, start, end, false);
                    from = end;
                }
                self.to = from;
            }
        }
        Ok(())
    }

    /// Adds an extent of the file system to the batch; neighbours of one kind become one.
    fn push(&mut self, file: &SourceFile, start: u64, end: u64, unwritten: bool) {
        let end = end.min(file.size());
        if start >= end {
            return;
        }
        match self.batch.last_mut() {
            Some(last) if last.end >= start && last.unwritten == unwritten => last.end = last.end.max(end),
            _ => self.batch.push(Extent { start, end, unwritten }),
        }
    }
}

fn seek_method(file: &SourceFile) -> Method {
    match file.seek(SeekFrom::Data(0)) {
        Ok(_) => Method::SeekData,
        Err(_) => Method::Whole,
    }
}

/// Is what the extents of a file add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// How they were found.
    pub method: Method,
    /// How many there are, neighbours counted as one.
    pub extents: u64,
    /// Allocated bytes.
    pub bytes: u64,
    /// Of them, allocated and never written.
    pub unwritten: u64,
    /// Bytes on which `SEEK_DATA` says something else; zero where only one method is offered.
    pub disputed: u64,
}

/// Calls `each` for every extent of a file, neighbours of one kind joined.
pub fn for_each<E: From<FsError>>(
    file: &SourceFile,
    method: Method,
    mut each: impl FnMut(Extent) -> Result<(), E>,
) -> Result<(), E> {
    let mut extents = Extents::with(method);
    let mut held: Option<Extent> = None;
    let mut position = 0;
    while let Some(extent) = extents.at(file, position)? {
        position = extent.end;
        match &mut held {
            Some(last) if last.end >= extent.start && last.unwritten == extent.unwritten => last.end = extent.end,
            _ => {
                if let Some(last) = held.replace(extent) {
                    each(last)?;
                }
            }
        }
    }
    held.map_or(Ok(()), each)
}

/// Adds the extents of a file up, and compares with `SEEK_DATA` where both methods are offered.
pub fn totals(file: &SourceFile) -> Result<Totals, FsError> {
    let method = Extents::of(file)?.method();
    let mut totals = Totals { method, extents: 0, bytes: 0, unwritten: 0, disputed: 0 };
    let mut end = u64::MAX;
    for_each(file, method, |extent| {
        totals.extents += u64::from(end != extent.start);
        end = extent.end;
        totals.bytes += extent.length();
        totals.unwritten += if extent.unwritten { extent.length() } else { 0 };
        Ok::<_, FsError>(())
    })?;
    if method == Method::Fiemap && seek_method(file) == Method::SeekData {
        totals.disputed = disputed(file)?;
    }
    Ok(totals)
}

/// Counts the bytes that are data to one method and a hole to the other.
fn disputed(file: &SourceFile) -> Result<u64, FsError> {
    let mut methods = [Extents::with(Method::Fiemap), Extents::with(Method::SeekData)];
    let (mut position, mut disputed) = (0, 0);
    while position < file.size() {
        let mut next = file.size();
        let mut inside = [false; 2];
        for (extents, inside) in methods.iter_mut().zip(&mut inside) {
            if let Some(extent) = extents.at(file, position)? {
                *inside = extent.start <= position;
                next = next.min(if *inside { extent.end } else { extent.start });
            }
        }
        if inside[0] != inside[1] {
            disputed += next - position;
        }
        position = next;
    }
    Ok(disputed)
}
