//! The command line, as clap sees it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use ha_cli::summary::OutputFormat;
use ha_cli::value::{self, Amount, ValueError};
use jiff::Timestamp;

const EXAMPLES: &str = "\
Examples, in the order of a bad night:
  What is left on this node, and on two others:
    ha-volume scan
    ha-volume scan ssh://pi2/var/lib/longhorn ssh://pi3/var/lib/longhorn --before 2026-04-12T03:10:00Z

  Look at one replica, and at how it was copied:
    ha-volume inspect /var/lib/longhorn/replicas/pvc-1234-0a1b2c3d
    ha-volume doctor /mnt/copy/pvc-1234-0a1b2c3d

  Look at files without merging, then make the image:
    ha-volume ls -R /var/lib/longhorn/replicas/pvc-1234-0a1b2c3d
    ha-volume merge /var/lib/longhorn/replicas/pvc-1234-0a1b2c3d -o /mnt/big/pvc-1234.img

  Hand the volume to Longhorn's backup target:
    ha-volume backupstore write /mnt/big/pvc-1234.img --target /mnt/backups --volume pvc-1234

Nothing is ever written into a replica directory.

Exit codes: 0 success, 1 failed, 2 bad usage, 3 done in spite of damage or in part, 4 another
process makes the image or has the lock, 5 halted by a safety rule, 130 and 143 interrupted.";

const OUTPUT: &str = "Output";
const SOURCE: &str = "How the source is read";

/// Finds, judges and merges Longhorn replicas, and gives their data back.
///
/// Works on a node or on copied replica directories, offline, and never writes into one. Volumes of the v1 engine only.
#[derive(Debug, Parser)]
#[command(
    name = "ha-volume",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_help_heading = "Commands",
    after_help = "--help shows examples.",
    after_long_help = EXAMPLES
)]
pub(crate) struct Definition {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Scan(ScanArguments),
    Inspect(InspectArguments),
    Compare(CompareArguments),
    Merge(Box<MergeArguments>),
    Copy(CopyArguments),
    Doctor(DoctorArguments),
    Ls(ListArguments),
    Cat(CatArguments),
    Extract(ExtractArguments),
    Fsck(Box<FsckArguments>),
    Backupstore(BackupstoreArguments),
    Completions(CompletionsArguments),
    Man(ManArguments),
    #[command(hide = true)]
    Send(SendArguments),
}

impl Command {
    /// Tells whether the answer goes to stdout as JSON.
    pub(crate) fn answers_json(&self) -> bool {
        let form = |output: &OutputArguments| output.output == OutputFormat::Json;
        // With an image on stdout there is no room for it.
        let named = |output: &[PathBuf]| {
            let has = |word: &str| output.iter().any(|path| path.as_os_str() == word);
            has("json") && !has("-")
        };
        match self {
            Self::Scan(ScanArguments { output, .. })
            | Self::Inspect(InspectArguments { output, .. })
            | Self::Compare(CompareArguments { output, .. })
            | Self::Copy(CopyArguments { output, .. })
            | Self::Doctor(DoctorArguments { output, .. })
            | Self::Ls(ListArguments { output, .. })
            | Self::Extract(ExtractArguments { output, .. }) => form(output),
            Self::Merge(arguments) => named(&arguments.output),
            Self::Fsck(arguments) => named(&arguments.output),
            Self::Backupstore(arguments) => match &arguments.command {
                BackupCommand::Ls(arguments) => form(&arguments.output),
                BackupCommand::Verify(arguments) => form(&arguments.output),
                BackupCommand::Write(arguments) => form(&arguments.output),
                BackupCommand::Restore(arguments) => named(&arguments.output),
            },
            Self::Cat(_) | Self::Completions(_) | Self::Man(_) | Self::Send(_) => false,
        }
    }
}

/// The form of stdout.
#[derive(Debug, Args)]
pub(crate) struct OutputArguments {
    /// Form of stdout
    #[arg(short, long, value_name = "FORMAT", default_value = "text", help_heading = OUTPUT)]
    pub(crate) output: OutputFormat,
}

