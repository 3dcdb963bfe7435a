//! Reading logs: what is in a directory, and the lines of one, with bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use ha_sync_core::record::{Intent, Iteration, Operation, Outcome};
use jiff::Timestamp;

use crate::files::{self, FileError};
use crate::line::{self, Kind};
use crate::time;

/// No line that a run writes comes near it; a longer one is not ours.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;

/// Says why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file system call failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The log has no whole header line: its run died before it did anything.
    #[error("operation log has no header: {}", path.display())]
    NoHeader {
        /// The log.
        path: PathBuf,
    },
    /// A line that is not the last one cannot be understood.
    #[error("operation log is broken at line {line}: {}: {problem}", path.display())]
    Broken {
        /// The log.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Its run is alive, or another process is reading it to its end.
    #[error("operation log is in use: {}", path.display())]
    Live {
        /// The log.
        path: PathBuf,
    },
    /// It already has a trailer.
    #[error("operation log has ended: {}", path.display())]
    Ended {
        /// The log.
        path: PathBuf,
    },
    /// Its reader was told to stop.
    #[error("interrupted in operation log: {}", path.display())]
    Stopped {
        /// The log.
        path: PathBuf,
    },
}

/// Is a line of a log after its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// An operation is about to be done.
    Intent(Intent),
    /// An operation was done or failed.
    Operation(Operation),
    /// The run ended; no line follows.
    End(Outcome),
}

/// Reads a log line by line. A torn last line is as if it were not there; any other line that cannot be understood
/// is [`LogError::Broken`].
#[derive(Debug)]
pub struct LogReader {
    header: Iteration,
    lines: Lines,
}

/// Is the part of a reader that knows lines, but not yet the header.
#[derive(Debug)]
struct Lines {
    input: BufReader<File>,
    path: PathBuf,
    line: Vec<u8>,
    /// Lines understood so far.
    number: u64,
    extent: Extent,
    ended: bool,
    /// After an error nothing more is read.
    stopped: bool,
}

/// Is how far a log can be understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes up to the end of the last understood line.
    pub(crate) bytes: u64,
    /// Whether that line lacks its newline.
    pub(crate) unterminated: bool,
}

impl LogReader {
    /// Opens a log and reads its header.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let mut lines = Lines {
            input: BufReader::with_capacity(64 * 1024, files::open_read(path)?),
            path: path.to_owned(),
            line: Vec::new(),
            number: 0,
            extent: Extent::default(),
            ended: false,
            stopped: false,
        };
        let mut header = None;
        lines.next_with(|kind, line| {
            if kind == Kind::Iteration {
                header = Some(serde_json::from_slice(line)?);
            }
            Ok(())
        })?;
        match header {
            Some(header) => Ok(Self { header, lines }),
            None if lines.number == 0 => Err(LogError::NoHeader { path: path.to_owned() }),
            None => Err(lines.broken(1, "it is no header".to_owned())),
        }
    }

    /// Returns the header.
    pub fn header(&self) -> &Iteration {
        &self.header
    }

    /// Returns where the log is.
    pub(crate) fn path(&self) -> &Path {
        &self.lines.path
    }

    /// Tells whether the trailer was read.
    pub fn ended(&self) -> bool {
        self.lines.ended
    }

    /// Reads on after the end, because more was written since.
    pub(crate) fn resume(&mut self) {
        self.lines.stopped = false;
    }

    /// Returns how far the log was understood so far.
    pub(crate) fn extent(&self) -> Extent {
        self.lines.extent
    }

    /// Gives the next line to `take`; false at the end. A line that `take` refuses is broken, or torn if it is the
    /// last one.
    pub(crate) fn next_with(
        &mut self,
        take: impl FnOnce(Kind, &[u8]) -> Result<(), serde_json::Error>,
    ) -> Result<bool, LogError> {
        self.lines.next_with(take)
    }
}

impl Lines {
    fn next_with(&mut self, take: impl FnOnce(Kind, &[u8]) -> Result<(), serde_json::Error>) -> Result<bool, LogError> {
        if self.stopped {
            return Ok(false);
        }
        let taken = self.take_next(take);
        self.stopped = !matches!(taken, Ok(true));
        taken
    }

    fn take_next(&mut self, take: impl FnOnce(Kind, &[u8]) -> Result<(), serde_json::Error>) -> Result<bool, LogError> {
        let Some(kind) = self.advance()? else {
            return Ok(false);
        };
        match take(kind, &self.line) {
            Ok(()) => {
                self.number += 1;
                self.ended = kind == Kind::End;
                let unterminated = self.line.last() != Some(&b'\n');
                self.extent = Extent { bytes: self.extent.bytes + self.line.len() as u64, unterminated };
                Ok(true)
            }
            Err(error) => self.torn_or_broken(error.to_string()).map(|()| false),
        }
    }

