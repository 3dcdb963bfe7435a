//! `scan` and `copy` on other hosts, over real ssh.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use ha_testkit::command::Run;
use ha_testkit::gate::{After, Break, Gate};
use ha_testkit::need;
use ha_testkit::sshd::Sshd;
use ha_testkit::wire::Listener;
use rustix::process::Signal;

use crate::scanning::{disks, ranks};
use crate::{BINARY, Place, answer, manifest, says};

const SOON: Duration = Duration::from_secs(20);

/// Begins a run whose `ssh` knows a host.
fn command(place: &Place, path: &str, words: &[&str]) -> Run {
    place.command(words).env("PATH", path).timeout(Duration::from_secs(120))
}

/// Replaces the port, which is another each time.
fn without_port(text: &str, node: &Sshd) -> String {
    text.replace(&node.port().to_string(), "PORT")
}

#[test]
fn replicas_of_several_hosts_are_ranked_together() {
    let place = need!(disks());
    let (one, two) = (need!(Sshd::start("")), need!(Sshd::start("")));
    let path = one.path();
    let first = one.url(place.path("one"));
    let words = ["scan", &first, "two", "-o", "json"];
    let mixed = answer(&command(&place, &path, &words).run(), 0);
    let listed: Vec<String> = ranks(&mixed).iter().map(|row| without_port(row, &one)).collect();
    assert_eq!(
        listed,
        [
            "1 candidate root@127.0.0.1:PORT:pvc-b2-0000000a",
            "2 candidate pvc-b2-0000000b",
            "3 empty root@127.0.0.1:PORT:pvc-b2-0000000c",
            "1 candidate pvc-c3-0000000b",
            "2 salvage root@127.0.0.1:PORT:pvc-c3-0000000a",
        ]
    );
    assert_eq!((&mixed["disks"][0]["path"], &mixed["disks"][0]["uuid"]), (&first.as_str().into(), &"1111".into()));
    // The account's own name, and an address of the other kind.
    let here = format!("ssh://127.0.0.1:{}{}", one.port(), place.path("two").display());
    let six = format!("ssh://root@[::1]:{}{}", one.port(), place.path("one").display());
    let both = answer(&command(&place, &path, &["scan", &six, &here, "-o", "json"]).run(), 0);
    assert_eq!(without_port(&ranks(&both)[0], &one), "1 candidate root@[::1]:PORT:pvc-b2-0000000a");
    assert_eq!(without_port(&ranks(&both)[3], &one), "1 candidate 127.0.0.1:PORT:pvc-c3-0000000b");
    // Each host has its own key, so the second is not who the first is.
    let second = two.url(place.path("two"));
    let refused = command(&place, &path, &["scan", &first, &second, "-o", "json"]).run();
    assert_eq!(ranks(&answer(&refused, 3)).len(), 3);
    says(&refused, &[&format!("ssh failed: root@127.0.0.1:{}", two.port()), "caused by: Host key verification failed"]);
    let failed = answer(&refused, 3)["failed"][0].as_str().unwrap().to_owned();
    assert!(failed.contains("verification failed"), "{failed}");
    // What to type next can be typed.
    one.trust(&two);
    for replica in ["one/replicas/pvc-b2-0000000a", "two/replicas/pvc-b2-0000000b"] {
        std::fs::remove_file(place.path(replica).join("revision.counter")).unwrap();
    }
    let text = command(&place, &path, &["scan", &first, &second]).run();
    text.assert_success();
    for host in [&one, &two] {
        assert!(text.stdout.contains(&format!("    ha-volume copy {}/", host.url(""))), "{}", text.stdout);
    }
    one.wait_clean(SOON);
    two.wait_clean(SOON);
}

