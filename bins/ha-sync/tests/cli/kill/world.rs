//! A pair of folders that is changed, synchronised, interrupted and looked at, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ha_testkit::command::{Environment, Outcome, Run};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use sqlx::{Connection, SqliteConnection};

pub(super) const BASE: i64 = 1_700_000_000;
pub(super) const LARGE: usize = 6 << 20;
pub(super) const BUSY: usize = 2 << 20;

/// Is a sequence of numbers that a seed determines (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Is true in so many cases of a hundred.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum What {
    Directory,
    File(Arc<Vec<u8>>),
    Link(String),
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) what: What,
    /// Links have none.
    pub(super) mode: u32,
    /// Nanoseconds since 1970.
    pub(super) mtime: i128,
}

impl Node {
    pub(super) fn is_directory(&self) -> bool {
        self.what == What::Directory
    }

    pub(super) fn describe(&self) -> String {
        let what = match &self.what {
            What::Directory => "directory".to_owned(),
            What::Link(target) => format!("link to {target}"),
            What::File(content) => {
                let begin = String::from_utf8_lossy(&content[..content.len().min(48)]).into_owned();
                let end = String::from_utf8_lossy(&content[content.len().saturating_sub(48)..]).into_owned();
                format!("file of {} bytes {begin:?}…{end:?}", content.len())
            }
        };
        format!("{what}, mode {:o}, mtime {}", self.mode, self.mtime)
    }
}

pub(super) fn told(node: Option<&Node>) -> String {
    node.map_or_else(|| "nothing".to_owned(), Node::describe)
}

pub(super) type Tree = BTreeMap<String, Node>;

/// Makes the content of a version of a path: no stretch of it is that of another version or path.
pub(super) fn content(path: &str, version: u64, size: usize) -> Arc<Vec<u8>> {
    let line = format!("{path} version {version}\n");
    let mut content = Vec::with_capacity(size + line.len());
    while content.len() < size.min(4096) {
        content.extend_from_slice(line.as_bytes());
    }
    while content.len() < size {
        let more = content.len().min(size - content.len());
        content.extend_from_within(..more);
    }
    content.truncate(size);
    Arc::new(content)
}

pub(super) fn times(mtime: i128) -> Timestamps {
    let time =
        Timespec { tv_sec: mtime.div_euclid(1_000_000_000) as i64, tv_nsec: mtime.rem_euclid(1_000_000_000) as i64 };
    Timestamps { last_access: time, last_modification: time }
}

pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(".ha-sync.") && name.ends_with(".tmp")
}

/// Reads a tree without its own directory; temporary entries are told apart.
pub(super) fn read(root: &Path) -> (Tree, Vec<String>) {
    let (mut tree, mut temporary) = (Tree::new(), Vec::new());
    let mut waiting = vec![String::new()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if directory.is_empty() && name == ".ha-sync" {
                continue;
            }
            let path = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
            if is_temporary(&name) {
                temporary.push(path);
                continue;
            }
            let node = look(&root.join(&path));
            if node.is_directory() {
                waiting.push(path.clone());
            }
            tree.insert(path, node);
        }
    }
    (tree, temporary)
}

pub(super) fn look(path: &Path) -> Node {
    let meta = path.symlink_metadata().unwrap();
    let what = if meta.is_dir() {
        What::Directory
    } else if meta.is_symlink() {
        What::Link(fs::read_link(path).unwrap().into_os_string().into_string().unwrap())
    } else {
        What::File(Arc::new(fs::read(path).unwrap()))
    };
    let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
    Node { what, mode, mtime: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()) }
}

