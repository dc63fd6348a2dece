//! The one thread that writes the log instance: group commit for all groups of the process.
//!
//! It takes everything that waits, in the order in which it came, makes one `WriteBatch` of it, one
//! write with one sync, and then runs the callbacks, in that order. While a sync runs, the next
//! batch gathers: the more groups write, the more of them share a sync. Where they are many, the
//! next sync waits a little for more of them ([`Pace`]).
//!
//! Invariants:
//! - One FIFO for all operations of all groups, so an operation is never durable without those of
//!   its group that came before it.
//! - A callback runs only after the sync of the batch that holds its operation; that of entries even before
//!   RocksDB has the batch, as until then they are read from the log's tail. After a failed sync
//!   every callback, then and later, gets the error (a later success would imply the earlier
//!   one), and the thread ends; so it does after RocksDB has failed.
//! - Purges and committed pointers never cause a sync. They go with the next batch that does, or,
//!   if none comes within [`LAZY_MS`], unsynced. Pointers go no more often than that: a pointer that
//!   is a little old costs a replica that starts again a moment, and one in each batch costs as much
//!   as the entries.
//! - A committed pointer is never in the log without the entry it names: otherwise openraft would
//!   refuse to start.
//! - The store's height is the number of the last batch that was synced. It can be read only after that
//!   sync and before its callbacks: whoever tells of a vote or an entry can tell the height.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use rocksdb::WriteBatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::entry;
use crate::error::StoreError;
use crate::health::Health;
use crate::keys::{LogKey, TOMBSTONE_DONE, TOMBSTONE_PENDING};
use crate::log::{Committed, LogGroup};
use crate::log_files::LogFiles;
use crate::stats::Counters;
use crate::types::{LogId, TypeConfig, Vote};

mod pace;
mod stepped;

use pace::Pace;
pub use stepped::Pending;

/// How long purges and committed pointers wait for a batch that syncs, in ms.
const LAZY_MS: u64 = 100;
/// Bytes of entries in one batch at most, but for one operation that is larger by itself.
const BATCH_MAX_BYTES: usize = 16 << 20;
/// Operations in one batch at most.
const BATCH_MAX_OPS: usize = 16 << 10;
/// What an operation is counted with besides its entries, in bytes.
const OP_BYTES: usize = 64;
/// Smallest and largest bound of the queue, in bytes. The semaphore that keeps it counts in `u32`.
const QUEUE_MIN_BYTES: usize = 64 << 10;
const QUEUE_MAX_BYTES: usize = 1 << 30;

/// Where the outcome of an operation goes.
pub(crate) enum Done {
    /// Entries of openraft.
    Flushed(IOFlushed<TypeConfig>),
    /// An async caller that waits.
    Task(oneshot::Sender<Result<(), StoreError>>),
    /// A blocking caller that waits.
    Thread(std::sync::mpsc::SyncSender<Result<(), StoreError>>),
    /// Nobody waits: the operation needs no sync of its own.
    Lazy,
}

impl Done {
    fn run(self, result: Result<(), StoreError>) {
        match self {
            Done::Flushed(callback) => callback.io_completed(result.map_err(Into::into)),
            // A caller that went away no longer cares.
            Done::Task(sender) => drop(sender.send(result)),
            Done::Thread(sender) => drop(sender.send(result)),
            Done::Lazy => {}
        }
    }

    fn is_lazy(&self) -> bool {
        matches!(self, Done::Lazy)
    }
}

/// What is to be written.
pub(crate) enum Change {
    /// Entries from index `first` on, encoded. `_room` is their share of the queue's bound.
    Append {
        first: u64,
        entries: Vec<Bytes>,
        generation: u64,
        _room: OwnedSemaphorePermit,
    },
    Vote(Vote),
    /// Deletes the entries `from..to`, from the end of the log.
    Truncate {
        from: u64,
        to: u64,
        generation: u64,
    },
    /// Moves the purge point.
    Purged(LogId),
    /// Deletes the entries `from..to`, from the start of the log: as a range, so that of entries which
    /// are in no file yet nothing at all gets there.
    Delete {
        from: u64,
        to: u64,
    },
    /// The replica is dropped: only the vote and a tombstone stay.
    Drop,
    /// The rest of a dropped replica is gone.
    Dropped,
    /// A record of the program, by name.
    Meta {
        name: String,
        value: Vec<u8>,
    },
}

