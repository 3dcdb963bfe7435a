//! Values of flags: each parser says what it expected.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ha_sync_core::name::{DirectionError, NameError, RunIdError};
use ha_sync_core::shard::{Shard, ShardError};

/// Says why the value of a flag was refused. The flag and the value are named by [`crate::usage`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// A path is relative.
    #[error("not an absolute path")]
    Relative(PathBuf),
    /// A path is empty, as after `--src=$UNSET`.
    #[error("expected an absolute path")]
    Empty,
    /// A path leads out of its root, or is absolute.
    #[error("expected a path relative to the root, without '..'")]
    NotBelow,
    /// A pair's name is none.
    #[error(transparent)]
    Pair(#[from] NameError),
    /// A direction's label is none.
    #[error(transparent)]
    Direction(#[from] DirectionError),
    /// A run's id is none.
    #[error("expected a run id of the form 20260413T152357Z-0123abcd")]
    Run,
    /// A glob cannot be understood.
    #[error("invalid glob: {0}")]
    Glob(String),
    /// A time is none.
    #[error("expected seconds, like 2, 0.5, 30s, 15m or 1h")]
    Seconds,
    /// A time must be longer.
    #[error("expected at least 1 second")]
    TooShort,
    /// An age is none.
    #[error("expected an age with its unit, like 12h, 7d or 4w")]
    Age,
    /// A number of days is none.
    #[error("expected a number of days, like 7")]
    Days,
    /// A limit is none.
    #[error("expected a count or a percentage, like 100 or 25%")]
    CountOrPercent,
    /// A size is none.
    #[error("expected a size or a percentage, like 1GiB, 500M or 2%")]
    SizeOrPercent,
    /// A shard is none.
    #[error("expected I/N, I from 0 to N-1 and N from 1 to {most}, like 0/4", most = Shard::MOST)]
    Shard,
    /// A number of shards is none.
    #[error("expected a number from 1 to {most}", most = Shard::MOST)]
    Shards,
    /// A number of threads is none.
    #[error("expected a number from 1 to {0}")]
    Threads(usize),
    /// A switch has neither of its values.
    #[error("expected true or false")]
    Switch,
    /// A mode of deletion is none.
    #[error("expected off, on or strict")]
    Delete,
    /// The id of an approval is none.
    #[error("expected the id that the halted run printed")]
    Approval,
}

impl From<ShardError> for ValueError {
    fn from(_: ShardError) -> Self {
        Self::Shard
    }
}

impl From<RunIdError> for ValueError {
    fn from(_: RunIdError) -> Self {
        Self::Run
    }
}

impl ValueError {
    /// Returns what to type instead, where that is plain.
    pub fn hint(&self, flag: &str) -> Option<String> {
        match self {
            // A DSN that stands behind the wrong flag is not repeated.
            Self::Relative(path) if path.to_string_lossy().contains('@') => None,
            Self::Relative(path) => {
                let path = path.strip_prefix(".").unwrap_or(path).display();
                Some(format!("{flag} \"$PWD/{path}\""))
            }
            Self::Pair(_) => Some(format!("{flag} media (the lock is called ha-sync-media)")),
            Self::Direction(_) => Some(format!("{flag} dell-to-hp")),
            Self::Glob(_) => Some(format!("{flag} '*.tmp', or {flag} '/cache/**' for one place")),
            Self::Run => Some("ha-sync restore --root DIR lists the runs".to_owned()),
            _ => None,
        }
    }
}

/// Is a limit as a number or as a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So many entries or bytes.
    Absolute(u64),
    /// So many hundredths, 0 to 100, fractions allowed.
    Percent(f64),
}

/// Takes what parses to a `T`, such as a pair's name.
pub fn parsed<T: FromStr<Err: Into<ValueError>>>(text: &str) -> Result<T, ValueError> {
    text.parse().map_err(Into::into)
}

/// Takes an absolute path; bytes that are not UTF-8 are welcome.
pub fn absolute_path(text: &OsStr) -> Result<PathBuf, ValueError> {
    let path = PathBuf::from(text);
    if text.is_empty() {
        return Err(ValueError::Empty);
    }
    if path.is_absolute() { Ok(path) } else { Err(ValueError::Relative(path)) }
}

