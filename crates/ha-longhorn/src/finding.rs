//! What is odd about a replica, as data: each finding has a code, a severity and a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::chain::ChainError;

/// Is how much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// To know.
    Note,
    /// To look at before the result is trusted.
    Warning,
    /// The replica is not whole, or was changed by how it was copied.
    Damage,
}

/// Is one thing that is odd. Names are file names, printable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum Finding {
    /// `volume.meta` is missing or unusable; what it says was recovered.
    VolumeMetaUnusable {
        /// Why.
        why: String,
    },
    /// There are several heads.
    ManyHeads {
        /// Their files.
        heads: Vec<String>,
    },
    /// `volume.meta` names another parent than the head's own file, which decides.
    ParentCacheStale {
        /// In `volume.meta`.
        cached: String,
        /// In the head's file.
        parent: String,
    },
    /// The chain does not resolve.
    ChainBroken {
        /// Why.
        why: String,
    },
    /// A `.meta` file cannot be understood.
    LayerMetaUnusable {
        /// The layer.
        layer: String,
        /// Why.
        why: String,
    },
    /// A layer of the chain is longer than the volume; what is beyond is not part of it.
    LayerTooLong {
        /// The layer.
        layer: String,
        /// Its length in bytes.
        length: u64,
        /// The volume's size in bytes.
        size: u64,
    },
    /// The head is shorter than the volume; what is beyond its end shows the older layers.
    HeadShort {
        /// The head.
        layer: String,
        /// Its length in bytes.
        length: u64,
        /// The volume's size in bytes.
        size: u64,
    },
    /// A layer is not part of the live chain, as reverts leave them.
    OffChain {
        /// The layer.
        layer: String,
    },
    /// A layer outside the chain has a chain that does not resolve.
    OffChainBroken {
        /// The layer.
        layer: String,
        /// Why.
        why: String,
    },
    /// An interrupted write left this.
    Leftover {
        /// The file.
        name: String,
    },
    /// A file that no replica has, or whose name is no text.
    Foreign {
        /// The file.
        name: String,
    },
    /// The replica was being rebuilt.
    Rebuilding,
    /// Snapshots are beside the chain, and it was being rebuilt, or nothing tells: what is joined at the end of a rebuild
    /// is not, and the chain that resolves is wrong.
    RebuildCutOff {
        /// Their files.
        snapshots: Vec<String>,
    },
    /// The engine gave the replica up.
    EngineError {
        /// What it said.
        error: String,
    },
    /// The volume was open when the replica was left; every power cut leaves that.
    Dirty,
    /// The content is encrypted.
    Encrypted,
    /// The revision counter cannot be read.
    RevisionUnusable {
        /// Why.
        why: String,
    },
    /// A backing image lies under everything.
    BackingNeeded {
        /// How it was called on the node.
        path: String,
    },
    /// `volume.meta` does not tell, so a backing image may lie under everything, and none is given.
    BackingUnknown,
    /// The image of a snapshot was changed after its checksum was made, so the checksum says nothing.
    ChecksumStale {
        /// The layer.
        layer: String,
    },
    /// The image of a snapshot does not have its checksum.
    ChecksumWrong {
        /// The layer.
        layer: String,
        /// What the file says.
        expected: String,
        /// What the image has.
        found: String,
    },
    /// Layers whose checksums could be wrong, and were not verified: that reads them whole.
    ChecksumsUnchecked {
        /// The layers.
        layers: Vec<String>,
    },
    /// A checksum file cannot be understood.
    ChecksumUnusable {
        /// The layer.
        layer: String,
        /// Why.
        why: String,
    },
    /// The two ways to ask for extents differ; FIEMAP counts, since the engine asks it.
    ExtentsDisputed {
        /// The layer.
        layer: String,
        /// Bytes on which they differ.
        bytes: u64,
    },
    /// The file system has no FIEMAP: unwritten space looks like a hole.
    ExtentsBySeek {
        /// The layer.
        layer: String,
    },
    /// The file system tells no extents at all: holes look like zeros.
    ExtentsUnknown {
        /// The layer.
        layer: String,
    },
    /// A layer is allocated from end to end although older layers have data: it hides them. The engine leaves that when
    /// a whole volume is written.
    HidesAll {
        /// The layer.
        layer: String,
    },
    /// The same in every layer, with blocks of zeros: holes were filled when it was copied.
    Densified {
        /// The layer.
        layer: String,
    },
    /// Not one allocated block of zeros is in any layer: they have become holes, which show older data.
    Sparsified,
    /// No allocated block of zeros is in the data that were looked at.
    ZerosNotSeen {
        /// How many bytes were looked at.
        bytes: u64,
    },
}

impl Finding {
    /// Makes the finding of a chain that does not resolve.
    pub fn broken(error: &ChainError) -> Self {
        Self::ChainBroken { why: error.to_string() }
    }

