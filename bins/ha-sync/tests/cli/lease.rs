//! The Lease on a real API server: who gets it, how it is given back, and what keeps a late holder from writing.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_testkit::command::{Run, Running};
use ha_testkit::kube::ControlPlane;
use ha_testkit::loopmount::Skipped;
use ha_testkit::need;
use ha_testkit::passthrough::{Fault, Operation, Options, Passthrough, Rule};
use ha_testkit::tree::{Compare, Item, Snapshot, file};
use rustix::process::Signal;
use serde_json::Value;

use crate::place::{Place, assert_says};

/// Returns the shipped Role, for whatever namespace.
fn role() -> String {
    let (role, _) = include_str!("../../../../deploy/base/rbac.yaml").split_once("---").expect("a Role comes first");
    role.replace("  namespace: infrastructure\n", "")
}

/// Two roots, a control plane, a namespace of its own, and an account with the shipped Role.
struct Cluster {
    place: Place,
    plane: Arc<ControlPlane>,
    namespace: String,
    config: PathBuf,
}

impl Cluster {
    fn new(plane: Arc<ControlPlane>, role: &str, source: &[Item], destination: &[Item]) -> Self {
        let place = Place::new(source, destination);
        let namespace = plane.namespace();
        let token = plane.account(&namespace, role);
        let config = place.path("kubeconfig");
        std::fs::write(&config, plane.config(&token, &namespace)).unwrap();
        Self { place, plane, namespace, config }
    }

    /// As a pod of this name, with a log directory of its own, as on another node.
    fn pod(&self, name: &str, run: Run) -> Run {
        let logs = self.place.path(&format!("logs of {name}"));
        std::fs::create_dir_all(&logs).unwrap();
        run.arg("--kubeconfig").arg(&self.config).env("POD_NAME", name).arg("--log-dir").arg(logs)
    }

    fn run(&self, name: &str, words: &[&str]) -> Run {
        let place = &self.place;
        let run = place.binary().arg("--src").arg(&place.source).arg("--dest").arg(&place.destination);
        self.pod(name, run.args(["--pair", "media"]).args(words))
    }

    fn to(&self, name: &str, mount: &Passthrough, words: &[&str]) -> Run {
        let run = self.place.binary().arg("--src").arg(&self.place.source).arg("--dest").arg(mount.path());
        self.pod(name, run.args(["--pair", "media"]).args(words))
    }

    fn lease(&self) -> Option<Value> {
        let words = ["-n", &self.namespace, "get", "lease", "ha-sync-media", "-o", "json", "--ignore-not-found"];
        serde_json::from_str(&self.plane.kubectl(&words)).ok()
    }

    fn row(&self, name: &str) -> crate::place::Row {
        let database = self.place.path(&format!("logs of {name}/ha-sync.db"));
        crate::place::query(&database, "SELECT * FROM sync_iterations ORDER BY id DESC LIMIT 1").pop().unwrap()
    }

    fn operations(&self, name: &str) -> usize {
        let database = self.place.path(&format!("logs of {name}/ha-sync.db"));
        crate::place::query(&database, "SELECT * FROM sync_operations").len()
    }
}