/// How a replica or an image is read.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArguments {
    /// State of this snapshot instead of the live one
    #[arg(long, value_name = "NAME", help_heading = SOURCE)]
    pub(crate) snapshot: Option<String>,
    /// Backing image that lies under the volume, raw or qcow2
    #[arg(long, value_name = "FILE", help_heading = SOURCE, value_hint = ValueHint::FilePath)]
    pub(crate) backing: Option<PathBuf>,
    /// Live layer, where the directory does not tell which it is
    #[arg(long, value_name = "FILE", help_heading = SOURCE)]
    pub(crate) head: Option<String>,
    /// Take blocks of zeros for holes: the best effort for a replica that lost its holes by copying
    ///
    /// This is not what Longhorn would serve, and the result is labelled as best effort. See `doctor`.
    #[arg(long, help_heading = SOURCE)]
    pub(crate) zeros_are_holes: bool,
    /// Go on although the replica is damaged; the exit code is 3 then
    #[arg(long, help_heading = SOURCE)]
    pub(crate) despite_damage: bool,
}

/// Find disks and replicas, and rank the replicas of each volume
///
/// A place is a disk, a folder of replica directories, one of them, or ssh://HOST/PATH: there this program copies
/// itself into a temporary directory, runs, and removes itself. Replicas of one volume are ranked together, wherever
/// they are.
#[derive(Debug, Args)]
pub(crate) struct ScanArguments {
    /// Disks, folders of replica directories, replica directories, ssh://HOST/PATH
    #[arg(value_name = "PLACE", default_value = "/var/lib/longhorn")]
    pub(crate) places: Vec<OsString>,
    /// Time of the incident: what was written after it counts less
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) before: Option<Timestamp>,
    /// Do not compare the first two candidates of a volume where nothing but times sets them apart
    #[arg(long)]
    pub(crate) no_compare: bool,
    /// Program to run over ssh, for a node of another architecture [default: this one]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) remote_binary: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Show the layers of a replica, what lies inside, and what is odd
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Replica directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
    /// Do not read the images to verify their checksums
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also list the extents of each layer
    #[arg(long)]
    pub(crate) extents: bool,
    /// Backing image that lies under the volume, raw or qcow2
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) backing: Option<PathBuf>,
    /// Live layer, where the directory does not tell which it is
    #[arg(long, value_name = "FILE")]
    pub(crate) head: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Show which blocks of two volumes differ and, for ext4, which files
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// Replica directory or image
    #[arg(value_name = "LEFT", value_hint = ValueHint::AnyPath)]
    pub(crate) left: PathBuf,
    /// Replica directory or image
    #[arg(value_name = "RIGHT", value_hint = ValueHint::AnyPath)]
    pub(crate) right: PathBuf,
    /// Compare blocks only
    #[arg(long)]
    pub(crate) blocks_only: bool,
    /// Like --snapshot, for LEFT alone
    #[arg(long, value_name = "NAME", help_heading = SOURCE)]
    pub(crate) left_snapshot: Option<String>,
    /// Like --snapshot, for RIGHT alone
    #[arg(long, value_name = "NAME", help_heading = SOURCE)]
    pub(crate) right_snapshot: Option<String>,
    /// Like --backing, for LEFT alone
    #[arg(long, value_name = "FILE", help_heading = SOURCE, value_hint = ValueHint::FilePath)]
    pub(crate) left_backing: Option<PathBuf>,
    /// Like --backing, for RIGHT alone
    #[arg(long, value_name = "FILE", help_heading = SOURCE, value_hint = ValueHint::FilePath)]
    pub(crate) right_backing: Option<PathBuf>,
    /// Like --head, for LEFT alone
    #[arg(long, value_name = "FILE", help_heading = SOURCE)]
    pub(crate) left_head: Option<String>,
    /// Like --head, for RIGHT alone
    #[arg(long, value_name = "FILE", help_heading = SOURCE)]
    pub(crate) right_head: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// The form of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageFormat {
    /// The bytes of the volume; zeros are holes
    Raw,
    /// QEMU's format
    Qcow2,
}

/// When an image must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fsync {
    /// Before it gets its name, so that a power cut cannot take it
    On,
    /// When the kernel likes, as with cp; a killed merge starts over
    Off,
}

