//! Runs this program on another host: it is sent there through ssh, put into a temporary directory, run, and removed.
//! Nothing else is needed there but a shell.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::printable;
use ha_longhorn::source::SourceFile;
use ha_longhorn::watch::Watch;
use ha_sync_fs::error::printable_path;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Is what the shell there does with the program, which comes on stdin, and with the words for it.
const SCRIPT: &str = include_str!("ssh.sh");
// Exit codes of the script, none of which the program has.
const CUT: i32 = 124;
const NO_ROOM: i32 = 125;
const CANNOT_RUN: i32 = 126;
/// How ssh says that it failed itself.
const SSH_FAILED: i32 = 255;
/// A host that is down, and one that goes down meanwhile, are given up after 10 s and 30 s; no port is forwarded twice.
const OPTIONS: [&str; 4] =
    ["ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=3", "ClearAllForwardings=yes"];
/// How many of the last lines that were said there are kept.
const LINES: usize = 100;

/// Is a path on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// `[USER@]HOST[:PORT]`, as it was typed.
    pub(crate) authority: String,
    /// `[USER@]HOST`, as ssh takes it.
    host: String,
    port: Option<u16>,
    /// An absolute path. It is taken as it is: nothing is decoded.
    pub(crate) path: OsString,
}

/// Tells whether a person names something on another host.
pub(crate) fn is_remote(text: &OsStr) -> bool {
    text.as_bytes().starts_with(b"ssh://")
}

impl Remote {
    /// Parses `ssh://[USER@]HOST[:PORT]/PATH`; nothing for what does not begin so.
    pub(crate) fn parse(text: &OsStr) -> Result<Option<Self>, Failure> {
        let Some(rest) = text.as_bytes().strip_prefix(b"ssh://") else { return Ok(None) };
        let refused = |why: &str| {
            Failure::new(FailureKind::Usage, format!("{why}: {}", printable_path(Path::new(text))))
                .hint("like ssh://root@pi2/var/lib/longhorn")
        };
        let slash = rest.iter().position(|byte| *byte == b'/').ok_or_else(|| refused("a path is missing"))?;
        let authority = std::str::from_utf8(&rest[..slash]).map_err(|_| refused("not a host"))?;
        // The colons of an address are in brackets; ssh takes it without them.
        let (user, named) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (name, port) = match named.strip_prefix('[').map(|address| address.split_once(']')) {
            Some(Some((address, ""))) => (address, None),
            Some(Some((address, rest))) => {
                (address, Some(rest.strip_prefix(':').ok_or_else(|| refused("not a host"))?))
            }
            Some(None) => return Err(refused("not a host")),
            None => named.split_once(':').map_or((named, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse().map_err(|_| refused("not a port"))).transpose()?;
        let host = user.map_or_else(|| name.to_owned(), |user| format!("{user}@{name}"));
        // ssh would take a leading dash for a flag.
        let odd = |character: char| character.is_whitespace() || character.is_control();
        if name.is_empty() || name.starts_with('-') || host.starts_with(['-', '@']) || host.contains(odd) {
            return Err(refused("not a host"));
        }
        let path = OsString::from_vec(rest[slash..].to_vec());
        Ok(Some(Self { authority: authority.to_owned(), host, port, path }))
    }

    /// Returns the command to type that tries the way there.
    fn trial(&self) -> String {
        let port = self.port.map(|port| format!("-p {port} ")).unwrap_or_default();
        format!("ssh {port}{} true", self.host)
    }
}

/// Is a program that runs on another host. On drop it is ended there and here: its stdin closes, which the shell there
/// waits for.
pub(crate) struct Running {
    child: Child,
    /// Holds stdin open.
    feeder: Option<std::thread::JoinHandle<io::Result<ChildStdin>>>,
    said: Receiver<VecDeque<String>>,
    remote: Remote,
}

/// Is what the program there prints; reading it ends when a signal asks for it.
pub(crate) struct Printed<'a> {
    stdout: ChildStdout,
    watch: &'a dyn Watch,
}

impl Read for Printed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !self.watch.stopped() {
            match poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&pause)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.stdout.read(buffer),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::Error::other("stopped"))
    }
}

