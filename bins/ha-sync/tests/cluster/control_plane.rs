//! A real API server with etcd, on free ports of the loopback interface; with controllers, scheduler and kwok's node on
//! request. All of it ends on drop.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ha_testkit::daemon::free_port;
use ha_testkit::loopmount::Skipped;

const TOKEN: &str = "for-the-tests-only";
const PROGRAMS: [&str; 6] = ["etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kwok"];

pub(crate) struct ControlPlane {
    directory: tempfile::TempDir,
    programs: PathBuf,
    server: String,
    processes: Vec<Child>,
}

/// Finds the binaries that `cargo xtask kube-assets` makes, or those that somebody brings.
fn programs() -> Result<PathBuf, Skipped> {
    let target = Path::new(env!("CARGO_BIN_EXE_ha-sync")).ancestors().nth(2).unwrap();
    let built = std::fs::read_dir(target.join("kube-assets")).into_iter().flatten().flatten().map(|entry| entry.path());
    let brought = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let whole = |folder: &PathBuf| PROGRAMS.iter().all(|program| folder.join(program).exists());
    let missing = || Skipped::because("no control plane of Kubernetes: cargo xtask kube-assets");
    brought.into_iter().chain(built).find(whole).ok_or_else(missing)
}

impl ControlPlane {
    /// Starts etcd and the API server, and waits until it is ready.
    pub(crate) fn start() -> Result<Self, Skipped> {
        let programs = programs()?;
        let directory = tempfile::Builder::new().prefix("ha-cluster-").tempdir().unwrap();
        let (client, peer, port) = (free_port(), free_port(), free_port());
        let server = format!("https://127.0.0.1:{port}");
        let mut plane = Self { directory, programs, server, processes: Vec::new() };
        let path = |name: &str| plane.directory.path().join(name).display().to_string();
        let key = path("accounts.key");
        let made = Command::new("openssl").args(["genrsa", "-out", &key, "2048"]).output();
        if !made.is_ok_and(|output| output.status.success()) {
            return Err(Skipped::because("openssl makes no key (Debian: openssl)"));
        }
        std::fs::write(path("tokens"), format!("{TOKEN},tester,1,system:masters\n")).unwrap();
        let kubeconfig = plane.config(TOKEN, "default");
        std::fs::write(path("kubeconfig"), kubeconfig).unwrap();
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let etcd = [
            format!("--data-dir={}", path("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync=true".to_owned(),
        ];
        let api = [
            format!("--etcd-servers={client}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--cert-dir={}", path("certificates")),
            format!("--token-auth-file={}", path("tokens")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--service-account-issuer=https://tests".to_owned(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
        ];
        plane.spawn("etcd", &etcd);
        plane.spawn("kube-apiserver", &api);
        plane.eventually("the API server is ready", Duration::from_secs(90), |plane| {
            plane.kubectl(&["get", "--raw", "/readyz"]).status.success()
        });
        Ok(plane)
    }

    /// Returns a kubeconfig for the bearer of a token.
    pub(crate) fn config(&self, token: &str, namespace: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: '{}', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: test, user: {{token: {token}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test, namespace: {namespace}}}}}]\n",
            self.server
        )
    }

    /// Starts what makes Jobs of CronJobs and Pods of Jobs, and a node that runs them in name only.
    pub(crate) fn start_controllers(&mut self) {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let (config, key) = (format!("--kubeconfig={}", path("kubeconfig")), path("accounts.key"));
        let controllers = [
            config.clone(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--controllers=cronjob-controller,job-controller,deployment-controller,replicaset-controller,\
             persistentvolume-binder-controller,serviceaccount-controller,node-lifecycle-controller"
                .to_owned(),
            format!("--service-account-private-key-file={key}"),
        ];
        let scheduler = [config.clone(), "--leader-elect=false".to_owned(), "--secure-port=0".to_owned()];
        let kwok = [config, "--manage-all-nodes=true".to_owned(), format!("--config={}", path("none"))];
        std::fs::write(path("none"), "").unwrap();
        self.spawn("kube-controller-manager", &controllers);
        self.spawn("kube-scheduler", &scheduler);
        self.spawn("kwok", &kwok);
        let node = "{apiVersion: v1, kind: Node, metadata: {name: node}, \
                    status: {allocatable: {cpu: '64', memory: 64Gi, pods: '100'}, capacity: {cpu: '64', memory: 64Gi, pods: '100'}}}";
        self.given(&["apply", "-f", "-"], node);
    }

    fn spawn(&mut self, program: &str, arguments: &[String]) {
        let log = std::fs::File::create(self.directory.path().join(format!("{program}.log"))).unwrap();
        // The kernel ends it with this test, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.programs.join(program))
            .args(arguments)
            .env_clear()
            .env("HOME", self.directory.path())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        self.processes.push(child);
    }

    fn kubectl_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.env_clear().env("HOME", self.directory.path());
        command.arg(format!("--kubeconfig={}", self.directory.path().join("kubeconfig").display())).args(words);
        command
    }

    pub(crate) fn kubectl(&self, words: &[&str]) -> Output {
        self.kubectl_command(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs kubectl, which must succeed, and returns stdout and stderr.
    #[track_caller]
    pub(crate) fn done(&self, words: &[&str]) -> (String, String) {
        checked(words, self.kubectl(words))
    }

    /// The same, with something to read.
    #[track_caller]
    pub(crate) fn given(&self, words: &[&str], input: &str) -> (String, String) {
        let mut child = self
            .kubectl_command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        checked(words, child.wait_with_output().unwrap())
    }

    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, most: Duration, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            if start.elapsed() > most {
                let tail = |path: PathBuf| {
                    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
                    let lines: Vec<_> = text.lines().rev().take(5).map(str::to_owned).collect();
                    format!("{}:\n{}\n", path.display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
                };
                let logs = std::fs::read_dir(self.directory.path()).unwrap().flatten().map(|entry| entry.path());
                let logs = logs.filter(|path| path.extension().is_some_and(|end| end == "log")).map(tail);
                panic!("not within {most:?}: {what}\n{}", logs.collect::<String>());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

#[track_caller]
fn checked(words: &[&str], output: Output) -> (String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (told, why) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "kubectl {words:?}: {why}");
    (told, why)
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // The last started first: etcd is the last to go.
        for child in self.processes.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
