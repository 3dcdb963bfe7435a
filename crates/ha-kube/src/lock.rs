//! Takes a Lease, keeps it on a thread of its own, and gives it back. What to do is decided in [`crate::lease`].

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use ha_sync_fs::Fence;
use ha_sync_fs::fence::since_boot;
use kube::Client;
use tokio::sync::oneshot;

use crate::access::{Access, AccessError};
use crate::api::{ApiError, Leases, Reply};
use crate::lease::{Action, Intent, Loss, Role, Watched, decide};

/// How long an API server may fail before a run that wants its lock fails too.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a contender looks, and a holder makes sure that the Lease is still its own.
const LOOK: Duration = Duration::from_secs(10);
const CONTENDER_LOOK: Duration = Duration::from_secs(1);
/// How long the Lease may take to be given back.
const LEAVING: Duration = Duration::from_secs(5);

/// Says which Lease is wanted, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where and as whom.
    pub access: Access,
    /// The namespace; absent: the pod's or the context's.
    pub namespace: Option<String>,
    /// The name of the Lease.
    pub name: String,
    /// Who we are, as no other run ever is: `<pod>/<run id>`.
    pub identity: String,
    /// After how long without renewal the Lease is stale; whole seconds.
    pub ttl: Duration,
    /// How long another holder is waited for.
    pub wait: Duration,
}

/// Says why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The configuration is wrong.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The API server did not do it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Another run holds it.
    #[error("Lease {namespace}/{name} is held by {holder}, renewed {} s ago", age.as_secs())]
    Held {
        /// Who.
        holder: String,
        /// How long ago it was renewed.
        age: Duration,
        /// Where.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// We were told to stop.
    #[error("interrupted")]
    Stopped,
    /// The thread that was to keep the Lease could not be made, or ended.
    #[error("failed to start the thread that keeps the Lease")]
    Thread(#[source] std::io::Error),
}

/// Is a held Lease. It is given back by [`LeaseLock::release`], or on drop.
#[derive(Debug)]
pub struct LeaseLock {
    fence: Arc<Fence>,
    transitions: i64,
    leave: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), ApiError>>>,
}

struct Taken {
    fence: Arc<Fence>,
    transitions: i64,
}

impl LeaseLock {
    /// Takes the Lease, waiting as long as the options say, or until `stopped`.
    pub fn acquire(options: Options, stopped: Arc<dyn Fn() -> bool + Send + Sync>) -> Result<Self, LockError> {
        let (report, outcome) = mpsc::channel();
        let (leave, leaving) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || serve(&options, &*stopped, &report, leaving))
            .map_err(LockError::Thread)?;
        match outcome.recv() {
            Ok(Ok(Taken { fence, transitions })) => {
                Ok(Self { fence, transitions, leave: Some(leave), thread: Some(thread) })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(LockError::Thread(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Returns the fence that closes when the Lease is not renewed.
    pub fn fence(&self) -> Arc<Fence> {
        Arc::clone(&self.fence)
    }

    /// Returns the fencing value: how often the Lease changed hands.
    pub fn transitions(&self) -> i64 {
        self.transitions
    }

    /// Gives the Lease back, unless it is another's by now; on an error others may have to wait until it is stale.
    pub fn release(mut self) -> Result<(), ApiError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), ApiError> {
        drop(self.leave.take());
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(left)) => left,
            _ => Ok(()),
        }
    }
}

impl Drop for LeaseLock {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

type Report = mpsc::Sender<Result<Taken, LockError>>;

/// Is the thread.
fn serve(
    options: &Options,
    stopped: &(dyn Fn() -> bool + Send + Sync),
    report: &Report,
    leaving: oneshot::Receiver<()>,
) -> Result<(), ApiError> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = report.send(Err(LockError::Thread(error)));
            return Ok(());
        }
    };
    runtime.block_on(async {
        let (leases, reply) = match take(options, stopped).await {
            Ok(taken) => taken,
            Err(error) => {
                let _ = report.send(Err(error));
                return Ok(());
            }
        };
        let Some(seen) = reply.seen() else { return Ok(()) };
        let fence = Arc::new(Fence::new(format!("Lease {}", leases.full_name()), options.ttl, reply.sent));
        let taken = Taken { fence: Arc::clone(&fence), transitions: i64::from(seen.transitions) };
        let uid = seen.uid.clone();
        let _ = report.send(Ok(taken));
        let mut holder = Holder { options, leases, uid, reply, fence };
        holder.keep(leaving).await;
        holder.leave().await
    })
}

