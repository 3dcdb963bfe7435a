//! The committed deployment on a real control plane: accepted, carried out, with rights that are enough and no more.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

mod control_plane;
mod phase_five;

use std::process::Command;
use std::time::Duration;

use control_plane::ControlPlane;
use ha_testkit::need;
use serde_json::Value;

const NAMESPACE: &str = "infrastructure";

/// What the operator of Prometheus brings, as far as the overlay uses it: an unknown field is refused here, too.
const OPERATOR: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheusrules.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: PrometheusRule, plural: prometheusrules, singular: prometheusrule, listKind: PrometheusRuleList}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            spec:
              type: object
              properties:
                groups:
                  type: array
                  items:
                    type: object
                    required: [name]
                    properties:
                      name: {type: string}
                      interval: {type: string}
                      rules:
                        type: array
                        items:
                          type: object
                          required: [expr]
                          properties:
                            alert: {type: string}
                            expr: {x-kubernetes-int-or-string: true}
                            for: {type: string}
                            labels: {type: object, additionalProperties: {type: string}}
                            annotations: {type: object, additionalProperties: {type: string}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ServiceMonitor, plural: servicemonitors, singular: servicemonitor, listKind: ServiceMonitorList}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            spec:
              type: object
              required: [endpoints, selector]
              properties:
                selector:
                  type: object
                  properties:
                    matchLabels: {type: object, additionalProperties: {type: string}}
                endpoints:
                  type: array
                  items:
                    type: object
                    properties:
                      port: {type: string}
                      path: {type: string}
                      interval: {type: string}
";

/// One control plane for all: it takes seconds to start.
#[test]
fn the_deployment_on_a_real_control_plane() {
    let mut plane = need!(ControlPlane::start());
    plane.done(&["create", "namespace", NAMESPACE]);
    everything_is_accepted(&plane);
    pods_fit_the_standards_for_pods(&plane);
    the_role_is_what_a_lease_needs_and_nothing_else(&plane);
    plane.start_controllers();
    a_cron_job_makes_its_job_and_pod(&plane);
}

fn folder(name: &str) -> String {
    format!("{}/../../deploy/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Applies a folder by server-side apply with strict validation; returns what was applied and what was warned of.
#[track_caller]
fn apply(plane: &ControlPlane, name: &str, more: &[&str]) -> (String, String) {
    let folder = folder(name);
    let words = ["apply", "--server-side", "--force-conflicts", "--validate=strict", "-k", &folder];
    plane.done(&[&words, more].concat())
}

fn everything_is_accepted(plane: &ControlPlane) {
    plane.given(&["apply", "-f", "-"], OPERATOR);
    plane.done(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]);
    for name in ["base", "overlays/production", "overlays/rootless", "overlays/ingress", "overlays/monitoring"] {
        let (applied, warned) = apply(plane, name, &[]);
        assert!(warned.is_empty(), "{name}: {warned}");
        assert!(applied.lines().count() > 0);
    }
    // Strict it is: a field that nobody knows is refused.
    let words = ["apply", "--server-side", "--validate=strict", "-f", "-"];
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        plane.given(
            &words,
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: x, namespace: infrastructure}, tokn: 1}",
        )
    }));
    assert!(refused.is_err());
    // The dry-run base last, for what follows.
    apply(plane, "base", &[]);
}

/// What the plan's inventory has nothing of.
const VARIANTS: &str = "
namespace: variants
image: r/ha-sync:1
logs: {server: one, folder: /srv/logs}
servers:
  - {name: one, address: 10.0.0.1, export: /data}
  - {name: two, address: nas-b.lan, export: /}
  - {name: three, address: 'fd00::3', export: /vol/c}
