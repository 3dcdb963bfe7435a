//! One run from the roots to the counts.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ha_sync_core::decide::{DeleteMissing, Policy};
use ha_sync_core::entry::Time;
use ha_sync_core::event::{Event, Observer, Phase};
use ha_sync_core::filter::{Filter, FilterError};
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_core::record::{Counts, Fingerprint, OperationLog, Status};
use ha_sync_fs::content::Abilities;
use ha_sync_fs::lock::{LockError, RootLock, Sharing, lock_root};
use ha_sync_fs::probe::{self, Probe};
use ha_sync_fs::{FsError, Root};
use jiff::Timestamp;

use crate::execute::{Announced, Executor, Streaming};
use crate::halt::{self, Halt};
use crate::job::{Fsync, Job};
use crate::scan::{self, Remembered, Scan, Walked};
use crate::sink::{Deletions, DryRun, Sink, Spooled};
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

/// Is mount points that were seen: at the source (true) or the destination, and where.
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
    /// Whether the roots have entries now: source, destination.
    pub has_entries: (bool, bool),
    /// Mount points that were seen: at the source (true) or the destination.
    pub mounts: Mounts,
    /// The approval that let the deletions through, when one was needed.
    pub approved: Option<String>,
    /// Directories in which the run worked and whose times it could not set.
    pub unsettled: Vec<RelPath>,
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
    filter: Filter,
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
    let source = halt::open_root("source", &job.source, job.cross_mounts)?.fenced(stop.fence());
    let destination = halt::open_root("destination", &job.destination, job.cross_mounts)?.fenced(stop.fence());
    halt::check_apart(&source, &destination)?;
    let sides = [("source", &source), ("destination", &destination)];
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
    let ignore_file = retry(|| scan::read_ignore_file(&source))??;
    let filter = Filter::new(&job.rules, ignore_file.as_deref())?;
    let is_empty = |root| retry(|| halt::is_empty(root, &filter, own));
    let emptiness = (is_empty(&source)?, is_empty(&destination)?);
    halt::check_emptied(job, state, (&source, emptiness.0), (&destination, emptiness.1))?;
    let source_probe = retry(|| probe::probe(&source, !job.dry_run))?;
    let destination_probe = retry(|| probe::probe(&destination, !job.dry_run))?;
    halt::check_clocks(job, &source_probe, &destination_probe)?;
    Ok(Checked { source, destination, filter, emptiness, source_probe, destination_probe })
}

