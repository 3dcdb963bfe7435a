//! Nothing ever opens a file of a replica for writing.

use std::process::Command;

use ha_testkit::loopmount::{bind, need_tool};
use ha_testkit::need;
use ha_testkit::tree::Snapshot;

use crate::{BINARY, Place};

const REPLICA: &str = "pvc-b2-r1";

/// Every command that reads a replica.
fn commands() -> Vec<Vec<&'static str>> {
    vec![
        vec!["scan", "ro"],
        vec!["inspect", "ro/pvc-b2-r1"],
        vec!["doctor", "--best-effort", "ro/pvc-b2-r1"],
        vec!["compare", "ro/pvc-b2-r1", "ro/pvc-b2-r2"],
        vec!["merge", "ro/pvc-b2-r1", "-o", "x.img"],
        vec!["merge", "ro/pvc-b2-r1", "-o", "z.img", "--zeros-are-holes", "--despite-damage"],
        vec!["copy", "ro/pvc-b2-r1", "copied"],
        vec!["ls", "-R", "ro/pvc-b2-r1"],
        vec!["cat", "ro/pvc-b2-r1", "/app/f1"],
        vec!["extract", "ro/pvc-b2-r1", "/app", "out"],
        vec!["fsck", "--replay", "ro/pvc-b2-r1", "-o", "f.img"],
        vec!["backupstore", "write", "ro/pvc-b2-r1", "--volume", "vol", "--target", "store"],
    ]
}

fn place() -> Result<Place, ha_testkit::loopmount::Skipped> {
    let place = Place::of("b2-powercut.tar.zst")?;
    std::fs::create_dir(place.path("ro")).unwrap();
    for replica in [REPLICA, "pvc-b2-r2"] {
        place.rename(replica, &format!("ro/{replica}"));
    }
    std::fs::create_dir(place.path("store")).unwrap();
    Ok(place)
}

#[test]
fn system_calls_tell() {
    let place = need!(place());
    let strace = need!(need_tool("strace"));
    place.settle("ro/*/*");
    let before = Snapshot::of(&place.path("ro"));
    for words in commands() {
        let log = place.path("strace.log");
        let status = Command::new(&strace)
            .args(["-f", "-y", "-qq", "-e", "trace=%file,%desc", "-e", "signal=none", "-o"])
            .arg(&log)
            .arg(BINARY)
            .args(&words)
            .current_dir(place.path("."))
            .output()
            .unwrap();
        assert!(matches!(status.status.code(), Some(0 | 3)), "{words:?}: {}", String::from_utf8_lossy(&status.stderr));
        let log = std::fs::read_to_string(&log).unwrap();
        let mut opened = 0;
        for line in log.lines().filter(|line| line.contains("/ro/") || line.contains("\"ro")) {
            let call = line.split_whitespace().nth(1).unwrap_or_default();
            if call.starts_with("open") {
                opened += 1;
                for flag in ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"] {
                    assert!(!line.contains(flag), "{words:?}: {line}");
                }
            }
            for other in [
                "unlink",
                "rename",
                "link",
                "chmod",
                "chown",
                "truncate",
                "utime",
                "setxattr",
                "mkdir",
                "fallocate",
                "pwrite",
            ] {
                let own = line.contains("copied") || line.contains("store/") || line.contains("out/");
                assert!(own || !call.starts_with(other), "{words:?}: {line}");
            }
        }
        assert!(opened > 0, "{words:?}: strace saw nothing");
    }
    before.assert_same(&Snapshot::of(&place.path("ro")));
}

#[test]
fn a_read_only_mount_is_enough() {
    let place = need!(place());
    let mounted = need!(bind(&place.path("ro"), &place.path("ro")));
    mounted.set_read_only(true);
    assert!(std::fs::write(place.path("ro").join(REPLICA).join("x"), "").is_err());
    for words in commands() {
        let outcome = place.run(&words);
        assert!(matches!(outcome.code(), Some(0 | 3)), "{words:?}: {}", outcome.stderr);
    }
}
