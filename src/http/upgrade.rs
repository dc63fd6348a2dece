//! How a connection from another node leaves HTTP: `GET /peer` (or `/`) with
//! `Upgrade: quoring-peer/1` (RFC 9110, section 7.8). What is spoken then is [`crate::peer`]'s.

use std::{net::SocketAddr, sync::Arc};

use hyper::{
    HeaderMap, Method, Request, StatusCode, Version,
    header::{CONNECTION, HeaderName, HeaderValue, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    Front,
    error::Problem,
    request::Client,
    response::{self, Response},
    wire::Wire,
};

/// The protocol between nodes, as `Upgrade` names it.
pub const PEER_PROTOCOL: &str = "quoring-peer/1";

/// A connection that another node opened, out of HTTP's hands.
pub struct PeerStream {
    /// The socket, from which nothing of what follows the request was read.
    pub socket: TcpStream,
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
            Ok(upgraded) => match unwrap(upgraded) {
                Some(socket) => front.node.upgrade(PeerStream { socket, addr }),
                None => tracing::debug!(%addr, "upgrade a peer's connection: it spoke too early"),
            },
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

/// Takes the layers of HTTP off a connection, so that frames go straight to the socket. The other
/// side has to wait for our answer before it speaks its protocol; one that did not is cut.
fn unwrap(upgraded: Upgraded) -> Option<TcpStream> {
    let parts = upgraded.downcast::<TokioIo<Wire<TcpStream>>>().ok()?;
    parts.read_buf.is_empty().then(|| parts.io.into_inner().into_socket())
}
