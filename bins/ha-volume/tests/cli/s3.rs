//! `backupstore` in an object store: a real server, which checks signatures, and ways to it that break.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use ha_testkit::command::{Outcome, Run};
use ha_testkit::gate::{After, Break, Gate};
use ha_testkit::need;
use ha_testkit::s3::{ACCESS_KEY, DOMAIN, SECRET_KEY, Server};
use rustix::process::Signal;
use serde_json::Value;

use crate::{Place, answer, manifest};

const REGION: &str = "eu-test-1";
const TARGET: &str = "s3://backups@eu-test-1/home/lab/";

/// Begins a run with the keys of the server.
fn command(place: &Place, endpoint: &str, words: &[&str]) -> Run {
    let run = place.command(words).env("AWS_ENDPOINTS", endpoint).timeout(Duration::from_secs(120));
    run.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
}

fn json(place: &Place, endpoint: &str, words: &[&str], code: i32) -> Value {
    answer(&command(place, endpoint, words).args(["-o", "json"]).run(), code)
}

/// Asserts that all of these are told on stderr, and the secret is not.
#[track_caller]
fn says(outcome: &Outcome, words: &[&str]) {
    crate::says(outcome, words);
    assert!(!outcome.stderr.contains(SECRET_KEY), "{}", outcome.stderr);
}

/// Makes the image `x.img` that the fixture's last backup holds.
fn image(place: &Place) -> Value {
    let words = ["backupstore", "restore", "pvc-f6", "--target", "backupstore-lz4", "-o", "x.img"];
    place.run(&words).assert_success();
    manifest()["backups"]["lz4/backup-incr"]["restored_sha256"].clone()
}

/// Writes `x.img` to a target, and reads it back.
fn goes_and_comes_back(place: &Place, run: &dyn Fn(&[&str]) -> Run, target: &str, sum: &Value) {
    let json = |words: &[&str]| answer(&run(words).args(["--target", target, "-o", "json"]).run(), 0);
    json(&["backupstore", "write", "x.img", "--volume", "pvc-x", "--name", "first"]);
    let listed = json(&["backupstore", "ls"]);
    assert_eq!(listed["volumes"][0]["backups"][0]["name"], "first", "{listed}");
    assert_eq!(json(&["backupstore", "verify", "pvc-x"])["sound"], true);
    assert_eq!(json(&["backupstore", "restore", "pvc-x", "-o", "y.img", "--sha256", "--force"])["sha256"], *sum);
    assert!(place.path("y.img").exists());
}

/// Returns all files below a directory, by their paths from there.
fn files(directory: &Path) -> Vec<String> {
    let output = std::process::Command::new("find").args([".", "-type", "f"]).current_dir(directory).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line[2..].to_owned()).collect()
}

#[test]
fn a_store_in_s3_is_one_like_a_directory() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let server = need!(Server::start(REGION));
    let bucket = server.bucket("backups");
    std::fs::create_dir_all(bucket.join("home")).unwrap();
    place.tool("cp", &["-r", "backupstore-lz4", bucket.join("home/lab").to_str().unwrap()]);
    let endpoint = server.endpoint();
    let answer = json(&place, &endpoint, &["backupstore", "ls", "--target", TARGET], 0);
    assert_eq!(answer["volumes"][0]["backups"].as_array().unwrap().len(), 2);
    let answer = json(&place, &endpoint, &["backupstore", "verify", "pvc-f6", "--target", TARGET], 0);
    assert_eq!(answer["sound"], true);
    let words = ["backupstore", "restore", "pvc-f6", "--target", TARGET, "-o", "x.img", "--sha256"];
    let expected = manifest()["backups"]["lz4/backup-incr"]["restored_sha256"].clone();
    assert_eq!(json(&place, &endpoint, &words, 0)["sha256"], expected);
    // Written there, it comes back.
    let words = ["backupstore", "write", "x.img", "--target", TARGET, "--volume", "pvc-new", "--name", "first"];
    assert!(json(&place, &endpoint, &words, 0)["written"]["new_blocks"].as_u64().unwrap() > 0);
    let words = ["backupstore", "restore", "pvc-new", "first", "--target", TARGET, "-o", "y.img", "--sha256"];
    assert_eq!(json(&place, &endpoint, &words, 0)["sha256"], expected);
    let volumes = json(&place, &endpoint, &["backupstore", "ls", "--target", TARGET], 0);
    assert_eq!(volumes["volumes"].as_array().unwrap().len(), 2);
    // The same name is not written twice.
    let words = ["backupstore", "write", "x.img", "--target", TARGET, "--volume", "pvc-new", "--name", "first"];
    command(&place, &endpoint, &words).run().assert_code(5);
    // The server has the tree that a directory would have.
    let keys = files(&bucket);
    assert!(keys.iter().any(|key| key.ends_with("/pvc-new/backups/backup_first.cfg")), "{keys:?}");
    assert!(keys.iter().all(|key| !key.ends_with(".lck")), "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("home/lab/backupstore/volumes/")), "{keys:?}");
    // Damage there is told.
    let block = keys.iter().find(|key| key.contains("/pvc-new/blocks/")).unwrap();
    std::fs::write(bucket.join(block), "other").unwrap();
    let answer = json(&place, &endpoint, &["backupstore", "verify", "pvc-new", "--target", TARGET], 3);
    assert!(answer["backups"][0]["faults"][0].as_str().unwrap().contains("damaged"), "{answer}");
}

