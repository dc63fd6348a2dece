//! Why a call failed, and whether what it asked for may have happened all the same.

use std::{error::Error as StdError, fmt, time::Duration};

use http::{StatusCode, header};
use serde::Deserialize;

use super::{Response, Server, text, version};
use crate::{
    command::{Missing, Version},
    error::Outcome,
};

/// The most of a foreign answer's text shown in an error, characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    server: Server,
    kind: Kind,
    outcome: Outcome,
    detail: String,
    missing: Option<Missing>,
    current: Option<Version>,
    retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No connection; the request was never sent.
    NotSent,
    /// The request cannot be written down; it was never sent.
    Unsendable,
    /// The connection broke before the whole answer was there.
    Broken,
    /// The deadline passed.
    TimedOut,
    /// The server answered with this status.
    Answered(StatusCode),
    /// The server's answer is not what this client understands.
    Misunderstood,
}

/// The fields of an `application/problem+json` that mean something here (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    detail: Option<String>,
    title: Option<String>,
    outcome: Option<Outcome>,
    missing: Option<Missing>,
}

impl Error {
    fn new(server: &Server, kind: Kind, outcome: Outcome, detail: String) -> Self {
        let server = server.clone();
        Self(Box::new(Inner {
            server,
            kind,
            outcome,
            detail,
            missing: None,
            current: None,
            retry_after: None,
        }))
    }

    pub(super) fn not_sent(server: &Server, error: &(dyn StdError + 'static)) -> Self {
        let detail = format!("{server} cannot be reached: {}", chain(error));
        Self::new(server, Kind::NotSent, Outcome::None, detail)
    }

    pub(super) fn broken(server: &Server, error: &(dyn StdError + 'static), writes: bool) -> Self {
        let detail = format!("the connection to {server} broke before its answer: {}", chain(error));
        Self::new(server, Kind::Broken, if writes { Outcome::Unknown } else { Outcome::None }, detail)
    }

    pub(super) fn timed_out(server: &Server, after: Duration, writes: bool) -> Self {
        let detail = format!("{server} did not answer within {} ms", after.as_millis());
        Self::new(server, Kind::TimedOut, if writes { Outcome::Unknown } else { Outcome::None }, detail)
    }

    /// A success that makes no sense: a write did what it did.
    pub(super) fn misunderstood(server: &Server, detail: impl fmt::Display, outcome: Outcome) -> Self {
        let detail = format!("{server} answered what this client does not understand: {detail}");
        Self::new(server, Kind::Misunderstood, outcome, detail)
    }

    /// A value that no header can carry; nothing was sent.
    pub(super) fn unsendable(server: &Server, header: &str) -> Self {
        let detail = format!("{header} must be printable ASCII");
        Self::new(server, Kind::Unsendable, Outcome::None, detail)
    }

    pub(super) fn answered(server: &Server, response: &Response) -> Self {
        let status = response.status;
        // What a status means for a write is fixed (docs/API.md); any other is a stranger's.
        let by_status = match status.as_u16() {
            400..=499 | 501 | 503 => Outcome::None,
            _ => Outcome::Unknown,
        };
        let mut error = Self::new(server, Kind::Answered(status), by_status, String::new());
        match serde_json::from_slice::<Problem>(&response.body) {
            Ok(problem) => {
                error.0.detail = problem.detail.or(problem.title).unwrap_or_else(|| status.to_string());
                error.0.outcome = problem.outcome.unwrap_or(by_status);
                error.0.missing = problem.missing;
            }
            Err(_) => {
                let body = String::from_utf8_lossy(&response.body);
                let body: String = body.trim().chars().take(MAX_SHOWN_CHARS).collect();
                error.0.detail = format!("{server} answered {status}: {}", body.escape_debug());
            }
        }
        error.0.current = version(&response.headers);
        error.0.retry_after = text(response.headers.get(header::RETRY_AFTER))
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        error
    }

    pub(super) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Whether another server could do better: it is this server that failed, or a shard as this
    /// server sees it, and not the request.
    pub(super) fn may_ask_another(&self) -> bool {
        match self.0.kind {
            Kind::NotSent | Kind::Broken => true,
            Kind::TimedOut | Kind::Misunderstood | Kind::Unsendable => false,
            Kind::Answered(status) => {
                matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
            }
        }
    }

    /// Whether the request may have been applied. Reads are never applied.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// The status, where the server answered.
    pub fn status(&self) -> Option<StatusCode> {
        match self.0.kind {
            Kind::Answered(status) => Some(status),
            _ => None,
        }
    }

    /// Whether what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// Whether a condition of the request did not hold.
    pub fn is_precondition_failed(&self) -> bool {
        self.status() == Some(StatusCode::PRECONDITION_FAILED)
    }

    /// Which of table, row and column is missing, where the server said so.
    pub fn missing(&self) -> Option<Missing> {
        self.0.missing
    }

    /// The version that the cell has, where a condition on it failed; `None`: there is no cell.
    pub fn current(&self) -> Option<Version> {
        self.0.current
    }

    /// When to try again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The server that failed, or was asked last.
    pub fn server(&self) -> &Server {
        &self.0.server
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)?;
        match self.0.outcome {
            Outcome::None => Ok(()),
            Outcome::Unknown => f.write_str(" (not known whether it was applied)"),
        }
    }
}

impl StdError for Error {}

/// An error with its causes, on one line, without the causes that their effects already name.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !line.contains(&next) {
            line.push_str(": ");
            line.push_str(&next);
        }
        cause = error.source();
    }
    line
}
