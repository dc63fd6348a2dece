//! How a connection from another node leaves HTTP: `GET /peer` (or `/`) with
//! `Upgrade: quoring-peer/1` (RFC 9110, section 7.8). What is spoken then is [`crate::peer`]'s.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as Waking, Poll},
};

use bytes::{Buf as _, Bytes};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Version,
    header::{CONNECTION, HeaderName, HeaderValue, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    Front,
    error::Problem,
    request::Client,
    response::{self, Response},
    wire::Wire,
};

/// The protocol between nodes, as `Upgrade` names it.
pub const PEER_PROTOCOL: &str = "quoring-peer/1";

/// A byte stream in both directions.
pub trait PeerIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerIo for T {}

/// A connection that another node opened, out of HTTP's hands.
pub struct PeerStream {
    /// Its bytes. What the other node sent right behind its request comes first.
    pub io: Box<dyn PeerIo>,
    /// The other end.
    pub addr: SocketAddr,
}

/// Whether a request wants to speak the peers' protocol.
pub(crate) fn is_wanted<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && matches!(request.uri().path(), "/" | "/peer")
        && has_token(request.headers(), &UPGRADE, PEER_PROTOCOL)
}

/// Answers 101 and hands the connection to the node once the answer is out.
pub(crate) fn accept<B>(
    front: &Arc<Front>,
    client: &Client,
    request: &mut Request<B>,
) -> Result<Response, Problem> {
    if request.version() != Version::HTTP_11 || !has_token(request.headers(), &CONNECTION, "upgrade") {
        return Err(Problem::invalid("an Upgrade needs HTTP/1.1 and 'Connection: upgrade'"));
    }
    let upgrade = hyper::upgrade::on(request);
    let (front, addr) = (Arc::clone(front), client.addr);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => front.node.upgrade(PeerStream { io: unwrap(upgraded), addr }),
            Err(error) => tracing::debug!(%addr, %error, "upgrade a peer's connection"),
        }
    });
    let mut answer = response::with_body(StatusCode::SWITCHING_PROTOCOLS, "");
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(PEER_PROTOCOL));
    Ok(answer)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Takes the layers of HTTP off a connection, so that frames go straight to the socket.
fn unwrap(upgraded: Upgraded) -> Box<dyn PeerIo> {
    match upgraded.downcast::<TokioIo<Wire<TcpStream>>>() {
        Ok(parts) => {
            Box::new(Preceded { first: parts.read_buf, socket: parts.io.into_inner().into_socket() })
        }
        Err(upgraded) => Box::new(TokioIo::new(upgraded)),
    }
}

/// A socket, some bytes of which were read already.
struct Preceded<S> {
    first: Bytes,
    socket: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Preceded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Waking<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buffer);
        }
        let count = this.first.len().min(buffer.remaining());
        buffer.put_slice(&this.first[..count]);
        this.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Preceded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Waking<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Waking<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Waking<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Waking<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
