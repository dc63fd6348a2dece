//! Growth of shards and values, and the memory that nodes take.

use serde_json::json;

use super::{CPU, Column, FAILED, MIB, OPS, P50, P99, Report, Sizes, Table, figures, merged, nodes};
use crate::{Error, systems::Quoring};

/// The numbers of shards.
const SHARDS: [u32; 5] = [1, 3, 4, 16, 64];

/// The sizes of values, bytes, as people write them.
const VALUES: [(usize, &str); 5] =
    [(16, "16 B"), (256, "256 B"), (4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB")];

/// Bytes of all values together, at most: what is measured is not the disk.
const VALUES_TOTAL_BYTES: usize = 512 << 20;

/// Settings of memory, bytes, and what `[cluster]` says for them.
const MEMORY: [(&str, u32, &str); 2] = [
    ("default: cache 256, memtables 192, queues 128 MiB", 576, ""),
    (
        "small: cache 16, memtables 16, queues 8 MiB",
        40,
        "cache = \"16MiB\"\nmemtables = \"16MiB\"\nqueues = \"8MiB\"",
    ),
];

pub(super) fn shards(sizes: &Sizes, report: &mut Report) -> Result<(), Error> {
    const COLUMNS: &[Column] = &[
        Column("shards", "shards", 0),
        OPS,
        P50,
        P99,
        CPU,
        FAILED,
        Column("empty_mib", "largest worker, empty, MiB", 0),
        Column("worker_mib", "afterwards", 0),
    ];
    let keys = sizes.few_keys;
    let title = format!("Shards: put, 64 connections, {keys} keys of 256 bytes");
    let mut table = Table::new(title, COLUMNS);
    for shards in SHARDS {
        let (_dir, quoring) = sizes.start(shards, "")?;
        let workers = quoring.nodes("worker")?;
        let empty_mib = nodes::largest(&workers)? / MIB;
        sizes.load(&quoring, keys, 256)?;
        nodes::until_at_rest(&workers);
        let run = sizes.run(&quoring, "put", keys, 256, 64)?;
        let worker_mib = nodes::largest(&workers)? / MIB;
        let what = json!({ "shards": shards, "empty_mib": empty_mib, "worker_mib": worker_mib });
        table.add(merged([what, figures(&run)]));
    }
    report.add(sizes, table)
}

pub(super) fn values(sizes: &Sizes, report: &mut Report) -> Result<(), Error> {
    const COLUMNS: &[Column] = &[
        Column("value", "value", 0),
        Column("keys", "keys", 0),
        Column("load", "load", 0),
        OPS,
        Column("mb_per_s", "MB/s", 2),
        P50,
        P99,
        CPU,
        FAILED,
    ];
    let mut table = Table::new("Values: 3 shards, 16 connections", COLUMNS);
    for (bytes, name) in VALUES {
        let keys = sizes.few_keys.min((VALUES_TOTAL_BYTES / bytes) as u64).max(1);
        let (_dir, quoring) = sizes.start(3, "")?;
        sizes.load(&quoring, keys, bytes)?;
        // Else large values would be measured while those of the load are still merged.
        nodes::until_at_rest(&quoring.nodes("worker")?);
        for load in ["put", "get"] {
            let run = sizes.run(&quoring, load, keys, bytes, 16)?;
            let ops = run["total"]["ops_per_s"].as_f64().unwrap_or_default();
            let what = json!({
                "value": name, "value_bytes": bytes, "keys": keys, "load": load,
                "mb_per_s": ops * bytes as f64 / 1e6,
            });
            table.add(merged([what, figures(&run)]));
        }
    }
    report.add(sizes, table)
}

/// Memory idle, with data, and under load, for each of the settings.
pub(super) fn memory(sizes: &Sizes, report: &mut Report) -> Result<(), Error> {
    const COLUMNS: &[Column] = &[
        Column("settings", "settings", 0),
        Column("bound_mib", "sum, MiB", 0),
        Column("when", "when", 0),
        Column("worker_mib", "largest worker, MiB", 0),
        Column("coordinator_mib", "largest coordinator, MiB", 0),
        Column("all_mib", "all six, MiB", 0),
        Column("cache_mib", "of a worker: cache", 0),
        Column("memtables_mib", "memtables", 0),
        Column("tail_mib", "newest log entries", 0),
    ];
    let keys = sizes.few_keys;
    let title = format!("Memory: resident (VmRSS), 3 shards, {keys} keys of 256 bytes");
    let mut table = Table::new(title, COLUMNS);
    for (name, bound_mib, settings) in MEMORY {
        let (_dir, quoring) = sizes.start(3, settings)?;
        let mut look = |when: &str| -> Result<(), Error> {
            let what = json!({ "settings": name, "bound_mib": bound_mib, "when": when });
            table.add(merged([what, held(&quoring)?]));
            Ok(())
        };
        look("idle, empty")?;
        sizes.load(&quoring, keys, 256)?;
        look("loaded")?;
        for load in ["get", "put", "batch"] {
            sizes.run(&quoring, load, keys, 256, 256)?;
            look(&format!("{load}, 256 connections"))?;
        }
    }
    report.add(sizes, table)
}

fn held(quoring: &Quoring) -> Result<serde_json::Value, Error> {
    let (workers, coordinators) = (quoring.nodes("worker")?, quoring.nodes("coordinator")?);
    let mut all = 0.0;
    for node in workers.iter().chain(&coordinators) {
        all += nodes::resident(node.pid)?;
    }
    let mean = |name: &str| -> Result<f64, Error> {
        Ok(nodes::metric(&workers, name)? / MIB / workers.len() as f64)
    };
    Ok(json!({
        "worker_mib": nodes::largest(&workers)? / MIB,
        "coordinator_mib": nodes::largest(&coordinators)? / MIB,
        "all_mib": all / MIB,
        "cache_mib": mean("quoring_store_block_cache_bytes")?,
        "memtables_mib": mean("quoring_store_memtable_bytes")?,
        "tail_mib": mean("quoring_store_log_tail_bytes")?,
    }))
}
