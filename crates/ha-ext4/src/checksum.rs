//! The sums of ext4 and its journal. None of them inverts at its beginning or end; the seed is passed on from part to
//! part.

/// The reflected polynomial of CRC-32C, for eight bytes at a time.
const CRC32C: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        tables[0][index] = value;
        index += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[table - 1][index];
            tables[table][index] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            index += 1;
        }
        table += 1;
    }
    tables
};

/// The polynomial of CRC-32 with the high bit first.
const CRC32: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = if value >> 31 == 1 { value << 1 ^ 0x04c1_1db7 } else { value << 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// Goes on with a CRC-32C: of metadata, and of a journal of versions 2 and 3.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let by = |table: usize, value: u32, shift: u32| CRC32C[table][(value >> shift & 0xff) as usize];
    let mut sum = seed;
    for [a, b, c, d, e, f, g, h] in chunks {
        let low = sum ^ u32::from_le_bytes([*a, *b, *c, *d]);
        let high = u32::from_le_bytes([*e, *f, *g, *h]);
        sum = by(7, low, 0) ^ by(6, low, 8) ^ by(5, low, 16) ^ by(4, low, 24);
        sum ^= by(3, high, 0) ^ by(2, high, 8) ^ by(1, high, 16) ^ by(0, high, 24);
    }
    for byte in rest {
        sum = sum >> 8 ^ by(0, sum ^ u32::from(*byte), 0);
    }
    sum
}

/// Goes on with a CRC-32 of a journal of version 1.
pub(crate) fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |sum, byte| sum << 8 ^ CRC32[(sum >> 24 ^ u32::from(*byte)) as usize & 0xff])
}

/// Goes on with a CRC-16: of group descriptors without `metadata_csum`.
pub(crate) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xa001 } else { sum >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_catalogues() {
        let digits = b"123456789";
        assert_eq!(!crc32c(!0, digits), 0xe306_9283);
        assert_eq!(crc32c(crc32c(!0, &digits[..3]), &digits[3..]), crc32c(!0, digits));
        // Of CRC-32/MPEG-2 and CRC-16/MODBUS, which begin with ones and invert nothing at the end.
        assert_eq!(crc32(!0, digits), 0x0376_e6e7);
        assert_eq!(crc16(!0, digits), 0x4b37);
    }
}
