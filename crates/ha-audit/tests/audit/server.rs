//! What can go wrong only between a program and a server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_audit::store::{Store, StoreError, Trouble};
use ha_testkit::loopmount::{Skipped, need_tool, tool};
use ha_testkit::mariadb::{self, PASSWORD, Server};
use ha_testkit::need;
use ha_testkit::wire::{Cut, Listener};

use crate::ground::Ground;
use crate::{finished_log, flush, iteration, operation};

const TIMEOUT: Duration = Duration::from_secs(2);

fn try_open(dsn: &str) -> Result<Store, StoreError> {
    Store::open(&dsn.parse().unwrap(), TIMEOUT)
}

/// Opens, and returns the error with its causes and what is wrong.
#[track_caller]
fn refused(dsn: &str) -> (String, Option<Trouble>) {
    let error = try_open(dsn).unwrap_err();
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    assert!(!format!("{text} {error:?}").contains(PASSWORD), "{error:?}");
    (text, error.trouble())
}

/// Each operation of `count` runs with `operations` each is there once, and each run.
#[track_caller]
fn assert_once(place: &Ground, runs: i64, operations: i64) {
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), runs * operations);
    assert_eq!(place.number("SELECT COUNT(DISTINCT iteration_id, seq) FROM sync_operations"), runs * operations);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_iterations WHERE status = 'success'"), runs);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_iterations"), runs);
}

fn through(listener: &Listener, place: &Ground) -> String {
    format!("root:{PASSWORD}@tcp(127.0.0.1:{})/{}?tls=false", listener.port(), place.database())
}

/// The connection is cut at every statement of a flush in turn, once before the server has it and once after it has done
/// it; the flush goes on over a new connection.
#[test]
fn a_lost_connection_is_made_anew_and_all_is_stored_once() {
    let place = need!(Ground::mariadb());
    drop(place.open());
    let mut runs = 0;
    for after in [false, true] {
        let mut at = 1;
        loop {
            let cut = if after { Cut::After(at) } else { Cut::Before(at) };
            let proxy = Listener::proxy(place.server().port(), cut, false);
            finished_log(place.path(), &iteration("media", runs), 2300);
            let opened = try_open(&through(&proxy, &place));
            if let Ok(store) = opened {
                let (summary, _) = flush(place.path(), &store);
                assert!(summary.error.is_none(), "{cut:?}: {:?}", summary.error);
                store.close().unwrap();
            } else {
                // it was cut while it was opened: the next run flushes
                flush(place.path(), &place.open());
            }
            runs += 1;
            at += 1;
            if proxy.commands() + 1 < at {
                break;
            }
        }
        assert!(at > 12, "only {at} statements");
    }
    assert_once(&place, i64::from(runs), 2300);
}

/// The same, but the server is gone after the cut, and another run flushes.
#[test]
fn a_flush_that_ends_at_any_statement_is_completed_by_the_next_run() {
    let place = need!(Ground::mariadb());
    drop(place.open());
    let mut runs = 0;
    for after in [false, true] {
        for at in 1.. {
            let cut = if after { Cut::After(at) } else { Cut::Before(at) };
            let proxy = Listener::proxy(place.server().port(), cut, true);
            let log = finished_log(place.path(), &iteration("media", runs), 2300);
            runs += 1;
            let failed = match try_open(&through(&proxy, &place)) {
                Err(error) => {
                    assert!(error.is_retryable(), "{cut:?}: {error:?}");
                    true
                }
                Ok(store) => {
                    let (summary, _) = flush(place.path(), &store);
                    assert_eq!(summary.error.is_some(), log.exists(), "{cut:?}");
                    summary.error.is_some()
                }
            };
            let (summary, _) = flush(place.path(), &place.open());
            assert!(summary.error.is_none() && !log.exists());
            if !failed {
                break;
            }
        }
    }
    assert_once(&place, i64::from(runs), 2300);
}

#[test]
fn a_server_that_is_killed_anywhere_in_a_flush_stores_all_once() {
    let place = Ground::of(Arc::new(need!(Server::start(&[]))));
    drop(place.open());
    for run in 0..3 {
        finished_log(place.path(), &iteration("media", run), 20_000);
    }
    let mut failures = 0;
    for delay in [5, 30, 60, 100, 150, 220] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(delay));
                place.server().kill();
            });
            if let Ok(store) = place.try_open(TIMEOUT) {
                failures += u32::from(flush(place.path(), &store).0.error.is_some());
            }
        });
        place.server().restart();
    }
    assert!(failures > 0, "the server was never killed in the midst of a flush");
    let (summary, _) = flush(place.path(), &place.open());
    assert!(summary.error.is_none() && summary.left == 0 && summary.broken == 0, "{summary:?}");
    assert_once(&place, 3, 20_000);
}

