//! The report.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::Options;
use crate::case::Goal;
use crate::machine;
use crate::run::{CaseResult, Outcome};
use crate::tool::Tool;

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        length if length % 2 == 1 => Some(numbers[middle]),
        _ => Some((numbers[middle - 1] + numbers[middle]) / 2.0),
    }
}

impl Outcome {
    fn walls(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.sample.wall.as_secs_f64()).collect()
    }

    fn wall(&self) -> Option<f64> {
        if self.failed.is_some() { None } else { median(self.walls()) }
    }

    fn synced(&self) -> Option<f64> {
        median(self.runs.iter().map(|run| (run.sample.wall + run.sync).as_secs_f64()).collect())
    }

    /// The largest of all runs: a goal on memory is a bound.
    fn peak(&self) -> Option<f64> {
        let peaks = self.runs.iter().map(|run| run.sample.peak_kib);
        if self.failed.is_some() { None } else { peaks.max().map(|kib| kib as f64 / 1024.0) }
    }
}

impl CaseResult {
    fn outcome(&self, tool: Tool) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.tool == tool)
    }

    fn subject(&self) -> Option<&Outcome> {
        self.outcome(self.case.subject)
    }

    /// The goal in words, what was reached, and whether that is enough.
    fn judge(&self, goal: Goal) -> (String, Option<(String, bool)>) {
        let subject = self.subject();
        match goal {
            Goal::Wall { of, most } => {
                let reached = subject.and_then(Outcome::wall).zip(self.outcome(of).and_then(Outcome::wall));
                let ratio = reached.map(|(ours, theirs)| ours / theirs);
                (format!("wall ≤ {most} of {}", of.name()), ratio.map(|ratio| (format!("{ratio:.2}"), ratio <= most)))
            }
            Goal::Memory { most } => (
                format!("peak memory ≤ {most} MiB"),
                subject.and_then(Outcome::peak).map(|peak| (format!("{peak:.1} MiB"), peak <= most)),
            ),
            Goal::Peak { of, most } => {
                let reached = subject.and_then(Outcome::peak).zip(self.outcome(of).and_then(Outcome::peak));
                let ratio = reached.map(|(ours, theirs)| ours / theirs);
                let words = format!("peak memory ≤ {most} of {}", of.name());
                (words, ratio.map(|ratio| (format!("{ratio:.2}"), ratio <= most)))
            }
            Goal::Seconds { most } => (
                format!("wall ≤ {most} s"),
                subject.and_then(Outcome::wall).map(|wall| (format!("{wall:.2} s"), wall <= most)),
            ),
        }
    }
}

pub(crate) fn markdown(results: &[CaseResult], options: &Options, ours: &Path) -> String {
    let mut text = String::from("# Benchmarks\n\nReproduce: `");
    text.push_str(&command_line(options));
    text.push_str("` (as root).\n\n");
    for (name, value) in machine::describe().iter().chain(&machine::versions(ours)) {
        let _ = writeln!(text, "- {name}: {value}");
    }
    text.push_str(
        "\nEvery measured run has a file system of its own: a copy of one image, loop-mounted, both sides on it, synced \
         before the clock starts. The tools run in turn. In the cases where nothing or little changes each tool has run \
         once, untimed, before; in the copying ones the source has been read. \
         ha-sync writes its operation log and its SQLite database, in a directory beside the images and outside the \
         measured file systems, and its time includes the `syncfs` of both sides that it does at the end by default. \
         The other tools leave the data in memory, so \"and sync\" adds a `syncfs` after each tool. Wall is the median of \
         whole processes, from start to exit (in brackets fastest and slowest). Peak is the largest `ru_maxrss` of any \
         run; of the largest single process where a tool has several (rsync has three). \
         The last column is ha-sync's wall divided by that tool's.\n",
    );
    for result in results {
        let _ = writeln!(text, "\n## {}\n\n{}.\n", result.case.name, capital(result.case.what));
        let _ = writeln!(text, "File system: {}.", result.place);
        if result.case.slow {
            text.push_str(
                "Over it, on each side, a FUSE passthrough that sleeps 0.5 ms in every metadata request (LOOKUP, GETATTR, \
                 OPENDIR, READDIR, …) and serves 40 requests at once. Directories are cached for 30 s, as NFS does; files are not cached.\n",
            );
        }
        for remark in &result.remarks {
            let _ = writeln!(text, "{}.", capital(remark));
        }
        text.push_str("\n| tool | runs | wall | and sync | peak | ha-sync / tool |\n|---|--:|--:|--:|--:|--:|\n");
        let subject = result.subject().and_then(Outcome::wall);
        for outcome in &result.outcomes {
            if let Some(why) = &outcome.failed {
                let _ = writeln!(text, "| {} | failed: {} | | | | |", outcome.tool.name(), why.replace('|', "\\|"));
                continue;
            }
            let walls = outcome.walls();
            let low = walls.iter().copied().fold(f64::INFINITY, f64::min);
            let high = walls.iter().copied().fold(0.0, f64::max);
            let wall = outcome.wall().unwrap_or_default();
            let ratio = match subject {
                Some(ours) if outcome.tool != result.case.subject => format!("{:.2}", ours / wall),
                _ => String::new(),
            };
            let _ = writeln!(
                text,
                "| {} | {} | {wall:.3} s ({low:.3}–{high:.3}) | {:.3} s | {:.1} MiB | {ratio} |",
                outcome.tool.name(),
                outcome.runs.len(),
                outcome.synced().unwrap_or_default(),
                outcome.peak().unwrap_or_default(),
            );
        }
        text.push('\n');
        for goal in result.case.goals {
            let (goal, reached) = result.judge(*goal);
            let _ = match reached {
                Some((value, true)) => writeln!(text, "- ok: {goal}: {value}"),
                Some((value, false)) => writeln!(text, "- **missed**: {goal}: {value}"),
                None => writeln!(text, "- not measured: {goal}"),
            };
        }
    }
    text
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn command_line(options: &Options) -> String {
    let mut words = vec!["cargo xtask bench".to_owned()];
    words.extend(options.cases.iter().map(|case| format!("--case {case}")));
    words.push(format!("--runs {}", options.runs));
    if !options.tools.is_empty() {
        words.push(format!("--tools {}", options.tools.join(",")));
    }
    words.extend(options.scale.map(|scale| format!("--scale {scale}")));
    words.join(" ")
}

pub(crate) fn json(results: &[CaseResult]) -> String {
    let each = |outcome: &Outcome| -> Value {
        json!({
            "tool": outcome.tool.name(),
            "failed": outcome.failed,
            "wall_seconds": outcome.walls(),
            "sync_seconds": outcome.runs.iter().map(|run| run.sync.as_secs_f64()).collect::<Vec<_>>(),
            "peak_kib": outcome.runs.iter().map(|run| run.sample.peak_kib).collect::<Vec<_>>(),
        })
    };
    let cases: Vec<Value> = results
        .iter()
        .map(|result| {
            let goals = result.case.goals.iter().map(|goal| {
                let (goal, reached) = result.judge(*goal);
                json!({ "goal": goal, "reached": reached.as_ref().map(|(value, _)| value), "ok": reached.as_ref().map(|(_, ok)| ok) })
            });
            json!({
                "case": result.case.name,
                "file_system": result.place,
                "remarks": result.remarks,
                "tools": result.outcomes.iter().map(each).collect::<Vec<_>>(),
                "goals": goals.collect::<Vec<_>>(),
            })
        })
        .collect();
    format!("{:#}\n", Value::Array(cases))
}
