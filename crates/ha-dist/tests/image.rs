//! What is put together here is read by tools that are not ours.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test may read and write files and say why it is skipped"
)]

use std::path::Path;
use std::process::Command;

use ha_dist::archive::{Archive, ArchiveError};
use ha_dist::digest::sha256;
use ha_dist::elf::{self, ElfError};
use ha_dist::image::{About, Platform, image};
use ha_dist::sbom::sbom;

fn about() -> About {
    About {
        reference: "ha-sync:9.8.7".to_owned(),
        version: "9.8.7".to_owned(),
        revision: "0123".to_owned(),
        time: 1_776_093_837,
        created: "2026-04-13T15:23:57Z".to_owned(),
        licence: "MIT".to_owned(),
    }
}

fn platform(architecture: &str) -> Platform {
    let programs = [("ha-sync", 700), ("ha-sync-ui", 512)];
    let programs = programs.map(|(name, size)| (name.to_owned(), vec![architecture.len() as u8; size])).to_vec();
    Platform { architecture: architecture.to_owned(), programs }
}

/// Runs a command that must succeed, and returns its stdout.
fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    Ok(Command::new("gzip").args(["-9", "-n", "-c"]).arg(file.path()).output().unwrap().stdout)
}

#[test]
fn the_known_sum() {
    assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn tar_reads_the_archive() {
    let top = tempfile::tempdir().unwrap();
    let mut archive = Archive::new(1_776_093_837);
    archive.directory("a/", 0o1777).unwrap();
    archive.file("a/one", 0o755, &[7; 513]).unwrap();
    archive.file("a/none", 0o644, b"").unwrap();
    assert!(archive.file(&"x".repeat(101), 0o644, b"").is_err());
    let path = top.path().join("a.tar");
    std::fs::write(&path, archive.finish()).unwrap();
    let listed = run("tar", &["--utc", "--full-time", "--numeric-owner", "-tvf", path.to_str().unwrap()]);
    let words: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        words,
        [
            ["drwxrwxrwt", "0/0", "0", "2026-04-13", "15:23:57", "a/"],
            ["-rwxr-xr-x", "0/0", "513", "2026-04-13", "15:23:57", "a/one"],
            ["-rw-r--r--", "0/0", "0", "2026-04-13", "15:23:57", "a/none"],
        ]
    );
    run("tar", &["-xf", path.to_str().unwrap(), "-C", top.path().to_str().unwrap()]);
    assert_eq!(std::fs::read(top.path().join("a/one")).unwrap(), [7; 513]);
}

#[test]
fn the_same_input_makes_the_same_image() {
    let platforms = [platform("amd64"), platform("arm64")];
    let one = image(&about(), &platforms, gzip).unwrap();
    let other = image(&about(), &platforms, gzip).unwrap();
    assert!(one.archive == other.archive && one.digest == other.digest);
}

#[test]
fn skopeo_takes_the_image_of_one_and_of_two_architectures() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skipped: skopeo is not installed (Debian: skopeo)");
        return;
    }
    for architectures in [&["amd64"][..], &["amd64", "arm64"]] {
        let top = tempfile::tempdir().unwrap();
        let platforms: Vec<_> = architectures.iter().map(|name| platform(name)).collect();
        let made = image(&about(), &platforms, gzip).unwrap();
        let path = top.path().join("image.tar");
        std::fs::write(&path, &made.archive).unwrap();
        let from = format!("oci-archive:{}:9.8.7", path.display());
        for name in architectures {
            let inspected = run("skopeo", &["--override-arch", name, "inspect", "--config", &from]);
            let config: serde_json::Value = serde_json::from_str(&inspected).unwrap();
            assert_eq!((&config["architecture"], &config["os"]), (&(*name).into(), &"linux".into()));
            assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/ha-sync"]));
            // skopeo checks every digest and size on the way.
            let folder = top.path().join(name);
            let to = format!("dir:{}", folder.display());
            run("skopeo", &["--override-arch", name, "--insecure-policy", "copy", &from, &to]);
            unpacked_is(&folder, name);
        }
    }
}

/// Unpacks the only layer of an image in skopeo's form of a directory, and looks what is in it.
fn unpacked_is(folder: &Path, architecture: &str) {
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let root = folder.join("root");
    std::fs::create_dir(&root).unwrap();
    run("tar", &["-xzf", folder.join(digest).to_str().unwrap(), "-C", root.to_str().unwrap()]);
    for (name, content) in platform(architecture).programs {
        assert_eq!(std::fs::read(root.join(name)).unwrap(), content);
    }
    for directory in ["tmp", "run/lock", "var/log/ha-sync", "mnt"] {
        assert!(root.join(directory).is_dir(), "{directory}");
    }
}

#[test]
fn programs_that_need_others_are_told() {
    // Debian links these two with a loader.
    let dynamic = std::fs::read("/bin/true").unwrap();
    let machine = if cfg!(target_arch = "aarch64") { elf::AARCH64 } else { elf::X86_64 };
    assert_eq!(elf::check_static(&dynamic, machine), Err(ElfError::Interpreter));
    assert_eq!(elf::check_static(&dynamic, 3), Err(ElfError::Machine(machine, 3)));
    assert_eq!(elf::check_static(b"#!/bin/sh\n", machine), Err(ElfError::NotElf));
    assert_eq!(elf::check_static(&dynamic[..60], machine), Err(ElfError::NotElf));
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("one");
    let out = path.to_str().unwrap();
    let source = top.path().join("one.c");
    std::fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"here\"); }\n").unwrap();
    run("gcc", &["-static", "-o", out, source.to_str().unwrap()]);
    assert_eq!(elf::check_static(&std::fs::read(&path).unwrap(), machine), Ok(()));
    run("gcc", &["-shared", "-fPIC", "-o", out, source.to_str().unwrap()]);
    assert_eq!(elf::check_static(&std::fs::read(&path).unwrap(), machine), Err(ElfError::Library));
}

#[test]
fn the_list_has_what_is_built_in_and_not_what_only_tests_need() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(&workspace)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata = serde_json::from_slice(&output.stdout).unwrap();
    let lock = std::fs::read_to_string(workspace.join("Cargo.lock")).unwrap();
    let list = sbom(&metadata, &lock, &["ha-sync"], "9.8.7").unwrap();
    let components = list["components"].as_array().unwrap();
    let has = |name: &str| components.iter().find(|component| component["name"] == name);
    assert!(has("ha-sync").is_some() && has("ha-sync-core").is_some() && has("clap").is_some());
    assert!(has("insta").is_none() && has("proptest").is_none() && has("ha-testkit").is_none());
    let clap = has("clap").unwrap();
    assert_eq!(clap["licenses"][0]["expression"], "MIT OR Apache-2.0");
    assert_eq!(clap["hashes"][0]["content"].as_str().unwrap().len(), 64);
    let references: Vec<_> = components.iter().map(|component| &component["bom-ref"]).collect();
    for edge in list["dependencies"].as_array().unwrap() {
        assert!(references.contains(&&edge["ref"]));
        assert!(edge["dependsOn"].as_array().unwrap().iter().all(|one| references.contains(&one)), "{edge}");
    }
    assert!(sbom(&metadata, &lock, &["no-such-program"], "1").is_err());
}