fn wait_for(fault: &Fault) {
    let started = Instant::now();
    while fault.fired() < 1 {
        assert!(started.elapsed() < Duration::from_secs(20), "the run did not come so far");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a run that stays in its first copy for this long.
fn busy(cluster: &Cluster, name: &str, mount: &Passthrough, time: Duration, words: &[&str]) -> Running {
    let fault = mount.inject(Rule::on(Operation::Create).path_contains(".ha-sync.").delay(time).once());
    let running = cluster.to(name, mount, words).start();
    wait_for(&fault);
    running
}

/// The machine may also build and test meanwhile: one start of three has to be as quick.
#[test]
fn a_control_plane_is_ready_within_ten_seconds() {
    let mut times = Vec::new();
    while times.len() < 3 && times.iter().all(|took| *took > Duration::from_secs(10)) {
        let began = Instant::now();
        let plane = need!(ControlPlane::start());
        times.push(began.elapsed());
        plane.kubectl(&["get", "namespaces"]);
        let port = plane.port();
        drop(plane);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "it ends on drop");
    }
    assert!(times.iter().any(|took| *took <= Duration::from_secs(10)), "ready after {times:?}");
}

#[test]
fn a_run_holds_a_lease_and_gives_it_back() {
    let plane = need!(ControlPlane::shared());
    let cluster = Cluster::new(plane, &role(), &[file("a", vec![1; 300_000])], &[]);
    let mount = need!(Passthrough::mount(&cluster.place.destination, &Options::default()));
    let mut running = busy(&cluster, "pod-a", &mount, Duration::from_secs(3), &["--lock-ttl", "600"]);
    let lease = cluster.lease().expect("a Lease");
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().unwrap().to_owned();
    assert!(holder.starts_with("pod-a/2"), "{holder}");
    assert_eq!((spec["leaseDurationSeconds"].as_i64(), spec["leaseTransitions"].as_i64()), (Some(600), Some(0)));
    let started = Instant::now();
    let outcome = cluster.run("pod-b", &[]).run();
    outcome.assert_code(4);
    assert!(started.elapsed() < Duration::from_secs(2), "at once");
    assert_says(&outcome, &format!("error: the lock of pair media is held by {holder}\n"));
    assert_says(
        &outcome,
        &format!("caused by: Lease {}/ha-sync-media is held by {holder}, renewed ", cluster.namespace),
    );
    let config = cluster.config.display();
    let line = format!("kubectl --kubeconfig {config} -n {} get lease ha-sync-media -o yaml", cluster.namespace);
    assert_says(&outcome, &format!("hint: {line}\n"));
    cluster.run("pod-b", &["--skip-if-locked"]).run().assert_success();
    assert!(!running.ended_within(Duration::ZERO), "the first one still runs");
    // Who waits gets it as soon as it is given back.
    cluster.run("pod-b", &["--lock-wait", "30"]).run().assert_success();
    running.wait().assert_success();
    assert!(cluster.lease().is_none(), "deleted");
    assert_eq!(cluster.row("pod-a").number("lease_transitions"), 0);
}

/// As kubectl does it: files of a list that may be missing, a context by its name, a namespace over the context's.
#[test]
fn context_and_namespace_are_those_that_are_named() {
    let plane = need!(ControlPlane::shared());
    let cluster = Cluster::new(plane, &role(), &[file("a", "content")], &[]);
    let config = std::fs::read_to_string(&cluster.config).unwrap();
    let elsewhere = config.replace(&format!("namespace: {}", cluster.namespace), "namespace: elsewhere");
    std::fs::write(&cluster.config, elsewhere.replace("current-context: test", "current-context: none")).unwrap();
    let list = format!("/no/such/file:{}", cluster.config.display());
    let run = |words: &[&str]| cluster.place.command(words).env("KUBECONFIG", &list).env("POD_NAME", "pod-a").run();
    // The Role does not know this pair's Lease: what is told is which one was asked for.
    let name = format!("ha-sync-{}", cluster.place.environment.pair());
    for (words, namespace) in
        [(&["--namespace", cluster.namespace.as_str()][..], &*cluster.namespace), (&[], "elsewhere")]
    {
        let outcome = run(&[&["--kube-context", "test"], words].concat());
        outcome.assert_code(1);
        assert_says(&outcome, &format!("failed to get Lease {namespace}/{name}: this account lacks the verb get"));
    }
    run(&["--lock", "lease"]).assert_code(2);
    let run = cluster.run("pod-a", &["--kube-context", "test", "--namespace", &cluster.namespace]);
    run.run().assert_success();
    assert_eq!(cluster.row("pod-a").number("lease_transitions"), 0);
}

/// Renewals go on while every working thread is held up for longer than the time to live.
#[test]
fn slow_storage_keeps_no_lease_from_being_renewed() {
    let plane = need!(ControlPlane::shared());
    let cluster = Cluster::new(plane, &role(), &[file("a", vec![1; 300_000])], &[]);
    let mount = need!(Passthrough::mount(&cluster.place.destination, &Options::default()));
    let mut running = busy(&cluster, "pod-a", &mount, Duration::from_secs(10), &["--lock-ttl", "3"]);
    let started = Instant::now();
    // Long enough for three times the time to live; who waits does not get it, nor who comes anew.
    cluster.run("pod-b", &["--lock-wait", "8"]).run().assert_code(4);
    assert!(started.elapsed() > Duration::from_secs(8));
    cluster.run("pod-c", &[]).run().assert_code(4);
    assert!(!running.ended_within(Duration::ZERO), "the first one still runs");
    running.wait().assert_success();
    assert!(cluster.lease().is_none(), "deleted");
}

/// The kubelet replaces a pod's token long before a run of days ends; the old one is good for nothing then.
#[test]
fn a_token_that_is_replaced_is_read_anew() {
    let plane = need!(ControlPlane::shared());
    let cluster = Cluster::new(plane, &role(), &[file("a", vec![1; 300_000])], &[]);
    let (plane, namespace) = (&cluster.plane, &cluster.namespace);
    let account = |words: &[&str]| plane.kubectl(&[&["-n", namespace.as_str()], words].concat());
    let config = std::fs::read_to_string(&cluster.config).unwrap();
    let (_, token) = config.split_once("token: ").unwrap();
    let token = token.trim().trim_end_matches('}');
    let path = cluster.place.path("token");
    std::fs::write(&path, token).unwrap();
    let config = config.replace(&format!("token: {token}"), &format!("tokenFile: {}", path.display()));
    std::fs::write(&cluster.config, config).unwrap();
    let mount = need!(Passthrough::mount(&cluster.place.destination, &Options::default()));
    let running = busy(&cluster, "pod-a", &mount, Duration::from_secs(22), &["--lock-ttl", "9"]);
    // The server forgets within 10 s that it has once found a token good.
    account(&["delete", "serviceaccount", "ha-sync"]);
    account(&["create", "serviceaccount", "ha-sync"]);
    std::fs::write(&path, account(&["create", "token", "ha-sync"]).trim()).unwrap();
    let outcome = running.wait();
    outcome.assert_success();
    assert!(cluster.lease().is_none(), "deleted by the new token");
}

#[test]
fn a_run_that_is_told_to_end_gives_its_lease_back() {
    let plane = need!(ControlPlane::shared());
    let files: Vec<Item> = (0..200).map(|number| file(format!("f{number:03}"), vec![1; 150_000])).collect();
    let cluster = Cluster::new(plane, &role(), &files, &[]);
    let mount = need!(Passthrough::mount(&cluster.place.destination, &Options::default()));
    let slow = mount.inject(Rule::on(Operation::Write).path_contains(".ha-sync.").delay(Duration::from_millis(100)));
    let running = cluster.to("pod-a", &mount, &["--workers", "1"]).start();
    wait_for(&slow);
    // Who only waits for it leaves it alone.
    let waiting = cluster.run("pod-b", &["--lock-wait", "60"]).start();
    std::thread::sleep(Duration::from_millis(700));
    waiting.signal(Signal::TERM);
    waiting.wait().assert_code(143);
    let holder = cluster.lease().expect("a Lease")["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    assert!(holder.starts_with("pod-a/"), "{holder}");
    let told = Instant::now();
    running.signal(Signal::TERM);
    running.wait().assert_code(143);
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    assert!(cluster.lease().is_none(), "deleted");
    assert_eq!(cluster.row("pod-a").text("status"), "failed");
}

/// Whatever changes something of a pair asks the lock that its runs ask.
#[test]
fn forgetting_and_deciding_respect_the_lease() {
    let plane = need!(ControlPlane::shared());
    let cluster = Cluster::new(plane, &role(), &[file("a", "one")], &[]);
    let (a, b) = (&cluster.place.source, &cluster.place.destination);
    let two_way = |policy| {
        let run = cluster.place.binary().args(["two-way", "--pair", "media", "--conflict", policy]);
        cluster.pod("pod-a", run.arg("--a").arg(a).arg("--b").arg(b)).run()
    };
    two_way("skip").assert_success();
    std::fs::write(a.join("a"), "changed here").unwrap();
    std::fs::write(b.join("a"), "and differently there").unwrap();
    two_way("skip").assert_code(3);
    let forget = || cluster.pod("pod-a", cluster.place.binary().args(["baseline", "forget", "--pair", "media"])).run();
    let resolve = || {
        let run = cluster.place.binary().args(["conflicts", "resolve", "--pair", "media", "a", "--keep", "b"]);
        cluster.pod("pod-a", run).run()
    };
    let baseline = cluster.place.path("logs of pod-a/state/media/baseline");
    cluster.plane.apply(&cluster.namespace, &left_behind("pod-x/1", 600));
    for outcome in [forget(), resolve()] {
        outcome.assert_code(4);
        assert_says(&outcome, "error: the lock of pair media is held by pod-x/1\n");
        assert_says(&outcome, " get lease ha-sync-media -o yaml\n");
        assert!(!outcome.stderr.contains("--lock-wait"), "it has no such flag: {}", outcome.stderr);
    }
    assert!(baseline.exists());
    assert_eq!(std::fs::read(a.join("a")).unwrap(), b"changed here");
    cluster.plane.kubectl(&["-n", &cluster.namespace, "delete", "lease", "ha-sync-media"]);
    resolve().assert_success();
    assert_eq!(std::fs::read(a.join("a")).unwrap(), b"and differently there");
    assert_eq!(cluster.row("pod-a").number("lease_transitions"), 0);
    forget().assert_success();
    assert!(!baseline.exists());
    assert!(cluster.lease().is_none(), "both gave it back");
}

#[test]
fn a_crash_is_waited_out() {
    let plane = need!(ControlPlane::shared());
    let cluster = Cluster::new(plane, &role(), &[file("a", vec![1; 300_000])], &[]);
    let mount = need!(Passthrough::mount(&cluster.place.destination, &Options::default()));
    let running = busy(&cluster, "pod-a", &mount, Duration::from_millis(300), &["--lock-ttl", "4"]);
    running.kill();
    running.wait();
    let killed = Instant::now();
    drop(mount);
    cluster.run("pod-b", &[]).run().assert_code(4);
    // One that was not there before takes over at its first look: only the server's clock tells it.
    std::thread::sleep(Duration::from_secs(8).saturating_sub(killed.elapsed()));
    cluster.run("pod-c", &[]).run().assert_success();
    assert_eq!(cluster.row("pod-c").number("lease_transitions"), 1);
    let content = |root: &std::path::Path| std::fs::read(root.join("a")).unwrap();
    assert!(content(&cluster.place.source) == content(&cluster.place.destination));
    // One that waits takes over when the time is over, not before.
    cluster.plane.apply(&cluster.namespace, &left_behind("pod-x/1", 5));
    let started = Instant::now();
    cluster.run("pod-d", &["--lock-wait", "30"]).run().assert_success();
    let waited = started.elapsed();
    assert!((4.0..15.0).contains(&waited.as_secs_f64()), "waited {waited:?}");
}

/// A Lease whose holder's clock is far ahead: nobody may believe it.
fn left_behind(holder: &str, seconds: u32) -> String {
    format!(
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: ha-sync-media}}\nspec:\n  \
         holderIdentity: {holder}\n  leaseDurationSeconds: {seconds}\n  leaseTransitions: 3\n  \
         renewTime: \"2099-01-01T00:00:00.000000Z\"\n"
    )
}

