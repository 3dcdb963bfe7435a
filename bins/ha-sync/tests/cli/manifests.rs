//! `ha-sync manifests`: writes, checks, refuses.
#![expect(clippy::disallowed_methods, reason = "a test may read and write files")]

use std::path::Path;

use crate::binary;

fn inventory() -> String {
    format!("{}/../../deploy/inventory.yaml", env!("CARGO_MANIFEST_DIR"))
}

/// Returns exit code, stdout and stderr, with the directory's name taken out.
fn manifests(top: &Path, words: &[&str]) -> (i32, String, String) {
    let output = binary().arg("manifests").args(words).output().unwrap();
    let told = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(top.to_str().unwrap(), "TOP");
    (output.status.code().unwrap(), told(output.stdout), told(output.stderr))
}

#[test]
fn a_folder_is_written_checked_and_mended() {
    let top = tempfile::tempdir().unwrap();
    let out = top.path().join("deploy");
    let out = out.to_str().unwrap();
    let words = ["--inventory", &inventory(), "--out", out];
    let check = [&words[..], &["--check"]].concat();

    assert_eq!(manifests(top.path(), &check).0, 1);
    let (code, told, _) = manifests(top.path(), &words);
    assert_eq!(code, 0);
    assert!(told.ends_with(" of them written\n") && told.contains("written: TOP/deploy/base/rbac.yaml\n"), "{told}");
    assert_eq!(manifests(top.path(), &check), (0, String::new(), String::new()));
    let again = manifests(top.path(), &words).1;
    assert!(again.lines().count() == 1 && again.ends_with(" 0 of them written\n"), "{again}");

    let at = |name: &str| top.path().join("deploy").join(name);
    let made = std::fs::read_to_string(at("base/rbac.yaml")).unwrap();
    std::fs::write(at("base/rbac.yaml"), made.replace("create", "'*'")).unwrap();
    std::fs::remove_file(at("base/pv-hp-ai.yaml")).unwrap();
    std::fs::write(at("base/pv-old.yaml"), made.lines().next().unwrap().to_owned() + "\n").unwrap();
    std::fs::write(at("base/mine.yaml"), "a: b\n").unwrap();
    std::fs::create_dir_all(at("overlays/mine")).unwrap();
    std::fs::write(at("overlays/mine/kustomization.yaml"), "resources: [../production]\n").unwrap();
    let (code, told, why) = manifests(top.path(), &check);
    assert_eq!(code, 1);
    insta::assert_snapshot!(told, @r"
    differs: TOP/deploy/base/rbac.yaml
    missing: TOP/deploy/base/pv-hp-ai.yaml
    extra: TOP/deploy/base/mine.yaml
    extra: TOP/deploy/base/pv-old.yaml
    ");
    assert!(why.starts_with("error: the folder is not what the inventory says: TOP/deploy\nhint: ha-sync manifests"));

    insta::assert_snapshot!(manifests(top.path(), &words).1.replace(char::is_numeric, "N"), @r"
    written: TOP/deploy/base/rbac.yaml
    written: TOP/deploy/base/pv-hp-ai.yaml
    left alone: TOP/deploy/base/mine.yaml
    removed: TOP/deploy/base/pv-old.yaml
    NN files, N of them written
    ");
    assert_eq!(std::fs::read_to_string(at("base/rbac.yaml")).unwrap(), made);
    assert!(at("base/mine.yaml").exists() && at("overlays/mine/kustomization.yaml").exists());
    let (_, extra, why) = manifests(top.path(), &check);
    assert_eq!(extra, "extra: TOP/deploy/base/mine.yaml\n");
    assert!(!why.contains("--inventory") && why.contains("mv 'TOP/deploy/base/mine.yaml' ~/"), "{why}");
}

#[test]
fn what_somebody_else_wrote_is_not_replaced() {
    let top = tempfile::tempdir().unwrap();
    let own = top.path().join("base/kustomization.yaml");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, "resources: [mine.yaml]\n").unwrap();
    let told = manifests(top.path(), &["--inventory", &inventory(), "--out", top.path().to_str().unwrap()]);
    assert_eq!((told.0, told.1.as_str()), (2, ""));
    insta::assert_snapshot!(told.2, @r"
    error: this file was not made by ha-sync manifests: TOP/base/kustomization.yaml
    hint: move it away: mv 'TOP/base/kustomization.yaml' 'TOP/base/kustomization.yaml.own'
    ");
    assert_eq!(std::fs::read_dir(own.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn every_problem_of_an_inventory_is_told_with_file_line_and_field() {
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("inventory.yaml");
    let good = std::fs::read_to_string(inventory()).unwrap();
    std::fs::write(&file, good.replace("capacity: 2Ti", "capacity: lots").replace("name: games", "nmae: games"))
        .unwrap();
    let out = top.path().join("out");
    let told = manifests(top.path(), &["--inventory", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!((told.0, told.1.as_str()), (2, ""));
    insta::assert_snapshot!(told.2, @r#"
    error: 3 problems in the inventory: TOP/inventory.yaml
    caused by: TOP/inventory.yaml:22: pairs[0].capacity: expected a size like 500Gi or 2Ti: "lots"
    caused by: TOP/inventory.yaml:27: pairs[3].name: is missing
    caused by: TOP/inventory.yaml:27: pairs[3].nmae: unknown field; did you mean name?
    "#);
    assert!(!out.exists());

    let told = manifests(top.path(), &["--inventory", "/nowhere/inventory.yaml", "--out", out.to_str().unwrap()]);
    assert_eq!(told.0, 2);
    assert!(told.2.starts_with("error: failed to read: /nowhere/inventory.yaml\n"), "{}", told.2);
    std::fs::write(&file, b"namespace: \xff\n").unwrap();
    let told = manifests(top.path(), &["--inventory", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!((told.0, told.2.as_str()), (2, "error: the inventory is not UTF-8: TOP/inventory.yaml\n"));
}
