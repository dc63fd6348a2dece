//! The byte stream under a connection, between the socket and hyper. Four things need it:
//!
//! - hyper answers a head that it cannot parse by itself, with an empty 400, 414 or 431; here that
//!   becomes a problem like every other.
//! - A connection closed with unread bytes is reset by the kernel, which destroys the answer on its
//!   way to the client; here it is read on for a while first (RFC 9112, section 9.6).
//! - A client that does not read its answer is given up after a while.
//! - While the server leaves, a connection ends once nothing has come over it for a while; hyper's own
//!   way would end it at once, and destroy a request that is just coming.
//!
//! Invariant: bytes are replaced only while the connection is *quiet*: every answer of ours has
//! been handed to the socket whole and no request has come since, so that what hyper writes then
//! can only be its own.

use std::{
    future::Future as _,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    error::{Kind, Problem},
    limits::{
        LEAVE_IDLE, LINGER_BYTES, LINGER_TIMEOUT, MAX_HEADER_BYTES, MAX_URL_BYTES, WRITE_STALL_TIMEOUT,
    },
};
use crate::units::format_size_bytes;

/// What the service tells the stream. Both run in the same task, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    in_request: AtomicBool,
    answer_written: AtomicBool,
    linger: AtomicBool,
    leaving: AtomicBool,
}

impl Signals {
    /// A request has come; what is written from now on is its answer.
    pub(crate) fn request_began(&self) {
        self.answer_written.store(false, Relaxed);
        self.linger.store(false, Relaxed);
        self.in_request.store(true, Relaxed);
    }

    /// The last byte of the answer was handed to hyper.
    pub(crate) fn answer_written(&self) {
        self.answer_written.store(true, Relaxed);
    }

    /// The server is about to stop. Whoever says so polls the connection afterwards.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// Whether the next answer is the last one.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Whether bytes of the request may still be coming when it is answered.
    pub(crate) fn body_left_unread(&self, unread: bool) {
        self.linger.store(unread, Relaxed);
    }
}

/// A stream of which can be told whether something waits in it.
pub(crate) trait Unread {
    /// Whether bytes have arrived that were not read yet.
    fn has_unread(&self) -> bool;
}

impl Unread for TcpStream {
    fn has_unread(&self) -> bool {
        // The system itself is asked: the runtime may not have heard of them yet.
        let peeked = recv(self, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        peeked.is_ok_and(|(bytes, _)| bytes > 0)
    }
}

/// A socket, as hyper sees it.
pub(crate) struct Wire<S> {
    socket: S,
    signals: Arc<Signals>,
    /// What replaces hyper's own answer, as far as it is not written.
    own_answer: Bytes,
    /// Bytes of the request line so far, while quiet; `None` once its end has come.
    request_line_bytes: Option<usize>,
    /// When a write that waits is given up.
    stalled: Option<Pin<Box<Sleep>>>,
    /// When a connection that waits for a request is closed; set while the server leaves.
    idle: Option<Pin<Box<Sleep>>>,
    lingering: Option<Linger>,
}

struct Linger {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl<S> Wire<S> {
    pub(crate) fn new(socket: S, signals: Arc<Signals>) -> Self {
        Self {
            socket,
            signals,
            own_answer: Bytes::new(),
            request_line_bytes: Some(0),
            stalled: None,
            idle: None,
            lingering: None,
        }
    }

    /// The socket, when the connection goes on in another protocol.
    pub(crate) fn into_socket(self) -> S {
        self.socket
    }

    fn is_quiet(&self) -> bool {
        !self.signals.in_request.load(Relaxed)
    }

    /// hyper has nothing left to write: if the answer had ended, all of it is out.
    fn all_written(&mut self) {
        if self.signals.answer_written.swap(false, Relaxed) {
            self.signals.in_request.store(false, Relaxed);
            self.request_line_bytes = Some(0);
        }
    }

