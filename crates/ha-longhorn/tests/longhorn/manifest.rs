//! `MANIFEST.json` of the fixtures.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Manifest {
    pub(crate) replicas: BTreeMap<String, Replica>,
}

#[derive(Deserialize)]
pub(crate) struct Replica {
    pub(crate) chain_head_first: Vec<String>,
    pub(crate) merged_sha256: String,
    #[serde(rename = "nonzero_fallthrough_sha256_WRONG")]
    pub(crate) wrong_sha256: String,
    #[serde(rename = "blocks4k_that_the_wrong_merge_changes")]
    pub(crate) wrong_blocks: u64,
    pub(crate) files: BTreeMap<String, File>,
}

#[derive(Deserialize)]
pub(crate) struct File {
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) data_extents: Option<u64>,
    pub(crate) data_bytes: Option<u64>,
    pub(crate) extents_sha256: Option<String>,
}

pub(crate) fn manifest() -> Manifest {
    let text = std::fs::read(ha_testkit::longhorn::fixtures().join("MANIFEST.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}
