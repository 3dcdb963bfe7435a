//! Writing the log of a run, from many threads.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ha_sync_core::record::{Intent, Iteration, Operation, Outcome};

use crate::files::{self, FileError};
use crate::{line, time};

/// How often what was written is made durable: with the time of the call itself, within a second.
const SYNC_INTERVAL: Duration = Duration::from_millis(700);
/// A buffer that grew beyond this is not kept.
const KEPT_BUFFER: usize = 64 * 1024;

/// Says why a log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OpLogError {
    /// A file system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process keeps the lock of the file that was just created.
    #[error("failed to lock operation log: {}: it is locked by another process", path.display())]
    Locked {
        /// The log.
        path: PathBuf,
    },
    /// A line could not be written, so the log has no trailer either: it is that of an interrupted run, and the next run
    /// of the pair finds out what was done and concludes it.
    #[error("the operation log lacks lines, the next run of the pair completes it: {}", path.display())]
    Incomplete {
        /// The log.
        path: PathBuf,
        /// Why the first of them could not be written.
        #[source]
        source: FileError,
    },
    /// The header or the trailer could not be written as JSON.
    #[error("failed to encode a line of the operation log: {}", path.display())]
    Encode {
        /// The log.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Is the log of a running run: `opslog-<pair>-<direction>-<UTC start>.jsonl`, locked with flock(2) as long as this
/// value lives. That lock is how others know that the run is alive; a crash frees it.
#[derive(Debug)]
pub struct OpLog {
    path: PathBuf,
    dry_run: bool,
    shared: Arc<Shared>,
    /// Declared last: it is joined before the file closes.
    syncer: Syncer,
}

#[derive(Debug)]
struct Shared {
    file: File,
    path: PathBuf,
    tail: Mutex<Tail>,
    dirty: AtomicBool,
}

/// Is the end of the file.
#[derive(Debug)]
struct Tail {
    /// Bytes of whole lines.
    length: u64,
    /// The first step that failed, and its errno. No line is taken after it, not even a trailer: that would say that
    /// every operation has its line.
    failure: Option<(&'static str, i32)>,
}

impl OpLog {
    /// Creates the log of a run in `dir`, locks it, writes its header and makes both durable. When the name is
    /// taken, the time in it is moved by a millisecond.
    pub fn create(dir: &Path, iteration: &Iteration) -> Result<Self, OpLogError> {
        let mut started = iteration.started_at;
        let (path, file) = loop {
            let path = dir.join(file_name(iteration, started));
            match files::create_new(&path) {
                Ok(file) => {
                    lock_new(&file, &path)?;
                    // between the creation and the lock another run may have taken it for the empty log of a dead
                    // one, and have removed it
                    if !files::is_removed(&file, &path)? {
                        break (path, file);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(FileError::new("create operation log", &path, error).into()),
            }
            started += Duration::from_millis(1);
        };
        let tail = Mutex::new(Tail { length: 0, failure: None });
        let shared = Arc::new(Shared { file, path: path.clone(), tail, dirty: AtomicBool::new(false) });
        let mut header = Vec::new();
        line::write_tagged(&mut header, "iteration", iteration)
            .map_err(|source| OpLogError::Encode { path: path.clone(), source })?;
        shared.write(&header)?;
        shared.sync_all()?;
        files::sync_directory(dir)?;
        let syncer = Syncer::start(Arc::clone(&shared))
            .map_err(|source| FileError::new("start the thread that syncs the operation log", &path, source))?;
        Ok(Self { path, dry_run: iteration.dry_run, shared, syncer })
    }

    /// Writes what is about to be done; must return before it is done.
    pub fn intend(&self, intents: &[Intent]) -> Result<(), OpLogError> {
        self.write_lines(|lines| intents.iter().for_each(|intent| line::write_intent(lines, intent)))
    }

    /// Writes what was done.
    pub fn append(&self, operations: &[Operation]) -> Result<(), OpLogError> {
        let dry_run = self.dry_run;
        let write = |lines: &mut Vec<u8>, operation| line::write_operation(lines, operation, dry_run);
        self.write_lines(|lines| operations.iter().for_each(|operation| write(lines, operation)))
    }

    /// Writes the trailer, makes the log durable and frees its lock; returns its path. A log that lacks lines gets no
    /// trailer: [`OpLogError::Incomplete`].
    pub fn finish(self, outcome: &Outcome) -> Result<PathBuf, OpLogError> {
        let Self { path, dry_run: _, shared, syncer } = self;
        drop(syncer);
        let mut trailer = Vec::new();
        line::write_tagged(&mut trailer, "end", outcome)
            .map_err(|source| OpLogError::Encode { path: path.clone(), source })?;
        shared.write(&trailer).map_err(|source| OpLogError::Incomplete { path: path.clone(), source })?;
        shared.sync_all()?;
        Ok(path)
    }

    /// Removes the log: nothing happened that is worth a record.
    pub fn discard(self) -> Result<(), OpLogError> {
        let Self { path, dry_run: _, shared, syncer } = self;
        drop(syncer);
        files::remove(&path)?;
        drop(shared);
        if let Some(dir) = path.parent() {
            files::sync_directory(dir)?;
        }
        Ok(())
    }

    /// Returns where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Encodes into a buffer of this thread, so that only the write itself waits for others.
    fn write_lines(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), OpLogError> {
        thread_local!(static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        LINES.with_borrow_mut(|lines| {
            lines.clear();
            encode(lines);
            let written = self.shared.write(lines);
            if lines.capacity() > KEPT_BUFFER {
                *lines = Vec::new();
            }
            Ok(written?)
        })
    }
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        // a thread that panicked here left length as it was before its write
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends whole lines or nothing.
    fn write(&self, lines: &[u8]) -> Result<(), FileError> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut tail = self.tail();
        if let Some((step, errno)) = tail.failure {
            return Err(FileError::new(step, &self.path, io::Error::from_raw_os_error(errno)));
        }
        // one write(2) in all but the rarest cases: a short one (disk full) is finished or taken back under the lock,
        // so that no other line ends up in the middle of this one
        if let Err(error) = (&self.file).write_all(lines) {
            let step = "write operation log";
            tail.failure = Some((step, error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error())));
            // failing this too, the line is a torn last one, which readers pass over
            let _ = self.file.set_len(tail.length);
            return Err(FileError::new(step, &self.path, error));
        }
        tail.length += lines.len() as u64;
        drop(tail);
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    fn sync_all(&self) -> Result<(), FileError> {
        self.dirty.store(false, Ordering::Release);
        self.file.sync_all().map_err(|source| FileError::new("sync operation log", &self.path, source))
    }
}

/// Makes the log durable every second from a thread of its own.
#[derive(Debug)]
struct Syncer {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("opslog-sync".to_owned()).spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(SYNC_INTERVAL) {
                if !shared.dirty.swap(false, Ordering::AcqRel) {
                    continue;
                }
                if let Err(error) = shared.file.sync_data() {
                    // the kernel tells a lost page once only: from now on the log cannot be trusted
                    let errno = error.raw_os_error().unwrap_or_default();
                    shared.tail().failure.get_or_insert(("sync operation log", errno));
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // it has nothing to tell, and a panic in it was printed
            let _ = thread.join();
        }
    }
}

fn file_name(iteration: &Iteration, started: jiff::Timestamp) -> String {
    let time = time::rfc3339(started);
    format!("opslog-{}-{}-{}.jsonl", iteration.sync_pair, iteration.direction, time.escape_ascii())
}

/// Waits out those who look at a new file for a moment to see whether its run is alive.
fn lock_new(file: &File, path: &Path) -> Result<(), OpLogError> {
    for _ in 0..1000 {
        if files::try_lock(file, path)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(OpLogError::Locked { path: path.to_owned() })
}
