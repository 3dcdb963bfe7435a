//! Rules, switches, delay and clock of a passthrough, all of which can be changed while it is mounted.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;

/// A request of the kernel, by its FUSE name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the request of that name")]
pub enum Operation {
    Lookup,
    Getattr,
    /// Any change of attributes; the four below are its kinds, and a rule for either matches.
    Setattr,
    Chmod,
    Chown,
    Truncate,
    Utimens,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    /// Its rules see both paths.
    Rename,
    /// Its rules see the new path.
    Link,
    Open,
    Create,
    Read,
    Write,
    Flush,
    Fsync,
    Fallocate,
    Lseek,
    CopyFileRange,
    Opendir,
    /// One request brings many entries; the last one of a directory brings none.
    Readdir,
    Fsyncdir,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
}

impl Operation {
    const NUMBER: usize = Self::Removexattr as usize + 1;

    pub(super) fn is_metadata(self) -> bool {
        use Operation::{CopyFileRange, Fallocate, Flush, Fsync, Lseek, Read, Write};
        !matches!(self, Read | Write | Flush | Fsync | Fallocate | Lseek | CopyFileRange)
    }
}

/// What runs before a request is carried out; it gets the request's path.
pub type Hook = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What a rule does to the requests that it matches.
#[derive(Clone)]
pub enum Action {
    /// Nothing is done, this error is the answer.
    Fail(Errno),
    /// The request is carried out, and this error is the answer all the same: an answer that was lost.
    FailAfter(Errno),
    /// The request is carried out this much later.
    Delay(Duration),
    /// The request is carried out after this has run with the request's path, on one of the serving threads: the
    /// moment to change something in the backing directory, or to kill the client.
    Run(Hook),
    /// No more than this many bytes are written or copied (`Write`, `CopyFileRange`).
    Short(usize),
}

impl fmt::Debug for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail(errno) => write!(formatter, "Fail({errno})"),
            Self::FailAfter(errno) => write!(formatter, "FailAfter({errno})"),
            Self::Delay(delay) => write!(formatter, "Delay({delay:?})"),
            Self::Run(_) => formatter.write_str("Run(_)"),
            Self::Short(bytes) => write!(formatter, "Short({bytes})"),
        }
    }
}

#[derive(Debug, Clone)]
enum PathPattern {
    Any,
    Is(Vec<u8>),
    Contains(Vec<u8>),
    EndsWith(Vec<u8>),
}

impl PathPattern {
    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Is(whole) => path == whole,
            Self::Contains(part) => part.is_empty() || path.windows(part.len()).any(|window| window == part),
            Self::EndsWith(end) => path.ends_with(end),
        }
    }
}

