//! One end of a simulated connection as the program reads and writes it, and what is on the way.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::net::Net;

/// Bytes on the way at most; then a writer waits. About a socket's buffers.
const MAX_FLYING_BYTES: usize = 1 << 20;

/// How a connection ends for who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Reset,
}

/// What travels.
pub(super) enum Item {
    Bytes(Bytes),
    End(End),
}

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Pipe {
    /// With the moments of arrival, which do not go back.
    flying: VecDeque<(u64, Item)>,
    flying_bytes: usize,
    arrived: BytesMut,
    ended: Option<End>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    /// Sends an item, and returns when it is to arrive: not before those ahead of it.
    pub(super) fn push(&mut self, at: u64, item: Item) -> u64 {
        let at = self.flying.back().map_or(at, |(last, _)| at.max(*last));
        if let Item::Bytes(bytes) = &item {
            self.flying_bytes += bytes.len();
        }
        self.flying.push_back((at, item));
        at
    }

    /// Lets arrive what is due; returns who is to be told.
    pub(super) fn arrive(&mut self, now: u64) -> impl Iterator<Item = Waker> + use<> {
        while self.flying.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, item)) = self.flying.pop_front() else { break };
            match item {
                Item::Bytes(bytes) => {
                    self.flying_bytes -= bytes.len();
                    self.arrived.extend_from_slice(&bytes);
                }
                Item::End(end) => self.ended = self.ended.or(Some(end)),
            }
        }
        [self.reader.take(), self.writer.take()].into_iter().flatten()
    }

    /// Loses everything, and ends.
    pub(super) fn reset(&mut self) -> impl Iterator<Item = Waker> + use<> {
        self.forget();
        self.ended = Some(End::Reset);
        [self.reader.take(), self.writer.take()].into_iter().flatten()
    }

    /// Nobody reads it any more.
    pub(super) fn forget(&mut self) {
        self.flying.clear();
        self.flying_bytes = 0;
        self.arrived.clear();
    }

    /// Whether its end has come, or is on the way.
    pub(super) fn is_ending(&self) -> bool {
        self.ended.is_some() || self.flying.iter().any(|(_, item)| matches!(item, Item::End(_)))
    }
}

/// One end of a connection.
pub(super) struct Stream {
    net: Arc<Net>,
    connection: u64,
    side: usize,
}

impl Stream {
    pub(super) fn new(net: Arc<Net>, connection: u64, side: usize) -> Self {
        Self { net, connection, side }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.net.0.lock();
        let Some(connection) = state.connections.get_mut(&self.connection) else {
            return Poll::Ready(Err(reset()));
        };
        let pipe = &mut connection.pipes[self.side];
        if !pipe.arrived.is_empty() {
            let length = out.remaining().min(pipe.arrived.len());
            out.put_slice(&pipe.arrived[..length]);
            pipe.arrived.advance(length);
            return Poll::Ready(Ok(()));
        }
        match pipe.ended {
            Some(End::Closed) => Poll::Ready(Ok(())),
            Some(End::Reset) => Poll::Ready(Err(reset())),
            None => {
                pipe.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.net.0.lock();
        let (id, other) = (self.connection, 1 - self.side);
        let Some(connection) = state.connections.get_mut(&id) else {
            return Poll::Ready(Err(reset()));
        };
        if connection.pipes[self.side].ended == Some(End::Reset) {
            return Poll::Ready(Err(reset()));
        }
        if connection.gone[other] {
            state.write_to_nobody(id, self.side);
            return Poll::Ready(Ok(bytes.len()));
        }
        let pipe = &mut connection.pipes[other];
        if pipe.flying_bytes > MAX_FLYING_BYTES {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.send(id, other, Item::Bytes(Bytes::copy_from_slice(bytes)));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.0.lock().send(self.connection, 1 - self.side, Item::End(End::Closed));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.net.0.lock().dropped(self.connection, self.side);
    }
}
