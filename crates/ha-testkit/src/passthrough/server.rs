//! The requests, carried out on the backing directory.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{
    AtFlags, FallocateFlags, Gid, Mode, OFlags, RawDir, SeekFrom, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::control::{Control, Operation, Verdict};

const NANOS: i64 = 1_000_000_000;

type Answer<T> = Result<T, Errno>;

struct Node {
    /// Closed when too many are open; it is opened again by the name, then.
    handle: Option<Arc<OwnedFd>>,
    /// Directory and name under which it was last seen.
    place: (u64, OsString),
    /// Device and inode of the backing file system.
    identity: (u64, u64),
    /// How often the kernel was told of it and has not forgotten yet.
    lookups: u64,
    /// How often it is open: an unlinked file has no name to open it by, so its handle stays.
    opened: u64,
}

/// What the kernel knows.
struct Nodes {
    known: HashMap<u64, Node>,
    /// Nodes with a handle, the oldest first.
    held: VecDeque<u64>,
    most_held: usize,
}

impl Nodes {
    fn handle(&mut self, inode: u64) -> Answer<Arc<OwnedFd>> {
        // Up to the first directory that has a handle, then down again.
        let mut missing = Vec::new();
        let mut here = inode;
        let mut handle = loop {
            let node = self.known.get(&here).ok_or(Errno::STALE)?;
            if let Some(handle) = &node.handle {
                break Arc::clone(handle);
            }
            missing.push(here);
            here = node.place.0;
        };
        for inode in missing.into_iter().rev() {
            let node = &self.known[&inode];
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&*handle, &node.place.1, flags, Mode::empty())
                .map_err(|errno| if errno == Errno::NOENT { Errno::STALE } else { errno })?;
            let stat = rustix::fs::fstat(&opened)?;
            if (stat.st_dev, stat.st_ino) != node.identity {
                return Err(Errno::STALE);
            }
            handle = Arc::new(opened);
            self.hold(inode, Arc::clone(&handle));
        }
        Ok(handle)
    }

    fn hold(&mut self, inode: u64, handle: Arc<OwnedFd>) {
        if let Some(node) = self.known.get_mut(&inode)
            && node.handle.replace(handle).is_none()
        {
            self.held.push_back(inode);
        }
        let mut patience = self.held.len();
        while self.held.len() > self.most_held && patience > 0 {
            patience -= 1;
            let Some(oldest) = self.held.pop_front() else { break };
            match self.known.get_mut(&oldest) {
                Some(node) if node.opened > 0 || oldest == inode => self.held.push_back(oldest),
                Some(node) => node.handle = None,
                None => {}
            }
        }
    }
}

struct DirectoryEntry {
    name: Vec<u8>,
    inode: u64,
    kind: FileType,
}

enum Handle {
    File(OwnedFd),
    /// The listing is read whole when reading starts (or starts over), so offsets stay valid while entries come and go.
    Directory(Mutex<Vec<DirectoryEntry>>),
}

pub(super) struct Server {
    control: Arc<Control>,
    cached_for: Duration,
    directories_cached_for: Duration,
    root: Arc<OwnedFd>,
    root_path: Vec<u8>,
    root_device: u64,
    root_inode: u64,
    nodes: Mutex<Nodes>,
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    next_handle: AtomicU64,
}

fn proc_path(handle: impl AsFd) -> String {
    format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd())
}

fn fuse(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

fn system_time(seconds: i64, nanoseconds: i64) -> SystemTime {
    if seconds >= 0 {
        UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), u32::try_from(nanoseconds).unwrap_or(0))
    } else {
        UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs())
            + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
    }
}

/// Undoes what `fuser` made of a timespec. Before 1970 it takes the nanoseconds off instead of adding them, so the
/// distance from the epoch holds the two fields as they were sent.
fn timespec(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        },
        Err(before) => Timespec {
            tv_sec: -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(before.duration().subsec_nanos()),
        },
    }
}

fn kind_of(mode: u32) -> FileType {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn omit() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }
}