#[test]
fn a_frozen_holder_writes_nothing_after_another_took_over() {
    let plane = need!(ControlPlane::shared());
    let files: Vec<Item> = (0..40).map(|number| file(format!("f{number:02}"), vec![number; 200_000])).collect();
    let cluster = Cluster::new(plane, &role(), &files, &[file("f00", "old").mtime(1)]);
    let mount = need!(Passthrough::mount(&cluster.place.destination, &Options::default()));
    // Every thread is in the middle of something.
    let slow = mount.inject(Rule::on(Operation::Write).path_contains(".ha-sync.").delay(Duration::from_millis(30)));
    let words = ["--lock-ttl", "4", "--fsync", "off"];
    let first = cluster.to("pod-a", &mount, &words).start();
    wait_for(&slow);
    std::thread::sleep(Duration::from_millis(200));
    first.signal(Signal::STOP);
    let frozen = Instant::now();
    mount.clear();
    let second = cluster.run("pod-b", &["--lock-wait", "30", "--lock-ttl", "600"]).run();
    second.assert_success();
    assert!(frozen.elapsed() > Duration::from_secs(4), "the time to live was waited out");
    assert_eq!(cluster.row("pod-b").number("lease_transitions"), 1);
    let untouched = Compare::untouched();
    let before = Snapshot::with(&cluster.place.destination, &untouched);
    first.signal(Signal::CONT);
    let outcome = first.wait();
    outcome.assert_code(1);
    assert_says(&outcome, "lock lost: Lease ");
    before.assert_same(&Snapshot::with(&cluster.place.destination, &untouched));
    let row = cluster.row("pod-a");
    assert_eq!(row.text("status"), "failed");
    assert!(row.text("error_message").starts_with("lock lost: Lease "), "{}", row.text("error_message"));
    assert!(cluster.operations("pod-a") < 40, "it was in the middle");
}

