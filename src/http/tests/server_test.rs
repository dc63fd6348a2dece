//! Connections: bounds of heads and bodies, garbage, keep-alive, upgrades, the end.

use std::{io::Write as _, time::Duration};

use super::*;
use crate::http::limits::{MAX_REQUESTS_IN_FLIGHT, MAX_STREAMS};

/// A connection that is kept open.
struct Client(TcpStream, Vec<u8>);

impl Client {
    async fn connect(server: &Server) -> Self {
        Self(TcpStream::connect(server.addr).await.unwrap(), Vec::new())
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Reads one answer, whose length is declared.
    async fn answer(&mut self) -> Answer {
        self.answer_or_end().await.unwrap_or_else(|| panic!("closed after {:?}", self.1))
    }

    /// Reads one answer; `None` where the connection ends without.
    async fn answer_or_end(&mut self) -> Option<Answer> {
        loop {
            if let Some(end) = self.1.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(self.1[..end].to_vec()).unwrap().to_lowercase();
                let length = head
                    .split("content-length: ")
                    .nth(1)
                    .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
                if self.1.len() >= end + 4 + length {
                    let rest = self.1.split_off(end + 4 + length);
                    return Some(Answer::parse(&std::mem::replace(&mut self.1, rest), false));
                }
            }
            if !matches!(self.0.read_buf(&mut self.1).await, Ok(count) if count > 0) {
                return None;
            }
        }
    }

