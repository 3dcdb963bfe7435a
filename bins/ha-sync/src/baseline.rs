//! `ha-sync baseline`: shows, checks or forgets what both sides of a pair last agreed on.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::{Mode, Options, Reporter};
use ha_cli::summary::{OutputFormat, grouped, human_bytes, ignore_closed, json_line, print};
use ha_sync_core::baseline::{Agreed, Facts};
use ha_sync_core::entry::{Kind, Time};
use ha_sync_core::event::{Event, Observer as _};
use ha_sync_core::name::PairName;
use ha_sync_core::path::{RelPath, escape, printable};
use ha_sync_engine::baseline::{Baseline, BaselineError, Header};
use ha_sync_engine::{Stop, StopReason};
use ha_sync_fs::local;
use serde_json::{Value, json};

use crate::lock::{self, Held};
use crate::restore::{kind, relative, shown};
use crate::settings::{BaselineSettings, BaselineWork, Lock, PairSettings};
use crate::{records, run, signals};

/// Does what is asked for.
pub(crate) fn serve(settings: &BaselineSettings) -> Result<ExitCode, Failure> {
    match &settings.work {
        BaselineWork::Show(path) => show(&settings.pair, path.as_deref().map(at).transpose()?.as_ref()),
        BaselineWork::Verify => verify(&settings.pair),
        BaselineWork::Forget(lock) => forget(&settings.pair, lock),
    }?;
    Ok(ExitCode::Success)
}

/// Takes `.` for the roots themselves.
fn at(path: &Path) -> Result<RelPath, Failure> {
    if path == Path::new(".") {
        return Ok(RelPath::root());
    }
    relative(path).map_err(|failure| failure.hint("name it relative to the roots, like photos/2026"))
}

fn open(settings: &PairSettings) -> Result<Baseline, Failure> {
    let (log_directory, _) = records::log_directory(&settings.records)?;
    let pair = &settings.pair;
    let opened =
        Baseline::open_of(&Baseline::file(&log_directory, pair), pair).map_err(|error| unusable(pair, &error))?;
    opened.ok_or_else(|| {
        let shown = ha_sync_fs::error::printable_path(&log_directory);
        Failure::new(FailureKind::Failed, format!("pair {pair} has no baseline in {shown}"))
            .hint("the next run of the pair makes one; are its logs elsewhere? --log-dir DIR")
    })
}

fn unusable(pair: &PairName, error: &BaselineError) -> Failure {
    Failure::from_error(FailureKind::Failed, error)
        .hint("runs go on as if there were none: a union that deletes nothing, and then a new baseline")
        .hint(format!("to remove it now: ha-sync baseline forget --pair {pair}"))
}

