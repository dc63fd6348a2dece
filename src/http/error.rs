//! The one table from what went wrong to status, problem and "may the write have happened?"
//! (docs/API.md, "Errors"; RFC 9457). A status that is not in this table is never sent as an error.

use std::borrow::Cow;

use hyper::{
    StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER},
};
use serde::Serialize;

use super::{
    limits::RETRY_AFTER_SECONDS,
    response::{self, Response},
};
use crate::{
    command::{Missing, Version},
    error::{Error, Outcome},
};

/// What kind of problem a client meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Invalid,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Refused,
    LengthRequired,
    PreconditionFailed,
    TooLarge,
    UriTooLong,
    UnsupportedMedia,
    RetryMismatch,
    FailedDependency,
    Busy,
    HeadersTooLarge,
    NotImplemented,
    Unavailable,
    Unknown,
}

/// A row of the table.
pub(crate) struct Row {
    pub(crate) status: StatusCode,
    /// The last part of the problem's `type`, for programs.
    pub(crate) slug: &'static str,
    /// For people; the same for every problem of this kind.
    pub(crate) title: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) retry_after: bool,
}

impl Kind {
    /// Every kind, in the order of the statuses.
    pub(crate) const ALL: [Kind; 17] = [
        Kind::Invalid,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::RequestTimeout,
        Kind::Refused,
        Kind::LengthRequired,
        Kind::PreconditionFailed,
        Kind::TooLarge,
        Kind::UriTooLong,
        Kind::UnsupportedMedia,
        Kind::RetryMismatch,
        Kind::FailedDependency,
        Kind::Busy,
        Kind::HeadersTooLarge,
        Kind::NotImplemented,
        Kind::Unavailable,
        Kind::Unknown,
    ];

    /// The kind's row.
    pub(crate) const fn row(self) -> Row {
        const fn none(status: StatusCode, slug: &'static str, title: &'static str) -> Row {
            Row { status, slug, title, outcome: Outcome::None, retry_after: false }
        }
        const fn later(status: StatusCode, slug: &'static str, title: &'static str) -> Row {
            Row { status, slug, title, outcome: Outcome::None, retry_after: true }
        }
        match self {
            Kind::Invalid => none(StatusCode::BAD_REQUEST, "invalid", "The request is not well-formed"),
            Kind::NotFound => none(StatusCode::NOT_FOUND, "not-found", "Not found"),
            Kind::MethodNotAllowed => {
                none(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed here")
            }
            Kind::RequestTimeout => {
                none(StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request came too slowly")
            }
            Kind::Refused => none(StatusCode::CONFLICT, "refused", "Refused in the present state"),
            Kind::LengthRequired => {
                none(StatusCode::LENGTH_REQUIRED, "length-required", "A body with its length is required")
            }
            Kind::PreconditionFailed => {
                none(StatusCode::PRECONDITION_FAILED, "precondition-failed", "The condition does not hold")
            }
            Kind::TooLarge => none(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large"),
            Kind::UriTooLong => none(StatusCode::URI_TOO_LONG, "uri-too-long", "The URL is too long"),
            Kind::UnsupportedMedia => none(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media",
                "The body's coding is not understood",
            ),
            Kind::RetryMismatch => none(
                StatusCode::UNPROCESSABLE_ENTITY,
                "retry-mismatch",
                "The Idempotency-Key was used with another request",
            ),
            Kind::FailedDependency => none(
                StatusCode::FAILED_DEPENDENCY,
                "failed-dependency",
                "Another operation on the same row failed",
            ),
            Kind::Busy => later(StatusCode::TOO_MANY_REQUESTS, "busy", "Too much work in flight"),
            Kind::HeadersTooLarge => none(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers-too-large",
                "The headers are too large",
            ),
            Kind::NotImplemented => {
                none(StatusCode::NOT_IMPLEMENTED, "not-implemented", "This is not offered")
            }
            Kind::Unavailable => {
                later(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Nobody can serve this now")
            }
            Kind::Unknown => Row {
                status: StatusCode::GATEWAY_TIMEOUT,
                slug: "unknown",
                title: "No answer came in time; it may have been applied",
                outcome: Outcome::Unknown,
                retry_after: false,
            },
        }
    }
}

/// An answer other than success, for a person to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    /// A sentence that says what to do, where there is something.
    pub(crate) detail: Cow<'static, str>,
    /// What is not there, for a 404 of data.
    pub(crate) missing: Option<Missing>,
    /// The current version, for a 412.
    pub(crate) current: Option<Version>,
    /// The methods that are allowed, for a 405.
    pub(crate) allow: Option<String>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), missing: None, current: None, allow: None }
    }

    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, detail)
    }

    /// Something of the data is not there.
    pub(crate) fn missing(missing: Missing) -> Self {
        let detail = match missing {
            Missing::Table => "the table does not exist",
            Missing::Row => "the row does not exist in this table",
            Missing::Column => "the row has no such column",
        };
        Self { missing: Some(missing), ..Self::new(Kind::NotFound, detail) }
    }

    /// A condition did not hold of a cell that is at `current`, or absent.
    pub(crate) fn precondition_failed(current: Option<Version>) -> Self {
        let detail = match current {
            Some(version) => Cow::Owned(format!("the cell is at version {version}")),
            None => Cow::Borrowed("the cell does not exist"),
        };
        Self { current, ..Self::new(Kind::PreconditionFailed, detail) }
    }

    /// A layer below answered something that is no answer to what was asked.
    pub(crate) fn unexpected_answer() -> Self {
        Self::new(
            Kind::Unavailable,
            "the shard's answer was not understood; do all nodes run the same version?",
        )
    }

    /// The problem as JSON shows it.
    pub(crate) fn to_json(&self) -> ProblemJson<'_> {
        let row = self.kind.row();
        ProblemJson {
            kind: format!("urn:quoring:problem:{}", row.slug),
            title: row.title,
            status: row.status.as_u16(),
            detail: &self.detail,
            outcome: row.outcome,
            missing: self.missing,
        }
    }

    /// The whole answer.
    pub(crate) fn into_response(self) -> Response {
        let row = self.kind.row();
        // A few short texts and numbers: writing them cannot fail, and an empty body would still
        // carry the right status.
        let body = serde_json::to_vec(&self.to_json()).unwrap_or_default();
        let mut answer = response::with_body(row.status, body);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if row.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if let Some(version) = self.current {
            headers.insert(ETAG, response::etag(version));
        }
        if let Some(allow) = self.allow.and_then(|methods| HeaderValue::try_from(methods).ok()) {
            headers.insert(ALLOW, allow);
        }
        answer
    }
}

