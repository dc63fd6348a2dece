//! Workers that join, leave, die, and come back in time or too late.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::moves::Watch;
use crate::harness::{Cluster, HEAL, Load, Node, START, Spec, eventually};

const QUICK: &str = "ping_interval = \"200ms\"\ninactive_after = \"1500ms\"\nreplace_after = \"12s\"";

fn worker(cluster: &Cluster, port: u16) -> &Node {
    cluster.workers().find(|node| node.port == port).unwrap()
}

fn shown<'s>(status: &'s Value, id: &str) -> Result<&'s Value, String> {
    let found = status["workers"].as_array().unwrap().iter().find(|worker| worker["id"] == id);
    found.ok_or_else(|| format!("{id} is not shown: {status}"))
}

/// Waits until the worker has a name, and `/cluster` shows it so.
pub(super) async fn until_shown(
    cluster: &Cluster,
    port: u16,
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> String {
    eventually(what, START, async || {
        let status = cluster.status().await?;
        let found = status["workers"].as_array().unwrap().iter();
        // The one before it at this address may still be shown.
        let mut found = found.filter(|worker| worker["addr"] == format!("127.0.0.1:{port}"));
        match found.find(|worker| is(worker)) {
            Some(worker) => Ok(worker["id"].as_str().unwrap().to_owned()),
            None => Err(status.to_string()),
        }
    })
    .await
}

/// The groups that run on a node, by its own metrics.
pub(super) async fn groups(node: &Node) -> Result<u64, String> {
    let text = node.http().get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix("quoring_raft_groups "));
    line.and_then(|count| count.parse().ok()).ok_or(text)
}

