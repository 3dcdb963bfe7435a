//! `ha-volume backupstore`.

use std::path::Path;

use ha_cli::environment::{self, Variable};
use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, json_line};
use ha_cli::table::{Align, Table};
use ha_longhorn::backupstore::{
    self, BackupConfig, BackupError, BackupImage, Compression, DirectoryStore, S3Settings, S3Store, Store, StoreError,
    WriteError, WriteOrder,
};
use ha_longhorn::checksum::Verify;
use ha_longhorn::layered::Image;
use ha_longhorn::merge::{self as merging, Source};
use ha_sync_fs::error::printable_path;
use jiff::Timestamp;
use serde_json::json;

use crate::arguments::{
    BackupListArguments, BackupRestoreArguments, BackupVerifyArguments, BackupWriteArguments, CompressionName,
};
use crate::merge::{self, Made, Making, Outputs};
use crate::source::Opened;
use crate::work::{self, Work};
use crate::{print, source, ssh};

fn open(target: &Path) -> Result<Box<dyn Store + Send>, Failure> {
    if let Some(text) = target.to_str().filter(|text| text.starts_with("s3://")) {
        return object_store(text);
    }
    if ssh::is_remote(target.as_os_str()) {
        let message = format!("a backup target is not reached through ssh: {}", printable_path(target));
        return Err(Failure::new(FailureKind::Usage, message)
            .hint("a directory, such as an NFS mount, or s3://BUCKET@REGION/PREFIX/"));
    }
    if !ha_sync_fs::local::is_directory(&ha_sync_fs::local::canonical(target)) {
        let message = format!("the backup target is no directory: {}", printable_path(target));
        return Err(Failure::new(FailureKind::Failed, message).hint("is it mounted: findmnt"));
    }
    Ok(Box::new(DirectoryStore::new(target.to_owned())))
}

fn object_store(target: &str) -> Result<Box<dyn Store + Send>, Failure> {
    let text = |variable: Variable| variable.get().map(|value| value.to_string_lossy().into_owned());
    let needed = |variable: Variable| {
        text(variable).ok_or_else(|| {
            Failure::new(FailureKind::Usage, format!("{} is not set, and a target in S3 needs it", variable.name)).hint(
                "the values are in the secret of Longhorn's backup target: kubectl -n longhorn-system get secrets",
            )
        })
    };
    let settings = S3Settings::parse(target).ok_or_else(|| {
        Failure::new(FailureKind::Usage, format!("not a target in S3: {target}"))
            .hint("like s3://backups@eu-central-1/")
    })?;
    let settings = S3Settings {
        endpoint: text(environment::AWS_ENDPOINTS),
        access_key: needed(environment::AWS_ACCESS_KEY_ID)?,
        secret_key: needed(environment::AWS_SECRET_ACCESS_KEY)?,
        certificates: text(environment::AWS_CERT),
        virtual_hosted: match text(environment::VIRTUAL_HOSTED_STYLE).as_deref() {
            Some("true") => true,
            None | Some("false") => false,
            Some(other) => {
                let name = environment::VIRTUAL_HOSTED_STYLE.name;
                return Err(Failure::new(FailureKind::Usage, format!("{name} is neither true nor false: {other}")));
            }
        },
        ..settings
    };
    Ok(Box::new(S3Store::new(settings, Timestamp::now).or_failure(FailureKind::Usage)?))
}

fn failure(error: &BackupError) -> Failure {
    match error {
        BackupError::Locked { .. } => Failure::from_error(FailureKind::LockHeld, error)
            .hint(format!(
                "the lock of a process that has ended expires {} s after it was written",
                backupstore::LOCK_EXPIRY
            ))
            .hint("when no Longhorn uses this store any more: --ignore-locks"),
        BackupError::Store(error) => store_failure(error),
        BackupError::Name(_)
        | BackupError::NotRestorable(_)
        | BackupError::Compression { .. }
        | BackupError::Size { .. } => Failure::from_error(FailureKind::Usage, error),
        BackupError::Exists { .. } => Failure::from_error(FailureKind::Halted, error).hint("another name: --name NAME"),
        BackupError::Unfinished { .. } | BackupError::Misfit { .. } => Failure::from_error(FailureKind::Halted, error),
        BackupError::Missing { .. } => {
            Failure::from_error(FailureKind::Failed, error).hint("ha-volume backupstore ls --target DIR")
        }
        _ => Failure::from_error(FailureKind::Failed, error),
    }
}

