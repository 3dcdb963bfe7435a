//! The API: what it says, and that its document says the same.

use ha_sync_core::record::{OperationKind, Status, Way};
use serde_json::{Value, json};

use crate::ground::{Dashboard, Ground, Run, on_both};

on_both! {
    pairs_tell_real_runs_and_dry_runs_apart,
    lists_go_on_where_they_were_cut,
    operations_are_filtered,
    the_history_of_a_path_has_its_trash,
    paths_that_begin_with_a_text,
    paths_that_are_alike_for_longer_than_an_index_has_them,
    every_answer_is_as_the_document_says,
}

fn pairs_tell_real_runs_and_dry_runs_apart(place: &Ground) {
    for ago in [65, 50, 35, 20] {
        place.record(&Run::new("media", ago));
    }
    let last = place.record(&Run::new("media", 5).with(OperationKind::Create, "a"));
    let dry = place.record(&Run { dry_run: true, ..Run::new("media", 1).with(OperationKind::Delete, "a") });
    place.record(&Run { direction: "b-to-a", status: Status::Failed, error: Some("halted"), ..Run::new("media", 3) });
    let pairs = place.dashboard().json("/api/pairs");
    assert_eq!(pairs["pairs"].as_array().unwrap().len(), 1);
    let media = &pairs["pairs"][0];
    assert_eq!((&media["sync_pair"], &media["health"]), (&json!("media"), &json!("failed")));
    let there = &media["directions"][0];
    assert_eq!((&there["direction"], &there["health"]), (&json!("a-to-b"), &json!("good")));
    assert_eq!(there["last_run"]["run_id"], json!(last.as_str()));
    assert_eq!(there["last_run"]["files_created"], 1);
    assert_eq!(there["last_run"]["total_bytes_transferred"], 2048);
    assert_eq!(there["last_run"]["duration_seconds"], 1.5);
    assert_eq!(there["last_dry_run"]["run_id"], json!(dry.as_str()));
    assert_eq!(there["interval_seconds"], 900);
    assert!(there["next_expected_at"].as_str().unwrap() > there["last_run"]["started_at"].as_str().unwrap());
    let back = &media["directions"][1];
    assert_eq!((&back["health"], &back["last_success_at"]), (&json!("failed"), &Value::Null));
    assert_eq!(back["last_run"]["error_message"], "halted");
}

