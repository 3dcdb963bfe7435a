//! Errors at every kind of step, by a file system that fails on request and by calls that the kernel refuses: the run
//! ends, says where, and loses nothing; the next run makes everything right.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ha_testkit::command::{Environment, Inject, Run};
use ha_testkit::need;
use ha_testkit::passthrough::{Errno, Operation, Options, Passthrough, Rule};
use ha_testkit::tree::{Compare, Kind, Snapshot, dir, file, link, make, sparse};

const NEWER: i64 = 1_700_001_000;
const OLDER: i64 = 1_700_000_000;

/// Data of which no two parts are equal, and which differs by its seed.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    data
}

/// Two trees in which every kind of operation is to be done, each in a directory of its own.
struct Trees {
    source: PathBuf,
    destination: PathBuf,
}

fn trees(place: &Path) -> Trees {
    let (source, destination) = (place.join("src"), place.join("dst"));
    make(
        &source,
        &[
            file("create/f", "new content").mtime(NEWER).owner(1234, 1235).xattr("user.k", "v"),
            file("bigcreate/f", bytes(1, 140_000)).mtime(NEWER),
            file("sparse/f", "").mtime(NEWER),
            file("update/f", "the new version").mtime(NEWER),
            file("bigupdate/f", bytes(2, 140_000)).mtime(NEWER),
            file("meta/f", "same").mode(0o600).mtime(NEWER).xattr("user.k", "v"),
            link("link/l", "target"),
            link("relink/l", "new target").mtime(NEWER),
            dir("sub").mode(0o750).mtime(NEWER),
            dir("sub/deep").mode(0o710).mtime(NEWER),
            file("sub/deep/f", "deep").mtime(NEWER),
            dir("delete").mtime(OLDER),
            dir("rmdir").mtime(OLDER),
            file("keep/f", "kept").mtime(OLDER),
        ],
    );
    std::fs::remove_file(source.join("sparse/f")).unwrap();
    make(&source, &[sparse("sparse/f", 256 << 10).data(100 << 10, bytes(3, 5000)).mtime(NEWER)]);
    make(
        &destination,
        &[
            dir("create"),
            dir("bigcreate"),
            dir("sparse"),
            file("update/f", "old one").mtime(OLDER),
            file("bigupdate/f", bytes(4, 135_000)).mtime(OLDER),
            file("meta/f", "same").mtime(NEWER),
            dir("link"),
            link("relink/l", "old target").mtime(OLDER),
            file("delete/f", "to be deleted").mtime(OLDER),
            file("rmdir/old/f", "to be deleted, too").mtime(OLDER),
            file("keep/f", "kept").mtime(OLDER),
        ],
    );
    Trees { source, destination }
}

/// The contents of all files and links below a directory.
fn contents(root: &Path) -> BTreeSet<(u64, u128, Vec<u8>)> {
    let all = Snapshot::with(root, &Compare { without_own: false, ..Compare::contents() });
    let held = all.entries.into_values().filter(|entry| matches!(entry.kind, Kind::File | Kind::Link));
    held.map(|entry| (entry.size, entry.content, entry.target)).collect()
}

/// Panics when a version that was at the destination is nowhere any more, or a file there is neither old nor new.
#[track_caller]
fn assert_nothing_lost(before: &Snapshot, source: &Snapshot, destination: &Path, why: &str) {
    let held = contents(destination);
    for (path, entry) in before.entries.iter().filter(|(_, entry)| matches!(entry.kind, Kind::File | Kind::Link)) {
        let version = (entry.size, entry.content, entry.target.clone());
        assert!(held.contains(&version), "{why}: the old version of {} is lost", path.escape_ascii());
    }
    let now = Snapshot::with(destination, &Compare::contents());
    for (path, entry) in now.entries.iter().filter(|(_, entry)| matches!(entry.kind, Kind::File | Kind::Link)) {
        let version =
            |tree: &Snapshot| tree.get(path).map(|held| (held.kind, held.size, held.content, held.target.clone()));
        let found = Some((entry.kind, entry.size, entry.content, entry.target.clone()));
        let temporary = path.rsplit(|byte| *byte == b'/').next().is_some_and(|name| name.starts_with(b".ha-sync."));
        let whole = temporary || found == version(before) || found == version(source);
        assert!(whole, "{why}: {} is neither the old nor the new version", path.escape_ascii());
    }
    for (path, entry) in before.entries.iter().filter(|(_, entry)| matches!(entry.kind, Kind::File | Kind::Link)) {
        let gone = now.get(path).is_none() && source.get(path).is_some();
        assert!(!gone, "{why}: {} ({:?}) is absent", path.escape_ascii(), entry.kind);
    }
}

