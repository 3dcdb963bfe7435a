//! Real file systems as destination: what each can keep, what it cannot, and what happens when it is full.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ha_testkit::command::{Environment, Outcome, Run};
use ha_testkit::loopmount::{self, FileSystem, Mounted, Skipped, loop_mount, need_tool};
use ha_testkit::need;
use ha_testkit::passthrough::{Options, Passthrough};
use ha_testkit::tree::{Compare, DEFAULT_MTIME, Snapshot, dir, file, link, make, sparse};

const OLD: i64 = DEFAULT_MTIME;
const NEW: i64 = DEFAULT_MTIME + 1000;
const MIB: u64 = 1 << 20;

fn run_of(place: &Environment, source: &Path, destination: &Path) -> Run {
    place
        .command(env!("CARGO_BIN_EXE_ha-sync"))
        .args(["--src".as_ref(), source.as_os_str(), "--dest".as_ref(), destination.as_os_str()])
        .args(["--pair", &place.pair(), "--log-dir"])
        .arg(place.log_dir())
        .timeout(Duration::from_secs(40))
}

/// Returns a line of the summary: `created`, `updated`, …
fn counted(outcome: &Outcome, word: &str) -> u64 {
    let line = outcome.stdout.lines().find(|line| line.split_whitespace().next() == Some(word));
    let number = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("{word} is not in\n{}", outcome.stdout))
}

#[track_caller]
fn assert_idle(outcome: &Outcome) {
    outcome.assert_success();
    for word in ["created", "updated", "deleted", "failed"] {
        assert_eq!(counted(outcome, word), 0, "{word}\n{}{}", outcome.stdout, outcome.stderr);
    }
}

#[track_caller]
fn assert_equal(source: &Path, destination: &Path, compare: &Compare, why: &str) {
    let [source, destination] = [source, destination].map(|root| {
        let mut tree = Snapshot::with(root, compare);
        // XFS shows its ACLs twice.
        tree.entries.values_mut().for_each(|entry| entry.xattrs.retain(|name, _| !name.starts_with(b"trusted.SGI_")));
        tree
    });
    let diff = source.diff(&destination);
    assert!(diff.is_empty(), "{why}\n{diff}");
}

