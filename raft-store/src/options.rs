//! What a program can choose about a store, and how that becomes RocksDB options.
//!
//! The *log* instance wants every acknowledged byte back after a crash, and refuses to guess; the
//! *data* instance is written from tasks that must not wait, and can be built again from the log.

use std::path::PathBuf;

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Env, LogLevel, statistics::StatsLevel,
};

use crate::error::StoreError;
use crate::keys::LOG_PREFIX_BYTES;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What a program can choose about a store. The sum of the byte bounds is what the store holds in
/// memory at most, but for what readers have in their hands and a few MiB of RocksDB's own.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the store lives; `None` keeps everything in memory (RocksDB's memory environment), and
    /// all of it is gone with the process.
    pub dir: Option<PathBuf>,
    /// Blocks, indexes and filters of both instances. Default: 256 MiB.
    pub block_cache_bytes: usize,
    /// Applied state that is not flushed yet; larger means fewer flushes and a longer replay of the
    /// log after a crash. Default: 96 MiB.
    pub memtable_bytes: usize,
    /// Log entries that are in the WAL but in no file yet. What is purged within a quarter of this is
    /// never written to a file. Default: 96 MiB.
    pub log_memtable_bytes: usize,
    /// Newest entries of all groups kept for readers, once synced. Default: 8 MiB.
    pub log_tail_bytes: usize,
    /// Entries waiting for the log writer; beyond it `append` waits. Default: 64 MiB.
    pub queue_bytes: usize,
    /// Threads for flushes and compactions. Default: 2.
    pub background_jobs: usize,
    /// Whether the program writes the log itself, by [`Store::step`](crate::Store::step), and no thread
    /// does: for simulations, in which a disk has a time of its own. Default: no.
    pub stepped: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            dir: None,
            block_cache_bytes: 256 * MIB,
            memtable_bytes: 96 * MIB,
            log_memtable_bytes: 96 * MIB,
            log_tail_bytes: 8 * MIB,
            queue_bytes: 64 * MIB,
            background_jobs: 2,
            stepped: false,
        }
    }
}

impl Options {
    /// Defaults, with everything under `dir`.
    pub fn at(dir: impl Into<PathBuf>) -> Options {
        Options { dir: Some(dir.into()), ..Options::default() }
    }

    /// Defaults, with everything in memory.
    pub fn in_memory() -> Options {
        Options::default()
    }

    /// Bytes of the WAL at which the log's memtables are flushed, full or not, so that it can be written over.
    pub(crate) fn wal_max_bytes(&self) -> u64 {
        2 * self.log_memtable_bytes.max(MEMTABLE_MIN_BYTES) as u64
    }
}

/// Smallest block cache, in bytes.
pub(crate) const CACHE_MIN_BYTES: usize = MIB;
/// Memtables of one instance, the one being written and one that is flushed. Few and large: most of what
/// the log's hold is purged before their flush, and the data is flushed by the program, once for all groups,
/// before RocksDB would.
const MEMTABLES: usize = 2;
/// Smallest memtable, in bytes: below it RocksDB would flush all the time.
const MEMTABLE_MIN_BYTES: usize = MIB;
/// A memtable grows by such a part of it, and by no more than this. RocksDB's default is an eighth and 1 MiB, which
/// the kernel mostly backs by pages of 4 KiB; most of 8 MiB it can back by pages of 2 MiB, and walking a memtable is
/// bound by how addresses are translated.
const MEMTABLE_PIECES: usize = 6;
const MEMTABLE_PIECE_BYTES: usize = 8 * MIB;
/// Files of level 0 at which writers are slowed down, then stopped. Far above the compaction
/// triggers: a slow compaction costs readers a little, a slowed writer stalls a runtime thread.
const L0_SLOWDOWN_FILES: i32 = 48;
const L0_STOP_FILES: i32 = 96;
/// Files held open per instance. Both together leave most of the usual limit (1,024) to sockets.
const OPEN_FILES: i32 = 256;
/// Files of level 0 of the log that are merged together, instead of RocksDB's 4: most entries are purged by then
/// and need not be written again. Newest entries are read from memory, so few readers meet that many files.
const LOG_L0_FILES: i32 = 16;
/// What is written over or purged soon is not worth compressing.
const UPPER_LEVELS_PLAIN: [DBCompressionType; 7] = {
    use DBCompressionType::{Lz4, None};
    [None, None, Lz4, Lz4, Lz4, Lz4, Lz4]
};
/// RocksDB's own log: size of one file in bytes, and how many are kept.
const INFO_LOG_BYTES: usize = MIB;
const INFO_LOG_FILES: usize = 2;