#[test]
fn a_run_that_loses_the_api_server_stops_and_keeps_its_log() {
    let plane = Arc::new(need!(ControlPlane::start()));
    let files: Vec<Item> = (0..200).map(|number| file(format!("f{number:03}"), vec![1; 150_000])).collect();
    let cluster = Cluster::new(plane, &role(), &files, &[]);
    let mount = need!(Passthrough::mount(&cluster.place.destination, &Options::default()));
    let slow = mount.inject(Rule::on(Operation::Write).path_contains(".ha-sync.").delay(Duration::from_millis(100)));
    let running = cluster.to("pod-a", &mount, &["--lock-ttl", "6", "--workers", "1"]).start();
    wait_for(&slow);
    cluster.plane.freeze();
    let frozen = Instant::now();
    let outcome = running.wait();
    cluster.plane.thaw();
    outcome.assert_code(1);
    assert_says(&outcome, "error: lock lost: Lease ");
    assert_says(&outcome, "no answer within");
    assert!(frozen.elapsed() < Duration::from_secs(25), "{:?}", frozen.elapsed());
    let row = cluster.row("pod-a");
    assert_eq!(row.text("status"), "failed");
    let done = cluster.operations("pod-a");
    assert!((1..200).contains(&done), "{done} operations are on record");
    drop(mount);
    cluster.place.assert_no_temporary_files();
}

