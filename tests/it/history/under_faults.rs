//! Clients at work while nodes are killed, paused and stopped: what they saw must be what one
//! register per key would have shown.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinHandle;

use super::client::Client;
use crate::{
    harness::{Cluster, HEAL, Spec, eventually},
    linearizability::Recorder,
};

/// Few keys, so that clients meet on them.
const KEYS: usize = 8;

const CLIENTS: u64 = 10;

/// Operations with a known outcome between two faults.
const BETWEEN: u64 = 200;

/// The same while a node is paused: a client that has picked it waits out its patience.
const WHILE_PAUSED: u64 = 30;

pub(super) struct Running {
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(cluster: &Cluster) -> Self {
        let recorder = Arc::new(Recorder::default());
        let stop = Arc::new(AtomicBool::new(false));
        let keys: Vec<_> = (0..KEYS).map(|key| format!("history-{key}")).collect();
        let client = |number| Client {
            number,
            ports: cluster.ports(),
            keys: keys.clone(),
            recorder: recorder.clone(),
            stop: stop.clone(),
        };
        let clients = (1..=CLIENTS).map(|number| tokio::spawn(client(number).run())).collect();
        Self { recorder, stop, clients }
    }

    pub(super) async fn until_more(&self) {
        self.until(BETWEEN).await;
    }

    pub(super) async fn until(&self, more: u64) {
        let wanted = self.recorder.told() + more;
        eventually("clients are answered", HEAL, async || {
            // A client that panicked has seen an answer that no contract knows.
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client ended");
            let told = self.recorder.told();
            if told >= wanted { Ok(()) } else { Err(format!("{told} of {wanted}")) }
        })
        .await;
    }

    pub(super) async fn judge(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        println!("{}", self.recorder.judge().unwrap_or_else(|why| panic!("{why}")));
    }
}

#[tokio::test]
async fn killed_workers_and_coordinators() {
    let cluster = Cluster::start("history-kill", Spec::default()).await;
    let running = Running::start(&cluster);
    running.until_more().await;
    for node in &cluster.nodes {
        node.kill();
        running.until_more().await;
        node.start();
        cluster.until_whole().await;
        running.until_more().await;
    }
    running.judge().await;
}

#[tokio::test]
async fn paused_leaders_and_graceful_stops() {
    let cluster = Cluster::start("history-pause", Spec::default()).await;
    let running = Running::start(&cluster);
    running.until_more().await;
    for round in 0..2 {
        let (leader, _) = cluster.leader_and_followers(&format!("history-{round}")).await;
        leader.pause();
        running.until(WHILE_PAUSED).await;
        // It wakes up as one who believes to lead.
        leader.resume();
        cluster.until_whole().await;
        running.until_more().await;
        leader.stop(HEAL).await;
        running.until_more().await;
        leader.start();
        cluster.until_whole().await;
    }
    running.judge().await;
}

#[tokio::test]
async fn all_nodes_killed_at_once() {
    let cluster = Cluster::start("history-all", Spec::default()).await;
    let running = Running::start(&cluster);
    for _ in 0..2 {
        running.until_more().await;
        cluster.kill_all();
        cluster.restart_all().await;
    }
    running.until_more().await;
    running.judge().await;
}

#[tokio::test]
async fn splits_and_kills() {
    let cluster = Cluster::start("history-split", Spec { shards: 1, ..Spec::default() }).await;
    let running = Running::start(&cluster);
    running.until_more().await;
    for round in 0..3 {
        for shard in cluster.shards().await {
            cluster.split(shard, "").await;
        }
        // While some of the new shards are on their way.
        let victim = cluster.worker(round);
        victim.kill();
        running.until_more().await;
        victim.start();
        cluster.until_whole().await;
        running.until_more().await;
    }
    running.judge().await;
}
