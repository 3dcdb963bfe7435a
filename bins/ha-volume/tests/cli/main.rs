//! The real binary on replicas that the real engine made: what it prints, what it makes, how it exits.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

mod backups;
mod copies;
mod damage;
mod damaged_files;
mod docs;
mod dry;
mod engine;
mod exchange;
mod files;
mod golden;
mod kill;
mod merging;
mod peer;
mod readonly;
mod s3;
mod scanning;
mod ssh;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ha_testkit::command::{Environment, Outcome, Run};
use ha_testkit::longhorn;
use ha_testkit::loopmount::Skipped;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const BINARY: &str = env!("CARGO_BIN_EXE_ha-volume");

/// Returns stdout of a command that must succeed silently.
fn printed(words: &[&str]) -> String {
    let output = Command::new(BINARY).args(words).env_clear().stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Is a directory with an extracted archive.
struct Place {
    environment: Environment,
}

impl Place {
    fn empty() -> Self {
        Self { environment: Environment::new() }
    }

    /// Makes it in a directory, for a file system of the test's own.
    fn in_directory(parent: &Path) -> Self {
        Self { environment: Environment::in_directory(parent) }
    }

    fn of(archive: &str) -> Result<Self, Skipped> {
        let place = Self::empty();
        longhorn::extract(archive, place.environment.path())?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.environment.join(name)
    }

    /// Gives a path a new name.
    fn rename(&self, from: &str, to: &str) -> PathBuf {
        let to = self.path(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(self.path(from), &to).unwrap();
        to
    }

    /// Lets the file system allocate what was just written: until then it counts fewer blocks.
    fn settle(&self, glob: &str) {
        self.tool("sh", &["-c", &format!("sync {glob}")]);
    }

    fn command(&self, words: &[&str]) -> Run {
        self.environment.command(BINARY).args(words).current_dir(self.environment.path())
    }

    fn run(&self, words: &[&str]) -> Outcome {
        self.command(words).run()
    }

    /// Runs with `-o json`, which must exit with this code, and returns the answer.
    fn json(&self, words: &[&str], code: i32) -> Value {
        answer(&self.command(words).args(["-o", "json"]).run(), code)
    }

    /// Runs a tool of the system in the place.
    fn tool(&self, program: &str, words: &[&str]) {
        let status = Command::new(program).args(words).current_dir(self.environment.path()).status().unwrap();
        assert!(status.success(), "{program} {words:?}: {status}");
    }
}

fn manifest() -> Value {
    serde_json::from_slice(&std::fs::read(longhorn::fixtures().join("MANIFEST.json")).unwrap()).unwrap()
}

fn sha256(path: &Path) -> String {
    let mut hash = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path).unwrap(), &mut Digest(&mut hash)).unwrap();
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Digest<'a>(&'a mut Sha256);

impl std::io::Write for Digest<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns the codes of the findings of an answer.
fn codes(answer: &Value) -> Vec<String> {
    let findings = answer["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

/// Returns the JSON that was printed; it must have ended with this code.
fn answer(outcome: &Outcome, code: i32) -> Value {
    outcome.assert_code(code);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
}

/// Asserts that all of these are told on stderr.
#[track_caller]
fn says(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(outcome.stderr.contains(word), "no {word:?} in: {}", outcome.stderr);
    }
}
