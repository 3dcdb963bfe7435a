//! A replica directory: what is in it, and how its layers hang together (volumes.md §1).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ha_sync_fs::{FsError, local};

use crate::chain::{self, ChainError, Link};
use crate::finding::Finding;
use crate::meta::{self, ChecksumFile, LayerMeta, MetaError, VolumeMeta};
use crate::source::{SourceDirectory, SourceFile, Stamp};

/// Is the file with the volume's own data.
pub const VOLUME_META: &str = "volume.meta";
/// Is the file of the revision counter.
pub const REVISION: &str = "revision.counter";
const HEAD: &str = "volume-head-";
const SNAPSHOT: &str = "volume-snap-";
const IMAGE: &str = ".img";

/// Is a layer: an image and what is said of it.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// What its `.meta` says.
    pub meta: Option<LayerMeta>,
    /// The image, when it is there.
    pub image: Option<Stamp>,
    /// What its `.checksum` says.
    pub checksum: Option<ChecksumFile>,
}

/// Is a replica directory that was looked at.
#[derive(Debug)]
pub struct Replica {
    directory: SourceDirectory,
    /// `volume.meta`, when it is usable.
    pub meta: Option<VolumeMeta>,
    /// The size of the volume in bytes; zero when nothing tells it.
    pub size: u64,
    /// Every layer, in the chain or not, by the name of its image.
    pub layers: BTreeMap<String, Layer>,
    /// The names from the head to the lowest layer.
    pub chain: Result<Vec<String>, ChainError>,
    /// The revision counter, when there is one.
    pub revision: Option<u64>,
    /// When `volume.meta` was written last, ns since 1970.
    pub meta_modified: Option<i128>,
    /// Whether a small file could not be read, so that something may be missing here.
    pub unread: bool,
    /// What is odd, as far as names and small files tell it.
    pub findings: Vec<Finding>,
}

