//! How a block is named, packed and unpacked. Pure.

use std::io::{self, Read, Write};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use serde::Serialize;
use sha2::{Digest as _, Sha512};

use crate::merge::hex;

/// Is how blocks are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// The frame format of LZ4.
    Lz4,
    /// gzip; also where a backup does not say.
    Gzip,
    /// Not at all.
    None,
}

impl Compression {
    /// Returns the word of the configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Gzip => "gzip",
            Self::None => "none",
        }
    }
}

pub(super) fn sha512(bytes: &[u8]) -> String {
    hex(&Sha512::digest(bytes))
}

/// Returns the name of a block: the first 64 hexadecimal digits of the SHA-512 of its bytes.
pub fn block_name(plain: &[u8]) -> String {
    let mut name = sha512(plain);
    name.truncate(64);
    name
}

pub(super) fn pack(plain: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(plain.to_vec()),
        Compression::Lz4 => {
            let mut encoder = FrameEncoder::new(Vec::new());
            encoder.write_all(plain)?;
            encoder.finish().map_err(io::Error::other)
        }
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain)?;
            encoder.finish()
        }
    }
}

/// Unpacks a block; no more than one byte beyond `size`, whatever the block claims.
pub(super) fn unpack(packed: &[u8], compression: Compression, size: u64) -> io::Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    match compression {
        Compression::None => packed.take(size + 1).read_to_end(&mut plain)?,
        Compression::Lz4 => FrameDecoder::new(packed).take(size + 1).read_to_end(&mut plain)?,
        Compression::Gzip => GzDecoder::new(packed).take(size + 1).read_to_end(&mut plain)?,
    };
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_unpacks() {
        let plain: Vec<u8> = (0..100_000_u32).map(|number| (number / 97) as u8).collect();
        for compression in [Compression::Lz4, Compression::Gzip, Compression::None] {
            let packed = pack(&plain, compression).unwrap();
            assert!(unpack(&packed, compression, plain.len() as u64).unwrap() == plain);
            assert_eq!(unpack(&packed, compression, 10).unwrap().len(), 11);
            if compression != Compression::None {
                assert!(unpack(&packed[..packed.len() / 2], compression, plain.len() as u64).is_err());
            }
        }
    }
}
