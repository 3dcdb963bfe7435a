//! `ha-volume inspect`.

use std::io::{self, BufWriter, Write};

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{self, OutputFormat, grouped, human_bytes};
use ha_cli::table::{Align, Table};
use ha_longhorn::checksum::{Verdict, Verify};
use ha_longhorn::doctor;
use ha_longhorn::extent::{self, Extent, Extents, Method};
use ha_longhorn::finding::{Finding, Severity};
use ha_longhorn::inside::Inside;
use ha_longhorn::inspect::{self, LayerReport, Report};
use ha_longhorn::meta::VolumeMeta;
use ha_longhorn::replica::Replica;
use ha_longhorn::source::SourceFile;
use ha_sync_fs::FsError;
use ha_sync_fs::error::printable_path;
use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};

use crate::arguments::InspectArguments;
use crate::work::Work;
use crate::{render, source};

pub(crate) fn serve(arguments: &InspectArguments) -> Result<ExitCode, Failure> {
    let InspectArguments { directory, quick, extents, backing, head, output } = arguments;
    let replica = source::replica(directory, head.as_deref())?;
    let below = source::backing_image(backing.as_deref())?;
    let verify = if *quick { Verify::Nothing } else { Verify::All };
    let work = Work::begin("reading", output.output == OutputFormat::Json)?;
    let backed = below.is_some();
    let mut report = inspect::report(&replica, below, verify, &work).or_failure(FailureKind::Failed)?;
    if !*quick {
        let chain = replica.chain.as_deref().unwrap_or_default();
        let odd = doctor::sparsified(&replica, chain, backed, report.inside.as_ref(), u64::MAX, &work);
        report.add(odd.or_failure(FailureKind::Failed)?);
    }
    if ha_longhorn::watch::Watch::stopped(&work) {
        return Err(work.stopped_by());
    }
    work.end();
    // Opened before the first word is written: what cannot be opened is a failure then, and not half an answer.
    let layers = if *extents { open_layers(&replica).or_failure(FailureKind::Failed)? } else { Vec::new() };
    match output.output {
        OutputFormat::Json => write(|out| {
            let answer = Answer {
                directory: printable_path(directory),
                size: replica.size,
                meta: replica.meta.as_ref(),
                revision: replica.revision,
                chain: replica.chain.as_ref().ok(),
                layers: &report.layers,
                inside: report.inside.as_ref(),
                findings: report.findings.iter().map(Finding::to_json).collect(),
                extents: extents.then_some(EveryLayer(&layers)),
            };
            serde_json::to_writer(&mut *out, &answer)?;
            out.write_all(b"\n")
        })?,
        OutputFormat::Text => {
            let text = text(arguments, &replica, &report)?;
            write(|out| {
                out.write_all(text.as_bytes())?;
                for layer in &layers {
                    write!(out, "\n{}\n", layer.name)?;
                    let each = |extent: Extent| {
                        let unwritten = if extent.unwritten { "  unwritten" } else { "" };
                        writeln!(out, "  {} + {}{unwritten}", extent.start, extent.length())
                    };
                    layer.each(each).map_err(|ended| match ended {
                        Ended::Read(error) => io::Error::other(error),
                        Ended::Write(error) => error,
                    })?;
                }
                Ok(())
            })?;
        }
    }
    Ok(code(&report.findings))
}

/// Returns 3 for a replica that is damaged, so that a script notices.
pub(crate) fn code(findings: &[Finding]) -> ExitCode {
    match findings.iter().any(|finding| finding.severity() == Severity::Damage) {
        true => ExitCode::Partial,
        false => ExitCode::Success,
    }
}

/// Writes an answer to stdout piece by piece: there may be millions of extents.
fn write(answer: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = answer(&mut out).and_then(|()| out.flush());
    summary::ignore_closed(written)
        .or_failure(FailureKind::Failed)
        .map_err(|failure| failure.context("failed to write the answer to its end"))
}

struct OpenLayer<'a> {
    name: &'a str,
    file: SourceFile,
    method: Method,
}

fn open_layers(replica: &Replica) -> Result<Vec<OpenLayer<'_>>, FsError> {
    let mut layers = Vec::new();
    for name in replica.layers.keys() {
        let file = replica.open_layer(name)?;
        let method = Extents::of(&file)?.method();
        layers.push(OpenLayer { name, file, method });
    }
    Ok(layers)
}

impl OpenLayer<'_> {
    fn each<E>(&self, mut each: impl FnMut(Extent) -> Result<(), E>) -> Result<(), Ended<E>> {
        extent::for_each(&self.file, self.method, |extent| each(extent).map_err(Ended::Write))
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    directory: String,
    size: u64,
    meta: Option<&'a VolumeMeta>,
    revision: Option<u64>,
    chain: Option<&'a Vec<String>>,
    layers: &'a [LayerReport],
    inside: Option<&'a Inside>,
    findings: Vec<serde_json::Value>,
    extents: Option<EveryLayer<'a>>,
}

