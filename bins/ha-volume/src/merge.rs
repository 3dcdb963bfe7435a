//! `ha-volume merge`, and what other commands share that make an image.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, json_line};
use ha_longhorn::checksum::Verify;
use ha_longhorn::finding::Finding;
use ha_longhorn::inside::Inside;
use ha_longhorn::layered::{Image, Reading};
use ha_longhorn::merge::{self, Done, Format, Hashes, MergeError, Order, Source};
use ha_longhorn::{doctor, inspect};
use ha_sync_fs::error::printable_path;
use serde_json::{Value, json};

use crate::arguments::{Fsync, ImageFormat, MergeArguments};
use crate::source::{self, Opened, word};
use crate::work::{self, Work};
use crate::{print, render};

/// Is what `-o` says, given once or twice.
pub(crate) struct Outputs {
    pub(crate) image: PathBuf,
    pub(crate) format: OutputFormat,
}

impl Outputs {
    /// Tells the image from the form of the summary: `json` and `text` are forms.
    pub(crate) fn of(given: &[PathBuf]) -> Result<Self, Failure> {
        let (mut image, mut format) = (None, OutputFormat::Text);
        for path in given {
            match path.to_str() {
                Some("json") => format = OutputFormat::Json,
                Some("text") => format = OutputFormat::Text,
                _ if image.is_some() => {
                    return Err(
                        Failure::new(FailureKind::Usage, "-o names more than one image").hint("ha-volume merge --help")
                    );
                }
                _ => image = Some(path.clone()),
            }
        }
        if let Some(image) = image.as_ref().filter(|image| image.as_os_str().as_encoded_bytes().ends_with(b"/")) {
            let message = format!("-o names a directory: {}", printable_path(image));
            return Err(Failure::new(FailureKind::Usage, message).hint("-o IMAGE, a file that is not there yet"));
        }
        let image = image.ok_or_else(|| {
            Failure::new(FailureKind::Usage, "-o names no image, only the form of the summary")
                .hint("-o IMAGE -o json; for a file of that name: -o ./json")
        })?;
        source::written_here(&image)?;
        Ok(Self { image, format })
    }

    pub(crate) fn is_stdout(&self) -> bool {
        self.image == Path::new("-")
    }

    /// Prints the summary: on stderr when the image is on stdout.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        if self.is_stdout() {
            // A closed stderr is no failure.
            let _ = std::io::stderr().write_all(text.as_bytes());
            return Ok(());
        }
        print(text)
    }
}

/// After so much data an image is made durable where nothing else is asked for.
pub(crate) const CHECKPOINT: u64 = 256 << 20;

/// Is how an image is to be made.
pub(crate) struct Making {
    pub(crate) format: Format,
    pub(crate) sha256: bool,
    pub(crate) force: bool,
    pub(crate) checkpoint: u64,
    pub(crate) durable: bool,
    pub(crate) source: Source,
    /// Counted beforehand, for a best effort.
    pub(crate) ambiguous: Option<u64>,
}

impl Making {
    fn order(&self) -> Order {
        Order {
            format: self.format,
            whole_hash: self.sha256,
            replace: self.force,
            checkpoint: self.checkpoint,
            durable: self.durable,
            source: self.source.clone(),
        }
    }
}

/// Is an image that was made.
pub(crate) enum Made {
    File(Done),
    Passed(Hashes),
}

impl From<ImageFormat> for Format {
    fn from(format: ImageFormat) -> Self {
        match format {
            ImageFormat::Raw => Self::Raw,
            ImageFormat::Qcow2 => Self::Qcow2,
        }
    }
}

pub(crate) fn serve(arguments: &MergeArguments) -> Result<ExitCode, Failure> {
    // Everything is named, so that a new flag cannot be forgotten here.
    let MergeArguments {
        source_path,
        output,
        output_format,
        expect_size,
        sha256,
        force,
        checkpoint,
        fsync,
        dry_run,
        quiet,
        source,
    } = arguments;
    let outputs = Outputs::of(output)?;
    let mut opened = source::open(source_path, source, Verify::Fresh)?;
    let size = opened.image.size();
    if let Some(expected) = expect_size.filter(|expected| *expected != size) {
        let message = format!("the volume has {} bytes and not the {} expected", grouped(size), grouped(expected));
        return Err(Failure::new(FailureKind::Halted, message).hint(format!("ha-volume inspect {}", word(source_path))));
    }
    let work = Work::begin("merging", *quiet || outputs.format == OutputFormat::Json)?;
    let ambiguous = match opened.source.best_effort {
        _ if *dry_run => None,
        true => Some(count_ambiguous(source_path, &opened, arguments, &work)?),
        false => None,
    };
    let making = Making {
        format: (*output_format).into(),
        sha256: *sha256,
        force: *force,
        checkpoint: *checkpoint,
        durable: *fsync == Fsync::On,
        source: opened.source.clone(),
        ambiguous,
    };
    if *dry_run {
        check(&mut *opened.image, &outputs, &making, &work)?;
        work.end();
        return dry(&mut opened, &outputs);
    }
    let made = make(&mut *opened.image, &outputs, &making, &work)?;
    work.end();
    if !*quiet || outputs.format == OutputFormat::Json {
        outputs.print(&summary(&outputs, &opened, &making, &made, size))?;
    }
    Ok(code(&opened))
}