/// A change, the group it is for, and who waits for it.
pub(crate) struct Op {
    /// `None` only for [`Change::Meta`].
    pub(crate) group: Option<Arc<LogGroup>>,
    pub(crate) change: Change,
    pub(crate) done: Done,
}

impl Op {
    fn bytes(&self) -> usize {
        OP_BYTES
            + match &self.change {
                Change::Append { entries, .. } => entries.iter().map(|entry| entry.len() + OP_BYTES).sum(),
                Change::Truncate { from, to, .. } => (to - from) as usize * OP_BYTES,
                Change::Meta { value, .. } => value.len(),
                _ => 0,
            }
    }
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<Op>,
    /// How many of them are waited for.
    urgent: usize,
    /// Groups whose committed pointer moved.
    committed: Vec<Arc<LogGroup>>,
    /// No further operation is taken: the store is closed or poisoned.
    closed: bool,
}

/// The queue of the writer thread. Shared by all groups.
pub(crate) struct Writer {
    /// Locked by whoever writes: the thread, or in its place [`Writer::step`].
    log: Mutex<LogFiles>,
    queue: Mutex<Queue>,
    arrived: Condvar,
    room: Arc<Semaphore>,
    room_bytes: usize,
    health: Arc<Health>,
    pub(crate) counters: Counters,
    /// Number of the last batch that was synced.
    height: AtomicU64,
    /// For [`Writer::sync_pending_since`].
    epoch: Instant,
    /// Microseconds from `epoch` to the start of the running sync, plus 1; 0 if none runs, and RocksDB has what the
    /// last one was for.
    sync_began: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Where there is no thread: held by whoever writes instead.
    by_hand: Option<Mutex<()>>,
}

impl Writer {
    pub(crate) fn start(
        log: LogFiles,
        queue_bytes: usize,
        health: Arc<Health>,
        stepped: bool,
    ) -> Result<Arc<Writer>, StoreError> {
        let room_bytes = queue_bytes.clamp(QUEUE_MIN_BYTES, QUEUE_MAX_BYTES);
        let height = log.last();
        let writer = Arc::new(Writer {
            log: Mutex::new(log),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            health,
            counters: Counters::default(),
            height: AtomicU64::new(height),
            epoch: Instant::now(),
            sync_began: AtomicU64::new(0),
            thread: Mutex::new(None),
            by_hand: stepped.then(Mutex::default),
        });
        if stepped {
            return Ok(writer);
        }
        let running = writer.clone();
        let thread =
            std::thread::Builder::new().name("log-writer".into()).spawn(move || running.run()).map_err(
                |error| StoreError::Engine { verb: "start the log writer", reason: error.to_string() },
            )?;
        *writer.thread.lock() = Some(thread);
        Ok(writer)
    }

