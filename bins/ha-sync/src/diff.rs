//! `ha-sync diff`: in what two roots differ.

use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, ignore_closed, json_line};
use ha_sync_core::diff::What;
use ha_sync_core::entry::Entry;
use ha_sync_core::path::{escape, printable};
use ha_sync_engine::diff::{Compared, Comparison, Finding, diff};
use ha_sync_engine::{Stop, StopReason};
use serde_json::{Value, json};

use crate::restore::{kind, shown};
use crate::settings::DiffSettings;
use crate::{run, signals};

/// Compares, and prints what is found as it is found.
pub(crate) fn serve(settings: &DiffSettings) -> Result<ExitCode, Failure> {
    let stop = Arc::new(Stop::default());
    signals::listen(&stop)?;
    let comparison = Comparison {
        a: settings.a.clone(),
        b: settings.b.clone(),
        rules: run::rules(&settings.filters),
        threshold: settings.compare.mtime_threshold.as_nanos() as i128,
        checksum: settings.compare.checksum,
        content_only: settings.content_only,
        cross_mounts: settings.compare.cross_mounts,
        walkers: settings.walkers,
    };
    let json = settings.output.format == OutputFormat::Json;
    let printer = Mutex::new(Printer { out: BufWriter::new(io::stdout()), json, findings: 0, failed: None });
    if json {
        lock(&printer).write(|out| {
            let root = |path: &std::path::Path| json!(escape(path.as_os_str().as_encoded_bytes()));
            write!(out, "{{\"a\":{},\"b\":{},\"findings\":[", root(&settings.a), root(&settings.b))
        });
    }
    let compared = diff(&comparison, &stop, &|findings| {
        let mut printer = lock(&printer);
        for finding in &findings {
            printer.finding(finding);
        }
        // Else nobody reads on.
        printer.failed.is_none()
    });
    // 1 says that they differ.
    let compared = compared.or_failure(FailureKind::Halted)?;
    if matches!(stop.reason(), Some(StopReason::Signal(_))) {
        return Err(run::interrupted(&stop));
    }
    let printer = printer.into_inner().unwrap_or_else(PoisonError::into_inner);
    printer.finish(&compared).or_failure(FailureKind::Failed)?;
    if compared.different > 0 {
        return Ok(ExitCode::Failed);
    }
    match compared.unreadable {
        0 => Ok(ExitCode::Success),
        count => Err(Failure::new(FailureKind::Partial, format!("{} paths could not be compared", grouped(count)))
            .hint("whether they are the same is not known")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Printer {
    out: BufWriter<io::Stdout>,
    json: bool,
    findings: u64,
    /// The first error; nothing is written after it.
    failed: Option<io::Error>,
}

impl Printer {
    fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.failed.is_none() {
            self.failed = write(&mut self.out).err();
        }
    }

    fn finding(&mut self, finding: &Finding) {
        let separator = if self.findings == 0 { "\n" } else { ",\n" };
        self.findings += 1;
        if self.json {
            return self.write(|out| write!(out, "{separator}{}", json_line(&document(finding)).trim_end()));
        }
        self.write(|out| match finding {
            Finding::Different { path, what, a, b } => {
                let words: Vec<&str> = what.iter().map(|what| what.as_str()).collect();
                writeln!(out, "{:12}  {path}{}", words.join(", "), details(what, a.as_deref(), b.as_deref()))
            }
            Finding::Unreadable { path, message } => {
                let path = if path.is_root() { ".".to_owned() } else { path.to_string() };
                writeln!(out, "{:12}  {path}  ({})", "unreadable", printable(message.as_bytes()))
            }
        });
    }

    fn finish(mut self, compared: &Compared) -> io::Result<()> {
        let Compared { equal, different, unreadable, left_out } = *compared;
        if self.json {
            self.write(|out| {
                let counts = json!({
                    "equal": equal, "different": different, "unreadable": unreadable, "left_out": left_out,
                    "same": different == 0 && unreadable == 0,
                });
                writeln!(out, "],{}", json_line(&counts).trim_end().trim_start_matches('{'))
            });
        } else {
            self.write(|out| {
                let mut line = format!("{} differ, {} are the same", grouped(different), grouped(equal));
                for (count, words) in [(unreadable, "could not be read"), (left_out, "are left out")] {
                    if count > 0 {
                        line.push_str(&format!(", {} {words}", grouped(count)));
                    }
                }
                writeln!(out, "{line}")
            });
        }
        if self.failed.is_none() {
            self.failed = self.out.flush().err();
        }
        // What could not be written is dropped here, else the buffer's own drop would try once more.
        drop(self.out.into_parts());
        ignore_closed(self.failed.map_or(Ok(()), Err))
    }
}

/// Says of each side what it has in the things that differ.
fn details(what: &[What], a: Option<&Entry>, b: Option<&Entry>) -> String {
    let (Some(a), Some(b)) = (a, b) else { return String::new() };
    let said = |entry: &Entry| {
        let of = |what: &What| match what {
            What::Type => Some(kind(entry.kind).to_owned()),
            What::Size => Some(human_bytes(entry.size)),
            What::Mtime => Some(shown(entry.mtime)),
            What::Mode => Some(format!("{:04o}", entry.mode)),
            What::Owner => Some(format!("{}:{}", entry.uid, entry.gid)),
            What::Content | What::Target | What::Attributes | What::OnlyA | What::OnlyB => None,
        };
        what.iter().filter_map(of).collect::<Vec<_>>().join(" ")
    };
    let (a, b) = (said(a), said(b));
    if a.is_empty() { String::new() } else { format!("  ({a} / {b})") }
}

fn document(finding: &Finding) -> Value {
    match finding {
        Finding::Different { path, what, a, b } => json!({
            "path": path.escaped(), "what": what, "a": a.as_deref().map(entry), "b": b.as_deref().map(entry),
        }),
        Finding::Unreadable { path, message } => json!({ "path": path.escaped(), "error": message }),
    }
}

fn entry(entry: &Entry) -> Value {
    let mtime = jiff::Timestamp::from_nanosecond(entry.mtime.0);
    json!({
        "kind": kind(entry.kind), "size": entry.recorded_size(), "mtime": mtime.ok().map(|time| time.to_string()),
        "mode": format!("{:04o}", entry.mode), "uid": entry.uid, "gid": entry.gid,
    })
}
