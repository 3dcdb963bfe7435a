//! Makes trees from a compact description, and compares whole trees.
//!
//! Both work relative to directory handles: paths may be longer than PATH_MAX, and no link is followed.
//!
//! ```ignore
//! make(root, &[dir("empty"), file("a/b", "text").mode(0o600), link("a/l", "b"), fifo("p"), sparse("s", 1 << 40)]);
//! let before = Snapshot::of(root);
//! // … run …
//! before.assert_same(&Snapshot::of(root));
//! Snapshot::with(&source, &Compare::sides()).assert_same(&Snapshot::with(&destination, &Compare::sides()));
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// The mtime of everything that [`make`] makes without another: equal descriptions give equal trees.
pub const DEFAULT_MTIME: i64 = 1_700_000_000;

const NANOS: i128 = 1_000_000_000;
const BLOCK: usize = 4096;

#[derive(Debug, Clone)]
enum What {
    Directory,
    File(Vec<u8>),
    Sparse { size: u64, data: Vec<(u64, Vec<u8>)> },
    Link(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    Socket,
    Device,
}

/// One entry of a tree that is to be made.
#[derive(Debug, Clone)]
pub struct Item {
    path: Vec<u8>,
    what: What,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
    mtime: i128,
    xattrs: Vec<(String, Vec<u8>)>,
}

fn item(path: impl AsRef<[u8]>, what: What) -> Item {
    let mtime = i128::from(DEFAULT_MTIME) * NANOS;
    Item { path: path.as_ref().to_vec(), what, mode: None, owner: None, mtime, xattrs: Vec::new() }
}

/// A directory, mode 0755. Directories on the way to an entry need not be named.
pub fn dir(path: impl AsRef<[u8]>) -> Item {
    item(path, What::Directory)
}

/// A file, mode 0644.
pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    item(path, What::File(content.as_ref().to_vec()))
}

/// A file that is one hole; [`Item::data`] puts bytes into it.
pub fn sparse(path: impl AsRef<[u8]>, size: u64) -> Item {
    item(path, What::Sparse { size, data: Vec::new() })
}

/// A symbolic link.
pub fn link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    item(path, What::Link(target.as_ref().to_vec()))
}

/// Another name of a file that was made before.
pub fn hard_link(path: impl AsRef<[u8]>, existing: impl AsRef<[u8]>) -> Item {
    item(path, What::HardLink(existing.as_ref().to_vec()))
}

/// A FIFO.
pub fn fifo(path: impl AsRef<[u8]>) -> Item {
    item(path, What::Fifo)
}

/// A socket that nobody listens on.
pub fn socket(path: impl AsRef<[u8]>) -> Item {
    item(path, What::Socket)
}

/// A character device like `/dev/null`; needs root.
pub fn device(path: impl AsRef<[u8]>) -> Item {
    item(path, What::Device)
}

impl Item {
    /// Sets the permission bits (not of links).
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets owner and group; needs root.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    /// Sets the mtime in seconds since 1970.
    pub fn mtime(self, seconds: i64) -> Self {
        self.mtime_ns(i128::from(seconds) * NANOS)
    }

    /// Sets the mtime in nanoseconds since 1970.
    pub fn mtime_ns(mut self, nanoseconds: i128) -> Self {
        self.mtime = nanoseconds;
        self
    }

    /// Sets an extended attribute.
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Puts bytes into a sparse file.
    ///
    /// # Panics
    /// When the entry is no sparse file.
    pub fn data(mut self, offset: u64, bytes: impl AsRef<[u8]>) -> Self {
        match &mut self.what {
            What::Sparse { data, .. } => data.push((offset, bytes.as_ref().to_vec())),
            _ => panic!("only a sparse file has data at an offset"),
        }
        self
    }
}

