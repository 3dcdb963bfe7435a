//! What a dead run left: the next run of its pair finds out how its last operations ended, and concludes its log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use ha_sync_core::name::PairName;
use ha_sync_core::record::{Identity, Intent, Iteration, Operation, OperationKind, OperationStatus, Outcome};

use crate::batch::Tally;
use crate::files::{self, FileError};
use crate::line::{self, Kind, OperationLine};
use crate::reader::{self, Extent, LogError, LogReader};

/// Is what a log says about work whose end it does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// The run.
    pub header: Iteration,
    /// Intents without an operation line of the same number, by number.
    pub intents: Vec<Intent>,
    /// Every directory that the run made, deleted or worked in, escaped; not the root. Their times may be those of
    /// the work (sync.md §11).
    pub directories: BTreeSet<String>,
    /// Every path that the run deleted, and every directory that it made, escaped: what a baseline of before says of
    /// them and of what is below them holds no more.
    pub forgotten: Vec<String>,
    /// The highest number of the log; the next operation takes a higher one.
    pub last_seq: u64,
}

impl Unresolved {
    /// Tells whether the next run of the pair has nothing to learn from this log.
    pub fn is_empty(&self) -> bool {
        self.header.dry_run || (self.intents.is_empty() && self.directories.is_empty())
    }
}

/// Is the log of a dead run, claimed by this process: as long as this value lives, others take the log for that of a
/// live run and leave it where it is.
#[derive(Debug)]
pub struct InterruptedLog {
    path: PathBuf,
    file: File,
    unresolved: Unresolved,
    extent: Extent,
}

