//! Reads an inventory: every field, then what fields say together. All problems are told at once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::document::{self, Node, Value};
use crate::fields::{At, Object, Reader, nearest};
use crate::generate::OWN_VOLUMES;
use crate::inventory::{Dashboard, Database, Delete, Inventory, Job, JobKind, Pair, Server, Volume};
use crate::problem::Problem;
use crate::schedule::{self, Interval};
use crate::{shape, value};

/// Reads an inventory, or says everything that is wrong with it, in the order of the lines.
pub fn read(text: &str) -> Result<Inventory, Vec<Problem>> {
    let root = document::read(text).map_err(|problem| vec![problem])?;
    let mut reader = Reader::default();
    let inventory = whole(&mut reader, &root);
    match inventory {
        Some(inventory) if reader.problems.is_empty() => Ok(inventory),
        _ => {
            reader.problems.sort();
            Err(reader.problems)
        }
    }
}

/// Is a server as it was read; its name alone may be good.
struct RawServer {
    name: Option<At<String>>,
    address: Option<At<String>>,
    export: Option<At<String>>,
}

/// Is a folder on a server, with the place that names it.
struct Placed {
    owner: String,
    server: usize,
    at: At<String>,
}

fn whole(reader: &mut Reader, root: &Node) -> Option<Inventory> {
    let object = reader.object(root, "", &shape::INVENTORY)?;
    let namespace = reader.text(&object, "namespace", value::label);
    let image = reader.text(&object, "image", value::image);
    let check_access = reader.text(&object, "checkAccess", value::below);
    let interval = reader.text(&object, "interval", Interval::parse);
    let deadline = reader.text(&object, "deadline", deadline);
    let keep_records = reader.text(&object, "keepRecords", age);
    let servers = servers(reader, &object);
    let mut placed = Vec::new();
    let logs = object.get("logs").and_then(|node| logs(reader, node, &servers, &mut placed));
    let database = match object.get("database") {
        Some(node) => database(reader, node),
        None => database(reader, &Node { value: Value::Map(Vec::new()), line: object.line }),
    };
    let dashboard = object.get("dashboard").map(|node| dashboard(reader, node));
    let interval = interval.map_or(Interval::DEFAULT, |at| at.value);
    let mut pairs = Vec::new();
    few(reader, &object, "servers", 2, "at least two servers");
    few(reader, &object, "pairs", 1, "at least one pair");
    for (path, node) in reader.items(&object, "pairs") {
        if let Some(object) = reader.object(node, &path, &shape::PAIR) {
            pairs.push(pair(reader, &object, &servers, interval, &mut placed));
        }
    }
    overlaps(reader, &servers, &placed);
    names(reader, &servers, &pairs);
    let servers: Option<Vec<_>> = servers
        .into_iter()
        .map(|server| Some(Server { name: server.name?.value, address: server.address?.value }))
        .collect();
    let pairs: Option<Vec<_>> = pairs.into_iter().map(|raw| raw.pair).collect();
    let (mut pairs, logs) = (pairs?, logs?);
    let servers = servers?;
    for pair in &mut pairs {
        let within = |side: &&Volume| servers[side.server].address == servers[logs.server].address;
        let inside = pair.sides.iter().filter(within).find_map(|side| below(&logs.path, &side.path));
        pair.logs_inside = inside.filter(|rest| !rest.is_empty()).map(str::to_owned);
    }
    Some(Inventory {
        namespace: namespace?.value,
        image: image?.value,
        servers,
        pairs,
        logs,
        database: database?,
        dashboard: match dashboard {
            Some(dashboard) => Some(dashboard?),
            None => None,
        },
        check_access: check_access?.value,
        deadline: deadline?.value,
        keep_records: keep_records?.value,
    })
}

fn few(reader: &mut Reader, object: &Object<'_>, name: &str, least: usize, what: &str) {
    if let Some(Node { value: Value::List(items), .. }) = object.get(name)
        && items.len() < least
    {
        reader.refuse(&object.at(name), &format!("expected {what}"));
    }
}

fn deadline(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time like 30m, 24h or 3d, from 5m to 30d".to_owned();
    let time = schedule::duration(text).ok_or_else(expected)?;
    let sane = Duration::from_secs(300)..=Duration::from_secs(30 * 86400);
    if sane.contains(&time) { Ok(time) } else { Err(expected()) }
}

