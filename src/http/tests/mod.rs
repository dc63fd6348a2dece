//! Tests of the front-end over real sockets, before a model of the cluster.

mod batch_test;
mod cells_test;
mod cluster_test;
mod lists_test;
pub(crate) mod model;
mod rows_test;
mod server_test;

use std::{net::SocketAddr, sync::Arc};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use self::model::Model;
use super::{
    Context, Front, Identity, Joining, NodeInfo, PeerStream, Role, backend::Backend, server::serve_within,
};
use crate::{config::Partitioner, error::Error};

/// A node that is nothing but a front-end before a model.
struct Node {
    ready: Result<(), String>,
    upgrades: mpsc::UnboundedSender<PeerStream>,
}

impl NodeInfo for Node {
    fn ready(&self) -> Result<(), String> {
        self.ready.clone()
    }

    fn identity(&self) -> Identity {
        Identity { role: Role::Worker, id: "abcde".into(), addr: "127.0.0.1:1".into(), version: "0.0.0" }
    }

    fn measure(&self) {}

    fn upgrade(&self, stream: PeerStream) {
        self.upgrades.send(stream).unwrap();
    }

    fn join(&self, addr: String, _: Instant) -> Joining<'_> {
        Box::pin(async move {
            match addr.as_str() {
                "127.0.0.1:9" => Err(Error::Refused("it belongs to another cluster".into())),
                _ => Ok(()),
            }
        })
    }
}

/// A running server and what is behind it.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) model: Arc<Model>,
    pub(crate) front: Arc<Front>,
    pub(crate) upgrades: mpsc::UnboundedReceiver<PeerStream>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Four shards of equal size.
pub(crate) const QUARTERS: [u64; 4] = [0, 1 << 62, 2 << 62, 3 << 62];

impl Server {
    pub(crate) async fn start() -> Self {
        Self::over(Model::new(Partitioner::Xxh3, &QUARTERS)).await
    }

    pub(crate) async fn over(model: Arc<Model>) -> Self {
        Self::with(model, Ok(()), (1_000, 100)).await
    }

    /// With so many connections for all, and so many beyond for nodes and probes.
    pub(crate) async fn with(
        model: Arc<Model>,
        ready: Result<(), String>,
        connections: (usize, usize),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (upgrades_sender, upgrades) = mpsc::unbounded_channel();
        let node = Arc::new(Node { ready, upgrades: upgrades_sender });
        let prometheus = crate::metrics::install().unwrap();
        let context = Context::with_backend(Backend::Model(Arc::clone(&model)), node, prometheus);
        let front = Arc::clone(&context.0);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            serve_within(connections.0, connections.1, listener, context, async {
                // A test that ends drops its sender, which means to stop as well.
                let _ = stopped.await;
            })
            .await;
        });
        Self { addr, model, front, upgrades, stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    /// Sends a request with a body and headers, on a connection of its own.
    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST" | "PATCH") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        self.raw(&[head.as_bytes(), body].concat()).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], b"").await
    }

    pub(crate) async fn put(&self, target: &str, body: &[u8]) -> Answer {
        self.send("PUT", target, &[], body).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Answer {
        self.send("DELETE", target, &[], b"").await
    }

    pub(crate) async fn post(&self, target: &str, json: &str) -> Answer {
        self.send("POST", target, &[], json.as_bytes()).await
    }

    /// Sends bytes, ends its side, and reads what comes.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut socket = TcpStream::connect(self.addr).await.unwrap();
        // A server that has seen enough may close before all is sent: what counts is its answer.
        let _ = socket.write_all(bytes).await;
        let _ = socket.shutdown().await;
        let mut received = Vec::new();
        let _ = socket.read_to_end(&mut received).await;
        Answer::parse(&received, bytes.starts_with(b"HEAD "))
    }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(received: &[u8], is_head: bool) -> Self {
        let end = received.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end else { panic!("no answer: {:?}", String::from_utf8_lossy(received)) };
        let mut lines = str::from_utf8(&received[..end]).unwrap().split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let headers = lines.map(field).collect();
        let mut answer = Self { status, headers, body: received[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = dechunk(&answer.body);
        } else if !is_head && answer.status != 304 && answer.status != 101 {
            let declared: usize = answer.header("content-length").unwrap().parse().unwrap();
            assert_eq!(answer.body.len(), declared);
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Asserts that it tells an age, which is no less than the model's.
    #[track_caller]
    pub(crate) fn tells_its_age(&self) {
        let age: Option<u128> = self.header("quoring-staleness-ms").map(|age| age.parse().unwrap());
        assert!(age.is_some_and(|age| age >= model::STALENESS.as_millis()), "{self:?}");
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body as a problem of the answer's status.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["outcome"], if status == 504 { "unknown" } else { "none" });
        problem
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{self:?}");
        self
    }
}

fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let length = usize::from_str_radix(str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}