#[test]
fn a_lease_that_is_deleted_by_hand_stops_its_holder() {
    let plane = need!(ControlPlane::shared());
    let files: Vec<Item> = (0..200).map(|number| file(format!("f{number:03}"), vec![1; 150_000])).collect();
    let cluster = Cluster::new(plane, &role(), &files, &[]);
    let mount = need!(Passthrough::mount(&cluster.place.destination, &Options::default()));
    let slow = mount.inject(Rule::on(Operation::Write).path_contains(".ha-sync.").delay(Duration::from_millis(100)));
    let running = cluster.to("pod-a", &mount, &["--lock-ttl", "9", "--workers", "1"]).start();
    wait_for(&slow);
    cluster.plane.kubectl(&["-n", &cluster.namespace, "delete", "lease", "ha-sync-media"]);
    let outcome = running.wait();
    outcome.assert_code(1);
    assert_says(&outcome, &format!("lock lost: Lease {}/ha-sync-media: it was deleted", cluster.namespace));
}

#[test]
fn a_missing_verb_is_named() {
    let plane = need!(ControlPlane::shared());
    for verb in ["get", "create", "update", "delete"] {
        // A rule needs a verb; this one is never used.
        let role = role().replace(&format!("      - {verb}\n"), "      - patch\n");
        let cluster = Cluster::new(Arc::clone(&plane), &role, &[file("a", "content")], &[]);
        let outcome = cluster.run("pod-a", &[]).run();
        let lease = format!("{}/ha-sync-media", cluster.namespace);
        let says = format!(
            "failed to {verb} Lease {lease}: this account lacks the verb {verb} on leases.coordination.k8s.io (403)"
        );
        assert_says(&outcome, &says);
        if verb == "delete" {
            // The work is done by then, and the next run need not wait.
            outcome.assert_success();
            assert_eq!(cluster.lease().expect("it stays")["spec"]["holderIdentity"].as_str().unwrap_or(""), "");
            cluster.run("pod-b", &[]).run().assert_success();
            continue;
        }
        outcome.assert_code(1);
        assert_says(&outcome, &format!("auth can-i {verb} leases.coordination.k8s.io"));
        assert!(cluster.lease().is_none(), "nothing is left");
        assert!(!cluster.place.destination.join("a").exists());
    }
}

#[test]
fn a_pod_uses_its_service_account() {
    let root = rustix::process::geteuid().is_root();
    need!(root.then_some(()).ok_or_else(|| Skipped::because("a mount namespace needs root")));
    let plane = need!(ControlPlane::shared());
    let unshare = need!(ha_testkit::loopmount::need_tool("unshare"));
    let place = Place::new(&[file("a", "content")], &[]);
    let namespace = plane.namespace();
    std::fs::write(place.path("token"), plane.account(&namespace, &role())).unwrap();
    std::fs::write(place.path("namespace"), &namespace).unwrap();
    std::fs::copy(plane.authority(), place.path("ca.crt")).unwrap();
    // The kubelet puts them there; in a mount namespace nobody else sees it.
    let script = "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount \
                  && cp token namespace ca.crt /run/secrets/kubernetes.io/serviceaccount/ && exec \"$@\"";
    let run = || {
        let run = place.environment.command(&unshare).args(["--mount", "sh", "-c", script, "pod"]);
        let run = run.arg(env!("CARGO_BIN_EXE_ha-sync")).arg("--src").arg(&place.source).arg("--dest");
        let run = run.arg(&place.destination).args(["--pair", "media", "--log-dir"]).arg(place.environment.log_dir());
        run.env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", plane.port().to_string())
            .env("POD_NAME", "pod-a")
    };
    plane.apply(&namespace, &left_behind("pod-x/1", 600));
    let outcome = run().run();
    outcome.assert_code(4);
    assert_says(&outcome, &format!("caused by: Lease {namespace}/ha-sync-media is held by pod-x/1, renewed "));
    plane.kubectl(&["-n", &namespace, "delete", "lease", "ha-sync-media"]);
    run().run().assert_success();
    assert_eq!(place.last().number("lease_transitions"), 0);
}
