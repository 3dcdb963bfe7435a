//! What is remembered of a pair between runs, beside its logs: whether the roots had entries, in which directions it
//! ran, where mount points were, and in which directories an interrupted run worked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ha_sync_core::entry::Time;
use ha_sync_core::name::PairName;
use ha_sync_core::path::{RelPath, escape};
use ha_sync_fs::{FsError, local};
use serde::{Deserialize, Serialize};

/// Says why the memory of a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FsError),
    /// Its content is not what was written.
    #[error("the state of the pair is damaged: {path}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        cause: serde_json::Error,
    },
}

/// Is the memory of a pair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairState {
    /// Per root: whether it had entries after the last finished run.
    roots: BTreeMap<String, bool>,
    /// When the last finished run began, nanoseconds since 1970.
    last_start: Option<i64>,
    /// The directions (source, destination) in which the pair has run.
    directions: Vec<(String, String)>,
    /// Per root: directories on which another file system was mounted.
    mounts: BTreeMap<String, Vec<String>>,
    /// Per direction: directories in which an interrupted run worked.
    unfinished: Vec<Unfinished>,
    /// Approval ids that have let their set through.
    #[serde(default)]
    approved: Vec<String>,
    /// Into how many shards the tree was divided at the last run; only in the memory of a shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shards: Option<u32>,
    /// Whether there is a baseline, whatever this file says.
    #[serde(skip)]
    has_baseline: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Unfinished {
    source: String,
    destination: String,
    directories: Vec<String>,
}

/// A root is one root however it is spelled.
fn key(root: &Path) -> String {
    escape(std::os::unix::ffi::OsStrExt::as_bytes(local::canonical(root).as_os_str()))
}

impl PairState {
    /// Returns the folder of a pair's state below the log directory.
    pub fn directory(log_directory: &Path, pair: &PairName) -> PathBuf {
        log_directory.join("state").join(pair.as_str())
    }

    fn file(log_directory: &Path, pair: &PairName) -> PathBuf {
        Self::directory(log_directory, pair).join("state.json")
    }

