//! Who holds the Lease of a pair, on a real API server.

use std::path::Path;
use std::time::{Duration, Instant};

use ha_testkit::command::{Environment, Run};
use ha_testkit::kube::ControlPlane;
use ha_testkit::need;
use ha_testkit::passthrough::{Operation, Options, Passthrough, Rule};

use crate::browser::ha_sync;
use crate::command::{get, served};

/// Lets the API server go on, whatever happens to the test.
struct Frozen<'a>(&'a ControlPlane);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

/// A namespace with the shipped accounts and rights, and a kubeconfig for each account.
fn namespace_with_rights(plane: &ControlPlane, place: &Environment) -> String {
    let namespace = plane.namespace();
    let rights = include_str!("../../../../deploy/base/rbac.yaml");
    plane.apply(&namespace, &rights.replace("namespace: infrastructure", &format!("namespace: {namespace}")));
    for account in ["ha-sync", "ha-sync-ui"] {
        plane.kubectl(&["-n", &namespace, "create", "serviceaccount", account]);
        let token = plane.kubectl(&["-n", &namespace, "create", "token", account]);
        std::fs::write(place.join(account), plane.config(token.trim(), &namespace)).unwrap();
    }
    namespace
}

/// Waits until a page has these words.
fn eventually(address: &str, path: &str, words: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let page = get(address, path, "");
        if page.contains(words) {
            return page;
        }
        assert!(Instant::now() < deadline, "{path} never has {words:?}: {page}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_holder_of_a_lease_is_on_the_page() {
    let plane = need!(ControlPlane::shared());
    let place = Environment::new();
    let namespace = namespace_with_rights(&plane, &place);
    let (source, backing) = (place.join("source"), place.join("backing"));
    for directory in [&source, &backing] {
        std::fs::create_dir(directory).unwrap();
    }
    std::fs::write(source.join("cat.jpg"), "a cat").unwrap();
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    let ui = Path::new(env!("CARGO_BIN_EXE_ha-sync-ui"));
    let dsn = format!("sqlite:{}", place.join("ha-sync.db").display());
    let sync = |name: &str| -> Run {
        let run = place.command(ha_sync(ui)).arg("--src").arg(&source).arg("--dest").arg(mount.path());
        let run = run.args(["--pair", "media", "--db-dsn", &dsn, "--kubeconfig"]).arg(place.join("ha-sync"));
        run.env("POD_NAME", name).arg("--log-dir").arg(place.log_dir())
    };
    sync("pod-a").run().assert_success();
    let dashboard = |words: &[&str]| {
        let run = place.command(ui).args(["--listen", "127.0.0.1:0", "--db-dsn", &dsn]).args(words);
        run.arg("--kubeconfig").arg(place.join("ha-sync-ui")).arg("--log-dir").arg(place.log_dir()).start()
    };
    let mut running = dashboard(&["--lock", "lease"]);
    let address = served(&mut running);
    eventually(&address, "/", "lock free");

    // a run that stands still while it has the Lease
    let hold =
        mount.inject(Rule::on(Operation::Create).path_contains(".ha-sync.").delay(Duration::from_secs(8)).once());
    std::fs::write(source.join("dog.jpg"), "a dog").unwrap();
    let run = sync("pod-b").start();
    let page = eventually(&address, "/", "locked by pod-b/");
    assert!(page.contains("class=\"lock small held\""), "{page}");
    let page = eventually(&address, "/pairs/media", "locked by pod-b/");
    assert!(page.contains(", just now</p>") || page.contains(" s ago</p>"), "since when: {page}");
    let pair = get(&address, "/api/pairs/media", "");
    assert!(pair.contains("\"state\":\"held\"") && pair.contains("\"holder\":\"pod-b/"), "{pair}");
    let metrics = get(&address, "/metrics", "");
    assert!(metrics.contains("ha_sync_lock_held{pair=\"media\"} 1\n"), "{metrics}");
    assert!(metrics.contains("ha_sync_lock_age_seconds{pair=\"media\"} "), "{metrics}");
    run.wait().assert_success();
    assert_eq!(hold.fired(), 1);
    eventually(&address, "/", "lock free");

    // one that died long ago: the next run takes it at once
    plane.apply(
        &namespace,
        "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: ha-sync-media}, \
         spec: {holderIdentity: pod-x/1, leaseDurationSeconds: 4}}",
    );
    eventually(&address, "/", "locked by pod-x/1<");
    eventually(&address, "/", "lock free");

    // an API server that is away slows nothing
    plane.freeze();
    let frozen = Frozen(&plane);
    eventually(&address, "/", "no answer within 2");
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1100));
        let begun = Instant::now();
        let page = get(&address, "/", "");
        assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("who holds the lock is unknown: "), "{page}");
    }
    assert!(!get(&address, "/metrics", "").contains("ha_sync_lock_held"));
    assert!(get(&address, "/api/pairs", "").contains("\"state\":\"unknown\""));
    drop(frozen);
    eventually(&address, "/", "lock free");

    // a token that is no longer good is read anew
    let good = std::fs::read_to_string(place.join("ha-sync-ui")).unwrap();
    let bad: String = good.lines().map(|line| line.split("token: ").next().unwrap().to_owned() + "\n").collect();
    let bad = bad.replace("  user: {\n", "  user: {token: gone}\n");
    std::fs::write(place.join("ha-sync-ui"), bad).unwrap();
    let mut late = dashboard(&[]);
    let late_address = served(&mut late);
    eventually(&late_address, "/", "does not accept these credentials (401)");
    std::fs::write(place.join("ha-sync-ui"), good).unwrap();
    eventually(&late_address, "/", "lock free");

    // a right that is missing is named
    plane.kubectl(&["-n", &namespace, "delete", "role", "ha-sync-ui"]);
    let page = eventually(&address, "/", "who holds the lock is unknown: failed to get Lease ");
    assert!(page.contains("lacks the verb get"), "{page}");
}

#[test]
fn flags_of_leases_without_leases_are_refused() {
    let place = Environment::new();
    let ui = || place.command(env!("CARGO_BIN_EXE_ha-sync-ui")).args(["--listen", "127.0.0.1:0"]);
    for words in [
        &["--lock", "file", "--kubeconfig", "/x"][..],
        &["--lock", "none", "--kube-context", "x"],
        &["--namespace", "x"],
    ] {
        let outcome = ui().args(words).run();
        outcome.assert_code(2);
        assert!(outcome.stderr.contains("--lock lease"), "{words:?}: {}", outcome.stderr);
    }
}
