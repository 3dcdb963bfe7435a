//! Whatever bytes a file system has: an answer, in bounded time and memory.

use std::collections::HashSet;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ha_ext4::{FileSystem, Inode, Kind, Note, Source};
use ha_testkit::need;

use crate::populate::Random;
use crate::{Place, run};

/// How many cases each kind of image is tried with, the same ones in each run.
const CASES: u64 = 2000;
/// One case reads no more often than that; the images have 2048 blocks.
const MOST_READS: u64 = 2_000_000;

/// Is an image in memory that counts how often it is read.
struct Memory {
    bytes: Arc<Vec<u8>>,
    changes: Vec<(usize, u8)>,
    reads: Arc<AtomicU64>,
}

impl Source for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_exact_at(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        assert!(self.reads.fetch_add(1, Relaxed) < MOST_READS, "it reads without end");
        let offset = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.bytes[offset..offset + buffer.len()]);
        for (at, byte) in &self.changes {
            if let Some(there) = at.checked_sub(offset).and_then(|at| buffer.get_mut(at)) {
                *there = *byte;
            }
        }
        Ok(())
    }
}

/// Says which case it was.
struct Case<'a>(&'a str, u64, &'a [(usize, u8)]);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "case {} of {}: {:?}", self.1, self.0, self.2);
        }
    }
}

/// Reads all that can be read, but of each file no more than the beginning. Returns what was there and what failed.
fn read(files: &FileSystem) -> (u64, u64) {
    let (mut found, mut failed) = (0, 0);
    let mut waiting = vec![2];
    let mut seen = HashSet::new();
    while let Some(number) = waiting.pop() {
        let Ok(inode) = files.inode(number) else {
            failed += 1;
            continue;
        };
        found += 1;
        failed += files.attributes(&inode).failed.len() as u64;
        match inode.kind() {
            Kind::Directory if seen.insert(number) => {
                let listed = files.entries(&inode, &mut |entry| {
                    match entry {
                        Ok(entry) => {
                            assert!(!entry.name.contains(&b'/') && entry.name != b"..");
                            waiting.push(entry.inode);
                        }
                        Err(_) => failed += 1,
                    }
                    ControlFlow::Continue(())
                });
                failed += u64::from(listed.is_err());
            }
            Kind::Link => failed += u64::from(files.link_target(&inode).is_err()),
            Kind::File => failed += u64::from(content(files, &inode).is_err()),
            _ => {}
        }
    }
    let _ = files.find(b"/a/../link/b", true);
    (found, failed)
}

fn content(files: &FileSystem, inode: &Inode) -> Result<(), ha_ext4::Error> {
    let mut content = files.content(inode)?;
    let (mut position, mut buffer) = (0, vec![0; 8192]);
    for _ in 0..200 {
        let Some(range) = content.range_at(position)? else { break };
        assert!(range.start == position && range.end > position && range.end <= inode.size());
        content.read_at(position, &mut buffer)?;
        content.read_at(range.end - 1, &mut buffer)?;
        position = range.end;
    }
    Ok(())
}

/// Makes a small image with a little of everything, through mke2fs alone.
fn image(options: &[&str]) -> Result<(Place, Vec<u8>), ha_testkit::loopmount::Skipped> {
    let place = Place::new(&["-t", "ext2"], "1M")?;
    let tree = place.path("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    std::fs::create_dir(tree.join("many")).unwrap();
    for index in 0..120 {
        std::fs::write(tree.join(format!("many/{index}-{}", "n".repeat(30))), vec![b'x'; index % 7 * 20]).unwrap();
    }
    let mut random = Random(99);
    for (name, length) in [("a/small", 100), ("a/b/medium", 20_000), ("a/large", 300_000)] {
        std::fs::write(tree.join(name), random.bytes(length)).unwrap();
    }
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    for at in 0..40 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"here", at * 12_000).unwrap();
    }
    std::os::unix::fs::symlink("a", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("l".repeat(200), tree.join("long-link")).unwrap();
    std::fs::hard_link(tree.join("a/small"), tree.join("again")).unwrap();
    for (name, length) in [("user.short", 10), ("user.long", 500)] {
        let _ =
            rustix::fs::lsetxattr(tree.join("a/small"), name, &random.bytes(length), rustix::fs::XattrFlags::empty());
    }
    std::fs::remove_file(place.image()).unwrap();
    run(Command::new("mke2fs").args(["-q", "-F"]).args(options).arg("-d").arg(&tree).arg(place.image()).arg("2M"));
    let bytes = std::fs::read(place.image()).unwrap();
    Ok((place, bytes))
}