#[test]
fn a_certificate_of_ones_own_is_trusted_when_it_is_given() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let sum = image(&place);
    for name in ["ours", "theirs"] {
        std::fs::create_dir(place.path(name)).unwrap();
        need!(ha_testkit::mariadb::certificates(&place.path(name)));
    }
    let tls = (place.path("ours/cert.pem"), place.path("ours/key.pem"));
    let server = need!(Server::start_with(REGION, Some(tls)));
    server.bucket("backups");
    let authority = |name: &str| std::fs::read_to_string(place.path(name).join("ca.pem")).unwrap();
    let run = |words: &[&str]| command(&place, &server.endpoint(), words).env("AWS_CERT", authority("ours"));
    goes_and_comes_back(&place, &run, TARGET, &sum);
    let words = ["backupstore", "ls", "--target", TARGET];
    for untrusting in [
        command(&place, &server.endpoint(), &words),
        command(&place, &server.endpoint(), &words).env("AWS_CERT", authority("theirs")),
    ] {
        let outcome = untrusting.run();
        outcome.assert_code(1);
        says(&outcome, &["failed to reach the object store: 127.0.0.1:", "certificate", "hint: ", "AWS_CERT"]);
    }
    // Without encryption nothing is said to it.
    let plain = server.endpoint().replace("https", "http");
    command(&place, &plain, &words).run().assert_code(1);
    run(&words).env("AWS_CERT", "not a certificate").run().assert_code(2);
}

#[test]
fn what_an_object_store_refuses_is_said() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    image(&place);
    let server = need!(Server::start(REGION));
    let bucket = server.bucket("backups");
    let endpoint = server.endpoint();
    let write = ["backupstore", "write", "x.img", "--volume", "v", "--target"];
    for (first, words) in [("ls", &["backupstore", "ls", "--target"][..]), ("write", &write)] {
        let to = |target: &str| command(&place, &endpoint, &[words, &[target]].concat());
        // No keys; wrong ones; a bucket that is not there; another region.
        place.command(&[words, &[TARGET]].concat()).run().assert_code(2);
        let outcome = to(TARGET).env("AWS_SECRET_ACCESS_KEY", "wrong").run();
        outcome.assert_code(1);
        says(&outcome, &["403 SignatureDoesNotMatch", "hint: the keys, in AWS_ACCESS_KEY_ID"]);
        let outcome = to(TARGET).env("AWS_ACCESS_KEY_ID", "other").run();
        outcome.assert_code(1);
        says(&outcome, &["error: the object store answers 40"]);
        let outcome = to("s3://absent@eu-test-1/home/lab/").run();
        outcome.assert_code(1);
        says(&outcome, &["404 NoSuchBucket", "hint: s3://BUCKET@REGION/PREFIX/", "VIRTUAL_HOSTED_STYLE"]);
        let outcome = to("s3://backups@us-east-2/home/lab/").run();
        outcome.assert_code(1);
        says(&outcome, &["AuthorizationHeaderMalformed", "hint: the region of the bucket"]);
        let outcome = to(TARGET).env("AWS_ENDPOINTS", "http://127.0.0.1:1").run();
        outcome.assert_code(1);
        says(&outcome, &["failed to reach the object store", "Connection refused", "hint: AWS_ENDPOINTS"]);
        to("s3://backups").run().assert_code(2);
        to(TARGET).env("AWS_ENDPOINTS", "minio").run().assert_code(2);
        to(TARGET).env("VIRTUAL_HOSTED_STYLE", "perhaps").run().assert_code(2);
        assert_eq!(files(&bucket), Vec::<String>::new(), "{first}");
    }
    // An empty bucket is an empty store.
    let answer = json(&place, &endpoint, &["backupstore", "ls", "--target", TARGET], 0);
    assert_eq!(answer["volumes"], serde_json::json!([]));
}