fn lists_go_on_where_they_were_cut(place: &Ground) {
    for ago in (1..=7).rev() {
        place.record(&Run::new("media", ago));
        place.record(&Run { dry_run: true, ..Run::new("media", ago) });
        place.record(&Run::new("photos", ago));
    }
    let dashboard = place.dashboard();
    let all = |query: &str| {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = dashboard.json(&format!("/api/iterations?limit=2&{query}{cursor}"));
            let rows = page["iterations"].as_array().unwrap();
            assert!(rows.len() <= 2);
            found.extend(rows.iter().map(|row| row["id"].as_i64().unwrap()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    };
    for (query, count) in
        [("pair=media", 7), ("pair=media&dry_run=true", 7), ("dry_run=any", 21), ("", 14), ("pair=x", 0)]
    {
        let found = all(query);
        assert_eq!(found.len(), count, "{query}");
        let unique: std::collections::BTreeSet<_> = found.iter().collect();
        assert_eq!(unique.len(), count, "{query}: {found:?}");
    }
    assert!(all("pair=media").is_sorted_by(|one, other| one > other), "newest first");
}

fn mixed(place: &Ground) -> String {
    let mut run = Run::new("media", 5);
    for number in 0..40 {
        let path = format!("dir/{number:02} {}", if number % 2 == 0 { "50%_Off" } else { "plain" });
        run = match number % 4 {
            0 => run.failing(OperationKind::Create, &path, "permission denied", None),
            1 => run.with(OperationKind::Create, &path),
            2 => run.with(OperationKind::Update, &path),
            _ => run.with(OperationKind::Delete, &path),
        };
    }
    place.record(&run).to_string()
}

fn operations_are_filtered(place: &Ground) {
    let run = mixed(place);
    let dashboard = place.dashboard();
    let count = |query: &str| {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = dashboard.json(&format!("/api/operations?iteration_id={run}&limit=7&{query}{cursor}"));
            rows.extend(page["operations"].as_array().unwrap().iter().map(|row| row["seq"].as_i64().unwrap()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert!(rows.is_sorted_by(|one, other| one < other), "{query}: {rows:?}");
        rows.len()
    };
    for (query, expected) in [
        ("", 40),
        ("status=fail", 10),
        ("status=success", 30),
        ("operation=create", 20),
        ("operation=create&status=success", 10),
        ("operation=delete&status=fail", 0),
        ("path=PLAIN", 20),
        ("path=50%25_o", 20),
        ("path=50%25xo", 0),
        ("path=%25", 20),
        ("path=dir/0", 10),
        ("path=off&operation=update", 10),
    ] {
        assert_eq!(count(query), expected, "{query}");
    }
    let id = dashboard.json("/api/iterations")["iterations"][0]["id"].to_string();
    let by_row = dashboard.json(&format!("/api/operations?iteration_id={id}&limit=500"));
    assert_eq!(by_row["operations"].as_array().unwrap().len(), 40);
    assert_eq!(by_row["next_cursor"], Value::Null);
}

fn the_history_of_a_path_has_its_trash(place: &Ground) {
    let name = "it's a \u{202e}.jpg";
    place.record(&Run::new("media", 50).with(OperationKind::Create, name));
    place.record(&Run::new("photos", 40).with(OperationKind::Create, name));
    let updated = place.record(&Run::new("media", 30).with(OperationKind::Update, name));
    place.record(&Run { dry_run: true, ..Run::new("media", 20).with(OperationKind::Delete, name) });
    let deleted =
        place.record(&Run::new("media", 10).with(OperationKind::Delete, name).with(OperationKind::Create, "x"));
    let dashboard = place.dashboard();
    let path = "it%27s+a+%E2%80%AE.jpg";
    let history = dashboard.json(&format!("/api/history?path={path}"));
    let rows = history["history"].as_array().unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            let run = &row["iteration"];
            (
                row["operation"]["operation"].as_str().unwrap(),
                run["sync_pair"].as_str().unwrap(),
                !row["trash_entry"].is_null(),
            )
        })
        .collect();
    let expected = [
        ("delete", "media", true),
        ("delete", "media", false),
        ("update", "media", true),
        ("create", "photos", false),
        ("create", "media", false),
    ];
    assert_eq!(seen, expected);
    assert_eq!(rows[0]["trash_entry"], format!("/mnt/b/media/.ha-sync/trash/{deleted}/{name}"));
    let command = format!(r"ha-sync restore --root /mnt/b/media --run {updated} $'it\'s a \342\200\256.jpg'");
    assert_eq!(rows[2]["restore_command"], command);
    let mut both_ways = Run { direction: "two-way", ..Run::new("docs", 1) }
        .with(OperationKind::Delete, "letter")
        .with(OperationKind::Delete, "note");
    both_ways.operations[0].direction = Some(Way::BToA);
    both_ways.operations[1].direction = Some(Way::AToB);
    let run = place.record(&both_ways);
    for (path, root, way) in [("letter", "/mnt/a/docs", "b-to-a"), ("note", "/mnt/b/docs", "a-to-b")] {
        let row = dashboard.json(&format!("/api/history?path={path}"))["history"][0].clone();
        assert_eq!(row["restore_command"], format!("ha-sync restore --root {root} --run {run} {path}"));
        assert_eq!(row["operation"]["direction"], way);
    }
    let first = dashboard.json(&format!("/api/history?path={path}&limit=2"));
    let next = first["next_cursor"].as_str().unwrap();
    let rest = dashboard.json(&format!("/api/history?path={path}&cursor={next}"));
    assert_eq!(rest["history"].as_array().unwrap().len(), 3);
}

fn paths_that_begin_with_a_text(place: &Ground) {
    let mut run = Run::new("media", 10);
    for name in ["a/1", "a/2", "a/2", "a0", "A/3", "a/\u{10ffff}", "b", "a/ü"] {
        run = run.with(OperationKind::Update, name);
    }
    for _ in 0..30 {
        run = run.with(OperationKind::Update, "a/1");
    }
    place.record(&run);
    let dashboard = place.dashboard();
    let all = |prefix: &str, limit: u32| {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = dashboard.json(&format!("/api/paths?prefix={prefix}&limit={limit}{cursor}"));
            found.extend(page["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(next) => {
                    let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
                    cursor = format!("&cursor={next}");
                }
                None => return found,
            }
        }
    };
    for limit in [1, 2, 100] {
        assert_eq!(all("a%2F", limit), ["a/1", "a/2", "a/ü", "a/\u{10ffff}"], "{limit}");
    }
    assert_eq!(all("", 3), ["A/3", "a/1", "a/2", "a/ü", "a/\u{10ffff}", "a0", "b"]);
    assert!(all("nothing", 3).is_empty());
}

/// The index of MySQL has 191 letters of a path: those with the same ones come in the order of their rows.
fn paths_that_are_alike_for_longer_than_an_index_has_them(place: &Ground) {
    let deep = format!("deep/{}", "ü".repeat(186));
    let mut names: Vec<String> = (0..40).map(|number| format!("{deep}{:02}", number * 7 % 40)).collect();
    // one that is no longer than what the index has, and others before and after them
    names.extend([deep.clone(), "deep/a".to_owned(), "deep/\u{10ffff}".to_owned(), format!("{deep}/z/{deep}")]);
    let mut run = Run::new("media", 10);
    for name in names.iter().rev().chain(&names) {
        run = run.with(OperationKind::Update, name);
    }
    place.record(&run);
    let dashboard = place.dashboard();
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    names.sort();
    for prefix in ["deep/", "", &deep, &format!("{deep}0"), &format!("{deep}2"), &format!("{deep}/z/{deep}")] {
        let expected: Vec<&String> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        for limit in [1, 2, 3, 7, 30, 500] {
            let (mut found, mut cursor, mut asked) = (Vec::new(), String::new(), 0);
            loop {
                let page = dashboard.json(&format!("/api/paths?prefix={}&limit={limit}{cursor}", encode(prefix)));
                found.extend(page["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()));
                asked += 1;
                assert!(asked < 100, "{prefix} {limit} goes on and on: {found:?}");
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={}", encode(next)),
                    None => break,
                }
            }
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{prefix} {limit}");
        }
    }
}

/// Asks for everything that the document has, and compares each answer with its schema.
fn every_answer_is_as_the_document_says(place: &Ground) {
    let run = mixed(place);
    place.record(&Run { dry_run: true, skips: &[("type conflict", 2)], ..Run::new("media", 4) });
    place.begin(&Run { direction: "b-to-a", ..Run::new("media", 1) });
    let dashboard = place.dashboard();
    let document = dashboard.json("/api/openapi.json");
    let mut compared = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let responses = &item["get"]["responses"];
        let schema = &responses["200"]["content"]["application/json"]["schema"];
        let target = path.replace("{name}", "media").replace("{id}", &run);
        let parameters = item["get"]["parameters"].as_array().unwrap();
        let value = |name: &str| match name {
            "iteration_id" => run.clone(),
            "path" => "dir%2F00+50%25_Off".to_owned(),
            _ => String::new(),
        };
        let required: Vec<String> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "query" && parameter["required"] == true)
            .map(|parameter| parameter["name"].as_str().unwrap())
            .map(|name| format!("{name}={}", value(name)))
            .collect();
        let plain = format!("{target}?{}", required.join("&"));
        conforms(&document, schema, &dashboard.json(&plain), path);
        compared += 1;
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            let schema = &parameter["schema"];
            let values: Vec<String> = match (schema["enum"].as_array(), name) {
                (Some(words), _) => words.iter().map(|word| word.as_str().unwrap().to_owned()).collect(),
                (None, "limit") => vec![schema["minimum"].to_string(), schema["maximum"].to_string()],
                _ => Vec::new(),
            };
            for value in &values {
                conforms_to_200(&document, &dashboard, &format!("{plain}&{name}={value}"), &responses["200"]);
            }
            if !values.is_empty() {
                let above = schema["maximum"].as_i64().map_or("nonsense".to_owned(), |most| (most + 1).to_string());
                refused(&dashboard, &format!("{plain}&{name}={above}"), name);
            }
            if parameter["required"] == true {
                refused(&dashboard, &target, name);
            }
        }
        if path != "/api/openapi.json" {
            refused(&dashboard, &format!("{plain}&surprise=1"), "surprise");
        }
        if responses.get("404").is_some() {
            let unknown = plain.replace(&run, "20000101T000000Z-00000000").replace("/media", "/nobody");
            let answer = dashboard.get(&unknown);
            assert_eq!(answer.status, 404, "{unknown}");
            conforms(&document, &json!({"$ref": "#/components/schemas/Problem"}), &problem(&answer), path);
        }
    }
    assert_eq!(compared, 8);
}