fn age(text: &str) -> Result<String, String> {
    let day = Duration::from_secs(86400);
    match schedule::duration(text) {
        Some(age) if age >= day => Ok(text.to_owned()),
        _ => Err("expected an age of a day or more, like 30d".to_owned()),
    }
}

fn servers(reader: &mut Reader, object: &Object<'_>) -> Vec<RawServer> {
    let mut servers: Vec<RawServer> = Vec::new();
    for (path, node) in reader.items(object, "servers") {
        let Some(object) = reader.object(node, &path, &shape::SERVER) else { continue };
        let name = reader.text(&object, "name", value::label);
        if let Some(name) = &name {
            let known = servers.iter().filter_map(|server| server.name.as_ref()).find(|at| at.value == name.value);
            if let Some(first) = known {
                reader.refuse(name, &format!("a server with this name is in line {} already", first.line));
            }
            if OWN_VOLUMES.contains(&name.value.as_str()) {
                reader.refuse(name, "the pods have a volume of this name already; take another one");
            }
        }
        let address = reader.text(&object, "address", value::address);
        let export = reader.text(&object, "export", value::absolute);
        servers.push(RawServer { name, address, export });
    }
    servers
}

/// Returns the index of a server by its name, or says that there is none.
fn server(reader: &mut Reader, servers: &[RawServer], name: &At<String>) -> Option<usize> {
    let names = || servers.iter().filter_map(|server| server.name.as_ref()).map(|at| at.value.as_str());
    let found = servers.iter().position(|server| server.name.as_ref().is_some_and(|at| at.value == name.value));
    if found.is_none() {
        let near = nearest(&name.value, names()).map_or_else(String::new, |name| format!("; did you mean {name}?"));
        reader.refuse(name, &format!("unknown server: {}{near}", name.value));
    }
    found
}

/// Returns the absolute path of a folder that may be relative to the export root.
fn placed(servers: &[RawServer], server: usize, folder: &At<String>) -> Option<At<String>> {
    let export = &servers[server].export.as_ref()?.value;
    let value = match folder.value.starts_with('/') {
        true => folder.value.clone(),
        false => format!("{}/{}", export.trim_end_matches('/'), folder.value),
    };
    Some(At { value, line: folder.line, field: folder.field.clone() })
}

fn logs(reader: &mut Reader, node: &Node, servers: &[RawServer], all: &mut Vec<Placed>) -> Option<Volume> {
    let object = reader.object(node, "logs", &shape::LOGS)?;
    let name = reader.text(&object, "server", value::label);
    let folder = reader.text(&object, "folder", value::folder);
    let capacity = reader.text(&object, "capacity", value::capacity);
    let server = server(reader, servers, &name?)?;
    let at = placed(servers, server, &folder?)?;
    let path = at.value.clone();
    all.push(Placed { owner: String::new(), server, at });
    Some(Volume { server, path, capacity: capacity?.value })
}

fn database(reader: &mut Reader, node: &Node) -> Option<Database> {
    let object = reader.object(node, "database", &shape::DATABASE)?;
    let secret = reader.text(&object, "secret", value::host);
    let key = reader.text(&object, "key", value::variable);
    let host = object.get("host").map(|_| reader.text(&object, "host", value::address));
    let port = reader.number(&object, "port");
    let name = reader.text(&object, "name", value::database);
    let host = match host {
        Some(host) => Some(host?.value),
        None => None,
    };
    Some(Database { secret: secret?.value, key: key?.value, host, port: port?.value, name: name?.value })
}

fn dashboard(reader: &mut Reader, node: &Node) -> Option<Dashboard> {
    let object = reader.object(node, "dashboard", &shape::DASHBOARD)?;
    let host = reader.text(&object, "host", value::host);
    let login = object.get("login").map(|_| reader.text(&object, "login", value::host));
    let class = object.get("ingressClass").map(|_| reader.text(&object, "ingressClass", value::host));
    let issuer = reader.text(&object, "issuer", value::host);
    let ingress_class = match class {
        Some(class) => Some(class?.value),
        None => None,
    };
    let login = match login {
        Some(login) => Some(login?.value),
        None => None,
    };
    Some(Dashboard { host: host?.value, login, ingress_class, issuer: issuer?.value })
}

/// Is a pair as it was read: what is needed to compare it with the others, and itself when all of it is good.
struct RawPair {
    name: Option<At<String>>,
    sides: Option<[usize; 2]>,
    directions: Vec<String>,
    shards: u32,
    pair: Option<Pair>,
}

