//! Opens what a person names: a replica directory, an image, a device. A replica that is damaged halts here, unless
//! it was said to go on.

use std::path::{Path, PathBuf};

use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_longhorn::backing;
use ha_longhorn::chain::ChainError;
use ha_longhorn::checksum::{Verdict, Verify};
use ha_longhorn::doctor;
use ha_longhorn::finding::{Finding, Severity};
use ha_longhorn::inside::{self, Inside};
use ha_longhorn::inspect::{self, LayerReport};
use ha_longhorn::layered::{self, Image, ImageError, Layered, Reading};
use ha_longhorn::merge::{self, Source};
use ha_longhorn::qcow2::Qcow2Error;
use ha_longhorn::replica::Replica;
use ha_longhorn::source::Stamp;
use ha_longhorn::watch::Unwatched;
use ha_sync_fs::error::printable_path;

use crate::arguments::SourceArguments;
use crate::{ssh, work};

/// Is an opened source.
pub(crate) struct Opened {
    pub(crate) image: Box<dyn Image>,
    pub(crate) source: Source,
    /// What is odd about a replica.
    pub(crate) findings: Vec<Finding>,
    /// Whether it is read in spite of damage.
    pub(crate) damaged: bool,
    pub(crate) inside: Inside,
}

/// Halts where a file that was read is not what it was when it was opened.
pub(crate) fn unchanged(stamps: &[(PathBuf, Stamp)]) -> Result<(), Failure> {
    match layered::changed_since(stamps).or_failure(FailureKind::Failed)? {
        None => Ok(()),
        Some(file) => Err(Failure::new(FailureKind::Halted, format!("changed while it was read: {file}"))
            .hint("something writes to the replica: stop the volume or k3s on this node, then try again")),
    }
}

/// Writes a path as an argument of a command to type.
pub(crate) fn word(path: &Path) -> String {
    word_of(&printable_path(path))
}