/// Makes a directory that is `before` into `after`.
pub(super) fn materialize(root: &Path, before: &Tree, after: &Tree) {
    for (path, old) in before.iter().rev() {
        let goes =
            after.get(path).is_none_or(|new| std::mem::discriminant(&new.what) != std::mem::discriminant(&old.what));
        if goes && old.is_directory() {
            fs::remove_dir(root.join(path)).unwrap();
        } else if goes {
            fs::remove_file(root.join(path)).unwrap();
        }
    }
    for (path, node) in after {
        let old =
            before.get(path).filter(|old| std::mem::discriminant(&old.what) == std::mem::discriminant(&node.what));
        if old == Some(node) {
            continue;
        }
        let full = root.join(path);
        match &node.what {
            What::Directory if old.is_none() => fs::create_dir(&full).unwrap(),
            What::Directory => {}
            What::File(content) if old.is_none_or(|old| old.what != node.what) => {
                fs::write(&full, &content[..]).unwrap()
            }
            What::File(_) => {}
            What::Link(target) => {
                let _ = fs::remove_file(&full);
                std::os::unix::fs::symlink(target, &full).unwrap();
            }
        }
    }
    for (path, node) in after.iter().rev() {
        let full = root.join(path);
        if !matches!(node.what, What::Link(_)) {
            fs::set_permissions(&full, fs::Permissions::from_mode(node.mode)).unwrap();
        }
        rustix::fs::utimensat(CWD, &full, &times(node.mtime), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Is a row of the operations of one run.
pub(super) type Rows = BTreeMap<String, Vec<String>>;

pub(super) struct Iteration {
    pub(super) id: i64,
    pub(super) status: String,
    pub(super) counts: [i64; 4],
    pub(super) rows: Rows,
    pub(super) failures: Vec<String>,
}

pub(super) fn iterations(database: &Path, after: i64) -> Vec<Iteration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let found: Vec<(i64, String, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT id, status, files_created, files_updated, files_deleted, files_failed FROM sync_iterations \
             WHERE id > ? ORDER BY id",
        )
        .bind(after)
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let mut all = Vec::new();
        for (id, status, created, updated, deleted, failed) in found {
            let operations: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
                "SELECT filepath, operation, status, error_message FROM sync_operations WHERE iteration_id = ? \
                 ORDER BY seq",
            )
            .bind(id)
            .fetch_all(&mut connection)
            .await
            .unwrap();
            let (mut rows, mut failures) = (Rows::new(), Vec::new());
            for (path, operation, status, error) in operations {
                if status == "success" {
                    rows.entry(path).or_default().push(operation);
                } else {
                    failures.push(format!("{path}: {}", error.unwrap_or_default()));
                }
            }
            all.push(Iteration { id, status, counts: [created, updated, deleted, failed], rows, failures });
        }
        connection.close().await.unwrap();
        all
    })
}

/// Is a pair of folders that is changed, synchronised, interrupted and looked at, again and again.
pub(super) struct World {
    pub(super) place: Environment,
    pub(super) random: Random,
    pub(super) delete: bool,
    /// Whether there is a trash.
    pub(super) keep: bool,
    pub(super) source: Tree,
    pub(super) destination: Tree,
    /// Counts versions and names.
    pub(super) counter: u64,
    pub(super) clock: i64,
    /// The last row of iterations that was looked at.
    pub(super) seen: i64,
    pub(super) large: usize,
    pub(super) small: usize,
}

/// What was seen when a run had ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) temporary: Vec<String>,
    /// It had done a part of its work.
    pub(super) in_the_middle: bool,
}

pub(super) fn fast_place() -> Environment {
    let memory = Path::new("/dev/shm");
    let probe = tempfile::tempfile_in(memory);
    if probe.is_ok() { Environment::in_directory(memory) } else { Environment::new() }
}

