//! What a one-way run is to do, written from sync.md §2 and §11 and from nothing else: trees are maps, and every
//! path is decided by itself.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) const SECOND: i128 = 1_000_000_000;
/// When all runs of the model begin.
pub(crate) const START: i128 = 1_750_000_000 * SECOND;
pub(crate) const THRESHOLD: i128 = 2 * SECOND;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File(Vec<u8>),
    Link(Vec<u8>),
    Fifo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) what: What,
    pub(crate) mode: u32,
    pub(crate) mtime: i128,
}

/// Paths without the root.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// Is an operation: create, update or delete, the path, and the reason where the rules name one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Operation {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: &'static str,
    pub(crate) failed: bool,
    pub(crate) reason: Option<&'static str>,
}

/// Is what a run leaves.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) tree: Tree,
    pub(crate) operations: BTreeSet<Operation>,
    /// What was replaced or deleted, by path.
    pub(crate) trash: Tree,
}

impl Node {
    fn is_directory(&self) -> bool {
        self.what == What::Directory
    }

    fn is_special(&self) -> bool {
        self.what == What::Fifo
    }

    fn size(&self) -> usize {
        match &self.what {
            What::File(bytes) | What::Link(bytes) => bytes.len(),
            What::Directory | What::Fifo => 0,
        }
    }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.len() > directory.len() && path.starts_with(directory) && path[directory.len()] == b'/'
}

/// Returns the direct children's paths of both trees below a directory (empty: the root).
fn children(trees: [&Tree; 2], directory: &[u8]) -> BTreeSet<Vec<u8>> {
    let is_child = |path: &&Vec<u8>| {
        let rest = if directory.is_empty() {
            Some(&path[..])
        } else {
            is_below(path, directory).then(|| &path[directory.len() + 1..])
        };
        rest.is_some_and(|rest| !rest.contains(&b'/'))
    };
    trees.into_iter().flat_map(|tree| tree.keys().filter(is_child)).cloned().collect()
}

fn is_ahead(time: i128) -> bool {
    time > START + THRESHOLD
}

/// Says why something is created, when that is not plain.
fn create_reason(node: &Node) -> Option<&'static str> {
    is_ahead(node.mtime).then_some("future time")
}

/// Says which side is newer when the times differ by more than the threshold: a time in the future counts as now,
/// but two are compared as they are.
fn source_is_newer(source: i128, destination: i128) -> (bool, bool) {
    let ahead = is_ahead;
    let future = ahead(source) || ahead(destination);
    let (left, right) = if ahead(source) && ahead(destination) {
        (source, destination)
    } else {
        (source.min(if ahead(source) { START } else { source }), if ahead(destination) { START } else { destination })
    };
    (left > right, future)
}

