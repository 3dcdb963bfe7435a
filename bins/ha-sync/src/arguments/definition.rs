//! The flags, as clap sees them.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use ha_cli::environment;
use ha_cli::report::LogFormat;
use ha_cli::summary::OutputFormat;
use ha_cli::value::{self, Amount, ValueError};
use ha_sync_core::name::{Direction, PairName, RunId};
use ha_sync_core::shard::Shard;

use super::pair::{BaselineArguments, ConflictsArguments, DiffArguments, StatusArguments};
use crate::settings::{AuditMd5, Conflict, Delete, Fsync, Lock, LockKind};

const EXAMPLES: &str = "\
Examples:
  Show what a run would do, change nothing:
    ha-sync --src /mnt/dell/media --dest /mnt/hp/media --pair media --dry-run

  Copy what is new or newer, leave out temporary files:
    ha-sync --src /mnt/dell/media --dest /mnt/hp/media --pair media --direction dell-to-hp \\
        --exclude '*.tmp'

  Mirror, in a CronJob:
    ha-sync --src=/mnt/dell/media --dest=/mnt/hp/media --pair=media --direction=dell-to-hp \\
        --delete-missing --require-mount --skip-if-locked --log-format=json

  Keep two folders in step both ways:
    ha-sync two-way --a /mnt/dell/media --b /mnt/hp/media --pair media

  Look at what was replaced and deleted, and put a file back:
    ha-sync restore --root /mnt/hp/media
    ha-sync restore --root /mnt/hp/media photos/2026/cat.jpg

Switches also take a value: --dry-run=false is as if it were not there. Where a flag is given
twice the last one counts, except --exclude and --include.

Exit codes: 0 success, 1 failed, 2 bad usage, 3 partial failure, 4 lock held by another,
5 halted by a safety rule, 130 and 143 interrupted.";

const WHAT: &str = "Files";
pub(super) const COMPARE: &str = "Comparison and filters";
const DELETE: &str = "Deletion";
const SAFETY: &str = "Safety";
const LOCK: &str = "Lock";
const RECORDS: &str = "Records";
pub(super) const SPEED: &str = "Speed and durability";
const OUTPUT: &str = "Output";

/// Keeps folder pairs in sync: the newest file wins.
///
/// Copies from --src to --dest what is missing there or newer here. Replaced and deleted files stay in a trash for
/// a week, every operation is in a log and a database, and a run that looks wrong halts before it changes anything.
#[derive(Debug, Parser)]
#[command(
    name = "ha-sync",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    args_override_self = true,
    disable_help_subcommand = true,
    subcommand_help_heading = "Commands",
    override_usage = "ha-sync --src <DIR> --dest <DIR> --pair <NAME> [OPTIONS]\n       ha-sync <COMMAND>",
    after_help = "--help says more about each flag and shows examples.",
    after_long_help = EXAMPLES
)]
pub(crate) struct Definition {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// What there is beside a run.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    TwoWay(Box<TwoWayArguments>),
    Restore(RestoreArguments),
    Prune(PruneArguments),
    Status(StatusArguments),
    Conflicts(ConflictsArguments),
    Diff(DiffArguments),
    Baseline(BaselineArguments),
    Manifests(ManifestsArguments),
    Completions(CompletionsArguments),
    Man(ManArguments),
}

