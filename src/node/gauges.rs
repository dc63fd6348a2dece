//! This node's Raft and store figures for `/metrics`, read when they are asked for from counters that
//! are kept anyway.

use metrics::{counter, gauge};

use super::Node;
use crate::metrics as name;

const MICROS_PER_SECOND: f64 = 1e6;

#[allow(clippy::cast_precision_loss)]
pub(super) fn read(node: &Node) {
    let groups = node.host.all();
    let mut behind = 0;
    for group in &groups {
        let status = group.status();
        behind += status.commit.saturating_sub(status.applied);
    }
    gauge!(name::RAFT_GROUPS).set(groups.len() as f64);
    gauge!(name::RAFT_GROUPS_LED).set(groups.iter().filter(|group| group.is_leader()).count() as f64);
    gauge!(name::RAFT_UNAPPLIED_ENTRIES).set(behind as f64);
    if let Some(map) = node.router.map() {
        let split = || map.shards.values().filter(|shard| shard.parent.is_some());
        gauge!(name::SHARDS_SPLIT).set(split().count() as f64);
        gauge!(name::SHARDS_SPLITTING).set(split().filter(|shard| !shard.formed).count() as f64);
    }
    gauge!(name::MAP_EPOCH).set(node.epoch().0 as f64);
    gauge!(name::READY).set(if node.ready().is_ok() { 1.0 } else { 0.0 });

    let stats = node.host.store().stats();
    counter!(name::STORE_APPENDS_TOTAL).absolute(stats.appends_total);
    counter!(name::STORE_ENTRIES_TOTAL).absolute(stats.entries_total);
    counter!(name::STORE_LOG_BYTES_TOTAL).absolute(stats.log_bytes_total);
    counter!(name::STORE_SYNCS_TOTAL).absolute(stats.syncs_total);
    counter!(name::STORE_SYNC_MICROS_TOTAL).absolute(stats.sync_us_total);
    gauge!(name::STORE_SYNC_MAX_SECONDS).set(stats.sync_us_max as f64 / MICROS_PER_SECOND);
    counter!(name::STORE_APPLIES_TOTAL).absolute(stats.applies_total);
    counter!(name::STORE_SNAPSHOTS_INSTALLED_TOTAL).absolute(stats.installs_total);
    counter!(name::STORE_FORKS_TOTAL).absolute(stats.forks_total);
    gauge!(name::STORE_BLOCK_CACHE_BYTES).set(stats.block_cache_bytes as f64);
    counter!(name::STORE_MEMTABLE_HITS_TOTAL).absolute(stats.memtable_hits_total);
    counter!(name::STORE_MEMTABLE_MISSES_TOTAL).absolute(stats.memtable_misses_total);
    let (hits, misses) = (stats.block_cache_hits_total, stats.block_cache_misses_total);
    counter!(name::STORE_BLOCK_CACHE_HITS_TOTAL).absolute(hits);
    counter!(name::STORE_BLOCK_CACHE_MISSES_TOTAL).absolute(misses);
    // Before the first read nothing has missed.
    let ratio = if hits + misses == 0 { 1.0 } else { hits as f64 / (hits + misses) as f64 };
    gauge!(name::STORE_BLOCK_CACHE_HIT_RATIO).set(ratio);
    gauge!(name::STORE_MEMTABLE_BYTES).set((stats.log_memtable_bytes + stats.data_memtable_bytes) as f64);
    gauge!(name::STORE_LOG_TAIL_BYTES).set(stats.log_tail_bytes as f64);
    gauge!(name::STORE_LOG_HELD_BYTES).set(stats.log_held_bytes as f64);
    gauge!(name::STORE_LOG_FILE_BYTES).set(stats.log_file_bytes as f64);
    gauge!(name::STORE_DATA_FILE_BYTES).set(stats.data_file_bytes as f64);
}