/// Reads the configuration and makes a client of it.
fn connect(options: &Options) -> Result<Leases, AccessError> {
    let mut config = options.access.config()?;
    // What is tried again, and until when, is decided here.
    config.default_retry = false;
    let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.trim().to_owned());
    let timeout = (options.ttl / 4).clamp(Duration::from_secs(1), Duration::from_secs(10));
    config.connect_timeout = Some(timeout);
    let client = Client::try_from(config).map_err(AccessError::Credentials)?;
    Ok(Leases::new(client, namespace, options.name.clone(), timeout))
}

async fn take(options: &Options, stopped: &(dyn Fn() -> bool + Send + Sync)) -> Result<(Leases, Reply), LockError> {
    let leases = connect(options)?;
    let mut wrote = false;
    match contend(&leases, options, stopped, &mut wrote).await {
        Ok(reply) => Ok((leases, reply)),
        Err(error) => {
            if wrote {
                // The answer to a write may have been lost: nobody is to wait for a run that never began.
                let _ = tokio::time::timeout(LEAVING, clear_away(&leases, options)).await;
            }
            Err(error)
        }
    }
}

async fn clear_away(leases: &Leases, options: &Options) -> Result<(), ApiError> {
    let reply = leases.get().await?;
    match reply.seen() {
        Some(seen) if seen.holder == options.identity => leases.delete(&reply).await,
        _ => Ok(()),
    }
}