#[test]
fn a_folder_of_any_name_is_one() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let sum = image(&place);
    let server = need!(Server::start(REGION));
    let bucket = server.bucket("backups");
    for (prefix, folder) in [
        ("", ""),
        ("a b+c", "a b+c/"),
        ("m%c3%bcll&s%C3%B6hne/=;:@$,!*()'\"<>[]{}|^`~%25", "müll&söhne/=;:@$,!*()'\"<>[]{}|^`~%/"),
        ("%D0%B4%D0%B0%D1%87%D0%B0//./%3F%23%5C/", "дача/?#\\/"),
    ] {
        let run = |words: &[&str]| command(&place, &server.endpoint(), words);
        goes_and_comes_back(&place, &run, &format!("s3://backups@eu-test-1/{prefix}"), &sum);
        let keys = files(&bucket);
        let top = format!("{folder}backupstore/volumes/");
        assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with(&top)), "{keys:?}");
        for entry in std::fs::read_dir(&bucket).unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn the_bucket_may_be_a_host() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let sum = image(&place);
    let server = need!(Server::start(REGION));
    let bucket = server.bucket("backups");
    let unshare = need!(ha_testkit::loopmount::need_tool("unshare"));
    if !rustix::process::geteuid().is_root() {
        return ha_testkit::loopmount::Skipped::because("only root can give a host a name").report();
    }
    std::fs::write(place.path("hosts"), format!("127.0.0.1 backups.{DOMAIN}\n")).unwrap();
    let endpoint = format!("http://{DOMAIN}:{}", server.port());
    let run = |words: &[&str]| {
        let mounted = "mount --bind hosts /etc/hosts && exec \"$0\" \"$@\"";
        let run = place.environment.command(&unshare).args(["--mount", "sh", "-c", mounted, crate::BINARY]);
        let run = run.args(words).env("AWS_ENDPOINTS", &endpoint).env("AWS_ACCESS_KEY_ID", ACCESS_KEY);
        run.env("AWS_SECRET_ACCESS_KEY", SECRET_KEY).env("VIRTUAL_HOSTED_STYLE", "true")
    };
    goes_and_comes_back(&place, &run, TARGET, &sum);
    assert!(files(&bucket).iter().all(|key| key.starts_with("home/lab/backupstore/")));
    // The name without the bucket is not known there.
    let outcome = run(&["backupstore", "ls", "--target", TARGET]).env("VIRTUAL_HOSTED_STYLE", "false").run();
    outcome.assert_code(1);
    says(&outcome, &["failed to reach the object store: store.test:"]);
}

#[test]
fn a_list_of_any_length_is_read() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    image(&place);
    let server = need!(Server::start(REGION));
    let bucket = server.bucket("backups");
    let endpoint = server.endpoint();
    let words = ["backupstore", "write", "x.img", "--target", TARGET, "--volume", "pvc-x", "--name", "b0000"];
    json(&place, &endpoint, &words, 0);
    let keys = files(&bucket);
    let first = bucket.join(keys.iter().find(|key| key.ends_with("backup_b0000.cfg")).unwrap());
    for number in 1..2100 {
        std::fs::copy(&first, first.with_file_name(format!("backup_b{number:04}.cfg"))).unwrap();
    }
    let listed = json(&place, &endpoint, &["backupstore", "ls", "--target", TARGET], 0);
    let names: Vec<&str> = listed["volumes"][0]["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backup| backup["name"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (0..2100).map(|number| format!("b{number:04}")).collect();
    assert_eq!(names.len(), expected.len());
    assert!(names == expected, "another list than was written");
}

