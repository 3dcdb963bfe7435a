//! Starts a database and then `tests/browser` in Node, which starts real runs, the dashboard and Chromium.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ha_testkit::loopmount::{Skipped, need_tool};
use ha_testkit::mariadb;
use ha_testkit::need;

/// Returns the program `ha-sync` beside ours. A test of the whole workspace has just built it; where only this package is
/// tested it may be an old one, and is made when there is none.
pub(crate) fn ha_sync(ui: &Path) -> PathBuf {
    let program = ui.with_file_name("ha-sync");
    if !program.exists() {
        let build = ["build", "--quiet", "--locked", "--profile", "test", "--package", "ha-sync"];
        let status = Command::new(env!("CARGO")).args(build).status().unwrap();
        assert!(status.success(), "ha-sync cannot be built");
    }
    program
}

/// Makes sure that the packages of `package-lock.json` are there.
fn node_modules(directory: &Path) -> Result<(), Skipped> {
    if directory.join("node_modules/playwright-core/package.json").exists() {
        return Ok(());
    }
    let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let output = Command::new(need_tool("npm")?).args(npm).current_dir(directory).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(Skipped::because(format!(
            "npm cannot fetch playwright-core and axe-core: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

#[test]
fn pages_in_a_real_browser() {
    let node = need!(need_tool("node"));
    need!(need_tool("chromium"));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/browser").canonicalize().unwrap();
    need!(node_modules(&directory));
    let server = need!(mariadb::shared());
    let database = server.create_database();
    let port = server.port().to_string();
    let place = tempfile::Builder::new().prefix("ha-sync-").tempdir().unwrap();
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    std::fs::create_dir_all(&shots).unwrap();
    let ui = Path::new(env!("CARGO_BIN_EXE_ha-sync-ui"));
    let output = Command::new("timeout")
        .arg("480")
        .arg(node)
        .args(["--test", "--test-concurrency=1", "dashboard.test.js"])
        .current_dir(&directory)
        .env("HA_SYNC_UI", ui)
        .env("HA_SYNC", ha_sync(ui))
        .env("DSN", server.dsn(&database).replace(&format!(":{port})"), ":{port})"))
        .env("DATABASE_PORT", &port)
        .env("PLACE", place.path())
        .env("SHOTS", &shots)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // with no test file found, node succeeds as well
    assert!(said.contains("# pass 11") && said.contains("# skipped 0"), "{said}");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        let docs = directory.join("../../docs/dashboard.png");
        std::fs::copy(shots.join("overview.png"), docs).unwrap();
    }
}