fn tool(program: &str, words: &[&str], path: &Path) {
    let output = Command::new(program).args(words).arg(path).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn noise(length: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut data = Vec::new();
    while (data.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data
}

fn in_the_trash(root: &Path, path: &str) -> Option<Vec<u8>> {
    let runs = std::fs::read_dir(root.join(".ha-sync/trash")).ok()?;
    runs.filter_map(|run| std::fs::read(run.unwrap().path().join(path)).ok()).next()
}

/// A full file system, found out by writing or by `--min-free`: the old version stays, what fits comes.
fn full(destination: &Mounted, arguments: &[&str]) {
    let place = Environment::new();
    let source = place.join("src");
    let root = destination.path().join("root");
    make(&root, &[file("big/f", "the old version").mtime(OLD)]);
    make(&source, &[file("big/f", noise(20 * MIB)).mtime(NEW)]);
    for index in 0..5 {
        make(&source, &[file(format!("small/{index}"), noise(10_000)), file(format!("zz/{index}"), noise(10_000))]);
    }
    let before = Snapshot::with(&root.join("big"), &Compare::sides());
    let outcome = run_of(&place, &source, &root).args(arguments).run();
    outcome.assert_code(3);
    assert!(outcome.stderr.contains("big/f"), "{}", outcome.stderr);
    before.assert_same(&Snapshot::with(&root.join("big"), &Compare::sides()));
    for name in ["small", "zz"] {
        assert_equal(&source.join(name), &root.join(name), &Compare::sides(), &outcome.stderr);
    }
    let left = Snapshot::with(&root, &Compare::contents()).temporary_files();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(counted(&outcome, "failed"), 1, "{}", outcome.stdout);
}

#[test]
fn a_full_file_system_keeps_the_old_version() {
    full(&need!(loop_mount(FileSystem::Ext4, 16 * MIB)), &["--min-free", "0", "--workers", "1"]);
    full(&need!(loop_mount(FileSystem::Ext4, 16 * MIB)), &[]);
    full(&need!(loopmount::tmpfs(16 * MIB)), &["--min-free", "0", "--workers", "1"]);
    full(&need!(loopmount::tmpfs(16 * MIB)), &["--min-free", "1MiB"]);
}

/// A big copy that fills the file system, while others write small files.
#[test]
fn what_fits_comes_beside_a_copy_that_does_not() {
    full(&need!(loopmount::tmpfs(16 * MIB)), &["--min-free", "0", "--workers", "4"]);
}

#[test]
fn min_free_is_left_free() {
    let disk = need!(loopmount::tmpfs(64 * MIB));
    let place = Environment::new();
    let source = place.join("src");
    for index in 0..6 {
        make(&source, &[file(format!("f{index}"), noise(8 * MIB))]);
    }
    let root = disk.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let outcome = run_of(&place, &source, &root).args(["--min-free", "32MiB", "--workers", "1"]).run();
    outcome.assert_code(3);
    assert!(outcome.stderr.contains("--min-free"), "{}", outcome.stderr);
    let space = rustix::fs::statvfs(disk.path()).unwrap();
    let free = space.f_bavail * space.f_frsize;
    assert!(free >= 32 * MIB, "{free} bytes are free");
    assert!(counted(&outcome, "created") >= 3, "{}", outcome.stdout);
    run_of(&place, &source, &root).args(["--min-free", "0"]).run().assert_success();
    assert_equal(&source, &root, &Compare::sides(), "--min-free 0");
    // Copies side by side: together they leave it too, and none is refused that fits.
    let disk = need!(loopmount::tmpfs(64 * MIB));
    let place = Environment::new();
    let (source, root) = (place.join("src"), disk.path().join("root"));
    for index in 0..40 {
        make(&source, &[file(format!("{}/f{index}", index % 8), noise(3 * MIB / 2))]);
    }
    std::fs::create_dir(&root).unwrap();
    run_of(&place, &source, &root).args(["--min-free", "32MiB", "--workers", "8"]).run().assert_code(3);
    let space = rustix::fs::statvfs(disk.path()).unwrap();
    let free = space.f_bavail * space.f_frsize;
    assert!((32 * MIB..34 * MIB).contains(&free), "{free} bytes are free");
}

#[test]
fn a_read_only_destination_stops_the_run() {
    let disk = need!(loop_mount(FileSystem::Ext4, 16 * MIB));
    let place = Environment::new();
    let (source, root) = (place.join("src"), disk.path().join("root"));
    make(&source, &[file("new", "n"), file("d/upd", "new").mtime(NEW)]);
    make(&root, &[file("d/upd", "old one").mtime(OLD), file("gone", "g")]);
    disk.set_read_only(true);
    let before = Snapshot::of(disk.path());
    for arguments in [&[][..], &["--delete-missing"]] {
        let outcome = run_of(&place, &source, &root).args(arguments).run();
        outcome.assert_code(1);
        assert!(outcome.stderr.contains("destination is read-only: "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(root.to_str().unwrap()), "{}", outcome.stderr);
    }
    before.assert_same(&Snapshot::of(disk.path()));
    run_of(&place, &source, &root).arg("--dry-run").run().assert_success();
    disk.set_read_only(false);
    run_of(&place, &source, &root).args(["--delete-missing", "--max-delete", "100%"]).run().assert_success();
    assert_equal(&source, &root, &Compare::sides(), "writable again");
}

/// Everything that a good file system keeps.
fn rich_tree(root: &Path) {
    let time = i128::from(OLD) * 1_000_000_000 + 123_456_789;
    make(
        root,
        &[
            file("plain", "plain").mtime_ns(time),
            file("owned", "owned").owner(1234, 1235).mode(0o640).mtime_ns(time + 1),
            file("setid", "#!").owner(1234, 1235).mode(0o6755),
            file("xattrs", "x").xattr("user.a", "1").xattr("user.empty", "").xattr("trusted.t", "2"),
            file("large-xattr", "x").xattr("user.large", vec![b'v'; 600]),
            file("capable", "x").mode(0o755),
            file("acl", "x").mode(0o640),
            file("closed", "x").mode(0),
            file("big", noise(3 * MIB + 17)).mtime_ns(time + 2),
            dir("shared").mode(0o2775).owner(0, 1235),
            dir("sticky").mode(0o1777),
            dir("acls").xattr("user.d", "3").mtime_ns(time + 3),
            file("acls/inside", "x"),
            link("link", "plain").mtime_ns(time + 4),
            link("dangling", vec![b't'; 900]).mtime_ns(time + 5),
            sparse("huge", 1 << 30).data(0, "begin").data(500 << 20, noise(5000)).mtime_ns(time + 6),
            sparse("middle", 3 * MIB).data(0, noise(MIB)).data(2 * MIB, noise(100_000)),
            sparse("hole", MIB),
            sparse("small-hole", 100_000).data(90_000, "end"),
        ],
    );
    tool("setfacl", &["-m", "u:1234:rw,g:1235:r"], &root.join("acl"));
    tool("setfacl", &["-m", "u:1234:rwx", "-m", "d:u:1236:rx,d:g::r"], &root.join("acls"));
    tool("setcap", &["cap_net_bind_service+ep"], &root.join("capable"));
}

fn allocated(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().blocks() * 512
}

fn tools() -> Result<(), Skipped> {
    ["setfacl", "setcap"].into_iter().try_for_each(|name| need_tool(name).map(drop))
}

/// Each file system in turn gets the tree from the one before.
#[test]
fn every_file_system_keeps_everything() {
    need!(tools());
    let place = Environment::new();
    let first = place.join("src");
    rich_tree(&first);
    let disks = [
        need!(loop_mount(FileSystem::Ext4, 64 * MIB)),
        need!(loop_mount(FileSystem::Xfs, 300 * MIB)),
        need!(loop_mount(FileSystem::Btrfs, 128 * MIB)),
        need!(loopmount::tmpfs(64 * MIB)),
    ];
    let mut source = first.clone();
    for (round, disk) in disks.iter().enumerate() {
        let root = disk.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let place = Environment::new();
        let outcome = run_of(&place, &source, &root).run();
        outcome.assert_success();
        assert!(!outcome.stderr.contains("warning"), "{}: {}", disk.description(), outcome.stderr);
        assert_equal(&first, &root, &Compare::sides(), disk.description());
        assert!(allocated(&root.join("huge")) < 100_000, "{}: {}", disk.description(), allocated(&root.join("huge")));
        assert!(allocated(&root.join("hole")) < 10_000, "{}", disk.description());
        assert!(allocated(&root.join("middle")) < MIB + 400_000, "{}", disk.description());
        assert!(outcome.wall < Duration::from_secs(10), "{}: {:?}", disk.description(), outcome.wall);
        assert_idle(&run_of(&place, &source, &root).run());
        // Only metadata change now.
        for path in [first.join("acl"), source.join("acl")] {
            tool("setfacl", &["-m", &format!("u:{}:r", 2000 + round)], &path);
        }
        let outcome = run_of(&place, &source, &root).run();
        outcome.assert_success();
        assert_eq!(counted(&outcome, "updated"), 1, "{}: {}", disk.description(), outcome.stderr);
        assert_equal(&first, &root, &Compare::sides(), disk.description());
        source = root;
    }
}

#[test]
fn copies_share_their_blocks_where_they_can() {
    need!(need_tool("filefrag").map(drop));
    for disk in [need!(loop_mount(FileSystem::Xfs, 300 * MIB)), need!(loop_mount(FileSystem::Btrfs, 128 * MIB))] {
        let place = Environment::new();
        let (source, root) = (disk.path().join("src"), disk.path().join("dst"));
        make(&source, &[file("f", noise(8 * MIB)).mtime(NEW)]);
        make(&root, &[file("f", "old").mtime(OLD)]);
        Command::new("sync").arg("-f").arg(disk.path()).status().unwrap();
        run_of(&place, &source, &root).run().assert_success();
        assert_equal(&source, &root, &Compare::sides(), disk.description());
        let output = Command::new(need!(need_tool("filefrag"))).arg("-v").arg(root.join("f")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("shared"), "{}: {text}", disk.description());
    }
}

/// No hard links, no exchange, no attributes, coarse times, as on vfat and on servers: the old version goes to the
/// trash, and a reader always finds one of the two.
#[test]
fn a_plain_file_system_never_lets_a_path_be_absent() {
    for (no_link, tick) in [(true, 2_000_000_000), (false, 1_000_000_000)] {
        let backing = tempfile::tempdir().unwrap();
        let mount = need!(Passthrough::mount(backing.path(), &Options::default()));
        mount.switch(|switches| {
            switches.no_link = no_link;
            switches.no_exchange = true;
            switches.no_xattr = true;
            switches.time_granularity = tick;
        });
        let place = Environment::new();
        let source = place.join("src");
        let odd = i128::from(NEW) * 1_000_000_000 + 1_700_000_001;
        let (new, old) = (noise(400_000), vec![b'o'; 300_000]);
        make(
            &source,
            &[file("d/f", &new).mtime_ns(odd), file("small", "new").mtime_ns(odd), link("l", "t").mtime_ns(odd)],
        );
        make(backing.path(), &[file("d/f", &old).mtime(OLD), file("small", "old one").mtime(OLD)]);
        mount.set_delay(Duration::from_millis(1));
        let (ended, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        let wrong = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    looks.fetch_add(1, Ordering::SeqCst);
                    match std::fs::read(mount.path().join("d/f")) {
                        Ok(text) if text == old || text == new => {}
                        Ok(text) => return Some(format!("{} bytes of something else", text.len())),
                        Err(error) => return Some(error.to_string()),
                    }
                }
                None
            });
            let outcome = run_of(&place, &source, mount.path()).run();
            ended.store(true, Ordering::SeqCst);
            outcome.assert_success();
            reader.join().unwrap()
        });
        assert_eq!(wrong, None, "no_link {no_link}");
        assert!(looks.load(Ordering::SeqCst) > 3);
        assert_eq!(in_the_trash(backing.path(), "d/f"), Some(old));
        assert_eq!(in_the_trash(backing.path(), "small"), Some(b"old one".to_vec()));
        assert_equal(&source, backing.path(), &Compare::contents(), "contents");
        mount.set_delay(Duration::ZERO);
        assert_idle(&run_of(&place, &source, mount.path()).run());
    }
}