database: {host: 'fd00::9'}
dashboard: {host: sync.example.org, login: ha-sync-logins, ingressClass: nginx}
pairs:
  - {name: sharded, capacity: 1Ti, servers: [one, two], shards: 3}
  - {name: both, capacity: 1Gi, servers: [two, three], mode: two-way, interval: 1h}
  - {name: mirror, capacity: 500M, servers: [one, three], delete: {one-to-three: strict, three-to-one: on}}
";

/// On a control plane of its own: the volume of the logs has the same name in every deployment.
#[test]
fn variants_on_a_real_control_plane() {
    let plane = need!(ControlPlane::start());
    plane.given(&["apply", "-f", "-"], OPERATOR);
    plane.done(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]);
    let place = tempfile::tempdir().unwrap();
    let (inventory, out) = (place.path().join("inventory.yaml"), place.path().join("out"));
    std::fs::write(&inventory, VARIANTS).unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_ha-sync"))
        .args(["manifests".as_ref(), "--inventory".as_ref(), inventory.as_os_str(), "--out".as_ref(), out.as_os_str()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    plane.done(&["create", "namespace", "variants"]);
    for name in ["base", "overlays/production", "overlays/rootless", "overlays/ingress", "overlays/monitoring"] {
        let folder = out.join(name);
        let folder = folder.to_str().unwrap();
        let words = ["apply", "--server-side", "--force-conflicts", "--validate=strict", "-k", folder];
        let (_, warned) = plane.done(&words);
        assert!(warned.is_empty(), "{name}: {warned}");
    }
    command_lines_are_understood(&plane, "variants");
}

/// Each command line of a CronJob is one that the program takes: a run gets as far as the roots, which are not here.
fn command_lines_are_understood(plane: &ControlPlane, namespace: &str) {
    let jobs = plane.done(&["-n", namespace, "-o", "json", "get", "cronjobs"]).0;
    let jobs: Value = serde_json::from_str(&jobs).unwrap();
    let jobs = jobs["items"].as_array().unwrap();
    assert!(jobs.len() > 5);
    for job in jobs {
        let container = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["command"], serde_json::json!(["/ha-sync"]));
        let words: Vec<&str> =
            container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let is_run = words.iter().any(|word| word.starts_with("--pair="));
        let logs = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_ha-sync"))
            .args(&words)
            .args(is_run.then_some("--lock=file"))
            .arg("--log-dir")
            .arg(logs.path())
            .env_clear()
            .env("JOB_COMPLETION_INDEX", "2")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if is_run { 5 } else { 0 }), "{words:?}: {told}");
        assert!(!is_run || told.contains("/mnt/"), "{told}");
    }
}