/// Options of the log instance.
pub(crate) fn log(
    options: &Options,
    env: Option<&Env>,
    cache: &Cache,
) -> Result<rocksdb::Options, StoreError> {
    // A group's entries come in order: the place of the next one is found from that of the last.
    let hint = format!("memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.{LOG_PREFIX_BYTES}");
    // What is not in a file at a stop is in the WAL.
    let further = format!("avoid_flush_during_shutdown=true;{hint}");
    let mut opts = base(options, env, cache, options.log_memtable_bytes, &further)?;
    // Of a store of format 1, which had RocksDB's WAL. Acknowledged entries may be missing behind a damaged record
    // in its middle, which the default (point in time) would drop silently.
    opts.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    opts.set_compression_per_level(&UPPER_LEVELS_PLAIN);
    opts.set_level_zero_file_num_compaction_trigger(LOG_L0_FILES);
    Ok(opts)
}

/// Options of the data instance, and of the files that are written to be ingested by it.
pub(crate) fn data(
    options: &Options,
    env: Option<&Env>,
    cache: &Cache,
) -> Result<rocksdb::Options, StoreError> {
    let mut opts = base(options, env, cache, options.memtable_bytes, "")?;
    opts.set_compression_per_level(&UPPER_LEVELS_PLAIN);
    opts.set_bottommost_compression_type(DBCompressionType::Lz4);
    // Counts alone: how well caches and memtables serve reads.
    opts.enable_statistics();
    opts.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    // A memtable is asked before any file; most keys of a large store are not in it.
    opts.set_memtable_prefix_bloom_ratio(0.02);
    opts.set_memtable_whole_key_filtering(true);
    Ok(opts)
}

/// `further`: options that the binding has no function for, in RocksDB's own words.
fn base(
    options: &Options,
    env: Option<&Env>,
    cache: &Cache,
    memtable_bytes: usize,
    further: &str,
) -> Result<rocksdb::Options, StoreError> {
    // By default RocksDB resumes by itself after a background error, as if it had not happened.
    let mut opts = rocksdb::Options::default()
        .get_options_from_string(format!("max_bgerror_resume_count=0;{further}"))
        .map_err(StoreError::engine("set options"))?;
    if let Some(env) = env {
        opts.set_env(env);
    }
    // Few threads write at a time, and a lone writer is faster without the care for others.
    opts.set_allow_concurrent_memtable_write(false);
    opts.create_if_missing(true);
    opts.set_paranoid_checks(true);
    opts.set_max_background_jobs(i32::try_from(options.background_jobs.max(2)).unwrap_or(i32::MAX));
    opts.set_max_open_files(OPEN_FILES);
    opts.set_log_level(LogLevel::Warn);
    opts.set_max_log_file_size(INFO_LOG_BYTES);
    opts.set_keep_log_file_num(INFO_LOG_FILES);
    opts.set_stats_dump_period_sec(0);
    opts.set_stats_persist_period_sec(0);

    // Writers must hardly ever stall, as they run on threads that serve others: room for another
    // memtable while one is flushed, distant limits for level 0, none for pending compaction, and dirty pages
    // written out continuously instead of all at once.
    let memtable_bytes = (memtable_bytes / MEMTABLES).max(MEMTABLE_MIN_BYTES);
    opts.set_write_buffer_size(memtable_bytes);
    opts.set_arena_block_size((memtable_bytes / MEMTABLE_PIECES).min(MEMTABLE_PIECE_BYTES));
    opts.set_max_write_buffer_number(MEMTABLES as i32);
    opts.set_level_zero_slowdown_writes_trigger(L0_SLOWDOWN_FILES);
    opts.set_level_zero_stop_writes_trigger(L0_STOP_FILES);
    opts.set_soft_pending_compaction_bytes_limit(0);
    opts.set_hard_pending_compaction_bytes_limit(0);
    opts.set_bytes_per_sync(MIB as u64);
    opts.set_level_compaction_dynamic_level_bytes(true);

    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(16 * KIB);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    table.set_format_version(5);
    opts.set_block_based_table_factory(&table);
    Ok(opts)
}