#[test]
fn a_server_that_freezes_delays_no_longer_than_the_time_outs() {
    let place = Ground::of(Arc::new(need!(Server::start(&[]))));
    let dsn = format!("{}?readTimeout=700ms", place.dsn_text());
    let store = try_open(&dsn).unwrap();
    let log = finished_log(place.path(), &iteration("media", 0), 2300);
    place.server().freeze();
    let begun = Instant::now();
    let (summary, _) = flush(place.path(), &store);
    let error = summary.error.unwrap();
    assert!(error.is_retryable() && begun.elapsed() < Duration::from_secs(2), "{error:?} {:?}", begun.elapsed());
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the server does not answer within 0.7 s");
    assert!(log.exists());
    // it is not waited for again at once
    let begun = Instant::now();
    let error = store.begin(&iteration("media", 1)).unwrap_err();
    assert!(error.is_retryable() && begun.elapsed() < Duration::from_millis(200), "{error:?} {:?}", begun.elapsed());
    let words = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(words, "the server does not answer within 0.7 s, a moment ago");
    let begun = Instant::now();
    let (text, trouble) = refused(&place.dsn_text());
    let port = place.server().port();
    assert!(begun.elapsed() < TIMEOUT + Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(trouble, Some(Trouble::Silent));
    let says = format!("failed to read the greeting of database server: 127.0.0.1:{port}: it says nothing within 2 s");
    assert!(text.ends_with(&says), "{text}");
    place.server().thaw();
    assert!(flush(place.path(), &place.open()).0.error.is_none());
    assert_once(&place, 1, 2300);
}

#[test]
fn a_server_that_freezes_while_a_new_database_is_made_delays_no_longer() {
    let place = need!(Ground::mariadb());
    for at in [5, 9, 20] {
        let proxy = Listener::proxy(place.server().port(), Cut::Stall(at), false);
        let begun = Instant::now();
        let error = try_open(&format!("{}&readTimeout=1s&timeout=1s", through(&proxy, &place))).unwrap_err();
        assert!(error.is_retryable() && begun.elapsed() < Duration::from_secs(4), "{error:?} {:?}", begun.elapsed());
    }
    drop(place.open());
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_is_made_anew() {
    let place = need!(Ground::mariadb());
    let store = place.open();
    store.begin(&iteration("media", 0)).unwrap();
    let kill = format!(
        "SELECT CONCAT('KILL ', id, ';') FROM information_schema.PROCESSLIST WHERE DB = '{}'",
        place.database()
    );
    for statement in place.server().sql("", &kill) {
        place.server().sql("", &statement);
    }
    finished_log(place.path(), &iteration("media", 0), 10);
    assert!(flush(place.path(), &store).0.error.is_none());
    assert_once(&place, 1, 10);
}

#[test]
fn many_programs_may_flush_the_same_log() {
    let place = need!(Ground::mariadb());
    drop(place.open());
    let logs: Vec<_> = (0..3).map(|run| finished_log(place.path(), &iteration("media", run), 5000)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            // as on hosts whose locks do not reach each other
            scope.spawn(|| {
                let store = place.open();
                for log in &logs {
                    assert_eq!(store.flush(log).unwrap().operations, 5000);
                }
            });
        }
    });
    assert_once(&place, 3, 5000);
}

#[test]
fn a_table_that_another_holds_is_not_waited_for_too_long() {
    let place = need!(Ground::mariadb());
    let dsn = format!("{}?readTimeout=500ms", place.dsn_text());
    let store = try_open(&dsn).unwrap();
    let error = crate::ground::block_on(async {
        let mut connection = place.mysql_connection().await;
        sqlx::raw_sql("LOCK TABLES sync_iterations WRITE").execute(&mut connection).await.unwrap();
        std::thread::scope(|scope| scope.spawn(|| store.begin(&iteration("media", 0)).unwrap_err()).join().unwrap())
    });
    assert!(error.is_retryable(), "{error:?}");
    place.open().begin(&iteration("media", 0)).unwrap();
}

