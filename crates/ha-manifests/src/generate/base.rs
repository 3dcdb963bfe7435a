//! The base: accounts, rights, volumes and claims, and the list of all of it.

use crate::generate::parts::{Component, cluster_object, file, labels, object};
use crate::generate::{File, HEADER, jobs, policies, ui};
use crate::inventory::{Inventory, Volume};
use crate::write::{Map, list, map};

pub(super) fn files(inventory: &Inventory) -> Vec<File> {
    let mut files = vec![accounts(inventory), rights(inventory)];
    files.extend(logs(inventory));
    let (volumes, claims): (Vec<_>, Vec<_>) = sides(inventory).map(|side| volume(inventory, &side)).unzip();
    files.extend(volumes);
    files.extend(claims);
    files.extend(jobs::files(inventory));
    if inventory.dashboard.is_some() {
        files.extend(ui::files(inventory));
    }
    files.push(policies::file_of_all(inventory));
    let names: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
    files.push(secret(inventory));
    let kustomization = map("apiVersion", "kustomize.config.k8s.io/v1beta1")
        .with("kind", "Kustomization")
        .with("resources", list(names));
    files.push(file("kustomization.yaml", [&kustomization]));
    files.into_iter().map(|file| File { path: format!("base/{}", file.path), ..file }).collect()
}

fn accounts(inventory: &Inventory) -> File {
    // A pod that needs the token says so itself.
    let account = |name: &str, component: Component| {
        object(inventory, "v1", "ServiceAccount", name, labels(component)).with("automountServiceAccountToken", false)
    };
    let mut accounts = vec![account("ha-sync", Component::Sync)];
    if inventory.dashboard.is_some() {
        accounts.push(account("ha-sync-ui", Component::Dashboard));
    }
    file("serviceaccount.yaml", &accounts)
}

fn rights(inventory: &Inventory) -> File {
    let leases: Vec<String> = inventory.pairs.iter().flat_map(|pair| pair.leases()).collect();
    let rule = |verbs: &[&str]| {
        map("apiGroups", list(["coordination.k8s.io"]))
            .with("resources", list(["leases"]))
            .with("verbs", list(verbs.iter().copied()))
    };
    let named = |verbs: &[&str]| {
        let note = "the locks of the pairs, and no other Lease of the namespace";
        rule(verbs).said("resourceNames", note, list(&leases))
    };
    let api = "rbac.authorization.k8s.io";
    let version = format!("{api}/v1");
    let granted = |name: &str, component: Component, rules: Vec<Map>| {
        let object = |kind: &str| object(inventory, &version, kind, name, labels(component));
        let subject = map("kind", "ServiceAccount").with("name", name).with("namespace", &inventory.namespace);
        let binding = object("RoleBinding")
            .with("roleRef", map("apiGroup", api).with("kind", "Role").with("name", name))
            .with("subjects", list([subject]));
        [object("Role").with("rules", list(rules)), binding]
    };
    // Who makes an object has not named it yet when rights are checked: that rule cannot have names.
    let rules = vec![named(&["get", "update", "delete"]), rule(&["create"])];
    let mut objects = granted("ha-sync", Component::Sync, rules).to_vec();
    if inventory.dashboard.is_some() {
        objects.extend(granted("ha-sync-ui", Component::Dashboard, vec![named(&["get"])]));
    }
    file("rbac.yaml", &objects)
}

/// Is a volume with its names.
struct Named<'a> {
    volume: &'a Volume,
    /// The end of the names of the PersistentVolume and its claim: `pv-<name>`, `pvc-<name>`.
    name: String,
    /// The end of the names of their files.
    file: String,
    labels: Map,
}

fn logs(inventory: &Inventory) -> [File; 2] {
    let logs = Named {
        volume: &inventory.logs,
        name: "ha-sync-logs".to_owned(),
        file: "logs".to_owned(),
        labels: labels(Component::Volume),
    };
    let (volume, claim) = volume(inventory, &logs);
    [volume, claim]
}

/// Returns the sides of all pairs, server by server.
fn sides(inventory: &Inventory) -> impl Iterator<Item = Named<'_>> {
    inventory.servers.iter().enumerate().flat_map(move |(at, server)| {
        inventory.pairs.iter().flat_map(move |pair| {
            pair.sides.iter().filter(move |side| side.server == at).map(move |volume| {
                let name = format!("{}-{}", server.name, pair.name);
                let labels =
                    labels(Component::Volume).with("ha-sync/pair", &pair.name).with("ha-sync/server", &server.name);
                Named { volume, file: name.clone(), name, labels }
            })
        })
    })
}

fn volume(inventory: &Inventory, named: &Named<'_>) -> (File, File) {
    let Named { volume, name, file: file_name, labels } = named;
    let (volume_name, claim_name) = (format!("pv-{name}"), format!("pvc-{name}"));
    let modes = || list(["ReadWriteMany"]);
    let server = &inventory.servers[volume.server].address;
    let claim = map("apiVersion", "v1")
        .with("kind", "PersistentVolumeClaim")
        .with("name", &claim_name)
        .with("namespace", &inventory.namespace);
    let spec = map("capacity", map("storage", &volume.capacity))
        .with("accessModes", modes())
        .with("persistentVolumeReclaimPolicy", "Retain")
        .with("storageClassName", "")
        .said("claimRef", "no other claim gets this volume", claim)
        .with("nfs", map("server", server).with("path", &volume.path));
    let persistent = cluster_object("v1", "PersistentVolume", &volume_name, labels.clone()).with("spec", spec);
    let request = map("accessModes", modes())
        .with("storageClassName", "")
        .with("volumeName", &volume_name)
        .with("resources", map("requests", map("storage", &volume.capacity)));
    let claim = object(inventory, "v1", "PersistentVolumeClaim", &claim_name, labels.clone()).with("spec", request);
    (file(format!("pv-{file_name}.yaml"), [&persistent]), file(format!("pvc-{file_name}.yaml"), [&claim]))
}

/// Makes the note that stands in the Secret's place: a password is in no file.
fn secret(inventory: &Inventory) -> File {
    let database = &inventory.database;
    let host = database.host.as_deref().unwrap_or("<host>");
    let (secret, key, port, name) = (&database.secret, &database.key, database.port, &database.name);
    let namespace = &inventory.namespace;
    let text = format!(
        "{HEADER}#\n\
         # A note, not a manifest: the Secret is made by hand, so that no password is in a file.\n\
         #\n\
         #   kubectl create secret generic {secret} \\\n\
         #     --from-literal={key}='<user>:<password>@tcp({host}:{port})/{name}' \\\n\
         #     -n {namespace}\n"
    );
    File { path: "secret.yaml".to_owned(), content: text }
}
