//! The lock of a backup that is being written: renewed while it takes, and lost when that does not succeed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use ha_longhorn::backing;
use ha_longhorn::backupstore::{
    self, BackupError, Compression, DirectoryStore, Store, StoreError, WriteError, WriteOrder,
};
use ha_longhorn::watch::Unwatched;

const RENEWAL: Duration = Duration::from_millis(300);

/// Is a directory whose blocks take a while to write, and in which a lock may be written so many times.
struct Slow {
    inner: DirectoryStore,
    pause: Duration,
    locks_left: AtomicUsize,
    locks: Mutex<Vec<Instant>>,
}

impl Store for Slow {
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(path)
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<(), StoreError> {
        if path.ends_with(".blk") {
            std::thread::sleep(self.pause);
        }
        if path.ends_with(".lck") {
            if self.locks_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
                return Err(StoreError::Settings("the store is gone".to_owned()));
            }
            self.locks.lock().unwrap().push(Instant::now());
        }
        self.inner.put(path, content)
    }

    fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.inner.remove(path)
    }

    fn modified(&self, path: &str) -> Result<Option<i64>, StoreError> {
        self.inner.modified(path)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(path)
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

/// Writes an image of three blocks into a store in a directory.
fn write(store: &dyn Store, image: &std::path::Path) -> Result<backupstore::Written, WriteError> {
    let mut image = backing::open(image).unwrap();
    let order = WriteOrder {
        volume: "pvc-x".to_owned(),
        name: "one".to_owned(),
        snapshot: "s".to_owned(),
        now: "2026-04-12T03:10:00Z".to_owned(),
        snapshot_created: "2026-04-12T03:10:00Z".to_owned(),
        labels: BTreeMap::new(),
        compression: Compression::None,
        block_size: backupstore::BLOCK_SIZE,
        lock: "lock-0123456789abcdef".to_owned(),
        ignore_locks: false,
        lock_renewal: RENEWAL,
    };
    backupstore::write(store, &mut *image, &order, &Unwatched)
}

fn image(directory: &std::path::Path) -> io::Result<std::path::PathBuf> {
    let path = directory.join("x.img");
    let content: Vec<u8> =
        (0..3 * backupstore::BLOCK_SIZE).map(|at| (at / backupstore::BLOCK_SIZE) as u8 + 1).collect();
    std::fs::write(&path, content)?;
    Ok(path)
}

fn slow(directory: &std::path::Path, pause: Duration, locks_left: usize) -> Slow {
    let inner = DirectoryStore::new(directory.to_owned());
    Slow { inner, pause, locks_left: AtomicUsize::new(locks_left), locks: Mutex::default() }
}

#[test]
fn it_is_renewed_also_while_a_block_is_on_its_way() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path()).unwrap();
    // Each of the three takes longer than a lock lasts.
    let store = slow(directory.path(), RENEWAL * 4, usize::MAX);
    assert_eq!(write(&store, &image).unwrap().blocks, 3);
    let times = store.locks.lock().unwrap();
    assert!(times.len() >= 8, "{}", times.len());
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < RENEWAL * 5 / 2, "{longest:?}");
    let folder = format!("{}/locks", backupstore::volume_path("pvc-x"));
    assert_eq!(store.list(&folder).unwrap(), Vec::<String>::new());
}

#[test]
fn a_lock_that_cannot_be_renewed_is_lost_and_nothing_counts_as_finished() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path()).unwrap();
    let store = slow(directory.path(), RENEWAL, 1);
    let error = write(&store, &image).unwrap_err();
    let WriteError::Backup(BackupError::LockLost { cause: Some(cause), .. }) = error else { panic!("{error}") };
    assert_eq!(cause.to_string(), "the store is gone");
    assert_eq!(backupstore::backups(&store, "pvc-x").unwrap(), Vec::<String>::new());
    // The next one is finished.
    let store = slow(directory.path(), Duration::ZERO, usize::MAX);
    assert_eq!(write(&store, &image).unwrap().blocks, 3);
    assert_eq!(backupstore::backups(&store, "pvc-x").unwrap(), ["one"]);
}
