//! The completion marker beside an image, and the state of one that is being made.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use ha_sync_fs::local::Replacement;
use ha_sync_fs::{FsError, local};
use serde::{Deserialize, Serialize};

/// Is the form of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The bytes of the volume; zeros are holes.
    Raw,
    /// QEMU's format, version 3.
    Qcow2,
}

/// Is what an image was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The replica directory, printable.
    pub directory: String,
    /// The layers, the youngest first.
    pub chain: Vec<String>,
    /// The backing image, printable.
    pub backing: Option<String>,
    /// Whether blocks of zeros were taken for holes: not what the engine would serve.
    pub best_effort: bool,
    /// Whether it was read in spite of damage: the image may not be what the volume held.
    #[serde(default)]
    pub despite_damage: bool,
    /// A hash of names, lengths and times of all files that are read, and of how.
    pub fingerprint: String,
}

/// Is what `IMAGE.ha-volume.json` holds: that the image is whole, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The name of the image.
    pub image: String,
    /// The form.
    pub format: Format,
    /// The size of the volume in bytes.
    pub size: u64,
    /// Bytes in blocks that are not all zeros.
    pub data_bytes: u64,
    /// See [`Hashes::blocks_blake3`](super::Hashes::blocks_blake3).
    pub blocks_blake3: String,
    /// SHA-256 of the volume's bytes, when asked for.
    pub sha256: Option<String>,
    /// Whether it was on the disk when it got its name. One that was not can be lost in a power cut; its bytes tell.
    #[serde(default = "durable")]
    pub durable: bool,
    /// With best effort, on how many blocks the two readings differ.
    pub ambiguous_blocks: Option<u64>,
    /// What it was made from.
    pub source: Source,
}

/// Markers without the field are of images that were.
fn durable() -> bool {
    true
}

/// Is what is known of an image that is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The form of the part.
    pub(super) format: Format,
    /// That of the source.
    pub(super) fingerprint: String,
    /// All below it is durable in the part.
    pub(super) done: u64,
    /// The marker, once only the renaming is left.
    pub(super) marker: Option<Marker>,
}

impl State {
    /// Tells whether a part can hold what is said of it.
    pub(super) fn is_in(&self, part: &File) -> bool {
        self.format == Format::Raw && self.done > 0 && part.metadata().is_ok_and(|part| part.len() >= self.done)
    }
}

/// Returns a path with words added to its last name.
pub fn beside(image: &Path, words: &str) -> PathBuf {
    let mut name = image.file_name().unwrap_or_default().to_owned();
    name.push(words);
    image.with_file_name(name)
}

/// Returns where the marker of an image is.
pub fn marker_path(image: &Path) -> PathBuf {
    beside(image, ".ha-volume.json")
}

/// Reads the marker of an image; nothing when there is none or it cannot be understood.
pub fn read_marker(image: &Path) -> Result<Option<Marker>, FsError> {
    let content = local::read_if_present(&marker_path(image))?;
    Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
}

pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), FsError> {
    let mut content = serde_json::to_vec_pretty(value)
        .map_err(|error| FsError::local("write", path, std::io::Error::other(error)))?;
    content.push(b'\n');
    // A bare name has a parent that is written as nothing.
    let path = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new(".").join(path),
        _ => path.to_owned(),
    };
    // What a killed process left goes: the part is locked, so there is one writer.
    let mut replacement = Replacement::begin(&path, "ha-volume")?;
    replacement.write_all(&content).map_err(|error| FsError::local("write", &path, error))?;
    replacement.commit()
}
