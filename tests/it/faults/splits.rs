//! Shards that are split under load, with nodes dying in between: both halves serve, nothing that was
//! acknowledged is lost, and lists are whole at any moment.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::interval};

use crate::harness::{Answer, Call, Cluster, HEAL, Http, Load, Spec, eventually};

const WRITERS: usize = 6;

/// Beyond what a node may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Between two attempts at a page.
const PACE: Duration = Duration::from_millis(50);

/// Rows of the table that nobody changes.
const ROWS: usize = 400;

/// Sends until there is an answer that decides.
async fn decided(call: Call) -> Answer {
    eventually("a request is answered", HEAL, async || match call.attempt().await {
        Ok(answer) if matches!(answer.status, 409 | 429 | 503 | 504) => Err(answer.text()),
        Ok(answer) => Ok(answer),
        Err(failure) => Err(format!("{failure:?}")),
    })
    .await
}

async fn fill(node: Http, table: &str, names: impl Iterator<Item = String>) {
    let ops: Vec<_> = names
        .map(|row| json!({"op": "put", "table": table, "row": row, "column": "c", "value": row}))
        .collect();
    let results = decided(node.post("/batch", &json!(ops))).await.is(200).json();
    assert!(results.as_array().unwrap().iter().all(|result| result["status"] == 200), "{results}");
}