/// Makes the entries below `root`, which is made too when it is missing; what exists in the way of a file is
/// overwritten.
///
/// # Panics
/// When something cannot be made.
pub fn make(root: &Path, items: &[Item]) {
    std::fs::create_dir_all(root).unwrap_or_else(|error| panic!("failed to make {}: {error}", root.display()));
    let root = Arc::new(open_root(root));
    let mut directories: BTreeMap<Vec<u8>, i128> = BTreeMap::new();
    for item in items {
        let (parent_path, name) = split(&item.path);
        let mut known = Vec::new();
        for part in parent_path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if !known.is_empty() {
                known.push(b'/');
            }
            known.extend_from_slice(part);
            directories.entry(known.clone()).or_insert(i128::from(DEFAULT_MTIME) * NANOS);
        }
        let parent = walk(&root, parent_path, true).unwrap_or_else(|errno| fail("make the directory of", item, errno));
        make_one(&root, &parent, name, item).unwrap_or_else(|errno| fail("make", item, errno));
        if matches!(item.what, What::Directory) {
            directories.insert(item.path.clone(), item.mtime);
        }
    }
    // Making an entry changes its directory's mtime, so those are set last.
    for (path, mtime) in directories {
        let (parent, name) = split(&path);
        let parent = walk(&root, parent, false).expect("a directory that was made");
        rustix::fs::utimensat(&*parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW).expect("an mtime");
    }
}

fn fail(what: &str, item: &Item, errno: Errno) -> ! {
    let path = String::from_utf8_lossy(&item.path[..item.path.len().min(300)]).into_owned();
    panic!("failed to {what} {path}: {errno}")
}

fn times(mtime: i128) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(mtime.div_euclid(NANOS)).expect("a time in range"),
        tv_nsec: i64::try_from(mtime.rem_euclid(NANOS)).expect("a time in range"),
    };
    Timestamps { last_access: time, last_modification: time }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn open_root(root: &Path) -> OwnedFd {
    rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or_else(|errno| panic!("failed to open {}: {errno}", root.display()))
}

