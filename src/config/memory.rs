//! How much memory a node may take for its store: what is set, and what it may be set to.

use std::ops::RangeInclusive;

/// Memory of a node, in `cluster.toml` for all nodes of this machine, or for one on its command line.
/// Each may differ between nodes, and change at a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// `cache`: what the node has read from its files, bytes.
    pub cache_bytes: u64,
    /// `memtables`: what it has not written to files yet, of the log and of the state together, bytes.
    pub memtables_bytes: u64,
    /// `queues`: log entries that wait for the disk, and the newest ones that are there, kept for
    /// followers and for applying, bytes.
    pub queues_bytes: u64,
}

impl Memory {
    /// What `cache` may be: with less, indexes and filters alone would push each other out.
    pub const CACHE_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;
    /// What `memtables` may be: the least is room for a few entries of 1 MiB in each of four; with more
    /// than the most, a log would take minutes to be applied again after a crash.
    pub const MEMTABLES_BYTES: RangeInclusive<u64> = 12 << 20..=64 << 30;
    /// What `queues` may be: at least a few entries' worth, at most what the log writer counts up to.
    pub const QUEUES_BYTES: RangeInclusive<u64> = 2 << 20..=1 << 30;

    /// Of `memtables`, the part of the log, most of which is purged before it would be written to a file;
    /// the rest is the state's.
    pub fn log_memtables_bytes(&self) -> u64 {
        self.memtables_bytes / 2
    }

    /// Of `queues`, the part of the entries that wait for the disk. The rest, for the newest ones that
    /// are there, is small on purpose: what followers and machines are about to read fits, and memory
    /// that goes round in a small circle stays in the processor's caches.
    pub fn waiting_bytes(&self) -> u64 {
        self.queues_bytes - self.queues_bytes / 16
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, memtables_bytes: 192 << 20, queues_bytes: 128 << 20 }
    }
}
