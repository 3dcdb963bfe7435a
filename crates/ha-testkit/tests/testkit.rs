//! The testkit on itself: what the other tests rely on.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use ha_testkit::command::{Environment, Inject};
use ha_testkit::loopmount::{self, FileSystem, need_tool};
use ha_testkit::need;
use ha_testkit::passthrough::{Errno, Operation, Options, Passthrough, Rule};
use ha_testkit::tree::{Compare, Snapshot, dir, fifo, file, hard_link, link, make, socket, sparse};

fn sh(command: &str, directory: &Path) {
    let output = Command::new("sh").args(["-euc", command]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn mixed(root: &Path) {
    make(
        root,
        &[
            dir("empty").mode(0o700).mtime(1_000_000_000),
            file("a/b/text", "text\n").mode(0o640).mtime_ns(1_600_000_000_123_456_789),
            file("a/old", "before 1970").mtime_ns(-1_500_000_000),
            file(b"a/bytes \xff\xfe\n", "not UTF-8"),
            file("a/-rf", "a leading dash"),
            file("x".repeat(255), "a long name"),
            file("big", vec![7; 3 << 20]),
            sparse("hole", 8 << 20).data(5 << 20, "data"),
            link("a/link", "b/text"),
            link("dangling", "/nowhere/at all").mtime(1_500_000_000),
            hard_link("a/second name", "a/b/text"),
            fifo("pipe"),
            file("attributes", "").xattr("user.note", "value").mode(0o4755),
        ],
    );
}

#[test]
fn snapshot_tells_what_differs() {
    let place = Environment::new();
    let (one, two) = (place.join("one"), place.join("two"));
    mixed(&one);
    mixed(&two);
    let sides = Compare::sides();
    Snapshot::with(&one, &sides).assert_same(&Snapshot::with(&two, &sides));

    make(&two, &[file("a/b/text", "TEXT\n").mode(0o600), dir(".ha-sync/trash"), file("more", "")]);
    let diff = Snapshot::with(&one, &sides).diff(&Snapshot::with(&two, &sides));
    assert!(diff.contains("~ a/b/text: file, 5 bytes, \"text\\n\" | file, 5 bytes, \"TEXT\\n\""), "{diff}");
    assert!(diff.contains("mode 0640 | 0600"), "{diff}");
    assert!(diff.contains("mtime 1600000000.123456789 | 1700000000.000000000"), "{diff}");
    assert!(diff.contains("+ more (file, 0 bytes, \"\")"), "{diff}");
    assert!(!diff.contains(".ha-sync"), "{diff}");

    let before = Snapshot::of(&one);
    before.assert_same(&Snapshot::of(&one));
    sh("cp -p big copy && mv copy big", &one);
    assert!(before.diff(&Snapshot::of(&one)).contains("~ big: inode"), "the same content in another file");
}

#[test]
fn content_is_compared_wherever_the_holes_are() {
    let place = Environment::new();
    let root = place.join("tree");
    make(&root, &[sparse("a", 1 << 20).data(70_000, "x"), sparse("huge", 1 << 40).data(1 << 39, "far")]);
    let mut full = vec![0_u8; 1 << 20];
    full[70_000] = b'x';
    make(&root, &[file("b", &full)]);
    full[70_001] = 1;
    make(&root, &[file("c", &full)]);
    let snapshot = Snapshot::of(&root);
    let content = |name: &str| snapshot.get(name).unwrap().content;
    assert_eq!(content("a"), content("b"));
    assert_ne!(content("b"), content("c"));
}

#[test]
fn paths_beyond_path_max() {
    let place = Environment::new();
    let root = place.join("deep");
    let deep = vec!["directory with a long name"; 1000].join("/");
    make(&root, &[file(format!("{deep}/file"), "deep")]);
    let snapshot = Snapshot::of(&root);
    assert_eq!(snapshot.entries.len(), 1001);
    assert_eq!(snapshot.get(format!("{deep}/file")).unwrap().size, 4);
    // tempfile's own removal would do it too, but this shows that it can be done through a passthrough.
    let mount = need!(Passthrough::mount(&root, &Options::default()));
    Snapshot::with(mount.path(), &Compare::sides()).assert_same(&Snapshot::with(&root, &Compare::sides()));
}

#[test]
fn passthrough_serves_common_tools() {
    let place = Environment::new();
    let backing = place.join("backing");
    let source = place.join("source");
    std::fs::create_dir(&backing).unwrap();
    mixed(&source);
    for number in 0..600 {
        std::fs::write(source.join(format!("a/many-{number}")), vec![b'.'; number * 50]).unwrap();
    }
    need!(need_tool("rsync"));
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    let same = Compare { link_counts: true, special: true, ..Compare::sides() };
    let wanted = Snapshot::with(&source, &same);

    sh(&format!("cp -a '{}/.' one", source.display()), mount.path());
    Snapshot::with(&mount.path().join("one"), &same).assert_same(&wanted);
    Snapshot::with(&backing.join("one"), &same).assert_same(&wanted);

    // rsync knows link mtimes, xattrs and hard links, but sets user attributes only where there are any.
    sh(&format!("rsync -aHX '{}/' two/ && rsync -aHX --delete one/ two/", source.display()), mount.path());
    Snapshot::with(&mount.path().join("two"), &same).assert_same(&wanted);

    // A directory is renamed while it is in use: handles and names follow.
    let open = std::fs::File::open(mount.path().join("two/a/b/text")).unwrap();
    sh("mv two/a two/renamed && cat two/renamed/b/text && find two -type f | wc -l", mount.path());
    let mut text = [0; 5];
    open.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"text\n");
    std::fs::remove_file(mount.path().join("two/renamed/b/text")).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 1, "the hard link is left");
    std::fs::remove_file(mount.path().join("two/renamed/second name")).unwrap();
    assert_eq!(open.metadata().unwrap().len(), 5, "an unlinked file that is open can still be asked");
    drop(open);

    sh("truncate -s 10 one/big && test $(stat -c %s one/big) = 10", mount.path());
    sh("echo more >> one/big && test $(stat -c %s one/big) = 15", mount.path());
    sh("rm -rf one two && test -z \"$(ls -A)\"", mount.path());
    assert_eq!(std::fs::read_dir(&backing).unwrap().count(), 0);
}