/// Which requests are tampered with, and how. Paths are relative to the backing directory, without a leading slash (the
/// root itself is empty); patterns are bytes. Without more, a rule fails every match with EIO.
#[derive(Debug, Clone)]
pub struct Rule {
    operations: Vec<Operation>,
    pattern: PathPattern,
    skip: u64,
    times: u64,
    action: Action,
    seen: u64,
    fired: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Rule {
    /// Makes a rule for one kind of request.
    pub fn on(operation: Operation) -> Self {
        Self::on_any(&[operation])
    }

    /// Makes a rule for several kinds of request; none means all.
    pub fn on_any(operations: &[Operation]) -> Self {
        Self {
            operations: operations.to_vec(),
            pattern: PathPattern::Any,
            skip: 0,
            times: u64::MAX,
            action: Action::Fail(Errno::IO),
            seen: 0,
            fired: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// Only this path.
    pub fn path_is(mut self, path: impl AsRef<[u8]>) -> Self {
        self.pattern = PathPattern::Is(path.as_ref().to_vec());
        self
    }

    /// Only paths with these bytes in them.
    pub fn path_contains(mut self, part: impl AsRef<[u8]>) -> Self {
        self.pattern = PathPattern::Contains(part.as_ref().to_vec());
        self
    }

    /// Only paths that end so.
    pub fn path_ends_with(mut self, end: impl AsRef<[u8]>) -> Self {
        self.pattern = PathPattern::EndsWith(end.as_ref().to_vec());
        self
    }

    /// Lets the first `number` matches through.
    pub fn skip(mut self, number: u64) -> Self {
        self.skip = number;
        self
    }

    /// Acts on this many matches, then no more.
    pub fn times(mut self, number: u64) -> Self {
        self.times = number;
        self
    }

    /// Acts on one match only.
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// See [`Action::Fail`].
    pub fn error(self, errno: Errno) -> Self {
        self.action(Action::Fail(errno))
    }

    /// See [`Action::FailAfter`].
    pub fn error_after(self, errno: Errno) -> Self {
        self.action(Action::FailAfter(errno))
    }

    /// See [`Action::Delay`].
    pub fn delay(self, delay: Duration) -> Self {
        self.action(Action::Delay(delay))
    }

    /// See [`Action::Run`].
    pub fn run(self, hook: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.action(Action::Run(Arc::new(hook)))
    }

    /// See [`Action::Short`].
    pub fn short(self, bytes: usize) -> Self {
        self.action(Action::Short(bytes))
    }

    /// Sets the action.
    pub fn action(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    fn wants(&self, operations: &[Operation]) -> bool {
        self.operations.is_empty() || self.operations.iter().any(|operation| operations.contains(operation))
    }
}

/// An injected rule, to ask how often it acted, and to end it.
#[derive(Debug, Clone)]
pub struct Fault {
    fired: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Fault {
    /// Returns how many requests the rule has acted on.
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::SeqCst)
    }

    /// Lets the rule act no more; other rules stay.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

/// What the server does not support, or does differently, as a whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct Switches {
    /// Every change is answered with EROFS; files that are open for writing too.
    pub read_only: bool,
    /// No extended attributes and no ACLs: EOPNOTSUPP. (A server says ENOSYS, but the kernel would remember that until
    /// the unmount; programs see EOPNOTSUPP either way.)
    pub no_xattr: bool,
    /// No hard links: EPERM.
    pub no_link: bool,
    /// No RENAME_EXCHANGE: EINVAL.
    pub no_exchange: bool,
    /// Owners cannot be set: EPERM, as behind `root_squash`.
    pub no_chown: bool,
    /// COPY_FILE_RANGE is passed on as one request (NFS 4.2); off, the kernel reads and writes instead (NFS 3), so rules
    /// for `Read` and `Write` see the copy. Off at the start; once a client has seen it off, it stays off for this
    /// mount.
    pub copy_file_range: bool,
    /// Names that differ only in ASCII case are the same file.
    pub fold_case: bool,
    /// Times are cut to multiples of this many nanoseconds (2,000,000,000 is vfat, 1,000 many servers; 0 is off).
    pub time_granularity: i64,
}

/// The controls of a mounted passthrough.
#[derive(Debug)]
pub struct Control {
    rules: Mutex<Vec<Rule>>,
    has_rules: AtomicBool,
    switches: Mutex<Switches>,
    delay: AtomicU64,
    clock_offset: AtomicI64,
    counts: [AtomicU64; Operation::NUMBER],
}

/// What the rules say about a request.
pub(super) enum Verdict {
    Pass,
    Fail(Errno),
    FailAfter(Errno),
    Short(usize),
}

impl Control {
    pub(super) fn new(delay: Duration) -> Self {
        let control = Self {
            rules: Mutex::default(),
            has_rules: AtomicBool::new(false),
            switches: Mutex::default(),
            delay: AtomicU64::new(0),
            clock_offset: AtomicI64::new(0),
            counts: [const { AtomicU64::new(0) }; Operation::NUMBER],
        };
        control.set_delay(delay);
        control
    }

    /// Adds a rule. Rules are asked in the order of their arrival; the first one that acts is the last one asked, but
    /// delays and hooks let the next ones act as well.
    pub fn inject(&self, rule: Rule) -> Fault {
        let fault = Fault { fired: Arc::clone(&rule.fired), ended: Arc::clone(&rule.ended) };
        self.rules.lock().expect("rules").push(rule);
        self.has_rules.store(true, Ordering::SeqCst);
        fault
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.has_rules.store(false, Ordering::SeqCst);
        self.rules.lock().expect("rules").clear();
    }

    /// Changes the switches.
    pub fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut self.switches.lock().expect("switches"));
    }

    /// Sets the delay of each metadata request.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Sets how far the server's clock is ahead, in nanoseconds (behind, when negative). It decides the mtimes that the
    /// server sets by itself: on create, write, truncate, "now", and of a directory whose entries change. ctimes stay
    /// those of the backing file system.
    pub fn set_clock_offset(&self, nanoseconds: i64) {
        self.clock_offset.store(nanoseconds, Ordering::SeqCst);
    }

    /// Returns how many requests of a kind have arrived.
    pub fn count(&self, operation: Operation) -> u64 {
        self.counts[operation as usize].load(Ordering::SeqCst)
    }

    /// Returns how many metadata requests have arrived.
    pub fn count_metadata(&self) -> u64 {
        use Operation as O;
        let all = [
            O::Lookup,
            O::Getattr,
            O::Setattr,
            O::Readlink,
            O::Mknod,
            O::Mkdir,
            O::Unlink,
            O::Rmdir,
            O::Symlink,
            O::Rename,
            O::Link,
            O::Open,
            O::Create,
            O::Opendir,
            O::Readdir,
            O::Fsyncdir,
            O::Statfs,
            O::Setxattr,
            O::Getxattr,
            O::Listxattr,
            O::Removexattr,
        ];
        all.iter().map(|operation| self.count(*operation)).sum()
    }

    /// Sets all counts to zero.
    pub fn reset_counts(&self) {
        for count in &self.counts {
            count.store(0, Ordering::SeqCst);
        }
    }

    pub(super) fn switches(&self) -> Switches {
        *self.switches.lock().expect("switches")
    }

    pub(super) fn clock_offset(&self) -> i64 {
        self.clock_offset.load(Ordering::SeqCst)
    }

    /// Counts a request, sleeps its delay and asks the rules. `operations` begins with the request itself, then come
    /// its kinds.
    pub(super) fn admit(&self, operations: &[Operation], paths: &dyn Fn() -> Vec<Vec<u8>>) -> Verdict {
        for operation in operations {
            self.counts[*operation as usize].fetch_add(1, Ordering::Relaxed);
        }
        let delay = self.delay.load(Ordering::Relaxed);
        if delay > 0 && operations[0].is_metadata() {
            std::thread::sleep(Duration::from_nanos(delay));
        }
        if !self.has_rules.load(Ordering::SeqCst) {
            return Verdict::Pass;
        }
        // The hooks run after the lock is gone, so that they may inject and clear rules.
        let mut before: Vec<(Action, Vec<u8>)> = Vec::new();
        let mut verdict = Verdict::Pass;
        {
            let mut rules = self.rules.lock().expect("rules");
            if !rules.iter().any(|rule| rule.wants(operations)) {
                return Verdict::Pass;
            }
            let paths = paths();
            for rule in rules.iter_mut().filter(|rule| rule.wants(operations)) {
                let Some(path) = paths.iter().find(|path| rule.pattern.matches(path)) else { continue };
                if rule.ended.load(Ordering::SeqCst) {
                    continue;
                }
                rule.seen += 1;
                if rule.seen <= rule.skip || rule.seen - rule.skip > rule.times {
                    continue;
                }
                rule.fired.fetch_add(1, Ordering::SeqCst);
                match &rule.action {
                    Action::Fail(errno) => verdict = Verdict::Fail(*errno),
                    Action::FailAfter(errno) => verdict = Verdict::FailAfter(*errno),
                    Action::Short(bytes) => verdict = Verdict::Short(*bytes),
                    Action::Delay(_) | Action::Run(_) => {
                        before.push((rule.action.clone(), path.clone()));
                        continue;
                    }
                }
                break;
            }
        }
        for (action, path) in before {
            match action {
                Action::Delay(delay) => std::thread::sleep(delay),
                Action::Run(hook) => hook(&path),
                Action::Fail(_) | Action::FailAfter(_) | Action::Short(_) => {}
            }
        }
        verdict
    }
}
