//! Growth of data: a few keys and many, and with the many what a crash and a newcomer cost.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{CPU, Column, FAILED, MIB, OPS, P50, P99, Report, Sizes, Table, figures, merged, nodes};
use crate::{
    Error,
    summary::Spread,
    systems::{Quoring, Running, System as _, rest},
};

const SHARDS: u32 = 16;

const VALUE_BYTES: usize = 256;

/// For a node, or all of them, to be back with all data.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(600);

/// Puts right before a crash: what they wrote is in no file yet.
const RECOVERY_PUTS: &str = "2s";

/// For a newcomer to have its share.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1800);

/// The map shows no moves for so long: the newcomer has got all that it is to have.
const SETTLED_FOR: Duration = Duration::from_secs(2);

/// Connections of the puts while a worker joins.
const JOIN_CONNECTIONS: &str = "64";

const LOADS: &[Column] = &[
    Column("keys", "keys", 0),
    Column("load", "load", 0),
    OPS,
    P50,
    P99,
    CPU,
    Column("hit_ratio", "block cache hits", 3),
    FAILED,
];

const HELD: &[Column] = &[
    Column("keys", "keys", 0),
    Column("loaded_per_s", "loaded, keys/s", 0),
    Column("worker_mib", "largest worker, MiB", 0),
    Column("coordinator_mib", "largest coordinator, MiB", 0),
    Column("disk_mib", "files of a worker, MiB", 0),
    Column("disk_loaded_mib", "right after the load, MiB", 0),
];

const RECOVERED: &[Column] = &[
    Column("killed", "killed (SIGKILL)", 0),
    Column("keys", "keys", 0),
    Column("what", "until", 0),
    Column("elapsed_s", "s after the start", 2),
];

const JOINED: &[Column] = &[
    Column("keys", "keys", 0),
    Column("replicas", "replicas taken in", 0),
    Column("taken_mib", "MiB", 0),
    Column("elapsed_s", "s from its start to the last move", 1),
    Column("transfer_s", "s of them moving", 1),
    Column("mb_per_s", "MB/s", 1),
    Column("rate", "puts/s", 0),
    Column("p99_before_ms", "p99 before, ms", 2),
    Column("p99_during_ms", "during: median", 2),
    Column("p99_worst_ms", "worst", 2),
    Column("failed", "failed", 0),
];

pub(super) fn keys(sizes: &Sizes, report: &mut Report) -> Result<(), Error> {
    let mut loads = Table::new("Keys: 16 shards, 256 bytes, uniform, 64 connections", LOADS);
    let mut held = Table::new("Keys: what nodes hold", HELD);
    let mut recovered = Table::new("Recovery", RECOVERED);
    let mut joined = Table::new("A fourth worker joins", JOINED);
    for keys in [sizes.few_keys, sizes.many_keys] {
        let (_dir, quoring) = sizes.start(SHARDS, "")?;
        let loaded_per_s = sizes.load(&quoring, keys, VALUE_BYTES)?;
        let workers = quoring.nodes("worker")?;
        let disk_loaded = disk(&quoring, &workers[0]);
        nodes::until_at_rest(&workers);
        for load in ["get", "put"] {
            let before = Cache::of(&workers)?;
            let run = sizes.run(&quoring, load, keys, VALUE_BYTES, 64)?;
            let hit_ratio = Cache::of(&workers)?.hit_ratio_since(&before);
            let what = json!({ "keys": keys, "load": load, "hit_ratio": hit_ratio });
            loads.add(merged([what, figures(&run)]));
        }
        held.add(json!({
            "keys": keys,
            "loaded_per_s": loaded_per_s,
            "worker_mib": nodes::largest(&workers)? / MIB,
            "coordinator_mib": nodes::largest(&quoring.nodes("coordinator")?)? / MIB,
            "disk_mib": disk(&quoring, &workers[0]) / MIB,
            "disk_loaded_mib": disk_loaded / MIB,
        }));
        if keys == sizes.many_keys {
            recover(&quoring, keys, &mut recovered)?;
            join(sizes, &quoring, keys, &mut joined)?;
        }
    }
    for table in [loads, held, recovered, joined] {
        report.add(sizes, table)?;
    }
    Ok(())
}

/// Reads of blocks of files.
struct Cache {
    hits: f64,
    misses: f64,
}

impl Cache {
    fn of(workers: &[Running]) -> Result<Cache, Error> {
        let of = |what: &str| nodes::metric(workers, &format!("quoring_store_block_cache_{what}_total"));
        Ok(Cache { hits: of("hits")?, misses: of("misses")? })
    }

