//! `ha-volume doctor`.

use ha_cli::exit::ExitCode;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::summary::{OutputFormat, grouped, json_line};
use ha_longhorn::checksum::Verify;
use ha_longhorn::doctor::{self, Diagnosis};
use ha_longhorn::finding::Finding;
use ha_longhorn::layered::Image;
use ha_longhorn::{backing, inspect};
use ha_sync_fs::error::printable_path;
use serde_json::json;

use crate::arguments::DoctorArguments;
use crate::source::{self, word};
use crate::work::Work;
use crate::{print, render};

pub(crate) fn serve(arguments: &DoctorArguments) -> Result<ExitCode, Failure> {
    let DoctorArguments { directory, best_effort, backing: below, head, output } = arguments;
    let replica = source::replica(directory, head.as_deref())?;
    let work = Work::begin("reading", output.output == OutputFormat::Json)?;
    let open = || -> Result<Option<Box<dyn Image>>, _> { below.as_deref().map(backing::open).transpose() };
    let mut report = inspect::report(&replica, open().or_failure(FailureKind::Failed)?, Verify::Nothing, &work)
        .or_failure(FailureKind::Failed)?;
    let diagnosis =
        doctor::examine(&replica, &mut report, &open, *best_effort, &work).or_failure(FailureKind::Failed)?;
    if ha_longhorn::watch::Watch::stopped(&work) {
        return Err(work.stopped_by());
    }
    work.end();
    match output.output {
        OutputFormat::Json => print(&json_line(&json!({
            "directory": printable_path(directory),
            "diagnosis": diagnosis,
            "findings": report.findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
        })))?,
        OutputFormat::Text => print(&text(arguments, diagnosis.as_ref(), &report.findings))?,
    }
    Ok(crate::inspect::code(&report.findings))
}

fn text(arguments: &DoctorArguments, diagnosis: Option<&Diagnosis>, findings: &[Finding]) -> String {
    let mut text = String::new();
    if let Some(diagnosis) = diagnosis {
        text.push_str(&format!(
            "{}: {} allocated blocks of 4 KiB, {} of them zeros; inside {}\n",
            printable_path(&arguments.directory),
            grouped(diagnosis.blocks),
            grouped(diagnosis.zero_blocks),
            render::inside(diagnosis.inside.as_ref()),
        ));
        if let Some(blocks) = diagnosis.ambiguous_blocks {
            text.push_str(&format!("the two readings of zeros differ on {} blocks\n", grouped(blocks)));
        }
    }
    let of_copying = |finding: &&Finding| matches!(finding, Finding::Densified { .. } | Finding::Sparsified);
    let copied = findings.iter().any(|finding| of_copying(&finding));
    render::findings(&mut text, findings);
    if !copied && let Some(diagnosis) = diagnosis {
        text.push_str(match (&diagnosis.inside, diagnosis.conclusive) {
            (_, true) => "no sign that copying has changed it\n",
            (None, false) => "no block of zeros is there, and without the backing image nobody can tell whether some were: --backing FILE\n",
            (Some(_), false) => "no block of zeros is there, and nothing tells whether some were: only ext4 and xfs are known to have them\n",
        });
    } else if copied {
        let directory = word(&arguments.directory);
        text.push_str(
            "next: go back to the original, which a copy cannot replace; read it in place, or copy it with\n",
        );
        text.push_str(&format!("  ha-volume copy {directory} DEST\n"));
        if findings.iter().any(|finding| matches!(finding, Finding::Densified { .. })) {
            text.push_str("if it is gone, the best effort, which takes blocks of zeros for holes:\n");
            text.push_str(&format!("  ha-volume merge --zeros-are-holes {directory} -o IMAGE\n"));
        } else {
            text.push_str("if it is gone, the image shows older data where zeros were, and nothing can tell where:\n");
            text.push_str(&format!("  ha-volume merge --despite-damage {directory} -o IMAGE\n"));
        }
    }
    text
}
