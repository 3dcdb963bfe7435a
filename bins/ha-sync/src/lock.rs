//! What keeps two runs of a pair apart: a Lease, a file, or nothing (sync.md §7).

use std::sync::Arc;

use ha_cli::environment;
use ha_cli::failure::{Failure, FailureKind};
use ha_kube::ApiError;
use ha_kube::access::{Access, AccessError};
use ha_kube::lock::{LeaseLock, LockError as LeaseError, Options};
use ha_sync_core::name::{PairName, RunId};
use ha_sync_engine::Stop;
use ha_sync_fs::lock::{FileLock, LockError};

use crate::run::interrupted;
use crate::settings::{Lock, LockKind};

/// The least time to live of a Lease: a third of it must be enough for a request or two.
const SHORTEST_TTL: u64 = 3;

/// Is a held lock, or none when none was asked for.
pub(crate) enum Held {
    Lease(LeaseLock),
    File(#[expect(dead_code, reason = "held until the run ends")] FileLock),
    None,
}

impl Held {
    /// Returns the fencing value of a Lease.
    pub(crate) fn transitions(&self) -> Option<i64> {
        if let Self::Lease(lease) = self { Some(lease.transitions()) } else { None }
    }

    /// Gives the lock back; says what of that did not work.
    pub(crate) fn release(self) -> Result<(), String> {
        match self {
            Self::Lease(lease) => {
                lease.release().map_err(|error| format!("the lock is not given back: {}", error.to_line()))
            }
            Self::File(_) | Self::None => Ok(()),
        }
    }
}

/// Takes the lock of a pair; nothing when it is held and that is to be a success.
pub(crate) fn take(pair: &PairName, lock: &Lock, run: &RunId, stop: &Arc<Stop>) -> Result<Option<Held>, Failure> {
    let host = environment::holder_name().unwrap_or_else(ha_sync_fs::local::host_name);
    if is_lease(lock)? {
        return take_lease(pair, lock, format!("{host}/{run}"), stop);
    }
    if lock.kind == LockKind::None {
        return Ok(Some(Held::None));
    }
    let holder = format!("{host} pid {} run {run}", std::process::id());
    match FileLock::acquire(pair, &holder, lock.wait, &|| stop.is_stopped()) {
        Ok(lock) => Ok(Some(Held::File(lock))),
        Err(LockError::Held { .. }) if stop.is_stopped() => Err(interrupted(stop)),
        Err(LockError::Held { .. }) if lock.skip_if_locked => Ok(None),
        Err(error @ LockError::Held { .. }) => Err(Failure::from_error(FailureKind::LockHeld, &error)),
        Err(error) => Err(Failure::from_error(FailureKind::Failed, &error)),
    }
}

/// Tells whether a Lease is meant. No file lock is taken beside it: pods share none, and a frozen run would keep this
/// host's others out after its Lease has long been another's.
fn is_lease(lock: &Lock) -> Result<bool, Failure> {
    let lease = match lock.kind {
        LockKind::Lease => true,
        LockKind::Auto => environment::in_cluster() || lock.kubeconfig.is_some() || lock.kube_context.is_some(),
        LockKind::File | LockKind::None => false,
    };
    if !lease && (lock.kubeconfig.is_some() || lock.kube_context.is_some() || lock.namespace.is_some()) {
        let failure = Failure::new(FailureKind::Usage, "--kubeconfig, --kube-context and --namespace are for a Lease");
        return Err(failure.hint("lock with a Lease: --lock lease"));
    }
    if lease && lock.ttl.as_secs() < SHORTEST_TTL {
        let message = format!("too short for a Lease: --lock-ttl {}", lock.ttl.as_secs());
        return Err(Failure::new(FailureKind::Usage, message).hint(format!("at least {SHORTEST_TTL} seconds")));
    }
    Ok(lease)
}

fn access(lock: &Lock) -> Access {
    let (file, context) = (lock.kubeconfig.clone(), lock.kube_context.clone());
    Access::choose(file, context, environment::in_cluster(), environment::kubeconfigs())
}

fn take_lease(pair: &PairName, lock: &Lock, identity: String, stop: &Arc<Stop>) -> Result<Option<Held>, Failure> {
    let options = Options {
        access: access(lock),
        namespace: lock.namespace.clone(),
        name: format!("ha-sync-{pair}"),
        identity,
        ttl: std::time::Duration::from_secs(lock.ttl.as_secs()),
        wait: lock.wait,
    };
    let stopped = Arc::clone(stop);
    match LeaseLock::acquire(options, Arc::new(move || stopped.is_stopped())) {
        Ok(lease) => {
            stop.bind(lease.fence());
            Ok(Some(Held::Lease(lease)))
        }
        Err(LeaseError::Stopped) => Err(interrupted(stop)),
        Err(LeaseError::Held { .. }) if lock.skip_if_locked => Ok(None),
        Err(error) => Err(explain(pair, lock, &error)),
    }
}

/// Says what is wrong, and what to type.
fn explain(pair: &PairName, lock: &Lock, error: &LeaseError) -> Failure {
    let failure = |kind| Failure::from_error(kind, error);
    match error {
        LeaseError::Held { holder, namespace, name, .. } => failure(FailureKind::LockHeld)
            .context(format!("the lock of pair {pair} is held by {holder}"))
            .hint(format!("{} -n {namespace} get lease {name} -o yaml", kubectl(lock))),
        LeaseError::Access(AccessError::UnknownContext { known, .. } | AccessError::NoContext { known }) => {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            failure(FailureKind::Usage).hint(format!("name one of its contexts: --kube-context; it has: {known}"))
        }
        LeaseError::Access(AccessError::NoKubeconfig) => {
            failure(FailureKind::Usage).hint("name one: --kubeconfig FILE; or lock on this host only: --lock file")
        }
        LeaseError::Access(_) => failure(FailureKind::Usage),
        LeaseError::Api(ApiError::NoNamespace { namespace }) => failure(FailureKind::Usage).hint(format!(
            "name another: --namespace NAME; or make it: {} create namespace {namespace}",
            kubectl(lock)
        )),
        LeaseError::Api(ApiError::Forbidden { verb, lease, .. }) => {
            let namespace = lease.split('/').next().unwrap_or_default();
            failure(FailureKind::Failed)
                .hint("a Role with the verbs get, create, update and delete on leases is in deploy/base/rbac.yaml")
                .hint(format!("{} -n {namespace} auth can-i {verb} leases.coordination.k8s.io", kubectl(lock)))
        }
        _ => failure(FailureKind::Failed),
    }
}

fn kubectl(lock: &Lock) -> String {
    let mut words = "kubectl".to_owned();
    if let Some(file) = &lock.kubeconfig {
        words += &format!(" --kubeconfig {}", file.display());
    }
    if let Some(context) = &lock.kube_context {
        words += &format!(" --context {context}");
    }
    words
}
