//! The CronJobs: one per job of each pair, and the weekly one that prunes.

use crate::generate::File;
use crate::generate::parts::{
    Component, LOG_DIRECTORY, claim_volume, confined, database, field_variable, file, labels, mount, object, resources,
    scratch, seccomp, spread,
};
use crate::inventory::{Delete, Inventory, Job, JobKind, Pair, Volume};
use crate::write::{Map, Yaml, list, map};

/// The place of `--dry-run` among the arguments of a sync job and of the pruning job: the production overlay removes
/// what stands there, after it has looked that it is this flag.
pub(super) const DRY_RUN_OF_SYNC: usize = 5;
pub(super) const DRY_RUN_OF_PRUNE: usize = 4;

const CAPABILITIES: &str = "\
What keeping owners and modes needs, and no more; overlays/rootless does without.
CHOWN: owners are kept. DAC_OVERRIDE: files that only their owner may read are copied.
FOWNER: modes and times of others' files are set. FSETID: set-id bits are kept.
SETFCAP: capabilities of files are kept.";

pub(super) fn files(inventory: &Inventory) -> Vec<File> {
    let jobs = inventory.pairs.iter().flat_map(|pair| pair.jobs.iter().map(move |job| (pair, job)));
    let mut files: Vec<_> = jobs
        .map(|(pair, job)| file(format!("cron-{}-{}.yaml", pair.name, job.direction), [&sync(inventory, pair, job)]))
        .collect();
    files.push(file("cron-prune.yaml", [&prune(inventory)]));
    files
}

fn sync(inventory: &Inventory, pair: &Pair, job: &Job) -> Map {
    let mode = match job.kind {
        JobKind::OneWay { .. } => "one-way",
        JobKind::TwoWay => "two-way",
    };
    let labels = || {
        labels(Component::Sync)
            .with("ha-sync/pair", &pair.name)
            .with("ha-sync/direction", &job.direction)
            .with("ha-sync/mode", mode)
    };
    let server = |side: &Volume| inventory.servers[side.server].name.clone();
    let place = |side: &Volume| format!("/mnt/{}/{}", server(side), pair.name);
    let claim = |side: &Volume| format!("pvc-{}-{}", server(side), pair.name);
    let mounts = pair.sides.iter().map(|side| mount(&server(side), &place(side)));
    let volumes = pair.sides.iter().map(|side| claim_volume(&server(side), &claim(side)));
    let container = map("name", "ha-sync")
        .with("image", &inventory.image)
        .with("command", list(["/ha-sync"]))
        .with("args", list(arguments(inventory, pair, job)))
        .with("env", list([database(inventory), field_variable("POD_NAME", "metadata.name")]))
        .with("resources", resources("100m", "64Mi", "2", "512Mi"))
        .with("securityContext", confined(Map::default().said("add", CAPABILITIES, owners())))
        .with("volumeMounts", list(mounts.chain(own_mounts())));
    let pod = map("serviceAccountName", "ha-sync")
        .said("automountServiceAccountToken", "for the Lease", true)
        .with("restartPolicy", "Never")
        .said("terminationGracePeriodSeconds", "time to finish the files at hand and to write the log", 60)
        .with("securityContext", as_root())
        .with("topologySpreadConstraints", spread(Component::Sync))
        .with("containers", list([container]))
        .with("volumes", list(volumes.chain(own_volumes())));
    let deadline = i64::try_from(inventory.deadline.as_secs()).unwrap_or(i64::MAX);
    let template = map("metadata", map("labels", labels())).with("spec", pod);
    let spec = attempts(pair.shards).with("activeDeadlineSeconds", deadline).with("template", template);
    cron_job(inventory, &format!("ha-sync-{}-{}", pair.name, job.direction), &job.schedule, labels(), spec)
}