/// Returns the failures in the newest log: path and message.
fn failures(logs: &Path) -> Vec<(String, String)> {
    let mut paths: Vec<_> = std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    paths.sort();
    let Some(path) = paths.last() else { return Vec::new() };
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines
        .filter(|line| line["type"] == "operation" && line["status"] == "fail")
        .map(|line| {
            let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (word("filepath"), word("error_message"))
        })
        .collect()
}

/// Describes a run. No database: its rows stay in the log, where the test reads them.
fn describe(place: &Environment, trees: &Trees) -> Run {
    place
        .command(env!("CARGO_BIN_EXE_ha-sync"))
        .arg("--src")
        .arg(&trees.source)
        .arg("--dest")
        .arg(&trees.destination)
        .args(["--pair", &place.pair(), "--delete-missing", "--db-dsn", "sqlite:/dev/null/none.db", "--log-dir"])
        .arg(place.log_dir())
        .args(["--walkers", "4"])
        .timeout(Duration::from_secs(30))
}

/// Panics unless a clean run succeeds, both sides are equal, nothing temporary is left and a second run does nothing.
#[track_caller]
fn assert_next_run_mends(run: &Run, trees: &Trees, idle_too: bool, why: &str) {
    let outcome = run.run();
    assert_eq!(outcome.code(), Some(0), "{why}: the clean run\n{}{}", outcome.stdout, outcome.stderr);
    let diff =
        Snapshot::with(&trees.source, &Compare::sides()).diff(&Snapshot::with(&trees.destination, &Compare::sides()));
    assert!(diff.is_empty(), "{why}: not equal after the clean run\n{diff}{}", outcome.stderr);
    for root in [&trees.source, &trees.destination] {
        let left = Snapshot::with(root, &Compare::contents()).temporary_files();
        assert!(left.is_empty(), "{why}: left behind: {left:?}");
    }
    if !idle_too {
        return;
    }
    let outcome = run.run();
    let zero = |line: &str| line.split_whitespace().nth(1) == Some("0");
    let counted = |line: &&str| ["created ", "updated ", "deleted "].iter().any(|word| line.starts_with(word));
    let idle = outcome.stdout.lines().filter(counted).filter(|line| zero(line)).count() == 3;
    assert!(outcome.code() == Some(0) && idle, "{why}: the second run\n{}{}", outcome.stdout, outcome.stderr);
}

