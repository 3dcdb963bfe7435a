//! Images that are made to take memory or time: what they take is bounded by what the image really holds.

use ha_ext4::Attributes;
use ha_testkit::loopmount::{Skipped, need_tool};
use ha_testkit::need;

use crate::Place;

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

fn uuid(place: &Place) -> Vec<u8> {
    std::fs::read(place.image()).unwrap()[1024 + 0x68..][..16].to_vec()
}

fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let bit = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    bytes.iter().fold(seed, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), bit))
}
