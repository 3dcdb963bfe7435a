//! When jobs start: cron lines as Kubernetes reads them, and intervals that become such lines.

use std::time::Duration;

/// Says why an interval is refused.
pub(crate) const INTERVAL: &str = "expected minutes or hours that divide the hour or the day, from 2m to 24h, like 15m";

/// Is the time between two runs of a job: whole minutes that divide the hour, or whole hours that divide the day, so
/// that a cron line can say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interval {
    minutes: u32,
}

impl Interval {
    pub(crate) const DEFAULT: Self = Self { minutes: 15 };

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refused = || INTERVAL.to_owned();
        let minutes = u32::try_from(duration(text).ok_or_else(refused)?.as_secs() / 60).map_err(|_| refused())?;
        let fits = match minutes {
            2..60 => 60 % minutes == 0,
            60..=1440 => minutes % 60 == 0 && 24 % (minutes / 60) == 0,
            _ => false,
        };
        if fits { Ok(Self { minutes }) } else { Err(refused()) }
    }

    /// Returns the line of the first direction.
    pub(crate) fn first(self) -> String {
        match self.minutes {
            minutes @ 0..60 => format!("*/{minutes} * * * *"),
            60 => "0 * * * *".to_owned(),
            1440 => "0 0 * * *".to_owned(),
            minutes => format!("0 */{} * * *", minutes / 60),
        }
    }

    /// Returns the line of the second direction, which starts half an interval later: by then the first is mostly
    /// done, and the lock that both share is free.
    pub(crate) fn second(self) -> String {
        let half = self.minutes / 2;
        let every = |step: u32, from: u32, end: u32| {
            let times: Vec<_> = (from..end).step_by(step as usize).map(|time| time.to_string()).collect();
            if times.len() > 6 { format!("{from}-{}/{step}", end - 1) } else { times.join(",") }
        };
        match self.minutes {
            minutes @ 0..60 => format!("{} * * * *", every(minutes, half, 60)),
            60 => "30 * * * *".to_owned(),
            minutes => format!("{} {} * * *", half % 60, every(minutes / 60, half / 60, 24)),
        }
    }
}

/// Reads whole minutes, hours or days (`90m`, `12h`, `30d`).
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, seconds) = match text.split_at_checked(text.len().checked_sub(1)?)? {
        (number, "m") => (number, 60),
        (number, "h") => (number, 3600),
        (number, "d") => (number, 86400),
        _ => return None,
    };
    let plain = !number.is_empty() && number.len() <= 6 && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| plain)?;
    Some(Duration::from_secs(number * seconds))
}

/// Is a field of a cron line: its name, its least and greatest value, the words it takes.
const FIELDS: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of week", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Is when a line comes: for each field, the values at which it does, as bits; and whether the days are restricted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    fields: [u64; 5],
    restricted: [bool; 2],
}

impl Times {
    /// Tells whether the line ever comes: one for the 30th of February does not.
    fn ever(&self) -> bool {
        const DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let [_, _, days, months, _] = self.fields;
        // With both restricted, one of the two days is enough.
        self.restricted == [true, true]
            || DAYS
                .iter()
                .zip(1..)
                .any(|(last, month)| months & (1 << month) != 0 && days & ((1 << (last + 1)) - 1) != 0)
    }
}

/// Tells whether two checked lines come at the same times.
pub(crate) fn same(one: &str, other: &str) -> bool {
    times(one).is_ok_and(|one| times(other).is_ok_and(|other| one == other))
}

fn times(line: &str) -> Result<Times, String> {
    let line = match line {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        line => line,
    };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    if words.len() != FIELDS.len() {
        return Err(format!("a schedule has 5 fields like */15 * * * *, this one has {}", words.len()));
    }
    let mut times = Times { fields: [0; 5], restricted: [false; 2] };
    for ((word, bits), (name, least, greatest, names)) in words.iter().zip(&mut times.fields).zip(FIELDS) {
        for part in word.split(',') {
            *bits |= field(part, least, greatest, names).map_err(|why| format!("{name}: {part:?} {why}"))?;
        }
    }
    let restricted = |word: &str| !word.split(',').any(|part| matches!(part, "*" | "?" | "*/1" | "?/1"));
    times.restricted = [restricted(words[2]), restricted(words[4])];
    Ok(times)
}

