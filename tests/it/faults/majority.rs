//! Shards without a majority: 503 means not applied, 504 means unknown, and no request hangs.

use crate::harness::{Cluster, HEAL, Node, Spec, check_times, eventually};

#[tokio::test]
async fn writes_without_an_answer_are_unknown_then_refused() {
    let cluster = Cluster::start(
        "majority-paused",
        Spec {
            settings: "ping_interval = \"500ms\"
request_timeout = \"2s\"",
            ..Spec::default()
        },
    )
    .await;
    let before = cluster.any().put("/kv/majority", "before").await.is(200).version();
    let mut unknown = Vec::new();
    let mut refused = Vec::new();
    for round in 0..4 {
        let (leader, followers) = cluster.leader_and_followers("majority").await;
        followers.iter().for_each(|node| node.pause());
        // The leader proposes, and nobody answers; once it knows that nobody does, it refuses.
        let told = eventually("the write is refused", HEAL, async || {
            let value = format!("{round}-{}", unknown.len());
            let answer = leader.http().put("/kv/majority", value.clone()).await;
            answer.problem(if answer.status == 504 { 504 } else { 503 });
            if answer.status == 504 {
                unknown.push(value);
                return Err("unknown".into());
            }
            refused.push(value);
            Ok(())
        });
        told.await;
        // Reads are as careful: what cannot be proved is not told.
        leader.http().get("/kv/majority").await.problem(503);
        leader.http().get("/data/kv").await.problem(503);
        let batch = serde_json::json!([{"op": "put", "key": "majority-batch", "value": "x"}]);
        let results = leader.http().post("/batch", &batch).await.is(200).json();
        assert!(matches!(results[0]["status"].as_u64(), Some(503 | 504)), "{results}");
        // A stale read needs no majority.
        let stale = leader.http().get("/kv/majority?consistency=stale").await.is(200);
        assert!(stale.version() >= before);
        followers.iter().for_each(|node| node.resume());
        cluster.until_whole().await;
        let now = eventually("the shard is led again", HEAL, async || {
            let answer = leader.http().get("/kv/majority").await;
            if answer.status == 200 { Ok(answer.text()) } else { Err(answer.text()) }
        })
        .await;
        assert!(!refused.contains(&now), "{now} was refused, and was applied");
        assert!(now == "before" || unknown.contains(&now), "{now}");
        if !unknown.is_empty() {
            return;
        }
    }
    panic!("no write was proposed without an answer: {refused:?}");
}

#[tokio::test]
async fn with_two_of_three_workers_dead_nothing_is_applied_and_nothing_lost() {
    let cluster = Cluster::start(
        "majority-dead",
        Spec {
            settings: "ping_interval = \"500ms\"
request_timeout = \"1s\"",
            ..Spec::default()
        },
    )
    .await;
    for key in 0..20 {
        cluster.any().put(format!("/kv/dead-{key}"), "before").await.is(200);
    }
    // A majority is enough for an answer; the survivor need not be of it.
    let survivor = cluster.worker(2).http();
    eventually("the survivor has every write", HEAL, async || {
        for key in 0..20 {
            let stale = survivor.get(format!("/kv/dead-{key}?consistency=stale")).await;
            if stale.status != 200 {
                return Err(stale.text());
            }
        }
        Ok(())
    })
    .await;
    cluster.worker(0).kill();
    cluster.worker(1).kill();
    let mut refused = 0;
    for node in cluster.nodes.iter().filter(|node| node.is_up()).map(Node::http) {
        for key in 0..4 {
            let put = node.put(format!("/kv/dead-{key}"), "after").await;
            put.problem(if put.status == 504 { 504 } else { 503 });
            refused += u32::from(put.status == 503);
            node.get(format!("/kv/dead-{key}")).await.problem(503);
        }
        node.get("/healthz").await.is(200);
    }
    assert!(refused > 0);
    // By the nodes' own clocks, nothing took longer than it may.
    for node in cluster.nodes.iter().filter(|node| node.is_up()).map(Node::http) {
        check_times(&node.get("/metrics").await.is(200).text());
    }
    for key in 0..20 {
        survivor.get(format!("/kv/dead-{key}?consistency=stale")).await.is(200);
    }
    survivor.get("/kv?prefix=dead-&consistency=stale").await.is(200);
    cluster.restart_all().await;
    for key in 4..20 {
        cluster.any().get(format!("/kv/dead-{key}")).await.says("before");
    }
}
