//! The schema on a server: made, adopted, migrated by many, and what users may do with it.

use std::sync::Arc;
use std::time::Duration;

use ha_audit::oplog::OpLog;
use ha_audit::store::{Store, StoreError, Trouble};
use ha_sync_core::path::escape;
use ha_sync_core::record::{Operation, Status};
use ha_testkit::mariadb::{PASSWORD, Server};
use ha_testkit::need;
use ha_testkit::wire::{Cut, Listener};

use crate::ground::Ground;
use crate::{finished_log, flush, iteration, operation, success};

const TIMEOUT: Duration = Duration::from_secs(5);

/// The plan's DDL, and rows as its program would have written them.
const PLAN: &str = "
CREATE TABLE IF NOT EXISTS sync_iterations (
id BIGINT AUTO_INCREMENT PRIMARY KEY,
sync_pair VARCHAR(255) NOT NULL,
direction VARCHAR(64) NOT NULL,
src VARCHAR(512) NOT NULL,
dest VARCHAR(512) NOT NULL,
started_at DATETIME(3) NOT NULL,
ended_at DATETIME(3),
status ENUM('running','success','partial_failure','failed') NOT NULL DEFAULT 'running',
dry_run TINYINT(1) NOT NULL DEFAULT 0,
files_created INT DEFAULT 0,
files_updated INT DEFAULT 0,
files_deleted INT DEFAULT 0,
files_skipped INT DEFAULT 0,
files_failed INT DEFAULT 0,
total_bytes_transferred BIGINT DEFAULT 0,
error_message TEXT,
INDEX idx_pair (sync_pair),
INDEX idx_started (started_at),
INDEX idx_dry_run (dry_run)
);
CREATE TABLE IF NOT EXISTS sync_operations (
id BIGINT AUTO_INCREMENT PRIMARY KEY,
iteration_id BIGINT NOT NULL,
dry_run TINYINT(1) NOT NULL DEFAULT 0,
operation ENUM('create','update','delete') NOT NULL,
filepath VARCHAR(4096) NOT NULL,
size_before BIGINT,
size_after BIGINT,
md5_before VARCHAR(32),
md5_after VARCHAR(32),
started_at DATETIME(3) NOT NULL,
ended_at DATETIME(3),
status ENUM('success','fail') NOT NULL,
error_message VARCHAR(4096),
INDEX idx_iteration (iteration_id),
CONSTRAINT fk_iteration FOREIGN KEY (iteration_id) REFERENCES sync_iterations(id)
);
INSERT INTO sync_iterations (sync_pair, direction, src, dest, started_at, ended_at, status, dry_run, files_created)
    VALUES ('Old Pair', 'fwd', '/a', '/b', '2026-04-01 10:00:00.5', NULL, 'success', 1, NULL),
           ('media', 'fwd', '/a ', '/b', '2026-04-02 10:00:00', '2026-04-02 10:01:00', 'partial_failure', 0, 2147483647);
INSERT INTO sync_operations (iteration_id, operation, filepath, started_at, status, error_message)
    VALUES (2, 'create', 'Käse ', '2026-04-02 10:00:00', 'success', NULL),
           (1, 'create', 'y', '2026-04-02 10:00:00', 'success', NULL),
           (2, 'delete', 'x', '2026-04-02 10:00:00.001', 'fail', 'geht nicht: größer');
";

/// Makes the plan's tables with rows; their character set is that of their database.
fn planned(place: &Ground, character_set: &str) {
    place.server().sql("", &format!("ALTER DATABASE {} CHARACTER SET {character_set}", place.database()));
    place.run(PLAN);
}

#[track_caller]
fn assert_adopted(place: &Ground, store: &Store) {
    let mut rows = store.iterations(None, 10).unwrap();
    rows.retain(|row| row.run_id.is_none());
    assert_eq!((rows[0].sync_pair.as_str(), &*rows[0].src, rows[0].status), ("media", "/a ", Status::PartialFailure));
    assert_eq!((rows[0].counts.files_created, rows[0].run_id.as_ref()), (2_147_483_647, None));
    assert_eq!((rows[1].sync_pair.as_str(), rows[1].dry_run, rows[1].ended_at), ("Old Pair", true, None));
    assert_eq!(rows[1].started_at, crate::time("2026-04-01T10:00:00.5Z"));
    let columns = "SELECT iteration_id, seq, operation, filepath, started_at, status, error_message \
                   FROM sync_operations WHERE iteration_id < 3 ORDER BY id";
    let operations = place.rows(columns);
    let operations: Vec<Vec<_>> =
        operations.iter().map(|row| row.iter().flatten().map(String::as_str).collect()).collect();
    let at = "2026-04-02 10:00:00.000";
    assert_eq!(
        operations,
        [
            vec!["2", "1", "create", "Käse ", at, "success"],
            vec!["1", "1", "create", "y", at, "success"],
            vec!["2", "2", "delete", "x", "2026-04-02 10:00:00.001", "fail", "geht nicht: größer"],
        ]
    );
}