    /// `None` where no file was read.
    fn hit_ratio_since(&self, before: &Cache) -> Option<f64> {
        let (hits, misses) = (self.hits - before.hits, self.misses - before.misses);
        (hits + misses > 0.0).then(|| hits / (hits + misses))
    }
}

fn disk(quoring: &Quoring, worker: &Running) -> f64 {
    nodes::files(&quoring.dir().join("data").join(format!("worker-{}", worker.port)))
}

/// Kills one worker right behind puts, has it miss some, and starts it again; then all of them.
fn recover(quoring: &Quoring, keys: u64, table: &mut Table) -> Result<(), Error> {
    let (workers, coordinators) = (quoring.nodes("worker")?, quoring.nodes("coordinator")?);
    let ports: Vec<_> = coordinators.iter().map(|node| node.port).collect();
    let of_shards = nodes::key_of_each_shard(ports[0], SHARDS as usize)?;
    let put_all = || -> Result<(), Error> {
        for key in &of_shards {
            nodes::ask(ports[0], "PUT", &format!("/kv/{key}"), "x")?;
        }
        Ok(())
    };
    let number = keys.to_string();
    let puts = ["put", "--keys", &number, "--warmup", "0s", "--duration", RECOVERY_PUTS];
    crate::bench(quoring, &puts)?;
    let one = &workers[..1];
    nodes::kill(one)?;
    put_all()?;
    let mut add = |killed: &str, what: &str, elapsed: Duration| {
        table
            .add(json!({ "killed": killed, "keys": keys, "what": what, "elapsed_s": elapsed.as_secs_f64() }));
    };
    let mut ready = None;
    let (ready_after, follows_after) = nodes::start_until(quoring, RECOVERY_TIMEOUT, |begun| {
        let port = one[0].port;
        if ready.is_none() {
            ready = is_ready(port).then(|| begun.elapsed());
        }
        let Some(ready_after) = ready else { return Ok(None) };
        let follows = follows_all(&one[0], &of_shards, begun.elapsed() - ready_after);
        Ok(follows.then_some(ready_after))
    })?;
    add("one worker", "/readyz is 200", ready_after);
    add("one worker", "it follows all its shards, with nothing missing", follows_after);
    heal(quoring)?;

    crate::bench(quoring, &puts)?;
    nodes::kill(&quoring.nodes("worker")?)?;
    let mut left: Vec<_> = of_shards.iter().rev().collect();
    let mut first = None;
    let ((), all_after) = nodes::start_until(quoring, RECOVERY_TIMEOUT, |begun| {
        while let Some(key) = left.last() {
            let target = format!("/kv/{key}");
            let answered = |method, body| {
                nodes::ask(ports[0], method, &target, body).is_ok_and(|answer| answer.status == 200)
            };
            if !answered("PUT", "y") || !answered("GET", "") {
                return Ok(None);
            }
            first.get_or_insert(begun.elapsed());
            left.pop();
        }
        Ok(Some(()))
    })?;
    add("all three workers", "the first shard is written and read", first.unwrap_or_default());
    add("all three workers", "every shard is written and read", all_after);
    heal(quoring)
}

fn heal(quoring: &Quoring) -> Result<(), Error> {
    quoring.command(&["up", "--detach", "--wait"]).map(drop)
}

fn is_ready(port: u16) -> bool {
    nodes::ask(port, "GET", "/readyz", "").is_ok_and(|answer| answer.status == 200)
}

/// Whether a worker has all its groups, and, by its own stale answers, all that was acknowledged until
/// some moment after it was ready.
fn follows_all(worker: &Running, of_shards: &[String], ready_for: Duration) -> bool {
    let is =
        |name, wanted: f64| nodes::metric(std::slice::from_ref(worker), name).is_ok_and(|is| is == wanted);
    if !is("quoring_raft_groups", f64::from(SHARDS)) || !is("quoring_raft_unapplied_entries", 0.0) {
        return false;
    }
    of_shards.iter().all(|key| {
        let answer = nodes::ask(worker.port, "GET", &format!("/kv/{key}?consistency=stale"), "");
        let age = answer.ok().and_then(|answer| answer.header("quoring-staleness-ms")?.parse().ok());
        age.is_some_and(|age: u64| Duration::from_millis(age) < ready_for)
    })
}

