//! In what two sides of a path differ, whatever a job would make of it.

use std::fmt;

use serde::Serialize;

use crate::entry::{Entry, Kind, Time};
use crate::newest::Clock;

/// Is one thing in which two sides differ. Its words are a contract with `-o json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "&'static str")]
pub enum What {
    /// B does not have it.
    OnlyA,
    /// A does not have it.
    OnlyB,
    /// A file against a directory, and so on; nothing else is compared then.
    Type,
    /// Files of different sizes; their content is not read then.
    Size,
    /// Files of one size with different content.
    Content,
    /// Links to different targets.
    Target,
    /// Times of modification, by more than the threshold.
    Mtime,
    /// Permission, set-id and sticky bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Extended attributes or ACLs.
    Attributes,
}

impl What {
    /// Returns the words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnlyA => "only in a",
            Self::OnlyB => "only in b",
            Self::Type => "type",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Mtime => "mtime",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Attributes => "attributes",
        }
    }
}

impl From<What> for &'static str {
    fn from(what: What) -> Self {
        what.as_str()
    }
}

impl fmt::Display for What {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Is what sides are compared by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Times that differ by no more are equal, nanoseconds.
    pub threshold: i128,
    /// The coarser of the two sides' time granularities, nanoseconds; at least 1.
    pub granularity: i128,
    /// Whether files are read although size and time are equal.
    pub checksum: bool,
    /// Whether only types, content and targets are compared.
    pub content_only: bool,
    /// Whether owners and groups are compared.
    pub owners: bool,
    /// Whether permission bits are compared.
    pub modes: bool,
}

/// Is what must be looked at closer; the answer is whether both sides are the same in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The content of two files of one size.
    Content,
    /// The targets of two links.
    Target,
    /// Extended attributes and ACLs of two files or directories.
    Attributes,
}