#[test]
fn addresses_are_tried_in_order_within_the_time_of_one() {
    let place = need!(Ground::mariadb());
    let silent = Listener::silent();
    let (port, database) = (place.server().port(), place.database());
    for first in ["127.0.0.1:1".to_owned(), format!("127.0.0.1:{}", silent.port()), "no-such-host.invalid".to_owned()] {
        let begun = Instant::now();
        let store = try_open(&format!("root:{PASSWORD}@tcp({first},127.0.0.1:{port})/{database}")).unwrap();
        assert!(begun.elapsed() < TIMEOUT, "{first}: {:?}", begun.elapsed());
        store.close().unwrap();
    }
    let begun = Instant::now();
    let (text, trouble) = refused(&format!("root:{PASSWORD}@tcp(127.0.0.1:1,127.0.0.1:{})/x", silent.port()));
    assert!(begun.elapsed() < TIMEOUT + Duration::from_millis(500));
    assert_eq!(trouble, Some(Trouble::Refused));
    let says = format!(
        "failed to open audit database: mysql://root@127.0.0.1:1,127.0.0.1:{0}/x: failed to connect to database server: \
         127.0.0.1:1: Connection refused (os error 111); failed to read the greeting of database server: 127.0.0.1:{0}: \
         it says nothing within 2 s",
        silent.port()
    );
    assert_eq!(text, says);
}

/// A node of a Galera cluster that is up, but not part of it, takes connections and refuses statements.
#[test]
fn a_node_that_is_not_ready_is_passed_over() {
    let place = need!(Ground::mariadb());
    let node = need!(galera_node());
    let (node_port, port, database) = (node.port(), place.server().port(), place.database());
    node.sql("", &format!("CREATE DATABASE {database}"));
    node.sql("", "SET GLOBAL wsrep_reject_queries = ALL");
    let (text, _) = refused(&format!("root:{PASSWORD}@tcp(127.0.0.1:{node_port})/{database}"));
    assert!(text.contains("1047 (08S01): WSREP has not yet prepared node for application use"), "{text}");
    let store = try_open(&format!("root:{PASSWORD}@tcp(127.0.0.1:{node_port},127.0.0.1:{port})/{database}")).unwrap();
    finished_log(place.path(), &iteration("media", 0), 10);
    flush(place.path(), &store);
    assert_once(&place, 1, 10);
}

#[test]
fn a_galera_node_is_migrated_and_flushed_to() {
    let place = Ground::of(Arc::new(need!(galera_node())));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| place.open());
        }
    });
    finished_log(place.path(), &iteration("media", 0), 2300);
    assert!(flush(place.path(), &place.open()).0.error.is_none());
    assert_once(&place, 1, 2300);
}

fn galera_node() -> Result<Server, Skipped> {
    need_tool("mariadbd")?;
    let library = ["/usr/lib/galera/libgalera_smm.so", "/usr/lib/galera-4/libgalera_smm.so"];
    let Some(library) = library.iter().find(|path| std::path::Path::new(path).exists()) else {
        return Err(Skipped::because("galera-4 is not installed"));
    };
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    Server::start(&[
        "--wsrep-on=ON",
        &format!("--wsrep-provider={library}"),
        "--wsrep-cluster-address=gcomm://",
        &format!(
            "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{free};ist.recv_addr=127.0.0.1:0;gcache.size=4M;gcache.page_size=4M"
        ),
        "--wsrep-node-address=127.0.0.1",
        "--wsrep-sst-method=skip",
        "--binlog-format=ROW",
        "--innodb-autoinc-lock-mode=2",
    ])
}

