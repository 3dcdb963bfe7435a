//! Finds disks and replica directories, and ranks the replicas of each volume.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ha_sync_fs::FsError;
use ha_sync_fs::error::printable_path;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::checksum::Verify;
use crate::doctor;
use crate::finding::{Finding, Severity};
use crate::inside::{self, Inside};
use crate::inspect;
use crate::layered::ImageError;
use crate::rank::{self, Candidate, Place};
use crate::replica::{self, Replica};
use crate::source::{SourceDirectory, SourceFile};
use crate::watch::Unwatched;

/// Is the file that makes a folder a disk.
pub const DISK_CONFIG: &str = "longhorn-disk.cfg";
/// Is the folder of the replica directories of a disk.
pub const REPLICAS: &str = "replicas";

/// Is a place that was looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Disk {
    /// A disk of the v1 engine, or a folder of replica directories.
    V1 {
        /// Where.
        path: String,
        /// Its id, when the folder has a `longhorn-disk.cfg` that tells it.
        uuid: Option<String>,
        /// How many replica directories it has.
        replicas: usize,
    },
    /// A disk of the v2 engine, which is declined.
    V2 {
        /// Where.
        path: String,
    },
    /// Nothing of Longhorn.
    Nothing {
        /// Where.
        path: String,
    },
}

/// Is a replica directory that was found. Travels from a node to where it is ranked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The host, when it is another.
    #[serde(default)]
    pub host: Option<String>,
    /// Where, printable.
    pub path: String,
    /// Where, without links, printable.
    pub resolved: String,
    /// The name of the volume.
    pub volume: String,
    /// The size of the volume in bytes.
    pub size: u64,
    /// The names from the head to the lowest layer; empty when the chain is broken.
    pub chain: Vec<String>,
    /// What lies inside, when that can be told.
    pub inside: Option<Inside>,
    /// What is odd.
    pub findings: Vec<Finding>,
    /// What counts for the rank.
    pub candidate: Candidate,
    /// Whether it could not be looked at.
    pub unread: bool,
}

impl Row {
    /// Returns the path as the system has it.
    pub fn place(&self) -> PathBuf {
        let bytes = ha_sync_core::path::unescape(&self.path).unwrap_or_else(|| self.path.clone().into_bytes());
        PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
    }
}

#[derive(Deserialize)]
struct DiskConfig {
    #[serde(rename = "diskUUID", default)]
    uuid: String,
}

/// Finds what there is at a path: a disk, a folder of replica directories, or one of them.
pub fn find(path: &Path) -> Result<(Disk, Vec<PathBuf>), FsError> {
    let shown = printable_path(path);
    let directory = match SourceDirectory::open(path) {
        Ok(directory) => directory,
        Err(error) if error.errno() == Some(rustix::io::Errno::NOTDIR) => {
            let mut bytes = vec![0; inside::LOOK];
            SourceFile::open(path)?.read_at(0, &mut bytes)?;
            let v2 = inside::of_bytes(&bytes) == Inside::Spdk;
            return Ok((if v2 { Disk::V2 { path: shown } } else { Disk::Nothing { path: shown } }, Vec::new()));
        }
        Err(error) => return Err(error),
    };
    // A disk into which somebody copied a file of a replica is a disk.
    let is_disk = || directory.stamp(DISK_CONFIG.as_ref()).is_ok_and(|stamp| stamp.is_some());
    let is_folder = || {
        let replicas = directory.stamp(REPLICAS.as_ref());
        replicas.is_ok_and(|stamp| stamp.is_some_and(|stamp| is_directory(stamp.mode)))
            || ha_sync_fs::local::canonical(path).file_name() == Some(REPLICAS.as_ref())
    };
    if Replica::is_at(&directory) && !is_disk() && !is_folder() {
        return Ok((Disk::V1 { path: shown, uuid: None, replicas: 1 }, vec![path.to_owned()]));
    }
    let uuid = config(&directory)?;
    let mut found = Vec::new();
    let mut parents = vec![path.to_owned()];
    if directory.stamp(REPLICAS.as_ref())?.is_some_and(|stamp| is_directory(stamp.mode)) {
        parents.push(path.join(REPLICAS));
    }
    for parent in &parents {
        let parent = SourceDirectory::open(parent)?;
        let of_replicas = ha_sync_fs::local::canonical(parent.path()).file_name() == Some(REPLICAS.as_ref());
        for name in parent.names()? {
            if !parent.stamp(&name)?.is_some_and(|stamp| is_directory(stamp.mode)) {
                continue;
            }
            let path = parent.path().join(&name);
            // One with nothing in it is named all the same: somebody looks for it.
            let named = || of_replicas && name.to_str().is_some_and(|name| replica::volume_name(name) != name);
            let replica = match SourceDirectory::open(&path) {
                Ok(directory) => Replica::is_at(&directory),
                // Nobody can tell what is in it: that is said of it.
                Err(_) => name.to_str().is_some_and(|name| replica::volume_name(name) != name),
            };
            if replica || named() {
                found.push(path);
            }
        }
    }
    if uuid.is_none() && found.is_empty() {
        return Ok((Disk::Nothing { path: shown }, found));
    }
    Ok((Disk::V1 { path: shown, uuid: uuid.flatten(), replicas: found.len() }, found))
}

