//! Records on a real MariaDB server, and what is said and done when there is none, or something else.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_testkit::command::{Outcome, unique_pair};
use ha_testkit::loopmount::Skipped;
use ha_testkit::mariadb::{self, PASSWORD, Server};
use ha_testkit::need;
use ha_testkit::tree::{file, make};
use ha_testkit::wire::{Cut, Listener};
use rustix::process::Signal;

use crate::place::{Place, assert_says};

const NEWER: i64 = 1_750_000_000;
/// What a run may take besides the time that it waits for the server.
const RUN: Duration = Duration::from_secs(3);

/// A database on the server that the tests of this process share.
struct Records {
    server: Arc<Server>,
    database: String,
}

impl Records {
    fn new() -> Result<Self, Skipped> {
        mariadb::shared().map(Self::on)
    }

    fn on(server: Arc<Server>) -> Self {
        let database = server.create_database();
        Self { server, database }
    }

    fn dsn(&self) -> String {
        self.server.dsn(&self.database)
    }

    #[track_caller]
    fn sql(&self, query: &str) -> Vec<String> {
        self.server.sql(&self.database, query)
    }

    /// Reads runs as `status count-of-operations`, by start.
    #[track_caller]
    fn runs(&self) -> Vec<String> {
        self.sql(
            "SELECT CONCAT(status, ' ', (SELECT COUNT(*) FROM sync_operations WHERE iteration_id = i.id)) \
             FROM sync_iterations AS i ORDER BY started_at, id",
        )
    }
}

/// Runs with a DSN; no password is ever shown.
#[track_caller]
fn run(place: &Place, dsn: &str, words: &[&str]) -> Outcome {
    let outcome = place.command(words).env("HA_SYNC_DB_DSN", dsn).run();
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!text.contains(PASSWORD) && !text.contains("hunter2"), "{text}");
    outcome
}

/// Runs another pair with the same log directory.
#[track_caller]
fn another_pair(place: &Place, dsn: &str) -> Outcome {
    let (one, other) = (place.path("another/source"), place.path("another/destination"));
    make(&one, &[]);
    make(&other, &[]);
    let outcome = place.binary().arg("--src").arg(&one).arg("--dest").arg(&other).arg("--log-dir");
    let outcome = outcome.arg(place.environment.log_dir()).args(["--pair", &unique_pair(), "--db-dsn", dsn]).run();
    outcome.assert_success();
    outcome
}

fn small_place() -> Place {
    Place::new(&[file("a", "hello"), file("b/c", ""), file("changed", "new!").mtime(NEWER)], &[file("changed", "old")])
}

#[test]
fn rows_are_on_the_server() {
    let records = need!(Records::new());
    let place = small_place();
    let outcome = run(&place, &records.dsn(), &["--delete-missing"]);
    outcome.assert_success();
    place.assert_sides_equal();
    assert!(place.logs().is_empty());
    assert!(!place.environment.log_dir().join("ha-sync.db").exists());
    let shown = format!("mysql://root@127.0.0.1:{}/{}", records.server.port(), records.database);
    assert!(outcome.stdout.contains(&shown), "{}", outcome.stdout);
    let rows = records.sql("SELECT seq > 0, operation, filepath, size_before, size_after, md5_after, status FROM sync_operations ORDER BY filepath");
    assert_eq!(
        rows,
        [
            "1\tcreate\ta\tNULL\t5\t5d41402abc4b2a76b9719d911017c592\tsuccess",
            "1\tcreate\tb\tNULL\tNULL\tNULL\tsuccess",
            "1\tcreate\tb/c\tNULL\t0\td41d8cd98f00b204e9800998ecf8427e\tsuccess",
            "1\tupdate\tchanged\t3\t4\t03c2b5c61a2a7d35ff1bdd0f7ae1aabe\tsuccess",
        ]
        .map(|row| row.replace("03c2b5c61a2a7d35ff1bdd0f7ae1aabe", &md5_of("new!")))
    );
    let row = records.sql(
        "SELECT sync_pair, direction, status, dry_run, files_created, files_updated, total_bytes_transferred, \
         error_message, started_at <= ended_at, ABS(TIMESTAMPDIFF(SECOND, started_at, UTC_TIMESTAMP())) < 60 \
         FROM sync_iterations",
    );
    assert_eq!(row, [format!("{}\tfwd\tsuccess\t0\t3\t1\t9\tNULL\t1\t1", place.environment.pair())]);
    run(&place, &records.server.socket_dsn(&records.database), &["--delete-missing"]).assert_success();
    assert_eq!(records.runs(), ["success 4", "success 0"]);
}

