//! A way to a server on 127.0.0.1 that breaks after so many bytes: it is cut, or nothing passes any more. For any
//! protocol; [`crate::wire`] knows MySQL's.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// When the way breaks: bytes of all connections together, counted from [`Gate::close_after`] on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// So many went to the server.
    Sent(u64),
    /// So many came back.
    Answered(u64),
}

/// How it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Connections end, this one and later ones.
    Cut,
    /// Connections stay and nothing passes.
    Stall,
}

#[derive(Debug, Default)]
struct State {
    ended: AtomicBool,
    broken: AtomicBool,
    stall: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
    /// Bytes that may still pass; all while it is open.
    most_sent: AtomicU64,
    most_answered: AtomicU64,
}

/// The listener; it ends on drop, with its connections.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    state: Arc<State>,
}

impl Gate {
    /// Listens on a port of its own and passes connections on to this one.
    ///
    /// # Panics
    /// When there is no port.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        let gate = Self { port, state: Arc::clone(&state) };
        gate.open();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.ended.load(SeqCst) {
                    return;
                }
                if state.broken.load(SeqCst) && !state.stall.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
                pass(&client, &server, &state, true);
                pass(&server, &client, &state, false);
            }
        });
        gate
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets everything pass.
    pub fn open(&self) {
        self.state.most_sent.store(u64::MAX, SeqCst);
        self.state.most_answered.store(u64::MAX, SeqCst);
        self.state.broken.store(false, SeqCst);
    }

    /// Breaks after so many bytes from now on.
    pub fn close_after(&self, after: After, how: Break) {
        self.state.stall.store(how == Break::Stall, SeqCst);
        self.state.sent.store(0, SeqCst);
        self.state.answered.store(0, SeqCst);
        match after {
            After::Sent(bytes) => self.state.most_sent.store(bytes, SeqCst),
            After::Answered(bytes) => self.state.most_answered.store(bytes, SeqCst),
        }
    }

    /// Returns how many bytes went to the server, and came back, since the last [`Gate::close_after`].
    pub fn passed(&self) -> (u64, u64) {
        (self.state.sent.load(SeqCst), self.state.answered.load(SeqCst))
    }

    /// Waits until it is broken.
    ///
    /// # Panics
    /// When that takes longer.
    #[track_caller]
    pub fn wait_broken(&self, patience: Duration) {
        let started = Instant::now();
        while !self.state.broken.load(SeqCst) {
            assert!(started.elapsed() < patience, "only {:?} bytes have passed", self.passed());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.ended.store(true, SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Passes one direction on, in a thread that ends with the connection.
fn pass(from: &TcpStream, to: &TcpStream, state: &Arc<State>, sent: bool) {
    let (mut from, mut to) = (from.try_clone().expect("a stream"), to.try_clone().expect("a stream"));
    let _ = (to.set_nodelay(true), from.set_read_timeout(Some(Duration::from_millis(100))));
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        let (passed, most) =
            if sent { (&state.sent, &state.most_sent) } else { (&state.answered, &state.most_answered) };
        let mut buffer = [0; 16384];
        loop {
            if state.ended.load(SeqCst) || (state.broken.load(SeqCst) && !state.stall.load(SeqCst)) {
                break;
            }
            if state.broken.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let before = passed.fetch_add(length as u64, SeqCst);
                    let left = most.load(SeqCst).saturating_sub(before);
                    let now = length.min(usize::try_from(left).unwrap_or(usize::MAX));
                    if to.write_all(&buffer[..now]).is_err() {
                        break;
                    }
                    if before + now as u64 >= most.load(SeqCst) {
                        state.broken.store(true, SeqCst);
                    }
                    // The rest of it waits, and passes when the way is open again.
                    while state.broken.load(SeqCst) && state.stall.load(SeqCst) && !state.ended.load(SeqCst) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    if now < length && (state.broken.load(SeqCst) || to.write_all(&buffer[now..length]).is_err()) {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(_) => break,
            }
        }
        // What one side has ended the other may still answer, unless the way is broken.
        let how = if state.broken.load(SeqCst) || state.ended.load(SeqCst) { Shutdown::Both } else { Shutdown::Write };
        let _ = to.shutdown(how);
        if how == Shutdown::Both {
            let _ = from.shutdown(how);
        }
    });
}