impl Replica {
    /// Looks at a directory. Only its small files are read. `head` names the live layer where the directory itself
    /// does not tell.
    pub fn open(path: &Path, head: Option<&str>) -> Result<Self, FsError> {
        let directory = SourceDirectory::open(path)?;
        let mut found = Found::default();
        for name in directory.names()? {
            found.sort_in(&directory, name)?;
        }
        let Found { mut findings, mut layers, volume_meta, revision, unread } = found;
        let (meta, meta_modified) = match volume_meta {
            Some((Ok(meta), stamp)) => {
                if let Some(why) = meta.why_unusable() {
                    findings.push(Finding::VolumeMetaUnusable { why: why.to_owned() });
                }
                (Some(meta).filter(|meta| *meta != VolumeMeta::default()), Some(stamp.modified))
            }
            Some((Err(error), stamp)) => {
                findings.push(Finding::VolumeMetaUnusable { why: why(&error) });
                (None, Some(stamp.modified))
            }
            None => {
                findings.push(Finding::VolumeMetaUnusable { why: "the file is missing".to_owned() });
                (None, None)
            }
        };
        let revision = match revision {
            Some(Ok(number)) => Some(number),
            Some(Err(error)) => {
                findings.push(Finding::RevisionUnusable { why: why(&error) });
                None
            }
            None => None,
        };
        let heads: Vec<String> = layers
            .iter()
            .filter(|(name, layer)| name.starts_with(HEAD) && layer.image.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        if heads.len() > 1 {
            findings.push(Finding::ManyHeads { heads: heads.clone() });
        }
        let named = meta.as_ref().map(|meta| meta.head.as_str()).filter(|head| !head.is_empty());
        let top = match (head.or(named), heads.as_slice()) {
            (Some(name), _) => Ok(name.to_owned()),
            (None, [one]) => Ok(one.clone()),
            (None, []) => Err(ChainError::NoHead),
            (None, many) => Err(ChainError::ManyHeads(many.to_vec())),
        };
        let links = links(&layers);
        let chain = top.and_then(|top| chain::resolve(&links, &top));
        let size = match &meta {
            Some(meta) if meta.has_size() => meta.size,
            _ => {
                let top = chain.as_ref().ok().and_then(|chain| layers.get(&chain[0])).and_then(|layer| layer.image);
                top.map_or(0, |image| image.length)
            }
        };
        judge(&mut findings, &meta, &layers, &links, &chain, size);
        layers.retain(|_, layer| layer.image.is_some());
        Ok(Self { directory, meta, size, layers, chain, revision, meta_modified, unread, findings })
    }

    /// Tells whether a directory looks like a replica, by its names alone.
    pub fn is_at(directory: &SourceDirectory) -> bool {
        let is_layer = |name: &[u8]| name.starts_with(HEAD.as_bytes()) || name.starts_with(SNAPSHOT.as_bytes());
        directory.names().is_ok_and(|names| {
            names.iter().any(|name| {
                let name = name.as_bytes();
                name == VOLUME_META.as_bytes()
                    || (is_layer(name) && (name.ends_with(b".img") || name.ends_with(b".img.meta")))
            })
        })
    }

    /// Returns the replica directory in which a path lies, or would lie, however it is spelled; nothing is ever written
    /// there.
    pub fn around(path: &Path) -> Option<PathBuf> {
        // Of a path that is not there yet, the directories that are there decide.
        let nearest = path.ancestors().find_map(|path| {
            let path = local::canonical(if path.as_os_str().is_empty() { Path::new(".") } else { path });
            local::is_directory(&path).then_some(path)
        })?;
        let is_replica = |path: &&Path| SourceDirectory::open(path).is_ok_and(|directory| Self::is_at(&directory));
        nearest.ancestors().find(is_replica).map(Path::to_owned)
    }

    /// Returns the image of the head, also where the chain below it is broken; of several the newest.
    pub fn head(&self) -> Option<Stamp> {
        let named = self.chain.as_ref().ok().map(|chain| &chain[0]).or(self.meta.as_ref().map(|meta| &meta.head));
        let named = named.and_then(|name| self.layers.get(name)).and_then(|layer| layer.image);
        let heads = self.layers.iter().filter(|(name, _)| name.starts_with(HEAD));
        named.or_else(|| heads.filter_map(|(_, layer)| layer.image).max_by_key(|image| image.modified))
    }

    /// Returns the directory.
    pub fn directory(&self) -> &SourceDirectory {
        &self.directory
    }

    /// Returns the names from the head, or from a snapshot, to the lowest layer. A snapshot may be called by its name
    /// or by that of its file, and need not be in the live chain.
    pub fn chain_from(&self, snapshot: Option<&str>) -> Result<Vec<String>, ChainError> {
        let Some(snapshot) = snapshot else { return self.chain.clone() };
        let name = [snapshot.to_owned(), format!("{SNAPSHOT}{snapshot}{IMAGE}")]
            .into_iter()
            .find(|name| self.layers.contains_key(name))
            .ok_or_else(|| ChainError::NoSnapshot(snapshot.to_owned()))?;
        chain::resolve(&links(&self.layers), &name)
    }

    /// Returns the names of the snapshots as `--snapshot` takes them.
    pub fn snapshots(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().filter_map(|name| snapshot_name(name))
    }

    /// Opens the image of a layer.
    pub fn open_layer(&self, name: &str) -> Result<SourceFile, FsError> {
        SourceFile::open_in(&self.directory, OsStr::new(name))
    }

    /// Returns the path of the backing image as it was called on the node.
    pub fn backing_path(&self) -> Option<&str> {
        self.meta.as_ref().map(VolumeMeta::backing).filter(|path| !path.is_empty())
    }

    /// Returns the allocated bytes of all layers.
    pub fn allocated(&self) -> u64 {
        self.layers.values().filter_map(|layer| layer.image).map(|image| image.allocated).sum()
    }
}

/// Returns what `--snapshot` takes, of the file of a snapshot.
pub fn snapshot_name(file: &str) -> Option<&str> {
    file.strip_prefix(SNAPSHOT)?.strip_suffix(IMAGE)
}

/// Returns the name of the volume, of that of a replica directory: without the last `-` and eight hexadecimal digits.
pub fn volume_name(directory: &str) -> &str {
    match directory.rsplit_once('-') {
        Some((volume, suffix)) if suffix.len() == 8 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit()) => volume,
        _ => directory,
    }
}

fn why(error: &MetaError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn links(layers: &BTreeMap<String, Layer>) -> BTreeMap<String, Link> {
    let link = |layer: &Layer| Link {
        image: layer.image.is_some(),
        parent: layer.meta.as_ref().map(|meta| meta.parent.clone()),
    };
    layers.iter().map(|(name, layer)| (name.clone(), link(layer))).collect()
}

#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    layers: BTreeMap<String, Layer>,
    volume_meta: Option<(Result<VolumeMeta, MetaError>, Stamp)>,
    revision: Option<Result<u64, MetaError>>,
    unread: bool,
}

