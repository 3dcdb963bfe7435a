//! The query of a URL. What is not understood is refused with the reason: a filter with a typing error would
//! otherwise show everything.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use ha_sync_core::record::{OperationKind, OperationStatus, Status};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::refusal::Refusal;

/// Longer texts are no path.
const LONGEST: usize = 4096;
/// The most rows of one answer.
pub(crate) const MOST_ROWS: u32 = 500;

/// Is what the path of an address names. What is no text is refused in the form that the address asks for.
pub(crate) struct Segment<T = String>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segment<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let taken = Path::from_request_parts(parts, state).await;
        taken.map(|Path(name)| Self(name)).map_err(|_| Refusal::bad("the path of the address is not UTF-8"))
    }
}

/// Is the parameters of a request that were not taken yet.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Takes a query apart; each name may come once. One without a value is as if it were not there: forms send those.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if all.iter().any(|(other, _)| *other == name) {
                return Err(Refusal::bad(format!("parameter {name:?} is given twice")));
            }
            if value.len() > LONGEST {
                return Err(Refusal::bad(format!("parameter {name:?} is longer than {LONGEST} bytes")));
            }
            if value.contains('\0') {
                return Err(Refusal::bad(format!("parameter {name:?} has a zero byte")));
            }
            all.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(all))
    }

    /// Takes a text.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.swap_remove(place).1).filter(|value| !value.is_empty())
    }

    /// Takes a number of rows.
    pub(crate) fn limit(&mut self, default: u32) -> Result<u32, Refusal> {
        match self.text("limit") {
            None => Ok(default),
            Some(text) => match number::<u32>(&text) {
                Some(limit @ 1..=MOST_ROWS) => Ok(limit),
                _ => Err(invalid("limit", &text, &format!("a number from 1 to {MOST_ROWS}"))),
            },
        }
    }

    /// Takes a row's key or another number that is not negative.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<i64>, Refusal> {
        let number = |text: String| number::<i64>(&text).ok_or_else(|| invalid(name, &text, "a number"));
        self.text(name).map(number).transpose()
    }

    /// Takes one of a few words.
    fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                Err(invalid(name, &text, &format!("one of {}", words.join(", "))))
            }
        }
    }

    /// Takes how an operation ended.
    pub(crate) fn operation_status(&mut self) -> Result<Option<OperationStatus>, Refusal> {
        self.word("status", &[("success", OperationStatus::Success), ("fail", OperationStatus::Fail)])
    }

    /// Takes what an operation does.
    pub(crate) fn operation(&mut self) -> Result<Option<OperationKind>, Refusal> {
        let kinds = [OperationKind::Create, OperationKind::Update, OperationKind::Delete];
        self.word("operation", &kinds.map(|kind| (kind.as_str(), kind)))
    }

    /// Takes how a run stands.
    pub(crate) fn status(&mut self) -> Result<Option<Status>, Refusal> {
        let all = [Status::Running, Status::Success, Status::PartialFailure, Status::Failed];
        self.word("status", &all.map(|status| (status.as_str(), status)))
    }

    /// Takes whether dry runs are wanted: only others when it is not said.
    pub(crate) fn dry_run(&mut self) -> Result<Option<bool>, Refusal> {
        let words = [("false", Some(false)), ("true", Some(true)), ("any", None)];
        Ok(self.word("dry_run", &words)?.unwrap_or(Some(false)))
    }

    /// Takes where a list of runs goes on: a start in milliseconds, a dot and a row's key, as [`cursor`] writes them.
    pub(crate) fn run_cursor(&mut self) -> Result<Option<(Timestamp, i64)>, Refusal> {
        let Some(text) = self.text("cursor") else { return Ok(None) };
        let parsed = text.split_once('.').and_then(|(start, id)| {
            let start = Timestamp::from_millisecond(start.parse().ok()?).ok()?;
            Some((start, number(id)?))
        });
        parsed.map(Some).ok_or_else(|| invalid("cursor", &text, "next_cursor of an earlier answer"))
    }

    /// Refuses what was not taken.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::bad(format!("parameter {name:?} is not known here"))),
        }
    }
}

/// Writes where a list of runs goes on.
pub(crate) fn cursor(run: &ha_audit::store::IterationRow) -> String {
    format!("{}.{}", run.started_at.as_millisecond(), run.id)
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    // `parse` alone would take a plus sign
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn invalid(name: &str, value: &str, expected: &str) -> Refusal {
    let mut shown: String = value.chars().take(80).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    Refusal::bad(format!("parameter {name:?} is {shown:?}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(query: &str, take: impl FnOnce(&mut Parameters) -> Result<T, Refusal>) -> String {
        let taken = Parameters::parse(Some(query)).and_then(|mut parameters| {
            take(&mut parameters)?;
            parameters.finish()
        });
        match taken.unwrap_err() {
            Refusal::BadRequest(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(refused("limit=x", |p| p.limit(20)), r#"parameter "limit" is "x": expected a number from 1 to 500"#);
        assert_eq!(refused("limit=0", |p| p.limit(20)), r#"parameter "limit" is "0": expected a number from 1 to 500"#);
        assert_eq!(refused("a=1&a=2", |_| Ok(())), r#"parameter "a" is given twice"#);
        assert_eq!(refused("a=1", |_| Ok(())), r#"parameter "a" is not known here"#);
        assert_eq!(
            refused("iteration_id=-1", |p| p.number("iteration_id")),
            r#"parameter "iteration_id" is "-1": expected a number"#
        );
        assert_eq!(
            refused("status=ok", Parameters::operation_status),
            r#"parameter "status" is "ok": expected one of success, fail"#
        );
        assert_eq!(refused("q=%00", |_| Ok(())), r#"parameter "q" has a zero byte"#);
        assert!(refused("cursor=1", Parameters::run_cursor).contains("expected next_cursor"));
        assert!(refused("cursor=99999999999999999999.1", Parameters::run_cursor).contains("expected next_cursor"));
    }

    #[test]
    fn empty_values_are_none() {
        let mut parameters = Parameters::parse(Some("limit=&status=&path=a%20b+c&dry_run=any")).unwrap();
        assert_eq!(parameters.limit(7).unwrap(), 7);
        assert_eq!(parameters.status().unwrap(), None);
        assert_eq!(parameters.text("path").as_deref(), Some("a b c"));
        assert_eq!(parameters.dry_run().unwrap(), None);
        parameters.finish().unwrap();
        assert_eq!(Parameters::parse(None).unwrap().dry_run().unwrap(), Some(false));
    }
}
