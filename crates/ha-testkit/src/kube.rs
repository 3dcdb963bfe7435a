//! A Kubernetes control plane of one's own: etcd and a kube-apiserver with RBAC, on ports of the loopback device.
//!
//! The binaries come from `KUBEBUILDER_ASSETS`, else from `cargo xtask kube-assets`.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::daemon::free_port;
use crate::loopmount::{Skipped, need_tool};
use crate::peers;

/// How long it may take to be ready; a machine that does nothing else needs about 3 s.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "admin-of-the-tests";

/// A running control plane; it ends on drop, and with the process.
#[derive(Debug)]
pub struct ControlPlane {
    directory: tempfile::TempDir,
    assets: PathBuf,
    port: u16,
    server: Pid,
    end: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl ControlPlane {
    /// Returns the one that the tests of this process share; it ends with the last of them that uses it.
    pub fn shared() -> Result<Arc<Self>, Skipped> {
        static SHARED: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
        let mut held = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = held.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(Self::start()?);
        *held = Arc::downgrade(&started);
        Ok(started)
    }

    /// Starts one, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start() -> Result<Self, Skipped> {
        let assets = assets()?;
        let openssl = need_tool("openssl")?;
        // Somebody may take a port between our look and the start.
        for _ in 0..3 {
            let began = Instant::now();
            if let Some(running) = Self::try_start(&assets, &openssl) {
                // Past the capture of the test runner: whoever reads the output of the tests sees it.
                let took = began.elapsed().as_secs_f64();
                let _ =
                    writeln!(std::io::stderr(), "measured: a control plane of Kubernetes is ready after {took:.1} s");
                return Ok(running);
            }
        }
        panic!("no control plane could be started from {}", assets.display());
    }

