//! A mounted file system, as the kernel shows it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, lgetxattr, llistxattr, statx};

use crate::{Seen, Sum, Tree, WHOLE};

/// Reads a whole tree, with its top as the empty path.
pub(crate) fn tree(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        let seen = look(&path);
        if seen.kind == 'd' {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        tree.insert(path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec(), seen);
    }
    tree
}

fn look(path: &Path) -> Seen {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    // What is read first would have a new time of access where that is written.
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted).unwrap();
    let time = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Unknown => '?',
    };
    let has_created = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Seen {
        inode: stat.stx_ino,
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        links: stat.stx_nlink.into(),
        size: stat.stx_size,
        device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        times: [time(&stat.stx_mtime), time(&stat.stx_atime), time(&stat.stx_ctime)],
        created: has_created.then(|| time(&stat.stx_btime)),
        target: (kind == 'l').then(|| std::fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()),
        attributes: attributes(path),
        content: if kind == 'f' { content(path) } else { Ok(0) },
    }
}

fn content(path: &Path) -> Result<u64, String> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        // Encrypted.
        Err(error) if error.raw_os_error() == Some(126) => return Err("encrypted".to_owned()),
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let length = file.metadata().unwrap().len();
    let whole = length <= WHOLE;
    let (mut sum, mut buffer) = (Sum::default(), vec![0; usize::try_from(length).unwrap().clamp(1, 1 << 20)]);
    let mut position = 0;
    loop {
        if !whole {
            match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(position)) {
                Ok(data) => position = data,
                Err(rustix::io::Errno::NXIO) => return Ok(sum.0),
                Err(errno) => panic!("{}: {errno}", path.display()),
            }
        }
        match file.read(&mut buffer).unwrap() {
            0 => return Ok(sum.0),
            length => {
                sum.add(position, &buffer[..length]);
                position += length as u64;
            }
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = [0; 2048];
    let length = llistxattr(path, &mut names).unwrap();
    if length == 0 {
        return BTreeMap::new();
    }
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut value = vec![0; 1 << 16];
    let read = |name: &[u8]| {
        let length = lgetxattr(path, name, &mut value).unwrap();
        (name.to_vec(), value[..length].to_vec())
    };
    names.map(read).collect()
}
