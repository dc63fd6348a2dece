//! Logs are shortened early, and not by what a member lacks that is away for a while.

use crate::harness::{Cluster, HEAL, Http, Node, Spec, eventually};

const MIB: usize = 1 << 20;

/// What the logs of a node may hold once they were shortened: half of one of the log's memtables, which are
/// a quarter of the setting each, and what comes before the next look.
const SHORT_BYTES: u64 = 4 << 20;

/// Within 32 MiB, up to which a log is kept for a member that is away.
const SOME_MIB: usize = 16;

/// Beyond it.
const MANY_MIB: usize = 40;

async fn metric(node: &Node, name: &str) -> u64 {
    let text = node.http().get("/metrics").await.is(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<f64>().unwrap() as u64
}

async fn held(node: &Node) -> u64 {
    metric(node, "quoring_store_log_held_bytes").await
}

async fn until_short(node: &Node) {
    until_at_most(SHORT_BYTES, node).await;
}

async fn until_at_most(bytes: u64, node: &Node) {
    eventually("a log is shortened", HEAL, async || {
        let held = held(node).await;
        if held <= bytes { Ok(()) } else { Err(format!("{held} bytes are held")) }
    })
    .await;
}

async fn write(node: Http, name: &str, mib: usize) {
    for key in 0..mib {
        node.put(format!("/kv/{name}-{key}"), vec![b'v'; MIB]).await.is(200);
    }
}

/// How many snapshots a node was sent since it was started.
async fn snapshots(node: &Node) -> u64 {
    metric(node, "quoring_store_snapshots_installed_total").await
}

#[tokio::test]
async fn a_log_is_kept_for_who_lacks_it_until_it_is_long() {
    let spec = Spec { shards: 1, args: &["--memtables", "12MiB"], ..Spec::default() };
    let cluster = Cluster::start("shortening", spec).await;
    let (leader, followers) = cluster.leader_and_followers("all-0").await;
    let (away, other) = (followers[0], followers[1]);

    write(leader.http(), "all", SOME_MIB).await;
    for worker in cluster.workers() {
        until_short(worker).await;
    }

    away.kill();
    write(leader.http(), "some", SOME_MIB).await;
    away.start();
    // Kept until it has come, and no longer.
    cluster.until_whole().await;
    for worker in cluster.workers() {
        until_short(worker).await;
    }
    assert_eq!(snapshots(away).await, 0);

    away.kill();
    write(leader.http(), "many", MANY_MIB).await;
    // What came behind the bound is kept again.
    until_at_most((SOME_MIB * MIB) as u64, leader).await;
    until_at_most((SOME_MIB * MIB) as u64, other).await;
    away.start();
    cluster.until_whole().await;
    eventually("a follower is sent a snapshot", HEAL, async || {
        if snapshots(away).await > 0 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
}