/// Compares what both sides have at one path; equal sides differ in nothing. Of two directories what is below them is
/// not meant. Special files are equal to special files.
pub fn compare<E>(
    a: &Entry,
    b: &Entry,
    rules: &Rules,
    mut same: impl FnMut(Question) -> Result<bool, E>,
) -> Result<Vec<What>, E> {
    if a.kind != b.kind {
        return Ok(vec![What::Type]);
    }
    if a.kind == Kind::Special {
        return Ok(Vec::new());
    }
    let clock = Clock { start: Time(i128::MAX / 2), threshold: rules.threshold, granularity: rules.granularity };
    let mut found = Vec::new();
    match a.kind {
        Kind::File if a.size != b.size => found.push(What::Size),
        Kind::File => {
            let read = rules.checksum || rules.content_only || clock.delta(a.mtime, b.mtime) > 0;
            if read && !same(Question::Content)? {
                found.push(What::Content);
            }
        }
        Kind::Link if !same(Question::Target)? => found.push(What::Target),
        Kind::Link | Kind::Directory | Kind::Special => {}
    }
    if rules.content_only {
        return Ok(found);
    }
    // Without the owner, set-id bits cannot be kept.
    let bits = if rules.owners { 0o7777 } else { 0o1777 };
    let link = a.kind == Kind::Link;
    let metadata = [
        (What::Mtime, !clock.close(a.mtime, b.mtime)),
        (What::Mode, rules.modes && !link && (a.mode ^ b.mode) & bits != 0),
        (What::Owner, rules.owners && (a.uid, a.gid) != (b.uid, b.gid)),
        (What::Attributes, !link && !same(Question::Attributes)?),
    ];
    found.extend(metadata.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i128 = Time::SECOND;

    fn entry(kind: Kind, size: u64, mtime: i128) -> Entry {
        Entry {
            kind,
            size,
            mtime: Time(mtime),
            ctime: Time(0),
            inode: 1,
            device: 1,
            mode: 0o644,
            uid: 1,
            gid: 1,
            links: 1,
            allocated: 0,
            created: None,
            mount_point: false,
        }
    }

    fn rules() -> Rules {
        Rules { threshold: 2 * S, granularity: 1, checksum: false, content_only: false, owners: true, modes: true }
    }

    /// Compares, and tells what was asked; what is asked about differs when it is among `differ`.
    fn asked(a: &Entry, b: &Entry, rules: &Rules, differ: &[Question]) -> (Vec<What>, Vec<Question>) {
        let mut questions = Vec::new();
        let found = compare(a, b, rules, |question| {
            questions.push(question);
            Ok::<_, ()>(!differ.contains(&question))
        });
        (found.unwrap(), questions)
    }

    #[test]
    fn files() {
        use Question::{Attributes, Content};
        let file = |size, mtime| entry(Kind::File, size, mtime);
        let one = file(1, 0);
        assert_eq!(asked(&one, &one, &rules(), &[Content]), (vec![], vec![Attributes]), "nothing asks for a read");
        assert_eq!(asked(&one, &file(2, 0), &rules(), &[]), (vec![What::Size], vec![Attributes]));
        assert_eq!(asked(&one, &file(2, 9 * S), &rules(), &[]).0, [What::Size, What::Mtime]);
        for (mtime, what) in [(1, vec![]), (2 * S, vec![]), (2 * S + 1, vec![What::Mtime])] {
            assert_eq!(asked(&one, &file(1, mtime), &rules(), &[]), (what, vec![Content, Attributes]), "{mtime}");
        }
        assert_eq!(asked(&one, &file(1, 1), &rules(), &[Content]).0, [What::Content]);
        assert_eq!(asked(&one, &file(1, 9 * S), &rules(), &[Content]).0, [What::Content, What::Mtime]);
        let checksum = Rules { checksum: true, ..rules() };
        assert_eq!(asked(&one, &one, &checksum, &[Content]).0, [What::Content]);
        let coarse = Rules { granularity: 2 * S, ..rules() };
        assert_eq!(asked(&one, &file(1, S), &coarse, &[Content]), (vec![], vec![Attributes]));
    }

    #[test]
    fn metadata() {
        for kind in [Kind::File, Kind::Directory] {
            let one = entry(kind, 0, 0);
            let (mode, owner) = (Entry { mode: 0o600, ..one.clone() }, Entry { gid: 9, ..one.clone() });
            assert_eq!(asked(&one, &mode, &rules(), &[]).0, [What::Mode]);
            assert_eq!(asked(&one, &owner, &rules(), &[]).0, [What::Owner]);
            assert_eq!(asked(&one, &one, &rules(), &[Question::Attributes]).0, [What::Attributes]);
            assert!(asked(&one, &mode, &Rules { modes: false, ..rules() }, &[]).0.is_empty());
            let unowned = Rules { owners: false, ..rules() };
            assert!(asked(&one, &owner, &unowned, &[]).0.is_empty());
            assert!(asked(&one, &Entry { mode: 0o4644, ..one.clone() }, &unowned, &[]).0.is_empty());
        }
        let link = entry(Kind::Link, 1, 0);
        let other = Entry { mode: 0o777, uid: 9, mtime: Time(9 * S), ..link.clone() };
        assert_eq!(asked(&link, &other, &rules(), &[]), (vec![What::Mtime, What::Owner], vec![Question::Target]));
        assert_eq!(asked(&link, &link, &rules(), &[Question::Target]).0, [What::Target]);
    }

    #[test]
    fn content_only_reads_files_and_leaves_metadata_out() {
        let only = Rules { content_only: true, ..rules() };
        let one = entry(Kind::File, 1, 0);
        let other = Entry { mode: 0, uid: 9, mtime: Time(9 * S), ..one.clone() };
        assert_eq!(asked(&one, &other, &only, &[Question::Attributes]), (vec![], vec![Question::Content]));
        assert_eq!(asked(&one, &one, &only, &[Question::Content]).0, [What::Content]);
        assert_eq!(asked(&one, &entry(Kind::File, 2, 0), &only, &[]).0, [What::Size]);
        let directory = entry(Kind::Directory, 0, 0);
        assert!(asked(&directory, &Entry { mode: 0, ..directory.clone() }, &only, &[]).0.is_empty());
    }

    #[test]
    fn types() {
        let kinds = [Kind::File, Kind::Directory, Kind::Link, Kind::Special];
        for (one, other) in kinds.iter().flat_map(|one| kinds.map(|other| (*one, other))) {
            let (found, questions) = asked(&entry(one, 1, 0), &entry(other, 1, 0), &rules(), &[]);
            assert_eq!(found, if one == other { vec![] } else { vec![What::Type] });
            assert!(one == other || questions.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_called_equal() {
        let one = entry(Kind::File, 1, 0);
        assert_eq!(compare(&one, &one, &rules(), |_| Err("unreadable")), Err("unreadable"));
    }
}
