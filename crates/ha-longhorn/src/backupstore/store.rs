//! Where a backup store lies.

use std::path::PathBuf;

use ha_sync_fs::error::printable_path;
use ha_sync_fs::{FsError, local};
use rustix::io::Errno;

/// Is why a store does not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory tree.
    #[error(transparent)]
    File(#[from] FsError),
    /// The settings of an object store make no sense.
    #[error("{0}")]
    Settings(String),
    /// An object store cannot be reached.
    #[error("failed to reach the object store: {place}")]
    Transport {
        /// Host, bucket and key.
        place: String,
        /// Why.
        #[source]
        cause: Box<ureq::Error>,
    },
    /// An object store refuses.
    #[error("the object store answers {status} {code}: {place}")]
    Refused {
        /// Host, bucket and key.
        place: String,
        /// The status of HTTP.
        status: u16,
        /// The store's own word.
        code: String,
    },
    /// An answer is not what such a store answers.
    #[error("not the answer of an object store: {place}: {why}")]
    Odd {
        /// Host, bucket and key.
        place: String,
        /// In what.
        why: &'static str,
    },
}

/// Holds objects by path. Paths have no slash at their ends.
pub trait Store: Sync {
    /// Returns an object; nothing when it is absent.
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Writes an object whole, also over an older one.
    fn put(&self, path: &str, content: &[u8]) -> Result<(), StoreError>;
    /// Removes an object; that it is absent already is no error.
    fn remove(&self, path: &str) -> Result<(), StoreError>;
    /// Returns when an object was written, in s since 1970 by the store's own clock; nothing when it is absent.
    fn modified(&self, path: &str) -> Result<Option<i64>, StoreError>;
    /// Lists the names directly below a path; none when it is absent.
    fn list(&self, path: &str) -> Result<Vec<String>, StoreError>;
    /// Returns where it is, for people.
    fn place(&self) -> String;
}

impl Store for Box<dyn Store + Send> {
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(path)
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<(), StoreError> {
        (**self).put(path, content)
    }

    fn remove(&self, path: &str) -> Result<(), StoreError> {
        (**self).remove(path)
    }

    fn modified(&self, path: &str) -> Result<Option<i64>, StoreError> {
        (**self).modified(path)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        (**self).list(path)
    }

    fn place(&self) -> String {
        (**self).place()
    }
}

/// Is a directory tree, such as an NFS mount.
#[derive(Debug)]
pub struct DirectoryStore {
    root: PathBuf,
}

impl DirectoryStore {
    /// Takes the directory of the backup target, in which `backupstore` is.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Store for DirectoryStore {
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(local::read_if_present(&self.root.join(path))?)
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            local::create_directories(parent)?;
        }
        Ok(local::replace(&path, content)?)
    }

    fn remove(&self, path: &str) -> Result<(), StoreError> {
        Ok(local::remove(&self.root.join(path))?)
    }

    fn modified(&self, path: &str) -> Result<Option<i64>, StoreError> {
        let path = self.root.join(path);
        match rustix::fs::stat(&path) {
            Ok(stat) => Ok(Some(stat.st_mtime)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(FsError::new("look at", printable_path(&path), errno).into()),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let entries = match local::list(&self.root.join(path)) {
            // A file has nothing below it, as in an object store.
            Err(error) if error.errno() == Some(Errno::NOTDIR) => Vec::new(),
            entries => entries?,
        };
        let name = |entry: &PathBuf| entry.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        Ok(entries.iter().filter_map(name).collect())
    }

    fn place(&self) -> String {
        printable_path(&self.root)
    }
}
