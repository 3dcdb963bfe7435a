//! Where the numbers come from.

use std::path::Path;
use std::process::Command;

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| "not found".to_owned(), |line| line.trim().to_owned())
}

/// Returns free bytes of the file system of a directory.
pub(crate) fn free(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map(|whole| whole.f_bavail * whole.f_frsize).unwrap_or(0)
}

/// Returns bytes of memory that can be had without swapping.
pub(crate) fn memory_available() -> u64 {
    let kib = field("/proc/meminfo", "MemAvailable").and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Describes the machine: name and value.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: u64 = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    vec![
        ("processor", field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned())),
        ("cores", cores.to_string()),
        ("memory", format!("{:.1} GiB", memory as f64 / f64::from(1 << 20))),
        ("kernel", first_line("uname", &["-sr"])),
        (
            "system",
            std::fs::read_to_string("/etc/os-release")
                .ok()
                .and_then(|text| {
                    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
                    Some(line.trim_matches('"').to_owned())
                })
                .unwrap_or_default(),
        ),
    ]
}

/// Returns the version of each tool.
pub(crate) fn versions(ours: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("ha-sync", first_line(&ours.display().to_string(), &["--version"])),
        ("rsync", first_line("rsync", &["--version"])),
        ("unison", first_line("unison", &["-version"])),
        ("rclone", first_line("rclone", &["version"])),
        ("cp", first_line("cp", &["--version"])),
    ]
}
