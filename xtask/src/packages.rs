//! The Debian packages that the tests use.

use std::process::{Command, Stdio};

use crate::say;
use crate::step::Step;

/// Package and why: the one list.
const NEEDED: &[(&str, &str)] = &[
    ("acl", "setfacl and getfacl: ACLs are copied"),
    ("attr", "setfattr and getfattr: extended attributes are copied"),
    ("btrfs-progs", "mkfs.btrfs: reflinks on a real btrfs"),
    ("chromium", "the dashboard in a real browser"),
    ("dosfstools", "mkfs.vfat: coarse times and folded names, where the kernel has vfat"),
    ("e2fsprogs", "mkfs.ext4: a real ext4, a full disk"),
    ("fuse3", "fusermount3, to take down a FUSE mount that a killed test has left"),
    ("galera-4", "a cluster node among the database servers of the tests"),
    ("gcc", "links Rust programs and compiles the SQLite that is built in"),
    ("libc6-dev", "the same"),
    ("libqcow-dev", "Longhorn's engine, which the tests build, reads qcow2 backing images by it"),
    ("mariadb-client-core", "reads the audit store on a server from outside"),
    ("mariadb-server-core", "the audit store on a real MariaDB, started by the tests"),
    ("mount", "loop, bind and read-only mounts"),
    ("musl-tools", "musl-gcc: the static binary"),
    ("openssl", "certificates for a database server and the keys of a control plane"),
    ("openssh-client", "replicas on another host are found and copied through ssh"),
    ("openssh-server", "that other host, started by the tests"),
    ("qemu-utils", "qemu-img: makes qcow2 images for tests, a peer in comparisons"),
    ("python3-jsonschema", "validates inventories against the published schema"),
    ("python3-yaml", "the same"),
    ("nodejs", "drives the browser"),
    ("npm", "fetches what drives the browser, by its lock file"),
    ("prometheus", "promtool: the alert rules, and the format of the metrics"),
    ("rclone", "a peer in comparisons"),
    ("rsync", "a peer in comparisons, and a client for the FUSE file system of the tests"),
    ("skopeo", "reads the OCI image that is put together without an engine"),
    ("sqlite3", "reads the audit store from outside"),
    ("strace", "fails the n-th system call of the real binary"),
    ("tar", "extracts the Longhorn fixtures with their holes"),
    ("unison", "a peer in comparisons"),
    ("util-linux", "findmnt, flock, losetup"),
    ("xfsprogs", "mkfs.xfs: a real xfs"),
    ("zlib1g-dev", "the same as libqcow-dev, which does not bring it"),
    ("zstd", "extracts the Longhorn fixtures"),
];

/// Makes sure that all are there: installs what is missing as root, else says what to type.
pub(crate) fn ensure() -> Result<(), String> {
    let installed = installed()?;
    let missing: Vec<_> = NEEDED.iter().filter(|(name, _)| !installed.iter().any(|there| there == name)).collect();
    if missing.is_empty() {
        say(&format!("    all {} packages are installed", NEEDED.len()));
        return Ok(());
    }
    for (name, why) in &missing {
        say(&format!("    missing: {name} ({why})"));
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    if !is_root()? {
        let line =
            format!("sudo apt-get update && sudo apt-get install -y --no-install-recommends {}", names.join(" "));
        return Err(format!("the tests need packages that only root can install; type this, then try again:\n{line}"));
    }
    Step::new("apt-get", &["update"]).run_plain()?;
    Step::new("apt-get", &["install", "-y", "--no-install-recommends"])
        .args(&names)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .run_plain()
}

fn installed() -> Result<Vec<String>, String> {
    // dpkg-query fails when one of the names is unknown, and prints the known ones all the same.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status} ${Package} ${Provides}\\n"])
        .args(NEEDED.iter().map(|(name, _)| name))
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("failed to ask dpkg-query for packages (the tests run on Debian): {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // a package may bring another one with it, as nodejs of other sources does npm
    let names = text.lines().filter_map(|line| line.strip_prefix("installed ")).flat_map(|line| line.split([' ', ',']));
    Ok(names.map(str::to_owned).collect())
}

fn is_root() -> Result<bool, String> {
    let output = Command::new("id").arg("-u").output().map_err(|error| format!("failed to run id: {error}"))?;
    Ok(output.stdout.trim_ascii() == b"0")
}