/// Looks until the Lease is ours; `wrote` tells whether it may be, also when this fails.
async fn contend(
    leases: &Leases,
    options: &Options,
    stopped: &(dyn Fn() -> bool + Send + Sync),
    wrote: &mut bool,
) -> Result<Reply, LockError> {
    let began = since_boot();
    let mut watched = None;
    let mut failing: Option<Duration> = None;
    let mut pause = Pause::default();
    loop {
        if stopped() {
            return Err(LockError::Stopped);
        }
        match try_once(leases, options, &mut watched, wrote).await {
            Ok(Tried::Taken(reply)) => return Ok(*reply),
            Ok(Tried::Held { holder, age, left }) => {
                failing = None;
                pause = Pause::default();
                let rest = options.wait.saturating_sub(since_boot().saturating_sub(began));
                if rest.is_zero() {
                    let (namespace, name) = (leases.namespace().to_owned(), options.name.clone());
                    return Err(LockError::Held { holder, age, namespace, name });
                }
                sleep(left.min(rest).min(CONTENDER_LOOK).max(Duration::from_millis(50)), stopped).await;
            }
            Err(error) if error.is_passing() => {
                let now = since_boot();
                let since = *failing.get_or_insert(now);
                if now.saturating_sub(since) >= PATIENCE && now.saturating_sub(began) >= options.wait {
                    return Err(error.into());
                }
                sleep(pause.next(&error, PATIENCE), stopped).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

enum Tried {
    Taken(Box<Reply>),
    Held { holder: String, age: Duration, left: Duration },
}

/// Looks once and does what follows.
async fn try_once(
    leases: &Leases,
    options: &Options,
    watched: &mut Option<Watched>,
    wrote: &mut bool,
) -> Result<Tried, ApiError> {
    let reply = leases.get().await?;
    let answer = reply.answer();
    *watched = Watched::after(watched.take(), &answer);
    let role = Role::Contender { me: &options.identity, ttl: options.ttl, watched: watched.as_ref() };
    let action = decide(&role, &answer);
    *wrote |= matches!(action, Action::Create | Action::TakeOver(_) | Action::Renew);
    let written = match action {
        Action::Create => {
            let made = leases.create(&options.identity, options.ttl).await?;
            // Whoever may not renew must not begin.
            leases.renew(&made).await?
        }
        Action::TakeOver(_) => leases.take_over(&reply, &options.identity, options.ttl).await?,
        Action::Renew => leases.renew(&reply).await?,
        Action::Wait { age, left } => {
            let holder = answer.seen.map(|seen| seen.holder.clone()).unwrap_or_default();
            return Ok(Tried::Held { holder, age, left });
        }
        // What only a holder is told.
        Action::Rest | Action::Lost(_) | Action::Release => return Ok(Tried::Taken(Box::new(reply))),
    };
    if written.seen().is_none() {
        // It was deleted between our look and our write.
        return Ok(Tried::Held { holder: "nobody".to_owned(), age: Duration::ZERO, left: Duration::ZERO });
    }
    Ok(Tried::Taken(Box::new(written)))
}

struct Holder<'a> {
    options: &'a Options,
    leases: Leases,
    uid: String,
    /// What was seen last.
    reply: Reply,
    fence: Arc<Fence>,
}

impl Holder<'_> {
    /// Renews until the run ends or the Lease is lost.
    async fn keep(&mut self, mut leaving: oneshot::Receiver<()>) {
        let every = self.options.ttl / 3;
        let mut renewed = self.reply.sent;
        let mut pause = Pause::default();
        let mut rest = every.min(LOOK);
        loop {
            if tokio::time::timeout(rest, &mut leaving).await.is_ok() {
                return;
            }
            let due = since_boot() >= renewed + every;
            let step = self.step(if due { Intent::Renew } else { Intent::Look }).await;
            rest = match step {
                Ok(Ok(())) => {
                    if due {
                        renewed = self.reply.sent;
                        self.fence.renewed(renewed);
                    }
                    pause = Pause::default();
                    (renewed + every).saturating_sub(since_boot()).min(LOOK)
                }
                Ok(Err(loss)) => {
                    self.fence.lose(format!("Lease {}: {loss}", self.leases.full_name()));
                    let _ = leaving.await;
                    return;
                }
                // A look that fails says nothing.
                Err(_) if !due => (renewed + every).saturating_sub(since_boot()).min(LOOK),
                Err(error) => {
                    self.fence.trouble(error.to_line());
                    // Tokens, certificates and authorities are replaced while a long run works.
                    if matches!(error, ApiError::Unauthorized { .. } | ApiError::Unreachable { .. })
                        && let Ok(leases) = connect(self.options)
                        && leases.full_name() == self.leases.full_name()
                    {
                        self.leases = leases;
                    }
                    pause.next(&error, every / 4)
                }
            };
        }
    }

    /// Looks or renews; tells when the Lease is lost.
    async fn step(&mut self, intent: Intent) -> Result<Result<(), Loss>, ApiError> {
        if intent == Intent::Renew {
            match self.leases.renew(&self.reply).await {
                Err(ApiError::Conflict { .. }) => {}
                other => {
                    self.reply = other?;
                    return Ok(self.checked(Intent::Look).map(drop));
                }
            }
        }
        // Somebody wrote: perhaps only a label.
        self.reply = self.leases.get().await?;
        match self.checked(intent) {
            Ok(Action::Renew) => {
                self.reply = self.leases.renew(&self.reply).await?;
                Ok(self.checked(Intent::Look).map(drop))
            }
            other => Ok(other.map(drop)),
        }
    }

    fn checked(&self, intent: Intent) -> Result<Action, Loss> {
        let role = Role::Holder { me: &self.options.identity, uid: &self.uid, intent };
        match decide(&role, &self.reply.answer()) {
            Action::Lost(loss) => Err(loss),
            action => Ok(action),
        }
    }

    /// Deletes the Lease as long as it is ours, in bounded time: the process may be about to be killed.
    async fn leave(&mut self) -> Result<(), ApiError> {
        let (lease, seconds) = (self.leases.full_name(), LEAVING.as_secs_f64());
        let late = |_| Err(ApiError::TimedOut { verb: "delete", lease, seconds });
        tokio::time::timeout(LEAVING, self.delete()).await.unwrap_or_else(late)
    }

    async fn delete(&mut self) -> Result<(), ApiError> {
        let mut pause = Pause::default();
        while self.checked(Intent::Leave) == Ok(Action::Release) {
            match self.leases.delete(&self.reply).await {
                Ok(()) => return Ok(()),
                Err(error @ ApiError::Forbidden { .. }) => {
                    // Others need not wait for what we may not delete.
                    let _ = self.leases.give_back(&self.reply).await;
                    return Err(error);
                }
                Err(error) if !error.is_passing() => return Err(error),
                Err(error) => tokio::time::sleep(pause.next(&error, LEAVING / 4)).await,
            }
            if let Ok(reply) = self.leases.get().await {
                self.reply = reply;
            }
        }
        Ok(())
    }
}

/// Waits longer after each failure.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    /// Returns how long to wait, at most `longest`.
    fn next(&mut self, error: &ApiError, longest: Duration) -> Duration {
        // Who lost a race looks again at once.
        let first = if matches!(error, ApiError::Conflict { .. }) { 10 } else { 100 };
        let pause = Duration::from_millis(first) * 2_u32.saturating_pow(self.0.min(8));
        self.0 += 1;
        pause.max(error.retry_after().unwrap_or_default()).min(longest.min(Duration::from_secs(5)))
    }
}

async fn sleep(time: Duration, stopped: &(dyn Fn() -> bool + Send + Sync)) {
    let end = since_boot() + time;
    while since_boot() < end && !stopped() {
        tokio::time::sleep(end.saturating_sub(since_boot()).min(Duration::from_millis(50))).await;
    }
}
