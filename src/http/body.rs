//! Bodies of requests: read whole, within bounds of size, time and memory. Nothing of a body that
//! is too large, too slow or cut short is ever used.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap,
    body::Body,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, TRANSFER_ENCODING},
};
use metrics::Gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    error::{Kind, Problem},
    limits::{BODY_TIMEOUT, MAX_BODY_MEMORY_BYTES, SMALL_BODY_BYTES},
};
use crate::units::format_size_bytes;

/// The memory that the bodies of a node's requests share.
#[derive(Clone)]
pub(crate) struct BodyMemory {
    bytes: Arc<Semaphore>,
    gauge: Gauge,
}

impl BodyMemory {
    pub(crate) fn new(gauge: Gauge) -> Self {
        Self { bytes: Arc::new(Semaphore::new(MAX_BODY_MEMORY_BYTES)), gauge }
    }

    fn reserve(&self, bytes: usize) -> Result<Reserved, Problem> {
        let count = u32::try_from(bytes).ok();
        let permit = count.and_then(|count| Arc::clone(&self.bytes).try_acquire_many_owned(count).ok());
        let Some(permit) = permit else {
            return Err(Problem::new(
                Kind::Busy,
                format!(
                    "{} of request bodies are in memory, no more are taken",
                    format_size_bytes(MAX_BODY_MEMORY_BYTES as u64)
                ),
            ));
        };
        self.gauge.increment(bytes as f64);
        Ok(Reserved { permit, gauge: self.gauge.clone() })
    }
}

/// Memory held for a body, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    permit: OwnedSemaphorePermit,
    gauge: Gauge,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.gauge.decrement(self.permit.num_permits() as f64);
    }
}

/// A body and the memory held for it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    /// `None` for a small body, which is not counted.
    pub(crate) memory: Option<Reserved>,
}

/// What the head tells about the body, judged before any of it is read: so a client that waits for
/// `100 Continue` sends nothing in vain.
pub(crate) fn check_head(headers: &HeaderMap, limit_bytes: u64) -> Result<(), Problem> {
    if let Some(coding) = headers.get(CONTENT_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Problem::new(
            Kind::UnsupportedMedia,
            "a Content-Encoding is not kept beside the value: send the body without one",
        ));
    }
    if headers.contains_key(CONTENT_RANGE) {
        return Err(Problem::invalid(
            "part of a value cannot be written: send it whole, without Content-Range",
        ));
    }
    // hyper refuses what does not end in `chunked`, and undoes that one alone (RFC 9112, section 6.1):
    // what another coding had made of the value would be kept as the value.
    let codings =
        headers.get_all(TRANSFER_ENCODING).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    if codings.map(<[u8]>::trim_ascii).any(|coding| !coding.eq_ignore_ascii_case(b"chunked")) {
        return Err(Problem::new(
            Kind::NotImplemented,
            "the only Transfer-Encoding taken is 'chunked': send the body without another",
        ));
    }
    // hyper has refused a Content-Length that is no number, and chunked takes precedence over it.
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match declared {
        _ if headers.contains_key(TRANSFER_ENCODING) => Ok(()),
        None => Err(Problem::new(
            Kind::LengthRequired,
            "this request needs a body: send Content-Length (0 for an empty one), or a chunked body",
        )),
        Some(length) if length > limit_bytes => Err(too_large(limit_bytes)),
        Some(_) => Ok(()),
    }
}

/// The problem of a body, or of a value in it, over its limit.
pub(crate) fn too_large(limit_bytes: u64) -> Problem {
    Problem::new(Kind::TooLarge, format!("the most that is taken here is {}", format_size_bytes(limit_bytes)))
}

