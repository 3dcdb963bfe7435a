//! `cargo xtask dist`: builds the static binaries and writes everything that is handed out.
#![allow(clippy::disallowed_methods, reason = "a program of the project, not of the product; its errors name the path")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it says what it does")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, ValueEnum};
use ha_dist::archive::{Archive, ArchiveError};
use ha_dist::digest::sha256;
use ha_dist::image::{self, About, Platform};
use ha_dist::{elf, sbom};

/// The programs that are handed out.
const PROGRAMS: [&str; 3] = ["ha-sync", "ha-sync-ui", "ha-volume"];
/// How many of them are in the image, whose first one is what it runs. ha-volume is copied onto a node.
const IN_IMAGE: usize = 2;
/// The image may not be larger, per architecture and compressed.
const LARGEST: usize = 25_000_000;

/// Builds static binaries (musl), an OCI image without a container engine, checksums and an SBOM.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask dist", bin_name = "cargo xtask dist")]
struct Options {
    /// Architecture to build for; can be given several times
    #[arg(long = "arch", value_enum, default_values_t = [Architecture::Amd64])]
    architectures: Vec<Architecture>,
    /// Folder to write to [default: artifacts in the target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Name of the image in its archive
    #[arg(long, value_name = "NAME", default_value = "ha-sync")]
    image: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    /// Returns OCI's name.
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    fn machine(self) -> u16 {
        match self {
            Self::Amd64 => elf::X86_64,
            Self::Arm64 => elf::AARCH64,
        }
    }

    /// Returns what cargo needs to compile C for it. C is compiled against musl's headers; Rust brings musl itself,
    /// and links.
    fn environment(self) -> Result<Vec<(&'static str, String)>, String> {
        const CROSS: &str = "aarch64-linux-gnu-gcc";
        match self {
            Self::Amd64 => Ok(vec![("CC_x86_64_unknown_linux_musl", "musl-gcc".to_owned())]),
            Self::Arm64 => {
                let own = asked(CROSS, &["-print-file-name=include"])?;
                let headers = format!("-nostdinc -isystem /usr/include/aarch64-linux-musl -isystem {own}");
                Ok(vec![
                    ("CC_aarch64_unknown_linux_musl", CROSS.to_owned()),
                    ("CFLAGS_aarch64_unknown_linux_musl", headers),
                    ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld".to_owned()),
                ])
            }
        }
    }

    /// Returns the line that installs what it needs on Debian.
    fn packages(self) -> &'static str {
        match self {
            Self::Amd64 => "apt-get install musl-tools",
            Self::Arm64 => {
                "dpkg --add-architecture arm64 && apt-get update && \
                 apt-get install gcc-aarch64-linux-gnu musl-dev:arm64"
            }
        }
    }
}

fn main() -> ExitCode {
    match dist(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("dist: {why}");
            ExitCode::FAILURE
        }
    }
}

fn dist(options: &Options) -> Result<(), String> {
    let version = env!("CARGO_PKG_VERSION");
    let target = target_directory()?;
    let out = options.out.clone().unwrap_or_else(|| target.join("artifacts"));
    fs::create_dir_all(&out).map_err(|error| format!("failed to make {}: {error}", out.display()))?;
    let mut architectures = options.architectures.clone();
    architectures.sort();
    architectures.dedup();
    let time: u64 = asked("git", &["log", "-1", "--format=%ct"])?.parse().map_err(|_| "git tells no time")?;
    let mut written = Vec::new();
    let mut platforms = Vec::new();
    for architecture in architectures {
        let mut programs = build(architecture, &target)?;
        let folder = format!("ha-sync-{version}-linux-{}", architecture.name());
        let mut archive = Archive::new(time);
        let failed = |error: ArchiveError| error.to_string();
        archive.directory(&format!("{folder}/"), 0o755).map_err(failed)?;
        for (name, content) in &programs {
            archive.file(&format!("{folder}/{name}"), 0o755, content).map_err(failed)?;
        }
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            let text = fs::read(licence).map_err(|error| format!("failed to read {licence}: {error}"))?;
            archive.file(&format!("{folder}/{licence}"), 0o644, &text).map_err(failed)?;
        }
        write(&out, &format!("{folder}.tar.gz"), &gzip(&archive.finish())?, &mut written)?;
        programs.truncate(IN_IMAGE);
        platforms.push(Platform { architecture: architecture.name().to_owned(), programs });
    }
    let about = About {
        reference: format!("{}:{version}", options.image),
        version: version.to_owned(),
        revision: asked("git", &["rev-parse", "HEAD"])?,
        time,
        created: asked("date", &["-u", "-d", &format!("@{time}"), "+%Y-%m-%dT%H:%M:%SZ"])?,
        licence: "Apache-2.0 OR MIT".to_owned(),
    };
    let image = image::image(&about, &platforms, |bytes| gzip(bytes).map_err(Error))
        .map_err(|error: Error| format!("failed to put the image together: {}", error.0))?;
    write(&out, &format!("ha-sync-{version}-image.tar"), &image.archive, &mut written)?;
    let list = packages(version)?;
    write(&out, &format!("ha-sync-{version}-sbom.cdx.json"), format!("{list:#}\n").as_bytes(), &mut written)?;
    let sums: String = written.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
    write(&out, "SHA256SUMS", sums.as_bytes(), &mut Vec::new())?;
    println!("image {} ({})", about.reference, image.digest);
    for (architecture, packed, plain) in &image.sizes {
        println!("  {architecture}: {} compressed, {} in all", megabytes(*packed), megabytes(*plain));
        if *packed > LARGEST {
            return Err(format!("the image for {architecture} is larger than {}", megabytes(LARGEST)));
        }
    }
    println!("load it: podman load -i, docker load -i, ctr -n k8s.io images import, or skopeo copy oci-archive:…");
    Ok(())
}

