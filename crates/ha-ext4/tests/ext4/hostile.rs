//! Images that are made to take memory or time: what they take is bounded by what the image really holds.

use std::ops::ControlFlow;

use ha_ext4::{Attributes, FileSystem, Note, Source};
use ha_testkit::loopmount::{Skipped, need_tool};
use ha_testkit::need;

use crate::{Place, source};

/// Makes an image of blocks of 4 KiB without checksums, in which files lie at the top.
fn image(options: &[&str], size: &str, files: &[(&str, Vec<u8>)]) -> Result<Place, Skipped> {
    need_tool("debugfs")?;
    let place = Place::new(&[&["-t", "ext4", "-b", "4096"], options].concat(), size)?;
    for (name, content) in files {
        std::fs::write(place.path(name), content).unwrap();
        place.debugfs(&[format!("write {} {name}", place.path(name).display())]);
    }
    Ok(place)
}

/// Finds the first block of a file.
fn first_block(place: &Place, path: &str) -> u64 {
    let blocks = place.debugfs(&[format!("blocks {path}")]);
    let number = blocks.lines().last().and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{path}: {blocks}"))
}

fn attributes(place: &Place, path: &str) -> Attributes {
    let files = place.open();
    files.attributes(&files.find(path.as_bytes(), false).unwrap())
}