    /// Waits until the queue has room for `bytes` more. A request larger than the whole queue waits
    /// for an empty one.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let share = bytes.clamp(1, self.room_bytes) as u32;
        match self.room.clone().acquire_many_owned(share).await {
            Ok(room) => Ok(room),
            Err(_) => Err(self.refusal()),
        }
    }

    /// Enqueues in order. The caller holds what keeps its group's operations in order.
    pub(crate) fn push(&self, ops: impl IntoIterator<Item = Op>) -> Result<(), StoreError> {
        self.health.check()?;
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(self.refusal());
        }
        let urgent = queue.urgent;
        for op in ops {
            queue.urgent += usize::from(!op.done.is_lazy());
            queue.ops.push_back(op);
        }
        if urgent == 0 && queue.urgent > 0 {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Notes that the group's committed pointer moved; never waits, never wakes the thread.
    pub(crate) fn note_committed(&self, group: Arc<LogGroup>) -> Result<(), StoreError> {
        self.health.check()?;
        self.queue.lock().committed.push(group);
        Ok(())
    }

    /// Writes what waits, then ends the thread. Later calls do nothing.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.room.close();
        self.arrived.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            self.health.poison("the log writer panicked");
        }
    }

    /// See [`crate::Store::sync_pending_since`].
    pub(crate) fn sync_pending_since(&self) -> Option<Instant> {
        match self.sync_began.load(Ordering::Acquire) {
            0 => None,
            micros => Some(self.epoch + Duration::from_micros(micros - 1)),
        }
    }

    /// See [`crate::Store::height`].
    pub(crate) fn height(&self) -> u64 {
        self.height.load(Ordering::Acquire)
    }

    fn refusal(&self) -> StoreError {
        self.health.check().err().unwrap_or(StoreError::Closed)
    }

    fn run(&self) {
        let _fail_rest = FailRest(self);
        let mut pace = Pace::default();
        let mut pointers_due = Instant::now();
        while let Some((ops, committed)) = self.take(pace.not_before, pointers_due) {
            if !committed.is_empty() {
                pointers_due = Instant::now() + Duration::from_millis(LAZY_MS);
            }
            let crowded = ops.iter().filter(|op| !op.done.is_lazy()).count() > 1;
            let mut batch = InFlight { writer: self, ops };
            let began = Instant::now();
            let result = self.write(batch.ops.make_contiguous(), committed);
            pace.wrote(began, Instant::now(), crowded);
            let failed = result.is_err();
            while let Some(op) = batch.ops.pop_front() {
                self.complete(op, result.clone());
            }
            if failed {
                return;
            }
        }
    }

    /// Waits for work, and then until `not_before`; `None` when closed and empty.
    fn take(
        &self,
        not_before: Option<Instant>,
        pointers_due: Instant,
    ) -> Option<(VecDeque<Op>, Vec<Arc<LogGroup>>)> {
        let mut queue = self.queue.lock();
        while queue.urgent == 0 {
            if queue.closed {
                if queue.ops.is_empty() && queue.committed.is_empty() {
                    return None;
                }
                break;
            }
            let timed_out = self.arrived.wait_for(&mut queue, Duration::from_millis(LAZY_MS)).timed_out();
            if timed_out && !(queue.ops.is_empty() && queue.committed.is_empty()) {
                break;
            }
        }
        if let Some(not_before) = not_before
            && queue.urgent > 0
        {
            while !queue.closed && !self.arrived.wait_until(&mut queue, not_before).timed_out() {}
        }
        let mut bytes = 0;
        let mut ops = VecDeque::new();
        while ops.len() < BATCH_MAX_OPS && bytes < BATCH_MAX_BYTES {
            let Some(op) = queue.ops.pop_front() else { break };
            bytes += op.bytes();
            queue.urgent -= usize::from(!op.done.is_lazy());
            ops.push_back(op);
        }
        let is_due = queue.closed || Instant::now() >= pointers_due;
        Some((ops, if is_due { std::mem::take(&mut queue.committed) } else { Vec::new() }))
    }

    fn write(&self, ops: &mut [Op], committed: Vec<Arc<LogGroup>>) -> Result<(), StoreError> {
        self.health.check()?;
        let mut batch = WriteBatch::with_capacity_bytes(ops.iter().map(Op::bytes).sum());
        for op in ops.iter() {
            put(op, &mut batch);
        }
        let mut later = Vec::new();
        let mut value = Vec::new();
        for group in committed {
            // Read only now, so that the newest pointer is written once.
            let id = match group.take_committed() {
                Committed::Write(id) => id,
                Committed::Later => {
                    later.push(group);
                    continue;
                }
                Committed::Gone => continue,
            };
            value.clear();
            entry::encode_log_id(&id, &mut value);
            batch.put(LogKey::Committed(group.id).encode(), &value);
        }
        if !later.is_empty() {
            let mut queue = self.queue.lock();
            // At the end nothing more comes that could cover them.
            if !queue.closed {
                queue.committed.append(&mut later);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }

        let sync = ops.iter().any(|op| !op.done.is_lazy());
        let began = Instant::now();
        if sync {
            let micros = began.duration_since(self.epoch).as_micros() as u64;
            self.sync_began.store(micros + 1, Ordering::Release);
        }
        let bytes = batch.size_in_bytes();
        let mut log = self.log.lock();
        let result = log.append(batch, sync);
        self.counters.wrote(ops, bytes, sync.then(|| began.elapsed()));
        let result = result.and_then(|appended| {
            if sync {
                self.height.store(log.last(), Ordering::Release);
            }
            for op in ops {
                if let Done::Flushed(_) = op.done {
                    std::mem::replace(&mut op.done, Done::Lazy).run(Ok(()));
                }
            }
            log.insert(appended)
        });
        self.sync_began.store(0, Ordering::Release);
        self.health.guard(result)
    }

    fn complete(&self, op: Op, result: Result<(), StoreError>) {
        if result.is_ok()
            && let Some(group) = &op.group
        {
            match &op.change {
                Change::Append { first, entries, generation, .. } => {
                    group.stored(*generation, first + entries.len() as u64);
                }
                Change::Truncate { from, generation, .. } => group.stored(*generation, *from),
                Change::Vote(vote) => group.voted(*vote),
                _ => {}
            }
        }
        op.done.run(result);
    }
}

