//! Paths of these tests: what `statx` says, and what only a closer look tells.

use super::*;

/// Is when the runs of these tests begin.
pub(super) const START: i128 = 1_750_000_000 * Time::SECOND;
pub(super) const OLD: i128 = START - 1_000_000 * Time::SECOND;
pub(super) const S: i128 = Time::SECOND;

pub(super) fn rules() -> Rules {
    Rules {
        start: Time(START),
        threshold: 2 * S,
        granularity: 1,
        last_start: None,
        checksum: false,
        conflict: ConflictPolicy::Newest,
        owners: true,
        modes: true,
    }
}

/// Is one side of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) entry: Entry,
    /// Content of a file, target of a link.
    pub(super) bytes: Vec<u8>,
    pub(super) attributes: u64,
}

fn node(kind: Kind, mtime: i128, bytes: &str) -> Node {
    let entry = Entry {
        kind,
        size: bytes.len() as u64,
        mtime: Time(mtime),
        ctime: Time(OLD),
        inode: 1,
        device: 1,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        links: 1,
        allocated: 0,
        created: None,
        mount_point: false,
    };
    Node { entry, bytes: bytes.as_bytes().to_vec(), attributes: 0 }
}

pub(super) fn file(mtime: i128, content: &str) -> Node {
    node(Kind::File, mtime, content)
}

pub(super) fn link(mtime: i128, target: &str) -> Node {
    node(Kind::Link, mtime, target)
}

pub(super) fn directory(mtime: i128) -> Node {
    node(Kind::Directory, mtime, "")
}

pub(super) fn special(mtime: i128) -> Node {
    node(Kind::Special, mtime, "")
}

/// Every change moves the ctime, as in a real file system.
impl Node {
    pub(super) fn touched(mut self) -> Self {
        self.entry.ctime.0 += 1;
        self
    }

    pub(super) fn write(mut self, mtime: i128, content: &str) -> Self {
        (self.entry.mtime, self.entry.size) = (Time(mtime), content.len() as u64);
        self.bytes = content.as_bytes().to_vec();
        self.touched()
    }

    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.entry.mode = mode;
        self.touched()
    }

    pub(super) fn owner(mut self, uid: u32) -> Self {
        self.entry.uid = uid;
        self.touched()
    }

    pub(super) fn attributes(mut self, attributes: u64) -> Self {
        self.attributes = attributes;
        self.touched()
    }

    pub(super) fn inode(mut self, inode: u64) -> Self {
        self.entry.inode = inode;
        self.touched()
    }

    /// What is agreed when both sides are this.
    pub(super) fn agreed(&self) -> Agreed {
        agreed(self, self)
    }
}

pub(super) fn agreed(a: &Node, b: &Node) -> Agreed {
    let mut agreed = Agreed::new(&a.entry, &b.entry, Some(sum(&a.bytes)).filter(|_| !a.entry.is_directory()));
    (agreed.a.attributes, agreed.b.attributes) = (Some(a.attributes), Some(b.attributes));
    agreed
}

/// Orders like an MD5 in these tests: the greater content has the greater sum.
pub(super) fn sum(bytes: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    let length = bytes.len().min(16);
    sum[..length].copy_from_slice(&bytes[..length]);
    sum
}

struct Looked<'a> {
    a: Option<&'a Node>,
    b: Option<&'a Node>,
    below: Below,
    reads: u32,
}

impl Looked<'_> {
    fn at(&self, side: Side) -> Result<&Node, &'static str> {
        match side {
            Side::A => self.a,
            Side::B => self.b,
        }
        .ok_or("a look at what is not there")
    }
}

impl Look for Looked<'_> {
    type Error = &'static str;

    fn compare(&mut self) -> Result<Content, Self::Error> {
        self.reads += 2;
        let (a, b) = (self.at(Side::A)?, self.at(Side::B)?);
        if a.entry.kind != Kind::File || b.entry.kind != Kind::File {
            return Err("only files are compared");
        }
        if a.entry.size != b.entry.size {
            return Err("sizes differ, so does the content");
        }
        Ok(Content { source: sum(&a.bytes), destination: sum(&b.bytes), equal: a.bytes == b.bytes })
    }

    fn content(&mut self, side: Side) -> Result<[u8; 16], Self::Error> {
        self.reads += 1;
        let node = self.at(side)?;
        if !matches!(node.entry.kind, Kind::File | Kind::Link) {
            return Err("only files and links have content");
        }
        Ok(sum(&node.bytes))
    }

    fn target(&mut self, side: Side) -> Result<Vec<u8>, Self::Error> {
        let node = self.at(side)?;
        if node.entry.kind == Kind::Link { Ok(node.bytes.clone()) } else { Err("only links have targets") }
    }

    fn attributes(&mut self, side: Side) -> Result<u64, Self::Error> {
        let node = self.at(side)?;
        if node.entry.kind == Kind::Link { Err("links have no attributes") } else { Ok(node.attributes) }
    }

    fn below(&mut self, side: Side) -> Result<Below, Self::Error> {
        if self.at(side)?.entry.is_directory() { Ok(self.below) } else { Err("below is only a directory") }
    }
}

/// Decides, and tells how many files and links were read.
pub(super) fn look(a: Option<&Node>, b: Option<&Node>, agreed: Option<&Agreed>, rules: &Rules) -> (Verdict, u32) {
    let mut looked = Looked { a, b, below: Below::Agreed, reads: 0 };
    let (a, b) = (a.map(|node| &node.entry), b.map(|node| &node.entry));
    let verdict = reconcile(a, b, agreed, rules, &mut looked).unwrap();
    (verdict, looked.reads)
}

pub(super) fn look_below(
    a: Option<&Node>,
    b: Option<&Node>,
    agreed: Option<&Agreed>,
    rules: &Rules,
    below: Below,
) -> Verdict {
    let mut looked = Looked { a, b, below, reads: 0 };
    reconcile(a.map(|node| &node.entry), b.map(|node| &node.entry), agreed, rules, &mut looked).unwrap()
}

/// Returns the verdict as it is seen from the other end.
pub(super) fn swapped(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Settle { merge, content, reason } => Verdict::Settle { merge: merge.swapped(), content, reason },
        Verdict::Propagate { from, merge, reason } => {
            Verdict::Propagate { from: from.other(), merge: merge.swapped(), reason }
        }
        Verdict::Delete { side } => Verdict::Delete { side: side.other() },
        Verdict::Conflict { winner, how, reason } => {
            Verdict::Conflict { winner: winner.other(), how: swapped_policy(how), reason }
        }
        Verdict::Nothing | Verdict::Forget | Verdict::Skip(_) | Verdict::Fail(_) => verdict,
    }
}

fn swapped_policy(policy: ConflictPolicy) -> ConflictPolicy {
    match policy {
        ConflictPolicy::PreferA => ConflictPolicy::PreferB,
        ConflictPolicy::PreferB => ConflictPolicy::PreferA,
        other => other,
    }
}

pub(super) fn swapped_rules(rules: &Rules) -> Rules {
    Rules { conflict: swapped_policy(rules.conflict), ..rules.clone() }
}