/// What the server says the tables are, without the next id.
fn tables(place: &Ground) -> Vec<String> {
    ["sync_iterations", "sync_operations", "ha_sync_schema"]
        .iter()
        .map(|table| {
            let text = place.rows(&format!("SHOW CREATE TABLE {table}")).remove(0).remove(1).unwrap();
            let words: Vec<_> = text.split(' ').filter(|word| !word.starts_with("AUTO_INCREMENT=")).collect();
            words.join(" ")
        })
        .collect()
}

#[test]
fn tables_made_from_the_plan_are_adopted_whatever_their_character_set() {
    let fresh = need!(Ground::mariadb());
    drop(fresh.open());
    for character_set in ["latin1", "utf8mb4", "utf8mb4 COLLATE utf8mb4_general_ci", "utf8mb3"] {
        let place = fresh.another();
        planned(&place, character_set);
        let refused = place.open_read_only().unwrap_err();
        assert!(matches!(refused, StoreError::Schema { found: 0, .. }), "{refused}");
        let store = place.open();
        assert_adopted(&place, &store);
        store.flush(&finished_log(place.path(), &iteration("media", 0), 3)).unwrap();
        assert_adopted(&place, &store);
        assert_eq!(tables(&place), tables(&fresh), "{character_set}");
        assert!(place.open_read_only().is_ok());
    }
}

/// As old servers were set up; an index there takes 767 bytes, which are 191 letters.
#[test]
fn tables_in_an_old_row_format_are_adopted_and_new_ones_made() {
    let server = Arc::new(need!(Server::start(&["--innodb-default-row-format=compact"])));
    let place = Ground::of(Arc::clone(&server));
    // (in utf8mb4 such a server does not even make the plan's tables)
    planned(&place, "latin1");
    assert_adopted(&place, &place.open());
    let place = Ground::of(server);
    finished_log(place.path(), &iteration("media", 0), 7);
    assert!(flush(place.path(), &place.open()).0.error.is_none());
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 7);
}

#[test]
fn a_migration_that_ends_anywhere_is_completed() {
    let fresh = need!(Ground::mariadb());
    drop(fresh.open());
    let expected = tables(&fresh);
    for after in [false, true] {
        for at in 1.. {
            let place = fresh.another();
            planned(&place, "latin1");
            let cut = if after { Cut::After(at) } else { Cut::Before(at) };
            let proxy = Listener::proxy(place.server().port(), cut, true);
            let dsn = format!("root:{PASSWORD}@tcp(127.0.0.1:{})/{}?tls=false", proxy.port(), place.database());
            let opened = Store::open(&dsn.parse().unwrap(), TIMEOUT);
            let store = place.open();
            assert_adopted(&place, &store);
            assert_eq!(tables(&place), expected, "{cut:?}");
            if opened.is_ok() && proxy.commands() < at {
                assert!(at > 30, "only {at} statements");
                break;
            }
        }
    }
}

#[test]
fn every_step_may_be_repeated() {
    let place = need!(Ground::mariadb());
    planned(&place, "latin1");
    drop(place.open());
    let expected = tables(&place);
    for version in 0..place.number("SELECT MAX(version) FROM ha_sync_schema") {
        place.run(&format!("DELETE FROM ha_sync_schema WHERE version > {version}"));
        let store = place.open();
        store.begin(&iteration("media", 0)).unwrap();
        // what was there last has the highest place among equal columns and indices
        let mut sorted: Vec<Vec<String>> = tables(&place).iter().map(|table| lines(table)).collect();
        sorted.iter_mut().for_each(|lines| lines.sort());
        let mut wanted: Vec<Vec<String>> = expected.iter().map(|table| lines(table)).collect();
        wanted.iter_mut().for_each(|lines| lines.sort());
        assert_eq!(sorted, wanted, "from version {version}");
    }
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 3);
}

fn lines(table: &str) -> Vec<String> {
    table.lines().map(|line| line.trim_end_matches(',').to_owned()).collect()
}