#[test]
fn names_that_the_destination_folds_collide() {
    let backing = tempfile::tempdir().unwrap();
    let mount = need!(Passthrough::mount(backing.path(), &Options::default()));
    mount.switch(|switches| {
        switches.fold_case = true;
        switches.no_exchange = true;
    });
    let place = Environment::new();
    let source = place.join("src");
    make(&source, &[file("Name", "upper"), file("name", "lower"), file("other", "o")]);
    let outcome = run_of(&place, &source, mount.path()).run();
    outcome.assert_code(3);
    assert!(outcome.stderr.contains("name collides on destination"), "{}", outcome.stderr);
    assert_eq!(counted(&outcome, "created"), 2, "{}", outcome.stderr);
    let kept = std::fs::read(mount.path().join("name")).unwrap();
    assert!(kept == b"upper" || kept == b"lower");
    let outcome = run_of(&place, &source, mount.path()).run();
    outcome.assert_code(3);
    assert!(outcome.stderr.contains("name collides on destination"), "{}", outcome.stderr);
    assert_eq!(std::fs::read(mount.path().join("name")).unwrap(), kept, "the names take turns");
}

#[test]
fn vfat_settles() {
    let disk = need!(loop_mount(FileSystem::Vfat, 64 * MIB));
    let place = Environment::new();
    let (source, root) = (place.join("src"), disk.path().join("root"));
    let odd = i128::from(NEW) * 1_000_000_000 + 1_700_000_001;
    make(&source, &[file("d/f", "new").mtime_ns(odd), file("small", "new").mode(0o600).mtime_ns(odd)]);
    make(&root, &[file("d/f", "the old one").mtime(OLD)]);
    run_of(&place, &source, &root).run().assert_success();
    assert_equal(&source, &root, &Compare::contents(), "contents");
    assert_eq!(in_the_trash(&root, "d/f"), Some(b"the old one".to_vec()));
    assert_idle(&run_of(&place, &source, &root).run());
}

