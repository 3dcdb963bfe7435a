//! Fills a mounted file system with everything that it takes.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fallocate, lsetxattr,
    makedev, mknodat, utimensat,
};
use rustix::io::Errno;

/// Numbers that look random, and are the same in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, most: u64) -> u64 {
        (self.next() >> 16) % most
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Fills the top: what is special by itself, then a tree of all kinds.
pub(crate) fn fill(top: &Path, seed: u64) {
    let mut random = Random(seed | 1);
    content(top, &mut random);
    names(top, &mut random);
    specials(top);
    attributes(top, &mut random);
    times(top);
    tree(top, &mut random);
    // Into the places that deleted files leave behind comes what was never written.
    preallocated(top, &mut random);
}

/// Files of which parts are not there, and files in pieces.
fn content(top: &Path, random: &mut Random) {
    for size in [0, 1, 59, 60, 61, 100, 150, 156, 157, 160, 200, 1023, 1024, 4095, 4096, 4097, 70_000, 300_000] {
        std::fs::write(top.join(format!("size-{size}")), random.bytes(size)).unwrap();
    }
    // Through one, two and three levels of a block map.
    let sparse = File::create(top.join("sparse")).unwrap();
    for at in [0, 13 << 10, 40_000, 300_001, 5 << 20, 70 << 20, 1 << 30, (4 << 30) - 3] {
        sparse.write_all_at(&random.bytes(5000), at).unwrap();
    }
    let far = File::create(top.join("far")).unwrap();
    // A block map of 1 KiB ends at 16 GiB.
    far.write_all_at(b"the end", (16 << 30) + 12_345).unwrap();
    let hole = File::create(top.join("only-a-hole")).unwrap();
    hole.set_len(123_456_789).unwrap();
    let short = File::create(top.join("grown")).unwrap();
    short.write_all_at(b"short", 0).unwrap();
    short.set_len(100_000).unwrap();
    let small = File::create(top.join("grown-a-little")).unwrap();
    small.write_all_at(b"short", 0).unwrap();
    small.set_len(90).unwrap();
    // Every second block: as many pieces as blocks.
    let pieces = File::create(top.join("pieces")).unwrap();
    for index in 0..700 {
        pieces.write_all_at(&random.bytes(4096), index * 8192).unwrap();
    }
    // Two files that take turns share no long run.
    let turns = [0, 1].map(|index| File::create(top.join(format!("turns-{index}"))).unwrap());
    for round in 0..20 {
        for file in &turns {
            file.write_all_at(&random.bytes(9000), round * 9000).unwrap();
            file.sync_data().unwrap();
        }
    }
}

fn preallocated(top: &Path, random: &mut Random) {
    let secrets = top.join("secrets");
    std::fs::write(&secrets, random.bytes(3 << 20)).unwrap();
    File::open(&secrets).unwrap().sync_all().unwrap();
    std::fs::remove_file(&secrets).unwrap();
    rustix::fs::syncfs(File::open(top).unwrap()).unwrap();
    let make = |name: &str, flags: FallocateFlags, length: u64| {
        let file = File::create(top.join(name)).unwrap();
        match fallocate(&file, flags, 0, length) {
            Ok(()) => Some(file),
            // Block maps cannot say that something was never written.
            Err(Errno::OPNOTSUPP) => None,
            Err(errno) => panic!("{name}: {errno}"),
        }
    };
    make("preallocated", FallocateFlags::empty(), 600_000);
    if let Some(file) = make("preallocated-beyond-its-end", FallocateFlags::KEEP_SIZE, 600_000) {
        file.write_all_at(b"some", 0).unwrap();
    }
    if let Some(file) = make("partly-written", FallocateFlags::empty(), 700_000) {
        for at in [0, 50_000, 260_000, 699_990] {
            file.write_all_at(&random.bytes(3000), at).unwrap();
        }
        file.sync_all().unwrap();
    }
    if let Some(file) = make("punched", FallocateFlags::empty(), 500_000) {
        file.write_all_at(&random.bytes(500_000), 0).unwrap();
        file.sync_all().unwrap();
        for (at, length, how) in [
            (100_000, 65_536, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            (300_000, 65_536, FallocateFlags::ZERO_RANGE),
        ] {
            match fallocate(&file, how, at, length) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => panic!("{errno}"),
            }
        }
    }
}

fn names(top: &Path, random: &mut Random) {
    let names = top.join("names");
    std::fs::create_dir(&names).unwrap();
    let odd: &[&[u8]] = &[b" ", b"\n", b"\x01\x7f", b"\xff\xfe", "ü".as_bytes(), b"..a", b"...", b"-rf", b"a\\b", b"*"];
    for name in odd {
        std::fs::write(names.join(OsStr::from_bytes(name)), name).unwrap();
    }
    for length in [1, 2, 3, 4, 5, 100, 254, 255] {
        std::fs::write(names.join("n".repeat(length)), "").unwrap();
    }
    // Several blocks, with gaps where names were.
    let many = top.join("many");
    std::fs::create_dir(&many).unwrap();
    let first = many.join("first");
    std::fs::write(&first, "one file, many names").unwrap();
    for index in 0..600 {
        let name = many.join(format!("{index}-{}", "x".repeat(random.below(60) as usize)));
        std::fs::hard_link(&first, &name).unwrap();
        if index % 3 == 0 {
            std::fs::remove_file(&name).unwrap();
        }
    }
    std::fs::create_dir(top.join("empty")).unwrap();
    for (name, length) in [("short-link", 5), ("link-59", 59), ("link-60", 60), ("link-61", 61), ("long-link", 900)] {
        std::os::unix::fs::symlink("t".repeat(length), top.join(name)).unwrap();
    }
}

