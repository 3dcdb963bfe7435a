//! Where a test stands: a store with runs in it, and a dashboard over it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ha_audit::dsn::Dsn;
use ha_audit::oplog::OpLog;
use ha_audit::store::Store;
use ha_dashboard::lock::{LockStatus, NoLocks};
use ha_dashboard::server::Stop;
use ha_dashboard::{Credentials, Event, Place, Settings};
use ha_sync_core::name::RunId;
use ha_sync_core::record::{Counts, Iteration, Operation, OperationKind, OperationStatus, Outcome, Status};
use ha_testkit::loopmount::Skipped;
use ha_testkit::mariadb::{self, Server};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Makes of functions of a `&Ground` a test on each database.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { super::$name(&$crate::ground::Ground::sqlite()); })*
        }
        mod mariadb {
            $(#[test] fn $name() { super::$name(&ha_testkit::need!($crate::ground::Ground::mariadb())); })*
        }
    };
}
pub(crate) use on_both;

pub(crate) struct Ground {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) server: Option<(Arc<Server>, String)>,
}

impl Ground {
    pub(crate) fn sqlite() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), server: None }
    }

    pub(crate) fn mariadb() -> Result<Self, Skipped> {
        let server = mariadb::shared()?;
        Ok(Self::of(server))
    }

    pub(crate) fn of(server: Arc<Server>) -> Self {
        let database = server.create_database();
        Self { directory: tempfile::tempdir().unwrap(), server: Some((server, database)) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn dsn(&self) -> Dsn {
        match &self.server {
            None => Dsn::Sqlite(self.path().join("ha-sync.db")),
            Some((server, database)) => server.dsn(database).parse().unwrap(),
        }
    }

    /// Opens the store for writing, which makes it.
    pub(crate) fn store(&self) -> Store {
        Store::open(&self.dsn(), Duration::from_secs(20)).unwrap()
    }

    /// Records a run that has ended.
    pub(crate) fn record(&self, run: &Run) -> RunId {
        let store = self.store();
        let (iteration, outcome) = run.lines();
        let log = OpLog::create(self.path(), &iteration).unwrap();
        log.append(&run.operations).unwrap();
        let path = log.finish(&outcome).unwrap();
        store.flush(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        store.close().unwrap();
        iteration.run_id
    }

    /// Records a run that has not ended.
    pub(crate) fn begin(&self, run: &Run) -> RunId {
        let store = self.store();
        let (iteration, _) = run.lines();
        store.begin(&iteration).unwrap();
        store.close().unwrap();
        iteration.run_id
    }

    /// Starts a dashboard for everybody.
    pub(crate) fn dashboard(&self) -> Dashboard {
        Dashboard::start(self.dsn(), Box::new(NoLocks), Some(self.path()), None)
    }

    /// Returns this place as the dashboard is told of it.
    pub(crate) fn place(&self) -> Place {
        Place { dsn: self.dsn(), log_directory: Some(self.path().to_owned()) }
    }
}

/// A run to record.
pub(crate) struct Run {
    pub(crate) pair: &'static str,
    pub(crate) direction: &'static str,
    /// Minutes before now.
    pub(crate) ago: i64,
    pub(crate) dry_run: bool,
    pub(crate) status: Status,
    pub(crate) error: Option<&'static str>,
    pub(crate) skips: &'static [(&'static str, u64)],
    pub(crate) operations: Vec<Operation>,
}