/// Make one image of the layers of a replica
///
/// The image is made under another name (IMAGE.ha-volume.part), renamed when it is whole, and gets a completion
/// marker with size and hash (IMAGE.ha-volume.json). An interrupted merge is taken up where it was.
#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    /// Replica directory, or an image to convert
    #[arg(value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub(crate) source_path: PathBuf,
    /// Image file, '-' for stdout, a block device; and, given a second time, the form of the summary
    ///
    /// `-o json` and `-o text` choose the form of the summary: with an image on stdout it goes to stderr. For a file
    /// of that name write ./json.
    #[arg(short, long, value_name = "IMAGE", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) output: Vec<PathBuf>,
    /// Form of an image file
    #[arg(long, value_name = "FORMAT", default_value = "raw")]
    pub(crate) output_format: ImageFormat,
    /// Halt unless the volume has this size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) expect_size: Option<u64>,
    /// Also hash the whole image, as sha256sum does: time follows the size then, not the data
    #[arg(long)]
    pub(crate) sha256: bool,
    /// Replace an image that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Make what is written durable after so much data, so that a killed merge can go on there
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    pub(crate) checkpoint: u64,
    /// When an image file must be on the disk: on, before it gets its name; off, when the kernel likes, as with cp
    #[arg(long, value_name = "WHEN", default_value = "on")]
    pub(crate) fsync: Fsync,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Tell only warnings and failures
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

/// Copy a replica directory with its extents, and verify the copy
///
/// The map of extents and hashes is put beside the copy (DEST.extents.json).
#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    /// Replica directory, or ssh://HOST/PATH of one
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: OsString,
    /// Where the copy is made; nothing may be there
    #[arg(value_name = "DEST", value_hint = ValueHint::AnyPath)]
    pub(crate) destination: PathBuf,
    /// Program to run over ssh, for a node of another architecture [default: this one]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) remote_binary: Option<PathBuf>,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Tell only warnings and failures
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Tell whether a replica was damaged by the way it was copied
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Replica directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
    /// Also count the blocks on which the two readings of zeros differ
    #[arg(long)]
    pub(crate) best_effort: bool,
    /// Backing image that lies under the volume, raw or qcow2
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) backing: Option<PathBuf>,
    /// Live layer, where the directory does not tell which it is
    #[arg(long, value_name = "FILE")]
    pub(crate) head: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// List files of an ext4 volume, without root and without merging
