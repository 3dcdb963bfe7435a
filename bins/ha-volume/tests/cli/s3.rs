//! `backupstore` in an object store: a small server that answers as S3 does, in pages of two.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use ha_testkit::command::Run;
use ha_testkit::need;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{Place, manifest};

/// Bucket and key, and the object.
type Objects = BTreeMap<String, Vec<u8>>;

struct Server {
    address: String,
    objects: Arc<Mutex<Objects>>,
    /// How many of the next requests are answered with 503.
    failing: Arc<AtomicU32>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            objects: Arc::default(),
            failing: Arc::default(),
            requests: Arc::default(),
        };
        let (objects, failing) = (Arc::clone(&server.objects), Arc::clone(&server.failing));
        let requests = Arc::clone(&server.requests);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (objects, failing) = (Arc::clone(&objects), Arc::clone(&failing));
                let requests = Arc::clone(&requests);
                std::thread::spawn(move || serve(&stream.unwrap(), &objects, &failing, &requests));
            }
        });
        server
    }

    /// Puts a directory tree into the bucket.
    fn load(&self, directory: &std::path::Path, prefix: &str) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let key = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                self.load(&entry.path(), &key);
            } else {
                self.objects.lock().unwrap().insert(key, std::fs::read(entry.path()).unwrap());
            }
        }
    }

    fn run(&self, place: &Place, words: &[&str]) -> Run {
        place
            .command(words)
            .env("AWS_ENDPOINTS", format!("http://{}", self.address))
            .env("AWS_ACCESS_KEY_ID", "reader")
            .env("AWS_SECRET_ACCESS_KEY", "hunter2")
    }

    fn json(&self, place: &Place, words: &[&str], code: i32) -> Value {
        let outcome = self.run(place, words).args(["-o", "json"]).run();
        outcome.assert_code(code);
        assert!(!outcome.stdout.contains("hunter2") && !outcome.stderr.contains("hunter2"));
        serde_json::from_str(&outcome.stdout).unwrap()
    }
}

fn serve(stream: &TcpStream, objects: &Mutex<Objects>, failing: &AtomicU32, requests: &AtomicUsize) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        requests.fetch_add(1, SeqCst);
        let (status, answer) = match failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => (503, "<Error><Code>SlowDown</Code></Error>".into()),
            Err(_) if !signed(&headers, &body) => (403, "<Error><Code>SignatureDoesNotMatch</Code></Error>".into()),
            Err(_) => answer(&method, &target, body, objects),
        };
        let mut out = stream;
        write!(out, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", answer.len()).unwrap();
        out.write_all(&answer).unwrap();
    }
}

