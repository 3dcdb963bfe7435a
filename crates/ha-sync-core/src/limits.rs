//! Limits that halt a run before it changes anything (sync.md §4).

use std::fmt;

/// Is what `--max-delete` says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum MaxDelete {
    /// More than 20 that are also more than 25 % of that side's entries.
    #[default]
    Default,
    /// A number of entries.
    Count(u64),
    /// A percentage of that side's entries, 0 to 100.
    Percent(f64),
}

impl MaxDelete {
    /// Tells whether deleting `deletes` of `entries` is too much.
    pub fn exceeded(self, deletes: u64, entries: u64) -> bool {
        let above = |percent: f64| deletes as f64 * 100.0 > entries as f64 * percent;
        match self {
            Self::Default => deletes > 20 && above(25.0),
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

/// Is what `--min-free` says: space that a copy must leave free.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum MinFree {
    /// 1 GiB or 1 % of the file system, the smaller.
    #[default]
    Default,
    /// Bytes.
    Bytes(u64),
    /// A percentage of the file system, 0 to 100.
    Percent(f64),
}

impl MinFree {
    /// Returns the bytes to leave free on a file system of `total` bytes.
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Default => (total / 100).min(1 << 30),
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
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
        assert!(!MaxDelete::Percent(100.0).exceeded(5, 5));
        assert!(MaxDelete::Count(0).exceeded(1, 1000));
        assert!(MaxDelete::Percent(0.0).exceeded(1, 1000));
    }
}