/// Is what becomes of a file or link that both sides have.
enum Verdict {
    Nothing,
    /// The source's replaces the destination's.
    Take(Option<&'static str>),
    /// The destination keeps its content and gets the source's times and mode.
    Dress(Option<&'static str>),
}

fn newest(source: &Node, destination: &Node) -> Verdict {
    match source_is_newer(source.mtime, destination.mtime) {
        (true, true) => Verdict::Take(Some("future time")),
        (true, false) => Verdict::Take(None),
        (false, _) => Verdict::Nothing,
    }
}

fn both(source: &Node, destination: &Node) -> Verdict {
    let delta = (source.mtime - destination.mtime).abs();
    let tie = |wins: bool| if wins { Verdict::Take(Some("tie")) } else { Verdict::Nothing };
    let modes = || if source.mode == destination.mode { Verdict::Nothing } else { Verdict::Dress(None) };
    match (&source.what, &destination.what) {
        (What::File(left), What::File(right)) if left.len() == right.len() => {
            if delta == 0 {
                modes()
            } else if delta <= THRESHOLD {
                if left == right { modes() } else { tie(source.mtime > destination.mtime) }
            } else if left == right {
                match source_is_newer(source.mtime, destination.mtime) {
                    (true, true) => Verdict::Dress(Some("future time")),
                    (true, false) => Verdict::Dress(Some("same content")),
                    (false, _) => Verdict::Nothing,
                }
            } else {
                newest(source, destination)
            }
        }
        (What::Link(left), What::Link(right)) if left == right => {
            if delta <= THRESHOLD {
                return Verdict::Nothing;
            }
            match source_is_newer(source.mtime, destination.mtime) {
                (true, true) => Verdict::Dress(Some("future time")),
                (true, false) => Verdict::Dress(None),
                (false, _) => Verdict::Nothing,
            }
        }
        (What::Link(left), What::Link(right)) => {
            if delta <= THRESHOLD {
                tie((source.mtime, left) > (destination.mtime, right))
            } else {
                newest(source, destination)
            }
        }
        // Sizes differ; a file and a link of equal size are not among the trees.
        _ => {
            if delta <= THRESHOLD {
                tie((source.mtime, source.size()) > (destination.mtime, destination.size()))
            } else {
                newest(source, destination)
            }
        }
    }
}

/// Returns what a run makes of the destination.
pub(crate) fn expect(source: &Tree, destination: &Tree, delete: bool) -> Expected {
    let mut expected = Expected { tree: destination.clone(), ..Expected::default() };
    expected.directory(source, destination, delete, b"");
    expected
}

impl Expected {
    fn note(&mut self, path: &[u8], kind: &'static str, reason: Option<&'static str>) {
        self.operations.insert(Operation { path: path.to_vec(), kind, failed: false, reason });
    }

    fn directory(&mut self, source: &Tree, destination: &Tree, delete: bool, directory: &[u8]) {
        for path in children([source, destination], directory) {
            match (source.get(&path), destination.get(&path)) {
                (Some(left), _) if left.is_special() => {}
                (_, Some(right)) if right.is_special() => {}
                (Some(_), None) => self.create(source, &path),
                (None, Some(_)) if delete => {
                    self.delete(destination, &path);
                }
                (None, _) => {}
                (Some(left), Some(right)) => match (left.is_directory(), right.is_directory()) {
                    (true, true) => {
                        self.dress_directory(&path, left, right);
                        self.directory(source, destination, delete, &path);
                    }
                    (false, false) => self.decide(&path, left, right),
                    _ => self.conflict(source, destination, delete, &path),
                },
            }
        }
    }

    fn create(&mut self, source: &Tree, path: &[u8]) {
        let node = &source[path];
        self.tree.insert(path.to_vec(), node.clone());
        self.note(path, "create", create_reason(node));
        self.create_below(source, path);
    }

    fn create_below(&mut self, source: &Tree, path: &[u8]) {
        for (below, node) in source {
            if is_below(below, path) && !node.is_special() {
                self.tree.insert(below.clone(), node.clone());
                self.note(below, "create", create_reason(node));
            }
        }
    }

    /// Returns whether something stayed: a special file keeps the directories above it.
    fn delete(&mut self, destination: &Tree, path: &[u8]) -> bool {
        let node = &destination[path];
        if node.is_special() {
            return true;
        }
        let mut stays = false;
        if node.is_directory() {
            for below in children([destination, &Tree::new()], path) {
                stays |= self.delete(destination, &below);
            }
        }
        if !stays {
            self.tree.remove(path);
            if !node.is_directory() {
                self.trash.insert(path.to_vec(), node.clone());
            }
            self.note(path, "delete", None);
        }
        stays
    }

    fn dress_directory(&mut self, path: &[u8], left: &Node, right: &Node) {
        let delta = (left.mtime - right.mtime).abs();
        let from_source =
            if delta > THRESHOLD { source_is_newer(left.mtime, right.mtime).0 } else { left.mode != right.mode };
        if from_source {
            self.tree.insert(path.to_vec(), left.clone());
            self.note(path, "update", None);
        }
    }

    fn decide(&mut self, path: &[u8], left: &Node, right: &Node) {
        match both(left, right) {
            Verdict::Nothing => {}
            Verdict::Take(reason) => {
                self.trash.insert(path.to_vec(), right.clone());
                self.tree.insert(path.to_vec(), left.clone());
                self.note(path, "update", reason);
            }
            Verdict::Dress(reason) => {
                let what = right.what.clone();
                self.tree.insert(path.to_vec(), Node { what, mode: left.mode, mtime: left.mtime });
                self.note(path, "update", reason);
            }
        }
    }

    fn conflict(&mut self, source: &Tree, destination: &Tree, delete: bool, path: &[u8]) {
        let may_not_move = destination.iter().any(|(below, node)| is_below(below, path) && node.is_special());
        if !delete || may_not_move {
            let reason = Some("type conflict");
            self.operations.insert(Operation { path: path.to_vec(), kind: "update", failed: true, reason });
            return;
        }
        for (below, node) in destination {
            if below == path || is_below(below, path) {
                self.tree.remove(below);
                self.trash.insert(below.clone(), node.clone());
            }
        }
        self.tree.insert(path.to_vec(), source[path].clone());
        self.note(path, "update", None);
        self.create_below(source, path);
    }
}
