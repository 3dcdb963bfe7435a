//! What is left when a run ends at any moment, and what others see meanwhile: every file whole, every completed
//! operation recorded exactly once.
#![allow(clippy::disallowed_methods, reason = "a test that fails shows its path anyway")]
#![allow(clippy::print_stdout, reason = "a test says how much it saw")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use std::time::Duration;

use ha_testkit::command::{Environment, Inject, Outcome, Run, Running};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use rustix::process::Signal;
use sqlx::{Connection, SqliteConnection};

const BASE: i64 = 1_700_000_000;
const LARGE: usize = 6 << 20;
const BUSY: usize = 2 << 20;

/// Is a sequence of numbers that a seed determines (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Is true in so many cases of a hundred.
    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, PartialEq, Eq)]
enum What {
    Directory,
    File(Arc<Vec<u8>>),
    Link(String),
}

#[derive(Clone, PartialEq, Eq)]
struct Node {
    what: What,
    /// Links have none.
    mode: u32,
    /// Nanoseconds since 1970.
    mtime: i128,
}

impl Node {
    fn is_directory(&self) -> bool {
        self.what == What::Directory
    }

    fn describe(&self) -> String {
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

fn told(node: Option<&Node>) -> String {
    node.map_or_else(|| "nothing".to_owned(), Node::describe)
}

type Tree = BTreeMap<String, Node>;

/// Makes the content of a version of a path: no stretch of it is that of another version or path.
fn content(path: &str, version: u64, size: usize) -> Arc<Vec<u8>> {
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

fn times(mtime: i128) -> Timestamps {
    let time =
        Timespec { tv_sec: mtime.div_euclid(1_000_000_000) as i64, tv_nsec: mtime.rem_euclid(1_000_000_000) as i64 };
    Timestamps { last_access: time, last_modification: time }
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(".ha-sync.") && name.ends_with(".tmp")
}

/// Reads a tree without its own directory; temporary entries are told apart.
fn read(root: &Path) -> (Tree, Vec<String>) {
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

fn look(path: &Path) -> Node {
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
fn materialize(root: &Path, before: &Tree, after: &Tree) {
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
type Rows = BTreeMap<String, Vec<String>>;

struct Iteration {
    id: i64,
    status: String,
    counts: [i64; 4],
    rows: Rows,
    failures: Vec<String>,
}

fn iterations(database: &Path, after: i64) -> Vec<Iteration> {
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
struct World {
    place: Environment,
    random: Random,
    delete: bool,
    /// Whether there is a trash.
    keep: bool,
    source: Tree,
    destination: Tree,
    /// Counts versions and names.
    counter: u64,
    clock: i64,
    /// The last row of iterations that was looked at.
    seen: i64,
    large: usize,
    small: usize,
}

/// What was seen when a run had ended.
struct Ended {
    outcome: Outcome,
    temporary: Vec<String>,
    /// It had done a part of its work.
    in_the_middle: bool,
}

fn fast_place() -> Environment {
    let memory = Path::new("/dev/shm");
    let probe = tempfile::tempfile_in(memory);
    if probe.is_ok() { Environment::in_directory(memory) } else { Environment::new() }
}

impl World {
    fn new(seed: u64, delete: bool, large: usize, small: usize) -> Self {
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

    fn mtime(&self) -> i128 {
        i128::from(BASE + self.clock) * 1_000_000_000 + 123_456_789
    }

    fn directory(&self) -> Node {
        Node { what: What::Directory, mode: 0o755, mtime: self.mtime() }
    }

    fn file(&mut self, path: &str, size: usize) -> Node {
        self.counter += 1;
        Node { what: What::File(content(path, self.counter, size)), mode: 0o644, mtime: self.mtime() }
    }

    fn link(&mut self) -> Node {
        self.counter += 1;
        Node { what: What::Link(format!("target-{}", self.counter)), mode: 0, mtime: self.mtime() }
    }

    fn database(&self) -> PathBuf {
        self.place.log_dir().join("ha-sync.db")
    }

    fn new_iterations(&self) -> Vec<Iteration> {
        iterations(&self.database(), self.seen)
    }

    fn command(&self) -> Run {
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
    fn change(&mut self) {
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
    fn target(&self) -> Tree {
        let mut target = self.source.clone();
        if !self.delete {
            for (path, node) in &self.destination {
                target.entry(path.clone()).or_insert_with(|| node.clone());
            }
        }
        target
    }

    /// Changes the source, runs, ends the run as `end` says, looks; runs again, looks again.
    fn round(&mut self, what: &str, end: impl FnOnce(&World) -> Outcome) -> Ended {
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
    fn check_trash(&self, what: &str, before: &Tree, target: &Tree) {
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
    fn check_records(&mut self, what: &str, before: &Tree, middle: &Tree, temporary: &[String], target: &Tree) {
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

    fn is_idle(&mut self) {
        self.command().run().assert_success();
        let found = self.new_iterations();
        assert_eq!(found.len(), 1);
        assert!(found[0].rows.is_empty(), "nothing is left to do: {:?}", found[0].rows);
        self.seen = found[0].id;
    }
}

/// Returns the rows that each of the two runs may have for a path.
fn expected_rows(
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
fn whole(before: &Tree, middle: &Tree, target: &Tree, wrong: &mut String) {
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
fn leftovers(root: &Path) -> Vec<PathBuf> {
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
fn waiting_logs(directory: &Path) -> Vec<PathBuf> {
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

/// Ends a run so long after its start, or after it first replaced or deleted something.
fn signalled(mut running: Running, after: Option<&Path>, delay: Duration, signal: Signal) -> Outcome {
    while after.is_some_and(|path| !path.exists()) {
        if running.ended_within(Duration::from_micros(200)) {
            return running.wait();
        }
    }
    if running.ended_within(delay) {
        return running.wait();
    }
    if signal == Signal::KILL {
        running.kill();
    } else {
        running.signal(signal);
    }
    running.wait()
}

/// Ends so many runs at moments that are spread over the duration of one.
fn many(seed: u64, rounds: u32, delete: bool, signal: Signal) {
    let world = World::new(seed, delete, 3, 60);
    many_in(world, seed, rounds, signal);
}

fn many_in(mut world: World, seed: u64, rounds: u32, signal: Signal) {
    let delete = world.delete;
    let mut walls: Vec<Duration> = (0..5)
        .map(|_| {
            let ended = world.round(&format!("seed {seed}, whole run"), |world| world.command().run());
            ended.outcome.assert_success();
            ended.outcome.wall
        })
        .collect();
    walls.sort();
    let mut full = walls[2];
    let (mut ended_by_signal, mut in_the_middle) = (0, 0);
    for round in 0..rounds {
        let place = f64::from(round) + (world.random.below(1000) as f64 / 1000.0);
        let delay = full.mul_f64(place / f64::from(rounds));
        // Every second one while it works: that is a small part of a run that plans first.
        let working = round % 2 == 1 && world.keep;
        let trash = working.then(|| world.place.join("destination/.ha-sync/trash"));
        let delay = if working {
            Duration::from_micros(world.random.next() % if delete { 5_000 } else { 30_000 })
        } else {
            delay
        };
        let what = format!("seed {seed}, round {round}, {signal:?} after {delay:?} of {full:?}, working: {working}");
        let ended = world.round(&what, |world| signalled(world.command().start(), trash.as_deref(), delay, signal));
        let outcome = ended.outcome;
        if signal == Signal::KILL {
            ended_by_signal += u32::from(outcome.signal() == Some(9));
        } else {
            // Before it listens, the signal ends it as any program.
            let early = outcome.signal() == Some(15);
            assert!(early || [Some(0), Some(143)].contains(&outcome.code()), "{what}: {outcome:?}");
            assert!(ended.temporary.is_empty(), "{what}: it tidies up: {:?}", ended.temporary);
            ended_by_signal += u32::from(outcome.code() != Some(0));
        }
        if outcome.code() == Some(0) && !working {
            full = (full + outcome.wall) / 2;
        }
        in_the_middle += u32::from(ended.in_the_middle);
        if round % 10 == 9 {
            world.is_idle();
        }
    }
    assert!(ended_by_signal * 2 >= rounds, "only {ended_by_signal} of {rounds} runs were interrupted");
    assert!(in_the_middle * 5 >= rounds, "only {in_the_middle} of {rounds} runs ended with a part of their work done");
    println!("{rounds} runs, {ended_by_signal} interrupted, {in_the_middle} with a part of their work done");
}

#[test]
fn killed_at_any_moment_with_deletions() {
    many(1, 110, true, Signal::KILL);
}

#[test]
fn killed_at_any_moment_without_deletions() {
    many(2, 100, false, Signal::KILL);
}

#[test]
fn terminated_at_any_moment() {
    many(3, 30, true, Signal::TERM);
}

#[test]
fn killed_without_a_trash() {
    let mut world = World::new(8, false, 3, 60);
    world.keep = false;
    many_in(world, 8, 12, Signal::KILL);
}

/// Kills a run at the n-th call of each kind that changes or looks at something.
fn sweep(seed: u64, calls: &[(&str, u32, u32)]) {
    let mut world = World::new(seed, true, 1, 16);
    for (call, last, stride) in calls {
        let mut killed = 0;
        let (mut number, mut missed) = (1, 0);
        // Not every round has something of every kind to do.
        while number <= *last && missed < 4 {
            let what = format!("seed {seed}, killed at {call} {number}");
            let ended = world.round(&what, |world| {
                let inject = Inject::on(call).signal("KILL").when(&number.to_string());
                world.command().args(["--workers", "1", "--walkers", "1"]).strace(inject).run()
            });
            if ended.outcome.code() == Some(0) {
                missed += 1;
                continue;
            }
            assert_eq!(ended.outcome.signal(), Some(9), "{what}: {:?}", ended.outcome);
            killed += 1;
            number += stride;
        }
        assert!(killed > 0, "{call} is never called");
    }
    world.is_idle();
}

#[test]
fn killed_at_each_rename() {
    sweep(4, &[("renameat2", 16, 1), ("renameat", 14, 1)]);
}

#[test]
fn killed_at_each_step_of_staging() {
    sweep(
        5,
        &[("mkdirat", 5, 1), ("utimensat", 18, 1), ("fchmod", 6, 1), ("symlinkat", 2, 1), ("copy_file_range", 1, 1)],
    );
}

#[test]
fn killed_at_looks_and_removals() {
    sweep(6, &[("unlinkat", 4, 1), ("statx", 400, 17), ("newfstatat", 80, 11), ("openat", 200, 13)]);
}

#[test]
fn killed_at_each_record() {
    sweep(7, &[("write", 40, 2), ("fsync", 6, 1), ("pwrite64", 30, 4)]);
}

/// Ends the other thread of a test, when this one panics too.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until a run has a temporary entry in a directory; returns its path.
fn await_temporary(directory: &Path, running: &mut Running) -> PathBuf {
    loop {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if is_temporary(&entry.file_name().to_string_lossy()) {
                return entry.path();
            }
        }
        assert!(!running.ended_within(Duration::from_millis(1)), "it ended without a temporary entry");
    }
}

/// A world with one large and few small files, for races that are staged.
fn quiet(seed: u64, delete: bool) -> World {
    World::new(seed, delete, 1, 4)
}

/// Gives a file of the source a new version, with a newer time.
fn rewrite(world: &mut World, path: &str, size: usize) -> Arc<Vec<u8>> {
    world.clock += 10;
    let mut tree = world.source.clone();
    let node = world.file(path, size);
    let What::File(content) = node.what.clone() else { panic!("a file") };
    tree.insert(path.to_owned(), node);
    materialize(&world.place.join("source"), &world.source, &tree);
    world.source = tree;
    content
}

const PATIENCE: Duration = Duration::from_millis(500);

fn no_temporary(world: &World) {
    assert_eq!(leftovers(&world.place.join("destination")), Vec::<PathBuf>::new());
}

#[test]
fn a_reader_sees_whole_old_or_new_content_and_never_nothing() {
    let mut world = quiet(10, false);
    let path = world.place.join("destination/large/0");
    let versions = Mutex::new(vec![fs::read(&path).unwrap()]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u32;
            let mut changes = 0_u32;
            let mut last = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let seen = fs::read(&path).expect("the file is there at every moment");
                if seen != last {
                    let known = versions.lock().unwrap().contains(&seen);
                    assert!(known, "a mixture: {} bytes", seen.len());
                    changes += 1;
                    last = seen;
                }
                reads += 1;
            }
            (reads, changes)
        });
        let stop = Stopper(&done);
        for round in 0..20 {
            let content = rewrite(&mut world, "large/0", LARGE - round * 1000);
            versions.lock().unwrap().push(content.to_vec());
            // The reader may still have read the one before.
            world.command().run().assert_success();
            let mut held = versions.lock().unwrap();
            let surplus = held.len().saturating_sub(3);
            held.drain(..surplus);
        }
        drop(stop);
        let (reads, changes) = reader.join().unwrap();
        assert!(changes > 10, "{reads} reads, {changes} versions seen");
    });
}

#[test]
fn a_file_rewritten_once_while_it_is_copied_arrives_whole() {
    let mut world = quiet(11, false);
    rewrite(&mut world, "large/0", LARGE);
    let inject = Inject::on("copy_file_range").delay(PATIENCE).when("1");
    let mut running = world.command().strace(inject).start();
    await_temporary(&world.place.join("destination/large"), &mut running);
    let last = rewrite(&mut world, "large/0", LARGE);
    running.wait().assert_success();
    assert!(fs::read(world.place.join("destination/large/0")).unwrap() == *last);
    no_temporary(&world);
}

#[test]
fn a_file_rewritten_all_the_time_is_never_published_torn() {
    let mut world = quiet(12, false);
    let old = fs::read(world.place.join("destination/large/0")).unwrap();
    rewrite(&mut world, "large/0", LARGE);
    let inject = Inject::on("copy_file_range").delay(PATIENCE).when("1+");
    let mut running = world.command().strace(inject).start();
    await_temporary(&world.place.join("destination/large"), &mut running);
    while !running.ended_within(Duration::from_millis(20)) {
        rewrite(&mut world, "large/0", LARGE);
    }
    let outcome = running.wait();
    outcome.assert_code(3);
    assert!(
        outcome.stderr.contains("large/0") && outcome.stderr.contains("changed while copying"),
        "{}",
        outcome.stderr
    );
    assert!(fs::read(world.place.join("destination/large/0")).unwrap() == old, "the old version stays");
    no_temporary(&world);
    world.command().run().assert_success();
    assert!(read(&world.place.join("destination")).0 == world.source);
}

#[test]
fn a_busy_writer_who_truncates_never_tears_a_file() {
    busy(13, true);
}

#[test]
fn a_busy_writer_in_place_never_tears_a_file() {
    busy(19, false);
}

/// Without delays: whatever arrives is one of the versions.
fn busy(seed: u64, truncate: bool) {
    let mut world = quiet(seed, false);
    rewrite(&mut world, "large/0", BUSY);
    world.command().run().assert_success();
    let (source, destination) = (world.place.join("source/large/0"), world.place.join("destination/large/0"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut version = 1_000;
            while !done.load(Ordering::Relaxed) {
                version += 1;
                let content = content("large/0", version, BUSY);
                let mut options = fs::OpenOptions::new();
                let mut file = options.write(true).truncate(truncate).open(&source).unwrap();
                std::io::Write::write_all(&mut file, &content).unwrap();
                drop(file);
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        let _stop = Stopper(&done);
        for _ in 0..12 {
            let outcome = world.command().run();
            assert!([Some(0), Some(3)].contains(&outcome.code()), "{outcome:?}");
            let seen = fs::read(&destination).unwrap();
            // Caught between the writer's truncation and its first byte.
            if truncate && seen.is_empty() {
                continue;
            }
            assert!(truncate || seen.len() == BUSY);
            let line = seen.split(|byte| *byte == b'\n').next().unwrap();
            let version = String::from_utf8_lossy(line).rsplit(' ').next().unwrap().parse().unwrap();
            let whole = content("large/0", version, BUSY);
            // What the writer had written by then is a version too, when it stayed so during the copy.
            let same = seen.iter().zip(whole.iter()).take_while(|(one, other)| one == other).count();
            assert!(same == seen.len(), "version {version} up to {same} of {} bytes, then another", seen.len());
        }
    });
    no_temporary(&world);
}

/// Runs with a delay at a call, edits the destination while it waits there, and checks that the edit stays.
fn edited(world: &World, path: &str, watched: &str, inject: Inject) {
    let edit = b"edited at the destination";
    let full = world.place.join("destination").join(path);
    let run = world.command().args(["--workers", "1", "--walkers", "1"]).strace(inject);
    let mut running = run.start();
    await_temporary(&world.place.join("destination").join(watched), &mut running);
    std::thread::sleep(PATIENCE / 5);
    fs::write(&full, edit).unwrap();
    let outcome = running.wait();
    outcome.assert_code(3);
    assert_eq!(fs::read(&full).unwrap(), edit, "the edit is in place");
    assert!(outcome.stderr.contains(path) && outcome.stderr.contains("changed since scan"), "{}", outcome.stderr);
    no_temporary(world);
}

#[test]
fn an_edit_while_the_new_version_is_copied_stays() {
    let mut world = quiet(14, false);
    rewrite(&mut world, "large/0", LARGE);
    edited(&world, "large/0", "large", Inject::on("copy_file_range").delay(PATIENCE).when("1"));
}

#[test]
fn an_edit_in_the_moment_of_the_exchange_stays() {
    let mut world = quiet(15, false);
    rewrite(&mut world, "small-0", 700);
    edited(&world, "small-0", "", Inject::on("renameat2").delay(PATIENCE).when("1"));
}

#[test]
fn a_file_that_appears_in_the_moment_of_its_creation_stays() {
    let mut world = quiet(16, false);
    // Large enough to be staged under a temporary name.
    rewrite(&mut world, "appears", 200_000);
    edited(&world, "appears", "", Inject::on("renameat2").delay(PATIENCE).when("1"));
}

#[test]
fn an_edit_of_a_file_that_is_to_be_deleted_stays() {
    let mut world = quiet(17, true);
    rewrite(&mut world, "large/0", LARGE);
    fs::remove_file(world.place.join("source/small-0")).unwrap();
    world.source.remove("small-0");
    // The large file is copied before anything is deleted.
    edited(&world, "small-0", "large", Inject::on("copy_file_range").delay(PATIENCE).when("1"));
}

#[test]
fn a_file_replaced_in_the_moment_of_its_deletion_stays() {
    let world = quiet(18, true);
    fs::remove_file(world.place.join("source/small-0")).unwrap();
    let full = world.place.join("destination/small-0");
    let run = world.command().args(["--workers", "1", "--walkers", "1"]);
    let mut running = run.strace(Inject::on("renameat").delay(PATIENCE).when("1")).start();
    // Its place in the trash is made just before.
    let trash = world.place.join("destination/.ha-sync/trash");
    while !trash.exists() {
        assert!(!running.ended_within(Duration::from_millis(1)), "it ended without trash");
    }
    std::thread::sleep(PATIENCE / 5);
    fs::write(full.with_file_name("other"), "another file").unwrap();
    fs::rename(full.with_file_name("other"), &full).unwrap();
    let outcome = running.wait();
    outcome.assert_code(3);
    assert_eq!(fs::read(&full).unwrap(), b"another file");
    assert!(outcome.stderr.contains("changed since scan"), "{}", outcome.stderr);
}
