//! The requests, carried out on the backing directory.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, FallocateFlags, Gid, Mode, OFlags, SeekFrom, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Answer;
use super::control::Operation;
use super::convert::{fuse, omit, proc_path, timespec};
use super::server::{Handle, Server};

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