fn pair(
    reader: &mut Reader,
    object: &Object<'_>,
    servers: &[RawServer],
    interval: Interval,
    all: &mut Vec<Placed>,
) -> RawPair {
    let name = reader.text(object, "name", value::pair);
    let capacity = reader.text(object, "capacity", value::capacity);
    let own = object.get("interval").map(|_| reader.text(object, "interval", Interval::parse));
    let two_way = reader.text(object, "mode", |text| match text {
        "one-way" => Ok(false),
        "two-way" => Ok(true),
        _ => Err(format!("expected one-way or two-way: {text:?}")),
    });
    let shards = reader.number(object, "shards");
    let sides = sides(reader, object, servers);
    let label = |side: usize| servers[side].name.as_ref().map(|at| at.value.clone());
    let labels = sides.and_then(|[one, other]| Some([label(one)?, label(other)?]));
    let folders = folders(reader, object, name.as_ref(), labels.as_ref());
    let directions = match (&labels, &two_way) {
        (Some(_), Some(At { value: true, .. })) => vec!["two-way".to_owned()],
        (Some([one, other]), Some(_)) => vec![format!("{one}-to-{other}"), format!("{other}-to-{one}")],
        _ => Vec::new(),
    };
    if let (Some(At { value: true, .. }), Some(At { value: 2.., .. })) = (&two_way, &shards) {
        reader.refuse(&object.at("shards"), "a two-way job has no shards");
    }
    let jobs = jobs(reader, object, &directions, own.flatten().map_or(interval, |at| at.value));
    let volumes = sides.zip(folders).and_then(|(sides, folders)| {
        let mut volumes = Vec::new();
        for (server, folder) in sides.into_iter().zip(folders) {
            let at = placed(servers, server, &folder?)?;
            volumes.push(Volume { server, path: at.value.clone(), capacity: capacity.as_ref()?.value.clone() });
            let owner = name.as_ref().map_or_else(|| object.path.clone(), |name| name.value.clone());
            all.push(Placed { owner, server, at });
        }
        <[Volume; 2]>::try_from(volumes).ok()
    });
    let pair = || {
        Some(Pair {
            name: name.as_ref()?.value.clone(),
            sides: volumes?,
            jobs: jobs?,
            shards: shards.as_ref()?.value,
            logs_inside: None,
        })
    };
    let pair = pair();
    RawPair { name, sides, directions, shards: shards.map_or(1, |at| at.value), pair }
}

/// Returns the two servers of a pair.
fn sides(reader: &mut Reader, object: &Object<'_>, servers: &[RawServer]) -> Option<[usize; 2]> {
    if object.get("servers").is_none() {
        if servers.len() != 2 {
            reader.refuse(&object.at("servers"), "is missing: needed where the inventory has not exactly two servers");
            return None;
        }
        return Some([0, 1]);
    }
    let names = reader.texts(object, "servers");
    let found: Vec<_> = names.iter().filter_map(|name| server(reader, servers, name)).collect();
    match (&*names, &*found) {
        ([_, second], &[one, other]) if one == other => {
            reader.refuse(second, "a pair has two different servers");
            None
        }
        ([_, _], &[one, other]) => Some([one, other]),
        ([_, _], _) => None,
        _ => {
            reader.refuse(&object.at("servers"), "expected two servers");
            None
        }
    }
}

/// Returns the folders of both sides.
fn folders(
    reader: &mut Reader,
    object: &Object<'_>,
    name: Option<&At<String>>,
    labels: Option<&[String; 2]>,
) -> Option<[Option<At<String>>; 2]> {
    let common = match object.get("folder") {
        Some(_) => reader.text(object, "folder", value::folder),
        None => name.cloned(),
    };
    let known = labels.map_or(&[][..], |labels| &labels[..]);
    let own = reader.each(object, "folders", known, "server", value::folder);
    Some(labels?.each_ref().map(|label| own.get(label).cloned().or_else(|| common.clone())))
}