/// Takes a path below a root, without `..`; a leading `./` and a trailing slash go.
pub fn path_below(text: &OsStr) -> Result<PathBuf, ValueError> {
    let mut below = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::CurDir => {}
            _ => return Err(ValueError::NotBelow),
        }
    }
    if below.as_os_str().is_empty() { Err(ValueError::NotBelow) } else { Ok(below) }
}

/// Takes a glob as it is written in a filter (a leading slash anchors it, a trailing one means directories).
pub fn glob(text: &str) -> Result<String, ValueError> {
    let pattern = text.strip_prefix('/').unwrap_or(text);
    let pattern = pattern.strip_suffix('/').unwrap_or(pattern);
    if pattern.is_empty() {
        return Err(ValueError::Glob("it is empty".to_owned()));
    }
    match globset::GlobBuilder::new(pattern).literal_separator(true).build() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(ValueError::Glob(error.kind().to_string())),
    }
}

/// Takes what Go's flag package takes for a boolean.
pub fn switch(text: &str) -> Result<bool, ValueError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ValueError::Switch),
    }
}

/// Takes a time in seconds, fractions allowed, or with the unit `ms`, `s`, `m`, `h` or `d`.
pub fn seconds(text: &str) -> Result<Duration, ValueError> {
    let digits = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let nanoseconds = match unit {
        "ms" => 1_000_000,
        "" | "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3600 * SECOND,
        "d" => DAY,
        _ => return Err(ValueError::Seconds),
    };
    decimal(number, nanoseconds).and_then(duration).ok_or(ValueError::Seconds)
}

/// Takes a time of at least a second, as [`seconds`].
pub fn seconds_at_least_one(text: &str) -> Result<Duration, ValueError> {
    let time = seconds(text)?;
    if time < Duration::from_secs(1) { Err(ValueError::TooShort) } else { Ok(time) }
}

/// Takes an age: a number with the unit `s`, `m`, `h`, `d` or `w`. There is no default unit, because a mistaken one
/// would delete.
pub fn age(text: &str) -> Result<Duration, ValueError> {
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(ValueError::Age)?;
    let nanoseconds = match unit {
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3600 * SECOND,
        "d" => DAY,
        "w" => 7 * DAY,
        _ => return Err(ValueError::Age),
    };
    decimal(number, nanoseconds).and_then(duration).ok_or(ValueError::Age)
}

/// Takes a whole number of days, with or without a `d`.
pub fn days(text: &str) -> Result<u32, ValueError> {
    let number = text.strip_suffix('d').unwrap_or(text);
    whole(number).and_then(|days| u32::try_from(days).ok()).filter(|days| *days <= 36_500).ok_or(ValueError::Days)
}

/// Takes a count or a percentage.
pub fn count_or_percent(text: &str) -> Result<Amount, ValueError> {
    percent(text).or_else(|| whole(text).map(Amount::Absolute)).ok_or(ValueError::CountOrPercent)
}

/// Takes a size or a percentage. `K`, `M`, `G`, `T` and `KiB` … are powers of 1024, `KB` … of 1000; fractions are
/// allowed with a unit.
pub fn size_or_percent(text: &str) -> Result<Amount, ValueError> {
    percent(text).or_else(|| size(text).map(Amount::Absolute)).ok_or(ValueError::SizeOrPercent)
}

/// Takes a number of threads.
pub fn threads(text: &str) -> Result<usize, ValueError> {
    let most = 1024;
    let number = whole(text).and_then(|number| usize::try_from(number).ok());
    number.filter(|number| (1..=most).contains(number)).ok_or(ValueError::Threads(most))
}

/// Takes a number of shards.
pub fn shards(text: &str) -> Result<u32, ValueError> {
    let number = whole(text).and_then(|number| u32::try_from(number).ok());
    number.filter(|number| (1..=Shard::MOST).contains(number)).ok_or(ValueError::Shards)
}

/// Takes the id of a set of operations that a halted run printed.
pub fn approval(text: &str) -> Result<String, ValueError> {
    let proper = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let accepted = (1..=64).contains(&text.len()) && text.bytes().all(proper);
    if accepted { Ok(text.to_owned()) } else { Err(ValueError::Approval) }
}

