//! A connection to an etcd, for comparison: its gRPC API (v3) over HTTP/2.
//!
//! Of gRPC and protobuf, only what a few messages need is here (github.com/grpc/grpc,
//! doc/PROTOCOL-HTTP2.md; etcd's api/etcdserverpb/rpc.proto): the frame of five bytes, and at most three
//! fields each of `PutRequest`, `TxnRequest`, `RangeRequest` and the answers to them. That spares this
//! program a second HTTP server, a code generator and its compiler, and the load client costs etcd's side
//! no more than Quoring's. Reads are linearizable, as etcd's are unless they say `serializable`.
//!
//! Like etcd's own client (clientv3), it goes to another member at once when a connection breaks, a
//! member says that it cannot serve, or no answer comes in time; and what a member says that it has not
//! begun, another one is asked.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Uri, Version, header};
use tokio::{net::TcpStream, sync::Mutex};

use super::{
    etcd_messages::{
        FRAME_BYTES, KEY, PUT_VALUE, RANGE_END, RANGE_LIMIT, RANGE_RESPONSE_KVS, TXN_RESPONSE_RESPONSES,
        begin, count_fields, finish, push_bytes, push_put_op, push_varint,
    },
    link::{MAX_ANSWER_BYTES, push_key},
    tally::{Cause, Done, Failure, Traffic},
};
use crate::{client::Server, error::Outcome};

/// What etcd may send on one stream, and on a connection, before it is read, in bytes.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// See [`STREAM_WINDOW_BYTES`].
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The most operations in a transaction (`--max-txn-ops`, by default).
const MAX_TXN_OPS: u64 = 128;
/// The most bytes of a transaction of more than one; etcd takes up to 1.5 MiB (`--max-request-bytes`).
const TXN_BYTES: usize = 1 << 20;

/// gRPC's statuses of a server that cannot serve now: DEADLINE_EXCEEDED and UNAVAILABLE. The latter is
/// also what etcd says of a leader that it lacks, that has changed, or that did not answer in time.
const UNSERVED: [u16; 2] = [4, 14];

/// A connection that several lanes use at once.
pub(super) struct Shared {
    servers: Vec<Server>,
    state: Mutex<State>,
}

struct State {
    /// Which server is in use; the next one once its connection is given up.
    at: usize,
    channel: Option<Channel>,
    made: u64,
}

#[derive(Clone)]
struct Channel {
    /// Counts the connections made: a lane that gave this one up asks for a later one.
    number: u64,
    sender: SendRequest<Bytes>,
    put: Uri,
    range: Uri,
    txn: Uri,
}

impl Shared {
    /// Speaks to `servers[at]` first.
    pub(super) fn new(servers: Vec<Server>, at: usize) -> Self {
        Self { servers, state: Mutex::new(State { at, channel: None, made: 0 }) }
    }

    /// The connection; if the last one known was `given_up`, a new one to the next server that can be
    /// reached.
    async fn channel(&self, given_up: Option<u64>) -> Result<Channel, Failure> {
        let mut state = self.state.lock().await;
        if let Some(channel) = &state.channel {
            if given_up.is_none_or(|number| number < channel.number) {
                return Ok(channel.clone());
            }
            state.at += 1;
        }
        state.channel = None;
        let mut detail = String::new();
        for _ in 0..self.servers.len() {
            let at = state.at;
            let server = &self.servers[at % self.servers.len()];
            let number = state.made + 1;
            // Given up while it waits, it is not tried again.
            state.at = at + 1;
            match open(server, number).await {
                Ok(channel) => {
                    (state.at, state.made, state.channel) = (at, number, Some(channel.clone()));
                    return Ok(channel);
                }
                Err(error) => detail = format!("cannot connect to {server}: {error}"),
            }
        }
        Err(Failure { cause: Cause::Connect, outcome: Outcome::None, detail })
    }
}

async fn open(server: &Server, number: u64) -> Result<Channel, Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(server.host_port()).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake::<_, Bytes>(stream)
        .await?;
    // Ends with the connection; whoever uses it learns why.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let uri = |method: &str| format!("{server}/etcdserverpb.KV/{method}").parse();
    Ok(Channel { number, sender, put: uri("Put")?, range: uri("Range")?, txn: uri("Txn")? })
}

/// One lane's view of a connection.
pub(super) struct Etcd {
    shared: Arc<Shared>,
    channel: Option<Channel>,
    given_up: Option<u64>,
    message: BytesMut,
    answer: Vec<u8>,
    name: Vec<u8>,
    /// Messages, without what HTTP/2 puts around them.
    pub(super) traffic: Traffic,
}

