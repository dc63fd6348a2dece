//! What the map did while something happened: watched from outside, without a gap that matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{task::JoinHandle, time::interval};

use crate::harness::Http;

/// Between two looks: shorter than a move takes, so that none comes and goes unseen.
const LOOK: Duration = Duration::from_millis(30);

type Replicas = BTreeMap<u64, BTreeSet<String>>;

/// A watch on `/cluster`.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    looks: JoinHandle<Vec<Value>>,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Seen(Vec<Value>);

impl Watch {
    /// Begins to look at these nodes, the first that answers each time.
    pub(super) fn start(ports: Vec<u16>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let looks = tokio::spawn(async move {
            let (mut seen, mut looks) = (Vec::<Value>::new(), interval(LOOK));
            // One more look after the end.
            let mut last = false;
            while !last {
                last = stopped.load(Ordering::Relaxed);
                looks.tick().await;
                for port in &ports {
                    if let Ok(answer) = Http::at(*port).get("/cluster").attempt().await
                        && answer.status == 200
                    {
                        seen.push(answer.json());
                        break;
                    }
                }
            }
            seen
        });
        Self { stop, looks }
    }

    /// Ends it.
    pub(super) async fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.looks.await.unwrap();
        assert!(seen.len() > 1, "nothing was seen");
        Seen(seen)
    }
}

fn names(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn replicas(status: &Value) -> Replicas {
    let shards = status["shards"].as_array().unwrap();
    shards.iter().map(|shard| (shard["id"].as_u64().unwrap(), names(&shard["replicas"]))).collect()
}

impl Seen {
    /// Every replica that a shard gained, whoever lost it again: what was copied.
    pub(super) fn gained(&self) -> Vec<(u64, String)> {
        let mut gained = Vec::new();
        for pair in self.0.windows(2) {
            let (before, after) = (replicas(&pair[0]), replicas(&pair[1]));
            for (shard, after) in &after {
                let none = BTreeSet::new();
                let before = before.get(shard).unwrap_or(&none);
                gained.extend(after.difference(before).map(|worker| (*shard, worker.clone())));
            }
        }
        gained
    }

    /// The fewest voters that any shard had at any time: those of the map, without those still on
    /// their way in, with those still on their way out.
    pub(super) fn fewest_voters(&self) -> usize {
        let fewest = |status: &Value| {
            let mut voters = replicas(status);
            for a_move in status["moves"].as_array().unwrap() {
                let voters = voters.get_mut(&a_move["shard"].as_u64().unwrap()).unwrap();
                voters.retain(|worker| !names(&a_move["adding"]).contains(worker));
                voters.extend(names(&a_move["removing"]));
            }
            voters.values().map(BTreeSet::len).min().unwrap()
        };
        self.0.iter().map(fewest).min().unwrap()
    }

    /// The most replicas that were on their way to a worker at one time.
    pub(super) fn most_coming(&self, id: &str) -> usize {
        let coming = |status: &Value| {
            let moves = status["moves"].as_array().unwrap().iter();
            moves.filter(|a_move| names(&a_move["adding"]).contains(id)).count()
        };
        self.0.iter().map(coming).max().unwrap()
    }
}