#[test]
fn many_may_adopt_a_database_at_once() {
    let fresh = need!(Ground::mariadb());
    drop(fresh.open());
    for round in 0..3 {
        let place = fresh.another();
        planned(&place, "latin1");
        // in the last round somebody who is cut off holds the lock that spares the others the same work
        let holder = (round == 2).then(|| {
            crate::ground::block_on(async {
                let mut connection = place.mysql_connection().await;
                let lock = "SELECT GET_LOCK(CONCAT('ha-sync ', LEFT(SHA2(DATABASE(), 256), 32)), 0)";
                sqlx::raw_sql(lock).fetch_one(&mut connection).await.unwrap();
                connection
            })
        });
        std::thread::scope(|scope| {
            for number in 0..4 {
                let place = &place;
                scope.spawn(move || {
                    place.open().flush(&finished_log(place.path(), &iteration("media", number), 200)).unwrap();
                });
            }
        });
        drop(holder);
        assert_adopted_rows(&place);
        assert_eq!(tables(&place), tables(&fresh));
    }
}

#[track_caller]
fn assert_adopted_rows(place: &Ground) {
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations"), 803);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_operations WHERE seq IS NULL"), 0);
    assert_eq!(place.number("SELECT COUNT(*) FROM sync_iterations"), 6);
}

#[test]
fn any_file_name_survives() {
    let place = need!(Ground::mariadb());
    planned(&place, "latin1");
    let store = place.open();
    let names: Vec<Vec<u8>> = vec![
        b"a".to_vec(),
        b"a ".to_vec(),
        b"a  ".to_vec(),
        b"A".to_vec(),
        b" a".to_vec(),
        "ä".into(),
        "a\u{308}".into(),
        "Ä".into(),
        "ß".into(),
        "ss".into(),
        "\u{1f4f7} photo \u{10ffff}".into(),
        b"caf\xe9".to_vec(),
        b"tab\tnew\nline\\back'quote\"double%per_cent\x01".to_vec(),
        vec![0xff; 4096],
        vec![b'\\'; 4096],
        "ü".repeat(2048).into(),
        "/directory \u{1f4f7}".repeat(20_000).into(),
    ];
    let mut run = iteration("media", 0);
    run.src = escape(&[0xff; 4095]);
    run.dest = format!("{} ", "\u{1f4f7}".repeat(1000));
    let log = OpLog::create(place.path(), &run).unwrap();
    let operations: Vec<_> = (1..)
        .zip(&names)
        .map(|(seq, name)| Operation {
            filepath: escape(name),
            error_message: Some(escape(name)),
            reason: Some("ü \u{1f4f7}".to_owned()),
            ..operation(seq)
        })
        .collect();
    log.append(&operations).unwrap();
    let mut outcome = success(1);
    outcome.error_message = Some("\u{1f4f7}".repeat(100_000));
    store.flush(&log.finish(&outcome).unwrap()).unwrap();
    let stored = place.rows(&format!(
        "SELECT filepath, error_message, reason FROM sync_operations \
         WHERE iteration_id = (SELECT id FROM sync_iterations WHERE run_id = '{}') ORDER BY seq",
        run.run_id
    ));
    assert_eq!(stored.len(), names.len());
    for (row, operation) in stored.iter().zip(&operations) {
        assert!(row[0].as_deref() == Some(&operation.filepath), "{:?}", operation.filepath);
        assert!(row[1] == operation.error_message && row[2] == operation.reason);
    }
    // who looks for one name finds that one
    for name in &names[..10] {
        let name = std::str::from_utf8(name).unwrap();
        assert_eq!(
            place.number(&format!("SELECT COUNT(*) FROM sync_operations WHERE filepath = '{name}'")),
            if name == "x" { 2 } else { 1 },
            "{name:?}"
        );
    }
    let row = &store.iterations(None, 1).unwrap()[0];
    assert_eq!((&row.src, &row.dest, &row.error_message), (&run.src, &run.dest, &outcome.error_message));
}

