//! What the requests share: the backing directory, its inodes, what is open.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, Generation, INodeNo, ReplyEntry, Request};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Answer;
use super::control::{Control, Operation, Verdict};
use super::convert::{fuse, kind_of, omit, proc_path, system_time};
use super::nodes::{Node, Nodes};

const NANOS: i64 = 1_000_000_000;

pub(super) struct DirectoryEntry {
    pub(super) name: Vec<u8>,
    pub(super) inode: u64,
    pub(super) kind: FileType,
}

pub(super) enum Handle {
    File(OwnedFd),
    /// The listing is read whole when reading starts (or starts over), so offsets stay valid while entries come and go.
    Directory(Mutex<Vec<DirectoryEntry>>),
}

pub(super) struct Server {
    pub(super) control: Arc<Control>,
    cached_for: Duration,
    directories_cached_for: Duration,
    pub(super) root: Arc<OwnedFd>,
    root_path: Vec<u8>,
    root_device: u64,
    root_inode: u64,
    nodes: Mutex<Nodes>,
    pub(super) handles: RwLock<HashMap<u64, Arc<Handle>>>,
    next_handle: AtomicU64,
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

    pub(super) fn attributes(&self, stat: &Stat) -> FileAttr {
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

    pub(super) fn node(&self, inode: INodeNo) -> Answer<Arc<OwnedFd>> {
        self.nodes.lock().expect("nodes").handle(inode.0)
    }

    pub(super) fn handle(&self, handle: FileHandle) -> Answer<Arc<Handle>> {
        self.handles.read().expect("handles").get(&handle.0).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn keep(&self, handle: Handle) -> FileHandle {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.write().expect("handles").insert(number, Arc::new(handle));
        FileHandle(number)
    }

    pub(super) fn file<T>(&self, handle: FileHandle, act: impl FnOnce(BorrowedFd<'_>) -> Answer<T>) -> Answer<T> {
        match &*self.handle(handle)? {
            Handle::File(file) => act(file.as_fd()),
            Handle::Directory(_) => Err(Errno::ISDIR),
        }
    }

    /// Returns the path below the backing directory: empty for the root.
    pub(super) fn path(&self, inode: INodeNo) -> Vec<u8> {
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

    pub(super) fn path_in(&self, parent: INodeNo, name: &OsStr) -> Vec<u8> {
        let mut path = self.path(parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        path
    }

    /// Runs a request under the rules and switches.
    pub(super) fn perform<T>(
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
    pub(super) fn folded<'a>(&self, directory: BorrowedFd<'_>, name: &'a OsStr) -> Cow<'a, OsStr> {
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

    pub(super) fn list(&self, directory: BorrowedFd<'_>) -> Answer<Vec<DirectoryEntry>> {
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
    pub(super) fn enter(&self, parent: BorrowedFd<'_>, parent_inode: INodeNo, name: &OsStr) -> Answer<FileAttr> {
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
    pub(super) fn moved(&self, parent: BorrowedFd<'_>, parent_inode: INodeNo, name: &OsStr) {
        if let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && let Some(node) = self.nodes.lock().expect("nodes").known.get_mut(&self.number(stat.st_dev, stat.st_ino))
        {
            node.place = (parent_inode.0, name.to_owned());
        }
    }

    pub(super) fn count_open(&self, inode: INodeNo, change: i64) {
        if let Some(node) = self.nodes.lock().expect("nodes").known.get_mut(&inode.0) {
            node.opened = node.opened.saturating_add_signed(change);
        }
    }

    pub(super) fn now(&self) -> Timespec {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX).saturating_add(self.control.clock_offset());
        Timespec { tv_sec: now.div_euclid(NANOS), tv_nsec: now.rem_euclid(NANOS) }
    }

    /// Gives a file that the server has just changed the server's time.
    pub(super) fn touch(&self, file: BorrowedFd<'_>) {
        if self.control.clock_offset() != 0 {
            let times = Timestamps { last_access: omit(), last_modification: self.now() };
            let _ = rustix::fs::utimensat(rustix::fs::CWD, proc_path(file), &times, AtFlags::empty());
        }
    }

    /// Finishes a new entry: owner and mode as the client wants them, the server's time, and its attributes.
    pub(super) fn settle(
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

    pub(super) fn cached_for(&self, attributes: &FileAttr) -> &Duration {
        if attributes.kind == FileType::Directory { &self.directories_cached_for } else { &self.cached_for }
    }

    pub(super) fn answer_entry(&self, answer: Answer<FileAttr>, reply: ReplyEntry) {
        match answer {
            Ok(attributes) => reply.entry(self.cached_for(&attributes), &attributes, Generation(0)),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    pub(super) fn forget_some(&self, inode: INodeNo, lookups: u64) {
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
