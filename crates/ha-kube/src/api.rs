//! The four requests about one Lease, each bounded in time, with what an answer says of the server's clock.

use std::time::Duration;

use ha_sync_fs::fence::since_boot;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{DeleteParams, GetParams, PostParams, Preconditions};
use kube::client::Body;
use kube::core::{Request, Status};

use crate::lease::{Answer, Seen};

/// Says what an API server did not do.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It did not answer in time.
    #[error("failed to {verb} Lease {lease}: no answer within {seconds:.1} s")]
    TimedOut {
        /// `get`, `create`, `update` or `delete`.
        verb: &'static str,
        /// Namespace and name.
        lease: String,
        /// How long it was waited for.
        seconds: f64,
    },
    /// It could not be asked.
    #[error("failed to {verb} Lease {lease}: the API server cannot be reached")]
    Unreachable {
        /// As above.
        verb: &'static str,
        /// As above.
        lease: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It does not know us.
    #[error("failed to {verb} Lease {lease}: the API server does not accept these credentials (401)")]
    Unauthorized {
        /// As above.
        verb: &'static str,
        /// As above.
        lease: String,
    },
    /// We may not do that.
    #[error("failed to {verb} Lease {lease}: this account lacks the verb {verb} on leases.coordination.k8s.io (403)")]
    Forbidden {
        /// As above: the verb that is missing.
        verb: &'static str,
        /// As above.
        lease: String,
        /// What the server said.
        #[source]
        source: Said,
    },
    /// The namespace is not there.
    #[error("the namespace does not exist: {namespace}")]
    NoNamespace {
        /// Its name.
        namespace: String,
    },
    /// Another write came first.
    #[error("failed to {verb} Lease {lease}: the API server answered 409 Conflict")]
    Conflict {
        /// As above.
        verb: &'static str,
        /// As above.
        lease: String,
        /// What the server said.
        #[source]
        source: Said,
    },
    /// Anything else.
    #[error("failed to {verb} Lease {lease}: the API server answered {status}")]
    Status {
        /// As above.
        verb: &'static str,
        /// As above.
        lease: String,
        /// Number and words.
        status: String,
        /// Whether trying again may help: 408, 429 and 5xx.
        passing: bool,
        /// How long the server asks us to wait.
        retry_after: Option<Duration>,
        /// What the server said.
        #[source]
        source: Said,
    },
    /// The answer is no Lease.
    #[error("failed to {verb} Lease {lease}: the answer is not from a Kubernetes API server")]
    Malformed {
        /// As above.
        verb: &'static str,
        /// As above.
        lease: String,
    },
}

/// Is the message in a server's refusal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Said(String);

impl ApiError {
    /// Tells whether trying the same again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Unreachable { .. } | Self::Conflict { .. } => true,
            Self::Status { passing, .. } => *passing,
            _ => false,
        }
    }

    /// Returns how long the server asks us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }

    /// Returns the message with its causes on one line.
    pub fn to_line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !line.ends_with(&text) {
                line = format!("{line}: {text}");
            }
            cause = error.source();
        }
        line
    }
}

/// Is an answer with the times around it.
#[derive(Debug)]
pub(crate) struct Reply {
    /// What the server has, to be written back changed.
    lease: Option<Lease>,
    seen: Option<Seen>,
    served: Option<i64>,
    /// Before the request was sent, by our clock.
    pub(crate) sent: Duration,
    received: Duration,
}

impl Reply {
    pub(crate) fn answer(&self) -> Answer<'_> {
        Answer { seen: self.seen.as_ref(), served: self.served, received: self.received }
    }

    pub(crate) fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    /// Returns when the holder took it, by the holder's clock.
    pub(crate) fn acquired(&self) -> Option<Timestamp> {
        Some(self.lease.as_ref()?.spec.as_ref()?.acquire_time.as_ref()?.0)
    }
}

/// Speaks about one Lease.
pub(crate) struct Leases {
    client: Client,
    request: Request,
    namespace: String,
    name: String,
    timeout: Duration,
}

