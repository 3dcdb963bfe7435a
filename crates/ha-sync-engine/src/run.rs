//! One run from the roots to the counts.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use ha_sync_core::baseline::Side;
use ha_sync_core::decide::{DeleteMissing, Policy};
use ha_sync_core::entry::{Entry, Time};
use ha_sync_core::event::{Event, Observer, Phase};
use ha_sync_core::filter::{Filter, FilterError};
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_core::plan::Batch;
use ha_sync_core::reconcile::Rules;
use ha_sync_core::record::{Counts, Fingerprint, OperationLog, Status};
use ha_sync_fs::content::Abilities;
use ha_sync_fs::lock::{LockError, RootLock, Sharing, lock_root};
use ha_sync_fs::probe::{self, Probe};
use ha_sync_fs::{FsError, Root};
use jiff::Timestamp;
use rustix::io::Errno;

use crate::agree::Agreements;
use crate::baseline::{Baseline, BaselineError, Ends, Update};
use crate::conflicts::Conflict;
use crate::execute::{Announced, Crew, Executor, error_line};
use crate::halt::{self, Halt};
use crate::job::{Fsync, Job, Mode};
use crate::renames::Renames;
use crate::scan::{self, Deciding, Remembered, Scan, Setting, Walked};
use crate::sink::{Deletions, DryRun, Sink, Spooled, way};
use crate::spool::{Spool, SpoolError};
use crate::state::PairState;
use crate::stop::{Stop, StopReason};
use crate::tally::{Tally, lock};

/// Is what a run is given besides its job.
pub struct Environment<'a> {
    /// Identifies the run.
    pub run: &'a RunId,
    /// When it began.
    pub start: Timestamp,
    /// The clock, in milliseconds.
    pub now: fn() -> Timestamp,
    /// Where operations are written.
    pub log: &'a dyn OperationLog,
    /// Who hears what happens.
    pub observer: &'a dyn Observer,
    /// Stops the run.
    pub stop: &'a Stop,
    /// What is remembered of the pair.
    pub state: &'a PairState,
    /// Where a large plan waits.
    pub spool: &'a Path,
    /// Where the pair's baseline is, or will be; without one every run is a first one.
    pub baseline: Option<&'a Path>,
    /// Told when the run has passed every halt and begins to work; the run stops when that cannot be remembered.
    pub began: &'a dyn Fn() -> Result<(), String>,
    /// What can be done while the file systems write everything back; the log is complete but for its trailer.
    pub while_syncing: &'a dyn Fn(),
    /// Runs that are going on, of other pairs.
    pub live: HashSet<RunId>,
    /// Dead runs whose logs were gone through.
    pub resolved: HashSet<RunId>,
    /// Dead runs whose logs wait, for a run of their pair or for the store.
    pub dead: HashSet<RunId>,
    /// Devices and inodes of what the run itself writes: the log directory, the database.
    pub own: Vec<(u64, u64)>,
}

/// Is mount points that were seen: at the source or A (true) or the destination or B, and where.
pub type Mounts = Vec<(bool, RelPath)>;

/// Is how a run ended that was not halted.
#[derive(Debug)]
pub struct Finished {
    /// What was counted.
    pub counts: Counts,
    /// Success, partial failure, or failed when it was stopped.
    pub status: Status,
    /// What stopped it, or the first failure.
    pub error_message: Option<String>,
    /// The set of planned operations, in a dry run.
    pub plan: Option<Fingerprint>,
    /// Conflicts that stay open.
    pub conflicts: Vec<Conflict>,
    /// Whether the roots have entries now: source, destination.
    pub has_entries: (bool, bool),
    /// Mount points that were seen: at the source (true) or the destination.
    pub mounts: Mounts,
    /// The approval that let the deletions through, when one was needed.
    pub approved: Option<String>,
    /// Directories in which the run worked and whose times it could not set.
    pub unsettled: Vec<RelPath>,
    /// Whether the baseline says what the run came to. If not, it still has what the run deleted: that must be forgotten
    /// before the next run judges by it.
    pub agreed: bool,
}

