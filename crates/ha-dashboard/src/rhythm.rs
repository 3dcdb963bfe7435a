//! How often a job runs, seen from when it ran.

use jiff::{SignedDuration, Timestamp};

/// Runs that must have begun before a rhythm is seen: fewer say nothing.
const LEAST_STARTS: usize = 4;
/// What a scheduler may be late.
const SLACK: SignedDuration = SignedDuration::from_mins(2);
/// A run may take this many times as long as the longest one before it.
const LONGER: i32 = 3;
/// A run that takes less is never too long.
const LEAST_LONG: SignedDuration = SignedDuration::from_hours(1);
/// A run that takes more is too long when nothing is known of earlier ones.
const MOST_LONG: SignedDuration = SignedDuration::from_hours(24);

/// Is the observed rhythm of a pair and direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// The median of the time between starts.
    pub interval: SignedDuration,
    /// Time after a start from which on the next run counts as overdue: one and a half times what nine of ten
    /// intervals stay below, and two minutes.
    pub patience: SignedDuration,
}

impl Rhythm {
    /// Sees the rhythm in the starts of runs, newest first; nothing in fewer than four.
    ///
    /// The median is not moved by a run that somebody started by hand, and an outage moves neither value.
    pub fn observe(starts: &[Timestamp]) -> Option<Self> {
        if starts.len() < LEAST_STARTS {
            return None;
        }
        let mut gaps: Vec<SignedDuration> =
            starts.windows(2).map(|pair| pair[0].duration_since(pair[1])).filter(|gap| gap.is_positive()).collect();
        gaps.sort();
        let interval = *gaps.get(gaps.len() / 2)?;
        let long = gaps[(gaps.len() * 9 / 10).min(gaps.len() - 1)];
        Some(Self { interval, patience: long.saturating_add(long / 2).saturating_add(SLACK) })
    }

    /// Returns when the run after one that began at `start` is expected.
    pub fn next_after(self, start: Timestamp) -> Option<Timestamp> {
        start.checked_add(self.interval).ok()
    }
}

/// Tells whether the run after the last one, which has ended, should have begun by now.
pub fn is_overdue(rhythm: Option<Rhythm>, last_start: Timestamp, now: Timestamp) -> bool {
    rhythm.is_some_and(|rhythm| now.duration_since(last_start) > rhythm.patience)
}

/// Tells whether a run that has not ended takes so long that it has probably died: no other run of its pair came to
/// record that. `longest` is the longest of earlier runs.
pub fn is_stuck(longest: Option<SignedDuration>, start: Timestamp, now: Timestamp) -> bool {
    let most = longest.map_or(MOST_LONG, |longest| longest.saturating_mul(LONGER).max(LEAST_LONG));
    now.duration_since(start) > most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(minutes: &[i64]) -> Vec<Timestamp> {
        minutes.iter().map(|minute| Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()).collect()
    }

    #[test]
    fn rhythms() {
        let minutes = SignedDuration::from_mins;
        type Case = (&'static str, &'static [i64], Option<(i64, i64)>);
        let cases: [Case; 6] = [
            ("too few", &[45, 30, 15], None),
            ("regular", &[60, 45, 30, 15, 0], Some((15, 24))),
            ("one by hand", &[62, 60, 45, 30, 15, 0], Some((15, 24))),
            (
                "an outage of hours moves nothing",
                &[660, 645, 630, 615, 600, 585, 150, 135, 120, 105, 90, 75, 60],
                Some((15, 24)),
            ),
            ("all at once", &[0, 0, 0, 0], None),
            ("nights off", &[600, 60, 0, -60, -600, -660, -720, -1260], Some((60, 812))),
        ];
        for (name, minutes_of, expected) in cases {
            let rhythm = Rhythm::observe(&starts(minutes_of));
            let seen = rhythm.map(|rhythm| (rhythm.interval.as_mins(), rhythm.patience.as_mins()));
            assert_eq!(seen, expected, "{name}");
        }
        let rhythm = Rhythm::observe(&starts(&[60, 45, 30, 15, 0]));
        let last = starts(&[60])[0];
        assert!(!is_overdue(rhythm, last, last + minutes(24)));
        assert!(is_overdue(rhythm, last, last + minutes(25)));
        assert!(!is_overdue(None, last, last + minutes(100_000)));
        assert_eq!(rhythm.unwrap().next_after(last), Some(last + minutes(15)));
    }

    #[test]
    fn runs_that_do_not_end() {
        let start = starts(&[0])[0];
        let minutes = SignedDuration::from_mins;
        assert!(!is_stuck(Some(minutes(1)), start, start + minutes(59)));
        assert!(is_stuck(Some(minutes(1)), start, start + minutes(61)));
        assert!(!is_stuck(Some(minutes(60)), start, start + minutes(179)));
        assert!(!is_stuck(None, start, start + minutes(1439)));
        assert!(is_stuck(None, start, start + minutes(1441)));
    }
}
