//! The dashboard: Deployment, Service, disruption budget.

use crate::generate::File;
use crate::generate::parts::{
    Component, LOG_DIRECTORY, claim_volume, confined, database, file, labels, mount, object, resources, scratch,
    seccomp, selector, spread,
};
use crate::inventory::Inventory;
use crate::write::{Map, list, map};

/// The port that it listens on, and its name.
pub(super) const PORT: u32 = 8080;
/// The variable of its logins, which is their key in the Secret, too.
const LOGINS: &str = "HA_SYNC_UI_AUTH";
/// Owns nothing anywhere.
const NOBODY: u32 = 65534;

pub(super) fn files(inventory: &Inventory) -> Vec<File> {
    vec![
        file("ui-deployment.yaml", [&deployment(inventory)]),
        file("ui-service.yaml", [&service(inventory)]),
        file("ui-pdb.yaml", [&budget(inventory)]),
    ]
}

fn deployment(inventory: &Inventory) -> Map {
    let probe = |path: &str, period: u32| {
        map("httpGet", map("path", path).with("port", "http")).with("periodSeconds", period).with("timeoutSeconds", 5)
    };
    let container = map("name", "ha-sync-ui")
        .with("image", &inventory.image)
        .with("command", list(["/ha-sync-ui"]))
        .with("env", list(std::iter::once(database(inventory)).chain(login(inventory))))
        .with("ports", list([map("name", "http").with("containerPort", PORT)]))
        .with("startupProbe", probe("/healthz", 2).with("failureThreshold", 30))
        .with("livenessProbe", probe("/healthz", 20))
        .said(
            "readinessProbe",
            "not /readyz: without the database, the page that says so is what is wanted",
            probe("/healthz", 10),
        )
        .with("resources", resources("20m", "32Mi", "1", "128Mi"))
        .with("securityContext", confined(Map::default()))
        .with("volumeMounts", list([mount("logs", LOG_DIRECTORY).with("readOnly", true), mount("tmp", "/tmp")]));
    let user = map("runAsUser", NOBODY)
        .with("runAsGroup", NOBODY)
        .with("runAsNonRoot", true)
        .said("supplementalGroups", "it counts the logs that wait, which the jobs' group may read", list([0_u32]))
        .with("seccompProfile", seccomp());
    let pod = map("serviceAccountName", "ha-sync-ui")
        .said("automountServiceAccountToken", "for who holds the Leases", true)
        .with("terminationGracePeriodSeconds", 30)
        .with("securityContext", user)
        .with("topologySpreadConstraints", spread(Component::Dashboard))
        .with("containers", list([container]))
        .with("volumes", list([claim_volume("logs", "pvc-ha-sync-logs"), scratch("tmp")]));
    let template = map("metadata", map("labels", labels(Component::Dashboard))).with("spec", pod);
    let spec = map("replicas", 1)
        .with("revisionHistoryLimit", 3)
        .with("selector", map("matchLabels", selector(Component::Dashboard)))
        .with("template", template);
    object(inventory, "apps/v1", "Deployment", "ha-sync-ui", labels(Component::Dashboard)).with("spec", spec)
}

/// Returns the logins that it asks for.
fn login(inventory: &Inventory) -> Option<Map> {
    let secret = inventory.dashboard.as_ref()?.login.as_ref()?;
    let key = map("name", secret).with("key", LOGINS);
    Some(map("name", LOGINS).with("valueFrom", map("secretKeyRef", key)))
}

fn service(inventory: &Inventory) -> Map {
    let spec = map("type", "ClusterIP")
        .with("selector", selector(Component::Dashboard))
        .with("ports", list([map("name", "http").with("port", PORT).with("targetPort", "http")]));
    object(inventory, "v1", "Service", "ha-sync-ui", labels(Component::Dashboard)).with("spec", spec)
}

fn budget(inventory: &Inventory) -> Map {
    let spec = map("selector", map("matchLabels", selector(Component::Dashboard))).said(
        "maxUnavailable",
        "One of one: a budget that kept the only pod would keep its node from ever being drained. With more\n\
         replicas it keeps all but one.",
        1,
    );
    object(inventory, "policy/v1", "PodDisruptionBudget", "ha-sync-ui", labels(Component::Dashboard))
        .with("spec", spec.with("unhealthyPodEvictionPolicy", "AlwaysAllow"))
}