fn owners() -> Yaml {
    list(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP"])
}

fn as_root() -> Map {
    map("runAsUser", 0).with("runAsGroup", 0).with("runAsNonRoot", false).with("seccompProfile", seccomp())
}

/// A run that failed is not tried again: the next one comes soon, and begins by looking what this one left.
fn attempts(shards: u32) -> Map {
    if shards <= 1 {
        return map("backoffLimit", 0);
    }
    map("completionMode", "Indexed").with("completions", shards).with("parallelism", shards).said(
        "backoffLimitPerIndex",
        "a shard that fails is not tried again, and does not end the others",
        0,
    )
}

/// The names of volumes that every job has, beside those of its servers.
pub(crate) const OWN_VOLUMES: [&str; 3] = ["logs", "tmp", "lock"];

fn own_mounts() -> impl Iterator<Item = Map> {
    OWN_VOLUMES.into_iter().zip([LOG_DIRECTORY, "/tmp", "/run/lock"]).map(|(name, path)| mount(name, path))
}

fn own_volumes() -> impl Iterator<Item = Map> {
    let [logs, others @ ..] = OWN_VOLUMES;
    std::iter::once(claim_volume(logs, "pvc-ha-sync-logs")).chain(others.into_iter().map(scratch))
}

fn cron_job(inventory: &Inventory, name: &str, schedule: &str, labels: Map, job: Map) -> Map {
    let spec = map("schedule", schedule)
        .with("concurrencyPolicy", "Forbid")
        .said("startingDeadlineSeconds", "what could not start for so long waits for its next turn", 600)
        .with("successfulJobsHistoryLimit", 1)
        .with("failedJobsHistoryLimit", 3)
        .with("jobTemplate", map("metadata", map("labels", labels.clone())).with("spec", job));
    object(inventory, "batch/v1", "CronJob", name, labels).with("spec", spec)
}

/// Returns the arguments: the plan's, then `--dry-run`, then what guards the run.
fn arguments(inventory: &Inventory, pair: &Pair, job: &Job) -> Vec<String> {
    let place = |side: usize| format!("/mnt/{}/{}", inventory.servers[pair.sides[side].server].name, pair.name);
    let (pair_flag, log_flag) = (format!("--pair={}", pair.name), format!("--log-dir={LOG_DIRECTORY}"));
    let mut words = match job.kind {
        JobKind::OneWay { from, .. } => vec![
            format!("--src={}", place(from)),
            format!("--dest={}", place(1 - from)),
            pair_flag,
            format!("--direction={}", job.direction),
            log_flag,
        ],
        JobKind::TwoWay => {
            vec!["two-way".to_owned(), format!("--a={}", place(0)), format!("--b={}", place(1)), pair_flag, log_flag]
        }
    };
    debug_assert_eq!(words.len(), DRY_RUN_OF_SYNC);
    words.push("--dry-run".to_owned());
    match job.kind {
        JobKind::OneWay { delete: Delete::On, .. } => words.push("--delete-missing".to_owned()),
        JobKind::OneWay { delete: Delete::Strict, .. } => words.push("--delete-missing=strict".to_owned()),
        JobKind::OneWay { delete: Delete::Off, .. } | JobKind::TwoWay => {}
    }
    if let Some(folder) = &pair.logs_inside {
        words.push(format!("--exclude=/{}", literal(folder)));
    }
    if pair.shards > 1 {
        // Which of them a pod is, it knows from JOB_COMPLETION_INDEX.
        words.push(format!("--shards={}", pair.shards));
    }
    words.push("--require-mount".to_owned());
    words.push(format!("--check-access={}", inventory.check_access));
    words.extend(["--lock=lease", "--skip-if-locked"].map(str::to_owned));
    words
}

/// Returns a glob that means a path to the letter.
fn literal(path: &str) -> String {
    let mut glob = String::new();
    for character in path.chars() {
        if "*?[]{}\\!".contains(character) {
            glob.push('\\');
        }
        glob.push(character);
    }
    glob
}

fn prune(inventory: &Inventory) -> Map {
    let mut words = vec!["prune".to_owned(), format!("--log-dir={LOG_DIRECTORY}")];
    words.push(format!("--db-older-than={}", inventory.keep_records));
    words.push("--logs-older-than=10d".to_owned());
    debug_assert_eq!(words.len(), DRY_RUN_OF_PRUNE);
    words.push("--dry-run".to_owned());
    let container = map("name", "ha-sync")
        .with("image", &inventory.image)
        .with("command", list(["/ha-sync"]))
        .with("args", list(words))
        .with("env", list([database(inventory)]))
        .with("resources", resources("50m", "32Mi", "1", "256Mi"))
        .with("securityContext", confined(Map::default()))
        .with("volumeMounts", list(own_mounts()));
    let pod = map("serviceAccountName", "ha-sync")
        .said("automountServiceAccountToken", "it asks nothing of Kubernetes", false)
        .with("restartPolicy", "Never")
        .said("securityContext", "the logs belong to the user that the jobs run as", as_root())
        .with("topologySpreadConstraints", spread(Component::Prune))
        .with("containers", list([container]))
        .with("volumes", list(own_volumes()));
    let template = map("metadata", map("labels", labels(Component::Prune))).with("spec", pod);
    let spec = map("backoffLimit", 0).with("activeDeadlineSeconds", 3600).with("template", template);
    cron_job(inventory, "ha-sync-prune", "20 3 * * 0", labels(Component::Prune), spec)
}
