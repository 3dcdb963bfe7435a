//! The part of a tree that one of several runs works on.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use crate::path::RelPath;

/// Is one of the parts of a tree: the entries of the directories that it owns. A directory belongs to exactly one
/// shard, by the hash of its path; so does every other path, with the directory that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

/// Says why a shard is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected I/N with I from 0 to N-1 and N from 1 to {most}, like 0/4", most = Shard::MOST)]
pub struct ShardError;

impl Shard {
    /// The most parts of a tree.
    pub const MOST: u32 = 64;

    /// Makes the shard `index` of `count`.
    pub fn new(index: u32, count: u32) -> Result<Self, ShardError> {
        if index < count && count <= Self::MOST { Ok(Self { index, count }) } else { Err(ShardError) }
    }

    /// Returns its number, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Returns how many there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Tells whether the entries of a directory belong to it. The hash is the same in every version: shards of two
    /// versions must not both take a path, nor both leave it.
    pub fn owns(self, directory: &RelPath) -> bool {
        xxh3_64(directory.as_bytes()) % u64::from(self.count) == u64::from(self.index)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| plain).ok_or(ShardError)
        };
        let (index, count) = text.split_once('/').ok_or(ShardError)?;
        Self::new(number(index)?, number(count)?)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        for good in ["0/1", "0/4", "3/4", "63/64"] {
            assert_eq!(good.parse::<Shard>().unwrap().to_string(), good);
        }
        for bad in ["", "4", "4/4", "0/0", "1/65", "-1/4", "+1/4", "1/", "/4", "1/4/4", "a/b", " 1/4"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_directory_has_one_owner_and_the_owners_stay_the_same() {
        let owner = |path: &str, count: u32| {
            let path = RelPath::from_bytes(path.as_bytes().to_vec()).unwrap();
            let owners: Vec<u32> = (0..count).filter(|index| Shard::new(*index, count).unwrap().owns(&path)).collect();
            assert_eq!(owners.len(), 1, "{path}");
            owners[0]
        };
        let owners = ["", "a", "b", "a/b", "photos/2026", "\u{e4}"].map(|path| owner(path, 4));
        assert_eq!(owners, [2, 3, 3, 0, 1, 0]);
        let spread = (0..1000).fold([0; 4], |mut spread, number| {
            spread[owner(&format!("folder-{number}"), 4) as usize] += 1;
            spread
        });
        assert!(spread.iter().all(|part| (200..300).contains(part)), "{spread:?}");
    }
}
