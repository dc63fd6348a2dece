//! The statuses that mean "too much", or "not so": each provoked for real.

use crate::harness::{Cluster, HEAL, Raw, Spec, eventually};

/// 8 MiB, the default `max_value`.
const MAX_VALUE: usize = 8 << 20;

#[tokio::test]
async fn a_body_too_large_is_refused_before_it_is_read() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        // A client that waits for 100 Continue sends nothing in vain.
        let mut raw = Raw::connect(node.port).await;
        raw.send(format!(
            "PUT /kv/bounds HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            MAX_VALUE + 1
        ))
        .await;
        let (status, text) = raw.answer().await.unwrap();
        assert_eq!(status, 413, "{text}");
        assert!(text.contains("application/problem+json") && text.contains("\"outcome\":\"none\""), "{text}");

        // One that is welcome is told so, and served.
        let mut raw = Raw::connect(node.port).await;
        raw.send("PUT /kv/bounds HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
            .await;
        let (status, text) = raw.answer().await.unwrap();
        assert_eq!(status, 100, "{text}");
        let (status, text) = raw.send("hello").await.answer().await.unwrap();
        assert_eq!(status, 200, "{text}");
    }
    cluster.any().get("/kv/bounds").await.says("hello");
}

#[tokio::test]
async fn chunked_bodies_are_taken_and_bounded() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    let head = "PUT /kv/bounds-chunked HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut raw = Raw::connect(node.port).await;
    let (status, text) =
        raw.send(format!("{head}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).await.answer().await.unwrap();
    assert_eq!(status, 200, "{text}");
    node.get("/kv/bounds-chunked").await.says("abcde");

    let mut raw = Raw::connect(node.port).await;
    raw.send(head).await;
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    for _ in 0..=MAX_VALUE >> 20 {
        raw.send(&chunk).await;
    }
    let (status, text) = raw.answer().await.unwrap();
    assert_eq!(status, 413, "{text}");
    node.get("/kv/bounds-chunked").await.says("abcde");
}

#[tokio::test]
async fn urls_and_headers_are_bounded() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let long = "x".repeat(32 << 10);
        node.get(format!("/kv/a?{long}")).await.problem(414);
        node.get(format!("/kv/a?{}", &long[..30 << 10])).await.problem(404);
        // Far beyond what is ever buffered.
        let mut raw = Raw::connect(node.port).await;
        raw.send(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", long.repeat(8))).await;
        assert_eq!(raw.answer().await.unwrap().0, 414);

        let header = "x".repeat(33 << 10);
        let call = node.get("/kv/bounds-none");
        call.clone().header("x-one", &header).await.problem(404);
        call.header("x-one", &header).header("x-two", &header).await.problem(431);
        let mut raw = Raw::connect(node.port).await;
        raw.send(format!("GET /kv/a HTTP/1.1\r\nhost: x\r\nx-one: {}\r\n\r\n", header.repeat(8))).await;
        assert_eq!(raw.answer().await.unwrap().0, 431);
    }
}

#[tokio::test]
async fn a_write_without_a_body_or_with_a_coded_one() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let mut raw = Raw::connect(node.port).await;
        let (status, text) =
            raw.send("PUT /kv/bounds-411 HTTP/1.1\r\nhost: x\r\n\r\n").await.answer().await.unwrap();
        assert_eq!(status, 411, "{text}");
        node.put("/kv/bounds-415", "x").header("content-encoding", "gzip").await.problem(415);
        let mut raw = Raw::connect(node.port).await;
        let coded =
            "PUT /kv/bounds-501 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
        let (status, text) = raw.send(coded).await.answer().await.unwrap();
        assert_eq!(status, 501, "{text}");
        for key in ["bounds-411", "bounds-415", "bounds-501"] {
            node.get(format!("/kv/{key}")).await.problem(404);
        }
    }
}

#[tokio::test]
async fn bodies_in_memory_are_bounded_and_slow_ones_end() {
    let spec = Spec { settings: "ping_interval = \"500ms\"\nrequest_timeout = \"6s\"", ..Spec::one() };
    let cluster = Cluster::start("bounds", spec).await;
    let node = cluster.worker(0).http();
    // Each declares 8 MiB and sends a little: 256 MiB are held by 32 of them.
    let mut slow = Vec::new();
    for _ in 0..32 {
        let mut raw = Raw::connect(node.port).await;
        raw.send(format!("PUT /kv/slow HTTP/1.1\r\nhost: x\r\ncontent-length: {MAX_VALUE}\r\n\r\nx")).await;
        slow.push(raw);
    }
    // Asked of what takes no such memory: a body of our own could take the place of one of these.
    let full = format!("quoring_http_body_memory_bytes {}", 32 * MAX_VALUE);
    eventually("the memory for bodies is full", HEAL, async || {
        let metrics = node.get("/metrics").await.is(200).text();
        let held = metrics.lines().find(|line| line.starts_with("quoring_http_body_memory_bytes "));
        if held == Some(&full) { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
    node.put("/kv/next", "x".repeat(100_000)).await.problem(429);
    // What needs no such memory is served.
    node.put("/kv/small", "x").await.is(200);
    node.get("/metrics").await.is(200);

    // A body that stalls is given up, and its memory with it.
    for raw in &mut slow {
        let (status, text) = raw.answer().await.expect("an answer before the end");
        assert_eq!(status, 408, "{text}");
        assert!(text.contains("\"outcome\":\"none\""), "{text}");
    }
    node.get("/kv/slow").await.problem(404);
    node.put("/kv/next", "x".repeat(100_000)).await.is(200);
}
