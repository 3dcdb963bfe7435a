//! Who may talk to whom. NFS is not in here: the node mounts it, not the pod.

use crate::generate::File;
use crate::generate::parts::{Component, file, labels, object, selector};
use crate::inventory::Inventory;
use crate::write::{Map, Yaml, list, map};

pub(super) fn file_of_all(inventory: &Inventory) -> File {
    let mut policies = vec![records(inventory), api(inventory)];
    if inventory.dashboard.is_some() {
        policies.push(dashboard(inventory));
    }
    file("networkpolicy.yaml", &policies)
}

fn policy(inventory: &Inventory, name: &str, component: Component, spec: Map) -> Map {
    object(inventory, "networking.k8s.io/v1", "NetworkPolicy", name, labels(component)).with("spec", spec)
}

fn port(protocol: &str, port: u32) -> Map {
    map("protocol", protocol).with("port", port)
}

/// Every pod of ours: nothing comes in, names and the database are reached.
fn records(inventory: &Inventory) -> Map {
    let database = &inventory.database;
    let names = map("ports", list([port("UDP", 53), port("TCP", 53)]));
    let ports = list([port("TCP", database.port)]);
    let target = database.host.as_deref().and_then(target);
    let database = map("ports", ports).maybe("to", target.map(|target| list([target])));
    let spec = map("podSelector", map("matchLabels", map("app.kubernetes.io/name", "ha-sync")))
        .with("policyTypes", list(["Ingress", "Egress"]))
        .with("egress", list([names, database]));
    policy(inventory, "ha-sync", Component::Sync, spec)
}

/// Returns who a database is, as far as its host tells: an address, or any pod of the namespace of a Service.
fn target(host: &str) -> Option<Map> {
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Some(map("ipBlock", map("cidr", format!("{address}/{bits}"))));
    }
    let namespace = match *host.split('.').collect::<Vec<_>>() {
        [_, namespace, "svc", ..] => namespace,
        _ => return None,
    };
    let labels: Yaml = map("kubernetes.io/metadata.name", namespace).into();
    Some(map("namespaceSelector", map("matchLabels", labels)))
}

/// The ports of the API server: of its Service, and of itself, behind which a policy may be applied.
fn api_ports() -> Yaml {
    list([port("TCP", 443), port("TCP", 6443)])
}

/// The pods that hold Leases reach the API server. It is not a pod, so only its ports can be named.
fn api(inventory: &Inventory) -> Map {
    let spec = map("podSelector", map("matchLabels", selector(Component::Sync)))
        .with("policyTypes", list(["Egress"]))
        .with("egress", list([map("ports", api_ports())]));
    policy(inventory, "ha-sync-api", Component::Sync, spec)
}

/// The dashboard is asked by the ingress and by Prometheus, which may run in the network of their node. It asks the API
/// server who holds the Leases.
fn dashboard(inventory: &Inventory) -> Map {
    let spec = map("podSelector", map("matchLabels", selector(Component::Dashboard)))
        .with("policyTypes", list(["Ingress", "Egress"]))
        .with("ingress", list([map("ports", list([port("TCP", 8080)]))]))
        .with("egress", list([map("ports", api_ports())]));
    policy(inventory, "ha-sync-dashboard", Component::Dashboard, spec)
}
