//! What is committed under `deploy/` is what its inventory says.
#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "a test may read and write the project's files")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ha_manifests::{File, files, owned, read, schema};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn inventory() -> ha_manifests::Inventory {
    let text = std::fs::read_to_string(deploy().join("inventory.yaml")).unwrap();
    read(&text).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn updating() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1")
}

fn kept_is(path: &Path, made: &str) {
    if updating() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let first = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    let path = path.display();
    assert!(made == kept, "{path} is old, first at {first:?}: UPDATE_DOCS=1 cargo test -p ha-manifests --test plan");
}

#[test]
fn the_committed_files_are_what_the_inventory_says() {
    let made = files(&inventory());
    for File { path, content } in &made {
        kept_is(&deploy().join(path), content);
    }
    let made: BTreeSet<_> = made.iter().map(|file| deploy().join(&file.path)).collect();
    for folder in owned() {
        for entry in std::fs::read_dir(deploy().join(folder)).into_iter().flatten() {
            let path = entry.unwrap().path();
            assert!(made.contains(&path), "the inventory does not make {}", path.display());
        }
    }
}

#[test]
fn the_committed_schema_is_that_of_the_reader() {
    kept_is(&deploy().join("inventory.schema.json"), &schema());
}

/// The list of the plan, with what the base has beyond it.
#[test]
fn the_base_has_the_plans_files_in_the_plans_order() {
    let pairs = ["media", "photos", "owncloud", "games", "infra", "ai"];
    let mut expected =
        ["serviceaccount.yaml", "rbac.yaml", "pv-logs.yaml", "pvc-logs.yaml"].map(str::to_owned).to_vec();
    for kind in ["pv", "pvc"] {
        for server in ["dell", "hp"] {
            expected.extend(pairs.map(|pair| format!("{kind}-{server}-{pair}.yaml")));
        }
    }
    for pair in pairs {
        expected.extend(["dell-to-hp", "hp-to-dell"].map(|direction| format!("cron-{pair}-{direction}.yaml")));
    }
    expected.extend(
        ["cron-prune", "ui-deployment", "ui-service", "ui-pdb", "networkpolicy"].map(|name| format!("{name}.yaml")),
    );
    let made = files(&inventory());
    let listed = &made.iter().find(|file| file.path == "base/kustomization.yaml").unwrap().content;
    let listed: Vec<_> = listed.lines().filter_map(|line| line.strip_prefix("  - ")).collect();
    assert_eq!(listed, expected);
    let secret = &made.iter().find(|file| file.path == "base/secret.yaml").unwrap().content;
    assert!(
        secret.lines().all(|line| line.starts_with('#'))
            && secret.contains("kubectl create secret generic ha-sync-db-secret")
    );
}

#[test]
fn sizes_schedules_and_paths_are_the_plans() {
    let made = files(&inventory());
    let has = |path: &str, lines: &[&str]| {
        let content = &made.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path}")).content;
        for line in lines {
            assert!(content.lines().any(|there| there.trim() == *line), "{path} has no line {line:?}:\n{content}");
        }
    };
    let sizes = [
        ("media", "2Ti"),
        ("photos", "500Gi"),
        ("owncloud", "500Gi"),
        ("games", "500Gi"),
        ("infra", "100Gi"),
        ("ai", "500Gi"),
    ];
    for (pair, size) in sizes {
        for (server, address) in [("dell", "192.168.2.100"), ("hp", "192.168.2.193")] {
            let (storage, name) = (format!("storage: {size}"), format!("volumeName: pv-{server}-{pair}"));
            let (server_line, path) = (format!("server: {address}"), format!("path: /data/{pair}"));
            has(&format!("base/pv-{server}-{pair}.yaml"), &[&storage, "- ReadWriteMany", &server_line, &path]);
            has(
                &format!("base/pvc-{server}-{pair}.yaml"),
                &[&storage, "- ReadWriteMany", "storageClassName: \"\"", &name],
            );
        }
        for (from, to, schedule) in
            [("dell", "hp", "schedule: \"*/15 * * * *\""), ("hp", "dell", "schedule: \"7,22,37,52 * * * *\"")]
        {
            let direction = format!("{from}-to-{to}");
            has(
                &format!("base/cron-{pair}-{direction}.yaml"),
                &[
                    schedule,
                    &format!("name: ha-sync-{pair}-{direction}"),
                    &format!("- --src=/mnt/{from}/{pair}"),
                    &format!("- --dest=/mnt/{to}/{pair}"),
                    &format!("- --pair={pair}"),
                    &format!("- --direction={direction}"),
                    "- --log-dir=/var/log/ha-sync",
                    "- --dry-run",
                    "serviceAccountName: ha-sync",
                    &format!("mountPath: /mnt/{from}/{pair}"),
                    &format!("claimName: pvc-{to}-{pair}"),
                    "claimName: pvc-ha-sync-logs",
                    "name: ha-sync-db-secret",
                    "namespace: infrastructure",
                ],
            );
        }
    }
    has("base/pv-logs.yaml", &["storage: 10Gi", "server: 192.168.2.193", "path: /data/infra/ha-sync-logs"]);
    has("base/cron-infra-dell-to-hp.yaml", &["- --exclude=/ha-sync-logs"]);
    let without = &made.iter().find(|file| file.path == "base/cron-media-dell-to-hp.yaml").unwrap().content;
    assert!(!without.contains("--exclude") && !without.contains("--delete-missing"));
}
