//! The result of a run, for people and as JSON. The names of JSON's fields carry their units.

use std::{fmt::Write as _, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    cpu::Clocks,
    drive::{Measured, Progress, Run},
    plan::{Plan, Target},
    tally::{Tally, histogram},
    workload::{Distribution, Kind},
};
use crate::{cli::show, error::Outcome};

/// A whole result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    workload: String,
    target: Target,
    servers: Vec<String>,
    connections: usize,
    multiplex: usize,
    threads: usize,
    /// `null` in a closed loop.
    rate_per_s: Option<f64>,
    distribution: Distribution,
    keys: u64,
    value_bytes: usize,
    batch_ops: Option<usize>,
    seed: u64,
    warmup_s: f64,
    load: Option<Load>,
    run: Option<Figures>,
}

/// The load phase.
#[derive(Debug, Serialize)]
struct Load {
    keys: u64,
    elapsed_s: f64,
    keys_per_s: f64,
}

/// The measured part.
#[derive(Debug, Serialize)]
struct Figures {
    elapsed_s: f64,
    /// All kinds together.
    total: Latencies,
    kinds: Vec<OfKind>,
    /// Cells written by batches or found by scans.
    cells: u64,
    cells_per_s: f64,
    failed: u64,
    failures: Vec<OfCause>,
    /// Operations that were due and could not be begun.
    unsent: u64,
    longest_outage_ms: f64,
    sent_bytes: u64,
    received_bytes: u64,
    server_processes: Option<usize>,
    server_cpu_s: Option<f64>,
    server_cpu_us_per_op: Option<f64>,
    server_resident_bytes: Option<u64>,
    client_cpu_us_per_op: Option<f64>,
}

/// The successes.
#[derive(Debug, Clone, Serialize)]
struct Latencies {
    ops: u64,
    ops_per_s: f64,
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// Of these, those that read what is not there.
    absent: u64,
}

/// The successes of one kind.
#[derive(Debug, Serialize)]
struct OfKind {
    kind: Kind,
    #[serde(flatten)]
    latencies: Latencies,
}

/// The failures of one cause.
#[derive(Debug, Serialize)]
struct OfCause {
    cause: String,
    outcome: Outcome,
    count: u64,
    example: String,
}

impl Latencies {
    fn new(latency_us: &Histogram<u64>, absent: u64, elapsed: Duration) -> Self {
        let ms = |quantile| latency_us.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            ops: latency_us.len(),
            ops_per_s: per_second(latency_us.len(), elapsed),
            mean_ms: latency_us.mean() / 1e3,
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: latency_us.max() as f64 / 1e3,
            absent,
        }
    }
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    // The shortest time there is keeps the result a number.
    count as f64 / elapsed.max(Duration::from_nanos(1)).as_secs_f64()
}

impl Figures {
    fn new(run: Run) -> Self {
        let Run { tally, elapsed, unsent, servers, client } = run;
        let Tally { successes, failures, traffic, longest_outage, .. } = tally;
        let mut all = histogram();
        let (mut absent, mut cells) = (0, 0);
        for successes in successes.values() {
            all.add(&successes.latency_us).expect("all have the same bounds");
            absent += successes.absent;
            cells += successes.cells;
        }
        let total = Latencies::new(&all, absent, elapsed);
        let kinds = successes
            .iter()
            .map(|(kind, successes)| OfKind {
                kind: *kind,
                latencies: Latencies::new(&successes.latency_us, successes.absent, elapsed),
            })
            .collect();
        let failures: Vec<_> = failures
            .into_iter()
            .map(|((cause, unknown), failures)| OfCause {
                cause: cause.to_string(),
                outcome: if unknown { Outcome::Unknown } else { Outcome::None },
                count: failures.count,
                example: failures.example,
            })
            .collect();
        let failed = failures.iter().map(|failures| failures.count).sum();
        // Failed operations have their cost as well.
        let ops = total.ops + failed;
        let per_op = |clocks: &Clocks| (ops > 0).then(|| clocks.cpu.as_secs_f64() * 1e6 / ops as f64);
        Self {
            elapsed_s: elapsed.as_secs_f64(),
            total,
            kinds,
            cells,
            cells_per_s: per_second(cells, elapsed),
            failed,
            failures,
            unsent,
            longest_outage_ms: longest_outage.as_secs_f64() * 1e3,
            sent_bytes: traffic.sent_bytes,
            received_bytes: traffic.received_bytes,
            server_processes: servers.map(|servers| servers.processes),
            server_cpu_s: servers.map(|servers| servers.cpu.as_secs_f64()),
            server_cpu_us_per_op: servers.as_ref().and_then(per_op),
            server_resident_bytes: servers.map(|servers| servers.resident_bytes),
            client_cpu_us_per_op: client.as_ref().and_then(per_op),
        }
    }
}

