//! The lines of a log: JSON objects whose first member `type` tells what they are.

use std::borrow::Cow;

use ha_sync_core::record::{Identity, Intent, Metadata, Operation, OperationKind, OperationStatus, Way};
use serde::{Deserialize, Serialize};

use crate::time;

/// Is what a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Iteration,
    Intent,
    Operation,
    End,
}

/// Reads the type of a line.
pub(crate) fn kind(line: &[u8]) -> Option<Kind> {
    #[derive(Deserialize)]
    struct Tag<'a> {
        #[serde(rename = "type")]
        name: &'a str,
    }
    // what this module writes is told without a parse
    if line.starts_with(br#"{"type":"operation","#) {
        return Some(Kind::Operation);
    }
    if line.starts_with(br#"{"type":"intent","#) {
        return Some(Kind::Intent);
    }
    let Tag { name } = serde_json::from_slice(line).ok()?;
    match name {
        "iteration" => Some(Kind::Iteration),
        "intent" => Some(Kind::Intent),
        "operation" => Some(Kind::Operation),
        "end" => Some(Kind::End),
        _ => None,
    }
}

/// Appends a line of type `name` (the seldom ones: header and trailer).
pub(crate) fn write_tagged(lines: &mut Vec<u8>, name: &str, value: &impl Serialize) -> serde_json::Result<()> {
    let object = serde_json::to_vec(value)?;
    lines.extend_from_slice(br#"{"type":""#);
    lines.extend_from_slice(name.as_bytes());
    lines.extend_from_slice(br#"","#);
    lines.extend_from_slice(&object[1..]);
    lines.push(b'\n');
    Ok(())
}

/// Appends the line of an operation: every column of its row, `null` where that is empty (sync.md §6).
pub(crate) fn write_operation(lines: &mut Vec<u8>, operation: &Operation, dry_run: bool) {
    let Operation {
        seq,
        operation,
        direction,
        filepath,
        size_before,
        size_after,
        bytes,
        md5_before,
        md5_after,
        started_at,
        ended_at,
        status,
        error_message,
        reason,
    } = operation;
    lines.extend_from_slice(br#"{"type":"operation","seq":"#);
    write_number(lines, i128::from(*seq));
    lines.extend_from_slice(if dry_run { br#","dry_run":true"# } else { br#","dry_run":false"# });
    lines.extend_from_slice(br#","operation":""#);
    lines.extend_from_slice(operation.as_str().as_bytes());
    lines.extend_from_slice(br#"","direction":"#);
    write_if_any(lines, direction.as_ref(), |lines, direction| write_text(lines, direction.as_str()));
    lines.extend_from_slice(br#","filepath":"#);
    write_text(lines, filepath);
    for (name, size) in [(&br#","size_before":"#[..], size_before), (br#","size_after":"#, size_after)] {
        lines.extend_from_slice(name);
        write_if_any(lines, size.as_ref(), |lines, size| write_number(lines, i128::from(*size)));
    }
    lines.extend_from_slice(br#","bytes":"#);
    write_number(lines, i128::from(*bytes));
    for (name, md5) in [(&br#","md5_before":"#[..], md5_before), (br#","md5_after":"#, md5_after)] {
        lines.extend_from_slice(name);
        write_if_any(lines, md5.as_deref(), write_text);
    }
    lines.extend_from_slice(br#","started_at":""#);
    lines.extend_from_slice(&time::rfc3339(*started_at));
    lines.extend_from_slice(br#"","ended_at":"#);
    write_if_any(lines, ended_at.as_ref(), |lines, ended_at| {
        lines.push(b'"');
        lines.extend_from_slice(&time::rfc3339(*ended_at));
        lines.push(b'"');
    });
    lines.extend_from_slice(br#","status":""#);
    lines.extend_from_slice(match status {
        OperationStatus::Success => b"success",
        OperationStatus::Fail => b"fail",
    });
    lines.push(b'"');
    for (name, text) in [(&br#","error_message":"#[..], error_message), (br#","reason":"#, reason)] {
        lines.extend_from_slice(name);
        write_if_any(lines, text.as_deref(), write_text);
    }
    lines.extend_from_slice(b"}\n");
}

fn write_if_any<T: ?Sized>(lines: &mut Vec<u8>, value: Option<&T>, write: impl FnOnce(&mut Vec<u8>, &T)) {
    match value {
        Some(value) => write(lines, value),
        None => lines.extend_from_slice(b"null"),
    }
}

/// Appends the line of an intent.
pub(crate) fn write_intent(lines: &mut Vec<u8>, intent: &Intent) {
    let Intent { seq, operation, direction, filepath, before, after } = intent;
    lines.extend_from_slice(br#"{"type":"intent","seq":"#);
    write_number(lines, i128::from(*seq));
    lines.extend_from_slice(br#","operation":""#);
    lines.extend_from_slice(operation.as_str().as_bytes());
    write_direction(lines, *direction);
    lines.extend_from_slice(br#"","filepath":"#);
    write_text(lines, filepath);
    for (name, identity) in [(&br#","before":"#[..], before), (br#","after":"#, after)] {
        if let Some(Identity { kind, size, mtime, inode, metadata }) = identity {
            lines.extend_from_slice(name);
            lines.extend_from_slice(br#"{"kind":"#);
            write_text(lines, kind.encode_utf8(&mut [0; 4]));
            lines.extend_from_slice(br#","size":"#);
            write_number(lines, i128::from(*size));
            lines.extend_from_slice(br#","mtime":"#);
            write_number(lines, *mtime);
            lines.extend_from_slice(br#","inode":"#);
            write_number(lines, i128::from(*inode));
            if let Some(Metadata { mode, uid, gid, ctime }) = metadata {
                lines.extend_from_slice(br#","metadata":{"mode":"#);
                write_number(lines, i128::from(*mode));
                lines.extend_from_slice(br#","uid":"#);
                write_number(lines, i128::from(*uid));
                lines.extend_from_slice(br#","gid":"#);
                write_number(lines, i128::from(*gid));
                lines.extend_from_slice(br#","ctime":"#);
                write_number(lines, *ctime);
                lines.push(b'}');
            }
            lines.push(b'}');
        }
    }
    lines.extend_from_slice(b"}\n");
}

/// Goes between two members whose first still lacks its closing quote.
fn write_direction(lines: &mut Vec<u8>, direction: Option<Way>) {
    if let Some(direction) = direction {
        lines.extend_from_slice(br#"","direction":""#);
        lines.extend_from_slice(direction.as_str().as_bytes());
    }
}

fn write_number(lines: &mut Vec<u8>, number: i128) {
    let mut digits = [0; 40];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    // 64-bit division is many times faster, and all but absurd times fit
    while rest > u128::from(u64::MAX) {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let mut rest = rest as u64;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        lines.push(b'-');
    }
    lines.extend_from_slice(&digits[at..]);
}

fn write_text(lines: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    lines.push(b'"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        lines.extend_from_slice(&text.as_bytes()[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => lines.extend_from_slice(br#"\""#),
            b'\\' => lines.extend_from_slice(br"\\"),
            b'\n' => lines.extend_from_slice(br"\n"),
            control => {
                lines.extend_from_slice(br"\u00");
                lines.push(HEX[usize::from(control >> 4)]);
                lines.push(HEX[usize::from(control & 15)]);
            }
        }
    }
    lines.extend_from_slice(&text.as_bytes()[plain_from..]);
    lines.push(b'"');
}

/// Is an operation whose texts stay in the line that it was read from.
#[derive(Debug, Deserialize)]
pub(crate) struct OperationLine<'a> {
    pub(crate) seq: u64,
    pub(crate) operation: OperationKind,
    #[serde(default)]
    pub(crate) direction: Option<Way>,
    #[serde(borrow)]
    pub(crate) filepath: Cow<'a, str>,
    #[serde(default)]
    pub(crate) size_before: Option<u64>,
    #[serde(default)]
    pub(crate) size_after: Option<u64>,
    #[serde(default)]
    pub(crate) bytes: u64,
    #[serde(default, borrow)]
    pub(crate) md5_before: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub(crate) md5_after: Option<Text<'a>>,
    pub(crate) started_at: SqlTime,
    #[serde(default)]
    pub(crate) ended_at: Option<SqlTime>,
    pub(crate) status: OperationStatus,
    #[serde(default, borrow)]
    pub(crate) error_message: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub(crate) reason: Option<Text<'a>>,
}

/// Borrows where it can; serde does so only for a `Cow` that is a field itself.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Is a time in the database's spelling.
#[derive(Debug, Deserialize)]
#[serde(try_from = "&str")]
pub(crate) struct SqlTime([u8; time::SQL_LENGTH]);

impl TryFrom<&str> for SqlTime {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, &'static str> {
        time::sql_from_log(text).map(Self).ok_or("not a time")
    }
}

impl SqlTime {
    /// Returns `2026-04-13 15:23:57.123`.
    pub(crate) fn as_str(&self) -> &str {
        // digits and separators only: always UTF-8
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = OperationKind> {
        prop_oneof![Just(OperationKind::Create), Just(OperationKind::Update), Just(OperationKind::Delete)]
    }

    fn ways() -> impl Strategy<Value = Option<Way>> {
        prop_oneof![Just(None), Just(Some(Way::AToB)), Just(Some(Way::BToA))]
    }

    fn identities() -> impl Strategy<Value = Option<Identity>> {
        let metadata =
            proptest::option::of(any::<(u32, u32, u32, i128)>().prop_map(|(mode, uid, gid, ctime)| Metadata {
                mode,
                uid,
                gid,
                ctime,
            }));
        proptest::option::of(
            (any::<char>(), any::<u64>(), any::<i128>(), any::<u64>(), metadata)
                .prop_map(|(kind, size, mtime, inode, metadata)| Identity { kind, size, mtime, inode, metadata }),
        )
    }

    prop_compose! {
        fn operations()(
            (seq, operation, direction, filepath) in (any::<u64>(), kinds(), ways(), any::<String>()),
            sizes in any::<(Option<u64>, Option<u64>)>(),
            bytes in prop_oneof![Just(0), any::<u64>()],
            texts in any::<[Option<String>; 4]>(),
            (started, ended) in (0..253_402_300_799_999_i64, proptest::option::of(0..253_402_300_799_999_i64)),
            success in any::<bool>(),
        ) -> Operation {
            let [md5_before, md5_after, error_message, reason] = texts;
            Operation {
                seq, operation, direction, filepath, size_before: sizes.0, size_after: sizes.1, bytes, md5_before, md5_after,
                started_at: Timestamp::from_millisecond(started).unwrap(),
                ended_at: ended.map(|ended| Timestamp::from_millisecond(ended).unwrap()),
                status: if success { OperationStatus::Success } else { OperationStatus::Fail },
                error_message, reason,
            }
        }
    }

    /// Is a flag that has nothing to do with the rest.
    fn bytes_are_odd(operation: &Operation) -> bool {
        operation.bytes % 2 == 1
    }

    proptest! {
        #[test]
        fn operations_read_back(operation in operations()) {
            let mut line = Vec::new();
            write_operation(&mut line, &operation, bytes_are_odd(&operation));
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(kind(&line), Some(Kind::Operation));
            let read: Operation = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(&read, &operation);
            let written: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let columns = [
                "dry_run", "operation", "filepath", "size_before", "size_after", "md5_before", "md5_after", "started_at",
                "ended_at", "status", "error_message", "seq", "reason", "direction",
            ];
            for column in columns {
                prop_assert!(written.get(column).is_some(), "{}", column);
            }
            prop_assert_eq!(&written["dry_run"], &serde_json::json!(bytes_are_odd(&operation)));
            let read: OperationLine<'_> = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!((&*read.filepath, read.bytes), (&*operation.filepath, operation.bytes));
            prop_assert_eq!(read.direction, operation.direction);
            prop_assert_eq!(time::from_sql(read.started_at.as_str()), Some(operation.started_at));
        }

        #[test]
        fn intents_read_back(
            seq in any::<u64>(), operation in kinds(), direction in ways(), filepath in any::<String>(),
            before in identities(), after in identities(),
        ) {
            let intent = Intent { seq, operation, direction, filepath, before, after };
            let mut line = Vec::new();
            write_intent(&mut line, &intent);
            prop_assert_eq!(kind(&line), Some(Kind::Intent));
            prop_assert_eq!(serde_json::from_slice::<Intent>(&line).unwrap(), intent);
        }
    }
}
