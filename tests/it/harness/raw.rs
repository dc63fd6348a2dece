//! Bytes on a connection, for what no HTTP client would send.

use std::{io, time::Duration};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::ports::host_of;

/// For an answer, or the connection's end, to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub(crate) struct Raw {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(port: u16) -> Self {
        Self::try_connect(port).await.unwrap()
    }

    pub(crate) async fn try_connect(port: u16) -> io::Result<Self> {
        Ok(Self { socket: TcpStream::connect((host_of(port), port)).await?, received: Vec::new() })
    }

    /// Whether the other side has ended a connection over which nothing is awaited. The system is asked:
    /// the runtime may not have heard of it yet.
    pub(crate) fn is_over(&self) -> bool {
        let peeked = recv(&self.socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Err(Errno::AGAIN))
    }

    /// Waits for the end of the connection; whether it was closed and not reset, with nothing left.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let read = timeout(PATIENCE, self.socket.read(&mut [0; 1])).await;
        matches!(read.expect("the connection stays open"), Ok(0))
    }

    /// Sends bytes; whether the other side still takes them is seen by its answer.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ =
            timeout(PATIENCE, self.socket.write_all(bytes.as_ref())).await.expect("the node takes no more");
        self
    }

    /// Ends this side, and keeps listening.
    pub(crate) async fn finish(&mut self) -> &mut Self {
        let _ = self.socket.shutdown().await;
        self
    }

    /// Reads until a whole head, and body where it tells its length, has come, and gives status and
    /// text; `None` where the connection ended without an answer.
    pub(crate) async fn answer(&mut self) -> Option<(u16, String)> {
        let read = async {
            loop {
                if let Some(answer) = self.parsed() {
                    return Some(answer);
                }
                let mut piece = [0; 4096];
                match self.socket.read(&mut piece).await {
                    Ok(0) | Err(_) => return None,
                    Ok(length) => self.received.extend_from_slice(&piece[..length]),
                }
            }
        };
        timeout(PATIENCE, read).await.expect("neither an answer nor the connection's end")
    }

    /// Reads until the other side ends the connection.
    pub(crate) async fn end(&mut self) -> String {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ =
            timeout(PATIENCE, self.socket.read_to_end(&mut rest)).await.expect("the connection stays open");
        String::from_utf8_lossy(&rest).into_owned()
    }

    fn parsed(&mut self) -> Option<(u16, String)> {
        let head_end = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.received[..head_end]).to_lowercase();
        let status = head.strip_prefix("http/1.1 ")?.get(..3)?.parse().ok()?;
        let length =
            head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        let whole = head_end + length.unwrap_or(0);
        if self.received.len() < whole {
            return None;
        }
        let answer: Vec<_> = self.received.drain(..whole).collect();
        Some((status, String::from_utf8_lossy(&answer).into_owned()))
    }
}