/// Answers every request with these words, and counts them.
fn always(words: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let requests = Arc::clone(&count);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            requests.fetch_add(1, SeqCst);
            let (status, body) = words.split_once('\n').unwrap();
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        }
    });
    (endpoint, count)
}

#[test]
fn what_is_no_object_store_is_not_an_empty_one() {
    let place = Place::empty();
    for (words, requests, expected) in [
        ("200 OK\n<html>Log in</html>", 1, "it is no list of objects"),
        ("200 OK\n", 1, "it is no list of objects"),
        ("200 OK\n<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", 1, "a list goes on"),
        (
            "200 OK\n<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>\
             </ListBucketResult>",
            2,
            "a list goes on",
        ),
        ("301 Moved\n<Error><Code>PermanentRedirect</Code></Error>", 1, "301 PermanentRedirect"),
        ("403 Forbidden\n<Error><Code>AccessDenied</Code></Error>", 1, "hint: these keys may not"),
        ("403 Forbidden\n<Error><Code>InvalidAccessKeyId</Code></Error>", 1, "hint: the keys, in AWS_ACCESS_KEY_ID"),
        ("404 Not Found\n<html>Nothing here</html>", 1, "answers 404"),
        ("403 Forbidden\n<Error><Code>RequestTimeTooSkewed</Code></Error>", 1, "hint: the clock of this machine"),
        ("503 Slow Down\n<Error><Code>SlowDown</Code></Error>", 3, "503 SlowDown"),
    ] {
        let (endpoint, count) = always(words);
        let outcome = command(&place, &endpoint, &["backupstore", "ls", "--target", TARGET]).run();
        outcome.assert_code(1);
        says(&outcome, &[expected]);
        assert_eq!(count.load(SeqCst), requests, "{words}");
        // Nor is it one in which there is no such volume.
        command(&place, &endpoint, &["backupstore", "verify", "v", "--target", TARGET]).run().assert_code(1);
    }
}

/// Returns the lock files below a bucket.
fn locks(bucket: &Path) -> Vec<PathBuf> {
    files(bucket).iter().filter(|key| key.ends_with(".lck")).map(|key| bucket.join(key)).collect()
}

fn make_older(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    std::fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
}