/// Writes a path that is printable already as an argument. Its escapes are those that a shell reads in `$'…'`.
pub(crate) fn word_of(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./+:@".contains(&byte);
    if text.bytes().all(plain) && !text.is_empty() {
        text.to_owned()
    } else if text.contains('\\') {
        format!("$'{}'", text.replace('\'', r"\'"))
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Refuses what lies on another host, where only replicas are found and copied from.
fn here(path: &Path) -> Result<(), Failure> {
    if !ssh::is_remote(path.as_os_str()) {
        return Ok(());
    }
    let message = format!("on another host, where only scan and copy read: {}", printable_path(path));
    Err(Failure::new(FailureKind::Usage, message)
        .hint(format!("ha-volume copy {} COPY, then the same with COPY", word(path))))
}

/// Refuses what would be written on another host.
pub(crate) fn written_here(path: &Path) -> Result<(), Failure> {
    if !ssh::is_remote(path.as_os_str()) {
        return Ok(());
    }
    let message = format!("on another host, where nothing is written: {}", printable_path(path));
    Err(Failure::new(FailureKind::Usage, message).hint("name a place here, and send it on from there"))
}

/// Halts where something would be written into a replica directory.
pub(crate) fn outside_replicas(path: &Path) -> Result<(), Failure> {
    written_here(path)?;
    let Some(replica) = Replica::around(path) else { return Ok(()) };
    let message =
        format!("it would lie in a replica directory, into which nothing is written: {}", printable_path(&replica));
    Err(Failure::new(FailureKind::Halted, message).hint("name a place elsewhere"))
}

/// Opens a replica directory, or says why it cannot be.
pub(crate) fn replica(path: &Path, head: Option<&str>) -> Result<Replica, Failure> {
    here(path)?;
    let failed = |failure: Failure| failure.hint("ha-volume scan");
    let replica = Replica::open(path, head).or_failure(FailureKind::Failed).map_err(failed)?;
    if replica.layers.is_empty() && replica.meta.is_none() {
        let failure = Failure::new(FailureKind::Usage, format!("not a replica directory: {}", printable_path(path)));
        return Err(failed(failure));
    }
    Ok(replica)
}

/// Opens a backing image.
pub(crate) fn backing_image(path: Option<&Path>) -> Result<Option<Box<dyn Image>>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let image = backing::open(path).map_err(unreadable)?;
    if image.size() == 0 {
        let message = format!("the backing image is empty: {}", printable_path(path));
        return Err(Failure::new(FailureKind::Failed, message).hint("was it copied whole: sha256sum"));
    }
    Ok(Some(image))
}

/// Says why an image cannot be opened, and what reads it instead.
fn unreadable(error: ImageError) -> Failure {
    let failure = Failure::from_error(FailureKind::Failed, &error);
    match error {
        ImageError::Qcow2(Qcow2Error::Unsupported { .. }) => {
            failure.hint("make a raw image of it: qemu-img convert -O raw FILE image.raw")
        }
        _ => failure,
    }
}

/// Tells whether a source is a directory, and so a replica.
pub(crate) fn is_directory(path: &Path) -> bool {
    ha_sync_fs::local::is_directory(&ha_sync_fs::local::canonical(path))
}

/// Opens a source for reading. `verify` says which checksums are verified first: where all is read anyway, those that
/// can be wrong.
pub(crate) fn open(path: &Path, arguments: &SourceArguments, verify: Verify) -> Result<Opened, Failure> {
    here(path)?;
    if is_directory(path) {
        return open_replica(path, arguments, verify);
    }
    for (given, flag) in [
        (arguments.snapshot.is_some(), "--snapshot"),
        (arguments.backing.is_some(), "--backing"),
        (arguments.head.is_some(), "--head"),
        (arguments.zeros_are_holes, "--zeros-are-holes"),
    ] {
        if given {
            let message = format!("{flag} is for replica directories, and this is a file: {}", printable_path(path));
            return Err(Failure::new(FailureKind::Usage, message));
        }
    }
    let mut image = backing::open(path).map_err(unreadable)?;
    let inside = inside::of_image(&mut *image).or_failure(FailureKind::Failed)?;
    if inside == Inside::Spdk {
        return Err(declined(path));
    }
    let source = Source {
        directory: printable_path(path),
        chain: Vec::new(),
        backing: None,
        best_effort: false,
        despite_damage: false,
        fingerprint: merge::fingerprint(&*image, "image"),
    };
    Ok(Opened { image, source, findings: Vec::new(), damaged: false, inside })
}

/// Says that a disk of the v2 engine is not for this program.
pub(crate) fn declined(path: &Path) -> Failure {
    Failure::new(
        FailureKind::Halted,
        format!("a disk of the v2 engine, whose format is another: {}", printable_path(path)),
    )
    .hint("only Longhorn itself can read it: start the cluster and attach the volume, or restore a backup")
    .hint("ha-volume backupstore ls --target DIR")
}

fn open_replica(path: &Path, arguments: &SourceArguments, verify: Verify) -> Result<Opened, Failure> {
    let replica = replica(path, arguments.head.as_deref())?;
    let chain = replica.chain_from(arguments.snapshot.as_deref()).map_err(|error| broken(path, &replica, &error))?;
    let backing = needed_backing(path, &replica, arguments)?;
    let reading = if arguments.zeros_are_holes { Reading::ZerosAreHoles } else { Reading::Exact };
    let below = backing_image(arguments.backing.as_deref())?;
    let mut report = inspect::report(&replica, below, verify, &Unwatched).or_failure(FailureKind::Failed)?;
    let backed = backing.is_some();
    let layered: Layered = inspect::open(&replica, &chain, backing, reading).or_failure(FailureKind::Failed)?;
    let mut image: Box<dyn Image> = Box::new(layered);
    let inside = inside::of_image(&mut *image).or_failure(FailureKind::Failed)?;
    let odd = doctor::sparsified(&replica, &chain, backed, Some(&inside), u64::MAX, &Unwatched);
    report.add(odd.or_failure(FailureKind::Failed)?);
    let densified = |finding: &Finding| matches!(finding, Finding::Densified { .. });
    if arguments.zeros_are_holes && !arguments.despite_damage && !report.findings.iter().any(densified) {
        let message = format!("no layer hides all below it, so blocks of zeros are data: {}", printable_path(path));
        return Err(Failure::new(FailureKind::Halted, message)
            .hint(format!("without --zeros-are-holes; what copying did to it says: ha-volume doctor {}", word(path)))
            .hint("to take them for holes all the same: --despite-damage"));
    }
    let unchecked = |layer: &&LayerReport| layer.checksum == Verdict::Unchecked && chain.contains(&layer.name);
    let layers: Vec<String> = report.layers.iter().filter(unchecked).map(|layer| layer.name.clone()).collect();
    if !layers.is_empty() {
        report.findings.push(Finding::ChecksumsUnchecked { layers });
    }
    let damage = damage(&report.findings, &chain, arguments);
    if !damage.is_empty() && !arguments.despite_damage {
        let text: Vec<String> = damage.iter().map(ToString::to_string).collect();
        let mut failure = Failure::new(FailureKind::Halted, text.join("; "))
            .context(format!("the replica is damaged: {}", printable_path(path)))
            .with("findings", report.findings.iter().map(Finding::to_json).collect());
        let densified = damage.iter().any(|finding| matches!(finding, Finding::Densified { .. }));
        if densified {
            failure = failure.hint(format!("ha-volume doctor --best-effort {}", word(path)));
        } else if damage.contains(&&Finding::Sparsified) {
            failure = failure.hint(format!("ha-volume doctor {}", word(path)));
        }
        return Err(failure
            .hint("is there a better replica: ha-volume scan")
            .hint("to go on all the same: --despite-damage"));
    }
    let damaged = !damage.is_empty();
    let backing_name = arguments.backing.as_deref().map(printable_path);
    let source = Source {
        directory: printable_path(path),
        fingerprint: merge::fingerprint(&*image, &format!("{reading:?}")),
        chain,
        backing: backing_name,
        best_effort: arguments.zeros_are_holes,
        despite_damage: damaged,
    };
    for finding in report.findings.iter().filter(|finding| finding.severity() >= Severity::Warning) {
        work::note("warning", &finding.to_string());
    }
    Ok(Opened { image, source, findings: report.findings, damaged, inside })
}

/// Returns what halts.
fn damage<'a>(findings: &'a [Finding], chain: &[String], arguments: &SourceArguments) -> Vec<&'a Finding> {
    let halts = |finding: &&Finding| match finding {
        // The chain that is read is resolved; of a snapshot it is another.
        Finding::ChainBroken { .. } => false,
        // The other reading is there for it.
        Finding::Densified { .. } => !arguments.zeros_are_holes,
        Finding::ChecksumWrong { layer, .. } => chain.contains(layer),
        other => other.severity() == Severity::Damage,
    };
    findings.iter().filter(halts).collect()
}

