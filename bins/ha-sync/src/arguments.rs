//! Takes the command line apart: [`parse`] returns what is asked for, or why not.

mod definition;

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches as _};
use clap_complete::Shell;
use ha_cli::failure::{Failure, FailureKind};
use ha_cli::usage;

use crate::settings::{
    Compare, FilterRule, Lock, Output, PruneSettings, Records, RestoreSettings, Safety, Secret, Settings,
};
use definition::{Command, Definition, ManArguments, OutputArguments, PruneArguments, RecordsArguments};
use definition::{RestoreArguments, RunArguments};

pub(crate) use definition::command;

/// Is what a command line asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// A one-way run.
    Run(Box<Settings>),
    /// The trash.
    Restore(RestoreSettings),
    /// The removal of old records.
    Prune(PruneSettings),
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
    let named = words.get(1).and_then(|word| definition.find_subcommand(word));
    let program = named.map_or_else(|| "ha-sync".to_owned(), |named| format!("ha-sync {}", named.get_name()));
    let refuse = |error: clap::Error| match error.use_stderr() {
        false => Refusal::Shown(error),
        true => Refusal::Failure(usage::refusal(&error, &program)),
    };
    let matches = definition.clone().try_get_matches_from(words).map_err(refuse)?;
    let Definition { command: subcommand, run } = Definition::from_arg_matches(&matches).map_err(refuse)?;
    let below = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    match subcommand {
        None => Ok(Request::Run(Box::new(run_settings(run, below)?))),
        Some(Command::Restore(arguments)) => Ok(Request::Restore(restore_settings(arguments))),
        Some(Command::Prune(arguments)) => Ok(Request::Prune(prune_settings(arguments, below)?)),
        Some(Command::Completions(arguments)) => Ok(Request::Completions(arguments.shell)),
        Some(Command::Man(ManArguments { out, markdown })) => Ok(Request::Man(match out {
            Some(directory) => Man::Pages(directory),
            None if markdown => Man::Markdown,
            None => Man::Page,
        })),
    }
}

fn run_settings(arguments: RunArguments, matches: &ArgMatches) -> Result<Settings, Failure> {
    let filters = filters(matches);
    // Everything is named, so that a new flag cannot be forgotten here.
    let RunArguments {
        src,
        dest,
        pair,
        direction,
        dry_run,
        hard_links,
        cross_mounts,
        mtime_threshold,
        checksum,
        exclude: _,
        include: _,
        delete_missing,
        delete_excluded,
        max_delete,
        keep_replaced,
        approve,
        allow_empty_root,
        allow_missing_mounts,
        allow_clock_skew,
        require_mount,
        check_access,
        min_free,
        lock,
        lock_wait,
        lock_ttl,
        skip_if_locked,
        records,
        log_retain_days,
        audit_md5,
        workers,
        walkers,
        fsync,
        output,
        log_format,
        verbose,
        quiet,
    } = arguments;
    // clap has already demanded them; a subcommand alone does without.
    let (Some(src), Some(dest), Some(pair)) = (src, dest, pair) else {
        return Err(Failure::new(FailureKind::Usage, "required but missing: --src, --dest, --pair"));
    };
    if verbose && quiet {
        return Err(Failure::new(FailureKind::Usage, "--verbose cannot go with --quiet").hint("ha-sync --help"));
    }
    Ok(Settings {
        src,
        dest,
        pair,
        direction,
        records: records_settings(records, matches),
        log_retain_days,
        compare: Compare { mtime_threshold, checksum, hard_links, cross_mounts },
        filters,
        delete: delete_missing,
        delete_excluded,
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
        lock: Lock { kind: lock, wait: lock_wait, ttl: lock_ttl, skip_if_locked },
        walkers,
        workers,
        dry_run,
        output: Output { format: output.output, log_format, verbose, quiet },
    })
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

fn records_settings(arguments: RecordsArguments, matches: &ArgMatches) -> Records {
    let RecordsArguments { log_dir, db_dsn } = arguments;
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
