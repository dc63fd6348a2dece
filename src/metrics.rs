//! The names of this program's metrics and the recorder that keeps them. One recorder serves all
//! nodes of a process; `http` shows it at `/metrics`.
//!
//! Not here: who counts what. No label may have values that grow with the data: routes are counted
//! by template, never by path. Invariant: every name used anywhere stands in [`METRICS`].

use std::{io, sync::OnceLock, thread, time::Duration};

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

/// Requests answered, by `method`, `route` (template) and `status`.
pub const HTTP_REQUESTS_TOTAL: &str = "quoring_http_requests_total";
/// Time from a request's head to its answer's head, by `method` and `route`.
pub const HTTP_REQUEST_SECONDS: &str = "quoring_http_request_seconds";
/// Requests being worked on now.
pub const HTTP_REQUESTS_IN_FLIGHT: &str = "quoring_http_requests_in_flight";
/// Client connections open now, those of other nodes not counted.
pub const HTTP_CONNECTIONS_OPEN: &str = "quoring_http_connections_open";
/// Connections closed unanswered because too many were open.
pub const HTTP_CONNECTIONS_REFUSED_TOTAL: &str = "quoring_http_connections_refused_total";
/// Request bodies held in memory now, counted from where they are large enough to matter.
pub const HTTP_BODY_MEMORY_BYTES: &str = "quoring_http_body_memory_bytes";

/// Raft groups on this node.
pub const RAFT_GROUPS: &str = "quoring_raft_groups";
/// Raft groups that this node leads.
pub const RAFT_GROUPS_LED: &str = "quoring_raft_groups_led";
/// Log entries committed and not yet applied here, over all groups.
pub const RAFT_UNAPPLIED_ENTRIES: &str = "quoring_raft_unapplied_entries";
/// Shards of the map that are just being split off another one.
pub const SHARDS_SPLITTING: &str = "quoring_shards_splitting";
/// Shards that were split off another one, in the whole cluster, by this node's map.
pub const SHARDS_SPLIT: &str = "quoring_shards_split";
/// The epoch of this node's map.
pub const MAP_EPOCH: &str = "quoring_map_epoch";
/// 1 where the node is ready, else 0.
pub const READY: &str = "quoring_ready";
/// Appends to the log, of all groups.
pub const STORE_APPENDS_TOTAL: &str = "quoring_store_appends_total";
/// Entries in them.
pub const STORE_ENTRIES_TOTAL: &str = "quoring_store_entries_total";
/// Bytes written to the log.
pub const STORE_LOG_BYTES_TOTAL: &str = "quoring_store_log_bytes_total";
/// Syncs of the log; fewer than appends where groups share them.
pub const STORE_SYNCS_TOTAL: &str = "quoring_store_syncs_total";
/// Time spent in them.
pub const STORE_SYNC_MICROS_TOTAL: &str = "quoring_store_sync_microseconds_total";
/// The longest of them.
pub const STORE_SYNC_MAX_SECONDS: &str = "quoring_store_sync_max_seconds";
/// Batches applied to the state machines.
pub const STORE_APPLIES_TOTAL: &str = "quoring_store_applies_total";
/// Snapshots received and installed.
pub const STORE_SNAPSHOTS_INSTALLED_TOTAL: &str = "quoring_store_snapshots_installed_total";
/// Shards that came into being here by a split.
pub const STORE_FORKS_TOTAL: &str = "quoring_store_forks_total";
/// Memory of the block cache.
pub const STORE_BLOCK_CACHE_BYTES: &str = "quoring_store_block_cache_bytes";
/// Reads of a key that ended in a memtable.
pub const STORE_MEMTABLE_HITS_TOTAL: &str = "quoring_store_memtable_hits_total";
/// Reads of a key that went on to files.
pub const STORE_MEMTABLE_MISSES_TOTAL: &str = "quoring_store_memtable_misses_total";
/// Blocks of files found in the block cache.
pub const STORE_BLOCK_CACHE_HITS_TOTAL: &str = "quoring_store_block_cache_hits_total";
/// Blocks of files that had to be read.
pub const STORE_BLOCK_CACHE_MISSES_TOTAL: &str = "quoring_store_block_cache_misses_total";
/// Hits over hits and misses of the block cache.
pub const STORE_BLOCK_CACHE_HIT_RATIO: &str = "quoring_store_block_cache_hit_ratio";
/// Memory of the memtables.
pub const STORE_MEMTABLE_BYTES: &str = "quoring_store_memtable_bytes";
/// Memory of the newest log entries.
pub const STORE_LOG_TAIL_BYTES: &str = "quoring_store_log_tail_bytes";
/// Log entries that are kept.
pub const STORE_LOG_HELD_BYTES: &str = "quoring_store_log_held_bytes";
/// Files of the log on disk.
pub const STORE_LOG_FILE_BYTES: &str = "quoring_store_log_file_bytes";
/// Files of the state machines on disk.
pub const STORE_DATA_FILE_BYTES: &str = "quoring_store_data_file_bytes";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution over [`LATENCY_BUCKETS_SECONDS`].
    Histogram,
}