/// The statements of docs/database.md are what it says they are.
#[test]
fn the_documented_users_can_do_what_they_should_and_no_more() {
    let place = need!(Ground::mariadb());
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/database.md")).unwrap();
    let blocks: Vec<_> = text
        .split("```sql\n")
        .skip(1)
        .map(|block| {
            block.split("```").next().unwrap().replace("general_db", place.database()).replace("<password>", "it's")
        })
        .map(|block| block.replace("'it's'", "'it''s'"))
        .collect();
    let [writer, dashboard, queries @ ..] = &blocks[..] else { panic!("{blocks:?}") };
    let dsn = |user: &str| {
        let dsn = format!("{user}:it's@tcp(127.0.0.1:{})/{}", place.server().port(), place.database());
        dsn.parse().unwrap()
    };
    planned(&place, "latin1");
    place.server().sql("", writer);
    let store = Store::open(&dsn("ha-sync"), TIMEOUT).unwrap();
    assert_adopted(&place, &store);
    let fresh = place.another();
    let create = format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, REFERENCES ON {}.* TO 'ha-sync'@'%'",
        fresh.database()
    );
    assert!(writer.contains(&create.replace(fresh.database(), place.database())));
    place.server().sql("", &create);
    let elsewhere = format!("ha-sync:it's@tcp(127.0.0.1:{})/{}", place.server().port(), fresh.database());
    drop(Store::open(&elsewhere.parse().unwrap(), TIMEOUT).unwrap());
    finished_log(place.path(), &iteration("media", 0), 7);
    assert!(flush(place.path(), &store).0.error.is_none());
    store.prune(crate::time("2026-04-03T00:00:00Z"), &mut |_| {}).unwrap();

    place.server().sql("", dashboard);
    place.run("CREATE TABLE of_others (secret TEXT)");
    let reader = Store::open_read_only(&dsn("ha-sync-dashboard"), TIMEOUT).unwrap();
    assert_eq!(reader.iterations(None, 10).unwrap().len(), store.iterations(None, 10).unwrap().len());
    reader.last_dry_run(&"media".parse().unwrap(), &"fwd".parse().unwrap()).unwrap();
    let error = reader.begin(&iteration("media", 9)).unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
    let database = place.database();
    let as_reader = |statement: &str| {
        let client = place
            .server()
            .client("it's", database)
            .args(["--user=ha-sync-dashboard", "--protocol=tcp", "--host=127.0.0.1"])
            .arg(format!("--port={}", place.server().port()))
            .args(["--execute", statement])
            .output()
            .unwrap();
        (client.status.success(), String::from_utf8_lossy(&client.stderr).into_owned())
    };
    for query in queries {
        let (done, words) = as_reader(query);
        assert!(done, "{query}: {words}");
    }
    for forbidden in [
        "SELECT * FROM of_others",
        "DELETE FROM sync_operations",
        "UPDATE sync_iterations SET src = ''",
        "DROP TABLE sync_operations",
    ] {
        let (done, words) = as_reader(forbidden);
        assert!(!done && words.contains("command denied to user 'ha-sync-dashboard'"), "{forbidden}: {words}");
    }
    // opened for writing, the missing right is named
    let error = Store::open(&dsn("ha-sync-dashboard"), TIMEOUT).unwrap().begin(&iteration("media", 9)).unwrap_err();
    assert_eq!(error.trouble(), Some(Trouble::Rights));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    let says = format!(
        "1142 (42000): INSERT command denied to user 'ha-sync-dashboard'@'127.0.0.1' for table `{database}`.`sync_iterations`"
    );
    assert_eq!(cause, says);
}

#[test]
fn each_missing_right_is_named() {
    let place = need!(Ground::mariadb());
    let all = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER"];
    let server = place.server();
    for missing in all {
        let place = place.another();
        planned(&place, "latin1");
        let user = format!("lacks_{}_{}", missing.to_lowercase(), place.database());
        let granted: Vec<_> = all.into_iter().filter(|right| *right != missing).collect();
        server.sql(
            "",
            &format!(
                "CREATE USER {user} IDENTIFIED BY 'x'; GRANT {} ON {}.* TO {user}",
                granted.join(", "),
                place.database()
            ),
        );
        let dsn = format!("{user}:x@tcp(127.0.0.1:{})/{}", server.port(), place.database()).parse().unwrap();
        let tried = Store::open(&dsn, TIMEOUT).and_then(|store| {
            store.flush(&finished_log(place.path(), &iteration("media", 0), 3))?;
            store.prune(crate::time("2027-01-01T00:00:00Z"), &mut |_| {})
        });
        let error = tried.unwrap_err();
        assert_eq!(error.trouble(), Some(Trouble::Rights), "{missing}: {error:?}");
        let cause = std::error::Error::source(&error).unwrap();
        let text = format!("{cause} {}", cause.source().map(ToString::to_string).unwrap_or_default());
        assert!(text.contains(&format!("{missing} command denied to user '{user}'@")), "{missing}: {text}");
    }
}
