//! The small files of a replica directory, parsed (volumes.md §1). Pure.

use std::collections::BTreeMap;

use ha_sync_fs::FsError;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// What a small file may have at most; the real ones have some hundred bytes.
pub const MOST_BYTES: usize = 1 << 20;

/// Is why a small file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// It cannot be read.
    #[error("the file cannot be read")]
    Unread(#[source] FsError),
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

/// Is `volume.meta`. Absent fields have the zero value, as the engine reads them; [`VolumeMeta::why_unusable`] tells
/// where that leaves nothing to go by.
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
    #[serde(deserialize_with = "text")]
    pub backing_file_path: String,
    /// The same under its older name; both may be there.
    #[serde(deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub backing_file_name: String,
    /// Whether the content is a LUKS container.
    pub encrypted: bool,
}

/// The greatest size that a file can have, and so a volume.
const MOST_SIZE: u64 = i64::MAX as u64;

impl VolumeMeta {
    /// Returns the backing image as it was called on the node; empty for none.
    pub fn backing(&self) -> &str {
        if self.backing_file_path.is_empty() { &self.backing_file_name } else { &self.backing_file_path }
    }

    /// Tells whether the size is one that a volume can have.
    pub fn has_size(&self) -> bool {
        (1..=MOST_SIZE).contains(&self.size)
    }

    /// Returns what is missing to go by it.
    pub fn why_unusable(&self) -> Option<&'static str> {
        match (self.has_size(), self.head.is_empty()) {
            (false, _) if self.size == 0 => Some("it names no size"),
            (false, _) => Some("it names a size that no volume can have"),
            (true, true) => Some("it names no head"),
            (true, false) => None,
        }
    }
}

/// Is the `.img.meta` of a layer. Its `Name` is left out: in a snapshot it is the name of the old head.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "PascalCase")]
pub struct LayerMeta {
    /// The file of the layer below; empty for the lowest. It must be there: what lies below a layer that does not say
    /// would be lost without a word.
    pub parent: String,
    /// Whether it was deleted by a user; its data count until a purge.
    #[serde(default)]
    pub removed: bool,
    /// Whether a user made it, or the system.
    #[serde(default)]
    pub user_created: bool,
    /// When, RFC 3339.
    #[serde(default, deserialize_with = "text")]
    pub created: String,
    /// Labels; `null` for none.
    #[serde(default, deserialize_with = "labels")]
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
        assert_eq!((old.size, old.backing(), old.encrypted), (1, "b", false));
        let both: VolumeMeta = parse(br#"{"Size":1,"Head":"h","BackingFileName":"b","BackingFilePath":""}"#).unwrap();
        assert_eq!(both.backing(), "b");
        let both: VolumeMeta = parse(br#"{"Size":1,"Head":"h","BackingFileName":"","BackingFilePath":"p"}"#).unwrap();
        assert_eq!(both.backing(), "p");
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
        assert!(matches!(parse::<LayerMeta>(b"{}"), Err(MetaError::Json(_))));
        for (content, why) in [
            (&br#"{}"#[..], Some("it names no size")),
            (br#"{"Size":0,"Head":"h"}"#, Some("it names no size")),
            (br#"{"Size":18446744073709551615,"Head":"h"}"#, Some("it names a size that no volume can have")),
            (br#"{"Size":9223372036854775808,"Head":"h"}"#, Some("it names a size that no volume can have")),
            (br#"{"Size":1}"#, Some("it names no head")),
            (br#"{"Size":9223372036854775807,"Head":"h"}"#, None),
        ] {
            assert_eq!(parse::<VolumeMeta>(content).unwrap().why_unusable(), why);
        }
        let mut counter = [0; 4096];
        counter[..4].copy_from_slice(b"1065");
        assert_eq!(revision(&counter).unwrap(), 1065);
        assert!(matches!(revision(&[0; 4096]), Err(MetaError::Empty)));
        assert!(matches!(revision(b"12x"), Err(MetaError::Number)));
    }
}
