//! `volume.cfg` and `backup_<name>.cfg`. Integers are strings, and some strings are quoted twice: Go's
//! `json:",string"`. A reader takes every form; a writer writes what Longhorn writes. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::codec::Compression;

/// Is why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no JSON object.
    #[error("it is no JSON object")]
    Json,
    /// A field has a value that it cannot have.
    #[error("the field {0} cannot be understood")]
    Field(&'static str),
    /// The blocks are not in the form of a map.
    #[error("the list of blocks cannot be understood: {0}")]
    Blocks(&'static str),
}

/// Is `volume.cfg`. Fields that are not known are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeConfig {
    /// The name of the volume.
    pub name: String,
    /// The size in bytes.
    pub size: u64,
    /// The backup that was made last.
    pub last_backup: String,
    /// When.
    pub last_backup_at: String,
    /// When the first was made.
    pub created: String,
    /// How many blocks the volume has in the store.
    pub block_count: u64,
    /// How they are packed.
    pub compression: String,
    /// The backing image, if there is one.
    pub backing_image: String,
    pub(super) fields: Map<String, Value>,
}

impl VolumeConfig {
    /// Parses the file.
    pub fn parse(content: &[u8]) -> Result<Self, ConfigError> {
        let fields = object(content)?;
        Ok(Self {
            name: text(&fields, "Name"),
            size: number(&fields, "Size")?,
            last_backup: text(&fields, "LastBackupName"),
            last_backup_at: text(&fields, "LastBackupAt"),
            created: text(&fields, "CreatedTime"),
            block_count: number(&fields, "BlockCount")?,
            compression: text(&fields, "CompressionMethod"),
            backing_image: text(&fields, "BackingImageName"),
            fields,
        })
    }

    /// Tells whether the volume's blocks are packed in this way; gzip also where it does not say.
    pub fn is_packed_with(&self, compression: Compression) -> bool {
        let has = if self.compression.is_empty() { Compression::Gzip.name() } else { &self.compression };
        has == compression.name()
    }

    /// Makes the configuration of a volume that is new in the store.
    pub fn new(name: &str, size: u64, created: &str, compression: Compression) -> Self {
        Self {
            name: name.to_owned(),
            size,
            last_backup: String::new(),
            last_backup_at: String::new(),
            created: created.to_owned(),
            block_count: 0,
            compression: compression.name().to_owned(),
            backing_image: String::new(),
            fields: Map::new(),
        }
    }

    /// Returns the content of the file, in Longhorn's order of fields.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Twice quoted where Longhorn's own fields are.
        let twice = |value: &str| Value::from(Value::from(value).to_string());
        let engine = text(&self.fields, "DataEngine");
        let known = [
            ("Name", json!(self.name)),
            ("Size", json!(self.size.to_string())),
            ("Labels", self.fields.get("Labels").cloned().unwrap_or(Value::Null)),
            ("CreatedTime", json!(self.created)),
            ("LastBackupName", json!(self.last_backup)),
            ("LastBackupAt", json!(self.last_backup_at)),
            ("BlockCount", json!(self.block_count.to_string())),
            ("BackingImageName", twice(&self.backing_image)),
            ("BackingImageChecksum", twice(&text(&self.fields, "BackingImageChecksum"))),
            ("CompressionMethod", twice(&self.compression)),
            ("StorageClassName", twice(&text(&self.fields, "StorageClassName"))),
            ("DataEngine", twice(if engine.is_empty() { "v1" } else { &engine })),
        ];
        let others = self.fields.iter().filter(|(name, _)| known.iter().all(|(known, _)| known != name));
        let others: Vec<(&str, Value)> = others.map(|(name, value)| (name.as_str(), value.clone())).collect();
        ordered(&[known.as_slice(), &others].concat())
    }
}

/// Is a block of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockMapping {
    /// Where it lies in the volume, in bytes.
    pub offset: u64,
    /// Its name.
    pub checksum: String,
}

/// Is `backup_<name>.cfg`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupConfig {
    /// The name of the backup.
    pub name: String,
    /// The volume.
    pub volume: String,
    /// The snapshot that it was made of.
    pub snapshot: String,
    /// When that was made.
    pub snapshot_created: String,
    /// When the backup was finished; empty when it was not.
    pub created: String,
    /// Bytes of its blocks.
    pub size: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it was made on top of another. The blocks are complete all the same.
    pub incremental: bool,
    /// How the blocks are packed.
    pub compression: Compression,
    /// The size of a block in bytes.
    pub block_size: u64,
    /// The blocks, ascending; what is not there is zeros.
    #[serde(skip)]
    pub blocks: Vec<BlockMapping>,
    /// Bytes that this backup added to the store, packed.
    pub uploaded: u64,
}

