//! Operation lines on their way into the database.

use std::sync::Arc;

use ha_sync_core::record::{Counts, Iteration, OperationKind, OperationStatus, Outcome, Status, Way};
use sqlx::Arguments;
use sqlx::sqlite::SqliteArguments;

use crate::line::{Kind, OperationLine, Text};
use crate::reader::{LogError, LogReader};
use crate::time;

/// Rows of one full INSERT statement.
pub(crate) const ROWS: usize = 128;
/// A batch with longer texts than this is not filled further: paths may be hundreds of kilobytes long.
const TEXT_BYTES: usize = 1024 * 1024;
const COLUMNS: usize = 15;

/// Writes the statement that takes `rows` rows and leaves those that are there as they are.
pub(crate) fn insert_statement(rows: usize) -> String {
    let mut statement = String::from(
        "INSERT INTO sync_operations (iteration_id, seq, dry_run, operation, filepath, size_before, size_after, \
         md5_before, md5_after, started_at, ended_at, status, error_message, reason, direction) VALUES ",
    );
    for row in 0..rows {
        statement.push_str(if row == 0 { "(" } else { ",(" });
        statement.push_str(&"?,".repeat(COLUMNS)[..2 * COLUMNS - 1]);
        statement.push(')');
    }
    statement.push_str(" ON CONFLICT (iteration_id, seq) DO NOTHING");
    statement
}

/// Returns a count or size for a signed column; none that exists is cut.
pub(crate) fn column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Is up to [`ROWS`] rows: the arguments of one statement.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    arguments: SqliteArguments,
    rows: usize,
    text_bytes: usize,
}

impl Batch {
    /// Reads the next operations of a log, and tells whether there may be more, or why not.
    pub(crate) fn read(
        reader: &mut LogReader,
        words: &mut Words,
        tally: &mut Tally,
        iteration_id: i64,
    ) -> (Self, Result<bool, LogError>) {
        let dry_run = reader.header().dry_run;
        let mut batch = Self::default();
        batch.arguments.reserve(ROWS * COLUMNS, 0);
        while batch.rows < ROWS && batch.text_bytes < TEXT_BYTES {
            let more = reader.next_with(|kind, line| {
                match kind {
                    Kind::Operation => {
                        let operation: OperationLine<'_> = serde_json::from_slice(line)?;
                        tally.add(&operation);
                        batch.push(&operation, words, iteration_id, dry_run).map_err(serde::ser::Error::custom)?;
                        batch.text_bytes += line.len();
                    }
                    Kind::End => tally.outcome = Some(serde_json::from_slice(line)?),
                    Kind::Iteration | Kind::Intent => {}
                }
                Ok(())
            });
            if !matches!(more, Ok(true)) {
                return (batch, more);
            }
        }
        (batch, Ok(true))
    }

    /// Tells how many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the arguments of the statement for [`Self::rows`] rows.
    pub(crate) fn into_arguments(self) -> SqliteArguments {
        self.arguments
    }

    fn push(
        &mut self,
        operation: &OperationLine<'_>,
        words: &mut Words,
        iteration_id: i64,
        dry_run: bool,
    ) -> Result<(), sqlx::error::BoxDynError> {
        let OperationLine {
            seq,
            operation,
            direction,
            filepath,
            size_before,
            size_after,
            bytes: _,
            md5_before,
            md5_after,
            started_at,
            ended_at,
            status,
            error_message,
            reason,
        } = operation;
        let text = |text: &Option<Text<'_>>| text.as_ref().map(|Text(text)| Arc::<str>::from(&**text));
        let row = &mut self.arguments;
        row.add(iteration_id)?;
        row.add(column(*seq))?;
        row.add(i64::from(dry_run))?;
        row.add(words.operation(*operation))?;
        row.add(Arc::<str>::from(&**filepath))?;
        row.add(size_before.map(column))?;
        row.add(size_after.map(column))?;
        row.add(text(md5_before))?;
        row.add(text(md5_after))?;
        row.add(words.time(started_at.as_str()))?;
        row.add(ended_at.as_ref().map(|ended_at| words.time(ended_at.as_str())))?;
        row.add(words.status(*status))?;
        row.add(text(error_message))?;
        row.add(text(reason))?;
        row.add(direction.map(|direction| words.direction(direction)))?;
        self.rows += 1;
        Ok(())
    }
}

/// Holds the texts that repeat from row to row, so that a row does not allocate for them.
#[derive(Debug)]
pub(crate) struct Words {
    operations: [Arc<str>; 3],
    statuses: [Arc<str>; 2],
    directions: [Arc<str>; 2],
    last_time: Arc<str>,
}

impl Words {
    pub(crate) fn new() -> Self {
        Self {
            operations: [OperationKind::Create, OperationKind::Update, OperationKind::Delete]
                .map(|kind| kind.as_str().into()),
            statuses: ["success", "fail"].map(Arc::from),
            directions: [Way::AToB, Way::BToA].map(|way| way.as_str().into()),
            last_time: "".into(),
        }
    }

    fn operation(&self, kind: OperationKind) -> Arc<str> {
        let [create, update, delete] = &self.operations;
        Arc::clone(match kind {
            OperationKind::Create => create,
            OperationKind::Update => update,
            OperationKind::Delete => delete,
        })
    }

    fn status(&self, status: OperationStatus) -> Arc<str> {
        let [success, fail] = &self.statuses;
        Arc::clone(match status {
            OperationStatus::Success => success,
            OperationStatus::Fail => fail,
        })
    }

    fn direction(&self, direction: Way) -> Arc<str> {
        let [a_to_b, b_to_a] = &self.directions;
        Arc::clone(match direction {
            Way::AToB => a_to_b,
            Way::BToA => b_to_a,
        })
    }

    /// Many small files end in the same millisecond.
    fn time(&mut self, time: &str) -> Arc<str> {
        if *self.last_time != *time {
            self.last_time = time.into();
        }
        Arc::clone(&self.last_time)
    }
}

/// Is what a log tells about its run as a whole.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Counts,
    operations: u64,
    last_time: String,
    outcome: Option<Outcome>,
}

impl Tally {
    /// Returns how many operations the log has.
    pub(crate) fn operations(&self) -> u64 {
        self.operations
    }

    pub(crate) fn add(&mut self, operation: &OperationLine<'_>) {
        self.operations += 1;
        self.last_time.clear();
        self.last_time.push_str(operation.ended_at.as_ref().unwrap_or(&operation.started_at).as_str());
        let counts = &mut self.counts;
        if operation.status == OperationStatus::Fail {
            counts.files_failed += 1;
            return;
        }
        match operation.operation {
            OperationKind::Create => counts.files_created += 1,
            OperationKind::Update => counts.files_updated += 1,
            OperationKind::Delete => counts.files_deleted += 1,
        }
        // a broken log may say anything
        counts.total_bytes_transferred = counts.total_bytes_transferred.saturating_add(operation.bytes);
    }

    /// Returns how the run ended: as its trailer says, else counted from its operations.
    pub(crate) fn end(self, iteration: &Iteration, broken: Option<&LogError>) -> Outcome {
        match (self.outcome, broken) {
            (Some(outcome), None) => outcome,
            (_, broken) => Outcome {
                ended_at: time::from_sql(&self.last_time).unwrap_or(iteration.started_at),
                status: Status::Failed,
                counts: self.counts,
                error_message: Some(match broken {
                    Some(LogError::Broken { line, .. }) => {
                        format!("interrupted: operation log is broken at line {line}")
                    }
                    _ => "interrupted".to_owned(),
                }),
            },
        }
    }
}
