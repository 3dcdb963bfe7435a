//! What both sides agree on: what earlier runs wrote of it, and what this one finds and makes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use ha_sync_core::baseline::Agreed;
use ha_sync_core::name::RunId;
use ha_sync_core::path::RelPath;
use ha_sync_fs::local;
use jiff::Timestamp;

use crate::baseline::{Baseline, BaselineError, Update};
use crate::execute::error_line;
use crate::stop::{Stop, StopReason};
use crate::tally::Tally;

/// Is the agreements on the paths of some directory, by name.
pub(crate) type Known = Vec<(Vec<u8>, Agreed)>;

/// Is the baseline during a run.
pub(crate) struct Agreements<'a> {
    path: PathBuf,
    old: Option<Baseline>,
    /// Absent in a dry run.
    update: Option<Update>,
    has_news: AtomicBool,
    tally: &'a Tally<'a>,
    stop: &'a Stop,
}

impl<'a> Agreements<'a> {
    pub(crate) fn new(
        path: PathBuf,
        old: Option<Baseline>,
        update: Option<Update>,
        tally: &'a Tally<'a>,
        stop: &'a Stop,
    ) -> Self {
        Self { path, old, update, has_news: AtomicBool::new(false), tally, stop }
    }

    /// Returns what was agreed in a directory, sorted by name. What cannot be read counts as never agreed: then
    /// nothing is deleted.
    pub(crate) fn directory(&self, path: &RelPath) -> Known {
        match self.old.as_ref().map(|old| old.directory(path)) {
            None => Known::new(),
            Some(Ok(known)) => known.unwrap_or_default(),
            Some(Err(error)) => {
                self.tally.warn_once("baseline", &format!("counts as absent in part: {}", error_line(&error)));
                Known::new()
            }
        }
    }

    /// Says what is agreed now; nothing, where there is nothing any more.
    pub(crate) fn tell(&self, directory: &RelPath, changes: &[(Vec<u8>, Option<Agreed>)]) {
        let Some(update) = &self.update else { return };
        self.has_news.store(true, Ordering::Relaxed);
        if let Err(error) = update.amend_all(directory, changes) {
            self.stop.stop(StopReason::Log(error_line(&error)));
        }
    }

    /// Says that nothing is agreed below a directory that is made, whatever was when it was there before; what is told
    /// of it later counts.
    pub(crate) fn begin_directory(&self, directory: &RelPath) {
        if let (Some(update), Some(_)) = (&self.update, &self.old) {
            self.has_news.store(true, Ordering::Relaxed);
            update.remove_directory(directory);
        }
    }

    /// Tells whether anything was said.
    pub(crate) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Relaxed)
    }

    /// Writes the next baseline, when there is anything new. The data that it speaks of must be durable.
    pub(crate) fn finish(self, run: &RunId, now: Timestamp) -> Result<(), BaselineError> {
        let Self { path, old, update, has_news, .. } = self;
        let Some(update) = update.filter(|_| has_news.into_inner()) else { return Ok(()) };
        if let Some(directory) = path.parent() {
            local::create_directories(directory)?;
        }
        update.finish(&path, old.as_ref(), run, now).map(drop)
    }
}
