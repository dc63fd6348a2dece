//! `?consistency=stale`.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::harness::{Answer, Cluster, HEAL, Http, Spec, eventually};

/// Stale reads of each node while writes go on.
const READS: usize = 200;

/// The bound that an answer tells.
fn bound(answer: &Answer) -> Option<Duration> {
    answer.header("quoring-staleness-ms").map(|ms| Duration::from_millis(ms.parse().unwrap()))
}

/// The writes of one key, a number that grows, and when each was acknowledged.
#[derive(Default)]
struct Acknowledged(Mutex<Vec<Instant>>);

impl Acknowledged {
    /// Writes the next number, and notes when that was acknowledged.
    async fn write(&self, node: Http) {
        let next = self.0.lock().unwrap().len();
        if node.put("/kv/stale-bound", next.to_string()).await.status == 200 {
            self.0.lock().unwrap().push(Instant::now());
        }
    }

    /// Reads the key at a node, whatever its age, and judges the bound that it tells: every write
    /// acknowledged before it must be seen.
    async fn check(&self, reader: Http) -> Option<Duration> {
        let sent = Instant::now();
        let answer = reader.get("/kv/stale-bound?consistency=stale").await;
        let bound = bound(&answer)?;
        let seen = if answer.status == 404 { -1 } else { answer.is(200).text().parse::<i64>().unwrap() };
        let acknowledged = self.0.lock().unwrap().iter().filter(|at| **at + bound < sent).count();
        assert!(
            seen + 1 >= acknowledged as i64,
            "{seen} was read, {acknowledged} were written {bound:?} ago"
        );
        Some(bound)
    }
}

#[tokio::test]
async fn the_bound_is_true_at_every_node() {
    let cluster = Cluster::start("stale-bound", Spec::default()).await;
    let written = Arc::new(Acknowledged::default());
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (written, stop, node) = (written.clone(), stop.clone(), cluster.nodes[0].http());
        async move {
            while !stop.load(Ordering::Relaxed) {
                written.write(node).await;
            }
        }
    });
    // Leader and followers alike tell a bound soon, and it is always true.
    join_all(cluster.each().map(|reader| {
        let written = written.clone();
        async move {
            let mut told = 0;
            eventually("every replica tells bounds", HEAL, async || {
                told += usize::from(written.check(reader).await.is_some());
                if told >= READS { Ok(()) } else { Err(format!("{told} at {}", reader.port)) }
            })
            .await;
        }
    }))
    .await;

    // A follower that sleeps wakes up with an old state, and says so.
    let (leader, followers) = cluster.leader_and_followers("stale-bound").await;
    let (sleeper, other) = (followers[0], followers[1]);
    for _ in 0..5 {
        sleeper.pause();
        let before = written.0.lock().unwrap().len();
        eventually("writes go on without it", HEAL, async || {
            let now = written.0.lock().unwrap().len();
            if now >= before + 10 { Ok(()) } else { Err(format!("{now}")) }
        })
        .await;
        sleeper.resume();
        for _ in 0..20 {
            written.check(sleeper.http()).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();

    // Without a majority nothing can be confirmed any more: the bound grows with time.
    eventually("a bound", HEAL, async || written.check(sleeper.http()).await.ok_or("none".into())).await;
    leader.kill();
    other.kill();
    let first = eventually("an answer without anybody else", HEAL, async || {
        written.check(sleeper.http()).await.ok_or("no bound".into())
    })
    .await;
    let at = Instant::now();
    eventually("the bound grows", HEAL, async || {
        let elapsed = at.elapsed();
        let now = written.check(sleeper.http()).await.expect("it was known before");
        assert!(now >= elapsed, "{now:?} after {elapsed:?}");
        if now > first + Duration::from_secs(2) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    // Lists are as old as their oldest part.
    for path in ["/data/kv", "/kv", "/data", "/data/kv/stale-bound"] {
        let answer = sleeper.http().get(format!("{path}?consistency=stale")).await.is(200);
        if let Some(told) = bound(&answer) {
            assert!(told >= Duration::from_secs(2), "{path}: {told:?}");
        }
    }
}

#[tokio::test]
async fn every_node_answers_stale_reads() {
    let cluster = Cluster::shared().await;
    let node = cluster.any();
    node.put("/data/stale/r/c", "x").await.is(200);
    node.put("/kv/stale-key", "x").await.is(200);
    for reader in cluster.each() {
        // A replica may be behind, but not for ever.
        for path in [
            "/data/stale/r/c?consistency=stale",
            "/data/stale/r?consistency=stale",
            "/data/stale?consistency=stale",
            "/kv/stale-key?consistency=stale",
            "/kv?prefix=stale-key&consistency=stale",
            "/data?consistency=stale",
        ] {
            let answer = eventually("a stale read", HEAL, async || {
                let answer = reader.get(path).await;
                if answer.status == 200 { Ok(answer) } else { Err(answer.text()) }
            })
            .await;
            if let Some(age) = answer.header("quoring-staleness-ms") {
                age.parse::<u64>().unwrap_or_else(|error| panic!("{path}: {age}: {error}"));
            }
        }
    }
}

#[tokio::test]
async fn other_words_are_refused() {
    let cluster = Cluster::shared().await;
    cluster.any().get("/kv/stale-key?consistency=eventual").await.problem(400);
    cluster.any().get("/kv/stale-none?consistency=stale").await.problem(404);
}
