//! A run, one-way or two-way: lock, records, engine, summary.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ha_audit::oplog::OpLog;
use ha_audit::recovery;
use ha_audit::store::Store;
use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _, Signal};
use ha_cli::report::{Both, Mode, Options, Reporter};
use ha_cli::summary::{Places, PlanPrinter, SummaryOptions};
use ha_cli::value::Amount;
use ha_sync_core::decide::DeleteMissing;
use ha_sync_core::entry::Time;
use ha_sync_core::event::{Event, Observer as _, Phase};
use ha_sync_core::filter::Rule;
use ha_sync_core::limits::{MaxDelete, MinFree};
use ha_sync_core::name::RunId;
use ha_sync_core::path::{escape, unescape};
use ha_sync_core::record::{
    Counts, Intent, Iteration, LogError, Operation, OperationKind, OperationLog, Outcome, Status, Way,
};
use ha_sync_engine::baseline::{Baseline, Ends};
use ha_sync_engine::conflicts;
use ha_sync_engine::halt::Halt;
use ha_sync_engine::state::{PairState, StateError};
use ha_sync_engine::{Environment, Finished, Fsync, Job, RunError, Stop, StopReason};
use ha_sync_fs::FsError;
use ha_sync_fs::content::Hashing;
use ha_sync_fs::error::printable_path;
use jiff::{SignedDuration, Timestamp};

use crate::settings::{self, FilterRule, Settings};
use crate::{lock, records, signals};

/// Is the direction of the iteration of a two-way run.
pub(crate) const TWO_WAY: &str = "two-way";

/// Tells the time in milliseconds, as records keep it.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// Makes the id of a run that starts now.
pub(crate) fn new_run_id(start: Timestamp) -> RunId {
    // The hasher of the standard library is seeded by the kernel.
    let random = std::hash::RandomState::new().build_hasher().finish();
    RunId::new(start, (random >> 32) as u32 ^ random as u32)
}

/// Runs the job that the settings describe.
pub(crate) fn run(settings: &Settings) -> Result<ExitCode, Failure> {
    let stop = Arc::new(Stop::default());
    signals::listen(&stop)?;
    let start = now();
    let run_id = new_run_id(start);
    let job = job(settings);
    let (log_directory, note) = records::log_directory(&settings.records)?;
    let dsn = records::dsn(&settings.records, &log_directory)?;
    let reporter = Reporter::new(Options {
        mode: Mode::choose(settings.output.log_format, settings.dry_run && !settings.output.quiet),
        verbose: settings.output.verbose,
        quiet: settings.output.quiet,
        dry_run: settings.dry_run,
    });
    if let Some(note) = note {
        reporter.note(&note);
    }
    let held = lock::take(&settings.pair, &settings.lock, &run_id, &stop).map_err(|failure| match settings.only {
        None if failure.kind() == FailureKind::LockHeld => {
            failure.hint("wait for it: --lock-wait SECONDS; or count it as a success: --skip-if-locked")
        }
        _ => failure,
    });
    let Some(lock) = held? else {
        reporter.note(&format!("the lock of pair {} is held by another run, skipped", settings.pair));
        reporter.stop();
        return Ok(ExitCode::Success);
    };
    let iteration = Iteration {
        run_id,
        sync_pair: settings.pair.clone(),
        direction: settings.direction.clone(),
        src: escape(std::os::unix::ffi::OsStrExt::as_bytes(settings.src.as_os_str())),
        dest: escape(std::os::unix::ffi::OsStrExt::as_bytes(settings.dest.as_os_str())),
        started_at: start,
        dry_run: settings.dry_run,
        lease_transitions: lock.transitions(),
    };
    let store = records::open(&dsn, &reporter);
    let own = records::own_entries(&log_directory, &dsn);
    let run = Run { settings, job, iteration, log_directory, own, stop: &stop, reporter: &reporter, store };
    let result = run.run(&dsn.to_string());
    if let Err(why) = lock.release() {
        reporter.event(Event::Warning { message: &why });
    }
    reporter.stop();
    result
}

