//! A real OpenSSH server of the test's own, on a port of the loopback interface, with a key of its own and a client's.
//! What runs there has a home and temporary directories of its own, in a mount namespace that ends with the server.
//!
//! ```ignore
//! let node = need!(Sshd::start("")); // prints `skipped: …` and returns where it is not installed, or not as root
//! let outcome = run.env("PATH", node.path()).args(["scan", &node.url("/disk")]).run();
//! assert!(node.left().is_empty());
//! ```

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::{Daemon, free_port};
use crate::loopmount::{Skipped, need_tool};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(30);
/// The directories there into which a program may be put, as they are called there and in [`Sshd::directory`].
const DIRECTORIES: [(&str, &str); 4] = [("", "tmp"), ("/var/tmp", "var-tmp"), ("/run", "run"), ("", "home")];

/// A server.
#[derive(Debug)]
pub struct Sshd {
    directory: tempfile::TempDir,
    port: u16,
    daemon: Daemon,
}

impl Sshd {
    /// Starts one. `mounts` is what a shell does before, in the mount namespace: `$TMPDIR` and `$HOME` are those of
    /// what runs there, and `/var/tmp` and `/run` are its own too.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(mounts: &str) -> Result<Self, Skipped> {
        let (sshd, keygen) = (need_tool("sshd")?, need_tool("ssh-keygen")?);
        let (unshare, _) = (need_tool("unshare")?, need_tool("ssh")?);
        if !rustix::process::geteuid().is_root() {
            return Err(Skipped::because("only root can start an ssh server with mounts of its own"));
        }
        let directory = tempfile::Builder::new().prefix("ha-sshd-").tempdir().expect("a directory");
        let port = free_port();
        prepare(directory.path(), &keygen, port);
        let mut command = Command::new(unshare);
        command
            .args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", &script(mounts)])
            .arg(directory.path())
            .arg(&sshd)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TMPDIR", directory.path().join("tmp"))
            .env("HOME", directory.path().join("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Self { directory, port, daemon: Daemon::start(command) };
        server.write_client("ssh", "known", "key");
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(!server.daemon.has_ended(), "the ssh server has ended: {}", server.log());
            assert!(started.elapsed() < START, "the ssh server does not start: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Returns its port on 127.0.0.1 and ::1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns `ssh://root@127.0.0.1:PORT` and a path there.
    pub fn url(&self, path: impl AsRef<Path>) -> String {
        format!("ssh://root@127.0.0.1:{}{}", self.port, path.as_ref().display())
    }

    /// Returns a search path whose `ssh` is the real one, with the right key, to which this host is known.
    pub fn path(&self) -> String {
        self.search_path("ssh")
    }

    /// The same with a key that nobody knows there.
    pub fn path_of_a_stranger(&self) -> String {
        self.write_client("ssh-stranger", "known", "stranger");
        self.search_path("ssh-stranger")
    }

    /// The same without knowing the host.
    pub fn path_without_its_key(&self) -> String {
        self.write_client("ssh-unknown", "unknown", "key");
        self.search_path("ssh-unknown")
    }

    /// Lets the client of this host know another one, and that one this client.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn trust(&self, other: &Self) {
        let read = |path: PathBuf| std::fs::read_to_string(path).expect("a file");
        for (to, more) in
            [(self.join("known"), read(other.join("known"))), (other.join("authorized"), read(self.join("authorized")))]
        {
            std::fs::write(&to, read(to.clone()) + &more).expect("a file");
        }
    }

    /// Returns what a client that did not know the host has noted about hosts since.
    pub fn noted_hosts(&self) -> String {
        std::fs::read_to_string(self.join("unknown")).unwrap_or_default()
    }

    /// Returns what is left of `ha-volume` in the directories there into which a program may be put.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (there, name) in DIRECTORIES {
            // As it is in the namespace of the server: something may be mounted there.
            let there = if there.is_empty() { self.join(name) } else { PathBuf::from(there) };
            let seen = format!("/proc/{}/root{}", self.daemon.pid().as_raw_nonzero(), there.display());
            for entry in std::fs::read_dir(&seen).expect("the server runs").flatten() {
                let entry = entry.file_name().to_string_lossy().into_owned();
                left.extend(entry.starts_with("ha-volume").then(|| format!("{name}/{entry}")));
            }
        }
        left
    }