#[test]
fn any_path_there_is_taken_as_it_is() {
    let place = need!(disks());
    let node = need!(Sshd::start(""));
    let names: [&[u8]; 5] =
        [b"a b", b"it's $(touch made) `touch made`; \\ \"x\" *", b"%41%2f", b"odd-\xff\xfe", b"line\nbreak"];
    for name in names {
        let disk = place.path("").join(OsStr::from_bytes(name));
        std::fs::rename(place.path("two"), &disk).unwrap();
        let mut url = node.url("").into_bytes();
        url.extend(disk.as_os_str().as_bytes());
        let run = command(&place, &node.path(), &["scan", "-o", "json"]).arg(OsStr::from_bytes(&url)).run();
        assert_eq!(ranks(&answer(&run, 0)).len(), 2, "{name:?}");
        let url = [&url, &b"/replicas/pvc-b2-0000000b"[..]].concat();
        let to = place.path("copied");
        let run = command(&place, &node.path(), &["copy"]).arg(OsStr::from_bytes(&url)).arg(&to).run();
        run.assert_success();
        std::fs::remove_dir_all(to).unwrap();
        std::fs::remove_file(place.path("copied.extents.json")).unwrap();
        // Here too.
        let run = place.command(&["scan", "-o", "json"]).arg(&disk).run();
        assert_eq!(ranks(&answer(&run, 0)).len(), 2, "{name:?}");
        std::fs::rename(disk, place.path("two")).unwrap();
    }
    assert!(!place.path("made").exists() && !node.join("home/made").exists());
    node.wait_clean(SOON);
}

#[test]
fn what_fails_there_is_told_here() {
    let place = need!(disks());
    let node = need!(Sshd::start(""));
    let run = |words: &[&str]| command(&place, &node.path(), words).run();
    let absent = run(&["scan", &node.url("/absent")]);
    absent.assert_code(1);
    says(
        &absent,
        &["error: failed on root@127.0.0.1:", "/absent\n", "caused by: no such file", "hint: where Longhorn"],
    );
    assert_eq!(absent.stderr.matches("caused by: ").count(), 2, "{}", absent.stderr);
    let absent = answer(&run(&["scan", &node.url("/absent"), "two", "-o", "json"]), 3);
    assert_eq!((ranks(&absent).len(), absent["failed"].as_array().unwrap().len()), (2, 1));
    let absent = run(&["copy", &node.url("/absent"), "other"]);
    absent.assert_code(1);
    says(&absent, &["error: failed on root@127.0.0.1:", "caused by: no such file"]);
    run(&["copy", &node.url(place.path("one")), "other"]).assert_code(2);
    assert!(!place.path("other").exists() && !place.path("other.ha-volume.part").exists());
    // A disk of the other engine is an answer.
    let mut disk = vec![0; 1 << 20];
    disk[..8].copy_from_slice(b"SPDKBLOB");
    std::fs::write(place.path("nvme"), disk).unwrap();
    let declined = run(&["scan", &node.url(place.path("nvme"))]);
    declined.assert_code(5);
    says(&declined, &["v2 engine", "hint: only Longhorn"]);
    let declined = answer(&run(&["scan", &node.url(place.path("nvme")), "two", "-o", "json"]), 0);
    assert_eq!(declined["disks"][0]["kind"], "v2", "{declined}");
    // A shell that speaks on its own.
    std::fs::write(node.join("home/.bashrc"), "echo welcome\n").unwrap();
    let outcome = run(&["scan", &node.url(place.path("two"))]);
    if outcome.code() != Some(0) {
        outcome.assert_code(1);
        says(&outcome, &["cannot be understood", "does the shell there print something"]);
    }
    node.wait_clean(SOON);
}

#[test]
fn what_only_works_here_is_declined() {
    let place = need!(disks());
    let replica = "two/replicas/pvc-b2-0000000b";
    let url = "ssh://pi2/var/lib/longhorn/replicas/x";
    for words in [
        &["merge", url, "-o", "x.img"][..],
        &["merge", url, "-o", "x.img", "--dry-run"],
        &["inspect", url],
        &["compare", url, replica],
        &["compare", replica, url],
        &["doctor", url],
        &["ls", url],
        &["cat", url, "/note.txt"],
        &["extract", url, "/", "out"],
        &["fsck", "--replay", url, "-o", "x.img"],
        &["backupstore", "write", url, "--target", ".", "--volume", "v"],
    ] {
        let outcome = place.run(words);
        outcome.assert_code(2);
        says(
            &outcome,
            &["on another host, where only scan and copy read", &format!("hint: ha-volume copy {url} COPY")],
        );
    }
    for words in [
        &["copy", replica, "ssh://pi2/x"][..],
        &["copy", url, "ssh://pi2/x"],
        &["merge", replica, "-o", "ssh://pi2/x"],
        &["extract", replica, "/", "ssh://pi2/x"],
        &["fsck", "--replay", replica, "-o", "ssh://pi2/x"],
    ] {
        let outcome = place.run(words);
        outcome.assert_code(2);
        says(&outcome, &["on another host, where nothing is written"]);
    }
    let outcome = place.run(&["backupstore", "write", replica, "--target", "ssh://pi2/x", "--volume", "v"]);
    outcome.assert_code(2);
    says(&outcome, &["a backup target is not reached through ssh", "hint: a directory"]);
}

