//! `cargo xtask kube-assets`: a Kubernetes control plane for the tests, built from Go modules that `tests/kube-assets`
//! pins. The binaries are made once and kept below `target/`.
#![allow(clippy::disallowed_methods, reason = "every error names its file")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::say;
use crate::step::Step;

/// The version of Kubernetes that `tests/kube-assets/kubernetes/go.mod` requires: the folder of the binaries, and what
/// the server says that it is.
const VERSION: &str = "1.35.4";
const MODULES: &str = "tests/kube-assets";

/// A Go module and the programs in it: path of the package, name of the binary.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("etcd", "go.etcd.io/etcd/server/v3", "etcd"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kubectl", "kubectl"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
    ("kwok", "sigs.k8s.io/kwok/cmd/kwok", "kwok"),
];

/// Builds what is not built yet, unless somebody brings binaries of their own.
pub(crate) fn ensure() -> Result<(), String> {
    if let Some(theirs) = variable("KUBEBUILDER_ASSETS") {
        say(&format!("    KUBEBUILDER_ASSETS is set: {}", theirs.display()));
        return Ok(());
    }
    run()
}

pub(crate) fn run() -> Result<(), String> {
    let parent = variable("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()).join("kube-assets");
    let parent = std::path::absolute(&parent).map_err(|error| failed("resolve", &parent, &error))?;
    fs::create_dir_all(&parent).map_err(|error| failed("make", &parent, &error))?;
    let lock = parent.join("lock");
    let handle = fs::File::create(&lock).map_err(|error| failed("make", &lock, &error))?;
    handle.lock().map_err(|error| failed("lock", &lock, &error))?;
    let (done, wanted) = (parent.join(VERSION), stamp()?);
    if fs::read_to_string(done.join("stamp")).is_ok_and(|made| made == wanted) {
        say(&format!("    there already: {}", done.display()));
        return Ok(());
    }
    // What an interrupted build left is built over; Go's own cache keeps most of its work.
    let making = parent.join(format!("{VERSION}.new"));
    fs::create_dir_all(&making).map_err(|error| failed("make", &making, &error))?;
    for (module, package, name) in PROGRAMS {
        build(module, package, &making.join(name)).run()?;
    }
    let stamp = making.join("stamp");
    fs::write(&stamp, wanted).map_err(|error| failed("write", &stamp, &error))?;
    if done.exists() {
        fs::remove_dir_all(&done).map_err(|error| failed("remove", &done, &error))?;
    }
    fs::rename(&making, &done).map_err(|error| failed("rename", &making, &error))?;
    say(&format!("    made: {}", done.display()));
    Ok(())
}

fn build(module: &str, package: &str, to: &Path) -> Step {
    let directory = format!("{MODULES}/{module}");
    let to = to.to_string_lossy();
    let arguments =
        ["-C", &directory, "build", "-buildvcs=false", "-trimpath", "-ldflags", &linker_flags(), "-o", &to, package];
    Step::new("go", &arguments)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
}

/// Without its version the server says v0.0.0-master, and features that are judged by the version are off.
fn linker_flags() -> String {
    let (major_minor, _) = VERSION.rsplit_once('.').unwrap_or((VERSION, ""));
    let (major, minor) = major_minor.split_once('.').unwrap_or((major_minor, ""));
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    let version = format!("v{VERSION}");
    ["-s -w".to_owned(), set("gitVersion", &version), set("gitMajor", major), set("gitMinor", minor)].concat()
        + &format!(" -X k8s.io/client-go/pkg/version.gitVersion={version}")
}

/// Everything that the binaries are made from; they are made anew when it changes.
fn stamp() -> Result<String, String> {
    let mut text = format!("{}\n", linker_flags());
    for module in ["etcd", "kubernetes", "kwok"] {
        for name in ["go.mod", "go.sum"] {
            let path = Path::new(MODULES).join(module).join(name);
            text += &fs::read_to_string(&path).map_err(|error| failed("read", &path, &error))?;
        }
    }
    Ok(text)
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn failed(step: &str, path: &Path, error: &std::io::Error) -> String {
    format!("failed to {step} {}: {error}", path.display())
}
