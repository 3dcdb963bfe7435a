//! Which blocks of the file system one object has named. None belongs to it twice; a forged map that says so could make
//! a small image be read without end.

use std::collections::BTreeMap;

/// More pieces than that no kernel makes; each takes memory.
pub(crate) const MOST: usize = 1 << 20;

/// Is a set of blocks, kept as runs: the first block, and the one behind the last.
#[derive(Debug, Default)]
pub(crate) struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Adds as much of the beginning of a run as is new. Returns whether the beginning is new, and for how many blocks
    /// that is so.
    pub(crate) fn add(&mut self, first: u64, count: u64) -> (bool, u64) {
        let end = first.saturating_add(count);
        let before = self.0.range(..=first).next_back().map(|(start, end)| (*start, *end));
        if let Some((_, known)) = before.filter(|(_, known)| *known > first) {
            return (false, known.min(end) - first);
        }
        let next = self.0.range(first..end).next().map(|(start, _)| *start);
        let stop = next.unwrap_or(end);
        let start = before.filter(|(_, known)| *known == first).map_or(first, |(start, _)| start);
        self.0.insert(start, stop);
        (true, stop - first)
    }

    /// Tells whether there are too many pieces to go on.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_not_new() {
        let mut runs = Runs::default();
        assert_eq!(runs.add(10, 5), (true, 5));
        assert_eq!(runs.add(15, 5), (true, 5));
        assert_eq!(runs.0.len(), 1);
        assert_eq!(runs.add(12, 2), (false, 2));
        assert_eq!(runs.add(12, 20), (false, 8));
        assert_eq!(runs.add(5, 20), (true, 5));
        assert_eq!(runs.add(9, 1), (false, 1));
        assert_eq!(runs.add(20, 1), (true, 1));
        assert_eq!(runs.add(u64::MAX - 1, 9), (true, 1));
        assert_eq!(runs.add(u64::MAX - 1, 9), (false, 1));
    }
}
