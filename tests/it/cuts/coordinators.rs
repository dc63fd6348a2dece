//! Coordinators and workers that do not reach each other: shards go on serving.

use crate::harness::{Cluster, HEAL, Http, Load, Spec, eventually, in_network};

/// Waits until a node says that it cannot. As long as it has a connection on which it can ask, it does
/// not know what becomes of that.
async fn until_refused(node: Http, path: &str) {
    eventually("it is refused", HEAL, async || {
        let answer = node.get(path).await;
        answer.problem(if answer.status == 504 { 504 } else { 503 });
        if answer.status == 503 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test]
async fn shards_go_on_without_the_coordinators() {
    in_network("cuts::coordinators::shards_go_on_without_the_coordinators", async |network| {
        let settings = "ping_interval = \"500ms\"\ninactive_after = \"2s\"\nreplace_after = \"60s\"";
        let cluster = Cluster::start_in(&network, "cut-apart", Spec { settings, ..Spec::default() }).await;
        let ports: Vec<_> = cluster.workers().map(|node| node.port).collect();
        let load = Load::start("apart", 5, &ports);
        load.until_more(50).await;
        for coordinator in cluster.coordinators() {
            cluster.workers().for_each(|worker| network.part(coordinator, worker));
        }
        let coordinator = cluster.coordinators().next().unwrap().http();
        eventually("the coordinators miss the workers", HEAL, async || {
            let status = coordinator.get("/cluster").await;
            let workers = status.json()["workers"].as_array().cloned().unwrap_or_default();
            let is_missed = |worker: &serde_json::Value| worker["active"] == false;
            if workers.len() == 3 && workers.iter().all(is_missed) { Ok(()) } else { Err(status.text()) }
        })
        .await;
        load.until_more(100).await;
        // The death of a worker that leads some of them needs no coordinator, nor does its return.
        let victim = cluster.worker(0);
        victim.kill();
        load.until_more(60).await;
        victim.start();
        eventually("a worker serves without coordinators", HEAL, async || {
            victim.check_alive();
            let answer =
                victim.http().get("/kv/apart-0-0").attempt().await.map_err(|why| format!("{why:?}"))?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        load.until_more(50).await;
        // What needs the coordinators says so; at them, what needs the workers.
        let worker = cluster.worker(1).http();
        until_refused(worker, "/ping?id=x&port=9").await;
        coordinator.get("/ping?id=x&port=9").await.is(200);
        until_refused(coordinator, "/kv/apart-0-0").await;
        network.heal();
        cluster.until_whole().await;
        worker.get("/ping?id=y&port=9").await.is(200);
        coordinator.get("/kv/apart-0-0").await.is(200);
        load.until_more(50).await;
        load.prove(&cluster).await;
    })
    .await;
}