#[test]
fn listing_is_whole_while_entries_go() {
    let place = Environment::new();
    let backing = place.join("backing");
    let items: Vec<_> = (0..5000).map(|number| file(format!("file number {number}"), "")).collect();
    make(&backing, &items);
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    let mut seen = 0;
    for entry in std::fs::read_dir(mount.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
        seen += 1;
    }
    assert_eq!(seen, 5000);
    assert_eq!(std::fs::read_dir(&backing).unwrap().count(), 0);
}

#[test]
fn more_files_than_may_be_open() {
    let place = Environment::new();
    let backing = place.join("backing");
    let items: Vec<_> = (0..3_000).map(|number| file(format!("d{}/file-{number}", number % 30), "x")).collect();
    make(&backing, &items);
    let mount = need!(Passthrough::mount(&backing, &Options { handles: Some(100), ..Options::default() }));
    let sides = Compare::sides();
    let wanted = Snapshot::with(&backing, &sides);
    Snapshot::with(mount.path(), &sides).assert_same(&wanted);
    // An unlinked file that is open has no name to be opened by again.
    let kept = std::fs::File::open(mount.path().join("d0/file-0")).unwrap();
    std::fs::remove_file(mount.path().join("d0/file-0")).unwrap();
    let inside =
        rustix::fs::open(mount.path().join("d1"), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    sh("mv d1 moved && find . -type f -exec stat {} + | grep -c Size", mount.path());
    assert_eq!(kept.metadata().unwrap().len(), 1);
    let below = rustix::fs::statat(&inside, "file-1", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(below.st_size, 1, "below a directory that was renamed");
}

#[test]
fn rules_fire_as_described() {
    let place = Environment::new();
    let backing = place.join("backing");
    make(&backing, &[file("a/b/one", "1"), file("a/b/two", "2"), file("c", "3")]);
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();

    let listing = mount.inject(Rule::on(Operation::Readdir).path_ends_with("a/b").error(Errno::STALE));
    let list = |path: &str| -> std::io::Result<()> {
        for entry in std::fs::read_dir(mount.path().join(path))? {
            entry?;
        }
        Ok(())
    };
    assert_eq!(errno(list("a/b")), libc::ESTALE);
    list("a").unwrap();
    assert_eq!(listing.fired(), 1);
    mount.clear();
    list("a/b").unwrap();

    // A listing that fails in its middle: the first request brings entries, the second one the error.
    mount.inject(Rule::on(Operation::Readdir).path_is("a/b").skip(1).times(1).error(Errno::IO));
    let mut entries = std::fs::read_dir(mount.path().join("a/b")).unwrap();
    assert!(entries.next().unwrap().is_ok() && entries.next().unwrap().is_ok());
    assert_eq!(entries.next().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
    list("a/b").unwrap();
    mount.clear();

    // The disk is full from the third write on, and only for one file.
    mount.inject(Rule::on(Operation::Write).path_contains("full").skip(2).error(Errno::NOSPC));
    let full = std::fs::File::create(mount.path().join("full")).unwrap();
    full.write_all_at(b"x", 0).unwrap();
    full.write_all_at(b"x", 1).unwrap();
    assert_eq!(errno(full.write_all_at(b"x", 2)), libc::ENOSPC);
    std::fs::write(mount.path().join("other"), "fits").unwrap();
    mount.clear();

    // The answer is lost, the work is done.
    let lost = mount.inject(Rule::on(Operation::Rename).path_is("c").once().error_after(Errno::TIMEDOUT));
    let (from, to) = (mount.path().join("c"), mount.path().join("d"));
    assert_eq!(errno(std::fs::rename(&from, &to)), libc::ETIMEDOUT);
    assert!(!from.exists() && to.exists());
    assert_eq!(lost.fired(), 1);

    // A directory becomes a link at the moment a file in it is looked up.
    let place = backing.clone();
    mount.inject(Rule::on(Operation::Lookup).path_is("a/b/one").once().run(move |_| {
        std::fs::rename(place.join("a"), place.join("moved")).unwrap();
        std::os::unix::fs::symlink("/", place.join("a")).unwrap();
    }));
    assert_eq!(std::fs::read(mount.path().join("a/b/one")).unwrap(), b"1", "relative to the directory that was there");
    assert!(mount.path().join("a").is_symlink());
    mount.clear();

    // Every kind of change of attributes can be told apart.
    mount.inject(Rule::on(Operation::Utimens).error(Errno::PERM));
    let file = std::fs::File::options().write(true).open(&to).unwrap();
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(errno(file.set_modified(SystemTime::UNIX_EPOCH)), libc::EPERM);
}

#[test]
fn switches_take_features_away_and_give_them_back() {
    let place = Environment::new();
    let backing = place.join("backing");
    make(&backing, &[file("a", "a").xattr("user.x", "1"), file("b", "b")]);
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    let (a, b) = (mount.path().join("a"), mount.path().join("b"));
    let raw = |result: Result<(), Errno>| result.unwrap_err();
    let exchange = || {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags)
    };
    let link = || rustix::fs::link(&a, mount.path().join("second"));
    let set = || rustix::fs::setxattr(&b, "user.y", b"2", rustix::fs::XattrFlags::empty());

    mount.switch(|switches| {
        switches.no_exchange = true;
        switches.no_link = true;
        switches.no_xattr = true;
    });
    assert_eq!(raw(exchange()), Errno::INVAL);
    assert_eq!(raw(link()), Errno::PERM);
    assert_eq!(raw(set()), Errno::OPNOTSUPP);
    mount.switch(|switches| *switches = Default::default());
    exchange().unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), b"b");
    link().unwrap();
    set().unwrap();

    mount.switch(|switches| switches.no_chown = true);
    assert_eq!(raw(rustix::fs::chown(&a, Some(rustix::fs::Uid::from_raw(7)), None)), Errno::PERM);
    mount.switch(|switches| switches.read_only = true);
    assert_eq!(std::fs::write(&a, "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(std::fs::read(&a).unwrap(), b"b");

    mount.switch(|switches| *switches = Default::default());
    mount.switch(|switches| switches.fold_case = true);
    std::fs::write(mount.path().join("A"), "folded").unwrap();
    assert_eq!(std::fs::read(backing.join("a")).unwrap(), b"folded");
    mount.switch(|switches| switches.time_granularity = 2_000_000_000);
    make(&backing, &[file("odd", "").mtime_ns(1_600_000_001_500_000_000)]);
    assert_eq!(std::fs::metadata(mount.path().join("odd")).unwrap().mtime(), 1_600_000_000);
}

#[test]
fn clock_of_the_server_is_its_own() {
    let place = Environment::new();
    let backing = place.join("backing");
    std::fs::create_dir(&backing).unwrap();
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    let ahead = |path: &Path| {
        let mtime = path.metadata().unwrap().modified().unwrap();
        let now = SystemTime::now();
        mtime.duration_since(now).map_or_else(|e| -e.duration().as_secs_f64(), |ahead| ahead.as_secs_f64())
    };
    mount.set_clock_offset(-100_000_000_000);
    std::fs::write(mount.path().join("written"), "x").unwrap();
    std::fs::create_dir(mount.path().join("directory")).unwrap();
    for name in ["written", "directory", "."] {
        let ahead = ahead(&mount.path().join(name));
        assert!((-102.0..-98.0).contains(&ahead), "{name}: {ahead}");
    }
    // A time that the client sets is the client's.
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let file = std::fs::File::options().write(true).open(mount.path().join("written")).unwrap();
    file.set_modified(time).unwrap();
    assert_eq!(mount.path().join("written").metadata().unwrap().modified().unwrap(), time);
}

#[test]
fn delay_is_for_each_request_and_32_sleep_at_once() {
    const DELAY: Duration = Duration::from_millis(20);
    let place = Environment::new();
    let backing = place.join("backing");
    let items: Vec<_> = (0..32).map(|number| file(format!("{number}"), "")).collect();
    make(&backing, &items);
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    mount.set_delay(DELAY);
    mount.reset_counts();
    let started = Instant::now();
    std::fs::metadata(mount.path().join("0")).unwrap();
    let one = started.elapsed();
    let requests = mount.count_metadata();
    assert!(requests >= 2, "a name and its attributes: {requests}");
    assert!(one >= DELAY * u32::try_from(requests).unwrap(), "{one:?} for {requests} requests");

    let started = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..32 {
            let path = mount.path().join(number.to_string());
            scope.spawn(move || std::fs::metadata(path).unwrap());
        }
    });
    let all = started.elapsed();
    // One after the other they would take 32 times as long as one.
    assert!(all < one * 12, "32 at once took {all:?}, one alone {one:?}");
    assert!(mount.count(Operation::Getattr) >= 32, "nothing was answered from a cache");
}