/// What a directory would give to new entries is not theirs when the source's have it not.
#[test]
fn an_inherited_acl_does_not_stay() {
    need!(tools());
    let disk = need!(loop_mount(FileSystem::Ext4, 16 * MIB));
    let place = Environment::new();
    let (source, root) = (place.join("src"), disk.path().join("root"));
    make(
        &source,
        &[
            file("plain", "x").mode(0o640),
            file("acl", "x").mode(0o640),
            file("below/plain", "x"),
            dir("below").mode(0o750),
            link("l", "t"),
            file("upd", "new one").mtime(NEW),
        ],
    );
    tool("setfacl", &["-m", "u:77:r"], &source.join("acl"));
    make(&root, &[file("upd", "old").mtime(OLD)]);
    tool("setfacl", &["-m", "d:u:1234:rwx,d:g:1235:rwx"], &root);
    run_of(&place, &source, &root).run().assert_success();
    assert_equal(&source, &root, &Compare::sides(), "inherited");
    assert_idle(&run_of(&place, &source, &root).run());
}

#[test]
fn a_mount_below_a_root_is_entered_only_when_asked() {
    let inner = need!(loopmount::tmpfs(16 * MIB));
    let place = Environment::new();
    let (source, root) = (place.join("src"), place.join("dst"));
    make(&source, &[file("a/f", "a"), dir("bound"), dir("mounted"), file("z", "z")]);
    make(&root, &[file("bound/theirs", "keep").mtime(OLD), dir("mounted")]);
    make(inner.path(), &[file("in", "inside"), file("deep/in", "inside")]);
    let elsewhere = place.join("elsewhere");
    make(&elsewhere, &[file("bound-in", "b")]);
    let bound = need!(loopmount::bind(&elsewhere, &source.join("bound")));
    let mounted = need!(loopmount::bind(inner.path(), &source.join("mounted")));
    let outcome = run_of(&place, &source, &root).args(["--delete-missing", "--verbose"]).run();
    outcome.assert_success();
    assert!(root.join("bound/theirs").exists() && !root.join("bound/bound-in").exists(), "{}", outcome.stderr);
    assert_eq!(std::fs::read_dir(root.join("mounted")).unwrap().count(), 0, "{}", outcome.stderr);
    assert!(root.join("a/f").exists() && root.join("z").exists());
    assert!(outcome.stderr.contains("mount"), "{}", outcome.stderr);
    let outcome = run_of(&place, &source, &root).arg("--cross-mounts").run();
    outcome.assert_success();
    assert_eq!(std::fs::read(root.join("mounted/deep/in")).unwrap(), b"inside");
    assert_eq!(std::fs::read(root.join("bound/bound-in")).unwrap(), b"b");
    // The other way: mounts below the destination, whose trash is on another file system.
    let back = Environment::new();
    std::fs::write(root.join("mounted/in"), "changed later").unwrap();
    let outcome = run_of(&back, &root, &source).arg("--cross-mounts").run();
    outcome.assert_success();
    assert_eq!(std::fs::read(inner.path().join("in")).unwrap(), b"changed later", "{}", outcome.stderr);
    assert_eq!(in_the_trash(&source, "mounted/in"), Some(b"inside".to_vec()));
    drop((bound, mounted));
}

