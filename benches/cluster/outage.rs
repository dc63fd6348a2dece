//! How long writers are held up when a leader goes: `cargo bench --bench cluster -- --outages 20`.
//!
//! Each time the load runs for some seconds, and in its middle the node that leads is killed
//! (SIGKILL) or asked to stop (SIGTERM): etcd's leader, or one of the workers in turn, each of which
//! leads a third of the shards. Afterwards it is started again and the system is whole before the
//! next time. The outage is the longest time of any writer from the begin of an operation to its
//! success, whether in one attempt or, where attempts failed, in several.

use std::{
    fmt,
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    Error,
    summary::Spread,
    systems::{System, pause},
};

/// Writers; they know nothing of leaders.
const CONNECTIONS: &str = "16";

/// When a writer of etcd gives up on an answer and asks another member. What a member passes on to a
/// leader that has died is lost, and it would answer only after 7 s (5 s and twice the election timeout);
/// until it notices, after 1 to 2 s, it passes on what comes anew. So a shorter time is in etcd's favour.
const ETCD_TIMEOUT: &str = "250ms";

/// The same of Quoring, whose nodes answer what they have taken within 6.5 s: none of it is given up.
const QUORING_TIMEOUT: &str = "10s";

/// How long the load runs.
const DURATION: &str = "5s";

/// When the leader goes, counted from the load's begin.
const LEADER_GOES_AFTER: Duration = Duration::from_secs(2);

/// What a leader's going has cost.
#[derive(Debug)]
pub(crate) struct Outages {
    pub(crate) system: String,
    pub(crate) how: &'static str,
    outage_ms: Spread,
    p99_ms: Spread,
    /// Of the same load while nothing goes.
    undisturbed_p99_ms: f64,
    /// Operations that were answered with an error, or not at all.
    failed: u64,
    times: u32,
}

/// Takes the leader away so many times.
pub(crate) fn measure(
    name: &str,
    system: &mut dyn System,
    how: &'static str,
    signal: Signal,
    times: u32,
) -> Result<Outages, Error> {
    crate::bench(system, &["--load", "--connections", "16"])?;
    let timeout = if system.name() == "etcd" { ETCD_TIMEOUT } else { QUORING_TIMEOUT };
    let put =
        ["put", "--connections", CONNECTIONS, "--timeout", timeout, "--duration", DURATION, "--warmup", "0s"];
    let undisturbed = crate::bench(system, &put)?["run"]["total"]["p99_ms"].as_f64();
    let mut runs = Vec::new();
    for time in 0..times {
        let json = system.dir().join("outage.json");
        let mut load = Command::new(env!("CARGO_BIN_EXE_quoring"))
            .arg("bench")
            .args(put)
            .args(system.words())
            .arg("--json")
            .arg(&json)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let begin = Instant::now();
        while begin.elapsed() < LEADER_GOES_AFTER && runs_still(&mut load)? {
            pause();
        }
        system.take_leader(time, signal)?;
        let status = load.wait()?;
        if !status.success() {
            return Err(format!("quoring bench has ended: {status}").into());
        }
        let result: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
        let longest = |pointer: &str| result.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
        let outage_ms = longest("/run/total/max_ms").max(longest("/run/longest_outage_ms"));
        let failed = result["run"]["failed"].as_u64().unwrap_or_default();
        eprintln!("  {}, {how}, {} of {times}: {outage_ms:.0} ms, {failed} failed", name, time + 1);
        for failures in result["run"]["failures"].as_array().into_iter().flatten() {
            let of = |what: &str| failures[what].as_str().unwrap_or_default();
            eprintln!("    {} x {}: {}", failures["count"], of("cause"), of("example"));
        }
        runs.push((outage_ms, longest("/run/total/p99_ms"), failed));
        system.heal()?;
    }
    let spread = |of: fn(&(f64, f64, u64)) -> f64| {
        Spread::of(runs.iter().map(of).collect()).ok_or("nothing was measured")
    };
    Ok(Outages {
        system: name.to_owned(),
        how,
        outage_ms: spread(|run| run.0)?,
        p99_ms: spread(|run| run.1)?,
        undisturbed_p99_ms: undisturbed.unwrap_or_default(),
        failed: runs.iter().map(|run| run.2).sum(),
        times,
    })
}

fn runs_still(load: &mut Child) -> Result<bool, Error> {
    Ok(load.try_wait()?.is_none())
}

impl fmt::Display for Outages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, how, outage_ms, p99_ms, undisturbed_p99_ms, failed, times } = self;
        write!(
            f,
            "| {system}, {how} | {:.0} | {:.0} to {:.0} | {:.1} | {undisturbed_p99_ms:.1} | {failed} | {times} |",
            outage_ms.median, outage_ms.least, outage_ms.most, p99_ms.median
        )
    }
}

/// The head of the table of [`Outages`].
pub(crate) const HEAD: &str = "| leader gone | longest outage of a writer, ms: median | least to most | \
     p99 ms | p99 when nothing goes | failed operations, all times | times |\n|---|---|---|---|---|---|---|";