fn jobs(reader: &mut Reader, object: &Object<'_>, directions: &[String], interval: Interval) -> Option<Vec<Job>> {
    let schedules = reader.each(object, "schedules", directions, "direction", schedule::cron);
    let mut deletes = BTreeMap::new();
    if let [_] = directions {
        if object.get("delete").is_some() {
            reader.refuse(&object.at("delete"), "a two-way job knows by itself what was deleted; remove this field");
        }
    } else {
        deletes = reader.each(object, "delete", directions, "direction", |text| match text {
            "off" | "false" => Ok(Delete::Off),
            "on" | "true" => Ok(Delete::On),
            "strict" => Ok(Delete::Strict),
            _ => Err(format!("expected off, on or strict: {text:?}")),
        });
    }
    if directions.is_empty() {
        return None;
    }
    if deletes.values().filter(|own| own.value == Delete::Strict).count() == 2 {
        let message = "strict in both directions: each would delete what is new on the other side; take on for one";
        reader.refuse(&object.at("delete"), message);
    }
    let automatic = [interval.first(), interval.second()];
    let line =
        |at: usize| schedules.get(&directions[at]).map_or_else(|| automatic[at].clone(), |own| own.value.clone());
    if directions.len() == 2 && schedule::same(&line(0), &line(1)) {
        let message = "both directions start at the same time; they share a lock, so one of them would never run";
        reader.refuse(&object.at("schedules"), message);
    }
    let job = |(at, direction): (usize, &String)| {
        let delete = deletes.get(direction).map_or(Delete::Off, |own| own.value);
        let kind = if directions.len() == 1 { JobKind::TwoWay } else { JobKind::OneWay { from: at, delete } };
        Job { direction: direction.clone(), schedule: line(at), kind }
    };
    Some(directions.iter().enumerate().map(job).collect())
}

/// Says which folders of one server lie in each other: two jobs would work in one tree under different locks.
fn overlaps(reader: &mut Reader, servers: &[RawServer], placed: &[Placed]) {
    let address = |at: &Placed| servers[at.server].address.as_ref().map(|at| at.value.as_str());
    for (number, later) in placed.iter().enumerate() {
        for earlier in &placed[..number] {
            if address(later).is_none() || address(later) != address(earlier) {
                continue;
            }
            let inside = below(&later.at.value, &earlier.at.value).is_some();
            let around = below(&earlier.at.value, &later.at.value);
            // The logs come first. They may lie inside of a pair, whose jobs leave them out.
            if earlier.owner.is_empty() && !inside && around.is_some() {
                continue;
            }
            if inside || around.is_some() {
                let (path, line) = (&earlier.at.value, earlier.at.line);
                let what = match &*earlier.owner {
                    "" => "the logs".to_owned(),
                    owner if owner == later.owner => "this pair's other side".to_owned(),
                    owner => format!("the pair {owner}"),
                };
                let message = format!("{} overlaps {path} of {what}, in line {line}", later.at.value);
                reader.refuse(&later.at, &message);
            }
        }
    }
}

/// Returns the rest of a path below another one, empty when they are equal.
fn below<'path>(path: &'path str, root: &str) -> Option<&'path str> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// Says which objects would have the same name, or one that Kubernetes refuses.
fn names(reader: &mut Reader, servers: &[RawServer], pairs: &[RawPair]) {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    taken.insert("pv-ha-sync-logs".to_owned(), 0);
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for raw in pairs {
        let Some(name) = &raw.name else { continue };
        if let Some(line) = known.get(name.value.as_str()) {
            reader.refuse(name, &format!("a pair with this name is in line {line} already"));
            continue;
        }
        known.insert(&name.value, name.line);
        let mut objects = Vec::new();
        let labels = raw.sides.into_iter().flatten().filter_map(|side| servers[side].name.as_ref());
        objects.extend(labels.map(|server| (format!("pv-{}-{}", server.value, name.value), 63)));
        // The controller puts 11 characters behind a CronJob's name.
        objects.extend(raw.directions.iter().map(|direction| (format!("ha-sync-{}-{direction}", name.value), 52)));
        let lease = |shard: u32| (format!("Lease ha-sync-{}-{shard}", name.value), 63 + "Lease ".len());
        match raw.shards {
            1 => objects.push((format!("Lease ha-sync-{}", name.value), 63 + "Lease ".len())),
            shards => objects.extend((0..shards).map(lease)),
        }
        for (object, longest) in objects {
            if object.len() > longest {
                let length = object.len();
                reader.refuse(
                    name,
                    &format!("too long: {object} would have {length} characters, the limit is {longest}"),
                );
            }
            match taken.get(&object) {
                Some(0) => reader.refuse(name, &format!("{object} is the name of the logs' volume; take another one")),
                Some(line) => {
                    reader.refuse(name, &format!("{object} would be the name of an object of line {line} too"));
                }
                None => {
                    taken.insert(object, name.line);
                }
            }
        }
    }
}
