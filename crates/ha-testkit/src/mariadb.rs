//! A real MariaDB server of the test's own: its data in a temporary directory, on a free port of the loopback interface
//! and on a Unix socket; ended, and its data removed, on drop.
//!
//! ```ignore
//! let server = need!(mariadb::shared()); // prints `skipped: …` and returns where it is not installed
//! let database = server.create_database();
//! run.args(["--db-dsn", &server.dsn(&database)]);
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon::{Daemon, free_port};
use crate::loopmount::{Skipped, need_tool};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(30);
/// The password of the user `root`; it has what is hard in a DSN.
pub const PASSWORD: &str = "a@b:c/d?e";

/// A server.
#[derive(Debug)]
pub struct Server {
    directory: tempfile::TempDir,
    options: Vec<String>,
    port: u16,
    process: Mutex<Option<Daemon>>,
}

/// Returns the server of this process, which ends when nobody has it any more.
pub fn shared() -> Result<Arc<Server>, Skipped> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return Ok(server);
    }
    // no test cuts the power of the host: what the kernel has is safe
    let server = Arc::new(Server::start(&["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=OFF"])?);
    *shared = Arc::downgrade(&server);
    Ok(server)
}

impl Server {
    /// Makes a data directory and starts a server in it, with options of `mariadbd` besides its own.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(options: &[&str]) -> Result<Self, Skipped> {
        let (install, _) = (need_tool("mariadb-install-db")?, need_tool("mariadbd")?);
        need_tool("mariadb")?;
        let directory =
            tempfile::Builder::new().prefix("ha-mariadb-").tempdir().expect("a directory for the database server");
        let mut command = Command::new(install);
        command
            .arg("--no-defaults")
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
            .arg(format!("--datadir={}", directory.path().join("data").display()))
            // several at once disturb each other's temporary tables in a common one
            .env("TMPDIR", directory.path());
        if rustix::process::geteuid().is_root() {
            command.arg("--user=root");
        }
        checked(&mut command);
        let server = Self {
            directory,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            port: free_port(),
            process: Mutex::new(None),
        };
        server.run("");
        for host in ["localhost", "127.0.0.1"] {
            let user = format!("ALTER USER root@'{host}' IDENTIFIED BY '{PASSWORD}'");
            let password = if host == "localhost" { "" } else { PASSWORD };
            checked(server.client(password, "mysql").args(["--execute", &user]));
        }
        Ok(server)
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`], at the same port.
    pub fn restart(&self) {
        self.run(PASSWORD);
    }

    fn run(&self, password: &str) {
        let mut command = Command::new(need_tool("mariadbd").expect("found before"));
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", self.join("data").display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", self.join("pid").display()))
            .arg(format!("--log-error={}", self.join("log").display()))
            .arg(format!("--tmpdir={}", self.directory.path().display()))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--performance-schema=OFF"])
            .args(["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=48M", "--max-connections=200"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.arg("--user=root");
        }
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(process.is_none(), "the database server runs already");
        *process = Some(Daemon::start(command));
        drop(process);
        let started = Instant::now();
        while !succeeds(self.client(password, "mysql").arg("--execute=SELECT 1")) {
            assert!(started.elapsed() < START, "the database server does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it at once, as a power cut does.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// Ends it in order.
    pub fn stop(&self) {
        self.end(Signal::TERM);
    }

    fn end(&self, signal: Signal) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            process.end(signal);
        }
    }

    /// Freezes it: it keeps its connections and accepts new ones, and says nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &*self.process.lock().unwrap_or_else(PoisonError::into_inner) {
            process.signal(signal).expect("the database server runs");
        }
    }

    /// Returns its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.join("socket")
    }

    /// Returns what it wrote down.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.join("log")).unwrap_or_default()
    }

    /// Makes a database that no other test uses, with the server's default character set.
    pub fn create_database(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("audit_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Returns the DSN of a database, over TCP, in the form of Go's driver.
    pub fn dsn(&self, database: &str) -> String {
        format!("root:{PASSWORD}@tcp(127.0.0.1:{})/{database}", self.port)
    }

    /// Returns the DSN of a database, over the Unix socket.
    pub fn socket_dsn(&self, database: &str) -> String {
        format!("root:{PASSWORD}@unix({})/{database}", self.socket().display())
    }

    /// Runs statements and returns the rows, their columns separated by tabs.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, database: &str, statements: &str) -> Vec<String> {
        let output =
            checked(self.client(PASSWORD, database).args(["--batch", "--skip-column-names", "--execute", statements]));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Begins a run of the client `mariadb` as root over the socket.
    pub fn client(&self, password: &str, database: &str) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "--user=root", "--default-character-set=utf8mb4", "--local-infile=1"])
            .arg(format!("--socket={}", self.socket().display()))
            .env("MYSQL_PWD", password)
            .stdin(Stdio::null());
        if !database.is_empty() {
            command.arg(format!("--database={database}"));
        }
        command
    }

    fn join(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[track_caller]
fn checked(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {}", words.trim());
    output
}

/// Makes a certificate authority and a server certificate for `localhost` and 127.0.0.1 in a directory, and returns the
/// options for a server and the file of the authority.
pub fn certificates(directory: &Path) -> Result<(Vec<String>, PathBuf), Skipped> {
    let openssl = need_tool("openssl")?;
    let run = |words: &str| {
        checked(Command::new(&openssl).args(words.split(' ')).current_dir(directory));
    };
    std::fs::write(directory.join("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("a file");
    run("req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca.pem -days 2 -subj /CN=authority");
    run("req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=database");
    run("x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile san -out cert.pem");
    let option = |name: &str, file: &str| format!("--{name}={}", directory.join(file).display());
    Ok((vec![option("ssl-cert", "cert.pem"), option("ssl-key", "key.pem")], directory.join("ca.pem")))
}