fn store_failure(error: &StoreError) -> Failure {
    let failure = Failure::from_error(FailureKind::Failed, error);
    match error {
        StoreError::Refused { code, .. } => match code.as_str() {
            "SignatureDoesNotMatch" | "InvalidAccessKeyId" => {
                failure.hint("the keys, in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the region, behind the @")
            }
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => {
                failure.hint("the region of the bucket goes behind the @ of the target")
            }
            "AccessDenied" => failure.hint("these keys may not do that in this bucket; listing takes s3:ListBucket"),
            "NoSuchBucket" => failure.hint(
                "s3://BUCKET@REGION/PREFIX/; VIRTUAL_HOSTED_STYLE=true for a store that wants the bucket in the host",
            ),
            "RequestTimeTooSkewed" => failure.hint("the clock of this machine is wrong: timedatectl"),
            _ => failure,
        },
        StoreError::Transport { .. } => {
            failure.hint("AWS_ENDPOINTS for a store that is not AWS, AWS_CERT for a certificate of its own")
        }
        StoreError::Odd { .. } => failure.hint("is AWS_ENDPOINTS the address of the store itself"),
        StoreError::File(_) | StoreError::Settings(_) => failure,
    }
}

pub(crate) fn list(arguments: &BackupListArguments) -> Result<ExitCode, Failure> {
    let store = open(&arguments.target.target)?;
    let volumes = match &arguments.volume {
        Some(volume) => vec![volume.clone()],
        None => backupstore::volumes(&store).map_err(|error| failure(&error))?,
    };
    let (mut listed, mut unusable) = (Vec::new(), false);
    let mut table = Table::new([Align::Left, Align::Left, Align::Right, Align::Left, Align::Left, Align::Left]);
    table.row(["volume", "backup", "data", "finished", "snapshot", "packed"]);
    for name in &volumes {
        let config = match backupstore::volume(&store, name) {
            Ok(config) => config,
            // The backups may be sound, and the other volumes too.
            Err(error @ BackupError::Config { .. }) => {
                work::note("warning", &failure(&error).one_line());
                unusable = true;
                None
            }
            Err(error) => return Err(failure(&error)),
        };
        if config.is_none() && !unusable && arguments.volume.is_some() {
            let path = backupstore::volume_path(name);
            return Err(failure(&BackupError::Missing { path }));
        }
        let mut backups = Vec::new();
        for backup in backupstore::backups(&store, name).map_err(|error| failure(&error))? {
            match backupstore::backup(&store, name, &backup) {
                Ok(config) => {
                    let finished = if config.created.is_empty() { "NEVER" } else { &config.created };
                    table.row([
                        name.clone(),
                        backup,
                        human_bytes(config.blocks.len() as u64 * config.block_size),
                        finished.to_owned(),
                        config.snapshot.clone(),
                        config.compression.name().to_owned(),
                    ]);
                    backups.push(json!(config));
                }
                Err(error) => {
                    work::note("warning", &failure(&error).one_line());
                    unusable = true;
                }
            }
        }
        listed.push(json!({
            "name": name,
            "size": config.as_ref().map(|config| config.size),
            "last_backup": config.as_ref().map(|config| &config.last_backup),
            "block_count": config.as_ref().map(|config| config.block_count),
            "backing_image": config.as_ref().map(|config| &config.backing_image).filter(|name| !name.is_empty()),
            "backups": backups,
        }));
    }
    match arguments.output.output {
        OutputFormat::Json => print(&json_line(&json!({"target": store.place(), "volumes": listed})))?,
        OutputFormat::Text => {
            let mut text = Vec::new();
            table.write(&mut text).or_failure(FailureKind::Failed)?;
            print(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(if unusable { ExitCode::Partial } else { ExitCode::Success })
}

pub(crate) fn verify(arguments: &BackupVerifyArguments) -> Result<ExitCode, Failure> {
    let store = open(&arguments.target.target)?;
    let volume = &arguments.volume;
    let names = match &arguments.backup {
        Some(name) => vec![name.clone()],
        None => backupstore::backups(&store, volume).map_err(|error| failure(&error))?,
    };
    if names.is_empty() {
        return Err(failure(&BackupError::Missing { path: backupstore::volume_path(volume) }));
    }
    let json = arguments.output.output == OutputFormat::Json;
    let work = Work::begin("verifying", json)?;
    let (mut answers, mut text, mut sound) = (Vec::new(), String::new(), true);
    for name in names {
        let config = match backupstore::backup(&store, volume, &name) {
            Ok(config) => config,
            Err(error) if arguments.backup.is_none() => {
                let line = failure(&error).one_line();
                text.push_str(&format!("{name}: {line}\n"));
                answers.push(json!({"backup": name, "finished": null, "faults": [line]}));
                sound = false;
                continue;
            }
            Err(error) => return Err(failure(&error)),
        };
        let verified = match backupstore::verify(&store, volume, &config, &work) {
            Err(BackupError::Stopped) => return Err(work.stopped_by()),
            other => other.map_err(|error| failure(&error))?,
        };
        let finished = !config.created.is_empty();
        sound &= verified.faults.is_empty() && finished;
        let state = match (finished, verified.faults.len()) {
            (false, _) => "never finished".to_owned(),
            (true, 0) => "sound".to_owned(),
            (true, 1) => "damaged, 1 fault".to_owned(),
            (true, faults) => format!("damaged, {} faults", grouped(faults as u64)),
        };
        text.push_str(&format!(
            "{name}: {state}, {} blocks read, {}\n",
            grouped(verified.blocks),
            human_bytes(verified.bytes)
        ));
        for fault in &verified.faults {
            text.push_str(&format!("  {fault}\n"));
        }
        answers.push(json!({
            "backup": name, "finished": finished, "blocks": verified.blocks, "bytes": verified.bytes,
            "faults": verified.faults,
        }));
    }
    work.end();
    match json {
        true => print(&json_line(&json!({"volume": volume, "sound": sound, "backups": answers})))?,
        false => print(&text)?,
    }
    Ok(if sound { ExitCode::Success } else { ExitCode::Partial })
}

pub(crate) fn restore(arguments: &BackupRestoreArguments) -> Result<ExitCode, Failure> {
    let BackupRestoreArguments { volume, backup, output, output_format, sha256, force, dry_run, target } = arguments;
    let outputs = Outputs::of(output)?;
    let store = open(&target.target)?;
    let known = backupstore::volume(&store, volume)
        .map_err(|error| failure(&error))?
        .ok_or_else(|| failure(&BackupError::Missing { path: backupstore::volume_path(volume) }))?;
    let name = match backup {
        Some(name) => name.clone(),
        None if known.last_backup.is_empty() => {
            let names = backupstore::backups(&store, volume).map_err(|error| failure(&error))?;
            let message = format!("the store does not say which backup of the volume is the last: {volume}");
            let failure = Failure::new(FailureKind::Halted, message);
            return Err(match names.is_empty() {
                true => failure.hint("there is none"),
                false => failure.hint(format!("name one, restore {volume} BACKUP: {}", names.join(", "))),
            });
        }
        None => known.last_backup.clone(),
    };
    if !known.backing_image.is_empty() {
        let message =
            format!("the volume lies on a backing image, which the backup does not hold: {}", known.backing_image);
        return Err(Failure::new(FailureKind::Halted, message)
            .hint("only Longhorn can restore it: a new volume with spec.fromBackup"));
    }
    let config: BackupConfig = backupstore::backup(&store, volume, &name).map_err(|error| failure(&error))?;
    let sum = backupstore::block_name(&config.to_bytes());
    let created = config.created.clone();
    let place = store.place();
    let mut image = BackupImage::new(store, volume, config, known.size).map_err(|error| failure(&error))?;
    let making = Making {
        format: (*output_format).into(),
        sha256: *sha256,
        force: *force,
        checkpoint: merge::CHECKPOINT,
        durable: true,
        source: Source {
            directory: format!("{place}: backup {name} of {volume}"),
            chain: Vec::new(),
            backing: None,
            best_effort: false,
            despite_damage: false,
            fingerprint: sum,
        },
        ambiguous: None,
    };
    let work = Work::begin("restoring", outputs.format == OutputFormat::Json)?;
    if *dry_run {
        merge::check(&mut image, &outputs, &making, &work)?;
        work.end();
        return dry_restore(&mut image, &outputs, volume, &name, &created);
    }
    let made = merge::make(&mut image, &outputs, &making, &work)?;
    work.end();
    let (blocks_blake3, whole) = match &made {
        Made::File(done) => (&done.marker.blocks_blake3, &done.marker.sha256),
        Made::Passed(hashes) => (&hashes.blocks_blake3, &hashes.sha256),
    };
    outputs.print(&match outputs.format {
        OutputFormat::Json => json_line(&json!({
            "image": printable_path(&outputs.image), "volume": volume, "backup": name, "size": image.size(),
            "blocks_blake3": blocks_blake3, "sha256": whole, "finished": created,
        })),
        OutputFormat::Text => format!(
            "{}: {} ({} bytes), backup {name} of {volume}, finished {created}\nblocks blake3 {blocks_blake3}\n",
            printable_path(&outputs.image),
            human_bytes(image.size()),
            grouped(image.size()),
        ),
    })?;
    Ok(ExitCode::Success)
}

/// Says what a backup would be restored to. Its blocks are not read.
fn dry_restore(
    image: &mut dyn Image,
    outputs: &Outputs,
    volume: &str,
    name: &str,
    created: &str,
) -> Result<ExitCode, Failure> {
    let extent = merging::extent(image).or_failure(FailureKind::Failed)?;
    let shown = printable_path(&outputs.image);
    outputs.print(&match outputs.format {
        OutputFormat::Json => json_line(&json!({
            "dry_run": true, "image": shown, "volume": volume, "backup": name, "size": image.size(),
            "data_bytes_at_most": extent.data, "pieces": extent.pieces, "finished": created,
        })),
        OutputFormat::Text => format!(
            "{shown} would be made: {} ({} bytes), {} of data at most, backup {name} of {volume}, finished {created}\n",
            human_bytes(image.size()),
            grouped(image.size()),
            human_bytes(extent.data),
        ),
    })?;
    Ok(ExitCode::Success)
}

pub(crate) fn write(arguments: &BackupWriteArguments) -> Result<ExitCode, Failure> {
    let store = open(&arguments.target.target)?;
    if !arguments.target.target.as_os_str().as_encoded_bytes().starts_with(b"s3://") {
        source::outside_replicas(&arguments.target.target)?;
    }
    let mut opened = source::open(&arguments.path, &arguments.source, Verify::Fresh)?;
    if ![backupstore::BLOCK_SIZE, backupstore::LARGE_BLOCK_SIZE].contains(&arguments.block_size) {
        return Err(Failure::new(FailureKind::Usage, "a block of a backup has 2MiB or 16MiB"));
    }
    let known = backupstore::volume(&store, &arguments.volume).map_err(|error| failure(&error))?;
    let compression = match (arguments.compression, &known) {
        (Some(CompressionName::Lz4), _) => Compression::Lz4,
        (Some(CompressionName::Gzip), _) => Compression::Gzip,
        (Some(CompressionName::None), _) => Compression::None,
        (None, Some(known)) => [Compression::Lz4, Compression::Gzip, Compression::None]
            .into_iter()
            .find(|compression| known.is_packed_with(*compression))
            .unwrap_or(Compression::Lz4),
        (None, None) => Compression::Lz4,
    };
    let now = format!("{:.0}", Timestamp::now());
    let random = random()?;
    let name = arguments.name.clone().unwrap_or_else(|| format!("backup-{random}"));
    // Longhorn builds its next backup on the last one whose snapshot it still has, so nothing but the very content of a
    // snapshot may have its name.
    let exact = !opened.damaged && !opened.source.best_effort;
    let snapshot = arguments.source.snapshot.clone().filter(|_| exact);
    let order = WriteOrder {
        volume: arguments.volume.clone(),
        name: name.clone(),
        snapshot: snapshot.unwrap_or_else(|| format!("ha-volume-{random}")),
        now: now.clone(),
        snapshot_created: now,
        labels: arguments.label.iter().cloned().collect(),
        compression,
        block_size: arguments.block_size,
        lock: format!("lock-{random}"),
        ignore_locks: arguments.ignore_locks,
        lock_renewal: backupstore::LOCK_RENEWAL,
    };
    warn_of_space(&arguments.target.target, &mut *opened.image)?;
    let json = arguments.output.output == OutputFormat::Json;
    if arguments.dry_run {
        return dry_write(&store, &mut opened, &order, arguments.name.as_deref(), json);
    }
    let work = Work::begin("writing", json)?;
    let written = backupstore::write(&store, &mut *opened.image, &order, &work).map_err(|error| match &error {
        WriteError::Backup(BackupError::Stopped) => work.stopped_by(),
        error => not_written(error),
    })?;
    work.end();
    for lock in &written.expired_locks {
        work::note("warning", &format!("looked past a lock that has expired: {lock}"));
    }
    let url = format!("TARGET?backup={name}&volume={}", arguments.volume);
    match json {
        true => print(&json_line(&json!({
            "volume": arguments.volume, "backup": name, "written": written, "url": url,
            "despite_damage": opened.damaged, "best_effort": opened.source.best_effort,
        })))?,
        false => print(&format!(
            "{}: {} blocks, {} new, {} written\nnext, a new volume with spec.fromBackup: {url} (TARGET as Longhorn calls it, like nfs://host:/path)\n",
            written.path,
            grouped(written.blocks),
            grouped(written.new_blocks),
            human_bytes(written.uploaded),
        ))?,
    }
    Ok(if opened.damaged || opened.source.best_effort { ExitCode::Partial } else { ExitCode::Success })
}

fn not_written(error: &WriteError) -> Failure {
    match error {
        WriteError::Backup(cause) => failure(cause),
        WriteError::Changed(_) => Failure::from_error(FailureKind::Halted, error),
        WriteError::Read(_) => Failure::from_error(FailureKind::Failed, error),
    }
}

/// Says what backup would be written. Without a name of one's own it would have another each time, so none is told.
fn dry_write(
    store: &dyn Store,
    opened: &mut Opened,
    order: &WriteOrder,
    name: Option<&str>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let now = Timestamp::now().as_second();
    let planned = backupstore::check(store, &mut *opened.image, order, now).map_err(|error| not_written(&error))?;
    let data = merging::extent(&mut *opened.image).or_failure(FailureKind::Failed)?.data;
    for lock in &planned.expired_locks {
        work::note("warning", &format!("would look past a lock that has expired: {lock}"));
    }
    let (volume, packing) = (&order.volume, order.compression.name());
    print(&match json {
        true => json_line(&json!({
            "dry_run": true, "volume": volume, "new_volume": planned.new_volume, "backup": name,
            "path": name.map(|_| &planned.path), "size": planned.size, "blocks_at_most": planned.blocks_at_most,
            "block_size": order.block_size, "data_bytes_at_most": data, "compression": packing,
            "expired_locks": planned.expired_locks, "despite_damage": opened.damaged,
            "best_effort": opened.source.best_effort,
        })),
        false => format!(
            "{} of {} volume {volume} would be made: {} blocks at most, {} of data before packing, packing {packing}\n",
            name.map_or("a backup".to_owned(), |name| format!("backup {name}")),
            if planned.new_volume { "the new" } else { "the" },
            grouped(planned.blocks_at_most),
            human_bytes(data),
        ),
    })?;
    Ok(if opened.damaged || opened.source.best_effort { ExitCode::Partial } else { ExitCode::Success })
}

/// Warns where the data may not fit. How much of them the store has already, and how small the rest is when it is packed,
/// is known at the end only.
fn warn_of_space(target: &Path, image: &mut dyn Image) -> Result<(), Failure> {
    let Ok(statistics) = rustix::fs::statvfs(target) else { return Ok(()) };
    let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
    let data = merging::extent(image).or_failure(FailureKind::Failed)?.data;
    if data > free {
        let (data, free) = (human_bytes(data), human_bytes(free));
        work::note(
            "warning",
            &format!("it may not fit: {data} before packing, {free} free at {}", printable_path(target)),
        );
    }
    Ok(())
}

/// Returns 16 random hexadecimal digits, as Longhorn names its backups.
fn random() -> Result<String, Failure> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .or_failure(FailureKind::Failed)
        .map_err(|failure| failure.context("failed to make a name"))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}