/// The default pods are `baseline`, those without root are `restricted`.
fn pods_fit_the_standards_for_pods(plane: &ControlPlane) {
    let warned = |level: &str, name: &str| {
        let label = format!("pod-security.kubernetes.io/warn={level}");
        plane.done(&["label", "--overwrite", "namespace", NAMESPACE, &label]);
        // Without a change there is no warning: made anew, in a dry run.
        let folder = folder(name);
        let built = plane.done(&["kustomize", &folder]).0.replace("name: ha-sync-", "name: new-ha-sync-");
        plane.given(&["apply", "--server-side", "--dry-run=server", "-f", "-"], &built).1
    };
    assert!(!warned("baseline", "overlays/production").contains("would violate"));
    assert!(warned("restricted", "overlays/production").contains("would violate"), "the check bites");
    let told = warned("restricted", "overlays/rootless");
    assert!(!told.contains("would violate"), "{told}");
    plane.done(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn-"]);
}

fn the_role_is_what_a_lease_needs_and_nothing_else(plane: &ControlPlane) {
    let may = |account: &str, words: &[&str]| {
        let who = format!("--as=system:serviceaccount:{NAMESPACE}:{account}");
        let output = plane.kubectl(&[&["auth", "can-i", "-n", NAMESPACE, &who][..], words].concat());
        output.status.success()
    };
    assert!(may("ha-sync", &["create", "leases.coordination.k8s.io"]));
    for verb in ["get", "update", "delete"] {
        for pair in ["media", "photos", "owncloud", "games", "infra", "ai"] {
            assert!(may("ha-sync", &[verb, &format!("leases.coordination.k8s.io/ha-sync-{pair}")]), "{verb} {pair}");
        }
        assert!(!may("ha-sync", &[verb, "leases.coordination.k8s.io/somebody-elses"]), "{verb}");
        assert!(!may("ha-sync", &[verb, "leases.coordination.k8s.io"]), "{verb} of any");
    }
    for verb in ["list", "watch", "patch", "deletecollection"] {
        assert!(!may("ha-sync", &[verb, "leases.coordination.k8s.io"]), "{verb}");
    }
    for (verb, what) in [("get", "secrets"), ("list", "pods"), ("create", "pods"), ("get", "configmaps")] {
        assert!(!may("ha-sync", &[verb, what]), "{verb} {what}");
    }
    // the dashboard looks at those, and touches none
    for pair in ["media", "photos", "owncloud", "games", "infra", "ai"] {
        assert!(may("ha-sync-ui", &["get", &format!("leases.coordination.k8s.io/ha-sync-{pair}")]), "{pair}");
    }
    assert!(!may("ha-sync-ui", &["get", "leases.coordination.k8s.io/somebody-elses"]));
    for verb in ["list", "watch", "create", "update", "patch", "delete"] {
        for lease in ["leases.coordination.k8s.io", "leases.coordination.k8s.io/ha-sync-media"] {
            assert!(!may("ha-sync-ui", &[verb, lease]), "{verb} {lease}");
        }
    }
}

fn json(plane: &ControlPlane, words: &[&str]) -> Value {
    serde_json::from_str(&plane.done(&[&["-n", NAMESPACE, "-o", "json", "get"], words].concat()).0).unwrap()
}

fn a_cron_job_makes_its_job_and_pod(plane: &ControlPlane) {
    // Every minute instead of every quarter of an hour; all else is as it was made.
    let sooner = r#"{"spec": {"schedule": "* * * * *"}}"#;
    plane.done(&["-n", NAMESPACE, "patch", "cronjob", "ha-sync-media-dell-to-hp", "-p", sooner]);
    plane.done(&["-n", NAMESPACE, "create", "job", "pruning", "--from=cronjob/ha-sync-prune"]);
    let pods = |pair: &str| json(plane, &["pods", "-l", pair])["items"].as_array().unwrap().clone();
    plane.eventually("a pod of the CronJob is on a node", Duration::from_secs(180), |_| {
        pods("ha-sync/pair=media").iter().any(|pod| pod["spec"]["nodeName"].is_string())
    });
    plane.eventually("the pod of the pruning job is on a node", Duration::from_secs(60), |_| {
        pods("app.kubernetes.io/component=prune").iter().any(|pod| pod["spec"]["nodeName"].is_string())
    });
    let job = &json(plane, &["jobs", "-l", "ha-sync/pair=media"])["items"][0];
    assert_eq!(job["metadata"]["ownerReferences"][0]["name"], "ha-sync-media-dell-to-hp");
    for claim in json(plane, &["pvc"])["items"].as_array().unwrap() {
        let name = claim["metadata"]["name"].as_str().unwrap();
        let volume = claim["spec"]["volumeName"].as_str().unwrap();
        assert_eq!(volume.strip_prefix("pv-"), name.strip_prefix("pvc-"), "each claim has its own volume");
    }
    let media = &pods("ha-sync/pair=media")[0];
    assert!(
        media["spec"]["volumes"].as_array().unwrap().iter().any(|volume| volume["projected"].is_object()),
        "a token"
    );
    let prune = &pods("app.kubernetes.io/component=prune")[0];
    assert!(!prune["spec"]["volumes"].as_array().unwrap().iter().any(|volume| volume["projected"].is_object()));
    command_lines_are_understood(plane, NAMESPACE);
}