/// Checks a cron line by the rules of the CronJob controller (`robfig/cron`, standard form): five fields of lists,
/// ranges and steps; Sunday is 0 only; the day of month is in no way the last.
pub(crate) fn cron(line: &str) -> Result<String, String> {
    if !times(line)?.ever() {
        return Err(format!("there is no such day in any year: {line:?}"));
    }
    Ok(line.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// Returns the values of a part of a field, as bits.
fn field(part: &str, least: u32, greatest: u32, names: &[&str]) -> Result<u64, String> {
    let value = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let named = names.iter().position(|name| *name == lower).and_then(|at| u32::try_from(at).ok());
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let value = named.map(|at| at + least).or_else(|| text.parse().ok().filter(|_| digits));
        let value = value.ok_or_else(|| "is no number, list, range or step".to_owned())?;
        if (least..=greatest).contains(&value) { Ok(value) } else { Err(format!("is not from {least} to {greatest}")) }
    };
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    let (from, to) = match range.split_once('-') {
        _ if range == "*" || range == "?" => (least, greatest),
        Some((from, to)) if value(from)? > value(to)? => return Err("ends before it begins".to_owned()),
        Some((from, to)) => (value(from)?, value(to)?),
        // From there to the end, where there is a step.
        None => (value(range)?, if step.is_some() { greatest } else { value(range)? }),
    };
    let step = match step.map(str::parse::<u32>) {
        None => 1,
        Some(Ok(step)) if step > 0 && step <= greatest => step,
        Some(_) => return Err(format!("has a step that is not from 1 to {greatest}")),
    };
    Ok((from..=to).step_by(step as usize).fold(0, |bits, value| bits | 1 << value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_become_lines_half_an_interval_apart() {
        for (text, first, second) in [
            ("2m", "*/2 * * * *", "1-59/2 * * * *"),
            ("5m", "*/5 * * * *", "2-59/5 * * * *"),
            ("10m", "*/10 * * * *", "5,15,25,35,45,55 * * * *"),
            ("15m", "*/15 * * * *", "7,22,37,52 * * * *"),
            ("30m", "*/30 * * * *", "15,45 * * * *"),
            ("60m", "0 * * * *", "30 * * * *"),
            ("1h", "0 * * * *", "30 * * * *"),
            ("2h", "0 */2 * * *", "0 1-23/2 * * *"),
            ("3h", "0 */3 * * *", "30 1-23/3 * * *"),
            ("12h", "0 */12 * * *", "0 6,18 * * *"),
            ("24h", "0 0 * * *", "0 12 * * *"),
            ("1d", "0 0 * * *", "0 12 * * *"),
        ] {
            let interval = Interval::parse(text).unwrap();
            assert_eq!((interval.first().as_str(), interval.second().as_str()), (first, second), "{text}");
            assert!(cron(first).is_ok() && cron(second).is_ok(), "{text}");
        }
        for bad in ["", "m", "1m", "7m", "45m", "5h", "25h", "2d", "15", "15 m", "-15m", "0m", "15s", "+15m", "ä"] {
            assert!(Interval::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_that_come_at_the_same_times() {
        for (one, other, expected) in [
            ("*/15 * * * *", "0,15,30,45 * * * *", true),
            ("@daily", "0 0 * * *", true),
            ("0 0 * * mon-fri", "0 0 * * 1-5", true),
            ("5/20 * * * *", "5,25,45 * * * *", true),
            ("0 0 1 * *", "0 0 1 * 1", false),
            ("0 0 */2 * 1", "0 0 1-31/2 * 1", true),
            ("0 0 * * *", "0 12 * * *", false),
        ] {
            assert_eq!(same(one, other), expected, "{one} {other}");
        }
        assert!(cron("0 0 30 2 1").is_ok(), "on Mondays of February");
    }

    #[test]
    fn cron_lines() {
        for good in
            ["* * * * *", "*/15 * * * *", "7,22,37,52 * * * *", "0 3 * * 0", "0 3 1-7/2 JAN,mar Mon-Fri", "@daily"]
        {
            assert!(cron(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("* * * *", "a schedule has 5 fields like */15 * * * *, this one has 4"),
            ("60 * * * *", "minute: \"60\" is not from 0 to 59"),
            ("*/0 * * * *", "minute: \"*/0\" has a step that is not from 1 to 59"),
            ("5-1 * * * *", "minute: \"5-1\" ends before it begins"),
            ("0 0 * * 7", "day of week: \"7\" is not from 0 to 6"),
            ("0 0 0 * *", "day of month: \"0\" is not from 1 to 31"),
            ("0 0 L * *", "day of month: \"L\" is no number, list, range or step"),
            ("0 0 31 2,4 *", "there is no such day in any year: \"0 0 31 2,4 *\""),
            ("1,,2 * * * *", "minute: \"\" is no number, list, range or step"),
        ] {
            assert_eq!(cron(bad).unwrap_err(), why, "{bad}");
        }
    }
}
