//! `cargo xtask demo`: the main job from end to end, on two folders that it makes from this repository's own files.
//!
//! Each command is printed before it runs, and can be typed again: nothing is done behind the reader's back.

use std::path::{Path, PathBuf};

use crate::say;
use crate::step::Step;

const USAGE: &str = "usage: cargo xtask demo [--binary PATH]   (without a path, the release binary is built)";

/// Is a file of this repository that the demo changes, and one that it deletes and puts back.
const EDITED: &str = "docs/flags.md";
const DELETED: &str = "docs/cli/ha-sync.md";

pub(crate) fn run(options: &[&str]) -> Result<(), String> {
    let binary = match options {
        [] => build()?,
        ["--binary", path] => (*path).to_owned(),
        _ => return Err(format!("unknown option: {}\n{USAGE}", options.join(" "))),
    };
    let top = std::env::temp_dir().join(format!("ha-sync-demo-{}", std::process::id()));
    let demo = Demo {
        binary,
        source: text(&top.join("source"))?,
        destination: text(&top.join("destination"))?,
        log: text(&top.join("log"))?,
        top: text(&top)?,
    };
    demo.run()
}

/// Builds the release binary and tells where it is.
fn build() -> Result<String, String> {
    Step::cargo(&["build", "--release", "--locked", "--package", "ha-sync"]).run()?;
    // Wherever cargo was told to build: this program lies in `<target>/debug`.
    let own = std::env::current_exe().map_err(|error| format!("failed to find this program: {error}"))?;
    let target = own.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_else(|| PathBuf::from("target"));
    let built = target.join("release").join("ha-sync");
    let here = std::env::current_dir().unwrap_or_default();
    text(built.strip_prefix(here).unwrap_or(&built))
}

fn text(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("the path is not UTF-8: {}", path.display()))
}

struct Demo {
    binary: String,
    top: String,
    source: String,
    destination: String,
    log: String,
}

impl Demo {
    fn run(&self) -> Result<(), String> {
        heading("Two folders: the source from files of this repository, the destination empty");
        shown(&Step::new("mkdir", &["-m", "700", &self.top]))?;
        shown(&Step::new("mkdir", &[&self.source, &self.destination]))?;
        shown(&Step::new("cp", &["-a", "docs", "crates/ha-sync-core", &self.source]))?;

        heading("The plan: what a run would do; nothing is changed");
        shown(&self.job(&["--dry-run"]))?;

        heading("The run");
        shown(&self.job(&[]))?;

        heading("An edit and a deletion at the source");
        shown(&self.append("edited", EDITED))?;
        shown(&Step::new("rm", &[&self.at_source(DELETED)]))?;

        heading("The second run: it brings both over, and keeps the old versions in the trash");
        shown(&self.job(&["--delete-missing"]))?;

        heading("A further run: both sides are equal, it does nothing");
        shown(&self.job(&["--delete-missing"]))?;

        heading("A change while the database cannot be opened: the run goes on, and its log stays");
        shown(&self.append("edited again", EDITED))?;
        let away = format!("sqlite:{}/away/ha-sync.db", self.top);
        shown(&self.job_with(&away, &[]))?;
        shown(&Step::new("ls", &[&self.log]))?;

        heading("The next run brings that log into the database, and removes it");
        shown(&self.job(&[]))?;
        shown(&Step::new("ls", &[&self.log]))?;

        heading("The trash of the destination, and the deleted file back from it");
        shown(&Step::new(&self.binary, &["restore", "--root", &self.destination]))?;
        shown(&Step::new(&self.binary, &["restore", "--root", &self.destination, DELETED]))?;
        shown(&Step::new("ls", &["-l", &format!("{}/{DELETED}", self.destination)]))?;
        say("(The source still does not have it: the next run with --delete-missing would delete it again.)");

        heading("Where things are");
        say(&format!("source       {}", self.source));
        say(&format!("destination  {}", self.destination));
        say(&format!("trash        {}/.ha-sync/trash", self.destination));
        say(&format!("logs         {}   (a log is here until the database has it)", self.log));
        say(&format!("database     {}/ha-sync.db", self.log));
        say(&format!("pair state   {}/state/demo", self.log));
        say("");
        say("All of it stays there. To remove it:");
        say(&format!("  {}", Step::new("rm", &["-r", &self.top]).line()));
        Ok(())
    }

    fn job(&self, flags: &[&str]) -> Step {
        self.job_with(&format!("sqlite:{}/ha-sync.db", self.log), flags)
    }

    /// Names lock and database although they are the defaults: in a cluster, or with `HA_SYNC_DB_DSN` set, they would
    /// be others, and a demo has no business there.
    fn job_with(&self, database: &str, flags: &[&str]) -> Step {
        Step::new(&self.binary, &["--src", &self.source, "--dest", &self.destination, "--pair", "demo"])
            .args(&["--lock", "file", "--log-dir", &self.log, "--db-dsn", database])
            .args(flags)
    }

    fn at_source(&self, file: &str) -> String {
        format!("{}/{file}", self.source)
    }

    fn append(&self, line: &str, file: &str) -> Step {
        Step::new("sh", &["-c", "echo \"$1\" >> \"$2\"", "sh", line, &self.at_source(file)])
    }
}

fn heading(words: &str) {
    say(&format!("\n==> {words}"));
}

fn shown(step: &Step) -> Result<(), String> {
    say(&format!("$ {}", step.line()));
    step.run_plain()
}
