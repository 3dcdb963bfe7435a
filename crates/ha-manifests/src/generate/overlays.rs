//! Components, which change the base, and overlays, which are what is applied.
//!
//! `ingress` and `monitoring` only add objects, so that they go beside any of the others.

use crate::generate::jobs::{DRY_RUN_OF_PRUNE, DRY_RUN_OF_SYNC};
use crate::generate::parts::{Component, file, labels, object, selector};
use crate::generate::{File, ui};
use crate::inventory::{Dashboard, Inventory};
use crate::write::{Map, Yaml, documents, list, map};

/// Is who jobs run as when they may not be root.
const USER: u32 = 1000;

pub(super) fn files(inventory: &Inventory) -> Vec<File> {
    let mut files = vec![live(), rootless(inventory), production("production", &["live"]), {
        production("rootless", &["live", "rootless"])
    }];
    if let Some(dashboard) = &inventory.dashboard {
        files.extend(ingress(inventory, dashboard));
        files.extend(monitoring(inventory));
    }
    files
}

fn kustomization(folder: &str, body: Map) -> File {
    let head = map("apiVersion", "kustomize.config.k8s.io/v1beta1").with("kind", "Kustomization");
    file(format!("{folder}/kustomization.yaml"), [&head.with_all(body)])
}

fn component(name: &str, patches: Yaml) -> File {
    let body = map("apiVersion", "kustomize.config.k8s.io/v1alpha1").with("kind", "Component").with("patches", patches);
    file(format!("components/{name}/kustomization.yaml"), [&body])
}

/// Changes objects of a kind and a component of ours by JSON patches.
fn patch(kind: &str, of: Component, operations: &[Map]) -> Map {
    let target = map("kind", kind).with("labelSelector", format!("app.kubernetes.io/component={}", of.name()));
    let list = map("patch", list(operations.iter().cloned()));
    // The patch is YAML in a text; what stands behind its key is that text.
    let text = documents([&list]);
    let lines: Vec<_> = text.lines().skip(1).map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    map("target", target).with("patch", Yaml::Lines(lines.join("\n")))
}

const POD: &str = "/spec/jobTemplate/spec/template/spec";

fn live() -> File {
    let remove = |component: Component, at: usize| {
        let path = format!("{POD}/containers/0/args/{at}");
        let operation = |name: &str| map("op", name).with("path", &path);
        patch("CronJob", component, &[operation("test").with("value", "--dry-run"), operation("remove")])
    };
    let patches = list([remove(Component::Sync, DRY_RUN_OF_SYNC), remove(Component::Prune, DRY_RUN_OF_PRUNE)]);
    component("live", patches)
}

fn rootless(inventory: &Inventory) -> File {
    let replace =
        |path: &str, value: Yaml| map("op", "replace").with("path", format!("{POD}/{path}")).with("value", value);
    let user = || {
        [
            replace("securityContext/runAsUser", USER.into()),
            replace("securityContext/runAsGroup", USER.into()),
            replace("securityContext/runAsNonRoot", true.into()),
        ]
    };
    let mut sync = user().to_vec();
    sync.push(map("op", "remove").with("path", format!("{POD}/containers/0/securityContext/capabilities/add")));
    let group = map("op", "replace").with("path", "/spec/template/spec/securityContext/supplementalGroups/0");
    let dashboard = patch("Deployment", Component::Dashboard, &[group.with("value", USER)]);
    let jobs = [patch("CronJob", Component::Sync, &sync), patch("CronJob", Component::Prune, &user())];
    component("rootless", list(jobs.into_iter().chain(inventory.dashboard.is_some().then_some(dashboard))))
}

fn production(name: &str, components: &[&str]) -> File {
    let components = components.iter().map(|name| format!("../../components/{name}"));
    let body = map("resources", list(["../../base"])).with("components", list(components));
    kustomization(&format!("overlays/{name}"), body)
}

fn ingress(inventory: &Inventory, dashboard: &Dashboard) -> [File; 2] {
    let Dashboard { host, ingress_class, issuer, login: _ } = dashboard;
    let service = map("name", "ha-sync-ui").with("port", map("number", ui::PORT));
    let path = map("path", "/").with("pathType", "Prefix").with("backend", map("service", service));
    let rule = map("host", host).with("http", map("paths", list([path])));
    let tls = map("hosts", list([host])).with("secretName", "ha-sync-ui-tls");
    let spec = Map::default()
        .maybe("ingressClassName", ingress_class.as_ref())
        .with("tls", list([tls]))
        .with("rules", list([rule]));
    let metadata = map("name", "ha-sync-ui")
        .with("namespace", &inventory.namespace)
        .with("labels", labels(Component::Dashboard))
        .with("annotations", map("cert-manager.io/cluster-issuer", issuer));
    let body =
        map("apiVersion", "networking.k8s.io/v1").with("kind", "Ingress").with("metadata", metadata).with("spec", spec);
    [
        file("overlays/ingress/ui-ingress.yaml", [&body]),
        kustomization("overlays/ingress", map("resources", list(["ui-ingress.yaml"]))),
    ]
}

/// The alerts and the panels are those that are tested with the dashboard, as they are.
const ALERTS: &str = include_str!("../../../../deploy/monitoring/alerts.yaml");
const PANELS: &str = include_str!("../../../../deploy/monitoring/grafana.json");

/// For the operator of Prometheus, and for a Grafana that looks for ConfigMaps with its label.
fn monitoring(inventory: &Inventory) -> [File; 4] {
    let named = |api: &str, kind: &str, name: &str, more: Map| {
        object(inventory, api, kind, name, labels(Component::Dashboard).with_all(more))
    };
    let operator = "monitoring.coreos.com/v1";
    let mut rules = file(
        "overlays/monitoring/prometheusrule.yaml",
        [&named(operator, "PrometheusRule", "ha-sync", Map::default())],
    );
    rules.content.push_str("spec:\n");
    for line in ALERTS.lines().filter(|line| !line.starts_with('#')) {
        rules.content.push_str(&if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") });
    }
    let endpoint = map("port", "http").with("path", "/metrics").with("interval", "60s");
    let spec = map("selector", map("matchLabels", selector(Component::Dashboard))).with("endpoints", list([endpoint]));
    let monitor = named(operator, "ServiceMonitor", "ha-sync-ui", Map::default()).with("spec", spec);
    let panels = named("v1", "ConfigMap", "ha-sync-grafana", map("grafana_dashboard", "1"))
        .with("data", map("ha-sync.json", Yaml::Lines(PANELS.to_owned())));
    [
        rules,
        file("overlays/monitoring/servicemonitor.yaml", [&monitor]),
        file("overlays/monitoring/grafana.yaml", [&panels]),
        kustomization(
            "overlays/monitoring",
            map("resources", list(["prometheusrule.yaml", "servicemonitor.yaml", "grafana.yaml"])),
        ),
    ]
}