#[test]
fn nobody_is_let_in_or_trusted_without_being_known() {
    let place = need!(disks());
    let node = need!(Sshd::start(""));
    let url = node.url(place.path("two"));
    let stranger = command(&place, &node.path_of_a_stranger(), &["scan", &url]).run();
    stranger.assert_code(1);
    says(
        &stranger,
        &["error: ssh failed: root@127.0.0.1:", "caused by: ", "Permission denied", "hint: ssh-copy-id root@"],
    );
    let unknown = command(&place, &node.path_without_its_key(), &["copy", &url, "copied"]).run();
    unknown.assert_code(1);
    says(&unknown, &["caused by: Host key verification failed\n", "hint: compare its key, then accept it: ssh -p "]);
    assert!(unknown.wall < SOON, "{:?}", unknown.wall);
    assert_eq!(node.noted_hosts(), "");
    assert!(!place.path("copied").exists());
    node.wait_clean(SOON);
}

#[test]
fn a_person_at_a_terminal_is_asked() {
    let place = need!(disks());
    let node = need!(Sshd::start(""));
    need!(ha_testkit::loopmount::need_tool("script"));
    let line = format!("{BINARY} scan -o json {}", node.url(place.path("two")));
    for (word, code) in [("no", 1), ("yes", 0)] {
        // What is typed before the question is thrown away.
        let typed = format!(
            "mkfifo {word}; script --quiet --return --command '{line}' /dev/null < {word} > {word}.out & exec 3> {word}
             until grep -q 'continue connecting' {word}.out; do sleep 0.1; done; sleep 0.5; echo {word} >&3
             wait $!; code=$?; cat {word}.out; exit $code"
        );
        let shell = place.environment.command("sh").args(["-c", &typed]);
        let outcome = shell.env("PATH", node.path_without_its_key()).timeout(SOON).run();
        outcome.assert_code(code);
        assert!(outcome.stdout.contains("authenticity of host 'node"), "{}", outcome.stdout);
        assert_eq!(outcome.stdout.contains("pvc-b2-0000000b"), code == 0, "{}", outcome.stdout);
        assert_eq!(node.noted_hosts().is_empty(), code == 1);
    }
    node.wait_clean(SOON);
}

#[test]
fn a_host_that_is_down_is_given_up() {
    let place = need!(disks());
    let node = need!(Sshd::start(""));
    // Nobody listens; somebody listens and says nothing.
    let refused = command(&place, &node.path(), &["scan", "ssh://root@127.0.0.1:1/x"]).run();
    refused.assert_code(1);
    says(&refused, &["caused by: ", "Connection refused", "hint: ssh -p 1 root@127.0.0.1 true"]);
    assert!(refused.wall < Duration::from_secs(5), "{:?}", refused.wall);
    let silent = Listener::silent();
    let url = format!("ssh://root@127.0.0.1:{}/x", silent.port());
    let outcome = command(&place, &node.path(), &["scan", &url, "two", "-o", "json"]).run();
    assert_eq!(ranks(&answer(&outcome, 3)).len(), 2);
    assert!(outcome.wall < Duration::from_secs(25), "{:?}", outcome.wall);
    // One that goes down in the middle.
    let gate = Gate::to(node.port());
    gate.close_after(After::Answered(4 << 20), Break::Stall);
    let replica = place.path("two/replicas/pvc-b2-0000000b");
    let url = format!("ssh://root@127.0.0.1:{}{}", gate.port(), replica.display());
    let outcome = command(&place, &node.path(), &["copy", &url, "copied"]).run();
    outcome.assert_code(1);
    gate.wait_broken(Duration::ZERO);
    says(&outcome, &["ssh failed", "caused by: Timeout, server 127.0.0.1 not responding"]);
    assert!(outcome.wall < Duration::from_secs(60), "{:?}", outcome.wall);
    nothing_copied(&place);
    drop(gate);
    node.wait_clean(SOON);
}

