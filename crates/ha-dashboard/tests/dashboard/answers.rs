//! Downloads, and what else is no page.

use ha_sync_core::record::OperationKind;
use serde_json::Value;

use crate::ground::{Ground, Run, on_both};

on_both! { downloads_have_every_row, probes_and_the_stop, refusals_have_the_form_that_is_asked_for }

fn downloads_have_every_row(place: &Ground) {
    let mut run = Run::new("media", 5);
    for number in 0..2500 {
        run = run.with(OperationKind::Create, &format!("file {number}"));
    }
    run = run.with(OperationKind::Delete, "=cmd|' /C calc'!A0").with(OperationKind::Delete, "a,\"b\"\nc");
    let id = place.record(&run);
    let dashboard = place.dashboard();
    let csv = dashboard.get(&format!("/runs/{id}/operations.csv"));
    assert_eq!((csv.status, csv.whole), (200, true));
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8; header=present");
    let disposition = format!("attachment; filename=\"ha-sync-{id}-operations.csv\"");
    assert_eq!(csv.header("content-disposition"), disposition);
    assert_eq!(csv.body.matches("\r\n").count(), 2503, "a header and 2,502 rows");
    assert!(csv.body.starts_with("seq,operation,filepath,"));
    assert!(csv.body.contains(",\"'=cmd|' /C calc'!A0\","), "no formula");
    assert!(csv.body.contains(",\"a,\"\"b\"\"\nc\","));
    let lines = dashboard.get(&format!("/runs/{id}/operations.jsonl?operation=delete"));
    let rows: Vec<Value> = lines.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let paths: Vec<_> = rows.iter().map(|row| row["filepath"].as_str().unwrap()).collect();
    assert_eq!(paths, ["=cmd|' /C calc'!A0", "a,\"b\"\nc"]);
    assert_eq!(dashboard.get(&format!("/runs/{id}/operations.csv?status=x")).status, 400);
    assert_eq!(dashboard.get("/runs/20000101T000000Z-00000000/operations.csv").status, 404);
    assert_eq!(dashboard.get("/runs/a%22%0d%0aSet-Cookie:%20x/operations.csv").status, 404);
}

fn probes_and_the_stop(place: &Ground) {
    place.record(&Run::new("media", 5));
    let mut dashboard = place.dashboard();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(dashboard.get(path).status, 200, "{path}");
    }
    // a connection that is kept alive does not hold up the stop
    let idle = std::net::TcpStream::connect(dashboard.address).unwrap();
    let begun = std::time::Instant::now();
    dashboard.stop();
    assert!(begun.elapsed() < std::time::Duration::from_secs(9), "{:?}", begun.elapsed());
    drop(idle);
    assert!(std::net::TcpStream::connect(dashboard.address).is_err());
}

fn refusals_have_the_form_that_is_asked_for(place: &Ground) {
    let id = place.record(&Run::new("media", 5));
    let dashboard = place.dashboard();
    let csv = format!("/runs/{id}/operations.csv?status=x");
    for (path, status, program) in [
        ("/api", 404, true),
        ("/api/", 404, true),
        ("/api/nothing", 404, true),
        ("/api/pairs/%ff", 400, true),
        ("/api/iterations/%ff", 400, true),
        ("/api/iterations/%00", 404, true),
        (csv.as_str(), 400, true),
        ("/runs/%ff/operations.csv", 400, true),
        ("/runs/%c3%28/operations.jsonl", 400, true),
        ("/runs/1234567/operations.jsonl", 404, true),
        ("/pairs/%ff", 400, false),
        ("/runs/%ff", 400, false),
        ("/assets/%ff/style.css", 400, false),
        ("/apis", 404, false),
        ("/%ff", 404, false),
    ] {
        let answer = dashboard.get(path);
        assert_eq!(answer.status, status, "{path}");
        let kind = answer.header("content-type");
        if program {
            assert_eq!(kind, "application/problem+json", "{path}: {}", answer.body);
            let problem: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(problem["status"], status, "{path}");
            assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{path}: {problem}");
        } else {
            assert_eq!(kind, "text/html; charset=utf-8", "{path}: {}", answer.body);
            assert!(answer.body.contains("</html>"), "{path}");
        }
    }
    let answer = dashboard.ask("POST", "/api", "Content-Length: 0\r\n");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{}", answer.body);
}