fn md5_of(text: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", "printf %s \"$0\" | md5sum", text]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..32].to_owned()
}

#[test]
fn a_dry_run_is_compared_with_the_last_one_on_the_server() {
    let records = need!(Records::new());
    let place = small_place();
    run(&place, &records.dsn(), &["--dry-run"]).assert_success();
    let again = run(&place, &records.dsn(), &["--dry-run"]);
    assert!(again.stdout.contains("Dry-run already current as of 20"), "{}", again.stdout);
    assert!(again.stdout.contains("Nothing has changed."));
    assert_eq!(records.runs(), ["success 4"]);
    std::fs::write(place.source.join("one more"), "").unwrap();
    run(&place, &records.dsn(), &["--dry-run"]).assert_success();
    assert_eq!(records.runs(), ["success 4", "success 5"]);
    run(&place, &records.dsn(), &[]).assert_success();
    assert_eq!(records.runs()[2], "success 5");
}

#[test]
fn a_server_that_is_down_at_the_start_delays_nothing_and_gets_all_later() {
    let records = Records::on(Arc::new(need!(Server::start(&[]))));
    let port = records.server.port();
    records.server.kill();
    let place = small_place();
    for number in 1..=3 {
        std::fs::write(place.source.join(format!("file {number}")), "").unwrap();
        let begun = Instant::now();
        let outcome = run(&place, &records.dsn(), &[]);
        outcome.assert_success();
        assert!(begun.elapsed() < RUN, "{:?}", begun.elapsed());
        place.assert_sides_equal();
        let says = format!(
            " warning the audit store is not reachable, its rows wait in the log: failed to open audit database: \
             mysql://root@127.0.0.1:{port}/{}: failed to connect to database server: 127.0.0.1:{port}: connection \
             refused (os error 111)\n",
            records.database
        );
        assert_says(&outcome, &says);
        assert_says(&outcome, &format!("hint: does the server listen there? nc -vz 127.0.0.1 {port}\n"));
        assert_eq!(place.logs().len(), number);
        assert!(outcome.stdout.contains(place.logs()[number - 1].file_name().unwrap().to_str().unwrap()));
    }
    // one of them is broken: it keeps the others from nothing
    let broken = &place.logs()[1];
    let text = std::fs::read_to_string(broken).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.insert(1, "{ this is no operation");
    std::fs::write(broken, lines.join("\n") + "\n").unwrap();
    records.server.restart();
    let outcome = another_pair(&place, &records.dsn());
    assert_says(&outcome, "a broken log was set aside");
    assert!(place.logs().is_empty(), "{:?}", place.logs());
    // the rows were stored in the order of the runs, the new one last
    let runs = records.sql(
        "SELECT CONCAT(id, ' ', status, ' ', COALESCE(error_message, '')) FROM sync_iterations ORDER BY started_at",
    );
    assert_eq!(
        runs,
        ["1 success ", "2 failed interrupted: operation log is broken at line 2", "3 success ", "4 success "]
    );
    assert_eq!(records.runs(), ["success 5", "failed 0", "success 1", "success 0"]);
}

