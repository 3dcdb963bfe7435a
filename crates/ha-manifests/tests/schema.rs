//! The published schema and the reader say the same, as far as a schema can: checked by a validator that is not ours.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test may read the project's files and say why it is skipped"
)]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ha_manifests::{read, schema};

/// Reads JSON of a schema and of YAML texts; prints a line per text: `valid`, or what is wrong.
const VALIDATOR: &str = "
import json, sys, jsonschema, yaml
given = json.load(sys.stdin)
schema = json.loads(given['schema'])
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for text in given['texts']:
    errors = sorted(validator.iter_errors(yaml.safe_load(text)), key=lambda error: list(map(str, error.path)))
    print(errors[0].message.replace(chr(10), ' ') if errors else 'valid')
";

/// Debian's Python, where Debian's packages are.
const PYTHON: &str = "/usr/bin/python3";

fn validate(texts: &[String]) -> Option<Vec<String>> {
    let there = Command::new(PYTHON).args(["-c", "import jsonschema, yaml"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        eprintln!("skipped: {PYTHON} has no jsonschema and yaml (Debian: python3-jsonschema python3-yaml)");
        return None;
    }
    let mut child =
        Command::new(PYTHON).args(["-c", VALIDATOR]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let given = serde_json::json!({"schema": schema(), "texts": texts});
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn the_example_and_its_variants_are_valid_and_bad_ones_are_not() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/inventory.yaml");
    let plan = std::fs::read_to_string(path).unwrap();
    let changed = |from: &str, to: &str| {
        let text = plan.replacen(from, to, 1);
        assert_ne!(text, plan, "{from}");
        text
    };
    let media = "    capacity: 2Ti\n";
    let pair = |more: &str| changed(media, &format!("{media}    {more}\n"));
    let good = [
        plan.clone(),
        pair("mode: two-way"),
        pair("shards: 4"),
        pair("delete: {dell-to-hp: on, hp-to-dell: off}"),
        pair("delete: {dell-to-hp: strict}"),
        pair("interval: 1h"),
        pair("schedules: {dell-to-hp: '0 3 * * *'}"),
        pair("folders: {hp: /srv/media}"),
        pair("servers: [hp, dell]"),
        changed("host: ha-sync", "ingressClass: nginx\n  issuer: own\n  host: ha-sync"),
        changed("interval: 15m", "deadline: 3d\nkeepRecords: 90d\ncheckAccess: .here"),
    ];
    let bad = [
        changed("namespace: infrastructure", "namespace: Infra"),
        changed("namespace: infrastructure\n", ""),
        changed("interval: 15m", "interval: soon"),
        changed("interval: 15m", "intervall: 15m"),
        changed("export: /data", "export: data"),
        changed(media, "    capacity: lots\n"),
        changed(media, "    capacity: 0Gi\n"),
        changed(media, "    capacity: 5\n"),
        changed("name: media", "name: my_media"),
        pair("mode: both"),
        pair("shards: 0"),
        pair("shards: '2'"),
        pair("delete: {dell-to-hp: maybe}"),
        pair("delete: on"),
        pair("schedules: {dell-to-hp: '* * *'}"),
        pair("servers: [dell]"),
        pair("colour: red"),
        changed("secret: ha-sync", "port: 70000\n  secret: ha-sync"),
    ];
    for text in &good {
        assert!(read(text).is_ok(), "{:?}\n{text}", read(text));
    }
    for text in &bad {
        assert!(read(text).is_err(), "{text}");
    }
    let all: Vec<_> = good.iter().chain(&bad).cloned().collect();
    let Some(told) = validate(&all) else { return };
    assert_eq!(told.len(), all.len());
    for (at, (told, text)) in told.iter().zip(&all).enumerate() {
        assert_eq!(told == "valid", at < good.len(), "{told}\n{text}");
    }
}
