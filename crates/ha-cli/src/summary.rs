//! What a run prints on stdout: in text a plan of dry runs as it comes and a table at the end, in JSON one document
//! `{"iteration": …, "plan": […], "already_current_as_of": …, "summary": …}`, written as it comes too. The plan of a real
//! run has its operations with how they went; only a dry run is current or not.

use std::io::{self, BufWriter, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ha_sync_core::event::{Event, Observer};
use ha_sync_core::record::{Iteration, Operation, OperationStatus, Outcome};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::report::printable;
use crate::table::{Align, Table};

/// Is the form of what goes to stdout (`-o`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Lines and tables, for people.
    Text,
    /// One JSON document.
    Json,
}

/// Is where a run left its traces, each written for people without passwords; absent what there is none of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Places {
    /// The log that is still there; absent when it was flushed and removed.
    pub log: Option<String>,
    /// The database that holds the run.
    pub database: Option<String>,
    /// The folder of what was replaced and deleted.
    pub trash: Option<String>,
}

/// Says how a run is summed up.
#[derive(Debug, Clone, Copy)]
pub struct SummaryOptions {
    /// The form.
    pub format: OutputFormat,
    /// Whether the text lists skip reasons; JSON always does.
    pub verbose: bool,
    /// Whether text mode prints nothing.
    pub quiet: bool,
}

/// Prints the plan, operation by operation, and the summary of a run. The plan is never held; a
/// million operations take a buffer's memory.
///
/// A closed stdout ends the printing, not the run.
pub struct PlanPrinter<W: Write + Send> {
    options: SummaryOptions,
    dry_run: bool,
    state: Mutex<State<W>>,
}

struct State<W: Write + Send> {
    out: BufWriter<W>,
    /// The first error; nothing is written after it.
    error: Option<io::Error>,
    operations: u64,
}

impl PlanPrinter<io::Stdout> {
    /// Makes a printer to stdout and prints the beginning.
    pub fn stdout(options: SummaryOptions, iteration: &Iteration) -> Self {
        Self::new(io::stdout(), options, iteration)
    }
}

impl<W: Write + Send> PlanPrinter<W> {
    /// Makes a printer and prints the beginning of the document.
    pub fn new(out: W, options: SummaryOptions, iteration: &Iteration) -> Self {
        let out = BufWriter::with_capacity(64 * 1024, out);
        let printer =
            Self { options, dry_run: iteration.dry_run, state: Mutex::new(State { out, error: None, operations: 0 }) };
        if options.format == OutputFormat::Json {
            printer.write(|state| write!(state.out, "{{\"iteration\":{},\"plan\":[", to_json(iteration)?));
        }
        printer
    }

    /// Prints an operation of a plan; in text that of a dry run only. May be called from many threads.
    pub fn operation(&self, operation: &Operation) {
        if self.options.format == OutputFormat::Text && (self.options.quiet || !self.dry_run) {
            return;
        }
        // Formatted before the lock is taken.
        let text = match self.options.format {
            OutputFormat::Text => Ok(planned(operation)),
            OutputFormat::Json => to_json(operation),
        };
        self.write(|state| {
            let between = match (self.options.format, state.operations) {
                (OutputFormat::Text, _) => "",
                (OutputFormat::Json, 0) => "\n",
                (OutputFormat::Json, _) => ",\n",
            };
            state.operations += 1;
            state.out.write_all(between.as_bytes())?;
            state.out.write_all(text?.as_bytes())
        });
    }

    /// Prints the summary and ends the document. `already_current` is the start of the dry run that had the same
    /// operations (sync.md §8).
    ///
    /// Returns the first error of stdout, except that a closed stdout is none.
    pub fn finish(
        self,
        iteration: &Iteration,
        outcome: &Outcome,
        places: &Places,
        already_current: Option<Timestamp>,
    ) -> io::Result<()> {
        self.write(|state| match self.options.format {
            OutputFormat::Json => {
                write!(state.out, "]")?;
                if self.dry_run {
                    let current = already_current.map(|time| time.to_string());
                    write!(state.out, ",\"already_current_as_of\":{}", to_json(&current)?)?;
                }
                let (seconds, rate) = (duration(iteration, outcome).as_secs_f64(), rate(iteration, outcome));
                let summary = Document { outcome, duration_seconds: seconds, bytes_per_second: rate, places };
                writeln!(state.out, ",\"summary\":{}}}", to_json(&summary)?)
            }
            OutputFormat::Text if self.options.quiet => Ok(()),
            OutputFormat::Text => {
                if let Some(time) = already_current {
                    writeln!(state.out, "Dry-run already current as of {time}. Nothing has changed.")?;
                }
                table(iteration, outcome, places, self.options.verbose).write(&mut state.out)
            }
        });
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if state.error.is_none() {
            state.error = state.out.flush().err();
        }
        // What could not be written is dropped here, else the buffer's own drop would try once more.
        drop(state.out.into_parts());
        ignore_closed(state.error.map_or(Ok(()), Err))
    }

