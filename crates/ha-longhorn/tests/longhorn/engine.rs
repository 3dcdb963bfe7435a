//! A small model of the engine: it writes real sparse files, and remembers what the volume must show when it is
//! opened again.
//!
//! Blocks are bytes of one value each, so that a state is a list of values. A discard punches the head and is not
//! remembered across a re-open, as with the real engine: the parent's data show again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

pub(crate) const BLOCK: u64 = 4096;

/// One layer: which blocks it has, and with what value.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerModel {
    name: String,
    parent: String,
    blocks: Vec<Option<Bytes>>,
}

/// A block: one value, but for a range that an unaligned write has changed.
pub(crate) type Bytes = Vec<u8>;

pub(crate) struct Engine {
    directory: PathBuf,
    layers: Vec<LayerModel>,
    head: String,
    heads: u32,
    blocks: u64,
    backing: Option<Vec<u8>>,
}

impl Engine {
    pub(crate) fn new(directory: &Path, blocks: u64, backing: Option<Vec<u8>>) -> Self {
        std::fs::create_dir(directory).unwrap();
        let mut engine = Self {
            directory: directory.to_owned(),
            layers: Vec::new(),
            head: String::new(),
            heads: 0,
            blocks,
            backing,
        };
        engine.new_head("");
        engine
    }

    fn file(&self, name: &str) -> File {
        File::options().read(true).write(true).create(true).truncate(false).open(self.directory.join(name)).unwrap()
    }

    fn new_head(&mut self, parent: &str) {
        let name = format!("volume-head-{:03}.img", self.heads);
        self.heads += 1;
        self.file(&name).set_len(self.blocks * BLOCK).unwrap();
        let blocks = vec![None; usize::try_from(self.blocks).unwrap()];
        self.layers.push(LayerModel { name: name.clone(), parent: parent.to_owned(), blocks });
        self.head = name;
        self.write_meta();
    }

    fn write_meta(&self) {
        for layer in &self.layers {
            let meta = format!(r#"{{"Name":"old","Parent":"{}","Removed":false}}"#, layer.parent);
            std::fs::write(self.directory.join(format!("{}.meta", layer.name)), meta).unwrap();
        }
        let backing = if self.backing.is_some() { "/somewhere/base" } else { "" };
        let meta = format!(
            r#"{{"Size":{},"Head":"{}","Dirty":true,"Parent":"{}","BackingFilePath":"{backing}"}}"#,
            self.blocks * BLOCK,
            self.head,
            self.layer(&self.head).parent
        );
        std::fs::write(self.directory.join("volume.meta"), meta).unwrap();
    }

    fn layer(&self, name: &str) -> &LayerModel {
        self.layers.iter().find(|layer| layer.name == name).unwrap()
    }

    fn layer_mut(&mut self, name: &str) -> &mut LayerModel {
        self.layers.iter_mut().find(|layer| layer.name == name).unwrap()
    }

    /// Shows a block as the layers from one on have it.
    fn block(&self, from: &str, number: u64) -> Bytes {
        let mut name = from.to_owned();
        let index = usize::try_from(number).unwrap();
        while !name.is_empty() {
            let layer = self.layer(&name);
            if let Some(Some(block)) = layer.blocks.get(index) {
                return block.clone();
            }
            name.clone_from(&layer.parent);
        }
        let start = index * BLOCK as usize;
        let mut block = vec![0; BLOCK as usize];
        if let Some(backing) = &self.backing
            && start < backing.len()
        {
            let end = (start + BLOCK as usize).min(backing.len());
            block[..end - start].copy_from_slice(&backing[start..end]);
        }
        block
    }

    /// Returns what the volume shows from a layer on.
    pub(crate) fn view(&self, from: &str) -> Vec<u8> {
        (0..self.blocks).flat_map(|number| self.block(from, number)).collect()
    }

    pub(crate) fn live(&self) -> Vec<u8> {
        self.view(&self.head)
    }

    pub(crate) fn snapshots(&self) -> Vec<String> {
        let names = self.layers.iter().filter(|layer| layer.name != self.head);
        names.map(|layer| layer.name.clone()).collect()
    }

    /// Writes bytes anywhere; whole blocks are made of what is there, as the engine does.
    pub(crate) fn write(&mut self, offset: u64, length: u64, value: u8) {
        let total = self.blocks * BLOCK;
        let (start, end) = (offset % total, (offset % total + length).min(total));
        let head = self.head.clone();
        let file = self.file(&head);
        let mut position = start;
        while position < end {
            let number = position / BLOCK;
            let mut block = self.block(&head, number);
            let within = usize::try_from(position % BLOCK).unwrap();
            let until = usize::try_from((end - number * BLOCK).min(BLOCK)).unwrap();
            block[within..until].fill(value);
            file.write_all_at(&block, number * BLOCK).unwrap();
            self.layer_mut(&head).blocks[usize::try_from(number).unwrap()] = Some(block);
            position = (number + 1) * BLOCK;
        }
    }

    /// Preallocates blocks of the head: they are allocated, and read as zeros. False where the file system cannot.
    pub(crate) fn preallocate(&mut self, from: u64, count: u64) -> bool {
        let (from, to) = (from % self.blocks, (from % self.blocks + count).min(self.blocks));
        let head = self.head.clone();
        for number in from..to {
            // Over what is written it changes nothing.
            if self.layer(&head).blocks[usize::try_from(number).unwrap()].is_some() {
                continue;
            }
            let file = self.file(&head);
            if rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, number * BLOCK, BLOCK).is_err() {
                return false;
            }
            self.layer_mut(&head).blocks[usize::try_from(number).unwrap()] = Some(vec![0; BLOCK as usize]);
        }
        true
    }