impl Server {
    pub(super) fn new(backing: &Path, control: Arc<Control>, options: &super::Options) -> std::io::Result<Self> {
        let root = rustix::fs::open(backing, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&root)?;
        let root_path = rustix::fs::readlink(proc_path(&root), Vec::new())?.into_bytes();
        let root = Arc::new(root);
        let node = Node {
            handle: Some(Arc::clone(&root)),
            place: (1, OsString::new()),
            identity: (stat.st_dev, stat.st_ino),
            lookups: u64::MAX / 2,
            opened: 0,
        };
        // Several mounts share what this process may have open with the tests themselves.
        let share = usize::try_from(crate::limits::raise_open_files() / 8).unwrap_or(64).clamp(64, 100_000);
        let most_held = options.handles.unwrap_or(share);
        let nodes = Nodes { known: HashMap::from([(1, node)]), held: VecDeque::new(), most_held };
        Ok(Self {
            control,
            cached_for: options.cached_for,
            directories_cached_for: options.cached_for.max(options.directories_cached_for),
            root,
            root_path,
            root_device: stat.st_dev,
            root_inode: stat.st_ino,
            nodes: Mutex::new(nodes),
            handles: RwLock::default(),
            next_handle: AtomicU64::new(1),
        })
    }

    /// The backing inode number, except that FUSE wants 1 for the root.
    fn number(&self, device: u64, inode: u64) -> u64 {
        match (device == self.root_device, inode) {
            (true, inode) if inode == self.root_inode => 1,
            (true, 1) => 1 << 63,
            (true, inode) => inode,
            (false, inode) => inode ^ device.rotate_left(40) ^ (1 << 62),
        }
    }

    fn attributes(&self, stat: &Stat) -> FileAttr {
        let granularity = self.control.switches().time_granularity;
        let time = |seconds: i64, nanoseconds: u64| {
            let nanoseconds = i64::try_from(nanoseconds).unwrap_or(0);
            if granularity <= 1 {
                return system_time(seconds, nanoseconds);
            }
            let whole = i128::from(seconds) * i128::from(NANOS) + i128::from(nanoseconds);
            let cut = whole - whole.rem_euclid(i128::from(granularity));
            let seconds = cut.div_euclid(i128::from(NANOS));
            let rest = cut.rem_euclid(i128::from(NANOS));
            system_time(i64::try_from(seconds).unwrap_or(0), i64::try_from(rest).unwrap_or(0))
        };
        let ctime = time(stat.st_ctime, stat.st_ctime_nsec);
        FileAttr {
            ino: INodeNo(self.number(stat.st_dev, stat.st_ino)),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime,
            crtime: ctime,
            kind: kind_of(stat.st_mode),
            perm: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
            blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
            flags: 0,
        }
    }

    fn node(&self, inode: INodeNo) -> Answer<Arc<OwnedFd>> {
        self.nodes.lock().expect("nodes").handle(inode.0)
    }

    fn handle(&self, handle: FileHandle) -> Answer<Arc<Handle>> {
        self.handles.read().expect("handles").get(&handle.0).cloned().ok_or(Errno::BADF)
    }

    fn keep(&self, handle: Handle) -> FileHandle {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.write().expect("handles").insert(number, Arc::new(handle));
        FileHandle(number)
    }

