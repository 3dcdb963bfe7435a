//! The plan's phase 5 outside a pod: the arguments of the CronJob, its account on the real API server, a real MariaDB.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ha_testkit::mariadb::{self, Server};
use ha_testkit::need;
use ha_testkit::passthrough::{Operation, Options, Passthrough, Rule};
use ha_testkit::tree::{Compare, Snapshot, dir, file, make};
use rustix::process::geteuid;
use serde_json::Value;

use crate::control_plane::ControlPlane;
use crate::{NAMESPACE, apply};

const PAIR: &str = "media";

/// The folders of both servers, and the volume of the logs.
struct Servers {
    directory: tempfile::TempDir,
}

impl Servers {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the names in the volume of the logs that are logs.
    fn logs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("logs")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".jsonl")).collect()
    }
}

/// Mounts the volumes where a pod has them, in a mount namespace of its own, and runs the program there.
const AS_IN_A_POD: &str = "
set -e
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/dell/media /mnt/hp/media
mount --bind \"$1\" /mnt/dell/media
mount --bind \"$2\" /mnt/hp/media
mount -t tmpfs tmpfs /var/log
mkdir /var/log/ha-sync
mount --bind \"$3\" /var/log/ha-sync
shift 3
exec \"$@\"
";

fn pod(volumes: [&Path; 3], words: &[String], config: &Path, dsn: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", AS_IN_A_POD, "sh"])
        .args(volumes)
        .arg(env!("CARGO_BIN_EXE_ha-sync"))
        .args(words)
        .arg("--kubeconfig")
        .arg(config)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HA_SYNC_DB_DSN", dsn)
        .env("POD_NAME", "ha-sync-test-pod")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Returns the arguments of the CronJob as the API server has it.
fn arguments(plane: &ControlPlane) -> Vec<String> {
    let job = format!("ha-sync-{PAIR}-dell-to-hp");
    let told = plane.done(&["-n", NAMESPACE, "get", "cronjob", &job, "-o", "json"]).0;
    let job: Value = serde_json::from_str(&told).unwrap();
    let words = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"];
    words.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn lease(plane: &ControlPlane) -> Option<Value> {
    let words = ["-n", NAMESPACE, "get", "lease", "ha-sync-media", "-o", "json", "--ignore-not-found"];
    serde_json::from_str(&plane.done(&words).0).ok()
}

#[track_caller]
fn succeeded(output: &Output) {
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}: {told}", output.status);
}

fn rows(database: (&Server, &str), dry_run: bool) -> Vec<String> {
    let statement = format!(
        "SELECT CONCAT_WS(' ', i.sync_pair, i.direction, i.status, i.files_created, COUNT(o.id)) \
         FROM sync_iterations i LEFT JOIN sync_operations o ON o.iteration_id = i.id AND o.dry_run = i.dry_run \
         WHERE i.dry_run = {} GROUP BY i.id",
        u8::from(dry_run)
    );
    database.0.sql(database.1, &statement)
}

#[test]
fn the_plans_smoke_test_outside_a_pod() {
    if !geteuid().is_root() {
        ha_testkit::loopmount::Skipped::because("only root mounts volumes where a pod has them").report();
        return;
    }
    let server = need!(mariadb::shared());
    let plane = need!(ControlPlane::start());
    let (database, servers) = (server.create_database(), Servers { directory: tempfile::tempdir().unwrap() });
    let dsn = server.dsn(&database);
    let marker = || file(".ha-sync-access", "");
    make(&servers.path("dell"), &[marker(), file("films/one", "a film"), file("films/two", "another"), dir("empty")]);
    make(&servers.path("hp"), &[marker()]);
    make(&servers.path("logs"), &[]);
    let slow = need!(Passthrough::mount(&servers.path("hp"), &Options::default()));

    // 5.1 and 5.2: the Secret is the environment here; the manifests are applied as they are committed.
    plane.done(&["create", "namespace", NAMESPACE]);
    apply(&plane, "base", &[]);
    let token = plane.done(&["-n", NAMESPACE, "create", "token", "ha-sync"]).0;
    let config = servers.path("kubeconfig");
    std::fs::write(&config, plane.config(token.trim(), NAMESPACE)).unwrap();
    let (dell, hp, logs) = (servers.path("dell"), slow.path().to_owned(), servers.path("logs"));
    let volumes = [dell.as_path(), hp.as_path(), logs.as_path()];

    // 5.3: the dry run, by the arguments and with the rights of the CronJob.
    let words = arguments(&plane);
    assert!(words.contains(&"--dry-run".to_owned()));
    let before = Snapshot::of(&servers.path("hp"));
    let output = pod(volumes, &words, &config, &dsn).output().unwrap();
    succeeded(&output);
    before.assert_same(&Snapshot::of(&servers.path("hp")));
    assert_eq!(rows((&server, &database), true), ["media dell-to-hp success 4 4"]);
    let again = pod(volumes, &words, &config, &dsn).output().unwrap();
    succeeded(&again);
    assert!(String::from_utf8_lossy(&again.stdout).contains("Dry-run already current as of "));

    // 5.7: the real run, by the production overlay. 5.4: its Lease, while it stays in a copy.
    apply(&plane, "overlays/production", &[]);
    let words = arguments(&plane);
    assert!(!words.contains(&"--dry-run".to_owned()));
    slow.inject(Rule::on(Operation::Mkdir).path_contains("films").delay(Duration::from_secs(5)).once());
    let running = pod(volumes, &words, &config, &dsn).spawn().unwrap();
    let mut seen = None;
    plane.eventually("the Lease is there while it runs", Duration::from_secs(30), |plane| {
        seen = lease(plane);
        seen.is_some()
    });
    let holder = seen.unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    assert!(holder.starts_with("ha-sync-test-pod/"), "{holder}");
    succeeded(&running.wait_with_output().unwrap());
    assert!(lease(&plane).is_none(), "it is given back");
    let sides = Compare::sides();
    Snapshot::with(&dell, &sides).assert_same(&Snapshot::with(&servers.path("hp"), &sides));

    // 5.5: rows in both tables; 5.6: no log is left.
    assert_eq!(rows((&server, &database), false), ["media dell-to-hp success 4 4"]);
    assert_eq!(servers.logs(), Vec::<String>::new());
}
