//! The writer without a thread of its own: the program says when the disk has done its work. For
//! simulations, whose clock must not run on while a thread works, and whose disks are slow, stand
//! still and lose what was not synced when the simulation says so.
//!
//! What the thread promises holds here too: one FIFO, one batch and one sync, then the callbacks.

use std::collections::VecDeque;

use super::{FailRest, InFlight, Op, Writer};

/// What waits to be written to a log that no thread writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Operations that somebody waits for: they will be synced.
    pub urgent: usize,
    /// Those that go with the next sync, or without one.
    pub lazy: usize,
    /// Syncs so far. Some are made without a step: whoever blocks until a write is done does it itself.
    pub syncs: u64,
    /// Where the WAL ends: the number of its last file, and bytes in that.
    pub wal_end: (u64, u64),
}

impl Writer {
    pub(crate) fn pending(&self) -> Pending {
        let (urgent, lazy) = {
            let queue = self.queue.lock();
            (queue.urgent, queue.ops.len() - queue.urgent + queue.committed.len())
        };
        Pending { urgent, lazy, syncs: self.counters.syncs(), wal_end: self.log.lock().end() }
    }

    /// Writes what waits, at most `most` operations, in the order in which they came. True if that was
    /// synced. Nothing happens where a thread writes.
    pub(crate) fn step(&self, most: usize) -> bool {
        let Some(turn) = &self.by_hand else { return false };
        let _turn = turn.lock();
        let (ops, committed) = {
            let mut queue = self.queue.lock();
            let count = most.min(queue.ops.len());
            let ops: VecDeque<Op> = queue.ops.drain(..count).collect();
            queue.urgent -= ops.iter().filter(|op| !op.done.is_lazy()).count();
            (ops, std::mem::take(&mut queue.committed))
        };
        let syncs = ops.iter().any(|op| !op.done.is_lazy());
        let mut batch = InFlight { writer: self, ops };
        let result = self.write(batch.ops.make_contiguous(), committed);
        while let Some(op) = batch.ops.pop_front() {
            self.complete(op, result.clone());
        }
        if result.is_err() {
            drop(FailRest(self));
        }
        syncs && result.is_ok()
    }

    /// To be called by whoever is about to block until an operation is done: where no thread writes,
    /// everything that waits is written now.
    pub(crate) fn help(&self) {
        self.step(usize::MAX);
    }
}