fn specials(top: &Path) {
    let specials = top.join("specials");
    std::fs::create_dir(&specials).unwrap();
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("disk", FileType::BlockDevice, makedev(8, 1)),
        ("wide", FileType::BlockDevice, makedev(259, 70_000)),
    ] {
        mknodat(CWD, specials.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
    let modes = specials.join("set-user-id");
    std::fs::write(&modes, "").unwrap();
    rustix::fs::chown(&modes, Some(Uid::from_raw(70_001)), Some(Gid::from_raw(4_000_000_000))).unwrap();
    rustix::fs::chmod(&modes, Mode::from_raw_mode(0o7751)).unwrap();
}

fn set(path: &Path, name: &str, value: &[u8]) {
    match lsetxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => {}
        // It does not take more of them.
        Err(Errno::NOSPC) => {}
        Err(errno) => panic!("{}: {name}: {errno}", path.display()),
    }
}

fn attributes(top: &Path, random: &mut Random) {
    let directory = top.join("attributes");
    std::fs::create_dir(&directory).unwrap();
    let make = |name: &str| {
        let path = directory.join(name);
        std::fs::write(&path, "x").unwrap();
        path
    };
    let small = make("small");
    for name in ["user.a", "user.empty", "trusted.t", "security.s"] {
        set(&small, name, if name == "user.empty" { b"" } else { b"value" });
    }
    let block = make("in-a-block");
    for index in 0..8 {
        set(&block, &format!("user.number-{index}"), &random.bytes(90));
    }
    // Two inodes with the same attributes share a block.
    for name in ["shared-1", "shared-2"] {
        set(&make(name), "user.same", &[7; 700]);
    }
    let large = make("large");
    for (name, length) in [("user.3000", 3000), ("user.20000", 20_000), ("user.60000", 60_000)] {
        set(&large, name, &random.bytes(length));
    }
    // Where they lie in inodes, equal values share one.
    let equal = make("equal");
    for index in 0..5 {
        set(&equal, &format!("user.equal-{index}"), &[6; 50_000]);
    }
    let link = directory.join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    set(&link, "trusted.of-a-link", b"yes");
    let entry =
        |tag: u16, rights: u16, id: u32| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat();
    let acl = |users: u32| {
        let named = (0..users).flat_map(|user| entry(2, 5, 1000 + user));
        let named: Vec<u8> = named.collect();
        let none = u32::MAX;
        let rest = [entry(4, 5, none), entry(8, 4, 4711), entry(0x10, 7, none), entry(0x20, 1, none)].concat();
        [&2_u32.to_le_bytes()[..], &entry(1, 7, none), &named, &rest].concat()
    };
    set(&make("acl"), "system.posix_acl_access", &acl(1));
    set(&make("long-acl"), "system.posix_acl_access", &acl(60));
    let below = directory.join("default");
    std::fs::create_dir(&below).unwrap();
    set(&below, "system.posix_acl_default", &acl(2));
    set(&below, "system.posix_acl_access", &acl(1));
    std::fs::write(below.join("inherits"), "").unwrap();
}

fn times(top: &Path) {
    let times = top.join("times");
    std::fs::create_dir(&times).unwrap();
    // 1905, 1969, 2037, 2039, 2200, 2440.
    for seconds in [-2_040_000_000, -1, 2_147_483_647, 2_180_000_000, 7_260_000_000, 14_850_000_000_i64] {
        let path = times.join(seconds.to_string());
        std::fs::write(&path, "").unwrap();
        let at = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: at(seconds, 1), last_modification: at(seconds, 987_654_321) };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn tree(top: &Path, random: &mut Random) {
    let mut directories: Vec<PathBuf> = vec![top.join("tree")];
    std::fs::create_dir(&directories[0]).unwrap();
    let mut files: Vec<PathBuf> = Vec::new();
    for index in 0..150 {
        let parent = directories[random.below(directories.len() as u64) as usize].clone();
        let path = parent.join(format!("{index}{}", "-".repeat(random.below(20) as usize)));
        match random.below(10) {
            0..3 => {
                std::fs::create_dir(&path).unwrap();
                directories.push(path);
            }
            3 if !files.is_empty() => {
                std::fs::hard_link(&files[random.below(files.len() as u64) as usize], path).unwrap();
            }
            4 => std::os::unix::fs::symlink(OsStr::from_bytes(&vec![b'l'; 1 + random.below(120) as usize]), path)
                .unwrap(),
            _ => {
                let most = 1 << random.below(15);
                let length = random.below(most) as usize;
                let bytes = random.bytes(length);
                std::fs::write(&path, bytes).unwrap();
                files.push(path);
            }
        }
        if index % 17 == 0 && files.len() > 3 {
            std::fs::remove_file(files.swap_remove(0)).unwrap();
        }
    }
}