const SECOND: u128 = 1_000_000_000;
const DAY: u128 = 86_400 * SECOND;

fn whole(text: &str) -> Option<u64> {
    // `parse` alone would take a plus sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Multiplies a decimal number by `unit` without passing through a float.
fn decimal(text: &str, unit: u128) -> Option<u128> {
    let (integer, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let scaled = u128::from(whole(integer)?) * scale + u128::from(whole(fraction)?);
    Some(scaled.checked_mul(unit)? / scale)
}

fn duration(nanoseconds: u128) -> Option<Duration> {
    let seconds = u64::try_from(nanoseconds / SECOND).ok()?;
    // A thousand years: dates computed with more would not fit a timestamp.
    let fraction = u32::try_from(nanoseconds % SECOND).ok()?;
    (seconds <= 31_536_000_000).then_some(Duration::new(seconds, fraction))
}

fn percent(text: &str) -> Option<Amount> {
    let number = text.strip_suffix('%')?;
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    let percent: f64 = number.bytes().all(plain).then(|| number.parse().ok())??;
    (0.0..=100.0).contains(&percent).then_some(Amount::Percent(percent))
}

fn size(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let (letter, base) = match unit.as_str() {
        "" | "B" => return whole(number),
        unit if unit.ends_with("IB") => (&unit[..unit.len() - 2], 1024_u128),
        unit if unit.ends_with('B') => (&unit[..unit.len() - 1], 1000),
        unit => (unit, 1024),
    };
    let exponent = match letter {
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        _ => return None,
    };
    u64::try_from(decimal(number, base.pow(exponent))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let cases = [("2", 2_000), ("0.5", 500), ("1.25s", 1_250), ("300ms", 300), ("15m", 900_000), ("1h", 3_600_000)];
        for (text, milliseconds) in cases {
            assert_eq!(seconds(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "-1", "+1", "1e3", "2x", "s", ".5", "1.", "inf", "9999999999999", "1 s", "0.1234567891"] {
            assert_eq!(seconds(bad), Err(ValueError::Seconds), "{bad}");
        }
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("2w"), Ok(Duration::from_secs(14 * 86_400)));
        for bad in ["", "30", "d", "30 d", "-1d", "ä"] {
            assert_eq!(age(bad), Err(ValueError::Age), "{bad}");
        }
        assert_eq!((days("7"), days("7d"), days("0")), (Ok(7), Ok(7), Ok(0)));
        assert_eq!(days("-1"), Err(ValueError::Days));
    }

    #[test]
    fn amounts() {
        assert_eq!(count_or_percent("100"), Ok(Amount::Absolute(100)));
        assert_eq!(count_or_percent("12.5%"), Ok(Amount::Percent(12.5)));
        for bad in ["", "%", "101%", "-1", "1.5", "nan%", "1k"] {
            assert_eq!(count_or_percent(bad), Err(ValueError::CountOrPercent), "{bad}");
        }
        let sizes =
            [("0", 0), ("500M", 500 << 20), ("1GiB", 1 << 30), ("1gb", 1_000_000_000), ("1.5K", 1536), ("7B", 7)];
        for (text, bytes) in sizes {
            assert_eq!(size_or_percent(text), Ok(Amount::Absolute(bytes)), "{text}");
        }
        for bad in ["", "G", "1.5", "1XB", "1IB", "99999999P", "-1G"] {
            assert_eq!(size_or_percent(bad), Err(ValueError::SizeOrPercent), "{bad}");
        }
    }

    #[test]
    fn paths_below_a_root() {
        assert_eq!(path_below(OsStr::new("./a/b/")), Ok(PathBuf::from("a/b")));
        for bad in ["", ".", "/a", "a/../b", ".."] {
            assert_eq!(path_below(OsStr::new(bad)), Err(ValueError::NotBelow), "{bad}");
        }
    }

    #[test]
    fn globs() {
        for good in ["*.tmp", "/cache/", "a/**/b", "{a,b}", "[a-z]"] {
            assert!(glob(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "[a", "{a", "a{b}}"] {
            assert!(glob(bad).is_err(), "{bad}");
        }
    }
}