    pub(crate) fn discard(&mut self, from: u64, count: u64) {
        let (from, to) = (from % self.blocks, (from % self.blocks + count).min(self.blocks));
        let head = self.head.clone();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if from < to {
            rustix::fs::fallocate(self.file(&head), flags, from * BLOCK, (to - from) * BLOCK).unwrap();
        }
        for number in from..to {
            self.layer_mut(&head).blocks[usize::try_from(number).unwrap()] = None;
        }
    }

    pub(crate) fn snapshot(&mut self, name: &str) {
        let file = format!("volume-snap-{name}.img");
        if self.layers.iter().any(|layer| layer.name == file) {
            return;
        }
        let head = self.head.clone();
        std::fs::rename(self.directory.join(&head), self.directory.join(&file)).unwrap();
        std::fs::remove_file(self.directory.join(format!("{head}.meta"))).unwrap();
        self.layer_mut(&head).name.clone_from(&file);
        self.new_head(&file);
    }

    /// Goes back to a snapshot: the head goes, what lies between stays as a branch.
    pub(crate) fn revert(&mut self, choice: usize) {
        let snapshots = self.snapshots();
        if snapshots.is_empty() {
            return;
        }
        let to = snapshots[choice % snapshots.len()].clone();
        let head = self.head.clone();
        self.remove_files(&head);
        self.layers.retain(|layer| layer.name != head);
        self.new_head(&to);
    }

    /// Removes a snapshot of the live chain by moving its data into its only child, as a purge does.
    pub(crate) fn purge(&mut self, choice: usize) {
        let snapshots = self.snapshots();
        if snapshots.is_empty() {
            return;
        }
        let gone = self.layer(&snapshots[choice % snapshots.len()]).clone();
        let children: Vec<String> =
            self.layers.iter().filter(|layer| layer.parent == gone.name).map(|layer| layer.name.clone()).collect();
        let [child] = children.as_slice() else { return };
        // The engine never folds into the head; it keeps the snapshot until there is another.
        if *child == self.head {
            return;
        }
        let file = self.file(child);
        for (index, block) in gone.blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            let child = self.layer_mut(child);
            if index >= child.blocks.len() {
                child.blocks.resize(index + 1, None);
            }
            if child.blocks[index].is_none() {
                file.write_all_at(block, index as u64 * BLOCK).unwrap();
                child.blocks[index] = Some(block.clone());
            }
        }
        self.layer_mut(child).parent.clone_from(&gone.parent);
        self.remove_files(&gone.name);
        self.layers.retain(|layer| layer.name != gone.name);
        self.write_meta();
    }

    /// Marks a snapshot as removed; its data stay.
    pub(crate) fn mark_removed(&mut self, choice: usize) {
        let snapshots = self.snapshots();
        if snapshots.is_empty() {
            return;
        }
        let name = &snapshots[choice % snapshots.len()];
        let meta = format!(r#"{{"Parent":"{}","Removed":true}}"#, self.layer(name).parent);
        std::fs::write(self.directory.join(format!("{name}.meta")), meta).unwrap();
    }

    /// Makes the volume larger: the old head is frozen in its old length.
    pub(crate) fn expand(&mut self, more: u64) {
        let bytes = (self.blocks + more) * BLOCK;
        self.snapshot(&format!("expand-{bytes}"));
        self.blocks += more;
        let head = self.head.clone();
        self.file(&head).set_len(bytes).unwrap();
        let blocks = usize::try_from(self.blocks).unwrap();
        self.layer_mut(&head).blocks.resize(blocks, None);
        self.write_meta();
    }

    fn remove_files(&self, name: &str) {
        std::fs::remove_file(self.directory.join(name)).unwrap();
        std::fs::remove_file(self.directory.join(format!("{name}.meta"))).unwrap();
    }
}
