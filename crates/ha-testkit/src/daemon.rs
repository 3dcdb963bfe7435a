//! A server that a test has started: it ends with it, also when the test is killed.

use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

/// A process that runs in the background. It lives as long as the thread that started it: then the kernel would end it
/// in any case. It is killed on drop.
#[derive(Debug)]
pub struct Daemon {
    pid: Pid,
    ended: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts the process in a thread of its own, which waits for it: the kernel ends the process with that thread, so
    /// also when this program is killed.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(mut command: Command) -> Self {
        let (sender, receiver) = mpsc::channel();
        let ended = std::thread::spawn(move || {
            let parent = rustix::process::getpid();
            #[allow(unsafe_code, reason = "the two calls between fork and exec are plain system calls")]
            // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours.
            unsafe {
                command.pre_exec(move || {
                    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                    match rustix::process::getppid() {
                        Some(now) if now == parent => Ok(()),
                        _ => Err(io::Error::other("the parent has ended")),
                    }
                });
            }
            let mut child: Child =
                command.spawn().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
            let _ = sender.send(Pid::from_child(&child));
            let _ = child.wait();
        });
        Self { pid: receiver.recv().expect("a process id"), ended: Some(ended) }
    }

    /// Returns the process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Tells whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.has_ended() {
            false => Ok(kill_process(self.pid, signal)?),
            true => Err(io::Error::other("it has ended")),
        }
    }

    /// Ends it with a signal, and waits for that.
    pub fn end(mut self, signal: Signal) {
        self.end_now(signal);
    }

    fn end_now(&mut self, signal: Signal) {
        let _ = self.signal(signal);
        // a frozen one hears no other signal
        let _ = self.signal(Signal::CONT);
        if let Some(ended) = self.ended.take() {
            let _ = ended.join();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end_now(Signal::KILL);
    }
}

/// Returns a port of the loopback interface that nobody listens on now. It lies below those that the kernel gives to
/// connections, and no other call in this process returns it, so nobody takes it before the server does.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let place = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + place).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
