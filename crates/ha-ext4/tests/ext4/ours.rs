//! A file system as the reader shows it.

use std::ops::ControlFlow;

use ha_ext4::{Error, FileSystem, Inode, Kind, Time};

use crate::{Seen, Sum, Tree, WHOLE};

/// Reads a whole tree, with its top as the empty path, and what cannot be read.
pub(crate) fn tree(files: &FileSystem) -> (Tree, Vec<String>) {
    let (mut tree, mut failed) = (Tree::new(), Vec::new());
    let mut waiting = vec![(Vec::new(), 2)];
    let mut directories = std::collections::HashSet::new();
    while let Some((path, number)) = waiting.pop() {
        let inode = match files.inode(number) {
            Ok(inode) => inode,
            Err(error) => {
                failed.push(format!("{}: {error}", path.escape_ascii()));
                continue;
            }
        };
        tree.insert(path.clone(), look(files, &inode, &mut failed));
        if inode.kind() != Kind::Directory {
            continue;
        }
        if !directories.insert(number) {
            failed.push(format!("{}: twice", path.escape_ascii()));
            continue;
        }
        let listed = files.entries(&inode, &mut |entry| {
            match entry {
                Ok(entry) => {
                    let below = if path.is_empty() { entry.name } else { [&path[..], b"/", &entry.name].concat() };
                    waiting.push((below, entry.inode));
                }
                Err(error) => failed.push(error.to_string()),
            }
            ControlFlow::Continue(())
        });
        failed.extend(listed.err().map(|error| error.to_string()));
    }
    (tree, failed)
}

fn look(files: &FileSystem, inode: &Inode, failed: &mut Vec<String>) -> Seen {
    let time = |time: Time| (time.seconds, time.nanoseconds);
    let mut note = |error: Error| failed.push(error.to_string());
    let kind = match inode.kind() {
        Kind::File => 'f',
        Kind::Directory => 'd',
        Kind::Link => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharacterDevice => 'c',
        Kind::BlockDevice => 'b',
    };
    let target = match kind {
        'l' => files.link_target(inode).map_err(&mut note).ok(),
        _ => None,
    };
    let attributes = files.attributes(inode);
    attributes.failed.into_iter().for_each(&mut note);
    Seen {
        inode: inode.number().into(),
        kind,
        mode: inode.mode().into(),
        uid: inode.uid(),
        gid: inode.gid(),
        links: inode.links().into(),
        size: inode.size(),
        device: inode.device().unwrap_or((0, 0)),
        times: [inode.modified(), inode.accessed(), inode.changed()].map(time),
        created: inode.created().map(time),
        target,
        attributes: attributes.found.into_iter().map(|attribute| (attribute.name, attribute.value)).collect(),
        content: if kind == 'f' { content(files, inode) } else { Ok(0) },
    }
}

/// Sums the content by its ranges, and again without them.
fn content(files: &FileSystem, inode: &Inode) -> Result<u64, String> {
    let said = |error: Error| match error {
        Error::Encrypted(_) => "encrypted".to_owned(),
        error => error.to_string(),
    };
    let mut content = files.content(inode).map_err(said)?;
    let (mut by_ranges, mut whole) = (Sum::default(), Sum::default());
    let mut buffer = vec![0; usize::try_from(inode.size()).unwrap().clamp(1, 300_007)];
    let mut position = 0;
    while let Some(range) = content.range_at(position).map_err(said)? {
        assert!(range.start == position && range.end > position && range.end <= inode.size(), "{range:?}");
        while range.data && position < range.end {
            let length = usize::try_from(range.end - position).unwrap_or(usize::MAX).min(buffer.len());
            assert_eq!(content.read_at(position, &mut buffer[..length]).map_err(said)?, length);
            by_ranges.add(position, &buffer[..length]);
            position += length as u64;
        }
        position = range.end;
    }
    assert_eq!(position, inode.size());
    if inode.size() > WHOLE {
        return Ok(by_ranges.0);
    }
    position = 0;
    loop {
        let length = content.read_at(position, &mut buffer).map_err(said)?;
        if length == 0 {
            assert_eq!(by_ranges.0, whole.0, "inode {}", inode.number());
            return Ok(whole.0);
        }
        whole.add(position, &buffer[..length]);
        position += length as u64;
    }
}
