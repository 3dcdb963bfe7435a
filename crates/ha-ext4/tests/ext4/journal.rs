//! Journals that are not in their place yet: of an image that is copied while it is mounted, the reader shows what the
//! kernel shows after it has replayed it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use ha_ext4::Note;
use ha_testkit::loopmount::{Skipped, mount_file};
use ha_testkit::need;

use crate::populate::Random;
use crate::{Place, Tree, assert_same, kernel, losses, open, ours, run};

/// How a block of the journal begins.
const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

/// Works on a mounted file system, and waits again and again until it is in the journal.
fn work(top: &Path, rounds: u64) {
    let mut random = Random(rounds | 1);
    let keep = |path: &Path| File::open(path).unwrap().sync_all().unwrap();
    for round in 0..rounds {
        let directory = top.join(format!("directory-{round}"));
        std::fs::create_dir(&directory).unwrap();
        for index in 0..20 {
            let bytes = random.bytes(1 << (index % 14));
            std::fs::write(directory.join(format!("{index}-{}", "n".repeat(100))), bytes).unwrap();
        }
        // Where data are in the journal, blocks that begin like its own are changed there.
        let mut looks_like = random.bytes(3 * 4096);
        looks_like.chunks_mut(1024).for_each(|block| block[..4].copy_from_slice(&MAGIC));
        std::fs::write(directory.join("looks-like-a-journal"), &looks_like).unwrap();
        let file = File::create(directory.join("synced")).unwrap();
        file.write_all_at(&random.bytes(20_000), 4096 * round).unwrap();
        keep(&directory.join("synced"));
        if round % 2 == 1 {
            // The blocks of a directory that goes are given up in the journal, and used for content.
            let old = top.join(format!("directory-{}", round - 1));
            for entry in std::fs::read_dir(&old).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
            std::fs::remove_dir(old).unwrap();
            keep(top);
            std::fs::write(top.join(format!("content-{round}")), random.bytes(100_000)).unwrap();
            keep(&top.join(format!("content-{round}")));
        }
    }
    let last = File::create(top.join("not-synced")).unwrap();
    last.write_all_at(b"perhaps", 0).unwrap();
}

/// Copies the image while it is mounted and worked on.
fn dirty(options: &[&str], mount: &str, rounds: u64) -> Result<Place, Skipped> {
    let place = Place::new(options, "64M")?;
    let options = format!("rw,noatime,commit=300,{mount}");
    let mounted = place.mount(&options)?;
    work(mounted.path(), rounds);
    run(Command::new("cp").arg("--sparse=always").arg(place.image()).arg(place.path("dirty")));
    drop(mounted);
    std::fs::rename(place.path("dirty"), place.image()).unwrap();
    Ok(place)
}

/// Returns what is there after the kernel has replayed the journal of a copy.
fn replayed(place: &Place) -> Tree {
    let copy = place.path("replayed");
    run(Command::new("cp").arg("--sparse=always").arg(place.image()).arg(&copy));
    drop(mount_file(&copy, &place.mount_point(), "rw,noatime").expect("a kernel that mounted it before"));
    let mounted = mount_file(&copy, &place.mount_point(), "ro").expect("the same");
    kernel::tree(mounted.path())
}

fn same(options: &[&str], mount: &str, rounds: u64) -> Result<(), Skipped> {
    let what = format!("mke2fs {} -o {mount}", options.join(" "));
    let place = dirty(options, mount, rounds)?;
    let files = place.open();
    assert!(losses(&files).is_empty(), "{what}: {:?}", losses(&files));
    let done = files.notes().iter().any(|note| matches!(note, Note::Replayed { transactions: 1.., blocks: 1.. }));
    assert!(done, "{what}: {:?}", files.notes());
    let (ours, failed) = ours::tree(&files);
    assert!(failed.is_empty(), "{what}: {failed:?}");
    assert_same(&what, &replayed(&place), &ours);
    Ok(())
}