/// Starts the program there with some words; what it prints can be read.
pub(crate) fn start<'a>(
    remote: &Remote,
    binary: Option<&Path>,
    words: &[OsString],
    watch: &'a dyn Watch,
) -> Result<(Running, Printed<'a>), Failure> {
    let path = match binary {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().or_failure(FailureKind::Failed)?,
    };
    let program = SourceFile::open(&path).or_failure(FailureKind::Failed)?;
    let machine = machine(&program, &path)?;
    let mut line = b"exec sh -c ".to_vec();
    let own = [OsString::from(SCRIPT), "ha-volume".into(), program.size().to_string().into(), machine.into()];
    for word in own.iter().chain(words) {
        line.extend(quoted(word.as_bytes()));
        line.push(b' ');
    }
    let mut command = Command::new("ssh");
    command.args(["-T", "-a", "-x"]);
    for option in OPTIONS {
        command.args(["-o", option]);
    }
    // Without a person who sees the question nobody would answer it.
    if !io::stderr().is_terminal() {
        command.args(["-o", "BatchMode=yes"]);
    }
    if let Some(port) = remote.port {
        command.arg("-p").arg(port.to_string());
    }
    command.arg("--").arg(&remote.host).arg(OsString::from_vec(line));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .or_failure(FailureKind::Failed)
        .map_err(|failure| failure.context("failed to start ssh").hint("apt-get install openssh-client"))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(Failure::new(FailureKind::Failed, "failed to talk to ssh"));
    };
    let (sender, said) = mpsc::channel();
    let host = remote.authority.clone();
    std::thread::spawn(move || sender.send(listen(&host, &mut BufReader::new(stderr))));
    let feeder = Some(std::thread::spawn(move || feed(&program, stdin)));
    Ok((Running { child, feeder, said, remote: remote.clone() }, Printed { stdout, watch }))
}

/// Returns the name of the machine that a program is for, as `uname -m` calls it there; nothing for one that runs on
/// machines of several names.
fn machine(program: &SourceFile, path: &Path) -> Result<&'static str, Failure> {
    let mut header = [0; 20];
    if program.size() >= 20 {
        program.read_at(0, &mut header).or_failure(FailureKind::Failed)?;
    }
    if !header.starts_with(b"\x7fELF") {
        let message = format!("not a program for Linux: {}", printable_path(path));
        return Err(Failure::new(FailureKind::Usage, message).hint("a static one: --remote-binary FILE"));
    }
    // Little-endian, 64 bits.
    Ok(match (&header[4..6], &header[18..]) {
        ([2, 1], [62, 0]) => "x86_64",
        ([2, 1], [183, 0]) => "aarch64",
        _ => "",
    })
}

/// Sends the program and returns stdin, still open.
fn feed(program: &SourceFile, mut stdin: ChildStdin) -> io::Result<ChildStdin> {
    let mut buffer = vec![0; 1 << 18];
    let mut position = 0;
    while position < program.size() {
        let length = usize::try_from(program.size() - position).unwrap_or(usize::MAX).min(buffer.len());
        program.read_at(position, &mut buffer[..length]).map_err(io::Error::other)?;
        stdin.write_all(&buffer[..length])?;
        position += length as u64;
    }
    stdin.flush()?;
    Ok(stdin)
}

/// Passes on what is said there, and returns the last of it. How the program there failed is not passed on: that is
/// part of the failure here.
fn listen(host: &str, stderr: &mut dyn io::BufRead) -> VecDeque<String> {
    let mut said = VecDeque::new();
    let mut bytes = Vec::new();
    while stderr.take(1 << 16).read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if !line.is_empty() {
            if !LABELS.iter().any(|label| line.starts_with(label)) {
                let _ = writeln!(io::stderr(), "{host}: {}", printable(&line));
            }
            said.push_back(line);
            said.drain(..said.len().saturating_sub(LINES));
        }
        bytes.clear();
    }
    said
}

/// Are the labels of a failure on stderr.
const LABELS: [&str; 3] = ["error: ", "caused by: ", "hint: "];

