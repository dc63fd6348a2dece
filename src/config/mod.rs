//! What a cluster is told once, when it is made, and what a node is told at each start.
//!
//! `cluster.toml` is read in two steps: [`mod@file`] holds what was typed, [`Config`] what follows from
//! it; the command line of one node becomes a [`Node`]. Every default and every limit is named here.
//! All of it is pure: texts come in, values or one-line errors come out; nobody here opens a file.

pub mod file;
mod memory;
mod node;
mod resolve;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::{
    file::Error,
    memory::Memory,
    node::{Address, Founders, InvalidAddress, Node, NodeArgs, Role},
};

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
    /// A shard with so much data on disk is split, bytes; zero for never.
    pub split_size_bytes: u64,
}

impl Settings {
    /// The most copies of a shard: more only slow every write down.
    pub const MAX_REPLICATION: u32 = 7;
    /// The most arcs a cluster may start with.
    pub const MAX_SHARDS: u32 = 4096;
    /// The longest cluster name, characters.
    pub const MAX_NAME_CHARS: usize = 64;
    /// The shortest time that may be set for anything: below it a busy machine looks dead.
    pub const MIN_DURATION_MS: u64 = 10;
    /// The longest time that may be set for anything, one day.
    pub const MAX_DURATION_MS: u64 = 24 * 3_600_000;
    /// The longest `request_timeout`: every request in flight is kept in memory so long.
    pub const MAX_REQUEST_TIMEOUT_MS: u64 = 600_000;
    /// The largest `max_value`, as large as a batch: both become one log entry.
    pub const MAX_VALUE_BYTES: u64 = crate::command::MAX_BATCH_BYTES as u64;
    /// The smallest `split_size` but for zero: sizes on disk are known by the block and the file.
    pub const MIN_SPLIT_SIZE_BYTES: u64 = 1 << 20;
    /// The largest `split_size`.
    pub const MAX_SPLIT_SIZE_BYTES: u64 = 1 << 40;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "quoring".to_owned(),
            replication: 3,
            shards: 3,
            partitioner: Partitioner::Xxh3,
            ping_interval_ms: 5_000,
            inactive_after_ms: 15_000,
            replace_after_ms: 60_000,
            request_timeout_ms: 5_000,
            max_value_bytes: 8 << 20,
            split_size_bytes: 512 << 20,
        }
    }
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

impl Partitioner {
    /// Every partitioner, under the name that `cluster.toml` knows it by.
    pub const NAMES: [(&'static str, Partitioner); 4] = [
        ("xxh3", Partitioner::Xxh3),
        ("md5", Partitioner::Md5),
        ("crc32", Partitioner::Crc32),
        ("ordered", Partitioner::Ordered),
    ];
}

/// What follows from a `cluster.toml`: the cluster's settings, and the nodes of it on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The `[cluster]` settings.
    pub settings: Settings,
    /// Where the nodes of this machine keep their directories.
    pub data_dir: PathBuf,
    /// The memory of each of them.
    pub memory: Memory,
    /// The ports of the coordinators, at least one.
    pub coordinators: Vec<u16>,
    /// The workers.
    pub workers: Vec<Worker>,
}

/// A `[[worker]]` of `cluster.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Its port.
    pub port: u16,
    /// Where it stands: replicas of a shard prefer distinct zones.
    pub zone: Option<String>,
}

impl Config {
    /// The default of `data_dir`.
    pub const DEFAULT_DATA_DIR: &'static str = "data";
    /// The most nodes that one `cluster.toml` may start on one machine.
    pub const MAX_NODES: usize = 1_000;
    /// The longest zone, characters.
    pub const MAX_ZONE_CHARS: usize = 64;

    /// The directory of the coordinator or worker with this port.
    pub fn node_dir(&self, role: &str, port: u16) -> PathBuf {
        self.data_dir.join(format!("{role}-{port}"))
    }

    /// The addresses of all coordinators, as the nodes of this machine reach them.
    pub fn coordinator_addresses(&self) -> Vec<Address> {
        self.coordinators.iter().map(|port| Address::new("127.0.0.1", *port)).collect()
    }
}
