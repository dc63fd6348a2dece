//! SIGTERM: leaderships are handed over, nothing is lost, and the stop is short.

use std::time::Duration;

use crate::harness::{Cluster, Kept, Load, Raw, Spec, eventually};

/// For a stop. The contract says two seconds; this is a deadline on a busy machine, no measure.
const STOP: Duration = Duration::from_secs(30);

#[tokio::test]
async fn each_node_in_turn_under_load() {
    let cluster = Cluster::start("stop-each", Spec::default()).await;
    let load = Load::start("stop", 6, &cluster.ports());
    load.until_more(100).await;
    for node in &cluster.nodes {
        let status = node.stop(STOP).await;
        assert!(status.success(), "{status}:\n{}", node.log_tail());
        load.until_more(50).await;
        node.start();
        cluster.until_whole().await;
        load.until_more(50).await;
    }
    load.prove(&cluster).await;
}

#[tokio::test]
async fn no_request_over_a_kept_connection_fails() {
    let cluster = Cluster::start("stop-kept", Spec::default()).await;
    cluster.until_whole().await;
    // Some of them always have a request on its way; some rest for less than a node that stops waits for
    // their next one, and some for longer.
    let paces = [0, 300, 0, 300, 0, 2_000].map(Duration::from_millis).repeat(3);
    let clients = Kept::start(&cluster.ports(), &paces);
    for node in &cluster.nodes {
        clients.until_more(200).await;
        let mut idle = Raw::connect(node.port).await;
        let (status, _) = idle.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.answer().await.unwrap();
        assert_eq!(status, 200);
        let before = clients.sent_away();
        let status = node.stop(STOP).await;
        assert!(status.success(), "{status}:\n{}", node.log_tail());
        assert!(idle.is_closed().await, "an idle connection was reset");
        // All that were here are elsewhere by now.
        assert!(clients.sent_away() > before, "nobody was told to go elsewhere");
        clients.until_more(200).await;
        node.start();
        cluster.until_whole().await;
    }
    clients.end().await;
}

#[tokio::test]
async fn leaderships_are_handed_over_before_the_end() {
    let cluster = Cluster::start("stop-hand-over", Spec::default()).await;
    let (leader, followers) = cluster.leader_and_followers("handed").await;
    let id = leader.id();
    cluster.any().put("/kv/handed", "x").await.is(200);
    // Clients of the others, who do not fail even once while it stops.
    let load = Load::start("handed", 3, &followers.iter().map(|node| node.port).collect::<Vec<_>>());
    load.until_more(50).await;
    assert!(leader.stop(STOP).await.success());
    load.until_more(50).await;
    assert_eq!(load.refusals(), Default::default(), "writes failed during a graceful stop");
    load.prove(&cluster).await;
    eventually("the others lead everything", STOP, async || {
        let status = cluster.status().await?;
        let led = |shard: &serde_json::Value| shard["leader"].as_str().is_some_and(|leader| leader != id);
        if status["shards"].as_array().unwrap().iter().all(led) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn all_at_once_and_again() {
    let cluster = Cluster::start("stop-all", Spec::default()).await;
    let load = Load::start("stop-all", 4, &cluster.ports());
    load.until_more(100).await;
    let stops = cluster.nodes.iter().map(|node| node.stop(STOP));
    for status in futures_util::future::join_all(stops).await {
        assert!(status.success(), "{status}");
    }
    cluster.restart_all().await;
    load.until_more(30).await;
    load.prove(&cluster).await;
}