impl Leases {
    /// Each request may take `timeout`.
    pub(crate) fn new(client: Client, namespace: String, name: String, timeout: Duration) -> Self {
        let request = Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"));
        Self { client, request, namespace, name, timeout }
    }

    /// Returns the namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns namespace and name.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(crate) async fn get(&self) -> Result<Reply, ApiError> {
        let request = self.request.get(&self.name, &GetParams::default());
        self.ask("get", request.map_err(|error| self.unreachable("get", error))?).await
    }

    /// Makes the Lease.
    pub(crate) async fn create(&self, me: &str, ttl: Duration) -> Result<Reply, ApiError> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                holder_identity: Some(me.to_owned()),
                lease_duration_seconds: Some(seconds(ttl)),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        let body = self.encode("create", &lease)?;
        let request = self.request.create(&manager(), body);
        self.ask("create", request.map_err(|error| self.unreachable("create", error))?).await
    }

    /// Writes a new time of renewal over what `reply` saw.
    pub(crate) async fn renew(&self, reply: &Reply) -> Result<Reply, ApiError> {
        self.update(reply, |spec| spec.renew_time = Some(MicroTime(Timestamp::now()))).await
    }

    /// Writes another holder over what `reply` saw.
    pub(crate) async fn take_over(&self, reply: &Reply, me: &str, ttl: Duration) -> Result<Reply, ApiError> {
        self.update(reply, |spec| {
            let now = MicroTime(Timestamp::now());
            spec.acquire_time = Some(now.clone());
            spec.renew_time = Some(now);
            spec.holder_identity = Some(me.to_owned());
            spec.lease_duration_seconds = Some(seconds(ttl));
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        })
        .await
    }

    /// Writes nobody over what `reply` saw.
    pub(crate) async fn give_back(&self, reply: &Reply) -> Result<Reply, ApiError> {
        self.update(reply, |spec| spec.holder_identity = Some(String::new())).await
    }

    /// Deletes what `reply` saw and nothing else.
    pub(crate) async fn delete(&self, reply: &Reply) -> Result<(), ApiError> {
        let Some(seen) = &reply.seen else { return Ok(()) };
        let preconditions = Preconditions { uid: Some(seen.uid.clone()), resource_version: Some(seen.version.clone()) };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = self.request.delete(&self.name, &parameters);
        let request = request.map_err(|error| self.unreachable("delete", error))?;
        // The answer is a Status, not a Lease.
        self.send("delete", request).await.map(drop)
    }

    async fn update(&self, reply: &Reply, change: impl FnOnce(&mut LeaseSpec)) -> Result<Reply, ApiError> {
        let mut lease = reply.lease.clone().unwrap_or_default();
        change(lease.spec.get_or_insert_default());
        // The server keeps its own; sent back, they would only be compared.
        lease.metadata.managed_fields = None;
        let body = self.encode("update", &lease)?;
        let request = self.request.replace(&self.name, &manager(), body);
        self.ask("update", request.map_err(|error| self.unreachable("update", error))?).await
    }

    fn encode(&self, verb: &'static str, lease: &Lease) -> Result<Vec<u8>, ApiError> {
        serde_json::to_vec(lease).map_err(|error| self.unreachable(verb, error))
    }

    fn unreachable(&self, verb: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
        ApiError::Unreachable { verb, lease: self.full_name(), source: error.into() }
    }

    /// Asks for a Lease; an answer that there is none is one.
    async fn ask(&self, verb: &'static str, request: http::Request<Vec<u8>>) -> Result<Reply, ApiError> {
        let sent = since_boot();
        let (body, served) = self.send(verb, request).await?;
        let received = since_boot();
        let lease = match body {
            None => None,
            Some(body) => {
                let malformed = || ApiError::Malformed { verb, lease: self.full_name() };
                Some(serde_json::from_slice::<Lease>(&body).map_err(|_| malformed())?)
            }
        };
        let seen = lease.as_ref().map(look_at);
        Ok(Reply { lease, seen, served, sent, received })
    }

    /// Sends a request and returns the body of a good answer (none for a Lease that is not there) and the server's
    /// time.
    async fn send(
        &self,
        verb: &'static str,
        request: http::Request<Vec<u8>>,
    ) -> Result<(Option<Vec<u8>>, Option<i64>), ApiError> {
        let lease = self.full_name();
        let asked = async {
            let response = self.client.send(request.map(Body::from)).await?;
            let (head, body) = response.into_parts();
            Ok((head, body.collect_bytes().await?))
        };
        let (head, body) = match tokio::time::timeout(self.timeout, asked).await {
            Err(_) => return Err(ApiError::TimedOut { verb, lease, seconds: self.timeout.as_secs_f64() }),
            Ok(Err(error)) => return Err(self.unreachable(verb, plain(error))),
            Ok(Ok(answered)) => answered,
        };
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        if head.status.is_success() {
            return Ok((Some(body.to_vec()), header("date").and_then(http_date)));
        }
        let status: Option<Status> = serde_json::from_slice(&body).ok();
        let details = status.as_ref().and_then(|status| status.details.as_ref());
        let about = |kind: &str| details.is_some_and(|details| details.kind == kind);
        let source = Said(match &status {
            Some(status) if !status.message.is_empty() => status.message.clone(),
            _ => "without a reason".to_owned(),
        });
        Err(match head.status.as_u16() {
            // `details.kind` tells a missing Lease from a missing namespace, and from a server without Leases.
            404 if about("leases") => return Ok((None, header("date").and_then(http_date))),
            404 if about("namespaces") => ApiError::NoNamespace { namespace: self.namespace.clone() },
            401 => ApiError::Unauthorized { verb, lease },
            403 => ApiError::Forbidden { verb, lease, source },
            409 => ApiError::Conflict { verb, lease, source },
            code => ApiError::Status {
                verb,
                lease,
                status: head.status.to_string(),
                passing: code == 408 || code == 429 || code >= 500,
                retry_after: header("retry-after").and_then(|value| value.parse().ok()).map(Duration::from_secs),
                source,
            },
        })
    }
}