    fn file<T>(&self, handle: FileHandle, act: impl FnOnce(BorrowedFd<'_>) -> Answer<T>) -> Answer<T> {
        match &*self.handle(handle)? {
            Handle::File(file) => act(file.as_fd()),
            Handle::Directory(_) => Err(Errno::ISDIR),
        }
    }

    /// Returns the path below the backing directory: empty for the root.
    fn path(&self, inode: INodeNo) -> Vec<u8> {
        let Ok(node) = self.node(inode) else { return Vec::new() };
        if Arc::ptr_eq(&node, &self.root) {
            return Vec::new();
        }
        // A path beyond PATH_MAX cannot be asked for; rules see its last component only.
        let Ok(whole) = rustix::fs::readlink(proc_path(&*node), Vec::new()) else { return Vec::new() };
        let whole = whole.into_bytes();
        let below = whole.strip_prefix(&*self.root_path).map(|rest| rest.strip_prefix(b"/").unwrap_or(rest));
        below.unwrap_or(&whole).to_vec()
    }

    fn path_in(&self, parent: INodeNo, name: &OsStr) -> Vec<u8> {
        let mut path = self.path(parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        path
    }

    /// Runs a request under the rules and switches.
    fn perform<T>(
        &self,
        operations: &[Operation],
        paths: &dyn Fn() -> Vec<Vec<u8>>,
        changes: bool,
        act: impl FnOnce(usize) -> Answer<T>,
    ) -> Answer<T> {
        let (most, lost) = match self.control.admit(operations, paths) {
            Verdict::Pass => (usize::MAX, None),
            Verdict::Fail(errno) => return Err(errno),
            Verdict::FailAfter(errno) => (usize::MAX, Some(errno)),
            Verdict::Short(bytes) => (bytes, None),
        };
        if changes && self.control.switches().read_only {
            return Err(Errno::ROFS);
        }
        let answer = act(most)?;
        lost.map_or(Ok(answer), Err)
    }

    /// Returns the name that the directory has for `name`, which differs from it in case at most.
    fn folded<'a>(&self, directory: BorrowedFd<'_>, name: &'a OsStr) -> Cow<'a, OsStr> {
        if !self.control.switches().fold_case {
            return Cow::Borrowed(name);
        }
        if rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Cow::Borrowed(name);
        }
        let entries = self.list(directory).unwrap_or_default();
        let same = entries.into_iter().find(|entry| entry.name.eq_ignore_ascii_case(name.as_bytes()));
        same.map_or(Cow::Borrowed(name), |entry| Cow::Owned(OsStr::from_bytes(&entry.name).to_owned()))
    }

    fn list(&self, directory: BorrowedFd<'_>) -> Answer<Vec<DirectoryEntry>> {
        let opened = rustix::fs::openat(
            directory,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME,
            Mode::empty(),
        )?;
        let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
        let mut entries = Vec::new();
        let mut listing = RawDir::new(opened, &mut buffer);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let inode = if name == b".." { 1 } else { self.number(self.root_device, entry.ino()) };
            let kind = kind_of(entry.file_type().as_raw_mode());
            entries.push(DirectoryEntry { name: name.to_vec(), inode, kind });
        }
        Ok(entries)
    }

    /// Tells the kernel of an entry, which is known from now on until the kernel forgets it.
    fn enter(&self, parent: BorrowedFd<'_>, parent_inode: INodeNo, name: &OsStr) -> Answer<FileAttr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&handle)?;
        let attributes = self.attributes(&stat);
        let place = (parent_inode.0, name.to_owned());
        let identity = (stat.st_dev, stat.st_ino);
        let mut nodes = self.nodes.lock().expect("nodes");
        let node = nodes.known.entry(attributes.ino.0).or_insert_with(|| Node {
            handle: None,
            place: place.clone(),
            identity,
            lookups: 0,
            opened: 0,
        });
        node.lookups += 1;
        node.identity = identity;
        node.place = place;
        if node.handle.is_none() {
            nodes.hold(attributes.ino.0, Arc::new(handle));
        }
        Ok(attributes)
    }

    /// Remembers where an entry is after a rename: the kernel goes on with its node, and with those below it.
    fn moved(&self, parent: BorrowedFd<'_>, parent_inode: INodeNo, name: &OsStr) {
        if let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && let Some(node) = self.nodes.lock().expect("nodes").known.get_mut(&self.number(stat.st_dev, stat.st_ino))
        {
            node.place = (parent_inode.0, name.to_owned());
        }
    }

    fn count_open(&self, inode: INodeNo, change: i64) {
        if let Some(node) = self.nodes.lock().expect("nodes").known.get_mut(&inode.0) {
            node.opened = node.opened.saturating_add_signed(change);
        }
    }

