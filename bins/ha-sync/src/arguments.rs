//! Takes the command line apart: [`parse`] returns what is asked for, or why not.

mod definition;
mod pair;

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches as _};
use clap_complete::Shell;
use ha_cli::environment;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::usage;
use ha_sync_core::name::PairName;
use ha_sync_core::reconcile::ConflictPolicy;
use ha_sync_core::shard::Shard;
use ha_sync_engine::Mode;

use crate::run::TWO_WAY;
use crate::settings::StatusSettings;
use crate::settings::{BaselineSettings, BaselineWork, ConflictsSettings, DiffSettings, PairSettings, Resolution};
use crate::settings::{
    Compare, Delete, FilterRule, ManifestsSettings, Output, PruneSettings, Records, RestoreSettings, Safety, Secret,
    Settings,
};
use definition::{Command, CompareArguments, Definition, KeptArguments, LimitArguments, LockArguments, LogArguments};
use definition::{
    ManArguments, ManifestsArguments, OutputArguments, PruneArguments, RecordsArguments, ReportArguments,
    RestoreArguments,
};
use definition::{RunArguments, SafetyArguments, SpeedArguments, TwoWayArguments};
use pair::{BaselineArguments, BaselineCommand, ConflictsArguments, ConflictsCommand, DiffArguments, ForgetArguments};
use pair::{PairArguments, ResolveArguments, ShowArguments, StatusArguments, VerifyArguments};

pub(crate) use definition::command;

/// Is what a command line asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// A run, one-way or two-way.
    Run(Box<Settings>),
    /// The trash.
    Restore(RestoreSettings),
    /// The removal of old records.
    Prune(PruneSettings),
    /// How a pair stands.
    Status(StatusSettings),
    /// The open conflicts of a pair.
    Conflicts(ConflictsSettings),
    /// In what two roots differ.
    Diff(DiffSettings),
    /// The baseline of a pair.
    Baseline(BaselineSettings),
    /// The manifests of a deployment.
    Manifests(ManifestsSettings),
    /// Completions.
    Completions(Shell),
    /// Manual pages.
    Man(Man),
}

/// Is what of the manual is asked for.
#[derive(Debug)]
pub(crate) enum Man {
    /// The main page on stdout.
    Page,
    /// All pages in a directory.
    Pages(std::path::PathBuf),
    /// The reference as Markdown on stdout.
    Markdown,
}

