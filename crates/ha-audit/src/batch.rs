//! Operation lines on their way into the database.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use ha_sync_core::record::{Counts, Iteration, OperationKind, OperationStatus, Outcome, Status, Way};
use sqlx::error::BoxDynError;

use crate::line::{Kind, OperationLine, Text};
use crate::reader::{LogError, LogReader};
use crate::time;

const COLUMNS: usize = 15;

/// Takes the values of a statement in the form of one database's driver.
pub(crate) trait Arguments: Default {
    fn number(&mut self, number: Option<i64>) -> Result<(), BoxDynError>;
    fn text(&mut self, text: Option<&str>) -> Result<(), BoxDynError>;
    /// Takes a text that repeats from row to row.
    fn word(&mut self, word: &Arc<str>) -> Result<(), BoxDynError>;
}

/// Is how much one statement takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    /// A batch with longer texts than this is not filled further: paths may be hundreds of kilobytes long.
    pub(crate) text_bytes: usize,
}

/// Writes the statement that takes `rows` rows and, by its end, leaves those that are there as they are.
pub(crate) fn insert_statement(rows: usize, end: &str) -> Arc<str> {
    let mut statement = String::from(
        "INSERT INTO sync_operations (iteration_id, seq, dry_run, operation, filepath, size_before, size_after, \
         md5_before, md5_after, started_at, ended_at, status, error_message, reason, direction) VALUES ",
    );
    for row in 0..rows {
        statement.push_str(if row == 0 { "(" } else { ",(" });
        statement.push_str(&"?,".repeat(COLUMNS)[..2 * COLUMNS - 1]);
        statement.push(')');
    }
    statement.push_str(end);
    statement.into()
}

/// Returns a count or size for a signed column; none that exists is cut.
pub(crate) fn column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Drives `future` to its first wait, does `work`, then awaits the rest: the next batch is read while the database takes
/// one.
pub(crate) async fn overlap<F: Future, T>(future: F, work: impl FnOnce() -> T) -> (F::Output, T) {
    let mut future = pin!(future);
    let first = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    let worked = work();
    match first {
        Poll::Ready(output) => (output, worked),
        Poll::Pending => (future.await, worked),
    }
}

/// Is the arguments of one statement: at least one row.
#[derive(Debug)]
pub(crate) struct Batch<A> {
    pub(crate) arguments: A,
    pub(crate) rows: usize,
}

/// Cuts the operations of a log into batches.
pub(crate) struct Batches<'a> {
    reader: &'a mut LogReader,
    tally: &'a mut Tally,
    words: Words,
    iteration_id: i64,
    stopped: &'a dyn Fn() -> bool,
    end: Option<Result<(), LogError>>,
}

impl<'a> Batches<'a> {
    /// There are no more as soon as `stopped`.
    pub(crate) fn new(
        reader: &'a mut LogReader,
        tally: &'a mut Tally,
        iteration_id: i64,
        stopped: &'a dyn Fn() -> bool,
    ) -> Self {
        Self { reader, tally, words: Words::new(), iteration_id, stopped, end: None }
    }

    /// Reads the next operations; nothing at the end of the log, or of the part that can be understood.
    pub(crate) fn next<A: Arguments>(&mut self, limits: Limits) -> Option<Batch<A>> {
        let dry_run = self.reader.header().dry_run;
        let mut batch = Batch { arguments: A::default(), rows: 0 };
        let mut text_bytes = 0;
        if self.end.is_none() && (self.stopped)() {
            self.end = Some(Err(LogError::Stopped { path: self.reader.path().to_owned() }));
        }
        while self.end.is_none() && batch.rows < limits.rows && text_bytes < limits.text_bytes {
            let more = self.reader.next_with(|kind, line| {
                match kind {
                    Kind::Operation => {
                        let operation: OperationLine<'_> = serde_json::from_slice(line)?;
                        self.tally.add(&operation);
                        push(&mut batch.arguments, &operation, &mut self.words, self.iteration_id, dry_run)
                            .map_err(serde::ser::Error::custom)?;
                        batch.rows += 1;
                        text_bytes += line.len();
                    }
                    Kind::End => self.tally.outcome = Some(serde_json::from_slice(line)?),
                    Kind::Iteration | Kind::Intent => {}
                }
                Ok(())
            });
            self.end = match more {
                Ok(true) => None,
                Ok(false) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
        }
        (batch.rows > 0).then_some(batch)
    }

    /// Tells why there are no more.
    pub(crate) fn end(self) -> Result<(), LogError> {
        self.end.unwrap_or(Ok(()))
    }
}

fn push(
    row: &mut impl Arguments,
    operation: &OperationLine<'_>,
    words: &mut Words,
    iteration_id: i64,
    dry_run: bool,
) -> Result<(), BoxDynError> {
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
    fn plain<'a>(text: &'a Option<Text<'_>>) -> Option<&'a str> {
        text.as_ref().map(|Text(text)| &**text)
    }
    row.number(Some(iteration_id))?;
    row.number(Some(column(*seq)))?;
    row.number(Some(i64::from(dry_run)))?;
    row.word(words.operation(*operation))?;
    row.text(Some(filepath))?;
    row.number(size_before.map(column))?;
    row.number(size_after.map(column))?;
    row.text(plain(md5_before))?;
    row.text(plain(md5_after))?;
    row.word(words.time(started_at.as_str()))?;
    match ended_at {
        Some(ended_at) => row.word(words.time(ended_at.as_str()))?,
        None => row.text(None)?,
    }
    row.word(words.status(*status))?;
    row.text(plain(error_message))?;
    row.text(plain(reason))?;
    match direction {
        Some(direction) => row.word(words.direction(*direction)),
        None => row.text(None),
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

    fn operation(&self, kind: OperationKind) -> &Arc<str> {
        let [create, update, delete] = &self.operations;
        match kind {
            OperationKind::Create => create,
            OperationKind::Update => update,
            OperationKind::Delete => delete,
        }
    }

    fn status(&self, status: OperationStatus) -> &Arc<str> {
        let [success, fail] = &self.statuses;
        match status {
            OperationStatus::Success => success,
            OperationStatus::Fail => fail,
        }
    }

    fn direction(&self, direction: Way) -> &Arc<str> {
        let [a_to_b, b_to_a] = &self.directions;
        match direction {
            Way::AToB => a_to_b,
            Way::BToA => b_to_a,
        }
    }

    /// Many small files end in the same millisecond.
    fn time(&mut self, time: &str) -> &Arc<str> {
        if *self.last_time != *time {
            self.last_time = time.into();
        }
        &self.last_time
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

    /// Returns how a run ends whose log the database refuses for this reason, with the rows of it that it has.
    pub(crate) fn refused(self, iteration: &Iteration, stored: Counts, why: &dyn std::fmt::Display) -> Outcome {
        Outcome {
            ended_at: time::from_sql(&self.last_time).unwrap_or(iteration.started_at),
            status: Status::Failed,
            counts: Counts { total_bytes_transferred: self.counts.total_bytes_transferred, ..stored },
            error_message: Some(format!("the database refuses its operation log: {why}")),
        }
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
