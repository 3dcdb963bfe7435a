//! What a run tells while it goes on, for progress bars and event lines.

use crate::record::Operation;

/// Listens to a run. Called from many threads; must return quickly.
pub trait Observer: Sync {
    /// Takes one event.
    fn event(&self, event: Event<'_>);
}

/// Is a part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Both sides are listed and compared; without deletions operations are executed meanwhile.
    Scanning,
    /// The scan is done, what was planned is executed.
    Executing,
    /// Deletions are executed.
    Deleting,
    /// What was written is made durable.
    Syncing,
    /// The log goes to the database.
    Flushing,
}

/// Is something that happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A part of the run begins.
    Phase(Phase),
    /// Entries were compared.
    Scanned {
        /// How many more.
        entries: u64,
    },
    /// Operations were planned.
    Planned {
        /// How many more.
        operations: u64,
        /// How many more data bytes they will write.
        bytes: u64,
    },
    /// An operation that copies data begins.
    Started {
        /// Escaped relative path.
        filepath: &'a str,
    },
    /// Data was written.
    Copied {
        /// How many more bytes.
        bytes: u64,
    },
    /// An operation was done or failed (in a dry run: is planned).
    Finished(&'a Operation),
    /// An entry is left as it is for a reason; entries that are equal give no event.
    Skipped {
        /// Escaped relative path.
        filepath: &'a str,
        /// One of the reasons of sync.md.
        reason: &'a str,
    },
    /// Something that a person should know, said once per run and kind.
    Warning {
        /// One sentence, with the path that it is about.
        message: &'a str,
    },
}

/// Hears nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event<'_>) {}
}
