//! A connection to a Quoring node: HTTP/1.1 with keep-alive, one request at a time, straight over a
//! socket. It is made to cost next to nothing, so that what is measured is the server: requests are
//! built in one buffer and written at once, and bodies that nobody looks at are read over.
//!
//! It takes only what Quoring sends: answers that tell their length.
//!
//! A server that closes a connection sends its client elsewhere, and that is no failure: with an answer
//! that says `Connection: close`, or between two requests, which is looked for before each. So is one
//! that cannot be reached, as long as another can. Nothing is sent twice that may have been sent once.

use std::{fmt::Write as _, io, ops::Range};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    link::{MAX_ANSWER_BYTES, push_key},
    tally::{Cause, Done, Failure, Traffic},
};
use crate::{client::Server, command::KV_TABLE, error::Outcome};

/// The most bytes of an answer's head; also the buffer that answers are read into.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The most header lines of an answer.
const MAX_HEADERS: usize = 64;

/// Sends requests to one node after another's failure; see the module's text.
pub(super) struct Http {
    servers: Vec<Server>,
    /// Which of them is in use; the next one once its connection is lost.
    at: usize,
    connection: Option<TcpStream>,
    request: Vec<u8>,
    /// Of a batch, while its length is not known yet.
    payload: Vec<u8>,
    answer: Vec<u8>,
    pub(super) traffic: Traffic,
}

/// What an answer's head says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    bytes: usize,
    status: u16,
    body_bytes: usize,
    keep_alive: bool,
}

impl Head {
    /// Reads a head; `None` while some of it is missing.
    fn parse(bytes: &[u8]) -> io::Result<Option<Head>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let head = match answer.parse(bytes).map_err(|error| unexpected(error.to_string()))? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => return Ok(None),
        };
        let status = answer.code.unwrap_or_default();
        let mut body_bytes = if status == 204 || status == 304 { Some(0) } else { None };
        let mut keep_alive = answer.version == Some(1);
        for header in answer.headers {
            let value = std::str::from_utf8(header.value).unwrap_or_default();
            if header.name.eq_ignore_ascii_case("content-length") {
                body_bytes = body_bytes.or(value.parse().ok());
            } else if header.name.eq_ignore_ascii_case("connection") {
                keep_alive &= !value.eq_ignore_ascii_case("close");
            }
        }
        let body_bytes =
            body_bytes.ok_or_else(|| unexpected("the answer does not tell its length".to_owned()))?;
        if body_bytes > MAX_ANSWER_BYTES {
            return Err(unexpected(format!(
                "the answer has {body_bytes} bytes, more than {MAX_ANSWER_BYTES}"
            )));
        }
        Ok(Some(Head { bytes: head, status, body_bytes, keep_alive }))
    }
}

fn unexpected(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// An error as Quoring tells it.
#[derive(Deserialize)]
struct Problem {
    status: u16,
    #[serde(default)]
    detail: String,
    outcome: Option<Outcome>,
}

/// What a request does to the cells: whether something may have happened if no answer comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Reads,
    Writes,
}

impl Effect {
    /// What a request is known to have done whose answer did not come.
    fn unanswered(self) -> Outcome {
        match self {
            Effect::Reads => Outcome::None,
            Effect::Writes => Outcome::Unknown,
        }
    }
}

impl Http {
    /// Speaks to `servers[at]` first.
    pub(super) fn new(servers: Vec<Server>, at: usize) -> Self {
        Self {
            servers,
            at,
            connection: None,
            request: Vec::with_capacity(1024),
            payload: Vec::new(),
            answer: vec![0; MAX_HEAD_BYTES],
            traffic: Traffic::default(),
        }
    }

    /// Connects, if that is to be done.
    pub(super) async fn connect(&mut self) -> Result<(), Failure> {
        if self.connection.is_none() {
            self.connection = Some(self.open().await?);
        }
        Ok(())
    }

