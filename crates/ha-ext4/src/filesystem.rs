//! An open file system: inodes, directories, paths, content.

use std::cell::RefCell;
use std::ops::{ControlFlow, Range};

use crate::Source;
use crate::attribute::{self, Attributes};
use crate::bytes::part;
use crate::content::{Content, Map};
use crate::device::Device;
use crate::directory::{self, DirectoryEntry, Each};
use crate::error::{Error, Place};
use crate::extent::{Backing, Span};
use crate::inode::{self, Inode, Kind, ROOT};
use crate::journal;
use crate::note::Note;
use crate::runs::Runs;
use crate::superblock::{self, Superblock};

/// How many links a path may lead through, as in the kernel.
const MOST_LINKS: u32 = 40;
/// How many times a directory may name blocks that it has before the rest of it is given up.
const MOST_REPEATS: u32 = 1000;
/// In a directory that lies in its inode the number of the one above comes first.
const INLINE_PARENT: usize = 4;

/// Is an open file system.
pub struct FileSystem {
    device: RefCell<Device>,
    superblock: Superblock,
    notes: Vec<Note>,
}

impl FileSystem {
    /// Opens a file system, and lays its journal over it.
    pub fn open(mut source: Box<dyn Source>) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let mut superblock = superblock::read(&mut *source, &mut notes)?;
        let size = source.size();
        let mut device = Device::new(source, superblock.block_size);
        if let Some(newer) = journal::lay_over(&mut device, &superblock, &mut notes)? {
            superblock = newer;
        }
        let needed = superblock.blocks.saturating_mul(superblock.block_size.into());
        if needed > size {
            notes.push(Note::Short { size, needed });
        }
        Ok(Self { device: RefCell::new(device), superblock, notes })
    }

    /// Returns what is odd about it, and what was done to read it.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Returns the size of a block in bytes.
    pub fn block_size(&self) -> u64 {
        self.superblock.block_size.into()
    }

    /// Reads the inode of the top directory.
    pub fn root(&self) -> Result<Inode, Error> {
        let root = self.inode(ROOT)?;
        match root.kind() {
            Kind::Directory => Ok(root),
            _ => Err(Error::damaged(root.place(), "the top directory is none")),
        }
    }

    /// Reads an inode.
    pub fn inode(&self, number: u32) -> Result<Inode, Error> {
        inode::read(&mut self.device.borrow_mut(), &self.superblock, number)
    }

    /// Finds what is at a path from the top on. Links on the way are followed, and `follow` says whether one at the end
    /// is.
    pub fn find(&self, path: &[u8], follow: bool) -> Result<Inode, Error> {
        let mut parents = vec![self.root()?];
        let mut waiting: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        while let Some(name) = waiting.pop() {
            let here = parents.last().ok_or(Error::NotFound)?;
            if here.kind() != Kind::Directory {
                return Err(Error::NotDirectory(here.number));
            }
            match &name[..] {
                b"." => continue,
                b".." => {
                    if parents.len() > 1 {
                        parents.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let entry = self.lookup(here, &name)?;
            let found = self.inode(entry.inode)?;
            entry.check(&found)?;
            if found.kind() != Kind::Link || (waiting.is_empty() && !follow) {
                parents.push(found);
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Error::TooManyLinks);
            }
            let target = self.link_target(&found)?;
            if target.first() == Some(&b'/') {
                parents.truncate(1);
            }
            waiting.extend(components(&target));
        }
        parents.pop().ok_or(Error::NotFound)
    }

    /// Finds the inode of a name. Of a damaged directory that does not show the name, what is damaged is the answer.
    fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<DirectoryEntry, Error> {
        let (mut found, mut failed) = (None, None);
        self.entries(directory, &mut |entry| match entry {
            Ok(entry) if entry.name == name => {
                found = Some(entry);
                ControlFlow::Break(())
            }
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                failed.get_or_insert(error);
                ControlFlow::Continue(())
            }
        })?;
        found.ok_or(failed.unwrap_or(Error::NotFound))
    }

    /// Hands out the entries of a directory as they lie there, and why parts of it cannot be read.
    ///
    /// # Errors
    /// Only when it is not a directory, or none of it can be read, as of an encrypted one: ciphertext is no name.
    pub fn entries(&self, directory: &Inode, each: Each<'_>) -> Result<(), Error> {
        if directory.kind() != Kind::Directory {
            return Err(Error::NotDirectory(directory.number));
        }
        if directory.is_encrypted() {
            return Err(Error::Encrypted(directory.number));
        }
        if directory.is_inline() {
            let _ = self.inline_entries(directory, each)?;
            return Ok(());
        }
        let size = self.block_size();
        let blocks = directory.size().div_ceil(size);
        // No block belongs to a directory twice.
        if blocks > self.superblock.blocks {
            return Err(Error::damaged(directory.place(), "the directory is longer than the file system"));
        }
        let (mut map, mut met) = (Map::default(), Runs::default());
        let (mut gap, mut last): (Option<Gap>, _) = (None, None);
        let (mut block, mut repeats) = (0, 0);
        while block < blocks && last.is_none() {
            let piece = match self.piece(&mut map, &mut met, directory, block..blocks) {
                Ok(piece) => piece,
                Err(error) if block == 0 => return Err(error),
                // Nothing tells how far what is damaged reaches.
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            let (start, end) = (block, block + piece.count);
            block = end;
            // Neighbours that are missing for one reason are told as one.
            match &mut gap {
                Some(gap) if piece.backing == Err(gap.why) => gap.end = end,
                gap => {
                    let before = std::mem::replace(gap, piece.backing.err().map(|why| Gap { why, start, end }));
                    if before.is_some_and(|before| each(Err(before.told(directory))).is_break()) {
                        return Ok(());
                    }
                }
            }
            repeats += u32::from(piece.backing == Err(Missing::Repeated));
            if repeats > MOST_REPEATS || met.is_full() {
                let place = Place::Directory { inode: directory.number, block };
                last = Some(Error::damaged(place, "its blocks are in too many pieces; it is not read from here on"));
            }
            for (block, at) in piece.backing.into_iter().flat_map(|first| (start..end).zip(first..)) {
                let place = Place::Directory { inode: directory.number, block };
                let bytes = self.device.borrow_mut().block(at, place);
                let flow = match bytes {
                    Ok(bytes) => directory::of_block(&self.superblock, directory, block, &bytes, each),
                    Err(error) => each(Err(error)),
                };
                if flow.is_break() {
                    return Ok(());
                }
            }
        }
        for error in gap.map(|gap| gap.told(directory)).into_iter().chain(last) {
            if each(Err(error)).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Finds where blocks of a directory lie, from the first of `blocks` on.
    fn piece(&self, map: &mut Map, met: &mut Runs, directory: &Inode, blocks: Range<u64>) -> Result<Piece, Error> {
        let span = self.span(map, directory, blocks.start * self.block_size())?;
        let count = span.end.min(blocks.end).saturating_sub(blocks.start).max(1);
        let Backing::Blocks(first) = span.backing else {
            return Ok(Piece { count, backing: Err(Missing::Hole) });
        };
        let first = first.saturating_add(blocks.start - span.start);
        // The image may end in the middle.
        let (is_there, count) = self.device.borrow().has(first, count);
        let (is_new, count) = met.add(first, count);
        let backing = match (is_new, is_there) {
            (false, _) => Err(Missing::Repeated),
            (true, false) => Err(Missing::Beyond),
            (true, true) => Ok(first),
        };
        Ok(Piece { count, backing })
    }

    fn inline_entries(&self, directory: &Inode, each: Each<'_>) -> Result<ControlFlow<()>, Error> {
        let size = usize::try_from(directory.size()).unwrap_or(usize::MAX);
        let place = directory.place();
        let body = part(&directory.body, INLINE_PARENT, size.min(directory.body.len()).saturating_sub(INLINE_PARENT));
        let block_size = self.superblock.block_size as usize;
        if directory::of_list(&self.superblock, place, body.unwrap_or_default(), block_size, each).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let rest = match attribute::inline_rest(directory) {
            Ok(rest) => rest,
            Err(_) if size <= directory.body.len() => return Ok(ControlFlow::Continue(())),
            Err(error) => return Ok(each(Err(error))),
        };
        let used = size.saturating_sub(directory.body.len()).min(rest.len());
        Ok(directory::of_list(&self.superblock, place, &rest[..used], block_size, each))
    }

    /// Opens the content of a regular file.
    pub fn content<'a>(&'a self, inode: &'a Inode) -> Result<Content<'a>, Error> {
        if inode.kind() != Kind::File {
            return Err(Error::NotFile(inode.number));
        }
        if inode.is_encrypted() {
            return Err(Error::Encrypted(inode.number));
        }
        let inline = if inode.is_inline() { Some(inline(inode)?) } else { None };
        Ok(Content { files: self, inode, map: Map::default(), inline })
    }

    /// Reads where a symbolic link points to.
    pub fn link_target(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        if inode.kind() != Kind::Link {
            return Err(Error::damaged(inode.place(), "not a symbolic link"));
        }
        if inode.is_encrypted() {
            return Err(Error::Encrypted(inode.number));
        }
        let length = usize::try_from(inode.size()).ok().filter(|length| *length as u64 <= self.block_size());
        let Some(length) = length.filter(|length| *length > 0) else {
            return Err(Error::damaged(inode.place(), "the length of its target is impossible"));
        };
        let mut target = vec![0; length];
        if inode.is_inline() || inode.is_fast_link(&self.superblock) {
            let bytes = if inode.is_inline() { inline(inode)? } else { inode.body.to_vec() };
            let bytes = part(&bytes, 0, length);
            target.copy_from_slice(bytes.ok_or_else(|| Error::damaged(inode.place(), "its target is cut off"))?);
        } else {
            self.read_content(&mut Map::default(), inode, 0, &mut target)?;
        }
        if target.contains(&0) {
            return Err(Error::damaged(inode.place(), "its target is impossible"));
        }
        Ok(target)
    }

    /// Reads the extended attributes of an inode, with ACLs.
    pub fn attributes(&self, inode: &Inode) -> Attributes {
        attribute::read(&mut self.device.borrow_mut(), &self.superblock, inode)
    }

    /// Finds a run of blocks of a file with a byte in it.
    pub(crate) fn span(&self, map: &mut Map, inode: &Inode, position: u64) -> Result<Span, Error> {
        map.span(&mut self.device.borrow_mut(), &self.superblock, inode, position / self.block_size())
    }

    pub(crate) fn read_content(
        &self,
        map: &mut Map,
        inode: &Inode,
        position: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        map.read(&mut self.device.borrow_mut(), &self.superblock, inode, position, buffer)
    }
}

/// Is a run of blocks of a directory.
struct Piece {
    /// At least 1.
    count: u64,
    /// The first block of the file system, or why there is none to read.
    backing: Result<u64, Missing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Hole,
    Beyond,
    Repeated,
}

/// Is a run of blocks of a directory that cannot be read.
struct Gap {
    why: Missing,
    start: u64,
    end: u64,
}

impl Gap {
    fn told(&self, directory: &Inode) -> Error {
        let count = self.end - self.start;
        let what = match self.why {
            Missing::Hole => format!("the directory has a hole of {count} blocks"),
            Missing::Beyond => format!("from here on {count} blocks lie beyond the end of the image"),
            Missing::Repeated => format!("from here on {count} blocks belong to the directory twice"),
        };
        Error::damaged(Place::Directory { inode: directory.number, block: self.start }, what)
    }
}

fn inline(inode: &Inode) -> Result<Vec<u8>, Error> {
    let mut bytes = inode.body.to_vec();
    if inode.size() > bytes.len() as u64 {
        bytes.extend(attribute::inline_rest(inode)?);
    }
    bytes.truncate(usize::try_from(inode.size()).unwrap_or(usize::MAX));
    Ok(bytes)
}

/// Cuts a path into its names, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).rev().collect()
}

impl std::fmt::Debug for FileSystem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FileSystem").field("superblock", &self.superblock).finish_non_exhaustive()
    }
}