fn dry(opened: &mut Opened, outputs: &Outputs) -> Result<ExitCode, Failure> {
    let extent = merge::extent(&mut *opened.image).or_failure(FailureKind::Failed)?;
    let text = match outputs.format {
        OutputFormat::Json => json_line(&json!({
            "dry_run": true,
            "image": printable_path(&outputs.image),
            "size": opened.image.size(),
            "data_bytes_at_most": extent.data,
            "pieces": extent.pieces,
            "source": opened.source,
            "inside": opened.inside,
            "findings": opened.findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
        })),
        OutputFormat::Text => format!(
            "{} would be made: {} ({} bytes), {} of data at most in {} pieces, from {} layers\n",
            printable_path(&outputs.image),
            human_bytes(opened.image.size()),
            grouped(opened.image.size()),
            human_bytes(extent.data),
            grouped(extent.pieces),
            opened.source.chain.len(),
        ),
    };
    outputs.print(&text)?;
    Ok(code(opened))
}

/// Returns 3 for an image that is not what Longhorn would serve for sure.
fn code(opened: &Opened) -> ExitCode {
    if opened.damaged || opened.source.best_effort { ExitCode::Partial } else { ExitCode::Success }
}

/// Counts on how many blocks the two readings differ.
fn count_ambiguous(path: &Path, opened: &Opened, arguments: &MergeArguments, work: &Work) -> Result<u64, Failure> {
    let replica = source::replica(path, arguments.source.head.as_deref())?;
    let below = source::backing_image(arguments.source.backing.as_deref())?;
    let image =
        inspect::open(&replica, &opened.source.chain, below, Reading::ZerosAreHoles).or_failure(FailureKind::Failed)?;
    doctor::ambiguous(image, work).or_failure(FailureKind::Failed)
}

/// Makes an image at the place that was named.
pub(crate) fn make(image: &mut dyn Image, outputs: &Outputs, making: &Making, work: &Work) -> Result<Made, Failure> {
    let path = &outputs.image;
    let made = target(image, outputs, making).and_then(|target| match target {
        Target::Stdout => merge::to_stream(image, &mut std::io::stdout(), making.sha256, work).map(Made::Passed),
        Target::Device => merge::to_device(image, path, making.sha256, work).map(Made::Passed),
        Target::File => merge::to_file(image, path, &making.order(), work, &|_| making.ambiguous).map(Made::File),
    });
    made.map_err(|error| failure(error, path, work))
}

/// Finds out what [`make`] would halt at, and makes nothing.
pub(crate) fn check(image: &mut dyn Image, outputs: &Outputs, making: &Making, work: &Work) -> Result<(), Failure> {
    let path = &outputs.image;
    let checked = target(image, outputs, making).and_then(|target| match target {
        Target::Stdout => Ok(()),
        Target::Device => merge::check_device(image, path),
        Target::File => merge::check_file(image, path, &making.order(), work),
    });
    checked.map_err(|error| failure(error, path, work))
}

enum Target {
    Stdout,
    Device,
    File,
}

/// Tells what the image goes to.
fn target(image: &dyn Image, outputs: &Outputs, making: &Making) -> Result<Target, MergeError> {
    let raw = |target, name: &str| match making.format {
        Format::Raw => Ok(target),
        Format::Qcow2 => Err(MergeError::RawOnly { path: name.to_owned() }),
    };
    if outputs.is_stdout() {
        return raw(Target::Stdout, "stdout");
    }
    match merge::check_target(image, &outputs.image)? {
        true => raw(Target::Device, &printable_path(&outputs.image)),
        false => Ok(Target::File),
    }
}

/// Tells whether an image is made beside its name, so that a failure leaves nothing.
fn is_file(path: &Path) -> bool {
    path != Path::new("-")
        && rustix::fs::stat(path).map_or(true, |target| {
            rustix::fs::FileType::from_raw_mode(target.st_mode) == rustix::fs::FileType::RegularFile
        })
}