impl World {
    pub(super) fn new(seed: u64, delete: bool, large: usize, small: usize) -> Self {
        let place = fast_place();
        let random = Random(seed);
        fs::create_dir(place.join("source")).unwrap();
        fs::create_dir(place.join("destination")).unwrap();
        let mut world = Self {
            place,
            random,
            delete,
            keep: true,
            source: Tree::new(),
            destination: Tree::new(),
            counter: 0,
            clock: 0,
            seen: 0,
            large,
            small,
        };
        let mut tree = Tree::new();
        for directory in ["d0", "d1", "d1/inner", "d2", "d3", "d3/a", "d3/a/b", "links", "plain", "large"] {
            tree.insert(directory.to_owned(), world.directory());
        }
        for index in 0..world.large {
            let path = format!("large/{index}");
            let node = world.file(&path, LARGE);
            tree.insert(path, node);
        }
        let places = ["", "d0/", "d1/", "d1/inner/", "d2/", "d3/", "d3/a/", "d3/a/b/", "plain/"];
        for index in 0..world.small {
            let path = format!("{}small-{index}", places[index % places.len()]);
            let size = 1 + world.random.below(5000);
            let node = world.file(&path, size);
            tree.insert(path, node);
        }
        for index in 0..4 {
            tree.insert(format!("links/{index}"), world.link());
        }
        materialize(&world.place.join("source"), &Tree::new(), &tree);
        world.source = tree;
        world.command().run().assert_success();
        world.destination = read(&world.place.join("destination")).0;
        assert!(world.destination == world.source, "the first copy is right");
        world.seen = world.new_iterations().last().unwrap().id;
        world
    }

    pub(super) fn mtime(&self) -> i128 {
        i128::from(BASE + self.clock) * 1_000_000_000 + 123_456_789
    }

    pub(super) fn directory(&self) -> Node {
        Node { what: What::Directory, mode: 0o755, mtime: self.mtime() }
    }

    pub(super) fn file(&mut self, path: &str, size: usize) -> Node {
        self.counter += 1;
        Node { what: What::File(content(path, self.counter, size)), mode: 0o644, mtime: self.mtime() }
    }

    pub(super) fn link(&mut self) -> Node {
        self.counter += 1;
        Node { what: What::Link(format!("target-{}", self.counter)), mode: 0, mtime: self.mtime() }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.place.log_dir().join("ha-sync.db")
    }

    pub(super) fn new_iterations(&self) -> Vec<Iteration> {
        iterations(&self.database(), self.seen)
    }

    pub(super) fn command(&self) -> Run {
        let run = self
            .place
            .command(env!("CARGO_BIN_EXE_ha-sync"))
            .arg("--src")
            .arg(self.place.join("source"))
            .arg("--dest")
            .arg(self.place.join("destination"))
            .args(["--pair", &self.place.pair(), "--max-delete", "100%", "--log-dir"])
            .arg(self.place.log_dir());
        let run = if self.keep { run } else { run.args(["--keep-replaced", "0"]) };
        if self.delete { run.arg("--delete-missing") } else { run }
    }

