//! One replica, looked at closely: the layers and their extents, checksums, what lies inside, what is odd.

use std::collections::BTreeMap;

use ha_sync_fs::FsError;
use jiff::Timestamp;
use serde::Serialize;

use crate::checksum::{self, Verdict, Verify};
use crate::doctor;
use crate::extent::{self, Method, Totals};
use crate::finding::Finding;
use crate::inside::{self, Inside};
use crate::layered::{Image, ImageError, Layered, Reading};
use crate::replica::Replica;
use crate::source::SourceFile;
use crate::watch::Watch;

/// Is a layer as a report tells it.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// The file of the image.
    pub name: String,
    /// The file of the layer below; empty for the lowest, nothing when unknown.
    pub parent: Option<String>,
    /// Its place in the live chain, the head being 0.
    pub place: Option<usize>,
    /// The length in bytes.
    pub length: u64,
    /// Allocated bytes, by the file system's count of blocks.
    pub allocated: u64,
    /// The extents.
    pub extents: Totals,
    /// When it was written last.
    pub modified: Option<Timestamp>,
    /// When it was made, by its `.meta`.
    pub created: Option<Timestamp>,
    /// Whether it was deleted by a user; its data count.
    pub removed: bool,
    /// Whether a user made it.
    pub user_created: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What its checksum says.
    pub checksum: Verdict,
}

/// Is what there is to say about a replica.
#[derive(Debug, Clone)]
pub struct Report {
    /// The layers: the chain from the head down, then the others by name.
    pub layers: Vec<LayerReport>,
    /// What lies inside; nothing when the chain is broken, or when a backing image is missing.
    pub inside: Option<Inside>,
    /// What is odd, by severity, the worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds a finding at its place.
    pub fn add(&mut self, finding: Option<Finding>) {
        self.findings.extend(finding);
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity()));
    }
}

/// Returns a time in ns since 1970 as a timestamp.
pub fn timestamp(nanoseconds: i128) -> Option<Timestamp> {
    Timestamp::from_nanosecond(nanoseconds).ok()
}

/// Opens the layers of a chain with the backing image below.
pub fn open(
    replica: &Replica,
    chain: &[String],
    backing: Option<Box<dyn Image>>,
    reading: Reading,
) -> Result<Layered, ImageError> {
    let layers = chain.iter().map(|name| replica.open_layer(name)).collect::<Result<_, FsError>>()?;
    Layered::new(replica.size, layers, backing, reading)
}

/// Looks at a replica. `verify` says which images that have a checksum are read.
pub fn report(
    replica: &Replica,
    backing: Option<Box<dyn Image>>,
    verify: Verify,
    watch: &dyn Watch,
) -> Result<Report, ImageError> {
    let chain: &[String] = replica.chain.as_deref().unwrap_or_default();
    let mut findings = replica.findings.clone();
    let mut names: Vec<&String> = chain.iter().filter(|name| replica.layers.contains_key(*name)).collect();
    names.extend(replica.layers.keys().filter(|name| !chain.contains(name)));
    let mut layers = Vec::new();
    for name in names {
        let file = replica.open_layer(name)?;
        let layer = layer(replica, name, &file, chain, verify, watch)?;
        findings.extend(layer_findings(&layer));
        layers.push(layer);
    }
    let backed = replica.backing_path().is_some() || backing.is_some();
    findings.extend(doctor::densified(replica, &layers, backed, watch)?);
    if replica.meta.is_none() && backing.is_none() {
        findings.push(Finding::BackingUnknown);
    }
    let complete = replica.chain.is_ok() && (replica.backing_path().is_none() || backing.is_some());
    let inside = match complete {
        true => Some(inside::of_image(&mut open(replica, chain, backing, Reading::Exact)?)?),
        false => None,
    };
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity()));
    Ok(Report { layers, inside, findings })
}

fn layer(
    replica: &Replica,
    name: &str,
    file: &SourceFile,
    chain: &[String],
    verify: Verify,
    watch: &dyn Watch,
) -> Result<LayerReport, ImageError> {
    let known = &replica.layers[name];
    let meta = known.meta.as_ref();
    Ok(LayerReport {
        name: name.to_owned(),
        parent: meta.map(|meta| meta.parent.clone()),
        place: chain.iter().position(|link| link == name),
        length: file.size(),
        allocated: file.stamp().allocated,
        extents: extent::totals(file)?,
        modified: timestamp(file.stamp().modified),
        created: meta.and_then(|meta| meta.created()),
        removed: meta.is_some_and(|meta| meta.removed),
        user_created: meta.is_some_and(|meta| meta.user_created),
        labels: meta.map(|meta| meta.labels.clone()).unwrap_or_default(),
        checksum: checksum::verdict(file, known.checksum.as_ref(), verify, watch)?,
    })
}

fn layer_findings(report: &LayerReport) -> Vec<Finding> {
    let layer = || report.name.clone();
    let mut findings = Vec::new();
    match &report.checksum {
        Verdict::Stale => findings.push(Finding::ChecksumStale { layer: layer() }),
        Verdict::Wrong { expected, found } => {
            let (expected, found) = (expected.clone(), found.clone());
            findings.push(Finding::ChecksumWrong { layer: layer(), expected, found });
        }
        Verdict::Absent | Verdict::Verified | Verdict::Unchecked => {}
    }
    match report.extents.method {
        Method::Fiemap if report.extents.disputed > 0 => {
            findings.push(Finding::ExtentsDisputed { layer: layer(), bytes: report.extents.disputed });
        }
        Method::Fiemap => {}
        Method::SeekData => findings.push(Finding::ExtentsBySeek { layer: layer() }),
        Method::Whole => findings.push(Finding::ExtentsUnknown { layer: layer() }),
    }
    findings
}
