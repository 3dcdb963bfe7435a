//! The small files of a replica directory, parsed (volumes.md §1). Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// What a small file may have at most; the real ones have some hundred bytes.
pub const MOST_BYTES: usize = 1 << 20;

/// Is why a small file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// It has no content, as after a power cut.
    #[error("the file is empty")]
    Empty,
    /// It holds nothing but NUL bytes, as after a power cut.
    #[error("the file holds only NUL bytes")]
    Zeros,
    /// It is no JSON of the known form.
    #[error("the file cannot be understood")]
    Json(#[source] serde_json::Error),
    /// It is no decimal number.
    #[error("the file holds no number")]
    Number,
}

/// Is `volume.meta`. Absent fields have the zero value, as the engine reads them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub struct VolumeMeta {
    /// The size of the volume in bytes.
    pub size: u64,
    /// The file of the live layer.
    #[serde(deserialize_with = "text")]
    pub head: String,
    /// Whether the volume was open; every power cut leaves this.
    pub dirty: bool,
    /// Whether the replica was being rebuilt from another.
    pub rebuilding: bool,
    /// What the engine said when it gave the replica up.
    #[serde(deserialize_with = "text")]
    pub error: String,
    /// A copy of the head's parent; the layers' own files decide.
    #[serde(deserialize_with = "text")]
    pub parent: String,
    /// 512.
    pub sector_size: u64,
    /// The backing image, as it was called on the node.
    #[serde(deserialize_with = "text", alias = "BackingFileName")]
    pub backing_file_path: String,
    /// Whether the content is a LUKS container.
    pub encrypted: bool,
}

/// Is the `.img.meta` of a layer. Its `Name` is left out: in a snapshot it is the name of the old head.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub struct LayerMeta {
    /// The file of the layer below; empty for the lowest.
    #[serde(deserialize_with = "text")]
    pub parent: String,
    /// Whether it was deleted by a user; its data count until a purge.
    pub removed: bool,
    /// Whether a user made it, or the system.
    pub user_created: bool,
    /// When, RFC 3339.
    #[serde(deserialize_with = "text")]
    pub created: String,
    /// Labels; `null` for none.
    #[serde(deserialize_with = "labels")]
    pub labels: BTreeMap<String, String>,
}

impl LayerMeta {
    /// Returns when the layer was made, when that can be understood.
    pub fn created(&self) -> Option<Timestamp> {
        self.created.parse().ok()
    }
}

/// Is the `.img.checksum` of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ChecksumFile {
    /// `crc64`.
    pub method: String,
    /// 16 hexadecimal digits.
    pub checksum: String,
    /// The image's ctime when it was made. After a purge the file is stale.
    #[serde(default, deserialize_with = "text")]
    pub change_time: String,
}

fn text<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(source)?.unwrap_or_default())
}

fn labels<'de, D: Deserializer<'de>>(source: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::<BTreeMap<String, String>>::deserialize(source)?.unwrap_or_default())
}

/// Parses one of the JSON files.
pub fn parse<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, MetaError> {
    if content.trim_ascii().is_empty() {
        return Err(MetaError::Empty);
    }
    if content.iter().all(|byte| *byte == 0) {
        return Err(MetaError::Zeros);
    }
    serde_json::from_slice(content).map_err(MetaError::Json)
}

/// Parses `revision.counter`: decimal digits, padded with NUL.
pub fn revision(content: &[u8]) -> Result<u64, MetaError> {
    let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
    let text = content[..end].trim_ascii();
    if text.is_empty() {
        return Err(MetaError::Empty);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(MetaError::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_short_forms() {
        let old: VolumeMeta = parse(br#"{"Size":1,"Head":"h","BackingFileName":"b"}"#).unwrap();
        assert_eq!((old.size, old.backing_file_path.as_str(), old.encrypted), (1, "b", false));
        let restored: LayerMeta = parse(br#"{"Parent":""}"#).unwrap();
        assert_eq!(restored, LayerMeta::default());
        let labels: LayerMeta = parse(br#"{"Parent":"p","Labels":null,"Created":"2026-11-20T23:10:55Z"}"#).unwrap();
        assert_eq!(labels.created().unwrap().to_string(), "2026-11-20T23:10:55Z");
    }

    #[test]
    fn what_a_power_cut_leaves() {
        assert!(matches!(parse::<VolumeMeta>(b""), Err(MetaError::Empty)));
        assert!(matches!(parse::<VolumeMeta>(b" \n"), Err(MetaError::Empty)));
        assert!(matches!(parse::<VolumeMeta>(&[0; 186]), Err(MetaError::Zeros)));
        assert!(matches!(parse::<VolumeMeta>(br#"{"Size":-1}"#), Err(MetaError::Json(_))));
        let mut counter = [0; 4096];
        counter[..4].copy_from_slice(b"1065");
        assert_eq!(revision(&counter).unwrap(), 1065);
        assert!(matches!(revision(&[0; 4096]), Err(MetaError::Empty)));
        assert!(matches!(revision(b"12x"), Err(MetaError::Number)));
    }
}