fn broken(path: &Path, replica: &Replica, error: &ChainError) -> Failure {
    let failure = Failure::from_error(FailureKind::Failed, error)
        .with("findings", replica.findings.iter().map(Finding::to_json).collect())
        .context(format!("the layers of the replica do not hang together: {}", printable_path(path)));
    match error {
        ChainError::NoSnapshot(_) => {
            let names: Vec<&str> = replica.snapshots().collect();
            Failure::new(FailureKind::Usage, error.to_string()).hint(format!("its snapshots: {}", names.join(", ")))
        }
        ChainError::NoImage(missing) if missing.starts_with("volume-head-") => {
            let mut heads = replica.layers.keys().filter(|name| name.starts_with("volume-head-"));
            match (heads.next(), heads.next()) {
                (Some(only), None) => {
                    failure.hint(format!("another live layer is there: --head {}", word(Path::new(only))))
                }
                _ => failure.hint("is there a better replica: ha-volume scan"),
            }
        }
        ChainError::ManyHeads(heads) => failure.hint(format!("name the live layer: --head {}", heads[0])),
        _ => {
            failure.hint(format!("ha-volume inspect {}", word(path))).hint("is there a better replica: ha-volume scan")
        }
    }
}

fn needed_backing(
    path: &Path,
    replica: &Replica,
    arguments: &SourceArguments,
) -> Result<Option<Box<dyn Image>>, Failure> {
    match (replica.backing_path(), &arguments.backing) {
        // Without volume.meta a person may know.
        (None, Some(_)) if replica.meta.is_some() => Err(Failure::new(
            FailureKind::Usage,
            format!("--backing is given, and the volume has no backing image: {}", printable_path(path)),
        )
        .hint("leave --backing out")),
        (Some(there), None) => Err(Failure::new(
            FailureKind::Halted,
            format!("a backing image lies under the volume, and none is given: {}", printable_path(path)),
        )
        .hint(format!("on the node it was {there}: --backing FILE"))),
        (_, given) => backing_image(given.as_deref()),
    }
}

/// Halts unless the content is ext4, with what to do instead.
pub(crate) fn need_ext4(path: &Path, opened: &Opened) -> Result<(), Failure> {
    let halted = |message: String| Failure::new(FailureKind::Halted, message);
    let shown = printable_path(path);
    let image = "merge it, then as root";
    Err(match &opened.inside {
        Inside::Ext4 { .. } => return Ok(()),
        Inside::Luks { version } => halted(format!("the volume is encrypted (LUKS{version}): {shown}"))
            .hint(format!("ha-volume merge {} -o volume.img", word(path)))
            .hint("cryptsetup open --type luks volume.img volume && mount /dev/mapper/volume /mnt (it replays the journal)")
            .hint("the passphrase is in the secret that the StorageClass names: CRYPTO_KEY_VALUE"),
        Inside::Xfs { .. } => halted(format!("xfs inside, which only the kernel reads: {shown}"))
            .hint(format!("{image}: mount -o loop,nouuid volume.img /mnt (a copy: it replays the log)")),
        Inside::Btrfs { .. } => halted(format!("btrfs inside, which only the kernel reads: {shown}"))
            .hint(format!("{image}: mount -o loop volume.img /mnt (a copy: it replays the log)")),
        Inside::Partitions => halted(format!("a partition table inside: {shown}"))
            .hint(format!("{image}: losetup --find --show --partscan volume.img")),
        Inside::Empty => {
            let failure = halted(format!("no file system inside, only zeros at its beginning: {shown}"));
            match is_directory(path) {
                true => failure.hint(format!("ha-volume inspect {}", word(path))),
                false => failure.hint("is it the right image, and is its beginning there: ha-volume compare"),
            }
        }
        Inside::Spdk => declined(path),
        Inside::Unknown => {
            halted(format!("no known file system inside: {shown}")).hint("file -s volume.img, after merging it")
        }
    })
}
