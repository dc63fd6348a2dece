//! The accept loop: connections in, bounded in number, each served by hyper until it ends, is
//! upgraded, or the server stops.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    Context, Front,
    limits::{
        HEAD_TIMEOUT, MAX_CONNECTION_BUFFER_BYTES, MAX_CONNECTIONS, MAX_HEAD_BYTES, RESERVED_CONNECTIONS,
        SHUTDOWN_GRACE,
    },
    request::Client,
    service,
    wire::{Signals, Wire},
};
use crate::metrics::{HTTP_CONNECTIONS_OPEN, HTTP_CONNECTIONS_REFUSED_TOTAL};

/// How long the loop rests when the system refuses it a connection for want of something, such as
/// file descriptors: nothing tells when there is some again.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves the API on `listener` until `stop` is ready. Then it takes no more connections, closes
/// idle ones, lets requests in flight end within a bound (1.5 s), and cuts the rest.
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
    let (stopping, stopped) = watch::channel(false);
    let open = metrics::gauge!(HTTP_CONNECTIONS_OPEN);
    let refused = metrics::counter!(HTTP_CONNECTIONS_REFUSED_TOTAL);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.as_mut() => break,
            Some(_) = connections.join_next() => open.set(connections.len() as f64),
            accepted = listener.accept() => match accepted {
                Ok((socket, addr)) => {
                    // Those that ended already take no place.
                    while connections.try_join_next().is_some() {}
                    if connections.len() >= max_connections + reserved_connections {
                        refused.increment(1);
                        continue;
                    }
                    let reserved = connections.len() >= max_connections;
                    connections.spawn(connection(socket, addr, reserved, Arc::clone(&context.0), stopped.clone()));
                    open.set(connections.len() as f64);
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
    drop(listener);
    stopping.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_GRACE, all_ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "cut connections that did not end in time");
        connections.shutdown().await;
    }
    open.set(0.0);
}

/// Whether an error of `accept` is about a connection that came and went, and not about the server.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

async fn connection(
    socket: TcpStream,
    addr: SocketAddr,
    reserved: bool,
    front: Arc<Front>,
    mut stopped: watch::Receiver<bool>,
) {
    // An answer is written whole: to wait for more to send with it would only delay it.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%addr, %error, "set TCP_NODELAY");
    }
    let signals = Arc::new(Signals::default());
    let client = Client { addr, reserved, signals: Arc::clone(&signals) };
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
        .serve_connection(TokioIo::new(Wire::new(socket, signals)), service)
        .with_upgrades();
    let mut serving = pin!(serving);
    // A channel whose server is gone says to stop as well.
    let told_to_stop = async { stopped.wait_for(|stopped| *stopped).await.is_ok() };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        _ = told_to_stop => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%addr, %error, "serve a connection");
    }
}
