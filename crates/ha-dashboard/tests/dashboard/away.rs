//! A database that is away, empty, read-only, or of a user who may not write.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_dashboard::lock::NoLocks;
use ha_sync_core::record::OperationKind;
use ha_testkit::mariadb::{PASSWORD, Server};
use ha_testkit::need;

use crate::ground::{Dashboard, Ground, Run, on_both};

on_both! { before_the_first_run_it_says_so, a_run_under_way_is_seen_while_its_writer_has_the_database }

fn before_the_first_run_it_says_so(place: &Ground) {
    let dashboard = place.dashboard();
    let page = dashboard.get("/");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Nothing has run yet"), "{}", page.body);
    assert_eq!(dashboard.get("/readyz").status, 200);
    assert_eq!(dashboard.json("/api/pairs")["pairs"], serde_json::json!([]));
    assert_eq!(dashboard.json("/api/iterations")["iterations"], serde_json::json!([]));
    assert_eq!(dashboard.json("/api/paths")["paths"], serde_json::json!([]));
    assert_eq!(dashboard.get("/api/operations?iteration_id=1").status, 404);
    let search = dashboard.get("/search?q=cat.jpg");
    assert_eq!(search.status, 200, "as /api/history does");
    assert!(search.body.contains("No run on record has touched such a path."), "{}", search.body);
    assert_eq!(dashboard.json("/api/history?path=cat.jpg")["history"], serde_json::json!([]));
    place.record(&Run::new("media", 5));
    std::thread::sleep(Duration::from_millis(1100));
    assert!(dashboard.get("/").body.contains("media"));
}

fn a_run_under_way_is_seen_while_its_writer_has_the_database(place: &Ground) {
    place.record(&Run::new("media", 20));
    let store = place.store();
    let dashboard = place.dashboard();
    let running = place.begin(&Run::new("media", 1));
    let page = dashboard.get(&format!("/runs/{running}"));
    assert_eq!(page.status, 200);
    assert!(page.body.contains("running"));
    store.close().unwrap();
}

#[test]
fn a_server_that_is_gone_and_comes_back() {
    let server = Arc::new(need!(Server::start(&[])));
    let place = Ground::of(Arc::clone(&server));
    let run = place.record(&Run::new("media", 5).with(OperationKind::Create, "cat.jpg"));
    let dashboard = place.dashboard();
    assert_eq!(dashboard.get("/").status, 200);
    server.kill();
    std::thread::sleep(Duration::from_millis(1100));
    for path in ["/", "/pairs/media", &format!("/runs/{run}"), "/search?q=cat.jpg", "/search"] {
        let page = dashboard.get(path);
        assert_eq!(page.status, 503, "{path}");
        assert!(page.body.contains("The database is away"), "{path}: {}", page.body);
        assert!(page.body.contains("<main id=\"content\">") && page.body.contains("</html>"), "{path}");
        assert!(!page.body.contains(PASSWORD), "{path}");
    }
    let page = dashboard.get("/").body;
    assert!(page.contains("Shown is the state of") && page.contains(">media</a>"), "the last state is there");
    assert!(!page.contains("is in order</h1>"), "nothing is called in order that is not known to be");
    for path in ["/api/pairs", "/api/iterations", &format!("/api/operations?iteration_id={run}"), "/api/paths"] {
        let answer = dashboard.get(path);
        assert_eq!(answer.status, 503, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert!(!answer.body.contains(PASSWORD), "{path}");
    }
    assert_eq!(dashboard.get("/healthz").status, 200);
    let ready = dashboard.get("/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (503, "not ready\n"));
    let metrics = dashboard.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("\nha_sync_database_up 0\n") && !metrics.body.contains("ha_sync_last_run"));
    server.restart();
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let page = dashboard.get("/");
        if page.status == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "it does not come back: {}", page.body);
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = dashboard.said.lock().unwrap().clone();
    let words: Vec<_> = said.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["Listening", "DatabaseAway", "DatabaseBack"], "each change is said once: {said:?}");
}