fn fuzz(what: &str, bytes: Vec<u8>) {
    let bytes = Arc::new(bytes);
    let reads = Arc::new(AtomicU64::new(0));
    let open = |changes: Vec<(usize, u8)>| {
        reads.store(0, Relaxed);
        FileSystem::open(Box::new(Memory { bytes: Arc::clone(&bytes), changes, reads: Arc::clone(&reads) }))
    };
    let (all, failed) = read(&open(Vec::new()).unwrap());
    assert!(all > 125 && failed == 0, "{what}: {all}, {failed}");
    // Metadata are where bytes are set, and where content is not; content is as likely as not.
    let set: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0 && bytes[*at] != b'n').collect();
    let head: Vec<usize> = set.iter().copied().filter(|at| *at < 200_000).collect();
    let mut random = Random(0x5eed);
    let (mut opened, mut lost) = (0, 0);
    for case in 0..CASES {
        let places = if case % 4 == 0 { &set } else { &head };
        let changes: Vec<(usize, u8)> = (0..=random.below(6))
            .map(|_| {
                let at = places[random.below(places.len() as u64) as usize] + random.below(4) as usize;
                let byte = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[at.min(bytes.len() - 1)] ^ 1 << random.below(8),
                    _ => random.next() as u8,
                };
                (at, byte)
            })
            .collect();
        let _case = Case(what, case, &changes);
        if let Ok(files) = open(changes.clone()) {
            opened += 1;
            lost += u64::from(read(&files).1 > 0);
        }
    }
    assert!(opened > CASES / 4 && lost > 0, "{what}: {CASES} cases, {opened} opened, {lost} with losses");
}

#[test]
fn bytes_are_changed_anywhere() {
    for options in [
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal"][..],
        &["-t", "ext4", "-b", "1024", "-O", "metadata_csum,^has_journal"],
        &["-t", "ext2", "-b", "1024"],
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^has_journal,inline_data,ea_inode", "-I", "256"],
        &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^has_journal,meta_bg,^resize_inode"],
    ] {
        let (_place, bytes) = need!(image(options));
        fuzz(&options.join(" "), bytes);
    }
}

#[test]
fn bytes_of_a_journal_are_changed() {
    need!(ha_testkit::loopmount::need_tool("debugfs"));
    let (place, _) = need!(image(&["-t", "ext2", "-b", "1024", "-I", "128"]));
    // A journal of the least size, with transactions over the blocks of directories and inodes.
    run(Command::new("truncate").args(["-s", "4M"]).arg(place.image()));
    run(Command::new("resize2fs").arg("-f").arg(place.image()));
    run(Command::new("tune2fs").args(["-J", "size=1"]).arg(place.image()));
    let bytes = std::fs::read(place.image()).unwrap();
    let blocks: Vec<usize> =
        (30..90).filter(|block| bytes[block * 1024..][..1024].iter().any(|byte| *byte != 0)).collect();
    let mut commands = vec!["journal_open".to_owned()];
    for block in blocks.iter().take(20) {
        let path = place.path(&format!("block-{block}"));
        std::fs::write(&path, &bytes[block * 1024..][..1024]).unwrap();
        commands.push(format!("journal_write -b {block} {}", path.display()));
    }
    commands.extend(["journal_write -r 3000,3001".to_owned(), "journal_close".to_owned()]);
    place.debugfs(&commands);
    let mut bytes = std::fs::read(place.image()).unwrap();
    // The journal is what is changed: it is put where the changes are.
    let journal = (0..bytes.len()).step_by(1024).filter(|at| bytes[*at..].starts_with(&[0xc0, 0x3b, 0x39, 0x98]));
    let journal: Vec<usize> = journal.flat_map(|at| at..at + 64).filter(|at| bytes[*at] != 0).collect();
    assert!(journal.len() > 200, "{}", journal.len());
    let original = bytes.clone();
    let mut random = Random(7);
    let (mut replayed, mut lost) = (0, 0);
    for case in 0..CASES {
        let changes: Vec<(usize, u8)> = (0..=random.below(3))
            .map(|_| (journal[random.below(journal.len() as u64) as usize], random.next() as u8))
            .collect();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        let _case = Case("a journal", case, &changes);
        let memory = Memory { bytes: Arc::new(bytes.clone()), changes: Vec::new(), reads: Arc::default() };
        let files = FileSystem::open(Box::new(memory)).unwrap();
        replayed += u64::from(files.notes().iter().any(|note| matches!(note, Note::Replayed { blocks: 1.., .. })));
        lost += u64::from(files.notes().iter().any(Note::is_loss));
        read(&files);
        changes.iter().for_each(|(at, _)| bytes[*at] = original[*at]);
    }
    assert!(replayed > 0 && lost > 0, "{CASES} cases, {replayed} replayed, {lost} with losses");
}
