//! What is wrong with a kubeconfig, or what an API server refuses: each by its message and exit code.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ha_testkit::kube::ControlPlane;
use ha_testkit::need;
use ha_testkit::tree::file;
use rustix::process::Signal;
use serde_json::Value;

use crate::place::Place;

/// Runs with a kubeconfig and expects exactly this on stderr, with `CONFIG` for the file.
#[track_caller]
fn refused(config: Option<&str>, words: &[&str], code: i32, says: &str) {
    let place = Place::new(&[file("a", "content")], &[]);
    let path = place.path("kubeconfig");
    if let Some(config) = config {
        std::fs::write(&path, config).unwrap();
    }
    let before = place.both();
    let run = place.binary().arg("--src").arg(&place.source).arg("--dest").arg(&place.destination);
    let run =
        run.args(["--pair", "media", "--kubeconfig"]).arg(&path).arg("--log-dir").arg(place.environment.log_dir());
    let outcome = run.env("POD_NAME", "pod-a").args(words).run();
    let stderr = outcome.stderr.replace(&path.display().to_string(), "CONFIG");
    assert_eq!(stderr, says);
    outcome.assert_code(code);
    place.assert_untouched(&before);
}

fn config(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: home\n\
         contexts:\n- name: home\n  context: {{cluster: home, user: me, namespace: apps}}\n\
         clusters:\n- name: home\n  cluster: {{server: \"{server}\"}}\n\
         users:\n- name: me\n  user: {{token: secret-token}}\n"
    )
}

#[test]
fn a_kubeconfig_that_cannot_be_used() {
    let good = config("http://127.0.0.1:1");
    refused(
        Some(&good),
        &["--kube-context", "work"],
        2,
        "error: the kubeconfig has no context work\n\
         hint: name one of its contexts: --kube-context; it has: home\n",
    );
    refused(
        Some(&good.replace("current-context: home\n", "")),
        &[],
        2,
        "error: the kubeconfig names no current context\n\
         hint: name one of its contexts: --kube-context; it has: home\n",
    );
    refused(
        None,
        &[],
        2,
        "error: failed to read kubeconfig: CONFIG\ncaused by: no such file or directory (os error 2)\n",
    );
    // The parser would quote the line, and the token in it.
    refused(Some("users:\n- name: [secret-token\n"), &[], 2, "error: not a kubeconfig: CONFIG (line 2)\n");
    refused(
        Some(&good.replace("cluster: home,", "cluster: gone,")),
        &[],
        2,
        "error: failed to use the kubeconfig\ncaused by: failed to load the cluster of context: gone\n",
    );
    refused(
        Some(&good),
        &["--lock-ttl", "2"],
        2,
        "error: too short for a Lease: --lock-ttl 2\nhint: at least 3 seconds\n",
    );
    refused(
        Some(&good),
        &["--lock", "file"],
        2,
        "error: --kubeconfig, --kube-context and --namespace are for a Lease\nhint: lock with a Lease: --lock lease\n",
    );
}

#[test]
fn a_real_server_refuses() {
    let plane = need!(ControlPlane::shared());
    refused(
        Some(&plane.config("wrong-token", "default")),
        &[],
        1,
        "error: failed to get Lease default/ha-sync-media: the API server does not accept these credentials (401)\n",
    );
    let admin = std::fs::read_to_string(plane.admin()).unwrap();
    refused(
        Some(&admin),
        &["--namespace", "nowhere"],
        2,
        "error: the namespace does not exist: nowhere\n\
         hint: name another: --namespace NAME; or make it: kubectl --kubeconfig CONFIG create namespace nowhere\n",
    );
    let namespace = plane.namespace();
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: ha-sync}\nrules: []\n";
    let token = plane.account(&namespace, role);
    refused(
        Some(&plane.config(&token, &namespace)),
        &[],
        1,
        &format!(
            "error: failed to get Lease {namespace}/ha-sync-media: this account lacks the verb get on \
             leases.coordination.k8s.io (403)\n\
             caused by: leases.coordination.k8s.io \"ha-sync-media\" is forbidden: User \
             \"system:serviceaccount:{namespace}:ha-sync\" cannot get resource \"leases\" in API group \
             \"coordination.k8s.io\" in the namespace \"{namespace}\"\n\
             hint: a Role with the verbs get, create, update and delete on leases is in deploy/base/rbac.yaml\n\
             hint: kubectl --kubeconfig CONFIG -n {namespace} auth can-i get leases.coordination.k8s.io\n"
        ),
    );
}

