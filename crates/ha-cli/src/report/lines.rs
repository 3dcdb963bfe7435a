//! A line per event, as text or as JSON objects with stable names.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ha_sync_core::event::{Event, Phase};
use ha_sync_core::record::{Iteration, Operation, OperationKind, OperationStatus, Outcome, Way};
use serde::Serialize;

use super::{Mode, Options, printable, timestamp};

/// Is one object of the JSON log. Fields keep their names and meaning; new ones may come.
#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    time: String,
    level: &'a str,
    event: &'a str,
    #[serde(flatten)]
    fields: T,
}

#[derive(Serialize)]
struct OperationFields<'a> {
    operation: OperationKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<Way>,
    path: &'a str,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    status: OperationStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
    dry_run: bool,
}

#[derive(Serialize)]
struct SkipFields<'a> {
    path: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct MessageFields<'a> {
    message: &'a str,
}

#[derive(Serialize)]
struct PhaseFields<'a> {
    phase: &'a str,
}

#[derive(Serialize)]
struct FinishedFields<'a> {
    #[serde(flatten)]
    iteration: &'a Iteration,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// Writes lines through a buffer that is emptied ten times a second, and at once by warnings and failures: a line
/// costs no system call of its own. The opslog, not this, is what survives a crash.
pub(super) struct Lines {
    options: Options,
    sink: Arc<Mutex<Sink>>,
    ticker: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

struct Sink {
    buffer: Vec<u8>,
    writer: Box<dyn Write + Send>,
}

impl Sink {
    const FULL: usize = 64 * 1024;

