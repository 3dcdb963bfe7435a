//! Replica directories and backups that the real engine made: `tests/fixtures/longhorn` of this repository.
//!
//! The archives keep the extents of the files; only GNU tar brings them back.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::loopmount::{Skipped, need_tool};

/// Returns the directory with the archives and `MANIFEST.json`.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/longhorn")
}

/// Extracts an archive into a directory.
///
/// # Panics
/// When GNU tar does not manage.
pub fn extract(archive: &str, directory: &Path) -> Result<(), Skipped> {
    let tar = need_tool("tar")?;
    need_tool("zstd")?;
    let status = Command::new(tar)
        .args(["--sparse", "--zstd", "--extract", "--file"])
        .arg(fixtures().join(archive))
        .arg("--directory")
        .arg(directory)
        .status()
        .expect("tar starts");
    assert!(status.success(), "tar could not extract {archive}");
    Ok(())
}

/// The archive, the directory inside it, and the name in the manifest of every replica.
pub const REPLICAS: &[(&str, &str, &str)] = &[
    ("a1-chain.tar.zst", "pvc-a1-r1", "pvc-a1-r1"),
    ("a1-chain.tar.zst", "pvc-a1-r2", "pvc-a1-r2"),
    ("b2-powercut.tar.zst", "pvc-b2-r1", "pvc-b2-r1"),
    ("b2-powercut.tar.zst", "pvc-b2-r2", "pvc-b2-r2"),
    ("c3-rebuilding.tar.zst", "pvc-c3-r1", "pvc-c3-r1"),
    ("c3-rebuilding.tar.zst", "pvc-c3-r2", "pvc-c3-r2"),
    ("d4-expanded.tar.zst", "pvc-d4-r1", "pvc-d4-r1"),
    ("e5-backing.tar.zst", "rep/pvc-e5raw-r1", "pvc-e5raw-r1"),
    ("e5-backing.tar.zst", "rep/pvc-e5qcow2-r1", "pvc-e5qcow2-r1"),
];
