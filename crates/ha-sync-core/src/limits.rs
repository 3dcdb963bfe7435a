//! Limits that halt a run before it changes anything (sync.md §4).

use std::fmt;
use std::str::FromStr;

/// Is what `--max-delete` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaxDelete {
    /// More than 20 that are also more than 25 % of that side's entries.
    #[default]
    Default,
    /// A number of entries.
    Count(u64),
    /// A percentage of that side's entries.
    Percent(u8),
}

impl MaxDelete {
    /// Tells whether deleting `deletes` of `entries` is too much.
    pub fn exceeded(self, deletes: u64, entries: u64) -> bool {
        let above = |percent: u8| u128::from(deletes) * 100 > u128::from(entries) * u128::from(percent);
        match self {
            Self::Default => deletes > 20 && above(25),
            Self::Count(limit) => deletes > limit,
            Self::Percent(percent) => above(percent),
        }
    }
}

impl fmt::Display for MaxDelete {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("25% once more than 20"),
            Self::Count(count) => write!(formatter, "{count}"),
            Self::Percent(percent) => write!(formatter, "{percent}%"),
        }
    }
}

/// Says that a limit was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a count such as 100 or a percentage from 0% to 100%")]
pub struct MaxDeleteError;

impl FromStr for MaxDelete {
    type Err = MaxDeleteError;

    fn from_str(text: &str) -> Result<Self, MaxDeleteError> {
        match text.strip_suffix('%') {
            Some(number) => match number.parse() {
                Ok(percent) if percent <= 100 => Ok(Self::Percent(percent)),
                _ => Err(MaxDeleteError),
            },
            None => text.parse().map(Self::Count).map_err(|_| MaxDeleteError),
        }
    }
}

/// Is what `--min-free` says: space that a copy must leave free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinFree {
    /// 1 GiB or 1 % of the file system, the smaller.
    #[default]
    Default,
    /// Bytes.
    Bytes(u64),
    /// A percentage of the file system.
    Percent(u8),
}

impl MinFree {
    /// Returns the bytes to leave free on a file system of `total` bytes.
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Default => (total / 100).min(1 << 30),
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (u128::from(total) * u128::from(percent) / 100) as u64,
        }
    }
}

/// Says that an amount of space was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected bytes such as 500M or 1GiB, or a percentage such as 2%")]
pub struct MinFreeError;

impl FromStr for MinFree {
    type Err = MinFreeError;

    fn from_str(text: &str) -> Result<Self, MinFreeError> {
        if let Some(number) = text.strip_suffix('%') {
            return match number.parse() {
                Ok(percent) if percent <= 100 => Ok(Self::Percent(percent)),
                _ => Err(MinFreeError),
            };
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(MinFreeError),
        };
        let number: u64 = number.parse().map_err(|_| MinFreeError)?;
        number.checked_mul(1 << shift).map(Self::Bytes).ok_or(MinFreeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_needs_both_more_than_20_and_more_than_a_quarter() {
        assert!(!MaxDelete::Default.exceeded(20, 20));
        assert!(!MaxDelete::Default.exceeded(25, 100));
        assert!(MaxDelete::Default.exceeded(26, 100));
        assert!(!MaxDelete::Percent(100).exceeded(5, 5));
        assert!(MaxDelete::Count(0).exceeded(1, 1000));
        assert!(MaxDelete::Percent(0).exceeded(1, 1000));
    }

    #[test]
    fn limits_are_read_or_refused() {
        assert_eq!("25%".parse(), Ok(MaxDelete::Percent(25)));
        assert_eq!("7".parse(), Ok(MaxDelete::Count(7)));
        for bad in ["", "%", "101%", "-1", "7.5%", "x"] {
            assert!(bad.parse::<MaxDelete>().is_err(), "{bad}");
        }
        assert_eq!("1GiB".parse(), Ok(MinFree::Bytes(1 << 30)));
        assert_eq!("500M".parse(), Ok(MinFree::Bytes(500 << 20)));
        assert_eq!("0".parse(), Ok(MinFree::Bytes(0)));
        for bad in ["", "G", "1.5G", "1X", "99999999999999999999"] {
            assert!(bad.parse::<MinFree>().is_err(), "{bad}");
        }
    }
}