fn replicas(status: &Value) -> Vec<(u64, BTreeSet<String>)> {
    let names = |list: &Value| {
        list.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let shards = status["shards"].as_array().unwrap();
    shards.iter().map(|shard| (shard["id"].as_u64().unwrap(), names(&shard["replicas"]))).collect()
}

#[tokio::test]
async fn one_joins_and_leaves() {
    const SHARDS: usize = 12;
    let spec = Spec { shards: SHARDS as u32, settings: "ping_interval = \"200ms\"", ..Spec::default() };
    let mut cluster = Cluster::start("members-join", spec).await;
    let ports = cluster.ports();
    let load = Load::start("join", 4, &ports);
    load.until_more(50).await;

    let watch = Watch::start(ports.clone());
    let fourth = cluster.start_worker(None);
    let id = until_shown(&cluster, fourth, "it gets its share", |worker| {
        // Four of 36 copies each could hold 9; the bound leaves 10 with the others.
        worker["holds"].as_u64().unwrap() >= 6
    })
    .await;
    cluster.until_whole().await;
    load.until_more(30).await;
    let seen = watch.end().await;
    // All that was copied went to the newcomer, and no more than its even share of what there is.
    let gained = seen.gained();
    assert!(gained.iter().all(|(_, worker)| *worker == id), "{gained:?}");
    assert!((6..=SHARDS * 3 / 4).contains(&gained.len()), "{gained:?}");
    assert!(seen.fewest_voters() >= 3, "{seen:?}");
    // Seen on their way, and bounded.
    assert!((1..=4).contains(&seen.most_coming(&id)), "{}", seen.most_coming(&id));
    let status = cluster.status().await.unwrap();
    assert_eq!(shown(&status, &id).unwrap()["holds"], gained.len());
    // Primaries, and with them leaders, follow.
    until_shown(&cluster, fourth, "it leads its share", |worker| worker["leads"].as_u64().unwrap() >= 1)
        .await;

    let watch = Watch::start(ports);
    cluster.any().call("POST", format!("/cluster/workers/{id}/drain")).await.is(202);
    until_shown(&cluster, fourth, "it is empty", |worker| worker["holds"] == 0).await;
    cluster.until_whole().await;
    eventually("it may leave", HEAL, async || {
        let answer = cluster.worker(0).http().call("DELETE", format!("/cluster/workers/{id}")).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    let gone = worker(&cluster, fourth);
    for _ in 0..2 {
        eventually("it is told that it was removed", HEAL, async || {
            gone.check_alive();
            let answer = gone.http().get("/readyz").attempt().await.map_err(|why| format!("{why:?}"))?;
            let told = answer.status == 503 && answer.text().contains("removed");
            if told { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        // Nor does it come back with its directory.
        gone.kill();
        gone.start();
    }
    gone.kill();
    load.until_more(30).await;
    let seen = watch.end().await;
    assert_eq!(seen.gained().len(), gained.len(), "each of its copies was made once elsewhere");
    assert!(seen.fewest_voters() >= 3, "{seen:?}");
    load.prove(&cluster).await;
}

/// Who leads, and who votes, is told when it changes.
#[tokio::test]
async fn moves_and_leads_do_not_wait_for_a_heartbeat() {
    let settings = "ping_interval = \"1h\"\ninactive_after = \"3h\"\nreplace_after = \"6h\"";
    let mut cluster = Cluster::start("members-told", Spec { shards: 8, settings, ..Spec::default() }).await;
    let fourth = cluster.start_worker(None);
    until_shown(&cluster, fourth, "it leads its share", |worker| worker["leads"].as_u64().unwrap() >= 1)
        .await;
    cluster.until_whole().await;
}

#[tokio::test]
async fn one_dies_and_comes_back_in_time_and_too_late() {
    let spec = Spec { workers: 4, shards: 8, settings: QUICK, ..Spec::default() };
    let cluster = Cluster::start("members-die", spec).await;
    cluster.until_at_rest().await;
    let others: Vec<_> = cluster.nodes.iter().take(6).map(|node| node.port).collect();
    let load = Load::start("die", 4, &others);
    load.until_more(50).await;
    let victim = cluster.worker(3);
    let (id, before) = (victim.id(), cluster.status().await.unwrap());

    let watch = Watch::start(others.clone());
    victim.kill();
    until_shown(&cluster, victim.port, "it is not active", |worker| worker["active"] == false).await;
    let listed = cluster.worker(0).http().get("/workers").await.is(200).text();
    assert!(!listed.contains(&id), "{listed}");
    victim.start();
    cluster.until_whole().await;
    let seen = watch.end().await;
    assert_eq!(seen.gained(), [], "it was back in time");
    assert_eq!(replicas(&cluster.status().await.unwrap()), replicas(&before));
    load.until_more(30).await;

    // Too late: the others keep its shards now.
    let watch = Watch::start(others);
    victim.kill();
    until_shown(&cluster, victim.port, "its copies are made anew", |worker| worker["holds"] == 0).await;
    cluster.until_whole().await;
    let seen = watch.end().await;
    assert!(seen.gained().iter().all(|(_, worker)| *worker != id));
    load.until_more(50).await;
    // Nothing is to be given back to it at once, so that what becomes of its stale copies is seen.
    let drain = format!("/cluster/workers/{id}/drain");
    cluster.worker(0).http().call("POST", &drain).await.is(202);
    let until_it_runs_what_it_holds = async |least: u64| {
        eventually("it keeps what the map gives it, and nothing else", HEAL, async || {
            let status = cluster.status().await?;
            let holds = shown(&status, &id)?["holds"].as_u64().unwrap();
            let runs = groups(victim).await?;
            let quiet = status["moves"].as_array().unwrap().is_empty();
            if runs == holds && holds >= least && quiet {
                Ok(())
            } else {
                Err(format!("{runs} groups run, {status}"))
            }
        })
        .await;
    };
    victim.start();
    eventually("its stale copies are wiped", HEAL, async || {
        let log = fs::read_to_string(&victim.log).unwrap();
        if log.contains("wipe replica") { Ok(()) } else { Err(victim.log_tail()) }
    })
    .await;
    cluster.until_whole().await;
    until_it_runs_what_it_holds(0).await;
    load.until_more(30).await;
    // From then on it is a worker as any other.
    cluster.worker(0).http().call("DELETE", &drain).await.is(202);
    until_it_runs_what_it_holds(1).await;
    load.until_more(30).await;
    load.prove(&cluster).await;
}

#[tokio::test]
async fn zones_are_kept_apart_while_there_are_enough() {
    let settings = "ping_interval = \"200ms\"\ninactive_after = \"1500ms\"\nreplace_after = \"3s\"";
    let spec = Spec { workers: 0, shards: 8, settings, ..Spec::default() };
    let mut cluster = Cluster::unstarted("members-zones", spec).await;
    cluster.coordinators().for_each(Node::start);
    let ports: Vec<_> =
        ["a", "a", "b", "c"].into_iter().map(|zone| cluster.start_worker(Some(zone))).collect();
    cluster.spec.workers = ports.len();
    let spread = async |cluster: &Cluster, wanted: bool| {
        eventually("the zones are as they can be", START, async || {
            let status = cluster.status().await?;
            let shards = status["shards"].as_array().unwrap();
            let whole = shards.len() == 8
                && shards.iter().all(|shard| shard["replicas"].as_array().unwrap().len() == 3)
                && status["moves"].as_array().unwrap().is_empty();
            let spread = |shard: &Value| shard["spread"] == wanted;
            if whole && shards.iter().all(spread) { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    };
    spread(&cluster, true).await;
    let load = Load::start("zones", 3, &ports[..3]);
    load.until_more(30).await;
    // A zone is gone: three workers in two zones keep three copies all the same.
    worker(&cluster, ports[3]).kill();
    spread(&cluster, false).await;
    load.until_more(30).await;
    // Another machine there, and no two copies share a zone again.
    cluster.start_worker(Some("c"));
    spread(&cluster, true).await;
    load.until_more(30).await;
    load.prove(&cluster).await;
}