/// A server that answers everything alike, and counts.
fn server(answer: String) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    // It ends with the process: it has nothing to leave behind.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, asked)
}

fn status(code: u16, words: &str, headers: &str, message: &str) -> String {
    let body =
        format!(r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"{message}","code":{code}}}"#);
    let length = body.len();
    format!(
        "HTTP/1.1 {code} {words}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\
         Connection: close\r\n\r\n{body}"
    )
}

#[test]
fn a_server_that_fails_is_asked_again_for_ten_seconds() {
    let cases = [
        (409, "Conflict", "", "failed to get Lease apps/ha-sync-media: the API server answered 409 Conflict", 5),
        (
            429,
            "Too Many Requests",
            "Retry-After: 1\r\n",
            "failed to get Lease apps/ha-sync-media: the API server answered 429 Too Many Requests",
            5,
        ),
        (
            500,
            "Internal Server Error",
            "",
            "failed to get Lease apps/ha-sync-media: the API server answered 500 Internal Server Error",
            5,
        ),
        (
            503,
            "Service Unavailable",
            "",
            "failed to get Lease apps/ha-sync-media: the API server answered 503 Service Unavailable",
            5,
        ),
    ];
    std::thread::scope(|scope| {
        for (code, words, headers, says, times) in cases {
            scope.spawn(move || {
                let (address, asked) = server(status(code, words, headers, "not now"));
                refused(Some(&config(&address)), &[], 1, &format!("error: {says}\ncaused by: not now\n"));
                assert!(asked.load(Ordering::SeqCst) >= times, "{code}: asked {asked:?} times");
            });
        }
    });
}

#[test]
fn what_is_no_api_server_is_asked_once() {
    let (address, asked) =
        server("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned());
    refused(
        Some(&config(&address)),
        &[],
        1,
        "error: failed to get Lease apps/ha-sync-media: the API server answered 404 Not Found\n\
         caused by: without a reason\n",
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let (address, _) = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi".to_owned());
    refused(
        Some(&config(&address)),
        &[],
        1,
        "error: failed to get Lease apps/ha-sync-media: the answer is not from a Kubernetes API server\n",
    );
}

/// Is an API server that makes the Lease and then answers 500 to every write; it tells whether there is a Lease.
fn loses_its_answers() -> (String, Arc<Mutex<Option<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let lease = Arc::new(Mutex::new(None::<Value>));
    let stored = Arc::clone(&lease);
    // It ends with the process: it has nothing to leave behind.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while request.read_line(&mut head).is_ok_and(|read| read > 2) {
                let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
                length = line.strip_prefix("content-length: ").map_or(length, |text| text.trim().parse().unwrap());
            }
            let mut body = vec![0; length];
            request.read_exact(&mut body).unwrap();
            let mut stored = stored.lock().unwrap();
            let good = |body: String| {
                let length = body.len();
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            };
            let answer = match (head.split(' ').next().unwrap_or_default(), &*stored) {
                ("GET", Some(lease)) => good(lease.to_string()),
                ("GET", None) => {
                    let details = r#"{"details":{"kind":"leases"},"code":404,"status":"Failure"}"#;
                    good(details.to_owned()).replace("200 OK", "404 Not Found")
                }
                ("DELETE", _) => {
                    *stored = None;
                    good("{}".to_owned())
                }
                (verb, _) => {
                    if verb == "POST" {
                        let mut made: Value = serde_json::from_slice(&body).unwrap();
                        made["metadata"]["uid"] = "u".into();
                        made["metadata"]["resourceVersion"] = "1".into();
                        *stored = Some(made);
                    }
                    status(500, "Internal Server Error", "", "not now")
                }
            };
            drop(stored);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, lease)
}

/// Else the next runs would wait for the time to live of one that never began.
#[test]
fn a_run_that_gives_up_leaves_no_lease_behind() {
    let (address, lease) = loses_its_answers();
    let place = Place::new(&[file("a", "content")], &[]);
    let path = place.path("kubeconfig");
    std::fs::write(&path, config(&address)).unwrap();
    let run = place.command(&["--kubeconfig"]).arg(&path).start();
    let started = Instant::now();
    while lease.lock().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(8), "no Lease is made");
        std::thread::sleep(Duration::from_millis(5));
    }
    run.signal(Signal::TERM);
    run.wait().assert_code(143);
    assert_eq!(*lease.lock().unwrap(), None);
    assert!(!place.destination.join("a").exists());
}
