//! How often a job runs, seen from when it ran.

use jiff::{SignedDuration, Timestamp};

/// Runs that must have begun before a rhythm is seen: fewer say nothing.
const LEAST_STARTS: usize = 4;
/// Gaps in a row that make a new rhythm when they are alike.
const AGREEING: usize = 3;
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
    /// The median of the time between starts, or that of the last three when they agree on a longer one.
    pub interval: SignedDuration,
    /// Time after a start from which on the next run counts as overdue: one and a half times what nine of ten
    /// intervals, and the last three when they agree, stay below, and two minutes.
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
        // Newest first: a schedule that was made longer is believed when the last gaps agree on it, since sixty of them
        // would take days to turn the median. A shorter one needs no hurry: nothing is overdue by it.
        let agreed = agreed(&gaps);
        gaps.sort();
        let interval = *gaps.get(gaps.len() / 2)?;
        let long = gaps[(gaps.len() * 9 / 10).min(gaps.len() - 1)];
        let (interval, long) = agreed.map_or((interval, long), |(middle, most)| (interval.max(middle), long.max(most)));
        Some(Self { interval, patience: long.saturating_add(long / 2).saturating_add(SLACK) })
    }

    /// Returns when the run after one that began at `start` is expected.
    pub fn next_after(self, start: Timestamp) -> Option<Timestamp> {
        start.checked_add(self.interval).ok()
    }
}

/// Returns the middle and the longest of the last gaps when they are alike: the longest is at most a quarter longer
/// than the shortest.
fn agreed(gaps: &[SignedDuration]) -> Option<(SignedDuration, SignedDuration)> {
    let mut last: [SignedDuration; AGREEING] = *gaps.first_chunk()?;
    last.sort();
    let (least, most) = (last[0], last[AGREEING - 1]);
    (most <= least.saturating_add(least / 4)).then_some((last[AGREEING / 2], most))
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
        let cases: [Case; 8] = [
            ("too few", &[45, 30, 15], None),
            ("regular", &[60, 45, 30, 15, 0], Some((15, 24))),
            ("one by hand", &[62, 60, 45, 30, 15, 0], Some((15, 24))),
            (
                "an outage of hours moves nothing",
                &[660, 645, 630, 615, 600, 585, 150, 135, 120, 105, 90, 75, 60],
                Some((15, 24)),
            ),
            (
                "three of an outage are not",
                &[600, 500, 240, 60, 45, 30, 15, 0, -15, -30, -45, -60, -75],
                Some((15, 272)),
            ),
            ("some by hand one after another", &[66, 64, 62, 60, 45, 30, 15, 0], Some((15, 24))),
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

    /// A job of every quarter of an hour that became a daily one.
    #[test]
    fn a_longer_schedule_is_believed_after_three_gaps() {
        let minutes = SignedDuration::from_mins;
        let daily = |days: i64| {
            let before = (0..57).map(|run| -run * 15);
            starts(&(1..=days).rev().map(|day| day * 1440).chain(before).collect::<Vec<_>>())
        };
        for (days, interval, overdue) in [(2, 15, true), (3, 1440, false), (10, 1440, false)] {
            let starts = daily(days);
            let rhythm = Rhythm::observe(&starts);
            assert_eq!(rhythm.unwrap().interval, minutes(interval), "{days}");
            assert_eq!(is_overdue(rhythm, starts[0], starts[0] + minutes(1445)), overdue, "{days}");
        }
        let rhythm = Rhythm::observe(&daily(3));
        assert!(is_overdue(rhythm, starts(&[4320])[0], starts(&[4320])[0] + minutes(2200)));
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