#[test]
fn encryption_is_what_the_dsn_says() {
    let plain = need!(mariadb::shared());
    let directory = tempfile::tempdir().unwrap();
    let (options, ca) = need!(mariadb::certificates(directory.path()));
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let server = Server::start(&options).unwrap();
    let database = server.create_database();
    let other = tempfile::tempdir().unwrap();
    let (_, other_ca) = mariadb::certificates(other.path()).unwrap();
    let (ca, other_ca, port) = (ca.display(), other_ca.display(), server.port());
    server.sql("", "CREATE USER tls@'127.0.0.1' IDENTIFIED BY 'x' REQUIRE SSL; GRANT ALL ON *.* TO tls@'127.0.0.1'");
    let dsn = |host: &str, parameters: &str| format!("tls:x@tcp({host}:{port})/{database}?{parameters}");
    // the certificate is for 127.0.0.1 and localhost
    for parameters in [
        "",
        "tls=preferred",
        "tls=skip-verify",
        &format!("tls-ca={ca}"),
        &format!("tls=true&tls-ca={ca}"),
        &format!("ssl-mode=VERIFY_CA&ssl-ca={ca}"),
    ] {
        drop(try_open(&dsn("127.0.0.1", parameters)).unwrap_or_else(|error| panic!("{parameters}: {error:?}")));
    }
    for parameters in
        ["tls=true", &format!("tls=true&tls-ca={other_ca}"), &format!("ssl-mode=VERIFY_CA&ssl-ca={other_ca}")]
    {
        let (text, trouble) = refused(&dsn("127.0.0.1", parameters));
        assert_eq!(trouble, Some(Trouble::Tls), "{text}");
        let step = format!(
            "failed to encrypt the connection to database server: 127.0.0.1:{port}: invalid peer certificate: "
        );
        assert!(text.contains(&step), "{text}");
    }
    let (text, trouble) = refused(&dsn("127.0.0.1", "tls=false"));
    assert_eq!(trouble, Some(Trouble::Login), "{text}");
    // a name that is not in the certificate
    let elsewhere = format!("tls:x@tcp(127.0.0.2:{port})/{database}?tls-ca={ca}");
    assert!(try_open(&elsewhere).is_err());
    for (file, says) in [
        (
            "/no/such.pem".to_owned(),
            "failed to read certificates: /no/such.pem: No such file or directory (os error 2)",
        ),
        ("/etc/hostname".to_owned(), "failed to read certificates: /etc/hostname: it has none in PEM form"),
    ] {
        let (text, trouble) = refused(&dsn("127.0.0.1", &format!("tls-ca={file}")));
        assert!(text.ends_with(says) && trouble == Some(Trouble::Tls), "{text}");
    }
    // a server that cannot
    let database = plain.create_database();
    let (text, trouble) = refused(&format!("{}?tls=skip-verify", plain.dsn(&database)));
    assert!(text.ends_with(": server does not support TLS") && trouble == Some(Trouble::Tls), "{text}");
    drop(try_open(&plain.dsn(&database)).unwrap());
    drop(try_open(&plain.socket_dsn(&database)).unwrap());
    drop(try_open(&server.socket_dsn(&server.create_database())).unwrap());
}

/// As MySQL 8 does, where neither side has TLS and the server has not seen the password before.
#[test]
fn a_password_that_needs_encryption_is_named() {
    let greeting = [
        b"\x0a8.0.36\0\x01\0\0\0abcdefgh\0" as &[u8],
        // protocol 4.1, database, long authentication by a plugin; no TLS
        b"\x08\x82\x2d\x02\0\x08\0\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0caching_sha2_password\0",
    ]
    .concat();
    let server = Listener::conversation(vec![greeting, b"\x01\x04".to_vec(), b"\x01a key".to_vec()]);
    let (text, trouble) = refused(&format!("u:p@tcp(127.0.0.1:{})/x", server.port()));
    let says = "it takes this user's password only over TLS";
    assert!(text.ends_with(says) && trouble == Some(Trouble::Tls), "{text}");
}

/// Other clients do so as well where encryption is only preferred.
#[test]
fn a_server_whose_encryption_is_too_old_is_reached_without() {
    let directory = tempfile::tempdir().unwrap();
    let (mut options, _) = need!(mariadb::certificates(directory.path()));
    // an exchange of keys without forward secrecy
    options.extend(["--tls-version=TLSv1.2".to_owned(), "--ssl-cipher=AES128-SHA256".to_owned()]);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let server = need!(Server::start(&options));
    let database = server.create_database();
    drop(try_open(&server.dsn(&database)).unwrap());
    let (text, trouble) = refused(&format!("{}?tls=skip-verify", server.dsn(&database)));
    assert_eq!(trouble, Some(Trouble::Tls), "{text}");
}

#[test]
fn a_log_with_longer_rows_than_a_packet_does_not_block_the_others() {
    let place = Ground::of(Arc::new(need!(Server::start(&["--max-allowed-packet=1M"]))));
    let store = place.open();
    let write = |run, length: usize| {
        let log = ha_audit::oplog::OpLog::create(place.path(), &iteration("media", run)).unwrap();
        let long = |seq| ha_sync_core::record::Operation { filepath: "x".repeat(length), ..operation(seq) };
        log.append(&(1..=5).map(operation).chain((6..=20).map(long)).collect::<Vec<_>>()).unwrap();
        log.finish(&crate::success(20)).unwrap();
    };
    write(0, 900_000);
    write(1, 2_000_000);
    write(2, 1000);
    let mut why = String::new();
    let summary = ha_audit::flush::flush_all(place.path(), &store, &|| false, &mut |event| {
        if let ha_audit::flush::FlushEvent::Broken { error, .. } = event {
            why = std::error::Error::source(error).unwrap().to_string();
        }
    });
    assert!(
        why.starts_with("a statement of 200")
            && why.ends_with(" bytes is larger than the server's max_allowed_packet, 1048576"),
        "{why}"
    );
    assert_eq!((summary.flushed, summary.broken, summary.left), (2, 1, 0), "{:?}", summary.error);
    assert_eq!(place.number("SELECT MAX(LENGTH(filepath)) FROM sync_operations"), 900_000);
    let (_, events) = flush(place.path(), &store);
    assert!(events.is_empty());
}

