//! A disk that hangs: its node leads nothing until the disk is back, and the others go on (D13).

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::harness::{Cluster, Disk, HEAL, Load, Node, Role, Spec, eventually};

/// For shards to be led elsewhere: a sync has to hang for 2 s, and a busy machine is given longer.
const SOON: Duration = Duration::from_secs(20);

/// Longer than two times what the coordinators wait before they order the same transfer again.
const A_WHILE: Duration = Duration::from_secs(8);

async fn until_limping(node: &Node) {
    eventually("the node says that its disk hangs", SOON, async || {
        node.check_alive();
        let answer = node.http().get("/readyz").attempt().await.map_err(|why| format!("{why:?}"))?;
        if answer.status == 503 && answer.text().contains("disk") { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

/// Starts a cluster in which each node of a role has such a disk; the disks, in the nodes' order.
async fn cluster_with(name: &str, role: Role, spec: Spec) -> (Cluster, Vec<Disk>) {
    let mut cluster = Cluster::unstarted(name, spec).await;
    let root = cluster.dir.path().to_owned();
    let mut disks = Vec::new();
    for node in cluster.nodes.iter_mut().filter(|node| node.role == role) {
        let disk = Disk::new(&root.join(format!("disk-{}", node.port)));
        node.put_behind(disk.before());
        disks.push(disk);
    }
    cluster.restart_all().await;
    (cluster, disks)
}

/// A key of every shard.
async fn keys(cluster: &Cluster) -> BTreeMap<u64, String> {
    let shards = cluster.shards().await.len();
    let mut keys = BTreeMap::new();
    for number in 0.. {
        let key = format!("limp-{number}");
        let ring = cluster.any().get(format!("/ring?key={key}")).await.is(200).json();
        keys.entry(ring["shard"].as_u64().unwrap()).or_insert(key);
        if keys.len() == shards {
            break;
        }
    }
    keys
}

/// The shards that a worker leads.
fn led(status: &Value, id: &str) -> Vec<u64> {
    let shards = status["shards"].as_array().unwrap().iter().filter(|shard| shard["leader"] == id);
    shards.map(|shard| shard["id"].as_u64().unwrap()).collect()
}

/// When a worker was last heard of, seconds since 1970.
fn last_heard(status: &Value, id: &str) -> Duration {
    let worker = status["workers"].as_array().unwrap().iter().find(|worker| worker["id"] == id).unwrap();
    let time = humantime::parse_rfc3339(worker["last_ping"].as_str().unwrap()).unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap()
}

#[tokio::test]
async fn a_worker_leads_nothing_while_its_disk_hangs() {
    let spec = Spec { shards: 6, ..Spec::default() };
    let (cluster, disks) = cluster_with("disk-worker", Role::Worker, spec).await;
    let (victim, disk) = (cluster.worker(0), &disks[0]);
    let (id, keys) = (victim.id(), keys(&cluster).await);
    let before = eventually("it leads its share", HEAL, async || {
        let led = led(&cluster.status().await?, &id);
        if led.len() >= 2 { Ok(led) } else { Err(format!("{led:?}")) }
    })
    .await;
    let others: Vec<_> = cluster.ports().into_iter().filter(|port| *port != victim.port).collect();
    let load = Load::start("disk", 4, &others);
    load.until_more(60).await;

    for round in 0..2 {
        disk.hang();
        // Each of its shards goes on with another leader; whoever asks is told so in time.
        for shard in &before {
            let put = format!("/kv/{}", keys[shard]);
            eventually("a shard is written to", SOON, async || {
                let answer = cluster.any().put(&put, round.to_string()).await;
                if answer.status == 200 {
                    return Ok(());
                }
                answer.problem(if answer.status == 504 { 504 } else { 503 });
                Err(answer.text())
            })
            .await;
        }
        until_limping(victim).await;
        eventually("it leads nothing", SOON, async || {
            let led = led(&cluster.status().await?, &id);
            if led.is_empty() { Ok(()) } else { Err(format!("{led:?}")) }
        })
        .await;
        // It is heard, the coordinators know that it should lead these shards, and they let it be.
        let since = last_heard(&cluster.status().await.unwrap(), &id);
        eventually("time passes", HEAL, async || {
            let status = cluster.status().await?;
            assert_eq!(led(&status, &id), [0; 0], "a leadership was given to a node whose disk hangs");
            let heard = last_heard(&status, &id);
            if heard >= since + A_WHILE { Ok(()) } else { Err(format!("last heard at {heard:?}")) }
        })
        .await;
        load.until_more(60).await;
        until_limping(victim).await;

        disk.heal();
        cluster.until_whole().await;
        eventually("it leads as before", HEAL, async || {
            let led = led(&cluster.status().await?, &id);
            if led.len() >= before.len() { Ok(()) } else { Err(format!("{led:?}")) }
        })
        .await;
        for key in before.iter().map(|shard| &keys[shard]) {
            eventually("it answers for them", HEAL, async || {
                let answer = victim.http().get(format!("/kv/{key}")).await;
                if answer.status != 200 {
                    return Err(answer.text());
                }
                assert_eq!(answer.text(), round.to_string());
                Ok(())
            })
            .await;
        }
        load.until_more(60).await;
    }
    load.prove(&cluster).await;
}

#[tokio::test]
async fn a_coordinator_does_not_lead_while_its_disk_hangs() {
    let (cluster, disks) = cluster_with("disk-coordinator", Role::Coordinator, Spec::default()).await;
    let leader = |status: &Value| {
        let group = &status["coordinators"];
        let number = group["leader"].as_u64().ok_or_else(|| status.to_string())?;
        let addr = group["members"][number.to_string()].as_str().unwrap().to_owned();
        let place = cluster.coordinators().position(|node| addr == format!("127.0.0.1:{}", node.port));
        place.ok_or_else(|| format!("{addr} is none of them"))
    };
    let ports: Vec<_> = cluster.workers().map(|node| node.port).collect();
    let load = Load::start("disk-coordinator", 3, &ports);
    let ping = async |name: &str| {
        eventually("a ping is registered", SOON, async || {
            let answer = cluster.worker(0).http().get(format!("/ping?id={name}&port=9")).await;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    };
    for round in 0..2 {
        load.until_more(30).await;
        let place = eventually("somebody leads", HEAL, async || leader(&cluster.status().await?)).await;
        let victim = cluster.coordinators().nth(place).unwrap();
        disks[place].hang();
        // It is written down by the others.
        ping(&format!("hangs-{round}")).await;
        until_limping(victim).await;
        eventually("another one leads", SOON, async || {
            if leader(&cluster.status().await?)? == place { Err("it still leads".into()) } else { Ok(()) }
        })
        .await;
        load.until_more(30).await;
        disks[place].heal();
        cluster.until_whole().await;
        ping(&format!("healed-{round}")).await;
    }
    load.prove(&cluster).await;
}
