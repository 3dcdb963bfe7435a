//! `ha-sync conflicts`: what both sides changed and nobody has decided.

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, human_bytes, ignore_closed, json_line, print};
use ha_cli::table::{Align, Table};
use ha_sync_core::entry::Kind;
use ha_sync_engine::conflicts::{self, Conflict, Version};
use serde_json::{Value, json};

use crate::records;
use crate::restore::{kind, shown};
use crate::settings::PairSettings;

/// Lists the open conflicts.
pub(crate) fn serve(settings: &PairSettings) -> Result<ExitCode, Failure> {
    let open = load(settings)?;
    if settings.output.format == OutputFormat::Json {
        let rows: Vec<Value> = open.iter().map(document).collect();
        print(&json_line(&rows)).or_failure(FailureKind::Failed)?;
    } else if open.is_empty() {
        print("no conflict is open\n").or_failure(FailureKind::Failed)?;
    } else {
        let mut table = Table::new([Align::Left; 4]);
        table.row(["a", "b", "since", "path"]);
        for conflict in &open {
            let since = format!("{:.0}", conflict.since);
            table.row([version(&conflict.a), version(&conflict.b), since, conflict.path().to_string()]);
        }
        ignore_closed(table.write(&mut std::io::stdout().lock())).or_failure(FailureKind::Failed)?;
    }
    Ok(ExitCode::Success)
}

/// Reads the open conflicts of a pair.
pub(crate) fn load(settings: &PairSettings) -> Result<Vec<Conflict>, Failure> {
    let (log_directory, _) = records::log_directory(&settings.records)?;
    conflicts::load(&log_directory, &settings.pair)
        .or_failure(FailureKind::Failed)
        .map_err(|failure| failure.hint("the next two-way run of the pair writes the list anew"))
}

fn version(version: &Version) -> String {
    match version.kind {
        Kind::File => format!("{} {}", human_bytes(version.size), shown(version.mtime)),
        other => format!("{} {}", kind(other), shown(version.mtime)),
    }
}

fn document(conflict: &Conflict) -> Value {
    json!({
        "path": conflict.path().escaped(), "a": side(&conflict.a), "b": side(&conflict.b),
        "since": conflict.since.to_string(), "run_id": conflict.run_id,
    })
}

fn side(version: &Version) -> Value {
    let mtime = jiff::Timestamp::from_nanosecond(version.mtime.0);
    json!({
        "kind": kind(version.kind), "size": version.size, "mtime": mtime.ok().map(|time| time.to_string()),
        "mode": format!("{:04o}", version.mode), "uid": version.uid, "gid": version.gid, "md5": version.md5,
    })
}
