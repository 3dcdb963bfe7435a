//! Merges an image into a file, a device or a stream. A file is made under another name and renamed when it is
//! whole; its marker, with size and hash, comes last.

mod marker;
mod pipeline;
mod sink;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crossbeam_channel::{Sender, bounded};
use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, local};
use rustix::fs::{Access, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::layered::{self, BLOCK, Content, Image, ImageError, PlainImage};
use crate::qcow2::{Qcow2Image, Qcow2Writer};
use crate::replica::Replica;
use crate::source::{SourceDirectory, SourceFile};
use crate::watch::Watch;
use marker::State;
use pipeline::Broken;
use sink::{DeviceSink, FileSink, Qcow2Sink, Sink, StreamSink};

pub use marker::{Format, Marker, Source, beside, marker_path, read_marker};
pub use pipeline::Hashes;
pub(crate) use pipeline::hex;

/// What must stay free beside the data: the file system's own tables.
const SPARE: u64 = 4 << 20;

/// Is why a merge ended early.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The source cannot be read.
    #[error("failed to read the source")]
    Read(#[from] ImageError),
    /// The image cannot be written.
    #[error("failed to write: {path}")]
    Write {
        /// Where.
        path: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A step on the image failed.
    #[error(transparent)]
    Step(#[from] FsError),
    /// There is not enough room on the file system of the image.
    #[error("not enough space for {path}: {needed} bytes needed, {free} free")]
    NoSpace {
        /// The image.
        path: String,
        /// What the data need at most.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// Something is there already.
    #[error("there is something already: {path}")]
    Exists {
        /// Where.
        path: String,
    },
    /// The image is not what its marker says.
    #[error("the image was changed, it is not what its marker says: {path}")]
    NotAsMarked {
        /// The image.
        path: String,
    },
    /// The target is neither a file nor a block device.
    #[error("neither a file nor a block device: {path}")]
    NoFile {
        /// The target.
        path: String,
    },
    /// The target takes the bytes of the volume only.
    #[error("only raw images can be written there, not qcow2: {path}")]
    RawOnly {
        /// The target.
        path: String,
    },
    /// A qcow2 image cannot be so large.
    #[error("too large for a qcow2 image, which ends at {most} bytes: {size} bytes")]
    TooLarge {
        /// The size of the volume in bytes.
        size: u64,
        /// What is possible.
        most: u64,
    },
    /// The image would replace what it is made from.
    #[error("the image would replace what it is made from: {path}")]
    IsSource {
        /// The target.
        path: String,
    },
    /// The image would lie in a replica directory.
    #[error("the image would lie in a replica directory, into which nothing is written: {path}")]
    InReplica {
        /// The directory.
        path: String,
    },
    /// Another process makes this image.
    #[error("another process is making this image: {path}")]
    Busy {
        /// The image.
        path: String,
    },
    /// The device is too small.
    #[error("the device is too small: {path} has {has} bytes, the volume {needs}")]
    DeviceTooSmall {
        /// The device.
        path: String,
        /// Its size.
        has: u64,
        /// What is needed.
        needs: u64,
    },
    /// A file of the source was changed meanwhile.
    #[error("changed while it was read: {path}")]
    Changed {
        /// The file.
        path: String,
    },
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Says what is to be made.
#[derive(Debug, Clone)]
pub struct Order {
    /// The form of a file.
    pub format: Format,
    /// Whether the whole image is hashed too.
    pub whole_hash: bool,
    /// Whether what is there may be replaced.
    pub replace: bool,
    /// After so many bytes what was written to a raw file is made durable, so that a merge can be taken up there.
    pub checkpoint: u64,
    /// Whether the image is durable before it gets its name; else that is left to the kernel, and there are no
    /// checkpoints.
    pub durable: bool,
    /// What it is made from.
    pub source: Source,
}

/// Is how a merge into a file went.
#[derive(Debug, Clone)]
pub struct Done {
    /// What the marker says.
    pub marker: Marker,
    /// Where an earlier, interrupted merge was taken up; zero when it began anew.
    pub resumed_at: u64,
    /// Whether the image was there already, whole and of the same source.
    pub was_there: bool,
}

/// Is what reading an image will need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of data.
    pub data: u64,
    /// Pieces of data.
    pub pieces: u64,
}

/// Adds up the data of an image without reading it. Fails where its tables are damaged.
pub fn extent(image: &mut dyn Image) -> Result<Extent, ImageError> {
    let mut sum = Extent { data: 0, pieces: 0 };
    let mut position = 0;
    let mut before = Content::Hole;
    while position < image.size() {
        let piece = image.piece_at(position)?;
        if piece.content == Content::Data {
            sum.data += piece.end - position;
            sum.pieces += u64::from(before != Content::Data);
        }
        (position, before) = (piece.end, piece.content);
    }
    Ok(sum)
}

/// Returns a hash of names, lengths and times of the files of an image, and of `how` they are read. The names are the
/// last ones, since a directory can be spelled in several ways; its inode tells it from others.
pub fn fingerprint(image: &dyn Image, how: &str) -> String {
    let mut hash = Sha256::new();
    for file in image.files() {
        let stamp = file.stamp();
        hash.update(file.path().file_name().unwrap_or_default().as_encoded_bytes());
        hash.update([0]);
        hash.update(stamp.length.to_le_bytes());
        hash.update(stamp.modified.to_le_bytes());
        // The time of modification can be set back; this one cannot.
        hash.update(stamp.changed.to_le_bytes());
        hash.update(stamp.identity.1.to_le_bytes());
    }
    hash.update(image.size().to_le_bytes());
    hash.update(how);
    hex(&hash.finalize())
}

/// Tells whether a merge into this file was interrupted behind a checkpoint.
pub fn is_taken_up(path: &Path) -> bool {
    local::exists(&Files::of(path).state)
}

/// Makes an image file. `ambiguous` is asked at the end for the count of a best effort.
pub fn to_file(
    image: &mut dyn Image,
    path: &Path,
    order: &Order,
    watch: &dyn Watch,
    ambiguous: &dyn Fn(&dyn Image) -> Option<u64>,
) -> Result<Done, MergeError> {
    possible(image, path, order)?;
    let files = Files::of(path);
    let (part, state) = files.open(order)?;
    let found = match there(path, order, state.as_ref(), &files, watch) {
        Ok(found) => found,
        Err(error) => {
            if SourceFile::open(&files.part).is_ok_and(|part| part.size() == 0) {
                local::remove(&files.part)?;
            }
            return Err(error);
        }
    };
    if let Some(mut marker) = found {
        if order.durable && !marker.durable {
            let image = SourceFile::open(path)?;
            rustix::fs::fsync(&image).map_err(|errno| FsError::new("sync", printable_path(path), errno))?;
            marker.durable = true;
        }
        local::remove(&files.part)?;
        local::remove(&files.state)?;
        if read_marker(path)?.as_ref() != Some(&marker) {
            marker::write(&files.marker, &marker)?;
        }
        return Ok(Done { marker, resumed_at: 0, was_there: true });
    }
    // Of an image that was renamed, and is gone, the part is a new one.
    let resumed_at = state.filter(|state| state.is_in(&part)).map_or(0, |state| state.done.min(image.size()));
    let sum = extent(image)?;
    let made = enough(image, sum.data, held(&part), order, &part, path, watch).and_then(|()| match order.format {
        // A size that the file system does not take is found out at once.
        Format::Raw => {
            part.set_len(image.size()).map_err(|cause| MergeError::Write { path: printable_path(path), cause })
        }
        Format::Qcow2 => Ok(()),
    });
    if let Err(error) = made {
        if resumed_at == 0 {
            local::remove(&files.part)?;
        }
        return Err(error);
    }
    watch.expect(sum.data);
    let durable = order.durable;
    let mut keep = |done: u64| {
        let state = State { format: order.format, fingerprint: order.source.fingerprint.clone(), done, marker: None };
        marker::write(&files.state, &state).map_err(io::Error::other)
    };
    let mut before = match resumed_at {
        0 => None,
        _ => Some(PlainImage::new(SourceFile::open(&files.part)?)?),
    };
    let before = before.as_mut().map(|before| (before as &mut dyn Image, resumed_at));
    let size = image.size();
    let hashes = match order.format {
        Format::Raw => with_checkpoints(&part, &mut keep, path, |checkpoints| {
            let every = if durable { order.checkpoint } else { u64::MAX };
            let mut sink = FileSink { file: &part, pending: 0, every, checkpoints, durable };
            drain(image, before, &mut sink, order.whole_hash, watch, path)
        })?,
        Format::Qcow2 => {
            let mut sink = Qcow2Sink::new(&part, size, durable);
            drain(image, None, &mut sink, order.whole_hash, watch, path)?
        }
    };
    let name = path.file_name().unwrap_or_default();
    let marker = Marker {
        image: printable_path(Path::new(name)),
        format: order.format,
        size,
        data_bytes: hashes.data_bytes,
        blocks_blake3: hashes.blocks_blake3,
        sha256: hashes.sha256,
        durable,
        ambiguous_blocks: ambiguous(image),
        source: order.source.clone(),
    };
    let fingerprint = order.source.fingerprint.clone();
    let state = State { format: order.format, fingerprint, done: size, marker: Some(marker.clone()) };
    marker::write(&files.state, &state)?;
    // The marker of an image that is replaced would otherwise stand beside the new one for a moment.
    local::remove(&files.marker)?;
    rename(&files.part, path, order.replace)?;
    marker::write(&files.marker, &marker)?;
    local::remove(&files.state)?;
    Ok(Done { marker, resumed_at, was_there: false })
}

/// Finds out what [`to_file`] would halt at, and makes nothing.
pub fn check_file(image: &mut dyn Image, path: &Path, order: &Order, watch: &dyn Watch) -> Result<(), MergeError> {
    possible(image, path, order)?;
    let files = Files::of(path);
    let part = local::open_if_present(&files.part)?;
    if let Some(part) = &part {
        lock(part, path)?;
    }
    let state = files.state(order)?;
    if there(path, order, state.as_ref(), &files, watch)?.is_some() {
        return Ok(());
    }
    let taken_up = part.as_ref().filter(|part| state.is_some_and(|state| state.is_in(part)));
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = SourceDirectory::open(parent)?;
    rustix::fs::access(parent, Access::WRITE_OK)
        .map_err(|errno| FsError::new("write into", printable_path(parent), errno))?;
    let data = extent(image)?.data;
    enough(image, data, taken_up.map_or(0, held), order, &directory, path, watch)
}

/// Finds out what [`to_device`] would halt at, and writes nothing.
pub fn check_device(image: &mut dyn Image, path: &Path) -> Result<(), MergeError> {
    open_device(image, path).map(|_| ())
}

/// Halts where the target is what the image is read from, or no file at all. Returns whether it is a block device.
pub fn check_target(image: &dyn Image, path: &Path) -> Result<bool, MergeError> {
    let Ok(target) = rustix::fs::stat(path) else { return Ok(false) };
    let device = match FileType::from_raw_mode(target.st_mode) {
        FileType::RegularFile => false,
        FileType::BlockDevice => true,
        _ => return Err(MergeError::NoFile { path: printable_path(path) }),
    };
    for file in image.files() {
        let source =
            rustix::fs::fstat(file).map_err(|errno| FsError::new("look at", printable_path(file.path()), errno))?;
        let same = match device {
            true => file.is_device() && source.st_rdev == target.st_rdev,
            false => (source.st_dev, source.st_ino) == (target.st_dev, target.st_ino),
        };
        if same {
            return Err(MergeError::IsSource { path: printable_path(path) });
        }
    }
    Ok(device)
}

/// Halts where a path lies in a replica directory, or where the form cannot hold the image.
fn possible(image: &dyn Image, path: &Path, order: &Order) -> Result<(), MergeError> {
    let (size, most) = (image.size(), Qcow2Writer::MOST);
    if order.format == Format::Qcow2 && size > most {
        return Err(MergeError::TooLarge { size, most });
    }
    match Replica::around(path) {
        Some(replica) => Err(MergeError::InReplica { path: printable_path(&replica) }),
        None => Ok(()),
    }
}

fn held(part: &File) -> u64 {
    part.metadata().map_or(0, |part| std::os::unix::fs::MetadataExt::blocks(&part) * 512)
}

/// Halts where there is no room for the data. Blocks of zeros take none: where that can decide it, they are counted,
/// which reads the source once more.
fn enough(
    image: &mut dyn Image,
    data: u64,
    held: u64,
    order: &Order,
    place: impl AsFd,
    path: &Path,
    watch: &dyn Watch,
) -> Result<(), MergeError> {
    match room(data, held, &place, path) {
        Err(MergeError::NoSpace { .. }) if order.format == Format::Raw => {
            room(hash(image, false, watch)?.data_bytes, held, place, path)
        }
        other => other,
    }
}

/// Halts where there is no room for the data on the file system of `place`.
fn room(data: u64, held: u64, place: impl AsFd, path: &Path) -> Result<(), MergeError> {
    let needed = data.saturating_sub(held).saturating_add(SPARE);
    let statistics = rustix::fs::fstatvfs(place)
        .map_err(|errno| FsError::new("ask the free space of", printable_path(path), errno))?;
    let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
    if needed > free {
        return Err(MergeError::NoSpace { path: printable_path(path), needed, free });
    }
    Ok(())
}

/// Writes an image to a block device that nothing else uses.
pub fn to_device(
    image: &mut dyn Image,
    path: &Path,
    whole_hash: bool,
    watch: &dyn Watch,
) -> Result<Hashes, MergeError> {
    let handle = open_device(image, path)?;
    watch.expect(extent(image)?.data);
    let mut sink = DeviceSink { file: handle.into(), position: 0 };
    drain(image, None, &mut sink, whole_hash, watch, path)
}

fn open_device(image: &mut dyn Image, path: &Path) -> Result<OwnedFd, MergeError> {
    // Without O_CREAT, O_EXCL asks for a device that is neither mounted nor part of another.
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::EXCL;
    let handle = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| FsError::new("open for writing", printable_path(path), errno))?;
    let has = crate::raw::device_size(&handle)
        .map_err(|errno| FsError::new("ask the size of", printable_path(path), errno))?;
    if has < image.size() {
        return Err(MergeError::DeviceTooSmall { path: printable_path(path), has, needs: image.size() });
    }
    Ok(handle)
}

/// Writes an image to a stream, every zero of it.
pub fn to_stream(
    image: &mut dyn Image,
    out: &mut (dyn Write + Send),
    whole_hash: bool,
    watch: &dyn Watch,
) -> Result<Hashes, MergeError> {
    watch.expect(extent(image)?.data);
    let mut sink = StreamSink { out, position: 0 };
    drain(image, None, &mut sink, whole_hash, watch, Path::new("-"))
}

/// Reads an image to its end and returns its hashes.
pub fn hash(image: &mut dyn Image, whole_hash: bool, watch: &dyn Watch) -> Result<Hashes, MergeError> {
    watch.expect(extent(image)?.data);
    drain(image, None, &mut Nowhere, whole_hash, watch, Path::new("nowhere"))
}

/// Runs `write` beside a thread that makes durable what is written so far, so that the disk works meanwhile, and tells
/// `keep` of it.
fn with_checkpoints<T>(
    part: &File,
    keep: &mut (dyn FnMut(u64) -> io::Result<()> + Send),
    path: &Path,
    write: impl FnOnce(Sender<u64>) -> Result<T, MergeError>,
) -> Result<T, MergeError> {
    let (checkpoints, positions) = bounded(1);
    std::thread::scope(|scope| {
        let keeper = scope.spawn(move || -> io::Result<()> {
            for position in positions {
                part.sync_data()?;
                keep(position)?;
            }
            Ok(())
        });
        let written = write(checkpoints);
        // A failed write-back is told to one caller only: without it the last sync may look fine.
        match keeper.join() {
            Ok(Ok(())) => written,
            Ok(Err(cause)) => Err(MergeError::Write { path: printable_path(path), cause }),
            Err(_) => {
                let cause = io::Error::other("the thread of the checkpoints panicked");
                Err(MergeError::Write { path: printable_path(path), cause })
            }
        }
    })
}

struct Nowhere;

impl Sink for Nowhere {
    fn data(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn reached(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn finish(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn drain(
    image: &mut dyn Image,
    before: Option<(&mut dyn Image, u64)>,
    sink: &mut dyn Sink,
    whole_hash: bool,
    watch: &dyn Watch,
    path: &Path,
) -> Result<Hashes, MergeError> {
    let failed = |cause| MergeError::Write { path: printable_path(path), cause };
    let hashes = pipeline::run(image, before, sink, whole_hash, watch).map_err(|broken| match broken {
        Broken::Read(error) => MergeError::Read(error),
        Broken::Write(cause) => failed(cause),
        Broken::Stopped => MergeError::Stopped,
    })?;
    if let Some(path) = layered::changed(image)? {
        return Err(MergeError::Changed { path });
    }
    sink.finish(image.size()).map_err(failed)?;
    Ok(hashes)
}

/// Are the files that belong to an image.
struct Files {
    image: PathBuf,
    part: PathBuf,
    state: PathBuf,
    marker: PathBuf,
}

impl Files {
    fn of(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
            part: marker::beside(image, ".ha-volume.part"),
            state: marker::beside(image, ".ha-volume.state"),
            marker: marker_path(image),
        }
    }

    /// Opens and locks the part. The state is returned when it is of the same source, else the part is emptied.
    fn open(&self, order: &Order) -> Result<(File, Option<State>), MergeError> {
        let failed = |step, errno| FsError::new(step, printable_path(&self.part), errno);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let part = loop {
            let part = rustix::fs::open(&self.part, flags, Mode::from_raw_mode(0o600))
                .map_err(|errno| failed("make", errno))?;
            lock(&part, &self.image)?;
            // Another process may have renamed it between the two calls; then the lock is on its image.
            let ours = rustix::fs::fstat(&part).map_err(|errno| failed("look at", errno))?;
            match rustix::fs::lstat(&self.part) {
                Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => break part,
                _ => {}
            }
        };
        let part = File::from(part);
        // The state of an image that was renamed has nothing in a part that is new and empty.
        let state = self.state(order)?.filter(|state| state.is_in(&part) || state.marker.is_some());
        let useless = state.as_ref().is_none_or(|state| !state.is_in(&part));
        // ext4 waits for all data of a file that was cut to nothing, when it is closed: an empty one is left alone.
        if useless && part.metadata().is_ok_and(|part| part.len() > 0) {
            part.set_len(0).map_err(|cause| MergeError::Write { path: printable_path(&self.part), cause })?;
        }
        if state.is_none() {
            local::remove(&self.state)?;
        }
        Ok((part, state))
    }

    /// Reads the state, when it is of the same source and of a raw image, the only one that is taken up.
    fn state(&self, order: &Order) -> Result<Option<State>, MergeError> {
        let state = local::read_if_present(&self.state)?;
        let state = state.and_then(|content| serde_json::from_slice::<State>(&content).ok());
        Ok(state
            .filter(|state| state.fingerprint == order.source.fingerprint && state.format == order.format)
            .filter(|state| state.marker.is_some() || (state.done % BLOCK == 0 && state.format == Format::Raw)))
    }
}

fn lock(part: impl AsFd, image: &Path) -> Result<(), MergeError> {
    match rustix::fs::flock(part, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(MergeError::Busy { path: printable_path(image) }),
        Err(errno) => Err(FsError::new("lock", printable_path(image), errno).into()),
    }
}

/// Tells whether the image is there and whole: its marker says so, or the state of a merge that was ended between the
/// renaming and the marker, and its bytes have the hash. Fails when something else is there.
fn there(
    path: &Path,
    order: &Order,
    state: Option<&State>,
    files: &Files,
    watch: &dyn Watch,
) -> Result<Option<Marker>, MergeError> {
    if !local::exists(path) {
        return Ok(None);
    }
    let fits = |marker: &Marker| {
        marker.source.fingerprint == order.source.fingerprint
            && marker.format == order.format
            && (marker.sha256.is_some() || !order.whole_hash)
    };
    // The part that was renamed is the image: a new part is empty.
    let renamed = || SourceFile::open(&files.part).map_or(true, |part| part.size() == 0);
    let marker = match read_marker(path)?.filter(fits) {
        Some(marker) => Some(marker),
        None => state.and_then(|state| state.marker.clone()).filter(fits).filter(|_| renamed()),
    };
    let mut error = MergeError::Exists { path: printable_path(path) };
    if let Some(marker) = marker {
        if is_as_marked(path, &marker, watch)? {
            return Ok(Some(marker));
        }
        error = MergeError::NotAsMarked { path: printable_path(path) };
    }
    if order.replace {
        return Ok(None);
    }
    Err(error)
}

/// Reads an image and compares it with its marker.
fn is_as_marked(path: &Path, marker: &Marker, watch: &dyn Watch) -> Result<bool, MergeError> {
    let file = SourceFile::open(path)?;
    let image: Result<Box<dyn Image>, ImageError> = match marker.format {
        Format::Raw => PlainImage::new(file).map(|image| Box::new(image) as Box<dyn Image>),
        Format::Qcow2 => Qcow2Image::new(file, 0).map(|image| Box::new(image) as Box<dyn Image>),
    };
    match image {
        Ok(mut image) if image.size() == marker.size => {
            // All that it says of the bytes, so that nothing is repeated that somebody wrote into it.
            let found = hash(&mut *image, marker.sha256.is_some(), watch)?;
            Ok(found.blocks_blake3 == marker.blocks_blake3
                && found.data_bytes == marker.data_bytes
                && found.sha256 == marker.sha256)
        }
        // What is no image any more is not what the marker says either.
        Ok(_) | Err(ImageError::Qcow2(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives a durable file the name of an image. Without `replace` nothing may be there.
pub fn rename(part: &Path, image: &Path, replace: bool) -> Result<(), MergeError> {
    if replace {
        let failed = |errno| FsError::new("rename to", printable_path(image), errno);
        rustix::fs::renameat(rustix::fs::CWD, part, rustix::fs::CWD, image).map_err(failed)?;
        local::sync_parent(image);
        return Ok(());
    }
    local::rename_new(part, image).map_err(|error| match error.errno() {
        Some(Errno::EXIST) => MergeError::Exists { path: printable_path(image) },
        _ => error.into(),
    })
}
