//! One group's log as it is in memory: bounds, vote, committed pointer, and the newest entries. What openraft asks of a log is in `storage.rs`; what is written, in `writer.rs`.
//!
//! Invariants of one log:
//! - It holds the entries `first..next`, without a hole. `next` may be anything as long as the log
//!   never had an entry and no purge point.
//! - `tail` holds the entries `tail_first..next`. Everything before `stored` is in RocksDB, and
//!   only that may leave the tail. So any entry is in the tail or can be read from RocksDB, at any
//!   moment.
//! - This memory runs ahead of the disk: entries are here when `append` returns, and are gone from
//!   here when `truncate` or `purge` is called. RocksDB may still hold entries outside of
//!   `first..next`; nobody reads them.
//! - `state` is held while an operation is handed to the writer, so the order in memory is the
//!   order on disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::StoreError;
use crate::logs::TailBudget;
use crate::types::{LogId, Vote};
use crate::writer::{Change, Done, Op, Writer};

/// How much log a group keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Entries that are not purged.
    pub entries: u64,
    /// Their bytes; an estimate for entries that were there when the store was opened.
    pub bytes: u64,
}

/// What the writer is to do about a committed pointer.
pub(crate) enum Committed {
    /// The entry it names is written: write it too.
    Write(LogId),
    /// The entry it names is still to come.
    Later,
    /// The group was dropped.
    Gone,
}

/// One group's log.
pub(crate) struct LogGroup {
    pub(crate) id: u64,
    state: Mutex<State>,
    /// Survives the replica: shared with the log that follows a dropped one.
    vote: Arc<Mutex<Option<Vote>>>,
    /// End of the entries that the writer has put into a batch. Only the writer writes it.
    written: AtomicU64,
    /// There is a tombstone on disk, to be removed by the next write.
    tombstone: AtomicBool,
    budget: Arc<TailBudget>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) purged: Option<LogId>,
    /// The id of the entry before `next`.
    pub(crate) last: Option<LogId>,
    pub(crate) first: u64,
    pub(crate) next: u64,
    tail_first: u64,
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
    stored: u64,
    pub(crate) committed: Option<LogId>,
    /// The writer will look at `committed`.
    committed_noted: bool,
    /// Truncations so far: the sync of an append from before says nothing about later entries.
    truncations: u64,
    /// Truncations and purges so far: a reader that met one starts again.
    cuts: u64,
    bytes: u64,
    dropped: bool,
}

/// What the disk held of one group when the store was opened.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// The first index and the last log id of the entries.
    pub(crate) entries: Option<(u64, LogId)>,
    pub(crate) bytes: u64,
    pub(crate) tombstone: bool,
}

/// Where the entries of a range are.
pub(crate) struct Plan {
    /// Indexes to be read from RocksDB.
    pub(crate) cold: std::ops::Range<u64>,
    /// Encoded entries that follow them.
    pub(crate) hot: Vec<Bytes>,
    cuts: u64,
}

impl LogGroup {
    pub(crate) fn new(id: u64, loaded: Loaded, budget: Arc<TailBudget>) -> LogGroup {
        let start = loaded.purged.as_ref().map_or(0, |purged| purged.index + 1);
        let (first, last) = match loaded.entries {
            Some((first, last)) => (first, Some(last)),
            None => (start, loaded.purged),
        };
        let next = last.as_ref().map_or(start, |last| last.index + 1);
        let state = State {
            purged: loaded.purged,
            last,
            first,
            next,
            tail_first: next,
            stored: next,
            committed: loaded.committed,
            bytes: loaded.bytes,
            ..State::default()
        };
        budget.join();
        LogGroup {
            id,
            state: Mutex::new(state),
            vote: Arc::new(Mutex::new(loaded.vote)),
            written: AtomicU64::new(next),
            tombstone: AtomicBool::new(loaded.tombstone),
            budget,
        }
    }