/// A metric and what it tells.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name: `quoring_`, words, unit.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it counts in.
    pub unit: Unit,
    /// One sentence for whoever reads `/metrics`.
    pub help: &'static str,
}

/// Every metric of the program.
pub const METRICS: &[Metric] = &[
    Metric {
        name: HTTP_REQUESTS_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Requests answered, by method, route and status.",
    },
    Metric {
        name: HTTP_REQUEST_SECONDS,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time from a request's head to its answer's head, by method and route.",
    },
    Metric {
        name: HTTP_REQUESTS_IN_FLIGHT,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Requests being worked on now.",
    },
    Metric {
        name: HTTP_CONNECTIONS_OPEN,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Client connections open now.",
    },
    Metric {
        name: HTTP_CONNECTIONS_REFUSED_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Connections closed unanswered because too many were open.",
    },
    Metric {
        name: HTTP_BODY_MEMORY_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        help: "Memory reserved for request bodies now.",
    },
    Metric { name: RAFT_GROUPS, kind: Kind::Gauge, unit: Unit::Count, help: "Raft groups on this node." },
    Metric {
        name: RAFT_GROUPS_LED,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Raft groups that this node leads.",
    },
    Metric {
        name: RAFT_UNAPPLIED_ENTRIES,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Log entries committed and not yet applied here.",
    },
    Metric {
        name: SHARDS_SPLIT,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Shards of the cluster that were split off another one, by this node's map.",
    },
    Metric {
        name: SHARDS_SPLITTING,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Of these, those that are just being split off and have no leader yet.",
    },
    Metric { name: MAP_EPOCH, kind: Kind::Gauge, unit: Unit::Count, help: "The epoch of this node's map." },
    Metric { name: READY, kind: Kind::Gauge, unit: Unit::Count, help: "1 where the node is ready, else 0." },
    Metric {
        name: STORE_APPENDS_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Appends to the log, of all groups.",
    },
    Metric {
        name: STORE_ENTRIES_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Entries appended to the log.",
    },
    Metric {
        name: STORE_LOG_BYTES_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Bytes,
        help: "Bytes written to the log.",
    },
    Metric {
        name: STORE_SYNCS_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Syncs of the log; fewer than appends where groups share them.",
    },
    Metric {
        name: STORE_SYNC_MICROS_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Microseconds,
        help: "Time spent in syncs of the log.",
    },
    Metric {
        name: STORE_SYNC_MAX_SECONDS,
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        help: "The longest sync of the log since the start.",
    },
    Metric {
        name: STORE_APPLIES_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Batches applied to the state machines.",
    },
    Metric {
        name: STORE_SNAPSHOTS_INSTALLED_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Snapshots received and installed.",
    },
    Metric {
        name: STORE_FORKS_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Shards that came into being here by a split, without a copy.",
    },
    Metric {
        name: STORE_BLOCK_CACHE_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        help: "Memory of the block cache.",
    },
    Metric {
        name: STORE_MEMTABLE_HITS_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Reads of a key that ended in a memtable.",
    },
    Metric {
        name: STORE_MEMTABLE_MISSES_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Reads of a key that went on to files.",
    },
    Metric {
        name: STORE_BLOCK_CACHE_HITS_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Blocks of files found in the block cache.",
    },
    Metric {
        name: STORE_BLOCK_CACHE_MISSES_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Blocks of files that had to be read.",
    },
    Metric {
        name: STORE_BLOCK_CACHE_HIT_RATIO,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Share of the blocks that were found in the block cache, since the start.",
    },
    Metric {
        name: STORE_MEMTABLE_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        help: "Memory of the memtables.",
    },
    Metric {
        name: STORE_LOG_TAIL_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        help: "Memory of the newest log entries.",
    },
    Metric {
        name: STORE_LOG_HELD_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        help: "Log entries that are kept: for the state since its last flush, and for members that lack them.",
    },
    Metric {
        name: STORE_LOG_FILE_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        help: "Files of the log on disk.",
    },
    Metric {
        name: STORE_DATA_FILE_BYTES,
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        help: "Files of the state machines on disk.",
    },
];