/// Says why a run ended before it could do anything.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A safety rule.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// A restore works at a root.
    #[error(transparent)]
    InUse(#[from] LockError),
    /// A root could not be scanned.
    #[error("failed to scan the roots")]
    Scan(#[from] FsError),
    /// A line of the ignore file, or a glob.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The plan could not be kept.
    #[error(transparent)]
    Spool(SpoolError),
    /// What is agreed could not be kept.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
}

impl From<SpoolError> for RunError {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

/// Tries again after a transient error.
fn retry<T>(mut step: impl FnMut() -> Result<T, FsError>) -> Result<T, FsError> {
    for pause in crate::execute::BACKOFF {
        match step() {
            Err(error) if error.is_transient() => std::thread::sleep(pause),
            other => return other,
        }
    }
    step()
}

/// Is two roots that passed the halts that need no scan.
struct Checked {
    source: Root,
    destination: Root,
    filters: Vec<Filter>,
    /// Whether there is nothing to synchronise: at the source, at the destination.
    emptiness: (bool, bool),
    source_probe: Probe,
    destination_probe: Probe,
}

/// Checks the halts that need no scan, without a change to either root. What an interrupted run left is tidied up
/// only when they pass: else the roots may not be the ones that it worked in.
pub fn preflight(job: &Job, state: &PairState, own: &[(u64, u64)], stop: &Stop) -> Result<(), RunError> {
    check(job, state, own, stop).map(drop)
}

fn check(job: &Job, state: &PairState, own: &[(u64, u64)], stop: &Stop) -> Result<Checked, RunError> {
    let [one, other] = job.sides();
    let source = halt::open_root(one, &job.source, job.cross_mounts)?.fenced(stop.fence());
    let destination = halt::open_root(other, &job.destination, job.cross_mounts)?.fenced(stop.fence());
    halt::check_apart(job, &source, &destination)?;
    let sides = [(one, &source), (other, &destination)];
    for (side, root) in sides {
        halt::check_log_directory(side, root, own)?;
    }
    if job.require_mount {
        for (side, root) in sides {
            halt::check_mounted(side, root)?;
        }
    }
    if let Some(file) = &job.check_access {
        for (side, root) in sides {
            halt::check_access(side, root, file)?;
        }
    }
    let filters = filters(job, &source, &destination)?;
    let is_empty = |root| retry(|| halt::is_empty(root, &filters, own));
    let emptiness = (is_empty(&source)?, is_empty(&destination)?);
    halt::check_emptied(job, state, (&source, emptiness.0), (&destination, emptiness.1))?;
    let source_probe = retry(|| probe::probe(&source, !job.dry_run))?;
    let destination_probe = retry(|| probe::probe(&destination, !job.dry_run))?;
    halt::check_clocks(job, &source_probe, &destination_probe)?;
    Ok(Checked { source, destination, filters, emptiness, source_probe, destination_probe })
}

/// Reads the ignore file of the source, or of both sides.
fn filters(job: &Job, source: &Root, destination: &Root) -> Result<Vec<Filter>, RunError> {
    let content = retry(|| scan::read_ignore_file(source))??;
    let mut filters = vec![Filter::new(&job.rules, content.as_deref())?];
    if job.is_two_way() {
        let other = retry(|| scan::read_ignore_file(destination))??;
        if other != content {
            filters.push(Filter::new(&job.rules, other.as_deref())?);
        }
    }
    if let Some(only) = &job.only {
        filters = filters.into_iter().map(|filter| filter.only(only.clone())).collect();
    }
    Ok(filters)
}

/// Runs a job.
pub fn run(job: &Job, environment: &Environment<'_>) -> Result<Finished, RunError> {
    let Checked { source, destination, filters, emptiness, source_probe, destination_probe } =
        check(job, environment.state, &environment.own, environment.stop)?;
    // A restore moves entries at a root; runs of whatever pairs may share it.
    let _source_lock = share(&source, job)?;
    let _destination_lock = share(&destination, job)?;
    let tally = Tally::new(environment.observer);
    tell_of_probes(&tally, job, &source_probe, &destination_probe);
    let agreements = agreements(job, environment, &tally)?;
    let remote = source_probe.remote || destination_probe.remote;
    let prepared = Prepared {
        job,
        environment,
        roots: [&source, &destination],
        deciding: &deciding(job, environment, &source_probe, &destination_probe),
        filters: &filters,
        remembered: &remember(job, environment),
        agreements: agreements.as_ref(),
        tally: &tally,
        attributes: source_probe.attributes && destination_probe.attributes,
        remote,
        modes: [source_probe.modes, destination_probe.modes],
        owners: [source_probe.owners, destination_probe.owners],
        granularity: source_probe.granularity.max(destination_probe.granularity),
        approved: OnceCell::new(),
        unkept: Default::default(),
        kept: Default::default(),
    };
    environment.observer.event(Event::Phase(Phase::Scanning));
    let Ran { mounts, conflicts, plan, unsettled } = if job.dry_run { prepared.dry_run() } else { prepared.execute() }?;
    let approved = prepared.approved.into_inner();
    let baseline = agreements.map_or(Ok(true), |agreements| conclude(agreements, environment));
    let agreed = matches!(baseline, Ok(true));
    let (counts, first_failure) = tally.counts();
    let (status, error_message) = match environment.stop.reason() {
        Some(reason) => (Status::Failed, Some(reason.to_string())),
        None if counts.files_failed > 0 => {
            let first = first_failure.unwrap_or_default();
            (Status::PartialFailure, Some(format!("{} failed, first: {first}", counts.files_failed)))
        }
        None => match (unsettled.first(), baseline, conflicts.len()) {
            (Some(path), ..) => {
                (Status::PartialFailure, Some(format!("the time of a directory could not be set: {path}")))
            }
            (None, Err(error), _) => (Status::PartialFailure, Some(error_line(&error))),
            (None, Ok(_), 0) => (Status::Success, None),
            (None, Ok(_), open) => {
                let path = conflicts[0].path();
                (
                    Status::PartialFailure,
                    Some(format!("{open} changed on both sides and left as they are, first: {path}")),
                )
            }
        },
    };
    let is_empty = |root: &Root| halt::is_empty(root, &filters, &environment.own);
    let source_emptiness = if job.is_two_way() { is_empty(&source).unwrap_or(emptiness.0) } else { emptiness.0 };
    let has_entries = (!source_emptiness, !is_empty(&destination).unwrap_or(emptiness.1));
    Ok(Finished { counts, status, error_message, plan, conflicts, has_entries, mounts, approved, unsettled, agreed })
}

/// Opens the pair's baseline, when the job has a use for it: a pair that only ever ran in one direction is a mirror.
/// One that cannot be used counts as absent.
fn agreements<'a>(
    job: &Job,
    environment: &Environment<'a>,
    tally: &'a Tally<'a>,
) -> Result<Option<Agreements<'a>>, RunError> {
    let backwards = environment.state.runs_backwards(&job.source, &job.destination);
    let Some(path) = environment.baseline.filter(|_| job.is_two_way() || backwards) else { return Ok(None) };
    let ends = Ends::new(&job.pair, &job.source, &job.destination);
    let old = Baseline::open(path, &ends).unwrap_or_else(|error| {
        tally.warn_once("baseline", &format!("{}: it counts as absent, nothing is deleted", error_line(&error)));
        None
    });
    let update = match job.dry_run {
        true => None,
        false => Some(Update::new(environment.spool, &ends)?),
    };
    Ok(Some(Agreements::new(path.to_owned(), old, update, tally, environment.stop)))
}

