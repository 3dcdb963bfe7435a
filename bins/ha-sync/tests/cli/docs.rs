//! The reference in `docs/cli` is what the command says of itself.

use std::path::Path;

use crate::printed;

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may read and write the project's files")]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli/ha-sync.md");
    let made = printed(&["man", "--markdown"]);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let first = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert!(made == kept, "docs/cli/ha-sync.md is old, first at {first:?}: UPDATE_DOCS=1 cargo test -p ha-sync");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may read the project's files")]
fn every_flag_has_its_reasons() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flags.md");
    let page = std::fs::read_to_string(path).unwrap();
    for line in printed(&["-h"]).lines() {
        let Some(flag) = line.split_whitespace().find(|word| word.starts_with("--")) else { continue };
        let flag = flag.split(['[', '=', '.', ',']).next().unwrap();
        if line.trim_start().starts_with('-') && !["--help", "--version"].contains(&flag) {
            assert!(page.contains(&format!("`{flag}")), "docs/flags.md says nothing of {flag}");
        }
    }
}