#[track_caller]
fn nothing_copied(place: &Place) {
    for name in ["copied", "copied.ha-volume.part", "copied.extents.json"] {
        assert!(!place.path(name).exists(), "{name}");
    }
}

#[test]
fn a_host_that_cannot_take_the_program_says_why() {
    let place = need!(disks());
    let small = |place: &str| format!("mount -t tmpfs -o size=1m tmpfs {place}\n");
    let deaf = |place: &str| format!("mount -t tmpfs -o noexec tmpfs {place}\n");
    let scan = |node: &Sshd, words: &[&str]| {
        let url = node.url(place.path("two"));
        command(&place, &node.path(), &[&["scan", &url], words].concat()).run()
    };
    // The next directory is taken.
    let node = need!(Sshd::start(&[deaf("$TMPDIR"), small("/var/tmp")].concat()));
    scan(&node, &[]).assert_success();
    node.wait_clean(SOON);
    // Of another architecture: nothing is even sent.
    let mut program = std::fs::read(BINARY).unwrap();
    program[18] = 183;
    std::fs::write(place.path("arm"), &program).unwrap();
    let outcome = scan(&node, &["--remote-binary", "arm"]);
    outcome.assert_code(1);
    says(&outcome, &["the program cannot run on root@", "the program is for aarch64", "--remote-binary FILE"]);
    // One that does not run there, and no program at all.
    program[18] = 62;
    program.truncate(program.len() / 100);
    std::fs::write(place.path("half"), &program).unwrap();
    let outcome = scan(&node, &["--remote-binary", "half"]);
    outcome.assert_code(1);
    says(&outcome, &["the program cannot run on root@"]);
    std::fs::write(place.path("text"), "echo not a program; touch made").unwrap();
    scan(&node, &["--remote-binary", "text"]).assert_code(2);
    scan(&node, &["--remote-binary", "absent"]).assert_code(1);
    node.wait_clean(SOON);
    let places = ["\"$TMPDIR\"", "/var/tmp", "/run", "\"$HOME\""];
    let node = need!(Sshd::start(&places.map(deaf).concat()));
    let outcome = scan(&node, &[]);
    outcome.assert_code(1);
    says(&outcome, &["no temporary directory takes the program", "/var/tmp: programs may not run there; /run: "]);
    node.wait_clean(SOON);
    let node = need!(Sshd::start(&places.map(small).concat()));
    let outcome = scan(&node, &["two", "-o", "json"]);
    assert_eq!(ranks(&answer(&outcome, 3)).len(), 2);
    says(&outcome, &["no temporary directory takes the program", " KiB free, ", "hint: what there is: ssh "]);
    node.wait_clean(SOON);
}

#[test]
fn a_replica_is_copied_from_another_host_with_its_extents() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let node = need!(Sshd::start(""));
    let words = ["copy", &node.url(place.path("pvc-a1-r1")), "copied", "-o", "json"];
    let copied = answer(&command(&place, &node.path(), &words).run(), 0);
    assert_eq!((&copied["verified"], &copied["source"]), (&true.into(), &words[1].into()));
    let extents = |directory: &str| place.json(&["inspect", "--extents", directory], 0)["extents"].clone();
    assert!(extents("copied").as_object().unwrap().values().all(|layer| !layer.as_array().unwrap().is_empty()));
    assert_eq!(extents("copied"), extents("pvc-a1-r1"));
    let sum = manifest()["replicas"]["pvc-a1-r1"]["merged_sha256"].clone();
    assert_eq!(place.json(&["merge", "copied", "-o", "x.img", "--sha256"], 0)["sha256"], sum);
    // What is there stays; the host is not even asked.
    let started = node.log().len();
    command(&place, &node.path(), &words).run().assert_code(5);
    assert_eq!(node.log().len(), started);
    node.wait_clean(SOON);
}

