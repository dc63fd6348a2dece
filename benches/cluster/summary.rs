//! Medians over the rounds, the ratios of the two systems, and on which machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    Error,
    loads::{LOADS, Load},
    systems::version,
};

/// Every result of one load, by system.
#[derive(Debug, Default)]
pub(crate) struct Runs(BTreeMap<String, Vec<Value>>);

impl Runs {
    pub(crate) fn add(&mut self, system: &str, run: Value) {
        self.0.entry(system.to_owned()).or_default().push(run);
    }

    pub(crate) fn first(&self, system: &str) -> Option<&Value> {
        self.0.get(system)?.first()
    }

    fn figures(&self, system: &str) -> Option<Figures> {
        let runs = self.0.get(system)?;
        Some(Figures {
            ops_per_s: Spread::new(runs, "/total/ops_per_s")?,
            p50_ms: Spread::new(runs, "/total/p50_ms")?,
            p99_ms: Spread::new(runs, "/total/p99_ms")?,
            cells_per_s: Spread::new(runs, "/cells_per_s")?,
            server_cpu_us_per_op: Spread::new(runs, "/server_cpu_us_per_op"),
            failed: runs.iter().filter_map(|run| run["failed"].as_u64()).sum(),
            runs: runs.clone(),
        })
    }
}

/// A figure over all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn new(runs: &[Value], pointer: &str) -> Option<Spread> {
        Spread::of(runs.iter().filter_map(|run| run.pointer(pointer)?.as_f64()).collect())
    }

    pub(crate) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median, least, most })
    }
}

/// What one system has shown under one load.
#[derive(Debug, Serialize)]
struct Figures {
    ops_per_s: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    cells_per_s: Spread,
    server_cpu_us_per_op: Option<Spread>,
    failed: u64,
    runs: Vec<Value>,
}

/// Quoring's median over etcd's.
#[derive(Debug, Serialize)]
struct Ratios {
    ops_per_s: f64,
    p99_ms: f64,
    server_cpu_us_per_op: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Ours {
    figures: Figures,
    ratios: Option<Ratios>,
}

#[derive(Debug, Serialize)]
struct Line {
    load: &'static str,
    etcd: Option<Figures>,
    /// By the name of the system.
    quoring: BTreeMap<String, Ours>,
}

/// The whole comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    machine: BTreeMap<&'static str, String>,
    lines: Vec<Line>,
}

impl Summary {
    pub(crate) fn new(runs: &BTreeMap<&'static str, Runs>, etcd: Option<&Path>) -> Result<Summary, Error> {
        let mut machine = machine();
        machine.insert("quoring", version(Path::new(env!("CARGO_BIN_EXE_quoring")), "--version")?);
        if let Some(etcd) = etcd {
            machine.insert("etcd", version(etcd, "--version")?);
        }
        let lines = LOADS.iter().filter_map(|load| line(load, runs)).collect();
        Ok(Summary { machine, lines })
    }

    /// As Markdown.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name}: {value}");
        }
        let _ = writeln!(text, "\nops/s, p50 / p99 ms, server CPU us/op; medians");
        let systems: BTreeSet<_> = self.lines.iter().flat_map(|line| line.quoring.keys()).collect();
        for system in systems {
            let _ =
                writeln!(text, "\n| load | etcd | {system} | ops | p99 | CPU |\n|---|---|---|---|---|---|");
            for line in &self.lines {
                let of = line.quoring.get(system);
                let etcd = line.etcd.as_ref().map_or("-".to_owned(), Figures::text);
                let quoring = of.map_or("-".to_owned(), |of| of.figures.text());
                let ratio = |pick: fn(&Ratios) -> Option<f64>| {
                    let ratio = of.and_then(|of| pick(of.ratios.as_ref()?));
                    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"))
                };
                let _ = writeln!(
                    text,
                    "| {} | {etcd} | {quoring} | {} | {} | {} |",
                    line.load,
                    ratio(|ratios| Some(ratios.ops_per_s)),
                    ratio(|ratios| Some(ratios.p99_ms)),
                    ratio(|ratios| ratios.server_cpu_us_per_op)
                );
            }
        }
        text
    }
}

impl Figures {
    fn text(&self) -> String {
        let cpu = self.server_cpu_us_per_op.as_ref();
        let cpu = cpu.map_or("-".to_owned(), |cpu| format!("{:.0}", cpu.median));
        let (ops, p50, p99) = (self.ops_per_s.median, self.p50_ms.median, self.p99_ms.median);
        let mut text = format!("{ops:.0}, {p50:.2} / {p99:.2}, {cpu}");
        // Writing to a String does not fail.
        if self.cells_per_s.median > 0.0 {
            let _ = write!(text, "; {:.0} cells/s", self.cells_per_s.median);
        }
        if self.failed > 0 {
            let _ = write!(text, "; {} failed", self.failed);
        }
        text
    }

    /// What `self` comes to, etcd's being 1.
    fn over(&self, etcd: &Figures) -> Ratios {
        let ratio = |of: fn(&Figures) -> &Spread| of(self).median / of(etcd).median;
        let cpu = self.server_cpu_us_per_op.as_ref().zip(etcd.server_cpu_us_per_op.as_ref());
        Ratios {
            ops_per_s: ratio(|figures| &figures.ops_per_s),
            p99_ms: ratio(|figures| &figures.p99_ms),
            server_cpu_us_per_op: cpu.map(|(own, etcd)| own.median / etcd.median),
        }
    }
}

fn line(load: &Load, runs: &BTreeMap<&'static str, Runs>) -> Option<Line> {
    let here = runs.get(load.name)?;
    let other = load.against.and_then(|name| runs.get(name)).unwrap_or(here);
    let etcd = here.figures("etcd");
    let of = |system: &String| {
        let figures = other.figures(system)?;
        let ratios = etcd.as_ref().map(|etcd| figures.over(etcd));
        Some((system.clone(), Ours { figures, ratios }))
    };
    let quoring = other.0.keys().filter(|system| *system != "etcd").filter_map(of).collect();
    Some(Line { load: load.name, etcd, quoring })
}

/// What this was measured on.
pub(crate) fn machine() -> BTreeMap<&'static str, String> {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let value = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        value.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    BTreeMap::from([
        ("cpu", format!("{cpus} x {}", line("/proc/cpuinfo", "model name"))),
        ("memory", line("/proc/meminfo", "MemTotal")),
        ("kernel", kernel.trim().to_owned()),
    ])
}