/// Checks what a signature rests on; that it is right is checked by the example of the documentation.
fn signed(headers: &BTreeMap<String, String>, body: &[u8]) -> bool {
    let sum: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    let authorization = headers.get("authorization").map_or("", String::as_str);
    headers.get("x-amz-content-sha256") == Some(&sum)
        && headers.contains_key("x-amz-date")
        && authorization.starts_with("AWS4-HMAC-SHA256 Credential=reader/")
        && authorization.contains("/eu-test-1/s3/aws4_request,SignedHeaders=host;x-amz-content-sha256;x-amz-date,")
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| char::from(byte.unwrap()).to_digit(16).unwrap() as u8;
        bytes.push(if byte == b'%' { hex(rest.next()) << 4 | hex(rest.next()) } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}

fn answer(method: &str, target: &str, body: Vec<u8>, objects: &Mutex<Objects>) -> (u16, Vec<u8>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = decoded(path.trim_start_matches('/'));
    if !key.starts_with("backups") {
        return (404, b"<Error><Code>NoSuchBucket</Code></Error>".to_vec());
    }
    let mut objects = objects.lock().unwrap();
    match (method, query) {
        ("PUT", _) => {
            objects.insert(key, body);
            (200, Vec::new())
        }
        ("DELETE", _) => {
            objects.remove(&key);
            (204, Vec::new())
        }
        ("GET", "") => match objects.get(&key) {
            Some(object) => (200, object.clone()),
            None => (404, b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
        },
        _ => (200, list(query, &objects).into_bytes()),
    }
}

fn list(query: &str, objects: &Objects) -> String {
    let value = |name: &str| query.split('&').find_map(|part| part.strip_prefix(&format!("{name}="))).map(decoded);
    let prefix = format!("backups/{}", value("prefix").unwrap());
    let mut names: Vec<(String, bool)> = objects
        .keys()
        .filter_map(|key| key.strip_prefix(&prefix))
        .map(|rest| match rest.split_once('/') {
            Some((folder, _)) => (format!("{folder}/"), true),
            None => (rest.to_owned(), false),
        })
        .collect();
    names.dedup();
    let from: usize = value("continuation-token").map_or(0, |token| token.trim_end_matches('=').parse().unwrap());
    let prefix = prefix.strip_prefix("backups/").unwrap();
    let mut text = format!("<ListBucketResult><Prefix>{prefix}</Prefix>");
    for (name, folder) in names.iter().skip(from).take(2) {
        text.push_str(&match folder {
            true => format!("<CommonPrefixes><Prefix>{prefix}{name}</Prefix></CommonPrefixes>"),
            false => format!("<Contents><Key>{prefix}{name}</Key></Contents>"),
        });
    }
    let more = names.len() > from + 2;
    text.push_str(&format!("<IsTruncated>{more}</IsTruncated>"));
    if more {
        text.push_str(&format!("<NextContinuationToken>{}=</NextContinuationToken>", from + 2));
    }
    text + "</ListBucketResult>"
}

const TARGET: &str = "s3://backups@eu-test-1/home/lab/";

#[test]
fn a_store_in_s3_is_one_like_a_directory() {
    let place = need!(Place::of("f6-backupstores.tar.zst"));
    let server = Server::start();
    server.load(&place.path("backupstore-lz4"), "backups/home/lab");
    let answer = server.json(&place, &["backupstore", "ls", "--target", TARGET], 0);
    assert_eq!(answer["volumes"][0]["backups"].as_array().unwrap().len(), 2);
    let answer = server.json(&place, &["backupstore", "verify", "pvc-f6", "--target", TARGET], 0);
    assert_eq!(answer["sound"], true);
    // A request that fails is sent again.
    server.failing.store(2, SeqCst);
    let words = ["backupstore", "restore", "pvc-f6", "--target", TARGET, "-o", "x.img", "--sha256"];
    let expected = manifest()["backups"]["lz4/backup-incr"]["restored_sha256"].clone();
    assert_eq!(server.json(&place, &words, 0)["sha256"], expected);
    // Written there, it comes back.
    let words = ["backupstore", "write", "x.img", "--target", TARGET, "--volume", "pvc-new", "--name", "first"];
    assert!(server.json(&place, &words, 0)["written"]["new_blocks"].as_u64().unwrap() > 0);
    let words = ["backupstore", "restore", "pvc-new", "first", "--target", TARGET, "-o", "y.img", "--sha256"];
    assert_eq!(server.json(&place, &words, 0)["sha256"], expected);
    let volumes = server.json(&place, &["backupstore", "ls", "--target", TARGET], 0);
    assert_eq!(volumes["volumes"].as_array().unwrap().len(), 2);
    assert!(server.requests.load(SeqCst) > 40);
    // The server has the tree that a directory would have.
    let keys: Vec<String> = server.objects.lock().unwrap().keys().cloned().collect();
    assert!(keys.iter().any(|key| key.ends_with("/pvc-new/backups/backup_first.cfg")), "{keys:?}");
    assert!(keys.iter().all(|key| !key.ends_with(".lck")), "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("backups/home/lab/backupstore/volumes/")), "{keys:?}");
}

#[test]
fn what_an_object_store_refuses_is_said() {
    let place = Place::empty();
    let server = Server::start();
    let words = ["backupstore", "ls", "--target", TARGET];
    // No keys; a wrong one; a bucket that is not there; nobody listens; not a target.
    place.run(&words).assert_code(2);
    let outcome = server.run(&place, &words).env("AWS_ACCESS_KEY_ID", "other").run();
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("403 SignatureDoesNotMatch"), "{}", outcome.stderr);
    let outcome = server.run(&place, &["backupstore", "ls", "v", "--target", "s3://absent@eu-test-1/"]).run();
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("NoSuchBucket"), "{}", outcome.stderr);
    let outcome = server.run(&place, &words).env("AWS_ENDPOINTS", "http://127.0.0.1:1").run();
    outcome.assert_code(1);
    assert!(outcome.stderr.contains("failed to reach the object store"), "{}", outcome.stderr);
    server.run(&place, &["backupstore", "ls", "--target", "s3://backups"]).run().assert_code(2);
    server.run(&place, &words).env("AWS_ENDPOINTS", "minio").run().assert_code(2);
    server.run(&place, &words).env("AWS_CERT", "not a certificate").run().assert_code(2);
}