    /// Waits until nothing is left, and nothing runs for a client.
    ///
    /// # Panics
    /// When something is for longer.
    #[track_caller]
    pub fn wait_clean(&self, patience: Duration) {
        let started = Instant::now();
        loop {
            let (left, running) = (self.left(), self.running());
            if left.is_empty() && running.is_empty() {
                return;
            }
            assert!(started.elapsed() < patience, "left: {left:?}, running: {running:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the server's processes of every session, but not what runs in them: so a connection is cut.
    pub fn cut(&self) {
        for pid in children(self.daemon.pid()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Returns the names of the processes that live in the server's mount namespace, without its own.
    pub fn running(&self) -> Vec<String> {
        let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let own = self.daemon.pid().as_raw_nonzero().get();
        let Some(here) = namespace(own) else { return Vec::new() };
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| *pid != own && namespace(*pid).as_ref() == Some(&here))
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok())
            .map(|name| name.trim().to_owned())
            .collect()
    }

    /// Returns what it wrote down.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.join("log")).unwrap_or_default()
    }

    /// Returns a path in its directory: `tmp`, `var-tmp`, `run` and `home` are those of what runs there.
    pub fn join(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes an `ssh` with a configuration of its own: the real one reads that of the account.
    fn write_client(&self, name: &str, known: &str, key: &str) {
        let config = format!(
            "Host *\n  HostKeyAlias node\n  IdentityFile {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
             UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
            self.join(key).display(),
            self.join(known).display(),
        );
        let (bin, file) = (self.join(&format!("{name}.bin")), self.join(&format!("{name}.conf")));
        std::fs::write(&file, config).expect("a file");
        std::fs::create_dir_all(&bin).expect("a directory");
        let ssh = need_tool("ssh").expect("found before");
        let script = format!("#!/bin/sh\nexec {} -F {} \"$@\"\n", ssh.display(), file.display());
        std::fs::write(bin.join("ssh"), script).expect("a file");
        std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    fn search_path(&self, name: &str) -> String {
        let rest = std::env::var("PATH").expect("a search path");
        format!("{}:{rest}", self.join(&format!("{name}.bin")).display())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Makes directories, keys and the configuration.
fn prepare(directory: &Path, keygen: &Path, port: u16) {
    let path = |name: &str| directory.join(name);
    for (_, name) in DIRECTORIES {
        std::fs::create_dir(path(name)).expect("a directory");
    }
    for key in ["host-key", "key", "stranger"] {
        let made = Command::new(keygen)
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(path(key))
            .stdin(Stdio::null())
            .status();
        assert!(made.expect("ssh-keygen runs").success(), "a key");
    }
    let public = |name: &str| std::fs::read_to_string(path(name)).expect("a public key");
    let shown = |name: &str| path(name).display().to_string();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nListenAddress ::1\nHostKey {}\nAuthorizedKeysFile {}\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPermitRootLogin yes\nPrintMotd no\nSetEnv TMPDIR={} HOME={}\n",
        shown("host-key"),
        shown("authorized"),
        shown("tmp"),
        shown("home"),
    );
    for (name, content) in [
        ("authorized", public("key.pub")),
        ("known", format!("node {}", public("host-key.pub"))),
        ("unknown", String::new()),
        ("sshd.conf", config),
    ] {
        std::fs::write(path(name), content).expect("a file");
    }
}

/// Is what the shell does that becomes the server: `$0` is the directory, `$1` the program.
fn script(mounts: &str) -> String {
    let mut script = "set -e\n".to_owned();
    for (there, name) in DIRECTORIES.into_iter().filter(|(there, _)| !there.is_empty()) {
        script += &format!("mount --bind \"$0/{name}\" {there}\n");
    }
    // A root without a password may count as locked, which only PAM looks past.
    script += "sed 's/^root:[^:]*:/root:*:/' /etc/shadow > \"$0/shadow\"\nmount --bind \"$0/shadow\" /etc/shadow\n";
    script + mounts + "\nmkdir /run/sshd\nexec \"$1\" -D -e -f \"$0/sshd.conf\" 2> \"$0/log\""
}

fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
