//! CRC-64/GO-ISO of a layer, as the engine writes it into `.img.checksum` (volumes.md §1).

use ha_sync_fs::FsError;
use jiff::Timestamp;

use crate::extent::{self, Extents};
use crate::meta::ChecksumFile;
use crate::source::SourceFile;
use crate::watch::Watch;

/// Is x^64 + x^4 + x^3 + x + 1, reflected.
const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;

/// For slicing by eight: `TABLES[k][b]` is what byte `b` followed by `k` zero bytes does to the register.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            register = if register & 1 == 1 { (register >> 1) ^ POLYNOMIAL } else { register >> 1 };
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// Is a sum in the making.
#[derive(Debug, Clone, Copy)]
pub struct Crc64(u64);

impl Default for Crc64 {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

impl Crc64 {
    /// Takes bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            let word = self.0 ^ u64::from_le_bytes(*chunk);
            self.0 = (0..8).fold(0, |sum, place| sum ^ TABLES[7 - place][(word >> (8 * place)) as usize & 0xff]);
        }
        for byte in rest {
            self.0 = (self.0 >> 8) ^ TABLES[0][(self.0 as u8 ^ byte) as usize];
        }
    }

    /// Takes zero bytes, in a time that does not follow their number: a zero byte is a linear map of the register, and
    /// its powers are made by squaring.
    pub fn zeros(&mut self, mut number: u64) {
        let mut map: [u64; 64] = std::array::from_fn(|bit| {
            let register = 1_u64 << bit;
            (register >> 8) ^ TABLES[0][(register & 0xff) as usize]
        });
        let apply = |map: &[u64; 64], register: u64| {
            (0..64).filter(|bit| register >> bit & 1 == 1).fold(0, |sum, bit| sum ^ map[bit])
        };
        while number > 0 {
            if number & 1 == 1 {
                self.0 = apply(&map, self.0);
            }
            map = std::array::from_fn(|bit| apply(&map, map[bit]));
            number >>= 1;
        }
    }

    /// Returns the sum as 16 hexadecimal digits.
    pub fn finish(self) -> String {
        format!("{:016x}", self.0 ^ u64::MAX)
    }
}

/// Returns the sum of a whole file. Only what is allocated is read. Nothing when it was stopped.
pub fn crc64(file: &SourceFile, watch: &dyn Watch) -> Result<Option<String>, FsError> {
    let mut crc = Crc64::default();
    let mut buffer = vec![0; 1 << 20];
    let mut position = 0;
    let method = Extents::of(file)?.method();
    let mut stopped = false;
    extent::for_each(file, method, |extent| {
        if stopped {
            return Ok(());
        }
        crc.zeros(extent.start - position);
        position = extent.start;
        if extent.unwritten {
            crc.zeros(extent.length());
            position = extent.end;
        }
        while position < extent.end && !stopped {
            let length = usize::try_from(extent.end - position).unwrap_or(usize::MAX).min(buffer.len());
            file.read_at(position, &mut buffer[..length])?;
            crc.update(&buffer[..length]);
            position += length as u64;
            watch.advance(length as u64);
            stopped = watch.stopped();
        }
        Ok::<_, FsError>(())
    })?;
    crc.zeros(file.size() - position);
    Ok((!stopped).then(|| crc.finish()))
}

/// Is what a checksum file says about its image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Verdict {
    /// There is no checksum file.
    Absent,
    /// The image has this sum.
    Verified,
    /// The sum is of the image as it is now, and was not checked.
    Unchecked,
    /// The image was changed or copied since; its sum is another, or was not checked.
    Stale,
    /// The image is not changed by its ctime, and has another sum.
    Wrong {
        /// The sum of the file.
        expected: String,
        /// The sum of the image.
        found: String,
    },
}

/// Says which images are read to verify their checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// None.
    Nothing,
    /// Those that were not changed since theirs was made: only of them it can be wrong.
    Fresh,
    /// All.
    All,
}

/// Compares an image with its checksum file.
pub fn verdict(
    file: &SourceFile,
    checksum: Option<&ChecksumFile>,
    verify: Verify,
    watch: &dyn Watch,
) -> Result<Verdict, FsError> {
    let Some(checksum) = checksum else { return Ok(Verdict::Absent) };
    let fresh = change_time(&checksum.change_time).is_some_and(|time| time == file.stamp().changed);
    if verify == Verify::Nothing || (verify == Verify::Fresh && !fresh) || checksum.method != "crc64" {
        return Ok(if fresh { Verdict::Unchecked } else { Verdict::Stale });
    }
    let Some(found) = crc64(file, watch)? else { return Ok(Verdict::Unchecked) };
    Ok(if found.eq_ignore_ascii_case(&checksum.checksum) {
        Verdict::Verified
    } else if fresh {
        Verdict::Wrong { expected: checksum.checksum.clone(), found }
    } else {
        Verdict::Stale
    })
}

/// Reads a time as RFC 3339 or as Go prints one (`2026-11-20 23:10:55.123456789 +0000 UTC`), in ns since 1970.
fn change_time(text: &str) -> Option<i128> {
    let time: Timestamp = text.parse().ok().or_else(|| {
        let mut words = text.split_whitespace();
        let (date, time, offset) = (words.next()?, words.next()?, words.next()?);
        let (hours, minutes) = offset.split_at_checked(3)?;
        format!("{date}T{time}{hours}:{minutes}").parse().ok()
    })?;
    Some(time.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue() {
        let mut crc = Crc64::default();
        crc.update(b"123456789");
        assert_eq!(crc.finish(), "b90956c775a41001");
    }

    #[test]
    fn zeros_are_zeros() {
        for number in [0, 1, 7, 8, 4096, 1_000_003] {
            let (mut long, mut short) = (Crc64::default(), Crc64::default());
            long.update(b"before");
            short.update(b"before");
            long.update(&vec![0; number]);
            short.zeros(number as u64);
            long.update(b"after");
            short.update(b"after");
            assert_eq!(long.finish(), short.finish(), "{number}");
        }
    }

    #[test]
    fn both_forms_of_a_time() {
        let expected = change_time("2026-11-20T23:10:55.12Z").unwrap();
        assert_eq!(change_time("2026-11-20 23:10:55.12 +0000 UTC"), Some(expected));
        assert_eq!(change_time("2026-11-21 00:10:55.12 +0100 CET"), Some(expected));
        assert_eq!(change_time(""), None);
        assert_eq!(change_time("a b é"), None);
    }
}