impl BackupConfig {
    /// Parses the file.
    pub fn parse(content: &[u8]) -> Result<Self, ConfigError> {
        let fields = object(content)?;
        let compression = match text(&fields, "CompressionMethod").as_str() {
            "lz4" => Compression::Lz4,
            "gzip" | "" => Compression::Gzip,
            "none" => Compression::None,
            _ => return Err(ConfigError::Field("CompressionMethod")),
        };
        let block_size = match fields.get("Parameters").and_then(Value::as_object) {
            Some(parameters) => match text(parameters, "backup-block-size") {
                none if none.is_empty() => super::BLOCK_SIZE,
                size => match quantity(&size).ok_or(ConfigError::Field("backup-block-size"))? {
                    0 => super::BLOCK_SIZE,
                    size => size,
                },
            },
            None => super::BLOCK_SIZE,
        };
        if !(4096..=64 << 20).contains(&block_size) || block_size % 4096 != 0 {
            return Err(ConfigError::Field("backup-block-size"));
        }
        let labels = fields.get("Labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        Ok(Self {
            name: text(&fields, "Name"),
            volume: text(&fields, "VolumeName"),
            snapshot: text(&fields, "SnapshotName"),
            snapshot_created: text(&fields, "SnapshotCreatedAt"),
            created: text(&fields, "CreatedTime"),
            size: number(&fields, "Size")?,
            labels: labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect(),
            incremental: match fields.get("IsIncremental") {
                Some(Value::Bool(value)) => *value,
                _ => text(&fields, "IsIncremental") == "true",
            },
            compression,
            block_size,
            blocks: blocks(&fields, block_size)?,
            uploaded: number(&fields, "NewlyUploadedDataSize")?,
        })
    }

    /// Returns the content of the file, in Longhorn's order of fields.
    pub fn to_bytes(&self) -> Vec<u8> {
        let blocks: Vec<String> = self
            .blocks
            .iter()
            .map(|block| ordered_text(&[("Offset", json!(block.offset)), ("BlockChecksum", json!(block.checksum))]))
            .collect();
        let labels = if self.labels.is_empty() { Value::Null } else { json!(self.labels) };
        let head = ordered_text(&[
            ("Name", json!(self.name)),
            ("VolumeName", json!(self.volume)),
            ("SnapshotName", json!(self.snapshot)),
            ("SnapshotCreatedAt", json!(self.snapshot_created)),
            ("CreatedTime", json!(self.created)),
            ("Size", json!(self.size.to_string())),
            ("Labels", labels),
            ("Parameters", json!({"backup-block-size": self.block_size.to_string()})),
            ("IsIncremental", json!(self.incremental)),
            ("CompressionMethod", json!(self.compression.name())),
            ("NewlyUploadedDataSize", json!(self.uploaded.to_string())),
            ("ReUploadedDataSize", json!("0")),
            ("ProcessingBlocks", json!({})),
        ]);
        // The list of blocks may be long: it is no value of serde_json, which would sort the fields of each.
        let head = head.strip_suffix('}').unwrap_or(&head);
        format!("{head},\"Blocks\":[{}],\"SingleFile\":{{\"FilePath\":\"\"}}}}", blocks.join(",")).into_bytes()
    }
}

fn blocks(fields: &Map<String, Value>, block_size: u64) -> Result<Vec<BlockMapping>, ConfigError> {
    let list = match fields.get("Blocks") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(ConfigError::Blocks("it is no list")),
    };
    let mut blocks = Vec::with_capacity(list.len());
    for block in list {
        let block = block.as_object().ok_or(ConfigError::Blocks("a block is no object"))?;
        let checksum = text(block, "BlockChecksum");
        if checksum.len() != 64 || !checksum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ConfigError::Blocks("a checksum is not 64 hexadecimal digits"));
        }
        let offset = number(block, "Offset")?;
        if offset % block_size != 0 {
            return Err(ConfigError::Blocks("an offset is no multiple of the block size"));
        }
        blocks.push(BlockMapping { offset, checksum });
    }
    blocks.sort_by_key(|block| block.offset);
    if blocks.windows(2).any(|pair| pair[0].offset == pair[1].offset) {
        return Err(ConfigError::Blocks("an offset is there twice"));
    }
    Ok(blocks)
}

fn object(content: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::from_slice(content) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(ConfigError::Json),
    }
}

/// Reads a text that is quoted once or twice; absent is empty.
fn text(fields: &Map<String, Value>, name: &str) -> String {
    let Some(value) = fields.get(name).and_then(Value::as_str) else { return String::new() };
    serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned())
}

/// Reads an integer that is a number or a text; absent and empty are zero.
fn number(fields: &Map<String, Value>, name: &'static str) -> Result<u64, ConfigError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(Value::Number(number)) => number.as_u64().ok_or(ConfigError::Field(name)),
        Some(Value::String(_)) => match text(fields, name) {
            empty if empty.is_empty() => Ok(0),
            digits => digits.parse().map_err(|_| ConfigError::Field(name)),
        },
        Some(_) => Err(ConfigError::Field(name)),
    }
}

/// Reads a quantity of Kubernetes, like 2097152 and 2Mi, as far as it is a whole number.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn ordered(fields: &[(&str, Value)]) -> Vec<u8> {
    ordered_text(fields).into_bytes()
}

/// Writes an object in the order given; a map of serde_json sorts its names.
fn ordered_text(fields: &[(&str, Value)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
    format!("{{{}}}", fields.join(","))
}
