//! Where records are, when that is not certain at the start: `ha-sync` takes the directory that it may write to.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use ha_audit::dsn::Dsn;
use ha_audit::query::{ReadError, Reader, Session};

/// Says where records may be.
#[derive(Debug, Clone)]
pub struct Place {
    /// The audit store.
    pub dsn: Dsn,
    /// Where logs wait for it; it need not be there yet, or ever.
    pub log_directory: Option<PathBuf>,
}

#[derive(Debug)]
struct Known {
    reader: Reader,
    log_directory: Option<PathBuf>,
}

/// Is the place of the records, and another that counts when that one has none. The first in which records are seen
/// stays.
#[derive(Debug)]
pub(crate) struct Places {
    first: Known,
    other: Option<Known>,
    /// Whether it is the first.
    found: OnceLock<bool>,
}

impl Places {
    /// Looks at nothing yet.
    pub(crate) fn new(first: Place, other: Option<Place>, patience: Duration) -> Self {
        let known = |Place { dsn, log_directory }: Place| Known { reader: Reader::new(&dsn, patience), log_directory };
        Self { first: known(first), other: other.map(known), found: OnceLock::new() }
    }

    /// Takes a connection.
    pub(crate) async fn session(&self) -> Result<Session, ReadError> {
        let (other, found) = (self.other.as_ref(), self.found.get());
        match (found, other) {
            (Some(true), _) | (None, None) => return self.first.reader.session().await,
            (Some(false), Some(other)) => return other.reader.session().await,
            _ => {}
        }
        let empty = match self.first.reader.session().await {
            Err(error @ ReadError::Empty { .. }) => error,
            answered => {
                if answered.is_ok() {
                    self.found.get_or_init(|| true);
                }
                return answered;
            }
        };
        let Some(other) = other else { return Err(empty) };
        match other.reader.session().await {
            Err(ReadError::Empty { .. }) => Err(empty),
            answered => {
                if answered.is_ok() {
                    self.found.get_or_init(|| false);
                }
                answered
            }
        }
    }

    /// Returns where logs wait for the database: of the first place, as long as none has records.
    pub(crate) fn log_directory(&self) -> Option<&Path> {
        let place = match (self.found.get(), &self.other) {
            (Some(false), Some(other)) => other,
            _ => &self.first,
        };
        place.log_directory.as_deref()
    }

    /// Closes the connections that nobody uses.
    pub(crate) async fn close(&self) {
        for place in std::iter::once(&self.first).chain(&self.other) {
            place.reader.close().await;
        }
    }
}