    /// Connects to the next server that can be reached.
    async fn open(&mut self) -> Result<TcpStream, Failure> {
        let mut detail = String::new();
        for _ in 0..self.servers.len() {
            let at = self.at;
            let server = &self.servers[at % self.servers.len()];
            // Given up while it waits, it is not tried again.
            self.at = at + 1;
            let opened = TcpStream::connect(server.host_port()).await;
            match opened.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => {
                    self.at = at;
                    return Ok(stream);
                }
                Err(error) => detail = format!("cannot connect to {server}: {error}"),
            }
        }
        Err(Failure { cause: Cause::Connect, outcome: Outcome::None, detail })
    }

    /// Reads a value.
    pub(super) async fn get(&mut self, key: u64) -> Result<Done, Failure> {
        self.begin(b"GET /kv/");
        push_key(&mut self.request, key);
        self.end_bodyless();
        match self.exchange(Effect::Reads, false).await? {
            (200, _) => Ok(Done::default()),
            (404, _) => Ok(Done { absent: true, cells: 0 }),
            (status, body) => Err(self.failed(status, body, Effect::Reads)),
        }
    }

    /// Writes a value.
    pub(super) async fn put(&mut self, key: u64, value: &[u8]) -> Result<Done, Failure> {
        self.begin(b"PUT /kv/");
        push_key(&mut self.request, key);
        self.end_with(value.len());
        self.request.extend_from_slice(value);
        match self.exchange(Effect::Writes, false).await? {
            (200, _) => Ok(Done::default()),
            (status, body) => Err(self.failed(status, body, Effect::Writes)),
        }
    }

    /// Reads rows from a key on, with their values.
    pub(super) async fn scan(&mut self, from: u64, rows: u32) -> Result<Done, Failure> {
        self.begin(b"GET /data/");
        self.request.extend_from_slice(KV_TABLE.as_bytes());
        self.request.extend_from_slice(b"?from=");
        push_key(&mut self.request, from);
        self.request.extend_from_slice(b"&limit=");
        self.request.extend_from_slice(rows.to_string().as_bytes());
        self.end_bodyless();
        #[derive(Deserialize)]
        struct Page {
            rows: Vec<IgnoredAny>,
        }
        match self.exchange(Effect::Reads, true).await? {
            (200, body) => {
                let page: Page = serde_json::from_slice(&self.answer[body])
                    .map_err(|error| broken(&error, Effect::Reads))?;
                Ok(Done { absent: false, cells: page.rows.len() as u64 })
            }
            // The table is there once it has a row.
            (404, _) => Ok(Done { absent: true, cells: 0 }),
            (status, body) => Err(self.failed(status, body, Effect::Reads)),
        }
    }

    /// Writes several values. It failed if one of them did. Values are text that JSON need not escape.
    pub(super) async fn batch<'v>(
        &mut self,
        cells: impl Iterator<Item = (u64, &'v str)>,
    ) -> Result<Done, Failure> {
        self.payload.clear();
        self.payload.push(b'[');
        let mut count = 0;
        for (key, value) in cells {
            let comma = if count == 0 { "" } else { "," };
            for part in [comma, r#"{"op":"put","key":""#] {
                self.payload.extend_from_slice(part.as_bytes());
            }
            push_key(&mut self.payload, key);
            for part in [r#"","value":""#, value, r#""}"#] {
                self.payload.extend_from_slice(part.as_bytes());
            }
            count += 1;
        }
        self.payload.push(b']');
        self.begin(b"POST /batch");
        self.end_with(self.payload.len());
        self.request.extend_from_slice(&self.payload);
        match self.exchange(Effect::Writes, true).await? {
            (200, body) => {
                let results: Vec<Problem> = serde_json::from_slice(&self.answer[body])
                    .map_err(|error| broken(&error, Effect::Writes))?;
                let mut failed = results.iter().filter(|result| result.status != 200);
                let Some(first) = failed.next() else { return Ok(Done { absent: false, cells: count }) };
                let unknown = failed.any(|result| result.outcome == Some(Outcome::Unknown))
                    || first.outcome == Some(Outcome::Unknown);
                let outcome = if unknown { Outcome::Unknown } else { Outcome::None };
                let detail = format!("an operation of a batch: {}", first.detail);
                Err(Failure { cause: Cause::Status(first.status), outcome, detail })
            }
            (status, body) => Err(self.failed(status, body, Effect::Writes)),
        }
    }

    fn begin(&mut self, start: &[u8]) {
        self.request.clear();
        self.request.extend_from_slice(start);
    }

    fn end_bodyless(&mut self) {
        self.request.extend_from_slice(b" HTTP/1.1\r\nhost: quoring\r\n\r\n");
    }

    fn end_with(&mut self, body_bytes: usize) {
        let mut length = String::with_capacity(80);
        // Writing to a String does not fail.
        let _ = write!(length, " HTTP/1.1\r\nhost: quoring\r\ncontent-length: {body_bytes}\r\n\r\n");
        self.request.extend_from_slice(length.as_bytes());
    }

    /// Sends the request and reads the answer: its status, and where its body is in `self.answer`. A
    /// success's body is there only where it is kept. A connection is in use again only after a whole
    /// exchange: one that was given up in between holds the rest of an answer.
    async fn exchange(&mut self, effect: Effect, keep: bool) -> Result<(u16, Range<usize>), Failure> {
        let mut stream = match self.connection.take() {
            Some(stream) if !is_over(&stream) => stream,
            ended => {
                self.at += usize::from(ended.is_some());
                self.open().await?
            }
        };
        let at = self.at;
        self.at = at + 1;
        match self.exchange_over(&mut stream, keep).await {
            Ok((head, body)) => {
                if head.keep_alive {
                    self.at = at;
                    self.connection = Some(stream);
                }
                Ok((head.status, body))
            }
            Err(error) => Err(broken(&error, effect)),
        }
    }

    async fn exchange_over(
        &mut self,
        stream: &mut TcpStream,
        keep: bool,
    ) -> io::Result<(Head, Range<usize>)> {
        stream.write_all(&self.request).await?;
        self.traffic.sent_bytes += self.request.len() as u64;
        let mut filled = 0;
        let head = loop {
            if filled == self.answer.len() {
                return Err(unexpected(format!("the answer's head is longer than {filled} bytes")));
            }
            filled += read_some(stream, &mut self.answer[filled..]).await?;
            if let Some(head) = Head::parse(&self.answer[..filled])? {
                break head;
            }
        };
        let end = head.bytes + head.body_bytes;
        let missing = end
            .checked_sub(filled)
            .ok_or_else(|| unexpected("there is more behind the answer than its length tells".to_owned()))?;
        self.traffic.received_bytes += end as u64;
        let body = if keep || head.status >= 400 {
            if self.answer.len() < end {
                self.answer.resize(end, 0);
            }
            stream.read_exact(&mut self.answer[filled..end]).await?;
            head.bytes..end
        } else {
            let mut left = missing;
            while left > 0 {
                let most = left.min(self.answer.len());
                left -= read_some(stream, &mut self.answer[..most]).await?;
            }
            0..0
        };
        Ok((head, body))
    }

    fn failed(&self, status: u16, body: Range<usize>, effect: Effect) -> Failure {
        let body = &self.answer[body];
        let (detail, outcome) = match serde_json::from_slice::<Problem>(body) {
            Ok(Problem { detail, outcome, .. }) => (detail, outcome),
            Err(_) => (String::from_utf8_lossy(body).into_owned(), None),
        };
        Failure { cause: Cause::Status(status), outcome: outcome.unwrap_or(effect.unanswered()), detail }
    }
}

