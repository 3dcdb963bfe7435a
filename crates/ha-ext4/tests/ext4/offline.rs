//! What this kernel may not mount: images that mke2fs fills from a tree are compared with the tree.

use std::process::Command;

use ha_ext4::{Error, FileSystem};
use ha_testkit::loopmount::{FileSystem as Kind, Skipped, loop_mount, need_tool};
use ha_testkit::need;

use crate::{Place, Seen, Tree, assert_same, kernel, losses, open, ours, populate, run, source};

/// Leaves out what a copy has of its own.
fn comparable(tree: Tree) -> Tree {
    let strip = |seen: Seen| {
        let [(modified, _), ..] = seen.times;
        Seen {
            inode: 0,
            times: [(modified, 0), (0, 0), (0, 0)],
            created: None,
            size: if seen.kind == 'd' { 0 } else { seen.size },
            ..seen
        }
    };
    let own = |path: &[u8]| path.is_empty() || path.starts_with(b"lost+found");
    tree.into_iter().filter(|(path, _)| !own(path)).map(|(path, seen)| (path, strip(seen))).collect()
}

fn same(options: &[&str], size: &str) -> Result<(), Skipped> {
    need_tool("mke2fs")?;
    let tree = loop_mount(Kind::Ext4, 64 << 20)?;
    populate::fill(tree.path(), 42);
    // mke2fs takes neither sockets, nor names and lengths beyond its own limits.
    for name in [
        "specials/socket",
        "times/2180000000",
        "far",
        "sparse",
        "attributes/large",
        "attributes/equal",
        "times/7260000000",
        "times/14850000000",
    ] {
        std::fs::remove_file(tree.path().join(name)).unwrap();
    }
    let _ = std::fs::remove_dir(tree.path().join("lost+found"));
    let place = Place::new(&["-t", "ext2"], "1M")?;
    std::fs::remove_file(place.image()).unwrap();
    let mut command = Command::new("mke2fs");
    run(command.args(["-q", "-F"]).args(options).arg("-d").arg(tree.path()).arg(place.image()).arg(size));
    let files = place.open();
    assert!(losses(&files).is_empty(), "{:?}", losses(&files));
    let (ours, failed) = ours::tree(&files);
    assert!(failed.is_empty(), "{failed:?}");
    let what = options.join(" ");
    assert_same(&what, &comparable(kernel::tree(tree.path())), &comparable(ours));
    Ok(())
}

#[test]
fn large_blocks() {
    for size in ["8192", "16384", "65536"] {
        need!(same(&["-t", "ext4", "-b", size, "-N", "3000"], "256M"));
    }
    need!(same(&["-t", "ext2", "-b", "65536", "-N", "3000"], "256M"));
}

#[test]
fn verity_casefold_quota_and_encryption_are_known() {
    need!(same(&["-t", "ext4", "-b", "4096", "-O", "verity,quota,project", "-I", "256"], "128M"));
    need!(same(&["-t", "ext4", "-b", "4096", "-O", "casefold"], "128M"));
    need!(same(&["-t", "ext4", "-b", "4096", "-O", "encrypt,stable_inodes"], "128M"));
}

/// Encrypts a directory through the kernel, as `fscrypt` does, and writes into it.
const ENCRYPT: &str = r"
import fcntl, os, struct, sys
top = os.open(sys.argv[1], os.O_RDONLY)
key = bytearray(struct.pack('II32s', 2, 0, b'') + struct.pack('II', 64, 0) + bytes(32) + bytes(range(64)))
fcntl.ioctl(top, 0xc0506617, key)
identifier = bytes(key[8:24])
secret = os.path.join(sys.argv[1], 'secret')
os.mkdir(secret)
directory = os.open(secret, os.O_RDONLY)
fcntl.ioctl(directory, 0x800c6613, struct.pack('BBBB4x16s', 2, 1, 4, 3, identifier))
for index in range(60):
    open(os.path.join(secret, 'a-name-%d' % index), 'w').write('text')
os.symlink('target', os.path.join(secret, 'link'))
os.mkdir(os.path.join(secret, 'below'))
";

#[test]
fn an_encrypted_directory_is_declined_as_one() {
    need!(need_tool("python3"));
    let place = need!(Place::new(&["-t", "ext4", "-b", "4096", "-O", "encrypt"], "32M"));
    let mounted = need!(place.mount("rw"));
    std::fs::write(mounted.path().join("open"), "as always").unwrap();
    run(Command::new("python3").args(["-c", ENCRYPT]).arg(mounted.path()));
    drop(mounted);
    let files = place.open();
    let (tree, failed) = ours::tree(&files);
    assert!(tree.contains_key(&b"open"[..]) && tree[&b"open"[..]].content.is_ok());
    only_secret_is_missing(&files, &tree, &failed);
    // By its number, which needs no name, a file inside is there, and its content is not.
    let inside = (12..200).filter_map(|number| files.inode(number).ok());
    let inside: Vec<_> = inside.filter(|inode| inode.is_encrypted() && inode.kind() == ha_ext4::Kind::File).collect();
    assert_eq!(inside.len(), 60);
    assert!(inside.iter().all(|inode| matches!(files.content(inode), Err(Error::Encrypted(_)))));
}

#[test]
fn the_names_of_an_encrypted_directory_are_not_taken_for_names() {
    need!(need_tool("debugfs"));
    for options in ["encrypt", "encrypt,^metadata_csum", "encrypt,inline_data"] {
        let place = need!(Place::new(&["-t", "ext4", "-b", "4096", "-O", options], "16M"));
        place.debugfs(&["mkdir secret".to_owned(), "mkdir secret/ciphertext".to_owned(), "mkdir open".to_owned()]);
        let secret = place.open().find(b"/secret", false).unwrap();
        assert!(!secret.is_encrypted());
        let flags = if options.contains("inline") { 0x1000_0800 } else { 0x8_0800 };
        place.debugfs(&[format!("set_inode_field secret flags {flags:#x}")]);
        let files = place.open();
        let (tree, failed) = ours::tree(&files);
        assert!(tree.contains_key(&b"open"[..]), "{options}");
        only_secret_is_missing(&files, &tree, &failed);
    }
}

/// The directory is there with what its inode says, and of what it holds there is one failure.
#[track_caller]
fn only_secret_is_missing(files: &FileSystem, tree: &Tree, failed: &[String]) {
    assert!(failed.len() == 1 && failed[0].contains("is encrypted"), "{failed:?}");
    assert_eq!(tree[&b"secret"[..]].kind, 'd');
    assert!(!tree.keys().any(|path| path.starts_with(b"secret/")));
    assert!(matches!(files.find(b"/secret/ciphertext", true), Err(Error::Encrypted(_))));
}

#[test]
fn a_journal_alone_is_no_file_system() {
    need!(need_tool("mke2fs"));
    let place = need!(Place::new(&["-O", "journal_dev", "-b", "4096"], "16M"));
    let error = FileSystem::open(source(&place.image())).unwrap_err();
    assert!(error.to_string().contains("journal_dev"), "{error}");
    // The same open as that of all other tests.
    let place = need!(Place::new(&["-t", "ext4"], "16M"));
    assert!(losses(&open(&place.image())).is_empty());
}