/// Names us as the one who writes the fields, in `managedFields`.
fn manager() -> PostParams {
    PostParams { field_manager: Some("ha-sync".to_owned()), ..PostParams::default() }
}

/// Leaves out the wrappers that say nothing.
fn plain(error: kube::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        kube::Error::Service(inner) => inner,
        other => Box::new(other),
    }
}

fn seconds(ttl: Duration) -> i32 {
    i32::try_from(ttl.as_secs().max(1)).unwrap_or(i32::MAX)
}

fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second())
}

fn look_at(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    let metadata = &lease.metadata;
    // The newest, whoever wrote it: a Lease that somebody else touched only seems younger.
    let written = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref());
    Seen {
        uid: metadata.uid.clone().unwrap_or_default(),
        version: metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        duration: spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or(0),
        written: written.map(|time| time.0.as_second()).max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read() {
        assert_eq!(http_date("Sat, 21 Nov 2026 05:00:53 GMT"), Some(1_795_237_253));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn the_newest_write_counts() {
        let text = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease",
            "metadata":{"name":"x","uid":"u","resourceVersion":"7","managedFields":[
                {"manager":"ha-sync","operation":"Update","time":"2026-11-21T05:00:53Z"},
                {"manager":"kubectl-edit","operation":"Update","time":"2026-11-21T05:01:00Z"}]},
            "spec":{"holderIdentity":"pod-a/1","leaseDurationSeconds":60,"renewTime":"2020-01-01T00:00:00.000000Z"}}"#;
        let seen = look_at(&serde_json::from_str(text).unwrap());
        assert_eq!(seen.written, Some(1_795_237_260));
        assert_eq!((seen.duration, seen.transitions), (Some(Duration::from_secs(60)), 0));
    }
}
