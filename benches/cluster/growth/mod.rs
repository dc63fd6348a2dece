//! What growth costs: `cargo bench --bench cluster -- --growth`. Tables over the number of shards, the
//! size of values, the number of keys, with recovery and the joining of a worker at the largest, and
//! memory against its bounds.

mod large;
mod nodes;
mod sizes;
mod table;

use std::{fs, path::PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use self::table::{Column, Table};
use crate::{
    Error,
    summary::machine,
    systems::{Quoring, Shape},
};

/// A part of the whole, which takes minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Puts over 1, 3, 4, 16 and 64 shards
    Shards,
    /// Values of 16 bytes to 1 MiB
    Values,
    /// A few and many keys; with the many, recovery after SIGKILL and a worker that joins
    Keys,
    /// Memory of the nodes, against what they may take
    Memory,
}

/// How much of everything.
pub(crate) struct Sizes {
    pub(crate) parts: Vec<Part>,
    /// Keys of all rows but the large ones.
    pub(crate) few_keys: u64,
    /// Keys of the large ones.
    pub(crate) many_keys: u64,
    /// How long each load is measured, and runs before that.
    pub(crate) duration: String,
    pub(crate) warmup: String,
    /// Puts a second while a worker joins.
    pub(crate) rate: u32,
    pub(crate) dir: PathBuf,
    pub(crate) json: PathBuf,
}

/// What came out so far.
#[derive(Default)]
struct Report(Vec<Table>);

impl Report {
    /// Adds a table, and writes everything down: a run that is cut short has shown something, too.
    fn add(&mut self, sizes: &Sizes, table: Table) -> Result<(), Error> {
        println!("{}", table.text());
        self.0.push(table);
        let all = json!({
            "machine": machine(),
            "few_keys": sizes.few_keys,
            "many_keys": sizes.many_keys,
            "duration": sizes.duration,
            "tables": self.0,
        });
        Ok(fs::write(&sizes.json, serde_json::to_vec_pretty(&all)?)?)
    }
}

pub(crate) fn measure(sizes: &Sizes) -> Result<(), Error> {
    let mut report = Report::default();
    for part in &sizes.parts {
        eprintln!("{}", part.to_possible_value().map(|part| part.get_name().to_owned()).unwrap_or_default());
        match part {
            Part::Shards => sizes::shards(sizes, &mut report)?,
            Part::Values => sizes::values(sizes, &mut report)?,
            Part::Keys => large::keys(sizes, &mut report)?,
            Part::Memory => sizes::memory(sizes, &mut report)?,
        }
    }
    println!("All of it is in {}.", sizes.json.display());
    Ok(())
}

impl Sizes {
    /// A directory, to be dropped last, and a cluster in it.
    fn start(&self, shards: u32, settings: &str) -> Result<(tempfile::TempDir, Quoring), Error> {
        let dir = tempfile::TempDir::new_in(&self.dir)?;
        let quoring = Quoring::start(dir.path(), Shape { shards, workers_only: false, settings })?;
        Ok((dir, quoring))
    }

    /// Writes all keys, and gives how many a second.
    fn load(&self, quoring: &Quoring, keys: u64, value_bytes: usize) -> Result<f64, Error> {
        let (keys, bytes) = (keys.to_string(), value_bytes.to_string());
        // Large values go into batches of some MiB: with fewer connections, fewer of them wait in memory.
        let connections = if value_bytes > 64 << 10 { "2" } else { "16" };
        let words = ["--load", "--keys", &keys, "--value-bytes", &bytes, "--connections", connections];
        let result = crate::bench(quoring, &words)?;
        Ok(result["load"]["keys_per_s"].as_f64().unwrap_or_default())
    }

    /// Runs a load, and gives the figures of its measured part.
    fn run(
        &self,
        quoring: &Quoring,
        what: &str,
        keys: u64,
        value_bytes: usize,
        connections: u32,
    ) -> Result<Value, Error> {
        let numbers = [keys.to_string(), value_bytes.to_string(), connections.to_string()];
        let [keys, bytes, connections] = numbers.each_ref().map(String::as_str);
        let words = [what, "--keys", keys, "--value-bytes", bytes, "--connections", connections];
        let times = ["--duration", &self.duration, "--warmup", &self.warmup];
        let mut result = crate::bench(quoring, &[words.as_slice(), &times].concat())?;
        Ok(result["run"].take())
    }
}

/// What a row tells of a load.
fn figures(run: &Value) -> Value {
    let of = |pointer: &str| run.pointer(pointer).cloned().unwrap_or_default();
    json!({
        "ops_per_s": of("/total/ops_per_s"),
        "p50_ms": of("/total/p50_ms"),
        "p99_ms": of("/total/p99_ms"),
        "cpu_us_per_op": of("/server_cpu_us_per_op"),
        "failed": of("/failed"),
    })
}

/// One object of several.
fn merged<const N: usize>(parts: [Value; N]) -> Value {
    let fields = parts.into_iter().filter_map(|part| match part {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    Value::Object(fields.flatten().collect())
}

/// The columns of [`figures`].
const OPS: Column = Column("ops_per_s", "ops/s", 0);
const P50: Column = Column("p50_ms", "p50, ms", 2);
const P99: Column = Column("p99_ms", "p99, ms", 2);
const CPU: Column = Column("cpu_us_per_op", "server CPU, µs per op", 0);
const FAILED: Column = Column("failed", "failed", 0);

/// Bytes in a MiB.
const MIB: f64 = 1_048_576.0;