fn failure(error: MergeError, path: &Path, work: &Work) -> Failure {
    if matches!(error, MergeError::Stopped) {
        let failure = work.stopped_by();
        return match merge::is_taken_up(path) {
            true => failure.hint("the same command goes on where it was"),
            false => failure.hint("the same command starts over"),
        };
    }
    work.end();
    let halted = || Failure::from_error(FailureKind::Halted, &error);
    match &error {
        MergeError::Exists { .. } | MergeError::NotAsMarked { .. } => {
            halted().hint("another name, or replace it: --force")
        }
        MergeError::InReplica { .. } => halted().hint("name a directory elsewhere: -o IMAGE"),
        MergeError::NoSpace { .. } => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            halted().hint(format!("df -h {}", word(parent)))
        }
        MergeError::DeviceTooSmall { .. } => halted(),
        // What went to a stream or a device cannot be taken back: that is no halt.
        MergeError::Changed { .. } => {
            let kind = if is_file(path) { FailureKind::Halted } else { FailureKind::Failed };
            Failure::from_error(kind, &error)
                .hint("something writes to the replica: stop the volume or k3s on this node, then try again")
        }
        MergeError::TooLarge { .. } => Failure::from_error(FailureKind::Usage, &error)
            .hint("--output-format raw, or is Size in volume.meta right: ha-volume inspect DIR"),
        MergeError::NoFile { .. } | MergeError::IsSource { .. } | MergeError::RawOnly { .. } => {
            Failure::from_error(FailureKind::Usage, &error).hint("-o IMAGE, a file that is not there yet")
        }
        MergeError::Busy { .. } => Failure::from_error(FailureKind::LockHeld, &error),
        _ => Failure::from_error(FailureKind::Failed, &error),
    }
}

/// Returns the summary of an image that was made.
fn summary(outputs: &Outputs, opened: &Opened, making: &Making, made: &Made, size: u64) -> String {
    let (hashes, done) = match made {
        Made::File(done) => (
            Hashes {
                blocks_blake3: done.marker.blocks_blake3.clone(),
                sha256: done.marker.sha256.clone(),
                data_bytes: done.marker.data_bytes,
            },
            Some(done),
        ),
        Made::Passed(hashes) => (hashes.clone(), None),
    };
    let marker = done.map(|_| printable_path(&merge::marker_path(&outputs.image)));
    match outputs.format {
        OutputFormat::Json => json_line(&json!({
            "image": printable_path(&outputs.image),
            "marker": marker,
            "size": size,
            "data_bytes": hashes.data_bytes,
            "blocks_blake3": hashes.blocks_blake3,
            "sha256": hashes.sha256,
            "source": making.source,
            "best_effort": making.source.best_effort,
            "ambiguous_blocks": making.ambiguous,
            "despite_damage": opened.damaged,
            "resumed_at": done.map_or(0, |done| done.resumed_at),
            "was_there": done.is_some_and(|done| done.was_there),
            "inside": opened.inside,
            "findings": opened.findings.iter().map(Finding::to_json).collect::<Vec<Value>>(),
        })),
        OutputFormat::Text => {
            let mut lines = vec![format!(
                "{}: {} ({} bytes), {} of data, from {} layers",
                printable_path(&outputs.image),
                human_bytes(size),
                grouped(size),
                human_bytes(hashes.data_bytes),
                making.source.chain.len(),
            )];
            if let Some(sum) = &hashes.sha256 {
                lines.push(format!("sha256 {sum}"));
            }
            lines.push(format!("blocks blake3 {}", hashes.blocks_blake3));
            if let Some(done) = done.filter(|done| done.was_there || done.resumed_at > 0) {
                lines.push(match done.was_there {
                    true => "it was there already, whole".to_owned(),
                    false => format!("an earlier merge was taken up at {}", human_bytes(done.resumed_at)),
                });
            }
            if let Some(marker) = marker {
                lines.push(format!("marker {marker}"));
            }
            if let Some(blocks) = making.ambiguous {
                lines.push(format!("best effort: the two readings differ on {} blocks of 4 KiB", grouped(blocks)));
            }
            lines.push(format!("inside {}", render::inside(Some(&opened.inside))));
            lines.extend(next_step(outputs, &opened.inside));
            lines.join("\n") + "\n"
        }
    }
}

fn next_step(outputs: &Outputs, inside: &Inside) -> Option<String> {
    let image = word(&outputs.image);
    if outputs.is_stdout() {
        return None;
    }
    Some(match inside {
        Inside::Ext4 { needs_recovery: true, .. } => {
            format!(
                "next: ha-volume ls -R {image}; to mount it, first make a copy with its journal replayed: ha-volume fsck --replay {image} -o COPY"
            )
        }
        Inside::Ext4 { .. } => format!("next: ha-volume ls -R {image}, or as root: mount -o loop,ro {image} /mnt"),
        Inside::Xfs { .. } => {
            format!("next, as root: mount -o loop,nouuid {image} /mnt (it replays the log in the image)")
        }
        Inside::Btrfs { .. } => format!("next, as root: mount -o loop {image} /mnt (it replays the log in the image)"),
        Inside::Luks { .. } => format!(
            "next, as root: cryptsetup open --type luks {image} volume && mount /dev/mapper/volume /mnt (it replays the journal in the image)"
        ),
        _ => return None,
    })
}

/// Tells on stderr what a person should know before the result is trusted.
pub(crate) fn warn_of_journal(opened: &Opened) {
    if let Inside::Ext4 { needs_recovery: true, .. } = opened.inside {
        work::note("note", "the journal is not in its place yet; what it holds is read too, in memory");
    }
}
