//! Longhorn's own code, in a process of its own: `tests/peers/longhorn`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use ha_testkit::loopmount::Skipped;
use ha_testkit::peers;
use serde_json::{Value, json};

/// A process that has at most one replica open. It ends on drop, as in a power cut: nothing is closed.
pub(crate) struct Peer {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start() -> Result<Self, Skipped> {
        Self::start_with(&[])
    }

    /// Starts one with an environment, of which only the S3 client reads something.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Result<Self, Skipped> {
        let mut child = Command::new(peers::program("longhorn", "longhorn-peer")?)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Ok(Self { child, answers })
    }

    /// Asks for something that the engine may refuse.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.child.stdin.as_ref().unwrap(), "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let mut answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{request}: {error}: {line}"));
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// Asks for something that must work.
    #[track_caller]
    pub(crate) fn tell(&mut self, request: Value) -> Value {
        self.ask(&request).unwrap_or_else(|error| panic!("{request}: {error}"))
    }

    /// Makes a replica of this size, or opens the one that is there.
    #[track_caller]
    pub(crate) fn open(&mut self, directory: &Path, size: u64, backing: Option<&Path>, counter: bool) {
        let mut request = json!({"do": "open", "directory": directory, "size": size, "counter": counter});
        if let Some(backing) = backing {
            request["backing"] = json!(backing);
        }
        self.tell(request);
    }

    /// Writes random bytes that follow from a seed, or zeros for the seed 0.
    #[track_caller]
    pub(crate) fn write(&mut self, offset: u64, length: u64, seed: u64) {
        self.tell(json!({"do": "write", "offset": offset, "length": length, "seed": seed}));
    }

    #[track_caller]
    pub(crate) fn snapshot(&mut self, name: &str) {
        self.tell(json!({"do": "snapshot", "name": name}));
    }

    /// Removes a snapshot as a user does: it is marked, and folded into its child. Returns what was done.
    #[track_caller]
    pub(crate) fn purge(&mut self, name: &str) -> Value {
        self.tell(json!({"do": "remove", "name": name}));
        self.tell(json!({"do": "purge"}))
    }

    /// Returns the SHA-256 of the volume as the engine serves it.
    #[track_caller]
    pub(crate) fn hash(&mut self) -> String {
        self.tell(json!({"do": "hash"}))["sha256"].as_str().unwrap().to_owned()
    }

    /// Returns the SHA-256 of a snapshot as the engine reads it for a backup; the replica must be closed.
    #[track_caller]
    pub(crate) fn hash_of(&mut self, directory: &Path, name: &str, backing: Option<&Path>) -> String {
        let mut request = json!({"do": "hash-snapshot", "directory": directory, "name": name});
        if let Some(backing) = backing {
            request["backing"] = json!(backing);
        }
        self.tell(request)["sha256"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn close(&mut self) {
        self.tell(json!({"do": "close"}));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