/// Makes the failure of a command that a signal stopped.
pub(crate) fn interrupted(stop: &Stop) -> Failure {
    let signal = match stop.reason() {
        Some(StopReason::Signal(2)) => Signal::Interrupt,
        _ => Signal::Terminate,
    };
    Failure::new(FailureKind::Interrupted(signal), "interrupted")
}

/// Writes to the log on disk.
struct Log<'a>(&'a OpLog);

impl OperationLog for Log<'_> {
    fn intend(&self, intents: &[Intent]) -> Result<(), LogError> {
        self.0.intend(intents).map_err(|error| LogError(Box::new(error)))
    }

    fn append(&self, operations: &[Operation]) -> Result<(), LogError> {
        self.0.append(operations).map_err(|error| LogError(Box::new(error)))
    }
}

struct Run<'a> {
    settings: &'a Settings,
    job: Job,
    iteration: Iteration,
    log_directory: PathBuf,
    own: Vec<(u64, u64)>,
    stop: &'a Stop,
    reporter: &'a Reporter,
    store: Option<Store>,
}

impl Run<'_> {
    fn warn(&self, message: &str) {
        self.reporter.event(Event::Warning { message });
    }

    /// Says what went wrong beside the files, and goes on.
    fn warn_of(&self, what: &str, error: &(dyn std::error::Error + 'static)) {
        self.warn(&format!("{what}: {}", Failure::from_error(FailureKind::Failed, error).one_line()));
    }

    fn run(mut self, database: &str) -> Result<ExitCode, Failure> {
        let pair = &self.settings.pair;
        let load = || -> Result<PairState, StateError> {
            let mut state = PairState::load(&self.log_directory, pair)?;
            state.learn(&self.log_directory, &self.settings.whole)?;
            state.agreed(ha_sync_fs::local::exists(&Baseline::file(&self.log_directory, pair)));
            Ok(state)
        };
        let (mut state, damage) = match load() {
            Ok(state) => (state, None),
            Err(error) => {
                let seen = Failure::from_error(FailureKind::Halted, &error).one_line();
                let path = printable_path(&PairState::directory(&self.log_directory, pair).join("state.json"));
                let hint = format!("to go on without it: mv {path} {path}.damaged");
                (PairState::default(), Some(RunError::Halt(Halt { seen, hints: vec![hint] })))
            }
        };
        let divided_anew = self.settings.shard.is_some_and(|shard| state.divided(shard.count()));
        if divided_anew && !self.settings.dry_run {
            // It speaks of directories that are other shards' now, and would not be told what becomes of them.
            self.reporter.note(&format!("the tree is divided otherwise than before: {pair} forgets what was agreed"));
            ha_sync_fs::local::remove(&Baseline::file(&self.log_directory, pair)).or_failure(FailureKind::Failed)?;
        }
        let mut resolved = HashSet::new();
        let ready = damage.is_none() && !self.settings.dry_run;
        if ready {
            resolved = self.recover(&mut state)?;
        }
        let (live, dead) = self.other_runs();
        if let Some(store) = &self.store {
            records::flush(&self.log_directory, store, self.stop, &|message| self.warn(message));
        }
        let log = OpLog::create(&self.log_directory, &self.iteration)
            .or_failure(FailureKind::Failed)
            .map_err(|failure| failure.hint("is the log directory full or read-only? --log-dir DIR"))?;
        if !self.settings.dry_run {
            let begun = self.store.as_ref().map(|store| store.begin(&self.iteration));
            if let Some(Err(error)) = begun {
                self.warn_of("the start of the run is not in the audit store", &error);
                self.store = None;
            }
        }
        let options = SummaryOptions {
            format: self.settings.output.format,
            verbose: self.settings.output.verbose,
            quiet: self.settings.output.quiet,
        };
        let printer = PlanPrinter::stdout(options, &self.iteration);
        let writer = Log(&log);
        let observer = Both(self.reporter, &printer);
        // A store that fails now fails again at the end, and is reported there.
        let while_syncing = || drop(self.store.as_ref().map(|store| store.begin_flush(log.path())));
        let has_begun = Cell::new(false);
        let began = || {
            has_begun.set(true);
            let mut state = state.clone();
            self.began(&mut state);
            state.save(&self.log_directory, pair).map_err(|error| error.to_string())
        };
        let baseline = Baseline::file(&self.log_directory, pair);
        let environment = Environment {
            run: &self.iteration.run_id,
            start: self.iteration.started_at,
            now,
            log: &writer,
            observer: &observer,
            stop: self.stop,
            state: &state,
            spool: &self.log_directory,
            baseline: (!divided_anew || !self.settings.dry_run).then_some(&baseline),
            began: &began,
            while_syncing: &while_syncing,
            live,
            resolved,
            dead,
            own: self.own.clone(),
        };
        let result = match damage {
            Some(damage) => Err(damage),
            None => ha_sync_engine::run(&self.job, &environment),
        };
        if has_begun.get() {
            self.began(&mut state);
        }
        let outcome = outcome(&result);
        let already_current = self.already_current(&result);
        let mut places = Places { database: self.store.is_some().then(|| database.to_owned()), ..Places::default() };
        if already_current.is_some() {
            log.discard().or_failure(FailureKind::Failed)?;
        } else {
            let forgotten = self.forget(log.path(), &result, has_begun.get());
            let path = match forgotten {
                true => log.finish(&outcome).or_failure(FailureKind::Failed)?,
                // Without a trailer it is an interrupted run's: the next one forgets.
                false => {
                    let path = log.path().to_owned();
                    drop(log);
                    path
                }
            };
            self.finish(&mut state, &result);
            self.reporter.event(Event::Phase(Phase::Flushing));
            self.flush(&outcome);
            // How long a job keeps things is for the job to say.
            if result.is_ok() && self.job.only.is_none() {
                self.retain();
            }
            let waits = ha_sync_fs::local::exists(&path);
            places.log = waits.then(|| printable_path(&path));
        }
        places.trash = self.trash(&outcome);
        self.reporter.finish(&self.iteration, &outcome);
        printer.finish(&self.iteration, &outcome, &places, already_current).or_failure(FailureKind::Failed)?;
        self.exit(result, &outcome)
    }

    /// Goes through what interrupted runs of this pair left, and concludes their logs.
    fn recover(&self, state: &mut PairState) -> Result<HashSet<RunId>, Failure> {
        let mut resolved = HashSet::new();
        let logs = recovery::interrupted(&self.log_directory, &self.settings.pair).or_failure(FailureKind::Failed)?;
        // The halts are looked at twice only when there is something to tidy up; the run itself says what halts it.
        if logs.is_empty() || ha_sync_engine::run::preflight(&self.job, state, &self.own, self.stop).is_err() {
            return Ok(resolved);
        }
        for log in logs {
            let left = log.unresolved();
            let header = left.header.clone();
            let mut operations = Vec::new();
            if !header.dry_run {
                let root = |text: &str| {
                    let bytes = unescape(text).unwrap_or_default();
                    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
                };
                let (source, destination) = (root(&header.src), root(&header.dest));
                let found = self.resolve(&left.intents, (&source, &destination), &header.run_id);
                match found {
                    Ok(found) => operations = found,
                    Err(error) => {
                        // Its root is not there now: the log waits.
                        self.warn_of("an interrupted run cannot be gone through yet", &error);
                        continue;
                    }
                }
                let deletes = operations.iter().filter(|done| done.operation == OperationKind::Delete);
                let forgotten: Vec<_> =
                    left.forgotten.iter().chain(deletes.map(|done| &done.filepath)).cloned().collect();
                if !forgotten.is_empty() {
                    let ends = Ends::new(&self.settings.pair, &source, &destination);
                    let baseline = Baseline::file(&self.log_directory, &self.settings.pair);
                    let run = &header.run_id;
                    ha_sync_engine::recover::forget(&baseline, &ends, &forgotten, &self.log_directory, run, now())
                        .or_failure(FailureKind::Failed)?;
                }
                state.interrupted(&source, &destination, left.directories.iter().cloned());
                if !left.directories.is_empty() || !operations.is_empty() {
                    state.began(&source, &destination);
                    if header.direction.as_str() == TWO_WAY {
                        state.began(&destination, &source);
                    }
                }
                state.save(&self.log_directory, &self.settings.pair).or_failure(FailureKind::Failed)?;
            }
            let outcome = log.outcome(&operations).or_failure(FailureKind::Failed)?;
            log.conclude(&operations, &outcome).or_failure(FailureKind::Failed)?;
            self.reporter.note(&format!("run {} was interrupted; what it left is tidied up", header.run_id));
            resolved.insert(header.run_id);
        }
        Ok(resolved)
    }

    /// Forgets what a run deleted that did not get to write its baseline: put back by somebody, it would count as deleted
    /// on the other side. False when that is left to the next run.
    fn forget(&self, log: &Path, result: &Result<Finished, RunError>, has_begun: bool) -> bool {
        let pair = &self.settings.pair;
        let baseline = Baseline::file(&self.log_directory, pair);
        let agreed = result.as_ref().map_or(!has_begun, |finished| finished.agreed);
        if agreed || self.settings.dry_run || !ha_sync_fs::local::exists(&baseline) {
            return true;
        }
        // Another run may be writing the baseline now.
        if matches!(self.stop.reason(), Some(StopReason::LockLost(_))) {
            return false;
        }
        let later = |error: &(dyn std::error::Error + 'static)| {
            self.warn_of("what the run deleted is forgotten by the next one", error);
            false
        };
        let forgotten = match recovery::unresolved(log) {
            Ok(left) => left.forgotten,
            Err(error) => return later(&error),
        };
        if forgotten.is_empty() {
            return true;
        }
        let ends = Ends::new(pair, &self.settings.src, &self.settings.dest);
        let (spool, run) = (&self.log_directory, &self.iteration.run_id);
        let forgot = ha_sync_engine::recover::forget(&baseline, &ends, &forgotten, spool, run, now());
        forgot.map_or_else(|error| later(&error), |()| true)
    }

    /// Goes through the open intents of a dead run, at each root those that changed it.
    fn resolve(
        &self,
        intents: &[Intent],
        (source, destination): (&Path, &Path),
        run: &RunId,
    ) -> Result<Vec<Operation>, FsError> {
        let (backward, forward): (Vec<_>, Vec<_>) =
            intents.iter().partition(|intent| intent.direction == Some(Way::BToA));
        let resolve = |root, intents: &[&Intent]| {
            ha_sync_engine::recover::resolve(root, run, intents, self.job.keep_replaced, now(), self.stop.fence())
        };
        let mut done = resolve(destination, &forward)?;
        if !backward.is_empty() {
            done.extend(resolve(source, &backward)?);
        }
        Ok(done)
    }

    /// Returns the runs whose logs are in use, and those whose logs only wait.
    fn other_runs(&self) -> (HashSet<RunId>, HashSet<RunId>) {
        let (mut live, mut dead) = (HashSet::new(), HashSet::new());
        let run = |path: &Path| Some(ha_audit::reader::LogReader::open(path).ok()?.header().run_id.clone());
        for log in ha_audit::reader::list(&self.log_directory).unwrap_or_default() {
            let runs = if log.is_live().unwrap_or(true) { &mut live } else { &mut dead };
            runs.extend(run(&log.path));
        }
        let set_aside = ha_audit::reader::list_all_set_aside(&self.log_directory).unwrap_or_default();
        dead.extend(set_aside.iter().filter_map(|log| run(&log.path)));
        (live, dead)
    }

    /// Returns the start of the last dry run when it planned the same operations.
    fn already_current(&self, result: &Result<Finished, RunError>) -> Option<Timestamp> {
        let Ok(Finished { plan: Some(plan), status: Status::Success, .. }) = result else { return None };
        let store = self.store.as_ref()?;
        match store.last_dry_run(&self.settings.pair, &self.settings.direction) {
            Ok(Some((started_at, before))) if before == *plan => Some(started_at),
            Ok(_) => None,
            Err(error) => {
                self.warn_of("the last dry run cannot be read", &error);
                None
            }
        }
    }

    /// Remembers a finished run.
    fn finish(&self, state: &mut PairState, result: &Result<Finished, RunError>) {
        let Ok(finished) = result else { return };
        // Another run may be the one that remembers now.
        if matches!(self.stop.reason(), Some(StopReason::LockLost(_))) {
            return;
        }
        let failed = finished.status == Status::Failed;
        // A decision that could not be carried out leaves its conflict open.
        let told = if self.job.only.is_some() { finished.status == Status::Success } else { !failed };
        if told && !self.settings.dry_run && self.job.is_two_way() {
            self.keep_conflicts(finished);
        }
        if self.settings.dry_run || (failed && finished.unsettled.is_empty()) {
            return;
        }
        // One path alone tells nothing of the roots.
        if !failed && self.job.only.is_none() {
            state.finished(
                Time(self.iteration.started_at.as_nanosecond()),
                (&self.settings.src, finished.has_entries.0),
                (&self.settings.dest, finished.has_entries.1),
                &finished.mounts,
                self.settings.safety.allow_missing_mounts,
            );
            if let Some(id) = &finished.approved {
                state.approved(id);
            }
        }
        if !finished.unsettled.is_empty() {
            let directories = finished.unsettled.iter().map(ha_sync_core::path::RelPath::escaped);
            state.interrupted(&self.settings.src, &self.settings.dest, directories);
        }
        if let Err(error) = state.save(&self.log_directory, &self.settings.pair) {
            self.warn_of("the state of the pair is not saved", &error);
        }
    }

    /// Notes which conflicts are open; those of other paths stay when only one path was meant.
    fn keep_conflicts(&self, finished: &Finished) {
        let pair = &self.settings.pair;
        let mut open = finished.conflicts.clone();
        let kept = match &self.job.only {
            None => Ok(()),
            Some(only) => conflicts::load(&self.log_directory, pair).map(|before| {
                open.extend(before.into_iter().filter(|conflict| !conflict.path().is_at_or_below(only)));
            }),
        };
        if let Err(error) = kept.and_then(|()| conflicts::save(&self.log_directory, pair, open)) {
            self.warn_of("the list of open conflicts is not saved", &error);
        }
    }

    fn flush(&self, outcome: &Outcome) {
        let Some(store) = &self.store else { return };
        let counts = &outcome.counts;
        let operations = counts.files_created + counts.files_updated + counts.files_deleted + counts.files_failed;
        if self.stop.is_stopped() && operations > store.quickly_flushed() {
            return;
        }
        records::flush(&self.log_directory, store, self.stop, &|message| self.warn(message));
    }

    /// Removes what is kept for a time only.
    fn retain(&self) {
        let before =
            |days: u32| self.iteration.started_at.checked_sub(SignedDuration::from_hours(24 * i64::from(days))).ok();
        if let Some(before) = before(self.settings.log_retain_days) {
            match ha_audit::flush::retain(&self.log_directory, before, false) {
                Ok(kept) if !kept.unflushed.is_empty() => {
                    let count = kept.unflushed.len();
                    let days = self.settings.log_retain_days;
                    self.warn(&format!("{count} logs older than {days} days are not in the database yet and stay"));
                }
                Ok(_) => {}
                Err(error) => self.warn_of("old logs are not removed", &error),
            }
        }
        let days = self.settings.keep_replaced_days;
        if self.settings.dry_run || days == 0 || self.stop.is_stopped() {
            return;
        }
        let Some(before) = before(days) else { return };
        // The source has a trash too, of the other direction and of what dead runs left there.
        for root in [&self.settings.src, &self.settings.dest] {
            if let Err(error) = ha_sync_engine::restore::prune(root, before, false, self.stop.fence()) {
                self.warn_of("old trash is not removed", &error);
            }
        }
    }

    /// Returns the folders of what this run replaced and deleted, in a two-way run up to one at each root.
    fn trash(&self, outcome: &Outcome) -> Option<String> {
        let changed = outcome.counts.files_updated + outcome.counts.files_deleted > 0;
        if !changed || self.settings.dry_run {
            return None;
        }
        let folder = |root: &PathBuf| root.join(".ha-sync/trash").join(self.iteration.run_id.as_str());
        let roots = [&self.settings.src, &self.settings.dest];
        let folders: Vec<String> = roots
            .into_iter()
            .skip(usize::from(!self.job.is_two_way()))
            .map(folder)
            .filter(|path| ha_sync_fs::local::is_directory(path))
            .map(|path| printable_path(&path))
            .collect();
        (!folders.is_empty()).then(|| folders.join(", "))
    }

    /// Notes that the pair has run: a two-way run goes in both directions.
    fn began(&self, state: &mut PairState) {
        state.began(&self.settings.src, &self.settings.dest);
        if self.job.is_two_way() {
            state.began(&self.settings.dest, &self.settings.src);
        }
    }

    fn exit(&self, result: Result<Finished, RunError>, outcome: &Outcome) -> Result<ExitCode, Failure> {
        if let Some(StopReason::Signal(signal)) = self.stop.reason() {
            return Ok(if signal == 2 { ExitCode::Interrupted } else { ExitCode::Terminated });
        }
        match result {
            Ok(finished) => match self.stop.reason() {
                Some(reason) => Err(Failure::new(FailureKind::Failed, reason.to_string())),
                None => Ok(finished.status.into()),
            },
            Err(RunError::Halt(halt)) => {
                let failure = Failure::new(FailureKind::Halted, outcome.error_message.clone().unwrap_or_default());
                Err(halt.hints.into_iter().fold(failure, Failure::hint))
            }
            Err(error @ RunError::InUse(_)) => {
                Err(Failure::from_error(FailureKind::LockHeld, &error).hint("try again when the restore has ended"))
            }
            Err(error @ RunError::Filter(_)) => Err(Failure::from_error(FailureKind::Usage, &error)),
            Err(error) => Err(Failure::from_error(FailureKind::Failed, &error)),
        }
    }
}

