//! Records that are in one of two places, and directories that come late or hang.

use std::time::{Duration, Instant};

use ha_dashboard::Place;
use ha_dashboard::lock::NoLocks;
use ha_testkit::need;
use ha_testkit::passthrough::{Operation, Options, Passthrough, Rule};

use crate::ground::{Dashboard, Ground, Run};

/// Longer than a state counts as fresh.
fn a_moment() {
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn the_other_place_counts_as_soon_as_it_has_records() {
    let (first, other) = (Ground::sqlite(), Ground::sqlite());
    let dashboard = Dashboard::start_at(first.place(), Some(other.place()), Box::new(NoLocks), None);
    assert!(dashboard.get("/").body.contains("Nothing has run yet"));
    other.record(&Run::new("media", 5));
    a_moment();
    assert!(dashboard.get("/").body.contains(">media</a>"));
    first.record(&Run::new("photos", 5));
    a_moment();
    let page = dashboard.get("/").body;
    assert!(page.contains(">media</a>") && !page.contains("photos"), "it does not change its mind: {page}");
    let both = Dashboard::start_at(first.place(), Some(other.place()), Box::new(NoLocks), None);
    assert!(both.get("/").body.contains(">photos</a>"), "the first goes before the other");
}

#[test]
fn a_log_directory_that_comes_later_is_counted() {
    let place = Ground::sqlite();
    place.record(&Run::new("media", 5));
    let late = place.path().join("logs");
    let known = Place { log_directory: Some(late.clone()), ..place.place() };
    let dashboard = Dashboard::start_at(known, None, Box::new(NoLocks), None);
    assert!(!dashboard.get("/metrics").body.contains("ha_sync_pending_opslogs"));
    std::fs::create_dir(&late).unwrap();
    assert!(dashboard.get("/metrics").body.contains("ha_sync_pending_opslogs{pair=\"media\"} 0\n"));
    let said = dashboard.said.lock().unwrap().clone();
    assert_eq!(said.len(), 1, "a directory that is not there is nothing to warn of: {said:?}");
}

/// A directory on a file server that is away: neither the start nor a probe waits for it.
#[test]
fn a_directory_that_hangs_stops_nothing_else() {
    let place = Ground::sqlite();
    place.record(&Run::new("media", 5));
    let mount = need!(Passthrough::mount(place.path(), &Options::default()));
    let hung = mount.control().inject(Rule::on(Operation::Lookup).delay(Duration::from_secs(8)));
    let within = |path: &std::path::Path| Place {
        dsn: format!("sqlite:{}/ha-sync.db", path.display()).parse().unwrap(),
        log_directory: Some(mount.path().join("logs")),
    };
    // only the logs hang, then the records too
    for (path, status) in [(place.path(), 200), (mount.path(), 503)] {
        let begun = Instant::now();
        let dashboard = Dashboard::start_at(within(path), None, Box::new(NoLocks), None);
        assert_eq!(dashboard.get("/healthz").status, 200);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        std::thread::scope(|scope| {
            let page = scope.spawn(|| dashboard.get("/"));
            let metrics = scope.spawn(|| dashboard.get("/metrics"));
            std::thread::sleep(Duration::from_millis(300));
            let begun = Instant::now();
            assert_eq!(dashboard.get("/healthz").status, 200);
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            assert_eq!(page.join().unwrap().status, status);
            assert!(!metrics.join().unwrap().body.contains("ha_sync_pending_opslogs"));
        });
        let said = dashboard.said.lock().unwrap().join("\n");
        assert!(said.contains("LogsUnknown"), "{said}");
    }
    assert!(hung.fired() > 0);
    hung.end();
}
