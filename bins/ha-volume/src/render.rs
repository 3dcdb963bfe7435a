//! How times, sizes and what lies inside are written for people.

use ha_cli::summary::human_bytes;
use ha_longhorn::finding::{Finding, Severity};
use ha_longhorn::inside::Inside;
use jiff::Timestamp;

/// Writes a time to the second, in UTC.
pub(crate) fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"))
}

/// Writes what lies inside, in a line.
pub(crate) fn inside(inside: Option<&Inside>) -> String {
    let Some(inside) = inside else { return "unknown".to_owned() };
    let mut text = inside.name().to_owned();
    if let Inside::Ext4 { label, bytes, written, needs_recovery, has_errors, .. } = inside {
        text.push_str(&format!(", {}", human_bytes(*bytes)));
        if !label.is_empty() {
            text.push_str(&format!(", label {label}"));
        }
        if written.is_some() {
            text.push_str(&format!(", written {}", time(*written)));
        }
        if *needs_recovery {
            text.push_str(", journal to be replayed");
        }
        if *has_errors {
            text.push_str(", marked with errors");
        }
    }
    text
}

/// Writes findings, a line each.
pub(crate) fn findings(text: &mut String, findings: &[Finding]) {
    for finding in findings {
        let label = match finding.severity() {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Damage => "damage",
        };
        text.push_str(&format!("{label}: {}\n", ha_cli::report::printable(&finding.to_string())));
    }
}