/// The flags of a one-way run.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Source directory, an absolute path
    #[arg(long, value_name = "DIR", required = true, help_heading = WHAT, value_hint = ValueHint::DirPath,
        value_parser = absolute_path())]
    pub(crate) src: Option<PathBuf>,
    /// Destination directory, an absolute path
    #[arg(long, value_name = "DIR", required = true, help_heading = WHAT, value_hint = ValueHint::DirPath,
        value_parser = absolute_path())]
    pub(crate) dest: Option<PathBuf>,
    /// Name of the folder pair, which also names the lock: a-z, 0-9 and '-'
    ///
    /// Both directions of a pair use the same name, so that they never run at once. At most 55 characters, because
    /// the Lease is called ha-sync-<NAME>.
    #[arg(long, value_name = "NAME", required = true, help_heading = WHAT, value_parser = value::parsed::<PairName>)]
    pub(crate) pair: Option<PairName>,
    /// Label of the direction in logs and the database
    #[arg(long, value_name = "LABEL", default_value = "fwd", help_heading = WHAT,
        value_parser = value::parsed::<Direction>)]
    pub(crate) direction: Direction,
    /// Print and store what a run would do; copy and delete nothing
    #[arg(long, help_heading = WHAT)]
    pub(crate) dry_run: bool,
    /// Work on one of N parts of the tree only, I from 0: other runs do the others
    ///
    /// A path belongs to one part, by the hash of its directory. Each part has a lock of its own, ha-sync-<NAME>-<I>,
    /// and records and a memory of its own under <NAME>-<I>. Not with --hard-links.
    #[arg(long, value_name = "I/N", conflicts_with = "shards", help_heading = WHAT,
        value_parser = value::parsed::<Shard>)]
    pub(crate) shard: Option<Shard>,
    /// Work on one of N parts of the tree; which one, the index of an Indexed Job's pod says
    #[arg(long, value_name = "N", help_heading = WHAT, value_parser = value::shards)]
    pub(crate) shards: Option<u32>,
    /// Keep hard links between synchronised files
    #[arg(long, help_heading = WHAT)]
    pub(crate) hard_links: bool,
    /// Enter other file systems mounted below the roots
    #[arg(long, help_heading = WHAT)]
    pub(crate) cross_mounts: bool,

    #[command(flatten)]
    pub(crate) compare: CompareArguments,

    /// Delete what the source does not have: off, on (the flag alone) or strict
    ///
    /// When the pair also runs in the other direction, `on` keeps what is new or changed at the destination, and
    /// `strict` deletes that too. Deleted files go to the trash.
    #[arg(long, value_name = "MODE", default_value = "off", default_missing_value = "on", num_args = 0..=1,
        require_equals = true, help_heading = DELETE, value_parser = delete)]
    pub(crate) delete_missing: Delete,
    /// Delete what is left out by a rule, too
    #[arg(long, help_heading = DELETE)]
    pub(crate) delete_excluded: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArguments,
    #[command(flatten)]
    pub(crate) safety: SafetyArguments,
    #[command(flatten)]
    pub(crate) lock: LockArguments,
    #[command(flatten)]
    pub(crate) records: RecordsArguments,
    #[command(flatten)]
    pub(crate) kept: KeptArguments,
    #[command(flatten)]
    pub(crate) speed: SpeedArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// Keep two folders in step: changes and deletions go both ways
///
/// Remembers what both sides last agreed on, so it can tell what was deleted here from what is new there. The first
/// run deletes nothing. A path that both sides changed is a conflict, and --conflict says what becomes of it. What is
/// replaced or deleted stays in the trash of its side for a week.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  Show what a run would do, change nothing:
    ha-sync two-way --a /mnt/dell/media --b /mnt/hp/media --pair media --dry-run
  Keep both folders in step, in a CronJob:
    ha-sync two-way --a=/mnt/dell/media --b=/mnt/hp/media --pair=media --require-mount \\
        --skip-if-locked --log-format=json
  Keep both versions where both sides changed a file:
    ha-sync two-way --a /mnt/dell/media --b /mnt/hp/media --pair media --conflict keep-both
  Undo a run, at each root what it replaced or deleted there:
    ha-sync restore --root /mnt/hp/media --run 20260413T152357Z-0123abcd --force")]
pub(crate) struct TwoWayArguments {
    /// One directory, an absolute path
    #[arg(long, value_name = "DIR", help_heading = WHAT, value_hint = ValueHint::DirPath,
        value_parser = absolute_path())]
    pub(crate) a: PathBuf,
    /// The other directory, an absolute path
    #[arg(long, value_name = "DIR", help_heading = WHAT, value_hint = ValueHint::DirPath,
        value_parser = absolute_path())]
    pub(crate) b: PathBuf,
    /// Name of the folder pair, which also names the lock: a-z, 0-9 and '-'
    #[arg(long, value_name = "NAME", help_heading = WHAT, value_parser = value::parsed::<PairName>)]
    pub(crate) pair: PairName,
    /// What becomes of a path that both sides changed differently
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Conflict::Newest, help_heading = WHAT)]
    pub(crate) conflict: Conflict,
    /// Print and store what a run would do; copy and delete nothing
    #[arg(long, help_heading = WHAT)]
    pub(crate) dry_run: bool,
    /// Enter other file systems mounted below the roots
    #[arg(long, help_heading = WHAT)]
    pub(crate) cross_mounts: bool,

    #[command(flatten)]
    pub(crate) compare: CompareArguments,
    #[command(flatten)]
    pub(crate) limits: LimitArguments,
    #[command(flatten)]
    pub(crate) safety: SafetyArguments,
    #[command(flatten)]
    pub(crate) lock: LockArguments,
    #[command(flatten)]
    pub(crate) records: RecordsArguments,
    #[command(flatten)]
    pub(crate) kept: KeptArguments,
    #[command(flatten)]
    pub(crate) speed: SpeedArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