#[test]
fn a_server_that_never_answers_delays_no_longer_than_its_time_out() {
    let silent = Listener::silent();
    let place = small_place();
    let port = silent.port();
    let dsn = format!("user:hunter2@tcp(127.0.0.1:{port})/general_db");
    for (parameters, limit, words) in [("?timeout=1s", 1, "1 s"), ("", 5, "5 s")] {
        let begun = Instant::now();
        let outcome = run(&place, &format!("{dsn}{parameters}"), &[]);
        outcome.assert_success();
        assert!(begun.elapsed() < Duration::from_secs(limit) + RUN, "{:?}", begun.elapsed());
        let says = format!(
            "failed to open audit database: mysql://user@127.0.0.1:{port}/general_db: failed to read the greeting of \
             database server: 127.0.0.1:{port}: it says nothing within {words}\n"
        );
        assert_says(&outcome, &says);
    }
    place.assert_sides_equal();
    assert_eq!(place.logs().len(), 2);
}

/// The server goes away at each statement of a run in turn; the files are brought over, and the next run stores all.
#[test]
fn a_server_that_goes_away_in_the_middle_or_at_the_end_loses_no_row() {
    let records = need!(Records::new());
    let place = Place::new(&[], &[]);
    run(&place, &records.dsn(), &[]).assert_success();
    let mut runs = 1;
    for at in 1.. {
        let cut = if at % 2 == 0 { Cut::After(at) } else { Cut::Before(at) };
        let proxy = Listener::proxy(records.server.port(), cut, true);
        std::fs::write(place.source.join(format!("file {at}")), "x").unwrap();
        let dsn = format!("root:{PASSWORD}@tcp(127.0.0.1:{})/{}?tls=false", proxy.port(), records.database);
        let begun = Instant::now();
        let outcome = run(&place, &dsn, &[]);
        outcome.assert_success();
        assert!(begun.elapsed() < RUN, "{cut:?}: {:?}", begun.elapsed());
        place.assert_sides_equal();
        runs += 1;
        if proxy.commands() < at {
            assert!(at > 10, "only {at} statements");
            assert!(place.logs().is_empty());
            break;
        }
        // the last statements only say good-bye
        assert!(place.logs().len() <= 1);
        assert_eq!(place.logs().len() == 1, outcome.stderr.contains(" warning "), "{cut:?}: {}", outcome.stderr);
        another_pair(&place, &records.dsn());
        runs += 1;
        assert!(place.logs().is_empty());
    }
    let rows = records.sql("SELECT filepath, COUNT(*) FROM sync_operations GROUP BY filepath HAVING COUNT(*) <> 1");
    assert!(rows.is_empty(), "{rows:?}");
    assert_eq!(
        records.sql("SELECT COUNT(*) FROM sync_operations"),
        [std::fs::read_dir(&place.source).unwrap().count().to_string()]
    );
    assert_eq!(records.sql("SELECT COUNT(*) FROM sync_iterations WHERE status = 'success'"), [runs.to_string()]);
}

/// The server freezes at a statement; all of the run together waits for it once.
#[test]
fn a_server_that_freezes_in_the_middle_delays_a_run_once() {
    let records = need!(Records::new());
    run(&small_place(), &records.dsn(), &[]).assert_success();
    std::thread::scope(|scope| {
        // while it is connected, when the run is recorded, when its operations are, and at its end
        for at in [2, 7, 9, 11] {
            let records = &records;
            scope.spawn(move || {
                let proxy = Listener::proxy(records.server.port(), Cut::Stall(at), false);
                let dsn = format!(
                    "root:{PASSWORD}@tcp(127.0.0.1:{})/{}?tls=false&timeout=5s&readTimeout=5s",
                    proxy.port(),
                    records.database
                );
                let place = small_place();
                let begun = Instant::now();
                let outcome = run(&place, &dsn, &[]);
                let elapsed = begun.elapsed();
                outcome.assert_success();
                place.assert_sides_equal();
                let limits = Duration::from_secs(4)..Duration::from_secs(5) + RUN;
                assert!(limits.contains(&elapsed), "{at}: {elapsed:?}: {}", outcome.stderr);
                assert_eq!(place.logs().len(), 1);
                another_pair(&place, &records.dsn());
                assert!(place.logs().is_empty());
            });
        }
    });
    assert_eq!(records.sql("SELECT COUNT(*) FROM sync_operations"), ["20"]);
}

