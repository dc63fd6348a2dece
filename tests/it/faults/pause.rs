//! SIGSTOP: a node that says nothing, and wakes up as one who believes to lead.

use crate::harness::{Cluster, Load, Spec};

#[tokio::test]
async fn a_paused_leader_is_replaced_and_comes_back() {
    let cluster = Cluster::start("pause", Spec::default()).await;
    for round in 0..2 {
        let (leader, followers) = cluster.leader_and_followers(&format!("pause-{round}")).await;
        let ports: Vec<_> = cluster.coordinators().chain(followers).map(|node| node.port).collect();
        let load = Load::start(&format!("pause-{round}"), 6, &ports);
        load.until_more(60).await;
        leader.pause();
        load.until_more(60).await;
        leader.resume();
        // It answers with what was written while it slept.
        load.until_more(60).await;
        cluster.until_whole().await;
        load.prove(&cluster).await;
    }
}

#[tokio::test]
async fn a_paused_coordinator_leader() {
    let cluster = Cluster::start("pause-coordinator", Spec::default()).await;
    for coordinator in cluster.coordinators() {
        coordinator.pause();
        let ports: Vec<_> =
            cluster.nodes.iter().map(|node| node.port).filter(|port| *port != coordinator.port).collect();
        let load = Load::start(&format!("paused-{}", coordinator.port), 4, &ports);
        load.until_more(60).await;
        coordinator.resume();
        cluster.until_whole().await;
        load.prove(&cluster).await;
    }
}
