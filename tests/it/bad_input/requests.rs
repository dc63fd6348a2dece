//! Bytes that are no request, and requests that do not end.

use crate::harness::{Cluster, HEAL, Raw, eventually};

#[tokio::test]
async fn garbage_on_the_port_is_told_so() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        for garbage in [
            &b"hello\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\0\0\0\0\0\0\0\0\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET  /kv/a HTTP/1.1\r\nbad header\r\n\r\n",
            b"PUT /kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
            b"PUT /kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            b"PUT /kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy",
        ] {
            let mut raw = Raw::connect(node.port).await;
            let answer = raw.send(garbage).await.finish().await.answer().await;
            let (status, text) = answer.unwrap_or_else(|| panic!("no answer to {garbage:?}"));
            assert_eq!(status, 400, "{garbage:?}: {text}");
            assert!(text.contains("application/problem+json"), "{text}");
        }
        node.get("/healthz").await.is(200);
    }
}

#[tokio::test]
async fn a_half_sent_body_is_not_applied() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let mut raw = Raw::connect(node.port).await;
        raw.send("PUT /kv/half HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await;
        drop(raw);
        let mut raw = Raw::connect(node.port).await;
        raw.send("PUT /kv/half HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await.finish().await;
        if let Some((status, text)) = raw.answer().await {
            assert_eq!(status, 400, "{text}");
        }
        let mut raw = Raw::connect(node.port).await;
        raw.send("PUT /kv/half HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await
            .finish()
            .await;
        if let Some((status, text)) = raw.answer().await {
            assert_eq!(status, 400, "{text}");
        }
        let mut raw = Raw::connect(node.port).await;
        raw.send("PUT /kv/half HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf\r\n")
            .await;
        if let Some((status, text)) = raw.answer().await {
            assert_eq!(status, 400, "{text}");
        }
        // A write after them tells that none of them is still under way.
        node.put("/kv/half-next", "x").await.is(200);
        node.get("/kv/half").await.problem(404);
    }
}

#[tokio::test]
async fn a_stalled_body_is_given_up() {
    let cluster = Cluster::shared().await;
    let mut raw = Raw::connect(cluster.any().port).await;
    raw.send("PUT /kv/stalled HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await;
    let (status, text) = raw.answer().await.expect("an answer");
    assert_eq!(status, 408, "{text}");
    cluster.any().get("/kv/stalled").await.problem(404);
}

#[tokio::test]
async fn a_false_peer_is_turned_away() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let mut raw = Raw::connect(node.port).await;
        raw.send("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: quoring-peer/1\r\n\r\n").await;
        if let Some((101, _)) = raw.answer().await {
            raw.send([0xff; 4096]).await.finish().await;
            raw.end().await;
        }
        // Another protocol is not spoken; the request is served as it is, or refused.
        let mut raw = Raw::connect(node.port).await;
        raw.send("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await;
        let (status, text) = raw.answer().await.unwrap();
        assert!(matches!(status, 200 | 400 | 426), "{text}");
        node.get("/healthz").await.is(200);
    }
    for node in &cluster.nodes {
        node.check_alive();
    }
    let answer = eventually("the cluster serves", HEAL, async || {
        let answer = cluster.any().put("/kv/after-peers", "x").await;
        if answer.status == 200 { Ok(answer) } else { Err(answer.text()) }
    });
    answer.await;
}

#[tokio::test]
async fn requests_follow_each_other_on_a_connection() {
    let cluster = Cluster::shared().await;
    let mut raw = Raw::connect(cluster.any().port).await;
    // Pipelined, with a refused one between.
    raw.send(
        "PUT /kv/pipelined HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1\
         PUT /kv/%ff HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n\
         GET /kv/pipelined HTTP/1.1\r\nhost: x\r\n\r\n",
    )
    .await;
    assert_eq!(raw.answer().await.unwrap().0, 200);
    assert_eq!(raw.answer().await.unwrap().0, 400);
    let (status, text) = raw.answer().await.unwrap();
    assert!(status == 200 && text.ends_with("\r\n\r\n1"), "{text}");
}
