//! The command that brings an old version back from the trash.

use ha_audit::query::OperationRow;
use ha_audit::store::IterationRow;
use ha_sync_core::path::unescape;
use ha_sync_core::record::{OperationKind, OperationStatus, Way};

/// Is where an old version went, and how it comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trash {
    /// The entry, as text of the records.
    pub(crate) entry: String,
    /// A command for a shell.
    pub(crate) command: String,
}

/// Returns where an operation's old version went; nothing when there was none, or it stayed where it was.
pub(crate) fn trash(operation: &OperationRow, run: &IterationRow) -> Option<Trash> {
    let run_id = run.run_id.as_deref()?;
    if run.dry_run || operation.status == OperationStatus::Fail {
        return None;
    }
    match operation.operation {
        OperationKind::Create => return None,
        OperationKind::Delete => {}
        // Where nothing but metadata changed, the file stayed.
        OperationKind::Update if operation.size_before.is_none() => return None,
        OperationKind::Update => {}
    }
    let changed = changed_root(operation, run);
    let root = changed.trim_end_matches('/');
    let path = word(&operation.filepath);
    // A path that looks like a flag is none behind `--`.
    let path = if operation.filepath.starts_with('-') { format!("-- {path}") } else { path };
    Some(Trash {
        entry: format!("{root}/.ha-sync/trash/{run_id}/{}", operation.filepath),
        command: format!("ha-sync restore --root {} --run {} {path}", word(changed), word(run_id)),
    })
}

/// Returns the root that an operation changed: the destination, or in a two-way run where it went.
pub(crate) fn changed_root<'a>(operation: &OperationRow, run: &'a IterationRow) -> &'a str {
    if operation.way == Some(Way::BToA) { &run.src } else { &run.dest }
}

/// Writes a name of the records as one word of a shell (bash, zsh, ksh; POSIX 2024 for `$'…'`).
fn word(name: &str) -> String {
    let bytes = unescape(name).unwrap_or_else(|| name.as_bytes().to_vec());
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./+:,@%".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    if let Ok(text) = std::str::from_utf8(&bytes)
        && crate::format::shown(text) == text
    {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut word = String::from("$'");
    for byte in bytes {
        match byte {
            b'\'' | b'\\' => word.extend(['\\', char::from(byte)]),
            b' '..=b'~' => word.push(char::from(byte)),
            // octal of three digits ends where it ends; \x may take what follows
            other => word.push_str(&format!("\\{other:03o}")),
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_the_name() {
        let names: [&[u8]; 8] = [
            b"plain/cat.jpg",
            b"with blank",
            b"it's",
            b"$(touch x)`y`;&|",
            b"new\nline\ttab",
            b"\xff1 latin",
            "ü\u{202e}1".as_bytes(),
            b"back\\slash'\n",
        ];
        for name in names {
            let written = word(&ha_sync_core::path::escape(name));
            let output = std::process::Command::new("bash").arg("-c").arg(format!("printf %s {written}")).output();
            assert_eq!(output.unwrap().stdout, name, "{written}");
            assert!(!written.contains('\n') && !written.contains('\u{202e}'), "{written}");
        }
    }
}