/// Upper bounds of the latency histograms' buckets, in seconds: dense where a write on a local
/// network lies, up to the longest time a request may take.
pub const LATENCY_BUCKETS_SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Between two rounds that fold the samples of the histograms into their buckets. Samples wait in
/// memory until then: 8 bytes each.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Why the recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Another recorder is in its place, or the buckets are wrong.
    #[error("install the metrics recorder: {0}")]
    Build(#[from] BuildError),
    /// The thread that folds samples could not be started.
    #[error("start the metrics upkeep thread: {0}")]
    Thread(#[from] io::Error),
}

/// Installs the process's recorder and describes [`METRICS`]; when called again, hands out the
/// same one.
pub fn install() -> Result<PrometheusHandle, InstallError> {
    static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
    static INSTALLING: Mutex<()> = Mutex::new(());

    let _one_at_a_time = INSTALLING.lock();
    if let Some(handle) = INSTALLED.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), LATENCY_BUCKETS_SECONDS)?
        .install_recorder()?;
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
    let upkeep = handle.clone();
    thread::Builder::new().name("metrics-upkeep".into()).spawn(move || {
        loop {
            // Nobody unparks it: this is the interval, or now and then a little less.
            thread::park_timeout(UPKEEP_INTERVAL);
            upkeep.run_upkeep();
        }
    })?;
    Ok(INSTALLED.get_or_init(|| handle).clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_tell_program_and_unit() {
        let mut seen = BTreeSet::new();
        for Metric { name, kind, unit, help } in METRICS {
            assert!(name.starts_with("quoring_"), "{name}");
            assert!(seen.insert(name), "{name} stands twice");
            assert!(help.ends_with('.'), "{name}: help is a sentence");
            match (kind, unit) {
                (Kind::Counter, _) => assert!(name.ends_with("_total"), "{name}"),
                (_, Unit::Seconds) => assert!(name.ends_with("_seconds"), "{name}"),
                (_, Unit::Bytes) => assert!(name.ends_with("_bytes"), "{name}"),
                _ => {}
            }
        }
        assert!(LATENCY_BUCKETS_SECONDS.is_sorted());
    }

    #[test]
    fn a_second_install_gives_the_same_recorder() {
        let first = install().unwrap();
        let second = install().unwrap();
        metrics::counter!(HTTP_CONNECTIONS_REFUSED_TOTAL).increment(3);
        metrics::histogram!(HTTP_REQUEST_SECONDS, "route" => "/test").record(0.004);
        for text in [first.render(), second.render()] {
            assert!(text.contains("# HELP quoring_http_connections_refused_total Connections"), "{text}");
            assert!(
                text.contains(r#"quoring_http_request_seconds_bucket{route="/test",le="0.005"} 1"#),
                "{text}"
            );
        }
    }
}
