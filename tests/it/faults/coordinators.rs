//! The coordinator group without its leader, and without anyone.

use crate::harness::{Cluster, HEAL, Http, Load, Node, Spec, eventually};

/// Waits until a node registers a ping and lists it.
async fn until_pings(node: Http, id: &str) {
    eventually("/ping and /workers go on", HEAL, async || {
        let ping = node.get(format!("/ping?id={id}&port=9")).await;
        let list = node.get("/workers").await;
        match (ping.status, list.status) {
            (200, 200) if list.text().contains(&format!("{id},127.0.0.1:9")) => Ok(()),
            _ => Err(format!("{}, {}", ping.text(), list.text())),
        }
    })
    .await;
}

#[tokio::test]
async fn each_of_them_killed() {
    let cluster = Cluster::start("coordinators-each", Spec::default()).await;
    cluster.any().get("/ping?id=remembered&port=9").await.says("OK");
    for victim in cluster.coordinators() {
        victim.kill();
        // Whoever led: the others, and the workers, go on.
        for node in cluster.nodes.iter().filter(|node| node.is_up()) {
            until_pings(node.http(), &format!("after-{}", victim.port)).await;
        }
        victim.start();
        cluster.until_whole().await;
        until_pings(victim.http(), &format!("back-{}", victim.port)).await;
    }
    // Pinged ids survive every change of leader.
    let status = cluster.status().await.unwrap();
    let remembered = status["workers"].as_array().unwrap().iter().any(|worker| worker["id"] == "remembered");
    assert!(remembered, "{status}");
}

#[tokio::test]
async fn data_goes_on_without_any() {
    let cluster = Cluster::start("coordinators-none", Spec::default()).await;
    let ports: Vec<_> = cluster.workers().map(|worker| worker.port).collect();
    let load = Load::start("none", 5, &ports);
    load.until_more(50).await;
    cluster.coordinators().for_each(Node::kill);
    load.until_more(100).await;
    // Even over the death of a leader, and a worker's return.
    let victim = cluster.worker(0);
    victim.kill();
    load.until_more(100).await;
    victim.start();
    eventually("a worker serves without coordinators", HEAL, async || {
        victim.check_alive();
        let answer =
            victim.http().get("/kv/none-0-0").attempt().await.map_err(|failure| format!("{failure:?}"))?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    load.until_more(50).await;
    // What needs them says so, in time.
    let node = cluster.worker(1).http();
    node.get("/ping?id=x&port=9").await.problem(503);
    node.get("/workers").await.problem(503);
    load.prove(&cluster).await;
    cluster.restart_all().await;
}