    fn try_start(assets: &Path, openssl: &Path) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("ha-kube-").tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let made = Command::new(openssl)
            .args(["genrsa", "-out"])
            .arg(path("sa.key"))
            .arg("2048")
            .stderr(Stdio::null())
            .status()
            .expect("openssl runs");
        assert!(made.success(), "a key for service accounts");
        std::fs::write(path("tokens.csv"), format!("{TOKEN},admin,1,system:masters\n")).expect("a file");
        let [port, client, peer] = [(); 3].map(|()| free_port());
        let etcd = etcd(&assets.join("etcd"), directory.path(), client, peer);
        let server = api_server(&assets.join("kube-apiserver"), directory.path(), port, client);
        let (started, pid) = channel();
        let (end, ended) = channel();
        // The signal at a parent's death is sent at the death of the thread that started the child.
        let keeper = std::thread::Builder::new()
            .name("control plane".to_owned())
            .spawn(move || keep([etcd, server], &started, &ended))
            .expect("a thread");
        let server = pid.recv().expect("the programs start");
        let running = Self { directory, assets: assets.to_owned(), port, server, end: Some(end), keeper: Some(keeper) };
        running.become_ready().then_some(running)
    }

    fn become_ready(&self) -> bool {
        let certificate = self.directory.path().join("certs/apiserver.crt");
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            // The server makes its certificate itself; the file holds its authority as well.
            if let Ok(pem) = std::fs::read_to_string(&certificate)
                && pem.matches("END CERTIFICATE").count() == 2
            {
                std::fs::write(self.admin(), self.config(TOKEN, "default")).expect("a kubeconfig");
                let ready = self.command(&["get", "--raw", "/readyz"]).output();
                // Namespaces of its own are made after it says that it is ready.
                let there = || self.command(&["get", "namespace", "default"]).output();
                if ready.is_ok_and(|ready| ready.stdout == b"ok") && there().is_ok_and(|there| there.status.success()) {
                    return true;
                }
            }
            if rustix::process::test_kill_process(self.server).is_err() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Returns a kubeconfig that may do everything.
    pub fn admin(&self) -> PathBuf {
        self.directory.path().join("admin.yaml")
    }

    /// Returns the authority that signed the server's certificate, in PEM.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("certs/apiserver.crt")
    }

    /// Returns the server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Writes a kubeconfig for a bearer of this token.
    pub fn config(&self, token: &str, namespace: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             contexts:\n- name: test\n  context: {{cluster: test, user: test, namespace: {namespace}}}\n\
             clusters:\n- name: test\n  cluster:\n    server: https://127.0.0.1:{}\n    \
             certificate-authority: {}\n\
             users:\n- name: test\n  user: {{token: {token}}}\n",
            self.port,
            self.authority().display(),
        )
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.assets.join("kubectl"));
        command.arg("--kubeconfig").arg(self.admin()).args(words).env("HOME", self.directory.path());
        command.stdin(Stdio::null());
        command
    }

    /// Runs kubectl as administrator and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn kubectl(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("kubectl runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {}: {stderr}", words.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Applies a manifest as administrator.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn apply(&self, namespace: &str, manifest: &str) {
        let mut command = self.command(&["--namespace", namespace, "apply", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kubectl runs");
        child.stdin.take().expect("a pipe").write_all(manifest.as_bytes()).expect("kubectl reads");
        assert!(child.wait().expect("kubectl ends").success(), "kubectl apply of\n{manifest}");
    }

    /// Makes a namespace that no other test uses.
    pub fn namespace(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name]);
        name
    }

    /// Makes a service account in a namespace with a Role, and returns a token of it.
    pub fn account(&self, namespace: &str, role: &str) -> String {
        self.kubectl(&["-n", namespace, "create", "serviceaccount", "ha-sync"]);
        self.apply(namespace, role);
        let account = format!("--serviceaccount={namespace}:ha-sync");
        self.kubectl(&["-n", namespace, "create", "rolebinding", "ha-sync", "--role=ha-sync", &account]);
        self.kubectl(&["-n", namespace, "create", "token", "ha-sync"]).trim().to_owned()
    }

    /// Lets the API server stand still, as behind a network that lost it.
    pub fn freeze(&self) {
        rustix::process::kill_process(self.server, Signal::STOP).expect("it runs");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        let _ = rustix::process::kill_process(self.server, Signal::CONT);
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// Starts the programs and ends them when `ended` is closed.
fn keep(mut commands: [Command; 2], started: &Sender<Pid>, ended: &Receiver<()>) {
    let mut children: Vec<Child> = commands.iter_mut().map(|command| command.spawn().expect("it starts")).collect();
    if let Some(server) = children.last() {
        let _ = started.send(Pid::from_child(server));
    }
    let _ = ended.recv();
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn etcd(program: &Path, directory: &Path, client: u16, peer: u16) -> Command {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = server(program, directory, "etcd.log");
    command
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .arg("--unsafe-no-fsync")
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")]);
    command
}

fn api_server(program: &Path, directory: &Path, port: u16, etcd: u16) -> Command {
    let mut command = server(program, directory, "apiserver.log");
    let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
    command
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
        .arg(format!("--secure-port={port}"))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
        .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"])
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg("--disable-admission-plugins=ServiceAccount")
        .arg(flag("cert-dir", &directory.join("certs")))
        .arg(flag("token-auth-file", &directory.join("tokens.csv")))
        .arg(flag("service-account-key-file", &directory.join("sa.key")))
        .arg(flag("service-account-signing-key-file", &directory.join("sa.key")));
    command
}

#[allow(unsafe_code, reason = "the signal at the parent's death is set between fork and exec")]
fn server(program: &Path, directory: &Path, log: &str) -> Command {
    let log = std::fs::File::create(directory.join(log)).expect("a log");
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir(directory).process_group(0);
    let with_parent = || {
        // SAFETY: prctl is async-signal-safe and takes plain numbers here.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(with_parent) };
    command
}

/// Finds the directory of the binaries.
fn assets() -> Result<PathBuf, Skipped> {
    if let Some(theirs) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        return Ok(theirs.into());
    }
    let made = std::fs::read_dir(peers::target().join("kube-assets")).into_iter().flatten().flatten();
    let mut made: Vec<PathBuf> = made.map(|entry| entry.path()).filter(|path| path.join("stamp").is_file()).collect();
    made.retain(|path| path.extension().is_none_or(|extension| extension != "new"));
    made.sort();
    made.pop().ok_or_else(|| Skipped::because("no Kubernetes control plane; to build one: cargo xtask kube-assets"))
}
