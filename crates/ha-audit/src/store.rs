//! The audit store: every run and operation, in SQL.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha_sync_core::name::{Direction, PairName, RunId};
use ha_sync_core::record::{Counts, Fingerprint, Iteration, Status};
use jiff::Timestamp;
use tokio::runtime::Runtime;

use crate::batch::Tally;
use crate::database::{Access, Database};
use crate::dsn::Dsn;
pub use crate::mysql::Trouble;
use crate::reader::{LogError, LogReader};

/// Is the cause of a failure that the database or its driver tells.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Says why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened: "not reachable" (sync.md §11).
    #[error("failed to open audit database: {database}")]
    Unreachable {
        /// The file, or the DSN without its password.
        database: String,
        /// Whether it may be reachable later without anybody's help.
        retryable: bool,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The schema cannot be brought up to date.
    #[error("failed to migrate audit database: {database}")]
    Migrate {
        /// The file, or the DSN without its password.
        database: String,
        /// Whether another try may succeed.
        retryable: bool,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The schema is not that of this program, and it was opened for reading only or was made by a newer one.
    #[error("audit database has schema version {found}, this program needs {needed}: {database}")]
    Schema {
        /// The file, or the DSN without its password.
        database: String,
        /// The version that it has; 0 without one.
        found: i64,
        /// The version of this program.
        needed: i64,
    },
    /// A statement failed.
    #[error("failed to {step} in the audit database: {database}")]
    Query {
        /// What was tried.
        step: &'static str,
        /// The file, or the DSN without its password.
        database: String,
        /// Whether another try may succeed.
        retryable: bool,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The database is well but refuses these rows, now and later.
    #[error("failed to {step} in the audit database: {database}: the row is refused")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// The file, or the DSN without its password.
        database: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The runtime that drives the database cannot be started.
    #[error("failed to start the database runtime")]
    Runtime(#[source] std::io::Error),
    /// The log that is flushed cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl StoreError {
    /// Tells whether the same call may succeed later without anybody's help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { retryable, .. } | Self::Migrate { retryable, .. } | Self::Query { retryable, .. } => {
                *retryable
            }
            Self::Runtime(_) => true,
            Self::Schema { .. } | Self::Refused { .. } | Self::Log(_) => false,
        }
    }

    /// Returns what is wrong with a MySQL server or the way to it, when that is known.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Unreachable { source, .. } | Self::Migrate { source, .. } | Self::Query { source, .. } => {
                Trouble::of(&**source)
            }
            _ => None,
        }
    }
}

/// Is what a flush did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    /// The run.
    pub run_id: RunId,
    /// Its pair.
    pub sync_pair: PairName,
    /// Operations in the log, whether they were in the store already or not.
    pub operations: u64,
    /// The status that the run's row has now.
    pub status: Status,
    /// Whether the log has no trailer.
    pub interrupted: bool,
}

/// Is a row of `sync_iterations`. Rows from before this program may hold any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IterationRow {
    /// The row's key.
    pub id: i64,
    /// The run; absent in rows from before this program.
    pub run_id: Option<String>,
    /// The pair.
    pub sync_pair: String,
    /// The label of the direction.
    pub direction: String,
    /// The source root.
    pub src: String,
    /// The destination root.
    pub dest: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it stands or ended.
    pub status: Status,
    /// Whether nothing was copied or deleted.
    pub dry_run: bool,
    /// What was counted.
    pub counts: Counts,
    /// What stopped it, or the first failures.
    pub error_message: Option<String>,
    /// The Lease's fencing value.
    pub lease_transitions: Option<i64>,
}

/// Counts what retention removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows of `sync_iterations`.
    pub iterations: u64,
    /// Rows of `sync_operations`.
    pub operations: u64,
}

/// Is an open audit store. Its calls block; it may be shared between threads, which then wait for each other.
#[derive(Debug)]
pub struct Store {
    database: Mutex<Database>,
    /// The log of which the first part is stored already.
    begun: Mutex<Option<(PathBuf, LogReader, Tally)>>,
    /// Declared last: the connection closes before its runtime goes.
    runtime: Runtime,
}

impl Store {
    /// Opens the store and brings its schema up to date. A SQLite file is made when it is not there. A `timeout` in a
    /// MySQL DSN takes the place of `connect_timeout`.
    pub fn open(dsn: &Dsn, connect_timeout: Duration) -> Result<Self, StoreError> {
        Self::open_with(dsn, connect_timeout, Access::Write)
    }

