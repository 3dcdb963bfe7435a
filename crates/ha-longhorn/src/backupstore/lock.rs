//! The lock of a backup that is being made, as Longhorn takes one: a file below the volume, written anew each minute.
//! One that nobody has touched for 150 s has expired for Longhorn.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{BackupError, Store, volume_path};

/// After so long a lock is written anew.
const REFRESH: Duration = Duration::from_secs(60);

/// Is a lock that is held; it goes when this is dropped.
pub(super) struct Lock<'a> {
    store: &'a dyn Store,
    path: String,
    content: Vec<u8>,
    refreshed: Instant,
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
        let others = || -> Result<(), BackupError> {
            let locks = store.list(&folder)?;
            match locks.iter().find(|lock| lock.ends_with(".lck") && **lock != own && !ignore_others) {
                Some(lock) => Err(BackupError::Locked { path: format!("{folder}/{lock}") }),
                None => Ok(()),
            }
        };
        others()?;
        // Type 1 is that of a backup.
        let content = json!({"Name": name, "Type": 1, "Acquired": true}).to_string().into_bytes();
        let path = format!("{folder}/{own}");
        store.put(&path, &content)?;
        let lock = Self { store, path, content, refreshed: Instant::now() };
        others()?;
        Ok(lock)
    }

    /// Writes the lock anew when it is time.
    pub(super) fn refresh(&mut self) -> Result<(), BackupError> {
        if self.refreshed.elapsed() >= REFRESH {
            self.store.put(&self.path, &self.content)?;
            self.refreshed = Instant::now();
        }
        Ok(())
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // One that stays expires.
        let _ = self.store.remove(&self.path);
    }
}