/// Makes a block of attributes out of entries: name, offset of the value, inode of the value, length.
fn attribute_block(entries: &[(String, u16, u32, u32)]) -> Vec<u8> {
    let mut block = [0xea02_0000_u32, 1, 1, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
    for (name, offset, inode, length) in entries {
        block.extend([name.len() as u8, 1]);
        block.extend(offset.to_le_bytes());
        block.extend([*inode, *length, 0].map(u32::to_le_bytes).concat());
        block.extend(name.as_bytes());
        block.resize(block.len().next_multiple_of(4), 0);
    }
    assert!(block.len() <= 4096);
    block.resize(4096, 0);
    block
}

#[test]
fn attributes_take_no_more_than_a_mebibyte() {
    let files = [("names", vec![1; 4096]), ("holder", vec![b'v'; 60_000]), ("long", vec![b'w'; 100_000])];
    let place = need!(image(&["-O", "ea_inode,^metadata_csum"], "16M", &files));
    let block = first_block(&place, "/names");
    let inode = |path: &str| place.open().find(path.as_bytes(), false).unwrap().number();
    let (holder, long) = (inode("/holder"), inode("/long"));
    // The sum of the value is where the time of access would be.
    for (number, value) in [(holder, &files[1].1), (long, &files[2].1)] {
        let seed = crc32c(!0, &uuid(&place));
        let sum = crc32c(seed, value);
        place.debugfs(&[
            format!("set_inode_field <{number}> flags 0x280000"),
            format!("set_inode_field <{number}> atime @{sum}"),
        ]);
    }
    place.debugfs(&[format!("set_inode_field /names file_acl {block}")]);
    // One value under 200 names.
    let mut entries: Vec<_> = (0..200).map(|index| (format!("{index:03}"), 0, holder, 60_000)).collect();
    place.poke(block * 4096, &attribute_block(&entries));
    let read = attributes(&place, "/names");
    assert_eq!((read.found.len(), read.failed.len()), (17, 183), "{:?}", read.failed.first());
    assert!(read.found.iter().all(|found| found.value == files[1].1));
    let lost = read.failed[0].to_string();
    assert!(lost.contains("attribute user.017 is not read: together they have more than 1048576 bytes"), "{lost}");
    // One that no `setxattr` wrote leaves the others.
    entries.truncate(2);
    entries[0] = ("long".to_owned(), 0, long, 100_000);
    place.poke(block * 4096, &attribute_block(&entries));
    let read = attributes(&place, "/names");
    assert_eq!((read.found.len(), read.failed.len()), (1, 1), "{:?}", read.failed);
    assert!(read.failed[0].to_string().contains("user.long has 100000 bytes"), "{:?}", read.failed);
    // Values that lie over each other.
    let entries: Vec<_> = (0..150).map(|index| (format!("{index:03}"), 3600, 0, 400)).collect();
    place.poke(block * 4096, &attribute_block(&entries));
    let read = attributes(&place, "/names");
    assert_eq!((read.found.len(), read.failed.len()), (10, 1), "{:?}", read.failed);
    assert!(read.failed[0].to_string().contains("overlap"), "{:?}", read.failed);
}

/// Returns the names of a directory, and its failures.
fn listed(files: &FileSystem, path: &str) -> (Vec<Vec<u8>>, Vec<String>) {
    let (mut names, mut failed) = (Vec::new(), Vec::new());
    let inode = files.find(path.as_bytes(), false).unwrap();
    let each = &mut |entry: Result<ha_ext4::DirectoryEntry, ha_ext4::Error>| {
        match entry {
            Ok(entry) => names.push(entry.name),
            Err(error) => failed.push(error.to_string()),
        }
        ControlFlow::Continue(())
    };
    files.entries(&inode, each).unwrap();
    (names, failed)
}

/// Makes a node of extents: first block of the file, length, first block of the file system.
fn extents(depth: u16, entries: &[(u32, u16, u32)], room: usize) -> Vec<u8> {
    let head = [0xf30a, entries.len() as u16, room as u16, depth, 0, 0];
    let mut node = head.map(u16::to_le_bytes).concat();
    for (start, length, first) in entries {
        node.extend(start.to_le_bytes());
        match depth {
            0 => node.extend([length.to_le_bytes(), [0; 2]].concat()),
            _ => node.extend(first.to_le_bytes()),
        }
        node.extend(if depth == 0 { first.to_le_bytes() } else { [0; 4] });
    }
    node
}

/// Finds where an inode lies in the image.
fn inode_at(place: &Place, path: &str) -> u64 {
    let said = place.debugfs(&[format!("imap {path}")]);
    let word = |before: &str| said.rsplit_once(before).unwrap().1.trim().split([',', '\n']).next().unwrap().to_owned();
    let block: u64 = word("at block").parse().unwrap();
    block * 4096 + u64::from_str_radix(&word("offset 0x"), 16).unwrap()
}

/// Makes the file system, by its word, as long as can be.
fn claim_blocks(place: &Place) {
    let blocks: u64 = 1 << 33;
    place.poke(1024 + 0x4, &(blocks as u32).to_le_bytes());
    place.poke(1024 + 0x150, &((blocks >> 32) as u32).to_le_bytes());
}

const PLAIN: &[&str] = &["-O", "^metadata_csum,large_dir,^dir_index,^has_journal"];

#[test]
fn a_directory_is_read_no_further_than_the_image_goes() {
    // A leaf of extents that all lie beyond the image, 11 million blocks.
    let place = need!(image(PLAIN, "16M", &[("leaf", vec![1; 4096])]));
    place.debugfs(&["mkdir d".to_owned(), "mkdir d/inside".to_owned()]);
    let (own, leaf, inode) = (first_block(&place, "/d"), first_block(&place, "/leaf"), inode_at(&place, "/d"));
    let mut entries = vec![(0, 1, own as u32)];
    entries.extend((0..339_u32).map(|index| (1 + index * 32_768, 32_768, 1_000_000 + index * 40_000)));
    let mut block = extents(0, &entries, 340);
    block.resize(4096, 0);
    place.poke(leaf * 4096, &block);
    place.poke(inode + 0x28, &extents(1, &[(0, 0, leaf as u32)], 4));
    let length = (1 + 339 * 32_768_u64) * 4096;
    place.poke(inode + 0x4, &(length as u32).to_le_bytes());
    place.poke(inode + 0x6c, &((length >> 32) as u32).to_le_bytes());
    claim_blocks(&place);
    let (names, failed) = listed(&place.open(), "/d");
    assert_eq!(names, [b"inside"]);
    assert_eq!(failed.len(), 1, "{:?}", &failed[..failed.len().min(3)]);
    assert!(failed[0].contains("from here on 11108352 blocks lie beyond the end of the image"), "{}", failed[0]);
}

#[test]
fn a_block_is_listed_once() {
    // A map of three levels that leads to the same few blocks, again and again.
    let place = need!(image(
        &["-O", "^metadata_csum,large_dir,^dir_index,^has_journal,^extent,^64bit"],
        "16M",
        &[("map", vec![1; 4096]), ("above", vec![1; 4096]),]
    ));
    place.debugfs(&["mkdir d".to_owned(), "mkdir d/inside".to_owned()]);
    let own = first_block(&place, "/d") as u32;
    let (map, above) = (first_block(&place, "/map"), first_block(&place, "/above"));
    let inode = inode_at(&place, "/d");
    place.poke(map * 4096, &own.to_le_bytes().repeat(1024));
    place.poke(above * 4096, &(map as u32).to_le_bytes().repeat(1024));
    place.poke(inode + 0x28 + 44 + 8, &(above as u32).to_le_bytes());
    let length = (12 + 1024 + 1024 * 1024_u64) * 4096;
    place.poke(inode + 0x4, &(length as u32).to_le_bytes());
    place.poke(inode + 0x6c, &((length >> 32) as u32).to_le_bytes());
    place.poke(1024 + 0x4, &u32::MAX.to_le_bytes());
    let (names, failed) = listed(&place.open(), "/d");
    assert_eq!(names, [b"inside"]);
    assert!(failed.len() == 3 && failed[1].contains("1001 blocks belong to the directory twice"), "{failed:?}");
    assert!(failed[2].contains("not read from here on"), "{failed:?}");
}

/// Counts what is read of an image.
struct Counted(Box<dyn Source>, std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Source for Counted {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_exact_at(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let before = self.1.fetch_add(buffer.len() as u64, std::sync::atomic::Ordering::Relaxed);
        assert!(before < 512 << 20, "it reads without end");
        self.0.read_exact_at(offset, buffer)
    }
}

/// Opens an image, and returns why its journal was not laid over.
fn refused(place: &Place) -> String {
    let files = FileSystem::open(Box::new(Counted(source(&place.image()), Default::default()))).unwrap();
    let why = files.notes().iter().find_map(|note| match note {
        Note::JournalDamaged { what } => Some(what.clone()),
        _ => None,
    });
    why.unwrap_or_else(|| panic!("{:?}", files.notes()))
}

#[test]
fn a_journal_is_no_longer_than_the_image() {
    let options = &["-O", "^metadata_csum,^64bit", "-J", "size=4"];
    let place = need!(image(options, "32M", &[("map", vec![1; 4096]), ("above", vec![1; 4096])]));
    let (map, above) = (first_block(&place, "/map"), first_block(&place, "/above") as u32);
    let (inode, journal) = (inode_at(&place, "<8>"), first_block(&place, "<8>") as u32);
    // Transaction 1 begins in block 1, which is a revocation of it; all blocks that follow are the same one.
    let revocation = [0xc03b_3998_u32, 5, 1, 16].map(u32::to_be_bytes).concat();
    place.poke(u64::from(journal + 1) * 4096, &revocation);
    place.poke(map * 4096, &(journal + 1).to_le_bytes().repeat(1024));
    place.poke(u64::from(above) * 4096, &(map as u32).to_le_bytes().repeat(1024));
    let mut numbers = [journal + 1; 15];
    (numbers[0], numbers[12], numbers[13], numbers[14]) = (journal, map as u32, above, 0);
    place.debugfs(&["set_inode_field <8> flags 0".to_owned()]);
    place.poke(inode + 0x28, &numbers.map(u32::to_le_bytes).concat());
    // The copy of its inode in the superblock goes, and it must be replayed.
    place.poke(1024 + 0xfd, &[0]);
    let features = std::fs::read(place.image()).unwrap()[1024 + 0x60];
    place.poke(1024 + 0x60, &[features | 4]);
    place.poke(1024 + 0x4, &u32::MAX.to_le_bytes());
    let claim = |length: u32| {
        place.poke(inode + 0x4, &(length * 4096).to_le_bytes());
        let head = u64::from(journal) * 4096;
        place.poke(head + 0x10, &length.to_be_bytes());
        place.poke(head + 0x18, &[1_u32, 1].map(u32::to_be_bytes).concat());
    };
    // By the word of all who speak of it there is far more of it than of the image.
    claim(1_000_000);
    assert!(refused(&place).contains("its length is impossible"), "{}", refused(&place));
    // As long as the image, and in one block of it.
    claim(8192);
    assert!(refused(&place).contains("its blocks overlap"), "{}", refused(&place));
}

fn uuid(place: &Place) -> Vec<u8> {
    std::fs::read(place.image()).unwrap()[1024 + 0x68..][..16].to_vec()
}

fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let bit = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    bytes.iter().fold(seed, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), bit))
}
