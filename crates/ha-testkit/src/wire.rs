//! What may be at the other end of a connection, or in its middle: a server that says nothing or something else, and a
//! proxy for MySQL that cuts the connection at a given statement. All listen on 127.0.0.1 and end on drop.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// A listener and its thread.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    commands: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// Where a [`Listener::proxy`] cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees this statement.
    Before(u64),
    /// The server has done this statement; its answer is lost.
    After(u64),
    /// From this statement on nothing passes, and new connections hear nothing: a server that froze.
    Stall(u64),
    /// Nowhere.
    Never,
}

impl Listener {
    /// Accepts connections and says nothing.
    pub fn silent() -> Self {
        Self::greeting(b"")
    }

    /// Accepts connections, says this, and then nothing more.
    pub fn greeting(words: &'static [u8]) -> Self {
        let mut held = Vec::new();
        Self::start(move |mut stream, _| {
            let _ = stream.write_all(words);
            held.push(stream);
        })
    }

    /// Accepts connections, and answers what it is told before it closes them.
    pub fn answering(words: &'static [u8]) -> Self {
        Self::start(move |mut stream, _| {
            let _ = stream.write_all(words);
            let _ = stream.shutdown(Shutdown::Both);
        })
    }

    /// Says the first of these packets, and the next one after each packet that it hears; they are numbered as MySQL does.
    pub fn conversation(packets: Vec<Vec<u8>>) -> Self {
        Self::start(move |mut stream, _| {
            for (index, payload) in packets.iter().enumerate() {
                if index > 0 && read_packet(&mut stream).is_none() {
                    return;
                }
                let mut packet = u32::try_from(payload.len()).expect("a small packet").to_le_bytes();
                packet[3] = u8::try_from(2 * index).expect("a short conversation");
                let _ = stream.write_all(&[&packet, &payload[..]].concat());
            }
        })
    }

    /// Passes connections on to a server on 127.0.0.1, without TLS, and cuts one of them at a statement, counted from 1
    /// over all connections. After that new connections are passed on, or all refused.
    pub fn proxy(port: u16, cut: Cut, refuse_after: bool) -> Self {
        let was_cut = Arc::new(AtomicBool::new(false));
        let mut held = Vec::new();
        Self::start(move |client, commands| {
            if was_cut.load(Ordering::SeqCst) && matches!(cut, Cut::Stall(_)) {
                held.push(client);
                return;
            }
            if refuse_after && was_cut.load(Ordering::SeqCst) {
                return;
            }
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
            let _ = (server.set_nodelay(true), client.set_nodelay(true));
            let pipe = Pipe { client, server, cut, commands: Arc::clone(commands), was_cut: Arc::clone(&was_cut) };
            pipe.start();
        })
    }

    fn start(mut serve: impl FnMut(TcpStream, &Arc<AtomicU64>) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (ended, commands) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (Arc::clone(&ended), Arc::clone(&commands));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    serve(stream, &count);
                }
            }
        });
        Self { address, ended, commands, thread: Some(thread) }
    }

    /// Returns its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns how many statements a proxy has seen.
    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::SeqCst)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The two directions of a connection through the proxy.
struct Pipe {
    client: TcpStream,
    server: TcpStream,
    cut: Cut,
    commands: Arc<AtomicU64>,
    was_cut: Arc<AtomicBool>,
}

impl Pipe {
    fn start(self) {
        let Self { mut client, mut server, cut, commands, was_cut } = self;
        let (mut to_client, mut from_server) =
            (client.try_clone().expect("a stream"), server.try_clone().expect("a stream"));
        let muted = Arc::new(AtomicBool::new(false));
        let mute = Arc::clone(&muted);
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(length @ 1..) = from_server.read(&mut buffer) {
                // the answer that is to be lost has come: now the server has done it
                if muted.load(Ordering::SeqCst) || to_client.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = (to_client.shutdown(Shutdown::Both), from_server.shutdown(Shutdown::Both));
        });
        std::thread::spawn(move || {
            while let Some(packet) = read_packet(&mut client) {
                // sequence 0 begins a command
                let number = if packet[3] == 0 { commands.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
                if cut == Cut::Stall(number) {
                    // the other direction keeps the connection open
                    was_cut.store(true, Ordering::SeqCst);
                    return;
                }
                if cut == Cut::Before(number) {
                    was_cut.store(true, Ordering::SeqCst);
                    break;
                }
                if cut == Cut::After(number) {
                    was_cut.store(true, Ordering::SeqCst);
                    mute.store(true, Ordering::SeqCst);
                }
                if server.write_all(&packet).is_err() {
                    break;
                }
                // a COM_STMT_CLOSE and a COM_QUIT have no answer that could be lost
                if cut == Cut::After(number) && matches!(packet[4], 0x19 | 0x01) {
                    break;
                }
                if cut == Cut::After(number) {
                    return;
                }
            }
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        });
    }
}

fn read_packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet).ok()?;
    let length = u32::from_le_bytes([packet[0], packet[1], packet[2], 0]) as usize;
    packet.resize(4 + length, 0);
    stream.read_exact(&mut packet[4..]).ok()?;
    Some(packet)
}