    fn flush(&mut self) {
        // Nobody is left to be told when stderr is closed.
        let _ = self.writer.write_all(&self.buffer);
        let _ = self.writer.flush();
        self.buffer.clear();
    }
}

const TICK: Duration = Duration::from_millis(100);

impl Lines {
    pub(super) fn new(options: Options, writer: Box<dyn Write + Send>) -> Self {
        let sink = Arc::new(Mutex::new(Sink { buffer: Vec::new(), writer }));
        let (stop, stopped) = channel();
        let ticking = Arc::clone(&sink);
        let ticker = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                let mut sink = ticking.lock().unwrap_or_else(PoisonError::into_inner);
                if !sink.buffer.is_empty() {
                    sink.flush();
                }
            }
        });
        // Without the thread lines come late, in blocks and at the end; nothing is lost.
        let ticker = Mutex::new(ticker.ok().map(|thread| (stop, thread)));
        Self { options, sink, ticker }
    }

    pub(super) fn event(&self, event: Event<'_>) {
        let Options { mode, verbose, quiet, .. } = self.options;
        let told = !quiet && mode != Mode::Plain;
        match event {
            Event::Scanned { .. } | Event::Planned { .. } | Event::Started { .. } | Event::Copied { .. } => {}
            Event::Finished(operation) if operation.status == OperationStatus::Fail => self.failure(operation),
            Event::Finished(operation) if told => self.operation(operation),
            Event::Finished(_) => {}
            Event::Phase(phase) if told => self.phase(phase),
            Event::Phase(_) => {}
            Event::Skipped { filepath, reason } if verbose && !quiet => self.skip(filepath, reason),
            Event::Skipped { .. } => {}
            Event::Warning { message } => self.warning(message),
        }
    }

    pub(super) fn note(&self, message: &str) {
        if !self.options.quiet {
            match self.options.mode {
                Mode::Json => self.json("info", "note", MessageFields { message }),
                _ => self.text("info", &printable(message)),
            }
        }
    }

    pub(super) fn finish(&self, iteration: &Iteration, outcome: &Outcome) {
        if self.options.mode == Mode::Json {
            self.json("info", "finished", FinishedFields { iteration, outcome });
        }
        self.flush();
    }

    pub(super) fn flush(&self) {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }

    fn failure(&self, operation: &Operation) {
        if self.options.mode == Mode::Json {
            self.json("error", "operation", self.fields(operation));
        } else {
            self.text("error", &failed(operation));
        }
        self.flush();
    }

    fn operation(&self, operation: &Operation) {
        if self.options.mode == Mode::Json {
            self.json("info", "operation", self.fields(operation));
        } else {
            self.text("info", &done(operation));
        }
    }

    fn phase(&self, phase: Phase) {
        match self.options.mode {
            Mode::Json => self.json("info", "phase", PhaseFields { phase: word(phase) }),
            _ => self.text("info", word(phase)),
        }
    }

    fn skip(&self, filepath: &str, reason: &str) {
        match self.options.mode {
            Mode::Json => self.json("debug", "skip", SkipFields { path: filepath, reason }),
            _ => self.text("debug", &format!("skip {} ({reason})", printable(filepath))),
        }
    }

    fn warning(&self, message: &str) {
        match self.options.mode {
            Mode::Json => self.json("warning", "warning", MessageFields { message }),
            _ => self.text("warning", &printable(message)),
        }
        self.flush();
    }

    fn fields<'a>(&self, operation: &'a Operation) -> OperationFields<'a> {
        OperationFields {
            operation: operation.operation,
            direction: operation.direction,
            path: &operation.filepath,
            seq: operation.seq,
            size_before: operation.size_before,
            size_after: operation.size_after,
            reason: operation.reason.as_deref(),
            status: operation.status,
            error_message: operation.error_message.as_deref(),
            dry_run: self.options.dry_run,
        }
    }

    fn text(&self, level: &str, message: &str) {
        let line = match (self.options.mode, level) {
            (Mode::Plain, "info" | "debug") => format!("{message}\n"),
            (Mode::Plain, _) => format!("{level}: {message}\n"),
            _ => format!("{} {level} {message}\n", timestamp()),
        };
        self.push(line.as_bytes());
    }

    fn json(&self, level: &str, event: &str, fields: impl Serialize) {
        // Only a map with keys that are no strings fails, and there is none.
        if let Ok(mut line) = serde_json::to_vec(&Line { time: timestamp(), level, event, fields }) {
            line.push(b'\n');
            self.push(&line);
        }
    }

    fn push(&self, line: &[u8]) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.buffer.extend_from_slice(line);
        if sink.buffer.len() >= Sink::FULL {
            sink.flush();
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let ticker = self.ticker.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = ticker {
            drop(stop);
            let _ = thread.join();
        }
        self.flush();
    }
}

/// Returns `create a/b (12 bytes, reason)`.
pub(super) fn done(operation: &Operation) -> String {
    let way = operation.direction.map(|way| format!("{} ", way.as_str())).unwrap_or_default();
    let mut text = format!("{way}{} {}", operation.operation.as_str(), printable(&operation.filepath));
    let size = match operation.operation {
        OperationKind::Delete => operation.size_before,
        OperationKind::Create | OperationKind::Update => operation.size_after,
    };
    let size = size.map(|bytes| format!("{bytes} bytes"));
    let notes: Vec<&str> = [size.as_deref(), operation.reason.as_deref()].into_iter().flatten().collect();
    if !notes.is_empty() {
        let _ = write!(text, " ({})", notes.join(", "));
    }
    text
}

/// Returns `failed to create: a/b: why`.
pub(super) fn failed(operation: &Operation) -> String {
    let cause = operation.error_message.as_deref().or(operation.reason.as_deref()).unwrap_or("unknown cause");
    let (kind, path) = (operation.operation.as_str(), printable(&operation.filepath));
    format!("failed to {kind}: {path}: {}", printable(cause))
}

/// Returns the word for a phase, also the one in the JSON log.
pub(super) fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Scanning => "scanning",
        Phase::Executing => "executing",
        Phase::Deleting => "deleting",
        Phase::Syncing => "syncing",
        Phase::Flushing => "flushing",
    }
}
