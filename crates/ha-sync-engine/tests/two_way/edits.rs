//! What people do to the two folders between runs, and during one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ha_sync_core::baseline::Side;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::world::{START, Trouble, World};

/// Is a sequence of numbers that a seed determines (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// The places at which something may be; few, so that edits meet.
pub(crate) const PATHS: [&str; 14] =
    ["x", "y", "z.txt", "d", "d/x", "d/y", "d/e", "d/e/x", "d/e/y", "f", "f/x", "f/e", "f/e/y", ".h"];

/// Which time a file gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Now.
    Now,
    /// That of the file that is there.
    Same,
    /// An hour before.
    Older,
    /// A day ahead of the clock.
    Future,
    /// A second after the file that is there, which counts as equally old.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edit {
    Write {
        path: usize,
        size: usize,
        when: When,
    },
    Append {
        path: usize,
        when: When,
    },
    Truncate {
        path: usize,
        when: When,
    },
    Touch {
        path: usize,
        when: When,
    },
    Chmod {
        path: usize,
    },
    Symlink {
        path: usize,
    },
    Mkdir {
        path: usize,
    },
    Delete {
        path: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    /// Two names change places.
    Swap {
        one: usize,
        other: usize,
    },
    /// Another name of a file.
    Link {
        from: usize,
        to: usize,
    },
    /// A file is replaced by a new one with the same content and time, as a backup that is put back.
    Remake {
        path: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Edit(Side, Edit),
    /// A run, and an edit at some point of its work.
    Run(Trouble, Option<(u32, Side, Edit)>),
}

fn when(random: &mut Random) -> When {
    match random.below(12) {
        0 => When::Same,
        1 => When::Older,
        2 => When::Future,
        3 => When::Close,
        _ => When::Now,
    }
}

pub(crate) fn edit(random: &mut Random) -> Edit {
    let path = random.below(PATHS.len());
    let other = random.below(PATHS.len());
    match random.below(24) {
        0..=6 => Edit::Write { path, size: 8 + random.below(3) * 20, when: when(random) },
        7 => Edit::Append { path, when: when(random) },
        8 => Edit::Truncate { path, when: when(random) },
        9 => Edit::Touch { path, when: when(random) },
        10 | 11 => Edit::Chmod { path },
        12 => Edit::Symlink { path },
        13 => Edit::Mkdir { path },
        14..=17 => Edit::Delete { path },
        18..=20 => Edit::Rename { from: path, to: other },
        21 => Edit::Swap { one: path, other },
        22 => Edit::Link { from: path, to: other },
        _ => Edit::Remake { path },
    }
}

pub(crate) fn set_time(path: &Path, mtime: i128) {
    let time =
        Timespec { tv_sec: mtime.div_euclid(1_000_000_000) as i64, tv_nsec: mtime.rem_euclid(1_000_000_000) as i64 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes contents of which no two are the same.
pub(crate) struct Editor {
    counter: u64,
    pub(crate) clock: i64,
}

impl Editor {
    pub(crate) fn new() -> Self {
        Self { counter: 0, clock: 0 }
    }

    fn content(&mut self, size: usize) -> Vec<u8> {
        self.counter += 1;
        let mut content = format!("v{:06}", self.counter).into_bytes();
        content.resize(size.max(content.len()), b'.');
        content
    }

    fn time(&mut self, when: When, before: Option<i128>) -> i128 {
        self.clock += 10;
        let now = i128::from(START + self.clock) * 1_000_000_000 + 123_456_789;
        let before = before.unwrap_or(now);
        match when {
            When::Now => now,
            When::Same => before,
            When::Older => now - 3_600_000_000_000,
            When::Future => now + 86_400_000_000_000,
            When::Close => before + 1_000_000_000,
        }
    }

    /// Does an edit where it makes sense; returns the contents that the person destroyed by it.
    pub(crate) fn apply(&mut self, root: &Path, edit: Edit) -> Vec<Vec<u8>> {
        let full = |index: usize| root.join(PATHS[index]);
        let meta = |path: &Path| fs::symlink_metadata(path).ok();
        let mut destroyed = Vec::new();
        match edit {
            Edit::Write { path, size, when } => {
                let path = full(path);
                let before = meta(&path);
                if before.as_ref().is_some_and(fs::Metadata::is_dir) {
                    destroyed = clear(&path);
                } else if before.is_some() {
                    destroyed.extend(content_of(&path));
                    if before.as_ref().is_some_and(fs::Metadata::is_symlink) {
                        fs::remove_file(&path).unwrap();
                    }
                }
                make_room(root, &path, &mut destroyed);
                let time = self.time(when, before.as_ref().map(mtime));
                fs::write(&path, self.content(size)).unwrap();
                set_time(&path, time);
            }
            Edit::Append { path, when } | Edit::Truncate { path, when } | Edit::Touch { path, when } => {
                let path = full(path);
                let Some(before) = meta(&path).filter(fs::Metadata::is_file) else { return destroyed };
                let time = self.time(when, Some(mtime(&before)));
                let content = fs::read(&path).unwrap();
                if matches!(edit, Edit::Append { .. }) {
                    let more = [&content[..], &self.content(8)].concat();
                    destroyed.push(content);
                    fs::write(&path, more).unwrap();
                } else if matches!(edit, Edit::Truncate { .. }) {
                    destroyed.push(content);
                    fs::write(&path, "").unwrap();
                }
                set_time(&path, time);
            }
            Edit::Chmod { path } => {
                let path = full(path);
                if let Some(meta) = meta(&path).filter(|meta| !meta.is_symlink()) {
                    let mode = meta.permissions().mode() & 0o7777;
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode ^ 0o040)).unwrap();
                }
            }
            Edit::Symlink { path } => {
                let path = full(path);
                if meta(&path).is_some() {
                    return destroyed;
                }
                make_room(root, &path, &mut destroyed);
                let target = String::from_utf8(self.content(8)).unwrap();
                std::os::unix::fs::symlink(target, &path).unwrap();
                let time = self.time(When::Now, None);
                set_time(&path, time);
            }
            Edit::Mkdir { path } => {
                let path = full(path);
                if meta(&path).is_none_or(|meta| !meta.is_dir()) {
                    make_room(root, &path, &mut destroyed);
                    if meta(&path).is_some() {
                        destroyed.extend(clear(&path));
                    }
                    fs::create_dir(&path).unwrap();
                }
            }
            Edit::Delete { path } => {
                if meta(&full(path)).is_some() {
                    destroyed = clear(&full(path));
                }
            }
            Edit::Rename { from, to } => {
                let (from, to) = (full(from), full(to));
                if meta(&from).is_none() || to.starts_with(&from) || from.starts_with(&to) {
                    return destroyed;
                }
                make_room(root, &to, &mut destroyed);
                if meta(&from).is_none() {
                    return destroyed;
                }
                if meta(&to).is_some() {
                    destroyed.extend(clear(&to));
                }
                fs::rename(from, to).unwrap();
            }
            Edit::Swap { one, other } => {
                let (one, other) = (full(one), full(other));
                let inside = one.starts_with(&other) || other.starts_with(&one);
                if inside || meta(&one).is_none() || meta(&other).is_none() {
                    return destroyed;
                }
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &one, CWD, &other, flags).unwrap();
            }
            Edit::Link { from, to } => {
                let (from, to) = (full(from), full(to));
                let is_file = meta(&from).is_some_and(|meta| meta.is_file());
                if is_file && meta(&to).is_none() && !to.starts_with(&from) {
                    make_room(root, &to, &mut destroyed);
                    if meta(&from).is_some() {
                        fs::hard_link(from, to).unwrap();
                    }
                }
            }
            Edit::Remake { path } => {
                let path = full(path);
                let Some(before) = meta(&path).filter(fs::Metadata::is_file) else { return destroyed };
                let content = fs::read(&path).unwrap();
                fs::remove_file(&path).unwrap();
                fs::write(&path, content).unwrap();
                set_time(&path, mtime(&before));
            }
        }
        destroyed
    }
}