/// Else the pod is killed while it flushes, and its Lease is in the way of the next runs for its time to live.
#[test]
fn a_signal_ends_a_long_flush() {
    let records = need!(Records::new());
    let items: Vec<_> = (0..6000).map(|number| file(format!("dir-{}/{number}", number % 30), "")).collect();
    let place = Place::new(&items, &[]);
    run(&place, "u:hunter2@tcp(127.0.0.1:1)/x", &[]).assert_success();
    another_pair(&Place::new(&[], &[]), &records.dsn());
    // 4 s for each statement of 1,000 rows
    records.sql("CREATE TRIGGER slow BEFORE INSERT ON sync_operations FOR EACH ROW SET NEW.dry_run = 0 + SLEEP(0.004)");
    let running = place.command(&[]).env("HA_SYNC_DB_DSN", records.dsn()).start();
    let rows = || records.sql("SELECT COUNT(*) FROM sync_operations")[0].parse::<u32>().unwrap();
    let begun = Instant::now();
    while rows() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no row is stored");
        std::thread::sleep(Duration::from_millis(50));
    }
    let told = Instant::now();
    running.signal(Signal::TERM);
    let outcome = running.wait();
    outcome.assert_code(143);
    assert!(told.elapsed() < Duration::from_secs(14), "{:?}", told.elapsed());
    assert_says(&outcome, " logs wait for the next run: interrupted in operation log: ");
    assert!((1000..6000).contains(&rows()), "{} rows", rows());
    records.sql("DROP TRIGGER slow");
    run(&place, &records.dsn(), &[]).assert_success();
    assert!(place.logs().is_empty());
    assert_eq!(records.sql("SELECT COUNT(*), COUNT(DISTINCT filepath) FROM sync_operations"), ["6030\t6030"]);
}

/// The process dies at random moments of a run that flushes; afterwards each file has its rows once.
#[test]
fn a_killed_process_loses_and_doubles_no_row() {
    let records = need!(Records::new());
    let items: Vec<_> = (0..3000).map(|number| file(format!("dir-{}/{number}", number % 30), "x")).collect();
    let place = Place::new(&items, &[]);
    let dsn = records.dsn();
    for delay in [5, 20, 40, 60, 80, 110, 140, 180, 220, 260, 300] {
        let mut running = place.command(&[]).env("HA_SYNC_DB_DSN", &dsn).start();
        running.ended_within(Duration::from_millis(delay));
        running.kill();
        running.wait();
    }
    run(&place, &dsn, &[]).assert_success();
    run(&place, &dsn, &[]).assert_success();
    place.assert_sides_equal();
    assert!(place.logs().is_empty());
    let wrong = records.sql(
        "SELECT filepath, COUNT(*) FROM sync_operations WHERE status = 'success' AND operation = 'create' \
         GROUP BY filepath HAVING COUNT(*) <> 1 LIMIT 5",
    );
    assert!(wrong.is_empty(), "{wrong:?}");
    let count = records
        .sql("SELECT COUNT(DISTINCT filepath) FROM sync_operations WHERE status = 'success' AND operation = 'create'");
    assert_eq!(count, ["3030"]);
    let wrong = records.sql(
        "SELECT run_id FROM sync_iterations AS i WHERE files_created + files_updated + files_deleted + files_failed <> \
         (SELECT COUNT(*) FROM sync_operations WHERE iteration_id = i.id)",
    );
    assert!(wrong.is_empty(), "counts equal rows: {wrong:?}");
}

