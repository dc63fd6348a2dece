//! SIGKILL: nothing that was acknowledged is lost, and the others go on.

use crate::harness::{Cluster, HEAL, Load, Spec, eventually};

const WRITERS: usize = 6;

#[tokio::test]
async fn each_node_in_turn_under_load() {
    let cluster = Cluster::start("kill-each", Spec::default()).await;
    let load = Load::start("kill", WRITERS, &cluster.ports());
    load.until_more(100).await;
    for node in &cluster.nodes {
        node.kill();
        load.until_more(50).await;
        node.start();
        cluster.until_whole().await;
        load.until_more(50).await;
    }
    load.prove(&cluster).await;
}

#[tokio::test]
async fn all_nodes_at_once() {
    let cluster = Cluster::start("kill-all", Spec::default()).await;
    for round in 0..3 {
        let load = Load::start(&format!("all-{round}"), WRITERS, &cluster.ports());
        load.until_more(150).await;
        cluster.kill_all();
        cluster.restart_all().await;
        load.until_more(30).await;
        load.prove(&cluster).await;
    }
}

#[tokio::test]
async fn every_key_is_served_with_one_worker_of_three_dead() {
    const KEYS: usize = 60;
    let cluster = Cluster::start("kill-one", Spec { shards: 8, ..Spec::default() }).await;
    for key in 0..KEYS {
        cluster.any().put(format!("/kv/one-{key}"), "before").await.is(200);
    }
    for victim in cluster.workers() {
        victim.kill();
        // Those that led elsewhere never stop; those that the victim led go on soon. The contract
        // says two seconds; a busy machine is given longer, and no timing is asserted.
        for node in cluster.nodes.iter().filter(|node| node.is_up()) {
            for key in 0..KEYS {
                eventually("a key is written and read", HEAL, async || {
                    let put = node.http().put(format!("/kv/one-{key}"), victim.port.to_string()).await;
                    let get = node.http().get(format!("/kv/one-{key}")).await;
                    match (put.status, get.status, get.text() == victim.port.to_string()) {
                        (200, 200, true) => Ok(()),
                        _ => Err(format!("{}, {}", put.text(), get.text())),
                    }
                })
                .await;
            }
        }
        victim.start();
        cluster.until_whole().await;
    }
}

#[tokio::test]
async fn versions_grow_over_kills_and_leaders() {
    let cluster = Cluster::start("kill-versions", Spec::default()).await;
    let mut last = 0;
    for round in 0..4 {
        let (leader, _) = cluster.leader_and_followers("versions").await;
        let version = eventually("a write", HEAL, async || {
            let put = cluster.any().put("/kv/versions", round.to_string()).await;
            if put.status == 200 { Ok(put.version()) } else { Err(put.text()) }
        })
        .await;
        assert!(version > last, "{version} after {last}");
        cluster.any().delete("/kv/versions").await.is(200);
        last = version + 1;
        if round % 2 == 0 {
            leader.kill();
        } else {
            cluster.kill_all();
        }
        cluster.restart_all().await;
    }
}

#[tokio::test]
async fn a_worker_keeps_its_identity_over_kills() {
    let cluster = Cluster::start("kill-identity", Spec::one()).await;
    let worker = cluster.worker(0);
    let id = worker.id();
    worker.kill();
    worker.start();
    cluster.until_whole().await;
    assert_eq!(worker.id(), id);
    let status = cluster.status().await.unwrap();
    assert_eq!(status["workers"].as_array().unwrap().len(), 1, "{status}");
}