    fn now(&self) -> Timespec {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX).saturating_add(self.control.clock_offset());
        Timespec { tv_sec: now.div_euclid(NANOS), tv_nsec: now.rem_euclid(NANOS) }
    }

    /// Gives a file that the server has just changed the server's time.
    fn touch(&self, file: BorrowedFd<'_>) {
        if self.control.clock_offset() != 0 {
            let times = Timestamps { last_access: omit(), last_modification: self.now() };
            let _ = rustix::fs::utimensat(rustix::fs::CWD, proc_path(file), &times, AtFlags::empty());
        }
    }

    /// Finishes a new entry: owner and mode as the client wants them, the server's time, and its attributes.
    fn settle(
        &self,
        request: &Request,
        (parent, parent_inode): (BorrowedFd<'_>, INodeNo),
        name: &OsStr,
        mode: Option<u32>,
    ) -> Answer<FileAttr> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        // In a set-group-id directory the group is the directory's, which the backing file system has seen to.
        let inherits = rustix::fs::fstat(parent)?.st_mode & 0o2000 != 0;
        let owner = (request.uid() != stat.st_uid).then(|| Uid::from_raw(request.uid()));
        let group = (!inherits && request.gid() != stat.st_gid).then(|| Gid::from_raw(request.gid()));
        if owner.is_some() || group.is_some() {
            rustix::fs::chownat(parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = mode {
            // The kernel has applied the client's umask; the umask of this process must not count.
            let mode = mode & 0o7777 | stat.st_mode & 0o2000 & if inherits { 0o2000 } else { 0 };
            if stat.st_mode & 0o7777 != mode {
                rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            }
        }
        if self.control.clock_offset() != 0 {
            let times = Timestamps { last_access: self.now(), last_modification: self.now() };
            rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            self.touch(parent);
        }
        self.enter(parent, parent_inode, name)
    }

    fn cached_for(&self, attributes: &FileAttr) -> &Duration {
        if attributes.kind == FileType::Directory { &self.directories_cached_for } else { &self.cached_for }
    }

    fn answer_entry(&self, answer: Answer<FileAttr>, reply: ReplyEntry) {
        match answer {
            Ok(attributes) => reply.entry(self.cached_for(&attributes), &attributes, Generation(0)),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn forget_some(&self, inode: INodeNo, lookups: u64) {
        let mut nodes = self.nodes.lock().expect("nodes");
        if inode.0 == 1 {
            return;
        }
        let Some(node) = nodes.known.get_mut(&inode.0) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0 {
            // Its place in the queue stays: whatever has the number by then is opened again a little early.
            nodes.known.remove(&inode.0);
        }
    }
}

fn answer_empty(answer: Answer<()>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(fuse(errno)),
    }
}

/// Answers with an extended attribute or their list: its size when none is given, else the bytes if they fit.
fn answer_bytes(answer: Answer<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match answer {
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(fuse(errno)),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Two requests in one directory may be on their way at once, as with any network file system.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS | InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(128);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let paths = || vec![self.path_in(parent, name)];
        let answer = self.perform(&[Operation::Lookup], &paths, false, |_| {
            let handle = self.node(parent)?;
            self.enter(handle.as_fd(), parent, &self.folded(handle.as_fd(), name))
        });
        self.answer_entry(answer, reply);
    }

    fn forget(&self, _request: &Request, inode: INodeNo, lookups: u64) {
        self.forget_some(inode, lookups);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let answer = self.perform(&[Operation::Getattr], &|| vec![self.path(inode)], false, |_| {
            Ok(self.attributes(&rustix::fs::fstat(&*self.node(inode)?)?))
        });
        match answer {
            Ok(attributes) => reply.attr(self.cached_for(&attributes), &attributes),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let owns = uid.is_some() || gid.is_some();
        let kinds = [
            (Operation::Setattr, true),
            (Operation::Truncate, size.is_some()),
            (Operation::Chown, owns),
            (Operation::Chmod, mode.is_some()),
            (Operation::Utimens, atime.is_some() || mtime.is_some()),
        ];
        let kinds: Vec<_> = kinds.iter().filter(|(_, asked)| *asked).map(|(kind, _)| *kind).collect();
        let answer = self.perform(&kinds, &|| vec![self.path(inode)], true, |_| {
            let node = self.node(inode)?;
            let path = proc_path(&*node);
            if let Some(size) = size {
                match handle {
                    Some(handle) => self.file(handle, |file| rustix::fs::ftruncate(file, size))?,
                    None => {
                        let file = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                        rustix::fs::ftruncate(file, size)?;
                    }
                }
                self.touch(node.as_fd());
            }
            if owns {
                if self.control.switches().no_chown {
                    return Err(Errno::PERM);
                }
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                rustix::fs::chownat(&*node, "", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if let Some(mode) = mode {
                rustix::fs::chmod(&path, Mode::from_raw_mode(mode & 0o7777))?;
            }
            if atime.is_some() || mtime.is_some() {
                let time = |time: Option<TimeOrNow>| match time {
                    None => omit(),
                    Some(TimeOrNow::Now) => self.now(),
                    Some(TimeOrNow::SpecificTime(time)) => timespec(time),
                };
                let times = Timestamps { last_access: time(atime), last_modification: time(mtime) };
                rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())?;
            }
            Ok(self.attributes(&rustix::fs::fstat(&*node)?))
        });
        match answer {
            Ok(attributes) => reply.attr(self.cached_for(&attributes), &attributes),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        let answer = self.perform(&[Operation::Readlink], &|| vec![self.path(inode)], false, |_| {
            Ok(rustix::fs::readlinkat(&*self.node(inode)?, "", Vec::new())?.into_bytes())
        });
        match answer {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let answer = self.perform(&[Operation::Mknod], &|| vec![self.path_in(parent, name)], true, |_| {
            let handle = self.node(parent)?;
            let name = self.folded(handle.as_fd(), name);
            let kind = rustix::fs::FileType::from_raw_mode(mode);
            rustix::fs::mknodat(&*handle, &*name, kind, Mode::from_raw_mode(mode & 0o7777), u64::from(rdev))?;
            self.settle(request, (handle.as_fd(), parent), &name, Some(mode))
        });
        self.answer_entry(answer, reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let answer = self.perform(&[Operation::Mkdir], &|| vec![self.path_in(parent, name)], true, |_| {
            let handle = self.node(parent)?;
            let name = self.folded(handle.as_fd(), name);
            rustix::fs::mkdirat(&*handle, &*name, Mode::from_raw_mode(mode & 0o7777))?;
            self.settle(request, (handle.as_fd(), parent), &name, Some(mode))
        });
        self.answer_entry(answer, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = self.perform(&[Operation::Unlink], &|| vec![self.path_in(parent, name)], true, |_| {
            let parent = self.node(parent)?;
            rustix::fs::unlinkat(&*parent, &*self.folded(parent.as_fd(), name), AtFlags::empty())?;
            self.touch(parent.as_fd());
            Ok(())
        });
        answer_empty(answer, reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = self.perform(&[Operation::Rmdir], &|| vec![self.path_in(parent, name)], true, |_| {
            let parent = self.node(parent)?;
            rustix::fs::unlinkat(&*parent, &*self.folded(parent.as_fd(), name), AtFlags::REMOVEDIR)?;
            self.touch(parent.as_fd());
            Ok(())
        });
        answer_empty(answer, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let answer = self.perform(&[Operation::Symlink], &|| vec![self.path_in(parent, name)], true, |_| {
            let handle = self.node(parent)?;
            let name = self.folded(handle.as_fd(), name);
            rustix::fs::symlinkat(target, &*handle, &*name)?;
            self.settle(request, (handle.as_fd(), parent), &name, None)
        });
        self.answer_entry(answer, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let paths = || vec![self.path_in(parent, name), self.path_in(new_parent, new_name)];
        let answer = self.perform(&[Operation::Rename], &paths, true, |_| {
            if flags.contains(fuser::RenameFlags::RENAME_EXCHANGE) && self.control.switches().no_exchange {
                return Err(Errno::INVAL);
            }
            let (from, to) = (self.node(parent)?, self.node(new_parent)?);
            let name = self.folded(from.as_fd(), name);
            let new_name = self.folded(to.as_fd(), new_name);
            let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
            rustix::fs::renameat_with(&*from, &*name, &*to, &*new_name, flags)?;
            self.moved(to.as_fd(), new_parent, &new_name);
            if flags.contains(rustix::fs::RenameFlags::EXCHANGE) {
                self.moved(from.as_fd(), parent, &name);
            }
            self.touch(from.as_fd());
            self.touch(to.as_fd());
            Ok(())
        });
        answer_empty(answer, reply);
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let answer = self.perform(&[Operation::Link], &|| vec![self.path_in(parent, name)], true, |_| {
            if self.control.switches().no_link {
                return Err(Errno::PERM);
            }
            let (node, handle) = (self.node(inode)?, self.node(parent)?);
            let name = self.folded(handle.as_fd(), name);
            rustix::fs::linkat(&*node, "", &*handle, &*name, AtFlags::EMPTY_PATH)?;
            self.touch(handle.as_fd());
            self.enter(handle.as_fd(), parent, &name)
        });
        self.answer_entry(answer, reply);
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != fuser::OpenAccMode::O_RDONLY;
        let answer = self.perform(&[Operation::Open], &|| vec![self.path(inode)], writes, |_| {
            // The kernel places appended bytes by itself, and its direct I/O need not be aligned for us.
            let refused = libc::O_APPEND | libc::O_DIRECT | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
            let flags = OFlags::from_bits_retain((flags.0 & !refused).cast_unsigned()) | OFlags::CLOEXEC;
            let file = rustix::fs::open(proc_path(&*self.node(inode)?), flags, Mode::empty())?;
            self.count_open(inode, 1);
            Ok(self.keep(Handle::File(file)))
        });
        match answer {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let answer = self.perform(&[Operation::Create], &|| vec![self.path_in(parent, name)], true, |_| {
            let handle = self.node(parent)?;
            let name = self.folded(handle.as_fd(), name);
            let existed = rustix::fs::statat(&*handle, &*name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            let refused = libc::O_APPEND | libc::O_DIRECT;
            let flags = OFlags::from_bits_retain((flags & !refused).cast_unsigned())
                | OFlags::CREATE
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&*handle, &*name, flags, Mode::from_raw_mode(mode & 0o7777))?;
            let attributes = if existed {
                self.enter(handle.as_fd(), parent, &name)?
            } else {
                self.settle(request, (handle.as_fd(), parent), &name, Some(mode))?
            };
            self.count_open(attributes.ino, 1);
            Ok((attributes, self.keep(Handle::File(file))))
        });
        match answer {
            Ok((attributes, handle)) => {
                reply.created(self.cached_for(&attributes), &attributes, Generation(0), handle, FopenFlags::empty());
            }
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = self.perform(&[Operation::Read], &|| vec![self.path(inode)], false, |_| {
            self.file(handle, |file| {
                let mut buffer = vec![0; size as usize];
                let mut filled = 0;
                while filled < buffer.len() {
                    match rustix::io::pread(file, &mut buffer[filled..], offset + filled as u64)? {
                        0 => break,
                        bytes => filled += bytes,
                    }
                }
                buffer.truncate(filled);
                Ok(buffer)
            })
        });
        match answer {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let answer = self.perform(&[Operation::Write], &|| vec![self.path(inode)], true, |most| {
            self.file(handle, |file| {
                let data = &data[..data.len().min(most)];
                let mut written = 0;
                while written < data.len() {
                    match rustix::io::pwrite(file, &data[written..], offset + written as u64) {
                        Ok(bytes) => written += bytes,
                        Err(errno) if written == 0 => return Err(errno),
                        Err(_) => break,
                    }
                }
                self.touch(file);
                Ok(u32::try_from(written).unwrap_or(u32::MAX))
            })
        });
        match answer {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        answer_empty(self.perform(&[Operation::Flush], &|| vec![self.path(inode)], false, |_| Ok(())), reply);
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.write().expect("handles").remove(&handle.0);
        self.count_open(inode, -1);
        reply.ok();
    }

    fn fsync(&self, _request: &Request, inode: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let answer = self.perform(&[Operation::Fsync], &|| vec![self.path(inode)], false, |_| {
            self.file(handle, |file| if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) })
        });
        answer_empty(answer, reply);
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let answer = self.perform(&[Operation::Opendir], &|| vec![self.path(inode)], false, |_| {
            self.node(inode)?;
            Ok(self.keep(Handle::Directory(Mutex::default())))
        });
        match answer {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let answer = self.perform(&[Operation::Readdir], &|| vec![self.path(inode)], false, |_| {
            let handle = self.handle(handle)?;
            let Handle::Directory(entries) = &*handle else { return Err(Errno::NOTDIR) };
            let mut entries = entries.lock().expect("entries");
            if offset == 0 {
                *entries = self.list(self.node(inode)?.as_fd())?;
            }
            let first = usize::try_from(offset).unwrap_or(usize::MAX).min(entries.len());
            for (entry, next) in entries[first..].iter().zip(offset + 1..) {
                if reply.add(INodeNo(entry.inode), next, entry.kind, OsStr::from_bytes(&entry.name)) {
                    break;
                }
            }
            Ok(())
        });
        match answer {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handles.write().expect("handles").remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let answer = self.perform(&[Operation::Fsyncdir], &|| vec![self.path(inode)], false, |_| {
            let node = self.node(inode)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::fsync(rustix::fs::openat(&*node, ".", flags, Mode::empty())?)
        });
        answer_empty(answer, reply);
    }

    fn statfs(&self, _request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let answer = self
            .perform(&[Operation::Statfs], &|| vec![self.path(inode)], false, |_| rustix::fs::fstatvfs(&*self.root));
        match answer {
            Ok(whole) => reply.statfs(
                whole.f_blocks,
                whole.f_bfree,
                whole.f_bavail,
                whole.f_files,
                whole.f_ffree,
                u32::try_from(whole.f_bsize).unwrap_or(4096),
                u32::try_from(whole.f_namemax).unwrap_or(255),
                u32::try_from(whole.f_frsize).unwrap_or(4096),
            ),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let answer = self.perform(&[Operation::Setxattr], &|| vec![self.path(inode)], true, |_| {
            if self.control.switches().no_xattr {
                return Err(Errno::OPNOTSUPP);
            }
            let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
            rustix::fs::setxattr(proc_path(&*self.node(inode)?), name, value, flags)
        });
        answer_empty(answer, reply);
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let answer = self.perform(&[Operation::Getxattr], &|| vec![self.path(inode)], false, |_| {
            if self.control.switches().no_xattr {
                return Err(Errno::OPNOTSUPP);
            }
            let mut value = vec![0; 64 * 1024];
            let length = rustix::fs::getxattr(proc_path(&*self.node(inode)?), name, &mut value[..])?;
            value.truncate(length);
            Ok(value)
        });
        answer_bytes(answer, size, reply);
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let answer = self.perform(&[Operation::Listxattr], &|| vec![self.path(inode)], false, |_| {
            if self.control.switches().no_xattr {
                return Err(Errno::OPNOTSUPP);
            }
            let mut names = vec![0_u8; 64 * 1024];
            let length = rustix::fs::listxattr(proc_path(&*self.node(inode)?), &mut names[..])?;
            names.truncate(length);
            Ok(names)
        });
        answer_bytes(answer, size, reply);
    }

    fn removexattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = self.perform(&[Operation::Removexattr], &|| vec![self.path(inode)], true, |_| {
            if self.control.switches().no_xattr {
                return Err(Errno::OPNOTSUPP);
            }
            rustix::fs::removexattr(proc_path(&*self.node(inode)?), name)
        });
        answer_empty(answer, reply);
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let answer = self.perform(&[Operation::Fallocate], &|| vec![self.path(inode)], true, |_| {
            let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
            self.file(handle, |file| rustix::fs::fallocate(file, mode, offset, length))
        });
        answer_empty(answer, reply);
    }

    fn lseek(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let answer = self.perform(&[Operation::Lseek], &|| vec![self.path(inode)], false, |_| {
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            let position = match whence {
                libc::SEEK_DATA => SeekFrom::Data(offset),
                libc::SEEK_HOLE => SeekFrom::Hole(offset),
                _ => return Err(Errno::INVAL),
            };
            self.file(handle, |file| rustix::fs::seek(file, position))
        });
        match answer {
            Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        inode_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        inode_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !self.control.switches().copy_file_range {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let paths = || vec![self.path(inode_in), self.path(inode_out)];
        let answer = self.perform(&[Operation::CopyFileRange], &paths, true, |most| {
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(most).min(1 << 30);
            let source = self.handle(handle_in)?;
            let Handle::File(source) = &*source else { return Err(Errno::ISDIR) };
            let (mut from, mut to) = (offset_in, offset_out);
            self.file(handle_out, |file| {
                let copied = match length {
                    0 => 0,
                    length => rustix::fs::copy_file_range(source, Some(&mut from), file, Some(&mut to), length)?,
                };
                self.touch(file);
                Ok(u32::try_from(copied).unwrap_or(u32::MAX))
            })
        });
        match answer {
            Ok(copied) => reply.written(copied),
            Err(errno) => reply.error(fuse(errno)),
        }
    }
}
