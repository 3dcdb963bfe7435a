//! Runs the real binary in a hermetic environment.
//!
//! ```ignore
//! let place = Environment::new();
//! let outcome = place
//!     .command(env!("CARGO_BIN_EXE_ha-sync"))
//!     .args(["--src", "/a", "--dest", "/b", "--pair", &place.pair(), "--log-dir"])
//!     .arg(place.log_dir())
//!     .strace(Inject::on("copy_file_range,write").error("ENOSPC").when("3+"))
//!     .run();
//! outcome.assert_code(3);
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

/// How long a run may take when nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a pair name that no other test of this host uses now: the file lock is one per pair and host.
pub fn unique_pair() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Directories of one test: home, temporary files, logs, and room for its trees; gone on drop.
#[derive(Debug)]
pub struct Environment {
    directory: tempfile::TempDir,
    pair: String,
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment {
    /// Makes the directories in the directory for temporary files.
    pub fn new() -> Self {
        Self::in_directory(&std::env::temp_dir())
    }

    /// Makes the directories below another one, for example on a file system under test.
    ///
    /// # Panics
    /// When they cannot be made.
    pub fn in_directory(parent: &Path) -> Self {
        let directory =
            tempfile::Builder::new().prefix("ha-test-").tempdir_in(parent).expect("a directory for the test");
        for name in ["home", "tmp", "logs"] {
            std::fs::create_dir(directory.path().join(name)).expect("a directory for the test");
        }
        Self { directory, pair: unique_pair() }
    }

    /// Returns the directory of all.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns a path in it; nothing is made.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the directory for logs, which exists.
    pub fn log_dir(&self) -> PathBuf {
        self.join("logs")
    }

    /// Returns this environment's own pair name, the same for all its runs.
    pub fn pair(&self) -> String {
        self.pair.clone()
    }

    /// Starts to describe a run: no environment but PATH, HOME, TMPDIR, LC_ALL=C, NO_COLOR=1; no input; 1,024 open
    /// files.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Run {
        let kept = ["PATH", "RUST_BACKTRACE"];
        let mut environment: Vec<(OsString, OsString)> =
            kept.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))).collect();
        environment.push(("HOME".into(), self.join("home").into()));
        environment.push(("TMPDIR".into(), self.join("tmp").into()));
        environment.push(("LC_ALL".into(), "C".into()));
        environment.push(("NO_COLOR".into(), "1".into()));
        Run {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment,
            directory: self.directory.path().to_owned(),
            timeout: TIMEOUT,
            injections: Vec::new(),
            refused: Vec::new(),
            open_files: 1024,
            user: None,
        }
    }
}

/// A fault for `strace` to inject. Calls are counted for each thread by itself.
#[derive(Debug, Clone)]
pub struct Inject {
    calls: String,
    what: Vec<String>,
}

impl Inject {
    /// Begins with the system calls, by name, separated by commas (`/^rename` is a pattern).
    pub fn on(calls: &str) -> Self {
        Self { calls: calls.to_owned(), what: Vec::new() }
    }

    /// The call is not made and fails so: `ENOSPC`, `EIO`, …
    pub fn error(self, name: &str) -> Self {
        self.with(format!("error={name}"))
    }

    /// The call is not made and returns this.
    pub fn returns(self, value: i64) -> Self {
        self.with(format!("retval={value}"))
    }

    /// The process gets this signal at the call: `KILL`, `TERM`, …
    pub fn signal(self, name: &str) -> Self {
        self.with(format!("signal={name}"))
    }

    /// The call is made later.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(format!("delay_enter={}", delay.as_micros()))
    }

    /// Which calls: `3` the third, `3+` from the third on, `3+2` every second one from there.
    pub fn when(self, which: &str) -> Self {
        self.with(format!("when={which}"))
    }

    fn with(mut self, part: String) -> Self {
        self.what.push(part);
        self
    }
}

