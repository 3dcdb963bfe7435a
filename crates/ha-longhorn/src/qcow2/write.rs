//! Writes a qcow2 image (version 3, 64 KiB clusters) from ascending pieces. One second table is in memory at a time;
//! refcounts come last, since every cluster before them is used once.

use std::io::{self, Write};

/// Is the size of a cluster as a power of two.
const BITS: u32 = 16;
const CLUSTER: u64 = 1 << BITS;
/// Clusters that a second table holds.
const ENTRIES: u64 = CLUSTER / 8;
/// Clusters that a block of refcounts holds (16 bits each).
const COUNTS: u64 = CLUSTER / 2;
/// In an entry: the cluster is used once.
const COPIED: u64 = 1 << 63;

/// Is where a writer puts its bytes: a file that takes them anywhere.
pub trait Target {
    /// Writes all of the bytes at an offset.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Writes a qcow2 image. Clusters must be given once each and in ascending order.
pub struct Qcow2Writer {
    size: u64,
    next: u64,
    l1: Vec<u64>,
    /// The number of the table that is being filled, and its entries.
    table: Option<(u64, Vec<u64>)>,
}

impl Qcow2Writer {
    /// Is the size of a cluster in bytes.
    pub const CLUSTER: u64 = CLUSTER;

    /// Is the largest size whose first table is one that readers take (32 MiB).
    pub const MOST: u64 = (32 << 20) / 8 * ENTRIES * CLUSTER;

    /// Starts an image of a size in bytes, [`Self::MOST`] at most. The first table comes behind the header.
    pub fn new(size: u64) -> Self {
        let entries = size.div_ceil(CLUSTER * ENTRIES).max(1);
        let l1_clusters = (entries * 8).div_ceil(CLUSTER);
        Self { size, next: 1 + l1_clusters, l1: vec![0; usize::try_from(entries).unwrap_or(0)], table: None }
    }

    /// Writes one cluster, or what of it lies inside the image. `position` is a multiple of the cluster size.
    pub fn cluster(&mut self, target: &mut dyn Target, position: u64, bytes: &[u8]) -> io::Result<()> {
        let number = position / CLUSTER;
        if self.table.as_ref().is_some_and(|(table, _)| *table != number / ENTRIES) {
            self.close_table(target)?;
        }
        let (_, table) =
            self.table.get_or_insert_with(|| (number / ENTRIES, vec![0; usize::try_from(ENTRIES).unwrap_or(0)]));
        let offset = self.next * CLUSTER;
        table[usize::try_from(number % ENTRIES).unwrap_or(0)] = offset | COPIED;
        self.next += 1;
        target.write_at(offset, bytes)
    }

    fn close_table(&mut self, target: &mut dyn Target) -> io::Result<()> {
        let Some((number, table)) = self.table.take() else { return Ok(()) };
        let offset = self.next * CLUSTER;
        self.next += 1;
        self.l1[usize::try_from(number).unwrap_or(0)] = offset | COPIED;
        target.write_at(offset, &big_endian(&table))
    }

    /// Writes the tables and the header, which makes it an image. Returns the length of the file.
    pub fn finish(mut self, target: &mut dyn Target) -> io::Result<u64> {
        self.close_table(target)?;
        target.write_at(CLUSTER, &big_endian(&self.l1))?;
        // The refcounts count their own clusters too: the number of blocks grows until it fits.
        let (mut blocks, mut tables) = (0, 0);
        loop {
            let total = self.next + blocks + tables;
            let wanted = (total.div_ceil(COUNTS), (total.div_ceil(COUNTS) * 8).div_ceil(CLUSTER));
            if wanted == (blocks, tables) {
                break;
            }
            (blocks, tables) = wanted;
        }
        let total = self.next + blocks + tables;
        let first_block = self.next;
        for block in 0..blocks {
            let used = (total - block * COUNTS).min(COUNTS);
            let mut counts = vec![0_u8; usize::try_from(CLUSTER).unwrap_or(0)];
            for count in counts.chunks_exact_mut(2).take(usize::try_from(used).unwrap_or(0)) {
                count[1] = 1;
            }
            target.write_at((first_block + block) * CLUSTER, &counts)?;
        }
        let table: Vec<u64> = (0..blocks).map(|block| (first_block + block) * CLUSTER).collect();
        let table_offset = (first_block + blocks) * CLUSTER;
        let mut bytes = big_endian(&table);
        bytes.resize(usize::try_from(tables * CLUSTER).unwrap_or(0), 0);
        target.write_at(table_offset, &bytes)?;
        target.write_at(0, &self.header(table_offset, tables)?)?;
        Ok(total * CLUSTER)
    }

    fn header(&self, refcounts: u64, refcount_clusters: u64) -> io::Result<Vec<u8>> {
        let mut header = Vec::with_capacity(112);
        header.write_all(&super::MAGIC)?;
        let number = |value: u64| u32::try_from(value).map_err(io::Error::other);
        let (l1_entries, refcount_clusters) = (number(self.l1.len() as u64)?, number(refcount_clusters)?);
        header.write_all(&3_u32.to_be_bytes())?;
        header.write_all(&[0; 12])?; // no backing file
        header.write_all(&BITS.to_be_bytes())?;
        header.write_all(&self.size.to_be_bytes())?;
        header.write_all(&[0; 4])?; // no encryption
        header.write_all(&l1_entries.to_be_bytes())?;
        header.write_all(&CLUSTER.to_be_bytes())?;
        header.write_all(&refcounts.to_be_bytes())?;
        header.write_all(&refcount_clusters.to_be_bytes())?;
        header.write_all(&[0; 12])?; // no internal snapshots
        header.write_all(&[0; 24])?; // no features
        header.write_all(&4_u32.to_be_bytes())?; // 16 bits per refcount
        header.write_all(&104_u32.to_be_bytes())?;
        header.write_all(&[0; 8])?; // no extensions
        Ok(header)
    }
}

fn big_endian(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}
