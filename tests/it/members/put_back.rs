//! Directories that are put back from an older copy: they have the store's id and an old memory, and
//! must not be taken for what they were.

use std::{fs, path::Path};

use super::workers::{groups, until_shown};
use crate::harness::{Cluster, HEAL, Load, Node, Role, Spec, eventually};

const QUICK: &str = "ping_interval = \"200ms\"\ninactive_after = \"1500ms\"\nreplace_after = \"4s\"";

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_dir(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

/// Copies the directory of a node that does not run.
fn copy(cluster: &Cluster, node: &Node) {
    copy_dir(&node.dir, &cluster.dir.path().join("copy"));
}

/// Puts the copy in the place of the directory.
fn put_back(cluster: &Cluster, node: &Node) {
    fs::remove_dir_all(&node.dir).unwrap();
    copy_dir(&cluster.dir.path().join("copy"), &node.dir);
}

/// Waits until a node says that its directory is an older copy, and what to do.
async fn until_told(node: &Node, what_to_do: &str) {
    eventually("an older copy is told to be one", HEAL, async || {
        node.check_alive();
        let answer = node.http().get("/readyz").attempt().await.map_err(|why| format!("{why:?}"))?;
        let told = answer.text().contains("older copy") && answer.text().contains(what_to_do);
        if answer.status == 503 && told { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    eventually("it has no groups", HEAL, async || match groups(node).await? {
        0 => Ok(()),
        runs => Err(format!("{runs} groups run")),
    })
    .await;
    eventually("its log says so", HEAL, async || {
        let log = fs::read_to_string(&node.log).map_err(|error| error.to_string())?;
        let says = |line: &str| line.contains("ERROR") && line.contains("older copy");
        if log.lines().any(says) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn a_worker_from_an_older_copy_takes_part_in_nothing() {
    let cluster = Cluster::start("put-back", Spec { settings: QUICK, ..Spec::default() }).await;
    // Not the last of all nodes, which is asked for the state of the cluster.
    let victim = cluster.worker(0);
    let others: Vec<_> = cluster.ports().into_iter().filter(|port| *port != victim.port).collect();
    let load = Load::start("put-back", 4, &others);
    load.until_more(50).await;
    let id = victim.id();

    assert!(victim.stop(HEAL).await.success());
    copy(&cluster, victim);
    victim.start();
    cluster.until_whole().await;
    load.until_more(100).await;
    victim.kill();
    load.until_more(30).await;
    put_back(&cluster, victim);
    // It keeps saying so, also when it is started again.
    for _ in 0..2 {
        victim.start();
        until_told(victim, "remove the directory").await;
        load.until_more(30).await;
        let status = cluster.status().await.unwrap();
        let leaders = status["shards"].as_array().unwrap().iter().map(|shard| shard["leader"].as_str());
        assert!(leaders.flatten().all(|leader| leader != id), "{status}");
        // As a front-end it can ask nobody, and says so.
        let read = victim.http().get("/kv/put-back-0-0").await;
        assert_eq!(read.status, 503, "{read:?}");
        assert!(victim.dir.join("log/CURRENT").exists(), "its data is not for it to remove");
        victim.kill();
    }

    // As the sentence says.
    fs::remove_dir_all(&victim.dir).unwrap();
    victim.start();
    let is_new = |worker: &serde_json::Value| worker["id"] != *id && worker["holds"].as_u64() > Some(0);
    let new = until_shown(&cluster, victim.port, "it is a new worker, with shards", is_new).await;
    assert_eq!(new, victim.id());
    cluster.until_whole().await;
    load.until_more(30).await;
    load.prove(&cluster).await;
}

/// What the others have heard outlives them, so that a copy is told even if nobody has run meanwhile
/// who could have met the original.
#[tokio::test]
async fn an_older_copy_is_told_after_a_restart_of_everything() {
    let cluster = Cluster::start("put-back-all", Spec::default()).await;
    let load = Load::start("put-back-all", 4, &cluster.ports());
    load.until_more(50).await;
    let (worker, coordinator) = (cluster.worker(1), cluster.coordinators().next().unwrap());
    for (node, what_to_do) in [(worker, "as a new worker"), (coordinator, "give it a new seat")] {
        assert!(node.stop(HEAL).await.success());
        let _ = fs::remove_dir_all(cluster.dir.path().join("copy"));
        copy(&cluster, node);
        node.start();
        cluster.until_whole().await;
        load.until_more(50).await;
        for node in &cluster.nodes {
            assert!(node.stop(HEAL).await.success());
        }
        // The others come back as they were.
        let original = cluster.dir.path().join("original");
        let _ = fs::remove_dir_all(&original);
        fs::rename(&node.dir, &original).unwrap();
        copy_dir(&cluster.dir.path().join("copy"), &node.dir);
        cluster.nodes.iter().for_each(Node::start);
        until_told(node, what_to_do).await;
        node.kill();
        cluster.until_whole().await;
        load.until_more(50).await;
        // The directory itself is as good as it ever was.
        fs::remove_dir_all(&node.dir).unwrap();
        fs::rename(&original, &node.dir).unwrap();
        node.start();
        cluster.until_whole().await;
        load.until_more(30).await;
    }
    load.prove(&cluster).await;
}

#[tokio::test]
async fn a_coordinator_from_an_older_copy_gets_a_new_seat_once_it_is_empty() {
    let cluster = Cluster::start("put-back-seat", Spec::default()).await;
    let victim = cluster.coordinators().nth(1).unwrap();
    let load = Load::start("put-back-seat", 3, &cluster.workers().map(|node| node.port).collect::<Vec<_>>());
    assert!(victim.stop(HEAL).await.success());
    copy(&cluster, victim);
    victim.start();
    cluster.until_whole().await;
    victim.kill();
    put_back(&cluster, victim);
    victim.start();
    until_told(victim, "give it a new seat").await;
    // The group goes on with the other two.
    let other = cluster.nodes.iter().find(|n| n.role == Role::Coordinator && n.port != victim.port).unwrap();
    eventually("pings are taken", HEAL, async || {
        let ping = other.http().get("/ping?id=put-back&port=9").await;
        if ping.status == 200 { Ok(()) } else { Err(ping.text()) }
    })
    .await;
    victim.kill();
    fs::remove_dir_all(&victim.dir).unwrap();
    victim.start();
    eventually("it is given a seat", HEAL, async || {
        let add = format!("/cluster/coordinators?addr=127.0.0.1:{}", victim.port);
        let answer = other.http().call("POST", add).await;
        if matches!(answer.status, 200 | 202) { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    cluster.until_whole().await;
    load.until_more(30).await;
    load.prove(&cluster).await;
}
