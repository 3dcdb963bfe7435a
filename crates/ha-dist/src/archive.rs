//! Writes tar archives (ustar) that depend on nothing but their entries: owner 0, one time for all, the order given.

/// Is an archive that grows.
#[derive(Debug)]
pub struct Archive {
    bytes: Vec<u8>,
    time: u64,
}

/// Says why an entry cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// ustar has 100 bytes for a name.
    #[error("the name is longer than 100 bytes: {0}")]
    Name(String),
    /// ustar has 11 octal digits for a size.
    #[error("larger than 8 GiB: {0}")]
    Size(String),
}

const BLOCK: usize = 512;

impl Archive {
    /// Begins one; every entry gets this time, in seconds since 1970.
    pub fn new(time: u64) -> Self {
        Self { bytes: Vec::new(), time }
    }

    /// Adds a directory; its name ends with a slash.
    pub fn directory(&mut self, name: &str, mode: u32) -> Result<(), ArchiveError> {
        self.entry(name, mode, b'5', &[])
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<(), ArchiveError> {
        self.entry(name, mode, b'0', content)
    }

    /// Ends it: two empty blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, kind: u8, content: &[u8]) -> Result<(), ArchiveError> {
        let mut header = [0_u8; BLOCK];
        if name.len() > 100 {
            return Err(ArchiveError::Name(name.to_owned()));
        }
        if content.len() as u64 >= 1 << 33 {
            return Err(ArchiveError::Size(name.to_owned()));
        }
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", content.len()));
        put(136, &format!("{:011o}", self.time));
        // The checksum counts its own field as spaces.
        put(148, "        ");
        put(257, "ustar");
        put(263, "00");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }
}