impl InterruptedLog {
    /// Claims a log; nothing when it is gone, has a trailer, or is in use.
    pub fn claim(path: &Path) -> Result<Option<Self>, LogError> {
        match Self::claim_strictly(path) {
            Ok(log) => Ok(Some(log)),
            Err(LogError::Live { .. } | LogError::Ended { .. }) => Ok(None),
            Err(LogError::File(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn claim_strictly(path: &Path) -> Result<Self, LogError> {
        let file = files::open_append(path)?;
        if !files::try_lock(&file, path)? {
            return Err(LogError::Live { path: path.to_owned() });
        }
        if files::is_removed(&file, path)? {
            return Err(FileError::new("open operation log", path, rustix::io::Errno::NOENT).into());
        }
        let Scan { unresolved, extent, ended } = scan(path)?;
        if ended {
            return Err(LogError::Ended { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file, unresolved, extent })
    }

    /// Returns where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what it leaves open.
    pub fn unresolved(&self) -> &Unresolved {
        &self.unresolved
    }

    /// Returns how the run ended: failed, interrupted, with the counts of its log and of the operations that were
    /// found done. How many bytes those wrote is not known any more and counts as 0.
    pub fn outcome(&self, found_done: &[Operation]) -> Result<Outcome, LogError> {
        let mut tally = Tally::default();
        let mut reader = LogReader::open(&self.path)?;
        while reader.next_with(|kind, line| {
            if kind == Kind::Operation {
                tally.add(&serde_json::from_slice(line)?);
            }
            Ok(())
        })? {}
        let mut outcome = tally.end(&self.unresolved.header, None);
        let counts = &mut outcome.counts;
        for operation in found_done {
            match operation.operation {
                OperationKind::Create => counts.files_created += 1,
                OperationKind::Update => counts.files_updated += 1,
                OperationKind::Delete => counts.files_deleted += 1,
            }
        }
        Ok(outcome)
    }

    /// Appends how its last operations ended and a trailer, in place of a torn last line, and makes both durable.
    /// From now on the log is a finished one.
    pub fn conclude(self, operations: &[Operation], outcome: &Outcome) -> Result<PathBuf, LogError> {
        let Self { path, mut file, unresolved, extent } = self;
        let mut lines = Vec::new();
        if extent.unterminated {
            lines.push(b'\n');
        }
        operations.iter().for_each(|operation| line::write_operation(&mut lines, operation, unresolved.header.dry_run));
        line::write_tagged(&mut lines, "end", outcome)
            .map_err(|source| FileError::new("encode the end of operation log", &path, source))?;
        file.set_len(extent.bytes).map_err(|source| FileError::new("truncate operation log", &path, source))?;
        file.write_all(&lines).map_err(|source| FileError::new("write operation log", &path, source))?;
        file.sync_all().map_err(|source| FileError::new("sync operation log", &path, source))?;
        Ok(path)
    }
}

/// Claims every log that dead runs of `pair` left in the log directory, set aside or not, oldest first. Broken logs
/// and those without a header are left to [`crate::flush::flush_all`].
pub fn interrupted(dir: &Path, pair: &PairName) -> Result<Vec<InterruptedLog>, LogError> {
    let candidates = reader::list(dir)?.into_iter().chain(reader::list_set_aside(dir, pair.as_str())?);
    let mut logs = Vec::new();
    for log in reader::sorted(candidates) {
        match LogReader::open(&log.path) {
            Ok(reader) if reader.header().sync_pair == *pair => {}
            // another pair's log that cannot be read is no reason to stop this pair
            _ => continue,
        }
        match InterruptedLog::claim(&log.path) {
            Ok(claimed) => logs.extend(claimed),
            Err(LogError::NoHeader { .. } | LogError::Broken { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(logs)
}

/// Reads what a log leaves open, without claiming it.
pub fn unresolved(path: &Path) -> Result<Unresolved, LogError> {
    Ok(scan(path)?.unresolved)
}

/// Claims and concludes a log; [`LogError::Live`] when it is in use, [`LogError::Ended`] when it has a trailer.
pub fn conclude(path: &Path, operations: &[Operation], outcome: &Outcome) -> Result<(), LogError> {
    InterruptedLog::claim_strictly(path)?.conclude(operations, outcome).map(|_| ())
}

pub(crate) struct Scan {
    pub(crate) unresolved: Unresolved,
    pub(crate) extent: Extent,
    pub(crate) ended: bool,
}

/// Reads a log to its end, keeping only the intents that are open and the directories.
pub(crate) fn scan(path: &Path) -> Result<Scan, LogError> {
    let mut reader = LogReader::open(path)?;
    let mut open: BTreeMap<u64, Intent> = BTreeMap::new();
    let mut directories = BTreeSet::new();
    let mut forgotten = Vec::new();
    let mut last_seq = 0;
    while reader.next_with(|kind, line| {
        match kind {
            Kind::Operation => {
                let operation: OperationLine<'_> = serde_json::from_slice(line)?;
                last_seq = last_seq.max(operation.seq);
                open.remove(&operation.seq);
                // sizes are absent for directories only, besides what is absent itself
                let directory = match operation.operation {
                    OperationKind::Create => operation.size_after.is_none(),
                    OperationKind::Update => operation.size_after.is_none() && operation.size_before.is_none(),
                    OperationKind::Delete => false,
                };
                add_directories(&mut directories, &operation.filepath, directory);
                let made = match operation.operation {
                    OperationKind::Create => operation.size_after.is_none(),
                    OperationKind::Update => operation.size_after.is_none() && operation.size_before.is_some(),
                    OperationKind::Delete => true,
                };
                if made && operation.status == OperationStatus::Success {
                    forgotten.push(operation.filepath.into_owned());
                }
            }
            Kind::Intent => {
                let intent: Intent = serde_json::from_slice(line)?;
                last_seq = last_seq.max(intent.seq);
                let directory = intent.after.as_ref().is_some_and(|after| after.kind == 'd');
                add_directories(&mut directories, &intent.filepath, directory);
                open.insert(intent.seq, intent);
            }
            Kind::Iteration | Kind::End => {}
        }
        Ok(())
    })? {}
    let begun = open.values().filter(|intent| {
        let is_directory = |identity: &Option<Identity>| identity.as_ref().is_some_and(|held| held.kind == 'd');
        is_directory(&intent.after) && !is_directory(&intent.before)
    });
    forgotten.extend(begun.map(|intent| intent.filepath.clone()));
    Ok(Scan {
        unresolved: Unresolved {
            header: reader.header().clone(),
            intents: open.into_values().collect(),
            directories,
            forgotten,
            last_seq,
        },
        extent: reader.extent(),
        ended: reader.ended(),
    })
}

fn add_directories(directories: &mut BTreeSet<String>, filepath: &str, is_directory: bool) {
    let parent = filepath.rsplit_once('/').map(|(parent, _)| parent);
    for directory in parent.into_iter().chain(is_directory.then_some(filepath)) {
        if !directories.contains(directory) {
            directories.insert(directory.to_owned());
        }
    }
}