/// Writes the next baseline, unless it may say more than is durable, or another run may be writing it; tells whether the
/// baseline says now what the run came to.
fn conclude(agreements: Agreements<'_>, environment: &Environment<'_>) -> Result<bool, BaselineError> {
    match environment.stop.reason() {
        None | Some(StopReason::Signal(_)) => agreements.finish(environment.run, (environment.now)()).map(|()| true),
        Some(_) => Ok(!agreements.has_news()),
    }
}

fn share(root: &Root, job: &Job) -> Result<Option<RootLock>, RunError> {
    match lock_root(root, Sharing::Shared) {
        _ if job.dry_run => Ok(None),
        Ok(lock) => Ok(Some(lock)),
        Err(error @ LockError::RootInUse { .. }) => Err(error.into()),
        // A file system without locks: a restore says so there.
        Err(_) => Ok(None),
    }
}

fn deciding(job: &Job, environment: &Environment<'_>, source: &Probe, destination: &Probe) -> Deciding {
    let granularity = source.granularity.max(destination.granularity);
    // Below a millisecond no edit can hide in a tick.
    let coarse = granularity > 1_000_000;
    let start = Time(environment.start.as_nanosecond());
    let last_start = environment.state.last_start().filter(|_| coarse);
    let (threshold, checksum) = (job.threshold, job.checksum);
    match job.mode {
        Mode::OneWay => Deciding::OneWay(Policy {
            start,
            threshold,
            granularity,
            last_start,
            checksum,
            delete: job.delete,
            two_directions: environment.state.runs_backwards(&job.source, &job.destination),
            owners: destination.owners,
            modes: destination.modes,
        }),
        Mode::TwoWay(conflict) => Deciding::TwoWay(Rules {
            start,
            threshold,
            granularity,
            last_start,
            checksum,
            conflict,
            owners: source.owners && destination.owners,
            modes: source.modes && destination.modes,
        }),
    }
}

