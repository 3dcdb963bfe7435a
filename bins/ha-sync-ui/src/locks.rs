//! Whose locks are shown: those of files of this host, of Leases, or none.

use std::time::Duration;

use ha_cli::environment;
use ha_cli::failure::{Failure, FailureKind};
use ha_dashboard::lock::{Answer, Background, Immediate, LockState, LockStatus, NoLocks};
use ha_kube::access::Access;
use ha_kube::look::{Holder, LeaseReader, LookError};
use ha_sync_core::name::PairName;
use ha_sync_fs::lock;

use crate::arguments::{Arguments, LockKind};

/// How long the API server may take for one Lease.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns who tells of locks.
pub(crate) fn choose(arguments: &Arguments) -> Result<Box<dyn LockStatus>, Failure> {
    let Arguments { kubeconfig, kube_context, namespace, .. } = arguments;
    let configured = kubeconfig.is_some() || kube_context.is_some();
    let kind = match arguments.lock {
        LockKind::Auto if environment::in_cluster() || configured => LockKind::Lease,
        LockKind::Auto => LockKind::File,
        kind => kind,
    };
    if kind != LockKind::Lease && (configured || namespace.is_some()) {
        let failure = Failure::new(FailureKind::Usage, "--kubeconfig, --kube-context and --namespace are for Leases");
        return Err(failure.hint("show who holds Leases: --lock lease"));
    }
    Ok(match kind {
        LockKind::Lease => {
            let reader = LeaseReader::new(access(arguments), namespace.clone(), PATIENCE);
            Box::new(Background::new(Leases(reader)))
        }
        LockKind::File => Box::new(Immediate(of_file)),
        LockKind::None | LockKind::Auto => Box::new(NoLocks),
    })
}

fn of_file(pair: &str) -> LockState {
    match pair.parse().map(|pair| lock::holder(&pair)) {
        Ok(Ok(Some(holder))) => {
            LockState::Held { holder: holder.name, since: jiff::Timestamp::from_nanosecond(holder.since.0).ok() }
        }
        Ok(Ok(None)) => LockState::Free,
        Ok(Err(error)) => LockState::Unanswered { why: error.to_string() },
        Err(_) => LockState::Unknown,
    }
}

fn access(arguments: &Arguments) -> Access {
    let (file, context) = (arguments.kubeconfig.clone(), arguments.kube_context.clone());
    Access::choose(file, context, environment::in_cluster(), environment::kubeconfigs())
}

/// Tells the holders of Leases.
struct Leases(LeaseReader);

impl LockStatus for Leases {
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a> {
        Box::pin(async move {
            let mut states = Vec::with_capacity(pairs.len());
            for pair in pairs {
                states.push(self.state(pair).await);
            }
            states
        })
    }
}

impl Leases {
    async fn state(&self, pair: &str) -> LockState {
        // a name in the records that no run can have has no Lease
        let Ok(pair) = pair.parse::<PairName>() else { return LockState::Unknown };
        match self.0.holder(&format!("ha-sync-{pair}")).await {
            Ok(Some(Holder { name, since })) => LockState::Held { holder: name, since },
            Ok(None) => LockState::Free,
            Err(LookError::Api(error)) => LockState::Unanswered { why: error.to_line() },
            Err(error @ LookError::Access(_)) => LockState::Unanswered { why: error.to_string() },
        }
    }
}
