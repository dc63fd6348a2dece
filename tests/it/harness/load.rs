//! A steady load of writes, and the proof that none that was acknowledged is lost.
//!
//! Each writer has keys of its own and writes them one after the other, so what a key may hold is
//! known: the last acknowledged value, or one whose fate the writer was not told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{Cluster, Failure, HEAL, Http, eventually};

/// Keys of a writer.
const KEYS: u64 = 20;

/// Between two writes of a writer, at least: the load is steady, and leaves the nodes some processor.
const PACE: Duration = Duration::from_millis(10);

/// Beyond what a node may take (request_timeout + 1.5 s): only a paused one keeps a writer waiting
/// for so long.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a key may hold.
#[derive(Debug, Default)]
struct Held {
    acknowledged: Option<u64>,
    /// Writes without an answer, or with 504: each may happen at any later time.
    unknown: BTreeSet<u64>,
}

impl Held {
    fn allows(&self, value: Option<u64>) -> bool {
        value == self.acknowledged || value.is_some_and(|value| self.unknown.contains(&value))
    }
}

/// Writers at work.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    refused: Arc<Mutex<BTreeMap<String, u64>>>,
    avoided: Arc<AtomicU16>,
    rounds: Arc<Vec<AtomicU64>>,
    writers: Vec<JoinHandle<BTreeMap<String, Held>>>,
}

impl Load {
    /// Starts `writers`, each of which goes round the nodes at `ports`.
    pub(crate) fn start(name: &str, writers: usize, ports: &[u16]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(Mutex::new(BTreeMap::new()));
        let avoided = Arc::new(AtomicU16::new(0));
        let rounds: Arc<Vec<_>> = Arc::new((0..writers).map(|_| AtomicU64::new(0)).collect());
        let writer = |number: usize| {
            let writer = Writer {
                name: format!("{name}-{number}"),
                ports: ports.to_vec(),
                stop: stop.clone(),
                acknowledged: acknowledged.clone(),
                refused: refused.clone(),
                avoided: avoided.clone(),
                rounds: rounds.clone(),
                held: BTreeMap::new(),
            };
            tokio::spawn(writer.run(number))
        };
        let writers = (0..writers).map(writer).collect();
        Self { stop, acknowledged, refused, avoided, rounds, writers }
    }

    /// From now on nobody asks the node at this port, as behind a load balancer that takes it out
    /// before it is stopped; 0 for none. Returns once requests that it still had are answered.
    pub(crate) async fn avoid(&self, port: u16) {
        self.avoided.store(port, Ordering::Relaxed);
        let now = || self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before = now();
        // The round after the next one has begun since.
        eventually("every writer goes on", HEAL, async || {
            let moved = before.iter().zip(now()).all(|(before, now)| now >= before + 2);
            if moved { Ok(()) } else { Err(format!("{before:?}")) }
        })
        .await;
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes are acknowledged: the load goes on.
    pub(crate) async fn until_more(&self, more: u64) {
        let wanted = self.acknowledged() + more;
        eventually("writes go on", HEAL, async || {
            let now = self.acknowledged();
            if now >= wanted {
                Ok(())
            } else {
                Err(format!("{now} of {wanted}, refused: {:?}", self.refusals()))
            }
        })
        .await;
    }

    /// Failed requests, by what they were told.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        self.refused.lock().unwrap().clone()
    }

    /// Ends the load and proves every key at every node that runs.
    pub(crate) async fn prove(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        let mut keys = BTreeMap::new();
        for writer in self.writers {
            keys.extend(writer.await.unwrap());
        }
        assert!(!keys.is_empty(), "the load wrote nothing");
        let nodes: Vec<_> =
            cluster.nodes.iter().filter(|node| node.is_up()).map(|node| node.http()).collect();
        for (index, (key, held)) in keys.iter().enumerate() {
            // Every node is a front-end: each key is asked of one, all of them in turn.
            let node = nodes[index % nodes.len()];
            let value = eventually("a key is read", HEAL, async || read(node, key).await).await;
            assert!(held.allows(value), "{key} holds {value:?} at {}, but: {held:?}", node.port);
        }
    }
}

struct Writer {
    name: String,
    ports: Vec<u16>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    refused: Arc<Mutex<BTreeMap<String, u64>>>,
    avoided: Arc<AtomicU16>,
    rounds: Arc<Vec<AtomicU64>>,
    held: BTreeMap<String, Held>,
}

impl Writer {
    async fn run(mut self, number: usize) -> BTreeMap<String, Held> {
        let mut turn = number;
        let mut value = 0;
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            let node = self.next(&mut turn);
            let key = format!("{}-{}", self.name, value % KEYS);
            value += 1;
            self.write(node, &key, value).await;
            // Another node than the one that took the write must know it.
            let reader = self.next(&mut turn);
            match read(reader, &key).await {
                Ok(seen) => {
                    let held = &self.held[&key];
                    assert!(held.allows(seen), "{key} reads {seen:?} at {}, but: {held:?}", reader.port);
                }
                Err(told) => *self.refused.lock().unwrap().entry(told).or_default() += 1,
            }
            self.rounds[number].fetch_add(1, Ordering::Relaxed);
            pace.tick().await;
        }
        self.held
    }

    fn next(&self, turn: &mut usize) -> Http {
        loop {
            let port = self.ports[*turn % self.ports.len()];
            *turn += 1;
            if port != self.avoided.load(Ordering::Relaxed) {
                return Http::at(port);
            }
        }
    }

    async fn write(&mut self, node: Http, key: &str, value: u64) {
        let held = self.held.entry(key.to_owned()).or_default();
        let told = match node.put(format!("/kv/{key}"), value.to_string()).patience(PATIENCE).attempt().await
        {
            Ok(answer) if answer.status == 200 => {
                held.acknowledged = Some(value);
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(answer) => {
                assert!(matches!(answer.status, 429 | 503 | 504), "PUT {key}: {answer:?}");
                answer.problem(answer.status);
                if answer.status == 504 {
                    held.unknown.insert(value);
                }
                answer.text()
            }
            Err(Failure::Broken(why)) => {
                held.unknown.insert(value);
                why
            }
            Err(Failure::NotSent(why)) => why,
        };
        *self.refused.lock().unwrap().entry(told).or_default() += 1;
    }
}

/// The number that a key holds, by a linearizable read.
async fn read(node: Http, key: &str) -> Result<Option<u64>, String> {
    let answer = node
        .get(format!("/kv/{key}"))
        .patience(PATIENCE)
        .attempt()
        .await
        .map_err(|failure| format!("{failure:?}"))?;
    match answer.status {
        200 => Ok(Some(answer.text().parse().map_err(|error| format!("{key}: {error}: {}", answer.text()))?)),
        404 => Ok(None),
        _ => Err(answer.text()),
    }
}