impl Etcd {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            channel: None,
            given_up: None,
            message: BytesMut::new(),
            answer: Vec::new(),
            name: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// Connects, if that is to be done.
    pub(super) async fn connect(&mut self) -> Result<(), Failure> {
        if self.channel.is_none() {
            self.channel = Some(self.shared.channel(self.given_up).await?);
        }
        Ok(())
    }

    /// Reads a value.
    pub(super) async fn get(&mut self, key: u64) -> Result<Done, Failure> {
        self.name(key);
        begin(&mut self.message);
        push_bytes(&mut self.message, KEY, &self.name);
        let found = self.range().await?;
        Ok(Done { absent: found == 0, cells: 0 })
    }

    /// Reads keys from one on, with their values.
    pub(super) async fn scan(&mut self, from: u64, rows: u32) -> Result<Done, Failure> {
        self.name(from);
        begin(&mut self.message);
        push_bytes(&mut self.message, KEY, &self.name);
        // A zero byte stands for "all keys behind".
        push_bytes(&mut self.message, RANGE_END, &[0]);
        self.message.put_u8(RANGE_LIMIT);
        push_varint(&mut self.message, rows.into());
        Ok(Done { absent: false, cells: self.range().await? })
    }

    /// Writes a value.
    pub(super) async fn put(&mut self, key: u64, value: &[u8]) -> Result<Done, Failure> {
        self.name(key);
        begin(&mut self.message);
        push_bytes(&mut self.message, KEY, &self.name);
        push_bytes(&mut self.message, PUT_VALUE, value);
        self.call(|channel| &channel.put, Outcome::Unknown).await?;
        Ok(Done::default())
    }

    /// Writes values of different keys in one transaction, or in several where etcd takes no more.
    pub(super) async fn batch<'v>(
        &mut self,
        cells: impl Iterator<Item = (u64, &'v str)>,
    ) -> Result<Done, Failure> {
        let (mut written, mut waiting) = (0, 0);
        begin(&mut self.message);
        for (key, value) in cells {
            self.name(key);
            if waiting == MAX_TXN_OPS || (waiting > 0 && self.message.len() + value.len() > TXN_BYTES) {
                written += self.txn(std::mem::take(&mut waiting)).await?;
                begin(&mut self.message);
            }
            push_put_op(&mut self.message, &self.name, value.as_bytes());
            waiting += 1;
        }
        if waiting > 0 {
            written += self.txn(waiting).await?;
        }
        Ok(Done { absent: false, cells: written })
    }

    /// Sends a transaction of so many writes.
    async fn txn(&mut self, ops: u64) -> Result<u64, Failure> {
        self.call(|channel| &channel.txn, Outcome::Unknown).await?;
        let message = self.answer.get(FRAME_BYTES..).unwrap_or_default();
        match count_fields(message, TXN_RESPONSE_RESPONSES) {
            Some(done) if done == ops => Ok(done),
            _ => Err(Failure {
                cause: Cause::Broken,
                outcome: Outcome::Unknown,
                detail: format!("the answer is no TxnResponse to {ops} operations"),
            }),
        }
    }

    fn name(&mut self, key: u64) {
        self.name.clear();
        push_key(&mut self.name, key);
    }

    /// Sends a range request; how many keys it found.
    async fn range(&mut self) -> Result<u64, Failure> {
        self.call(|channel| &channel.range, Outcome::None).await?;
        let message = self.answer.get(FRAME_BYTES..).unwrap_or_default();
        count_fields(message, RANGE_RESPONSE_KVS).ok_or_else(|| Failure {
            cause: Cause::Broken,
            outcome: Outcome::None,
            detail: "the answer is no RangeResponse".to_owned(),
        })
    }

    /// Sends the message and reads the answer; `unanswered` is what it is known to have done if
    /// none comes.
    async fn call(&mut self, method: fn(&Channel) -> &Uri, unanswered: Outcome) -> Result<(), Failure> {
        let body = finish(&mut self.message);
        let mut tries = self.shared.servers.len();
        let (status, message) = loop {
            self.connect().await?;
            // In use again only after a whole exchange: whoever gives up on one, asks another server.
            let Some(channel) = self.channel.take() else { return Ok(()) };
            self.given_up = Some(channel.number);
            self.traffic.sent_bytes += body.len() as u64;
            let uri = method(&channel).clone();
            match call(channel.sender.clone(), uri, body.clone(), &mut self.answer).await {
                Ok(answer) => {
                    if !UNSERVED.contains(&answer.0) {
                        self.channel = Some(channel);
                    }
                    break answer;
                }
                Err(CallError::NotBegun(_)) if tries > 0 => tries -= 1,
                Err(CallError::NotBegun(error)) => {
                    let detail = error.to_string();
                    return Err(Failure { cause: Cause::Broken, outcome: Outcome::None, detail });
                }
                Err(CallError::Broken(error)) => {
                    let detail = error.to_string();
                    return Err(Failure { cause: Cause::Broken, outcome: unanswered, detail });
                }
            }
        };
        self.traffic.received_bytes += self.answer.len() as u64;
        if status == 0 {
            return Ok(());
        }
        let outcome = if is_refusal(status) { Outcome::None } else { unanswered };
        Err(Failure { cause: Cause::Grpc(status), outcome, detail: message })
    }
}

