//! What ends a command early: a kind, which fixes the exit code, the chain of causes, and hints.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::{Map, Value, json};

use crate::environment;
use crate::exit::ExitCode;
use crate::report::{LogFormat, printable, timestamp};

/// Is the kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The command line or the configuration is wrong.
    Usage,
    /// The command could not do its work.
    Failed,
    /// Some of the work was done.
    Partial,
    /// Another holds the lock.
    LockHeld,
    /// A safety rule stopped the run before it changed anything.
    Halted,
    /// A signal ended the run.
    Interrupted(Signal),
}

/// Is a signal that ends a run in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// SIGINT, from a keyboard.
    Interrupt,
    /// SIGTERM, from a system.
    Terminate,
}

impl From<FailureKind> for ExitCode {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Usage => Self::Usage,
            FailureKind::Failed => Self::Failed,
            FailureKind::Partial => Self::Partial,
            FailureKind::LockHeld => Self::LockHeld,
            FailureKind::Halted => Self::Halted,
            FailureKind::Interrupted(Signal::Interrupt) => Self::Interrupted,
            FailureKind::Interrupted(Signal::Terminate) => Self::Terminated,
        }
    }
}

/// Is a failure as a person gets to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    /// The sentence, then its causes; never empty.
    chain: Vec<String>,
    hints: Vec<String>,
    /// What a program may want to know of it, by name.
    data: Vec<(&'static str, Value)>,
}

impl Failure {
    /// Makes a failure of one sentence: lower case, no full stop, the value after a colon.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, chain: vec![message.into()], hints: Vec::new(), data: Vec::new() }
    }

    /// Makes a failure from an error and its sources. A source whose text ends the text before it is said once.
    pub fn from_error(kind: FailureKind, error: &(dyn Error + 'static)) -> Self {
        let mut chain = vec![error.to_string()];
        let mut next = error.source();
        while let Some(source) = next {
            let text = source.to_string();
            if let Some(last) = chain.last_mut()
                && let Some(head) = last.strip_suffix(&text)
            {
                *last = head.trim_end_matches([' ', ':']).to_owned();
                if last.is_empty() {
                    chain.pop();
                }
            }
            // The standard library begins its texts with a capital, this project does not.
            chain.push(if source.is::<io::Error>() { lower_first(&text) } else { text });
            next = source.source();
        }
        if error.is::<io::Error>() {
            chain[0] = lower_first(&chain[0]);
        }
        Self { kind, chain, hints: Vec::new(), data: Vec::new() }
    }

    /// Puts a sentence before the others, which become its causes.
    pub fn context(mut self, message: impl Into<String>) -> Self {
        self.chain.insert(0, message.into());
        self
    }

    /// Adds a hint: a command to type, or what to look at.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds what a program may want to know.
    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.data.push((name, value));
        self
    }

    /// Returns the failure as an answer for programs: `error`, `causes`, `hints`, `exit_code` and what was added.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("error".to_owned(), json!(self.chain[0]));
        object.insert("causes".to_owned(), json!(self.chain[1..]));
        object.insert("hints".to_owned(), json!(self.hints));
        object.insert("exit_code".to_owned(), json!(self.exit_code().code()));
        object.extend(self.data.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        object
    }

    /// Returns the kind.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Returns the exit code.
    pub fn exit_code(&self) -> ExitCode {
        self.kind.into()
    }

    /// Returns the sentence and its causes in one line, for `error_message` of a record.
    pub fn one_line(&self) -> String {
        self.chain.join(": ")
    }

    /// Returns the lines for stderr, each ended.
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        let mut line = |label: &str, code: &str, message: &str| {
            let message = printable(message.trim_end_matches('.'));
            let _ = match colour {
                true => writeln!(text, "\x1b[{code}m{label}:\x1b[0m {message}"),
                false => writeln!(text, "{label}: {message}"),
            };
        };
        for (index, message) in self.chain.iter().enumerate() {
            match index {
                0 => line("error", "1;31", message),
                _ => line("caused by", "31", message),
            }
        }
        for hint in &self.hints {
            line("hint", "36", hint);
        }
        text
    }

    /// Writes the failure to stderr: lines for people, or one JSON object where the log is JSON.
    pub fn print(&self, format: LogFormat) {
        let mut stderr = io::stderr().lock();
        let text = match format {
            LogFormat::Text => self.render(environment::colour(stderr.is_terminal())),
            LogFormat::Json => {
                let object = json!({
                    "time": timestamp(),
                    "level": "error",
                    "event": "failure",
                    "message": self.chain[0],
                    "causes": self.chain[1..],
                    "hints": self.hints,
                    "exit_code": self.exit_code().code(),
                });
                format!("{object}\n")
            }
        };
        // Nobody is left to be told when stderr is closed.
        let _ = stderr.write_all(text.as_bytes());
    }
}

/// Makes a [`Failure`] of the error of a result.
pub trait OrFailure<T> {
    /// Maps the error with its causes to a failure of this kind.
    fn or_failure(self, kind: FailureKind) -> Result<T, Failure>;
}

impl<T, E: Error + 'static> OrFailure<T> for Result<T, E> {
    fn or_failure(self, kind: FailureKind) -> Result<T, Failure> {
        self.map_err(|error| Failure::from_error(kind, &error))
    }
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    match (characters.next(), characters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(characters).collect(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to open: /mnt/a")]
    struct Quiet(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("failed to scan: {0}")]
    struct Loud(#[source] Quiet);

    fn denied() -> Quiet {
        Quiet(io::Error::from_raw_os_error(13))
    }

    #[test]
    fn causes_are_said_once() {
        let failure = Failure::from_error(FailureKind::Failed, &Loud(denied())).hint("ls -ld /mnt/a");
        insta::assert_snapshot!(failure.render(false), @r"
        error: failed to scan
        caused by: failed to open: /mnt/a
        caused by: permission denied (os error 13)
        hint: ls -ld /mnt/a
        ");
        assert_eq!(failure.exit_code(), ExitCode::Failed);
        assert_eq!(failure.one_line(), "failed to scan: failed to open: /mnt/a: permission denied (os error 13)");
    }

    #[test]
    fn colour_and_control_characters() {
        let failure = Failure::new(FailureKind::Halted, "root is empty: /mnt/a\nb\x1b[2J.").context("halted");
        assert_eq!(
            failure.render(true),
            "\x1b[1;31merror:\x1b[0m halted\n\x1b[31mcaused by:\x1b[0m root is empty: /mnt/a\\x0ab\\x1b[2J\n"
        );
    }

    #[test]
    fn kinds_have_the_codes_of_the_reference() {
        let codes = [
            (FailureKind::Usage, 2),
            (FailureKind::Failed, 1),
            (FailureKind::Partial, 3),
            (FailureKind::LockHeld, 4),
            (FailureKind::Halted, 5),
            (FailureKind::Interrupted(Signal::Interrupt), 130),
            (FailureKind::Interrupted(Signal::Terminate), 143),
        ];
        for (kind, code) in codes {
            assert_eq!(ExitCode::from(kind).code(), code);
        }
        assert!(ExitCode::ALL.is_sorted());
    }
}