/// The members of `application/problem+json`.
#[derive(Debug, Serialize)]
pub(crate) struct ProblemJson<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Missing>,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NotLeader { .. } | Error::NotHere { .. } | Error::Unavailable(_) => Kind::Unavailable,
            Error::Busy(_) => Kind::Busy,
            Error::Unknown(_) => Kind::Unknown,
            Error::Invalid(_) => Kind::Invalid,
            Error::Refused(_) => Kind::Refused,
            Error::NotFound(_) => Kind::NotFound,
        };
        Problem::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::ids::Epoch;

    /// The contract, row by row: status, whether not applied, whether `Retry-After`.
    const CONTRACT: [(Kind, u16, Outcome, bool); 17] = [
        (Kind::Invalid, 400, Outcome::None, false),
        (Kind::NotFound, 404, Outcome::None, false),
        (Kind::MethodNotAllowed, 405, Outcome::None, false),
        (Kind::RequestTimeout, 408, Outcome::None, false),
        (Kind::Refused, 409, Outcome::None, false),
        (Kind::LengthRequired, 411, Outcome::None, false),
        (Kind::PreconditionFailed, 412, Outcome::None, false),
        (Kind::TooLarge, 413, Outcome::None, false),
        (Kind::UriTooLong, 414, Outcome::None, false),
        (Kind::UnsupportedMedia, 415, Outcome::None, false),
        (Kind::RetryMismatch, 422, Outcome::None, false),
        (Kind::FailedDependency, 424, Outcome::None, false),
        (Kind::Busy, 429, Outcome::None, true),
        (Kind::HeadersTooLarge, 431, Outcome::None, false),
        (Kind::NotImplemented, 501, Outcome::None, false),
        (Kind::Unavailable, 503, Outcome::None, true),
        (Kind::Unknown, 504, Outcome::Unknown, false),
    ];

    async fn body_of(answer: Response) -> serde_json::Value {
        serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn every_kind_is_answered_as_the_contract_says() {
        assert_eq!(Kind::ALL.to_vec(), CONTRACT.map(|(kind, ..)| kind).to_vec());
        let mut slugs = BTreeSet::new();
        for (kind, status, outcome, retry_after) in CONTRACT {
            assert!(slugs.insert(kind.row().slug));
            let answer = Problem::new(kind, "detail").into_response();
            assert_eq!(answer.status().as_u16(), status, "{kind:?}");
            assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(answer.headers().contains_key(RETRY_AFTER), retry_after, "{kind:?}");
            let body = body_of(answer).await;
            assert_eq!(body["status"], status);
            assert_eq!(body["detail"], "detail");
            assert_eq!(body["outcome"], serde_json::to_value(outcome).unwrap());
            assert!(body["title"].is_string() && body["type"].is_string());
            assert!(body.get("missing").is_none());
        }
    }

    #[test]
    fn every_error_has_its_status_and_keeps_its_outcome() {
        let text = || "why".to_owned();
        for (error, status) in [
            (Error::NotLeader { leader: None }, 503),
            (Error::NotHere { epoch: Epoch(3) }, 503),
            (Error::Unavailable(text()), 503),
            (Error::Busy(text()), 429),
            (Error::Unknown(text()), 504),
            (Error::Invalid(text()), 400),
            (Error::Refused(text()), 409),
            (Error::NotFound(text()), 404),
        ] {
            let (outcome, sentence) = (error.outcome(), error.to_string());
            let problem = Problem::from(error);
            let row = problem.kind.row();
            assert_eq!((row.status.as_u16(), row.outcome), (status, outcome), "{sentence}");
            assert_eq!(problem.detail, sentence);
        }
    }

    #[tokio::test]
    async fn what_is_missing_and_what_is_there_is_told() {
        for (missing, word) in [(Missing::Table, "table"), (Missing::Row, "row"), (Missing::Column, "column")]
        {
            assert_eq!(body_of(Problem::missing(missing).into_response()).await["missing"], word);
        }
        let there = Problem::precondition_failed(Some(17)).into_response();
        assert_eq!(there.headers()[ETAG], "\"17\"");
        assert!(!Problem::precondition_failed(None).into_response().headers().contains_key(ETAG));
    }
}
