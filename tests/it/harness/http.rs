//! An HTTP client that does exactly what it is told: one connection per request, nothing tried
//! again, and a failure that tells whether the request can have been sent.

use std::{future::IntoFuture, pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::ports::host_of;

/// Longer than any node may take for an answer (request_timeout + 1.5 s; tests use the default 5 s
/// or less), and then some: a busy machine is no bug.
const PATIENCE: Duration = Duration::from_secs(20);

/// The node at a port of loopback.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http {
    pub(crate) port: u16,
}

/// A path of percent-encoded names.
pub(crate) fn names<const N: usize>(root: &str, names: [&str; N]) -> String {
    names
        .iter()
        .fold(root.to_owned(), |path, name| format!("{path}/{}", utf8_percent_encode(name, NON_ALPHANUMERIC)))
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody took the connection: the request was not sent.
    NotSent(String),
    /// It was sent, or may have been.
    Broken(String),
}

/// A request to be.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    port: u16,
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    patience: Duration,
}

impl Http {
    pub(crate) fn at(port: u16) -> Self {
        Self { port }
    }

    pub(crate) fn call(self, method: &'static str, path: impl Into<String>) -> Call {
        let (port, path) = (self.port, path.into());
        Call { port, method, path, headers: Vec::new(), body: Bytes::new(), patience: PATIENCE }
    }

    pub(crate) fn get(self, path: impl Into<String>) -> Call {
        self.call("GET", path)
    }

    pub(crate) fn head(self, path: impl Into<String>) -> Call {
        self.call("HEAD", path)
    }

    pub(crate) fn put(self, path: impl Into<String>, body: impl Into<Bytes>) -> Call {
        self.call("PUT", path).body(body)
    }

    pub(crate) fn delete(self, path: impl Into<String>) -> Call {
        self.call("DELETE", path)
    }

    pub(crate) fn post(self, path: impl Into<String>, body: &Value) -> Call {
        self.call("POST", path).json(body)
    }

    pub(crate) fn patch(self, path: impl Into<String>, body: &Value) -> Call {
        self.call("PATCH", path).json(body)
    }
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a parameter, `name=value`, to the URL.
    pub(crate) fn query(mut self, pair: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(pair);
        self
    }

    /// The same without the parameters in its URL.
    pub(crate) fn without_query(mut self) -> Self {
        self.path.truncate(self.path.find('?').unwrap_or(self.path.len()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// How long to wait for the answer.
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends it once.
    pub(crate) async fn attempt(&self) -> Result<Answer, Failure> {
        let broken = |error: hyper::Error| Failure::Broken(format!("{self:?}: {error}"));
        let socket = TcpStream::connect((host_of(self.port), self.port)).await;
        let socket = socket.map_err(|error| Failure::NotSent(format!("port {}: {error}", self.port)))?;
        let _ = socket.set_nodelay(true);
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| Failure::NotSent(error.to_string()))?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header("host", format!("127.0.0.1:{}", self.port));
        // An empty PUT says so: without a length it would be a request without a body.
        if self.body.is_empty() && matches!(self.method, "PUT" | "POST" | "PATCH") {
            request = request.header("content-length", "0");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body.clone())).unwrap();
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(broken)?.to_bytes();
            Ok(Answer {
                call: format!("{} {} at {}", self.method, shown(&self.path), self.port),
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        };
        let answer = timeout(self.patience, exchange).await;
        connection.abort();
        answer.unwrap_or_else(|_| Err(Failure::Broken(format!("no answer within {:?}", self.patience))))
    }
}

fn shown(path: &str) -> &str {
    path.get(..80).unwrap_or(path)
}

impl IntoFuture for Call {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    /// Sends it; a test that does not expect a failure fails with it.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match self.attempt().await {
                Ok(answer) => answer,
                Err(failure) => panic!("{} {} at {}: {failure:?}", self.method, shown(&self.path), self.port),
            }
        })
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    call: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.call, self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("headers are ASCII"))
    }

    /// The version in the `ETag`.
    #[track_caller]
    pub(crate) fn version(&self) -> u64 {
        let etag = self.header("etag").unwrap_or_else(|| panic!("{}: no ETag", self.call));
        let digits = etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"'));
        digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{}: ETag {etag}", self.call))
    }

    /// Asserts the status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.call, self.text());
        self
    }

    /// Asserts the body of a 200.
    #[track_caller]
    pub(crate) fn says(self, body: &str) -> Self {
        let this = self.is(200);
        assert_eq!(this.text(), body, "{}", this.call);
        this
    }

    /// Asserts that it is a problem with this status, in the form that the contract gives it, and
    /// returns its members.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.call, self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.call);
        if matches!(status, 429 | 503) {
            let after = self.header("retry-after").and_then(|after| after.parse::<u32>().ok());
            assert!(after.is_some(), "{}: no Retry-After", self.call);
        }
        check_problem(&self.json(), status)
    }
}

/// Asserts the members of a problem (RFC 9457, and the contract's `outcome`).
#[track_caller]
pub(crate) fn check_problem(problem: &Value, status: u16) -> Value {
    assert_eq!(problem["status"], status, "{problem}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {problem}");
    }
    let outcome = if status == 504 { "unknown" } else { "none" };
    assert_eq!(problem["outcome"], outcome, "{problem}");
    problem.clone()
}

/// Asserts by a node's metrics, and its own clock, that every request for a key was answered within a
/// `request_timeout` of 1 s and 1.5 s.
#[track_caller]
pub(crate) fn check_times(metrics: &str) {
    let of = |series: &str, bound: &str| -> f64 {
        let lines = metrics.lines().filter(|line| {
            line.starts_with(series) && line.contains("route=\"/kv/{key}\"") && line.contains(bound)
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let all = of("quoring_http_request_seconds_count", "");
    let in_time = of("quoring_http_request_seconds_bucket", "le=\"2.5\"");
    assert!(all > 0.0 && in_time >= all, "{in_time} of {all} within 2.5 s");
}
