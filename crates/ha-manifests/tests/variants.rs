//! What an inventory other than the plan's becomes.

use ha_manifests::{File, files, read};

const BASE: &str = "\
namespace: sync
image: r/ha-sync:1
logs: {server: a, folder: /srv/logs}
servers:
  - {name: a, address: 10.0.0.1, export: /data}
  - {name: b, address: nas-b.lan, export: /}
  - {name: c, address: fd00::3, export: /vol/c/}
";

fn made(more: &str) -> Vec<File> {
    let text = format!("{BASE}{more}");
    files(&read(&text).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}")))
}

/// Returns the lines of a file without their indentation.
fn lines<'a>(made: &'a [File], path: &str) -> Vec<&'a str> {
    let file = made.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("there is no {path}"));
    file.content.lines().map(str::trim).collect()
}

fn assert_has(made: &[File], path: &str, wanted: &[&str]) {
    let lines = lines(made, path);
    for line in wanted {
        assert!(lines.contains(line), "{path} has no {line:?}: {lines:#?}");
    }
}

#[test]
fn a_two_way_pair_has_one_job() {
    let made = made("pairs:\n  - {name: m, capacity: 1Gi, servers: [a, b], mode: two-way, interval: 1h}\n");
    let jobs: Vec<_> = made.iter().map(|file| &*file.path).filter(|path| path.starts_with("base/cron-m")).collect();
    assert_eq!(jobs, ["base/cron-m-two-way.yaml"]);
    assert_has(&made, "base/cron-m-two-way.yaml", &["schedule: \"0 * * * *\"", "name: ha-sync-m-two-way"]);
    let lines = lines(&made, "base/cron-m-two-way.yaml");
    let arguments: Vec<_> = lines.iter().skip_while(|line| **line != "args:").skip(1).take(7).copied().collect();
    let expected = [
        "- two-way",
        "- --a=/mnt/a/m",
        "- --b=/mnt/b/m",
        "- --pair=m",
        "- --log-dir=/var/log/ha-sync",
        "- --dry-run",
        "- --require-mount",
    ];
    assert_eq!(arguments, expected);
}

#[test]
fn a_sharded_pair_has_indexed_jobs_and_a_lease_for_each_shard() {
    let made = made("pairs:\n  - {name: m, capacity: 1Gi, servers: [a, b], shards: 3}\n");
    assert_has(
        &made,
        "base/cron-m-a-to-b.yaml",
        &["completionMode: Indexed", "completions: 3", "parallelism: 3", "backoffLimitPerIndex: 0", "- --shards=3"],
    );
    assert!(!lines(&made, "base/cron-m-a-to-b.yaml").contains(&"backoffLimit: 0"));
    assert_has(&made, "base/rbac.yaml", &["- ha-sync-m-0", "- ha-sync-m-1", "- ha-sync-m-2"]);
    assert!(!lines(&made, "base/rbac.yaml").contains(&"- ha-sync-m"));
}

#[test]
fn folders_deletions_and_schedules_are_those_of_the_direction() {
    let made = made(
        "interval: 30m
pairs:
  - name: m
    capacity: 1Gi
    servers: [b, c]
    folder: media/all
    folders: {c: /other/place}
    delete: {b-to-c: on, c-to-b: strict}
    schedules: {c-to-b: '0 4 * * *'}
  - {name: n, capacity: 2Gi, servers: [a, c], folder: srv}
",
    );
    assert_has(&made, "base/pv-b-m.yaml", &["server: nas-b.lan", "path: /media/all"]);
    assert_has(&made, "base/pv-c-m.yaml", &["server: \"fd00::3\"", "path: /other/place"]);
    assert_has(&made, "base/pv-c-n.yaml", &["path: /vol/c/srv", "storage: 2Gi"]);
    assert_has(&made, "base/cron-m-b-to-c.yaml", &["schedule: \"*/30 * * * *\"", "- --delete-missing"]);
    assert_has(&made, "base/cron-m-c-to-b.yaml", &["schedule: \"0 4 * * *\"", "- --delete-missing=strict"]);
    assert_has(
        &made,
        "base/cron-n-c-to-a.yaml",
        &["schedule: \"15,45 * * * *\"", "- --src=/mnt/c/n", "- --dest=/mnt/a/n"],
    );
}

#[test]
fn without_a_dashboard_there_is_nothing_of_it() {
    let made = made("pairs:\n  - {name: m, capacity: 1Gi, servers: [a, b]}\n");
    for file in &made {
        assert!(!file.path.contains("ui-") && !file.path.contains("ingress"), "{}", file.path);
        assert!(!file.content.contains("ha-sync-ui"), "{}", file.path);
    }
}

#[test]
fn the_logs_in_a_folder_of_a_pair_are_left_out_to_the_letter() {
    let pairs =
        "pairs:\n  - {name: m, capacity: 1Gi, servers: [a, b]}\n  - {name: n, capacity: 1Gi, servers: [b, a]}\n";
    let text = format!("{BASE}{pairs}").replace("/srv/logs", "'/data/n/[logs] * of all'");
    let made = files(&read(&text).unwrap());
    let rule = r#"- "--exclude=/\\[logs\\] \\* of all""#;
    assert_has(&made, "base/cron-n-b-to-a.yaml", &[rule]);
    assert_has(&made, "base/cron-n-a-to-b.yaml", &[rule]);
    assert!(!lines(&made, "base/cron-m-a-to-b.yaml").iter().any(|line| line.contains("--exclude")));
}

#[test]
fn the_database_is_the_only_one_that_is_reached() {
    for (database, wanted) in [
        ("{host: 10.9.9.9, port: 3307}", "cidr: \"10.9.9.9/32\""),
        ("{host: db.data.svc.cluster.local}", "kubernetes.io/metadata.name: data"),
        ("{host: fd00::9}", "cidr: \"fd00::9/128\""),
    ] {
        let made = made(&format!("database: {database}\npairs:\n  - {{name: m, capacity: 1Gi, servers: [a, b]}}\n"));
        let lines: Vec<_> = lines(&made, "base/networkpolicy.yaml").iter().map(|line| line.replace('"', "")).collect();
        assert!(lines.iter().any(|line| line.ends_with(&wanted.replace('"', ""))), "{wanted}: {lines:#?}");
    }
}
