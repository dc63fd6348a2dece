//! How the bytes between two nodes travel: over TCP, or over whatever a simulation puts in its place.
//! TCP keeps its own types all the way; only the other kind is behind a pointer.

use std::io;

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A connection on which nothing was said yet.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// What is read from.
    type Read: AsyncRead + Unpin + Send + 'static;
    /// What is written to.
    type Write: AsyncWrite + Unpin + Send + 'static;

    /// Its two directions, each for a task of its own.
    fn into_halves(self) -> (Self::Read, Self::Write);
}

impl Socket for TcpStream {
    type Read = OwnedReadHalf;
    type Write = OwnedWriteHalf;

    fn into_halves(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.into_split()
    }
}

/// Both directions of a connection that is not TCP's.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection that is not TCP's.
pub type Boxed = Box<dyn Duplex>;

impl Socket for Boxed {
    type Read = ReadHalf<Boxed>;
    type Write = WriteHalf<Boxed>;

    fn into_halves(self) -> (ReadHalf<Boxed>, WriteHalf<Boxed>) {
        split(self)
    }
}

/// What connections are made over where it is not TCP. A refused one means that the process which
/// listened at the address is gone, as with TCP.
pub trait Network: Send + Sync + 'static {
    /// Connects to `host:port`.
    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Boxed>>;
}