    /// Reads the memory; an empty one when there is none.
    pub fn load(log_directory: &Path, pair: &PairName) -> Result<Self, StateError> {
        let path = Self::file(log_directory, pair);
        let Some(content) = local::read_if_present(&path)? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&content)
            .map_err(|cause| StateError::Damaged { path: ha_sync_fs::error::printable_path(&path), cause })
    }

    /// Writes the memory whole.
    pub fn save(&self, log_directory: &Path, pair: &PairName) -> Result<(), StateError> {
        let path = Self::file(log_directory, pair);
        local::create_directories(&Self::directory(log_directory, pair))?;
        let content = serde_json::to_vec(self)
            .map_err(|cause| StateError::Damaged { path: ha_sync_fs::error::printable_path(&path), cause })?;
        Ok(local::replace(&path, &content)?)
    }

    /// Learns what the other parts of a pair know, the whole (`<pair>`) and its shards (`<pair>-<number>`): in which
    /// directions they ran, without which a new part would take the tree for a mirror; when this part has no finished
    /// run, the rest too.
    pub fn learn(&mut self, log_directory: &Path, whole: &PairName) -> Result<(), StateError> {
        let numbered = |name: &str| {
            let rest = name.strip_prefix(whole.as_str()).and_then(|rest| rest.strip_prefix('-'));
            rest.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let is_new = self.last_start.is_none();
        for folder in local::list(&log_directory.join("state"))? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(part) = name.parse::<PairName>() else { continue };
            if part != *whole && !numbered(&name) {
                continue;
            }
            let Self {
                roots,
                last_start: _,
                directions,
                mounts,
                unfinished: _,
                approved: _,
                shards: _,
                has_baseline: _,
            } = Self::load(log_directory, &part)?;
            for direction in directions {
                if !self.directions.contains(&direction) {
                    self.directions.push(direction);
                }
            }
            if is_new {
                for (root, had_entries) in roots {
                    *self.roots.entry(root).or_default() |= had_entries;
                }
                for (root, places) in mounts {
                    let held = self.mounts.entry(root).or_default();
                    held.extend(places);
                    held.sort_unstable();
                    held.dedup();
                }
            }
        }
        Ok(())
    }

    /// Remembers into how many shards the tree is divided; tells whether they were others before.
    pub fn divided(&mut self, shards: u32) -> bool {
        self.shards.replace(shards).is_some_and(|before| before != shards)
    }

    /// Says whether the pair has a baseline: a run that was stopped leaves one and no more history than there was, and
    /// this file may be lost alone.
    pub fn agreed(&mut self, has_baseline: bool) {
        self.has_baseline = has_baseline;
    }

    /// Tells whether a root had entries at the last finished run; where that is not known, whether anything was agreed.
    pub fn had_entries(&self, root: &Path) -> bool {
        self.roots.get(&key(root)).copied().unwrap_or(self.has_baseline)
    }

    /// Tells whether the pair has a finished run with this root.
    pub fn knows(&self, root: &Path) -> bool {
        self.roots.contains_key(&key(root))
    }

    /// Returns when the last finished run began.
    pub fn last_start(&self) -> Option<Time> {
        self.last_start.map(|nanoseconds| Time(nanoseconds.into()))
    }

    /// Tells whether the pair has also run from `destination` to `source`; only such pairs have a baseline.
    pub fn runs_backwards(&self, source: &Path, destination: &Path) -> bool {
        self.has_baseline || self.directions.contains(&(key(destination), key(source)))
    }

    /// Returns the remembered mount points of a root.
    pub fn mounts(&self, root: &Path) -> Vec<String> {
        self.mounts.get(&key(root)).cloned().unwrap_or_default()
    }

    /// Returns the directories in which an interrupted run from `source` to `destination` worked.
    pub fn unfinished(&self, source: &Path, destination: &Path) -> impl Iterator<Item = &str> {
        let (source, destination) = (key(source), key(destination));
        self.unfinished
            .iter()
            .filter(move |held| held.source == source && held.destination == destination)
            .flat_map(|held| held.directories.iter().map(String::as_str))
    }

    /// Remembers that a run was interrupted while it worked in some directories.
    pub fn interrupted(&mut self, source: &Path, destination: &Path, directories: impl Iterator<Item = String>) {
        let (source, destination) = (key(source), key(destination));
        let place = self.unfinished.iter().position(|held| held.source == source && held.destination == destination);
        let place = place.unwrap_or_else(|| {
            self.unfinished.push(Unfinished { source, destination, directories: Vec::new() });
            self.unfinished.len() - 1
        });
        let held = &mut self.unfinished[place].directories;
        held.extend(directories);
        held.sort_unstable();
        held.dedup();
    }

    /// Returns the id that lets a set of deletions through once: another one when that set was let through before.
    pub fn approval_id(&self, set: &str) -> String {
        let mut id = set.to_owned();
        let mut number = 1;
        while self.approved.contains(&id) {
            number += 1;
            id = format!("{set}-{number}");
        }
        id
    }

    /// Remembers that an approval was used.
    pub fn approved(&mut self, id: &str) {
        self.approved.push(id.to_owned());
    }

    /// Remembers that a run has worked in a direction.
    pub fn began(&mut self, source: &Path, destination: &Path) {
        let direction = (key(source), key(destination));
        if !self.directions.contains(&direction) {
            self.directions.push(direction);
        }
    }

    /// Remembers a finished run.
    pub fn finished(
        &mut self,
        start: Time,
        source: (&Path, bool),
        destination: (&Path, bool),
        mounts: &[(bool, RelPath)],
        forget_missing_mounts: bool,
    ) {
        for (root, has_entries) in [source, destination] {
            self.roots.insert(key(root), has_entries);
        }
        self.last_start = i64::try_from(start.0).ok();
        let (source, destination) = (source.0, destination.0);
        for (at_source, root) in [(true, source), (false, destination)] {
            let held = self.mounts.entry(key(root)).or_default();
            if forget_missing_mounts {
                held.clear();
            }
            held.extend(mounts.iter().filter(|(side, _)| *side == at_source).map(|(_, path)| path.escaped()));
            held.sort_unstable();
            held.dedup();
        }
        self.began(source, destination);
        let (source, destination) = (key(source), key(destination));
        self.unfinished.retain(|held| held.source != source || held.destination != destination);
    }
}
