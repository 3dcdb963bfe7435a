//! Which conflicts of a pair are open: kept beside its memory by a two-way run, read by `ha-sync conflicts`.

use std::path::{Path, PathBuf};

use ha_sync_core::entry::{Entry, Kind, Time};
use ha_sync_core::name::{PairName, RunId};
use ha_sync_core::path::{RelPath, escape, unescape};
use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, local};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::PairState;

/// Says why the open conflicts of a pair cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum ConflictsError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FsError),
    /// A line is not what was written.
    #[error("the list of open conflicts is damaged: {path}: line {line}")]
    Damaged {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        #[source]
        cause: serde_json::Error,
    },
}

/// Is what tells one side's version from the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// When it changed.
    pub mtime: Time,
    /// When its inode changed.
    pub ctime: Time,
    /// Inode number.
    pub inode: u64,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// MD5 in hex digits, when it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
}

impl Version {
    /// Takes the facts of an entry.
    pub fn of(entry: &Entry, md5: Option<[u8; 16]>) -> Self {
        Self {
            kind: entry.kind,
            size: entry.size,
            mtime: entry.mtime,
            ctime: entry.ctime,
            inode: entry.inode,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            md5: md5.map(|sum| format!("{:032x}", u128::from_be_bytes(sum))),
        }
    }

    /// Tells whether an entry still is this version.
    pub fn is(&self, now: &Entry) -> bool {
        self.kind == now.kind && self.size == now.size && self.mtime == now.mtime && self.inode == now.inode
    }
}

/// Is a path whose sides changed differently and that nobody has decided about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The path, written as [`escape`] does.
    path: String,
    /// A's version.
    pub a: Version,
    /// B's version.
    pub b: Version,
    /// When it was found first.
    pub since: Timestamp,
    /// The run that found it first.
    pub run_id: RunId,
}

impl Conflict {
    /// Notes a conflict.
    pub fn new(path: &RelPath, a: Version, b: Version, since: Timestamp, run_id: RunId) -> Self {
        Self { path: escape(path.as_bytes()), a, b, since, run_id }
    }

    /// Returns the path; the root's when the list was edited to hold none.
    pub fn path(&self) -> RelPath {
        unescape(&self.path).and_then(RelPath::from_bytes).unwrap_or_default()
    }
}

fn file(log_directory: &Path, pair: &PairName) -> PathBuf {
    PairState::directory(log_directory, pair).join("conflicts.jsonl")
}

/// Reads the open conflicts of a pair, in the order of their paths.
pub fn load(log_directory: &Path, pair: &PairName) -> Result<Vec<Conflict>, ConflictsError> {
    let path = file(log_directory, pair);
    let Some(content) = local::read_if_present(&path)? else { return Ok(Vec::new()) };
    let lines = content.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_slice(line).map_err(|cause| ConflictsError::Damaged {
                path: printable_path(&path),
                line: index + 1,
                cause,
            })
        })
        .collect()
}

/// Keeps the open conflicts of a pair in place of those before. One whose path was open before keeps its beginning.
pub fn save(log_directory: &Path, pair: &PairName, mut open: Vec<Conflict>) -> Result<(), ConflictsError> {
    let path = file(log_directory, pair);
    // A damaged list is replaced: all that it could add is since when.
    let before = load(log_directory, pair).unwrap_or_default();
    if open.is_empty() {
        return Ok(local::remove(&path)?);
    }
    open.sort_by(|one, other| one.path.cmp(&other.path));
    let mut content = Vec::new();
    for mut conflict in open {
        if let Ok(place) = before.binary_search_by(|held| held.path.cmp(&conflict.path)) {
            conflict.since = before[place].since;
            conflict.run_id = before[place].run_id.clone();
        }
        let written = serde_json::to_writer(&mut content, &conflict);
        written.map_err(|cause| ConflictsError::Damaged { path: printable_path(&path), line: 0, cause })?;
        content.push(b'\n');
    }
    local::create_directories(&PairState::directory(log_directory, pair))?;
    Ok(local::replace(&path, &content)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(size: u64) -> Version {
        let time = Time::new(1_700_000_000, 5);
        Version {
            kind: Kind::File,
            size,
            mtime: time,
            ctime: time,
            inode: 7,
            mode: 0o644,
            uid: 1,
            gid: 2,
            md5: Some("00".repeat(16)),
        }
    }

    fn conflict(path: &[u8], run: u32) -> Conflict {
        let start: Timestamp = "2026-04-13T15:23:57Z".parse().unwrap();
        let path = RelPath::from_bytes(path.to_vec()).unwrap();
        Conflict::new(&path, version(1), version(2), start, RunId::new(start, run))
    }

    #[test]
    fn open_conflicts_are_kept_and_keep_their_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let pair: PairName = "p".parse().unwrap();
        assert_eq!(load(directory.path(), &pair).unwrap(), []);
        save(directory.path(), &pair, vec![]).unwrap();
        let (one, other) = (conflict(b"b\xff\\", 1), conflict(b"a/b", 1));
        save(directory.path(), &pair, vec![one.clone(), other.clone()]).unwrap();
        assert_eq!(load(directory.path(), &pair).unwrap(), [other.clone(), one.clone()]);
        assert_eq!(one.path().as_bytes(), b"b\xff\\");
        save(directory.path(), &pair, vec![conflict(b"b\xff\\", 2), conflict(b"new", 2)]).unwrap();
        assert_eq!(load(directory.path(), &pair).unwrap(), [one, conflict(b"new", 2)]);
        save(directory.path(), &pair, vec![]).unwrap();
        assert_eq!(load(directory.path(), &pair).unwrap(), []);
    }

    #[test]
    fn a_damaged_list_is_refused_with_its_line_and_can_be_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let pair: PairName = "p".parse().unwrap();
        save(directory.path(), &pair, vec![conflict(b"a", 1)]).unwrap();
        local::append(&file(directory.path(), &pair), b"{\"path\":\n").unwrap();
        let error = load(directory.path(), &pair).unwrap_err();
        assert!(matches!(error, ConflictsError::Damaged { line: 2, .. }), "{error}");
        save(directory.path(), &pair, vec![conflict(b"b", 1)]).unwrap();
        assert_eq!(load(directory.path(), &pair).unwrap().len(), 1);
    }
}