fn is_directory(mode: u32) -> bool {
    rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Directory
}

/// Reads the id of a disk; the outer answer is nothing when the folder is no disk.
fn config(directory: &SourceDirectory) -> Result<Option<Option<String>>, FsError> {
    if directory.stamp(DISK_CONFIG.as_ref())?.is_none() {
        return Ok(None);
    }
    let content = SourceFile::open_in(directory, DISK_CONFIG.as_ref())?.read_all(crate::meta::MOST_BYTES)?;
    let config = serde_json::from_slice::<DiskConfig>(&content).ok();
    Ok(Some(config.map(|config| config.uuid).filter(|uuid| !uuid.is_empty())))
}

/// Sorts rows by volume and rank.
pub fn rank(rows: Vec<Row>, before: Option<Timestamp>) -> Vec<(Row, Place)> {
    let mut volumes: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        volumes.entry(row.volume.clone()).or_default().push(row);
    }
    let mut ranked = Vec::new();
    for rows in volumes.into_values() {
        let candidates: Vec<Candidate> = rows.iter().map(|row| row.candidate.clone()).collect();
        let mut of_volume: Vec<(Row, Place)> = rows.into_iter().zip(rank::rank(&candidates, before)).collect();
        of_volume.sort_by_key(|(_, place)| place.rank);
        ranked.append(&mut of_volume);
    }
    ranked
}

/// Looks at a replica directory.
pub fn look(path: &Path) -> Row {
    let resolved = ha_sync_fs::local::canonical(path);
    let name = resolved.file_name().map(|name| printable_path(Path::new(name))).unwrap_or_default();
    let mut row = Row {
        host: None,
        path: printable_path(path),
        resolved: printable_path(&resolved),
        volume: replica::volume_name(&name).to_owned(),
        size: 0,
        chain: Vec::new(),
        inside: None,
        findings: Vec::new(),
        candidate: Candidate::default(),
        unread: false,
    };
    let replica = match Replica::open(path, None) {
        Ok(replica) => replica,
        Err(error) => {
            row.candidate.faults.push(error.to_line());
            row.unread = true;
            return row;
        }
    };
    if replica.layers.is_empty() && replica.meta.is_none() {
        row.candidate.faults.push("nothing in it".to_owned());
        return row;
    }
    let looked = inspect::report(&replica, None, Verify::Nothing, &Unwatched).and_then(|mut report| {
        let chain = replica.chain.as_deref().unwrap_or_default();
        report.add(doctor::sparsified(&replica, chain, false, report.inside.as_ref(), doctor::LOOK, &Unwatched)?);
        Ok((report.inside, report.findings))
    });
    row.unread = replica.unread || looked.is_err();
    let (inside, findings) = looked.unwrap_or_else(|error| {
        let broken = Finding::ChainBroken { why: with_cause(&error) };
        (None, replica.findings.iter().cloned().chain([broken]).collect())
    });
    let head = replica.head();
    let times = [head.map(|head| head.modified), replica.meta_modified];
    let faults = findings.iter().filter(|finding| finding.severity() == Severity::Damage).map(ToString::to_string);
    row.candidate = Candidate {
        layers: replica.chain.as_ref().ok().map(Vec::len),
        faults: faults.collect(),
        rebuilding: replica.meta.as_ref().map(|meta| meta.rebuilding),
        dirty: replica.meta.as_ref().is_none_or(|meta| meta.dirty),
        revision: replica.revision,
        head_allocated: head.map_or(0, |head| head.allocated),
        allocated: replica.allocated(),
        written: times.into_iter().flatten().filter_map(inspect::timestamp).collect(),
        file_system_written: inside.as_ref().and_then(Inside::written),
        file_system: inside.as_ref().is_some_and(|inside| !matches!(inside, Inside::Empty | Inside::Unknown)),
        needs_recovery: matches!(inside, Some(Inside::Ext4 { needs_recovery: true, .. })),
    };
    row.size = replica.size;
    row.chain = replica.chain.unwrap_or_default();
    (row.inside, row.findings) = (inside, findings);
    row
}

fn with_cause(error: &ImageError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
