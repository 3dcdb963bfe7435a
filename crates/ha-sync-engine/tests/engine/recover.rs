//! What a dead run left is tidied up: its own leavings go, and what may be somebody's only copy goes to the trash.

use std::path::{Path, PathBuf};

use ha_sync_core::entry::Entry;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_core::record::{Identity, Intent, Operation, OperationKind};
use ha_sync_engine::recover::resolve;
use ha_sync_fs::{FsError, Root};
use ha_testkit::tree::{Item, Snapshot, dir, file, make};
use jiff::Timestamp;

const RUN: &str = "20260413T152357Z-0123abcd";
const TEMPORARY: &str = ".ha-sync.20260413T152357Z-0123abcd.1.tmp";

struct Left {
    root: tempfile::TempDir,
}

impl Left {
    fn new(items: &[Item]) -> Self {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), items);
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn entry(&self, name: &str) -> Entry {
        let root = Root::open(self.root.path(), false).unwrap();
        root.open_dir(&RelPath::root()).unwrap().find(name.as_bytes()).unwrap().unwrap()
    }

    fn identity(&self, name: &str) -> Identity {
        self.entry(name).identity()
    }

    fn resolve(
        &self,
        keep: bool,
        operation: OperationKind,
        before: Option<Identity>,
        after: Option<Identity>,
    ) -> Result<Vec<Operation>, FsError> {
        let intent = Intent { seq: 1, operation, direction: None, filepath: "name".to_owned(), before, after };
        let run: RunId = RUN.parse().unwrap();
        resolve(self.root.path(), &run, &[&intent], keep, Timestamp::UNIX_EPOCH, None)
    }

    fn trashed(&self, name: &str) -> PathBuf {
        self.path(".ha-sync/trash").join(RUN).join(name)
    }
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// An identity of nothing that is there any more.
fn elsewhere(of: &Identity) -> Identity {
    Identity { inode: of.inode + 1_000_000, ..of.clone() }
}

#[test]
fn a_staged_file_goes_and_the_old_one_stays() {
    let left = Left::new(&[file("name", "old"), file(TEMPORARY, "half")]);
    let (before, after) = (left.identity("name"), left.identity(TEMPORARY));
    let done = left.resolve(true, OperationKind::Update, Some(before), Some(elsewhere(&after))).unwrap();
    assert!(done.is_empty());
    assert_eq!(read(&left.path("name")).as_deref(), Some("old"));
    assert!(!left.path(TEMPORARY).exists() && !left.trashed("name").exists());
}

#[test]
fn a_staged_new_file_goes() {
    let left = Left::new(&[file(TEMPORARY, "half")]);
    let after = left.identity(TEMPORARY);
    assert!(left.resolve(true, OperationKind::Create, None, Some(after)).unwrap().is_empty());
    assert!(!left.path(TEMPORARY).exists() && !left.trashed("name").exists());
}

#[test]
fn an_exchanged_out_version_goes_to_the_trash_and_the_update_counts() {
    let left = Left::new(&[file("name", "new!"), file(TEMPORARY, "old")]);
    let (before, after) = (left.identity(TEMPORARY), left.identity("name"));
    let done = left.resolve(true, OperationKind::Update, Some(before), Some(elsewhere(&after))).unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].reason.as_deref(), Some("found done after an interruption"));
    assert_eq!(read(&left.trashed("name")).as_deref(), Some("old"));
    assert_eq!(read(&left.path("name")).as_deref(), Some("new!"));
    assert!(!left.path(TEMPORARY).exists());
}

#[test]
fn an_exchanged_out_version_goes_for_good_where_none_is_kept() {
    let left = Left::new(&[file("name", "new!"), file(TEMPORARY, "old")]);
    let (before, after) = (left.identity(TEMPORARY), left.identity("name"));
    left.resolve(false, OperationKind::Update, Some(before), Some(elsewhere(&after))).unwrap();
    assert!(!left.path(TEMPORARY).exists() && !left.trashed("name").exists());
}

/// Somebody put another version in place between the last look and the exchange: it is the only copy of it.
#[test]
fn a_version_of_the_last_moment_is_kept_even_where_old_ones_are_not() {
    for keep in [true, false] {
        let left = Left::new(&[file("name", "new!"), file(TEMPORARY, "somebody's")]);
        let after = left.identity("name");
        let before = elsewhere(&Identity { size: 3, ..left.identity(TEMPORARY) });
        left.resolve(keep, OperationKind::Update, Some(before), Some(elsewhere(&after))).unwrap();
        assert_eq!(read(&left.trashed("name")).as_deref(), Some("somebody's"), "keep: {keep}");
        assert!(!left.path(TEMPORARY).exists());
    }
}

/// A directory that was exchanged out is not removed with what is in it, not even where nothing is kept.
#[test]
fn an_exchanged_out_directory_with_entries_is_kept() {
    for keep in [true, false] {
        let left = Left::new(&[file("name", "new"), dir(TEMPORARY), file(format!("{TEMPORARY}/below"), "only copy")]);
        let (before, after) = (left.identity(TEMPORARY), left.identity("name"));
        let done = left.resolve(keep, OperationKind::Update, Some(before), Some(elsewhere(&after))).unwrap();
        assert_eq!(done.len(), 1);
        assert_eq!(read(&left.trashed("name/below")).as_deref(), Some("only copy"), "keep: {keep}");
        assert!(!left.path(TEMPORARY).exists());
    }
}

#[test]
fn an_empty_directory_that_was_exchanged_out_goes_where_nothing_is_kept() {
    let left = Left::new(&[file("name", "new"), dir(TEMPORARY)]);
    let (before, after) = (left.identity(TEMPORARY), left.identity("name"));
    left.resolve(false, OperationKind::Update, Some(before), Some(elsewhere(&after))).unwrap();
    assert!(!left.path(TEMPORARY).exists() && !left.trashed("name").exists());
}

#[test]
fn a_deletion_counts_when_the_name_is_gone() {
    let left = Left::new(&[file("name", "old"), file("other", "x")]);
    let before = left.identity("name");
    assert!(left.resolve(true, OperationKind::Delete, Some(before.clone()), None).unwrap().is_empty());
    std::fs::remove_file(left.path("name")).unwrap();
    assert_eq!(left.resolve(true, OperationKind::Delete, Some(before), None).unwrap().len(), 1);
}

#[test]
fn nothing_is_concluded_from_an_empty_root() {
    let left = Left::new(&[file("name", "old")]);
    let before = left.identity("name");
    std::fs::remove_file(left.path("name")).unwrap();
    let error = left.resolve(true, OperationKind::Delete, Some(before), None).unwrap_err();
    assert!(error.to_line().contains("nothing is in"), "{}", error.to_line());
}

#[test]
fn a_link_in_place_of_the_directory_is_not_followed() {
    let left = Left::new(&[file("name", "old")]);
    let outside = tempfile::tempdir().unwrap();
    make(outside.path(), &[file(TEMPORARY, "not ours")]);
    std::os::unix::fs::symlink(outside.path(), left.path("dir")).unwrap();
    let untouched = Snapshot::of(outside.path());
    let intent = Intent {
        seq: 1,
        operation: OperationKind::Create,
        direction: None,
        filepath: "dir/name".to_owned(),
        before: None,
        after: Some(left.identity("name")),
    };
    let run: RunId = RUN.parse().unwrap();
    let done = resolve(left.root.path(), &run, &[&intent], true, Timestamp::UNIX_EPOCH, None).unwrap();
    assert!(done.is_empty());
    Snapshot::of(outside.path()).assert_same(&untouched);
}