impl Run {
    pub(crate) fn new(pair: &'static str, ago: i64) -> Self {
        Self {
            pair,
            direction: "a-to-b",
            ago,
            dry_run: false,
            status: Status::Success,
            error: None,
            skips: &[],
            operations: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, kind: OperationKind, path: &str) -> Self {
        let seq = self.operations.len() as u64 + 1;
        self.operations.push(operation(seq, kind, path, self.started_at()));
        self
    }

    pub(crate) fn failing(mut self, kind: OperationKind, path: &str, message: &str, reason: Option<&str>) -> Self {
        self = self.with(kind, path);
        if let Some(last) = self.operations.last_mut() {
            last.status = OperationStatus::Fail;
            last.error_message = Some(message.to_owned());
            last.reason = reason.map(str::to_owned);
            last.bytes = 0;
        }
        self.status = Status::PartialFailure;
        self
    }

    fn started_at(&self) -> Timestamp {
        let now = Timestamp::now() - SignedDuration::from_mins(self.ago);
        Timestamp::from_millisecond(now.as_millisecond()).unwrap()
    }

    fn lines(&self) -> (Iteration, Outcome) {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let started_at = self.started_at();
        let count = |kind: OperationKind| {
            let done =
                |operation: &&Operation| operation.operation == kind && operation.status == OperationStatus::Success;
            self.operations.iter().filter(done).count() as u64
        };
        let iteration = Iteration {
            run_id: RunId::new(started_at, NEXT.fetch_add(1, Ordering::Relaxed)),
            sync_pair: self.pair.parse().unwrap(),
            direction: self.direction.parse().unwrap(),
            src: format!("/mnt/a/{}", self.pair),
            dest: format!("/mnt/b/{}", self.pair),
            started_at,
            dry_run: self.dry_run,
            lease_transitions: None,
        };
        let failed = |operation: &&Operation| operation.status == OperationStatus::Fail;
        let counts = Counts {
            files_created: count(OperationKind::Create),
            files_updated: count(OperationKind::Update),
            files_deleted: count(OperationKind::Delete),
            files_skipped: 7,
            files_failed: self.operations.iter().filter(failed).count() as u64,
            total_bytes_transferred: self.operations.iter().map(|operation| operation.bytes).sum(),
            skip_reasons: self.skips.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        };
        let ended_at = started_at + Duration::from_millis(1500);
        (iteration, Outcome { ended_at, status: self.status, counts, error_message: self.error.map(str::to_owned) })
    }
}

pub(crate) fn operation(seq: u64, kind: OperationKind, path: &str, started_at: Timestamp) -> Operation {
    Operation {
        seq,
        operation: kind,
        direction: None,
        filepath: path.to_owned(),
        size_before: (kind != OperationKind::Create).then_some(1000),
        size_after: (kind != OperationKind::Delete).then_some(2048),
        bytes: if kind == OperationKind::Delete { 0 } else { 2048 },
        md5_before: None,
        md5_after: None,
        started_at,
        ended_at: Some(started_at + Duration::from_millis(5)),
        status: OperationStatus::Success,
        error_message: None,
        reason: None,
    }
}

/// A dashboard in a thread; it is stopped on drop.
pub(crate) struct Dashboard {
    pub(crate) address: SocketAddr,
    pub(crate) said: Arc<Mutex<Vec<String>>>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    pub(crate) fn start(
        dsn: Dsn,
        locks: Box<dyn LockStatus>,
        log_directory: Option<&Path>,
        credentials: Option<Credentials>,
    ) -> Self {
        let place = Place { dsn, log_directory: log_directory.map(Path::to_owned) };
        Self::start_at(place, None, locks, credentials)
    }

    pub(crate) fn start_at(
        place: Place,
        other_place: Option<Place>,
        locks: Box<dyn LockStatus>,
        credentials: Option<Credentials>,
    ) -> Self {
        let (sender, receiver) = mpsc::channel();
        let said = Arc::new(Mutex::new(Vec::new()));
        let say = {
            let said = Arc::clone(&said);
            move |event: Event<'_>| {
                if let Event::Listening { address } = event {
                    sender.send(address).unwrap();
                }
                said.lock().unwrap().push(format!("{event:?}"));
            }
        };
        let settings =
            Settings { listen: ([127, 0, 0, 1], 0).into(), place, other_place, locks, credentials, say: Box::new(say) };
        let stop = Stop::default();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || ha_dashboard::serve(settings, &stop).unwrap()
        });
        let address = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        Self { address, said, stop, thread: Some(thread) }
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, "")
    }

    pub(crate) fn json(&self, target: &str) -> Value {
        let answer = self.get(target);
        assert_eq!(answer.status, 200, "{target}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/json", "{target}");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Sends a request with more header lines, each ended by CR LF.
    pub(crate) fn ask(&self, method: &str, target: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::parse(&bytes)
    }

    /// Tells it to stop.
    pub(crate) fn begin_to_stop(&self) {
        self.stop.stop();
    }

    /// Stops it as a signal does, and waits for it.
    pub(crate) fn stop(&mut self) {
        self.begin_to_stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Whether the body has its end.
    pub(crate) whole: bool,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("headers end") + 4;
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let (body, whole) = if chunked { dechunk(&bytes[end..]) } else { (bytes[end..].to_vec(), true) };
        Self { status, headers, body: String::from_utf8(body).unwrap(), whole }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }
}

fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = bytes.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return (body, true);
        }
        body.extend_from_slice(&bytes[line + 2..line + 2 + length]);
        bytes = &bytes[line + 2 + length + 2..];
    }
}
