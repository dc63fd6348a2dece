//! Counters of the store: cheap enough to be always on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::writer::{Change, Op};

/// A reading of the store's counters. Totals count since the store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls of `append`.
    pub appends_total: u64,
    /// Entries appended.
    pub entries_total: u64,
    /// Votes saved.
    pub votes_total: u64,
    /// Batches written to the log, synced or not.
    pub batches_total: u64,
    /// Operations in them: over `batches_total`, the mean size of a batch.
    pub batch_ops_total: u64,
    /// The largest batch so far, in operations.
    pub batch_ops_max: u64,
    /// Bytes written to the log.
    pub log_bytes_total: u64,
    /// Batches that were synced.
    pub syncs_total: u64,
    /// Time spent in writing and syncing them, in µs.
    pub sync_us_total: u64,
    /// The longest of them, in µs.
    pub sync_us_max: u64,
    /// Batches written to the data instance.
    pub applies_total: u64,
    /// Bytes in them.
    pub apply_bytes_total: u64,
    /// Flushes of the data instance that were asked for.
    pub flushes_total: u64,
    /// Snapshots installed.
    pub installs_total: u64,
    /// Groups that came into being by a fork.
    pub forks_total: u64,
    /// Memory held by the block cache, in bytes.
    pub block_cache_bytes: u64,
    /// Reads of a key that ended in a memtable of the data.
    pub memtable_hits_total: u64,
    /// Reads of a key that had to go on to the data's files.
    pub memtable_misses_total: u64,
    /// Blocks of the data's files that were found in the block cache.
    pub block_cache_hits_total: u64,
    /// Blocks of the data's files that had to be read.
    pub block_cache_misses_total: u64,
    /// Memory held by the log's memtables, in bytes.
    pub log_memtable_bytes: u64,
    /// Memory held by the data's memtables, in bytes.
    pub data_memtable_bytes: u64,
    /// Memory held by the newest entries of all groups, in bytes.
    pub log_tail_bytes: u64,
    /// Log entries that are not purged, of all groups, in bytes, about.
    pub log_held_bytes: u64,
    /// Files of the log, in bytes; the WAL is not counted.
    pub log_file_bytes: u64,
    /// Files of the data, in bytes.
    pub data_file_bytes: u64,
    /// Files of level 0 of the data: the distance to a write stall.
    pub data_l0_files: u64,
}

/// The counters behind [`Stats`].
#[derive(Default)]
pub(crate) struct Counters {
    appends: AtomicU64,
    entries: AtomicU64,
    votes: AtomicU64,
    batches: AtomicU64,
    batch_ops: AtomicU64,
    batch_ops_max: AtomicU64,
    log_bytes: AtomicU64,
    syncs: AtomicU64,
    sync_us: AtomicU64,
    sync_us_max: AtomicU64,
}

impl Counters {
    /// Counts one batch of the log writer.
    pub(crate) fn wrote(&self, ops: &[Op], bytes: usize, sync: Option<Duration>) {
        let (mut appends, mut entries, mut votes) = (0, 0, 0);
        for op in ops {
            match &op.change {
                Change::Append { entries: list, .. } => {
                    appends += 1;
                    entries += list.len() as u64;
                }
                Change::Vote(_) => votes += 1,
                _ => {}
            }
        }
        add(&self.appends, appends);
        add(&self.entries, entries);
        add(&self.votes, votes);
        add(&self.batches, 1);
        add(&self.batch_ops, ops.len() as u64);
        self.batch_ops_max.fetch_max(ops.len() as u64, Ordering::Relaxed);
        add(&self.log_bytes, bytes as u64);
        if let Some(sync) = sync {
            add(&self.syncs, 1);
            add(&self.sync_us, sync.as_micros() as u64);
            self.sync_us_max.fetch_max(sync.as_micros() as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    pub(crate) fn fill(&self, stats: &mut Stats) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.appends_total = read(&self.appends);
        stats.entries_total = read(&self.entries);
        stats.votes_total = read(&self.votes);
        stats.batches_total = read(&self.batches);
        stats.batch_ops_total = read(&self.batch_ops);
        stats.batch_ops_max = read(&self.batch_ops_max);
        stats.log_bytes_total = read(&self.log_bytes);
        stats.syncs_total = read(&self.syncs);
        stats.sync_us_total = read(&self.sync_us);
        stats.sync_us_max = read(&self.sync_us_max);
    }
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}
