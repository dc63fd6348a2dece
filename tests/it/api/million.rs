//! A table of 1,000,000 rows, read as one stream by a client that reads slowly, while leaders change:
//! whole, without a row twice, and in memory that does not depend on the number of rows, at both ends.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future::join_all, stream};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpSocket,
};

use crate::harness::{Cluster, HEAL, Http, Node, Spec, eventually, own_memory, spawn_quoring};

const ROWS: usize = 1_000_000;

/// Rows in one batch: as many as it may have operations.
const BATCH: usize = 10_000;

/// Batches on their way at once.
const AT_ONCE: usize = 4;

/// What the client's kernel may hold of the stream, bytes: the node cannot send ahead.
const RECEIVE_BUFFER: u32 = 16 << 10;

/// The most that a process may grow by while it sends or receives the whole table, bytes. A page
/// takes a few MiB, RocksDB's cache [`CACHE`], and the allocator keeps some of what was freed.
const GROWTH: u64 = 32 << 20;

/// The most streams that a node sends at once.
const STREAMS: usize = 64;

/// Small, so that the caches are full before memory is first looked at.
const CACHE: &[&str] = &["--cache=8MiB"];

/// Rows by number, each at most once.
struct Seen {
    bits: Vec<u64>,
    count: usize,
    bytes: u64,
}

impl Seen {
    fn new() -> Self {
        Self { bits: vec![0; ROWS.div_ceil(64)], count: 0, bytes: 0 }
    }

    /// Takes a line: `{"row":"r0000017",…}`.
    fn take(&mut self, line: &[u8]) {
        let digits = line.strip_prefix(br#"{"row":"r"#).and_then(|rest| rest.get(..7));
        let row = digits.and_then(|digits| str::from_utf8(digits).ok()?.parse::<usize>().ok());
        let row = row.unwrap_or_else(|| panic!("no row: {}", String::from_utf8_lossy(line)));
        assert!(line.ends_with(b"}}}"), "{}", String::from_utf8_lossy(line));
        let (word, bit) = (row / 64, 1 << (row % 64));
        assert_eq!(self.bits[word] & bit, 0, "row {row} came twice");
        self.bits[word] |= bit;
        self.count += 1;
        self.bytes += line.len() as u64 + 1;
    }
}

/// The batch that writes these rows.
fn batch(rows: Range<usize>) -> String {
    let ops = rows.map(|row| {
        format!(
            r#"{{"op":"put","table":"million","row":"r{row:07}","column":"c","value":"value of row {row}"}}"#
        )
    });
    format!("[{}]", ops.collect::<Vec<_>>().join(","))
}

async fn fill(cluster: &Cluster) {
    let nodes: Vec<Http> = cluster.workers().map(Node::http).collect();
    let batches = (0..ROWS / BATCH).map(|number| {
        let node = nodes[number % nodes.len()];
        async move {
            let rows = number * BATCH..(number + 1) * BATCH;
            let answer = node.call("POST", "/batch").body(batch(rows)).await.is(200);
            let done = answer.text().matches(r#"{"status":200,"#).count();
            assert_eq!(done, BATCH, "{}", &answer.text()[..1_000]);
        }
    });
    stream::iter(batches).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

/// The whole table as a stream, over a connection that holds little of it.
struct Streamed {
    body: Incoming,
    rest: BytesMut,
}

impl Streamed {
    async fn open(node: Http) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        let socket = socket.connect(([127, 0, 0, 1], node.port).into()).await.unwrap();
        let mut http = http1::Builder::new();
        let (mut sender, connection) =
            http.max_buf_size(RECEIVE_BUFFER as usize).handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/data/million").header("host", "x");
        let request = request.header("accept", "application/x-ndjson").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        Self { body: answer.into_body(), rest: BytesMut::new() }
    }

    /// Reads until there are `upto` rows, or the stream ends.
    async fn read(&mut self, seen: &mut Seen, upto: usize) {
        while seen.count < upto {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                seen.take(&self.rest.split_to(end + 1)[..end]);
                continue;
            }
            let Some(frame) = self.body.frame().await else {
                assert!(self.rest.is_empty(), "half a line: {:?}", self.rest);
                return;
            };
            self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
    }
}

fn memory(nodes: &[&Node]) -> Vec<u64> {
    nodes.iter().map(|node| node.own_memory()).collect()
}

/// Asserts that no process has grown by more than [`GROWTH`].
#[track_caller]
fn check_growth(before: &[u64], after: &[u64]) {
    for (before, after) in before.iter().zip(after) {
        assert!(after.saturating_sub(*before) < GROWTH, "grown from {before:?} to {after:?}");
    }
}

/// Streams that nobody reads hold their places; one more is refused, until there is a place again.
async fn check_bound(node: Http) {
    let streams = join_all((0..STREAMS).map(|_| Streamed::open(node))).await;
    let more = node.get("/data/million?limit=1").header("accept", "application/x-ndjson");
    more.clone().await.problem(429);
    drop(streams);
    eventually("there is a place for a stream", HEAL, async || {
        let answer = more.clone().await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_a_million_rows_takes_no_more_memory_than_a_page() {
    let spec = Spec { coordinators: 1, shards: 6, args: CACHE, ..Spec::default() };
    let cluster = Cluster::start("million", spec).await;
    fill(&cluster).await;

    let front = cluster.coordinators().next().unwrap();
    let mut stream = Streamed::open(front.http()).await;
    let mut seen = Seen::new();

    // A quarter on everything that grows with use has grown.
    stream.read(&mut seen, ROWS / 4).await;
    let (leader, others) = cluster.leader_and_followers("r0000000").await;
    let watched: Vec<_> = others.into_iter().chain([front]).collect();
    let before = memory(&watched);

    // The client waits, and so does the stream, until others lead what the killed worker led.
    let id = leader.id();
    leader.kill();
    eventually("every shard has another leader", HEAL, async || {
        let status = cluster.status().await?;
        let led = status["shards"]
            .as_array()
            .unwrap()
            .iter()
            .all(|shard| shard["leader"].as_str().is_some_and(|leader| leader != id));
        if led { Ok(()) } else { Err(status["shards"].to_string()) }
    })
    .await;
    for part in 2..=4 {
        stream.read(&mut seen, ROWS / 4 * part).await;
        check_growth(&before, &memory(&watched));
    }
    stream.read(&mut seen, usize::MAX).await;
    assert_eq!(seen.count, ROWS);
    assert!(seen.bytes > 2 * GROWTH, "the bound would prove nothing of {} bytes", seen.bytes);

    check_bound(front.http()).await;

    // The command line, at the other end, and a pipe that is read slowly.
    let server = format!("http://127.0.0.1:{}", front.port);
    let mut list = spawn_quoring(cluster.dir.path(), &["list", "million", "--server", &server]);
    let pid = list.id().unwrap();
    let mut lines = BufReader::new(list.stdout.take().unwrap());
    let mut seen = Seen::new();
    let mut line = Vec::new();
    let mut before = 0;
    while lines.read_until(b'\n', &mut line).await.unwrap() > 0 {
        seen.take(line.strip_suffix(b"\n").unwrap());
        line.clear();
        match seen.count {
            100_000 => before = own_memory(pid),
            900_000 => check_growth(&[before], &[own_memory(pid)]),
            _ => {}
        }
    }
    assert_eq!(seen.count, ROWS);
    assert!(list.wait().await.unwrap().success());
}