fn mtime(meta: &fs::Metadata) -> i128 {
    use std::os::unix::fs::MetadataExt;
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

fn content_of(path: &Path) -> Option<Vec<u8>> {
    let meta = fs::symlink_metadata(path).ok()?;
    if meta.is_symlink() {
        return Some(fs::read_link(path).unwrap().into_os_string().into_encoded_bytes());
    }
    fs::read(path).ok()
}

/// Removes an entry with all that is in it, and returns the contents.
fn clear(path: &Path) -> Vec<Vec<u8>> {
    let meta = fs::symlink_metadata(path).unwrap();
    if !meta.is_dir() {
        let content = content_of(path);
        fs::remove_file(path).unwrap();
        return content.into_iter().collect();
    }
    let mut contents = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        contents.extend(clear(&entry.unwrap().path()));
    }
    fs::remove_dir(path).unwrap();
    contents
}

/// Makes the directories above a path, in place of what is no directory.
fn make_room(root: &Path, path: &Path, destroyed: &mut Vec<Vec<u8>>) {
    let below = path.strip_prefix(root).unwrap();
    let mut current = root.to_owned();
    for part in below.parent().into_iter().flat_map(Path::components) {
        current.push(part);
        match fs::symlink_metadata(&current) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                destroyed.extend(clear(&current));
                fs::create_dir(&current).unwrap();
            }
            Err(_) => fs::create_dir(&current).unwrap(),
        }
    }
}

impl World {
    pub(crate) fn edit(&mut self, editor: &mut Editor, side: Side, edit: Edit) {
        editor.apply(&self.root(side), edit);
        self.clock = editor.clock + 5;
    }
}
