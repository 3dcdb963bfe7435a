//! CRC-64/GO-ISO of a layer, as the engine writes it into `.img.checksum` (volumes.md §1).

use crc::{CRC_64_GO_ISO, Crc, Table};
use ha_sync_fs::FsError;

use crate::source::SourceFile;

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

/// Returns the sum of a whole file, its holes read as zeros: time follows its length, not what is allocated.
pub fn crc64(file: &SourceFile, mut advance: impl FnMut(u64) -> bool) -> Result<Option<String>, FsError> {
    let mut digest = CRC.digest();
    let mut buffer = vec![0; 1 << 20];
    let mut position = 0;
    while position < file.size() {
        let length = usize::try_from(file.size() - position).unwrap_or(usize::MAX).min(buffer.len());
        file.read_at(position, &mut buffer[..length])?;
        digest.update(&buffer[..length]);
        position += length as u64;
        if !advance(length as u64) {
            return Ok(None);
        }
    }
    Ok(Some(format!("{:016x}", digest.finalize())))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(super::CRC.checksum(b"123456789"), 0xb909_56c7_75a4_1001);
    }
}