#[test]
fn two_runs_flush_the_waiting_logs_at_once() {
    let records = need!(Records::new());
    let items: Vec<_> = (0..2000).map(|number| file(number.to_string(), "")).collect();
    let place = Place::new(&items, &[]);
    run(&place, "u:hunter2@tcp(127.0.0.1:1)/x", &[]).assert_success();
    for name in ["one more", "and one"] {
        std::fs::write(place.source.join(name), "").unwrap();
        run(&place, "u:hunter2@tcp(127.0.0.1:1)/x", &[]).assert_success();
    }
    assert_eq!(place.logs().len(), 3);
    let dsn = records.dsn();
    std::thread::scope(|scope| {
        for name in ["first", "second", "third"] {
            let (one, other) = (place.path(&format!("{name}/source")), place.path(&format!("{name}/destination")));
            make(&one, &[]);
            make(&other, &[]);
            let run = place.binary().arg("--src").arg(&one).arg("--dest").arg(&other).arg("--log-dir");
            let run = run.arg(place.environment.log_dir()).args(["--pair", &unique_pair(), "--db-dsn", &dsn]);
            scope.spawn(move || {
                run.run().assert_success();
            });
        }
    });
    run(&place, &dsn, &[]).assert_success();
    assert!(place.logs().is_empty());
    assert_eq!(records.sql("SELECT COUNT(*), COUNT(DISTINCT filepath) FROM sync_operations"), ["2002\t2002"]);
    assert_eq!(records.sql("SELECT COUNT(*) FROM sync_iterations WHERE status = 'success'"), ["7"]);
}

#[test]
fn prune_removes_old_rows_from_the_server() {
    let records = need!(Records::new());
    let place = small_place();
    run(&place, &records.dsn(), &[]).assert_success();
    let dsn = records.dsn();
    // 12,001 operations of a run 40 days ago, and a later one that keeps it from being the last
    records.sql(
        "INSERT INTO sync_iterations (sync_pair, direction, src, dest, started_at, status) \
         SELECT 'old', 'fwd', '/a', '/b', UTC_TIMESTAMP() - INTERVAL age DAY, 'success' \
         FROM (SELECT 40 AS age UNION ALL SELECT 39) AS ages ORDER BY age DESC",
    );
    records.sql(
        "INSERT INTO sync_operations (iteration_id, seq, operation, filepath, started_at, status) \
         SELECT (SELECT MIN(id) FROM sync_iterations WHERE sync_pair = 'old'), seq, 'create', 'x', UTC_TIMESTAMP(), \
         'success' FROM seq_1_to_12001",
    );
    let prune = |words: &[&str]| {
        let words: Vec<_> = ["prune", "--db-older-than", "30d"].iter().chain(words).copied().collect();
        let logs = place.environment.log_dir();
        place.binary().args(words).arg("--log-dir").arg(logs).env("HA_SYNC_DB_DSN", &dsn).run()
    };
    let outcome = prune(&["--dry-run"]);
    assert!(outcome.stdout.contains("database: 1 runs with 12,001 operations would be removed"), "{}", outcome.stdout);
    let outcome = prune(&[]);
    outcome.assert_success();
    assert!(outcome.stdout.contains("database: 1 runs with 12,001 operations removed"), "{}", outcome.stdout);
    assert_eq!(records.sql("SELECT COUNT(*) FROM sync_operations"), ["4"]);
    assert_eq!(records.sql("SELECT sync_pair FROM sync_iterations WHERE sync_pair = 'old'"), ["old"]);
}

/// Runs with such a DSN, which must warn so, hint so, and bring the files over all the same; `prune` fails with the same
/// words.
#[track_caller]
fn assert_unreachable(dsn: &str, cause: &[&str], hint: &str) {
    let place = small_place();
    let outcome = run(&place, dsn, &[]);
    outcome.assert_success();
    place.assert_sides_equal();
    assert_eq!(place.logs().len(), 1);
    let chain = cause.join(": ");
    assert_says(&outcome, &format!(" warning the audit store is not reachable, its rows wait in the log: {chain}\n"));
    assert_says(&outcome, &format!("hint: {hint}\n"));
    let logs = place.environment.log_dir();
    let prune = place.binary().args(["prune", "--db-older-than", "30d", "--log-dir"]).arg(logs);
    let outcome = prune.env("HA_SYNC_DB_DSN", dsn).run();
    outcome.assert_code(1);
    assert!(outcome.stdout.is_empty());
    assert_eq!(outcome.stderr, format!("error: {}\nhint: {hint}\n", cause.join("\ncaused by: ")));
}