    /// Reads a line into the buffer and tells what it is; nothing at the end.
    fn advance(&mut self) -> Result<Option<Kind>, LogError> {
        self.line.clear();
        let read = self.input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.line);
        if read.map_err(|source| self.failed(source))? == 0 {
            return Ok(None);
        }
        if self.line.len() as u64 == LONGEST_LINE {
            return Err(self.broken(self.number + 1, "it is too long".to_owned()));
        }
        let problem = match line::kind(&self.line) {
            None => "it has no type that is known",
            Some(_) if self.ended => "it follows the trailer",
            Some(Kind::Iteration) if self.number > 0 => "it is a second header",
            Some(kind) => return Ok(Some(kind)),
        };
        self.torn_or_broken(problem.to_owned()).map(|()| None)
    }

    /// After a crash the last line may be cut, or be whole in length with pages of it never written.
    fn torn_or_broken(&mut self, problem: String) -> Result<(), LogError> {
        match self.input.fill_buf().map(<[u8]>::is_empty) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.broken(self.number + 1, problem)),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> LogError {
        FileError::new("read operation log", &self.path, source).into()
    }

    fn broken(&self, line: u64, problem: String) -> LogError {
        LogError::Broken { path: self.path.clone(), line, problem }
    }
}

impl Iterator for LogReader {
    type Item = Result<Line, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut read = None;
        let result = self.next_with(|kind, line| {
            read = match kind {
                Kind::Iteration => None,
                Kind::Intent => Some(Line::Intent(serde_json::from_slice(line)?)),
                Kind::Operation => Some(Line::Operation(serde_json::from_slice(line)?)),
                Kind::End => Some(Line::End(serde_json::from_slice(line)?)),
            };
            Ok(())
        });
        match result {
            Ok(_) => read.map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}

/// Is a log in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Where it is.
    pub path: PathBuf,
    /// When its run started, by its name, else by its header, else 1970.
    pub started_at: Timestamp,
}

impl LogFile {
    fn new(path: PathBuf) -> Self {
        let started_at = started_by_name(&path)
            .or_else(|| LogReader::open(&path).ok().map(|reader| reader.header().started_at))
            .unwrap_or(Timestamp::UNIX_EPOCH);
        Self { path, started_at }
    }

    /// Tells whether the run that writes it is alive (or another process works on it): somebody holds its lock.
    pub fn is_live(&self) -> Result<bool, FileError> {
        let file = files::open_read(&self.path)?;
        files::try_lock_shared(&file, &self.path).map(|free| !free)
    }
}

/// Lists the logs of a directory, oldest first.
pub fn list(dir: &Path) -> Result<Vec<LogFile>, FileError> {
    Ok(sorted(logs_in(dir, files::list(dir)?, "opslog-")))
}

/// Lists the logs of dead runs that were set aside for the next run of `pair`, oldest first.
pub(crate) fn list_set_aside(dir: &Path, pair: &str) -> Result<Vec<LogFile>, FileError> {
    let dir = dir.join("state").join(pair);
    Ok(sorted(logs_in(&dir, files::list_if_any(&dir)?, "interrupted-")))
}

/// Lists the logs of dead runs that were set aside for any pair.
pub fn list_all_set_aside(dir: &Path) -> Result<Vec<LogFile>, FileError> {
    let mut logs = Vec::new();
    for entry in files::list_if_any(&dir.join("state"))? {
        if let (true, Some(pair)) = (entry.kind.is_dir(), entry.name.to_str()) {
            logs.extend(list_set_aside(dir, pair)?);
        }
    }
    Ok(logs)
}

fn logs_in(dir: &Path, entries: Vec<files::Entry>, prefix: &'static str) -> impl Iterator<Item = LogFile> {
    entries.into_iter().filter_map(move |entry| {
        let name = entry.name.to_str()?;
        let ours = entry.kind.is_file() && name.starts_with(prefix) && name.ends_with(".jsonl");
        ours.then(|| LogFile::new(dir.join(name)))
    })
}

pub(crate) fn sorted(logs: impl Iterator<Item = LogFile>) -> Vec<LogFile> {
    let mut logs: Vec<_> = logs.collect();
    logs.sort_by(|one, other| (one.started_at, &one.path).cmp(&(other.started_at, &other.path)));
    logs
}

/// Reads `…-<RFC 3339 with Z>.jsonl`, with or without milliseconds.
fn started_by_name(path: &Path) -> Option<Timestamp> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".jsonl")?;
    [time::RFC3339_LENGTH, "2026-04-13T15:23:57Z".len()].into_iter().find_map(|length| {
        let (before, time) = stem.split_at_checked(stem.len().checked_sub(length)?)?;
        (before.ends_with('-') && time.ends_with('Z')).then(|| time.parse().ok())?
    })
}
