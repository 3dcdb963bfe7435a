//! `ha-volume scan`.

use std::ffi::OsString;
use std::path::Path;

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, human_bytes, json_line};
use ha_cli::table::{Align, Table};
use ha_longhorn::finding::{Finding, Severity};
use ha_longhorn::rank::{Place, Standing};
use ha_longhorn::scan::{self, Disk, Row};
use ha_longhorn::watch::Unwatched;
use serde::Deserialize;
use serde_json::json;

use crate::arguments::ScanArguments;
use crate::close::{self, Close};
use crate::ssh::{self, Remote};
use crate::work;
use crate::{print, render, source};

/// Are the exit codes with which a scan has answered.
const ANSWERED: [i32; 3] = [0, 3, 5];

/// Is what a scan on another host answers.
#[derive(Deserialize)]
struct Answer {
    disks: Vec<Disk>,
    replicas: Vec<Row>,
}

pub(crate) fn serve(arguments: &ScanArguments) -> Result<ExitCode, Failure> {
    let (mut disks, mut rows, mut failed) = (Vec::new(), Vec::<Row>::new(), Vec::new());
    for place in &arguments.places {
        let found = match Remote::parse(place)? {
            Some(remote) => remote_scan(&remote, arguments),
            None => local_scan(Path::new(place)),
        };
        match found {
            Ok((more_disks, more_rows)) => {
                disks.extend(more_disks);
                // Of places that overlap a replica is one all the same, and not its own competitor.
                for row in more_rows {
                    if rows.iter().all(|known| (&known.host, &known.resolved) != (&row.host, &row.resolved)) {
                        rows.push(row);
                    }
                }
            }
            // The others may hold what is looked for.
            Err(failure) if arguments.places.len() > 1 => failed.push(failure),
            Err(failure) => return Err(failure),
        }
    }
    let ranked = scan::rank(rows, arguments.before);
    let close = if arguments.no_compare { Vec::new() } else { close::of_each_volume(&ranked) };
    match arguments.output.output {
        OutputFormat::Json => {
            let replicas: Vec<_> = ranked.iter().map(|(row, place)| object(row, place)).collect();
            let failed: Vec<_> = failed.iter().map(Failure::one_line).collect();
            print(&json_line(&json!({"disks": disks, "replicas": replicas, "close": close, "failed": failed})))?;
        }
        OutputFormat::Text => print(&text(&disks, &ranked, &close)?)?,
    }
    for failure in &failed {
        failure.print(ha_cli::report::LogFormat::Text);
    }
    if let [Disk::V2 { path }] = disks.as_slice() {
        let failure = source::declined(Path::new(path));
        if arguments.output.output == OutputFormat::Json {
            // It was answered; a second object would follow.
            failure.print(ha_cli::report::LogFormat::Text);
            return Ok(ExitCode::Halted);
        }
        return Err(failure);
    }
    let all = failed.is_empty() && ranked.iter().all(|(row, _)| !row.unread);
    if ranked.iter().any(|(row, _)| row.unread) && !rustix::process::geteuid().is_root() {
        work::note("hint", "not everything could be read, so the order may be another: as root, sudo ha-volume scan");
    }
    Ok(if all { ExitCode::Success } else { ExitCode::Partial })
}

fn object(row: &Row, place: &Place) -> serde_json::Value {
    let mut value = json!(row);
    if let Some(object) = value.as_object_mut() {
        object.insert("place".to_owned(), json!(place));
        // With the sentences beside the data; a program of this kind reads the data back.
        object.insert("findings".to_owned(), row.findings.iter().map(Finding::to_json).collect());
    }
    value
}

type Found = (Vec<Disk>, Vec<Row>);

fn local_scan(place: &Path) -> Result<Found, Failure> {
    let (disk, paths) = scan::find(place).or_failure(FailureKind::Failed).map_err(|failure| {
        failure.hint("where Longhorn keeps its data: kubectl -n longhorn-system get settings default-data-path")
    })?;
    Ok((vec![disk], paths.iter().map(|path| scan::look(path)).collect()))
}

fn remote_scan(remote: &Remote, arguments: &ScanArguments) -> Result<Found, Failure> {
    let mut words: Vec<OsString> = ["scan", "--output=json", "--no-compare", "--"].map(Into::into).into();
    words.push(remote.path.clone());
    // Damage is told by what is printed, and so is a disk of the v2 engine.
    let (output, code) = ssh::run(remote, arguments.remote_binary.as_deref(), &words, &Unwatched, &ANSWERED)?;
    let answer: Answer = serde_json::from_slice(&output).or_failure(FailureKind::Failed).map_err(|failure| {
        failure
            .context(format!("the answer of {} cannot be understood; it ended with {code}", remote.authority))
            .hint("does the shell there print something of its own, or is that program of another version")
    })?;
    let (mut disks, mut rows) = (answer.disks, answer.replicas);
    for disk in &mut disks {
        let (Disk::V1 { path, .. } | Disk::V2 { path } | Disk::Nothing { path }) = disk;
        *path = format!("ssh://{}{path}", remote.authority);
    }
    for row in &mut rows {
        row.host = Some(remote.authority.clone());
    }
    Ok((disks, rows))
}