#[test]
fn what_keeps_a_server_from_being_used_is_said() {
    let records = need!(Records::new());
    let (port, database) = (records.server.port(), &records.database);
    let user = format!("user_{database}");
    records.server.sql("", &format!("CREATE USER {user} IDENTIFIED BY 'hunter2'"));
    let address = format!("127.0.0.1:{port}");
    let log_in = format!("failed to log in to database server: {address}");
    let open =
        |user: &str, database: &str| format!("failed to open audit database: mysql://{user}@{address}/{database}");

    // a wrong password, and a user that is unknown
    for (name, dsn) in [
        (user.as_str(), format!("{user}:hunter22@tcp({address})/{database}")),
        ("nobody", format!("mysql://nobody:hunter2@{address}/{database}")),
    ] {
        assert_unreachable(
            &dsn,
            &[
                &open(name, database),
                &log_in,
                &format!("1045 (28000): Access denied for user '{name}'@'127.0.0.1' (using password: YES)"),
            ],
            &format!("try it by hand: mariadb -h 127.0.0.1 -P {port} -u {name} -p {database}"),
        );
    }
    // no right at all on that database
    assert_unreachable(
        &format!("{user}:hunter2@tcp({address})/{database}"),
        &[
            &open(&user, database),
            &log_in,
            &format!("1044 (42000): Access denied for user '{user}'@'%' to database '{database}'"),
        ],
        &format!("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, REFERENCES ON {database}.* TO '{user}'@'%'"),
    );
    // a database that is not there
    assert_unreachable(
        &format!("root:{PASSWORD}@tcp({address})/absent"),
        &[&open("root", "absent"), &log_in, "1049 (42000): Unknown database 'absent'"],
        "make it: CREATE DATABASE absent CHARACTER SET utf8mb4",
    );
    // too few rights to make the tables
    records.server.sql("", &format!("GRANT SELECT, INSERT ON {database}.* TO {user}"));
    assert_unreachable(
        &format!("{user}:hunter2@tcp({address})/{database}"),
        &[
            &format!("failed to migrate audit database: mysql://{user}@{address}/{database}"),
            &format!(
                "1142 (42000): CREATE command denied to user '{user}'@'127.0.0.1' for table `{database}`.`ha_sync_schema`"
            ),
        ],
        &format!("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, REFERENCES ON {database}.* TO '{user}'@'%'"),
    );
    // TLS is wanted, and the server has none
    assert_unreachable(
        &format!("{user}:hunter2@tcp({address})/{database}?tls=true"),
        &[
            &open(&user, database),
            &format!("failed to encrypt the connection to database server: {address}"),
            "server does not support TLS",
        ],
        "what the DSN says of TLS: tls=skip-verify encrypts and checks nothing, tls-ca=FILE names your authority, \
         tls=false does without",
    );
}

#[test]
fn a_server_that_demands_encryption_is_met_unless_the_dsn_forbids_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut options, _) = need!(mariadb::certificates(directory.path()));
    options.push("--require-secure-transport=ON".to_owned());
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let records = Records::on(Arc::new(need!(Server::start(&options))));
    let (port, database) = (records.server.port(), &records.database);
    let outcome = run(&small_place(), &format!("{}?tls=false", records.dsn()), &[]);
    outcome.assert_success();
    let says = format!(
        "mysql://root@127.0.0.1:{port}/{database}: failed to log in to database server: 127.0.0.1:{port}: 1045 (28000): \
         Access denied for user 'root'@'127.0.0.1' (using password: YES)\n"
    );
    // (MySQL says 3159 and why)
    assert_says(&outcome, &says);
    run(&small_place(), &records.dsn(), &[]).assert_success();
    assert_eq!(records.runs(), ["success 4"]);
}