/// Runs a job.
pub fn run(job: &Job, environment: &Environment<'_>) -> Result<Finished, RunError> {
    let Checked { source, destination, filter, emptiness, source_probe, destination_probe } =
        check(job, environment.state, &environment.own, environment.stop)?;
    // A restore moves entries at a root; runs of whatever pairs may share it.
    let _source_lock = share(&source, job)?;
    let _destination_lock = share(&destination, job)?;
    let tally = Tally::new(environment.observer);
    tell_of_probes(&tally, job, &source_probe, &destination_probe);
    let policy = policy(job, environment, &source_probe, &destination_probe);
    let remembered = remember(job, environment);
    let prepared = Prepared {
        job,
        environment,
        source: &source,
        destination: &destination,
        policy: &policy,
        filter: &filter,
        remembered: &remembered,
        tally: &tally,
        attributes: source_probe.attributes && destination_probe.attributes,
        remote: source_probe.remote || destination_probe.remote,
        modes: destination_probe.modes,
        approved: OnceCell::new(),
    };
    environment.observer.event(Event::Phase(Phase::Scanning));
    let (mounts, plan, unsettled) = if job.dry_run {
        let (mounts, plan) = prepared.dry_run()?;
        (mounts, Some(plan), Vec::new())
    } else {
        let (mounts, unsettled) = prepared.execute()?;
        (mounts, None, unsettled)
    };
    let (counts, first_failure) = tally.counts();
    let (status, error_message) = match environment.stop.reason() {
        Some(reason) => (Status::Failed, Some(reason.to_string())),
        None if counts.files_failed > 0 => {
            let first = first_failure.unwrap_or_default();
            (Status::PartialFailure, Some(format!("{} failed, first: {first}", counts.files_failed)))
        }
        None => match unsettled.first() {
            Some(path) => (Status::PartialFailure, Some(format!("the time of a directory could not be set: {path}"))),
            None => (Status::Success, None),
        },
    };
    let has_entries = (!emptiness.0, !halt::is_empty(&destination, &filter, &environment.own).unwrap_or(emptiness.1));
    let approved = prepared.approved.into_inner();
    Ok(Finished { counts, status, error_message, plan, has_entries, mounts, approved, unsettled })
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

fn policy(job: &Job, environment: &Environment<'_>, source: &Probe, destination: &Probe) -> Policy {
    let granularity = source.granularity.max(destination.granularity);
    // Below a millisecond no edit can hide in a tick.
    let coarse = granularity > 1_000_000;
    Policy {
        start: Time(environment.start.as_nanosecond()),
        threshold: job.threshold,
        granularity,
        last_start: environment.state.last_start().filter(|_| coarse),
        checksum: job.checksum,
        delete: job.delete,
        two_directions: environment.state.runs_backwards(&job.source, &job.destination),
        owners: destination.owners,
        modes: destination.modes,
    }
}

fn remember(job: &Job, environment: &Environment<'_>) -> Remembered {
    let state = environment.state;
    let (source, destination) = (&job.source, &job.destination);
    Remembered {
        source_mounts: state.mounts(source).into_iter().collect(),
        destination_mounts: state.mounts(destination).into_iter().collect(),
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
    for (side, probe) in [("source", source), ("destination", destination)] {
        if probe.clock.is_none() && !job.allow_clock_skew {
            let message = format!("clock skew is not checked: no file can be made on the {side} side now");
            tally.warn_once(if side == "source" { "source clock" } else { "destination clock" }, &message);
        }
    }
    if source.attributes != destination.attributes {
        let side = if source.attributes { "destination" } else { "source" };
        let message = format!("extended attributes and ACLs are not synchronised: the {side} side has none");
        tally.warn_once("attributes", &message);
    }
    if !destination.modes {
        tally.warn_once("modes", "permission bits are not synchronised: the destination side has none");
    }
}

struct Prepared<'a> {
    job: &'a Job,
    environment: &'a Environment<'a>,
    source: &'a Root,
    destination: &'a Root,
    policy: &'a Policy,
    filter: &'a Filter,
    remembered: &'a Remembered,
    tally: &'a Tally<'a>,
    attributes: bool,
    remote: bool,
    modes: bool,
    approved: OnceCell<String>,
}

impl<'a> Prepared<'a> {
    fn walk(&self, sink: &dyn Sink) -> Result<Walked, FsError> {
        let privileged = rustix::process::geteuid().is_root();
        let scan = Scan::new(
            self.job,
            self.environment.run,
            (self.source, self.destination),
            self.policy,
            self.filter,
            self.remembered,
            (self.attributes, privileged, self.remote),
            sink,
            self.tally,
            self.environment.stop,
        );
        scan.walk(self.job.walkers.unwrap_or_else(|| scan::default_walkers(self.remote)))
    }

    fn dry_run(&self) -> Result<(Mounts, Fingerprint), RunError> {
        let sink = DryRun {
            log: self.environment.log,
            tally: self.tally,
            stop: self.environment.stop,
            now: self.environment.now,
            plan: Default::default(),
            deletions: Deletions::default(),
        };
        let walked = self.walk(&sink)?;
        for batch in walked.links {
            sink.take(batch);
        }
        let (deletes, id) = (sink.deletions.count(), self.environment.state.approval_id(&sink.deletions.id()));
        if let Err(halt) = halt::check_deletes(self.job, deletes, self.tally.entries(), &id) {
            self.tally.warn_once("halt", &format!("a real run would halt: {halt}"));
        }
        let plan = *lock(&sink.plan);
        Ok((walked.mounts, plan))
    }

    fn execute(&self) -> Result<(Mounts, Vec<RelPath>), RunError> {
        let (_, total) = self.destination.space()?;
        let executor = Executor {
            job: self.job,
            run: self.environment.run,
            source: self.source,
            destination: self.destination,
            log: self.environment.log,
            tally: self.tally,
            stop: self.environment.stop,
            now: self.environment.now,
            attributes: self.attributes,
            privileged: rustix::process::geteuid().is_root(),
            owners: AtomicBool::new(self.policy.owners),
            modes: self.modes,
            granularity: self.policy.granularity,
            min_free: self.job.min_free.bytes(total),
            ways: Default::default(),
            abilities: Abilities::new(self.remote),
            closed: Default::default(),
            removed: Default::default(),
            promised: Default::default(),
            unsettled: Default::default(),
        };
        let walked = if self.job.delete == DeleteMissing::Off {
            self.begin();
            executor.with_workers(|streaming| self.walk(&Announced { inner: streaming }))?
        } else {
            self.plan_then_execute(&executor)?
        };
        if !walked.links.is_empty() {
            executor.with_workers(|streaming| {
                for batch in walked.links {
                    Announced { inner: streaming }.take(batch);
                }
            });
        }
        executor.close_directories();
        self.settle();
        Ok((walked.mounts, std::mem::take(&mut *lock(&executor.unsettled))))
    }

    fn begin(&self) {
        if let Err(why) = (self.environment.began)() {
            self.environment.stop.stop(StopReason::Log(why));
        }
    }

    /// With deletions, nothing is executed before the whole plan is known to be within the limits.
    fn plan_then_execute(&self, executor: &Executor<'a>) -> Result<Walked, RunError> {
        let stop = self.environment.stop;
        let observer = self.environment.observer;
        let spool = || Spool::new(self.environment.spool);
        let spooled = Spooled {
            plan: spool()?,
            deletes: spool()?,
            removals: spool()?,
            deletions: Deletions::default(),
            tally: self.tally,
            stop,
        };
        let walked = self.walk(&spooled)?;
        if stop.is_stopped() {
            return Ok(walked);
        }
        let deletions = &spooled.deletions;
        let id = self.environment.state.approval_id(&deletions.id());
        let needed = halt::check_deletes(self.job, deletions.count(), self.tally.entries(), &id)?;
        if needed {
            let _ = self.approved.set(id);
        }
        let replay = |spool: &Spool, take: fn(&Streaming<'_, 'a>, ha_sync_core::plan::Batch)| {
            executor.with_workers(|streaming| {
                spool.replay(|batch| {
                    take(streaming, batch);
                    !stop.is_stopped()
                })
            })
        };
        self.begin();
        observer.event(Event::Phase(Phase::Executing));
        replay(&spooled.plan, |streaming, batch| drop(streaming.take(batch)))?;
        observer.event(Event::Phase(Phase::Deleting));
        replay(&spooled.deletes, |streaming, batch| streaming.take_deletes(batch))?;
        replay(&spooled.removals, |streaming, batch| streaming.take_removal(batch))?;
        Ok(walked)
    }

    /// Gives the destination's root its time back and makes everything durable.
    fn settle(&self) {
        let (counts, _) = self.tally.counts();
        if counts.files_created + counts.files_updated + counts.files_deleted + counts.files_failed == 0 {
            return;
        }
        // A read-only destination has nothing to settle.
        if let Some(StopReason::ReadOnly(_)) = self.environment.stop.reason() {
            return;
        }
        let root = self.destination.open_dir(&RelPath::root());
        if let Err(error) = root.and_then(|root| root.set_mtime(self.destination.entry().mtime)) {
            self.tally.warn_once("directory times", &error.to_line());
        }
        if self.job.fsync == Fsync::Batch && !self.environment.stop.is_stopped() {
            self.environment.observer.event(Event::Phase(Phase::Syncing));
            let synced = std::thread::scope(|scope| {
                let sync = || self.destination.sync().and_then(|()| self.source.sync());
                let syncing = std::thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, sync);
                (self.environment.while_syncing)();
                match syncing {
                    Ok(syncing) => syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    Err(_) => sync(),
                }
            });
            // The kernel tells of a lost page once only: trying again would hide it.
            if let Err(error) = synced {
                self.environment.stop.stop(StopReason::Sync(error.to_line()));
            }
        }
    }
}
