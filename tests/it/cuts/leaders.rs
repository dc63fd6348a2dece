//! A shard's leader that is cut off from the other workers, while clients still talk to it: it
//! acknowledges nothing and shows nothing old, and when the network heals nothing was lost.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::harness::{Cluster, HEAL, Http, Load, Network, Node, Spec, check_times, eventually, in_network};

/// The key whose shard is looked at.
const KEY: &str = "cut-leader";

const SETTINGS: &str = "ping_interval = \"500ms\"\nrequest_timeout = \"1s\"";

/// Longer than a node may take with that.
const PATIENCE: Duration = Duration::from_secs(8);

/// Writes acknowledged by the others while the leader is cut off.
const MEANWHILE: u64 = 30;

/// What one writer at the other nodes knows of the key.
#[derive(Debug, Default)]
struct Known {
    /// The newest value that was acknowledged.
    acknowledged: AtomicU64,
    /// Those whose fate it was not told: each may be seen at any later time.
    unknown: Mutex<BTreeSet<u64>>,
    stop: AtomicBool,
}

impl Known {
    /// Whether a read that began when `floor` was acknowledged may see a value.
    fn allows(&self, value: u64, floor: u64) -> bool {
        value >= floor || self.unknown.lock().unwrap().contains(&value)
    }

    fn newest(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// Writes one number after the other to the key, at nodes that the leader is cut off from.
fn write(known: &Arc<Known>, nodes: Vec<Http>) -> JoinHandle<()> {
    let known = known.clone();
    tokio::spawn(async move {
        let mut value = known.newest();
        while !known.stop.load(Ordering::SeqCst) {
            value += 1;
            let node = nodes[(value % nodes.len() as u64) as usize];
            // Before it is asked for: a reader elsewhere may see it first.
            known.unknown.lock().unwrap().insert(value);
            let answer = node.put(format!("/kv/{KEY}"), value.to_string()).patience(PATIENCE).await;
            match answer.status {
                200 => {
                    known.acknowledged.store(value, Ordering::SeqCst);
                    known.unknown.lock().unwrap().remove(&value);
                }
                504 => {}
                status => {
                    assert!(matches!(status, 429 | 503), "{answer:?}");
                    known.unknown.lock().unwrap().remove(&value);
                }
            }
        }
    })
}

/// What a client was told by the node that is cut off.
#[derive(Debug, Default)]
struct Told {
    shown: u64,
    refused: u64,
}

/// Reads the key once at the node that is cut off. What it shows must be the newest.
async fn read(node: Http, known: &Known, told: &mut Told) {
    let floor = known.newest();
    let answer = node.get(format!("/kv/{KEY}")).patience(PATIENCE).await;
    match answer.status {
        200 => {
            let value = answer.text().parse().unwrap();
            assert!(known.allows(value, floor), "{value} was shown, and {floor} was acknowledged before");
            told.shown += 1;
        }
        status => {
            assert!(matches!(status, 503 | 504), "{answer:?}");
            told.refused += 1;
        }
    }
}

/// A key of the same shard.
async fn companion(cluster: &Cluster, name: &str) -> String {
    let shard =
        async |key: &str| cluster.any().get(format!("/ring?key={key}")).await.is(200).json()["shard"].clone();
    let wanted = shard(KEY).await;
    for number in 0.. {
        let key = format!("{name}-{number}");
        if shard(&key).await == wanted {
            return key;
        }
    }
    unreachable!("some key is in every shard")
}

/// Cuts the leader off by `cut`, heals, and judges what was seen meanwhile.
async fn round(network: &Network, cluster: &Cluster, number: u64, cut: impl Fn(&Node, &Node)) {
    let name = &format!("cut-{number}");
    let (leader, followers) = cluster.leader_and_followers(KEY).await;
    let (own, at_leader) = (companion(cluster, name).await, leader.http());
    let elsewhere: Vec<_> =
        cluster.coordinators().chain(followers.iter().copied()).map(|node| node.port).collect();
    let load = Load::start(name, 4, &elsewhere);
    load.until_more(40).await;
    // Numbers of this round only.
    let base = number * 1_000_000;
    let known = Arc::new(Known { acknowledged: AtomicU64::new(base), ..Known::default() });
    let first = eventually("the key is there", HEAL, async || {
        let answer = at_leader.put(format!("/kv/{KEY}"), base.to_string()).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer.text()) }
    });
    first.await;
    let writer = write(&known, elsewhere.iter().copied().map(Http::at).collect());

    followers.iter().for_each(|follower| cut(leader, follower));
    let since = known.newest();
    let mut told = Told::default();
    let mut writes = 0;
    eventually("the others go on", HEAL, async || {
        for _ in 0..3 {
            read(at_leader, &known, &mut told).await;
        }
        // Nobody but itself has it on disk, or it does not hear of it: it is not acknowledged.
        writes += 1;
        let answer = at_leader.put(format!("/kv/{own}"), writes.to_string()).patience(PATIENCE).await;
        answer.problem(if answer.status == 504 { 504 } else { 503 });
        let done = known.newest() - since;
        if done >= MEANWHILE && writes >= 3 { Ok(()) } else { Err(format!("{done} writes, {told:?}")) }
    })
    .await;
    assert!(told.refused > 0, "{told:?}");
    load.until_more(40).await;
    // By its own clock, everything was answered in time.
    check_times(&at_leader.get("/metrics").await.is(200).text());

    network.heal();
    eventually("it shows the newest", HEAL, async || {
        let mut told = Told::default();
        read(at_leader, &known, &mut told).await;
        if told.shown > 0 { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    cluster.until_whole().await;
    known.stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    load.until_more(40).await;
    load.prove(cluster).await;
    // What was not acknowledged may have happened: then it is one of these.
    let answer = cluster.any().get(format!("/kv/{own}")).await;
    if answer.status == 200 {
        assert!((1..=writes).contains(&answer.text().parse().unwrap()), "{answer:?}");
    }
}

#[tokio::test]
async fn cut_off_in_both_directions() {
    in_network("cuts::leaders::cut_off_in_both_directions", async |network| {
        let spec = Spec { settings: SETTINGS, ..Spec::default() };
        let cluster = Cluster::start_in(&network, "cut-both", spec).await;
        for number in 1..=2 {
            round(&network, &cluster, number, |leader, follower| network.part(leader, follower)).await;
        }
    })
    .await;
}

/// Its appends and beats are lost, and it hears all that the others say.
#[tokio::test]
async fn a_leader_that_is_not_heard() {
    in_network("cuts::leaders::a_leader_that_is_not_heard", async |network| {
        let spec = Spec { settings: SETTINGS, ..Spec::default() };
        let cluster = Cluster::start_in(&network, "cut-unheard", spec).await;
        for number in 1..=2 {
            round(&network, &cluster, number, |leader, follower| network.cut(leader, follower)).await;
        }
    })
    .await;
}

/// The others take what it appends, and it never hears so.
#[tokio::test]
async fn a_leader_that_hears_nothing() {
    in_network("cuts::leaders::a_leader_that_hears_nothing", async |network| {
        let spec = Spec { settings: SETTINGS, ..Spec::default() };
        let cluster = Cluster::start_in(&network, "cut-deaf", spec).await;
        for number in 1..=2 {
            round(&network, &cluster, number, |leader, follower| network.cut(follower, leader)).await;
        }
    })
    .await;
}
