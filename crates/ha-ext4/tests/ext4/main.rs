//! The reader against the kernel: images of many kinds, made by mke2fs and filled through a mount, are read by both.
#![allow(clippy::disallowed_methods, reason = "test code: a panic names the line")]

mod damage;
mod fuzz;
mod hostile;
mod images;
mod journal;
mod kernel;
mod offline;
mod ours;
mod populate;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ha_ext4::{FileSystem, Note, Source};
use ha_testkit::loopmount::{Mounted, Skipped, mount_file, need_tool};

/// Is what is known of an entry, by the kernel or by the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    inode: u64,
    kind: char,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u64,
    size: u64,
    device: (u32, u32),
    /// Content, access, inode.
    times: [(i64, u32); 3],
    created: Option<(i64, u32)>,
    target: Option<Vec<u8>>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a file: a sum of its bytes, or why there is none.
    content: Result<u64, String>,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

/// Up to that length a file is read from end to end, also where it has holes.
const WHOLE: u64 = 200 << 20;

/// Sums bytes with their positions; zeros count for nothing, so that holes need not be read.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, position: u64, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(512).enumerate() {
            if chunk.iter().any(|byte| *byte != 0) {
                let first = position + 512 * index as u64;
                let each = chunk.iter().zip(first..).map(|(byte, at)| {
                    let mixed = (at ^ at >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    (mixed ^ mixed >> 29).wrapping_mul(u64::from(*byte))
                });
                self.0 = self.0.wrapping_add(each.fold(0, u64::wrapping_add));
            }
        }
    }
}

/// Is an image in a directory of its own, with a place to mount it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// Makes a file system of `size` with options of mke2fs.
    fn new(options: &[&str], size: &str) -> Result<Self, Skipped> {
        need_tool("mke2fs")?;
        let place = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.mount_point()).unwrap();
        run(Command::new("truncate").args(["-s", size]).arg(place.image()));
        let quick = "lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard";
        let has_extended = options.contains(&"-E");
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-F"]).args(options);
        if !has_extended {
            command.args(["-E", quick]);
        }
        run(command.arg(place.image()));
        Ok(place)
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn mount(&self, options: &str) -> Result<Mounted, Skipped> {
        mount_file(&self.image(), &self.mount_point(), options)
    }

    /// Returns what the kernel sees, with the journal as it is on a copy of the image.
    fn by_kernel(&self) -> Tree {
        let mounted = mount_file(&self.image(), &self.mount_point(), "ro").expect("it was mounted before");
        kernel::tree(mounted.path())
    }

    fn open(&self) -> FileSystem {
        open(&self.image())
    }

    /// Runs commands of debugfs on the image, which may be changed.
    fn debugfs(&self, commands: &[String]) -> String {
        let script = self.path("commands");
        std::fs::write(&script, commands.join("\n") + "\n").unwrap();
        let output = Command::new("debugfs").arg("-w").arg("-f").arg(&script).arg(self.image()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        // It exits with 0 whatever happens.
        let said: Vec<_> = errors.lines().filter(|line| !line.starts_with("debugfs 1.")).collect();
        assert!(output.status.success() && said.is_empty(), "{commands:?}: {said:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Changes bytes of the image.
    fn poke(&self, offset: u64, bytes: &[u8]) {
        std::fs::File::options().write(true).open(self.image()).unwrap().write_all_at(bytes, offset).unwrap();
    }
}

struct ImageFile(std::fs::File, u64);

impl Source for ImageFile {
    fn size(&self) -> u64 {
        self.1
    }
    fn read_exact_at(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        assert!(offset + buffer.len() as u64 <= self.1, "read beyond the end");
        Ok(self.0.read_exact_at(buffer, offset)?)
    }
}

fn source(path: &Path) -> Box<dyn Source> {
    let file = std::fs::File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    Box::new(ImageFile(file, size))
}

fn open(path: &Path) -> FileSystem {
    FileSystem::open(source(path)).unwrap_or_else(|error| panic!("{error}"))
}

fn losses(files: &FileSystem) -> Vec<String> {
    files.notes().iter().filter(|note| note.is_loss()).map(Note::to_string).collect()
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {}", words.trim());
}

/// Tells the first differences of two trees.
#[track_caller]
fn assert_same(what: &str, kernel: &Tree, ours: &Tree) {
    let mut lines = Vec::new();
    for (path, seen) in kernel {
        match ours.get(path) {
            Some(other) if other == seen => {}
            other => lines.push(format!("{}\n  kernel {seen:?}\n  ours   {other:?}", path.escape_ascii())),
        }
    }
    let more = ours.keys().filter(|path| !kernel.contains_key(*path));
    lines.extend(more.map(|path| format!("{}: not there", path.escape_ascii())));
    let count = lines.len();
    assert!(lines.is_empty(), "{what}: {count} of {} differ:\n{}", kernel.len(), lines[..count.min(5)].join("\n"));
}
