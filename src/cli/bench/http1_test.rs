//! Servers that close connections: their clients go elsewhere, and send nothing twice.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    http1::Http,
    tally::{Cause, Done},
};
use crate::error::Outcome;

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Takes one request, which has a body of one byte, and gives that.
async fn take(stream: &mut TcpStream) -> u8 {
    let mut asked = Vec::new();
    loop {
        assert!(stream.read_buf(&mut asked).await.unwrap() > 0, "no request: {asked:?}");
        if let Some(end) = asked.windows(4).position(|four| four == b"\r\n\r\n")
            && asked.len() == end + 5
        {
            return asked[end + 4];
        }
    }
}

async fn answer(stream: &mut TcpStream, header: &str) {
    stream
        .write_all(format!("HTTP/1.1 200 OK\r\n{header}content-length: 0\r\n\r\n").as_bytes())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_that_is_sent_elsewhere_goes_there() {
    let ((one, first), (other, second)) = (listen().await, listen().await);
    let mut http = Http::new(vec![first.parse().unwrap(), second.parse().unwrap()], 0);
    let served = async {
        let (mut stream, _) = one.accept().await.unwrap();
        assert_eq!(take(&mut stream).await, b'1');
        answer(&mut stream, "connection: close\r\n").await;
        // It is not asked again, and then cannot be reached.
        drop(one);
        let (mut stream, _) = other.accept().await.unwrap();
        assert_eq!(take(&mut stream).await, b'2');
        answer(&mut stream, "").await;
        stream
    };
    let asked = async {
        assert_eq!(http.put(1, b"1").await, Ok(Done::default()));
        assert_eq!(http.put(1, b"2").await, Ok(Done::default()));
    };
    let (kept, ()) = tokio::join!(served, asked);
    // Closed between two requests: the next one finds that out before anything is sent.
    drop(kept);
    let served = async {
        let (mut stream, _) = other.accept().await.unwrap();
        assert_eq!(take(&mut stream).await, b'3');
        answer(&mut stream, "").await;
        // Closed once the next one is there, unanswered: it may have been done, and is not sent again.
        assert_eq!(take(&mut stream).await, b'4');
        drop(stream);
        let (mut stream, _) = other.accept().await.unwrap();
        assert_eq!(take(&mut stream).await, b'5');
        answer(&mut stream, "").await;
    };
    let asked = async {
        assert_eq!(http.put(1, b"3").await, Ok(Done::default()));
        let failure = http.put(1, b"4").await.unwrap_err();
        assert_eq!((failure.cause, failure.outcome), (Cause::Broken, Outcome::Unknown));
        assert_eq!(http.put(1, b"5").await, Ok(Done::default()));
    };
    tokio::join!(served, asked);
}