/// Where a connection is in the moment of an interruption.
const MOMENTS: [After; 2] = [After::Sent(4 << 20), After::Answered(8 << 20)];

/// Starts a copy and waits until nothing passes any more.
fn stalled(place: &Place, node: &Sshd, gate: &Gate, moment: After) -> ha_testkit::command::Running {
    let replica = place.path("two/replicas/pvc-b2-0000000b");
    let url = format!("ssh://root@127.0.0.1:{}{}", gate.port(), replica.display());
    gate.close_after(moment, Break::Stall);
    let running = command(place, &node.path(), &["copy", &url, "copied"]).start();
    gate.wait_broken(SOON);
    if matches!(moment, After::Sent(_)) {
        // The program is on its way.
        assert!(node.left().iter().any(|name| name.starts_with("tmp/ha-volume.")), "{:?}", node.left());
    } else {
        // It runs, and its file is gone.
        assert_eq!(node.left(), Vec::<String>::new());
    }
    running
}

fn copies(place: &Place, node: &Sshd) {
    let url = node.url(place.path("two/replicas/pvc-b2-0000000b"));
    command(place, &node.path(), &["copy", &url, "copied"]).run().assert_success();
    let sum = manifest()["replicas"]["pvc-b2-r2"]["merged_sha256"].clone();
    assert_eq!(place.json(&["merge", "copied", "-o", "x.img", "--sha256", "--force"], 0)["sha256"], sum);
    std::fs::remove_dir_all(place.path("copied")).unwrap();
    std::fs::remove_file(place.path("copied.extents.json")).unwrap();
}

#[test]
fn a_connection_that_is_cut_leaves_nothing_on_either_side() {
    let place = need!(disks());
    let node = need!(Sshd::start(""));
    for moment in MOMENTS {
        let gate = Gate::to(node.port());
        let running = stalled(&place, &node, &gate, moment);
        node.cut();
        gate.open();
        let outcome = running.wait();
        outcome.assert_code(1);
        says(&outcome, &["error: ssh failed: root@127.0.0.1:", "caused by: ", "hint: ssh -p "]);
        nothing_copied(&place);
        node.wait_clean(SOON);
        copies(&place, &node);
    }
    // A scan, too: half an answer is none.
    let gate = Gate::to(node.port());
    let url = format!("ssh://root@127.0.0.1:{}{}", gate.port(), place.path("two").display());
    gate.close_after(After::Sent(4 << 20), Break::Cut);
    let outcome = command(&place, &node.path(), &["scan", &url, "one", "-o", "json"]).run();
    assert_eq!(ranks(&answer(&outcome, 3)).len(), 3);
    node.wait_clean(SOON);
}

#[test]
fn a_signal_here_ends_it_there() {
    let place = need!(disks());
    let node = need!(Sshd::start(""));
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(143)), (Signal::KILL, None)] {
        for moment in MOMENTS {
            let gate = Gate::to(node.port());
            let mut running = stalled(&place, &node, &gate, moment);
            // To this process alone; a terminal would send it to ssh as well.
            running.signal(signal);
            assert!(running.ended_within(Duration::from_secs(2)), "{signal:?} {moment:?}");
            let outcome = running.wait();
            assert_eq!(outcome.code(), code, "{}", outcome.stderr);
            if code.is_some() {
                nothing_copied(&place);
            }
            assert!(!place.path("copied").exists());
            gate.open();
            node.wait_clean(SOON);
        }
    }
    copies(&place, &node);
    // A scan has nothing of its own to clear away.
    let gate = Gate::to(node.port());
    let url = format!("ssh://root@127.0.0.1:{}{}", gate.port(), place.path("two").display());
    gate.close_after(After::Sent(4 << 20), Break::Stall);
    let running = command(&place, &node.path(), &["scan", &url]).start();
    gate.wait_broken(SOON);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().signal(), Some(15));
    gate.open();
    node.wait_clean(SOON);
    assert!(Path::new(BINARY).exists());
}
