//! Names that identify a pair, a direction and a run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Says why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than it may be.
    #[error("the name has {length} characters, the limit is {limit}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A character is not allowed at its place.
    #[error(
        "character {character:?} at position {position} is not allowed: use a-z, 0-9 and '-', and begin and end with a letter or digit"
    )]
    Character {
        /// The refused character.
        character: char,
        /// Its place, counted from 1.
        position: usize,
    },
}

/// Is the name of a folder pair: the suffix of its Lease `ha-sync-<pair>`, so a DNS label (sync.md §7).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PairName(String);

impl PairName {
    /// A Lease name is a DNS label of at most 63 characters; `ha-sync-` takes 8.
    pub const MAX_LENGTH: usize = 55;

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PairName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        let last = name.chars().count();
        for (index, character) in name.chars().enumerate() {
            let position = index + 1;
            let inner = position != 1 && position != last;
            if !(character.is_ascii_lowercase() || character.is_ascii_digit() || (character == '-' && inner)) {
                return Err(NameError::Character { character, position });
            }
        }
        if name.len() > Self::MAX_LENGTH {
            return Err(NameError::TooLong { length: name.len(), limit: Self::MAX_LENGTH });
        }
        Ok(Self(name.to_owned()))
    }
}

/// Is the label of a direction in logs and the database (`--direction`): 1–64 of `A-Z a-z 0-9 . _ -`, so that it
/// fits the column and can be a part of a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Direction(String);

impl Direction {
    /// The width of the column `direction`.
    pub const MAX_LENGTH: usize = 64;

    /// Returns the label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says why a direction label was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a direction has 1 to 64 of the characters A-Z a-z 0-9 . _ - and begins with a letter or digit")]
pub struct DirectionError;

impl FromStr for Direction {
    type Err = DirectionError;

    fn from_str(label: &str) -> Result<Self, DirectionError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let starts = label.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !starts || label.len() > Self::MAX_LENGTH || !label.bytes().all(allowed) {
            return Err(DirectionError);
        }
        Ok(Self(label.to_owned()))
    }
}

/// Identifies one run: `<UTC start as yyyymmddThhmmssZ>-<8 hex>`, unique, sortable by start, without a dot (so that
/// it can be told from its neighbours in `.ha-sync.<run id>.<n>.tmp`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// Says that a text is no run id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a run id: {0:?}: expected the form 20260413T152357Z-0123abcd")]
pub struct RunIdError(String);

impl RunId {
    /// Makes the id of a run that starts at `start`; `random` keeps runs of the same second apart.
    pub fn new(start: jiff::Timestamp, random: u32) -> Self {
        Self(format!("{}-{random:08x}", start.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// Returns the start of the run, in whole seconds.
    pub fn started(&self) -> jiff::Timestamp {
        jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &self.0[..16])
            .ok()
            .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok())
            .map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.timestamp())
    }

    /// Returns the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = RunIdError;

    fn from_str(text: &str) -> Result<Self, RunIdError> {
        let refused = || RunIdError(text.to_owned());
        let (time, random) = text.split_once('-').ok_or_else(refused)?;
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if random.len() != 8 || !random.bytes().all(hex) || time.len() != 16 {
            return Err(refused());
        }
        jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).map_err(|_| refused())?;
        Ok(Self(text.to_owned()))
    }
}

macro_rules! text_conversions {
    ($($name:ident: $error:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    )*};
}

text_conversions!(PairName: NameError, Direction: DirectionError, RunId: RunIdError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_names_are_dns_labels() {
        for good in ["media", "a", "9", "my-photos-2", &"x".repeat(55)] {
            assert!(good.parse::<PairName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "Media", "a_b", "a.b", "a/b", "ä", "a b", &"x".repeat(56)] {
            assert!(bad.parse::<PairName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn run_ids_tell_their_start() {
        let start: jiff::Timestamp = "2026-04-13T15:23:57.25Z".parse().unwrap();
        let id = RunId::new(start, 0xab);
        assert_eq!(id.as_str(), "20260413T152357Z-000000ab");
        assert_eq!(id.started(), "2026-04-13T15:23:57Z".parse().unwrap());
        assert_eq!(id.as_str().parse::<RunId>().unwrap(), id);
        for bad in
            ["", "20260413T152357Z", "20260413T152357Z-0000", "20260413T152357Z-000000AB", "2026-000000ab", "x.y"]
        {
            assert!(bad.parse::<RunId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn directions_fit_a_file_name() {
        for good in ["fwd", "dell-to-hp", "A.b_c"] {
            assert!(good.parse::<Direction>().is_ok(), "{good}");
        }
        for bad in ["", "a/b", "-x", ".x", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<Direction>().is_err(), "{bad}");
        }
    }
}