fn remember(job: &Job, environment: &Environment<'_>) -> Remembered {
    let state = environment.state;
    let (source, destination) = (&job.source, &job.destination);
    Remembered {
        mounts: [source, destination].map(|root| state.mounts(root).into_iter().collect()),
        unfinished: state.unfinished(source, destination).map(str::to_owned).collect(),
        unfinished_backwards: state.unfinished(destination, source).map(str::to_owned).collect(),
        live: environment.live.clone(),
        resolved: environment.resolved.clone(),
        dead: environment.dead.clone(),
        own: environment.own.clone(),
    }
}

/// Says once what cannot be checked or kept.
fn tell_of_probes(tally: &Tally<'_>, job: &Job, source: &Probe, destination: &Probe) {
    let [one, other] = job.sides();
    for (kind, side, probe) in [("source clock", one, source), ("destination clock", other, destination)] {
        if probe.clock.is_none() && !job.allow_clock_skew {
            let message = format!("clock skew is not checked: no file can be made on the {side} side now");
            tally.warn_once(kind, &message);
        }
    }
    if source.attributes != destination.attributes {
        let side = if source.attributes { other } else { one };
        let message = format!("extended attributes and ACLs are not synchronised: the {side} side has none");
        tally.warn_once("attributes", &message);
    }
    if !destination.modes || (job.is_two_way() && !source.modes) {
        let side = if destination.modes { one } else { other };
        tally.warn_once("modes", &format!("permission bits are not synchronised: the {side} side has none"));
    }
}

struct Prepared<'a> {
    job: &'a Job,
    environment: &'a Environment<'a>,
    roots: [&'a Root; 2],
    deciding: &'a Deciding,
    filters: &'a [Filter],
    remembered: &'a Remembered,
    agreements: Option<&'a Agreements<'a>>,
    tally: &'a Tally<'a>,
    attributes: bool,
    remote: bool,
    modes: [bool; 2],
    owners: [bool; 2],
    granularity: i128,
    approved: OnceCell<String>,
    unkept: Arc<Mutex<HashSet<RelPath>>>,
    kept: Arc<Mutex<HashMap<RelPath, Entry>>>,
}

/// Is what a run came to besides its counts.
struct Ran {
    mounts: Mounts,
    conflicts: Vec<Conflict>,
    plan: Option<Fingerprint>,
    unsettled: Vec<RelPath>,
}

impl<'a> Prepared<'a> {
    fn walk(&self, sink: &dyn Sink) -> Result<Walked, FsError> {
        let setting = Setting {
            job: self.job,
            run: self.environment.run,
            roots: self.roots,
            deciding: self.deciding,
            filters: self.filters,
            remembered: self.remembered,
            agreements: self.agreements,
            attributes: self.attributes,
            privileged: rustix::process::geteuid().is_root(),
            remote: self.remote,
            tally: self.tally,
            stop: self.environment.stop,
        };
        Scan::new(setting, sink).walk(self.job.walkers.unwrap_or_else(|| scan::default_walkers(self.remote)))
    }

    fn dry_run(&self) -> Result<Ran, RunError> {
        let stop = self.environment.stop;
        let sink = DryRun {
            job: self.job,
            log: self.environment.log,
            tally: self.tally,
            stop,
            now: self.environment.now,
            plan: Default::default(),
            deletions: Default::default(),
        };
        let (walked, planned) = if self.job.is_two_way() {
            // What turns out to be a rename is known when the scan is done.
            let planned = self.plan()?;
            planned.replay(&Stage::ALL, |_, batch| {
                sink.note(&batch);
                !stop.is_stopped()
            })?;
            (planned.walked, Some(planned.spooled.deletions))
        } else {
            let walked = self.walk(&sink)?;
            for batch in &walked.links {
                sink.note(batch);
            }
            (walked, None)
        };
        let deletions = planned.as_ref().unwrap_or(&sink.deletions);
        let id = self.environment.state.approval_id(&Deletions::id(deletions));
        if let Err(halt) = self.check_deletes(deletions, &id) {
            self.tally.warn_once("halt", &format!("a real run would halt: {halt}"));
        }
        let plan = Some(*lock(&sink.plan));
        Ok(Ran { mounts: walked.mounts, conflicts: walked.conflicts, plan, unsettled: Vec::new() })
    }

