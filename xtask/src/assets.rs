//! `cargo xtask kube-assets` and `cargo xtask peers`: programs of others that the tests run, built from Go modules that
//! `tests/kube-assets` and `tests/peers` pin. They are made once and kept below `target/`.
//!
//! To add one: a folder with `go.mod` and `go.sum` (and a `main.go` where no program of the module will do), a constant
//! of type [`Assets`] here, and its name in [`PEERS`]. Tests find it by `ha_testkit::peers::program`.
#![allow(clippy::disallowed_methods, reason = "every error names its file")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::say;
use crate::step::{Step, timed};

/// Programs that are made together, into one folder below `target/`.
struct Assets {
    /// The folder, its last part without another's `.new` at the end.
    folder: &'static str,
    /// Where the Go modules are.
    modules: &'static str,
    programs: &'static [Program],
    linker_flags: fn() -> String,
}

struct Program {
    /// Folder of the Go module.
    module: &'static str,
    /// Path of the package in it.
    package: &'static str,
    /// Name of the binary.
    name: &'static str,
    /// Whether a part of it is C.
    c: bool,
}

const KUBERNETES: Assets = Assets {
    folder: "kube-assets/1.35.4",
    modules: "tests/kube-assets",
    programs: &[
        go("etcd", "go.etcd.io/etcd/server/v3", "etcd"),
        go("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
        go("kubernetes", "k8s.io/kubernetes/cmd/kubectl", "kubectl"),
        go("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
        go("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
        go("kwok", "sigs.k8s.io/kwok/cmd/kwok", "kwok"),
    ],
    linker_flags: kubernetes_flags,
};

/// The version that `tests/kube-assets/kubernetes/go.mod` requires, and what the server says that it is.
const KUBERNETES_VERSION: &str = "1.35.4";

const LONGHORN: Assets = Assets {
    folder: "peers/longhorn",
    modules: "tests/peers",
    // The engine reads qcow2 by a library that is written in C.
    programs: &[Program { module: "longhorn", package: ".", name: "longhorn-peer", c: true }],
    linker_flags: plain_flags,
};

const S3: Assets = Assets {
    folder: "peers/s3",
    modules: "tests/peers",
    programs: &[go("s3", ".", "s3-server")],
    linker_flags: plain_flags,
};

/// What is built for the tests, beside a control plane.
const PEERS: &[&Assets] = &[&LONGHORN, &S3];

const fn go(module: &'static str, package: &'static str, name: &'static str) -> Program {
    Program { module, package, name, c: false }
}

/// Builds the control plane where it is not built yet, unless somebody brings binaries of their own.
pub(crate) fn ensure_kubernetes() -> Result<(), String> {
    if let Some(theirs) = variable("KUBEBUILDER_ASSETS") {
        say(&format!("    KUBEBUILDER_ASSETS is set: {}", theirs.display()));
        return Ok(());
    }
    kubernetes()
}

pub(crate) fn kubernetes() -> Result<(), String> {
    KUBERNETES.make()
}

/// Builds the peers that are not built yet.
pub(crate) fn peers() -> Result<(), String> {
    PEERS.iter().try_for_each(|assets| timed(assets.folder, || assets.make()))
}

impl Assets {
    fn make(&self) -> Result<(), String> {
        let target = variable("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let done = target.join(self.folder);
        let done = std::path::absolute(&done).map_err(|error| failed("resolve", &done, &error))?;
        let parent = done.parent().unwrap_or(&done);
        fs::create_dir_all(parent).map_err(|error| failed("make", parent, &error))?;
        let lock = parent.join("lock");
        let handle = fs::File::create(&lock).map_err(|error| failed("make", &lock, &error))?;
        handle.lock().map_err(|error| failed("lock", &lock, &error))?;
        let wanted = self.stamp()?;
        if fs::read_to_string(done.join("stamp")).is_ok_and(|made| made == wanted) {
            say(&format!("    there already: {}", done.display()));
            return Ok(());
        }
        // What an interrupted build left is built over; Go's own cache keeps most of its work.
        let making = target.join(format!("{}.new", self.folder));
        let making = std::path::absolute(&making).map_err(|error| failed("resolve", &making, &error))?;
        fs::create_dir_all(&making).map_err(|error| failed("make", &making, &error))?;
        for program in self.programs {
            self.build(program, &making.join(program.name)).run()?;
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

    fn build(&self, program: &Program, to: &Path) -> Step {
        let directory = format!("{}/{}", self.modules, program.module);
        let (to, flags) = (to.to_string_lossy(), (self.linker_flags)());
        let arguments = ["-C", &directory, "build", "-buildvcs=false", "-trimpath", "-ldflags", &flags, "-o", &to];
        Step::new("go", &arguments)
            .args(&[program.package])
            .env("CGO_ENABLED", if program.c { "1" } else { "0" })
            .env("GOFLAGS", "-mod=readonly")
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
    }

    /// Everything that the binaries are made from; they are made anew when it changes.
    fn stamp(&self) -> Result<String, String> {
        let mut text = format!("{}\n", (self.linker_flags)());
        let mut modules: Vec<&str> = self.programs.iter().map(|program| program.module).collect();
        modules.dedup();
        for module in modules {
            let folder = Path::new(self.modules).join(module);
            let entries = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let entries = entries.map_err(|error| failed("list", &folder, &error))?;
            let mut files: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
            files.sort();
            for path in files {
                text += &fs::read_to_string(&path).map_err(|error| failed("read", &path, &error))?;
            }
        }
        Ok(text)
    }
}

fn plain_flags() -> String {
    "-s -w".to_owned()
}

/// Without its version the server says v0.0.0-master, and features that are judged by the version are off.
fn kubernetes_flags() -> String {
    let (major_minor, _) = KUBERNETES_VERSION.rsplit_once('.').unwrap_or((KUBERNETES_VERSION, ""));
    let (major, minor) = major_minor.split_once('.').unwrap_or((major_minor, ""));
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    let version = format!("v{KUBERNETES_VERSION}");
    [plain_flags(), set("gitVersion", &version), set("gitMajor", major), set("gitMinor", minor)].concat()
        + &format!(" -X k8s.io/client-go/pkg/version.gitVersion={version}")
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn failed(step: &str, path: &Path, error: &std::io::Error) -> String {
    format!("failed to {step} {}: {error}", path.display())
}