/// What a run with a fault is to end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Exit 3, and this path is named.
    Partial(&'static str),
    /// Exit 1, and this is named.
    Stopped(&'static str),
    /// Exit 0.
    Success,
    /// One of these codes.
    AnyOf(&'static [i32]),
}

/// One fault: a request on a path of one side.
#[derive(Debug, Clone)]
struct Case {
    operation: Operation,
    /// Relative to the pair's place; with `=` it is the whole path.
    path: &'static str,
    errno: Errno,
    skip: u64,
    times: u64,
    after: bool,
    expect: Expect,
    arguments: &'static [&'static str],
}

/// Makes a place for logs where a sync costs nothing: hundreds of runs would wait for a disk else.
fn quick_place() -> Environment {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { Environment::in_directory(memory) } else { Environment::new() }
}

/// Runs every case on trees of its own, several at a time; panics with all that failed.
fn sweep(cases: Vec<Case>) {
    sweep_with(cases, |_| ());
}

fn sweep_with(cases: Vec<Case>, prepare: impl FnOnce(&Passthrough)) {
    let backing = tempfile::tempdir().unwrap();
    let mount = need!(Passthrough::mount(backing.path(), &Options::default()));
    prepare(&mount);
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mount, index, case)));
                    if let Err(panic) = result {
                        let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        wrong.lock().unwrap().push(format!("{case:?}: {words}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}

fn check(mount: &Passthrough, index: usize, case: &Case) {
    let name = format!("c{index:04}");
    let real = trees(&mount.backing().join(&name));
    let (source, before) =
        (Snapshot::with(&real.source, &Compare::contents()), Snapshot::with(&real.destination, &Compare::contents()));
    let seen =
        Trees { source: mount.path().join(&name).join("src"), destination: mount.path().join(&name).join("dst") };
    let place = quick_place();
    let mut rule = Rule::on(case.operation).skip(case.skip).times(case.times);
    rule = match case.path.strip_prefix('=') {
        Some(whole) => rule.path_is(format!("{name}/{whole}")),
        None => rule.path_contains(format!("{name}/{}", case.path)),
    };
    rule = if case.after { rule.error_after(case.errno) } else { rule.error(case.errno) };
    let fault = mount.inject(rule);
    let run = describe(&place, &seen).args(case.arguments);
    let outcome = run.run();
    let fired = fault.fired();
    assert!(fired > 0, "the fault was not met\n{}{}", outcome.stdout, outcome.stderr);
    assert!(!outcome.timed_out, "the run did not end\n{}", outcome.stderr);
    if !case.arguments.contains(&"0") {
        assert_nothing_lost(&before, &source, &real.destination, "with the fault");
    }
    let shown = format!("{}\n{}{}", outcome.status, outcome.stdout, outcome.stderr);
    match case.expect {
        Expect::Success => {
            assert_eq!(outcome.code(), Some(0), "{shown}");
            let diff = Snapshot::with(&real.source, &Compare::sides())
                .diff(&Snapshot::with(&real.destination, &Compare::sides()));
            assert!(diff.is_empty(), "not equal after success:\n{diff}{shown}");
        }
        Expect::Partial(path) => {
            assert_eq!(outcome.code(), Some(3), "{shown}");
            assert!(outcome.stderr.contains(path), "{path} is not named: {shown}");
            let failed = failures(&place.log_dir());
            let names = |message: &str| message.contains(path) || message.contains("/.ha-sync/trash");
            let named = failed.iter().any(|(filepath, message)| filepath == path && names(message));
            assert!(named, "{path} is not in the record: {failed:?}\n{shown}");
        }
        Expect::AnyOf(codes) => {
            assert!(outcome.code().is_some_and(|code| codes.contains(&code)), "{shown}");
        }
        Expect::Stopped(path) => {
            assert_eq!(outcome.code(), Some(1), "{shown}");
            assert!(outcome.stderr.contains(path), "{path} is not named: {shown}");
        }
    }
    // A fault that acts for ever is over now; rules of other cases name other places.
    fault.end();
    assert_next_run_mends(&describe(&place, &seen), &real, index.is_multiple_of(4), "after the fault");
    if !case.arguments.contains(&"0") {
        assert_nothing_lost(&before, &source, &real.destination, "after the clean run");
    }
}

/// The steps at the destination: the request, where, and the path that must be named.
const DESTINATION_STEPS: &[(Operation, &str, &str)] = &[
    (Operation::Create, "dst/create/", "create/f"),
    (Operation::Write, "dst/create/", "create/f"),
    (Operation::Chown, "dst/create/", "create/f"),
    (Operation::Chmod, "dst/create/", "create/f"),
    (Operation::Setxattr, "dst/create/", "create/f"),
    (Operation::Utimens, "dst/create/", "create/f"),
    (Operation::Rename, "dst/create/", "create/f"),
    (Operation::Write, "dst/bigcreate/", "bigcreate/f"),
    (Operation::Truncate, "dst/sparse/", "sparse/f"),
    (Operation::Write, "dst/sparse/", "sparse/f"),
    (Operation::Create, "dst/update/", "update/f"),
    (Operation::Write, "dst/bigupdate/", "bigupdate/f"),
    (Operation::Utimens, "dst/bigupdate/", "bigupdate/f"),
    (Operation::Rename, "dst/update/", "update/f"),
    (Operation::Rename, "dst/bigupdate/", "bigupdate/f"),
    (Operation::Mkdir, "dst/.ha-sync/trash", "update/f"),
    (Operation::Chmod, "dst/meta/", "meta/f"),
    (Operation::Setxattr, "dst/meta/", "meta/f"),
    (Operation::Symlink, "dst/link/", "link/l"),
    (Operation::Utimens, "dst/link/", "link/l"),
    (Operation::Symlink, "dst/relink/", "relink/l"),
    (Operation::Rename, "dst/relink/", "relink/l"),
    (Operation::Mkdir, "=dst/sub", "sub"),
    (Operation::Chmod, "=dst/sub", "sub"),
    (Operation::Utimens, "=dst/sub/deep", "sub/deep"),
    (Operation::Mkdir, "=dst/sub/deep", "sub/deep"),
    (Operation::Rename, "dst/delete/", "delete/f"),
    (Operation::Rmdir, "dst/rmdir/", "rmdir/old"),
];

/// The steps at the source.
const SOURCE_STEPS: &[(Operation, &str, &str)] = &[
    (Operation::Lookup, "=src/create/f", "create/f"),
    (Operation::Open, "=src/create/f", "create/f"),
    (Operation::Read, "=src/create/f", "create/f"),
    (Operation::Listxattr, "=src/create/f", "create/f"),
    (Operation::Getxattr, "=src/create/f", "create/f"),
    (Operation::Read, "=src/bigcreate/f", "bigcreate/f"),
    (Operation::Read, "=src/sparse/f", "sparse/f"),
    (Operation::Open, "=src/bigupdate/f", "bigupdate/f"),
    (Operation::Listxattr, "=src/meta/f", "meta/f"),
    (Operation::Readlink, "=src/link/l", "link/l"),
    (Operation::Opendir, "=src/update", "update"),
    (Operation::Readdir, "=src/update", "update"),
    (Operation::Opendir, "=src/delete", "delete"),
    (Operation::Readdir, "=src/delete", "delete"),
    (Operation::Readdir, "=src/sub/deep", "sub/deep"),
    (Operation::Readdir, "=dst/update", "update"),
    (Operation::Lookup, "=dst/update/f", "update/f"),
    (Operation::Listxattr, "=dst/meta/f", "meta/f"),
];

fn case(step: &(Operation, &'static str, &'static str), errno: Errno, times: u64, expect: Expect) -> Case {
    Case { operation: step.0, path: step.1, errno, skip: 0, times, after: false, expect, arguments: &[] }
}

#[test]
fn lasting_errors_at_the_destination_fail_the_operation_only() {
    let mut cases = Vec::new();
    for (index, step) in DESTINATION_STEPS.iter().enumerate() {
        for errno in [Errno::NOSPC, Errno::IO, [Errno::DQUOT, Errno::STALE, Errno::ACCESS][index % 3]] {
            cases.push(case(step, errno, u64::MAX, Expect::Partial(step.2)));
        }
    }
    sweep(cases);
}

#[test]
fn a_destination_that_turns_read_only_stops_the_run() {
    let cases = DESTINATION_STEPS.iter().map(|step| case(step, Errno::ROFS, u64::MAX, Expect::Stopped("read-only")));
    sweep(cases.collect());
}

#[test]
fn lasting_errors_while_reading_fail_the_operation_only() {
    let mut cases = Vec::new();
    for (index, step) in SOURCE_STEPS.iter().enumerate() {
        for errno in [Errno::IO, [Errno::STALE, Errno::ACCESS][index % 2]] {
            cases.push(case(step, errno, u64::MAX, Expect::Partial(step.2)));
        }
    }
    sweep(cases);
}

#[test]
fn an_error_that_passes_is_overcome() {
    let errors = [Errno::IO, Errno::STALE, Errno::TIMEDOUT, Errno::INTR, Errno::BUSY];
    let steps = DESTINATION_STEPS.iter().chain(SOURCE_STEPS).enumerate();
    let cases = steps.flat_map(|(index, step)| {
        // Each step meets two of the errors, neighbours meet others.
        [index, index + 2].map(|place| case(step, errors[place % errors.len()], 1, Expect::Success))
    });
    sweep(cases.collect());
}

/// An answer that was lost: the server has done it, and the client reads an error.
#[test]
fn a_lost_answer_loses_nothing() {
    let mut cases = Vec::new();
    let steps = [
        (Operation::Rename, "dst/create/", "create/f"),
        (Operation::Rename, "dst/update/", "update/f"),
        (Operation::Rename, "dst/bigupdate/", "bigupdate/f"),
        (Operation::Rename, "dst/relink/", "relink/l"),
        (Operation::Rename, "dst/delete/", "delete/f"),
        (Operation::Mkdir, "=dst/sub", "sub"),
        (Operation::Rmdir, "dst/rmdir/", "rmdir/old"),
    ];
    for step in &steps {
        for (skip, times) in [(0, 1), (1, 1), (0, u64::MAX)] {
            let single = matches!(step.2, "create/f" | "delete/f" | "sub" | "rmdir/old");
            if skip == 1 && single {
                continue;
            }
            let expect = Expect::AnyOf(&[0, 3]);
            cases.push(Case { skip, after: true, ..case(step, Errno::TIMEDOUT, times, expect) });
        }
    }
    sweep(cases);
}

/// The second and later requests of a commit fail, so that what was begun cannot be undone either.
#[test]
fn a_commit_that_can_be_neither_finished_nor_undone_loses_nothing() {
    let mut cases = Vec::new();
    for path in ["dst/update/", "dst/bigupdate/", "dst/relink/"] {
        for errno in [Errno::IO, Errno::ACCESS] {
            let step = (Operation::Rename, path, "");
            cases.push(Case { skip: 1, ..case(&step, errno, u64::MAX, Expect::AnyOf(&[3])) });
            cases.push(Case { skip: 1, ..case(&step, errno, 1, Expect::AnyOf(&[0, 3])) });
            let step = (Operation::Lookup, path, "");
            for skip in [1, 2, 4] {
                cases.push(Case { skip, ..case(&step, errno, 3, Expect::AnyOf(&[0, 3])) });
            }
        }
    }
    sweep(cases);
}

/// The same without RENAME_EXCHANGE and without hard links, as on NFS and on vfat.
#[test]
fn a_plain_file_system_loses_nothing_either() {
    let steps = [
        (Operation::Rename, "dst/update/", "update/f"),
        (Operation::Link, "dst/.ha-sync/", "update/f"),
        (Operation::Create, "dst/.ha-sync/trash", "update/f"),
        (Operation::Write, "dst/.ha-sync/trash", "bigupdate/f"),
        (Operation::Rename, "dst/bigupdate/", "bigupdate/f"),
        (Operation::Rename, "dst/relink/", "relink/l"),
        (Operation::Rename, "dst/create/", "create/f"),
        (Operation::Rename, "dst/delete/", "delete/f"),
    ];
    for no_link in [false, true] {
        let mut cases = Vec::new();
        for step in &steps {
            let meets = match step.0 {
                Operation::Link => !no_link,
                Operation::Create | Operation::Write => no_link,
                _ => true,
            };
            for (after, times) in [(false, 1), (false, u64::MAX), (true, 1), (true, u64::MAX)] {
                if meets {
                    cases.push(Case { after, ..case(step, Errno::IO, times, Expect::AnyOf(&[0, 3])) });
                }
            }
        }
        sweep_with(cases, |mount| {
            mount.switch(|switches| {
                switches.no_exchange = true;
                switches.no_link = no_link;
            })
        });
    }
}

/// The calls that the run makes, refused from some call on, on a real file system.
#[test]
fn calls_that_are_refused_lose_nothing() {
    need!(ha_testkit::loopmount::need_tool("strace").map(drop));
    let calls = [
        ("renameat2", "EIO", "1+"),
        ("renameat2", "ENOSPC", "1+"),
        ("renameat2", "EROFS", "1+"),
        ("renameat2", "EIO", "2+"),
        ("/^rename(at)?$", "EIO", "1+"),
        ("/^rename(at)?$", "ESTALE", "1"),
        ("linkat", "EIO", "1+"),
        ("unlinkat", "EACCES", "1+"),
        ("mkdirat", "ENOSPC", "1+"),
        ("mkdirat", "EDQUOT", "2+"),
        ("symlinkat", "ENOSPC", "1+"),
        ("readlinkat", "EIO", "1+"),
        ("utimensat", "EIO", "3+"),
        ("utimensat", "EROFS", "1+"),
        ("fchmod", "EIO", "1+"),
        ("fchown", "EDQUOT", "1+"),
        ("fchownat", "EIO", "1+"),
        ("ftruncate", "ENOSPC", "1+"),
        ("pwrite64", "ENOSPC", "1+"),
        ("pwrite64", "EDQUOT", "2+"),
        ("copy_file_range", "ENOSPC", "1+"),
        ("copy_file_range", "EIO", "1+"),
        ("copy_file_range", "EDQUOT", "2+"),
        ("fsetxattr", "ENOSPC", "1+"),
        ("flistxattr", "EIO", "3+"),
        ("fgetxattr", "EIO", "1+"),
        ("getdents64", "EIO", "5+"),
        ("getdents64", "ESTALE", "9"),
        ("statx", "EIO", "30+"),
        ("statx", "ESTALE", "45"),
        ("openat2", "EACCES", "5+"),
        ("openat2", "EIO", "7"),
        ("syncfs", "EIO", "1+"),
        ("fsync,fdatasync", "EIO", "1+"),
        ("fsync,fdatasync", "ENOSPC", "3+"),
        ("lseek", "EIO", "1+"),
        ("fstatfs,statfs", "EIO", "3+"),
    ];
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let body = |(call, errno, when): (&str, &str, &str)| {
        let place = Environment::new();
        let trees = trees(place.path());
        let source = Snapshot::with(&trees.source, &Compare::contents());
        let before = Snapshot::with(&trees.destination, &Compare::contents());
        let run = describe(&place, &trees).args(["--workers", "1", "--walkers", "1"]);
        let outcome = run.clone().strace(Inject::on(call).error(errno).when(when)).run();
        let shown = format!("{}\n{}{}", outcome.status, outcome.stdout, outcome.stderr);
        assert!(!outcome.timed_out, "did not end: {shown}");
        assert!(matches!(outcome.code(), Some(0 | 1 | 3)), "{shown}");
        assert!(!outcome.stderr.contains("strace:"), "{shown}");
        if errno == "EROFS" {
            assert_eq!(outcome.code(), Some(1), "{shown}");
        }
        assert_nothing_lost(&before, &source, &trees.destination, "with the fault");
        if outcome.code() == Some(0) {
            let compare = Compare { directory_times: false, ..Compare::sides() };
            let diff = Snapshot::with(&trees.source, &compare).diff(&Snapshot::with(&trees.destination, &compare));
            assert!(diff.is_empty(), "not equal after success:\n{diff}{shown}");
        }
        assert_next_run_mends(&describe(&place, &trees), &trees, false, "after the fault");
        assert_nothing_lost(&before, &source, &trees.destination, "after the clean run");
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(case) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = std::panic::catch_unwind(|| body(*case)) {
                        let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        wrong.lock().unwrap().push(format!("{case:?}: {words}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), calls.len(), wrong.join("\n\n"));
}

#[test]
fn a_sync_that_fails_fails_the_run_and_keeps_its_counts() {
    need!(ha_testkit::loopmount::need_tool("strace").map(drop));
    let place = Environment::new();
    let trees = trees(place.path());
    let outcome = describe(&place, &trees).strace(Inject::on("syncfs").error("EIO")).run();
    outcome.assert_code(1);
    assert!(outcome.stderr.contains(trees.destination.to_str().unwrap()), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("durable"), "{}", outcome.stderr);
    assert!(!outcome.stdout.contains("created    0"), "{}", outcome.stdout);
}

/// A log or a state that cannot be written stops the run; what it did is known to the next one.
#[test]
fn records_that_cannot_be_written_stop_the_run() {
    let backing = tempfile::tempdir().unwrap();
    let mount = need!(Passthrough::mount(backing.path(), &Options::default()));
    let cases = [
        (Operation::Create, "opslog-", Errno::NOSPC, 0),
        (Operation::Write, "opslog-", Errno::NOSPC, 0),
        (Operation::Write, "opslog-", Errno::NOSPC, 1),
        (Operation::Write, "opslog-", Errno::DQUOT, 3),
        (Operation::Write, "opslog-", Errno::ROFS, 2),
        (Operation::Write, "opslog-", Errno::IO, 4),
        (Operation::Fsync, "opslog-", Errno::IO, 0),
        (Operation::Fsync, "opslog-", Errno::IO, 1),
        (Operation::Create, "state.json", Errno::NOSPC, 0),
        (Operation::Write, "state.json", Errno::NOSPC, 0),
        (Operation::Rename, "state.json", Errno::IO, 0),
        (Operation::Mkdir, "state", Errno::ACCESS, 0),
    ];
    for (index, (operation, path, errno, skip)) in cases.into_iter().enumerate() {
        let place = Environment::new();
        let trees = trees(place.path());
        let source = Snapshot::with(&trees.source, &Compare::contents());
        let before = Snapshot::with(&trees.destination, &Compare::contents());
        let logs = mount.path().join(format!("logs{index}"));
        std::fs::create_dir(&logs).unwrap();
        let pattern = if path == "state" { format!("logs{index}/state") } else { path.to_owned() };
        let fault = mount.inject(Rule::on(operation).path_contains(pattern).skip(skip).error(errno));
        let run = place
            .command(env!("CARGO_BIN_EXE_ha-sync"))
            .args(["--src".as_ref(), trees.source.as_os_str(), "--dest".as_ref(), trees.destination.as_os_str()])
            .args(["--pair", &place.pair(), "--delete-missing", "--db-dsn", "sqlite:/dev/null/none.db", "--log-dir"])
            .arg(&logs)
            .timeout(Duration::from_secs(30));
        let outcome = run.run();
        let why = format!("{operation:?} {path} {errno} after {skip}");
        assert!(fault.fired() > 0, "{why}: not met\n{}", outcome.stderr);
        fault.end();
        assert_eq!(outcome.code(), Some(1), "{why}\n{}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains(&format!("logs{index}/")), "{why}: {}", outcome.stderr);
        assert_nothing_lost(&before, &source, &trees.destination, &why);
        assert_next_run_mends(&run, &trees, true, &why);
        assert_nothing_lost(&before, &source, &trees.destination, &why);
    }
}

/// The destination becomes read-only in the middle of a run.
#[test]
fn a_remount_during_the_run_stops_it_and_the_next_run_mends_everything() {
    for step in [
        (Operation::Write, "dst/bigcreate/"),
        (Operation::Rename, "dst/create/"),
        (Operation::Rename, "dst/update/"),
        (Operation::Mkdir, "dst/sub/deep"),
        (Operation::Rename, "dst/delete/"),
        (Operation::Rmdir, "dst/rmdir/"),
    ] {
        let backing = tempfile::tempdir().unwrap();
        let mount = need!(Passthrough::mount(backing.path(), &Options::default()));
        let real = trees(mount.backing());
        let source = Snapshot::with(&real.source, &Compare::contents());
        let before = Snapshot::with(&real.destination, &Compare::contents());
        let seen = Trees { source: mount.path().join("src"), destination: mount.path().join("dst") };
        let place = Environment::new();
        let control = mount.control();
        let switch = move |_: &[u8]| control.switch(|switches| switches.read_only = true);
        let fault = mount.inject(Rule::on(step.0).path_contains(step.1).once().run(switch));
        let outcome = describe(&place, &seen).run();
        assert_eq!(fault.fired(), 1, "{step:?}");
        outcome.assert_code(1);
        assert!(outcome.stderr.contains("destination is read-only: "), "{}", outcome.stderr);
        assert_nothing_lost(&before, &source, &real.destination, &format!("{step:?}"));
        mount.switch(|switches| switches.read_only = false);
        assert_next_run_mends(&describe(&place, &seen), &real, true, &format!("{step:?}"));
        assert_nothing_lost(&before, &source, &real.destination, &format!("{step:?}"));
    }
}

/// What must be withheld where something could not be compared, and only there.
#[test]
fn nothing_is_deleted_where_something_could_not_be_read() {
    let backing = tempfile::tempdir().unwrap();
    let mount = need!(Passthrough::mount(backing.path(), &Options::default()));
    for (index, operation) in
        [Operation::Readdir, Operation::Lookup, Operation::Listxattr, Operation::Read].into_iter().enumerate()
    {
        let name = format!("n{index}");
        let (source, destination) = (mount.backing().join(&name).join("src"), mount.backing().join(&name).join("dst"));
        make(&source, &[file("a/f", "x").mtime(NEWER), file("b/f", "x").mtime(NEWER)]);
        let old = if operation == Operation::Read { NEWER - 10 } else { NEWER };
        make(
            &destination,
            &[file("a/f", "y").mtime(old), file("a/gone", "1"), file("b/f", "x").mtime(NEWER), file("b/gone", "2")],
        );
        let place = Environment::new();
        let seen =
            Trees { source: mount.path().join(&name).join("src"), destination: mount.path().join(&name).join("dst") };
        let path = if operation == Operation::Readdir { "src/a" } else { "src/a/f" };
        let fault = mount.inject(Rule::on(operation).path_is(format!("{name}/{path}")).error(Errno::IO));
        let outcome = describe(&place, &seen).run();
        fault.end();
        outcome.assert_code(3);
        assert!(destination.join("a/gone").exists(), "{operation:?}: deleted\n{}", outcome.stderr);
        assert!(!destination.join("b/gone").exists(), "{operation:?}: not deleted\n{}", outcome.stderr);
    }
}

fn refuse(calls: &str, error: &str) -> Inject {
    Inject::on(calls).error(error)
}

/// The kernel's own copy is refused in every way, or answers 0: the plain way gives the right content.
#[test]
fn a_kernel_copy_that_is_refused_falls_back() {
    need!(ha_testkit::loopmount::need_tool("strace").map(drop));
    let errors = ["EXDEV", "ENOSYS", "EINVAL", "EPERM", "EOPNOTSUPP"];
    let refusals = errors.map(|error| refuse("copy_file_range", error));
    let nothing = Inject::on("copy_file_range").returns(0);
    for inject in refusals.into_iter().chain([nothing]) {
        let place = Environment::new();
        let trees = trees(place.path());
        let outcome = describe(&place, &trees).strace(inject.clone()).run();
        outcome.assert_success();
        let diff = Snapshot::with(&trees.source, &Compare::sides())
            .diff(&Snapshot::with(&trees.destination, &Compare::sides()));
        assert!(diff.is_empty(), "{inject:?}\n{diff}");
    }
}

/// Newer calls that an old kernel or a seccomp filter refuses.
#[test]
fn newer_calls_that_are_refused_fall_back() {
    const GETXATTRAT: u32 = 464;
    const LISTXATTRAT: u32 = 465;
    const OPENAT2: u32 = 437;
    #[cfg(target_arch = "x86_64")]
    const RENAMEAT2: u32 = 316;
    #[cfg(not(target_arch = "x86_64"))]
    const RENAMEAT2: u32 = 276;
    let mut refusals = vec![
        vec![(RENAMEAT2, Errno::NOSYS)],
        vec![(RENAMEAT2, Errno::INVAL)],
        vec![
            (OPENAT2, Errno::NOSYS),
            (LISTXATTRAT, Errno::NOSYS),
            (GETXATTRAT, Errno::NOSYS),
            (RENAMEAT2, Errno::NOSYS),
        ],
    ];
    for errno in [Errno::NOSYS, Errno::PERM] {
        refusals.push(vec![(OPENAT2, errno)]);
        refusals.push(vec![(LISTXATTRAT, errno), (GETXATTRAT, errno)]);
    }
    for refused in refusals {
        let place = Environment::new();
        let trees = trees(place.path());
        let outside = place.join("outside");
        make(&outside, &[file("f", "not ours").mtime(OLDER)]);
        // A link where the source has a directory, and a directory that is a link at the source.
        make(&trees.source, &[file("planted/f", "evil").mtime(NEWER)]);
        make(&trees.destination, &[link("planted", outside.to_str().unwrap())]);
        let untouched = Snapshot::of(&outside);
        let run = refused.iter().fold(describe(&place, &trees), |run, (call, errno)| run.refuse(*call, *errno));
        let outcome = run.run();
        assert_eq!(outcome.code(), Some(0), "{refused:?}\n{}{}", outcome.stdout, outcome.stderr);
        untouched.assert_same(&Snapshot::of(&outside));
        let diff = Snapshot::with(&trees.source, &Compare::sides())
            .diff(&Snapshot::with(&trees.destination, &Compare::sides()));
        assert!(diff.is_empty(), "{refused:?}\n{diff}{}", outcome.stderr);
    }
}

/// The time of a directory in which something was done cannot be set back: the next run does it.
#[test]
fn a_directory_time_that_cannot_be_set_is_mended() {
    let mut cases = Vec::new();
    for path in ["=dst/create", "=dst/update", "=dst/delete", "=dst/rmdir", "=dst/sub/deep"] {
        let step = (Operation::Utimens, path, "");
        let skip = u64::from(path.ends_with("deep"));
        cases.push(Case { skip, ..case(&step, Errno::IO, u64::MAX, Expect::AnyOf(&[3])) });
        cases.push(Case { skip, ..case(&step, Errno::ROFS, u64::MAX, Expect::Stopped("read-only")) });
        cases.push(Case { skip, ..case(&step, Errno::STALE, 1, Expect::Success) });
    }
    sweep(cases);
}