    fn check_deletes(&self, deletions: &[Deletions; 2], id: &str) -> Result<bool, Halt> {
        let entries = Side::BOTH.map(|side| self.tally.entries(side));
        halt::check_deletes(self.job, [deletions[0].count(), deletions[1].count()], entries, id)
    }

    fn executor(&self, to: Side) -> Result<Executor<'a>, FsError> {
        let destination = self.roots[to as usize];
        let (_, total) = destination.space()?;
        Ok(Executor {
            job: self.job,
            run: self.environment.run,
            roots: self.roots,
            destination,
            direction: way(self.job, to),
            agreements: self.agreements,
            log: self.environment.log,
            tally: self.tally,
            stop: self.environment.stop,
            now: self.environment.now,
            attributes: self.attributes,
            privileged: rustix::process::geteuid().is_root(),
            owners: AtomicBool::new(self.owners[to as usize]),
            modes: self.modes[to as usize],
            granularity: self.granularity,
            min_free: self.job.min_free.bytes(total),
            full: AtomicBool::new(false),
            ways: Default::default(),
            abilities: Abilities::new(self.remote),
            closed: Default::default(),
            removed: Default::default(),
            promised: Default::default(),
            unkept: Arc::clone(&self.unkept),
            kept: Arc::clone(&self.kept),
            unsettled: Default::default(),
        })
    }

    fn execute(&self) -> Result<Ran, RunError> {
        let backward = self.job.is_two_way().then(|| self.executor(Side::A)).transpose()?;
        let crew = Crew { forward: self.executor(Side::B)?, backward };
        let walked = if self.job.delete == DeleteMissing::Off && !self.job.is_two_way() {
            self.begin();
            crew.with_workers(|streaming| self.walk(&Announced { inner: streaming }))?
        } else {
            self.plan_then_execute(&crew)?
        };
        if !walked.links.is_empty() {
            crew.with_workers(|streaming| {
                for batch in walked.links {
                    Announced { inner: streaming }.take(batch);
                }
            });
        }
        let mut unsettled = Vec::new();
        for executor in crew.each() {
            executor.close_directories();
            unsettled.append(&mut lock(&executor.unsettled));
        }
        self.settle(&walked.mounts);
        Ok(Ran { mounts: walked.mounts, conflicts: walked.conflicts, plan: None, unsettled })
    }

    fn begin(&self) {
        if let Err(why) = (self.environment.began)() {
            self.environment.stop.stop(StopReason::Log(why));
        }
    }

    /// Scans to the end, and keeps what is to be done.
    fn plan(&self) -> Result<Plan<'a>, RunError> {
        let stop = self.environment.stop;
        let spool = || Spool::new(self.environment.spool);
        let spooled = Spooled {
            kept: spool()?,
            plan: spool()?,
            deletes: spool()?,
            removals: spool()?,
            deletions: Default::default(),
            vanished: Default::default(),
            tally: self.tally,
            stop,
        };
        let walked = self.walk(&spooled)?;
        let renames = spool()?;
        let found = match self.job.is_two_way() && !stop.is_stopped() {
            true => Renames::find(&spooled, &renames, self.roots, stop)?,
            false => Renames::default(),
        };
        Ok(Plan { walked, spooled, renames, found })
    }

    /// With deletions, nothing is executed before the whole plan is known to be within the limits.
    fn plan_then_execute(&self, crew: &Crew<'a>) -> Result<Walked, RunError> {
        let stop = self.environment.stop;
        let plan = self.plan()?;
        if stop.is_stopped() {
            return Ok(plan.walked);
        }
        let id = self.environment.state.approval_id(&Deletions::id(&plan.spooled.deletions));
        if self.check_deletes(&plan.spooled.deletions, &id)? {
            let _ = self.approved.set(id);
        }
        self.begin();
        let observer = self.environment.observer;
        for stage in Stage::ALL {
            match stage {
                Stage::Kept => observer.event(Event::Phase(Phase::Executing)),
                Stage::Deletes => observer.event(Event::Phase(Phase::Deleting)),
                Stage::Plan | Stage::Renames | Stage::Removals => {}
            }
            // Each stage is done before the next begins.
            crew.with_workers(|streaming| {
                plan.replay(&[stage], |stage, batch| {
                    match stage {
                        Stage::Plan | Stage::Renames => drop(streaming.take(batch)),
                        Stage::Kept => streaming.take_kept(batch),
                        Stage::Deletes => streaming.take_deletes(batch),
                        Stage::Removals => streaming.take_removal(batch),
                    }
                    !stop.is_stopped()
                })
            })?;
        }
        Ok(plan.walked)
    }

    /// Gives the roots their times back and makes everything durable.
    fn settle(&self, mounts: &Mounts) {
        let (counts, _) = self.tally.counts();
        let wrote = counts.files_created + counts.files_updated + counts.files_deleted + counts.files_failed > 0;
        let agreed = self.agreements.is_some_and(Agreements::has_news);
        let stopped = self.environment.stop.reason();
        // A read-only destination has nothing to settle.
        if !(wrote || agreed) || matches!(stopped, Some(StopReason::ReadOnly(_))) {
            return;
        }
        let written = if self.job.is_two_way() { &self.roots[..] } else { &self.roots[1..] };
        for written in written.iter().filter(|_| wrote) {
            let root = written.open_dir(&RelPath::root());
            if let Err(error) = root.and_then(|root| root.set_mtime(written.entry().mtime)) {
                self.tally.warn_once("directory times", &error.to_line());
            }
        }
        // What the baseline says is agreed must outlive a power cut: what is missing later counts as deleted.
        let for_baseline = agreed && matches!(stopped, None | Some(StopReason::Signal(_)));
        if for_baseline || (self.job.fsync == Fsync::Batch && stopped.is_none()) {
            self.sync(mounts);
        }
    }

    fn sync(&self, mounts: &Mounts) {
        self.environment.observer.event(Event::Phase(Phase::Syncing));
        let synced = std::thread::scope(|scope| {
            let [source, destination] = self.roots;
            let (roots, crossed) = (self.roots, self.job.cross_mounts);
            let sync = move || {
                let synced = destination.sync().and_then(|()| source.sync());
                synced.and_then(|()| if crossed { sync_mounts(roots, mounts) } else { Ok(()) })
            };
            let syncing = std::thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, sync);
            (self.environment.while_syncing)();
            match syncing {
                Ok(syncing) => syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(_) => sync(),
            }
        });
        // The kernel tells of a lost page once only: trying again would hide it.
        if let Err(error) = synced {
            self.environment.stop.stop_over(StopReason::Sync(error.to_line()));
        }
    }
}