#[test]
fn a_subvolume_below_the_root_is_a_directory_like_others() {
    let btrfs = need!(need_tool("btrfs"));
    let disk = need!(loop_mount(FileSystem::Btrfs, 128 * MIB));
    let place = Environment::new();
    let (source, root) = (place.join("src"), disk.path().join("root"));
    std::fs::create_dir(&root).unwrap();
    let output = Command::new(btrfs).args(["subvolume", "create"]).arg(root.join("sub")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    make(&source, &[file("sub/upd", "new one").mtime(NEW), file("sub/new", "n"), link("sub/l", "new").mtime(NEW)]);
    make(
        &root,
        &[
            file("sub/upd", "old").mode(0o640).owner(1234, 1235).mtime(OLD).xattr("user.k", "v"),
            file("sub/gone", "gone").mtime(OLD),
            link("sub/l", "old").mtime(OLD),
        ],
    );
    let outcome = run_of(&place, &source, &root).args(["--delete-missing"]).run();
    outcome.assert_success();
    assert_equal(&source, &root, &Compare::sides(), "subvolume");
    assert_eq!(in_the_trash(&root, "sub/upd"), Some(b"old".to_vec()));
    assert_eq!(in_the_trash(&root, "sub/gone"), Some(b"gone".to_vec()));
    let run = std::fs::read_dir(root.join(".ha-sync/trash")).unwrap().next().unwrap().unwrap().path();
    let kept = Snapshot::with(&run, &Compare::sides());
    let kept = kept.get("sub/upd").unwrap();
    assert_eq!((kept.mode, kept.uid, kept.mtime), (0o640, 1234, i128::from(OLD) * 1_000_000_000));
    assert_eq!(kept.xattrs.get(&b"user.k"[..]), Some(&b"v".to_vec()));
    assert_idle(&run_of(&place, &source, &root).args(["--delete-missing"]).run());
}

#[test]
fn without_root_owners_are_left_out() {
    if !rustix::process::geteuid().is_root() {
        return Skipped::because("changing the user needs root").report();
    }
    let place = Environment::new();
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["", "home", "tmp", "logs"] {
        open(&place.join(name));
    }
    let (source, root) = (place.join("src"), place.join("dst"));
    make(
        &source,
        &[
            file("a", "a"),
            file("b", "b").owner(1, 1),
            file("setid", "s").mode(0o6755),
            file("d/c", "c").mode(0o640).owner(65534, 65534),
            dir("read-only").mode(0o555),
            file("read-only/f", "f").xattr("user.k", "v"),
            link("l", "a").owner(1, 1),
            file("upd", "new one").mtime(NEW),
        ],
    );
    make(&root, &[file("upd", "old").owner(65534, 65534).mtime(OLD)]);
    std::os::unix::fs::chown(&root, Some(65534), Some(65534)).unwrap();
    // The build may lie where another user cannot reach it.
    let binary = place.join("ha-sync");
    std::fs::copy(env!("CARGO_BIN_EXE_ha-sync"), &binary).unwrap();
    let run = || {
        place
            .command(&binary)
            .args(["--src".as_ref(), source.as_os_str(), "--dest".as_ref(), root.as_os_str()])
            .args(["--pair", &place.pair(), "--delete-missing", "--log-dir"])
            .arg(place.log_dir())
            .user(65534, 65534)
            .run()
    };
    let outcome = run();
    outcome.assert_success();
    assert_eq!(outcome.stderr.matches("owners").count(), 1, "{}", outcome.stderr);
    let compare = Compare { permissions: false, ..Compare::sides() };
    assert_equal(&source, &root, &compare, &outcome.stderr);
    let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("read-only"), mode("d/c"), mode("setid")), (0o555, 0o640, 0o755), "{}", outcome.stderr);
    assert_idle(&run());
}