/// Why a call has no status.
enum CallError {
    /// The server has taken none of it: another one can be asked.
    NotBegun(h2::Error),
    /// The connection broke.
    Broken(h2::Error),
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        // RFC 9113, section 8.7: not processed are a stream that was refused, and one beyond the last
        // that a connection which is being closed still serves.
        let is_left_out = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        if error.is_remote() && (is_left_out || is_refused) {
            CallError::NotBegun(error)
        } else {
            CallError::Broken(error)
        }
    }
}

/// One unary call: its status, and what it says about it.
async fn call(
    sender: SendRequest<Bytes>,
    uri: Uri,
    body: Bytes,
    answer: &mut Vec<u8>,
) -> Result<(u16, String), CallError> {
    answer.clear();
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, header::HeaderValue::from_static("trailers"));
    let mut sender = sender.ready().await.map_err(CallError::NotBegun)?;
    let (response, mut stream) = sender.send_request(request, false).map_err(CallError::NotBegun)?;
    stream.send_data(body, true)?;
    let (head, mut body) = response.await?.into_parts();
    // An answer without a message has its status right here.
    if let Some(status) = grpc_status(&head.headers) {
        return Ok(status);
    }
    while let Some(data) = body.data().await {
        let data = data?;
        if answer.len() + data.len() > MAX_ANSWER_BYTES {
            return Ok((UNKNOWN, format!("the answer is longer than {MAX_ANSWER_BYTES} bytes")));
        }
        answer.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let missing = || (UNKNOWN, format!("HTTP status {} without a gRPC status", head.status));
    Ok(grpc_status(&trailers).unwrap_or_else(missing))
}

/// gRPC's UNKNOWN.
const UNKNOWN: u16 = 2;

fn grpc_status(headers: &HeaderMap) -> Option<(u16, String)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let status = text("grpc-status")?.parse().unwrap_or(UNKNOWN);
    Some((status, text("grpc-message").unwrap_or_default().to_owned()))
}

/// Whether a status says that nothing was done: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED,
/// RESOURCE_EXHAUSTED, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED. etcd says
/// UNAVAILABLE both before and after it has proposed a write.
fn is_refusal(status: u16) -> bool {
    matches!(status, 3 | 5 | 7 | 8 | 9 | 11 | 12 | 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A KV service of a few answers, over real HTTP/2: what lanes see of statuses and breaks.
    #[tokio::test]
    async fn calls_share_a_connection_and_survive_its_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server: Server = listener.local_addr().unwrap().to_string().parse().unwrap();
        let served = tokio::spawn(async move {
            let mut paths = Vec::new();
            for (turn, answers) in [3, 2].into_iter().enumerate() {
                let (stream, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                for answer in 0..answers {
                    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                    paths.push(request.uri().path().to_owned());
                    let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                    let mut trailers = HeaderMap::new();
                    if answer == 2 && turn == 0 {
                        trailers.insert("grpc-status", "14".parse().unwrap());
                        trailers.insert("grpc-message", "no leader".parse().unwrap());
                    } else {
                        let found: &[u8] = if answer == turn { &[] } else { &[0x12, 0] };
                        let mut message = BytesMut::new();
                        begin(&mut message);
                        message.put_slice(found);
                        stream.send_data(finish(&mut message), false).unwrap();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                    }
                    stream.send_trailers(trailers).unwrap();
                }
                connection.graceful_shutdown();
                // What still comes is not begun.
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            }
            paths
        });
        let shared = Arc::new(Shared::new(vec![server], 0));
        let (mut one, mut other) = (Etcd::new(shared.clone()), Etcd::new(shared));
        assert_eq!(one.get(1).await, Ok(Done { absent: true, cells: 0 }));
        assert_eq!(other.get(1).await, Ok(Done { absent: false, cells: 0 }));
        let failure = one.put(1, b"v").await.unwrap_err();
        assert_eq!((failure.cause, failure.outcome), (Cause::Grpc(14), Outcome::Unknown));
        assert_eq!(failure.detail, "no leader");
        // Both go elsewhere: the one as it was told to, the other as the connection takes no more.
        assert_eq!(other.put(2, b"v").await, Ok(Done::default()));
        assert_eq!(one.get(3).await, Ok(Done { absent: true, cells: 0 }));
        drop((one, other));
        let (range, put) = ("/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put");
        assert_eq!(served.await.unwrap(), [range, range, put, put, range]);
    }
}