/// Makes durable what was written on other file systems below the roots.
fn sync_mounts(roots: [&Root; 2], mounts: &Mounts) -> Result<(), FsError> {
    for (at_source, path) in mounts {
        let mounted = roots[usize::from(!at_source)].open_dir(path);
        match mounted.and_then(|mounted| mounted.sync_file_system()) {
            // Unmounted meanwhile, it was made durable by that.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Is a scan that is done and what it planned, in the order in which it is executed.
struct Plan<'a> {
    walked: Walked,
    spooled: Spooled<'a>,
    renames: Spool,
    found: Renames,
}

/// Is a part of a plan that is done before the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Copies of losers of conflicts.
    Kept,
    /// What is made, replaced or given other metadata.
    Plan,
    Renames,
    Deletes,
    Removals,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Kept, Self::Plan, Self::Renames, Self::Deletes, Self::Removals];
}

impl Plan<'_> {
    fn replay(&self, stages: &[Stage], mut take: impl FnMut(Stage, Batch) -> bool) -> Result<(), SpoolError> {
        for stage in stages {
            let spool = match stage {
                Stage::Kept => &self.spooled.kept,
                Stage::Plan => &self.spooled.plan,
                Stage::Renames => &self.renames,
                Stage::Deletes => &self.spooled.deletes,
                Stage::Removals => &self.spooled.removals,
            };
            if spool.is_empty() {
                continue;
            }
            spool.replay(|batch| match stage {
                Stage::Renames => take(*stage, batch),
                _ => self.found.without(batch).is_none_or(|batch| take(*stage, batch)),
            })?;
        }
        Ok(())
    }
}