/// How files are compared, and which take part.
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// Time difference up to which two files count as equally old
    ///
    /// Files of equal size within it are compared by content. Seconds, fractions allowed, or with a unit.
    #[arg(long, value_name = "SECONDS", default_value = "2", help_heading = COMPARE, value_parser = value::seconds)]
    pub(crate) mtime_threshold: Duration,
    /// Compare the content of files whose size and time are equal
    #[arg(long, help_heading = COMPARE)]
    pub(crate) checksum: bool,
    /// Leave out what matches; repeatable, the first rule that matches wins
    ///
    /// A glob that begins with '/' is anchored at the root. What is left out is neither copied nor deleted. Rules
    /// count in the order of the command line, together with --include, and before .ha-syncignore.
    #[arg(long, value_name = "GLOB", help_heading = COMPARE, value_parser = value::glob, allow_hyphen_values = true)]
    pub(crate) exclude: Vec<String>,
    /// Keep what matches although a later rule leaves it out; repeatable
    #[arg(long, value_name = "GLOB", help_heading = COMPARE, value_parser = value::glob, allow_hyphen_values = true)]
    pub(crate) include: Vec<String>,
}

/// How much may go, and how long it is kept.
#[derive(Debug, Args)]
pub(crate) struct LimitArguments {
    /// Halt when more would be deleted: a count or a percentage [default: 25% once more than 20]
    #[arg(long, value_name = "LIMIT", help_heading = DELETE, value_parser = value::count_or_percent)]
    pub(crate) max_delete: Option<Amount>,
    /// Days for which replaced and deleted files stay in the trash; 0 keeps none
    #[arg(long, value_name = "DAYS", default_value = "7", help_heading = DELETE, value_parser = value::days)]
    pub(crate) keep_replaced: u32,
}

/// What halts a run, and what was allowed.
#[derive(Debug, Args)]
pub(crate) struct SafetyArguments {
    /// Let the set of operations through that a halted run printed the id of
    ///
    /// It is let through once, and only if it is still exactly that set.
    #[arg(long, value_name = "ID", help_heading = SAFETY, value_parser = value::approval)]
    pub(crate) approve: Option<String>,
    /// Go on although a root that had entries is empty
    #[arg(long, help_heading = SAFETY)]
    pub(crate) allow_empty_root: bool,
    /// Go on below a directory that was a mount point and is none now
    #[arg(long, help_heading = SAFETY)]
    pub(crate) allow_missing_mounts: bool,
    /// Go on although the clocks of the two sides disagree
    #[arg(long, help_heading = SAFETY)]
    pub(crate) allow_clock_skew: bool,
    /// Halt unless both roots are mount points
    #[arg(long, help_heading = SAFETY)]
    pub(crate) require_mount: bool,
    /// Halt unless this file, relative to the roots, is on both sides
    #[arg(long, value_name = "FILE", help_heading = SAFETY, value_hint = ValueHint::Other,
        value_parser = OsStringValueParser::new().try_map(|text| value::path_below(&text)))]
    pub(crate) check_access: Option<PathBuf>,
    /// Make no copy that leaves less space: a size or a percentage [default: 1GiB or 1%, the smaller]
    #[arg(long, value_name = "SIZE", help_heading = SAFETY, value_parser = value::size_or_percent)]
    pub(crate) min_free: Option<Amount>,
}

/// Which lock a run takes, and how long it waits for it.
#[derive(Debug, Args)]
pub(crate) struct LockArguments {
    #[command(flatten)]
    pub(crate) which: WhichLockArguments,
    /// Time to wait for a lock that another holds
    #[arg(long, value_name = "SECONDS", default_value = "0", help_heading = LOCK, value_parser = value::seconds)]
    pub(crate) lock_wait: Duration,
    /// Exit with 0, not 4, when another holds the lock
    #[arg(long, help_heading = LOCK)]
    pub(crate) skip_if_locked: bool,
}

/// Which lock a pair has; all that change something of a pair must mean the same one.
#[derive(Debug, Args)]
pub(crate) struct WhichLockArguments {
    /// What keeps two runs of a pair apart
    #[arg(long, value_name = "KIND", value_enum, default_value_t = LockKind::Auto, help_heading = LOCK)]
    pub(crate) lock: LockKind,
    /// Time without renewal after which a Lease is stale
    #[arg(long, value_name = "SECONDS", default_value = "3600", help_heading = LOCK,
        value_parser = value::seconds_at_least_one)]
    pub(crate) lock_ttl: Duration,
    /// How to reach the cluster of the Lease
    ///
    /// Without it: the service account of the pod, else KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "FILE", help_heading = LOCK)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", help_heading = LOCK)]
    pub(crate) kube_context: Option<String>,
    /// Namespace of the Lease [default: the pod's, or the context's]
    #[arg(long, value_name = "NAME", help_heading = LOCK)]
    pub(crate) namespace: Option<String>,
}