/// Is the extents of each layer, looked up as they are written.
struct EveryLayer<'a>(&'a [OpenLayer<'a>]);

impl Serialize for EveryLayer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|layer| (layer.name, layer)))
    }
}

impl Serialize for OpenLayer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(None)?;
        self.each(|extent| sequence.serialize_element(&extent)).map_err(|ended| match ended {
            Ended::Read(error) => serde::ser::Error::custom(error.to_line()),
            Ended::Write(error) => error,
        })?;
        sequence.end()
    }
}

/// Is why the extents of a layer were not written to the end.
enum Ended<E> {
    Read(FsError),
    Write(E),
}

impl<E> From<FsError> for Ended<E> {
    fn from(error: FsError) -> Self {
        Self::Read(error)
    }
}

/// Returns the layers as a tree has them, each with its depth: the live chain from the head down, then each branch from
/// its youngest layer down to where it leaves another.
fn tree(layers: &[LayerReport]) -> Vec<(usize, &LayerReport)> {
    let mut rows: Vec<(usize, &LayerReport)> =
        layers.iter().filter_map(|layer| layer.place.map(|place| (place, layer))).collect();
    let beside = || layers.iter().filter(|layer| layer.place.is_none());
    let is_parent = |name: &str| beside().any(|layer| layer.parent.as_deref() == Some(name));
    // A loop has no youngest layer: what is left over comes last.
    for youngest in beside().filter(|layer| !is_parent(&layer.name)).chain(beside()) {
        let (mut depth, mut next) = (0, Some(youngest));
        while let Some(layer) = next.filter(|layer| rows.iter().all(|(_, row)| row.name != layer.name)) {
            rows.push((depth, layer));
            depth += 1;
            next = beside().find(|below| layer.parent.as_deref() == Some(&below.name));
        }
    }
    rows
}

fn text(arguments: &InspectArguments, replica: &Replica, report: &Report) -> Result<String, Failure> {
    let mut facts = Table::new([Align::Left, Align::Left]);
    facts.row(["replica".to_owned(), printable_path(&arguments.directory)]);
    facts.row(["size".to_owned(), format!("{} ({} bytes)", human_bytes(replica.size), grouped(replica.size))]);
    if let Some(meta) = &replica.meta {
        let flags = [("dirty", meta.dirty), ("rebuilding", meta.rebuilding), ("encrypted", meta.encrypted)];
        let set: Vec<&str> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
        facts.row(["flags".to_owned(), if set.is_empty() { "none".to_owned() } else { set.join(", ") }]);
    }
    if let Some(revision) = replica.revision {
        facts.row(["revision".to_owned(), grouped(revision)]);
    }
    facts.row(["inside".to_owned(), render::inside(report.inside.as_ref())]);
    let mut layers =
        Table::new([Align::Left, Align::Right, Align::Right, Align::Right, Align::Left, Align::Left, Align::Left]);
    layers.row(["layer", "length", "data", "extents", "written", "checksum", "remarks"]);
    for (depth, layer) in tree(&report.layers) {
        let indent = "  ".repeat(depth.min(12));
        let name = match layer.place {
            Some(_) => format!("{indent}{}", layer.name),
            None => format!("{indent}({})", layer.name),
        };
        let checksum = match &layer.checksum {
            Verdict::Absent => "-",
            Verdict::Verified => "verified",
            Verdict::Unchecked => "not checked",
            Verdict::Stale => "stale",
            Verdict::Wrong { .. } => "WRONG",
        };
        let mut remarks = Vec::new();
        if let (None, Some(parent)) = (layer.place, layer.parent.as_deref().filter(|parent| !parent.is_empty())) {
            remarks.push(format!("on {parent}"));
        }
        if layer.removed {
            remarks.push("removed, its data count".to_owned());
        }
        if layer.extents.unwritten > 0 {
            remarks.push(format!("{} unwritten", human_bytes(layer.extents.unwritten)));
        }
        if layer.extents.method != Method::Fiemap {
            remarks.push("no FIEMAP".to_owned());
        }
        for (name, value) in &layer.labels {
            remarks.push(format!("{name}={value}"));
        }
        layers.row([
            name,
            human_bytes(layer.length),
            human_bytes(layer.extents.bytes),
            grouped(layer.extents.extents),
            render::time(layer.modified),
            checksum.to_owned(),
            remarks.join(", "),
        ]);
    }
    let mut text = Vec::new();
    facts.write(&mut text).or_failure(FailureKind::Failed)?;
    text.push(b'\n');
    layers.write(&mut text).or_failure(FailureKind::Failed)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if !report.findings.is_empty() {
        text.push('\n');
        render::findings(&mut text, &report.findings);
    }
    Ok(text)
}
