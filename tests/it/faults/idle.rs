//! Nodes that fall silent while nobody asks for anything: only beats between nodes tell who lives.

use crate::harness::{Cluster, HEAL, Spec, eventually};
use serde_json::Value;

/// Short, so that a node that says nothing is soon seen to.
const SETTINGS: &str = "ping_interval = \"500ms\"\ninactive_after = \"3s\"";

/// More shards than workers, so that each leads some and follows in others.
fn spec() -> Spec {
    Spec { shards: 12, settings: SETTINGS, ..Spec::default() }
}

/// What a coordinator tells: no worker is asked, which may be the silent one.
async fn status(cluster: &Cluster) -> Result<Value, String> {
    let coordinator = cluster.coordinators().next().unwrap().http();
    let answer = coordinator.get("/cluster").attempt().await.map_err(|failure| format!("{failure:?}"))?;
    if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
}

/// Shard, leader and term of each, in order.
fn led(status: &Value) -> Vec<(u64, String, u64)> {
    let one = |shard: &Value| {
        let leader = shard["leader"].as_str().unwrap_or_default().to_owned();
        (shard["id"].as_u64().unwrap(), leader, shard["term"].as_u64().unwrap_or_default())
    };
    let mut led: Vec<_> = status["shards"].as_array().unwrap().iter().map(one).collect();
    led.sort_unstable();
    led
}

async fn until_inactive(cluster: &Cluster, id: &str) {
    eventually("the silent worker is seen as such", HEAL, async || {
        let status = status(cluster).await?;
        let silent = |worker: &Value| worker["id"] == id && worker["active"] == false;
        if status["workers"].as_array().unwrap().iter().any(silent) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await;
}

/// Waits until nothing is on its way to its primary any more.
async fn until_settled(cluster: &Cluster) {
    let mut last = Vec::new();
    eventually("leaders and terms stay", HEAL, async || {
        cluster.until_whole().await;
        let status = status(cluster).await?;
        let now = led(&status);
        let shards = status["shards"].as_array().unwrap();
        let at_primary = shards.iter().all(|shard| shard["leader"] == shard["replicas"][0]);
        if at_primary && now == last {
            return Ok(());
        }
        last = now;
        Err(format!("{last:?}"))
    })
    .await;
}

#[tokio::test]
async fn silent_leaders_are_replaced_though_nobody_asks() {
    let cluster = Cluster::start("idle-leader", spec()).await;
    let (leader, followers) = cluster.leader_and_followers("idle").await;
    let id = leader.id();
    let before = cluster.any().put("/kv/idle", "before").await.is(200).version();
    leader.pause();
    eventually("others lead what it led", HEAL, async || {
        let led = led(&status(&cluster).await?);
        let elsewhere = led.iter().all(|(_, leader, _)| *leader != id && !leader.is_empty());
        if elsewhere { Ok(()) } else { Err(format!("{led:?}")) }
    })
    .await;
    // A leadership on its way to the silent worker may be refused for a moment, and is not lost.
    let version = eventually("the shard takes writes", HEAL, async || {
        let answer = followers[0].http().put("/kv/idle", "after").await;
        if answer.status == 200 { Ok(answer.version()) } else { Err(answer.text()) }
    });
    assert!(version.await > before);
    leader.resume();
    cluster.until_whole().await;
    // It does not take itself for the leader that it was.
    assert_eq!(leader.http().get("/kv/idle").await.is(200).text(), "after");
}

#[tokio::test]
async fn who_comes_back_deposes_nobody_that_leads() {
    let cluster = Cluster::start("idle-healed", spec()).await;
    until_settled(&cluster).await;
    let before = led(&status(&cluster).await.unwrap());
    let sleeper = cluster.worker(1);
    let id = sleeper.id();
    sleeper.pause();
    until_inactive(&cluster, &id).await;
    // A shard that was idle for longer than any lease takes writes at once.
    for (key, node) in cluster.workers().filter(|node| node.port != sleeper.port).enumerate() {
        node.http().put(format!("/kv/idle-{key}"), "x").await.is(200);
    }
    sleeper.resume();
    until_settled(&cluster).await;
    // What the others led all the while they lead still, in the same terms.
    let after = led(&status(&cluster).await.unwrap());
    for (was, is) in before.iter().zip(&after).filter(|(was, _)| was.1 != id) {
        assert_eq!(was, is, "{before:?}\n{after:?}");
    }
}

#[tokio::test]
async fn all_restarted_at_once_and_left_alone() {
    let cluster = Cluster::start("idle-restart", spec()).await;
    cluster.any().put("/kv/idle", "kept").await.is(200);
    for _ in 0..2 {
        cluster.kill_all();
        cluster.restart_all().await;
    }
    assert_eq!(cluster.any().get("/kv/idle").await.is(200).text(), "kept");
}

#[tokio::test]
async fn a_leader_whose_process_is_back_before_it_was_missed() {
    let cluster = Cluster::start("idle-again", spec()).await;
    for round in 0..3 {
        let (leader, _) = cluster.leader_and_followers("again").await;
        cluster.any().put("/kv/again", format!("{round}")).await.is(200);
        leader.kill();
        leader.start();
        cluster.until_whole().await;
        let node = cluster.any();
        eventually("the shard is led", HEAL, async || {
            let answer = node.get("/kv/again").await;
            if answer.status == 200 && answer.text() == round.to_string() {
                Ok(())
            } else {
                Err(answer.text())
            }
        })
        .await;
    }
}