/// A run that is described but not started.
#[derive(Debug, Clone)]
pub struct Run {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    timeout: Duration,
    injections: Vec<Inject>,
    refused: Vec<(u32, u16)>,
    open_files: u64,
    user: Option<(u32, u32)>,
}

impl Run {
    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory; else it is the environment's.
    pub fn current_dir(mut self, directory: &Path) -> Self {
        directory.clone_into(&mut self.directory);
        self
    }

    /// Sets how long it may take before it is killed; see [`Outcome::timed_out`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many files it may have open.
    pub fn open_files(mut self, number: u64) -> Self {
        self.open_files = number;
        self
    }

    /// Runs as another user and group; needs root, and directories that this user can reach.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Runs it under `strace` with this fault; several can be given.
    pub fn strace(mut self, inject: Inject) -> Self {
        self.injections.push(inject);
        self
    }

    /// Lets a system call, by number, always fail with this errno, as a container's seccomp filter does; also for calls
    /// that `strace` does not know.
    pub fn refuse(mut self, call: u32, errno: rustix::io::Errno) -> Self {
        self.refused.push((call, u16::try_from(errno.raw_os_error()).unwrap_or(0)));
        self
    }

    /// Starts it, in a process group of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    #[allow(clippy::zombie_processes, reason = "`Running` reaps it with wait4, to learn its memory")]
    pub fn start(&self) -> Running {
        // This process may have raised its own limit (`limits`), which must not hide a leak of the one under test.
        let mut command = Command::new(crate::loopmount::tool("prlimit").expect("util-linux is installed"));
        command.arg(format!("--nofile={0}:{0}", self.open_files)).arg("--");
        if !self.injections.is_empty() {
            command.arg(crate::loopmount::tool("strace").expect("strace is installed"));
            command.args(["-f", "-qq", "-o", "/dev/null"]);
            let calls: Vec<_> = self.injections.iter().map(|inject| inject.calls.as_str()).collect();
            command.arg("-e").arg(format!("trace={}", calls.join(",")));
            for inject in &self.injections {
                command.arg("-e").arg(format!("inject={}:{}", inject.calls, inject.what.join(":")));
            }
            command.arg("--");
        }
        command.arg(&self.program);
        // Files instead of pipes: nothing blocks, and what a killed run has printed is there.
        let stdout = tempfile::tempfile().expect("a file for stdout");
        let stderr = tempfile::tempfile().expect("a file for stderr");
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().expect("a handle"))
            .stderr(stderr.try_clone().expect("a handle"))
            .process_group(0);
        if let Some((uid, gid)) = self.user {
            command.gid(gid).uid(uid);
        }
        if !self.refused.is_empty() {
            refuse_calls(&mut command, &self.refused);
        }
        // exec(2) counts the peak of the memory that the child shares with us until then; 5 resets ours (proc(5)).
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let started = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| panic!("failed to start {:?}: {error}", self.program));
        let pid = Pid::from_child(&child);
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("a handle of the process");
        Running { pid, handle, stdout, stderr, started, deadline: started + self.timeout, waited: false }
    }

    /// Runs it to its end.
    pub fn run(&self) -> Outcome {
        self.start().wait()
    }
}

/// A started run; it is killed on drop.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    handle: std::os::fd::OwnedFd,
    stdout: File,
    stderr: File,
    started: Instant,
    deadline: Instant,
    waited: bool,
}

