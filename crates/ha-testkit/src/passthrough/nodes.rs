//! The inodes that the kernel knows, with as many handles of their files as may be open.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Answer;

pub(super) struct Node {
    /// Closed when too many are open; it is opened again by the name, then.
    pub(super) handle: Option<Arc<OwnedFd>>,
    /// Directory and name under which it was last seen.
    pub(super) place: (u64, OsString),
    /// Device and inode of the backing file system.
    pub(super) identity: (u64, u64),
    /// How often the kernel was told of it and has not forgotten yet.
    pub(super) lookups: u64,
    /// How often it is open: an unlinked file has no name to open it by, so its handle stays.
    pub(super) opened: u64,
}

/// What the kernel knows.
pub(super) struct Nodes {
    pub(super) known: HashMap<u64, Node>,
    /// Nodes with a handle, the oldest first.
    pub(super) held: VecDeque<u64>,
    pub(super) most_held: usize,
}

impl Nodes {
    pub(super) fn handle(&mut self, inode: u64) -> Answer<Arc<OwnedFd>> {
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

    pub(super) fn hold(&mut self, inode: u64, handle: Arc<OwnedFd>) {
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
