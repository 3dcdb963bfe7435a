//! Damage to one part loses that part, and is named; what else there is, is given.

use std::os::unix::fs::FileExt as _;

use ha_ext4::{Error, FileSystem, Note, find_backup};
use ha_testkit::loopmount::{Skipped, need_tool};
use ha_testkit::need;

use crate::populate::Random;
use crate::{Place, Tree, losses, open, ours, source};

/// Makes an image with a few files, a directory of several blocks, extents and attributes in blocks of their own.
fn filled(options: &[&str], size: &str) -> Result<Place, Skipped> {
    need_tool("debugfs")?;
    let place = Place::new(options, size)?;
    let mounted = place.mount("rw,noatime")?;
    let top = mounted.path();
    std::fs::create_dir_all(top.join("directory/below")).unwrap();
    for index in 0..400 {
        std::fs::write(top.join(format!("directory/{index}-{}", "n".repeat(60))), format!("file {index}")).unwrap();
    }
    let pieces = std::fs::File::create(top.join("pieces")).unwrap();
    for index in 0..100 {
        pieces.write_all_at(&Random(index + 1).bytes(4096), index * 20_480).unwrap();
    }
    drop(pieces);
    std::fs::write(top.join("attributes"), "has attributes").unwrap();
    let long = Random(5).bytes(700);
    rustix::fs::lsetxattr(top.join("attributes"), "user.long", &long, rustix::fs::XattrFlags::empty()).unwrap();
    drop(mounted);
    Ok(place)
}