fn text(disks: &[Disk], ranked: &[(Row, Place)], close: &[Close]) -> Result<String, Failure> {
    let mut text = String::new();
    for disk in disks {
        match disk {
            Disk::V1 { path, uuid: Some(uuid), replicas } => {
                text.push_str(&format!("disk {path}  {uuid}  {replicas} replicas\n"));
            }
            Disk::V1 { path, uuid: None, replicas } => text.push_str(&format!("{path}  {replicas} replicas\n")),
            Disk::V2 { path } => text.push_str(&format!("{path}  a disk of the v2 engine, which is not read\n")),
            Disk::Nothing { path } => text.push_str(&format!("{path}  nothing of Longhorn\n")),
        }
    }
    let mut volume = None;
    for (index, (row, place)) in ranked.iter().enumerate() {
        if volume != Some(&row.volume) {
            volume = Some(&row.volume);
            text.push_str(&format!("\nvolume {}  {}\n", row.volume, human_bytes(row.size)));
            let of_volume: Vec<_> =
                ranked[index..].iter().take_while(|(other, _)| other.volume == row.volume).collect();
            text.push_str(&table(&of_volume)?);
            for (row, place) in &of_volume {
                reasons(&mut text, row, place);
            }
            if let [(first, one), (second, other), ..] = of_volume.as_slice()
                && one.close
                && other.close
            {
                text.push_str(&side_by_side(first, second));
                if let Some(found) = close.iter().find(|close| close.volume == row.volume) {
                    found.write(&mut text);
                }
            }
        }
        let _ = place;
    }
    Ok(text)
}

/// Says how two candidates are compared that only times or evidence set apart.
fn side_by_side(first: &Row, second: &Row) -> String {
    let mut text = "  the first two are close, look at how they differ:\n".to_owned();
    let mut words = Vec::new();
    for (row, copy) in [(first, "FIRST"), (second, "SECOND")] {
        match row.host {
            Some(_) => {
                text.push_str(&format!("    ha-volume copy {} {copy}\n", named(row)));
                words.push(copy.to_owned());
            }
            None => words.push(named(row)),
        }
    }
    text + &format!("    ha-volume compare {}\n", words.join(" "))
}

fn named(row: &Row) -> String {
    match &row.host {
        // The name on the command line is that of a URL, spelled as a word of a shell.
        Some(host) => source::word_of(&format!("ssh://{host}{}", row.path)),
        None => source::word_of(&row.path),
    }
}

fn table(rows: &[&(Row, Place)]) -> Result<String, Failure> {
    let mut table = Table::new([
        Align::Right,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Left,
    ]);
    table.row(["#", "standing", "layers", "data", "flags", "written", "inside", "replica"]);
    for (row, place) in rows {
        let standing = match place.standing {
            Standing::Candidate => "candidate",
            Standing::Salvage => "salvage only",
            Standing::Empty => "empty",
        };
        table.row([
            place.rank.to_string(),
            standing.to_owned(),
            row.candidate.layers.map_or_else(|| "-".to_owned(), |layers| layers.to_string()),
            human_bytes(row.candidate.allocated),
            flags(row),
            render::time(row.candidate.written.iter().max().copied()),
            row.inside.as_ref().map_or("unknown", |inside| inside.name()).to_owned(),
            named(row),
        ]);
    }
    let mut text = Vec::new();
    table.write(&mut text).or_failure(FailureKind::Failed)?;
    Ok(String::from_utf8_lossy(&text).lines().map(|line| format!("  {line}\n")).collect())
}

fn flags(row: &Row) -> String {
    let has = |flag: &Finding| row.findings.contains(flag);
    let flags = [(Finding::Dirty, "dirty"), (Finding::Rebuilding, "rebuilding"), (Finding::Encrypted, "encrypted")];
    let set: Vec<&str> = flags.iter().filter(|(flag, _)| has(flag)).map(|(_, name)| *name).collect();
    if set.is_empty() { "-".to_owned() } else { set.join(",") }
}

fn reasons(text: &mut String, row: &Row, place: &Place) {
    let reasons: Vec<&str> = place.reasons.iter().map(|reason| reason.text.as_str()).collect();
    text.push_str(&format!("  {}: {}\n", place.rank, ha_cli::report::printable(&reasons.join("; "))));
    if !row.chain.is_empty() {
        text.push_str(&format!("     chain: {}\n", ha_cli::report::printable(&row.chain.join(" < "))));
    }
    for finding in row.findings.iter().filter(|finding| finding.severity() >= Severity::Warning) {
        text.push_str(&format!("     {}\n", ha_cli::report::printable(&finding.to_string())));
    }
}

/// Says on stderr that something is left out.
pub(crate) fn left_out(names: &[String]) {
    for name in names {
        work::note("warning", &format!("left out, being no regular file: {name}"));
    }
}