    fn write(&self, step: impl FnOnce(&mut State<W>) -> io::Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.error.is_none()
            && let Err(error) = step(&mut state)
        {
            state.error = Some(error);
        }
    }
}

impl<W: Write + Send> Observer for PlanPrinter<W> {
    fn event(&self, event: Event<'_>) {
        if let Event::Finished(operation) = event {
            self.operation(operation);
        }
    }
}

/// Prints text or one JSON value on stdout: what the other subcommands answer. A closed stdout is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    ignore_closed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Makes nothing of the error that a reader who has seen enough causes.
pub fn ignore_closed(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    duration_seconds: f64,
    bytes_per_second: Option<u64>,
    places: &'a Places,
}

fn to_json(value: &impl Serialize) -> io::Result<String> {
    serde_json::to_string(value).map_err(io::Error::other)
}

/// Returns the line of a plan: the operation, the path, and in brackets why.
fn planned(operation: &Operation) -> String {
    let kind = operation.operation.as_str();
    // In a two-way run, first which way it goes.
    let way = operation.direction.map(|way| format!("{}  ", way.as_str())).unwrap_or_default();
    let mut line = format!("{way}{kind}  {}", printable(&operation.filepath));
    let notes = match operation.status {
        OperationStatus::Success => operation.reason.as_deref(),
        OperationStatus::Fail => operation.error_message.as_deref().or(operation.reason.as_deref()),
    };
    match (operation.status, notes) {
        (OperationStatus::Success, None) => {}
        (OperationStatus::Success, Some(reason)) => line.push_str(&format!("  ({})", printable(reason))),
        (OperationStatus::Fail, cause) => {
            line.push_str(&format!("  (would fail: {})", printable(cause.unwrap_or("unknown cause"))));
        }
    }
    line.push('\n');
    line
}

fn duration(iteration: &Iteration, outcome: &Outcome) -> Duration {
    Duration::try_from(outcome.ended_at.duration_since(iteration.started_at)).unwrap_or_default()
}

fn rate(iteration: &Iteration, outcome: &Outcome) -> Option<u64> {
    let seconds = duration(iteration, outcome).as_secs_f64();
    let bytes = outcome.counts.total_bytes_transferred;
    (seconds > 0.0 && bytes > 0).then(|| (bytes as f64 / seconds) as u64)
}

fn table(iteration: &Iteration, outcome: &Outcome, places: &Places, verbose: bool) -> Table<2> {
    let counts = &outcome.counts;
    let mut table = Table::new([Align::Left, Align::Left]);
    table.row(["pair", &format!("{} ({})", iteration.sync_pair, iteration.direction)]);
    table.row(["run", iteration.run_id.as_str()]);
    let dry = if iteration.dry_run { " (dry run, nothing was changed)" } else { "" };
    table.row(["status", &format!("{}{dry}", outcome.status.as_str())]);
    let labels = match iteration.dry_run {
        true => ["to create", "to update", "to delete"],
        false => ["created", "updated", "deleted"],
    };
    let numbers = [counts.files_created, counts.files_updated, counts.files_deleted];
    let rest = [("skipped", counts.files_skipped), ("failed", counts.files_failed)];
    let numbers: Vec<_> = labels.into_iter().zip(numbers).chain(rest).collect();
    let width = numbers.iter().map(|(_, number)| grouped(*number).len()).max().unwrap_or(0);
    for (label, number) in numbers {
        table.row([label, &format!("{:>width$}", grouped(number))]);
        if label == "skipped" && verbose {
            for (reason, number) in &counts.skip_reasons {
                table.row([&format!("  {reason}"), &format!("{:>width$}", grouped(*number))]);
            }
        }
    }
    if !iteration.dry_run {
        let bytes = counts.total_bytes_transferred;
        table.row(["bytes", &format!("{} ({})", human_bytes(bytes), grouped(bytes))]);
    }
    table.row(["duration", &human_duration(duration(iteration, outcome))]);
    if let Some(rate) = rate(iteration, outcome) {
        table.row(["rate", &format!("{}/s", human_bytes(rate))]);
    }
    for (label, place) in [("log", &places.log), ("database", &places.database), ("trash", &places.trash)] {
        if let Some(place) = place {
            table.row([label, place]);
        }
    }
    if let Some(message) = &outcome.error_message {
        table.row(["error", message]);
    }
    table
}

/// Writes `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes `512 B`, `1.5 KiB`, `3.0 TiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024.0 is written in the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Writes `0.25s`, `9.3s`, `21s`, `2m 03s`, `1h 02m`, `3d 04h`.
pub fn human_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        _ if time < Duration::from_secs(1) && !time.is_zero() => format!("{:.2}s", time.as_secs_f64()),
        0..10 if time.subsec_millis() > 0 => format!("{:.1}s", time.as_secs_f64()),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Makes the JSON text of an answer, ended with a newline.
pub fn json_line(value: &impl Serialize) -> String {
    format!("{}\n", json!(value))
}
