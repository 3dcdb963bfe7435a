//! What several kinds of objects have in common.

use crate::generate::{File, HEADER};
use crate::inventory::Inventory;
use crate::write::{Map, Yaml, documents, list, map};

/// Where the logs are in every pod; the default of `--log-dir`.
pub(super) const LOG_DIRECTORY: &str = "/var/log/ha-sync";

/// Is what a part of the deployment is, for `app.kubernetes.io/component`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Component {
    Sync,
    Prune,
    Dashboard,
    Volume,
}

impl Component {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Prune => "prune",
            Self::Dashboard => "dashboard",
            Self::Volume => "volume",
        }
    }
}

/// Makes a file of documents.
pub(super) fn file<'a>(path: impl Into<String>, objects: impl IntoIterator<Item = &'a Map>) -> File {
    File { path: path.into(), content: format!("{HEADER}{}", documents(objects)) }
}

/// Begins an object of the namespace.
pub(super) fn object(inventory: &Inventory, api: &str, kind: &str, name: &str, labels: Map) -> Map {
    let metadata = map("name", name).with("namespace", &inventory.namespace).with("labels", labels);
    map("apiVersion", api).with("kind", kind).with("metadata", metadata)
}

/// Begins an object of the cluster.
pub(super) fn cluster_object(api: &str, kind: &str, name: &str, labels: Map) -> Map {
    map("apiVersion", api).with("kind", kind).with("metadata", map("name", name).with("labels", labels))
}

/// Returns the labels that tell what an object is a part of.
pub(super) fn labels(component: Component) -> Map {
    selector(component).with("app.kubernetes.io/part-of", "ha-sync")
}

/// Returns the labels that select the pods of a component.
pub(super) fn selector(component: Component) -> Map {
    map("app.kubernetes.io/name", "ha-sync").with("app.kubernetes.io/component", component.name())
}

/// Returns the DSN as an environment variable: there a password is not seen in the process list.
pub(super) fn database(inventory: &Inventory) -> Map {
    let database = &inventory.database;
    let key = map("name", &database.secret).with("key", &database.key);
    map("name", "HA_SYNC_DB_DSN").with("valueFrom", map("secretKeyRef", key))
}

pub(super) fn field_variable(name: &str, path: &str) -> Map {
    map("name", name).with("valueFrom", map("fieldRef", map("fieldPath", path)))
}

/// Returns what a container may not do, whatever else it may.
pub(super) fn confined(capabilities: Map) -> Map {
    map("allowPrivilegeEscalation", false)
        .with("privileged", false)
        .with("readOnlyRootFilesystem", true)
        .with("capabilities", map("drop", list(["ALL"])).with_all(capabilities))
}

/// Returns the seccomp profile that the container runtime comes with.
pub(super) fn seccomp() -> Map {
    map("type", "RuntimeDefault")
}

pub(super) fn resources(cpu: &str, memory: &str, most_cpu: &str, most_memory: &str) -> Map {
    let amounts = |cpu: &str, memory: &str| map("cpu", cpu).with("memory", memory);
    map("requests", amounts(cpu, memory)).with("limits", amounts(most_cpu, most_memory))
}

/// Spreads the pods of a component over the nodes, where that can be done.
pub(super) fn spread(component: Component) -> Yaml {
    let constraint = map("maxSkew", 1)
        .with("topologyKey", "kubernetes.io/hostname")
        .with("whenUnsatisfiable", "ScheduleAnyway")
        .with("labelSelector", map("matchLabels", selector(component)));
    list([constraint])
}

/// Returns a volume of memory for what the read-only root has no place for.
pub(super) fn scratch(name: &str) -> Map {
    map("name", name).with("emptyDir", map("medium", "Memory").with("sizeLimit", "16Mi"))
}

pub(super) fn claim_volume(name: &str, claim: &str) -> Map {
    map("name", name).with("persistentVolumeClaim", map("claimName", claim))
}

pub(super) fn mount(name: &str, path: &str) -> Map {
    map("name", name).with("mountPath", path)
}