fn show(settings: &PairSettings, path: Option<&RelPath>) -> Result<(), Failure> {
    let baseline = open(settings)?;
    if let Some(path) = path.filter(|path| !path.is_root())
        && baseline.entry(path).map_err(|error| unusable(&settings.pair, &error))?.is_none()
    {
        return Err(Failure::new(FailureKind::Failed, format!("nothing is agreed at this path: {path}"))
            .hint(format!("see what is: ha-sync baseline show --pair {} .", settings.pair)));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let mut failed = None;
    let mut write = |result: io::Result<()>| {
        failed = result.err();
        failed.is_none()
    };
    let json = settings.output.format == OutputFormat::Json;
    let mut going =
        write(if json { begin_json(&mut out, &baseline, path.is_some()) } else { facts(&mut out, &baseline) });
    if let Some(path) = path.filter(|_| going) {
        let mut first = true;
        let walked = baseline.walk(path, &mut |path, agreed| {
            let separator = if first { "\n" } else { ",\n" };
            first = false;
            going = write(if json {
                write!(out, "{separator}{}", json_line(&document(path, agreed)).trim_end())
            } else {
                line(&mut out, path, agreed)
            });
            going
        });
        walked.map_err(|error| unusable(&settings.pair, &error))?;
    }
    if going && json {
        going = write(writeln!(out, "{}", if path.is_some() { "]}" } else { "}" }));
    }
    if going {
        write(out.flush());
    }
    // What could not be written is dropped here, else the buffer's own drop would try once more.
    drop(out.into_parts());
    ignore_closed(failed.map_or(Ok(()), Err)).or_failure(FailureKind::Failed)
}

fn facts(out: &mut dyn Write, baseline: &Baseline) -> io::Result<()> {
    let Header { pair, roots, run_id, written } = baseline.header();
    writeln!(out, "pair     {pair}")?;
    writeln!(out, "roots    {} and {}", printable(&roots.0), printable(&roots.1))?;
    writeln!(out, "written  {written:.0} by run {run_id}")?;
    writeln!(out, "entries  {} in {} directories", grouped(baseline.entries()), grouped(baseline.directories()))
}

fn line(out: &mut dyn Write, path: &RelPath, agreed: &Agreed) -> io::Result<()> {
    let size = if agreed.kind == Kind::Directory { String::new() } else { human_bytes(agreed.size) };
    let (a, b) = (shown(agreed.a.mtime), shown(agreed.b.mtime));
    let other = if agreed.a.mtime == agreed.b.mtime { String::new() } else { format!("  (the other side: {b})") };
    writeln!(out, "{:9}  {size:>10}  {a:20}  {path}{other}", kind(agreed.kind))
}

fn begin_json(out: &mut dyn Write, baseline: &Baseline, listed: bool) -> io::Result<()> {
    let head = json_line(&summary(baseline));
    write!(out, "{}", head.trim_end().trim_end_matches('}'))?;
    if listed { write!(out, ",\"agreed\":[") } else { Ok(()) }
}

fn summary(baseline: &Baseline) -> Value {
    let Header { pair, roots, run_id, written } = baseline.header();
    json!({
        "pair": pair, "roots": [escape(&roots.0), escape(&roots.1)], "run_id": run_id, "written": written.to_string(),
        "directories": baseline.directories(), "entries": baseline.entries(),
    })
}

/// Is an entry as `-o json` prints it; `at` has the facts of both roots, in their order.
fn document(path: &RelPath, agreed: &Agreed) -> Value {
    let Agreed { kind: what, size, content, a, b } = agreed;
    json!({
        "path": path.escaped(), "kind": kind(*what), "size": size,
        "md5": content.map(|sum| format!("{:032x}", u128::from_be_bytes(sum))), "at": [side(a), side(b)],
    })
}

fn side(facts: &Facts) -> Value {
    let Facts { mtime, ctime, inode, mode, uid, gid, attributes: _ } = facts;
    let time =
        |time: Time| jiff::Timestamp::from_nanosecond(time.0).map_or_else(|_| shown(time), |time| time.to_string());
    json!({
        "mtime": time(*mtime), "ctime": time(*ctime), "inode": inode, "mode": format!("{mode:04o}"), "uid": uid, "gid": gid,
    })
}

fn verify(settings: &PairSettings) -> Result<(), Failure> {
    let baseline = open(settings)?;
    baseline.verify().map_err(|error| unusable(&settings.pair, &error))?;
    let text = match settings.output.format {
        OutputFormat::Json => json_line(&summary(&baseline)),
        OutputFormat::Text => format!(
            "the baseline of pair {} is whole: {} entries in {} directories\n",
            settings.pair,
            grouped(baseline.entries()),
            grouped(baseline.directories())
        ),
    };
    print(&text).or_failure(FailureKind::Failed)
}

fn forget(settings: &PairSettings, lock: &Lock) -> Result<(), Failure> {
    let pair = &settings.pair;
    let (log_directory, _) = records::log_directory(&settings.records)?;
    let stop = Arc::new(Stop::default());
    signals::listen(&stop)?;
    // A run that is going on, here or on another node, would write it anew.
    let held = lock::take(pair, lock, &run::new_run_id(run::now()), &stop).map_err(|failure| match failure.kind() {
        FailureKind::LockHeld => failure.hint("try again when the run has ended"),
        _ => failure,
    })?;
    let forgotten = remove(&Baseline::file(&log_directory, pair), &stop);
    if let Some(Err(why)) = held.map(Held::release) {
        let mode = Mode::choose(None, false);
        let reporter = Reporter::new(Options { mode, verbose: false, quiet: false, dry_run: false });
        reporter.event(Event::Warning { message: &why });
        reporter.stop();
    }
    let there = forgotten?;
    let text = match (settings.output.format, there) {
        (OutputFormat::Json, _) => json_line(&json!({ "pair": pair, "forgotten": there })),
        (OutputFormat::Text, false) => format!("pair {pair} had no baseline\n"),
        (OutputFormat::Text, true) => format!(
            "the baseline of pair {pair} is forgotten\n\
             the next run is a union: nothing is deleted, files that differ are decided like conflicts, and what was\n\
             deleted on one side since the last run comes back from the other\n"
        ),
    };
    print(&text).or_failure(FailureKind::Failed)
}

/// Removes the file; tells whether it was there.
fn remove(file: &Path, stop: &Stop) -> Result<bool, Failure> {
    if let Some(reason) = stop.reason() {
        return Err(match reason {
            StopReason::Signal(_) => run::interrupted(stop),
            reason => Failure::new(FailureKind::Failed, reason.to_string()),
        });
    }
    let there = local::exists(file);
    local::remove(file).or_failure(FailureKind::Failed)?;
    Ok(there)
}