/// The operations of the running batch. Should the thread panic, their callers are told.
struct InFlight<'a> {
    writer: &'a Writer,
    ops: VecDeque<Op>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        for op in self.ops.drain(..) {
            op.done.run(Err(self.writer.health.poison("the log writer panicked")));
        }
    }
}

/// Fails what is left when the thread ends, also by a panic: nobody may wait for ever.
struct FailRest<'a>(&'a Writer);

impl Drop for FailRest<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.health.poison("the log writer panicked");
        }
        let rest = {
            let mut queue = self.0.queue.lock();
            queue.closed = true;
            queue.committed.clear();
            std::mem::take(&mut queue.ops)
        };
        self.0.room.close();
        for op in rest {
            op.done.run(Err(self.0.refusal()));
        }
    }
}

fn put(op: &Op, batch: &mut WriteBatch) {
    let Some(group) = &op.group else {
        if let Change::Meta { name, value } = &op.change {
            batch.put(LogKey::Meta(name).encode(), value);
        }
        return;
    };
    let id = group.id;
    // Life after a drop: the tombstone goes in the batch that makes it untrue.
    if matches!(op.change, Change::Append { .. } | Change::Vote(_) | Change::Purged(_)) && group.revive() {
        batch.delete(LogKey::Tombstone(id).encode());
    }
    let mut value = Vec::new();
    match &op.change {
        Change::Append { first, entries, .. } => {
            for (index, entry) in (*first..).zip(entries) {
                batch.put(LogKey::Entry(id, index).encode(), entry);
            }
            group.written(first + entries.len() as u64);
        }
        Change::Vote(vote) => {
            entry::encode_vote(vote, &mut value);
            batch.put(LogKey::Vote(id).encode(), &value);
        }
        Change::Truncate { from, to, .. } => {
            // From the end, as openraft asks for; in one batch, so no hole is ever visible.
            (*from..*to).rev().for_each(|index| batch.delete(LogKey::Entry(id, index).encode()));
            group.written(*from);
        }
        Change::Purged(last) => {
            entry::encode_log_id(last, &mut value);
            batch.put(LogKey::Purged(id).encode(), &value);
            group.purged_to(last.index + 1);
        }
        Change::Delete { from, to } => {
            batch.delete_range(LogKey::Entry(id, *from).encode(), LogKey::Entry(id, *to).encode());
        }
        Change::Drop => {
            batch.put(LogKey::Tombstone(id).encode(), TOMBSTONE_PENDING);
            batch.delete(LogKey::Committed(id).encode());
            batch.delete(LogKey::Purged(id).encode());
        }
        Change::Dropped => batch.put(LogKey::Tombstone(id).encode(), TOMBSTONE_DONE),
        Change::Meta { .. } => {}
    }
}
