//! Tells on stderr how far work on bytes is: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::environment;
use crate::report::printable;
use crate::summary::human_bytes;

/// Where there is no bar, a line is written this often.
const EVERY: Duration = Duration::from_secs(10);

/// Follows one piece of work. Counting costs an atomic addition.
pub struct Meter {
    what: String,
    bar: Option<ProgressBar>,
    expected: AtomicU64,
    done: AtomicU64,
    lines: Mutex<Option<Instant>>,
}

impl Meter {
    /// Begins; `what` is a word such as `merging`. A quiet one says nothing.
    pub fn new(what: &str, quiet: bool) -> Self {
        let terminal = io::stderr().is_terminal() && environment::terminal_is_capable();
        let bar = (!quiet && terminal).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let template = "{prefix} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(printable(what).into_owned());
            bar
        });
        let lines = Mutex::new((!quiet && bar.is_none()).then(Instant::now));
        Self { what: what.to_owned(), bar, expected: AtomicU64::new(0), done: AtomicU64::new(0), lines }
    }

    /// Adds to what lies ahead.
    pub fn expect(&self, bytes: u64) {
        let expected = self.expected.fetch_add(bytes, Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_length(expected);
        }
    }

    /// Adds to what is done.
    pub fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        // Whoever cannot have the lock leaves the line to its holder.
        if let Ok(mut last) = self.lines.try_lock()
            && let Some(last) = last.as_mut().filter(|last| last.elapsed() >= EVERY)
        {
            *last = Instant::now();
            let expected = self.expected.load(Relaxed);
            // A closed stderr is no failure.
            let _ = writeln!(
                io::stderr(),
                "{}: {} of {}",
                printable(&self.what),
                human_bytes(done),
                human_bytes(expected.max(done))
            );
        }
    }

    /// Clears the bar, before something else is printed.
    pub fn stop(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
