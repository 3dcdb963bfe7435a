//! The operations of a run as a file, a part at a time: memory does not follow their number, and no connection is
//! held while a slow reader takes its time.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use ha_audit::query::{OperationFilter, OperationRow};

use crate::api::{operation_json, status_word};
use crate::board::{self, Board};
use crate::format::rfc3339;
use crate::pages::{no_run, run, run_key};
use crate::parameters::{MOST_ROWS, Parameters, Segment};
use crate::refusal::Refusal;

#[derive(Clone, Copy)]
enum Form {
    Csv,
    JsonLines,
}

/// Answers `/runs/{id}/operations.csv`.
pub(crate) async fn csv(state: State<Arc<Board>>, path: Segment, query: RawQuery) -> Result<Response, Refusal> {
    serve(state, path, query, Form::Csv).await
}

/// Answers `/runs/{id}/operations.jsonl`.
pub(crate) async fn jsonl(state: State<Arc<Board>>, path: Segment, query: RawQuery) -> Result<Response, Refusal> {
    serve(state, path, query, Form::JsonLines).await
}

async fn serve(
    State(board): State<Arc<Board>>,
    Segment(name): Segment,
    RawQuery(query): RawQuery,
    form: Form,
) -> Result<Response, Refusal> {
    let key = run_key(&name)?;
    let mut parameters = Parameters::parse(query.as_deref())?;
    let mut filter = run::filter(&mut parameters)?;
    parameters.finish()?;
    let run = board.places.session().await?.iteration(&key).await?.ok_or_else(|| no_run(&name))?;
    filter.iteration_id = run.id;
    filter.limit = MOST_ROWS;
    // `run_key` has let through nothing but an id, which is safe in a header
    let (kind, suffix) = match form {
        Form::Csv => ("text/csv; charset=utf-8; header=present", "csv"),
        Form::JsonLines => ("application/jsonl", "jsonl"),
    };
    let disposition = format!("attachment; filename=\"ha-sync-{name}-operations.{suffix}\"");
    let disposition = HeaderValue::from_str(&disposition).map_err(|error| Refusal::Internal(error.to_string()))?;
    let first = match form {
        Form::Csv => CSV_HEADER.to_owned(),
        Form::JsonLines => String::new(),
    };
    let parts = stream::unfold(Some((board, filter, first)), move |state| async move {
        let (board, mut filter, mut text) = state?;
        match part(&board, &mut filter, form, &mut text).await {
            Ok(more) => Some((Ok(text), more.then(|| (board, filter, String::new())))),
            // the connection is cut: a part must not look like the whole
            Err(why) => Some((Err(std::io::Error::other(why)), None)),
        }
    });
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(parts)).into_response())
}

async fn part(board: &Board, filter: &mut OperationFilter, form: Form, text: &mut String) -> Result<bool, String> {
    let page = async { board.places.session().await?.operations(filter).await }.await;
    let page = page.map_err(|error| board::chain(&error))?;
    for row in &page.rows {
        match form {
            Form::Csv => csv_row(text, row),
            Form::JsonLines => {
                text.push_str(&operation_json(row).to_string());
                text.push('\n');
            }
        }
    }
    if let Some(next) = page.next {
        filter.after = next;
    }
    Ok(page.next.is_some())
}

const CSV_HEADER: &str = "seq,operation,filepath,size_before,size_after,md5_before,md5_after,started_at,ended_at,\
    status,error_message,reason,direction\r\n";

/// Writes a line of RFC 4180.
fn csv_row(text: &mut String, row: &OperationRow) {
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    let words = |words: &Option<String>| words.clone().unwrap_or_default();
    let cells = [
        number(row.seq),
        row.operation.as_str().to_owned(),
        row.filepath.clone(),
        number(row.size_before),
        number(row.size_after),
        words(&row.md5_before),
        words(&row.md5_after),
        rfc3339(row.started_at),
        row.ended_at.map(rfc3339).unwrap_or_default(),
        status_word(row.status).to_owned(),
        words(&row.error_message),
        words(&row.reason),
        row.way.map_or_else(String::new, |way| way.as_str().to_owned()),
    ];
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        csv_cell(text, cell);
    }
    text.push_str("\r\n");
}

/// Writes a cell. A spreadsheet takes what begins with one of these characters for a formula; an apostrophe before it
/// makes it text (<https://owasp.org/www-community/attacks/CSV_Injection>). JSON lines have the name as it is.
fn csv_cell(text: &mut String, cell: &str) {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let quoted = formula || cell.contains([',', '"', '\n', '\r', ';', '\t', '\'']) || cell.trim() != cell;
    if !quoted {
        text.push_str(cell);
        return;
    }
    text.push('"');
    if formula {
        text.push('\'');
    }
    text.push_str(&cell.replace('"', "\"\""));
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_or_breaks_the_line() {
        for (cell, written) in [
            ("plain/cat.jpg", "plain/cat.jpg"),
            ("=1+1", "\"'=1+1\""),
            ("+cmd|' /C calc'!A0", "\"'+cmd|' /C calc'!A0\""),
            ("-2", "\"'-2\""),
            ("@SUM(1)", "\"'@SUM(1)\""),
            ("\t=1", "\"'\t=1\""),
            ("＝1", "\"'＝1\""),
            ("a,\"b\"\nc", "\"a,\"\"b\"\"\nc\""),
            (" =1", "\" =1\""),
            ("", ""),
        ] {
            let mut text = String::new();
            csv_cell(&mut text, cell);
            assert_eq!(text, written, "{cell:?}");
        }
    }
}
