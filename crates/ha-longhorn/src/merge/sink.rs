//! Where a merged image goes: a sparse file, a qcow2 file, a block device, a stream.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

use crossbeam_channel::{Sender, TrySendError};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::qcow2::{Qcow2Writer, Target};

/// Takes the data of an image in ascending order; what is not given is zeros.
pub(super) trait Sink {
    /// Takes bytes; neither they nor what lies between them and those before has anything else.
    fn data(&mut self, position: u64, bytes: &[u8]) -> io::Result<()>;
    /// Hears that all below `position` was given.
    fn reached(&mut self, position: u64) -> io::Result<()>;
    /// Ends the image at its size, and makes it durable where that means something.
    fn finish(&mut self, size: u64) -> io::Result<()>;
}

/// Is a new file whose holes are zeros.
pub(super) struct FileSink<'a> {
    pub(super) file: &'a File,
    pub(super) pending: u64,
    /// Data that may wait between two checkpoints.
    pub(super) every: u64,
    /// Takes how far the file is written, to make that durable meanwhile.
    pub(super) checkpoints: Sender<u64>,
    /// Whether the file is durable at the end.
    pub(super) durable: bool,
}

impl Sink for FileSink<'_> {
    fn data(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.pending += bytes.len() as u64;
        self.file.write_all_at(bytes, position)
    }

    fn reached(&mut self, position: u64) -> io::Result<()> {
        if self.pending < self.every {
            return Ok(());
        }
        match self.checkpoints.try_send(position) {
            Ok(()) => self.pending = 0,
            // The last checkpoint is not done: the next one takes this one in.
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return Err(io::Error::other("the checkpoints ended early")),
        }
        Ok(())
    }

    fn finish(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)?;
        if self.durable { self.file.sync_all() } else { Ok(()) }
    }
}

/// Is a block device, whose old content must go where the image has zeros.
pub(super) struct DeviceSink {
    pub(super) file: File,
    pub(super) position: u64,
}

impl DeviceSink {
    fn zeros(&mut self, to: u64) -> io::Result<()> {
        let (from, length) = (self.position, to.saturating_sub(self.position));
        if length == 0 {
            return Ok(());
        }
        self.position = to;
        match rustix::fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, from, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                let zeros = vec![0; 1 << 20];
                let mut at = from;
                while at < to {
                    let now = (to - at).min(zeros.len() as u64);
                    self.file.write_all_at(&zeros[..usize::try_from(now).unwrap_or(0)], at)?;
                    at += now;
                }
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Sink for DeviceSink {
    fn data(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.zeros(position)?;
        self.position = position + bytes.len() as u64;
        self.file.write_all_at(bytes, position)
    }

    fn reached(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, size: u64) -> io::Result<()> {
        self.zeros(size)?;
        self.file.sync_all()
    }
}

/// Is a stream: every zero is written.
pub(super) struct StreamSink<'a> {
    pub(super) out: &'a mut (dyn Write + Send),
    pub(super) position: u64,
}

impl StreamSink<'_> {
    fn zeros(&mut self, to: u64) -> io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        while self.position < to {
            let now = (to - self.position).min(ZEROS.len() as u64);
            self.out.write_all(&ZEROS[..usize::try_from(now).unwrap_or(0)])?;
            self.position += now;
        }
        Ok(())
    }
}

impl Sink for StreamSink<'_> {
    fn data(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.zeros(position)?;
        self.position = position + bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn reached(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, size: u64) -> io::Result<()> {
        self.zeros(size)?;
        self.out.flush()
    }
}

/// Is a qcow2 file. Clusters are gathered from the stretches that fall into them.
pub(super) struct Qcow2Sink<'a> {
    file: &'a File,
    size: u64,
    writer: Option<Qcow2Writer>,
    /// The cluster that is being gathered: its position, and its bytes.
    cluster: Option<(u64, Vec<u8>)>,
    durable: bool,
}

impl<'a> Qcow2Sink<'a> {
    pub(super) fn new(file: &'a File, size: u64, durable: bool) -> Self {
        Self { file, size, writer: Some(Qcow2Writer::new(size)), cluster: None, durable }
    }

    fn close(&mut self) -> io::Result<()> {
        if let (Some((position, bytes)), Some(writer)) = (self.cluster.take(), &mut self.writer) {
            writer.cluster(&mut At(self.file), position, &bytes)?;
        }
        Ok(())
    }
}

struct At<'a>(&'a File);

impl Target for At<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
}

impl Sink for Qcow2Sink<'_> {
    fn data(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut position, mut bytes) = (position, bytes);
        while !bytes.is_empty() {
            let start = position - position % Qcow2Writer::CLUSTER;
            if self.cluster.as_ref().is_some_and(|(current, _)| *current != start) {
                self.close()?;
            }
            let room = Qcow2Writer::CLUSTER.min(self.size - start);
            let (_, cluster) = self.cluster.get_or_insert_with(|| (start, vec![0; usize::try_from(room).unwrap_or(0)]));
            let within = usize::try_from(position - start).unwrap_or(0);
            let length = (cluster.len() - within).min(bytes.len());
            cluster[within..within + length].copy_from_slice(&bytes[..length]);
            (position, bytes) = (position + length as u64, &bytes[length..]);
        }
        Ok(())
    }

    fn reached(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: u64) -> io::Result<()> {
        self.close()?;
        if let Some(writer) = self.writer.take() {
            let length = writer.finish(&mut At(self.file))?;
            self.file.set_len(length)?;
        }
        if self.durable { self.file.sync_all() } else { Ok(()) }
    }
}