    async fn is_closed(&mut self) -> bool {
        matches!(self.0.read_buf(&mut self.1).await, Ok(0) | Err(_))
    }
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let server = Server::start().await;
    for garbage in [
        &b"garbage\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /kv/k HTTP/1.1\r\nno colon here\r\n\r\n",
        b"PUT /kv/k HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET /\xff\xfe\x01 HTTP/1.1\r\n\r\n",
    ] {
        let answer = server.raw(garbage).await;
        answer.problem(400);
        assert_eq!(answer.header("connection"), Some("close"));
    }
    // A head that never ends is no request: the connection just ends.
    let mut half = Client::connect(&server).await;
    half.write(b"GET /kv/k HTT").await;
    half.0.shutdown().await.unwrap();
    assert!(half.is_closed().await);
    let mut random = Client::connect(&server).await;
    let noise: Vec<u8> = (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let _ = random.0.write_all(&noise).await;
    server.get("/healthz").await.ok();
}

#[tokio::test]
async fn garbage_on_a_kept_connection_is_a_problem_too() {
    let server = Server::start().await;
    let mut client = Client::connect(&server).await;
    for _ in 0..3 {
        client.write(b"GET /healthz HTTP/1.1\r\n\r\n").await;
        client.answer().await.ok();
    }
    client.write(b"GARBAGE\r\n\r\n").await;
    client.answer().await.problem(400);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn long_urls_and_headers_are_refused() {
    let server = Server::start().await;
    for bytes in [(32 << 10) + 1, 60 << 10, 70 << 10, 90 << 10, 200 << 10] {
        let answer = server.get(&format!("/kv/{}", "x".repeat(bytes))).await;
        assert_eq!(answer.status, 414, "{bytes}");
        answer.problem(414);
    }
    // Within the bound of URLs, too long for a name.
    server.get(&format!("/kv/{}", "x".repeat(30 << 10))).await.problem(400);
    for bytes in [(64 << 10) + 1, 90 << 10, 200 << 10] {
        let answer = server.send("GET", "/healthz", &[("x-long", &"x".repeat(bytes))], b"").await;
        assert_eq!(answer.status, 431, "{bytes}");
        answer.problem(431);
    }
    let many: Vec<_> = (0..101).map(|i| format!("x-{i}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "x")).collect();
    server.send("GET", "/healthz", &many, b"").await.problem(431);
    server.send("GET", "/healthz", &[("x-long", &"x".repeat(63 << 10))], b"").await.ok();
}

#[tokio::test]
async fn a_body_too_large_is_refused_before_it_is_read() {
    let server = Server::start().await;
    let mut client = Client::connect(&server).await;
    client.write(b"PUT /kv/k HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 65537\r\n\r\n").await;
    client.answer().await.problem(413);

    let mut client = Client::connect(&server).await;
    client.write(b"PUT /kv/k HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    let mut go_on = [0; 25];
    client.0.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write(b"ok").await;
    client.answer().await.ok();

    // A client that sends all before it looks for the answer can do so, and finds it.
    let mut client = Client::connect(&server).await;
    client.write(b"PUT /kv/large HTTP/1.1\r\ncontent-length: 16777216\r\n\r\n").await;
    client.write(&vec![b'x'; 16 << 20]).await;
    client.answer().await.problem(413);
    assert!(client.is_closed().await);
    server.get("/kv/large").await.problem(404);
    server.put("/kv/large", &vec![b'x'; 64 << 10]).await.ok();
}

#[tokio::test]
async fn chunked_bodies_are_taken_and_counted() {
    let server = Server::start().await;
    let chunked = |chunks: &str| {
        format!("PUT /kv/k HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunks}")
    };
    server.raw(chunked("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").as_bytes()).await.ok();
    assert_eq!(server.get("/kv/k").await.ok().text(), "abcde");
    let piece = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    server.raw(chunked(&format!("{}0\r\n\r\n", piece.repeat(4))).as_bytes()).await.ok();
    server.raw(chunked(&format!("{}0\r\n\r\n", piece.repeat(5))).as_bytes()).await.problem(413);
    server.raw(chunked("zz\r\nabc\r\n").as_bytes()).await.problem(400);
}

#[tokio::test]
async fn a_half_sent_body_changes_nothing() {
    let server = Server::start().await;
    for half in [
        &b"PUT /kv/k HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc"[..],
        b"PUT /kv/k HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"POST /batch HTTP/1.1\r\ncontent-length: 100\r\n\r\n[{\"op\":\"put\",\"key\":\"k\",\"value\":\"v\"}]",
    ] {
        server.raw(half).await.problem(400);
    }
    assert_eq!(server.model.proposals(), 0);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let server = Server::start().await;
    server.model.set(|settings| settings.request_timeout_ms = 50);
    let mut client = Client::connect(&server).await;
    client.write(b"PUT /kv/k HTTP/1.1\r\ncontent-length: 10\r\n\r\nabc").await;
    client.answer().await.problem(408);
    assert!(client.is_closed().await);
    assert_eq!(server.model.proposals(), 0);
}

#[tokio::test]
async fn a_body_without_a_length_is_refused() {
    let server = Server::start().await;
    for line in ["PUT /kv/k", "PATCH /data/t/r", "POST /batch", "POST /message"] {
        server.raw(format!("{line} HTTP/1.1\r\nconnection: close\r\n\r\n").as_bytes()).await.problem(411);
    }
    server.send("PUT", "/kv/k", &[("content-encoding", "gzip")], b"x").await.problem(415);
    server.send("PUT", "/kv/k", &[("content-range", "bytes 0-0/2")], b"x").await.problem(400);
    server.send("POST", "/ping?id=a&port=1", &[], b"").await.ok();
}

#[tokio::test]
async fn a_connection_carries_many_requests() {
    let server = Server::start().await;
    let mut client = Client::connect(&server).await;
    for i in 0..20 {
        client.write(format!("PUT /kv/k HTTP/1.1\r\ncontent-length: 2\r\n\r\n{i:02}").as_bytes()).await;
        client.answer().await.ok();
        client.write(b"GET /kv/other HTTP/1.1\r\n\r\n").await;
        client.answer().await.problem(404);
    }
    // Three at once, answered in order; that to HEAD has a length and no body.
    client.write(b"GET /kv/k HTTP/1.1\r\n\r\nHEAD /kv/k HTTP/1.1\r\n\r\n").await;
    client.write(b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    let mut received = String::new();
    client.0.read_to_string(&mut received).await.unwrap();
    let answers: Vec<_> = received.split("HTTP/1.1 200 OK\r\n").collect();
    assert_eq!(answers.len(), 4, "{received}");
    assert!(answers[1].ends_with("\r\n\r\n19") && answers[3].ends_with("\r\n\r\nOK"), "{received}");
    assert!(answers[2].ends_with("\r\n\r\n") && answers[2].contains("content-length: 2\r\n"), "{received}");
}

#[tokio::test]
async fn a_peer_leaves_http() {
    let mut server = Server::start().await;
    for path in ["/peer", "/"] {
        let mut client = Client::connect(&server).await;
        let request =
            format!("GET {path} HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: quoring-peer/1\r\n\r\n");
        client.write(request.as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("upgrade")), (101, Some("quoring-peer/1")));
        let mut stream = server.upgrades.recv().await.unwrap();
        assert_eq!(stream.addr, client.0.local_addr().unwrap());
        client.write(b"frame").await;
        let mut frames = [0; 5];
        stream.socket.read_exact(&mut frames).await.unwrap();
        assert_eq!(&frames, b"frame");
        stream.socket.write_all(b"HTTP/1.1 400 is only bytes here").await.unwrap();
        let mut frames = [0; 31];
        client.0.read_exact(&mut frames).await.unwrap();
        assert_eq!(&frames, b"HTTP/1.1 400 is only bytes here");
    }
    let upgrade = |headers: &str| format!("GET /peer HTTP/1.1\r\n{headers}\r\n\r\n");
    server.raw(upgrade("upgrade: quoring-peer/1\r\nhost: x").as_bytes()).await.problem(400);
    server.raw(upgrade("connection: upgrade, close\r\nupgrade: websocket").as_bytes()).await.problem(404);
}

#[tokio::test]
async fn work_beyond_its_bound_is_refused_and_the_rest_goes_on() {
    let server = Server::start().await;
    let all =
        Arc::clone(&server.front.requests).acquire_many_owned(MAX_REQUESTS_IN_FLIGHT as u32).await.unwrap();
    for answer in [server.get("/kv/k").await, server.put("/kv/k", b"v").await, server.get("/data").await] {
        answer.problem(429);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    for target in ["/healthz", "/metrics", "/", "/ping?id=a&port=1"] {
        server.get(target).await.ok();
    }
    drop(all);
    server.put("/kv/k", b"v").await.ok();
    let all = Arc::clone(&server.front.streams).acquire_many_owned(MAX_STREAMS as u32).await.unwrap();
    server.send("GET", "/kv", &[("accept", "application/x-ndjson")], b"").await.problem(429);
    server.get("/kv").await.ok();
    drop(all);
    server.send("GET", "/kv", &[("accept", "application/x-ndjson")], b"").await.ok();
    assert_eq!(server.front.requests.available_permits(), MAX_REQUESTS_IN_FLIGHT);
}

#[tokio::test]
async fn connections_beyond_their_bound_are_for_nodes_and_probes() {
    let mut server = Server::with(Model::new(Partitioner::Xxh3, &QUARTERS), Ok(()), (2, 1)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&server).await;
        client.write(b"GET /healthz HTTP/1.1\r\n\r\n").await;
        client.answer().await.ok();
        held.push(client);
    }
    // A place is free again once the server has seen the end of the connection before, which may
    // be later than its client has: until then it ends the next one unanswered.
    let one = async |server: &Server, request: &[u8]| loop {
        let mut client = Client::connect(server).await;
        let _ = client.0.write_all(request).await;
        if let Some(answer) = client.answer_or_end().await {
            break (answer, client);
        }
    };
    for (target, status) in [("/kv/k", 429), ("/healthz", 200), ("/data", 429), ("/readyz", 200)] {
        let (answer, mut client) = one(&server, format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).await;
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{target}");
        assert!(client.is_closed().await);
    }
    let upgrade = b"GET /peer HTTP/1.1\r\nconnection: upgrade\r\nupgrade: quoring-peer/1\r\n\r\n";
    let (answer, _peer) = one(&server, upgrade).await;
    assert_eq!(answer.status, 101);
    server.upgrades.recv().await.unwrap();
    drop(held.pop());
    while one(&server, b"GET /kv/k HTTP/1.1\r\n\r\n").await.0.status != 404 {}
}

#[tokio::test]
async fn the_server_stops_when_its_requests_are_done() {
    let server = Server::start().await;
    let mut idle = Client::connect(&server).await;
    idle.write(b"GET /healthz HTTP/1.1\r\n\r\n").await;
    idle.answer().await.ok();
    let mut silent = Client::connect(&server).await;
    let mut busy = Client::connect(&server).await;
    busy.write(b"PUT /kv/k HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    let mut go_on = [0; 25];
    busy.0.read_exact(&mut go_on).await.unwrap();
    let (addr, model) = (server.addr, Arc::clone(&server.model));
    let stopping = tokio::spawn(server.stop());
    assert!(idle.is_closed().await);
    assert!(silent.is_closed().await);
    busy.write(b"last").await;
    let answer = busy.answer().await.ok();
    assert_eq!(answer.header("connection"), Some("close"));
    stopping.await.unwrap();
    assert_eq!(model.proposals(), 1);
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_server_that_leaves_answers_what_still_comes() {
    let server = Server::start().await;
    let mut kept = Client::connect(&server).await;
    kept.write(b"GET /healthz HTTP/1.1\r\n\r\n").await;
    assert_eq!(kept.answer().await.ok().header("connection"), None);
    let mut silent = Client::connect(&server).await;
    let mut idle = Client::connect(&server).await;
    let mut half = Client::connect(&server).await;
    half.write(b"PUT /kv/k HTTP/1.1\r\n").await;
    server.front.leaving.send_replace(true);
    // The node still hands its leaderships over: whoever comes now is taken.
    let mut late = Client::connect(&server).await;
    for client in [&mut kept, &mut silent, &mut late] {
        // Sent ahead, and not answered: the end of the connection says so.
        client.write(b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n").await;
        assert_eq!(client.answer().await.ok().header("connection"), Some("close"));
        assert!(client.is_closed().await && client.1.is_empty());
    }
    // The one is closed in the end, the other is not idle.
    assert!(idle.is_closed().await);
    half.write(b"content-length: 1\r\n\r\nx").await;
    assert_eq!(half.answer().await.ok().header("connection"), Some("close"));
    server.stop().await;
}

#[tokio::test]
async fn connections_that_the_system_has_accepted_are_served_before_the_end() {
    let server = Server::start().await;
    // The server's task does not run before all of this is done.
    let mut waiting: Vec<_> = (0..30)
        .map(|_| {
            let mut socket = std::net::TcpStream::connect(server.addr).unwrap();
            socket.write_all(b"PUT /kv/k HTTP/1.1\r\ncontent-length: 1\r\n\r\nx").unwrap();
            socket.set_nonblocking(true).unwrap();
            Client(TcpStream::from_std(socket).unwrap(), Vec::new())
        })
        .collect();
    let addr = server.addr;
    let stopping = tokio::spawn(server.stop());
    for client in &mut waiting {
        assert_eq!(client.answer().await.ok().header("connection"), Some("close"));
    }
    stopping.await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn the_server_cuts_what_does_not_end() {
    let server = Server::start().await;
    server.model.fall_silent();
    let mut stuck = Client::connect(&server).await;
    stuck.write(b"GET /kv/k HTTP/1.1\r\n\r\n").await;
    let mut half = Client::connect(&server).await;
    half.write(b"GET /kv/k HTTP/1.1\r\n").await;
    tokio::time::timeout(Duration::from_secs(30), server.stop()).await.expect("it stops");
    assert!(stuck.is_closed().await && half.is_closed().await);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let server = Server::start().await;
    server.model.set(|settings| settings.request_timeout_ms = 10);
    for _ in 0..50 {
        let mut client = Client::connect(&server).await;
        client.write(b"PUT /kv/k HTTP/1.1\r\ncontent-length: 100000\r\n\r\nabc").await;
    }
    for _ in 0..50 {
        let mut client = Client::connect(&server).await;
        client.write(b"GET /kv/k HTTP/1.1\r\n\r\n").await;
    }
    server.get("/healthz").await.ok();
    server.stop().await;
}
