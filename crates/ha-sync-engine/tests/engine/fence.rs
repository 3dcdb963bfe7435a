//! Behind a closed fence nothing is changed, whatever was under way.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ha_sync_core::event::Silent;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_core::record::{Intent, LogError, Operation, OperationLog, Status};
use ha_sync_engine::state::PairState;
use ha_sync_engine::{Environment, Stop};
use ha_sync_fs::fence::{Fence, since_boot};
use ha_sync_fs::{Dir, FsError, Root};
use ha_testkit::tree::{Compare, Snapshot, dir, file, link, make};
use jiff::Timestamp;

use crate::pairs::job;

/// Loses the lock when the `left`-th batch is announced, after all checks and before its first change.
struct Losing {
    fence: Arc<Fence>,
    left: AtomicI64,
}

impl OperationLog for Losing {
    fn intend(&self, _: &[Intent]) -> Result<(), LogError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 1 {
            self.fence.lose("the Lease is held by pod-b/2".to_owned());
        }
        Ok(())
    }

    fn append(&self, _: &[Operation]) -> Result<(), LogError> {
        Ok(())
    }
}

fn fence() -> Arc<Fence> {
    Arc::new(Fence::new("lock", Duration::from_secs(3600), since_boot()))
}

#[test]
fn a_lock_lost_before_a_change_prevents_it() {
    for delete in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let (source, destination) = (place.path().join("a"), place.path().join("b"));
        let big = vec![7; 3 << 20];
        make(
            &source,
            &[
                dir("new"),
                file("new/one", "one"),
                file("changed", "new").mtime(2_000),
                file("big", &big),
                file("mode", "x").mode(0o600).mtime(1_000),
                link("link", "there"),
            ],
        );
        let old = [file("changed", "older").mtime(1_000), file("mode", "x").mode(0o644).mtime(1_000), file("gone", "")];
        make(&destination, &old);
        let before = Snapshot::with(&destination, &Compare::untouched());

        let fence = fence();
        let stop = Stop::default();
        stop.bind(Arc::clone(&fence));
        let log = Losing { fence, left: AtomicI64::new(1) };
        let start = Timestamp::now();
        let (run, state) = (RunId::new(start, 1), PairState::default());
        let environment = Environment {
            run: &run,
            start,
            now: Timestamp::now,
            log: &log,
            observer: &Silent,
            stop: &stop,
            state: &state,
            spool: place.path(),
            baseline: None,
            began: &|| Ok(()),
            while_syncing: &|| {},
            live: HashSet::new(),
            resolved: HashSet::new(),
            dead: HashSet::new(),
            own: Vec::new(),
        };
        let finished = ha_sync_engine::run(&job(&source, &destination, delete), &environment).unwrap();
        assert_eq!(finished.status, Status::Failed);
        assert_eq!(finished.error_message.unwrap(), "lock lost: the Lease is held by pod-b/2");
        assert!(log.left.load(Ordering::SeqCst) <= 0, "a batch was announced");
        before.assert_same(&Snapshot::with(&destination, &Compare::untouched()));
    }
}

#[test]
fn every_call_that_changes_a_tree_is_behind_the_fence() {
    let place = tempfile::tempdir().unwrap();
    make(place.path(), &[dir("sub"), dir("empty"), file("one", "1"), file("two", "2"), link("link", "one")]);
    let fence = fence();
    let root = Root::open(place.path(), false).unwrap().fenced(Some(Arc::clone(&fence)));
    let top = root.open_dir(&RelPath::root()).unwrap();
    let sub = top.open_child(b"sub").unwrap();
    let unnamed = top.create_unnamed_file().unwrap();
    fence.lose("gone".to_owned());
    let before = Snapshot::with(place.path(), &Compare::untouched());
    let time = ha_sync_core::entry::Time::new(1, 0);
    type Call<'a> = &'a dyn Fn(&Dir) -> Result<(), FsError>;
    let calls: &[Call<'_>] = &[
        &|top| top.create_file(b"new").map(drop),
        &|top| top.create_unnamed_file().map(drop),
        &|top| unnamed.as_ref().map_or_else(|| top.create_file(b"new").map(drop), |file| top.name_file(file, b"new")),
        &|top| top.make_directory(b"new"),
        &|top| top.open_or_make_child(b"new").map(drop),
        &|top| top.make_link(b"one", b"new"),
        &|top| top.hard_link(b"one", &sub, b"new"),
        &|top| top.rename_new(b"one", &sub, b"new"),
        &|top| top.rename_over(b"one", top, b"two"),
        &|top| top.exchange(b"one", b"two"),
        &|top| top.remove_file(b"one"),
        &|top| top.remove_directory(b"empty"),
        &|top| top.set_mtime(time),
        &|top| top.set_mtime_of(b"link", time),
        &|top| top.set_owner_of(b"one", 0, 0),
    ];
    for (index, call) in calls.iter().enumerate() {
        let error = call(&top).expect_err(&format!("call {index} is refused"));
        assert!(error.to_line().ends_with(": not done: the lock is lost"), "call {index}: {}", error.to_line());
        assert!(!error.is_transient(), "nothing is tried again");
    }
    before.assert_same(&Snapshot::with(place.path(), &Compare::untouched()));
}
