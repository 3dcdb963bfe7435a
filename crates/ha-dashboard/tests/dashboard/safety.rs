//! Who may look, and what a browser is told.

use ha_dashboard::Credentials;
use ha_dashboard::lock::NoLocks;
use ha_sync_core::record::OperationKind;

use crate::ground::{Dashboard, Ground, Run};

const EVERYTHING: [&str; 14] = [
    "/",
    "/pairs/media",
    "/runs/1",
    "/runs/1/operations.csv",
    "/runs/1/operations.jsonl",
    "/search",
    "/api/pairs",
    "/api/pairs/media",
    "/api/iterations",
    "/api/iterations/1",
    "/api/operations?iteration_id=1",
    "/api/openapi.json",
    "/metrics",
    "/nothing",
];

#[test]
fn nothing_is_told_without_a_login() {
    let place = Ground::sqlite();
    place.record(&Run::new("media", 5).with(OperationKind::Create, "secret.txt"));
    let credentials = Credentials::parse("basic ann:s3cret\nbearer t0ken\n").unwrap();
    let dashboard = Dashboard::start(place.dsn(), Box::new(NoLocks), None, Some(credentials));
    let logins = [
        "",
        "Authorization: Basic YW5uOnMzY3JlMA==\r\n",
        "Authorization: Bearer t0kem\r\n",
        "Authorization: \u{7f}\r\n",
    ];
    for path in EVERYTHING {
        for login in &logins[..3] {
            let answer = dashboard.ask("GET", path, login);
            assert_eq!(answer.status, 401, "{path} {login}");
            assert_eq!(answer.header("www-authenticate"), "Basic realm=\"ha-sync\", charset=\"UTF-8\"");
            assert!(!answer.body.contains("media") && !answer.body.contains("secret"), "{path}: {}", answer.body);
        }
        for login in ["Authorization: Basic YW5uOnMzY3JldA==\r\n", "authorization: bearer t0ken\r\n"] {
            let expected = if path == "/nothing" { 404 } else { 200 };
            assert_eq!(dashboard.ask("GET", path, login).status, expected, "{path} {login}");
        }
    }
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(dashboard.get(probe).status, 200, "the kubelet has no login");
    }
}

#[test]
fn nothing_can_be_written() {
    let place = Ground::sqlite();
    place.record(&Run::new("media", 5));
    let dashboard = place.dashboard();
    for path in EVERYTHING.iter().filter(|path| **path != "/nothing").chain(&["/healthz", "/readyz"]) {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            let answer = dashboard.ask(method, path, "Content-Length: 0\r\n");
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), "GET, HEAD", "{method} {path}");
        }
        let head = dashboard.ask("HEAD", path, "");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
}

#[test]
fn every_answer_has_the_safe_headers() {
    let place = Ground::sqlite();
    place.record(&Run::new("media", 5));
    let dashboard = place.dashboard();
    for path in EVERYTHING.iter().chain(&["/healthz", "/assets/0/style.css", "/?bad=1"]) {
        let answer = dashboard.get(path);
        let policy = answer.header("content-security-policy");
        for part in
            ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
        {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
        let kept = answer.header("cache-control");
        assert!(kept == "no-store" || path.starts_with("/assets/") && kept == "no-cache", "{path}: {kept}");
    }
}
