//! Which files of two file systems differ.

use serde::Serialize;

use crate::files::{Entry, Files, FilesError, Kind, Listing, Seen, printable};

/// Is one file that differs between two file systems.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// The path inside the volume, printable.
    pub path: String,
    /// `only-left`, `only-right`, `kind`, `content`, `target` or `metadata`.
    pub what: &'static str,
    /// Lengths in bytes.
    pub lengths: [Option<u64>; 2],
    /// Times of modification, seconds since 1970.
    pub modified: [Option<i64>; 2],
}

/// Tells which files of two file systems differ; every file that both have with one length is read. What cannot be
/// read is handed to `failed` with the index of its side.
pub fn compare(
    sides: [&Files; 2],
    stopped: &dyn Fn() -> bool,
    failed: &mut dyn FnMut(usize, FilesError),
) -> Vec<FileDifference> {
    let mut differences = Vec::new();
    let mut waiting = Vec::new();
    match (sides[0].entry(b"/"), sides[1].entry(b"/")) {
        (Ok(left), Ok(right)) => waiting.push([left, right]),
        (left, right) => {
            for (side, top) in [left, right].into_iter().enumerate() {
                if let Err(error) = top {
                    failed(side, error);
                }
            }
        }
    }
    let mut seen = [Seen::default(), Seen::default()];
    while let Some(directories) = waiting.pop() {
        if stopped() {
            break;
        }
        let mut lists = [0, 1].map(|side| {
            let directory = &directories[side];
            let listing = seen[side].first(directory).and_then(|()| sides[side].list(directory));
            let listing = listing.unwrap_or_else(|error| Listing { failed: vec![error], ..Listing::default() });
            listing.failed.into_iter().for_each(|error| failed(side, error));
            listing.entries.into_iter().peekable()
        });
        let [left, right] = &mut lists;
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.path.cmp(&b.path),
            };
            let a = if order.is_le() { left.next() } else { None };
            let b = if order.is_ge() { right.next() } else { None };
            if let Some(what) = differs(sides, a.as_ref(), b.as_ref(), failed)
                && let Some(either) = a.as_ref().or(b.as_ref())
            {
                let length = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.inode.size());
                let modified = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.inode.modified().seconds);
                differences.push(FileDifference {
                    path: printable(&either.path),
                    what,
                    lengths: [length(&a), length(&b)],
                    modified: [modified(&a), modified(&b)],
                });
            }
            if let (Some(a), Some(b)) = (a, b)
                && a.kind == Kind::Directory
                && b.kind == Kind::Directory
            {
                waiting.push([a, b]);
            }
        }
    }
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    differences
}

fn differs(
    sides: [&Files; 2],
    a: Option<&Entry>,
    b: Option<&Entry>,
    failed: &mut dyn FnMut(usize, FilesError),
) -> Option<&'static str> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(_), None) => return Some("only-left"),
        (None, Some(_)) => return Some("only-right"),
        (None, None) => return None,
    };
    if a.inode.kind() != b.inode.kind() {
        return Some("kind");
    }
    if a.target != b.target {
        return Some("target");
    }
    if a.kind == Kind::File {
        if a.inode.size() != b.inode.size() {
            return Some("content");
        }
        let mut sums = [None, None];
        for (side, entry) in [a, b].into_iter().enumerate() {
            match sides[side].sha256(entry) {
                Ok(found) => sums[side] = Some(found),
                Err(error) => failed(side, error),
            }
        }
        if sums[0] != sums[1] {
            return Some("content");
        }
    }
    let metadata = |side: usize, entry: &Entry, failed: &mut dyn FnMut(usize, FilesError)| {
        let inode = &entry.inode;
        let mut attributes = sides[side].attributes(entry);
        for cause in attributes.failed {
            failed(side, crate::files::read(&entry.path)(cause));
        }
        attributes.found.sort_by(|a, b| a.name.cmp(&b.name));
        (inode.mode(), inode.uid(), inode.gid(), inode.modified(), inode.device(), attributes.found)
    };
    (metadata(0, a, failed) != metadata(1, b, failed)).then_some("metadata")
}
