//! The accept loop: connections in, bounded in number, each served by hyper until it ends, is
//! upgraded, or the server stops.
//!
//! A server that stops fails no request of a client that can go elsewhere. Whatever still comes is
//! answered, and the answer says `Connection: close`; a connection over which nothing comes is closed
//! after a while ([`LEAVE_IDLE`](super::limits::LEAVE_IDLE)), and not at once, as its client may just
//! be sending; what the system has accepted is served before the listener closes. What cannot be
//! ruled out is a request that is sent in the very moment in which its idle connection is closed
//! (RFC 9112, section 9.3.1 tells clients to be prepared for that).

use std::{convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{
    Context, Front,
    limits::{
        DRAIN_TIMEOUT, HEAD_TIMEOUT, MAX_CONNECTION_BUFFER_BYTES, MAX_CONNECTIONS, MAX_HEAD_BYTES,
        RESERVED_CONNECTIONS,
    },
    request::Client,
    service,
    wire::{Signals, Wire},
};
use crate::metrics::{HTTP_CONNECTIONS_OPEN, HTTP_CONNECTIONS_REFUSED_TOTAL};

/// How long the loop rests when the system refuses it a connection for want of something, such as
/// file descriptors: nothing tells when there is some again.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves the API on `listener` until `stop` is ready. Then it takes no more connections, and lets
/// those that there are end as [`Context::leave`] has it; what has not ended within
/// [`DRAIN_TIMEOUT`] is cut.
pub async fn serve(listener: TcpListener, context: Context, stop: impl Future<Output = ()>) {
    serve_within(MAX_CONNECTIONS, RESERVED_CONNECTIONS, listener, context, stop).await;
}

/// [`serve`], with so many connections, and so many beyond them for nodes and probes.
pub(crate) async fn serve_within(
    max_connections: usize,
    reserved_connections: usize,
    listener: TcpListener,
    context: Context,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    let front = &context.0;
    let (max, reserved) = (max_connections, reserved_connections);
    let mut connections = Connections { front, max, reserved, open: JoinSet::new() };
    let open = metrics::gauge!(HTTP_CONNECTIONS_OPEN);
    loop {
        tokio::select! {
            () = stop.as_mut() => break,
            Some(_) = connections.open.join_next() => open.set(connections.open.len() as f64),
            accepted = listener.accept() => match accepted {
                Ok((socket, addr)) => {
                    connections.take(socket, addr);
                    open.set(connections.open.len() as f64);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept connections");
                    tokio::select! {
                        () = stop.as_mut() => break,
                        () = tokio::time::sleep(ACCEPT_REST) => {}
                    }
                }
            }
        }
    }
    context.leave();
    match close(listener, max + reserved) {
        Ok(waiting) => waiting.into_iter().for_each(|(socket, addr)| connections.take(socket, addr)),
        Err(error) => tracing::warn!(%error, "accept the last connections"),
    }
    let mut connections = connections.open;
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN_TIMEOUT, all_ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "cut connections that did not end in time");
        connections.shutdown().await;
    }
    open.set(0.0);
}

/// The connections of a server.
struct Connections<'f> {
    front: &'f Arc<Front>,
    max: usize,
    reserved: usize,
    open: JoinSet<()>,
}

impl Connections<'_> {
    /// Serves one, if there is room for it.
    fn take(&mut self, socket: TcpStream, addr: SocketAddr) {
        // Those that ended already take no place.
        while self.open.try_join_next().is_some() {}
        if self.open.len() >= self.max + self.reserved {
            metrics::counter!(HTTP_CONNECTIONS_REFUSED_TOTAL).increment(1);
            return;
        }
        let reserved = self.open.len() >= self.max;
        self.open.spawn(connection(socket, addr, reserved, Arc::clone(self.front)));
    }
}

/// Closes a listener, and gives the connections that the system had already made for it: it would
/// reset them, and with them the requests that came over them.
fn close(listener: TcpListener, most: usize) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    let listener = listener.into_std()?;
    let mut waiting = Vec::new();
    // Nothing is done between the last look and the end of the listener: what comes in between is
    // reset.
    while waiting.len() < most {
        match listener.accept() {
            Ok(accepted) => waiting.push(accepted),
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => break,
        }
    }
    drop(listener);
    let served = |(socket, addr): (std::net::TcpStream, SocketAddr)| {
        socket.set_nonblocking(true)?;
        Ok((TcpStream::from_std(socket)?, addr))
    };
    waiting.into_iter().map(served).collect()
}

/// Whether an error of `accept` is about a connection that came and went, and not about the server.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

async fn connection(socket: TcpStream, addr: SocketAddr, reserved: bool, front: Arc<Front>) {
    // An answer is written whole: to wait for more to send with it would only delay it.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%addr, %error, "set TCP_NODELAY");
    }
    let signals = Arc::new(Signals::default());
    let client = Client { addr, reserved, signals: Arc::clone(&signals) };
    let mut leaving = front.leaving.subscribe();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answer = service::answer(Arc::clone(&front), client.clone(), request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let serving = http1::Builder::new()
        // A client may close its side once its request is sent, and still wants the answer.
        .half_close(true)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_CONNECTION_BUFFER_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(Wire::new(socket, Arc::clone(&signals))), service)
        .with_upgrades();
    let mut serving = pin!(serving);
    // An error would mean that the front-end is gone, but the service holds it.
    let told_to_leave = async { leaving.wait_for(|leaving| *leaving).await.is_ok() };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        _ = told_to_leave => {
            signals.leave();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%addr, %error, "serve a connection");
    }
}
