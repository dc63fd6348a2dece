//! The store as the program sees it, and the order in which its parts start and stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use parking_lot::Mutex;
use rocksdb::{DB, WriteBatch, statistics::Ticker};
use tokio::sync::watch;
use uuid::Uuid;

use crate::data::Data;
use crate::db::Engines;
use crate::error::StoreError;
use crate::health::Health;
use crate::keys::{LogKey, TOMBSTONE_DONE};
use crate::load;
use crate::log::LogSize;
use crate::logs::Logs;
use crate::machine::{Machine, StateMachine};
use crate::options::Options;
use crate::read::Reader;
use crate::snapshot::Sink;
use crate::stats::Stats;
use crate::storage::GroupLog;
use crate::types::{SnapshotMeta, Vote};
use crate::writer::{Change, Done, Op, Pending, Writer};

/// Durable storage for many Raft groups in one process. Clones are the same store.
///
/// The directory is released when the last clone and the last handle made from it are gone.
/// Methods that write and are not `async` block for as long as the disk takes: call them from
/// threads for blocking work.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) log_db: Arc<DB>,
    pub(crate) data: Arc<Data>,
    pub(crate) writer: Arc<Writer>,
    logs: Logs,
    health: Arc<Health>,
    opened_at: u64,
    /// Held while a group is opened or dropped: nobody opens a group that is half gone.
    lifecycle: Mutex<()>,
    pub(crate) engines: Engines,
}

impl Inner {
    /// Whether the log knows nothing of a group, not even that it was here.
    pub(crate) fn has_no_log(&self, group: u64) -> bool {
        self.logs.get(group).is_none_or(|log| log.is_untouched())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.writer.close();
    }
}

impl Store {
    /// Opens the directory, or makes a new store there. Finishes what a crash cut short. Blocks.
    pub fn open(options: Options) -> Result<Store, StoreError> {
        let (engines, mut files) = Engines::open(&options)?;
        let health = Arc::new(Health::new());
        let (groups, pending) = load::load(&mut files)?;
        let data = Arc::new(Data::open(engines.data.clone(), health.clone(), engines.lock.clone())?);
        for id in pending {
            data.drop_group(id)?;
            let mut done = WriteBatch::default();
            done.put(LogKey::Tombstone(id).encode(), TOMBSTONE_DONE);
            files.write(done, false)?;
        }
        // Every opening is higher than all that was told before.
        files.write(WriteBatch::default(), true)?;
        let opened_at = files.last();
        let writer = Writer::start(files, options.queue_bytes, health.clone(), options.stepped)?;
        let logs = Logs::new(groups, options.log_tail_bytes);
        let log_db = engines.log.clone();
        let lifecycle = Mutex::new(());
        let inner = Inner { log_db, data, writer, logs, health, opened_at, lifecycle, engines };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// The store's id, made with the store: another id means another, or an emptied, directory.
    pub fn id(&self) -> Uuid {
        self.inner.engines.id
    }

    /// The number of the last batch of the log that is known to be on the disk. It rises with every opening, and
    /// with every sync: what was told of a vote or an entry was so at a height that can be read by then. A
    /// directory that is opened no higher than somebody has read it before has gone back to an earlier state.
    pub fn height(&self) -> u64 {
        self.inner.writer.height()
    }

    /// The height right after the store was opened: higher than all before, on an honest disk.
    pub fn opened_at(&self) -> u64 {
        self.inner.opened_at
    }

    /// A record of the program.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = record_name(name);
        self.inner.log_db.get(LogKey::Meta(&key).encode()).map_err(StoreError::engine("read a record"))
    }

    /// Sets a small record of the program; durable on return. Blocks.
    pub fn set_meta(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        let (sender, receiver) = sync_channel(1);
        let change = Change::Meta { name: record_name(name), value: value.to_vec() };
        self.inner.writer.push([Op { group: None, change, done: Done::Thread(sender) }])?;
        self.inner.writer.help();
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Groups that have a log, a vote or a state here, in order. Not those of which only the vote is
    /// kept after [`Store::drop_group`].
    pub fn groups(&self) -> Vec<u64> {
        let mut groups = BTreeSet::from_iter(self.inner.logs.alive());
        groups.extend(self.inner.data.alive());
        groups.into_iter().collect()
    }

    /// A group's log; an empty one if there is none. Waits while a group is being dropped.
    pub fn log(&self, group: u64) -> GroupLog {
        let _opening = self.inner.lifecycle.lock();
        GroupLog::new(self.inner.clone(), self.inner.logs.open(group))
    }

    /// A group's state machine, with `machine` loaded from its state. One per group at a time: the
    /// tasks of a Raft instance that was shut down may hold the former one a moment longer.
    /// Waits while a group is being dropped.
    pub fn machine<M: Machine>(&self, group: u64, machine: M) -> Result<StateMachine<M>, StoreError> {
        let _opening = self.inner.lifecycle.lock();
        StateMachine::open(self.inner.clone(), self.inner.data.group(group), machine)
    }

    /// Reads a group's applied state, outside of `apply`.
    pub fn reader(&self, group: u64) -> Reader {
        Reader::new(self.inner.data.clone(), self.inner.data.group(group))
    }

    /// Begins to receive a snapshot; the sink's result goes to openraft's `install_full_snapshot`.
    pub fn receive_snapshot(&self, group: u64, meta: SnapshotMeta) -> Sink {
        Sink::new(self.inner.clone(), group, meta)
    }

    /// Removes this node's replica of a group: log and state are gone, durably, on return. Its vote
    /// stays for ever, so that a replica that is added here again can never vote twice in one term.
    /// Handles of the replica are refused from the call on; its Raft instance should be stopped
    /// before. A crash in between is finished when the store is opened. Blocks.
    pub fn drop_group(&self, group: u64) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _closing = inner.lifecycle.lock();
        let successor = inner.logs.drop_group(group, &inner.writer)?;
        inner.data.drop_group(group)?;
        inner.writer.push([Op { group: Some(successor), change: Change::Dropped, done: Done::Lazy }])
    }

