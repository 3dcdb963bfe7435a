//! Two roots, a log directory, and the real binary between them.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::path::{Path, PathBuf};
use std::process::Command;

use ha_testkit::command::{Environment, Outcome, Run};
use ha_testkit::tree::{Compare, Item, Snapshot, make};
use serde_json::Value;

/// Two roots and what belongs to them; gone on drop.
pub(crate) struct Place {
    pub(crate) environment: Environment,
    pub(crate) source: PathBuf,
    pub(crate) destination: PathBuf,
}

/// One run's iteration, by column.
pub(crate) struct Row(Value);

impl Row {
    #[track_caller]
    pub(crate) fn text(&self, column: &str) -> &str {
        self.0[column].as_str().unwrap_or_else(|| panic!("no text in {column}: {}", self.0))
    }

    #[track_caller]
    pub(crate) fn number(&self, column: &str) -> i64 {
        self.0[column].as_i64().unwrap_or_else(|| panic!("no number in {column}: {}", self.0))
    }

    pub(crate) fn is_null(&self, column: &str) -> bool {
        self.0[column].is_null()
    }
}

impl Place {
    /// Makes both roots with these entries.
    pub(crate) fn new(source: &[Item], destination: &[Item]) -> Self {
        // A snapshot of a tree 1,000 deep holds a handle for each level.
        ha_testkit::limits::raise_open_files();
        let environment = Environment::new();
        let (one, other) = (environment.join("source"), environment.join("destination"));
        make(&one, source);
        make(&other, destination);
        Self { environment, source: one, destination: other }
    }

    /// Uses roots that lie elsewhere, on a mount for example.
    pub(crate) fn at(source: &Path, destination: &Path) -> Self {
        Self { environment: Environment::new(), source: source.to_owned(), destination: destination.to_owned() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.environment.join(name)
    }

    /// A run that is not started yet, without roots and words.
    pub(crate) fn binary(&self) -> Run {
        self.environment.command(env!("CARGO_BIN_EXE_ha-sync"))
    }

    /// A run from one directory to another, not started yet.
    pub(crate) fn between(&self, source: &Path, destination: &Path, words: &[&str]) -> Run {
        self.binary()
            .arg("--src")
            .arg(source)
            .arg("--dest")
            .arg(destination)
            .args(["--pair", &self.environment.pair(), "--log-dir"])
            .arg(self.environment.log_dir())
            .args(words)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Run {
        self.between(&self.source, &self.destination, words)
    }

    /// Runs from the source to the destination.
    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        self.command(words).run()
    }

    /// Runs in the other direction.
    pub(crate) fn back(&self, words: &[&str]) -> Outcome {
        self.between(&self.destination, &self.source, &["--direction", "back"]).args(words).run()
    }

    /// Runs and expects success.
    #[track_caller]
    pub(crate) fn sync(&self, words: &[&str]) -> Outcome {
        let outcome = self.run(words);
        outcome.assert_success();
        outcome
    }

    /// Runs, expects success and equal sides.
    #[track_caller]
    pub(crate) fn mirror(&self, words: &[&str]) {
        self.sync(words);
        self.assert_sides_equal();
    }

    /// Runs a subcommand.
    pub(crate) fn sub(&self, words: &[&str]) -> Outcome {
        self.binary().args(words).run()
    }

    /// Runs `restore` on the destination.
    pub(crate) fn restore(&self, words: &[&str]) -> Outcome {
        self.binary().args(["restore", "--root"]).arg(&self.destination).args(words).run()
    }

    #[track_caller]
    pub(crate) fn assert_sides_equal(&self) {
        let sides = Compare::sides();
        Snapshot::with(&self.source, &sides).assert_same(&Snapshot::with(&self.destination, &sides));
    }

    /// Records both roots, so that the least change is seen.
    pub(crate) fn both(&self) -> (Snapshot, Snapshot) {
        (Snapshot::of(&self.source), Snapshot::of(&self.destination))
    }

    #[track_caller]
    pub(crate) fn assert_untouched(&self, before: &(Snapshot, Snapshot)) {
        before.0.assert_same(&Snapshot::of(&self.source));
        before.1.assert_same(&Snapshot::of(&self.destination));
    }

    /// Asks the audit store from outside.
    #[track_caller]
    pub(crate) fn query(&self, sql: &str) -> Vec<Row> {
        query(&self.environment.log_dir().join("ha-sync.db"), sql)
    }

    /// The last run.
    #[track_caller]
    pub(crate) fn last(&self) -> Row {
        self.query("SELECT * FROM sync_iterations ORDER BY id DESC LIMIT 1").pop().expect("a run in the store")
    }

    /// The operations of the last run by path.
    #[track_caller]
    pub(crate) fn operations(&self) -> Vec<Row> {
        self.query(
            "SELECT * FROM sync_operations WHERE iteration_id = (SELECT max(id) FROM sync_iterations) \
             ORDER BY filepath",
        )
    }

    /// The operation of the last run on a path.
    #[track_caller]
    pub(crate) fn operation(&self, path: &str) -> Row {
        let found = self.operations().into_iter().find(|row| row.text("filepath") == path);
        found.unwrap_or_else(|| panic!("no operation on {path}"))
    }

    /// Why entries were skipped in the last run, and how many.
    #[track_caller]
    pub(crate) fn skipped(&self, reason: &str) -> i64 {
        let row = self.last();
        if row.is_null("skip_reasons") {
            return 0;
        }
        let reasons: Value = serde_json::from_str(row.text("skip_reasons")).unwrap();
        reasons[reason].as_i64().unwrap_or(0)
    }

    /// The operation logs that wait.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        files_below(&self.environment.log_dir())
            .into_iter()
            .filter(|path| path.to_string_lossy().ends_with(".jsonl"))
            .collect()
    }

    /// The trash of the only run that has some at the destination.
    #[track_caller]
    pub(crate) fn trash(&self) -> PathBuf {
        let mut runs = trash_runs(&self.destination);
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs.remove(0)
    }

    #[track_caller]
    pub(crate) fn assert_no_temporary_files(&self) {
        for root in [&self.source, &self.destination] {
            let left = Snapshot::of(root).temporary_files();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

/// The folders of runs in the trash of a root, oldest first.
pub(crate) fn trash_runs(root: &Path) -> Vec<PathBuf> {
    let trash = root.join(".ha-sync/trash");
    if !trash.exists() {
        return Vec::new();
    }
    let listing = std::fs::read_dir(trash).unwrap();
    let mut found: Vec<_> = listing.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

#[track_caller]
pub(crate) fn query(database: &Path, sql: &str) -> Vec<Row> {
    let output = Command::new("sqlite3").args(["-readonly", "-json"]).arg(database).arg(sql).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.is_empty() {
        return Vec::new();
    }
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    rows.as_array().unwrap().iter().cloned().map(Row).collect()
}

#[track_caller]
pub(crate) fn assert_says(outcome: &Outcome, words: &str) {
    assert!(outcome.stderr.contains(words), "not said: {words}\n--- stderr\n{}", outcome.stderr);
}

pub(crate) fn sh(command: &str, directory: &Path) {
    let output = Command::new("sh").args(["-euc", command]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
