//! Tells on stderr how a run goes: a block with a bar on a terminal, a line per event elsewhere.

mod lines;
mod progress;
mod terminal;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};

use ha_sync_core::event::{Event, Observer};
use ha_sync_core::record::{Iteration, Outcome};

use crate::environment;
use lines::Lines;
use terminal::Terminal;

/// Is the form of the lines on stderr (`--log-format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line per event, for people.
    Text,
    /// One JSON object per event.
    Json,
}

/// Is how a run is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A block that is drawn again ten times a second, with warnings and failures above it.
    Terminal,
    /// Only warnings and failures, without times: a terminal on which nothing may be drawn.
    Plain,
    /// Text, one line per event.
    Text,
    /// JSON, one object per event.
    Json,
}

impl Mode {
    /// Chooses the mode: what was asked for, else a block when stderr is a terminal that can draw one, else text
    /// lines. `plan_follows` tells that a plan is printed on stdout meanwhile, which a block would tear apart when
    /// both are the same terminal.
    pub fn choose(asked: Option<LogFormat>, plan_follows: bool) -> Self {
        match asked {
            Some(LogFormat::Text) => Self::Text,
            Some(LogFormat::Json) => Self::Json,
            // The plan says it all; where both streams end in one log it would be there twice.
            None if !io::stderr().is_terminal() && plan_follows => Self::Plain,
            None if !io::stderr().is_terminal() => Self::Text,
            None if !environment::terminal_is_capable() => Self::Plain,
            None if plan_follows && io::stdout().is_terminal() => Self::Plain,
            None => Self::Terminal,
        }
    }
}

/// Is what a [`Reporter`] must know.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The mode.
    pub mode: Mode,
    /// Whether skips are told too (on a terminal: above the block).
    pub verbose: bool,
    /// Whether only warnings and failures are told.
    pub quiet: bool,
    /// Whether operations are planned and not done.
    pub dry_run: bool,
}

/// Tells a run on stderr. Events come from many threads; counting ones cost an atomic addition, lines are formatted
/// outside of any lock.
pub struct Reporter {
    kind: Kind,
}

enum Kind {
    Terminal(Terminal),
    Lines(Lines),
}

impl Reporter {
    /// Makes a reporter that writes to stderr. A closed stderr is no failure.
    pub fn new(options: Options) -> Self {
        if options.mode == Mode::Terminal && !options.quiet {
            let colour = environment::colour(true);
            return Self { kind: Kind::Terminal(Terminal::new(options, colour)) };
        }
        let plain = matches!(options.mode, Mode::Terminal | Mode::Plain);
        let mode = if plain { Mode::Plain } else { options.mode };
        Self::with_writer(Options { mode, ..options }, Box::new(io::stderr()))
    }

    /// Makes a reporter of lines that writes elsewhere.
    pub fn with_writer(options: Options, writer: Box<dyn Write + Send>) -> Self {
        Self { kind: Kind::Lines(Lines::new(options, writer)) }
    }

    /// Writes a line that is no event of a run, such as where the log goes; not with `--quiet`.
    pub fn note(&self, message: &str) {
        match &self.kind {
            Kind::Terminal(terminal) => terminal.above(&printable(message)),
            Kind::Lines(lines) => lines.note(message),
        }
    }

    /// Ends the telling: the block goes, buffered lines are written; in JSON the last one is the outcome.
    pub fn finish(&self, iteration: &Iteration, outcome: &Outcome) {
        match &self.kind {
            Kind::Terminal(terminal) => terminal.stop(),
            Kind::Lines(lines) => lines.finish(iteration, outcome),
        }
    }

    /// Clears the block and writes buffered lines, before a failure is printed or something else takes the terminal.
    pub fn stop(&self) {
        match &self.kind {
            Kind::Terminal(terminal) => terminal.stop(),
            Kind::Lines(lines) => lines.flush(),
        }
    }
}

impl Observer for Reporter {
    fn event(&self, event: Event<'_>) {
        match &self.kind {
            Kind::Terminal(terminal) => terminal.event(event),
            Kind::Lines(lines) => lines.event(event),
        }
    }
}

/// Passes every event to two observers, as to a reporter and a plan's printer.
pub struct Both<'a>(pub &'a dyn Observer, pub &'a dyn Observer);

impl Observer for Both<'_> {
    fn event(&self, event: Event<'_>) {
        self.0.event(event);
        self.1.event(event);
    }
}

/// Writes the control characters of a text as `\xNN`, so that a name in it cannot break a line or move the cursor.
/// Names that [`ha_sync_core::path::escape`] wrote become what [`ha_sync_core::path::printable`] writes.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() {
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                let _ = write!(safe, "\\x{byte:02x}");
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Returns the present time as RFC 3339 in UTC with milliseconds.
pub(crate) fn timestamp() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}
