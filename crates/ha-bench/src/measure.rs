//! Times one command, and learns its peak memory.
//!
//! `ru_maxrss` of a child includes what its parent held when it started it, and the bench holds file systems. So a small
//! process of its own (this program again) starts the command and waits for it.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// The hidden first argument that makes this program the small process.
pub(crate) const HELPER: &str = "__measure";

/// What one measured command took.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Wall time of the whole process.
    pub(crate) wall: Duration,
    /// `ru_maxrss`: of the largest single process, when the command starts others.
    pub(crate) peak_kib: u64,
}

/// Runs a command without output in an environment of its own, and says why it failed.
pub(crate) fn measure(command: &[String], home: &Path, timeout: Duration) -> Result<Sample, String> {
    let itself = std::env::current_exe().map_err(|error| format!("failed to find this program: {error}"))?;
    let output = Command::new(itself)
        .arg(HELPER)
        .arg(timeout.as_secs().to_string())
        .args(command)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("LC_ALL", "C")
        .env("NO_COLOR", "1")
        .env("RCLONE_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("failed to start the measuring process: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<u64> = stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let [nanoseconds, peak_kib] = numbers[..] else {
        // The last line is the exit status; the first one says most about why.
        let lines: Vec<_> = stderr.trim().lines().collect();
        let mut words = lines.first().map(|line| line.chars().take(200).collect::<String>()).unwrap_or_default();
        if lines.len() > 1 {
            words.push_str("; ");
            words.push_str(lines[lines.len() - 1]);
        }
        return Err(words);
    };
    Ok(Sample { wall: Duration::from_nanos(nanoseconds), peak_kib })
}

/// The small process: prints nanoseconds and KiB when the command succeeded, else says why on stderr.
pub(crate) fn helper() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2);
    let seconds = arguments.next().and_then(|seconds| seconds.to_str()?.parse().ok()).unwrap_or(3600);
    let Some(program) = arguments.next() else { return ExitCode::FAILURE };
    let mut command = Command::new(&program);
    command.args(arguments).stdout(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let started = Instant::now();
    #[allow(clippy::zombie_processes, reason = "reaped by wait4, to learn its memory")]
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("failed to start {}: {error}", program.display());
            return ExitCode::FAILURE;
        }
    };
    let pid = Pid::from_child(&child);
    let (ended, killer) = std::sync::mpsc::channel::<()>();
    let killer = std::thread::spawn(move || {
        let over = killer.recv_timeout(Duration::from_secs(seconds)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if over {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        over
    });
    let (status, peak_kib) = ha_testkit::command::wait4(pid);
    let wall = started.elapsed();
    drop(ended);
    if killer.join().unwrap_or(false) {
        eprintln!("not done after {seconds} s");
        return ExitCode::FAILURE;
    }
    if !status.success() {
        eprintln!("{status}");
        return ExitCode::FAILURE;
    }
    println!("{} {peak_kib}", wall.as_nanos());
    ExitCode::SUCCESS
}
