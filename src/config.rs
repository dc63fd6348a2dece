//! What a cluster is told once, when it is made, and what a node is told at each start.
//!
//! `cluster.toml` is read in two steps: [`file`] holds what was typed, [`Config`] what follows from
//! it, with every default and limit named.

use serde::{Deserialize, Serialize};

/// The `[cluster]` settings, committed to the coordinator group when the cluster is founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The cluster's name, for people.
    pub name: String,
    /// Copies of every shard, 1 to [`Settings::MAX_REPLICATION`].
    pub replication: u32,
    /// Arcs of the ring at the start, 1 to [`Settings::MAX_SHARDS`].
    pub shards: u32,
    /// How a row becomes a position.
    pub partitioner: Partitioner,
    /// Between two heartbeats of a worker, milliseconds.
    pub ping_interval_ms: u64,
    /// A worker silent for so long is not active, milliseconds.
    pub inactive_after_ms: u64,
    /// A worker silent for so long has its replicas made anew elsewhere, milliseconds.
    pub replace_after_ms: u64,
    /// The most time a client's request may take, milliseconds.
    pub request_timeout_ms: u64,
    /// The largest value, bytes.
    pub max_value_bytes: u64,
}

impl Settings {
    /// The most copies of a shard: more only slow every write down.
    pub const MAX_REPLICATION: u32 = 7;
    /// The most arcs a cluster may start with.
    pub const MAX_SHARDS: u32 = 4096;
}

/// How a row becomes a position on the ring; `ring::partitioner` computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    /// XXH3, 64 bits: the default.
    Xxh3,
    /// The first 8 bytes of MD5 (RFC 1321), big-endian.
    Md5,
    /// CRC-32 (IEEE 802.3), in the upper half of the position.
    Crc32,
    /// The row's own first 8 bytes, big-endian, so that rows keep their order.
    Ordered,
}