    /// Opens a store that is there, for reading only.
    pub fn open_read_only(dsn: &Dsn, connect_timeout: Duration) -> Result<Self, StoreError> {
        Self::open_with(dsn, connect_timeout, Access::Read)
    }

    fn open_with(dsn: &Dsn, connect_timeout: Duration, access: Access) -> Result<Self, StoreError> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().enable_io().build().map_err(StoreError::Runtime)?;
        match runtime.block_on(Database::open(dsn, connect_timeout, access)) {
            Ok(database) => Ok(Self { database: Mutex::new(database), begun: Mutex::default(), runtime }),
            Err(error) => {
                // a name server that does not answer holds a thread longer than we wait
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        // a transaction that a panic left open was rolled back when it was dropped
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a run has begun; its row is `running` until its log is flushed.
    pub fn begin(&self, iteration: &Iteration) -> Result<(), StoreError> {
        self.runtime.block_on(self.database().begin(iteration))
    }

    /// Brings a log into the store: its operations in batches, then, in a last transaction that is durable when this
    /// returns, the end of its run. What is there already stays as it is, so a flush may be repeated at any time.
    ///
    /// A log without a trailer makes a run that `failed`, "interrupted", counted from its operation lines. Of a
    /// broken log the part before the broken line is recorded likewise, and the error returned.
    pub fn flush(&self, log: &Path) -> Result<Flushed, StoreError> {
        self.flush_unless(log, &|| false)
    }

    /// The same, until `stopped`, which is asked before each batch: then the log stays, [`LogError::Stopped`].
    pub fn flush_unless(&self, log: &Path, stopped: &dyn Fn() -> bool) -> Result<Flushed, StoreError> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take_if(|(path, ..)| path == log);
        let (reader, tally) = match begun {
            Some((_, reader, tally)) => (reader, tally),
            None => (LogReader::open(log)?, Tally::default()),
        };
        self.runtime.block_on(self.database().flush(reader, tally, stopped))
    }

    /// Stores the operations that a log of a run that goes on has so far, while the run waits for something else;
    /// its [`Self::flush`] goes on from there. No line may be half written meanwhile.
    pub fn begin_flush(&self, log: &Path) -> Result<(), StoreError> {
        let reader = LogReader::open(log)?;
        let (reader, tally) = self.runtime.block_on(self.database().begin_flush(reader))?;
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some((log.to_owned(), reader, tally));
        Ok(())
    }

    /// Returns the start and the operations of the last successful dry run.
    pub fn last_dry_run(
        &self,
        pair: &PairName,
        direction: &Direction,
    ) -> Result<Option<(Timestamp, Fingerprint)>, StoreError> {
        self.runtime.block_on(self.database().last_dry_run(pair, direction))
    }

    /// Returns the last runs, newest first, dry runs too.
    pub fn iterations(&self, pair: Option<&PairName>, limit: u32) -> Result<Vec<IterationRow>, StoreError> {
        self.runtime.block_on(self.database().iterations(pair, limit))
    }

    /// Removes the runs that began before `older_than`, in small transactions; `progress` hears of each. The last
    /// successful run and the last successful dry run of each pair and direction stay.
    pub fn prune(&self, older_than: Timestamp, progress: &mut dyn FnMut(Pruned)) -> Result<Pruned, StoreError> {
        self.runtime.block_on(self.database().prune(older_than, progress))
    }

    /// Counts what [`Store::prune`] would remove.
    pub fn prunable(&self, older_than: Timestamp) -> Result<Pruned, StoreError> {
        self.runtime.block_on(self.database().prunable(older_than))
    }

    /// Returns how many operations a flush stores in less than 10 s, also on a slow disk or over a slow network: what is
    /// to be told before a program that is asked to stop begins one.
    pub fn quickly_flushed(&self) -> u64 {
        self.database().quickly_flushed()
    }

    /// Closes the store and waits for it: what a mere drop leaves to a thread that may outlive the caller.
    pub fn close(self) -> Result<(), StoreError> {
        let Self { database, runtime, begun: _ } = self;
        let database = database.into_inner().unwrap_or_else(PoisonError::into_inner);
        let closed = runtime.block_on(database.close());
        runtime.shutdown_background();
        closed
    }
}
