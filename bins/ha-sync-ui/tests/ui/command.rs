//! The command line, and what is written to stderr.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ha_testkit::command::{Environment, Run, Running};

fn ui(place: &Environment) -> Run {
    place.command(env!("CARGO_BIN_EXE_ha-sync-ui")).arg("--log-dir").arg(place.log_dir())
}

/// Waits until it serves, and returns the address.
pub(crate) fn served(running: &mut Running) -> String {
    assert!(running.wait_for_output("listening on http://"), "{}", running.stderr_so_far());
    let said = running.stderr_so_far();
    said.split("http://").nth(1).unwrap().split(',').next().unwrap().to_owned()
}

pub(crate) fn get(address: &str, target: &str, login: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{login}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn what_is_wrong_is_said_before_it_serves() {
    let place = Environment::new();
    for (flags, code, says) in [
        (&["--listen", "nowhere"][..], 2, "invalid value for --listen"),
        (&["--listen", "192.0.2.1:80"], 1, "failed to listen: 192.0.2.1:80"),
        (&["--db-dsn", "user:hunter2@db"], 2, "the value of --db-dsn or HA_SYNC_DB_DSN is refused"),
        (&["--auth-file", "/nonexistent/logins"], 2, "/nonexistent/logins"),
        (&["--nonsense"], 2, "unknown argument: --nonsense"),
    ] {
        let outcome = ui(&place).args(flags).run();
        outcome.assert_code(code);
        assert!(outcome.stderr.contains(says), "{flags:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    }
    let outcome = ui(&place).env("HA_SYNC_UI_AUTH", "ann hunter2").run();
    outcome.assert_code(2);
    assert!(outcome.stderr.contains("HA_SYNC_UI_AUTH") && !outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let place = Environment::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let outcome = ui(&place).args(["--listen", &address]).run();
    outcome.assert_code(1);
    assert!(outcome.stderr.contains(&format!("failed to listen: {address}")), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("in use"), "{}", outcome.stderr);
}

#[test]
fn it_ends_with_a_signal() {
    let place = Environment::new();
    let mut running = ui(&place).args(["--listen", "127.0.0.1:0"]).start();
    let address = served(&mut running);
    assert!(get(&address, "/", "").contains("Nothing has run yet"));
    running.signal(rustix::process::Signal::TERM);
    running.wait().assert_success();
}

#[test]
fn logins_come_from_a_file_or_the_environment() {
    let place = Environment::new();
    let file = place.join("logins");
    std::fs::write(&file, "bearer from-the-file\n").unwrap();
    let with_file = ui(&place).arg("--auth-file").arg(&file);
    for (run, token) in [(with_file, "from-the-file"), (ui(&place).env("HA_SYNC_UI_AUTH", "bearer env"), "env")] {
        let mut running = run.args(["--listen", "127.0.0.1:0"]).start();
        let address = served(&mut running);
        assert!(get(&address, "/", "").starts_with("HTTP/1.1 401 "));
        let login = format!("Authorization: Bearer {token}\r\n");
        assert!(get(&address, "/", &login).starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn it_says_when_everybody_may_look() {
    let place = Environment::new();
    let mut open = ui(&place).args(["--listen", "0.0.0.0:0"]).start();
    served(&mut open);
    assert!(open.wait_for_output("there is no login here"));
    let mut own = ui(&place).args(["--listen", "127.0.0.1:0"]).start();
    served(&mut own);
    assert!(!own.stderr_so_far().contains("there is no login"));
}

/// A SQLite file in WAL mode in a directory that its reader may not write to, while a run writes and after it.
#[test]
fn a_database_of_another_user_is_read() {
    let place = Environment::new();
    if !rustix::process::geteuid().is_root() {
        ha_testkit::loopmount::Skipped::because("only root can become another user").report();
        return;
    }
    let store = || {
        let dsn = format!("sqlite:{}", place.log_dir().join("ha-sync.db").display()).parse().unwrap();
        ha_audit::store::Store::open(&dsn, Duration::from_secs(5)).unwrap()
    };
    use std::os::unix::fs::PermissionsExt as _;
    for path in [place.path().to_owned(), place.log_dir()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    store().close().unwrap();
    std::fs::set_permissions(place.log_dir().join("ha-sync.db"), std::fs::Permissions::from_mode(0o644)).unwrap();
    // the binary of the test must be within reach of that user
    let program = place.join("ha-sync-ui");
    std::fs::copy(env!("CARGO_BIN_EXE_ha-sync-ui"), &program).unwrap();
    let command = place.command(&program).arg("--log-dir").arg(place.log_dir());
    let mut running = command.args(["--listen", "127.0.0.1:0"]).user(65_534, 65_534).start();
    let address = served(&mut running);
    let answers = |path: &str| get(&address, path, "").starts_with("HTTP/1.1 200 ");
    assert!(answers("/readyz"), "{}", running.stderr_so_far());
    let writer = store();
    std::thread::sleep(Duration::from_millis(1100));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !answers("/readyz") {
        assert!(Instant::now() < deadline, "{}", running.stderr_so_far());
        std::thread::sleep(Duration::from_millis(100));
    }
    writer.close().unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert!(answers("/readyz"), "{}", running.stderr_so_far());
}

/// Names of files are private: a log is for its owner and group. To count those that it can open would be to say that
/// nothing waits.
#[test]
fn logs_that_may_not_be_read_are_not_counted_as_none() {
    let place = Environment::new();
    if !rustix::process::geteuid().is_root() {
        ha_testkit::loopmount::Skipped::because("only root can become another user").report();
        return;
    }
    use std::os::unix::fs::PermissionsExt as _;
    for path in [place.path().to_owned(), place.log_dir()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let started_at = jiff::Timestamp::now();
    let iteration = ha_sync_core::record::Iteration {
        run_id: ha_sync_core::name::RunId::new(started_at, 7),
        sync_pair: "media".parse().unwrap(),
        direction: "a-to-b".parse().unwrap(),
        src: "/a".to_owned(),
        dest: "/b".to_owned(),
        started_at,
        dry_run: false,
        lease_transitions: None,
    };
    let dsn = format!("sqlite:{}", place.log_dir().join("ha-sync.db").display()).parse().unwrap();
    ha_audit::store::Store::open(&dsn, Duration::from_secs(5)).unwrap().close().unwrap();
    std::fs::set_permissions(place.log_dir().join("ha-sync.db"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let _log = ha_audit::oplog::OpLog::create(&place.log_dir(), &iteration).unwrap();
    let log = std::fs::read_dir(place.log_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("opslog-"))
        .unwrap();
    let program = place.join("ha-sync-ui");
    std::fs::copy(env!("CARGO_BIN_EXE_ha-sync-ui"), &program).unwrap();
    let command = place.command(&program).arg("--log-dir").arg(place.log_dir());
    let mut running = command.args(["--listen", "127.0.0.1:0"]).user(65_534, 65_534).start();
    let address = served(&mut running);
    for _ in 0..2 {
        let metrics = get(&address, "/metrics", "");
        assert!(metrics.contains("ha_sync_database_up 1"), "{metrics}");
        assert!(!metrics.contains("ha_sync_pending_opslogs"), "{metrics}");
    }
    assert!(running.wait_for_output("cannot be counted"), "{}", running.stderr_so_far());
    let said = running.stderr_so_far();
    assert!(said.contains("ermission denied") && said.contains("opslog-"), "{said}");
    assert_eq!(said.matches("cannot be counted").count(), 1, "it is said once: {said}");
    std::fs::set_permissions(&log, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(get(&address, "/metrics", "").contains("ha_sync_pending_opslogs{pair=\"media\"} 1"));
    assert!(running.wait_for_output("can be counted again"), "{}", running.stderr_so_far());
}

/// The dashboard is often started before anything has run, and a run takes the directory that it may write to.
#[test]
fn the_directory_of_a_user_is_found_when_its_first_run_has_been() {
    let place = Environment::new();
    let state = place.join("state");
    let command = place.command(env!("CARGO_BIN_EXE_ha-sync-ui")).env("XDG_STATE_HOME", &state);
    let mut running = command.args(["--listen", "127.0.0.1:0"]).start();
    let address = served(&mut running);
    if std::path::Path::new("/var/log/ha-sync/ha-sync.db").exists() {
        ha_testkit::loopmount::Skipped::because("this host has records of its own").report();
        return;
    }
    assert!(get(&address, "/", "").contains("Nothing has run yet"));
    let directory = state.join("ha-sync");
    std::fs::create_dir_all(&directory).unwrap();
    let dsn = format!("sqlite:{}", directory.join("ha-sync.db").display()).parse().unwrap();
    let store = ha_audit::store::Store::open(&dsn, Duration::from_secs(5)).unwrap();
    let started_at = jiff::Timestamp::now();
    store
        .begin(&ha_sync_core::record::Iteration {
            run_id: ha_sync_core::name::RunId::new(started_at, 8),
            sync_pair: "media".parse().unwrap(),
            direction: "a-to-b".parse().unwrap(),
            src: "/a".to_owned(),
            dest: "/b".to_owned(),
            started_at,
            dry_run: false,
            lease_transitions: None,
        })
        .unwrap();
    store.close().unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let page = get(&address, "/", "");
    assert!(page.contains(">media</a>"), "{page}");
    assert!(get(&address, "/metrics", "").contains("ha_sync_pending_opslogs{pair=\"media\"} 0"));
}