/// As the nodes of a cluster may differ: the connection is cut at each statement of a flush in turn, and the server that
/// is met then takes less than the one before.
#[test]
fn a_server_that_takes_less_than_before_refuses_no_log() {
    let place = Ground::of(Arc::new(need!(Server::start(&[]))));
    drop(place.open());
    let packet = |bytes: u32| place.server().sql("", &format!("SET GLOBAL max_allowed_packet = {bytes}"));
    let (mut runs, mut too_large) = (0, 0);
    for at in 1.. {
        packet(16 * 1024 * 1024);
        let proxy = Listener::proxy(place.server().port(), Cut::Before(at), false);
        let Ok(store) = try_open(&through(&proxy, &place)) else { continue };
        let log = ha_audit::oplog::OpLog::create(place.path(), &iteration("media", runs)).unwrap();
        let long = |seq| ha_sync_core::record::Operation { filepath: "x".repeat(200_000), ..operation(seq) };
        log.append(&(1..=12).map(long).collect::<Vec<_>>()).unwrap();
        log.finish(&crate::success(12)).unwrap();
        runs += 1;
        packet(1024 * 1024);
        let (summary, _) = flush(place.path(), &store);
        assert_eq!(summary.broken, 0, "{at}");
        if let Some(error) = summary.error {
            assert!(error.is_retryable() && summary.left == 1, "{at}: {error:?}");
            too_large += 1;
            let (summary, _) = flush(place.path(), &store);
            assert!(summary.error.is_none(), "{at}: {:?}", summary.error);
        }
        if proxy.commands() < at {
            break;
        }
    }
    assert!(too_large > 0, "no statement was under way");
    assert_once(&place, i64::from(runs), 12);
}

/// A deadlock, and what a node of a cluster says that lost against another one, at its statement or at its commit.
#[test]
fn a_statement_that_lost_against_another_is_sent_again() {
    for number in [1213, 1205, 1180] {
        let place = need!(Ground::mariadb());
        let store = place.open();
        place.run(&format!(
            "CREATE TABLE losses (n INT) ENGINE=Aria; INSERT INTO losses VALUES (4); \
             CREATE TRIGGER lose BEFORE INSERT ON sync_operations FOR EACH ROW BEGIN \
             IF NEW.seq = 1500 AND (SELECT n FROM losses) > 0 THEN UPDATE losses SET n = n - 1; \
             SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'lost'; END IF; END"
        ));
        finished_log(place.path(), &iteration("media", 0), 2300);
        let (summary, _) = flush(place.path(), &store);
        assert!(summary.error.is_none() && summary.broken == 0, "{number}: {summary:?}");
        assert_eq!(place.number("SELECT n FROM losses"), 0);
        assert_once(&place, 1, 2300);
    }
}

#[test]
fn nothing_but_mysql_is_taken_for_it() {
    need!(tool("mariadbd").ok_or_else(|| Skipped::because("mariadbd is not installed")));
    for (listener, says) in [
        (Listener::greeting(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "this is not MySQL, it says \"SSH-2.0-OpenSSH_9.2p1\""),
        (
            Listener::answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "this is not MySQL, it says \"HTTP/1.1 400 Bad Request\"",
        ),
        (Listener::greeting(b"220 mail\r\n"), "this is not MySQL, it says \"220 mail\""),
    ] {
        let begun = Instant::now();
        let (text, trouble) = refused(&format!("u:{PASSWORD}@tcp(127.0.0.1:{})/x", listener.port()));
        assert!(text.ends_with(says), "{text}");
        assert!(trouble == Some(Trouble::NotMysql) && begun.elapsed() < TIMEOUT + Duration::from_millis(500));
    }
    let (text, trouble) = refused("u:p@tcp(no-such-host.invalid:3306)/x");
    assert!(text.contains("failed to resolve host name: no-such-host.invalid: "), "{text}");
    assert_eq!(trouble, Some(Trouble::Name));
    let (text, trouble) = refused("u:p@unix(/no/such/socket)/x");
    assert!(
        text.ends_with("failed to connect to database server: /no/such/socket: No such file or directory (os error 2)")
    );
    assert_eq!(trouble, Some(Trouble::Refused));
}