    /// The empty log that follows a dropped one.
    pub(crate) fn successor(&self) -> LogGroup {
        let mut successor = LogGroup::new(self.id, Loaded::default(), self.budget.clone());
        successor.vote = self.vote.clone();
        successor.tombstone = AtomicBool::new(true);
        successor
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        *self.vote.lock()
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, StoreError> {
        let state = self.state.lock();
        if state.dropped {
            return Err(StoreError::Dropped(self.id));
        }
        Ok(read(&state))
    }

    pub(crate) fn size(&self) -> LogSize {
        let state = self.state.lock();
        LogSize { entries: state.next - state.first, bytes: state.bytes }
    }

    /// True if there is anything but the vote of a dropped replica.
    pub(crate) fn is_alive(&self) -> bool {
        let state = self.state.lock();
        let has_log = state.last.is_some() || state.committed.is_some();
        has_log || (self.vote().is_some() && !self.tombstone.load(Ordering::Relaxed))
    }

    /// True if nothing was ever here: no entry, no vote, and no replica that was dropped.
    pub(crate) fn is_untouched(&self) -> bool {
        let state = self.state.lock();
        let has_log = state.last.is_some() || state.committed.is_some() || state.dropped;
        !has_log && self.vote().is_none() && !self.tombstone.load(Ordering::Relaxed)
    }

    /// Takes entries that follow the log; they can be read when this returns.
    pub(crate) fn append(
        self: &Arc<Self>,
        writer: &Writer,
        entries: Vec<(LogId, Bytes)>,
        room: OwnedSemaphorePermit,
        done: Done,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        self.ensure_live(&state)?;
        let first = entries.first().map_or(state.next, |(id, _)| id.index);
        let is_virgin = state.last.is_none();
        let expected = if is_virgin { first } else { state.next };
        for (index, (id, _)) in (expected..).zip(&entries) {
            if id.index != index {
                return Err(StoreError::Hole { group: self.id, index: id.index, expected: index });
            }
        }
        let change = Change::Append {
            first,
            entries: entries.iter().map(|(_, bytes)| bytes.clone()).collect(),
            generation: state.truncations,
            _room: room,
        };
        writer.push([self.op(change, done)])?;

        if is_virgin && !entries.is_empty() {
            (state.first, state.next, state.tail_first, state.stored) = (first, first, first, first);
        }
        let mut added = 0;
        for (id, bytes) in entries {
            added += bytes.len();
            state.last = Some(id);
            state.next += 1;
            state.tail.push_back(bytes);
        }
        state.bytes += added as u64;
        state.tail_bytes += added;
        self.budget.charge(added);
        self.evict(&mut state);
        Ok(())
    }

    /// Removes all entries behind `last`. False if there are none, and nobody will be told.
    pub(crate) fn truncate(
        self: &Arc<Self>,
        writer: &Writer,
        last: Option<LogId>,
        done: Done,
    ) -> Result<bool, StoreError> {
        let mut state = self.state.lock();
        self.ensure_live(&state)?;
        let from = last.as_ref().map_or(0, |last| last.index + 1).max(state.first);
        if from >= state.next {
            return Ok(false);
        }
        let change = Change::Truncate { from, to: state.next, generation: state.truncations + 1 };
        writer.push([self.op(change, done)])?;

        let kept = if from > state.first { last } else { state.purged };
        let removed = state.next - from;
        self.forget(&mut state, removed);
        state.truncations += 1;
        state.cuts += 1;
        state.last = kept;
        state.next = from;
        state.stored = state.stored.min(from);
        if from < state.tail_first {
            state.tail_first = from;
        }
        let keep = (from - state.tail_first) as usize;
        let cut: usize = state.tail.drain(keep..).map(|bytes| bytes.len()).sum();
        self.uncharge(&mut state, cut);
        Ok(true)
    }

    /// Removes all entries up to `upto`; if that is beyond the log, the log goes on behind it.
    pub(crate) fn purge(self: &Arc<Self>, writer: &Writer, upto: LogId) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        self.ensure_live(&state)?;
        if state.purged.as_ref().is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        let start = upto.index + 1;
        let (from, to) = (state.first, state.next.min(start).max(state.first));
        // The purge point first: should the deletions be lost, the entries are known to be gone.
        let mut ops = vec![self.op(Change::Purged(upto), Done::Lazy)];
        ops.extend(self.deletion(from, to));
        writer.push(ops)?;

        self.forget(&mut state, to - from);
        state.cuts += 1;
        state.purged = Some(upto);
        state.first = start;
        if start > state.tail_first {
            let count = (start - state.tail_first).min(state.tail.len() as u64) as usize;
            let cut: usize = state.tail.drain(..count).map(|bytes| bytes.len()).sum();
            self.uncharge(&mut state, cut);
            state.tail_first = start;
            state.stored = state.stored.max(start);
        }
        if start >= state.next {
            (state.next, state.last) = (start, Some(upto));
        }
        Ok(())
    }

    /// Keeps the pointer for the next batch.
    pub(crate) fn save_committed(
        self: &Arc<Self>,
        writer: &Writer,
        committed: Option<LogId>,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        self.ensure_live(&state)?;
        state.committed = committed;
        if committed.is_some() && !state.committed_noted {
            writer.note_committed(self.clone())?;
            state.committed_noted = true;
        }
        Ok(())
    }