impl Report {
    pub(super) fn new(plan: &Plan, measured: Measured) -> Self {
        let load = measured.load.map(|elapsed| Load {
            keys: plan.keys,
            elapsed_s: elapsed.as_secs_f64(),
            keys_per_s: per_second(plan.keys, elapsed),
        });
        Self {
            workload: plan.name.clone(),
            target: plan.target,
            servers: plan.servers.iter().map(ToString::to_string).collect(),
            connections: plan.connections,
            multiplex: plan.multiplex,
            threads: plan.threads,
            rate_per_s: plan.rate,
            distribution: plan.workload.distribution,
            keys: plan.keys,
            value_bytes: plan.value_bytes,
            batch_ops: (plan.workload.mix.batch > 0).then_some(plan.batch_ops),
            seed: plan.seed,
            warmup_s: plan.warmup.as_secs_f64(),
            load,
            run: measured.run.map(Figures::new),
        }
    }

    /// Why the run is worth nothing, if it is.
    pub(super) fn in_vain(&self) -> Option<String> {
        let run = self.run.as_ref().filter(|run| run.total.ops == 0)?;
        Some(match run.failures.iter().max_by_key(|failures| failures.count) {
            Some(first) => format!("not one operation succeeded ({}: {})", first.cause, first.example),
            None => "not one operation was begun; give it more time".to_owned(),
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        if let Some(load) = &self.load {
            let _ = writeln!(
                text,
                "loaded {} keys of {} B in {:.1} s: {:.0} keys/s",
                load.keys, self.value_bytes, load.elapsed_s, load.keys_per_s
            );
        }
        if let Some(run) = &self.run {
            self.push_run(&mut text, run);
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn push_run(&self, text: &mut String, run: &Figures) {
        let pace = match self.rate_per_s {
            Some(rate) => format!("open loop at {rate} operations/s"),
            None => "closed loop".to_owned(),
        };
        let multiplex = if self.multiplex > 1 { format!(" x {}", self.multiplex) } else { String::new() };
        let distribution = match self.distribution {
            Distribution::Uniform => "uniform",
            Distribution::Zipfian => "zipfian",
            Distribution::Latest => "latest",
        };
        let _ = writeln!(
            text,
            "{}: {} connections{multiplex} over {} servers, {pace}, {} keys {distribution}, {} B, {:.1} s\n",
            self.workload,
            self.connections,
            self.servers.len(),
            self.keys,
            self.value_bytes,
            run.elapsed_s
        );
        let row = |name: &str, of: &Latencies| {
            let ms = |value: f64| format!("{value:.3}");
            let mut row = vec![name.to_owned(), of.ops.to_string(), format!("{:.0}", of.ops_per_s)];
            row.extend([of.p50_ms, of.p90_ms, of.p99_ms, of.p999_ms, of.max_ms].map(ms));
            row.push(of.absent.to_string());
            row
        };
        let mut rows: Vec<_> = run.kinds.iter().map(|of| row(of.kind.as_str(), &of.latencies)).collect();
        if rows.len() != 1 {
            rows.push(row("all", &run.total));
        }
        let head =
            ["OPERATION", "OPS", "OPS/S", "P50 MS", "P90 MS", "P99 MS", "P99.9 MS", "MAX MS", "ABSENT"];
        text.push_str(&show::table(&head, &rows));
        text.push('\n');
        if run.cells > 0 {
            let _ = writeln!(text, "cells: {}, {:.0} cells/s", run.cells, run.cells_per_s);
        }
        let _ = writeln!(text, "failed: {}", run.failed);
        for of in &run.failures {
            let outcome = match of.outcome {
                Outcome::None => "not applied",
                Outcome::Unknown => "outcome unknown",
            };
            let _ = writeln!(text, "  {} x {} ({outcome}): {}", of.count, of.cause, of.example);
        }
        if run.failed > 0 {
            let _ = writeln!(text, "longest outage of a connection: {:.1} ms", run.longest_outage_ms);
        }
        if run.unsent > 0 {
            let why = "the servers, or --connections, do not reach this rate";
            let _ = writeln!(text, "due and never sent: {}; {why}", run.unsent);
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (sent, received) = (mib(run.sent_bytes), mib(run.received_bytes));
        let _ = writeln!(text, "sent {sent:.1} MiB, received {received:.1} MiB");
        if let (Some(cpu), Some(processes), Some(resident)) =
            (run.server_cpu_us_per_op, run.server_processes, run.server_resident_bytes)
        {
            let resident = mib(resident);
            let _ = writeln!(
                text,
                "servers: {cpu:.1} us CPU per operation and {resident:.0} MiB resident, over {processes} processes"
            );
        }
        if let Some(cpu) = run.client_cpu_us_per_op {
            let _ = writeln!(text, "this load: {cpu:.1} us CPU per operation");
        }
    }
}

/// A line of progress.
pub(super) fn progress(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Loading { loaded, elapsed } => {
            let rate = per_second(*loaded, *elapsed);
            format!("{:4.0} s  loading: {loaded} keys, {rate:.0} keys/s", elapsed.as_secs_f64())
        }
        Progress::Running { live, interval, warming_up, elapsed } => {
            let ms = |quantile| live.latency_us.value_at_quantile(quantile) as f64 / 1e3;
            let rate = per_second(live.latency_us.len(), *interval);
            let (p50, p99) = (ms(0.5), ms(0.99));
            let failed = live.failed;
            let note = if *warming_up { "  warming up" } else { "" };
            format!(
                "{:4.0} s  {rate:.0} ops/s  p50 {p50:.3} ms  p99 {p99:.3} ms  failed {failed}{note}",
                elapsed.as_secs_f64()
            )
        }
    }
}
