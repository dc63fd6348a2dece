//! Nodes that are not who they seem to be, or belong elsewhere.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use quoring::{
    command::At,
    error::Error,
    ids::{ClusterId, Epoch, NodeId, Opening, StoreId},
    peer::{Conn, Handler, Identity, Lane, Links, Peer, Reply},
    ring::map::Map,
    router::calls::{self, ClusterAnswer, ClusterCall},
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{Cluster, HEAL, Http, Process, Spec, eventually, free_port};

async fn until_answers(node: Http, status: u16, part: &str) {
    eventually("a node says how it is", HEAL, async || {
        let answer = node.get("/readyz").attempt().await.map_err(|failure| format!("{failure:?}"))?;
        if answer.status == status && answer.text().contains(part) { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test]
async fn a_worker_of_another_cluster_stays_what_it_is() {
    let cluster = Cluster::start("stranger", Spec::one()).await;
    let apart = cluster.dir.path().join("apart");
    fs::create_dir(&apart).unwrap();
    let start = |args: &[&str]| Process::quoring(args, &apart, &apart.join("log")).unwrap();
    let (coordinator, worker) = (free_port(), free_port());
    let (theirs, number) = (format!("127.0.0.1:{coordinator}"), worker.to_string());
    let other = start(&["coordinator", &coordinator.to_string(), "--dir", "c"]);
    let stranger = start(&["worker", &number, "w", &theirs]);
    let node = Http::at(worker);
    until_answers(node, 200, "OK").await;
    eventually("the other cluster serves", HEAL, async || {
        let answer = node.put("/kv/whose", "theirs").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    cluster.any().put("/kv/whose", "ours").await.is(200);

    // It cannot be asked in, and it does not come in by a wrong command line.
    let problem =
        cluster.any().call("POST", format!("/cluster/join?addr=127.0.0.1:{worker}")).await.problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("belongs to cluster"), "{problem}");
    drop((stranger, other));
    let ours = format!("127.0.0.1:{}", cluster.coordinators().next().unwrap().port);
    let stranger = start(&["worker", &number, "w", &ours]);
    until_answers(node, 200, "OK").await;
    eventually("it is turned away", HEAL, async || {
        let log = fs::read_to_string(apart.join("log")).unwrap();
        if log.contains("join the cluster") { Ok(()) } else { Err(log) }
    })
    .await;
    let held = eventually("its data is its own", HEAL, async || {
        let answer = node.get("/kv/whose").await;
        if answer.status == 200 { Ok(answer.text()) } else { Err(answer.text()) }
    })
    .await;
    assert_eq!(held, "theirs");
    drop(stranger);
    let status = cluster.status().await.unwrap();
    assert_eq!(status["workers"].as_array().unwrap().len(), 1, "{status}");
    cluster.any().get("/kv/whose").await.says("ours");
}

#[tokio::test]
async fn a_second_worker_with_the_same_id_is_turned_away() {
    let cluster = Cluster::start("same-id", Spec::one()).await;
    let first = cluster.worker(0);
    cluster.any().put("/kv/same", "x").await.is(200);
    let before = cluster.status().await.unwrap();
    let copy = cluster.dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(first.dir.join("id"), copy.join("id")).unwrap();
    let coordinator = format!("127.0.0.1:{}", cluster.coordinators().next().unwrap().port);
    let port = free_port();
    let args = ["worker", &port.to_string(), copy.to_str().unwrap(), &coordinator];
    let second = Process::quoring(&args, cluster.dir.path(), &cluster.dir.path().join("second.log")).unwrap();
    until_answers(Http::at(port), 503, "already active").await;
    // The first one is as it was, and goes on.
    let after = cluster.status().await.unwrap();
    for what in ["id", "node", "addr", "active"] {
        assert_eq!(after["workers"][0][what], before["workers"][0][what], "{after}");
    }
    assert_eq!(after["workers"].as_array().unwrap().len(), 1, "{after}");
    first.check_alive();
    first.http().get("/kv/same").await.says("x");
    drop(second);
}

/// Takes no calls.
struct Silent;

impl Handler for Silent {
    fn dispatch(&self, _: &Arc<Conn>, _: u8, _: Bytes, reply: Reply) {
        reply.busy();
    }
}

/// Higher than all before, as every opening of an honest store is.
fn opening() -> Opening {
    static HEIGHT: AtomicU64 = AtomicU64::new(1);
    let height = HEIGHT.fetch_add(1, Ordering::Relaxed);
    Opening { id: height, height }
}

/// Asks a node what nodes ask each other, as one that belongs to no cluster yet.
async fn ask(port: u16, store: StoreId, call: &ClusterCall) -> Result<ClusterAnswer, Error> {
    let me = Identity { cluster: None, node: None, store, opening: opening() };
    let (links, _gone) = Links::new(me, Arc::new(Silent), Arc::new(|| 0));
    let deadline = Instant::now() + HEAL;
    let (to, body) = (Peer::Addr(format!("127.0.0.1:{port}")), calls::cluster(deadline, call));
    let answer = links.call(&to, Lane::Main, calls::method::CLUSTER, body, deadline).await.unwrap();
    links.close();
    calls::decode_cluster(&calls::open(answer)?)
}

async fn map_of(port: u16) -> Map {
    match ask(port, StoreId::default(), &ClusterCall::Map).await.unwrap() {
        ClusterAnswer::Map(Some(map)) => *map,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn orders_of_an_old_map_and_of_another_cluster_change_nothing() {
    let cluster = Cluster::start("old-orders", Spec::one()).await;
    cluster.any().put("/kv/orders", "x").await.is(200);
    let worker = cluster.worker(0).port;
    let map = eventually("the map is at rest", HEAL, async || {
        let (map, formed) = (map_of(worker).await, |shard: &quoring::ring::map::Shard| shard.formed);
        if map.shards.values().all(formed) { Ok(map) } else { Err(format!("{map:?}")) }
    })
    .await;
    let mut old = map.clone();
    old.epoch.0 -= 1;
    old.shards.clear();
    old.workers.clear();
    old.coordinators.clear();
    let told = ask(worker, StoreId::default(), &ClusterCall::TakeMap(Box::new(old.clone()))).await;
    assert_eq!(told, Ok(ClusterAnswer::Done), "it is as good as late");
    // A newer one of another cluster is not.
    old.epoch.0 += 100;
    old.cluster = ClusterId(Uuid::new_v4());
    let told = ask(worker, StoreId::default(), &ClusterCall::TakeMap(Box::new(old.clone()))).await;
    assert!(matches!(&told, Err(Error::Refused(why)) if why.contains("another cluster")), "{told:?}");
    // Nor does a coordinator take a seat in it.
    let seat = ClusterCall::TakeSeat { node: NodeId(9), map: Box::new(old) };
    for node in &cluster.nodes {
        let told = ask(node.port, StoreId::default(), &seat).await;
        assert!(matches!(told, Err(Error::Refused(_))), "{told:?}");
    }
    assert_eq!(map_of(worker).await, map);
    cluster.any().get("/kv/orders").await.says("x");
    assert_eq!(cluster.status().await.unwrap()["epoch"], map.epoch.0);
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_told() {
    const HOURS: u64 = 5 * 3_600_000;
    let cluster = Cluster::start("clock", Spec::one()).await;
    let coordinator = cluster.coordinators().next().unwrap().port;
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let before = cluster.status().await.unwrap();
    let store = StoreId(Uuid::new_v4());
    let join = |at| ClusterCall::Join {
        id: "early".parse().unwrap(),
        store,
        addr: "127.0.0.1:9".into(),
        zone: None,
        node: None,
        at: At(at),
        opening: opening(),
    };
    for (at, way) in [(now + HOURS, "ahead"), (now - HOURS, "behind"), (0, "behind"), (u64::MAX, "ahead")] {
        let told = ask(coordinator, store, &join(at)).await;
        let clear = |why: &str| why.contains("clock of this worker") && why.contains(way);
        assert!(matches!(&told, Err(Error::Refused(why)) if clear(why)), "{told:?}");
    }
    let after = cluster.status().await.unwrap();
    assert_eq!(after["workers"].as_array().unwrap().len(), 1, "{after}");
    assert_eq!(after["workers"][0]["node"], before["workers"][0]["node"]);

    // A member whose clock goes wrong is told with its heartbeat, and shown; the next right one heals it.
    let member = NodeId(after["workers"][0]["node"].as_u64().unwrap());
    let heartbeat = |at| ClusterCall::Heartbeat {
        node: member,
        epoch: Epoch(u64::MAX),
        held: Vec::new(),
        at: At(at),
        limps: false,
    };
    for (at, off) in [(now + HOURS, true), (now, false)] {
        match ask(coordinator, store, &heartbeat(at)).await.unwrap() {
            ClusterAnswer::Heard { clock_off_ms, .. } => {
                assert_eq!(clock_off_ms.is_some_and(|off| off > 4 * 3_600_000), off, "{clock_off_ms:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    eventually("it is as it was", HEAL, async || {
        let status = cluster.status().await?;
        let fine = status["workers"][0]["clock_off_ms"].is_null() && status["workers"][0]["active"] == true;
        if fine { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    cluster.any().put("/kv/clock?ttl=1h", "x").await.is(200);
    cluster.any().get("/kv/clock").await.says("x");
}