    /// Changes the source: new, changed, deleted, of another type, other metadata; each changed time is newer.
    pub(super) fn change(&mut self) {
        self.clock += 10;
        let mut tree = self.source.clone();
        let paths: Vec<String> = tree.keys().cloned().collect();
        for path in &paths {
            let Some(node) = tree.get(path).cloned() else { continue };
            match &node.what {
                What::File(content) if path.starts_with("large/") => {
                    if self.random.percent(70) {
                        let size =
                            if self.random.percent(50) { content.len() } else { LARGE - self.random.below(99_999) };
                        let new = self.file(path, size);
                        tree.insert(path.clone(), new);
                    }
                }
                What::File(content) => match self.random.below(100) {
                    0..30 => {
                        let size = if self.random.percent(50) { content.len() } else { 1 + self.random.below(5000) };
                        let new = self.file(path, size);
                        tree.insert(path.clone(), new);
                    }
                    30..38 => {
                        // The mode alone, or with the time.
                        let mtime = if self.random.percent(50) { node.mtime } else { self.mtime() };
                        tree.insert(path.clone(), Node { mode: node.mode ^ 0o111, mtime, ..node });
                    }
                    38..46 => {
                        tree.remove(path);
                    }
                    46..50 => {
                        let new = self.link();
                        tree.insert(path.clone(), new);
                    }
                    50..53 if self.delete => {
                        tree.insert(path.clone(), self.directory());
                        for index in 0..2 {
                            let path = format!("{path}/in-{index}");
                            let new = self.file(&path, 700);
                            tree.insert(path, new);
                        }
                    }
                    _ => {}
                },
                What::Link(_) => match self.random.below(100) {
                    0..30 => {
                        let new = self.link();
                        tree.insert(path.clone(), new);
                    }
                    30..40 => {
                        let new = self.file(path, 900);
                        tree.insert(path.clone(), new);
                    }
                    _ => {}
                },
                What::Directory => match self.random.below(100) {
                    0..10 => {
                        let mtime = if self.random.percent(50) { node.mtime } else { self.mtime() };
                        tree.insert(path.clone(), Node { mode: node.mode ^ 0o050, mtime, ..node });
                    }
                    10..20 if path != "large" => {
                        let below = format!("{path}/");
                        tree.retain(|other, _| other != path && !other.starts_with(&below));
                        if self.delete && self.random.percent(40) {
                            let new = self.file(path, 1234);
                            tree.insert(path.clone(), new);
                        }
                    }
                    _ => {}
                },
            }
        }
        // As many new ones as keep the size.
        let mut directories: Vec<String> =
            tree.iter().filter(|(_, node)| node.is_directory()).map(|(path, _)| path.clone()).collect();
        while directories.len() < 10 {
            self.counter += 1;
            let parent = &directories[self.random.below(directories.len())];
            let path = if parent == "large" {
                format!("new-{}", self.counter)
            } else {
                format!("{parent}/new-{}", self.counter)
            };
            tree.insert(path.clone(), self.directory());
            directories.push(path);
        }
        while tree.values().filter(|node| matches!(node.what, What::File(_))).count() < self.small + self.large {
            self.counter += 1;
            let parent = directories[self.random.below(directories.len())].clone();
            if parent == "large" {
                continue;
            }
            let path = format!("{parent}/f-{}", self.counter);
            let size = self.random.below(5000);
            let new = self.file(&path, size);
            tree.insert(path, new);
        }
        materialize(&self.place.join("source"), &self.source, &tree);
        self.source = tree;
    }

    /// What the destination is to be: a mirror, or what the source has and what it once had.
    pub(super) fn target(&self) -> Tree {
        let mut target = self.source.clone();
        if !self.delete {
            for (path, node) in &self.destination {
                target.entry(path.clone()).or_insert_with(|| node.clone());
            }
        }
        target
    }

    /// Changes the source, runs, ends the run as `end` says, looks; runs again, looks again.
    pub(super) fn round(&mut self, what: &str, end: impl FnOnce(&World) -> Outcome) -> Ended {
        self.change();
        let before = std::mem::take(&mut self.destination);
        self.destination = before.clone();
        let target = self.target();
        let outcome = end(self);
        let (root, source) = (self.place.join("destination"), self.place.join("source"));
        let (middle, temporary) = read(&root);
        let mut wrong = String::new();
        whole(&before, &middle, &target, &mut wrong);
        assert!(wrong.is_empty(), "{what}: after the end of the first run:\n{wrong}{}", outcome.stderr);
        let in_the_middle = !temporary.is_empty() || (middle != before && middle != target);
        let second = self.command().run();
        second.assert_success();
        let (after, _) = read(&root);
        for path in after.keys().chain(target.keys()).collect::<BTreeSet<_>>() {
            let (is, should) = (after.get(path), target.get(path));
            if is != should {
                let _ = writeln!(wrong, "{path}: is {}, should be {}", told(is), told(should));
            }
        }
        assert!(wrong.is_empty(), "{what}: after the second run:\n{wrong}{}\n{}", outcome.stderr, second.stderr);
        assert!(read(&source).0 == self.source, "{what}: the source is as it was");
        for side in [&root, &source] {
            let left = leftovers(side);
            assert!(left.is_empty(), "{what}: temporary entries are left: {left:?}");
        }
        if self.keep {
            self.check_trash(what, &before, &target);
        }
        self.check_records(what, &before, &middle, &temporary, &target);
        let trash = root.join(".ha-sync/trash");
        if trash.exists() {
            fs::remove_dir_all(trash).unwrap();
        }
        self.destination = after;
        Ended { outcome, temporary, in_the_middle }
    }

