//! Who holds Leases: reads them, and touches none. All that it needs is the verb `get`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;

use crate::access::{Access, AccessError};
use crate::api::{ApiError, Leases};
use crate::lease::SLACK;

/// Reads Leases of one namespace. It connects with the first question.
#[derive(Debug)]
pub struct LeaseReader {
    access: Access,
    namespace: Option<String>,
    timeout: Duration,
    /// Absent before the first question, and after the server was not there or refused us: the next question reads the
    /// configuration anew.
    server: Mutex<Option<Server>>,
}

#[derive(Clone)]
struct Server {
    client: Client,
    namespace: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Server").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Says who holds a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What the holder wrote of itself.
    pub name: String,
    /// Since when, by the holder's clock; absent when it did not write that.
    pub since: Option<Timestamp>,
}

/// Says why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The configuration is wrong.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The API server did not say it.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl LeaseReader {
    /// Makes a reader. Each request may take `timeout`; `namespace`, when absent, is the pod's or the context's.
    pub fn new(access: Access, namespace: Option<String>, timeout: Duration) -> Self {
        Self { access, namespace, timeout, server: Mutex::default() }
    }

    fn connected(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> Result<Server, LookError> {
        let mut connected = self.connected();
        if let Some(server) = &*connected {
            return Ok(server.clone());
        }
        let mut config = self.access.config()?;
        // Who asks tries again with the next look.
        config.default_retry = false;
        config.connect_timeout = Some(self.timeout);
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.trim().to_owned());
        let client = Client::try_from(config).map_err(AccessError::Credentials)?;
        Ok(connected.insert(Server { client, namespace }).clone())
    }

    /// Returns who holds a Lease; nobody when there is none, it was given back, or it was not renewed for so long that
    /// the next run takes it. Runs in a tokio runtime.
    pub async fn holder(&self, name: &str) -> Result<Option<Holder>, LookError> {
        let Server { client, namespace } = self.server()?;
        let leases = Leases::new(client, namespace, name.to_owned(), self.timeout);
        let reply = leases.get().await.inspect_err(|error| {
            if let ApiError::Unauthorized { .. } | ApiError::Unreachable { .. } = error {
                *self.connected() = None;
            }
        })?;
        let Some(seen) = reply.seen().filter(|seen| !seen.holder.is_empty()) else { return Ok(None) };
        // by the API server's clock alone: the other rule needs somebody who keeps looking
        let (age, duration) = (reply.answer().age(), seen.duration);
        if age.zip(duration).is_some_and(|(age, duration)| age >= duration.saturating_add(SLACK)) {
            return Ok(None);
        }
        Ok(Some(Holder { name: seen.holder.clone(), since: reply.acquired() }))
    }
}
