//! `ha-sync manifests`: an inventory becomes a folder of manifests.

use std::fmt;
use std::path::{Path, PathBuf};

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::print;
use ha_manifests::{File, HEADER};
use ha_sync_fs::error::printable_path;
use ha_sync_fs::local;

use crate::settings::ManifestsSettings;

/// Writes the folder, or tells how it differs.
pub(crate) fn serve(settings: &ManifestsSettings) -> Result<ExitCode, Failure> {
    let made = made(&settings.inventory)?;
    let differences = differences(&settings.out, &made)?;
    if settings.check {
        return checked(settings, &differences);
    }
    // Everything is looked at before anything is changed.
    if let Some(foreign) = differences.iter().find(|one| one.is_foreign && one.kind == Kind::Differs) {
        let path = printable_path(&foreign.path);
        let failure = Failure::new(FailureKind::Usage, format!("this file was not made by ha-sync manifests: {path}"));
        return Err(failure.hint(format!("move it away: mv '{path}' '{path}.own'")));
    }
    let mut text = String::new();
    for difference in &differences {
        let done = match (difference.kind, difference.content) {
            (Kind::Missing | Kind::Differs, Some(content)) => {
                if let Some(parent) = difference.path.parent() {
                    local::create_directories(parent).or_failure(FailureKind::Failed)?;
                }
                local::replace(&difference.path, content.as_bytes()).or_failure(FailureKind::Failed)?;
                "written"
            }
            _ if difference.is_foreign => "left alone",
            _ => {
                local::remove(&difference.path).or_failure(FailureKind::Failed)?;
                "removed"
            }
        };
        text.push_str(&format!("{done}: {}\n", printable_path(&difference.path)));
    }
    let changed = differences.iter().filter(|one| one.content.is_some()).count();
    text.push_str(&format!("{} files, {changed} of them written\n", made.len()));
    print(&text).or_failure(FailureKind::Failed)?;
    Ok(ExitCode::Success)
}

fn made(inventory: &Path) -> Result<Vec<File>, Failure> {
    let name = printable_path(inventory);
    let bytes = local::read(inventory).or_failure(FailureKind::Usage)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(FailureKind::Usage, format!("the inventory is not UTF-8: {name}")))?;
    let inventory = ha_manifests::read(&text).map_err(|problems| {
        let (last, others) = problems.split_last().map_or((None, &[][..]), |(last, others)| (Some(last), others));
        let line = |problem: &ha_manifests::Problem| format!("{name}:{problem}");
        let failure = Failure::new(FailureKind::Usage, last.map(line).unwrap_or_default());
        let failure = others.iter().rev().fold(failure, |failure, problem| failure.context(line(problem)));
        let number = match problems.len() {
            1 => "1 problem".to_owned(),
            number => format!("{number} problems"),
        };
        failure.context(format!("{number} in the inventory: {name}"))
    })?;
    Ok(ha_manifests::files(&inventory))
}

/// Is a file that is not as the inventory says.
struct Difference<'a> {
    kind: Kind,
    path: PathBuf,
    /// What it should hold; nothing for one that should not be.
    content: Option<&'a str>,
    /// Whether somebody else made what is there.
    is_foreign: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Missing,
    Differs,
    Extra,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "missing",
            Self::Differs => "differs",
            Self::Extra => "extra",
        })
    }
}

fn differences<'a>(out: &Path, made: &'a [File]) -> Result<Vec<Difference<'a>>, Failure> {
    let is_foreign = |bytes: &[u8]| !bytes.starts_with(HEADER.as_bytes());
    let mut differences = Vec::new();
    for File { path, content } in made {
        let path = out.join(path);
        let there = local::read_if_present(&path).or_failure(FailureKind::Failed)?;
        let (kind, is_foreign) = match there {
            Some(bytes) if bytes == content.as_bytes() => continue,
            Some(bytes) => (Kind::Differs, is_foreign(&bytes)),
            None => (Kind::Missing, false),
        };
        differences.push(Difference { kind, path, content: Some(content), is_foreign });
    }
    for folder in ha_manifests::owned() {
        for path in local::list(&out.join(folder)).or_failure(FailureKind::Failed)? {
            if made.iter().any(|file| out.join(&file.path) == path) {
                continue;
            }
            let bytes = match local::is_directory(&path) {
                true => Vec::new(),
                false => local::read(&path).or_failure(FailureKind::Failed)?,
            };
            differences.push(Difference { kind: Kind::Extra, is_foreign: is_foreign(&bytes), path, content: None });
        }
    }
    Ok(differences)
}

fn checked(settings: &ManifestsSettings, differences: &[Difference<'_>]) -> Result<ExitCode, Failure> {
    if differences.is_empty() {
        return Ok(ExitCode::Success);
    }
    let lines: String =
        differences.iter().map(|one| format!("{}: {}\n", one.kind, printable_path(&one.path))).collect();
    print(&lines).or_failure(FailureKind::Failed)?;
    let (inventory, out) = (printable_path(&settings.inventory), printable_path(&settings.out));
    let mut failure = Failure::new(FailureKind::Failed, format!("the folder is not what the inventory says: {out}"));
    if !differences.iter().all(|one| one.is_foreign) {
        failure = failure.hint(format!("ha-sync manifests --inventory {inventory} --out {out}"));
    }
    // What somebody else made, that leaves alone.
    if let Some(foreign) = differences.iter().find(|one| one.is_foreign) {
        let path = printable_path(&foreign.path);
        failure = failure.hint(format!("a file that ha-sync manifests has not made; move it away: mv '{path}' ~/"));
    }
    Err(failure)
}
