//! How pairs stand: values, made from the rows of the audit store and the time. Pure.

use ha_audit::store::IterationRow;
use ha_sync_core::reason::Reason;
use ha_sync_core::record::Status;
use jiff::{SignedDuration, Timestamp};

use crate::lock::LockState;
use crate::rhythm::{self, Rhythm};

/// Is how a direction or a pair stands, the least worrying first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// It has never run for real.
    Idle,
    /// The last run did all it had to.
    Good,
    /// A run is under way.
    Running,
    /// The last run left something undone.
    Partial,
    /// A run should have begun and has not, or does not end.
    Overdue,
    /// The last run failed.
    Failed,
}

impl Health {
    /// Returns the word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Good => "good",
            Self::Running => "running",
            Self::Partial => "partial_failure",
            Self::Overdue => "overdue",
            Self::Failed => "failed",
        }
    }

    /// Tells whether a person should look.
    pub fn needs_a_look(self) -> bool {
        self >= Self::Partial
    }
}

/// Is how a direction of a pair stands.
#[derive(Debug, Clone)]
pub struct DirectionStatus {
    /// The label.
    pub direction: String,
    /// Real runs, newest first; the newest may be under way.
    pub history: Vec<IterationRow>,
    /// The last dry run.
    pub last_dry_run: Option<IterationRow>,
    /// When the last successful real run began.
    pub last_success: Option<Timestamp>,
    /// How often it runs.
    pub rhythm: Option<Rhythm>,
    /// Whether a run should have begun, or does not end.
    pub overdue: bool,
    /// Conflicts that the last finished run left open.
    pub conflicts: u64,
}

impl DirectionStatus {
    /// Judges the runs of a direction. `history` is real runs, newest first; `open_conflicts` those of the run that
    /// [`Self::last_finished`] of it returns.
    pub fn new(
        direction: String,
        history: Vec<IterationRow>,
        last_dry_run: Option<IterationRow>,
        last_success: Option<Timestamp>,
        open_conflicts: u64,
        now: Timestamp,
    ) -> Self {
        let starts: Vec<Timestamp> = history.iter().map(|run| run.started_at).collect();
        let rhythm = Rhythm::observe(&starts);
        let longest = history.iter().filter_map(duration).max();
        let overdue = match history.first() {
            None => false,
            Some(run) if run.status == Status::Running => rhythm::is_stuck(longest, run.started_at, now),
            Some(run) => rhythm::is_overdue(rhythm, run.started_at, now),
        };
        Self { direction, history, last_dry_run, last_success, rhythm, overdue, conflicts: open_conflicts }
    }

    /// Returns the newest real run.
    pub fn last(&self) -> Option<&IterationRow> {
        self.history.first()
    }

    /// Returns the newest real run that has ended.
    pub fn last_finished(&self) -> Option<&IterationRow> {
        last_finished(&self.history)
    }

    /// Returns when the next run is expected; nothing while one is under way.
    pub fn next_expected(&self) -> Option<Timestamp> {
        let last = self.last().filter(|run| run.status != Status::Running)?;
        self.rhythm?.next_after(last.started_at)
    }

    /// Returns how it stands.
    ///
    /// A run under way does not hide that the one before it failed.
    pub fn health(&self) -> Health {
        let of = |run: &IterationRow| match run.status {
            Status::Running => Health::Running,
            Status::Success => Health::Good,
            Status::PartialFailure => Health::Partial,
            Status::Failed => Health::Failed,
        };
        let last = self.last().map_or(Health::Idle, of);
        let finished = self.last_finished().map_or(Health::Idle, of);
        let overdue = if self.overdue { Health::Overdue } else { Health::Idle };
        last.max(finished).max(overdue)
    }
}

/// Returns the newest run that has ended.
pub(crate) fn last_finished(history: &[IterationRow]) -> Option<&IterationRow> {
    history.iter().find(|run| run.status != Status::Running)
}

/// Returns how long a run took; nothing of one that has not ended.
pub fn duration(run: &IterationRow) -> Option<SignedDuration> {
    run.ended_at.map(|end| end.duration_since(run.started_at).max(SignedDuration::ZERO))
}

/// Returns the number of operations that a run did.
pub fn changed(run: &IterationRow) -> u64 {
    let counts = &run.counts;
    counts.files_created.saturating_add(counts.files_updated).saturating_add(counts.files_deleted)
}