impl LockArguments {
    /// Returns the lock of a run.
    pub(super) fn lock(self) -> Lock {
        let Self { which, lock_wait, skip_if_locked } = self;
        Lock { wait: lock_wait, skip_if_locked, ..which.lock() }
    }
}

impl WhichLockArguments {
    /// Returns the lock of a command that a person types, which waits for nobody.
    pub(super) fn lock(self) -> Lock {
        let Self { lock, lock_ttl, kubeconfig, kube_context, namespace } = self;
        let (wait, skip_if_locked) = (Duration::ZERO, false);
        Lock { kind: lock, wait, ttl: lock_ttl, skip_if_locked, kubeconfig, kube_context, namespace }
    }
}

/// What is kept of a run.
#[derive(Debug, Args)]
pub(crate) struct KeptArguments {
    /// Days for which logs that were set aside are kept
    ///
    /// A log that has not reached the database is never deleted by age.
    #[arg(long, value_name = "DAYS", default_value = "10", help_heading = RECORDS, value_parser = value::days)]
    pub(crate) log_retain_days: u32,
    /// When MD5 sums of copied files are recorded
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = AuditMd5::Auto, help_heading = RECORDS)]
    pub(crate) audit_md5: AuditMd5,
}

/// How fast it is, and how durable.
#[derive(Debug, Args)]
pub(crate) struct SpeedArguments {
    /// Threads that copy files
    #[arg(long, value_name = "N", default_value = "4", help_heading = SPEED, value_parser = value::threads)]
    pub(crate) workers: usize,
    /// Threads that list directories [default: the cores; 32 on NFS, CIFS and FUSE]
    #[arg(long, value_name = "N", help_heading = SPEED, value_parser = value::threads)]
    pub(crate) walkers: Option<usize>,
    /// When written data is made durable
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Fsync::Batch, help_heading = SPEED)]
    pub(crate) fsync: Fsync,
}

/// How a run is told.
#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// Form of the lines on stderr [default: a bar on a terminal, else text]
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = OUTPUT)]
    pub(crate) log_format: Option<LogFormat>,
    /// Tell skipped files and why
    #[arg(long, short, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
    /// Tell only warnings and failures; no summary
    #[arg(long, short, help_heading = OUTPUT)]
    pub(crate) quiet: bool,
}

/// Where logs are.
#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// Directory for logs, an absolute path
    ///
    /// When this is not given and the default cannot be written, $XDG_STATE_HOME/ha-sync is used.
    #[arg(long, value_name = "DIR", default_value = "/var/log/ha-sync", help_heading = RECORDS,
        value_hint = ValueHint::DirPath, value_parser = absolute_path())]
    pub(crate) log_dir: PathBuf,
}

/// Where records are.
#[derive(Debug, Args)]
pub(crate) struct RecordsArguments {
    #[command(flatten)]
    pub(crate) log: LogArguments,
    /// Database of the records [default: SQLite in the log directory]
    ///
    /// sqlite:PATH, mysql://USER:PASSWORD@HOST/DATABASE or USER:PASSWORD@tcp(HOST:3306)/DATABASE, for MySQL 8 and
    /// MariaDB 10.6 or newer; ?tls=true&timeout=5s and more may follow. Better in the environment, where the password
    /// is not seen in the process list. Without the database a run goes on, and its log waits.
    #[arg(long, value_name = "DSN", env = environment::DB_DSN.name, hide_env_values = true, help_heading = RECORDS)]
    pub(crate) db_dsn: Option<String>,
}

/// The form of the answer.
#[derive(Debug, Args)]
pub(crate) struct OutputArguments {
    /// Form of stdout
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Text, help_heading = OUTPUT)]
    pub(crate) output: OutputFormat,
}

/// List what was replaced and deleted, or put it back
///
/// Without a path and without --run the trash of the root is listed. With --run everything of that run is put back,
/// or the given paths of it; with paths alone, the newest version of each.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  What is in the trash:
    ha-sync restore --root /mnt/hp/media
  Put the newest version of a folder back:
    ha-sync restore --root /mnt/hp/media photos/2026
  See what undoing a run would do, then undo it:
    ha-sync restore --root /mnt/hp/media --run 20260413T152357Z-0123abcd --force --dry-run
    ha-sync restore --root /mnt/hp/media --run 20260413T152357Z-0123abcd --force")]
