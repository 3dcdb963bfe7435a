//! The command line, and what is written to stderr.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ha_testkit::command::{Environment, Run, Running};

fn ui(place: &Environment) -> Run {
    place.command(env!("CARGO_BIN_EXE_ha-sync-ui")).arg("--log-dir").arg(place.log_dir())
}

/// Waits until it serves, and returns the address.
fn served(running: &mut Running) -> String {
    assert!(running.wait_for_output("listening on http://"), "{}", running.stderr_so_far());
    let said = running.stderr_so_far();
    said.split("http://").nth(1).unwrap().split(',').next().unwrap().to_owned()
}

fn get(address: &str, target: &str, login: &str) -> String {
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