/// Tells whether a reason of the records is that of a conflict between two versions or types: one that is open, where
/// what was planned failed or the entry was skipped.
pub fn is_conflict(reason: &str) -> bool {
    [Reason::Conflict, Reason::TypeConflict].iter().any(|conflict| conflict.as_str() == reason)
}

/// Counts the conflicts among the skips of a run.
pub fn skipped_conflicts(run: &IterationRow) -> u64 {
    run.counts.skip_reasons.iter().filter(|(reason, _)| is_conflict(reason)).map(|(_, count)| *count).sum()
}

/// Is how a pair stands.
#[derive(Debug, Clone)]
pub struct PairStatus {
    /// The name.
    pub name: String,
    /// Its directions, by label.
    pub directions: Vec<DirectionStatus>,
    /// Who holds its lock.
    pub lock: LockState,
}

impl PairStatus {
    /// Returns how its worst direction stands.
    pub fn health(&self) -> Health {
        self.directions.iter().map(DirectionStatus::health).max().unwrap_or(Health::Idle)
    }
}

/// Is the state of all pairs at one moment.
#[derive(Debug, Clone)]
pub struct Overview {
    /// The moment.
    pub at: Timestamp,
    /// All pairs, by name.
    pub pairs: Vec<PairStatus>,
    /// The last runs of all pairs, dry ones too, newest first.
    pub recent: Vec<IterationRow>,
}

impl Overview {
    /// Returns a pair.
    pub fn pair(&self, name: &str) -> Option<&PairStatus> {
        self.pairs.iter().find(|pair| pair.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_sync_core::record::Counts;

    const START: i64 = 1_800_000_000;

    fn run(minute: i64, status: Status) -> IterationRow {
        let started_at = Timestamp::from_second(START + minute * 60).unwrap();
        IterationRow {
            id: minute,
            run_id: None,
            sync_pair: "media".into(),
            direction: "a-to-b".into(),
            src: "/a".into(),
            dest: "/b".into(),
            started_at,
            ended_at: (status != Status::Running).then(|| started_at + SignedDuration::from_secs(3)),
            status,
            dry_run: false,
            counts: Counts::default(),
            error_message: None,
            lease_transitions: None,
        }
    }

    fn health(runs: &[(i64, Status)], now: i64) -> Health {
        let history = runs.iter().map(|(minute, status)| run(*minute, *status)).collect();
        let now = Timestamp::from_second(START + now * 60).unwrap();
        DirectionStatus::new("a-to-b".into(), history, None, None, 0, now).health()
    }

    #[test]
    fn healths() {
        use Status::{Failed, PartialFailure, Running, Success};
        let earlier = [(45, Success), (30, Success), (15, Success), (0, Success)];
        let with = |last: (i64, Status)| [&[last], &earlier[..]].concat();
        let cases = [
            ("never ran", vec![], 0, Health::Idle),
            ("ran once, long ago", vec![(0, Success)], 100_000, Health::Good),
            ("in its rhythm", with((60, Success)), 70, Health::Good),
            ("did not come", with((60, Success)), 90, Health::Overdue),
            ("failed", with((60, Failed)), 70, Health::Failed),
            ("failed and then did not come", with((60, Failed)), 90, Health::Failed),
            ("partial", with((60, PartialFailure)), 70, Health::Partial),
            ("partial and then did not come", with((60, PartialFailure)), 90, Health::Overdue),
            ("under way", with((60, Running)), 70, Health::Running),
            ("under way for longer than its rhythm", with((60, Running)), 110, Health::Running),
            ("does not end", with((60, Running)), 130, Health::Overdue),
            ("under way after a failure", vec![(60, Running), (45, Failed)], 61, Health::Failed),
        ];
        for (name, runs, now, expected) in cases {
            assert_eq!(health(&runs, now), expected, "{name}");
        }
    }

    #[test]
    fn the_next_run_is_expected_after_the_last_one_has_ended() {
        let history: Vec<_> = [45, 30, 15, 0].iter().map(|minute| run(*minute, Status::Success)).collect();
        let now = Timestamp::from_second(START + 50 * 60).unwrap();
        let mut direction = DirectionStatus::new("a".into(), history, None, None, 0, now);
        assert_eq!(direction.next_expected(), Some(Timestamp::from_second(START + 3600).unwrap()));
        direction.history.insert(0, run(60, Status::Running));
        assert_eq!(direction.next_expected(), None);
    }
}
