//! The lock of a backup that is being made, as Longhorn takes one: a file below the volume, written anew each minute.
//! One that nobody has written for 150 s has expired, for Longhorn and here. Times are the store's own.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{BackupError, Store, StoreError, volume_path};

/// After so long a lock is written anew.
pub const LOCK_RENEWAL: Duration = Duration::from_secs(60);
/// After so many s a lock that was not written anew has expired.
pub const LOCK_EXPIRY: i64 = 150;

/// Is a lock that is held; it goes when this is dropped.
pub(super) struct Lock<'a> {
    store: &'a dyn Store,
    path: String,
    content: Vec<u8>,
    state: Mutex<State>,
    /// Locks of others that had expired.
    pub(super) expired: Vec<String>,
}

struct State {
    renewed: Instant,
    failed: Option<StoreError>,
}

impl<'a> Lock<'a> {
    /// Takes the lock of this name. It is written before the others are looked at, so that of two who come at once
    /// none overlooks the other; then both give way.
    pub(super) fn take(
        store: &'a dyn Store,
        volume: &str,
        name: &str,
        ignore_others: bool,
    ) -> Result<Self, BackupError> {
        let folder = format!("{}/locks", volume_path(volume));
        let own = format!("{name}.lck");
        // Type 1 is that of a backup.
        let content = json!({"Name": name, "Type": 1, "Acquired": true}).to_string().into_bytes();
        let path = format!("{folder}/{own}");
        let renewed = Instant::now();
        store.put(&path, &content)?;
        let state = Mutex::new(State { renewed, failed: None });
        let mut lock = Self { store, path, content, state, expired: Vec::new() };
        let others: Vec<String> = store
            .list(&folder)?
            .into_iter()
            .filter(|other| other.ends_with(".lck") && *other != own && !ignore_others)
            .map(|other| format!("{folder}/{other}"))
            .collect();
        for other in others {
            // One that has gone meanwhile is none. Without a time of our own there is nothing to hold against it.
            let Some(written) = store.modified(&other)? else { continue };
            let age = store.modified(&lock.path)?.map_or(0, |now| now.saturating_sub(written));
            if age < LOCK_EXPIRY {
                return Err(BackupError::Locked { path: other, age: age.max(0) });
            }
            lock.expired.push(other);
        }
        Ok(lock)
    }

    /// Writes the lock anew after each of these times, until the other end of the channel goes: also while a block is
    /// on its way, which may take longer than a lock lasts. A failure is tried again the next time.
    pub(super) fn keep(&self, renewal: Duration, end: &Receiver<()>) {
        while end.recv_timeout(renewal) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            let done = self.store.put(&self.path, &self.content);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match done {
                Ok(()) => *state = State { renewed: now, failed: None },
                Err(error) => state.failed = Some(error),
            }
        }
    }

    /// Fails when the lock has expired because it could not be written anew: then another may have taken its place.
    pub(super) fn held(&self, renewal: Duration) -> Result<(), BackupError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a renewal of 60 s these are the 150 s after which a lock expires.
        match state.renewed.elapsed() < renewal * 5 / 2 {
            true => Ok(()),
            false => Err(BackupError::LockLost { path: self.path.clone(), cause: state.failed.take() }),
        }
    }
}

/// Halts where another holds a lock of the volume, and returns the locks that have expired. Nothing is written, so the
/// store's own time is not known: `now`, in s since 1970, is taken for it.
pub(super) fn look(store: &dyn Store, volume: &str, now: i64) -> Result<Vec<String>, BackupError> {
    let folder = format!("{}/locks", volume_path(volume));
    let mut expired = Vec::new();
    for other in store.list(&folder)?.into_iter().filter(|other| other.ends_with(".lck")) {
        let path = format!("{folder}/{other}");
        let Some(written) = store.modified(&path)? else { continue };
        let age = now.saturating_sub(written);
        if age < LOCK_EXPIRY {
            return Err(BackupError::Locked { path, age: age.max(0) });
        }
        expired.push(path);
    }
    Ok(expired)
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // One that stays expires.
        let _ = self.store.remove(&self.path);
    }
}