    /// Returns how much it weighs.
    pub fn severity(&self) -> Severity {
        use Finding::*;
        match self {
            ChainBroken { .. } | EngineError { .. } | ChecksumWrong { .. } | Densified { .. } | Sparsified => {
                Severity::Damage
            }
            LayerTooLong { .. } | RebuildCutOff { .. } => Severity::Damage,
            VolumeMetaUnusable { .. }
            | ManyHeads { .. }
            | HeadShort { .. }
            | BackingUnknown
            | ParentCacheStale { .. }
            | LayerMetaUnusable { .. }
            | OffChainBroken { .. }
            | Rebuilding
            | Encrypted
            | RevisionUnusable { .. }
            | ChecksumUnusable { .. }
            | ChecksumsUnchecked { .. }
            | ExtentsDisputed { .. }
            | ExtentsBySeek { .. }
            | ExtentsUnknown { .. }
            | ZerosNotSeen { .. }
            | HidesAll { .. } => Severity::Warning,
            OffChain { .. }
            | Leftover { .. }
            | Foreign { .. }
            | Dirty
            | BackingNeeded { .. }
            | ChecksumStale { .. } => Severity::Note,
        }
    }

    /// Returns it as JSON: its fields, `severity` and `text`.
    pub fn to_json(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("severity".to_owned(), json!(self.severity()));
            object.insert("text".to_owned(), json!(self.to_string()));
        }
        value
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VolumeMetaUnusable { why } => {
                write!(text, "volume.meta is not usable, head and size are taken from the files: {why}")
            }
            Self::ManyHeads { heads } => write!(text, "several heads, as a crash leaves them: {}", heads.join(", ")),
            Self::ParentCacheStale { cached, parent } => {
                write!(text, "volume.meta names another parent than the head's own file: {cached} instead of {parent}")
            }
            Self::ChainBroken { why } => write!(text, "the chain is broken: {why}"),
            Self::LayerMetaUnusable { layer, why } => write!(text, "{layer}.meta is not usable: {why}"),
            Self::LayerTooLong { layer, length, size } => {
                write!(text, "layer longer than the volume: {layer} has {length} bytes, the volume {size}")
            }
            Self::HeadShort { layer, length, size } => {
                write!(text, "head shorter than the volume: {layer} has {length} bytes, the volume {size}")
            }
            Self::OffChain { layer } => write!(text, "not part of the live chain, as after a revert: {layer}"),
            Self::OffChainBroken { layer, why } => write!(text, "not part of the live chain: {layer}; {why}"),
            Self::Leftover { name } => write!(text, "left by an interrupted write: {name}"),
            Self::Foreign { name } => write!(text, "not a file of a replica: {name}"),
            Self::Rebuilding => write!(text, "it was being rebuilt from another replica"),
            Self::RebuildCutOff { snapshots } => {
                write!(
                    text,
                    "snapshots beside the chain, as a rebuild that was cut off leaves them: {}",
                    snapshots.join(", ")
                )
            }
            Self::EngineError { error } => write!(text, "the engine gave it up: {error}"),
            Self::Dirty => write!(text, "the volume was open when it was left, as after every power cut"),
            Self::Encrypted => write!(text, "the volume is marked as encrypted"),
            Self::RevisionUnusable { why } => write!(text, "revision.counter is not usable: {why}"),
            Self::BackingNeeded { path } => write!(text, "a backing image lies under it: {path}"),
            Self::BackingUnknown => {
                write!(
                    text,
                    "without volume.meta a backing image cannot be ruled out; where one lies under it: --backing"
                )
            }
            Self::ChecksumStale { layer } => {
                write!(text, "the checksum is older than the image and says nothing: {layer}")
            }
            Self::ChecksumsUnchecked { layers } => {
                write!(text, "checksums were not verified, which inspect does: {}", layers.join(", "))
            }
            Self::ChecksumWrong { layer, expected, found } => {
                write!(text, "wrong checksum: {layer} has {found} instead of {expected}")
            }
            Self::ChecksumUnusable { layer, why } => write!(text, "{layer}.checksum is not usable: {why}"),
            Self::ExtentsDisputed { layer, bytes } => write!(
                text,
                "{bytes} bytes are allocated and count as data although SEEK_DATA takes them for a hole: {layer}"
            ),
            Self::ExtentsBySeek { layer } => {
                write!(text, "no FIEMAP on this file system, unwritten space looks like a hole: {layer}")
            }
            Self::ExtentsUnknown { layer } => {
                write!(text, "this file system does not tell holes from zeros, the layer hides all below it: {layer}")
            }
            Self::Densified { layer } => write!(
                text,
                "allocated from end to end, with zeros, as every layer is after rsync -a, scp or plain tar: {layer} \
                 hides all older ones"
            ),
            Self::HidesAll { layer } => write!(
                text,
                "allocated from end to end, it hides every older layer, as after a write of the whole volume: {layer}"
            ),
            Self::Sparsified => write!(
                text,
                "no allocated block of zeros is left, as after cp -a, cp --sparse=always or rsync -S: \
                 holes in their place show older data"
            ),
            Self::ZerosNotSeen { bytes } => write!(
                text,
                "no allocated block of zeros in the first {bytes} bytes of data, as after cp --sparse=always: \
                 ha-volume doctor reads the rest"
            ),
        }
    }
}