#[test]
fn what_is_no_database_server_is_said() {
    let speaks = |greeting: &'static [u8], words: &str| {
        let listener = Listener::greeting(greeting);
        let address = format!("127.0.0.1:{}", listener.port());
        assert_unreachable(
            &format!("user:hunter2@tcp({address})/general_db?timeout=1s"),
            &[
                &format!("failed to open audit database: mysql://user@{address}/general_db"),
                &format!(
                    "failed to read the greeting of database server: {address}: this is not MySQL, it says {words}"
                ),
            ],
            "is it the port of the database? MySQL's is 3306",
        );
    };
    speaks(b"SSH-2.0-OpenSSH_9.2p1\r\n", r#""SSH-2.0-OpenSSH_9.2p1""#);
    speaks(b"HTTP/1.1 400 Bad Request\r\n\r\n", r#""HTTP/1.1 400 Bad Request""#);
    assert_unreachable(
        "user:hunter2@tcp(127.0.0.1:1)/general_db",
        &[
            "failed to open audit database: mysql://user@127.0.0.1:1/general_db",
            "failed to connect to database server: 127.0.0.1:1",
            "connection refused (os error 111)",
        ],
        "does the server listen there? nc -vz 127.0.0.1 1",
    );
    assert_unreachable(
        "user:hunter2@unix(/no/such/socket)/general_db",
        &[
            "failed to open audit database: mysql://user@localhost/general_db?socket=/no/such/socket",
            "failed to connect to database server: /no/such/socket",
            "no such file or directory (os error 2)",
        ],
        "is the server running? systemctl status mariadb",
    );
    // what the resolver says depends on the host
    let outcome = run(&small_place(), "mysql://user:hunter2@no-such-host.invalid/general_db?timeout=1s", &[]);
    outcome.assert_success();
    assert_says(
        &outcome,
        "failed to open audit database: mysql://user@no-such-host.invalid:3306/general_db: failed to resolve host name: \
         no-such-host.invalid: ",
    );
    assert_says(&outcome, "hint: does this host know the name? getent hosts no-such-host.invalid\n");
}

#[test]
fn a_malformed_dsn_of_a_server_is_bad_usage() {
    let place = small_place();
    let before = place.both();
    for (dsn, says) in [
        (
            "user:hunter2@tcp(db:3306)",
            "the MySQL DSN is malformed: the database is missing: expected mysql://USER:PASSWORD@HOST:PORT/DATABASE or USER:PASSWORD@tcp(HOST:PORT)/DATABASE",
        ),
        (
            "mysql://user:hunter2@db:hunter2/x",
            "the MySQL DSN is malformed: the port is no number from 1 to 65535: expected mysql://USER:PASSWORD@HOST:PORT/DATABASE or USER:PASSWORD@tcp(HOST:PORT)/DATABASE",
        ),
        (
            "user:hunter2@tcp(db:3306)/x?timeuot=5s",
            "the parameter timeuot of the MySQL DSN is refused: it is not known",
        ),
        (
            "mysql://user:hunter2@db/x?tls=yes",
            "the parameter tls of the MySQL DSN is refused: expected true, skip-verify, preferred or false; a CA of your own: tls-ca=FILE",
        ),
    ] {
        let outcome = run(&place, dsn, &[]);
        outcome.assert_code(2);
        assert_eq!(
            outcome.stderr,
            format!(
                "error: the value of --db-dsn or HA_SYNC_DB_DSN is refused\ncaused by: {says}\n\
                 hint: for a file: --db-dsn sqlite:/var/lib/ha-sync/audit.db\n\
                 hint: for a server: --db-dsn 'USER:PASSWORD@tcp(HOST:3306)/DATABASE?tls=preferred'\n"
            )
        );
    }
    place.assert_untouched(&before);
}
