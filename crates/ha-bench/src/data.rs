//! Trees for the cases: seeded, so that both sides and every run are the same.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

const BASE_TIME: i64 = 1_700_000_000;

/// SplitMix64: a few instructions for each number, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Exponential, cut at the top.
    fn size(&mut self, mean: f64, most: usize) -> usize {
        ((-mean * (1.0 - self.fraction()).ln()) as usize).min(most)
    }
}

/// Bytes to cut contents from: making new ones for each file would take longer than writing it.
fn noise() -> Vec<u8> {
    let mut random = Random::new(7);
    (0..1 << 18).flat_map(|_| random.next().to_le_bytes()).collect()
}

fn times(seconds: i64, nanoseconds: u64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}

/// How many files in how many directories.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) files: usize,
    pub(crate) directories: usize,
    /// Mean bytes of a file (exponential, at most four times that); 0 makes empty files.
    pub(crate) mean: usize,
}

impl Shape {
    /// Two levels: a hundredth of the directories above the others (one level when there are few).
    fn directory(self, index: usize) -> (usize, Option<usize>) {
        let tops = self.tops();
        if index < tops { (index, None) } else { ((index - tops) % tops, Some((index - tops) / tops)) }
    }

    fn tops(self) -> usize {
        (self.directories / 100).clamp(1, self.directories.max(1))
    }

    fn name(self, index: usize) -> String {
        match self.directory(index) {
            (top, None) => format!("directory-{top:04}"),
            (top, Some(below)) => format!("directory-{top:04}/part-{below:04}"),
        }
    }

    fn first_with_files(self) -> usize {
        if self.directories > self.tops() { self.tops() } else { 0 }
    }

    /// Makes the tree in an existing directory.
    pub(crate) fn make(self, root: &Path) -> Result<(), Errno> {
        let noise = noise();
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let first = self.first_with_files();
        for index in 0..self.directories {
            rustix::fs::mkdirat(&root, self.name(index), Mode::from_raw_mode(0o755))?;
        }
        let holders = (self.directories - first).max(1);
        for holder in 0..holders {
            let directory = open_directory(&root, &self.name(first + holder))?;
            for file in (holder..self.files).step_by(holders) {
                self.write(&directory, file, 0, &noise)?;
            }
        }
        // Their entries have changed the directories' times.
        for index in 0..self.directories {
            rustix::fs::utimensat(&root, self.name(index), &times(BASE_TIME, index as u64), AtFlags::empty())?;
        }
        Ok(())
    }

    /// Rewrites one file in a hundred, in place, with a later mtime. `round` makes the contents new each time.
    pub(crate) fn change(self, root: &Path, round: u32) -> Result<(), Errno> {
        let noise = noise();
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let first = self.first_with_files();
        let holders = (self.directories - first).max(1);
        for file in (0..self.files).step_by(100) {
            let directory = open_directory(&root, &self.name(first + file % holders))?;
            self.write(&directory, file, round + 1, &noise)?;
        }
        Ok(())
    }

    fn write(self, directory: &OwnedFd, file: usize, round: u32, noise: &[u8]) -> Result<(), Errno> {
        let mut random = Random::new(file as u64 ^ u64::from(round) << 40);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(directory, format!("file-{file:07}"), flags, Mode::from_raw_mode(0o644))?;
        if self.mean > 0 {
            let size = random.size(self.mean as f64, self.mean * 4);
            let start = usize::try_from(random.next()).unwrap_or(0) % (noise.len() - size);
            rustix::io::write(&handle, &noise[start..start + size])?;
        }
        let day = 86_400 * i64::from(round);
        rustix::fs::futimens(&handle, &times(BASE_TIME + day + (file % 1_000_000) as i64, random.next()))
    }
}

fn open_directory(root: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(root, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes large files of different bytes.
pub(crate) fn large(root: &Path, number: usize, size: u64) -> Result<(), Errno> {
    let mut noise = noise();
    for file in 0..number {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let handle = rustix::fs::open(root.join(format!("large-{file:03}")), flags, Mode::from_raw_mode(0o644))?;
        let mut left = usize::try_from(size).unwrap_or(0);
        while left > 0 {
            noise.rotate_left(1);
            left -= rustix::io::write(&handle, &noise[..left.min(noise.len())])?;
        }
        rustix::fs::futimens(&handle, &times(BASE_TIME + file as i64, 0))?;
    }
    Ok(())
}

/// Makes one sparse file with `extents` pieces of 128 KiB, evenly apart.
pub(crate) fn sparse(root: &Path, size: u64, extents: u64) -> Result<(), Errno> {
    let noise = noise();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let handle = rustix::fs::open(root.join("sparse"), flags, Mode::from_raw_mode(0o644))?;
    rustix::fs::ftruncate(&handle, size)?;
    for extent in 0..extents {
        rustix::io::pwrite(&handle, &noise[..128 << 10], size / extents * extent)?;
    }
    rustix::fs::futimens(&handle, &times(BASE_TIME, 0))
}

/// Gives a directory itself the time that both sides have.
pub(crate) fn settle(root: &Path) -> Result<(), Errno> {
    rustix::fs::utimensat(CWD, root, &times(BASE_TIME, 0), AtFlags::empty())
}