    /// What was replaced or deleted is in the trash of one of the runs.
    pub(super) fn check_trash(&self, what: &str, before: &Tree, target: &Tree) {
        let root = self.place.join("destination/.ha-sync/trash");
        let mut runs = Vec::new();
        let mut removed = String::new();
        if root.exists() {
            for entry in fs::read_dir(&root).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    runs.push(path);
                } else {
                    removed.push_str(&fs::read_to_string(path).unwrap());
                }
            }
        }
        for (path, node) in before {
            if target.get(path).is_some_and(|now| now.what == node.what) {
                continue;
            }
            let kept = runs.iter().map(|run| run.join(path)).filter(|path| path.symlink_metadata().is_ok());
            let kept: Vec<Node> = kept.map(|path| look(&path)).collect();
            let found = if node.is_directory() {
                !kept.is_empty() || removed.contains(&format!("\"path\":\"{path}\""))
            } else {
                kept.contains(node)
            };
            assert!(
                found,
                "{what}: {path} is lost: it was {}; in the trash: {:?}",
                node.describe(),
                kept.iter().map(Node::describe).collect::<Vec<_>>()
            );
        }
    }

    /// Log and database together hold what changed on disk, exactly once.
    pub(super) fn check_records(
        &mut self,
        what: &str,
        before: &Tree,
        middle: &Tree,
        temporary: &[String],
        target: &Tree,
    ) {
        let logs = waiting_logs(&self.place.log_dir());
        assert!(logs.is_empty(), "{what}: logs that are not in the database: {logs:?}");
        let found = self.new_iterations();
        assert!((1..=2).contains(&found.len()), "{what}: {} iterations", found.len());
        self.seen = found[found.len() - 1].id;
        let mut wrong = String::new();
        for iteration in &found {
            let count =
                |operation: &str| iteration.rows.values().flatten().filter(|held| *held == operation).count() as i64;
            let counted = [count("create"), count("update"), count("delete"), iteration.failures.len() as i64];
            if counted != iteration.counts {
                let _ = writeln!(wrong, "counts {:?}, rows {counted:?}", iteration.counts);
            }
            if !iteration.failures.is_empty() {
                let _ = writeln!(wrong, "failures: {:?}", iteration.failures);
            }
        }
        let empty = Rows::new();
        let first = if found.len() == 2 { &found[0].rows } else { &empty };
        let second = &found[found.len() - 1];
        if second.status != "success" {
            let _ = writeln!(wrong, "the second run is recorded as {}", second.status);
        }
        let none = Vec::new();
        for path in before.keys().chain(target.keys()).collect::<BTreeSet<_>>() {
            let [was, is, will] = [before, middle, target].map(|tree| tree.get(path));
            let mut expected = expected_rows(path, was, is, will, target, middle);
            // Tidying up in a directory changes its time, which is then set again.
            let tidied = temporary.iter().any(|held| held.rsplit_once('/').is_some_and(|(parent, _)| parent == path));
            if tidied && is == will {
                expected[1].push(vec!["update"]);
            }
            // Deletions in a directory that goes as well change its time, and that is no operation.
            let worked_in = |node: Option<&Node>| node.is_some_and(Node::is_directory);
            if will.is_none() && worked_in(was) && worked_in(is) {
                expected[0].push(Vec::new());
            }
            let rows = [first, &second.rows].map(|rows| rows.get(path).unwrap_or(&none));
            for (run, (rows, allowed)) in rows.iter().zip(&expected).enumerate() {
                if !allowed.iter().any(|allowed| rows.iter().eq(allowed)) {
                    let _ = writeln!(
                        wrong,
                        "{path}, run {}: recorded {rows:?}, allowed {allowed:?}: was {}; then {}; at last {}",
                        run + 1,
                        told(was),
                        told(is),
                        told(will)
                    );
                }
            }
        }
        let known = |path: &&String| before.contains_key(*path) || target.contains_key(*path);
        let unknown: Vec<_> = first.keys().chain(second.rows.keys()).filter(|path| !known(path)).collect();
        if !unknown.is_empty() {
            let _ = writeln!(wrong, "recorded, but in neither tree: {unknown:?}");
        }
        assert!(wrong.is_empty(), "{what}: records:\n{wrong}");
    }

    pub(super) fn is_idle(&mut self) {
        self.command().run().assert_success();
        let found = self.new_iterations();
        assert_eq!(found.len(), 1);
        assert!(found[0].rows.is_empty(), "nothing is left to do: {:?}", found[0].rows);
        self.seen = found[0].id;
    }
}