fn conforms_to_200(document: &Value, dashboard: &Dashboard, target: &str, response: &Value) {
    conforms(document, &response["content"]["application/json"]["schema"], &dashboard.json(target), target);
}

fn refused(dashboard: &Dashboard, target: &str, parameter: &str) {
    let answer = dashboard.get(target);
    assert_eq!(answer.status, 400, "{target}: {}", answer.body);
    let detail = problem(&answer)["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(&format!("{parameter:?}")), "{target}: {detail}");
}

fn problem(answer: &crate::ground::Answer) -> Value {
    assert_eq!(answer.header("content-type"), "application/problem+json");
    serde_json::from_str(&answer.body).unwrap()
}

/// Compares a value with a schema, as far as this document uses JSON Schema; a keyword that is not known is a failure.
#[track_caller]
fn conforms(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    for keyword in schema.as_object().unwrap().keys() {
        let known = ["type", "anyOf", "properties", "required", "additionalProperties", "items", "enum", "format"];
        assert!(known.contains(&keyword.as_str()) || keyword == "description", "{place}: unknown keyword {keyword}");
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let chosen = any.iter().find(|schema| (schema["type"] == "null") == value.is_null()).unwrap();
        return conforms(document, chosen, value, place);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = |wanted: &Value| wanted == kind || (wanted == "number" && kind == "integer");
    let fits = schema["type"].as_array().map_or_else(|| allowed(&schema["type"]), |kinds| kinds.iter().any(allowed));
    assert!(fits, "{place}: {value} is no {}", schema["type"]);
    if let (Some(words), false) = (schema["enum"].as_array(), value.is_null()) {
        assert!(words.contains(value), "{place}: {value} is none of {words:?}");
    }
    if let (Some("date-time"), Some(text)) = (schema["format"].as_str(), value.as_str()) {
        assert!(text.parse::<jiff::Timestamp>().is_ok() && text.len() == 24 && text.ends_with('Z'), "{place}: {text}");
    }
    if let Value::Array(items) = value {
        for item in items {
            conforms(document, &schema["items"], item, place);
        }
    }
    if let (Value::Object(members), Some(properties)) = (value, schema["properties"].as_object()) {
        assert_eq!(schema["additionalProperties"], false, "{place}");
        let names: Vec<_> = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert!(names.iter().all(|name| members.contains_key(*name)), "{place}: {names:?} of {value}");
        for (name, member) in members {
            let schema = properties.get(name).unwrap_or_else(|| panic!("{place}: {name} is not in the document"));
            conforms(document, schema, member, &format!("{place} {name}"));
        }
    }
}