/// Is why there is no request.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Help or the version is asked for.
    Shown(clap::Error),
    /// The command line is wrong.
    Failure(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Parses a command line, its first word the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Request, Refusal> {
    let words: Vec<OsString> = words.into_iter().collect();
    let definition = command();
    let program = program(&definition, &words);
    let refuse = |error: clap::Error| match error.use_stderr() {
        false => Refusal::Shown(error),
        true => Refusal::Failure(usage::refusal(&error, &program)),
    };
    let matches = definition.clone().try_get_matches_from(words).map_err(refuse)?;
    let Definition { command: subcommand, run } = Definition::from_arg_matches(&matches).map_err(refuse)?;
    let mut below = &matches;
    while let Some((_, matches)) = below.subcommand() {
        below = matches;
    }
    match subcommand {
        None => Ok(Request::Run(Box::new(run_settings(run, below)?))),
        Some(Command::TwoWay(arguments)) => Ok(Request::Run(Box::new(two_way_settings(*arguments, below)?))),
        Some(Command::Restore(arguments)) => Ok(Request::Restore(restore_settings(arguments))),
        Some(Command::Prune(arguments)) => Ok(Request::Prune(prune_settings(arguments, below)?)),
        Some(Command::Status(arguments)) => Ok(Request::Status(status_settings(arguments, below))),
        Some(Command::Conflicts(arguments)) => Ok(Request::Conflicts(conflicts_settings(arguments, below)?)),
        Some(Command::Diff(arguments)) => Ok(Request::Diff(diff_settings(arguments, below))),
        Some(Command::Baseline(arguments)) => Ok(Request::Baseline(baseline_settings(arguments, below))),
        Some(Command::Manifests(ManifestsArguments { inventory, out, check })) => {
            Ok(Request::Manifests(ManifestsSettings { inventory, out, check }))
        }
        Some(Command::Completions(arguments)) => Ok(Request::Completions(arguments.shell)),
        Some(Command::Man(ManArguments { out, markdown })) => Ok(Request::Man(match out {
            Some(directory) => Man::Pages(directory),
            None if markdown => Man::Markdown,
            None => Man::Page,
        })),
    }
}

/// Returns the command that the words name, as it is typed.
fn program(definition: &clap::Command, words: &[OsString]) -> String {
    let mut program = "ha-sync".to_owned();
    let mut command = definition;
    for word in words.iter().skip(1) {
        let Some(named) = command.find_subcommand(word) else { break };
        program.push_str(&format!(" {}", named.get_name()));
        command = named;
    }
    program
}

fn run_settings(arguments: RunArguments, matches: &ArgMatches) -> Result<Settings, Failure> {
    // Everything is named, so that a new flag cannot be forgotten here.
    let RunArguments {
        src,
        dest,
        pair,
        direction,
        dry_run,
        shard,
        shards,
        hard_links,
        cross_mounts,
        compare,
        delete_missing,
        delete_excluded,
        limits,
        safety,
        lock,
        records,
        kept,
        speed,
        output,
        report,
    } = arguments;
    // clap has already demanded them; a subcommand alone does without.
    let (Some(src), Some(dest), Some(pair)) = (src, dest, pair) else {
        return Err(Failure::new(FailureKind::Usage, "required but missing: --src, --dest, --pair"));
    };
    let shard = chosen_shard(shard, shards)?;
    if shard.is_some() && hard_links {
        return Err(Failure::new(FailureKind::Usage, "--hard-links cannot go with shards")
            .hint("names of one file may lie in directories of different shards; leave --hard-links out"));
    }
    let part = match shard {
        None => pair.clone(),
        Some(shard) => format!("{pair}-{}", shard.index())
            .parse()
            .or_failure(FailureKind::Usage)
            .map_err(|failure| failure.context("the name of the pair is too long for its shards"))?,
    };
    let shared = Shared { compare, limits, safety, lock, records, kept, speed, output, report };
    let settings = Settings {
        mode: Mode::OneWay,
        shard,
        pair: part,
        src,
        dest,
        direction,
        dry_run,
        delete: delete_missing,
        delete_excluded,
        ..shared.settings(pair, cross_mounts, matches)?
    };
    Ok(Settings { compare: Compare { hard_links, ..settings.compare }, ..settings })
}

fn two_way_settings(arguments: TwoWayArguments, matches: &ArgMatches) -> Result<Settings, Failure> {
    let TwoWayArguments {
        a,
        b,
        pair,
        conflict,
        dry_run,
        cross_mounts,
        compare,
        limits,
        safety,
        lock,
        records,
        kept,
        speed,
        output,
        report,
    } = arguments;
    let shared = Shared { compare, limits, safety, lock, records, kept, speed, output, report };
    let settings = shared.settings(pair, cross_mounts, matches)?;
    Ok(Settings { mode: Mode::TwoWay(conflict.into()), src: a, dest: b, dry_run, ..settings })
}

/// Is the flags that both modes have.
struct Shared {
    compare: CompareArguments,
    limits: LimitArguments,
    safety: SafetyArguments,
    lock: LockArguments,
    records: RecordsArguments,
    kept: KeptArguments,
    speed: SpeedArguments,
    output: OutputArguments,
    report: ReportArguments,
}

impl Shared {
    /// Returns the settings of a two-way run, without its roots.
    fn settings(self, pair: PairName, cross_mounts: bool, matches: &ArgMatches) -> Result<Settings, Failure> {
        let Self { compare, limits, safety, lock, records, kept, speed, output, report } = self;
        let CompareArguments { mtime_threshold, checksum, exclude: _, include: _ } = compare;
        let LimitArguments { max_delete, keep_replaced } = limits;
        let SafetyArguments {
            approve,
            allow_empty_root,
            allow_missing_mounts,
            allow_clock_skew,
            require_mount,
            check_access,
            min_free,
        } = safety;
        let KeptArguments { log_retain_days, audit_md5 } = kept;
        let SpeedArguments { workers, walkers, fsync } = speed;
        let ReportArguments { log_format, verbose, quiet } = report;
        if verbose && quiet {
            return Err(Failure::new(FailureKind::Usage, "--verbose cannot go with --quiet").hint("ha-sync --help"));
        }
        let direction = TWO_WAY.parse().map_err(|error| Failure::from_error(FailureKind::Usage, &error))?;
        Ok(Settings {
            mode: Mode::TwoWay(ConflictPolicy::Newest),
            only: None,
            src: Default::default(),
            dest: Default::default(),
            whole: pair.clone(),
            shard: None,
            pair,
            direction,
            records: records_settings(records, matches),
            log_retain_days,
            compare: Compare { mtime_threshold, checksum, hard_links: false, cross_mounts },
            filters: filters(matches),
            delete: Delete::Off,
            delete_excluded: false,
            safety: Safety {
                max_delete,
                approve,
                allow_empty_root,
                allow_missing_mounts,
                allow_clock_skew,
                require_mount,
                check_access,
                min_free,
            },
            keep_replaced_days: keep_replaced,
            fsync,
            audit_md5,
            lock: lock.lock(),
            walkers,
            workers,
            dry_run: false,
            output: Output { format: output.output, log_format, verbose, quiet },
        })
    }
}

/// Returns the part of the tree that is asked for; one of one is the whole.
fn chosen_shard(shard: Option<Shard>, shards: Option<u32>) -> Result<Option<Shard>, Failure> {
    let shard = match (shard, shards) {
        (None, Some(count)) if count > 1 => {
            let name = environment::COMPLETION_INDEX.name;
            let missing = || {
                Failure::new(FailureKind::Usage, format!("--shards {count} needs {name}, which is not set"))
                    .hint(format!("it is, in the pods of an Indexed Job; elsewhere name the shard: --shard 0/{count}"))
            };
            let index = environment::COMPLETION_INDEX.get().ok_or_else(missing)?;
            let text = format!("{}/{count}", index.to_string_lossy());
            let shard = text.parse().or_failure(FailureKind::Usage);
            Some(shard.map_err(|failure| failure.context(format!("{name} is no index of {count} shards: {index:?}")))?)
        }
        (shard, _) => shard,
    };
    Ok(shard.filter(|shard: &Shard| shard.count() > 1))
}

fn restore_settings(arguments: RestoreArguments) -> RestoreSettings {
    let RestoreArguments { root, paths, run, list, force, dry_run, output } = arguments;
    let list = list || (paths.is_empty() && run.is_none());
    RestoreSettings { root, paths, run, list, force, dry_run, output: short_output(output) }
}

fn prune_settings(arguments: PruneArguments, matches: &ArgMatches) -> Result<PruneSettings, Failure> {
    let PruneArguments { records, db_older_than, logs_older_than, trash, trash_older_than, dry_run, output } =
        arguments;
    if db_older_than.is_none() && logs_older_than.is_none() && trash.is_empty() {
        let failure = Failure::new(FailureKind::Usage, "nothing was named to be pruned");
        return Err(failure.hint("give --db-older-than 30d, --logs-older-than 10d or --trash ROOT"));
    }
    Ok(PruneSettings {
        records: records_settings(records, matches),
        db_older_than,
        logs_older_than,
        trash,
        trash_older_than,
        dry_run,
        output: short_output(output),
    })
}

fn status_settings(arguments: StatusArguments, matches: &ArgMatches) -> StatusSettings {
    let StatusArguments { pair, runs, records, output } = arguments;
    let records = records_settings(records, matches);
    StatusSettings { pair: PairSettings { pair, records, output: short_output(output) }, runs }
}

fn conflicts_settings(arguments: ConflictsArguments, matches: &ArgMatches) -> Result<ConflictsSettings, Failure> {
    let ConflictsArguments { command, pair, log, output } = arguments;
    let Some(ConflictsCommand::Resolve(resolve)) = command else {
        // clap has already demanded it; the subcommand alone does without.
        let missing = || Failure::new(FailureKind::Usage, "required but missing: --pair");
        let pair = PairArguments { pair: pair.ok_or_else(missing)?, log, output };
        return Ok(ConflictsSettings { pair: pair_settings(pair, matches), resolve: None });
    };
    let ResolveArguments { path, keep, pair, a, b, dry_run, lock, records, output } = resolve;
    let records = records_settings(records, matches);
    let resolve = Resolution { path, keep, roots: a.zip(b), dry_run, lock: lock.lock() };
    let pair = PairSettings { pair, records, output: short_output(output) };
    Ok(ConflictsSettings { pair, resolve: Some(resolve) })
}

fn diff_settings(arguments: DiffArguments, matches: &ArgMatches) -> DiffSettings {
    let filters = filters(matches);
    let DiffArguments {
        a,
        b,
        cross_mounts,
        mtime_threshold,
        checksum,
        content_only,
        exclude: _,
        include: _,
        walkers,
        output,
    } = arguments;
    let compare = Compare { mtime_threshold, checksum, hard_links: false, cross_mounts };
    DiffSettings { a, b, compare, content_only, filters, walkers, output: short_output(output) }
}

fn baseline_settings(arguments: BaselineArguments, matches: &ArgMatches) -> BaselineSettings {
    let (pair, work) = match arguments.command {
        BaselineCommand::Show(ShowArguments { pair, path }) => (pair, BaselineWork::Show(path)),
        BaselineCommand::Verify(VerifyArguments { pair }) => (pair, BaselineWork::Verify),
        BaselineCommand::Forget(ForgetArguments { pair, lock }) => (pair, BaselineWork::Forget(lock.lock())),
    };
    BaselineSettings { pair: pair_settings(pair, matches), work }
}

fn pair_settings(arguments: PairArguments, matches: &ArgMatches) -> PairSettings {
    let PairArguments { pair, log, output } = arguments;
    let records = records_settings(RecordsArguments { log, db_dsn: None }, matches);
    PairSettings { pair, records, output: short_output(output) }
}

fn records_settings(arguments: RecordsArguments, matches: &ArgMatches) -> Records {
    let RecordsArguments { log: LogArguments { log_dir }, db_dsn } = arguments;
    Records {
        log_dir,
        log_dir_given: matches.value_source("log_dir") == Some(ValueSource::CommandLine),
        // A CronJob whose secret is empty sets the variable to nothing.
        db_dsn: db_dsn.filter(|dsn| !dsn.is_empty()).map(Secret::new),
    }
}

fn short_output(arguments: OutputArguments) -> Output {
    Output { format: arguments.output, log_format: None, verbose: false, quiet: false }
}

/// Returns the rules of both flags in the order of the command line.
fn filters(matches: &ArgMatches) -> Vec<FilterRule> {
    let mut rules = Vec::new();
    for (flag, exclude) in [("exclude", true), ("include", false)] {
        let places = matches.indices_of(flag).into_iter().flatten();
        let globs = matches.get_many::<String>(flag).into_iter().flatten();
        rules.extend(places.zip(globs).map(|(place, glob)| (place, FilterRule { exclude, glob: glob.clone() })));
    }
    rules.sort_by_key(|(place, _)| *place);
    rules.into_iter().map(|(_, rule)| rule).collect()
}

#[cfg(test)]
mod tests;