#[test]
fn what_is_in_the_journal_is_laid_over() {
    for (options, mount) in [
        (&["-t", "ext4", "-b", "4096"][..], "data=ordered"),
        (&["-t", "ext4", "-b", "4096"], "data=journal"),
        (&["-t", "ext4", "-b", "1024"], "data=journal"),
        (&["-t", "ext4", "-b", "4096"], "journal_async_commit,data=writeback"),
        (&["-t", "ext4", "-b", "4096", "-O", "^64bit"], "data=journal"),
        (&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"], "data=journal"),
        (&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^64bit,uninit_bg"], "data=ordered"),
        (&["-t", "ext4", "-b", "2048", "-O", "^metadata_csum"], "journal_checksum,data=journal"),
        (&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"], "journal_async_commit,data=writeback"),
        (&["-t", "ext4", "-b", "4096", "-O", "inline_data,bigalloc"], "data=ordered"),
        (&["-t", "ext3", "-b", "4096"], "data=journal"),
        (&["-t", "ext3", "-b", "1024", "-I", "128"], "data=ordered"),
    ] {
        need!(same(options, mount, 6));
    }
}

#[test]
fn a_journal_that_has_gone_round() {
    // 1024 blocks of 1 KiB.
    for mount in ["data=journal", "data=ordered"] {
        need!(same(&["-t", "ext4", "-b", "1024", "-J", "size=1"], mount, 25));
        need!(same(&["-t", "ext3", "-b", "1024", "-J", "size=1"], mount, 25));
    }
}

/// Finds the blocks of the journal of a type, as blocks of the image, in the order of their transactions.
fn journal_blocks(image: &[u8], kind: u32) -> Vec<usize> {
    let number = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
    let starts = (0..image.len()).step_by(4096).filter(|at| image[*at..].starts_with(&MAGIC));
    let mut found: Vec<(u32, usize)> =
        starts.filter(|at| number(at + 4) == kind).map(|at| (number(at + 8), at)).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, at)| at).collect()
}

#[test]
fn a_damaged_journal_is_laid_over_up_to_the_damage() {
    let place = need!(dirty(&["-t", "ext4", "-b", "4096"], "data=ordered", 8));
    let image = std::fs::read(place.image()).unwrap();
    let whole = open(&place.image());
    let (transactions, _) = figures(whole.notes());
    // The commit block in the middle: what precedes it counts.
    let commits = journal_blocks(&image, 2);
    assert!(commits.len() as u32 >= transactions && transactions > 4, "{transactions} of {}", commits.len());
    let middle = commits[commits.len() - transactions as usize / 2];
    place.poke(middle as u64 + 0x38, &[0xff; 4]);
    let files = place.open();
    assert_eq!(losses(&files).len(), 1, "{:?}", files.notes());
    assert!(losses(&files)[0].contains("has a wrong checksum"), "{:?}", losses(&files));
    let (fewer, _) = figures(files.notes());
    assert!(fewer > 0 && fewer < transactions, "{fewer} of {transactions}");
    // e2fsck replays the same ones.
    let (ours, failed) = ours::tree(&files);
    assert!(failed.is_empty(), "{failed:?}");
    let copy = place.path("replayed");
    std::fs::copy(place.image(), &copy).unwrap();
    let _ = Command::new("e2fsck").args(["-E", "journal_only", "-y"]).arg(&copy).output().unwrap();
    let mounted = mount_file(&copy, &place.mount_point(), "ro,noload").unwrap();
    assert_same("after a damaged commit", &kernel::tree(mounted.path()), &ours);
    drop(mounted);
    // A block of data: it alone is left as it was.
    std::fs::write(place.image(), &image).unwrap();
    let descriptor = *journal_blocks(&image, 1).last().unwrap();
    place.poke(descriptor as u64 + 4096 + 8, &[0x5a; 16]);
    let files = place.open();
    assert!(losses(&files).len() == 1 && losses(&files)[0].contains("checksum"), "{:?}", losses(&files));
    assert_eq!(figures(files.notes()).0, transactions);
    // The superblock of the journal: nothing is laid over, and it is said.
    std::fs::write(place.image(), &image).unwrap();
    let superblock = journal_blocks(&image, 4)[0];
    place.poke(superblock as u64 + 0x18, &[9; 4]);
    let files = place.open();
    assert!(losses(&files).len() == 1 && losses(&files)[0].contains("block 0 of the journal"), "{:?}", losses(&files));
}

#[test]
fn a_damaged_superblock_in_the_journal_is_not_taken() {
    need!(ha_testkit::loopmount::need_tool("debugfs"));
    let place = need!(Place::new(&["-t", "ext4", "-b", "4096"], "32M"));
    std::fs::write(place.path("text"), "some").unwrap();
    let path = place.path("text").display().to_string();
    place.debugfs(&[format!("write {path} file"), format!("write {path} other")]);
    let other = place.debugfs(&["blocks /other".to_owned()]).split_whitespace().last().unwrap().to_owned();
    let mut block = std::fs::read(place.image()).unwrap()[..4096].to_vec();
    // A letter of the label, and no new checksum.
    block[1024 + 0x78] = b'x';
    std::fs::write(place.path("block"), &block).unwrap();
    std::fs::write(place.path("content"), [b'n'; 4096]).unwrap();
    place.debugfs(&[
        "journal_open -c -v 3".to_owned(),
        format!("journal_write -b 0 {}", place.path("block").display()),
        format!("journal_write -b {other} {}", place.path("content").display()),
        "journal_close".to_owned(),
    ]);
    let files = place.open();
    assert_eq!(figures(files.notes()), (2, 2));
    let lost = losses(&files);
    assert!(lost.len() == 1 && lost[0].contains("superblock in the journal is damaged"), "{lost:?}");
    assert!(lost[0].contains("the checksum is wrong"), "{lost:?}");
    // All else of the journal counts.
    let inode = files.find(b"/other", true).unwrap();
    let mut bytes = [0; 4];
    files.content(&inode).unwrap().read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"nnnn");
    assert!(files.find(b"/file", true).is_ok());
}