/// Reads a body whose head [`check_head`] has passed. No longer than `stall` may pass between two
/// pieces, and [`BODY_TIMEOUT`] in all.
pub(crate) async fn receive<B>(
    mut body: B,
    limit_bytes: u64,
    stall: Duration,
    memory: &BodyMemory,
) -> Result<Received, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
    let started = Instant::now();
    // A declared length is reserved at once; a chunked body reserves as it grows, in steps that
    // double, so that a small one costs little and a large one is not reserved byte by byte.
    let declared = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
    let mut reserved = match declared {
        Some(length) if length > SMALL_BODY_BYTES => Some(memory.reserve(length)?),
        _ => None,
    };
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    loop {
        let until = (Instant::now() + stall).min(started + BODY_TIMEOUT);
        let frame = match timeout_at(until, body.frame()).await {
            Err(_) => {
                return Err(Problem::new(
                    Kind::RequestTimeout,
                    "the body did not come in time; nothing was done",
                ));
            }
            Ok(None) => break,
            Ok(Some(Err(_))) => {
                return Err(Problem::invalid("the body was cut short or malformed; nothing was done"));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers mean nothing here.
        let Ok(piece) = frame.into_data() else { continue };
        let length = first.len() + whole.len() + piece.len();
        if length > limit {
            return Err(too_large(limit_bytes));
        }
        let held = reserved.as_ref().map_or(SMALL_BODY_BYTES, |held| held.permit.num_permits());
        if length > held {
            let more = memory.reserve((length - held).max(held).min(limit.max(length) - held))?;
            reserved = Some(match reserved.take() {
                None => more,
                Some(held) => held.join(more),
            });
        }
        // Most bodies come in one piece, which is then taken as it is.
        if first.is_empty() && whole.is_empty() {
            first = piece;
        } else {
            if whole.is_empty() {
                whole.reserve(declared.unwrap_or(length).min(limit));
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&piece);
        }
    }
    Ok(Received { bytes: if whole.is_empty() { first } else { whole.freeze() }, memory: reserved })
}

impl Reserved {
    fn join(mut self, mut other: Self) -> Self {
        // The counts add up in `self`; `other` gives nothing back when it is dropped empty.
        if let Some(all) = other.permit.split(other.permit.num_permits()) {
            self.permit.merge(all);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        convert::Infallible,
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use hyper::body::{Frame, SizeHint};
    use hyper::header::HeaderValue;

    use super::*;

    /// A body in pieces; `None` never comes.
    struct Pieces(VecDeque<Option<Result<Bytes, io::Error>>>, Option<u64>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            match self.0.front() {
                Some(None) => Poll::Pending,
                _ => Poll::Ready(self.0.pop_front().flatten().map(|piece| piece.map(Frame::data))),
            }
        }

        fn size_hint(&self) -> SizeHint {
            self.1.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn chunked(pieces: &[&[u8]]) -> Pieces {
        Pieces(pieces.iter().map(|piece| Some(Ok(Bytes::copy_from_slice(piece)))).collect(), None)
    }

    fn memory() -> BodyMemory {
        BodyMemory::new(Gauge::noop())
    }

    const STALL: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn pieces_are_joined() {
        let memory = memory();
        let cases: [(&[&[u8]], &[u8]); 3] =
            [(&[], b""), (&[b"abc"], b"abc"), (&[b"", b"ab", b"", b"c", b"d"], b"abcd")];
        for (pieces, whole) in cases {
            let received = receive(chunked(pieces), 4, STALL, &memory).await.unwrap();
            assert_eq!(received.bytes, whole);
        }
    }

    #[tokio::test]
    async fn a_chunked_body_is_counted_as_it_comes() {
        let error = receive(chunked(&[b"abc", b"de"]), 4, STALL, &memory()).await.unwrap_err();
        assert_eq!(error.kind, Kind::TooLarge);
    }

    #[tokio::test]
    async fn a_body_cut_short_is_refused() {
        let cut = Pieces(
            [Some(Ok(Bytes::from("ab"))), Some(Err(io::ErrorKind::UnexpectedEof.into()))].into(),
            Some(9),
        );
        assert_eq!(receive(cut, 9, STALL, &memory()).await.unwrap_err().kind, Kind::Invalid);
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up() {
        let stuck = Pieces([Some(Ok(Bytes::from("ab"))), None].into(), Some(9));
        assert_eq!(
            receive(stuck, 9, Duration::from_millis(10), &memory()).await.unwrap_err().kind,
            Kind::RequestTimeout
        );
    }

    #[tokio::test]
    async fn memory_is_reserved_while_a_body_lives_and_no_longer() {
        let memory = memory();
        let piece = vec![7; 3 * SMALL_BODY_BYTES];
        for declared in [None, Some(6 * SMALL_BODY_BYTES as u64)] {
            let pieces =
                Pieces([Some(Ok(piece.clone().into())), Some(Ok(piece.clone().into()))].into(), declared);
            let received = receive(pieces, 1 << 20, STALL, &memory).await.unwrap();
            let held = MAX_BODY_MEMORY_BYTES - memory.bytes.available_permits();
            assert!(received.memory.is_some() && held + SMALL_BODY_BYTES >= 6 * SMALL_BODY_BYTES, "{held}");
            drop(received);
            assert_eq!(memory.bytes.available_permits(), MAX_BODY_MEMORY_BYTES);
        }
        let small = receive(chunked(&[b"small"]), 1 << 20, STALL, &memory).await.unwrap();
        assert!(small.memory.is_none());
    }

    #[tokio::test]
    async fn a_full_memory_refuses_large_bodies_and_takes_small_ones() {
        let memory = memory();
        let _all = memory.reserve(MAX_BODY_MEMORY_BYTES).unwrap();
        let large = vec![0; SMALL_BODY_BYTES + 1];
        for declared in [None, Some(large.len() as u64)] {
            let pieces = Pieces([Some(Ok(large.clone().into()))].into(), declared);
            assert_eq!(receive(pieces, 1 << 20, STALL, &memory).await.unwrap_err().kind, Kind::Busy);
        }
        assert!(receive(chunked(&[b"small"]), 1 << 20, STALL, &memory).await.is_ok());
    }

    #[test]
    fn the_head_is_judged_first() {
        let check = |lines: &[(hyper::header::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.insert(name, HeaderValue::from_static(value));
            }
            check_head(&headers, 100).map_err(|problem| problem.kind)
        };
        assert_eq!(check(&[(CONTENT_LENGTH, "100")]), Ok(()));
        assert_eq!(check(&[(CONTENT_LENGTH, "101")]), Err(Kind::TooLarge));
        assert_eq!(check(&[(CONTENT_LENGTH, "0")]), Ok(()));
        assert_eq!(check(&[(TRANSFER_ENCODING, "chunked")]), Ok(()));
        assert_eq!(check(&[]), Err(Kind::LengthRequired));
        assert_eq!(check(&[(CONTENT_LENGTH, "1"), (CONTENT_ENCODING, "gzip")]), Err(Kind::UnsupportedMedia));
        assert_eq!(check(&[(CONTENT_LENGTH, "1"), (CONTENT_ENCODING, "identity")]), Ok(()));
        assert_eq!(check(&[(TRANSFER_ENCODING, "Chunked")]), Ok(()));
        assert_eq!(check(&[(TRANSFER_ENCODING, "gzip, chunked")]), Err(Kind::NotImplemented));
        assert_eq!(check(&[(CONTENT_LENGTH, "1"), (CONTENT_RANGE, "bytes 0-0/2")]), Err(Kind::Invalid));
    }

    #[tokio::test]
    async fn a_body_that_cannot_fail_is_read_too() {
        let full = http_body_util::Full::<Bytes>::new("abc".into());
        let _: Option<Infallible> = None;
        assert_eq!(receive(full, 3, STALL, &memory()).await.unwrap().bytes, "abc");
    }
}