fn outcome(result: &Result<Finished, RunError>) -> Outcome {
    let (counts, status, error_message) = match result {
        Ok(finished) => (finished.counts.clone(), finished.status, finished.error_message.clone()),
        Err(error) => {
            let line = Failure::from_error(FailureKind::Failed, error).one_line();
            (Counts::default(), Status::Failed, Some(line))
        }
    };
    Outcome { ended_at: now(), status, counts, error_message }
}

/// Takes the rules of the command line for the engine.
pub(crate) fn rules(filters: &[FilterRule]) -> Vec<Rule> {
    filters.iter().map(|rule| Rule { include: !rule.exclude, glob: rule.glob.clone() }).collect()
}

fn job(settings: &Settings) -> Job {
    Job {
        pair: settings.pair.clone(),
        mode: settings.mode,
        source: settings.src.clone(),
        destination: settings.dest.clone(),
        dry_run: settings.dry_run,
        threshold: settings.compare.mtime_threshold.as_nanos() as i128,
        checksum: settings.compare.checksum,
        shard: settings.shard,
        hard_links: settings.compare.hard_links,
        cross_mounts: settings.compare.cross_mounts,
        rules: rules(&settings.filters),
        only: settings.only.clone(),
        delete: match settings.delete {
            settings::Delete::Off => DeleteMissing::Off,
            settings::Delete::On => DeleteMissing::On,
            settings::Delete::Strict => DeleteMissing::Strict,
        },
        delete_excluded: settings.delete_excluded,
        max_delete: match settings.safety.max_delete {
            None => MaxDelete::Default,
            Some(Amount::Absolute(count)) => MaxDelete::Count(count),
            Some(Amount::Percent(percent)) => MaxDelete::Percent(percent),
        },
        approve: settings.safety.approve.clone(),
        allow_empty_root: settings.safety.allow_empty_root,
        allow_missing_mounts: settings.safety.allow_missing_mounts,
        allow_clock_skew: settings.safety.allow_clock_skew,
        require_mount: settings.safety.require_mount,
        check_access: settings.safety.check_access.clone(),
        min_free: match settings.safety.min_free {
            None => MinFree::Default,
            Some(Amount::Absolute(bytes)) => MinFree::Bytes(bytes),
            Some(Amount::Percent(percent)) => MinFree::Percent(percent),
        },
        keep_replaced: settings.keep_replaced_days > 0,
        fsync: match settings.fsync {
            settings::Fsync::Batch => Fsync::Batch,
            settings::Fsync::File => Fsync::File,
            settings::Fsync::Off => Fsync::Off,
        },
        hashing: match settings.audit_md5 {
            settings::AuditMd5::Auto => Hashing::Auto,
            settings::AuditMd5::Always => Hashing::Always,
            settings::AuditMd5::Never => Hashing::Never,
        },
        workers: settings.workers,
        walkers: settings.walkers,
    }
}