/// The dashboard may not change the schema, so it says which one it needs.
#[test]
fn a_schema_of_another_version() {
    let place = need!(Ground::mariadb());
    place.record(&Run::new("media", 5));
    let (server, database) = place.server.as_ref().unwrap();
    let ours: i64 = server.sql(database, "SELECT MAX(version) FROM ha_sync_schema")[0].parse().unwrap();
    for (change, found) in [
        ("INSERT INTO ha_sync_schema (version) VALUES (9999)".to_owned(), 9999),
        (format!("DELETE FROM ha_sync_schema WHERE version >= {ours}"), ours - 1),
    ] {
        server.sql(database, &change);
        let dashboard = place.dashboard();
        let says = format!("audit database has schema version {found}, this program needs {ours}");
        for path in ["/", "/pairs/media", "/search?q=x", "/api/pairs", "/api/iterations"] {
            let answer = dashboard.get(path);
            assert_eq!(answer.status, 503, "{path}");
            assert!(answer.body.contains(&says), "{path}: {}", answer.body);
        }
        assert_eq!(dashboard.get("/readyz").status, 503);
        assert!(dashboard.get("/metrics").body.contains("\nha_sync_database_up 0\n"));
    }
    // one of another time is brought up to date by a run
    server.sql(database, &format!("INSERT INTO ha_sync_schema (version) VALUES ({ours})"));
    assert_eq!(place.dashboard().get("/").status, 200);
}

#[test]
fn a_server_that_says_nothing_does_not_hold_up_a_page() {
    let server = Arc::new(need!(Server::start(&[])));
    let place = Ground::of(Arc::clone(&server));
    place.record(&Run::new("media", 5));
    let dashboard = place.dashboard();
    assert_eq!(dashboard.get("/").status, 200);
    server.freeze();
    std::thread::sleep(Duration::from_millis(1100));
    let begun = Instant::now();
    assert_eq!(dashboard.get("/").status, 503);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    server.thaw();
}

#[test]
fn a_user_who_may_only_select_is_enough() {
    let place = need!(Ground::mariadb());
    let run = place.record(&Run::new("media", 5).with(OperationKind::Delete, "cat.jpg"));
    let (server, database) = place.server.as_ref().unwrap();
    let user = format!("reader_{database}");
    let port = server.port();
    let sql =
        format!("CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'r'; GRANT SELECT ON {database}.* TO {user}@'127.0.0.1'");
    server.sql("", &sql);
    let dsn = format!("{user}:r@tcp(127.0.0.1:{port})/{database}").parse().unwrap();
    let dashboard = Dashboard::start(dsn, Box::new(NoLocks), None, None);
    for path in [
        "/",
        "/pairs/media",
        &format!("/runs/{run}?status=success&path=cat"),
        "/search?q=cat.jpg",
        "/search?q=at",
        "/metrics",
    ] {
        assert_eq!(dashboard.get(path).status, 200, "{path}");
    }
    server.sql("", &format!("DROP USER {user}@'127.0.0.1'"));
}

/// Root may write to anything, so the file is read by another user in a process of its own; see `bins/ha-sync-ui`. Here:
/// a directory that not even root can write to.
#[test]
fn a_sqlite_file_on_a_read_only_mount() {
    let place = Ground::sqlite();
    place.record(&Run::new("media", 5).with(OperationKind::Create, "cat.jpg"));
    let mount = need!(ha_testkit::loopmount::tmpfs(16 << 20));
    std::fs::copy(place.path().join("ha-sync.db"), mount.path().join("ha-sync.db")).unwrap();
    std::fs::set_permissions(mount.path().join("ha-sync.db"), std::fs::Permissions::from_mode(0o444)).unwrap();
    mount.set_read_only(true);
    let dsn = format!("sqlite:{}/ha-sync.db", mount.path().display()).parse().unwrap();
    let dashboard = Dashboard::start(dsn, Box::new(NoLocks), None, None);
    let page = dashboard.get("/");
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains("media"));
    assert_eq!(dashboard.get("/search?q=cat.jpg").status, 200);
}
