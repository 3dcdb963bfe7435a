//! Ours, unison, rsync, rclone and cp in turn, on fresh file systems, in one run; prints a Markdown report.
#![allow(clippy::disallowed_methods, reason = "a program of the project, not of the product")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints its report and its progress")]

mod case;
mod dashboard;
mod data;
mod flush;
mod machine;
mod measure;
mod report;
mod run;
mod tool;
mod volume;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;

/// Measures ha-sync beside rsync, rclone and cp on fresh file systems. Needs root, for loop mounts and FUSE.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub(crate) struct Options {
    /// Only this case; can be given several times. `list` prints their names.
    #[arg(long = "case", value_name = "NAME")]
    pub(crate) cases: Vec<String>,
    /// Measured runs of each tool in each case; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// Only these tools: ours, unison, rsync, rclone, cp; separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub(crate) tools: Vec<String>,
    /// Where the images of the file systems lie; else /dev/shm where it and the memory have room for a case, else the
    /// directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Size of the files of the case `large` as a part of 500 MB; else 1, or what fits.
    #[arg(long, value_name = "FRACTION")]
    pub(crate) scale: Option<f64>,
    /// The binary to measure instead of a release build of this workspace; ha-sync-ui is beside it.
    #[arg(long, value_name = "FILE")]
    pub(crate) ours: Option<PathBuf>,
    /// Also writes every number as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also writes the report, for example to docs/benchmarks.md.
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(measure::HELPER) {
        return measure::helper();
    }
    match bench(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The cases that are not of files.
const OTHERS: [(&str, &str); 3] =
    [(flush::NAME, flush::WHAT), (dashboard::NAME, dashboard::WHAT), (volume::NAME, volume::WHAT)];

fn bench(options: &Options) -> Result<(), String> {
    let all = case::all();
    if options.cases.iter().any(|name| name == "list") {
        for case in &all {
            println!("{:<15} {}", case.name, case.what);
        }
        for (name, what) in OTHERS {
            println!("{name:<15} {what}");
        }
        return Ok(());
    }
    let known = |name: &str| OTHERS.iter().any(|(other, _)| *other == name) || all.iter().any(|case| case.name == name);
    if let Some(unknown) = options.cases.iter().find(|name| !known(name)) {
        return Err(format!("unknown case: {unknown} (--case list prints their names)"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err("root is needed, for loop mounts and FUSE".to_owned());
    }
    let ours = match &options.ours {
        Some(file) => file.canonicalize().map_err(|error| format!("failed to find {}: {error}", file.display()))?,
        // The volume case has a binary of its own.
        None if options.cases.iter().all(|name| name == volume::NAME) && !options.cases.is_empty() => PathBuf::new(),
        None => {
            // The dashboard is measured too, and is looked for beside it.
            build("ha-sync-ui")?;
            build("ha-sync")?
        }
    };
    let mut results = Vec::new();
    for case in all {
        if options.cases.is_empty() || options.cases.iter().any(|name| *name == case.name) {
            eprintln!("== {}: {}", case.name, case.what);
            results.push(run::case(case, options, &ours)?);
        }
    }
    let mut report = report::markdown(&results, options, &ours);
    let mut missed = Vec::new();
    for (name, what) in OTHERS {
        if options.cases.is_empty() || options.cases.iter().any(|case| case == name) {
            eprintln!("== {name}: {what}");
            report.push_str(&match name {
                flush::NAME => flush::section(options.runs, &ours)?,
                volume::NAME => volume::run(options)?,
                _ => {
                    let section = dashboard::section(&ours)?;
                    missed.extend(section.missed);
                    section.text
                }
            });
        }
    }
    println!("{report}");
    let write = |file: &PathBuf, text: &str| {
        std::fs::write(file, text).map_err(|error| format!("failed to write {}: {error}", file.display()))
    };
    if let Some(file) = &options.write {
        write(file, &report)?;
    }
    if let Some(file) = &options.json {
        write(file, &report::json(&results))?;
    }
    if !missed.is_empty() {
        return Err(format!("goals of the case {} are missed: {}", dashboard::NAME, missed.join("; ")));
    }
    Ok(())
}

/// Builds a release binary and returns its path, as cargo tells it.
fn build(package: &str) -> Result<PathBuf, String> {
    let output = Command::new("cargo")
        .args(["build", "--release", "--package", package, "--message-format=json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("failed to start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("failed to build {package}; to repeat: cargo build --release --package {package}"));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == package)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("cargo did not say where {package} is"))
}
