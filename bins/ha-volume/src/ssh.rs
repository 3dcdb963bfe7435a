//! Runs this program on another host: it is sent there through ssh, put into a temporary directory, run, and removed.
//! Nothing else is needed there but a shell.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_longhorn::source::SourceFile;

/// Is a path on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// `[USER@]HOST`.
    pub(crate) host: String,
    port: Option<u16>,
    /// An absolute path.
    pub(crate) path: String,
}

impl Remote {
    /// Parses `ssh://[USER@]HOST[:PORT]/PATH`; nothing for what does not begin so.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, Failure> {
        let Some(rest) = text.strip_prefix("ssh://") else { return Ok(None) };
        let refused = |why: &str| {
            Failure::new(FailureKind::Usage, format!("{why}: {text}")).hint("like ssh://root@pi2/var/lib/longhorn")
        };
        let (host, path) = rest.split_once('/').ok_or_else(|| refused("a path is missing"))?;
        // The colons of an address are in brackets; ssh takes it without them.
        let (user, named) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
        let (name, port) = match named.strip_prefix('[').map(|address| address.split_once(']')) {
            Some(Some((address, ""))) => (address, None),
            Some(Some((address, rest))) => {
                (address, Some(rest.strip_prefix(':').ok_or_else(|| refused("not a host"))?))
            }
            Some(None) => return Err(refused("not a host")),
            None => named.split_once(':').map_or((named, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse().map_err(|_| refused("not a port"))).transpose()?;
        if name.is_empty() {
            return Err(refused("not a host"));
        }
        let host = user.map_or_else(|| name.to_owned(), |user| format!("{user}@{name}"));
        // ssh would take a leading dash for a flag.
        if host.is_empty() || host.starts_with('-') || host.contains(char::is_whitespace) {
            return Err(refused("not a host"));
        }
        Ok(Some(Self { host, port, path: format!("/{path}") }))
    }
}

/// Is what the shell there does: `$@` are the words for the program, which comes on stdin. A directory is tried out,
/// since `/tmp` may not let programs run. It exits with 126 when none does.
const SCRIPT: &str = r#"set -u
for parent in "${TMPDIR:-/tmp}" /var/tmp /run "$HOME"; do
  directory=$(mktemp -d "$parent/ha-volume.XXXXXXXX" 2>/dev/null) || continue
  trap 'rm -f "$directory/ha-volume"; rmdir "$directory"' EXIT
  trap 'exit 129' HUP
  trap 'exit 143' TERM
  if [ -z "${program:-}" ]; then cat > "$directory/ha-volume" || exit 125
  else cp "$program" "$directory/ha-volume" || exit 125; rm -f "$program"; rmdir "${program%/*}"; fi
  program="$directory/ha-volume"
  chmod 700 "$program"
  if "$program" --version > /dev/null 2>&1; then "$program" "$@" < /dev/null; exit $?; fi
done
exit 126"#;

/// Is a program that runs on another host.
pub(crate) struct Running {
    child: Child,
    feeder: std::thread::JoinHandle<std::io::Result<()>>,
    host: String,
}

/// Starts the program there with some words; what it prints can be read.
pub(crate) fn start(
    remote: &Remote,
    binary: Option<&Path>,
    words: &[String],
) -> Result<(Running, ChildStdout), Failure> {
    let program = match binary {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().or_failure(FailureKind::Failed)?,
    };
    let program = SourceFile::open(&program).or_failure(FailureKind::Failed)?;
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let line = format!("exec sh -c {} ha-volume {}", quoted(SCRIPT), words.join(" "));
    let mut command = Command::new("ssh");
    if let Some(port) = remote.port {
        command.arg("-p").arg(port.to_string());
    }
    command.arg("--").arg(&remote.host).arg(line).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .or_failure(FailureKind::Failed)
        .map_err(|failure| failure.context("failed to start ssh").hint("apt-get install openssh-client"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(Failure::new(FailureKind::Failed, "failed to talk to ssh"));
    };
    let feed = move || {
        let mut buffer = vec![0; 1 << 20];
        let mut position = 0;
        while position < program.size() {
            let length = usize::try_from(program.size() - position).unwrap_or(usize::MAX).min(buffer.len());
            program.read_at(position, &mut buffer[..length]).map_err(std::io::Error::other)?;
            std::io::Write::write_all(&mut stdin, &buffer[..length])?;
            position += length as u64;
        }
        Ok(())
    };
    let feeder = std::thread::spawn(feed);
    Ok((Running { child, feeder, host: remote.host.clone() }, stdout))
}

impl Running {
    /// Waits for the end and says what went wrong.
    pub(crate) fn wait(mut self) -> Result<(), Failure> {
        let status = self.child.wait().or_failure(FailureKind::Failed)?;
        // When it ends early the program may not have been sent whole; the status tells why.
        let _ = self.feeder.join();
        let host = &self.host;
        match status.code() {
            // Damage there is told by what was printed.
            Some(0 | 3) => Ok(()),
            Some(126) => Err(Failure::new(FailureKind::Failed, format!("the program cannot run on {host}"))
                .hint("a static one for that architecture: --remote-binary FILE")),
            Some(255) => {
                Err(Failure::new(FailureKind::Failed, format!("ssh failed: {host}")).hint(format!("ssh {host} true")))
            }
            _ => Err(Failure::new(FailureKind::Failed, format!("failed on {host}: {status}; it said why above"))),
        }
    }
}

/// Runs the program there and returns what it printed.
pub(crate) fn run(remote: &Remote, binary: Option<&Path>, words: &[String]) -> Result<Vec<u8>, Failure> {
    let (running, mut stdout) = start(remote, binary, words)?;
    let mut output = Vec::new();
    stdout.read_to_end(&mut output).or_failure(FailureKind::Failed)?;
    running.wait()?;
    Ok(output)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let remote = |text: &str| Remote::parse(text).unwrap().map(|remote| (remote.host, remote.port, remote.path));
        assert_eq!(remote("/var/lib/longhorn"), None);
        assert_eq!(remote("ssh://pi2/a b"), Some(("pi2".to_owned(), None, "/a b".to_owned())));
        assert_eq!(remote("ssh://root@pi2:2222/x"), Some(("root@pi2".to_owned(), Some(2222), "/x".to_owned())));
        assert_eq!(remote("ssh://[::1]/x"), Some(("::1".to_owned(), None, "/x".to_owned())));
        assert_eq!(remote("ssh://a@[fe80::2]:22/x"), Some(("a@fe80::2".to_owned(), Some(22), "/x".to_owned())));
        for wrong in [
            "ssh://[::1/x",
            "ssh://[::1]2/x",
            "ssh://a@/x",
            "ssh://a:/x",
            "ssh://pi2",
            "ssh://-oProxyCommand=x/y",
            "ssh:///x",
            "ssh://a:b/c",
            "ssh://a b/c",
        ] {
            assert_eq!(Remote::parse(wrong).unwrap_err().kind(), FailureKind::Usage, "{wrong}");
        }
    }
}