fn broken(error: &dyn std::error::Error, effect: Effect) -> Failure {
    Failure { cause: Cause::Broken, outcome: effect.unanswered(), detail: error.to_string() }
}

/// Whether the server has ended a connection on which nothing is asked. The system itself is asked: the
/// runtime may not have heard of it yet.
fn is_over(stream: &TcpStream) -> bool {
    let peeked = recv(stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    !matches!(peeked, Err(Errno::AGAIN))
}

async fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
        read => Ok(read),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::{super::link::key_name, *};

    #[test]
    fn heads_are_read_as_they_come() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"1\"\r\n\r\nhello";
        let head = Head { bytes: text.len() - 5, status: 200, body_bytes: 5, keep_alive: true };
        assert_eq!(Head::parse(text).unwrap(), Some(head));
        for end in 0..text.len() - 5 {
            assert_eq!(Head::parse(&text[..end]).unwrap(), None, "{end}");
        }
        let closing = b"HTTP/1.1 503 X\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n";
        assert!(!Head::parse(closing).unwrap().unwrap().keep_alive);
        for bad in [
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        ] {
            assert!(Head::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// A server that gives the same answer to each request, in pieces of a few bytes, and hands back
    /// what it was sent. It ends with the connection.
    async fn serve(answers: Vec<String>) -> (Http, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            for answer in answers {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                asked.extend_from_slice(&buffer[..read]);
                for piece in answer.as_bytes().chunks(7) {
                    stream.write_all(piece).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            String::from_utf8(asked).unwrap()
        });
        (Http::new(vec![address.to_string().parse().unwrap()], 0), served)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn one_connection_carries_all_kinds() {
        let rows = r#"{"rows":[{"row":"a","columns":{}},{"row":"b","columns":{}}],"next":null}"#;
        let problem = |status, outcome: &str| {
            format!(r#"{{"type":"t","title":"T","status":{status},"detail":"D","outcome":"{outcome}"}}"#)
        };
        let (mut http, served) = serve(vec![
            answer("200 OK", "OK"),
            answer("200 OK", &"x".repeat(100_000)),
            answer("404 Not Found", &problem(404, "none")),
            answer("200 OK", rows),
            answer("200 OK", r#"[{"status":200,"version":1},{"status":200,"version":1}]"#),
            answer("200 OK", &format!(r#"[{{"status":200}},{}]"#, problem(504, "unknown"))),
            answer("503 Service Unavailable", &problem(503, "none")),
            answer("504 Gateway Timeout", "no JSON"),
        ])
        .await;
        assert_eq!(http.put(7, b"value").await, Ok(Done::default()));
        assert_eq!(http.get(8).await, Ok(Done::default()));
        assert_eq!(http.get(9).await, Ok(Done { absent: true, cells: 0 }));
        assert_eq!(http.scan(3, 50).await, Ok(Done { absent: false, cells: 2 }));
        let cells = || [(1, "a"), (2, "b")].into_iter();
        assert_eq!(http.batch(cells()).await, Ok(Done { absent: false, cells: 2 }));
        let failure = http.batch(cells()).await.unwrap_err();
        assert_eq!((failure.cause, failure.outcome), (Cause::Status(504), Outcome::Unknown));
        let failure = http.put(7, b"v").await.unwrap_err();
        assert_eq!((failure.cause, failure.outcome), (Cause::Status(503), Outcome::None));
        assert_eq!(failure.detail, "D");
        let failure = http.put(7, b"v").await.unwrap_err();
        assert_eq!((failure.cause, failure.outcome), (Cause::Status(504), Outcome::Unknown));
        assert_eq!(failure.detail, "no JSON");

        let asked = served.await.unwrap();
        assert_eq!(http.traffic.sent_bytes, asked.len() as u64);
        assert!(http.traffic.received_bytes > 100_000);
        let key = key_name(7);
        let put = format!("PUT /kv/{key} HTTP/1.1\r\nhost: quoring\r\ncontent-length: 5\r\n\r\nvalue");
        assert!(asked.starts_with(&put), "{asked}");
        let batch = format!(
            r#"[{{"op":"put","key":"{}","value":"a"}},{{"op":"put","key":"{}","value":"b"}}]"#,
            key_name(1),
            key_name(2)
        );
        assert!(asked.contains(&batch), "{asked}");
        assert!(asked.contains(&format!("GET /data/kv?from={}&limit=50 HTTP/1.1\r\n", key_name(3))));
    }

    #[tokio::test]
    async fn what_breaks_is_unknown_for_a_write_and_nothing_for_a_read() {
        for (answer, puts) in [("HTTP/1.1 200 OK\r\ncontent-le", true), ("garbage\r\n\r\n", false)] {
            let (mut http, served) = serve(vec![answer.to_owned()]).await;
            let failure = if puts { http.put(1, b"v").await } else { http.get(1).await }.unwrap_err();
            let outcome = if puts { Outcome::Unknown } else { Outcome::None };
            assert_eq!((failure.cause, failure.outcome), (Cause::Broken, outcome));
            served.await.unwrap();
            // Nobody listens any more: nothing was sent, so nothing can have happened.
            let failure = http.put(1, b"v").await.unwrap_err();
            assert_eq!((failure.cause, failure.outcome), (Cause::Connect, Outcome::None));
        }
    }
}