    pub(crate) fn save_vote(
        self: &Arc<Self>,
        writer: &Writer,
        vote: Vote,
        done: Done,
    ) -> Result<(), StoreError> {
        let state = self.state.lock();
        self.ensure_live(&state)?;
        writer.push([self.op(Change::Vote(vote), done)])
    }

    /// Finds the part of `start..end` that the log holds.
    pub(crate) fn plan(&self, start: u64, end: u64) -> Result<Plan, StoreError> {
        let state = self.state.lock();
        self.ensure_live(&state)?;
        let start = start.max(state.first);
        let end = end.min(state.next).max(start);
        let split = state.tail_first.clamp(start, end);
        let skip = (split.max(state.tail_first) - state.tail_first) as usize;
        let hot = state.tail.iter().skip(skip).take((end - split) as usize).cloned().collect();
        Ok(Plan { cold: start..split, hot, cuts: state.cuts })
    }

    /// True if nothing was removed since the plan was made.
    pub(crate) fn still_holds(&self, plan: &Plan) -> Result<bool, StoreError> {
        self.read(|state| state.cuts == plan.cuts)
    }

    /// The writer has put all entries before `upto` into RocksDB, as of that many truncations.
    pub(crate) fn stored(&self, truncations: u64, upto: u64) {
        let mut state = self.state.lock();
        if state.truncations == truncations {
            state.stored = state.stored.max(upto);
            self.evict(&mut state);
        }
    }

    pub(crate) fn voted(&self, vote: Vote) {
        *self.vote.lock() = Some(vote);
    }

    pub(crate) fn written(&self, end: u64) {
        self.written.store(end, Ordering::Relaxed);
    }

    pub(crate) fn purged_to(&self, start: u64) {
        self.written.fetch_max(start, Ordering::Relaxed);
    }

    /// True once after the log of a dropped replica was opened.
    pub(crate) fn revive(&self) -> bool {
        self.tombstone.load(Ordering::Relaxed) && self.tombstone.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn take_committed(&self) -> Committed {
        let mut state = self.state.lock();
        match state.committed {
            Some(id) if !state.dropped => {
                if id.index >= self.written.load(Ordering::Relaxed) {
                    return Committed::Later;
                }
                state.committed_noted = false;
                Committed::Write(id)
            }
            _ => {
                state.committed_noted = false;
                Committed::Gone
            }
        }
    }

    /// Removes everything but the vote, and refuses all further calls.
    pub(crate) fn bury(self: &Arc<Self>, writer: &Writer, done: Done) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        // The tombstone comes first: whatever follows is repeated at open if it is lost.
        let mut ops = vec![self.op(Change::Drop, Done::Lazy)];
        ops.extend(self.deletion(state.first, state.next));
        if let Some(last) = ops.last_mut() {
            last.done = done;
        }
        writer.push(ops)?;
        state.dropped = true;
        state.tail.clear();
        let bytes = state.tail_bytes;
        self.uncharge(&mut state, bytes);
        Ok(())
    }

    /// Keeps no more in memory than the group's share.
    pub(crate) fn trim(&self) {
        self.evict(&mut self.state.lock());
    }

    fn ensure_live(&self, state: &State) -> Result<(), StoreError> {
        if state.dropped { Err(StoreError::Dropped(self.id)) } else { Ok(()) }
    }

    fn op(self: &Arc<Self>, change: Change, done: Done) -> Op {
        Op { group: Some(self.clone()), change, done }
    }

    fn deletion(self: &Arc<Self>, from: u64, to: u64) -> Option<Op> {
        (from < to).then(|| self.op(Change::Delete { from, to }, Done::Lazy))
    }

    /// Takes the share of `count` entries off the estimate of bytes.
    fn forget(&self, state: &mut State, count: u64) {
        let entries = (state.next - state.first).max(1);
        let share = u128::from(state.bytes) * u128::from(count) / u128::from(entries);
        state.bytes = state.bytes.saturating_sub(share as u64);
    }

    fn evict(&self, state: &mut State) {
        let share = self.budget.share_bytes();
        let mut cut = 0;
        while state.tail_bytes - cut > share && state.tail_first < state.stored {
            let Some(bytes) = state.tail.pop_front() else { break };
            state.tail_first += 1;
            cut += bytes.len();
        }
        self.uncharge(state, cut);
    }

    fn uncharge(&self, state: &mut State, bytes: usize) {
        state.tail_bytes -= bytes;
        self.budget.release(bytes);
    }
}

impl Drop for LogGroup {
    fn drop(&mut self) {
        self.budget.leave();
        self.budget.release(self.state.get_mut().tail_bytes);
    }
}
