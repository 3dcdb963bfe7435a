//! An S3 server of the test's own, on a port of the loopback device. It checks every signature.

use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::free_port;
use crate::loopmount::Skipped;
use crate::peers;

/// The one account.
pub const ACCESS_KEY: &str = "reader";
/// Its secret, which nothing may print.
pub const SECRET_KEY: &str = "hunter2-of-the-tests";

/// The host below which every bucket is a host of its own.
pub const DOMAIN: &str = "store.test";

const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; it ends on drop, and with the process.
#[derive(Debug)]
pub struct Server {
    directory: tempfile::TempDir,
    address: String,
    port: u16,
    scheme: &'static str,
    child: Child,
}

impl Server {
    /// Starts one that takes signatures for a region, like `eu-test-1`.
    pub fn start(region: &str) -> Result<Self, Skipped> {
        Self::start_with(region, None)
    }

    /// Starts one that speaks https, with the files of a certificate and its key.
    pub fn start_with(region: &str, tls: Option<(PathBuf, PathBuf)>) -> Result<Self, Skipped> {
        let program = peers::program("s3", "s3-server")?;
        let directory = tempfile::Builder::new().prefix("ha-s3-").tempdir().expect("a directory for objects");
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let log = directory.path().join("log");
        let mut command = Command::new(program);
        command.args(["-listen", &address, "-region", region, "-domain", DOMAIN, "-directory"]).arg(directory.path());
        if let Some((certificate, key)) = &tls {
            command.arg("-certificate").arg(certificate).arg("-key").arg(key);
        }
        let child = command
            .env_clear()
            .envs([("S3_ACCESS_KEY", ACCESS_KEY), ("S3_SECRET_KEY", SECRET_KEY)])
            // It ends when its stdin does, which is when this process does at the latest.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("the server starts");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut server = Self { directory, address, port, scheme, child };
        let started = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            if started.elapsed() > PATIENCE || server.child.try_wait().expect("its state").is_some() {
                let _ = server.child.kill();
                panic!("no S3 server: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Returns what `AWS_ENDPOINTS` takes.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Returns its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a bucket, and returns the directory that shows its objects as files.
    pub fn bucket(&self, name: &str) -> PathBuf {
        let bucket = self.directory.path().join("objects").join(name);
        std::fs::create_dir_all(&bucket).expect("a bucket");
        bucket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