#[test]
fn a_connection_that_is_cut_leaves_no_half_backup() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let sum = image(&place);
    let server = need!(Server::start(REGION));
    let gate = Gate::to(server.port());
    let through = format!("http://127.0.0.1:{}", gate.port());
    let words =
        |name: &'static str| ["backupstore", "write", "x.img", "--target", "", "--volume", "pvc-x", "--name", name];
    // How much a whole one sends.
    let bucket = server.bucket("whole");
    gate.close_after(After::Sent(u64::MAX), Break::Cut);
    let whole = {
        let mut words = words("one");
        words[4] = "s3://whole@eu-test-1/";
        words
    };
    command(&place, &through, &whole).run().assert_success();
    let (sent, answered) = gate.passed();
    assert!(sent > 1 << 20, "{sent}");
    let lock = files(&bucket);
    assert!(lock.iter().all(|key| !key.ends_with(".lck")), "{lock:?}");
    for part in 1..6 {
        for after in [After::Sent(sent * part / 6), After::Answered(answered * part / 6)] {
            let name = format!("cut-{part}-{}", matches!(after, After::Sent(_)));
            let bucket = server.bucket(&name);
            let target = format!("s3://{name}@eu-test-1/");
            let mut words = words("one");
            words[4] = &target;
            gate.open();
            gate.close_after(after, Break::Cut);
            let outcome = command(&place, &through, &words).run();
            outcome.assert_code(1);
            gate.wait_broken(Duration::ZERO);
            says(&outcome, &["failed to reach the object store: 127.0.0.1:"]);
            // What is listed as finished is whole; else nothing is listed.
            let direct = server.endpoint();
            let listed = json(&place, &direct, &["backupstore", "ls", "--target", &target], 0);
            let backups: Vec<&Value> = listed["volumes"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|volume| volume["backups"].as_array().unwrap())
                .collect();
            if !backups.is_empty() {
                let restore =
                    ["backupstore", "restore", "pvc-x", "one", "--target", &target, "-o", "z.img", "--sha256"];
                assert_eq!(json(&place, &direct, &[&restore[..], &["--force"]].concat(), 0)["sha256"], sum);
                continue;
            }
            // Its lock stays where it could not be removed, and expires.
            for lock in locks(&bucket) {
                let held = command(&place, &direct, &words).run();
                held.assert_code(4);
                says(&held, &["the volume is locked", "s ago", "expires 150 s after", "hint: when no Longhorn"]);
                make_older(&lock, 151);
            }
            command(&place, &direct, &words).run().assert_success();
            assert_eq!(
                json(&place, &direct, &["backupstore", "verify", "pvc-x", "--target", &target], 0)["sound"],
                true
            );
        }
    }
    // One that comes back in time is not even noticed.
    server.bucket("back");
    gate.open();
    gate.close_after(After::Sent(sent / 2), Break::Cut);
    let mut words = words("one");
    words[4] = "s3://back@eu-test-1/";
    let running = command(&place, &through, &words).start();
    gate.wait_broken(Duration::from_secs(20));
    gate.open();
    running.wait().assert_success();
    // A restore that is cut makes no image.
    gate.close_after(After::Answered(answered + (1 << 20)), Break::Cut);
    let restore = ["backupstore", "restore", "pvc-x", "--target", "s3://back@eu-test-1/", "-o", "cut.img"];
    command(&place, &through, &restore).run().assert_code(1);
    assert!(!place.path("cut.img").exists());
    gate.open();
    command(&place, &through, &restore).run().assert_success();
}

#[test]
fn of_two_writers_the_second_waits_for_a_person() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    image(&place);
    let server = need!(Server::start(REGION));
    let bucket = server.bucket("backups");
    let gate = Gate::to(server.port());
    let through = format!("http://127.0.0.1:{}", gate.port());
    gate.close_after(After::Sent(1 << 20), Break::Stall);
    let write = ["backupstore", "write", "x.img", "--target", TARGET, "--volume", "pvc-x"];
    let mut first = command(&place, &through, &write).start();
    gate.wait_broken(Duration::from_secs(20));
    assert_eq!(locks(&bucket).len(), 1);
    let second = command(&place, &server.endpoint(), &write).run();
    second.assert_code(4);
    says(&second, &["the volume is locked in the backup store: backupstore/volumes/", ".lck, written "]);
    // It has not disturbed the first, and another volume is free.
    assert_eq!(locks(&bucket).len(), 1);
    let other = ["backupstore", "write", "x.img", "--target", TARGET, "--volume", "pvc-other"];
    command(&place, &server.endpoint(), &other).run().assert_success();
    assert!(!first.ended_within(Duration::ZERO));
    gate.open();
    first.wait().assert_success();
    assert_eq!(locks(&bucket), Vec::<PathBuf>::new());
    // One that was killed leaves its lock; after its time it is looked past, and told.
    // Blocks that are there are read.
    gate.close_after(After::Answered(1 << 20), Break::Stall);
    let killed = command(&place, &through, &[&write[..], &["--name", "killed"]].concat()).start();
    gate.wait_broken(Duration::from_secs(20));
    killed.signal(Signal::KILL);
    killed.wait();
    let [lock] = locks(&bucket).try_into().unwrap();
    make_older(&lock, 100);
    command(&place, &server.endpoint(), &write).run().assert_code(4);
    make_older(&lock, 160);
    let outcome = command(&place, &server.endpoint(), &write).run();
    outcome.assert_success();
    says(&outcome, &["warning: looked past a lock that has expired: backupstore/volumes/"]);
    // That of another is his to remove.
    assert_eq!(locks(&bucket), [lock]);
}
