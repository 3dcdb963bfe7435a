//! The list of what is inside the binaries (CycloneDX 1.5), made from what cargo says and from `Cargo.lock`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// Says what is missing in cargo's answer.
#[derive(Debug, thiserror::Error)]
#[error("cargo metadata has no {0}")]
pub struct SbomError(&'static str);

/// Makes the list from the output of `cargo metadata --format-version 1 --filter-platform …`: the packages that the
/// named ones are built from and with, without what only their tests need.
pub fn sbom(metadata: &Value, lock: &str, programs: &[&str], version: &str) -> Result<Value, SbomError> {
    let packages = metadata["packages"].as_array().ok_or(SbomError("packages"))?;
    let nodes = metadata["resolve"]["nodes"].as_array().ok_or(SbomError("nodes"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, &Value> = packages.iter().map(|package| (text(&package["id"]), package)).collect();
    let needs: BTreeMap<String, Vec<String>> =
        nodes.iter().map(|node| (text(&node["id"]), dependencies(node))).collect();
    let is_program = |package: &&Value| programs.contains(&package["name"].as_str().unwrap_or_default());
    let mut waiting: Vec<String> =
        packages.values().filter(|package| is_program(package)).map(|package| text(&package["id"])).collect();
    if waiting.len() != programs.len() {
        return Err(SbomError("package for every program"));
    }
    let mut inside = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if inside.insert(id.clone()) {
            waiting.extend(needs.get(&id).into_iter().flatten().cloned());
        }
    }
    let reference = |id: &String| {
        let package = packages.get(id);
        let (name, version) =
            package.map_or((id.clone(), String::new()), |package| (text(&package["name"]), text(&package["version"])));
        format!("pkg:cargo/{name}@{version}")
    };
    let checksums = checksums(lock);
    let mut components = BTreeMap::new();
    let mut edges = BTreeMap::new();
    for id in &inside {
        let package = packages.get(id).ok_or(SbomError("package of a dependency"))?;
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        let purl = reference(id);
        let mut component = json!({
            "bom-ref": purl, "name": name, "purl": purl, "type": "library", "version": version,
        });
        if let Some(licence) = package["license"].as_str() {
            // The slash is an older way to say OR.
            component["licenses"] = json!([{"expression": licence.replace('/', " OR ").replace("  ", " ")}]);
        }
        if let Some(checksum) = checksums.get(&(name.clone(), version.clone())) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        let below: BTreeSet<_> = needs.get(id).into_iter().flatten().map(reference).collect();
        edges.insert(purl.clone(), json!({"dependsOn": below, "ref": purl}));
        components.insert(purl, component);
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": edges.into_values().collect::<Vec<_>>(),
        "metadata": {"component": {"bom-ref": "ha-sync", "name": "ha-sync", "type": "application", "version": version}},
        "specVersion": "1.5",
        "version": 1,
    }))
}

/// Returns what a package is built from and with: normal and build dependencies.
fn dependencies(node: &Value) -> Vec<String> {
    let is_built = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
    };
    let all = node["deps"].as_array().into_iter().flatten();
    all.filter(is_built).filter_map(|dependency| dependency["pkg"].as_str().map(str::to_owned)).collect()
}

/// Returns the checksums of `Cargo.lock` by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut checksums = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let mut lines = package.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(checksum)) = (field("name"), field("version"), field("checksum")) {
            checksums.insert((name.to_owned(), version.to_owned()), checksum.to_owned());
        }
    }
    checksums
}
