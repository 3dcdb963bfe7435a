//! The block on a terminal. Events only count; a thread draws ten times a second.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ha_sync_core::event::{Event, Phase};
use ha_sync_core::record::OperationStatus;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::lines::{failed, word};
use super::progress::{Counters, Speed, block, share};
use super::{Options, printable};

const HERTZ: u8 = 10;

pub(super) struct Terminal {
    options: Options,
    colour: bool,
    shared: Arc<Shared>,
    drawer: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

struct Shared {
    bar: ProgressBar,
    phase: AtomicU8,
    /// Whether the plan still grows.
    scanning: AtomicBool,
    scanned: AtomicU64,
    planned: AtomicU64,
    planned_bytes: AtomicU64,
    done: AtomicU64,
    copied: AtomicU64,
    failed: AtomicU64,
    /// Whether the drawer wants the next path that begins; all others pass by without a lock.
    wanted: AtomicBool,
    path: Mutex<Option<String>>,
}

const PHASES: [Phase; 5] = [Phase::Scanning, Phase::Executing, Phase::Deleting, Phase::Syncing, Phase::Flushing];

impl Terminal {
    pub(super) fn new(options: Options, colour: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(HERTZ));
        let template = match colour {
            true => "{spinner:.cyan} {bar:20.cyan} {msg}",
            false => "{spinner} {bar:20} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let shared = Arc::new(Shared {
            bar,
            phase: AtomicU8::new(0),
            scanning: AtomicBool::new(true),
            scanned: AtomicU64::new(0),
            planned: AtomicU64::new(0),
            planned_bytes: AtomicU64::new(0),
            done: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            wanted: AtomicBool::new(true),
            path: Mutex::new(None),
        });
        let (stop, stopped) = channel();
        let drawn = Arc::clone(&shared);
        let drawer = std::thread::Builder::new().name("progress".to_owned()).spawn(move || {
            let tick = Duration::from_millis(1000 / u64::from(HERTZ));
            let (mut speed, mut before, mut last) = (Speed::default(), Counters::default(), Instant::now());
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(tick) {
                let (counters, now) = (drawn.counters(), Instant::now());
                speed.add(counters.copied - before.copied, counters.done - before.done, now - last);
                (before, last) = (counters, now);
                drawn.draw(counters, speed);
            }
        });
        // Without the thread there is no block; the run does not depend on it.
        let drawer = Mutex::new(drawer.ok().map(|thread| (stop, thread)));
        Self { options, colour, shared, drawer }
    }

    pub(super) fn event(&self, event: Event<'_>) {
        let shared = &*self.shared;
        match event {
            Event::Phase(phase) => {
                let index = PHASES.iter().position(|other| *other == phase).unwrap_or(0);
                shared.phase.store(index as u8, Relaxed);
                if phase != Phase::Scanning {
                    shared.scanning.store(false, Relaxed);
                }
            }
            Event::Scanned { entries } => count(&shared.scanned, entries),
            Event::Planned { operations, bytes } => {
                count(&shared.planned, operations);
                count(&shared.planned_bytes, bytes);
            }
            Event::Started { filepath } => {
                if shared.wanted.load(Relaxed)
                    && shared.wanted.swap(false, Relaxed)
                    && let Ok(mut path) = shared.path.try_lock()
                {
                    *path = Some(printable(filepath).into_owned());
                }
            }
            Event::Copied { bytes } => count(&shared.copied, bytes),
            Event::Finished(operation) => {
                count(&shared.done, 1);
                if operation.status == OperationStatus::Fail {
                    count(&shared.failed, 1);
                    self.labelled("error", "1;31", &failed(operation));
                }
            }
            Event::Skipped { filepath, reason } => {
                if self.options.verbose {
                    self.above(&format!("skip {} ({reason})", printable(filepath)));
                }
            }
            Event::Warning { message } => self.labelled("warning", "1;33", &printable(message)),
        }
    }

    /// Writes a line above the block.
    pub(super) fn above(&self, line: &str) {
        self.shared.bar.suspend(|| {
            // Nobody is left to be told when stderr is closed.
            let _ = writeln!(io::stderr(), "{line}");
        });
    }

    /// Takes the block away.
    pub(super) fn stop(&self) {
        let drawer = self.drawer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = drawer {
            drop(stop);
            let _ = thread.join();
        }
        self.shared.bar.finish_and_clear();
    }

    fn labelled(&self, label: &str, code: &str, message: &str) {
        match self.colour {
            true => self.above(&format!("\x1b[{code}m{label}:\x1b[0m {message}")),
            false => self.above(&format!("{label}: {message}")),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn counters(&self) -> Counters {
        // One at a time: a picture a few operations askew is good enough to look at.
        Counters {
            scanned: self.scanned.load(Relaxed),
            planned: self.planned.load(Relaxed),
            planned_bytes: self.planned_bytes.load(Relaxed),
            done: self.done.load(Relaxed),
            copied: self.copied.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }

    fn draw(&self, counters: Counters, speed: Speed) {
        let columns = terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| usize::from(width.0));
        // The spinner, the bar and their blanks stand before the first line.
        let width = columns.saturating_sub(24).max(20);
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let phase = PHASES[usize::from(self.phase.load(Relaxed))];
        let text = block(word(phase), self.scanning.load(Relaxed), counters, speed, path.as_deref(), width);
        self.bar.set_position((share(counters) * 1000.0) as u64);
        self.bar.set_message(text);
        self.bar.tick();
        self.wanted.store(true, Relaxed);
    }
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Relaxed);
}