#[test]
fn other_users_are_served_and_own_what_they_make() {
    let place = Environment::new();
    let backing = place.join("backing");
    make(&backing, &[dir("open").mode(0o777), dir("closed").mode(0o700)]);
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mount = need!(Passthrough::mount(&backing, &Options::default()));
    let script = "umask 027; echo x > open/file; mkdir open/dir; ln -s t open/link; ! ls closed";
    let outcome = place.command("sh").args(["-euc", script]).current_dir(mount.path()).user(1234, 1235).run();
    outcome.assert_success();
    let made = Snapshot::of(&backing);
    for (name, mode) in [("open/file", 0o640), ("open/dir", 0o750), ("open/link", 0o777)] {
        let entry = made.get(name).unwrap();
        assert_eq!((entry.uid, entry.gid, entry.mode), (1234, 1235, mode), "{name}");
    }
}

#[test]
fn real_file_systems_come_and_go() {
    for (kind, size) in [
        (FileSystem::Ext4, 32 << 20),
        (FileSystem::Xfs, 300 << 20),
        (FileSystem::Btrfs, 128 << 20),
        (FileSystem::Vfat, 32 << 20),
    ] {
        let disk = match loopmount::loop_mount(kind, size) {
            Ok(disk) => disk,
            Err(skipped) => {
                skipped.report();
                continue;
            }
        };
        std::fs::write(disk.path().join("file"), "text").unwrap();
        disk.set_read_only(true);
        let error = std::fs::write(disk.path().join("file"), "no").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{kind:?}");
        disk.set_read_only(false);
        std::fs::write(disk.path().join("file"), "more").unwrap();
        let path = disk.path().to_owned();
        drop(disk);
        assert!(!path.exists(), "{kind:?} is still there");
    }
}