/// Carries a text through [`image::image`].
struct Error(String);

impl From<ArchiveError> for Error {
    fn from(error: ArchiveError) -> Self {
        Self(error.to_string())
    }
}

fn megabytes(bytes: usize) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

fn target_directory() -> Result<PathBuf, String> {
    // This program lies in `<target>/debug`, wherever cargo was told to build.
    let own = std::env::current_exe().map_err(|error| format!("failed to find this program: {error}"))?;
    own.parent().and_then(Path::parent).map(Path::to_owned).ok_or_else(|| "this program has no directory".to_owned())
}

/// Builds the programs for an architecture, and looks that each stands alone.
fn build(architecture: Architecture, target: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let triple = architecture.target();
    let needs = format!("it needs:\n  rustup target add {triple}\n  {}", architecture.packages());
    let environment = architecture.environment().map_err(|why| format!("{why}; {needs}"))?;
    // Panics name their source file: no path of this machine is to be in what is handed out.
    let here = std::env::current_dir().map_err(|error| format!("failed to find the workspace: {error}"))?;
    let home = asked("sh", &["-c", "echo ${CARGO_HOME:-$HOME/.cargo}"])?;
    let flags = format!("--remap-path-prefix={}=ha-sync --remap-path-prefix={home}=cargo", here.display());
    let mut command = Command::new("cargo");
    command.args(["build", "--profile", "dist", "--locked", "--target", triple]).arg("--target-dir").arg(target);
    command.envs(environment).env("CARGO_INCREMENTAL", "0").env("RUSTFLAGS", flags);
    for program in PROGRAMS {
        command.args(["--package", program]);
    }
    println!("==> {triple}");
    let status = command.status().map_err(|error| format!("failed to start cargo: {error}"))?;
    if !status.success() {
        return Err(format!("failed to build for {triple}; {needs}"));
    }
    PROGRAMS
        .iter()
        .map(|name| {
            let path = target.join(triple).join("dist").join(name);
            let content = fs::read(&path).map_err(|error| format!("failed to read {}: {error}", path.display()))?;
            elf::check_static(&content, architecture.machine()).map_err(|why| format!("{}: {why}", path.display()))?;
            Ok(((*name).to_owned(), content))
        })
        .collect()
}

fn packages(version: &str) -> Result<serde_json::Value, String> {
    let platform = Architecture::Amd64.target();
    let words = ["metadata", "--format-version", "1", "--locked", "--filter-platform", platform];
    let metadata = asked("cargo", &words)?;
    let metadata =
        serde_json::from_str(&metadata).map_err(|error| format!("failed to read cargo metadata: {error}"))?;
    let lock = fs::read_to_string("Cargo.lock").map_err(|error| format!("failed to read Cargo.lock: {error}"))?;
    sbom::sbom(&metadata, &lock, &PROGRAMS, version).map_err(|error| error.to_string())
}

fn write(out: &Path, name: &str, content: &[u8], written: &mut Vec<(String, String)>) -> Result<(), String> {
    let path = out.join(name);
    fs::write(&path, content).map_err(|error| format!("failed to write {}: {error}", path.display()))?;
    println!("{} ({})", path.display(), megabytes(content.len()));
    written.push((name.to_owned(), sha256(content)));
    Ok(())
}

/// Returns what a command prints, without the line end.
fn asked(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(words)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("failed to start {program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} {}: {}", words.join(" "), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Compresses with gzip, which puts no name and no time into what it makes.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut child = Command::new("gzip")
        .args(["-9", "-n", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("failed to start gzip: {error}"))?;
    let mut input = child.stdin.take().ok_or("gzip has no input")?;
    // It is fed from a thread: it answers before it has read everything.
    let (fed, output) = std::thread::scope(|scope| {
        let feeder = scope.spawn(move || input.write_all(bytes));
        let output = child.wait_with_output();
        (feeder.join(), output)
    });
    let output = output.map_err(|error| format!("failed to run gzip: {error}"))?;
    match fed {
        Ok(Ok(())) if output.status.success() => Ok(output.stdout),
        _ => Err(format!("gzip failed: {}", output.status)),
    }
}
