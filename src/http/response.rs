//! Answers: their body type and the few shapes they come in.

use std::{
    convert::Infallible,
    fmt::Write as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::Stream;
use hyper::{
    StatusCode,
    body::{Frame, SizeHint},
    header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    error::{Kind, Problem},
    wire::Signals,
};
use crate::{
    command::{At, Version},
    router::calls::age_ms,
};

/// An answer.
pub(crate) type Response = hyper::Response<Body>;

/// The header that bounds how old a stale answer may be.
const STALENESS: HeaderName = HeaderName::from_static("quoring-staleness-ms");

/// The body of an answer: whole, or made as the client reads it.
pub(crate) struct Body {
    content: Content,
}

enum Content {
    Whole(Bytes),
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// A body that is made piece by piece. It cannot fail: what goes wrong is told in its text.
    pub(crate) fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self { content: Content::Stream(Box::pin(pieces)) }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { content: Content::Whole(bytes) }
    }
}

/// A body on its way out, which tells the connection once it is through.
pub(crate) struct Tracked {
    body: axum::body::Body,
    signals: Option<Arc<Signals>>,
}

impl Tracked {
    /// Tells `signals` when it is dropped, which is when hyper has taken all of it.
    pub(crate) fn new(body: axum::body::Body, signals: Arc<Signals>) -> Self {
        Self { body, signals: Some(signals) }
    }

    /// For an answer behind which the connection leaves HTTP.
    pub(crate) fn untracked(body: axum::body::Body) -> Self {
        Self { body, signals: None }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(signals) = &self.signals {
            signals.answer_written();
        }
    }
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(pieces) => {
                pieces.as_mut().poll_next(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer with nothing but status and body.
pub(crate) fn with_body(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut answer = Response::new(Body::from(body.into()));
    *answer.status_mut() = status;
    answer
}

/// An answer of some type that no cache may keep.
pub(crate) fn typed(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut answer = with_body(StatusCode::OK, body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Plain text.
pub(crate) fn text(body: impl Into<Bytes>) -> Response {
    typed("text/plain; charset=utf-8", body)
}

/// The `OK` of a write that left its cell at `version`.
pub(crate) fn written(version: Version) -> Response {
    let mut answer = text(Bytes::from_static(b"OK"));
    answer.headers_mut().insert(ETAG, etag(version));
    answer
}

/// JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<Response, Problem> {
    Ok(typed("application/json", to_json(value)?))
}

/// The bytes of `value` as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| {
        Problem::new(Kind::Unavailable, format!("the answer could not be written as JSON: {error}"))
    })
}

/// The answer with how old it may be, where it is stale and that is known.
pub(crate) fn aged(mut answer: Response, as_of: Option<Instant>) -> Response {
    if let Some(as_of) = as_of {
        answer.headers_mut().insert(STALENESS, HeaderValue::from(age_ms(as_of)));
    }
    answer
}

/// A version as an entity tag.
pub(crate) fn etag(version: Version) -> HeaderValue {
    let mut tag = String::with_capacity(22);
    // Writing to a String cannot fail.
    let _ = write!(tag, "\"{version}\"");
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// A time as `Last-Modified` shows it (RFC 9110, section 5.6.7); `None` beyond the year 9999.
pub(crate) fn http_date(at: At) -> Option<HeaderValue> {
    /// 9999-12-31T23:59:59Z, the last second that the format has four digits for.
    const LAST_SECOND: u64 = 253_402_300_799;
    let seconds = at.0 / 1_000;
    if seconds > LAST_SECOND {
        return None;
    }
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    HeaderValue::try_from(date).ok()
}

/// A time as JSON shows it (RFC 3339, UTC, milliseconds). Beyond the year 9999, which a clock far
/// off may tell, it is the last one that the format has.
pub(crate) fn rfc3339(at: At) -> String {
    const LAST_MS: u64 = 253_402_300_799_999;
    let time = UNIX_EPOCH + Duration::from_millis(at.0.min(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_standard_forms() {
        let at = At(784_111_777_250);
        assert_eq!(http_date(at).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(rfc3339(at), "1994-11-06T08:49:37.250Z");
    }

    #[test]
    fn times_out_of_all_bounds_do_no_harm() {
        assert_eq!(http_date(At(u64::MAX)), None);
        assert_eq!(rfc3339(At(u64::MAX)), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(At(0)), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn versions_are_tags() {
        assert_eq!(etag(17), "\"17\"");
        assert_eq!(etag(u64::MAX), "\"18446744073709551615\"");
    }
}
