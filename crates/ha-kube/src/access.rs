//! Finds the API server and who we are there: by the service account of a pod, or by a kubeconfig.

use std::io;
use std::path::PathBuf;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Says where the API server is and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// By the service account of the pod.
    InCluster,
    /// By a kubeconfig.
    Kubeconfig {
        /// The files, merged as kubectl does: what the first one says stays.
        files: Vec<PathBuf>,
        /// Whether files of the list may be missing (`KUBECONFIG`), but not all.
        optional: bool,
        /// The context; absent: the current one.
        context: Option<String>,
    },
}

impl Access {
    /// Chooses as kubectl does: a kubeconfig that is `named`, else the pod's service account unless a context is named,
    /// else the `usual` kubeconfigs.
    pub fn choose(named: Option<PathBuf>, context: Option<String>, in_pod: bool, usual: Vec<PathBuf>) -> Self {
        match named {
            Some(file) => Self::Kubeconfig { files: vec![file], optional: false, context },
            None if in_pod && context.is_none() => Self::InCluster,
            None => Self::Kubeconfig { files: usual, optional: true, context },
        }
    }
}

/// Says what is wrong with the configuration. Nothing was asked of a server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no file.
    #[error("there is no kubeconfig")]
    NoKubeconfig,
    /// A file cannot be read.
    #[error("failed to read kubeconfig: {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not a kubeconfig. What the parser says is left out: it quotes lines, and these hold secrets.
    #[error("not a kubeconfig: {path}{}", line.map_or(String::new(), |line| format!(" (line {line})")))]
    Parse {
        /// The file.
        path: String,
        /// Where, when that is known.
        line: Option<u64>,
    },
    /// Two files do not go together.
    #[error("failed to merge kubeconfigs")]
    Merge(#[source] KubeconfigError),
    /// No context is named.
    #[error("the kubeconfig names no current context")]
    NoContext {
        /// What it has.
        known: Vec<String>,
    },
    /// The context is not there.
    #[error("the kubeconfig has no context {context}")]
    UnknownContext {
        /// What was asked for.
        context: String,
        /// What it has.
        known: Vec<String>,
    },
    /// The context's cluster or user cannot be used.
    #[error("failed to use the kubeconfig")]
    Context(#[source] KubeconfigError),
    /// The service account cannot be used.
    #[error("failed to use the service account of this pod")]
    ServiceAccount(#[source] kube::config::InClusterError),
    /// The client cannot be made: a certificate, key or plug-in.
    #[error("failed to use the credentials of the cluster")]
    Credentials(#[source] kube::Error),
}

impl Access {
    /// Reads the configuration; its default namespace is the context's or the pod's.
    pub(crate) fn config(&self) -> Result<Config, AccessError> {
        let Self::Kubeconfig { files, optional, context } = self else {
            return Config::incluster_env().map_err(AccessError::ServiceAccount);
        };
        let merged = read(files, *optional)?;
        let known: Vec<String> = merged.contexts.iter().map(|context| context.name.clone()).collect();
        match context.as_ref().or(merged.current_context.as_ref().filter(|name| !name.is_empty())) {
            None => return Err(AccessError::NoContext { known }),
            Some(context) if !known.contains(context) => {
                return Err(AccessError::UnknownContext { context: context.clone(), known });
            }
            Some(_) => {}
        }
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        // Nothing in it waits for anything: the function is async for other callers' sake.
        let loading = std::pin::pin!(Config::from_custom_kubeconfig(merged, &options));
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        match loading.poll(&mut task) {
            std::task::Poll::Ready(config) => config.map_err(AccessError::Context),
            std::task::Poll::Pending => Err(AccessError::NoKubeconfig),
        }
    }
}

fn read(files: &[PathBuf], optional: bool) -> Result<Kubeconfig, AccessError> {
    let mut merged = None;
    for file in files {
        let path = ha_sync_fs::error::printable_path(file);
        let one = match Kubeconfig::read_from(file) {
            Ok(one) => one,
            Err(KubeconfigError::ReadConfig(error, _)) if optional && error.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            Err(KubeconfigError::ReadConfig(source, _)) => return Err(AccessError::Read { path, source }),
            Err(KubeconfigError::Parse(error)) => {
                return Err(AccessError::Parse { path, line: error.location().map(|place| place.line()) });
            }
            Err(error) => return Err(AccessError::Context(error)),
        };
        merged = Some(match merged {
            None => one,
            Some(before) => Kubeconfig::merge(before, one).map_err(AccessError::Merge)?,
        });
    }
    merged.ok_or(AccessError::NoKubeconfig)
}