impl Found {
    fn sort_in(&mut self, directory: &SourceDirectory, name: OsString) -> Result<(), FsError> {
        let Some(stamp) = directory.stamp(&name)? else { return Ok(()) };
        let regular = rustix::fs::FileType::from_raw_mode(stamp.mode) == rustix::fs::FileType::RegularFile;
        let text = match name.to_str() {
            Some(text) if regular && !text.contains(char::is_control) => text,
            _ => {
                let name = ha_sync_fs::error::printable_path(Path::new(&name));
                self.findings.push(Finding::Foreign { name });
                return Ok(());
            }
        };
        // One small file that cannot be read is a finding like one that cannot be understood.
        let unread = &mut self.unread;
        let mut read = || {
            let file = SourceFile::open_in(directory, &name).and_then(|file| file.read_all(meta::MOST_BYTES));
            file.map_err(|error| {
                *unread = true;
                MetaError::Unread(error)
            })
        };
        if text == VOLUME_META {
            self.volume_meta = Some((read().and_then(|content| meta::parse(&content)), stamp));
        } else if text == REVISION {
            self.revision = Some(read().and_then(|content| meta::revision(&content)));
        } else if text.ends_with(".tmp") || text.ends_with(".snap_tmp") {
            self.findings.push(Finding::Leftover { name: text.to_owned() });
        } else if text.starts_with("volume-") && text.ends_with(IMAGE) {
            self.layers.entry(text.to_owned()).or_default().image = Some(stamp);
        } else if let Some(layer) = text.strip_suffix(".meta").filter(|layer| layer.ends_with(IMAGE)) {
            match read().and_then(|content| meta::parse(&content)) {
                Ok(meta) => self.layers.entry(layer.to_owned()).or_default().meta = Some(meta),
                Err(error) => {
                    self.findings.push(Finding::LayerMetaUnusable { layer: layer.to_owned(), why: why(&error) });
                }
            }
        } else if let Some(layer) = text.strip_suffix(".checksum").filter(|layer| layer.ends_with(IMAGE)) {
            match read().and_then(|content| meta::parse(&content)) {
                Ok(checksum) => self.layers.entry(layer.to_owned()).or_default().checksum = Some(checksum),
                Err(error) => {
                    self.findings.push(Finding::ChecksumUnusable { layer: layer.to_owned(), why: why(&error) });
                }
            }
        } else {
            self.findings.push(Finding::Foreign { name: text.to_owned() });
        }
        Ok(())
    }
}

/// Adds what the parts say together.
fn judge(
    findings: &mut Vec<Finding>,
    meta: &Option<VolumeMeta>,
    layers: &BTreeMap<String, Layer>,
    links: &BTreeMap<String, Link>,
    chain: &Result<Vec<String>, ChainError>,
    size: u64,
) {
    match chain {
        Err(error) => findings.push(Finding::broken(error)),
        Ok(chain) => {
            let parent = chain.get(1).map_or("", String::as_str);
            if let Some(meta) = meta
                && meta.parent != parent
                && meta.head == chain[0]
            {
                findings.push(Finding::ParentCacheStale { cached: meta.parent.clone(), parent: parent.to_owned() });
            }
            let head = layers.get(&chain[0]).and_then(|layer| layer.image).map_or(0, |image| image.length);
            if meta.as_ref().is_some_and(VolumeMeta::has_size) && head < size {
                findings.push(Finding::HeadShort { layer: chain[0].clone(), length: head, size });
            }
            for name in chain {
                let length = layers.get(name).and_then(|layer| layer.image).map_or(0, |image| image.length);
                if length > size {
                    findings.push(Finding::LayerTooLong { layer: name.clone(), length, size });
                }
            }
            for name in layers.keys().filter(|name| !chain.contains(name)) {
                findings.push(match chain::resolve(links, name) {
                    Ok(_) => Finding::OffChain { layer: name.clone() },
                    Err(error) => Finding::OffChainBroken { layer: name.clone(), why: error.to_string() },
                });
            }
            // Without volume.meta a revert, which leaves a branch too, cannot be told from a rebuild.
            let beside = |name: &&String| name.starts_with(SNAPSHOT) && !chain.contains(name);
            let snapshots: Vec<String> = layers.keys().filter(beside).cloned().collect();
            if !snapshots.is_empty() && meta.as_ref().is_none_or(|meta| meta.rebuilding) {
                findings.push(Finding::RebuildCutOff { snapshots });
            }
        }
    }
    let Some(meta) = meta else { return };
    if meta.rebuilding {
        findings.push(Finding::Rebuilding);
    }
    if !meta.error.is_empty() {
        findings.push(Finding::EngineError { error: meta.error.clone() });
    }
    if meta.dirty {
        findings.push(Finding::Dirty);
    }
    if meta.encrypted {
        findings.push(Finding::Encrypted);
    }
    if !meta.backing().is_empty() {
        findings.push(Finding::BackingNeeded { path: meta.backing().to_owned() });
    }
}