/// Adds a worker under puts at a fixed rate, and waits until it has its share.
fn join(sizes: &Sizes, quoring: &Quoring, keys: u64, table: &mut Table) -> Result<(), Error> {
    nodes::until_at_rest(&quoring.nodes("worker")?);
    let before = puts_at_rate(sizes, quoring, keys)?.wait()?;
    let ports: Vec<_> = quoring.nodes("coordinator")?.iter().map(|node| node.port).collect();
    let mut load = puts_at_rate(sizes, quoring, keys)?;
    let port = quoring.add_worker()?;
    let mut during = Vec::new();
    let mut moved: Option<Instant> = None;
    let mut last_move = Instant::now();
    let (transfer, _) = nodes::start_until(quoring, JOIN_TIMEOUT, |begun| {
        if let Some(run) = load.ended()? {
            during.push(run);
            load = puts_at_rate(sizes, quoring, keys)?;
        }
        let Ok(status) = nodes::cluster(&ports) else { return Ok(None) };
        let is_new = |worker: &&Value| worker["addr"] == format!("127.0.0.1:{port}");
        let newcomer = status["workers"].as_array().and_then(|workers| workers.iter().find(is_new));
        let holds = newcomer.and_then(|worker| worker["holds"].as_u64()).unwrap_or(0);
        let now = Instant::now();
        if status["moves"].as_array().is_some_and(|moves| !moves.is_empty()) {
            moved.get_or_insert(now);
            last_move = now;
        }
        let Some(moved) = moved.filter(|_| holds > 0 && last_move.elapsed() >= SETTLED_FOR) else {
            return Ok(None);
        };
        Ok(Some((moved, last_move, begun, holds)))
    })?;
    let (moved, last_move, begun, holds) = transfer;
    during.push(load.wait()?);
    let newcomer = quoring.nodes("worker")?.into_iter().find(|node| node.port == port);
    let newcomer = newcomer.ok_or("the newcomer is gone")?;
    // Replicas with little behind them come as log entries and not as files.
    let of_newcomer = |name| nodes::metric(std::slice::from_ref(&newcomer), name);
    let taken = of_newcomer("quoring_store_data_file_bytes")? + of_newcomer("quoring_store_memtable_bytes")?;
    let transfer_s = (last_move - moved).as_secs_f64();
    let p99 = |run: &Value| run["total"]["p99_ms"].as_f64().unwrap_or_default();
    let spread = Spread::of(during.iter().map(p99).collect()).ok_or("nothing was measured")?;
    let failed =
        |run: &Value| run["failed"].as_u64().unwrap_or_default() + run["unsent"].as_u64().unwrap_or_default();
    table.add(json!({
        "keys": keys,
        "replicas": holds,
        "taken_mib": taken / MIB,
        "elapsed_s": (last_move - begun).as_secs_f64(),
        "transfer_s": transfer_s,
        "mb_per_s": taken / 1e6 / transfer_s.max(nodes::LOOK_INTERVAL.as_secs_f64()),
        "rate": sizes.rate,
        "p99_before_ms": p99(&before),
        "p99_during_ms": spread.median,
        "p99_worst_ms": spread.most,
        "runs_during": during.len(),
        "failed": failed(&before) + during.iter().map(failed).sum::<u64>(),
    }));
    Ok(())
}

/// A load that runs beside what is measured.
struct Beside {
    child: Child,
    json: std::path::PathBuf,
}

fn puts_at_rate(sizes: &Sizes, quoring: &Quoring, keys: u64) -> Result<Beside, Error> {
    let json = quoring.dir().join("beside.json");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quoring"));
    command.args(["bench", "put", "--connections", JOIN_CONNECTIONS, "--warmup", "0s"]);
    command.args(["--duration", &sizes.duration, "--rate", &sizes.rate.to_string()]);
    command.args(["--keys", &keys.to_string()]).args(quoring.words()).arg("--json").arg(&json);
    let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
    Ok(Beside { child, json })
}

impl Beside {
    /// Its figures, once it has ended.
    fn ended(&mut self) -> Result<Option<Value>, Error> {
        match self.child.try_wait()? {
            None => Ok(None),
            Some(status) if status.success() => {
                let mut result: Value = serde_json::from_slice(&std::fs::read(&self.json)?)?;
                Ok(Some(result["run"].take()))
            }
            Some(status) => Err(format!("quoring bench has ended: {status}").into()),
        }
    }

    fn wait(&mut self) -> Result<Value, Error> {
        loop {
            if let Some(run) = self.ended()? {
                return Ok(run);
            }
            rest(nodes::LOOK_INTERVAL);
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It has ended, but where something else has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