///
/// What the journal holds is laid over the blocks in memory.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Replica directory or image
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// Path inside the volume
    #[arg(value_name = "PATH", default_value = "/")]
    pub(crate) inside: PathBuf,
    /// Also list what lies below
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Write a file of an ext4 volume to stdout
#[derive(Debug, Args)]
pub(crate) struct CatArguments {
    /// Replica directory or image
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// Path inside the volume
    #[arg(value_name = "PATH")]
    pub(crate) inside: PathBuf,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

/// Copy files out of an ext4 volume
///
/// Holes, modes, times, hard links, extended attributes, ACLs and (as root) owners are kept. Sockets, FIFOs and devices
/// are not made. What the destination does not take is named.
#[derive(Debug, Args)]
pub(crate) struct ExtractArguments {
    /// Replica directory or image
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// File or directory inside the volume
    #[arg(value_name = "PATH")]
    pub(crate) inside: PathBuf,
    /// Where it is copied to; nothing may be there
    #[arg(value_name = "DEST", value_hint = ValueHint::AnyPath)]
    pub(crate) destination: PathBuf,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Replay the journal of an ext4 volume on a copy of it
///
/// Merges the source into an image of its own and lets e2fsck replay the journal there. The source is not changed.
#[derive(Debug, Args)]
pub(crate) struct FsckArguments {
    /// Replica directory or image
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// Replay the journal; nothing else is offered
    #[arg(long, required = true)]
    pub(crate) replay: bool,
    /// Image file to make; and, given a second time, the form of the summary: json or text
    #[arg(short, long, value_name = "IMAGE", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) output: Vec<PathBuf>,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

/// Read and write backups as Longhorn keeps them
#[derive(Debug, Args)]
#[command(subcommand_help_heading = "Commands", disable_help_subcommand = true)]
pub(crate) struct BackupstoreArguments {
    #[command(subcommand)]
    pub(crate) command: BackupCommand,
}

/// What is done with a backup store.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    Ls(BackupListArguments),
    Verify(BackupVerifyArguments),
    Restore(Box<BackupRestoreArguments>),
    Write(Box<BackupWriteArguments>),
}

/// Where a backup store is.
#[derive(Debug, Args)]
pub(crate) struct TargetArguments {
    /// Backup target: the directory in which `backupstore` is, such as an NFS mount, or s3://BUCKET@REGION/PREFIX/
    ///
    /// For S3 the keys, and the endpoint of a store that is not AWS, are taken from the environment, under the names
    /// of Longhorn's secret: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINTS, AWS_CERT,
    /// VIRTUAL_HOSTED_STYLE.
    #[arg(long, value_name = "TARGET", value_hint = ValueHint::DirPath)]
    pub(crate) target: PathBuf,
}

/// List volumes and their backups
#[derive(Debug, Args)]
pub(crate) struct BackupListArguments {
    /// Volume whose backups are listed [default: all]
    #[arg(value_name = "VOLUME")]
    pub(crate) volume: Option<String>,
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Read every block of a backup, and check it against its name
#[derive(Debug, Args)]
pub(crate) struct BackupVerifyArguments {
    /// Volume
    #[arg(value_name = "VOLUME")]
    pub(crate) volume: String,
    /// Backup [default: every backup of the volume]
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: Option<String>,
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Make an image of a backup
#[derive(Debug, Args)]
pub(crate) struct BackupRestoreArguments {
    /// Volume
    #[arg(value_name = "VOLUME")]
    pub(crate) volume: String,
    /// Backup [default: the last one]
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: Option<String>,
    /// Image file, '-' for stdout, a block device; and, given a second time, the form of the summary: json or text
    #[arg(short, long, value_name = "IMAGE", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) output: Vec<PathBuf>,
    /// Form of an image file
    #[arg(long, value_name = "FORMAT", default_value = "raw")]
    pub(crate) output_format: ImageFormat,
    /// Also hash the whole image, as sha256sum does
    #[arg(long)]
    pub(crate) sha256: bool,
    /// Replace an image that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) target: TargetArguments,
}

/// How blocks are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressionName {
    /// LZ4 frames
    Lz4,
    /// gzip
    Gzip,
    /// Not at all
    None,
}

/// Write a replica or an image as a backup that Longhorn can restore
///
/// In the cluster, restore it with a new volume whose `spec.fromBackup` is the URL of the backup; the output shows it.
#[derive(Debug, Args)]
pub(crate) struct BackupWriteArguments {
    /// Replica directory or image
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// Name of the volume in the backup store
    #[arg(long, value_name = "NAME")]
    pub(crate) volume: String,
    /// Name of the backup [default: backup- and 16 random digits]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Label, repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// How blocks are packed [default: as the volume's are, else lz4]
    #[arg(long, value_name = "METHOD")]
    pub(crate) compression: Option<CompressionName>,
    /// Size of a block: 2MiB or 16MiB
    #[arg(long, value_name = "SIZE", default_value = "2MiB", value_parser = size)]
    pub(crate) block_size: u64,
    /// Look past locks of others in the backup store
    #[arg(long)]
    pub(crate) ignore_locks: bool,
    /// Say what would be done, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Print the completions for a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// Shell
    pub(crate) shell: Shell,
}

/// Print the manual page, or write all pages to a directory
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Directory for all pages
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
    /// Print the reference of docs/cli instead
    #[arg(long, hide = true)]
    pub(crate) markdown: bool,
}

/// Write a replica directory to stdout, as `copy` reads it over ssh
#[derive(Debug, Args)]
pub(crate) struct SendArguments {
    /// Replica directory
    pub(crate) directory: PathBuf,
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "expected a time with its zone, like 2026-04-12T03:10:00Z".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    match value::size_or_percent(text) {
        Ok(Amount::Absolute(bytes)) => Ok(bytes),
        Ok(_) => Err("expected a size, like 10GiB".to_owned()),
        Err(error) => Err(ValueError::to_string(&error)),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