    fn count_request_line(&mut self, read: &[u8]) {
        if let Some(bytes) = &mut self.request_line_bytes {
            match read.iter().position(|byte| *byte == b'\n') {
                Some(at) => {
                    *bytes += at;
                    if *bytes <= MAX_URL_BYTES {
                        self.request_line_bytes = None;
                    }
                }
                None => *bytes += read.len(),
            }
        }
    }

    /// The problem to send in place of an answer that hyper wrote by itself.
    fn replacement(&self, head: &[u8]) -> Option<Problem> {
        let status = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let line_too_long = self.request_line_bytes.is_some_and(|bytes| bytes > MAX_URL_BYTES);
        Some(match status {
            b"414" => uri_too_long(),
            b"431" if line_too_long => uri_too_long(),
            b"431" => headers_too_large(),
            b"400" => Problem::invalid("this is no HTTP/1.1 request"),
            _ => return None,
        })
    }

    fn replace(&mut self, head: &[u8]) -> bool {
        if !self.is_quiet() || !self.own_answer.is_empty() {
            return false;
        }
        let Some(problem) = self.replacement(head) else { return false };
        self.own_answer = render(&problem);
        self.signals.body_left_unread(true);
        true
    }
}

/// The problem of a request target over its limit.
pub(crate) fn uri_too_long() -> Problem {
    Problem::new(Kind::UriTooLong, format!("a URL is at most {}", format_size_bytes(MAX_URL_BYTES as u64)))
}

/// The problem of headers over their limit.
pub(crate) fn headers_too_large() -> Problem {
    let most = format_size_bytes(MAX_HEADER_BYTES as u64);
    Problem::new(Kind::HeadersTooLarge, format!("the headers are at most 100 and {most} together"))
}

/// A problem as a whole HTTP/1.1 message, the last of its connection.
fn render(problem: &Problem) -> Bytes {
    let status = problem.kind.row().status;
    let body = serde_json::to_string(&problem.to_json()).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or("");
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let head = format!(
        "HTTP/1.1 {code} {reason}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\
         cache-control: no-store\r\nconnection: close\r\ndate: {date}\r\n\r\n",
        code = status.as_u16(),
        length = body.len(),
    );
    Bytes::from(head + &body)
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    fn poll_own_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own_answer.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.own_answer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.own_answer.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Lets a write wait no longer than [`WRITE_STALL_TIMEOUT`].
    fn bound_stall<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_STALL_TIMEOUT)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: Unread> Wire<S> {
    /// Nothing has come. Between two requests, while the server leaves, that is the end after a while;
    /// hyper takes an end there as the client's, and closes.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let between_requests = self.is_quiet() && self.request_line_bytes == Some(0);
        if !between_requests || !self.signals.is_leaving() {
            self.idle = None;
            return Poll::Pending;
        }
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LEAVE_IDLE)));
        ready!(idle.as_mut().poll(cx));
        // A request that has just arrived wakes the task as any other.
        if self.socket.has_unread() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncRead + Unread + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.socket).poll_read(cx, buffer) else {
            return this.poll_idle(cx);
        };
        read?;
        this.idle = None;
        if this.is_quiet() {
            this.count_request_line(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.replace(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let write = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.bound_stall(cx, write)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // hyper's own answers have no body: the first slice is all of it.
        if let Some(head) = slices.first()
            && this.replace(head)
        {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let write = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.bound_stall(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.all_written();
        let flush = match this.poll_own_answer(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut this.socket).poll_flush(cx),
            other => other,
        };
        this.bound_stall(cx, flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            let answer = this.poll_own_answer(cx);
            ready!(this.bound_stall(cx, answer))?;
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
            if !this.signals.linger.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.lingering.get_or_insert_with(|| Linger {
            until: Box::pin(sleep_until(Instant::now() + LINGER_TIMEOUT)),
            bytes_left: LINGER_BYTES,
        });
        let mut scratch = [0; 8 << 10];
        loop {
            if linger.bytes_left == 0 || linger.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
                // The other side is gone: there is nobody left to wait for.
                Err(_) => return Poll::Ready(Ok(())),
                Ok(()) => linger.bytes_left = linger.bytes_left.saturating_sub(buffer.filled().len()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// What hyper writes of itself.
    const OWN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

    impl Unread for DuplexStream {
        fn has_unread(&self) -> bool {
            false
        }
    }

    fn wire() -> (Wire<DuplexStream>, DuplexStream, Arc<Signals>) {
        let (socket, other_end) = duplex(1 << 20);
        let signals = Arc::new(Signals::default());
        (Wire::new(socket, Arc::clone(&signals)), other_end, signals)
    }

    async fn all(wire: Wire<DuplexStream>, mut other_end: DuplexStream) -> Vec<u8> {
        drop(wire);
        let mut received = Vec::new();
        other_end.read_to_end(&mut received).await.unwrap();
        received
    }

    #[tokio::test]
    async fn an_answer_of_the_parser_becomes_a_problem() {
        let (mut wire, other_end, _) = wire();
        wire.write_all(OWN).await.unwrap();
        wire.flush().await.unwrap();
        let received = String::from_utf8(all(wire, other_end).await).unwrap();
        assert!(received.starts_with("HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json"));
        assert!(received.ends_with("}"), "{received}");
    }

    #[tokio::test]
    async fn a_value_that_looks_like_one_stays_as_it_is() {
        for vectored in [false, true] {
            let (mut wire, other_end, signals) = wire();
            let head = b"HTTP/1.1 200 OK\r\n\r\n";
            signals.request_began();
            wire.write_all(head).await.unwrap();
            // The body is handed over, and with it the answer's end; it is not out yet.
            signals.answer_written();
            if vectored {
                let written = wire.write_vectored(&[IoSlice::new(OWN)]).await.unwrap();
                assert_eq!(written, OWN.len());
            } else {
                wire.write_all(OWN).await.unwrap();
            }
            wire.flush().await.unwrap();
            assert_eq!(all(wire, other_end).await, [head, OWN].concat());
        }
    }

    #[tokio::test]
    async fn an_answer_is_over_only_once_it_is_flushed() {
        let (mut wire, other_end, signals) = wire();
        signals.request_began();
        wire.flush().await.unwrap();
        wire.write_all(OWN).await.unwrap();
        signals.answer_written();
        wire.flush().await.unwrap();
        wire.write_all(OWN).await.unwrap();
        wire.flush().await.unwrap();
        let received = all(wire, other_end).await;
        assert!(received.starts_with(OWN) && received.ends_with(b"}"));
        assert!(received.len() > 2 * OWN.len());
    }

    #[tokio::test]
    async fn a_long_request_line_is_told_from_long_headers() {
        let own = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        let line = vec![b'x'; MAX_URL_BYTES + 1];
        for (sent, status) in [(line.clone(), 414), ([b"GET / HTTP/1.1\n", line.as_slice()].concat(), 431)] {
            let (mut wire, mut other_end, _) = wire();
            other_end.write_all(&sent).await.unwrap();
            let mut read = vec![0; sent.len()];
            wire.read_exact(&mut read).await.unwrap();
            wire.write_all(own).await.unwrap();
            wire.flush().await.unwrap();
            let received = String::from_utf8(all(wire, other_end).await).unwrap();
            assert!(received.starts_with(&format!("HTTP/1.1 {status} ")), "{received}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_lingers_reads_to_the_end() {
        let (mut wire, mut other_end, signals) = wire();
        signals.body_left_unread(true);
        let closing = tokio::spawn(async move {
            wire.shutdown().await.unwrap();
            wire
        });
        // More than the stream holds: it is taken only if somebody reads.
        other_end.write_all(&vec![0; 4 << 20]).await.unwrap();
        other_end.shutdown().await.unwrap();
        closing.await.unwrap();
    }
}