impl Running {
    /// Waits for the end, and says what went wrong unless the program there ended with one of these exit codes.
    pub(crate) fn wait(mut self, good: &[i32]) -> Result<i32, Failure> {
        let status = self.child.wait().or_failure(FailureKind::Failed)?;
        // Another process may hold its stderr, such as one that ssh has left for further connections.
        let said = self.said.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        match status.code() {
            Some(code) if good.contains(&code) => Ok(code),
            _ => Err(failure(&self.remote, status, &said)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let Some(feeder) = self.feeder.take() {
            // When it ended early the program was not sent whole; its status told why.
            let _ = feeder.join();
        }
    }
}

fn failure(remote: &Remote, status: ExitStatus, said: &VecDeque<String>) -> Failure {
    let host = &remote.authority;
    let last = said.back().map_or("it did not say why", String::as_str);
    let failed = |text: String| Failure::new(FailureKind::Failed, last.trim_end_matches('.')).context(text);
    match status.code() {
        Some(CUT) => failed(format!("the program did not get to {host}")).hint(remote.trial()),
        Some(NO_ROOM) => failed(format!("no temporary directory takes the program on {host}"))
            .hint(format!("what there is: ssh {host} df -h /tmp /var/tmp /run")),
        Some(CANNOT_RUN) => failed(format!("the program cannot run on {host}"))
            .hint("a static one for that architecture: --remote-binary FILE"),
        Some(SSH_FAILED) => {
            let failure = failed(format!("ssh failed: {host}"));
            let heard = |words: &str| said.iter().any(|line| line.contains(words));
            if heard("ost key verification failed") {
                return failure.hint(format!("compare its key, then accept it: {}", remote.trial()));
            }
            if heard("Permission denied") {
                return failure
                    .hint(format!("ssh-copy-id {}", remote.host))
                    .hint(format!("to see what is tried: {}", remote.trial().replacen("ssh", "ssh -v", 1)));
            }
            failure.hint(remote.trial())
        }
        _ => from_there(remote, status, said),
    }
}

/// Makes a failure of what the program there printed on stderr.
fn from_there(remote: &Remote, status: ExitStatus, said: &VecDeque<String>) -> Failure {
    let kind = match status.code() {
        Some(2) => FailureKind::Usage,
        Some(4) => FailureKind::LockHeld,
        Some(5) => FailureKind::Halted,
        _ => FailureKind::Failed,
    };
    let labelled = |label: &str| -> Vec<String> {
        said.iter().filter_map(|line| line.strip_prefix(label)).map(str::to_owned).collect()
    };
    let mut chain = [labelled(LABELS[0]), labelled(LABELS[1])].concat();
    if chain.is_empty() {
        chain = vec![status.to_string()];
        chain.splice(..0, said.back().cloned());
    }
    let mut failure = Failure::new(kind, chain.pop().unwrap_or_default());
    while let Some(sentence) = chain.pop() {
        failure = failure.context(sentence);
    }
    let failure = failure.context(format!("failed on {}", remote.authority));
    labelled(LABELS[2]).into_iter().fold(failure, Failure::hint)
}

/// Runs the program there and returns what it printed, and its exit code, which is one of these.
pub(crate) fn run(
    remote: &Remote,
    binary: Option<&Path>,
    words: &[OsString],
    watch: &dyn Watch,
    good: &[i32],
) -> Result<(Vec<u8>, i32), Failure> {
    let (running, mut printed) = start(remote, binary, words, watch)?;
    let mut output = Vec::new();
    printed.read_to_end(&mut output).or_failure(FailureKind::Failed)?;
    let code = running.wait(good)?;
    Ok((output, code))
}

fn quoted(word: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let remote = |text: &str| {
            let remote = Remote::parse(OsStr::new(text)).unwrap();
            remote.map(|remote| (remote.authority, remote.host, remote.port, remote.path.into_string().unwrap()))
        };
        let some = |authority: &str, host: &str, port: Option<u16>, path: &str| {
            Some((authority.to_owned(), host.to_owned(), port, path.to_owned()))
        };
        assert_eq!(remote("/var/lib/longhorn"), None);
        assert_eq!(remote("ssh://pi2/a b%20"), some("pi2", "pi2", None, "/a b%20"));
        assert_eq!(remote("ssh://root@pi2:2222/x"), some("root@pi2:2222", "root@pi2", Some(2222), "/x"));
        assert_eq!(remote("ssh://[::1]/x"), some("[::1]", "::1", None, "/x"));
        assert_eq!(remote("ssh://a@[fe80::2]:22/x"), some("a@[fe80::2]:22", "a@fe80::2", Some(22), "/x"));
        for wrong in [
            "ssh://[::1/x",
            "ssh://[::1]2/x",
            "ssh://a@/x",
            "ssh://@a/x",
            "ssh://a:/x",
            "ssh://pi2",
            "ssh://-oProxyCommand=x/y",
            "ssh://a@-oProxyCommand=x/y",
            "ssh:///x",
            "ssh://a:b/c",
            "ssh://a b/c",
        ] {
            assert_eq!(Remote::parse(OsStr::new(wrong)).unwrap_err().kind(), FailureKind::Usage, "{wrong}");
        }
    }
}