/// Returns the rows that each of the two runs may have for a path.
pub(super) fn expected_rows(
    path: &str,
    was: Option<&Node>,
    is: Option<&Node>,
    will: Option<&Node>,
    target: &Tree,
    middle: &Tree,
) -> [Vec<Vec<&'static str>>; 2] {
    // What was in a directory that something else replaced went with it.
    let replaced_above = |by: &Tree| {
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            above = parent;
            if by.get(above).is_some_and(|node| !node.is_directory()) {
                return true;
            }
        }
        false
    };
    let step = |from: Option<&Node>, to: Option<&Node>, tree: &Tree| match (from, to) {
        (None, None) => vec![],
        (None, Some(_)) => vec!["create"],
        (Some(_), None) if replaced_above(tree) => vec![],
        (Some(_), None) => vec!["delete"],
        (Some(from), Some(to)) if from == to => vec![],
        (Some(_), Some(_)) => vec!["update"],
    };
    let second = vec![step(is, will, target)];
    let first = match (was, is, will) {
        (Some(was), Some(is), Some(will)) if was.is_directory() && is.is_directory() && will.is_directory() => {
            if was.mode == will.mode || is.mode == was.mode {
                // Only its time may have been changed, by work in it.
                vec![vec![]]
            } else if is == will {
                vec![vec!["update"]]
            } else {
                // Either done and changed again by work in it, or done by half.
                vec![vec![], vec!["update"]]
            }
        }
        // Metadata that is set by half is no completed operation.
        (Some(was), Some(is), Some(will)) if was.what == will.what && is != will => vec![vec![]],
        _ => vec![step(was, is, middle)],
    };
    [first, second]
}

/// Each file is whole, of one of the two versions, and there, unless it was to be deleted.
pub(super) fn whole(before: &Tree, middle: &Tree, target: &Tree, wrong: &mut String) {
    for path in before.keys().chain(middle.keys()).chain(target.keys()).collect::<BTreeSet<_>>() {
        let [was, is, will] = [before, middle, target].map(|tree| tree.get(path));
        let right = match (was, is, will) {
            (_, None, None) | (None, None, Some(_)) => true,
            (_, None, Some(_)) => false,
            (None, Some(_), None) => false,
            (was, Some(is), will) => [was, will].into_iter().flatten().any(|version| {
                let content_only = |one: &Node, other: &Node| one.what == other.what;
                match (was, will) {
                    // The metadata of a directory, and metadata alone, is set in steps.
                    (Some(was), Some(will)) if was.what == will.what => content_only(is, version),
                    _ if version.is_directory() => is.is_directory(),
                    _ => is == version,
                }
            }),
        };
        if !right {
            let _ = writeln!(wrong, "{path}: was {}; is {}; should become {}", told(was), told(is), told(will));
        }
    }
}

/// Finds temporary entries anywhere below a root, its own directory included.
pub(super) fn leftovers(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| is_temporary(&name.to_string_lossy())) {
                found.push(path.clone());
            }
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}

/// Finds logs that wait to be flushed or resolved.
pub(super) fn waiting_logs(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_string_lossy().contains(".jsonl") {
                found.push(path);
            }
        }
    }
    found
}
