//! Coordinators that are added, removed and replaced.

use std::fs;

use serde_json::Value;

use crate::harness::{
    Answer, Cluster, HEAL, Http, Load, Node, Process, Spec, eventually, free_port, quoring,
};

/// Starts a coordinator that waits to be added, and checks that it says so.
async fn newcomer(cluster: &mut Cluster) -> u16 {
    let node = Node::joining(cluster.dir.path(), free_port());
    node.start();
    let port = node.port;
    cluster.nodes.push(node);
    until_unready(cluster, port, "waits to be added").await;
    port
}

fn coordinator(cluster: &Cluster, port: u16) -> &Node {
    cluster.coordinators().find(|node| node.port == port).unwrap()
}

async fn until_unready(cluster: &Cluster, port: u16, why: &str) {
    let node = cluster.coordinators().find(|node| node.port == port).unwrap();
    eventually("a coordinator says why it is not ready", HEAL, async || {
        node.check_alive();
        let answer = node.http().get("/readyz").attempt().await.map_err(|failure| format!("{failure:?}"))?;
        if answer.status == 503 && answer.text().contains(why) { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

fn add(node: Http, port: u16) -> crate::harness::Call {
    node.call("POST", format!("/cluster/coordinators?addr=127.0.0.1:{port}"))
}

fn remove(node: Http, which: impl std::fmt::Display) -> crate::harness::Call {
    node.call("DELETE", format!("/cluster/coordinators/{which}"))
}

/// Asserts that an order was taken, waits until it is carried out, and returns the number it was about.
async fn carried_out(cluster: &Cluster, order: crate::harness::Call) -> u64 {
    let answer = order.await;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    until_settled(cluster).await;
    answer.json()["node"].as_u64().unwrap()
}

async fn until_settled(cluster: &Cluster) -> Value {
    eventually("the group is as the map says", HEAL, async || {
        let answer = group(cluster.worker(0).http()).await?;
        if answer["settled"] == true { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await
}

async fn group(node: Http) -> Result<Value, String> {
    let answer =
        node.get("/cluster/coordinators").attempt().await.map_err(|failure| format!("{failure:?}"))?;
    if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
}

/// The ports of the members, as every running node tells them.
async fn until_members(cluster: &Cluster, ports: &[u16]) {
    let mut ports: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    ports.sort();
    eventually("every node tells of these members", HEAL, async || {
        for node in cluster.nodes.iter().filter(|node| node.is_up()) {
            let group = group(node.http()).await?;
            let mut members: Vec<_> =
                group["members"].as_object().unwrap().values().map(|addr| addr.as_str().unwrap()).collect();
            members.sort_unstable();
            if members != ports || group["settled"] != true {
                return Err(format!("{}: {group}", node.port));
            }
        }
        Ok(())
    })
    .await;
}

async fn number_of(cluster: &Cluster, port: u16) -> u64 {
    let group = until_settled(cluster).await;
    let members = group["members"].as_object().unwrap();
    let found = members.iter().find(|(_, addr)| **addr == format!("127.0.0.1:{port}"));
    found.unwrap_or_else(|| panic!("{port} is no member: {group}")).0.parse().unwrap()
}

fn refused(answer: &Answer, part: &str) {
    let problem = answer.problem(409);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(part), "'{part}' is not in: {detail}");
    assert_eq!(problem["outcome"], "none");
}

/// Waits until pings are registered and listed, which needs the coordinators, through every node.
async fn until_pings(cluster: &Cluster, id: &str) {
    for node in cluster.nodes.iter().filter(|node| node.is_up()) {
        eventually("/ping and /workers go on", HEAL, async || {
            let ping = node.http().get(format!("/ping?id={id}&port=9")).await;
            let list = node.http().get("/workers").await;
            match (ping.status, list.status) {
                (200, 200) if list.text().contains(&format!("{id},")) => Ok(()),
                _ => Err(format!("{}: {}, {}", node.port, ping.text(), list.text())),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn one_becomes_three_and_the_founder_goes() {
    let mut cluster = Cluster::start("seats-grow", Spec { coordinators: 1, ..Spec::default() }).await;
    let founder = cluster.coordinators().next().unwrap().port;
    let load = Load::start("grow", 4, &cluster.ports());
    load.until_more(50).await;

    let second = newcomer(&mut cluster).await;
    // Through a worker, and from there on the newcomer serves as every other node.
    carried_out(&cluster, add(cluster.worker(0).http(), second)).await;
    until_members(&cluster, &[founder, second]).await;
    let third = newcomer(&mut cluster).await;
    let server = format!("http://127.0.0.1:{second}");
    let told = format!("127.0.0.1:{third}");
    let added = quoring(cluster.dir.path(), &["coordinators", "add", &told, "--server", &server]).await;
    let added = added.exits(0).stdout;
    assert!(added.contains(&told), "{added}");
    until_members(&cluster, &[founder, second, third]).await;
    let listed = quoring(cluster.dir.path(), &["coordinators", "--server", &server]).await.exits(0).stdout;
    assert_eq!(listed.lines().count(), 4, "{listed}");
    load.until_more(50).await;
    cluster.until_whole().await;

    // Three stand the loss of one, be it the one that began it all.
    coordinator(&cluster, founder).kill();
    until_pings(&cluster, "without-the-founder").await;
    load.until_more(50).await;
    let status = cluster.status().await.unwrap();
    let silent = eventually("it is shown that it does not answer", HEAL, async || {
        let group = group(cluster.worker(0).http()).await?;
        group["silent"][0].as_u64().ok_or_else(|| group.to_string())
    })
    .await;
    assert_eq!(silent, 1, "{status}");
    let removed = remove(cluster.worker(1).http(), format!("127.0.0.1:{founder}"));
    assert_eq!(carried_out(&cluster, removed).await, silent);
    until_members(&cluster, &[second, third]).await;

    // Workers that are told only of it find the others, by what is on their disks.
    for worker in cluster.workers() {
        worker.kill();
        worker.start();
        cluster.until_whole().await;
    }
    until_pings(&cluster, "workers-came-back").await;
    // So does a worker that slept through the last change, and whom nobody of its map answers.
    let sleeper = cluster.worker(2);
    sleeper.kill();
    let fourth = newcomer(&mut cluster).await;
    carried_out(&cluster, add(cluster.worker(0).http(), fourth)).await;
    for gone in [second, third] {
        carried_out(&cluster, remove(cluster.worker(0).http(), format!("127.0.0.1:{gone}"))).await;
        until_unready(&cluster, gone, "was removed").await;
        coordinator(&cluster, gone).kill();
        // The fate of an order that is sent to it before its end is noticed would be unknown.
        until_settled(&cluster).await;
    }
    until_members(&cluster, &[fourth]).await;
    cluster.worker(2).start();
    cluster.until_whole().await;
    until_pings(&cluster, "the-sleeper-too").await;
    load.prove(&cluster).await;
}

#[tokio::test]
async fn a_lost_directory_is_replaced() {
    let mut cluster = Cluster::start("seats-replace", Spec::default()).await;
    let founders: Vec<_> = cluster.coordinators().map(|node| node.port).collect();
    let load = Load::start("replace", 4, &cluster.ports());
    load.until_more(50).await;

    // Its disk is gone, and its machine comes back with the command line that it always had. The
    // first of them, which would found, and another one.
    for lost in &founders[..2] {
        let node = coordinator(&cluster, *lost);
        let old = number_of(&cluster, *lost).await;
        node.kill();
        fs::remove_dir_all(&node.dir).unwrap();
        node.start();
        until_unready(&cluster, *lost, "directory is new or was lost").await;
        let answer = add(cluster.worker(0).http(), *lost).await;
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["replaces"], old, "{answer}");
        assert!(answer["node"].as_u64().unwrap() > 6, "a number that was given out before: {answer}");
        until_members(&cluster, &founders).await;
        cluster.until_whole().await;
        load.until_more(30).await;
    }
    // Or another machine takes over, and the lost one is taken out.
    let lost = coordinator(&cluster, founders[2]);
    lost.kill();
    fs::remove_dir_all(&lost.dir).unwrap();
    let other = newcomer(&mut cluster).await;
    carried_out(&cluster, add(cluster.worker(0).http(), other)).await;
    carried_out(&cluster, remove(cluster.any(), format!("127.0.0.1:{}", founders[2]))).await;
    until_members(&cluster, &[founders[0], founders[1], other]).await;
    cluster.until_whole().await;
    load.until_more(50).await;

    // All of it is on disk: old command lines do not count.
    let gone = cluster.nodes.iter().position(|node| node.port == founders[2]).unwrap();
    cluster.nodes.remove(gone);
    cluster.kill_all();
    cluster.restart_all().await;
    until_members(&cluster, &[founders[0], founders[1], other]).await;
    until_pings(&cluster, "after-all").await;
    load.until_more(20).await;
    load.prove(&cluster).await;
}

#[tokio::test]
async fn the_leader_goes_and_what_cannot_be_is_refused() {
    let mut cluster = Cluster::start("seats-leader", Spec::default()).await;
    let founders: Vec<_> = cluster.coordinators().map(|node| node.port).collect();
    let load = Load::start("leader", 4, &cluster.workers().map(|node| node.port).collect::<Vec<_>>());
    load.until_more(30).await;
    let before = until_settled(&cluster).await;

    for node in cluster.each() {
        for addr in ["", "?addr=", "?addr=x", "?addr=127.0.0.1:0"] {
            node.call("POST", format!("/cluster/coordinators{addr}")).await.problem(400);
        }
        refused(&add(node, founders[0]).await, "is a member");
        refused(&add(node, cluster.worker(0).port).await, "is a worker");
        refused(&add(node, free_port()).await, "Connection refused");
        remove(node, 99).await.problem(404);
        remove(node, "127.0.0.1:9").await.problem(404);
        // A coordinator is no worker.
        node.call("POST", format!("/cluster/join?addr=127.0.0.1:{}", founders[0])).await.problem(409);
    }
    // One that has founded a cluster of its own.
    let stranger = free_port();
    let args = ["coordinator".to_owned(), stranger.to_string(), "--dir".into(), "stranger".into()];
    let log = cluster.dir.path().join("stranger.log");
    // Beside no cluster.toml, which would say who founds.
    let apart = cluster.dir.path().join("apart");
    fs::create_dir(&apart).unwrap();
    let process = Process::quoring(&args, &apart, &log).unwrap();
    eventually("another cluster is founded", HEAL, async || group(Http::at(stranger)).await).await;
    refused(&add(cluster.any(), stranger).await, "belongs to cluster");
    drop(process);
    let after = until_settled(&cluster).await;
    assert_eq!(after["members"], before["members"]);

    // The leader goes, asked through itself, and is told so; the others go on.
    let leader = after["leader"].as_u64().unwrap();
    let addr = after["members"][leader.to_string()].as_str().unwrap().to_owned();
    let port: u16 = addr.rsplit_once(':').unwrap().1.parse().unwrap();
    assert_eq!(carried_out(&cluster, remove(Http::at(port), leader)).await, leader);
    until_unready(&cluster, port, "was removed").await;
    let left: Vec<_> = founders.iter().copied().filter(|founder| *founder != port).collect();
    load.until_more(30).await;
    refused(&add(Http::at(left[0]), port).await, "not empty");
    // It still passes requests on, it comes back as what it is, and it leads nobody astray.
    Http::at(port).put("/kv/removed", "x").await.is(200);
    let gone = coordinator(&cluster, port);
    gone.kill();
    gone.start();
    until_unready(&cluster, port, "was removed").await;
    let term = until_settled(&cluster).await["term"].clone();
    load.until_more(30).await;
    assert_eq!(until_settled(&cluster).await["term"], term, "the removed one disturbs the others");
    gone.kill();
    until_members(&cluster, &left).await;

    // Of two with one dead, there is no majority to agree on anything.
    let (alive, dead) = (left[0], left[1]);
    let third = newcomer(&mut cluster).await;
    carried_out(&cluster, add(cluster.worker(0).http(), third)).await;
    coordinator(&cluster, dead).kill();
    let number = number_of(&cluster, alive).await;
    eventually("who is needed stays", HEAL, async || {
        // Until another leads, it is 503.
        let answer = remove(Http::at(third), number).await;
        if answer.status == 503 {
            return Err(answer.text());
        }
        refused(&answer, "no majority");
        Ok(())
    })
    .await;
    carried_out(&cluster, remove(Http::at(third), format!("127.0.0.1:{dead}"))).await;
    // Two become one, which needs the vote of the one that goes.
    carried_out(&cluster, remove(Http::at(third), number)).await;
    until_unready(&cluster, alive, "was removed").await;
    let last = until_settled(&cluster).await["leader"].as_u64().unwrap();
    refused(&remove(Http::at(third), last).await, "last one");
    load.until_more(30).await;
    load.prove(&cluster).await;
}

#[tokio::test]
async fn the_leader_dies_in_the_middle_of_a_change() {
    let mut cluster = Cluster::start("seats-crash", Spec { workers: 1, ..Spec::default() }).await;
    let load = Load::start("crash", 2, &[cluster.worker(0).port]);
    load.until_more(20).await;
    // Killed as soon as the order is given; as soon as the map has it; and when all of it was done.
    for round in 0..3 {
        let before = until_settled(&cluster).await;
        let leader = before["leader"].as_u64().unwrap();
        let addr = before["members"][leader.to_string()].as_str().unwrap().to_owned();
        let leader: u16 = addr.rsplit_once(':').unwrap().1.parse().unwrap();
        let added = newcomer(&mut cluster).await;
        let order = add(cluster.worker(0).http(), added);
        let order = tokio::spawn(async move { order.attempt().await });
        if round > 0 {
            eventually("the order is seen", HEAL, async || {
                let group = group(Http::at(leader)).await?;
                let seen = group["members"].as_object().unwrap().len() > 3;
                if seen && (round == 1 || group["settled"] == true) { Ok(()) } else { Err(group.to_string()) }
            })
            .await;
        }
        coordinator(&cluster, leader).kill();
        let told = order.await.unwrap();
        // Whatever became of it, the others end it, and it can be given again where it was not taken.
        eventually("the newcomer is a member", HEAL, async || {
            let group = group(cluster.worker(0).http()).await?;
            if group["members"]
                .as_object()
                .unwrap()
                .values()
                .any(|addr| *addr == format!("127.0.0.1:{added}"))
            {
                return if group["settled"] == true { Ok(()) } else { Err(group.to_string()) };
            }
            let again = add(cluster.worker(0).http(), added).await;
            Err(format!("{told:?}, then {again:?}"))
        })
        .await;
        let old = format!("127.0.0.1:{leader}");
        // The same with the removal of the dead one, and the death of whoever leads then.
        eventually("the dead one is taken out", HEAL, async || {
            let answer = remove(cluster.worker(0).http(), &old).await;
            if matches!(answer.status, 200 | 202 | 404) { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        let second = until_settled(&cluster).await;
        assert_eq!(second["members"].as_object().unwrap().len(), 3, "{second}");
        let gone = cluster.nodes.iter().position(|node| node.port == leader).unwrap();
        cluster.nodes.remove(gone);
        until_pings(&cluster, &format!("crash-{round}")).await;
    }
    load.until_more(20).await;
    load.prove(&cluster).await;
}
