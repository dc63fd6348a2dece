//! What openraft asks of a log: [`GroupLog`] is both its `RaftLogStorage` and its `RaftLogReader`.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use rocksdb::{DB, ReadOptions};
use tokio::sync::oneshot;

use crate::entry::{self, ENTRY_OVERHEAD_BYTES};
use crate::error::StoreError;
use crate::keys::LogKey;
use crate::log::LogGroup;
use crate::store::Inner;
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::writer::Done;

/// Entries that a bounded read returns, in bytes; at least one entry in any case.
const READ_MAX_BYTES: usize = 1 << 20;
/// Entries that a bounded read returns at most.
const READ_MAX_ENTRIES: u64 = 1 << 10;

/// One group's log. Clones are the same log; only one of them may write.
#[derive(Clone)]
pub struct GroupLog {
    store: Arc<Inner>,
    group: Arc<LogGroup>,
}

impl GroupLog {
    pub(crate) fn new(store: Arc<Inner>, group: Arc<LogGroup>) -> GroupLog {
        GroupLog { store, group }
    }

    /// The group's number.
    pub fn group(&self) -> u64 {
        self.group.id
    }

    /// Reads the entries of `start..end` that the log holds, without a hole; with `bounded`, it may
    /// stop early, but not before the first one.
    async fn entries(&self, start: u64, end: u64, bounded: bool) -> Result<Vec<Entry>, StoreError> {
        let max_bytes = if bounded { READ_MAX_BYTES } else { usize::MAX };
        let end = if bounded { end.min(start.saturating_add(READ_MAX_ENTRIES)) } else { end };
        loop {
            let plan = self.group.plan(start, end)?;
            let mut encoded = Vec::new();
            let mut bytes = 0;
            if !plan.cold.is_empty() {
                let (db, id, range) = (self.store.log_db.clone(), self.group.id, plan.cold.clone());
                let read = tokio::task::spawn_blocking(move || read_cold(&db, id, range, max_bytes));
                let read = read.await.map_err(|error| StoreError::Engine {
                    verb: "read the log",
                    reason: error.to_string(),
                })?;
                // What was read while entries were removed may be of two logs: read again.
                if !self.group.still_holds(&plan)? {
                    continue;
                }
                encoded = read?;
                bytes = encoded.iter().map(Bytes::len).sum();
                if bytes < max_bytes && encoded.len() as u64 != plan.cold.end - plan.cold.start {
                    return Err(StoreError::Corrupt { what: "a log", reason: "entries are missing in it" });
                }
            }
            for entry in plan.hot {
                if bytes >= max_bytes {
                    break;
                }
                bytes += entry.len();
                encoded.push(entry);
            }
            return encoded.iter().map(entry::decode).collect();
        }
    }
}

/// Encodes entries into one buffer, to be shared by the writer and the tail: bytes kept in memory
/// are then counted exactly, and never pin the network buffer that a command came in.
fn encode_all(entries: Vec<Entry>) -> Vec<(LogId, Bytes)> {
    let command_bytes = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        _ => 0,
    };
    let size = entries.iter().map(|entry| command_bytes(entry) + ENTRY_OVERHEAD_BYTES).sum();
    let mut buffer = Vec::with_capacity(size);
    let mut ends = Vec::with_capacity(entries.len());
    for entry in entries {
        entry::encode(&entry, &mut buffer);
        ends.push((entry.log_id, buffer.len()));
    }
    let buffer = Bytes::from(buffer);
    let mut start = 0;
    let slice = |(id, end)| {
        let bytes = buffer.slice(start..end);
        start = end;
        (id, bytes)
    };
    ends.into_iter().map(slice).collect()
}

fn read_cold(db: &DB, group: u64, range: Range<u64>, max_bytes: usize) -> Result<Vec<Bytes>, StoreError> {
    let mut read = ReadOptions::default();
    // A lower bound keeps the seek from walking over the tombstones of purged entries.
    read.set_iterate_lower_bound(LogKey::Entry(group, range.start).encode());
    read.set_iterate_upper_bound(LogKey::Entry(group, range.end).encode());
    // Read once, by a follower that lags or a replay: not worth a place in the cache.
    read.fill_cache(false);
    let mut iter = db.raw_iterator_opt(read);
    let mut entries = Vec::new();
    let mut bytes = 0;
    iter.seek_to_first();
    while let Some((key, value)) = iter.item()
        && bytes < max_bytes
    {
        let expected = range.start + entries.len() as u64;
        if LogKey::decode(key) != Some(LogKey::Entry(group, expected)) {
            break;
        }
        bytes += value.len();
        entries.push(Bytes::copy_from_slice(value));
        iter.next();
    }
    iter.status().map_err(StoreError::engine("read the log"))?;
    Ok(entries)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        Ok(self.entries(start, end, false).await?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.entries(start, end, true).await?)
    }

    /// Reads in bounded steps: a replay of a long log does not hold it in memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let step = move |(log, next): (GroupLog, u64)| async move {
            if next >= end {
                return None;
            }
            let (entries, next) = match log.entries(next, end, true).await {
                // At the end of what the log holds, or of the range.
                Ok(entries) if entries.is_empty() => return None,
                Ok(entries) => {
                    let next = entries.last().map_or(end, |entry| entry.log_id.index + 1);
                    (entries.into_iter().map(Ok).collect(), next)
                }
                Err(error) => (vec![Err(io::Error::from(error))], end),
            };
            Some((stream::iter(entries), (log, next)))
        };
        stream::unfold((self.clone(), start), step).flatten().boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.group.vote())
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = GroupLog;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state =
            self.group.read(|state| LogState { last_purged_log_id: state.purged, last_log_id: state.last });
        Ok(state?)
    }

    async fn get_log_reader(&mut self) -> GroupLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        self.group.save_vote(&self.store.writer, *vote, Done::Task(sender))?;
        Ok(receiver.await.unwrap_or(Err(StoreError::Closed))?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.group.save_committed(&self.store.writer, committed)?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.group.read(|state| state.committed)?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = encode_all(entries.into_iter().collect());
        let bytes = entries.iter().map(|(_, bytes)| bytes.len()).sum();
        let room = self.store.writer.reserve(bytes).await?;
        Ok(self.group.append(&self.store.writer, entries, room, Done::Flushed(callback))?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        if self.group.truncate(&self.store.writer, last_log_id, Done::Task(sender))? {
            receiver.await.unwrap_or(Err(StoreError::Closed))?;
        }
        Ok(())
    }

    /// Refuses to purge what the state machine has not applied; flushes it first if that is all
    /// that is missing.
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.store.data.make_durable(self.group.id, log_id.index).await?;
        Ok(self.group.purge(&self.store.writer, log_id)?)
    }
}