impl Running {
    /// Returns the process id (of `strace`, when that is used).
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.handle, signal);
    }

    /// Kills the process and what it has started, as `kill -9` does.
    pub fn kill(&self) {
        if !self.waited {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Tells whether it has ended, waiting so long at most.
    pub fn ended_within(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut poll = [rustix::event::PollFd::new(&self.handle, rustix::event::PollFlags::IN)];
            if matches!(rustix::event::poll(&mut poll, Some(&timeout)), Ok(1..)) {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }

    /// Returns what it has printed to stderr so far.
    pub fn stderr_so_far(&self) -> String {
        text(&self.stderr)
    }

    /// Returns what it has printed to stdout so far.
    pub fn stdout_so_far(&self) -> String {
        text(&self.stdout)
    }

    /// Waits until its output (stdout and stderr) has `words` in it; false when it ended or ran out of time before.
    pub fn wait_for_output(&mut self, words: &str) -> bool {
        loop {
            let ended = self.ended_within(Duration::from_millis(5));
            if self.stderr_so_far().contains(words) || self.stdout_so_far().contains(words) {
                return true;
            }
            if ended || Instant::now() > self.deadline {
                return false;
            }
        }
    }

    /// Waits for its end; after its time it is killed.
    ///
    /// # Panics
    /// When the kernel does not give its exit status.
    pub fn wait(mut self) -> Outcome {
        let timed_out = !self.ended_within(self.deadline.saturating_duration_since(Instant::now()));
        if timed_out {
            self.kill();
        }
        let (status, peak_kib) = wait4(self.pid);
        self.waited = true;
        let wall = self.started.elapsed();
        Outcome {
            status,
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            stdout_bytes: bytes(&self.stdout),
            wall,
            timed_out,
            peak_kib,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.waited {
            self.kill();
            wait4(self.pid);
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// What it printed, as text.
    pub stdout: String,
    /// What it printed to stderr, as text.
    pub stderr: String,
    /// What it printed, as it was.
    pub stdout_bytes: Vec<u8>,
    /// From start to end.
    pub wall: Duration,
    /// It was killed because its time was over.
    pub timed_out: bool,
    /// Upper bound of the peak of resident memory in KiB (`ru_maxrss`): the peak itself, but never less than what the
    /// process that ran the test held at the start, which the kernel counts too. Under `strace`, that of `strace`.
    pub peak_kib: u64,
}

impl Outcome {
    /// Returns the exit code; nothing after a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns the signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Panics with all that was printed unless it ended with this exit code.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        let over = if self.timed_out { " (killed: its time was over)" } else { "" };
        assert!(
            self.code() == Some(code) && !self.timed_out,
            "ended with {}{over} instead of exit code {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr,
        );
        self
    }

    /// The same for success.
    #[track_caller]
    pub fn assert_success(&self) -> &Self {
        self.assert_code(0)
    }
}

fn bytes(file: &File) -> Vec<u8> {
    // The child shares the file's offset, so reading must not move it.
    let length = file.metadata().map(|file| file.len()).unwrap_or(0);
    let mut content = vec![0; usize::try_from(length).unwrap_or(0)];
    let filled = std::os::unix::fs::FileExt::read_at(file, &mut content, 0).unwrap_or(0);
    content.truncate(filled);
    content
}

fn text(file: &File) -> String {
    String::from_utf8_lossy(&bytes(file)).into_owned()
}

/// Installs a seccomp filter in the child.
#[allow(unsafe_code, reason = "a filter is installed between fork and exec, which no safe wrapper offers")]
fn refuse_calls(command: &mut Command, refused: &[(u32, u16)]) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // The number is the first word of `struct seccomp_data`.
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for (call, errno) in refused {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        filter.push(libc::sock_filter { code, jt: 0, jf: 1, k: *call });
        filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | u32::from(*errno)));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the program points to a filter of its length, which the closure owns; prctl is async-signal-safe.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(install) };
}

/// Reaps a child and returns its status and `ru_maxrss` in KiB (that of its largest child, when that was larger).
#[allow(unsafe_code, reason = "no safe wrapper gives the resource usage of one child")]
pub fn wait4(pid: Pid) -> (ExitStatus, u64) {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live locals of the types that the call writes.
        let reaped = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &raw mut status, 0, &raw mut usage) };
        if reaped >= 0 {
            return (ExitStatus::from_raw(status), u64::try_from(usage.ru_maxrss).unwrap_or(0));
        }
        let error = std::io::Error::last_os_error();
        assert!(error.kind() == std::io::ErrorKind::Interrupted, "failed to wait for a child: {error}");
    }
}