#[test]
fn memory_and_bind_mounts() {
    let memory = need!(loopmount::tmpfs(1 << 20));
    let full = std::fs::write(memory.path().join("too much"), vec![1; 2 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let place = Environment::new();
    let (source, target) = (place.join("source"), place.join("target"));
    make(&source, &[file("seen", "1")]);
    make(&target, &[]);
    let bound = need!(loopmount::bind(&source, &target));
    assert_eq!(std::fs::read(target.join("seen")).unwrap(), b"1");
    drop(bound);
    assert!(!target.join("seen").exists());
}

#[test]
fn runs_are_hermetic_and_measured() {
    let place = Environment::new();
    let outcome = place.command("sh").args(["-c", "env; echo problem >&2; ulimit -n; exit 3"]).run();
    outcome.assert_code(3);
    let mut names: Vec<_> =
        outcome.stdout.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_", "RUST_BACKTRACE"].contains(name));
    names.sort();
    assert_eq!(names, ["HOME", "LC_ALL", "NO_COLOR", "PATH", "TMPDIR"]);
    assert_eq!(outcome.stdout.lines().last(), Some("1024"));
    assert_eq!(outcome.stderr, "problem\n");
    assert!((500..100 << 10).contains(&outcome.peak_kib), "{}", outcome.peak_kib);

    let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null";
    let outcome = place.command("sh").args(["-c", &format!("exec {hog}")]).run();
    assert!((200 << 10..260 << 10).contains(&outcome.peak_kib), "{}", outcome.peak_kib);

    let late = place.command("sleep").arg("60").timeout(Duration::from_millis(50)).run();
    assert!(late.timed_out && late.signal() == Some(9) && late.wall < Duration::from_secs(10));

    let mut talking = place.command("sh").args(["-c", "echo ready; sleep 60"]).start();
    assert!(talking.wait_for_output("ready"));
    talking.kill();
    assert_eq!(talking.wait().signal(), Some(9));
    assert_ne!(place.pair(), Environment::new().pair());
}

#[test]
fn strace_injects_faults() {
    let place = Environment::new();
    need!(need_tool("strace"));
    let write = place.command("dd").args(["if=/dev/zero", "of=out", "bs=1", "count=5"]);
    let outcome = write.clone().strace(Inject::on("write").error("ENOSPC").when("3")).run();
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("No space left on device"), "{}", outcome.stderr);
    assert_eq!(std::fs::metadata(place.join("out")).unwrap().len(), 2);
    let killed = write.strace(Inject::on("write").signal("KILL").when("2")).run();
    assert_eq!(killed.signal(), Some(9));
    assert!(std::fs::metadata(place.join("out")).unwrap().len() <= 2);
}

#[test]
fn names_of_any_bytes_are_listed() {
    let place = Environment::new();
    let root = place.join("tree");
    make(&root, &[file(b"\xff", ""), file("a\nb", ""), socket("s"), link("l", b"\xfe")]);
    let mount = need!(Passthrough::mount(&root, &Options::default()));
    let mut names: Vec<_> = std::fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [OsStr::new("a\nb"), OsStr::new("l"), OsStr::new("s"), OsStr::from_bytes(b"\xff")]);
    assert_eq!(std::fs::read_link(mount.path().join("l")).unwrap().as_os_str(), OsStr::from_bytes(b"\xfe"));
}
