//! What is wrong with an inventory is told all at once, each with its line and the path of its field.
#![allow(clippy::disallowed_methods, reason = "a test may read the project's files")]

use std::path::Path;

use ha_manifests::read;

fn plan() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/inventory.yaml")).unwrap()
}

fn problems(text: &str) -> String {
    let problems = read(text).expect_err(text);
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

const SERVERS: &str = "\
namespace: infra
image: r/ha-sync:1
logs: {server: a, folder: logs}
servers:
  - {name: a, address: 10.0.0.1, export: /data}
  - {name: b, address: 10.0.0.2, export: /data}
";

/// The two servers above, and pairs that begin in line 8.
fn with_pairs(pairs: &str) -> String {
    format!("{SERVERS}pairs:\n{pairs}")
}

#[test]
fn many_problems_at_once_in_the_order_of_the_lines() {
    insta::assert_snapshot!(problems("\
namespace: Infra
imag: r/ha-sync:1
interval: 7m
logs:
  server: nass
  folder: ../logs
  capacity: 0Gi
servers:
  - name: nas
    address: 10.0.0.300
    export: data
  - name: nas
    address: 10.0.0.2
    export: /data
    exprot: /x
pairs:
  - name: my_media
    capacity: lots
    mode: both
  - capacity: 5Gi
    shards: 0
    delete: {nas-to-hp: maybe}
dashboard:
  host: https://x.example
  host: x.example
"), @"
    1: image: is missing
    1: namespace: Kubernetes refuses the name \"Infra\": 1 to 63 of a-z, 0-9 and '-', no '-' at its ends
    2: imag: unknown field; did you mean image?
    3: interval: expected minutes or hours that divide the hour or the day, from 2m to 24h, like 15m
    5: logs.server: unknown server: nass; did you mean nas?
    6: logs.folder: expected a folder below the export root like photos/2026, or an absolute path: \"../logs\"
    7: logs.capacity: a volume of no size
    10: servers[0].address: neither a host name nor an IP address: \"10.0.0.300\"
    11: servers[0].export: expected an absolute path like /data, without '.' and '..': \"data\"
    12: servers[1].name: a server with this name is in line 9 already
    15: servers[1].exprot: unknown field; did you mean export?
    17: pairs[0].name: not a name of a pair: character '_' at position 3 is not allowed: use a-z, 0-9 and '-', and begin and end with a letter or digit
    18: pairs[0].capacity: expected a size like 500Gi or 2Ti: \"lots\"
    19: pairs[0].mode: expected one-way or two-way: \"both\"
    20: pairs[1].name: is missing
    21: pairs[1].shards: expected a number from 1 to 64
    22: pairs[1].delete.nas-to-hp: expected off, on or strict: \"maybe\"
    22: pairs[1].delete.nas-to-hp: no direction of this pair; there is nas-to-nas and nas-to-nas
    24: dashboard.host: not a host name: \"https://x.example\"
    25: dashboard.host: is there already, in line 24
    ");
}

#[test]
fn single_problems() {
    let long = "x".repeat(42);
    let table: Vec<(String, String)> = [
        ("  - {name: m, capacity: 1Gi}\n  - {name: m, capacity: 1Gi, folder: n}\n", "9: pairs[1].name: a pair with this name is in line 8 already"),
        ("  - {name: m, capacity: 1Gi}\n  - {name: n, capacity: 1Gi, folder: m/sub}\n", "9: pairs[1].folder: /data/m/sub overlaps /data/m of the pair m, in line 8"),
        ("  - {name: m, capacity: 1Gi, folder: x/y}\n  - {name: n, capacity: 1Gi, folder: x}\n", "9: pairs[1].folder: /data/x overlaps /data/x/y of the pair m, in line 8"),
        ("  - {name: m, capacity: 1Gi, folder: x}\n  - {name: n, capacity: 1Gi, folders: {b: x}}\n", "9: pairs[1].folders.b: /data/x overlaps /data/x of the pair m, in line 8"),
        ("  - {name: m, capacity: 1Gi, folder: logs}\n", "8: pairs[0].folder: /data/logs overlaps /data/logs of the logs, in line 3"),
        ("  - {name: m, capacity: 1Gi, folder: logs/x}\n", "8: pairs[0].folder: /data/logs/x overlaps /data/logs of the logs, in line 3"),
        ("  - {name: m, capacity: 1Gi, servers: [a, c]}\n", "8: pairs[0].servers[1]: unknown server: c"),
        ("  - {name: m, capacity: 1Gi, servers: [a, a]}\n", "8: pairs[0].servers[1]: a pair has two different servers"),
        ("  - {name: m, capacity: 1Gi, servers: [a]}\n", "8: pairs[0].servers: expected two servers"),
        ("  - {name: m, capacity: 1Gi, schedules: {a-to-b: '* * *'}}\n", "8: pairs[0].schedules.a-to-b: a schedule has 5 fields like */15 * * * *, this one has 3"),
        ("  - {name: m, capacity: 1Gi, schedules: {a-to-b: '0 24 * * *'}}\n", "8: pairs[0].schedules.a-to-b: hour: \"24\" is not from 0 to 23"),
        ("  - {name: m, capacity: 1Gi, schedules: {a-to-b: '7,22,37,52 * * * *'}}\n", "8: pairs[0].schedules: both directions start at the same time; they share a lock, so one of them would never run"),
        ("  - {name: m, capacity: 1Gi, schedules: {a-to-c: '@daily'}}\n", "8: pairs[0].schedules.a-to-c: no direction of this pair; there is a-to-b and b-to-a"),
        ("  - {name: m, capacity: 1Gi, delete: {a-to-b: yes}}\n", "8: pairs[0].delete.a-to-b: expected off, on or strict: \"yes\""),
        ("  - {name: m, capacity: 1Gi, mode: two-way, delete: {a-to-b: on}}\n", "8: pairs[0].delete: a two-way job knows by itself what was deleted; remove this field"),
        ("  - {name: m, capacity: 1Gi, mode: two-way, shards: 2}\n", "8: pairs[0].shards: a two-way job has no shards"),
        ("  - {name: m, capacity: 1Gi, shards: 65}\n", "8: pairs[0].shards: expected a number from 1 to 64"),
        ("  - {name: m, capacity: 1Gi, shards: '2'}\n", "8: pairs[0].shards: expected a number from 1 to 64"),
        ("  - {name: m, capacity: 5}\n", "8: pairs[0].capacity: expected a text, which a number is when it is in quotes: \"5\""),
        ("  - {name: m, capacity: [1Gi]}\n", "8: pairs[0].capacity: expected a single value"),
        ("  - {name: m, capacity: }\n", "8: pairs[0].capacity: has no value"),
        ("  - {name: m, capacity: 999999999Pi}\n", "8: pairs[0].capacity: larger than Kubernetes can count: \"999999999Pi\""),
        ("  - {name: m-0, capacity: 1Gi}\n  - {name: m, capacity: 1Gi, shards: 2}\n", "9: pairs[1].name: Lease ha-sync-m-0 would be the name of an object of line 8 too"),
        ("  - {name: m, capacity: 1Gi, schedules: {b-to-a: '0,15,30,45 * * * *'}}\n", "8: pairs[0].schedules: both directions start at the same time; they share a lock, so one of them would never run"),
        ("  - {name: m, capacity: 1Gi, schedules: {b-to-a: '0 0 31 2 *'}}\n", "8: pairs[0].schedules.b-to-a: there is no such day in any year: \"0 0 31 2 *\""),
        ("  - {name: m, capacity: 1Gi, delete: {a-to-b: strict, b-to-a: strict}}\n", "8: pairs[0].delete: strict in both directions: each would delete what is new on the other side; take on for one"),
        ("  - m\n", "8: pairs[0]: expected fields like `name: …`"),
        ("  m: 1\n", "7: pairs: expected a list"),
        ("  []\n", "7: pairs: expected at least one pair"),
        ("  - {name: m, capacity: 1Gi, deleet: {}}\n", "8: pairs[0].deleet: unknown field; did you mean delete?"),
    ]
    .map(|(pairs, expected)| (with_pairs(pairs), expected.to_owned()))
    .into_iter()
    .chain([
        (
            with_pairs(&format!("  - {{name: {long}, capacity: 1Gi}}\n")),
            format!("8: pairs[0].name: too long: ha-sync-{long}-a-to-b would have 57 characters, the limit is 52"),
        ),
        (String::new(), "1: the inventory is empty".to_owned()),
        ("- a\n".to_owned(), "1: expected fields like `namespace: …`".to_owned()),
        (format!("{SERVERS}---\nb: 1\n"), "7: a second document begins here; an inventory is one".to_owned()),
        ("a: &x 1\nb: *x\n".to_owned(), "2: aliases are not read here: write the value again".to_owned()),
        ("a: [1\nb: 2\n".to_owned(), "2: this is not YAML".to_owned()),
        ("? [1]\n: 2\n".to_owned(), "1: a key must be a word".to_owned()),
        ("[".repeat(100), "1: nested deeper than 32 levels".to_owned()),
    ])
    .collect();
    for (text, expected) in table {
        let told = problems(&text);
        let told: Vec<_> = told.lines().collect();
        assert!(told.iter().any(|line| line.starts_with(&*expected)), "{expected}\n  in {told:#?}\n  of {text}");
        if text.starts_with(SERVERS) && !text.contains(&"x".repeat(42)) {
            assert!(told.iter().filter(|line| !line.contains("overlaps")).count() <= 1, "{told:#?}\n{text}");
        }
    }
}

#[test]
fn names_of_objects_that_would_be_the_same() {
    let text = plan().replace("name: dell", "name: ha").replace("name: photos", "name: sync-logs");
    assert_eq!(
        problems(&text),
        "23: pairs[1].name: pv-ha-sync-logs is the name of the logs' volume; take another one\n"
    );
}

/// Whatever is typed, the answer is an inventory or at least one problem; never a panic.
#[test]
fn no_byte_of_an_inventory_makes_it_panic() {
    let text = plan();
    for (at, character) in text.char_indices() {
        for new in ["", "\0", ":", "- ", "'", "{", "\n", "ä", "&a "] {
            let changed = format!("{}{new}{}", &text[..at], &text[at + character.len_utf8()..]);
            if let Err(problems) = read(&changed) {
                assert!(!problems.is_empty() && problems.iter().all(|problem| problem.line > 0), "{changed}");
            }
        }
    }
}

#[test]
fn what_cannot_be_placed_is_looked_at_all_the_same() {
    let pair = "  - {name: m, capacity: 1Gi, servers: [a, nope], schedules: {x: '99 * * * *'}, delete: {y: maybe}, folders: {z: ../x}}\n  \
        - {name: n, capacity: 1Gi, mode: both, schedules: {a-to-b: '99 * * * *'}}\n";
    insta::assert_snapshot!(problems(&with_pairs(pair)), @r#"
    8: pairs[0].delete.y: expected off, on or strict: "maybe"
    8: pairs[0].folders.z: expected a folder below the export root like photos/2026, or an absolute path: "../x"
    8: pairs[0].schedules.x: minute: "99" is not from 0 to 59
    8: pairs[0].servers[1]: unknown server: nope
    9: pairs[1].mode: expected one-way or two-way: "both"
    9: pairs[1].schedules.a-to-b: minute: "99" is not from 0 to 59
    "#);
}

#[test]
fn names_of_the_pods_own_volumes_are_no_servers() {
    for name in ["logs", "tmp", "lock"] {
        let text = with_pairs("  - {name: m, capacity: 1Gi}\n").replace("name: b,", &format!("name: {name},"));
        let expected = "6: servers[1].name: the pods have a volume of this name already; take another one\n";
        assert_eq!(problems(&text), expected);
    }
}
