//! The programs of others that `cargo xtask peers` builds.

use std::path::{Path, PathBuf};

use crate::loopmount::Skipped;

/// Finds a program of a peer, like `longhorn-peer` of `longhorn`.
pub fn program(peer: &str, name: &str) -> Result<PathBuf, Skipped> {
    let folder = target().join("peers").join(peer);
    // A folder gets its name when all is in it.
    if folder.join("stamp").is_file() {
        return Ok(folder.join(name));
    }
    Err(Skipped::because(format!("{name} is not built; to build it: cargo xtask peers")))
}

/// Returns cargo's target directory.
pub(crate) fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |dir| workspace.join(dir))
}
