//! Declares every environment variable of the project, and is the only place that reads one.
//!
//! [`ALL`] is what the reference in `docs/cli` is made from.

use std::ffi::OsString;
use std::path::PathBuf;

/// Is an environment variable: its name and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// The name.
    pub name: &'static str,
    /// One sentence without a full stop.
    pub about: &'static str,
}

impl Variable {
    /// Returns the value; a variable that is set to nothing counts as not set.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn get(self) -> Option<OsString> {
        std::env::var_os(self.name).filter(|value| !value.is_empty())
    }
}

macro_rules! variables {
    ($($name:ident = $text:literal: $about:literal;)*) => {
        $(
            #[doc = concat!("`", $text, "`: ", $about, ".")]
            pub const $name: Variable = Variable { name: $text, about: $about };
        )*

        /// Holds every variable, in the order of the reference.
        pub const ALL: &[Variable] = &[$($name),*];
    };
}

variables! {
    DB_DSN = "HA_SYNC_DB_DSN": "the database when `--db-dsn` is not given; here a password is not seen in the process list";
    UI_LISTEN = "HA_SYNC_UI_LISTEN": "in `ha-sync-ui`, the address to listen on when `--listen` is not given";
    UI_AUTH = "HA_SYNC_UI_AUTH": "in `ha-sync-ui`, the logins when `--auth-file` is not given: lines `basic USER:PASSWORD` or `bearer TOKEN`";
    STATE_HOME = "XDG_STATE_HOME": "where logs go, in `ha-sync`, when the default log directory cannot be written; an absolute path";
    HOME = "HOME": "its `.local/state` stands in for `XDG_STATE_HOME` when that is not set";
    POD_NAME = "POD_NAME": "the name under which a lock is held in a cluster";
    COMPLETION_INDEX = "JOB_COMPLETION_INDEX": "which of its `--shards` a run works on; set in every pod of an Indexed Job";
    HOSTNAME = "HOSTNAME": "the name under which a lock is held when `POD_NAME` is not set";
    KUBERNETES = "KUBERNETES_SERVICE_HOST": "set in every pod: `--lock auto` means a Lease then";
    KUBERNETES_PORT = "KUBERNETES_SERVICE_PORT": "with `KUBERNETES_SERVICE_HOST` the address of the API server in a pod";
    KUBECONFIG = "KUBECONFIG": "files that tell how to reach a cluster, separated by `:`, when `--kubeconfig` is not given";
    HTTPS_PROXY = "HTTPS_PROXY": "the proxy to an API server outside of a pod, also as `https_proxy`; the exceptions are in `NO_PROXY`";
    NO_COLOR = "NO_COLOR": "no colour anywhere, whatever its value";
    CLICOLOR_FORCE = "CLICOLOR_FORCE": "colour although stderr is no terminal, unless it is `0` or `NO_COLOR` is set";
    TERM = "TERM": "`dumb` means a terminal without colour and without a progress bar";
    COLUMNS = "COLUMNS": "the width of the help where no terminal tells one, at most 100";
}

/// Names the access key of an S3-compatible backup store, as Longhorn's secret does.
pub const AWS_ACCESS_KEY_ID: Variable =
    Variable { name: "AWS_ACCESS_KEY_ID", about: "the access key of a backup store in S3" };
/// Names its secret key.
pub const AWS_SECRET_ACCESS_KEY: Variable =
    Variable { name: "AWS_SECRET_ACCESS_KEY", about: "the secret key of a backup store in S3" };
/// Names its endpoint.
pub const AWS_ENDPOINTS: Variable = Variable {
    name: "AWS_ENDPOINTS",
    about: "where the backup store in S3 is when it is not AWS, like `http://minio:9000`",
};
/// Names its certificate.
pub const AWS_CERT: Variable = Variable {
    name: "AWS_CERT",
    about: "the certificate of the backup store in S3 in PEM, when it is one of your own",
};
/// Says how it names buckets.
pub const VIRTUAL_HOSTED_STYLE: Variable = Variable {
    name: "VIRTUAL_HOSTED_STYLE",
    about: "`true` for a backup store in S3 that wants the bucket in the name of the host",
};

/// Holds the variables of backup stores, which only `ha-volume` reads.
pub const BACKUP_STORES: &[Variable] =
    &[AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINTS, AWS_CERT, VIRTUAL_HOSTED_STYLE];

/// Returns the directory for state that outlives a run: `$XDG_STATE_HOME`, else `$HOME/.local/state`. Relative
/// values are ignored, as the XDG base directory specification demands.
pub fn state_directory() -> Option<PathBuf> {
    let absolute = |variable: Variable| variable.get().map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(STATE_HOME).or_else(|| absolute(HOME).map(|home| home.join(".local/state")))
}

/// Returns the name under which this process holds a lock: the pod's, else the host's, with what is not UTF-8
/// replaced; nothing when the environment tells neither.
pub fn holder_name() -> Option<String> {
    POD_NAME.get().or_else(|| HOSTNAME.get()).map(|name| name.to_string_lossy().into_owned())
}

/// Returns the files that tell how to reach a cluster: those of `KUBECONFIG`, else `~/.kube/config`. Not all of them
/// need be there.
pub fn kubeconfigs() -> Vec<PathBuf> {
    match KUBECONFIG.get() {
        Some(list) => std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => HOME.get().map(|home| PathBuf::from(home).join(".kube/config")).into_iter().collect(),
    }
}

/// Tells whether this process runs in a pod of a cluster.
pub fn in_cluster() -> bool {
    KUBERNETES.get().is_some()
}

/// Tells whether the terminal can move its cursor.
pub fn terminal_is_capable() -> bool {
    TERM.get().is_none_or(|term| term != "dumb")
}

/// Tells whether text for people is coloured, given whether it goes to a terminal.
pub fn colour(terminal: bool) -> bool {
    if NO_COLOR.get().is_some() {
        return false;
    }
    let forced = CLICOLOR_FORCE.get().is_some_and(|value| value != "0");
    forced || (terminal && terminal_is_capable())
}