    /// Removes what forked groups have left behind in spaces that they shared: looks at `most` ranges
    /// of a space, and goes on there the next time; how many were removed. To be called now and then.
    /// Blocks.
    pub fn trim(&self, most: usize) -> Result<usize, StoreError> {
        self.inner.data.trim(most)
    }

    /// The vote of a group's replica here as it is on the disk: what this node has promised so far,
    /// also where it has no replica any more. Set before whoever asked for the vote is answered.
    pub fn vote(&self, group: u64) -> Option<Vote> {
        self.inner.logs.get(group)?.vote()
    }

    /// Makes all that is applied, of all groups, durable. Blocks.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.data.flush()
    }

    /// The index up to which a group's applied state is known to survive a crash: its log can be purged to
    /// there without a flush.
    pub fn durable_index(&self, group: u64) -> u64 {
        self.inner.data.durable_index(group)
    }

    /// How much log a group keeps; for deciding when to purge.
    pub fn log_size(&self, group: u64) -> LogSize {
        self.inner.logs.get(group).map_or_else(LogSize::default, |group| group.size())
    }

    /// Bytes written to the log since the store was opened, as in [`Store::stats`].
    pub fn log_bytes_total(&self) -> u64 {
        self.inner.writer.counters.log_bytes()
    }

    /// Becomes `Some` with the reason when a write or sync has failed. The store then takes no more
    /// writes, and the process should end.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.inner.health.subscribe()
    }

    /// When the log's running sync began, if one runs or RocksDB is still taking what it was for: for telling a
    /// disk that hangs.
    pub fn sync_pending_since(&self) -> Option<Instant> {
        self.inner.writer.sync_pending_since()
    }

    /// Of a store that is [stepped](Options::stepped): what [`Store::step`] would write, and how often
    /// the log was synced so far.
    pub fn pending(&self) -> Pending {
        self.inner.writer.pending()
    }

    /// Of a store that is [stepped](Options::stepped): writes to the log what waits, at most so many
    /// operations, syncs if any of them asks for it, and calls back. True if it synced. Where the store
    /// is dropped before that, what waits is lost, as in a crash; [`Store::shutdown`] writes it.
    pub fn step(&self, most: usize) -> bool {
        self.inner.writer.step(most)
    }

    /// Reads the counters.
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let read = |db: &DB, name: &str| db.property_int_value(name).ok().flatten().unwrap_or(0);
        let count = |ticker| inner.engines.data_options.get_ticker_count(ticker);
        let mut stats = Stats {
            applies_total: inner.data.counters.applies.load(Ordering::Relaxed),
            apply_bytes_total: inner.data.counters.apply_bytes.load(Ordering::Relaxed),
            flushes_total: inner.data.counters.flushes.load(Ordering::Relaxed),
            installs_total: inner.data.counters.installs.load(Ordering::Relaxed),
            forks_total: inner.data.counters.forks.load(Ordering::Relaxed),
            block_cache_bytes: inner.engines.cache.get_usage() as u64,
            memtable_hits_total: count(Ticker::MemtableHit),
            memtable_misses_total: count(Ticker::MemtableMiss),
            block_cache_hits_total: count(Ticker::BlockCacheHit),
            block_cache_misses_total: count(Ticker::BlockCacheMiss),
            log_memtable_bytes: read(&inner.log_db, "rocksdb.cur-size-all-mem-tables"),
            data_memtable_bytes: read(&inner.data.db, "rocksdb.cur-size-all-mem-tables"),
            log_tail_bytes: inner.logs.tail_bytes() as u64,
            log_held_bytes: inner.logs.held_bytes(),
            log_file_bytes: read(&inner.log_db, "rocksdb.total-sst-files-size"),
            data_file_bytes: read(&inner.data.db, "rocksdb.total-sst-files-size"),
            data_l0_files: read(&inner.data.db, "rocksdb.num-files-at-level0"),
            ..Stats::default()
        };
        inner.writer.counters.fill(&mut stats);
        stats
    }

    /// Writes what waits, flushes all state, and refuses every later write. Calling it again does
    /// nothing. Blocks.
    pub fn shutdown(&self) -> Result<(), StoreError> {
        self.inner.writer.help();
        self.inner.writer.close();
        match self.inner.data.flush() {
            // A second call.
            Err(StoreError::Closed) => return Ok(()),
            result => result?,
        }
        self.inner.health.close();
        Ok(())
    }
}

/// Records of the program do not meet those of the store.
fn record_name(name: &str) -> String {
    format!("program.{name}")
}
