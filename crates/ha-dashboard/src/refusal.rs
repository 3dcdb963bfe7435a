//! Why a request gets no answer: a status and a reason, as a page or as problem+json (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ha_audit::query::ReadError;
use serde_json::json;

use crate::board;

/// Is why a request gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A parameter is not understood.
    BadRequest(String),
    /// The user is not known.
    Unauthorized,
    /// There is no such thing.
    NotFound(String),
    /// Nothing here can be changed.
    MethodNotAllowed,
    /// The database is away, or too slow.
    Unavailable(String),
    /// This program is at fault.
    Internal(String),
}

impl Refusal {
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self::BadRequest(reason.into())
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::BadRequest(reason) | Self::NotFound(reason) | Self::Unavailable(reason) | Self::Internal(reason) => {
                reason
            }
            Self::Unauthorized => "this dashboard asks for a login",
            Self::MethodNotAllowed => "this dashboard only reads: GET and HEAD",
        }
    }

    /// Returns the answer for a program.
    pub(crate) fn problem(&self) -> Response {
        let status = self.status();
        let body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.reason(),
        });
        let kind = HeaderValue::from_static("application/problem+json");
        (status, [(header::CONTENT_TYPE, kind)], body.to_string()).into_response()
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Empty { .. } => Self::NotFound("nothing has run yet".to_owned()),
            error => Self::Unavailable(board::chain(&error)),
        }
    }
}

/// A refusal travels as an extension of an empty response: the server gives it the form that the path asks for.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