pub(crate) struct RestoreArguments {
    /// Root whose trash it is, an absolute path
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = absolute_path())]
    pub(crate) root: PathBuf,
    /// Files and folders, relative to the root
    #[arg(value_name = "PATH", value_hint = ValueHint::Other,
        value_parser = OsStringValueParser::new().try_map(|text| value::path_below(&text)))]
    pub(crate) paths: Vec<PathBuf>,
    /// Run whose trash is meant [default: for each path the newest that has it]
    #[arg(long, value_name = "ID", value_parser = value::parsed::<RunId>)]
    pub(crate) run: Option<RunId>,
    /// List, put nothing back
    #[arg(long, conflicts_with = "force")]
    pub(crate) list: bool,
    /// Replace what is there now (it goes to the trash)
    #[arg(long)]
    pub(crate) force: bool,
    /// Print what would be put back, change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Remove old records and old trash
///
/// Removes only what a flag names. A log that has not reached the database is never removed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  Rows of a month, logs of ten days, trash of a week:
    ha-sync prune --db-older-than 30d --logs-older-than 10d --trash /mnt/hp/media")]
pub(crate) struct PruneArguments {
    #[command(flatten)]
    pub(crate) records: RecordsArguments,
    /// Remove database rows of runs that are older, like 30d
    ///
    /// Of each pair and direction the last successful run and the last successful dry run stay.
    #[arg(long, value_name = "AGE", value_parser = value::age)]
    pub(crate) db_older_than: Option<Duration>,
    /// Remove logs that were set aside and are older, like 10d
    #[arg(long, value_name = "AGE", value_parser = value::age)]
    pub(crate) logs_older_than: Option<Duration>,
    /// Prune the trash of this root, an absolute path; repeatable
    #[arg(long, value_name = "ROOT", value_hint = ValueHint::DirPath, value_parser = absolute_path())]
    pub(crate) trash: Vec<PathBuf>,
    /// Remove trash of runs that are older
    #[arg(long, value_name = "AGE", default_value = "7d", requires = "trash", value_parser = value::age)]
    pub(crate) trash_older_than: Duration,
    /// Print what would go, remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Make the Kubernetes manifests of a deployment from an inventory
///
/// Writes a kustomize base and overlays below the folder, and leaves other files there alone. What is made is a dry
/// run until overlays/production is applied.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  Make the manifests, look at them, apply them:
    ha-sync manifests --inventory deploy/inventory.yaml --out deploy
    kubectl diff -k deploy/base
    kubectl apply -k deploy/base
  Fail in CI when somebody edited a file that is made:
    ha-sync manifests --inventory deploy/inventory.yaml --out deploy --check")]
pub(crate) struct ManifestsArguments {
    /// Inventory: servers, pairs and schedules, as YAML
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) inventory: PathBuf,
    /// Folder of the deployment
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Write nothing; exit with 1, and name the files, when the folder is not what the inventory says
    #[arg(long)]
    pub(crate) check: bool,
}

/// Print the completions for a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Print the manual page, or write all pages to a directory
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Directory for the pages of all subcommands
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
    /// Print the reference as Markdown
    #[arg(long, hide = true, conflicts_with = "out")]
    pub(crate) markdown: bool,
}

pub(super) fn absolute_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text| value::absolute_path(&text))
}

/// Takes `off`, `on`, `strict` and what Go takes for a boolean.
fn delete(text: &str) -> Result<Delete, ValueError> {
    match text {
        "off" => Ok(Delete::Off),
        "on" => Ok(Delete::On),
        "strict" => Ok(Delete::Strict),
        other => match value::switch(other) {
            Ok(true) => Ok(Delete::On),
            Ok(false) => Ok(Delete::Off),
            Err(_) => Err(ValueError::Delete),
        },
    }
}

/// Returns the whole definition. Switches take `=true` and `=false` too, as those of Go's flag package do, because
/// the people's CronJobs are written for one.
pub(crate) fn command() -> clap::Command {
    with_switches(Definition::command())
}

fn with_switches(command: clap::Command) -> clap::Command {
    let switch = |argument: clap::Arg| match argument.get_action() {
        ArgAction::SetTrue => argument
            .action(ArgAction::Set)
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_parser(value::switch),
        // Else `--lock-wait -1` would be told as an unknown flag `-1`.
        ArgAction::Set | ArgAction::Append => argument.allow_negative_numbers(true),
        _ => argument,
    };
    command.mut_args(switch).mut_subcommands(with_switches)
}