/// Reads a table over and over, page by page and each page at the next node: every row is there
/// once, whatever happens to its shards.
struct Scans {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Scans {
    fn start(ports: Vec<u16>, table: &'static str, rows: usize) -> Scans {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            let mut turn = 0;
            let mut pace = interval(PACE);
            while !until.load(Ordering::Relaxed) {
                let mut seen = BTreeMap::new();
                let mut cursor = String::new();
                loop {
                    turn += 1;
                    let node = Http::at(ports[turn % ports.len()]);
                    let call = node.get(format!("/data/{table}?limit=60{cursor}"));
                    let page = match call.patience(PATIENCE).attempt().await {
                        Ok(answer) if answer.status == 200 => answer.json(),
                        // Nobody serves a part of it just now: the same page again, from another node.
                        Ok(answer) => {
                            assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                            pace.tick().await;
                            continue;
                        }
                        Err(_) => {
                            pace.tick().await;
                            continue;
                        }
                    };
                    for row in page["rows"].as_array().unwrap() {
                        let name = row["row"].as_str().unwrap().to_owned();
                        assert_eq!(row["columns"]["c"]["value"], json!(name));
                        assert!(seen.insert(name.clone(), ()).is_none(), "{name} came twice");
                    }
                    match &page["next"] {
                        Value::Null => break,
                        next => cursor = format!("&cursor={}", next.as_str().unwrap()),
                    }
                }
                assert_eq!(seen.len(), rows, "rows are missing");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Scans { stop, done, task }
    }

    /// Waits until so many more were whole.
    async fn until_more(&self, more: u64) {
        let wanted = self.done.load(Ordering::Relaxed) + more;
        eventually("tables are read", HEAL, async || {
            assert!(!self.task.is_finished(), "a scan failed");
            let done = self.done.load(Ordering::Relaxed);
            if done >= wanted { Ok(()) } else { Err(format!("{done} of {wanted}")) }
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// Requests with an `Idempotency-Key`, and the answers that they must always give.
struct Repeats {
    puts: Vec<(String, u64)>,
    ops: Value,
    results: Value,
}

impl Repeats {
    fn put(node: Http, key: &str) -> Call {
        node.put(format!("/kv/{key}"), "first").header("idempotency-key", format!("once-{key}"))
    }

    fn batch(&self, node: Http) -> Call {
        node.post("/batch", &self.ops).header("idempotency-key", "many")
    }

    async fn first(cluster: &Cluster) -> Repeats {
        let mut puts = Vec::new();
        for n in 0..12 {
            let key = format!("repeat-{n}");
            let version = decided(Self::put(cluster.any(), &key)).await.is(200).version();
            cluster.any().put(format!("/kv/{key}"), "second").await.is(200);
            puts.push((key, version));
        }
        let op = |n| json!({"op": "put", "key": format!("repeat-batch-{n}"), "value": "1"});
        let ops = json!((0..24).map(op).collect::<Vec<_>>());
        let mut repeats = Repeats { puts, ops, results: Value::Null };
        repeats.results = decided(repeats.batch(cluster.any())).await.is(200).json();
        repeats
    }

    async fn check(&self, cluster: &Cluster) {
        for (node, (key, version)) in cluster.each().cycle().zip(&self.puts) {
            assert_eq!(decided(Self::put(node, key)).await.is(200).version(), *version, "{key}");
            decided(node.get(format!("/kv/{key}"))).await.says("second");
        }
        for node in cluster.each() {
            assert_eq!(decided(self.batch(node)).await.is(200).json(), self.results);
        }
        let other = cluster.any().put("/kv/repeat-0", "other").header("idempotency-key", "once-repeat-0");
        decided(other).await.problem(422);
    }
}

#[tokio::test]
async fn halves_serve_and_nothing_is_lost() {
    let cluster = Cluster::start("split", Spec { shards: 2, ..Spec::default() }).await;
    fill(cluster.any(), "fixed", (0..ROWS).map(|row| format!("row-{row:05}"))).await;
    let repeats = Repeats::first(&cluster).await;
    for n in 0..10 {
        cluster.any().put(format!("/kv/short-{n}?ttl=4s"), "gone soon").await.is(200);
        cluster.any().put(format!("/kv/long-{n}?ttl=1h"), "stays").await.is(200);
    }
    let mut versions = BTreeMap::new();
    for n in 0..10 {
        let key = format!("/kv/version-{n}");
        versions.insert(key.clone(), cluster.any().put(key, "1").await.is(200).version());
    }
    let load = Load::start("split", WRITERS, &cluster.ports());
    let scans = Scans::start(cluster.ports(), "fixed", ROWS);
    load.until_more(50).await;
    scans.until_more(1).await;
    for shard in cluster.shards().await {
        let (child, _) = cluster.split(shard, "").await;
        assert!(!cluster.shards().await.is_empty() && child > shard);
    }
    cluster.until_whole().await;
    load.until_more(100).await;
    scans.until_more(2).await;
    repeats.check(&cluster).await;
    // Once more, with a node dying right behind the change of the map, and back in time to get what it
    // missed by the parent's log or by a snapshot.
    for (round, shard) in cluster.shards().await.into_iter().enumerate() {
        let victim = cluster.worker(round % 3);
        cluster.split(shard, "").await;
        victim.kill();
        load.until_more(50).await;
        victim.start();
        cluster.until_whole().await;
    }
    scans.until_more(2).await;
    repeats.check(&cluster).await;
    // All of them, in the middle of splits.
    for shard in cluster.shards().await {
        cluster.split(shard, "").await;
    }
    cluster.kill_all();
    cluster.restart_all().await;
    load.until_more(100).await;
    scans.until_more(2).await;
    scans.end().await;
    repeats.check(&cluster).await;
    for (key, version) in versions {
        let now = decided(cluster.any().put(key.clone(), "2")).await.is(200).version();
        assert!(now > version, "{key}: {now} after {version}");
    }
    for n in 0..10 {
        decided(cluster.any().get(format!("/kv/long-{n}"))).await.says("stays");
        eventually("a value expires in its half", HEAL, async || {
            let answer = cluster.any().get(format!("/kv/short-{n}")).await;
            if answer.status == 404 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }
    load.prove(&cluster).await;
    let status = cluster.status().await.unwrap();
    assert_eq!(status["shards"].as_array().unwrap().len(), 16, "{status}");
}

#[tokio::test]
async fn a_half_moves_to_another_worker() {
    let cluster = Cluster::start("split-move", Spec { workers: 4, shards: 2, ..Spec::default() }).await;
    fill(cluster.any(), "fixed", (0..ROWS).map(|row| format!("row-{row:05}"))).await;
    let repeats = Repeats::first(&cluster).await;
    let load = Load::start("split-move", WRITERS, &cluster.ports());
    load.until_more(50).await;
    for shard in cluster.shards().await {
        cluster.split(shard, "").await;
    }
    // It comes back as one that has been drained, with replicas of some shards and not of others.
    let leaving = cluster.worker(0).id();
    let path = format!("/cluster/workers/{leaving}/drain");
    decided(cluster.any().call("POST", path.clone())).await.is(202);
    eventually("a worker is empty", HEAL, async || {
        let status = cluster.status().await?;
        let worker = status["workers"].as_array().unwrap().iter().find(|worker| worker["id"] == *leaving);
        let still = status["moves"].as_array().unwrap().is_empty();
        if worker.unwrap()["holds"] == 0 && still { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let scans = Scans::start(cluster.ports(), "fixed", ROWS);
    for shard in cluster.shards().await {
        cluster.split(shard, "").await;
    }
    decided(cluster.any().call("DELETE", path)).await.is(202);
    load.until_more(50).await;
    cluster.until_whole().await;
    cluster.kill_all();
    cluster.restart_all().await;
    load.until_more(50).await;
    scans.until_more(1).await;
    scans.end().await;
    repeats.check(&cluster).await;
    load.prove(&cluster).await;
}

#[tokio::test]
async fn ordered_rows_are_parted_in_the_middle_of_the_data() {
    let spec = Spec { shards: 1, partitioner: "ordered", ..Spec::one() };
    let cluster = Cluster::start("split-ordered", spec).await;
    // All of it in a small part of the ring, of which the middle of the arc knows nothing.
    fill(cluster.any(), "t", (0..ROWS).map(|row| format!("k{row:05}"))).await;
    let (child, at) = cluster.split(1, "").await;
    cluster.until_whole().await;
    let mut upper = 0;
    for row in 0..ROWS {
        let place = cluster.any().get(format!("/ring?row=k{row:05}")).await.is(200).json();
        let is_upper = place["shard"] == child;
        assert_eq!(is_upper, place["position"].as_str().unwrap() >= at.as_str(), "{place}");
        upper += usize::from(is_upper);
        cluster.any().get(format!("/data/t/k{row:05}/c")).await.says(&format!("k{row:05}"));
    }
    assert!(upper.abs_diff(ROWS - upper) <= ROWS / 10, "{upper} of {ROWS} are behind {at}");
    // Where all rows are of one position, there is no middle, but a place may be said.
    let elsewhere = cluster.any().call("POST", format!("/cluster/shards/{child}/split?at=0000000000000001"));
    elsewhere.await.problem(409);
    cluster.split(child, "?at=f000000000000000").await;
    cluster.until_whole().await;
    let last = cluster.shards().await.into_iter().max().unwrap();
    fill(cluster.any(), "t", (0..9).map(|row| format!("\u{10ffff}\u{10ffff}{row}"))).await;
    cluster.any().call("POST", format!("/cluster/shards/{last}/split")).await.problem(409);
    cluster.any().call("POST", "/cluster/shards/999/split").await.problem(404);
}

#[tokio::test]
async fn a_shard_that_grows_is_split_by_itself() {
    /// Larger together than what a node keeps in memory before it writes its state down.
    const VALUES: usize = 400;
    const VALUE_BYTES: usize = 100 << 10;
    let settings = "ping_interval = \"500ms\"\nsplit_size = \"8MiB\"";
    let cluster = Cluster::start("split-size", Spec { shards: 1, settings, ..Spec::one() }).await;
    // Nothing that could be compressed.
    let mut noise = 1_u64;
    let mut value = || -> Vec<u8> {
        let mut next = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (noise >> 33) as u8
        };
        (0..VALUE_BYTES).map(|_| next()).collect()
    };
    for n in 0..VALUES {
        let put = cluster.any().put(format!("/kv/large-{n}"), value());
        eventually("a value is written", HEAL, async || {
            let answer = put.attempt().await.map_err(|failure| format!("{failure:?}"))?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }
    eventually("all shards are small", HEAL, async || {
        let status = cluster.status().await?;
        let shards = status["shards"].as_array().unwrap();
        let small = |shard: &Value| shard["bytes"].as_u64().is_some_and(|bytes| bytes > 0 && bytes < 8 << 20);
        let still = status["moves"].as_array().unwrap().is_empty();
        if shards.len() >= 5 && shards.iter().all(small) && still { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    for n in 0..VALUES {
        assert_eq!(
            decided(cluster.any().get(format!("/kv/large-{n}"))).await.is(200).body.len(),
            VALUE_BYTES
        );
    }
}