/// Opens a directory below `root`, component by component, without following links.
fn walk(root: &Arc<OwnedFd>, path: &[u8], make: bool) -> Result<Arc<OwnedFd>, Errno> {
    let mut here = Arc::clone(root);
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        if make {
            match rustix::fs::mkdirat(&*here, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        here = Arc::new(rustix::fs::openat(&*here, part, flags, Mode::empty())?);
    }
    Ok(here)
}

fn write_at(file: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, offset)?;
        offset += written as u64;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn make_one(root: &Arc<OwnedFd>, parent: &OwnedFd, name: &[u8], item: &Item) -> Result<(), Errno> {
    let open = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))
    };
    let special = |kind, device| rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o644), device);
    let default_mode = match &item.what {
        What::Directory => {
            match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            Some(0o755)
        }
        What::File(content) => {
            write_at(&open()?, 0, content)?;
            Some(0o644)
        }
        What::Sparse { size, data } => {
            let file = open()?;
            rustix::fs::ftruncate(&file, *size)?;
            for (offset, bytes) in data {
                write_at(&file, *offset, bytes)?;
            }
            Some(0o644)
        }
        What::Link(target) => {
            rustix::fs::symlinkat(&target[..], parent, name)?;
            None
        }
        What::HardLink(existing) => {
            let (directory, existing) = split(existing);
            rustix::fs::linkat(&*walk(root, directory, false)?, existing, parent, name, AtFlags::empty())?;
            return Ok(());
        }
        What::Fifo => {
            special(FileType::Fifo, 0)?;
            Some(0o644)
        }
        What::Socket => {
            special(FileType::Socket, 0)?;
            Some(0o644)
        }
        What::Device => {
            special(FileType::CharacterDevice, rustix::fs::makedev(1, 3))?;
            Some(0o644)
        }
    };
    if let Some((uid, gid)) = item.owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for (key, value) in &item.xattrs {
        rustix::fs::lsetxattr(&xattr_path(parent, name)[..], key.as_str(), value, XattrFlags::empty())?;
    }
    if let Some(default_mode) = default_mode {
        let mode = Mode::from_raw_mode(item.mode.unwrap_or(default_mode));
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(parent, name, &times(item.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// Names an entry relative to a directory handle for calls that take a path only.
fn xattr_path(parent: &OwnedFd, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// What a snapshot records.
#[derive(Debug, Clone)]
pub struct Compare {
    /// Leave out `.ha-sync` at the root.
    pub without_own: bool,
    /// Record mtimes, cut to multiples of so many nanoseconds; 0 leaves them out.
    pub times: i128,
    /// Record the mtimes of directories too.
    pub directory_times: bool,
    /// Record permission bits, owner and group.
    pub permissions: bool,
    /// Record extended attributes and ACLs.
    pub xattrs: bool,
    /// Record how many names a file has.
    pub link_counts: bool,
    /// Record inode, ctime and allocated blocks too: proof that nothing was touched. Not comparable between trees.
    pub identity: bool,
    /// Record sockets, FIFOs and devices.
    pub special: bool,
}

impl Compare {
    /// Everything that stays equal when nothing was changed, `.ha-sync` included.
    pub fn untouched() -> Self {
        Self {
            without_own: false,
            times: 1,
            directory_times: true,
            permissions: true,
            xattrs: true,
            link_counts: true,
            identity: true,
            special: true,
        }
    }

    /// Everything that is equal on both sides of a finished one-way run.
    pub fn sides() -> Self {
        Self { without_own: true, link_counts: false, identity: false, special: false, ..Self::untouched() }
    }

    /// Kinds, contents and link targets only.
    pub fn contents() -> Self {
        Self { times: 0, directory_times: false, permissions: false, xattrs: false, ..Self::sides() }
    }
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is what it is called")]
pub enum Kind {
    Directory,
    File,
    Link,
    Fifo,
    Socket,
    Device,
    Unknown,
}

/// What was found at a path; what was not recorded is zero or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Nanoseconds since 1970.
    pub mtime: i128,
    /// Bytes of a file, length of a link's target; 0 for others.
    pub size: u64,
    /// XXH3 of a file's blocks that are not all zero, and their offsets: equal for equal bytes, wherever the holes are.
    pub content: u128,
    /// The first bytes of a file, for the diff.
    pub begin: Vec<u8>,
    /// Target of a link.
    pub target: Vec<u8>,
    /// Extended attributes, ACLs among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Number of names.
    pub links: u64,
    /// Inode, ctime in nanoseconds, blocks of 512 bytes.
    pub identity: (u64, i128, u64),
}

/// A whole tree, without its root itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The entries by path, relative and as bytes.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

impl Snapshot {
    /// Records what stays equal when nothing was changed.
    pub fn of(root: &Path) -> Self {
        Self::with(root, &Compare::untouched())
    }

    /// Records a tree.
    ///
    /// # Panics
    /// When something cannot be read.
    pub fn with(root: &Path, compare: &Compare) -> Self {
        crate::limits::raise_open_files();
        let mut entries = BTreeMap::new();
        let mut waiting: Vec<(Arc<OwnedFd>, Vec<u8>)> = vec![(Arc::new(open_root(root)), Vec::new())];
        // One handle for each directory that is not done, and no recursion: depth is bounded by open files only.
        while let Some((directory, path)) = waiting.pop() {
            for name in names(&directory, &path) {
                if compare.without_own && path.is_empty() && name == b".ha-sync" {
                    continue;
                }
                let mut whole = path.clone();
                if !whole.is_empty() {
                    whole.push(b'/');
                }
                whole.extend_from_slice(&name);
                let (entry, handle) = look(&directory, &name, compare)
                    .unwrap_or_else(|errno| panic!("failed to look at {}: {errno}", String::from_utf8_lossy(&whole)));
                if entry.kind == Kind::Directory {
                    waiting.push((Arc::new(handle), whole.clone()));
                }
                let is_special = matches!(entry.kind, Kind::Fifo | Kind::Socket | Kind::Device | Kind::Unknown);
                if compare.special || !is_special {
                    entries.insert(whole, entry);
                }
            }
        }
        Self { entries }
    }

    /// Returns the entry of a path.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Entry> {
        self.entries.get(path.as_ref())
    }

    /// Returns the paths whose last component looks like one of the tool's temporary files.
    pub fn temporary_files(&self) -> Vec<String> {
        let is_one = |path: &[u8]| {
            let name = split(path).1;
            name.starts_with(b".ha-sync.") && name.ends_with(b".tmp")
        };
        self.entries.keys().filter(|path| is_one(path)).map(|path| path.escape_ascii().to_string()).collect()
    }

    /// Describes how `other` differs: `-` is only here, `+` only there, `~` differs. Empty when they are equal.
    pub fn diff(&self, other: &Self) -> String {
        let mut text = String::new();
        let mut differences = 0;
        let mut paths: Vec<_> = self.entries.keys().chain(other.entries.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let line = match (self.entries.get(path), other.entries.get(path)) {
                (Some(mine), None) => format!("- {} ({})", path.escape_ascii(), mine.describe()),
                (None, Some(theirs)) => format!("+ {} ({})", path.escape_ascii(), theirs.describe()),
                (Some(mine), Some(theirs)) if mine != theirs => {
                    format!("~ {}: {}", path.escape_ascii(), mine.changes(theirs))
                }
                _ => continue,
            };
            differences += 1;
            if differences <= 50 {
                let _ = writeln!(text, "{line}");
            }
        }
        if differences > 50 {
            let _ = writeln!(text, "… {} more", differences - 50);
        }
        text
    }

    /// Panics with the differences, if there are any.
    ///
    /// # Panics
    /// When the trees differ.
    #[track_caller]
    pub fn assert_same(&self, other: &Self) {
        let diff = self.diff(other);
        assert!(diff.is_empty(), "the trees differ (- first only, + second only, ~ both):\n{diff}");
    }
}

impl Entry {
    fn describe(&self) -> String {
        match self.kind {
            Kind::File => format!("file, {} bytes, {:?}", self.size, String::from_utf8_lossy(&self.begin)),
            Kind::Link => format!("link to {}", self.target.escape_ascii()),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    fn changes(&self, other: &Self) -> String {
        // Taken apart, so that a new field cannot be forgotten.
        let Self { kind, mode, uid, gid, mtime, size, content, begin: _, target, xattrs, links, identity } = self;
        let mut parts = Vec::new();
        if *kind != other.kind {
            return format!("{} | {}", self.describe(), other.describe());
        }
        if (size, content) != (&other.size, &other.content) {
            parts.push(format!("{} | {}", self.describe(), other.describe()));
        }
        if *target != other.target {
            parts.push(format!("target {} | {}", target.escape_ascii(), other.target.escape_ascii()));
        }
        if *mode != other.mode {
            parts.push(format!("mode {mode:04o} | {:04o}", other.mode));
        }
        if (uid, gid) != (&other.uid, &other.gid) {
            parts.push(format!("owner {uid}:{gid} | {}:{}", other.uid, other.gid));
        }
        if *mtime != other.mtime {
            let seconds = |time: i128| format!("{}.{:09}", time.div_euclid(NANOS), time.rem_euclid(NANOS));
            parts.push(format!("mtime {} | {}", seconds(*mtime), seconds(other.mtime)));
        }
        if *xattrs != other.xattrs {
            let list = |all: &BTreeMap<Vec<u8>, Vec<u8>>| {
                let each = all.iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()));
                each.collect::<Vec<_>>().join(", ")
            };
            parts.push(format!("xattrs [{}] | [{}]", list(xattrs), list(&other.xattrs)));
        }
        if *links != other.links {
            parts.push(format!("links {links} | {}", other.links));
        }
        if *identity != other.identity {
            parts.push(format!("inode, ctime, blocks {identity:?} | {:?}", other.identity));
        }
        parts.join("; ")
    }
}

fn names(directory: &OwnedFd, path: &[u8]) -> Vec<Vec<u8>> {
    let read = || -> Result<Vec<Vec<u8>>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let mut listing = RawDir::new(listing, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = listing.next() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        Ok(names)
    };
    read().unwrap_or_else(|errno| panic!("failed to list {}: {errno}", String::from_utf8_lossy(path)))
}

fn nanoseconds(seconds: i64, rest: u64) -> i128 {
    i128::from(seconds) * NANOS + i128::from(rest)
}

fn look(directory: &OwnedFd, name: &[u8], compare: &Compare) -> Result<(Entry, OwnedFd), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat: Stat = rustix::fs::fstat(&handle)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Link,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice | FileType::BlockDevice => Kind::Device,
        FileType::Unknown => Kind::Unknown,
    };
    let mtime = nanoseconds(stat.st_mtime, stat.st_mtime_nsec);
    let with_time = compare.times > 0 && (compare.directory_times || kind != Kind::Directory);
    let mut entry = Entry {
        kind,
        mode: if compare.permissions { stat.st_mode & 0o7777 } else { 0 },
        uid: if compare.permissions { stat.st_uid } else { 0 },
        gid: if compare.permissions { stat.st_gid } else { 0 },
        mtime: if with_time { mtime - mtime.rem_euclid(compare.times) } else { 0 },
        size: 0,
        content: 0,
        begin: Vec::new(),
        target: Vec::new(),
        xattrs: BTreeMap::new(),
        links: if compare.link_counts { stat.st_nlink } else { 0 },
        identity: Default::default(),
    };
    match kind {
        Kind::File => {
            entry.size = u64::try_from(stat.st_size).unwrap_or(0);
            (entry.content, entry.begin) = hash(directory, name, entry.size)?;
        }
        Kind::Link => {
            entry.target = rustix::fs::readlinkat(&handle, "", Vec::new())?.into_bytes();
            entry.size = entry.target.len() as u64;
        }
        _ => {}
    }
    if compare.xattrs {
        entry.xattrs = xattrs(directory, name)?;
    }
    if compare.identity {
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        entry.identity = (stat.st_ino, nanoseconds(stat.st_ctime, stat.st_ctime_nsec), blocks);
    }
    Ok((entry, handle))
}

fn xattrs(directory: &OwnedFd, name: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let path = xattr_path(directory, name);
    let mut list = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::llistxattr(&path[..], &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => 0,
        Err(errno) => return Err(errno),
    };
    let mut all = BTreeMap::new();
    for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        let mut value = vec![0_u8; 64 * 1024];
        let length = rustix::fs::lgetxattr(&path[..], key, &mut value[..])?;
        value.truncate(length);
        all.insert(key.to_vec(), value);
    }
    Ok(all)
}

fn hash(directory: &OwnedFd, name: &[u8], size: u64) -> Result<(u128, Vec<u8>), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut begin = vec![0_u8; 32];
    let length = rustix::io::pread(&file, &mut begin[..], 0)?;
    begin.truncate(length);
    let mut buffer = vec![0_u8; 256 * BLOCK];
    let mut offset = 0;
    while offset < size {
        // Holes are jumped over where the file system tells of them.
        let data = match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
            Ok(data) => data - data % BLOCK as u64,
            Err(Errno::NXIO) => break,
            Err(_) => offset,
        };
        offset = data.max(offset);
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::pread(&file, &mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                bytes => filled += bytes,
            }
        }
        if filled == 0 {
            break;
        }
        for (block, place) in buffer[..filled].chunks(BLOCK).zip((offset..).step_by(BLOCK)) {
            if block.iter().any(|byte| *byte != 0) {
                hasher.update(&place.to_le_bytes());
                hasher.update(block);
            }
        }
        offset += filled as u64;
    }
    Ok((hasher.digest128(), begin))
}