/// Asks debugfs for the first number behind a word.
fn number(place: &Place, command: &str, word: &str) -> u64 {
    let said = place.debugfs(&[command.to_owned()]);
    let rest = said.rsplit_once(word).unwrap_or_else(|| panic!("{said}")).1.trim_start_matches([' ', ':', '(']);
    let digits = rest.trim_start_matches("0x");
    let end = digits.find(|letter: char| !letter.is_ascii_hexdigit()).unwrap_or(digits.len());
    let radix = if digits.len() < rest.len() { 16 } else { 10 };
    u64::from_str_radix(&digits[..end], radix).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Compares with an undamaged tree: all is there but `lost`, and what is damaged has one of these words.
#[track_caller]
fn only_lost(whole: &Tree, place: &Place, lost: impl Fn(&str) -> bool, word: &str) {
    let (tree, failed) = ours::tree(&place.open());
    assert!(failed.len() == 1 && failed[0].contains(word), "{failed:?}");
    for (path, seen) in whole {
        let path = String::from_utf8(path.clone()).unwrap();
        match tree.get(path.as_bytes()) {
            Some(there) if there == seen => {}
            other => assert!(lost(&path), "{path}: {other:?}"),
        }
    }
    assert!(tree.keys().all(|path| whole.contains_key(path)));
}

#[test]
fn a_wrong_checksum_loses_one_object() {
    let place = need!(filled(&["-t", "ext4", "-b", "1024"], "32M"));
    let image = std::fs::read(place.image()).unwrap();
    let (whole, failed) = ours::tree(&place.open());
    assert!(failed.is_empty() && whole.len() > 400, "{failed:?}");
    let restore = || std::fs::write(place.image(), &image).unwrap();
    // An inode.
    let name = format!("directory/7-{}", "n".repeat(60));
    let inode = whole[name.as_bytes()].inode;
    let block = number(&place, &format!("imap <{inode}>"), "located at block");
    let offset = number(&place, &format!("imap <{inode}>"), "offset 0x");
    // debugfs writes the offset without a sign of its base that `number` could see.
    let offset = u64::from_str_radix(&offset.to_string(), 16).unwrap();
    place.poke(block * 1024 + offset + 0x64, &[0xaa]);
    only_lost(&whole, &place, |path| path == name, &format!("inode {inode}: the checksum is wrong"));
    restore();
    // A block of a directory: its names are gone, those of the other blocks are there.
    let blocks = place.debugfs(&["blocks /directory".to_owned()]);
    let blocks: Vec<u64> = blocks.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(blocks.len() > 20, "{blocks:?}");
    place.poke(blocks[9] * 1024 + 100, &[0xaa]);
    only_lost(&whole, &place, |path| path.starts_with("directory/"), "block 9 of the directory");
    let (tree, _) = ours::tree(&place.open());
    assert!(tree.len() > whole.len() - 20 && tree.len() < whole.len(), "{} of {}", tree.len(), whole.len());
    restore();
    // A node of its index: no name was in it.
    place.poke(blocks[0] * 1024 + 41, &[0xaa]);
    only_lost(&whole, &place, |_| false, "block 0 of the directory");
    restore();
    // A block of extents.
    let extents = place.debugfs(&["ex /pieces".to_owned()]);
    let node = extents.lines().find(|line| line.trim_start().starts_with("0/ 1")).unwrap();
    let extents: u64 = node.split_whitespace().nth(7).unwrap().parse().unwrap();
    place.poke(extents * 1024 + 30, &[0xaa]);
    let (tree, failed) = ours::tree(&place.open());
    assert!(failed.is_empty() && tree.len() == whole.len(), "{failed:?}");
    let why = tree[&b"pieces"[..]].content.clone().unwrap_err();
    assert!(why.contains(&format!("in block {extents}: the checksum is wrong")), "{why}");
    restore();
    // Attributes: the file is there without them.
    let acl = number(&place, "stat /attributes", "File ACL:");
    place.poke(acl * 1024 + 900, &[0xaa]);
    let lost = |path: &str| path == "attributes";
    only_lost(&whole, &place, lost, "extended attributes of inode");
    let (tree, _) = ours::tree(&place.open());
    assert_eq!(tree[&b"attributes"[..]].content, whole[&b"attributes"[..]].content);
}

#[test]
fn copies_are_read_where_the_first_is_damaged() {
    for (options, size) in [
        (&["-t", "ext4", "-b", "1024"][..], "40M"),
        (&["-t", "ext4", "-b", "4096"], "300M"),
        (&["-t", "ext4", "-b", "2048", "-O", "^metadata_csum,uninit_bg"], "64M"),
        (&["-t", "ext4", "-b", "4096", "-O", "sparse_super2,^resize_inode", "-E", "num_backup_sb=2"], "400M"),
        (&["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"], "64M"),
    ] {
        let what = options.join(" ");
        let place = need!(filled(options, size));
        let (whole, failed) = ours::tree(&place.open());
        assert!(failed.is_empty(), "{what}: {failed:?}");
        let head = std::fs::File::open(place.image()).unwrap();
        let mut superblock = vec![0; 1024];
        head.read_exact_at(&mut superblock, 1024).unwrap();
        let block_size = 1024_u64 << superblock[0x18];
        // The descriptors of all groups.
        let descriptors = (1024 / block_size + 1) * block_size;
        let mut good = vec![0; 64];
        head.read_exact_at(&mut good, descriptors).unwrap();
        place.poke(descriptors, &[0xee; 64]);
        let (tree, failed) = ours::tree(&place.open());
        assert!(failed.is_empty() && tree == whole, "{what}: {failed:?}");
        place.poke(descriptors, &good);
        // The superblock: gone, and not what it was.
        for damage in [&[0; 1024][..], &[0xff; 64]] {
            place.poke(1024, damage);
            let files = place.open();
            assert!(matches!(files.notes(), [Note::BackupSuperblock { group: 1.. }]), "{what}: {:?}", files.notes());
            let (tree, failed) = ours::tree(&files);
            assert!(failed.is_empty() && tree == whole, "{what}: {failed:?}");
            let found = find_backup(&mut *source(&place.image())).unwrap();
            assert_eq!(found.uuid, superblock[0x68..0x78]);
        }
        place.poke(1024, &superblock);
        assert!(losses(&place.open()).is_empty());
    }
}

#[test]
fn a_superblock_without_a_copy_is_read_when_it_makes_sense() {
    let place = need!(filled(&["-t", "ext4", "-b", "4096"], "32M"));
    // A letter of the label.
    place.poke(1024 + 0x78, b"x");
    assert_eq!(place.open().notes(), [Note::SuperblockChecksum]);
    place.poke(1024, &[0; 1024]);
    assert!(matches!(FileSystem::open(source(&place.image())), Err(Error::NoSuperblock)));
    std::fs::write(place.image(), b"short").unwrap();
    assert!(matches!(FileSystem::open(source(&place.image())), Err(Error::NoSuperblock)));
}

#[test]
fn what_is_not_read_is_declined_by_name() {
    let place = need!(filled(&["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"], "32M"));
    let image = std::fs::read(place.image()).unwrap();
    let features = u32::from_le_bytes(image[1024 + 0x60..][..4].try_into().unwrap());
    for (bits, word) in [
        (0x1, "compression"),
        (0x8, "journal_dev"),
        (0x1000, "dirdata"),
        (0x8000_0000, "unknown incompatible features 0x80000000"),
    ] {
        place.poke(1024 + 0x60, &(features | bits).to_le_bytes());
        let error = FileSystem::open(source(&place.image())).unwrap_err();
        assert!(matches!(&error, Error::Declined(names) if names.contains(word)), "{error}");
    }
    // A journal elsewhere is not missed where it holds nothing.
    std::fs::write(place.image(), &image).unwrap();
    place.debugfs(&["set_super_value journal_inum 0".to_owned(), "set_super_value journal_dev 2049".to_owned()]);
    assert!(losses(&place.open()).is_empty());
    place.poke(1024 + 0x60, &(features | 4).to_le_bytes());
    let error = FileSystem::open(source(&place.image())).unwrap_err();
    assert!(matches!(&error, Error::Declined(names) if names.contains("journal on another device")), "{error}");
}

#[test]
fn an_image_that_is_cut_off_gives_what_it_has() {
    let place = need!(filled(&["-t", "ext4", "-b", "1024"], "40M"));
    let (whole, _) = ours::tree(&place.open());
    // The journal lies behind it.
    let file = std::fs::File::options().write(true).open(place.image()).unwrap();
    file.set_len(20 << 20).unwrap();
    let files = place.open();
    assert!(files.notes().iter().any(|note| matches!(note, Note::Short { .. })), "{:?}", files.notes());
    let (tree, _) = ours::tree(&files);
    assert!(tree.len() > 5, "{} of {}", tree.len(), whole.len());
}

#[test]
fn names_and_numbers_that_no_kernel_writes() {
    let place = need!(filled(&["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"], "32M"));
    place.debugfs(&[
        "link <2> /directory/above".to_owned(),
        "link <8> /the-journal".to_owned(),
        "link <2> /no-such-inode".to_owned(),
        "clri /attributes".to_owned(),
    ]);
    let root: u64 = place.debugfs(&["blocks /".to_owned()]).split_whitespace().last().unwrap().parse().unwrap();
    let image = std::fs::read(place.image()).unwrap();
    let block = &image[root as usize * 1024..][..1024];
    let at = block.windows(6).position(|name| name == b"pieces").unwrap();
    place.poke(root * 1024 + at as u64, b"../../");
    // The number stands before lengths, kind and name.
    let at = block.windows(13).position(|name| name == b"no-such-inode").unwrap();
    place.poke(root * 1024 + at as u64 - 8, &9999_u32.to_le_bytes());
    let (tree, failed) = ours::tree(&open(&place.image()));
    for word in
        ["a name is impossible: ../../", "inode 8: the-journal", "inode 9999", "directory/above: twice", "not in use"]
    {
        assert!(failed.iter().any(|line| line.contains(word)), "{word}: {failed:?}");
    }
    assert_eq!(failed.len(), 5, "{failed:?}");
    assert!(tree.len() > 400);
}
