//! The reference in `docs/cli` is what the command says of itself.

use std::path::Path;

use crate::printed;

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli/ha-volume.md");
    let made = printed(&["man", "--markdown"]);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let first = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert!(made == kept, "docs/cli/ha-volume.md is old, first at {first:?}: UPDATE_DOCS=1 cargo test -p ha-volume");
}

#[test]
fn help_fits_100_columns() {
    for words in [&["--help"][..], &["merge", "--help"], &["scan", "-h"], &["backupstore", "write", "--help"]] {
        for line in printed(words).lines() {
            assert!(line.chars().count() <= 100, "{words:?}: {line}");
        }
    }
}

#[test]
fn completions_and_manual_pages() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(printed(&["completions", shell]).contains("zeros-are-holes"), "{shell}");
    }
    assert!(printed(&["man"]).contains(".TH ha-volume 1"));
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(printed(&["man", "--out", directory.path().to_str().unwrap()]), "");
    assert!(directory.path().join("ha-volume-merge.1").is_file());
}
