//! The one typed HTTP client of a cluster: for the command line, the shell, tests and load.
//!
//! A client has one or several servers, all of which can answer anything. It stays with one until
//! that fails, and then asks the next, but only where the request cannot have been applied, or may
//! be repeated: reads, and writes with an `Idempotency-Key`. So no write is ever sent twice behind
//! the caller's back. Every request has one deadline, whatever is tried within it.
//!
//! Not here: which shard a key lies in; the servers know.

mod calls;
mod error;
#[cfg(test)]
mod tests;
mod url;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::{Instant, timeout_at};

pub use self::{
    calls::{Column, Got, KeyEntry, Keys, Located, PutOptions, Row, Rows, ScanOptions, Seated},
    error::Error,
    url::{InvalidServer, Key, Server},
};
use crate::{command::Version, error::Outcome};

/// The header that makes a write repeatable.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The most time for one call, whatever is tried within it.
    pub timeout: Duration,
    /// The most time for opening a connection.
    pub connect_timeout: Duration,
    /// The most idle connections kept open per server.
    pub max_idle_per_server: usize,
}

impl Options {
    /// The default of `timeout`: longer than a node with default settings ever takes
    /// (`request_timeout` 5 s + 1.5 s), so that the node's own answer is heard.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Self::DEFAULT_TIMEOUT,
            connect_timeout: Duration::from_secs(2),
            max_idle_per_server: 1024,
        }
    }
}

/// How long an idle connection is kept; less than what a node keeps it for.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer taken, bytes: well above the largest page of a scan.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A client of one cluster; cheap to clone, clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    servers: Vec<Server>,
    /// The index of the server that answered last.
    current: AtomicUsize,
    timeout: Duration,
}

/// A request as a client sends it: to no server in particular.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: PathAndQuery,
    /// The headers; `Host` is added.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// A request without headers or body.
    pub fn new(method: Method, path: PathAndQuery) -> Self {
        Self { method, path, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Whether sending it twice is the same as sending it once.
    fn repeatable(&self) -> bool {
        self.method.is_safe() || self.headers.contains_key(IDEMPOTENCY_KEY)
    }
}

/// A successful answer: its status is below 400.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The version in the `ETag`.
    pub fn version(&self) -> Option<Version> {
        version(&self.headers)
    }
}

fn version(headers: &HeaderMap) -> Option<Version> {
    let tag = headers.get(header::ETAG)?.to_str().ok()?;
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

fn text(value: Option<&HeaderValue>) -> Option<String> {
    value?.to_str().ok().map(str::to_owned)
}

impl Client {
    /// A client of the cluster behind these servers, asked in this order.
    ///
    /// # Panics
    /// Where `servers` is empty.
    pub fn new(servers: Vec<Server>, options: &Options) -> Self {
        assert!(!servers.is_empty(), "a client needs a server");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(options.max_idle_per_server)
            .build(connector);
        let shared = Shared { http, servers, current: AtomicUsize::new(0), timeout: options.timeout };
        Self { shared: Arc::new(shared) }
    }

    /// A client of one server with default options.
    pub fn to(server: &str) -> Result<Self, InvalidServer> {
        Ok(Self::new(vec![server.parse()?], &Options::default()))
    }

    /// The server that is asked first.
    pub fn server(&self) -> &Server {
        &self.shared.servers[self.shared.current.load(Relaxed)]
    }

    /// Sends a request; an answer of 400 and above is an [`Error`].
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let deadline = Instant::now() + self.shared.timeout;
        let count = self.shared.servers.len();
        let first = self.shared.current.load(Relaxed);
        let mut outcome = Outcome::None;
        let mut tried = 0;
        loop {
            let index = (first + tried) % count;
            tried += 1;
            // Path and body are shared: a copy costs no more than its headers.
            let error = match self.attempt(&self.shared.servers[index], request.clone(), deadline).await {
                Ok(response) => {
                    if tried > 1 {
                        self.shared.current.store(index, Relaxed);
                    }
                    return Ok(response);
                }
                Err(error) => error,
            };
            if error.outcome() == Outcome::Unknown {
                outcome = Outcome::Unknown;
            }
            let safe = error.may_ask_another() && (error.outcome() == Outcome::None || request.repeatable());
            if !safe || tried == count || Instant::now() >= deadline {
                return Err(error.with_outcome(outcome));
            }
        }
    }

    async fn attempt(&self, server: &Server, request: Request, deadline: Instant) -> Result<Response, Error> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(server.authority().clone());
        parts.path_and_query = Some(request.path);
        let uri = Uri::from_parts(parts).map_err(|error| Error::not_sent(server, &error))?;
        let writes = !request.method.is_safe();
        let mut sent = http::Request::new(Full::new(request.body));
        *sent.method_mut() = request.method;
        *sent.uri_mut() = uri;
        *sent.headers_mut() = request.headers;
        let exchange = async {
            let answer = self.shared.http.request(sent).await.map_err(|error| {
                if error.is_connect() {
                    Error::not_sent(server, &error)
                } else {
                    Error::broken(server, &error, writes)
                }
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| Error::broken(server, error.as_ref(), writes))?.to_bytes();
            Ok(Response { status: head.status, headers: head.headers, body })
        };
        let response = match timeout_at(deadline, exchange).await {
            Ok(response) => response?,
            Err(_) => return Err(Error::timed_out(server, self.shared.timeout, writes)),
        };
        if response.status.as_u16() < 400 { Ok(response) } else { Err(Error::answered(server, &response)) }
    }
}
