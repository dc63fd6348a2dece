//! `/ping`, `/workers`, and the orders that move workers.

use std::net::IpAddr;

use crate::harness::{Cluster, HEAL, Http, Spec, eventually, free_port};

/// The lines of `/workers`, checked for their form.
async fn workers(node: Http) -> Vec<(String, String)> {
    let answer = node.get("/workers").await.is(200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    let text = answer.text();
    let mut lines = text.lines();
    let count: usize = lines.next().unwrap().parse().unwrap();
    let workers: Vec<_> = lines
        .map(|line| {
            let (id, addr) = line.split_once(',').unwrap_or_else(|| panic!("{text}"));
            let (ip, port) = addr.rsplit_once(':').unwrap();
            ip.parse::<IpAddr>().unwrap();
            port.parse::<u16>().unwrap();
            (id.to_owned(), addr.to_owned())
        })
        .collect();
    assert_eq!(workers.len(), count, "{text}");
    workers
}

#[tokio::test]
async fn every_node_lists_the_active_workers() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        let listed = workers(node).await;
        for worker in cluster.workers() {
            let line = (worker.id(), format!("127.0.0.1:{}", worker.port));
            assert!(listed.contains(&line), "{listed:?}");
        }
    }
}

#[tokio::test]
async fn an_id_is_five_lower_case_letters() {
    let cluster = Cluster::shared().await;
    for worker in cluster.workers() {
        let id = worker.id();
        assert!(id.len() == 5 && id.bytes().all(|byte| byte.is_ascii_lowercase()), "{id}");
    }
}

#[tokio::test]
async fn a_ping_registers_through_any_node() {
    let cluster = Cluster::shared().await;
    for (index, node) in cluster.each().enumerate() {
        let (id, port) = (format!("Pinged_{index}.x-1"), 40_000 + index);
        let method = if index % 2 == 0 { "GET" } else { "POST" };
        node.call(method, format!("/ping?id={id}&port={port}")).await.says("OK");
        let line = (id.clone(), format!("127.0.0.1:{port}"));
        for other in cluster.each() {
            assert!(workers(other).await.contains(&line), "{id} at {}", other.port);
        }
        // A renewal at another port moves it.
        node.get(format!("/ping?id={id}&port={}", port + 100)).await.says("OK");
        let moved = (id.clone(), format!("127.0.0.1:{}", port + 100));
        let listed = workers(cluster.any()).await;
        assert!(listed.contains(&moved) && !listed.contains(&line), "{listed:?}");
        // It is shown, but it gets no data.
        let status = cluster.status().await.unwrap();
        let worker =
            status["workers"].as_array().unwrap().iter().find(|worker| worker["id"] == id).unwrap().clone();
        assert_eq!((&worker["joined"], &worker["holds"]), (&false.into(), &0.into()), "{worker}");
        assert!(worker["last_ping"].as_str().is_some_and(|at| at.ends_with('Z')), "{worker}");
    }
}

#[tokio::test]
async fn a_malformed_ping_is_refused() {
    let cluster = Cluster::shared().await;
    let long = "x".repeat(65);
    for node in cluster.each() {
        for query in [
            "",
            "?id=a",
            "?port=1",
            "?id=&port=1",
            "?id=a&port=",
            "?id=a&port=x",
            "?id=a&port=0",
            "?id=a&port=65536",
            "?id=a&port=-1",
            "?id=a%20b&port=1",
            "?id=a%2Fb&port=1",
            "?id=%C3%A9&port=1",
            "?id=a,b&port=1",
            "?id=a%0Ab&port=1",
            &format!("?id={long}&port=1"),
        ] {
            node.get(format!("/ping{query}")).await.problem(400);
        }
    }
    let listed = workers(cluster.any()).await;
    assert!(!listed.iter().any(|(id, _)| id == "a"), "{listed:?}");
}

#[tokio::test]
async fn whoever_no_longer_pings_is_not_active() {
    let spec = Spec { settings: "ping_interval = \"200ms\"\ninactive_after = \"1s\"", ..Spec::one() };
    let cluster = Cluster::start("inactive", spec).await;
    let node = cluster.any();
    node.get("/ping?id=silent&port=9").await.says("OK");
    let has_silent = async || workers(node).await.iter().any(|(id, _)| id == "silent");
    assert!(has_silent().await);
    eventually("a silent worker leaves the list", HEAL, async || {
        if has_silent().await { Err("it is listed".into()) } else { Ok(()) }
    })
    .await;
    // It is remembered, and its real neighbour stays.
    let status = cluster.status().await.unwrap();
    let silent =
        status["workers"].as_array().unwrap().iter().find(|worker| worker["id"] == "silent").unwrap().clone();
    assert_eq!(silent["active"], false, "{silent}");
    assert_eq!(workers(node).await.len(), 1);
    node.get("/ping?id=silent&port=9").await.says("OK");
    assert!(has_silent().await);
}

#[tokio::test]
async fn orders_that_cannot_be_obeyed_are_refused() {
    let cluster = Cluster::shared().await;
    for node in cluster.each() {
        node.call("POST", "/cluster/workers/nobody/drain").await.problem(404);
        node.call("DELETE", "/cluster/workers/nobody").await.problem(404);
        node.call("POST", "/cluster/workers/a%20b/drain").await.problem(400);
        for addr in ["", "?addr=", "?addr=x", "?addr=x:0", "?addr=x:99999"] {
            node.call("POST", format!("/cluster/join{addr}")).await.problem(400);
        }
        // A member cannot join.
        node.call("POST", format!("/cluster/join?addr=127.0.0.1:{}", cluster.worker(0).port))
            .await
            .problem(409);
        // Nobody answers there.
        node.call("POST", format!("/cluster/join?addr=127.0.0.1:{}", free_port())).await.problem(503);
    }
    let status = cluster.status().await.unwrap();
    assert_eq!(status["moves"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn the_last_worker_stays() {
    let cluster = Cluster::start("last-worker", Spec::one()).await;
    cluster.any().put("/kv/last", "x").await.is(200);
    let path = format!("/cluster/workers/{}", cluster.worker(0).id());
    for node in cluster.each() {
        // What it keeps has nowhere to go, and is nowhere else.
        node.call("POST", format!("{path}/drain")).await.problem(409);
        node.call("DELETE", &path).await.problem(409);
        node.get("/kv/last").await.says("x");
    }
    let status = cluster.status().await.unwrap();
    assert_eq!(status["workers"][0]["draining"], false, "{status}");
}
