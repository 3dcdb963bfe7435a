//! One command of a longer list: announced, timed, and repeatable by hand when it fails.

use std::process::Command;
use std::time::Instant;

use crate::say;

/// A command to run in the workspace's root.
pub(crate) struct Step {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
}

impl Step {
    pub(crate) fn new(program: &str, arguments: &[&str]) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), environment: Vec::new() }.args(arguments)
    }

    /// The cargo that runs us, which is the pinned one.
    pub(crate) fn cargo(arguments: &[&str]) -> Self {
        Self::new("cargo", arguments)
    }

    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Returns the line to type.
    pub(crate) fn line(&self) -> String {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let words = std::iter::once(&self.program).chain(&self.arguments).map(|word| {
            let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=./+:".contains(&byte));
            if plain { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) }
        });
        environment.chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Runs it without a word of our own.
    pub(crate) fn run_plain(&self) -> Result<(), String> {
        let status = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().copied())
            .status()
            .map_err(|error| format!("failed to start {}: {error}", self.program))?;
        if status.success() { Ok(()) } else { Err(format!("failed ({status}); to repeat: {}", self.line())) }
    }

    /// Runs it under a header, and says how long it took.
    pub(crate) fn run(&self) -> Result<(), String> {
        timed(&self.line(), || self.run_plain())
    }
}

/// Does something under a header, and says how long it took.
pub(crate) fn timed(header: &str, act: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    say(&format!("==> {header}"));
    let started = Instant::now();
    act()?;
    say(&format!("    done in {:.1} s\n", started.elapsed().as_secs_f64()));
    Ok(())
}