#[test]
fn what_the_journal_holds_of_a_directory_is_there_though_its_place_is_not() {
    need!(ha_testkit::loopmount::need_tool("debugfs"));
    let place = need!(Place::new(&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum", "-J", "size=4"], "64M"));
    place.debugfs(&["mkdir d".to_owned(), "mkdir d/inside".to_owned()]);
    let number = |command: &str| -> u64 {
        let said = place.debugfs(&[command.to_owned()]);
        said.split_whitespace().last().unwrap().parse().unwrap_or_else(|_| panic!("{said}"))
    };
    let block = number("blocks /d");
    assert!(number("blocks <8>") < 12_000 && block < 12_000);
    let bytes = std::fs::read(place.image()).unwrap();
    std::fs::write(place.path("block"), &bytes[block as usize * 4096..][..4096]).unwrap();
    // Its place is moved to the end of the image, which is cut off.
    place.debugfs(&[
        "set_inode_field /d block[2] 1".to_owned(),
        "set_inode_field /d block[5] 16000".to_owned(),
        "journal_open".to_owned(),
        format!("journal_write -b 16000 {}", place.path("block").display()),
        "journal_close".to_owned(),
    ]);
    assert_eq!(number("blocks /d"), 16_000);
    File::options().write(true).open(place.image()).unwrap().set_len(12_000 * 4096).unwrap();
    let files = place.open();
    assert_eq!(figures(files.notes()), (1, 1));
    let (tree, failed) = ours::tree(&files);
    assert!(tree.contains_key(&b"d/inside"[..]), "{failed:?}");
}

fn figures(notes: &[Note]) -> (u32, u64) {
    let replayed = notes.iter().find_map(|note| match note {
        Note::Replayed { transactions, blocks } => Some((*transactions, *blocks)),
        _ => None,
    });
    replayed.unwrap_or_else(|| panic!("{notes:?}"))
}

#[test]
fn every_version_of_checksums() {
    need!(ha_testkit::loopmount::need_tool("debugfs"));
    for (options, version, feature) in [
        ("", "3", "journal_checksum_v3"),
        ("^64bit", "2", "journal_checksum_v2"),
        ("64bit", "2", "journal_checksum_v2"),
        ("^metadata_csum", "1", "journal_checksum"),
        ("^metadata_csum,^64bit", "0", "(none)"),
    ] {
        let place = need!(Place::new(&["-t", "ext4", "-b", "4096", "-O", options], "32M"));
        std::fs::write(place.path("text"), "in its place").unwrap();
        place.debugfs(&[format!("write {} file", place.path("text").display())]);
        let block: u64 =
            place.debugfs(&["blocks /file".to_owned()]).split_whitespace().last().unwrap().parse().unwrap();
        let content = |byte: u8| {
            let mut content = vec![byte; 4096];
            content[..4].copy_from_slice(&MAGIC);
            let path = place.path(&format!("block-{byte}"));
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let open = match version {
            "0" => "journal_open".to_owned(),
            // It knows the first version by another name: what a file system without checksums has.
            "1" => "journal_open -c".to_owned(),
            version => format!("journal_open -c -v {version}"),
        };
        place.debugfs(&[
            open,
            format!("journal_write -b {block} {}", content(b'a')),
            format!("journal_write -b {block} {}", content(b'b')),
            "journal_close".to_owned(),
        ]);
        let read = || {
            let files = place.open();
            let inode = files.find(b"/file", true).unwrap();
            let mut bytes = vec![0; 12];
            files.content(&inode).unwrap().read_at(0, &mut bytes).unwrap();
            (figures(files.notes()).0, losses(&files), bytes)
        };
        let (transactions, lost, bytes) = read();
        assert!(lost.is_empty(), "{version}: {lost:?}");
        assert_eq!(transactions, 2, "{version}");
        assert_eq!((&bytes[..4], &bytes[4..]), (&MAGIC[..], &b"bbbbbbbb"[..]), "{version}");
        let described = place.debugfs(&["logdump -S".to_owned()]);
        let features = described.lines().find_map(|line| line.strip_prefix("Journal features:")).unwrap();
        assert!(features.split_whitespace().any(|word| word == feature), "{version}: {features}");
        if version == "1" {
            // What debugfs adds to such a journal the kernel refuses too.
            continue;
        }
        place.debugfs(&["journal_open".to_owned(), format!("journal_write -r {block}"), "journal_close".to_owned()]);
        assert_eq!(read().2, b"in its place", "{version}: a block that was given up");
    }
}

#[test]
fn fast_commits_are_seen() {
    let place = need!(Place::new(&["-t", "ext4", "-b", "4096", "-O", "fast_commit"], "64M"));
    let mounted = need!(place.mount("rw,noatime,commit=300"));
    work(mounted.path(), 3);
    rustix::fs::syncfs(File::open(mounted.path()).unwrap()).unwrap();
    let copy = |name: &str| {
        let copy = place.path(name);
        run(Command::new("cp").arg("--sparse=always").arg(place.image()).arg(&copy));
        open(&copy)
    };
    let files = copy("without");
    assert!(losses(&files).is_empty(), "{:?}", files.notes());
    // A small change and a wait: what fast commits are for.
    std::fs::write(mounted.path().join("fast"), "committed").unwrap();
    File::open(mounted.path().join("fast")).unwrap().sync_all().unwrap();
    let files = copy("with");
    assert!(files.notes().iter().any(|note| matches!(note, Note::FastCommit { .. })), "{:?}", files.notes());
    drop(mounted);
    // e2fsck takes it in, and so does the kernel.
    let checked = place.path("checked");
    run(Command::new("cp").arg("--sparse=always").arg(place.path("with")).arg(&checked));
    let _ = Command::new("e2fsck").args(["-E", "journal_only", "-p"]).arg(&checked).output().unwrap();
    let files = open(&checked);
    assert!(losses(&files).is_empty(), "{:?}", files.notes());
    let inode = files.find(b"/fast", true).unwrap();
    let mut bytes = [0; 9];
    assert_eq!(files.content(&inode).unwrap().read_at(0, &mut bytes).unwrap(), 9);
    assert_eq!(&bytes, b"committed");
    let mounted = mount_file(&place.path("with"), &place.mount_point(), "rw").unwrap();
    assert_eq!(std::fs::read(mounted.path().join("fast")).unwrap(), b"committed");
    drop(mounted);
    assert!(losses(&open(&place.path("with"))).is_empty());
}
